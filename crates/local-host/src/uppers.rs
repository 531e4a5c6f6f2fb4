//! Uppers of sleeping machines, and their memory, between this host's disk and the store.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use base::{Digest, Epoch, ErrorKind, HomeId, MachineId, SnapshotId};
use control::host::{MemoryStanding, UpperHolder, UpperKept, UpperStanding, UpperStored};
use control::{Error, Result};
use keeper::layout::MachineDir;
use keeper::{launch, meanwhile, stored};
use objstore::ObjectStore;
use tokio_util::sync::CancellationToken;
use upper::{Hold, Holder, Saved, Standing, Upper};

use crate::host::machine_dir;
use crate::templates::{self, TEMPLATES};

/// Uppers of the machines below a data directory.
pub(crate) struct LocalUppers<'a> {
    pub(crate) store: &'a Arc<dyn ObjectStore>,
    pub(crate) data_dir: &'a Path,
    /// Memory that takes more on the disk than so many bytes stays here.
    pub(crate) memory_bytes_max: u64,
}

impl LocalUppers<'_> {
    fn dir(&self, machine: &MachineId) -> MachineDir {
        machine_dir(self.data_dir, machine)
    }

    fn upper(&self, machine: &MachineId) -> Upper {
        Upper::new(self.store.clone(), machine, self.dir(machine).upper_files())
    }

    pub(crate) async fn standing(&self, machine: &MachineId) -> UpperStanding {
        let files = self.dir(machine).upper_files();
        match tokio::task::spawn_blocking(move || Upper::standing(&files)).await {
            Ok(Standing::Stored { uncollected }) => {
                UpperStanding::Stored { uncollected: uncollected.map(|since| since.to_string()) }
            }
            Ok(Standing::Behind) => UpperStanding::Behind,
            Ok(Standing::Unknown) | Err(_) => UpperStanding::Unknown,
        }
    }

    pub(crate) async fn store(
        &self,
        machine: &MachineId,
        stop: &CancellationToken,
    ) -> Result<UpperStored> {
        let dir = self.dir(machine);
        // Its keeper writes to what would be read.
        if launch::is_alive(&dir) {
            return Ok(UpperStored::Stopped);
        }
        let root = root(&dir).await?;
        self.upper(machine).save(&root, stop).await.map(told).map_err(failed)
    }

    pub(crate) async fn memory_standing(&self, machine: &MachineId) -> MemoryStanding {
        let (dir, max) = (self.dir(machine), self.memory_bytes_max);
        let standing = tokio::task::spawn_blocking(move || memory_standing(&dir, max));
        standing.await.unwrap_or(MemoryStanding::Nothing)
    }

    pub(crate) async fn store_memory(
        &self,
        machine: &MachineId,
        stop: &CancellationToken,
    ) -> Result<UpperStored> {
        let dir = self.dir(machine);
        if launch::is_alive(&dir) {
            return Ok(UpperStored::Stopped);
        }
        let templates = self.data_dir.join(TEMPLATES);
        let to_store = move || {
            let memory = stored::to_store(&dir)?;
            Ok::<_, std::io::Error>(memory.map(|memory| upper::Memory {
                template: templates::memory_of(&dir, &templates),
                ..memory
            }))
        };
        let memory = tokio::task::spawn_blocking(to_store)
            .await
            .map_err(|error| Error::internal(error.to_string()))?
            .map_err(|error| Error::internal(format!("read the guest's memory: {error}")))?;
        match memory {
            None => Ok(UpperStored::Nothing),
            Some(memory) => {
                self.upper(machine).save_memory(memory, stop).await.map(told).map_err(failed)
            }
        }
    }

    pub(crate) async fn unstore_memory(&self, machine: &MachineId) -> Result<()> {
        self.upper(machine).unstore_memory().await.map_err(failed)
    }

    pub(crate) async fn collect(&self, machine: &MachineId, since: &str) -> Result<u64> {
        let since = since.parse().map_err(Error::internal)?;
        let upper = self.upper(machine);
        let collected = upper.collect(since).await.map_err(failed)?;
        upper.note_collected(since).await.map_err(failed)?;
        Ok(collected.objects)
    }

    pub(crate) async fn collect_templates(&self, known: &HashSet<MachineId>) -> Result<u64> {
        let collected = upper::collect_templates(self.store, known).await.map_err(failed)?;
        Ok(collected.objects)
    }

    pub(crate) async fn freed(&self, machine: &MachineId) -> Result<Option<String>> {
        let since = self.upper(machine).freed().await.map_err(failed)?;
        Ok(since.map(|since| since.to_string()))
    }

    pub(crate) async fn keep(
        &self,
        machine: &MachineId,
        home: Epoch,
        holder: &UpperHolder,
    ) -> Result<UpperKept> {
        let held = self.upper(machine).hold(&held_for(holder), home, true).await;
        Ok(match held.map_err(failed)? {
            Hold::Kept(kept) => UpperKept::Kept { memory: kept.memory },
            Hold::Nothing => UpperKept::Nothing,
            Hold::Storing => UpperKept::Storing,
            Hold::Moved => UpperKept::Moved,
        })
    }

    pub(crate) async fn keep_again(
        &self,
        machine: &MachineId,
        at: &SnapshotId,
        into: &MachineId,
    ) -> Result<Option<Result<(), String>>> {
        let kept = self.upper(machine).hold_again(at, into).await.map_err(failed)?;
        Ok(kept.map(|kept| kept.memory))
    }

    pub(crate) async fn let_go(&self, machine: &MachineId, holder: &UpperHolder) -> Result<()> {
        self.upper(machine).let_go(&held_for(holder)).await.map_err(failed)
    }

    pub(crate) async fn all_kept(&self, machine: &MachineId) -> Result<Vec<(SnapshotId, bool)>> {
        self.upper(machine).snapshots().await.map_err(failed)
    }

    pub(crate) async fn kept(&self, machine: &MachineId, at: &SnapshotId) -> Result<Option<bool>> {
        let kept = self.upper(machine).kept(at).await.map_err(failed)?;
        Ok(kept.map(|kept| kept.memory.is_ok()))
    }

    pub(crate) async fn begin(
        &self,
        from: &MachineId,
        into: &MachineId,
        home: &HomeId,
    ) -> Result<Option<String>> {
        let retell = |about: &[u8]| stored::for_fork(about, home);
        let without = upper::begin_fork(self.store, from, into, &retell).await.map_err(failed)?;
        // It is no new machine: it is not to begin with a template.
        let dir = self.dir(into);
        let noted = tokio::task::spawn_blocking(move || note_fork(&dir)).await;
        if let Ok(Err(error)) = noted {
            tracing::warn!(%error, "note that a machine is a fork");
        }
        Ok(without)
    }

    pub(crate) async fn abandon(&self, from: &MachineId, into: &MachineId) -> Result<()> {
        upper::abandon_fork(self.store, from, into).await.map_err(failed)
    }

    pub(crate) async fn delete(&self, machine: &MachineId) -> Result<Option<MachineId>> {
        Ok(upper::delete(self.store, machine).await.map_err(failed)?.freed)
    }
}

