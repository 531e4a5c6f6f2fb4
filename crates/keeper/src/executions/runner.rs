//! Running commands in the guest and writing down what comes of it.
//!
//! One task an execution owns its end: it reads output, feeds those who are attached, and closes
//! the record. A client that is attached and does not read slows the command down, as a terminal
//! would; after [`TAP_PATIENCE`] it is let go instead.
//!
//! # Before a command starts
//! The guest's kernel has been told of every change that the API made to the home before ([`Guest::settle`]), so
//! a command sees the files that were put before it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use agent_proto::{Exec, Exited, Output};
use base::{Clock, ErrorKind, ExecutionId, Timestamp};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

use super::journal::{Journal, Kept, Piece};
use super::record::{NewExecution, Record, State};
use super::records::{Records, ids};
use super::{LIVE_MAX, RECORDS_MAX, STDIN_BYTES_MAX, TAPS_MAX};
use crate::guest::{Guest, said};
use crate::layout::MachineDir;
use crate::{Failure, Result};

/// Pieces that lie unread between a command and whoever is attached, each way: what so many may have attached is within a
/// keeper's memory.
const PIECES_AHEAD: usize = 2;
/// How long one attached client may hold up a command.
const TAP_PATIENCE: Duration = Duration::from_secs(60);
/// How long a cancelled command has between TERM and KILL.
const CANCEL_GRACE: Duration = Duration::from_secs(3);
/// What the record says of a command that ended with the awake machine.
const STOPPED: &str = "the machine stopped while the command was running";
/// Most bytes of arguments and environment together.
const COMMAND_BYTES_MAX: usize = 128 << 10;

/// From a client to a running command.
#[derive(Debug)]
pub(crate) enum Input {
    Stdin(Bytes),
    StdinEnd,
    Signal(i32),
}

/// A command that runs.
#[derive(Debug)]
struct Live {
    journal: Mutex<Journal>,
    input: mpsc::Sender<Input>,
    pid: watch::Sender<Option<u32>>,
    ended: watch::Sender<bool>,
    cancelled: AtomicBool,
    /// The machine goes to sleep: it is not the command's fault that it ends.
    stopped: AtomicBool,
}

impl Live {
    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::SeqCst)
    }
}

/// Both ends of an attachment.
#[derive(Debug)]
pub(crate) struct Attached {
    pub(crate) before: [Kept; 2],
    pub(crate) output: mpsc::Receiver<Piece>,
    pub(crate) input: mpsc::Sender<Input>,
    /// One of [`TAPS_MAX`], for as long as anything is held for the client.
    pub(crate) place: OwnedSemaphorePermit,
}

/// Runs the commands of one machine.
#[derive(Debug)]
pub(crate) struct Runner {
    dir: MachineDir,
    guest: Arc<Guest>,
    clock: Arc<dyn Clock>,
    live: Mutex<HashMap<ExecutionId, Arc<Live>>>,
    places: Arc<Semaphore>,
    last_ended: Mutex<Option<Timestamp>>,
}

impl Runner {
    pub(crate) fn new(dir: MachineDir, guest: Arc<Guest>, clock: Arc<dyn Clock>) -> Arc<Self> {
        let places = Arc::new(Semaphore::new(TAPS_MAX));
        let (live, last_ended) = (Mutex::default(), Mutex::default());
        Arc::new(Self { dir, guest, clock, live, places, last_ended })
    }

    pub(crate) fn live_count(&self) -> u64 {
        self.live.lock().len() as u64
    }

    /// When an execution last ended.
    pub(crate) fn last_ended(&self) -> Option<Timestamp> {
        *self.last_ended.lock()
    }

    fn records(&self) -> Records {
        Records::new(&self.dir, true)
    }

    /// Takes a command and answers at once. The same id twice is the same execution.
    pub(crate) fn start(self: Arc<Self>, id: ExecutionId, what: NewExecution) -> Result<Record> {
        check(&what)?;
        let (input, inputs) = mpsc::channel(PIECES_AHEAD);
        let mut live = self.live.lock();
        if let Ok(known) = self.records().get(&id) {
            return Ok(known);
        }
        if live.len() >= LIVE_MAX {
            return Err(Failure::new(
                ErrorKind::TooMany,
                format!(
                    "{LIVE_MAX} executions are running on this machine; wait for one or cancel one"
                ),
            ));
        }
        let record = Record::new(id.clone(), &what, self.clock.now());
        let journal = Journal::create(self.dir.executions().join(id.as_str()), record.clone())
            .map_err(|error| Failure::internal("keep the execution", error))?;
        let entry = Arc::new(Live {
            journal: Mutex::new(journal),
            input,
            pid: watch::Sender::new(None),
            ended: watch::Sender::new(false),
            cancelled: false.into(),
            stopped: false.into(),
        });
        live.insert(id.clone(), entry.clone());
        drop(live);
        let this = self.clone();
        tokio::spawn(async move {
            this.run(&entry, what, inputs).await;
            // In this order: whoever sees that nothing runs also sees since when.
            *this.last_ended.lock() = Some(this.clock.now());
            this.live.lock().remove(&id);
            entry.ended.send_replace(true);
            this.prune();
        });
        Ok(record)
    }

