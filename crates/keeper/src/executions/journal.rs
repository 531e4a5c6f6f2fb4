//! Writing one execution's record, output and events.
//!
//! Order: output bytes are in their file before the event that names them, and all output is there
//! before the record says that the execution has ended.
//!
//! What is written outlives this process, not a loss of power: nothing here waits for the disk, so that
//! a short command costs no more than its round trip.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use agent_proto::FRAME_BYTES_MAX;
use base::Timestamp;
use bytes::Bytes;
use tokio::sync::mpsc;

use super::record::{Event, EventKind, Record, State};
use super::{EVENTS_MAX, OUTPUT_BYTES_MAX};

/// A piece of output for those who are attached.
#[derive(Debug, Clone)]
pub(crate) enum Piece {
    Stdout(Bytes),
    Stderr(Bytes),
}

/// What is kept of a stream, up to a moment. Read a piece at a time: of many clients that do not read, each would have all
/// of it in memory.
#[derive(Debug)]
pub(crate) struct Kept {
    file: Arc<File>,
    left: Range<u64>,
    piece: fn(Bytes) -> Piece,
}

impl Iterator for Kept {
    type Item = Piece;

    fn next(&mut self) -> Option<Piece> {
        let left = usize::try_from(self.left.end - self.left.start).unwrap_or(usize::MAX);
        let mut bytes = vec![0; left.min(FRAME_BYTES_MAX)];
        // What cannot be read is left out: output is best effort to show.
        let got = self.file.read_at(&mut bytes, self.left.start).unwrap_or(0);
        bytes.truncate(got);
        self.left.start += got as u64;
        (got > 0).then(|| (self.piece)(bytes.into()))
    }
}

/// The files of one execution, open for writing, and who listens.
#[derive(Debug)]
pub(super) struct Journal {
    dir: PathBuf,
    pub(super) record: Record,
    stdout: Arc<File>,
    stderr: Arc<File>,
    events: File,
    sequence: u64,
    pub(super) taps: Vec<mpsc::Sender<Piece>>,
}

impl Journal {
    pub(super) fn create(dir: PathBuf, record: Record) -> std::io::Result<Self> {
        std::fs::create_dir_all(&dir)?;
        let open =
            |name| OpenOptions::new().create(true).append(true).read(true).open(dir.join(name));
        let (stdout, stderr, events) = (open("stdout")?, open("stderr")?, open("events.jsonl")?);
        let (stdout, stderr) = (Arc::new(stdout), Arc::new(stderr));
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

    /// What is kept so far of both streams.
    pub(super) fn kept(&self) -> [Kept; 2] {
        let kept = |file: &Arc<File>, piece| Kept {
            file: file.clone(),
            left: 0..file.metadata().map_or(0, |file| file.len()),
            piece,
        };
        [kept(&self.stdout, Piece::Stdout), kept(&self.stderr, Piece::Stderr)]
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
        upper::file::replace_soon(&self.dir.join("record.json"), &serde_json::to_vec(&self.record)?)
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

#[cfg(test)]
mod tests {
    use base::ExecutionId;

    use super::super::{NewExecution, Records};
    use super::*;
    use crate::layout::MachineDir;

    struct World {
        _folder: tempfile::TempDir,
        dir: MachineDir,
        id: ExecutionId,
        journal: Journal,
    }

    fn begin() -> World {
        let folder = tempfile::tempdir().unwrap();
        let dir = MachineDir::new(folder.path());
        let id = ExecutionId::generate();
        let what = NewExecution {
            command: vec!["env".to_owned()],
            env: [("TOKEN".to_owned(), "hunter2".to_owned())].into(),
            ..NewExecution::default()
        };
        let record = Record::new(id.clone(), &what, Timestamp::UNIX_EPOCH);
        let journal = Journal::create(dir.executions().join(id.as_str()), record).unwrap();
        World { _folder: folder, dir, id, journal }
    }

    impl World {
        fn say(&mut self, text: &'static [u8]) {
            let piece = Piece::Stdout(Bytes::from_static(text));
            self.journal.output(&piece, Timestamp::UNIX_EPOCH).unwrap();
        }

        fn state(&mut self, state: State) {
            self.journal.state(state, Timestamp::UNIX_EPOCH).unwrap();
        }

        fn records(&self) -> Records {
            Records::new(&self.dir, true)
        }
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        let mut world = begin();
        world.state(State::Running);
        world.say(b"one ");
        world.say(b"two");
        world.state(State::Succeeded);
        let records = world.records();
        assert_eq!(records.get(&world.id).unwrap(), world.journal.record);
        assert_eq!(records.output(&world.id).unwrap().stdout, b"one two");
        let events = records.events(&world.id, 1, 10).unwrap();
        let told: Vec<_> = events.iter().map(|one| (one.sequence, &one.chunk[..])).collect();
        assert_eq!(told, [(2, &b"one "[..]), (3, b"two"), (4, b"")]);
        assert_eq!(records.events(&world.id, 0, 2).unwrap().len(), 2);
    }

    #[test]
    fn values_of_variables_are_not_written_down() {
        let world = begin();
        let folder = world.dir.executions().join(world.id.as_str());
        let record = std::fs::read_to_string(folder.join("record.json")).unwrap();
        assert!(record.contains("TOKEN") && !record.contains("hunter2"), "{record}");
    }

    #[test]
    fn output_past_the_bound_is_counted_and_dropped() {
        let mut world = begin();
        let piece = Piece::Stderr(Bytes::from(vec![b'x'; 3 << 20]));
        for _ in 0..3 {
            world.journal.output(&piece, Timestamp::UNIX_EPOCH).unwrap();
        }
        world.state(State::Succeeded);
        let output = world.records().output(&world.id).unwrap();
        assert_eq!(output.stderr.len() as u64, OUTPUT_BYTES_MAX);
        assert_eq!(output.record.stderr_bytes, 9 << 20);
        assert!(output.record.stderr_truncated() && !output.record.stdout_truncated());
    }

    #[test]
    fn a_chatty_command_still_has_an_event_for_its_end() {
        let mut world = begin();
        for _ in 0..EVENTS_MAX + 5 {
            world.say(b".");
        }
        world.state(State::Failed);
        let max = usize::try_from(EVENTS_MAX).unwrap() + 1;
        let events = world.records().events(&world.id, 0, max).unwrap();
        assert_eq!(events.len() as u64, EVENTS_MAX);
        assert_eq!(events.last().unwrap().state, Some(State::Failed));
    }

    #[test]
    fn what_a_running_command_has_written_is_counted_before_it_ends() {
        let mut world = begin();
        world.state(State::Running);
        world.say(b"so far");
        assert_eq!(world.records().get(&world.id).unwrap().stdout_bytes, 6);
    }

    #[test]
    fn an_event_that_is_still_being_written_is_none_yet() {
        let mut world = begin();
        world.say(b"one");
        let path = world.dir.executions().join(world.id.as_str()).join("events.jsonl");
        let mut file = OpenOptions::new().append(true).open(path).unwrap();
        file.write_all(b"{\"sequence\":2,\"ki").unwrap();
        assert_eq!(world.records().events(&world.id, 0, 10).unwrap().len(), 1);
    }
}
