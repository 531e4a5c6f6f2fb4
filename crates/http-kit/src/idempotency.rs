//! Replays: a client that lost our reply sends the same request under the same key and gets the
//! reply that it missed, not a second machine.
//!
//! # Order
//! The body is read whole and hashed with method, path and query; the key is looked up; a fresh request
//! runs in a task of its own, so that a client which goes away does not cut it in half; its reply is
//! stored, then sent.
//!
//! # Failure
//! Only replies of the 2xx sort are kept: a request that failed changed nothing and may be tried
//! again under its key. Where the reply cannot be stored it is sent all the same, and the log says so.
//!
//! # Not here
//! How long keys live and where (`control::idempotency`). Files: their calls are idempotent as they are,
//! and their bodies do not fit in memory.

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base::{Digest, ErrorKind};
use bytes::Bytes;
use control::idempotency::{Begin, Guard, Idempotency, StoredReply};
use control::limits::{IDEMPOTENCY_BODY_BYTES_MAX, IDEMPOTENCY_KEY_LENGTH_MAX};
use http::header::{CONTENT_TYPE, ETAG, HeaderName};
use http::request::Parts;
use http::{HeaderValue, StatusCode};
use tracing::{Instrument, Span, warn};

use crate::limits::{IN_FLIGHT_RETRY_MS, JSON_BODY_BYTES_MAX};
use crate::{ApiError, Principal, body};

const KEY: &str = "idempotency-key";
/// Stands on replies that are replays.
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// Replays, or runs and keeps, a request that carries a key; lets any other through.
pub async fn replay(State(store): State<Idempotency>, request: Request, next: Next) -> Response {
    if !request.headers().contains_key(KEY) {
        return next.run(request).await;
    }
    run(store, request, next).await.unwrap_or_else(IntoResponse::into_response)
}

async fn run(store: Idempotency, request: Request, next: Next) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let key = key(&parts)?;
    let caller = parts.extensions.get::<Principal>().map(|who| who.name.to_string());
    let body = body::whole(body).await?;
    let hash = request_hash(&parts, &body);
    match store.begin(&key, &caller.unwrap_or_default(), &hash).await? {
        Begin::Fresh(guard) => {
            let request = Request::from_parts(parts, Body::from(body));
            let task = async move { finish(guard, next.run(request).await).await };
            let done = tokio::spawn(task.instrument(Span::current())).await;
            done.map_err(|_| {
                ApiError::new(
                    ErrorKind::Internal,
                    "a defect of the server ended this request; the log has more",
                )
            })
        }
        Begin::Replay(reply) => Ok(replayed(reply)),
        Begin::InFlight => Err(ApiError::new(
            ErrorKind::Unavailable,
            "the first request with this Idempotency-Key is still being worked on",
        )
        .with_code(StatusCode::TOO_MANY_REQUESTS, "RATE_LIMITED")
        .retry_after(IN_FLIGHT_RETRY_MS)),
        Begin::Mismatch { expected, provided } => Err(ApiError::new(
            ErrorKind::Conflict,
            "this Idempotency-Key was used for another request; make a new key for each request",
        )
        .with_code(StatusCode::CONFLICT, "IDEMPOTENCY_KEY_REUSED")
        .with_detail("expected_request_hash", expected)
        .with_detail("provided_request_hash", provided)),
    }
}

fn key(parts: &Parts) -> Result<String, ApiError> {
    let value = parts.headers.get(KEY).map(HeaderValue::to_str);
    match value {
        Some(Ok(key)) if (1..=IDEMPOTENCY_KEY_LENGTH_MAX).contains(&key.len()) => {
            Ok(key.to_owned())
        }
        _ => Err(ApiError::invalid(format!(
            "an Idempotency-Key has 1 to {IDEMPOTENCY_KEY_LENGTH_MAX} printable characters"
        ))),
    }
}

/// A digest of what was asked. Lengths keep the parts apart. `If-Match` is part of it: clients resend it
/// unchanged, and another revision is another request.
fn request_hash(parts: &Parts, body: &[u8]) -> String {
    let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
    let if_match = parts.headers.get("if-match").map_or(&b""[..], HeaderValue::as_bytes);
    let mut text = Vec::with_capacity(body.len() + 256);
    for part in [parts.method.as_str().as_bytes(), target.as_bytes(), if_match, body] {
        text.extend_from_slice(&(part.len() as u64).to_le_bytes());
        text.extend_from_slice(part);
    }
    Digest::of(&text).to_string()
}

/// Keeps a reply that is worth it, and gives it back.
async fn finish(guard: Guard, response: Response) -> Response {
    if !response.status().is_success() {
        return response;
    }
    let (parts, body) = response.into_parts();
    let Ok(body) = to_bytes(body, JSON_BODY_BYTES_MAX * 4).await else {
        return ApiError::new(ErrorKind::Internal, "the reply broke off").into_response();
    };
    if body.len() <= IDEMPOTENCY_BODY_BYTES_MAX {
        let kept = [CONTENT_TYPE, ETAG].into_iter().filter_map(|name| {
            let value = parts.headers.get(&name)?.to_str().ok()?;
            Some((name.as_str().to_owned(), value.to_owned()))
        });
        let reply = StoredReply {
            status: parts.status.as_u16(),
            headers: kept.collect(),
            body: body.to_vec(),
        };
        if let Err(error) = guard.finish(reply).await {
            warn!(%error, "keep a reply for replay");
        }
    }
    Response::from_parts(parts, Body::from(body))
}

fn replayed(reply: StoredReply) -> Response {
    let mut response = Response::new(Body::from(Bytes::from(reply.body)));
    *response.status_mut() = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::OK);
    let headers = response.headers_mut();
    for (name, value) in reply.headers {
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(&value)) {
            headers.insert(name, value);
        }
    }
    headers.insert(REPLAYED, HeaderValue::from_static("true"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(method: &str, uri: &str, if_match: Option<&str>) -> Parts {
        let mut request = http::Request::builder().method(method).uri(uri);
        if let Some(tag) = if_match {
            request = request.header("if-match", tag);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn another_request_has_another_hash() {
        let first = request_hash(&parts("POST", "/v1/machines", None), b"{}");
        assert_eq!(first, request_hash(&parts("POST", "/v1/machines", None), b"{}"));
        for other in [
            request_hash(&parts("PUT", "/v1/machines", None), b"{}"),
            request_hash(&parts("POST", "/v1/machines?a=1", None), b"{}"),
            request_hash(&parts("POST", "/v1/machines", Some("3")), b"{}"),
            request_hash(&parts("POST", "/v1/machines", None), b"{ }"),
            request_hash(&parts("POST", "/v1/machines{", None), b"}"),
        ] {
            assert_ne!(first, other);
        }
    }

    #[test]
    fn a_replay_says_that_it_is_one() {
        let reply = StoredReply {
            status: 202,
            headers: vec![("etag".to_owned(), "\"3\"".to_owned())],
            body: b"{}".to_vec(),
        };
        let response = replayed(reply);
        assert_eq!(response.status(), 202);
        assert_eq!(response.headers()["etag"], "\"3\"");
        assert_eq!(response.headers()["idempotent-replayed"], "true");
    }
}
