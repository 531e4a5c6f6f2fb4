//! A change on rows: the usual way.
//!
//! # Failure
//! A change that fails, or whose record cannot be written, leaves nothing behind.

use std::sync::atomic::Ordering;

use vfs::{Ino, Result};

use super::{Inner, now_ns, stopped};
use crate::data::spool::SpoolId;
use crate::front::cache::Sealed;
use crate::front::delta::Delta;
use crate::front::record;
use crate::journal::frame;
use crate::journal::writer::Journal;
use crate::limits::RECORD_BYTES_MAX;
use crate::meta::counters::Counters;
use crate::meta::tx::{Changed, Terms, Tx};

/// What a change owns while it runs.
#[derive(Debug)]
pub(super) struct Changes {
    pub(super) counters: Counters,
    pub(super) journal: Journal,
    /// What changed since the last fold.
    pub(super) rows: Delta,
    /// Inodes from here on are not in the database.
    pub(super) first_fresh: Ino,
    pub(super) changed: Changed,
    pub(super) record: Vec<u8>,
    /// Spool files to remove once this change is durable.
    pub(super) garbage: Vec<(u64, SpoolId)>,
    /// The version counter as the newest durable state has it: a spool file is named by a version,
    /// so no durable state names a later one.
    pub(super) durable_version: u64,
    /// Transactions that the database's log was not synced for.
    pub(super) transacted: bool,
    pub(super) closed: bool,
}

impl Inner {
    /// Runs a change on rows. `None`: it needs a transaction.
    pub(super) fn change<T>(
        &self,
        changes: &mut Changes,
        change: impl Fn(&mut Tx<'_>) -> Result<T>,
    ) -> Result<Option<T>> {
        if changes.closed {
            return Err(stopped());
        }
        let mut counters = changes.counters;
        let changed = &mut changes.changed;
        let now = now_ns(self.clock.as_ref());
        let full = self.full.load(Ordering::Relaxed);
        let (front, shared, fresh) = (&self.front, &self.shared, changes.first_fresh);
        let terms = Terms { now, full, first_fresh: fresh };
        let mut tx = Tx::new(front, shared, &mut counters, changed, terms, None);
        let done = change(&mut tx);
        let needs_sql = tx.needs_sql();
        if needs_sql || done.is_err() || changed.rows.is_empty() {
            changed.clear();
            return if needs_sql { Ok(None) } else { done.map(Some) };
        }
        frame::begin(&mut changes.record);
        let patch = |ino| changed.patches.get(&ino).copied();
        record::encode(&mut changes.record, &counters, &changed.rows, patch, &changed.steps);
        if changes.record.len() > RECORD_BYTES_MAX {
            changed.clear();
            changes.record = Vec::new();
            return Ok(None);
        }
        let seq = match changes.journal.append(&mut changes.record) {
            Ok(seq) => seq,
            Err(error) => {
                changed.clear();
                return Err(error);
            }
        };
        changes.counters = counters;
        changes.garbage.extend(changed.spool_garbage.iter().map(|id| (seq, *id)));
        let mut cache = self.front.cache.write();
        for ino in changed.made.drain(..) {
            cache.dirs.made(ino);
        }
        for ino in changed.unsealed.drain(..) {
            cache.sealed.put(ino, Some(Sealed::none()), seq);
        }
        cache.apply(&mut changed.rows, seq, Some(&mut changes.rows));
        cache.counters = counters;
        let gone = cache.evict();
        drop(cache);
        drop(gone);
        changed.clear();
        self.unfolded_bytes.fetch_add(changes.record.len() as u64, Ordering::Relaxed);
        self.unfolded_rows.store(changes.rows.len(), Ordering::Relaxed);
        self.progress.committed.fetch_add(1, Ordering::AcqRel);
        Ok(Some(()).and(done.ok()))
    }
}
