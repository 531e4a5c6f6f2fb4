//! Extended attributes.

use rusqlite::{Connection, params};
use vfs::{Errno, FsError, Ino, Result, XattrMode};

use crate::limits::{XATTR_NAME_BYTES_MAX, XATTR_VALUE_BYTES_MAX, XATTRS_BYTES_MAX};
use crate::meta::inode::Inode;
use crate::meta::sql::{self, int, uint};
use crate::meta::tx::Tx;

/// The value of one.
pub(crate) fn get(conn: &Connection, ino: Ino, name: &[u8]) -> Result<Vec<u8>> {
    const SQL: &str = "SELECT value FROM xattr WHERE ino=?1 AND name=?2";
    match sql::first(conn, SQL, params![int(ino), name], |r| r.get(0))? {
        Some(value) => Ok(value),
        None => {
            Inode::get(conn, ino)?;
            Err(FsError::new(Errno::ENODATA))
        }
    }
}

/// The names of all; [`XATTRS_BYTES_MAX`] bounds them.
pub(crate) fn list(conn: &Connection, ino: Ino) -> Result<Vec<Vec<u8>>> {
    Inode::get(conn, ino)?;
    sql::all(conn, "SELECT name FROM xattr WHERE ino=?1 ORDER BY name", [int(ino)], |r| r.get(0))
}

/// Sets one.
pub(crate) fn set(
    tx: &mut Tx<'_>,
    ino: Ino,
    name: &[u8],
    value: &[u8],
    mode: XattrMode,
) -> Result<()> {
    if name.is_empty() || name.len() > XATTR_NAME_BYTES_MAX || name.contains(&0) {
        return Err(FsError::new(Errno::ERANGE));
    }
    if value.len() > XATTR_VALUE_BYTES_MAX {
        return Err(FsError::with(Errno::ENOSPC, "the attribute's value is over 64 KiB"));
    }
    let mut inode = Inode::get(tx.conn, ino)?;
    let there = get(tx.conn, ino, name);
    match (mode, &there) {
        (XattrMode::Create, Ok(_)) => return Err(FsError::new(Errno::EEXIST)),
        (XattrMode::Replace, Err(error)) => return Err(error.clone()),
        _ => {}
    }
    let replaced = there.map_or(0, |old| (old.len() + name.len()) as u64);
    const SUM: &str = "SELECT COALESCE(sum(length(name)+length(value)),0) FROM xattr WHERE ino=?1";
    let all = sql::first(tx.conn, SUM, [int(ino)], |r| uint(r, 0))?.unwrap_or_default();
    if all - replaced + (name.len() + value.len()) as u64 > XATTRS_BYTES_MAX {
        return Err(FsError::with(Errno::ENOSPC, "its attributes are over 1 MiB in all"));
    }
    tx.check_room()?;
    const SET: &str = "INSERT OR REPLACE INTO xattr VALUES(?1,?2,?3)";
    sql::run(tx.conn, SET, params![int(ino), name, value])?;
    tx.attrs_changed(&mut inode);
    inode.save(tx.conn)
}

/// Removes one.
pub(crate) fn remove(tx: &mut Tx<'_>, ino: Ino, name: &[u8]) -> Result<()> {
    let mut inode = Inode::get(tx.conn, ino)?;
    const SQL: &str = "DELETE FROM xattr WHERE ino=?1 AND name=?2";
    if sql::run(tx.conn, SQL, params![int(ino), name])? == 0 {
        return Err(FsError::new(Errno::ENODATA));
    }
    tx.attrs_changed(&mut inode);
    inode.save(tx.conn)
}
