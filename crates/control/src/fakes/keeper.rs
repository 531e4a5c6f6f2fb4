//! A keeper that is a few values.

use base::{Egress, HomeId, MachineId};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::FakeTree;
use super::world::FakeHost;
use crate::host::{KeeperFailure, KeeperPhase, LastWords, Sizes};

/// A keeper in memory.
#[derive(Debug)]
pub(crate) struct FakeKeeper {
    pub(super) machine: MachineId,
    pub(super) home: HomeId,
    pub(super) tree: FakeTree,
    pub(crate) phase: Mutex<KeeperPhase>,
    pub(super) egress: Mutex<Egress>,
    pub(super) sizes: Mutex<Sizes>,
    pub(crate) waits_for_room: Mutex<bool>,
    pub(super) ended: watch::Sender<bool>,
}

impl FakeKeeper {
    pub(crate) fn make_ready(&self) {
        let mut phase = self.phase.lock();
        if *phase == KeeperPhase::Starting {
            *phase = KeeperPhase::Ready;
        }
    }

    pub(crate) fn finish_stopping(&self, host: &FakeHost) {
        if *self.phase.lock() == KeeperPhase::Stopping {
            self.release(host);
        }
    }

    pub(crate) fn egress(&self) -> Egress {
        self.egress.lock().clone()
    }

    pub(crate) fn end(&self) {
        self.ended.send_replace(true);
    }

    /// The home is published and given up, and the keeper ends.
    pub(crate) fn release(&self, host: &FakeHost) {
        self.release_because(host, None);
    }

    /// The same, with what was wrong.
    pub(crate) fn release_because(&self, host: &FakeHost, failure: Option<KeeperFailure>) {
        let mut state = host.state.lock();
        let home = state.homes.entry(self.home.clone()).or_default();
        home.published = self.tree.copy();
        home.local = None;
        home.seq += 1;
        home.held = false;
        let words = LastWords { phase: KeeperPhase::Stopped, failure, wake_at: None };
        state.words.insert(self.machine.clone(), words);
        state.keepers.remove(&self.machine);
        let remembers = state.uppers.remembers;
        let upper = state.uppers.of.entry(self.machine.clone()).or_default();
        (upper.behind, upper.memory) = (true, remembers.then_some(false));
        drop(state);
        self.end();
    }
}
