//! Execution records on a [`FakeHost`].

use async_trait::async_trait;
use base::{ExecutionId, MachineId};

use super::world::{FakeHost, no_such};
use crate::Result;
use crate::executions::{EventType, Execution, ExecutionEvent, ExecutionOutput, ExecutionStatus};
use crate::host::ExecutionRecords;

/// Execution records of one machine.
#[derive(Debug)]
pub(super) struct FakeRecords {
    pub(super) machine: MachineId,
    pub(super) host: FakeHost,
}

#[async_trait]
impl ExecutionRecords for FakeRecords {
    async fn list(&self, after: Option<ExecutionId>, max: usize) -> Result<Vec<Execution>> {
        let state = self.host.state.lock();
        let all = state.executions.get(&self.machine).into_iter().flat_map(|all| all.values());
        let wanted = all.filter(|one| after.as_ref().is_none_or(|after| one.execution_id > *after));
        Ok(wanted.take(max).cloned().collect())
    }

    async fn get(&self, id: &ExecutionId) -> Result<Execution> {
        let state = self.host.state.lock();
        let found = state.executions.get(&self.machine).and_then(|all| all.get(id));
        let mut execution = found.cloned().ok_or_else(|| no_such(id))?;
        if !execution.status.is_final() && !state.keepers.contains_key(&self.machine) {
            execution.status = ExecutionStatus::Failed;
            execution.error_code = Some("MACHINE_STOPPED".to_owned());
        }
        Ok(execution)
    }

    async fn output(&self, id: &ExecutionId, _max: u64) -> Result<ExecutionOutput> {
        let execution = self.get(id).await?;
        let stdout = execution.command[1..].join(" ");
        Ok(ExecutionOutput {
            execution_id: id.clone(),
            stdout_bytes: stdout.len() as u64,
            stdout,
            stderr: String::new(),
            stderr_bytes: 0,
            stdout_truncated: false,
            stderr_truncated: false,
        })
    }

    async fn events(
        &self,
        id: &ExecutionId,
        after: u64,
        max: usize,
    ) -> Result<Vec<ExecutionEvent>> {
        let execution = self.get(id).await?;
        let event = ExecutionEvent {
            sequence: 1,
            event_type: EventType::Lifecycle,
            at: execution.created_at,
            chunk: None,
            status: Some(execution.status),
            exit_code: execution.exit_code,
            signal: None,
            error_code: None,
            error_message: None,
        };
        Ok([event].into_iter().filter(|event| event.sequence > after).take(max).collect())
    }

    async fn forget(&self, id: &ExecutionId) -> Result<()> {
        if let Some(all) = self.host.state.lock().executions.get_mut(&self.machine) {
            all.remove(id);
        }
        Ok(())
    }
}
