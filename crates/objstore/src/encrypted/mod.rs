//! A store whose objects are encrypted before they get there.
//!
//! # Order
//! [`unlock`] compares the keys at hand with the store's mark and gives the store to use. Nothing
//! above it knows whether that is an [`Encrypted`] one: keys, ranges and sizes mean the same.
//!
//! # Invariants
//! - What the store holds below is frames (`frame`), but for the mark; names stay as they are.
//! - A read costs no request more than without encryption: a range of plain bytes is a range of
//!   frames. Two exceptions: a range that begins after the object's end, and a create that finds
//!   something there. Both are rare and are settled by looking.
//!
//! # Failure
//! Bytes that were changed, cut off, extended, put in another order or moved to another key are
//! [`Error::Corrupt`]. A key that is not at hand is [`Error::KeyMissing`] and names its id.
//!
//! # Not here
//! Hiding names, sizes and times of objects; telling that an object was replaced by an earlier one
//! of its name. Reading keys from files or commands (the binary).

mod frame;
mod keys;
mod mark;
mod range;

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use base::Entropy;
use bytes::Bytes;

use crate::limits::{CREATE_SETTLES_MAX, CRYPT_INLINE_BYTES_MAX};
use crate::{Error, ObjectMeta, ObjectStore, Result};

pub use keys::{KEY_TEXT_BYTES_MAX, KeyRing};
pub use mark::{MARK_KEY, check_keys, unlock, unlock_to_read, was_opened};

/// An encrypted view of a store.
#[derive(Debug, Clone)]
pub struct Encrypted {
    store: Arc<dyn ObjectStore>,
    keys: Arc<KeyRing>,
    entropy: Arc<dyn Entropy>,
}

impl Encrypted {
    /// Over `store`, whose objects are all encrypted. [`unlock`] makes sure of that.
    #[must_use]
    pub fn new(store: Arc<dyn ObjectStore>, keys: KeyRing, entropy: Arc<dyn Entropy>) -> Self {
        Self { store, keys: Arc::new(keys), entropy }
    }

    async fn seal(&self, name: &str, body: Bytes) -> Result<Bytes> {
        let mut unique = [0; frame::UNIQUE];
        self.entropy.fill(&mut unique);
        let (keys, name) = (self.keys.clone(), name.to_owned());
        crunch(body.len(), move || frame::seal(&keys, &name, &body, unique)).await
    }

    async fn open(&self, name: &str, first: u64, stored: Bytes, ends: bool) -> Result<Bytes> {
        let (keys, name) = (self.keys.clone(), name.to_owned());
        crunch(stored.len(), move || frame::open(&keys, &name, first, stored, ends)).await
    }

    /// `Ok` where nothing is at `start` and after, because the object ends before and is whole at its
    /// end. Without this, one that was cut off would look like one that ends there.
    async fn check_end(&self, key: &str, start: u64) -> Result<()> {
        let len = self.head(key).await?.size;
        if len > start {
            return Err(Error::unavailable("the object is shorter than the store said"));
        }
        let last = range::frames(len) - 1;
        let stored = last * range::STORED..range::stored_len(len);
        let stored = self.store.get(key, Some(stored)).await?;
        self.open(key, last, stored, true).await.map(drop)
    }

    /// Ends a create that found something there: `None` where it was gone by then.
    async fn settle(&self, key: &str, body: &Bytes) -> Result<Option<()>> {
        let stored = match self.store.get(key, None).await {
            Ok(stored) => stored,
            Err(Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        if self.open(key, 0, stored.clone(), true).await? != *body {
            return Err(Error::exists(key));
        }
        // The store sees to it that what an attempt of ours left there is durable.
        self.store.create(key, stored).await.map(Some)
    }
}

#[async_trait]
impl ObjectStore for Encrypted {
    async fn put(&self, key: &str, body: Bytes) -> Result<()> {
        let sealed = self.seal(key, body).await?;
        self.store.put(key, sealed).await
    }

    async fn create(&self, key: &str, body: Bytes) -> Result<()> {
        // The store below settles lost replies of this call; those of an earlier call with the same
        // body were other bytes.
        let sealed = self.seal(key, body.clone()).await?;
        for _ in 0..CREATE_SETTLES_MAX {
            match self.store.create(key, sealed.clone()).await {
                Err(Error::Exists { .. }) => {}
                other => return other,
            }
            if let Some(settled) = self.settle(key, &body).await? {
                return Ok(settled);
            }
        }
        Err(Error::unavailable("the object is created and deleted over and over"))
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes> {
        let Some(range) = range else {
            let stored = self.store.get(key, None).await?;
            return self.open(key, 0, stored, true).await;
        };
        if range.is_empty() {
            return self.store.get(key, Some(0..0)).await;
        }
        let span = range::span(&range);
        let asked = span.stored.end - span.stored.start;
        let mut stored = self.store.get(key, Some(span.stored)).await?;
        if stored.is_empty() {
            return self.check_end(key, range.start).await.map(|()| Bytes::new());
        }
        let ends = (stored.len() as u64) < asked;
        if !ends {
            stored.truncate(stored.len() - 1);
        }
        let plain = self.open(key, span.first, stored, ends).await?;
        let clip = |at: u64| {
            let at = at.saturating_sub(span.first * range::PLAIN);
            usize::try_from(at).unwrap_or(usize::MAX).min(plain.len())
        };
        Ok(plain.slice(clip(range.start)..clip(range.end)))
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta> {
        let stored = self.store.head(key).await?;
        let size = range::plain_len(stored.size);
        let size = size.ok_or_else(|| Error::corrupt(key, "no encrypted object has its size"))?;
        Ok(ObjectMeta { size, ..stored })
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.store.delete(key).await
    }

    /// The size of an object that cannot be right is given as 0: whoever lists in order to delete or
    /// to check must not be stopped by the one that is damaged. `head` and `get` say so.
    async fn list(&self, prefix: &str, after: Option<&str>, max: usize) -> Result<Vec<ObjectMeta>> {
        let mut found = self.store.list(prefix, after, max).await?;
        for meta in &mut found {
            meta.size = range::plain_len(meta.size).unwrap_or(0);
        }
        Ok(found)
    }
}

/// Runs `work` on `len` bytes where it holds nobody up.
async fn crunch<T: Send + 'static>(
    len: usize,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    if len <= CRYPT_INLINE_BYTES_MAX {
        return work();
    }
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| Error::unavailable("the process is shutting down"))?
}

#[cfg(test)]
mod tests;
