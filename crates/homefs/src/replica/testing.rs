//! What the tests of this folder share.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use async_trait::async_trait;
use base::{Clock, Epoch, HomeId, ServerId, Timestamp};
use bytes::Bytes;
use objstore::{ObjectMeta, ObjectStore};
use parking_lot::Mutex;

use super::collect::{Arrangement, Pages};
use super::descent::Descent;
use super::error::Result;
use super::header::{Header, Kind, Nonce};
use super::log::{Head, Log};
use super::pages::PageSource;

/// Pages in memory.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct MemoryPages {
    pub(crate) page_size: u32,
    pub(crate) pages: Vec<Vec<u8>>,
}

impl MemoryPages {
    /// `count` pages, each beginning with its number.
    pub(crate) fn numbered(page_size: u32, count: u32) -> Self {
        let page = |number: u32| {
            let mut page = vec![0; page_size as usize];
            page[..4].copy_from_slice(&number.to_le_bytes());
            page
        };
        Self { page_size, pages: (1..=count).map(page).collect() }
    }

    /// One after the other.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.pages.concat()
    }
}

impl PageSource for MemoryPages {
    fn page_size(&self) -> u32 {
        self.page_size
    }

    fn page_count(&self) -> u32 {
        self.pages.len() as u32
    }

    fn read_page(&self, page: u32, into: &mut [u8]) -> Result<()> {
        into.copy_from_slice(&self.pages[page as usize - 1]);
        Ok(())
    }
}

/// No page is hotter than another, and they lie in order of number.
#[derive(Debug)]
pub(crate) struct ByNumber;

impl ByNumber {
    /// Says so of any database.
    pub(crate) fn arrange(_: &Arc<dyn PageSource>) -> Result<Box<dyn Arrangement>> {
        Ok(Box::new(Self))
    }
}

impl Arrangement for ByNumber {
    fn hot(&self) -> &[u32] {
        &[]
    }

    fn hints(&self) -> &[u8] {
        b""
    }

    fn companions(&self, _: &dyn PageSource, _: &BTreeSet<u32>) -> Result<Vec<u32>> {
        Ok(Vec::new())
    }

    fn order(&self, _: &dyn PageSource, pages: &mut [u32]) -> Result<()> {
        pages.sort_unstable();
        Ok(())
    }
}

/// Some header, valid, without pages.
pub(crate) fn header(seq: u64) -> Header {
    Header {
        seq,
        epoch: Epoch(1),
        nonce: Nonce([7; 16]),
        kind: Kind::Delta,
        holder: ServerId::generate(),
        time: Timestamp::UNIX_EPOCH,
        page_size: 0,
        page_count: 0,
        parent_base: 0,
        bytes_above_base: 0,
        sections: Vec::new(),
        index: None,
        data: None,
        descent: Descent::default(),
    }
}

/// No page changed since `head`.
pub(crate) fn unchanged(head: &Head) -> Pages {
    let (page_size, page_count) = (head.page_size, head.page_count);
    Pages::none(page_size, page_count)
}

/// A clock that is moved by hand, in seconds.
#[derive(Debug, Default)]
pub(crate) struct HandClock {
    pub(crate) monotonic: AtomicU64,
    pub(crate) wall: AtomicI64,
}

impl HandClock {
    /// Moves both.
    pub(crate) fn advance(&self, seconds: u64) {
        self.monotonic.fetch_add(seconds, Ordering::Relaxed);
        self.wall.fetch_add(seconds as i64, Ordering::Relaxed);
    }
}

impl Clock for HandClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_second(self.wall.load(Ordering::Relaxed)).unwrap()
    }

    fn monotonic(&self) -> std::time::Duration {
        std::time::Duration::from_secs(self.monotonic.load(Ordering::Relaxed))
    }
}

/// What goes wrong with the next call that stores something.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Fault {
    /// It is stored, and the reply is lost.
    ReplyLost,
    /// It is not stored, and the caller cannot know.
    RequestLost,
}

/// A store in memory that counts, and fails when told to.
#[derive(Debug, Default)]
pub(crate) struct TestStore {
    pub(crate) objects: Mutex<BTreeMap<String, Bytes>>,
    pub(crate) calls: Mutex<Vec<String>>,
    pub(crate) faults: Mutex<Vec<Fault>>,
    pub(crate) down: Mutex<bool>,
    pub(crate) clock: Arc<HandClock>,
}

