//! A store opened from its URL.
//!
//! # Not here
//! Whether it can be trusted: call [`Backend::probe`] before anything is stored.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::file::FileStore;
use crate::location::Location;
use crate::memory::MemoryStore;
use crate::remote::Remote;
use crate::retry::Policy;
use crate::{Error, ObjectMeta, ObjectStore, Result, cloud, probe};

/// An object store, opened. Clones share connections (and, for `memory://`, the objects).
#[derive(Debug, Clone)]
pub struct Backend {
    location: Location,
    inner: Inner,
}

#[derive(Debug, Clone)]
enum Inner {
    Memory(Arc<MemoryStore>),
    File(FileStore),
    Remote(Remote),
}

impl Backend {
    /// Opens the store at `url`: `file:///abs/path`, `s3://bucket/prefix`, `gs://bucket/prefix`,
    /// `az://container/prefix`, or `memory://`, which begins empty and is gone with its last clone.
    ///
    /// `env` looks up the provider's usual variables (`AWS_…`, `GOOGLE_…`, `AZURE_…`). Nothing is
    /// sent; a file store's directory is made and written to. Blocks for as long as that takes.
    ///
    /// # Errors
    /// [`Error::Unusable`](crate::Error::Unusable) where URL or variables cannot be right;
    /// for a file store also what the directory answers.
    pub fn open(url: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Self> {
        Self::open_with(url, env, FileStore::open)
    }

    /// The same for one that another process of this host has opened and keeps open.
    ///
    /// # Errors
    /// As [`Backend::open`].
    pub fn reopen(url: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Self> {
        Self::open_with(url, env, FileStore::reopen)
    }

    fn open_with(
        url: &str,
        env: &dyn Fn(&str) -> Option<String>,
        open_directory: fn(&Path) -> Result<FileStore>,
    ) -> Result<Self> {
        let location = Location::parse(url)?;
        let inner = match &location {
            Location::Memory => Inner::Memory(Arc::new(MemoryStore::new())),
            Location::File(root) => Inner::File(open_directory(root)?),
            Location::Cloud { provider, bucket, prefix } => {
                Inner::Remote(Remote::new(cloud::client(*provider, bucket, env)?, prefix))
            }
        };
        Ok(Self { location, inner })
    }

    /// The same for one that somebody has made already: no directory is made.
    ///
    /// # Errors
    /// As [`Backend::open`], also where a directory is not there.
    pub fn open_existing(url: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Self> {
        match Location::parse(url)? {
            Location::File(root) if !root.is_dir() => {
                Err(Error::unusable(format!("there is no directory {}", root.display())))
            }
            _ => Self::open(url, env),
        }
    }

    /// The URL, for people to read. It carries no secret.
    #[must_use]
    pub fn url(&self) -> String {
        self.location.to_string()
    }

    /// [`probe`](crate::probe), with less patience: says why within seconds when the store cannot be
    /// reached.
    ///
    /// # Errors
    /// As [`probe`](crate::probe).
    pub async fn probe(&self) -> Result<()> {
        match &self.inner {
            Inner::Remote(remote) => probe::probe(&remote.clone().with_policy(Policy::PROBE)).await,
            _ => probe::probe(self).await,
        }
    }

    fn store(&self) -> &dyn ObjectStore {
        match &self.inner {
            Inner::Memory(store) => store.as_ref(),
            Inner::File(store) => store,
            Inner::Remote(store) => store,
        }
    }
}

#[async_trait]
impl ObjectStore for Backend {
    async fn put(&self, key: &str, body: Bytes) -> Result<()> {
        self.store().put(key, body).await
    }

    async fn create(&self, key: &str, body: Bytes) -> Result<()> {
        self.store().create(key, body).await
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes> {
        self.store().get(key, range).await
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta> {
        self.store().head(key).await
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.store().delete(key).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, max: usize) -> Result<Vec<ObjectMeta>> {
        self.store().list(prefix, after, max).await
    }
}
