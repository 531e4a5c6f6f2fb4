//! The stream under a session of the host.
//!
//! A session says good-bye by itself (a GoAway). Shutting the stream down too would have the hypervisor
//! hang the guest's port up, and the agent would have to find out when a host is there again. The stream
//! ends with its owner, who may hold another handle to it.
//!
//! # Failure
//! What a session may not do ends it as an error of the stream.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::headers::{Headers, Passing};
use super::unread::Unread;

/// `S`, which a session does not shut down, and whose frames are looked at: pieces that come in are counted,
/// and where yamux refuses what came it has to end. By itself it would go on, and log an error for each
/// frame that a hostile agent sends.
#[derive(Debug)]
pub(super) struct Lower<S> {
    inner: S,
    incoming: Headers,
    outgoing: Headers,
    refused: bool,
    unread: Arc<Unread>,
}

impl<S> Lower<S> {
    pub(super) fn new(inner: S, unread: Arc<Unread>) -> Self {
        let (incoming, outgoing) = (Headers::default(), Headers::default());
        Self { inner, incoming, outgoing, refused: false, unread }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Lower<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.refused {
            return Poll::Ready(Err(broken("it broke the protocol")));
        }
        let before = into.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(context, into))?;
        let Self { incoming, unread, .. } = &mut *self;
        let may_pass = |passing| match passing {
            Passing::Data { stream, bytes } => unread.received(stream, bytes),
            Passing::Refusal | Passing::Other => true,
        };
        if incoming.follow(&into.filled()[before..], may_pass) {
            return Poll::Ready(Ok(()));
        }
        Poll::Ready(Err(broken("too many small pieces lie unread")))
    }
}

fn broken(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Lower<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.inner).poll_write(context, bytes))?;
        let goes_on = |passing| passing != Passing::Refusal;
        // The refusal goes out; nothing more is read.
        if !self.outgoing.follow(bytes.get(..written).unwrap_or_default(), goes_on) {
            self.refused = true;
        }
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(context)
    }
}
