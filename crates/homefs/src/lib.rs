//! The home file system: a POSIX tree whose truth is in object storage.
//!
//! ```text
//! HomeFs  Draft          an open home, unpublished writes to a sleeping one
//! Snapshot               the published state, read in place
//!   engine  fs           one tree on this host, as a vfs::FileSystem
//!     ops                what each call does to the database
//!     meta               the database and the one thread that writes it
//!     data               content: spool, packs, chunks
//!   replicator  round    keeps the store up to date; one commit a round
//!   lineage  recover     becoming the writer; mending what a crash left
//!     replica            the log in the store
//! ```
//!
//! # Promises
//! - Content up to 16 KiB lives in the database, up to 4 MiB in packs, above in 4 MiB chunks; a file
//!   moves up as it grows and never down.
//! - What a call acknowledged survives the death of this process. What `sync_local` acknowledged
//!   survives power loss, what `sync` acknowledged the loss of this host.
//! - A writer that lost the home acknowledges no `sync` any more.
//! - A commit in the store never names an object that is not there.
//!
//! # Not here
//! Machines, HTTP, FUSE; permission checks; collecting garbage in the store.

mod asks;
mod changes;
mod create;
mod data;
mod draft;
mod engine;
mod error;
mod forward;
mod fs;
mod heat;
mod home;
mod layout;
pub mod limits;
mod lineage;
mod local_copies;
mod meta;
mod nearby;
mod ops;
mod pins;
mod recover;
mod replica;
mod replicator;
mod round;
mod settings;
mod snapshot;
mod upload;
mod wal;

pub use create::{create_home, delete_home, head};
pub use draft::Draft;
pub use error::{Error, Result};
pub use home::HomeFs;
pub use replica::log::Head;
pub use settings::{
    HomeSettings, HomeStatus, Opened, Parts, PathChange, Published, REPLICATE_AFTER, Recovery,
    Released, SyncMode,
};
pub use snapshot::Snapshot;
