//! What killed keepers leave on the host: slots, network links, packet filter rules.
//!
//! Every start of an instance takes it down too; here it is done where nothing may start for long.

use std::sync::Arc;

use runtime::Qemu;

/// Takes down what nobody owns any more.
#[derive(Debug, Clone)]
pub(crate) struct Leftovers(Arc<Qemu>);

impl Leftovers {
    pub(crate) fn of(qemu: Qemu) -> Self {
        Self(Arc::new(qemu))
    }

    /// Failing is said in the log and nowhere else: the next sweep, or the next start, tries again.
    pub(crate) async fn sweep(&self) {
        let qemu = self.0.clone();
        match tokio::task::spawn_blocking(move || qemu.sweep()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "take down what killed machines left"),
            Err(error) => tracing::warn!(%error, "take down what killed machines left"),
        }
    }
}
