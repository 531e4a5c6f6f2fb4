//! Machines: calls and the part of their bodies that people look at.

use std::collections::VecDeque;
use std::time::Duration;

use futures::{Stream, StreamExt};
use reqwest::Method;
use serde::{Deserialize, Serialize};

use crate::sse::{Event, Parser, TooLong};
use crate::{Client, Error, Result, escape};

/// How long the server may take to bring a machine where it was asked to be. A cold boot under
/// emulation on a busy host takes most of a minute.
pub(crate) const SETTLE_MAX: Duration = Duration::from_secs(300);

/// What to create. What is `None` gets the server's default.
#[derive(Debug, Clone, Default, Serialize)]
pub struct CreateMachine {
    /// Unique name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Virtual CPUs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vcpu: Option<f64>,
    /// Memory in MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_mib: Option<u64>,
    /// Size of the home in GiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage_gib: Option<u64>,
    /// Idle time before sleep: `15m`, `never`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub autosleep: Option<String>,
    /// What a guest's `fsync` waits for: `store`, `local`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fsync: Option<String>,
    /// What it may reach.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress: Option<Egress>,
}

/// What a machine may reach, as it is written on the wire.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Egress {
    /// `open`, `none`, `allow`.
    pub policy: String,
    /// Names and ranges of `allow`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<String>,
}

impl From<&base::Egress> for Egress {
    fn from(egress: &base::Egress) -> Self {
        let policy = match egress {
            base::Egress::Open => "open",
            base::Egress::None => "none",
            base::Egress::Allow(_) => "allow",
        };
        let allow = egress.rules().iter().map(ToString::to_string).collect();
        Self { policy: policy.to_owned(), allow }
    }
}

impl std::fmt::Display for Egress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.policy)?;
        if self.allow.is_empty() { Ok(()) } else { write!(f, "={}", self.allow.join(",")) }
    }
}

/// What to change; what is `None` stays.
#[derive(Debug, Clone, Default, Serialize)]
pub struct UpdateMachine {
    /// Another name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Virtual CPUs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vcpu: Option<f64>,
    /// Memory in MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_mib: Option<u64>,
    /// Size of the home in GiB; only more than now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage_gib: Option<u64>,
    /// Idle time before sleep: `15m`, `never`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub autosleep: Option<String>,
    /// What a guest's `fsync` waits for: `store`, `local`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fsync: Option<String>,
    /// What it may reach.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress: Option<Egress>,
}

/// A machine, as far as it is shown; `raw` is all of it.
#[derive(Debug, Clone, Deserialize)]
pub struct Machine {
    /// Its id.
    pub machine_id: String,
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// Its image.
    #[serde(default)]
    pub image: String,
    /// Virtual CPUs.
    pub vcpu: f64,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Size of the home in GiB.
    pub storage_gib: u64,
    /// Idle seconds before sleep; 0 never.
    #[serde(default)]
    pub autosleep_seconds: u64,
    /// What a guest's `fsync` waits for.
    #[serde(default)]
    pub fsync: String,
    /// What it may reach.
    #[serde(default)]
    pub egress: Option<Egress>,
    /// What was asked for.
    pub desired_state: String,
    /// What is.
    pub status: MachineStatus,
    /// The whole body.
    #[serde(flatten)]
    pub raw: serde_json::Map<String, serde_json::Value>,
}

/// What a machine is doing.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct MachineStatus {
    /// `running`, `sleeping`, …
    pub phase: String,
    /// Why, as a code.
    pub reason: String,
    /// What went wrong.
    pub last_error: Option<String>,
    /// Whether what a sleeping machine has outside of its home is in the store.
    #[serde(default)]
    pub upper: Option<String>,
    /// The same of the memory that it sleeps with.
    #[serde(default)]
    pub memory: Option<String>,
    /// Memory in MiB that the guest of an awake machine has.
    #[serde(default)]
    pub memory_assigned_mib: Option<u64>,
    /// Files were written while it slept, and are not published.
    #[serde(default)]
    pub draft: bool,
    /// When the machine is to be woken, if it sleeps then.
    #[serde(default)]
    pub wake_at: Option<String>,
}

#[derive(Deserialize)]
struct Page {
    items: Vec<serde_json::Value>,
    next_cursor: Option<String>,
}

impl Machine {
    /// True where it is where it was asked to be, or will get no further.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.status.phase == self.desired_state || self.status.phase == "failed"
    }
}

