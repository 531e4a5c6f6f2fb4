//! This host, as `control` sees it.
//!
//! `control` names what it needs in two traits: [`control::host::Host`], the place where machines run,
//! and [`control::homes::Homes`], homes that nobody is awake in. Here both stand on this very host:
//! keepers are child processes spoken to over their sockets ([`LocalHost`]), sleeping homes are opened with
//! `homefs` ([`LocalHomes`]). A fleet puts another crate in this place.
//!
//! # Invariants
//! - Nothing is remembered that the disk does not say: a restarted server sees the same.
//! - Nobody but a keeper writes to a machine's writable layer: it is stored while none lives.
//!
//! # Not here
//! Decisions. Everything translates and calls.

mod convert;
mod files;
mod homes;
mod host;
mod leftovers;
mod link;
mod opened;
mod records;
mod templates;
mod uppers;

pub use homes::{LocalHomes, LocalHomesSettings};
pub use host::{LocalHost, LocalHostSettings, machines_dir};
