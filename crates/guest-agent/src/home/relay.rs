//! Copies FUSE messages between `/dev/fuse` and the port. They frame themselves: the first `u32`
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

use std::os::fd::OwnedFd;

use agent_proto::FUSE_MESSAGE_BYTES_MAX;
use nix::errno::Errno;
use nix::unistd::{read, write};

use super::gate::Gate;
use super::notify::Notifications;
use crate::console::say;
use crate::limits::HOST_POLL_INTERVAL;

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

/// From the kernel to the host, until the file system is unmounted.
pub(super) fn requests(device: &OwnedFd, port: &OwnedFd, gate: &Gate) -> End {
    // The kernel refuses a smaller buffer than its largest write.
    let mut message = vec![0; FUSE_MESSAGE_BYTES_MAX];
    loop {
        match read(device, &mut message) {
            Ok(length) => {
                let message = &message[..length];
                let _passing = gate.pass(message);
                if let Err(errno) = write_all(port, message) {
                    return End::Failed(format!("write to the host: {}", errno.desc()));
                }
            }
            // ENOENT: a request was interrupted before we took it.
            Err(Errno::ENOENT | Errno::EINTR | Errno::EAGAIN) => {}
            Err(Errno::ENODEV) => return End::Unmounted,
            Err(errno) => return End::Failed(format!("read /dev/fuse: {}", errno.desc())),
        }
    }
}

/// From the host to the kernel, until the file system is unmounted.
pub(super) fn replies(
    device: &OwnedFd,
    port: &OwnedFd,
    gate: &Gate,
    notifications: &Notifications,
) -> End {
    // Room for the largest message and for what lies behind it.
    let mut messages = Messages::new(FUSE_MESSAGE_BYTES_MAX + 64 * 1024);
    loop {
        match read(port, messages.space()) {
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
                Ok(Some((0, notification))) => notifications.put(notification),
                Ok(Some((unique, _))) if gate.takes(unique) => {}
                Ok(Some((unique, reply))) => {
                    if deliver(device, reply) == Err(Errno::ENODEV) {
                        return End::Unmounted;
                    }
                    gate.answered(unique);
                }
                Err(why) => return End::Failed(why),
            }
        }
    }
}

/// Gives one message to the kernel. `ENODEV` where there is no file system any more.
pub(super) fn deliver(device: &OwnedFd, message: &[u8]) -> Result<(), Errno> {
    for _ in 0..NO_MEMORY_TRIES {
        match write(device, message) {
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

/// One write moves at most 32 KiB into a port.
pub(super) fn write_all(port: &OwnedFd, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match write(port, bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(errno) => return Err(errno),
        }
    }
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