pub(crate) fn machine(value: serde_json::Value) -> Result<Machine> {
    let raw = value.as_object().cloned().unwrap_or_default();
    let mut machine: Machine = serde_json::from_value(value)
        .map_err(|error| Error::of(base::ErrorKind::Internal, format!("not a machine: {error}")))?;
    machine.raw = raw;
    Ok(machine)
}

impl Client {
    /// Creates a machine. It may still be starting: see [`Client::settled`].
    ///
    /// # Errors
    /// Those of the server, here and below.
    pub async fn create(&self, what: &CreateMachine) -> Result<Machine> {
        let request = self.request(Method::POST, "/v1/machines").json(what);
        machine(self.json(request.timeout(SETTLE_MAX)).await?)
    }

    /// One machine by id or name.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn machine(&self, name: &str) -> Result<Machine> {
        machine(self.json(self.request(Method::GET, &at(name, ""))).await?)
    }

    /// Changes a machine. Memory and `fsync` reach it when it next wakes, the rest at once.
    ///
    /// # Errors
    /// Those of the server.
    pub async fn update(&self, name: &str, what: &UpdateMachine) -> Result<Machine> {
        let request = self.request(Method::PATCH, &at(name, "")).json(what);
        machine(self.json(request.timeout(SETTLE_MAX)).await?)
    }

    /// Every machine, page by page.
    ///
    /// # Errors
    /// Those of the server.
    pub async fn machines(&self) -> Result<Vec<Machine>> {
        let mut found = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let mut request = self.request(Method::GET, "/v1/machines").query(&[("limit", "200")]);
            if let Some(cursor) = &cursor {
                request = request.query(&[("cursor", cursor)]);
            }
            let page: Page = self.json(request).await?;
            for item in page.items {
                found.push(machine(item)?);
            }
            cursor = page.next_cursor.filter(|next| !next.is_empty());
            if cursor.is_none() {
                return Ok(found);
            }
        }
    }

    /// Puts a machine to sleep (`sleep`) or wakes it (`wake`).
    ///
    /// # Errors
    /// Those of the server.
    pub async fn transition(&self, name: &str, verb: &str) -> Result<Machine> {
        let request = self.request(Method::POST, &at(name, &format!("/{verb}")));
        machine(self.json(request.timeout(SETTLE_MAX)).await?)
    }

    /// Wakes a machine that sleeps, without the memory that it slept with.
    ///
    /// # Errors
    /// Those of the server.
    pub async fn wake_cold(&self, name: &str) -> Result<Machine> {
        let request = self.request(Method::POST, &at(name, "/wake")).query(&[("cold", "true")]);
        machine(self.json(request.timeout(SETTLE_MAX)).await?)
    }

    /// Boots a machine, from whatever state it is in; with `force` its guest is not asked.
    ///
    /// # Errors
    /// Those of the server.
    pub async fn reboot(&self, name: &str, force: bool) -> Result<Machine> {
        let force = if force { "true" } else { "false" };
        let request = self.request(Method::POST, &at(name, "/reboot")).query(&[("force", force)]);
        machine(self.json(request.timeout(SETTLE_MAX)).await?)
    }

    /// Has a machine woken at a time, if it sleeps then; `never` takes that back, and what its
    /// guest asked for.
    ///
    /// # Errors
    /// Those of the server.
    pub async fn wake_at(&self, name: &str, at: &str) -> Result<Machine> {
        let request = self.request(Method::POST, &self::at(name, "/wake")).query(&[("at", at)]);
        machine(self.json(request).await?)
    }

    /// Deletes a machine with everything it has.
    ///
    /// # Errors
    /// Those of the server.
    pub async fn delete(&self, name: &str) -> Result<Machine> {
        let request = self.request(Method::DELETE, &at(name, ""));
        machine(self.json(request.timeout(SETTLE_MAX)).await?)
    }

    /// Publishes the draft of a sleeping machine; the server's report.
    ///
    /// # Errors
    /// Those of the server.
    pub async fn publish(&self, name: &str) -> Result<serde_json::Value> {
        self.json(self.request(Method::POST, &at(name, "/fs/publish"))).await
    }

    /// Throws the draft of a machine away; the server's report.
    ///
    /// # Errors
    /// Those of the server.
    pub async fn discard(&self, name: &str) -> Result<serde_json::Value> {
        self.json(self.request(Method::DELETE, &at(name, "/fs/draft"))).await
    }

    /// The machine each time it changes, until it is where it was asked to be.
    ///
    /// # Errors
    /// Those of the server.
    pub async fn watch(&self, name: &str) -> Result<impl Stream<Item = Result<Machine>> + use<>> {
        let request = self
            .request(Method::GET, &at(name, "/status/stream"))
            .header(http::header::ACCEPT, "text/event-stream");
        let response = self.send(request).await?;
        let base = self.base.clone();
        let pieces = Box::pin(response.bytes_stream());
        let state = (pieces, Parser::default(), VecDeque::new(), base);
        Ok(futures::stream::unfold(state, |(mut pieces, mut parser, mut found, base)| async move {
            loop {
                if let Some(item) = found.pop_front() {
                    return Some((item, (pieces, parser, found, base)));
                }
                match pieces.next().await? {
                    Ok(piece) => match parser.push(&piece) {
                        Ok(events) => found.extend(events.into_iter().filter_map(status_event)),
                        Err(TooLong) => found.push_back(Err(Error::of(
                            base::ErrorKind::Internal,
                            format!("{base}: the answer is not a stream of events"),
                        ))),
                    },
                    Err(error) => found.push_back(Err(Error::transport(&base, &error))),
                }
            }
        }))
    }

    /// Waits until a machine has settled: where it was asked to be, or failed.
    ///
    /// # Errors
    /// Those of the server; `Unavailable` where it ended the watch before, as one that stops does.
    pub async fn settled(&self, name: &str) -> Result<Machine> {
        let watch = self.watch(name).await?;
        let mut watch = std::pin::pin!(watch);
        let mut last = None;
        while let Some(next) = watch.next().await {
            last = Some(next?);
        }
        let machine = match last {
            Some(machine) => machine,
            None => self.machine(name).await?,
        };
        if machine.is_settled() {
            return Ok(machine);
        }
        Err(Error::of(
            base::ErrorKind::Unavailable,
            format!(
                "{} is {} and the server no longer tells; ask again in a moment",
                machine.name, machine.status.phase
            ),
        ))
    }
}

