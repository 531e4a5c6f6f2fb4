//! A change as a transaction of the database, in which statements are run.
//!
//! # Order
//! What is not folded is written; then the change; then one commit has both. The journal's mark
//! comes right before it: where there is no room for one of the two, there is neither.

use std::sync::atomic::Ordering;

use vfs::{FsError, Ino, Result};

use super::changes::Changes;
use super::fold::{Database, save_applied};
use super::{Inner, now_ns, stopped};
use crate::front::fold;
use crate::meta::counters::Counters;
use crate::meta::sql;
use crate::meta::tx::{Terms, Tx};

impl Inner {
    /// Runs a change in a transaction, with everything that is not folded in it too.
    pub(super) fn transact<T>(
        &self,
        database: &mut Database,
        changes: &mut Changes,
        change: impl FnOnce(&mut Tx<'_>) -> Result<T>,
    ) -> Result<T> {
        if changes.closed {
            return Err(stopped());
        }
        let conn = &database.conn;
        let mut counters = changes.counters;
        let upto = changes.journal.last();
        let rollback = |error: FsError| {
            tracing::error!(%error, "a metadata transaction failed");
            sql::run(conn, "ROLLBACK", []).ok();
            error
        };
        sql::run(conn, "BEGIN IMMEDIATE", [])?;
        let folded = || {
            fold::write(conn, &changes.rows, changes.first_fresh)?;
            sql::run(conn, "SAVEPOINT change", [])
        };
        folded().map_err(rollback)?;

        let (before, now) = (conn.total_changes(), now_ns(self.clock.as_ref()));
        let full = self.full.load(Ordering::Relaxed);
        let changed = &mut changes.changed;
        let (front, shared) = (&self.front, &self.shared);
        let fresh = Ino::MAX;
        let terms = Terms { now, full, first_fresh: fresh };
        let mut tx = Tx::new(front, shared, &mut counters, changed, terms, Some(conn));
        let done = change(&mut tx).and_then(|done| tx.sql().map(|_| done));
        let kept = done.is_ok();
        if !kept {
            counters = changes.counters;
            changed.clear();
            sql::run(conn, "ROLLBACK TO change", []).map_err(rollback)?;
        }
        let is_news = kept && (conn.total_changes() != before || counters != changes.counters);
        let applied = upto + u64::from(is_news);
        let mut finish = || {
            sql::run(conn, "RELEASE change", [])?;
            counters.save(conn, &database.counters)?;
            save_applied(conn, database.applied, applied)?;
            if is_news {
                changes.journal.mark()?;
            }
            self.front.cache.write().begin_commit();
            let committed = sql::run(conn, "COMMIT", []);
            if committed.is_err() {
                self.front.cache.write().end_commit(None);
                if is_news {
                    changes.journal.unmark();
                }
            }
            committed
        };
        if let Err(error) = finish().map_err(rollback) {
            changed.clear();
            return Err(error);
        }
        database.counters = counters;
        database.applied = applied;
        self.committed(changes, counters, applied, is_news);
        // After the rows are back for everyone: it may checkpoint, which takes a while.
        self.followed(database)?;
        done
    }

    /// The transaction is in the database: the front takes its rows, and holds nothing more to fold.
    fn committed(&self, changes: &mut Changes, counters: Counters, applied: u64, is_news: bool) {
        changes.counters = counters;
        let changed = &mut changes.changed;
        let mut cache = self.front.cache.write();
        for ino in changed.made.drain(..) {
            cache.dirs.made(ino);
        }
        cache.apply(&mut changed.rows, applied, None);
        cache.counters = counters;
        cache.end_commit(Some(applied));
        let gone = cache.evict();
        drop(cache);
        drop(gone);
        changes.garbage.extend(changed.spool_garbage.iter().map(|id| (applied, *id)));
        changed.clear();
        changes.transacted |= is_news;
        changes.rows.clear();
        changes.first_fresh = counters.next_ino;
        self.unfolded_bytes.store(0, Ordering::Relaxed);
        self.unfolded_rows.store(0, Ordering::Relaxed);
        if is_news {
            self.progress.committed.fetch_add(1, Ordering::AcqRel);
        }
    }
}
