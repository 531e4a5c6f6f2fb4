//! The published state of a home, read in place.
//!
//! Metadata is brought into a local file once and then moved along by what changed; content is
//! fetched by range, only what is asked for. Local packs and chunks of a home on the same host are
//! used where they are.
//!
//! # Invariants
//! - A call sees one commit. [`Snapshot::refresh`] moves to a newer one; calls that run finish on
//!   the one they began with.
//! - What was never sealed by a host that is lost shows as it was last sealed.

use std::path::Path;
use std::sync::Arc;

use base::HomeId;
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use rusqlite::Connection;
use vfs::{
    Attr, DirEntry, Errno, Expect, FileSystem, FsError, Graft, Ino, Kind, Owner, Placed,
    RenameFlags, SeekFrom, SetAttr, StatFs, Touched, XattrMode,
};

use crate::data::objects::Objects;
use crate::data::read;
use crate::error::{Error, Result};
use crate::layout::{HomeDir, temporary_of};
use crate::limits::SNAPSHOT_BLOCK_BYTES;
use crate::meta::inode::Inode;
use crate::meta::readers::Readers;
use crate::meta::schema;
use crate::meta::sql;
use crate::nearby;
use crate::recover;
use crate::replica::log::{Head, Log};
use crate::settings::Parts;
use crate::{ops, replica::state::ReplicaState};

/// A home as it was last published. Read-only.
#[derive(Debug)]
pub struct Snapshot {
    log: Log,
    parts: Parts,
    dir: HomeDir,
    objects: Objects,
    view: RwLock<Arc<View>>,
    /// One refresh at a time; the lock guards the files in `dir`.
    refreshing: Mutex<()>,
}

/// One commit.
#[derive(Debug)]
struct View {
    seq: u64,
    readers: Readers,
}

impl Snapshot {
    /// Opens the newest commit of a home. `dir` keeps metadata between openings; a clean `home`
    /// beside it saves fetching them.
    ///
    /// # Errors
    /// `NotFound` where there is no such home; those of the store.
    pub fn open_published(home: HomeId, dir: impl AsRef<Path>, parts: Parts) -> Result<Self> {
        let dir = HomeDir::new(dir.as_ref());
        std::fs::create_dir_all(dir.root()).map_err(Error::local("make"))?;
        let log = Log::new(parts.store.clone(), parts.clock.clone(), home);
        let head = newest(&log, &parts, known(&dir, &log))?;
        let view = RwLock::new(Arc::new(fetch(&dir, &log, &parts, &head)?));
        let local = nearby::home_beside(dir.root());
        let runtime = parts.runtime.clone();
        let objects = Objects::new(local, log.reader(), runtime, SNAPSHOT_BLOCK_BYTES);
        Ok(Self { log, parts, dir, objects, view, refreshing: Mutex::new(()) })
    }

    /// The commit it shows.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.view().seq
    }

    /// Moves to the newest commit; true where that is another. A few requests when it is not.
    ///
    /// # Errors
    /// Those of the store. The snapshot then shows what it showed.
    pub fn refresh(&self) -> Result<bool> {
        let _one = self.refreshing.lock();
        let seq = self.seq();
        let head = newest(&self.log, &self.parts, Some(seq))?;
        if head.seq == seq {
            return Ok(false);
        }
        let view = fetch(&self.dir, &self.log, &self.parts, &head)?;
        *self.view.write() = Arc::new(view);
        Ok(true)
    }

    fn view(&self) -> Arc<View> {
        self.view.read().clone()
    }

    fn with<T>(&self, read: impl FnOnce(&Connection) -> vfs::Result<T>) -> vfs::Result<T> {
        self.view().readers.with(read)
    }
}

fn newest(log: &Log, parts: &Parts, hint: Option<u64>) -> Result<Head> {
    let head = parts.runtime.block_on(log.head(hint))?;
    let home = || Error::NoSuchHome { home: log.keys().home().clone() };
    head.filter(|head| head.page_count > 0).ok_or_else(home)
}

/// The commit whose metadata are in `dir`.
fn known(dir: &HomeDir, log: &Log) -> Option<u64> {
    let state = ReplicaState::load(&dir.replica_state()).ok().flatten()?;
    (state.home == *log.keys().home() && state.clean && dir.database().exists())
        .then_some(state.seq)
}

/// Brings the metadata of `head` into `dir` and opens them.
fn fetch(dir: &HomeDir, log: &Log, parts: &Parts, head: &Head) -> Result<View> {
    // Another snapshot of this process or of another may be bringing the same files up to date.
    let lock = std::fs::File::create(dir.lock()).map_err(Error::local("open the lock of"))?;
    lock.lock().map_err(Error::local("lock"))?;
    let known = known(dir, log);
    parts.runtime.block_on(nearby::fetch(log, head, &dir.database(), known))?;
    if known != Some(head.seq) {
        let (home, holder) = (log.keys().home().clone(), head.holder.clone());
        ReplicaState::new(home, holder, head.epoch, head.nonce.0, head.seq, true)
            .save(&dir.replica_state())?;
    }
    let settled = settled(dir)?;
    let readers = Readers::open_immutable(settled.as_deref().unwrap_or(&dir.database()))?;
    Ok(View { seq: head.seq, readers })
}

