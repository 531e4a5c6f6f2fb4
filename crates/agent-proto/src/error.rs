//! What can go wrong between host and agent.

use std::io;

use base::ErrorKind;

/// A failure on the channel between host and agent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The byte stream below failed.
    #[error("{doing}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The peer closed the stream where more had to come.
    #[error("{doing}: the other side closed the stream; the machine or its keeper has ended")]
    Closed {
        /// What was being done.
        doing: &'static str,
    },
    /// A frame or message is longer than allowed.
    #[error("{what} of {bytes} bytes; at most {max} are allowed: send less at once")]
    TooLarge {
        /// Frame, message or request.
        what: &'static str,
        /// How long it would be.
        bytes: usize,
        /// The bound.
        max: usize,
    },
    /// A frame of a kind that does not exist, or not at this place.
    #[error("frame of kind {got} where {expected} was expected")]
    UnexpectedFrame {
        /// What would have been right.
        expected: &'static str,
        /// The kind byte.
        got: u8,
    },
    /// A message that is not the JSON it must be.
    #[error("decode {what}")]
    Decode {
        /// The message.
        what: &'static str,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A reply of another sort than the request calls for.
    #[error("the agent answered {what} with something else; host and guest do not match")]
    UnexpectedReply {
        /// The request.
        what: &'static str,
    },
    /// The agent speaks another version.
    #[error("the agent speaks protocol {theirs}, this host {ours}: rebuild the guest image")]
    Version {
        /// The agent's version.
        theirs: u32,
        /// Our version.
        ours: u32,
    },
    /// Nothing but other bytes where the handshake had to be.
    #[error("no handshake within {max} bytes; is something else using the port?")]
    NoHandshake {
        /// How many bytes were discarded.
        max: usize,
    },
    /// The session has ended.
    #[error("the session with the agent has ended: {reason}")]
    SessionEnded {
        /// Why.
        reason: String,
    },
    /// All streams of the session are in use.
    #[error("all {max} streams to the agent are in use; wait for an execution to end")]
    TooManyStreams {
        /// The bound.
        max: usize,
    },
    /// No answer in time.
    #[error("the agent did not answer {what} within {seconds} s")]
    Timeout {
        /// The request.
        what: &'static str,
        /// How long we waited, in seconds.
        seconds: u64,
    },
    /// The agent answered that it could not.
    #[error("{message}")]
    Refused {
        /// The guest's errno, where there is one.
        errno: Option<i32>,
        /// What happened, as the agent put it.
        message: String,
    },
}

impl Error {
    /// What a caller can do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Io { .. } | Self::Closed { .. } | Self::SessionEnded { .. } => {
                ErrorKind::Unreachable
            }
            Self::TooLarge { .. } => ErrorKind::TooLarge,
            Self::UnexpectedFrame { .. }
            | Self::Decode { .. }
            | Self::UnexpectedReply { .. }
            | Self::NoHandshake { .. } => ErrorKind::Unreachable,
            Self::Version { .. } => ErrorKind::Unsupported,
            Self::TooManyStreams { .. } => ErrorKind::TooMany,
            Self::Timeout { .. } => ErrorKind::Timeout,
            Self::Refused { errno, .. } => refused_kind(*errno),
        }
    }

    pub(crate) fn io(doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| match source.kind() {
            // yamux says WriteZero where the stream or its session is gone.
            io::ErrorKind::WriteZero | io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof => {
                Self::Closed { doing }
            }
            _ => Self::Io { doing, source },
        }
    }
}

// The few that a request of a user can cause; numbers of Linux, whatever this host is.
fn refused_kind(errno: Option<i32>) -> ErrorKind {
    match errno {
        Some(2 | 3) => ErrorKind::NotFound,
        Some(1 | 13) => ErrorKind::PermissionDenied,
        Some(8 | 20 | 22 | 36) => ErrorKind::InvalidArgument,
        Some(7) => ErrorKind::TooLarge,
        Some(11 | 23 | 24) => ErrorKind::TooMany,
        Some(12 | 28) => ErrorKind::Exhausted,
        Some(95) => ErrorKind::Unsupported,
        Some(110) => ErrorKind::Timeout,
        _ => ErrorKind::Internal,
    }
}
