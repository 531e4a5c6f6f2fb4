//! Replays of mutating calls.

use std::sync::Arc;

use crate::control::Inner;
use crate::{Error, Result};

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
        /// Hash of the first request, short hex.
        expected: String,
        /// Hash of this one, short hex.
        provided: String,
    },
}

/// The right to do a request under its key. Dropped without [`finish`](Self::finish), the key is
/// free again.
#[derive(Debug)]
pub struct Guard {
    _inner: Arc<Inner>,
}

impl Guard {
    /// Keeps the reply for replays. Replies that may change when tried again (5xx, 429) should be
    /// dropped instead.
    pub async fn finish(self, reply: StoredReply) -> Result<()> {
        let _ = reply;
        Err(Error::internal("not written yet"))
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
    pub async fn begin(&self, key: &str, scope: &str, request_hash: &str) -> Result<Begin> {
        let _ = (key, scope, request_hash, &self.inner);
        Err(Error::internal("not written yet"))
    }
}
