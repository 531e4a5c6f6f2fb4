//! What a keeper says of itself: while it lives, over its socket; at its end, in a file.

use base::{Egress, Epoch, ErrorKind, Timestamp};
use serde::{Deserialize, Serialize};

use crate::layout::MachineDir;

/// Where a keeper stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeeperState {
    /// Claiming the home, booting the guest.
    Starting,
    /// The guest answers.
    Running,
    /// Stopping the guest, sealing and uploading the home.
    Stopping,
}

/// How large a machine is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Sizes {
    /// CPUs.
    pub vcpu: f64,
    /// Memory in MiB, as the guest began with; it is not changed while it runs.
    pub memory_mib: u64,
    /// Most bytes that the home may hold; only grows.
    pub storage_bytes_max: u64,
}

/// The answer to `GET /status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Where it stands.
    pub state: KeeperState,
    /// Its process.
    pub pid: u32,
    /// Since when it is in that state.
    pub since: Timestamp,
    /// The epoch under which it holds the home; 0 before the claim.
    pub epoch: Epoch,
    /// How the home was opened: `clean`, `local_continued`, `from_store`, or
    /// `from_store_local_parked` where this host's disk had been overtaken. Empty before.
    pub opened: String,
    /// How the guest came up: `resumed` from its memory, `cloned` from a template; `booted`, with the reason
    /// behind it where there was memory, `booted without template` where there was one. Empty before.
    #[serde(default)]
    pub woken: String,
    /// What of the machine's upper is not the newest, for people.
    #[serde(default)]
    pub upper_behind: Option<String>,
    /// Until the home is open: what was done of that ([`homefs::Opening`]), to tell one that gets on from one that hangs.
    #[serde(default)]
    pub opening_home: Option<u64>,
    /// Bytes of the memory that were fetched, and that are to be fetched, before the guest goes on.
    #[serde(default)]
    pub restoring: Option<(u64, u64)>,
    /// The same of chunks that come while the guest runs.
    #[serde(default)]
    pub upper_coming: Option<(u64, u64)>,
    /// What keeps them from coming, for people.
    #[serde(default)]
    pub upper_trouble: Option<String>,
    /// The guest does not run since this host's disk has no room for it.
    #[serde(default)]
    pub waits_for_room: bool,
    /// The machine would sleep with its memory; false before its guest answers.
    #[serde(default)]
    pub keeps_memory: bool,
    /// The egress policy in force.
    #[serde(default)]
    pub egress: Egress,
    /// The sizes in force; none of a version that could not change them.
    #[serde(default)]
    pub sizes: Option<Sizes>,
    /// The last commit in the store.
    pub home_seq: u64,
    /// Bytes that the store does not have yet.
    pub unreplicated_bytes: u64,
    /// Changes that the store does not have yet.
    #[serde(default)]
    pub unreplicated_ops: u64,
    /// `none`, `slowed` or `waiting`: what writers feel of that.
    #[serde(default)]
    pub back_pressure: String,
    /// Commits stored since the home was opened, and attempts that failed.
    #[serde(default)]
    pub rounds: u64,
    /// See [`Self::rounds`].
    #[serde(default)]
    pub rounds_failed: u64,
    /// Bytes of changes that only the home's journal has.
    #[serde(default)]
    pub journal_bytes: u64,
    /// Why replication does not get on, if it does not.
    pub replication_error: Option<String>,
    /// Executions that are running.
    pub executions_live: u64,
    /// When one last ended.
    #[serde(default)]
    pub last_activity: Option<Timestamp>,
}

impl Status {
    /// What is worth a word to whoever waits for one: another state, a home that is claimed, a guest that waits or goes on.
    #[must_use]
    pub fn stage(&self) -> Stage {
        let claimed = self.epoch > Epoch::default();
        Stage { state: self.state, claimed, waits_for_room: self.waits_for_room }
    }
}

/// How far a keeper has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stage {
    /// Where it stands.
    pub state: KeeperState,
    /// Whether it holds its home.
    pub claimed: bool,
    /// Whether its guest waits for room.
    #[serde(default)]
    pub waits_for_room: bool,
}

/// How a keeper ended. The file is replaced by rename, so it is whole or absent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastWords {
    /// True where the home was released: sealed, uploaded, free for the next writer.
    pub released: bool,
    /// Why it ended, where that was not asked for.
    pub error: Option<(ErrorKind, String)>,
    /// It ended because there is no home: it was deleted, or is not in this store.
    #[serde(default)]
    pub home_gone: bool,
    /// The last commit it made.
    pub home_seq: u64,
    /// When its guest wanted to be woken, where it was put to sleep.
    #[serde(default)]
    pub wake_at: Option<Timestamp>,
    /// From the first step that held its guest's processes until memory and devices were on the disk, where it was put
    /// to sleep with them.
    #[serde(default)]
    pub paused_ms: Option<u64>,
    /// When.
    pub at: Timestamp,
}

impl LastWords {
    /// What the last keeper of `dir` said; `None` where it said nothing readable.
    #[must_use]
    pub fn read(dir: &MachineDir) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(dir.last_words()).ok()?).ok()
    }

    /// Takes them back: a new keeper is about to start.
    pub fn clear(dir: &MachineDir) {
        std::fs::remove_file(dir.last_words()).ok();
    }

    pub(crate) fn write(&self, dir: &MachineDir) -> std::io::Result<()> {
        upper::file::replace_unnamed(&dir.last_words(), &serde_json::to_vec(self)?)
    }
}
