//! Writing: into `blob` while a file is small, into the spool when it is not.

use rusqlite::params;
use vfs::{Errno, FsError, Ino, Result};

use crate::data::layers;
use crate::limits::{FILE_BYTES_MAX, FILE_PIECES_MAX, INLINE_BYTES_MAX};
use crate::meta::inode::{Inode, Tier};
use crate::meta::sql::{self, int, uint};
use crate::meta::tx::Tx;

/// Writes all of `data` at `offset`.
pub(crate) fn write(tx: &mut Tx<'_>, ino: Ino, offset: u64, data: &[u8]) -> Result<()> {
    let mut inode = Inode::get_file(tx.conn, ino)?;
    if data.is_empty() {
        return Ok(());
    }
    let end = checked_end(offset, data.len() as u64)?;
    let size = inode.size.max(end);
    if inode.tier == Tier::Inline && size <= INLINE_BYTES_MAX {
        write_inline(tx, &mut inode, offset, data)?;
    } else {
        write_spool(tx, &mut inode, offset, data)?;
    }
    inode.size = size;
    inode.tier = inode.tier.max(Tier::of_size(size));
    tx.content_changed(&mut inode);
    inode.save(tx.conn)
}

/// The end of a range, if a file may reach that far.
pub(crate) fn checked_end(offset: u64, len: u64) -> Result<u64> {
    match offset.checked_add(len) {
        Some(end) if end <= FILE_BYTES_MAX => Ok(end),
        _ => Err(FsError::new(Errno::EFBIG)),
    }
}

/// Content of a small file, as far as it was ever written. The file may be longer: zeros follow.
pub(crate) fn inline(tx: &Tx<'_>, ino: Ino) -> Result<Vec<u8>> {
    let blob = sql::first(tx.conn, "SELECT data FROM blob WHERE ino=?1", [int(ino)], |r| r.get(0))?;
    Ok(blob.unwrap_or_default())
}

/// Replaces content of a small file.
pub(crate) fn set_inline(tx: &mut Tx<'_>, inode: &mut Inode, data: &[u8]) -> Result<()> {
    const SQL: &str = "INSERT OR REPLACE INTO blob VALUES(?1,?2)";
    sql::run(tx.conn, SQL, params![int(inode.ino), data])?;
    tx.set_alloc(inode, data.len() as u64);
    Ok(())
}

fn write_inline(tx: &mut Tx<'_>, inode: &mut Inode, offset: u64, data: &[u8]) -> Result<()> {
    let mut content = inline(tx, inode.ino)?;
    // Both ends are within INLINE_BYTES_MAX: the caller chose this way by them.
    let start = usize::try_from(offset).unwrap_or(usize::MAX);
    let end = start.saturating_add(data.len());
    tx.check_space((end.saturating_sub(content.len())) as u64)?;
    tx.check_room()?;
    if content.len() < end {
        content.resize(end, 0);
    }
    content[start..end].copy_from_slice(data);
    set_inline(tx, inode, &content)
}

fn write_spool(tx: &mut Tx<'_>, inode: &mut Inode, offset: u64, data: &[u8]) -> Result<()> {
    let end = offset + data.len() as u64;
    let there = layers::covered(&layers::pieces(tx.conn, inode.ino, offset, end)?);
    let more = data.len() as u64 - there;
    tx.check_space(more)?;
    tx.check_room()?;
    check_pieces(tx, inode.ino)?;
    let generation = make_dirty(tx, inode)?;
    tx.shared.spool.write((inode.ino, generation), offset, data)?;
    note_dirty(tx, inode.ino, generation, offset, end)?;
    tx.set_alloc(inode, inode.alloc + more);
    Ok(())
}

/// Bounds what lists of a file's pieces can take in memory. Looked at now and then only: a few
/// thousand more do no harm.
fn check_pieces(tx: &Tx<'_>, ino: Ino) -> Result<()> {
    if !tx.counters.version.is_multiple_of(1_024) {
        return Ok(());
    }
    const COUNT: &str = "SELECT count(*) FROM (SELECT 1 FROM extent WHERE ino=?1 \
         UNION ALL SELECT 1 FROM dirty_extent WHERE ino=?1 LIMIT ?2)";
    let max = int(FILE_PIECES_MAX);
    let count = sql::first(tx.conn, COUNT, params![int(ino), max], |r| uint(r, 0))?;
    if count.unwrap_or_default() >= FILE_PIECES_MAX {
        return Err(FsError::with(Errno::ENOSPC, "the file is in too many pieces; copy it"));
    }
    Ok(())
}

/// The generation that takes writes; starts one where everything was sealed. What is sealed now
/// is what a reader on another host goes by until the next sealing.
pub(crate) fn make_dirty(tx: &mut Tx<'_>, inode: &Inode) -> Result<u64> {
    const FIND: &str = "SELECT gen FROM dirty_inode WHERE ino=?1";
    if let Some(generation) = sql::first(tx.conn, FIND, [int(inode.ino)], |r| uint(r, 0))? {
        return Ok(generation);
    }
    let generation = tx.next_version();
    const NEW: &str = "INSERT INTO dirty_inode VALUES(?1,?2,?3,?4,?5)";
    sql::run(
        tx.conn,
        NEW,
        params![int(inode.ino), int(generation), int(inode.size), inode.mtime, int(inode.version)],
    )?;
    Ok(generation)
}

/// Notes that `start` to `end` of this generation counts, merging with what it touches.
pub(crate) fn note_dirty(
    tx: &Tx<'_>,
    ino: Ino,
    generation: u64,
    start: u64,
    end: u64,
) -> Result<()> {
    const TOUCHING: &str = "SELECT off,len FROM dirty_extent \
         WHERE ino=?1 AND gen=?2 AND off<=?4 AND off>=COALESCE(\
         (SELECT max(off) FROM dirty_extent WHERE ino=?1 AND gen=?2 AND off<=?3),?3)";
    let key = params![int(ino), int(generation), int(start), int(end)];
    let rows = sql::all(tx.conn, TOUCHING, key, |r| Ok((uint(r, 0)?, uint(r, 1)?)))?;
    let (mut from, mut to) = (start, end);
    for (off, len) in rows {
        if off + len < start {
            continue;
        }
        from = from.min(off);
        to = to.max(off + len);
        if off != from {
            const DELETE: &str = "DELETE FROM dirty_extent WHERE ino=?1 AND gen=?2 AND off=?3";
            sql::run(tx.conn, DELETE, params![int(ino), int(generation), int(off)])?;
        }
    }
    const SET: &str = "INSERT OR REPLACE INTO dirty_extent VALUES(?1,?2,?3,?4)";
    sql::run(tx.conn, SET, params![int(ino), int(generation), int(from), int(to - from)])?;
    Ok(())
}
