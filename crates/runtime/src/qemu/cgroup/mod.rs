//! Holds an instance to its share of the host: CPU time, memory, threads.
//!
//! Each instance has a control group of its own, `dormouse/SLOT` at the root of the host's hierarchy, or of
//! the container's. QEMU enters it between fork and exec ([`super::spawn`]), so that everything it ever uses
//! is counted. The guest's memory is part of that, also where it lies in a file. The threads of its virtual
//! CPUs go on to a group in it ([`vcpus`]), where the guest's share of CPU time is. The process that serves the guest
//! has a group of its own beside it ([`serving`]).
//!
//! # Failure
//! A host that gives us no control groups still runs machines: they are not held to their shares then, and that
//! is logged and said by `doctor`. It gives us some where a group can be made, told its limits *and* entered: a
//! container may see them read-only, or all of its processes be outside of what it sees. So both `doctor` and
//! the start of a machine have a child enter a group, and end, before they rely on it.
//!
//! Once that went well, QEMU is in its groups or does not start: a machine that was promised its share must not
//! take others' because of an error that nobody looked for.
//!
//! # Crash
//! A group outlives its processes; the next sweep of the slots removes it.

pub(crate) mod serving;
mod shares;
mod vcpus;

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};
use std::thread;
use std::time::Duration;

use self::shares::Hierarchy;
pub(crate) use self::shares::Shares;
use super::spawn::try_to_enter;

const ROOT: &str = "/sys/fs/cgroup";
/// The group of which all instances' groups are part.
const PARENT: &str = "dormouse";
/// A group can be removed once the kernel has let go of its last process: some milliseconds. Only its owner
/// waits for that, who holds no lock that others need.
const REMOVE_TRIES: u32 = 50;
const REMOVE_PAUSE: Duration = Duration::from_millis(4);

/// The groups of one instance: one in version 2, one a controller in version 1. Gone when dropped; the
/// processes in them have to be gone before.
#[derive(Debug)]
pub(crate) struct Cgroup {
    dirs: Vec<PathBuf>,
    /// The one of these that counts CPU time.
    cpu: PathBuf,
    hierarchy: Hierarchy,
    cpu_time: Mutex<CpuTime>,
}

/// How CPU time is shared.
#[derive(Debug)]
struct CpuTime {
    shares: Shares,
    /// Virtual CPUs are in a group of their own, or will be.
    apart: bool,
}

impl Cgroup {
    /// Makes the groups of `slot`, sets `shares`, and tries whether a process can enter.
    ///
    /// # Errors
    /// Where the host gives us none; nothing is left then.
    pub(crate) fn create(slot: u16, shares: &Shares) -> io::Result<Self> {
        Self::create_below(Path::new(ROOT), &name(slot), shares)?.tried()
    }

    fn create_below(root: &Path, name: &str, shares: &Shares) -> io::Result<Self> {
        let hierarchy = Hierarchy::of(root);
        prepare(root, hierarchy)?;
        serving::sweep(root, hierarchy);
        let cpu = parent_of(root, hierarchy, "cpu").join(name);
        let cpu_time = Mutex::new(CpuTime { shares: *shares, apart: true });
        let mut group = Self { dirs: Vec::new(), cpu, hierarchy, cpu_time };
        for parent in parents(root, hierarchy) {
            let dir = parent.join(name);
            // One that a killed holder left; nobody runs in it, as the slot is ours.
            remove_patiently(&dir)?;
            fs::create_dir(&dir)?;
            group.dirs.push(dir);
        }
        for setting in shares.settings(hierarchy) {
            setting.write(&parent_of(root, hierarchy, setting.controller).join(name))?;
        }
        vcpus::create(&group.cpu, hierarchy, shares)?;
        Ok(group)
    }

    /// Fails where no process can enter.
    fn tried(self) -> io::Result<Self> {
        let entered = self.doors().and_then(|doors| {
            let doors: Vec<RawFd> = doors.iter().map(AsRawFd::as_raw_fd).collect();
            try_to_enter(&doors)
        });
        match entered {
            Ok(()) => Ok(self),
            Err(error) => Err(io::Error::new(error.kind(), format!("enter a group: {error}"))),
        }
    }

