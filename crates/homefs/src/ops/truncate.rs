//! Sizes and holes.

use rusqlite::{Connection, params};
use vfs::{Errno, FsError, Ino, Result};

use super::content::{checked_end, make_dirty, set_inline};
use crate::data::layers;
use crate::limits::{FILE_BYTES_MAX, INLINE_BYTES_MAX};
use crate::meta::inode::{Inode, Tier};
use crate::meta::rows::{Rows as _, Spooled};
use crate::meta::sql::{self, int, uint};
use crate::meta::tx::Tx;

const KEEP_SIZE: u32 = 0x01;
const PUNCH_HOLE: u32 = 0x02;
const ZERO_RANGE: u32 = 0x10;

/// Cuts a file off, or extends it with zeros. The caller saves the inode.
pub(crate) fn set_size(tx: &mut Tx<'_>, inode: &mut Inode, size: u64) -> Result<()> {
    if size > FILE_BYTES_MAX {
        return Err(FsError::new(Errno::EFBIG));
    }
    if size < inode.size {
        remove_content(tx, inode, size, u64::MAX >> 1)?;
        if let Some(row) = tx.spooled(inode.ino)?.filter(|row| row.sealed_size > size) {
            tx.put_spooled(inode.ino, Spooled { sealed_size: size, ..row })?;
        }
    } else if size > INLINE_BYTES_MAX && inode.tier == Tier::Inline {
        // It is larger than what lives inline; sealing moves the content it has.
        make_dirty(tx, inode)?;
    }
    inode.size = size;
    inode.tier = inode.tier.max(Tier::of_size(size));
    tx.content_changed(inode);
    Ok(())
}

/// `fallocate(2)`.
pub(crate) fn fallocate(tx: &mut Tx<'_>, ino: Ino, mode: u32, offset: u64, len: u64) -> Result<()> {
    let mut inode = tx.get_file(ino)?;
    if len == 0 {
        return Err(FsError::new(Errno::EINVAL));
    }
    let end = checked_end(offset, len)?;
    match mode {
        0 | KEEP_SIZE => {
            let size = if mode == 0 { inode.size.max(end) } else { inode.size };
            tx.check_space(missing(tx, &inode, size, (offset, end))?)?;
            tx.check_room()?;
        }
        m if m == PUNCH_HOLE | KEEP_SIZE || m & !KEEP_SIZE == ZERO_RANGE => {
            remove_content(tx, &mut inode, offset, end)?;
        }
        _ => return Err(FsError::new(Errno::EOPNOTSUPP)),
    }
    if mode & KEEP_SIZE == 0 && end > inode.size {
        set_size(tx, &mut inode, end)?;
    }
    if mode & !KEEP_SIZE == 0 {
        let end = end.min(inode.size);
        reserve(tx, &mut inode, offset, end)?;
    }
    tx.content_changed(&mut inode);
    tx.save(&inode);
    Ok(())
}

/// The bytes that a file of `size` bytes has yet to allocate, to have content in a range.
fn missing(tx: &Tx<'_>, inode: &Inode, size: u64, (start, end): (u64, u64)) -> Result<u64> {
    // Nothing is kept beyond the end.
    let end = end.min(size);
    if start >= end {
        return Ok(0);
    }
    if inode.tier == Tier::Inline && size <= INLINE_BYTES_MAX {
        // Inline content is one piece from the beginning: what lies before the range is part of it.
        return Ok(end.saturating_sub(inode.alloc));
    }
    let there = layers::covered(&layers::pieces(tx, inode.ino, start, end)?);
    Ok(end - start - there)
}

/// Makes zeros of the holes between `start` and `end`, so that writing there needs no more room.
/// The caller saves the inode.
fn reserve(tx: &mut Tx<'_>, inode: &mut Inode, start: u64, end: u64) -> Result<()> {
    if start >= end {
        return Ok(());
    }
    if inode.tier == Tier::Inline {
        if end > inode.alloc {
            // Both are within INLINE_BYTES_MAX.
            let mut content = tx.blob(inode.ino)?.unwrap_or_default().to_vec();
            content.resize(usize::try_from(end).unwrap_or(content.len()), 0);
            set_inline(tx, inode, content.into());
        }
        return Ok(());
    }
    let mut holes = Vec::new();
    let mut at = start;
    for piece in layers::pieces(tx, inode.ino, start, end)? {
        holes.push((at, piece.off));
        at = piece.end();
    }
    holes.push((at, end));
    holes.retain(|(from, to)| from < to);
    if holes.is_empty() {
        return Ok(());
    }
    make_dirty(tx, inode)?;
    let Some(row) = tx.spooled(inode.ino)? else { return Ok(()) };
    // A new file of the spool is all zeros; the one before may hold bytes that do not count.
    let generation = tx.next_version();
    tx.put_spooled(inode.ino, Spooled { generation, ..row })?;
    tx.shared.spool.reach((inode.ino, generation), end)?;
    for (from, to) in holes {
        tx.cover(inode.ino, generation, from, to)?;
        tx.set_alloc(inode, inode.alloc + (to - from));
    }
    Ok(())
}

