//! Errors of a file system: an errno, and a sentence where the errno does not say enough.

use std::fmt;

use base::ErrorKind;

/// What a call returns.
pub type Result<T, E = FsError> = std::result::Result<T, E>;

macro_rules! errnos {
    ($($name:ident = $number:literal, $text:literal;)*) => {
        /// The Linux error numbers that a file system answers with.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[allow(clippy::upper_case_acronyms, reason = "these are their names")]
        pub enum Errno { $(#[doc = $text] $name,)* }

        impl Errno {
            /// The number as Linux on x86-64 has it.
            #[must_use]
            pub const fn number(self) -> i32 {
                match self { $(Self::$name => $number,)* }
            }

            /// The name back from a number; `EIO` for one that is not in the table.
            #[must_use]
            pub const fn from_number(number: i32) -> Self {
                match number { $($number => Self::$name,)* _ => Self::EIO }
            }

            /// A few words.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

errnos! {
    EPERM = 1, "operation not permitted";
    ENOENT = 2, "no such file or directory";
    EIO = 5, "input/output error";
    ENXIO = 6, "no data there";
    EBADF = 9, "not an open file";
    EAGAIN = 11, "try again";
    EACCES = 13, "permission denied";
    EBUSY = 16, "busy";
    EEXIST = 17, "it exists already";
    EXDEV = 18, "not the same file system";
    ENOTDIR = 20, "not a directory";
    EISDIR = 21, "is a directory";
    EINVAL = 22, "invalid argument";
    EFBIG = 27, "file too large";
    ENOSPC = 28, "no space left";
    EROFS = 30, "read-only file system";
    EMLINK = 31, "too many links";
    ERANGE = 34, "result too large";
    ENAMETOOLONG = 36, "name too long";
    ENOSYS = 38, "not implemented";
    ENOTEMPTY = 39, "directory not empty";
    ELOOP = 40, "too many symbolic links";
    ENODATA = 61, "no such attribute";
    EOPNOTSUPP = 95, "not supported";
    ETIMEDOUT = 110, "timed out";
    ESTALE = 116, "it changed meanwhile";
    EDQUOT = 122, "quota exceeded";
}

/// A failed call.
#[derive(Debug, Clone)]
pub struct FsError {
    errno: Errno,
    kind: Option<ErrorKind>,
    detail: Option<String>,
}

impl FsError {
    /// Just the errno.
    #[must_use]
    pub const fn new(errno: Errno) -> Self {
        Self { errno, kind: None, detail: None }
    }

    /// An errno and what it was about. `detail` may reach a user: no host paths, no secrets.
    #[must_use]
    pub fn with(errno: Errno, detail: impl Into<String>) -> Self {
        Self { errno, kind: None, detail: Some(detail.into()) }
    }

    /// An error whose kind is not the one its errno implies, such as a fenced writer's `EIO`.
    #[must_use]
    pub fn of_kind(kind: ErrorKind, errno: Errno, detail: impl Into<String>) -> Self {
        Self { errno, kind: Some(kind), detail: Some(detail.into()) }
    }

    /// The same error, with what it was about put before what it says.
    #[must_use]
    pub fn about(mut self, what: impl std::fmt::Display) -> Self {
        self.detail = Some(match self.detail {
            Some(detail) => format!("{what}: {detail}"),
            None => format!("{what}: {}", self.errno.text()),
        });
        self
    }

    /// The number for a kernel.
    #[must_use]
    pub const fn errno(&self) -> Errno {
        self.errno
    }

    /// What a caller can do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind.unwrap_or(match self.errno {
            Errno::ENOENT | Errno::ENODATA => ErrorKind::NotFound,
            Errno::EEXIST => ErrorKind::AlreadyExists,
            Errno::ENOTDIR | Errno::EISDIR | Errno::ENOTEMPTY | Errno::EBUSY | Errno::EAGAIN => {
                ErrorKind::Conflict
            }
            Errno::ESTALE => ErrorKind::PreconditionFailed,
            Errno::EINVAL
            | Errno::ENAMETOOLONG
            | Errno::ELOOP
            | Errno::EXDEV
            | Errno::ENXIO
            | Errno::ERANGE
            | Errno::EMLINK
            | Errno::EBADF => ErrorKind::InvalidArgument,
            Errno::EPERM | Errno::EACCES | Errno::EROFS => ErrorKind::PermissionDenied,
            Errno::EFBIG => ErrorKind::TooLarge,
            Errno::ENOSPC | Errno::EDQUOT => ErrorKind::Exhausted,
            Errno::ENOSYS | Errno::EOPNOTSUPP => ErrorKind::Unsupported,
            Errno::ETIMEDOUT => ErrorKind::Timeout,
            Errno::EIO => ErrorKind::Internal,
        })
    }

    /// The sentence, where there is one.
    #[must_use]
    pub fn detail(&self) -> Option<&str> {
        self.detail.as_deref()
    }
}

impl fmt::Display for FsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.detail {
            Some(detail) => f.write_str(detail),
            None => f.write_str(self.errno.text()),
        }
    }
}

impl std::error::Error for FsError {}

impl From<Errno> for FsError {
    fn from(errno: Errno) -> Self {
        Self::new(errno)
    }
}
