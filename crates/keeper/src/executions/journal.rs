//! Writing one execution's record, output and events.
//!
//! Order: output bytes are in their file before the event that names them, and all output is there
//! before the record says that the execution has ended.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;

use base::Timestamp;
use bytes::Bytes;
use tokio::sync::mpsc;

use super::record::{Event, EventKind, Record, State};
use super::{EVENTS_MAX, OUTPUT_BYTES_MAX};
use crate::status::replace_file;

/// A piece of output for those who are attached.
#[derive(Debug, Clone)]
pub(crate) enum Piece {
    Stdout(Bytes),
    Stderr(Bytes),
}

/// The files of one execution, open for writing, and who listens.
#[derive(Debug)]
pub(super) struct Journal {
    dir: PathBuf,
    pub(super) record: Record,
    stdout: File,
    stderr: File,
    events: File,
    sequence: u64,
    pub(super) taps: Vec<mpsc::Sender<Piece>>,
}

impl Journal {
    pub(super) fn create(dir: PathBuf, record: Record) -> std::io::Result<Self> {
        std::fs::create_dir_all(&dir)?;
        let open = |name| OpenOptions::new().create(true).append(true).open(dir.join(name));
        let (stdout, stderr, events) = (open("stdout")?, open("stderr")?, open("events.jsonl")?);
        let mut journal =
            Self { dir, record, stdout, stderr, events, sequence: 0, taps: Vec::new() };
        journal.save()?;
        Ok(journal)
    }

    /// Keeps a piece of output as far as it fits, and counts all of it.
    pub(super) fn output(&mut self, piece: &Piece, at: Timestamp) -> std::io::Result<()> {
        let (file, total, kind, bytes) = match piece {
            Piece::Stdout(bytes) => {
                (&mut self.stdout, &mut self.record.stdout_bytes, EventKind::Stdout, bytes)
            }
            Piece::Stderr(bytes) => {
                (&mut self.stderr, &mut self.record.stderr_bytes, EventKind::Stderr, bytes)
            }
        };
        let offset = *total;
        *total += bytes.len() as u64;
        let room = usize::try_from(OUTPUT_BYTES_MAX.saturating_sub(offset)).unwrap_or(usize::MAX);
        let kept = &bytes[..bytes.len().min(room)];
        if kept.is_empty() {
            return Ok(());
        }
        file.write_all(kept)?;
        let len = kept.len() as u64;
        self.event(Event { sequence: 0, kind, at, state: None, offset, len, chunk: Vec::new() })
    }

    /// Notes a change of state, with what the record says now.
    pub(super) fn state(&mut self, state: State, at: Timestamp) -> std::io::Result<()> {
        self.record.state = state;
        let event = Event {
            sequence: 0,
            kind: EventKind::Lifecycle,
            at,
            state: Some(state),
            offset: 0,
            len: 0,
            chunk: Vec::new(),
        };
        self.event(event)?;
        self.save()
    }

    /// Replaces `record.json`.
    pub(super) fn save(&mut self) -> std::io::Result<()> {
        replace_file(&self.dir.join("record.json"), &serde_json::to_vec(&self.record)?)
    }

    fn event(&mut self, mut event: Event) -> std::io::Result<()> {
        // The last place is kept for the end, so that the events of a chatty command still say it.
        let last = event.state.is_some_and(State::is_final);
        if self.sequence + u64::from(!last) >= EVENTS_MAX {
            return Ok(());
        }
        self.sequence += 1;
        event.sequence = self.sequence;
        let mut line = serde_json::to_vec(&event)?;
        line.push(b'\n');
        self.events.write_all(&line)
    }
}
