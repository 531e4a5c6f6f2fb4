//! Executions from the files that keepers write.

use async_trait::async_trait;
use base::{ExecutionId, MachineId};
use control::Result;
use control::executions::{EventType, Execution, ExecutionEvent, ExecutionOutput};
use control::host::ExecutionRecords;
use keeper::executions::{Event, EventKind, Records};
use keeper::launch;
use keeper::layout::MachineDir;

use crate::convert;

/// The executions of one machine on this disk.
#[derive(Debug, Clone)]
pub(crate) struct LocalRecords {
    pub(crate) machine: MachineId,
    pub(crate) dir: MachineDir,
}

impl LocalRecords {
    /// Runs a call on the records where it may block.
    pub(crate) async fn with<T: Send + 'static>(
        &self,
        call: impl FnOnce(Records) -> keeper::Result<T> + Send + 'static,
    ) -> Result<T> {
        let dir = self.dir.clone();
        tokio::task::spawn_blocking(move || {
            let live = launch::is_alive(&dir);
            call(Records::new(&dir, live))
        })
        .await
        .map_err(|error| control::Error::internal(format!("read executions: {error}")))?
        .map_err(convert::failure)
    }
}

#[async_trait]
impl ExecutionRecords for LocalRecords {
    async fn list(&self, after: Option<ExecutionId>, max: usize) -> Result<Vec<Execution>> {
        let found = self.with(move |records| Ok(records.list(after.as_ref(), max))).await?;
        Ok(found.into_iter().map(|record| convert::execution(&self.machine, record)).collect())
    }

    async fn get(&self, id: &ExecutionId) -> Result<Execution> {
        let id = id.clone();
        let record = self.with(move |records| records.get(&id)).await?;
        Ok(convert::execution(&self.machine, record))
    }

    async fn output(&self, id: &ExecutionId, max: u64) -> Result<ExecutionOutput> {
        let wanted = id.clone();
        let output = self.with(move |records| records.output(&wanted)).await?;
        let max = usize::try_from(max).unwrap_or(usize::MAX);
        let cut =
            |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(max)]).into_owned();
        Ok(ExecutionOutput {
            execution_id: id.clone(),
            stdout: cut(&output.stdout),
            stderr: cut(&output.stderr),
            stdout_bytes: output.record.stdout_bytes,
            stderr_bytes: output.record.stderr_bytes,
            stdout_truncated: output.record.stdout_truncated() || output.stdout.len() > max,
            stderr_truncated: output.record.stderr_truncated() || output.stderr.len() > max,
        })
    }

    async fn events(
        &self,
        id: &ExecutionId,
        after: u64,
        max: usize,
    ) -> Result<Vec<ExecutionEvent>> {
        let id = id.clone();
        let (record, events) = self
            .with(move |records| Ok((records.get(&id)?, records.events(&id, after, max)?)))
            .await?;
        Ok(events.into_iter().map(|event| shape(&record, event)).collect())
    }

    async fn forget(&self, id: &ExecutionId) -> Result<()> {
        let id = id.clone();
        match self.with(move |records| records.remove(&id)).await {
            Err(error) if error.kind() == base::ErrorKind::NotFound => Ok(()),
            other => other.map(drop),
        }
    }
}

fn shape(record: &keeper::executions::Record, event: Event) -> ExecutionEvent {
    let ended = event.state.is_some_and(keeper::executions::State::is_final);
    ExecutionEvent {
        sequence: event.sequence,
        event_type: match event.kind {
            EventKind::Lifecycle => EventType::Lifecycle,
            EventKind::Stdout => EventType::Stdout,
            EventKind::Stderr => EventType::Stderr,
        },
        at: event.at,
        chunk: (event.kind != EventKind::Lifecycle)
            .then(|| String::from_utf8_lossy(&event.chunk).into_owned()),
        status: event.state.map(convert::status),
        exit_code: if ended { record.exit_code } else { None },
        signal: if ended { record.signal } else { None },
        error_code: if ended { record.error_code.clone() } else { None },
        error_message: if ended { record.error_message.clone() } else { None },
    }
}
