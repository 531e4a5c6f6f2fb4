//! Which requests the leader handles itself.
//!
//! Most need rows in memory or in a database on this disk; to hand the lead on before each would
//! cost more than they do. What moves much content, and what may wait for the object store by its
//! nature, is handled by a thread that gave the lead away first. The rest is learned: a kind of
//! request during which a leader had to be replaced is handled apart for a while.

use std::sync::atomic::{AtomicU8, Ordering};

use crate::abi::{IN_HEADER_BYTES, Opcode, Reader};
use crate::limits::INLINE_BYTES_MAX;
use crate::request::Header;

/// Requests of one kind that are handled apart after one that was too long.
const DOUBTS: u8 = 64;
/// One more than the largest opcode.
const OPCODES: usize = 64;

/// How long a request may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pace {
    /// No longer than handing the lead on, most likely.
    Brief,
    /// Longer.
    Long,
    /// May wait for the object store as long as it takes.
    Sync,
}

impl Pace {
    /// By what the message says.
    fn of(opcode: u32, message: &[u8]) -> Self {
        match Opcode::from_number(opcode) {
            Some(Opcode::Fsync | Opcode::Fsyncdir | Opcode::Syncfs) => Self::Sync,
            Some(Opcode::Fallocate | Opcode::CopyFileRange | Opcode::CopyFileRange64) => Self::Long,
            Some(Opcode::Read) if read_bytes(message) > INLINE_BYTES_MAX => Self::Long,
            Some(Opcode::Write) if message.len() > INLINE_BYTES_MAX => Self::Long,
            _ => Self::Brief,
        }
    }
}

/// `fuse_read_in.size`; what is too short will be refused at once.
fn read_bytes(message: &[u8]) -> usize {
    let size = message.get(IN_HEADER_BYTES + 16..).and_then(|rest| Reader::new(rest).u32().ok());
    size.and_then(|size| usize::try_from(size).ok()).unwrap_or(0)
}

/// What was learned.
#[derive(Debug)]
pub(super) struct Pacing {
    doubts: [AtomicU8; OPCODES],
}

impl Default for Pacing {
    fn default() -> Self {
        Self { doubts: std::array::from_fn(|_| AtomicU8::new(0)) }
    }
}

impl Pacing {
    /// The opcode of a message, and how long it may take.
    pub(super) fn of(&self, message: &[u8]) -> (u32, Pace) {
        let opcode = Header::decode(message).map_or(0, |header| header.opcode);
        let pace = Pace::of(opcode, message);
        if pace == Pace::Brief && self.is_doubted(opcode) {
            return (opcode, Pace::Long);
        }
        (opcode, pace)
    }

    /// One of this kind took long.
    pub(super) fn doubt(&self, opcode: u32) {
        if let Some(doubts) = self.doubts_of(opcode) {
            doubts.store(DOUBTS, Ordering::Relaxed);
        }
    }

    /// Takes one doubt away. A race costs or gives one, which does no harm.
    fn is_doubted(&self, opcode: u32) -> bool {
        let Some(doubts) = self.doubts_of(opcode) else { return false };
        let left = doubts.load(Ordering::Relaxed);
        if left > 0 {
            doubts.store(left - 1, Ordering::Relaxed);
        }
        left > 0
    }

    fn doubts_of(&self, opcode: u32) -> Option<&AtomicU8> {
        self.doubts.get(usize::try_from(opcode).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::Writer;
    use crate::testing::message;

    fn pace(message: &[u8]) -> Pace {
        Pacing::default().of(message).1
    }

    #[test]
    fn the_size_of_content_decides() {
        for (size, expected) in [(4096, Pace::Brief), (1 << 20, Pace::Long)] {
            let mut body = Vec::new();
            body.u64(0).u64(0).u32(size).zeros(20);
            assert_eq!(pace(&message(Opcode::Read, 1, 1, &body)), expected);
            let body = vec![0; size as usize];
            assert_eq!(pace(&message(Opcode::Write, 1, 1, &body)), expected);
        }
        assert_eq!(pace(&message(Opcode::Read, 1, 1, &[])), Pace::Brief, "malformed");
        assert_eq!(pace(&message(Opcode::Unlink, 1, 1, b"a\0")), Pace::Brief);
        assert_eq!(pace(&message(Opcode::Fsync, 1, 1, &[0; 16])), Pace::Sync);
        assert_eq!(pace(b""), Pace::Brief);
    }

    #[test]
    fn what_took_long_is_handled_apart_for_a_while() {
        let pacing = Pacing::default();
        let lookup = message(Opcode::Lookup, 1, 1, b"a\0");
        pacing.doubt(Opcode::Lookup as u32);
        pacing.doubt(u32::MAX);
        for _ in 0..DOUBTS {
            assert_eq!(pacing.of(&lookup), (Opcode::Lookup as u32, Pace::Long));
        }
        assert_eq!(pacing.of(&lookup).1, Pace::Brief);
        assert_eq!(pacing.of(&message(Opcode::Getattr, 1, 1, &[0; 16])).1, Pace::Brief);
    }
}
