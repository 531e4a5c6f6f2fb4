//! Brings machines to where they are wanted.
//!
//! # Order
//! Observe, ask [`next_step`], take the step, observe again. A nudge (somebody wants something else)
//! ends a waiting step early; it never interrupts one that changes something.
//!
//! # Invariants
//! - At most one driver a machine, so its steps never overlap.
//! - A machine that rests without a keeper has no driver: sleeping machines cost nothing.
//!
//! # Failure
//! A step that may work later is tried again with growing pauses; `last_error` says why it waits.
//! After [`Timing::tries_max`](crate::Timing) tries, or at once where trying cannot help, the machine
//! is `failed`. Records, deletions and egress policies are tried for ever: nothing else could be done.
//!
//! # Crash
//! Nothing here is stored. At start every machine that does not sleep gets a driver, which looks.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use base::MachineId;
use catalog::{Desired, MachineRow, Phase, Reboot};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::lifecycle::{Keeper, Left, Observed, Step, next_step};
use super::steps::{self, Seen};
use super::types::REASON_GUEST_ENDED;
use crate::control::Inner;
use crate::host::{KeeperLink, KeeperPhase, KeeperStatus};
use crate::{Error, Result};

/// How often a machine that rests awake is looked at while its upper is still coming.
const COMING_LOOK: Duration = Duration::from_secs(1);

/// How long the keeper of a machine that rests awake may take to say something new, and how long it is left alone then.
const REST_LOOK: Duration = Duration::from_secs(60);
/// See [`REST_LOOK`].
const REST_PAUSE: Duration = Duration::from_secs(10);

/// The drivers that run.
#[derive(Debug, Default)]
pub(crate) struct Drivers {
    running: Mutex<HashMap<MachineId, Arc<Nudge>>>,
}

/// A wake-up for a driver that waits.
#[derive(Debug, Default)]
pub(crate) struct Nudge {
    notify: Notify,
    pending: Mutex<bool>,
}

impl Nudge {
    fn give(&self) {
        *self.pending.lock() = true;
        self.notify.notify_one();
    }

    fn take(&self) -> bool {
        std::mem::take(&mut *self.pending.lock())
    }

    /// Returns once there is one.
    pub(crate) async fn given(&self) {
        while !*self.pending.lock() {
            self.notify.notified().await;
        }
    }
}

impl Drivers {
    /// Makes a machine's driver look again, starting it where there is none.
    pub(crate) fn nudge(inner: &Arc<Inner>, machine: &MachineId) {
        if inner.shutdown.is_cancelled() {
            return;
        }
        let mut running = inner.drivers.running.lock();
        if let Some(nudge) = running.get(machine) {
            nudge.give();
            return;
        }
        let nudge = Arc::new(Nudge::default());
        running.insert(machine.clone(), nudge.clone());
        drop(running);
        let driver = Driver {
            inner: Arc::clone(inner),
            machine: machine.clone(),
            nudge,
            tries: 0,
            of_its_own: 0,
            started: false,
            waiting: None,
        };
        inner.tasks.spawn(async move {
            let shutdown = driver.inner.shutdown.clone();
            tokio::select! {
                () = shutdown.cancelled() => (),
                () = driver.run() => (),
            }
        });
    }
}

#[cfg(test)]
impl Drivers {
    pub(crate) fn count(&self) -> usize {
        self.running.lock().len()
    }
}

struct Driver {
    inner: Arc<Inner>,
    machine: MachineId,
    nudge: Arc<Nudge>,
    /// Failures since the machine last got anywhere.
    tries: u32,
    /// Those of them that were no lack of anything that comes back by itself.
    of_its_own: u32,
    /// A keeper was started and has not been seen ready yet: if it is gone, it failed.
    started: bool,
    /// Which wait goes on, and since when nothing came of it, over nudges.
    waiting: Option<(Step, Instant)>,
}

