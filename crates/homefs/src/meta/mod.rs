//! The metadata: the database, the one who writes it, and what changes see.
//!
//! [`schema`] is its shape, [`inode`] its central row, [`rows`] what hot calls read of it,
//! [`writer`] makes changes, [`tx`] is what a change sees, [`readers`] the connections that only
//! read, [`pages`] follows what the store lacks. [`arrange`], `btree` and [`dirs`] lay a state out
//! for readers in place; `source` opens one that no file holds.
//!
//! # Invariants
//! - The database is changed only by folds and transactions of the writer, one at a time.
//! - A change that fails leaves nothing behind, not even in the counters.
//! - What a change did is visible to all readers before its caller gets an answer.
//!
//! # Not here
//! What a change does (`ops`), rows in memory (`front`), file bytes (`data`), replication
//! (`replicator`).

pub(crate) mod arrange;
mod btree;
pub(crate) mod changed_pages;
pub(crate) mod counters;
pub(crate) mod dirs;
pub(crate) mod inode;
pub(crate) mod pages;
pub(crate) mod readers;
pub(crate) mod rows;
pub(crate) mod schema;
mod source;
pub(crate) mod sql;
pub(crate) mod tx;
pub(crate) mod writer;