    async fn run(&self, live: &Live, what: NewExecution, inputs: mpsc::Receiver<Input>) {
        let outcome = self.run_command(live, what, inputs).await;
        let mut journal = live.journal.lock();
        let record = &mut journal.record;
        record.completed_at = Some(self.clock.now());
        let was_started = record.started_at.is_some();
        let mut fail = |code: &str, message: String| {
            record.error_code = Some(code.to_owned());
            record.error_message = Some(message);
            State::Failed
        };
        let state = match outcome {
            Err(error) if error.kind() == ErrorKind::Unreachable => {
                fail("MACHINE_STOPPED", STOPPED.to_owned())
            }
            Err(error) if was_started => fail("GUEST_ERROR", said(&error.to_string())),
            Err(error) => fail("START_FAILED", said(&error.to_string())),
            Ok(None) if live.is_stopped() => fail("MACHINE_STOPPED", STOPPED.to_owned()),
            Ok(None) => State::Cancelled,
            Ok(Some(exited)) if !can_be(exited) => {
                fail("GUEST_ERROR", "the guest told of an end that cannot be".to_owned())
            }
            Ok(Some(exited)) => {
                let state = if exited.timed_out {
                    fail(
                        "TIMEOUT",
                        "the command ran longer than its timeout_ms and was killed".to_owned(),
                    )
                } else if live.is_cancelled() {
                    State::Cancelled
                } else if live.is_stopped() {
                    // Whatever it says: it was told to end.
                    fail("MACHINE_STOPPED", STOPPED.to_owned())
                } else if exited.code == Some(0) {
                    State::Succeeded
                } else {
                    State::Failed
                };
                record.exit_code = exited.code;
                record.signal = exited.signal;
                state
            }
        };
        journal.taps.clear();
        if let Err(error) = journal.state(state, self.clock.now()) {
            tracing::error!(%error, "an execution's end could not be written");
        }
    }

    /// `None` where it was cancelled before it was started.
    async fn run_command(
        &self,
        live: &Live,
        what: NewExecution,
        inputs: mpsc::Receiver<Input>,
    ) -> Result<Option<Exited>, agent_proto::Error> {
        self.guest.settle().await?;
        if live.is_cancelled() || live.is_stopped() {
            return Ok(None);
        }
        let exec = Exec {
            command: what.command,
            cwd: what.cwd,
            env: what.env,
            stdin: what.stdin.is_some() || what.stdin_open,
            timeout_ms: what.timeout_ms.unwrap_or(0),
        };
        let agent_proto::Execution { pid, mut output, input } =
            self.guest.agent().exec(&exec).await?;
        {
            let mut journal = live.journal.lock();
            journal.record.started_at = Some(self.clock.now());
            if let Err(error) = journal.state(State::Running, self.clock.now()) {
                tracing::error!(%error, "an execution's start could not be written");
            }
        }
        live.pid.send_replace(Some(pid));
        if live.is_cancelled() || live.is_stopped() {
            // Whoever cancelled it may have stopped waiting for its number.
            self.guest.agent().kill(pid, libc::SIGKILL).await.ok();
        }
        let feeder = tokio::spawn(feed(input, what.stdin, what.stdin_open, inputs));
        let exited = loop {
            let piece = match output.next().await {
                Ok(Output::Stdout(bytes)) => Piece::Stdout(bytes),
                Ok(Output::Stderr(bytes)) => Piece::Stderr(bytes),
                Ok(Output::Exited(exited)) => break Ok(exited),
                Err(error) => break Err(error),
            };
            let taps = {
                let mut journal = live.journal.lock();
                if let Err(error) = journal.output(&piece, self.clock.now()) {
                    tracing::warn!(%error, "output of an execution could not be kept");
                }
                journal.taps.clone()
            };
            for tap in taps {
                if tokio::time::timeout(TAP_PATIENCE, tap.send(piece.clone())).await.is_err() {
                    live.journal.lock().taps.retain(|other| !other.same_channel(&tap));
                }
            }
        };
        feeder.abort();
        exited.map(Some)
    }

