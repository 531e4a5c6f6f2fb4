//! Single files under `/v1/machines/{machine}/fs` (contract, section 16). The root is the home.
//!
//! The same calls work awake and asleep. Asleep, reads show the published state unless `?draft=true`,
//! and writes go to the draft, private until it is published.
//!
//! Bodies stream both ways; an upload that breaks off changes nothing. Paths are bytes, decoded and
//! checked before anything else looks at them ([`http_kit::fs_path`]).
//!
//! # Not here
//! Whole trees: tar and listings ([`fs_tree`](crate::fs_tree)).

pub(crate) mod headers;
pub(crate) mod target;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use control::files::{DeleteOptions, FileBody, PutOptions, RangeSpec, View};
use http::header::{CONTENT_RANGE, IF_MATCH, IF_NONE_MATCH};
use http::{HeaderMap, StatusCode};
use http_kit::preconditions::{self, Tags};
use http_kit::{ApiError, Query, StreamBody, range};
use serde::Deserialize;

use crate::ctx::Ctx;
use crate::fs_tree;
use crate::limits::MODE_MAX;
use crate::shapes::file::{DiscardedBody, PublishedBody, RemovedBody, WrittenBody};
use crate::shapes::page::{Flag, PageParams};
use target::FsTarget;

/// Which state is read, and in which form.
#[derive(Debug, Deserialize)]
pub(crate) struct ReadParams {
    #[serde(default)]
    draft: Flag,
    #[serde(default)]
    list: Flag,
    bundle: Option<String>,
    cursor: Option<String>,
    limit: Option<u32>,
}

impl ReadParams {
    fn view(&self) -> View {
        if self.draft.0 { View::Draft } else { View::Current }
    }
}

pub(crate) async fn get(
    State(ctx): State<Ctx>,
    target: FsTarget,
    Query(params): Query<ReadParams>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let view = params.view();
    if let Some(form) = &params.bundle {
        fs_tree::check_form(form)?;
        return fs_tree::bundle(&ctx, &target, view).await;
    }
    if params.list.0 {
        let page = PageParams::new(params.cursor, params.limit);
        return fs_tree::list(&ctx, &target, page, view).await;
    }
    if target.path.is_root() {
        return Err(target.is_directory());
    }
    let FileBody { meta, range: part, body } = open(&ctx, &target, view, &headers).await?;
    if let Some(reply) = unless_changed(&meta.etag, &headers)? {
        return Ok(headers::of_meta(reply, &meta));
    }
    let (status, content_range) = if part.start == 0 && part.end == meta.size {
        (StatusCode::OK, None)
    } else {
        (StatusCode::PARTIAL_CONTENT, Some(range::content_range(&part, meta.size)))
    };
    let mut response = (status, Body::from_stream(body)).into_response();
    headers::content(response.headers_mut(), part.end - part.start);
    if let Some(value) = content_range {
        response.headers_mut().insert(CONTENT_RANGE, value);
    }
    Ok(headers::of_meta(response, &meta))
}

/// Opens the part that is asked for. With `If-Range` the part counts only for the very file that the
/// client knows; else the whole is sent.
async fn open(
    ctx: &Ctx,
    target: &FsTarget,
    view: View,
    headers: &HeaderMap,
) -> Result<FileBody, ApiError> {
    let files = ctx.control.files();
    let get = async |range: Option<RangeSpec>| {
        files
            .get(&target.machine, &target.path, range, view)
            .await
            .map_err(|error| range::with_size(target.explain(error)))
    };
    let range = range::requested(headers);
    let (Some(_), Some(known)) = (range, preconditions::if_range(headers)) else {
        return get(range).await;
    };
    match get(range).await {
        Ok(file) if file.meta.etag == known => Ok(file),
        Ok(_) => get(None).await,
        Err(error) if error.status() == StatusCode::RANGE_NOT_SATISFIABLE => get(None).await,
        Err(error) => Err(error),
    }
}

pub(crate) async fn head(
    State(ctx): State<Ctx>,
    target: FsTarget,
    Query(params): Query<ReadParams>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let files = ctx.control.files();
    let meta = files.head(&target.machine, &target.path, params.view()).await;
    let meta = meta.map_err(|error| target.explain(error))?;
    if let Some(reply) = unless_changed(&meta.etag, &headers)? {
        return Ok(headers::of_meta(reply, &meta));
    }
    let mut response = StatusCode::OK.into_response();
    if meta.kind == vfs::Kind::File {
        headers::content(response.headers_mut(), meta.size);
    }
    Ok(headers::of_meta(response, &meta))
}

