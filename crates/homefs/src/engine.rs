//! The engine: one home's tree on this host, without any thought of the store.
//!
//! An awake home and a draft are both this; they differ in who replicates it.

use std::path::Path;
use std::sync::{Arc, OnceLock, Weak};

use base::{Clock, Entropy, ErrorKind};
use parking_lot::RwLock;
use vfs::{Errno, FsError, Ino, Result};

use crate::data::durable::Durable;
use crate::data::objects::Objects;
use crate::data::seal::Sealer;
use crate::data::spool::Spool;
use crate::heat::Heat;
use crate::layout::wal_of;
use crate::meta::readers::Readers;
use crate::meta::tx::{Shared, Tx};
use crate::meta::writer::{OnCommit, Start, Writer};
use crate::pins::Pins;
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
    pub(crate) readers: Readers,
    pub(crate) shared: Arc<Shared>,
    pub(crate) objects: Objects,
    pub(crate) durable: Durable,
    pub(crate) heat: Heat,
    pub(crate) clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    gate: RwLock<Gate>,
    barrier: OnceLock<Weak<dyn Barrier>>,
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
}

impl Engine {
    /// Opens the tree in the directory of `open.objects` and mends what a crash left there.
    /// With it: how many files fell back to their sealed content.
    pub(crate) fn open(open: Open) -> Result<(Self, u64)> {
        let Open { objects, bytes_max, clean, clock, entropy, on_commit } = open;
        let dir = objects.dir.clone();
        for path in [dir.packs_dir(), dir.chunks_dir()] {
            std::fs::create_dir_all(path).map_err(crate::data::spool::failed)?;
        }
        let spool = Spool::open(dir.spool_dir()).map_err(crate::data::spool::failed)?;
        let shared = Arc::new(Shared { pins: Pins::default(), spool, bytes_max });
        let database = dir.database();
        let start = Start {
            database: database.clone(),
            clean,
            shared: shared.clone(),
            clock: clock.clone(),
            on_commit,
        };
        let writer = Writer::start(start)?;
        let readers = Readers::open(&database)?;
        let lost = recover::mend(&writer, &shared)?;
        readers.with(|conn| recover::check_objects(conn, &objects))?;
        readers.with(|conn| recover::sweep(conn, &shared, &objects))?;
        let durable = open_durable(&database, &shared, &writer)?;
        let engine = Self {
            writer,
            readers,
            shared,
            objects,
            durable,
            heat: Heat::default(),
            clock,
            entropy,
            gate: RwLock::new(Gate::Open),
            barrier: OnceLock::new(),
        };
        Ok((engine, lost))
    }

    /// Who makes changes survive the loss of this host. Set once, before the first call.
    pub(crate) fn set_barrier(&self, barrier: Weak<dyn Barrier>) {
        self.barrier.set(barrier).ok();
    }

    /// Who does, if anyone.
    pub(crate) fn barrier(&self) -> Option<Arc<dyn Barrier>> {
        self.barrier.get().and_then(Weak::upgrade)
    }

    /// Sets whether changes are let in, and returns when all that were let in before are done.
    /// A fence is never taken back.
    pub(crate) fn set_gate(&self, gate: Gate) {
        let mut current = self.gate.write();
        if *current != Gate::Fenced {
            *current = gate;
        }
    }

    /// Whether changes are let in.
    pub(crate) fn gate(&self) -> Gate {
        *self.gate.read()
    }

    /// Runs a change, if changes are let in.
    pub(crate) fn change<T: Send + 'static>(
        &self,
        change: impl FnOnce(&mut Tx<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let gate = self.gate.read();
        match *gate {
            Gate::Open => self.writer.run(change),
            Gate::Fenced => Err(fenced()),
            Gate::Closed => Err(FsError::with(Errno::EROFS, "the home is not open for writing")),
        }
    }

    /// Keeps local copies of stored content within bounds.
    pub(crate) fn prune_local_copies(&self) {
        let pruned = self.readers.with(|conn| local_copies::prune(conn, &self.objects));
        if let Err(error) = pruned {
            tracing::warn!(%error, "local copies of the home could not be pruned");
        }
    }

    /// Seals these inodes into packs named with `epoch`.
    pub(crate) fn seal(&self, inodes: Vec<Ino>, epoch: u64) -> Result<()> {
        let sealer = Sealer {
            writer: &self.writer,
            readers: &self.readers,
            shared: &self.shared,
            objects: &self.objects,
            entropy: self.entropy.as_ref(),
            epoch,
        };
        sealer.seal(inodes)
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

fn open_durable(database: &Path, shared: &Arc<Shared>, writer: &Writer) -> Result<Durable> {
    Durable::open(
        &wal_of(database),
        shared.clone(),
        writer.progress.clone(),
        writer.garbage.clone(),
    )
}
