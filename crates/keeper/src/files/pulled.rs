//! Bodies that are read piece by piece, each when the one before was taken.
//!
//! Blocking work happens on a blocking thread and only while a piece is being read: a client that takes
//! nothing holds no thread. There are few of those, all calls of a process share them, and clients that
//! stand still are many.
//!
//! # Bounds
//! One piece waits while the next one is read: at most two in memory, however slow the client.
//!
//! # Not here
//! Bodies on their way in ([`stream`](super::stream)).

use std::io;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use tokio::task::{JoinHandle, spawn_blocking};
use vfs::tar::Bundle;

use super::LetGo;
use super::stream::ByteStream;

/// How much is read at once, in bytes.
pub(super) const READ_BYTES: usize = 256 << 10;

type Next = Box<dyn FnMut() -> io::Result<Option<Bytes>> + Send>;

/// A source on its way to a blocking thread and back.
fn read(source: LetGo<Next>) -> JoinHandle<(io::Result<Option<Bytes>>, LetGo<Next>)> {
    spawn_blocking(move || {
        let mut next = source.take();
        let piece = next();
        (piece, LetGo::new(next))
    })
}

/// A body out of what `next` returns, up to `None` or an error, which cuts it off. `next` may block;
/// its pieces are not empty.
pub(super) fn pulled(
    next: impl FnMut() -> io::Result<Option<Bytes>> + Send + 'static,
) -> ByteStream {
    let first = read(LetGo::new(Box::new(next)));
    futures::stream::unfold(Some(first), |reading| async move {
        match reading?.await {
            Ok((Ok(Some(piece)), source)) => Some((Ok(piece), Some(read(source)))),
            Ok((Ok(None), _)) => None,
            Ok((Err(error), _)) => Some((Err(error), None)),
            Err(error) => Some((Err(io::Error::other(error)), None)),
        }
    })
    .boxed()
}

/// The next piece of a tar stream; the small pieces of headers are put together.
pub(super) fn next_of(bundle: &mut Bundle<'_>) -> io::Result<Option<Bytes>> {
    let mut out = BytesMut::new();
    while out.len() < READ_BYTES {
        match bundle.next_piece().map_err(|error| io::Error::other(error.to_string()))? {
            Some(piece) => out.extend_from_slice(&piece),
            None => break,
        }
    }
    Ok((!out.is_empty()).then(|| out.freeze()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    /// A body of `pieces` pieces, and how many of them were read.
    fn counted(pieces: usize) -> (ByteStream, Arc<AtomicUsize>) {
        let read = Arc::new(AtomicUsize::new(0));
        let count = read.clone();
        let body = pulled(move || {
            let at = count.fetch_add(1, Ordering::SeqCst);
            Ok((at < pieces).then(|| Bytes::from_static(b"x")))
        });
        (body, read)
    }

    #[test]
    fn bodies_that_nobody_takes_hold_no_threads() {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_all().max_blocking_threads(2).build().unwrap();
        runtime.block_on(async {
            let mut stalled: Vec<_> = (0..20).map(|_| counted(1_000)).collect();
            for (body, _) in &mut stalled {
                assert!(body.next().await.is_some());
            }
            let other = tokio::time::timeout(Duration::from_secs(5), spawn_blocking(|| 7)).await;
            assert_eq!(other.expect("a thread is free").unwrap(), 7);
            assert!(stalled.iter().all(|(_, read)| read.load(Ordering::SeqCst) <= 2));
        });
    }

    #[tokio::test]
    async fn a_body_is_whole_or_ends_with_an_error() {
        assert_eq!(counted(5).0.count().await, 5);
        let mut left = 2;
        let failing = pulled(move || {
            left -= 1;
            if left == 0 { Err(io::Error::other("lost")) } else { Ok(Some(Bytes::from("one"))) }
        });
        let seen: Vec<_> = failing.collect().await;
        assert_eq!(seen.len(), 2);
        assert_eq!(seen[1].as_ref().unwrap_err().to_string(), "lost");
        let panicked: Vec<_> = pulled(|| panic!("on purpose")).collect().await;
        assert!(panicked[0].is_err());
    }
}
