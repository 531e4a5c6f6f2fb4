//! What a change sees: rows as they are with what it did so far, the counters, and the state
//! outside of the rows that it may touch.
//!
//! A change runs *hot*, on rows alone, or as a *transaction* of the database. It does not know
//! which: it asks for [`Tx::sql`] where it needs the database, and a hot one is then broken off
//! and run again as a transaction. So a change may run twice, and what it does outside of the rows
//! (writing into the spool) must bear that.
//!
//! # Invariants
//! - Nothing is visible to others before the change is done, and nothing of one that fails ever is.
//! - Rows of `inode`, `dentry`, `blob`, `orphan`, `dirty_inode` and `dirty_extent` change through
//!   the methods here and never by a statement.

mod reads;
mod spooling;

use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use hashbrown::HashMap;
use rusqlite::Connection;
use vfs::{Errno, FsError, Ino, Result};

use super::counters::Counters;
use super::inode::{Inode, Tier};
use super::rows::{Entry, Name, Rows};
use crate::data::spool::{Spool, SpoolId};
use crate::front::delta::{Delta, EntryKey, EntryRef};
use crate::front::record::{self, Item, Patch, SpoolStep};
use crate::front::{self, Front, Key, Loaded, fold};
use crate::pins::Pins;
use crate::whole::Whole;

/// What changes may use besides the rows. Shared with the rest of the engine.
#[derive(Debug)]
pub(crate) struct Shared {
    /// Inodes that someone holds.
    pub(crate) pins: Pins,
    /// Local files with bytes that are not sealed yet.
    pub(crate) spool: Spool,
    bytes_max: AtomicU64,
    /// Files whose names a commit has with all of their content.
    pub(crate) whole: Whole,
}

impl Shared {
    pub(crate) fn new(spool: Spool, bytes_max: u64, whole: Whole) -> Self {
        Self { pins: Pins::default(), spool, bytes_max: AtomicU64::new(bytes_max), whole }
    }

    /// The most bytes of content.
    pub(crate) fn bytes_max(&self) -> u64 {
        // Nothing else is read that would have to be as new.
        self.bytes_max.load(Ordering::Relaxed)
    }

    /// Raises the bound; it is never lowered.
    pub(crate) fn grow(&self, bytes_max: u64) {
        self.bytes_max.fetch_max(bytes_max, Ordering::Relaxed);
    }
}

/// What a change did. Kept from one to the next, for its room.
#[derive(Debug, Default)]
pub(crate) struct Changed {
    pub(crate) rows: Delta,
    /// Blobs of `rows` of which only this part is new.
    pub(crate) patches: HashMap<Ino, Patch>,
    pub(crate) steps: Vec<SpoolStep>,
    /// Directories that were made: all their names are known.
    pub(crate) made: Vec<Ino>,
    /// Files that had no sealed content when they went to the spool.
    pub(crate) unsealed: Vec<Ino>,
    /// Spool files that nothing names any more once this is durable.
    pub(crate) spool_garbage: Vec<SpoolId>,
}

impl Changed {
    /// Forgets all of it.
    pub(crate) fn clear(&mut self) {
        self.rows.clear();
        self.patches.clear();
        self.steps.clear();
        self.made.clear();
        self.unsealed.clear();
        self.spool_garbage.clear();
    }
}

/// What holds for a change as long as it runs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms {
    /// The time, in nanoseconds since 1970.
    pub(crate) now: i64,
    /// The database has reached its bound.
    pub(crate) full: bool,
    /// The database has nothing of inodes from here on.
    pub(crate) first_fresh: Ino,
}

/// An open change.
pub(crate) struct Tx<'a> {
    pub(crate) counters: &'a mut Counters,
    pub(crate) shared: &'a Shared,
    /// The time of this change, in nanoseconds since 1970.
    pub(crate) now: i64,
    /// The database has reached its bound: nothing new may be made, only removed.
    pub(crate) full: bool,
    pub(crate) changed: &'a mut Changed,
    front: &'a Front,
    /// The database has nothing of inodes from here on.
    first_fresh: Ino,
    /// The open transaction.
    sql: Option<&'a Connection>,
    /// Rows that changed and are not in the open transaction yet.
    pending: RefCell<Delta>,
    /// It needs the database and does not have it.
    needs_sql: Cell<bool>,
}

impl std::fmt::Debug for Tx<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tx").field("counters", &self.counters).finish_non_exhaustive()
    }
}

