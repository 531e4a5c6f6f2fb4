//! Ends the guest so that nothing is lost.
//!
//! # Order
//! No new commands; TERM to all, KILL after the grace; sync; home unmounted (the host still serves
//! it), then the root, which leaves a clean upper; the last reply; power off.
//!
//! # Failure
//! A step that fails is said on the console and the next one is taken: the host kills a guest that
//! does not end, which is worse than any of them.

use std::time::Duration;

use nix::mount::{MntFlags, umount2};
use nix::sys::reboot::{RebootMode, reboot};
use nix::unistd::sync;
use tokio::time::timeout;

use crate::boot::root::OldRoot;
use crate::console::say;
use crate::home::HOME;
use crate::limits::{GRACE_MAX, KILLED_TIMEOUT, UNMOUNT_HOME_TIMEOUT};
use crate::reaper::Reaper;

/// Ends all processes: every one in a guest, our own children elsewhere.
pub(crate) async fn end_processes(reaper: &Reaper, grace: Duration, in_guest: bool) {
    let signal =
        |number| if in_guest { crate::sys::kill_all(number) } else { reaper.signal_groups(number) };
    signal(libc::SIGTERM);
    // A stopped process does not see the TERM otherwise.
    signal(libc::SIGCONT);
    if timeout(grace.min(GRACE_MAX), reaper.no_children()).await.is_ok() {
        return;
    }
    signal(libc::SIGKILL);
    if timeout(KILLED_TIMEOUT, reaper.no_children()).await.is_err() {
        say("some processes cannot be killed");
    }
}

/// Unmounts home and root.
pub(crate) async fn unmount(old_root: OldRoot, home_mounted: bool) {
    // Each of these can block in the kernel; the relay threads and this runtime must go on.
    if home_mounted {
        let unmounted = tokio::task::spawn_blocking(|| {
            sync();
            umount2(HOME, MntFlags::empty())
        });
        match timeout(UNMOUNT_HOME_TIMEOUT, unmounted).await {
            Ok(Ok(Ok(()))) => {}
            failed => {
                say(&format!("unmount {HOME}: {failed:?}; cutting it off"));
                let _ = umount2(HOME, MntFlags::MNT_FORCE | MntFlags::MNT_DETACH);
            }
        }
    }
    let unmounted = tokio::task::spawn_blocking(move || {
        sync();
        let unmounted = old_root.unmount_root();
        sync();
        unmounted
    });
    match unmounted.await {
        Ok(Ok(())) => say("unmounted"),
        Ok(Err(error)) => say(&error.to_string()),
        Err(panic) => say(&format!("unmount: {panic}")),
    }
}

/// Ends the virtual machine. Returns only where the kernel refuses.
pub(crate) fn power_off() {
    sync();
    // A microvm has a power switch, through ACPI; QEMU then exits with code 0.
    let _ = reboot(RebootMode::RB_POWER_OFF);
}
