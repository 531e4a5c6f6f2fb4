//! The published state of a home, read in place.
//!
//! Nothing is downloaded whole: metadata are read page by page through SQLite (`published`), content
//! by range, only what is asked for. A home on the same host that holds exactly this state is used
//! instead; so are its packs and chunks. A snapshot that is read a lot is copied to the local
//! directory in the background, and read from there as soon as the copy is whole.
//!
//! # Invariants
//! - A call sees one commit. [`Snapshot::refresh`] moves to a newer one; calls that run finish on
//!   the one they began with.
//! - What was never sealed by a host that is lost shows as it was last sealed.
//!
//! # Failure
//! The store's errors, of their own kind. A state that is held for longer than a while after newer
//! ones were published may be collected: then calls fail with `Unavailable` until the next refresh.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use base::{ErrorKind, HomeId};
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use rusqlite::Connection;
use vfs::{
    Attr, DirEntry, Errno, Expect, FileSystem, FsError, Graft, Ino, Kind, Owner, Placed,
    RenameFlags, SeekFrom, SetAttr, StatFs, Touched, XattrMode,
};

use crate::data::objects::Objects;
use crate::data::read;
use crate::error::{Error, Result, to_fs};
use crate::layout::HomeDir;
use crate::limits::{REQUESTS_BEFORE_COPY, SNAPSHOT_BLOCK_BYTES, SNAPSHOT_COPY_BYTES_MAX};
use crate::meta::dirs::Dirs;
use crate::meta::inode::Inode;
use crate::meta::readers::Readers;
use crate::nearby;
use crate::opening::Opening;
use crate::published::Published;
use crate::replica::error::Error as LogError;
use crate::replica::fetch::Stored;
use crate::replica::horizon::Moment;
use crate::replica::log::{Head, Log};
use crate::replica::restore::materialise;
use crate::settings::Parts;
use crate::{ops, replica::state::ReplicaState};

/// A home as it was last published. Read-only.
#[derive(Debug)]
pub struct Snapshot {
    shared: Arc<Shared>,
    objects: Objects,
    /// One refresh at a time, and when the state was certainly the newest.
    newest_at: Mutex<Moment>,
}

/// What a copy in the background uses too.
#[derive(Debug)]
struct Shared {
    log: Log,
    parts: Parts,
    dir: HomeDir,
    view: RwLock<Arc<View>>,
    copying: AtomicBool,
    /// Nobody reads any more.
    closed: tokio::sync::Notify,
}

/// One commit.
#[derive(Debug)]
struct View {
    head: Head,
    readers: Readers,
    dirs: Dirs,
    /// Where it is read from, if not from a local file.
    published: Option<Arc<Published>>,
}

impl Snapshot {
    /// Opens the newest commit of a home. `dir` may keep metadata between openings; a clean `home`
    /// beside it saves fetching them.
    ///
    /// # Errors
    /// `NotFound` where there is no such home; those of the store.
    pub fn open_published(home: HomeId, dir: impl AsRef<Path>, parts: Parts) -> Result<Self> {
        let dir = HomeDir::new(dir.as_ref());
        std::fs::create_dir_all(dir.root()).map_err(Error::local("make"))?;
        let log = parts.log(&home);
        let at = Moment::of(parts.clock.as_ref());
        let newest = newest(&log, &parts, known(&dir, &log))?;
        let view = open(&dir, &log, &parts, newest)?;
        let local = nearby::home_beside(dir.root());
        let runtime = parts.runtime.clone();
        let objects = Objects::new(local, log.reader(), runtime, SNAPSHOT_BLOCK_BYTES);
        let (view, copying) = (RwLock::new(Arc::new(view)), AtomicBool::new(false));
        let closed = tokio::sync::Notify::new();
        let shared = Arc::new(Shared { log, parts, dir, view, copying, closed });
        Ok(Self { shared, objects, newest_at: Mutex::new(at) })
    }

