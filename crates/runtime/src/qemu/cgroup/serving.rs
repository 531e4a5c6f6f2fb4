//! The process that serves a guest, held to a share of CPU time beside the guest's own.
//!
//! What a guest asks of its home is done by that process. With no share it would have as much of the host's time as it
//! has threads that want some, and a guest that floods its home would take that from the machines beside it. Its group
//! has a share of CPU time alone: what it has in memory it bounds itself.
//!
//! # Crash
//! A process cannot remove the group that it is in. So a group stays behind, empty, until the next start of any instance
//! on this host ([`sweep`]).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use base::MachineId;

use super::super::is_root;
use super::shares::{Hierarchy, Setting, settings_of_both, settings_of_serving};
use super::{ROOT, cpus, parent_of, prepare, remove_dir};

const PREFIX: &str = "serves-";
/// A sweep may take a group away before anybody is in it.
const TRIES: u32 = 50;

/// Has this process have a share of the host's CPU time, all that it does for `machine`: in proportion to `vcpu` where
/// there is not enough for all. To be called while it has one thread: those that it starts later are in the group too.
/// Without root nothing is held to anything, and this does nothing.
///
/// # Errors
/// Where the host gives us no control groups: it is held to nothing then.
pub fn hold_this_process(machine: &MachineId, vcpu: f64) -> io::Result<()> {
    // Counted while nothing holds us to fewer.
    let cpus = cpus();
    if !is_root() {
        return Ok(());
    }
    let (root, hierarchy) = (Path::new(ROOT), Hierarchy::of(Path::new(ROOT)));
    prepare(root, hierarchy)?;
    let dir = dir(root, hierarchy, &name(machine));
    let settings = settings_of_serving(hierarchy, vcpu, cpus);
    let mut tries = 1;
    loop {
        match enter(&dir, hierarchy, &settings) {
            Err(error) if is_gone(&error) && tries < TRIES => tries += 1,
            entered => return entered,
        }
    }
}

fn enter(dir: &Path, hierarchy: Hierarchy, settings: &[Setting]) -> io::Result<()> {
    match fs::create_dir(dir) {
        // Of a process before this one.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => (),
        made => made?,
    }
    write(dir, settings)?;
    let door = match hierarchy {
        Hierarchy::Unified => "cgroup.procs",
        // The other file stops all forks of the host until every CPU has passed through its scheduler, some 15 ms.
        Hierarchy::Split => "tasks",
    };
    // Zero is whoever writes it.
    fs::write(dir.join(door), "0")
}

/// Gives the process that serves `machine` another share. Where it is held to none, there is nothing to do.
pub(crate) fn set_vcpu(machine: &MachineId, vcpu: f64) {
    set(machine, vcpu, |hierarchy| settings_of_serving(hierarchy, vcpu, cpus()));
}

/// Has the process that serves `machine` have the share of its guest, too: a hypervisor that has no group of its own runs
/// in this one.
pub(crate) fn set_with_guest(machine: &MachineId, vcpu: f64) {
    set(machine, vcpu, |hierarchy| settings_of_both(hierarchy, vcpu));
}

/// What goes wrong here changes how machines share what there is, and nothing that anybody waits for.
fn set(machine: &MachineId, vcpu: f64, settings: impl FnOnce(Hierarchy) -> Vec<Setting>) {
    let (root, hierarchy) = (Path::new(ROOT), Hierarchy::of(Path::new(ROOT)));
    match write(&dir(root, hierarchy, &name(machine)), &settings(hierarchy)) {
        Err(error) if !is_gone(&error) => {
            tracing::warn!(%machine, vcpu, %error, "it is served with another share of CPU time");
        }
        _ => (),
    }
}

/// Removes the groups of processes that are gone.
pub(super) fn sweep(root: &Path, hierarchy: Hierarchy) {
    let groups = fs::read_dir(dir(root, hierarchy, "")).into_iter().flatten().flatten();
    let serving =
        groups.filter(|group| group.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes()));
    for group in serving {
        match remove_dir(&group.path()) {
            // Somebody is in it.
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => (),
            Err(error) => {
                tracing::warn!(dir = %group.path().display(), %error, "remove a control group");
            }
            Ok(()) => (),
        }
    }
}

fn write(dir: &Path, settings: &[Setting]) -> io::Result<()> {
    settings.iter().try_for_each(|setting| setting.write(dir))
}

fn dir(root: &Path, hierarchy: Hierarchy, name: &str) -> PathBuf {
    parent_of(root, hierarchy, "cpu").join(name)
}

fn name(machine: &MachineId) -> String {
    format!("{PREFIX}{machine}")
}

/// A group that is removed while its files are open says that it is no device.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(nix::libc::ENODEV)
}
