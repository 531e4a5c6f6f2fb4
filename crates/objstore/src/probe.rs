//! Finding out, before anything is trusted to a store, that it keeps its promises.
//!
//! # Order
//! Several creates of one fresh key race with different bodies: exactly one must win and its body
//! must be there. A create over it must fail, also when made alone. Then listing, replacing and
//! deleting. Everything happens under one unique key below `probe/`, which is deleted at the end
//! unless the store stopped answering.
//!
//! # Failure
//! [`Error::Unusable`] says which promise is broken; other errors are those of the call that failed.
//! All of it ends within fifteen seconds.

use bytes::Bytes;
use futures::future::join_all;
use tokio::time::timeout;

use crate::limits::{PROBE_RACERS, PROBE_TIMEOUT};
use crate::{Error, ObjectStore, Result};

/// Races creates against each other and checks the other verbs.
///
/// # Errors
/// [`Error::Unusable`] where the store lacks something; [`Error::Unavailable`] or
/// [`Error::Denied`] where it cannot be asked.
pub async fn probe(store: &dyn ObjectStore) -> Result<()> {
    let key = format!("probe/{:032x}", rand::random::<u128>());
    let checked = timeout(PROBE_TIMEOUT, async {
        let outcome = check(store, &key).await;
        if matches!(outcome, Err(Error::Unavailable { .. } | Error::Denied { .. })) {
            // It would only fail the same way, as slowly.
            return outcome;
        }
        outcome.and(store.delete(&key).await)
    });
    checked.await.unwrap_or_else(|_| {
        Err(Error::unavailable(
            "no answer within 15 seconds: check the store URL, the endpoint and the network",
        ))
    })
}

async fn check(store: &dyn ObjectStore, key: &str) -> Result<()> {
    let body = |racer: usize| Bytes::from(format!("{key} racer {racer}"));
    let outcomes = join_all((0..PROBE_RACERS).map(|racer| store.create(key, body(racer)))).await;
    let mut winners = Vec::new();
    for (racer, outcome) in outcomes.into_iter().enumerate() {
        match outcome {
            Ok(()) => winners.push(racer),
            Err(Error::Exists { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    let [winner] = winners[..] else {
        return Err(lacks_create(&format!(
            "{} of {PROBE_RACERS} racing creates succeeded",
            winners.len()
        )));
    };
    if store.get(key, None).await? != body(winner) {
        return Err(lacks_create("the winner's object was replaced by a loser's"));
    }
    match store.create(key, Bytes::from_static(b"late")).await {
        Err(Error::Exists { .. }) => {}
        Ok(()) => return Err(lacks_create("a create over an existing object succeeded")),
        Err(error) => return Err(error),
    }
    let listed = store.list("probe/", before(key), 1).await?;
    if listed.first().map(|meta| meta.key.as_str()) != Some(key) {
        return Err(broken("does not list what was just stored"));
    }
    let replacement = Bytes::from_static(b"replaced");
    store.put(key, replacement.clone()).await?;
    if store.get(key, None).await? != replacement {
        return Err(broken("returns an old object after it was replaced"));
    }
    if store.get(key, Some(2..5)).await? != replacement.slice(2..5) {
        return Err(broken("does not return the range asked for"));
    }
    store.delete(key).await?;
    match store.get(key, None).await {
        Err(Error::NotFound { .. }) => Ok(()),
        Ok(_) => Err(broken("returns an object after it was deleted")),
        Err(error) => Err(error),
    }
}

/// The key without its last digit: it sorts right before everything that goes on with it.
fn before(key: &str) -> Option<&str> {
    key.get(..key.len() - 1)
}

fn lacks_create(seen: &str) -> Error {
    Error::unusable(format!(
        "this object store cannot be used: it does not create objects only if absent ({seen}), so two servers \
         could write one home; use a store with conditional writes (If-None-Match on PUT)"
    ))
}

fn broken(what: &str) -> Error {
    Error::unusable(format!(
        "this object store cannot be used: it {what}; it must be strongly consistent"
    ))
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use async_trait::async_trait;

    use super::*;
    use crate::{MemoryStore, ObjectMeta};

    /// A store that is broken in one way.
    #[derive(Debug)]
    struct Broken {
        store: MemoryStore,
        create_replaces: bool,
        hangs: bool,
    }

    #[async_trait]
    impl ObjectStore for Broken {
        async fn put(&self, key: &str, body: Bytes) -> Result<()> {
            self.store.put(key, body).await
        }

        async fn create(&self, key: &str, body: Bytes) -> Result<()> {
            if self.hangs {
                std::future::pending::<()>().await;
            }
            match self.create_replaces {
                true => self.store.put(key, body).await,
                false => self.store.create(key, body).await,
            }
        }

        async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes> {
            self.store.get(key, range).await
        }

        async fn head(&self, key: &str) -> Result<ObjectMeta> {
            self.store.head(key).await
        }

        async fn delete(&self, key: &str) -> Result<()> {
            self.store.delete(key).await
        }

        async fn list(
            &self,
            prefix: &str,
            after: Option<&str>,
            max: usize,
        ) -> Result<Vec<ObjectMeta>> {
            self.store.list(prefix, after, max).await
        }
    }

    fn broken_store(create_replaces: bool, hangs: bool) -> Broken {
        Broken { store: MemoryStore::new(), create_replaces, hangs }
    }

    #[tokio::test]
    async fn a_store_without_create_if_absent_is_refused_and_told_why() {
        let store = broken_store(true, false);
        let Err(Error::Unusable { message }) = probe(&store).await else { panic!("accepted") };
        assert!(message.contains("only if absent"), "{message}");
        assert!(store.list("", None, 10).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_good_store_passes_and_is_left_as_it_was() {
        let store = broken_store(false, false);
        probe(&store).await.unwrap();
        assert!(store.list("", None, 10).await.unwrap().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_never_answers_is_given_up() {
        let error = probe(&broken_store(false, true)).await.unwrap_err();
        assert!(matches!(error, Error::Unavailable { .. }));
    }
}
