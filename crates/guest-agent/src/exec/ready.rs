//! A process that waits to become a command.
//!
//! To fork is the most of what it takes to start a command, and after a wake the most of what an emulated
//! guest has to translate for its first one. So it is done ahead, while nobody waits: what is left
//! is to change to the working directory and to exec.
//!
//! # Order
//! Made: pipes, fork into the cgroup of commands, then in the child new session, standard descriptors,
//! default signals, OOM score. It waits. Told ([`Order`]) and sent off: working directory, exec of the first candidate
//! that can be run. Where a step fails, its number and errno go through a pipe that a successful exec
//! closes.
//!
//! # Invariants
//! - It holds no descriptor but its own: another command's pipe would not end with that command.
//! - It ends with the agent, and with the guest's shutdown as any process does.
//!
//! # Trust
//! Root in the guest can end it or hold it up, as any command; then another is made.
#![allow(unsafe_code, reason = "between fork and exec only raw system calls are allowed")]

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::Ordering;

use libc::{c_char, c_int, c_uint};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, pipe2, write};
use tokio::sync::oneshot;

use super::fork::fork;
use super::order::{Order, Shared};
use super::plan::Plan;
use crate::reaper::Reaper;
use crate::sys::Ended;

/// Where starting a process failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Step {
    Setup = 1,
    Cwd = 2,
    Exec = 3,
}

/// Bytes of a failure report: a [`Step`] and an errno.
pub(super) const REPORT_BYTES: usize = 5;

/// Takes a failure report apart.
pub(super) fn decode_report([step, errno @ ..]: [u8; REPORT_BYTES]) -> (Step, Errno) {
    let step = match step {
        2 => Step::Cwd,
        3 => Step::Exec,
        _ => Step::Setup,
    };
    (step, Errno::from_raw(i32::from_le_bytes(errno)))
}

/// A process that waits, and our ends of its pipes.
#[derive(Debug)]
pub(super) struct Ready {
    order: Order,
    go: OwnedFd,
    begun: Begun,
}

/// A process that was sent off, and our ends of its pipes.
#[derive(Debug)]
pub(super) struct Begun {
    pub(super) pid: Pid,
    pub(super) ended: oneshot::Receiver<Ended>,
    pub(super) stdin: OwnedFd,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
    /// Says which step failed; ends where none did.
    pub(super) failure: OwnedFd,
}

/// The child's ends.
#[derive(Debug)]
struct ChildEnds {
    go: OwnedFd,
    stdin: OwnedFd,
    stdout: OwnedFd,
    stderr: OwnedFd,
    failure: OwnedFd,
}

impl Ready {
    /// Makes one, in `cgroup` where one is given.
    pub(super) fn make(reaper: &Reaper, cgroup: Option<BorrowedFd<'_>>) -> Result<Self, Errno> {
        let pipe = || pipe2(OFlag::O_CLOEXEC);
        let order = Order::new()?;
        let (child_go, go) = pipe()?;
        let (child_stdin, stdin) = pipe()?;
        let (stdout, child_stdout) = pipe()?;
        let (stderr, child_stderr) = pipe()?;
        let (failure, child_failure) = pipe()?;
        let ends = ChildEnds {
            go: child_go,
            stdin: child_stdin,
            stdout: child_stdout,
            stderr: child_stderr,
            failure: child_failure,
        };
        let shared = order.shared();
        // SAFETY: the child calls nothing but async-signal-safe functions on memory that is there,
        // takes no lock and allocates nothing, then execs or exits.
        let in_child = || unsafe { wait_and_become(shared, &ends) };
        // SAFETY: as above.
        let (pid, ended) = reaper.adopt(|| unsafe { fork(cgroup, in_child) })?;
        Ok(Self { order, go, begun: Begun { pid, ended, stdin, stdout, stderr, failure } })
    }

    /// True unless somebody ended it.
    pub(super) fn is_there(&mut self) -> bool {
        matches!(self.begun.ended.try_recv(), Err(oneshot::error::TryRecvError::Empty))
    }

    /// True once it only waits to be told.
    pub(super) fn is_set_up(&self) -> bool {
        self.order.is_set_up()
    }

    /// Has it become what is planned.
    ///
    /// # Errors
    /// `E2BIG` where the plan is longer than can be told; `EPIPE` where it was ended a moment ago and was told
    /// nothing.
    pub(super) fn send_off(mut self, plan: &Plan, has_stdin: bool) -> Result<Begun, Errno> {
        self.order.write(plan, has_stdin)?;
        write(&self.go, b"!")?;
        // Somebody may have stopped it with all else; a command that nobody named yet is not to be held up.
        kill(self.begun.pid, Signal::SIGCONT).ok();
        Ok(self.begun)
    }
}

