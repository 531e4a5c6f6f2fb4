//! The end of a home.
//!
//! Order: first the boundary says that the home is deleted, and what it was forked from; from then
//! on nobody finds a head, and a writer that is still running loses with its next commit. Then go
//! packs, chunks, page objects, bases and last the log, so that what is left half-way can be told
//! from a home: it says itself that it is deleted. The boundary stays (see `boundary`), and one empty
//! commit at the number that the last writer would create next, which fences it at once.
//!
//! Forks: where other homes go on from this one, only what was stored after the newest of them
//! goes. The rest goes when the last of them is deleted, which calls this again. A fork of which
//! only the pin was made is ended instead: it has told nobody that it exists.
//!
//! Failure: the first error ends it. Calling again goes on, and takes along what a writer that was
//! fenced too late has still stored.

use std::time::Duration;

use base::Epoch;
use futures::{StreamExt, TryStreamExt};

use super::container;
use super::descent::Origin;
use super::error::{Error, Result};
use super::limits::{CLAIM_ATTEMPTS, DELETES_AT_ONCE, LIST_PAGE};
use super::log::Log;
use super::pinned::{Pin, PinKind};

/// How far a deletion got.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Everything is gone but the mark. What the home was forked from may let go of it.
    Gone { objects: u64, parent: Option<base::HomeId> },
    /// Some homes still go on from this one.
    KeptForForks { forks: usize },
}

impl Log {
    /// Deletes everything of the home but the mark that it is deleted, and what its forks need. Of
    /// a home that is deleted already, or was never claimed, too.
    pub(crate) async fn delete_home(&self) -> Result<End> {
        let origins = self.bury_once().await?;
        let forks = self.living_forks().await?;
        let keys = self.keys();
        if let Some(keep) = forks.iter().max_by_key(|pin| pin.seq) {
            self.delete_after(keep).await?;
            tracing::info!(home = %keys.home(), forks = forks.len(), "deleted a home, but for its forks");
            return Ok(End::KeptForForks { forks: forks.len() });
        }
        let in_order =
            [keys.packs(), keys.chunks(), keys.page_objects(), keys.bases(), keys.logs()];
        let mut objects = 0;
        for prefix in in_order {
            objects += self.delete_below(&prefix, |_| true).await?;
        }
        // Pins, and what later versions may have put beside.
        objects += self.delete_below(&keys.prefix(), |_| true).await?;
        tracing::info!(home = %keys.home(), objects, "deleted a home");
        Ok(End::Gone { objects, parent: origins.into_iter().next().map(|origin| origin.home) })
    }

    /// True of a home that is deleted, whatever is still kept of it.
    pub(crate) async fn is_deleted(&self) -> Result<bool> {
        Ok(self.boundary_or_grave().await?.is_some_and(|boundary| boundary.deleted.is_some()))
    }

    async fn bury_once(&self) -> Result<Vec<Origin>> {
        let grave = self.boundary_or_grave().await?;
        let (origins, fence, epoch) = match grave.filter(|grave| grave.deleted.is_some()) {
            Some(grave) => (grave.origins, grave.fence, None),
            None => {
                let (origins, last, epoch) = match self.head(None).await {
                    Ok(Some(head)) => {
                        (head.descent.origins.clone(), Some(head.seq), Some(head.epoch.next()))
                    }
                    Ok(None) => (Vec::new(), None, None),
                    // A damaged home can be deleted. Its pins in others are found by those
                    // (`living_forks`).
                    Err(Error::Corrupt { .. }) => {
                        (self.keys().origins().to_vec(), self.last_number().await?, None)
                    }
                    Err(error) => return Err(error),
                };
                let fence = last.map(|last| last + 1);
                self.bury(&origins, fence).await?;
                (origins, fence, epoch)
            }
        };
        if let Some(fence) = fence {
            self.fence_off(&origins, fence, epoch.unwrap_or(Epoch(u64::MAX))).await?;
        }
        Ok(origins)
    }

