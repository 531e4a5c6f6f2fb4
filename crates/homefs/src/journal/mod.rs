//! The journal: changes that the database does not have yet, as records in a few files.
//!
//! ```text
//! frame     one record: length, checksum, number
//! segment   one file: its name, its header, where it begins
//! writer    appends, syncs, lets go of what the database has
//! replay    reads back what a crash left
//! ```
//!
//! # Order
//! Records have numbers without holes, over all segments. A record is in the page cache when its
//! call is answered, and so survives the process; it survives power loss once it was synced. A
//! change that went to the database beside the journal has a *mark* with its number here.
//!
//! # Failure
//! A torn end is the end: nobody was told that it is there. A damaged record that was once synced
//! is an error, and so is a hole in the numbers. A sync that failed is never tried again: what the
//! kernel dropped would be taken for stored.

#[cfg(test)]
pub(crate) mod faults;
pub(crate) mod frame;
pub(crate) mod replay;
pub(crate) mod segment;
pub(crate) mod writer;

use base::ErrorKind;
use vfs::{Errno, FsError};

/// The journal says something that cannot be.
pub(crate) fn damaged(what: &str) -> FsError {
    FsError::of_kind(
        ErrorKind::Corrupt,
        Errno::EIO,
        format!(
            "the home's journal on this host is damaged: {what}; open the home elsewhere from the store, or move `journal` aside and lose what was not stored"
        ),
    )
}
