//! The door that calls pass which change the home or start something.
//!
//! It is closed before the home is sealed. What is inside by then may finish; whoever comes later
//! is told to come again, and finds the machine asleep.

use std::time::Duration;

use base::ErrorKind;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::{Failure, Result};

/// Open at first.
#[derive(Debug, Default)]
pub(crate) struct Door {
    inside: TaskTracker,
}

impl Door {
    /// Lets a call in; it is inside until the token is dropped.
    ///
    /// # Errors
    /// `Unavailable` once the door is closed.
    pub(crate) fn enter(&self) -> Result<TaskTrackerToken> {
        // In this order, so that nobody slips in between the look and the count.
        let token = self.inside.token();
        if self.inside.is_closed() {
            return Err(Failure::new(
                ErrorKind::Unavailable,
                "the machine is going to sleep; try again in a moment",
            ));
        }
        Ok(token)
    }

    /// Lets nobody in any more.
    pub(crate) fn close(&self) {
        self.inside.close();
    }

    /// Returns once nobody is inside, but no later than after `patience`. The door is closed.
    pub(crate) async fn empty(&self, patience: Duration) {
        if tokio::time::timeout(patience, self.inside.wait()).await.is_err() {
            tracing::warn!(calls = self.inside.len(), "calls were still under way at sleep");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_closed_door_lets_out_but_not_in() {
        let door = Door::default();
        let call = door.enter().unwrap();
        door.close();
        assert_eq!(door.enter().unwrap_err().kind, ErrorKind::Unavailable);
        let begun = tokio::time::Instant::now();
        let leaves = async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            drop(call);
        };
        tokio::join!(door.empty(Duration::from_secs(10)), leaves);
        assert_eq!(begun.elapsed(), Duration::from_secs(2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_stays_inside_does_not_hold_up_sleep_for_ever() {
        let door = Door::default();
        let _call = door.enter().unwrap();
        door.close();
        let begun = tokio::time::Instant::now();
        door.empty(Duration::from_secs(10)).await;
        assert_eq!(begun.elapsed(), Duration::from_secs(10));
    }
}
