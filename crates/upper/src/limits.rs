//! Every bound of this crate, with the reason for its number.

use std::time::Duration;

/// Bytes of a chunk. Small enough that a small change costs little, large enough that a request is worth it.
pub(crate) const CHUNK_BYTES: usize = 4 << 20;

/// The largest upper, in bytes; it bounds a manifest to 12 MiB.
pub const DISK_BYTES_MAX: u64 = 1 << 40;

/// The longest stored form of a chunk: what zstd makes of noise, and then some.
pub(crate) const STORED_BYTES_MAX: u32 = (CHUNK_BYTES + CHUNK_BYTES / 64) as u32;

/// zstd's level: an uploader shares its processor with machines.
pub(crate) const ZSTD_LEVEL: i32 = 1;

/// Chunks that are read, compressed and stored at once. Each takes up to twice its length in memory.
pub(crate) const UPLOADS: usize = 3;

/// Chunks that are in memory at once, until they are written. Each takes up to twice its length.
pub(crate) const FETCHES: usize = 8;

/// Of those, the most that nobody waits for: a guest's wish always finds a place.
pub(crate) const BACKGROUND_FETCHES: usize = 4;

/// Bytes that stay free on a host's disk beside what can wait: chunks that nobody wants yet, a guest's memory where it need
/// not be in a file.
pub const DISK_LEFT_MIN: u64 = 4 << 30;

/// How often it is looked whether there is more.
pub(crate) const ROOM_LOOK_EVERY: Duration = Duration::from_secs(2);

/// The first and the longest pause before a chunk is asked for again. A guest waits for it.
pub(crate) const CHUNK_PAUSE: (Duration, Duration) =
    (Duration::from_millis(200), Duration::from_secs(5));

/// How long somebody waits for a chunk of a disk upon which no guest runs.
pub(crate) const STILL_PATIENCE: Duration = Duration::from_secs(5);

/// How often a chunk is fetched that is not there, or is not what was stored: it may have been damaged on its way.
pub(crate) const CHUNK_TRIES: u32 = 2;

/// Chunks that cannot be had of which it is remembered why.
pub(crate) const LOST_MAX: usize = 16;

/// Objects deleted at once.
pub(crate) const DELETES: usize = 8;

/// Machines that an upper goes on from, one after the other, as many as homes.
pub(crate) const ORIGINS_MAX: usize = 64;

/// Packs of a template that are looked at: of the largest memory there are not more.
pub(crate) const TEMPLATE_PACKS_MAX: usize = (MEMORY_BYTES_MAX / PACK_BYTES as u64) as usize + 1;

/// Machines that are asked after at once, whether the store still has something of them.
pub(crate) const USER_LOOKS: usize = 8;

/// Names asked for at once.
pub(crate) const LIST_PAGE: usize = 1_000;

/// Names below `log/` that are looked at, whatever they stand for; the collector leaves a handful.
pub(crate) const LOG_NAMES_MAX: usize = 100_000;

/// The longest pin, and the longest mark.
pub(crate) const SMALL_JSON_MAX: u64 = 64 << 10;

/// Pins that are read at once.
pub(crate) const PIN_READS: usize = 16;

/// How often pins are read anew that change meanwhile.
pub(crate) const PIN_LOOKS: usize = 5;

/// Names of chunks that are looked at: those of the largest upper, many times over.
pub(crate) const CHUNK_NAMES_MAX: usize = 4_000_000;

/// Chunks, or packs, that all that is kept of a machine names: as many as are looked at. Beyond, nothing is collected.
pub(crate) const NAMED_MAX: usize = CHUNK_NAMES_MAX;

/// How long a wake waits for an upload that another host has under way.
pub(crate) const PENDING_PATIENCE: Duration = Duration::from_secs(20);

/// How often it looks.
pub(crate) const PENDING_LOOK: Duration = Duration::from_millis(500);

/// From looking at the generations to having one of our own. Far below [`COLLECT_GRACE`]: what we have
/// looked at must still be there.
pub(crate) const DECIDE_MAX: Duration = Duration::from_secs(180);

/// How long a generation is the newest before what it does not name is deleted: somebody may have begun to
/// read the one before.
pub const COLLECT_GRACE: Duration = Duration::from_secs(900);

/// Bytes of a piece of memory. Pages that change lie scattered: the smaller a piece, the more of them stay as
/// they were; the larger, the better they compress.
pub(crate) const PIECE_BYTES: usize = 256 << 10;

/// A page of a guest.
pub(crate) const PAGE_BYTES: usize = 4096;

/// The longest stored form of a piece.
pub(crate) const PIECE_STORED_BYTES_MAX: u32 = (PIECE_BYTES + PIECE_BYTES / 64) as u32;

/// A pack is full from here on: an object, and so a PUT, for each so many bytes.
pub(crate) const PACK_BYTES: usize = 8 << 20;

/// The longest pack.
pub(crate) const PACK_BYTES_MAX: u32 = PACK_BYTES as u32 + PIECE_STORED_BYTES_MAX;

/// Packs of less than a quarter of that which a memory takes over from the one before; beyond, they are packed anew.
pub(crate) const SMALL_PACKS_MAX: usize = 16;

/// The largest memory, in bytes, as large as machines can be; it bounds a manifest to 48 MiB.
pub const MEMORY_BYTES_MAX: u64 = 128 << 30;

/// The longest state beside a memory: devices, and a record that lists what a guest's kernel holds.
pub const MEMORY_STATE_BYTES_MAX: u64 = 160 << 20;

/// The longest words about a memory.
pub const ABOUT_BYTES_MAX: usize = 64 << 10;

/// Packs that are fetched at once; each is in memory whole.
pub(crate) const PACK_FETCHES: usize = 4;

/// The longest local note.
pub(crate) const STATE_BYTES_MAX: u64 = 64 << 20;
