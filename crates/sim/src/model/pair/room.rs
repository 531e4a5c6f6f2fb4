//! Calls that need room, also in a home that has little.
//!
//! The tree in memory has room without end, because it counts pages and a home counts bytes. So a home is
//! held to its own count, which `fsck` checks at the end: it takes what fits, refuses what does not,
//! and a refusal changes nothing.

use vfs::{Errno, FileSystem, FsError, Ino, Result, SeekFrom, StatFs};

use super::Pair;
use super::agree::{both, same};

/// Content up to here is kept as one piece, holes and all (docs/semantics.md, Tiers).
const INLINE_BYTES: u64 = 16 << 10;

/// The most bytes more that a home may need to have content in a range.
fn need(fs: &dyn FileSystem, ino: Ino, at: u64, len: u64) -> u64 {
    let end = at.saturating_add(len);
    let size = fs.getattr(ino).map_or(0, |attr| attr.size);
    match fs.seek(ino, SeekFrom::Hole(at)) {
        // Overwriting needs nothing.
        Ok(hole) if end <= size && hole >= end => 0,
        _ if end <= INLINE_BYTES => end,
        _ => len,
    }
}

impl Pair {
    /// Makes a change to the content of a file that there may be no room for.
    pub(super) fn fill(
        &self,
        fs: &dyn FileSystem,
        (ours, model): (Ino, Ino),
        (at, len): (u64, u64),
        change: impl Fn(&dyn FileSystem, Ino) -> Result<()>,
    ) -> Result<(), String> {
        let (sizes, before) = (self.sizes(fs)?, fs.getattr(ours));
        let need = need(fs, ours, at, len);
        let answer = change(fs, ours);
        if is_full(&answer) {
            self.rightly_refused(fs, &sizes, need)?;
            return same(fs.getattr(ours), before)
                .map(drop)
                .map_err(|what| format!("a refusal changes the file: {what}"));
        }
        both(answer, change(&self.model, model))?;
        self.sizes(fs).map(drop)
    }

    /// A call for `need` more bytes was refused: they did not fit, and nothing changed.
    pub(super) fn rightly_refused(
        &self,
        fs: &dyn FileSystem,
        before: &StatFs,
        need: u64,
    ) -> Result<(), String> {
        if before.bytes_used + need <= before.bytes_max {
            return Err(format!("no room for {need} bytes, and there is: {before:?}"));
        }
        match self.sizes(fs)? {
            after if after == *before => Ok(()),
            after => Err(format!("a refusal takes room: {before:?} became {after:?}")),
        }
    }

    /// How full it is: never more than full.
    pub(super) fn sizes(&self, fs: &dyn FileSystem) -> Result<StatFs, String> {
        let sizes = fs.statfs().map_err(|error| error.to_string())?;
        if sizes.bytes_max != self.bytes_max || sizes.bytes_used > sizes.bytes_max {
            return Err(format!("more than there is room for: {sizes:?}"));
        }
        Ok(sizes)
    }
}

/// Whether there was no room.
pub(super) fn is_full<T>(answer: &Result<T>) -> bool {
    answer.as_ref().is_err_and(|error: &FsError| error.errno() == Errno::ENOSPC)
}
