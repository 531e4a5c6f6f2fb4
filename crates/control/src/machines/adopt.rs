//! Takes machines of a lost host into the catalog, from their records in the object store.
//!
//! # Invariants
//! - Nothing in the store is changed, except the record of a machine that had to be renamed.
//! - A machine that the catalog knows is never replaced; only its right to take over may be granted.
//! - That right is of the claim that was looked at here, and of no later one: whoever claims the home next may be alive,
//!   be it the server that was given up for lost and was told to take the machine back.
//!
//! # Failure
//! A crash in the middle leaves some machines adopted; the next call takes the rest.

use std::sync::Arc;

use base::Epoch;
use catalog::{Desired, MachineChange, MachineRow, Observation, Phase};

use super::driver::Drivers;
use super::record::{self, Record};
use super::types::Adopted;
use crate::control::Inner;
use crate::limits::NAME_LENGTH_MAX;
use crate::snapshots;
use crate::{Error, Result};

/// Records asked for at once.
const LIST_MAX: usize = 1_000;

/// Names tried for a machine whose own is taken.
const NAMES_MAX: usize = 100;

pub(crate) async fn adopt(inner: &Arc<Inner>, take_over: bool) -> Result<Vec<Adopted>> {
    let mut adopted = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let store = &inner.parts.store;
        let found = store.list(record::PREFIX, after.as_deref(), LIST_MAX).await?;
        let Some(last) = found.last() else { return Ok(adopted) };
        after = Some(last.key.clone());
        for object in found {
            let record = match record::get(&**store, &object.key).await {
                Ok(record) => record,
                Err(error) if error.is_retryable() => return Err(error),
                Err(error) => {
                    tracing::warn!(key = object.key, %error, "leave out a record");
                    continue;
                }
            };
            adopted.extend(adopt_one(inner, record, take_over).await?);
        }
    }
}

async fn adopt_one(inner: &Arc<Inner>, record: Record, take_over: bool) -> Result<Option<Adopted>> {
    let head = inner.parts.homes.head(&record.home_id).await?;
    let held = head.filter(|head| !head.released).map(|head| head.epoch);
    let id = record.machine_id.clone();
    let known = inner.db(move |catalog| catalog.machine(&id)).await?;
    if let Some(row) = known {
        return grant(inner, &row, held.filter(|_| take_over)).await;
    }
    let row = insert(inner, record, held.filter(|_| take_over)).await?;
    note_snapshots(inner, &row).await;
    // Only a renamed machine has something to do: its record.
    Drivers::nudge(inner, &row.id);
    Ok(Some(Adopted { machine_id: row.id, name: row.name, released: held.is_none() }))
}

/// Snapshots are found by their ids once the catalog knows whose they are. Listing them does the same.
async fn note_snapshots(inner: &Inner, row: &MachineRow) {
    let noted = async {
        let found = inner.parts.homes.snapshots(&row.home).await?;
        snapshots::note(inner, &row.id, found.into_iter().map(|one| one.id).collect()).await
    };
    if let Err(error) = noted.await {
        tracing::warn!(machine = %row.id, %error, "its snapshots are not known yet");
    }
}

/// Lets a machine that was adopted before take its home from who has it now, where that is wanted.
async fn grant(inner: &Inner, row: &MachineRow, held: Option<Epoch>) -> Result<Option<Adopted>> {
    let resting = matches!(row.observed.phase, Phase::Sleeping | Phase::Failed);
    if held.is_none() || row.take_over_from == held || !resting {
        return Ok(None);
    }
    let change = MachineChange { take_over_from: Some(held), ..MachineChange::default() };
    let row = inner.edit(&row.id, move |_| Ok(change)).await?;
    Ok(Some(Adopted { machine_id: row.id, name: row.name, released: false }))
}

async fn insert(
    inner: &Inner,
    record: Record,
    take_over_from: Option<Epoch>,
) -> Result<MachineRow> {
    let now = inner.parts.clock.now();
    let mut row = MachineRow {
        id: record.machine_id,
        name: record.name.clone(),
        spec: record.spec,
        home: record.home_id,
        forked_from: None,
        forked_machine: None,
        desired: Desired::Sleeping,
        observed: Observation::of(Phase::Sleeping, "adopted"),
        take_over_from,
        recorded: true,
        alarm: catalog::Alarm::default(),
        reboot: None,
        revision: 1,
        created_at: record.created_at,
        transition_at: now,
        progress_at: now,
    };
    for attempt in 1..=NAMES_MAX {
        let (stored, max) = (row.clone(), inner.settings.limits.machines_max);
        match inner.db(move |catalog| catalog.insert_machine(&stored, max)).await {
            Ok(()) => return Ok(row),
            Err(error) if error.kind() == base::ErrorKind::AlreadyExists => {
                row.name = other_name(&record.name, attempt + 1);
                row.recorded = false;
            }
            Err(error) => return Err(error),
        }
    }
    Err(Error::new(
        base::ErrorKind::AlreadyExists,
        format!("{NAMES_MAX} machines are named like {:?}; rename some of them", record.name),
    ))
}

/// `name-2` and so on, cut to the length of a name.
fn other_name(name: &str, number: usize) -> String {
    let suffix = format!("-{number}");
    let kept: String = name.chars().take(NAME_LENGTH_MAX - suffix.len()).collect();
    format!("{kept}{suffix}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_name_is_still_a_name() {
        assert_eq!(other_name("one", 2), "one-2");
        let long = other_name(&"x".repeat(63), 100);
        assert_eq!(long.len(), 63);
        assert!(super::super::validate::name(&long).is_ok());
    }
}
