//! Unpublished writes to a sleeping home.
//!
//! ```text
//! draft      opening, publishing, throwing away
//!   state    what is noted of it on disk
//!   ground   what it stands on, and keeping that
//! ```
//!
//! A draft is the engine on a directory of its own, begun on a published commit, without a claim.
//! Its changes are durable on this host and nowhere else until [`Draft::publish`].
//!
//! # Order of publishing
//! Let no more changes in; seal; store packs and chunks; note that the commit may be on its way;
//! create it on top of the commit that the draft began on, as a claim and a release in one. While
//! its fate is unknown the draft takes no changes, also after a restart, and publishing again
//! finds out: the nonce tells our commit from any other.
//!
//! # Failure
//! Where the home moved, nothing is published and the draft goes on. Objects it stored stay
//! behind; they are only names that nothing uses. What the draft holds is still here, also what it
//! sealed, and what it stands on is kept ([`ground`]): so its changes can be carried over.

pub(crate) mod ground;
mod state;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use self::ground::Ground;
use self::state::State;
use crate::changes;
use crate::data::objects::Objects;
use crate::engine::{Engine, Gate, Open};
use crate::error::{Error, Result};
use crate::forward::forward_file_system;
use crate::home::lock;
use crate::layout::HomeDir;
use crate::limits::HOME_BLOCK_BYTES;
use crate::meta::arrange::arrange;
use crate::meta::counters::Counters;
use crate::meta::schema;
use crate::meta::sql::{self, uint};
use crate::nearby;
use crate::opening::Opening;
use crate::replica::append::Commit;
use crate::replica::collect::Full;
use crate::replica::error::Error as LogError;
use crate::replica::header::Nonce;
use crate::replica::log::Log;
use crate::replica::pages::{DatabaseFile, differing_pages};
use crate::settings::{HomeSettings, Parts, PathChange, Published, Step};
use crate::upload::{Pending, Uploaded};

/// Unpublished writes to a sleeping home.
#[derive(Debug)]
pub struct Draft {
    engine: Arc<Engine>,
    log: Log,
    dir: HomeDir,
    settings: HomeSettings,
    parts: Parts,
    state: Arc<Mutex<State>>,
    _lock: fs::File,
}

impl Draft {
    /// Opens the draft in `settings.dir`, or begins one on the newest commit.
    ///
    /// # Errors
    /// `NotFound` where there is no such home; `Conflict` where another process has the directory
    /// open; those of the store and of the disk.
    pub fn open(settings: HomeSettings, parts: Parts) -> Result<Self> {
        let dir = HomeDir::new(&settings.dir);
        fs::create_dir_all(dir.root()).map_err(Error::local("make"))?;
        let lock = lock(&dir)?;
        let log = Log::new(parts.store.clone(), parts.clock.clone(), settings.home.clone());
        let state = match state::load(&dir)? {
            Some(state) if state.home == settings.home => {
                match &state.origins {
                    Some(origins) => log.keys().learn_origins(origins),
                    None => drop(parts.runtime.block_on(log.head(Some(state.seq)))?),
                }
                state
            }
            Some(_) => {
                return Err(Error::Damaged { what: "the draft is one of another home".into() });
            }
            None => begin(&dir, &log, &parts)?,
        };
        let objects =
            Objects::new(dir.clone(), log.reader(), parts.runtime.clone(), HOME_BLOCK_BYTES);
        let (engine, _) = Engine::open(Open {
            held: settings.held.clone(),
            keep_unnamed: settings.keep_unnamed,
            unreplicated_bytes_max: u64::MAX,
            objects,
            bytes_max: settings.bytes_max,
            clean: false,
            clock: parts.clock.clone(),
            entropy: parts.entropy.clone(),
            on_commit: Box::new(|| {}),
            inodes_cached: settings.inodes_cached,
            opening: settings.opening.clone(),
        })?;
        if state.publishing || state.published.is_some() {
            engine.set_gate(Gate::Closed);
        }
        let (engine, state) = (Arc::new(engine), Arc::new(Mutex::new(state)));
        let first_own = schema::open_immutable(&base_path(&dir))
            .and_then(|conn| Counters::load(&conn).map(|counters| counters.next_ino))?;
        engine.set_ground(Ground::new(
            log.reader(),
            parts.clone(),
            dir.clone(),
            state.clone(),
            first_own,
        ));
        Ok(Self { engine, log, dir, settings, parts, state, _lock: lock })
    }

    /// True where `dir` holds a draft that was not published.
    #[must_use]
    pub fn exists(dir: impl AsRef<Path>) -> bool {
        let state = state::load(&HomeDir::new(dir.as_ref()));
        state.is_ok_and(|state| state.is_some_and(|state| state.published.is_none()))
    }

