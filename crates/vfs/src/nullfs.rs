//! A file system that keeps names and attributes and throws content away.
//!
//! What is left of a piece of work on it is what its caller costs: the FUSE layer, a kernel. Content
//! reads as zeros of the size that was written. Benchmarks use it, nothing that users reach.
//!
//! # Not here
//! All that benchmarks have no need of: links, extended attributes, renames over what exists by
//! other rules than "replace", checks, clocks (times are counted, so that each change has a later one).

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::{
    Attr, DirEntry, Errno, Expect, FileSystem, FsError, Graft, Ino, Kind, Owner, Placed, ROOT,
    RenameFlags, Result, SeekFrom, SetAttr, SetTime, StatFs, Time, Touched, XattrMode,
};

/// What every read answers from.
static ZEROS: [u8; 1 << 20] = [0; 1 << 20];

/// See the module.
#[derive(Debug)]
pub struct NullFs {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    nodes: HashMap<Ino, Node>,
    last: u64,
}

#[derive(Debug)]
struct Node {
    attr: Attr,
    pins: u64,
    /// Names of a directory with their cookies.
    names: HashMap<Vec<u8>, (u64, Ino)>,
    order: BTreeMap<u64, Vec<u8>>,
    target: Vec<u8>,
}

impl Default for NullFs {
    fn default() -> Self {
        let mut state = State { nodes: HashMap::new(), last: ROOT };
        let root = state.node(ROOT, Kind::Directory, 0o755, Owner::default(), 0);
        state.nodes.insert(ROOT, root);
        Self { state: Mutex::new(state) }
    }
}

impl State {
    fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    fn node(&mut self, ino: Ino, kind: Kind, perm: u32, owner: Owner, rdev: u32) -> Node {
        let now = self.time();
        let (atime, mtime, ctime, btime) = (now, now, now, now);
        let nlink = if kind == Kind::Directory { 2 } else { 1 };
        let (size, blocks, version) = (0, 0, 1);
        let attr = Attr {
            ino,
            kind,
            perm,
            nlink,
            owner,
            rdev,
            size,
            blocks,
            atime,
            mtime,
            ctime,
            btime,
            version,
        };
        Node { attr, pins: 0, names: HashMap::new(), order: BTreeMap::new(), target: Vec::new() }
    }

    fn time(&mut self) -> Time {
        let count = i64::try_from(self.next()).unwrap_or(0);
        Time(Time::from_parts(1_700_000_000, 0).0.saturating_add(count.saturating_mul(1000)))
    }

    fn get(&mut self, ino: Ino) -> Result<&mut Node> {
        self.nodes.get_mut(&ino).ok_or(FsError::new(Errno::ENOENT))
    }

    fn find(&mut self, parent: Ino, name: &[u8]) -> Result<(u64, Ino)> {
        self.get(parent)?.names.get(name).copied().ok_or(FsError::new(Errno::ENOENT))
    }

    fn name(&mut self, parent: Ino, name: &[u8], ino: Ino) -> Result<()> {
        let cookie = self.next();
        let directory = self.get(parent)?;
        if let Some((old, _)) = directory.names.insert(name.to_vec(), (cookie, ino)) {
            directory.order.remove(&old);
        }
        directory.order.insert(cookie, name.to_vec());
        Ok(())
    }

    fn unname(&mut self, parent: Ino, name: &[u8]) -> Result<Ino> {
        let (cookie, ino) = self.find(parent, name)?;
        let directory = self.get(parent)?;
        directory.names.remove(name);
        directory.order.remove(&cookie);
        Ok(ino)
    }

    fn drop_unused(&mut self, ino: Ino) {
        if self.nodes.get(&ino).is_some_and(|node| node.attr.nlink == 0 && node.pins == 0) {
            self.nodes.remove(&ino);
        }
    }

    fn make(&mut self, parent: Ino, name: &[u8], node: Node) -> Result<Attr> {
        if self.get(parent)?.names.contains_key(name) {
            return Err(FsError::new(Errno::EEXIST));
        }
        let attr = node.attr;
        self.name(parent, name, attr.ino)?;
        self.nodes.insert(attr.ino, node);
        Ok(attr)
    }
}

fn unsupported<T>() -> Result<T> {
    Err(FsError::new(Errno::EOPNOTSUPP))
}

