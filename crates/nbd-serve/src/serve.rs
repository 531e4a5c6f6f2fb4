//! A client that has the disk: its requests, several at once.
//!
//! # Order
//! Whoever of the workers is free reads the next request, lets the next one read, and does it. So a client
//! that sends one request at a time is served by one thread after the other without anybody handing anything
//! over, and one that waits for a store keeps nobody from being served.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use parking_lot::Mutex;

use crate::Disk;
use crate::handshake::{Shaken, shake};
use crate::limits::{KEPT_BYTES_MAX, STACK_BYTES, WORKERS};
use crate::protocol::{Command, REPLY_BYTES, REQUEST_BYTES, Request, errno, reply, request};

/// Serves a disk until the client leaves, or this is dropped; that waits for requests that are under way, so
/// what they may be waiting for has to have an end before.
#[derive(Debug)]
pub struct Server {
    hang_up: UnixStream,
    first: Option<JoinHandle<()>>,
}

/// What the workers of a connection share.
#[derive(Debug)]
pub(crate) struct Connection {
    disk: Arc<dyn Disk>,
    /// Nothing where there are no more requests.
    requests: Mutex<Option<UnixStream>>,
    replies: Mutex<UnixStream>,
}

impl Server {
    /// Serves `disk` to whoever is at the other end of `socket`.
    ///
    /// # Errors
    /// No thread can be had.
    pub fn start(socket: UnixStream, disk: Arc<dyn Disk>) -> io::Result<Self> {
        let (hang_up, end) = (socket.try_clone()?, socket.try_clone()?);
        let first = worker().spawn(move || {
            if let Err(error) = serve(socket, disk) {
                tracing::warn!(%error, "a client of a disk is hung up on");
            }
            // It has to hear of it, and others have this socket as well.
            end.shutdown(Shutdown::Both).ok();
        })?;
        Ok(Self { hang_up, first: Some(first) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // An error is one that has left.
        self.hang_up.shutdown(Shutdown::Both).ok();
        if let Some(first) = self.first.take() {
            first.join().ok();
        }
    }
}

fn worker() -> Builder {
    Builder::new().name("nbd".to_owned()).stack_size(STACK_BYTES)
}

fn serve(mut socket: UnixStream, disk: Arc<dyn Disk>) -> io::Result<()> {
    match shake(&mut socket, disk.bytes()) {
        Ok(Shaken::Ready) => {}
        Ok(Shaken::Left) => return Ok(()),
        // One that went away before it began.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
        Err(error) => return Err(error),
    }
    let connection = Connection::new(socket, disk)?;
    std::thread::scope(|scope| {
        for _ in 1..WORKERS {
            // With fewer of them it goes on as well.
            if worker().spawn_scoped(scope, || connection.work()).is_err() {
                break;
            }
        }
        connection.work();
    });
    Ok(())
}

impl Connection {
    /// With a client that has the disk.
    pub(crate) fn new(socket: UnixStream, disk: Arc<dyn Disk>) -> io::Result<Self> {
        let replies = Mutex::new(socket.try_clone()?);
        Ok(Self { disk, requests: Mutex::new(Some(socket)), replies })
    }

    /// Does one request after the other, until there are no more.
    pub(crate) fn work(&self) {
        let mut buffer = Vec::new();
        while let Some(request) = self.next(&mut buffer) {
            let payload = self.answer(&request, &mut buffer);
            let answer = buffer.get(..REPLY_BYTES + payload).unwrap_or_default();
            if self.replies.lock().write_all(answer).is_err() {
                self.end();
            }
            if buffer.len() > KEPT_BYTES_MAX {
                buffer = Vec::new();
            }
        }
    }

    /// The next request, its payload behind the place of the reply's head. `None` where there is no more.
    fn next(&self, buffer: &mut Vec<u8>) -> Option<Request> {
        let mut requests = self.requests.lock();
        let read = read(requests.as_mut()?, self.disk.bytes(), buffer);
        if !matches!(read, Ok(Some(_))) {
            if read.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::InvalidData) {
                tracing::warn!("a client of a disk says what cannot be");
            }
            // Others may still be answering.
            *requests = None;
        }
        read.ok().flatten()
    }

    /// Does it; how many bytes follow the head of the reply, both in `buffer`.
    fn answer(&self, request: &Request, buffer: &mut Vec<u8>) -> usize {
        let disk = &*self.disk;
        let mut payload = 0;
        let done = match request.command {
            Command::Read { at, len } => {
                let end = REPLY_BYTES + len as usize;
                if buffer.len() < end {
                    buffer.resize(end, 0);
                }
                let read = disk.read(at, buffer.get_mut(REPLY_BYTES..end).unwrap_or_default());
                if read.is_ok() {
                    payload = len as usize;
                }
                read
            }
            Command::Write { at, len } => {
                let end = REPLY_BYTES + len as usize;
                disk.write(at, buffer.get(REPLY_BYTES..end).unwrap_or_default())
            }
            Command::Zero { at, len, keep } => disk.zero(at, u64::from(len), keep),
            Command::Trim { at, len } => disk.trim(at, u64::from(len)),
            Command::Flush => disk.flush(),
            Command::Disconnect | Command::Refused { .. } => Ok(()),
        };
        let error = match (request.command, done) {
            (Command::Refused { error, .. }, _) => error,
            (_, Ok(())) => 0,
            (_, Err(error)) => errno(&error),
        };
        if buffer.len() < REPLY_BYTES {
            buffer.resize(REPLY_BYTES, 0);
        }
        if let Some(head) = buffer.first_chunk_mut::<REPLY_BYTES>() {
            *head = reply(request.cookie, error);
        }
        payload
    }

    fn end(&self) {
        // Whoever reads hears of it.
        self.replies.lock().shutdown(Shutdown::Both).ok();
    }
}

/// The next request; `None` where the client leaves.
fn read(socket: &mut impl Read, bytes: u64, buffer: &mut Vec<u8>) -> io::Result<Option<Request>> {
    let mut head = [0; REQUEST_BYTES];
    match socket.read_exact(&mut head) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let request = request(&head, bytes).ok_or(io::ErrorKind::InvalidData)?;
    let payload = match request.command {
        Command::Disconnect => return Ok(None),
        Command::Write { len, .. } | Command::Refused { payload: len, .. } => len as usize,
        _ => 0,
    };
    if payload > 0 {
        let end = REPLY_BYTES + payload;
        if buffer.len() < end {
            buffer.resize(end, 0);
        }
        socket.read_exact(buffer.get_mut(REPLY_BYTES..end).unwrap_or_default())?;
    }
    Ok(Some(request))
}
