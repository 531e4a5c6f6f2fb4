//! When the store was looked at: what was seen there counts for a while only.

use std::time::Duration;

use tokio::time::Instant;

use crate::limits::DECIDE_MAX;

/// A moment, on the clock that pauses are made with and on that of the host. The first stands still while the host is
/// suspended, and what other hosts delete meanwhile does not wait for it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Looked {
    at: Instant,
    since_boot: Duration,
}

impl Looked {
    pub(crate) fn now() -> Self {
        Self { at: Instant::now(), since_boot: base::since_boot() }
    }

    /// Whether it is too long ago to decide upon what was seen.
    pub(crate) fn is_stale(&self) -> bool {
        self.is_stale_at(&Self::now())
    }

    fn is_stale_at(&self, now: &Self) -> bool {
        let suspended_too = now.since_boot.saturating_sub(self.since_boot);
        now.at.saturating_duration_since(self.at).max(suspended_too) > DECIDE_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_is_stale_after_a_while_whether_or_not_the_host_was_suspended() {
        let looked = Looked::now();
        let late = DECIDE_MAX + Duration::from_secs(1);
        let after = |awake: Duration, in_all: Duration| Looked {
            at: looked.at + awake,
            since_boot: looked.since_boot + in_all,
        };
        assert!(!looked.is_stale());
        assert!(!looked.is_stale_at(&after(DECIDE_MAX, DECIDE_MAX)));
        assert!(looked.is_stale_at(&after(late, late)));
        assert!(looked.is_stale_at(&after(Duration::ZERO, late)), "it was suspended");
    }

    #[test]
    fn the_clock_of_the_host_goes_on() {
        let before = base::since_boot();
        std::thread::sleep(Duration::from_millis(20));
        let passed = base::since_boot() - before;
        assert!(before > Duration::ZERO && passed >= Duration::from_millis(15), "{passed:?}");
    }
}
