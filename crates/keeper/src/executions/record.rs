//! One execution, as it is kept.

use std::collections::BTreeMap;

use base::{ExecutionId, Timestamp};
use serde::{Deserialize, Serialize};

/// A command to run.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NewExecution {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Working directory in the guest.
    pub cwd: Option<String>,
    /// Extra environment. Values are secret: they are never kept, listed or logged.
    pub env: BTreeMap<String, String>,
    /// Standard input, whole, or its beginning where `stdin_open` is set.
    pub stdin: Option<String>,
    /// Keep standard input open for an attached client to write to.
    #[serde(default)]
    pub stdin_open: bool,
    /// Kill it after this many milliseconds.
    pub timeout_ms: Option<u64>,
}

impl std::fmt::Debug for NewExecution {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Arguments, input and variables may all hold secrets.
        f.debug_struct("NewExecution")
            .field("arguments", &self.command.len())
            .field("timeout_ms", &self.timeout_ms)
            .finish_non_exhaustive()
    }
}

/// Where an execution stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Taken, not started yet.
    Queued,
    /// Running in the guest.
    Running,
    /// Exited with 0.
    Succeeded,
    /// Exited otherwise, was killed, timed out, could not start, or lost its machine.
    Failed,
    /// Killed on request.
    Cancelled,
}

impl State {
    /// True where nothing more will happen.
    #[must_use]
    pub fn is_final(self) -> bool {
        !matches!(self, Self::Queued | Self::Running)
    }
}

/// The content of `record.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Which one.
    pub id: ExecutionId,
    /// Where it stands.
    pub state: State,
    /// Program and arguments.
    pub command: Vec<String>,
    /// Working directory, where one was asked for.
    pub cwd: Option<String>,
    /// Names of the variables that were set.
    pub env_keys: Vec<String>,
    /// When it was taken.
    pub created_at: Timestamp,
    /// When it started.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub completed_at: Option<Timestamp>,
    /// Its exit code.
    pub exit_code: Option<i32>,
    /// The signal that killed it.
    pub signal: Option<i32>,
    /// Why it failed, where its exit code does not say: `TIMEOUT`, `START_FAILED`, `GUEST_ERROR`,
    /// `MACHINE_STOPPED`.
    pub error_code: Option<String>,
    /// The same for a person.
    pub error_message: Option<String>,
    /// Bytes that it wrote to standard output, kept or not.
    pub stdout_bytes: u64,
    /// Bytes that it wrote to standard error, kept or not.
    pub stderr_bytes: u64,
}

impl Record {
    pub(crate) fn new(id: ExecutionId, what: &NewExecution, at: Timestamp) -> Self {
        Self {
            id,
            state: State::Queued,
            command: what.command.clone(),
            cwd: what.cwd.clone(),
            env_keys: what.env.keys().cloned().collect(),
            created_at: at,
            started_at: None,
            completed_at: None,
            exit_code: None,
            signal: None,
            error_code: None,
            error_message: None,
            stdout_bytes: 0,
            stderr_bytes: 0,
        }
    }

    /// True where not all of standard output was kept.
    #[must_use]
    pub fn stdout_truncated(&self) -> bool {
        self.stdout_bytes > super::OUTPUT_BYTES_MAX
    }

    /// True where not all of standard error was kept.
    #[must_use]
    pub fn stderr_truncated(&self) -> bool {
        self.stderr_bytes > super::OUTPUT_BYTES_MAX
    }
}

/// What an event tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// A change of state.
    Lifecycle,
    /// Bytes on standard output.
    Stdout,
    /// Bytes on standard error.
    Stderr,
}

/// A line of `events.jsonl`. Output is named by its place in the stream's file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Counts from 1 within the execution.
    pub sequence: u64,
    /// What it tells.
    pub kind: EventKind,
    /// When.
    pub at: Timestamp,
    /// The new state, for lifecycle events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<State>,
    /// Where the bytes begin, for output events.
    #[serde(default)]
    pub offset: u64,
    /// How many they are.
    #[serde(default)]
    pub len: u64,
    /// The bytes; filled in when events are read, never in the file.
    #[serde(skip)]
    pub chunk: Vec<u8>,
}

/// What is kept of the output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// The record it belongs to.
    pub record: Record,
    /// The first bytes of standard output.
    pub stdout: Vec<u8>,
    /// The first bytes of standard error.
    pub stderr: Vec<u8>,
}
