//! A delta as rows of the database: each changed row is written once, in the order of its table.
//!
//! # Invariants
//! - An inode that is gone takes all its rows along, also those that no hot call touches.
//! - Nothing is read here but the ranges of a file with many of them.

use rusqlite::{Connection, params};
use vfs::{Ino, Result};

use super::delta::Delta;
use crate::meta::rows::{Rows as _, Spooled};
use crate::meta::sql::{self, int};
use crate::ops::truncate::remove_sealed;

/// A file with more ranges than this has only those rewritten that changed.
const FEW: usize = 64;

/// Writes a delta into the open transaction of `conn`. Inodes from `first_fresh` on were not in
/// the database before.
pub(crate) fn write(conn: &Connection, delta: &Delta, first_fresh: Ino) -> Result<()> {
    inodes(conn, delta, first_fresh)?;
    entries(conn, delta)?;
    let gone = |ino: Ino| matches!(delta.inodes.get(&ino), Some(None));
    for (ino, blob) in sorted(&delta.blobs) {
        match blob {
            Some(_) if gone(ino) => {}
            Some(blob) => {
                const SQL: &str = "INSERT OR REPLACE INTO blob VALUES(?1,?2)";
                sql::run(conn, SQL, params![int(ino), &blob[..]])?;
            }
            None if ino >= first_fresh => {}
            None => drop(sql::run(conn, "DELETE FROM blob WHERE ino=?1", [int(ino)])?),
        }
    }
    for (ino, orphan) in sorted(&delta.orphans) {
        match orphan {
            Some(_) if gone(ino) => {}
            Some(detached) => {
                const SQL: &str = "INSERT OR REPLACE INTO orphan VALUES(?1,?2)";
                sql::run(conn, SQL, params![int(ino), detached])?;
            }
            None if ino >= first_fresh => {}
            None => drop(sql::run(conn, "DELETE FROM orphan WHERE ino=?1", [int(ino)])?),
        }
    }
    for (ino, from) in sorted(&delta.cuts) {
        if !gone(ino) {
            remove_sealed(conn, ino, *from, u64::MAX >> 1)?;
        }
    }
    for (ino, row) in sorted(&delta.spooled) {
        match row {
            Some(_) if gone(ino) => {}
            Some(row) => spooled(conn, ino, row)?,
            None if ino >= first_fresh => {}
            None => {
                sql::run(conn, "DELETE FROM dirty_extent WHERE ino=?1", [int(ino)])?;
                sql::run(conn, "DELETE FROM dirty_inode WHERE ino=?1", [int(ino)])?;
            }
        }
    }
    Ok(())
}

fn sorted<T>(rows: &hashbrown::HashMap<Ino, T>) -> Vec<(Ino, &T)> {
    let mut sorted: Vec<_> = rows.iter().map(|(ino, row)| (*ino, row)).collect();
    sorted.sort_unstable_by_key(|row| row.0);
    sorted
}

fn inodes(conn: &Connection, delta: &Delta, first_fresh: Ino) -> Result<()> {
    const TABLES: [&str; 7] = [
        "DELETE FROM inode WHERE ino=?1",
        "DELETE FROM blob WHERE ino=?1",
        "DELETE FROM extent WHERE ino=?1",
        "DELETE FROM xattr WHERE ino=?1",
        "DELETE FROM orphan WHERE ino=?1",
        "DELETE FROM dirty_extent WHERE ino=?1",
        "DELETE FROM dirty_inode WHERE ino=?1",
    ];
    for (ino, inode) in sorted(&delta.inodes) {
        match inode {
            Some(inode) => inode.save(conn)?,
            None if ino >= first_fresh => {}
            None => {
                for sql in TABLES {
                    sql::run(conn, sql, [int(ino)])?;
                }
            }
        }
    }
    Ok(())
}

fn entries(conn: &Connection, delta: &Delta) -> Result<()> {
    let mut rows: Vec<_> = delta.entries.iter().collect();
    rows.sort_unstable_by(|(a, _), (b, _)| (a.parent, &a.name).cmp(&(b.parent, &b.name)));
    for (key, change) in rows {
        match change.now {
            Some(entry) => {
                const SQL: &str = "INSERT INTO dentry VALUES(?1,?2,?3,?4) \
                     ON CONFLICT(parent,name) DO UPDATE SET ino=?3,cookie=?4";
                let (ino, cookie) = (int(entry.ino), int(entry.cookie));
                sql::run(conn, SQL, params![int(key.parent), &key.name[..], ino, cookie])?;
            }
            None if change.fresh => {}
            None => {
                const SQL: &str = "DELETE FROM dentry WHERE parent=?1 AND name=?2";
                sql::run(conn, SQL, params![int(key.parent), &key.name[..]])?;
            }
        }
    }
    Ok(())
}

fn spooled(conn: &Connection, ino: Ino, row: &Spooled) -> Result<()> {
    const FILE: &str = "INSERT OR REPLACE INTO dirty_inode VALUES(?1,?2,?3,?4,?5)";
    const SET: &str = "INSERT OR REPLACE INTO dirty_extent VALUES(?1,?2,?3,?4)";
    let file = params![
        int(ino),
        int(row.generation),
        int(row.sealed_size),
        row.sealed_mtime,
        int(row.sealed_version)
    ];
    let ranges = |row: &Spooled| -> Vec<(u64, u64, u64)> {
        let layers = row.layers.iter();
        layers.flat_map(|(gen_, all)| all.iter().map(|(from, to)| (*gen_, from, to))).collect()
    };
    let now = ranges(row);
    let mut before = Vec::new();
    if now.len() > FEW {
        before = conn.spooled(ino)?.as_ref().map(ranges).unwrap_or_default();
    } else {
        sql::run(conn, "DELETE FROM dirty_extent WHERE ino=?1", [int(ino)])?;
    }
    sql::run(conn, FILE, file)?;
    for (generation, from, _) in missing_from(&before, &now, |range| (range.0, range.1)) {
        const DELETE: &str = "DELETE FROM dirty_extent WHERE ino=?1 AND gen=?2 AND off=?3";
        sql::run(conn, DELETE, params![int(ino), int(generation), int(from)])?;
    }
    for (generation, from, to) in missing_from(&now, &before, |range| range) {
        sql::run(conn, SET, params![int(ino), int(generation), int(from), int(to - from)])?;
    }
    Ok(())
}

/// Those of `these`, which are in order like `those`, whose key is not among the keys of `those`.
fn missing_from<K: Ord>(
    these: &[(u64, u64, u64)],
    those: &[(u64, u64, u64)],
    key: impl Fn((u64, u64, u64)) -> K,
) -> Vec<(u64, u64, u64)> {
    let mut others = those.iter().peekable();
    let mut missing = Vec::new();
    for range in these {
        while others.next_if(|other| key(**other) < key(*range)).is_some() {}
        if others.peek().is_none_or(|other| key(**other) != key(*range)) {
            missing.push(*range);
        }
    }
    missing
}
