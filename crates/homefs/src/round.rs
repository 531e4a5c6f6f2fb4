//! One round of replication: everything up to one commit in the store.
//!
//! # Order
//! Settle a commit in doubt; seal; store packs and chunks; note in the database that they are
//! stored and which commit comes; capture the changed pages; sync the local disk; create the
//! commit. A step starts only when the one before is done, so a commit never names an object that
//! is not there, and the local directory is never behind the store.
//!
//! # Failure
//! Fenced is final. After anything else the round is run again from the start: what is stored is
//! not stored twice, and a commit whose fate is unknown is settled first. Once one that gives the home
//! up is confirmed, however late, every round answers with it and does nothing.

use std::sync::Arc;
use std::time::Duration;

use base::Epoch;
use bytes::Bytes;
use parking_lot::RwLockWriteGuard;
use rusqlite::Connection;
use tokio::sync::watch;
use vfs::{Errno, FsError, Ino, Result};

use crate::engine::Engine;
use crate::error::to_fs;
use crate::limits::{COMMIT_DATA_BYTES_MAX, RELEASE_DATA_BYTES_MAX};
use crate::meta::arrange::arrange;
use crate::meta::pages::{Captured, Changed};
use crate::meta::sql::{self, int, uint};
use crate::ops::remove;
use crate::replica::append::Commit;
use crate::replica::collect::{Full, Pages};
use crate::replica::log::Log;
use crate::replica::pages::PageSource as _;
use crate::upload::{self, LocalPack, Pending, Uploaded};
use crate::wal::PageView;
use crate::whole::{Noted, Patience, Whole};

/// How often a round begins anew for files that were named meanwhile, before it holds them up.
const OPEN_PASSES_MAX: u32 = 4;
/// How long the first of those wait; doubles with every pass after.
const HOLD_FIRST: Duration = Duration::from_secs(1);
/// How often it doubles before they wait for as long as it takes.
const HOLDS_MAX: u32 = 6;

/// What to seal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Which {
    /// Files that rest.
    Quiet,
    /// These.
    These(Vec<Ino>),
    /// All.
    All,
}

/// A commit that was sent to the store and not confirmed.
#[derive(Debug)]
struct InFlight {
    committed: u64,
    release: bool,
}

/// The commit that gave the home up.
#[derive(Debug, Clone, Copy)]
struct Released {
    seq: u64,
    committed: u64,
}

/// Runs rounds. One for each open home.
#[derive(Debug)]
pub(crate) struct Rounds {
    pub(crate) log: Log,
    pub(crate) epoch: u64,
    engine: Arc<Engine>,
    runtime: tokio::runtime::Handle,
    /// Becomes true when the home is closed: calls on the store are then broken off.
    closing: watch::Receiver<bool>,
    in_flight: Option<InFlight>,
    /// The home was given up.
    released: Option<Released>,
    /// What was stored and is not noted yet.
    uploaded: Uploaded,
}

/// What a round did.
#[derive(Debug)]
pub(crate) struct Done {
    /// The newest commit of ours.
    pub(crate) seq: u64,
    /// It gave the home up.
    pub(crate) released: bool,
    /// The last metadata transaction that is in the store.
    pub(crate) committed: u64,
    /// The state of the database in the newest commit, where it is still at hand.
    pub(crate) view: Option<Arc<PageView>>,
}

impl Rounds {
    /// `log` has claimed the home.
    pub(crate) fn new(
        log: Log,
        epoch: u64,
        engine: Arc<Engine>,
        runtime: tokio::runtime::Handle,
        closing: watch::Receiver<bool>,
    ) -> Self {
        Self {
            log,
            epoch,
            engine,
            runtime,
            closing,
            in_flight: None,
            released: None,
            uploaded: Uploaded::default(),
        }
    }

    /// Runs one round. `release` gives the home up with its commit.
    pub(crate) fn run(&mut self, which: &Which, release: bool) -> Result<Done> {
        self.settle()?;
        if let Some(Released { seq, committed }) = self.released {
            return Ok(Done { seq, released: true, committed, view: None });
        }
        let seq = self.log.next_seq().map_err(to_fs)?;
        let shared = self.engine.shared.clone();
        let (pending, rider, closed) = self.prepare(which, &shared.whole, seq, release)?;
        self.uploaded = Uploaded::default();
        self.engine.writer.run(move |tx| {
            if release {
                remove::free_orphans(tx)?;
            }
            tx.counters.store_seq = seq;
            pending.mark_stored(tx, seq)
        })?;
        let captured = self.engine.writer.between(|thread| thread.capture())?;
        drop(closed);
        // What the store has must be on this disk too, page for page: later deltas build on it.
        if let Err(error) = self.engine.durable.sync_database(&self.engine.writer) {
            let Captured { changed, .. } = captured;
            self.engine.writer.between(move |database| database.pages.give_back(changed))?;
            return Err(error);
        }
        self.commit(captured, rider, release)
    }

