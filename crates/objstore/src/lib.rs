//! Object storage behind a narrow trait.
//!
//! # Invariants
//! - An object, once stored under a key, never changes, with one exception that says so: [`ObjectStore::put`]
//!   replaces. Everything that decides who owns what is made with [`ObjectStore::create`].
//! - `create` is atomic: of many racing callers exactly one gets `Ok`. [`probe`] proves it of a
//!   store before anything is trusted to it.
//! - Keys are relative to the root of the store URL: `homes/…`, no leading slash, no `..`.
//!
//! # Not here
//! What the objects mean (`homefs::layout`, `control::records`), encryption, caching.

use std::fmt::Debug;
use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;

/// What [`ObjectStore::list`] knows of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectMeta {
    /// Its key.
    pub key: String,
    /// Its size in bytes.
    pub size: u64,
}

/// A failed call.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No such object.
    #[error("no object {key}")]
    NotFound {
        /// Its key.
        key: String,
    },
    /// `create` found an object there, and it is not the caller's own.
    #[error("object {key} exists already")]
    Exists {
        /// Its key.
        key: String,
    },
    /// The store refused the credential or the right to do this.
    #[error("the object store refused access: {message}")]
    Denied {
        /// What it said, without secrets.
        message: String,
    },
    /// The store did not answer, or said that it cannot now. Already retried.
    #[error("the object store is unavailable: {message}")]
    Unavailable {
        /// What happened, without secrets.
        message: String,
    },
    /// Not usable as configured: a bad URL, a store without create-if-absent.
    #[error("{message}")]
    Unusable {
        /// What is wrong and what to do.
        message: String,
    },
}

/// What a call returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A flat, durable map from keys to immutable bytes.
#[async_trait]
pub trait ObjectStore: Send + Sync + Debug + 'static {
    /// Stores an object, replacing one of that key. Durable when it returns.
    async fn put(&self, key: &str, body: Bytes) -> Result<()>;
    /// Stores an object only if there is none of that key. A lost reply is settled inside by
    /// reading back: `Ok` where the stored bytes equal `body`, so bodies of objects that writers
    /// race for must carry a nonce. Else [`Error::Exists`].
    async fn create(&self, key: &str, body: Bytes) -> Result<()>;
    /// The whole object, or the part of it in `range`, clipped to its end.
    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes>;
    /// Its size.
    async fn head(&self, key: &str) -> Result<ObjectMeta>;
    /// Removes an object; a missing one is no error.
    async fn delete(&self, key: &str) -> Result<()>;
    /// Objects whose key starts with `prefix` (which ends in `/`) and is after `after`, in
    /// ascending order of key, at most `max` (and at most 1,000).
    async fn list(&self, prefix: &str, after: Option<&str>, max: usize) -> Result<Vec<ObjectMeta>>;
}
