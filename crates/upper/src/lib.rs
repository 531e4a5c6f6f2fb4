//! A machine's upper in the object store, so that what was installed outlives its host.
//!
//! The upper is one sparse file on the host that a machine runs on, written by its hypervisor alone. While
//! the machine sleeps, the chunks that changed are stored, then a manifest that names all of them: a
//! *generation*. Another host begins with the newest generation.
//!
//! # Order
//! *Wake*: the home is claimed, then [`Upper::begin`] decides upon which upper the guest runs, and makes a disk
//! where this host has none, or an older one; its chunks come when they are wanted ([`LazyDisk`]). *Sleep*: [`Upper::leave`] notes that there is something new,
//! the home is given up. *Asleep*: [`Upper::save`] stores it, and [`Upper::save_memory`] the memory that was saved with
//! it; [`Upper::collect`] deletes what nobody needs,
//! [`collect_templates`] what machines had in common that are gone. *Fork*: [`Upper::hold`] keeps a state, [`begin_fork`] begins another
//! machine with it.
//!
//! # Invariants
//! - Bytes before names: chunks, then the manifest that names them, deletion last.
//! - Generations are ordered by the epoch of the home under which they were made, which no two writers share.
//!   The newest counts: whoever wakes a machine that others may still be storing creates a generation of
//!   its own first, so that what they bring later is older and counts for nothing.
//! - A chunk's name ends with the epoch that stored it, and an uploader takes over chunks from the newest
//!   generation only. So no late deletion hits a chunk that is named.
//! - What is pinned stays, whoever collects or deletes.
//! - Nothing that the store says is believed: lengths are bounded, every chunk is compared with its digest.
//!
//! # Failure
//! What cannot be stored is tried again later, from where it ended; what cannot be fetched is an error and
//! leaves everything as it was. A guest never runs upon an upper of which a chunk is known to be nowhere.
//!
//! # Also here
//! [`file`]: how small files of a machine are replaced whole. `keeper` does it so as well.
//!
//! # Not here
//! When to store (`control`), making an empty upper (`images`), encryption and retries (`objstore`).

mod begin;
mod collect;
mod delete;
mod error;
mod fetch;
pub mod file;
mod fork;
mod frame;
#[cfg(test)]
mod fuzz;
mod keys;
mod lazy;
mod leave;
mod limits;
mod looked;
mod manifest;
mod memory;
mod origins;
mod pins;
mod place;
mod remote;
mod save;
mod scan;
mod state;

pub use begin::{Begin, Begun, Found};
pub use collect::Collected;
pub use delete::{Deleted, delete};
pub use error::{Error, Result};
pub use fetch::Progress;
pub use fork::{Retell, abandon_fork, begin_fork};
pub use keys::Generation;
pub use lazy::LazyDisk;
pub use limits::{
    ABOUT_BYTES_MAX, COLLECT_GRACE, DISK_BYTES_MAX, DISK_LEFT_MIN, MEMORY_BYTES_MAX,
    MEMORY_STATE_BYTES_MAX,
};
pub use memory::{FetchedMemory, Memory, StoredMemory, collect_templates};
pub use pins::{Hold, Holder, Kept};
pub use place::{Files, Upper};
pub use save::Saved;
pub use state::Standing;
