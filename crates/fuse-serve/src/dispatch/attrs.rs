//! Attributes.

use vfs::{Ino, SetAttr};

use super::privileges;
use crate::reply::{Failed, Reply};
use crate::session::Session;

pub(crate) fn getattr(s: &Session, ino: Ino) -> Result<Reply, Failed> {
    Ok(Reply::with_capacity(104).attr(&s.fs.getattr(ino)?, s.ttl()))
}

pub(crate) fn statx(s: &Session, ino: Ino) -> Result<Reply, Failed> {
    Ok(Reply::with_capacity(288).statx(&s.fs.getattr(ino)?, s.ttl()))
}

pub(crate) fn setattr(
    s: &Session,
    ino: Ino,
    set: SetAttr,
    kill_suidgid: bool,
) -> Result<Reply, Failed> {
    let attr = privileges::setattr(s, ino, set, kill_suidgid)?;
    Ok(Reply::with_capacity(104).attr(&attr, s.ttl()))
}
