//! A store in a cloud, through the `object_store` crate.
//!
//! # Order of a create
//! PUT with `If-None-Match: *`. Where the answer is lost, PUT again. Where something is there, or
//! another writer was at it (409), read it back: our bytes mean that we won, other bytes that we
//! lost, nothing that the other writer failed too, so PUT again. All within one [`Policy`].
//!
//! # Failure
//! `object_store` retries nothing itself: it would turn a lost reply into "exists already" and a
//! 409 into a lost race. Every attempt has a timeout of its own, as has every pause within a body.
//!
//! # Not here
//! Which store (`cloud`), what a failure means (`classify`), how long to go on (`retry`).

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt};
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectStoreExt, PutMode, PutOptions};
use tokio::time::timeout;

use crate::classify::Failure;
use crate::limits::LIST_MAX;
use crate::retry::{Policy, Retry};
use crate::{Error, ObjectMeta, ObjectStore, Result, key};

/// A store in a cloud.
#[derive(Clone)]
pub(crate) struct Remote {
    store: Arc<dyn object_store::ObjectStore>,
    /// Put before every key, with its slash; empty for none.
    prefix: String,
    policy: Policy,
}

type Attempt<T> = std::result::Result<T, Failure>;

impl Remote {
    pub(crate) fn new(store: Arc<dyn object_store::ObjectStore>, prefix: &str) -> Self {
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        Self { store, prefix, policy: Policy::PATIENT }
    }

    pub(crate) fn with_policy(self, policy: Policy) -> Self {
        Self { policy, ..self }
    }

    fn path(&self, key: &str) -> Result<Path> {
        key::check(key)?;
        parse(&format!("{}{key}", self.prefix))
    }

    async fn put_once(&self, path: &Path, body: Bytes, mode: PutMode) -> Attempt<()> {
        let limit = self.policy.upload_timeout(body.len());
        let options = PutOptions { mode, ..PutOptions::default() };
        self.within(limit, self.store.put_opts(path, body.into(), options)).await.map(drop)
    }

    async fn get_once(&self, path: &Path, range: Option<Range<u64>>) -> Attempt<Bytes> {
        let options = GetOptions { range: range.map(GetRange::Bounded), ..GetOptions::default() };
        let limit = self.policy.attempt_timeout;
        let answer = self.within(limit, self.store.get_opts(path, options)).await?;
        let expected = answer.range.end - answer.range.start;
        let mut stream = answer.into_stream();
        let mut body = BytesMut::new();
        while let Some(part) = next(&mut stream, limit).await? {
            body.extend_from_slice(&part);
            if body.len() as u64 > expected {
                break;
            }
        }
        if body.len() as u64 != expected {
            return Err(Failure::Passing("a body of another length than announced".to_owned()));
        }
        Ok(body.freeze())
    }

    async fn list_once(
        &self,
        prefix: &str,
        after: Option<&Path>,
        max: usize,
    ) -> Attempt<Vec<ObjectMeta>> {
        let root = Path::parse(format!("{}{prefix}", self.prefix)).map_err(|_| {
            Failure::Unusable("the prefix of the store URL is not usable".to_owned())
        })?;
        let mut stream = match after {
            Some(after) => self.store.list_with_offset(Some(&root), after),
            None => self.store.list(Some(&root)),
        };
        let mut found: Vec<ObjectMeta> = Vec::new();
        while found.len() < max {
            let Some(meta) = next(&mut stream, self.policy.attempt_timeout).await? else { break };
            let Some(key) = meta.location.as_ref().strip_prefix(&self.prefix) else { continue };
            if found.last().is_some_and(|last| last.key.as_str() >= key) {
                return Err(Failure::Unusable(
                    "the object store does not list in order of key: use a general purpose bucket"
                        .to_owned(),
                ));
            }
            found.push(ObjectMeta { key: key.to_owned(), size: meta.size });
        }
        Ok(found)
    }

    async fn within<T>(
        &self,
        limit: Duration,
        call: impl Future<Output = object_store::Result<T>>,
    ) -> Attempt<T> {
        Ok(timeout(limit, call).await.map_err(|_| Failure::timed_out())??)
    }

