//! Names in memory, by directory.
//!
//! A directory is *complete* where all its names are here: then a name that is not here does not
//! exist, and it is listed without the database. One that was just made is complete from the
//! start; one that is listed becomes so unless it is large.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};

use hashbrown::HashMap;
use vfs::Ino;

use crate::meta::rows::{Entry, Name};

#[derive(Debug)]
struct Named {
    /// `None`: there is no such name.
    entry: Option<Entry>,
    /// The change that made it so; 0 where it was read from the database.
    changed: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Dir {
    names: HashMap<Name, Named>,
    /// Names by cookie, once it was listed. Of a complete one only.
    order: Option<BTreeMap<u64, Name>>,
    complete: bool,
    /// Names that exist.
    live: usize,
    changed: u64,
    /// How far the database was when this was last thinned out.
    thinned: u64,
    used: AtomicBool,
}

/// What is known of a listing.
#[derive(Debug)]
pub(crate) enum Listing {
    Ready(Vec<(Name, Entry)>),
    /// Complete, and not ordered yet.
    Unordered,
    /// Not complete.
    Unknown,
}

/// All directories that have names in memory.
#[derive(Debug, Default)]
pub(crate) struct Dirs {
    dirs: HashMap<Ino, Dir>,
    ring: VecDeque<Ino>,
    /// Names in memory; each directory counts as one more.
    names: usize,
    names_max: usize,
}

impl Dirs {
    /// None, and room for this many names.
    pub(crate) fn new(names_max: usize) -> Self {
        Self { names_max, ..Self::default() }
    }

    /// What a name stands for; `None` where that is not known here.
    pub(crate) fn get(&self, parent: Ino, name: &[u8]) -> Option<Option<Entry>> {
        let dir = self.dirs.get(&parent)?;
        dir.used.store(true, Ordering::Relaxed);
        match dir.names.get(name) {
            Some(named) => Some(named.entry),
            None if dir.complete => Some(None),
            None => None,
        }
    }

    /// A directory that was just made: it has no names.
    pub(crate) fn made(&mut self, ino: Ino) {
        let dir = self.dir(ino);
        dir.complete = true;
    }

    /// Sets a name.
    pub(crate) fn put(&mut self, parent: Ino, name: Name, entry: Option<Entry>, changed: u64) {
        let dir = self.dir(parent);
        let before = dir.names.len();
        dir.changed = changed.max(dir.changed);
        dir.used.store(true, Ordering::Relaxed);
        let old = dir.names.get(&name).and_then(|named| named.entry);
        dir.live = dir.live + usize::from(entry.is_some()) - usize::from(old.is_some());
        if let Some(order) = &mut dir.order {
            if let Some(old) = old {
                order.remove(&old.cookie);
            }
            if let Some(entry) = entry {
                order.insert(entry.cookie, name.clone());
            }
        }
        dir.names.insert(name, Named { entry, changed });
        let after = dir.names.len();
        self.names = self.names + after - before;
    }

    /// Sets a name that was read from the database, unless it is here.
    pub(crate) fn admit(&mut self, parent: Ino, name: Name, entry: Option<Entry>) {
        let dir = self.dir(parent);
        if !dir.complete && !dir.names.contains_key(&name) {
            self.put(parent, name, entry, 0);
        }
    }

    /// All names of a directory as the database has them.
    pub(crate) fn admit_all(&mut self, ino: Ino, entries: Vec<(Name, Entry)>) {
        for (name, entry) in entries {
            self.admit(ino, name, Some(entry));
        }
        self.dir(ino).complete = true;
    }

    /// Up to `max` names after `cookie`, if all are known.
    pub(crate) fn list(&self, ino: Ino, cookie: u64, max: usize) -> Listing {
        let Some(dir) = self.dirs.get(&ino).filter(|dir| dir.complete) else {
            return Listing::Unknown;
        };
        dir.used.store(true, Ordering::Relaxed);
        let Some(order) = &dir.order else { return Listing::Unordered };
        let after = order.range((std::ops::Bound::Excluded(cookie), std::ops::Bound::Unbounded));
        let entries = after
            .take(max)
            .filter_map(|(_, name)| Some((name.clone(), dir.names.get(name)?.entry?)));
        Listing::Ready(entries.collect())
    }

    /// Puts the names of a complete directory in order.
    pub(crate) fn order(&mut self, ino: Ino) {
        if let Some(dir) = self.dirs.get_mut(&ino).filter(|dir| dir.complete) {
            let live = dir
                .names
                .iter()
                .filter_map(|(name, named)| Some((named.entry?.cookie, name.clone())));
            dir.order = Some(live.collect());
        }
    }

