//! Types of the keeper and of `homefs` as `control` has them, and back.

use base::MachineId;
use control::executions::{Execution, ExecutionStatus};
use control::files::{FileMeta, Precondition, RangeSpec};
use keeper::executions::{Record, State};
use keeper::files::{FileInfo, Preconditions, Range, Tags};

pub(crate) fn failure(error: keeper::Failure) -> control::Error {
    control::Error::new(error.kind, error.message)
}

pub(crate) fn home_error(error: homefs::Error) -> control::Error {
    control::Error::new(error.kind(), error.to_string()).caused_by(error)
}

pub(crate) fn meta(info: FileInfo) -> FileMeta {
    FileMeta {
        kind: info.kind,
        mode: info.perm,
        size: info.size,
        mtime: info.mtime,
        etag: info.etag,
        link_target: info.link_target,
    }
}

pub(crate) fn preconditions(precondition: Precondition) -> Preconditions {
    let (if_match, if_none_match) = match precondition {
        Precondition::None => (None, None),
        Precondition::Present => (Some(Tags::Any), None),
        Precondition::Absent => (None, Some(Tags::Any)),
        Precondition::Etag(tags) => (Some(Tags::OneOf(tags)), None),
    };
    Preconditions { if_match, if_none_match }
}

pub(crate) fn range(range: RangeSpec) -> Range {
    match range {
        RangeSpec::Inclusive(first, last) => Range::Bounded(first, last),
        RangeSpec::From(first) => Range::From(first),
        RangeSpec::Last(count) => Range::Last(count),
    }
}

pub(crate) fn status(state: State) -> ExecutionStatus {
    match state {
        State::Queued => ExecutionStatus::Queued,
        State::Running => ExecutionStatus::Running,
        State::Succeeded => ExecutionStatus::Succeeded,
        State::Failed => ExecutionStatus::Failed,
        State::Cancelled => ExecutionStatus::Cancelled,
    }
}

/// How soon a poller may look again while a command runs.
const POLL_AGAIN_MS: u64 = 250;

pub(crate) fn execution(machine: &MachineId, record: Record) -> Execution {
    Execution {
        machine_id: machine.clone(),
        status: status(record.state),
        retry_after_ms: (!record.state.is_final()).then_some(POLL_AGAIN_MS),
        stdout_truncated: record.stdout_truncated(),
        stderr_truncated: record.stderr_truncated(),
        execution_id: record.id,
        command: record.command,
        created_at: record.created_at,
        started_at: record.started_at,
        completed_at: record.completed_at,
        cwd: record.cwd,
        env_keys: record.env_keys,
        exit_code: record.exit_code,
        signal: record.signal,
        error_code: record.error_code,
        error_message: record.error_message,
        stdout_bytes: record.stdout_bytes,
        stderr_bytes: record.stderr_bytes,
        log_capture: std::collections::BTreeMap::default(),
    }
}
