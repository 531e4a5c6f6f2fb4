//! Frames on a byte stream: `u8` kind, `u32` little-endian length, payload.
//!
//! # Invariants
//! - A length above [`FRAME_BYTES_MAX`] is refused before anything is allocated for it.
//! - [`FrameReader::next`] may be cancelled at any time and called again; no byte is lost.
//!
//! # Failure
//! After any error the position in the stream is unknown: drop both halves.

use bytes::{Buf, Bytes, BytesMut};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::{Error, FRAME_BYTES_MAX, REQUEST_BYTES_MAX};

const HEADER_BYTES: usize = 5;

/// Kinds of frames on a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    /// JSON: a [`Request`](crate::Request) (first on a stream) or a [`Reply`](crate::Reply).
    Message = 0,
    /// Bytes for standard input. Empty: end of input.
    Stdin = 1,
    /// Bytes from standard output.
    Stdout = 2,
    /// Bytes from standard error.
    Stderr = 3,
    /// JSON [`Exited`](crate::Exited): the last frame of an execution.
    Exit = 4,
    /// JSON [`Signal`](crate::Signal), host to guest: a signal for the process group.
    Signal = 5,
}

impl TryFrom<u8> for FrameKind {
    type Error = Error;

    fn try_from(byte: u8) -> Result<Self, Error> {
        Ok(match byte {
            0 => Self::Message,
            1 => Self::Stdin,
            2 => Self::Stdout,
            3 => Self::Stderr,
            4 => Self::Exit,
            5 => Self::Signal,
            got => return Err(Error::UnexpectedFrame { expected: "a known kind", got }),
        })
    }
}

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What it is.
    pub kind: FrameKind,
    /// At most [`FRAME_BYTES_MAX`] bytes.
    pub payload: Bytes,
}

impl Frame {
    /// The payload as JSON; `what` names it in the error.
    pub fn json<T: DeserializeOwned>(&self, what: &'static str) -> Result<T, Error> {
        serde_json::from_slice(&self.payload).map_err(|source| Error::Decode { what, source })
    }
}

/// The reading half of a stream.
#[derive(Debug)]
pub struct FrameReader<R> {
    inner: R,
    buffer: BytesMut,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// Reads frames from `inner`.
    pub fn new(inner: R) -> Self {
        Self { inner, buffer: BytesMut::new() }
    }

    /// The next frame; `None` where the peer has closed the stream between two frames.
    ///
    /// Safe to cancel.
    pub async fn next(&mut self) -> Result<Option<Frame>, Error> {
        loop {
            let missing = match self.buffered_frame()? {
                Ok(frame) => return Ok(Some(frame)),
                Err(missing) => missing,
            };
            // Reserve for this one frame only: what lies behind it is read when it is asked for.
            self.buffer.reserve(missing);
            let read = (&mut self.inner)
                .take(missing as u64)
                .read_buf(&mut self.buffer)
                .await
                .map_err(Error::io("read a frame"))?;
            if read == 0 {
                if self.buffer.is_empty() {
                    return Ok(None);
                }
                return Err(Error::Closed { doing: "read a frame" });
            }
        }
    }

    /// The next message, from as many frames as it takes. Not safe to cancel.
    ///
    /// # Errors
    /// `Closed` where the stream ends first, `UnexpectedFrame` on any other kind of frame.
    pub async fn message<T: DeserializeOwned>(&mut self, what: &'static str) -> Result<T, Error> {
        let mut json = BytesMut::new();
        loop {
            let frame = self.next().await?.ok_or(Error::Closed { doing: "read a message" })?;
            if frame.kind != FrameKind::Message {
                let got = frame.kind as u8;
                return Err(Error::UnexpectedFrame { expected: "a message", got });
            }
            let bytes = json.len() + frame.payload.len();
            if bytes > REQUEST_BYTES_MAX {
                return Err(Error::TooLarge { what, bytes, max: REQUEST_BYTES_MAX });
            }
            json.extend_from_slice(&frame.payload);
            if frame.payload.len() < FRAME_BYTES_MAX {
                break;
            }
        }
        serde_json::from_slice(&json).map_err(|source| Error::Decode { what, source })
    }

