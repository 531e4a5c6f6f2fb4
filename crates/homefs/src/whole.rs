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
//! Nothing is stored while the entrance is closed. After some rounds those who come are held up before it
//! ([`Whole::hold`]), each time longer, so that there is a time when nothing new was noted.
//!
//! # Bounds
//! So many files are noted one by one; past it, all that are dirty count. Calls that are held up may
//! hold threads which calls on the store need, so only so many wait; more can only come over HTTP, and are
//! told to try again.
//!
//! # Crash
//! The notes are in memory. Of a home that was not given up, all that is dirty counts at first.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use base::ErrorKind;
use parking_lot::{Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};
use vfs::{Errno, FsError, Ino, Result};

/// Files that are noted one by one.
const NOTED_MAX: usize = 65_536;
/// Calls over HTTP that are held up at once. With the writers that wait for the store
/// (`crate::pressure`), well below the threads of a runtime that may block.
const CALLERS_HELD_MAX: usize = 64;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Whole {
    noted: Mutex<Noted>,
    entrance: RwLock<()>,
    hold: Mutex<Hold>,
    let_in: Condvar,
}

/// Whether those who come are held up.
#[derive(Debug, Default)]
struct Hold {
    patience: Option<Patience>,
    callers: usize,
}

/// How long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    /// So long, each.
    For(Duration),
    /// Until the hold is over.
    ToTheEnd,
}

/// Those who come are held up until it is dropped.
#[derive(Debug)]
pub(crate) struct Held<'a>(&'a Whole);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.hold.lock().patience = None;
        self.0.let_in.notify_all();
    }
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
    /// To be held while a change of the guest's is made that may note something. It has threads of its own,
    /// so that however many wait hold up nothing but themselves.
    pub(crate) fn enter(&self) -> RwLockReadGuard<'_, ()> {
        drop(self.wait(self.hold.lock()));
        self.entrance.read()
    }

    /// The same for a call over HTTP.
    ///
    /// # Errors
    /// `EAGAIN` where too many are held up.
    pub(crate) fn enter_as_caller(&self) -> Result<RwLockReadGuard<'_, ()>> {
        let mut hold = self.hold.lock();
        if hold.patience.is_some() {
            if hold.callers >= CALLERS_HELD_MAX {
                let why = "too many uploads wait for the object store; try again";
                return Err(FsError::of_kind(ErrorKind::Unavailable, Errno::EAGAIN, why));
            }
            hold.callers += 1;
            hold = self.wait(hold);
            hold.callers -= 1;
        }
        drop(hold);
        Ok(self.entrance.read())
    }

    fn wait<'a>(&'a self, mut hold: MutexGuard<'a, Hold>) -> MutexGuard<'a, Hold> {
        let begun = Instant::now();
        while let Some(patience) = hold.patience {
            match patience {
                Patience::ToTheEnd => self.let_in.wait(&mut hold),
                Patience::For(patience) => {
                    if self.let_in.wait_until(&mut hold, begun + patience).timed_out() {
                        break;
                    }
                }
            }
        }
        hold
    }

    /// Holds up those who come.
    pub(crate) fn hold(&self, patience: Patience) -> Held<'_> {
        self.hold.lock().patience = Some(patience);
        Held(self)
    }

    /// Lets nobody in until it is dropped, which has to be soon: nothing is stored meanwhile.
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
    fn those_who_come_are_held_up_for_a_while_or_to_the_end() {
        let whole = Whole::default();
        let held = whole.hold(Patience::For(Duration::from_millis(30)));
        let begun = Instant::now();
        drop(whole.enter());
        assert!(begun.elapsed() >= Duration::from_millis(30));
        drop(held);
        let held = whole.hold(Patience::ToTheEnd);
        std::thread::scope(|scope| {
            let entered = scope.spawn(|| drop(whole.enter_as_caller().unwrap()));
            std::thread::sleep(Duration::from_millis(50));
            assert!(!entered.is_finished());
            drop(held);
        });
        assert_eq!(whole.hold.lock().callers, 0);
        drop(whole.enter());
    }

    #[test]
    fn callers_past_the_bound_are_told_to_come_again() {
        let whole = Whole::default();
        let held = whole.hold(Patience::ToTheEnd);
        std::thread::scope(|scope| {
            for _ in 0..CALLERS_HELD_MAX {
                scope.spawn(|| drop(whole.enter_as_caller().unwrap()));
            }
            while whole.hold.lock().callers < CALLERS_HELD_MAX {
                std::thread::yield_now();
            }
            assert_eq!(whole.enter_as_caller().unwrap_err().errno(), Errno::EAGAIN);
            drop(held);
        });
        assert!(whole.enter_as_caller().is_ok());
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
