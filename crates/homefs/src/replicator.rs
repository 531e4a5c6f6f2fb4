//! The thread that keeps the store up to date with an open home.
//!
//! # When
//! `replicate_after` after the first change that the store does not have, and no more often than
//! every two seconds; at once when someone syncs or releases. Callers that sync while a round
//! runs share the next one.
//!
//! # Failure
//! While the store is away, rounds are tried again with growing pauses, for ever; local work goes
//! on, and the status says why. A caller of `sync` waits no longer than [`SYNC_PATIENCE`]. Being
//! fenced is final: the home turns read-only and every caller is told.
//!
//! # Not here
//! What a round does (`round`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use base::{Epoch, ErrorKind};
use parking_lot::Mutex;
use tokio::sync::watch;
use vfs::{Errno, FsError, Ino, Result};

use crate::asks::{Ask, Asks, Waiter, which};
use crate::engine::{Barrier, Engine, Gate, fenced};
use crate::limits::{RETRY_MAX, RETRY_MIN, ROUND_INTERVAL_MIN, ROUNDS_PER_PRUNE, SYNC_PATIENCE};
use crate::meta::sql::{self, int};
use crate::replica::base::needs_base;
use crate::replica::log::Log;
use crate::round::{Done, Rounds};
use crate::settings::Released;

/// What the thread says about itself.
#[derive(Debug, Clone, Default)]
pub(crate) struct Said {
    pub(crate) seq: u64,
    /// The last metadata transaction that is in the store.
    pub(crate) committed: u64,
    pub(crate) error: Option<String>,
    pub(crate) released: bool,
}

/// The handle to the thread.
#[derive(Debug)]
pub(crate) struct Replicator {
    asks: flume::Sender<Ask>,
    said: Arc<Mutex<Said>>,
    engine: Arc<Engine>,
    closing: watch::Sender<bool>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Thread {
    rounds: Rounds,
    engine: Arc<Engine>,
    runtime: tokio::runtime::Handle,
    said: Arc<Mutex<Said>>,
    asks: flume::Receiver<Ask>,
    nudged: Arc<AtomicBool>,
    waiters: Vec<(Option<Ino>, Waiter)>,
    release: Option<(flume::Sender<Result<Released>>, Instant)>,
    replicate_after: Duration,
    /// When the first change came that the store does not have.
    changed: Option<Instant>,
    last_round: Option<Instant>,
    failures: u32,
    rounds_since_prune: u32,
    /// A base on its way to the store, and which commit it is of.
    base: Option<(u64, tokio::task::JoinHandle<bool>)>,
}

impl Replicator {
    /// Starts the thread. `asks` are those that the engine's commits go to.
    pub(crate) fn start(
        log: Log,
        epoch: Epoch,
        engine: Arc<Engine>,
        runtime: tokio::runtime::Handle,
        asks: Asks,
        replicate_after: Duration,
        seq: u64,
    ) -> std::io::Result<Self> {
        let (closing, closes) = watch::channel(false);
        let rounds = Rounds::new(log, epoch.0, engine.clone(), runtime.clone(), closes);
        let Asks { sender, receiver, nudged } = asks;
        let said = Arc::new(Mutex::new(Said { seq, ..Said::default() }));
        let mut thread = Thread {
            rounds,
            engine: engine.clone(),
            runtime,
            said: said.clone(),
            asks: receiver,
            nudged,
            waiters: Vec::new(),
            release: None,
            replicate_after,
            changed: None,
            last_round: None,
            failures: 0,
            rounds_since_prune: 0,
            base: None,
        };
        let handle = std::thread::Builder::new()
            .name("home-replica".to_owned())
            .spawn(move || thread.serve())?;
        Ok(Self { asks: sender, said, engine, closing, thread: Mutex::new(Some(handle)) })
    }

    /// What the thread said last.
    pub(crate) fn said(&self) -> Said {
        self.said.lock().clone()
    }