/// A copy in which files whose host was lost are as they were last sealed; `None` where there are
/// none of those.
fn settled(dir: &HomeDir) -> Result<Option<std::path::PathBuf>> {
    let conn = schema::open_immutable(&dir.database())?;
    if sql::first(&conn, "SELECT 1 FROM dirty_inode LIMIT 1", [], |_| Ok(()))?.is_none() {
        return Ok(None);
    }
    let path = dir.root().join("settled.db");
    let temporary = temporary_of(&path);
    nearby::copy(&dir.database(), &temporary)?;
    let conn = Connection::open(&temporary).map_err(sql::failed)?;
    conn.execute_batch("PRAGMA journal_mode=DELETE; BEGIN;").map_err(sql::failed)?;
    recover::settle(&conn)?;
    conn.execute_batch("COMMIT;").map_err(sql::failed)?;
    drop(conn);
    std::fs::rename(&temporary, &path).map_err(Error::local("prepare a copy in"))?;
    Ok(Some(path))
}

fn read_only<T>() -> vfs::Result<T> {
    Err(FsError::with(Errno::EROFS, "the published state is read-only; write to a draft"))
}

impl FileSystem for Snapshot {
    fn lookup(&self, parent: Ino, name: &[u8]) -> vfs::Result<Attr> {
        self.with(|conn| ops::read::lookup(conn, parent, name))
    }
    fn getattr(&self, ino: Ino) -> vfs::Result<Attr> {
        self.with(|conn| Ok(Inode::get(conn, ino)?.attr()))
    }
    fn readlink(&self, ino: Ino) -> vfs::Result<Vec<u8>> {
        self.with(|conn| ops::read::readlink(conn, ino))
    }
    fn readdir(&self, ino: Ino, cookie: u64, max: usize) -> vfs::Result<Vec<DirEntry>> {
        self.with(|conn| ops::read::readdir(conn, ino, cookie, max))
    }
    fn read(&self, ino: Ino, offset: u64, len: u32) -> vfs::Result<Bytes> {
        read::read(&self.view().readers, None, &self.objects, ino, offset, len)
    }
    fn seek(&self, ino: Ino, from: SeekFrom) -> vfs::Result<u64> {
        self.with(|conn| ops::read::seek(conn, ino, from))
    }
    fn getxattr(&self, ino: Ino, name: &[u8]) -> vfs::Result<Vec<u8>> {
        self.with(|conn| ops::xattrs::get(conn, ino, name))
    }
    fn listxattr(&self, ino: Ino) -> vfs::Result<Vec<Vec<u8>>> {
        self.with(|conn| ops::xattrs::list(conn, ino))
    }
    fn statfs(&self) -> vfs::Result<StatFs> {
        self.with(|conn| {
            let used = ops::read::statfs(conn, 0)?;
            Ok(StatFs { bytes_max: used.bytes_used, ..used })
        })
    }

    // Nothing here is ever freed, so nothing needs to be kept.
    fn pin(&self, _: Ino) {}
    fn unpin(&self, _: Ino) {}
    // All of it is in the store.
    fn sync_local(&self) -> vfs::Result<()> {
        Ok(())
    }
    fn sync(&self, _: Option<Ino>) -> vfs::Result<()> {
        Ok(())
    }

    fn setattr(&self, _: Ino, _: &SetAttr) -> vfs::Result<Attr> {
        read_only()
    }
    fn mknod(&self, _: Ino, _: &[u8], _: Kind, _: u32, _: Owner, _: u32) -> vfs::Result<Attr> {
        read_only()
    }
    fn symlink(&self, _: Ino, _: &[u8], _: &[u8], _: Owner) -> vfs::Result<Attr> {
        read_only()
    }
    fn link(&self, _: Ino, _: Ino, _: &[u8]) -> vfs::Result<Attr> {
        read_only()
    }
    fn unlink(&self, _: Ino, _: &[u8]) -> vfs::Result<()> {
        read_only()
    }
    fn rmdir(&self, _: Ino, _: &[u8]) -> vfs::Result<()> {
        read_only()
    }
    fn rename(&self, _: Ino, _: &[u8], _: Ino, _: &[u8], _: RenameFlags) -> vfs::Result<()> {
        read_only()
    }
    fn write(&self, _: Ino, _: u64, _: &[u8]) -> vfs::Result<()> {
        read_only()
    }
    fn fallocate(&self, _: Ino, _: u32, _: u64, _: u64) -> vfs::Result<()> {
        read_only()
    }
    fn setxattr(&self, _: Ino, _: &[u8], _: &[u8], _: XattrMode) -> vfs::Result<()> {
        read_only()
    }
    fn removexattr(&self, _: Ino, _: &[u8]) -> vfs::Result<()> {
        read_only()
    }
    fn create_detached(&self, _: Kind, _: u32, _: Owner) -> vfs::Result<Attr> {
        read_only()
    }
    fn place(&self, _: Ino, _: Ino, _: &[&[u8]], _: Expect) -> vfs::Result<Placed> {
        read_only()
    }
    fn graft(&self, _: &Graft<'_>) -> vfs::Result<Touched> {
        read_only()
    }
}
