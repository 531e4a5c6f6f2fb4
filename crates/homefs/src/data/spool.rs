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

use std::collections::{HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use vfs::{Errno, FsError, Ino, Result};

use super::removal::Removal;
use crate::limits::{SPOOL_FILES_OPEN_MAX, SPOOL_WRITE_BYTES};

/// Inode and generation: one spool file.
pub(crate) type SpoolId = (Ino, u64);

/// The spool directory.
#[derive(Debug)]
pub(crate) struct Spool {
    dir: PathBuf,
    open: Mutex<HashMap<SpoolId, Arc<File>>>,
    /// Files written since the last sync. Not held open: there may be many.
    grown: Mutex<HashSet<SpoolId>>,
    /// Files were made since the last sync.
    named: AtomicBool,
    removal: Removal,
}

impl Spool {
    /// The spool in `dir`, which is made if missing.
    pub(crate) fn open(dir: PathBuf) -> io::Result<Self> {
        std::fs::create_dir_all(&dir)?;
        let named = AtomicBool::new(true);
        let (open, grown, removal) = (Mutex::default(), Mutex::default(), Removal::default());
        Ok(Self { dir, open, grown, named, removal })
    }

    /// This file was there at the start, and counts. Whoever wrote it may have been killed before it
    /// was synced.
    pub(crate) fn inherit(&self, id: SpoolId) {
        self.grown.lock().insert(id);
    }

    /// Writes all of `data` at `offset`.
    pub(crate) fn write(&self, id: SpoolId, offset: u64, data: &[u8]) -> Result<()> {
        let file = self.file(id, true).map_err(failed)?;
        write_in_pieces(&file, data, offset).map_err(failed)?;
        self.grown.lock().insert(id);
        Ok(())
    }

    /// Makes a file reach up to `end`, with zeros.
    pub(crate) fn reach(&self, id: SpoolId, end: u64) -> Result<()> {
        let file = self.file(id, true).map_err(failed)?;
        if file.metadata().map_err(failed)?.len() < end {
            file.set_len(end).map_err(failed)?;
        }
        self.grown.lock().insert(id);
        Ok(())
    }

    /// Fills `into` from `offset`. `ESTALE` where the file is gone: it was sealed meanwhile, and
    /// the caller looks again.
    pub(crate) fn read(&self, id: SpoolId, offset: u64, into: &mut [u8]) -> Result<()> {
        let file = self.file(id, false).map_err(failed)?;
        file.read_exact_at(into, offset).map_err(failed)
    }

    /// Flushes what was written to disk since the last time: bytes of the files and their names,
    /// not the rows. A failure is final: see `durable`.
    pub(crate) fn sync(&self) -> Result<()> {
        let grown = std::mem::take(&mut *self.grown.lock());
        let named = self.named.swap(false, Ordering::AcqRel);
        let sync = || {
            for id in grown {
                let held = self.open.lock().get(&id).cloned();
                match held.map_or_else(|| File::open(self.path(id)).map(Arc::new), Ok) {
                    Ok(file) => file.sync_data()?,
                    // It was removed since.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
            }
            if named { File::open(&self.dir)?.sync_all() } else { Ok(()) }
        };
        sync().map_err(failed)
    }

    /// These need not be synced: they are sealed elsewhere and on disk there, or nothing names them.
    pub(crate) fn sealed(&self, ids: &[SpoolId]) {
        let mut grown = self.grown.lock();
        for id in ids {
            grown.remove(id);
        }
    }

    /// Removes files that no durable state names. Where there are many, most go later, by
    /// themselves: callers sync meanwhile.
    pub(crate) fn remove(&self, ids: &[SpoolId]) {
        {
            let mut open = self.open.lock();
            let mut grown = self.grown.lock();
            for id in ids {
                open.remove(id);
                grown.remove(id);
            }
        }
        self.removal.remove(ids.iter().map(|id| self.path(*id)).collect());
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

    /// How long a file is, in bytes.
    pub(crate) fn len(&self, id: SpoolId) -> io::Result<u64> {
        Ok(std::fs::metadata(self.path(id))?.len())
    }

    fn path(&self, (ino, generation): SpoolId) -> PathBuf {
        self.dir.join(format!("{ino}-{generation}"))
    }

    fn file(&self, id: SpoolId, create: bool) -> io::Result<Arc<File>> {
        if let Some(file) = self.open.lock().get(&id) {
            return Ok(file.clone());
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        let file = match options.open(self.path(id)) {
            Err(error) if create && error.kind() == io::ErrorKind::NotFound => {
                let file = options.create(true).truncate(false).open(self.path(id))?;
                self.named.store(true, Ordering::Release);
                file
            }
            other => other?,
        };
        let mut open = self.open.lock();
        if open.len() >= SPOOL_FILES_OPEN_MAX {
            // Those who use it hold their own references; which one goes does not matter.
            if let Some(victim) = open.keys().next().copied() {
                open.remove(&victim);
            }
        }
        Ok(open.entry(id).or_insert_with(|| Arc::new(file)).clone())
    }
}

/// Writes all of `data` at `offset`, in pieces that do not cross a multiple of
/// [`SPOOL_WRITE_BYTES`].
fn write_in_pieces(file: &File, mut data: &[u8], mut offset: u64) -> io::Result<()> {
    while !data.is_empty() {
        let room = SPOOL_WRITE_BYTES - offset % SPOOL_WRITE_BYTES;
        let len = usize::try_from(room).unwrap_or(usize::MAX).min(data.len());
        let (piece, rest) = data.split_at(len);
        file.write_all_at(piece, offset)?;
        (data, offset) = (rest, offset + len as u64);
    }
    Ok(())
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
        spool.remove(&[(5, 1)]);
        assert_eq!(spool.read((5, 1), 100, &mut got).unwrap_err().errno(), Errno::ESTALE);
        assert!(spool.list().unwrap().is_empty());
    }

    #[test]
    fn a_long_write_that_begins_and_ends_anywhere_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(dir.path().join("spool")).unwrap();
        let data: Vec<u8> = (0..300_000_u32).map(|n| (n % 251) as u8).collect();
        for offset in [0, 1, 65_535, 65_536, 70_001] {
            spool.write((6, 1), offset, &data).unwrap();
            let mut got = vec![0; data.len()];
            spool.read((6, 1), offset, &mut got).unwrap();
            assert_eq!(got, data);
        }
    }
}
