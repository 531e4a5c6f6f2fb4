//! Pins: which old states of a home must stay, and for whom.
//!
//! `homes/<home>/pins/<id>` is created before anything relies on the state, and deleted after
//! nothing does any more. It is never changed. Whoever deletes objects of the home lists the pins
//! first; a pin that cannot be read is an error, never no pin. What may go on all the same
//! asks for pins as they are found (`unread`).
//!
//! # What a pin keeps
//! The commits [`Pin::base`] (exclusive) to [`Pin::seq`] that are in the state, the bases from
//! [`Pin::base`] to [`Pin::seq`], and every pack, chunk and page object that was there at commit
//! `seq` and named by its state: born at or before it, dead after it.
//!
//! # Pins of drafts
//! A draft is on one host that may never come back, so its pin does not hold for ever: a collector
//! lets go of it [`DRAFT_PATIENCE`] after the home moved on from the state ([`Log::moved_for`]).
//!
//! # Pins and deletion at the same time
//! Who pins looks whether the home (or the snapshot that it pins again) is still there *after* the
//! pin was made. Who deletes says so *before* listing pins. So one of the two sees the other.

use std::time::Duration;

use base::{Epoch, HomeId, SnapshotId, Timestamp};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::error::{Error, Result};
use super::header::Nonce;
use super::limits::{DRAFT_PATIENCE, LIST_PAGE, PINS_MAX, SMALL_JSON_MAX};
use super::log::{Head, Log};

const FORMAT: u32 = 2;
/// What a version without drafts reads too.
const FORMAT_BEFORE_DRAFTS: u32 = 1;

/// A state that must stay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pin {
    format: u32,
    /// The commit.
    pub(crate) seq: u64,
    /// Its epoch: a commit under its number with another one is not it.
    pub(crate) epoch: Epoch,
    /// The base that the state is read from; 0 for none.
    pub(crate) base: u64,
    /// For whom.
    #[serde(flatten)]
    pub(crate) kind: PinKind,
    /// When it was made.
    pub(crate) time: Timestamp,
}

/// What every format of a pin says.
#[derive(Deserialize)]
struct Versioned {
    format: u32,
}

/// For whom a state must stay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub(crate) enum PinKind {
    /// For whoever may want it back.
    Snapshot {
        /// Its id.
        id: SnapshotId,
        /// What people call it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
    },
    /// For a home that goes on from it.
    Fork {
        /// That home.
        child: HomeId,
    },
    /// For unpublished writes, whose result is made of parts of it.
    Draft {
        /// Drawn for this pin.
        draft: Nonce,
    },
}

impl Pin {
    /// A pin of the state `head`, with `base` as [`Log::base_of`] says.
    pub(crate) fn of(head: &Head, base: u64, kind: PinKind, time: Timestamp) -> Self {
        let format = match kind {
            PinKind::Draft { .. } => FORMAT,
            PinKind::Snapshot { .. } | PinKind::Fork { .. } => FORMAT_BEFORE_DRAFTS,
        };
        Self { format, seq: head.seq, epoch: head.epoch, base, kind, time }
    }

    /// The same state, kept for a fork.
    pub(crate) fn for_fork(self, child: HomeId, time: Timestamp) -> Self {
        Self { kind: PinKind::Fork { child }, time, ..self }
    }
}

impl Log {
    fn pin_key(&self, kind: &PinKind) -> String {
        match kind {
            PinKind::Snapshot { id, .. } => self.keys().snapshot_pin(id),
            PinKind::Fork { child } => self.keys().fork_pin(child),
            PinKind::Draft { draft } => self.keys().draft_pin(&draft.0),
        }
    }

    /// Makes a pin, and returns it. One of that id that is there already stays as it is and is
    /// returned instead.
    ///
    /// # Errors
    /// [`Error::Deleted`]: the home is no more; the pin is gone again. [`Error::TooManyPins`].
    pub(crate) async fn pin(&self, pin: Pin) -> Result<Pin> {
        let key = self.pin_key(&pin.kind);
        if self.count_like(&key).await? >= PINS_MAX {
            return match self.read_pin(&key).await? {
                Some(there) => Ok(there),
                None => Err(Error::TooManyPins { max: PINS_MAX }),
            };
        }
        let json = serde_json::to_vec(&pin).expect("a pin is plain data");
        let made = match self.store().create(&key, Bytes::from(json)).await {
            Ok(()) => pin,
            Err(objstore::Error::Exists { .. }) => {
                let gone = || Error::corrupt(&key, "it is being deleted; try again");
                self.read_pin(&key).await?.ok_or_else(gone)?
            }
            Err(error) => return Err(error.into()),
        };
        if let Err(error @ Error::Deleted { .. }) = self.boundary().await {
            self.store().delete(&key).await?;
            return Err(error);
        }
        Ok(made)
    }

