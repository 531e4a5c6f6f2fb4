//! What can go wrong with images.

use std::path::PathBuf;

use base::ErrorKind;

/// A failure to find, read or build an image.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A name that cannot be an image's.
    #[error("invalid image name {0:?}: lower-case letters, digits, '.', '_' and '-', at most 128")]
    Name(String),
    /// No such image here.
    #[error(
        "image {name:?} is not in {dir:?}; run `cargo xtask setup` to build it, `dormouse doctor` \
         to see what is missing"
    )]
    Missing {
        /// Name or digest that was asked for.
        name: String,
        /// Where it was looked for.
        dir: PathBuf,
    },
    /// The image is there but not whole.
    #[error("image file {path:?} is damaged ({detail}); run `cargo xtask setup --rebuild`")]
    Damaged {
        /// The file at fault.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// A size out of range.
    #[error("a writable layer of {bytes} bytes is not possible: between {min} and {max}")]
    UpperSize {
        /// What was asked for.
        bytes: u64,
        /// [`crate::UPPER_BYTES_MIN`].
        min: u64,
        /// [`crate::UPPER_BYTES_MAX`].
        max: u64,
    },
    /// A kernel image or module tree that is not as expected.
    #[error("unpack the kernel: {0}")]
    Kernel(String),
    /// A program is not installed.
    #[error("{program} is not installed; install it with `apt-get install {package}`")]
    ProgramMissing {
        /// What was to be run.
        program: String,
        /// The Debian package that has it.
        package: &'static str,
    },
    /// A program failed.
    #[error("{program} failed ({status}): {stderr}")]
    Program {
        /// What was run.
        program: String,
        /// How it ended.
        status: String,
        /// The end of what it said.
        stderr: String,
    },
    /// The local file system refused.
    #[error("{doing} {path:?}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To which file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
}

impl Error {
    /// What a caller can do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Name(_) | Self::UpperSize { .. } => ErrorKind::InvalidArgument,
            Self::Missing { .. } => ErrorKind::NotFound,
            Self::Damaged { .. } | Self::Kernel(_) => ErrorKind::Corrupt,
            Self::ProgramMissing { .. } => ErrorKind::Unavailable,
            Self::Program { .. } => ErrorKind::Internal,
            Self::Io { source, .. } => match source.kind() {
                std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                    ErrorKind::Exhausted
                }
                std::io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
                _ => ErrorKind::Internal,
            },
        }
    }

    pub(crate) fn io(
        doing: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { doing, path, source }
    }
}
