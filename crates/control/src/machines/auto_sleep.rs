//! When an idle machine goes to sleep (contract section 17).
//!
//! Activity is an execution, an attachment or a file call. Processes in the guest that nobody is
//! attached to do not count, unless they belong to a running execution.
//!
//! # Order
//! Whoever uses a machine begins ([`Activity::begin`]), then reads where it is. Who wishes it asleep for
//! idleness says so ([`Activity::fall_asleep`]), then writes it down. So either the machine stays, or its user
//! reads that it sleeps, and wakes it: a command that has begun is not ended by a look at the clock before it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use base::{Clock, MachineId};
use parking_lot::Mutex;
use tokio::sync::Notify;

/// What to do with a machine that is awake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Leave it awake.
    Stay,
    /// Put it to sleep.
    Sleep,
}

/// Why a machine cannot be put to sleep at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    /// Somebody uses it.
    Now,
    /// Somebody else puts it to sleep.
    FallsAsleep,
}

/// Whether a machine has been idle for long enough. `busy` is what runs in it now.
#[must_use]
pub(crate) fn judge(autosleep_seconds: u64, idle: Duration, busy: bool) -> Verdict {
    let never = autosleep_seconds == 0;
    if never || busy || idle < Duration::from_secs(autosleep_seconds) {
        Verdict::Stay
    } else {
        Verdict::Sleep
    }
}

/// Who did something last, and who is doing something now. In memory only: after a restart every
/// machine counts as just used.
#[derive(Debug)]
pub(crate) struct Activity {
    clock: Arc<dyn Clock>,
    machines: Mutex<HashMap<MachineId, Used>>,
    /// A machine has fallen asleep, or stays awake after all.
    settled: Notify,
}

#[derive(Debug, Clone, Copy)]
struct Used {
    /// On the clock that never goes back.
    last: Duration,
    now: u32,
    /// It is being wished asleep.
    falling_asleep: bool,
}

impl Used {
    fn at(last: Duration) -> Self {
        Self { last, now: 0, falling_asleep: false }
    }
}

impl Activity {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, machines: Mutex::default(), settled: Notify::new() }
    }

    /// Something was done.
    pub(crate) fn touch(&self, machine: &MachineId) {
        let last = self.clock.monotonic();
        let mut machines = self.machines.lock();
        machines.entry(machine.clone()).or_insert(Used::at(last)).last = last;
    }

    /// Something is being done until the guard is dropped. What was read of the machine before may be
    /// over by now.
    pub(crate) async fn begin(self: &Arc<Self>, machine: &MachineId) -> ActivityGuard {
        let guard = self.count(machine);
        loop {
            let settled = self.settled.notified();
            if self.machines.lock().get(machine).is_none_or(|used| !used.falling_asleep) {
                return guard;
            }
            settled.await;
        }
    }

    fn count(self: &Arc<Self>, machine: &MachineId) -> ActivityGuard {
        let last = self.clock.monotonic();
        let mut machines = self.machines.lock();
        machines.entry(machine.clone()).or_insert(Used::at(last)).now += 1;
        ActivityGuard { activity: Arc::clone(self), machine: machine.clone() }
    }

    /// Has a machine fall asleep that is idle; `None` where it is not. `since_keeper` is how long its keeper has
    /// seen nothing. Until the guard is dropped, whoever begins waits.
    pub(crate) fn fall_asleep(
        &self,
        machine: &MachineId,
        autosleep_seconds: u64,
        since_keeper: Option<Duration>,
    ) -> Option<FallingAsleep<'_>> {
        let now = self.clock.monotonic();
        let mut machines = self.machines.lock();
        let used = machines.entry(machine.clone()).or_insert(Used::at(now));
        let idle = now.saturating_sub(used.last);
        let idle = since_keeper.map_or(idle, |since| idle.min(since));
        if used.falling_asleep || judge(autosleep_seconds, idle, used.now > 0) == Verdict::Stay {
            return None;
        }
        used.falling_asleep = true;
        Some(FallingAsleep { activity: self, machine: machine.clone() })
    }

    /// Has a machine fall asleep that nobody uses, however short that has been so. Until the guard is dropped, whoever
    /// begins waits.
    pub(crate) fn lie_down(&self, machine: &MachineId) -> Result<FallingAsleep<'_>, Use> {
        let now = self.clock.monotonic();
        let mut machines = self.machines.lock();
        let used = machines.entry(machine.clone()).or_insert(Used::at(now));
        if used.falling_asleep {
            return Err(Use::FallsAsleep);
        }
        if used.now > 0 {
            return Err(Use::Now);
        }
        used.falling_asleep = true;
        Ok(FallingAsleep { activity: self, machine: machine.clone() })
    }

    /// How long nothing was done, and whether something is being done. A machine that is not known
    /// counts as used now.
    pub(crate) fn idle(&self, machine: &MachineId) -> (Duration, bool) {
        let now = self.clock.monotonic();
        let mut machines = self.machines.lock();
        let used = machines.entry(machine.clone()).or_insert(Used::at(now));
        (now.saturating_sub(used.last), used.now > 0)
    }

    /// The machine is no longer awake.
    pub(crate) fn forget(&self, machine: &MachineId) {
        let mut machines = self.machines.lock();
        if machines.get(machine).is_some_and(|used| used.now == 0) {
            machines.remove(machine);
        }
    }
}

