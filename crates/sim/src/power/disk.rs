//! A file system that knows what is durable and what is not.
//!
//! What programs see is a tree in memory; beside it is what is durable, and the changes in between in
//! their order. One lock, so that both have the same order.
//!
//! # Counting
//! Every change and every `fsync` is counted, so that a cut can be asked for at any of them. From the cut
//! on all of them fail with `EIO`; reads go on, since a program whose mapped memory goes away dies
//! of it, and it is not the program that is tested then.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use testkit::HandClock;
use vfs::memfs::MemFs;
use vfs::{
    Attr, DirEntry, Errno, Expect, FileSystem, Graft, Ino, Kind, Owner, Placed, RenameFlags,
    Result, SeekFrom, SetAttr, StatFs, Touched, XattrMode,
};

use super::image::{Image, Pending};
use crate::chance::Chance;

const PUNCH_HOLE: u32 = 0x02;
const ZERO_RANGE: u32 = 0x10;

/// When names are durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Names {
    /// After an `fsync` of their directory, each for itself.
    Strict,
    /// After any `fsync`, in order.
    Journaled,
}

/// What is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// The process: nothing that it wrote.
    Process,
    /// Power: what was not synced, in part.
    Power,
}

/// See the module.
#[derive(Debug)]
pub struct Disk {
    seen: MemFs,
    names: Names,
    /// `fsync` returns and does nothing.
    lies: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    durable: Image,
    pending: Vec<Pending>,
    count: u64,
    cut_at: Option<u64>,
    is_cut: bool,
    syncs: u64,
}

impl Disk {
    /// An empty disk; with `lies` one whose `fsync` does nothing.
    #[must_use]
    pub fn new(names: Names, lies: bool) -> Self {
        let seen = MemFs::new(Arc::new(HandClock::default()), 8 << 30);
        Self { seen, names, lies, state: Mutex::default() }
    }

    /// Power goes at the `nth` change or `fsync` from here.
    pub fn cut_at(&self, nth: u64) {
        let mut state = self.state.lock();
        state.cut_at = Some(state.count + nth.max(1));
    }

    /// Power goes now.
    pub fn cut(&self) {
        self.state.lock().is_cut = true;
    }

    /// True once power is gone.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.state.lock().is_cut
    }

    /// Changes and `fsync`s so far.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.state.lock().count
    }

    /// `fsync`s so far.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.state.lock().syncs
    }

    /// The disk as it is found afterwards.
    ///
    /// # Errors
    /// Those of a tree in memory.
    pub fn after(&self, loss: Loss, chance: &mut Chance) -> Result<Self> {
        let state = self.state.lock();
        let mut image = state.durable.clone();
        match loss {
            Loss::Process => state.pending.iter().for_each(|change| image.apply(change)),
            Loss::Power => {
                let keep = *chance.of(&[0, 20, 50, 80, 97]).unwrap_or(&50);
                let names = |change: &&Pending| matches!(change, Pending::Names(_));
                let total = state.pending.iter().filter(names).count();
                let mut first = chance.index(total + 1);
                for change in &state.pending {
                    match (self.names, change) {
                        (Names::Journaled, Pending::Names(_)) if first == 0 => {}
                        (Names::Journaled, Pending::Names(_)) => {
                            first -= 1;
                            image.apply(change);
                        }
                        _ => image.apply_some(change, keep, chance),
                    }
                }
            }
        }
        let fresh = Self::new(self.names, self.lies);
        let durable = image.boot(&fresh.seen)?;
        fresh.state.lock().durable = durable;
        Ok(fresh)
    }

    /// Counts a change, does it, and notes it. At the cut it is noted and fails.
    fn change<T>(&self, work: impl FnOnce(&mut State) -> Result<(T, Vec<Pending>)>) -> Result<T> {
        let mut state = self.state.lock();
        if state.is_cut {
            return Err(Errno::EIO.into());
        }
        let (out, changes) = work(&mut state)?;
        state.pending.extend(changes);
        state.count += 1;
        if state.cut_at.is_some_and(|at| state.count >= at) {
            state.is_cut = true;
            return Err(Errno::EIO.into());
        }
        Ok(out)
    }

    fn named(&self, dir: Ino, name: &[u8]) -> Option<Ino> {
        self.seen.lookup(dir, name).ok().map(|attr| attr.ino)
    }

    fn unname(&self, dir: Ino, name: &[u8], remove: impl FnOnce() -> Result<()>) -> Result<()> {
        self.change(|_| {
            remove()?;
            Ok(((), vec![Pending::Names(vec![((dir, name.to_vec()), None)])]))
        })
    }
}

