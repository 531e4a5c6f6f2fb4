//! Machines and their lifecycle (contract, sections 5 to 8).
//!
//! A call writes down what is wanted and waits a little for it: 200 where the machine is there, 202
//! where it is still on its way. Both carry the same body.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use base::Timestamp;
use control::{IfMatch, Machine};
use http::header::{ETAG, IF_MATCH};
use http::{HeaderMap, StatusCode};
use http_kit::preconditions::etag_header;
use http_kit::{ApiError, JsonBody, Query, prefer};
use serde::Deserialize;

use crate::ctx::{Ctx, Target};
use crate::limits::SETTLE_WAIT_DEFAULT;
use crate::shapes::machine::{MachineBody, MachineCreate, MachineUpdate};
use crate::shapes::page::{PageBody, PageParams};

pub(crate) async fn create(
    State(ctx): State<Ctx>,
    headers: HeaderMap,
    JsonBody(body): JsonBody<MachineCreate>,
) -> Result<Response, ApiError> {
    let machine = ctx.control.machines().create(body.into()).await?;
    Ok(settled(&ctx, machine, &headers).await)
}

pub(crate) async fn list(
    State(ctx): State<Ctx>,
    Query(page): Query<PageParams>,
) -> Result<Json<PageBody<MachineBody>>, ApiError> {
    let page = ctx.control.machines().list(&page.query()?).await?;
    Ok(Json(PageBody::of(page, MachineBody::from)))
}

pub(crate) async fn get(
    State(ctx): State<Ctx>,
    Target(machine): Target,
) -> Result<Response, ApiError> {
    Ok(reply(StatusCode::OK, ctx.control.machines().get(&machine).await?))
}

pub(crate) async fn update(
    State(ctx): State<Ctx>,
    Target(machine): Target,
    headers: HeaderMap,
    JsonBody(body): JsonBody<MachineUpdate>,
) -> Result<Response, ApiError> {
    let machine =
        ctx.control.machines().update(&machine, body.into(), &if_match(&headers)?).await?;
    Ok(settled(&ctx, machine, &headers).await)
}

pub(crate) async fn delete(
    State(ctx): State<Ctx>,
    Target(machine): Target,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let machine = ctx.control.machines().delete(&machine, &if_match(&headers)?).await?;
    Ok(settled(&ctx, machine, &headers).await)
}

pub(crate) async fn sleep(
    State(ctx): State<Ctx>,
    Target(machine): Target,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let machine = ctx.control.machines().sleep(&machine, &if_match(&headers)?).await?;
    Ok(settled(&ctx, machine, &headers).await)
}

/// How a machine wakes.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct WakeParams {
    /// Boot; what it slept with is thrown away.
    #[serde(default)]
    cold: bool,
    /// Not now but then: an RFC 3339 time, or `never`.
    at: Option<String>,
}

/// The time of `at`; `None` takes one back.
fn wake_time(at: &str) -> Result<Option<Timestamp>, ApiError> {
    if at == "never" {
        return Ok(None);
    }
    let what = "at has to be an RFC 3339 time such as 2026-12-01T08:00:00Z, or never";
    at.parse().map(Some).map_err(|_| ApiError::invalid(what))
}

pub(crate) async fn wake(
    State(ctx): State<Ctx>,
    Target(machine): Target,
    Query(how): Query<WakeParams>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let (machines, if_match) = (ctx.control.machines(), if_match(&headers)?);
    if let Some(at) = &how.at {
        if how.cold {
            return Err(ApiError::invalid(
                "give at or cold, not both: what it boots from is decided then",
            ));
        }
        let machine = machines.wake_at(&machine, wake_time(at)?, &if_match).await?;
        return Ok(reply(StatusCode::OK, machine));
    }
    let machine = if how.cold {
        machines.wake_cold(&machine, &if_match).await?
    } else {
        machines.wake(&machine, &if_match).await?
    };
    let machine = settle(&ctx, machine, &headers).await;
    match machine.fenced() {
        Some(error) => Err(error.into()),
        None => Ok(outcome(machine)),
    }
}

/// How a machine reboots.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct RebootParams {
    /// Without the guest's cooperation.
    #[serde(default)]
    force: bool,
}

pub(crate) async fn reboot(
    State(ctx): State<Ctx>,
    Target(machine): Target,
    Query(how): Query<RebootParams>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let asked = ctx.control.machines().reboot(&machine, how.force, &if_match(&headers)?).await?;
    let machine = settle(&ctx, asked, &headers).await;
    match machine.fenced() {
        Some(error) => Err(error.into()),
        None => Ok(outcome(machine)),
    }
}

/// The revision that a client believes in. Absent means any: newer clients never send it.
fn if_match(headers: &HeaderMap) -> Result<IfMatch, ApiError> {
    let text = headers.get(IF_MATCH).map(|value| value.to_str()).transpose();
    let text = text.map_err(|_| ApiError::invalid("the If-Match header is not plain text"))?;
    Ok(IfMatch::parse(text)?)
}

/// Waits for the outcome as long as the client likes.
async fn settled(ctx: &Ctx, machine: Machine, headers: &HeaderMap) -> Response {
    outcome(settle(ctx, machine, headers).await)
}

async fn settle(ctx: &Ctx, machine: Machine, headers: &HeaderMap) -> Machine {
    let wait = prefer::wait(headers, SETTLE_WAIT_DEFAULT);
    ctx.control.machines().settle(machine, wait).await
}

fn outcome(machine: Machine) -> Response {
    let status = if machine.is_converged() { StatusCode::OK } else { StatusCode::ACCEPTED };
    reply(status, machine)
}

fn reply(status: StatusCode, machine: Machine) -> Response {
    let etag = etag_header(&machine.revision);
    let mut response = (status, Json(MachineBody::from(machine))).into_response();
    if let Some(etag) = etag {
        response.headers_mut().insert(ETAG, etag);
    }
    response
}