    /// Joins a running execution. `None` where it has ended: its record and output are all there is. `TooMany` where too
    /// many have joined.
    pub(crate) fn attach(&self, id: &ExecutionId) -> Result<Option<Attached>> {
        let Some(live) = self.live.lock().get(id).cloned() else {
            return self.records().get(id).map(|_| None);
        };
        let place = self.places.clone().try_acquire_owned().map_err(|_| {
            let why = format!(
                "{TAPS_MAX} clients are attached to executions of this machine; close one of them, or read the output that is kept"
            );
            Failure::new(ErrorKind::TooMany, why)
        })?;
        let (tap, output) = mpsc::channel(PIECES_AHEAD);
        // What was written before the tap was set is read from the files, what comes after goes
        // through it; the lock makes that one moment.
        let mut journal = live.journal.lock();
        if journal.record.state.is_final() {
            return Ok(None);
        }
        let before = journal.kept();
        // Those of clients that have left are found at the next output only, which may never come.
        journal.taps.retain(|tap| !tap.is_closed());
        journal.taps.push(tap);
        Ok(Some(Attached { before, output, input: live.input.clone(), place }))
    }

    /// Kills an execution and waits for its end.
    pub(crate) async fn cancel(&self, id: &ExecutionId) -> Result<Record> {
        let Some(live) = self.live.lock().get(id).cloned() else { return self.records().get(id) };
        live.cancelled.store(true, Ordering::SeqCst);
        let mut pid = live.pid.subscribe();
        let started = tokio::time::timeout(CANCEL_GRACE, pid.wait_for(Option::is_some)).await;
        let pid = started.ok().and_then(Result::ok).and_then(|pid| *pid);
        for signal in [libc::SIGTERM, libc::SIGKILL] {
            // One that has no number yet is not started any more, or killed at its start.
            if let Some(pid) = pid {
                // Gone already: the wait below finds its end.
                self.guest.agent().kill(pid, signal).await.ok();
            }
            let mut ended = live.ended.subscribe();
            if tokio::time::timeout(CANCEL_GRACE, ended.wait_for(|ended| *ended)).await.is_ok() {
                return self.records().get(id);
            }
        }
        Err(Failure::new(
            ErrorKind::Timeout,
            format!("execution {id} does not end; put the machine to sleep"),
        ))
    }

    /// Ends all that runs, with TERM and, after `grace`, KILL: nobody would hear of its end later. What
    /// a command has left behind in the machine is not touched. True where all have ended.
    pub(crate) async fn end_all(&self, grace: Duration) -> bool {
        let all: Vec<Arc<Live>> = self.live.lock().values().cloned().collect();
        for live in &all {
            live.stopped.store(true, Ordering::SeqCst);
            // A client that does not read would hold up the end of its command.
            live.journal.lock().taps.clear();
        }
        for signal in [libc::SIGTERM, libc::SIGKILL] {
            let ending = futures::future::join_all(all.iter().map(|live| async move {
                let (pid, ended) = (*live.pid.borrow(), *live.ended.borrow());
                if let (Some(pid), false) = (pid, ended) {
                    // Gone already: the wait finds its end.
                    self.guest.agent().kill(pid, signal).await.ok();
                }
                live.ended.subscribe().wait_for(|ended| *ended).await.ok();
            }));
            if tokio::time::timeout(grace, ending).await.is_ok() {
                return true;
            }
        }
        tracing::warn!("a command does not end");
        false
    }

    /// Waits for an execution's end, but no longer than `wait`.
    pub(crate) async fn wait(&self, id: &ExecutionId, wait: Duration) -> Result<Record> {
        let live = self.live.lock().get(id).cloned();
        if let Some(live) = live {
            let mut ended = live.ended.subscribe();
            // Late is not wrong: the record says how it stands.
            tokio::time::timeout(wait, ended.wait_for(|ended| *ended)).await.ok();
        }
        self.records().get(id)
    }

    /// Waits until nothing runs any more, so that every record says how it ended.
    pub(crate) async fn drain(&self, patience: Duration) {
        let all: Vec<Arc<Live>> = self.live.lock().values().cloned().collect();
        let ends = async {
            for live in all {
                live.ended.subscribe().wait_for(|ended| *ended).await.ok();
            }
        };
        if tokio::time::timeout(patience, ends).await.is_err() {
            tracing::warn!("executions were still open when the keeper ended");
        }
    }

