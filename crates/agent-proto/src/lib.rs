//! What the host and the guest agent say to each other.
//!
//! The control channel is one byte stream (virtio-serial port `dormouse.ctl`). Order on it:
//! 1. [`handshake`]: the host sends `DMH1` + 16 random bytes; the agent answers `DMA1` + the same 16.
//!    Either side discards what comes before the magic of this nonce, so bytes that an earlier
//!    session left in the port do no harm.
//! 2. yamux ([`mux`]); the host is the client and opens streams; the agent opens none.
//! 3. Each stream begins with one [`Request`], framed; what follows depends on it.
//!
//! Frames ([`frame`]) are `u8` kind, `u32` little-endian length, payload of at most
//! [`FRAME_BYTES_MAX`]. A longer one ends the stream: each side treats the other as hostile.
//! A JSON message may be longer than a frame: a `Message` frame of exactly [`FRAME_BYTES_MAX`]
//! is continued by the next one, a shorter one (it may be empty) ends the message. All frames of
//! one message together hold at most [`REQUEST_BYTES_MAX`].
//!
//! The FUSE channel (`dormouse.fuse`) carries raw FUSE messages in both directions; their first
//! `u32` is their length, at most [`FUSE_MESSAGE_BYTES_MAX`]. Messages with `unique` 0 from the
//! host are notifications; the agent hands those to the kernel from a thread of their own, since
//! the kernel may block in them until an earlier reply arrives. Cache barrier:
//! [`Request::Barrier`]. A host that has more than [`NOTIFICATIONS_QUEUED_MAX`] notifications
//! under way without a barrier makes the agent drop whole caches instead.
//!
//! Where the guest's memory lies in a file, requests and replies go through that: the agent offers a ring
//! (`guest-ring`) over this channel, the host takes it or not, and bells for a side that sleeps go over the channel.
//!
//! Before it sleeps, the agent sends a *mark* there itself: [`MARK_OPCODE`], which is no request of
//! FUSE, so that the host answers `ENOSYS` and does nothing. With the answer the agent knows that
//! the host has taken every message before it, and gives the answer to nobody.
//!
//! Until [`Request::Configure`] a guest is nobody's: it may be saved and become many. The host sends it before
//! anything runs for the user; the home is mounted with it. [`Request::Prepare`] does ahead what does not tell whose it is.
//!
//! Sleep with memory: [`Request::Trim`], [`Request::WakeAt`], [`Request::Freeze`]; the host stops the guest, saves it and,
//! maybe in another process, has it go on; [`Request::Thaw`], in the same session or in a new one.
//! An agent that does not know these requests resets their streams.
//!
//! # Failure
//! Whatever a peer sends, it ends at most its own session: every allocation is bounded before it
//! is made ([`Error`] names the bound), and nothing here panics on bytes from outside.
//!
//! # Not here
//! What the agent does about a request (`guest-agent`), and who asks for it (`keeper`).

mod client;
mod error;
pub mod frame;
#[cfg(test)]
mod fuzz;
pub mod handshake;
mod limits;
mod message;
pub mod mux;

pub use client::{AgentClient, ExecInput, ExecOutput, Execution, Output};
pub use error::Error;
pub use frame::{Frame, FrameKind, FrameReader, FrameWriter};
pub use limits::{
    FRAME_BYTES_MAX, FUSE_MESSAGE_BYTES_MAX, NOTIFICATIONS_QUEUED_MAX, REQUEST_BYTES_MAX,
    STALE_BYTES_MAX, STREAMS_MAX,
};
pub use message::{Configure, Exec, Exited, Hello, Reply, Request, Signal};

/// Name of the control port in the guest.
pub const CONTROL_PORT: &str = "dormouse.ctl";
/// Name of the FUSE port in the guest.
pub const FUSE_PORT: &str = "dormouse.fuse";
/// Opcode of a mark, which FUSE does not have and never will: its numbers are small.
pub const MARK_OPCODE: u32 = 0xd0_4d_4f_53;
/// Marks are numbered from here. The kernel counts its requests up from 0 and never gets here.
pub const MARK_UNIQUE_MIN: u64 = 1 << 63;
/// Version of this protocol, in [`Hello`].
pub const PROTOCOL_VERSION: u32 = 1;
