//! A failure on its way out: the one place that chooses status, body and headers.
//!
//! The body carries both field sets of the contract (`error_code`, `message`, `retryable` and `title`,
//! `status`, `detail`), because clients exist for either. Official clients retry every 409 and every
//! 5xx twice unless told otherwise, so `x-should-retry: false` goes out where the same request cannot
//! succeed.
//!
//! # Not here
//! The log line: the response carries a [`Failure`] for [`access_log`](crate::access_log), where an
//! error ends.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::error::Error;

use axum::Json;
use axum::response::{IntoResponse, Response};
use base::ErrorKind;
use http::header::{HeaderName, HeaderValue, RETRY_AFTER};
use http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The body of every failure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// What went wrong, for programs: upper snake case.
    pub error_code: String,
    /// What went wrong and what to do, for people.
    pub message: String,
    /// True where the request may succeed later.
    pub retryable: bool,
    /// When, in milliseconds from now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    /// Facts for programs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub details: BTreeMap<String, String>,
    /// The status in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// The same as `message`.
    pub detail: String,
}

/// What a handler fails with.
#[derive(Debug)]
pub struct ApiError(Box<Inner>);

#[derive(Debug)]
struct Inner {
    status: StatusCode,
    code: Cow<'static, str>,
    message: String,
    retryable: bool,
    retry_after_ms: Option<u64>,
    details: BTreeMap<String, String>,
    headers: HeaderMap,
    cause: Option<String>,
}

/// What the log says of a failed request; an extension of its response.
#[derive(Debug, Clone)]
pub struct Failure {
    /// The code of the body.
    pub code: String,
    /// The message and everything that caused it.
    pub chain: String,
}

impl ApiError {
    /// A failure of a kind, with the status and the code of that kind.
    #[must_use]
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        control::Error::new(kind, message).into()
    }

    /// A request that cannot be right: 400 `INVALID_REQUEST`.
    #[must_use]
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidArgument, message)
    }

    /// The same failure with a status and a code of its own.
    #[must_use]
    pub fn with_code(mut self, status: StatusCode, code: &'static str) -> Self {
        self.0.status = status;
        self.0.code = Cow::Borrowed(code);
        self
    }

    /// The same failure with one more fact.
    #[must_use]
    pub fn with_detail(mut self, key: &str, value: impl Into<String>) -> Self {
        self.0.details.insert(key.to_owned(), value.into());
        self
    }

    /// The same failure with a time to wait; that makes it retryable.
    #[must_use]
    pub fn retry_after(mut self, ms: u64) -> Self {
        self.0.retry_after_ms = Some(ms);
        self.0.retryable = true;
        self
    }

    /// The same failure with a header.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.0.headers.insert(name, value);
        self
    }

    /// The HTTP status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.0.status
    }

    /// The code of the body.
    #[must_use]
    pub fn code(&self) -> &str {
        &self.0.code
    }

    /// One fact of the body.
    #[must_use]
    pub fn detail(&self, key: &str) -> Option<&str> {
        self.0.details.get(key).map(String::as_str)
    }

    /// The body, also for streams that fail after their head is gone.
    #[must_use]
    pub fn body(&self) -> ErrorBody {
        ErrorBody {
            error_code: self.0.code.to_string(),
            message: self.0.message.clone(),
            retryable: self.0.retryable,
            retry_after_ms: self.0.retry_after_ms,
            details: self.0.details.clone(),
            title: self.0.status.canonical_reason().unwrap_or("Error").to_owned(),
            status: self.0.status.as_u16(),
            detail: self.0.message.clone(),
        }
    }

    /// True where a client that tries the very same again can only lose time.
    fn retry_is_futile(&self) -> bool {
        let retried_by_clients = self.0.status == StatusCode::CONFLICT
            || self.0.status == StatusCode::NOT_IMPLEMENTED
            || self.0.status == StatusCode::TOO_MANY_REQUESTS
            || self.0.status == StatusCode::INSUFFICIENT_STORAGE;
        retried_by_clients && self.0.retry_after_ms.is_none()
    }
}

