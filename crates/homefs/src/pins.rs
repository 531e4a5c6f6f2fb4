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
    /// Held once or more. Apart from the counts, which nearly all would be 1: a kernel holds a
    /// million inodes, each pinned once.
    held: HashSet<Ino>,
    /// Holders beyond the first.
    more: HashMap<Ino, u64>,
    /// A hint that unpinning may free something; the table `orphan` decides.
    orphans: HashSet<Ino>,
}

impl Pins {
    /// One more holder.
    pub(crate) fn pin(&self, ino: Ino) {
        let mut state = self.state.lock();
        if !state.held.insert(ino) {
            *state.more.entry(ino).or_default() += 1;
        }
    }

    /// One holder less. True where that was the last one of an inode without a name.
    pub(crate) fn unpin(&self, ino: Ino) -> bool {
        let mut state = self.state.lock();
        match state.more.get_mut(&ino) {
            Some(count) if *count > 1 => {
                *count -= 1;
                false
            }
            Some(_) => {
                state.more.remove(&ino);
                false
            }
            None => state.held.remove(&ino) && state.orphans.contains(&ino),
        }
    }

    /// Whether anyone holds it.
    pub(crate) fn is_pinned(&self, ino: Ino) -> bool {
        self.state.lock().held.contains(&ino)
    }

    /// It is losing its last name. True where somebody holds it: whoever does so last is told by
    /// [`Pins::unpin`], also one who is about to.
    pub(crate) fn outlives_its_name(&self, ino: Ino) -> bool {
        let mut state = self.state.lock();
        let held = state.held.contains(&ino);
        if held {
            state.orphans.insert(ino);
        }
        held
    }

    /// It has no name yet, or had none when the home was last closed.
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
        pins.pin(7);
        assert!(pins.outlives_its_name(7));
        assert!(!pins.unpin(7));
        assert!(!pins.unpin(7));
        assert!(pins.is_pinned(7));
        assert!(pins.unpin(7));
        assert!(!pins.is_pinned(7));
        assert!(!pins.unpin(7), "an unpin too many is ignored");
        pins.pin(8);
        assert!(!pins.unpin(8), "it still has a name");
        assert!(!pins.outlives_its_name(8), "nobody is left to be told");
    }
}
