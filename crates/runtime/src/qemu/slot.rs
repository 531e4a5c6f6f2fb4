//! Claims one of this host's slots for an instance.
//!
//! A slot is a number below [`SLOTS`] that no other instance of the host has. User id, address and
//! interface name follow from it, so none of them can collide. A claim is a file in
//! `/run/dormouse/instances` with a lock on it: the kernel drops the lock when its holder dies, however
//! it dies, so a file whose lock can be had belongs to nobody and is swept.
//!
//! Order: [`Registry::claim`] takes the registry's own lock, sweeps, then claims; network changes of
//! all instances happen under that lock too ([`Registry::exclusive`]), as they share one nftables table.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use base::{Digest, MachineId};
use nix::fcntl::{Flock, FlockArg};

use super::{network, place, start_error};
use crate::Error;
use crate::limits::SLOTS;

const HOST_DIR: &str = "/run/dormouse/instances";
/// First user id for hypervisors. The 16-bit range above it is outside of what distributions,
/// systemd and container managers hand out.
const USER_ID_BASE: u32 = 0x7000_0000;
/// How often, and after what time, a sweep looks again for processes that were still ending: 200 ms in all.
const CLEAN_TRIES: u32 = 11;
const CLEAN_PAUSE: Duration = Duration::from_millis(20);
/// `nobody`, for containers whose user namespace has no such ids.
const NOBODY: u32 = 65534;

/// Takes down what the dead holder of a slot left; `ResourceBusy` where processes are still ending.
type Remove<'a> = dyn FnMut(u16) -> io::Result<()> + 'a;

/// All slots of this host.
#[derive(Debug, Clone)]
pub(crate) struct Registry {
    dir: PathBuf,
}

/// The registry's lock.
#[derive(Debug)]
pub(crate) struct Exclusive {
    _lock: Flock<File>,
}

/// A claimed slot; free again when dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    registry: Registry,
    number: u16,
    _lock: Flock<File>,
}

