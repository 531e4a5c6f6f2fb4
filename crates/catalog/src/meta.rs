//! The format of the file, and the steps from each to the next.
//!
//! The number of the format is SQLite's own `user_version`. A step never changes once released.

use rusqlite::{Connection, TransactionBehavior};

use crate::{Error, Result};

/// Step *n* leads from format *n* to *n + 1*.
const STEPS: &[&[&str]] =
    &[&[crate::machines::TABLE, crate::idempotency::TABLE, crate::executions::TABLE]];

/// Brings the file to the newest format.
pub(crate) fn migrate(connection: &mut Connection) -> Result<()> {
    let known = i64::try_from(STEPS.len()).unwrap_or(i64::MAX);
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