    /// Throws the draft in `dir` away. None there is no error. Blocks.
    ///
    /// Where the store does not answer, what it keeps for the draft goes when the next one is begun
    /// here, or with its age.
    ///
    /// # Errors
    /// `Conflict` where it is open; those of the disk.
    pub fn discard(dir: impl AsRef<Path>, parts: &Parts) -> Result<()> {
        let dir = HomeDir::new(dir.as_ref());
        if !dir.root().exists() {
            return Ok(());
        }
        let _lock = lock(&dir)?;
        state::discard(&dir)?;
        let is_clean = let_go_of_remains(&dir, parts);
        state::clear(&dir, is_clean)
    }

    /// The commit that the draft began on.
    #[must_use]
    pub fn base_seq(&self) -> u64 {
        self.state.lock().seq
    }

    /// True where it was published and only waits to be thrown away.
    #[must_use]
    pub fn is_published(&self) -> bool {
        self.state.lock().published.is_some()
    }

    /// Makes all of the draft visible in one conditional write, if the home has not moved. The
    /// draft takes no changes while this runs, and none once it is published.
    ///
    /// # Errors
    /// `Fenced` where a server holds the home; those of the store. Calling again is safe.
    pub fn publish(&self) -> Result<Published> {
        self.publish_announced(0, &|_| ())
    }

    /// [`publish`](Self::publish), and tells what it is about to make of the home, just before the commit
    /// is created: whether it comes to be, the home's version tells afterwards. Nothing is told where
    /// more than `touched_max` names or inodes changed.
    ///
    /// # Errors
    /// Those of [`publish`](Self::publish).
    pub fn publish_announced(&self, touched_max: u64, tell: &dyn Fn(Step)) -> Result<Published> {
        let mut state = self.state.lock();
        if let Some((seq, epoch)) = state.published {
            return Ok(Published::Committed { seq, epoch });
        }
        self.engine.set_gate(Gate::Closed);
        let outcome = self.publish_closed(&mut state, touched_max, tell);
        let in_doubt = state.publishing;
        if !in_doubt && state.published.is_none() {
            self.engine.set_gate(Gate::Open);
        }
        outcome
    }

    fn publish_closed(
        &self,
        state: &mut State,
        touched_max: u64,
        tell: &dyn Fn(Step),
    ) -> Result<Published> {
        if !state.publishing
            && let Some(head) = self.parts.runtime.block_on(self.moved_to(state.seq))?
        {
            // Before anything is stored for nothing.
            return Ok(Published::Moved { draft_base: state.seq, head });
        }
        let commit = self.prepare(state)?;
        if touched_max > 0
            && let Some(step) = self.step(touched_max)?
        {
            tell(step);
        }
        state.publishing = true;
        state::save(&self.dir, state)?;
        let holder = self.settings.holder.clone();
        let publish = self.log.publish(state.seq, commit, holder, state.nonce.0);
        match self.parts.runtime.block_on(publish) {
            Ok((seq, epoch)) => {
                state.published = Some((seq, epoch));
                state::save(&self.dir, state)?;
                self.let_go(state);
                Ok(Published::Committed { seq, epoch })
            }
            Err(error @ (LogError::Store(_) | LogError::InDoubt { .. })) => Err(error.into()),
            Err(error) => {
                // Nothing was written, so the next attempt is another one.
                state.publishing = false;
                state.nonce = Nonce(self.parts.entropy.nonce());
                state::save(&self.dir, state)?;
                match error {
                    LogError::Moved { found, .. } => {
                        Ok(Published::Moved { draft_base: state.seq, head: found })
                    }
                    error => Err(error.into()),
                }
            }
        }
    }

