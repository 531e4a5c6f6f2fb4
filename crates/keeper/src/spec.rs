//! What a keeper is told before it starts.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base::{Digest, Epoch, HomeId, MachineId, ServerId};
use serde::{Deserialize, Serialize};
use upper::DISK_LEFT_MIN;

use crate::launch;
use crate::layout::MachineDir;
use crate::{Failure, Result};

/// The content of `keeper.json`. Holds no credential: those stay in the environment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KeeperSpec {
    /// The machine.
    pub machine: MachineId,
    /// Its name, also its host name.
    pub name: String,
    /// Its home.
    pub home: HomeId,
    /// The server on whose behalf the home is held.
    pub holder: ServerId,
    /// The object store's URL, without credentials.
    pub store_url: String,
    /// Most bytes the home may hold.
    pub storage_bytes_max: u64,
    /// True where guest `fsync` is content with the local disk.
    pub fsync_local: bool,
    /// Take the home even though another server holds it under this epoch and never released it (host loss).
    #[serde(default)]
    pub take_over_from: Option<Epoch>,
    /// Sleep with the guest's memory, and wake with it.
    #[serde(default)]
    pub keep_memory: bool,
    /// Seconds that the guest stays loaded once it sleeps with its memory; 0: not at all.
    #[serde(default)]
    pub warm_seconds: u64,
    /// Seconds the guest may take from power-on to its agent's first answer.
    pub boot_timeout_seconds: u64,
    /// The hypervisor's program; the usual one where it is not given.
    #[serde(default)]
    pub hypervisor: Option<PathBuf>,
    /// The instance to start, but for the root file system, which the upper decides.
    pub instance: runtime::Spec,
    /// Where there is none yet: the machine's writable layer.
    pub upper: UpperSpec,
}

/// A machine's writable layer, for where it is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpperSpec {
    /// Its length.
    pub bytes: u64,
    /// The root file system that a new one lies over.
    #[serde(with = "as_text")]
    pub root: Digest,
    /// Where root file systems are.
    pub images_dir: PathBuf,
}

mod as_text {
    use base::Digest;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(digest: &Digest, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(digest)
    }

    pub(super) fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<Digest, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

impl KeeperSpec {
    /// Reads `keeper.json`.
    ///
    /// # Errors
    /// `NotFound` and `Corrupt`, naming the machine directory's file.
    pub fn load(dir: &MachineDir) -> Result<Self> {
        let bytes = std::fs::read(dir.spec()).map_err(|error| {
            Failure::new(base::ErrorKind::NotFound, format!("read keeper.json: {error}"))
        })?;
        serde_json::from_slice(&bytes).map_err(|error| {
            Failure::new(base::ErrorKind::Corrupt, format!("keeper.json is not readable: {error}"))
        })
    }

    /// Writes `keeper.json`, readable by its owner only.
    ///
    /// # Errors
    /// `Internal` where the disk refuses.
    pub fn store(&self, dir: &MachineDir) -> Result<()> {
        let bytes = serde_json::to_vec_pretty(self)
            .map_err(|error| Failure::internal("encode keeper.json", error))?;
        upper::file::replace_unnamed(&dir.spec(), &bytes)
            .map_err(|error| Failure::internal("write keeper.json", error))
    }

    pub(crate) fn boot_timeout(&self) -> Duration {
        Duration::from_secs(self.boot_timeout_seconds.clamp(1, 3600))
    }
}

/// Whether the disk of `dir` has room for all of the memory of a guest of `memory_mib`. A page that finds none
/// would end the guest.
#[must_use]
pub fn has_room_for_memory(dir: &Path, memory_mib: u64) -> bool {
    let needed = (memory_mib << 20).saturating_add(DISK_LEFT_MIN);
    let free = File::open(dir).and_then(upper::file::free);
    let enough = free.as_ref().is_ok_and(|free| *free >= needed);
    if !enough {
        tracing::warn!(needed, ?free, "too little room on the disk to keep a guest's memory");
    }
    enough
}

/// How many bytes have to become free on the disk of `data` before a machine of `dir` may wake there; 0 where it may.
/// That is what a guest needs to go on at all, and what memory that it goes on from has no place for yet: of so many
/// MiB, where it goes on from any.
#[must_use]
pub fn room_lacking(data: &Path, dir: &MachineDir, memory_mib: Option<u64>) -> u64 {
    // Where nobody can say, there is no lack of it.
    let Ok(free) = File::open(data).and_then(upper::file::free) else { return 0 };
    // One that is awake may be asked about for a sleep and a wake.
    let goes_on = dir.devices().exists() || launch::is_alive(dir);
    let memory = memory_mib.filter(|_| goes_on).and_then(|mib| {
        let file = std::fs::metadata(dir.memory()).ok()?;
        Some((file.blocks() * 512, mib << 20))
    });
    lacking(free, memory)
}

/// `memory`: what is on the disk of a saved one, and its length.
fn lacking(free: u64, memory: Option<(u64, u64)>) -> u64 {
    let to_come = memory.map_or(0, |(here, all)| all.saturating_sub(here));
    runtime::ROOM_MIN.saturating_add(to_come).saturating_sub(free)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_a_guest_has_or_goes_on_from_needs_room_and_what_is_left_of_another_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let dir = MachineDir::new(folder.path());
        File::create(dir.memory()).unwrap();
        // More than any disk has.
        let lacking = || room_lacking(folder.path(), &dir, Some(1 << 40)) > 0;
        assert!(!lacking());
        let lock = crate::lock::Lock::take(&dir).unwrap();
        assert!(lacking(), "it is awake");
        drop(lock);
        assert!(!lacking());
        File::create(dir.devices()).unwrap();
        assert!(lacking(), "it sleeps");
    }

    #[test]
    fn a_wake_needs_room_to_run_and_for_what_of_its_memory_is_not_here() {
        const MIB: u64 = 1 << 20;
        let min = runtime::ROOM_MIN;
        assert_eq!((lacking(min, None), lacking(min - 1, None), lacking(0, None)), (0, 1, min));
        assert_eq!(lacking(min, Some((100 * MIB, 512 * MIB))), 412 * MIB);
        assert_eq!(lacking(min + 412 * MIB, Some((100 * MIB, 512 * MIB))), 0);
        assert_eq!(lacking(min, Some((600 * MIB, 512 * MIB))), 0, "more than it takes");
    }

    #[test]
    fn memory_that_nobody_goes_on_from_needs_none() {
        let folder = tempfile::tempdir().unwrap();
        let dir = MachineDir::new(folder.path().to_owned());
        assert_eq!(
            room_lacking(folder.path(), &dir, Some(1 << 40)),
            0,
            "the test's disk is not full"
        );
        File::create(dir.memory()).unwrap();
        assert_eq!(room_lacking(folder.path(), &dir, Some(1 << 30)), 0);
        File::create(dir.devices()).unwrap();
        assert!(room_lacking(folder.path(), &dir, Some(1 << 30)) > 0);
        assert_eq!(room_lacking(folder.path(), &dir, None), 0, "it is to boot");
    }
}