    /// A whole frame if the buffer holds one, else how many bytes to read next.
    fn buffered_frame(&mut self) -> Result<Result<Frame, usize>, Error> {
        let Some((kind, length)) = self.buffer.first_chunk::<HEADER_BYTES>().map(header) else {
            return Ok(Err(HEADER_BYTES - self.buffer.len()));
        };
        let kind = FrameKind::try_from(kind)?;
        if length > FRAME_BYTES_MAX {
            return Err(Error::TooLarge { what: "frame", bytes: length, max: FRAME_BYTES_MAX });
        }
        let missing = (HEADER_BYTES + length).saturating_sub(self.buffer.len());
        if missing > 0 {
            return Ok(Err(missing));
        }
        self.buffer.advance(HEADER_BYTES);
        Ok(Ok(Frame { kind, payload: self.buffer.split_to(length).freeze() }))
    }
}

fn header(bytes: &[u8; HEADER_BYTES]) -> (u8, usize) {
    let [kind, a, b, c, d] = *bytes;
    (kind, u32::from_le_bytes([a, b, c, d]) as usize)
}

/// The writing half of a stream. Each call flushes. Not safe to cancel: a frame cut in the middle
/// leaves the stream useless.
#[derive(Debug)]
pub struct FrameWriter<W> {
    inner: W,
    // Header and payload leave in one write, so that they share one frame of the mux below.
    buffer: Vec<u8>,
}

impl<W: AsyncWrite + Unpin> FrameWriter<W> {
    /// Writes frames to `inner`.
    pub fn new(inner: W) -> Self {
        Self { inner, buffer: Vec::new() }
    }

    /// Writes one frame.
    ///
    /// # Errors
    /// `TooLarge` above [`FRAME_BYTES_MAX`], with nothing written.
    pub async fn frame(&mut self, kind: FrameKind, payload: &[u8]) -> Result<(), Error> {
        let bytes = payload.len();
        let length = match u32::try_from(bytes) {
            Ok(length) if bytes <= FRAME_BYTES_MAX => length,
            _ => return Err(Error::TooLarge { what: "frame", bytes, max: FRAME_BYTES_MAX }),
        };
        self.buffer.clear();
        self.buffer.push(kind as u8);
        self.buffer.extend_from_slice(&length.to_le_bytes());
        self.buffer.extend_from_slice(payload);
        self.inner.write_all(&self.buffer).await.map_err(Error::io("write a frame"))?;
        self.inner.flush().await.map_err(Error::io("write a frame"))
    }

    /// Writes `value` as JSON in one frame.
    pub async fn json<T: Serialize>(&mut self, kind: FrameKind, value: &T) -> Result<(), Error> {
        self.frame(kind, &encode(value)?).await
    }

    /// Writes one message, in as many frames as it takes.
    ///
    /// # Errors
    /// `TooLarge` above [`REQUEST_BYTES_MAX`], with nothing written.
    pub async fn message<T: Serialize>(&mut self, message: &T) -> Result<(), Error> {
        let json = encode(message)?;
        if json.len() > REQUEST_BYTES_MAX {
            let bytes = json.len();
            return Err(Error::TooLarge { what: "request", bytes, max: REQUEST_BYTES_MAX });
        }
        let mut rest = &json[..];
        loop {
            let (piece, after) = rest.split_at(rest.len().min(FRAME_BYTES_MAX));
            self.frame(FrameKind::Message, piece).await?;
            if piece.len() < FRAME_BYTES_MAX {
                return Ok(());
            }
            rest = after;
        }
    }

    /// Tells the peer that nothing more comes.
    pub async fn close(&mut self) -> Result<(), Error> {
        self.inner.shutdown().await.map_err(Error::io("close a stream"))
    }
}

fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(value).map_err(|source| Error::Decode { what: "our own message", source })
}

#[cfg(test)]
mod tests;
