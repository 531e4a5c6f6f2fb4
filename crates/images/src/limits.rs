//! Bounds on what this crate reads and makes.

use base::{GIB, KIB, MIB};

/// Largest manifest, in bytes. A real one has about 700.
pub(crate) const MANIFEST_BYTES_MAX: u64 = 64 * KIB;
/// Longest image name, in bytes; leaves room for an ending within NAME_MAX.
pub(crate) const NAME_BYTES_MAX: usize = 128;
/// Largest kernel image, in bytes. Debian's cloud kernel: 8 MiB compressed, 49 MiB unpacked.
pub(crate) const KERNEL_BYTES_MAX: u64 = 256 * MIB;
/// Largest kernel module, in bytes. The largest of those we load has 0.9 MiB.
pub(crate) const MODULE_BYTES_MAX: u64 = 64 * MIB;
/// How much of a program's error output goes into a message, in bytes.
pub(crate) const STDERR_BYTES_MAX: usize = 2048;
/// Smallest writable layer, in bytes: below, ext4 has no room for its journal.
pub const UPPER_BYTES_MIN: u64 = 64 * MIB;
/// Largest writable layer, in bytes: what ext4 with 4 KiB blocks holds.
pub const UPPER_BYTES_MAX: u64 = 16 * 1024 * GIB;
