//! The newest commit, for those who only read.
//!
//! A reader needs no proof against writers that sleep: nothing it does is lost if somebody wrote
//! meanwhile. So the listing alone tells it where the head is, and how large: one request, and a
//! second one brings the commit. A number below the boundary that a fenced writer left is never the
//! largest of a living home. Whether a home was deleted is asked where nothing is found; the mark is
//! there before anything goes.
//!
//! Later only the next number is looked for: as long as half a horizon after the head was certain,
//! it cannot have been taken and be gone again (`horizon`).

use super::error::{Error, Result};
use super::fetch::Stored;
use super::horizon::{Moment, create_proves};
use super::limits::{FIRST_BYTES, LIST_PAGE};
use super::log::Log;

impl Log {
    /// The newest commit, with as much of it as a reader of its pages wants first; `None` of a home
    /// that nobody claimed yet. `hint`: a commit that was the head once.
    ///
    /// # Errors
    /// [`Error::Deleted`] of a home of which nothing is left.
    pub(crate) async fn newest(&self, hint: Option<u64>) -> Result<Option<Stored>> {
        for hint in [hint.filter(|hint| *hint > 1), None] {
            let after = hint.map(|hint| self.keys().logs_after(hint - 1));
            let page = self.store().list(&self.keys().logs(), after.as_deref(), LIST_PAGE).await?;
            let seq_of = |object: &objstore::ObjectMeta| self.keys().log_seq(&object.key);
            // Without the hint itself, what it was a hint to is gone.
            if hint.is_some() && page.first().and_then(seq_of) != hint {
                continue;
            }
            // Names that are not ours may lie between and behind.
            let last = page.iter().rfind(|object| seq_of(object).is_some());
            if page.len() == LIST_PAGE {
                let Some(head) = self.head(last.and_then(seq_of)).await? else { break };
                return self.read_from(head.seq, FIRST_BYTES).await;
            }
            if let Some((last, seq)) = last.and_then(|last| Some((last, seq_of(last)?))) {
                let stored = self.read_from(seq, last.size.clamp(1, FIRST_BYTES)).await?;
                let gone = || Error::corrupt(self.keys().log(seq), "it was listed and is missing");
                let stored = stored.ok_or_else(gone)?;
                if stored.header().is_nobodys() {
                    // All that is left of a deleted home.
                    break;
                }
                return Ok(Some(stored));
            }
        }
        self.boundary().await?;
        Ok(None)
    }

    /// True where `seq` is still the newest commit: nothing but a request, if it was at `since`.
    pub(crate) async fn is_newest(&self, seq: u64, since: &Moment) -> Result<bool> {
        if !create_proves(since, &Moment::of(&**self.clock())) {
            let after = self.keys().logs_after(seq - 1);
            let page = self.store().list(&self.keys().logs(), Some(&after), 2).await?;
            return Ok(page.len() == 1 && self.keys().log_seq(&page[0].key) == Some(seq));
        }
        match self.store().head(&self.keys().log(seq.saturating_add(1))).await {
            Ok(_) => Ok(false),
            Err(objstore::Error::NotFound { .. }) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::container;
    use super::super::testing::{TestStore, header};
    use super::*;

    fn fill(store: &TestStore, log: &Log, seqs: impl IntoIterator<Item = u64>) {
        for seq in seqs {
            let object = container::encode(&header(seq), b"", b"").unwrap();
            store.objects.lock().insert(log.keys().log(seq), object);
        }
    }

    #[tokio::test]
    async fn two_requests_find_the_newest_commit_with_a_hint_and_without() {
        let (store, log) = TestStore::with_log();
        fill(&store, &log, 1..=900);
        for hint in [None, Some(1), Some(2), Some(899), Some(900)] {
            store.take_calls();
            let found = log.newest(hint).await.unwrap().unwrap();
            assert_eq!(found.header().seq, 900);
            assert_eq!(store.take_calls().len(), 2, "{hint:?}");
        }
        assert_eq!(log.newest(Some(9_999)).await.unwrap().unwrap().header().seq, 900);
    }

    #[tokio::test]
    async fn a_long_log_and_one_with_holes_at_its_beginning_are_searched_too() {
        let (store, log) = TestStore::with_log();
        fill(&store, &log, 1..=2_500);
        assert_eq!(log.newest(None).await.unwrap().unwrap().header().seq, 2_500);
        let (store, log) = TestStore::with_log();
        fill(&store, &log, [1, 7].into_iter().chain(300..=310));
        for hint in [None, Some(7), Some(30), Some(305)] {
            assert_eq!(log.newest(hint).await.unwrap().unwrap().header().seq, 310, "{hint:?}");
        }
    }

    #[tokio::test]
    async fn names_that_are_not_ours_hide_nothing() {
        let (store, log) = TestStore::with_log();
        fill(&store, &log, 1..=5);
        for foreign in ["zzz", "0", "00000000000000000003.bak", "6"] {
            let key = format!("{}{foreign}", log.keys().logs());
            store.objects.lock().insert(key, "not a commit".into());
        }
        for hint in [None, Some(3), Some(5)] {
            assert_eq!(log.newest(hint).await.unwrap().unwrap().header().seq, 5, "{hint:?}");
            assert_eq!(log.head(hint).await.unwrap().unwrap().seq, 5, "{hint:?}");
        }
    }

    #[tokio::test]
    async fn nothing_there_is_a_new_home_or_a_deleted_one() {
        let (store, log) = TestStore::with_log();
        assert!(log.newest(None).await.unwrap().is_none());
        assert!(log.newest(Some(4)).await.unwrap().is_none());
        fill(&store, &log, 1..=3);
        log.delete_home().await.unwrap();
        assert!(matches!(log.newest(Some(3)).await, Err(Error::Deleted { .. })));
    }

    #[tokio::test]
    async fn whether_it_moved_is_one_request() {
        let (store, log) = TestStore::with_log();
        fill(&store, &log, 1..=5);
        let now = Moment::of(&**log.clock());
        store.take_calls();
        assert!(log.is_newest(5, &now).await.unwrap());
        assert!(!log.is_newest(4, &now).await.unwrap());
        assert!(store.take_calls().iter().all(|call| call.starts_with("head ")));
        // The next numbers were taken and are gone again: after a while only a listing tells.
        fill(&store, &log, 9..=9);
        let long_ago = now.before(Duration::from_secs(3_600));
        assert!(!log.is_newest(5, &long_ago).await.unwrap());
        assert!(log.is_newest(9, &long_ago).await.unwrap());
        assert!(!log.is_newest(7, &long_ago).await.unwrap());
        assert_eq!(store.take_calls().len(), 3);
    }
}
