//! Every bound of the home file system, by name.

use std::time::Duration;

use base::{KIB, MIB};

/// The largest file that lives inline, as a row of `blob`, in bytes.
pub const INLINE_BYTES_MAX: u64 = 16 * KIB;
/// The largest file of the pack tier, in bytes; also the size of a chunk's slot.
pub const PACK_FILE_BYTES_MAX: u64 = 4 * MIB;
/// The size of one chunk's slot, in bytes.
pub const SLOT_BYTES: u64 = 4 * MIB;
/// A pack is sealed before it grows past this, in bytes.
pub const PACK_BYTES_MAX: u64 = 64 * MIB;
/// Sealed data up to this many bytes rides in the commit instead of a pack object: one request and
/// one wait instead of two. As much as joining the small pieces of a database file takes.
pub const COMMIT_DATA_BYTES_MAX: u64 = 2 * MIB;
/// The same for the commit that gives a home up: whoever reads a sleeping home begins with it.
pub const RELEASE_DATA_BYTES_MAX: u64 = 256 * KIB;
/// New bytes of a slot up to this many go beside its chunk instead of rewriting it.
pub const SLOT_CHANGE_BYTES_MAX: u64 = 256 * KIB;
/// A slot with more bytes than this beside its chunk is made one chunk when it changes again.
pub const SLOT_LOOSE_BYTES_MAX: u64 = MIB;
/// A file or slot with more small pieces than this has them joined when it is sealed.
pub const PIECES_MAX: usize = 256;
/// A piece below this many bytes is a small one.
pub const PIECE_SMALL_BYTES: u64 = 256 * KIB;
/// The largest file, in bytes: what the largest file of the local file system can hold (ext4 with
/// 4 KiB blocks: one block less than 16 TiB). Beyond: `EFBIG`.
pub const FILE_BYTES_MAX: u64 = (16 << 40) - 4_096;
/// The most pieces that content of one file is in: a chunk each for a file of 4 TiB. Beyond, new
/// pieces are refused with `ENOSPC`.
pub const FILE_PIECES_MAX: u64 = 1 << 20;
/// The most names of one inode. Beyond: `EMLINK`.
pub const LINKS_MAX: u32 = 1 << 20;
/// The longest target of a symbolic link, in bytes.
pub const SYMLINK_BYTES_MAX: usize = 4_095;
/// The longest name of an extended attribute, in bytes.
pub const XATTR_NAME_BYTES_MAX: usize = 255;
/// The largest value of an extended attribute, in bytes.
pub const XATTR_VALUE_BYTES_MAX: usize = 64 << 10;
/// The most bytes of names and values of all extended attributes of one inode.
pub const XATTRS_BYTES_MAX: u64 = MIB;
/// The most entries one `readdir` returns, whatever was asked for.
pub const READDIR_ENTRIES_MAX: usize = 4_096;
/// The most bytes one `read` returns or one `write` takes.
pub const IO_BYTES_MAX: usize = 64 << 20;
/// The deepest directory that may be renamed or grafted into.
pub const DEPTH_MAX: usize = 1 << 16;
/// The most paths one graft removes.
pub const REMOVALS_MAX: usize = 1 << 20;

/// The longest name of a snapshot, in bytes.
pub const SNAPSHOT_NAME_BYTES_MAX: usize = 100;

/// Changes are folded into the database when their records have this many bytes,
pub(crate) const FOLD_BYTES: u64 = 16 * MIB;
/// or are of this many rows,
pub(crate) const FOLD_ROWS: usize = 50_000;
/// or the first of them is this old.
pub(crate) const FOLD_AFTER: Duration = Duration::from_secs(1);
/// Callers fold themselves, and wait for it, when this many bytes of records are not folded,
pub(crate) const UNFOLDED_BYTES_MAX: u64 = 64 * MIB;
/// or this many rows.
pub(crate) const UNFOLDED_ROWS_MAX: usize = 200_000;
/// What needs a transaction folds outside of the lock first where more than this is not folded.
pub(crate) const FOLD_FIRST_BYTES: u64 = MIB;
/// A segment of the journal is closed at this many bytes.
pub(crate) const SEGMENT_BYTES: u64 = 8 * MIB;
/// The largest record of the journal, in bytes. A change with a larger one is a transaction.
pub(crate) const RECORD_BYTES_MAX: usize = MIB as usize;

