//! Walks through directories that change meanwhile.

use std::collections::BTreeMap;

use vfs::{FileSystem, Ino};

use super::life::Live;
use super::{Both, Pair};

/// A walk through a directory that goes on while it changes.
#[derive(Debug)]
pub(super) struct Walk {
    dir: Both,
    cookie: u64,
    seen: Vec<Vec<u8>>,
    /// Names that were there from the beginning and all the time.
    lasting: BTreeMap<Vec<u8>, Ino>,
}

impl Pair {
    pub(super) fn walk_begin(&mut self, fs: &dyn FileSystem, d: u8) -> Result<(), String> {
        let dir = self.dir(d);
        let all = fs.readdir(dir.ours, 0, 4_096).unwrap_or_default();
        let lasting = all.into_iter().map(|e| (e.name, e.attr.ino)).collect();
        self.walks.truncate(3);
        self.walks.push(Walk { dir, cookie: 0, seen: Vec::new(), lasting });
        Ok(())
    }

    pub(super) fn walk_on(&mut self, fs: &dyn FileSystem, n: u8) -> Result<(), String> {
        if self.walks.is_empty() {
            return Ok(());
        }
        let at = n as usize % self.walks.len();
        let walk = &mut self.walks[at];
        let part = fs.readdir(walk.dir.ours, walk.cookie, 2).unwrap_or_default();
        if let Some(last) = part.last() {
            walk.cookie = last.cookie;
            walk.seen.extend(part.into_iter().map(|entry| entry.name));
            return Ok(());
        }
        let walk = self.walks.remove(at);
        for lasting in walk.lasting.keys() {
            let times = walk.seen.iter().filter(|seen| *seen == lasting).count();
            if times != 1 {
                return Err(format!("a walk saw {lasting:?} {times} times"));
            }
        }
        Ok(())
    }

    /// Forgets what does not last.
    pub(super) fn look_after_walks(&mut self) -> Result<(), String> {
        let Self { walks, home, .. } = self;
        let Some(fs) = home.as_ref().map(Live::fs) else { return Ok(()) };
        for walk in walks {
            walk.lasting.retain(|name, ino| {
                fs.lookup(walk.dir.ours, name).is_ok_and(|attr| attr.ino == *ino)
            });
        }
        Ok(())
    }
}
