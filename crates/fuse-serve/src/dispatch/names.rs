//! Requests that look names up or change them.
//!
//! Whatever replies with an entry counts a lookup, and does it before the reply is built, so that
//! the inode is pinned before the kernel can use it.

use vfs::{Attr, Errno, Ino, Kind, Owner, RenameFlags, SetAttr};

use super::privileges;
use crate::abi::{OPEN_KILL_SUIDGID, fopen, linux};
use crate::nodes::Full;
use crate::reply::{Failed, Reply};
use crate::session::Session;

/// How a file is created and opened.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Create {
    pub(crate) flags: u32,
    pub(crate) mode: u32,
    pub(crate) open_flags: u32,
    pub(crate) owner: Owner,
}

pub(crate) fn lookup(s: &Session, parent: Ino, name: &[u8]) -> Result<Reply, Failed> {
    let generation = s.nodes.generation();
    match s.fs.lookup(parent, name) {
        Ok(attr) => entry(s, attr, generation),
        Err(error) if error.errno() == Errno::ENOENT && !s.config.negative_ttl.is_zero() => {
            Ok(Reply::new().negative_entry(s.config.negative_ttl))
        }
        Err(error) => Err(error.into()),
    }
}

pub(crate) fn symlink(
    s: &Session,
    parent: Ino,
    name: &[u8],
    target: &[u8],
    owner: Owner,
) -> Result<Reply, Failed> {
    let generation = s.nodes.generation();
    new_entry(s, s.fs.symlink(parent, name, target, owner)?, generation)
}

pub(crate) fn mknod(
    s: &Session,
    parent: Ino,
    name: &[u8],
    mode: u32,
    rdev: u32,
    owner: Owner,
) -> Result<Reply, Failed> {
    let kind = match Kind::from_mode(mode) {
        Some(Kind::Directory | Kind::Symlink) => return Err(Errno::EINVAL.into()),
        Some(kind) => kind,
        // mknod(2): a mode without a type makes a regular file.
        None if mode & 0o170_000 == 0 => Kind::File,
        None => return Err(Errno::EINVAL.into()),
    };
    let generation = s.nodes.generation();
    new_entry(s, s.fs.mknod(parent, name, kind, mode & 0o7777, owner, rdev)?, generation)
}

pub(crate) fn mkdir(
    s: &Session,
    parent: Ino,
    name: &[u8],
    mode: u32,
    owner: Owner,
) -> Result<Reply, Failed> {
    let generation = s.nodes.generation();
    let attr = s.fs.mknod(parent, name, Kind::Directory, mode & 0o7777, owner, 0)?;
    new_entry(s, attr, generation)
}

pub(crate) fn rename(
    s: &Session,
    parent: Ino,
    name: &[u8],
    new_parent: Ino,
    new_name: &[u8],
    flags: u32,
) -> Result<Reply, Failed> {
    let flags = match flags {
        0 => RenameFlags::Replace,
        linux::RENAME_NOREPLACE => RenameFlags::NoReplace,
        linux::RENAME_EXCHANGE => RenameFlags::Exchange,
        _ => return Err(Errno::EINVAL.into()),
    };
    super::done(s.fs.rename(parent, name, new_parent, new_name, flags))
}

pub(crate) fn link(s: &Session, old: Ino, parent: Ino, name: &[u8]) -> Result<Reply, Failed> {
    let generation = s.nodes.generation();
    entry(s, s.fs.link(old, parent, name)?, generation)
}

/// Creates a file, or opens the one that the API put there since the kernel looked.
pub(crate) fn create(s: &Session, parent: Ino, name: &[u8], how: &Create) -> Result<Reply, Failed> {
    let generation = s.nodes.generation();
    let made = s.fs.mknod(parent, name, Kind::File, how.mode & 0o7777, how.owner, 0);
    let is_new = made.is_ok();
    let attr = match made {
        Err(error) if error.errno() == Errno::EEXIST && how.flags & linux::O_EXCL == 0 => {
            let attr = s.fs.lookup(parent, name)?;
            if attr.kind != Kind::File {
                // Makes the kernel look the name up again and decide anew.
                return Err(Errno::ESTALE.into());
            }
            if how.flags & linux::O_TRUNC == 0 {
                attr
            } else {
                let kill = how.open_flags & OPEN_KILL_SUIDGID != 0;
                let cut = SetAttr { size: Some(0), ..SetAttr::default() };
                privileges::setattr(s, attr.ino, cut, kill)?
            }
        }
        made => made?,
    };
    let reply = if is_new { new_entry(s, attr, generation) } else { entry(s, attr, generation) };
    Ok(reply?.open(fopen::KEEP_CACHE | fopen::NOFLUSH))
}

/// A file without a name. The lookup count keeps it; the pin of its creation is given back.
pub(crate) fn tmpfile(s: &Session, mode: u32, owner: Owner) -> Result<Reply, Failed> {
    let generation = s.nodes.generation();
    let attr = s.fs.create_detached(Kind::File, mode & 0o7777, owner)?;
    let reply = new_entry(s, attr, generation);
    s.fs.unpin(attr.ino);
    Ok(reply?.open(fopen::KEEP_CACHE | fopen::NOFLUSH))
}

/// Counts a lookup of `attr` and replies with it. `generation` was read before `attr` was.
fn entry(s: &Session, attr: Attr, generation: u64) -> Result<Reply, Failed> {
    let attr = count(s, attr, generation)?;
    Ok(Reply::with_capacity(144).entry(&attr, s.ttl()))
}

/// The same for what was made just now.
fn new_entry(s: &Session, attr: Attr, generation: u64) -> Result<Reply, Failed> {
    let attr = count_one(s, attr, generation, Some(generation))?;
    Ok(Reply::with_capacity(144).entry(&attr, s.ttl()))
}

/// Counts a lookup; reads the attributes again where an invalidation came in between.
pub(crate) fn count(s: &Session, attr: Attr, generation: u64) -> Result<Attr, Failed> {
    count_one(s, attr, generation, None)
}

fn count_one(
    s: &Session,
    attr: Attr,
    generation: u64,
    made_since: Option<u64>,
) -> Result<Attr, Failed> {
    s.nodes.add(s.fs.as_ref(), attr.ino, made_since).map_err(|Full| Failed(linux::ENFILE))?;
    if s.nodes.generation() == generation {
        return Ok(attr);
    }
    // One that is gone by now is answered as it was: its invalidation follows.
    Ok(s.fs.getattr(attr.ino).unwrap_or(attr))
}
