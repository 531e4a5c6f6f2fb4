//! An object store in memory that can be broken.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use objstore::{Error, ObjectMeta, ObjectStore, Result};
use parking_lot::Mutex;

/// An object store in memory that can be broken.
#[derive(Debug, Default)]
pub struct MemoryStore {
    objects: Mutex<BTreeMap<String, Bytes>>,
    broken: AtomicBool,
}

impl MemoryStore {
    /// An empty one.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// Makes every call fail, or work again.
    pub fn break_down(&self, broken: bool) {
        self.broken.store(broken, Ordering::SeqCst);
    }

    /// All keys.
    #[must_use]
    pub fn keys(&self) -> Vec<String> {
        self.objects.lock().keys().cloned().collect()
    }

    fn check(&self) -> Result<()> {
        if self.broken.load(Ordering::SeqCst) {
            return Err(Error::Unavailable { message: "broken by a test".to_owned() });
        }
        Ok(())
    }
}

#[async_trait]
impl ObjectStore for MemoryStore {
    async fn put(&self, key: &str, body: Bytes) -> Result<()> {
        self.check()?;
        self.objects.lock().insert(key.to_owned(), body);
        Ok(())
    }

    async fn create(&self, key: &str, body: Bytes) -> Result<()> {
        self.check()?;
        let mut objects = self.objects.lock();
        if objects.get(key).is_some_and(|there| *there != body) {
            return Err(Error::Exists { key: key.to_owned() });
        }
        objects.insert(key.to_owned(), body);
        Ok(())
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes> {
        self.check()?;
        let objects = self.objects.lock();
        let body = objects.get(key).ok_or_else(|| Error::NotFound { key: key.to_owned() })?;
        let Some(range) = range else { return Ok(body.clone()) };
        let clip = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(body.len());
        Ok(body.slice(clip(range.start)..clip(range.end)))
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta> {
        let size = self.get(key, None).await?.len() as u64;
        Ok(ObjectMeta { key: key.to_owned(), size })
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.check()?;
        self.objects.lock().remove(key);
        Ok(())
    }

    async fn list(&self, prefix: &str, after: Option<&str>, max: usize) -> Result<Vec<ObjectMeta>> {
        self.check()?;
        let objects = self.objects.lock();
        let found = objects.iter().filter(|(key, _)| {
            key.starts_with(prefix) && after.is_none_or(|after| key.as_str() > after)
        });
        Ok(found
            .take(max)
            .map(|(key, body)| ObjectMeta { key: key.clone(), size: body.len() as u64 })
            .collect())
    }
}
