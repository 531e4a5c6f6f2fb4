//! Calls made of other calls, for file systems that have no shorter way.

use crate::{Expect, FileSystem, Ino, Kind, NewFile, Placed, Result};

/// The steps of one write.
const WRITE_BYTES: usize = 512 << 10;

/// [`FileSystem::put_file`] in terms of the calls that it stands for.
///
/// # Errors
/// Those of the calls; the detached file is gone then.
pub fn put_in_steps<F: FileSystem + ?Sized>(
    fs: &F,
    base: Ino,
    path: &[&[u8]],
    file: &NewFile<'_>,
    expect: Expect,
) -> Result<Placed> {
    let ino = fs.create_detached(Kind::File, file.perm, file.owner)?.ino;
    let mut at = 0;
    let written = file.content.chunks(WRITE_BYTES).try_for_each(|piece| {
        fs.write(ino, at, piece)?;
        at += piece.len() as u64;
        Ok(())
    });
    let placed = written.and_then(|()| fs.place(ino, base, path, expect));
    fs.unpin(ino);
    placed
}
