//! Executions on the wire (contract, section 10).

use std::collections::BTreeMap;

use base::Timestamp;
use control::executions::{
    EventType, Execution, ExecutionEvent, ExecutionOutput, ExecutionStatus, NewExecution,
};
use http_kit::ApiError;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A command to run; `execve` semantics, no shell.
#[derive(Deserialize, ToSchema)]
pub(crate) struct ExecutionCreate {
    /// Program and arguments; at least the program.
    #[serde(default)]
    command: Option<Vec<String>>,
    /// Working directory; the home where it is not given.
    #[serde(default)]
    cwd: Option<String>,
    /// Variables. Values are never returned.
    #[serde(default)]
    env: Option<BTreeMap<String, String>>,
    /// All of standard input as text; on an attachment also `true`: it is sent as frames.
    #[serde(default)]
    stdin: Option<Stdin>,
    /// Kill it after this many milliseconds; 0 never.
    #[serde(default)]
    timeout_ms: Option<u64>,
}

/// What goes to standard input.
#[derive(Deserialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum Stdin {
    /// Frames, or nothing.
    Open(bool),
    /// This text, then its end.
    Text(String),
}

impl ExecutionCreate {
    /// For `control`. `attached` says that frames can follow.
    ///
    /// # Errors
    /// 400 without a command, and for an open standard input that nobody can write to.
    pub(crate) fn into_new(self, attached: bool) -> Result<NewExecution, ApiError> {
        let command = self.command.filter(|command| !command.is_empty()).ok_or_else(|| {
            ApiError::invalid("command is missing: a list with the program and its arguments")
        })?;
        let (stdin, stdin_open) = match self.stdin {
            None | Some(Stdin::Open(false)) => (None, false),
            Some(Stdin::Text(text)) => (Some(text), false),
            Some(Stdin::Open(true)) if attached => (None, true),
            Some(Stdin::Open(true)) => {
                return Err(ApiError::invalid(
                    "stdin is text here; to send it as it comes, use …/executions/attach",
                ));
            }
        };
        Ok(NewExecution {
            command,
            cwd: self.cwd,
            env: self.env.unwrap_or_default(),
            stdin,
            stdin_open,
            timeout_ms: self.timeout_ms,
        })
    }
}

/// The word of a status.
pub(crate) const fn status_word(status: ExecutionStatus) -> &'static str {
    match status {
        ExecutionStatus::WakeInProgress => "wake_in_progress",
        ExecutionStatus::Queued => "queued",
        ExecutionStatus::Running => "running",
        ExecutionStatus::Succeeded => "succeeded",
        ExecutionStatus::Failed => "failed",
        ExecutionStatus::Cancelled => "cancelled",
        ExecutionStatus::Expired => "expired",
    }
}

/// One command run in a machine.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ExecutionBody {
    /// Its id.
    execution_id: String,
    /// Its machine.
    machine_id: String,
    /// `wake_in_progress`, `queued`, `running`, then `succeeded` (exit code 0), `failed` (anything
    /// else) or `cancelled`.
    status: &'static str,
    /// Program and arguments.
    command: Vec<String>,
    /// When it was asked for.
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// When the process started.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    started_at: Option<Timestamp>,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    completed_at: Option<Timestamp>,
    /// Working directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    cwd: Option<String>,
    /// Names of its variables.
    env_keys: Vec<String>,
    /// Exit code, where it exited.
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_code: Option<i32>,
    /// Signal, where one killed it.
    #[serde(skip_serializing_if = "Option::is_none")]
    signal: Option<i32>,
    /// Why it failed, as a code.
    #[serde(skip_serializing_if = "Option::is_none")]
    error_code: Option<String>,
    /// Why it failed, as a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    error_message: Option<String>,
    /// When to look again, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
    /// Bytes written to standard output, kept or not.
    stdout_bytes: u64,
    /// Bytes written to standard error, kept or not.
    stderr_bytes: u64,
    /// True where not all of standard output was kept.
    stdout_truncated: bool,
    /// True where not all of standard error was kept.
    stderr_truncated: bool,
    /// Always empty here.
    #[schema(value_type = Vec<Object>)]
    artifacts: [(); 0],
    /// Always empty here; newer clients require it.
    #[schema(value_type = Object)]
    log_capture: BTreeMap<String, String>,
}

