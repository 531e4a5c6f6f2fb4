//! Every bound of this crate, with the reason for its number.

use std::time::Duration;

/// The longest key in bytes. S3 takes 1,024 together with the prefix of the URL, which may take the
/// rest.
pub const KEY_BYTES_MAX: usize = 768;

/// The longest part of a key between slashes in bytes: what a file name may have.
pub(crate) const KEY_SEGMENT_BYTES_MAX: usize = 255;

/// The most objects one `list` returns: a page of S3.
pub const LIST_MAX: usize = 1_000;

/// The longest prefix in a store URL in bytes; with a key it stays within what S3 takes.
pub(crate) const URL_PREFIX_BYTES_MAX: usize = 255;

/// How long a connection may take to be made: several lost SYNs.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// What an attempt may take beside moving its body.
pub(crate) const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(15);

/// The slowest upload that still counts as alive, in bytes a second. A pack of 64 MiB gets about
/// four minutes.
pub(crate) const UPLOAD_BYTES_PER_SECOND_MIN: u64 = 256 * 1024;

/// No attempt begins later than this after the call. Long enough for a store to fail over, short
/// enough that a guest's fsync does not look hung.
pub(crate) const RETRY_TIMEOUT: Duration = Duration::from_secs(30);

/// Attempts of one call; with the backoff below, time usually runs out first.
pub(crate) const ATTEMPTS_MAX: u32 = 16;

/// The pause before the second attempt, before jitter.
pub(crate) const BACKOFF_FIRST: Duration = Duration::from_millis(50);

/// The longest pause, before jitter.
pub(crate) const BACKOFF_MAX: Duration = Duration::from_secs(4);

/// How long `probe` may take in all.
pub(crate) const PROBE_TIMEOUT: Duration = Duration::from_secs(15);

/// As [`RETRY_TIMEOUT`], for `Backend::probe`: it must know *why* before [`PROBE_TIMEOUT`].
pub(crate) const PROBE_RETRY_TIMEOUT: Duration = Duration::from_secs(4);

/// As [`ATTEMPT_TIMEOUT`], for `Backend::probe`.
pub(crate) const PROBE_ATTEMPT_TIMEOUT: Duration = Duration::from_secs(6);

/// Writers that `probe` races. More than two, since a store that decides by "last of a pair" would
/// pass with two.
pub(crate) const PROBE_RACERS: usize = 4;

/// How often a directory of the file store may be found removed between making it and using it.
pub(crate) const DIRECTORY_RACES_MAX: u32 = 64;

/// Directories the file store remembers as durable; it forgets them all when there are more.
pub(crate) const DURABLE_DIRECTORIES_MAX: usize = 4_096;

/// A file of an interrupted write this old belongs to nobody any more.
pub(crate) const STAGED_AGE_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// The longest error code worth repeating.
pub(crate) const ERROR_CODE_BYTES_MAX: usize = 64;

/// Bodies up to this many bytes are encrypted and decrypted where the call is; a larger one would hold
/// up other tasks for more than a millisecond.
pub(crate) const CRYPT_INLINE_BYTES_MAX: usize = 512 * 1024;

/// How often an encrypted create may find an object that is gone when it looks.
pub(crate) const CREATE_SETTLES_MAX: u32 = 16;

/// The largest mark of a store, in bytes: 255 keys take about 7 KiB.
pub(crate) const MARK_BYTES_MAX: u64 = 16 * 1024;
