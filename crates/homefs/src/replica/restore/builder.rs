//! The file that a restore makes, and which of its pages have their content.
//!
//! Everything here blocks.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::layout::{shm_of, temporary_of, wal_of};
use crate::opening::Opening;
use crate::replica::container::decode_group;
use crate::replica::error::{Damaged, Error, Result};
use crate::replica::fetch::Piece;
use crate::replica::index::Group;
use crate::replica::log::Head;
use crate::replica::pages::{DatabaseFile, PageSource, corrupt_local, page_offset};

/// Bytes that are not on the disk at most, while a file is made. What is left to the end to be synced takes its time at
/// once, and nothing tells meanwhile that it gets on.
const UNSYNCED_MAX: u64 = 256 << 20;

/// A file in the making. Dropped before [`Builder::finish`], it leaves nothing behind.
#[derive(Debug)]
pub(super) struct Builder {
    path: PathBuf,
    temporary: PathBuf,
    file: File,
    page_size: u32,
    page_count: u32,
    /// Pages that have their final content, one bit each.
    written: Vec<u64>,
    /// Pages that the file had before; 0 where it is built from nothing.
    pages_before: u32,
    /// Bytes written since it was last synced.
    unsynced: u64,
    finished: bool,
}

impl Builder {
    /// A file of which no page is known.
    pub(super) fn from_nothing(path: &Path, target: &Head) -> Result<Self> {
        let temporary = temporary_of(path);
        remove(&temporary)?;
        Self::new(path, temporary, target, 0)
    }

    /// A copy of the file at `path`, to be brought forward.
    pub(super) fn advance(path: &Path, target: &Head, opening: &Opening) -> Result<Self> {
        if fs::metadata(wal_of(path)).is_ok_and(|wal| wal.len() > 0) {
            return Err(corrupt_local(path, "it has a WAL, so it is not what was committed"));
        }
        let pages_before = match fs::metadata(path).map_err(Error::local("look at", path))?.len() {
            0 => 0,
            _ => {
                let old = DatabaseFile::open(path)?;
                if old.page_size() != target.page_size {
                    return Err(corrupt_local(path, "its page size is not that of the home"));
                }
                old.page_count()
            }
        };
        let temporary = temporary_of(path);
        remove(&temporary)?;
        copy(path, &temporary, opening).map_err(Error::local("copy", path))?;
        Self::new(path, temporary, target, pages_before)
    }

    fn new(path: &Path, temporary: PathBuf, target: &Head, pages_before: u32) -> Result<Self> {
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&temporary)
            .map_err(Error::local("create", &temporary))?;
        let builder = Self {
            path: path.to_owned(),
            temporary,
            file,
            page_size: target.page_size,
            page_count: target.page_count,
            written: vec![0; (target.page_count as usize).div_ceil(64)],
            pages_before,
            unsynced: 0,
            finished: false,
        };
        let size = u64::from(builder.page_count) * u64::from(builder.page_size);
        builder.file.set_len(size).map_err(Error::local("grow", &builder.temporary))?;
        Ok(builder)
    }

    /// Writes those pages of `groups` that are to be found there. `bytes` are those of the piece
    /// that they are of, from the object `key`.
    pub(super) fn write(
        &mut self,
        key: &str,
        groups: &[Group],
        piece: &Piece,
        bytes: &[u8],
    ) -> Result<()> {
        for group in groups {
            let cut_off = || Damaged::new("a group of pages is cut off").of(key);
            let packed = piece.part(bytes, group).ok_or_else(cut_off)?;
            let plain =
                decode_group(group, self.page_size, packed).map_err(|damage| damage.of(key))?;
            let contents = plain.chunks_exact(self.page_size as usize);
            for (page, content) in group.pages.iter().zip(contents) {
                if *page != 0 {
                    self.write_page(*page, content)?;
                }
            }
            self.unsynced += plain.len() as u64;
        }
        if self.unsynced >= UNSYNCED_MAX {
            self.file.sync_data().map_err(Error::local("sync", &self.temporary))?;
            self.unsynced = 0;
        }
        Ok(())
    }

    /// Says that the file has these pages as they must be.
    pub(super) fn keep(&mut self, pages: &[u32]) {
        pages.iter().for_each(|page| self.note(*page));
    }

    /// Puts the file where it belongs. Pages that were neither written nor kept are zeros, but
    /// those up to `kept_upto` as they were.
    pub(super) fn finish(mut self, kept_upto: u32) -> Result<()> {
        let zeros = vec![0; self.page_size as usize];
        // Where the file had nothing it is zeros already.
        for page in kept_upto.saturating_add(1)..=self.pages_before.min(self.page_count) {
            if !self.has(page) {
                self.write_page(page, &zeros)?;
            }
        }
        self.file.sync_all().map_err(Error::local("sync", &self.temporary))?;
        // Before the rename: SQLite would play the old log over the new file.
        remove(&wal_of(&self.path))?;
        remove(&shm_of(&self.path))?;
        fs::rename(&self.temporary, &self.path).map_err(Error::local("replace", &self.path))?;
        self.finished = true;
        sync_directory(&self.path)
    }

    fn has(&self, page: u32) -> bool {
        let bit = page as usize - 1;
        self.written[bit / 64] >> (bit % 64) & 1 == 1
    }

    fn note(&mut self, page: u32) {
        let bit = page as usize - 1;
        self.written[bit / 64] |= 1 << (bit % 64);
    }

    fn write_page(&mut self, page: u32, content: &[u8]) -> Result<()> {
        self.file
            .write_all_at(content, page_offset(page, self.page_size))
            .map_err(Error::local("write", &self.temporary))?;
        self.note(page);
        Ok(())
    }
}

impl Drop for Builder {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        if let Err(error) = remove(&self.temporary) {
            tracing::warn!(%error, "a file that was not finished stays behind");
        }
    }
}

/// Copies a file in parts, each to the disk before the next.
fn copy(from: &Path, into: &Path, opening: &Opening) -> io::Result<()> {
    let (mut from, mut into) = (File::open(from)?, File::create(into)?);
    loop {
        let copied = io::copy(&mut (&mut from).take(UNSYNCED_MAX), &mut into)?;
        if copied == 0 {
            return Ok(());
        }
        into.sync_data()?;
        opening.did(copied);
    }
}

/// Removes a file; a missing one is no error.
fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::local("remove", path)(error))
        }
        _ => Ok(()),
    }
}

/// Makes a rename in the directory of `path` outlast a power cut.
pub(in crate::replica) fn sync_directory(path: &Path) -> Result<()> {
    let Some(directory) = path.parent() else { return Ok(()) };
    let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(Error::local("sync", directory))
}
