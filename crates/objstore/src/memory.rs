//! A store in memory, for tests: gone with the process, and the plainest statement of what the
//! trait means.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Bound, Range};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;

use crate::limits::LIST_MAX;
use crate::{Error, ObjectMeta, ObjectStore, Result, key};

/// A store in memory.
#[derive(Default)]
pub struct MemoryStore {
    objects: Mutex<BTreeMap<String, Bytes>>,
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore").field("objects", &self.objects.lock().len()).finish()
    }
}

#[async_trait]
impl ObjectStore for MemoryStore {
    async fn put(&self, key: &str, body: Bytes) -> Result<()> {
        key::check(key)?;
        self.objects.lock().insert(key.to_owned(), body);
        Ok(())
    }

    async fn create(&self, key: &str, body: Bytes) -> Result<()> {
        key::check(key)?;
        let mut objects = self.objects.lock();
        match objects.get(key) {
            None => {
                objects.insert(key.to_owned(), body);
                Ok(())
            }
            Some(stored) if *stored == body => Ok(()),
            Some(_) => Err(Error::exists(key)),
        }
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes> {
        key::check(key)?;
        let body = self.objects.lock().get(key).cloned().ok_or_else(|| Error::not_found(key))?;
        let Some(range) = range else { return Ok(body) };
        let clip = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(body.len());
        let (start, end) = (clip(range.start), clip(range.end));
        Ok(if start < end { body.slice(start..end) } else { Bytes::new() })
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta> {
        key::check(key)?;
        let size = self.objects.lock().get(key).map(Bytes::len);
        let size = size.ok_or_else(|| Error::not_found(key))? as u64;
        Ok(ObjectMeta { key: key.to_owned(), size })
    }

    async fn delete(&self, key: &str) -> Result<()> {
        key::check(key)?;
        self.objects.lock().remove(key);
        Ok(())
    }

    async fn list(&self, prefix: &str, after: Option<&str>, max: usize) -> Result<Vec<ObjectMeta>> {
        key::check_prefix(prefix)?;
        let start = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let objects = self.objects.lock();
        Ok(objects
            .range::<str, _>((start, Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix))
            .take(max.min(LIST_MAX))
            .map(|(key, body)| ObjectMeta { key: key.clone(), size: body.len() as u64 })
            .collect())
    }
}
