//! Which machine a snapshot belongs to. The snapshot itself is in the object store; a row only saves
//! looking for it in every home, and can be made again from a listing.

use base::{MachineId, SnapshotId};
use rusqlite::OptionalExtension as _;

use crate::{Catalog, Error, Result};

pub(crate) const TABLE: &str = "
CREATE TABLE snapshot (
    id TEXT PRIMARY KEY,
    machine TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX snapshot_machine ON snapshot (machine, id);
";

impl Catalog {
    /// Notes whose snapshots these are; those that are known stay as they are.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn note_snapshots(&self, machine: &MachineId, ids: &[SnapshotId]) -> Result<()> {
        self.write(|db| {
            let mut insert = db.prepare_cached("INSERT OR IGNORE INTO snapshot VALUES (?1, ?2)")?;
            for id in ids {
                insert.execute([id.as_str(), machine.as_str()])?;
            }
            Ok(())
        })
    }

    /// Whose snapshot it is.
    ///
    /// # Errors
    /// [`Error::Database`], [`Error::Corrupt`].
    pub fn machine_of_snapshot(&self, id: &SnapshotId) -> Result<Option<MachineId>> {
        self.read(|db| {
            let mut find = db.prepare_cached("SELECT machine FROM snapshot WHERE id = ?1")?;
            let found: Option<String> =
                find.query_row([id.as_str()], |row| row.get(0)).optional()?;
            let corrupt = |_| Error::Corrupt { column: "machine" };
            found.map(|text| text.parse().map_err(corrupt)).transpose()
        })
    }

    /// Forgets a snapshot. A missing one is no error.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn forget_snapshot(&self, id: &SnapshotId) -> Result<()> {
        self.write(|db| {
            db.execute("DELETE FROM snapshot WHERE id = ?1", [id.as_str()])?;
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machines::tests::{open, row};

    #[test]
    fn a_snapshot_is_known_until_it_or_its_machine_goes() {
        let (_dir, catalog) = open();
        let machine = row("one");
        catalog.insert_machine(&machine, 10).unwrap();
        let ids = [SnapshotId::generate(), SnapshotId::generate()];
        catalog.note_snapshots(&machine.id, &ids).unwrap();
        catalog.note_snapshots(&machine.id, &ids[..1]).unwrap();
        assert_eq!(catalog.machine_of_snapshot(&ids[0]).unwrap(), Some(machine.id.clone()));
        catalog.forget_snapshot(&ids[0]).unwrap();
        catalog.forget_snapshot(&ids[0]).unwrap();
        assert_eq!(catalog.machine_of_snapshot(&ids[0]).unwrap(), None);
        catalog.remove_machine(&machine.id).unwrap();
        assert_eq!(catalog.machine_of_snapshot(&ids[1]).unwrap(), None);
    }
}
