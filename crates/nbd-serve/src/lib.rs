//! Serves one disk to one client over a connected socket: the network block device protocol, the server's side.
//!
//! For a hypervisor whose disk is not all here: each of its reads and writes passes through a [`Disk`] of ours.
//! The protocol is that of <https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md>: the fixed
//! newstyle handshake, then simple replies.
//!
//! # Invariants
//! - The client is not trusted: it may be a hypervisor that its guest has taken over. Every length is bounded
//!   before anything is allocated for it, what lies outside of the disk never reaches the [`Disk`], and a client
//!   that says what cannot be is hung up on. It can harm its own disk, and nothing else.
//! - A request is answered once it is done, in whatever order they come to be done. Those that the client sent
//!   before it had an answer may be done in any order: a flush covers what was answered before it was sent.
//! - At most [`limits::WORKERS`] requests are under way, each with at most [`limits::PAYLOAD_BYTES_MAX`] bytes; the
//!   next is not read before.
//!
//! # Failure
//! What the [`Disk`] cannot do is an error for that request alone. A connection that is lost or hung up ends all.
//!
//! # Not here
//! TLS, structured replies, several exports, resizing, forced unit access and block status: a client that asks
//! for an option hears that it is not there. Connecting again: who wants it makes another [`Server`].

#[cfg(test)]
mod fuzz;
mod handshake;
pub mod limits;
mod protocol;
mod serve;
#[cfg(test)]
mod tests;

use std::io;

pub use serve::Server;

/// What is served. Called by several threads at once; each call may block, and holds up no other.
///
/// Ranges lie within the disk and are not empty. An error becomes one of the protocol by its kind:
/// `StorageFull`, `PermissionDenied`, `InvalidInput`, `Unsupported`; all others are errors of input and output.
pub trait Disk: Send + Sync + std::fmt::Debug {
    /// Its length in bytes; the same at all times.
    fn bytes(&self) -> u64;
    /// Fills `into` with what is there from `at` on.
    ///
    /// # Errors
    /// Nothing is known of `into` then.
    fn read(&self, at: u64, into: &mut [u8]) -> io::Result<()>;
    /// Writes `bytes` from `at` on.
    ///
    /// # Errors
    /// Some of it may be written.
    fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()>;
    /// Has `len` bytes from `at` on be zeros; with `keep` their room is not given back.
    ///
    /// # Errors
    /// Some of it may be done.
    fn zero(&self, at: u64, len: u64, keep: bool) -> io::Result<()>;
    /// The client does not need `len` bytes from `at` on any more; what is there afterwards does not matter.
    ///
    /// # Errors
    /// Some of it may be done.
    fn trim(&self, at: u64, len: u64) -> io::Result<()>;
    /// What was written before it was called outlives a loss of power when it returns.
    ///
    /// # Errors
    /// Nothing is known of it then.
    fn flush(&self) -> io::Result<()>;
}