    /// Lets go of a state; one that is not pinned is no error.
    pub(crate) async fn unpin(&self, kind: &PinKind) -> Result<()> {
        Ok(self.store().delete(&self.pin_key(kind)).await?)
    }

    /// The pin of a snapshot.
    pub(crate) async fn snapshot_pin(&self, id: &SnapshotId) -> Result<Option<Pin>> {
        self.read_pin(&self.keys().snapshot_pin(id)).await
    }

    /// The pin of a fork.
    pub(crate) async fn fork_pin(&self, child: &HomeId) -> Result<Option<Pin>> {
        self.read_pin(&self.keys().fork_pin(child)).await
    }

    /// All pins of the home, in the order of their ids.
    ///
    /// # Errors
    /// [`Error::Corrupt`] of one that cannot be read. Whoever asks in order to delete something
    /// must not go on then.
    pub(crate) async fn pins(&self) -> Result<Vec<Pin>> {
        let (pins, unread) = self.pins_as_found().await?;
        match unread.into_iter().next() {
            Some(unread) => Err(unread.error),
            None => Ok(pins),
        }
    }

    /// The same for whoever collects: without those of drafts that waited too long, which are let go.
    pub(crate) async fn pins_that_hold(&self) -> Result<Vec<Pin>> {
        let mut holding = Vec::new();
        for pin in self.pins().await? {
            if matches!(pin.kind, PinKind::Draft { .. })
                && self.age(pin.time) >= DRAFT_PATIENCE
                && self.moved_for(&pin).await?.is_some_and(|age| age >= DRAFT_PATIENCE)
            {
                self.unpin(&pin.kind).await?;
                tracing::info!(home = %self.keys().home(), seq = pin.seq, made = %pin.time,
                    "let go of what an abandoned draft stood on");
                continue;
            }
            holding.push(pin);
        }
        Ok(holding)
    }

    /// How long ago the home moved on from a pinned state, by the clocks of whoever did and ours;
    /// `None` while it has not. Never longer than the pin is there.
    pub(crate) async fn moved_for(&self, pin: &Pin) -> Result<Option<Duration>> {
        let pinned = self.age(pin.time);
        // What follows a state that was given up begins an epoch, and stays for ever.
        let moved = match self.read(pin.seq + 1).await? {
            Some(next) => Some(self.age(next.header().time)),
            None => (self.boundary().await?.is_some_and(|boundary| boundary.seq > pin.seq))
                .then_some(pinned),
        };
        Ok(moved.map(|moved| moved.min(pinned)))
    }

    fn age(&self, since: Timestamp) -> Duration {
        self.clock().now().duration_since(since).try_into().unwrap_or_default()
    }

    /// The pin of a draft.
    pub(crate) async fn draft_pin(&self, draft: Nonce) -> Result<Option<Pin>> {
        self.read_pin(&self.keys().draft_pin(&draft.0)).await
    }

    /// The commit that a pin keeps.
    pub(crate) async fn pinned_head(&self, pin: &Pin) -> Result<Head> {
        let key = self.keys().log(pin.seq);
        let stored = self.read(pin.seq).await?;
        let stored = stored.ok_or_else(|| Error::corrupt(&key, "it is pinned and missing"))?;
        let head = Head::from(stored.header());
        if head.epoch != pin.epoch {
            return Err(Error::corrupt(key, "it is not the commit that was pinned"));
        }
        Ok(Head { base_seq: pin.base.max(head.base_seq), ..head })
    }

    /// The pins of the kind that this key is of.
    async fn count_like(&self, key: &str) -> Result<usize> {
        let keys = self.pin_keys().await?;
        let kind =
            |key: &str| key.strip_prefix(&self.keys().pins())?.split('-').next().map(str::to_owned);
        let wanted = kind(key);
        Ok(keys.iter().filter(|key| kind(key) == wanted).count())
    }

