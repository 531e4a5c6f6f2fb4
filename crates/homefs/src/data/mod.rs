//! Content of files: where its bytes are, how they get there, how they come back.
//!
//! A file is layers: sealed content at the bottom (`blob`, or `extent` rows into packs and
//! chunks), unsealed generations of the local spool above ([`layers`]). [`spool`] holds what was
//! written, [`seal`] moves it down, [`objects`] reads what is sealed, here or from the store (there it is
//! compressed: [`blocks`]),
//! [`durable`] makes it survive power loss.
//!
//! # Not here
//! Uploading (`replicator`), which rows change (`ops`).

pub(crate) mod block_cache;
pub(crate) mod blocks;
pub(crate) mod durable;
pub(crate) mod layers;
pub(crate) mod objects;
pub(crate) mod pack;
pub(crate) mod ranges;
pub(crate) mod read;
mod removal;
pub(crate) mod seal;
pub(crate) mod seal_plan;
pub(crate) mod seal_rows;
mod shape;
pub(crate) mod spool;
pub(crate) mod tables;
