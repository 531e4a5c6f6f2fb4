//! Starts a child that has given up everything it does not need.
//!
//! Between fork and exec, in this order, as each step needs what the next one gives up: enter its
//! control groups; keep the named descriptors open and no others; its [jail](super::jail); no core dumps, which would
//! hold the guest's memory; no huge pages; no capability can be had again; groups, group and user; no new privileges,
//! ever; death with the parent. The last comes after the change of user, which clears it.
#![allow(unsafe_code, reason = "code between fork and exec; each use says why it is sound")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Gid, Uid, fork, setgroups, setresgid, setresuid};

use super::jail::{Jail, OwnPids};

/// What a child keeps.
#[derive(Debug, Clone)]
pub(crate) struct Confinement {
    /// User and group to run as; `None`: ours.
    pub(crate) user: Option<u32>,
    /// Supplementary groups, where `user` is given.
    pub(crate) groups: Vec<u32>,
    /// Descriptors that it inherits under the same numbers.
    pub(crate) keep_open: Vec<RawFd>,
    /// `cgroup.procs` of the control groups that it enters.
    pub(crate) enter: Vec<RawFd>,
    /// The file system that it sees; `None`: ours.
    pub(crate) jail: Option<Jail>,
    /// It gets no huge pages, also where it asks for some: half of each is nothing that it needs.
    pub(crate) small_pages: bool,
}

/// Beyond the last capability that any kernel has.
const CAPABILITIES_END: i32 = 64;

/// Spawns `command`, confined.
///
/// The child is killed when the *thread* that called this ends, so it must outlive the child.
pub(crate) fn spawn(command: &mut Command, confinement: &Confinement) -> io::Result<Child> {
    // Asked whether it lives. Its id would not do: seen from another process id namespace it has none.
    let parent = pidfd(std::process::id())?;
    let _own_pids = confinement.jail.as_ref().map(|_| OwnPids::begin()).transpose()?;
    let groups: Vec<Gid> = confinement.groups.iter().copied().map(Gid::from_raw).collect();
    let confinement = confinement.clone();
    // SAFETY: the closure only makes system calls on values made before the fork; it neither
    // allocates nor locks.
    unsafe { command.pre_exec(move || confine(&confinement, &groups, &parent)) };
    command.spawn()
}

/// Has a child enter control groups by `doors`, and end.
///
/// # Errors
/// Why it could not.
pub(crate) fn try_to_enter(doors: &[RawFd]) -> io::Result<()> {
    // SAFETY: the child only makes system calls, on values made before the fork; it neither allocates nor
    // locks, and nothing of ours runs after them.
    let child = match unsafe { fork() }? {
        ForkResult::Parent { child } => child,
        ForkResult::Child => {
            let status = enter(doors).map_or_else(|error| error as i32, |()| 0);
            // SAFETY: ends the child, without handlers that belong to its parent.
            unsafe { nix::libc::_exit(status) }
        }
    };
    loop {
        return match waitpid(child, None) {
            Err(Errno::EINTR) => continue,
            Ok(WaitStatus::Exited(_, 0)) => Ok(()),
            Ok(WaitStatus::Exited(_, errno)) => Err(io::Error::from_raw_os_error(errno)),
            Ok(other) => Err(io::Error::other(format!("{other:?}"))),
            Err(error) => Err(error.into()),
        };
    }
}

fn enter(doors: &[RawFd]) -> nix::Result<()> {
    for &fd in doors {
        // SAFETY: the parent holds these descriptors open until the child has started.
        let door = unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) };
        // Zero is whoever writes it.
        nix::unistd::write(door, b"0")?;
    }
    Ok(())
}

fn confine(confinement: &Confinement, groups: &[Gid], parent: &OwnedFd) -> io::Result<()> {
    enter(&confinement.enter)?;
    close_all_on_exec();
    for &fd in &confinement.keep_open {
        // SAFETY: the parent holds these descriptors open until the child has started.
        let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) };
        fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty()))?;
    }
    if let Some(jail) = &confinement.jail {
        jail.enter()?;
    }
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    if confinement.small_pages {
        prctl::set_thp_disable(true)?;
    }
    if let Some(user) = confinement.user {
        let (uid, gid) = (Uid::from_raw(user), Gid::from_raw(user));
        drop_bounding_set();
        setgroups(groups)?;
        setresgid(gid, gid, gid)?;
        setresuid(uid, uid, uid)?;
    }
    prctl::set_no_new_privs()?;
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    let mut ended = [PollFd::new(parent.as_fd(), PollFlags::POLLIN)];
    if poll(&mut ended, PollTimeout::ZERO)? == 0 {
        Ok(())
    } else {
        // The parent died before the signal was set: it would never come.
        Err(io::Error::from_raw_os_error(nix::libc::ESRCH))
    }
}

/// Whatever was opened without `O_CLOEXEC`, by whichever library, is not for the child. Best effort: kernels
/// before 5.11 do not know the call, and ours are opened with it.
fn close_all_on_exec() {
    // SAFETY: takes three integers and changes flags of descriptors of this process, which is about to exec.
    unsafe {
        nix::libc::syscall(
            nix::libc::SYS_close_range,
            3_u32,
            u32::MAX,
            nix::libc::CLOSE_RANGE_CLOEXEC,
        );
    }
}

/// Best effort: without new privileges nothing of it can be had back anyway.
fn drop_bounding_set() {
    for capability in 0..CAPABILITIES_END {
        // SAFETY: takes integers; those that the kernel does not know it refuses.
        unsafe { nix::libc::prctl(nix::libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
    }
}

/// A descriptor that becomes readable when the child has ended.
pub(crate) fn end_of(child: &Child) -> io::Result<OwnedFd> {
    // It is not yet waited for, so its id is still its own.
    pidfd(child.id())
}

/// Has a process stand still, or go on.
pub(crate) fn signal(process: BorrowedFd<'_>, signal: Signal) -> io::Result<()> {
    let (none, flags) = (std::ptr::null::<nix::libc::siginfo_t>(), 0);
    let (process, signal) = (process.as_raw_fd(), signal as i32);
    // SAFETY: takes integers, and no information beside them.
    let sent = unsafe {
        nix::libc::syscall(nix::libc::SYS_pidfd_send_signal, process, signal, none, flags)
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A descriptor of the process with this id.
fn pidfd(id: u32) -> io::Result<OwnedFd> {
    // SAFETY: takes two integers and returns a new descriptor or -1.
    let fd = unsafe { nix::libc::syscall(nix::libc::SYS_pidfd_open, id, 0) };
    let fd = i32::try_from(fd).map_err(|_| io::Error::from_raw_os_error(nix::libc::EBADF))?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us this descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
