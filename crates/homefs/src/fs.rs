//! The engine as a [`FileSystem`].
//!
//! Reads take a read-only connection; changes go to the metadata thread and return when their
//! transaction is committed.

use bytes::Bytes;
use vfs::{
    Attr, DirEntry, Errno, Expect, FileSystem, FsError, Graft, Ino, Kind, Owner, Placed,
    RenameFlags, Result, SeekFrom, SetAttr, StatFs, Touched, XattrMode,
};

use crate::data::read;
use crate::engine::{Engine, Gate, fenced};
use crate::limits::IO_BYTES_MAX;
use crate::meta::inode::Inode;
use crate::ops;
use crate::ops::graft::OwnedGraft;
use crate::ops::names::New;

impl FileSystem for Engine {
    fn lookup(&self, parent: Ino, name: &[u8]) -> Result<Attr> {
        self.readers.with(|conn| ops::read::lookup(conn, parent, name))
    }

    fn getattr(&self, ino: Ino) -> Result<Attr> {
        self.readers.with(|conn| Ok(Inode::get(conn, ino)?.attr()))
    }

    fn setattr(&self, ino: Ino, set: &SetAttr) -> Result<Attr> {
        let set = *set;
        if set.size.is_some() {
            self.heat.touch(ino, self.clock.monotonic());
        }
        self.change(move |tx| ops::attrs::set(tx, ino, set))
    }

    fn pin(&self, ino: Ino) {
        self.shared.pins.pin(ino);
    }

    fn unpin(&self, ino: Ino) {
        if self.shared.pins.unpin(ino) {
            // A closed home frees its orphans when it is next opened.
            self.writer.run(move |tx| ops::remove::free_if_orphan(tx, ino)).ok();
        }
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
        if kind == Kind::Symlink {
            return Err(FsError::new(Errno::EINVAL));
        }
        let (name, new) = (name.to_vec(), New { kind, perm, owner, rdev });
        self.change(move |tx| Ok(ops::names::make(tx, parent, &name, new)?.attr()))
    }

    fn symlink(&self, parent: Ino, name: &[u8], target: &[u8], owner: Owner) -> Result<Attr> {
        let (name, target) = (name.to_vec(), target.to_vec());
        self.change(move |tx| ops::names::symlink(tx, parent, &name, &target, owner))
    }

    fn readlink(&self, ino: Ino) -> Result<Vec<u8>> {
        self.readers.with(|conn| ops::read::readlink(conn, ino))
    }

    fn link(&self, ino: Ino, parent: Ino, name: &[u8]) -> Result<Attr> {
        let name = name.to_vec();
        self.change(move |tx| ops::names::link(tx, ino, parent, &name))
    }

    fn unlink(&self, parent: Ino, name: &[u8]) -> Result<()> {
        let name = name.to_vec();
        self.change(move |tx| ops::remove::unlink(tx, parent, &name))
    }

    fn rmdir(&self, parent: Ino, name: &[u8]) -> Result<()> {
        let name = name.to_vec();
        self.change(move |tx| ops::remove::rmdir(tx, parent, &name))
    }

    fn rename(
        &self,
        parent: Ino,
        name: &[u8],
        new_parent: Ino,
        new_name: &[u8],
        flags: RenameFlags,
    ) -> Result<()> {
        let (name, new_name) = (name.to_vec(), new_name.to_vec());
        self.change(move |tx| ops::rename::rename(tx, parent, &name, new_parent, &new_name, flags))
    }

    fn readdir(&self, ino: Ino, cookie: u64, max: usize) -> Result<Vec<DirEntry>> {
        self.readers.with(|conn| ops::read::readdir(conn, ino, cookie, max))
    }

    fn read(&self, ino: Ino, offset: u64, len: u32) -> Result<Bytes> {
        read::read(&self.readers, Some(&self.shared.spool), &self.objects, ino, offset, len)
    }

    fn write(&self, ino: Ino, offset: u64, data: &[u8]) -> Result<()> {
        if data.len() > IO_BYTES_MAX {
            return Err(FsError::with(
                Errno::EINVAL,
                "more than one write takes; send it in parts",
            ));
        }
        let data = data.to_vec();
        self.heat.touch(ino, self.clock.monotonic());
        self.change(move |tx| ops::content::write(tx, ino, offset, &data))
    }

    fn fallocate(&self, ino: Ino, mode: u32, offset: u64, len: u64) -> Result<()> {
        self.change(move |tx| ops::truncate::fallocate(tx, ino, mode, offset, len))
    }

    fn seek(&self, ino: Ino, from: SeekFrom) -> Result<u64> {
        self.readers.consistent(|conn| ops::read::seek(conn, ino, from))
    }

    fn getxattr(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>> {
        self.readers.with(|conn| ops::xattrs::get(conn, ino, name))
    }

    fn setxattr(&self, ino: Ino, name: &[u8], value: &[u8], mode: XattrMode) -> Result<()> {
        let (name, value) = (name.to_vec(), value.to_vec());
        self.change(move |tx| ops::xattrs::set(tx, ino, &name, &value, mode))
    }

    fn listxattr(&self, ino: Ino) -> Result<Vec<Vec<u8>>> {
        self.readers.with(|conn| ops::xattrs::list(conn, ino))
    }

    fn removexattr(&self, ino: Ino, name: &[u8]) -> Result<()> {
        let name = name.to_vec();
        self.change(move |tx| ops::xattrs::remove(tx, ino, &name))
    }

    fn statfs(&self) -> Result<StatFs> {
        self.readers.with(|conn| ops::read::statfs(conn, self.shared.bytes_max))
    }

    fn sync_local(&self) -> Result<()> {
        if self.gate() == Gate::Fenced {
            return Err(fenced());
        }
        self.durable.sync()
    }

    fn sync(&self, ino: Option<Ino>) -> Result<()> {
        match self.barrier() {
            Some(barrier) => barrier.sync(ino),
            None => self.sync_local(),
        }
    }

    fn create_detached(&self, kind: Kind, perm: u32, owner: Owner) -> Result<Attr> {
        if !matches!(kind, Kind::File | Kind::Directory) {
            return Err(FsError::new(Errno::EINVAL));
        }
        let new = New { kind, perm, owner, rdev: 0 };
        let attr = self.change(move |tx| ops::names::detached(tx, new))?;
        self.pin(attr.ino);
        Ok(attr)
    }

    fn place(&self, ino: Ino, base: Ino, path: &[&[u8]], expect: Expect) -> Result<Placed> {
        let path: Vec<Vec<u8>> = path.iter().map(|name| name.to_vec()).collect();
        self.change(move |tx| ops::place::place(tx, ino, base, &path, expect))
    }

    fn graft(&self, graft: &Graft<'_>) -> Result<Touched> {
        let Graft { from, into, removals, implicit, expect } = *graft;
        let implicit = implicit.iter().copied().collect();
        let expect = expect.map(|(name, ino, version)| (name.to_vec(), ino, version));
        let graft = OwnedGraft { from, into, removals: removals.to_vec(), implicit, expect };
        self.change(move |tx| ops::graft::graft(tx, &graft))
    }
}
