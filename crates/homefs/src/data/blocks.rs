//! How packs and chunks lie in the store: blocks, each compressed by itself.
//!
//! The content is cut every 128 KiB. A block is one zstd frame, or the bytes as they are where that
//! would save next to nothing. The *table* stands in the row of the pack or chunk, seven bytes a block:
//!
//! ```text
//! u24 length of the stored block (that of its content: stored as it is)   4 bytes of its SHA-256
//! ```
//! Numbers are little-endian. docs/formats.md describes it to people.
//!
//! # Invariants
//! - No byte is believed before its sum holds: a damaged block is an error, never other bytes.
//! - Nothing is allocated by a number from outside: a block unpacks to at most 128 KiB.
//! - Seven bytes keep the table of a full pack within its row's page of the database.
//!
//! # Not here
//! Fetching (`objects`), storing (`upload`). Content without a table was stored by an earlier version
//! as it is, without sums.

use std::ops::Range;

use base::{Digest, KIB};
use bytes::Bytes;

/// Bytes of content in each block but the last.
pub(crate) const BLOCK_BYTES: u64 = 128 * KIB;
/// Bytes of the table for one block.
const ENTRY: usize = 7;
/// Bytes of a block's sum.
const SUM: usize = 4;
/// The fastest level: content is stored while machines work.
const ZSTD_LEVEL: i32 = 1;

/// Where the blocks of one object lie in it, and what tells that they are whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Blocks {
    plain_len: u64,
    /// Where each block begins; one more for the end of the last.
    starts: Vec<u64>,
    sums: Vec<[u8; SUM]>,
}

impl Blocks {
    /// Reads a table for content of `plain_len` bytes; `None` where it cannot be one.
    pub(crate) fn parse(table: &[u8], plain_len: u64) -> Option<Self> {
        let count = plain_len.div_ceil(BLOCK_BYTES);
        if table.len() as u64 != count.checked_mul(ENTRY as u64)? {
            return None;
        }
        let mut starts = vec![0];
        let mut sums = Vec::with_capacity(table.len() / ENTRY);
        let mut at = 0;
        for (number, entry) in (0..).zip(table.chunks_exact(ENTRY)) {
            let len = u64::from(u32::from_le_bytes([entry[0], entry[1], entry[2], 0]));
            if len == 0 || len > content_len(number, plain_len) {
                return None;
            }
            at += len;
            starts.push(at);
            sums.push([entry[3], entry[4], entry[5], entry[6]]);
        }
        Some(Self { plain_len, starts, sums })
    }

    /// How many there are.
    pub(crate) fn count(&self) -> u64 {
        self.sums.len() as u64
    }

    /// Bytes of the stored object.
    pub(crate) fn stored_len(&self) -> u64 {
        self.starts.last().copied().unwrap_or(0)
    }

    /// Where these blocks lie in the stored object. They must be blocks of it.
    pub(crate) fn stored(&self, blocks: &Range<u64>) -> Range<u64> {
        let start =
            |block: u64| usize::try_from(block).ok().and_then(|at| self.starts.get(at)).copied();
        start(blocks.start).unwrap_or(0)..start(blocks.end).unwrap_or(self.stored_len())
    }

    /// The content of block `number`.
    pub(crate) fn decode(&self, number: u64, stored: &Bytes) -> Result<Bytes, &'static str> {
        let sum = usize::try_from(number).ok().and_then(|at| self.sums.get(at));
        if sum != Some(&sum_of(stored)) {
            return Err("a block of it is not what was stored");
        }
        let len = content_len(number, self.plain_len) as usize;
        if stored.len() == len {
            return Ok(stored.clone());
        }
        match zstd::bulk::decompress(stored, len) {
            Ok(plain) if plain.len() == len => Ok(plain.into()),
            _ => Err("a block of it does not unpack to what its place says"),
        }
    }
}

