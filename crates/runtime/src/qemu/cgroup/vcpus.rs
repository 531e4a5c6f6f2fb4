//! The threads of virtual CPUs, held to the guest's share apart from the hypervisor's others.
//!
//! What the hypervisor does for a guest (its disks, the files of its home, its network) is bounded beside the
//! guest's share and does not count as it: else a guest of one CPU that writes a file waits for the rest of
//! each period, and so does everything that is done for it. So the group of an instance has its `vcpu` and
//! [`HYPERVISOR_CPUS`](crate::limits::HYPERVISOR_CPUS) more, and in it is one with just `vcpu`, for the threads of
//! virtual CPUs. In version 2 that is a threaded group: `cpu` is a controller of threads, and memory and threads
//! are counted by the group around it, a "threaded domain", which may have processes of its own.
//!
//! # Who is moved
//! Threads of the instance's group by their name, `CPU N/…`, which they have before they run a single
//! instruction of the guest. They are looked for once. A guest that has broken out of its virtual CPU can
//! start threads that have the hypervisor's bound, and no more.
//!
//! # Failure
//! Where a thread cannot be moved, both groups have the guest's share together, as if there were one.
//!
//! # Not tried
//! Version 2 with its CPU controller: what is written where is tested on files, and that the kernel lets
//! threads move so on a tree of version 2 without controllers.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::PoisonError;
use std::thread;
use std::time::{Duration, Instant};

use super::shares::{Hierarchy, Setting};
use super::{Cgroup, Shares};
use crate::limits::VCPU_THREADS_PATIENCE;

/// Name of the group in an instance's group.
const NAME: &str = "vcpu";
/// Begin of the names of the threads; QEMU gives them with `debug-threads=on`.
const THREADS: &str = "CPU ";
/// Pause between two looks for them.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(2);

impl Cgroup {
    /// Moves the threads of the guest's `count` virtual CPUs to the group that is theirs, as soon as they are
    /// there. Blocks for that, some 15 ms of it in the kernel; ends early where the hypervisor does.
    ///
    /// # Errors
    /// Where the guest is not held to its share at all.
    pub(crate) fn hold_vcpus(&self, count: u32) -> io::Result<()> {
        self.hold_vcpus_within(count, VCPU_THREADS_PATIENCE)
    }

    pub(super) fn hold_vcpus_within(&self, count: u32, patience: Duration) -> io::Result<()> {
        let Err(error) = self.move_vcpus(count, patience) else { return Ok(()) };
        let dir = self.cpu.display();
        tracing::warn!(%dir, %error, "what the hypervisor does for its guest counts as the guest's");
        let mut cpu_time = self.cpu_time.lock().unwrap_or_else(PoisonError::into_inner);
        cpu_time.apart = false;
        write(&self.cpu, cpu_time.shares.settings_of_cpu(self.hierarchy, false))
    }

    /// Gives the guest another share of CPU time.
    ///
    /// # Errors
    /// It has the old one then, or the smaller of both; can be repeated.
    pub(crate) fn set_vcpu(&self, vcpu: f64) -> io::Result<()> {
        let mut cpu_time = self.cpu_time.lock().unwrap_or_else(PoisonError::into_inner);
        let shares = cpu_time.shares.with_vcpu(vcpu);
        let all = || write(&self.cpu, shares.settings_of_cpu(self.hierarchy, cpu_time.apart));
        let own = self.cpu.join(NAME);
        let vcpus = || {
            let settings = shares.settings_of_vcpus(self.hierarchy);
            if own.exists() { write(&own, settings) } else { Ok(()) }
        };
        // Version 1 refuses a group more time than the one around it has.
        if vcpu > cpu_time.shares.vcpu {
            all().and_then(|()| vcpus())
        } else {
            vcpus().and_then(|()| all())
        }?;
        cpu_time.shares = shares;
        Ok(())
    }

    fn move_vcpus(&self, count: u32, patience: Duration) -> io::Result<()> {
        let deadline = Instant::now() + patience;
        let file = threads_of(self.hierarchy);
        let (from, to) = (self.cpu.join(file), self.cpu.join(NAME).join(file));
        let mut missing = count;
        loop {
            let mut ended = true;
            for thread in fs::read_to_string(&from)?.split_whitespace() {
                ended = false;
                let name = fs::read_to_string(format!("/proc/{thread}/comm")).unwrap_or_default();
                if name.starts_with(THREADS) {
                    match fs::write(&to, thread) {
                        // It has ended meanwhile, and the hypervisor with it.
                        Err(error) if error.raw_os_error() == Some(nix::libc::ESRCH) => (),
                        written => written?,
                    }
                    missing = missing.saturating_sub(1);
                }
            }
            if missing == 0 || ended {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let what = format!("{missing} threads of virtual CPUs did not come up");
                return Err(io::Error::new(io::ErrorKind::TimedOut, what));
            }
            thread::sleep(LOOK_EVERY);
        }
    }
}

/// Makes the group for virtual CPUs in `dir`, which is an instance's group. Where a host refuses that, there is none,
/// and no thread can be moved.
///
/// # Errors
/// Where half of it is left.
pub(super) fn create(dir: &Path, hierarchy: Hierarchy, shares: &Shares) -> io::Result<()> {
    set_up(dir, hierarchy, shares).or_else(|error| {
        tracing::warn!(dir = %dir.display(), %error, "no group for virtual CPUs");
        remove(dir)
    })
}

fn set_up(dir: &Path, hierarchy: Hierarchy, shares: &Shares) -> io::Result<()> {
    let own = dir.join(NAME);
    fs::create_dir(&own)?;
    if hierarchy == Hierarchy::Unified {
        // The instance's group becomes a threaded domain: it gives a controller away and has processes all the same.
        fs::write(own.join("cgroup.type"), "threaded")?;
        fs::write(dir.join("cgroup.subtree_control"), "+cpu")?;
    }
    write(&own, shares.settings_of_vcpus(hierarchy))
}

/// Removes that of `dir`, where there is one.
pub(super) fn remove(dir: &Path) -> io::Result<()> {
    super::remove_dir(&dir.join(NAME))
}

/// What a thread's id is written to, to have it enter, and which lists those that are there.
fn threads_of(hierarchy: Hierarchy) -> &'static str {
    match hierarchy {
        Hierarchy::Unified => "cgroup.threads",
        Hierarchy::Split => "tasks",
    }
}

fn write(dir: &Path, settings: Vec<Setting>) -> io::Result<()> {
    settings.into_iter().try_for_each(|setting| setting.write(dir))
}
