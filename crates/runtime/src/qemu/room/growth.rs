//! What a machine has grown by since its guest began to run, and what it leaves free for others for that.
//!
//! All guests of a host grow on one disk, and may be promised more than it has. Whoever fills it has to stop before others do:
//! one leaves free a part of what it grew by, and one that does not grow runs for as long as anybody can.
//!
//! # Not here
//! - What it had before it began to run: a machine that is large, and stays as it is, fills nothing. Nor what comes of its
//!   upper from elsewhere.
//! - Its memory: where room gets scarce, that of each guest takes what it may still need, whatever the guest does.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use crate::limits::{ROOM_LEFT_MAX, ROOM_LEFT_PART};
use crate::{Measure, ServesDisk};

/// What of a guest grows on its host's disk.
#[derive(Debug)]
pub(crate) struct Grows {
    /// Its upper, which tells also where that disk is.
    pub(crate) upper: File,
    /// What serves it, where not all of it is here. Not kept alive: others wait for its end.
    pub(crate) served: Option<Weak<dyn ServesDisk>>,
    /// Its memory, where that is in a file.
    pub(crate) memory: Option<File>,
}

/// How much a machine has grown.
#[derive(Debug)]
pub(super) struct Growth {
    pub(super) grows: Grows,
    told: Arc<Told>,
    before: u64,
}

/// What only the guest's owner can tell.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// What else grows, and how large it was at first.
    beside: OnceLock<(Measure, u64)>,
    stops: AtomicBool,
}

impl Growth {
    /// From here on.
    pub(super) fn begin(grows: Grows, told: Arc<Told>) -> Self {
        let mut growth = Self { grows, told, before: 0 };
        growth.before = growth.taken();
        growth
    }

    /// Bytes that have to stay free for others.
    pub(super) fn leaves(&self) -> u64 {
        if self.told.stops.load(Ordering::Relaxed) {
            return 0;
        }
        let grown = self.taken().saturating_sub(self.before);
        left_by(grown.saturating_add(self.told.grown_beside()))
    }

    fn taken(&self) -> u64 {
        // Where nobody can say, it took nothing.
        let here = self.grows.upper.metadata().map_or(0, |meta| meta.blocks() * 512);
        let served = self.grows.served.as_ref().and_then(Weak::upgrade);
        here.saturating_sub(served.map_or(0, |served| served.fetched_bytes()))
    }
}

impl Told {
    /// See [`crate::Instance::count_beside`]. The first counts.
    pub(crate) fn count_beside(&self, measure: Measure) {
        let at_first = (measure.0)();
        self.beside.set((measure, at_first)).ok();
    }

    /// See [`crate::Instance::expect_stop`].
    pub(crate) fn expect_stop(&self) {
        self.stops.store(true, Ordering::Relaxed);
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

    fn grow(file: &File, from: u64, bytes: u64) {
        let at = |bytes: u64| i64::try_from(bytes).unwrap();
        let flags = nix::fcntl::FallocateFlags::empty();
        nix::fcntl::fallocate(file, flags, at(from), at(bytes)).unwrap();
    }

    /// A disk of which some comes from elsewhere.
    #[derive(Debug)]
    struct Comes(AtomicU64);

    impl ServesDisk for Comes {
        fn connect(&self) -> std::io::Result<std::os::unix::net::UnixStream> {
            Err(std::io::ErrorKind::Unsupported.into())
        }

        fn fetched_bytes(&self) -> u64 {
            self.0.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn a_machine_leaves_a_part_of_what_it_grew_by_and_nothing_once_it_expect_stop() {
        let upper = tempfile::tempfile().unwrap();
        grow(&upper, 0, 8 * MIB);
        let (written, home) = (upper.try_clone().unwrap(), Arc::new(AtomicU64::new(700 * MIB)));
        let (told, comes) = (Arc::new(Told::default()), Arc::new(Comes(AtomicU64::new(MIB))));
        let served: Arc<dyn ServesDisk> = comes.clone();
        let served = Some(Arc::downgrade(&served));
        let growth = Growth::begin(Grows { upper, served, memory: None }, told.clone());
        assert_eq!(growth.leaves(), 0, "what was there before does not count");
        grow(&written, 8 * MIB, 16 * MIB);
        assert_eq!(growth.leaves(), 16 * MIB / ROOM_LEFT_PART);
        comes.0.fetch_add(12 * MIB, Ordering::Relaxed);
        assert_eq!(growth.leaves(), 4 * MIB / ROOM_LEFT_PART, "nor what comes from elsewhere");
        let home_grows = home.clone();
        told.count_beside(Measure(Arc::new(move || home.load(Ordering::Relaxed))));
        assert_eq!(growth.leaves(), 4 * MIB / ROOM_LEFT_PART, "nor what was beside it");
        home_grows.fetch_add(40 * MIB, Ordering::Relaxed);
        assert_eq!(growth.leaves(), 44 * MIB / ROOM_LEFT_PART);
        home_grows.store(0, Ordering::Relaxed);
        assert_eq!(growth.leaves(), 4 * MIB / ROOM_LEFT_PART, "what is smaller is no less");
        home_grows.store(u64::MAX, Ordering::Relaxed);
        assert_eq!(growth.leaves(), ROOM_LEFT_MAX);
        told.expect_stop();
        assert_eq!(growth.leaves(), 0);
    }
}
