//! Starts a process: fork, a few calls that are safe between fork and exec, exec.
//!
//! Not `std::process`: it waits for a child whose exec failed by itself, and panics if PID 1's
//! reaper was faster.
//!
//! # cgroup
//! In a guest the child is made in the cgroup of commands by `clone3`; there is no moment in
//! which it is outside. Moving it there afterwards would also take a lock of the whole kernel that
//! is held for an RCU grace period, once for each command.
//!
//! # Order in the child
//! New session, standard descriptors, default signals, OOM score, working directory, exec of the
//! first candidate that can be run. Where a step fails, its number and errno go through a pipe
//! that a successful exec closes.
#![allow(unsafe_code, reason = "between fork and exec only raw system calls are allowed")]

use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

use libc::{c_char, c_int};
use nix::errno::Errno;
use nix::unistd::Pid;

/// What to run; all memory that the child needs is allocated before the fork.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) argv: Vec<CString>,
    pub(super) env: Vec<CString>,
    /// Paths to try in turn.
    pub(super) candidates: Vec<CString>,
    pub(super) cwd: CString,
}

/// The child's ends of its pipes.
#[derive(Debug)]
pub(super) struct ChildEnds {
    pub(super) stdin: OwnedFd,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
    /// Where the child reports a failed step; close-on-exec.
    pub(super) failure: OwnedFd,
}

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

/// Forks, into `cgroup` where one is given; the child never returns.
pub(super) fn fork_exec(
    plan: &Plan,
    ends: &ChildEnds,
    cgroup: Option<BorrowedFd<'_>>,
) -> Result<Pid, Errno> {
    let argv = pointers(&plan.argv);
    let env = pointers(&plan.env);
    // SAFETY: the child calls nothing but async-signal-safe functions on memory prepared above,
    // takes no lock and allocates nothing, then execs or exits.
    let forked = unsafe {
        match cgroup {
            None => libc::fork(),
            Some(cgroup) => fork_into(cgroup),
        }
    };
    match forked {
        -1 => Err(Errno::last()),
        // SAFETY: as above; this is the child.
        0 => unsafe { child(plan, &argv, &env, ends) },
        pid => Ok(Pid::from_raw(pid)),
    }
}

/// `fork(2)` into a cgroup v2. As a raw system call it runs no handler of the C library in the
/// child, which the few calls that the child makes do not miss.
unsafe fn fork_into(cgroup: BorrowedFd<'_>) -> libc::pid_t {
    // `libc` has it as a `c_int`, into which it does not fit.
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    // SAFETY: a structure of numbers, for which 0 means "not given".
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = CLONE_INTO_CGROUP;
    args.exit_signal = libc::SIGCHLD.unsigned_abs().into();
    args.cgroup = u64::from(cgroup.as_raw_fd().unsigned_abs());
    // SAFETY: the structure is alive and as long as we say. Without CLONE_VM and a stack the child
    // goes on with a copy of our memory, on our stack, as after fork.
    let pid =
        unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<libc::clone_args>()) };
    // A process number, or -1.
    libc::pid_t::try_from(pid).unwrap_or(-1)
}

fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect()
}

unsafe fn child(plan: &Plan, argv: &[*const c_char], env: &[*const c_char], ends: &ChildEnds) -> ! {
    // SAFETY: see `fork_exec`; the descriptors and pointers outlive the child's few calls.
    unsafe {
        let failure = ends.failure.as_raw_fd();
        if setup(ends) == -1 {
            give_up(failure, Step::Setup, Errno::last_raw());
        }
        if libc::chdir(plan.cwd.as_ptr()) == -1 {
            give_up(failure, Step::Cwd, Errno::last_raw());
        }
        let errno = exec_first(&plan.candidates, argv, env);
        give_up(failure, Step::Exec, errno)
    }
}

unsafe fn setup(ends: &ChildEnds) -> c_int {
    // SAFETY: see `fork_exec`.
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
        // All of ours are close-on-exec, but not what the agent may itself have inherited. No
        // kernel that runs a guest lacks this call; elsewhere a failure only leaves things as is.
        libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC);
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

/// The agent itself is exempt from the out-of-memory killer; what it starts must not be. Fails
/// where there is no `/proc`, which is no reason not to run.
unsafe fn default_oom_score() {
    const FILE: &CStr = c"/proc/self/oom_score_adj";
    // SAFETY: see `fork_exec`.
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
    candidates: &[CString],
    argv: &[*const c_char],
    env: &[*const c_char],
) -> c_int {
    let mut worst = libc::ENOENT;
    for path in candidates {
        // SAFETY: all three are NUL-terminated and alive.
        unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), env.as_ptr()) };
        match Errno::last_raw() {
            libc::ENOENT | libc::ENOTDIR => {}
            libc::EACCES => worst = libc::EACCES,
            other => return other,
        }
    }
    worst
}

unsafe fn give_up(failure: RawFd, step: Step, errno: c_int) -> ! {
    let [a, b, c, d] = errno.to_le_bytes();
    let report: [u8; REPORT_BYTES] = [step as u8, a, b, c, d];
    // SAFETY: see `fork_exec`; five bytes into a pipe are one write.
    unsafe {
        libc::write(failure, report.as_ptr().cast(), report.len());
        libc::_exit(127)
    }
}
