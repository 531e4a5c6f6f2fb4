//! Snapshots that are being let go of.
//!
//! What is kept of an upper goes first, then what is kept of the home. In between a snapshot looks like one of a home
//! alone; it is told from one by this.
//!
//! # Invariants
//! A snapshot is in here before anything of it goes, and until its home is let go of. So whoever finds no upper, then
//! does not find it here, and then finds the home, has one of the home alone.

use std::sync::Arc;

use base::SnapshotId;
use parking_lot::Mutex;

use crate::control::Inner;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Leaving(Mutex<Vec<SnapshotId>>);

impl Leaving {
    pub(super) fn has(&self, id: &SnapshotId) -> bool {
        self.0.lock().contains(id)
    }
}

/// One that is being let go of, as long as this is there.
#[derive(Debug)]
pub(super) struct Leaves(Arc<Inner>, SnapshotId);

impl Leaves {
    pub(super) fn new(inner: &Arc<Inner>, id: &SnapshotId) -> Self {
        inner.leaving.0.lock().push(id.clone());
        Self(inner.clone(), id.clone())
    }
}

impl Drop for Leaves {
    fn drop(&mut self) {
        let mut all = self.0.leaving.0.lock();
        // Of two who let go of it at once, each is in here.
        if let Some(at) = all.iter().position(|id| *id == self.1) {
            all.swap_remove(at);
        }
    }
}
