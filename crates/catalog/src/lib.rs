//! What one server knows of its machines: one SQLite file, one source file a table.
//!
//! # Invariants
//! - Every change is one transaction, on disk when the call returns (WAL, `synchronous=FULL`).
//! - A row's revision grows with every change of the row, and only then.
//! - Names are unique among the rows that exist.
//!
//! # Who calls
//! `control`, from blocking threads: every method may wait for the disk. One process at a time: the
//! caller holds the lock on the data directory before it opens the catalog. Others may only look
//! ([`look_up`]), beside a server that runs or not.
//!
//! # Not here
//! What a phase means and which follows which (`control::machines::lifecycle`). Homes: their truth
//! is in the object store, and the catalog can be rebuilt from there.

mod error;
mod executions;
mod idempotency;
mod look;
mod machines;
mod meta;
mod model;
mod recent;
mod snapshots;

pub use error::{Error, Result};
pub use executions::WaitingExecution;
pub use idempotency::KeptReply;
pub use look::{By, look_up};
pub use model::{
    Alarm, Desired, Fsync, MachineChange, MachineRow, MachineSpec, Observation, Phase, Reboot,
};

use std::fs::{OpenOptions, Permissions};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use base::Timestamp;
use parking_lot::Mutex;
use rusqlite::{Connection, OpenFlags, Row, TransactionBehavior};

/// An open catalog. Writes go one at a time; reads do not wait for them.
#[derive(Debug)]
pub struct Catalog {
    writer: Mutex<Connection>,
    reader: Mutex<Connection>,
    recent: recent::Recent,
}

impl Catalog {
    /// Opens the catalog at `path`, making or migrating it.
    ///
    /// # Errors
    /// [`Error::Newer`] for one that a later program wrote; [`Error::Database`] for a file that
    /// cannot be opened.
    pub fn open(path: &Path) -> Result<Self> {
        // Command lines are in it; the files beside it get the mode that it has. Where this cannot be, the next line says why.
        let owners = OpenOptions::new().create(true).append(true).mode(0o600).open(path);
        drop(owners.and_then(|file| file.set_permissions(Permissions::from_mode(0o600))));
        let mut writer = Connection::open(path)?;
        // Asking for the mode answers with the one in force; anything but WAL is a broken set-up.
        let mode: String = writer.query_row("PRAGMA journal_mode=WAL", [], |row| row.get(0))?;
        if mode != "wal" {
            return Err(Error::Unusable(format!("journal mode is {mode}, expected wal")));
        }
        writer.pragma_update(None, "synchronous", "FULL")?;
        writer.pragma_update(None, "foreign_keys", true)?;
        meta::migrate(&mut writer)?;
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let reader = Connection::open_with_flags(path, flags)?;
        let (writer, reader) = (Mutex::new(writer), Mutex::new(reader));
        Ok(Self { writer, reader, recent: recent::Recent::default() })
    }

    /// Runs `work` in one transaction of the writing connection.
    fn write<T>(&self, work: impl FnOnce(&rusqlite::Transaction<'_>) -> Result<T>) -> Result<T> {
        let mut connection = self.writer.lock();
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let done = work(&transaction)?;
        transaction.commit()?;
        Ok(done)
    }

    /// Runs `work` on the reading connection.
    fn read<T>(&self, work: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        work(&self.reader.lock())
    }
}

/// Nanoseconds since 1970; moments past the year 2262 are held at it.
fn nanos(at: Timestamp) -> i64 {
    i64::try_from(at.as_nanosecond()).unwrap_or(i64::MAX)
}

/// A moment from its column.
fn moment(row: &Row<'_>, column: &'static str) -> Result<Timestamp> {
    Timestamp::from_nanosecond(i128::from(row.get::<_, i64>(column)?))
        .map_err(|_| Error::Corrupt { column })
}

/// A count or size for a column; the caller has bounded it far below the limit.
fn int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// A count or size from its column.
fn uint(row: &Row<'_>, column: &'static str) -> Result<u64> {
    u64::try_from(row.get::<_, i64>(column)?).map_err(|_| Error::Corrupt { column })
}

/// A value from its text column.
fn parsed<T>(
    row: &Row<'_>,
    column: &'static str,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Result<T> {
    parse(&row.get::<_, String>(column)?).ok_or(Error::Corrupt { column })
}

/// The same of a column that may be empty.
fn parsed_if_there<T: std::str::FromStr>(row: &Row<'_>, column: &'static str) -> Result<Option<T>> {
    // A catalog of an earlier format that is only looked at has no such column.
    if row.as_ref().column_index(column).is_err() {
        return Ok(None);
    }
    let text: Option<String> = row.get(column)?;
    text.map(|text| text.parse().map_err(|_| Error::Corrupt { column })).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_else_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("catalog.db");
        let modes = || {
            let entries = std::fs::read_dir(dir.path()).unwrap().flatten();
            entries.map(|entry| entry.metadata().unwrap().permissions().mode() & 0o777).collect()
        };
        let open: Vec<u32> = {
            let _catalog = Catalog::open(&path).unwrap();
            modes()
        };
        assert!(open.len() > 1 && open.iter().all(|mode| *mode == 0o600), "{open:?}");
        // One from before.
        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        let _catalog = Catalog::open(&path).unwrap();
        let again: Vec<u32> = modes();
        assert!(again.iter().all(|mode| *mode == 0o600), "{again:?}");
    }

    #[test]
    fn a_catalog_is_whole_after_it_is_opened_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("catalog.db");
        let row = crate::machines::tests::row("one");
        Catalog::open(&path).unwrap().insert_machine(&row, 10).unwrap();
        let again = Catalog::open(&path).unwrap();
        assert_eq!(again.machine(&row.id).unwrap(), Some(row));
    }

    #[test]
    fn a_catalog_of_an_earlier_program_is_brought_up_to_date() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("catalog.db");
        let row = crate::machines::tests::row("one");
        let first = Connection::open(&path).unwrap();
        meta::migrate_to(&first, 1).unwrap();
        let spec = &row.spec;
        first
            .execute(
                "INSERT INTO machine VALUES (?1, 'one', ?2, 512, 10, 300, 'base', ?3, 'running',
                'accepted', 'accepted', 0, NULL, 0, 0, 1, 0, 0, 0)",
                (row.id.as_str(), spec.vcpu, row.home.as_str()),
            )
            .unwrap();
        drop(first);
        let found = Catalog::open(&path).unwrap().machine(&row.id).unwrap().unwrap();
        let spec = MachineSpec { fsync: Fsync::Store, egress: base::Egress::Open, ..row.spec };
        assert_eq!((found.spec, found.home), (spec, row.home));
    }

    #[test]
    fn a_catalog_of_a_later_program_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("catalog.db");
        drop(Catalog::open(&path).unwrap());
        Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
        let error = Catalog::open(&path).unwrap_err();
        assert!(matches!(error, Error::Newer { found: 99, .. }), "{error}");
        assert_eq!(error.kind(), base::ErrorKind::Unsupported);
    }

    #[test]
    fn a_file_that_is_no_catalog_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("catalog.db");
        std::fs::write(&path, b"not a database, but long enough to be looked at as one".repeat(50))
            .unwrap();
        assert!(Catalog::open(&path).is_err());
    }
}
