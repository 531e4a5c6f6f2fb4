//! The collector of an open home: a turn now and then, between rounds.
//!
//! A turn is planned from the database on the replicator's thread, carried out on the store by a
//! task of its own, so that no sync waits for it, and noted in the database when that is done.
//!
//! # Failure
//! A turn that fails has deleted some of what it was to delete, and noted nothing: the next one does
//! it again, which is harmless.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base::Epoch;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use vfs::Result;

use super::chain::{Chain, Went};
use super::grace::Grace;
use super::graves::{self, Grave};
use super::keep::Kept;
use super::{compact, sweep};
use crate::engine::Engine;
use crate::error::to_fs;
use crate::replica::error::{Error as LogError, Result as LogResult};
use crate::replica::horizon::{Moment, may_go};
use crate::replica::log::Log;

/// Between two turns, where there is something to do.
const TURN_EVERY: Duration = Duration::from_secs(60);
/// The first turn after opening.
const FIRST_TURN: Duration = Duration::from_secs(20);

/// Decides what is collected when.
#[derive(Debug)]
pub(crate) struct Collector {
    engine: Arc<Engine>,
    runtime: Handle,
    epoch: u64,
    claim: u64,
    grace: Grace,
    /// The boundary as we raised it, and when that was known to be in the store.
    raised: Option<(u64, Moment)>,
    /// The log was shortened up to this number, but for commits whose data was named.
    shortened: u64,
    ridden: BTreeSet<u64>,
    /// Graves up to this key had their turn.
    cursor: String,
    /// Metadata transactions and old commits at the last look at packs.
    looked: Option<(u64, u64)>,
    /// What a crash left behind is still to be looked for.
    sweep: bool,
    next: Instant,
    running: Option<JoinHandle<LogResult<Outcome>>>,
}

/// What a turn is to do.
#[derive(Debug)]
struct Plan {
    graves: Vec<Grave>,
    /// The number after our newest commit.
    next: u64,
    epoch: Epoch,
    /// Raise the boundary to this.
    raise: Option<u64>,
    chain: Option<Chain>,
    sweep: Option<u64>,
}

/// What it did.
#[derive(Debug, Default)]
struct Outcome {
    /// Graves that are empty.
    gone: Vec<String>,
    raised: Option<u64>,
    shortened: Option<Chain>,
    orphans: Option<Vec<(String, u64)>>,
    went: Went,
}

impl Collector {
    /// For a home that was claimed with commit `claim`. `sweep`: the writer before us ended without
    /// giving the home up.
    pub(crate) fn new(
        engine: Arc<Engine>,
        runtime: Handle,
        epoch: u64,
        claim: u64,
        sweep: bool,
    ) -> Self {
        let now = Moment::of(engine.clock.as_ref());
        Self {
            engine,
            runtime,
            epoch,
            claim,
            grace: Grace::new(claim, now),
            raised: None,
            shortened: 0,
            ridden: BTreeSet::new(),
            cursor: String::new(),
            looked: None,
            sweep,
            next: Instant::now() + FIRST_TURN,
            running: None,
        }
    }

    /// Commit `seq` is in the store.
    pub(crate) fn confirmed(&mut self, seq: u64) {
        self.grace.confirmed(seq, self.now());
    }

    /// When it wants to be called; `None` while there is nothing to do.
    pub(crate) fn due(&self, log: &Log) -> Option<Instant> {
        let own = log.keys().origins().first().map_or(0, |origin| origin.seq);
        let base = log.writer_head().map_or(0, |head| head.base_seq);
        if self.running.is_some() {
            return Some(Instant::now() + Duration::from_millis(100));
        }
        let committed = self.engine.writer.progress.committed();
        let wanted = self.raised.is_some()
            || self.sweep
            || base > self.shortened.max(own) + 1
            || self.looked != Some((committed, self.old_commits()))
            || self.engine.front.readers.with(graves::any).unwrap_or(false);
        wanted.then_some(self.next)
    }

    /// Commits up to this are only kept for their data, if at all.
    fn old_commits(&self) -> u64 {
        self.raised.map_or(self.shortened, |(seq, _)| seq)
    }

    /// True while a turn is under way. No base is begun meanwhile.
    pub(crate) fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Ends a turn that is done and begins one that is due. `at_rest`: nothing waits to be stored.
    pub(crate) fn turn(&mut self, log: &Log, at_rest: bool) -> Result<()> {
        if self.running.as_ref().is_some_and(JoinHandle::is_finished) {
            self.end_turn(log)?;
        }
        if self.running.is_none() && Instant::now() >= self.next {
            self.begin_turn(log, at_rest)?;
        }
        Ok(())
    }

    /// A whole turn, now; true where it did anything.
    pub(crate) fn turn_now(&mut self, log: &Log) -> Result<bool> {
        self.end_turn(log)?;
        let moved = self.begin_turn(log, true)?;
        let went = self.end_turn(log)?;
        Ok(moved > 0 || went.objects > 0 || went.bytes > 0)
    }

    fn begin_turn(&mut self, log: &Log, at_rest: bool) -> Result<u64> {
        self.next = Instant::now() + TURN_EVERY;
        let moved = self.compact(at_rest)?;
        if moved > 0 {
            self.next = Instant::now() + Duration::from_secs(2);
        }
        if let Some(plan) = self.plan(log)? {
            self.running = Some(self.runtime.spawn(carry_out(log.reader(), plan)));
        }
        Ok(moved)
    }

    /// Rewrites what is mostly dead, as far as one turn goes, before the home is given up.
    pub(crate) fn compact_at_release(&mut self) {
        if let Err(error) = self.compact(false) {
            tracing::warn!(%error, "packs could not be rewritten; the next writer tries again");
        }
    }

