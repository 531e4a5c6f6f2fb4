//! The mark of a store: whether its objects are encrypted, and with which keys.
//!
//! # Order
//! The mark is read. Where there is none and the store is unused, it is made, to what the keys at hand
//! say; a store that was used before there were marks is a plain one. Keys that are new to the store are
//! added to its mark before anything is stored with them.
//!
//! # Invariants
//! - A store is encrypted whole or not at all, for ever. So no reader has to guess, and what somebody
//!   puts into an encrypted store in plain is never taken for content.
//! - Every key that may have been used is needed: without one of them, something could not be read.
//!
//! # Failure
//! [`Error::Unusable`] with what to do.

use std::collections::BTreeMap;
use std::sync::Arc;

use base::Entropy;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::Encrypted;
use super::keys::{Key, KeyRing};
use crate::limits::MARK_BYTES_MAX;
use crate::{Error, ObjectStore, Result};

/// The key of the mark.
pub const MARK_KEY: &str = "dormouse-store.json";
const FORMAT: u32 = 1;
const CIPHER: &str = "xchacha20-poly1305";
/// What a store that is in use has something below.
const USED: [&str; 2] = ["homes/", "machines/"];
/// Races with other servers that start on the same unused store.
const ATTEMPTS: usize = 4;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Mark {
    format: u32,
    /// `None`: objects are stored as they are.
    encryption: Option<Encryption>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Encryption {
    cipher: String,
    /// By id, what tells whether a key is the right one.
    keys: BTreeMap<u8, String>,
}

/// The store to use: `store` itself where it is a plain one, else an [`Encrypted`] view of it.
///
/// # Errors
/// [`Error::Unusable`] where keys and store do not fit: it is encrypted and there is no key, a wrong
/// one, or one too few; or it is plain and there is a key. Else what the store answers.
pub async fn unlock(
    store: Arc<dyn ObjectStore>,
    keys: Option<KeyRing>,
    entropy: Arc<dyn Entropy>,
) -> Result<Arc<dyn ObjectStore>> {
    let mark = match read(store.as_ref()).await? {
        Some(mark) => mark,
        None => make(store.as_ref(), keys.as_ref()).await?,
    };
    if let Some(more) = mark.admit(keys.as_ref())? {
        store.put(MARK_KEY, more.bytes()).await?;
    }
    Ok(view(store, keys, entropy))
}

/// As [`unlock`], for who only reads: stores nothing, neither the mark of an unused store nor that
/// there is a newer key.
///
/// # Errors
/// As [`unlock`].
pub async fn unlock_to_read(
    store: Arc<dyn ObjectStore>,
    keys: Option<KeyRing>,
    entropy: Arc<dyn Entropy>,
) -> Result<Arc<dyn ObjectStore>> {
    check_keys(store.as_ref(), keys.as_ref()).await?;
    Ok(view(store, keys, entropy))
}

fn view(
    store: Arc<dyn ObjectStore>,
    keys: Option<KeyRing>,
    entropy: Arc<dyn Entropy>,
) -> Arc<dyn ObjectStore> {
    match keys {
        None => store,
        Some(keys) => Arc::new(Encrypted::new(store, keys, entropy)),
    }
}

/// Whether [`unlock`] would succeed. Stores nothing.
///
/// # Errors
/// As [`unlock`].
pub async fn check_keys(store: &dyn ObjectStore, keys: Option<&KeyRing>) -> Result<()> {
    let mark = match read(store).await? {
        Some(mark) => mark,
        None if is_used(store).await? => Mark::PLAIN,
        None => return Ok(()),
    };
    mark.admit(keys).map(drop)
}

async fn read(store: &dyn ObjectStore) -> Result<Option<Mark>> {
    let bytes = match store.get(MARK_KEY, Some(0..MARK_BYTES_MAX + 1)).await {
        Ok(bytes) if bytes.len() as u64 <= MARK_BYTES_MAX => bytes,
        Ok(_) => return Err(Error::corrupt(MARK_KEY, "it is too long")),
        Err(Error::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    let corrupt = |_| Error::corrupt(MARK_KEY, "it cannot be read; restore it from a backup");
    let format: Format = serde_json::from_slice(&bytes).map_err(corrupt)?;
    if format.format != FORMAT {
        return Err(Error::unusable(format!(
            "the mark of the object store has format {}, this version reads {FORMAT}: use a newer server",
            format.format
        )));
    }
    let mark: Mark = serde_json::from_slice(&bytes).map_err(corrupt)?;
    match &mark.encryption {
        Some(encryption) if encryption.cipher != CIPHER => Err(Error::unusable(format!(
            "the object store is encrypted with {:?}, which this version does not know: use a newer server",
            encryption.cipher
        ))),
        _ => Ok(Some(mark)),
    }
}

/// What every format's mark has.
#[derive(Debug, Deserialize)]
struct Format {
    format: u32,
}

/// Marks a store that has none.
async fn make(store: &dyn ObjectStore, keys: Option<&KeyRing>) -> Result<Mark> {
    let used = is_used(store).await?;
    let encryption = keys.filter(|_| !used).map(Encryption::with);
    let mark = Mark { format: FORMAT, encryption };
    for _ in 0..ATTEMPTS {
        match store.create(MARK_KEY, mark.bytes()).await {
            Ok(()) => return Ok(mark),
            Err(Error::Exists { .. }) => {}
            Err(error) => return Err(error),
        }
        if let Some(theirs) = read(store).await? {
            return Ok(theirs);
        }
    }
    Err(Error::unavailable("the mark of the object store is made and deleted over and over"))
}

/// Whether anything of ours is there: a server has opened it before. Stores nothing.
///
/// # Errors
/// What the store answers.
pub async fn was_opened(store: &dyn ObjectStore) -> Result<bool> {
    match store.head(MARK_KEY).await {
        Ok(_) => Ok(true),
        Err(Error::NotFound { .. }) => is_used(store).await,
        Err(error) => Err(error),
    }
}

async fn is_used(store: &dyn ObjectStore) -> Result<bool> {
    for prefix in USED {
        if !store.list(prefix, None, 1).await?.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

impl Mark {
    const PLAIN: Self = Self { format: FORMAT, encryption: None };

    /// Compares it with the keys at hand; what it must become where some of them are new.
    fn admit(&self, keys: Option<&KeyRing>) -> Result<Option<Self>> {
        match (&self.encryption, keys) {
            (None, None) => Ok(None),
            (None, Some(_)) => Err(Error::unusable(
                "this object store is not encrypted, yet there is an encryption key: that is decided when \
                 a store is first used; take the key out of the configuration, or use another store (one \
                 in which nothing was stored yet: delete its object dormouse-store.json)",
            )),
            (Some(encryption), None) => Err(Error::unusable(format!(
                "this object store is encrypted (key ids {}): give its keys with --encryption-key-file or \
                 --encryption-key-command",
                ids(encryption.keys.keys().copied()),
            ))),
            (Some(encryption), Some(keys)) => {
                let more = encryption.admit(keys)?;
                Ok(more.map(|more| Self { format: FORMAT, encryption: Some(more) }))
            }
        }
    }

    fn bytes(&self) -> Bytes {
        serde_json::to_vec(self).expect("a mark is plain data with string keys").into()
    }
}

impl Encryption {
    fn with(keys: &KeyRing) -> Self {
        let keys = keys.iter().map(|key| (key.id, key.check.clone())).collect();
        Self { cipher: CIPHER.to_owned(), keys }
    }

    /// Compares; what the mark must become where there are new keys.
    fn admit(&self, keys: &KeyRing) -> Result<Option<Self>> {
        let wrong = |key: &&Key| self.keys.get(&key.id).is_some_and(|check| *check != key.check);
        if let Some(key) = keys.iter().find(wrong) {
            return Err(Error::unusable(format!(
                "encryption key {} is not the one that this object store was encrypted with: restore the \
                 right key; a new key takes a new id",
                key.id
            )));
        }
        let missing: Vec<u8> =
            self.keys.keys().copied().filter(|id| keys.get(*id).is_none()).collect();
        if !missing.is_empty() {
            return Err(Error::unusable(format!(
                "this object store also has objects under encryption keys that are not given (ids {}): put \
                 their lines back, older ones first",
                ids(missing)
            )));
        }
        let all = Self::with(keys);
        Ok((all != *self).then_some(all))
    }
}

fn ids(ids: impl IntoIterator<Item = u8>) -> String {
    ids.into_iter().map(|id| id.to_string()).collect::<Vec<_>>().join(", ")
}
