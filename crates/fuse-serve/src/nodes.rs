//! What the kernel on the other side holds: inodes by lookup count.
//!
//! # Invariants
//! - An inode is pinned in the file system exactly while its count is above 0, so that a file that
//!   was unlinked while open stays readable.
//! - A node id is the inode's number; the root has no count and is never forgotten.
//! - At most `limit` inodes; past it a new one is refused and nothing is pinned.
//!
//! # Invalidation and lookups that race
//! A lookup reads attributes first and counts the inode after; an invalidation for an inode that is
//! not counted is not sent. [`Nodes::generation`] closes the gap: it changes with every
//! invalidation, and a lookup that sees it change reads the attributes again.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use vfs::{FileSystem, Ino, ROOT};

/// More inodes are held than the session allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Full;

#[derive(Debug, Clone, Copy, Default)]
struct Node {
    count: u64,
    /// Known to have no `security.capability`, so that writes need not look.
    no_capability: bool,
}

/// The table of one session.
#[derive(Debug)]
pub(crate) struct Nodes {
    table: Mutex<HashMap<Ino, Node>>,
    generation: AtomicU64,
    limit: usize,
}

impl Nodes {
    pub(crate) fn new(limit: usize) -> Self {
        Self { table: Mutex::default(), generation: AtomicU64::new(0), limit }
    }

    /// Takes over what an earlier session of the same kernel held, and pins it.
    pub(crate) fn restore(&self, fs: &dyn FileSystem, held: &[(Ino, u64)]) {
        let mut table = self.table.lock();
        for &(ino, count) in held.iter().take(self.limit) {
            if ino == ROOT || count == 0 {
                continue;
            }
            if table.insert(ino, Node { count, no_capability: false }).is_none() {
                fs.pin(ino);
            }
        }
    }

    /// Inodes and counts, ordered, for [`restore`](Self::restore).
    pub(crate) fn held(&self) -> Vec<(Ino, u64)> {
        let mut held: Vec<_> =
            self.table.lock().iter().map(|(ino, node)| (*ino, node.count)).collect();
        held.sort_unstable();
        held
    }

    /// Changes with every invalidation.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }

    /// An invalidation begins: lookups under way must read again, and what is known about `inodes`
    /// is forgotten.
    pub(crate) fn bump(&self, inodes: &[Ino]) {
        self.generation.fetch_add(1, Ordering::SeqCst);
        let mut table = self.table.lock();
        for ino in inodes {
            if let Some(node) = table.get_mut(ino) {
                node.no_capability = false;
            }
        }
    }

    /// True where the kernel may know `ino`.
    pub(crate) fn holds(&self, ino: Ino) -> bool {
        ino == ROOT || self.table.lock().contains_key(&ino)
    }

    /// Counts one more lookup of `ino`.
    pub(crate) fn add(&self, fs: &dyn FileSystem, ino: Ino) -> Result<(), Full> {
        if ino == ROOT {
            return Ok(());
        }
        let mut table = self.table.lock();
        let room = table.len() < self.limit;
        match table.entry(ino) {
            Entry::Occupied(mut node) => {
                let count = &mut node.get_mut().count;
                *count = count.saturating_add(1);
            }
            Entry::Vacant(place) if room => {
                // Under the lock, so that nobody uses the inode before it is pinned.
                fs.pin(ino);
                place.insert(Node { count: 1, no_capability: false });
            }
            Entry::Vacant(_) => return Err(Full),
        }
        Ok(())
    }

    /// Takes `count` lookups back. Too many are as good as all.
    pub(crate) fn forget(&self, fs: &dyn FileSystem, ino: Ino, count: u64) {
        {
            let mut table = self.table.lock();
            let Some(node) = table.get_mut(&ino) else { return };
            node.count = node.count.saturating_sub(count);
            if node.count > 0 {
                return;
            }
            table.remove(&ino);
        }
        // Not under the lock: the last unpin of an orphan frees its content. Pins are counted, so
        // a lookup that comes in between does no harm.
        fs.unpin(ino);
    }

    /// Forgets everything: the kernel unmounted, or is gone.
    pub(crate) fn clear(&self, fs: &dyn FileSystem) {
        let table = std::mem::take(&mut *self.table.lock());
        for ino in table.into_keys() {
            fs.unpin(ino);
        }
    }

    /// True where `ino` is known to have no capability to lose.
    pub(crate) fn has_no_capability(&self, ino: Ino) -> bool {
        self.table.lock().get(&ino).is_some_and(|node| node.no_capability)
    }

    /// Remembers whether `ino` has no capability, where it is held.
    pub(crate) fn set_no_capability(&self, ino: Ino, none: bool) {
        if let Some(node) = self.table.lock().get_mut(&ino) {
            node.no_capability = none;
        }
    }
}
