//! What a change sees: the open transaction, the counters, and the state outside the database
//! that it may touch.

use rusqlite::{Connection, params};
use vfs::{Errno, FsError, Ino, Result};

use super::counters::Counters;
use super::inode::Inode;
use super::sql::{self, int};
use crate::data::spool::Spool;
use crate::pins::Pins;

/// What changes may use besides the database. Shared with the rest of the engine.
#[derive(Debug)]
pub(crate) struct Shared {
    /// Inodes that someone holds.
    pub(crate) pins: Pins,
    /// Local files with bytes that are not sealed yet.
    pub(crate) spool: Spool,
    /// The most bytes of content.
    pub(crate) bytes_max: u64,
}

/// An open transaction on the metadata thread.
pub(crate) struct Tx<'a> {
    pub(crate) conn: &'a Connection,
    pub(crate) counters: &'a mut Counters,
    pub(crate) shared: &'a Shared,
    /// The time of this batch, in nanoseconds since 1970.
    pub(crate) now: i64,
    /// The database has reached its bound: nothing new may be made, only removed.
    pub(crate) full: bool,
    /// Spool files that nothing names any more once this is durable.
    pub(crate) spool_garbage: &'a mut Vec<(Ino, u64)>,
}

impl std::fmt::Debug for Tx<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tx").field("counters", &self.counters).finish_non_exhaustive()
    }
}

impl Tx<'_> {
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
        if more > 0 && after > self.shared.bytes_max {
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
        sql::run(
            self.conn,
            "UPDATE inode SET mtime=?2, ctime=?2, version=?3, nlink=nlink+?4 WHERE ino=?1",
            params![int(ino), self.now, int(version), links],
        )?;
        Ok(())
    }
}
