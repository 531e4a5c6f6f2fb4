//! Executions whose machine is waking.
//!
//! # Order
//! The execution is written down as `wake_in_progress`, the machine is wished awake, and a task waits.
//! Once the machine runs, the execution becomes `queued`, goes to the keeper under the same id, and
//! its line here goes: the keeper's own files are its record from then on.
//!
//! # Invariants
//! Values of variables and standard input stay in memory; what is written down has their names only.
//!
//! # Bounds
//! What never ran stays readable; of each machine the newest [`NEVER_RAN_EXECUTIONS_MAX`] are kept.
//!
//! # Crash
//! The values are lost, so an execution that no keeper has is `failed` with `SERVER_RESTARTED`.

use std::sync::Arc;
use std::time::Duration;

use base::{ExecutionId, MachineId};
use catalog::{MachineRow, WaitingExecution};

use super::{Execution, ExecutionStatus, NewExecution};
use crate::control::Inner;
use crate::limits::{NEVER_RAN_EXECUTIONS_MAX, WAITING_EXECUTIONS_MAX};
use crate::machines::driver::Drivers;
use crate::machines::{Desired, IfMatch, Phase, intent};
use crate::{Error, Result};

/// When to look again at an execution whose machine is waking.
const RETRY_AFTER_MS: u64 = 500;

/// How long before the next look at an execution on its way to the keeper.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Writes an execution down, wishes its machine awake, and hands it over once it is.
pub(crate) async fn start(
    inner: &Arc<Inner>,
    row: &MachineRow,
    id: ExecutionId,
    new: NewExecution,
) -> Result<Execution> {
    let machine = row.id.clone();
    let others = inner.db(move |catalog| catalog.waiting_of(Some(&machine))).await?;
    let (live, over): (Vec<_>, Vec<_>) = others.into_iter().partition(is_live);
    let live = live.len();
    if live >= WAITING_EXECUTIONS_MAX {
        return Err(Error::new(
            base::ErrorKind::Unavailable,
            format!("{live} executions wait for this machine to wake; try again once it is awake"),
        )
        .retry_after(1_000));
    }
    let surplus = (over.len() + 1).saturating_sub(NEVER_RAN_EXECUTIONS_MAX);
    for old in over.into_iter().take(surplus) {
        inner.db(move |catalog| catalog.remove_waiting(&old.id)).await?;
    }
    let execution = Execution {
        status: ExecutionStatus::WakeInProgress,
        retry_after_ms: Some(RETRY_AFTER_MS),
        ..describe(inner, &row.id, &id, &new)
    };
    write(inner, &execution).await?;
    if let Err(error) = inner.edit(&row.id, |row| intent::wake(row, &IfMatch::Any)).await {
        inner.db(move |catalog| catalog.remove_waiting(&id)).await?;
        return Err(error);
    }
    Drivers::nudge(inner, &row.id);
    let (shared, machine) = (Arc::clone(inner), row.id.clone());
    inner.tasks.spawn(async move {
        let shutdown = shared.shutdown.clone();
        tokio::select! {
            () = shutdown.cancelled() => (),
            () = hand_over(&shared, &machine, &id, &new) => (),
        }
    });
    Ok(execution)
}

async fn hand_over(inner: &Inner, machine: &MachineId, id: &ExecutionId, new: &NewExecution) {
    // While it waits, the machine does not fall asleep under it.
    let _awake = inner.activity.begin(machine).await;
    let done = match wait_and_execute(inner, machine, id, new).await {
        Ok(()) => Ok(()),
        Err(error) => fail(inner, id, &error).await,
    };
    if let Err(error) = done {
        tracing::error!(execution = %id, %error, "write down a waiting execution");
    }
}

async fn wait_and_execute(
    inner: &Inner,
    machine: &MachineId,
    id: &ExecutionId,
    new: &NewExecution,
) -> Result<()> {
    let timing = &inner.settings.timing;
    let longest = (timing.start_max + timing.stop_max) * timing.tries_max.max(1);
    let up_or_not = |row: &MachineRow| {
        row.desired != Desired::Running
            || matches!(row.observed.phase, Phase::Running | Phase::Failed)
    };
    let row = inner.wait_for(machine, longest, up_or_not).await?;
    let link = match inner.parts.host.connect(machine).await {
        Some(link) if row.observed.phase == Phase::Running => link,
        _ => return Err(not_woken(&row)),
    };
    // A cancel before this line wins; one after it goes to the keeper.
    let queued = change(inner, id, |execution| {
        execution.status = ExecutionStatus::Queued;
    })
    .await?;
    if queued.is_none_or(|execution| execution.status != ExecutionStatus::Queued) {
        return Ok(());
    }
    link.execute(id, new).await?;
    let id = id.clone();
    inner.db(move |catalog| catalog.remove_waiting(&id)).await
}

fn not_woken(row: &MachineRow) -> Error {
    let why = match (&row.observed.last_error, row.desired) {
        (Some(error), _) => error.clone(),
        (None, Desired::Running) => format!("it is {} after a long wait", row.observed.phase),
        (None, desired) => format!("it was asked to be {desired} meanwhile"),
    };
    Error::new(base::ErrorKind::Conflict, format!("the machine did not wake: {why}"))
        .with_code("WAKE_FAILED")
}

