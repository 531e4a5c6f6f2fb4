//! Commands run in machines.

mod types;

use std::sync::Arc;

use base::ExecutionId;

pub use types::{
    AttachInput, AttachOutput, Attachment, EventType, Execution, ExecutionEvent, ExecutionOutput,
    ExecutionStatus, NewExecution,
};

use crate::control::Inner;
use crate::machines::MachineRef;
use crate::page::{Page, PageQuery};
use crate::{Error, Result};

/// Commands run in machines.
#[derive(Debug, Clone)]
pub struct Executions {
    pub(crate) inner: Arc<Inner>,
}

impl Executions {
    /// Starts a command; a sleeping machine wakes for it. Returns at once.
    pub async fn create(&self, machine: &MachineRef, new: NewExecution) -> Result<Execution> {
        let _ = (machine, new, &self.inner);
        Err(Error::internal("not written yet"))
    }
    /// One execution.
    pub async fn get(&self, machine: &MachineRef, id: &ExecutionId) -> Result<Execution> {
        let _ = (machine, id);
        Err(Error::internal("not written yet"))
    }
    /// Executions of a machine, oldest first.
    pub async fn list(&self, machine: &MachineRef, page: &PageQuery) -> Result<Page<Execution>> {
        let _ = (machine, page);
        Err(Error::internal("not written yet"))
    }
    /// What it has written so far.
    pub async fn output(&self, machine: &MachineRef, id: &ExecutionId) -> Result<ExecutionOutput> {
        let _ = (machine, id);
        Err(Error::internal("not written yet"))
    }
    /// What happened to it, in order.
    pub async fn events(
        &self,
        machine: &MachineRef,
        id: &ExecutionId,
        page: &PageQuery,
    ) -> Result<Page<ExecutionEvent>> {
        let _ = (machine, id, page);
        Err(Error::internal("not written yet"))
    }
    /// Cancels it if it is live; returns the final record.
    pub async fn delete(&self, machine: &MachineRef, id: &ExecutionId) -> Result<Execution> {
        let _ = (machine, id);
        Err(Error::internal("not written yet"))
    }
    /// Joins a running execution in both directions, waiting for its machine to wake.
    pub async fn attach(&self, machine: &MachineRef, id: &ExecutionId) -> Result<Attachment> {
        let _ = (machine, id);
        Err(Error::internal("not written yet"))
    }
}
