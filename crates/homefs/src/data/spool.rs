//! Local files that hold written bytes until they are sealed.
//!
//! `spool/<ino>-<generation>` has the bytes of one inode at their own offsets; `dirty_extent`
//! says which of them count. Sealing starts a new generation, so the files that are being sealed
//! do not change under the sealer's hands.
//!
//! # Invariants
//! - Bytes are in the file before a row names them, and the file is synced before the row is.
//! - A file is removed only when a state that does not name it is durable on this host.
//!
//! # Failure
//! A row without its file is content lost with a host or a directory; `recover` falls back to the
//! sealed content.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use vfs::{Errno, FsError, Ino, Result};

use crate::limits::SPOOL_FILES_OPEN_MAX;

/// Inode and generation: one spool file.
pub(crate) type SpoolId = (Ino, u64);

/// The spool directory.
#[derive(Debug)]
pub(crate) struct Spool {
    dir: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    open: HashMap<SpoolId, Arc<File>>,
    /// Files written since the last sync.
    grown: HashMap<SpoolId, Arc<File>>,
}

impl Spool {
    /// The spool in `dir`, which is made if missing.
    pub(crate) fn open(dir: PathBuf) -> io::Result<Self> {
        std::fs::create_dir_all(&dir)?;
        Ok(Self { dir, state: Mutex::default() })
    }

    /// Writes all of `data` at `offset`.
    pub(crate) fn write(&self, id: SpoolId, offset: u64, data: &[u8]) -> Result<()> {
        let file = self.file(id, true).map_err(failed)?;
        file.write_all_at(data, offset).map_err(failed)?;
        self.state.lock().grown.entry(id).or_insert(file);
        Ok(())
    }

    /// Fills `into` from `offset`. `ESTALE` where the file is gone: it was sealed meanwhile, and
    /// the caller looks again.
    pub(crate) fn read(&self, id: SpoolId, offset: u64, into: &mut [u8]) -> Result<()> {
        let file = self.file(id, false).map_err(failed)?;
        file.read_exact_at(into, offset).map_err(failed)
    }

    /// Flushes what was written to disk since the last time. Bytes of the files, not their rows.
    ///
    /// A new file's name needs no sync of the directory: the journals of ext4, xfs and btrfs carry
    /// it along with the first sync of the file.
    pub(crate) fn sync(&self) -> Result<()> {
        let grown = std::mem::take(&mut self.state.lock().grown);
        grown.values().try_for_each(|file| file.sync_data()).map_err(|error| {
            self.state.lock().grown.extend(grown.clone());
            failed(error)
        })
    }

    /// These are sealed elsewhere, and on disk there.
    pub(crate) fn sealed(&self, ids: &[SpoolId]) {
        let mut state = self.state.lock();
        for id in ids {
            state.grown.remove(id);
        }
    }

    /// Removes a file that no durable state names.
    pub(crate) fn remove(&self, id: SpoolId) {
        let mut state = self.state.lock();
        state.open.remove(&id);
        state.grown.remove(&id);
        drop(state);
        match std::fs::remove_file(self.path(id)) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(%error, ino = id.0, "a spool file could not be removed"),
        }
    }

    /// All files that are there.
    pub(crate) fn list(&self) -> io::Result<Vec<SpoolId>> {
        let mut ids = Vec::new();
        for entry in std::fs::read_dir(&self.dir)? {
            let name = entry?.file_name();
            let parsed = name.to_str().and_then(|name| name.split_once('-'));
            if let Some((ino, generation)) = parsed
                && let (Ok(ino), Ok(generation)) = (ino.parse(), generation.parse())
            {
                ids.push((ino, generation));
            }
        }
        Ok(ids)
    }

    fn path(&self, (ino, generation): SpoolId) -> PathBuf {
        self.dir.join(format!("{ino}-{generation}"))
    }

    fn file(&self, id: SpoolId, create: bool) -> io::Result<Arc<File>> {
        let mut state = self.state.lock();
        if let Some(file) = state.open.get(&id) {
            return Ok(file.clone());
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        let file = match options.open(self.path(id)) {
            Err(error) if create && error.kind() == io::ErrorKind::NotFound => {
                options.create(true).open(self.path(id))?
            }
            other => other?,
        };
        if state.open.len() >= SPOOL_FILES_OPEN_MAX {
            // Readers and the syncer hold their own references; which one goes does not matter.
            if let Some(victim) = state.open.keys().next().copied() {
                state.open.remove(&victim);
            }
        }
        let file = Arc::new(file);
        state.open.insert(id, file.clone());
        Ok(file)
    }
}

/// Turns an error of a local file into one of the file system.
pub(crate) fn failed(error: io::Error) -> FsError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            FsError::with(Errno::ENOSPC, "the host has no space left for this home")
        }
        io::ErrorKind::FileTooLarge => FsError::new(Errno::EFBIG),
        io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof => FsError::new(Errno::ESTALE),
        _ => FsError::with(Errno::EIO, format!("local files of the home: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_what_is_removed_is_stale() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(dir.path().join("spool")).unwrap();
        spool.write((5, 1), 100, b"hello").unwrap();
        let mut got = [0; 5];
        spool.read((5, 1), 100, &mut got).unwrap();
        assert_eq!(&got, b"hello");
        assert_eq!(spool.list().unwrap(), [(5, 1)]);
        spool.sync().unwrap();
        spool.remove((5, 1));
        assert_eq!(spool.read((5, 1), 100, &mut got).unwrap_err().errno(), Errno::ESTALE);
        assert!(spool.list().unwrap().is_empty());
    }
}
