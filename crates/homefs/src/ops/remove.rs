//! Removing names, and inodes once nothing needs them.

use vfs::{Errno, FsError, Ino, Kind, ROOT, Result, Touched, check_name};

use super::names;
use crate::meta::inode::Inode;
use crate::meta::rows::{Entry, Rows as _};
use crate::meta::sql::{self, uint};
use crate::meta::tx::Tx;

/// Removes a name that is not a directory.
pub(crate) fn unlink(tx: &mut Tx<'_>, parent: Ino, name: &[u8]) -> Result<()> {
    let inode = named(tx, parent, name)?;
    if inode.kind == Kind::Directory {
        return Err(FsError::new(Errno::EISDIR));
    }
    names::remove_entry(tx, parent, name)?;
    tx.directory_changed(parent, 0)?;
    lose_name(tx, inode)
}

/// Removes an empty directory.
pub(crate) fn rmdir(tx: &mut Tx<'_>, parent: Ino, name: &[u8]) -> Result<()> {
    let inode = named(tx, parent, name)?;
    if inode.kind != Kind::Directory {
        return Err(FsError::new(Errno::ENOTDIR));
    }
    if !tx.is_empty(inode.ino)? {
        return Err(FsError::new(Errno::ENOTEMPTY));
    }
    names::remove_entry(tx, parent, name)?;
    tx.directory_changed(parent, -1)?;
    lose_name(tx, inode)
}

/// Removes a name with all below it; false where there was none.
pub(crate) fn remove_tree(
    tx: &mut Tx<'_>,
    parent: Ino,
    name: &[u8],
    touched: &mut Touched,
) -> Result<bool> {
    let Some(Entry { ino, .. }) = tx.entry(parent, name)? else { return Ok(false) };
    let inode = tx.get(ino)?;
    let directory = inode.kind == Kind::Directory;
    names::remove_entry(tx, parent, name)?;
    tx.directory_changed(parent, -i64::from(directory))?;
    touched.entries.push((parent, name.to_vec()));
    touched.inodes.push(parent);
    if directory {
        clear_directory(tx, ino, touched)?;
    }
    touched.inodes.push(ino);
    lose_name(tx, inode)?;
    Ok(true)
}

/// Removes everything in a directory, however deep it is.
pub(crate) fn clear_directory(tx: &mut Tx<'_>, ino: Ino, touched: &mut Touched) -> Result<()> {
    // In parts, so that a directory of millions is not held in memory.
    let mut open = vec![ino];
    while let Some(&directory) = open.last() {
        let entries = tx.list(directory, 0, 1_024)?;
        if entries.is_empty() {
            open.pop();
            if directory != ino {
                let emptied = tx.get(directory)?;
                lose_name(tx, emptied)?;
            }
            continue;
        }
        for (name, entry) in entries {
            names::remove_entry(tx, directory, &name)?;
            touched.entries.push((directory, name.to_vec()));
            touched.inodes.push(entry.ino);
            let child = tx.get(entry.ino)?;
            if child.kind == Kind::Directory {
                open.push(child.ino);
            } else {
                lose_name(tx, child)?;
            }
        }
    }
    Ok(())
}

/// One name less. The last one frees the inode, or makes it an orphan while someone holds it.
pub(crate) fn lose_name(tx: &mut Tx<'_>, mut inode: Inode) -> Result<()> {
    inode.nlink = match inode.kind {
        Kind::Directory => 0,
        _ => inode.nlink.saturating_sub(1),
    };
    if inode.nlink == 0 {
        if !tx.shared.pins.outlives_its_name(inode.ino) {
            return free(tx, &inode);
        }
        tx.put_orphan(inode.ino, Some(false));
    }
    tx.attrs_changed(&mut inode);
    tx.save(&inode);
    Ok(())
}

/// Frees an inode that lost its last pin, if it has no name either.
pub(crate) fn free_if_orphan(tx: &mut Tx<'_>, ino: Ino) -> Result<()> {
    if tx.orphan(ino)?.is_none() {
        // The change that was to take its name failed.
        tx.shared.pins.settled(ino);
        return Ok(());
    }
    if tx.shared.pins.is_pinned(ino) {
        return Ok(());
    }
    if let Some(inode) = tx.find(ino)? {
        if inode.kind == Kind::Directory {
            clear_directory(tx, ino, &mut Touched::default())?;
        }
        free(tx, &inode)?;
    }
    tx.put_orphan(ino, None);
    tx.shared.pins.settled(ino);
    Ok(())
}

/// Frees all orphans. For a home that was just opened, and for one that is given up.
pub(crate) fn free_orphans(tx: &mut Tx<'_>) -> Result<()> {
    for ino in sql::all(tx.sql()?, "SELECT ino FROM orphan", [], |r| uint(r, 0))? {
        free_if_orphan(tx, ino)?;
    }
    Ok(())
}

/// Removes every row of an inode.
fn free(tx: &mut Tx<'_>, inode: &Inode) -> Result<()> {
    tx.remove(inode.ino, inode.tier)?;
    tx.counters.bytes_used = tx.counters.bytes_used.saturating_sub(inode.alloc);
    tx.counters.inodes_used = tx.counters.inodes_used.saturating_sub(1);
    Ok(())
}

fn named(tx: &Tx<'_>, parent: Ino, name: &[u8]) -> Result<Inode> {
    check_name(name)?;
    tx.get_dir(parent)?;
    let inode = tx.named(parent, name)?.ok_or(FsError::new(Errno::ENOENT))?;
    if inode.ino == ROOT {
        return Err(FsError::new(Errno::EBUSY));
    }
    Ok(inode)
}
