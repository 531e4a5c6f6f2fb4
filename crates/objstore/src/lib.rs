//! Object storage behind a narrow trait.
//!
//! # Invariants
//! - An object, once stored under a key, never changes, with one exception that says so:
//!   [`ObjectStore::put`] replaces. Everything that decides who owns what is made with [`ObjectStore::create`].
//! - `create` is atomic: of many racing callers exactly one gets `Ok`. [`probe`] proves it of a
//!   store before anything is trusted to it.
//! - Keys are relative to the root of the store URL: `homes/…`, no leading slash, no `..`.
//!
//! # Parts
//! [`Backend`] opens a store from its URL; [`Metered`] counts what goes through it; [`unlock`] puts
//! [`Encrypted`] over it where the store is encrypted; [`probe`] refuses a store that cannot keep the
//! promises; `suite` (feature `suite`) is what every implementation of
//! the trait must pass.
//!
//! # Not here
//! What the objects mean (`homefs::layout`, `control::records`), caching. The process environment and
//! files with keys: the caller passes them in.

mod backend;
mod classify;
mod cloud;
mod encrypted;
mod error;
mod file;
mod file_walk;
mod key;
mod limits;
mod location;
mod memory;
mod metered;
mod probe;
mod remote;
mod retry;
#[cfg(any(test, feature = "suite"))]
pub mod suite;

use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

pub use backend::Backend;
pub use encrypted::{
    Encrypted, KEY_TEXT_BYTES_MAX, KeyRing, MARK_KEY, check_keys, unlock, unlock_to_read,
    was_opened,
};
pub use error::{Error, Result};
pub use limits::{KEY_BYTES_MAX, LIST_MAX};
pub use memory::MemoryStore;
pub use metered::{Counts, Metered, VerbCounts};
pub use probe::probe;

/// What [`ObjectStore::list`] knows of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectMeta {
    /// Its key.
    pub key: String,
    /// Its size in bytes.
    pub size: u64,
}

/// A flat, durable map from keys to immutable bytes.
#[async_trait]
pub trait ObjectStore: Send + Sync + Debug + 'static {
    /// Stores an object, replacing one of that key. Durable when it returns.
    async fn put(&self, key: &str, body: Bytes) -> Result<()>;
    /// Stores an object only if there is none of that key. A lost reply is settled inside by
    /// reading back: `Ok` where the stored bytes equal `body`, so bodies of objects that writers
    /// race for must carry a nonce. Else [`Error::Exists`].
    ///
    /// After [`Error::Unavailable`] the object may be there or not; the same call made again with
    /// the same body finds out.
    async fn create(&self, key: &str, body: Bytes) -> Result<()>;
    /// The whole object, or the part of it in `range`, clipped to its end.
    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes>;
    /// Its size.
    async fn head(&self, key: &str) -> Result<ObjectMeta>;
    /// Removes an object; a missing one is no error. Where the store is a local directory, a power
    /// failure right after may bring the object back.
    async fn delete(&self, key: &str) -> Result<()>;
    /// Objects whose key starts with `prefix` (which ends in `/`, or is empty for all) and is
    /// after `after`, in ascending order of key, at most `max` (and at most 1,000).
    async fn list(&self, prefix: &str, after: Option<&str>, max: usize) -> Result<Vec<ObjectMeta>>;
}

#[async_trait]
impl<S: ObjectStore + ?Sized> ObjectStore for Arc<S> {
    async fn put(&self, key: &str, body: Bytes) -> Result<()> {
        (**self).put(key, body).await
    }

    async fn create(&self, key: &str, body: Bytes) -> Result<()> {
        (**self).create(key, body).await
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes> {
        (**self).get(key, range).await
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta> {
        (**self).head(key).await
    }

    async fn delete(&self, key: &str) -> Result<()> {
        (**self).delete(key).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, max: usize) -> Result<Vec<ObjectMeta>> {
        (**self).list(prefix, after, max).await
    }
}
