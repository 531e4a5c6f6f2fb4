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
        Self::from_body(status, &response.bytes().await.unwrap_or_default())
    }

    /// The error in an answer; one whose body is not ours says its status.
    pub(crate) fn from_body(status: u16, body: &[u8]) -> Self {
        let body: Body = serde_json::from_slice(body).unwrap_or_default();
        let message = if body.message.is_empty() {
            format!("the server answered {status}")
        } else {
            body.message
        };
        let kind = kind_of(status, &body.error_code);
        let code =
            if body.error_code.is_empty() { kind.code().to_owned() } else { body.error_code };
        Self { kind, code, message }
    }

    /// An error that the server tells over a connection that is open already: only its code says of
    /// which kind it is.
    pub(crate) fn from_code(code: String, message: String) -> Self {
        let kind = KINDS.into_iter().find(|kind| kind.code() == code);
        Self { kind: kind.unwrap_or(ErrorKind::Internal), code, message }
    }
}

/// Kinds that a server tells.
const KINDS: [ErrorKind; 16] = [
    ErrorKind::InvalidArgument,
    ErrorKind::Unauthenticated,
    ErrorKind::PermissionDenied,
    ErrorKind::NotFound,
    ErrorKind::AlreadyExists,
    ErrorKind::Conflict,
    ErrorKind::Fenced,
    ErrorKind::PreconditionFailed,
    ErrorKind::TooLarge,
    ErrorKind::Exhausted,
    ErrorKind::TooMany,
    ErrorKind::Unsupported,
    ErrorKind::Unreachable,
    ErrorKind::Unavailable,
    ErrorKind::Timeout,
    ErrorKind::Corrupt,
];

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
        (429, "TOO_MANY") => ErrorKind::TooMany,
        (429 | 503, _) => ErrorKind::Unavailable,
        (504, _) => ErrorKind::Timeout,
        (507, _) => ErrorKind::Exhausted,
        _ => ErrorKind::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_gives_its_own_sentence_and_the_kind_of_its_status() {
        let body = br#"{"error_code": "FENCED", "message": "another server has it", "x": 1}"#;
        let error = Error::from_body(409, body);
        assert_eq!((error.kind, error.code.as_str()), (ErrorKind::Fenced, "FENCED"));
        assert_eq!(error.to_string(), "another server has it");
        let strange = Error::from_body(502, b"<html>");
        assert_eq!(strange.kind, ErrorKind::Unreachable);
        assert_eq!(strange.to_string(), "the server answered 502");
    }

    #[test]
    fn the_status_of_every_kind_comes_back_as_that_kind() {
        for kind in KINDS.into_iter().filter(|kind| *kind != ErrorKind::Corrupt) {
            assert_eq!(kind_of(kind.http_status(), kind.code()), kind, "{kind:?}");
            assert_eq!(Error::from_code(kind.code().to_owned(), String::new()).kind, kind);
        }
    }
}
