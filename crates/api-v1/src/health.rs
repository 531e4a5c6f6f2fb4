//! Whether the server lives, whether it can do its work, and its numbers.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::CONTENT_TYPE;
use serde_json::json;

use crate::ctx::Ctx;

/// The process answers.
pub(crate) async fn healthz() -> Response {
    Json(json!({ "status": "ok" })).into_response()
}

/// 200 where everything that must work does, else 503; the body says what does not.
pub(crate) async fn readyz(State(ctx): State<Ctx>) -> Response {
    let readiness = ctx.control.health().readiness();
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(readiness)).into_response()
}

/// Prometheus text.
pub(crate) async fn metrics(State(ctx): State<Ctx>) -> Response {
    let text = "text/plain; version=0.0.4; charset=utf-8";
    ([(CONTENT_TYPE, text)], ctx.exporter.render()).into_response()
}
