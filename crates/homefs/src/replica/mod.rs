//! The log of a home: what makes its metadata durable, and who may write it.
//!
//! ```text
//! container  header     the bytes of a commit or a base (pure)
//! index  format1        where its pages lie, now and once (pure)
//! merged  plan  recent  where those of a state lie; what a full state stores again
//! pages                 where pages come from
//! log  newest           the head; for readers
//! claim  append          taking a home over, adding commits
//! boundary              commits that may be gone; homes that are
//! collect  base         pages into a commit, the whole database into a base
//! fetch    restore      back from the store into a file
//! descent               which commits make up a state, where forks and restores jump (pure)
//! branch  pinned        the first commit of a fork, a restore; what keeps old states
//! delete  overtaken     a home's end, and who must not miss it
//! state                 what is remembered locally
//! ```
//!
//! Order of a commit: packs and chunks that its metadata names are stored (the caller's part), then
//! page objects, then the commit itself with `create`. A step starts when the one before is in the
//! store.
//!
//! Invariants:
//! - Commits are numbered from 1 without holes, over all epochs. Whoever creates *n* first has it.
//! - An epoch belongs to one writer: it is taken by the commit that creates it.
//! - A writer that lost a number is fenced for good, and every later call says so.
//! - Nothing read from the store is believed before its checksum holds.
//!
//! Not here: what the pages mean (`meta`), where file content lies (`data`), when to commit.

pub(crate) mod append;
pub(crate) mod base;
pub(crate) mod boundary;
pub(crate) mod branch;
pub(crate) mod claim;
pub(crate) mod collect;
pub(crate) mod container;
pub(crate) mod delete;
pub(crate) mod descent;
pub(crate) mod error;
pub(crate) mod fetch;
mod format1;
#[cfg(test)]
pub(crate) mod fuzz;
pub(crate) mod header;
pub(crate) mod horizon;
pub(crate) mod index;
pub(crate) mod limits;
pub(crate) mod log;
pub(crate) mod merged;
mod newest;
mod overtaken;
pub(crate) mod pages;
pub(crate) mod pinned;
mod plan;
mod recent;
pub(crate) mod restore;
pub(crate) mod state;
#[cfg(test)]
pub(crate) mod testing;
pub(crate) mod unread;
pub(crate) mod varint;
