//! When dirty files were written, so that quiet ones can be told. In memory: after a restart all
//! are quiet.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use vfs::Ino;

use crate::limits::{SEAL_DIRTY_MAX, SEAL_QUIET};

/// First and last write of each file since it was sealed, on the monotonic clock.
#[derive(Debug, Default)]
pub(crate) struct Heat {
    written: Mutex<HashMap<Ino, (Duration, Duration)>>,
}

impl Heat {
    /// It was written.
    pub(crate) fn touch(&self, ino: Ino, now: Duration) {
        self.written.lock().entry(ino).or_insert((now, now)).1 = now;
    }

    /// It is being sealed, or gone.
    pub(crate) fn cool(&self, inodes: &[Ino]) {
        let mut written = self.written.lock();
        for ino in inodes {
            written.remove(ino);
        }
    }

    /// Whether it was left alone long enough to be sealed, or was dirty for too long.
    pub(crate) fn is_quiet(&self, ino: Ino, now: Duration) -> bool {
        self.written.lock().get(&ino).is_none_or(|(first, last)| {
            now.saturating_sub(*last) >= SEAL_QUIET || now.saturating_sub(*first) >= SEAL_DIRTY_MAX
        })
    }
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
}
