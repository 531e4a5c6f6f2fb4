//! Types of the keeper and of `homefs` as `control` has them, and back.

use base::MachineId;
use control::executions::{Execution, ExecutionStatus};
use control::files::{FileMeta, Precondition, RangeSpec};
use control::host::Woken;
use keeper::executions::{Record, State};
use keeper::files::{FileInfo, Preconditions, Range, Tags};
use vfs::path::TreePath;

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

/// Paths that a draft removed, taken apart.
pub(crate) fn removals(paths: &[Vec<u8>]) -> control::Result<Vec<vfs::Removal>> {
    paths.iter().map(|path| Ok(TreePath::parse(path)?.parts().to_vec())).collect()
}

/// A keeper of another version may say more than we know: then it is what it begins with.
pub(crate) fn woken(said: &str) -> Woken {
    match said.split_once(": ") {
        Some(("booted", why)) => Woken::BootedInstead(why.to_owned()),
        Some(("booted without template", why)) => Woken::BootedWithoutTemplate(why.to_owned()),
        _ if said == "resumed" => Woken::Resumed,
        _ if said == "cloned" => Woken::Cloned,
        _ => Woken::Booted,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn preconditions_keep_their_meaning() {
        let tags = vec!["1-2".to_owned()];
        for (given, if_match, if_none_match) in [
            (Precondition::None, None, None),
            (Precondition::Present, Some(Tags::Any), None),
            (Precondition::Absent, None, Some(Tags::Any)),
            (Precondition::Etag(tags.clone()), Some(Tags::OneOf(tags)), None),
        ] {
            assert_eq!(preconditions(given), Preconditions { if_match, if_none_match });
        }
    }

    #[test]
    fn ranges_keep_their_meaning() {
        assert_eq!(range(RangeSpec::Inclusive(1, 2)).within(10), Some((1, 2)));
        assert_eq!(range(RangeSpec::From(8)).within(10), Some((8, 2)));
        assert_eq!(range(RangeSpec::Last(3)).within(10), Some((7, 3)));
    }

    #[test]
    fn a_removal_is_a_path_like_any_other() {
        let parts = removals(&[b"a/b".to_vec()]).unwrap();
        assert_eq!(parts, [vec![b"a".to_vec(), b"b".to_vec()]]);
        assert!(removals(&[b"a/../b".to_vec()]).is_err());
    }

    #[test]
    fn a_command_that_runs_is_to_be_looked_at_again_and_one_that_ended_is_not() {
        let json = serde_json::json!({
            "id": base::ExecutionId::generate(), "state": "running", "command": ["true"],
            "env_keys": [], "created_at": "2026-01-01T00:00:00Z", "stdout_bytes": 9 << 20,
            "stderr_bytes": 0,
        });
        let mut record: Record = serde_json::from_value(json).unwrap();
        let machine = MachineId::generate();
        let running = execution(&machine, record.clone());
        assert_eq!(running.status, ExecutionStatus::Running);
        assert!(running.retry_after_ms.is_some() && running.stdout_truncated);
        record.state = State::Cancelled;
        let ended = execution(&machine, record);
        assert_eq!(ended.status, ExecutionStatus::Cancelled);
        assert_eq!(ended.retry_after_ms, None);
        assert_eq!(ended.machine_id, machine);
    }
}
