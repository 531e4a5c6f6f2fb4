//! Making names: files, directories, links, and inodes without any.

use rusqlite::params;
use vfs::{Attr, Errno, FsError, Ino, Kind, Owner, Result, check_name};

use crate::limits::{LINKS_MAX, SYMLINK_BYTES_MAX};
use crate::meta::inode::{Inode, Tier};
use crate::meta::sql::{self, int, uint};
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
    inode.save(tx.conn)?;
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
    inode.save(tx.conn)?;
    sql::run(tx.conn, "INSERT INTO blob VALUES(?1,?2)", params![int(inode.ino), target])?;
    Ok(inode.attr())
}

/// Gives `ino` another name.
pub(crate) fn link(tx: &mut Tx<'_>, ino: Ino, parent: Ino, name: &[u8]) -> Result<Attr> {
    let mut inode = Inode::get(tx.conn, ino)?;
    if inode.kind == Kind::Directory {
        return Err(FsError::new(Errno::EPERM));
    }
    if inode.nlink == 0 && !is_detached(tx, ino)? {
        return Err(FsError::new(Errno::ENOENT));
    }
    if inode.nlink >= LINKS_MAX {
        return Err(FsError::new(Errno::EMLINK));
    }
    directory_for_new(tx, parent, name)?;
    add_entry(tx, parent, name, ino)?;
    settle(tx, &inode)?;
    inode.nlink += 1;
    tx.attrs_changed(&mut inode);
    inode.save(tx.conn)?;
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
    }
    inode.save(tx.conn)?;
    sql::run(tx.conn, "INSERT INTO orphan VALUES(?1,1)", [int(inode.ino)])?;
    tx.shared.pins.orphaned(inode.ino);
    Ok(inode.attr())
}

/// The directory, if a new name may be made in it.
pub(crate) fn directory_for_new(tx: &Tx<'_>, parent: Ino, name: &[u8]) -> Result<Inode> {
    check_name(name)?;
    let directory = Inode::get_dir(tx.conn, parent)?;
    if directory.nlink == 0 {
        return Err(FsError::new(Errno::ENOENT));
    }
    if entry(tx, parent, name)?.is_some() {
        return Err(FsError::new(Errno::EEXIST));
    }
    tx.check_room()?;
    Ok(directory)
}

/// The inode number behind a name.
pub(crate) fn entry(tx: &Tx<'_>, parent: Ino, name: &[u8]) -> Result<Option<Ino>> {
    const SQL: &str = "SELECT ino FROM dentry WHERE parent=?1 AND name=?2";
    sql::first(tx.conn, SQL, params![int(parent), name], |r| uint(r, 0))
}

/// Writes a new entry.
pub(crate) fn add_entry(tx: &mut Tx<'_>, parent: Ino, name: &[u8], ino: Ino) -> Result<()> {
    let cookie = tx.next_cookie();
    const SQL: &str = "INSERT INTO dentry VALUES(?1,?2,?3,?4)";
    sql::run(tx.conn, SQL, params![int(parent), name, int(ino), int(cookie)])?;
    Ok(())
}

/// Makes an existing entry name something else. It keeps its cookie: the name was there all along.
pub(crate) fn retarget(tx: &Tx<'_>, parent: Ino, name: &[u8], ino: Ino) -> Result<()> {
    const SQL: &str = "UPDATE dentry SET ino=?3 WHERE parent=?1 AND name=?2";
    sql::run(tx.conn, SQL, params![int(parent), name, int(ino)])?;
    Ok(())
}

/// Removes an entry.
pub(crate) fn remove_entry(tx: &Tx<'_>, parent: Ino, name: &[u8]) -> Result<()> {
    const SQL: &str = "DELETE FROM dentry WHERE parent=?1 AND name=?2";
    sql::run(tx.conn, SQL, params![int(parent), name])?;
    Ok(())
}

/// True of an inode that never had a name.
pub(crate) fn is_detached(tx: &Tx<'_>, ino: Ino) -> Result<bool> {
    const SQL: &str = "SELECT detached FROM orphan WHERE ino=?1";
    Ok(sql::first(tx.conn, SQL, [int(ino)], |r| r.get::<_, bool>(0))?.unwrap_or(false))
}

/// An inode that gets its first name is no orphan any more.
pub(crate) fn settle(tx: &Tx<'_>, inode: &Inode) -> Result<()> {
    if inode.nlink == 0 {
        sql::run(tx.conn, "DELETE FROM orphan WHERE ino=?1", [int(inode.ino)])?;
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

fn fresh(tx: &mut Tx<'_>, new: New) -> Inode {
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
