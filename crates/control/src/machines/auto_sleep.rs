//! When an idle machine goes to sleep (contract section 17).
//!
//! Activity is an execution, an attachment or a file call. Processes in the guest that nobody is
//! attached to do not count, unless they belong to a running execution.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use base::{Clock, MachineId};
use parking_lot::Mutex;

/// What to do with a machine that is awake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Leave it awake.
    Stay,
    /// Put it to sleep.
    Sleep,
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
    machines: Mutex<HashMap<MachineId, Use>>,
}

#[derive(Debug, Clone, Copy)]
struct Use {
    /// On the clock that never goes back.
    last: Duration,
    now: u32,
}

impl Activity {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, machines: Mutex::default() }
    }

    /// Something was done.
    pub(crate) fn touch(&self, machine: &MachineId) {
        let last = self.clock.monotonic();
        let mut machines = self.machines.lock();
        machines.entry(machine.clone()).or_insert(Use { last, now: 0 }).last = last;
    }

    /// Something is being done until the guard is dropped.
    pub(crate) fn begin(self: &Arc<Self>, machine: &MachineId) -> ActivityGuard {
        let last = self.clock.monotonic();
        let mut machines = self.machines.lock();
        machines.entry(machine.clone()).or_insert(Use { last, now: 0 }).now += 1;
        ActivityGuard { activity: Arc::clone(self), machine: machine.clone() }
    }

    /// How long nothing was done, and whether something is being done. A machine that is not known
    /// counts as used now.
    pub(crate) fn idle(&self, machine: &MachineId) -> (Duration, bool) {
        let now = self.clock.monotonic();
        let mut machines = self.machines.lock();
        let used = machines.entry(machine.clone()).or_insert(Use { last: now, now: 0 });
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

#[cfg(test)]
mod tests {
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

    #[test]
    fn idleness_is_counted_from_the_end_of_the_last_use() {
        let clock = Arc::new(HandClock::new());
        let activity = Arc::new(Activity::new(clock.clone()));
        let machine = MachineId::generate();
        assert_eq!(activity.idle(&machine), (Duration::ZERO, false));
        let guard = activity.begin(&machine);
        clock.advance(Duration::from_secs(100));
        assert!(activity.idle(&machine).1);
        drop(guard);
        clock.advance(Duration::from_secs(7));
        assert_eq!(activity.idle(&machine), (Duration::from_secs(7), false));
        activity.touch(&machine);
        assert_eq!(activity.idle(&machine), (Duration::ZERO, false));
    }
}
