//! The end of a home.
//!
//! Order: first the boundary says that the home is deleted; from then on nobody finds a head, and
//! a writer that is still running loses with its next commit. Then go packs, chunks, page objects,
//! bases and last the log, so that what is left half-way can be told from a home: it says itself
//! that it is deleted. The boundary stays (see `boundary`).
//!
//! Failure: the first error ends it. Calling again goes on, and takes along what a writer that was
//! fenced too late has still stored.

use futures::{StreamExt, TryStreamExt};

use super::error::Result;
use super::limits::{DELETES_AT_ONCE, LIST_PAGE};
use super::log::Log;

impl Log {
    /// Deletes everything of the home but the mark that it is deleted; how many objects that were.
    /// Of a home that is deleted already, or was never claimed, too.
    pub(crate) async fn delete_home(&self) -> Result<u64> {
        self.bury().await?;
        let keys = self.keys();
        let in_order =
            [keys.packs(), keys.chunks(), keys.page_objects(), keys.bases(), keys.logs()];
        let mut deleted = 0;
        for prefix in in_order {
            deleted += self.delete_below(&prefix).await?;
        }
        // What later versions may have put beside.
        deleted += self.delete_below(&keys.prefix()).await?;
        tracing::info!(home = %keys.home(), objects = deleted, "deleted a home");
        Ok(deleted)
    }

    async fn delete_below(&self, prefix: &str) -> Result<u64> {
        let (mut after, mut deleted) = (None::<String>, 0);
        loop {
            let page = self.store().list(prefix, after.as_deref(), LIST_PAGE).await?;
            let Some(last) = page.last() else { return Ok(deleted) };
            let (more, next) = (page.len() == LIST_PAGE, last.key.clone());
            let boundary = self.keys().boundary();
            let doomed: Vec<_> = page.into_iter().filter(|object| object.key != boundary).collect();
            deleted += doomed.len() as u64;
            futures::stream::iter(doomed.iter().map(|object| self.store().delete(&object.key)))
                .buffer_unordered(DELETES_AT_ONCE)
                .try_collect::<()>()
                .await?;
            if !more {
                return Ok(deleted);
            }
            after = Some(next);
        }
    }
}

#[cfg(test)]
mod tests {
    use base::{Digest, Epoch, ErrorKind, ServerId};

    use super::super::append::Commit;
    use super::super::error::Error;
    use super::super::testing::{TestStore, unchanged};
    use super::*;

    fn fill(store: &TestStore, log: &Log) {
        let keys = log.keys();
        let mut objects = store.objects.lock();
        for n in 1..=1_500 {
            objects.insert(keys.chunk(&Digest::of(&[n as u8, (n >> 8) as u8])), "c".into());
            objects.insert(keys.pack(Epoch(1), n), "p".into());
        }
        for n in 1..=20 {
            objects.insert(keys.log(n), "l".into());
        }
        objects.insert(keys.base(7), "b".into());
        objects.insert(keys.pages(&Digest::of(b"")), "g".into());
        objects.insert(format!("{}later/thing", keys.prefix()), "?".into());
    }

    #[tokio::test]
    async fn everything_goes_but_the_mark_and_other_homes() {
        let (store, log) = TestStore::with_log();
        let other = store.log(&base::HomeId::generate());
        fill(&store, &log);
        fill(&store, &other);
        let others = store.keys().len() - 3_023;
        assert_eq!(log.delete_home().await.unwrap(), 3_023);
        assert_eq!(store.keys().len(), others + 1);
        assert!(store.keys().contains(&log.keys().boundary()));
        assert_eq!(log.delete_home().await.unwrap(), 0, "again does nothing");
    }

    #[tokio::test]
    async fn a_home_that_is_half_deleted_is_dead() {
        let (store, log) = TestStore::with_log();
        let mut writer = store.log(log.keys().home());
        let claimed = writer.claim(ServerId::generate(), false, [1; 16]).await.unwrap();
        fill(&store, &store.log(&base::HomeId::generate()));
        log.bury().await.unwrap();
        let error = log.head(Some(claimed.seq)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        let mut second = store.log(log.keys().home());
        let claim = second.claim(ServerId::generate(), true, [2; 16]).await;
        assert!(matches!(claim, Err(Error::Deleted { .. })));
    }

    #[tokio::test]
    async fn a_writer_that_missed_the_deletion_cannot_commit() {
        let (store, log) = TestStore::with_log();
        let mut writer = store.log(log.keys().home());
        writer.claim(ServerId::generate(), false, [1; 16]).await.unwrap();
        log.delete_home().await.unwrap();
        let pages = unchanged(writer.writer_head().unwrap());
        let commit = Commit { pages, data: bytes::Bytes::new(), release: false };
        let error = writer.append(commit.clone()).await.unwrap_err();
        assert!(matches!(error, Error::Deleted { .. }), "{error}");
        let error = writer.append(commit).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Fenced);
        assert_eq!(log.delete_home().await.unwrap(), 1, "what it stored goes with the next call");
    }

    #[tokio::test]
    async fn the_log_goes_last() {
        let (store, log) = TestStore::with_log();
        fill(&store, &log);
        log.delete_home().await.unwrap();
        let calls = store.take_calls();
        assert!(calls[0].starts_with("put ") && calls[0].ends_with("boundary"));
        let deletes: Vec<_> = calls.iter().filter(|call| call.starts_with("delete ")).collect();
        let first_log = deletes.iter().position(|call| call.contains("/log/")).unwrap();
        let later = &deletes[first_log..];
        assert!(later.iter().all(|call| call.contains("/log/") || call.contains("/later/")));
    }
}
