//! Bytes on their way between asynchronous HTTP and blocking file systems.
//!
//! Both directions go through a channel of a few pieces, so that neither side runs ahead of the
//! other by more than [`PIECES_AHEAD`] pieces of at most [`PIECE_BYTES`].

use std::io::{self, Read};
use std::pin::Pin;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use tokio::sync::mpsc;
use vfs::tar::Bundle;

/// A body. An error in it means that it was cut off.
pub type ByteStream = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// Largest piece that is written or read at once, in bytes.
pub const PIECE_BYTES: usize = 1 << 20;
/// How many pieces wait between the two sides.
pub const PIECES_AHEAD: usize = 4;

/// A stream of one piece.
#[must_use]
pub fn once(bytes: Bytes) -> ByteStream {
    futures::stream::once(async move { Ok(bytes) }).boxed()
}

/// The blocking end of a body: reads it from within blocking code.
#[derive(Debug)]
pub struct BodyReader {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    current: Bytes,
}

impl BodyReader {
    /// Takes a body apart into pieces, in a task that ends with either side.
    #[must_use]
    pub fn spawn(mut body: ByteStream) -> Self {
        let (sender, pieces) = mpsc::channel(PIECES_AHEAD);
        tokio::spawn(async move {
            while let Some(piece) = body.next().await {
                let failed = piece.is_err();
                if sender.send(piece).await.is_err() || failed {
                    break;
                }
            }
        });
        Self { pieces, current: Bytes::new() }
    }

    /// The next piece; `None` at the end.
    ///
    /// # Errors
    /// The body was cut off.
    pub fn next_piece(&mut self) -> io::Result<Option<Bytes>> {
        if !self.current.is_empty() {
            return Ok(Some(std::mem::take(&mut self.current)));
        }
        loop {
            match self.pieces.blocking_recv() {
                None => return Ok(None),
                Some(Err(error)) => return Err(error),
                Some(Ok(piece)) if piece.is_empty() => {}
                Some(Ok(piece)) => return Ok(Some(piece)),
            }
        }
    }
}

impl Read for BodyReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let Some(mut piece) = self.next_piece()? else { return Ok(0) };
        let part = piece.split_to(piece.len().min(into.len()));
        into[..part.len()].copy_from_slice(&part);
        self.current = piece;
        Ok(part.len())
    }
}

/// The sending end of a body that blocking code makes.
#[derive(Debug)]
pub struct PieceSender(mpsc::Sender<io::Result<Bytes>>);

impl PieceSender {
    /// Hands a piece on; false where nobody listens any more.
    #[must_use]
    pub fn send(&self, piece: Bytes) -> bool {
        self.0.blocking_send(Ok(piece)).is_ok()
    }

    /// Cuts the body off, so that the reader knows it is not whole.
    pub fn fail(&self, error: &(dyn std::error::Error + '_)) {
        // Nobody listening is as good as told.
        self.0.blocking_send(Err(io::Error::other(error.to_string()))).ok();
    }
}

impl PieceSender {
    /// Hands on a whole tar stream.
    pub fn send_bundle(&self, mut bundle: Bundle<'_>) {
        loop {
            match bundle.next_piece() {
                Ok(Some(piece)) => {
                    if !self.send(piece) {
                        return;
                    }
                }
                Ok(None) => return,
                Err(error) => return self.fail(&error),
            }
        }
    }
}

/// A body that `produce` makes on a blocking thread.
pub fn produced(produce: impl FnOnce(PieceSender) + Send + 'static) -> ByteStream {
    let (sender, pieces) = mpsc::channel(PIECES_AHEAD);
    tokio::task::spawn_blocking(move || produce(PieceSender(sender)));
    tokio_stream::wrappers::ReceiverStream::new(pieces).boxed()
}
