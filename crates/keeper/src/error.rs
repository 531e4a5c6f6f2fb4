//! What goes wrong in a keeper, in a form that crosses its socket.

use base::ErrorKind;
use serde::{Deserialize, Serialize};
use vfs::FsError;

/// What a call returns.
pub type Result<T, E = Failure> = std::result::Result<T, E>;

/// A failed call: what the caller can do, and a sentence for a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What the caller can do.
    pub kind: ErrorKind,
    /// A sentence without host paths and secrets.
    pub message: String,
}

impl Failure {
    /// A failure of `kind`.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// The keeper cannot be reached, or went away in the middle.
    pub(crate) fn unreachable(error: impl std::fmt::Display) -> Self {
        Self::new(ErrorKind::Unreachable, format!("the machine's keeper does not answer: {error}"))
    }

    /// A defect of ours, or of the disk below us.
    pub(crate) fn internal(doing: &str, error: impl std::fmt::Display) -> Self {
        Self::new(ErrorKind::Internal, format!("{doing}: {error}"))
    }
}

impl From<FsError> for Failure {
    fn from(error: FsError) -> Self {
        Self::new(error.kind(), error.to_string())
    }
}

impl From<runtime::Error> for Failure {
    fn from(error: runtime::Error) -> Self {
        Self::new(error.kind(), error.to_string())
    }
}
