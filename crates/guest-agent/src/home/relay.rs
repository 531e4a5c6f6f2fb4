//! Copies FUSE messages between `/dev/fuse` and the host. They frame themselves: the first `u32`
//! is the length of the whole message.
//!
//! # Invariants
//! - A message goes to the kernel in one write, whole, or not at all.
//! - Every request passes the [`Gate`], and every reply is told to it once the kernel has it.
//! - Nothing longer than [`FUSE_MESSAGE_BYTES_MAX`] is accepted from the host, and the buffer for
//!   it is all the memory there is.
//!
//! # A host that goes away
//! The port reads as ended until another host comes. What was received of a message is dropped
//! then; writes block in the kernel.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use agent_proto::FUSE_MESSAGE_BYTES_MAX;
use guest_ring::{BELL_UNIQUE, OFFER_UNIQUE, Piece};
use nix::errno::Errno;
use nix::unistd::{read, write};

use super::gate::Gate;
use super::line::Line;
use super::notify::Notifications;
use crate::console::say;
use crate::limits::{HOST_POLL_INTERVAL, NOTIFICATION_BYTES_MAX};

/// `struct fuse_out_header`: length, error, unique.
const REPLY_HEADER_BYTES: usize = 16;
/// How often a reply is offered to a kernel that has no memory for it.
const NO_MEMORY_TRIES: usize = 100;

/// Why a thread of the relay ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    Unmounted,
    Failed(String),
}

/// Requests for which an answer is not looked for: they wait for the object store, or copy much.
const LONG: [u32; 5] = [
    20, // FSYNC
    30, // FSYNCDIR
    43, // FALLOCATE
    47, // COPY_FILE_RANGE
    50, // SYNCFS
];
const READ: u32 = 15;
/// Longest request, and longest read, whose answer is looked for. What the kernel reads ahead comes in larger ones,
/// several at a time.
const SHORT_BYTES_MAX: usize = 32 * 1024;

/// From the kernel to the host, until the file system is unmounted.
pub(super) fn requests(line: &Line, inbox: &Inbox) -> End {
    // The kernel refuses a smaller buffer than its largest write.
    let mut message = vec![0; FUSE_MESSAGE_BYTES_MAX];
    loop {
        match read(&*inbox.device, &mut message) {
            Ok(length) => {
                let message = &message[..length];
                let passing = inbox.gate.pass(message);
                let soon = answered_soon(message);
                let expected = soon.and_then(|unique| Some((unique, line.expect()?)));
                if let Err(errno) = line.send(message) {
                    return End::Failed(format!("write to the host: {}", errno.desc()));
                }
                drop(passing);
                if let Some((unique, expecting)) = expected {
                    let is_answered = || inbox.gate.is_answered(unique);
                    let looked = expecting.look(is_answered, |piece| inbox.take_piece(piece, line));
                    if let Err(broken) = looked {
                        return End::Failed(broken.to_string());
                    }
                }
            }
            // ENOENT: a request was interrupted before we took it.
            Err(Errno::ENOENT | Errno::EINTR | Errno::EAGAIN) => {}
            Err(Errno::ENODEV) => return End::Unmounted,
            Err(errno) => return End::Failed(format!("read /dev/fuse: {}", errno.desc())),
        }
    }
}

/// The `unique` of a request that the host answers at once, most likely.
fn answered_soon(message: &[u8]) -> Option<u64> {
    let (opcode, unique) = super::gate::awaits_reply(message)?;
    // `fuse_read_in.size`
    let reads = message.get(56..60).and_then(|size| size.try_into().ok()).map(u32::from_ne_bytes);
    let long_read = opcode == READ && reads.is_some_and(|size| size as usize > SHORT_BYTES_MAX);
    let soon = !LONG.contains(&opcode) && message.len() <= SHORT_BYTES_MAX && !long_read;
    soon.then_some(unique)
}

/// From the host to the kernel, until the file system is unmounted.
pub(super) fn replies(line: &Line, inbox: &Inbox) -> End {
    // Room for the largest message and for what lies behind it.
    let mut messages = Messages::new(FUSE_MESSAGE_BYTES_MAX + 64 * 1024);
    loop {
        match read(line.port(), messages.space()) {
            Ok(0) => {
                messages.clear();
                std::thread::sleep(HOST_POLL_INTERVAL);
            }
            Ok(length) => messages.filled(length),
            Err(Errno::EINTR | Errno::EAGAIN) => continue,
            Err(errno) => return End::Failed(format!("read from the host: {}", errno.desc())),
        }
        loop {
            match messages.next() {
                Ok(None) => break,
                Ok(Some((unique, message))) => {
                    if inbox.take(unique, message, line) == Err(Errno::ENODEV) {
                        return End::Unmounted;
                    }
                }
                Err(why) => return End::Failed(why),
            }
        }
        // Bells are among them.
        if let Err(broken) = line.empty(|piece| inbox.take_piece(piece, line)) {
            return End::Failed(broken.to_string());
        }
    }
}

/// Where messages from the host go.
#[derive(Debug)]
pub(super) struct Inbox {
    pub(super) device: Arc<OwnedFd>,
    pub(super) gate: Arc<Gate>,
    pub(super) notifications: Notifications,
}

impl Inbox {
    /// Takes a message that came over the port. `ENODEV` where there is no file system any more.
    fn take(&self, unique: u64, message: &[u8], line: &Line) -> Result<(), Errno> {
        if !self.keeps(unique, message, line) {
            deliver(|| write(&*self.device, message))?;
            self.gate.answered(unique);
        }
        Ok(())
    }

