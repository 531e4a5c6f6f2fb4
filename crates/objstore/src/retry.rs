//! When a call is tried again, and for how long.
//!
//! # Order
//! Attempt; where it failed in a way that may pass, pause and attempt again. The pause doubles from
//! [`BACKOFF_FIRST`] to [`BACKOFF_MAX`] and is drawn evenly from its upper half, so that callers
//! which failed together do not come back together.
//!
//! # Failure
//! The last failure is what the caller gets, with the number of attempts.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tracing::debug;

use crate::Error;
use crate::classify::Failure;
use crate::limits::{
    ATTEMPT_TIMEOUT, ATTEMPTS_MAX, BACKOFF_FIRST, BACKOFF_MAX, PROBE_ATTEMPT_TIMEOUT,
    PROBE_RETRY_TIMEOUT, RETRY_TIMEOUT, UPLOAD_BYTES_PER_SECOND_MIN,
};
use crate::metered::count_retry;

/// The bounds of one call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Policy {
    /// No attempt begins later than this after the call.
    pub(crate) retry_timeout: Duration,
    /// What an attempt may take beside moving its body.
    pub(crate) attempt_timeout: Duration,
}

impl Policy {
    /// For everything but the first look at a store.
    pub(crate) const PATIENT: Self =
        Self { retry_timeout: RETRY_TIMEOUT, attempt_timeout: ATTEMPT_TIMEOUT };
    /// For a person who waits to hear whether the store can be used.
    pub(crate) const PROBE: Self =
        Self { retry_timeout: PROBE_RETRY_TIMEOUT, attempt_timeout: PROBE_ATTEMPT_TIMEOUT };

    /// What an attempt that sends `body_len` bytes may take.
    pub(crate) fn upload_timeout(&self, body_len: usize) -> Duration {
        let seconds = body_len as u64 / UPLOAD_BYTES_PER_SECOND_MIN;
        self.attempt_timeout + Duration::from_secs(seconds)
    }
}

/// The state of one call over its attempts.
#[derive(Debug)]
pub(crate) struct Retry {
    policy: Policy,
    started: Instant,
    attempts: u32,
}

impl Retry {
    /// Begins a call.
    pub(crate) fn new(policy: Policy) -> Self {
        Self { policy, started: Instant::now(), attempts: 1 }
    }

    /// Returns after a pause where another attempt may be made, else with the error for the caller.
    pub(crate) async fn again(
        &mut self,
        verb: &'static str,
        key: &str,
        failure: Failure,
    ) -> Result<(), Error> {
        let Failure::Passing(message) = failure else { return Err(failure.into_error(key)) };
        let pause = backoff(self.attempts);
        let late = self.started.elapsed() + pause > self.policy.retry_timeout;
        if late || self.attempts >= ATTEMPTS_MAX {
            let attempts = self.attempts;
            return Err(Error::unavailable(format!("{message} ({attempts} attempts to {verb})")));
        }
        debug!(verb, key, attempt = self.attempts, %message, "object store call failed, trying again");
        count_retry(verb);
        sleep(pause).await;
        self.attempts += 1;
        Ok(())
    }
}

/// The pause after the `attempt`-th attempt.
fn backoff(attempt: u32) -> Duration {
    let doubled = BACKOFF_FIRST.saturating_mul(1 << attempt.saturating_sub(1).min(16));
    doubled.min(BACKOFF_MAX).mul_f64(rand::random_range(0.5..=1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_grows_and_stays_bounded() {
        for attempt in 0..200 {
            assert!(backoff(attempt) <= BACKOFF_MAX);
        }
        assert!(backoff(1) <= BACKOFF_FIRST);
        assert!(backoff(20) >= BACKOFF_MAX / 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_stays_away_is_given_up_within_the_timeout() {
        let started = Instant::now();
        let mut retry = Retry::new(Policy::PATIENT);
        let error = loop {
            if let Err(error) = retry.again("get", "k", Failure::Passing("gone".into())).await {
                break error;
            }
        };
        assert!(matches!(error, Error::Unavailable { .. }));
        assert!(started.elapsed() <= RETRY_TIMEOUT);
        assert!(started.elapsed() >= RETRY_TIMEOUT / 2, "gave up after {:?}", started.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_that_cannot_pass_is_not_tried_again() {
        let mut retry = Retry::new(Policy::PATIENT);
        let outcome = retry.again("get", "k", Failure::Denied("no".into())).await;
        assert!(matches!(outcome, Err(Error::Denied { .. })));
        assert_eq!(retry.attempts, 1);
    }
}
