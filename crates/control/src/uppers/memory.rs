//! Memory of sleeping machines, once their uppers are stored.
//!
//! # Order
//! The machine has slept for a while, or somebody wants to keep what it has; its memory is stored when it is its turn. Where memory is not to be stored, what an
//! earlier sleep has stored is deleted.
//!
//! # Failure
//! Tried again as uppers are. Without it a wake on another host boots; here nothing is missing.

use std::sync::Arc;

use base::{ErrorKind, MachineId};
use tokio_util::sync::CancellationToken;

use super::hurry::Hurry;
use super::{pause, settled, turn};
use crate::Result;
use crate::control::Inner;
use crate::host::MemoryStanding;

/// How far the memory of a sleeping machine is; one that is stored is remembered to be.
pub(super) async fn standing(inner: &Inner, machine: &MachineId) -> MemoryStanding {
    if inner.settings.timing.store_memory_after.is_none() {
        return MemoryStanding::Nothing;
    }
    let standing = inner.parts.host.memory_standing(machine).await;
    if standing == MemoryStanding::Stored {
        inner.uppers.remembered.lock().insert(machine.clone());
    }
    standing
}

/// Stores the memory of a machine that sleeps since now, and whose upper is stored.
pub(super) async fn store(
    inner: &Arc<Inner>,
    machine: &MachineId,
    stop: &CancellationToken,
    hurry: &Hurry,
) {
    let Some(after) = inner.settings.timing.store_memory_after else {
        if let Err(error) = inner.parts.host.unstore_memory(machine).await {
            tracing::warn!(%machine, %error, "memory that is not to be stored is in the store");
        }
        return;
    };
    if standing(inner, machine).await != MemoryStanding::Behind {
        return;
    }
    inner.uppers.edit(machine, |job| job.memory = true);
    tokio::select! {
        () = stop.cancelled() => return,
        () = hurry.wanted() => (),
        () = tokio::time::sleep(after) => (),
    }
    let mut tries = 0;
    // What was published since is known to this host alone: there may be nothing to store by now.
    while standing(inner, machine).await == MemoryStanding::Behind {
        match store_once(inner, machine, stop).await {
            Ok(true) => {}
            Ok(false) => return,
            // Somebody else has gone on with it, or it is too large: no later attempt can do.
            Err(error)
                if matches!(
                    error.kind,
                    ErrorKind::Fenced | ErrorKind::Conflict | ErrorKind::TooLarge
                ) =>
            {
                tracing::warn!(%machine, %error, "memory is not stored");
                return;
            }
            Err(error) => {
                tracing::warn!(%machine, %error, tries, "store memory");
                let message = format!(
                    "its memory is on this host only so far; woken on another host now it would boot: {}",
                    error.message
                );
                inner.uppers.trouble(machine, Some(message));
                tries += 1;
                if !pause(inner, tries, stop, hurry).await {
                    return;
                }
            }
        }
    }
}

/// One attempt, when it is its turn. False where there is nothing more to do.
async fn store_once(inner: &Inner, machine: &MachineId, stop: &CancellationToken) -> Result<bool> {
    let Some(_turn) = turn(&inner.uppers.memory_turns, stop).await? else { return Ok(false) };
    let stored = inner.parts.host.store_memory(machine, stop).await?;
    Ok(settled(machine, "a memory", stored, stop)?.is_some())
}
