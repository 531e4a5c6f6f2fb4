//! What a guest has taken of its host's disk since it began to run, and what it leaves to others for that.
//!
//! All guests of a host grow on one disk, and may be promised more than it has. Whoever fills it has to stop before others do:
//! a guest leaves free a part of what it has taken, and one that takes nothing runs for as long as anybody can.
//!
//! # Not here
//! What it had taken before it began to run: a machine that is large, and stays as it is, fills nothing.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use crate::Measure;
use crate::limits::{ROOM_LEFT_MAX, ROOM_LEFT_PART};

/// What a guest grows by, on its host's disk.
#[derive(Debug)]
pub(crate) struct Growth {
    /// Its upper, which tells also where that disk is.
    pub(super) upper: File,
    /// Its memory, where that is in a file.
    pub(super) memory: Option<File>,
    known: Arc<Known>,
    before: u64,
}

/// What only the guest's owner knows.
#[derive(Debug, Default)]
pub(crate) struct Known {
    /// What else grows, and how large it was at first.
    beside: OnceLock<(Measure, u64)>,
    is_to_stop: AtomicBool,
}

impl Growth {
    /// From here on.
    pub(crate) fn begin(upper: File, memory: Option<File>, known: Arc<Known>) -> Self {
        let mut growth = Self { upper, memory, known, before: 0 };
        growth.before = growth.taken();
        growth
    }

    /// Bytes that have to stay free for others.
    pub(super) fn leaves(&self) -> u64 {
        if self.known.is_to_stop.load(Ordering::Relaxed) {
            return 0;
        }
        let grown = self.taken().saturating_sub(self.before);
        left_by(grown.saturating_add(self.known.grown_beside()))
    }

    fn taken(&self) -> u64 {
        let files = [Some(&self.upper), self.memory.as_ref()].into_iter().flatten();
        // Where nobody can say, it took nothing.
        files.filter_map(|file| file.metadata().ok()).map(|meta| meta.blocks() * 512).sum()
    }
}

impl Known {
    /// See [`crate::Instance::grows_beside`]. The first counts.
    pub(crate) fn grows_beside(&self, measure: Measure) {
        let at_first = (measure.0)();
        self.beside.set((measure, at_first)).ok();
    }

    /// See [`crate::Instance::is_to_stop`].
    pub(crate) fn is_to_stop(&self) {
        self.is_to_stop.store(true, Ordering::Relaxed);
    }

    fn grown_beside(&self) -> u64 {
        self.beside.get().map_or(0, |(measure, at_first)| (measure.0)().saturating_sub(*at_first))
    }
}

/// What a guest leaves that has grown by so much.
fn left_by(grown: u64) -> u64 {
    (grown / ROOM_LEFT_PART).min(ROOM_LEFT_MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn allocated(bytes: u64) -> File {
        let file = tempfile::tempfile().unwrap();
        grow(&file, 0, bytes);
        file
    }

    fn grow(file: &File, from: u64, bytes: u64) {
        let at = |bytes: u64| i64::try_from(bytes).unwrap();
        let flags = nix::fcntl::FallocateFlags::empty();
        nix::fcntl::fallocate(file, flags, at(from), at(bytes)).unwrap();
    }

    #[test]
    fn a_guest_leaves_a_part_of_what_it_has_taken_since_it_began_and_nothing_once_it_is_to_stop() {
        let (upper, memory) = (allocated(8 * MIB), allocated(8 * MIB));
        let [upper_grows, memory_grows] = [&upper, &memory].map(|file| file.try_clone().unwrap());
        let home = Arc::new(AtomicU64::new(700 * MIB));
        let known = Arc::new(Known::default());
        let growth = Growth::begin(upper, Some(memory), known.clone());
        assert_eq!(growth.leaves(), 0, "what was there before does not count");
        grow(&upper_grows, 8 * MIB, 16 * MIB);
        assert_eq!(growth.leaves(), 16 * MIB / ROOM_LEFT_PART);
        grow(&memory_grows, 8 * MIB, 4 * MIB);
        assert_eq!(growth.leaves(), 20 * MIB / ROOM_LEFT_PART);
        let home_grows = home.clone();
        known.grows_beside(Measure(Arc::new(move || home.load(Ordering::Relaxed))));
        assert_eq!(growth.leaves(), 20 * MIB / ROOM_LEFT_PART, "nor what was beside it");
        home_grows.fetch_add(40 * MIB, Ordering::Relaxed);
        assert_eq!(growth.leaves(), 60 * MIB / ROOM_LEFT_PART);
        home_grows.store(0, Ordering::Relaxed);
        assert_eq!(growth.leaves(), 20 * MIB / ROOM_LEFT_PART, "what is smaller is no less");
        home_grows.store(u64::MAX, Ordering::Relaxed);
        assert_eq!(growth.leaves(), ROOM_LEFT_MAX);
        known.is_to_stop();
        assert_eq!(growth.leaves(), 0);
    }
}
