//! What the replicator is asked for, and by whom.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use vfs::{Ino, Result};

use crate::meta::writer::OnCommit;
use crate::round::Which;
use crate::settings::Released;

/// What the thread is asked for.
pub(crate) enum Ask {
    /// Something changed.
    Changed,
    /// Make this, or all, survive the loss of this host.
    Sync(Option<Ino>, Waiter),
    /// Collect garbage now.
    Collect(flume::Sender<Result<()>>),
    /// Give the home up.
    Release(flume::Sender<Result<Released>>),
    /// Go away as you are.
    Stop,
}

/// Someone who waits for a sync, and until when at most while the store is away.
pub(crate) struct Waiter {
    pub(crate) reply: flume::Sender<Result<()>>,
    pub(crate) until: Instant,
}

/// The way to the thread, made before it so that the engine can be given one end.
pub(crate) struct Asks {
    pub(crate) sender: flume::Sender<Ask>,
    pub(crate) receiver: flume::Receiver<Ask>,
    /// A nudge is on its way; one is enough.
    pub(crate) nudged: Arc<AtomicBool>,
}

impl Asks {
    /// A new one.
    pub(crate) fn new() -> Self {
        let (sender, receiver) = flume::unbounded();
        Self { sender, receiver, nudged: Arc::default() }
    }

    /// What the engine calls after each transaction that changed something.
    pub(crate) fn on_commit(&self) -> OnCommit {
        let (sender, nudged) = (self.sender.clone(), self.nudged.clone());
        Box::new(move || {
            if !nudged.swap(true, Ordering::AcqRel) {
                sender.send(Ask::Changed).ok();
            }
        })
    }
}

/// What a round seals for those who wait. `pressed`: writers are held up.
pub(crate) fn which(waiters: &[(Option<Ino>, Waiter)], release: bool, pressed: bool) -> Which {
    if release || pressed || waiters.iter().any(|(ino, _)| ino.is_none()) {
        return Which::All;
    }
    if waiters.is_empty() {
        return Which::Quiet;
    }
    let mut inodes: Vec<Ino> = waiters.iter().filter_map(|(ino, _)| *ino).collect();
    inodes.sort_unstable();
    inodes.dedup();
    Which::These(inodes)
}
