//! An object store beside which a test stands: somebody is asked before each call, and told after it.
//!
//! For what a test wants to happen in between: another writer comes, a call waits at the door, calls under way are
//! counted. To fail calls there is [`FaultyStore`](crate::FaultyStore).

use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use objstore::{ObjectMeta, ObjectStore, Result};

use crate::Verb;

/// Who stands beside it.
#[async_trait]
pub trait Attendant: Debug + Send + Sync + 'static {
    /// Before a call on `key`, or with a listed prefix; the call waits for it. `store` is the one behind.
    async fn before(&self, store: &dyn ObjectStore, verb: Verb, key: &str);

    /// After the call.
    async fn after(&self, _verb: Verb, _key: &str) {}
}

/// See the module.
#[derive(Debug)]
pub struct AttendedStore<A> {
    store: Arc<dyn ObjectStore>,
    /// Who stands beside it.
    pub attendant: A,
}

impl<A: Attendant> AttendedStore<A> {
    /// In front of `store`.
    pub fn new(store: Arc<dyn ObjectStore>, attendant: A) -> Self {
        Self { store, attendant }
    }

    async fn call<T>(
        &self,
        verb: Verb,
        key: &str,
        call: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        self.attendant.before(&*self.store, verb, key).await;
        let answer = call.await;
        self.attendant.after(verb, key).await;
        answer
    }
}

#[async_trait]
impl<A: Attendant> ObjectStore for AttendedStore<A> {
    async fn put(&self, key: &str, body: Bytes) -> Result<()> {
        self.call(Verb::Put, key, self.store.put(key, body)).await
    }

    async fn create(&self, key: &str, body: Bytes) -> Result<()> {
        self.call(Verb::Create, key, self.store.create(key, body)).await
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes> {
        self.call(Verb::Get, key, self.store.get(key, range)).await
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta> {
        self.call(Verb::Head, key, self.store.head(key)).await
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.call(Verb::Delete, key, self.store.delete(key)).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, max: usize) -> Result<Vec<ObjectMeta>> {
        self.call(Verb::List, prefix, self.store.list(prefix, after, max)).await
    }
}

#[cfg(test)]
mod tests {
    use objstore::MemoryStore;
    use parking_lot::Mutex;

    use super::*;

    /// Writes down who came, and puts a rival's object there before the first one is created.
    #[derive(Debug, Default)]
    struct Rival(Mutex<Vec<String>>);

    #[async_trait]
    impl Attendant for Rival {
        async fn before(&self, store: &dyn ObjectStore, verb: Verb, key: &str) {
            if verb == Verb::Create {
                store.put(key, "theirs".into()).await.unwrap();
            }
            self.0.lock().push(format!("{verb:?} {key}"));
        }

        async fn after(&self, verb: Verb, _key: &str) {
            self.0.lock().push(format!("{verb:?} done"));
        }
    }

    #[tokio::test]
    async fn what_happens_before_a_call_is_seen_by_it() {
        let store = AttendedStore::new(Arc::new(MemoryStore::new()), Rival::default());
        let exists = store.create("a", "ours".into()).await.unwrap_err();
        assert!(matches!(exists, objstore::Error::Exists { .. }), "{exists}");
        assert_eq!(store.get("a", None).await.unwrap(), "theirs");
        assert_eq!(*store.attendant.0.lock(), ["Create a", "Create done", "Get a", "Get done"]);
    }
}
