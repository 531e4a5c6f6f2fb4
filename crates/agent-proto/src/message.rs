//! The JSON messages: what the host asks, what the agent answers.
//!
//! Unknown fields are ignored, so either side may be the newer one within a
//! [`PROTOCOL_VERSION`](crate::PROTOCOL_VERSION).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What the host asks for; the first frame of a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Request {
    /// Who are you. Reply: [`Reply::Hello`].
    Hello,
    /// Says whose guest this is: entropy, clock and names, then the home is mounted. Sent once, after
    /// the first handshake and before anything runs for the user. Reply: [`Reply::Done`], or `Failed`
    /// where a part of it could not be done.
    Configure(Configure),
    /// Does what of [`Configure`] does not tell whose guest this is, so that one that is saved next and
    /// becomes many has it behind it. What lies in `/root` cannot be looked at between the two. Reply: [`Reply::Done`].
    Prepare,
    /// Runs a command. Frames follow in both directions until `Exit`.
    Exec(Exec),
    /// Returns once every FUSE notification that was sent before this request is through.
    /// `seq` counts notifications since boot. Reply: [`Reply::Done`].
    Barrier {
        /// How many notifications the host has sent.
        seq: u64,
    },
    /// Sends a signal to the process group of a running execution, whose own stream may be busy
    /// with standard input. Reply: [`Reply::Done`], or `Failed` with `ESRCH`.
    Kill {
        /// Process id from [`Reply::Started`].
        pid: u32,
        /// Number, 1 to 64.
        signal: i32,
    },
    /// Writes back what is dirty and drops caches, so that a sleep has less memory to keep.
    /// Reply: [`Reply::Done`].
    Trim,
    /// When the guest wants to be woken, asked before it is put to sleep. Reply: [`Reply::WakeAt`],
    /// or `Failed` where the guest cannot be asked.
    WakeAt,
    /// Holds the guest still, to be stopped and saved: every process that runs for the user is
    /// frozen, file systems are synced, and nothing is under way on the FUSE channel. Done where it
    /// is frozen already. Reply: [`Reply::Done`], or `Failed` and everything runs as before:
    /// `ETIMEDOUT` past the patience, `EOPNOTSUPP` where the guest cannot be frozen.
    Freeze {
        /// Most milliseconds that it may take; at most a minute.
        patience_ms: u64,
    },
    /// Sets the clock, adds entropy, and has a frozen guest go on; of one that is not frozen only
    /// the first two. Reply: [`Reply::Done`].
    Thaw {
        /// Wall clock, nanoseconds since 1970.
        unix_nanos: i64,
        /// Random bytes for the kernel's pool, hex.
        entropy: String,
    },
    /// Stops all processes (TERM, then KILL after `grace_ms`), syncs, unmounts and powers off.
    /// Reply: [`Reply::Done`] before the power goes.
    Shutdown {
        /// Milliseconds between TERM and KILL.
        grace_ms: u64,
    },
}

/// What makes a guest this machine's, and what of this boot only the host knows.
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
    /// What tells this machine from others, 32 hex digits: `/etc/machine-id` where the machine has
    /// none of its own yet. Empty gives it none.
    #[serde(default)]
    pub machine_id: String,
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
    /// To `WakeAt`.
    WakeAt {
        /// Seconds since 1970 by the guest's clock, and its user's word: maybe long over, maybe never
        /// to come. `None` where nobody in the guest wants to be woken.
        unix_seconds: Option<i64>,
    },
}

/// Who the agent is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`PROTOCOL_VERSION`](crate::PROTOCOL_VERSION) of the agent.
    pub protocol: u32,
    /// Its own version.
    pub version: String,
    /// Milliseconds since the guest's kernel started.
    pub uptime_ms: u64,
    /// False where `/root` could not be mounted, or no longer works; `detail` says why. True of an
    /// agent that is not configured yet, which has not tried.
    pub home_mounted: bool,
    /// True until [`Request::Configure`]: the guest is nobody's so far, and has seen no home.
    #[serde(default)]
    pub unconfigured: bool,
    /// What is wrong, if anything.
    pub detail: Option<String>,
}

/// How an execution ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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