    /// Gives the home up; returns when that is in the store.
    pub(crate) fn release(&self) -> Result<Released> {
        let (reply, answer) = flume::bounded(1);
        self.asks.send(Ask::Release(reply)).map_err(|_| stopped())?;
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
        let dirty = self.engine.readers.with(|conn| match ino {
            Some(ino) => {
                const SQL: &str = "SELECT 1 FROM dirty_inode WHERE ino=?1";
                sql::first(conn, SQL, [int(ino)], |_| Ok(()))
            }
            None => sql::first(conn, "SELECT 1 FROM dirty_inode LIMIT 1", [], |_| Ok(())),
        })?;
        Ok(dirty.is_none())
    }
}

impl Barrier for Replicator {
    fn sync(&self, ino: Option<Ino>) -> Result<()> {
        match self.engine.gate() {
            Gate::Fenced => return Err(fenced()),
            Gate::Open | Gate::Closed if self.is_stored(ino)? => return Ok(()),
            Gate::Open | Gate::Closed => {}
        }
        let (reply, answer) = flume::bounded(1);
        let waiter = Waiter { reply, since: Instant::now() };
        self.asks.send(Ask::Sync(ino, waiter)).map_err(|_| stopped())?;
        answer.recv().unwrap_or_else(|_| Err(stopped()))
    }
}

fn stopped() -> FsError {
    FsError::with(Errno::EIO, "the home is closed")
}

impl Thread {
    fn serve(&mut self) {
        loop {
            let ask = match self.next_round() {
                Some(at) => self.asks.recv_deadline(at).ok(),
                None => match self.asks.recv() {
                    Ok(ask) => Some(ask),
                    Err(_) => return,
                },
            };
            let asks: Vec<Ask> = ask.into_iter().chain(self.asks.try_iter()).collect();
            for ask in asks {
                match ask {
                    Ask::Changed => {
                        self.nudged.store(false, Ordering::Release);
                        // Rounds change the database too; those changes are in their own commit.
                        if self.is_behind() {
                            self.changed.get_or_insert_with(Instant::now);
                        }
                    }
                    Ask::Sync(ino, waiter) => self.waiters.push((ino, waiter)),
                    Ask::Release(reply) => {
                        self.engine.set_gate(Gate::Closed);
                        self.release = Some((reply, Instant::now()));
                    }
                    Ask::Stop => return,
                }
            }
            self.finish_base();
            if self.next_round().is_some_and(|at| at <= Instant::now()) && !self.round() {
                return;
            }
            self.give_up_on_the_impatient();
        }
    }

    /// When the next round is due. Pure but for the clock.
    fn next_round(&self) -> Option<Instant> {
        let wanted = if !self.waiters.is_empty() || self.release.is_some() {
            self.last_round.unwrap_or_else(Instant::now)
        } else {
            let paced = self.last_round.map(|last| last + ROUND_INTERVAL_MIN);
            let due = self.changed? + self.replicate_after;
            paced.map_or(due, |paced| due.max(paced))
        };
        match (self.failures, self.last_round) {
            (0, _) | (_, None) => Some(wanted),
            (failures, Some(last)) => {
                let pause = RETRY_MIN.saturating_mul(1 << failures.min(10)).min(RETRY_MAX);
                Some(wanted.max(last + pause))
            }
        }
    }

    /// Runs a round and tells those who wait. False: the thread is done.
    fn round(&mut self) -> bool {
        let waiters = std::mem::take(&mut self.waiters);
        let release = self.release.is_some();
        let which = which(&waiters, release);
        self.changed = None;
        let outcome = self.rounds.run(&which, release);
        self.last_round = Some(Instant::now());
        match outcome {
            Ok(done) => {
                self.succeeded(&done, release);
                for (_, waiter) in waiters {
                    waiter.reply.send(Ok(())).ok();
                }
                if let Some((reply, _)) = self.release.take() {
                    let seq = self.said.lock().seq;
                    let released = Released { epoch: Epoch(self.rounds.epoch), seq };
                    reply.send(Ok(released)).ok();
                    return false;
                }
                true
            }
            Err(error) => self.failed(error, waiters),
        }
    }

