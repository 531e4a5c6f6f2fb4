//! What can go wrong with a home as a whole. Calls on its files answer [`vfs::FsError`].

use base::{ErrorKind, HomeId};
use vfs::{Errno, FsError};

use crate::replica::error::Error as LogError;

/// What a call returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure of a home.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The store has no such home.
    #[error("there is no home {home} in the object store; create it first")]
    NoSuchHome {
        /// Which.
        home: HomeId,
    },
    /// Another process has the local directory open.
    #[error("another process has this home's directory open; stop it first")]
    InUse,
    /// There is no draft to publish.
    #[error("there is no draft of this home")]
    NoDraft,
    /// A snapshot cannot have that name.
    #[error(
        "a snapshot's name has 1 to {max} bytes, no control characters, and no blanks around it"
    )]
    SnapshotName {
        /// The longest, in bytes.
        max: usize,
    },
    /// Pinning a state took so long that it may be gone.
    #[error("the object store took too long to answer; nothing was done, try again")]
    Slow,
    /// A local file says something that cannot be.
    #[error("the home's local state is damaged: {what}")]
    Damaged {
        /// What it is and what to do.
        what: String,
    },
    /// The home's log: fenced, held by another server, deleted, or the store.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A call on the home's files.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// A file of the local directory.
    #[error("could not {verb} the home's local directory")]
    Local {
        /// What was tried.
        verb: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
}

impl Error {
    /// What the caller can do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NoSuchHome { .. } | Self::NoDraft => ErrorKind::NotFound,
            Self::InUse => ErrorKind::Conflict,
            Self::SnapshotName { .. } => ErrorKind::InvalidArgument,
            Self::Slow => ErrorKind::Unavailable,
            Self::Damaged { .. } => ErrorKind::Corrupt,
            Self::Log(error) => error.kind(),
            Self::Fs(error) => error.kind(),
            Self::Local { source, .. } => match source.kind() {
                std::io::ErrorKind::StorageFull => ErrorKind::Exhausted,
                _ => ErrorKind::Internal,
            },
        }
    }

    pub(crate) fn local(verb: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Local { verb, source }
    }
}

/// An error of the log as a file system says it: `EIO` with the kind and the sentence kept.
pub(crate) fn to_fs(error: LogError) -> FsError {
    let errno = match error.kind() {
        ErrorKind::Exhausted | ErrorKind::TooMany => Errno::ENOSPC,
        _ => Errno::EIO,
    };
    FsError::of_kind(error.kind(), errno, error.to_string())
}
