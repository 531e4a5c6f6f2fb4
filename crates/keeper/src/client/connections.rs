//! Connections to one keeper, kept for the next call.
//!
//! # Invariants
//! - A call is sent again only where nothing of it was sent: a kept connection may have been closed
//!   by the other side just now, and the call comes back untouched.
//! - A connection serves one call at a time; one whose last answer is not read to its end is not ready
//!   and is passed over.
//!
//! # Bounds
//! [`KEPT_MAX`] are kept, each for [`KEPT_FOR`] at most. Calls that come together open as many as they
//! are; who calls bounds those.

use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::UnixStream;
use tokio::time::Instant;

use crate::server::through_directory;
use crate::{Failure, Result};

/// Connections that are kept between calls.
const KEPT_MAX: usize = 64;
/// How long one is kept.
const KEPT_FOR: Duration = Duration::from_secs(10);
/// How long a keeper may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// What a call carries.
pub(super) type RequestBody = UnsyncBoxBody<Bytes, std::io::Error>;

type Sender = SendRequest<RequestBody>;

/// See the module. Clones share what is kept.
#[derive(Clone)]
pub(super) struct Connections {
    socket: Arc<Path>,
    kept: Arc<Mutex<Kept>>,
}

impl std::fmt::Debug for Connections {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connections").field("socket", &self.socket).finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Kept {
    senders: Vec<(Instant, Sender)>,
    /// A task closes those that nobody needs.
    watched: bool,
}

impl Connections {
    /// Connections to the keeper that listens on `socket`, whether one does or not.
    pub(super) fn to(socket: &Path) -> Self {
        Self { socket: socket.into(), kept: Arc::default() }
    }

    /// Sends a call and returns the head of its answer.
    ///
    /// # Errors
    /// `Unreachable` where there is no keeper; `InvalidArgument` where the call's own body broke off.
    pub(super) async fn send(
        &self,
        mut request: Request<RequestBody>,
    ) -> Result<Response<Incoming>> {
        while let Some(mut sender) = self.take() {
            match sender.try_send_request(request).await {
                Ok(response) => {
                    self.keep(sender, &response);
                    return Ok(response);
                }
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(of_request(&error.into_error())),
                },
            }
        }
        let mut sender = tokio::time::timeout(CONNECT_TIMEOUT, self.connect())
            .await
            .map_err(Failure::unreachable)??;
        let response = sender.send_request(request).await.map_err(|error| of_request(&error))?;
        self.keep(sender, &response);
        Ok(response)
    }

    /// One that is ready for a call. Those that are closed go.
    fn take(&self) -> Option<Sender> {
        let mut kept = self.kept.lock();
        kept.senders.retain(|(_, sender)| !sender.is_closed());
        let ready = kept.senders.iter().rposition(|(_, sender)| sender.is_ready())?;
        Some(kept.senders.swap_remove(ready).1)
    }

    fn keep(&self, sender: Sender, response: &Response<Incoming>) {
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return;
        }
        let mut kept = self.kept.lock();
        if kept.senders.len() >= KEPT_MAX {
            return;
        }
        kept.senders.push((Instant::now(), sender));
        if !std::mem::replace(&mut kept.watched, true) {
            tokio::spawn(watch(Arc::downgrade(&self.kept)));
        }
    }

    async fn connect(&self) -> Result<Sender> {
        // Connecting to a local socket does not wait for the other side.
        let stream = through_directory(&self.socket, |short| {
            let stream = std::os::unix::net::UnixStream::connect(short)?;
            stream.set_nonblocking(true)?;
            UnixStream::from_std(stream)
        })
        .map_err(Failure::unreachable)?;
        let (sender, connection) =
            handshake(TokioIo::new(stream)).await.map_err(Failure::unreachable)?;
        // Ends with the connection: when its sender is gone and the last answer is read or dropped.
        tokio::spawn(connection.with_upgrades());
        Ok(sender)
    }
}

/// Closes connections that nobody needed for a while, until there are none.
async fn watch(kept: Weak<Mutex<Kept>>) {
    loop {
        tokio::time::sleep(KEPT_FOR).await;
        let Some(kept) = kept.upgrade() else { return };
        let mut kept = kept.lock();
        kept.senders.retain(|(since, sender)| !sender.is_closed() && since.elapsed() < KEPT_FOR);
        if kept.senders.is_empty() {
            kept.watched = false;
            return;
        }
    }
}

