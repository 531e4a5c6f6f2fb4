//! Homes that nobody is awake in: their published state, their drafts.
//!
//! # Bounds
//! At most [`OPEN_MAX`] snapshots and drafts stay open between calls ([`crate::opened`]). A draft that is
//! closed loses nothing: it is on disk.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use base::{Clock, Entropy, HomeId, ServerId, SnapshotId};
use control::files::{ByteStream, FileCalls};
use control::homes::{
    DraftChanges, DraftPublished, HomeAt, HomeCollected, HomeHead, HomeSnapshot, HomeState, Homes,
};
use control::{Error, Result};
use homefs::{Draft, HomeFs, HomeSettings, Parts, Published, Snapshot, Step};
use keeper::files::{Files, Lane, stream};
use keeper::layout::MachineDir;
use keeper::meanwhile::{self, TOUCHED_MAX};
use objstore::ObjectStore;
use parking_lot::Mutex;
use vfs::Touched;
use vfs::path::TreePath;
use vfs::tar::{Bundle, ImportOptions};

use crate::convert;
use crate::files::Calls;
use crate::opened::Opened;

/// Homes kept open between calls.
const OPEN_MAX: usize = 128;

/// What the binary decides.
#[derive(Debug, Clone)]
pub struct LocalHomesSettings {
    /// Which server this is.
    pub server: ServerId,
    /// Where homes are.
    pub store: Arc<dyn ObjectStore>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
}

/// Sleeping homes, opened in this process.
#[derive(Debug)]
pub struct LocalHomes {
    settings: LocalHomesSettings,
    snapshots: Opened<Snapshot>,
    drafts: Opened<Draft>,
    /// Of drafts; nothing is lost where one is made anew.
    lanes: Opened<Lane>,
}

impl LocalHomes {
    /// Homes in the store of `settings`.
    #[must_use]
    pub fn new(settings: LocalHomesSettings) -> Self {
        let (snapshots, drafts) = (Opened::new(OPEN_MAX), Opened::new(OPEN_MAX));
        Self { settings, snapshots, drafts, lanes: Opened::new(OPEN_MAX) }
    }

    fn parts(&self) -> Parts {
        Parts {
            store: self.settings.store.clone(),
            clock: self.settings.clock.clone(),
            entropy: self.settings.entropy.clone(),
            runtime: tokio::runtime::Handle::current(),
        }
    }

    fn home_settings(&self, at: &HomeAt, dir: PathBuf) -> HomeSettings {
        HomeSettings {
            bytes_max: at.bytes_max,
            ..HomeSettings::new(at.home.clone(), dir, self.settings.server.clone())
        }
    }

    async fn snapshot(&self, at: &HomeAt) -> Result<Arc<Snapshot>> {
        let (home, dir, parts) = (at.home.clone(), dir(at).snapshot(), self.parts());
        let open = blocking(move || Snapshot::open_published(home, dir, parts));
        let (snapshot, is_new) = self.snapshots.get_or_open(&at.home, open).await?;
        if !is_new {
            let refreshed = snapshot.clone();
            blocking(move || refreshed.refresh().map(drop)).await?;
        }
        Ok(snapshot)
    }

    async fn open_draft(&self, at: &HomeAt) -> Result<Arc<Draft>> {
        let (mut settings, parts) = (self.home_settings(at, dir(at).draft()), self.parts());
        let dir = dir(at);
        let open = blocking(move || {
            settings.held = meanwhile::held(&dir);
            let draft = Draft::open(settings.clone(), parts.clone())?;
            if !draft.is_published() {
                return Ok(draft);
            }
            // The server ended between publishing and throwing away.
            drop(draft);
            Draft::discard(&settings.dir, &parts)?;
            Draft::open(settings, parts)
        });
        Ok(self.drafts.get_or_open(&at.home, open).await?.0)
    }

    /// Closes what is open of a home, so that its directories can go.
    fn close(&self, home: &HomeId) {
        self.snapshots.close(home);
        self.drafts.close(home);
        self.lanes.close(home);
    }
}

fn kept(info: homefs::SnapshotInfo) -> HomeSnapshot {
    HomeSnapshot { id: info.id, name: info.name, time: info.time, damaged: None }
}

fn listed(one: homefs::Listed) -> HomeSnapshot {
    match one {
        homefs::Listed::Whole(info) => kept(info),
        homefs::Listed::Damaged { id, why } => HomeSnapshot::damaged(id, why),
    }
}

fn state(kept: homefs::KeptState) -> HomeState {
    HomeState { epoch: kept.epoch, released: kept.released }
}

