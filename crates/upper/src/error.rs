//! What goes wrong with an upper.

use std::io;

use base::ErrorKind;

/// What a call returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure to store or to fetch an upper.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] objstore::Error),
    /// What is stored is not what was stored.
    #[error("{key}, a part of the machine's upper, is damaged: {what}")]
    Damaged {
        /// The object.
        key: String,
        /// What cannot be.
        what: &'static str,
    },
    /// Stored by a later version.
    #[error("{key} has format {format}; this program knows up to {known}")]
    Unsupported {
        /// The object.
        key: String,
        /// Its format.
        format: u32,
        /// The largest that is known.
        known: u32,
    },
    /// What is stored is longer than what the machine may have.
    #[error("the stored disk is {bytes} bytes long; one of this machine may have {max}")]
    TooLarge {
        /// Its length.
        bytes: u64,
        /// The longest that is taken.
        max: u64,
    },
    /// A generation names a chunk that the store does not have.
    #[error("{key}, a part of the machine's upper, is not in the store")]
    Missing {
        /// The object.
        key: String,
    },
    /// What was to be kept, or was kept, is no more.
    #[error("{what} is not there any more")]
    Gone {
        /// What was looked for.
        what: String,
    },
    /// A fork of a fork, and so on.
    #[error("a chain of forks has at most {max}; fork one of those that it began with")]
    TooManyForks {
        /// How many there can be.
        max: usize,
    },
    /// The local file was written to while it was read.
    #[error("the upper was written to while it was stored")]
    Changed,
    /// Another host went on with the machine.
    #[error("another host has gone on with the machine's upper")]
    Overtaken,
    /// This host's disk failed.
    #[error("{doing}: {source}")]
    Disk {
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The process is ending.
    #[error("the process is shutting down")]
    Closing,
}

impl Error {
    /// What the caller can do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Store(error) => error.kind(),
            Self::Damaged { .. } | Self::Missing { .. } => ErrorKind::Corrupt,
            Self::Unsupported { .. } => ErrorKind::Unsupported,
            Self::TooLarge { .. } => ErrorKind::TooLarge,
            Self::Gone { .. } => ErrorKind::NotFound,
            Self::TooManyForks { .. } => ErrorKind::Conflict,
            Self::Changed => ErrorKind::Conflict,
            Self::Overtaken => ErrorKind::Fenced,
            Self::Disk { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                ErrorKind::Exhausted
            }
            Self::Disk { .. } => ErrorKind::Internal,
            Self::Closing => ErrorKind::Unavailable,
        }
    }

    /// Whether it is what is stored that cannot be used, and not the store: asking again brings the same.
    pub(crate) fn is_damage(&self) -> bool {
        matches!(self.kind(), ErrorKind::Corrupt | ErrorKind::Unsupported)
    }

    pub(crate) fn disk(doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Disk { doing, source }
    }

    pub(crate) fn unknown_pin(key: &str) -> Self {
        Self::damaged(key, "it is the pin of something unknown")
    }

    pub(crate) fn damaged(key: &str, what: &'static str) -> Self {
        Self::Damaged { key: key.to_owned(), what }
    }
}

/// Runs what reads, writes or compresses where it holds nobody up.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Error::Closing)?
}
