//! Taking set-uid, set-gid and capabilities from a file that is written, truncated or given away.
//!
//! With `HANDLE_KILLPRIV_V2` this is our work: the kernel says in each request whether the caller
//! may keep the two bits; a file capability goes in any case. What is known to have none is
//! remembered per inode, so that a stream of writes asks once.

use vfs::{Attr, Errno, Ino, SetAttr};

use crate::abi::linux;
use crate::reply::Failed;
use crate::session::Session;

/// The attribute that holds file capabilities.
pub(crate) const CAPABILITY: &[u8] = b"security.capability";

/// What is left of `perm`: no set-uid, and no set-gid where the group may execute (without that
/// the bit means mandatory locking and stays).
pub(crate) fn without_suidgid(perm: u32) -> u32 {
    let mut left = perm & !linux::S_ISUID;
    if perm & linux::S_IXGRP != 0 {
        left &= !linux::S_ISGID;
    }
    left
}

/// Before content changes: takes the capability, and the bits where `kill_suidgid`.
pub(crate) fn drop_for_write(s: &Session, ino: Ino, kill_suidgid: bool) -> Result<(), Failed> {
    drop_capability(s, ino)?;
    if kill_suidgid {
        let perm = s.fs.getattr(ino)?.perm;
        let left = without_suidgid(perm);
        if left != perm {
            s.fs.setattr(ino, &SetAttr { perm: Some(left), ..SetAttr::default() })?;
        }
    }
    Ok(())
}

/// `setattr`, and with it what the change takes away.
pub(crate) fn setattr(
    s: &Session,
    ino: Ino,
    mut set: SetAttr,
    kill_suidgid: bool,
) -> Result<Attr, Failed> {
    if kill_suidgid {
        let perm = match set.perm {
            Some(perm) => perm,
            None => s.fs.getattr(ino)?.perm,
        };
        let left = without_suidgid(perm);
        if left != perm {
            set.perm = Some(left);
        }
    }
    if set.size.is_some() || set.uid.is_some() || set.gid.is_some() {
        drop_capability(s, ino)?;
    }
    Ok(s.fs.setattr(ino, &set)?)
}

fn drop_capability(s: &Session, ino: Ino) -> Result<(), Failed> {
    if s.nodes.has_no_capability(ino) {
        return Ok(());
    }
    let generation = s.nodes.generation();
    // Looking is cheap for a file system, removing may not be.
    match s.fs.getxattr(ino, CAPABILITY) {
        Ok(_) => match s.fs.removexattr(ino, CAPABILITY) {
            Err(error) if error.errno() != Errno::ENODATA => return Err(error.into()),
            _ => {}
        },
        Err(error) if matches!(error.errno(), Errno::ENODATA | Errno::EOPNOTSUPP) => {}
        Err(error) => return Err(error.into()),
    }
    s.nodes.found_no_capability(ino, generation);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_gid_stays_where_the_group_cannot_execute() {
        assert_eq!(without_suidgid(0o6755), 0o755);
        assert_eq!(without_suidgid(0o6745), 0o2745);
        assert_eq!(without_suidgid(0o1777), 0o1777);
    }
}