/// Names kept in memory for each inode that is, beside those that are not folded.
pub(crate) const NAMES_CACHED_PER_INODE: usize = 2;
/// Bytes of small files kept in memory for each inode that is.
pub(crate) const BLOB_BYTES_CACHED_PER_INODE: usize = 128;
/// Pieces of sealed content kept in memory of a file as a whole; of one with more, those that are
/// asked for.
pub(crate) const SEALED_PIECES_CACHED_MAX: u64 = 8_192;
/// A directory with at most this many names is brought into memory when it is listed.
pub(crate) const DIRECTORY_CACHED_MAX: usize = 8_192;
/// How often a read is begun anew at once because rows that it fetched went again meanwhile,
pub(crate) const READ_ATTEMPTS: usize = 64;
/// and how often after a pause of a millisecond each.
pub(crate) const READ_ATTEMPTS_PAUSED: usize = 20_000;
/// Rows of a kind that stay in memory however large they are.
pub(crate) const ROWS_KEPT_MIN: usize = 16;
/// Read-only connections kept for reuse.
pub(crate) const READERS_MAX: usize = 8;
/// Spool files kept open.
pub(crate) const SPOOL_FILES_OPEN_MAX: usize = 256;
/// The spool is written to in pieces of this many bytes. The kernel makes one folio of its page cache
/// of each write, and on ext4 each later write into a folio looks at all its blocks: overwriting
/// 4 KiB takes ten times as long where the folio has 1 MiB.
pub(crate) const SPOOL_WRITE_BYTES: u64 = 64 * KIB;
/// The write-ahead log is checkpointed past this many bytes.
pub(crate) const WAL_BYTES_CHECKPOINT: u64 = 32 * MIB;

/// Remote reads of the live home come in blocks of this many bytes.
pub(crate) const HOME_BLOCK_BYTES: u64 = 512 * KIB;
/// Remote reads of a snapshot come in blocks of this many bytes: readers want single files.
pub(crate) const SNAPSHOT_BLOCK_BYTES: u64 = 64 * KIB;
/// Memory for groups of metadata pages of an open snapshot, as they came from the store.
pub(crate) const PACKED_BYTES: u64 = 8 * MIB;
/// The same unpacked.
pub(crate) const PLAIN_BYTES: u64 = 8 * MIB;
/// A snapshot that asked the store for metadata this often is copied to the local disk.
pub(crate) const REQUESTS_BEFORE_COPY: u64 = 128;
/// The largest database, in bytes, that is copied for a snapshot.
pub(crate) const SNAPSHOT_COPY_BYTES_MAX: u64 = 1 << 30;
/// Memory for blocks fetched from the store, in bytes, for each open home.
pub(crate) const BLOCK_CACHE_BYTES: u64 = 64 * MIB;
/// Tables of blocks kept in memory; each has at most 3.5 KiB.
pub(crate) const BLOCK_TABLES_MAX: usize = 1_024;
/// Local copies of what is stored already are dropped, oldest first, past this many bytes.
pub(crate) const LOCAL_COPIES_BYTES_MAX: u64 = 16 << 30;
/// Rounds of replication between two looks at the local copies.
pub(crate) const ROUNDS_PER_PRUNE: u32 = 64;

/// Packs uploaded at a time.
pub(crate) const PACK_UPLOADS: usize = 2;
/// Chunks uploaded at a time.
pub(crate) const CHUNK_UPLOADS: usize = 8;
/// Inodes that one sealing transaction finishes.
pub(crate) const SEAL_BATCH: usize = 256;
/// A file is quiet when it was not written for this long.
pub(crate) const SEAL_QUIET: Duration = Duration::from_secs(1);
/// A file that never gets quiet is sealed when it was dirty for this long.
pub(crate) const SEAL_DIRTY_MAX: Duration = Duration::from_secs(30);
/// Rounds of replication under load start no more often than this.
pub(crate) const ROUND_INTERVAL_MIN: Duration = Duration::from_secs(2);
/// A home whose newest commit is this old is at rest: a base of it is written where one pays.
pub(crate) const BASE_REST: Duration = Duration::from_secs(2);
/// Between two looks whether what the collector waits for is done.
pub(crate) const COLLECT_PAUSE: Duration = Duration::from_millis(500);
/// Turns of the collector that one call of `collect` makes.
pub(crate) const COLLECT_TURNS_MAX: u32 = 1_000;
/// The first wait after a failed round; doubles up to [`RETRY_MAX`].
pub(crate) const RETRY_MIN: Duration = Duration::from_millis(200);
/// The longest wait between attempts while the store is down.
pub(crate) const RETRY_MAX: Duration = Duration::from_secs(15);
/// Between two looks of a caller, whose patience is over, whether the store is away.
pub(crate) const PATIENCE_LOOK: Duration = Duration::from_millis(250);

/// How large the database may grow: names, attributes and extents cost space too, and without
/// this a guest could fill the host with empty files.
pub(crate) fn metadata_bytes_max(bytes_max: u64) -> u64 {
    (bytes_max / 4).saturating_add(256 * MIB)
}
