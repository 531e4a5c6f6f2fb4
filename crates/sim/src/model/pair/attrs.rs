//! Calls on attributes, and who holds an inode.

use std::collections::BTreeSet;

use vfs::{FileSystem, SetAttr, SetTime, Time, XattrMode};

use super::Pair;
use super::agree::{agreed, both, same};

impl Pair {
    pub(super) fn getattr(&mut self, fs: &dyn FileSystem, i: u8) -> Result<(), String> {
        let i = self.at(i);
        let (one, two) = (fs.getattr(i.ours), self.model.getattr(i.model));
        self.attrs(one, two, 0)
    }

    pub(super) fn set(&mut self, fs: &dyn FileSystem, i: u8, set: SetAttr) -> Result<(), String> {
        let i = if set.size.is_some() { self.file(i) } else { self.at(i) };
        let (one, two) = (fs.setattr(i.ours, &set), self.model.setattr(i.model, &set));
        self.attrs(one, two, 0)
    }

    pub(super) fn utimes(&mut self, fs: &dyn FileSystem, i: u8, at: i64) -> Result<(), String> {
        let time = Some(SetTime::At(Time(at)));
        self.set(fs, i, SetAttr { atime: time, mtime: time, ..SetAttr::default() })?;
        let i = self.at(i);
        let (one, two) = (fs.getattr(i.ours), self.model.getattr(i.model));
        agreed(same(one.map(|a| (a.atime, a.mtime)), two.map(|a| (a.atime, a.mtime)))).map(drop)
    }

    pub(super) fn pin(&mut self, fs: &dyn FileSystem, i: u8) -> Result<(), String> {
        let n = i as usize % self.known.len();
        // What is gone cannot be pinned.
        if fs.getattr(self.known[n].ours).is_ok() {
            self.known[n].pins += 1;
            fs.pin(self.known[n].ours);
            self.model.pin(self.known[n].model);
        }
        Ok(())
    }

    pub(super) fn unpin(&mut self, fs: &dyn FileSystem, i: u8) -> Result<(), String> {
        let n = i as usize % self.known.len();
        if self.known[n].pins > 0 {
            self.known[n].pins -= 1;
            fs.unpin(self.known[n].ours);
            self.model.unpin(self.known[n].model);
        }
        Ok(())
    }

    pub(super) fn set_xattr(
        &self,
        fs: &dyn FileSystem,
        i: u8,
        n: u8,
        len: u16,
        mode: u8,
    ) -> Result<(), String> {
        let (i, n, value) = (self.at(i), xattr(n), vec![n; len as usize]);
        let mode = [XattrMode::Any, XattrMode::Create, XattrMode::Replace][mode as usize % 3];
        both(fs.setxattr(i.ours, &n, &value, mode), self.model.setxattr(i.model, &n, &value, mode))
    }

    pub(super) fn get_xattr(&self, fs: &dyn FileSystem, i: u8, n: u8) -> Result<(), String> {
        let (i, n) = (self.at(i), xattr(n));
        agreed(same(fs.getxattr(i.ours, &n), self.model.getxattr(i.model, &n))).map(drop)
    }

    pub(super) fn list_xattr(&self, fs: &dyn FileSystem, i: u8) -> Result<(), String> {
        let i = self.at(i);
        let sorted = |list: Vec<Vec<u8>>| list.into_iter().collect::<BTreeSet<_>>();
        let (one, two) = (fs.listxattr(i.ours), self.model.listxattr(i.model));
        agreed(same(one.map(sorted), two.map(sorted))).map(drop)
    }

    pub(super) fn remove_xattr(&self, fs: &dyn FileSystem, i: u8, n: u8) -> Result<(), String> {
        let (i, n) = (self.at(i), xattr(n));
        both(fs.removexattr(i.ours, &n), self.model.removexattr(i.model, &n))
    }
}

fn xattr(n: u8) -> Vec<u8> {
    [b"user.a".to_vec(), b"user.b".to_vec(), vec![b'u'; 255]][n as usize % 3].clone()
}