/// What either touched; `None` where that is more than a sleeper can be told.
fn both(mut all: Touched, more: &Touched) -> Option<Touched> {
    all.entries.extend_from_slice(&more.entries);
    all.inodes.extend_from_slice(&more.inodes);
    (all.entries.len().max(all.inodes.len()) as u64 <= TOUCHED_MAX).then_some(all)
}

/// Leaves word of a step for a machine that sleeps with its memory.
fn noted(dir: &MachineDir, step: Step) {
    if let Err(error) = meanwhile::note(dir, step) {
        tracing::warn!(%error, "what was changed cannot be noted; the machine boots when it wakes");
    }
}

fn dir(at: &HomeAt) -> MachineDir {
    MachineDir::new(&at.dir)
}

/// Runs work on a home where it may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, homefs::Error> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Error::internal(format!("work on a home ended early: {error}")))?
        .map_err(convert::home_error)
}

#[async_trait]
impl Homes for LocalHomes {
    async fn create(&self, home: &HomeId) -> Result<()> {
        homefs::create_home(&self.parts(), home, &self.settings.server)
            .await
            .map_err(convert::home_error)
    }

    async fn delete(&self, at: &HomeAt) -> Result<()> {
        self.close(&at.home);
        let (parts, home) = (self.parts(), at.home.clone());
        blocking(move || parts.runtime.block_on(homefs::delete_home(&parts, &home))).await
    }

    async fn head(&self, home: &HomeId) -> Result<Option<HomeHead>> {
        let head = homefs::head(&self.parts(), home).await.map_err(convert::home_error)?;
        Ok(head.map(|head| HomeHead {
            seq: head.seq,
            epoch: head.epoch,
            released: head.released,
            holder: head.holder,
            time: head.time,
        }))
    }

    async fn collect(&self, at: &HomeAt) -> Result<HomeCollected> {
        let (parts, home) = (self.parts(), at.home.clone());
        let scratch = at.dir.join("collect");
        let done = blocking(move || {
            let done = parts.runtime.block_on(homefs::collect(&parts, &home, &scratch));
            std::fs::remove_dir_all(&scratch).ok();
            done
        })
        .await?;
        let homefs::Collected { objects, bytes, again_after } = done;
        Ok(HomeCollected { objects, bytes, again_after })
    }

    async fn published(&self, at: &HomeAt) -> Result<Arc<dyn FileCalls>> {
        let snapshot = self.snapshot(at).await?;
        Ok(Arc::new(Calls::Here(Files::new(snapshot))))
    }

    async fn has_draft(&self, at: &HomeAt) -> bool {
        Draft::exists(dir(at).draft())
    }

    async fn draft(&self, at: &HomeAt) -> Result<Arc<dyn FileCalls>> {
        let draft = self.open_draft(at).await?;
        let (lane, _) = self.lanes.get_or_open(&at.home, async { Ok(Lane::default()) }).await?;
        Ok(Arc::new(Calls::Here(Files::new(draft).with_lane(lane))))
    }

    async fn publish(&self, at: &HomeAt) -> Result<DraftPublished> {
        let draft = self.open_draft(at).await?;
        let dir = dir(at);
        let published = blocking({
            let draft = draft.clone();
            move || {
                let changed = draft.changed()?;
                let touched_max = if meanwhile::remembers(&dir) { TOUCHED_MAX } else { 0 };
                let published = draft.publish_announced(touched_max, &|step| noted(&dir, step))?;
                Ok((changed, published))
            }
        })
        .await?;
        match published {
            (_, Published::Moved { .. }) => Ok(DraftPublished::Moved),
            (changed, Published::Committed { seq, .. }) => {
                self.drafts.close(&at.home);
                drop(draft);
                // It is out, whatever becomes of what is left of it; the next opening looks again.
                if let Err(error) = self.discard(at).await {
                    tracing::warn!(home = %at.home, %error, "throw a published draft away");
                }
                Ok(DraftPublished::Committed { seq, changed })
            }
        }
    }

    async fn changes(&self, at: &HomeAt) -> Result<DraftChanges> {
        let draft = self.open_draft(at).await?;
        let from = draft.clone();
        let changes = blocking(move || from.changes()).await?;
        let mut removed = Vec::new();
        let mut listed = Vec::new();
        let mut bases = Vec::new();
        for change in changes {
            let path = change.path.join(&b'/');
            bases.push((
                path.clone(),
                change.base.map(|(ino, version)| format!("{ino:x}-{version:x}")),
            ));
            match change.now {
                None => removed.push(path),
                Some(attr) => listed.push((path, attr)),
            }
        }
        let changed = listed.iter().map(|(path, _)| path.clone()).collect();
        Ok(DraftChanges { removed, changed, bases, tar: tar_of(draft, listed) })
    }

