//! Whole trees under `/fs`: tar in, tar out, listings. Also below a sub-path.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use control::files::{ImportOptions, View};
use http::header::CONTENT_TYPE;
use http_kit::{ApiError, Query, StreamBody};
use serde::Deserialize;

use crate::ctx::Ctx;
use crate::fs::target::FsTarget;
use crate::shapes::file::{EntryBody, ImportedBody};
use crate::shapes::page::{Flag, PageBody, PageParams};

/// What a tree is unpacked from.
#[derive(Debug, Deserialize)]
pub(crate) struct ImportParams {
    import: Option<String>,
    #[serde(default)]
    keep_owner: Flag,
    #[serde(default)]
    outside_links: Flag,
}

impl ImportParams {
    fn options(&self) -> ImportOptions {
        ImportOptions { keep_owner: self.keep_owner.0, outside_links: self.outside_links.0 }
    }
}

/// Unpacks a tar, all of it or nothing.
pub(crate) async fn import(
    State(ctx): State<Ctx>,
    target: FsTarget,
    Query(params): Query<ImportParams>,
    StreamBody(body): StreamBody,
) -> Result<Json<ImportedBody>, ApiError> {
    check_form(params.import.as_deref().ok_or_else(|| {
        ApiError::invalid("POST unpacks a tree here: say ?import=tar; to write a file use PUT")
    })?)?;
    let files = ctx.control.files();
    let imported = files.import_tar(&target.machine, &target.path, body, params.options()).await;
    Ok(Json(imported.map_err(|error| target.explain(error))?.into()))
}

/// `POST /fs/publish`, unless it says that it unpacks into a directory of that name.
pub(crate) async fn publish_or_import(
    ctx: State<Ctx>,
    target: FsTarget,
    Query(params): Query<ImportParams>,
    body: StreamBody,
) -> Result<Response, ApiError> {
    if params.import.is_some() {
        return Ok(import(ctx, target, Query(params), body).await?.into_response());
    }
    Ok(crate::fs::publish(ctx, target).await?.into_response())
}

/// Only one form is known, in both directions.
pub(crate) fn check_form(form: &str) -> Result<(), ApiError> {
    if form == "tar" {
        return Ok(());
    }
    Err(ApiError::invalid("trees travel as tar, not compressed: ?import=tar and ?bundle=tar"))
}

/// A tar of a tree. Its length is not known before its end; a body that is cut off has no end mark.
pub(crate) async fn bundle(ctx: &Ctx, target: &FsTarget, view: View) -> Result<Response, ApiError> {
    let body = ctx.control.files().bundle_tar(&target.machine, &target.path, view).await;
    let body = body.map_err(|error| target.explain(error))?;
    Ok(([(CONTENT_TYPE, "application/x-tar")], Body::from_stream(body)).into_response())
}

/// A page of a directory.
pub(crate) async fn list(
    ctx: &Ctx,
    target: &FsTarget,
    page: PageParams,
    view: View,
) -> Result<Response, ApiError> {
    let files = ctx.control.files();
    let page = files.list(&target.machine, &target.path, &page.query()?, view).await;
    let page = page.map_err(|error| target.explain(error))?;
    Ok(Json(PageBody::of(page, EntryBody::from)).into_response())
}
