//! A real mount through this host's kernel.
//!
//! Needs root and `/dev/fuse`; without them each test says `skipped:`, and fails where
//! `DORMOUSE_TESTS_MUST_RUN` is set, as `cargo xtask test` sets it.

#![allow(clippy::unwrap_used, reason = "the helpers of a test may fail it too")]

mod caching;
mod mounted;
mod posix;
mod programs;
