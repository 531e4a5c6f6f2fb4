//! Time, as something passed in.

use std::fmt::Debug;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use crate::Timestamp;

/// Where a component gets the time from. Tests and the simulator move it by hand.
pub trait Clock: Debug + Send + Sync + 'static {
    /// Wall-clock time. May jump; never used to decide who owns what.
    fn now(&self) -> Timestamp;
    /// Time since some fixed point. Never goes back, and goes on while the host is suspended.
    fn monotonic(&self) -> Duration;
}

/// The real clock.
#[derive(Debug)]
pub struct SystemClock {
    started: Duration,
}

impl SystemClock {
    /// A clock whose monotonic zero is now.
    #[must_use]
    pub fn new() -> Self {
        Self { started: since_boot() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn monotonic(&self) -> Duration {
        since_boot().saturating_sub(self.started)
    }
}

/// Time since the host was started, suspended or not: `Instant` stands still while it is suspended, and what others
/// do meanwhile goes on. For time-outs that decide whether something may still be done; nobody writes it down.
#[must_use]
pub fn since_boot() -> Duration {
    // Every Linux that this runs on has it; the call cannot fail for a clock that exists.
    clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default()
}