impl FileSystem for Disk {
    fn lookup(&self, parent: Ino, name: &[u8]) -> Result<Attr> {
        self.seen.lookup(parent, name)
    }
    fn getattr(&self, ino: Ino) -> Result<Attr> {
        self.seen.getattr(ino)
    }
    fn setattr(&self, ino: Ino, set: &SetAttr) -> Result<Attr> {
        self.change(|_| {
            let attr = self.seen.setattr(ino, set)?;
            Ok((attr, set.size.map(|size| Pending::Size { ino, size }).into_iter().collect()))
        })
    }
    fn pin(&self, ino: Ino) {
        self.seen.pin(ino);
    }
    fn unpin(&self, ino: Ino) {
        self.seen.unpin(ino);
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
        self.change(|state| {
            let attr = self.seen.mknod(parent, name, kind, perm, owner, rdev)?;
            state.durable.born(attr.ino, kind);
            let names = vec![((parent, name.to_vec()), Some(attr.ino))];
            Ok((attr, vec![Pending::Names(names)]))
        })
    }
    fn symlink(&self, _: Ino, _: &[u8], _: &[u8], _: Owner) -> Result<Attr> {
        Err(Errno::EOPNOTSUPP.into())
    }
    fn readlink(&self, ino: Ino) -> Result<Vec<u8>> {
        self.seen.readlink(ino)
    }
    fn link(&self, ino: Ino, parent: Ino, name: &[u8]) -> Result<Attr> {
        self.change(|_| {
            let attr = self.seen.link(ino, parent, name)?;
            Ok((attr, vec![Pending::Names(vec![((parent, name.to_vec()), Some(ino))])]))
        })
    }
    fn unlink(&self, parent: Ino, name: &[u8]) -> Result<()> {
        self.unname(parent, name, || self.seen.unlink(parent, name))
    }
    fn rmdir(&self, parent: Ino, name: &[u8]) -> Result<()> {
        self.unname(parent, name, || self.seen.rmdir(parent, name))
    }
    fn rename(
        &self,
        parent: Ino,
        name: &[u8],
        new_parent: Ino,
        new_name: &[u8],
        flags: RenameFlags,
    ) -> Result<()> {
        self.change(|_| {
            let (from, to) = (self.named(parent, name), self.named(new_parent, new_name));
            self.seen.rename(parent, name, new_parent, new_name, flags)?;
            let swapped = if flags == RenameFlags::Exchange { to } else { None };
            let names =
                vec![((parent, name.to_vec()), swapped), ((new_parent, new_name.to_vec()), from)];
            Ok(((), vec![Pending::Names(names)]))
        })
    }
    fn readdir(&self, ino: Ino, cookie: u64, max: usize) -> Result<Vec<DirEntry>> {
        self.seen.readdir(ino, cookie, max)
    }
    fn read(&self, ino: Ino, offset: u64, len: u32) -> Result<Bytes> {
        self.seen.read(ino, offset, len)
    }
    fn write(&self, ino: Ino, offset: u64, data: &[u8]) -> Result<()> {
        self.change(|_| {
            self.seen.write(ino, offset, data)?;
            Ok(((), vec![Pending::Write { ino, at: offset, data: data.to_vec() }]))
        })
    }
    fn fallocate(&self, ino: Ino, mode: u32, offset: u64, len: u64) -> Result<()> {
        self.change(|_| {
            self.seen.fallocate(ino, mode, offset, len)?;
            let size = self.seen.getattr(ino)?.size;
            let mut changes = vec![Pending::Size { ino, size }];
            if mode & (PUNCH_HOLE | ZERO_RANGE) != 0 {
                changes.push(Pending::Punch { ino, at: offset, len });
            }
            Ok(((), changes))
        })
    }
    fn seek(&self, ino: Ino, from: SeekFrom) -> Result<u64> {
        self.seen.seek(ino, from)
    }
    fn getxattr(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>> {
        self.seen.getxattr(ino, name)
    }
    fn setxattr(&self, _: Ino, _: &[u8], _: &[u8], _: XattrMode) -> Result<()> {
        Err(Errno::EOPNOTSUPP.into())
    }
    fn listxattr(&self, ino: Ino) -> Result<Vec<Vec<u8>>> {
        self.seen.listxattr(ino)
    }
    fn removexattr(&self, _: Ino, _: &[u8]) -> Result<()> {
        Err(Errno::EOPNOTSUPP.into())
    }
    fn statfs(&self) -> Result<StatFs> {
        self.seen.statfs()
    }
    fn sync_local(&self) -> Result<()> {
        self.sync(None)
    }
    fn sync(&self, ino: Option<Ino>) -> Result<()> {
        let mut state = self.state.lock();
        state.count += 1;
        state.syncs += 1;
        if state.is_cut || state.cut_at.is_some_and(|at| state.count >= at) {
            state.is_cut = true;
            return Err(Errno::EIO.into());
        }
        if self.lies {
            return Ok(());
        }
        let State { durable, pending, .. } = &mut *state;
        let journaled = self.names == Names::Journaled;
        pending.retain(|change| {
            let whole = journaled && matches!(change, Pending::Names(_));
            let durable_now = whole || ino.is_none_or(|ino| change.belongs_to(ino));
            if durable_now {
                durable.apply(change);
            }
            !durable_now
        });
        Ok(())
    }
    fn create_detached(&self, _: Kind, _: u32, _: Owner) -> Result<Attr> {
        Err(Errno::EOPNOTSUPP.into())
    }
    fn place(&self, _: Ino, _: Ino, _: &[&[u8]], _: Expect) -> Result<Placed> {
        Err(Errno::EOPNOTSUPP.into())
    }
    fn graft(&self, _: &Graft<'_>) -> Result<Touched> {
        Err(Errno::EOPNOTSUPP.into())
    }
}

#[cfg(test)]
mod tests {
    use vfs::ROOT;

