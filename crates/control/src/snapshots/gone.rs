//! Machines that are deleted while something is made of them.
//!
//! What fails then, fails somewhere: a keeper is silent, a home is no more, what was kept for a fork was given up. None
//! of that is what the caller has to know.

use base::ErrorKind;
use catalog::{Desired, MachineRow};

use crate::control::Inner;
use crate::machines::MachineRef;
use crate::{Error, Result};

/// What was `made` of a machine, or that the machine is gone, where that is why it was not.
pub(super) async fn or_gone<T>(inner: &Inner, row: &MachineRow, made: Result<T>) -> Result<T> {
    let error = match made {
        Ok(made) => return Ok(made),
        Err(error) => error,
    };
    // What the caller asked for cannot be, whatever becomes of the machine.
    if matches!(error.kind(), ErrorKind::InvalidArgument | ErrorKind::AlreadyExists) {
        return Err(error);
    }
    let name = &row.name;
    let message = match inner.resolve(&MachineRef::Id(row.id.clone())).await {
        Ok(now) if now.desired != Desired::Destroyed => {
            if error.kind() != ErrorKind::NotFound || is_there(inner, row).await {
                return Err(error);
            }
            format!(
                "the home of machine {name} is not in the object store any more, so another server deleted the \
                 machine; nothing was made of it"
            )
        }
        Ok(_) => format!("machine {name} is being deleted; nothing was made of it"),
        Err(gone) if gone.kind() == ErrorKind::NotFound => {
            format!("machine {name} was deleted meanwhile; nothing was made of it")
        }
        Err(_) => return Err(error),
    };
    Err(Error::not_found(message).with_detail("machine_id", &row.id).caused_by(error))
}

/// Whether its home is; where that cannot be known, it may be.
async fn is_there(inner: &Inner, row: &MachineRow) -> bool {
    match inner.parts.homes.head(&row.home).await {
        Ok(head) => head.is_some(),
        Err(error) => error.kind() != ErrorKind::NotFound,
    }
}

#[cfg(test)]
mod tests;
