//! Snapshots on the wire.

use base::{SnapshotId, Timestamp};
use control::snapshots::{ForkMachine, Snapshot};
use http_kit::ApiError;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A kept state of a machine's home.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct SnapshotBody {
    /// Its id.
    snapshot_id: String,
    /// The machine whose home it is of.
    machine_id: String,
    /// What it is called; need not be unique.
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
}

impl From<Snapshot> for SnapshotBody {
    fn from(snapshot: Snapshot) -> Self {
        Self {
            snapshot_id: snapshot.snapshot_id.into(),
            machine_id: snapshot.machine_id.into(),
            name: snapshot.name,
            created_at: snapshot.created_at,
        }
    }
}

/// A snapshot to be made.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(default)]
pub(crate) struct SnapshotCreate {
    /// What to call it: 1 to 100 bytes.
    pub(crate) name: Option<String>,
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
}

impl ForkCreate {
    /// # Errors
    /// 400 for what is no id.
    pub(crate) fn wanted(self) -> Result<ForkMachine, ApiError> {
        let snapshot_id = self.snapshot_id.as_deref().map(id).transpose()?;
        Ok(ForkMachine { name: self.name, snapshot_id })
    }
}

fn id(text: &str) -> Result<SnapshotId, ApiError> {
    text.parse().map_err(|error| ApiError::invalid(format!("snapshot_id: {error}")))
}
