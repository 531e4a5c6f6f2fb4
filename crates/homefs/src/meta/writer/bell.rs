//! When to fold, and the thread that does.
//!
//! It folds when much has gathered, or when the oldest change has waited long enough. A fold that
//! failed is tried again after as long.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use parking_lot::{Condvar, Mutex, MutexGuard};
use vfs::Result;

use super::Inner;
use crate::limits::{FOLD_AFTER, FOLD_BYTES, FOLD_ROWS, UNFOLDED_BYTES_MAX, UNFOLDED_ROWS_MAX};

/// Wakes the thread that folds.
#[derive(Debug, Default)]
pub(super) struct Bell {
    wanted: Mutex<Wanted>,
    rung: Condvar,
    /// It knows that there is something to fold. So that few changes take the lock.
    soon: AtomicBool,
    now: AtomicBool,
}

#[derive(Debug, Default)]
struct Wanted {
    soon: Option<Instant>,
    now: bool,
    stop: bool,
}

impl Bell {
    /// Ends the thread.
    pub(super) fn stop(&self) {
        self.wanted.lock().stop = true;
        self.rung.notify_all();
    }
}

impl Inner {
    /// What follows a change, outside of the lock.
    pub(super) fn changed(&self) {
        let much = self.unfolded_bytes.load(Ordering::Relaxed) > FOLD_BYTES
            || self.unfolded_rows.load(Ordering::Relaxed) > FOLD_ROWS;
        if much {
            if !self.bell.now.swap(true, Ordering::AcqRel) {
                self.bell.wanted.lock().now = true;
                self.bell.rung.notify_all();
            }
        } else if !self.bell.soon.load(Ordering::Relaxed) {
            self.ring();
        }
        (self.on_commit)();
    }

    pub(super) fn ring(&self) {
        if !self.bell.soon.swap(true, Ordering::AcqRel) {
            self.bell.wanted.lock().soon.get_or_insert(Instant::now() + FOLD_AFTER);
            self.bell.rung.notify_all();
        }
    }

    /// Folds on the caller's thread where too much has gathered.
    pub(super) fn relieve(&self) -> Result<()> {
        let too_much = self.unfolded_bytes.load(Ordering::Relaxed) > UNFOLDED_BYTES_MAX
            || self.unfolded_rows.load(Ordering::Relaxed) > UNFOLDED_ROWS_MAX;
        if too_much { self.fold() } else { Ok(()) }
    }

    pub(super) fn serve(&self) {
        let mut wanted = self.bell.wanted.lock();
        while !wanted.stop {
            let due = wanted.now || wanted.soon.is_some_and(|at| at <= Instant::now());
            if due {
                self.unlocked(&mut wanted);
                continue;
            }
            match wanted.soon {
                Some(at) => drop(self.bell.rung.wait_until(&mut wanted, at)),
                None => self.bell.rung.wait(&mut wanted),
            }
        }
    }

    fn unlocked(&self, wanted: &mut MutexGuard<'_, Wanted>) {
        (wanted.now, wanted.soon) = (false, None);
        // What changes from here on rings again.
        self.bell.soon.store(false, Ordering::Release);
        let failed = MutexGuard::unlocked(wanted, || self.fold().is_err());
        self.bell.now.store(false, Ordering::Release);
        if failed {
            wanted.soon.get_or_insert(Instant::now() + FOLD_AFTER);
        }
    }
}
