//! The thread: one loop over what is asked for, what is due, and what went wrong.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use base::{Epoch, ErrorKind};
use parking_lot::Mutex;
use vfs::{FsError, Ino, Result};

use super::bases::Bases;
use super::retry::Retry;
use super::{Paces, Said, away, stopped};
use crate::asks::{Ask, Waiter, which};
use crate::engine::{Engine, Gate, fenced};
use crate::garbage::collector::Collector;
use crate::limits::{COLLECT_PAUSE, COLLECT_TURNS_MAX, ROUND_INTERVAL_MIN, ROUNDS_PER_PRUNE};
use crate::meta::sql;
use crate::round::{Done, Rounds, Which, unstored_bytes};
use crate::settings::Released;

/// What the thread knows.
pub(super) struct Thread {
    rounds: Rounds,
    engine: Arc<Engine>,
    said: Arc<Mutex<Said>>,
    asks: flume::Receiver<Ask>,
    nudged: Arc<AtomicBool>,
    waiters: Vec<(Option<Ino>, Waiter)>,
    release: Option<(flume::Sender<Result<Released>>, Instant)>,
    paces: Paces,
    /// When the first change came that the store does not have.
    changed: Option<Instant>,
    last_round: Option<Instant>,
    retry: Retry,
    rounds_since_prune: u32,
    bases: Bases,
    collector: Collector,
}

impl Thread {
    /// One that waits for asks and does what they ask for, from [`Thread::serve`] on.
    pub(super) fn new(
        rounds: Rounds,
        engine: Arc<Engine>,
        collector: Collector,
        bases: Bases,
        said: Arc<Mutex<Said>>,
        (asks, nudged): (flume::Receiver<Ask>, Arc<AtomicBool>),
        paces: Paces,
    ) -> Self {
        Self {
            rounds,
            engine,
            said,
            asks,
            nudged,
            waiters: Vec::new(),
            release: None,
            paces,
            changed: None,
            last_round: None,
            retry: Retry::default(),
            rounds_since_prune: 0,
            bases,
            collector,
        }
    }

    /// Runs until it is told to stop, or the home is given up.
    pub(super) fn serve(&mut self) {
        loop {
            let ask = match self.wakes() {
                Some(at) => self.asks.recv_deadline(at).ok(),
                None => match self.asks.recv() {
                    Ok(ask) => Some(ask),
                    Err(_) => return,
                },
            };
            let asks: Vec<Ask> = ask.into_iter().chain(self.asks.try_iter()).collect();
            if !asks.into_iter().all(|ask| self.hear(ask)) {
                return;
            }
            self.bases.finish(&mut self.rounds.log);
            if self.next_round().is_some_and(|at| at <= Instant::now()) && !self.round() {
                return;
            }
            self.give_up_on_the_impatient();
            if self.rests_at().is_some_and(|at| at <= Instant::now()) {
                self.start_base();
            }
            self.collect();
        }
    }

    /// Notes what is asked for. False: the thread is done.
    fn hear(&mut self, ask: Ask) -> bool {
        match ask {
            Ask::Changed => {
                // Rounds change the database too; those changes are in their own commit.
                // While a round is due anyway, nobody needs to say it again.
                self.nudged.store(false, Ordering::Release);
                if self.is_behind() {
                    self.changed.get_or_insert_with(Instant::now);
                    self.nudged.store(true, Ordering::Release);
                }
            }
            Ask::Sync(ino, waiter) => self.waiters.push((ino, waiter)),
            Ask::Collect(reply) => {
                reply.send(self.collect_all()).ok();
            }
            Ask::Release(reply) => {
                self.engine.set_gate(Gate::Closed);
                self.release = Some((reply, Instant::now()));
            }
            Ask::Stop => return false,
        }
        true
    }

    /// When there is something to do: a round, or a turn of the collector.
    fn wakes(&self) -> Option<Instant> {
        let collects = self.may_collect().then(|| self.collector.due(&self.rounds.log)).flatten();
        // It waits for a base that is on its way; nobody says when that is done.
        let pause = self.bases.is_running().then(|| Instant::now() + COLLECT_PAUSE);
        let collects = collects.map(|at| pause.map_or(at, |pause| at.max(pause)));
        self.next_round().into_iter().chain(collects).chain(self.rests_at()).min()
    }

    /// Rounds go first: somebody may wait for them. What was given up is left as it is.
    fn may_collect(&self) -> bool {
        let is_called = !self.waiters.is_empty() || self.release.is_some();
        !is_called && !self.retry.is_on() && !self.rounds.is_released()
    }

    /// A turn of the collector, where one is due.
    fn collect(&mut self) {
        if !self.may_collect() {
            return;
        }
        let at_rest = self.changed.is_none() && !self.is_behind();
        if !self.bases.is_running()
            && let Err(error) = self.collector.turn(&self.rounds.log, at_rest)
        {
            tracing::warn!(%error, "a turn of the collector failed; trying again later");
        }
    }

    /// Stores everything and collects, until nothing more may go.
    fn collect_all(&mut self) -> Result<()> {
        if self.rounds.is_released() {
            return Err(stopped());
        }
        self.start_base();
        for _ in 0..COLLECT_TURNS_MAX {
            self.bases.wait(&mut self.rounds.log);
            let did = self.collector.turn_now(&self.rounds.log)?;
            if self.is_behind() {
                let done = self.rounds.run(&Which::All, false)?;
                self.succeeded(&done);
            } else if !did {
                break;
            }
        }
        Ok(())
    }

