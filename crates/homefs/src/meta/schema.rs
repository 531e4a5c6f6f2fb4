//! The shape of `home.db`, and how a connection to it is set up.
//!
//! Content of small files is in `blob`, apart from `inode`, so that attribute changes do not
//! rewrite content pages. `extent` says where sealed content is, `dirty_extent` which bytes are
//! still in the local spool: a later generation lies over an earlier one, and all over `extent`
//! and `blob`. `dirty_inode` keeps what a reader elsewhere goes by as long as the spool is local.
//!
//! # What is alive
//! `pack.live` counts the bytes of a pack that extents name, `chunk.refs` the extents that name a
//! chunk. Triggers on `extent` keep both, so they are right in every transaction, whoever writes it;
//! `REPLACE` fires them only with `recursive_triggers`, which every connection that writes has set.
//! What nothing names moves to `grave`, where it waits until it may be deleted (`garbage`).
//! `born` is the commit that stored something first: 0 in what format 1 stored, whose chunks have
//! names without it, and in what is not stored yet.
//!
//! # Formats
//! 1: without what the section above names. A writer brings such a database forward in one
//! transaction ([`migrate`]); a reader sees it through temporary views ([`adapt`]).

use std::path::Path;
use std::sync::Arc;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use vfs::{Errno, FsError, Result};

use super::sql::failed;

/// Goes up with every change that older code cannot read.
pub(crate) const FORMAT: i64 = 2;
/// The oldest that is still read.
const FORMAT_OLDEST: i64 = 1;
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
  seq INTEGER NOT NULL, born INTEGER NOT NULL DEFAULT 0, live INTEGER NOT NULL DEFAULT 0,
  blocks BLOB
) STRICT;
CREATE INDEX pack_local ON pack(id) WHERE place = 0;
CREATE TABLE chunk(
  digest BLOB PRIMARY KEY, len INTEGER NOT NULL, stored INTEGER NOT NULL,
  born INTEGER NOT NULL DEFAULT 0, refs INTEGER NOT NULL DEFAULT 0, blocks BLOB
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

/// What format 2 has besides: graves, what finds the dead, and who counts the living.
const DDL_GARBAGE: &str = "
CREATE TABLE grave(
  key TEXT PRIMARY KEY, born INTEGER NOT NULL, died INTEGER NOT NULL, bytes INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX pack_dead ON pack(id) WHERE live = 0;
CREATE INDEX chunk_dead ON chunk(digest) WHERE refs = 0;
CREATE TRIGGER extent_added AFTER INSERT ON extent BEGIN
  UPDATE pack SET live=live+NEW.len WHERE id=NEW.pack;
  UPDATE chunk SET refs=refs+1 WHERE digest=NEW.digest;
END;
CREATE TRIGGER extent_removed AFTER DELETE ON extent BEGIN
  UPDATE pack SET live=live-OLD.len WHERE id=OLD.pack;
  UPDATE chunk SET refs=refs-1 WHERE digest=OLD.digest;
END;
CREATE TRIGGER extent_changed AFTER UPDATE OF len, pack, digest ON extent BEGIN
  UPDATE pack SET live=live-OLD.len WHERE id=OLD.pack;
  UPDATE chunk SET refs=refs-1 WHERE digest=OLD.digest;
  UPDATE pack SET live=live+NEW.len WHERE id=NEW.pack;
  UPDATE chunk SET refs=refs+1 WHERE digest=NEW.digest;
END;
";

/// Format 1 to 2. What is live is counted from the extents there are.
const MIGRATE_1: &str = "
ALTER TABLE pack ADD COLUMN born INTEGER NOT NULL DEFAULT 0;
ALTER TABLE pack ADD COLUMN live INTEGER NOT NULL DEFAULT 0;
ALTER TABLE pack ADD COLUMN blocks BLOB;
ALTER TABLE chunk ADD COLUMN born INTEGER NOT NULL DEFAULT 0;
ALTER TABLE chunk ADD COLUMN refs INTEGER NOT NULL DEFAULT 0;
ALTER TABLE chunk ADD COLUMN blocks BLOB;
UPDATE pack SET live=e.live FROM
  (SELECT pack,sum(len) AS live FROM extent WHERE pack IS NOT NULL GROUP BY pack) e
  WHERE e.pack=pack.id;
UPDATE chunk SET refs=e.refs FROM
  (SELECT digest,count(*) AS refs FROM extent WHERE digest IS NOT NULL GROUP BY digest) e
  WHERE e.digest=chunk.digest;
";

/// Format 1 as if it were 2, for reading. Temporary views stand before tables of the same name.
const VIEWS_1: &str = "
CREATE TEMP VIEW pack AS
  SELECT id,epoch,len,place,seq,0 AS born,len AS live,NULL AS blocks FROM main.pack;
CREATE TEMP VIEW chunk AS
  SELECT digest,len,stored,0 AS born,1 AS refs,NULL AS blocks FROM main.chunk;
CREATE TEMP VIEW grave AS
  SELECT '' AS key,0 AS born,0 AS died,0 AS bytes WHERE 0;
";

/// Temporary views over what only the host that was lost could read.
const VIEWS_SEALED: &str = "
CREATE TEMP VIEW inode AS
  SELECT i.ino,i.kind,i.perm,i.nlink,i.uid,i.gid,i.rdev,COALESCE(d.sealed_size,i.size) AS size,
    i.alloc,i.atime,COALESCE(d.sealed_mtime,i.mtime) AS mtime,i.ctime,i.btime,
    COALESCE(d.sealed_version,i.version) AS version,i.tier,i.parent
  FROM main.inode i LEFT JOIN main.dirty_inode d ON d.ino=i.ino;
CREATE TEMP VIEW dirty_extent AS SELECT * FROM main.dirty_extent WHERE 0;
CREATE TEMP VIEW dirty_inode AS SELECT * FROM main.dirty_inode WHERE 0;
";

/// Writes the tables and the root directory into an empty database. `now` in nanoseconds.
pub(crate) fn create(conn: &Connection, now: i64) -> Result<()> {
    conn.execute_batch(&format!("PRAGMA page_size={PAGE_BYTES}; BEGIN; {DDL} {DDL_GARBAGE}"))
        .map_err(failed)?;
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

/// The connection that writes. Commits are synced by `data::durable`. SQLite itself syncs where its log
/// begins anew (`synchronous=NORMAL`): with the old header still on disk, a power loss would leave a mix of
/// old and new frames, and recovery would play the old ones over a newer database.
pub(crate) fn open_writer(path: &Path) -> Result<Connection> {
    let conn = Connection::open(path).map_err(failed)?;
    conn.execute_batch(&format!(
        "PRAGMA page_size={PAGE_BYTES}; PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; \
         PRAGMA wal_autocheckpoint=0; PRAGMA cache_size=-16384; PRAGMA busy_timeout=10000; \
         PRAGMA foreign_keys=OFF; PRAGMA recursive_triggers=ON; PRAGMA temp_store=MEMORY;"
    ))
    .map_err(failed)?;
    prepare(&conn)?;
    Ok(conn)
}

/// A connection that only reads.
pub(crate) fn open_reader(path: &Path) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags).map_err(failed)?;
    conn.execute_batch("PRAGMA cache_size=-4096; PRAGMA busy_timeout=10000;").map_err(failed)?;
    adapt(&conn)?;
    prepare(&conn)?;
    Ok(conn)
}

/// A connection to a database file that nobody changes as long as it is open.
pub(crate) fn open_immutable(path: &Path) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_URI;
    let conn = Connection::open_with_flags(immutable_uri(path)?, flags).map_err(failed)?;
    conn.execute_batch("PRAGMA cache_size=-4096;").map_err(failed)?;
    adapt(&conn)?;
    conn.set_prepared_statement_cache_capacity(128);
    Ok(conn)
}

