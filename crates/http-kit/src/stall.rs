//! A connection whose other side must keep reading.
//!
//! A client that asks for a large file and then takes nothing would hold what the reply needs for as
//! long as it likes: an open body, a place among the connections, a machine that is kept awake. Here its
//! time is up once nothing could be written for [`WRITE_STALL_MAX`].
//!
//! # Not here
//! Clients that send slowly: [`limits`](crate::limits) has their bounds, `body` and `serve` keep them.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use crate::limits::WRITE_STALL_MAX;

/// Fails writes with `TimedOut` where the other side takes nothing for too long. Every byte that it
/// takes starts the time anew.
#[derive(Debug)]
pub(crate) struct Impatient<S> {
    stream: S,
    patience: Duration,
    /// Runs while a write waits.
    waiting: Option<Pin<Box<Sleep>>>,
}

impl<S> Impatient<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self { stream, patience: WRITE_STALL_MAX, waiting: None }
    }

    /// `done`, or an error where it has been pending for too long.
    fn timed<T>(&mut self, done: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if done.is_ready() {
            self.waiting = None;
            return done;
        }
        let patience = self.patience;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(sleep(patience)));
        ready!(waiting.as_mut().poll(cx));
        let why = "the client does not read what is sent to it";
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, why)))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Impatient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Impatient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.timed(done, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.stream).poll_write_vectored(cx, pieces);
        self.timed(done, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let done = Pin::new(&mut self.stream).poll_flush(cx);
        // Nothing to flush is no sign of life: only a write that waits is timed.
        if done.is_ready() { done } else { self.timed(done, cx) }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio::time::{Instant, sleep};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_reads_nothing_loses_the_connection() {
        let (ours, mut theirs) = duplex(16);
        let mut ours = Impatient::new(ours);
        let begun = Instant::now();
        let error = ours.write_all(&[7; 64]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(begun.elapsed(), WRITE_STALL_MAX);
        assert_eq!(theirs.read(&mut [0; 64]).await.unwrap(), 16, "what was sent before stays sent");
    }

    #[tokio::test(start_paused = true)]
    async fn who_reads_slowly_gets_everything() {
        let (ours, mut theirs) = duplex(16);
        let reading = tokio::spawn(async move {
            let mut got = 0;
            while got < 160 {
                sleep(WRITE_STALL_MAX - Duration::from_secs(1)).await;
                got += theirs.read(&mut [0; 16]).await.unwrap();
            }
            got
        });
        Impatient::new(ours).write_all(&[7; 160]).await.unwrap();
        assert_eq!(reading.await.unwrap(), 160);
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_for_something_to_send_is_not_timed() {
        let (ours, mut theirs) = duplex(16);
        let mut ours = Impatient::new(ours);
        for _ in 0..3 {
            sleep(10 * WRITE_STALL_MAX).await;
            ours.write_all(&[7; 16]).await.unwrap();
            ours.flush().await.unwrap();
            assert_eq!(theirs.read(&mut [0; 16]).await.unwrap(), 16);
        }
    }
}
