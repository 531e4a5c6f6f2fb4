//! From the kernel's first user process to an agent that listens.
//!
//! # Order
//! Kernel file systems → modules → disks → overlay root → the rest of the mounts → cgroup of the
//! processes → limits → loopback and card. One line on the console for each. Nothing here differs from
//! machine to machine, nor uses up randomness that a machine keeps: a guest that has booted so far may
//! be saved and become many ([`crate::configure`] makes each of them somebody's).
//!
//! # Failure
//! Without a root there is no guest: fatal. Without network there is one that says so on the console;
//! the host decides. Without a cgroup it works but cannot be frozen.

mod cmdline;
mod disks;
mod modules;
pub(crate) mod root;

use std::fs;

use nix::sys::resource::{Resource, setrlimit};
use nix::sys::stat::{Mode, umask};

use crate::configure::write_resolv_conf;
use crate::console::say;
use crate::freezer::Freezer;
use crate::limits::{FILES_HARD, FILES_SOFT};
use crate::{Error, net};
use root::OldRoot;

/// A booted guest.
#[derive(Debug)]
pub(crate) struct Booted {
    pub(crate) old_root: OldRoot,
    /// Why processes cannot be frozen, where they cannot.
    pub(crate) freezer: Result<Freezer, String>,
}

/// Boots. Only PID 1 of a guest may call it.
pub(crate) fn boot() -> Result<Booted, Error> {
    umask(Mode::from_bits_truncate(0o022));
    root::mount_kernel_file_systems()?;
    let loaded = modules::load()?;
    say(&format!("{loaded} kernel modules loaded"));
    let disks = disks::find()?;
    disks.send_at_once();
    let old_root = root::switch_to(&disks)?;
    root::mount_the_rest();
    say(&format!("root: image {} under upper {}", disks.image.display(), disks.upper.display()));
    let freezer = Freezer::make().map_err(|error| error.to_string());
    if let Err(why) = &freezer {
        say(&format!("processes cannot be frozen: {why}"));
    }
    for error in [set_limits(), network()].into_iter().filter_map(Result::err) {
        say(&error.to_string());
    }
    Ok(Booted { old_root, freezer })
}

fn set_limits() -> Result<(), Error> {
    // Children put theirs back to 0.
    fs::write("/proc/self/oom_score_adj", "-1000")
        .map_err(Error::io("exempt the agent from OOM"))?;
    setrlimit(Resource::RLIMIT_NOFILE, FILES_SOFT, FILES_HARD)
        .map_err(Error::sys("raise the limit of open files"))
}

fn network() -> Result<(), Error> {
    net::up_loopback()?;
    let cmdline = fs::read_to_string("/proc/cmdline").map_err(Error::io("read /proc/cmdline"))?;
    let Some(settings) = cmdline::network(&cmdline)? else { return Ok(()) };
    net::up_card(&settings)?;
    if let Some(dns) = settings.dns {
        write_resolv_conf(&format!("nameserver {dns}\n"))?;
    }
    say(&format!("network: {}/{}", settings.address, settings.prefix));
    Ok(())
}
