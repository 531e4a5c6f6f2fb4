//! Extended attributes.

use base::ErrorKind;
use rusqlite::{Connection, params};
use vfs::{Errno, FsError, Ino, Result, XattrMode};

use crate::limits::{XATTR_NAME_BYTES_MAX, XATTR_VALUE_BYTES_MAX, XATTRS_BYTES_MAX};
use crate::meta::rows::Rows as _;
use crate::meta::sql::{self, int, uint};
use crate::meta::tx::Tx;

/// The value of one, of an inode that `conn` has.
pub(crate) fn get(conn: &Connection, ino: Ino, name: &[u8]) -> Result<Vec<u8>> {
    conn.get(ino)?;
    value_of(conn, ino, name)
}

/// The value of one. The caller knows that the inode exists.
pub(crate) fn value_of(conn: &Connection, ino: Ino, name: &[u8]) -> Result<Vec<u8>> {
    const SQL: &str = "SELECT value FROM xattr WHERE ino=?1 AND name=?2";
    let value = sql::first(conn, SQL, params![int(ino), name], |r| r.get(0))?;
    value.ok_or(FsError::new(Errno::ENODATA))
}

/// The names of all, of an inode that `conn` has.
pub(crate) fn list(conn: &Connection, ino: Ino) -> Result<Vec<Vec<u8>>> {
    conn.get(ino)?;
    names(conn, ino)
}

/// The names of all; [`XATTRS_BYTES_MAX`] bounds them. The caller knows that the inode exists.
pub(crate) fn names(conn: &Connection, ino: Ino) -> Result<Vec<Vec<u8>>> {
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
        return Err(too_large("an extended attribute has a value of more than 64 KiB"));
    }
    let mut inode = tx.get(ino)?;
    let there = value_of(tx.sql()?, ino, name);
    match (mode, &there) {
        (XattrMode::Create, Ok(_)) => return Err(FsError::new(Errno::EEXIST)),
        (XattrMode::Replace, Err(error)) => return Err(error.clone()),
        _ => {}
    }
    let replaced = there.map_or(0, |old| (old.len() + name.len()) as u64);
    const SUM: &str = "SELECT COALESCE(sum(length(name)+length(value)),0) FROM xattr WHERE ino=?1";
    let all = sql::first(tx.sql()?, SUM, [int(ino)], |r| uint(r, 0))?.unwrap_or_default();
    if all - replaced + (name.len() + value.len()) as u64 > XATTRS_BYTES_MAX {
        return Err(too_large("its extended attributes have more than 1 MiB in all"));
    }
    tx.check_room()?;
    const SET: &str = "INSERT OR REPLACE INTO xattr VALUES(?1,?2,?3)";
    sql::run(tx.sql()?, SET, params![int(ino), name, value])?;
    tx.attrs_changed(&mut inode);
    tx.save(&inode);
    Ok(())
}

/// As Linux says it, whose errno is that of a full disk, which this is not.
fn too_large(why: &str) -> FsError {
    FsError::of_kind(ErrorKind::TooLarge, Errno::ENOSPC, why)
}

/// Removes one.
pub(crate) fn remove(tx: &mut Tx<'_>, ino: Ino, name: &[u8]) -> Result<()> {
    let mut inode = tx.get(ino)?;
    const SQL: &str = "DELETE FROM xattr WHERE ino=?1 AND name=?2";
    if sql::run(tx.sql()?, SQL, params![int(ino), name])? == 0 {
        return Err(FsError::new(Errno::ENODATA));
    }
    tx.attrs_changed(&mut inode);
    tx.save(&inode);
    Ok(())
}
