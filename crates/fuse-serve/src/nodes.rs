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

/// A lookup count, and in the lowest bit whether the inode is known to have no
/// `security.capability`, so that writes need not look. In one word: there may be millions.
#[derive(Debug, Clone, Copy)]
struct Node(u64);

impl Node {
    /// Counted this often; what a count cannot hold is held for ever.
    fn new(count: u64, no_capability: bool) -> Self {
        Self(count.min(u64::MAX >> 1) << 1 | u64::from(no_capability))
    }

    fn count(self) -> u64 {
        self.0 >> 1
    }

    fn set_count(&mut self, count: u64) {
        *self = Self::new(count, self.has_no_capability());
    }

    fn has_no_capability(self) -> bool {
        self.0 & 1 != 0
    }

    fn set_no_capability(&mut self, known: bool) {
        *self = Self::new(self.count(), known);
    }
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
            if table.insert(ino, Node::new(count, false)).is_none() {
                fs.pin(ino);
            }
        }
    }

    /// How many inodes are held.
    pub(crate) fn count(&self) -> usize {
        self.table.lock().len()
    }

    /// Inodes and counts, ordered, for [`restore`](Self::restore).
    pub(crate) fn held(&self) -> Vec<(Ino, u64)> {
        let mut held: Vec<_> =
            self.table.lock().iter().map(|(ino, node)| (*ino, node.count())).collect();
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
                node.set_no_capability(false);
            }
        }
    }

    /// True where the kernel may know `ino`.
    pub(crate) fn holds(&self, ino: Ino) -> bool {
        ino == ROOT || self.table.lock().contains_key(&ino)
    }

    /// Counts one more lookup of `ino`. `made_since`: it was made after this generation was read, so
    /// that it has no capability unless an invalidation has come since.
    pub(crate) fn add(
        &self,
        fs: &dyn FileSystem,
        ino: Ino,
        made_since: Option<u64>,
    ) -> Result<(), Full> {
        if ino == ROOT {
            return Ok(());
        }
        let mut table = self.table.lock();
        let room = table.len() < self.limit;
        match table.entry(ino) {
            Entry::Occupied(mut node) => {
                let node = node.get_mut();
                node.set_count(node.count().saturating_add(1));
            }
            Entry::Vacant(place) if room => {
                // Under the lock, so that nobody uses the inode before it is pinned.
                fs.pin(ino);
                let no_capability = made_since == Some(self.generation());
                place.insert(Node::new(1, no_capability));
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
            node.set_count(node.count().saturating_sub(count));
            if node.count() > 0 {
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
        self.table.lock().get(&ino).is_some_and(|node| node.has_no_capability())
    }

    /// Remembers that `ino` has no capability, where it is held and no invalidation began since
    /// `generation`, from before that was found out.
    pub(crate) fn found_no_capability(&self, ino: Ino, generation: u64) {
        let mut table = self.table.lock();
        // An invalidation raises the number before it takes the lock.
        if self.generation() == generation
            && let Some(node) = table.get_mut(&ino)
        {
            node.set_no_capability(true);
        }
    }

    /// Forgets it: a capability is being set.
    pub(crate) fn may_have_capability(&self, ino: Ino) {
        self.bump(&[ino]);
    }
}
