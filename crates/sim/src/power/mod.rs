//! Power loss under a home's local directory.
//!
//! ```text
//! workload   a home on the disk; cuts; what was confirmed is compared
//!   serve    the disk in a process of its own
//!   mounted  the disk as a directory of this host, through /dev/fuse
//!   disk     a file system that knows what is durable and what is not
//!     image  what is durable: names and bytes
//! ```
//!
//! # What a cut does
//! Each write that no `fsync` of its file covers is kept or lost page by page, now and then sector by
//! sector, whatever the order. Each change of a directory that no `fsync` of that directory covers is
//! kept or lost by itself ([`Names::Strict`]) or the first so many are kept ([`Names::Journaled`], as
//! ext4 and XFS do, where any `fsync` takes all of them along). A rename is one change.
//!
//! # Not here
//! Sectors that rot, writes that go astray; those are for checksums.

mod disk;
mod image;
mod mounted;
mod serve;
mod workload;

pub use disk::{Disk, Loss, Names};
pub use mounted::missing;
pub use serve::serve;
pub use workload::{Options, run};
