//! Merging a detached tree into the visible one: how an import becomes visible in one step.
//!
//! # Order
//! Removals, then the merge, all in the transaction of the caller. Only directories that exist on
//! both sides are walked; everything else moves by its top name, so the cost is that of the
//! overlap and not of the tree.

use std::collections::HashSet;

use rusqlite::params;
use vfs::{Errno, FsError, Graft, Ino, Kind, Removal, Result, Touched, check_name};

use super::{names, remove, rename};
use crate::limits::REMOVALS_MAX;
use crate::meta::inode::Inode;
use crate::meta::rows::Rows as _;
use crate::meta::sql::{self, int};
use crate::meta::tx::Tx;

/// Merges; see [`vfs::FileSystem::graft`].
pub(crate) fn graft(tx: &mut Tx<'_>, graft: &Graft<'_>) -> Result<Touched> {
    let from = tx.get_dir(graft.from)?;
    if tx.get_dir(graft.into)?.nlink == 0 {
        return Err(FsError::with(Errno::ENOENT, "a removed directory takes no entries"));
    }
    if !names::is_detached(tx, graft.from)? {
        return Err(FsError::with(Errno::EINVAL, "only a detached tree can be merged"));
    }
    if graft.removals.len() > REMOVALS_MAX {
        return Err(FsError::with(Errno::EINVAL, "too many paths to remove at once"));
    }
    if rename::is_within(tx, graft.into, graft.from)? {
        return Err(FsError::with(Errno::EINVAL, "a tree cannot be merged into itself"));
    }
    if let Some((name, ino, version)) = graft.expect {
        let there = tx.named(graft.into, name)?;
        if there.is_none_or(|there| there.ino != ino || there.version != version) {
            return Err(FsError::new(Errno::ESTALE));
        }
    }
    if !tx.is_empty(graft.from)? {
        // Which of its files are dirty is not looked up. One that only removes brings none.
        tx.shared.whole.note_all();
    }
    let mut touched = Touched::default();
    let implicit: HashSet<Ino> = graft.implicit.iter().copied().collect();
    for path in graft.removals {
        remove_path(tx, graft.into, path, &mut touched)?;
    }
    let mut open = vec![(from, graft.into)];
    while let Some((from, into)) = open.pop() {
        let attrs = !implicit.contains(&from.ino);
        merge(tx, from.ino, into, &mut open, &mut touched)?;
        if attrs {
            // Last, because every entry that moves changes the directory's times.
            take_attrs(tx, &from, into, &mut touched)?;
        }
        if from.ino != graft.from {
            // It is merged, and its name went when its parent was.
            let emptied = tx.get(from.ino)?;
            remove::lose_name(tx, emptied)?;
        }
    }
    touched.inodes.sort_unstable();
    touched.inodes.dedup();
    Ok(touched)
}

fn remove_path(tx: &mut Tx<'_>, into: Ino, path: &Removal, touched: &mut Touched) -> Result<()> {
    let (name, directories) = path.split_last().ok_or(FsError::new(Errno::EINVAL))?;
    let mut at = into;
    for part in directories {
        check_name(part)?;
        match tx.named(at, part)? {
            Some(next) if next.kind == Kind::Directory => at = next.ino,
            _ => return Ok(()),
        }
    }
    check_name(name)?;
    remove::remove_tree(tx, at, name, touched)?;
    Ok(())
}

/// Moves the entries of one directory into another. Pairs of directories go to `open`, the one that
/// is to be merged without its name.
fn merge(
    tx: &mut Tx<'_>,
    from: Ino,
    into: Ino,
    open: &mut Vec<(Inode, Ino)>,
    touched: &mut Touched,
) -> Result<()> {
    let mut after = 0;
    let mut links = 0;
    loop {
        let entries = tx.list(from, after, 1_024)?;
        let Some((_, last)) = entries.last() else { break };
        after = last.cookie;
        for (name, entry) in entries {
            let inode = tx.get(entry.ino)?;
            let there = tx.named(into, &name)?;
            links += merge_entry(tx, from, into, &name, inode, there, open, touched)?;
        }
    }
    tx.directory_changed(into, links)?;
    touched.inodes.push(into);
    Ok(())
}

/// How many subdirectories `into` has more afterwards.
#[allow(clippy::too_many_arguments, reason = "one step of a walk, split off to be read alone")]
fn merge_entry(
    tx: &mut Tx<'_>,
    from: Ino,
    into: Ino,
    name: &[u8],
    mut inode: Inode,
    there: Option<Inode>,
    open: &mut Vec<(Inode, Ino)>,
    touched: &mut Touched,
) -> Result<i64> {
    let directory = inode.kind == Kind::Directory;
    let mut links = i64::from(directory);
    match there {
        Some(there) if directory && there.kind == Kind::Directory => {
            open.push((inode, there.ino));
            names::remove_entry(tx, from, name)?;
            tx.directory_changed(from, -1)?;
            return Ok(0);
        }
        Some(there) => {
            if directory {
                return Err(in_the_way(name, "a directory would replace something else"));
            }
            if there.kind == Kind::Directory {
                if !tx.is_empty(there.ino)? {
                    return Err(in_the_way(name, "it would replace a directory with entries"));
                }
                links -= 1;
            }
            names::retarget(tx, into, name, inode.ino)?;
            touched.inodes.push(there.ino);
            remove::lose_name(tx, there)?;
        }
        None => names::add_entry(tx, into, name, inode.ino)?,
    }
    names::remove_entry(tx, from, name)?;
    if directory {
        inode.parent = into;
        tx.directory_changed(from, -1)?;
    }
    // Moving is no change of the file itself: its times are those that the import gave it.
    inode.version = tx.next_version();
    // Replacing may have changed the row: a hard link of the file that gave way.
    if let Some(current) = tx.find(inode.ino)? {
        inode.nlink = current.nlink;
    }
    tx.save(&inode);
    touched.entries.push((into, name.to_vec()));
    touched.inodes.push(inode.ino);
    Ok(links)
}

/// Gives the directory `to` mode, owner, times and extended attributes of `from`, in place of those it
/// had: what a draft took away goes, and the bound on attributes holds.
fn take_attrs(tx: &mut Tx<'_>, from: &Inode, to: Ino, touched: &mut Touched) -> Result<()> {
    let mut to = tx.get_dir(to)?;
    to.perm = from.perm;
    to.owner = from.owner;
    to.atime = from.atime;
    to.mtime = from.mtime;
    tx.attrs_changed(&mut to);
    tx.save(&to);
    sql::run(tx.sql()?, "DELETE FROM xattr WHERE ino=?1", [int(to.ino)])?;
    const COPY: &str = "INSERT INTO xattr SELECT ?2,name,value FROM xattr WHERE ino=?1";
    sql::run(tx.sql()?, COPY, params![int(from.ino), int(to.ino)])?;
    touched.inodes.push(to.ino);
    Ok(())
}

fn in_the_way(name: &[u8], why: &str) -> FsError {
    FsError::with(Errno::EEXIST, format!("{}: {why}", String::from_utf8_lossy(name)))
}
