//! Requests to calls of the file system.
//!
//! One line a request; the families are beside: `names` (what changes a directory or makes a
//! lookup), `attrs`, `data`, `dirs`, `xattrs`.
//!
//! # Not here
//! Permission checks: the kernel makes them (`default_permissions`), and gives the credentials
//! only as owner of what is created.

mod attrs;
mod data;
mod dirs;
mod names;
mod privileges;
mod xattrs;

use vfs::{Errno, Owner};

use crate::abi::fopen;
use crate::negotiate::Agreed;
use crate::reply::{Failed, Reply};
use crate::request::{Header, Request};
use crate::session::Session;

/// Does what `request` asks for.
pub(crate) fn perform(
    session: &Session,
    agreed: Agreed,
    header: &Header,
    request: &Request<'_>,
) -> Result<Reply, Failed> {
    let (s, ino) = (session, header.node);
    let owner = Owner { uid: header.uid, gid: header.gid };
    match *request {
        Request::Lookup { name } => names::lookup(s, ino, name),
        Request::Forget { count } => {
            s.nodes.forget(s.fs.as_ref(), ino, count);
            Ok(Reply::new())
        }
        Request::BatchForget(forgets) => {
            forgets.iter().for_each(|(ino, count)| s.nodes.forget(s.fs.as_ref(), ino, count));
            Ok(Reply::new())
        }
        Request::Symlink { name, target } => names::symlink(s, ino, name, target, owner),
        Request::Mknod { name, mode, rdev } => names::mknod(s, ino, name, mode, rdev, owner),
        Request::Mkdir { name, mode } => names::mkdir(s, ino, name, mode, owner),
        Request::Unlink { name } => done(s.fs.unlink(ino, name)),
        Request::Rmdir { name } => done(s.fs.rmdir(ino, name)),
        Request::Rename { name, new_parent, new_name, flags } => {
            names::rename(s, ino, name, new_parent, new_name, flags)
        }
        Request::Link { name, old } => names::link(s, old, ino, name),
        Request::Create { name, flags, mode, open_flags } => {
            names::create(s, ino, name, &names::Create { flags, mode, open_flags, owner })
        }
        Request::Tmpfile { mode } => names::tmpfile(s, mode, owner),

        Request::Getattr => attrs::getattr(s, ino),
        Request::Statx => attrs::statx(s, ino),
        Request::Setattr { set, kill_suidgid } => attrs::setattr(s, ino, set, kill_suidgid),
        Request::Readlink => Ok(Reply::of_bytes(&s.fs.readlink(ino)?)),
        Request::Statfs => Ok(Reply::new().statfs(&s.fs.statfs()?)),

        Request::Open { .. } if agreed.no_open => Err(Errno::ENOSYS.into()),
        Request::Open { flags, open_flags } => data::open(s, ino, flags, open_flags),
        Request::Read { offset, size } => data::read(s, ino, offset, size),
        Request::Write { offset, data, write_flags } => {
            data::write(s, ino, offset, data, write_flags)
        }
        Request::Fallocate { mode, offset, len } => data::fallocate(s, ino, mode, offset, len),
        Request::Lseek { offset, whence } => data::lseek(s, ino, offset, whence),
        Request::CopyFileRange { copy, wide } => data::copy(s, ino, &copy, wide),
        Request::Fsync => done(s.fs.sync(Some(ino))),
        Request::Syncfs => done(s.fs.sync(None)),

        Request::Opendir if agreed.no_opendir => Err(Errno::ENOSYS.into()),
        Request::Opendir => Ok(Reply::new().open(fopen::KEEP_CACHE | fopen::CACHE_DIR)),
        Request::Readdir { offset, size, plus } => dirs::read(s, ino, offset, size, plus),

        Request::Setxattr { name, value, flags } => xattrs::set(s, ino, name, value, flags),
        Request::Getxattr { name, size } => xattrs::get(s, ino, name, size),
        Request::Listxattr { size } => xattrs::list(s, ino, size),
        Request::Removexattr { name } => xattrs::remove(s, ino, name),

        // Writes went through already and locks are the kernel's: a close has nothing to tell us.
        // The kernel takes ENOSYS as success and does not ask again.
        Request::Flush => Err(Errno::ENOSYS.into()),
        Request::Refused(errno) => Err(Failed(errno)),
        Request::Ignored | Request::Nothing | Request::Init(_) | Request::Destroy => {
            Ok(Reply::new())
        }
    }
}

fn done(result: vfs::Result<()>) -> Result<Reply, Failed> {
    result?;
    Ok(Reply::new())
}