impl From<Execution> for ExecutionBody {
    fn from(execution: Execution) -> Self {
        Self {
            execution_id: execution.execution_id.into(),
            machine_id: execution.machine_id.into(),
            status: status_word(execution.status),
            command: execution.command,
            created_at: execution.created_at,
            started_at: execution.started_at,
            completed_at: execution.completed_at,
            cwd: execution.cwd,
            env_keys: execution.env_keys,
            exit_code: execution.exit_code,
            signal: execution.signal,
            error_code: execution.error_code,
            error_message: execution.error_message,
            retry_after_ms: execution.retry_after_ms,
            stdout_bytes: execution.stdout_bytes,
            stderr_bytes: execution.stderr_bytes,
            stdout_truncated: execution.stdout_truncated,
            stderr_truncated: execution.stderr_truncated,
            artifacts: [],
            log_capture: execution.log_capture,
        }
    }
}

/// What an execution has written, as far as it is kept. Bytes that are not UTF-8 are replaced.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct OutputBody {
    /// Whose.
    execution_id: String,
    /// Standard output.
    stdout: String,
    /// Standard error.
    stderr: String,
    /// Bytes written, kept or not.
    stdout_bytes: u64,
    /// Bytes written, kept or not.
    stderr_bytes: u64,
    /// True where `stdout` is not all of it.
    stdout_truncated: bool,
    /// True where `stderr` is not all of it.
    stderr_truncated: bool,
}

impl From<ExecutionOutput> for OutputBody {
    fn from(output: ExecutionOutput) -> Self {
        Self {
            execution_id: output.execution_id.into(),
            stdout: output.stdout,
            stderr: output.stderr,
            stdout_bytes: output.stdout_bytes,
            stderr_bytes: output.stderr_bytes,
            stdout_truncated: output.stdout_truncated,
            stderr_truncated: output.stderr_truncated,
        }
    }
}

/// One thing that happened to an execution.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EventBody {
    /// Its number; they ascend.
    sequence: u64,
    /// `lifecycle`, `stdout` or `stderr`.
    #[serde(rename = "type")]
    event_type: &'static str,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    /// Output; bytes that are not UTF-8 are replaced.
    #[serde(skip_serializing_if = "Option::is_none")]
    chunk: Option<String>,
    /// The status after.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'static str>,
    /// Exit code, where it exited.
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_code: Option<i32>,
    /// Signal, where one killed it.
    #[serde(skip_serializing_if = "Option::is_none")]
    signal: Option<i32>,
    /// Why it failed, as a code.
    #[serde(skip_serializing_if = "Option::is_none")]
    error_code: Option<String>,
    /// Why it failed, as a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    error_message: Option<String>,
}

impl From<ExecutionEvent> for EventBody {
    fn from(event: ExecutionEvent) -> Self {
        Self {
            sequence: event.sequence,
            event_type: match event.event_type {
                EventType::Lifecycle => "lifecycle",
                EventType::Stdout => "stdout",
                EventType::Stderr => "stderr",
            },
            at: event.at,
            chunk: event.chunk,
            status: event.status.map(status_word),
            exit_code: event.exit_code,
            signal: event.signal,
            error_code: event.error_code,
            error_message: event.error_message,
        }
    }
}

#[cfg(test)]
mod tests {
    use http_kit::body::from_json;

    use super::*;

    fn new(json: &str, attached: bool) -> Result<NewExecution, ApiError> {
        from_json::<ExecutionCreate>(json.as_bytes())?.into_new(attached)
    }

    #[test]
    fn a_command_is_required() {
        for body in ["", r#"{"command": null}"#, r#"{"command": []}"#, r#"{"cwd": "/"}"#] {
            let error = new(body, false).unwrap_err();
            assert!(error.body().message.contains("command"), "{body}");
        }
        assert_eq!(new(r#"{"command": ["ls"], "env": null}"#, false).unwrap().command, ["ls"]);
    }

    #[test]
    fn standard_input_is_text_or_a_stream() {
        let text = new(r#"{"command": ["cat"], "stdin": "hi"}"#, false).unwrap();
        assert_eq!((text.stdin.as_deref(), text.stdin_open), (Some("hi"), false));
        let open = new(r#"{"command": ["cat"], "stdin": true}"#, true).unwrap();
        assert_eq!((open.stdin, open.stdin_open), (None, true));
        assert_eq!(new(r#"{"command": ["cat"], "stdin": true}"#, false).unwrap_err().status(), 400);
    }
}
