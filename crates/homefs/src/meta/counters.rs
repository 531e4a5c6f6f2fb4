//! Numbers that only the writer hands out, kept in memory and written with each fold.

use rusqlite::{Connection, params};
use vfs::Result;

use super::sql::{self, int, uint};

/// The counters of one home.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counters {
    /// The next inode number.
    pub(crate) next_ino: u64,
    /// The next directory cookie.
    pub(crate) next_cookie: u64,
    /// The last version given to anything.
    pub(crate) version: u64,
    /// Bytes allocated to content, detached and unlinked files included.
    pub(crate) bytes_used: u64,
    /// Inodes that exist.
    pub(crate) inodes_used: u64,
    /// The sequence number of the last commit that carried this database, or was about to.
    pub(crate) store_seq: u64,
}

impl Counters {
    /// Reads them.
    pub(crate) fn load(conn: &Connection) -> Result<Self> {
        let get = |name: &str| {
            sql::first(conn, "SELECT value FROM kv WHERE name=?1", [name], |r| uint(r, 0))
                .map(Option::unwrap_or_default)
        };
        Ok(Self {
            next_ino: get("next_ino")?.max(2),
            next_cookie: get("next_cookie")?.max(1),
            version: get("version")?,
            bytes_used: get("bytes_used")?,
            inodes_used: get("inodes_used")?,
            store_seq: get("store_seq")?,
        })
    }

    /// Writes those that differ from `before`.
    pub(crate) fn save(&self, conn: &Connection, before: &Self) -> Result<()> {
        let pairs = [
            ("next_ino", self.next_ino, before.next_ino),
            ("next_cookie", self.next_cookie, before.next_cookie),
            ("version", self.version, before.version),
            ("bytes_used", self.bytes_used, before.bytes_used),
            ("inodes_used", self.inodes_used, before.inodes_used),
            ("store_seq", self.store_seq, before.store_seq),
        ];
        for (name, now, then) in pairs {
            if now != then {
                sql::run(conn, "INSERT OR REPLACE INTO kv VALUES(?1,?2)", params![name, int(now)])?;
            }
        }
        Ok(())
    }

    /// Makes versions handed out from now on differ from all that a lost or discarded copy of
    /// this home may have handed out: they start at the wall clock's microseconds.
    pub(crate) fn begin_lineage(&mut self, now_ns: i64) {
        let micros = u64::try_from(now_ns / 1_000).unwrap_or(0);
        self.version = self.version.saturating_add(1).max(micros);
    }
}