impl TestStore {
    /// A store, and a log on it for a new home.
    pub(crate) fn with_log() -> (Arc<Self>, Log) {
        let store = Arc::new(Self::default());
        let log = store.log(&HomeId::generate());
        (store, log)
    }

    /// A log of `home` on this store.
    pub(crate) fn log(self: &Arc<Self>, home: &HomeId) -> Log {
        Log::new(self.clone(), self.clock.clone(), home.clone())
    }

    /// Keys there are.
    pub(crate) fn keys(&self) -> Vec<String> {
        self.objects.lock().keys().cloned().collect()
    }

    /// Calls since the last time this was asked.
    pub(crate) fn take_calls(&self) -> Vec<String> {
        std::mem::take(&mut *self.calls.lock())
    }

    /// Changes one byte of an object.
    pub(crate) fn damage(&self, key: &str, at: usize) {
        let mut objects = self.objects.lock();
        let mut bytes = objects[key].to_vec();
        bytes[at] ^= 1;
        objects.insert(key.to_owned(), bytes.into());
    }

    fn note(&self, verb: &str, key: &str) -> objstore::Result<()> {
        self.calls.lock().push(format!("{verb} {key}"));
        if *self.down.lock() { Err(unavailable()) } else { Ok(()) }
    }

    fn fault(&self) -> Option<Fault> {
        let mut faults = self.faults.lock();
        if faults.is_empty() { None } else { Some(faults.remove(0)) }
    }
}

fn unavailable() -> objstore::Error {
    objstore::Error::Unavailable { message: "told to fail".into() }
}

fn not_found(key: &str) -> objstore::Error {
    objstore::Error::NotFound { key: key.into() }
}

#[async_trait]
impl ObjectStore for TestStore {
    async fn put(&self, key: &str, body: Bytes) -> objstore::Result<()> {
        self.note("put", key)?;
        let fault = self.fault();
        if fault != Some(Fault::RequestLost) {
            self.objects.lock().insert(key.to_owned(), body);
        }
        fault.map_or(Ok(()), |_| Err(unavailable()))
    }

    async fn create(&self, key: &str, body: Bytes) -> objstore::Result<()> {
        self.note("create", key)?;
        // Lets others in between, so that races are races.
        tokio::task::yield_now().await;
        let fault = self.fault();
        if fault == Some(Fault::RequestLost) {
            return Err(unavailable());
        }
        {
            let mut objects = self.objects.lock();
            match objects.get(key) {
                Some(there) if *there != body => {
                    return Err(objstore::Error::Exists { key: key.into() });
                }
                _ => objects.insert(key.to_owned(), body),
            };
        }
        fault.map_or(Ok(()), |_| Err(unavailable()))
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> objstore::Result<Bytes> {
        self.note("get", key)?;
        let objects = self.objects.lock();
        let object = objects.get(key).ok_or_else(|| not_found(key))?;
        let Some(range) = range else { return Ok(object.clone()) };
        let end = (range.end as usize).min(object.len());
        Ok(object.slice((range.start as usize).min(end)..end))
    }

    async fn head(&self, key: &str) -> objstore::Result<ObjectMeta> {
        self.note("head", key)?;
        let objects = self.objects.lock();
        let object = objects.get(key).ok_or_else(|| not_found(key))?;
        Ok(ObjectMeta { key: key.to_owned(), size: object.len() as u64 })
    }

    async fn delete(&self, key: &str) -> objstore::Result<()> {
        self.note("delete", key)?;
        self.objects.lock().remove(key);
        Ok(())
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        max: usize,
    ) -> objstore::Result<Vec<ObjectMeta>> {
        self.note("list", prefix)?;
        let objects = self.objects.lock();
        let wanted = |key: &str| key.starts_with(prefix) && after.is_none_or(|after| key > after);
        Ok(objects
            .iter()
            .filter(|(key, _)| wanted(key))
            .take(max.min(1_000))
            .map(|(key, body)| ObjectMeta { key: key.clone(), size: body.len() as u64 })
            .collect())
    }
}
