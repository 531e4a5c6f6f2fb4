//! Reading what is kept, with or without a living keeper.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use base::{ErrorKind, ExecutionId};

use super::record::{Event, EventKind, Output, Record, State};
use super::{EVENTS_MAX, OUTPUT_BYTES_MAX};
use crate::layout::MachineDir;
use crate::{Failure, Result};

/// Largest `record.json` that is believed: arguments are bounded far below it.
const RECORD_BYTES_MAX: u64 = 4 << 20;

/// The executions of one machine.
#[derive(Debug, Clone)]
pub struct Records {
    dir: PathBuf,
    live: bool,
}

impl Records {
    /// Those of the machine in `dir`. `live` says whether a keeper is there to finish what runs.
    #[must_use]
    pub fn new(dir: &MachineDir, live: bool) -> Self {
        Self { dir: dir.executions(), live }
    }

    /// One record.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn get(&self, id: &ExecutionId) -> Result<Record> {
        let mut record = load(&self.dir.join(id.as_str()).join("record.json"))
            .ok_or_else(|| Failure::new(ErrorKind::NotFound, format!("no execution {id}")))?;
        if record.state.is_final() {
            return Ok(record);
        }
        // The record counts output only at its end.
        let written = |name| {
            std::fs::metadata(self.dir.join(id.as_str()).join(name)).map_or(0, |file| file.len())
        };
        record.stdout_bytes = record.stdout_bytes.max(written("stdout"));
        record.stderr_bytes = record.stderr_bytes.max(written("stderr"));
        if !self.live {
            record.state = State::Failed;
            record.error_code = Some("MACHINE_STOPPED".to_owned());
            record.error_message =
                Some("the machine stopped while the command was running".to_owned());
        }
        Ok(record)
    }

    /// Records oldest first, that is by id, at most `max`, of those after `after`.
    #[must_use]
    pub fn list(&self, after: Option<&ExecutionId>, max: usize) -> Vec<Record> {
        let mut ids = ids(&self.dir);
        ids.retain(|id| after.is_none_or(|after| id > after));
        ids.sort_unstable();
        ids.iter().filter_map(|id| self.get(id).ok()).take(max).collect()
    }

    /// What is kept of the output.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn output(&self, id: &ExecutionId) -> Result<Output> {
        let record = self.get(id)?;
        let dir = self.dir.join(id.as_str());
        Ok(Output { record, stdout: head(&dir.join("stdout")), stderr: head(&dir.join("stderr")) })
    }

    /// Events after `after`, in order, at most `max`.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn events(&self, id: &ExecutionId, after: u64, max: usize) -> Result<Vec<Event>> {
        self.get(id)?;
        let dir = self.dir.join(id.as_str());
        let Ok(file) = File::open(dir.join("events.jsonl")) else { return Ok(Vec::new()) };
        let (stdout, stderr) = (File::open(dir.join("stdout")), File::open(dir.join("stderr")));
        let lines = BufReader::new(file.take(EVENTS_MAX * 512)).lines();
        let mut found = Vec::new();
        for line in lines.map_while(std::io::Result::ok) {
            // A last line that is still being written is not an event yet.
            let Ok(mut event) = serde_json::from_str::<Event>(&line) else { break };
            if event.sequence <= after {
                continue;
            }
            let from = match event.kind {
                EventKind::Lifecycle => None,
                EventKind::Stdout => stdout.as_ref().ok(),
                EventKind::Stderr => stderr.as_ref().ok(),
            };
            if let Some(from) = from {
                let mut chunk =
                    vec![0; usize::try_from(event.len.min(OUTPUT_BYTES_MAX)).unwrap_or(0)];
                let got = from.read_at(&mut chunk, event.offset).unwrap_or(0);
                chunk.truncate(got);
                event.chunk = chunk;
            }
            found.push(event);
            if found.len() == max {
                break;
            }
        }
        Ok(found)
    }

    /// Forgets an execution that has ended.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` while it runs.
    pub fn remove(&self, id: &ExecutionId) -> Result<Record> {
        let record = self.get(id)?;
        if !record.state.is_final() {
            return Err(Failure::new(
                ErrorKind::Conflict,
                format!("execution {id} is still running"),
            ));
        }
        std::fs::remove_dir_all(self.dir.join(id.as_str()))
            .map_err(|error| Failure::internal("remove the execution", error))?;
        Ok(record)
    }
}

