//! Who holds which inode. In memory only: a restart forgets all pins.

use std::collections::{HashMap, HashSet};

use parking_lot::Mutex;
use vfs::Ino;

/// Counts of pins, and which pinned inodes lost their last name.
#[derive(Debug, Default)]
pub(crate) struct Pins {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    counts: HashMap<Ino, u64>,
    /// A hint that unpinning may free something; the table `orphan` decides.
    orphans: HashSet<Ino>,
}

impl Pins {
    /// One more holder.
    pub(crate) fn pin(&self, ino: Ino) {
        *self.state.lock().counts.entry(ino).or_default() += 1;
    }

    /// One holder less. True where that was the last one of an inode without a name.
    pub(crate) fn unpin(&self, ino: Ino) -> bool {
        let mut state = self.state.lock();
        match state.counts.get_mut(&ino) {
            Some(count) if *count > 1 => {
                *count -= 1;
                false
            }
            Some(_) => {
                state.counts.remove(&ino);
                state.orphans.contains(&ino)
            }
            None => false,
        }
    }

    /// Whether anyone holds it.
    pub(crate) fn is_pinned(&self, ino: Ino) -> bool {
        self.state.lock().counts.contains_key(&ino)
    }

    /// It has no name any more, or not yet.
    pub(crate) fn orphaned(&self, ino: Ino) {
        self.state.lock().orphans.insert(ino);
    }

    /// It is gone, or has a name.
    pub(crate) fn settled(&self, ino: Ino) {
        self.state.lock().orphans.remove(&ino);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_unpin_of_an_orphan_frees() {
        let pins = Pins::default();
        pins.pin(7);
        pins.pin(7);
        pins.orphaned(7);
        assert!(!pins.unpin(7));
        assert!(pins.unpin(7));
        assert!(!pins.unpin(7), "an unpin too many is ignored");
        pins.pin(8);
        assert!(!pins.unpin(8), "it still has a name");
    }
}