    pub(super) async fn pin_keys(&self) -> Result<Vec<String>> {
        let (prefix, mut keys) = (self.keys().pins(), Vec::new());
        loop {
            let after = keys.last().map(String::as_str);
            let page = self.store().list(&prefix, after, LIST_PAGE).await?;
            let more = page.len() == LIST_PAGE;
            keys.extend(page.into_iter().map(|object| object.key));
            if !more {
                return Ok(keys);
            }
        }
    }

    pub(super) async fn read_pin(&self, key: &str) -> Result<Option<Pin>> {
        let bytes = match self.store().get(key, Some(0..SMALL_JSON_MAX)).await {
            Ok(bytes) => bytes,
            Err(objstore::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let unread = |error| Error::corrupt(key, format!("it cannot be read: {error}"));
        let Versioned { format } = serde_json::from_slice(&bytes).map_err(unread)?;
        if format > FORMAT {
            let why = format!("it has format {format}, and this version reads {FORMAT}");
            return Err(Error::corrupt(key, why));
        }
        let pin: Pin = serde_json::from_slice(&bytes).map_err(unread)?;
        let sane = pin.seq > 0 && pin.base <= pin.seq && self.pin_key(&pin.kind) == key;
        if sane { Ok(Some(pin)) } else { Err(Error::corrupt(key, "it is not the pin of its id")) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::container;
    use super::super::header::Header;
    use super::super::testing::{TestStore, header};
    use super::*;

    fn snapshot(log: &Log, seq: u64) -> Pin {
        let kind = PinKind::Snapshot { id: SnapshotId::generate(), name: Some("n".into()) };
        Pin::of(&Head::from(&header(seq)), 0, kind, log.clock().now())
    }

    #[tokio::test]
    async fn a_pin_is_made_once_and_read_back() {
        let (store, log) = TestStore::with_log();
        let pin = snapshot(&log, 7);
        assert_eq!(log.pin(pin.clone()).await.unwrap(), pin);
        let later = Pin { seq: 9, ..pin.clone() };
        assert_eq!(log.pin(later).await.unwrap(), pin, "the first one stands");
        let kind = PinKind::Fork { child: HomeId::generate() };
        let fork = Pin { kind, ..pin.clone() };
        log.pin(fork.clone()).await.unwrap();
        let pins = log.pins().await.unwrap();
        assert!(pins.len() == 2 && pins.contains(&pin) && pins.contains(&fork));
        log.unpin(&pin.kind).await.unwrap();
        log.unpin(&pin.kind).await.unwrap();
        assert_eq!(log.pins().await.unwrap(), [fork]);
        assert_eq!(store.keys().len(), 1);
    }

    #[tokio::test]
    async fn a_pin_that_cannot_be_read_is_not_no_pin() {
        let (store, log) = TestStore::with_log();
        log.pin(snapshot(&log, 7)).await.unwrap();
        let key = store.keys()[0].clone();
        let good = store.objects.lock()[&key].clone();
        let other = format!("{}{}", log.keys().pins(), SnapshotId::generate());
        for (key, body) in [(&key, "{}"), (&key, ""), (&other, std::str::from_utf8(&good).unwrap())]
        {
            store.objects.lock().insert(key.clone(), body.to_owned().into());
            assert!(matches!(log.pins().await, Err(Error::Corrupt { .. })), "{body}");
        }
    }

    /// A store in which a snapshot goes, and a fork of it comes, between the names and the first look.
    #[derive(Debug)]
    struct HandingOver {
        store: objstore::MemoryStore,
        from: String,
        to: (String, Bytes),
    }

    #[async_trait::async_trait]
    impl objstore::ObjectStore for HandingOver {
        async fn put(&self, key: &str, body: Bytes) -> objstore::Result<()> {
            self.store.put(key, body).await
        }

        async fn create(&self, key: &str, body: Bytes) -> objstore::Result<()> {
            self.store.create(key, body).await
        }

        async fn get(
            &self,
            key: &str,
            range: Option<std::ops::Range<u64>>,
        ) -> objstore::Result<Bytes> {
            if key == self.from {
                self.store.put(&self.to.0, self.to.1.clone()).await?;
                self.store.delete(key).await?;
            }
            self.store.get(key, range).await
        }

        async fn head(&self, key: &str) -> objstore::Result<objstore::ObjectMeta> {
            self.store.head(key).await
        }

        async fn delete(&self, key: &str) -> objstore::Result<()> {
            self.store.delete(key).await
        }

        async fn list(
            &self,
            prefix: &str,
            after: Option<&str>,
            max: usize,
        ) -> objstore::Result<Vec<objstore::ObjectMeta>> {
            self.store.list(prefix, after, max).await
        }
    }

    #[tokio::test]
    async fn a_state_that_is_handed_from_a_snapshot_to_a_fork_is_seen_all_the_time() {
        use objstore::ObjectStore as _;
        let (_, plain) = TestStore::with_log();
        let pin = snapshot(&plain, 7);
        let fork = pin.clone().for_fork(HomeId::generate(), plain.clock().now());
        let json = |pin: &Pin| Bytes::from(serde_json::to_vec(pin).unwrap());
        let (from, to) = (plain.pin_key(&pin.kind), plain.pin_key(&fork.kind));
        let store = objstore::MemoryStore::new();
        store.put(&from, json(&pin)).await.unwrap();
        let store = HandingOver { store, from, to: (to, json(&fork)) };
        let home = plain.keys().home().clone();
        let log = Log::new(std::sync::Arc::new(store), plain.clock().clone(), home);
        assert_eq!(log.pins().await.unwrap(), [fork]);
    }

    #[tokio::test]
    async fn a_draft_holds_as_long_as_its_home_rests_and_a_while_longer() {
        let (store, log) = TestStore::with_log();
        let draft = Nonce([7; 16]);
        let long_ago = log.clock().now() - 40 * Duration::from_secs(86_400);
        let kind = PinKind::Draft { draft };
        let pin = Pin { format: FORMAT, kind, time: long_ago, ..snapshot(&log, 7) };
        log.pin(pin.clone()).await.unwrap();
        assert_eq!(log.draft_pin(draft).await.unwrap(), Some(pin.clone()));
        assert_eq!(log.moved_for(&pin).await.unwrap(), None);
        assert_eq!(log.pins_that_hold().await.unwrap(), std::slice::from_ref(&pin));
        for (days, holds) in [(29, true), (31, false)] {
            let time = log.clock().now() - days * Duration::from_secs(86_400);
            let next = container::encode(&Header { time, ..header(8) }, b"", b"").unwrap();
            store.objects.lock().insert(log.keys().log(8), next);
            assert_eq!(log.reader().pins_that_hold().await.unwrap().len(), usize::from(holds));
        }
        assert_eq!(log.draft_pin(draft).await.unwrap(), None, "it was let go");
        let recent = Pin { time: log.clock().now(), ..pin };
        log.pin(recent.clone()).await.unwrap();
        assert_eq!(log.pins_that_hold().await.unwrap(), [recent], "whenever the home moved");
    }

    #[tokio::test]
    async fn a_pin_of_a_later_format_is_named_as_such() {
        let (store, log) = TestStore::with_log();
        let key = log.keys().draft_pin(&[1; 16]);
        store.objects.lock().insert(key, r#"{"format":3,"kind":"later"}"#.into());
        let error = log.pins().await.unwrap_err().to_string();
        assert!(error.contains("it has format 3, and this version reads 2"), "{error}");
    }

    #[tokio::test]
    async fn there_are_only_so_many_and_a_deleted_home_takes_none() {
        let (_store, log) = TestStore::with_log();
        for _ in 0..PINS_MAX {
            log.pin(snapshot(&log, 1)).await.unwrap();
        }
        assert!(matches!(log.pin(snapshot(&log, 1)).await, Err(Error::TooManyPins { .. })));
        let kind = PinKind::Fork { child: HomeId::generate() };
        log.pin(Pin { kind, ..snapshot(&log, 1) }).await.unwrap();
        let (store, log) = TestStore::with_log();
        log.bury(&crate::replica::boundary::Remains::default()).await.unwrap();
        assert!(matches!(log.pin(snapshot(&log, 1)).await, Err(Error::Deleted { .. })));
        assert_eq!(store.keys(), [log.keys().boundary()]);
    }
}
