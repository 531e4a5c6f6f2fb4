//! What an instance has of this host: a slot, and with it a network namespace and control groups.

use std::fs::File;
use std::io;

use base::{Egress, MachineId};
use tokio::runtime::Handle;

use super::cgroup::{self, Cgroup, Shares};
use super::network::{self, Link};
use super::slot::{Registry, Slot};
use super::{is_root, start_error};
use crate::limits::VCPU_MAX;
use crate::{Error, Network, Purpose, Spec};

/// See the module. All of it goes when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    /// Dropped before the slot: while that is held, nobody else may use the names made from it.
    pub(crate) link: Option<Link>,
    cgroup: Option<Cgroup>,
    slot: Option<Slot>,
    network: Network,
    purpose: Purpose,
    machine: MachineId,
}

impl Place {
    /// Claims a slot where we may, and makes the namespace, which leads nowhere yet.
    pub(crate) fn claim(spec: &Spec, shares: &Shares) -> Result<Self, Error> {
        let slot = is_root().then(|| Registry::host()?.claim(&spec.machine)).transpose()?;
        let link = match (&slot, spec.network) {
            (Some(slot), Network::Isolated) => Some(Link::new(slot, spec.egress.clone())?),
            (None, Network::Isolated) => {
                tracing::warn!(machine = %spec.machine, "no network: a namespace needs root");
                None
            }
            _ => None,
        };
        let cgroup = slot.as_ref().and_then(|slot| {
            let made = Cgroup::create(slot.number(), shares);
            made.inspect_err(|error| {
                tracing::warn!(
                    machine = %spec.machine, %error,
                    "no control groups: the machine is not held to its share of CPU and memory"
                );
            })
            .ok()
        });
        // This process may have served a machine of another size before.
        if cgroup.is_some() {
            cgroup::serving::set_vcpu(&spec.machine, spec.vcpu);
        } else {
            cgroup::serving::set_with_guest(&spec.machine, spec.vcpu);
        }
        let (network, purpose, machine) = (spec.network, spec.purpose, spec.machine.clone());
        Ok(Self { link, cgroup, slot, network, purpose, machine })
    }

    /// What the hypervisor writes `0` to, to enter its control groups.
    pub(crate) fn doors(&self) -> Result<Vec<File>, Error> {
        let doors = self.cgroup.as_ref().map_or(Ok(Vec::new()), Cgroup::doors);
        doors.map_err(start_error("open a control group"))
    }

    /// Has virtual CPUs, `count`, have the guest's share of CPU time, and the hypervisor's other threads a bound
    /// of their own. Blocks until they are there, or the hypervisor is not.
    pub(crate) fn hold_vcpus(&self, count: u32) -> Result<(), Error> {
        let held = self.cgroup.as_ref().map_or(Ok(()), |cgroup| cgroup.hold_vcpus(count));
        held.map_err(start_error("hold the guest to its share of CPU time"))
    }

    /// Gives the guest another share of CPU time, and whoever serves it. Where nothing holds it to one, any is.
    pub(crate) fn set_vcpu(&self, vcpu: f64) -> io::Result<()> {
        if !(vcpu > 0.0 && vcpu <= VCPU_MAX) {
            return Err(io::Error::other(format!("{vcpu} CPUs; up to {VCPU_MAX} are possible")));
        }
        let Some(cgroup) = &self.cgroup else { return Ok(()) };
        cgroup.set_vcpu(vcpu)?;
        cgroup::serving::set_vcpu(&self.machine, vcpu);
        Ok(())
    }

    /// Connects the namespace to the world; that of a template leads nowhere.
    pub(crate) fn connect(&self) -> Result<(), Error> {
        if self.purpose == Purpose::Template {
            return Ok(());
        }
        self.link.as_ref().map_or(Ok(()), Link::connect)
    }

    /// Has tasks of the runtime that this is called in serve the guest; those that did so are gone.
    pub(crate) fn serve_again(&self) -> io::Result<()> {
        match (&self.link, Handle::try_current()) {
            (Some(link), Ok(runtime)) => link.serve_names_again(&runtime),
            _ => Ok(()),
        }
    }

    /// Whether it would be made in the same way now.
    pub(crate) fn is_up_to_date(&self) -> bool {
        self.link.as_ref().is_none_or(Link::is_up_to_date)
    }

    /// Has another egress policy in force when this returns. Where there is no network, any is.
    pub(crate) fn set_egress(&self, egress: &Egress) -> io::Result<()> {
        match &self.link {
            Some(link) => link.set_egress(egress),
            None if self.network == Network::User && *egress != Egress::Open => {
                Err(io::Error::other("nothing could enforce it with user-mode networking"))
            }
            None => Ok(()),
        }
    }

    /// The user that the hypervisor runs as; `None`: ours.
    pub(crate) fn user_id(&self) -> Option<u32> {
        self.slot.as_ref().map(Slot::user_id)
    }
}

/// Takes down what a dead holder of `slot` left.
pub(crate) fn remove(slot: u16) -> io::Result<()> {
    network::remove_link(&network::link_name(slot))?;
    cgroup::remove(slot)
}
