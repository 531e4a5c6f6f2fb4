//! Reading content of files: all layers together.

use bytes::{Bytes, BytesMut};
use vfs::{Errno, FsError, Ino, Result};

use super::layers::{self, Piece, Source};
use super::objects::{Objects, corrupt};
use super::spool::Spool;
use super::tables::Tables;
use crate::limits::IO_BYTES_MAX;
use crate::meta::inode::Tier;
use crate::meta::rows::{ReadRows, Rows};

/// What is known of a range of a file, before its bytes are fetched.
#[derive(Debug)]
enum Plan {
    /// The bytes themselves.
    Inline(Bytes),
    /// From `start`, `len` bytes; zeros where no piece is.
    Pieces { start: u64, len: usize, pieces: Vec<Piece>, blob: Bytes },
}

/// Up to `len` bytes of `ino` at `offset`.
///
/// The rows are read in one state of the database and the bytes after that, without holding it.
/// A spool file that was sealed and removed in between makes it start again.
pub(crate) fn read(
    rows: &(impl ReadRows + Tables),
    spool: Option<&Spool>,
    objects: &Objects,
    ino: Ino,
    offset: u64,
    len: u32,
) -> Result<Bytes> {
    const ATTEMPTS: usize = 16;
    let mut last = FsError::new(Errno::EIO);
    for _ in 0..ATTEMPTS {
        let plan = rows.read_rows(&|rows| plan(rows, ino, offset, len))?;
        match assemble(plan, ino, spool, objects, rows) {
            Err(error) if error.errno() == Errno::ESTALE => last = error,
            done => return done,
        }
    }
    Err(corrupt(format!("content of the file is nowhere to be found ({last})")))
}

fn plan(rows: &dyn Rows, ino: Ino, offset: u64, len: u32) -> Result<Plan> {
    let inode = rows.get_file(ino)?;
    let end = offset.saturating_add(u64::from(len)).min(inode.size);
    if offset >= end {
        return Ok(Plan::Inline(Bytes::new()));
    }
    let len = usize::try_from(end - offset).unwrap_or(IO_BYTES_MAX).min(IO_BYTES_MAX);
    let end = offset + len as u64;
    if inode.tier == Tier::Inline {
        let content = rows.blob(ino)?.unwrap_or_default();
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(content.len());
        let part = content.slice(start..content.len().min(start + len));
        if part.len() == len {
            return Ok(Plan::Inline(part));
        }
        let mut part = part.to_vec();
        part.resize(len, 0);
        return Ok(Plan::Inline(part.into()));
    }
    let pieces = layers::pieces_in_objects(rows, ino, offset, end)?;
    let blob = if pieces.iter().any(|piece| piece.from == Source::Blob) {
        rows.blob(ino)?.unwrap_or_default()
    } else {
        Bytes::new()
    };
    Ok(Plan::Pieces { start: offset, len, pieces, blob })
}

fn assemble(
    plan: Plan,
    ino: Ino,
    spool: Option<&Spool>,
    objects: &Objects,
    tables: &dyn Tables,
) -> Result<Bytes> {
    match plan {
        Plan::Inline(bytes) => Ok(bytes),
        Plan::Pieces { start, len, pieces, blob } => {
            let mut out = BytesMut::zeroed(len);
            for piece in &pieces {
                // Pieces lie within the range, whose length is a usize.
                let at = (piece.off - start) as usize;
                let into = &mut out[at..at + piece.len as usize];
                read_piece(piece, ino, &blob, spool, (objects, tables), into)?;
            }
            Ok(out.freeze())
        }
    }
}

/// The bytes of one piece; `blob` is the content of the inode's row in `blob`.
pub(crate) fn read_piece(
    piece: &Piece,
    ino: Ino,
    blob: &[u8],
    spool: Option<&Spool>,
    (objects, tables): (&Objects, &dyn Tables),
    into: &mut [u8],
) -> Result<()> {
    match piece.from {
        Source::Blob => {
            let start = usize::try_from(piece.off).unwrap_or(usize::MAX);
            match start.checked_add(into.len()).and_then(|end| blob.get(start..end)) {
                Some(bytes) => into.copy_from_slice(bytes),
                None => return Err(FsError::new(Errno::ESTALE)),
            }
            Ok(())
        }
        Source::Spool { generation } => match spool {
            Some(spool) => spool.read((ino, generation), piece.off, into),
            None => Err(FsError::new(Errno::ESTALE)),
        },
        Source::Pack { pack, src } => objects.read_pack(tables, pack, src, into),
        Source::Chunk { chunk, src } => objects.read_chunk(tables, chunk, src, into),
    }
}
