//! Everything below `control`, in memory, with the switches that tests need.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use base::{
    Clock, Entropy, ErrorKind, ExecutionId, HomeId, MachineId, ServerId, SnapshotId, Timestamp,
};
use parking_lot::Mutex;

use super::keeper::FakeKeeper;
use super::uppers::Uppers;
use super::{FakeTree, MemoryStore};
use crate::executions::{Execution, ExecutionStatus};
use crate::homes::HomeSnapshot;
use crate::host::{KeeperFailure, KeeperPhase, LastWords};
use crate::{Control, Error, Parts, Settings, Timing};

/// A clock that a test moves by hand.
#[derive(Debug, Default)]
pub struct HandClock {
    nanos: AtomicI64,
}

impl HandClock {
    /// A clock at its zero.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Moves it.
    pub fn advance(&self, by: Duration) {
        let by = i64::try_from(by.as_nanos()).unwrap_or(i64::MAX);
        self.nanos.fetch_add(by, Ordering::SeqCst);
    }
}

impl Clock for HandClock {
    fn now(&self) -> Timestamp {
        let nanos = 1_700_000_000_000_000_000 + i128::from(self.nanos.load(Ordering::SeqCst));
        Timestamp::from_nanosecond(nanos).unwrap_or(Timestamp::UNIX_EPOCH)
    }

    fn monotonic(&self) -> Duration {
        Duration::from_nanos(u64::try_from(self.nanos.load(Ordering::SeqCst)).unwrap_or(0))
    }
}

#[derive(Debug)]
struct NoEntropy;

impl Entropy for NoEntropy {
    fn fill(&self, into: &mut [u8]) {
        into.fill(4);
    }
}

/// One home.
#[derive(Debug, Default)]
pub(crate) struct FakeHome {
    pub(crate) published: FakeTree,
    /// What the host's disk knows; newer than `published` while a keeper holds the home.
    pub(crate) local: Option<FakeTree>,
    pub(crate) seq: u64,
    pub(crate) held: bool,
    /// By whom, where a test says so.
    pub(crate) holder: Option<ServerId>,
    /// The draft, the published state it was opened on, and its number.
    pub(crate) draft: Option<(FakeTree, FakeTree, u64)>,
    pub(crate) snapshots: BTreeMap<SnapshotId, (HomeSnapshot, FakeTree)>,
    /// What is kept for forks.
    pub(crate) forks: HashMap<HomeId, FakeTree>,
}

