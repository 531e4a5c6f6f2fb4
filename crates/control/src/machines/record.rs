//! The record of a machine in the object store: what is left of it when its host is lost.
//!
//! # Order
//! The catalog's row comes first, since it reserves the name; then the record; then the caller is
//! answered, and only then does anything start. A crash between row and record leaves a row that says
//! `recorded = false`: the driver writes the record before it starts the machine. A machine that was
//! answered is therefore always in the store.
//! At delete the home goes first and the record after it: a crash between leaves a record without a
//! home, whose row still says `destroyed` and goes on deleting at the next start.
//!
//! # Not here
//! Taking records of a lost host into the catalog ([`super::adopt`]).

use base::{Egress, HomeId, MachineId, Timestamp};
use bytes::Bytes;
use catalog::{MachineRow, MachineSpec};
use objstore::ObjectStore;
use serde::{Deserialize, Serialize};

use crate::limits::RECORD_BYTES_MAX;
use crate::{Error, Result};

/// All records are below it (docs/formats.md, Machine records).
pub(crate) const PREFIX: &str = "machines/";

/// The format of a machine that may reach what any may. Readers refuse formats that they do not know.
const FORMAT: u32 = 1;
/// The format of one that is held to a policy: a reader that knows none would let it reach everything.
const FORMAT_HELD: u32 = 2;

/// A machine, as the store remembers it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    format: u32,
    pub(crate) machine_id: MachineId,
    pub(crate) name: String,
    pub(crate) home_id: HomeId,
    pub(crate) spec: MachineSpec,
    pub(crate) created_at: Timestamp,
}

impl Record {
    pub(crate) fn of(row: &MachineRow) -> Self {
        let is_open = row.spec.egress == Egress::Open;
        Self {
            format: if is_open { FORMAT } else { FORMAT_HELD },
            machine_id: row.id.clone(),
            name: row.name.clone(),
            home_id: row.home.clone(),
            spec: row.spec.clone(),
            created_at: row.created_at,
        }
    }
}

/// Where the record of a machine is.
pub(crate) fn key(machine: &MachineId) -> String {
    format!("{PREFIX}{machine}.json")
}

/// Writes a record, replacing an older one.
///
/// # Errors
/// `InvalidArgument` for one that is too long to be read back; nothing is written then.
pub(crate) async fn put(store: &dyn ObjectStore, record: &Record) -> Result<()> {
    let body = serde_json::to_vec(record)
        .map_err(|error| Error::internal("write down the machine's record").caused_by(error))?;
    if body.len() as u64 > RECORD_BYTES_MAX {
        return Err(Error::new(
            base::ErrorKind::InvalidArgument,
            format!(
                "the machine's record has {} bytes; it may have {RECORD_BYTES_MAX}",
                body.len()
            ),
        ));
    }
    Ok(store.put(&key(&record.machine_id), Bytes::from(body)).await?)
}

/// Reads a record.
///
/// # Errors
/// `Corrupt` for what is not one, `Unsupported` for one of a later format.
pub(crate) async fn get(store: &dyn ObjectStore, key: &str) -> Result<Record> {
    let body = store.get(key, Some(0..RECORD_BYTES_MAX)).await?;
    #[derive(Deserialize)]
    struct Head {
        format: u32,
    }
    let corrupt = |error: serde_json::Error| {
        Error::new(base::ErrorKind::Corrupt, format!("{key} is not a machine's record"))
            .caused_by(error)
    };
    let head: Head = serde_json::from_slice(&body).map_err(corrupt)?;
    if head.format > FORMAT_HELD {
        return Err(Error::new(
            base::ErrorKind::Unsupported,
            format!("{key} has format {}; this program knows up to {FORMAT_HELD}", head.format),
        ));
    }
    let record: Record = serde_json::from_slice(&body).map_err(corrupt)?;
    if self::key(&record.machine_id) == key {
        Ok(record)
    } else {
        Err(Error::new(base::ErrorKind::Corrupt, format!("{key} is another machine's record")))
    }
}

/// Removes a record; idempotent.
pub(crate) async fn delete(store: &dyn ObjectStore, machine: &MachineId) -> Result<()> {
    Ok(store.delete(&key(machine)).await?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fakes::MemoryStore;
    use crate::machines::test_row;

    #[tokio::test]
    async fn a_record_comes_back_as_it_went_in() {
        let store = MemoryStore::new();
        let record = Record::of(&test_row("one"));
        put(&*store, &record).await.unwrap();
        assert_eq!(get(&*store, &key(&record.machine_id)).await.unwrap(), record);
        delete(&*store, &record.machine_id).await.unwrap();
        delete(&*store, &record.machine_id).await.unwrap();
        let error = get(&*store, &key(&record.machine_id)).await.unwrap_err();
        assert_eq!(error.kind(), base::ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn a_machine_that_is_held_to_a_policy_is_not_for_readers_that_know_none() {
        let mut row = test_row("one");
        assert_eq!(Record::of(&row).format, 1, "as every reader knows it");
        for egress in ["none", "allow=example.com"] {
            row.spec.egress = egress.parse().unwrap();
            let (record, store) = (Record::of(&row), MemoryStore::new());
            assert_eq!(record.format, 2, "{egress}");
            put(&*store, &record).await.unwrap();
            assert_eq!(get(&*store, &key(&row.id)).await.unwrap(), record);
        }
        // As a program wrote it that knew policies and one format.
        let (record, store) = (Record { format: 1, ..Record::of(&row) }, MemoryStore::new());
        put(&*store, &record).await.unwrap();
        assert_eq!(get(&*store, &key(&row.id)).await.unwrap().spec.egress, row.spec.egress);
    }

    #[tokio::test]
    async fn a_record_is_only_written_where_it_can_be_read_back() {
        let store = MemoryStore::new();
        let mut record = Record::of(&test_row("one"));
        let longest = |n| format!("*.{n:03}.{}", vec!["x".repeat(61); 4].join("."));
        let rules: Vec<String> = (0..base::EGRESS_RULES_MAX).map(longest).collect();
        record.spec.egress = base::Egress::allow(&rules).unwrap();
        let key = key(&record.machine_id);
        put(&*store, &record).await.unwrap();
        assert_eq!(get(&*store, &key).await.unwrap(), record);
        let longer =
            Record { name: "x".repeat(RECORD_BYTES_MAX.try_into().unwrap()), ..record.clone() };
        let error = put(&*store, &longer).await.unwrap_err();
        assert_eq!(error.kind(), base::ErrorKind::InvalidArgument);
        assert_eq!(get(&*store, &key).await.unwrap(), record);
    }

    #[tokio::test]
    async fn what_is_not_a_record_of_ours_is_refused() {
        let store = MemoryStore::new();
        let record = Record::of(&test_row("one"));
        let key = key(&record.machine_id);
        for (body, kind) in [
            ("not json".to_owned(), base::ErrorKind::Corrupt),
            ("{\"format\": 3}".to_owned(), base::ErrorKind::Unsupported),
            ("{\"format\": 1}".to_owned(), base::ErrorKind::Corrupt),
            ("{\"format\": 2}".to_owned(), base::ErrorKind::Corrupt),
            (
                serde_json::to_string(&Record::of(&test_row("two"))).unwrap(),
                base::ErrorKind::Corrupt,
            ),
        ] {
            store.put(&key, body.clone().into()).await.unwrap();
            assert_eq!(get(&*store, &key).await.unwrap_err().kind(), kind, "{body}");
        }
    }
}