    async fn apply(&self, at: &HomeAt, changes: DraftChanges) -> Result<()> {
        // Before the home is claimed: from then on nothing may return without giving it up.
        let removals = convert::removals(&changes.removed)?;
        let (mut settings, parts) = (self.home_settings(at, dir(at).home()), self.parts());
        let dir = dir(at);
        let from = dir.clone();
        let (home, opened) = blocking(move || {
            settings.held = meanwhile::held(&from);
            HomeFs::open_writer(settings, parts)
        })
        .await?;
        let home = Arc::new(home);
        let touched = Arc::new(Mutex::new(Some(Touched::default())));
        let collected = touched.clone();
        let options = ImportOptions { keep_owner: true, outside_links: true };
        let applied = Files::new(home.clone())
            .with_on_change(Arc::new(move |touched: &Touched| {
                let mut all = collected.lock();
                *all = all.take().and_then(|all| both(all, touched));
            }))
            .import_tar(&TreePath::root(), changes.tar, removals, options)
            .await
            .map_err(convert::failure);
        // What failed in its middle has changed who knows what, and so has a mended home.
        let known = applied.is_ok() && opened.files_reverted == 0;
        // Released either way: a writer that stays would keep everybody else out.
        let released = blocking(move || {
            home.release()?;
            // Giving it up is a step of its own, so this is known no sooner. A sleeper that was not told
            // of it boots.
            let touched = touched.lock().take().filter(|_| known);
            if let Some(touched) = touched {
                noted(&dir, Step { from: opened.version, to: home.version(), touched });
            }
            Ok(())
        })
        .await;
        applied.map(drop).and(released)
    }

    async fn discard(&self, at: &HomeAt) -> Result<()> {
        self.drafts.close(&at.home);
        let (dir, parts) = (dir(at).draft(), self.parts());
        blocking(move || Draft::discard(dir, &parts)).await
    }

    fn check_snapshot_name(&self, name: Option<&str>) -> Result<()> {
        homefs::check_snapshot_name(name).map_err(convert::home_error)
    }

    async fn snapshot(
        &self,
        home: &HomeId,
        id: &SnapshotId,
        name: Option<&str>,
    ) -> Result<(HomeSnapshot, HomeState)> {
        let made = homefs::snapshot(&self.parts(), home, id, name).await;
        made.map(|(info, of)| (kept(info), state(of))).map_err(convert::home_error)
    }

    async fn snapshots(&self, home: &HomeId) -> Result<Vec<HomeSnapshot>> {
        let (parts, home) = (self.parts(), home.clone());
        let found =
            blocking(move || parts.runtime.block_on(homefs::snapshots(&parts, &home))).await?;
        Ok(found.into_iter().map(listed).collect())
    }

    async fn snapshot_info(&self, home: &HomeId, id: &SnapshotId) -> Result<HomeSnapshot> {
        let found = homefs::snapshot_info(&self.parts(), home, id).await;
        found.map(kept).map_err(convert::home_error)
    }

    async fn delete_snapshot(&self, home: &HomeId, id: &SnapshotId) -> Result<()> {
        homefs::delete_snapshot(&self.parts(), home, id).await.map_err(convert::home_error)
    }

    async fn restore(&self, at: &HomeAt, id: &SnapshotId) -> Result<()> {
        let restored = homefs::restore(&self.parts(), &at.home, id, &self.settings.server).await;
        restored.map(drop).map_err(convert::home_error)
    }

    async fn hold_fork(
        &self,
        from: &HomeId,
        at: Option<&SnapshotId>,
        into: &HomeId,
    ) -> Result<HomeState> {
        let held = homefs::hold_fork(&self.parts(), from, at, into).await;
        held.map(state).map_err(convert::home_error)
    }

    async fn begin_fork(&self, from: &HomeId, into: &HomeId) -> Result<()> {
        let begun = homefs::begin_fork(&self.parts(), from, into, &self.settings.server).await;
        begun.map(drop).map_err(convert::home_error)
    }

    async fn abandon_fork(&self, from: &HomeId, into: &HomeId) -> Result<()> {
        let (parts, from, into) = (self.parts(), from.clone(), into.clone());
        blocking(move || parts.runtime.block_on(homefs::abandon_fork(&parts, &from, &into))).await
    }
}

/// The changed paths as a tar stream, read from the draft as it goes.
fn tar_of(draft: Arc<Draft>, listed: Vec<(Vec<u8>, vfs::Attr)>) -> ByteStream {
    stream::produced(move |sender| sender.send_bundle(Bundle::of_paths(&*draft, listed)))
}
