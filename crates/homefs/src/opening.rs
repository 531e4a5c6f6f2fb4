//! How far a home is on its way to be open, for whoever waits for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counts what was done to open a home: bytes of its database that were fetched or copied and are on this disk, records
/// of the journal, rows that were mended. That it grows says that the opening gets on; how much is to come is not known.
#[derive(Debug, Clone, Default)]
pub struct Opening(Arc<AtomicU64>);

impl Opening {
    /// What was done so far.
    #[must_use]
    pub fn done(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn did(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }
}