    /// Takes one that came over the ring. Where there is no file system any more the other thread finds out.
    fn take_piece(&self, piece: &Piece<'_>, line: &Line) {
        let mut header = [0; REPLY_HEADER_BYTES];
        if piece.copy_to(&mut header) < header.len() {
            return say("home: the host sent less than a header");
        }
        let [_, _, _, _, _, _, _, _, unique @ ..] = header;
        let unique = u64::from_ne_bytes(unique);
        if unique == 0 {
            let mut message = vec![0; piece.bytes().min(NOTIFICATION_BYTES_MAX + 1)];
            piece.copy_to(&mut message);
            self.notifications.put(&message);
        } else if !self.keeps(unique, &header, line) {
            let errno = |error: io::Error| {
                Errno::from_raw(error.raw_os_error().unwrap_or(Errno::EIO as i32))
            };
            // The thread that reads from the kernel ends with it, too.
            let _ = deliver(|| piece.write_to(&*self.device).map_err(errno));
            self.gate.answered(unique);
        }
    }

    /// True for what is not for whoever waits in the kernel.
    fn keeps(&self, unique: u64, message: &[u8], line: &Line) -> bool {
        match unique {
            0 => self.notifications.put(message),
            OFFER_UNIQUE => line.offer_answered(message.get(4..8) == Some(&[0; 4])),
            BELL_UNIQUE => {}
            unique => return self.gate.takes(unique),
        }
        true
    }
}

/// Gives one message to the kernel. `ENODEV` where there is no file system any more.
pub(super) fn deliver(write: impl Fn() -> Result<usize, Errno>) -> Result<(), Errno> {
    for _ in 0..NO_MEMORY_TRIES {
        match write() {
            Ok(_) => return Ok(()),
            // Nobody waits for it any more, or (a notification) it is not in the cache.
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ENOTEMPTY) => return Ok(()),
            Err(Errno::EINTR) => {}
            // A lost reply is a program that hangs for ever.
            Err(Errno::ENOMEM) => std::thread::sleep(HOST_POLL_INTERVAL),
            Err(Errno::ENODEV) => return Err(Errno::ENODEV),
            Err(errno) => {
                say(&format!("home: the kernel refused a message: {}", errno.desc()));
                return Ok(());
            }
        }
    }
    say("home: no memory for a message from the host");
    Ok(())
}

/// Bytes from the host, cut into messages.
#[derive(Debug)]
struct Messages {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl Messages {
    fn new(bytes: usize) -> Self {
        Self { buffer: vec![0; bytes], start: 0, end: 0 }
    }

    /// Where to read to; never empty, because a whole message has been taken out or still fits.
    fn space(&mut self) -> &mut [u8] {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        &mut self.buffer[self.end..]
    }

    fn filled(&mut self, bytes: usize) {
        self.end += bytes;
    }

    fn clear(&mut self) {
        (self.start, self.end) = (0, 0);
    }

    /// The next whole message and its `unique`.
    fn next(&mut self) -> Result<Option<(u64, &[u8])>, String> {
        let held = &self.buffer[self.start..self.end];
        let Some(header) = held.first_chunk::<REPLY_HEADER_BYTES>() else { return Ok(None) };
        let [a, b, c, d, _, _, _, _, unique @ ..] = *header;
        let length = u32::from_ne_bytes([a, b, c, d]) as usize;
        if !(REPLY_HEADER_BYTES..=FUSE_MESSAGE_BYTES_MAX).contains(&length) {
            return Err(format!("the host sent a FUSE message of {length} bytes"));
        }
        if held.len() < length {
            return Ok(None);
        }
        let message = self.start..self.start + length;
        self.start = message.end;
        Ok(Some((u64::from_ne_bytes(unique), &self.buffer[message])))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(unique: u64, payload: usize) -> Vec<u8> {
        let length = u32::try_from(REPLY_HEADER_BYTES + payload).unwrap();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend([0; 4]);
        bytes.extend(unique.to_ne_bytes());
        bytes.extend(vec![7; payload]);
        bytes
    }

    #[test]
    fn messages_are_found_however_the_port_cuts_them() {
        let sizes = [0, 1, 4096, 0, FUSE_MESSAGE_BYTES_MAX - REPLY_HEADER_BYTES, 5];
        let wire: Vec<u8> =
            sizes.iter().zip(1..).flat_map(|(size, unique)| message(unique, *size)).collect();
        for piece in [1, 3, 4096, 100_000] {
            let mut messages = Messages::new(FUSE_MESSAGE_BYTES_MAX + 64 * 1024);
            let mut found = Vec::new();
            // One byte at a time over a megabyte would only be slow.
            let step = if piece == 1 { 7 } else { piece };
            for part in wire.chunks(step) {
                let mut part = part;
                while !part.is_empty() {
                    let space = messages.space();
                    let fits = part.len().min(space.len());
                    assert!(fits > 0);
                    space[..fits].copy_from_slice(&part[..fits]);
                    messages.filled(fits);
                    part = &part[fits..];
                    while let Some((unique, bytes)) = messages.next().unwrap() {
                        found.push((unique, bytes.len() - REPLY_HEADER_BYTES));
                    }
                }
            }
            let expected: Vec<_> = (1..).zip(sizes).collect();
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn a_length_that_cannot_be_is_an_error() {
        for length in [0, 15, FUSE_MESSAGE_BYTES_MAX as u32 + 1, u32::MAX] {
            let mut messages = Messages::new(100);
            let mut bytes = length.to_ne_bytes().to_vec();
            bytes.extend([0; 12]);
            messages.space()[..16].copy_from_slice(&bytes);
            messages.filled(16);
            assert!(messages.next().is_err(), "{length}");
        }
    }
}