/// How far the memory is that takes at most `max` bytes on the disk, where it is to be stored.
fn memory_standing(dir: &MachineDir, max: u64) -> MemoryStanding {
    let files = dir.upper_files();
    if !meanwhile::remembers(dir) {
        return MemoryStanding::Nothing;
    }
    if !stored::is_there(dir) {
        let why = "something was published to its home while it slept";
        return MemoryStanding::StaysHere(why.to_owned());
    }
    if !matches!(Upper::standing(&files), Standing::Stored { .. }) {
        return MemoryStanding::Nothing;
    }
    match stored::allocated_bytes(dir) {
        _ if Upper::memory_is_stored(&files) => MemoryStanding::Stored,
        Ok(bytes) if bytes <= max => MemoryStanding::Behind,
        Ok(bytes) => {
            let mib = |bytes: u64| bytes.div_ceil(1 << 20);
            MemoryStanding::StaysHere(format!(
                "it takes {} MiB, and this server stores memory of at most {} MiB \
                 (store_memory_mib_max)",
                mib(bytes),
                max >> 20
            ))
        }
        Err(_) => MemoryStanding::Nothing,
    }
}

fn note_fork(dir: &MachineDir) -> std::io::Result<()> {
    crate::host::private_dir(dir.path())?;
    std::fs::write(dir.forked(), "")
}