    /// The commit it shows.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.view().head.seq
    }

    /// Moves to the newest commit; true where that is another. One small request when it is not.
    ///
    /// # Errors
    /// Those of the store. The snapshot then shows what it showed.
    pub fn refresh(&self) -> Result<bool> {
        let Shared { log, parts, dir, view, .. } = &*self.shared;
        let mut newest_at = self.newest_at.lock();
        let seq = self.seq();
        let at = Moment::of(parts.clock.as_ref());
        if parts.runtime.block_on(log.is_newest(seq, &newest_at))? {
            *newest_at = at;
            return Ok(false);
        }
        let newest = newest(log, parts, Some(seq))?;
        if newest.header().seq == seq {
            return Ok(false);
        }
        let (is_copied, opened) = (known(dir, log).is_some(), open(dir, log, parts, newest)?);
        *view.write() = Arc::new(opened);
        *newest_at = at;
        if is_copied {
            // It is read a lot: bring the copy up to date.
            self.copy();
        }
        Ok(true)
    }

    fn view(&self) -> Arc<View> {
        self.shared.view.read().clone()
    }

    fn with<T>(&self, read: impl FnOnce(&Connection) -> vfs::Result<T>) -> vfs::Result<T> {
        self.viewed(&self.view(), |readers| readers.with(read))
    }

    /// Runs `read`, and has the metadata copied if they are read a lot.
    fn viewed<T>(
        &self,
        view: &View,
        read: impl FnOnce(&Readers) -> vfs::Result<T>,
    ) -> vfs::Result<T> {
        // Only causes of what fails now count.
        drop(sqlite_pages::take_error());
        let result = read(&view.readers);
        let often = |published: &Arc<Published>| published.requests() >= REQUESTS_BEFORE_COPY;
        if view.published.as_ref().is_some_and(often) {
            self.copy();
        }
        result
    }

    /// Content that is not what it must be: damage, or what is left of a state that was collected.
    fn explain(&self, view: &View, error: FsError) -> FsError {
        if error.kind() != ErrorKind::Corrupt {
            return error;
        }
        let (seq, Shared { log, parts, .. }) = (view.head.seq, &*self.shared);
        match parts.runtime.block_on(log.newest(Some(seq))) {
            Ok(Some(newest)) if newest.header().seq == seq => error,
            Ok(_) => to_fs(LogError::Superseded { seq }),
            Err(gone @ LogError::Deleted { .. }) => to_fs(gone),
            Err(_) => error,
        }
    }

    /// Copies the metadata to the local directory, in the background, unless that is being done.
    fn copy(&self) {
        let shared = self.shared.clone();
        let fits = |view: Arc<View>| {
            let bytes = view.published.as_ref().map(|published| published.bytes());
            bytes.is_some_and(|bytes| bytes <= SNAPSHOT_COPY_BYTES_MAX)
        };
        if !fits(self.view()) || shared.copying.swap(true, Ordering::AcqRel) {
            return;
        }
        let runtime = shared.parts.runtime.clone();
        runtime.spawn(async move {
            let copied = tokio::select! {
                copied = copy(&shared) => copied,
                () = shared.closed.notified() => Ok(()),
            };
            if let Err(error) = copied {
                tracing::debug!(%error, "metadata of a published home could not be copied");
            }
            shared.copying.store(false, Ordering::Release);
        });
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        self.shared.closed.notify_one();
    }
}

/// Brings the state that is shown into the local directory, and shows it from there.
async fn copy(shared: &Arc<Shared>) -> Result<()> {
    let view = shared.view.read().clone();
    let lock = lock(&shared.dir)?;
    if lock.try_lock().is_err() {
        // Another snapshot of the home is at it.
        return Ok(());
    }
    let Shared { log, dir, .. } = &**shared;
    let (from, opening) = (known(dir, log), Opening::default());
    materialise(log, Some(view.head.seq), &dir.database(), from, &opening).await?;
    let (from, state) = (shared.clone(), view.clone());
    let done = tokio::task::spawn_blocking(move || {
        note(&from.dir, &from.log, &state.head)?;
        Ok::<_, Error>(Readers::open_immutable(&from.dir.database())?)
    });
    let Ok(readers) = done.await else { return Ok(()) };
    let (head, readers) = (view.head.clone(), readers?);
    let local = View { head, readers, dirs: Dirs::default(), published: None };
    let mut shown = shared.view.write();
    if shown.head.seq == view.head.seq {
        *shown = Arc::new(local);
    }
    Ok(())
}