    /// To be called before a round that follows one which failed: ends with an error where the store
    /// is still away. What is sealed again meanwhile would fill the disk with one copy after another.
    pub(crate) fn try_store(&mut self) -> Result<()> {
        self.settle()?;
        if self.is_released() {
            return Ok(());
        }
        let seq = self.log.next_seq().map_err(to_fs)?;
        self.store(seq, false)?;
        wait(&self.runtime, &self.closing, self.log.boundary())?.map_err(to_fs)?;
        Ok(())
    }

    /// True once the home was given up: nothing may be changed any more.
    pub(crate) fn is_released(&self) -> bool {
        self.released.is_some()
    }

    /// Finds out about a commit whose reply was lost.
    fn settle(&mut self) -> Result<()> {
        if self.is_released() {
            return Ok(());
        }
        let settled = wait(&self.runtime, &self.closing, self.log.settle())?.map_err(to_fs)?;
        if let (Some(seq), Some(InFlight { committed, release: true })) =
            (settled, self.in_flight.take())
        {
            self.released = Some(Released { seq, committed });
            return Ok(());
        }
        let newest = self.log.next_seq().map_err(to_fs)? - 1;
        let stale = self.engine.front.readers.with(|conn| {
            const SQL: &str = "SELECT 1 FROM pack WHERE place=2 AND seq>?1 LIMIT 1";
            sql::first(conn, SQL, [int(newest)], |_| Ok(()))
        })?;
        if stale.is_some() {
            self.engine.writer.run(move |tx| upload::unmark_riders(tx, newest))?;
        }
        Ok(())
    }

