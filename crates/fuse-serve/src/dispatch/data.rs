//! Content: open, read, write, holes, copies.
//!
//! An open file is nothing here: the kernel holds the inode by its lookup count as long as the
//! file is open, positions and `O_APPEND` are its own, and a write that returned is in the file
//! system. So handles need no table and survive a restart.

use vfs::{Errno, Ino, SeekFrom, SetAttr};

use super::privileges;
use crate::abi::{OPEN_KILL_SUIDGID, WRITE_KILL_SUIDGID, fopen, linux};
use crate::limits::{COPY_BYTES_MAX, COPY_STEP_BYTES, WRITE_BYTES_MAX};
use crate::reply::{Failed, Reply};
use crate::request::Copy;
use crate::session::Session;

pub(crate) fn open(s: &Session, ino: Ino, flags: u32, open_flags: u32) -> Result<Reply, Failed> {
    if flags & linux::O_TRUNC != 0 {
        let cut = SetAttr { size: Some(0), ..SetAttr::default() };
        privileges::setattr(s, ino, cut, open_flags & OPEN_KILL_SUIDGID != 0)?;
    }
    Ok(Reply::new().open(fopen::KEEP_CACHE | fopen::NOFLUSH))
}

pub(crate) fn read(s: &Session, ino: Ino, offset: u64, size: u32) -> Result<Reply, Failed> {
    let size = size.min(WRITE_BYTES_MAX);
    let data = s.fs.read(ino, offset, size)?;
    // The kernel treats a longer answer than it asked for as a broken server.
    let len = data.len().min(size as usize);
    Ok(Reply::of_content(data.slice(..len)))
}

pub(crate) fn write(
    s: &Session,
    ino: Ino,
    offset: u64,
    data: &[u8],
    write_flags: u32,
) -> Result<Reply, Failed> {
    let len = u32::try_from(data.len()).map_err(|_| Errno::EINVAL)?;
    if len > WRITE_BYTES_MAX {
        return Err(Errno::EINVAL.into());
    }
    privileges::drop_for_write(s, ino, write_flags & WRITE_KILL_SUIDGID != 0)?;
    s.fs.write(ino, offset, data)?;
    Ok(Reply::new().written(len))
}

pub(crate) fn fallocate(
    s: &Session,
    ino: Ino,
    mode: u32,
    offset: u64,
    len: u64,
) -> Result<Reply, Failed> {
    // fallocate(2) carries no flag for the caller's rights; the bits go, as with a plain write.
    privileges::drop_for_write(s, ino, true)?;
    super::done(s.fs.fallocate(ino, mode, offset, len))
}

pub(crate) fn lseek(s: &Session, ino: Ino, offset: u64, whence: u32) -> Result<Reply, Failed> {
    let from = match whence {
        linux::SEEK_DATA => SeekFrom::Data(offset),
        linux::SEEK_HOLE => SeekFrom::Hole(offset),
        _ => return Err(Errno::EINVAL.into()),
    };
    Ok(Reply::new().number(s.fs.seek(ino, from)?))
}

/// Copies at most [`COPY_BYTES_MAX`]; the kernel asks again for the rest.
pub(crate) fn copy(s: &Session, from: Ino, copy: &Copy, wide: bool) -> Result<Reply, Failed> {
    if copy.flags != 0 {
        return Err(Errno::EINVAL.into());
    }
    let wanted = copy.len.min(COPY_BYTES_MAX);
    let end = |offset: u64| offset.checked_add(wanted).ok_or(Errno::EFBIG);
    let (from_end, to_end) = (end(copy.from_offset)?, end(copy.to_offset)?);
    let overlap = copy.from_offset < to_end && copy.to_offset < from_end;
    if from == copy.to && overlap && wanted > 0 {
        return Err(Errno::EINVAL.into());
    }
    privileges::drop_for_write(s, copy.to, true)?;
    let mut done: u64 = 0;
    while done < wanted {
        let step = (wanted - done).min(u64::from(COPY_STEP_BYTES)) as u32;
        let data = match s.fs.read(from, copy.from_offset + done, step) {
            Ok(data) if data.is_empty() => break,
            Ok(data) => data,
            Err(_) if done > 0 => break,
            Err(error) => return Err(error.into()),
        };
        match s.fs.write(copy.to, copy.to_offset + done, &data) {
            Ok(()) => done += data.len() as u64,
            Err(_) if done > 0 => break,
            Err(error) => return Err(error.into()),
        }
    }
    let reply = Reply::new();
    Ok(if wide { reply.number(done) } else { reply.written(done as u32) })
}
