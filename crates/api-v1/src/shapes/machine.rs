//! Machines on the wire (contract, sections 7 and 19).

use base::{Egress, Timestamp};
use control::Machine;
use control::machines::{CreateMachine, EgressWish, UpdateMachine};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A machine.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct MachineBody {
    /// Its id.
    machine_id: String,
    /// Its unique name; stands for the id in every path.
    name: String,
    /// The image its root comes from.
    image: String,
    /// Virtual CPUs.
    vcpu: f64,
    /// Memory in MiB.
    memory_mib: u64,
    /// Size of the home in GiB.
    storage_gib: u64,
    /// Seconds of idleness before it is put to sleep; 0 never.
    autosleep_seconds: u64,
    /// What a guest's `fsync` waits for: `store` or `local`.
    fsync: &'static str,
    /// What it may reach. An extension: not in the contract.
    egress: EgressBody,
    /// What was asked for: `running`, `sleeping` or `destroyed`.
    desired_state: &'static str,
    /// What is: `accepted`, `placement_pending`, `starting`, `running`, `stopping`, `sleeping`,
    /// `destroying`, `destroyed` or `failed`.
    phase: &'static str,
    /// Changes with every accepted change and every change of state. Send it as `If-Match`.
    revision: String,
    /// When it was created.
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// What is, in full.
    status: StatusBody,
}

/// What a machine is doing.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct StatusBody {
    /// As at the top.
    phase: &'static str,
    /// Why, as a code.
    reason: String,
    /// True where asking again may help.
    retryable: bool,
    /// As at the top.
    revision: String,
    /// When the phase last changed.
    #[schema(value_type = String, format = DateTime)]
    last_transition_at: Timestamp,
    /// When anything last changed.
    #[schema(value_type = String, format = DateTime)]
    last_progress_at: Timestamp,
    /// What went wrong and what to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_error: Option<String>,
    /// Memory in MiB that was granted.
    memory_configured_mib: u64,
    /// Memory in MiB that the guest has, of a machine that is awake: what was granted reaches it at its next wake.
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_assigned_mib: Option<u64>,
    /// Of a sleeping machine: `stored` where all that it has outside of its home is in the object store,
    /// `storing` where it is on its way. Of one that is awake: `restoring` while a part of it is still in the store, and
    /// comes when the guest wants it.
    #[serde(skip_serializing_if = "Option::is_none")]
    upper: Option<&'static str>,
    /// Of a machine that sleeps with its memory: the same of that. Once it is `stored`, a wake on another host goes on
    /// from it.
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<&'static str>,
    /// True where files were written while the machine slept and are not published; left out otherwise.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    draft: bool,
    /// When the machine is to be woken, if it sleeps then: as asked for, or by its guest, whichever is sooner.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    wake_at: Option<Timestamp>,
}

impl From<Machine> for MachineBody {
    fn from(machine: Machine) -> Self {
        let status = machine.status;
        Self {
            machine_id: machine.machine_id.into(),
            name: machine.name,
            image: machine.image,
            vcpu: machine.vcpu,
            memory_mib: machine.memory_mib,
            storage_gib: machine.storage_gib,
            autosleep_seconds: machine.autosleep_seconds,
            fsync: machine.fsync.as_str(),
            egress: machine.egress.into(),
            desired_state: machine.desired_state.as_str(),
            phase: machine.phase.as_str(),
            revision: machine.revision,
            created_at: machine.created_at,
            status: StatusBody {
                phase: status.phase.as_str(),
                reason: status.reason,
                retryable: status.retryable,
                revision: status.revision,
                last_transition_at: status.last_transition_at,
                last_progress_at: status.last_progress_at,
                last_error: status.last_error,
                memory_configured_mib: status.memory_configured_mib,
                memory_assigned_mib: status.memory_assigned_mib,
                upper: status.upper.map(in_the_store),
                memory: status.memory.map(in_the_store),
                draft: status.draft,
                wake_at: status.wake_at,
            },
        }
    }
}

/// What a machine may reach of the network: an egress policy, enforced outside of the machine.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct EgressBody {
    /// `open` (the default: every public address), `none`, or `allow`: what is in the list.
    #[serde(default)]
    policy: Option<String>,
    /// Of `allow`: names (`example.com`; `*.example.com` is all below it) and IPv4 ranges (`192.0.2.0/24`,
    /// `192.0.2.1`). Private ranges only where this server permits them. At most 256.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    allow: Option<Vec<String>>,
}

impl From<EgressBody> for EgressWish {
    fn from(body: EgressBody) -> Self {
        Self { policy: body.policy, allow: body.allow }
    }
}

impl From<Egress> for EgressBody {
    fn from(egress: Egress) -> Self {
        let (policy, allow) = match egress {
            Egress::Open => ("open", None),
            Egress::None => ("none", None),
            Egress::Allow(rules) => {
                ("allow", Some(rules.iter().map(ToString::to_string).collect()))
            }
        };
        Self { policy: Some(policy.to_owned()), allow }
    }
}

fn in_the_store(status: control::UpperStatus) -> &'static str {
    match status {
        control::UpperStatus::Stored => "stored",
        control::UpperStatus::Storing => "storing",
        control::UpperStatus::Restoring => "restoring",
    }
}

