//! Runs a command for the host: one stream, one process group.
//!
//! # Order
//! Start, `Started`; then output as it comes, input and signals as they come; after the exit what
//! is left in the pipes, `Exit`, reset of the stream.
//!
//! # Invariants
//! - Bounded memory: a pipe is read only when the host has taken what was read before.
//! - A process that the command left behind with its pipes cannot hold up the exit: [`LINGER`].
//!   It may go on; what it writes is dropped.
//! - A host that goes away stops nothing: the command runs on, its output is dropped.
//! - In a guest every command runs in the cgroup of [`crate::freezer`]. One that is started while
//!   that is frozen begins with the thaw.
//!
//! # Not here
//! Waiting for processes ([`crate::reaper`]).

mod fork;
mod input;
mod output;
mod plan;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use agent_proto::mux::MuxStream;
use agent_proto::{Exec, Exited, FrameKind, FrameReader, FrameWriter, Reply};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, pipe2};
use tokio::io::{AsyncReadExt, ReadHalf, WriteHalf};
use tokio::net::unix::pipe;
use tokio::sync::oneshot;

use crate::Error;
use crate::console::say;
use crate::freezer::Freezer;
use crate::reaper::Reaper;
use crate::sys::Ended;
use fork::{ChildEnds, REPORT_BYTES, Step, decode_report, fork_exec};

pub(crate) type Reader = FrameReader<ReadHalf<MuxStream>>;
pub(crate) type Writer = FrameWriter<WriteHalf<MuxStream>>;

/// A process that has been started.
#[derive(Debug)]
struct Child {
    pid: Pid,
    ended: oneshot::Receiver<Ended>,
    stdin: Option<pipe::Sender>,
    stdout: pipe::Receiver,
    stderr: pipe::Receiver,
}

/// Serves one execution from its request to its exit.
pub(crate) async fn serve(
    exec: Exec,
    reader: Reader,
    mut writer: Writer,
    reaper: Arc<Reaper>,
    freezer: Option<Arc<Freezer>>,
) {
    let child = match start(&exec, &reaper, freezer.as_deref()).await {
        Ok(child) => child,
        // Where the host is gone already, there is nobody to tell.
        Err(error) => return drop(writer.message(&error.reply()).await),
    };
    let pid = child.pid;
    drop(writer.message(&Reply::Started { pid: pid.as_raw().cast_unsigned() }).await);

    let input = tokio::spawn(input::feed(reader, child.stdin, pid, Arc::clone(&reaper)));
    let timed_out = Arc::new(AtomicBool::new(false));
    let timer = tokio::spawn(kill_after(exec.timeout_ms, pid, reaper, Arc::clone(&timed_out)));
    let pipes = [(FrameKind::Stdout, child.stdout), (FrameKind::Stderr, child.stderr)];
    let (ended, writer) = output::pump(pipes, child.ended, writer).await;
    timer.abort();
    input.abort();

    let (code, signal) = match ended {
        Some(Ended::Code(code)) => (Some(code), None),
        Some(Ended::Signal(signal)) => (None, Some(signal)),
        None => (None, None),
    };
    let exited = Exited { code, signal, timed_out: timed_out.load(Ordering::Acquire) };
    if let Some(mut writer) = writer {
        // Then the stream is dropped, which resets it once all is sent: a host that still writes
        // input would wait for ever on one that is only closed.
        drop(writer.json(FrameKind::Exit, &exited).await);
    }
}

/// Starts `command` in the machine and leaves it to itself. One that cannot be started is said.
pub(crate) async fn leave(command: &[&str], reaper: &Reaper, freezer: Option<&Freezer>) {
    let exec = Exec {
        command: command.iter().map(|&word| word.to_owned()).collect(),
        cwd: Some("/".to_owned()),
        ..Exec::default()
    };
    match start(&exec, reaper, freezer).await {
        Ok(child) => output::ignore([child.stdout, child.stderr]),
        Err(error) => say(&error.to_string()),
    }
}

/// A task of its own, because the output may be waiting for the host just then.
async fn kill_after(timeout_ms: u64, pid: Pid, reaper: Arc<Reaper>, timed_out: Arc<AtomicBool>) {
    if timeout_ms == 0 {
        return;
    }
    tokio::time::sleep(Duration::from_millis(timeout_ms)).await;
    // Before the kill, so that whoever sees the exit sees why.
    timed_out.store(true, Ordering::Release);
    if reaper.signal_group(pid, libc::SIGKILL).is_err() {
        timed_out.store(false, Ordering::Release);
    }
}

async fn start(exec: &Exec, reaper: &Reaper, freezer: Option<&Freezer>) -> Result<Child, Error> {
    let plan = plan::plan(exec)?;
    let pipe = || pipe2(OFlag::O_CLOEXEC).map_err(Error::sys("make a pipe"));
    let (stdout, child_stdout) = pipe()?;
    let (stderr, child_stderr) = pipe()?;
    let (failure, child_failure) = pipe()?;
    let (child_stdin, stdin) = if exec.stdin {
        let (read, write) = pipe()?;
        (read, Some(write))
    } else {
        let null = open("/dev/null", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty());
        (null.map_err(Error::sys("open /dev/null"))?, None)
    };
    let ends = ChildEnds {
        stdin: child_stdin,
        stdout: child_stdout,
        stderr: child_stderr,
        failure: child_failure,
    };
    let forked = reaper.adopt(|| fork_exec(&plan, &ends, freezer.map(Freezer::cgroup)));
    // Else we would wait for the end of our own ends.
    drop(ends);
    let (pid, ended) = forked.map_err(Error::sys("start a process"))?;

    let adopt_pipe = |fd| pipe::Receiver::from_owned_fd(fd).map_err(Error::io("watch a pipe"));
    let mut report = Vec::with_capacity(REPORT_BYTES);
    let mut failure = adopt_pipe(failure)?.take(REPORT_BYTES as u64);
    failure.read_to_end(&mut report).await.map_err(Error::io("start a process"))?;
    match <[u8; REPORT_BYTES]>::try_from(&report[..]) {
        Ok(report) => Err(explain(exec, decode_report(report))),
        Err(_) => Ok(Child {
            pid,
            ended,
            stdin: stdin
                .map(pipe::Sender::from_owned_fd)
                .transpose()
                .map_err(Error::io("watch a pipe"))?,
            stdout: adopt_pipe(stdout)?,
            stderr: adopt_pipe(stderr)?,
        }),
    }
}

fn explain(exec: &Exec, (step, errno): (Step, Errno)) -> Error {
    let program = exec.command.first().map_or("", String::as_str);
    let doing = match step {
        Step::Setup => format!("prepare to run {program}"),
        Step::Cwd => {
            format!("change to the working directory {}", exec.cwd.as_deref().unwrap_or("/root"))
        }
        Step::Exec if errno == Errno::ENOEXEC => {
            format!("run {program} (a script needs a first line like #!/bin/sh)")
        }
        Step::Exec => format!("run {program}"),
    };
    Error::Sys { doing, errno }
}
