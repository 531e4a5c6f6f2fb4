//! Messages between a guest and its host through memory that both have mapped.
//!
//! A virtio port costs an emulated guest an interrupt, two changes of threads and a copy in 4 KiB pieces for
//! each message. A ring is two pages of 2 MiB of the guest's own memory, one for each direction
//! ([`Area`]): who sends puts a message there and counts it, who receives sees the count. The port stays, for
//! three things: the ring is [offered](Offer) over it, [bells](BELL_OPCODE) go over it to a side that sleeps, and
//! a host or a guest that knows no ring talks over it alone.
//!
//! # Layout of an area
//! | at | what | written by |
//! |---|---|---|
//! | 0 | messages ever sent, `u32`, wraps | sender |
//! | 64 | messages ever taken, `u32`, wraps | receiver |
//! | 128 | 1: the receiver sleeps and has to be rung for, `u32` | receiver |
//! | 192 | what the guest has [marked](Area::mark) its area with, `u64`: the host looks whether it is there | guest |
//! | 256 | [`ENTRIES`] × (offset, length), `u32` each: message *n* is entry *n* mod [`ENTRIES`] | sender |
//! | 4096 | the messages, each in one piece | sender |
//!
//! # Invariants
//! - Neither side believes the other: what it reads from the area is checked before it is used ([`Broken`]), and
//!   what it has to know of its own it keeps for itself.
//! - No message is missed: who goes to sleep says so before it looks for the last time, who sends looks
//!   whether to ring after it has counted; both with a full fence in between.
//! - An area is memory of the guest, and sleeps with it. Its counts go on after that; a host that
//!   [begins](Receiver::new) takes them from there.
//!
//! # Failure
//! The host maps the file that the guest's memory lies in; it has all of an area then. Who can shorten that file (the hypervisor, where a
//! guest has broken out) ends the process that serves the guest, and with it this guest alone. So does a guest that gives
//! an area back as free memory while the host's disk is full: what is written to it then finds no place.
//!
//! # Not here
//! What is in the messages (`fuse-serve`), when to look and when to sleep (`fuse-serve` and the agent).

mod area;
#[cfg(test)]
mod fuzz;
mod memory;
mod offer;
mod receiver;
mod sender;
#[cfg(test)]
mod tests;

pub use area::{AREA_BYTES, Area, ENTRIES, MESSAGE_BYTES_MAX};
pub use memory::{GuestMemory, Region};
pub use offer::{
    BELL_OPCODE, BELL_UNIQUE, OFFER_OPCODE, OFFER_UNIQUE, Offer, bell_to_guest, bell_to_host,
};
pub use receiver::{Piece, Receiver};
pub use sender::Sender;

/// The other side wrote what cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[error("the ring is broken: {0}")]
pub struct Broken(pub(crate) &'static str);

impl From<Broken> for std::io::Error {
    fn from(broken: Broken) -> Self {
        Self::new(std::io::ErrorKind::InvalidData, broken)
    }
}
