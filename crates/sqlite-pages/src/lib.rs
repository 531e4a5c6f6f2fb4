//! SQLite reads a database whose pages come from anywhere: an object store, a file that is being
//! replaced, memory.
//!
//! [`Pages`] is what a source has to answer; [`open`] gives a read-only connection to it. SQLite is
//! told that the database never changes, so it takes no locks, looks for no journal and keeps the
//! pages it has read.
//!
//! # Invariants
//! - All `unsafe` code of SQLite's file interface is in `vfs` and `file`; nothing of it is public.
//! - A page that cannot be read is an error of the statement, never a page of zeros.
//! - Nothing that a source does, a panic included, unwinds into SQLite.
//!
//! # Failure
//! SQLite only says "disk I/O error". Why, [`take_error`] tells on the same thread.
//!
//! # Not here
//! Caching and prefetching (the source knows what costs what), writing.

mod file;
mod registry;
mod vfs;

use std::cell::RefCell;
use std::error::Error;
use std::sync::Arc;

use rusqlite::{Connection, OpenFlags};

/// Why a page could not be read.
pub type Cause = Box<dyn Error + Send + Sync>;

/// A database that never changes, page by page. Called on whatever thread runs the statement, by
/// several at once; may block.
pub trait Pages: Send + Sync + 'static {
    /// Bytes of a page: a power of two from 512 to 65,536.
    fn page_size(&self) -> u32;
    /// Pages of the database.
    fn page_count(&self) -> u32;
    /// Reads `page` (from 1 to `page_count`) into `into`, which is `page_size` long.
    ///
    /// # Errors
    /// Any; it comes back out of [`take_error`].
    fn read(&self, page: u32, into: &mut [u8]) -> Result<(), Cause>;
}

thread_local! {
    static LAST: RefCell<Option<Cause>> = const { RefCell::new(None) };
}

/// A read-only connection to the database that `pages` are of. Sorting stays in memory.
///
/// # Errors
/// SQLite's; where a page could not be read, [`take_error`] has the cause.
pub fn open(pages: Arc<dyn Pages>) -> rusqlite::Result<Connection> {
    let vfs = vfs::name()?;
    let entry = registry::enter(pages);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags_and_vfs(entry.name(), flags, vfs)?;
    // The file is opened by now; later names cannot mean it.
    drop(entry);
    conn.execute_batch("PRAGMA temp_store=MEMORY;")?;
    Ok(conn)
}

/// Why the last read of a page on this thread failed, if one did since this was last asked.
pub fn take_error() -> Option<Cause> {
    LAST.with_borrow_mut(Option::take)
}

fn note_error(cause: Cause) {
    LAST.with_borrow_mut(|last| *last = Some(cause));
}

#[cfg(test)]
mod tests;
