//! Every bound of this crate, with the reason for its number.

/// Requests that are under way at once: as many as QEMU sends at most. With fewer, those that wait for a store would
/// keep others from being read that have all they want here.
pub const WORKERS: usize = 16;

/// The most bytes of one request that are read or written. QEMU is told, and cuts what is longer.
pub const PAYLOAD_BYTES_MAX: u32 = 4 << 20;

/// The most that a worker keeps between two requests.
pub(crate) const KEPT_BYTES_MAX: usize = 256 << 10;

/// The longest data of an option; the longest name of an export has 4096 bytes.
pub(crate) const OPTION_BYTES_MAX: u32 = 4096 + 1024;

/// Options that a client may ask for before it comes to the point. QEMU needs two.
pub(crate) const OPTIONS_MAX: usize = 32;

/// Stack of a worker: it calls down into a file, or waits.
pub(crate) const STACK_BYTES: usize = 512 << 10;
