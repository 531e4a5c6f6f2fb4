//! One round of replication: everything up to one commit in the store.
//!
//! # Order
//! Settle a commit in doubt; seal; store packs and chunks; note in the database that they are
//! stored and which commit comes; sync the local disk; capture the changed pages; create the
//! commit. A step starts only when the one before is done, so a commit never names an object that
//! is not there, and the local directory is never behind the store.
//!
//! # Failure
//! Fenced is final. After anything else the round is run again from the start: what is stored is
//! not stored twice, and a commit whose fate is unknown is settled first.

use std::sync::Arc;

use bytes::Bytes;
use rusqlite::Connection;
use tokio::sync::watch;
use vfs::{Errno, FsError, Ino, Result};

use crate::engine::Engine;
use crate::error::to_fs;
use crate::meta::pages::{Captured, Changed};
use crate::meta::sql::{self, int, uint};
use crate::ops::remove;
use crate::replica::append::{Commit, Pages};
use crate::replica::log::Log;
use crate::upload::{self, Pending};
use crate::wal::PageView;

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
}

/// What a round did.
#[derive(Debug)]
pub(crate) struct Done {
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
        Self { log, epoch, engine, runtime, closing, in_flight: None }
    }

    /// Runs one round. `release` gives the home up with its commit.
    pub(crate) fn run(&mut self, which: &Which, release: bool) -> Result<Done> {
        if let Some(released) = self.settle()? {
            return Ok(released);
        }
        self.seal(which)?;
        let (pending, rider) = self.store()?;
        let seq = self.log.next_seq().map_err(to_fs)?;
        self.engine.writer.run(move |tx| {
            if release {
                remove::free_orphans(tx)?;
            }
            tx.counters.store_seq = seq;
            pending.mark_stored(tx, seq)
        })?;
        self.engine.durable.sync()?;
        let captured = self.engine.writer.between(|thread| thread.capture())?;
        self.commit(captured, rider, release)
    }

    /// Finds out about a commit whose reply was lost. If that gave the home up, there is nothing
    /// more to do.
    fn settle(&mut self) -> Result<Option<Done>> {
        let settled = wait(&self.runtime, &self.closing, self.log.settle())?.map_err(to_fs)?;
        if let (Some(_), Some(InFlight { committed, release: true })) =
            (settled, self.in_flight.take())
        {
            return Ok(Some(Done { committed, view: None }));
        }
        let newest = self.log.next_seq().map_err(to_fs)? - 1;
        let stale = self.engine.readers.with(|conn| {
            const SQL: &str = "SELECT 1 FROM pack WHERE place=2 AND seq>?1 LIMIT 1";
            sql::first(conn, SQL, [int(newest)], |_| Ok(()))
        })?;
        if stale.is_some() {
            self.engine.writer.run(move |tx| upload::unmark_riders(tx, newest))?;
        }
        Ok(None)
    }

    fn seal(&self, which: &Which) -> Result<()> {
        let engine = &self.engine;
        let mut inodes = match which {
            Which::These(inodes) => inodes.clone(),
            Which::All | Which::Quiet => engine.readers.with(dirty_inodes)?,
        };
        if *which == Which::Quiet {
            let now = engine.clock.monotonic();
            inodes.retain(|ino| engine.heat.is_quiet(*ino, now));
        }
        engine.heat.cool(&inodes);
        engine.seal(inodes, self.epoch)
    }

    /// Stores what is sealed; with it the bytes that go with the commit.
    fn store(&self) -> Result<(Pending, Bytes)> {
        let pending = self.engine.readers.consistent(|conn| Pending::load(conn, true))?;
        let rider = wait(&self.runtime, &self.closing, async {
            pending.store(&self.log, &self.engine.objects).await?;
            match &pending.rider {
                Some(rider) => rider.body(&self.engine.objects).await,
                None => Ok(Bytes::new()),
            }
        })??;
        Ok((pending, rider))
    }

    fn commit(&mut self, captured: Captured, data: Bytes, release: bool) -> Result<Done> {
        let Captured { view, changed, committed } = captured;
        let view = Arc::new(view);
        let pages = match self.collect(&view, &changed) {
            Ok(pages) => pages,
            Err(error) => {
                self.engine.writer.between(move |thread| thread.pages.give_back(changed))?;
                return Err(error);
            }
        };
        self.in_flight = Some(InFlight { committed, release });
        let commit = Commit { pages, data, release };
        if let Err(error) = wait(&self.runtime, &self.closing, self.log.append(commit))? {
            if self.log.in_doubt().is_none() {
                // It was never sent, so its pages are still to be.
                self.in_flight = None;
                self.engine.writer.between(move |thread| thread.pages.give_back(changed))?;
            }
            return Err(to_fs(error));
        }
        self.in_flight = None;
        Ok(Done { committed, view: Some(view) })
    }

    fn collect(&self, view: &Arc<PageView>, changed: &Changed) -> Result<Pages> {
        let collected = wait(&self.runtime, &self.closing, async {
            match changed {
                Changed::All => self.log.collect_all(view.clone()).await,
                Changed::These(pages) => self.log.collect(view.clone(), pages).await,
            }
        })?;
        collected.map_err(to_fs)
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

/// Inodes with unsealed bytes and a name.
fn dirty_inodes(conn: &Connection) -> Result<Vec<Ino>> {
    const SQL: &str =
        "SELECT ino FROM dirty_inode d WHERE NOT EXISTS (SELECT 1 FROM orphan o WHERE o.ino=d.ino)";
    sql::all(conn, SQL, [], |r| uint(r, 0))
}
