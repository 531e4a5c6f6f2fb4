//! The end of a home.
//!
//! Order: first the boundary says that the home is deleted, and what it was forked from; from then
//! on nobody finds a head, and a writer that is still running loses with its next commit. Then go
//! packs, chunks, page objects, bases and last the log, so that what is left half-way can be told
//! from a home: it says itself that it is deleted. The boundary stays (see `boundary`), and empty
//! commits that fence at once: at the number that the last writer would create next, and at those of
//! writers that were overtaken shortly before (`overtaken`).
//!
//! Forks: where other homes go on from this one, only what was stored after the newest of them
//! goes. The rest goes when the last of them is deleted, which calls this again. A fork of which
//! only the pin was made is ended instead: it has told nobody that it exists.
//!
//! Damage ends no deletion. Of pins for the home's own snapshots and drafts nothing is read. Where it
//! cannot be read what a fork needs, all stays that there is, with the mark, until that fork goes. The
//! log says so.
//!
//! Failure: the first error ends it. Calling again goes on, and takes along what a writer that was
//! fenced too late has still stored.

use std::time::Duration;

use base::Epoch;
use futures::{StreamExt, TryStreamExt};

use super::boundary::Remains;
use super::container;
use super::error::{Error, Result};
use super::limits::{CLAIM_ATTEMPTS, DELETES_AT_ONCE, LIST_PAGE};
use super::log::Log;
use super::pinned::{Pin, PinKind};
use super::unread::Holder;

/// How far a deletion got.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Everything is gone but the mark. What the home was forked from may let go of it.
    Gone { objects: u64, parent: Option<base::HomeId> },
    /// Some homes still go on from this one.
    KeptForForks { forks: usize },
    /// All is kept: it cannot be read what others need of it.
    Unclear,
}

impl Log {
    /// Deletes everything of the home but the mark that it is deleted, and what its forks need. Of
    /// a home that is deleted already, or was never claimed, too.
    pub(crate) async fn delete_home(&self) -> Result<End> {
        let remains = self.bury_once().await?;
        let keys = self.keys();
        let forks = match self.living_forks().await {
            Err(error) if error.is_damage() => {
                tracing::error!(home = %keys.home(), %error, "a home is deleted, and all it had stored stays: what \
                    its forks need of it cannot be read");
                return Ok(End::Unclear);
            }
            forks => forks?,
        };
        if let Some(keep) = forks.iter().max_by_key(|pin| pin.seq) {
            self.empty_claims(&remains, keep.seq).await?;
            self.delete_after(keep).await?;
            tracing::info!(home = %keys.home(), forks = forks.len(), "deleted a home, but for its forks");
            return Ok(End::KeptForForks { forks: forks.len() });
        }
        self.empty_claims(&remains, 0).await?;
        let in_order =
            [keys.packs(), keys.chunks(), keys.page_objects(), keys.bases(), keys.logs()];
        let mut objects = 0;
        for prefix in in_order {
            objects += self.delete_below(&prefix, |_| true).await?;
        }
        // Pins, and what later versions may have put beside.
        objects += self.delete_below(&keys.prefix(), |_| true).await?;
        tracing::info!(home = %keys.home(), objects, "deleted a home");
        Ok(End::Gone {
            objects,
            parent: remains.origins.into_iter().next().map(|origin| origin.home),
        })
    }

    /// True of a home that is deleted, whatever is still kept of it.
    pub(crate) async fn is_deleted(&self) -> Result<bool> {
        Ok(self.boundary_or_grave().await?.is_some_and(|boundary| boundary.deleted.is_some()))
    }

    async fn bury_once(&self) -> Result<Remains> {
        let there = self.boundary_or_grave().await?.filter(|there| there.deleted.is_some());
        let (mut remains, epoch) = match there {
            Some(there) => (Remains::from(there), None),
            None => {
                let (remains, epoch) = self.dig().await?;
                self.bury(&remains).await?;
                (remains, epoch)
            }
        };
        self.fence_off(&mut remains, epoch.unwrap_or(Epoch(u64::MAX))).await?;
        Ok(remains)
    }

