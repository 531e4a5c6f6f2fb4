//! Executions that no keeper has taken yet: their machine is waking, or could not be woken.
//!
//! A row goes once a keeper has the execution, since the keeper's own files are its record then.
//! Values of variables and standard input are never in here.

use base::{ExecutionId, MachineId};
use rusqlite::{OptionalExtension as _, Row};

use crate::{Catalog, Result, parsed};

pub(crate) const TABLE: &str = "
CREATE TABLE waiting_execution (
    id TEXT PRIMARY KEY,
    machine TEXT NOT NULL,
    document TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX waiting_execution_machine ON waiting_execution (machine, id);
";

/// An execution that no keeper has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitingExecution {
    /// Its id.
    pub id: ExecutionId,
    /// Its machine.
    pub machine: MachineId,
    /// What there is to say of it; JSON that only `control` reads.
    pub document: String,
}

impl Catalog {
    /// Adds or replaces one.
    ///
    /// # Errors
    /// [`crate::Error::Database`].
    pub fn put_waiting(&self, waiting: &WaitingExecution) -> Result<()> {
        self.write(|db| {
            db.execute(
                "INSERT OR REPLACE INTO waiting_execution VALUES (?1, ?2, ?3)",
                (waiting.id.as_str(), waiting.machine.as_str(), &waiting.document),
            )?;
            Ok(())
        })
    }

    /// One of them.
    ///
    /// # Errors
    /// [`crate::Error::Database`], [`crate::Error::Corrupt`].
    pub fn waiting(&self, id: &ExecutionId) -> Result<Option<WaitingExecution>> {
        self.read(|db| {
            let mut statement =
                db.prepare_cached("SELECT * FROM waiting_execution WHERE id = ?1")?;
            let found = statement.query_row([id.as_str()], |row| Ok(read_row(row))).optional()?;
            found.transpose()
        })
    }

    /// Those of a machine, oldest first; all machines where none is named.
    ///
    /// # Errors
    /// [`crate::Error::Database`], [`crate::Error::Corrupt`].
    pub fn waiting_of(&self, machine: Option<&MachineId>) -> Result<Vec<WaitingExecution>> {
        self.read(|db| {
            let mut statement = db.prepare_cached(
                "SELECT * FROM waiting_execution WHERE ?1 IS NULL OR machine = ?1 ORDER BY id",
            )?;
            let mut rows = statement.query([machine.map(MachineId::as_str)])?;
            let mut found = Vec::new();
            while let Some(row) = rows.next()? {
                found.push(read_row(row)?);
            }
            Ok(found)
        })
    }

    /// Forgets one. A missing one is no error.
    ///
    /// # Errors
    /// [`crate::Error::Database`].
    pub fn remove_waiting(&self, id: &ExecutionId) -> Result<()> {
        self.write(|db| {
            db.execute("DELETE FROM waiting_execution WHERE id = ?1", [id.as_str()])?;
            Ok(())
        })
    }
}

fn read_row(row: &Row<'_>) -> Result<WaitingExecution> {
    Ok(WaitingExecution {
        id: parsed(row, "id", |text| text.parse().ok())?,
        machine: parsed(row, "machine", |text| text.parse().ok())?,
        document: row.get("document")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machines::tests::{open, row};

    #[test]
    fn they_go_with_their_machine() {
        let (_dir, catalog) = open();
        let machine = row("one");
        catalog.insert_machine(&machine, 10).unwrap();
        let waiting = WaitingExecution {
            id: ExecutionId::generate(),
            machine: machine.id.clone(),
            document: "{}".to_owned(),
        };
        catalog.put_waiting(&waiting).unwrap();
        assert_eq!(catalog.waiting(&waiting.id).unwrap(), Some(waiting.clone()));
        assert_eq!(catalog.waiting_of(Some(&machine.id)).unwrap(), std::slice::from_ref(&waiting));
        assert_eq!(catalog.waiting_of(None).unwrap().len(), 1);
        catalog.remove_machine(&machine.id).unwrap();
        assert_eq!(catalog.waiting(&waiting.id).unwrap(), None);
    }
}
