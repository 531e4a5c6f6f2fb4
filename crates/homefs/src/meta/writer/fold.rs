//! Folding: what changed goes into the database, while changes and reads go on.
//!
//! # Failure
//! A fold that fails puts its rows back, under those that changed since; it is tried again.

use std::sync::atomic::Ordering;

use rusqlite::Connection;
use vfs::Result;

use super::Inner;
use crate::data::spool::SpoolId;
use crate::front::fold;
use crate::limits::{WAL_BYTES_CHECKPOINT, metadata_bytes_max};
use crate::meta::counters::Counters;
use crate::meta::pages::{Captured, Pages};
use crate::meta::sql;

/// What folds and transactions own. [`Writer::between`] hands it out.
pub(crate) struct Database {
    pub(crate) conn: Connection,
    pub(crate) pages: Pages,
    /// The counters that are in it.
    pub(super) counters: Counters,
    /// The last change in it.
    pub(super) applied: u64,
    /// The last change before it was opened.
    pub(super) before: u64,
}

impl Database {
    /// The pages that the store does not have.
    pub(crate) fn capture(&mut self) -> Captured {
        self.pages.capture(self.applied.saturating_sub(self.before))
    }
}

impl Inner {
    /// Brings what changed into the database. Changes go on meanwhile.
    pub(super) fn fold(&self) -> Result<()> {
        let mut database = self.database.lock();
        let database = &mut *database;
        let (rows, counters, first_fresh, upto, bytes) = {
            let mut changes = self.changes.lock();
            let upto = changes.journal.last();
            if upto == database.applied {
                return Ok(());
            }
            let rows = std::mem::take(&mut changes.rows);
            let next = changes.counters.next_ino;
            let first_fresh = std::mem::replace(&mut changes.first_fresh, next);
            let bytes = self.unfolded_bytes.load(Ordering::Relaxed);
            self.unfolded_rows.store(0, Ordering::Relaxed);
            (rows, changes.counters, first_fresh, upto, bytes)
        };
        let conn = &database.conn;
        let write = || {
            sql::run(conn, "BEGIN IMMEDIATE", [])?;
            fold::write(conn, &rows, first_fresh)?;
            counters.save(conn, &database.counters)?;
            save_applied(conn, database.applied, upto)?;
            sql::run(conn, "COMMIT", [])
        };
        if let Err(error) = write() {
            tracing::error!(%error, "changes of the home could not be folded");
            if !conn.is_autocommit() {
                sql::run(conn, "ROLLBACK", []).ok();
            }
            let mut changes = self.changes.lock();
            rows.merge_under(&mut changes.rows);
            changes.first_fresh = first_fresh;
            self.unfolded_rows.store(changes.rows.len(), Ordering::Relaxed);
            return Err(error);
        }
        database.counters = counters;
        database.applied = upto;
        self.unfolded_bytes.fetch_sub(bytes, Ordering::Relaxed);
        {
            let mut cache = self.front.cache.write();
            cache.folded(upto);
            let gone = cache.evict();
            drop(cache);
            drop(gone);
        }
        drop(rows);
        self.remove_unnamed(upto);
        self.followed(database)?;
        if self.changes.lock().journal.has_full(upto) {
            database.pages.sync_log()?;
            self.changes.lock().journal.trim(upto);
        }
        Ok(())
    }

    /// Removes spool files that came and went since the last sync. They need not wait for one.
    fn remove_unnamed(&self, upto: u64) {
        let mut changes = self.changes.lock();
        let durable = changes.durable_version;
        let gone = changes.garbage.extract_if(.., |(seq, id)| *seq <= upto && id.1 > durable);
        let gone: Vec<SpoolId> = gone.map(|(_, id)| id).collect();
        drop(changes);
        self.shared.spool.remove(&gone);
    }

    /// What follows every commit to the database.
    pub(super) fn followed(&self, database: &mut Database) -> Result<()> {
        database.pages.after_commit()?;
        let bound = metadata_bytes_max(self.shared.bytes_max());
        let full = database.pages.database_bytes() > bound && {
            // Pages on the free list can be used again.
            let free: i64 = sql::first(&database.conn, "PRAGMA freelist_count", [], |r| r.get(0))?
                .unwrap_or_default();
            free < 64
        };
        self.full.store(full, Ordering::Relaxed);
        if database.pages.wal_bytes() > WAL_BYTES_CHECKPOINT
            && let Err(error) = database.pages.checkpoint(&database.conn)
        {
            tracing::warn!(%error, "checkpoint of the home's metadata; trying again later");
        }
        Ok(())
    }
}

/// Notes how far the database is, in its open transaction.
pub(super) fn save_applied(conn: &Connection, before: u64, applied: u64) -> Result<()> {
    if before != applied {
        const SQL: &str = "INSERT OR REPLACE INTO kv VALUES('applied',?1)";
        sql::run(conn, SQL, [sql::int(applied)])?;
    }
    Ok(())
}
