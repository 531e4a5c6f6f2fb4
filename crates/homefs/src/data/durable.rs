//! Making what was acknowledged survive power loss on this host.
//!
//! # Order
//! Spool files that grew, then the write-ahead log: a durable row never names bytes that are not.
//! Then the spool files that nothing durable names any more go.
//!
//! # Who calls
//! Every HTTP write, the guest's `fsync`, and each round of replication. Calls that arrive while
//! a sync runs share the next one.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};
use vfs::Result;

use super::spool::failed;
use crate::meta::tx::Shared;
use crate::meta::writer::{Progress, SpoolGarbage};

/// The group commit.
#[derive(Debug)]
pub(crate) struct Durable {
    wal: File,
    shared: Arc<Shared>,
    progress: Arc<Progress>,
    garbage: Arc<SpoolGarbage>,
    rounds: Mutex<Rounds>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct Rounds {
    running: bool,
    started: u64,
    succeeded: u64,
    failed: Option<(u64, vfs::FsError)>,
}

impl Durable {
    /// Over the write-ahead log at `wal`, which exists once the database was written to.
    pub(crate) fn open(
        wal: &Path,
        shared: Arc<Shared>,
        progress: Arc<Progress>,
        garbage: Arc<SpoolGarbage>,
    ) -> Result<Self> {
        let wal = File::open(wal).map_err(failed)?;
        let (rounds, ended) = (Mutex::default(), Condvar::new());
        Ok(Self { wal, shared, progress, garbage, rounds, ended })
    }

    /// Returns when everything acknowledged before the call is on disk.
    pub(crate) fn sync(&self) -> Result<()> {
        let mut rounds = self.rounds.lock();
        // A round that runs already may have begun before our bytes were there.
        let mine = rounds.started + 1;
        loop {
            if rounds.succeeded >= mine {
                return Ok(());
            }
            if let Some((round, error)) = &rounds.failed
                && *round >= mine
            {
                return Err(error.clone());
            }
            if rounds.running {
                self.ended.wait(&mut rounds);
                continue;
            }
            rounds.running = true;
            rounds.started += 1;
            let round = rounds.started;
            drop(rounds);
            let outcome = self.sync_now();
            rounds = self.rounds.lock();
            rounds.running = false;
            match outcome {
                Ok(()) => rounds.succeeded = round,
                Err(error) => rounds.failed = Some((round, error)),
            }
            self.ended.notify_all();
        }
    }

    fn sync_now(&self) -> Result<()> {
        let durable = self.progress.committed();
        self.shared.spool.sync()?;
        self.wal.sync_data().map_err(failed)?;
        let mut gone = Vec::new();
        self.garbage.lock().retain(|(number, id)| {
            let keep = *number > durable;
            if !keep {
                gone.push(*id);
            }
            keep
        });
        for id in gone {
            self.shared.spool.remove(id);
        }
        Ok(())
    }
}
