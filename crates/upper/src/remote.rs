//! What the store has of one machine's upper, as any host sees it.

use std::sync::Arc;

use base::{Epoch, MachineId};
use objstore::ObjectStore;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result, blocking};
use crate::keys::{Entry, Generation, Keys};
use crate::limits::{LIST_PAGE, LOG_NAMES_MAX, SMALL_JSON_MAX};
use crate::manifest::{MANIFEST_BYTES_MAX, Manifest};
use crate::memory::Image;
use crate::place::Log;

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct Remote {
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) keys: Keys,
}

/// What every format of a small object says.
#[derive(serde::Deserialize)]
struct Versioned {
    format: u32,
}

impl Remote {
    pub(crate) fn of(store: &Arc<dyn ObjectStore>, machine: &MachineId) -> Self {
        Self { store: store.clone(), keys: Keys::of(machine) }
    }

    /// The same of another machine.
    pub(crate) fn other(&self, machine: &MachineId) -> Self {
        Self::of(&self.store, machine)
    }

    /// What is below `log/`.
    pub(crate) async fn log(&self) -> Result<Log> {
        let mut log = Log::default();
        for key in self.names(&self.keys.log()).await? {
            match self.keys.entry(&key) {
                Some(Entry::Manifest(generation)) => log.manifests.push(generation),
                Some(Entry::Changed(epoch)) => log.changed.push(epoch),
                Some(Entry::Memory(epoch)) => log.memory.push(epoch),
                None => {}
            }
        }
        Ok(log)
    }

    /// All names below `prefix`, of which there are not many.
    pub(crate) async fn names(&self, prefix: &str) -> Result<Vec<String>> {
        let (mut names, mut after) = (Vec::new(), None::<String>);
        loop {
            let page = self.store.list(prefix, after.as_deref(), LIST_PAGE).await?;
            let (full, last) = (page.len() == LIST_PAGE, page.last().map(|last| last.key.clone()));
            // Those that are none of ours, too: nothing else ends a list that has no end.
            if names.len() + page.len() > LOG_NAMES_MAX {
                return Err(Error::damaged(prefix, "there are too many names in it"));
            }
            names.extend(page.into_iter().map(|object| object.key));
            match last {
                Some(last) if full => after = Some(last),
                _ => return Ok(names),
            }
        }
    }

    /// A manifest as the store has it.
    pub(crate) async fn manifest(&self, generation: Generation) -> Result<Manifest> {
        let key = self.keys.manifest(generation);
        let bytes = self.store.get(&key, Some(0..MANIFEST_BYTES_MAX + 1)).await?;
        blocking(move || Manifest::decode(&key, generation, &bytes)).await
    }

    /// The manifest of a memory, that the run of `epoch` left, under the name `key`.
    pub(crate) async fn image(&self, key: String, epoch: Epoch) -> Result<Image> {
        let bytes = self.store.get(&key, Some(0..crate::memory::BYTES_MAX + 1)).await?;
        blocking(move || Image::decode(&key, epoch, &bytes)).await
    }

    /// A small object of a format up to `known`; `None` where there is none.
    ///
    /// # Errors
    /// `Corrupt` for one that cannot be read: whoever asks in order to delete something must not go on then.
    pub(crate) async fn small<T: DeserializeOwned>(
        &self,
        key: &str,
        known: u32,
    ) -> Result<Option<T>> {
        let bytes = match self.store.get(key, Some(0..SMALL_JSON_MAX)).await {
            Err(objstore::Error::NotFound { .. }) => return Ok(None),
            bytes => bytes?,
        };
        parse(key, &bytes, known).map(Some)
    }
}

/// Reads the small object `key`.
pub(crate) fn parse<T: DeserializeOwned>(key: &str, bytes: &[u8], known: u32) -> Result<T> {
    let bad = |_| Error::damaged(key, "it cannot be read");
    let Versioned { format } = serde_json::from_slice(bytes).map_err(bad)?;
    if format > known {
        return Err(Error::Unsupported { key: key.to_owned(), format, known });
    }
    serde_json::from_slice(bytes).map_err(bad)
}

/// `None` where the store has it not.
pub(crate) fn found<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Err(Error::Store(objstore::Error::NotFound { .. })) => Ok(None),
        result => result.map(Some),
    }
}
