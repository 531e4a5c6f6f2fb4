//! Making names: files, directories, links, and inodes without any.

use bytes::Bytes;
use vfs::{Attr, Errno, FsError, Ino, Kind, Owner, Result, check_name};

use crate::limits::{LINKS_MAX, SYMLINK_BYTES_MAX};
use crate::meta::inode::{Inode, Tier};
use crate::meta::rows::{Entry, Rows as _};
use crate::meta::tx::Tx;

/// What a new inode is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct New {
    pub(crate) kind: Kind,
    pub(crate) perm: u32,
    pub(crate) owner: Owner,
    pub(crate) rdev: u32,
}

/// Makes an inode and names it.
pub(crate) fn make(tx: &mut Tx<'_>, parent: Ino, name: &[u8], new: New) -> Result<Inode> {
    let directory = directory_for_new(tx, parent, name)?;
    let mut inode = fresh(tx, new);
    inherit_group(&directory, &mut inode);
    if new.kind == Kind::Directory {
        inode.nlink = 2;
        inode.parent = parent;
    } else {
        inode.nlink = 1;
    }
    tx.save(&inode);
    if new.kind == Kind::Directory {
        tx.made_directory(inode.ino);
    }
    add_entry(tx, parent, name, inode.ino)?;
    tx.directory_changed(parent, i64::from(new.kind == Kind::Directory))?;
    Ok(inode)
}

/// Makes a symbolic link.
pub(crate) fn symlink(
    tx: &mut Tx<'_>,
    parent: Ino,
    name: &[u8],
    target: &[u8],
    owner: Owner,
) -> Result<Attr> {
    if target.len() > SYMLINK_BYTES_MAX {
        return Err(FsError::new(Errno::ENAMETOOLONG));
    }
    if target.is_empty() {
        return Err(FsError::new(Errno::ENOENT));
    }
    if target.contains(&0) {
        return Err(FsError::new(Errno::EINVAL));
    }
    let new = New { kind: Kind::Symlink, perm: 0o777, owner, rdev: 0 };
    let mut inode = make(tx, parent, name, new)?;
    inode.size = target.len() as u64;
    tx.save(&inode);
    tx.put_blob(inode.ino, Some(Bytes::copy_from_slice(target)));
    Ok(inode.attr())
}

/// Gives `ino` another name. What is wrong with the name is said first, as Linux does.
pub(crate) fn link(tx: &mut Tx<'_>, ino: Ino, parent: Ino, name: &[u8]) -> Result<Attr> {
    let mut inode = tx.get(ino)?;
    directory_for_new(tx, parent, name)?;
    if inode.kind == Kind::Directory {
        return Err(FsError::new(Errno::EPERM));
    }
    if inode.nlink == 0 && !is_detached(tx, ino)? {
        return Err(FsError::new(Errno::ENOENT));
    }
    if inode.nlink >= LINKS_MAX {
        return Err(FsError::new(Errno::EMLINK));
    }
    add_entry(tx, parent, name, ino)?;
    settle(tx, &inode)?;
    inode.nlink += 1;
    tx.attrs_changed(&mut inode);
    tx.save(&inode);
    tx.directory_changed(parent, 0)?;
    Ok(inode.attr())
}

/// Makes an inode that no directory names.
pub(crate) fn detached(tx: &mut Tx<'_>, new: New) -> Result<Attr> {
    tx.check_room()?;
    let mut inode = fresh(tx, new);
    if new.kind == Kind::Directory {
        inode.nlink = 2;
        inode.parent = inode.ino;
        tx.made_directory(inode.ino);
    }
    tx.save(&inode);
    tx.put_orphan(inode.ino, Some(true));
    tx.shared.pins.orphaned(inode.ino);
    Ok(inode.attr())
}

/// The directory, if a new name may be made in it.
pub(crate) fn directory_for_new(tx: &Tx<'_>, parent: Ino, name: &[u8]) -> Result<Inode> {
    check_name(name)?;
    let directory = tx.get_dir(parent)?;
    if directory.nlink == 0 {
        return Err(FsError::new(Errno::ENOENT));
    }
    if tx.entry(parent, name)?.is_some() {
        return Err(FsError::new(Errno::EEXIST));
    }
    tx.check_room()?;
    Ok(directory)
}

/// Writes a new entry.
pub(crate) fn add_entry(tx: &mut Tx<'_>, parent: Ino, name: &[u8], ino: Ino) -> Result<()> {
    let cookie = tx.next_cookie();
    tx.put_entry(parent, name, Some(Entry { ino, cookie }))
}

/// Makes an existing entry name something else. It keeps its cookie: the name was there all along.
pub(crate) fn retarget(tx: &mut Tx<'_>, parent: Ino, name: &[u8], ino: Ino) -> Result<()> {
    let Some(entry) = tx.entry(parent, name)? else { return Ok(()) };
    tx.put_entry(parent, name, Some(Entry { ino, ..entry }))
}

/// Removes an entry.
pub(crate) fn remove_entry(tx: &mut Tx<'_>, parent: Ino, name: &[u8]) -> Result<()> {
    tx.put_entry(parent, name, None)
}

/// True of an inode that never had a name.
pub(crate) fn is_detached(tx: &Tx<'_>, ino: Ino) -> Result<bool> {
    Ok(tx.orphan(ino)?.unwrap_or(false))
}

/// An inode that gets its first name is no orphan any more.
pub(crate) fn settle(tx: &mut Tx<'_>, inode: &Inode) -> Result<()> {
    if inode.nlink == 0 {
        tx.put_orphan(inode.ino, None);
        tx.shared.pins.settled(inode.ino);
    }
    Ok(())
}

/// A directory with the set-group-id bit hands its group down, and the bit to directories.
fn inherit_group(directory: &Inode, inode: &mut Inode) {
    if directory.perm & 0o2000 != 0 {
        inode.owner.gid = directory.owner.gid;
        if inode.kind == Kind::Directory {
            inode.perm |= 0o2000;
        }
    }
}

pub(super) fn fresh(tx: &mut Tx<'_>, new: New) -> Inode {
    tx.counters.inodes_used += 1;
    let rdev = match new.kind {
        Kind::CharDevice | Kind::BlockDevice => new.rdev,
        _ => 0,
    };
    Inode {
        ino: tx.next_ino(),
        kind: new.kind,
        perm: new.perm & 0o7777,
        nlink: 0,
        owner: new.owner,
        rdev,
        size: 0,
        alloc: 0,
        atime: tx.now,
        mtime: tx.now,
        ctime: tx.now,
        btime: tx.now,
        version: tx.next_version(),
        tier: Tier::Inline,
        parent: 0,
    }
}
