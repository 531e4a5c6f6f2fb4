//! What every store must do: run against each implementation.
//!
//! # Failure
//! Panics with the broken promise. The store may hold other objects; everything here happens below
//! one fresh prefix and is deleted at the end.

use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::join_all;

use crate::{Error, LIST_MAX, ObjectStore, Result};

/// Writers in the create race.
const RACERS: usize = 8;
/// Rounds of the create race.
const RACES: usize = 5;

/// Runs everything.
///
/// # Panics
/// Where the store breaks a promise.
pub async fn run(store: Arc<dyn ObjectStore>) {
    let root = format!("suite-{:016x}", rand::random::<u64>());
    let suite = Suite { store, root };
    suite.stored_bytes_come_back().await;
    suite.a_range_is_clipped_to_the_end().await;
    suite.put_replaces_and_create_does_not().await;
    suite.create_of_ones_own_bytes_is_settled().await;
    suite.one_of_many_racing_creates_wins().await;
    suite.what_is_missing_is_not_found().await;
    suite.delete_is_idempotent().await;
    suite.listing_is_ordered_bounded_and_resumable().await;
    suite.a_bad_key_is_refused_by_every_verb().await;
    suite.clean_up().await;
}

struct Suite {
    store: Arc<dyn ObjectStore>,
    root: String,
}

impl Suite {
    fn key(&self, name: &str) -> String {
        format!("{}/{name}", self.root)
    }

    async fn stored_bytes_come_back(&self) {
        let large: Vec<u8> = (0..3_000_000_u32).map(|i| (i % 251) as u8).collect();
        for (name, body) in [("empty", Bytes::new()), ("one", "x".into()), ("large", large.into())]
        {
            let key = self.key(name);
            done(self.store.put(&key, body.clone()).await, "put");
            assert_eq!(done(self.store.get(&key, None).await, "get"), body, "{name}: other bytes");
            let meta = done(self.store.head(&key).await, "head");
            assert_eq!((meta.key, meta.size), (key, body.len() as u64), "{name}: wrong head");
        }
    }

    async fn a_range_is_clipped_to_the_end(&self) {
        let key = self.key("ranged");
        done(self.store.put(&key, Bytes::from_static(b"0123456789")).await, "put");
        let cases: [(Range<u64>, &str); 7] = [
            (0..10, "0123456789"),
            (3..5, "34"),
            (8..100, "89"),
            (0..u64::MAX / 2, "0123456789"),
            (10..20, ""),
            (50..60, ""),
            (4..4, ""),
        ];
        for (range, expected) in cases {
            let part = done(self.store.get(&key, Some(range.clone())).await, "get of a range");
            assert_eq!(part, expected, "range {range:?}");
        }
        let empty = self.key("empty-ranged");
        done(self.store.put(&empty, Bytes::new()).await, "put");
        assert!(done(self.store.get(&empty, Some(0..5)).await, "get of an empty one").is_empty());
    }

    async fn put_replaces_and_create_does_not(&self) {
        let key = self.key("replaced");
        done(self.store.create(&key, "first".into()).await, "create");
        let again = self.store.create(&key, "second".into()).await;
        assert!(matches!(again, Err(Error::Exists { .. })), "create over an object: {again:?}");
        assert_eq!(done(self.store.get(&key, None).await, "get"), "first");
        done(self.store.put(&key, "third".into()).await, "put");
        assert_eq!(done(self.store.get(&key, None).await, "get"), "third");
    }

    async fn create_of_ones_own_bytes_is_settled(&self) {
        let key = self.key("settled");
        done(self.store.create(&key, "nonce 1".into()).await, "create");
        done(self.store.create(&key, "nonce 1".into()).await, "create after a lost reply");
    }

    async fn one_of_many_racing_creates_wins(&self) {
        for round in 0..RACES {
            let key = self.key(&format!("raced/{round}"));
            let body = |racer: usize| Bytes::from(format!("racer {racer}"));
            let creates = (0..RACERS).map(|racer| {
                let (store, key, body) = (Arc::clone(&self.store), key.clone(), body(racer));
                tokio::spawn(async move { store.create(&key, body).await })
            });
            let mut winners = Vec::new();
            for (racer, outcome) in join_all(creates).await.into_iter().enumerate() {
                match outcome.expect("a racer does not panic") {
                    Ok(()) => winners.push(racer),
                    Err(Error::Exists { .. }) => {}
                    Err(error) => panic!("a racer failed: {error}"),
                }
            }
            assert_eq!(winners.len(), 1, "winners of one race: {winners:?}");
            assert_eq!(done(self.store.get(&key, None).await, "get"), body(winners[0]));
        }
    }

