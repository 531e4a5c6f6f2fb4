//! Whether a machine that has a keeper is held to what its owner allows, and has what it was granted.
//!
//! The driver puts that in force, as it does everything ([`super::lifecycle`]); here somebody waits for it.

use std::time::Duration;

use base::ErrorKind;
use catalog::{Desired, MachineRow, Phase};
use tokio::time::Instant;

use super::steps;
use super::types::Machine;
use crate::control::Inner;
use crate::host::{KeeperStatus, Sizes};
use crate::{Error, Result};

/// How long it may take: some 50 ms on an idle host.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often the keeper is asked.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Returns once the keeper holds the machine to the egress policy of `wanted`, there is no keeper, or nobody wants
/// that any more. In every phase: a guest that is coming up or going down sends packets too.
///
/// # Errors
/// `Unavailable` where it does not come to that in time. The driver goes on trying.
pub(super) async fn egress(inner: &Inner, wanted: &Machine) -> Result<()> {
    // Deleted or changed again: then that is what counts.
    let still =
        |row: &MachineRow| row.desired != Desired::Destroyed && row.spec.egress == wanted.egress;
    let holds = |status: &KeeperStatus| status.egress == wanted.egress;
    wait(inner, wanted, "the egress policy is", still, holds).await
}

/// The same of the sizes of a machine that runs. One that is coming up is given them once it runs; one of an older
/// version when it next wakes.
///
/// # Errors
/// As those of [`egress`].
pub(super) async fn sizes(inner: &Inner, wanted: &Machine) -> Result<()> {
    let Machine { vcpu, memory_mib, storage_gib, .. } = *wanted;
    let sizes = Sizes { vcpu, memory_mib, storage_gib };
    let still = |row: &MachineRow| {
        let runs = row.desired == Desired::Running && row.observed.phase == Phase::Running;
        runs && steps::sizes_of(row) == sizes
    };
    let holds =
        |status: &KeeperStatus| status.sizes.is_none_or(|has| steps::is_in_force(has, sizes));
    wait(inner, wanted, "the sizes are", still, holds).await
}

async fn wait(
    inner: &Inner,
    wanted: &Machine,
    what: &str,
    still: impl Fn(&MachineRow) -> bool,
    holds: impl Fn(&KeeperStatus) -> bool,
) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let id = wanted.machine_id.clone();
        let row = inner.db(move |catalog| catalog.machine(&id)).await?.filter(&still);
        let (Some(row), Some(link)) = (row, inner.parts.host.connect(&wanted.machine_id).await)
        else {
            return Ok(());
        };
        if link.status().await.is_ok_and(|status| holds(&status)) {
            return Ok(());
        }
        if Instant::now() >= deadline {
            let phase = row.observed.phase;
            let why = row.observed.last_error.unwrap_or_else(|| format!("the machine is {phase}"));
            return Err(Error::new(
                ErrorKind::Unavailable,
                format!(
                    "{what} written down and not in force yet: {why}. It will be on its own; send the same \
                     request again to wait for it"
                ),
            ));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