impl<'a> Tx<'a> {
    /// A change on `front`; with `sql` one in its open transaction. `changed` is empty.
    pub(crate) fn new(
        front: &'a Front,
        shared: &'a Shared,
        counters: &'a mut Counters,
        changed: &'a mut Changed,
        terms: Terms,
        sql: Option<&'a Connection>,
    ) -> Self {
        let Terms { now, full, first_fresh } = terms;
        let (pending, needs_sql) = (RefCell::default(), Cell::new(false));
        Self { counters, shared, now, full, changed, front, first_fresh, sql, pending, needs_sql }
    }

    /// The open transaction, with everything that changed so far in it. A hot change gets an
    /// error, which it must pass on: it is run again with one.
    pub(crate) fn sql(&self) -> Result<&'a Connection> {
        let Some(conn) = self.sql else {
            self.needs_sql.set(true);
            return Err(FsError::new(Errno::EAGAIN));
        };
        let mut pending = self.pending.borrow_mut();
        if !pending.is_empty() {
            fold::write(conn, &pending, Ino::MAX)?;
            pending.clear();
        }
        Ok(conn)
    }

    /// Whether it was broken off for want of a transaction.
    pub(crate) fn needs_sql(&self) -> bool {
        self.needs_sql.get()
    }

    /// A version newer than all before.
    pub(crate) fn next_version(&mut self) -> u64 {
        self.counters.version += 1;
        self.counters.version
    }

    /// A directory cookie never given before.
    pub(crate) fn next_cookie(&mut self) -> u64 {
        self.counters.next_cookie += 1;
        self.counters.next_cookie
    }

    /// An inode number never given before.
    pub(crate) fn next_ino(&mut self) -> Ino {
        let ino = self.counters.next_ino;
        self.counters.next_ino += 1;
        ino
    }

    /// Refuses to go on where `more` bytes would not fit.
    pub(crate) fn check_space(&self, more: u64) -> Result<()> {
        let after = self.counters.bytes_used.saturating_add(more);
        if more > 0 && after > self.shared.bytes_max() {
            return Err(FsError::new(Errno::ENOSPC));
        }
        Ok(())
    }

    /// Refuses to make new rows in a database that has reached its bound.
    pub(crate) fn check_room(&self) -> Result<()> {
        if self.full { Err(FsError::new(Errno::ENOSPC)) } else { Ok(()) }
    }

    /// Notes that `inode` has `alloc` bytes from now on. The caller saves it.
    pub(crate) fn set_alloc(&mut self, inode: &mut Inode, alloc: u64) {
        self.counters.bytes_used =
            self.counters.bytes_used.saturating_sub(inode.alloc).saturating_add(alloc);
        inode.alloc = alloc;
    }

    /// Marks content of `inode` as changed now. The caller saves it.
    pub(crate) fn content_changed(&mut self, inode: &mut Inode) {
        inode.mtime = self.now;
        inode.ctime = self.now;
        inode.version = self.next_version();
    }

    /// Marks attributes of `inode` as changed now. The caller saves it.
    pub(crate) fn attrs_changed(&mut self, inode: &mut Inode) {
        inode.ctime = self.now;
        inode.version = self.next_version();
    }

    /// A directory that gained or lost an entry, and `links` subdirectories.
    pub(crate) fn directory_changed(&mut self, ino: Ino, links: i64) -> Result<()> {
        let version = self.next_version();
        let Some(mut directory) = self.find(ino)? else { return Ok(()) };
        directory.mtime = self.now;
        directory.ctime = self.now;
        directory.version = version;
        let links = i64::from(directory.nlink).saturating_add(links);
        directory.nlink = u32::try_from(links).unwrap_or(0);
        self.save(&directory);
        Ok(())
    }

    /// Writes an inode, new or changed.
    pub(crate) fn save(&mut self, inode: &Inode) {
        if self.sql.is_some() {
            self.pending.get_mut().inodes.insert(inode.ino, Some(inode.clone()));
        }
        self.changed.rows.inodes.insert(inode.ino, Some(inode.clone()));
    }

    /// Notes that this directory was just made.
    pub(crate) fn made_directory(&mut self, ino: Ino) {
        self.changed.made.push(ino);
    }

    /// Removes an inode with all its rows. Its spool files go once that is durable.
    pub(crate) fn remove(&mut self, ino: Ino, tier: Tier) -> Result<()> {
        // What is inline is not in the spool.
        if tier != Tier::Inline {
            self.drop_spooled(ino)?;
        }
        if self.sql.is_some() {
            self.pending.get_mut().inodes.insert(ino, None);
        }
        let rows = &mut self.changed.rows;
        rows.inodes.insert(ino, None);
        rows.blobs.remove(&ino);
        self.changed.patches.remove(&ino);
        Ok(())
    }

    /// Sets or removes a name.
    pub(crate) fn put_entry(
        &mut self,
        parent: Ino,
        name: &[u8],
        entry: Option<Entry>,
    ) -> Result<()> {
        // What was there before decides whether its removal must ever reach the database.
        let key = EntryRef { parent, name };
        let fresh = match self.changed.rows.entries.get(&key) {
            Some(change) => change.fresh,
            None => self.entry(parent, name)?.is_none(),
        };
        let name: Name = name.into();
        if self.sql.is_some() {
            let key = EntryKey { parent, name: name.clone() };
            // An earlier part of this transaction may have written it.
            self.pending.get_mut().put_entry(key, entry, false);
        }
        self.changed.rows.put_entry(EntryKey { parent, name }, entry, fresh);
        Ok(())
    }

    /// Sets or removes content of a small file, or the target of a link.
    pub(crate) fn put_blob(&mut self, ino: Ino, blob: Option<Bytes>) {
        if self.sql.is_some() {
            self.pending.get_mut().blobs.insert(ino, blob.clone());
        }
        self.changed.patches.remove(&ino);
        self.changed.rows.blobs.insert(ino, blob);
    }

    /// Writes `data` at `at` of a small file; its new length.
    pub(crate) fn patch_blob(&mut self, ino: Ino, at: usize, data: &[u8]) -> Result<u64> {
        let first = !self.changed.rows.blobs.contains_key(&ino);
        let blob = record::patched(self.blob(ino)?.as_ref(), at, data);
        let len = blob.len() as u64;
        self.put_blob(ino, Some(blob));
        if first {
            self.changed.patches.insert(ino, Patch { at, len: data.len() });
        }
        Ok(len)
    }

    /// Whether no directory names an inode, and if so whether none did yet.
    pub(crate) fn orphan(&self, ino: Ino) -> Result<Option<bool>> {
        if let Some(found) = self.changed.rows.orphans.get(&ino) {
            return Ok(*found);
        }
        if let Some(found) = self.front.cache.read().orphans.get(ino) {
            return Ok(*found);
        }
        match self.load(&Key::Orphan(ino))? {
            Loaded::Orphan(found) => Ok(found),
            _ => Ok(None),
        }
    }

    /// Notes that no directory names an inode, or that it has a name now.
    pub(crate) fn put_orphan(&mut self, ino: Ino, orphan: Option<bool>) {
        if self.sql.is_some() {
            self.pending.get_mut().orphans.insert(ino, orphan);
        }
        self.changed.rows.orphans.insert(ino, orphan);
    }

    /// Whether a directory has no names.
    pub(crate) fn is_empty(&self, ino: Ino) -> Result<bool> {
        let touched = self.changed.rows.entries.keys().any(|key| key.parent == ino);
        if self.sql.is_none() && !touched {
            let known = {
                let cache = self.front.cache.read();
                let dirty = cache.is_directory_dirty(ino);
                cache.dirs.is_empty(ino).map(Ok).or_else(|| dirty.then_some(Err(())))
            };
            match known {
                Some(Ok(empty)) => return Ok(empty),
                Some(Err(())) => {}
                None => {
                    let first = |conn: &Connection| front::list(conn, ino, 0, 1);
                    return Ok(self.front.readers.with(first)?.is_empty());
                }
            }
        }
        Ok(front::list(self.sql()?, ino, 0, 1)?.is_empty())
    }

    /// Up to `max` names of a directory after `cookie`.
    pub(crate) fn list(&self, ino: Ino, cookie: u64, max: usize) -> Result<Vec<(Name, Entry)>> {
        front::list(self.sql()?, ino, cookie, max)
    }

    /// Does again what a record of the journal says.
    pub(crate) fn replay(&mut self, item: Item<'_>) -> Result<()> {
        match item {
            Item::Inode(_, Some(inode)) => self.save(&inode),
            Item::Inode(ino, None) => self.remove(ino, Tier::Inline)?,
            Item::Entry(key, entry) => self.put_entry(key.parent, &key.name, entry)?,
            Item::Blob(ino, blob) => self.put_blob(ino, blob.map(Bytes::copy_from_slice)),
            Item::Patch(ino, at, data) => drop(self.patch_blob(ino, at, data)?),
            Item::Orphan(ino, orphan) => {
                self.put_orphan(ino, orphan);
                if orphan.is_some() {
                    self.shared.pins.orphaned(ino);
                }
            }
            Item::Cut(ino, from) => {
                self.sealed_hot(ino, 0, u64::MAX)?;
                self.changed.rows.cut(ino, from);
            }
            Item::Spool(step) => self.spool_step(step)?,
        }
        Ok(())
    }
}
