//! The engine: one home's tree on this host, without any thought of the store.
//!
//! An awake home and a draft are both this; they differ in who replicates it.

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use base::{Clock, Entropy, ErrorKind};
use parking_lot::RwLock;
use rusqlite::Connection;
use vfs::{Errno, FsError, Ino, Result};

use crate::data::durable::Durable;
use crate::data::objects::Objects;
use crate::data::pack::sync_directory_of;
use crate::data::seal::Sealer;
use crate::data::spool::Spool;
use crate::draft::ground::Ground;
use crate::front::Front;
use crate::heat::Heat;
use crate::layout::wal_of;
use crate::meta::tx::{Shared, Tx};
use crate::meta::writer::{OnCommit, Start, Writer};
use crate::opening::Opening;
use crate::pressure::Pressure;
use crate::recover::Mended;
use crate::whole::Whole;
use crate::{local_copies, recover};

/// Whether changes are let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gate {
    /// All calls.
    Open,
    /// Reads; another writer owns the home. Final.
    Fenced,
    /// Reads; the home was released or published.
    Closed,
}

/// Makes an inode, or everything, survive the loss of this host.
pub(crate) trait Barrier: Send + Sync + std::fmt::Debug {
    /// Returns when it does.
    fn sync(&self, ino: Option<Ino>) -> Result<()>;
}

/// One home's tree on this host.
#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) writer: Writer,
    /// The newest state.
    pub(crate) front: Arc<Front>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) objects: Objects,
    pub(crate) durable: Durable,
    pub(crate) heat: Heat,
    pub(crate) pressure: Pressure,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
    /// Callers that wait for a round.
    waiting: AtomicUsize,
    gate: RwLock<Gate>,
    barrier: OnceLock<Weak<dyn Barrier>>,
    /// Of a draft, whose home others may collect.
    ground: OnceLock<Ground>,
}

/// What [`Engine::open`] needs. The database exists and is the right one.
pub(crate) struct Open {
    pub(crate) objects: Objects,
    pub(crate) bytes_max: u64,
    /// The store has everything that the database has.
    pub(crate) clean: bool,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) on_commit: OnCommit,
    /// Inodes kept in memory.
    pub(crate) inodes_cached: usize,
    /// The most bytes of content that only this host has; no bound for a tree that nobody replicates.
    pub(crate) unreplicated_bytes_max: u64,
    /// Pinned once before anything is freed.
    pub(crate) held: Vec<Ino>,
    /// So is what has no name.
    pub(crate) keep_unnamed: bool,
    /// Grows meanwhile.
    pub(crate) opening: Opening,
}

impl Engine {
    /// Opens the tree in the directory of `open.objects` and mends what a crash left there.
    pub(crate) fn open(open: Open) -> Result<(Self, Mended)> {
        let Open { objects, bytes_max, clean, clock, entropy, on_commit, .. } = open;
        let Open { inodes_cached, unreplicated_bytes_max, held, keep_unnamed, opening, .. } = open;
        let dir = objects.dir.clone();
        for path in [dir.packs_dir(), dir.chunks_dir()] {
            std::fs::create_dir_all(path).map_err(crate::data::spool::failed)?;
        }
        let spool = Spool::open(dir.spool_dir()).map_err(crate::data::spool::failed)?;
        let whole = Whole::default();
        if !clean {
            whole.note_all();
        }
        let shared = Arc::new(Shared::new(spool, bytes_max, whole));
        held.into_iter().for_each(|ino| shared.pins.pin(ino));
        let database = dir.database();
        let start = Start {
            dir,
            clean,
            shared: shared.clone(),
            clock: clock.clone(),
            on_commit,
            inodes_cached,
            opening: opening.clone(),
        };
        let writer = Writer::start(start)?;
        let front = writer.front();
        let mended = recover::mend(&writer, &front, &shared, keep_unnamed, &opening)?;
        front.readers.with(|conn| recover::check_objects(conn, &objects))?;
        recover::sweep(&front, &shared, &objects, &opening)?;
        let durable = Durable::open(&wal_of(&database), shared.clone())?;
        // All that was made here by now: a log that is synced and has no name is lost.
        sync_directory_of(&database)?;
        let engine = Self {
            writer,
            front,
            shared,
            objects,
            durable,
            heat: Heat::default(),
            pressure: Pressure::new(unreplicated_bytes_max),
            clock,
            entropy,
            waiting: AtomicUsize::new(0),
            gate: RwLock::new(Gate::Open),
            barrier: OnceLock::new(),
            ground: OnceLock::new(),
        };
        Ok((engine, mended))
    }

