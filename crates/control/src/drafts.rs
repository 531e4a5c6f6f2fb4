//! Who may do what to the draft of a machine, and to its home while that sleeps.
//!
//! Two locks, since a wake must not wait for what only the draft is about. *The draft's*: writes share it, and whoever makes
//! it visible or throws it away has it alone. *The home's*: nobody else changes it while a draft is applied or a snapshot is
//! restored, and from when a wake passes it on the keeper has it. So a wake waits for one that has begun, and for none that
//! still waits for a slow upload.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use base::{ErrorKind, MachineId};
use catalog::MachineRow;
use parking_lot::Mutex;
use tokio::sync::{OwnedMutexGuard, OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

use crate::files::route;
use crate::limits::TRANSITION_WAIT;
use crate::{Error, Result};

/// Those of all machines, as long as somebody has one.
#[derive(Debug, Default)]
pub(crate) struct Drafts(Mutex<HashMap<MachineId, Weak<Locks>>>);

#[derive(Debug, Default)]
struct Locks {
    draft: Arc<RwLock<()>>,
    home: Arc<tokio::sync::Mutex<()>>,
}

/// A write to the draft that is under way.
#[derive(Debug)]
pub(crate) struct Writing {
    _draft: OwnedRwLockReadGuard<()>,
    _locks: Arc<Locks>,
    waited: bool,
}

/// The draft and the home, alone.
#[derive(Debug)]
pub(crate) struct Alone {
    _home: OwnedMutexGuard<()>,
    _draft: OwnedRwLockWriteGuard<()>,
    _locks: Arc<Locks>,
}

/// The home, for a keeper that is started.
#[derive(Debug)]
pub(crate) struct Waking {
    _home: OwnedMutexGuard<()>,
    _locks: Arc<Locks>,
}

impl Drafts {
    /// A write or a look, beside others.
    pub(crate) async fn write(&self, machine: &MachineId) -> Writing {
        let locks = self.locks(machine);
        match locks.draft.clone().try_read_owned() {
            Ok(draft) => Writing { _draft: draft, _locks: locks, waited: false },
            Err(_) => {
                let draft = locks.draft.clone().read_owned().await;
                Writing { _draft: draft, _locks: locks, waited: true }
            }
        }
    }

    /// Waits for the writes that are under way and for a wake that has begun, and for a slow upload not for ever.
    ///
    /// # Errors
    /// `Unavailable` where that takes too long.
    pub(crate) async fn alone(&self, row: &MachineRow) -> Result<Alone> {
        let locks = self.locks(&row.id);
        let draft = tokio::time::timeout(TRANSITION_WAIT, locks.draft.clone().write_owned());
        let draft = draft.await.map_err(|_| {
            let why =
                format!("files of machine {} are being written; try again in a moment", row.name);
            Error::new(ErrorKind::Unavailable, why).retry_after(1_000)
        })?;
        let home = tokio::time::timeout(TRANSITION_WAIT, locks.home.clone().lock_owned());
        let home = home.await.map_err(|_| route::in_transition(row))?;
        Ok(Alone { _home: home, _draft: draft, _locks: locks })
    }

    /// Waits until nobody changes the home who is not its keeper.
    pub(crate) async fn wake(&self, machine: &MachineId) -> Waking {
        let locks = self.locks(machine);
        Waking { _home: locks.home.clone().lock_owned().await, _locks: locks }
    }

    fn locks(&self, machine: &MachineId) -> Arc<Locks> {
        let mut all = self.0.lock();
        if let Some(locks) = all.get(machine).and_then(Weak::upgrade) {
            return locks;
        }
        all.retain(|_, locks| locks.strong_count() > 0);
        let locks = Arc::new(Locks::default());
        all.insert(machine.clone(), Arc::downgrade(&locks));
        locks
    }
}

impl Writing {
    /// Somebody had the draft alone meanwhile: its machine may be elsewhere than it was.
    pub(crate) fn has_waited(&self) -> bool {
        self.waited
    }
}
