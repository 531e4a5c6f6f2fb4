//! Writing: into `blob` while a file is small, into the spool when it is not.

use bytes::Bytes;
use vfs::{Errno, FsError, Ino, Result};

use crate::data::layers;
use crate::limits::{FILE_BYTES_MAX, FILE_PIECES_MAX, INLINE_BYTES_MAX};
use crate::meta::inode::{Inode, Tier};
use crate::meta::rows::{Rows as _, Spooled};
use crate::meta::tx::Tx;

/// Writes all of `data` at `offset`. True where it went to the spool.
pub(crate) fn write(tx: &mut Tx<'_>, ino: Ino, offset: u64, data: &[u8]) -> Result<bool> {
    let mut inode = tx.get_file(ino)?;
    if data.is_empty() {
        return Ok(false);
    }
    let end = checked_end(offset, data.len() as u64)?;
    let size = inode.size.max(end);
    let spooled = inode.tier != Tier::Inline || size > INLINE_BYTES_MAX;
    if spooled {
        write_spool(tx, &mut inode, offset, data)?;
    } else {
        write_inline(tx, &mut inode, offset, data)?;
    }
    inode.size = size;
    inode.tier = inode.tier.max(Tier::of_size(size));
    tx.content_changed(&mut inode);
    tx.save(&inode);
    Ok(spooled)
}

/// The end of a range, if a file may reach that far.
pub(crate) fn checked_end(offset: u64, len: u64) -> Result<u64> {
    match offset.checked_add(len) {
        Some(end) if end <= FILE_BYTES_MAX => Ok(end),
        _ => Err(FsError::new(Errno::EFBIG)),
    }
}

/// Replaces content of a small file.
pub(crate) fn set_inline(tx: &mut Tx<'_>, inode: &mut Inode, data: Bytes) {
    let len = data.len() as u64;
    tx.put_blob(inode.ino, Some(data));
    tx.set_alloc(inode, len);
}

fn write_inline(tx: &mut Tx<'_>, inode: &mut Inode, offset: u64, data: &[u8]) -> Result<()> {
    // Both ends are within INLINE_BYTES_MAX: the caller chose this way by them. While a file is
    // inline, its content is all that it has allocated.
    let end = offset + data.len() as u64;
    tx.check_space(end.saturating_sub(inode.alloc))?;
    tx.check_room()?;
    let len = tx.patch_blob(inode.ino, usize::try_from(offset).unwrap_or(usize::MAX), data)?;
    tx.set_alloc(inode, len);
    Ok(())
}

fn write_spool(tx: &mut Tx<'_>, inode: &mut Inode, offset: u64, data: &[u8]) -> Result<()> {
    let end = offset + data.len() as u64;
    let there = match offset >= inode.size {
        // Nothing lies behind the end of a file.
        true => 0,
        false => layers::covered(&layers::pieces(tx, inode.ino, offset, end)?),
    };
    let more = data.len() as u64 - there;
    tx.check_space(more)?;
    tx.check_room()?;
    let generation = make_dirty(tx, inode)?;
    check_pieces(tx, inode.ino)?;
    tx.shared.spool.write((inode.ino, generation), offset, data)?;
    tx.cover(inode.ino, generation, offset, end)?;
    tx.set_alloc(inode, inode.alloc + more);
    Ok(())
}

/// Bounds what lists of a file's pieces can take in memory.
fn check_pieces(tx: &Tx<'_>, ino: Ino) -> Result<()> {
    let spooled = tx.spooled(ino)?.map_or(0, |row| row.len() as u64);
    // Sealed pieces are looked at now and then only: a few thousand more do no harm.
    let sealed = match tx.counters.version.is_multiple_of(4_096) {
        true => tx.sealed(ino, 0, FILE_BYTES_MAX)?.len() as u64,
        false => 0,
    };
    if spooled + sealed >= FILE_PIECES_MAX {
        return Err(FsError::with(Errno::ENOSPC, "the file is in too many pieces; copy it"));
    }
    Ok(())
}

/// The generation that takes writes; starts one where everything was sealed. What is sealed now
/// is what a reader on another host goes by until the next sealing.
pub(crate) fn make_dirty(tx: &mut Tx<'_>, inode: &Inode) -> Result<u64> {
    if let Some(row) = tx.spooled(inode.ino)? {
        return Ok(row.generation);
    }
    if inode.tier == Tier::Inline {
        tx.has_nothing_sealed(inode.ino);
    }
    let generation = tx.next_version();
    let row = Spooled {
        generation,
        sealed_size: inode.size,
        sealed_mtime: inode.mtime,
        sealed_version: inode.version,
        layers: Vec::new(),
    };
    tx.put_spooled(inode.ino, row)?;
    Ok(generation)
}
