//! An open home: the engine, and the replicator that keeps the store up to date with it.

use std::fs::{self, File};
use std::sync::Arc;

use base::{Epoch, HomeId, ServerId};
use parking_lot::Mutex;
use rusqlite::Connection;
use vfs::FileSystem as _;

use crate::asks::Asks;
use crate::data::objects::Objects;
use crate::engine::{Engine, Gate, Open};
use crate::error::{Error, Result};
use crate::forward::forward_file_system;
use crate::layout::HomeDir;
use crate::limits::HOME_BLOCK_BYTES;
use crate::lineage::{self, Start};
use crate::meta::sql::{self, uint};
use crate::replica::log::Log;
use crate::replica::state::ReplicaState;
use crate::replicator::Replicator;
use crate::settings::{HomeSettings, HomeStatus, Opened, Parts, Released, SyncMode};

/// A home that is open for writing. There is one writer of a home at any time; the store decides.
///
/// Dropping it is what a crash is: nothing acknowledged is lost, and the next
/// [`HomeFs::open_writer`] on the same directory goes on. [`HomeFs::release`] gives it up in order.
#[derive(Debug)]
pub struct HomeFs {
    replicator: Arc<Replicator>,
    engine: Arc<Engine>,
    dir: HomeDir,
    home: HomeId,
    holder: ServerId,
    nonce: [u8; 16],
    epoch: Epoch,
    released: Mutex<Option<Released>>,
    /// Held as long as the directory is in use.
    _lock: File,
}

impl HomeFs {
    /// Claims the home and opens it for writing.
    ///
    /// Goes on from the local directory where that is at least as new as the store by the same
    /// line of writers; else starts from the store.
    ///
    /// # Errors
    /// `Fenced` where another server holds the home and `take_over` is not set; `NotFound` where
    /// there is no such home; `Conflict` where another process has the directory open; `Corrupt`
    /// where content of the home was never stored and is not here; those of the store.
    pub fn open_writer(settings: HomeSettings, parts: Parts) -> Result<(Self, Opened)> {
        let dir = HomeDir::new(&settings.dir);
        fs::create_dir_all(dir.root()).map_err(Error::local("make"))?;
        let lock = lock(&dir)?;
        let mut log = Log::new(parts.store.clone(), parts.clock.clone(), settings.home.clone());
        let start = lineage::begin(&dir, &mut log, &settings, &parts)?;
        let Start { epoch, seq, nonce, recovery, clean } = start;

        let asks = Asks::new();
        let objects =
            Objects::new(dir.clone(), log.reader(), parts.runtime.clone(), HOME_BLOCK_BYTES);
        let (engine, files_reverted) = Engine::open(Open {
            objects,
            bytes_max: settings.bytes_max,
            clean,
            clock: parts.clock.clone(),
            entropy: parts.entropy.clone(),
            on_commit: asks.on_commit(),
        })?;
        let engine = Arc::new(engine);
        let replicator = Arc::new(
            Replicator::start(
                log,
                epoch,
                engine.clone(),
                parts.runtime.clone(),
                asks,
                settings.replicate_after,
                seq,
            )
            .map_err(Error::local("start the replicator of"))?,
        );
        if settings.sync == SyncMode::Store {
            let barrier = Arc::downgrade(&replicator);
            engine.set_barrier(barrier);
        }
        let HomeSettings { home, holder, .. } = settings;
        let released = Mutex::new(None);
        let opened = Opened { epoch, seq, recovery, files_reverted };
        Ok((
            Self { replicator, engine, dir, home, holder, nonce, epoch, released, _lock: lock },
            opened,
        ))
    }

    /// How it is doing. Cheap enough to be asked every second.
    #[must_use]
    pub fn status(&self) -> HomeStatus {
        let said = self.replicator.said();
        let committed = self.engine.writer.progress.committed();
        let sizes = self.engine.statfs().unwrap_or_default();
        HomeStatus {
            epoch: self.epoch,
            seq: said.seq,
            fenced: self.engine.gate() == Gate::Fenced,
            released: said.released,
            unreplicated_ops: committed.saturating_sub(said.committed),
            unreplicated_bytes: self.engine.readers.with(unsealed_bytes).unwrap_or_default(),
            replication_error: said.error,
            bytes_max: sizes.bytes_max,
            bytes_used: sizes.bytes_used,
            inodes_used: sizes.inodes_used,
        }
    }

    /// Seals and stores everything and gives the home up. Reads go on; changes are refused from
    /// the moment this is called. Called again, it answers the same.
    ///
    /// # Errors
    /// `Fenced`; `Unavailable` after a while without the store. The home is then still ours and
    /// whole in the local directory: call again, or open it again later.
    pub fn release(&self) -> Result<Released> {
        let mut released = self.released.lock();
        if let Some(released) = *released {
            return Ok(released);
        }
        let done = self.replicator.release()?;
        // Nobody changes the database any more, so it is exactly what the commit has.
        self.engine.writer.between(|thread| thread.pages.close(&thread.conn))??;
        let (home, holder) = (self.home.clone(), self.holder.clone());
        ReplicaState::new(home, holder, self.epoch, self.nonce, done.seq, true)
            .save(&self.dir.replica_state())?;
        *released = Some(done);
        Ok(done)
    }

    /// Ends without giving the home up: local state stays, for the next writer on this host. Does
    /// not wait for the store.
    pub fn stop(&self) {
        self.engine.set_gate(Gate::Closed);
        self.replicator.stop();
        self.engine.writer.stop();
    }

    fn tree(&self) -> &Engine {
        &self.engine
    }
}

impl Drop for HomeFs {
    fn drop(&mut self) {
        self.stop();
    }
}

forward_file_system!(HomeFs);

/// Takes the directory for this process.
pub(crate) fn lock(dir: &HomeDir) -> Result<File> {
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(dir.lock())
        .map_err(Error::local("open the lock of"))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(Error::InUse),
        Err(fs::TryLockError::Error(error)) => Err(Error::local("lock")(error)),
    }
}

/// Bytes of content that are nowhere but here.
fn unsealed_bytes(conn: &Connection) -> vfs::Result<u64> {
    const SQL: &str = "SELECT COALESCE((SELECT sum(len) FROM dirty_extent),0)+\
         COALESCE((SELECT sum(len) FROM pack WHERE place=0),0)+\
         COALESCE((SELECT sum(len) FROM chunk WHERE stored=0),0)";
    Ok(sql::first(conn, SQL, [], |r| uint(r, 0))?.unwrap_or_default())
}
