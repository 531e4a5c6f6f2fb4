//! What runs machines, seen from above: a narrow trait, so that a fleet or a test can stand in.
//!
//! The one implementation starts `dormouse keeper` processes and speaks to them through
//! `keeper::Client`. Nothing here is remembered by this crate: after a restart the host is asked again.

use std::collections::HashSet;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base::{Egress, Epoch, ExecutionId, HomeId, MachineId, SnapshotId, Timestamp};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::Result;
use crate::executions::{Attachment, Execution, ExecutionEvent, ExecutionOutput, NewExecution};
use crate::files::{ByteStream, FileCalls};
use crate::homes::HomeSnapshot;

/// What a keeper needs to know.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KeeperSpec {
    /// Its machine.
    pub machine: MachineId,
    /// The machine's name; its host name inside.
    pub name: String,
    /// Its home.
    pub home: HomeId,
    /// Virtual CPUs.
    pub vcpu: f64,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Size of the home in GiB.
    pub storage_gib: u64,
    /// Image name.
    pub image: String,
    /// Whether a guest's `fsync` is content with this host's disk.
    #[serde(default)]
    pub fsync_local: bool,
    /// What the machine may reach.
    #[serde(default)]
    pub egress: Egress,
    /// The home may be taken from the writer that has this epoch and never released it.
    pub take_over_from: Option<Epoch>,
}

/// Where a keeper is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeeperPhase {
    /// Claiming the home, booting the guest.
    Starting,
    /// The guest answers.
    Ready,
    /// Stopping the guest, storing the home.
    Stopping,
    /// The home is released; the process is about to end.
    Stopped,
    /// It will get no further; [`KeeperStatus::failure`] says why. Its process may linger.
    Failed,
}

/// Why a keeper failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeeperFailure {
    /// A code in lower snake case: `image_missing`, `runtime_missing`, `guest_silent`, `fenced`, `home_gone`,
    /// `store_unavailable`, `guest_ended`.
    pub code: String,
    /// What happened and what to do.
    pub message: String,
    /// True where the same start may work later.
    pub retryable: bool,
}

/// How a guest came up.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Woken {
    /// It booted: there was nothing to go on from.
    #[default]
    Booted,
    /// It went on from its memory.
    Resumed,
    /// It had memory and booted all the same; why.
    BootedInstead(String),
    /// It is new, and went on from a template.
    Cloned,
    /// It is new, there was a template, and it booted all the same; why.
    BootedWithoutTemplate(String),
}

/// How large a machine is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Sizes {
    /// Virtual CPUs.
    pub vcpu: f64,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Size of the home in GiB.
    pub storage_gib: u64,
}

/// What a keeper says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KeeperStatus {
    /// Where it is.
    pub phase: KeeperPhase,
    /// Why it failed.
    pub failure: Option<KeeperFailure>,
    /// Executions that run now.
    pub executions_running: u32,
    /// When an execution last ended, as the keeper knows it.
    pub last_activity: Option<Timestamp>,
    /// How the guest came up, once it has.
    #[serde(default)]
    pub woken: Woken,
    /// What of the machine's upper is not the newest that was made, for people.
    #[serde(default)]
    pub upper_behind: Option<String>,
    /// Until the home is open: a number that grows as long as that gets on.
    #[serde(default)]
    pub opening_home: Option<u64>,
    /// Bytes of what the guest needs before it can go on that were fetched, and that are to be fetched.
    #[serde(default)]
    pub restoring: Option<(u64, u64)>,
    /// The same of the upper, which comes while the guest runs.
    #[serde(default)]
    pub upper_coming: Option<(u64, u64)>,
    /// What keeps it from coming, for people.
    #[serde(default)]
    pub upper_trouble: Option<String>,
    /// The guest does not run since this host's disk has no room for it; it goes on by itself.
    #[serde(default)]
    pub waits_for_room: bool,
    /// It would sleep with its memory.
    #[serde(default)]
    pub keeps_memory: bool,
    /// The egress policy in force; one of a version that knew of none is open.
    #[serde(default)]
    pub egress: Egress,
    /// The sizes in force; none of a version that cannot change them.
    #[serde(default)]
    pub sizes: Option<Sizes>,
    /// True once it has claimed the home; a right to take it over is used up then.
    pub home_claimed: bool,
}

/// What the last keeper of a machine left behind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastWords {
    /// How it ended: [`KeeperPhase::Stopped`] means that the home is in the store, whole.
    pub phase: KeeperPhase,
    /// Why it failed.
    pub failure: Option<KeeperFailure>,
    /// When its guest wants to be woken.
    #[serde(default)]
    pub wake_at: Option<Timestamp>,
}

