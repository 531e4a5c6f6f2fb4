//! A real mount through this host's kernel.
//!
//! Needs root and `/dev/fuse`; without them each test says `skipped:` and passes.

mod caching;
mod mounted;
mod posix;
mod programs;
