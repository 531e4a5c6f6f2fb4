//! A store whose lists have no end.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base::ErrorKind;
use bytes::Bytes;
use objstore::{Error, ObjectMeta, ObjectStore, Result};
use upper::Upper;

use crate::support::World;

/// Of these names none is one of ours.
#[derive(Debug)]
struct Endless;

#[async_trait]
impl ObjectStore for Endless {
    async fn put(&self, _: &str, _: Bytes) -> Result<()> {
        Ok(())
    }

    async fn create(&self, _: &str, _: Bytes) -> Result<()> {
        Ok(())
    }

    async fn get(&self, key: &str, _: Option<Range<u64>>) -> Result<Bytes> {
        Err(Error::NotFound { key: key.to_owned() })
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta> {
        Err(Error::NotFound { key: key.to_owned() })
    }

    async fn delete(&self, _: &str) -> Result<()> {
        Ok(())
    }

    async fn list(&self, prefix: &str, after: Option<&str>, max: usize) -> Result<Vec<ObjectMeta>> {
        tokio::task::yield_now().await;
        let number = |key: &str| key.rsplit('/').next().and_then(|name| name.parse().ok());
        let from: u64 = after.and_then(number).map_or(0, |last: u64| last + 1);
        let keys = (from..).take(max).map(|number| format!("{prefix}{number:020}"));
        Ok(keys.map(|key| ObjectMeta { key, size: 1 }).collect())
    }
}

#[tokio::test]
async fn a_list_without_an_end_of_names_that_are_none_of_ours_is_refused() {
    let world = World::new();
    let host = world.host();
    let upper = Upper::new(Arc::new(Endless), &world.machine, host.files.clone());
    world.claim();
    let begun = upper.begin(world.wake(false), |_| Ok::<_, upper::Error>(()), |_| Ok(()));
    let error = tokio::time::timeout(Duration::from_secs(20), begun).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("too many names"), "{error}");
}