/// The whole life of the child.
unsafe fn wait_and_become(shared: *const Shared, ends: &ChildEnds) -> ! {
    // SAFETY: see `Ready::make`; what it is told is written before the byte that it waits for.
    unsafe {
        let failure = ends.failure.as_raw_fd();
        if setup(ends) == -1 {
            give_up(failure, Step::Setup, Errno::last_raw());
        }
        let is_set_up = &(*shared).is_set_up;
        is_set_up.store(true, Ordering::Release);
        wait(ends.go.as_raw_fd());
        let told = (&raw const (*shared).told).read_volatile();
        if !told.has_stdin && no_stdin() == -1 {
            give_up(failure, Step::Setup, Errno::last_raw());
        }
        if libc::chdir(told.cwd) == -1 {
            give_up(failure, Step::Cwd, Errno::last_raw());
        }
        let errno = exec_first(told.candidates, told.argv, told.env);
        give_up(failure, Step::Exec, errno)
    }
}

unsafe fn setup(ends: &ChildEnds) -> c_int {
    const NAME: &CStr = c"dormouse-ready";
    // SAFETY: see `Ready::make`.
    unsafe {
        if libc::setsid() == -1 {
            return -1;
        }
        // Our own 0 to 2 are always open, so these are other numbers, and the copies survive exec.
        for (fd, number) in [(&ends.stdin, 0), (&ends.stdout, 1), (&ends.stderr, 2)] {
            if libc::dup2(fd.as_raw_fd(), number) == -1 {
                return -1;
            }
        }
        close_others(ends.go.as_raw_fd(), ends.failure.as_raw_fd());
        // For those who look at a list of processes.
        libc::prctl(libc::PR_SET_NAME, NAME.as_ptr());
        // Rust ignores SIGPIPE, and exec would keep that; handlers it resets by itself.
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        let mut none = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
        libc::umask(0o022);
        default_oom_score();
        0
    }
}

/// Closes all but 0 to 2 and these two, which are close-on-exec. No kernel that runs a guest lacks the call;
/// elsewhere a failure only leaves things as they are.
unsafe fn close_others(one: RawFd, other: RawFd) {
    let (low, high) = (one.min(other).unsigned_abs(), one.max(other).unsigned_abs());
    let ranges = [(3, low - 1), (low + 1, high - 1), (high + 1, c_uint::MAX)];
    for (first, last) in ranges {
        if first <= last {
            // SAFETY: takes numbers; no descriptor that is used here is in the range.
            unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
        }
    }
}

/// Returns when the agent says go; ends where it is gone.
unsafe fn wait(go: RawFd) {
    let mut byte = 0_u8;
    loop {
        // SAFETY: reads one byte to one that is there.
        match unsafe { libc::read(go, (&raw mut byte).cast(), 1) } {
            1 => return,
            -1 if Errno::last_raw() == libc::EINTR => {}
            // SAFETY: ends this process, without handlers that belong to the agent.
            _ => unsafe { libc::_exit(0) },
        }
    }
}

unsafe fn no_stdin() -> c_int {
    const FILE: &CStr = c"/dev/null";
    // SAFETY: see `Ready::make`.
    unsafe {
        let fd = libc::open(FILE.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
        if fd == -1 { -1 } else { libc::dup2(fd, 0) }
    }
}

/// The agent itself is exempt from the out-of-memory killer; what it starts must not be. Fails
/// where there is no `/proc`, which is no reason not to run.
unsafe fn default_oom_score() {
    const FILE: &CStr = c"/proc/self/oom_score_adj";
    // SAFETY: see `Ready::make`.
    unsafe {
        let fd = libc::open(FILE.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        if fd >= 0 {
            libc::write(fd, b"0".as_ptr().cast(), 1);
            libc::close(fd);
        }
    }
}

/// As `execvp` chooses: on to the next where there is nothing to run; a file that may not be run
/// is remembered and reported if no other can.
unsafe fn exec_first(
    mut candidates: *const *const c_char,
    argv: *const *const c_char,
    env: *const *const c_char,
) -> c_int {
    let mut worst = libc::ENOENT;
    // SAFETY: all three end in a null, and what they point to is alive.
    unsafe {
        while !(*candidates).is_null() {
            libc::execve(*candidates, argv, env);
            match Errno::last_raw() {
                libc::ENOENT | libc::ENOTDIR => {}
                libc::EACCES => worst = libc::EACCES,
                other => return other,
            }
            candidates = candidates.add(1);
        }
    }
    worst
}

unsafe fn give_up(failure: RawFd, step: Step, errno: c_int) -> ! {
    let [a, b, c, d] = errno.to_le_bytes();
    let report: [u8; REPORT_BYTES] = [step as u8, a, b, c, d];
    // SAFETY: see `Ready::make`; five bytes into a pipe are one write.
    unsafe {
        libc::write(failure, report.as_ptr().cast(), report.len());
        libc::_exit(127)
    }
}
