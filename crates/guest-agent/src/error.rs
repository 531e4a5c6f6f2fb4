//! What can go wrong in the guest.

use agent_proto::Reply;
use nix::errno::Errno;

/// A failure in the guest. Its errno is what a caller can act on; the host maps it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A system call failed.
    #[error("{doing}: {}", .errno.desc())]
    Sys {
        /// Verb and object.
        doing: String,
        /// Why.
        errno: Errno,
    },
    /// Something that had to be there is not, or is not what it must be.
    #[error("{0}")]
    Invalid(String),
}

impl Error {
    pub(crate) fn sys(doing: impl Into<String>) -> impl FnOnce(Errno) -> Self {
        move |errno| Self::Sys { doing: doing.into(), errno }
    }

    pub(crate) fn io(doing: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        move |error| {
            let errno = error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
            Self::Sys { doing: doing.into(), errno }
        }
    }

    pub(crate) fn errno(&self) -> Errno {
        match self {
            Self::Sys { errno, .. } => *errno,
            Self::Invalid(_) => Errno::EINVAL,
        }
    }

    pub(crate) fn reply(&self) -> Reply {
        Reply::Failed { errno: Some(self.errno() as i32), message: self.to_string() }
    }
}
