//! Somebody waits for what is being stored, for a while.

use tokio::sync::watch;
use tokio::time::Instant;

/// Until when somebody waits. Clones are one.
#[derive(Debug, Clone)]
pub(super) struct Hurry(watch::Sender<Option<Instant>>);

impl Default for Hurry {
    fn default() -> Self {
        Self(watch::Sender::new(None))
    }
}

impl Hurry {
    /// Somebody waits until then.
    pub(super) fn until(&self, until: Instant) {
        self.0.send_if_modified(|known| {
            let is_later = *known < Some(until);
            if is_later {
                *known = Some(until);
            }
            is_later
        });
    }

    /// Returns once somebody waits. Cancel-safe.
    pub(super) async fn wanted(&self) {
        let is_now = |until: &Option<Instant>| until.is_some_and(|until| Instant::now() < until);
        // We have the sender: it does not end.
        self.0.subscribe().wait_for(is_now).await.ok();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_is_wanted_for_as_long_as_somebody_waits() {
        let hurry = Hurry::default();
        let soon = Duration::from_secs(1);
        let wanted = async || tokio::time::timeout(soon, hurry.wanted()).await.is_ok();
        assert!(!wanted().await);
        hurry.until(Instant::now() + 5 * soon);
        hurry.until(Instant::now() + soon);
        assert!(wanted().await);
        tokio::time::sleep(4 * soon).await;
        assert!(wanted().await);
        tokio::time::sleep(2 * soon).await;
        assert!(!wanted().await);
        let (other, waits) = (hurry.clone(), hurry.wanted());
        other.until(Instant::now() + soon);
        waits.await;
    }
}
