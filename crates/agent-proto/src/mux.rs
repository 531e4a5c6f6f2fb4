//! Many streams over one: yamux, with limits that a hostile peer cannot get around.
//!
//! # Who does what
//! [`HostMux`] opens streams, [`AgentMux`] accepts them; a host to which the agent opens a stream
//! ends the session. One task per session drives the bytes; it runs on the tokio runtime that the
//! constructor is called on and ends when the last handle and the last stream are gone.
//!
//! # Bounds
//! The host opens at most [`STREAMS_MAX`] streams; the agent tolerates some more and refuses the
//! rest. 256 KiB of unread bytes for each (a reader that stops reading stops its writer, not the
//! other streams), frames of at most 1 MiB, and no more than so many of them unread (`unread`).
//!
//! # Failure
//! Bytes that are no yamux, an I/O error, the end of the stream below and even a panic in the
//! driver do the same: the session ends, every read on its streams returns end-of-file, every
//! write fails. So it does at the host's where the agent breaks the protocol in a smaller way: a stream
//! too many, a frame beyond its window, an answer that nobody asked for.

mod headers;
mod lower;
mod unread;

use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use futures::AsyncRead as FuturesRead;
use futures::AsyncWrite as FuturesWrite;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_util::compat::TokioAsyncReadCompatExt;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use yamux::{Config, Connection, ConnectionError, Mode};

use self::lower::Lower;
use self::unread::Unread;
use crate::limits::{CLOSE_TIMEOUT, SPLIT_BYTES, WINDOW_BYTES, YAMUX_STREAMS_MAX};
use crate::{Error, STREAMS_MAX};

type Opened = Result<yamux::Stream, ConnectionError>;
type OpenSender = mpsc::Sender<oneshot::Sender<Opened>>;

/// What handles and streams share with the driver.
#[derive(Debug, Default)]
struct Session {
    /// Cancelled once the driver has ended.
    ended: CancellationToken,
    /// Cancelled to have the host's driver end.
    closing: CancellationToken,
    reason: OnceLock<String>,
    /// On the host's side.
    unread: Arc<Unread>,
}

impl Session {
    fn error(&self) -> Error {
        let reason = self.reason.get().map_or("the driver failed", String::as_str);
        Error::SessionEnded { reason: reason.to_owned() }
    }
}

/// The host's side of a session. Clones are handles to the same session.
#[derive(Debug, Clone)]
pub struct HostMux {
    session: Arc<Session>,
    open: OpenSender,
    /// One permit for each stream that is open.
    free: Arc<Semaphore>,
}

impl HostMux {
    /// Starts a session on a stream whose handshake is done.
    pub fn start<S>(stream: S) -> Self
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let session = Arc::new(Session::default());
        let (open, requests) = mpsc::channel(STREAMS_MAX);
        let lower = Lower::new(stream, Arc::clone(&session.unread));
        let connection = Connection::new(lower.compat(), config(), Mode::Client);
        let driver = HostDriver { connection, requests, waiting: None };
        let closing = session.closing.clone();
        spawn_driver(Arc::clone(&session), driver.run(closing));
        Self { session, open, free: Arc::new(Semaphore::new(STREAMS_MAX)) }
    }

    /// Opens a stream. The agent learns of it with the first byte that is written.
    ///
    /// # Errors
    /// `TooManyStreams`, `SessionEnded`.
    pub async fn open(&self) -> Result<MuxStream, Error> {
        let free = Arc::clone(&self.free).try_acquire_owned();
        let permit = free.map_err(|_| Error::TooManyStreams { max: STREAMS_MAX })?;
        let (answer, opened) = oneshot::channel();
        // A request that cannot be sent is dropped here, and with it the sender of the answer.
        drop(self.open.send(answer).await);
        if let Ok(Ok(stream)) = opened.await {
            let open = self.open.clone();
            return Ok(MuxStream::new(stream, &self.session, Some((open, permit))));
        }
        // yamux refuses a stream only where the session is over.
        Err(self.ended().await)
    }

    /// Returns once the session has ended, and why.
    pub async fn ended(&self) -> Error {
        self.session.ended.cancelled().await;
        self.session.error()
    }

    /// Says good-bye and ends the session with all of its streams. The agent then waits for the next
    /// handshake.
    pub async fn close(&self) {
        self.session.closing.cancel();
        self.session.ended.cancelled().await;
    }
}

/// The agent's side of a session.
#[derive(Debug)]
pub struct AgentMux {
    session: Arc<Session>,
    streams: mpsc::Receiver<yamux::Stream>,
}

impl AgentMux {
    /// Starts a session on a stream whose handshake is done.
    pub fn start<S>(stream: S) -> Self
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let session = Arc::new(Session::default());
        let (accepted, streams) = mpsc::channel(STREAMS_MAX);
        let connection = Connection::new(stream.compat(), config(), Mode::Server);
        spawn_driver(Arc::clone(&session), drive_agent(connection, accepted));
        Self { session, streams }
    }

    /// The next stream that the host has opened.
    ///
    /// # Errors
    /// `SessionEnded`; the streams that are still open have ended too.
    pub async fn accept(&mut self) -> Result<MuxStream, Error> {
        match self.streams.recv().await {
            Some(stream) => Ok(MuxStream::new(stream, &self.session, None)),
            None => {
                self.session.ended.cancelled().await;
                Err(self.session.error())
            }
        }
    }
}

