//! Commands run in machines.
//!
//! A keeper runs them and writes their files; this layer wakes machines for them, finds the right
//! keeper, and reads the files of those that are over.
//!
//! # Not here
//! How a command runs (`keeper`, `guest-agent`); what waits for a wake ([`waiting`]).

mod types;
mod validate;
pub(crate) mod waiting;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base::{ErrorKind, ExecutionId};
use bytes::Bytes;
use catalog::MachineRow;
use futures::{StreamExt as _, stream};

pub use types::{
    AttachInput, AttachOutput, Attachment, EventType, Execution, ExecutionEvent, ExecutionOutput,
    ExecutionStatus, NewExecution,
};

use crate::control::Inner;
use crate::host::{ExecutionRecords, KeeperLink};
use crate::limits::OUTPUT_BYTES_MAX;
use crate::machines::{Desired, MachineRef, Phase};
use crate::page::{Page, PageQuery};
use crate::{Error, Result, mounted, room};

/// Messages from a client that wait for a slow guest.
const INPUT_QUEUE: usize = 16;

/// Commands run in machines.
#[derive(Debug, Clone)]
pub struct Executions {
    pub(crate) inner: Arc<Inner>,
}

impl Executions {
    /// Starts a command. A sleeping machine wakes for it: the execution is `wake_in_progress` then.
    ///
    /// # Errors
    /// `InvalidArgument`, `TooLarge`, `NotFound`; `Conflict` with `INVALID_STATE` for a machine that is
    /// being deleted, or sleeps and is mounted on this host for writing; `Unreachable` where the guest does not answer.
    pub async fn create(&self, machine: &MachineRef, new: NewExecution) -> Result<Execution> {
        validate::check(&new)?;
        let row = self.inner.resolve(machine).await?;
        let id = ExecutionId::generate();
        let (mut row, in_use) = self.inner.in_use(row).await?;
        if in_use.is_some()
            && row.desired == Desired::Running
            && let Some(link) = self.inner.parts.host.connect(&row.id).await
        {
            match link.execute(&id, &new).await {
                // Put to sleep meanwhile, by somebody's wish: it wakes for this as for any later one.
                Err(error) if error.kind() == ErrorKind::Unavailable => {
                    row = self.inner.resolve(&MachineRef::Id(row.id)).await?;
                    if row.desired == Desired::Running && row.observed.phase == Phase::Running {
                        return Err(error);
                    }
                }
                done => return done,
            }
        }
        drop(in_use);
        mounted::refuse(&self.inner, &row, "run the command again").await?;
        room::refuse(&self.inner, &row, "run the command again").await?;
        let inner = self.inner.clone();
        self.inner.to_the_end(async move { waiting::start(&inner, &row, id, new).await }).await
    }

