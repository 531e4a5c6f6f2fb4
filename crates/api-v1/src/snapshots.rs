//! Snapshots of machines, restores, forks. The contract has none of these: they are this server's own.

use axum::Json;
use axum::extract::{FromRequestParts, State};
use base::SnapshotId;
use http::StatusCode;
use http::request::Parts;
use http_kit::{ApiError, JsonBody, PathText, Query};

use crate::ctx::{Ctx, Target};
use crate::shapes::machine::MachineBody;
use crate::shapes::page::{PageBody, PageParams};
use crate::shapes::snapshot::{ForkBody, ForkCreate, RestoreRequest, SnapshotBody, SnapshotCreate};

/// The `{snapshot}` of a path.
pub(crate) struct Kept(SnapshotId);

impl<S: Send + Sync> FromRequestParts<S> for Kept {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let PathText(text) = PathText::<String>::from_request_parts(parts, state).await?;
        text.parse().map(Self).map_err(|error| ApiError::invalid(format!("{error}")))
    }
}

pub(crate) async fn create(
    State(ctx): State<Ctx>,
    Target(machine): Target,
    JsonBody(body): JsonBody<SnapshotCreate>,
) -> Result<(StatusCode, Json<SnapshotBody>), ApiError> {
    let made = ctx.control.snapshots().create(&machine, body.into()).await?;
    Ok((StatusCode::CREATED, Json(made.into())))
}

pub(crate) async fn list(
    State(ctx): State<Ctx>,
    Target(machine): Target,
    Query(page): Query<PageParams>,
) -> Result<Json<PageBody<SnapshotBody>>, ApiError> {
    let page = ctx.control.snapshots().list(&machine, &page.query()?).await?;
    Ok(Json(PageBody::of(page, SnapshotBody::from)))
}

pub(crate) async fn get(
    State(ctx): State<Ctx>,
    Kept(snapshot): Kept,
) -> Result<Json<SnapshotBody>, ApiError> {
    Ok(Json(ctx.control.snapshots().get(&snapshot).await?.into()))
}

pub(crate) async fn delete(
    State(ctx): State<Ctx>,
    Kept(snapshot): Kept,
) -> Result<Json<SnapshotBody>, ApiError> {
    Ok(Json(ctx.control.snapshots().delete(&snapshot).await?.into()))
}

pub(crate) async fn restore(
    State(ctx): State<Ctx>,
    Target(machine): Target,
    JsonBody(body): JsonBody<RestoreRequest>,
) -> Result<Json<MachineBody>, ApiError> {
    let restored = ctx.control.snapshots().restore(&machine, &body.snapshot()?).await?;
    Ok(Json(restored.into()))
}

pub(crate) async fn fork(
    State(ctx): State<Ctx>,
    Target(machine): Target,
    JsonBody(body): JsonBody<ForkCreate>,
) -> Result<(StatusCode, Json<ForkBody>), ApiError> {
    let made = ctx.control.snapshots().fork(&machine, body.wanted()?).await?;
    Ok((StatusCode::CREATED, Json(made.into())))
}
