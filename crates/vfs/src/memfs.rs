//! A file system in memory: what every other one is compared with.
//!
//! One lock around one state, copied whole before a change that must be all or nothing. Right
//! before fast: tests and models use it, nothing that users reach.
//!
//! # Invariants
//! - Times never stand still: each change gets a later one than the change before.
//! - A name keeps its cookie while it exists, whatever it names.
//! - An inode goes when it has neither a name nor a pin; with a directory goes what it holds.
//!
//! # Not here
//! Durability: `sync` returns at once.

mod content;
mod data;
mod merge;
mod names;
mod state;

use std::sync::Arc;

use base::Clock;
use bytes::Bytes;
use parking_lot::Mutex;

use crate::{
    Attr, DirEntry, Expect, FileSystem, Graft, Ino, Kind, Owner, Placed, RenameFlags, Result,
    SeekFrom, SetAttr, StatFs, Touched, XattrMode,
};
use state::State;

/// The model. See the module.
#[derive(Debug)]
pub struct MemFs {
    state: Mutex<State>,
}

impl MemFs {
    /// An empty tree whose root belongs to user 0, with room for `bytes_max` bytes of content.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, bytes_max: u64) -> Self {
        Self { state: Mutex::new(State::new(clock, bytes_max)) }
    }

    /// Runs `change` on a copy, which takes the place of the state only where it succeeds.
    fn all_or_nothing<T>(&self, change: impl FnOnce(&mut State) -> Result<T>) -> Result<T> {
        let mut state = self.state.lock();
        let mut next = state.clone();
        let out = change(&mut next)?;
        *state = next;
        Ok(out)
    }
}

impl FileSystem for MemFs {
    fn lookup(&self, parent: Ino, name: &[u8]) -> Result<Attr> {
        self.state.lock().lookup(parent, name)
    }

    fn getattr(&self, ino: Ino) -> Result<Attr> {
        self.state.lock().attr(ino)
    }

    fn setattr(&self, ino: Ino, set: &SetAttr) -> Result<Attr> {
        self.state.lock().setattr(ino, set)
    }

    fn pin(&self, ino: Ino) {
        self.state.lock().pin(ino);
    }

    fn unpin(&self, ino: Ino) {
        self.state.lock().unpin(ino);
    }

    fn mknod(
        &self,
        parent: Ino,
        name: &[u8],
        kind: Kind,
        perm: u32,
        owner: Owner,
        rdev: u32,
    ) -> Result<Attr> {
        self.state.lock().mknod(parent, name, kind, perm, owner, rdev)
    }

    fn symlink(&self, parent: Ino, name: &[u8], target: &[u8], owner: Owner) -> Result<Attr> {
        self.state.lock().symlink(parent, name, target, owner)
    }

    fn readlink(&self, ino: Ino) -> Result<Vec<u8>> {
        self.state.lock().readlink(ino)
    }

    fn link(&self, ino: Ino, parent: Ino, name: &[u8]) -> Result<Attr> {
        self.state.lock().link(ino, parent, name)
    }

    fn unlink(&self, parent: Ino, name: &[u8]) -> Result<()> {
        self.state.lock().unlink(parent, name)
    }

    fn rmdir(&self, parent: Ino, name: &[u8]) -> Result<()> {
        self.state.lock().rmdir(parent, name)
    }

    fn rename(
        &self,
        parent: Ino,
        name: &[u8],
        new_parent: Ino,
        new_name: &[u8],
        flags: RenameFlags,
    ) -> Result<()> {
        self.state.lock().rename(parent, name, new_parent, new_name, flags)
    }

    fn readdir(&self, ino: Ino, cookie: u64, max: usize) -> Result<Vec<DirEntry>> {
        self.state.lock().readdir(ino, cookie, max)
    }

    fn read(&self, ino: Ino, offset: u64, len: u32) -> Result<Bytes> {
        self.state.lock().read(ino, offset, len)
    }

    fn write(&self, ino: Ino, offset: u64, data: &[u8]) -> Result<()> {
        self.state.lock().write(ino, offset, data)
    }

    fn fallocate(&self, ino: Ino, mode: u32, offset: u64, len: u64) -> Result<()> {
        self.state.lock().fallocate(ino, mode, offset, len)
    }

    fn seek(&self, ino: Ino, from: SeekFrom) -> Result<u64> {
        self.state.lock().seek(ino, from)
    }

    fn getxattr(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>> {
        self.state.lock().getxattr(ino, name)
    }

    fn setxattr(&self, ino: Ino, name: &[u8], value: &[u8], mode: XattrMode) -> Result<()> {
        self.state.lock().setxattr(ino, name, value, mode)
    }

    fn listxattr(&self, ino: Ino) -> Result<Vec<Vec<u8>>> {
        self.state.lock().listxattr(ino)
    }

    fn removexattr(&self, ino: Ino, name: &[u8]) -> Result<()> {
        self.state.lock().removexattr(ino, name)
    }

    fn statfs(&self) -> Result<StatFs> {
        Ok(self.state.lock().statfs())
    }

    fn sync_local(&self) -> Result<()> {
        Ok(())
    }

    fn sync(&self, _ino: Option<Ino>) -> Result<()> {
        Ok(())
    }

    fn create_detached(&self, kind: Kind, perm: u32, owner: Owner) -> Result<Attr> {
        self.state.lock().create_detached(kind, perm, owner)
    }

    fn place(&self, ino: Ino, base: Ino, path: &[&[u8]], expect: Expect) -> Result<Placed> {
        self.all_or_nothing(|state| state.place(ino, base, path, expect))
    }

    fn graft(&self, graft: &Graft<'_>) -> Result<Touched> {
        self.all_or_nothing(|state| state.graft(graft))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_passes_the_suite() {
        crate::suite::run(&|| Arc::new(MemFs::new(Arc::new(base::SystemClock::new()), 1 << 30)));
    }

    #[test]
    fn a_full_tree_says_so_and_keeps_what_it_has() {
        let fs = MemFs::new(Arc::new(base::SystemClock::new()), 64 << 10);
        let file = fs.mknod(1, b"a", Kind::File, 0o644, Owner::default(), 0).unwrap().ino;
        fs.write(file, 0, &[1; 4096]).unwrap();
        let full = fs.write(file, 4096, &[2; 128 << 10]).unwrap_err();
        assert_eq!(full.errno(), crate::Errno::ENOSPC);
        assert_eq!(fs.getattr(file).unwrap().size, 4096);
        assert_eq!(fs.read(file, 0, 8192).unwrap(), vec![1; 4096]);
    }
}