    async fn what_is_missing_is_not_found(&self) {
        let key = self.key("missing");
        let missing = |outcome: Option<Error>, verb: &str| {
            assert!(
                matches!(outcome, Some(Error::NotFound { .. })),
                "{verb} of nothing: {outcome:?}"
            );
        };
        missing(self.store.get(&key, None).await.err(), "get");
        missing(self.store.get(&key, Some(0..1)).await.err(), "get of a range");
        missing(self.store.get(&key, Some(1..1)).await.err(), "get of an empty range");
        missing(self.store.head(&key).await.err(), "head");
        done(self.store.put(&self.key("directory/file"), "x".into()).await, "put");
        missing(self.store.get(&self.key("directory"), None).await.err(), "get of a key's part");
        missing(self.store.head(&self.key("directory")).await.err(), "head of a key's part");
    }

    async fn delete_is_idempotent(&self) {
        let key = self.key("deleted/deep/down");
        done(self.store.put(&key, "x".into()).await, "put");
        done(self.store.delete(&key).await, "delete");
        done(self.store.delete(&key).await, "delete of nothing");
        assert!(matches!(self.store.get(&key, None).await, Err(Error::NotFound { .. })));
        done(self.store.create(&key, "y".into()).await, "create after delete");
    }

    async fn listing_is_ordered_bounded_and_resumable(&self) {
        let names =
            ["l/a", "l/a-b/x", "l/a/x", "l/b/1", "l/b/10", "l/b/2", "l/b/3/4", "l/c", "l2/other"];
        // A key and one below it cannot both be on a file store; see `FileStore`.
        let names: Vec<_> = names.into_iter().filter(|name| *name != "l/a").collect();
        for name in &names {
            done(self.store.put(&self.key(name), Bytes::from((*name).to_owned())).await, "put");
        }
        let mut expected: Vec<String> =
            names.iter().filter(|name| name.starts_with("l/")).map(|name| self.key(name)).collect();
        expected.sort_unstable();
        let prefix = self.key("l/");
        assert_eq!(self.keys(&prefix, None, LIST_MAX).await, expected);
        assert_eq!(self.keys(&prefix, None, 2).await, expected[..2]);
        assert!(self.keys(&prefix, None, 0).await.is_empty());
        let mut paged = Vec::new();
        loop {
            let page = self.keys(&prefix, paged.last().map(String::as_str), 2).await;
            if page.is_empty() {
                break;
            }
            paged.extend(page);
        }
        assert_eq!(paged, expected);
        let between = self.key("l/b/1z");
        assert_eq!(self.keys(&prefix, Some(&between), LIST_MAX).await, expected[4..]);
        let before_all = self.key("a");
        assert_eq!(self.keys(&prefix, Some(&before_all), LIST_MAX).await, expected);
        let after_all = self.key("m");
        assert!(self.keys(&prefix, Some(&after_all), LIST_MAX).await.is_empty());
        assert!(self.keys(&self.key("nothing/"), None, LIST_MAX).await.is_empty());
        let sizes = done(self.store.list(&prefix, None, 1).await, "list");
        assert_eq!(sizes[0].size, "l/a-b/x".len() as u64);
    }

    async fn a_bad_key_is_refused_by_every_verb(&self) {
        for key in ["", "/absolute", "a/../../b", "a//b", "a/", ".hidden", "a b", "a\0"] {
            let refused = |outcome: Option<Error>| {
                assert!(matches!(outcome, Some(Error::BadKey { .. })), "{key:?}: {outcome:?}");
            };
            refused(self.store.put(key, Bytes::new()).await.err());
            refused(self.store.create(key, Bytes::new()).await.err());
            refused(self.store.get(key, None).await.err());
            refused(self.store.head(key).await.err());
            refused(self.store.delete(key).await.err());
        }
        assert!(self.store.list("no-slash", None, 1).await.is_err());
        assert!(self.store.list("../", None, 1).await.is_err());
    }

    async fn clean_up(&self) {
        let prefix = self.key("");
        loop {
            let keys = self.keys(&prefix, None, LIST_MAX).await;
            if keys.is_empty() {
                return;
            }
            for key in keys {
                done(self.store.delete(&key).await, "delete");
            }
        }
    }

    async fn keys(&self, prefix: &str, after: Option<&str>, max: usize) -> Vec<String> {
        let found = done(self.store.list(prefix, after, max).await, "list");
        found.into_iter().map(|meta| meta.key).collect()
    }
}

fn done<T: Debug>(outcome: Result<T>, what: &str) -> T {
    match outcome {
        Ok(value) => value,
        Err(error) => panic!("{what} failed: {error}"),
    }
}