/// A body that its sender breaks off is not the keeper's fault.
fn of_request(error: &hyper::Error) -> Failure {
    if !error.is_user() {
        return Failure::unreachable(error);
    }
    let why = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    Failure::new(
        base::ErrorKind::InvalidArgument,
        format!("the body was cut off, nothing was changed; send it again: {why}"),
    )
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixListener;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    use http_body_util::BodyExt;

    use super::*;

    /// Answers each connection's first `each` requests and closes it then; how many came.
    fn server(socket: &Path, each: usize) -> Arc<AtomicUsize> {
        let listener = UnixListener::bind(socket).unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = connections.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                count.fetch_add(1, Ordering::SeqCst);
                thread::spawn(move || {
                    for _ in 0..each {
                        let mut head = Vec::new();
                        while !head.ends_with(b"\r\n\r\n") {
                            let mut byte = [0];
                            if stream.read(&mut byte).unwrap_or(0) == 0 {
                                return;
                            }
                            head.push(byte[0]);
                        }
                        stream
                            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                            .unwrap();
                    }
                });
            }
        });
        connections
    }

    async fn call(connections: &Connections) -> Result<Bytes> {
        let request = Request::get("/").header("host", "keeper").body(super::super::empty());
        let response = connections.send(request.unwrap()).await?;
        Ok(response.into_body().collect().await.map_err(Failure::unreachable)?.to_bytes())
    }

    fn scene(each: usize) -> (tempfile::TempDir, Connections, Arc<AtomicUsize>) {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let count = server(&socket, each);
        (dir, Connections::to(&socket), count)
    }

    async fn settle(connections: &Connections) {
        for _ in 0..200 {
            let ready = |(_, sender): &(Instant, Sender)| sender.is_ready() || sender.is_closed();
            if connections.kept.lock().senders.iter().all(ready) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn calls_one_after_the_other_share_a_connection() {
        let (_dir, connections, count) = scene(usize::MAX);
        for _ in 0..20 {
            assert_eq!(call(&connections).await.unwrap(), "ok");
            settle(&connections).await;
        }
        assert_eq!(count.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_connection_that_was_closed_costs_no_call() {
        let (_dir, connections, count) = scene(1);
        for _ in 0..20 {
            assert_eq!(call(&connections).await.unwrap(), "ok");
            // The other side closes it about now; whether that is seen yet or not must not matter.
            settle(&connections).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(count.load(Ordering::SeqCst), 20);
        assert!(connections.kept.lock().senders.len() <= 1);
    }

    #[tokio::test]
    async fn an_answer_that_is_not_read_blocks_nobody() {
        let (_dir, connections, count) = scene(usize::MAX);
        let request = Request::get("/").header("host", "keeper").body(super::super::empty());
        let unread = connections.send(request.unwrap()).await.unwrap();
        assert_eq!(call(&connections).await.unwrap(), "ok");
        drop(unread);
        assert_eq!(call(&connections).await.unwrap(), "ok");
        assert!(count.load(Ordering::SeqCst) <= 3);
    }

    #[tokio::test]
    async fn what_nobody_needs_is_closed() {
        let (_dir, connections, _) = scene(usize::MAX);
        let calls: Vec<_> = (0..100).map(|_| call(&connections)).collect();
        for answer in futures::future::join_all(calls).await {
            assert_eq!(answer.unwrap(), "ok");
        }
        assert!((1..=KEPT_MAX).contains(&connections.kept.lock().senders.len()));
        settle(&connections).await;
        tokio::time::pause();
        tokio::time::advance(2 * KEPT_FOR).await;
        tokio::time::sleep(KEPT_FOR).await;
        let kept = connections.kept.lock();
        assert!(kept.senders.is_empty() && !kept.watched);
    }

    #[tokio::test]
    async fn without_a_keeper_a_call_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let connections = Connections::to(&dir.path().join("none"));
        assert_eq!(call(&connections).await.unwrap_err().kind, base::ErrorKind::Unreachable);
    }
}
