//! Bounds on what comes from the store, and how much is done at once.

use base::{KIB, MIB};

/// Pages in one group. Sixteen pages of 4 KiB compress about as well as more would, and are what a
/// reader of a single page has to fetch.
pub(crate) const GROUP_PAGES_MAX: u32 = 16;

/// Page sizes that SQLite knows, in bytes.
pub(crate) const PAGE_SIZES: std::ops::RangeInclusive<u32> = 512..=65_536;

/// Pages of one database: 64 GiB at 4 KiB. Bounds the maps that are held in memory.
pub(crate) const PAGES_MAX: u32 = 1 << 24;

/// Compressed bytes of one page object. What is above goes to another one, so that no commit and
/// no base is ever held in memory whole.
pub(crate) const OBJECT_BYTES: u64 = 16 * MIB;

/// The same of format 1.
pub(crate) const OLD_SECTION_BYTES_MAX: u64 = 8 * MIB;

/// Compressed bytes of one group: its pages at their largest, and what zstd adds to bytes that do
/// not compress.
pub(crate) const GROUP_BYTES_MAX: u64 = GROUP_PAGES_MAX as u64 * 65_536 + 8 * KIB;

/// Bytes of one header. One of format 1 lists all pages: of a base of `PAGES_MAX` in about 80 MiB.
pub(crate) const HEADER_BYTES_MAX: u32 = 1 << 20;
/// The same of format 1.
pub(crate) const OLD_HEADER_BYTES_MAX: u32 = 96 << 20;

/// Bytes of one index, unpacked or not. A group of 16 pages takes 40 to 110.
pub(crate) const INDEX_BYTES_MAX: u32 = 192 << 20;

/// Bytes of the hints of a full state.
pub(crate) const HINTS_BYTES_MAX: u32 = 1 << 20;

/// Bytes of the pages in a commit itself.
pub(crate) const OWN_BYTES_MAX: u64 = 2 * OBJECT_BYTES;

/// Bytes of pages that a full state keeps in itself rather than in a page object, hot ones aside.
/// The next full state stores them again.
pub(crate) const SMALL_BYTES: u64 = 512 * KIB;

/// Bytes of the pages that lie first in a full state because every reader needs them.
pub(crate) const HOT_BYTES: u64 = MIB;
/// How many there are at most.
pub(crate) const HOT_PAGES_MAX: usize = 1_024;

/// Page objects below this are put together when there are too many.
pub(crate) const OBJECT_SMALL_BYTES: u64 = OBJECT_BYTES / 2;
/// Small page objects that a full state may name.
pub(crate) const SMALL_OBJECTS_MAX: usize = 32;

/// Bytes of the data section of a commit: small sealed files (docs/design/0001, Data), many times
/// over.
pub(crate) const DATA_BYTES_MAX: u64 = 16 * MIB;

/// Bytes of the key of a page object, as it stands in a header.
pub(crate) const KEY_BYTES_MAX: usize = 512;

/// What a first look at a commit fetches: nearly always all of it, pages included.
pub(crate) const PROBE_BYTES: u64 = 64 * KIB;

/// What a reader of a published state fetches of it first: its index and its hot pages.
/// All of that, of homes of some hundred thousand files.
pub(crate) const FIRST_BYTES: u64 = 3 * MIB / 2;

/// What a look at the data section of a commit fetches first: nearly always all of it.
pub(crate) const DATA_PROBE_BYTES: u64 = 320 * KIB;

/// Adjacent groups are fetched together up to this size.
pub(crate) const PIECE_BYTES: u64 = MIB;

/// Bytes between two groups that are rather fetched along than asked for twice.
pub(crate) const PIECE_GAP_BYTES: u64 = 32 * KIB;

/// Bytes of pages kept in memory because they came along with the headers of their commits.
pub(crate) const NEAR_BYTES_MAX: u64 = 16 * MIB;

/// Objects, or pieces of one, that are fetched ahead.
pub(crate) const FETCH_AHEAD: usize = 8;

/// Deletions on the way at once.
pub(crate) const DELETES_AT_ONCE: usize = 16;

/// Keys asked for in one listing; the store's own maximum.
pub(crate) const LIST_PAGE: usize = 1_000;

/// How often a claim runs after a head that moves before it gives up. Every attempt that loses
/// means that the other writer committed meanwhile.
pub(crate) const CLAIM_ATTEMPTS: u32 = 64;

/// Commits above the newest base before a new one is due of a home at rest.
pub(crate) const COMMITS_ABOVE_BASE: u64 = 64;

/// The same of a home that is being changed. A base is a request that nobody asked for; what it saves is
/// this many small reads, [`COMMITS_AHEAD`] at once, after a crash.
pub(crate) const COMMITS_ABOVE_BASE_MAX: u64 = 512;

/// Commits that are fetched ahead where a state is looked for.
pub(crate) const COMMITS_AHEAD: usize = 32;

/// Bytes of commits above the newest base before a new one is due (docs/design/0001, Log).
pub(crate) const BYTES_ABOVE_BASE: u64 = 32 * MIB;

/// Ancestors of a home: how long a chain of forks of forks gets.
pub(crate) const ORIGINS_MAX: usize = 64;

/// Restores above one base.
pub(crate) const RESTORES_MAX: usize = 64;

/// Snapshots of one home, and forks of one home.
pub(crate) const PINS_MAX: usize = 1_000;

/// How often pins are read anew of which one went meanwhile.
pub(crate) const PIN_LOOKS: u32 = 5;

/// Pins fetched at once.
pub(crate) const PINS_AT_ONCE: usize = 16;

/// Numbers of commits are free again, and objects that nothing names go, only this long after it was
/// said that they may. A writer trusts its own clocks for half of it.
pub(crate) const HORIZON: std::time::Duration = std::time::Duration::from_secs(15 * 60);

/// Claims of a deleted home whose numbers stay taken, and how many epochs are looked through for them.
/// More than that in half an hour would be a take-over each half minute.
pub(crate) const CLAIMS_KEPT_MAX: usize = 64;
/// See [`CLAIMS_KEPT_MAX`].
pub(crate) const EPOCHS_LOOKED_AT_MAX: usize = 512;

/// Bytes of `boundary` and of `replica.json`.
pub(crate) const SMALL_JSON_MAX: u64 = 16 * KIB;

/// Frames read from a WAL file in one go.
pub(crate) const WAL_FRAMES_AT_ONCE: usize = 64;

/// Frames of the WAL that are read first after a transaction.
pub(crate) const WAL_FRAMES_FIRST: usize = 8;

/// How long a state stays for a draft after the home moved on from it.
pub(crate) const DRAFT_PATIENCE: std::time::Duration = std::time::Duration::from_secs(30 * 86_400);