    /// Who makes changes survive the loss of this host. Set once, before the first call.
    pub(crate) fn set_barrier(&self, barrier: Weak<dyn Barrier>) {
        self.barrier.set(barrier).ok();
    }

    /// Who does, if anyone.
    pub(crate) fn barrier(&self) -> Option<Arc<dyn Barrier>> {
        self.barrier.get().and_then(Weak::upgrade)
    }

    /// What a draft stands on. Set once, before the first call.
    pub(crate) fn set_ground(&self, ground: Ground) {
        self.ground.set(ground).ok();
    }

    /// Counts a caller that waits for a round, until what this returns is dropped.
    pub(crate) fn wait_for_round(&self) -> Waits<'_> {
        self.waiting.fetch_add(1, Ordering::AcqRel);
        Waits(self)
    }

    /// True while somebody waits for a round: what can wait lets it go first.
    pub(crate) fn is_waited_for(&self) -> bool {
        self.waiting.load(Ordering::Acquire) > 0
    }

    /// Sets whether changes are let in, and returns when all that were let in before are done.
    /// A fence is never taken back.
    pub(crate) fn set_gate(&self, gate: Gate) {
        if gate != Gate::Open {
            self.pressure.close();
        }
        let mut current = self.gate.write();
        if *current != Gate::Fenced {
            *current = gate;
        }
    }

    /// Whether changes are let in.
    pub(crate) fn gate(&self) -> Gate {
        *self.gate.read()
    }

    /// Runs a change, if changes are let in. It may be run more than once.
    pub(crate) fn change<T>(&self, change: impl Fn(&mut Tx<'_>) -> Result<T>) -> Result<T> {
        let Some(ground) = self.ground.get().filter(|ground| !ground.is_held()) else {
            return self.let_in(change);
        };
        let bears = Cell::new(false);
        let done = self.let_in(|tx| {
            bears.set(false);
            let done = change(tx)?;
            bears.set(ground.bears(tx)?);
            if bears.get() { Err(FsError::new(Errno::EAGAIN)) } else { Ok(done) }
        });
        if !bears.get() {
            return done;
        }
        ground.hold()?;
        self.let_in(change)
    }

    fn let_in<T>(&self, change: impl Fn(&mut Tx<'_>) -> Result<T>) -> Result<T> {
        let gate = self.gate.read();
        match *gate {
            Gate::Open => self.writer.change(change),
            Gate::Fenced => Err(fenced()),
            Gate::Closed => Err(FsError::with(Errno::EROFS, "the home is not open for writing")),
        }
    }

    /// Returns when everything acknowledged before the call survives power loss on this host.
    pub(crate) fn sync_here(&self) -> Result<()> {
        self.durable.sync(&self.writer)
    }

    /// Reads the database as it is with everything acknowledged before the call.
    pub(crate) fn read_database<T>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T>,
    ) -> Result<T> {
        self.writer.drain()?;
        self.front.readers.consistent(read)
    }

    /// Keeps local copies of stored content within bounds.
    pub(crate) fn prune_local_copies(&self) {
        let pruned = self.front.readers.with(|conn| local_copies::prune(conn, &self.objects));
        if let Err(error) = pruned {
            tracing::warn!(%error, "local copies of the home could not be pruned");
        }
    }

    /// Seals these inodes into packs named with `epoch`.
    pub(crate) fn seal(&self, inodes: Vec<Ino>, epoch: u64) -> Result<()> {
        let sealer = Sealer {
            writer: &self.writer,
            readers: &self.front.readers,
            shared: &self.shared,
            objects: &self.objects,
            entropy: self.entropy.as_ref(),
            clock: self.clock.as_ref(),
            epoch,
            keeps_copies: self.ground.get().is_some(),
        };
        sealer.seal(inodes)
    }

    /// Says more of why content cannot be read, where that is known.
    pub(crate) fn explain(&self, error: FsError) -> FsError {
        match self.ground.get() {
            Some(ground) => ground.explain(error),
            None => error,
        }
    }
}

/// See [`Engine::wait_for_round`].
pub(crate) struct Waits<'a>(&'a Engine);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The error of a writer that lost the home.
pub(crate) fn fenced() -> FsError {
    FsError::of_kind(
        ErrorKind::Fenced,
        Errno::EIO,
        "another writer has taken this home; nothing more is written here",
    )
}
