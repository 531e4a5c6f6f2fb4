//! A machine, as every face sees it.

use std::str::FromStr;

use base::{Egress, ErrorKind, HomeId, MachineId, Timestamp};
use serde::{Deserialize, Serialize};

pub use catalog::{Desired, Fsync, Phase};

use crate::uppers::UpperStatus;
use crate::{Error, Result};

/// Why a machine failed whose home another server has.
pub(crate) const REASON_FENCED: &str = "fenced";
/// What a keeper says whose guest powered itself off.
pub(crate) const REASON_GUEST_ENDED: &str = "guest_ended";

/// The reason of a machine whose guest waits for room on its host's disk.
pub(crate) const REASON_NO_ROOM: &str = "host_storage_full";

/// What is said of it then.
pub(crate) const NO_ROOM: &str = "the server's disk has no room for what the machine writes: its guest does not run until \
                                  there is some. Free space on the server's disk; the machine goes on by itself, and \
                                  nothing of it is lost";

/// A machine. Serialises to the body that satisfies every dialect of the v1 contract.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Its id.
    pub machine_id: MachineId,
    /// Its unique name.
    pub name: String,
    /// The image its root comes from.
    pub image: String,
    /// Its home.
    pub home_id: HomeId,
    /// Virtual CPUs.
    pub vcpu: f64,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Size of the home in GiB.
    pub storage_gib: u64,
    /// Seconds of idleness before sleep; 0 never.
    pub autosleep_seconds: u64,
    /// What a guest's `fsync` waits for.
    pub fsync: Fsync,
    /// What it may reach.
    #[serde(default)]
    pub egress: Egress,
    /// What was asked for.
    pub desired_state: Desired,
    /// What is.
    pub phase: Phase,
    /// Changes with every accepted change and every change of state.
    pub revision: String,
    /// When it was created.
    pub created_at: Timestamp,
    /// What is, in full.
    pub status: MachineStatus,
}

/// What a machine is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineStatus {
    /// What is.
    pub phase: Phase,
    /// Why, as a code.
    pub reason: String,
    /// True where asking again may help.
    pub retryable: bool,
    /// The same as [`Machine::revision`].
    pub revision: String,
    /// When the phase last changed.
    pub last_transition_at: Timestamp,
    /// When anything last changed.
    pub last_progress_at: Timestamp,
    /// What went wrong and what to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// Memory in MiB that the machine was granted.
    pub memory_configured_mib: u64,
    /// Memory in MiB that its guest has, of a machine that is awake: what was granted reaches it at its next wake.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_assigned_mib: Option<u64>,
    /// Of a sleeping machine: whether what it has outside of its home is in the store. Not there where that is
    /// not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upper: Option<UpperStatus>,
    /// Of a machine that sleeps with its memory: whether that is in the store, too, so that a wake on another
    /// host goes on from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<UpperStatus>,
    /// Files were written while it slept, and are not published.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub draft: bool,
    /// When the machine is to be woken, if it sleeps then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wake_at: Option<Timestamp>,
}

impl Machine {
    /// True once the machine is where it was asked to be, or has failed to get there.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        matches!(
            (self.desired_state, self.phase),
            (_, Phase::Failed | Phase::Destroyed)
                | (Desired::Running, Phase::Running)
                | (Desired::Sleeping, Phase::Sleeping)
        )
    }

    /// The error where another server has the machine's home: no retry of ours will change that.
    #[must_use]
    pub fn fenced(&self) -> Option<Error> {
        let fenced = self.phase == Phase::Failed && self.status.reason == REASON_FENCED;
        let message = self.status.last_error.clone().unwrap_or_default();
        fenced.then(|| Error::new(ErrorKind::Fenced, message))
    }

    /// True once the machine is where it was asked to be.
    #[must_use]
    pub fn is_converged(&self) -> bool {
        self.is_settled() && self.phase != Phase::Failed
    }
}