/// A connection to a state that no file holds.
pub(crate) fn open_pages(pages: Arc<dyn sqlite_pages::Pages>) -> Result<Connection> {
    let conn = sqlite_pages::open(pages).map_err(failed)?;
    conn.execute_batch("PRAGMA cache_size=-4096;").map_err(failed)?;
    adapt(&conn)?;
    conn.set_prepared_statement_cache_capacity(128);
    Ok(conn)
}

/// Makes a connection show files whose newest content never left a host, which is lost, as they
/// were last sealed.
pub(crate) fn show_sealed(conn: &Connection) -> Result<()> {
    let dirty = "SELECT 1 FROM dirty_inode LIMIT 1";
    if super::sql::first(conn, dirty, [], |_| Ok(()))?.is_none() {
        return Ok(());
    }
    conn.execute_batch(&format!("PRAGMA query_only=OFF; {VIEWS_SEALED} PRAGMA query_only=ON;"))
        .map_err(failed)
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
    let found = format(conn)?;
    if found.is_some_and(|found| (FORMAT_OLDEST..=FORMAT).contains(&found)) {
        return Ok(());
    }
    Err(FsError::of_kind(
        base::ErrorKind::Unsupported,
        Errno::EIO,
        format!(
            "the home has format {found:?}, this server reads {FORMAT_OLDEST} to {FORMAT}; \
             use a newer server"
        ),
    ))
}

fn format(conn: &Connection) -> Result<Option<i64>> {
    super::sql::first(conn, "SELECT value FROM kv WHERE name='format'", [], |r| r.get(0))
}

/// The commit that this database was last sent with, or was about to be; never more than that of the
/// state it holds. `None` of what is no home.
pub(crate) fn store_seq(conn: &Connection) -> Result<Option<u64>> {
    let seq = "SELECT value FROM kv WHERE name='store_seq'";
    super::sql::first(conn, seq, [], |r| super::sql::uint(r, 0))
}

/// False of a database of format 1.
pub(crate) fn has_graves(conn: &Connection) -> Result<bool> {
    Ok(format(conn)? > Some(1))
}

/// Brings a database that was checked to the format of this code, on the connection that writes.
/// True where that changed anything: those pages are then to be stored like any others. The
/// transaction is whole or not there, so a crash leaves one of the two formats.
pub(crate) fn migrate(conn: &Connection) -> Result<bool> {
    if format(conn)? != Some(1) {
        return Ok(false);
    }
    let batch = format!(
        "BEGIN IMMEDIATE; {MIGRATE_1} {DDL_GARBAGE} \
         UPDATE kv SET value={FORMAT} WHERE name='format'; COMMIT;"
    );
    conn.execute_batch(&batch).map_err(failed).inspect_err(|_| {
        super::sql::run(conn, "ROLLBACK", []).ok();
    })?;
    tracing::info!("brought the metadata of a home from format 1 to {FORMAT}");
    Ok(true)
}

/// Makes an older format readable as this one, and the connection one that only reads. A database
/// that cannot be read, or is of no known format, is left to [`check`].
pub(crate) fn adapt(conn: &Connection) -> Result<()> {
    if let Ok(Some(1)) = format(conn) {
        conn.execute_batch(VIEWS_1).map_err(failed)?;
    }
    conn.execute_batch("PRAGMA query_only=ON;").map_err(failed)
}

#[cfg(test)]
mod tests;
