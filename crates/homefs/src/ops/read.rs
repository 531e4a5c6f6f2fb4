//! Reading names and attributes.

use rusqlite::{Connection, params};
use vfs::{Attr, DirEntry, Errno, FsError, Ino, Kind, Result, SeekFrom, StatFs, check_name};

use crate::data::layers;
use crate::limits::READDIR_ENTRIES_MAX;
use crate::meta::inode::Inode;
use crate::meta::sql::{self, int, uint};

/// The inode behind a name.
pub(crate) fn lookup(conn: &Connection, parent: Ino, name: &[u8]) -> Result<Attr> {
    check_name(name)?;
    match Inode::lookup(conn, parent, name)? {
        Some(inode) => Ok(inode.attr()),
        None => {
            Inode::get_dir(conn, parent)?;
            Err(FsError::new(Errno::ENOENT))
        }
    }
}

/// Entries of a directory after `cookie`.
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
    Inode::get_dir(conn, ino)?;
    let max = max.min(READDIR_ENTRIES_MAX) as u64;
    sql::all(conn, SQL, params![int(ino), int(cookie), int(max)], |r| {
        let attr = Inode::from_row(r, 2)?.attr();
        Ok(DirEntry { name: r.get(0)?, attr, cookie: uint(r, 1)? })
    })
}

/// What a symbolic link points at.
pub(crate) fn readlink(conn: &Connection, ino: Ino) -> Result<Vec<u8>> {
    if Inode::get(conn, ino)?.kind != Kind::Symlink {
        return Err(FsError::new(Errno::EINVAL));
    }
    let target = sql::first(conn, "SELECT data FROM blob WHERE ino=?1", [int(ino)], |r| r.get(0))?;
    target.ok_or_else(|| {
        let detail = "the target of a symbolic link is missing";
        FsError::of_kind(base::ErrorKind::Corrupt, Errno::EIO, detail)
    })
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
pub(crate) fn seek(conn: &Connection, ino: Ino, from: SeekFrom) -> Result<u64> {
    let inode = Inode::get_file(conn, ino)?;
    let (SeekFrom::Data(at) | SeekFrom::Hole(at)) = from;
    if at >= inode.size {
        return Err(FsError::new(Errno::ENXIO));
    }
    let found = match from {
        SeekFrom::Data(_) => next_data(conn, ino, at)?.filter(|data| *data < inode.size),
        SeekFrom::Hole(_) => Some(next_hole(conn, ino, at)?.min(inode.size)),
    };
    found.ok_or(FsError::new(Errno::ENXIO))
}

/// The first byte at or after `at` that is no hole.
fn next_data(conn: &Connection, ino: Ino, at: u64) -> Result<Option<u64>> {
    if !layers::pieces(conn, ino, at, at + 1)?.is_empty() {
        return Ok(Some(at));
    }
    const SQL: &str = "SELECT min(off) FROM (\
         SELECT (SELECT min(off) FROM extent WHERE ino=?1 AND off>?2) AS off UNION ALL \
         SELECT min(off) FROM dirty_extent WHERE ino=?1 AND off>?2)";
    let next = sql::first(conn, SQL, params![int(ino), int(at)], |r| r.get::<_, Option<i64>>(0))?;
    Ok(next.flatten().and_then(|off| u64::try_from(off).ok()))
}

/// The first byte at or after `at` that is a hole.
fn next_hole(conn: &Connection, ino: Ino, at: u64) -> Result<u64> {
    const STEP: u64 = 1 << 30;
    let mut hole = at;
    loop {
        let pieces = layers::pieces(conn, ino, hole, hole + STEP)?;
        let start = hole;
        for piece in &pieces {
            if piece.off != hole {
                return Ok(hole);
            }
            hole = piece.end();
        }
        if hole < start + STEP {
            return Ok(hole);
        }
    }
}
