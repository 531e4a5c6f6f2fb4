//! Machines: calls and the part of their bodies that people look at.

use std::time::Duration;

use futures::{Stream, StreamExt};
use reqwest::Method;
use serde::{Deserialize, Serialize};

use crate::{Client, Error, Result, escape};

/// How long the server may take to bring a machine where it was asked to be. A cold boot under
/// emulation on a busy host takes most of a minute.
const SETTLE_MAX: Duration = Duration::from_secs(300);

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
}

#[derive(Deserialize)]
struct Page {
    items: Vec<serde_json::Value>,
    next_cursor: Option<String>,
}

fn machine(value: serde_json::Value) -> Result<Machine> {
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
        let state = (Box::pin(response.bytes_stream()), Vec::<u8>::new(), base);
        Ok(futures::stream::unfold(state, |(mut bytes, mut buffer, base)| async move {
            loop {
                if let Some(end) = buffer.windows(2).position(|pair| pair == b"\n\n") {
                    let event: Vec<u8> = buffer.drain(..end + 2).collect();
                    if let Some(item) = status_event(&event) {
                        return Some((item, (bytes, buffer, base)));
                    }
                    continue;
                }
                match bytes.next().await? {
                    Ok(piece) => buffer.extend_from_slice(&piece),
                    Err(error) => {
                        let item = Err(Error::transport(&base, &error));
                        return Some((item, (bytes, buffer, base)));
                    }
                }
            }
        }))
    }

    /// Waits until a machine has settled: where it was asked to be, or failed.
    ///
    /// # Errors
    /// Those of the server.
    pub async fn settled(&self, name: &str) -> Result<Machine> {
        let watch = self.watch(name).await?;
        let mut watch = std::pin::pin!(watch);
        let mut last = None;
        while let Some(next) = watch.next().await {
            last = Some(next?);
        }
        match last {
            Some(machine) => Ok(machine),
            None => self.machine(name).await,
        }
    }
}

/// The machine in one server-sent event, if it is a status.
fn status_event(event: &[u8]) -> Option<Result<Machine>> {
    let text = String::from_utf8_lossy(event);
    let mut kind = "";
    let mut data = String::new();
    for line in text.lines() {
        if let Some(value) = line.strip_prefix("event:") {
            kind = value.trim();
        } else if let Some(value) = line.strip_prefix("data:") {
            data.push_str(value.trim_start());
        }
    }
    match kind {
        "status" => Some(
            serde_json::from_str(&data)
                .map_err(|error| {
                    Error::of(base::ErrorKind::Internal, format!("not a machine: {error}"))
                })
                .and_then(machine),
        ),
        "error" => Some(Err(Error::of(base::ErrorKind::Unavailable, data))),
        _ => None,
    }
}

pub(crate) fn at(name: &str, rest: &str) -> String {
    format!("/v1/machines/{}{rest}", escape(name))
}
