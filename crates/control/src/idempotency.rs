//! Replays of mutating calls: the same key and the same request give the same reply.
//!
//! # Invariants
//! At most one request a key is being worked on. A reply is kept for [`IDEMPOTENCY_AGE_MAX`], and the
//! newest [`IDEMPOTENCY_ENTRIES_MAX`] of them.
//!
//! # Crash
//! Keys in flight are in memory: a request that was cut off by a crash may be done again. What it had
//! created by then is found by its name.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use base::Timestamp;
use catalog::KeptReply;
use parking_lot::Mutex;

use crate::control::Inner;
use crate::limits::{
    IDEMPOTENCY_AGE_MAX, IDEMPOTENCY_BODY_BYTES_MAX, IDEMPOTENCY_ENTRIES_MAX,
    IDEMPOTENCY_KEY_LENGTH_MAX,
};
use crate::{Error, Result};

/// How often old replies are thrown away.
const EXPIRE_EVERY: Duration = Duration::from_secs(600);

/// Characters of a request's digest that a caller is told.
const HASH_SHOWN: usize = 16;

/// Keys being worked on, with the digest of the request.
#[derive(Debug, Default)]
pub(crate) struct InFlight {
    keys: Mutex<HashMap<(String, String), String>>,
}

/// A reply as it was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredReply {
    /// HTTP status.
    pub status: u16,
    /// Headers that matter, such as `ETag`.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

/// What a key means right now.
#[derive(Debug)]
pub enum Begin {
    /// New: do it, then [`Guard::finish`].
    Fresh(Guard),
    /// Done before: send this again.
    Replay(StoredReply),
    /// The first request is still being worked on.
    InFlight,
    /// The key was used for another request.
    Mismatch {
        /// Digest of the first request, short hex.
        expected: String,
        /// Digest of this one, short hex.
        provided: String,
    },
}

/// The right to do a request under its key. Dropped without [`finish`](Self::finish), the key is
/// free again.
#[derive(Debug)]
pub struct Guard {
    inner: Arc<Inner>,
    slot: (String, String),
    request_hash: String,
}

impl Guard {
    /// Keeps the reply for replays. Replies that may change when tried again (5xx, 429) should be
    /// dropped instead; ones above [`IDEMPOTENCY_BODY_BYTES_MAX`] are not kept.
    ///
    /// # Errors
    /// Those of the catalog.
    pub async fn finish(self, reply: StoredReply) -> Result<()> {
        if reply.body.len() > IDEMPOTENCY_BODY_BYTES_MAX {
            return Ok(());
        }
        let kept = KeptReply {
            request_hash: self.request_hash.clone(),
            status: reply.status,
            headers: reply.headers,
            body: reply.body,
        };
        let (scope, key) = self.slot.clone();
        let now = self.inner.parts.clock.now();
        self.inner.db(move |catalog| catalog.keep_reply(&scope, &key, &kept, now)).await
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.inner.in_flight.keys.lock().remove(&self.slot);
    }
}

/// Replays of mutating calls.
#[derive(Debug, Clone)]
pub struct Idempotency {
    pub(crate) inner: Arc<Inner>,
}

impl Idempotency {
    /// Looks a key up. `scope` separates keys of different callers and routes; `request_hash` is a
    /// digest of method, path and body, in hex.
    ///
    /// # Errors
    /// `InvalidArgument` for an empty or over-long key; those of the catalog.
    pub async fn begin(&self, key: &str, scope: &str, request_hash: &str) -> Result<Begin> {
        if key.is_empty() || key.len() > IDEMPOTENCY_KEY_LENGTH_MAX {
            return Err(Error::invalid(format!(
                "an idempotency key has 1 to {IDEMPOTENCY_KEY_LENGTH_MAX} characters"
            )));
        }
        let slot = (scope.to_owned(), key.to_owned());
        match self.inner.in_flight.keys.lock().entry(slot.clone()) {
            Entry::Occupied(first) if first.get() == request_hash => return Ok(Begin::InFlight),
            Entry::Occupied(first) => return Ok(mismatch(first.get(), request_hash)),
            Entry::Vacant(free) => free.insert(request_hash.to_owned()),
        };
        // From here on the guard frees the key, whatever happens.
        let guard =
            Guard { inner: self.inner.clone(), slot, request_hash: request_hash.to_owned() };
        let not_before = self.inner.oldest_reply();
        let (scope, key) = guard.slot.clone();
        let kept =
            self.inner.db(move |catalog| catalog.kept_reply(&scope, &key, not_before)).await?;
        Ok(match kept {
            None => Begin::Fresh(guard),
            Some(kept) if kept.request_hash == request_hash => Begin::Replay(StoredReply {
                status: kept.status,
                headers: kept.headers,
                body: kept.body,
            }),
            Some(kept) => mismatch(&kept.request_hash, request_hash),
        })
    }
}

