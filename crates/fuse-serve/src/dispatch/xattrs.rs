//! Extended attributes.
//!
//! `system.` names are ACLs and the like, which we do not keep: storing one without obeying it
//! would be a promise not held.

use vfs::{Errno, Ino, XattrMode};

use super::privileges::CAPABILITY;
use crate::abi::linux;
use crate::limits::XATTR_BYTES_MAX;
use crate::reply::{Failed, Reply};
use crate::session::Session;

pub(crate) fn set(
    s: &Session,
    ino: Ino,
    name: &[u8],
    value: &[u8],
    flags: u32,
) -> Result<Reply, Failed> {
    check_namespace(name)?;
    if value.len() > XATTR_BYTES_MAX {
        return Err(Errno::ERANGE.into());
    }
    let mode = match flags {
        0 => XattrMode::Any,
        linux::XATTR_CREATE => XattrMode::Create,
        linux::XATTR_REPLACE => XattrMode::Replace,
        _ => return Err(Errno::EINVAL.into()),
    };
    if name == CAPABILITY {
        // Before it is set: a write that comes in between must look.
        s.nodes.may_have_capability(ino);
    }
    let set = super::done(s.fs.setxattr(ino, name, value, mode));
    if name == CAPABILITY {
        // And after: what such a write found out may be from before.
        s.nodes.may_have_capability(ino);
    }
    set
}

pub(crate) fn get(s: &Session, ino: Ino, name: &[u8], size: u32) -> Result<Reply, Failed> {
    check_namespace(name)?;
    if name == CAPABILITY && s.nodes.has_no_capability(ino) {
        return Err(Errno::ENODATA.into());
    }
    let generation = s.nodes.generation();
    match s.fs.getxattr(ino, name) {
        Ok(value) => sized(&value, size),
        Err(error) => {
            if name == CAPABILITY && error.errno() == Errno::ENODATA {
                s.nodes.found_no_capability(ino, generation);
            }
            Err(error.into())
        }
    }
}

pub(crate) fn list(s: &Session, ino: Ino, size: u32) -> Result<Reply, Failed> {
    let mut names = Vec::new();
    for name in s.fs.listxattr(ino)? {
        names.extend_from_slice(&name);
        names.push(0);
    }
    sized(&names, size)
}

pub(crate) fn remove(s: &Session, ino: Ino, name: &[u8]) -> Result<Reply, Failed> {
    check_namespace(name)?;
    super::done(s.fs.removexattr(ino, name))
}

/// The value, or with `size` 0 its length.
fn sized(value: &[u8], size: u32) -> Result<Reply, Failed> {
    if size == 0 {
        return Ok(Reply::new().size(value.len()));
    }
    if value.len() > size as usize || value.len() > XATTR_BYTES_MAX {
        return Err(Errno::ERANGE.into());
    }
    Ok(Reply::of_bytes(value))
}

fn check_namespace(name: &[u8]) -> Result<(), Failed> {
    if name.starts_with(b"system.") {
        return Err(Errno::EOPNOTSUPP.into());
    }
    Ok(())
}
