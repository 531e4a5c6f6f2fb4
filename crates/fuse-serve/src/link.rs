//! Where messages come from and go to: a byte stream, or the device.

use std::fmt::Debug;
use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

/// Programs on this host send their next request some microseconds after a reply.
const LOOK: Duration = Duration::from_micros(20);

/// A message as it was received, in a buffer that is used again and again.
#[derive(Debug, Default)]
pub(crate) struct Message {
    buffer: Vec<u8>,
    len: usize,
}

impl Message {
    /// Room for `len` bytes, whose content is left over from before. The message becomes them.
    pub(crate) fn make_room(&mut self, len: usize) -> &mut [u8] {
        if self.buffer.is_empty() {
            // Zeroed by the kernel, where it is used at all.
            self.buffer = vec![0; len];
        } else if self.buffer.len() < len {
            self.buffer.resize(len, 0);
        }
        self.len = len;
        &mut self.buffer[..len]
    }

    /// Keeps the first `len` bytes.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Gives the memory back, for a thread that has nothing to do.
    pub(crate) fn release(&mut self) {
        *self = Self::default();
    }

    /// Replaces the content.
    pub(crate) fn set(&mut self, bytes: &[u8]) {
        self.make_room(bytes.len()).copy_from_slice(bytes);
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.buffer[..self.len]
    }
}

/// What came of an attempt to receive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Received {
    /// A whole message.
    Message,
    /// None now; wait for the descriptor.
    Nothing,
    /// The other side is gone.
    End,
}

/// A connection to a kernel.
pub(crate) trait Link: Debug + Send + Sync + 'static {
    /// What becomes readable when a message comes.
    fn descriptor(&self) -> BorrowedFd<'_>;
    /// True where part of a message was read already: then `receive` must be called without
    /// waiting, and the channel is not at a border between messages.
    fn has_buffered(&self) -> bool;
    /// True where every read is a whole message or, at once, nothing: then `receive` may be tried
    /// without waiting first, and many threads may receive at a time.
    fn is_queue(&self) -> bool;
    /// True where other threads may receive beside the one that waits.
    fn takes_help(&self) -> bool {
        self.is_queue()
    }
    /// Reads one message. Only one thread at a time calls it, unless the link is a queue.
    fn receive(&self, message: &mut Message) -> io::Result<Received>;
    /// Writes one message, which is in these parts, whole. Many threads call it.
    fn send(&self, parts: &[&[u8]]) -> io::Result<()>;
    /// How long to look for the next message before sleeping, while that pays.
    fn look(&self) -> Duration {
        LOOK
    }
    /// Called before its reader waits for the descriptor. False: do not, there is a message.
    fn may_sleep(&self) -> io::Result<bool> {
        Ok(true)
    }
    /// Makes blocked calls return, where the link can.
    fn shut_down(&self);
}
