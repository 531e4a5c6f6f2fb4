//! The newest value of each row that is in memory, and what may go into it when.

use std::sync::Arc;

use bytes::Bytes;
use vfs::Ino;

use super::delta::{Delta, EntryChange};
use super::dirs::{Dir, Dirs};
use super::tables::Table;
use super::{Key, Loaded};
use crate::data::layers::Piece;
use crate::limits::{BLOB_BYTES_CACHED_PER_INODE, NAMES_CACHED_PER_INODE};
use crate::meta::counters::Counters;
use crate::meta::inode::Inode;
use crate::meta::rows::{Entry, Name, Spooled};

/// Sealed pieces of a file between two offsets.
#[derive(Debug, Clone)]
pub(crate) struct Sealed {
    pub(crate) from: u64,
    pub(crate) to: u64,
    pub(crate) pieces: Arc<[Piece]>,
}

impl Sealed {
    /// Of a file that has none.
    pub(crate) fn none() -> Self {
        Self { from: 0, to: u64::MAX, pieces: Arc::from([]) }
    }

    fn cut(&self, at: u64) -> Self {
        let pieces = match self.pieces.last() {
            Some(last) if last.end() > at => {
                self.pieces.iter().filter_map(|piece| piece.cut(0, at)).collect()
            }
            _ => self.pieces.clone(),
        };
        Self { pieces, ..*self }
    }
}

/// What was let go, to be dropped outside of the lock.
#[derive(Debug, Default)]
pub(crate) struct Gone {
    inodes: Vec<Inode>,
    blobs: Vec<Bytes>,
    spooled: Vec<Spooled>,
    sealed: Vec<Sealed>,
    orphans: Vec<bool>,
    dirs: Vec<Dir>,
}

/// The rows in memory.
#[derive(Debug)]
pub(crate) struct Cache {
    pub(crate) inodes: Table<Inode>,
    pub(crate) dirs: Dirs,
    pub(crate) blobs: Table<Bytes>,
    pub(crate) spooled: Table<Spooled>,
    pub(crate) sealed: Table<Sealed>,
    pub(crate) orphans: Table<bool>,
    /// Where sealed content was cut off that the database may still have. Not let go but by a
    /// transaction: pieces that are being read may be from before the fold that had the cut. So there
    /// is one for each file, at most, that was cut off since the last round.
    cuts: Table<u64>,
    pub(crate) counters: Counters,
    /// The last change that is in here.
    applied: u64,
    /// The last change that the database has.
    pub(crate) folded: u64,
    /// The newest change of a row that was let go.
    evicted: u64,
    /// A transaction beside the front is being committed: the database is ahead of this.
    committing: bool,
}

impl Cache {
    /// An empty one over a database that has everything up to `folded`, with room for this many
    /// inodes.
    pub(crate) fn new(folded: u64, inodes: usize) -> Self {
        let (rows, blobs) = (inodes as u64, inodes.saturating_mul(BLOB_BYTES_CACHED_PER_INODE));
        Self {
            inodes: Table::new(rows, |_| 0),
            dirs: Dirs::new(inodes.saturating_mul(NAMES_CACHED_PER_INODE)),
            blobs: Table::new(blobs as u64, |blob| blob.len() + 64),
            spooled: Table::new(rows, Spooled::len),
            sealed: Table::new(rows, |sealed| sealed.pieces.len()),
            orphans: Table::new(rows, |_| 0),
            cuts: Table::new(rows, |_| 0),
            counters: Counters::default(),
            applied: folded,
            folded,
            evicted: 0,
            committing: false,
        }
    }

    /// Where a row that is now read from the database stands; `None` while that is not clear.
    pub(crate) fn begin_load(&self) -> Option<u64> {
        (!self.committing).then_some(self.applied)
    }

    /// What is read from the database counts only where no row that changed since can have gone.
    fn may_admit(&self, begun: u64) -> bool {
        !self.committing && self.evicted <= begun
    }

    /// Takes in a row of the database; false where it may be old.
    pub(crate) fn admit(&mut self, key: Key, loaded: Loaded, begun: u64) -> bool {
        if !self.may_admit(begun) {
            return false;
        }
        match (key, loaded) {
            (Key::Inode(ino), Loaded::Inode(row)) => self.inodes.admit(ino, row),
            (Key::Entry(parent, name), Loaded::Entry(row)) => self.dirs.admit(parent, name, row),
            (Key::Blob(ino), Loaded::Blob(row)) => self.blobs.admit(ino, row),
            (Key::Spooled(ino), Loaded::Spooled(row)) => self.spooled.admit(ino, row),
            (Key::Orphan(ino), Loaded::Orphan(row)) => self.orphans.admit(ino, row),
            (Key::Sealed(ino, start, end), Loaded::Sealed(row)) => {
                // A window that does not reach far enough gives way to one that does.
                if self.sealed_within(ino, start, end).is_none() {
                    let cut = self.cut(ino);
                    self.sealed.put(ino, Some(row.cut(cut)), 0);
                }
            }
            _ => return false,
        }
        true
    }

