//! A clock that stands still until a test moves it.

use std::time::Duration;

use base::{Clock, Timestamp};
use parking_lot::Mutex;

/// A clock moved by hand. Wall-clock and monotonic time move together unless told otherwise.
#[derive(Debug)]
pub struct HandClock {
    time: Mutex<Time>,
}

#[derive(Debug)]
struct Time {
    wall: Timestamp,
    monotonic: Duration,
}

impl HandClock {
    /// A clock that shows `wall`, at monotonic zero.
    #[must_use]
    pub fn new(wall: Timestamp) -> Self {
        Self { time: Mutex::new(Time { wall, monotonic: Duration::ZERO }) }
    }

    /// Lets `by` pass.
    ///
    /// # Panics
    /// Where the wall clock would leave the years a timestamp can hold.
    pub fn advance(&self, by: Duration) {
        let mut time = self.time.lock();
        time.wall =
            time.wall.checked_add(by).expect("a test stays within the years of a timestamp");
        time.monotonic += by;
    }

    /// Sets the wall clock, forwards or back, as an administrator or NTP would.
    pub fn jump_to(&self, wall: Timestamp) {
        self.time.lock().wall = wall;
    }
}

impl Default for HandClock {
    /// Shows the first second of 2026.
    fn default() -> Self {
        const START: i64 = 1_767_225_600;
        Self::new(Timestamp::from_second(START).expect("a moment of 2026 is a timestamp"))
    }
}

impl Clock for HandClock {
    fn now(&self) -> Timestamp {
        self.time.lock().wall
    }

    fn monotonic(&self) -> Duration {
        self.time.lock().monotonic
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn monotonic_time_ignores_a_jump_of_the_wall_clock() {
        let clock = HandClock::default();
        let start = clock.now();
        clock.advance(Duration::from_secs(5));
        assert_eq!(clock.now().duration_since(start).as_secs(), 5);
        clock.jump_to(start);
        assert_eq!(clock.now(), start);
        assert_eq!(clock.monotonic(), Duration::from_secs(5));
    }
}
