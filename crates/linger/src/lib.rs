//! What a client still sends when its answer is there already.
//!
//! A request can be refused before its body was read: too large, a stale revision, no room. If the
//! connection were closed then, what is on its way would be answered by a reset, and a client that is still
//! sending would report that in place of the refusal. So the rest of a body that nobody wants is read
//! and thrown away, and the connection can be used again. [`drain`] is a layer for any server.
//!
//! # Invariants
//! - What is read so is bounded: [`BYTES_MAX`] and [`TIME_MAX`]; then the connection is closed.
//! - A body that was read to its end, or broke off, costs nothing.
//!
//! # Not here
//! Clients that ask first (`Expect: 100-continue`) and are refused before anybody read: what comes next on
//! their connection may be a body or a request, so it is closed.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use http::header::EXPECT;
use http_body_util::BodyExt as _;
use tokio::runtime::Handle;

/// What is read and thrown away of a body that was refused.
pub const BYTES_MAX: usize = 64 << 20;
/// The longest that such a rest is read.
pub const TIME_MAX: Duration = Duration::from_secs(5);

/// Has what the inner service leaves of a body read to its end.
pub async fn drain(request: Request, next: Next) -> Response {
    if request.body().is_end_stream() {
        return next.run(request).await;
    }
    let asked_for = !request.headers().contains_key(EXPECT);
    next.run(request.map(|body| Body::new(Unfinished { body: Some(body), asked_for }))).await
}

/// A body whose rest is thrown away when it is dropped.
struct Unfinished {
    /// `None` once it has ended or broken off.
    body: Option<Body>,
    /// The client sends it, or was told to.
    asked_for: bool,
}

impl HttpBody for Unfinished {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, axum::Error>>> {
        self.asked_for = true;
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(body).poll_frame(cx));
        if !matches!(frame, Some(Ok(_))) {
            self.body = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.as_ref().map_or(http_body::SizeHint::with_exact(0), HttpBody::size_hint)
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        let rest = self.body.take().filter(|body| self.asked_for && !body.is_end_stream());
        // Without a runtime there is no connection any more either.
        if let (Some(rest), Ok(runtime)) = (rest, Handle::try_current()) {
            runtime.spawn(tokio::time::timeout(TIME_MAX, throw_away(rest)));
        }
    }
}

async fn throw_away(mut body: Body) {
    let mut left = BYTES_MAX;
    while let Some(Ok(frame)) = body.frame().await {
        let taken = frame.data_ref().map_or(0, Bytes::len);
        let Some(rest) = left.checked_sub(taken) else { return };
        left = rest;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// A body of that many pieces that counts how many were taken; without an end it waits after them.
    fn counted(pieces: usize, ends: bool) -> (Body, Arc<AtomicUsize>) {
        let taken = Arc::new(AtomicUsize::new(0));
        let counter = taken.clone();
        let stream = futures::stream::unfold(counter, move |counter| async move {
            let before = counter.fetch_add(1, Ordering::Relaxed);
            if before == pieces {
                counter.fetch_sub(1, Ordering::Relaxed);
                if !ends {
                    std::future::pending::<()>().await;
                }
                return None;
            }
            Some((Ok::<_, std::io::Error>(Bytes::from_static(&[7; 1 << 20])), counter))
        });
        (Body::from_stream(stream), taken)
    }

    /// Drops the body unread and waits until nobody holds it any more.
    async fn dropped(body: Body, taken: Arc<AtomicUsize>) -> (usize, Duration) {
        let begun = tokio::time::Instant::now();
        drop(Unfinished { body: Some(body), asked_for: true });
        while Arc::strong_count(&taken) > 1 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        (taken.load(Ordering::Relaxed), begun.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn the_rest_is_read_to_its_end_and_no_further_than_the_bounds() {
        let (body, taken) = counted(3, true);
        assert_eq!(dropped(body, taken).await.0, 3);
        let (body, taken) = counted(1000, true);
        assert_eq!(dropped(body, taken).await.0, (BYTES_MAX >> 20) + 1);
        let (body, taken) = counted(3, false);
        let (read, time) = dropped(body, taken).await;
        assert!(read == 3 && (TIME_MAX..2 * TIME_MAX).contains(&time), "{read} {time:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_asks_first_and_was_not_told_to_send_is_not_read() {
        let (body, taken) = counted(3, true);
        drop(Unfinished { body: Some(body), asked_for: false });
        assert_eq!((Arc::strong_count(&taken), taken.load(Ordering::Relaxed)), (1, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_read_is_what_was_sent_and_the_rest_is_thrown_away() {
        let (body, taken) = counted(3, true);
        let mut body = Unfinished { body: Some(body), asked_for: false };
        let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(first.len(), 1 << 20);
        assert!(!body.is_end_stream());
        drop(body);
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert_eq!((taken.load(Ordering::Relaxed), Arc::strong_count(&taken)), (3, 1));
    }
}
