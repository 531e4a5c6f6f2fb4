//! The metadata database and the one thread that writes it.
//!
//! [`schema`] is its shape, [`inode`] its central row, [`writer`] the thread, [`tx`] what a change
//! sees, [`readers`] the connections that only read.
//!
//! # Invariants
//! - Only the writer's thread changes the database, and only inside a transaction.
//! - A change that fails leaves nothing behind, not even in the counters.
//! - What one transaction did is visible to all readers before its callers get their answers.
//!
//! # Not here
//! What a change does (`ops`), file bytes (`data`), replication (`replicator`).

pub(crate) mod counters;
pub(crate) mod inode;
pub(crate) mod pages;
pub(crate) mod readers;
pub(crate) mod schema;
pub(crate) mod sql;
pub(crate) mod tx;
pub(crate) mod writer;
