//! Making what was acknowledged survive power loss on this host.
//!
//! # Order
//! Spool files that grew, then the database's log where a transaction went there, then the journal:
//! a durable record never names bytes, or follows a transaction, that are not. Then the spool files
//! that nothing durable names any more go.
//!
//! # Who calls
//! Every HTTP write, the guest's `fsync`, and each round of replication. Calls that arrive while
//! a sync runs share the next one.
//!
//! # Failure
//! A sync that failed is final: the kernel may have dropped what it could not write, so a later one
//! that succeeds says nothing. All later calls get the error, until the home is opened again.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex, MutexGuard};
use vfs::Result;

use super::spool::failed;
use crate::meta::tx::Shared;
use crate::meta::writer::{Unsynced, Writer};

/// The group commit.
#[derive(Debug)]
pub(crate) struct Durable {
    wal: File,
    shared: Arc<Shared>,
    rounds: Mutex<Rounds>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct Rounds {
    running: bool,
    started: u64,
    succeeded: u64,
    /// The last change that is durable.
    durable: u64,
    failed: Option<vfs::FsError>,
}

impl Durable {
    /// Over the write-ahead log at `wal`, which exists once the database was written to.
    pub(crate) fn open(wal: &Path, shared: Arc<Shared>) -> Result<Self> {
        let wal = File::open(wal).map_err(failed)?;
        let (rounds, ended) = (Mutex::default(), Condvar::new());
        Ok(Self { wal, shared, rounds, ended })
    }

    /// Returns when everything that `writer` acknowledged before the call is on disk.
    pub(crate) fn sync(&self, writer: &Writer) -> Result<()> {
        let last = writer.last();
        let mut rounds = self.rounds.lock();
        // A round that runs already may have begun before our bytes were there.
        let mine = rounds.started + 1;
        loop {
            if let Some(error) = &rounds.failed {
                return Err(error.clone());
            }
            if rounds.succeeded >= mine || (rounds.durable >= last && last > 0) {
                return Ok(());
            }
            if rounds.running {
                self.ended.wait(&mut rounds);
                continue;
            }
            rounds.running = true;
            rounds.started += 1;
            let round = rounds.started;
            drop(rounds);
            let outcome = self.sync_now(writer);
            let mut garbage = Vec::new();
            rounds = self.rounds.lock();
            rounds.running = false;
            match outcome {
                Ok(done) => {
                    rounds.succeeded = round;
                    rounds.durable = done.journal.upto;
                    garbage = done.garbage;
                }
                Err(error) => {
                    tracing::error!(%error, "the local disk of a home failed to sync");
                    rounds.failed = Some(error);
                }
            }
            self.ended.notify_all();
            if !garbage.is_empty() {
                // Nobody else waits for this, and the caller not long.
                MutexGuard::unlocked(&mut rounds, || self.shared.spool.remove(&garbage));
            }
        }
    }

    /// The same with the database's log, whatever is in it.
    pub(crate) fn sync_database(&self, writer: &Writer) -> Result<()> {
        self.sync(writer)?;
        let synced = self.wal.sync_data().map_err(failed);
        if let Err(error) = &synced {
            self.rounds.lock().failed = Some(error.clone());
        }
        synced
    }

    /// Syncs, and says what is durable now.
    fn sync_now(&self, writer: &Writer) -> Result<Unsynced> {
        let unsynced = writer.unsynced();
        self.shared.spool.sealed(&unsynced.garbage);
        self.shared.spool.sync()?;
        if unsynced.database {
            self.wal.sync_data().map_err(failed)?;
        }
        unsynced.journal.run().map_err(failed)?;
        writer.synced(&unsynced);
        Ok(unsynced)
    }
}