    fn compact(&mut self, at_rest: bool) -> Result<u64> {
        let committed = self.engine.writer.progress.committed();
        let now = (committed, self.old_commits());
        if self.looked == Some(now) {
            return Ok(0);
        }
        let moved = compact::compact(&self.engine, self.epoch, now.1, at_rest)?;
        if moved == 0 && at_rest {
            self.looked = Some(now);
        }
        Ok(moved)
    }

    fn plan(&mut self, log: &Log) -> Result<Option<Plan>> {
        let (Ok(next), Some(head)) = (log.next_seq(), log.writer_head()) else { return Ok(None) };
        let (now, base) = (self.now(), head.base_seq);
        let over = self.grace.over(&now);
        let graves =
            self.engine.front.readers.with(|conn| graves::after(conn, &self.cursor, over))?;
        self.cursor = graves.last().map(|grave| grave.key.clone()).unwrap_or_default();
        // A base of an ancestor's has nothing of this home below it.
        let own = log.keys().origins().first().map_or(0, |origin| origin.seq);
        let new = self.raised.is_none() && base > self.shortened.max(own) + 1;
        let raise = new.then(|| base - 1);
        let chain = self.chain(next - 1, &now)?;
        let sweep = self.sweep.then_some(self.claim);
        if graves.is_empty() && raise.is_none() && chain.is_none() && sweep.is_none() {
            return Ok(None);
        }
        Ok(Some(Plan { graves, next, epoch: Epoch(self.epoch), raise, chain, sweep }))
    }

    /// The log is shortened when the boundary was raised long enough ago, and again when fewer
    /// commits are held up by their data.
    fn chain(&self, head: u64, now: &Moment) -> Result<Option<Chain>> {
        let due = self.raised.filter(|(_, at)| may_go(at, now));
        let upto = due.map_or(self.shortened, |(seq, _)| seq);
        let ridden = self.engine.front.readers.with(|conn| graves::ridden(conn, upto))?;
        let ridden: BTreeSet<u64> = ridden.into_iter().collect();
        let again = due.is_some() || ridden != self.ridden;
        Ok(again.then_some(Chain { upto, claim: self.claim, head, ridden }))
    }

    /// Waits for the turn that is under way.
    fn end_turn(&mut self, log: &Log) -> Result<Went> {
        let Some(running) = self.running.take() else { return Ok(Went::default()) };
        let outcome = match self.runtime.block_on(running) {
            Ok(outcome) => outcome.map_err(to_fs)?,
            Err(_) => return Ok(Went::default()),
        };
        let Outcome { gone, raised, shortened, orphans, mut went } = outcome;
        if let Some(seq) = raised {
            self.raised = Some((seq, self.now()));
        }
        if let Some(Chain { upto, ridden, .. }) = shortened {
            self.raised = self.raised.filter(|(seq, _)| *seq > upto);
            self.shortened = upto;
            self.ridden = ridden;
        }
        if let Some(orphans) = orphans {
            self.sweep = false;
            let keys = log.keys();
            let doomed =
                self.engine.front.readers.with(|conn| sweep::unknown(conn, keys, orphans))?;
            self.runtime.block_on(log.delete_all(doomed, &mut went)).map_err(to_fs)?;
        }
        if !gone.is_empty() {
            self.engine.writer.run(move |tx| graves::remove(tx.sql()?, &gone))?;
        }
        metrics::counter!("homefs_collected_objects_total").increment(went.objects);
        metrics::counter!("homefs_collected_bytes_total").increment(went.bytes);
        Ok(went)
    }

    fn now(&self) -> Moment {
        Moment::of(self.engine.clock.as_ref())
    }
}

/// Carries a plan out on the store.
async fn carry_out(log: Log, plan: Plan) -> LogResult<Outcome> {
    let pins = log.pins_that_hold().await?;
    let kept = Kept::new(&pins, log.keys().origins());
    still_ours(&log, &plan).await?;
    let mut outcome = Outcome::default();
    if let Some(seq) = plan.raise {
        log.raise_boundary(seq, plan.epoch).await?;
        outcome.raised = Some(seq);
    }
    outcome.gone = log.empty_graves(plan.graves, &kept, &mut outcome.went).await?;
    if let Some(chain) = plan.chain {
        let went = log.shorten(&chain, &kept).await?;
        outcome.went.objects += went.objects;
        outcome.went.bytes += went.bytes;
        outcome.shortened = Some(chain);
    }
    if let Some(claim) = plan.sweep {
        outcome.orphans = Some(sweep::candidates(&log, &kept, plan.epoch, claim).await?);
    }
    Ok(outcome)
}

/// A writer that was overtaken leaves everything to the one that came after.
async fn still_ours(log: &Log, plan: &Plan) -> LogResult<()> {
    let next = log.read(plan.next).await?;
    match next.map(|stored| stored.header().epoch) {
        Some(theirs) if theirs != plan.epoch => Err(LogError::Fenced { ours: plan.epoch, theirs }),
        _ => Ok(()),
    }
}

impl Log {
    /// Deletes what is buried, but for what is kept; the keys of graves that are no longer needed.
    pub(crate) async fn empty_graves(
        &self,
        graves: Vec<Grave>,
        kept: &Kept,
        went: &mut Went,
    ) -> LogResult<Vec<String>> {
        let (mut gone, mut doomed) = (Vec::new(), Vec::new());
        for grave in graves {
            if kept.object(grave.born, grave.died) {
                continue;
            }
            if kept.is_own(grave.born) && !grave.is_rider() {
                doomed.push((format!("{}{}", self.keys().prefix(), grave.key), grave.bytes));
            }
            gone.push(grave.key);
        }
        self.delete_all(doomed, went).await?;
        Ok(gone)
    }
}