impl Inner {
    /// Replies kept before it count no more.
    fn oldest_reply(&self) -> Timestamp {
        let now = self.parts.clock.now();
        now.checked_sub(IDEMPOTENCY_AGE_MAX).unwrap_or(Timestamp::MIN)
    }
}

fn mismatch(expected: &str, provided: &str) -> Begin {
    let short = |hash: &str| hash.chars().take(HASH_SHOWN).collect();
    Begin::Mismatch { expected: short(expected), provided: short(provided) }
}

/// Throws old replies away until the server closes.
pub(crate) async fn run(inner: Arc<Inner>) {
    loop {
        let before = inner.oldest_reply();
        let expired =
            inner.db(move |catalog| catalog.expire_replies(before, IDEMPOTENCY_ENTRIES_MAX)).await;
        match expired {
            Ok(0) => (),
            Ok(count) => tracing::debug!(count, "threw old replies away"),
            Err(error) => tracing::warn!(%error, "throw old replies away"),
        }
        tokio::select! {
            () = inner.shutdown.cancelled() => return,
            () = tokio::time::sleep(EXPIRE_EVERY) => (),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fakes::World;

    fn reply() -> StoredReply {
        StoredReply {
            status: 202,
            headers: vec![("etag".to_owned(), "\"1\"".to_owned())],
            body: b"{}".to_vec(),
        }
    }

    #[tokio::test]
    async fn the_same_request_gets_the_same_reply_until_it_is_a_day_old() {
        let world = World::new();
        let control = world.open().await;
        let keys = control.idempotency();
        let Begin::Fresh(guard) = keys.begin("k", "create", "aa").await.unwrap() else { panic!() };
        assert!(matches!(keys.begin("k", "create", "aa").await.unwrap(), Begin::InFlight));
        guard.finish(reply()).await.unwrap();
        let again = keys.begin("k", "create", "aa").await.unwrap();
        assert!(matches!(again, Begin::Replay(stored) if stored == reply()));
        // Another scope is another key.
        assert!(matches!(keys.begin("k", "wake", "aa").await.unwrap(), Begin::Fresh(_)));
        world.clock.advance(IDEMPOTENCY_AGE_MAX + Duration::from_secs(1));
        assert!(matches!(keys.begin("k", "create", "aa").await.unwrap(), Begin::Fresh(_)));
    }

    #[tokio::test]
    async fn a_key_used_for_another_request_is_refused() {
        let world = World::new();
        let control = world.open().await;
        let keys = control.idempotency();
        let long = "a".repeat(64);
        let Begin::Fresh(guard) = keys.begin("k", "s", &long).await.unwrap() else { panic!() };
        let while_in_flight = keys.begin("k", "s", "bb").await.unwrap();
        assert!(matches!(while_in_flight, Begin::Mismatch { .. }));
        guard.finish(reply()).await.unwrap();
        let after = keys.begin("k", "s", "bb").await.unwrap();
        let Begin::Mismatch { expected, provided } = after else { panic!("{after:?}") };
        assert_eq!((expected.len(), provided.as_str()), (16, "bb"));
    }

    #[tokio::test]
    async fn a_request_that_was_given_up_frees_its_key() {
        let world = World::new();
        let control = world.open().await;
        let keys = control.idempotency();
        drop(keys.begin("k", "s", "aa").await.unwrap());
        assert!(matches!(keys.begin("k", "s", "bb").await.unwrap(), Begin::Fresh(_)));
        assert!(keys.begin("", "s", "aa").await.is_err());
        assert!(keys.begin(&"k".repeat(256), "s", "aa").await.is_err());
    }
}
