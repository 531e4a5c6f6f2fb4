//! A few read-only connections, so that lookups do not queue behind writes.

use std::path::{Path, PathBuf};

use parking_lot::{Condvar, Mutex};
use rusqlite::Connection;
use vfs::Result;

use super::{schema, sql};
use crate::limits::READERS_MAX;

/// The pool. At most [`READERS_MAX`] connections; callers beyond that wait for one.
pub(crate) struct Readers {
    path: PathBuf,
    idle: Mutex<Idle>,
    returned: Condvar,
}

struct Idle {
    connections: Vec<Connection>,
    open: usize,
}

impl std::fmt::Debug for Readers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Readers").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Readers {
    /// A pool over the database at `path`. The first connection is made at once, so that a
    /// database that cannot be read is found out here.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let first = schema::open_reader(path)?;
        schema::check(&first)?;
        Ok(Self {
            path: path.to_owned(),
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
        }
        let idle = Mutex::new(Idle { connections, open: READERS_MAX });
        Ok(Self { path: path.to_owned(), idle, returned: Condvar::new() })
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
            let result = read(conn);
            sql::run(conn, "COMMIT", [])?;
            result
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
                return schema::open_reader(&self.path).inspect_err(|_| {
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
