//! FUSE messages over a connected byte stream.
//!
//! Messages frame themselves: the first `u32` is the length. One that is shorter than a header or
//! longer than the limit ends the channel, since nothing after it can be trusted.

use std::io::{self, IoSlice, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use parking_lot::Mutex;

use crate::abi::IN_HEADER_BYTES;
use crate::limits::{MESSAGE_BYTES_MAX, READ_BUFFER_BYTES};
use crate::link::{Link, Message, Received};

/// A stream, and what was read of it ahead of its turn.
#[derive(Debug)]
pub(crate) struct StreamLink {
    stream: UnixStream,
    input: Mutex<Input>,
    /// Held while one message is written.
    output: Mutex<()>,
}

#[derive(Debug)]
struct Input {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

impl StreamLink {
    pub(crate) fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(false)?;
        let buffer = vec![0; READ_BUFFER_BYTES].into_boxed_slice();
        let input = Mutex::new(Input { buffer, start: 0, end: 0 });
        Ok(Self { stream, input, output: Mutex::new(()) })
    }
}

impl StreamLink {
    /// As [`Link::receive`], where nothing may have come.
    pub(crate) fn receive_now(&self, message: &mut Message) -> io::Result<Received> {
        let mut input = self.input.lock();
        if input.waiting().is_empty() && !self.is_readable()? {
            return Ok(Received::Nothing);
        }
        self.receive_by(&mut input, message)
    }

    fn is_readable(&self) -> io::Result<bool> {
        let mut descriptors = [PollFd::new(self.stream.as_fd(), PollFlags::POLLIN)];
        match poll(&mut descriptors, PollTimeout::ZERO) {
            Ok(ready) => Ok(ready > 0),
            Err(Errno::EINTR) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    fn receive_by(&self, input: &mut Input, message: &mut Message) -> io::Result<Received> {
        let mut stream = &self.stream;
        while input.waiting().len() < 4 {
            if !input.fill(&mut stream)? {
                return match input.waiting() {
                    [] => Ok(Received::End),
                    _ => Err(io::ErrorKind::UnexpectedEof.into()),
                };
            }
        }
        let len = input.frame_len()?;
        let room = message.make_room(len);
        let buffered = input.take_into(room);
        stream.read_exact(&mut room[buffered..])?;
        Ok(Received::Message)
    }
}

impl Link for StreamLink {
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    fn has_buffered(&self) -> bool {
        let input = self.input.lock();
        input.start < input.end
    }

    fn is_queue(&self) -> bool {
        false
    }

    fn receive(&self, message: &mut Message) -> io::Result<Received> {
        self.receive_by(&mut self.input.lock(), message)
    }

    fn send(&self, parts: &[&[u8]]) -> io::Result<()> {
        let mut slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
        let mut left = &mut slices[..];
        let _whole = self.output.lock();
        while !left.is_empty() {
            match (&self.stream).write_vectored(left) {
                Ok(0) if left.iter().all(|part| part.is_empty()) => break,
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(len) => IoSlice::advance_slices(&mut left, len),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn shut_down(&self) {
        // Fails only where the other side closed already.
        drop(self.stream.shutdown(Shutdown::Both));
    }
}

impl Input {
    fn waiting(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// Reads more; false at the end of the stream. Called only with less than a length waiting.
    fn fill(&mut self, stream: &mut impl Read) -> io::Result<bool> {
        self.buffer.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        loop {
            match stream.read(&mut self.buffer[self.end..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
                Ok(len) => {
                    self.end += len;
                    return Ok(len > 0);
                }
            }
        }
    }

    fn frame_len(&self) -> io::Result<usize> {
        let len = self.waiting().first_chunk().map_or(0, |first| u32::from_ne_bytes(*first));
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        if (IN_HEADER_BYTES..=MESSAGE_BYTES_MAX).contains(&len) {
            return Ok(len);
        }
        let text = format!("a message of {len} bytes; {MESSAGE_BYTES_MAX} are allowed");
        Err(io::Error::new(io::ErrorKind::InvalidData, text))
    }

    /// Moves what is waiting into `room`, as far as both go.
    fn take_into(&mut self, room: &mut [u8]) -> usize {
        let len = self.waiting().len().min(room.len());
        room[..len].copy_from_slice(&self.waiting()[..len]);
        self.start += len;
        len
    }
}
