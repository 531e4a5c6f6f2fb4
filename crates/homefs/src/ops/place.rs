//! Giving a detached inode its name: how an upload becomes visible in one step.

use vfs::{Errno, Expect, FsError, Ino, Kind, Placed, Result, Touched, check_name};

use super::names::{self, New};
use super::remove;
use crate::meta::inode::{Inode, Tier};
use crate::meta::rows::Rows as _;
use crate::meta::tx::Tx;

/// Names `ino` by `path` below `base`, making the directories that are missing.
pub(crate) fn place(
    tx: &mut Tx<'_>,
    ino: Ino,
    base: Ino,
    path: &[&[u8]],
    expect: Expect,
) -> Result<Placed> {
    let inode = tx.get(ino)?;
    if inode.kind == Kind::Directory || !names::is_detached(tx, ino)? {
        return Err(FsError::with(Errno::EINVAL, "only a detached non-directory can be placed"));
    }
    if inode.tier != Tier::Inline {
        tx.shared.whole.note(ino);
    }
    let placed = give_name(tx, &inode, base, path, expect)?;
    names::settle(tx, &inode)?;
    Ok(placed)
}

/// Gives `inode`, which has no name yet and no row or an outdated one, its first name.
pub(super) fn give_name(
    tx: &mut Tx<'_>,
    inode: &Inode,
    base: Ino,
    path: &[&[u8]],
    expect: Expect,
) -> Result<Placed> {
    let mut inode = inode.clone();
    let ino = inode.ino;
    let (name, directories) = path.split_last().ok_or(FsError::new(Errno::EINVAL))?;
    for name in path {
        check_name(name)?;
    }
    let mut touched = Touched::default();
    let parent = make_directories(tx, &inode, base, directories, expect, &mut touched)?;
    let there = tx.named(parent, name)?;
    check_expected(expect, there.as_ref())?;
    let created = there.is_none();
    match there {
        Some(there) if there.kind == Kind::Directory => {
            return Err(FsError::new(Errno::EISDIR));
        }
        Some(there) => {
            names::retarget(tx, parent, name, ino)?;
            touched.inodes.push(there.ino);
            remove::lose_name(tx, there)?;
        }
        None => {
            names::directory_for_new(tx, parent, name)?;
            names::add_entry(tx, parent, name, ino)?;
        }
    }
    inode.nlink = 1;
    tx.attrs_changed(&mut inode);
    tx.save(&inode);
    tx.directory_changed(parent, 0)?;
    touched.entries.push((parent, name.to_vec()));
    touched.inodes.extend([parent, ino]);
    Ok(Placed { created, attr: inode.attr(), touched })
}

/// The directory that `directories` lead to. What is missing belongs to the owner of `inode`.
fn make_directories(
    tx: &mut Tx<'_>,
    inode: &Inode,
    base: Ino,
    directories: &[&[u8]],
    expect: Expect,
    touched: &mut Touched,
) -> Result<Ino> {
    let mut at = tx.get_dir(base)?.ino;
    for name in directories {
        at = match tx.named(at, name)? {
            Some(next) if next.kind == Kind::Directory => next.ino,
            Some(_) => return Err(FsError::new(Errno::ENOTDIR)),
            None => {
                check_expected(expect, None)?;
                let new = New { kind: Kind::Directory, perm: 0o755, owner: inode.owner, rdev: 0 };
                let made = names::make(tx, at, name, new)?;
                touched.entries.push((at, name.to_vec()));
                touched.inodes.push(at);
                made.ino
            }
        };
    }
    Ok(at)
}

fn check_expected(expect: Expect, there: Option<&Inode>) -> Result<()> {
    let holds = match expect {
        Expect::Any => true,
        Expect::Absent if there.is_some() => return Err(FsError::new(Errno::EEXIST)),
        Expect::Absent => true,
        Expect::Present => there.is_some(),
        Expect::Version(ino, version) => {
            there.is_some_and(|there| (there.ino, there.version) == (ino, version))
        }
    };
    if holds { Ok(()) } else { Err(FsError::new(Errno::ESTALE)) }
}