/// The execution, as far as it is not in a keeper's files.
pub(crate) async fn get(inner: &Inner, id: &ExecutionId) -> Result<Option<Execution>> {
    let id = id.clone();
    let found = inner.db(move |catalog| catalog.waiting(&id)).await?;
    found.as_ref().map(read).transpose()
}

/// Those of a machine, oldest first.
pub(crate) async fn list(inner: &Inner, machine: &MachineId) -> Result<Vec<Execution>> {
    let machine = machine.clone();
    let found = inner.db(move |catalog| catalog.waiting_of(Some(&machine))).await?;
    found.iter().map(read).collect()
}

/// Cancels an execution that no keeper has; `None` where a keeper has it, or is about to.
pub(crate) async fn cancel(inner: &Inner, id: &ExecutionId) -> Result<Option<Execution>> {
    let now = inner.parts.clock.now();
    let after = change(inner, id, move |execution| {
        if execution.status == ExecutionStatus::WakeInProgress {
            execution.status = ExecutionStatus::Cancelled;
            execution.completed_at = Some(now);
            execution.retry_after_ms = None;
        }
    })
    .await?;
    Ok(after.filter(|execution| execution.status.is_final()))
}

/// Waits until a keeper has the execution, or it ended without.
pub(crate) async fn handed_over(inner: &Inner, id: &ExecutionId) -> Result<()> {
    while let Some(execution) = get(inner, id).await? {
        if execution.status.is_final() {
            return Ok(());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}

/// At start: what waited can no longer be run, unless its keeper has it.
pub(crate) async fn settle_after_restart(inner: &Inner) -> Result<()> {
    for waiting in inner.db(|catalog| catalog.waiting_of(None)).await? {
        let records = inner.parts.host.executions(&waiting.machine);
        if records.get(&waiting.id).await.is_ok() {
            let id = waiting.id.clone();
            inner.db(move |catalog| catalog.remove_waiting(&id)).await?;
        } else if is_live(&waiting) {
            let error = Error::new(
                base::ErrorKind::Unavailable,
                "the server was restarted before the machine was awake; run the command again",
            )
            .with_code("SERVER_RESTARTED");
            fail(inner, &waiting.id, &error).await?;
        }
    }
    Ok(())
}

async fn fail(inner: &Inner, id: &ExecutionId, error: &Error) -> Result<()> {
    let now = inner.parts.clock.now();
    let (code, message) = (error.code.to_string(), error.message.clone());
    let failed = move |execution: &mut Execution| {
        execution.status = ExecutionStatus::Failed;
        execution.completed_at = Some(now);
        execution.retry_after_ms = None;
        execution.error_code = Some(code);
        execution.error_message = Some(message);
    };
    change(inner, id, failed).await.map(drop)
}

/// Changes an execution that is not final; returns it as it is after.
async fn change(
    inner: &Inner,
    id: &ExecutionId,
    work: impl FnOnce(&mut Execution),
) -> Result<Option<Execution>> {
    let _alone = inner.waiting.lock().await;
    let Some(mut execution) = get(inner, id).await? else { return Ok(None) };
    if !execution.status.is_final() {
        work(&mut execution);
        write(inner, &execution).await?;
    }
    Ok(Some(execution))
}

async fn write(inner: &Inner, execution: &Execution) -> Result<()> {
    let document = serde_json::to_string(execution)
        .map_err(|error| Error::internal("write down an execution").caused_by(error))?;
    let waiting = WaitingExecution {
        id: execution.execution_id.clone(),
        machine: execution.machine_id.clone(),
        document,
    };
    inner.db(move |catalog| catalog.put_waiting(&waiting)).await
}

fn read(waiting: &WaitingExecution) -> Result<Execution> {
    serde_json::from_str(&waiting.document).map_err(|error| {
        Error::new(base::ErrorKind::Corrupt, format!("what is known of {} is damaged", waiting.id))
            .caused_by(error)
    })
}

fn is_live(waiting: &WaitingExecution) -> bool {
    read(waiting).is_ok_and(|execution| !execution.status.is_final())
}

/// What may be known of an execution: names of variables, no values.
fn describe(inner: &Inner, machine: &MachineId, id: &ExecutionId, new: &NewExecution) -> Execution {
    Execution {
        execution_id: id.clone(),
        machine_id: machine.clone(),
        status: ExecutionStatus::Queued,
        command: new.command.clone(),
        created_at: inner.parts.clock.now(),
        started_at: None,
        completed_at: None,
        cwd: new.cwd.clone(),
        env_keys: new.env.keys().cloned().collect(),
        exit_code: None,
        signal: None,
        error_code: None,
        error_message: None,
        retry_after_ms: None,
        stdout_bytes: 0,
        stderr_bytes: 0,
        stdout_truncated: false,
        stderr_truncated: false,
        log_capture: std::collections::BTreeMap::new(),
    }
}
