//! Inodes, their attributes, pins and extended attributes.

use std::collections::BTreeMap;
use std::sync::Arc;

use base::Clock;

use super::content::{Content, PAGE, SIZE_MAX};
use crate::{
    Attr, Errno, Ino, Kind, Owner, ROOT, Result, SetAttr, SetTime, StatFs, Time, XattrMode,
};

/// Longest name of an extended attribute (Linux `XATTR_NAME_MAX`).
const XATTR_NAME_BYTES_MAX: usize = 255;
/// Largest value of one (Linux `XATTR_SIZE_MAX`).
const XATTR_VALUE_BYTES_MAX: usize = 64 << 10;

/// Everything. A clone is a copy.
#[derive(Debug, Clone)]
pub(super) struct State {
    pub(super) inodes: BTreeMap<Ino, Inode>,
    next_ino: Ino,
    next_version: u64,
    last_time: Time,
    clock: Arc<dyn Clock>,
    bytes_max: u64,
}

#[derive(Debug, Clone)]
pub(super) struct Inode {
    /// `size` and `blocks` are filled in by [`State::attr`].
    pub(super) attr: Attr,
    pub(super) body: Body,
    pub(super) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(super) pins: u64,
    /// Made aside, and not named since: `place`, `graft` and `link` take it. One that lost its last
    /// name is as invisible, but gets none again.
    pub(super) detached: bool,
}

#[derive(Debug, Clone)]
pub(super) enum Body {
    File(Content),
    Directory(Directory),
    Symlink(Vec<u8>),
    /// A fifo, socket or device.
    Special,
}

#[derive(Debug, Clone)]
pub(super) struct Directory {
    pub(super) names: BTreeMap<Vec<u8>, Name>,
    pub(super) cookies: BTreeMap<u64, Vec<u8>>,
    pub(super) next_cookie: u64,
    /// The directory that names this one; itself for the root, `None` for one that is detached or
    /// removed.
    pub(super) parent: Option<Ino>,
    /// Removed: it takes no more entries.
    pub(super) removed: bool,
}

/// What a name stands for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Name {
    pub(super) ino: Ino,
    pub(super) cookie: u64,
}

impl Directory {
    fn new() -> Self {
        let (names, cookies) = (BTreeMap::new(), BTreeMap::new());
        Self { names, cookies, next_cookie: 1, parent: None, removed: false }
    }
}

impl State {
    pub(super) fn new(clock: Arc<dyn Clock>, bytes_max: u64) -> Self {
        let mut state = Self {
            inodes: BTreeMap::new(),
            next_ino: ROOT,
            next_version: 1,
            last_time: Time(i64::MIN),
            clock,
            bytes_max,
        };
        let root = state.add(Kind::Directory, 0o755, Owner::default(), 0);
        if let Some(Inode { attr, body: Body::Directory(directory), detached, .. }) =
            state.inodes.get_mut(&root)
        {
            directory.parent = Some(ROOT);
            attr.nlink = 2;
            *detached = false;
        }
        state
    }

    /// Later than every time before.
    pub(super) fn now(&mut self) -> Time {
        let nanos = i64::try_from(self.clock.now().as_nanosecond()).unwrap_or(i64::MAX);
        self.last_time = Time(nanos.max(self.last_time.0.saturating_add(1)));
        self.last_time
    }

    /// A new inode without a name.
    pub(super) fn add(&mut self, kind: Kind, perm: u32, owner: Owner, rdev: u32) -> Ino {
        let (ino, now) = (self.next_ino, self.now());
        self.next_ino += 1;
        let rdev = if matches!(kind, Kind::CharDevice | Kind::BlockDevice) { rdev } else { 0 };
        let nlink = if kind == Kind::Directory { 2 } else { 0 };
        let attr = Attr {
            ino,
            kind,
            perm: perm & 0o7777,
            nlink,
            owner,
            rdev,
            size: 0,
            blocks: 0,
            atime: now,
            mtime: now,
            ctime: now,
            btime: now,
            version: self.next_version,
        };
        self.next_version += 1;
        let body = match kind {
            Kind::File => Body::File(Content::default()),
            Kind::Directory => Body::Directory(Directory::new()),
            Kind::Symlink => Body::Symlink(Vec::new()),
            Kind::Fifo | Kind::Socket | Kind::CharDevice | Kind::BlockDevice => Body::Special,
        };
        let xattrs = BTreeMap::new();
        self.inodes.insert(ino, Inode { attr, body, xattrs, pins: 0, detached: true });
        ino
    }

    pub(super) fn inode(&self, ino: Ino) -> Result<&Inode> {
        self.inodes.get(&ino).ok_or_else(|| Errno::ENOENT.into())
    }

    pub(super) fn inode_mut(&mut self, ino: Ino) -> Result<&mut Inode> {
        self.inodes.get_mut(&ino).ok_or_else(|| Errno::ENOENT.into())
    }

    pub(super) fn attr(&self, ino: Ino) -> Result<Attr> {
        let inode = self.inode(ino)?;
        let (size, blocks) = match &inode.body {
            Body::File(content) => (content.size(), content.allocated() / 512),
            Body::Directory(_) => (PAGE, 0),
            Body::Symlink(target) => (target.len() as u64, 0),
            Body::Special => (0, 0),
        };
        Ok(Attr { size, blocks, ..inode.attr })
    }

    /// Content changed: `mtime`, `ctime` and version.
    pub(super) fn content_changed(&mut self, ino: Ino) {
        let now = self.now();
        if let Some(inode) = self.inodes.get_mut(&ino) {
            inode.attr.mtime = now;
        }
        self.attributes_changed(ino);
    }