/// How far a sleeping machine's upper is in the object store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpperStanding {
    /// All of it.
    Stored {
        /// What this state of it replaced may still be there.
        uncollected: Option<String>,
    },
    /// Something is to be stored.
    Behind,
    /// This host has seen no sleep of it.
    Unknown,
}

/// How an attempt to store an upper ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpperStored {
    /// There was nothing to store.
    Nothing,
    /// It is stored.
    Stored {
        /// The state of it that the store has now.
        generation: String,
        /// Chunks that were stored for it.
        chunks: u64,
        /// Their bytes.
        bytes: u64,
    },
    /// It was told to stop.
    Stopped,
}

/// How far the memory that a machine sleeps with is in the object store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemoryStanding {
    /// All of it.
    Stored,
    /// It is to be stored, once the upper is.
    Behind,
    /// It is here and is not to be stored; why, for people.
    StaysHere(String),
    /// There is none.
    Nothing,
}

/// For whom what a machine has outside of its home stays in the store.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum UpperHolder {
    /// For whoever may want it back.
    Snapshot(SnapshotId),
    /// For a machine that begins with it.
    Fork(MachineId),
}

/// What came of an attempt to keep what a machine has outside of its home.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpperKept {
    /// It is kept.
    Kept {
        /// So is the memory, or why not, for people.
        memory: Result<(), String>,
    },
    /// There is none in the store, and none is on its way.
    Nothing,
    /// It is not in the store yet.
    Storing,
    /// What is in the store goes with a later state of the home.
    Moved,
}

/// A mount on this host that writes a home.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mounted {
    /// Its process, where that is known.
    pub process: Option<u32>,
}