/// One stream of a session. Dropping it without `shutdown` resets it.
#[derive(Debug)]
pub struct MuxStream {
    // In this order: what it still holds counts until it is gone.
    inner: yamux::Stream,
    counted: Counted,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Keeps the host's driver alive and this stream counted.
    _host: Option<(OpenSender, OwnedSemaphorePermit)>,
}

/// Takes a stream's unread frames out of the count when it goes.
#[derive(Debug)]
struct Counted {
    unread: Arc<Unread>,
    stream: u32,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.unread.closed(self.stream);
    }
}

impl MuxStream {
    fn new(
        inner: yamux::Stream,
        session: &Arc<Session>,
        host: Option<(OpenSender, OwnedSemaphorePermit)>,
    ) -> Self {
        let ended = Box::pin(session.ended.clone().cancelled_owned());
        let counted = Counted { unread: Arc::clone(&session.unread), stream: inner.id().val() };
        counted.unread.opened(counted.stream);
        Self { inner, counted, ended, _host: host }
    }
}

impl AsyncRead for MuxStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = match Pin::new(&mut self.inner).poll_read(context, into.initialize_unfilled()) {
            Poll::Ready(read) => read?,
            // yamux wakes nobody if its driver dies by a panic; we do.
            Poll::Pending => {
                ready!(self.ended.as_mut().poll(context));
                0
            }
        };
        into.advance(read);
        self.counted.unread.read(self.counted.stream, read);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for MuxStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(written) = Pin::new(&mut self.inner).poll_write(context, bytes) {
            return Poll::Ready(written);
        }
        ready!(self.ended.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Poll::Ready(flushed) = Pin::new(&mut self.inner).poll_flush(context) {
            return Poll::Ready(flushed);
        }
        ready!(self.ended.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Poll::Ready(closed) = Pin::new(&mut self.inner).poll_close(context) {
            return Poll::Ready(closed);
        }
        ready!(self.ended.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
    }
}

fn config() -> Config {
    let mut config = Config::default();
    // In this order: yamux asserts that the window has room for every stream.
    config
        .set_max_num_streams(YAMUX_STREAMS_MAX)
        .set_max_connection_receive_window(Some(WINDOW_BYTES))
        .set_split_send_size(SPLIT_BYTES);
    config
}

/// Runs `driver` as a task and marks the session ended whatever becomes of it.
fn spawn_driver(session: Arc<Session>, driver: impl Future<Output = String> + Send + 'static) {
    let ended = session.ended.clone().drop_guard();
    drop(tokio::spawn(async move {
        let reason = driver.await;
        // Only the driver sets it, once.
        session.reason.get_or_init(|| reason);
        drop(ended);
    }));
}

struct HostDriver<T> {
    connection: Connection<T>,
    requests: mpsc::Receiver<oneshot::Sender<Opened>>,
    /// A request that waits until the agent has acknowledged earlier streams.
    waiting: Option<oneshot::Sender<Opened>>,
}

enum HostStep {
    NoMoreHandles,
    Ended(String),
}

impl<T: FuturesRead + FuturesWrite + Unpin> HostDriver<T> {
    async fn run(mut self, closing: CancellationToken) -> String {
        let step = tokio::select! {
            step = std::future::poll_fn(|context| self.poll(context)) => step,
            () = closing.cancelled() => HostStep::NoMoreHandles,
        };
        match step {
            HostStep::Ended(reason) => reason,
            HostStep::NoMoreHandles => {
                let close = std::future::poll_fn(|context| self.connection.poll_close(context));
                match tokio::time::timeout(CLOSE_TIMEOUT, close).await {
                    Ok(_) => "this side closed it".to_owned(),
                    Err(_) => "this side closed it and the agent did not read on".to_owned(),
                }
            }
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<HostStep> {
        loop {
            if self.waiting.is_none() {
                match self.requests.poll_recv(context) {
                    Poll::Ready(Some(request)) => self.waiting = Some(request),
                    Poll::Ready(None) => return Poll::Ready(HostStep::NoMoreHandles),
                    Poll::Pending => {}
                }
            }
            if let Some(request) = self.waiting.take() {
                match self.connection.poll_new_outbound(context) {
                    Poll::Ready(opened) => {
                        // A caller that has gone away drops the stream, which resets it.
                        drop(request.send(opened));
                        continue;
                    }
                    Poll::Pending => self.waiting = Some(request),
                }
            }
            let reason = match ready!(self.connection.poll_next_inbound(context)) {
                None => "the other side closed it".to_owned(),
                Some(Ok(_)) => "the agent opened a stream, which it may not".to_owned(),
                Some(Err(error)) => error.to_string(),
            };
            return Poll::Ready(HostStep::Ended(reason));
        }
    }
}

async fn drive_agent<T>(
    mut connection: Connection<T>,
    accepted: mpsc::Sender<yamux::Stream>,
) -> String
where
    T: FuturesRead + FuturesWrite + Unpin,
{
    loop {
        let next = std::future::poll_fn(|context| connection.poll_next_inbound(context));
        let next = tokio::select! {
            next = next => next,
            () = accepted.closed() => return "this side closed it".to_owned(),
        };
        match next {
            None => return "the other side closed it".to_owned(),
            Some(Err(error)) => return error.to_string(),
            // Room for every stream there can be, so a full queue is one that nobody reads; a
            // stream that does not fit is reset.
            Some(Ok(stream)) => drop(accepted.try_send(stream)),
        }
    }
}

#[cfg(test)]
mod tests;
