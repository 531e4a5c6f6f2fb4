//! For tests only: what proves the promises of the home file system.
//!
//! ```text
//! world    seeded simulation: hosts, homes, a store that fails       cargo xtask sim --seeds N
//! power    power loss under a home's local directory                 cargo xtask sim --power
//! model    random calls on a home and on a tree in memory            cargo xtask sim --model
//! crash    kill -9 of the real keeper                                cargo xtask crash
//!   acts tree chance store    what they share
//! ```
//!
//! # Invariants
//! Everything that is decided by chance is decided by a seed, and a failure names it. A harness is
//! itself tested: with a fault built in on purpose it must fail.
//!
//! # Not here
//! The store's own faults over HTTP (`testkit::s3_server`); what a file system must answer
//! (`vfs::suite`).

pub mod acts;
pub mod chance;
pub mod crash;
pub mod model;
pub mod power;
pub mod store;
pub mod tree;
pub mod world;

mod seeds;
pub use seeds::{Outcome, seeds};
