//! The status stream of a machine (contract, section 9).
//!
//! # Order
//! The state now, then every change, each with its revision as the event's id; the stream ends once
//! the machine is where it was asked to be, or has failed. A comment goes out when nothing changes, so
//! that clients and proxies keep the connection.
//!
//! # Failure
//! Before the head is sent: an error reply like any other. After: the stream just ends, and a client
//! comes back with `Last-Event-ID`.

use std::convert::Infallible;

use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use http::header::CACHE_CONTROL;
use http::{HeaderMap, HeaderName, HeaderValue};
use http_kit::ApiError;

use crate::ctx::{Ctx, Target};
use crate::limits::{CURSOR_LENGTH_MAX, HEARTBEAT};
use crate::shapes::machine::MachineBody;

pub(crate) async fn watch(
    State(ctx): State<Ctx>,
    Target(machine): Target,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    // A token that is not one of ours matches no revision, and so changes nothing.
    let last_seen = headers.get("last-event-id").and_then(|value| value.to_str().ok());
    let last_seen = last_seen.filter(|token| token.len() <= CURSOR_LENGTH_MAX);
    let states = ctx.control.machines().watch(&machine, last_seen).await?;
    let events = states.map(|machine| {
        let id = machine.revision.clone();
        let data = serde_json::to_string(&MachineBody::from(machine))
            .expect("a machine is plain data with text keys");
        Ok::<_, Infallible>(Event::default().event("status").id(id).data(data))
    });
    let stream = Sse::new(events).keep_alive(KeepAlive::new().interval(HEARTBEAT).text("waiting"));
    let mut response = stream.into_response();
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform"));
    // Proxies that buffer would hold events back.
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    Ok(response)
}
