//! Bounds on what comes from the store, and how much is done at once.

use base::{KIB, MIB};

/// Pages in one group. Sixteen pages of 4 KiB compress about as well as more would, and are what a
/// reader of a single page has to fetch.
pub(crate) const GROUP_PAGES_MAX: u32 = 16;

/// Page sizes that SQLite knows, in bytes.
pub(crate) const PAGE_SIZES: std::ops::RangeInclusive<u32> = 512..=65_536;

/// Pages of one database: 64 GiB at 4 KiB. Bounds the maps that are held in memory.
pub(crate) const PAGES_MAX: u32 = 1 << 24;

/// Compressed bytes of the pages of one section. What is above goes first to objects of its own,
/// so that no commit and no base is ever held in memory whole.
pub(crate) const SECTION_BYTES: u64 = 8 * MIB;

/// Compressed bytes of one group: its pages at their largest, and what zstd adds to bytes that do
/// not compress.
pub(crate) const GROUP_BYTES_MAX: u64 = GROUP_PAGES_MAX as u64 * 65_536 + 8 * KIB;

/// Bytes of one header. A base of `PAGES_MAX` pages needs about 80 MiB: a group is some 75 bytes.
pub(crate) const HEADER_BYTES_MAX: u32 = 96 << 20;

/// Bytes of the data section of a commit: small sealed files (docs/design/0001, Data), many times
/// over.
pub(crate) const DATA_BYTES_MAX: u64 = 16 * MIB;

/// Bytes of the key of a page object, as it stands in a header.
pub(crate) const KEY_BYTES_MAX: usize = 512;

/// What a first look at a commit fetches: nearly always all of it, pages included.
pub(crate) const PROBE_BYTES: u64 = 64 * KIB;

/// Adjacent groups are fetched together up to this size.
pub(crate) const PIECE_BYTES: u64 = MIB;

/// Objects, or pieces of one, that are fetched ahead.
pub(crate) const FETCH_AHEAD: usize = 8;

/// Deletions on the way at once.
pub(crate) const DELETES_AT_ONCE: usize = 16;

/// Keys asked for in one listing; the store's own maximum.
pub(crate) const LIST_PAGE: usize = 1_000;

/// How often a claim runs after a head that moves before it gives up. Every attempt that loses
/// means that the other writer committed meanwhile.
pub(crate) const CLAIM_ATTEMPTS: u32 = 64;

/// Commits above the newest base before a new one is due (docs/design/0001, Log).
pub(crate) const COMMITS_ABOVE_BASE: u64 = 64;

/// Bytes of commits above the newest base before a new one is due (docs/design/0001, Log).
pub(crate) const BYTES_ABOVE_BASE: u64 = 32 * MIB;

/// Bytes of `boundary` and of `replica.json`.
pub(crate) const SMALL_JSON_MAX: u64 = 16 * KIB;

/// Frames read from a WAL file in one go.
pub(crate) const WAL_FRAMES_AT_ONCE: usize = 64;

/// Frames of the WAL that are read first after a transaction.
pub(crate) const WAL_FRAMES_FIRST: usize = 8;
