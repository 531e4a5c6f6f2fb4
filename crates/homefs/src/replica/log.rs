//! The log of a home: where its head is.
//!
//! Finding the head relies on there being no holes: from a commit known to exist, ever larger
//! steps until one misses, then halving. From nothing, the newest base and the first listing
//! behind it give such a commit. A commit that is made meanwhile may or may not be seen; whoever
//! acts on the answer creates the next number, and so finds out.
//!
//! A `Log` is a reader until [`Log::claim`]; then it is the home's writer, until it releases or is
//! fenced. There is no way back from either: claim again with a new `Log`.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use base::{Clock, Epoch, HomeId, ServerId, Timestamp};
use objstore::ObjectStore;

use super::append::Tenure;
use super::descent::Descent;
use super::error::{Error, Result};
use super::header::{Header, Kind, Nonce};
use super::limits::LIST_PAGE;
use super::recent::Recent;
use crate::layout::HomeKeys;

/// The newest commit of a home, and what follows from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The number of the commit.
    pub seq: u64,
    /// The epoch of its writer.
    pub epoch: Epoch,
    /// The server that wrote it.
    pub holder: ServerId,
    /// True where that writer gave the home up: anybody may claim it.
    pub released: bool,
    /// The newest base that is known; 0 for none.
    pub base_seq: u64,
    /// When the commit was made, by its writer's clock.
    pub time: Timestamp,
    /// Bytes of a page; 0 while there is no database.
    pub(crate) page_size: u32,
    /// Pages of the database.
    pub(crate) page_count: u32,
    /// Compressed bytes of pages in the commits above the base; never less than there are.
    pub(crate) bytes_above_base: u64,
    /// The commit was a claim.
    pub(crate) claim: bool,
    /// Of its writer.
    pub(crate) nonce: Nonce,
    /// Where its state comes from.
    pub(crate) descent: Descent,
}

impl From<&Header> for Head {
    fn from(header: &Header) -> Self {
        Self {
            seq: header.seq,
            epoch: header.epoch,
            holder: header.holder.clone(),
            released: header.kind == Kind::Release,
            base_seq: header.parent_base,
            time: header.time,
            page_size: header.page_size,
            page_count: header.page_count,
            bytes_above_base: header.bytes_above_base,
            claim: header.kind == Kind::Claim,
            nonce: header.nonce,
            descent: header.descent.clone(),
        }
    }
}

/// What a `Log` may do.
#[derive(Debug)]
pub(super) enum Standing {
    /// Read.
    Reader,
    /// Read and append.
    Writer(Box<Tenure>),
    /// Read. It wrote once, and somebody took the home.
    Fenced { ours: Epoch, theirs: Epoch },
}

/// The log of one home.
pub(crate) struct Log {
    store: Arc<dyn ObjectStore>,
    clock: Arc<dyn Clock>,
    keys: HomeKeys,
    /// The largest commit this value has seen; where looking for the head begins.
    seen: AtomicU64,
    pub(super) recent: Recent,
    pub(super) standing: Standing,
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log")
            .field("home", self.keys.home())
            .field("seen", &self.seen)
            .field("standing", &self.standing)
            .finish_non_exhaustive()
    }
}

impl Log {
    /// The log of `home`. Nothing is asked of the store yet.
    pub(crate) fn new(store: Arc<dyn ObjectStore>, clock: Arc<dyn Clock>, home: HomeId) -> Self {
        let keys = HomeKeys::new(home);
        let (seen, recent) = (AtomicU64::new(0), Recent::default());
        Self { store, clock, keys, seen, recent, standing: Standing::Reader }
    }

    /// A reader of the same log, to be used beside this one.
    pub(crate) fn reader(&self) -> Self {
        Self {
            store: self.store.clone(),
            clock: self.clock.clone(),
            keys: self.keys.clone(),
            seen: AtomicU64::new(self.seen()),
            recent: self.recent.clone(),
            standing: Standing::Reader,
        }
    }

    /// The keys of this home.
    pub(crate) fn keys(&self) -> &HomeKeys {
        &self.keys
    }

    /// Where it lies.
    pub(crate) fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    /// What time it is.
    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    pub(super) fn seen(&self) -> u64 {
        self.seen.load(Ordering::Relaxed)
    }

    pub(super) fn note_seen(&self, seq: u64) {
        self.seen.fetch_max(seq, Ordering::Relaxed);
    }