/// How a caller names a machine.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum MachineRef {
    /// By id.
    Id(MachineId),
    /// By name.
    Name(String),
}

impl FromStr for MachineRef {
    type Err = Error;

    /// # Errors
    /// `InvalidArgument` for what is neither an id nor a possible name.
    fn from_str(text: &str) -> Result<Self> {
        if let Ok(id) = text.parse() {
            return Ok(Self::Id(id));
        }
        super::validate::name(text)?;
        Ok(Self::Name(text.to_owned()))
    }
}

impl From<MachineId> for MachineRef {
    fn from(id: MachineId) -> Self {
        Self::Id(id)
    }
}

impl std::fmt::Display for MachineRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Id(id) => id.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// What to create. Everything has a default.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CreateMachine {
    /// A unique name; made up where it is not given.
    pub name: Option<String>,
    /// Virtual CPUs, in quarter steps.
    pub vcpu: Option<f64>,
    /// Memory in MiB.
    pub memory_mib: Option<u64>,
    /// Size of the home in GiB.
    pub storage_gib: Option<u64>,
    /// Idleness before sleep: `30s`, `1w3d`, `1800`, `never`, `off`.
    pub autosleep: Option<String>,
    /// The same in seconds; [`Self::autosleep`] wins.
    pub autosleep_seconds: Option<u64>,
    /// Image name.
    pub image: Option<String>,
    /// What a guest's `fsync` waits for: `store` or `local`.
    pub fsync: Option<String>,
    /// What it may reach; all that is public where it is not given.
    pub egress: Option<EgressWish>,
}

/// An egress policy as callers write it, unchecked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EgressWish {
    /// `open`, `none` or `allow`; the last where there is a list and nothing else is said.
    pub policy: Option<String>,
    /// Names and ranges of `allow`.
    pub allow: Option<Vec<String>>,
}

/// What to change; `None` leaves it as it is. Memory and `fsync` take effect at the next wake, the rest at once;
/// storage only grows.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct UpdateMachine {
    /// A unique name.
    pub name: Option<String>,
    /// Virtual CPUs, in quarter steps.
    pub vcpu: Option<f64>,
    /// Memory in MiB.
    pub memory_mib: Option<u64>,
    /// Size of the home in GiB; only more than now.
    pub storage_gib: Option<u64>,
    /// Idleness before sleep, as in [`CreateMachine`].
    pub autosleep: Option<String>,
    /// The same in seconds; [`Self::autosleep`] wins.
    pub autosleep_seconds: Option<u64>,
    /// What a guest's `fsync` waits for: `store` or `local`.
    pub fsync: Option<String>,
    /// What it may reach.
    pub egress: Option<EgressWish>,
}

/// The revision a caller believes in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum IfMatch {
    /// Whatever it is.
    #[default]
    Any,
    /// This one; else `REVISION_MISMATCH`.
    Revision(String),
}

impl IfMatch {
    /// From an `If-Match` header: bare, quoted, weak, or `*`. Absent means any; empty is no claim that anybody
    /// means.
    ///
    /// # Errors
    /// `InvalidArgument` for an empty one.
    pub fn parse(header: Option<&str>) -> Result<Self> {
        let Some(text) = header.map(str::trim) else { return Ok(Self::Any) };
        if text.is_empty() {
            return Err(Error::invalid(
                "the If-Match header is empty; send the machine's revision, or leave the header away",
            ));
        }
        let text = text.strip_prefix("W/").unwrap_or(text);
        if text == "*" {
            return Ok(Self::Any);
        }
        Ok(Self::Revision(text.trim_matches('"').to_owned()))
    }
}

/// A machine found in the store and taken into the catalog.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adopted {
    /// Its id.
    pub machine_id: MachineId,
    /// Its name here; made unique where another machine has it already.
    pub name: String,
    /// False where its home was left by a writer that never released it and `take_over` was not set:
    /// waking it will be refused.
    pub released: bool,
}
