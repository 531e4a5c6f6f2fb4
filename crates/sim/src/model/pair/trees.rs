//! Calls on inodes without a name, and those that give them one.

use vfs::{Expect, FileSystem, Graft, Ino, Kind, NewFile, Owner, ROOT};

use super::agree::{agreed, both, plain, same};
use super::room::is_full;
use super::{KINDS, Pair, USER, name};
use crate::chance::noise;

/// One of the things that can be expected of a name.
fn expected(fs: &dyn FileSystem, dir: Ino, name: &[u8], expect: u8) -> Expect {
    match expect % 4 {
        0 => Expect::Any,
        1 => Expect::Absent,
        2 => Expect::Present,
        _ => match fs.lookup(dir, name) {
            Ok(attr) => Expect::Version(attr.ino, attr.version),
            Err(_) => Expect::Absent,
        },
    }
}

impl Pair {
    pub(super) fn detached(&mut self, fs: &dyn FileSystem, kind: u8) -> Result<(), String> {
        let kind = KINDS[kind as usize % KINDS.len()];
        let one = fs.create_detached(kind, 0o640, USER);
        let two = self.model.create_detached(kind, 0o640, USER);
        self.attrs(one, two, 1)
    }

    pub(super) fn place(
        &self,
        fs: &dyn FileSystem,
        i: u8,
        d: u8,
        n: u8,
        expect: u8,
    ) -> Result<(), String> {
        let (i, d, n) = (self.file(i), self.dir(d), name(n));
        let path: [&[u8]; 1] = [&n];
        let one = fs.place(i.ours, d.ours, &path, expected(fs, d.ours, &n, expect));
        let expect = expected(&self.model, d.model, &n, expect);
        let two = self.model.place(i.model, d.model, &path, expect);
        let plain = |p: vfs::Placed| (p.created, plain(&p.attr));
        agreed(same(one.map(plain), two.map(plain))).map(drop)
    }

    /// `how` says what is expected, and whether it goes a directory deeper.
    pub(super) fn put(
        &mut self,
        fs: &dyn FileSystem,
        d: u8,
        n: u8,
        (len, seed): (u32, u64),
        how: u8,
    ) -> Result<(), String> {
        let (d, n, content) = (self.dir(d), name(n), noise(len as usize, seed));
        let file = NewFile { content: &content, perm: 0o604, owner: Owner { uid: 1, gid: 2 } };
        let deeper: [&[u8]; 2] = [&n, b"deeper"];
        let path = if how & 4 == 0 { &deeper[..1] } else { &deeper[..] };
        let before = self.sizes(fs)?;
        let one = fs.put_file(d.ours, path, &file, expected(fs, d.ours, &n, how));
        if is_full(&one) {
            return self.rightly_refused(fs, &before, u64::from(len));
        }
        let expect = expected(&self.model, d.model, &n, how);
        let two = self.model.put_file(d.model, path, &file, expect);
        let created = |placed: &vfs::Placed| placed.created;
        agreed(same(
            one.as_ref().map(created).map_err(Clone::clone),
            two.as_ref().map(created).map_err(Clone::clone),
        ))?;
        self.attrs(one.map(|placed| placed.attr), two.map(|placed| placed.attr), 0)?;
        self.sizes(fs).map(drop)
    }

    pub(super) fn place_below(
        &self,
        fs: &dyn FileSystem,
        i: u8,
        n: u8,
        m: u8,
    ) -> Result<(), String> {
        let (i, n, m) = (self.file(i), name(n), name(m));
        let path: [&[u8]; 3] = [&n, &m, b"below"];
        let one = fs.place(i.ours, ROOT, &path, Expect::Any);
        let two = self.model.place(i.model, ROOT, &path, Expect::Any);
        agreed(same(one.map(|p| p.created), two.map(|p| p.created))).map(drop)
    }

    pub(super) fn graft(
        &self,
        fs: &dyn FileSystem,
        from: u8,
        into: u8,
        n: u8,
        implicit: bool,
    ) -> Result<(), String> {
        let (from, into) = (self.dir(from), self.dir(into));
        if from.kind != Kind::Directory || into.kind != Kind::Directory {
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
