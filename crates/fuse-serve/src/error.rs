//! What can go wrong around a session. Errors of single requests are replies, not these.

use std::path::PathBuf;
use std::time::Duration;

use base::ErrorKind;

/// A failure of a channel or a mount.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The device cannot be opened.
    #[error("open /dev/fuse: {0}; it needs root and the fuse module (modprobe fuse)")]
    OpenDevice(std::io::Error),
    /// `mount(2)` refused.
    #[error("mount on {target}: {source}; it needs root and an existing directory")]
    Mount {
        /// Where.
        target: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A mount of ours is there already.
    #[error("{target} is a dormouse mount already; unmount it first (umount {target})")]
    Mounted {
        /// Where.
        target: PathBuf,
    },
    /// `umount2(2)` refused.
    #[error("unmount {target}: {source}; end what still uses it, or run umount -l")]
    Unmount {
        /// Where.
        target: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A thread, an eventfd or the stream could not be set up.
    #[error("set up the channel: {0}")]
    Setup(std::io::Error),
    /// Requests were still under way.
    #[error(
        "{outstanding} requests still under way after {waited:?}; try again when they are done"
    )]
    Busy {
        /// How many.
        outstanding: usize,
        /// How long we waited.
        waited: Duration,
    },
    /// The other side is gone.
    #[error("the channel is closed; mount again")]
    Closed,
}

impl Error {
    /// What a caller can do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::OpenDevice(_) | Self::Mount { .. } => ErrorKind::Unsupported,
            Self::Mounted { .. } | Self::Unmount { .. } => ErrorKind::Conflict,
            Self::Setup(_) => ErrorKind::Internal,
            Self::Busy { .. } => ErrorKind::Timeout,
            Self::Closed => ErrorKind::Unreachable,
        }
    }
}
