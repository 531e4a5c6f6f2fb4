//! Runs a command for the host: one stream, one process group.
//!
//! # Order
//! A process that waits ([`ready`]) becomes the command, `Started`; then output as it comes, input and signals as they come; after the exit what
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
mod order;
mod output;
mod plan;
mod ready;
mod starter;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use agent_proto::mux::MuxStream;
use agent_proto::{Exec, Exited, FrameKind, FrameReader, FrameWriter, Reply};
use nix::unistd::Pid;
use tokio::io::{ReadHalf, WriteHalf};
use tokio::sync::oneshot;

use crate::console::say;
use crate::limits::{READY_AFTER, READY_BESIDE_AFTER};
use crate::reaper::Reaper;
use crate::sys::Ended;
pub(crate) use starter::Starter;

pub(crate) type Reader = FrameReader<ReadHalf<MuxStream>>;
pub(crate) type Writer = FrameWriter<WriteHalf<MuxStream>>;

/// Serves one execution from its request to its exit.
pub(crate) async fn serve(exec: Exec, reader: Reader, mut writer: Writer, starter: Arc<Starter>) {
    let child = match starter.start(&exec).await {
        Ok(child) => child,
        // Where the host is gone already, there is nobody to tell.
        Err(error) => {
            drop(writer.message(&error.reply()).await);
            return starter.make_ready_after(READY_AFTER);
        }
    };
    let (pid, reaper) = (child.pid, starter.reaper());
    drop(writer.message(&Reply::Started { pid: pid.as_raw().cast_unsigned() }).await);

    starter.make_ready_after(READY_BESIDE_AFTER);
    let input = tokio::spawn(input::feed(reader, child.stdin, pid, Arc::clone(reaper)));
    let timed_out = Arc::new(AtomicBool::new(false));
    let timer =
        tokio::spawn(kill_after(exec.timeout_ms, pid, Arc::clone(reaper), Arc::clone(&timed_out)));
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
    starter.make_ready_after(READY_AFTER);
}

/// A command that is for nobody but us.
#[derive(Debug)]
pub(crate) struct Own {
    pub(crate) pid: Pid,
    pub(crate) ended: oneshot::Receiver<Ended>,
}

/// Starts `command` in the machine, and drops what it says. One that cannot be started is said.
pub(crate) async fn start_own(command: &[&str], starter: &Starter) -> Option<Own> {
    let exec = Exec {
        command: command.iter().map(|&word| word.to_owned()).collect(),
        cwd: Some("/".to_owned()),
        ..Exec::default()
    };
    match starter.start(&exec).await {
        Ok(child) => {
            output::ignore([child.stdout, child.stderr]);
            Some(Own { pid: child.pid, ended: child.ended })
        }
        Err(error) => {
            say(&error.to_string());
            None
        }
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
