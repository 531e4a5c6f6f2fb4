//! Reading content of files: all layers together.

use bytes::{Bytes, BytesMut};
use rusqlite::Connection;
use vfs::{Errno, FsError, Ino, Result};

use super::layers::{self, Piece, Source};
use super::objects::Objects;
use super::spool::Spool;
use crate::limits::IO_BYTES_MAX;
use crate::meta::inode::{Inode, Tier};
use crate::meta::readers::Readers;
use crate::meta::sql::{self, int};

/// What is known of a range of a file, before its bytes are fetched.
#[derive(Debug)]
enum Plan {
    /// The bytes themselves.
    Inline(Bytes),
    /// From `start`, `len` bytes; zeros where no piece is.
    Pieces { start: u64, len: usize, pieces: Vec<Piece>, blob: Vec<u8> },
}

/// Up to `len` bytes of `ino` at `offset`.
///
/// The rows are read in one state of the database and the bytes after that, without holding it.
/// A spool file that was sealed and removed in between makes it start again.
pub(crate) fn read(
    readers: &Readers,
    spool: Option<&Spool>,
    objects: &Objects,
    ino: Ino,
    offset: u64,
    len: u32,
) -> Result<Bytes> {
    const ATTEMPTS: usize = 16;
    let mut last = FsError::new(Errno::EIO);
    for _ in 0..ATTEMPTS {
        let plan = readers.consistent(|conn| plan(conn, ino, offset, len))?;
        match assemble(plan, ino, spool, objects) {
            Err(error) if error.errno() == Errno::ESTALE => last = error,
            done => return done,
        }
    }
    Err(FsError::with(Errno::EIO, format!("content of the file is missing on this host ({last})")))
}

fn plan(conn: &Connection, ino: Ino, offset: u64, len: u32) -> Result<Plan> {
    let inode = Inode::get_file(conn, ino)?;
    let end = offset.saturating_add(u64::from(len)).min(inode.size);
    if offset >= end {
        return Ok(Plan::Inline(Bytes::new()));
    }
    let len = usize::try_from(end - offset).unwrap_or(IO_BYTES_MAX).min(IO_BYTES_MAX);
    let end = offset + len as u64;
    if inode.tier == Tier::Inline {
        let content = blob(conn, ino)?;
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(content.len());
        let mut part = content[start..content.len().min(start + len)].to_vec();
        part.resize(len, 0);
        return Ok(Plan::Inline(part.into()));
    }
    let pieces = layers::pieces(conn, ino, offset, end)?;
    let blob = if pieces.iter().any(|piece| piece.from == Source::Blob) {
        blob(conn, ino)?
    } else {
        Vec::new()
    };
    Ok(Plan::Pieces { start: offset, len, pieces, blob })
}

fn assemble(plan: Plan, ino: Ino, spool: Option<&Spool>, objects: &Objects) -> Result<Bytes> {
    match plan {
        Plan::Inline(bytes) => Ok(bytes),
        Plan::Pieces { start, len, pieces, blob } => {
            let mut out = BytesMut::zeroed(len);
            for piece in &pieces {
                // Pieces lie within the range, whose length is a usize.
                let at = (piece.off - start) as usize;
                let into = &mut out[at..at + piece.len as usize];
                read_piece(piece, ino, &blob, spool, objects, into)?;
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
    objects: &Objects,
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
        Source::Pack { pack, src } => objects.read_pack(pack, src, into),
        Source::Chunk { digest, src } => objects.read_chunk(digest, src, into),
    }
}

/// The row of `blob`, empty without one.
pub(crate) fn blob(conn: &Connection, ino: Ino) -> Result<Vec<u8>> {
    let row = sql::first(conn, "SELECT data FROM blob WHERE ino=?1", [int(ino)], |r| r.get(0))?;
    Ok(row.unwrap_or_default())
}
