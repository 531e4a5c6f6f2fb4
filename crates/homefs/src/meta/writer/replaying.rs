//! What the journal has and the database lacks, after a crash.

use vfs::{Ino, Result};

use crate::front::delta::Delta;
use crate::front::{Front, record};
use crate::meta::counters::Counters;
use crate::meta::tx::{Changed, Shared, Terms, Tx};

/// Takes records of the journal in.
pub(super) struct Replaying<'a> {
    front: &'a Front,
    shared: &'a Shared,
    pub(super) counters: Counters,
    pub(super) changed: Changed,
    pub(super) bytes: u64,
}

impl<'a> Replaying<'a> {
    pub(super) fn new(front: &'a Front, shared: &'a Shared, counters: Counters) -> Self {
        Self { front, shared, counters, changed: Changed::default(), bytes: 0 }
    }

    pub(super) fn again(&mut self, seq: u64, body: &[u8], rows: &mut Delta) -> Result<()> {
        let (mut unused, now) = (self.counters, 0);
        let (front, shared) = (self.front, self.shared);
        let (changed, fresh) = (&mut self.changed, Ino::MAX);
        let terms = Terms { now, full: false, first_fresh: fresh };
        let mut tx = Tx::new(front, shared, &mut unused, changed, terms, None);
        record::decode(body, &mut self.counters, |item| tx.replay(item))?;
        self.bytes += body.len() as u64;
        let mut cache = front.cache.write();
        cache.apply(&mut self.changed.rows, seq, Some(rows));
        cache.counters = self.counters;
        drop(cache);
        self.changed.steps.clear();
        self.changed.patches.clear();
        Ok(())
    }
}
