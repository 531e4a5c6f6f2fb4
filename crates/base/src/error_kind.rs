//! What a caller can do about an error.

use serde::{Deserialize, Serialize};

/// The one table from what went wrong to HTTP status, errno and CLI exit code.
///
/// Every crate's error enum has a `kind()`; a dialect whose contract documents another status
/// overrides it in its own `error.rs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorKind {
    /// The request cannot be right, whatever the state: a bad name, a bad number.
    InvalidArgument,
    /// No credential, or one we do not know.
    Unauthenticated,
    /// A known credential that may not do this.
    PermissionDenied,
    /// The thing named does not exist.
    NotFound,
    /// The name is taken.
    AlreadyExists,
    /// The state of the thing forbids it now.
    Conflict,
    /// Another writer owns the home.
    Fenced,
    /// An `If-Match` or `If-None-Match` did not hold.
    PreconditionFailed,
    /// Larger than the named limit.
    TooLarge,
    /// Out of the space that was granted, or that there is.
    Exhausted,
    /// As many of these as there can be.
    TooMany,
    /// Not something this server does.
    Unsupported,
    /// The guest or a host did not answer.
    Unreachable,
    /// A dependency is down; trying again later may work.
    Unavailable,
    /// It took longer than allowed.
    Timeout,
    /// Stored bytes are not what they must be.
    Corrupt,
    /// A defect of ours.
    Internal,
}

impl ErrorKind {
    /// The HTTP status.
    #[must_use]
    pub fn http_status(self) -> u16 {
        match self {
            Self::InvalidArgument => 400,
            Self::Unauthenticated => 401,
            Self::PermissionDenied => 403,
            Self::NotFound => 404,
            Self::AlreadyExists | Self::Conflict | Self::Fenced => 409,
            Self::PreconditionFailed => 412,
            Self::TooLarge => 413,
            Self::Exhausted => 507,
            Self::TooMany => 429,
            Self::Unsupported => 501,
            Self::Unreachable => 502,
            Self::Unavailable => 503,
            Self::Timeout => 504,
            Self::Corrupt | Self::Internal => 500,
        }
    }

    /// The exit code of the command line.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::InvalidArgument => 2,
            Self::NotFound => 3,
            Self::Unauthenticated | Self::PermissionDenied => 4,
            Self::Unreachable | Self::Unavailable | Self::Timeout => 5,
            _ => 1,
        }
    }

    /// True where the same request may succeed later without any change.
    #[must_use]
    pub fn is_retryable(self) -> bool {
        matches!(self, Self::Unreachable | Self::Unavailable | Self::Timeout)
    }

    /// Upper snake case, as it stands in `error_code`.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::InvalidArgument => "INVALID_REQUEST",
            Self::Unauthenticated => "AUTH_INVALID",
            Self::PermissionDenied => "AUTH_SCOPE_FORBIDDEN",
            Self::NotFound => "NOT_FOUND",
            Self::AlreadyExists => "ALREADY_EXISTS",
            Self::Conflict => "INVALID_STATE",
            Self::Fenced => "FENCED",
            Self::PreconditionFailed => "PRECONDITION_FAILED",
            Self::TooLarge => "TOO_LARGE",
            Self::Exhausted => "STORAGE_EXHAUSTED",
            Self::TooMany => "TOO_MANY",
            Self::Unsupported => "UNSUPPORTED",
            Self::Unreachable => "AGENT_UNAVAILABLE",
            Self::Unavailable => "DEPENDENCY_UNAVAILABLE",
            Self::Timeout => "TIMEOUT",
            Self::Corrupt => "CORRUPT",
            Self::Internal => "INTERNAL",
        }
    }
}
