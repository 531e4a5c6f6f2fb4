//! One direction's memory.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use vm_memory::{Bytes, FileOffset, MmapRegion, VolatileMemory, VolatileSlice};

/// Bytes of an area: one large page, which the kernel of a guest never moves.
pub const AREA_BYTES: usize = 2 << 20;
/// Messages that an area holds at most.
pub const ENTRIES: u32 = 64;
/// Largest message, in bytes.
pub const MESSAGE_BYTES_MAX: usize = AREA_BYTES - MESSAGES_AT;

const SENT_AT: usize = 0;
const TAKEN_AT: usize = 64;
const ASLEEP_AT: usize = 128;
const TOKEN_AT: usize = 192;
const ENTRIES_AT: usize = 256;
const ENTRY_BYTES: usize = 8;
const MESSAGES_AT: usize = 4096;

const _: () = assert!(ENTRIES_AT + ENTRIES as usize * ENTRY_BYTES <= MESSAGES_AT);

/// The memory of one direction. Clones are the same memory.
#[derive(Debug, Clone)]
pub struct Area(Arc<MmapRegion>);

/// A number in an area that both sides look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Word {
    Sent,
    Taken,
    Asleep,
    /// Offset, and length beside it, of this message.
    Entry(u32),
    EntryLength(u32),
}

impl Word {
    fn at(self) -> usize {
        let entry = |number: u32| ENTRIES_AT + (number % ENTRIES) as usize * ENTRY_BYTES;
        match self {
            Self::Sent => SENT_AT,
            Self::Taken => TAKEN_AT,
            Self::Asleep => ASLEEP_AT,
            Self::Entry(number) => entry(number),
            Self::EntryLength(number) => entry(number) + 4,
        }
    }
}

impl Area {
    /// A large page of this process. A child shares it until it runs another program.
    ///
    /// # Errors
    /// Where the kernel has none to give.
    pub fn large_page() -> io::Result<Self> {
        let shared = libc::MAP_ANONYMOUS | libc::MAP_SHARED | libc::MAP_POPULATE;
        Self::mapped(shared | libc::MAP_HUGETLB, None)
    }

    /// Ordinary memory of this process.
    ///
    /// # Errors
    /// Where there is none.
    pub fn anonymous() -> io::Result<Self> {
        Self::mapped(libc::MAP_ANONYMOUS | libc::MAP_SHARED, None)
    }

    /// The part of `file` that begins at `offset`, a multiple of the page size.
    pub(crate) fn of_file(file: File, offset: u64) -> io::Result<Self> {
        Self::mapped(libc::MAP_SHARED, Some(FileOffset::new(file, offset)))
    }

    fn mapped(flags: i32, file: Option<FileOffset>) -> io::Result<Self> {
        let readable = libc::PROT_READ | libc::PROT_WRITE;
        let region = MmapRegion::build(file, AREA_BYTES, readable, flags);
        region.map(|region| Self(Arc::new(region))).map_err(io::Error::other)
    }

    /// Writes what the other side may know this memory by.
    pub fn mark(&self, token: u64) {
        let stored = self.0.as_volatile_slice().store(token, TOKEN_AT, Ordering::Release);
        debug_assert!(stored.is_ok(), "within the area");
    }

    /// True where this is the memory that was marked so.
    #[must_use]
    pub fn is_marked(&self, token: u64) -> bool {
        let there: Option<u64> = self.0.as_volatile_slice().load(TOKEN_AT, Ordering::Acquire).ok();
        there == Some(token)
    }

    /// Where it lies in this process.
    #[must_use]
    pub fn address(&self) -> usize {
        self.0.as_ptr() as usize
    }

    pub(crate) fn get(&self, word: Word) -> u32 {
        // Each word is aligned and within the area.
        self.0.as_volatile_slice().load(word.at(), Ordering::Acquire).unwrap_or(0)
    }

    pub(crate) fn set(&self, word: Word, value: u32) {
        let stored = self.0.as_volatile_slice().store(value, word.at(), Ordering::Release);
        debug_assert!(stored.is_ok(), "within the area");
    }

    /// The memory of a message; none where it does not lie in the area.
    pub(crate) fn message(&self, offset: usize, bytes: usize) -> Option<VolatileSlice<'_>> {
        if bytes > MESSAGE_BYTES_MAX || offset > MESSAGE_BYTES_MAX {
            return None;
        }
        self.0.get_slice(MESSAGES_AT + offset, bytes).ok()
    }
}
