//! One machine's upper: where it lies on this host, and where in the store.

use std::path::PathBuf;
use std::sync::Arc;

use base::{Epoch, MachineId};
use objstore::ObjectStore;

use crate::error::{Error, Result, blocking};
use crate::file;
use crate::keys::{Generation, Keys, Kind};
use crate::manifest::{MANIFEST_BYTES_MAX, Manifest};
use crate::remote::Remote;
use crate::state::{self, Standing, State};

/// Files of an upper on this host, all in one directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// The disk itself.
    pub disk: PathBuf,
    /// What is known of it.
    pub state: PathBuf,
    /// Locked while that is changed.
    pub lock: PathBuf,
    /// A copy of the newest manifest.
    pub manifest: PathBuf,
    /// Which chunks of the disk are still in the store, where some are.
    pub missing: PathBuf,
    /// A disk that is being made for what is in the store.
    pub fetched: PathBuf,
    /// A memory that is being fetched.
    pub memory_fetched: PathBuf,
}

/// One machine's upper.
#[derive(Debug, Clone)]
pub struct Upper {
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) keys: Keys,
    pub(crate) files: Files,
}

/// What a look at the generations found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Log {
    /// In ascending order.
    pub(crate) manifests: Vec<Generation>,
    /// Runs that changed the upper, in ascending order.
    pub(crate) changed: Vec<Epoch>,
    /// Runs whose memory is there, in ascending order.
    pub(crate) memory: Vec<Epoch>,
}

impl Log {
    pub(crate) fn newest(&self) -> Option<Generation> {
        self.manifests.last().copied()
    }

    /// The last run that changed something or stored it. What it left may count for nothing by now.
    pub(crate) fn last_change(&self) -> Option<Epoch> {
        let stored = self.manifests.iter().filter(|one| one.kind == Kind::Stored);
        stored.map(|one| one.epoch).chain(self.changed.iter().copied()).max()
    }

    /// The last run whose changes are not stored, and could still be.
    pub(crate) fn pending(&self) -> Option<Epoch> {
        let last = *self.changed.last()?;
        let settled = self.newest().is_some_and(|newest| match newest.kind {
            Kind::Stored => newest.epoch >= last,
            Kind::Begun => newest.epoch > last,
        });
        (!settled).then_some(last)
    }
}

impl Upper {
    /// The upper of `machine`.
    #[must_use]
    pub fn new(store: Arc<dyn ObjectStore>, machine: &MachineId, files: Files) -> Self {
        Self { store, keys: Keys::of(machine), files }
    }

    /// How far it is in the store, as this host knows it. Reads a small file.
    #[must_use]
    pub fn standing(files: &Files) -> Standing {
        state::standing(&files.state, &files.disk)
    }

    /// Whether the memory that the last run left is in the store, as this host knows it. Reads a small file.
    #[must_use]
    pub fn memory_is_stored(files: &Files) -> bool {
        State::read(&files.state).memory_is_stored()
    }

    pub(crate) async fn state(&self) -> Result<State> {
        let path = self.files.state.clone();
        blocking(move || Ok(State::read(&path))).await
    }

    /// Changes the note.
    pub(crate) async fn note<T: Send + 'static>(
        &self,
        change: impl FnOnce(&mut State) -> T + Send + 'static,
    ) -> Result<T> {
        let files = self.files.clone();
        blocking(move || State::change(&files, change)).await
    }

    /// What is below `log/`.
    pub(crate) async fn log(&self) -> Result<Log> {
        self.remote().log().await
    }

    /// What the store has of it, whatever this host has.
    pub(crate) fn remote(&self) -> Remote {
        Remote { store: self.store.clone(), keys: self.keys.clone() }
    }

    /// A manifest, from this host where it has it.
    pub(crate) async fn manifest(&self, generation: Generation) -> Result<Manifest> {
        let key = self.keys.manifest(generation);
        let (path, name) = (self.files.manifest.clone(), key.clone());
        let here = blocking(move || {
            let is_long =
                std::fs::metadata(&path).is_ok_and(|meta| meta.len() > MANIFEST_BYTES_MAX);
            let bytes = if is_long { Vec::new() } else { std::fs::read(&path).unwrap_or_default() };
            Ok(Manifest::decode(&name, generation, &bytes).ok())
        })
        .await?;
        match here {
            Some(manifest) => Ok(manifest),
            None => self.stored_manifest(generation).await,
        }
    }

    /// A manifest as the store has it.
    pub(crate) async fn stored_manifest(&self, generation: Generation) -> Result<Manifest> {
        self.remote().manifest(generation).await
    }

    /// Keeps a copy of the newest manifest here. It can be had again, so failing does not matter.
    pub(crate) async fn keep(&self, manifest: &Manifest) {
        let (path, bytes) = (self.files.manifest.clone(), manifest.encode());
        let kept = blocking(move || {
            file::replace(&path, &bytes).map_err(Error::disk("keep a copy of a manifest"))
        });
        if let Err(error) = kept.await {
            tracing::warn!(%error, "keep a copy of a manifest");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_pending_until_their_run_or_a_later_wake_has_a_generation() {
        let generation = |epoch, kind| Generation { epoch: Epoch(epoch), kind };
        let pending = |manifests: &[Generation], changed: &[u64]| {
            let changed = changed.iter().map(|epoch| Epoch(*epoch)).collect();
            Log { manifests: manifests.to_vec(), changed, memory: Vec::new() }.pending()
        };
        assert_eq!(pending(&[], &[]), None);
        assert_eq!(pending(&[], &[4]), Some(Epoch(4)));
        assert_eq!(pending(&[generation(4, Kind::Begun)], &[4]), Some(Epoch(4)));
        assert_eq!(pending(&[generation(4, Kind::Stored)], &[4]), None);
        assert_eq!(pending(&[generation(5, Kind::Begun)], &[4]), None);
        assert_eq!(pending(&[generation(4, Kind::Stored)], &[4, 6]), Some(Epoch(6)));
    }
}