    /// Forgets the oldest records beyond the bound.
    fn prune(&self) {
        let mut ids = ids(&self.dir.executions());
        if ids.len() <= RECORDS_MAX {
            return;
        }
        ids.sort_unstable();
        let surplus = ids.len() - RECORDS_MAX;
        for id in ids.iter().take(surplus) {
            if let Err(error) = self.records().remove(id) {
                tracing::debug!(%error, execution = %id, "an old execution stays");
            }
        }
    }
}

/// Whether a process of Linux can end so: by a code or by a signal, or in a way that nobody saw.
fn can_be(end: Exited) -> bool {
    match (end.code, end.signal) {
        (Some(code), None) => (0..=255).contains(&code),
        (None, Some(signal)) => (1..=64).contains(&signal),
        (None, None) => true,
        (Some(_), Some(_)) => false,
    }
}

/// Hands input on until there is no more of it.
async fn feed(
    mut to: agent_proto::ExecInput,
    first: Option<String>,
    stays_open: bool,
    mut inputs: mpsc::Receiver<Input>,
) -> Result<(), agent_proto::Error> {
    if let Some(text) = &first {
        to.stdin(text.as_bytes()).await?;
    }
    if !stays_open && first.is_some() {
        to.close_stdin().await?;
    }
    while let Some(input) = inputs.recv().await {
        match input {
            Input::Stdin(bytes) if stays_open => to.stdin(&bytes).await?,
            Input::StdinEnd if stays_open => to.close_stdin().await?,
            Input::Stdin(_) | Input::StdinEnd => {}
            Input::Signal(signal) => to.signal(signal).await?,
        }
    }
    Ok(())
}

fn check(what: &NewExecution) -> Result<()> {
    let bad = |why: String| Err(Failure::new(ErrorKind::InvalidArgument, why));
    let strings =
        what.command.iter().chain(what.env.keys()).chain(what.env.values()).chain(&what.cwd);
    let mut bytes = 0;
    for text in strings {
        if text.contains('\0') {
            return bad("command, cwd and env cannot contain NUL".to_owned());
        }
        bytes += text.len() + 1;
    }
    if what.command.first().is_none_or(String::is_empty) {
        return bad("command is empty; give the program and its arguments as a list".to_owned());
    }
    if what.env.keys().any(|key| key.is_empty() || key.contains('=')) {
        return bad("names in env cannot be empty or contain =".to_owned());
    }
    if bytes > COMMAND_BYTES_MAX {
        return bad(format!(
            "command and env have {bytes} bytes, at most {COMMAND_BYTES_MAX}; put long input into a file or stdin"
        ));
    }
    if what.stdin.as_ref().is_some_and(|stdin| stdin.len() > STDIN_BYTES_MAX) {
        return bad(format!(
            "stdin has more than {STDIN_BYTES_MAX} bytes; put it into a file first"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl FnOnce(&mut NewExecution)) -> Option<String> {
        let mut what = NewExecution { command: vec!["true".to_owned()], ..Default::default() };
        change(&mut what);
        check(&what).err().map(|failure| {
            assert_eq!(failure.kind, ErrorKind::InvalidArgument);
            failure.message
        })
    }

    #[test]
    fn an_end_is_a_code_or_a_signal() {
        let end = |code, signal| can_be(Exited { code, signal, timed_out: false });
        assert!(end(Some(0), None) && end(Some(255), None) && end(None, Some(64)));
        assert!(end(None, None));
        for (code, signal) in [(Some(256), None), (Some(-1), None), (None, Some(0))] {
            assert!(!end(code, signal), "{code:?} {signal:?}");
        }
        assert!(!end(Some(0), Some(9)) && !end(None, Some(i32::MAX)));
    }

    #[test]
    fn what_no_kernel_would_run_is_refused_before_it_is_kept() {
        assert_eq!(refused(|_| {}), None);
        assert!(refused(|what| what.command.clear()).is_some());
        assert!(refused(|what| what.command[0].clear()).is_some());
        assert!(refused(|what| what.command.push("a\0b".to_owned())).is_some());
        assert!(refused(|what| what.cwd = Some("/\0".to_owned())).is_some());
        assert!(refused(|what| drop(what.env.insert("A=B".to_owned(), String::new()))).is_some());
        let long = "x".repeat(COMMAND_BYTES_MAX);
        assert!(refused(|what| what.command.push(long)).is_some());
        let stdin = |len| refused(|what| what.stdin = Some("x".repeat(len)));
        assert_eq!(stdin(STDIN_BYTES_MAX), None);
        assert!(stdin(STDIN_BYTES_MAX + 1).is_some());
    }
}