/// The status of a kind, unless the contract documents another one for the code.
fn status_of(kind: ErrorKind, code: &str) -> StatusCode {
    match code {
        "REVISION_MISMATCH" | "IDEMPOTENCY_KEY_REUSED" => StatusCode::CONFLICT,
        "RATE_LIMITED" => StatusCode::TOO_MANY_REQUESTS,
        "RANGE_NOT_SATISFIABLE" => StatusCode::RANGE_NOT_SATISFIABLE,
        _ => StatusCode::from_u16(kind.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
    }
}

impl From<control::Error> for ApiError {
    fn from(error: control::Error) -> Self {
        let status = status_of(error.kind(), &error.code);
        let retryable = error.is_retryable();
        let chain = causes(&error);
        Self(Box::new(Inner {
            status,
            retryable,
            code: error.code,
            message: error.message,
            retry_after_ms: error.retry_after_ms,
            details: error.details,
            headers: HeaderMap::new(),
            cause: (!chain.is_empty()).then_some(chain),
        }))
    }
}

/// What caused an error, each cause after `: `. One that the text before it tells already is left out.
fn causes(error: &dyn Error) -> String {
    let mut chain = String::new();
    let mut told = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        let text = source.to_string();
        if !told.contains(&text) {
            chain.push_str(": ");
            chain.push_str(&text);
            told = text;
        }
        cause = source.source();
    }
    chain
}

impl From<vfs::FsError> for ApiError {
    fn from(error: vfs::FsError) -> Self {
        control::Error::from(error).into()
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status(), Json(self.body())).into_response();
        let futile = self.retry_is_futile();
        let error = *self.0;
        let headers = response.headers_mut();
        if let Some(ms) = error.retry_after_ms {
            headers.insert(HeaderName::from_static("retry-after-ms"), HeaderValue::from(ms));
            headers.insert(RETRY_AFTER, HeaderValue::from(ms.div_ceil(1000).max(1)));
        }
        if futile {
            headers.insert(
                HeaderName::from_static("x-should-retry"),
                HeaderValue::from_static("false"),
            );
        }
        let chain = format!("{}{}", error.message, error.cause.unwrap_or_default());
        headers.extend(error.headers);
        response.extensions_mut().insert(Failure { code: error.code.into_owned(), chain });
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header<'a>(response: &'a Response, name: &str) -> Option<&'a str> {
        response.headers().get(name).and_then(|value| value.to_str().ok())
    }

    #[test]
    fn both_readers_of_the_contract_find_their_fields() {
        let body = serde_json::to_value(ApiError::invalid("no such size").body()).unwrap();
        assert_eq!(body["error_code"], "INVALID_REQUEST");
        assert_eq!(body["message"], body["detail"]);
        assert_eq!((&body["status"], &body["title"]), (&400.into(), &"Bad Request".into()));
        assert_eq!(body["retryable"], false);
        assert!(body.get("retry_after_ms").is_none() && body.get("details").is_none());
    }

    #[test]
    fn a_stale_revision_is_a_conflict_that_is_not_retried_blindly() {
        let error = control::Error::new(ErrorKind::PreconditionFailed, "the machine changed")
            .with_code("REVISION_MISMATCH")
            .with_detail("expected_revision", 7);
        let error = ApiError::from(error);
        assert!(error.body().retryable);
        let response = error.into_response();
        assert_eq!(response.status(), StatusCode::CONFLICT);
        assert_eq!(header(&response, "x-should-retry"), Some("false"));
    }

    #[test]
    fn as_many_as_there_can_be_is_not_a_full_disk() {
        let response = ApiError::new(ErrorKind::TooMany, "1,000 snapshots").into_response();
        assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(header(&response, "x-should-retry"), Some("false"));
        let response = ApiError::new(ErrorKind::TooMany, "busy").retry_after(1_000);
        assert_eq!((response.code(), response.body().retryable), ("TOO_MANY", true));
        assert_eq!(header(&response.into_response(), "x-should-retry"), None);
        assert_eq!(ApiError::new(ErrorKind::Exhausted, "full").status().as_u16(), 507);
    }

    #[test]
    fn a_time_to_wait_goes_out_as_headers_too() {
        let response =
            ApiError::new(ErrorKind::Conflict, "waking").retry_after(1200).into_response();
        assert_eq!(header(&response, "retry-after-ms"), Some("1200"));
        assert_eq!(header(&response, "retry-after"), Some("2"));
        assert_eq!(header(&response, "x-should-retry"), None);
    }

    #[test]
    fn what_an_error_says_itself_is_not_said_again_as_its_cause() {
        let taken = std::io::Error::other("a machine named \"a\" exists already");
        let error = control::Error::new(ErrorKind::AlreadyExists, taken.to_string());
        let response = ApiError::from(error.caused_by(taken)).into_response();
        let failure = response.extensions().get::<Failure>().unwrap();
        assert_eq!(failure.chain, "a machine named \"a\" exists already");
    }

    #[test]
    fn causes_reach_the_log_and_not_the_client() {
        let error = control::Error::internal("the home did not open")
            .caused_by(std::io::Error::other("/srv/secret: bad"));
        let error = ApiError::from(error);
        assert!(!error.body().message.contains("/srv"));
        let response = error.into_response();
        let failure = response.extensions().get::<Failure>().unwrap();
        assert_eq!(failure.chain, "the home did not open: /srv/secret: bad");
    }
}
