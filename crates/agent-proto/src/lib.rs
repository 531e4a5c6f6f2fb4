//! What the host and the guest agent say to each other.
//!
//! The control channel is one byte stream (virtio-serial port `dormouse.ctl`). Order on it:
//! 1. [`handshake`]: the host sends `DMH1` + 16 random bytes; the agent answers `DMA1` + the same 16.
//!    Either side discards what comes before the magic of this nonce, so bytes that an earlier
//!    session left in the port do no harm.
//! 2. yamux ([`mux`]); the host is the client and opens streams; the agent opens none.
//! 3. Each stream begins with one [`Request`], framed; what follows depends on it.
//!
//! Frames ([`frame`]) are `u8` kind, `u32` little-endian length, payload of at most
//! [`FRAME_BYTES_MAX`]. A longer one ends the stream: each side treats the other as hostile.
//!
//! The FUSE channel (`dormouse.fuse`) carries raw FUSE messages in both directions; their first
//! `u32` is their length. Messages with `unique` 0 from the host are notifications; the agent
//! hands those to the kernel from a thread of their own, since the kernel may block in them until
//! an earlier reply arrives. Cache barrier: [`Request::Barrier`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Name of the control port in the guest.
pub const CONTROL_PORT: &str = "dormouse.ctl";
/// Name of the FUSE port in the guest.
pub const FUSE_PORT: &str = "dormouse.fuse";
/// Largest payload of one frame, in bytes.
pub const FRAME_BYTES_MAX: usize = 64 * 1024;
/// Largest request, in bytes: arguments and environment together.
pub const REQUEST_BYTES_MAX: usize = 256 * 1024;
/// Version of this protocol, in [`Hello`].
pub const PROTOCOL_VERSION: u32 = 1;

/// Kinds of frames on a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    /// JSON: a [`Request`] (first frame of a stream) or a [`Reply`].
    Message = 0,
    /// Bytes for standard input. Empty: end of input.
    Stdin = 1,
    /// Bytes from standard output.
    Stdout = 2,
    /// Bytes from standard error.
    Stderr = 3,
    /// JSON [`Exited`]: the last frame of an execution.
    Exit = 4,
    /// JSON [`Signal`], host to guest: a signal for the process group.
    Signal = 5,
}

/// What the host asks for; the first frame of a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Request {
    /// Who are you. Reply: [`Reply::Hello`].
    Hello,
    /// Sets clock, host name and entropy; sent once after the handshake. Reply: [`Reply::Done`].
    Configure(Configure),
    /// Runs a command. Frames follow in both directions until `Exit`.
    Exec(Exec),
    /// Returns once every FUSE notification that was sent before this request is through.
    /// `seq` counts notifications since boot. Reply: [`Reply::Done`].
    Barrier {
        /// How many notifications the host has sent.
        seq: u64,
    },
    /// Stops all processes (TERM, then KILL after `grace_ms`), syncs, unmounts and powers off.
    /// Reply: [`Reply::Done`] before the power goes.
    Shutdown {
        /// Milliseconds between TERM and KILL.
        grace_ms: u64,
    },
}

/// Facts about this boot that only the host knows.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Configure {
    /// Host name.
    pub hostname: String,
    /// Wall clock, nanoseconds since 1970.
    pub unix_nanos: i64,
    /// Random bytes for the kernel's pool, hex.
    pub entropy: String,
    /// Name servers for `/etc/resolv.conf`; empty leaves the file alone.
    pub nameservers: Vec<String>,
    /// Lines for `/etc/hosts` besides localhost and the host name.
    pub hosts: Vec<String>,
}

/// A command to run; `execve` semantics, no shell.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Exec {
    /// Program and arguments; the program is looked up in the guest's `PATH`.
    pub command: Vec<String>,
    /// Working directory; `/root` where it is not given.
    pub cwd: Option<String>,
    /// Variables on top of the default environment (`PATH`, `HOME=/root`, `USER=root`, `LANG=C.UTF-8`,
    /// `TERM` where there is a terminal).
    pub env: BTreeMap<String, String>,
    /// True where `Stdin` frames will follow; otherwise standard input is `/dev/null`.
    pub stdin: bool,
    /// Kill the process group after this many milliseconds; 0 never.
    pub timeout_ms: u64,
}

/// A short answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum Reply {
    /// To `Hello`.
    Hello(Hello),
    /// It is done.
    Done,
    /// It failed.
    Failed {
        /// errno where there is one.
        errno: Option<i32>,
        /// What happened.
        message: String,
    },
    /// An execution has started.
    Started {
        /// Process id in the guest.
        pid: u32,
    },
}

/// Who the agent is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`PROTOCOL_VERSION`] of the agent.
    pub protocol: u32,
    /// Its own version.
    pub version: String,
    /// Milliseconds since the guest's kernel started.
    pub uptime_ms: u64,
    /// False where `/root` could not be mounted; `detail` says why.
    pub home_mounted: bool,
    /// What is wrong, if anything.
    pub detail: Option<String>,
}

/// How an execution ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exited {
    /// Exit code, where it exited.
    pub code: Option<i32>,
    /// Signal, where it was killed by one.
    pub signal: Option<i32>,
    /// True where the timeout killed it.
    pub timed_out: bool,
}

/// A signal for a running execution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signal {
    /// Number, 1 to 64.
    pub signal: i32,
}