/// Bytes of content in a block of an object of `plain_len` bytes.
fn content_len(number: u64, plain_len: u64) -> u64 {
    plain_len.saturating_sub(number.saturating_mul(BLOCK_BYTES)).min(BLOCK_BYTES)
}

fn sum_of(stored: &[u8]) -> [u8; SUM] {
    let mut sum = [0; SUM];
    sum.copy_from_slice(&Digest::of(stored).as_bytes()[..SUM]);
    sum
}

/// An object as it is stored, in the making.
pub(crate) struct Encoder {
    zstd: zstd::bulk::Compressor<'static>,
    body: Vec<u8>,
    table: Vec<u8>,
}

/// An object as it is stored, and its table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Encoded {
    pub(crate) body: Bytes,
    pub(crate) table: Vec<u8>,
}

impl Encoder {
    /// For content of `plain_len` bytes.
    ///
    /// # Errors
    /// Where there is no memory.
    pub(crate) fn new(plain_len: usize) -> std::io::Result<Self> {
        Ok(Self {
            zstd: zstd::bulk::Compressor::new(ZSTD_LEVEL)?,
            // Room for the worst case, so that it never moves: the system backs only what is used.
            body: Vec::with_capacity(plain_len),
            table: Vec::new(),
        })
    }

    /// Adds the next block: 128 KiB of content, less only at the end.
    ///
    /// # Errors
    /// Where there is no memory.
    pub(crate) fn add(&mut self, content: &[u8]) -> std::io::Result<()> {
        debug_assert!((1..=BLOCK_BYTES as usize).contains(&content.len()), "blocks are cut so");
        let packed = self.zstd.compress(content)?;
        // What saves less than a sixteenth is not worth unpacking.
        let stored = if packed.len() <= content.len() / 16 * 15 { &packed } else { content };
        self.table.extend_from_slice(&(stored.len() as u32).to_le_bytes()[..3]);
        self.table.extend_from_slice(&sum_of(stored));
        self.body.extend_from_slice(stored);
        Ok(())
    }

    /// The whole.
    pub(crate) fn end(self) -> Encoded {
        Encoded { body: self.body.into(), table: self.table }
    }
}

/// What an object says that an earlier attempt left in the store under our name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Found {
    /// Our content in blocks, with this table.
    Blocks(Vec<u8>),
    /// Our content as it is.
    Raw,
}

/// Reads `stored` against the content that it must have, which `next` gives block by block (`None` at the
/// end). Another version may have compressed it otherwise; `Ok(None)` where it has other content.
///
/// # Errors
/// Those of `next`.
pub(crate) fn recognise<E>(
    stored: &[u8],
    mut next: impl FnMut() -> Result<Option<Vec<u8>>, E>,
) -> Result<Option<Found>, E> {
    let (mut rest, mut table, mut raw) = (stored, Vec::new(), true);
    while let Some(content) = next()? {
        let len = match rest.starts_with(&content) {
            true => content.len(),
            false => match packed_as(rest, &content) {
                Some(len) => len,
                None => return Ok(None),
            },
        };
        raw &= len == content.len();
        let (block, after) = rest.split_at(len);
        table.extend_from_slice(&(len as u32).to_le_bytes()[..3]);
        table.extend_from_slice(&sum_of(block));
        rest = after;
    }
    Ok(match (rest.is_empty(), raw) {
        (false, _) => None,
        (true, true) => Some(Found::Raw),
        (true, false) => Some(Found::Blocks(table)),
    })
}

/// The length of the frame that `stored` begins with, where it unpacks to `content` and is shorter.
fn packed_as(stored: &[u8], content: &[u8]) -> Option<usize> {
    // A frame that is a block is shorter than its content.
    let window = &stored[..stored.len().min(content.len())];
    let len = zstd::zstd_safe::find_frame_compressed_size(window).ok()?;
    let frame = stored.get(..len).filter(|_| len < content.len())?;
    let plain = zstd::bulk::decompress(frame, content.len()).ok()?;
    (plain == content).then_some(len)
}

#[cfg(test)]
mod tests;
