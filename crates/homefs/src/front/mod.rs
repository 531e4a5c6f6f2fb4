//! The front: the newest state of what changed lately, over a bounded cache of the database.
//!
//! ```text
//! delta    rows that changed: of one call, or since the last fold
//! record   a delta as bytes of the journal, and back
//! cache    the newest value of each row that is in memory
//! tables   what the cache is made of
//! dirs     directories in it
//! fold     a delta as rows of the database
//! ```
//!
//! # Invariants
//! - A row that the database does not have yet is in the cache; it leaves only once it was folded.
//! - What is read from the database goes into the cache only where nothing newer can have been there
//!   and gone meanwhile, and not while a transaction beside the front is being committed.
//! - Readers take the cache's lock for single rows and never wait for the database or the disk under
//!   it.
//!
//! # Not here
//! Who may change what and in which order (`meta::writer`).

pub(crate) mod cache;
pub(crate) mod delta;
pub(crate) mod dirs;
pub(crate) mod fold;
pub(crate) mod record;
pub(crate) mod tables;

use std::cell::RefCell;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::RwLock;
use rusqlite::{Connection, params};
use vfs::{DirEntry, Errno, FsError, Ino, Result, StatFs};

use crate::data::layers::Piece;
use crate::limits::{
    DIRECTORY_CACHED_MAX, READ_ATTEMPTS, READ_ATTEMPTS_PAUSED, SEALED_PIECES_CACHED_MAX,
};
use crate::meta::inode::Inode;
use crate::meta::readers::Readers;
use crate::meta::rows::{Entry, Name, ReadRows, Rows, Spooled};
use crate::meta::sql::{self, int, uint};
use cache::{Cache, Sealed};
use dirs::Listing;

/// A row that is not in memory.
#[derive(Debug, Clone)]
pub(crate) enum Key {
    Inode(Ino),
    Entry(Ino, Name),
    Blob(Ino),
    Spooled(Ino),
    Sealed(Ino, u64, u64),
    Orphan(Ino),
}

impl Key {
    /// That there is no such row, where it is one of an inode from `first` on.
    pub(crate) fn none_from(&self, first: Ino) -> Option<Loaded> {
        let (ino, none) = match self {
            Self::Inode(ino) => (ino, Loaded::Inode(None)),
            Self::Entry(ino, _) => (ino, Loaded::Entry(None)),
            Self::Blob(ino) => (ino, Loaded::Blob(None)),
            Self::Spooled(ino) => (ino, Loaded::Spooled(None)),
            Self::Sealed(ino, ..) => (ino, Loaded::Sealed(Sealed::none())),
            Self::Orphan(ino) => (ino, Loaded::Orphan(None)),
        };
        (*ino >= first).then_some(none)
    }
}

/// A row as the database has it.
#[derive(Debug)]
pub(crate) enum Loaded {
    Inode(Option<Inode>),
    Entry(Option<Entry>),
    Blob(Option<Bytes>),
    Spooled(Option<Spooled>),
    Sealed(Sealed),
    Orphan(Option<bool>),
}

/// The newest state of a home's rows.
#[derive(Debug)]
pub(crate) struct Front {
    pub(crate) cache: RwLock<Cache>,
    pub(crate) readers: Readers,
}

impl Front {
    /// Over the database that `readers` read, with room for this many inodes. `folded`: the last
    /// change that the database has.
    pub(crate) fn new(readers: Readers, folded: u64, inodes: usize) -> Self {
        Self { cache: RwLock::new(Cache::new(folded, inodes)), readers }
    }

    /// Reads a row from the database into the cache; false where that must be tried again.
    pub(crate) fn load(&self, key: Key) -> Result<bool> {
        let Some(begun) = self.cache.read().begin_load() else {
            // A transaction is being committed; that does not take long.
            std::thread::yield_now();
            return Ok(false);
        };
        let loaded = self.readers.with(|conn| load(conn, &key))?;
        let mut cache = self.cache.write();
        let admitted = cache.admit(key, loaded, begun);
        let gone = cache.evict();
        drop(cache);
        drop(gone);
        Ok(admitted)
    }