    fn succeeded(&mut self, done: &Done, release: bool) {
        self.failures = 0;
        {
            let mut said = self.said.lock();
            let seq = self.rounds.log.writer_head().map(|head| head.seq);
            // After a release the log has no head of ours any more; it ended one further.
            said.seq = seq.unwrap_or(said.seq + 1);
            said.committed = done.committed;
            said.error = None;
            said.released = release;
        }
        metrics::counter!("homefs_commits_total").increment(1);
        if self.is_behind() || self.has_dirty() {
            self.changed.get_or_insert_with(Instant::now);
        }
        if !release {
            self.start_base(done);
        }
        self.rounds_since_prune += 1;
        if release || self.rounds_since_prune >= ROUNDS_PER_PRUNE {
            self.rounds_since_prune = 0;
            self.engine.prune_local_copies();
        }
    }

    /// False: the thread is done.
    fn failed(&mut self, error: FsError, waiters: Vec<(Option<Ino>, Waiter)>) -> bool {
        metrics::counter!("homefs_round_failures_total").increment(1);
        self.said.lock().error = Some(error.to_string());
        if error.kind() == ErrorKind::Fenced || error.kind() == ErrorKind::NotFound {
            tracing::warn!(%error, "the home is lost to another writer");
            self.engine.set_gate(Gate::Fenced);
            for (_, waiter) in waiters {
                waiter.reply.send(Err(fenced())).ok();
            }
            if let Some((reply, _)) = self.release.take() {
                reply.send(Err(fenced())).ok();
            }
            self.refuse_all();
            return false;
        }
        if self.failures == 0 {
            tracing::warn!(%error, "replication of the home failed; trying again");
        }
        self.failures = self.failures.saturating_add(1);
        self.changed.get_or_insert_with(Instant::now);
        self.waiters.extend(waiters);
        true
    }

    /// Answers everyone that the home is lost, until told to stop.
    fn refuse_all(&self) {
        while let Ok(ask) = self.asks.recv() {
            match ask {
                Ask::Changed => {}
                Ask::Sync(_, waiter) => drop(waiter.reply.send(Err(fenced()))),
                Ask::Release(reply) => drop(reply.send(Err(fenced()))),
                Ask::Stop => return,
            }
        }
    }

    /// Nobody waits for a store that is away without end: a guest's `fsync` would hang with it.
    fn give_up_on_the_impatient(&mut self) {
        if self.failures == 0 {
            return;
        }
        let why = self.said.lock().error.clone().unwrap_or_default();
        let error = FsError::of_kind(ErrorKind::Unavailable, Errno::ETIMEDOUT, why);
        self.waiters.retain(|(_, waiter)| {
            let patient = waiter.since.elapsed() < SYNC_PATIENCE;
            if !patient {
                waiter.reply.send(Err(error.clone())).ok();
            }
            patient
        });
        if let Some((reply, _)) =
            self.release.take_if(|(_, since)| since.elapsed() >= SYNC_PATIENCE)
        {
            // The caller decides whether to try again or to leave the home for later.
            reply.send(Err(error)).ok();
        }
    }

    /// True where the store lacks a metadata transaction.
    fn is_behind(&self) -> bool {
        self.engine.writer.progress.committed() > self.said.lock().committed
    }

    fn has_dirty(&self) -> bool {
        const SQL: &str = "SELECT 1 FROM dirty_inode d \
             WHERE NOT EXISTS (SELECT 1 FROM orphan o WHERE o.ino=d.ino) LIMIT 1";
        let found = self.engine.readers.with(|conn| sql::first(conn, SQL, [], |_| Ok(())));
        found.is_ok_and(|found| found.is_some())
    }

    /// Writes a base beside the log when enough lies above the last one.
    fn start_base(&mut self, done: &Done) {
        let Some(head) = self.rounds.log.writer_head().filter(|head| needs_base(head)) else {
            return;
        };
        let (None, Some(view)) = (&self.base, done.view.clone()) else { return };
        let (log, head) = (self.rounds.log.reader(), head.clone());
        let seq = head.seq;
        let task = self.runtime.spawn(async move {
            let written = log.write_base(&head, view).await;
            if let Err(error) = &written {
                tracing::warn!(%error, seq, "a base could not be written; trying again later");
            }
            written.is_ok()
        });
        self.base = Some((seq, task));
    }

    fn finish_base(&mut self) {
        if let Some((seq, task)) = self.base.take_if(|(_, task)| task.is_finished())
            && self.runtime.block_on(task).unwrap_or(false)
        {
            self.rounds.log.note_base(seq);
        }
    }
}
