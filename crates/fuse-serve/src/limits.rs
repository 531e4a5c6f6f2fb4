//! Every bound of this crate, and where its number comes from.

use std::time::Duration;

/// Largest `WRITE` and `READ` payload: what Linux allows without `max_pages_limit` raised.
pub const WRITE_BYTES_MAX: u32 = 1 << 20;
/// Largest I/O in pages; 256 pages of 4 KiB are [`WRITE_BYTES_MAX`].
pub(crate) const PAGES_MAX: u16 = 256;
/// Largest message from a kernel: a full write, and room for headers and the longest name list
/// (two names of 4 KiB, or an extended attribute of 64 KiB less than a page).
pub const MESSAGE_BYTES_MAX: usize = WRITE_BYTES_MAX as usize + (64 << 10);
/// Requests that the kernel may have under way in the background (readahead, async I/O).
pub(crate) const BACKGROUND_MAX: u16 = 64;
/// Background requests from which on the kernel calls the device congested: three quarters.
pub(crate) const CONGESTION_THRESHOLD: u16 = 48;
/// Largest extended attribute and list of names (Linux `XATTR_SIZE_MAX`).
pub(crate) const XATTR_BYTES_MAX: usize = 64 << 10;
/// Bytes that one `COPY_FILE_RANGE` copies at most, so that one request stays short; the kernel
/// asks again for the rest.
pub(crate) const COPY_BYTES_MAX: u64 = 16 << 20;
/// Bytes that one `COPY_FILE_RANGE` holds in memory.
pub(crate) const COPY_STEP_BYTES: u32 = 1 << 20;
/// Entries that one call of `readdir` fetches.
pub(crate) const READDIR_ENTRIES_MAX: usize = 512;
/// Inodes that one session may hold by default. An honest kernel keeps about 1 KiB of its own
/// memory for each, so this is a guest with more than 4 GiB of inode cache.
pub const NODES_MAX: usize = 4 << 20;
/// Invalidations that wait to be sent. Past this many the sender waits.
pub(crate) const NOTIFICATIONS_MAX: usize = 64 << 10;
/// Worker threads that a channel keeps.
pub(crate) const THREADS_KEPT: usize = 4;
/// Worker threads that a channel has at most.
pub(crate) const THREADS_MAX: usize = 16;
/// Worker threads that never run a sync, so that a slow object store leaves lookups alone.
pub(crate) const THREADS_NOT_SYNCING: usize = 4;
/// Syncs that wait for a thread. Past this many, reading from the kernel stops.
pub(crate) const SYNCS_WAITING_MAX: usize = 4096;
/// Largest message, and largest read, that the receiving thread handles itself: what the kernel
/// reads ahead at once, and room for headers.
pub(crate) const INLINE_BYTES_MAX: usize = (128 << 10) + 4096;
/// How long a worker beyond the kept ones stays without work.
pub(crate) const THREAD_IDLE: Duration = Duration::from_secs(10);
/// Stack of a worker thread in bytes; calls are shallow, buffers are on the heap.
pub(crate) const THREAD_STACK_BYTES: usize = 512 << 10;
/// What a channel reads at once; small requests come many to a read.
pub(crate) const READ_BUFFER_BYTES: usize = 64 << 10;
