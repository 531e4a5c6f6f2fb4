//! Uppers of machines on a [`FakeHost`].

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use base::{ErrorKind, MachineId};
use tokio_util::sync::CancellationToken;

use super::world::FakeHost;
use crate::host::UpperStored;
use crate::{Error, Result};

/// Uppers, which every run changes.
#[derive(Debug, Default)]
pub(crate) struct Uppers {
    pub(crate) of: HashMap<MachineId, FakeUpper>,
    /// The next attempts to store fail so.
    pub(crate) errors: VecDeque<ErrorKind>,
    /// Attempts to store wait.
    pub(crate) held: bool,
    /// What keepers say is missing.
    pub(crate) missing: Option<String>,
    pub(crate) restoring: Option<(u64, u64)>,
    /// Machines sleep with their memory.
    pub(crate) remembers: bool,
    /// The next attempts to store memory fail so.
    pub(crate) memory_errors: VecDeque<ErrorKind>,
    /// Whose memory was deleted.
    pub(crate) unstored: Vec<MachineId>,
}

/// One machine's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct FakeUpper {
    pub(crate) behind: bool,
    /// An attempt to store it is under way.
    pub(crate) storing: bool,
    pub(crate) uncollected: Option<String>,
    pub(crate) stored: u32,
    pub(crate) collected: Vec<String>,
    /// Whether the memory that it sleeps with is stored.
    pub(crate) memory: Option<bool>,
    /// How often memory was.
    pub(crate) memories: u32,
}

impl FakeHost {
    pub(crate) async fn store_fake_upper(
        &self,
        machine: &MachineId,
        stop: &CancellationToken,
    ) -> Result<UpperStored> {
        if let Some(kind) = self.state.lock().uppers.errors.pop_front() {
            return Err(Error::new(kind, "the store is away"));
        }
        self.while_held(machine, stop).await;
        let mut state = self.state.lock();
        let upper = state.uppers.of.entry(machine.clone()).or_default();
        upper.storing = false;
        if stop.is_cancelled() {
            return Ok(UpperStored::Stopped);
        }
        upper.stored += 1;
        let generation = format!("generation {}", upper.stored);
        (upper.behind, upper.uncollected) = (false, Some(generation.clone()));
        Ok(UpperStored::Stored { generation, chunks: 1, bytes: 1 })
    }

    pub(crate) async fn store_fake_memory(
        &self,
        machine: &MachineId,
        stop: &CancellationToken,
    ) -> Result<UpperStored> {
        if let Some(kind) = self.state.lock().uppers.memory_errors.pop_front() {
            return Err(Error::new(kind, "the store is away"));
        }
        self.while_held(machine, stop).await;
        let mut state = self.state.lock();
        let upper = state.uppers.of.entry(machine.clone()).or_default();
        upper.storing = false;
        if stop.is_cancelled() {
            return Ok(UpperStored::Stopped);
        }
        assert!(!upper.behind, "memory was stored before its upper");
        upper.memory = Some(true);
        upper.memories += 1;
        Ok(UpperStored::Stored { generation: String::new(), chunks: 1, bytes: 1 })
    }

    /// It is being read, until it may be stored.
    async fn while_held(&self, machine: &MachineId, stop: &CancellationToken) {
        self.state.lock().uppers.of.entry(machine.clone()).or_default().storing = true;
        while self.state.lock().uppers.held && !stop.is_cancelled() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
