//! An open home: the engine, and the replicator that keeps the store up to date with it.

use std::fs::{self, File};
use std::sync::Arc;

use base::{Epoch, HomeId, ServerId, SnapshotId};
use parking_lot::Mutex;
use vfs::{FileSystem as _, Ino};

use crate::asks::Asks;
use crate::data::objects::Objects;
use crate::engine::{Engine, Gate, Open};
use crate::error::{Error, Result};
use crate::fork;
use crate::forward::forward_file_system;
use crate::layout::HomeDir;
use crate::limits::HOME_BLOCK_BYTES;
use crate::lineage::{self, Start};
use crate::recover::Mended;
use crate::replica::error::Error as LogError;
use crate::replica::horizon::Moment;
use crate::replica::log::{Head, Log};
use crate::replica::state::ReplicaState;
use crate::replicator::{Begun, Paces, Replicator};
use crate::round::unstored_bytes;
use crate::settings::{HomeSettings, HomeStatus, Opened, Parts, Released, SyncMode};
use crate::snapshots::{self, SnapshotInfo};

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
    /// To look at what is in the store.
    log: Log,
    parts: Parts,
    released: Mutex<Option<Released>>,
    /// Pinned since the home was opened, until it is known who holds them.
    unnamed: Mutex<Vec<Ino>>,
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
    /// `Fenced` where another server holds the home and `take_over` does not cover it; `NotFound` where
    /// there is no such home; `Conflict` where another process has the directory open; `Corrupt`
    /// where content of the home was never stored and is not here; those of the store.
    pub fn open_writer(settings: HomeSettings, parts: Parts) -> Result<(Self, Opened)> {
        let dir = HomeDir::new(&settings.dir);
        fs::create_dir_all(dir.root()).map_err(Error::local("make"))?;
        let lock = lock(&dir)?;
        let mut log = Log::new(parts.store.clone(), parts.clock.clone(), settings.home.clone());
        let start = lineage::begin(&dir, &mut log, &settings, &parts)?;
        let Start { epoch, seq, nonce, recovery, clean, crashed } = start;

        let asks = Asks::new();
        let objects =
            Objects::new(dir.clone(), log.reader(), parts.runtime.clone(), HOME_BLOCK_BYTES);
        let (engine, mended) = Engine::open(Open {
            objects,
            bytes_max: settings.bytes_max,
            clean,
            clock: parts.clock.clone(),
            entropy: parts.entropy.clone(),
            on_commit: asks.on_commit(),
            inodes_cached: settings.inodes_cached,
            unreplicated_bytes_max: settings.unreplicated_bytes_max,
            held: settings.held,
            keep_unnamed: settings.keep_unnamed,
            opening: settings.opening,
        })?;
        let Mended { files_reverted, version, unnamed } = mended;
        let engine = Arc::new(engine);
        let reader = log.reader();
        let replicator = Arc::new(
            Replicator::start(
                log,
                Begun { epoch, seq, crashed },
                engine.clone(),
                parts.runtime.clone(),
                asks,
                Paces {
                    replicate_after: settings.replicate_after,
                    sync_patience: settings.sync_patience,
                    release_patience: settings.release_patience,
                },
            )
            .map_err(Error::local("start the replicator of"))?,
        );
        if settings.sync == SyncMode::Store {
            let barrier = Arc::downgrade(&replicator);
            engine.set_barrier(barrier);
        }
        let HomeSettings { home, holder, .. } = settings;
        let released = Mutex::new(None);
        let opened = Opened { epoch, seq, recovery, crashed, files_reverted, version };
        Ok((
            Self {
                replicator,
                engine,
                dir,
                home,
                holder,
                nonce,
                epoch,
                log: reader,
                parts,
                released,
                unnamed: Mutex::new(unnamed),
                _lock: lock,
            },
            opened,
        ))
    }

    /// Another number for every change of the tree, never one that it had before. Of a home that was
    /// released it is the one that the next [`Opened::version`] tells, as long as nobody changes it.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.engine.writer.version()
    }

    /// It is known by now who holds what has no name, and they have pinned it: the rest is freed. See
    /// [`HomeSettings::keep_unnamed`].
    pub fn let_go_of_unnamed(&self) {
        let unnamed = std::mem::take(&mut *self.unnamed.lock());
        unnamed.into_iter().for_each(|ino| self.engine.unpin(ino));
    }

    /// Lets it hold more bytes, at once. Less than it may hold already changes nothing.
    pub fn grow(&self, bytes_max: u64) {
        self.engine.shared.grow(bytes_max);
        self.engine.writer.look_for_room();
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
            released: said.released.is_some(),
            unreplicated_ops: committed.saturating_sub(said.committed),
            unreplicated_bytes: self.engine.read_database(unstored_bytes).unwrap_or_default(),
            back_pressure: self.engine.pressure.felt(),
            rounds: said.rounds,
            rounds_failed: said.rounds_failed,
            journal_bytes: self.engine.writer.unfolded_bytes(),
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
        self.engine.writer.close()?;
        let (home, holder) = (self.home.clone(), self.holder.clone());
        ReplicaState::new(home, holder, self.epoch, self.nonce, done.seq, true)
            .save(&self.dir.replica_state())?;
        *released = Some(done);
        Ok(done)
    }

    /// Stores everything, and keeps that state. Changes go on meanwhile; those that came before the
    /// call are in it. Called again with the same id, it answers the same.
    ///
    /// # Errors
    /// `Fenced`; `Unavailable` after a while without the store; as [`crate::snapshot`].
    pub fn snapshot(&self, id: &SnapshotId, name: Option<&str>) -> Result<SnapshotInfo> {
        let found = Moment::of(&*self.parts.clock);
        let head = self.stored_head()?;
        let keep = snapshots::keep(&self.parts, &self.log, (&head, &found), id, name);
        self.parts.runtime.block_on(keep)
    }

    /// Stores everything, and keeps that state for the fork `into`; returns its commit.
    /// [`crate::begin_fork`] then makes the fork.
    ///
    /// # Errors
    /// `Fenced`; `Unavailable` after a while without the store; as [`crate::hold_fork`].
    pub fn hold_fork(&self, into: &HomeId) -> Result<u64> {
        let found = Moment::of(&*self.parts.clock);
        let head = self.stored_head()?;
        let hold = fork::hold(&self.parts, &self.log, (&head, &found), into);
        Ok(self.parts.runtime.block_on(hold)?.seq)
    }

    /// Stores everything, and makes `into` a home that goes on from that.
    ///
    /// # Errors
    /// As [`HomeFs::hold_fork`] and [`crate::fork`].
    pub fn fork(&self, into: &HomeId) -> Result<Head> {
        self.hold_fork(into)?;
        let begin = fork::begin_fork(&self.parts, &self.home, into, &self.holder);
        self.parts.runtime.block_on(begin)
    }

    /// Stores everything. The newest commit, which has it, and is the newest of the home at some
    /// moment of this call: of a home that somebody took long ago, what it names may be gone.
    fn stored_head(&self) -> Result<Head> {
        let before = self.replicator.said().seq;
        self.replicator.store_all()?;
        let seq = self.replicator.said().seq;
        if seq == before {
            // There was nothing to store, so it is not known whether this writer still could.
            let next = self.parts.runtime.block_on(self.log.read(seq + 1))?;
            let theirs =
                next.map(|next| next.header().epoch).filter(|theirs| *theirs != self.epoch);
            if let Some(theirs) = theirs {
                return Err(LogError::Fenced { ours: self.epoch, theirs }.into());
            }
        }
        let stored = self.parts.runtime.block_on(self.log.read(seq))?;
        let missing = || LogError::corrupt(self.log.keys().log(seq), "it is missing");
        Ok(Head::from(stored.ok_or_else(missing)?.header()))
    }

    /// Deletes from the store what nothing needs any more, as far as its grace is over, and rewrites
    /// packs that are mostly dead. This also happens by itself, now and then.
    ///
    /// # Errors
    /// Those of the store, and `Fenced`. Nothing that is needed is deleted, whatever the error.
    pub fn collect(&self) -> Result<()> {
        Ok(self.replicator.collect()?)
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

#[cfg(test)]
mod tests;
