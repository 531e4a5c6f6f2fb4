//! Connections, and the faults that happen on them.
//!
//! # Order of a request
//! Counted; delayed; failed, if its fault comes before the work; served; the reply withheld, if its
//! fault comes after.

use std::io;

use http::{Request, Response, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use s3s::service::S3Service;
use s3s::{Body, S3Error, S3ErrorCode};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tracing::debug;

use super::control::{Control, Fault, Outage};
use super::traffic::Verb;

/// Takes connections for as long as it is polled.
pub(super) async fn accept(listener: TcpListener, service: S3Service, control: Control) {
    loop {
        match listener.accept().await {
            Ok((socket, _)) => {
                tokio::spawn(connection(socket, service.clone(), control.clone()));
            }
            Err(error) => {
                // Out of descriptors, most likely: the others need a moment to end.
                debug!(%error, "accept");
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        }
    }
}

async fn connection(socket: TcpStream, service: S3Service, control: Control) {
    let mut outages = control.outages();
    let handler = service_fn(|request| handle(request, &service, &control));
    socket.set_nodelay(true).ok();
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(socket), handler);
    tokio::select! {
        served = serving => if let Err(error) = served {
            debug!(%error, "connection ended");
        },
        _ = down(&mut outages) => {}
    }
}

/// Returns when the server is down.
async fn down(outages: &mut watch::Receiver<Outage>) {
    // The sender outlives every connection; were it gone, so would be the server.
    outages.wait_for(|outage| *outage == Outage::Down).await.ok();
}

/// An error ends the connection without a reply.
async fn handle(
    request: Request<Incoming>,
    service: &S3Service,
    control: &Control,
) -> io::Result<Response<Body>> {
    let verb = Verb::of(request.method(), request.uri(), request.headers());
    if *control.outages().borrow() == Outage::Silent {
        std::future::pending::<()>().await;
    }
    let (latency, fault) = control.admit(verb, length(request.headers()));
    if !latency.is_zero() {
        tokio::time::sleep(latency).await;
    }
    if let Some(early) = fault.and_then(early_reply) {
        return early;
    }
    let response = service.call(request.map(Body::from)).await.map_err(io::Error::other)?;
    if fault == Some(Fault::LoseReply) {
        return Err(io::Error::other("reply lost on purpose"));
    }
    if verb != Verb::Head {
        control.answered(verb, length(response.headers()));
    }
    Ok(response)
}

/// What a fault answers before any work, if it does.
fn early_reply(fault: Fault) -> Option<io::Result<Response<Body>>> {
    let code = match fault {
        Fault::LoseReply => return None,
        Fault::LoseRequest => return Some(Err(io::Error::other("request lost on purpose"))),
        Fault::InternalError => S3ErrorCode::InternalError,
        Fault::SlowDown => S3ErrorCode::SlowDown,
        Fault::Conflict => S3ErrorCode::ConditionalRequestConflict,
        Fault::AccessDenied => S3ErrorCode::AccessDenied,
    };
    let response = S3Error::new(code).to_http_response();
    Some(response.map(|response| response.map(Body::from)).map_err(io::Error::other))
}

fn length(headers: &http::HeaderMap) -> u64 {
    let value = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    value.and_then(|value| value.parse().ok()).unwrap_or_default()
}
