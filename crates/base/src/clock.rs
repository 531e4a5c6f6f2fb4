//! Time, as something passed in.

use std::fmt::Debug;
use std::time::{Duration, Instant};

use crate::Timestamp;

/// Where a component gets the time from. Tests and the simulator move it by hand.
pub trait Clock: Debug + Send + Sync + 'static {
    /// Wall-clock time. May jump; never used to decide who owns what.
    fn now(&self) -> Timestamp;
    /// Time since some fixed point. Never goes back.
    fn monotonic(&self) -> Duration;
}

/// The real clock.
#[derive(Debug)]
pub struct SystemClock {
    started: Instant,
}

impl SystemClock {
    /// A clock whose monotonic zero is now.
    #[must_use]
    pub fn new() -> Self {
        Self { started: Instant::now() }
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
        self.started.elapsed()
    }
}
