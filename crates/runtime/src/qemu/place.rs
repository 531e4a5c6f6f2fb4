//! What an instance has of this host: a slot, and with it a network namespace.

use super::is_root;
use super::network::Link;
use super::slot::{Registry, Slot};
use crate::{Error, Network, Spec};

/// See the module. All of it goes when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    /// Dropped before the slot: while that is held, nobody else may use the names made from it.
    pub(crate) link: Option<Link>,
    slot: Option<Slot>,
}

impl Place {
    /// Claims a slot where we may, and makes the namespace, which leads nowhere yet.
    pub(crate) fn claim(spec: &Spec) -> Result<Self, Error> {
        let slot = is_root().then(|| Registry::host()?.claim(&spec.machine)).transpose()?;
        let link = match (&slot, spec.network) {
            (Some(slot), Network::Isolated) => Some(Link::new(slot)?),
            (None, Network::Isolated) => {
                tracing::warn!(machine = %spec.machine, "no network: a namespace needs root");
                None
            }
            _ => None,
        };
        Ok(Self { link, slot })
    }

    /// Connects the namespace to the world.
    pub(crate) fn connect(&self) -> Result<(), Error> {
        self.link.as_ref().map_or(Ok(()), Link::connect)
    }

    /// The user that the hypervisor runs as; `None`: ours.
    pub(crate) fn user_id(&self) -> Option<u32> {
        self.slot.as_ref().map(Slot::user_id)
    }
}
