//! Appending to the journal.
//!
//! # Invariants
//! - A record is in the file whole or not at all: what could not be written whole is cut off again,
//!   and where that fails too nothing more is appended.
//! - A segment is removed only when the database on disk has everything in it.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io;
#[cfg(not(test))]
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use vfs::{Errno, FsError, Result};

use super::{frame, segment};
use crate::data::spool::failed;
use crate::limits::SEGMENT_BYTES;

/// The end of the journal.
#[derive(Debug)]
pub(crate) struct Journal {
    dir: PathBuf,
    /// Full segments: the last record in each, and its path.
    full: VecDeque<(u64, PathBuf)>,
    open: Open,
    /// The number of the last record.
    last: u64,
    synced: u64,
    /// Full segments that were not synced since they were written to.
    unsynced: Vec<Arc<File>>,
    /// Segments were made since the directory was synced.
    named: bool,
    broken: bool,
    #[cfg(test)]
    pub(crate) faults: Arc<super::faults::Faults>,
}

#[derive(Debug)]
struct Open {
    file: Arc<File>,
    path: PathBuf,
    len: u64,
    empty: bool,
}

/// What is to be synced, in this order, for everything up to `upto` to be on disk.
#[derive(Debug)]
pub(crate) struct SyncWork {
    pub(crate) upto: u64,
    files: Vec<Arc<File>>,
    dir: Option<PathBuf>,
    #[cfg(test)]
    faults: Arc<super::faults::Faults>,
}

impl SyncWork {
    /// Syncs it. Takes long.
    pub(crate) fn run(&self) -> io::Result<()> {
        #[cfg(test)]
        self.faults.sync()?;
        self.files.iter().try_for_each(|file| file.sync_data())?;
        match &self.dir {
            Some(dir) => File::open(dir)?.sync_all(),
            None => Ok(()),
        }
    }
}

impl Journal {
    /// Goes on after record `last` in a new segment. `full`: those that are there.
    pub(crate) fn begin(dir: PathBuf, last: u64, full: Vec<(u64, PathBuf)>) -> Result<Self> {
        let open = Self::new_segment(&dir, last + 1).map_err(failed)?;
        let full: VecDeque<_> = full.into_iter().filter(|(_, path)| *path != open.path).collect();
        // Whoever wrote those may have been killed before it synced them.
        let reopen = |(_, path): &(u64, PathBuf)| File::open(path).map(Arc::new);
        let unsynced = full.iter().map(reopen).collect::<io::Result<_>>().map_err(failed)?;
        Ok(Self {
            dir,
            full,
            open,
            last,
            synced: 0,
            unsynced,
            named: true,
            broken: false,
            #[cfg(test)]
            faults: Arc::default(),
        })
    }

    /// The number of the last record.
    pub(crate) fn last(&self) -> u64 {
        self.last
    }

    /// Everything up to this record is known to be on disk.
    pub(crate) fn synced(&mut self, upto: u64) {
        self.synced = self.synced.max(upto);
    }

    /// Appends the record in `out`, which [`frame::begin`] began, as the next one.
    pub(crate) fn append(&mut self, out: &mut [u8]) -> Result<u64> {
        if self.broken {
            return Err(FsError::with(
                Errno::EIO,
                "the home's journal cannot be written; see the server's log",
            ));
        }
        if self.open.len >= SEGMENT_BYTES {
            self.rotate()?;
        }
        let seq = self.last + 1;
        frame::finish(out, seq, self.synced);
        if let Err(error) = self.write(out) {
            self.cut_off();
            return Err(failed(error));
        }
        self.open.len += out.len() as u64;
        self.open.empty = false;
        self.last = seq;
        Ok(seq)
    }

    fn write(&self, out: &[u8]) -> io::Result<()> {
        #[cfg(test)]
        return self.faults.write(&self.open.file, out, self.open.len);
        #[cfg(not(test))]
        self.open.file.write_all_at(out, self.open.len)
    }

    /// Notes that the change with the next number goes to the database.
    pub(crate) fn mark(&mut self) -> Result<u64> {
        let mut out = Vec::new();
        frame::begin(&mut out);
        self.append(&mut out)
    }

    /// Takes the mark back that was appended last: the change did not come about.
    pub(crate) fn unmark(&mut self) {
        self.last -= 1;
        self.open.len -= frame::HEADER as u64;
        self.open.empty = self.open.len == segment::HEADER as u64;
        self.cut_off();
    }

    /// Removes what is behind the last record. Where that fails, what follows could not be read.
    fn cut_off(&mut self) {
        if let Err(error) = self.open.file.set_len(self.open.len) {
            tracing::error!(%error, "the home's journal could not be mended");
            self.broken = true;
        }
    }

    /// What to sync for all records so far.
    pub(crate) fn begin_sync(&mut self) -> SyncWork {
        let mut files = std::mem::take(&mut self.unsynced);
        files.push(self.open.file.clone());
        let dir = std::mem::take(&mut self.named).then(|| self.dir.clone());
        SyncWork {
            upto: self.last,
            files,
            dir,
            #[cfg(test)]
            faults: self.faults.clone(),
        }
    }

    /// Lets go of segments that hold nothing after `applied`, which is in the database on disk.
    pub(crate) fn trim(&mut self, applied: u64) {
        while self.has_full(applied)
            && let Some((_, path)) = self.full.pop_front()
        {
            if let Err(error) = fs::remove_file(&path) {
                tracing::warn!(%error, "a segment of the home's journal could not be removed");
            }
        }
    }

    /// Whether [`trim`](Self::trim) would find anything.
    pub(crate) fn has_full(&self, applied: u64) -> bool {
        self.full.front().is_some_and(|(last, _)| *last <= applied)
    }

    /// Removes everything. The database on disk has all of it.
    pub(crate) fn clear(&mut self) -> Result<()> {
        if !self.open.empty {
            self.rotate()?;
        }
        self.trim(u64::MAX);
        self.unsynced.clear();
        Ok(())
    }

    fn rotate(&mut self) -> Result<()> {
        let next = Self::new_segment(&self.dir, self.last + 1).map_err(failed)?;
        let old = std::mem::replace(&mut self.open, next);
        self.full.push_back((self.last, old.path));
        self.unsynced.push(old.file);
        self.named = true;
        Ok(())
    }

    fn new_segment(dir: &std::path::Path, first: u64) -> io::Result<Open> {
        let file = Arc::new(segment::create(dir, first)?);
        let path = segment::path(dir, first);
        Ok(Open { file, path, len: segment::HEADER as u64, empty: true })
    }
}
