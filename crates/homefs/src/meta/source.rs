//! A connection to a state of the database that no file holds.

use std::sync::Arc;

use rusqlite::Connection;

use crate::replica::pages::PageSource;

/// A frozen state as `sqlite_pages` wants it.
struct Frozen(Arc<dyn PageSource>);

impl sqlite_pages::Pages for Frozen {
    fn page_size(&self) -> u32 {
        self.0.page_size()
    }

    fn page_count(&self) -> u32 {
        self.0.page_count()
    }

    fn read(&self, page: u32, into: &mut [u8]) -> Result<(), sqlite_pages::Cause> {
        Ok(self.0.read_page(page, into)?)
    }
}

/// Opens it for reading; `None` of what is no database.
pub(crate) fn open(source: &Arc<dyn PageSource>) -> Option<Connection> {
    let conn = sqlite_pages::open(Arc::new(Frozen(source.clone()))).ok()?;
    conn.execute_batch("PRAGMA cache_size=-1024; PRAGMA query_only=ON;").ok()?;
    Some(conn)
}

/// Every tree by name, with its root.
pub(crate) fn roots(conn: &Connection) -> Vec<(String, u32)> {
    const SQL: &str = "SELECT name,rootpage FROM sqlite_schema WHERE rootpage>0";
    let read = || {
        let mut statement = conn.prepare(SQL)?;
        let rows = statement.query_map([], |r| Ok((r.get(0)?, r.get(1)?)))?;
        rows.collect::<rusqlite::Result<Vec<_>>>()
    };
    read().unwrap_or_default()
}
