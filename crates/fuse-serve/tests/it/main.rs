//! A real mount through this host's kernel.
//!
//! Needs root and `/dev/fuse`; without them each test says `skipped:` and passes.

#![allow(clippy::unwrap_used, reason = "the helpers of a test may fail it too")]

mod caching;
mod mounted;
mod posix;
mod programs;
