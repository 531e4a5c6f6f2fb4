//! A look into a catalog that another process may have open.

use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use crate::machines::one;
use crate::{Error, MachineRow, Result, meta};

/// What a machine is looked up by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By<'a> {
    /// Its id.
    Id(&'a str),
    /// Its name.
    Name(&'a str),
    /// The id of its home.
    Home(&'a str),
}

/// The machine in the catalog at `path`, where there is one. Takes no lock and changes nothing.
///
/// # Errors
/// [`Error::Newer`], [`Error::Database`], [`Error::Corrupt`].
pub fn look_up(path: &Path, by: By<'_>) -> Result<Option<MachineRow>> {
    if !path.exists() {
        return Ok(None);
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(path, flags)?;
    let found: i64 = db.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if found > meta::known() {
        return Err(Error::Newer { found, known: meta::known() });
    }
    match by {
        By::Id(id) => one(&db, "id", id),
        By::Name(name) => one(&db, "name", name),
        By::Home(home) => one(&db, "home", home),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machines::tests::{open, row};

    #[test]
    fn a_machine_is_found_beside_the_process_that_has_the_catalog_open() {
        let (dir, catalog) = open();
        let path = dir.path().join("catalog.db");
        assert_eq!(look_up(&path, By::Name("one")).unwrap(), None);
        let one = row("one");
        catalog.insert_machine(&one, 10).unwrap();
        for by in [By::Id(one.id.as_str()), By::Name("one"), By::Home(one.home.as_str())] {
            assert_eq!(look_up(&path, by).unwrap().as_ref(), Some(&one));
        }
        drop(catalog);
        assert_eq!(look_up(&path, By::Name("one")).unwrap(), Some(one));
        assert_eq!(look_up(&dir.path().join("none"), By::Name("one")).unwrap(), None);
        assert!(!dir.path().join("none").exists());
    }
}