    /// What a create that met something comes to: `None` where it has to be made again.
    async fn settle(&self, key: &str, body: &Bytes) -> Result<Option<()>> {
        match self.get(key, None).await {
            Ok(stored) if stored == *body => Ok(Some(())),
            Ok(_) => Err(Error::exists(key)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

#[async_trait]
impl ObjectStore for Remote {
    async fn put(&self, key: &str, body: Bytes) -> Result<()> {
        let path = self.path(key)?;
        let mut retry = Retry::new(self.policy);
        loop {
            match self.put_once(&path, body.clone(), PutMode::Overwrite).await {
                Ok(()) => return Ok(()),
                // Without a condition, 409 is another writer of the same moment.
                Err(Failure::Occupied) => {
                    let conflict = Failure::Passing("another writer was at it".to_owned());
                    retry.again("put", key, conflict).await?;
                }
                Err(failure) => retry.again("put", key, failure).await?,
            }
        }
    }

    async fn create(&self, key: &str, body: Bytes) -> Result<()> {
        let path = self.path(key)?;
        let mut retry = Retry::new(self.policy);
        loop {
            let failure = match self.put_once(&path, body.clone(), PutMode::Create).await {
                Ok(()) => return Ok(()),
                Err(Failure::Occupied) => match self.settle(key, &body).await? {
                    Some(()) => return Ok(()),
                    None => Failure::Passing("refused, yet there is no such object".to_owned()),
                },
                Err(failure) => failure,
            };
            retry.again("create", key, failure).await?;
        }
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes> {
        let path = self.path(key)?;
        if range.as_ref().is_some_and(Range::is_empty) {
            // HTTP has no empty range; whether the object is there still counts.
            return self.head(key).await.map(|_| Bytes::new());
        }
        let mut retry = Retry::new(self.policy);
        loop {
            match self.get_once(&path, range.clone()).await {
                Ok(body) => return Ok(body),
                Err(Failure::BeyondEnd) => return Ok(Bytes::new()),
                Err(failure) => retry.again("get", key, failure).await?,
            }
        }
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta> {
        let path = self.path(key)?;
        let mut retry = Retry::new(self.policy);
        loop {
            match self.within(self.policy.attempt_timeout, self.store.head(&path)).await {
                Ok(meta) => return Ok(ObjectMeta { key: key.to_owned(), size: meta.size }),
                Err(failure) => retry.again("head", key, failure).await?,
            }
        }
    }

    async fn delete(&self, key: &str) -> Result<()> {
        let path = self.path(key)?;
        let mut retry = Retry::new(self.policy);
        loop {
            match self.within(self.policy.attempt_timeout, self.store.delete(&path)).await {
                Ok(()) | Err(Failure::Missing) => return Ok(()),
                Err(failure) => retry.again("delete", key, failure).await?,
            }
        }
    }

    async fn list(&self, prefix: &str, after: Option<&str>, max: usize) -> Result<Vec<ObjectMeta>> {
        key::check_prefix(prefix)?;
        let after = after.map(|key| self.path(key)).transpose()?;
        let max = max.min(LIST_MAX);
        let mut retry = Retry::new(self.policy);
        loop {
            match self.list_once(prefix, after.as_ref(), max).await {
                Ok(found) => return Ok(found),
                Err(failure) => retry.again("list", prefix, failure).await?,
            }
        }
    }
}

impl fmt::Debug for Remote {
    /// Not the store itself: its settings hold the credential.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

fn parse(path: &str) -> Result<Path> {
    Path::parse(path).map_err(|_| Error::BadKey { reason: "the store's client does not take it" })
}

/// The next item of an answer that must not pause for longer than `limit`.
async fn next<T>(
    stream: &mut (impl Stream<Item = object_store::Result<T>> + Unpin),
    limit: Duration,
) -> Attempt<Option<T>> {
    let item = timeout(limit, stream.next()).await.map_err(|_| Failure::timed_out())?;
    Ok(item.transpose()?)
}
