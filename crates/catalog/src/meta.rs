//! The format of the file, and the steps from each to the next.
//!
//! The number of the format is SQLite's own `user_version`. A step never changes once released.

use rusqlite::{Connection, TransactionBehavior};

use crate::{Error, Result};

/// Step *n* leads from format *n* to *n + 1*.
const STEPS: &[&[&str]] = &[
    &[crate::machines::TABLE, crate::idempotency::TABLE, crate::executions::TABLE],
    &[crate::machines::FSYNC],
    &[crate::machines::FORKED_FROM, crate::snapshots::TABLE],
    &[crate::machines::ALARM],
    &[crate::machines::EGRESS],
    &[crate::machines::REBOOT],
    &[crate::machines::FORKED_MACHINE],
];

/// The newest format.
pub(crate) fn known() -> i64 {
    i64::try_from(STEPS.len()).unwrap_or(i64::MAX)
}

/// Brings the file to the newest format.
pub(crate) fn migrate(connection: &mut Connection) -> Result<()> {
    let known = known();
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let found: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if found > known {
        return Err(Error::Newer { found, known });
    }
    for step in STEPS.iter().skip(usize::try_from(found).unwrap_or(0)) {
        for sql in *step {
            transaction.execute_batch(sql)?;
        }
    }
    transaction.pragma_update(None, "user_version", known)?;
    transaction.commit()?;
    Ok(())
}

/// An empty file in an earlier format, for tests of the steps.
#[cfg(test)]
pub(crate) fn migrate_to(connection: &Connection, format: usize) -> Result<()> {
    for sql in STEPS.iter().take(format).copied().flatten() {
        connection.execute_batch(sql)?;
    }
    connection.pragma_update(None, "user_version", i64::try_from(format).unwrap_or(i64::MAX))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{By, Catalog, look_up};

    #[test]
    fn a_catalog_of_format_1_is_looked_at_and_brought_forward() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("catalog.db");
        let old = Connection::open(&path).unwrap();
        old.execute_batch(&STEPS[0].concat()).unwrap();
        old.pragma_update(None, "user_version", 1).unwrap();
        let (id, home) = (base::MachineId::generate(), base::HomeId::generate());
        let row = format!(
            "INSERT INTO machine VALUES('{id}','one',1.0,512,10,300,'base','{home}','sleeping',\
             'sleeping','test',0,NULL,0,1,3,5,5,5)"
        );
        old.execute_batch(&row).unwrap();
        drop(old);
        let looked = look_up(&path, By::Name("one")).unwrap().unwrap();
        assert_eq!((&looked.home, &looked.forked_from), (&home, &None));
        assert_eq!(looked.forked_machine, None);
        let catalog = Catalog::open(&path).unwrap();
        assert_eq!(catalog.machine(&id).unwrap(), Some(looked));
        assert_eq!(catalog.machine_of_snapshot(&base::SnapshotId::generate()).unwrap(), None);
    }
}
