//! When to try again while the store is away. Pure.

use std::time::{Duration, Instant};

use crate::limits::{RETRY_MAX, RETRY_MIN};

/// Attempts that failed since the last one that did not.
#[derive(Debug, Default)]
pub(super) struct Retry {
    failures: u32,
    /// After the last one.
    pause: Duration,
}

impl Retry {
    /// One more failed.
    pub(super) fn failed(&mut self, random: u32) {
        self.failures = self.failures.saturating_add(1);
        self.pause = pause(self.failures, random);
    }

    /// One did not.
    pub(super) fn succeeded(&mut self) {
        self.failures = 0;
    }

    /// True where the last one failed.
    pub(super) fn is_on(&self) -> bool {
        self.failures > 0
    }

    /// The earliest moment for the next one, where the `last` failed.
    pub(super) fn not_before(&self, last: Option<Instant>) -> Option<Instant> {
        last.filter(|_| self.is_on()).map(|last| last + self.pause)
    }
}

/// How long to wait after so many failures in a row: doubling up to [`RETRY_MAX`], drawn from the upper
/// half so that homes which failed together do not come back together. Pure.
fn pause(failures: u32, random: u32) -> Duration {
    let longest = RETRY_MIN.saturating_mul(1 << failures.min(10)).min(RETRY_MAX);
    longest.mul_f64(0.5 + 0.5 * f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_after_failures_grows_is_spread_and_bounded() {
        for failures in 1..40 {
            let (least, most) = (pause(failures, 0), pause(failures, u32::MAX));
            assert_eq!(least * 2, most);
            assert!(least >= RETRY_MIN && most <= RETRY_MAX, "{failures}");
            assert!(pause(failures + 1, 0) >= least);
        }
        assert_eq!(pause(40, u32::MAX), RETRY_MAX);
    }
}