/// What the fakes share.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) homes: HashMap<HomeId, FakeHome>,
    pub(crate) keepers: HashMap<MachineId, Arc<FakeKeeper>>,
    pub(crate) words: HashMap<MachineId, LastWords>,
    pub(crate) executions: HashMap<MachineId, BTreeMap<ExecutionId, Execution>>,
    /// Each time that it was looked for templates: which machines were there.
    pub(crate) templates_collected: Vec<HashSet<MachineId>>,
    pub(crate) start_errors: VecDeque<(ErrorKind, &'static str)>,
    /// What the next attempts to set an egress policy fail with.
    pub(crate) egress_errors: VecDeque<(ErrorKind, &'static str)>,
    pub(crate) dies_while_starting: VecDeque<KeeperFailure>,
    pub(crate) hold_starting: bool,
    /// How far keepers say that they are with opening their homes.
    pub(crate) opening_home: Option<u64>,
    /// Homes that a mount on this host writes, and its process.
    pub(crate) mounted: HashMap<HomeId, u32>,
    pub(crate) room_lacking: u64,
    /// And for what sleeps with memory, beside that.
    pub(crate) room_lacking_for_memory: u64,
    /// Homes are claimed, by this server, just before a state of them is kept.
    pub(crate) claim_before_pin: Option<ServerId>,
    /// And given up again right after.
    pub(crate) given_up_after_pin: bool,
    /// What is kept of homes and of uppers cannot be read.
    pub(crate) damaged_pins: bool,
    /// Nobody is told what the newest commit of a home is.
    pub(crate) store_away: bool,
    /// Whoever lets go of what is kept of a home waits.
    pub(crate) hold_deletes: bool,
    /// Snapshots go right after their home was kept for a fork.
    pub(crate) gone_after_home: bool,
    pub(crate) hold_stopping: bool,
    /// Guests that would not sleep with their memory.
    pub(crate) keeps_no_memory: bool,
    /// Drafts that are applied to homes that sleep take as long as this is set.
    pub(crate) hold_apply: bool,
    /// Commands wait in front of their keepers, who let nobody in then.
    pub(crate) hold_commands: bool,
    pub(crate) starts: u32,
    pub(crate) forgotten: u32,
    pub(crate) took_over: bool,
    pub(crate) collected: u32,
    pub(crate) started_with: Option<crate::host::KeeperSpec>,
    pub(crate) last_activity: HashMap<MachineId, Timestamp>,
    pub(crate) uppers: Uppers,
    /// Machines of which nothing is left on this host.
    pub(crate) removed: Vec<MachineId>,
}

/// The host and the homes, in memory.
#[derive(Debug, Clone, Default)]
pub struct FakeHost {
    pub(crate) state: Arc<Mutex<State>>,
}

impl FakeHost {
    /// The next starts fail so, one after the other.
    pub fn fail_starts(&self, errors: &[(ErrorKind, &'static str)]) {
        self.state.lock().start_errors.extend(errors);
    }

    /// The next attempts to put an egress policy in force fail so, one after the other.
    pub fn fail_egress(&self, errors: &[(ErrorKind, &'static str)]) {
        self.state.lock().egress_errors.extend(errors);
    }

    /// So many bytes have to become free before machines wake.
    pub fn lack_room(&self, bytes: u64) {
        self.state.lock().room_lacking = bytes;
    }

    /// So many more have to before machines go on from memory.
    pub fn lack_room_for_memory(&self, bytes: u64) {
        self.state.lock().room_lacking_for_memory = bytes;
    }

    /// Has a guest wait for room, or go on.
    pub fn wait_for_room(&self, machine: &MachineId, waits: bool) {
        if let Some(keeper) = self.state.lock().keepers.get(machine) {
            *keeper.waits_for_room.lock() = waits;
        }
    }

    /// The egress policy that a machine's keeper has in force.
    #[must_use]
    pub fn egress_of(&self, machine: &MachineId) -> Option<base::Egress> {
        self.state.lock().keepers.get(machine).map(|keeper| keeper.egress())
    }

    /// The sizes that a machine's keeper has in force.
    #[must_use]
    pub fn sizes_of(&self, machine: &MachineId) -> Option<crate::host::Sizes> {
        self.state.lock().keepers.get(machine).map(|keeper| *keeper.sizes.lock())
    }

    /// The next keepers end while starting, saying this.
    pub fn die_while_starting(&self, failures: &[KeeperFailure]) {
        self.state.lock().dies_while_starting.extend(failures.iter().cloned());
    }

    /// Keepers stay in `starting` while this is set; then those that wait become ready.
    pub fn hold_starting(&self, hold: bool) {
        let mut state = self.state.lock();
        state.hold_starting = hold;
        let waiting: Vec<_> = state.keepers.values().cloned().collect();
        drop(state);
        if !hold {
            waiting.iter().for_each(|keeper| keeper.make_ready());
        }
    }

    /// Keepers stay in `stopping` while this is set; then those that wait end.
    pub fn hold_stopping(&self, hold: bool) {
        let mut state = self.state.lock();
        state.hold_stopping = hold;
        let waiting: Vec<_> = state.keepers.values().cloned().collect();
        drop(state);
        if !hold {
            waiting.iter().for_each(|keeper| keeper.finish_stopping(self));
        }
    }

    /// Every execution of a machine that runs ends now.
    pub fn end_executions(&self, machine: &MachineId, now: Timestamp) {
        let mut state = self.state.lock();
        for execution in state.executions.entry(machine.clone()).or_default().values_mut() {
            execution.status = ExecutionStatus::Succeeded;
        }
        state.last_activity.insert(machine.clone(), now);
    }

    /// A process mounts a home on this host for writing; `None`: it is unmounted, and given up.
    pub fn mount(&self, home: &HomeId, process: Option<u32>) {
        let mut state = self.state.lock();
        if let Some(of) = state.homes.get_mut(home) {
            of.held = process.is_some();
        }
        match process {
            Some(process) => state.mounted.insert(home.clone(), process),
            None => state.mounted.remove(home),
        };
    }

    /// The keeper of a machine ends without a word, as by `kill -9`.
    pub fn crash(&self, machine: &MachineId) {
        let keeper = self.state.lock().keepers.remove(machine);
        if let Some(keeper) = keeper {
            keeper.end();
        }
    }

    /// The keeper of a machine finds its home with another server, and ends.
    pub fn fence(&self, machine: &MachineId) {
        let failure = KeeperFailure {
            code: "fenced".to_owned(),
            message: "another server took this machine's home".to_owned(),
            retryable: false,
        };
        let words = LastWords { phase: KeeperPhase::Failed, failure: Some(failure), wake_at: None };
        self.state.lock().words.insert(machine.clone(), words);
        self.crash(machine);
    }

    /// The guest of a machine powers off by itself.
    pub fn power_off(&self, machine: &MachineId) {
        let keeper = self.state.lock().keepers.get(machine).cloned();
        if let Some(keeper) = keeper {
            let failure = KeeperFailure {
                code: "guest_ended".to_owned(),
                message: "the guest powered itself off".to_owned(),
                retryable: false,
            };
            keeper.release_because(self, Some(failure));
        }
    }

    /// True where a machine has a keeper.
    #[must_use]
    pub fn is_running(&self, machine: &MachineId) -> bool {
        self.state.lock().keepers.contains_key(machine)
    }

    /// How many keepers were started.
    #[must_use]
    pub fn starts(&self) -> u32 {
        self.state.lock().starts
    }

    /// How often a machine's memory was thrown away.
    #[must_use]
    pub fn forgotten(&self) -> u32 {
        self.state.lock().forgotten
    }

    /// How often a home was collected.
    #[must_use]
    pub fn collected(&self) -> u32 {
        self.state.lock().collected
    }

    /// Whether a keeper ever took a home over.
    #[must_use]
    pub fn took_over(&self) -> bool {
        self.state.lock().took_over
    }

    /// What the last keeper that started was told.
    #[must_use]
    pub fn started_with(&self) -> Option<crate::host::KeeperSpec> {
        self.state.lock().started_with.clone()
    }

    /// This host is lost: its disk and its keepers are gone, the homes in the store stay.
    pub fn lose(&self) {
        let mut state = self.state.lock();
        for (_, keeper) in std::mem::take(&mut state.keepers) {
            keeper.end();
        }
        state.words.clear();
        state.executions.clear();
        for home in state.homes.values_mut() {
            home.local = None;
            home.draft = None;
        }
    }

    /// Files of a home as published.
    #[must_use]
    pub fn published(&self, home: &HomeId) -> Vec<(String, String)> {
        self.state.lock().homes.get(home).map(|home| home.published.texts()).unwrap_or_default()
    }

    /// For how many forks a home keeps something.
    #[must_use]
    pub fn forks_of(&self, home: &HomeId) -> usize {
        self.state.lock().homes.get(home).map_or(0, |home| home.forks.len())
    }

    /// True where the home exists.
    #[must_use]
    pub fn has_home(&self, home: &HomeId) -> bool {
        self.state.lock().homes.contains_key(home)
    }
}

/// A data directory, a store, a host and a clock. Servers are opened on it one after the other.
#[derive(Debug)]
pub struct World {
    /// The object store.
    pub store: Arc<MemoryStore>,
    /// The host and the homes.
    pub host: Arc<FakeHost>,
    /// The clock.
    pub clock: Arc<HandClock>,
    /// How often and how long; small numbers.
    pub timing: Timing,
    server_id: ServerId,
    dir: tempfile::TempDir,
}

impl World {
    /// An empty one.
    ///
    /// # Panics
    /// Where no temporary directory can be made.
    #[must_use]
    pub fn new() -> Self {
        Self::on(MemoryStore::new(), Arc::default())
    }

    /// Another data directory on the same store, as after the loss of a host.
    #[must_use]
    pub fn another(&self) -> Self {
        Self::on(self.store.clone(), self.host.clone())
    }

    fn on(store: Arc<MemoryStore>, host: Arc<FakeHost>) -> Self {
        let ms = Duration::from_millis;
        Self {
            store,
            host,
            clock: Arc::new(HandClock::new()),
            timing: Timing {
                // Longer than any test holds a guest up on a slow host, where nothing is told of a timeout.
                start_max: ms(60_000),
                stop_max: ms(60_000),
                backoff_min: ms(1),
                backoff_max: ms(20),
                tries_max: 3,
                idle_every: ms(10),
                idle_wait: ms(100),
                probe_every: ms(10),
                housekeep_every: ms(10),
                collect_upper_after: ms(30),
                store_memory_after: Some(ms(30)),
            },
            server_id: ServerId::generate(),
            dir: tempfile::tempdir().expect("a test can make a temporary directory"),
        }
    }

    /// What a server of this world is told.
    #[must_use]
    pub fn settings(&self) -> Settings {
        let mut settings = Settings::new(self.dir.path().to_owned(), self.server_id.clone());
        settings.timing = self.timing.clone();
        settings
    }

    /// What a server of this world stands on.
    #[must_use]
    pub fn parts(&self) -> Parts {
        Parts {
            store: self.store.clone(),
            clock: self.clock.clone(),
            entropy: Arc::new(NoEntropy),
            host: self.host.clone(),
            homes: self.host.clone(),
        }
    }

    /// A server. Close it before the next.
    ///
    /// # Panics
    /// Where it does not open.
    pub async fn open(&self) -> Control {
        Control::open(self.settings(), self.parts()).await.expect("a server opens on a fresh world")
    }
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

/// Waits until `holds` does.
///
/// # Panics
/// Where it does not within half a minute.
pub async fn eventually(holds: impl Fn() -> bool) {
    for _ in 0..6_000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("it did not come to hold within half a minute");
}

pub(crate) fn no_such(what: impl std::fmt::Display) -> Error {
    Error::not_found(format!("there is no {what}"))
}
