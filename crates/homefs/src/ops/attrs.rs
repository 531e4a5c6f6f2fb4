//! Attributes: mode, owner, times, and size by way of `truncate`.

use vfs::{Attr, Ino, Result, SetAttr, SetTime};

use super::truncate;
use crate::meta::rows::Rows as _;
use crate::meta::tx::Tx;

/// Changes what `set` names.
pub(crate) fn set(tx: &mut Tx<'_>, ino: Ino, set: SetAttr) -> Result<Attr> {
    let mut inode = match set.size {
        Some(size) => {
            let mut file = tx.get_file(ino)?;
            truncate::set_size(tx, &mut file, size)?;
            file
        }
        None => tx.get(ino)?,
    };
    if let Some(perm) = set.perm {
        inode.perm = perm & 0o7777;
    }
    if let Some(uid) = set.uid {
        inode.owner.uid = uid;
    }
    if let Some(gid) = set.gid {
        inode.owner.gid = gid;
    }
    // Explicit times win over the one that a change of size sets.
    if let Some(time) = set.atime {
        inode.atime = at(tx, time);
    }
    if let Some(time) = set.mtime {
        inode.mtime = at(tx, time);
    }
    if set != SetAttr::default() {
        tx.attrs_changed(&mut inode);
        tx.save(&inode);
    }
    Ok(inode.attr())
}

fn at(tx: &Tx<'_>, time: SetTime) -> i64 {
    match time {
        SetTime::Now => tx.now,
        SetTime::At(time) => time.0,
    }
}