/// Keeps a machine awake while it lives.
#[derive(Debug)]
pub(crate) struct ActivityGuard {
    activity: Arc<Activity>,
    machine: MachineId,
}

impl Drop for ActivityGuard {
    fn drop(&mut self) {
        let last = self.activity.clock.monotonic();
        if let Some(used) = self.activity.machines.lock().get_mut(&self.machine) {
            used.now = used.now.saturating_sub(1);
            used.last = last;
        }
    }
}

/// A machine that is being wished asleep.
#[derive(Debug)]
pub(crate) struct FallingAsleep<'a> {
    activity: &'a Activity,
    machine: MachineId,
}

impl Drop for FallingAsleep<'_> {
    fn drop(&mut self) {
        if let Some(used) = self.activity.machines.lock().get_mut(&self.machine) {
            used.falling_asleep = false;
        }
        self.activity.settled.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;
    use crate::fakes::HandClock;

    #[test]
    fn a_machine_sleeps_when_it_was_idle_for_long_enough() {
        let second = Duration::from_secs;
        for (autosleep, idle, busy, expected) in [
            (300, second(299), false, Verdict::Stay),
            (300, second(300), false, Verdict::Sleep),
            (300, second(9_999), true, Verdict::Stay),
            (0, second(u64::MAX), false, Verdict::Stay),
            (crate::limits::AUTOSLEEP_SECONDS_MAX, second(3_600), false, Verdict::Stay),
        ] {
            assert_eq!(judge(autosleep, idle, busy), expected, "{autosleep} {idle:?} {busy}");
        }
    }

    #[tokio::test]
    async fn who_begins_keeps_a_machine_or_waits_until_it_sleeps() {
        let clock = Arc::new(HandClock::new());
        let activity = Arc::new(Activity::new(clock.clone()));
        let machine = MachineId::generate();
        activity.touch(&machine);
        clock.advance(Duration::from_secs(9));
        assert!(activity.fall_asleep(&machine, 10, None).is_none(), "it was used");
        clock.advance(Duration::from_secs(1));
        assert!(
            activity.fall_asleep(&machine, 10, Some(Duration::from_secs(9))).is_none(),
            "in it"
        );
        assert!(activity.fall_asleep(&machine, 0, None).is_none(), "it never sleeps by itself");
        let falling_asleep =
            activity.fall_asleep(&machine, 10, Some(Duration::from_secs(10))).unwrap();
        assert!(activity.fall_asleep(&machine, 10, None).is_none(), "it does already");
        let mut begins = Box::pin(activity.begin(&machine));
        assert!(begins.as_mut().now_or_never().is_none());
        assert!(activity.begin(&MachineId::generate()).now_or_never().is_some(), "another's");
        drop(falling_asleep);
        let guard = begins.now_or_never().expect("it goes on");
        assert!(activity.fall_asleep(&machine, 10, None).is_none(), "it is in use");
        drop(guard);
        clock.advance(Duration::from_secs(10));
        assert!(activity.fall_asleep(&machine, 10, None).is_some());
    }

    #[tokio::test]
    async fn idleness_is_counted_from_the_end_of_the_last_use() {
        let clock = Arc::new(HandClock::new());
        let activity = Arc::new(Activity::new(clock.clone()));
        let machine = MachineId::generate();
        assert_eq!(activity.idle(&machine), (Duration::ZERO, false));
        let guard = activity.begin(&machine).await;
        clock.advance(Duration::from_secs(100));
        assert!(activity.idle(&machine).1);
        drop(guard);
        clock.advance(Duration::from_secs(7));
        assert_eq!(activity.idle(&machine), (Duration::from_secs(7), false));
        activity.touch(&machine);
        assert_eq!(activity.idle(&machine), (Duration::ZERO, false));
    }
}
