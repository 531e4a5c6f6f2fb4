//! One thread per instance: spawns QEMU, keeps its logs, waits for its end, takes down its network.
//!
//! The thread lives as long as QEMU does, since QEMU is killed when the thread that spawned it ends.
//! It enters the instance's network namespace, so QEMU is born in it. It is told to kill by closing
//! one end of a socket pair: that works from any thread, at most once, and also when the owner
//! just drops the instance. Only this thread kills and reaps, so it never signals a stranger.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use base::Egress;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use tokio::sync::{oneshot, watch};

use super::log::{RingLog, Tail};
use super::memory::{self, Stopped};
use super::place::Place;
use super::qmp::{Line, Qmp};
use super::room::Watch;
use super::spawn::{Confinement, end_of, signal, spawn};
use super::warm::{Ends, Warm};
use super::{SUPERVISOR, start_error};
use crate::{Error, Exit, Instance, Spec};

/// How long a QEMU whose guest is saved may take to end before it is killed.
const QUIT_GRACE: Duration = Duration::from_secs(5);

/// How long a hypervisor may take to stand still, and how often it is looked at meanwhile.
const HOLD_PATIENCE: Duration = Duration::from_secs(2);
const HOLD_LOOK: Duration = Duration::from_millis(1);

/// What to run, and what goes when it ends.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<String>,
    pub(crate) confinement: Confinement,
    pub(crate) place: Arc<Place>,
}

/// A running QEMU.
#[derive(Debug)]
pub(crate) struct QemuInstance {
    shell: Shell,
    /// Taken by the one attempt to suspend that there is.
    monitor: Mutex<Option<Monitor>>,
    /// The file of its memory.
    memory: Option<PathBuf>,
    /// Whether the guest waits for room on its host's disk.
    waits_for_room: watch::Receiver<bool>,
    /// What it takes to have it stay warm, where it can.
    ends: Mutex<Option<Ends>>,
    warm: watch::Sender<bool>,
}

/// The process, and what goes with it. Killed when it is dropped.
#[derive(Debug)]
pub(crate) struct Shell {
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

impl Shell {
    /// Whether the process has; what it leaves may still be taken down.
    pub(crate) fn has_ended(&self) -> bool {
        let mut process = [PollFd::new(self.process.as_fd(), PollFlags::POLLIN)];
        self.ended.borrow().is_some() || poll(&mut process, PollTimeout::ZERO) != Ok(0)
    }