    /// What a process writes `0` to, to enter.
    pub(crate) fn doors(&self) -> io::Result<Vec<File>> {
        let door = |dir: &PathBuf| OpenOptions::new().write(true).open(dir.join("cgroup.procs"));
        self.dirs.iter().map(door).collect()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for dir in &self.dirs {
            if let Err(error) = remove_patiently(dir) {
                tracing::warn!(dir = %dir.display(), %error, "remove a control group");
            }
        }
    }
}

/// Whether instances can be held to their shares on this host: by doing with a group of its own all that a
/// start does.
///
/// # Errors
/// Why not.
pub(crate) fn probe() -> io::Result<()> {
    let shares = Shares { vcpu: 1.0, cpus: 1, weight: 1.0, memory_bytes: 64 << 20, threads: 16 };
    // Others may probe at the same time, threads of ours too.
    let name = format!("probe-{}", nix::unistd::gettid());
    Cgroup::create_below(Path::new(ROOT), &name, &shares)?.tried().map(drop)
}

/// Removes the groups of `slot`; they need not exist.
///
/// # Errors
/// `ResourceBusy`, at once, where the last process is not quite gone: the caller holds the registry's lock.
pub(crate) fn remove(slot: u16) -> io::Result<()> {
    remove_below(Path::new(ROOT), &name(slot))
}

fn remove_below(root: &Path, name: &str) -> io::Result<()> {
    parents(root, Hierarchy::of(root)).iter().try_for_each(|dir| remove_group(&dir.join(name)))
}

/// Makes the groups that hold those of instances, and gives them their controllers.
fn prepare(root: &Path, hierarchy: Hierarchy) -> io::Result<()> {
    if hierarchy == Hierarchy::Unified {
        enable(root)?;
    }
    for dir in parents(root, hierarchy) {
        match fs::create_dir(&dir) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => (),
            made => made?,
        }
    }
    let weight = shares::weight_of_all(hierarchy, u16::try_from(cpus()).unwrap_or(u16::MAX));
    match hierarchy {
        Hierarchy::Unified => {
            enable(&root.join(PARENT))?;
            fs::write(root.join(PARENT).join(weight.file), weight.value)
        }
        Hierarchy::Split => {
            fs::write(root.join(weight.controller).join(PARENT).join(weight.file), weight.value)
        }
    }
}

/// How many CPUs there are for all of us. Found once: a process that is held to fewer is told those.
fn cpus() -> usize {
    static CPUS: OnceLock<usize> = OnceLock::new();
    *CPUS.get_or_init(|| thread::available_parallelism().map_or(1, usize::from))
}

/// Has the groups below `dir` be counted by what we need.
fn enable(dir: &Path) -> io::Result<()> {
    let file = dir.join("cgroup.subtree_control");
    let there = fs::read_to_string(&file)?;
    let there: Vec<&str> = there.split_whitespace().collect();
    let missing = shares::CONTROLLERS.iter().filter(|name| !there.contains(name));
    let wanted: Vec<String> = missing.map(|name| format!("+{name}")).collect();
    if wanted.is_empty() { Ok(()) } else { fs::write(file, wanted.join(" ")) }
}

fn parents(root: &Path, hierarchy: Hierarchy) -> Vec<PathBuf> {
    match hierarchy {
        Hierarchy::Unified => vec![root.join(PARENT)],
        Hierarchy::Split => {
            shares::CONTROLLERS.iter().map(|name| parent_of(root, hierarchy, name)).collect()
        }
    }
}

/// What holds the groups of instances that `controller` counts.
fn parent_of(root: &Path, hierarchy: Hierarchy, controller: &str) -> PathBuf {
    match hierarchy {
        Hierarchy::Unified => root.join(PARENT),
        Hierarchy::Split => root.join(controller).join(PARENT),
    }
}

fn name(slot: u16) -> String {
    format!("{slot:04x}")
}

/// Removes a group without processes; it need not exist.
fn remove_dir(dir: &Path) -> io::Result<()> {
    match fs::remove_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// Removes an instance's group, and that of its virtual CPUs first.
fn remove_group(dir: &Path) -> io::Result<()> {
    vcpus::remove(dir)?;
    remove_dir(dir)
}

/// Removes a group whose last process has just ended.
fn remove_patiently(dir: &Path) -> io::Result<()> {
    let mut tries = 0;
    loop {
        match remove_group(dir) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && tries < REMOVE_TRIES => {
                tries += 1;
                thread::sleep(REMOVE_PAUSE);
            }
            removed => return removed,
        }
    }
}

#[cfg(test)]
mod tests;