    /// The newest commit; `None` of a home that nobody claimed yet. `hint` is a commit that was the
    /// head once, and saves the listing; a wrong one costs time only.
    ///
    /// # Errors
    /// [`Error::Deleted`] of a home that was deleted.
    pub(crate) async fn head(&self, hint: Option<u64>) -> Result<Option<Head>> {
        let boundary = self.boundary().await?.map_or(0, |boundary| boundary.seq);
        let hint = hint.unwrap_or(0).max(self.seen());
        // At or below the boundary there may be anything.
        if hint > boundary {
            let newest = self.last_from(hint).await?;
            if let Some(stored) = self.read(newest).await? {
                self.note_seen(newest);
                return Ok(Some(stored.header().into()));
            }
        }
        let Some(newest) = self.find_newest(boundary).await? else { return Ok(None) };
        let gone = || Error::corrupt(self.keys.log(newest), "it was listed and is missing");
        let stored = self.read(newest).await?.ok_or_else(gone)?;
        self.note_seen(newest);
        Ok(Some(stored.header().into()))
    }

    /// The newest base that the state of `head` may be read from; 0 for none.
    pub(crate) async fn base_of(&self, head: &Head) -> Result<u64> {
        self.newest_base(head.base_seq, head.seq, &head.descent).await
    }

    /// The newest base that is at least `known`, at most `upto`, and not of a commit that a restore
    /// left behind; 0 for none.
    async fn newest_base(&self, known: u64, upto: u64, descent: &Descent) -> Result<u64> {
        let mut newest = known;
        let mut after = (known > 0).then(|| self.keys.bases_after(known));
        loop {
            let page = self.store.list(&self.keys.bases(), after.as_deref(), LIST_PAGE).await?;
            for seq in page.iter().filter_map(|object| self.keys.base_seq(&object.key)) {
                if seq > upto {
                    return Ok(newest);
                }
                if descent.includes(seq) {
                    newest = seq;
                }
            }
            match page.last() {
                Some(last) if page.len() == LIST_PAGE => after = Some(last.key.clone()),
                _ => return Ok(newest),
            }
        }
    }

    /// The newest commit, from listings alone.
    async fn find_newest(&self, boundary: u64) -> Result<Option<u64>> {
        let base = self.newest_base(0, u64::MAX, &Descent::default()).await?;
        let start = boundary.max(base.saturating_sub(1));
        let after = (start > 0).then(|| self.keys.logs_after(start));
        let page = self.store.list(&self.keys.logs(), after.as_deref(), LIST_PAGE).await?;
        let newest = page.iter().filter_map(|object| self.keys.log_seq(&object.key)).next_back();
        match newest {
            Some(newest) if page.len() == LIST_PAGE => Ok(Some(self.last_from(newest).await?)),
            None if start > 0 => {
                Err(Error::corrupt(self.keys.log(start + 1), "the log ends before its base"))
            }
            newest => Ok(newest),
        }
    }

    /// The last commit there is from `known` on, which exists.
    async fn last_from(&self, known: u64) -> Result<u64> {
        let (mut there, mut step) = (known, 1_u64);
        let mut missing = loop {
            let next = there.saturating_add(step);
            if next == there || !self.exists(next).await? {
                break next;
            }
            there = next;
            step = step.saturating_mul(2);
        };
        while missing - there > 1 {
            let middle = there + (missing - there) / 2;
            if self.exists(middle).await? {
                there = middle;
            } else {
                missing = middle;
            }
        }
        Ok(there)
    }