    /// Its guest runs again: an end is not that of a suspend any more.
    pub(crate) fn goes_on(&self) {
        self.suspended.store(false, Ordering::SeqCst);
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
    fn hand_on(&self) -> Self {
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

    fn kill(&self) {
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

impl Drop for Shell {
    /// Kills the guest and waits until nothing of it is left: some 50 ms.
    fn drop(&mut self) {
        self.kill();
        let thread = self.hold.lock().unwrap_or_else(PoisonError::into_inner).thread.take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!(pid = self.pid, "the thread that watched qemu panicked");
        }
    }
}

/// Who has the monitor.
#[derive(Debug)]
enum Monitor {
    /// Nobody yet.
    Idle(Line, watch::Sender<bool>),
    Watch(Watch),
}

impl Monitor {
    fn take(self) -> io::Result<Qmp> {
        match self {
            Self::Idle(line, _) => line.meet(),
            Self::Watch(watch) => watch.end(),
        }
    }
}

impl QemuInstance {
    /// Starts `process`; `console` is our end of its serial console, `monitor` of its monitor; its memory is in the file
    /// `memory`, if in any.
    pub(crate) fn spawn(
        process: Process,
        console: UnixStream,
        log_dir: &Path,
        monitor: UnixStream,
        memory: Option<PathBuf>,
    ) -> Result<Self, Error> {
        let (kill, killed) = UnixStream::pair().map_err(start_error("create a channel"))?;
        let (ended_in, ended) = watch::channel(None);
        let (started_in, started) = oneshot::channel();
        let tail = Arc::new(Mutex::new(Tail::default()));
        let open =
            |name: &str| RingLog::open(&log_dir.join(name)).map_err(start_error("open a log"));
        let logs = Logs {
            console: open("console.log")?,
            tail: tail.clone(),
            hypervisor: open("qemu.log")?,
            said: Tail::default(),
        };
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
        let shell = Shell { pid, process, ended, console: tail, hold, suspended, place };
        Ok(Self::of(shell, Line::New(monitor), memory, None))
    }

    /// One that stayed warm and runs again.
    pub(crate) fn again(
        shell: Shell,
        monitor: Line,
        memory: Option<&Path>,
        ends: Option<Ends>,
    ) -> Self {
        Self::of(shell, monitor, memory.map(Path::to_owned), ends)
    }

    fn of(shell: Shell, monitor: Line, memory: Option<PathBuf>, ends: Option<Ends>) -> Self {
        let (waits, waits_for_room) = watch::channel(false);
        let monitor = Mutex::new(Some(Monitor::Idle(monitor, waits)));
        let (ends, warm) = (Mutex::new(ends), watch::Sender::new(false));
        Self { shell, monitor, memory, waits_for_room, ends, warm }
    }

    /// What it takes to have it stay warm later.
    pub(crate) fn can_stay_warm(&self, ends: Option<Ends>) {
        *self.ends.lock().unwrap_or_else(PoisonError::into_inner) = ends;
    }

    /// The guest runs from here on: it is looked whether the disk of `disk` has room for it, and for its `memory`.
    pub(crate) fn look_for_room(&self, disk: File, memory: Option<File>) -> Result<(), Error> {
        let mut monitor = self.monitor.lock().unwrap_or_else(PoisonError::into_inner);
        match monitor.take() {
            Some(Monitor::Idle(line, waits)) => {
                let watch = Watch::begin(line, disk, memory, waits);
                let watch = watch.map_err(start_error("look for room on the disk"))?;
                *monitor = Some(Monitor::Watch(watch));
            }
            other => *monitor = other,
        }
        Ok(())
    }

    /// What can be changed while it runs was changed, or it is not known what is in force: then it does not stay warm.
    fn changed(&self, done: bool, change: impl FnOnce(&mut Spec)) {
        let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        match ends.as_mut() {
            Some(ends) if done => ends.change(change),
            _ => *ends = None,
        }
    }

    /// Saves the guest; QEMU is still there.
    async fn save(&self, state: &Path) -> Result<(Stopped, PathBuf), Error> {
        let Some(memory) = self.memory.clone() else {
            return Err(Error::NotSuspended("its memory is in no file".to_owned()));
        };
        let monitor = self.monitor.lock().unwrap_or_else(PoisonError::into_inner).take();
        let monitor = monitor.ok_or_else(|| Error::NotSuspended("it was tried".to_owned()))?;
        let state = state.to_owned();
        let stopped = blocking(move || memory::save(monitor.take()?, &state))
            .await
            .map_err(|error| Error::NotSuspended(error.to_string()))?;
        self.shell.suspended.store(true, Ordering::SeqCst);
        Ok((stopped, memory))
    }

    /// Ends QEMU, whose guest is saved.
    async fn quit(&self, mut stopped: Stopped, memory: PathBuf) -> Result<(), Error> {
        let stopped = blocking(move || {
            stopped.quit();
            Ok(stopped)
        });
        let stopped = stopped.await.map_err(|error| Error::Suspend(error.to_string()))?;
        // It has nothing to do any more, so it is not waited for long.
        self.stop(QUIT_GRACE).await;
        blocking(move || stopped.sync(&memory)).await.map_err(not_on_the_disk)
    }
}

fn not_on_the_disk(error: io::Error) -> Error {
    Error::Suspend(format!("bring its memory to the disk: {error}"))
}

#[async_trait]
impl Instance for QemuInstance {
    fn pid(&self) -> u32 {
        self.shell.pid
    }

    async fn wait(&self) -> Exit {
        let (mut ended, mut warm) = (self.shell.ended.clone(), self.warm.subscribe());
        let ended = async {
            match ended.wait_for(Option::is_some).await.map(|exit| exit.clone()) {
                Ok(Some(exit)) => exit,
                _ => Exit::Crashed("the thread that watched it ended".to_owned()),
            }
        };
        let warm = async { warm.wait_for(|is| *is).await.is_ok() };
        tokio::select! {
            _ = warm => Exit::Suspended,
            exit = ended => exit,
        }
    }

    async fn stop(&self, grace: Duration) -> Exit {
        if let Ok(exit) = tokio::time::timeout(grace, self.wait()).await {
            return exit;
        }
        self.shell.kill();
        self.wait().await
    }

    async fn suspend(&self, state: &Path) -> Result<(), Error> {
        let (stopped, memory) = self.save(state).await?;
        self.quit(stopped, memory).await
    }

    async fn suspend_warm(&self, state: &Path) -> Result<bool, Error> {
        let (stopped, memory) = self.save(state).await?;
        let Some(ends) = self.ends.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            return self.quit(stopped, memory).await.map(|()| false);
        };
        let shell = self.shell.hand_on();
        let warm = blocking(move || {
            shell.hold()?;
            stopped.sync(&memory)?;
            let (qmp, state) = stopped.into_parts();
            Warm::new(shell, qmp, ends, state).put_away();
            Ok(())
        });
        warm.await.map_err(not_on_the_disk)?;
        self.warm.send_replace(true);
        Ok(true)
    }

    async fn set_egress(&self, egress: &Egress) -> Result<(), Error> {
        let (place, egress) = (self.shell.place.upgrade(), egress.clone());
        let place = place.ok_or_else(|| Error::Egress("the instance has ended".to_owned()))?;
        let allowed = egress.clone();
        let set = blocking(move || place.set_egress(&egress)).await;
        self.changed(set.is_ok(), |spec| spec.egress.allowed = allowed);
        set.map_err(|error| Error::Egress(error.to_string()))
    }

    async fn set_vcpu(&self, vcpu: f64) -> Result<(), Error> {
        let place = self.shell.place.upgrade();
        let place = place.ok_or_else(|| Error::Shares("the instance has ended".to_owned()))?;
        let set = blocking(move || place.set_vcpu(vcpu)).await;
        self.changed(set.is_ok(), |spec| spec.vcpu = vcpu);
        set.map_err(|error| Error::Shares(error.to_string()))
    }

    fn waits_for_room(&self) -> watch::Receiver<bool> {
        self.waits_for_room.clone()
    }

    fn console_tail(&self) -> String {
        self.shell.console.lock().unwrap_or_else(PoisonError::into_inner).text()
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

/// Where output goes.
#[derive(Debug)]
struct Logs {
    console: RingLog,
    tail: Arc<Mutex<Tail>>,
    hypervisor: RingLog,
    said: Tail,
}

fn supervise(
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
