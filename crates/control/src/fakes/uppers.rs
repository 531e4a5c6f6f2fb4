//! Uppers of machines on a [`FakeHost`].

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use base::{ErrorKind, MachineId, SnapshotId};
use tokio_util::sync::CancellationToken;

use super::world::{FakeHost, no_such};
use crate::host::{UpperHolder, UpperKept, UpperStored};
use crate::{Error, Result};

/// Uppers, which every run changes.
#[derive(Debug, Default)]
pub(crate) struct Uppers {
    pub(crate) of: HashMap<MachineId, FakeUpper>,
    /// The next attempts to store fail so.
    pub(crate) errors: VecDeque<ErrorKind>,
    /// Attempts to store wait.
    pub(crate) held: bool,
    /// Those of memory do.
    pub(crate) memory_held: bool,
    /// They go on once somebody has seen that they are not there yet.
    pub(crate) stored_after_look: bool,
    /// What keepers say is missing.
    pub(crate) missing: Option<String>,
    pub(crate) restoring: Option<(u64, u64)>,
    /// What comes of the upper while the guest runs.
    pub(crate) coming: Option<(u64, u64)>,
    /// What keeps it from coming.
    pub(crate) trouble: Option<String>,
    /// Machines sleep with their memory.
    pub(crate) remembers: bool,
    /// Memory is not to be stored, and why.
    pub(crate) memory_stays: Option<String>,
    /// The next attempts to store memory fail so.
    pub(crate) memory_errors: VecDeque<ErrorKind>,
    /// Whose memory was deleted.
    pub(crate) unstored: Vec<MachineId>,
    /// What is kept, by machine and holder: whether the memory is.
    pub(crate) kept: HashMap<MachineId, BTreeMap<UpperHolder, bool>>,
    /// The next attempts to keep one fail so, having kept it.
    pub(crate) keep_errors: VecDeque<ErrorKind>,
    /// The next attempts to let go of one fail so, and it stays.
    pub(crate) let_go_errors: VecDeque<ErrorKind>,
    /// Memory that is kept is damaged, and it is found out when it is kept for a fork of a snapshot.
    pub(crate) damaged_when_kept: bool,
    /// The same, and it is found out when a fork begins.
    pub(crate) damaged_when_begun: bool,
    /// Forks that have begun with an upper, and with memory.
    pub(crate) begun: HashMap<MachineId, bool>,
    /// Forks that were given up.
    pub(crate) abandoned: Vec<MachineId>,
    /// The next attempts to begin one fail so.
    pub(crate) begin_errors: VecDeque<ErrorKind>,
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
        self.while_held(machine, stop, |uppers| uppers.held).await;
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
        self.while_held(machine, stop, |uppers| uppers.held || uppers.memory_held).await;
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

    pub(crate) fn keep_fake_upper(&self, machine: &MachineId, holder: &UpperHolder) -> UpperKept {
        let mut state = self.state.lock();
        let memory = match state.uppers.of.get(machine) {
            None => return UpperKept::Nothing,
            Some(upper) if upper.behind => return UpperKept::Storing,
            Some(upper) => upper.memory == Some(true),
        };
        state.uppers.kept.entry(machine.clone()).or_default().insert(holder.clone(), memory);
        let why = || "it is not in the store".to_owned();
        UpperKept::Kept { memory: if memory { Ok(()) } else { Err(why()) } }
    }

    pub(crate) fn keep_fake_upper_again(
        &self,
        machine: &MachineId,
        at: &SnapshotId,
        into: &MachineId,
    ) -> Option<Result<(), String>> {
        let memory = self.fake_kept(machine, &UpperHolder::Snapshot(at.clone()))?;
        let mut state = self.state.lock();
        let lost = state.uppers.damaged_when_kept;
        let all = state.uppers.kept.entry(machine.clone()).or_default();
        all.insert(UpperHolder::Fork(into.clone()), memory && !lost);
        Some(match (memory, lost) {
            (true, false) => Ok(()),
            (true, true) => Err("it is damaged".to_owned()),
            (false, _) => Err("the snapshot was made without".to_owned()),
        })
    }

    pub(crate) fn freed_fake_upper(&self, machine: &MachineId) -> Option<String> {
        let mut state = self.state.lock();
        let upper = state.uppers.of.get_mut(machine).filter(|upper| upper.stored > 0)?;
        upper.uncollected = Some(format!("generation {}", upper.stored));
        upper.uncollected.clone()
    }

    /// Whoever kept something for it, and lives.
    pub(crate) fn delete_fake_upper(&self, machine: &MachineId) -> Option<MachineId> {
        let uppers = &mut self.state.lock().uppers;
        uppers.of.remove(machine);
        uppers.begun.remove(machine);
        let holder = UpperHolder::Fork(machine.clone());
        let mut all = uppers.kept.iter_mut();
        let parent = all.find_map(|(parent, kept)| kept.remove(&holder).map(|_| parent))?;
        Some(parent.clone()).filter(|parent| uppers.of.contains_key(parent))
    }

    /// What an attempt to keep one ends with, whose reply is lost.
    pub(crate) fn fake_keep_error(&self) -> Result<()> {
        let kind = self.state.lock().uppers.keep_errors.pop_front();
        kind.map_or(Ok(()), |kind| Err(Error::new(kind, "the store is away")))
    }

    /// Whether the memory is in what is kept, if that is.
    pub(crate) fn fake_kept(&self, machine: &MachineId, holder: &UpperHolder) -> Option<bool> {
        self.state.lock().uppers.kept.get(machine)?.get(holder).copied()
    }

    /// Why the memory is left out.
    pub(crate) fn begin_fake_upper(
        &self,
        from: &MachineId,
        into: &MachineId,
    ) -> Result<Option<String>> {
        if let Some(kind) = self.state.lock().uppers.begin_errors.pop_front() {
            return Err(Error::new(kind, "the store is away"));
        }
        let kept = self.fake_kept(from, &UpperHolder::Fork(into.clone()));
        let mut state = self.state.lock();
        if !state.uppers.begun.contains_key(into) {
            let memory = kept.ok_or_else(|| no_such("kept upper"))?;
            let lost = memory && state.uppers.damaged_when_begun;
            state.uppers.begun.insert(into.clone(), memory && !lost);
            return Ok(lost.then(|| "it is damaged".to_owned()));
        }
        Ok(None)
    }

    /// It is being read, until it may be stored.
    async fn while_held(
        &self,
        machine: &MachineId,
        stop: &CancellationToken,
        held: impl Fn(&Uppers) -> bool,
    ) {
        self.state.lock().uppers.of.entry(machine.clone()).or_default().storing = true;
        while held(&self.state.lock().uppers) && !stop.is_cancelled() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
