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
        if !self.live && !record.state.is_final() {
            record.state = State::Failed;
            record.error_code = Some("MACHINE_STOPPED".to_owned());
            record.error_message =
                Some("the machine stopped while the command was running".to_owned());
        }
        Ok(record)
    }

    /// Records newest first, at most `max`, of those older than `before`.
    #[must_use]
    pub fn list(&self, before: Option<&ExecutionId>, max: usize) -> Vec<Record> {
        let mut ids = ids(&self.dir);
        ids.sort_unstable_by(|a, b| b.cmp(a));
        ids.into_iter()
            .filter(|id| before.is_none_or(|before| id < before))
            .filter_map(|id| self.get(&id).ok())
            .take(max)
            .collect()
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
