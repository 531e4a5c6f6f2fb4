//! Forks a process into the cgroup of commands.
//!
//! Not `std::process`: it waits for a child whose exec failed by itself, and panics if PID 1's
//! reaper was faster.
//!
//! # cgroup
//! In a guest the child is made in the cgroup of commands by `clone3`; there is no moment in
//! which it is outside. Moving it there afterwards would also take a lock of the whole kernel that
//! is held for an RCU grace period, once for each command.
#![allow(unsafe_code, reason = "system calls without a safe wrapper")]

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::unistd::Pid;

/// Forks, into `cgroup` where one is given. The child does what is given and nothing else.
///
/// # Safety
/// Other threads of ours may hold locks: what the child does takes none, allocates nothing, and calls
/// nothing but async-signal-safe functions.
pub(super) unsafe fn fork(
    cgroup: Option<BorrowedFd<'_>>,
    in_child: impl FnOnce() -> std::convert::Infallible,
) -> Result<Pid, Errno> {
    // SAFETY: by our caller.
    let forked = unsafe {
        match cgroup {
            None => libc::fork(),
            Some(cgroup) => fork_into(cgroup),
        }
    };
    match forked {
        -1 => Err(Errno::last()),
        #[allow(unreachable_code, reason = "a type of no value")]
        0 => match in_child() {},
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
