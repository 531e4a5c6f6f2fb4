//! The system calls that `nix` does not have, or not in the form that PID 1 needs.
//!
//! All that is unsafe in the agent is here, in [`crate::net`] and in `exec`.
#![allow(unsafe_code, reason = "system calls without a safe wrapper")]

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::signal::{SigHandler, Signal};
use nix::unistd::Pid;
use tokio::io::unix::AsyncFd;

/// Has all threads allocate from one arena. Each would get its own, which takes a guest of one processor memory and
/// instructions, and spares it nothing.
pub(crate) fn one_arena() {
    // SAFETY: takes numbers. Where it is refused, there are more.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// It exited with this code.
    Code(i32),
    /// This signal killed it. A plain number: real-time signals have no name in `nix`.
    Signal(i32),
}

/// What one look for ended children found.
#[derive(Debug)]
pub(crate) enum Reaped {
    Child(Pid, Ended),
    NoneEnded,
    NoChildren,
}

/// Reaps one child, if one has ended.
pub(crate) fn reap_one() -> Reaped {
    loop {
        let mut status = 0;
        // SAFETY: the pointer is to a live int.
        let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
        match pid {
            0 => return Reaped::NoneEnded,
            -1 if Errno::last() == Errno::EINTR => {}
            -1 => return Reaped::NoChildren,
            pid if libc::WIFEXITED(status) => {
                return Reaped::Child(Pid::from_raw(pid), Ended::Code(libc::WEXITSTATUS(status)));
            }
            pid if libc::WIFSIGNALED(status) => {
                return Reaped::Child(Pid::from_raw(pid), Ended::Signal(libc::WTERMSIG(status)));
            }
            // Stopped or continued; we did not ask for those.
            _ => {}
        }
    }
}

/// `kill(2)` of a process group, with any signal number from 1 to 64.
pub(crate) fn kill_group(leader: Pid, signal: i32) -> Result<(), Errno> {
    if !(1..=64).contains(&signal) || leader.as_raw() <= 1 {
        return Err(Errno::EINVAL);
    }
    // SAFETY: no memory is involved.
    Errno::result(unsafe { libc::kill(-leader.as_raw(), signal) }).map(drop)
}

/// `kill(2)` of every process but ourselves. Only PID 1 of a guest may call it.
pub(crate) fn kill_all(signal: i32) {
    debug_assert_eq!(std::process::id(), 1, "this would stop the developer's machine");
    if std::process::id() == 1 {
        // SAFETY: no memory is involved. It fails only where there is nobody left.
        unsafe { libc::kill(-1, signal) };
    }
}

/// Loads a kernel module. `EEXIST` where it is loaded already.
pub(crate) fn load_module(file: impl AsFd) -> Result<(), Errno> {
    let no_options: &CStr = c"";
    // SAFETY: the descriptor is open and the string ends in NUL.
    let done = unsafe {
        libc::syscall(
            libc::SYS_finit_module,
            file.as_fd().as_raw_fd(),
            no_options.as_ptr(),
            0 as libc::c_int,
        )
    };
    Errno::result(done).map(drop)
}

/// Gives the kernel's random number generator `bytes` and credits them in full.
pub(crate) fn add_entropy(random: impl AsFd, bytes: &[u8]) -> Result<(), Errno> {
    // struct rand_pool_info: bits, bytes, then the bytes; the ioctl takes a pointer to it.
    const RNDADDENTROPY: libc::Ioctl = 0x4008_5203;
    const RNDRESEEDCRNG: libc::Ioctl = 0x5207;
    let length = i32::try_from(bytes.len()).map_err(|_| Errno::EINVAL)?;
    let mut info = Vec::with_capacity(8 + bytes.len());
    info.extend_from_slice(&length.saturating_mul(8).to_ne_bytes());
    info.extend_from_slice(&length.to_ne_bytes());
    info.extend_from_slice(bytes);
    let random = random.as_fd().as_raw_fd();
    // SAFETY: the buffer has the layout and the length that its own second field says.
    Errno::result(unsafe { libc::ioctl(random, RNDADDENTROPY, info.as_ptr()) })?;
    // SAFETY: takes no argument.
    Errno::result(unsafe { libc::ioctl(random, RNDRESEEDCRNG) }).map(drop)
}

/// Makes orphans of our descendants our children, as they are to PID 1.
pub(crate) fn become_subreaper() -> Result<(), Errno> {
    // SAFETY: takes numbers only.
    Errno::result(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) }).map(drop)
}

/// Takes over a descriptor that was inherited, and keeps children from inheriting it.
///
/// # Errors
/// `EBADF` where it is not open.
pub(crate) fn inherited_fd(number: i32) -> Result<OwnedFd, Errno> {
    if number <= 2 {
        return Err(Errno::EBADF);
    }
    // SAFETY: takes numbers only.
    Errno::result(unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) })?;
    // SAFETY: it is open, and `main` calls this once, before anything else opens descriptors.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Has a signal do what it does by default, which it may have been inherited without.
pub(crate) fn reset_signal(signal: Signal) -> Result<(), Errno> {
    // SAFETY: no handler of ours runs, before or after.
    unsafe { nix::sys::signal::signal(signal, SigHandler::SigDfl) }.map(drop)
}

/// Watches a descriptor, on the tokio runtime that this is called on.
pub(crate) fn watch(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` keeps its number, and keeps it open until the watch is dropped.
    unsafe { AsyncFd::register(fd) }.map_err(|error| error.into_parts().1)
}
