//! When dirty files were written, so that quiet ones can be told. In memory: after a restart all
//! are quiet.
//!
//! # Bounds
//! A file that is not here is quiet, so quiet ones are let go when there are many: small files that
//! are cut off, for one, are never sealed. What is left are files that were written in the last
//! second, or without a pause for less than [`SEAL_DIRTY_MAX`].

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use vfs::Ino;

use crate::limits::{SEAL_DIRTY_MAX, SEAL_QUIET};

/// So many files are always kept.
const KEPT_MIN: usize = 4_096;

/// First and last write of each file since it was sealed, on the monotonic clock.
#[derive(Debug, Default)]
pub(crate) struct Heat {
    written: Mutex<Written>,
}

#[derive(Debug, Default)]
struct Written {
    files: HashMap<Ino, (Duration, Duration)>,
    /// Quiet ones are let go at this many.
    thin_at: usize,
}

impl Heat {
    /// It was written.
    pub(crate) fn touch(&self, ino: Ino, now: Duration) {
        let mut written = self.written.lock();
        written.files.entry(ino).or_insert((now, now)).1 = now;
        if written.files.len() > written.thin_at.max(KEPT_MIN) {
            written.files.retain(|_, file| !is_quiet(*file, now));
            written.thin_at = written.files.len() * 2;
        }
    }

    /// It is being sealed, or gone.
    pub(crate) fn cool(&self, inodes: &[Ino]) {
        let mut written = self.written.lock();
        for ino in inodes {
            written.files.remove(ino);
        }
    }

    /// Whether it was left alone long enough to be sealed, or was dirty for too long.
    pub(crate) fn is_quiet(&self, ino: Ino, now: Duration) -> bool {
        self.written.lock().files.get(&ino).is_none_or(|file| is_quiet(*file, now))
    }
}

fn is_quiet((first, last): (Duration, Duration), now: Duration) -> bool {
    now.saturating_sub(last) >= SEAL_QUIET || now.saturating_sub(first) >= SEAL_DIRTY_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_quiet_when_it_rests_or_never_does() {
        let heat = Heat::default();
        let at = Duration::from_millis;
        assert!(heat.is_quiet(1, at(0)), "nobody wrote it in this process");
        for ms in (0..31_000).step_by(500) {
            heat.touch(1, at(ms));
            assert_eq!(heat.is_quiet(1, at(ms)), ms >= 30_000);
        }
        heat.cool(&[1]);
        heat.touch(1, at(40_000));
        assert!(!heat.is_quiet(1, at(40_999)));
        assert!(heat.is_quiet(1, at(41_000)));
    }

    #[test]
    fn files_that_are_never_sealed_do_not_add_up() {
        let heat = Heat::default();
        for n in 0..100_000_u64 {
            heat.touch(n, Duration::from_millis(n));
        }
        let kept = heat.written.lock().files.len();
        assert!(kept <= KEPT_MIN + 1, "{kept}");
        assert!(!heat.is_quiet(99_999, Duration::from_secs(100)));
    }
}