    /// Seals and stores for commit `seq`, until no file has a name that the store lacks content of and that
    /// has to be there whole. No other gets one as long as the guard lives.
    fn prepare<'a>(
        &self,
        which: &Which,
        whole: &'a Whole,
        seq: u64,
        release: bool,
    ) -> Result<(Pending, Bytes, RwLockWriteGuard<'a, ()>)> {
        let mut which = which.clone();
        let (mut stored, mut pass) = (Pending::default(), 0);
        loop {
            let held = patience(pass).map(|patience| whole.hold(patience));
            self.seal(&which, whole)?;
            let (pending, rider) = self.store(seq, release)?;
            // What an earlier pass stored may have died since: it is in the store all the same.
            stored = pending.beside(stored);
            let closed = whole.close();
            if whole.is_empty() {
                return Ok((stored, rider, closed));
            }
            drop((closed, held));
            which = Which::These(Vec::new());
            pass += 1;
        }
    }

    fn seal(&self, which: &Which, whole: &Whole) -> Result<()> {
        let noted = whole.take();
        let sealed = self.seal_with(which, &noted);
        if sealed.is_err() {
            whole.give_back(noted);
        }
        sealed
    }

    fn seal_with(&self, which: &Which, noted: &Noted) -> Result<()> {
        let engine = &self.engine;
        let now = engine.clock.monotonic();
        let mut inodes = match which {
            Which::These(inodes) if !noted.all => inodes.clone(),
            _ => engine.read_database(dirty_inodes)?,
        };
        if *which == Which::Quiet && !noted.all {
            inodes.retain(|ino| engine.heat.is_quiet(*ino, now) || noted.inodes.contains(ino));
        }
        if matches!(which, Which::These(_)) && !noted.all {
            inodes.extend(&noted.inodes);
            inodes.sort_unstable();
            inodes.dedup();
        }
        engine.heat.cool(&inodes);
        engine.seal(inodes, self.epoch)
    }

    /// Stores what is sealed for commit `seq`; with it the bytes that go with the commit.
    fn store(&self, seq: u64, release: bool) -> Result<(Pending, Bytes)> {
        let ride_max = if release { RELEASE_DATA_BYTES_MAX } else { COMMIT_DATA_BYTES_MAX };
        let readers = &self.engine.front.readers;
        // What is an object already does not go with the commit too.
        let stored =
            |pack: &LocalPack| self.uploaded.has(&self.log.keys().pack(Epoch(pack.epoch), pack.id));
        let mut pending = readers.consistent(|conn| Pending::load(conn, ride_max, &stored))?;
        let rider = wait(&self.runtime, &self.closing, async {
            let pressure = &self.engine.pressure;
            pending.store(&self.log, &self.engine.objects, seq, &self.uploaded, pressure).await?;
            pending.rider_body(&self.engine.objects).await
        })??;
        Ok((pending, rider))
    }

    fn commit(&mut self, captured: Captured, data: Bytes, release: bool) -> Result<Done> {
        let Captured { view, changed, committed } = captured;
        let view = Arc::new(view);
        let pages = match self.collect(&view, &changed, release) {
            Ok(pages) => pages,
            Err(error) => {
                self.engine.writer.between(move |thread| thread.pages.give_back(changed))?;
                return Err(error);
            }
        };
        self.in_flight = Some(InFlight { committed, release });
        let commit = Commit { pages, data, release };
        let seq = match wait(&self.runtime, &self.closing, self.log.append(commit))? {
            Ok(seq) => seq,
            Err(error) => {
                if self.log.in_doubt().is_none() {
                    // It was never sent, so its pages are still to be.
                    self.in_flight = None;
                    self.engine.writer.between(move |thread| thread.pages.give_back(changed))?;
                }
                return Err(to_fs(error));
            }
        };
        self.in_flight = None;
        self.released = release.then_some(Released { seq, committed });
        if let Err(error) = self.engine.writer.between(|database| database.pages.confirmed())? {
            tracing::warn!(%error, "what the store has could not be noted; more is sent after a crash");
        }
        Ok(Done { seq, released: release, committed, view: Some(view) })
    }

    /// A commit that gives the home up says where every page is: whoever reads a sleeping home
    /// begins with it.
    fn collect(&self, view: &Arc<PageView>, changed: &Changed, release: bool) -> Result<Pages> {
        let born = self.log.next_seq().map_err(to_fs)?;
        let changed = match changed {
            Changed::All => None,
            Changed::These(pages) => Some(pages.clone()),
        };
        let collected = wait(&self.runtime, &self.closing, async {
            if release {
                let (source, above) = (view.clone(), born - 1);
                let full = Full { source, above, changed, born };
                return self.log.collect_full(full, arrange).await;
            }
            let pages = changed.unwrap_or_else(|| (1..=view.page_count()).collect());
            self.log.collect(view.clone(), &pages, born, arrange).await
        })?;
        collected.map_err(to_fs)
    }
}

/// How long those who come are held up in this pass.
fn patience(pass: u32) -> Option<Patience> {
    match pass.checked_sub(OPEN_PASSES_MAX)? {
        late @ 0..HOLDS_MAX => Some(Patience::For(HOLD_FIRST * (1 << late))),
        _ => Some(Patience::ToTheEnd),
    }
}

/// Waits for a call on the store, unless the home is closed meanwhile.
fn wait<T>(
    runtime: &tokio::runtime::Handle,
    closing: &watch::Receiver<bool>,
    call: impl Future<Output = T>,
) -> Result<T> {
    let mut closing = closing.clone();
    runtime.block_on(async {
        tokio::select! {
            biased;
            done = call => Ok(done),
            _ = closing.wait_for(|closing| *closing) => {
                Err(FsError::with(Errno::EIO, "the home is closed"))
            }
        }
    })
}

/// Bytes of content that are nowhere but here, and have a name.
pub(crate) fn unstored_bytes(conn: &Connection) -> Result<u64> {
    const SQL: &str = "SELECT COALESCE((SELECT sum(len) FROM dirty_extent d \
         WHERE NOT EXISTS (SELECT 1 FROM orphan o WHERE o.ino=d.ino)),0)+\
         COALESCE((SELECT sum(len) FROM pack WHERE place=0 AND live>0),0)+\
         COALESCE((SELECT sum(len) FROM chunk WHERE stored=0 AND refs>0),0)";
    Ok(sql::first(conn, SQL, [], |r| uint(r, 0))?.unwrap_or_default())
}

/// Inodes with unsealed bytes and a name.
fn dirty_inodes(conn: &Connection) -> Result<Vec<Ino>> {
    const SQL: &str =
        "SELECT ino FROM dirty_inode d WHERE NOT EXISTS (SELECT 1 FROM orphan o WHERE o.ino=d.ino)";
    sql::all(conn, SQL, [], |r| uint(r, 0))
}