    /// Takes the number that the last writer would create next: it may not look at the boundary for
    /// half a horizon, and would confirm what nobody can read.
    async fn fence_off(&self, origins: &[Origin], first: u64, epoch: Epoch) -> Result<()> {
        for seq in first..first + u64::from(CLAIM_ATTEMPTS) {
            if seq > first {
                // It got a commit in. Said first, since what is not said is deleted.
                self.bury(origins, Some(seq)).await?;
            }
            let body = container::encode(&self.nobody(seq, epoch), b"", b"")?;
            match self.store().create(&self.keys().log(seq), body).await {
                Ok(()) => return Ok(()),
                Err(objstore::Error::Exists { .. }) => {}
                Err(error) => return Err(error.into()),
            }
            if self.read(seq).await?.is_some_and(|there| there.header().is_nobodys()) {
                return Ok(());
            }
        }
        Err(Error::Contended { attempts: CLAIM_ATTEMPTS })
    }

    /// The last number of a log that cannot be read.
    async fn last_number(&self) -> Result<Option<u64>> {
        let (mut after, mut number) = (None::<String>, None);
        loop {
            let page = self.store().list(&self.keys().logs(), after.as_deref(), LIST_PAGE).await?;
            let numbers = page.iter().filter_map(|object| self.keys().log_seq(&object.key));
            number = numbers.chain(number).max();
            match page.last() {
                Some(last) if page.len() == LIST_PAGE => after = Some(last.key.clone()),
                _ => return Ok(number),
            }
        }
    }

    /// Lets go of forks that are gone or were never made, and returns the others.
    async fn living_forks(&self) -> Result<Vec<Pin>> {
        let mut living = Vec::new();
        for pin in self.pins().await? {
            let PinKind::Fork { child } = &pin.kind else { continue };
            let fork = Self::new(self.store().clone(), self.clock().clone(), child.clone());
            match self.abandon_fork(&fork, &pin).await {
                Ok(()) => {}
                Err(Error::Taken { .. }) => living.push(pin),
                Err(error) => return Err(error),
            }
        }
        Ok(living)
    }

