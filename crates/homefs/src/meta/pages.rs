//! Which pages of the database the store does not have yet, and when the log is checkpointed.
//!
//! # Invariants
//! - The log is read right after every commit and right before every checkpoint, so no page is
//!   ever missed.
//! - Nothing is checkpointed while captured pages are still being read.
//! - A checkpoint syncs the log first and the database after: power loss finds one of them whole.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;

use rusqlite::Connection;
use vfs::Result;

use crate::data::spool::failed;
use crate::error::to_fs;
use crate::layout::wal_of;
use crate::meta::sql;
use crate::wal::{PageView, WalTail};

/// Pages that changed since the last commit to the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Changed {
    /// Nobody knows: the process that changed them died.
    All,
    /// These.
    These(BTreeSet<u32>),
}

impl Changed {
    fn none() -> Self {
        Self::These(BTreeSet::new())
    }
}

/// A state of the database, and what of it the store does not have.
#[derive(Debug)]
pub(crate) struct Captured {
    pub(crate) view: PageView,
    pub(crate) changed: Changed,
    /// The number of the last transaction in it.
    pub(crate) committed: u64,
}

/// Follows the database for the metadata thread.
#[derive(Debug)]
pub(crate) struct Pages {
    tail: WalTail,
    changed: Changed,
    wal: File,
    database: File,
}

impl Pages {
    /// Begins with an empty log. `clean`: the store has all that the database has now.
    pub(crate) fn open(conn: &Connection, database: &Path, clean: bool) -> Result<Self> {
        let tail = WalTail::open(database).map_err(to_fs)?;
        // The first write makes the log exist, whatever the state was.
        sql::run(conn, "BEGIN IMMEDIATE", [])?;
        sql::run(conn, "UPDATE kv SET value=value WHERE name='format'", [])?;
        sql::run(conn, "COMMIT", [])?;
        let wal = File::open(wal_of(database)).map_err(failed)?;
        let file = File::open(database).map_err(failed)?;
        let changed = if clean { Changed::none() } else { Changed::All };
        let mut pages = Self { tail, changed, wal, database: file };
        pages.after_commit()?;
        pages.checkpoint(conn)?;
        Ok(pages)
    }

    /// Reads what the last commit wrote. True where it wrote anything.
    pub(crate) fn after_commit(&mut self) -> Result<bool> {
        let advance = self.tail.poll().map_err(to_fs)?;
        if let Changed::These(pages) = &mut self.changed {
            pages.extend(&advance.pages);
        }
        Ok(advance.transactions > 0)
    }

    /// Hands out what the store does not have, and starts counting anew.
    pub(crate) fn capture(&mut self, committed: u64) -> Captured {
        let changed = std::mem::replace(&mut self.changed, Changed::none());
        Captured { view: self.tail.view(), changed, committed }
    }

    /// Takes back what was captured and did not get to the store.
    pub(crate) fn give_back(&mut self, changed: Changed) {
        match (&mut self.changed, changed) {
            (Changed::These(ours), Changed::These(theirs)) => ours.extend(theirs),
            (ours, _) => *ours = Changed::All,
        }
    }

    /// Moves the log into the database. Does nothing while captured pages are being read.
    pub(crate) fn checkpoint(&mut self, conn: &Connection) -> Result<()> {
        if self.tail.has_views() {
            return Ok(());
        }
        self.wal.sync_data().map_err(failed)?;
        // Waits for readers, whose transactions are short, so that the log begins anew.
        let moved = sql::first(conn, "PRAGMA wal_checkpoint(RESTART)", [], |r| {
            Ok(r.get::<_, i64>(1)? == r.get::<_, i64>(2)?)
        })?;
        self.database.sync_all().map_err(failed)?;
        if moved == Some(true) {
            self.tail.note_checkpoint();
        }
        Ok(())
    }

    /// Leaves the database file whole, with an empty log.
    pub(crate) fn close(&mut self, conn: &Connection) -> Result<()> {
        self.checkpoint(conn)?;
        sql::first(conn, "PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
        self.database.sync_all().map_err(failed)
    }

    /// Bytes of the log.
    pub(crate) fn wal_bytes(&self) -> u64 {
        self.tail.wal_bytes()
    }

    /// Bytes of the database.
    pub(crate) fn database_bytes(&self) -> u64 {
        u64::from(self.tail.page_count()) * u64::from(self.tail.page_size())
    }
}
