//! Tests that look inside an open home.

mod disk;
mod yields;

use std::sync::Arc;
use std::time::Duration;

use base::{HomeId, ServerId, SystemClock, SystemEntropy};
use objstore::MemoryStore;

use crate::{HomeFs, HomeSettings, Parts};

/// A home in a store in memory, and a disk.
pub(super) struct World {
    _runtime: tokio::runtime::Runtime,
    pub(super) parts: Parts,
    pub(super) home: HomeId,
    pub(super) server: ServerId,
    pub(super) disk: tempfile::TempDir,
}

impl World {
    pub(super) fn new() -> Self {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let parts = Parts {
            store: Arc::new(MemoryStore::default()),
            clock: Arc::new(SystemClock::new()),
            entropy: Arc::new(SystemEntropy),
            runtime: runtime.handle().clone(),
        };
        let (home, server) = (HomeId::generate(), ServerId::generate());
        runtime.block_on(crate::create_home(&parts, &home, &server)).unwrap();
        let disk = tempfile::tempdir().unwrap();
        Self { _runtime: runtime, parts, home, server, disk }
    }

    pub(super) fn open(&self) -> HomeFs {
        let dir = self.disk.path().join("home");
        let settings = HomeSettings {
            // No round runs meanwhile.
            replicate_after: Duration::from_secs(3_600),
            ..HomeSettings::new(self.home.clone(), &dir, self.server.clone())
        };
        HomeFs::open_writer(settings, self.parts.clone()).unwrap().0
    }
}