fn held_for(holder: &UpperHolder) -> Holder {
    match holder {
        UpperHolder::Snapshot(id) => Holder::Snapshot(id.clone()),
        UpperHolder::Fork(id) => Holder::Fork(id.clone()),
    }
}

fn told(saved: Saved) -> UpperStored {
    match saved {
        Saved::Nothing => UpperStored::Nothing,
        Saved::Stopped => UpperStored::Stopped,
        Saved::Stored { generation, chunks, bytes } => {
            UpperStored::Stored { generation: generation.to_string(), chunks, bytes }
        }
    }
}

/// The root file system that the upper here lies over.
async fn root(dir: &MachineDir) -> Result<Digest> {
    let text = tokio::fs::read_to_string(dir.root_pin())
        .await
        .map_err(|error| Error::internal(format!("read root.sha256 of the machine: {error}")))?;
    text.trim().parse().map_err(|error| {
        Error::new(ErrorKind::Corrupt, format!("root.sha256 of the machine: {error}"))
    })
}

fn failed(error: upper::Error) -> Error {
    Error::new(error.kind(), error.to_string()).caused_by(error)
}

#[cfg(test)]
mod tests {
    use objstore::MemoryStore;
    use upper::Begin;

    use super::*;

    #[tokio::test]
    async fn memory_that_is_not_to_be_stored_says_why() {
        let temp = tempfile::tempdir().unwrap();
        let store: Arc<dyn ObjectStore> = Arc::new(MemoryStore::new());
        let (machine, root) = (MachineId::generate(), Digest::of(b"root"));
        let mut uppers =
            LocalUppers { store: &store, data_dir: temp.path(), memory_bytes_max: 1 << 20 };
        let dir = uppers.dir(&machine);
        std::fs::create_dir_all(dir.path()).unwrap();
        assert_eq!(uppers.memory_standing(&machine).await, MemoryStanding::Nothing);
        // A run that left memory, and an upper that is stored.
        let upper = uppers.upper(&machine);
        let begin = Begin { epoch: Epoch(1), was_awake: false, disk_bytes_max: 1 << 20 };
        upper.begin(begin, |_| Ok::<_, upper::Error>(()), |_| Ok(())).await.unwrap();
        std::fs::write(dir.upper_files().disk, "the disk").unwrap();
        upper.leave(Epoch(1)).await.unwrap();
        upper.save(&root, &CancellationToken::new()).await.unwrap();
        std::fs::write(dir.memory(), vec![1; 2 << 20]).unwrap();
        assert_eq!(uppers.memory_standing(&machine).await, MemoryStanding::Nothing);
        std::fs::write(dir.asleep(), "{}").unwrap();
        let MemoryStanding::StaysHere(why) = uppers.memory_standing(&machine).await else {
            panic!("it is too large");
        };
        assert!(why.contains("it takes 2 MiB") && why.contains("at most 1 MiB"), "{why}");
        uppers.memory_bytes_max = 4 << 20;
        assert_eq!(uppers.memory_standing(&machine).await, MemoryStanding::Behind);
        std::fs::write(dir.meanwhile(), "{}").unwrap();
        let MemoryStanding::StaysHere(why) = uppers.memory_standing(&machine).await else {
            panic!("something was published");
        };
        assert!(why.contains("published"), "{why}");
    }
}
