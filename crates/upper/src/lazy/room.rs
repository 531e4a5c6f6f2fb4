//! Whether the host's disk has room for chunks that nobody waits for.

use std::fs::File;

use crate::file::free;
use crate::limits::DISK_LEFT_MIN;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Room {
    /// There is none.
    #[cfg(test)]
    pub(super) none: std::sync::atomic::AtomicBool,
}

impl Room {
    /// Where nobody can say, there is no lack of it.
    pub(super) fn is_scarce(&self, disk: &File) -> bool {
        #[cfg(test)]
        if self.none.load(std::sync::atomic::Ordering::SeqCst) {
            return true;
        }
        free(disk).is_ok_and(|free| free < DISK_LEFT_MIN)
    }
}
