//! Sessions as input: what an agent sent, cut where the host had spoken in between.
//!
//! A piece is its length in two bytes, little-endian, and its bytes. It is heard once the host has written
//! something after the piece before it, or waits.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::time::{Sleep, sleep};

/// How long a host waits before it hears the next piece all the same. No time passes for it.
const PATIENCE: Duration = Duration::from_millis(10);

/// A stream on which an input is heard, whatever is said.
pub(super) struct Replay {
    pieces: std::vec::IntoIter<Vec<u8>>,
    now: std::collections::VecDeque<u8>,
    waiting: Option<Pin<Box<Sleep>>>,
    spoken: bool,
}

impl Replay {
    pub(super) fn new(input: &[u8]) -> Self {
        let (mut rest, mut pieces) = (input, Vec::new());
        while let Some((length, after)) = rest.split_first_chunk::<2>() {
            let len = usize::from(u16::from_le_bytes(*length)).min(after.len());
            let (piece, after) = after.split_at(len);
            pieces.push(piece.to_vec());
            rest = after;
        }
        let now = std::collections::VecDeque::new();
        Self { pieces: pieces.into_iter(), now, waiting: None, spoken: true }
    }

    /// The input that is heard as these pieces.
    pub(super) fn input(pieces: &[Vec<u8>]) -> Vec<u8> {
        let mut input = Vec::new();
        for piece in pieces.iter().flat_map(|piece| piece.chunks(usize::from(u16::MAX))) {
            let len = u16::try_from(piece.len()).unwrap();
            input.extend_from_slice(&len.to_le_bytes());
            input.extend_from_slice(piece);
        }
        input
    }
}

impl AsyncRead for Replay {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.now.is_empty() {
            if !std::mem::take(&mut self.spoken) {
                let waiting = self.waiting.get_or_insert_with(|| Box::pin(sleep(PATIENCE)));
                ready!(waiting.as_mut().poll(context));
            }
            self.waiting = None;
            match self.pieces.next() {
                Some(piece) => self.now = piece.into(),
                None => return Poll::Ready(Ok(())),
            }
        }
        let len = self.now.len().min(into.remaining());
        self.now.drain(..len).for_each(|byte| into.put_slice(&[byte]));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Replay {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.spoken = true;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// The host's end of a stream, which writes down what it hears.
pub(super) struct Recorder {
    stream: DuplexStream,
    recording: Arc<Mutex<Vec<Vec<u8>>>>,
    spoken: bool,
}

impl Recorder {
    pub(super) fn new(stream: DuplexStream) -> Self {
        Self { stream, recording: Arc::default(), spoken: true }
    }

    /// What was heard so far, in pieces.
    pub(super) fn recording(&self) -> Arc<Mutex<Vec<Vec<u8>>>> {
        Arc::clone(&self.recording)
    }
}

impl AsyncRead for Recorder {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, into))?;
        let heard = &into.filled()[before..];
        let new = std::mem::take(&mut self.spoken);
        let mut recording = self.recording.lock().unwrap();
        match recording.last_mut() {
            Some(last) if !new => last.extend_from_slice(heard),
            _ => recording.push(heard.to_vec()),
        }
        drop(recording);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Recorder {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.spoken = true;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
