//! Trees as tar streams, in and out.
//!
//! # Order of an import
//! Read the whole stream into a detached tree; then merge that tree into the target with one graft. A
//! stream that is cut off, lies about its sizes, or holds an entry that is refused changes nothing.
//!
//! # What is understood
//! ustar, PAX (`path`, `linkpath`, `size`, `mtime`, `SCHILY.xattr.*`) and GNU long names. What is
//! ambiguous is refused rather than guessed, because two readers that disagree about an archive are
//! a way in: a PAX size that contradicts the header, sparse formats, unknown entry types.
//!
//! # Not here
//! Compression, HTTP, and anything that touches the host's file system.

mod export;
#[cfg(test)]
mod fuzz;
mod import;
mod reader;

pub use export::Bundle;
pub use import::{ImportOptions, Imported, import};

/// Most entries in one import.
pub const ENTRIES_MAX: u64 = 4_000_000;
/// Largest extended header (PAX or GNU long name) in bytes.
pub const EXTENDED_BYTES_MAX: u64 = 1 << 20;
/// All extended headers of one member together.
pub const EXTENDED_BYTES_TOTAL_MAX: u64 = 2 * EXTENDED_BYTES_MAX;
/// Deepest path in one import, in components.
pub const DEPTH_MAX: usize = 512;
/// Longest path in a tree that goes out, in bytes. A guest can nest deeper than any path it can say.
pub const EXPORT_PATH_BYTES_MAX: usize = 64 << 10;

#[cfg(test)]
mod tests;