impl Driver {
    async fn run(mut self) {
        loop {
            self.nudge.take();
            let machine = self.machine.clone();
            let row = match self.inner.db(move |catalog| catalog.machine(&machine)).await {
                Ok(Some(row)) => row,
                Ok(None) => {
                    self.leave(true);
                    self.inner.naps.forget(&self.machine);
                    return;
                }
                Err(error) => {
                    tracing::error!(machine = %self.machine, %error, "read the catalog");
                    self.pause().await;
                    continue;
                }
            };
            self.inner.naps.look(&row);
            let link = self.inner.parts.host.connect(&self.machine).await;
            let died = link.is_none() && std::mem::take(&mut self.started);
            // A reboot that was wished for meanwhile wants it gone.
            let wanted_gone = matches!(row.reboot, Some(Reboot::Orderly | Reboot::Forced));
            if died && row.desired != Desired::Destroyed && !wanted_gone {
                let error = steps::ended_words(&self.inner, &row).await;
                self.trouble(&row, Some(Step::AwaitReady), error).await;
                continue;
            }
            let seen = match self.observe(&row, link.clone()).await {
                Ok(seen) => seen,
                Err(error) => {
                    self.trouble(&row, None, error).await;
                    continue;
                }
            };
            let step = next_step(row.desired, seen.observed);
            if step == Step::Rest {
                self.begin_anew();
                match link {
                    Some(link) => {
                        let coming = self.inner.uppers.is_coming(&self.machine);
                        tokio::select! {
                            () = self.nudge.given() => (),
                            () = link.ended() => (),
                            () = tokio::time::sleep(COMING_LOOK), if coming => (),
                            () = something_new(&*link, seen.said) => (),
                        }
                    }
                    None if self.leave(false) => return,
                    None => (),
                }
                continue;
            }
            tracing::debug!(machine = %self.machine, desired = %row.desired, ?step, "next step");
            // Whoever changes the home of a machine that sleeps does not from here on. What is wished for
            // meanwhile counts.
            let _waking = if step == Step::StartKeeper {
                tokio::select! {
                    waking = self.inner.drafts.wake(&self.machine) => Some(waking),
                    () = self.nudge.given() => continue,
                }
            } else {
                None
            };
            let mut since = self.since(step);
            let taken = steps::take(&self.inner, &row, seen, step, &mut since, &self.nudge).await;
            self.waiting = Some((step, since));
            match taken {
                Ok(()) => {
                    match step {
                        Step::StartKeeper => self.started = true,
                        Step::AwaitReady => (),
                        _ => self.started = false,
                    }
                    if matches!(step, Step::ReportRunning | Step::ReportSleeping) {
                        self.begin_anew();
                    }
                }
                Err(error) => {
                    self.started = false;
                    self.trouble(&row, Some(step), error).await;
                }
            }
        }
    }

    /// Takes this driver off the list, unless somebody nudged it meanwhile; true where it is off.
    fn leave(&self, whatever: bool) -> bool {
        let mut running = self.inner.drivers.running.lock();
        if !whatever && *self.nudge.pending.lock() {
            return false;
        }
        running.remove(&self.machine);
        true
    }

    /// Since when this wait goes on.
    fn since(&mut self, step: Step) -> Instant {
        match self.waiting {
            Some((waiting, since)) if waiting == step => since,
            _ => {
                let now = Instant::now();
                self.waiting = Some((step, now));
                now
            }
        }
    }

    async fn observe(&self, row: &MachineRow, link: Option<Arc<dyn KeeperLink>>) -> Result<Seen> {
        let (mut failure, mut egress_differs, mut sizes_differ) = (None, false, false);
        let (mut assigned, mut said) = (None, None);
        let keeper = match &link {
            Some(link) => match link.status().await {
                Ok(status) => {
                    self.inner.uppers.note_coming(&self.machine, Some(&status));
                    self.inner.note_room(&self.machine, status.waits_for_room);
                    failure = status.failure.clone();
                    egress_differs =
                        status.phase == KeeperPhase::Ready && status.egress != row.spec.egress;
                    if status.phase == KeeperPhase::Ready
                        && let Some(sizes) = status.sizes
                    {
                        sizes_differ = !steps::is_in_force(sizes, steps::sizes_of(row));
                        assigned = Some(sizes.memory_mib);
                    }
                    let phase = status.phase;
                    said = Some(status);
                    match phase {
                        KeeperPhase::Starting => Keeper::Starting,
                        KeeperPhase::Ready => Keeper::Ready,
                        KeeperPhase::Stopping | KeeperPhase::Stopped => Keeper::Stopping,
                        KeeperPhase::Failed => Keeper::Failed,
                    }
                }
                // Whatever it is doing, it is to be ended.
                Err(_)
                    if row.desired == Desired::Destroyed || row.reboot == Some(Reboot::Forced) =>
                {
                    Keeper::Failed
                }
                Err(error) => return Err(error),
            },
            None => {
                self.inner.uppers.note_coming(&self.machine, None);
                self.inner.note_room(&self.machine, false);
                Keeper::Absent(self.left(row).await?)
            }
        };
        self.inner.note_memory(&self.machine, assigned);
        let (phase, recorded, reboot) = (row.observed.phase, row.recorded, row.reboot);
        let naps = self.inner.naps.has(&self.machine);
        let observed =
            Observed { phase, recorded, keeper, egress_differs, sizes_differ, reboot, naps };
        Ok(Seen { observed, link, failure, said })
    }

