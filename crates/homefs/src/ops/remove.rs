//! Removing names, and inodes once nothing needs them.

use rusqlite::params;
use vfs::{Errno, FsError, Ino, Kind, ROOT, Result, Touched, check_name};

use super::names;
use crate::meta::inode::Inode;
use crate::meta::sql::{self, int, uint};
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
    if !is_empty(tx, inode.ino)? {
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
    let Some(ino) = names::entry(tx, parent, name)? else { return Ok(false) };
    let inode = Inode::get(tx.conn, ino)?;
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
    const SQL: &str = "SELECT name, ino FROM dentry WHERE parent=?1 LIMIT 1024";
    let mut open = vec![ino];
    while let Some(&directory) = open.last() {
        let entries = sql::all(tx.conn, SQL, [int(directory)], |r| {
            Ok((r.get::<_, Vec<u8>>(0)?, uint(r, 1)?))
        })?;
        if entries.is_empty() {
            open.pop();
            if directory != ino {
                let emptied = Inode::get(tx.conn, directory)?;
                lose_name(tx, emptied)?;
            }
            continue;
        }
        for (name, child) in entries {
            names::remove_entry(tx, directory, &name)?;
            touched.entries.push((directory, name));
            touched.inodes.push(child);
            let child = Inode::get(tx.conn, child)?;
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
    if inode.nlink == 0 && !tx.shared.pins.is_pinned(inode.ino) {
        return free(tx, &inode);
    }
    if inode.nlink == 0 {
        sql::run(tx.conn, "INSERT OR REPLACE INTO orphan VALUES(?1,0)", [int(inode.ino)])?;
        tx.shared.pins.orphaned(inode.ino);
    }
    tx.attrs_changed(&mut inode);
    inode.save(tx.conn)
}

/// Frees an inode that lost its last pin, if it has no name either.
pub(crate) fn free_if_orphan(tx: &mut Tx<'_>, ino: Ino) -> Result<()> {
    const SQL: &str = "SELECT 1 FROM orphan WHERE ino=?1";
    let orphan = sql::first(tx.conn, SQL, [int(ino)], |_| Ok(()))?.is_some();
    if !orphan || tx.shared.pins.is_pinned(ino) {
        return Ok(());
    }
    if let Some(inode) = Inode::find(tx.conn, ino)? {
        if inode.kind == Kind::Directory {
            clear_directory(tx, ino, &mut Touched::default())?;
        }
        free(tx, &inode)?;
    }
    sql::run(tx.conn, "DELETE FROM orphan WHERE ino=?1", [int(ino)])?;
    tx.shared.pins.settled(ino);
    Ok(())
}

/// Frees all orphans. For a home that was just opened, and for one that is given up.
pub(crate) fn free_orphans(tx: &mut Tx<'_>) -> Result<()> {
    for ino in sql::all(tx.conn, "SELECT ino FROM orphan", [], |r| uint(r, 0))? {
        free_if_orphan(tx, ino)?;
    }
    Ok(())
}

/// Removes every row of an inode.
fn free(tx: &mut Tx<'_>, inode: &Inode) -> Result<()> {
    let ino = int(inode.ino);
    drop_spool(tx, inode.ino)?;
    sql::run(tx.conn, "DELETE FROM inode WHERE ino=?1", [ino])?;
    sql::run(tx.conn, "DELETE FROM blob WHERE ino=?1", [ino])?;
    sql::run(tx.conn, "DELETE FROM extent WHERE ino=?1", [ino])?;
    sql::run(tx.conn, "DELETE FROM xattr WHERE ino=?1", [ino])?;
    tx.counters.bytes_used = tx.counters.bytes_used.saturating_sub(inode.alloc);
    tx.counters.inodes_used = tx.counters.inodes_used.saturating_sub(1);
    Ok(())
}

/// Removes the rows of unsealed content; its files go once that is durable.
pub(crate) fn drop_spool(tx: &mut Tx<'_>, ino: Ino) -> Result<()> {
    let live = sql::first(tx.conn, "SELECT gen FROM dirty_inode WHERE ino=?1", [int(ino)], |r| {
        uint(r, 0)
    })?;
    let Some(live) = live else { return Ok(()) };
    let mut after = -1;
    while let Some(generation) = crate::data::layers::next_generation(tx.conn, ino, after)? {
        if generation != live {
            tx.spool_garbage.push((ino, generation));
        }
        after = int(generation);
    }
    tx.spool_garbage.push((ino, live));
    sql::run(tx.conn, "DELETE FROM dirty_extent WHERE ino=?1", [int(ino)])?;
    sql::run(tx.conn, "DELETE FROM dirty_inode WHERE ino=?1", [int(ino)])?;
    Ok(())
}

/// True of a directory without entries.
pub(crate) fn is_empty(tx: &Tx<'_>, ino: Ino) -> Result<bool> {
    const SQL: &str = "SELECT 1 FROM dentry WHERE parent=?1 LIMIT 1";
    Ok(sql::first(tx.conn, SQL, params![int(ino)], |_| Ok(()))?.is_none())
}

fn named(tx: &Tx<'_>, parent: Ino, name: &[u8]) -> Result<Inode> {
    check_name(name)?;
    Inode::get_dir(tx.conn, parent)?;
    let inode = Inode::lookup(tx.conn, parent, name)?.ok_or(FsError::new(Errno::ENOENT))?;
    if inode.ino == ROOT {
        return Err(FsError::new(Errno::EBUSY));
    }
    Ok(inode)
}