    /// Whether it has names; `None` where that is not known here.
    pub(crate) fn is_empty(&self, ino: Ino) -> Option<bool> {
        let dir = self.dirs.get(&ino)?;
        if dir.live > 0 {
            return Some(false);
        }
        dir.complete.then_some(true)
    }

    /// The newest change of a name in it; 0 where none is known.
    pub(crate) fn changed(&self, ino: Ino) -> u64 {
        self.dirs.get(&ino).map_or(0, |dir| dir.changed)
    }

    /// Lets directories go until the bound holds; a large one that is being changed is thinned out
    /// instead. `gone` gets what went, and the answer is the newest change among it.
    pub(crate) fn evict(&mut self, folded: u64, gone: &mut Vec<Dir>) -> u64 {
        let mut newest = 0;
        for _ in 0..8 {
            if self.names <= self.names_max {
                break;
            }
            let Some(ino) = self.ring.pop_front() else { break };
            let Some(dir) = self.dirs.get_mut(&ino) else { continue };
            if dir.changed <= folded {
                // A used one is passed over once, unless it alone is what is too much.
                if dir.used.swap(false, Ordering::Relaxed) && dir.names.len() < self.names_max / 2 {
                    self.ring.push_back(ino);
                    continue;
                }
                if let Some(dir) = self.dirs.remove(&ino) {
                    self.names -= dir.names.len() + 1;
                    newest = newest.max(dir.changed);
                    gone.push(dir);
                }
                continue;
            }
            if dir.thinned < folded && dir.names.len() > self.names_max / 16 {
                let before = dir.names.len();
                dir.thinned = folded;
                (dir.complete, dir.order) = (false, None);
                dir.names.retain(|_, named| named.changed > folded);
                dir.live = dir.names.values().filter(|named| named.entry.is_some()).count();
                self.names -= before - dir.names.len();
                newest = newest.max(folded);
            }
            self.ring.push_back(ino);
        }
        newest
    }

    fn dir(&mut self, ino: Ino) -> &mut Dir {
        self.dirs.entry(ino).or_insert_with(|| {
            self.ring.push_back(ino);
            self.names += 1;
            Dir::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(ino: Ino) -> Option<Entry> {
        Some(Entry { ino, cookie: ino })
    }

    fn names(dirs: &Dirs, cookie: u64) -> Vec<Ino> {
        match dirs.list(1, cookie, 10) {
            Listing::Ready(found) => found.into_iter().map(|(_, entry)| entry.ino).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_complete_directory_knows_what_does_not_exist() {
        let mut dirs = Dirs::default();
        dirs.put(1, b"new"[..].into(), entry(9), 5);
        dirs.put(1, b"gone"[..].into(), None, 6);
        assert_eq!(dirs.get(1, b"other"), None);
        assert!(matches!(dirs.list(1, 0, 10), Listing::Unknown));
        let rows = [(b"gone", 3), (b"kept", 4)];
        dirs.admit_all(1, rows.map(|(name, ino)| (name[..].into(), entry(ino).unwrap())).into());
        assert_eq!(dirs.get(1, b"other"), Some(None));
        assert_eq!(dirs.get(1, b"gone"), Some(None));
        dirs.order(1);
        assert_eq!(names(&dirs, 0), [4, 9]);
        dirs.put(1, b"kept"[..].into(), None, 7);
        dirs.put(1, b"late"[..].into(), entry(12), 8);
        assert_eq!(names(&dirs, 4), [9, 12]);
        assert_eq!(dirs.is_empty(1), Some(false));
    }

    #[test]
    fn a_large_directory_keeps_what_the_database_lacks() {
        let mut dirs = Dirs::new(1_000);
        dirs.made(1);
        for n in 0..=1_000_u64 {
            dirs.put(1, n.to_le_bytes()[..].into(), entry(n + 1), n + 1);
        }
        let folded = 990;
        assert_eq!(dirs.evict(folded, &mut Vec::new()), folded);
        assert_eq!(dirs.names, 12, "and the directory");
        assert_eq!(dirs.get(1, &0_u64.to_le_bytes()), None);
        assert!(dirs.get(1, &1_000_u64.to_le_bytes()).unwrap().is_some());
    }

    #[test]
    fn directories_without_names_take_room_too() {
        let mut dirs = Dirs::new(1_000);
        let mut gone = Vec::new();
        for ino in 1..=10_000 {
            dirs.made(ino);
            dirs.evict(ino, &mut gone);
        }
        assert!(dirs.dirs.len() <= 1_000 && dirs.ring.len() <= 1_000, "{}", dirs.dirs.len());
    }
}
