//! Moving names.

use vfs::{Errno, FsError, Ino, Kind, ROOT, RenameFlags, Result, check_name};

use super::{names, remove};
use crate::limits::DEPTH_MAX;
use crate::meta::inode::{Inode, Tier};
use crate::meta::rows::Rows as _;
use crate::meta::tx::Tx;

/// Moves `name` in `parent` to `new_name` in `new_parent`.
pub(crate) fn rename(
    tx: &mut Tx<'_>,
    parent: Ino,
    name: &[u8],
    new_parent: Ino,
    new_name: &[u8],
    flags: RenameFlags,
) -> Result<()> {
    check_name(name)?;
    check_name(new_name)?;
    tx.get_dir(parent)?;
    if tx.get_dir(new_parent)?.nlink == 0 {
        return Err(FsError::new(Errno::ENOENT));
    }
    let moved = tx.named(parent, name)?.ok_or(FsError::new(Errno::ENOENT))?;
    let target = tx.named(new_parent, new_name)?;
    if moved.kind == Kind::Directory && is_within(tx, new_parent, moved.ino)? {
        return Err(FsError::new(Errno::EINVAL));
    }
    match (flags, target) {
        (RenameFlags::NoReplace, Some(_)) => Err(FsError::new(Errno::EEXIST)),
        (RenameFlags::Exchange, None) => Err(FsError::new(Errno::ENOENT)),
        (RenameFlags::Exchange, Some(other)) => {
            if other.kind == Kind::Directory && is_within(tx, parent, other.ino)? {
                return Err(FsError::new(Errno::EINVAL));
            }
            note_whole(tx, &moved);
            note_whole(tx, &other);
            exchange(tx, (parent, name, moved), (new_parent, new_name, other))
        }
        // Two names of one file: POSIX says that nothing happens.
        (_, Some(other)) if other.ino == moved.ino => Ok(()),
        (_, Some(other)) => {
            check_replaceable(tx, &moved, &other)?;
            note_whole(tx, &moved);
            names::remove_entry(tx, parent, name)?;
            names::retarget(tx, new_parent, new_name, moved.ino)?;
            let lost = i64::from(other.kind == Kind::Directory);
            remove::lose_name(tx, other)?;
            finish(tx, moved, parent, new_parent, lost)
        }
        (_, None) => {
            tx.check_room()?;
            names::remove_entry(tx, parent, name)?;
            names::add_entry(tx, new_parent, new_name, moved.ino)?;
            finish(tx, moved, parent, new_parent, 0)
        }
    }
}

/// The file takes the name of another: what it holds has to be stored with that.
fn note_whole(tx: &Tx<'_>, inode: &Inode) {
    if inode.tier != Tier::Inline {
        tx.shared.whole.note(inode.ino);
    }
}

/// Whether `other` may give way to `moved`.
fn check_replaceable(tx: &Tx<'_>, moved: &Inode, other: &Inode) -> Result<()> {
    match (moved.kind == Kind::Directory, other.kind == Kind::Directory) {
        (true, true) if !tx.is_empty(other.ino)? => Err(FsError::new(Errno::ENOTEMPTY)),
        (true, false) => Err(FsError::new(Errno::ENOTDIR)),
        (false, true) => Err(FsError::new(Errno::EISDIR)),
        _ => Ok(()),
    }
}

/// Times, links and the way up after a move. `lost` directories went from `new_parent`.
fn finish(tx: &mut Tx<'_>, mut moved: Inode, from: Ino, to: Ino, lost: i64) -> Result<()> {
    let directory = i64::from(moved.kind == Kind::Directory);
    if from == to {
        tx.directory_changed(from, -lost)?;
    } else {
        tx.directory_changed(from, -directory)?;
        tx.directory_changed(to, directory - lost)?;
    }
    if moved.kind == Kind::Directory {
        moved.parent = to;
    }
    tx.attrs_changed(&mut moved);
    tx.save(&moved);
    Ok(())
}

fn exchange(tx: &mut Tx<'_>, a: (Ino, &[u8], Inode), b: (Ino, &[u8], Inode)) -> Result<()> {
    let ((parent_a, name_a, mut a), (parent_b, name_b, mut b)) = (a, b);
    if a.ino == b.ino {
        return Ok(());
    }
    names::retarget(tx, parent_a, name_a, b.ino)?;
    names::retarget(tx, parent_b, name_b, a.ino)?;
    let (dir_a, dir_b) =
        (i64::from(a.kind == Kind::Directory), i64::from(b.kind == Kind::Directory));
    if parent_a == parent_b {
        tx.directory_changed(parent_a, 0)?;
    } else {
        tx.directory_changed(parent_a, dir_b - dir_a)?;
        tx.directory_changed(parent_b, dir_a - dir_b)?;
    }
    if a.kind == Kind::Directory {
        a.parent = parent_b;
    }
    if b.kind == Kind::Directory {
        b.parent = parent_a;
    }
    tx.attrs_changed(&mut a);
    tx.attrs_changed(&mut b);
    tx.save(&a);
    tx.save(&b);
    Ok(())
}

/// True where `ino` is `ancestor` or lies below it.
pub(crate) fn is_within(tx: &Tx<'_>, ino: Ino, ancestor: Ino) -> Result<bool> {
    let mut at = ino;
    for _ in 0..DEPTH_MAX {
        if at == ancestor {
            return Ok(true);
        }
        let parent = tx.get_dir(at)?.parent;
        if at == ROOT || parent == at {
            return Ok(false);
        }
        at = parent;
    }
    Err(FsError::with(Errno::ELOOP, "the directories are nested too deeply"))
}