/// The place where machines run.
#[async_trait]
pub trait Host: Send + Sync + Debug + 'static {
    /// Starts a keeper for a machine and returns once it can be connected to; the guest may still
    /// be booting. The [`last_words`](Self::last_words) of the one before are forgotten. A keeper
    /// that runs already is left alone: `Ok`.
    ///
    /// # Errors
    /// What is missing (image, runtime) with code `IMAGE_MISSING` or `RUNTIME_MISSING`; whatever kept
    /// the process from starting.
    async fn start_keeper(&self, spec: &KeeperSpec) -> Result<()>;
    /// Names of the images that machines can be made of.
    ///
    /// # Errors
    /// Those of the disk.
    async fn images(&self) -> Result<Vec<String>>;
    /// The keeper of a machine; `None` where none runs.
    async fn connect(&self, machine: &MachineId) -> Option<Arc<dyn KeeperLink>>;
    /// How many bytes have to become free on this host's disk before a machine may wake; 0 where it may. `memory_mib`:
    /// its memory, unless it boots whatever it sleeps with.
    async fn room_lacking(&self, machine: &MachineId, memory_mib: Option<u64>) -> u64;
    /// The mount on this host that has a home for writing; `None` where none has.
    async fn mounted(&self, home: &HomeId) -> Option<Mounted>;
    /// What the last keeper of a machine said when it ended; `None` where it said nothing, that is
    /// was killed, or never ran.
    async fn last_words(&self, machine: &MachineId) -> Option<LastWords>;
    /// Executions of a machine, awake or not, from the files that its keepers wrote.
    fn executions(&self, machine: &MachineId) -> Arc<dyn ExecutionRecords>;
    /// How far the upper of a sleeping machine is in the object store.
    async fn upper_standing(&self, machine: &MachineId) -> UpperStanding;
    /// Stores what changed of a sleeping machine's upper; ends soon after `stop`. Nothing is named in the store
    /// by an attempt that did not come to its end; the next one goes on from there. No keeper may be started
    /// before it returns.
    ///
    /// # Errors
    /// Those of store and disk; `Fenced` where another host went on with the machine.
    async fn store_upper(
        &self,
        machine: &MachineId,
        stop: &CancellationToken,
    ) -> Result<UpperStored>;
    /// How far the memory of a sleeping machine is in the object store.
    async fn memory_standing(&self, machine: &MachineId) -> MemoryStanding;
    /// Stores the memory of a sleeping machine whose upper is stored; as [`Self::store_upper`] otherwise.
    ///
    /// # Errors
    /// As those of [`Self::store_upper`].
    async fn store_memory(
        &self,
        machine: &MachineId,
        stop: &CancellationToken,
    ) -> Result<UpperStored>;
    /// Deletes from the store what this host has stored of a machine's memory. Idempotent.
    ///
    /// # Errors
    /// Those of store and disk.
    async fn unstore_memory(&self, machine: &MachineId) -> Result<()>;
    /// Deletes from the store what an upper does not need any more, `since` being a state of it that was stored
    /// a while ago. How many objects.
    ///
    /// # Errors
    /// Those of the store.
    async fn collect_upper(&self, machine: &MachineId, since: &str) -> Result<u64>;
    /// Deletes from the store the memory of templates that only machines used which are gone. `known` are machines that are
    /// there, about which the store need not be asked. How many objects.
    ///
    /// # Errors
    /// Those of the store. Calling again goes on.
    async fn collect_templates(&self, known: &HashSet<MachineId>) -> Result<u64>;
    /// Notes that something of an upper may be needed no more, although it was not stored anew. Since which state of it
    /// that can be collected, a while from now; `None` where there is nothing.
    ///
    /// # Errors
    /// Those of store and disk.
    async fn freed_upper(&self, machine: &MachineId) -> Result<Option<String>>;
    /// Keeps what a sleeping machine has in the store, upper and memory, as it goes with the state of its home that was
    /// made under the epoch `home`. What is kept for a holder already stays what it is.
    ///
    /// # Errors
    /// `NotFound` of a machine that is deleted; those of store and disk.
    async fn keep_upper(
        &self,
        machine: &MachineId,
        home: Epoch,
        holder: &UpperHolder,
    ) -> Result<UpperKept>;
    /// Keeps for the fork `into` what the snapshot `at` keeps; `None` where that keeps nothing. With it, the memory, or
    /// why not, for people.
    ///
    /// # Errors
    /// `NotFound` where the snapshot goes meanwhile; those of the store.
    async fn keep_upper_again(
        &self,
        machine: &MachineId,
        at: &SnapshotId,
        into: &MachineId,
    ) -> Result<Option<Result<(), String>>>;
    /// Lets go of what is kept for a holder. Idempotent.
    ///
    /// # Errors
    /// Those of the store.
    async fn let_go_of_upper(&self, machine: &MachineId, holder: &UpperHolder) -> Result<()>;
    /// Of each snapshot that keeps an upper: whether it keeps the memory, too.
    ///
    /// # Errors
    /// Those of the store.
    async fn kept_uppers(&self, machine: &MachineId) -> Result<Vec<(SnapshotId, bool)>>;
    /// The same of one; `None` where it keeps no upper.
    ///
    /// # Errors
    /// Those of the store.
    async fn kept_upper(&self, machine: &MachineId, at: &SnapshotId) -> Result<Option<bool>>;
    /// Begins the upper of `into`, whose home is `home`, with what is kept for it of `from`, and the memory; why a
    /// memory that is kept is left out, for people. Idempotent.
    ///
    /// # Errors
    /// `NotFound` where nothing is kept for it; those of the store.
    async fn begin_upper(
        &self,
        from: &MachineId,
        into: &MachineId,
        home: &HomeId,
    ) -> Result<Option<String>>;
    /// Lets go of what is kept of `from` for a fork that was not begun; nothing of one that was. Idempotent.
    ///
    /// # Errors
    /// Those of the store.
    async fn abandon_upper(&self, from: &MachineId, into: &MachineId) -> Result<()>;
    /// Deletes an upper from the store, and the memory with it, but for what forks of it need. Idempotent. The machine
    /// that kept something for it and lives, if there is one.
    ///
    /// # Errors
    /// Those of the store.
    async fn delete_upper(&self, machine: &MachineId) -> Result<Option<MachineId>>;
    /// Removes what the host keeps of a machine besides its home: its upper layer, its executions, its
    /// logs. No keeper runs. Idempotent.
    ///
    /// # Errors
    /// Those of the disk.
    async fn remove(&self, machine: &MachineId) -> Result<()>;
    /// Throws away the memory that a machine sleeps with, so that it boots when it next wakes here, whatever the
    /// store has. For a machine without a keeper.
    ///
    /// # Errors
    /// `Conflict` where a keeper runs; those of the disk.
    async fn forget_memory(&self, machine: &MachineId) -> Result<()>;
}

/// How often a link is asked that does not say itself when its keeper has moved.
const STATUS_POLL: Duration = Duration::from_millis(10);

