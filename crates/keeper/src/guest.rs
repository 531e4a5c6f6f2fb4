//! The guest of a keeper: its agent, and what its kernel still has to be told.

use std::time::Duration;

use agent_proto::{AgentClient, NOTIFICATIONS_QUEUED_MAX};
use fuse_serve::Notifier;
use parking_lot::Mutex;
use vfs::Touched;

/// How long the guest's kernel may take to be handed what is queued for it.
const FLUSH_PATIENCE: Duration = Duration::from_secs(30);

/// What is sent between two barriers: a name is two notifications, and the guest's queue holds so many.
const FORGOTTEN_AT_ONCE: usize = NOTIFICATIONS_QUEUED_MAX / 4;

/// Most characters of a guest's own words in a message.
pub(crate) const SAID_CHARS_MAX: usize = 300;

/// What a guest says, fit for a message: one short line, whatever it was.
pub(crate) fn said(text: &str) -> String {
    text.trim().chars().filter(|c| !c.is_control()).take(SAID_CHARS_MAX).collect()
}

/// A guest that answers.
#[derive(Debug)]
pub(crate) struct Guest {
    agent: AgentClient,
    notifier: Notifier,
    /// Notifications that it had from keepers before this one, since it was booted.
    notified_before: u64,
    /// Notifications of this keeper that the guest's kernel is known to have seen.
    settled: Mutex<u64>,
}

impl Guest {
    pub(crate) fn new(agent: AgentClient, notifier: Notifier, notified_before: u64) -> Self {
        Self { agent, notifier, notified_before, settled: Mutex::new(0) }
    }

    /// Notifications that it had since it was booted.
    pub(crate) fn notified(&self) -> u64 {
        self.notified_before + self.notifier.sent()
    }

    pub(crate) fn agent(&self) -> &AgentClient {
        &self.agent
    }

    /// Makes sure that the guest has taken all that was sent to it, for a channel that is frozen.
    ///
    /// # Errors
    /// Where something is queued that was not sent.
    pub(crate) async fn heard_all(&self) -> Result<(), String> {
        if self.notifier.has_waiting() {
            return Err("files were changed while it was being frozen".to_owned());
        }
        self.agent.barrier(self.notified()).await.map_err(|error| said(&error.to_string()))
    }

    /// Makes the guest's kernel forget what was `touched` behind its back, and waits until it has.
    pub(crate) async fn forget(&self, touched: &Touched) -> Result<(), agent_proto::Error> {
        let entries = touched.entries.chunks(FORGOTTEN_AT_ONCE);
        let entries = entries.map(|some| Touched { entries: some.to_vec(), inodes: Vec::new() });
        let inodes = touched.inodes.chunks(FORGOTTEN_AT_ONCE);
        let inodes = inodes.map(|some| Touched { entries: Vec::new(), inodes: some.to_vec() });
        for part in entries.chain(inodes) {
            self.notifier.send(&part);
            self.settle().await?;
        }
        Ok(())
    }

    /// Returns once the guest's kernel has forgotten all that the API changed until now. Costs a
    /// round trip only where something was changed since the last time.
    pub(crate) async fn settle(&self) -> Result<(), agent_proto::Error> {
        let notifier = self.notifier.clone();
        let flushed = tokio::task::spawn_blocking(move || notifier.flush(FLUSH_PATIENCE)).await;
        // A kernel that takes no notification is one that is gone: the barrier finds out.
        let sent = flushed.ok().and_then(Result::ok).unwrap_or_else(|| self.notifier.sent());
        if *self.settled.lock() >= sent {
            return Ok(());
        }
        self.agent.barrier(self.notified_before + sent).await?;
        let mut settled = self.settled.lock();
        *settled = sent.max(*settled);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_guest_says_becomes_one_short_line() {
        assert_eq!(said("  no /dev/fuse\u{1b}[2J\r\n"), "no /dev/fuse[2J");
        assert_eq!(said(&"x".repeat(9_000)).len(), SAID_CHARS_MAX);
    }
}