    /// Takes in all names of a directory.
    pub(crate) fn admit_directory(&mut self, ino: Ino, all: Vec<(Name, Entry)>, begun: u64) {
        if self.may_admit(begun) {
            self.dirs.admit_all(ino, all);
        }
    }

    /// Sealed pieces of a file; `None` where they are not known here.
    pub(crate) fn sealed_within(&self, ino: Ino, start: u64, end: u64) -> Option<Vec<Piece>> {
        let sealed = self.sealed.get(ino)?.as_ref()?;
        if start < sealed.from || end > sealed.to {
            return None;
        }
        let first = sealed.pieces.partition_point(|piece| piece.end() <= start);
        let within = sealed.pieces[first..].iter().take_while(|piece| piece.off < end);
        Some(within.filter_map(|piece| piece.cut(start, end)).collect())
    }

    /// Where sealed content of a file was cut off that the database may still have.
    pub(crate) fn cut(&self, ino: Ino) -> u64 {
        self.cuts.get(ino).copied().flatten().unwrap_or(u64::MAX)
    }

    /// Whether names of a directory changed that the database lacks.
    pub(crate) fn is_directory_dirty(&self, ino: Ino) -> bool {
        self.dirs.changed(ino) > self.folded
    }

    /// Whether what was read from the database since `begun` is the newest state of a directory.
    pub(crate) fn is_unchanged(&self, ino: Ino, begun: u64) -> bool {
        self.may_admit(begun) && self.dirs.changed(ino) <= begun
    }

    /// Takes in the rows of change `seq` and hands them on to `into`, where the next fold finds
    /// them.
    pub(crate) fn apply(&mut self, rows: &mut Delta, seq: u64, mut into: Option<&mut Delta>) {
        for (ino, inode) in rows.inodes.drain() {
            if let Some(into) = &mut into {
                into.inodes.insert(ino, inode.clone());
            }
            self.inodes.put(ino, inode, seq);
        }
        for (key, EntryChange { now, fresh }) in rows.entries.drain() {
            self.dirs.put(key.parent, key.name.clone(), now, seq);
            if let Some(into) = &mut into {
                into.put_entry(key, now, fresh);
            }
        }
        for (ino, blob) in rows.blobs.drain() {
            if let Some(into) = &mut into {
                into.blobs.insert(ino, blob.clone());
            }
            self.blobs.put(ino, blob, seq);
        }
        for (ino, orphan) in rows.orphans.drain() {
            if let Some(into) = &mut into {
                into.orphans.insert(ino, orphan);
            }
            self.orphans.put(ino, orphan, seq);
        }
        for (ino, spooled) in rows.spooled.drain() {
            if let Some(into) = &mut into {
                into.spooled.insert(ino, spooled.clone());
            }
            self.spooled.put(ino, spooled, seq);
        }
        for (ino, from) in rows.cuts.drain() {
            if let Some(into) = &mut into {
                into.cut(ino, from);
            }
            let cut = self.cut(ino).min(from);
            self.cuts.put(ino, Some(cut), seq);
            if let Some(Some(sealed)) = self.sealed.get(ino) {
                let sealed = sealed.cut(cut);
                self.sealed.put(ino, Some(sealed), seq);
            }
        }
        self.applied = self.applied.max(seq);
    }

    /// A transaction beside the front is about to be committed.
    pub(crate) fn begin_commit(&mut self) {
        self.committing = true;
    }

    /// It was, as change `seq`, or came to nothing.
    pub(crate) fn end_commit(&mut self, committed: Option<u64>) {
        self.committing = false;
        if let Some(seq) = committed {
            self.applied = self.applied.max(seq);
            self.folded = self.folded.max(seq);
            // Where sealed content is may have changed for any file, and what is being read from
            // the database may be from before.
            self.sealed.clear();
            self.cuts.clear();
            self.evicted = self.evicted.max(seq);
        }
    }

    /// The database has everything up to `seq`.
    pub(crate) fn folded(&mut self, seq: u64) {
        self.folded = self.folded.max(seq);
    }

    /// Lets rows go until the bounds hold. Drop the answer outside of the lock.
    pub(crate) fn evict(&mut self) -> Gone {
        let mut gone = Gone::default();
        let folded = self.folded;
        let newest = [
            self.inodes.evict(folded, &mut gone.inodes),
            self.blobs.evict(folded, &mut gone.blobs),
            self.spooled.evict(folded, &mut gone.spooled),
            self.sealed.evict(folded, &mut gone.sealed),
            self.orphans.evict(folded, &mut gone.orphans),
            self.dirs.evict(folded, &mut gone.dirs),
        ];
        self.evicted = newest.into_iter().fold(self.evicted, u64::max);
        gone
    }
}
