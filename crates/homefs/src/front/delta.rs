//! Rows that changed: those of one call, or all since the last fold. Values, not operations.

use std::hash::Hash;

use bytes::Bytes;
use hashbrown::{Equivalent, HashMap};
use vfs::Ino;

use crate::meta::inode::Inode;
use crate::meta::rows::{Entry, Name, Spooled};

/// A name in a directory.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct EntryKey {
    pub(crate) parent: Ino,
    pub(crate) name: Name,
}

/// The same, borrowed, to look it up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct EntryRef<'a> {
    pub(crate) parent: Ino,
    pub(crate) name: &'a [u8],
}

impl Equivalent<EntryKey> for EntryRef<'_> {
    fn equivalent(&self, key: &EntryKey) -> bool {
        self.parent == key.parent && *self.name == *key.name
    }
}

/// What became of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EntryChange {
    pub(crate) now: Option<Entry>,
    /// The state below has no such name, so nothing is to be removed there.
    pub(crate) fresh: bool,
}

/// Rows that changed, each with its newest value; `None`: it is gone.
///
/// An inode that is gone takes all its other rows with it.
#[derive(Debug, Default)]
pub(crate) struct Delta {
    pub(crate) inodes: HashMap<Ino, Option<Inode>>,
    pub(crate) entries: HashMap<EntryKey, EntryChange>,
    pub(crate) blobs: HashMap<Ino, Option<Bytes>>,
    pub(crate) orphans: HashMap<Ino, Option<bool>>,
    pub(crate) spooled: HashMap<Ino, Option<Spooled>>,
    /// Sealed content from this offset on is gone.
    pub(crate) cuts: HashMap<Ino, u64>,
}

/// A map that held more than this is not kept for the next call.
const KEPT: usize = 1_024;

impl Delta {
    /// True where nothing changed.
    pub(crate) fn is_empty(&self) -> bool {
        self.inodes.is_empty()
            && self.entries.is_empty()
            && self.blobs.is_empty()
            && self.orphans.is_empty()
            && self.spooled.is_empty()
            && self.cuts.is_empty()
    }

    /// How many rows changed, about.
    pub(crate) fn len(&self) -> usize {
        self.inodes.len() + self.entries.len() + self.blobs.len() + self.spooled.len()
    }

    /// Forgets everything, and keeps the room for as much again where that is little.
    pub(crate) fn clear(&mut self) {
        if self.len() > KEPT {
            *self = Self::default();
            return;
        }
        self.inodes.clear();
        self.entries.clear();
        self.blobs.clear();
        self.orphans.clear();
        self.spooled.clear();
        self.cuts.clear();
    }

    /// Sets a name. `fresh` counts only where nothing was known of it here.
    pub(crate) fn put_entry(&mut self, key: EntryKey, now: Option<Entry>, fresh: bool) {
        self.entries
            .entry(key)
            .and_modify(|change| change.now = now)
            .or_insert(EntryChange { now, fresh });
    }

    /// Notes that sealed content from `from` on is gone.
    pub(crate) fn cut(&mut self, ino: Ino, from: u64) {
        let cut = self.cuts.entry(ino).or_insert(from);
        *cut = from.min(*cut);
    }

    /// Puts this one, which is older, under `newer`.
    pub(crate) fn merge_under(self, newer: &mut Self) {
        fn under<K: Eq + Hash, V>(old: HashMap<K, V>, newer: &mut HashMap<K, V>) {
            for (key, value) in old {
                newer.entry(key).or_insert(value);
            }
        }
        under(self.inodes, &mut newer.inodes);
        under(self.blobs, &mut newer.blobs);
        under(self.orphans, &mut newer.orphans);
        under(self.spooled, &mut newer.spooled);
        for (key, change) in self.entries {
            newer.entries.entry(key).and_modify(|now| now.fresh = change.fresh).or_insert(change);
        }
        for (ino, from) in self.cuts {
            newer.cut(ino, from);
        }
    }
}
