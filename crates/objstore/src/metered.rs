//! Counting what goes through a store.
//!
//! Counts are of calls of the trait: attempts within a call show in
//! `dormouse_store_retries_total` only. Both readings are of the same events: [`Metered::counts`] in
//! the process, and the `metrics` recorder under the names below.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use async_trait::async_trait;
use bytes::Bytes;

use crate::{ObjectMeta, ObjectStore, Result};

const REQUESTS: &str = "dormouse_store_requests_total";
const BYTES: &str = "dormouse_store_bytes_total";
const SECONDS: &str = "dormouse_store_request_seconds";
const RETRIES: &str = "dormouse_store_retries_total";

/// What was done with one verb.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VerbCounts {
    /// Calls that ended, well or not.
    pub requests: u64,
    /// Of these, the ones that ended with an error; "no such object" and "exists already" included.
    pub errors: u64,
    /// Bytes of object bodies moved by calls that ended well.
    pub bytes: u64,
}

/// What was done, by verb.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// [`ObjectStore::put`].
    pub put: VerbCounts,
    /// [`ObjectStore::create`].
    pub create: VerbCounts,
    /// [`ObjectStore::get`].
    pub get: VerbCounts,
    /// [`ObjectStore::head`].
    pub head: VerbCounts,
    /// [`ObjectStore::delete`].
    pub delete: VerbCounts,
    /// [`ObjectStore::list`].
    pub list: VerbCounts,
}

impl VerbCounts {
    fn since(&self, earlier: &Self) -> Self {
        Self {
            requests: self.requests.saturating_sub(earlier.requests),
            errors: self.errors.saturating_sub(earlier.errors),
            bytes: self.bytes.saturating_sub(earlier.bytes),
        }
    }
}

impl Counts {
    /// What was done after `earlier` was read.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            put: self.put.since(&earlier.put),
            create: self.create.since(&earlier.create),
            get: self.get.since(&earlier.get),
            head: self.head.since(&earlier.head),
            delete: self.delete.since(&earlier.delete),
            list: self.list.since(&earlier.list),
        }
    }

    /// Calls of all verbs.
    #[must_use]
    pub fn requests(&self) -> u64 {
        [self.put, self.create, self.get, self.head, self.delete, self.list]
            .iter()
            .map(|verb| verb.requests)
            .sum()
    }
}

/// A store that counts.
#[derive(Debug)]
pub struct Metered<S> {
    store: S,
    put: Meter,
    create: Meter,
    get: Meter,
    head: Meter,
    delete: Meter,
    list: Meter,
}

impl<S: ObjectStore> Metered<S> {
    /// Counts from zero.
    pub fn new(store: S) -> Self {
        describe();
        Self {
            store,
            put: Meter::new("put"),
            create: Meter::new("create"),
            get: Meter::new("get"),
            head: Meter::new("head"),
            delete: Meter::new("delete"),
            list: Meter::new("list"),
        }
    }

    /// What was done so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts {
            put: self.put.read(),
            create: self.create.read(),
            get: self.get.read(),
            head: self.head.read(),
            delete: self.delete.read(),
            list: self.list.read(),
        }
    }

    /// The store behind.
    pub fn inner(&self) -> &S {
        &self.store
    }
}

#[async_trait]
impl<S: ObjectStore> ObjectStore for Metered<S> {
    async fn put(&self, key: &str, body: Bytes) -> Result<()> {
        let len = body.len();
        self.put.count(self.store.put(key, body), |()| len).await
    }

    async fn create(&self, key: &str, body: Bytes) -> Result<()> {
        let len = body.len();
        self.create.count(self.store.create(key, body), |()| len).await
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes> {
        self.get.count(self.store.get(key, range), Bytes::len).await
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta> {
        self.head.count(self.store.head(key), |_| 0).await
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.delete.count(self.store.delete(key), |()| 0).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, max: usize) -> Result<Vec<ObjectMeta>> {
        self.list.count(self.store.list(prefix, after, max), |_| 0).await
    }
}

/// The counters of one verb.
#[derive(Debug)]
struct Meter {
    verb: &'static str,
    requests: AtomicU64,
    errors: AtomicU64,
    bytes: AtomicU64,
}

impl Meter {
    fn new(verb: &'static str) -> Self {
        let zero = AtomicU64::default;
        Self { verb, requests: zero(), errors: zero(), bytes: zero() }
    }

    async fn count<T>(
        &self,
        call: impl Future<Output = Result<T>>,
        moved: impl FnOnce(&T) -> usize,
    ) -> Result<T> {
        let started = Instant::now();
        let outcome = call.await;
        self.requests.fetch_add(1, Ordering::Relaxed);
        let code = match &outcome {
            Ok(value) => {
                let bytes = moved(value) as u64;
                self.bytes.fetch_add(bytes, Ordering::Relaxed);
                metrics::counter!(BYTES, "verb" => self.verb).increment(bytes);
                "OK"
            }
            Err(error) => {
                self.errors.fetch_add(1, Ordering::Relaxed);
                error.kind().code()
            }
        };
        metrics::counter!(REQUESTS, "verb" => self.verb, "outcome" => code).increment(1);
        metrics::histogram!(SECONDS, "verb" => self.verb).record(started.elapsed());
        outcome
    }

    fn read(&self) -> VerbCounts {
        VerbCounts {
            requests: self.requests.load(Ordering::Relaxed),
            errors: self.errors.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
        }
    }
}

/// Counts an attempt that was made again.
pub(crate) fn count_retry(verb: &'static str) {
    metrics::counter!(RETRIES, "verb" => verb).increment(1);
}

fn describe() {
    use metrics::Unit;
    metrics::describe_counter!(
        REQUESTS,
        Unit::Count,
        "Object store calls that ended, by verb and outcome"
    );
    metrics::describe_counter!(BYTES, Unit::Bytes, "Bytes of object bodies moved, by verb");
    metrics::describe_counter!(
        RETRIES,
        Unit::Count,
        "Object store attempts that were made again, by verb"
    );
    metrics::describe_histogram!(
        SECONDS,
        Unit::Seconds,
        "Time an object store call took, retries included"
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryStore;

    #[tokio::test]
    async fn calls_and_bytes_are_counted_by_verb() {
        let store = Metered::new(MemoryStore::new());
        store.put("a", Bytes::from_static(b"12345")).await.unwrap();
        let before = store.counts();
        store.get("a", Some(1..3)).await.unwrap();
        store.get("b", None).await.unwrap_err();
        let done = store.counts().since(&before);
        assert_eq!(before.put, VerbCounts { requests: 1, errors: 0, bytes: 5 });
        assert_eq!(done.get, VerbCounts { requests: 2, errors: 1, bytes: 2 });
        assert_eq!(done.requests(), 2);
    }
}
