//! Reading names and attributes.

use rusqlite::{Connection, params};
use vfs::{Attr, DirEntry, Errno, FsError, Ino, Kind, Result, SeekFrom, StatFs, check_name};

use crate::data::layers;
use crate::limits::READDIR_ENTRIES_MAX;
use crate::meta::inode::Inode;
use crate::meta::rows::Rows;
use crate::meta::sql::{self, int, uint};

/// The inode behind a name.
pub(crate) fn lookup(rows: &dyn Rows, parent: Ino, name: &[u8]) -> Result<Attr> {
    check_name(name)?;
    match rows.entry(parent, name)? {
        Some(entry) => Ok(rows.get(entry.ino)?.attr()),
        None => {
            rows.get_dir(parent)?;
            Err(FsError::new(Errno::ENOENT))
        }
    }
}

/// Entries of a directory after `cookie`, of a state that nobody changes.
pub(crate) fn readdir(
    conn: &Connection,
    ino: Ino,
    cookie: u64,
    max: usize,
) -> Result<Vec<DirEntry>> {
    const SQL: &str = "SELECT d.name,d.cookie,i.ino,i.kind,i.perm,i.nlink,i.uid,i.gid,i.rdev,\
         i.size,i.alloc,i.atime,i.mtime,i.ctime,i.btime,i.version,i.tier,i.parent \
         FROM dentry d JOIN inode i ON i.ino=d.ino WHERE d.parent=?1 AND d.cookie>?2 \
         ORDER BY d.cookie LIMIT ?3";
    conn.get_dir(ino)?;
    let max = max.min(READDIR_ENTRIES_MAX) as u64;
    sql::all(conn, SQL, params![int(ino), int(cookie), int(max)], |r| {
        let attr = Inode::from_row(r, 2)?.attr();
        Ok(DirEntry { name: r.get(0)?, attr, cookie: uint(r, 1)? })
    })
}

/// What a symbolic link points at.
pub(crate) fn readlink(rows: &dyn Rows, ino: Ino) -> Result<Vec<u8>> {
    if rows.get(ino)?.kind != Kind::Symlink {
        return Err(FsError::new(Errno::EINVAL));
    }
    let target = rows.blob(ino)?.ok_or_else(|| {
        let detail = "the target of a symbolic link is missing";
        FsError::of_kind(base::ErrorKind::Corrupt, Errno::EIO, detail)
    })?;
    Ok(target.to_vec())
}

/// Sizes of the whole tree.
pub(crate) fn statfs(conn: &Connection, bytes_max: u64) -> Result<StatFs> {
    let get = |name: &str| {
        sql::first(conn, "SELECT value FROM kv WHERE name=?1", [name], |r| uint(r, 0))
            .map(Option::unwrap_or_default)
    };
    Ok(StatFs { bytes_max, bytes_used: get("bytes_used")?, inodes_used: get("inodes_used")? })
}

/// `SEEK_DATA` and `SEEK_HOLE`.
pub(crate) fn seek(rows: &dyn Rows, ino: Ino, from: SeekFrom) -> Result<u64> {
    let inode = rows.get_file(ino)?;
    let (SeekFrom::Data(at) | SeekFrom::Hole(at)) = from;
    if at >= inode.size {
        return Err(FsError::new(Errno::ENXIO));
    }
    let found = match from {
        SeekFrom::Data(_) => next_data(rows, ino, at, inode.size)?,
        SeekFrom::Hole(_) => Some(next_hole(rows, ino, at, inode.size)?),
    };
    found.ok_or(FsError::new(Errno::ENXIO))
}

/// The first byte at or after `at` that is no hole.
fn next_data(rows: &dyn Rows, ino: Ino, at: u64, size: u64) -> Result<Option<u64>> {
    let spooled = rows.spooled(ino)?;
    let layers = spooled.iter().flat_map(|row| &row.layers);
    let written = layers.filter_map(|(_, ranges)| ranges.within(at, size).next()).map(|r| r.0);
    let sealed = layers::sealed(rows, ino, at, size)?.first().map(|piece| piece.off);
    Ok(written.chain(sealed).min())
}

/// The first byte at or after `at` that is a hole.
fn next_hole(rows: &dyn Rows, ino: Ino, at: u64, size: u64) -> Result<u64> {
    let mut hole = at;
    for piece in layers::pieces(rows, ino, at, size)? {
        if piece.off != hole {
            break;
        }
        hole = piece.end();
    }
    Ok(hole.min(size))
}
