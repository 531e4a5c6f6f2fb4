//! Snapshots on the wire.

use base::{SnapshotId, Timestamp};
use control::snapshots::{ForkMachine, Forked, NewSnapshot, Part, Snapshot};
use http_kit::ApiError;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::machine::MachineBody;

/// A kept state of a machine.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct SnapshotBody {
    /// Its id.
    snapshot_id: String,
    /// The machine that it is of.
    machine_id: String,
    /// What it is called; need not be unique.
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// What was kept, in this order: `home`, `upper` (all else on its disk), `memory`.
    #[schema(value_type = Vec<String>)]
    contains: Vec<Part>,
    /// It cannot be read, and why: it can only be let go of.
    #[serde(skip_serializing_if = "Option::is_none")]
    damaged: Option<String>,
}

impl From<Snapshot> for SnapshotBody {
    fn from(snapshot: Snapshot) -> Self {
        Self {
            snapshot_id: snapshot.snapshot_id.into(),
            machine_id: snapshot.machine_id.into(),
            name: snapshot.name,
            created_at: snapshot.created_at,
            contains: snapshot.contains,
            damaged: snapshot.damaged,
        }
    }
}

/// A snapshot to be made.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(default)]
pub(crate) struct SnapshotCreate {
    /// What to call it: 1 to 100 bytes.
    name: Option<String>,
    /// Refuse it where it would be of the home alone. A machine that is awake and idle sleeps meanwhile, and wakes again.
    whole: bool,
}

impl From<SnapshotCreate> for NewSnapshot {
    fn from(body: SnapshotCreate) -> Self {
        Self { name: body.name, whole: body.whole }
    }
}

/// What to take a machine back to.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(default)]
pub(crate) struct RestoreRequest {
    /// A snapshot of the machine.
    snapshot_id: String,
}

impl RestoreRequest {
    /// # Errors
    /// 400 for what is no id.
    pub(crate) fn snapshot(&self) -> Result<SnapshotId, ApiError> {
        id(&self.snapshot_id)
    }
}

/// A machine to be made from another one.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(default)]
pub(crate) struct ForkCreate {
    /// A unique name; made up where it is not given.
    name: Option<String>,
    /// A snapshot of the machine to go on from; else its state now.
    snapshot_id: Option<String>,
    /// Refuse it where it would begin with the home alone. A machine that is awake and idle sleeps meanwhile, and wakes
    /// again.
    whole: bool,
}

/// A machine that was made from another one.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct ForkBody {
    #[serde(flatten)]
    machine: MachineBody,
    /// What it begins with, in this order: `home`, `upper` (all else on its disk), `memory`.
    #[schema(value_type = Vec<String>)]
    contains: Vec<Part>,
}

impl From<Forked> for ForkBody {
    fn from(forked: Forked) -> Self {
        Self { machine: forked.machine.into(), contains: forked.contains }
    }
}

impl ForkCreate {
    /// # Errors
    /// 400 for what is no id.
    pub(crate) fn wanted(self) -> Result<ForkMachine, ApiError> {
        let snapshot_id = self.snapshot_id.as_deref().map(id).transpose()?;
        Ok(ForkMachine { name: self.name, snapshot_id, whole: self.whole })
    }
}

fn id(text: &str) -> Result<SnapshotId, ApiError> {
    text.parse().map_err(|error| ApiError::invalid(format!("snapshot_id: {error}")))
}
