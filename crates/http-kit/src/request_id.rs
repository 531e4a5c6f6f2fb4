//! A name for every request, the same in the reply, in every log line, and at a proxy in front.

use std::sync::Arc;

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use http::header::{HeaderName, HeaderValue};
use uuid::Uuid;

use crate::limits::REQUEST_ID_LENGTH_MAX;

/// The header, in both directions.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The id of a request; an extension of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestId(pub Arc<str>);

impl RequestId {
    /// What the client sent where that is sane, else a new one. Sane is short and safe to print in a
    /// log and in a shell.
    fn of(header: Option<&HeaderValue>) -> Self {
        let sent = header.and_then(|value| value.to_str().ok()).filter(|text| {
            (1..=REQUEST_ID_LENGTH_MAX).contains(&text.len())
                && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:/+=".contains(&b))
        });
        match sent {
            Some(text) => Self(text.into()),
            None => Self(format!("req-{}", Uuid::now_v7()).into()),
        }
    }
}

/// Gives a request its id and the reply the same.
pub async fn assign(mut request: Request, next: Next) -> Response {
    let id = RequestId::of(request.headers().get(X_REQUEST_ID));
    request.extensions_mut().insert(id.clone());
    let mut response = next.run(request).await;
    if let Ok(value) = HeaderValue::from_str(&id.0) {
        response.headers_mut().insert(X_REQUEST_ID, value);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sane_id_is_kept_and_any_other_replaced() {
        let of = |text: &'static str| RequestId::of(Some(&HeaderValue::from_static(text))).0;
        assert_eq!(&*of("trace-01:a/b"), "trace-01:a/b");
        assert!(of("two words").starts_with("req-"));
        assert!(of("").starts_with("req-"));
        let long = HeaderValue::from_str(&"x".repeat(129)).unwrap();
        assert!(RequestId::of(Some(&long)).0.starts_with("req-"));
        assert_ne!(RequestId::of(None), RequestId::of(None));
    }
}
