//! The home file system: a POSIX tree whose truth is in object storage.
//!
//! ```text
//! HomeFs  Draft          an open home, unpublished writes to a sleeping one
//! Snapshot               the published state, read in place
//!   engine  fs           one tree on this host, as a vfs::FileSystem
//!     ops                what each call does to the database
//!     front              the newest rows in memory
//!     journal            changes that the database does not have yet
//!     meta               the database, and the one who changes it
//!     data               content: spool, packs, chunks
//!   replicator  round    keeps the store up to date; one commit a round
//!   pressure             writers wait where the store is too far behind
//! snapshots  fork        old states that are kept; homes that go on from another's
//!   garbage              what nothing names any more, and when it goes
//!   lineage  recover     becoming the writer; mending what a crash left
//!     replica            the log in the store
//!   fsck                 is it all there?
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
//! - Content that only this host has is bounded: writers wait, and none of them fails.
//!
//! # Not here
//! Machines, HTTP, FUSE; permission checks.

mod asks;
mod changes;
mod create;
mod data;
mod draft;
mod engine;
mod error;
mod fork;
mod forward;
mod front;
mod fs;
mod fsck;
#[cfg(test)]
mod fuzz;
mod garbage;
mod heat;
mod home;
mod journal;
mod layout;
pub mod limits;
mod lineage;
mod local_copies;
mod meta;
mod nearby;
mod opening;
mod ops;
mod pins;
mod pressure;
mod published;
mod recover;
mod replica;
mod replicator;
mod round;
mod settings;
mod snapshot;
mod snapshots;
mod upload;
mod wal;
mod whole;

pub use create::{create_home, delete_home, head};
pub use draft::Draft;
pub use error::{Error, Result};
pub use fork::{abandon_fork, begin_fork, fork, hold_fork};
pub use fsck::{Checked, Depth, Leaked, Problem, Problems, Progress, Report, fsck};
pub use garbage::sleeping::{Collected, collect};
pub use home::HomeFs;
pub use opening::Opening;
pub use pressure::BackPressure;
pub use replica::log::Head;
pub use settings::{
    HomeSettings, HomeStatus, INODES_CACHED, Opened, Parts, PathChange, Published,
    RELEASE_PATIENCE, REPLICATE_AFTER, Recovery, Released, SYNC_PATIENCE, Step, SyncMode, TakeOver,
    UNREPLICATED_BYTES_MAX,
};
pub use snapshot::Snapshot;
pub use snapshots::{
    KeptState, Listed, SnapshotInfo, check_snapshot_name, delete_snapshot, restore, snapshot,
    snapshot_info, snapshots,
};