/// The machine in an event, if it is a status.
fn status_event(event: Event) -> Option<Result<Machine>> {
    match event.kind.as_str() {
        "status" => Some(
            serde_json::from_str(&event.data)
                .map_err(|error| {
                    Error::of(base::ErrorKind::Internal, format!("not a machine: {error}"))
                })
                .and_then(machine),
        ),
        "error" => Some(Err(Error::of(base::ErrorKind::Unavailable, event.data))),
        _ => None,
    }
}

pub(crate) fn at(name: &str, rest: &str) -> String {
    format!("/v1/machines/{}{rest}", escape(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(desired: &str, phase: &str) -> serde_json::Value {
        serde_json::json!({
            "machine_id": "dm-1", "name": "hello", "vcpu": 1, "memory_mib": 512, "storage_gib": 10,
            "desired_state": desired, "status": {"phase": phase, "reason": "ready"}, "more": 1,
        })
    }

    #[test]
    fn a_machine_keeps_the_whole_body() {
        let machine = machine(body("running", "running")).unwrap();
        assert_eq!(machine.raw["more"], 1);
        assert_eq!(machine.raw["machine_id"], "dm-1");
        assert!(machine_of("{}").is_err());
    }

    fn machine_of(text: &str) -> Result<Machine> {
        status_event(Event { kind: "status".to_owned(), data: text.to_owned() }).unwrap()
    }

    #[test]
    fn a_machine_has_settled_where_it_is_wanted_or_has_failed() {
        for (desired, phase, settled) in [
            ("running", "running", true),
            ("running", "starting", false),
            ("running", "failed", true),
            ("sleeping", "running", false),
            ("sleeping", "sleeping", true),
            ("destroyed", "destroying", false),
        ] {
            let machine = machine_of(&body(desired, phase).to_string()).unwrap();
            assert_eq!(machine.is_settled(), settled, "{desired} {phase}");
        }
    }

    #[test]
    fn only_status_and_error_events_are_told() {
        let event = |kind: &str| Event { kind: kind.to_owned(), data: "gone".to_owned() };
        assert!(status_event(event("error")).unwrap().is_err());
        assert!(status_event(event("ping")).is_none());
    }
}
