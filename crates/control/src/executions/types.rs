//! Executions, as every face sees them (contract section 10).

use std::collections::BTreeMap;
use std::fmt;

use base::{ExecutionId, MachineId, Timestamp};
use bytes::Bytes;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::Result;

/// A command to run; `execve` semantics, no shell.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewExecution {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Working directory; the home where it is not given.
    pub cwd: Option<String>,
    /// Variables. Values are handed to the guest and never returned or listed.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// All of standard input, as text.
    pub stdin: Option<String>,
    /// Keep standard input open after [`Self::stdin`], for an attachment to write to.
    #[serde(default)]
    pub stdin_open: bool,
    /// Kill it after this many milliseconds; 0 or `None` never.
    pub timeout_ms: Option<u64>,
}

impl fmt::Debug for NewExecution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Values of variables and standard input may be secrets.
        f.debug_struct("NewExecution")
            .field("command", &self.command)
            .field("cwd", &self.cwd)
            .field("env_keys", &self.env.keys().collect::<Vec<_>>())
            .field("stdin_bytes", &self.stdin.as_ref().map(String::len))
            .field("timeout_ms", &self.timeout_ms)
            .finish_non_exhaustive()
    }
}

/// Where an execution is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExecutionStatus {
    /// Its machine is waking.
    WakeInProgress,
    /// Accepted, not started.
    Queued,
    /// Running.
    Running,
    /// Exit code 0.
    Succeeded,
    /// Anything else: exit code, signal, timeout, start error, its machine stopped.
    Failed,
    /// Ended by a delete.
    Cancelled,
    /// Its record is no longer kept.
    Expired,
}

impl ExecutionStatus {
    /// True once it will not change any more.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled | Self::Expired)
    }
}

/// One command run in a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Execution {
    /// Its id.
    pub execution_id: ExecutionId,
    /// Its machine.
    pub machine_id: MachineId,
    /// Where it is.
    pub status: ExecutionStatus,
    /// Program and arguments.
    pub command: Vec<String>,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When the process started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<Timestamp>,
    /// Working directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// Names of its variables.
    #[serde(default)]
    pub env_keys: Vec<String>,
    /// Exit code, where it exited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Signal, where one killed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// Why it failed, as a code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_code: Option<String>,
    /// Why it failed, as a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_message: Option<String>,
    /// When to look again, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    /// Bytes written to standard output, whether kept or not.
    #[serde(default)]
    pub stdout_bytes: u64,
    /// Bytes written to standard error, whether kept or not.
    #[serde(default)]
    pub stderr_bytes: u64,
    /// True where not all of standard output was kept.
    #[serde(default)]
    pub stdout_truncated: bool,
    /// True where not all of standard error was kept.
    #[serde(default)]
    pub stderr_truncated: bool,
    /// Always there, always empty: the last dialect of the contract requires it.
    #[serde(default)]
    pub log_capture: BTreeMap<String, String>,
}

/// Which sort of event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventType {
    /// The status changed.
    Lifecycle,
    /// Bytes on standard output.
    Stdout,
    /// Bytes on standard error.
    Stderr,
}

/// One thing that happened to an execution.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecutionEvent {
    /// Its number; they ascend from 1.
    pub sequence: u64,
    /// Which sort.
    #[serde(rename = "type")]
    pub event_type: EventType,
    /// When.
    pub at: Timestamp,
    /// Output, bytes that are not UTF-8 replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chunk: Option<String>,
    /// The status after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<ExecutionStatus>,
    /// Exit code, where it exited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Signal, where one killed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// Why it failed, as a code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_code: Option<String>,
    /// Why it failed, as a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_message: Option<String>,
}

/// What an execution has written, as far as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecutionOutput {
    /// Whose.
    pub execution_id: ExecutionId,
    /// Standard output; bytes that are not UTF-8 replaced.
    pub stdout: String,
    /// Standard error; bytes that are not UTF-8 replaced.
    pub stderr: String,
    /// Bytes written, whether kept or not.
    pub stdout_bytes: u64,
    /// Bytes written, whether kept or not.
    pub stderr_bytes: u64,
    /// True where `stdout` is not all of it.
    pub stdout_truncated: bool,
    /// True where `stderr` is not all of it.
    pub stderr_truncated: bool,
}

/// From a client to a running execution.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttachInput {
    /// Bytes for standard input.
    Stdin(Bytes),
    /// End of standard input.
    StdinEnd,
    /// A signal for the process group, 1 to 64.
    Signal(i32),
}

/// From an execution to a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttachOutput {
    /// Bytes from standard output.
    Stdout(Bytes),
    /// Bytes from standard error.
    Stderr(Bytes),
    /// The final record: the last item.
    Ended(Box<Execution>),
}

/// Both directions of a running execution. Output starts with what is kept from before. Dropping it
/// leaves the execution running.
pub struct Attachment {
    /// Towards the execution; bounded, so a slow guest slows the client.
    pub input: mpsc::Sender<AttachInput>,
    /// From the execution.
    pub output: BoxStream<'static, Result<AttachOutput>>,
}

impl fmt::Debug for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attachment").finish_non_exhaustive()
    }
}
