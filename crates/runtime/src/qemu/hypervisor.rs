//! The process of an instance, and what goes with it. It may outlive the instance: one that stays
//! [warm](super::warm) is handed on to the next.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use tokio::sync::{oneshot, watch};

use super::log::Tail;
use super::place::Place;
use super::spawn::signal;
use super::supervise::{Logs, Process, supervise};
use super::{SUPERVISOR, start_error};
use crate::{Error, Exit};

/// How long a hypervisor may take to stand still, and how often it is looked at meanwhile.
const HOLD_PATIENCE: Duration = Duration::from_secs(2);
const HOLD_LOOK: Duration = Duration::from_millis(1);

/// See the module. Killed when it is dropped.
#[derive(Debug)]
pub(crate) struct Hypervisor {
    pid: u32,
    /// The same, but nobody else's once it is gone.
    process: Arc<OwnedFd>,
    ended: watch::Receiver<Option<Exit>>,
    console: Arc<Mutex<Tail>>,
    hold: Mutex<Hold>,
    suspended: Arc<AtomicBool>,
    /// Held by the thread, until the end.
    place: Weak<Place>,
}

/// Who can kill it; nobody once it is handed on.
#[derive(Debug, Default)]
struct Hold {
    /// Closed to kill.
    kill: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl Hypervisor {
    /// Starts `process`; `console` is our end of its serial console. Its logs go to `log_dir`.
    pub(crate) fn spawn(
        process: Process,
        console: UnixStream,
        log_dir: &Path,
    ) -> Result<Self, Error> {
        let (kill, killed) = UnixStream::pair().map_err(start_error("create a channel"))?;
        let (ended_in, ended) = watch::channel(None);
        let (started_in, started) = oneshot::channel();
        let tail = Arc::new(Mutex::new(Tail::default()));
        let logs = Logs::open(log_dir, tail.clone()).map_err(start_error("open a log"))?;
        let suspended = Arc::new(AtomicBool::new(false));
        let (is_suspended, place) = (suspended.clone(), Arc::downgrade(&process.place));
        let thread = thread::Builder::new()
            .name(SUPERVISOR.to_owned())
            .spawn(move || {
                supervise(process, console, killed, logs, started_in, &ended_in, &is_suspended);
            })
            .map_err(start_error("start a thread"))?;
        let (pid, process) = started
            .blocking_recv()
            .map_err(|_| Error::Start("its thread ended early".to_owned()))??;
        let hold = Mutex::new(Hold { kill: Some(kill), thread: Some(thread) });
        let process = Arc::new(process);
        Ok(Self { pid, process, ended, console: tail, hold, suspended, place })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Returns once it has, and nothing of it is left.
    pub(crate) async fn ended(&self) -> Exit {
        let mut ended = self.ended.clone();
        match ended.wait_for(Option::is_some).await.map(|exit| exit.clone()) {
            Ok(Some(exit)) => exit,
            _ => Exit::Crashed("the thread that watched it ended".to_owned()),
        }
    }

    pub(crate) fn console_tail(&self) -> String {
        self.console.lock().unwrap_or_else(PoisonError::into_inner).text()
    }

    /// Whether the process has ended; what it leaves may still be taken down.
    pub(crate) fn has_ended(&self) -> bool {
        let mut process = [PollFd::new(self.process.as_fd(), PollFlags::POLLIN)];
        self.ended.borrow().is_some() || poll(&mut process, PollTimeout::ZERO) != Ok(0)
    }

    /// Whether its end is that of a suspend, or its guest runs again.
    pub(crate) fn is_suspended(&self, is: bool) {
        self.suspended.store(is, Ordering::SeqCst);
    }

    /// Has the hypervisor stand still, whatever it would like to do; it does when this returns.
    pub(crate) fn hold(&self) -> io::Result<()> {
        signal(self.process.as_fd(), Signal::SIGSTOP)?;
        let deadline = Instant::now() + HOLD_PATIENCE;
        while !stands_still(self.pid)? {
            if self.has_ended() || Instant::now() > deadline {
                return Err(io::Error::other("it does not stand still"));
            }
            thread::sleep(HOLD_LOOK);
        }
        Ok(())
    }

    /// Has it go on.
    pub(crate) fn release(&self) -> io::Result<()> {
        signal(self.process.as_fd(), Signal::SIGCONT)
    }

    /// What it has of this host, until it ends.
    pub(crate) fn place(&self) -> Option<Arc<Place>> {
        self.place.upgrade()
    }

    /// Hands it on: this one is nothing any more.
    pub(crate) fn hand_on(&self) -> Self {
        let hold = std::mem::take(&mut *self.hold.lock().unwrap_or_else(PoisonError::into_inner));
        Self {
            pid: self.pid,
            process: self.process.clone(),
            ended: self.ended.clone(),
            console: self.console.clone(),
            hold: Mutex::new(hold),
            suspended: self.suspended.clone(),
            place: self.place.clone(),
        }
    }

    pub(crate) fn kill(&self) {
        drop(self.hold.lock().unwrap_or_else(PoisonError::into_inner).kill.take());
    }
}

/// Whether all threads of a process stand still.
fn stands_still(pid: u32) -> io::Result<bool> {
    for thread in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let told = std::fs::read_to_string(thread?.path().join("stat"));
        let state =
            told.as_deref().map(|told| told.rsplit(')').next().unwrap_or_default().trim_start());
        // One that is gone does nothing.
        if state.is_ok_and(|state| !state.starts_with('T')) {
            return Ok(false);
        }
    }
    Ok(true)
}

impl Drop for Hypervisor {
    /// Kills the guest and waits until nothing of it is left: some 50 ms.
    fn drop(&mut self) {
        self.kill();
        let thread = self.hold.lock().unwrap_or_else(PoisonError::into_inner).thread.take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!(pid = self.pid, "the thread that watched qemu panicked");
        }
    }
}