/// A connection to one running keeper.
#[async_trait]
pub trait KeeperLink: FileCalls {
    /// What it says of itself.
    ///
    /// # Errors
    /// `Unreachable` where it does not answer.
    async fn status(&self) -> Result<KeeperStatus>;
    /// What it says of itself once that is another phase than the one that was `seen`, or its home is
    /// claimed since, or its guest waits for room where it did not, or the other way round; after `wait` in any case. May come early. Cancel-safe.
    ///
    /// # Errors
    /// `Unreachable` where it does not answer.
    async fn next_status(&self, seen: &KeeperStatus, wait: Duration) -> Result<KeeperStatus> {
        let _ = seen;
        tokio::time::sleep(wait.min(STATUS_POLL)).await;
        self.status().await
    }
    /// Asks it to put the machine to sleep. Returns at once; [`Self::status`] and [`Self::ended`]
    /// tell how it goes. Idempotent.
    ///
    /// # Errors
    /// `Unreachable` where it does not answer.
    async fn sleep(&self) -> Result<()>;
    /// Asks it to stop the guest in order and to end, keeping nothing of the guest's memory: what is left behind boots.
    /// Otherwise as [`Self::sleep`]; one of an older version just puts the machine to sleep.
    ///
    /// # Errors
    /// `Unreachable` where it does not answer.
    async fn shut_down(&self) -> Result<()>;
    /// Has another egress policy in force when this returns; the guest goes on. Idempotent.
    ///
    /// # Errors
    /// `Unavailable` where it could not be put in force: the old one is, or less; `Unsupported` of a
    /// keeper that knows of no policies.
    async fn set_egress(&self, egress: &Egress) -> Result<()>;
    /// Has other sizes in force when this returns, but for the memory, which is what the guest began with; the guest
    /// goes on. Idempotent.
    ///
    /// # Errors
    /// `Unavailable` where they could not be put in force: each of them is the old or the new one.
    async fn set_sizes(&self, sizes: &Sizes) -> Result<()>;
    /// Ends keeper and guest now, without storing anything; what was acknowledged stays on this
    /// host's disk. Returns once the process is gone. Idempotent.
    ///
    /// # Errors
    /// Where the process cannot be ended.
    async fn kill(&self) -> Result<()>;
    /// Returns once the keeper's process has ended. Cancel-safe.
    async fn ended(&self);

    /// Starts an execution under an id that the caller made. The same id twice is the same
    /// execution.
    ///
    /// # Errors
    /// `Unreachable` where the guest does not answer.
    async fn execute(&self, id: &ExecutionId, new: &NewExecution) -> Result<Execution>;
    /// Kills an execution and returns its final record (`cancelled`).
    ///
    /// # Errors
    /// `NotFound`; `Timeout` where it does not end.
    async fn cancel(&self, id: &ExecutionId) -> Result<Execution>;
    /// Waits at most `wait` until an execution is over; returns its record as it is then.
    ///
    /// # Errors
    /// `NotFound`.
    async fn wait(&self, id: &ExecutionId, wait: Duration) -> Result<Execution>;
    /// Joins an execution: what was kept of its output, then what comes.
    ///
    /// # Errors
    /// `NotFound`.
    async fn attach(&self, id: &ExecutionId) -> Result<Attachment>;

    /// Stores everything, and keeps that state of the home.
    ///
    /// # Errors
    /// As [`crate::homes::Homes::snapshot`].
    async fn snapshot(&self, id: &SnapshotId, name: Option<&str>) -> Result<HomeSnapshot>;
    /// Stores everything, and keeps that state for the fork `into`.
    ///
    /// # Errors
    /// As [`crate::homes::Homes::hold_fork`].
    async fn hold_fork(&self, into: &HomeId) -> Result<()>;

    /// Applies a draft to the live home in one step: takes `removals` away, then merges the tar.
    ///
    /// # Errors
    /// Those of the tree; nothing is changed then.
    async fn graft(&self, removals: Vec<Vec<u8>>, tar: ByteStream) -> Result<()>;
}

/// Executions in the files that keepers write.
#[async_trait]
pub trait ExecutionRecords: Send + Sync + Debug + 'static {
    /// Records in ascending order of id, after `after`.
    ///
    /// # Errors
    /// Those of the disk.
    async fn list(&self, after: Option<ExecutionId>, max: usize) -> Result<Vec<Execution>>;
    /// One record. One that says `running` where no keeper runs reads as `failed` with
    /// `MACHINE_STOPPED`.
    ///
    /// # Errors
    /// `NotFound`.
    async fn get(&self, id: &ExecutionId) -> Result<Execution>;
    /// Output, at most `max` bytes a stream.
    ///
    /// # Errors
    /// `NotFound`.
    async fn output(&self, id: &ExecutionId, max: u64) -> Result<ExecutionOutput>;
    /// Events in ascending order of sequence, after `after`.
    ///
    /// # Errors
    /// `NotFound`.
    async fn events(&self, id: &ExecutionId, after: u64, max: usize)
    -> Result<Vec<ExecutionEvent>>;
    /// Forgets a finished execution. Idempotent.
    ///
    /// # Errors
    /// Those of the disk.
    async fn forget(&self, id: &ExecutionId) -> Result<()>;
}