/// A time span as clients write it.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum Span {
    /// Seconds.
    Seconds(u64),
    /// `30s`, `15m`, `2h`, `7d3h4s`, `1w3d`, digits meaning seconds, `never` or `off`.
    Text(String),
}

impl Span {
    fn text(self) -> String {
        match self {
            Self::Seconds(seconds) => seconds.to_string(),
            Self::Text(text) => text,
        }
    }
}

/// What to create. Everything has a default.
#[derive(Debug, Default, Deserialize, ToSchema)]
pub(crate) struct MachineCreate {
    /// A unique name; made up where it is not given.
    #[serde(default)]
    name: Option<String>,
    /// Image name.
    #[serde(default)]
    image: Option<String>,
    /// Virtual CPUs, in quarter steps.
    #[serde(default)]
    vcpu: Option<f64>,
    /// Memory in MiB.
    #[serde(default)]
    memory_mib: Option<u64>,
    /// Size of the home in GiB.
    #[serde(default)]
    storage_gib: Option<u64>,
    /// Idleness before sleep.
    #[serde(default)]
    autosleep: Option<Span>,
    /// The same; `autosleep` wins.
    #[serde(default)]
    autosleep_seconds: Option<Span>,
    /// What a guest's `fsync` waits for: `store` (the default: what it returned for survives the loss of
    /// the host) or `local` (this host's disk).
    #[serde(default)]
    fsync: Option<String>,
    /// What it may reach. An extension: not in the contract.
    #[serde(default)]
    egress: Option<EgressBody>,
}

impl From<MachineCreate> for CreateMachine {
    fn from(body: MachineCreate) -> Self {
        Self {
            name: body.name,
            image: body.image,
            vcpu: body.vcpu,
            memory_mib: body.memory_mib,
            storage_gib: body.storage_gib,
            autosleep: body.autosleep.or(body.autosleep_seconds).map(Span::text),
            autosleep_seconds: None,
            fsync: body.fsync,
            egress: body.egress.map(EgressWish::from),
        }
    }
}

/// What to change; what is left out stays.
#[derive(Debug, Default, Deserialize, ToSchema)]
pub(crate) struct MachineUpdate {
    /// A unique name.
    #[serde(default)]
    name: Option<String>,
    /// Virtual CPUs, in quarter steps.
    #[serde(default)]
    vcpu: Option<f64>,
    /// Memory in MiB.
    #[serde(default)]
    memory_mib: Option<u64>,
    /// Size of the home in GiB; only more than now.
    #[serde(default)]
    storage_gib: Option<u64>,
    /// Idleness before sleep.
    #[serde(default)]
    autosleep: Option<Span>,
    /// The same; `autosleep` wins.
    #[serde(default)]
    autosleep_seconds: Option<Span>,
    /// What a guest's `fsync` waits for: `store` (the default: what it returned for survives the loss of
    /// the host) or `local` (this host's disk).
    #[serde(default)]
    fsync: Option<String>,
    /// What it may reach; in force when this is answered, for connections that are open too. An extension: not
    /// in the contract.
    #[serde(default)]
    egress: Option<EgressBody>,
}

impl From<MachineUpdate> for UpdateMachine {
    fn from(body: MachineUpdate) -> Self {
        Self {
            name: body.name,
            vcpu: body.vcpu,
            memory_mib: body.memory_mib,
            storage_gib: body.storage_gib,
            autosleep: body.autosleep.or(body.autosleep_seconds).map(Span::text),
            autosleep_seconds: None,
            fsync: body.fsync,
            egress: body.egress.map(EgressWish::from),
        }
    }
}

#[cfg(test)]
mod tests {
    use http_kit::body::from_json;

    use super::*;

    #[test]
    fn autosleep_is_taken_in_every_spelling() {
        let autosleep = |json: &str| {
            CreateMachine::from(from_json::<MachineCreate>(json.as_bytes()).unwrap()).autosleep
        };
        assert_eq!(autosleep(r#"{"autosleep": "15m"}"#).as_deref(), Some("15m"));
        assert_eq!(autosleep(r#"{"autosleep": 900}"#).as_deref(), Some("900"));
        assert_eq!(autosleep(r#"{"autosleep_seconds": 900}"#).as_deref(), Some("900"));
        assert_eq!(autosleep(r#"{"autosleep_seconds": "off"}"#).as_deref(), Some("off"));
        assert_eq!(
            autosleep(r#"{"autosleep": "1h", "autosleep_seconds": 9}"#).as_deref(),
            Some("1h")
        );
        assert_eq!(autosleep(r#"{"autosleep": null}"#), None);
        assert!(from_json::<MachineCreate>(br#"{"autosleep_seconds": -1}"#).is_err());
    }

    #[test]
    fn fields_that_we_do_not_know_are_passed_over() {
        let body = from_json::<MachineCreate>(br#"{"vcpu": 0.25, "region": "x"}"#).unwrap();
        assert_eq!(CreateMachine::from(body).vcpu, Some(0.25));
        assert!(from_json::<MachineUpdate>(b"").is_ok());
    }
}
