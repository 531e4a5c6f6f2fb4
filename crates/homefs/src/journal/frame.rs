//! One record in a segment. Integers are little-endian.
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 4 | length of the body |
//! | 4 | 4 | CRC32C of everything after it |
//! | 8 | 8 | number of the record |
//! | 16 | 8 | number of the last record that was known to be synced when this one was written |
//! | 24 | | body; empty in a mark |

use crate::limits::RECORD_BYTES_MAX;

/// Bytes before the body.
pub(crate) const HEADER: usize = 24;

/// A record as it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Frame<'a> {
    pub(crate) seq: u64,
    pub(crate) synced: u64,
    /// Empty in a mark.
    pub(crate) body: &'a [u8],
}

impl Frame<'_> {
    /// Bytes it takes.
    pub(crate) fn bytes(&self) -> usize {
        HEADER + self.body.len()
    }
}

/// Makes room for the header of a record at the end of `out`; the body goes behind it, then
/// [`finish`].
pub(crate) fn begin(out: &mut Vec<u8>) {
    out.clear();
    out.resize(HEADER, 0);
}

/// Fills in the header of the record that is all of `out`.
pub(crate) fn finish(out: &mut [u8], seq: u64, synced: u64) {
    let len = out.len().saturating_sub(HEADER);
    // Records are at most RECORD_BYTES_MAX long.
    out[..4].copy_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes());
    out[8..16].copy_from_slice(&seq.to_le_bytes());
    out[16..24].copy_from_slice(&synced.to_le_bytes());
    let sum = crc32c::crc32c(&out[8..]);
    out[4..8].copy_from_slice(&sum.to_le_bytes());
}

/// The record at the start of `bytes`; `None` where none is whole.
pub(crate) fn parse(bytes: &[u8]) -> Option<Frame<'_>> {
    let header = bytes.first_chunk::<HEADER>()?;
    let len = u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize;
    let sum = u32::from_le_bytes([header[4], header[5], header[6], header[7]]);
    if len > RECORD_BYTES_MAX {
        return None;
    }
    let rest = bytes.get(8..HEADER + len)?;
    if crc32c::crc32c(rest) != sum {
        return None;
    }
    let number = |at: usize| rest[at..at + 8].iter().rev().fold(0, |n, b| n << 8 | u64::from(*b));
    Some(Frame { seq: number(0), synced: number(8), body: &rest[16..] })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written_or_not_at_all() {
        let mut bytes = Vec::new();
        begin(&mut bytes);
        bytes.extend_from_slice(b"body");
        finish(&mut bytes, 7, 5);
        let whole = bytes.clone();
        assert_eq!(parse(&whole), Some(Frame { seq: 7, synced: 5, body: b"body" }));
        for at in 0..whole.len() {
            assert_eq!(parse(&whole[..at]), None);
            bytes.clone_from(&whole);
            bytes[at] ^= 1;
            assert_eq!(parse(&bytes), None, "{at}");
        }
        assert_eq!(parse(&[0; 100]), None, "zeros are no record");
    }
}
