//! The one place that waits for processes. PID 1 gets every orphan, so nobody else may wait.
//!
//! # Invariants
//! - A child is in the table before it can be reaped: [`Reaper::adopt`] forks under the lock that
//!   reaping takes. So no exit is lost, whoever is faster.
//! - A signal goes only to a process that is not reaped yet, so its number cannot be another's.
//!
//! # Order
//! SIGCHLD wakes one task, which reaps all there is; statuses of children in the table go to
//! whoever adopted them, the others are dropped. The signal is read from a descriptor: a handler, and what it
//! tells the task through, would be some 2,000 instructions more that an emulated guest translates.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd, siginfo};
use nix::unistd::{Pid, read};
use tokio::io::unix::AsyncFd;
use tokio::sync::{oneshot, watch};
use tokio::time::sleep;

use crate::Error;
use crate::console::say;
use crate::limits::POLL_INTERVAL;
use crate::sys::{self, Ended, Reaped};

type Children = HashMap<Pid, oneshot::Sender<Ended>>;

/// Knows every child that someone waits for.
#[derive(Debug)]
pub(crate) struct Reaper {
    children: Mutex<Children>,
    /// True while there is no child at all, adopted or orphaned; and as we get every orphan, no
    /// process besides us.
    childless: watch::Sender<bool>,
}

impl Reaper {
    /// Starts reaping, on the tokio runtime that this is called on. Before there is another thread: one that
    /// does not block the signal would take it away.
    pub(crate) fn start() -> Result<Arc<Self>, Error> {
        let signals = Signals::of_children()?;
        let reaper =
            Arc::new(Self { children: Mutex::default(), childless: watch::Sender::new(true) });
        let reaping = Arc::clone(&reaper);
        drop(tokio::spawn(async move {
            while let Ok(()) = signals.next().await.inspect_err(|error| say(&error.to_string())) {
                reaping.reap();
            }
            // Somebody has to.
            loop {
                sleep(POLL_INTERVAL).await;
                reaping.reap();
            }
        }));
        Ok(reaper)
    }

    /// Runs `fork` and watches the child that it makes.
    pub(crate) fn adopt(
        &self,
        fork: impl FnOnce() -> Result<Pid, Errno>,
    ) -> Result<(Pid, oneshot::Receiver<Ended>), Errno> {
        let (sender, ended) = oneshot::channel();
        let mut children = self.lock();
        let pid = fork()?;
        children.insert(pid, sender);
        self.childless.send_replace(false);
        Ok((pid, ended))
    }

    /// Signals the process group of a child that is still there.
    ///
    /// # Errors
    /// `ESRCH` where it has ended or never was one of ours, `EINVAL` for a signal that is none.
    pub(crate) fn signal_group(&self, pid: Pid, signal: i32) -> Result<(), Errno> {
        let children = self.lock();
        if !children.contains_key(&pid) {
            return Err(Errno::ESRCH);
        }
        sys::kill_group(pid, signal)
    }

    /// Signals the groups of all children that someone waits for.
    pub(crate) fn signal_groups(&self, signal: i32) {
        for pid in self.lock().keys() {
            // One that has ended but is not reaped yet has nobody to signal.
            let _ = sys::kill_group(*pid, signal);
        }
    }

    /// Returns once there is no child left.
    pub(crate) async fn no_children(&self) {
        self.reap();
        let mut childless = self.childless.subscribe();
        // It fails only where the sender is gone, and that is in us.
        drop(childless.wait_for(|childless| *childless).await);
    }

    fn reap(&self) {
        let mut children = self.lock();
        loop {
            match sys::reap_one() {
                Reaped::Child(pid, ended) => {
                    // Whoever adopted it may have gone away.
                    let _ = children.remove(&pid).map(|sender| sender.send(ended));
                }
                Reaped::NoneEnded => {
                    self.childless.send_replace(false);
                    return;
                }
                Reaped::NoChildren => {
                    self.childless.send_replace(true);
                    return;
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Children> {
        // Nothing in here panics half-way, and PID 1 has to go on in any case.
        self.children.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// That children have ended.
#[derive(Debug)]
struct Signals(AsyncFd<OwnedFd>);

impl Signals {
    fn of_children() -> Result<Self, Error> {
        let listen = || {
            // Whoever started us may ignore it: then there were neither signals nor anything to reap.
            sys::reset_signal(Signal::SIGCHLD)?;
            let child = SigSet::from(Signal::SIGCHLD);
            child.thread_block()?;
            SignalFd::with_flags(&child, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
        };
        let doing = "listen for ended processes";
        let signals = listen().map_err(Error::sys(doing))?;
        sys::watch(signals.into()).map(Self).map_err(Error::io(doing))
    }

    /// Returns when there may be some.
    async fn next(&self) -> Result<(), Error> {
        let doing = "wait for ended processes";
        // However many ended, it is there once.
        let mut signal = [0; size_of::<siginfo>()];
        loop {
            let mut ready = self.0.readable().await.map_err(Error::io(doing))?;
            let taken = ready.try_io(|fd| Ok(read(fd.get_ref(), &mut signal)?));
            if let Ok(taken) = taken {
                return taken.map(drop).map_err(Error::io(doing));
            }
        }
    }
}
