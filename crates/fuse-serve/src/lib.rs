//! FUSE requests in, calls of [`vfs::FileSystem`] out.
//!
//! The kernel is a guest's, over a byte stream ([`Channel`]), or the host's, over `/dev/fuse`
//! ([`Mount`]). Both speak the kernel protocol 7.31 to 7.45 with a [`Session`]. Only this crate
//! knows it.
//!
//! # Invariants
//! - Node ids are inode numbers and handles carry no state, so a kernel that sleeps with its memory
//!   finds everything again ([`Session::resume`]).
//! - What a kernel holds is pinned in the file system, so an unlinked open file lives on.
//! - The kernel caches for long; whoever changes the file system elsewhere tells the [`Notifier`].
//! - A hostile guest can at worst harm what its own root could: every length is checked, every
//!   queue and table has a bound ([`limits`]), nothing panics.
//!
//! # Not here
//! What a file system is (`vfs`, `homefs`), and who relays the bytes inside the guest (the agent).

mod abi;
mod channel;
mod dev_fuse;
mod dispatch;
mod error;
#[cfg(test)]
mod fuzz;
pub mod limits;
mod link;
mod mount_point;
mod negotiate;
mod nodes;
mod notifier;
mod notify;
mod pool;
mod reply;
mod request;
mod session;
#[cfg(test)]
mod testing;

pub use channel::Channel;
pub use dev_fuse::{Mount, MountOptions};
pub use error::Error;
pub use notifier::Notifier;
pub use pool::Threads;
pub use session::{Config, Saved, Session};