fn newest(log: &Log, parts: &Parts, hint: Option<u64>) -> Result<Stored> {
    let newest = parts.runtime.block_on(log.newest(hint))?;
    let home = || Error::NoSuchHome { home: log.keys().home().clone() };
    newest.filter(|stored| stored.header().page_count > 0).ok_or_else(home)
}

/// The commit whose metadata are in `dir`.
fn known(dir: &HomeDir, log: &Log) -> Option<u64> {
    let state = ReplicaState::load(&dir.replica_state()).ok().flatten()?;
    let is_noted = state.home == *log.keys().home() && state.clean;
    (is_noted && nearby::may_be(&dir.database(), state.seq)).then_some(state.seq)
}

fn note(dir: &HomeDir, log: &Log, head: &Head) -> Result<()> {
    let (home, holder) = (log.keys().home().clone(), head.holder.clone());
    let state = ReplicaState::new(home, holder, head.epoch, head.nonce.0, head.seq, true);
    Ok(state.save(&dir.replica_state())?)
}

fn lock(dir: &HomeDir) -> Result<File> {
    File::create(dir.lock()).map_err(Error::local("open the lock of"))
}

/// Opens a commit: from a file if there is one that holds it, else in place.
fn open(dir: &HomeDir, log: &Log, parts: &Parts, newest: Stored) -> Result<View> {
    let head = Head::from(newest.header());
    // Another snapshot, of this process or of another, may be changing the files.
    let lock = lock(dir)?;
    if lock.try_lock().is_ok() {
        let beside = nearby::home_beside(dir.root());
        let mut is_here = known(dir, log) == Some(head.seq);
        let size = std::fs::metadata(beside.database()).map_or(u64::MAX, |found| found.len());
        let is_small = size <= SNAPSHOT_COPY_BYTES_MAX;
        if !is_here && is_small && nearby::copy_clean(&beside, log, &head, &dir.database()) {
            note(dir, log, &head)?;
            is_here = true;
        }
        if is_here {
            let readers = Readers::open_immutable(&dir.database())?;
            return Ok(View { head, readers, dirs: Dirs::default(), published: None });
        }
    }
    drop(lock);
    let (state, hints) = parts.runtime.block_on(async {
        let (index, hints) = log.index_and_hints(&newest).await?;
        Ok::<_, Error>((log.merged(&head, (&newest, &index), None).await?, hints))
    })?;
    drop(newest);
    let published = Published::new(log.reader(), parts.runtime.clone(), head.seq, state);
    let published = Arc::new(published);
    let readers = Readers::over(published.clone())?;
    Ok(View { head, readers, dirs: Dirs::read(&hints), published: Some(published) })
}

fn read_only<T>() -> vfs::Result<T> {
    Err(FsError::with(Errno::EROFS, "the published state is read-only; write to a draft"))
}

impl FileSystem for Snapshot {
    fn lookup(&self, parent: Ino, name: &[u8]) -> vfs::Result<Attr> {
        let view = self.view();
        if let Some(found) = view.dirs.lookup(parent, name) {
            return Ok(found.attr());
        }
        self.viewed(&view, |readers| readers.with(|conn| ops::read::lookup(conn, parent, name)))
    }
    fn getattr(&self, ino: Ino) -> vfs::Result<Attr> {
        let view = self.view();
        if let Some(found) = view.dirs.get(ino) {
            return Ok(found.attr());
        }
        self.viewed(&view, |readers| readers.with(|conn| Ok(Inode::get(conn, ino)?.attr())))
    }
    fn readlink(&self, ino: Ino) -> vfs::Result<Vec<u8>> {
        self.with(|conn| ops::read::readlink(conn, ino))
    }
    fn readdir(&self, ino: Ino, cookie: u64, max: usize) -> vfs::Result<Vec<DirEntry>> {
        self.with(|conn| ops::read::readdir(conn, ino, cookie, max))
    }
    fn read(&self, ino: Ino, offset: u64, len: u32) -> vfs::Result<Bytes> {
        let view = self.view();
        let read = |readers: &Readers| read::read(readers, None, &self.objects, ino, offset, len);
        self.viewed(&view, read).map_err(|error| self.explain(&view, error))
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

#[cfg(test)]
mod tests;