    /// One execution.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn get(&self, machine: &MachineRef, id: &ExecutionId) -> Result<Execution> {
        let row = self.inner.resolve(machine).await?;
        self.find(&row, id).await
    }

    /// Waits at most `wait` until it is over, also for its machine to wake; returns it as it is then.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn wait(
        &self,
        machine: &MachineRef,
        id: &ExecutionId,
        wait: Duration,
    ) -> Result<Execution> {
        let row = self.inner.resolve(machine).await?;
        self.find(&row, id).await?;
        let deadline = tokio::time::Instant::now() + wait;
        let handed_over = waiting::handed_over(&self.inner, id);
        if let Ok(done) = tokio::time::timeout_at(deadline, handed_over).await {
            done?;
        }
        let execution = self.find(&row, id).await?;
        let left = deadline.saturating_duration_since(tokio::time::Instant::now());
        if execution.status.is_final() || left.is_zero() {
            return Ok(execution);
        }
        match self.inner.parts.host.connect(&row.id).await {
            Some(link) => {
                let _busy = self.inner.activity.begin(&row.id).await;
                link.wait(id, left).await
            }
            None => self.find(&row, id).await,
        }
    }

    /// Executions of a machine, oldest first.
    ///
    /// # Errors
    /// `NotFound`, `InvalidArgument` for a cursor that is not one.
    pub async fn list(&self, machine: &MachineRef, page: &PageQuery) -> Result<Page<Execution>> {
        let row = self.inner.resolve(machine).await?;
        let after: Option<ExecutionId> = page.parse_cursor()?;
        let length = page.length();
        let recorded = self.records(&row).list(after.clone(), length + 1).await?;
        let waiting = waiting::list(&self.inner, &row.id).await?;
        let mut merged: BTreeMap<ExecutionId, Execution> = BTreeMap::new();
        // A keeper's record is newer than a line about waiting.
        for execution in waiting.into_iter().chain(recorded) {
            if after.as_ref().is_none_or(|after| execution.execution_id > *after) {
                merged.insert(execution.execution_id.clone(), execution);
            }
        }
        let items = merged.into_values().collect();
        Ok(Page::cut(items, length, |execution: &Execution| execution.execution_id.to_string()))
    }

    /// What it has written so far, at most [`OUTPUT_BYTES_MAX`] a stream.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn output(&self, machine: &MachineRef, id: &ExecutionId) -> Result<ExecutionOutput> {
        let row = self.inner.resolve(machine).await?;
        match self.records(&row).output(id, OUTPUT_BYTES_MAX).await {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                // One that waits has written nothing.
                let execution = self.find(&row, id).await?;
                Ok(ExecutionOutput {
                    execution_id: execution.execution_id,
                    stdout: String::new(),
                    stderr: String::new(),
                    stdout_bytes: 0,
                    stderr_bytes: 0,
                    stdout_truncated: false,
                    stderr_truncated: false,
                })
            }
            other => other,
        }
    }

    /// What happened to it, in order.
    ///
    /// # Errors
    /// `NotFound`, `InvalidArgument` for a cursor that is not one.
    pub async fn events(
        &self,
        machine: &MachineRef,
        id: &ExecutionId,
        page: &PageQuery,
    ) -> Result<Page<ExecutionEvent>> {
        let row = self.inner.resolve(machine).await?;
        let after: u64 = page.parse_cursor()?.unwrap_or(0);
        let length = page.length();
        let events = match self.records(&row).events(id, after, length + 1).await {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let execution = self.find(&row, id).await?;
                if after == 0 { vec![only_event(&execution)] } else { Vec::new() }
            }
            other => other?,
        };
        Ok(Page::cut(events, length, |event: &ExecutionEvent| event.sequence.to_string()))
    }

    /// Cancels it if it is live; returns the final record.
    ///
    /// # Errors
    /// `NotFound`, `Timeout` where it does not end.
    pub async fn delete(&self, machine: &MachineRef, id: &ExecutionId) -> Result<Execution> {
        let row = self.inner.resolve(machine).await?;
        let execution = self.find(&row, id).await?;
        if execution.status.is_final() {
            return Ok(execution);
        }
        if let Some(cancelled) = waiting::cancel(&self.inner, id).await? {
            return Ok(cancelled);
        }
        waiting::handed_over(&self.inner, id).await?;
        match self.inner.parts.host.connect(&row.id).await {
            Some(link) => link.cancel(id).await,
            // Its keeper is gone, and the execution with it.
            None => self.find(&row, id).await,
        }
    }

    /// Joins an execution in both directions, waiting for its machine to wake. One that is over gives
    /// what is kept of its output and its final record.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn attach(&self, machine: &MachineRef, id: &ExecutionId) -> Result<Attachment> {
        let row = self.inner.resolve(machine).await?;
        self.find(&row, id).await?;
        waiting::handed_over(&self.inner, id).await?;
        let execution = self.find(&row, id).await?;
        if !execution.status.is_final()
            && let Some(link) = self.inner.parts.host.connect(&row.id).await
        {
            return self.attach_live(&row, id, &*link).await;
        }
        self.replay(&row, id).await
    }

    async fn attach_live(
        &self,
        row: &MachineRow,
        id: &ExecutionId,
        link: &dyn KeeperLink,
    ) -> Result<Attachment> {
        let busy = self.inner.activity.begin(&row.id).await;
        let Attachment { input, output } = link.attach(id).await?;
        // The machine stays awake while somebody listens.
        let output = output.inspect(move |_| _ = &busy).boxed();
        Ok(Attachment { input, output })
    }

    /// An attachment to an execution that is over. What a client still sends goes nowhere.
    async fn replay(&self, row: &MachineRow, id: &ExecutionId) -> Result<Attachment> {
        let execution = self.find(row, id).await?;
        let output = self.output(&MachineRef::Id(row.id.clone()), id).await?;
        let chunks = [
            (!output.stdout.is_empty()).then(|| AttachOutput::Stdout(Bytes::from(output.stdout))),
            (!output.stderr.is_empty()).then(|| AttachOutput::Stderr(Bytes::from(output.stderr))),
            Some(AttachOutput::Ended(Box::new(execution))),
        ];
        let (input, _) = tokio::sync::mpsc::channel(INPUT_QUEUE);
        Ok(Attachment { input, output: stream::iter(chunks.into_iter().flatten().map(Ok)).boxed() })
    }

    async fn find(&self, row: &MachineRow, id: &ExecutionId) -> Result<Execution> {
        match self.records(row).get(id).await {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let waiting = waiting::get(&self.inner, id).await?;
                waiting.filter(|execution| execution.machine_id == row.id).ok_or_else(|| {
                    Error::not_found(format!("machine {} has no execution {id}", row.name))
                })
            }
            other => other,
        }
    }

    fn records(&self, row: &MachineRow) -> Arc<dyn ExecutionRecords> {
        self.inner.parts.host.executions(&row.id)
    }
}

/// The one event of an execution that no keeper had.
fn only_event(execution: &Execution) -> ExecutionEvent {
    ExecutionEvent {
        sequence: 1,
        event_type: EventType::Lifecycle,
        at: execution.completed_at.unwrap_or(execution.created_at),
        chunk: None,
        status: Some(execution.status),
        exit_code: None,
        signal: None,
        error_code: execution.error_code.clone(),
        error_message: execution.error_message.clone(),
    }
}

#[cfg(test)]
mod tests;
