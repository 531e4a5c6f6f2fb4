//! Machines: what is wanted of them, and how they get there.

mod types;
mod validate;

use std::sync::Arc;
use std::time::Duration;

use futures::stream::BoxStream;

pub use types::{
    Adopted, CreateMachine, Desired, IfMatch, Machine, MachineRef, MachineStatus, Phase,
    UpdateMachine,
};

use crate::control::Inner;
use crate::page::{Page, PageQuery};
use crate::{Error, Result};

/// Machines.
#[derive(Debug, Clone)]
pub struct Machines {
    pub(crate) inner: Arc<Inner>,
}

impl Machines {
    /// Writes down that a machine is wanted; it starts on its own. Follow with [`Self::settle`].
    pub async fn create(&self, new: CreateMachine) -> Result<Machine> {
        let _ = (new, &self.inner);
        Err(Error::internal("not written yet"))
    }
    /// One machine.
    pub async fn get(&self, machine: &MachineRef) -> Result<Machine> {
        let _ = machine;
        Err(Error::internal("not written yet"))
    }
    /// Machines in the order of their creation.
    pub async fn list(&self, page: &PageQuery) -> Result<Page<Machine>> {
        let _ = page;
        Err(Error::internal("not written yet"))
    }
    /// Changes name, sizes or autosleep.
    pub async fn update(
        &self,
        machine: &MachineRef,
        update: UpdateMachine,
        if_match: &IfMatch,
    ) -> Result<Machine> {
        let _ = (machine, update, if_match);
        Err(Error::internal("not written yet"))
    }
    /// Asks for the machine and its home to be removed; works in every phase.
    pub async fn delete(&self, machine: &MachineRef, if_match: &IfMatch) -> Result<Machine> {
        let _ = (machine, if_match);
        Err(Error::internal("not written yet"))
    }
    /// Asks for the machine to sleep.
    pub async fn sleep(&self, machine: &MachineRef, if_match: &IfMatch) -> Result<Machine> {
        let _ = (machine, if_match);
        Err(Error::internal("not written yet"))
    }
    /// Asks for the machine to be awake.
    pub async fn wake(&self, machine: &MachineRef, if_match: &IfMatch) -> Result<Machine> {
        let _ = (machine, if_match);
        Err(Error::internal("not written yet"))
    }
    /// Waits at most `wait` until the machine is settled ([`Machine::is_settled`]); returns it as it is
    /// then: a face answers 200 where `is_converged`, else 202. Also works for one being destroyed.
    pub async fn settle(&self, machine: Machine, wait: Duration) -> Machine {
        let _ = wait;
        machine
    }
    /// The machine now and after every change, until it is settled. `last_event_id` is a revision
    /// seen before: the state with that very revision is not sent again unless it is the last.
    pub async fn watch(
        &self,
        machine: &MachineRef,
        last_event_id: Option<&str>,
    ) -> Result<BoxStream<'static, Machine>> {
        let _ = (machine, last_event_id);
        Err(Error::internal("not written yet"))
    }
    /// Takes machines whose records are in the store, and that the catalog does not know, into the
    /// catalog, asleep. With `take_over` their next wake may take homes that were never released.
    pub async fn adopt(&self, take_over: bool) -> Result<Vec<Adopted>> {
        let _ = take_over;
        Err(Error::internal("not written yet"))
    }
}
