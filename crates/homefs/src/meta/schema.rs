//! The shape of `home.db`, and how a connection to it is set up.
//!
//! Content of small files is in `blob`, apart from `inode`, so that attribute changes do not
//! rewrite content pages. `extent` says where sealed content is, `dirty_extent` which bytes are
//! still in the local spool: a later generation lies over an earlier one, and all over `extent`
//! and `blob`. `dirty_inode` keeps what a reader elsewhere goes by as long as the spool is local.

use std::path::Path;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use vfs::{Errno, FsError, Result};

use super::sql::failed;

/// Goes up with every change that older code cannot read.
pub(crate) const FORMAT: i64 = 1;
/// Bytes of a database page. Deltas are made of these.
pub(crate) const PAGE_BYTES: u32 = 4_096;

const DDL: &str = "
CREATE TABLE inode(
  ino INTEGER PRIMARY KEY, kind INTEGER NOT NULL, perm INTEGER NOT NULL, nlink INTEGER NOT NULL,
  uid INTEGER NOT NULL, gid INTEGER NOT NULL, rdev INTEGER NOT NULL, size INTEGER NOT NULL,
  alloc INTEGER NOT NULL, atime INTEGER NOT NULL, mtime INTEGER NOT NULL, ctime INTEGER NOT NULL,
  btime INTEGER NOT NULL, version INTEGER NOT NULL, tier INTEGER NOT NULL, parent INTEGER NOT NULL
) STRICT;
CREATE TABLE dentry(
  parent INTEGER NOT NULL, name BLOB NOT NULL, ino INTEGER NOT NULL, cookie INTEGER NOT NULL,
  PRIMARY KEY(parent, name)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX dentry_cookie ON dentry(parent, cookie);
CREATE TABLE blob(ino INTEGER PRIMARY KEY, data BLOB NOT NULL) STRICT;
CREATE TABLE extent(
  ino INTEGER NOT NULL, off INTEGER NOT NULL, len INTEGER NOT NULL,
  pack INTEGER, digest BLOB, src INTEGER NOT NULL, PRIMARY KEY(ino, off)
) STRICT, WITHOUT ROWID;
CREATE TABLE pack(
  id INTEGER PRIMARY KEY, epoch INTEGER NOT NULL, len INTEGER NOT NULL, place INTEGER NOT NULL,
  seq INTEGER NOT NULL
) STRICT;
CREATE INDEX pack_local ON pack(id) WHERE place = 0;
CREATE TABLE chunk(
  digest BLOB PRIMARY KEY, len INTEGER NOT NULL, stored INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX chunk_local ON chunk(digest) WHERE stored = 0;
CREATE TABLE xattr(
  ino INTEGER NOT NULL, name BLOB NOT NULL, value BLOB NOT NULL, PRIMARY KEY(ino, name)
) STRICT, WITHOUT ROWID;
CREATE TABLE orphan(ino INTEGER PRIMARY KEY, detached INTEGER NOT NULL) STRICT;
CREATE TABLE dirty_inode(
  ino INTEGER PRIMARY KEY, gen INTEGER NOT NULL, sealed_size INTEGER NOT NULL,
  sealed_mtime INTEGER NOT NULL, sealed_version INTEGER NOT NULL
) STRICT;
CREATE TABLE dirty_extent(
  ino INTEGER NOT NULL, gen INTEGER NOT NULL, off INTEGER NOT NULL, len INTEGER NOT NULL,
  PRIMARY KEY(ino, gen, off)
) STRICT, WITHOUT ROWID;
CREATE TABLE kv(name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
";

/// Writes the tables and the root directory into an empty database. `now` in nanoseconds.
pub(crate) fn create(conn: &Connection, now: i64) -> Result<()> {
    conn.execute_batch(&format!("PRAGMA page_size={PAGE_BYTES}; BEGIN; {DDL}")).map_err(failed)?;
    conn.execute("INSERT INTO inode VALUES(1,4,493,2,0,0,0,0,0,?1,?1,?1,?1,1,0,1)", [now])
        .map_err(failed)?;
    conn.execute_batch(&format!(
        "INSERT INTO kv VALUES('format',{FORMAT}),('next_ino',2),('next_cookie',1),('version',1),\
         ('bytes_used',0),('inodes_used',1),('store_seq',0); COMMIT;"
    ))
    .map_err(failed)
}

/// A new, empty home as the bytes of a database file.
pub(crate) fn image(now: i64) -> Result<Vec<u8>> {
    let mut conn = Connection::open_in_memory().map_err(failed)?;
    create(&conn, now)?;
    let mut image = conn.serialize("main").map_err(failed)?.to_vec();
    // The file format's read and write version: 2 is WAL. Memory has no log, so it says 1.
    if let Some(versions) = image.get_mut(18..20) {
        versions.fill(2);
    }
    Ok(image)
}

/// The connection that writes. Nothing is synced by SQLite itself: see `data::durable`.
pub(crate) fn open_writer(path: &Path) -> Result<Connection> {
    let conn = Connection::open(path).map_err(failed)?;
    conn.execute_batch(&format!(
        "PRAGMA page_size={PAGE_BYTES}; PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF; \
         PRAGMA wal_autocheckpoint=0; PRAGMA cache_size=-16384; PRAGMA busy_timeout=10000; \
         PRAGMA foreign_keys=OFF; PRAGMA temp_store=MEMORY;"
    ))
    .map_err(failed)?;
    prepare(&conn)?;
    Ok(conn)
}

/// A connection that only reads.
pub(crate) fn open_reader(path: &Path) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags).map_err(failed)?;
    conn.execute_batch("PRAGMA cache_size=-4096; PRAGMA busy_timeout=10000; PRAGMA query_only=ON;")
        .map_err(failed)?;
    prepare(&conn)?;
    Ok(conn)
}

/// A connection to a database file that nobody changes as long as it is open.
pub(crate) fn open_immutable(path: &Path) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_URI;
    let conn = Connection::open_with_flags(immutable_uri(path)?, flags).map_err(failed)?;
    conn.execute_batch("PRAGMA cache_size=-4096; PRAGMA query_only=ON;").map_err(failed)?;
    conn.set_prepared_statement_cache_capacity(128);
    Ok(conn)
}

/// The path as a URI that tells SQLite to look for no log and take no locks.
pub(crate) fn immutable_uri(path: &Path) -> Result<String> {
    use std::fmt::Write as _;
    use std::os::unix::ffi::OsStrExt as _;

    let mut uri = "file:".to_owned();
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'_' | b'.' => {
                uri.push(char::from(*byte));
            }
            other => write!(uri, "%{other:02X}").map_err(|_| FsError::new(Errno::EIO))?,
        }
    }
    uri.push_str("?immutable=1");
    Ok(uri)
}

fn prepare(conn: &Connection) -> Result<()> {
    conn.set_prepared_statement_cache_capacity(128);
    // Closing must not move pages about: it would do so without syncing anything.
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map_err(failed)?;
    Ok(())
}

/// Refuses a database that this code does not understand.
pub(crate) fn check(conn: &Connection) -> Result<()> {
    let found = super::sql::first(conn, "SELECT value FROM kv WHERE name='format'", [], |r| {
        r.get::<_, i64>(0)
    })?;
    if found == Some(FORMAT) {
        return Ok(());
    }
    Err(FsError::of_kind(
        base::ErrorKind::Unsupported,
        Errno::EIO,
        format!("the home has format {found:?}, this server reads {FORMAT}; use a newer server"),
    ))
}
