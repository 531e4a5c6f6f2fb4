//! Calls on inodes without a name, and those that give them one.

use homefs::HomeFs;
use vfs::{Expect, FileSystem, Graft, Ino, Kind, ROOT};

use super::agree::{agreed, both, plain, same};
use super::{KINDS, Pair, USER, name};

impl Pair {
    pub(super) fn detached(&mut self, fs: &HomeFs, kind: u8) -> Result<(), String> {
        // A home takes files and directories only.
        let kind = KINDS[kind as usize % 4];
        let one = fs.create_detached(kind, 0o640, USER);
        let two = self.model.create_detached(kind, 0o640, USER);
        self.attrs(one, two, 1)
    }

    pub(super) fn place(&self, fs: &HomeFs, i: u8, d: u8, n: u8, expect: u8) -> Result<(), String> {
        let (i, d, n) = (self.file(i), self.dir(d), name(n));
        let (expect_ours, expect_model) = match expect {
            0 => (Expect::Any, Expect::Any),
            1 => (Expect::Absent, Expect::Absent),
            2 => (Expect::Present, Expect::Present),
            _ => {
                let version = |fs: &dyn FileSystem, d| match fs.lookup(d, &n) {
                    Ok(attr) => Expect::Version(attr.ino, attr.version),
                    Err(_) => Expect::Absent,
                };
                (version(fs, d.ours), version(&self.model, d.model))
            }
        };
        let path: [&[u8]; 1] = [&n];
        let one = fs.place(i.ours, d.ours, &path, expect_ours);
        let two = self.model.place(i.model, d.model, &path, expect_model);
        let plain = |p: vfs::Placed| (p.created, plain(&p.attr));
        agreed(same(one.map(plain), two.map(plain))).map(drop)
    }

    pub(super) fn place_below(&self, fs: &HomeFs, i: u8, n: u8, m: u8) -> Result<(), String> {
        let (i, n, m) = (self.file(i), name(n), name(m));
        let path: [&[u8]; 3] = [&n, &m, b"below"];
        let one = fs.place(i.ours, ROOT, &path, Expect::Any);
        let two = self.model.place(i.model, ROOT, &path, Expect::Any);
        agreed(same(one.map(|p| p.created), two.map(|p| p.created))).map(drop)
    }

    pub(super) fn graft(
        &self,
        fs: &HomeFs,
        from: u8,
        into: u8,
        n: u8,
        implicit: bool,
    ) -> Result<(), String> {
        let (from, into) = (self.dir(from), self.dir(into));
        if from.kind != Kind::Directory || into.kind != Kind::Directory {
            return Ok(());
        }
        // Whether old extended attributes of a directory that takes another's stay is not
        // agreed yet: a home keeps them, the tree in memory does not.
        let marked = self.model.listxattr(into.model).is_ok_and(|names| !names.is_empty());
        if marked && !implicit {
            return Ok(());
        }
        let removals = [vec![name(n)]];
        let graft = |from, into, implicit| Graft {
            from,
            into,
            removals: &removals,
            implicit,
            expect: None,
        };
        let (ours, model) = ([from.ours], [from.model]);
        let (ours, model): (&[Ino], &[Ino]) = if implicit { (&ours, &model) } else { (&[], &[]) };
        let one = fs.graft(&graft(from.ours, into.ours, ours)).map(drop);
        let two = self.model.graft(&graft(from.model, into.model, model)).map(drop);
        both(one, two)
    }
}
