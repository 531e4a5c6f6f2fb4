//! Starts commands, and has a process ready for the next one.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use agent_proto::Exec;
use nix::errno::Errno;
use nix::unistd::Pid;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::plan;
use super::ready::{Begun, REPORT_BYTES, Ready, Step, decode_report};
use crate::Error;
use crate::freezer::Freezer;
use crate::limits::{FREEZE_POLL_INTERVAL, READY_PATIENCE};
use crate::reaper::Reaper;
use crate::sys::Ended;

/// A process that has been started.
#[derive(Debug)]
pub(super) struct Child {
    pub(super) pid: Pid,
    pub(super) ended: oneshot::Receiver<Ended>,
    pub(super) stdin: Option<pipe::Sender>,
    pub(super) stdout: pipe::Receiver,
    pub(super) stderr: pipe::Receiver,
}

/// Starts commands.
#[derive(Debug)]
pub(crate) struct Starter {
    reaper: Arc<Reaper>,
    freezer: Option<Arc<Freezer>>,
    next: Mutex<Next>,
}

/// What the next command becomes of.
#[derive(Debug)]
enum Next {
    /// Of a process that is made for it.
    None,
    Ready(Ready),
    /// There is to be no more.
    Ended,
}

impl Starter {
    /// Starts commands in the cgroup of `freezer`, if there is one.
    pub(crate) fn new(reaper: Arc<Reaper>, freezer: Option<Arc<Freezer>>) -> Self {
        Self { reaper, freezer, next: Mutex::new(Next::None) }
    }

    /// Who hears of their end.
    pub(crate) fn reaper(&self) -> &Arc<Reaper> {
        &self.reaper
    }

    /// Has a process ready for the next command, if it can be made. It takes some milliseconds.
    pub(crate) fn make_ready(&self) {
        let mut next = self.lock();
        let has = match &mut *next {
            Next::None => false,
            Next::Ready(ready) => ready.is_there(),
            Next::Ended => return,
        };
        if !has {
            *next = self.make().map_or(Next::None, Next::Ready);
        }
    }

    /// The same, and returns when it only waits: before all is frozen, so that it needs nothing more then.
    pub(crate) async fn be_ready(&self) {
        self.make_ready();
        let until = Instant::now() + READY_PATIENCE;
        let waits = || matches!(&*self.lock(), Next::Ready(ready) if !ready.is_set_up());
        while waits() && Instant::now() < until {
            tokio::time::sleep(FREEZE_POLL_INTERVAL).await;
        }
    }

    /// The same in a while, when nobody waits any more for what is being done.
    pub(crate) fn make_ready_after(self: &Arc<Self>, long: Duration) {
        let starter = Arc::clone(self);
        drop(tokio::spawn(async move {
            tokio::time::sleep(long).await;
            starter.make_ready();
        }));
    }

    /// No process waits any more, and none is made for later.
    pub(crate) fn end(&self) {
        *self.lock() = Next::Ended;
    }

    pub(super) async fn start(&self, exec: &Exec) -> Result<Child, Error> {
        let plan = plan::plan(exec)?;
        let begun = match self.take().and_then(|ready| ready.send_off(&plan, exec.stdin)) {
            // It was killed, and nobody has come to reap it.
            Err(Errno::EPIPE) => self.make().and_then(|ready| ready.send_off(&plan, exec.stdin)),
            begun => begun,
        };
        let begun = begun.map_err(Error::sys("start a process"))?;
        let Begun { pid, ended, stdin, stdout, stderr, failure } = begun;
        // Else a command that wants none would keep a pipe that nobody writes to.
        let stdin = Some(stdin).filter(|_| exec.stdin);
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

    fn take(&self) -> Result<Ready, Errno> {
        let mut next = self.lock();
        if matches!(*next, Next::Ready(_))
            && let Next::Ready(mut ready) = std::mem::replace(&mut *next, Next::None)
            && ready.is_there()
        {
            return Ok(ready);
        }
        drop(next);
        self.make()
    }

    fn make(&self) -> Result<Ready, Errno> {
        Ready::make(&self.reaper, self.freezer.as_deref().map(Freezer::cgroup))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Next> {
        // Nothing in here panics half-way, and PID 1 has to go on in any case.
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
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
