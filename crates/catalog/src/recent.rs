//! Rows that were read lately: a call that names a machine asks the database only once in a while.
//!
//! # Invariants
//! - What is here is what the database says, as seen by whoever waits for a change: a row is
//!   forgotten before the call that changed it returns.
//! - A row that was read before a change is not kept after it: changes are counted, and one that came
//!   between reading and keeping is noticed.
//!
//! # Bounds
//! [`ROWS_MAX`] rows; a full one is emptied. Misses are not remembered.

use std::collections::HashMap;

use base::MachineId;
use parking_lot::Mutex;

use crate::MachineRow;

/// Rows that are kept.
const ROWS_MAX: usize = 1024;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    rows: Mutex<Rows>,
}

#[derive(Debug, Default)]
struct Rows {
    changes: u64,
    by_id: HashMap<MachineId, MachineRow>,
    ids: HashMap<String, MachineId>,
}

impl Recent {
    /// The machine of that id.
    pub(crate) fn by_id(&self, id: &MachineId) -> Option<MachineRow> {
        self.rows.lock().by_id.get(id).cloned()
    }

    /// The machine of that name.
    pub(crate) fn by_name(&self, name: &str) -> Option<MachineRow> {
        let rows = self.rows.lock();
        rows.by_id.get(rows.ids.get(name)?).cloned()
    }

    /// How many changes there were. Ask before a row is read.
    pub(crate) fn changes(&self) -> u64 {
        self.rows.lock().changes
    }

    /// Keeps a row that was read after `changes`.
    pub(crate) fn keep(&self, changes: u64, row: &MachineRow) {
        let mut rows = self.rows.lock();
        if rows.changes != changes {
            return;
        }
        if rows.by_id.len() >= ROWS_MAX {
            rows.by_id.clear();
            rows.ids.clear();
        }
        rows.ids.insert(row.name.clone(), row.id.clone());
        rows.by_id.insert(row.id.clone(), row.clone());
    }

    /// A machine was changed, or may have been.
    pub(crate) fn forget(&self, id: &MachineId) {
        let mut rows = self.rows.lock();
        rows.changes += 1;
        if let Some(row) = rows.by_id.remove(id) {
            rows.ids.remove(&row.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machines::tests::row;

    #[test]
    fn a_row_is_found_by_both_its_names_until_it_changes() {
        let (recent, one) = (Recent::default(), row("one"));
        recent.keep(recent.changes(), &one);
        assert_eq!(recent.by_id(&one.id), Some(one.clone()));
        assert_eq!(recent.by_name("one"), Some(one.clone()));
        recent.forget(&one.id);
        assert_eq!((recent.by_id(&one.id), recent.by_name("one")), (None, None));
    }

    #[test]
    fn a_row_that_was_read_before_a_change_is_not_kept() {
        let (recent, one, other) = (Recent::default(), row("one"), row("other"));
        let before = recent.changes();
        recent.forget(&other.id);
        recent.keep(before, &one);
        assert_eq!(recent.by_id(&one.id), None);
    }

    #[test]
    fn there_are_never_many() {
        let recent = Recent::default();
        for number in 0..3 * ROWS_MAX {
            recent.keep(recent.changes(), &row(&number.to_string()));
        }
        let rows = recent.rows.lock();
        assert!(rows.by_id.len() <= ROWS_MAX && rows.ids.len() == rows.by_id.len());
    }
}