    /// Lets go of pins for forks that were not begun for `patience`.
    pub(crate) async fn abandon_stale_forks(&self, patience: Duration) -> Result<()> {
        let now = self.clock().now();
        for pin in self.pins().await? {
            let PinKind::Fork { child } = &pin.kind else { continue };
            let age = Duration::try_from(now.duration_since(pin.time)).unwrap_or_default();
            if age < patience {
                continue;
            }
            let fork = Self::new(self.store().clone(), self.clock().clone(), child.clone());
            match self.abandon_fork(&fork, &pin).await {
                Ok(()) => tracing::info!(fork = %child, "let go of a fork that was never begun"),
                Err(Error::Taken { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Lets go of a fork of this home that has no commits, so that it never has any.
    ///
    /// # Errors
    /// [`Error::Taken`] where it has.
    pub(crate) async fn abandon_fork(&self, fork: &Self, pin: &Pin) -> Result<()> {
        let begun = || Error::Taken { home: fork.keys().home().clone() };
        if fork.has_begun().await? {
            return Err(begun());
        }
        if !fork.is_deleted().await? {
            // Its first number can be had once. If we have it, whoever is just making the fork has
            // lost; the mark then keeps the number from being had again.
            if !fork.take_first(pin).await? && fork.has_begun().await? {
                return Err(begun());
            }
            fork.bury(&[], None).await?;
        }
        fork.delete_below(&fork.keys().logs(), |_| true).await?;
        self.unpin(&pin.kind).await
    }

    /// True of a home with commits, whether it is deleted or not.
    async fn has_begun(&self) -> Result<bool> {
        let first = self.store().list(&self.keys().logs(), None, 1).await?;
        let Some(seq) = first.first().and_then(|object| self.keys().log_seq(&object.key)) else {
            return Ok(false);
        };
        // What `take_first` left has no pages, unlike everything else in a log.
        Ok(self.read(seq).await?.is_some_and(|stored| stored.header().page_count > 0))
    }

    /// Deletes what came after the newest state that a fork goes on from, and all snapshots.
    async fn delete_after(&self, keep: &Pin) -> Result<()> {
        let keys = self.keys();
        let snapshots = |key: &str| !key.starts_with(&format!("{}home-", keys.pins()));
        self.delete_below(&keys.pins(), snapshots).await?;
        let later = |key: &str| keys.pack_id(key).is_some_and(|(epoch, _)| epoch > keep.epoch);
        self.delete_below(&keys.packs(), later).await?;
        let later = |key: &str| keys.chunk_id(key).is_some_and(|(_, born)| born > keep.seq);
        self.delete_below(&keys.chunks(), later).await?;
        let later = |key: &str| keys.base_seq(key).is_some_and(|seq| seq > keep.seq);
        self.delete_below(&keys.bases(), later).await?;
        let later = |key: &str| keys.log_seq(key).is_some_and(|seq| seq > keep.seq);
        self.delete_below(&keys.logs(), later).await?;
        Ok(())
    }

    async fn delete_below(&self, prefix: &str, doomed: impl Fn(&str) -> bool) -> Result<u64> {
        let fence = self.boundary_or_grave().await?.and_then(|boundary| boundary.fence);
        let fence = fence.map(|seq| self.keys().log(seq));
        let (mut after, mut deleted) = (None::<String>, 0);
        loop {
            let page = self.store().list(prefix, after.as_deref(), LIST_PAGE).await?;
            let Some(last) = page.last() else { return Ok(deleted) };
            let (more, next) = (page.len() == LIST_PAGE, last.key.clone());
            let boundary = self.keys().boundary();
            let stays = |key: &str| key == boundary || fence.as_deref() == Some(key);
            let doomed = |key: &str| !stays(key) && doomed(key);
            let doomed: Vec<_> = page.into_iter().filter(|object| doomed(&object.key)).collect();
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
    use base::{Digest, ErrorKind, ServerId};

    use super::super::append::Commit;
    use super::super::error::Error;
    use super::super::log::Head;
    use super::super::testing::{TestStore, header, unchanged};
    use super::*;

    fn fill(store: &TestStore, log: &Log) {
        let keys = log.keys();
        let mut objects = store.objects.lock();
        for n in 1..=1_500 {
            objects.insert(keys.chunk(&Digest::of(&[n as u8, (n >> 8) as u8]), n), "c".into());
            objects.insert(keys.pack(Epoch(1), n), "p".into());
        }
        for n in 1..=20 {
            objects.insert(keys.log(n), "l".into());
        }
        objects.insert(keys.base(7), "b".into());
        objects.insert(keys.page_object(3, &Digest::of(b"")), "g".into());
        objects.insert(format!("{}later/thing", keys.prefix()), "?".into());
    }

    fn gone(objects: u64) -> End {
        End::Gone { objects, parent: None }
    }

    #[tokio::test]
    async fn everything_goes_but_the_mark_and_other_homes() {
        let (store, log) = TestStore::with_log();
        let other = store.log(&base::HomeId::generate());
        fill(&store, &log);
        fill(&store, &other);
        let others = store.keys().len() - 3_023;
        assert_eq!(log.delete_home().await.unwrap(), gone(3_023));
        assert_eq!(store.keys().len(), others + 2);
        assert!(store.keys().contains(&log.keys().boundary()));
        assert!(store.keys().contains(&log.keys().log(21)));
        assert_eq!(log.delete_home().await.unwrap(), gone(0), "again does nothing");
    }

    #[tokio::test]
    async fn a_home_that_is_half_deleted_is_dead() {
        let (store, log) = TestStore::with_log();
        let mut writer = store.log(log.keys().home());
        let claimed = writer.claim(ServerId::generate(), false, [1; 16]).await.unwrap();
        fill(&store, &store.log(&base::HomeId::generate()));
        log.bury(&[], None).await.unwrap();
        let error = log.head(Some(claimed.seq)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        let mut second = store.log(log.keys().home());
        let claim = second.claim(ServerId::generate(), true, [2; 16]).await;
        assert!(matches!(claim, Err(Error::Deleted { .. })));
    }

    #[tokio::test]
    async fn a_writer_that_missed_the_deletion_cannot_commit_once() {
        let (store, log) = TestStore::with_log();
        let mut writer = store.log(log.keys().home());
        writer.claim(ServerId::generate(), false, [1; 16]).await.unwrap();
        assert_eq!(log.delete_home().await.unwrap(), gone(1));
        // No time passed: it does not look at the boundary.
        let pages = unchanged(writer.writer_head().unwrap());
        let commit = Commit { pages, data: bytes::Bytes::new(), release: false };
        for _ in 0..2 {
            let error = writer.append(commit.clone()).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
        }
        assert_eq!(log.delete_home().await.unwrap(), gone(0));
        assert!(writer.append(commit).await.is_err(), "the fence stays");
        assert!(matches!(log.head(None).await, Err(Error::Deleted { .. })));
    }

    #[tokio::test]
    async fn a_deletion_that_a_writer_got_ahead_of_fences_it_further_on() {
        let (store, log) = TestStore::with_log();
        let mut writer = store.log(log.keys().home());
        writer.claim(ServerId::generate(), false, [1; 16]).await.unwrap();
        // Broken off after the mark; the writer then commits twice.
        log.bury(&[], Some(2)).await.unwrap();
        for _ in 0..2 {
            let pages = unchanged(writer.writer_head().unwrap());
            let commit = Commit { pages, data: bytes::Bytes::new(), release: false };
            writer.append(commit).await.unwrap();
        }
        assert_eq!(log.delete_home().await.unwrap(), gone(3));
        let pages = unchanged(writer.writer_head().unwrap());
        let commit = Commit { pages, data: bytes::Bytes::new(), release: false };
        assert_eq!(writer.append(commit).await.unwrap_err().kind(), ErrorKind::Fenced);
        assert!(store.keys().contains(&log.keys().log(4)));
    }

    #[tokio::test]
    async fn a_fork_that_is_half_given_up_is_not_begun_any_more() {
        let (store, parent) = TestStore::with_log();
        let child = store.log(&base::HomeId::generate());
        let state = Head::from(&header(7));
        let kind = PinKind::Fork { child: child.keys().home().clone() };
        let pin = Pin::of(&state, 0, kind, parent.clock().now());
        assert!(child.take_first(&pin).await.unwrap());
        let begin =
            || child.begin_fork(parent.keys().home(), &state, ServerId::generate(), [1; 16]);
        assert!(matches!(begin().await, Err(Error::GivenUp { .. })));
        parent.abandon_fork(&child, &pin).await.unwrap();
        assert!(matches!(begin().await, Err(Error::GivenUp { .. })));
    }

    #[tokio::test]
    async fn the_log_goes_last() {
        let (store, log) = TestStore::with_log();
        fill(&store, &log);
        log.delete_home().await.unwrap();
        let calls = store.take_calls();
        let changing = |call: &&String| !call.starts_with("get ") && !call.starts_with("list ");
        let first = calls.iter().find(changing).unwrap();
        assert!(first.starts_with("put ") && first.ends_with("boundary"));
        let deletes: Vec<_> = calls.iter().filter(|call| call.starts_with("delete ")).collect();
        let first_log = deletes.iter().position(|call| call.contains("/log/")).unwrap();
        let later = &deletes[first_log..];
        assert!(later.iter().all(|call| call.contains("/log/") || call.contains("/later/")));
    }
}