    /// What is to be known of a home that is about to go, and the epoch after its last.
    async fn dig(&self) -> Result<(Remains, Option<Epoch>)> {
        let after = |last: u64| Some(last + 1);
        match self.head(None).await {
            Ok(Some(head)) => {
                let claims = self.late_claims(&head).await?;
                let (origins, fence) = (head.descent.origins.clone(), after(head.seq));
                Ok((Remains { origins, fence, claims }, Some(head.epoch.next())))
            }
            Ok(None) => Ok((Remains::default(), None)),
            // A damaged home can be deleted. Its pins in others are found by those
            // (`living_forks`).
            Err(Error::Corrupt { .. }) => {
                let fence = self.last_number().await?.and_then(after);
                let origins = self.keys().origins().to_vec();
                Ok((Remains { origins, fence, ..Remains::default() }, None))
            }
            Err(error) => Err(error),
        }
    }

    /// Takes the number that the last writer would create next: it may not look at the boundary for
    /// half a horizon, and would confirm what nobody can read.
    async fn fence_off(&self, remains: &mut Remains, epoch: Epoch) -> Result<()> {
        let Some(first) = remains.fence else { return Ok(()) };
        for seq in first..first + u64::from(CLAIM_ATTEMPTS) {
            if seq > first {
                // It got a commit in. Said first, since what is not said is deleted.
                remains.fence = Some(seq);
                self.bury(remains).await?;
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

    /// Leaves of the claims above `keep` only that they take their numbers. Those at or below are
    /// read by forks, and stay as they are.
    async fn empty_claims(&self, remains: &Remains, keep: u64) -> Result<()> {
        for seq in remains.claims.iter().filter(|seq| **seq > keep) {
            let body = container::encode(&self.nobody(*seq, Epoch(u64::MAX)), b"", b"")?;
            self.store().put(&self.keys().log(*seq), body).await?;
        }
        Ok(())
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
    ///
    /// # Errors
    /// Of damage, where it is not certain which there are and what they need.
    async fn living_forks(&self) -> Result<Vec<Pin>> {
        let mut living = Vec::new();
        for key in self.pin_keys().await? {
            let child = match self.holder(&key) {
                Holder::Fork(child) => child,
                // Nobody's any more.
                Holder::Snapshot(_) | Holder::Draft => continue,
                Holder::Unknown => {
                    return Err(Error::corrupt(key, "it is the pin of something unknown"));
                }
            };
            let fork = self.other(child);
            let pin = match self.read_pin(&key).await {
                // One that has gone since is not needed: whoever makes another one sees the mark.
                Ok(None) => continue,
                Ok(Some(pin)) => pin,
                Err(error) if error.is_damage() && fork.is_over().await? => {
                    self.store().delete(&key).await?;
                    continue;
                }
                Err(error) => return Err(error),
            };
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
            let fork = self.other(child.clone());
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
            fork.bury(&Remains::default()).await?;
        }
        fork.delete_below(&fork.keys().logs(), |_| true).await?;
        self.unpin(&pin.kind).await
    }

    /// The same where the pin cannot be read, so that its first number is not known: only for whoever makes
    /// the fork, and makes it no more.
    ///
    /// # Errors
    /// As [`Log::abandon_fork`].
    pub(crate) async fn abandon_unread_fork(&self, fork: &Self) -> Result<()> {
        let child = fork.keys().home().clone();
        if !fork.has_begun().await? && !fork.is_deleted().await? {
            fork.bury(&Remains::default()).await?;
        }
        // Whoever began it meanwhile has it, and it is deleted like any home.
        if fork.has_begun().await? {
            return Err(Error::Taken { home: child });
        }
        fork.delete_below(&fork.keys().logs(), |_| true).await?;
        self.unpin(&PinKind::Fork { child }).await
    }

    fn other(&self, home: base::HomeId) -> Self {
        Self::new(self.store().clone(), self.clock().clone(), home)
    }

    /// True of a home that is deleted and that no other goes on from.
    async fn is_over(&self) -> Result<bool> {
        Ok(!self.has_begun().await? && self.is_deleted().await?)
    }

    /// True of a home with commits, whether it is deleted or not.
    async fn has_begun(&self) -> Result<bool> {
        let first = self.store().list(&self.keys().logs(), None, 1).await?;
        let Some(seq) = first.first().and_then(|object| self.keys().log_seq(&object.key)) else {
            return Ok(false);
        };
        // What `take_first` left has no pages, unlike everything else in a log.
        match self.read(seq).await {
            // What cannot be read may have been one.
            Err(error) if error.is_damage() => Ok(true),
            first => Ok(first?.is_some_and(|stored| stored.header().page_count > 0)),
        }
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
        let remains = self.boundary_or_grave().await?.map(Remains::from).unwrap_or_default();
        let is_kept = |key: &str| self.keys().log_seq(key).is_some_and(|seq| remains.keeps(seq));
        let (mut after, mut deleted) = (None::<String>, 0);
        loop {
            let page = self.store().list(prefix, after.as_deref(), LIST_PAGE).await?;
            let Some(last) = page.last() else { return Ok(deleted) };
            let (more, next) = (page.len() == LIST_PAGE, last.key.clone());
            let boundary = self.keys().boundary();
            let stays = |key: &str| key == boundary || is_kept(key);
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
        log.bury(&Remains::default()).await.unwrap();
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
    async fn writers_overtaken_shortly_before_a_deletion_cannot_commit_once() {
        let (store, log) = TestStore::with_log();
        let mut writers = Vec::new();
        for n in 1..=3 {
            let mut writer = store.log(log.keys().home());
            writer.claim(ServerId::generate(), true, [n; 16]).await.unwrap();
            writers.push(writer);
        }
        // The first claim goes; those over a writer and the number after the last stay.
        assert_eq!(log.delete_home().await.unwrap(), gone(1));
        for writer in &mut writers {
            let pages = unchanged(writer.writer_head().unwrap());
            let commit = Commit { pages, data: bytes::Bytes::new(), release: false };
            let error = writer.append(commit).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
        }
        assert_eq!(log.delete_home().await.unwrap(), gone(0), "again does nothing");
        assert_eq!(store.keys().len(), 4, "the mark, and three numbers");
    }

    #[tokio::test]
    async fn what_a_claim_carried_goes_and_what_a_fork_reads_stays() {
        let (store, log) = TestStore::with_log();
        for n in 1..=3 {
            let mut writer = store.log(log.keys().home());
            writer.claim(ServerId::generate(), true, [n; 16]).await.unwrap();
        }
        let before = store.objects.lock()[&log.keys().log(2)].clone();
        let child = store.log(&base::HomeId::generate());
        let claim = Head::from(log.read(2).await.unwrap().unwrap().header());
        let state = Head { page_size: 4096, page_count: 1, ..claim };
        let kind = PinKind::Fork { child: child.keys().home().clone() };
        let pin = Pin::of(&state, 0, kind, log.clock().now());
        log.pin(pin.clone()).await.unwrap();
        child.begin_fork(log.keys().home(), &state, ServerId::generate(), [1; 16]).await.unwrap();
        assert_eq!(log.delete_home().await.unwrap(), End::KeptForForks { forks: 1 });
        assert_eq!(store.objects.lock()[&log.keys().log(2)], before);
        assert!(log.read(3).await.unwrap().unwrap().header().is_nobodys());
    }

    #[tokio::test]
    async fn a_deletion_that_a_writer_got_ahead_of_fences_it_further_on() {
        let (store, log) = TestStore::with_log();
        let mut writer = store.log(log.keys().home());
        writer.claim(ServerId::generate(), false, [1; 16]).await.unwrap();
        // Broken off after the mark; the writer then commits twice.
        log.bury(&Remains { fence: Some(2), ..Remains::default() }).await.unwrap();
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