    /// The head, where it is not `seq` any more as far as one small request tells.
    async fn moved_to(&self, seq: u64) -> Result<Option<u64>, LogError> {
        match self.log.store().head(&self.log.keys().log(seq + 1)).await {
            Ok(_) => Ok(self.log.head(Some(seq + 1)).await?.map(|head| head.seq)),
            Err(objstore::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Seals and stores everything but the commit.
    fn prepare(&self, state: &State) -> Result<Commit> {
        let dirty = self.engine.read_database(|conn| {
            sql::all(conn, "SELECT ino FROM dirty_inode", [], |r| uint(r, 0))
        })?;
        self.engine.seal(dirty, state.epoch.next().0)?;
        let mut pending =
            self.engine.front.readers.consistent(|conn| Pending::load(conn, 0, &|_| false))?;
        let seq = state.seq + 1;
        let (objects, pressure) = (&self.engine.objects, &self.engine.pressure);
        let uploaded = Uploaded::default();
        let stored = pending.store(&self.log, objects, seq, &uploaded, pressure);
        self.parts.runtime.block_on(stored)?;
        self.engine.writer.run(move |tx| {
            tx.counters.store_seq = seq;
            pending.mark_stored(tx, seq)
        })?;
        self.engine.sync_here()?;
        let view = Arc::new(self.engine.writer.between(|thread| thread.capture())?.view);
        let base = DatabaseFile::open(&base_path(&self.dir))?;
        let differing = differing_pages(&base, view.as_ref())?.into_iter().collect();
        let full = Full { source: view, above: state.seq, changed: Some(differing), born: seq };
        let pages = self.parts.runtime.block_on(self.log.collect_full(full, arrange))?;
        Ok(Commit { pages, data: Bytes::new(), release: true })
    }

    /// What the draft, which is closed, makes of the state that it began on. Nothing where that state has
    /// content that only its own host has, of files without a name that somebody holds: they are empty
    /// here, and who holds them must not go on upon that.
    fn step(&self, touched_max: u64) -> Result<Option<Step>> {
        let base = base_path(&self.dir);
        let conn = schema::open_immutable(&base)?;
        if sql::first(&conn, "SELECT 1 FROM dirty_inode LIMIT 1", [], |_| Ok(()))?.is_some() {
            return Ok(None);
        }
        let touched = changes::touched::between(&base, &self.dir.database(), touched_max)?;
        let from = Counters::load(&conn)?.version;
        let to = self.engine.writer.version();
        Ok(touched.map(|touched| Step { from, to, touched }))
    }

    /// A published draft stands on nothing any more.
    fn let_go(&self, state: &mut State) {
        let Some(pin) = state.pin else { return };
        let unpinned = self.parts.runtime.block_on(self.log.unpin(&ground::kind(pin.id)));
        let noted = unpinned.map_err(Error::from).and_then(|()| {
            state.pin = None;
            state::save(&self.dir, state)
        });
        if let Err(error) = noted {
            tracing::warn!(%error, "what was kept for a published draft stays until it is cleared");
        }
    }

    /// Every path that the draft changed, in order.
    ///
    /// # Errors
    /// Those of the local disk.
    pub fn changes(&self) -> Result<Vec<PathChange>> {
        self.engine.writer.drain()?;
        Ok(changes::between(&base_path(&self.dir), &self.dir.database())?)
    }

    /// How many paths the draft changed.
    ///
    /// # Errors
    /// Those of the local disk.
    pub fn changed(&self) -> Result<u64> {
        self.engine.writer.drain()?;
        Ok(changes::count(&base_path(&self.dir), &self.dir.database())?)
    }

    fn tree(&self) -> &Engine {
        &self.engine
    }
}

forward_file_system!(Draft);

/// Begins a draft on the newest commit. The state is written last: without it there is no draft.
fn begin(dir: &HomeDir, log: &Log, parts: &Parts) -> Result<State> {
    if let_go_of_remains(dir, parts) {
        state::forget(dir)?;
    }
    let head = parts.runtime.block_on(log.head(None))?;
    let no_home = || Error::NoSuchHome { home: log.keys().home().clone() };
    let head = head.filter(|head| head.page_count > 0).ok_or_else(no_home)?;
    for path in [dir.spool_dir(), dir.packs_dir(), dir.chunks_dir()] {
        match fs::remove_dir_all(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::local("clear")(error));
            }
            _ => {}
        }
    }
    crate::lineage::remove_log(dir)?;
    let base = base_path(dir);
    parts.runtime.block_on(nearby::fetch(log, &head, &base, None, &Opening::default()))?;
    nearby::copy(&base, &dir.database())?;
    let state = State {
        format: state::FORMAT,
        home: log.keys().home().clone(),
        seq: head.seq,
        epoch: head.epoch,
        nonce: Nonce(parts.entropy.nonce()),
        publishing: false,
        published: None,
        origins: Some(head.descent.origins),
        pin: None,
    };
    state::save(dir, &state)?;
    Ok(state)
}

/// The database as it was when the draft began.
fn base_path(dir: &HomeDir) -> PathBuf {
    dir.root().join("base.db")
}

/// Lets go of what is kept for a draft that was thrown away here; false where the store does not
/// answer.
fn let_go_of_remains(dir: &HomeDir, parts: &Parts) -> bool {
    let Some((remains, pin)) = state::remains(dir).and_then(|state| Some((state.home, state.pin?)))
    else {
        return true;
    };
    let log = parts.log(&remains);
    match parts.runtime.block_on(log.unpin(&ground::kind(pin.id))) {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(home = %remains, %error, "what was kept for a draft stays for now");
            false
        }
    }
}
