//! A host, homes, a store and a clock for tests: everything below this crate, in memory.
//!
//! For this crate's own tests and, with the feature `fakes`, for those of the faces. Nothing here is
//! in a release build.

mod homes;
mod host;
mod keeper;
#[cfg(test)]
pub(crate) mod life;
mod records;
mod store;
mod tree;
mod uppers;
mod world;

pub use store::MemoryStore;
pub use tree::FakeTree;
pub use world::{FakeHost, HandClock, World, eventually};