    /// How the home was left; looked at only where the answer decides something.
    async fn left(&self, row: &MachineRow) -> Result<Left> {
        let decides = match row.desired {
            Desired::Running => match row.observed.phase {
                Phase::Running => true,
                Phase::Stopping => self.inner.naps.has(&self.machine),
                _ => false,
            },
            Desired::Sleeping => !matches!(row.observed.phase, Phase::Sleeping | Phase::Failed),
            Desired::Destroyed => false,
        };
        if !decides {
            return Ok(Left::Held);
        }
        // What a keeper said at its end counts for the run that it ended, not for a later wish.
        let just_ended = matches!(row.observed.phase, Phase::Running | Phase::Stopping);
        if just_ended && self.inner.was_fenced(row).await {
            return Ok(Left::Lost);
        }
        if !self.inner.home_is_whole(row).await? {
            return Ok(Left::Held);
        }
        let napped = row.desired == Desired::Running && row.observed.phase == Phase::Stopping;
        let off = napped && self.inner.ended_because(row, REASON_GUEST_ENDED).await;
        Ok(if off { Left::PoweredOff } else { Left::Whole })
    }

    /// Writes down what went wrong, and waits before the next try. `step` is `None` where the look
    /// itself failed: a keeper that is there and does not answer is never taken for a lost one.
    async fn trouble(&mut self, row: &MachineRow, step: Option<Step>, error: Error) {
        self.tries += 1;
        let own = steps::is_of_the_guest(&error) || !error.is_retryable();
        self.of_its_own += u32::from(own);
        self.waiting = None;
        let for_ever = match step {
            Some(Step::Record | Step::Destroy | Step::KillKeeper | Step::SetEgress) => true,
            Some(_) => row.desired == Desired::Destroyed || row.observed.phase == Phase::Running,
            None => row.observed.phase != Phase::Starting,
        };
        let tries_max = self.inner.settings.timing.tries_max;
        // Nobody asked for it to sleep, so nobody would ask for it to wake once what is in its way is gone.
        let comes_up = matches!(step, None | Some(Step::StartKeeper | Step::AwaitReady));
        let wakes =
            self.inner.naps.wakes(&self.machine) || comes_up && self.inner.naps.has(&self.machine);
        let may_help = if wakes {
            !steps::is_final(&error) && self.of_its_own < tries_max
        } else {
            error.is_retryable() && self.tries < tries_max
        };
        let again = for_ever || may_help;
        tracing::warn!(
            machine = %self.machine, ?step, tries = self.tries, again, %error,
            source = ?error.source, "a step failed"
        );
        let written = if again {
            steps::report_trouble(&self.inner, row, &error).await
        } else {
            self.begin_anew();
            steps::report_failed(&self.inner, row, &error).await
        };
        if let Err(error) = written {
            tracing::error!(machine = %self.machine, %error, "write down what went wrong");
        }
        if again {
            self.pause().await;
        }
    }

    /// It got somewhere, or is given up.
    fn begin_anew(&mut self) {
        (self.tries, self.of_its_own) = (0, 0);
    }

    /// Waits, longer with every failure; a nudge ends it.
    async fn pause(&self) {
        let timing = &self.inner.settings.timing;
        let pause = backoff(timing.backoff_min, timing.backoff_max, self.tries);
        tokio::select! {
            () = tokio::time::sleep(pause) => (),
            () = self.nudge.given() => (),
        }
    }
}

/// Returns once the keeper of a machine that rests says something else than it `said`.
async fn something_new(link: &dyn KeeperLink, said: Option<KeeperStatus>) {
    let Some(said) = said else { return std::future::pending().await };
    loop {
        // One of an older version answers at once.
        let pause = tokio::time::sleep(REST_PAUSE);
        match link.next_status(&said, REST_LOOK).await {
            Ok(now) if now.phase != said.phase || now.waits_for_room != said.waits_for_room => {
                return;
            }
            // One that does not answer is looked at when something is wanted of it.
            _ => pause.await,
        }
    }
}

/// Doubles from `min` with every try, up to `max`.
fn backoff(min: Duration, max: Duration, tries: u32) -> Duration {
    let doublings = tries.saturating_sub(1).min(16);
    min.saturating_mul(1 << doublings).min(max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let (min, max) = (Duration::from_millis(200), Duration::from_secs(15));
        let pauses: Vec<u128> =
            [0, 1, 2, 3, 7, 8, 4_000].map(|tries| backoff(min, max, tries).as_millis()).into();
        assert_eq!(pauses, [200, 200, 400, 800, 12_800, 15_000, 15_000]);
    }
}
