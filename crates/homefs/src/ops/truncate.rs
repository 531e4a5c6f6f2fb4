//! Sizes and holes.

use rusqlite::params;
use vfs::{Errno, FsError, Ino, Result};

use super::content::{checked_end, inline, make_dirty, note_dirty, set_inline};
use crate::data::layers;
use crate::limits::{FILE_BYTES_MAX, INLINE_BYTES_MAX};
use crate::meta::inode::{Inode, Tier};
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
        const SQL: &str = "UPDATE dirty_inode SET sealed_size=min(sealed_size,?2) WHERE ino=?1";
        sql::run(tx.conn, SQL, params![int(inode.ino), int(size)])?;
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
    let mut inode = Inode::get_file(tx.conn, ino)?;
    if len == 0 {
        return Err(FsError::new(Errno::EINVAL));
    }
    let end = checked_end(offset, len)?;
    match mode {
        0 | KEEP_SIZE => {
            let there = layers::covered(&layers::pieces(tx.conn, ino, offset, end)?);
            tx.check_space(len - there)?;
        }
        m if m == PUNCH_HOLE | KEEP_SIZE || m & !KEEP_SIZE == ZERO_RANGE => {
            remove_content(tx, &mut inode, offset, end)?;
        }
        _ => return Err(FsError::new(Errno::EOPNOTSUPP)),
    }
    if mode & KEEP_SIZE == 0 && end > inode.size {
        set_size(tx, &mut inode, end)?;
    }
    tx.content_changed(&mut inode);
    inode.save(tx.conn)
}

/// Makes `start` to `end` a hole in every layer. The caller saves the inode.
fn remove_content(tx: &mut Tx<'_>, inode: &mut Inode, start: u64, end: u64) -> Result<()> {
    let covered = |tx: &Tx<'_>, ino| {
        layers::pieces(tx.conn, ino, start, end).map(|pieces| layers::covered(&pieces))
    };
    let before = covered(tx, inode.ino)?;
    if before == 0 {
        return Ok(());
    }
    remove_inline(tx, inode, start, end)?;
    remove_sealed(tx, inode.ino, start, end)?;
    let mut after = -1;
    while let Some(generation) = layers::next_generation(tx.conn, inode.ino, after)? {
        remove_spooled(tx, inode.ino, generation, start, end)?;
        after = int(generation);
    }
    if inode.tier != Tier::Inline {
        zero_over_inline(tx, inode, start, end)?;
        // Zeros over what was inline go on taking their room.
        let gone = before - covered(tx, inode.ino)?;
        tx.set_alloc(inode, inode.alloc.saturating_sub(gone));
    }
    Ok(())
}

fn remove_inline(tx: &mut Tx<'_>, inode: &mut Inode, start: u64, end: u64) -> Result<()> {
    let mut content = inline(tx, inode.ino)?;
    let len = content.len() as u64;
    if start >= len || (end < len && inode.tier != Tier::Inline) {
        return Ok(());
    }
    // Both are within the content, which is small.
    let at = |offset: u64| usize::try_from(offset.min(len)).unwrap_or(content.len());
    let (from, to) = (at(start), at(end));
    if end >= len {
        content.truncate(from);
    } else {
        content[from..to].fill(0);
    }
    let alloc = inode.alloc;
    set_inline(tx, inode, &content)?;
    if inode.tier != Tier::Inline {
        // Other layers count too; the caller knows the sum.
        tx.set_alloc(inode, alloc);
    }
    Ok(())
}

/// A hole inside what was inline when the file grew out of it: zeros written over it, because
/// that content may be on its way to a pack just now.
fn zero_over_inline(tx: &mut Tx<'_>, inode: &Inode, start: u64, end: u64) -> Result<()> {
    let len = inline(tx, inode.ino)?.len() as u64;
    if end >= len {
        return Ok(());
    }
    let zeros = vec![0; usize::try_from(end - start).unwrap_or_default()];
    let generation = make_dirty(tx, inode)?;
    tx.shared.spool.write((inode.ino, generation), start, &zeros)?;
    note_dirty(tx, inode.ino, generation, start, end)
}

/// Removes sealed content between `start` and `end`; extents that reach over an end are cut.
pub(crate) fn remove_sealed(tx: &Tx<'_>, ino: Ino, start: u64, end: u64) -> Result<()> {
    const OVERLAPPING: &str = "SELECT off,len,pack,digest,src FROM extent \
         WHERE ino=?1 AND off<?3 AND off>=COALESCE(\
         (SELECT max(off) FROM extent WHERE ino=?1 AND off<=?2),?2)";
    type Row = (u64, u64, Option<i64>, Option<Vec<u8>>, u64);
    let rows: Vec<Row> =
        sql::all(tx.conn, OVERLAPPING, params![int(ino), int(start), int(end)], |r| {
            Ok((uint(r, 0)?, uint(r, 1)?, r.get(2)?, r.get(3)?, uint(r, 4)?))
        })?;
    for (off, len, pack, digest, src) in rows {
        if off + len <= start {
            continue;
        }
        sql::run(
            tx.conn,
            "DELETE FROM extent WHERE ino=?1 AND off=?2",
            params![int(ino), int(off)],
        )?;
        for (from, to) in [(off, start), (end, off + len)] {
            if from < to && from >= off && to <= off + len {
                const SQL: &str = "INSERT INTO extent VALUES(?1,?2,?3,?4,?5,?6)";
                let values = params![
                    int(ino),
                    int(from),
                    int(to - from),
                    pack,
                    digest,
                    int(src + from - off)
                ];
                sql::run(tx.conn, SQL, values)?;
            }
        }
    }
    Ok(())
}

/// The same for one generation of the spool. The bytes stay in its file; no row counts them.
pub(crate) fn remove_spooled(
    tx: &Tx<'_>,
    ino: Ino,
    generation: u64,
    start: u64,
    end: u64,
) -> Result<()> {
    const OVERLAPPING: &str = "SELECT off,len FROM dirty_extent \
         WHERE ino=?1 AND gen=?2 AND off<?4 AND off>=COALESCE(\
         (SELECT max(off) FROM dirty_extent WHERE ino=?1 AND gen=?2 AND off<=?3),?3)";
    let key = params![int(ino), int(generation), int(start), int(end)];
    let rows = sql::all(tx.conn, OVERLAPPING, key, |r| Ok((uint(r, 0)?, uint(r, 1)?)))?;
    for (off, len) in rows {
        if off + len <= start {
            continue;
        }
        const DELETE: &str = "DELETE FROM dirty_extent WHERE ino=?1 AND gen=?2 AND off=?3";
        sql::run(tx.conn, DELETE, params![int(ino), int(generation), int(off)])?;
        for (from, to) in [(off, start), (end, off + len)] {
            if from < to && from >= off && to <= off + len {
                const SQL: &str = "INSERT INTO dirty_extent VALUES(?1,?2,?3,?4)";
                sql::run(
                    tx.conn,
                    SQL,
                    params![int(ino), int(generation), int(from), int(to - from)],
                )?;
            }
        }
    }
    Ok(())
}