/// Makes `start` to `end` a hole in every layer. The caller saves the inode.
fn remove_content(tx: &mut Tx<'_>, inode: &mut Inode, start: u64, end: u64) -> Result<()> {
    let covered = |tx: &Tx<'_>, ino| {
        layers::pieces(tx, ino, start, end).map(|pieces| layers::covered(&pieces))
    };
    let before = covered(tx, inode.ino)?;
    if before == 0 {
        return Ok(());
    }
    remove_inline(tx, inode, start, end)?;
    if inode.tier == Tier::Inline {
        // All of it was in `blob`, or lies in the spool.
    } else if end >= inode.size {
        tx.cut_sealed(inode.ino, start)?;
    } else if !tx.sealed(inode.ino, start, end)?.is_empty() {
        remove_sealed(tx.sql()?, inode.ino, start, end)?;
    }
    tx.uncover(inode.ino, u64::MAX, start, end)?;
    if inode.tier != Tier::Inline {
        zero_over_inline(tx, inode, start, end)?;
        // Zeros over what was inline go on taking their room.
        let gone = before - covered(tx, inode.ino)?;
        tx.set_alloc(inode, inode.alloc.saturating_sub(gone));
    }
    Ok(())
}

fn remove_inline(tx: &mut Tx<'_>, inode: &mut Inode, start: u64, end: u64) -> Result<()> {
    let Some(content) = tx.blob(inode.ino)? else { return Ok(()) };
    let len = content.len() as u64;
    if start >= len || (end < len && inode.tier != Tier::Inline) {
        return Ok(());
    }
    // Both are within the content, which is small.
    let at = |offset: u64| usize::try_from(offset.min(len)).unwrap_or(content.len());
    let (from, to) = (at(start), at(end));
    let content = if end >= len {
        content.slice(..from)
    } else {
        let mut content = content.to_vec();
        content[from..to].fill(0);
        content.into()
    };
    let alloc = inode.alloc;
    set_inline(tx, inode, content);
    if inode.tier != Tier::Inline {
        // Other layers count too; the caller knows the sum.
        tx.set_alloc(inode, alloc);
    }
    Ok(())
}

/// A hole inside what was inline when the file grew out of it: zeros written over it, because
/// that content may be on its way to a pack just now.
fn zero_over_inline(tx: &mut Tx<'_>, inode: &Inode, start: u64, end: u64) -> Result<()> {
    let len = tx.blob(inode.ino)?.map_or(0, |blob| blob.len() as u64);
    if end >= len {
        return Ok(());
    }
    let zeros = vec![0; usize::try_from(end - start).unwrap_or_default()];
    let generation = make_dirty(tx, inode)?;
    tx.shared.spool.write((inode.ino, generation), start, &zeros)?;
    tx.cover(inode.ino, generation, start, end)
}

/// Removes sealed content between `start` and `end`; extents that reach over an end are cut.
pub(crate) fn remove_sealed(conn: &Connection, ino: Ino, start: u64, end: u64) -> Result<()> {
    const OVERLAPPING: &str = "SELECT off,len,pack,digest,src FROM extent \
         WHERE ino=?1 AND off<?3 AND off>=COALESCE(\
         (SELECT max(off) FROM extent WHERE ino=?1 AND off<=?2),?2)";
    type Row = (u64, u64, Option<i64>, Option<Vec<u8>>, u64);
    let rows: Vec<Row> =
        sql::all(conn, OVERLAPPING, params![int(ino), int(start), int(end)], |r| {
            Ok((uint(r, 0)?, uint(r, 1)?, r.get(2)?, r.get(3)?, uint(r, 4)?))
        })?;
    for (off, len, pack, digest, src) in rows {
        if off + len <= start {
            continue;
        }
        sql::run(conn, "DELETE FROM extent WHERE ino=?1 AND off=?2", params![int(ino), int(off)])?;
        for (from, to) in [(off, start), (end, off + len)] {
            if from < to && from >= off && to <= off + len {
                const SQL: &str = "INSERT INTO extent VALUES(?1,?2,?3,?4,?5,?6)";
                let src = int(src + from - off);
                let values = params![int(ino), int(from), int(to - from), pack, digest, src];
                sql::run(conn, SQL, values)?;
            }
        }
    }
    Ok(())
}