    /// When the next round is due. Pure but for the clock.
    fn next_round(&self) -> Option<Instant> {
        let pressed = self.engine.pressure.is_high() && self.changed.is_some();
        let wanted = if !self.waiters.is_empty() || self.release.is_some() || pressed {
            self.last_round.unwrap_or_else(Instant::now)
        } else {
            let paced = self.last_round.map(|last| last + ROUND_INTERVAL_MIN);
            let due = self.changed? + self.paces.replicate_after;
            paced.map_or(due, |paced| due.max(paced))
        };
        let not_before = self.retry.not_before(self.last_round);
        Some(not_before.map_or(wanted, |at| wanted.max(at)))
    }

    /// Runs a round and tells those who wait. False: the thread is done.
    fn round(&mut self) -> bool {
        let waiters = std::mem::take(&mut self.waiters);
        let release = self.release.is_some();
        let which = which(&waiters, release, self.engine.pressure.is_high());
        self.changed = None;
        self.nudged.store(false, Ordering::Release);
        if release && !self.retry.is_on() && !self.rounds.is_released() {
            self.collector.compact_at_release();
        }
        let back = if self.retry.is_on() { self.rounds.try_store() } else { Ok(()) };
        let outcome = back.and_then(|()| self.rounds.run(&which, release));
        self.last_round = Some(Instant::now());
        if self.engine.pressure.is_noticeable() {
            self.measure();
        }
        match outcome {
            Ok(done) => {
                let released = self.succeeded(&done);
                for (_, waiter) in waiters {
                    waiter.reply.send(Ok(())).ok();
                }
                // A caller that gave up waiting for it asks again.
                match (released, self.release.take()) {
                    (Some(released), Some((reply, _))) => {
                        reply.send(Ok(released)).ok();
                        false
                    }
                    _ => true,
                }
            }
            Err(error) => self.failed(error, waiters),
        }
    }

    /// How the home was given up, if that is what was done.
    fn succeeded(&mut self, done: &Done) -> Option<Released> {
        let Done { seq, committed, .. } = *done;
        let released = done.released.then_some(Released { epoch: Epoch(self.rounds.epoch), seq });
        self.retry.succeeded();
        {
            let mut said = self.said.lock();
            (said.seq, said.committed) = (seq, committed);
            said.error = None;
            said.rounds += 1;
            said.released = released;
        }
        self.collector.confirmed(seq);
        metrics::counter!("homefs_commits_total").increment(1);
        if self.is_behind() || self.has_dirty() {
            self.changed.get_or_insert_with(Instant::now);
        }
        if self.bases.confirmed(&self.rounds.log, done.view.clone()) {
            self.start_base();
        }
        self.rounds_since_prune += 1;
        if done.released || self.rounds_since_prune >= ROUNDS_PER_PRUNE {
            self.rounds_since_prune = 0;
            self.engine.prune_local_copies();
        }
        released
    }

    /// False: the thread is done.
    fn failed(&mut self, error: FsError, waiters: Vec<(Option<Ino>, Waiter)>) -> bool {
        metrics::counter!("homefs_round_failures_total").increment(1);
        {
            let mut said = self.said.lock();
            said.error = Some(error.to_string());
            said.rounds_failed += 1;
        }
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
        if !self.retry.is_on() {
            tracing::warn!(%error, "replication of the home failed; trying again");
        }
        let mut random = [0; 4];
        self.engine.entropy.fill(&mut random);
        self.retry.failed(u32::from_le_bytes(random));
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
                Ask::Collect(reply) => drop(reply.send(Err(fenced()))),
                Ask::Release(reply) => drop(reply.send(Err(fenced()))),
                Ask::Stop => return,
            }
        }
    }

    /// Nobody waits without end for a store that is away.
    fn give_up_on_the_impatient(&mut self) {
        if !self.retry.is_on() {
            return;
        }
        let why = self.said.lock().error.clone().unwrap_or_default();
        let error = away(why);
        self.waiters.retain(|(_, waiter)| {
            let patient = Instant::now() < waiter.until;
            if !patient {
                waiter.reply.send(Err(error.clone())).ok();
            }
            patient
        });
        if let Some((reply, _)) =
            self.release.take_if(|(_, since)| since.elapsed() >= self.paces.release_patience)
        {
            // The caller decides whether to try again or to leave the home for later.
            reply.send(Err(error)).ok();
        }
    }

    /// Corrects what writers are held up by.
    pub(super) fn measure(&self) {
        let pressure = &self.engine.pressure;
        let mark = pressure.mark();
        match self.engine.read_database(unstored_bytes) {
            Ok(bytes) => pressure.measured(mark, bytes),
            Err(error) => tracing::warn!(%error, "what the store lacks could not be counted"),
        }
    }

    /// True where the store lacks a metadata transaction.
    fn is_behind(&self) -> bool {
        self.engine.writer.progress.committed() > self.said.lock().committed
    }

    fn has_dirty(&self) -> bool {
        const SQL: &str = "SELECT 1 FROM dirty_inode d \
             WHERE NOT EXISTS (SELECT 1 FROM orphan o WHERE o.ino=d.ino) LIMIT 1";
        let found = self.engine.front.readers.with(|conn| sql::first(conn, SQL, [], |_| Ok(())));
        found.is_ok_and(|found| found.is_some())
    }

    /// When a base of the newest commit is to be written, if nothing changes until then.
    fn rests_at(&self) -> Option<Instant> {
        let may = self.may_collect() && !self.collector.is_running();
        self.bases.rests_at(self.last_round).filter(|_| may)
    }

    /// Begins a base, but not under the collector, which goes by the bases there are.
    fn start_base(&mut self) {
        if !self.collector.is_running() {
            self.bases.start(&self.rounds.log);
        }
    }
}