    /// Entries of a directory after `cookie`. `None`: it has entries that the database lacks and
    /// is too large to be held in memory; fold, and ask again.
    pub(crate) fn list(
        &self,
        ino: Ino,
        cookie: u64,
        max: usize,
    ) -> Result<Option<Vec<(Name, Entry)>>> {
        let mut tried = cookie > 0;
        for _ in 0..READ_ATTEMPTS {
            let listing = self.cache.read().dirs.list(ino, cookie, max);
            match listing {
                Listing::Ready(entries) => return Ok(Some(entries)),
                Listing::Unordered => self.cache.write().dirs.order(ino),
                Listing::Unknown if !tried => {
                    tried = true;
                    self.load_directory(ino)?;
                }
                Listing::Unknown => {
                    let Some(begun) = self.cache.read().begin_load() else {
                        std::thread::yield_now();
                        continue;
                    };
                    if self.cache.read().is_directory_dirty(ino) {
                        return Ok(None);
                    }
                    let page = self.readers.with(|conn| list(conn, ino, cookie, max))?;
                    if self.cache.read().is_unchanged(ino, begun) {
                        return Ok(Some(page));
                    }
                }
            }
        }
        Ok(None)
    }

    /// Brings all entries of a directory into memory, if they are not too many.
    fn load_directory(&self, ino: Ino) -> Result<()> {
        let Some(begun) = self.cache.read().begin_load() else { return Ok(()) };
        let all = self.readers.with(|conn| list(conn, ino, 0, DIRECTORY_CACHED_MAX + 1))?;
        if all.len() > DIRECTORY_CACHED_MAX {
            return Ok(());
        }
        let mut cache = self.cache.write();
        cache.admit_directory(ino, all, begun);
        let gone = cache.evict();
        drop(cache);
        drop(gone);
        Ok(())
    }

    /// The same entries with the attributes of what they name. One whose inode went meanwhile is
    /// left out.
    pub(crate) fn with_attrs(&self, entries: Vec<(Name, Entry)>) -> Result<Vec<DirEntry>> {
        let mut inodes: Vec<Option<Inode>> = {
            let cache = self.cache.read();
            entries.iter().map(|(_, entry)| cache.inodes.get(entry.ino)?.clone()).collect()
        };
        let missing = inodes.iter().any(Option::is_none);
        if missing {
            for (inode, (_, entry)) in inodes.iter_mut().zip(&entries) {
                if inode.is_none() {
                    *inode = self.read_rows(&|rows| rows.find(entry.ino))?;
                }
            }
        }
        let entries = entries.into_iter().zip(inodes).filter_map(|((name, entry), inode)| {
            Some(DirEntry { name: name.to_vec(), attr: inode?.attr(), cookie: entry.cookie })
        });
        Ok(entries.collect())
    }

    /// Sizes of the whole tree.
    pub(crate) fn statfs(&self, bytes_max: u64) -> StatFs {
        let counters = self.cache.read().counters;
        StatFs { bytes_max, bytes_used: counters.bytes_used, inodes_used: counters.inodes_used }
    }
}

impl ReadRows for Front {
    /// Runs `read` over one state of the cache; what it lacks is fetched, and it is run again.
    fn read_rows<T>(&self, read: &dyn Fn(&dyn Rows) -> Result<T>) -> Result<T> {
        for attempt in 0..READ_ATTEMPTS + READ_ATTEMPTS_PAUSED {
            if attempt > READ_ATTEMPTS {
                std::thread::sleep(Duration::from_millis(1));
            }
            let missing = {
                let cache = self.cache.read();
                let view = View { cache: &cache, missing: RefCell::new(None) };
                let done = read(&view);
                match view.missing.into_inner() {
                    Some(key) => key,
                    None => return done,
                }
            };
            self.load(missing)?;
        }
        Err(FsError::with(Errno::EAGAIN, "the home is too busy; try again"))
    }
}