impl FileSystem for NullFs {
    fn lookup(&self, parent: Ino, name: &[u8]) -> Result<Attr> {
        let mut state = self.state.lock();
        let (_, ino) = state.find(parent, name)?;
        Ok(state.get(ino)?.attr)
    }
    fn getattr(&self, ino: Ino) -> Result<Attr> {
        Ok(self.state.lock().get(ino)?.attr)
    }
    fn setattr(&self, ino: Ino, set: &SetAttr) -> Result<Attr> {
        let mut state = self.state.lock();
        let now = state.time();
        let attr = &mut state.get(ino)?.attr;
        let time = |set: Option<SetTime>, old| match set {
            None => old,
            Some(SetTime::Now) => now,
            Some(SetTime::At(time)) => time,
        };
        attr.perm = set.perm.unwrap_or(attr.perm);
        attr.owner.uid = set.uid.unwrap_or(attr.owner.uid);
        attr.owner.gid = set.gid.unwrap_or(attr.owner.gid);
        attr.size = set.size.unwrap_or(attr.size);
        attr.blocks = attr.size.div_ceil(512);
        attr.atime = time(set.atime, attr.atime);
        attr.mtime = time(set.mtime, attr.mtime);
        attr.ctime = now;
        Ok(*attr)
    }
    fn pin(&self, ino: Ino) {
        if let Ok(node) = self.state.lock().get(ino) {
            node.pins += 1;
        }
    }
    fn unpin(&self, ino: Ino) {
        let mut state = self.state.lock();
        if let Ok(node) = state.get(ino) {
            node.pins = node.pins.saturating_sub(1);
        }
        state.drop_unused(ino);
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
        let mut state = self.state.lock();
        let ino = state.next();
        let node = state.node(ino, kind, perm, owner, rdev);
        state.make(parent, name, node)
    }
    fn symlink(&self, parent: Ino, name: &[u8], target: &[u8], owner: Owner) -> Result<Attr> {
        let mut state = self.state.lock();
        let ino = state.next();
        let mut node = state.node(ino, Kind::Symlink, 0o777, owner, 0);
        node.attr.size = target.len() as u64;
        node.target = target.to_vec();
        state.make(parent, name, node)
    }
    fn readlink(&self, ino: Ino) -> Result<Vec<u8>> {
        Ok(self.state.lock().get(ino)?.target.clone())
    }
    fn link(&self, ino: Ino, parent: Ino, name: &[u8]) -> Result<Attr> {
        let mut state = self.state.lock();
        state.get(ino)?.attr.nlink += 1;
        state.name(parent, name, ino)?;
        Ok(state.get(ino)?.attr)
    }
    fn unlink(&self, parent: Ino, name: &[u8]) -> Result<()> {
        let mut state = self.state.lock();
        let ino = state.unname(parent, name)?;
        let attr = &mut state.get(ino)?.attr;
        attr.nlink = attr.nlink.saturating_sub(1);
        state.drop_unused(ino);
        Ok(())
    }
    fn rmdir(&self, parent: Ino, name: &[u8]) -> Result<()> {
        let mut state = self.state.lock();
        let (_, ino) = state.find(parent, name)?;
        let node = state.get(ino)?;
        if !node.names.is_empty() {
            return Err(FsError::new(Errno::ENOTEMPTY));
        }
        node.attr.nlink = 0;
        state.unname(parent, name)?;
        state.drop_unused(ino);
        Ok(())
    }
    fn rename(
        &self,
        parent: Ino,
        name: &[u8],
        new_parent: Ino,
        new_name: &[u8],
        _: RenameFlags,
    ) -> Result<()> {
        let mut state = self.state.lock();
        let ino = state.unname(parent, name)?;
        if let Ok(old) = state.unname(new_parent, new_name) {
            state.get(old)?.attr.nlink = 0;
            state.drop_unused(old);
        }
        state.name(new_parent, new_name, ino)
    }
    fn readdir(&self, ino: Ino, cookie: u64, max: usize) -> Result<Vec<DirEntry>> {
        let mut state = self.state.lock();
        let from = (std::ops::Bound::Excluded(cookie), std::ops::Bound::Unbounded);
        let directory = state.get(ino)?;
        let found: Vec<(u64, Vec<u8>, Ino)> = (directory.order.range(from).take(max))
            .filter_map(|(cookie, name)| {
                Some((*cookie, name.clone(), directory.names.get(name)?.1))
            })
            .collect();
        found
            .into_iter()
            .map(|(cookie, name, ino)| Ok(DirEntry { name, attr: state.get(ino)?.attr, cookie }))
            .collect()
    }
    fn read(&self, ino: Ino, offset: u64, len: u32) -> Result<Bytes> {
        let left = self.state.lock().get(ino)?.attr.size.saturating_sub(offset);
        let len = usize::try_from(left.min(u64::from(len))).unwrap_or(0);
        Ok(Bytes::from_static(&ZEROS[..len.min(ZEROS.len())]))
    }
    fn write(&self, ino: Ino, offset: u64, data: &[u8]) -> Result<()> {
        let mut state = self.state.lock();
        let now = state.time();
        let attr = &mut state.get(ino)?.attr;
        attr.size = attr.size.max(offset.saturating_add(data.len() as u64));
        attr.blocks = attr.size.div_ceil(512);
        (attr.mtime, attr.ctime) = (now, now);
        Ok(())
    }
    fn fallocate(&self, _: Ino, _: u32, _: u64, _: u64) -> Result<()> {
        unsupported()
    }
    fn seek(&self, ino: Ino, from: SeekFrom) -> Result<u64> {
        let size = self.state.lock().get(ino)?.attr.size;
        match from {
            SeekFrom::Data(offset) if offset < size => Ok(offset),
            SeekFrom::Hole(offset) if offset < size => Ok(size),
            _ => Err(FsError::new(Errno::ENXIO)),
        }
    }
    fn getxattr(&self, _: Ino, _: &[u8]) -> Result<Vec<u8>> {
        Err(FsError::new(Errno::ENODATA))
    }
    fn setxattr(&self, _: Ino, _: &[u8], _: &[u8], _: XattrMode) -> Result<()> {
        unsupported()
    }
    fn listxattr(&self, _: Ino) -> Result<Vec<Vec<u8>>> {
        Ok(Vec::new())
    }
    fn removexattr(&self, _: Ino, _: &[u8]) -> Result<()> {
        Err(FsError::new(Errno::ENODATA))
    }
    fn statfs(&self) -> Result<StatFs> {
        let inodes_used = self.state.lock().nodes.len() as u64;
        Ok(StatFs { bytes_max: 1 << 50, bytes_used: 0, inodes_used })
    }
    fn sync_local(&self) -> Result<()> {
        Ok(())
    }
    fn sync(&self, _: Option<Ino>) -> Result<()> {
        Ok(())
    }
    fn create_detached(&self, _: Kind, _: u32, _: Owner) -> Result<Attr> {
        unsupported()
    }
    fn place(&self, _: Ino, _: Ino, _: &[&[u8]], _: Expect) -> Result<Placed> {
        unsupported()
    }
    fn graft(&self, _: &Graft<'_>) -> Result<Touched> {
        unsupported()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_sizes_are_kept_and_content_is_not() {
        let fs = NullFs::default();
        let dir = fs.mknod(ROOT, b"dir", Kind::Directory, 0o755, Owner::default(), 0).unwrap();
        let file = fs.mknod(dir.ino, b"a", Kind::File, 0o644, Owner::default(), 0).unwrap();
        fs.write(file.ino, 3, b"xyz").unwrap();
        assert_eq!(fs.lookup(dir.ino, b"a").unwrap().size, 6);
        assert_eq!(&fs.read(file.ino, 4, 10).unwrap()[..], [0, 0]);
        assert_eq!(fs.readdir(dir.ino, 0, 10).unwrap().len(), 1);
        assert_eq!(fs.rmdir(ROOT, b"dir").unwrap_err().errno(), Errno::ENOTEMPTY);
        fs.pin(file.ino);
        fs.unlink(dir.ino, b"a").unwrap();
        assert!(fs.getattr(file.ino).is_ok(), "it is pinned");
        fs.unpin(file.ino);
        assert!(fs.getattr(file.ino).is_err());
        fs.rmdir(ROOT, b"dir").unwrap();
        assert_eq!(fs.statfs().unwrap().inodes_used, 1);
    }
}
