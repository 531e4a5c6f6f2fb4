//! Whether a machine that has a keeper is held to what its owner allows.
//!
//! The driver puts a policy in force, as it does everything ([`super::lifecycle`]); here somebody waits for it.

use std::time::Duration;

use base::ErrorKind;
use catalog::Desired;
use tokio::time::Instant;

use super::types::Machine;
use crate::control::Inner;
use crate::{Error, Result};

/// How long a policy may take to be in force: some 50 ms on an idle host.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often the keeper is asked.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Returns once the keeper holds the machine to the policy of `wanted`, there is no keeper, or nobody wants that
/// any more. In every phase: a guest that is coming up or going down sends packets too.
///
/// # Errors
/// `Unavailable` where it does not come to that in time. The driver goes on trying.
pub(crate) async fn in_force(inner: &Inner, wanted: &Machine) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let id = wanted.machine_id.clone();
        let row = inner.db(move |catalog| catalog.machine(&id)).await?;
        // Deleted or changed again: then that is what counts.
        let still =
            row.filter(|row| row.desired != Desired::Destroyed && row.spec.egress == wanted.egress);
        let (Some(row), Some(link)) = (still, inner.parts.host.connect(&wanted.machine_id).await)
        else {
            return Ok(());
        };
        if link.status().await.is_ok_and(|status| status.egress == wanted.egress) {
            return Ok(());
        }
        if Instant::now() >= deadline {
            let phase = row.observed.phase;
            let why = row.observed.last_error.unwrap_or_else(|| format!("the machine is {phase}"));
            return Err(Error::new(
                ErrorKind::Unavailable,
                format!(
                    "the egress policy is written down and not in force yet: {why}. It will be on its own; \
                     send the same request again to wait for it"
                ),
            ));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