/// The reply for a client that has this version already: 304. An `If-Match` that does not hold: 412.
fn unless_changed(etag: &str, headers: &HeaderMap) -> Result<Option<Response>, ApiError> {
    if Tags::read(headers, &IF_MATCH)?.is_some_and(|tags| !tags.holds(etag)) {
        return Err(ApiError::new(
            base::ErrorKind::PreconditionFailed,
            "the file is not at the version that If-Match names",
        ));
    }
    let known = Tags::read(headers, &IF_NONE_MATCH)?.is_some_and(|tags| tags.holds(etag));
    Ok(known.then(|| StatusCode::NOT_MODIFIED.into_response()))
}

/// How a file is written.
#[derive(Debug, Deserialize)]
pub(crate) struct WriteParams {
    mode: Option<String>,
}

impl WriteParams {
    /// Octal, as in `chmod`.
    fn mode(&self) -> Result<Option<u32>, ApiError> {
        let Some(text) = &self.mode else { return Ok(None) };
        let digits = text.strip_prefix("0o").unwrap_or(text);
        let octal = !digits.is_empty() && digits.bytes().all(|b| (b'0'..=b'7').contains(&b));
        let mode = octal.then(|| u32::from_str_radix(digits, 8).ok()).flatten();
        mode.filter(|mode| *mode <= MODE_MAX)
            .map(Some)
            .ok_or_else(|| ApiError::invalid("mode is octal, 0 to 7777, as in chmod: ?mode=0755"))
    }
}

pub(crate) async fn put(
    State(ctx): State<Ctx>,
    target: FsTarget,
    Query(params): Query<WriteParams>,
    headers: HeaderMap,
    StreamBody(body): StreamBody,
) -> Result<Response, ApiError> {
    if target.path.is_root() {
        return Err(target.is_directory());
    }
    if headers.contains_key(CONTENT_RANGE) {
        return Err(ApiError::invalid("PUT replaces the whole file; Content-Range is not taken"));
    }
    let options =
        PutOptions { mode: params.mode()?, precondition: preconditions::for_change(&headers)? };
    let done = ctx.control.files().put(&target.machine, &target.path, body, options).await;
    let done = done.map_err(|error| target.explain(error))?;
    let status = if done.created { StatusCode::CREATED } else { StatusCode::OK };
    let meta = done.meta.clone();
    let body = WrittenBody {
        path: target.path.to_string(),
        created: done.created,
        file: done.meta.into(),
    };
    Ok(headers::of_meta((status, Json(body)).into_response(), &meta))
}

/// What is removed.
#[derive(Debug, Deserialize)]
pub(crate) struct DeleteParams {
    recursive: Option<Flag>,
}

pub(crate) async fn delete(
    State(ctx): State<Ctx>,
    target: FsTarget,
    Query(params): Query<DeleteParams>,
    headers: HeaderMap,
) -> Result<Json<RemovedBody>, ApiError> {
    if target.path.is_root() {
        return Err(ApiError::invalid(
            "the home itself is removed with its machine; name a path in it",
        ));
    }
    let options = DeleteOptions {
        recursive: params.recursive.unwrap_or_default().0,
        precondition: preconditions::for_change(&headers)?,
    };
    let meta = ctx.control.files().delete(&target.machine, &target.path, options).await;
    let meta = meta.map_err(|error| target.explain(error))?;
    Ok(Json(RemovedBody { path: target.path.to_string(), file: meta.into() }))
}

pub(crate) async fn publish(
    State(ctx): State<Ctx>,
    target: FsTarget,
) -> Result<Json<PublishedBody>, ApiError> {
    Ok(Json(ctx.control.files().publish(&target.machine).await?.into()))
}

/// Throws the draft away. Below `/fs` a file can be called `draft` too: a call that says `recursive`,
/// either way, or has a precondition is about that file.
pub(crate) async fn discard(
    State(ctx): State<Ctx>,
    target: FsTarget,
    Query(params): Query<DeleteParams>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let conditional = headers.contains_key(IF_MATCH) || headers.contains_key(IF_NONE_MATCH);
    if !target.path.is_root() && (params.recursive.is_some() || conditional) {
        return Ok(delete(State(ctx), target, Query(params), headers).await?.into_response());
    }
    let discarded = ctx.control.files().discard_draft(&target.machine).await?;
    Ok(Json(DiscardedBody { discarded }).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_octal() {
        let mode = |text: &str| WriteParams { mode: Some(text.to_owned()) }.mode().ok().flatten();
        assert_eq!(mode("0755"), Some(0o755));
        assert_eq!(mode("644"), Some(0o644));
        assert_eq!(mode("0o7777"), Some(0o7777));
        for bad in ["", "755x", "888", "10000", "-1", "+7", "99999999999999999999"] {
            assert_eq!(mode(bad), None, "{bad}");
        }
        assert_eq!(WriteParams { mode: None }.mode().unwrap(), None);
    }
}
