//! Bytes to send: they do not compress, no two blocks are alike, and a reader can tell where each
//! page of them belongs.
//!
//! Otherwise compression and deduplication would be measured in place of moving data.

use std::io::{self, Read};

use anyhow::ensure;

/// Every page begins with a stamp: whose it is and its number.
pub(crate) const PAGE: usize = 4096;
/// Random bytes that repeat only after this many; as long as a chunk of a home, so that none
/// repeats within a chunk.
const BLOCK: usize = 4 << 20;

/// A stream of a given length.
#[derive(Debug)]
pub(crate) struct Pattern {
    block: Vec<u8>,
    tag: u32,
    at: u64,
    length: u64,
}

impl Pattern {
    /// `length` bytes; another `tag` gives other bytes.
    pub(crate) fn new(tag: u32, length: u64) -> Self {
        Self { block: noise(BLOCK), tag, at: 0, length }
    }
}

impl Read for Pattern {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while done < buffer.len() && self.at < self.length {
            let page = self.at / PAGE as u64;
            let within = (self.at % PAGE as u64) as usize;
            let left = usize::try_from(self.length - self.at).unwrap_or(usize::MAX);
            let count = (PAGE - within).min(buffer.len() - done).min(left);
            let out = &mut buffer[done..done + count];
            let from = (self.at % BLOCK as u64) as usize;
            out.copy_from_slice(&self.block[from..from + count]);
            let stamp = stamp(self.tag, page);
            if within < stamp.len() {
                let stamped = count.min(stamp.len() - within);
                out[..stamped].copy_from_slice(&stamp[within..within + stamped]);
            }
            done += count;
            self.at += count as u64;
        }
        Ok(done)
    }
}

/// Looks at the stamps of a stream that goes by. Cheap, so that it does not slow what is measured.
#[derive(Debug)]
pub(crate) struct Check {
    tag: u32,
    at: u64,
}

impl Check {
    pub(crate) fn new(tag: u32) -> Self {
        Self { tag, at: 0 }
    }

    /// The next bytes. A stamp that is cut by the end of `bytes` is not looked at.
    pub(crate) fn see(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        let page = PAGE as u64;
        let mut next = self.at.next_multiple_of(page);
        while next + 8 <= self.at + bytes.len() as u64 {
            let from = (next - self.at) as usize;
            let right = bytes[from..from + 8] == stamp(self.tag, next / page);
            ensure!(right, "the bytes at {next} are not those that were written");
            next += page;
        }
        self.at += bytes.len() as u64;
        Ok(())
    }

    /// The end of the stream, which must have had `length` bytes.
    pub(crate) fn end(&self, length: u64) -> anyhow::Result<()> {
        ensure!(self.at == length, "{} bytes came where {length} were written", self.at);
        Ok(())
    }
}

/// A page of its own for every `number`.
pub(crate) fn page(tag: u32, number: u64) -> Vec<u8> {
    let mut bytes = noise(PAGE);
    bytes[..8].copy_from_slice(&stamp(tag, number));
    bytes
}

/// What the page begins with.
pub(crate) fn stamp(tag: u32, page: u64) -> [u8; 8] {
    (u64::from(tag) << 40 | page).to_le_bytes()
}

/// Random enough bytes, always the same (xorshift64).
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(tag: u32, length: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        Pattern::new(tag, length).read_to_end(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn a_stream_is_as_long_as_asked_and_passes_its_own_check_in_any_pieces() {
        let bytes = whole(3, 50_001);
        assert_eq!(bytes.len(), 50_001);
        for size in [1, 7, 4095, 4096, 10_000] {
            let mut check = Check::new(3);
            bytes.chunks(size).for_each(|piece| check.see(piece).unwrap());
            check.end(50_001).unwrap();
            assert!(check.end(50_000).is_err());
        }
        let mut pieces = Vec::new();
        let mut pattern = Pattern::new(3, 50_001);
        let mut buffer = [0; 613];
        loop {
            match pattern.read(&mut buffer).unwrap() {
                0 => break,
                count => pieces.extend_from_slice(&buffer[..count]),
            }
        }
        assert!(pieces == bytes, "the sizes of reads must not matter");
    }

    #[test]
    fn a_wrong_page_is_noticed() {
        let mut bytes = whole(1, 4 * PAGE as u64);
        bytes[2 * PAGE] ^= 1;
        assert!(Check::new(1).see(&bytes).is_err());
        assert!(Check::new(2).see(&whole(1, PAGE as u64)).is_err(), "nor another stream");
    }

    #[test]
    fn no_two_blocks_are_alike() {
        let bytes = whole(1, 2 * BLOCK as u64);
        assert!(bytes[..BLOCK] != bytes[BLOCK..]);
        assert!(whole(1, BLOCK as u64) != whole(2, BLOCK as u64));
        assert_ne!(page(1, 1), page(1, 2));
    }
}
