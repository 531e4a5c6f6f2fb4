//! The engine as a [`FileSystem`].
//!
//! Reads look at the front, and at the database for what it lacks; changes are made on the caller's
//! thread and return when their record is in the journal.

use bytes::Bytes;
use vfs::{
    Attr, DirEntry, Errno, Expect, FileSystem, FsError, Graft, Ino, Kind, NewFile, Owner, Placed,
    RenameFlags, Result, SeekFrom, SetAttr, StatFs, Touched, XattrMode,
};

use crate::data::read;
use crate::engine::{Engine, Gate, fenced};
use crate::limits::{INLINE_BYTES_MAX, IO_BYTES_MAX, READ_ATTEMPTS, READDIR_ENTRIES_MAX};
use crate::meta::rows::ReadRows as _;
use crate::ops;
use crate::ops::names::New;

impl FileSystem for Engine {
    fn lookup(&self, parent: Ino, name: &[u8]) -> Result<Attr> {
        self.front.read_rows(&|rows| ops::read::lookup(rows, parent, name))
    }

    fn getattr(&self, ino: Ino) -> Result<Attr> {
        self.front.read_rows(&|rows| Ok(rows.get(ino)?.attr()))
    }

    fn setattr(&self, ino: Ino, set: &SetAttr) -> Result<Attr> {
        let set = *set;
        if set.size.is_some() {
            self.heat.touch(ino, self.clock.monotonic());
        }
        self.change(|tx| ops::attrs::set(tx, ino, set))
    }

    fn pin(&self, ino: Ino) {
        self.shared.pins.pin(ino);
    }

    fn unpin(&self, ino: Ino) {
        if self.shared.pins.unpin(ino) {
            // A closed home frees its orphans when it is next opened.
            self.change(|tx| ops::remove::free_if_orphan(tx, ino)).ok();
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
        let new = New { kind, perm, owner, rdev };
        self.change(|tx| Ok(ops::names::make(tx, parent, name, new)?.attr()))
    }

    fn symlink(&self, parent: Ino, name: &[u8], target: &[u8], owner: Owner) -> Result<Attr> {
        self.change(|tx| ops::names::symlink(tx, parent, name, target, owner))
    }

    fn readlink(&self, ino: Ino) -> Result<Vec<u8>> {
        self.front.read_rows(&|rows| ops::read::readlink(rows, ino))
    }

    fn link(&self, ino: Ino, parent: Ino, name: &[u8]) -> Result<Attr> {
        self.change(|tx| ops::names::link(tx, ino, parent, name))
    }

    fn unlink(&self, parent: Ino, name: &[u8]) -> Result<()> {
        self.change(|tx| ops::remove::unlink(tx, parent, name))
    }

    fn rmdir(&self, parent: Ino, name: &[u8]) -> Result<()> {
        self.change(|tx| ops::remove::rmdir(tx, parent, name))
    }

    fn rename(
        &self,
        parent: Ino,
        name: &[u8],
        new_parent: Ino,
        new_name: &[u8],
        flags: RenameFlags,
    ) -> Result<()> {
        let _entered = self.shared.whole.enter();
        self.change(|tx| ops::rename::rename(tx, parent, name, new_parent, new_name, flags))
    }

    fn readdir(&self, ino: Ino, cookie: u64, max: usize) -> Result<Vec<DirEntry>> {
        self.front.read_rows(&|rows| rows.get_dir(ino))?;
        let max = max.min(READDIR_ENTRIES_MAX);
        for _ in 0..READ_ATTEMPTS {
            if let Some(entries) = self.front.list(ino, cookie, max)? {
                return self.front.with_attrs(entries);
            }
            // It is large, and has entries that the database lacks.
            self.writer.drain()?;
        }
        self.front.with_attrs(self.writer.run(|tx| tx.list(ino, cookie, max))?)
    }

    fn read(&self, ino: Ino, offset: u64, len: u32) -> Result<Bytes> {
        let (rows, spool) = (self.front.as_ref(), Some(&self.shared.spool));
        read::read(rows, spool, &self.objects, ino, offset, len)
            .map_err(|error| self.explain(error))
    }

    fn write(&self, ino: Ino, offset: u64, data: &[u8]) -> Result<()> {
        if data.len() > IO_BYTES_MAX {
            return Err(FsError::with(
                Errno::EINVAL,
                "more than one write takes; send it in parts",
            ));
        }
        let bytes = data.len() as u64;
        self.pressure.admit(bytes)?;
        let spooled = self.change(|tx| ops::content::write(tx, ino, offset, data))?;
        if spooled {
            self.pressure.wrote(bytes);
            self.heat.touch(ino, self.clock.monotonic());
        }
        Ok(())
    }

    fn fallocate(&self, ino: Ino, mode: u32, offset: u64, len: u64) -> Result<()> {
        self.pressure.admit(0)?;
        self.heat.touch(ino, self.clock.monotonic());
        self.change(|tx| ops::truncate::fallocate(tx, ino, mode, offset, len))
    }

    fn seek(&self, ino: Ino, from: SeekFrom) -> Result<u64> {
        self.front.read_rows(&|rows| ops::read::seek(rows, ino, from))
    }

    fn getxattr(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>> {
        self.front.read_rows(&|rows| rows.get(ino))?;
        self.front.readers.with(|conn| ops::xattrs::value_of(conn, ino, name))
    }

    fn setxattr(&self, ino: Ino, name: &[u8], value: &[u8], mode: XattrMode) -> Result<()> {
        self.change(|tx| ops::xattrs::set(tx, ino, name, value, mode))
    }

    fn listxattr(&self, ino: Ino) -> Result<Vec<Vec<u8>>> {
        self.front.read_rows(&|rows| rows.get(ino))?;
        self.front.readers.with(|conn| ops::xattrs::names(conn, ino))
    }

    fn removexattr(&self, ino: Ino, name: &[u8]) -> Result<()> {
        self.change(|tx| ops::xattrs::remove(tx, ino, name))
    }

    fn statfs(&self) -> Result<StatFs> {
        Ok(self.front.statfs(self.shared.bytes_max()))
    }

    fn sync_local(&self) -> Result<()> {
        if self.gate() == Gate::Fenced {
            return Err(fenced());
        }
        self.sync_here()
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
        let attr = self.change(|tx| ops::names::detached(tx, new))?;
        self.pin(attr.ino);
        Ok(attr)
    }

    fn place(&self, ino: Ino, base: Ino, path: &[&[u8]], expect: Expect) -> Result<Placed> {
        let _entered = self.shared.whole.enter_as_caller()?;
        self.change(|tx| ops::place::place(tx, ino, base, path, expect))
    }

    fn put_file(
        &self,
        base: Ino,
        path: &[&[u8]],
        file: &NewFile<'_>,
        expect: Expect,
    ) -> Result<Placed> {
        if file.content.len() as u64 > INLINE_BYTES_MAX {
            return vfs::put_in_steps(self, base, path, file, expect);
        }
        let new = New { kind: Kind::File, perm: file.perm, owner: file.owner, rdev: 0 };
        self.change(|tx| ops::put::put(tx, base, path, new, file.content, expect))
    }

    fn graft(&self, graft: &Graft<'_>) -> Result<Touched> {
        let _entered = self.shared.whole.enter_as_caller()?;
        self.change(|tx| ops::graft::graft(tx, graft))
    }
}