    /// Attributes changed: `ctime` and version.
    pub(super) fn attributes_changed(&mut self, ino: Ino) {
        let (now, version) = (self.now(), self.next_version);
        self.next_version += 1;
        if let Some(inode) = self.inodes.get_mut(&ino) {
            inode.attr.ctime = now;
            inode.attr.version = version;
        }
    }

    pub(super) fn setattr(&mut self, ino: Ino, set: &SetAttr) -> Result<Attr> {
        self.inode(ino)?;
        if let Some(size) = set.size {
            self.content(ino)?;
            if size > SIZE_MAX {
                return Err(Errno::EFBIG.into());
            }
            self.content_mut(ino)?.resize(size);
            self.content_changed(ino);
        } else {
            self.attributes_changed(ino);
        }
        let now = self.now();
        let attr = &mut self.inode_mut(ino)?.attr;
        let time = |set: SetTime| match set {
            SetTime::Now => now,
            SetTime::At(time) => time,
        };
        attr.perm = set.perm.map_or(attr.perm, |perm| perm & 0o7777);
        attr.owner.uid = set.uid.unwrap_or(attr.owner.uid);
        attr.owner.gid = set.gid.unwrap_or(attr.owner.gid);
        attr.atime = set.atime.map_or(attr.atime, time);
        attr.mtime = set.mtime.map_or(attr.mtime, time);
        self.attr(ino)
    }

    pub(super) fn pin(&mut self, ino: Ino) {
        if let Some(inode) = self.inodes.get_mut(&ino) {
            inode.pins += 1;
        }
    }

    pub(super) fn unpin(&mut self, ino: Ino) {
        if let Some(inode) = self.inodes.get_mut(&ino) {
            inode.pins = inode.pins.saturating_sub(1);
            self.free_if_unused(ino);
        }
    }

    /// Drops `ino` where nothing names and nothing pins it, and with a directory what it holds.
    pub(super) fn free_if_unused(&mut self, ino: Ino) {
        let Some(inode) = self.inodes.get(&ino) else { return };
        let named = match &inode.body {
            Body::Directory(directory) => directory.parent.is_some(),
            _ => inode.attr.nlink > 0,
        };
        if named || inode.pins > 0 {
            return;
        }
        let Some(Inode { body: Body::Directory(directory), .. }) = self.inodes.remove(&ino) else {
            return;
        };
        for Name { ino: child, .. } in directory.names.into_values() {
            self.drop_link(child);
        }
    }

    /// One name less for `ino`. What a directory holds goes with its name, also where the
    /// directory itself is pinned.
    pub(super) fn drop_link(&mut self, ino: Ino) {
        self.attributes_changed(ino);
        let mut held = BTreeMap::new();
        if let Some(inode) = self.inodes.get_mut(&ino) {
            match &mut inode.body {
                Body::Directory(directory) => {
                    directory.parent = None;
                    directory.removed = true;
                    directory.cookies.clear();
                    held = std::mem::take(&mut directory.names);
                    inode.attr.nlink = 0;
                }
                _ => inode.attr.nlink = inode.attr.nlink.saturating_sub(1),
            }
        }
        for Name { ino: child, .. } in held.into_values() {
            self.drop_link(child);
        }
        self.free_if_unused(ino);
    }

    pub(super) fn statfs(&self) -> StatFs {
        StatFs {
            bytes_max: self.bytes_max,
            bytes_used: self.allocated(),
            inodes_used: self.inodes.len() as u64,
        }
    }

    /// `ENOSPC` where `more` bytes do not fit.
    pub(super) fn check_room(&self, more: u64) -> Result<()> {
        if self.allocated().saturating_add(more) > self.bytes_max {
            return Err(Errno::ENOSPC.into());
        }
        Ok(())
    }

    fn allocated(&self) -> u64 {
        let bytes = |inode: &Inode| match &inode.body {
            Body::File(content) => content.allocated(),
            _ => 0,
        };
        self.inodes.values().map(bytes).sum()
    }

    pub(super) fn getxattr(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>> {
        self.inode(ino)?.xattrs.get(name).cloned().ok_or_else(|| Errno::ENODATA.into())
    }

    pub(super) fn setxattr(
        &mut self,
        ino: Ino,
        name: &[u8],
        value: &[u8],
        mode: XattrMode,
    ) -> Result<()> {
        if name.is_empty() || name.len() > XATTR_NAME_BYTES_MAX || name.contains(&0) {
            return Err(Errno::ERANGE.into());
        }
        if value.len() > XATTR_VALUE_BYTES_MAX {
            let why = "an extended attribute has a value of more than 64 KiB";
            return Err(crate::FsError::of_kind(base::ErrorKind::TooLarge, Errno::ENOSPC, why));
        }
        let xattrs = &mut self.inode_mut(ino)?.xattrs;
        match (mode, xattrs.contains_key(name)) {
            (XattrMode::Create, true) => return Err(Errno::EEXIST.into()),
            (XattrMode::Replace, false) => return Err(Errno::ENODATA.into()),
            _ => {}
        }
        xattrs.insert(name.to_vec(), value.to_vec());
        self.attributes_changed(ino);
        Ok(())
    }

    pub(super) fn listxattr(&self, ino: Ino) -> Result<Vec<Vec<u8>>> {
        Ok(self.inode(ino)?.xattrs.keys().cloned().collect())
    }

    pub(super) fn removexattr(&mut self, ino: Ino, name: &[u8]) -> Result<()> {
        if self.inode_mut(ino)?.xattrs.remove(name).is_none() {
            return Err(Errno::ENODATA.into());
        }
        self.attributes_changed(ino);
        Ok(())
    }
}