/// One state of the cache. A row that it lacks is noted, and the read comes to nothing.
struct View<'a> {
    cache: &'a Cache,
    missing: RefCell<Option<Key>>,
}

impl View<'_> {
    fn missing<T>(&self, key: Key) -> Result<T> {
        self.missing.borrow_mut().get_or_insert(key);
        Err(FsError::new(Errno::EAGAIN))
    }
}

impl Rows for View<'_> {
    fn find(&self, ino: Ino) -> Result<Option<Inode>> {
        match self.cache.inodes.get(ino) {
            Some(found) => Ok(found.clone()),
            None => self.missing(Key::Inode(ino)),
        }
    }

    fn entry(&self, parent: Ino, name: &[u8]) -> Result<Option<Entry>> {
        match self.cache.dirs.get(parent, name) {
            Some(found) => Ok(found),
            None => self.missing(Key::Entry(parent, name.into())),
        }
    }

    fn blob(&self, ino: Ino) -> Result<Option<Bytes>> {
        match self.cache.blobs.get(ino) {
            Some(found) => Ok(found.clone()),
            None => self.missing(Key::Blob(ino)),
        }
    }

    fn spooled(&self, ino: Ino) -> Result<Option<Spooled>> {
        match self.cache.spooled.get(ino) {
            Some(found) => Ok(found.clone()),
            None => self.missing(Key::Spooled(ino)),
        }
    }

    fn sealed(&self, ino: Ino, start: u64, end: u64) -> Result<Vec<Piece>> {
        match self.cache.sealed_within(ino, start, end) {
            Some(pieces) => Ok(pieces),
            None => self.missing(Key::Sealed(ino, start, end)),
        }
    }
}

/// Reads a row from the database.
pub(crate) fn load(conn: &Connection, key: &Key) -> Result<Loaded> {
    Ok(match key {
        Key::Inode(ino) => Loaded::Inode(conn.find(*ino)?),
        Key::Entry(parent, name) => Loaded::Entry(conn.entry(*parent, name)?),
        Key::Blob(ino) => Loaded::Blob(conn.blob(*ino)?),
        Key::Spooled(ino) => Loaded::Spooled(conn.spooled(*ino)?),
        Key::Sealed(ino, start, end) => Loaded::Sealed(load_sealed(conn, *ino, *start, *end)?),
        Key::Orphan(ino) => {
            const SQL: &str = "SELECT detached FROM orphan WHERE ino=?1";
            Loaded::Orphan(sql::first(conn, SQL, [int(*ino)], |r| r.get(0))?)
        }
    })
}

/// All sealed pieces of a file, or those of the range where there are too many.
fn load_sealed(conn: &Connection, ino: Ino, start: u64, end: u64) -> Result<Sealed> {
    const COUNT: &str = "SELECT count(*) FROM (SELECT 1 FROM extent WHERE ino=?1 LIMIT ?2)";
    let limit = SEALED_PIECES_CACHED_MAX + 1;
    let count = sql::first(conn, COUNT, params![int(ino), int(limit)], |r| uint(r, 0))?;
    let (from, to) = match count {
        Some(count) if count == limit => (start, end),
        _ => (0, u64::MAX),
    };
    // SQLite's numbers end at 2^63.
    let pieces = conn.sealed(ino, from, to.min(u64::MAX >> 1))?;
    Ok(Sealed { from, to, pieces: pieces.into() })
}

/// Entries of a directory after `cookie`, from the database.
pub(crate) fn list(
    conn: &Connection,
    ino: Ino,
    cookie: u64,
    max: usize,
) -> Result<Vec<(Name, Entry)>> {
    const SQL: &str = "SELECT name,ino,cookie FROM dentry WHERE parent=?1 AND cookie>?2 \
         ORDER BY cookie LIMIT ?3";
    sql::all(conn, SQL, params![int(ino), int(cookie), int(max as u64)], |r| {
        let name: Vec<u8> = r.get(0)?;
        Ok((name.into(), Entry { ino: uint(r, 1)?, cookie: uint(r, 2)? }))
    })
}
