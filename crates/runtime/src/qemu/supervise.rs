//! One thread per instance: spawns QEMU, keeps its logs, waits for its end, takes down its network.
//!
//! The thread lives as long as QEMU does, since QEMU is killed when the thread that spawned it ends.
//! It enters the instance's network namespace, so QEMU is born in it. It is told to kill by closing
//! one end of a socket pair: that works from any thread, at most once, and also when the owner
//! just drops the instance. Only this thread kills and reaps, so it never signals a stranger.

use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::sync::{oneshot, watch};

use super::log::{RingLog, Tail};
use super::place::Place;
use super::spawn::{Confinement, end_of, spawn};
use crate::{Error, Exit};

/// What to run, and what goes when it ends.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<String>,
    pub(crate) confinement: Confinement,
    pub(crate) place: Arc<Place>,
}

/// Where output goes.
#[derive(Debug)]
pub(crate) struct Logs {
    console: RingLog,
    tail: Arc<Mutex<Tail>>,
    hypervisor: RingLog,
    said: Tail,
}

/// Starts QEMU, and returns when nothing of it is left.
pub(crate) fn supervise(
    process: Process,
    console: UnixStream,
    killed: UnixStream,
    mut logs: Logs,
    started: oneshot::Sender<Result<(u32, OwnedFd), Error>>,
    ended: &watch::Sender<Option<Exit>>,
    suspended: &AtomicBool,
) {
    let Process { program, arguments, confinement, place } = process;
    let mut command = Command::new(&program);
    command
        .args(&arguments)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let born = place
        .link
        .as_ref()
        .map_or(Ok(()), |link| link.enter(confinement.jail.is_some()))
        .and_then(|()| spawn(&mut command, &confinement))
        .and_then(|mut child| match end_of(&child).and_then(|end| Ok((end.try_clone()?, end))) {
            Ok((process, end)) => Ok((child, process, end)),
            Err(error) => child.kill().and_then(|()| child.wait()).and(Err(error)),
        });
    let (mut child, process, end) = match born {
        Ok(born) => born,
        Err(error) => {
            drop(place);
            // Nobody waits where the start was given up.
            drop(started.send(Err(Error::Start(format!("{}: {error}", program.display())))));
            return;
        }
    };
    if started.send(Ok((child.id(), process))).is_err() {
        // The start was given up. `killed` is closed then, and the loop below sees it.
        tracing::debug!("nobody wants this instance any more");
    }
    let was_killed = watch_until_end(&mut child, &end, console, killed, &mut logs);
    let exit = match child.wait() {
        Ok(_) if suspended.load(Ordering::SeqCst) => Exit::Suspended,
        Ok(status) => exit_of(status, was_killed, &logs),
        Err(error) => Exit::Crashed(format!("wait for qemu: {error}")),
    };
    // Before anybody hears of the end, who may start it again. A start that still connects the network
    // has a handle to it too, and has not returned then.
    drop(place);
    // An instance that was dropped has no receiver.
    drop(ended.send(Some(exit)));
}

/// Copies output to the logs until the child has ended. True where it was killed on request.
fn watch_until_end(
    child: &mut Child,
    end: &OwnedFd,
    console: UnixStream,
    killed: UnixStream,
    logs: &mut Logs,
) -> bool {
    let mut console = Some(console);
    let mut stderr = child.stderr.take();
    let mut killed = Some(killed);
    let mut was_killed = false;
    loop {
        let mut watched = vec![PollFd::new(end.as_fd(), PollFlags::POLLIN)];
        watched.extend(killed.iter().map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN)));
        watched.extend(console.iter().map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN)));
        watched.extend(stderr.iter().map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN)));
        match poll(&mut watched, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => {
                tracing::error!(%error, "poll qemu");
                break;
            }
        }
        // In the order in which they were added; absent ones were not.
        let mut ready = watched.iter().map(|fd| fd.any().unwrap_or(false));
        let has_ended = ready.next().unwrap_or(true);
        let kill_ready = killed.is_some() && ready.next().unwrap_or(false);
        let console_ready = console.is_some() && ready.next().unwrap_or(false);
        let stderr_ready = stderr.is_some() && ready.next().unwrap_or(false);
        drop(ready);
        drop(watched);
        if kill_ready {
            killed = None;
            was_killed = true;
            if let Err(error) = child.kill() {
                tracing::error!(%error, "kill qemu");
            }
        }
        if console_ready && !copy(console.as_mut(), |bytes| logs.console(bytes)) {
            console = None;
        }
        if stderr_ready && !copy(stderr.as_mut(), |bytes| logs.hypervisor(bytes)) {
            stderr = None;
        }
        // What it said last may still be in the pipes.
        if has_ended && !console_ready && !stderr_ready {
            break;
        }
        if has_ended {
            drain(&mut console, &mut stderr, logs);
            break;
        }
    }
    was_killed
}

/// Reads what is left after the end. The writer is gone, so this comes to an end of input.
fn drain(console: &mut Option<UnixStream>, stderr: &mut Option<ChildStderr>, logs: &mut Logs) {
    while copy(console.as_mut(), |bytes| logs.console(bytes)) {}
    while copy(stderr.as_mut(), |bytes| logs.hypervisor(bytes)) {}
}

/// Reads once; false at the end of input.
fn copy(from: Option<&mut impl Read>, mut to: impl FnMut(&[u8])) -> bool {
    let mut buffer = [0; 16 * 1024];
    match from.map(|from| from.read(&mut buffer)) {
        Some(Ok(n)) if n > 0 => {
            to(&buffer[..n]);
            true
        }
        Some(Err(error)) if error.kind() == std::io::ErrorKind::Interrupted => true,
        _ => false,
    }
}

impl Logs {
    /// In `dir`; the console's last lines also in `tail`.
    pub(crate) fn open(dir: &Path, tail: Arc<Mutex<Tail>>) -> io::Result<Self> {
        let console = RingLog::open(&dir.join("console.log"))?;
        let hypervisor = RingLog::open(&dir.join("qemu.log"))?;
        Ok(Self { console, tail, hypervisor, said: Tail::default() })
    }

    fn console(&mut self, bytes: &[u8]) {
        self.console.write(bytes);
        self.tail.lock().unwrap_or_else(PoisonError::into_inner).push(bytes);
    }

    fn hypervisor(&mut self, bytes: &[u8]) {
        self.hypervisor.write(bytes);
        self.said.push(bytes);
    }
}

/// How it ended. A guest that panics reboots, which ends QEMU like a power-off: the console tells.
fn exit_of(status: ExitStatus, was_killed: bool, logs: &Logs) -> Exit {
    let tail = logs.tail.lock().unwrap_or_else(PoisonError::into_inner);
    let panic = tail.find("Kernel panic - not syncing");
    match (status.success(), panic) {
        _ if was_killed => Exit::Crashed("killed, as it did not power off in time".to_owned()),
        (true, None) => Exit::PoweredOff,
        (true, Some(line)) => Exit::Crashed(format!("the guest's kernel gave up: {line}")),
        (false, _) => Exit::Crashed(format!("qemu: {status}: {}", logs.said.text())),
    }
}
