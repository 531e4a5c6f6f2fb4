//! What the store has of uppers and nobody needs any more, deleted a while later.
//!
//! # Order
//! An upper was stored anew, or something that was kept of it was let go of; once the state that it has then has been
//! there for [`Timing::collect_upper_after`](crate::settings::Timing), what that does not need goes. This host has a
//! note of it, so that the next server does what this one did not come to.
//!
//! # Failure
//! What is not collected is when the machine has slept again.

use std::sync::Arc;

use base::MachineId;

use crate::Result;
use crate::control::Inner;
use crate::host::UpperHolder;

/// Attempts to collect; the next sleep tries anew.
const TRIES: u32 = 5;

/// Lets go of what is kept of a machine for a holder.
///
/// # Errors
/// As [`crate::host::Host::let_go_of_upper`].
pub(crate) async fn let_go(
    inner: &Arc<Inner>,
    machine: &MachineId,
    holder: &UpperHolder,
) -> Result<()> {
    // Noted first: a server that is killed in between leaves that.
    let since = freed(inner, machine).await;
    inner.parts.host.let_go_of_upper(machine, holder).await?;
    if let Some(since) = since {
        collect_later(inner, machine, since);
    }
    Ok(())
}

/// Deletes the upper of a machine, and has that collected which another one kept for it.
///
/// # Errors
/// As [`crate::host::Host::delete_upper`].
pub(crate) async fn delete(inner: &Arc<Inner>, machine: &MachineId) -> Result<()> {
    let Some(parent) = inner.parts.host.delete_upper(machine).await? else { return Ok(()) };
    let wanted = parent.clone();
    // A machine of another server is that one's to collect, when it next sleeps.
    if inner.db(move |catalog| catalog.machine(&wanted)).await?.is_some()
        && let Some(since) = freed(inner, &parent).await
    {
        collect_later(inner, &parent, since);
    }
    Ok(())
}

/// Since which state what is needed no more can be collected.
async fn freed(inner: &Inner, machine: &MachineId) -> Option<String> {
    match inner.parts.host.freed_upper(machine).await {
        Ok(since) => since,
        Err(error) => {
            tracing::warn!(%machine, %error, "an upper is collected after the next sleep only");
            None
        }
    }
}

/// Deletes what the store does not need any more since the state `since` of the upper, once nobody can be
/// reading it. The machine may be awake by then, or gone, or have slept again: what that left is too young.
pub(super) fn collect_later(inner: &Arc<Inner>, machine: &MachineId, since: String) {
    // One that is to come sees what is let go of until then.
    let one = (machine.clone(), since);
    if !inner.uppers.collecting.lock().insert(one.clone()) {
        return;
    }
    let inner = inner.clone();
    inner.clone().tasks.spawn(async move {
        let (machine, since) = &one;
        let work = async {
            for tries in 0..TRIES {
                tokio::time::sleep(inner.settings.timing.collect_upper_after).await;
                inner.uppers.collecting.lock().remove(&one);
                match inner.parts.host.collect_upper(machine, since).await {
                    Ok(0) => return,
                    Ok(objects) => {
                        tracing::info!(%machine, objects, "collected what an upper does not need");
                        return;
                    }
                    Err(error) => tracing::warn!(%machine, %error, tries, "collect an upper"),
                }
            }
        };
        tokio::select! {
            () = work => (),
            () = inner.shutdown.cancelled() => (),
        }
    });
}
