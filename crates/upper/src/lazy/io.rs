//! What a guest does to the disk. Called by threads that may block, outside of the runtime.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};

use super::fetch::Claim;
use super::table::Slot;
use super::{Inner, LazyDisk};
use crate::error::Error;
use crate::limits::CHUNK_BYTES;
use crate::manifest::piece_len;

const CHUNK: u64 = CHUNK_BYTES as u64;

/// A part of a chunk, or all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Piece {
    index: u32,
    at: u64,
    len: u64,
    whole: bool,
}

impl LazyDisk {
    /// Fills `into` with what is there from `at` on. What is missing comes first.
    ///
    /// # Errors
    /// Those of the disk; of a chunk that does not come.
    pub fn read(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        let inner = &self.0;
        let pieces = inner.pieces(at, into.len() as u64)?;
        inner.bring_all(pieces.map(|piece| piece.index))?;
        inner.file.read_exact_at(into, at)
    }

    /// Writes `bytes` from `at` on.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.change(at, bytes.len() as u64, true, |file, piece| {
            let begin = usize::try_from(piece.at - at).unwrap_or(usize::MAX);
            let end = begin.saturating_add(usize::try_from(piece.len).unwrap_or(usize::MAX));
            file.write_all_at(bytes.get(begin..end).unwrap_or_default(), piece.at)
        })
    }

    /// Has `len` bytes be zeros; `keep` their room.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn zero(&self, at: u64, len: u64, keep: bool) -> io::Result<()> {
        let how = if keep { FallocateFlags::FALLOC_FL_ZERO_RANGE } else { PUNCH };
        self.0.change(at, len, true, |file, piece| {
            match allocate(file, how, piece) {
                // Not every file system can.
                Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                    write_zeros(file, piece)
                }
                done => done,
            }
        })
    }

    /// `len` bytes are not needed any more. What of it is missing goes on being so, unless a whole chunk is.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn trim(&self, at: u64, len: u64) -> io::Result<()> {
        self.0.change(at, len, false, |file, piece| match allocate(file, PUNCH, piece) {
            // A whole chunk counts as here from now on, and the file says zeros.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(()),
            done => done,
        })
    }

    /// What was written until now outlives a loss of power when this returns.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn flush(&self) -> io::Result<()> {
        let written = self.0.table.lock().written_not_kept();
        self.0.keep(&written).map_err(told)
    }
}

const PUNCH: FallocateFlags =
    FallocateFlags::FALLOC_FL_PUNCH_HOLE.union(FallocateFlags::FALLOC_FL_KEEP_SIZE);

impl Inner {
    /// A range by chunks.
    fn pieces(&self, at: u64, len: u64) -> io::Result<impl Iterator<Item = Piece> + use<>> {
        let bytes = self.bytes;
        let end = at.checked_add(len).filter(|end| *end <= bytes && len > 0);
        let end = end.ok_or(io::ErrorKind::InvalidInput)?;
        let number = |byte: u64| u32::try_from(byte / CHUNK).unwrap_or(u32::MAX);
        Ok((number(at)..=number(end - 1)).map(move |index| {
            let begin = u64::from(index) * CHUNK;
            let whole = begin..begin + piece_len(bytes, CHUNK_BYTES, index) as u64;
            let (from, to) = (at.max(whole.start), end.min(whole.end));
            Piece { index, at: from, len: to - from, whole: (from..to) == whole }
        }))
    }

    /// Has `work` change each piece of a range. Those that are missing come first, or are left alone where the
    /// change does `not` need them; those that are overwritten as a whole do not have to.
    fn change(
        self: &Arc<Self>,
        at: u64,
        len: u64,
        needed: bool,
        work: impl Fn(&File, Piece) -> io::Result<()>,
    ) -> io::Result<()> {
        if needed {
            let parts = self.pieces(at, len)?.filter(|piece| !piece.whole);
            self.bring_all(parts.map(|piece| piece.index))?;
        }
        for piece in self.pieces(at, len)? {
            let claim: Option<Claim> = if piece.whole {
                self.runtime.block_on(self.take_over(piece.index))?
            } else {
                // In part, and not needed: what the rest of it is the guest may still want to know.
                if !needed && !self.table.lock().is_here(piece.index) {
                    continue;
                }
                None
            };
            // Before: a flush that begins after this is answered has to know of it.
            self.table.lock().written(piece.index);
            work(&self.file, piece)?;
            if let Some(mut claim) = claim {
                claim.settle(Slot::Written).map_err(told)?;
            }
        }
        Ok(())
    }

    /// Returns once all of these are here.
    fn bring_all(self: &Arc<Self>, indexes: impl Iterator<Item = u32>) -> io::Result<()> {
        let missing: Vec<u32> = {
            let table = self.table.lock();
            indexes.filter(|index| !table.is_here(*index)).collect()
        };
        if missing.is_empty() {
            return Ok(());
        }
        let each = missing.into_iter().map(|index| self.bring(index));
        self.runtime.block_on(futures::future::try_join_all(each)).map(drop)
    }
}

/// An error of ours for whoever reads the disk.
pub(super) fn told(error: Error) -> io::Error {
    match error {
        Error::Disk { source, .. } => source,
        error => io::Error::other(error),
    }
}

fn allocate(file: &File, how: FallocateFlags, piece: Piece) -> io::Result<()> {
    let offset = |byte: u64| i64::try_from(byte).map_err(|_| io::ErrorKind::InvalidInput);
    match fallocate(file.as_fd(), how, offset(piece.at)?, offset(piece.len)?) {
        Err(Errno::EOPNOTSUPP) => Err(io::ErrorKind::Unsupported.into()),
        done => done.map_err(io::Error::from),
    }
}

fn write_zeros(file: &File, piece: Piece) -> io::Result<()> {
    let zeros = [0; 64 << 10];
    let (mut at, end) = (piece.at, piece.at + piece.len);
    while at < end {
        let len = usize::try_from(end - at).unwrap_or(usize::MAX).min(zeros.len());
        file.write_all_at(zeros.get(..len).unwrap_or_default(), at)?;
        at += len as u64;
    }
    Ok(())
}
