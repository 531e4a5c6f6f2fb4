//! The listener: accepts connections and ends with them.
//!
//! # Order
//! When `stop` fires: no new connections; running requests may end for `grace`; then the rest is cut.
//! Streams that have no end of their own (status streams, attachments) are cut then too, and their
//! clients reconnect.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;
use tracing::{debug, warn};

use crate::limits::{CONNECTIONS_MAX, HEAD_BYTES_MAX, HEAD_READ_MAX};
use crate::stall::Impatient;

/// Serves `router` on `listener` until `stop`, then for at most `grace` longer.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    stop: CancellationToken,
    grace: Duration,
) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let connections = TaskTracker::new();
    let cut = CancellationToken::new();
    loop {
        let accepting = async {
            let slot = slots.clone().acquire_owned().await.expect("nobody closes the semaphore");
            listener.accept().await.map(|(stream, _)| (stream, slot))
        };
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = accepting => accepted,
        };
        match accepted {
            Ok((stream, slot)) => {
                let (router, stop, cut) = (router.clone(), stop.clone(), cut.clone());
                connections.spawn(async move {
                    tokio::select! {
                        () = connection(stream, router, stop) => {}
                        () = cut.cancelled() => {}
                    }
                    drop(slot);
                });
            }
            Err(error) => pause_after(&error).await,
        }
    }
    drop(listener);
    connections.close();
    if tokio::time::timeout(grace, connections.wait()).await.is_err() {
        debug!(connections = connections.len(), "cutting connections that did not end in time");
        cut.cancel();
        connections.wait().await;
    }
}

/// Errors of single connections pass; out of descriptors means: wait until some are free.
async fn pause_after(error: &io::Error) {
    let of_connection = matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
    );
    if !of_connection {
        warn!(%error, "accept a connection");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn connection(stream: TcpStream, router: Router, stop: CancellationToken) {
    // Small replies must not wait for more to come.
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%error, "set TCP_NODELAY");
    }
    let service = router.map_request(|request: http::Request<_>| request.map(Body::new));
    let service = TowerToHyperService::new(service.map_err(|never: Infallible| match never {}));
    let mut builder = auto::Builder::new(TokioExecutor::new()).http1_only();
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_READ_MAX)
        .max_buf_size(HEAD_BYTES_MAX);
    let serving =
        builder.serve_connection_with_upgrades(TokioIo::new(Impatient::new(stream)), service);
    let mut serving = std::pin::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = stop.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.as_mut().await
        }
    };
    if let Err(error) = ended {
        debug!(error, "connection ended");
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_of_its_reply_is_let_go() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        // Noticed when the reply is dropped, which holds whatever it needs.
        let held = Arc::new(());
        let alive = Arc::downgrade(&held);
        let endless = move || {
            let held = held.clone();
            async move {
                let piece = move |_: u32| {
                    _ = &held;
                    io::Result::Ok(vec![7; 64 << 10])
                };
                Body::from_stream(futures::stream::iter((0..u32::MAX).map(piece)))
            }
        };
        let router = Router::new().route("/", get(endless));
        let stop = CancellationToken::new();
        let serving = tokio::spawn(serve(listener, router, stop.clone(), Duration::ZERO));
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        // One for the handler itself, one for its reply.
        let replies = || alive.strong_count();
        while replies() < 2 {
            tokio::task::yield_now().await;
        }
        let begun = tokio::time::Instant::now();
        while replies() > 1 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert!(begun.elapsed() < 2 * crate::limits::WRITE_STALL_MAX, "it is still held");
        }
        drop(client);
        stop.cancel();
        serving.await.unwrap();
    }

    #[tokio::test]
    async fn who_is_still_sending_reads_why_it_was_refused_and_sends_on() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let refuses = || async { http::StatusCode::PAYLOAD_TOO_LARGE };
        let router = Router::new()
            .route("/", axum::routing::put(refuses))
            .layer(axum::middleware::from_fn(linger::drain));
        let stop = CancellationToken::new();
        let serving = tokio::spawn(serve(listener, router, stop.clone(), Duration::ZERO));
        let mut client = TcpStream::connect(address).await.unwrap();
        let length = 4 << 20;
        let head = format!("PUT / HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n");
        for _ in 0..3 {
            client.write_all(head.as_bytes()).await.unwrap();
            client.write_all(&vec![b'x'; length]).await.unwrap();
            let mut reply = [0; 16];
            client.read_exact(&mut reply).await.unwrap();
            assert_eq!(&reply, b"HTTP/1.1 413 Pay");
            let mut rest = Vec::new();
            while !rest.ends_with(b"\r\n\r\n") {
                rest.push(client.read_u8().await.unwrap());
            }
        }
        // One that announces more and sends nothing holds its connection for a while, not for ever.
        client.write_all(head.as_bytes()).await.unwrap();
        let mut rest = Vec::new();
        let ended = client.read_to_end(&mut rest);
        let ended = tokio::time::timeout(2 * linger::TIME_MAX, ended).await;
        ended.expect("it is let go").ok();
        drop(client);
        stop.cancel();
        serving.await.unwrap();
    }

    #[tokio::test]
    async fn stopping_ends_in_time_even_with_a_reply_that_never_ends() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let endless =
            || async { Body::from_stream(futures::stream::pending::<io::Result<String>>()) };
        let router = Router::new().route("/", get(endless));
        let stop = CancellationToken::new();
        let grace = Duration::from_millis(100);
        let serving = tokio::spawn(serve(listener, router, stop.clone(), grace));
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        assert!(client.read(&mut [0; 16]).await.unwrap() > 0, "the reply has begun");
        stop.cancel();
        tokio::time::timeout(Duration::from_secs(5), serving).await.unwrap().unwrap();
        assert!(TcpStream::connect(address).await.is_err(), "nobody listens any more");
    }
}
