//! One log line and one set of numbers for every request.
//!
//! The line has the path without its query, which may hold secrets, and no header at all. Numbers are
//! kept by route template, never by path, so that clients cannot make new time series.

use std::time::Instant;

use axum::extract::{MatchedPath, Request};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::Response;
use tracing::{Instrument, error, info, info_span, warn};

use crate::error::Failure;
use crate::metrics;
use crate::request_id::RequestId;

/// Runs a request in a span of its own, then logs and counts it. For streams, the time is that until the
/// head of the reply.
pub async fn record(request: Request, next: Next) -> Response {
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let template = request.extensions().get::<MatchedPath>().cloned();
    let template = template.as_ref().map_or("unmatched", MatchedPath::as_str);
    let id = request.extensions().get::<RequestId>().map(|id| id.0.clone()).unwrap_or_default();
    let span = info_span!("request", id = &*id);
    let in_flight = metrics::InFlight::start();
    let started = Instant::now();
    let response = next.run(request).instrument(span.clone()).await;
    let took = started.elapsed();
    drop(in_flight);
    let status = response.status();
    metrics::request_done(&method, template, status, took);
    let _entered = span.enter();
    let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    match response.extensions().get::<Failure>() {
        Some(failure) if status.is_server_error() => error!(
            %method, path, status = status.as_u16(), ms, code = failure.code, error = failure.chain,
            "request failed"
        ),
        // To look whether something is there is no mistake of whoever asks.
        Some(failure) if status == StatusCode::NOT_FOUND => info!(
            %method, path, status = status.as_u16(), ms, code = failure.code, error = failure.chain,
            "request refused"
        ),
        Some(failure) => warn!(
            %method, path, status = status.as_u16(), ms, code = failure.code, error = failure.chain,
            "request refused"
        ),
        None => info!(%method, path, status = status.as_u16(), ms, "request"),
    }
    response
}
