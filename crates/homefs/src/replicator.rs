//! The thread that keeps the store up to date with an open home.
//!
//! # When
//! `replicate_after` after the first change that the store does not have, and no more often than
//! every two seconds; at once when someone syncs or releases. Callers that sync while a round
//! runs share the next one.
//!
//! # Failure
//! While the store is away, rounds are tried again with growing pauses, for ever; local work goes
//! on within the bounds of `pressure`, and the status says why. A caller of `sync` waits no longer than
//! its patience once that is known. Being fenced is final: the home turns read-only and every caller
//! is told.
//!
//! ```text
//! thread   asks, rounds, and those who wait
//! retry    when to try again (pure)
//! bases    bases beside the log
//! ```
//!
//! # Not here
//! What a round does (`round`).

mod bases;
mod retry;
mod thread;

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use base::{Epoch, ErrorKind};
use parking_lot::Mutex;
use tokio::sync::watch;
use vfs::{Errno, FsError, Ino, Result};

use self::bases::Bases;
use self::thread::Thread;
use crate::asks::{Ask, Asks, Waiter};
use crate::engine::{Barrier, Engine, Gate, fenced};
use crate::garbage::collector::Collector;
use crate::limits::PATIENCE_LOOK;
use crate::meta::sql::{self, int};
use crate::replica::log::Log;
use crate::round::Rounds;
use crate::settings::Released;

/// What the thread says about itself.
#[derive(Debug, Clone, Default)]
pub(crate) struct Said {
    pub(crate) seq: u64,
    /// The last metadata transaction that is in the store.
    pub(crate) committed: u64,
    pub(crate) error: Option<String>,
    /// How the home was given up.
    pub(crate) released: Option<Released>,
    /// Rounds that made a commit, and those that failed.
    pub(crate) rounds: u64,
    pub(crate) rounds_failed: u64,
}

/// How soon, and how long.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Paces {
    /// How long a change waits at most.
    pub(crate) replicate_after: Duration,
    /// How long a caller of `sync` waits while the store is away.
    pub(crate) sync_patience: Duration,
    /// How long one does who can come again.
    pub(crate) release_patience: Duration,
}

/// How the home was claimed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Begun {
    pub(crate) epoch: Epoch,
    /// The claim.
    pub(crate) seq: u64,
    /// The writer before ended without giving the home up.
    pub(crate) crashed: bool,
}

/// The handle to the thread.
#[derive(Debug)]
pub(crate) struct Replicator {
    asks: flume::Sender<Ask>,
    said: Arc<Mutex<Said>>,
    engine: Arc<Engine>,
    closing: watch::Sender<bool>,
    paces: Paces,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Replicator {
    /// Starts the thread. `asks` are those that the engine's commits go to.
    pub(crate) fn start(
        log: Log,
        begun: Begun,
        engine: Arc<Engine>,
        runtime: tokio::runtime::Handle,
        asks: Asks,
        paces: Paces,
    ) -> std::io::Result<Self> {
        let (closing, closes) = watch::channel(false);
        let Begun { epoch, seq, crashed } = begun;
        let rounds = Rounds::new(log, epoch.0, engine.clone(), runtime.clone(), closes);
        let collector = Collector::new(engine.clone(), runtime.clone(), epoch.0, seq, crashed);
        let Asks { sender, receiver, nudged } = asks;
        let pressed = sender.clone();
        engine.pressure.set_on_high(move || drop(pressed.send(Ask::Changed)));
        let said = Arc::new(Mutex::new(Said { seq, ..Said::default() }));
        let (bases, asks) = (Bases::new(runtime), (receiver, nudged));
        let mut thread =
            Thread::new(rounds, engine.clone(), collector, bases, said.clone(), asks, paces);
        thread.measure();
        let handle = std::thread::Builder::new()
            .name("home-replica".to_owned())
            .spawn(move || thread.serve())?;
        let thread = Mutex::new(Some(handle));
        Ok(Self { asks: sender, said, engine, closing, paces, thread })
    }

    /// What the thread said last.
    pub(crate) fn said(&self) -> Said {
        self.said.lock().clone()
    }

    /// Gives the home up; returns when that is in the store.
    pub(crate) fn release(&self) -> Result<Released> {
        if let Some(released) = self.said().released {
            return Ok(released);
        }
        let (reply, answer) = flume::bounded(1);
        self.asks.send(Ask::Release(reply)).map_err(|_| stopped())?;
        answer.recv().unwrap_or_else(|_| Err(stopped()))
    }

    /// Collects garbage until there is none that may go.
    pub(crate) fn collect(&self) -> Result<()> {
        let (reply, answer) = flume::bounded(1);
        self.asks.send(Ask::Collect(reply)).map_err(|_| stopped())?;
        answer.recv().unwrap_or_else(|_| Err(stopped()))
    }

    /// Ends the thread without another round.
    pub(crate) fn stop(&self) {
        self.closing.send_replace(true);
        self.asks.send(Ask::Stop).ok();
        if let Some(thread) = self.thread.lock().take()
            && thread.join().is_err()
        {
            tracing::error!("the replicator panicked");
        }
    }

    /// True where the store has `ino`, or everything, as it is now.
    fn is_stored(&self, ino: Option<Ino>) -> Result<bool> {
        if self.engine.writer.progress.committed() > self.said.lock().committed {
            return Ok(false);
        }
        let dirty = self.engine.front.readers.with(|conn| match ino {
            Some(ino) => {
                const SQL: &str = "SELECT 1 FROM dirty_inode WHERE ino=?1";
                sql::first(conn, SQL, [int(ino)], |_| Ok(()))
            }
            None => sql::first(conn, "SELECT 1 FROM dirty_inode LIMIT 1", [], |_| Ok(())),
        })?;
        Ok(dirty.is_none())
    }

    /// Stores everything, for a caller who can come again.
    pub(crate) fn store_all(&self) -> Result<()> {
        self.wait_for(None, self.paces.release_patience)
    }

    fn wait_for(&self, ino: Option<Ino>, patience: Duration) -> Result<()> {
        match self.engine.gate() {
            Gate::Fenced => return Err(fenced()),
            Gate::Open | Gate::Closed if self.is_stored(ino)? => return Ok(()),
            Gate::Open | Gate::Closed => {}
        }
        let (reply, answer) = flume::bounded(1);
        let _waits = self.engine.wait_for_round();
        let mut until = Instant::now() + patience;
        let waiter = Waiter { reply, until };
        self.asks.send(Ask::Sync(ino, waiter)).map_err(|_| stopped())?;
        loop {
            match answer.recv_deadline(until) {
                Ok(done) => return done,
                Err(flume::RecvTimeoutError::Disconnected) => return Err(stopped()),
                // The thread may be in the middle of a long try of its own.
                Err(flume::RecvTimeoutError::Timeout) => match self.said().error {
                    Some(why) => return Err(away(why)),
                    None => until = Instant::now() + PATIENCE_LOOK,
                },
            }
        }
    }
}

impl Barrier for Replicator {
    fn sync(&self, ino: Option<Ino>) -> Result<()> {
        self.wait_for(ino, self.paces.sync_patience)
    }
}

/// The error of a caller that waited long enough.
fn away(why: String) -> FsError {
    FsError::of_kind(ErrorKind::Unavailable, Errno::ETIMEDOUT, why)
}

fn stopped() -> FsError {
    FsError::with(Errno::EIO, "the home is closed")
}