impl Registry {
    /// The registry of this host.
    pub(crate) fn host() -> Result<Self, Error> {
        let dir = PathBuf::from(HOST_DIR);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)
            .map_err(start_error(&format!("create {HOST_DIR}")))?;
        Ok(Self { dir })
    }

    /// Another, with slots of its own.
    #[cfg(test)]
    pub(crate) fn at(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// Claims a slot for `machine`, after taking down what dead holders left behind.
    pub(crate) fn claim(&self, machine: &MachineId) -> Result<Slot, Error> {
        let _exclusive = self.exclusive()?;
        self.sweep(&mut place::remove)
            .and_then(|_| self.claim_free(machine))
            .map_err(start_error("claim a slot of this host"))?
            .ok_or_else(|| Error::Start(format!("all {SLOTS} slots of this host are taken")))
    }

    /// Takes down what dead holders left behind, the shared table too where nobody is left. Gives processes
    /// that are still ending a moment; what is left after that the next sweep takes.
    pub(crate) fn clean(&self) -> Result<(), Error> {
        self.clean_with(&mut place::remove, &mut network::remove_table, &mut || {
            thread::sleep(CLEAN_PAUSE);
        })
    }

    fn clean_with(
        &self,
        remove: &mut Remove<'_>,
        remove_table: &mut dyn FnMut() -> io::Result<()>,
        pause: &mut dyn FnMut(),
    ) -> Result<(), Error> {
        for tries in 1.. {
            let exclusive = self.exclusive()?;
            let ending = self
                .sweep(remove)
                .and_then(
                    |ending| if self.holds(0) { remove_table().map(|()| 0) } else { Ok(ending) },
                )
                .map_err(start_error("sweep the slots of this host"))?;
            // Every start of the host needs it, and must not wait for somebody else's processes.
            drop(exclusive);
            if ending == 0 || tries == CLEAN_TRIES {
                break;
            }
            pause();
        }
        Ok(())
    }

    /// Waits until no other process changes slots or network.
    pub(crate) fn exclusive(&self) -> Result<Exclusive, Error> {
        let lock = File::create(self.beside("lock"))
            .and_then(|file| Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, e)| e.into()))
            .map_err(start_error("lock the slots of this host"))?;
        Ok(Exclusive { _lock: lock })
    }

    /// Where a file of all instances is. It stays when they go, and is changed under the lock only.
    pub(crate) fn beside(&self, extension: &str) -> PathBuf {
        self.dir.with_extension(extension)
    }

    /// True where exactly `count` slots are held. Only under the lock is that worth anything.
    pub(crate) fn holds(&self, count: usize) -> bool {
        fs::read_dir(&self.dir).is_ok_and(|entries| entries.take(count + 1).count() == count)
    }

    fn claim_free(&self, machine: &MachineId) -> io::Result<Option<Slot>> {
        // The same machine gets the same slot where it can: names in logs stay the same.
        let first = first_choice(machine);
        for step in 0..SLOTS {
            let number = first.wrapping_add(u16::try_from(step).unwrap_or(u16::MAX));
            let file =
                OpenOptions::new().write(true).create_new(true).mode(0o600).open(self.path(number));
            let mut file = match file {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(error),
            };
            writeln!(file, "{machine}")?;
            let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock)
                .map_err(|(_, error)| io::Error::from(error))?;
            return Ok(Some(Slot { registry: self.clone(), number, _lock: lock }));
        }
        Ok(None)
    }

    /// Calls `remove` for every slot whose holder is dead, and frees it. One that cannot be taken
    /// down stays taken; that must not keep others from starting. Returns in how many processes are still
    /// ending.
    fn sweep(&self, remove: &mut Remove<'_>) -> io::Result<usize> {
        let mut ending = 0;
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            let Some(number) = number_of(&path) else { continue };
            // A holder frees its slot without asking for the registry's lock: it may be gone by now.
            let Ok(file) = File::open(&path) else { continue };
            let Ok(lock) = Flock::lock(file, FlockArg::LockExclusiveNonblock) else { continue };
            match remove(number).and_then(|()| remove_file(&path)) {
                Ok(()) => tracing::info!(slot = number, "took down what a dead keeper left"),
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                    tracing::info!(slot = number, "what a dead keeper left is still ending");
                    ending += 1;
                }
                Err(error) => {
                    tracing::warn!(slot = number, %error, "take down what a dead keeper left");
                }
            }
            drop(lock);
        }
        Ok(ending)
    }

    fn path(&self, number: u16) -> PathBuf {
        self.dir.join(format!("{number:04x}"))
    }
}

impl Slot {
    pub(crate) fn number(&self) -> u16 {
        self.number
    }

    pub(crate) fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The user that the slot's hypervisor runs as.
    pub(crate) fn user_id(&self) -> u32 {
        let own = USER_ID_BASE + u32::from(self.number);
        if maps_user(&user_ids(), own) { own } else { NOBODY }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let path = self.registry.path(self.number);
        if let Err(error) = remove_file(&path) {
            tracing::warn!(path = %path.display(), %error, "free a slot");
        }
    }
}

/// Removes a file that another may have removed already.
fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn first_choice(machine: &MachineId) -> u16 {
    let digest = Digest::of(machine.as_str().as_bytes());
    let [high, low, ..] = digest.as_bytes();
    u16::from_be_bytes([*high, *low])
}

fn number_of(path: &Path) -> Option<u16> {
    u16::from_str_radix(path.file_name()?.to_str()?, 16).ok()
}

/// Whether each slot has a user id that no other has.
pub(crate) fn has_own_users() -> bool {
    let map = user_ids();
    maps_user(&map, USER_ID_BASE) && maps_user(&map, USER_ID_BASE + (SLOTS - 1))
}

/// Those that our user namespace has.
fn user_ids() -> String {
    fs::read_to_string("/proc/self/uid_map").unwrap_or_default()
}

/// True where `uid_map` (lines of first id inside, first outside, count) has `user`.
fn maps_user(uid_map: &str, user: u32) -> bool {
    uid_map.lines().any(|line| {
        let mut fields = line.split_whitespace().map(|field| field.parse::<u64>().unwrap_or(0));
        let (first, _, count) = (fields.next(), fields.next(), fields.next());
        match (first, count) {
            (Some(first), Some(count)) => (first..first + count).contains(&u64::from(user)),
            _ => false,
        }
    })
}

#[cfg(test)]
mod tests;
