//! Why nothing is kept or brought back of a home that was not given up: who has it, and what to do.

use base::ErrorKind;
use catalog::{Desired, MachineRow, Phase};

use crate::control::Inner;
use crate::machines::MachineRef;
use crate::{Error, Result, mounted};

/// Why the home of a machine that sleeps as far as this server knows is not free, and stays so; `then` is what to do
/// after it is, for people. `None` where this server woke it meanwhile, or it was given up since.
///
/// # Errors
/// Where a mount on this host has it; those of the store.
pub(super) async fn refused(inner: &Inner, row: &MachineRow, then: &str) -> Result<Option<Error>> {
    let now = inner.resolve(&MachineRef::Id(row.id.clone())).await?;
    let rests = match now.observed.phase {
        Phase::Sleeping => now.desired == Desired::Sleeping,
        phase => phase == Phase::Failed,
    };
    if !rests || inner.parts.host.connect(&row.id).await.is_some() {
        return Ok(None);
    }
    mounted::refuse(inner, &now, then).await?;
    let Some(head) = inner.parts.homes.head(&row.home).await?.filter(|head| !head.released) else {
        return Ok(None);
    };
    let (name, since) = (&row.name, head.time);
    let error = if head.holder == inner.settings.server_id {
        let why = format!(
            "the home of machine {name} was left by a process of this server that ended before it had stored all \
             (a mount, say; the newest commit is of {since}); wake the machine and put it to sleep, or mount it for \
             writing again and unmount it, then {then}"
        );
        Error::new(ErrorKind::Conflict, why).with_code("INVALID_STATE")
    } else {
        let why = format!(
            "machine {name} is awake on server {}, which has had its home since {since} and did not release it; put \
             it to sleep there, then {then}; if that server is lost for good, take the home over (dormouse adopt \
             --take-over)",
            head.holder
        );
        Error::new(ErrorKind::Fenced, why)
    };
    let error = error
        .with_detail("holder", &head.holder)
        .with_detail("current_desired_state", now.desired)
        .with_detail("current_observed_state", now.observed.phase);
    Ok(Some(error))
}

#[cfg(test)]
mod tests;
