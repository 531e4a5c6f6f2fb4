//! Machines for which this host's disk has no room: a guest that woke there would stop at once.
//!
//! # Not here
//! Guests that run already: they wait for room by themselves (`status.reason`).

use base::ErrorKind;
use catalog::{Desired, MachineRow, Phase};

use crate::control::Inner;
use crate::machines::types::REASON_NO_ROOM;
use crate::{Error, Result};

/// Refuses to wake what sleeps, where there is too little room for it. `then` is what to do once there is some.
pub(crate) async fn refuse(inner: &Inner, row: &MachineRow, then: &str) -> Result<()> {
    let on_the_way = row.desired == Desired::Running && row.observed.phase != Phase::Failed;
    if on_the_way && !matches!(row.observed.phase, Phase::Accepted | Phase::Sleeping) {
        return Ok(());
    }
    check(inner, row, Some(row.spec.memory_mib), then).await
}

/// The same where the machine will boot: memory that it sleeps with goes before, and needs no room.
pub(crate) async fn refuse_to_boot(inner: &Inner, row: &MachineRow, then: &str) -> Result<()> {
    check(inner, row, None, then).await
}

/// The same of a step towards what was wished for: to be tried again.
pub(crate) async fn hold_up(inner: &Inner, row: &MachineRow, then: &str) -> Result<()> {
    check(inner, row, Some(row.spec.memory_mib), then)
        .await
        .map_err(|error| error.retry_after(1_000))
}

async fn check(inner: &Inner, row: &MachineRow, memory_mib: Option<u64>, then: &str) -> Result<()> {
    let host = &inner.parts.host;
    let lacking = host.room_lacking(&row.id, memory_mib).await;
    if lacking == 0 || host.connect(&row.id).await.is_some() {
        return Ok(());
    }
    let mib = lacking.div_ceil(1 << 20);
    let what = format!(
        "the server's disk has too little room for machine {}: free {mib} MiB more there, then {then}",
        row.name
    );
    Err(Error::new(ErrorKind::Exhausted, what)
        .with_code(REASON_NO_ROOM.to_ascii_uppercase())
        .with_detail("bytes_lacking", lacking))
}
