//! A few read-only connections, so that lookups do not queue behind writes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};
use rusqlite::Connection;
use sqlite_pages::Pages;
use vfs::{Errno, FsError, Result};

use super::rows::{ReadRows, Rows};
use super::{schema, sql};
use crate::limits::READERS_MAX;

/// The pool. At most [`READERS_MAX`] connections; callers beyond that wait for one.
pub(crate) struct Readers {
    from: From,
    idle: Mutex<Idle>,
    returned: Condvar,
}

/// How connections are made.
enum From {
    /// All that there can be exist already.
    Nowhere,
    /// The database at this path.
    File(PathBuf),
    /// A published state, read in place.
    Pages(Arc<dyn Pages>),
}

struct Idle {
    connections: Vec<Connection>,
    open: usize,
}

impl std::fmt::Debug for Readers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Readers").finish_non_exhaustive()
    }
}

impl Readers {
    /// A pool over the database at `path`. The first connection is made at once, so that a
    /// database that cannot be read is found out here.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let first = schema::open_reader(path)?;
        schema::check(&first)?;
        Ok(Self {
            from: From::File(path.to_owned()),
            idle: Mutex::new(Idle { connections: vec![first], open: 1 }),
            returned: Condvar::new(),
        })
    }

    /// A pool over a file that nobody changes. All connections are made at once, so that they
    /// stay with this very file when another takes its name.
    pub(crate) fn open_immutable(path: &Path) -> Result<Self> {
        let connections: Vec<_> =
            (0..READERS_MAX).map(|_| schema::open_immutable(path)).collect::<Result<_>>()?;
        for conn in &connections {
            schema::check(conn)?;
            schema::show_sealed(conn)?;
        }
        let idle = Mutex::new(Idle { connections, open: READERS_MAX });
        Ok(Self { from: From::Nowhere, idle, returned: Condvar::new() })
    }

    /// A pool over a published state.
    pub(crate) fn over(pages: Arc<dyn Pages>) -> Result<Self> {
        let first = schema::open_pages(pages.clone())?;
        schema::check(&first)?;
        schema::show_sealed(&first)?;
        let idle = Mutex::new(Idle { connections: vec![first], open: 1 });
        Ok(Self { from: From::Pages(pages), idle, returned: Condvar::new() })
    }

    fn connect(&self) -> Result<Connection> {
        match &self.from {
            From::File(path) => schema::open_reader(path),
            From::Pages(pages) => {
                let conn = schema::open_pages(pages.clone())?;
                schema::show_sealed(&conn)?;
                Ok(conn)
            }
            From::Nowhere => Err(FsError::with(Errno::EIO, "a connection to metadata is lost")),
        }
    }

    /// Runs `read` where each statement sees its own latest state.
    pub(crate) fn with<T>(&self, read: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        let conn = self.take()?;
        let result = read(&conn);
        self.give_back(conn);
        result
    }

    /// Runs `read` where all statements see one state.
    pub(crate) fn consistent<T>(&self, read: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        self.with(|conn| {
            sql::run(conn, "BEGIN", [])?;
            let value = read(conn);
            // A page that could not be read has ended the transaction already.
            let ended = if conn.is_autocommit() { Ok(0) } else { sql::run(conn, "COMMIT", []) };
            let value = value?;
            ended.map(|_| value)
        })
    }

    fn take(&self) -> Result<Connection> {
        let mut idle = self.idle.lock();
        loop {
            if let Some(conn) = idle.connections.pop() {
                return Ok(conn);
            }
            if idle.open < READERS_MAX {
                idle.open += 1;
                drop(idle);
                return self.connect().inspect_err(|_| {
                    self.idle.lock().open -= 1;
                });
            }
            self.returned.wait(&mut idle);
        }
    }

    fn give_back(&self, conn: Connection) {
        let mut idle = self.idle.lock();
        // A panic between BEGIN and COMMIT, or an error there, must not pin a state forever.
        if conn.is_autocommit() {
            idle.connections.push(conn);
        } else {
            idle.open -= 1;
        }
        drop(idle);
        self.returned.notify_one();
    }
}

impl ReadRows for Readers {
    fn read_rows<T>(&self, read: &dyn Fn(&dyn Rows) -> Result<T>) -> Result<T> {
        self.consistent(|conn| read(conn))
    }
}