    async fn exists(&self, seq: u64) -> Result<bool> {
        match self.store.head(&self.keys.log(seq)).await {
            Ok(_) => Ok(true),
            Err(objstore::Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::container;
    use super::super::testing::{TestStore, header};
    use super::*;

    fn put(store: &TestStore, key: String, header: &Header) {
        header.check().unwrap();
        store.objects.lock().insert(key, container::encode(header, b"", b"").unwrap());
    }

    fn fill(store: &TestStore, log: &Log, seqs: impl IntoIterator<Item = u64>) {
        for seq in seqs {
            put(store, log.keys().log(seq), &header(seq));
        }
    }

    #[tokio::test]
    async fn a_home_that_nobody_claimed_has_no_head() {
        let (_store, log) = TestStore::with_log();
        assert_eq!(log.head(None).await.unwrap(), None);
        assert_eq!(log.head(Some(7)).await.unwrap(), None);
    }

    #[tokio::test]
    async fn the_head_is_found_from_any_hint_and_from_none() {
        let (store, log) = TestStore::with_log();
        fill(&store, &log, 1..=2_345);
        for hint in [None, Some(1), Some(2), Some(1_000), Some(2_344), Some(2_345), Some(9_999)] {
            let head = log.reader_from_nothing().head(hint).await.unwrap().unwrap();
            assert_eq!(head.seq, 2_345, "{hint:?}");
        }
    }

    impl Log {
        fn reader_from_nothing(&self) -> Self {
            let log = self.reader();
            log.seen.store(0, Ordering::Relaxed);
            log
        }
    }

    #[tokio::test]
    async fn a_stale_hint_costs_requests_by_the_logarithm() {
        let (store, log) = TestStore::with_log();
        fill(&store, &log, 1..=2_345);
        log.head(Some(2_345)).await.unwrap();
        assert_eq!(store.take_calls().len(), 3, "boundary, the next number, the head");
        log.reader_from_nothing().head(Some(1)).await.unwrap();
        assert!(store.take_calls().len() < 30);
    }

    #[tokio::test]
    async fn listing_begins_at_the_newest_base() {
        let (store, log) = TestStore::with_log();
        fill(&store, &log, 1..=1_500);
        for seq in [100, 1_400] {
            let base = Header { kind: Kind::Base, parent_base: seq, ..header(seq) };
            put(&store, log.keys().base(seq), &base);
        }
        assert_eq!(log.head(None).await.unwrap().unwrap().seq, 1_500);
        assert!(store.take_calls().len() <= 4);
        let plain = Descent::default();
        assert_eq!(log.newest_base(0, 1_399, &plain).await.unwrap(), 100);
        assert_eq!(log.newest_base(100, u64::MAX, &plain).await.unwrap(), 1_400);
        assert_eq!(log.newest_base(0, 99, &plain).await.unwrap(), 0);
        let restored = plain.restored(1_450, 1_399);
        assert_eq!(log.newest_base(0, 1_500, &restored).await.unwrap(), 100);
    }

    #[tokio::test]
    async fn what_lies_below_the_boundary_is_not_believed() {
        let (store, log) = TestStore::with_log();
        fill(&store, &log, 101..=110);
        // A writer that slept through the deletion of 1 to 100 made its "next" commit.
        fill(&store, &log, [6]);
        let boundary = br#"{"seq":100,"epoch":3}"#;
        store.objects.lock().insert(log.keys().boundary(), boundary.as_slice().into());
        for hint in [None, Some(5), Some(6), Some(100)] {
            let head = log.reader_from_nothing().head(hint).await.unwrap().unwrap();
            assert_eq!(head.seq, 110, "{hint:?}");
        }
    }

    #[tokio::test]
    async fn damage_is_an_error_that_names_the_object() {
        let (store, log) = TestStore::with_log();
        fill(&store, &log, 1..=3);
        store.damage(&log.keys().log(3), 60);
        let error = log.head(None).await.unwrap_err();
        assert!(matches!(&error, Error::Corrupt { key, .. } if *key == log.keys().log(3)));
        put(&store, log.keys().log(2), &header(9));
        assert!(log.read(2).await.is_err(), "a commit under another's number");
        let last = Header { seq: u64::MAX, ..header(1) };
        let object = container::encode(&last, b"", b"").unwrap();
        store.objects.lock().insert(log.keys().log(u64::MAX), object);
        let error = log.read(u64::MAX).await.unwrap_err();
        assert!(error.to_string().contains("too large"), "{error}");
        store.objects.lock().insert(log.keys().log(1), bytes::Bytes::new());
        assert!(matches!(log.read(1).await, Err(Error::Corrupt { .. })));
    }

    #[tokio::test]
    async fn a_boundary_above_everything_is_damage_unless_the_home_is_deleted() {
        let (store, log) = TestStore::with_log();
        fill(&store, &log, 1..=3);
        let boundary = br#"{"seq":18446744073709551615,"epoch":3}"#;
        store.objects.lock().insert(log.keys().boundary(), boundary.as_slice().into());
        let error = log.head(None).await.unwrap_err();
        assert!(matches!(&error, Error::Corrupt { key, .. } if *key == log.keys().boundary()));
    }

    #[tokio::test]
    async fn a_header_larger_than_the_first_request_is_read_whole() {
        let (store, log) = TestStore::with_log();
        let (random, mut state) = (std::iter::repeat_with, 1_u64);
        let junk: String = random(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            char::from(b'a' + (state >> 40) as u8 % 26)
        })
        .take(140_000)
        .collect();
        let mut header = Header { data: container::describe_data(b"data").unwrap(), ..header(1) };
        // A later version may have more to say.
        header.sections.clear();
        let json = serde_json::to_string(&header).unwrap();
        let json = format!("{},\"more\":\"{junk}\"}}", &json[..json.len() - 1]);
        let object = container::seal(2, json.as_bytes(), b"", b"data").unwrap();
        store.objects.lock().insert(log.keys().log(1), object);
        assert_eq!(log.read(1).await.unwrap().unwrap().header(), &header);
        assert_eq!(log.read_data(1).await.unwrap(), "data");
    }
}
