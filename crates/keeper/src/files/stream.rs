//! Bytes on their way between asynchronous HTTP and blocking file systems.
//!
//! Both directions go through a channel of a few pieces, so that neither side runs ahead of the
//! other by more than [`PIECES_AHEAD`] pieces of at most [`PIECE_BYTES`].
//!
//! # Invariants
//! The end is said: an empty piece in the channel. A side that goes away without a word (a task that is
//! dropped as the process ends, a panic) cuts the body off; it never makes a shorter one.

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
    ended: bool,
}

impl BodyReader {
    /// Takes a body apart into pieces, in a task that ends with either side.
    #[must_use]
    pub fn spawn(mut body: ByteStream) -> Self {
        let (sender, pieces) = mpsc::channel(PIECES_AHEAD);
        tokio::spawn(async move {
            while let Some(piece) = body.next().await {
                let failed = piece.is_err();
                // Empty ones mean the end in the channel, and nothing in a body.
                let skip = piece.as_ref().is_ok_and(Bytes::is_empty);
                if !skip && (sender.send(piece).await.is_err() || failed) {
                    return;
                }
            }
            // A reader that is gone needs no end.
            sender.send(Ok(Bytes::new())).await.ok();
        });
        Self { pieces, current: Bytes::new(), ended: false }
    }

    /// The next piece; `None` at the end.
    ///
    /// # Errors
    /// The body was cut off.
    pub fn next_piece(&mut self) -> io::Result<Option<Bytes>> {
        if !self.current.is_empty() {
            return Ok(Some(std::mem::take(&mut self.current)));
        }
        if self.ended {
            return Ok(None);
        }
        let piece = self.pieces.blocking_recv().unwrap_or_else(|| Err(gone()))?;
        self.ended = piece.is_empty();
        Ok((!self.ended).then_some(piece))
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
        piece.is_empty() || self.0.blocking_send(Ok(piece)).is_ok()
    }

    /// Cuts the body off, so that the reader knows it is not whole.
    pub fn fail(&self, error: &(dyn std::error::Error + '_)) {
        // Nobody listening is as good as told.
        self.0.blocking_send(Err(io::Error::other(error.to_string()))).ok();
    }

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

/// A body that `produce` makes on a blocking thread. It is whole when `produce` returns, unless it
/// said that it failed.
pub fn produced(produce: impl FnOnce(&PieceSender) + Send + 'static) -> ByteStream {
    let (sender, pieces) = mpsc::channel(PIECES_AHEAD);
    tokio::task::spawn_blocking(move || {
        let sender = PieceSender(sender);
        produce(&sender);
        // Nobody listening needs no end.
        sender.0.blocking_send(Ok(Bytes::new())).ok();
    });
    futures::stream::unfold(Some(pieces), |pieces| async move {
        let mut pieces = pieces?;
        match pieces.recv().await.unwrap_or_else(|| Err(gone())) {
            Ok(piece) if piece.is_empty() => None,
            Ok(piece) => Some((Ok(piece), Some(pieces))),
            Err(error) => Some((Err(error), None)),
        }
    })
    .boxed()
}

/// The other side went away without a word.
fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the other side went away before the end")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(pieces: Vec<io::Result<&'static str>>) -> ByteStream {
        futures::stream::iter(pieces).map(|piece| piece.map(Bytes::from)).boxed()
    }

    async fn read(mut reader: BodyReader) -> io::Result<String> {
        let read = tokio::task::spawn_blocking(move || {
            let mut text = String::new();
            reader.read_to_string(&mut text).map(|_| text)
        });
        read.await.unwrap()
    }

    #[tokio::test]
    async fn empty_pieces_do_not_end_a_body() {
        let reader = BodyReader::spawn(body(vec![Ok("one "), Ok(""), Ok("two")]));
        assert_eq!(read(reader).await.unwrap(), "one two");
    }

    #[tokio::test]
    async fn a_body_that_is_cut_off_is_not_a_shorter_one() {
        let reader = BodyReader::spawn(body(vec![Ok("one"), Err(io::Error::other("lost"))]));
        assert_eq!(read(reader).await.unwrap_err().to_string(), "lost");
    }

    #[test]
    fn a_task_that_is_dropped_cuts_its_body_off() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let endless = body(vec![Ok("one")]).chain(futures::stream::pending()).boxed();
        let mut reader = runtime.block_on(async { BodyReader::spawn(endless) });
        runtime.block_on(tokio::task::yield_now());
        drop(runtime);
        let mut bytes = Vec::new();
        let error = reader.read_to_end(&mut bytes).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(bytes, b"one");
    }

    #[tokio::test]
    async fn what_is_produced_arrives_whole_or_with_an_error() {
        let text = |stream: ByteStream| stream.collect::<Vec<_>>();
        let whole = produced(|to| assert!(to.send("one".into()) && to.send(Bytes::new())));
        assert_eq!(text(whole).await.len(), 1);
        let failed = text(produced(|to| to.fail(&io::Error::other("lost")))).await;
        assert_eq!(failed[0].as_ref().unwrap_err().to_string(), "lost");
        let panicked = text(produced(|_| panic!("on purpose"))).await;
        assert_eq!(panicked[0].as_ref().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
