//! What went wrong, for every face.
//!
//! A face turns [`ErrorKind`] into its status, and copies `code`, `message`, `details` and
//! `retry_after_ms` into its own body. The source is for the log only.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use base::ErrorKind;

/// What a call of this crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failed call.
#[derive(Debug)]
pub struct Error {
    /// What a caller can do.
    pub kind: ErrorKind,
    /// Upper snake case; the kind's own code unless a contract has a finer one.
    pub code: Cow<'static, str>,
    /// A sentence for users: what happened and what to do. No secrets, no host paths.
    pub message: String,
    /// Facts for programs.
    pub details: BTreeMap<String, String>,
    /// When trying again makes sense, in milliseconds from now.
    pub retry_after_ms: Option<u64>,
    /// What caused it, for the log.
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error of a kind, with that kind's code.
    #[must_use]
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            code: Cow::Borrowed(kind.code()),
            message: message.into(),
            details: BTreeMap::new(),
            retry_after_ms: None,
            source: None,
        }
    }

    /// The same error with a finer code.
    #[must_use]
    pub fn with_code(mut self, code: impl Into<Cow<'static, str>>) -> Self {
        self.code = code.into();
        self
    }

    /// The same error with one more fact.
    #[must_use]
    pub fn with_detail(mut self, key: &str, value: impl fmt::Display) -> Self {
        self.details.insert(key.to_owned(), value.to_string());
        self
    }

    /// The same error with a time to wait, in milliseconds.
    #[must_use]
    pub fn retry_after(mut self, ms: u64) -> Self {
        self.retry_after_ms = Some(ms);
        self
    }

    /// The same error with its cause.
    #[must_use]
    pub fn caused_by(
        mut self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        self.source = Some(source.into());
        self
    }

    /// What a caller can do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// True where the same request may succeed later: the kind says so, or a time to wait is set.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.kind.is_retryable()
            || self.retry_after_ms.is_some()
            || self.code == "REVISION_MISMATCH"
    }

    /// The request cannot be right.
    #[must_use]
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidArgument, message)
    }

    /// Nothing of that name.
    #[must_use]
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotFound, message)
    }

    /// A defect of ours, or a disk that fails.
    #[must_use]
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, message)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| &**source as &(dyn std::error::Error + 'static))
    }
}

impl From<vfs::FsError> for Error {
    fn from(error: vfs::FsError) -> Self {
        Self::new(error.kind(), error.to_string())
            .with_detail("errno", error.errno().number())
            .caused_by(error)
    }
}

impl From<objstore::Error> for Error {
    fn from(error: objstore::Error) -> Self {
        let kind = match error.kind() {
            // It is this server that the store refuses, not the caller.
            ErrorKind::PermissionDenied => ErrorKind::Unavailable,
            kind => kind,
        };
        Self::new(kind, error.to_string()).caused_by(error)
    }
}

impl From<catalog::Error> for Error {
    fn from(error: catalog::Error) -> Self {
        Self::new(error.kind(), error.to_string()).caused_by(error)
    }
}
