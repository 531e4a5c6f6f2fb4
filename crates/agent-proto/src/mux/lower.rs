//! The stream under a session of the host.
//!
//! A session says good-bye by itself (a GoAway). Shutting the stream down too would have the hypervisor
//! hang the guest's port up, and the agent would have to find out when a host is there again. The stream
//! ends with its owner, who may hold another handle to it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::unread::{Headers, Unread};

/// `S`, which a session does not shut down, and whose pieces are counted.
#[derive(Debug)]
pub(super) struct Lower<S> {
    inner: S,
    headers: Headers,
    unread: Arc<Unread>,
}

impl<S> Lower<S> {
    pub(super) fn new(inner: S, unread: Arc<Unread>) -> Self {
        Self { inner, headers: Headers::default(), unread }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Lower<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(context, into))?;
        let Self { headers, unread, .. } = &mut *self;
        if headers.follow(&into.filled()[before..], unread) {
            return Poll::Ready(Ok(()));
        }
        let why = "too many small pieces lie unread";
        Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, why)))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Lower<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(context)
    }
}
