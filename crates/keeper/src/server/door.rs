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

    /// Does `work` inside, to its end: also where whoever asked for it goes away, a change that has begun
    /// counts until it is done.
    ///
    /// # Errors
    /// Those of [`enter`](Self::enter) and of `work`.
    pub(crate) async fn through<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let inside = self.enter()?;
        let done = tokio::spawn(async move {
            let done = work.await;
            drop(inside);
            done
        });
        done.await.map_err(|error| Failure::internal("finish a call", error))?
    }

    /// Returns once nobody is inside, but no later than after `patience`; true where it is so. The door is
    /// closed.
    pub(crate) async fn empty(&self, patience: Duration) -> bool {
        let empty = tokio::time::timeout(patience, self.inside.wait()).await.is_ok();
        if !empty {
            tracing::warn!(calls = self.inside.len(), "calls were still under way at sleep");
        }
        empty
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
        let (empty, ()) = tokio::join!(door.empty(Duration::from_secs(10)), leaves);
        assert!(empty);
        assert_eq!(begun.elapsed(), Duration::from_secs(2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_stays_inside_does_not_hold_up_sleep_for_ever() {
        let door = Door::default();
        let _call = door.enter().unwrap();
        door.close();
        let begun = tokio::time::Instant::now();
        assert!(!door.empty(Duration::from_secs(10)).await);
        assert_eq!(begun.elapsed(), Duration::from_secs(10));
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_whose_caller_goes_away_stays_inside_until_it_is_done() {
        let door = Door::default();
        let change = door.through(async {
            tokio::time::sleep(Duration::from_secs(5)).await;
            Ok(())
        });
        tokio::time::timeout(Duration::from_secs(1), change).await.unwrap_err();
        door.close();
        assert!(!door.empty(Duration::from_secs(2)).await);
        assert!(door.empty(Duration::from_secs(10)).await);
    }
}