/// Every execution that has a directory.
pub(super) fn ids(dir: &Path) -> Vec<ExecutionId> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

fn load(path: &Path) -> Option<Record> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(RECORD_BYTES_MAX).read_to_end(&mut bytes).ok()?;
    serde_json::from_slice(&bytes).ok()
}

fn head(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Ok(file) = File::open(path) {
        // A short read leaves what was read: output is best effort to show.
        file.take(OUTPUT_BYTES_MAX).read_to_end(&mut bytes).ok();
    }
    bytes
}

#[cfg(test)]
mod tests {
    use base::Timestamp;

    use super::super::NewExecution;
    use super::super::journal::Journal;
    use super::*;

    fn machine() -> (tempfile::TempDir, MachineDir) {
        let folder = tempfile::tempdir().unwrap();
        let dir = MachineDir::new(folder.path());
        (folder, dir)
    }

    /// Executions in the order of their ids, which is that of their making.
    fn executions<const N: usize>(dir: &MachineDir, state: State) -> [ExecutionId; N] {
        std::array::from_fn(|_| {
            let id = ExecutionId::generate();
            let record = Record::new(id.clone(), &NewExecution::default(), Timestamp::UNIX_EPOCH);
            let mut journal = Journal::create(dir.executions().join(id.as_str()), record).unwrap();
            journal.state(state, Timestamp::UNIX_EPOCH).unwrap();
            id
        })
    }

    #[test]
    fn pages_follow_each_other_from_the_oldest_to_the_newest() {
        let (_folder, dir) = machine();
        let ids: [ExecutionId; 5] = executions(&dir, State::Succeeded);
        let records = Records::new(&dir, false);
        let page = |after: Option<&ExecutionId>| -> Vec<ExecutionId> {
            records.list(after, 2).into_iter().map(|record| record.id).collect()
        };
        assert_eq!(page(None), ids[..2]);
        assert_eq!(page(Some(&ids[1])), ids[2..4]);
        assert_eq!(page(Some(&ids[3])), ids[4..]);
        assert!(page(Some(&ids[4])).is_empty());
    }

    #[test]
    fn an_execution_that_lost_its_machine_has_failed() {
        let (_folder, dir) = machine();
        let [id] = executions(&dir, State::Running);
        assert_eq!(Records::new(&dir, true).get(&id).unwrap().state, State::Running);
        let lost = Records::new(&dir, false).get(&id).unwrap();
        assert_eq!(lost.state, State::Failed);
        assert_eq!(lost.error_code.as_deref(), Some("MACHINE_STOPPED"));
    }

    #[test]
    fn only_an_execution_that_has_ended_can_be_forgotten() {
        let (_folder, dir) = machine();
        let [id] = executions(&dir, State::Running);
        let kind = |live| Records::new(&dir, live).remove(&id).map_err(|error| error.kind);
        assert_eq!(kind(true).unwrap_err(), ErrorKind::Conflict);
        assert!(kind(false).is_ok());
        assert_eq!(kind(false).unwrap_err(), ErrorKind::NotFound);
    }

    #[test]
    fn a_damaged_record_is_left_out() {
        let (_folder, dir) = machine();
        let [one, two] = executions(&dir, State::Succeeded);
        std::fs::write(dir.executions().join(one.as_str()).join("record.json"), "{").unwrap();
        std::fs::create_dir(dir.executions().join("not-an-id")).unwrap();
        let records = Records::new(&dir, true);
        assert_eq!(records.get(&one).unwrap_err().kind, ErrorKind::NotFound);
        let listed: Vec<_> = records.list(None, 10).into_iter().map(|record| record.id).collect();
        assert_eq!(listed, [two]);
    }
}
