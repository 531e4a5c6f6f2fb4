//! What a call ends with when it does not end well.

use base::ErrorKind;
use serde::Deserialize;

/// What a call returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failed call.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// What the caller can do; decides the exit code.
    pub kind: ErrorKind,
    /// The server's code in upper snake case, or ours.
    pub code: String,
    /// A sentence for a person.
    pub message: String,
}

/// As much of an error body as is used.
#[derive(Debug, Default, Deserialize)]
struct Body {
    #[serde(default)]
    error_code: String,
    #[serde(default)]
    message: String,
}

impl Error {
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::of(ErrorKind::InvalidArgument, message)
    }

    pub(crate) fn of(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, code: kind.code().to_owned(), message: message.into() }
    }

    /// The server could not be talked to. The URL holds no secret, the key is in a header.
    pub(crate) fn transport(base: &str, error: &reqwest::Error) -> Self {
        let why =
            if error.is_connect() { "nothing answers there".to_owned() } else { error.to_string() };
        Self::of(
            ErrorKind::Unreachable,
            format!("{base}: {why}; is the server running? Start it with: dormouse serve"),
        )
    }

    pub(crate) async fn from_response(response: reqwest::Response) -> Self {
        let status = response.status().as_u16();
        let body: Body = response.json().await.unwrap_or_default();
        let message = if body.message.is_empty() {
            format!("the server answered {status}")
        } else {
            body.message
        };
        let kind = kind_of(status, &body.error_code);
        Self { kind, code: body.error_code, message }
    }
}

fn kind_of(status: u16, code: &str) -> ErrorKind {
    match (status, code) {
        (409, "FENCED") => ErrorKind::Fenced,
        (409, "ALREADY_EXISTS") => ErrorKind::AlreadyExists,
        (400 | 416 | 422, _) => ErrorKind::InvalidArgument,
        (401, _) => ErrorKind::Unauthenticated,
        (403, _) => ErrorKind::PermissionDenied,
        (404, _) => ErrorKind::NotFound,
        (409, _) => ErrorKind::Conflict,
        (412, _) => ErrorKind::PreconditionFailed,
        (413, _) => ErrorKind::TooLarge,
        (501, _) => ErrorKind::Unsupported,
        (502, _) => ErrorKind::Unreachable,
        (429 | 503, _) => ErrorKind::Unavailable,
        (504, _) => ErrorKind::Timeout,
        (507, _) => ErrorKind::Exhausted,
        _ => ErrorKind::Internal,
    }
}
