//! Machines whose home a mount on this host writes (`dormouse mount --read-write`).
//!
//! # Order
//! A mount takes its lock, then looks whether the machine is being deleted; here a deletion is written down first,
//! and the lock looked at before anything is deleted. One of the two sees the other, whichever is first.
//!
//! # Not here
//! Mounts on other hosts: the store says who holds a home.

use base::ErrorKind;
use catalog::{Desired, MachineRow};

use crate::control::Inner;
use crate::{Error, Result};

/// Refuses what nobody may wish of a machine while its home is mounted for writing; `then` is what to do after the
/// unmount, for people. One that is being deleted is refused as that.
pub(crate) async fn refuse(inner: &Inner, row: &MachineRow, then: &str) -> Result<()> {
    if row.desired == Desired::Destroyed { Ok(()) } else { check(inner, row, then).await }
}

/// The same of a step towards what was wished for before the mount: to be tried again.
pub(crate) async fn hold_up(inner: &Inner, row: &MachineRow, then: &str) -> Result<()> {
    check(inner, row, then).await.map_err(|error| error.retry_after(1_000))
}

async fn check(inner: &Inner, row: &MachineRow, then: &str) -> Result<()> {
    let host = &inner.parts.host;
    let Some(mounted) = host.mounted(&row.home).await else { return Ok(()) };
    // Its keeper has the home: the mount is about to be refused.
    if host.connect(&row.id).await.is_some() {
        return Ok(());
    }
    let by = mounted.process.map(|process| format!(" (process {process})")).unwrap_or_default();
    let error = Error::new(
        ErrorKind::Conflict,
        format!(
            "machine {} is mounted read-write on this host{by}; unmount it, then {then}",
            row.name
        ),
    )
    .with_code("INVALID_STATE")
    .with_detail("current_desired_state", row.desired)
    .with_detail("current_observed_state", row.observed.phase);
    Err(match mounted.process {
        Some(process) => error.with_detail("process", process),
        None => error,
    })
}

#[cfg(test)]
mod tests;
