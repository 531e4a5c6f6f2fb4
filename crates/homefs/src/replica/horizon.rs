//! How long a writer may go by what it knew. Pure.
//!
//! Create-if-absent forgets: where a number was taken and its object deleted since, a `create`
//! succeeds that should not. So nothing goes before a *horizon* has passed since the boundary was
//! raised above it, and a writer may believe a `create` for so long:
//!
//! - At the moment *s* the number *n + 1* was not taken by anybody: our commit *n* was made after
//!   *s*, or the store was asked for the boundary after *s*.
//! - Whoever takes *n + 1* does so after *s*, raises the boundary later still, and deletes a horizon
//!   after that.
//! - So a `create` of *n + 1* that was answered before *s* + horizon found what there really was.
//!
//! Half of the horizon is used: the other half is for clocks that run at different speeds.
//!
//! # Clocks
//! Time is the larger of what two clocks say: the monotonic one, which goes on while the host is
//! suspended, and the wall clock, which is set right after a virtual machine was stopped and
//! started. A clock that jumps ahead costs a request; one that goes back is outvoted by the other.
//!
//! # What does not hang on clocks
//! The number after the last commit of a writer is taken by a commit that begins an epoch, if by
//! any. Those are never deleted while the home lives (`garbage`), so a writer of a living home would
//! be stopped even by clocks that all stood still.

use std::time::Duration;

use base::{Clock, Timestamp};

use super::limits::HORIZON;

/// A moment, by both clocks of one host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moment {
    monotonic: Duration,
    wall: Timestamp,
}

impl Moment {
    /// Now.
    pub(crate) fn of(clock: &dyn Clock) -> Self {
        Self { monotonic: clock.monotonic(), wall: clock.now() }
    }

    /// An earlier one.
    #[cfg(test)]
    pub(crate) fn before(self, by: Duration) -> Self {
        let wall = self.wall.checked_sub(by).unwrap_or(self.wall);
        Self { monotonic: self.monotonic.saturating_sub(by), wall }
    }

    /// How long ago it is at `now`, if the clock that went faster is right.
    pub(crate) fn at_most_until(&self, now: &Self) -> Duration {
        let (monotonic, wall) = self.until(now);
        monotonic.max(wall)
    }

    /// How long ago it is at `now`, if the clock that went slower is right.
    pub(crate) fn at_least_until(&self, now: &Self) -> Duration {
        let (monotonic, wall) = self.until(now);
        monotonic.min(wall)
    }

    /// True where a minute lies between the two by either clock.
    pub(crate) fn is_apart(&self, later: &Self) -> bool {
        self.at_most_until(later) >= Duration::from_secs(60)
    }

    fn until(&self, now: &Self) -> (Duration, Duration) {
        let wall = now.wall.duration_since(self.wall);
        (now.monotonic.saturating_sub(self.monotonic), wall.try_into().unwrap_or_default())
    }
}

/// True where a `create` that was answered at `answered` needs no look at the boundary. `free`: a
/// moment at which nobody had taken its number.
#[must_use]
pub(crate) fn create_proves(free: &Moment, answered: &Moment) -> bool {
    free.at_most_until(answered) < HORIZON / 2
}

/// True where what was said to go at `said` may go at `now`.
#[must_use]
pub(crate) fn may_go(said: &Moment, now: &Moment) -> bool {
    said.at_least_until(now) >= HORIZON
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn moment(monotonic: i64, wall: i64) -> Moment {
        Moment {
            monotonic: Duration::from_millis(monotonic.max(0).unsigned_abs()),
            wall: Timestamp::from_millisecond(1_700_000_000_000 + wall).unwrap(),
        }
    }

    #[test]
    fn half_a_horizon_by_either_clock_ends_the_trust() {
        let half = 450_000;
        let free = moment(10_000, 10_000);
        for (monotonic, wall, proves) in [
            (0, 0, true),
            (half - 1, half - 1, true),
            (half, 0, false),
            (0, half, false),
            // The wall clock was set back; the other one still counts.
            (half, -half, false),
            (5, -half, true),
            // The host was suspended, or the machine that we run in was stopped.
            (2 * half, 2 * half, false),
            (3, 100 * half, false),
        ] {
            let answered = moment(10_000 + monotonic, 10_000 + wall);
            assert_eq!(create_proves(&free, &answered), proves, "{monotonic} {wall}");
        }
    }

    #[test]
    fn what_is_to_go_waits_for_both_clocks() {
        let horizon = 900_000;
        let said = moment(10_000, 10_000);
        for (monotonic, wall, may) in [
            (horizon, horizon, true),
            (horizon - 1, horizon, false),
            (horizon, horizon - 1, false),
            (10 * horizon, -5, false),
        ] {
            assert_eq!(may_go(&said, &moment(10_000 + monotonic, 10_000 + wall)), may);
        }
    }

    proptest! {
        /// Two hosts, the clocks of each running at speeds of their own and jumping as they like:
        /// as long as one clock of the writer is at most half too slow, and one of the deleter's at
        /// most a third too fast, no create is believed that came after a deletion.
        #[test]
        fn a_create_after_the_deletion_is_never_believed(
            taken in 0_i64..3_600_000,
            raised in 0_i64..3_600_000,
            deleted in 0_i64..3_600_000,
            answered in 0_i64..3_600_000,
            writer_speed in 70_i64..200,
            deleter_speed in 50_i64..133,
            writer_jump in -10_000_000_i64..10_000_000,
            deleter_jump in -10_000_000_i64..10_000_000,
            monotonic_is_right in any::<bool>(),
        ) {
            // In true time, from the moment at which the writer knew its number to be free.
            let raised = taken + raised;
            let deleted = raised + deleted;
            let answered = deleted + answered;
            let writer = |at: i64| {
                let (good, bad) = (at * writer_speed / 100, if at > 0 { writer_jump } else { 0 });
                if monotonic_is_right { moment(good, bad) } else { moment(0, good) }
            };
            let deleter = |at: i64| {
                let good = (at - raised) * deleter_speed / 100;
                let bad = if at > raised { deleter_jump } else { 0 };
                if monotonic_is_right { moment(good, good + bad) } else { moment(good + bad, good) }
            };
            let went = may_go(&deleter(raised), &deleter(deleted));
            let believed = create_proves(&writer(0), &writer(answered));
            prop_assert!(!(went && believed), "{taken} {raised} {deleted} {answered}");
        }
    }
}
