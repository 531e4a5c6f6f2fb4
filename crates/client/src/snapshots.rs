//! Snapshots of machines, restores, forks.

use base::ErrorKind;
use reqwest::Method;
use serde::{Deserialize, Serialize};

use crate::machines::{SETTLE_MAX, at, machine};
use crate::{Client, Error, Machine, Result, escape};

/// A kept state of a machine.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Snapshot {
    /// Its id.
    pub snapshot_id: String,
    /// The machine that it is of.
    pub machine_id: String,
    /// What it is called.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// When it was made.
    pub created_at: String,
    /// What was kept: `home`, `upper`, `memory`. Nothing where the server does not say: the home alone.
    #[serde(default)]
    pub contains: Vec<String>,
    /// It cannot be read, and why: it can only be let go of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damaged: Option<String>,
}

/// A machine that was made from another one.
#[derive(Debug, Clone)]
pub struct Forked {
    /// The machine.
    pub machine: Machine,
    /// What it begins with, as in [`Snapshot::contains`].
    pub contains: Vec<String>,
}

#[derive(Deserialize)]
struct Page {
    items: Vec<Snapshot>,
    next_cursor: Option<String>,
}

impl Client {
    /// Keeps the state that a machine has now: its home, and of one that sleeps all else. `whole`: else it is refused.
    ///
    /// # Errors
    /// Those of the server, here and below.
    pub async fn snapshot(
        &self,
        machine: &str,
        name: Option<&str>,
        whole: bool,
    ) -> Result<Snapshot> {
        let body = serde_json::json!({ "name": name, "whole": whole });
        let request = self.request(Method::POST, &at(machine, "/snapshots")).json(&body);
        self.json(request.timeout(SETTLE_MAX)).await
    }

    /// Every snapshot of a machine, oldest first.
    ///
    /// # Errors
    /// Those of the server.
    pub async fn snapshots(&self, machine: &str) -> Result<Vec<Snapshot>> {
        let (mut found, mut cursor) = (Vec::new(), None::<String>);
        loop {
            let mut request = self.request(Method::GET, &at(machine, "/snapshots"));
            request = request.query(&[("limit", "200")]);
            if let Some(cursor) = &cursor {
                request = request.query(&[("cursor", cursor)]);
            }
            let page: Page = self.json(request).await?;
            found.extend(page.items);
            cursor = page.next_cursor.filter(|next| !next.is_empty());
            if cursor.is_none() {
                return Ok(found);
            }
        }
    }

    /// The id of a machine's snapshot that a person named by id or by name.
    ///
    /// # Errors
    /// `NotFound`; `InvalidArgument` where several have the name.
    pub async fn find_snapshot(&self, machine: &str, wanted: &str) -> Result<String> {
        pick(self.snapshots(machine).await?, wanted)
    }

    /// Lets go of a snapshot.
    ///
    /// # Errors
    /// Those of the server.
    pub async fn delete_snapshot(&self, id: &str) -> Result<Snapshot> {
        let path = format!("/v1/snapshots/{}", escape(id));
        self.json(self.request(Method::DELETE, &path)).await
    }

    /// Takes a sleeping machine back to a snapshot.
    ///
    /// # Errors
    /// Those of the server.
    pub async fn restore(&self, name: &str, snapshot: &str) -> Result<Machine> {
        let body = serde_json::json!({ "snapshot_id": snapshot });
        machine(self.json(self.request(Method::POST, &at(name, "/restore")).json(&body)).await?)
    }

    /// Makes a machine, asleep, that goes on from what another one has, as [`Client::snapshot`] keeps it.
    ///
    /// # Errors
    /// Those of the server.
    pub async fn fork(
        &self,
        from: &str,
        name: Option<&str>,
        snapshot: Option<&str>,
        whole: bool,
    ) -> Result<Forked> {
        let body = serde_json::json!({ "name": name, "snapshot_id": snapshot, "whole": whole });
        let request = self.request(Method::POST, &at(from, "/fork")).json(&body);
        let raw: serde_json::Value = self.json(request.timeout(SETTLE_MAX)).await?;
        let contains = serde_json::from_value(raw["contains"].clone()).unwrap_or_default();
        Ok(Forked { machine: machine(raw)?, contains })
    }
}

fn pick(all: Vec<Snapshot>, wanted: &str) -> Result<String> {
    if let Some(found) = all.iter().find(|one| one.snapshot_id == wanted) {
        return Ok(found.snapshot_id.clone());
    }
    let mut named = all.into_iter().filter(|one| one.name.as_deref() == Some(wanted));
    match (named.next(), named.next()) {
        (Some(found), None) => Ok(found.snapshot_id),
        (Some(_), Some(_)) => Err(Error::of(
            ErrorKind::InvalidArgument,
            format!("several snapshots are called {wanted:?}; name one by its id"),
        )),
        (None, _) => Err(Error::of(
            ErrorKind::NotFound,
            format!("the machine has no snapshot {wanted:?}; `dormouse snapshots` lists them"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_is_named_by_id_or_by_a_name_that_only_it_has() {
        let one = |id: &str, name: &str| Snapshot {
            snapshot_id: id.to_owned(),
            machine_id: String::new(),
            name: (!name.is_empty()).then(|| name.to_owned()),
            created_at: String::new(),
            contains: Vec::new(),
            damaged: None,
        };
        let all = vec![one("snap-1", "a"), one("snap-2", "b"), one("snap-3", "b"), one("b", "")];
        let pick = |wanted| pick(all.clone(), wanted);
        assert_eq!(pick("snap-2").unwrap(), "snap-2");
        assert_eq!(pick("a").unwrap(), "snap-1");
        assert_eq!(pick("b").unwrap(), "b", "an id wins");
        assert_eq!(pick("c").unwrap_err().kind, ErrorKind::NotFound);
        let all = vec![one("snap-2", "b"), one("snap-3", "b")];
        assert_eq!(super::pick(all, "b").unwrap_err().kind, ErrorKind::InvalidArgument);
    }
}
