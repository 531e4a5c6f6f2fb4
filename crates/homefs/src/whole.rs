//! Files that took their name whole: a commit has all of their content, or does not have the name.
//!
//! An upload that is placed, a file that is renamed over another one, a tree that is merged: who reads the
//! stored state sees what was there before or what is there now, and never the new file with nothing
//! in it. Content is stored when it rests or is asked for; without this a commit that was asked for by
//! somebody else could take the name along and leave the content behind.
//!
//! # Order
//! Such a change enters, notes its files, and is made. A round seals and stores what is noted; then it
//! closes the entrance, and takes the state if nothing was noted meanwhile; else it goes round again.
//! The last time it closes first: those who come then wait for one upload.
//!
//! # Bounds
//! So many files are noted one by one; past it, all that are dirty count.
//!
//! # Crash
//! The notes are in memory. Of a home that was not given up, all that is dirty counts at first.

use std::collections::HashSet;

use parking_lot::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};
use vfs::Ino;

/// Files that are noted one by one.
const NOTED_MAX: usize = 65_536;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Whole {
    noted: Mutex<Noted>,
    entrance: RwLock<()>,
}

/// What has to be stored before its name is.
#[derive(Debug, Default)]
pub(crate) struct Noted {
    /// These.
    pub(crate) inodes: HashSet<Ino>,
    /// All that are dirty.
    pub(crate) all: bool,
}

impl Whole {
    /// To be held while a change is made that may note something.
    pub(crate) fn enter(&self) -> RwLockReadGuard<'_, ()> {
        self.entrance.read()
    }

    /// Lets nobody in until it is dropped.
    pub(crate) fn close(&self) -> RwLockWriteGuard<'_, ()> {
        self.entrance.write()
    }

    /// A name for this file may be in the next commit.
    pub(crate) fn note(&self, ino: Ino) {
        let mut noted = self.noted.lock();
        if noted.all {
            return;
        }
        noted.inodes.insert(ino);
        if noted.inodes.len() > NOTED_MAX {
            *noted = Noted { inodes: HashSet::new(), all: true };
        }
    }

    /// Names for any files may be.
    pub(crate) fn note_all(&self) {
        *self.noted.lock() = Noted { inodes: HashSet::new(), all: true };
    }

    /// True where nothing is noted.
    pub(crate) fn is_empty(&self) -> bool {
        let noted = self.noted.lock();
        !noted.all && noted.inodes.is_empty()
    }

    /// What was noted; to be [given back](Self::give_back) where it is not sealed.
    pub(crate) fn take(&self) -> Noted {
        std::mem::take(&mut *self.noted.lock())
    }

    /// Notes again what could not be sealed.
    pub(crate) fn give_back(&self, taken: Noted) {
        if taken.all {
            return self.note_all();
        }
        taken.inodes.into_iter().for_each(|ino| self.note(ino));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_noted_is_taken_once_and_given_back() {
        let whole = Whole::default();
        assert!(whole.is_empty());
        whole.note(7);
        whole.note(7);
        let taken = whole.take();
        assert_eq!(taken.inodes.len(), 1);
        assert!(whole.is_empty());
        whole.note(9);
        whole.give_back(taken);
        assert_eq!(whole.take().inodes, HashSet::from([7, 9]));
    }

    #[test]
    fn past_the_bound_everything_counts() {
        let whole = Whole::default();
        for ino in 0..=NOTED_MAX as Ino {
            whole.note(ino);
        }
        let taken = whole.take();
        assert!(taken.all && taken.inodes.is_empty());
        whole.give_back(taken);
        whole.note(1);
        assert!(whole.take().all);
    }
}