    use super::*;
    use crate::tree::observe;

    fn file(disk: &Disk, name: &str) -> Ino {
        disk.mknod(ROOT, name.as_bytes(), Kind::File, 0o644, Owner::default(), 0).unwrap().ino
    }

    #[test]
    fn what_was_synced_is_kept_and_the_rest_is_luck() {
        let (mut names, mut bytes) = ([0, 0], [0, 0]);
        for seed in 0..60 {
            let disk = Disk::new(Names::Strict, false);
            let kept = file(&disk, "kept");
            disk.write(kept, 0, &[1; 10_000]).unwrap();
            disk.sync(Some(kept)).unwrap();
            disk.sync(Some(ROOT)).unwrap();
            disk.write(kept, 8_192, &[2; 4_096]).unwrap();
            disk.unlink(ROOT, b"kept").unwrap();
            let other = file(&disk, "other");
            disk.write(other, 0, &[3; 5_000]).unwrap();
            let found = disk.after(Loss::Power, &mut Chance::new(seed)).unwrap();
            let tree = observe(&found).unwrap();
            if let Some((_, file)) = tree.file("kept") {
                assert!(file.data[..8_192] == [1; 8_192], "seed {seed}");
                bytes[usize::from(file.data.get(8_192) == Some(&2))] += 1;
            }
            names[usize::from(tree.file("other").is_some())] += 1;
        }
        assert!(names.iter().chain(&bytes).all(|count| *count > 3), "{names:?} {bytes:?}");
    }

    #[test]
    fn a_name_is_not_durable_before_its_directory_is() {
        let lost = |names| {
            (0..40).any(|seed| {
                let disk = Disk::new(names, false);
                let ino = file(&disk, "new");
                disk.write(ino, 0, b"data").unwrap();
                disk.sync(Some(ino)).unwrap();
                let found = disk.after(Loss::Power, &mut Chance::new(seed)).unwrap();
                found.lookup(ROOT, b"new").is_err()
            })
        };
        assert!(lost(Names::Strict) && !lost(Names::Journaled));
    }

    #[test]
    fn after_the_cut_nothing_is_written() {
        let disk = Disk::new(Names::Strict, false);
        disk.cut_at(2);
        let ino = file(&disk, "a");
        assert!(disk.write(ino, 0, b"torn").is_err() && disk.is_cut());
        assert!(disk.sync(Some(ino)).is_err());
        assert!(disk.unlink(ROOT, b"a").is_err());
        let found = disk.after(Loss::Process, &mut Chance::new(1)).unwrap();
        assert_eq!(found.getattr(found.lookup(ROOT, b"a").unwrap().ino).unwrap().size, 4);
    }
}
