//! Which pages of the database the store does not have yet, and when the log is checkpointed.
//!
//! # Invariants
//! - The log is read right after every commit and right before every checkpoint, so no page is
//!   ever missed.
//! - Nothing is checkpointed while captured pages are still being read.
//! - A checkpoint syncs the log first and the database after: power loss finds one of them whole.
//! - What the store may lack is in the log, or was noted in a file before a checkpoint moved it from
//!   there. So it is known after a crash too.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use vfs::Result;

use crate::data::spool::failed;
use crate::error::to_fs;
use crate::layout::{changed_of, wal_of};
use crate::meta::{changed_pages, sql};
use crate::wal::{PageView, Position, WalTail};

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

    fn add(&mut self, more: Self) {
        match (&mut *self, more) {
            (Self::These(ours), Self::These(theirs)) => ours.extend(theirs),
            (ours, _) => *ours = Self::All,
        }
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
    /// Those that were captured last: nobody said that the store has them.
    in_flight: Changed,
    /// Where the log ended when those were captured.
    captured: Option<Position>,
    note: PathBuf,
    wal: File,
    database: File,
}

impl Pages {
    /// Begins. `clean`: the store has all that the database has now.
    pub(crate) fn open(conn: &Connection, database: &Path, clean: bool) -> Result<Self> {
        let tail = WalTail::open(database).map_err(to_fs)?;
        let note = changed_of(database);
        let changed = if clean {
            changed_pages::save(&note, &Changed::none(), None, true)?;
            Changed::none()
        } else {
            match changed_pages::load(&note) {
                (Changed::These(mut noted), at) => {
                    noted.extend(tail.logged_since(at));
                    Changed::These(noted)
                }
                (Changed::All, _) => Changed::All,
            }
        };
        // The first write makes the log exist, whatever the state was.
        sql::run(conn, "BEGIN IMMEDIATE", [])?;
        sql::run(conn, "UPDATE kv SET value=value WHERE name='format'", [])?;
        sql::run(conn, "COMMIT", [])?;
        let wal = File::open(wal_of(database)).map_err(failed)?;
        let file = File::open(database).map_err(failed)?;
        let in_flight = Changed::none();
        let captured = None;
        let mut pages = Self { tail, changed, in_flight, captured, note, wal, database: file };
        pages.after_commit()?;
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
        // Those before count as stored where they were not given back: this is a later round.
        self.in_flight = changed.clone();
        self.captured = self.tail.position();
        Captured { view: self.tail.view(), changed, committed }
    }

    /// Takes back what was captured and did not get to the store.
    pub(crate) fn give_back(&mut self, changed: Changed) {
        self.changed.add(changed);
    }

    /// The store has what was captured last.
    pub(crate) fn confirmed(&mut self) -> Result<()> {
        self.in_flight = Changed::none();
        let Some(at) = self.captured.take() else { return Ok(()) };
        // A checkpoint since then noted what came after, too.
        if self.tail.position().is_none_or(|now| now.0 != at.0) {
            return Ok(());
        }
        changed_pages::save(&self.note, &Changed::none(), Some(at), false)
    }

    /// Brings the log to disk.
    pub(crate) fn sync_log(&self) -> Result<()> {
        self.wal.sync_data().map_err(failed)
    }

    /// Moves the log into the database. Does nothing while captured pages are being read.
    pub(crate) fn checkpoint(&mut self, conn: &Connection) -> Result<()> {
        if self.tail.has_views() {
            return Ok(());
        }
        let mut noted = self.changed.clone();
        noted.add(self.in_flight.clone());
        changed_pages::save(&self.note, &noted, self.tail.position(), true)?;
        self.sync_log()?;
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
