//! Calls on names.

use std::collections::BTreeMap;

use vfs::{FileSystem, Kind, RenameFlags};

use super::agree::{agreed, both, plain, same};
use super::{KINDS, Pair, USER, name};

impl Pair {
    pub(super) fn lookup(&mut self, fs: &dyn FileSystem, d: u8, n: u8) -> Result<(), String> {
        let (d, n) = (self.dir(d), name(n));
        let (one, two) = (fs.lookup(d.ours, &n), self.model.lookup(d.model, &n));
        self.attrs(one, two, 0)
    }

    pub(super) fn mknod(
        &mut self,
        fs: &dyn FileSystem,
        d: u8,
        n: u8,
        kind: u8,
    ) -> Result<(), String> {
        let (d, n, kind) = (self.dir(d), name(n), KINDS[kind as usize % KINDS.len()]);
        let one = fs.mknod(d.ours, &n, kind, 0o751, USER, 0);
        let two = self.model.mknod(d.model, &n, kind, 0o751, USER, 0);
        self.attrs(one, two, 0)
    }

    pub(super) fn symlink(
        &mut self,
        fs: &dyn FileSystem,
        d: u8,
        n: u8,
        len: u16,
    ) -> Result<(), String> {
        let (d, n, target) = (self.dir(d), name(n), vec![b't'; len as usize * 20]);
        let one = fs.symlink(d.ours, &n, &target, USER);
        let two = self.model.symlink(d.model, &n, &target, USER);
        self.attrs(one, two, 0)
    }

    pub(super) fn link(&mut self, fs: &dyn FileSystem, i: u8, d: u8, n: u8) -> Result<(), String> {
        let (i, d, n) = (self.file(i), self.dir(d), name(n));
        let one = fs.link(i.ours, d.ours, &n);
        let two = self.model.link(i.model, d.model, &n);
        self.attrs(one, two, 0)
    }

    pub(super) fn unlink(&self, fs: &dyn FileSystem, d: u8, n: u8) -> Result<(), String> {
        let (d, n) = (self.dir(d), name(n));
        both(fs.unlink(d.ours, &n), self.model.unlink(d.model, &n))
    }

    pub(super) fn rmdir(&self, fs: &dyn FileSystem, d: u8, n: u8) -> Result<(), String> {
        let (d, n) = (self.dir(d), name(n));
        both(fs.rmdir(d.ours, &n), self.model.rmdir(d.model, &n))
    }

    pub(super) fn rename(
        &self,
        fs: &dyn FileSystem,
        (a, n): (u8, u8),
        (b, m): (u8, u8),
        flags: u8,
    ) -> Result<(), String> {
        let (a, n, b, m) = (self.dir(a), name(n), self.dir(b), name(m));
        // Which of two mistakes is named is each file system's own.
        if a.kind != Kind::Directory || b.kind != Kind::Directory {
            return Ok(());
        }
        let flags = [RenameFlags::Replace, RenameFlags::NoReplace, RenameFlags::Exchange]
            [flags as usize % 3];
        both(
            fs.rename(a.ours, &n, b.ours, &m, flags),
            self.model.rename(a.model, &n, b.model, &m, flags),
        )
    }

    pub(super) fn readdir(&self, fs: &dyn FileSystem, d: u8) -> Result<(), String> {
        let d = self.dir(d);
        let names = |fs: &dyn FileSystem, ino| {
            let all = fs.readdir(ino, 0, 4_096)?;
            Ok(all.into_iter().map(|e| (e.name, plain(&e.attr))).collect::<BTreeMap<_, _>>())
        };
        agreed(same(names(fs, d.ours), names(&self.model, d.model))).map(drop)
    }

    pub(super) fn readlink(&self, fs: &dyn FileSystem, i: u8) -> Result<(), String> {
        let i = self.at(i);
        agreed(same(fs.readlink(i.ours), self.model.readlink(i.model))).map(drop)
    }
}
