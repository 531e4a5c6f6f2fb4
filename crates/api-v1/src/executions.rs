//! Executions (contract, section 10).
//!
//! Create answers at once and clients poll. `wait_ms`, which is ours, holds create and get until the
//! command has ended or the time is up.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use base::{ErrorKind, ExecutionId};
use control::executions::Execution;
use control::{Executions, MachineRef};
use http_kit::{ApiError, JsonBody, PathText, Query};
use serde::Deserialize;

use crate::ctx::{Ctx, Target};
use crate::limits::EXECUTION_WAIT_MAX;
use crate::shapes::execution::{EventBody, ExecutionBody, ExecutionCreate, OutputBody};
use crate::shapes::page::{PageBody, PageParams};

#[derive(Debug, Deserialize)]
pub(crate) struct Wait {
    #[serde(default)]
    wait_ms: u64,
}

pub(crate) async fn create(
    State(ctx): State<Ctx>,
    Target(machine): Target,
    Query(wait): Query<Wait>,
    JsonBody(body): JsonBody<ExecutionCreate>,
) -> Result<Json<ExecutionBody>, ApiError> {
    let executions = ctx.control.executions();
    let execution = executions.create(&machine, body.into_new(false)?).await?;
    let execution = until_ended(&executions, &machine, execution, wait.wait_ms).await?;
    Ok(Json(execution.into()))
}

pub(crate) async fn list(
    State(ctx): State<Ctx>,
    Target(machine): Target,
    Query(page): Query<PageParams>,
) -> Result<Json<PageBody<ExecutionBody>>, ApiError> {
    let page = ctx.control.executions().list(&machine, &page.query()?).await?;
    Ok(Json(PageBody::of(page, ExecutionBody::from)))
}

pub(crate) async fn get(
    State(ctx): State<Ctx>,
    PathText(path): PathText<(String, String)>,
    Query(wait): Query<Wait>,
) -> Result<Json<ExecutionBody>, ApiError> {
    let (machine, id) = named(path)?;
    let executions = ctx.control.executions();
    let execution = executions.get(&machine, &id).await?;
    let execution = until_ended(&executions, &machine, execution, wait.wait_ms).await?;
    Ok(Json(execution.into()))
}

pub(crate) async fn output(
    State(ctx): State<Ctx>,
    PathText(path): PathText<(String, String)>,
) -> Result<Json<OutputBody>, ApiError> {
    let (machine, id) = named(path)?;
    Ok(Json(ctx.control.executions().output(&machine, &id).await?.into()))
}

pub(crate) async fn events(
    State(ctx): State<Ctx>,
    PathText(path): PathText<(String, String)>,
    Query(page): Query<PageParams>,
) -> Result<Json<PageBody<EventBody>>, ApiError> {
    let (machine, id) = named(path)?;
    let page = ctx.control.executions().events(&machine, &id, &page.query()?).await?;
    Ok(Json(PageBody::of(page, EventBody::from)))
}

pub(crate) async fn delete(
    State(ctx): State<Ctx>,
    PathText(path): PathText<(String, String)>,
) -> Result<Json<ExecutionBody>, ApiError> {
    let (machine, id) = named(path)?;
    Ok(Json(ctx.control.executions().delete(&machine, &id).await?.into()))
}

/// The machine and the execution of a path. What cannot be an id names nothing: 404.
fn named((machine, id): (String, String)) -> Result<(MachineRef, ExecutionId), ApiError> {
    let machine = machine.parse()?;
    let id = id.parse().map_err(|_| {
        let message = format!("there is no execution {id:?}: ids look like exec-0190…");
        ApiError::new(ErrorKind::NotFound, message)
    })?;
    Ok((machine, id))
}

/// Holds the reply until the execution has ended or the time is up.
async fn until_ended(
    executions: &Executions,
    machine: &MachineRef,
    execution: Execution,
    wait_ms: u64,
) -> Result<Execution, ApiError> {
    if wait_ms == 0 || execution.status.is_final() {
        return Ok(execution);
    }
    let wait = Duration::from_millis(wait_ms).min(EXECUTION_WAIT_MAX);
    Ok(executions.wait(machine, &execution.execution_id, wait).await?)
}
