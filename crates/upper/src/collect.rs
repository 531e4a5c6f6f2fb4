//! Deleting what nobody needs any more.
//!
//! # Order
//! A generation has been the newest for a while ([`COLLECT_GRACE`](crate::COLLECT_GRACE)). The names in the
//! store are read, then the manifests from that generation on; what is older than it and named by none
//! of them, nor by a generation that is pinned, goes, chunks first. So do memories but for the newest, and packs of earlier runs that neither it nor a pinned one names.
//!
//! # Invariants
//! What an upload has under way is of a later epoch, or named by the newest generation. So is what anybody can
//! be reading: a wake creates a generation of its own before it reads. The newest memory is
//! what the next one may take packs over from, also where nobody can go on from it any more.

use std::sync::Arc;

use base::Epoch;
use futures::{StreamExt, TryStreamExt};
use objstore::ObjectStore;

use crate::error::{Error, Result};
use crate::keys::{Entry, Generation, Kind};
use crate::limits::{DELETES, LIST_PAGE};
use crate::pins::Named;
use crate::place::Upper;

/// What was deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Collected {
    /// How many objects.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl std::ops::AddAssign for Collected {
    fn add_assign(&mut self, more: Self) {
        self.objects += more.objects;
        self.bytes += more.bytes;
    }
}

impl Upper {
    /// Deletes what is older than `since`, a generation that has been there for
    /// [`COLLECT_GRACE`](crate::COLLECT_GRACE), and that nothing needs. It is the one that was the newest when
    /// that time began: one that came since has not been there for it.
    ///
    /// # Errors
    /// Those of the store. Any error while names are read deletes nothing. Calling again is safe.
    pub async fn collect(&self, since: Generation) -> Result<Collected> {
        let (remote, log) = (self.remote(), self.log().await?);
        // One that is gone was overtaken: whoever did that collects.
        if !log.manifests.contains(&since) {
            return Ok(Collected::default());
        }
        let mut named = Named::new();
        let mut content = Epoch::default();
        for generation in log.manifests.iter().filter(|generation| **generation >= since) {
            let manifest = self.manifest(*generation).await?;
            if *generation == since {
                content = manifest.content;
            }
            let chunks = manifest.chunks.values();
            remote.add(&mut named, chunks.map(|chunk| (chunk.digest, chunk.born)))?;
        }
        // After the time for which the generation has been there: what was pinned in time is seen.
        let pins = remote.pins().await?;
        remote.add_pinned(&pins, &mut named).await?;
        let is_pinned =
            |generation: &Generation| pins.iter().any(|(_, pin)| pin.generation == *generation);
        let memory = log.memory.last().copied();
        let packs = self.packs_of(memory).await?;
        let is_garbage = |key: &str| match self.keys.chunk_id(key) {
            Some(chunk) => chunk.1 <= newest_birth(since) && !named.contains(&chunk),
            None => false,
        };
        let mut collected = delete_where(&self.store, &self.keys.chunks(), is_garbage).await?;
        let is_old = |key: &str| match self.keys.entry(key) {
            Some(Entry::Manifest(generation)) if is_pinned(&generation) => false,
            // What is lost is said until there is something newer.
            Some(Entry::Manifest(Generation { epoch, kind: Kind::Stored })) if epoch > content => {
                false
            }
            Some(Entry::Changed(epoch)) => epoch <= content,
            Some(Entry::Memory(epoch)) => Some(epoch) < memory,
            Some(Entry::Manifest(generation)) => generation < since,
            None => false,
        };
        let names = delete_where(&self.store, &self.keys.log(), is_old).await?;
        let mut all = vec![names];
        if let Some(mut packs) = packs {
            // After the names, so that one of two sees the other: who pins a memory looks for its name after that.
            remote.add_pinned_packs(&mut packs).await?;
            // What is not older may be on its way, and not named yet.
            let until = memory.unwrap_or_default().max(since.epoch);
            let is_garbage = |key: &str| match self.keys.pack_id(key) {
                Some(pack) => pack.1 < until && !packs.contains(&pack),
                None => false,
            };
            all.push(delete_where(&self.store, &self.keys.packs(), is_garbage).await?);
        }
        for more in all {
            collected += more;
        }
        Ok(collected)
    }

    /// What the memory of a run names; `None` where that cannot be known, and nothing may be deleted.
    async fn packs_of(&self, memory: Option<Epoch>) -> Result<Option<Named>> {
        let Some(epoch) = memory else { return Ok(Some(Named::new())) };
        match self.stored_image(epoch).await {
            Ok(image) => {
                Ok(Some(image.packs.iter().map(|pack| (pack.digest, pack.born)).collect()))
            }
            Err(Error::Store(error)) if error.kind() != base::ErrorKind::NotFound => {
                Err(error.into())
            }
            Err(error) => {
                tracing::warn!(%error, "of the machine's memory nothing is collected");
                Ok(None)
            }
        }
    }

    /// Since which generation the store can be collected, where something may be needed no more although nothing newer
    /// came: once that has been there for [`COLLECT_GRACE`](crate::COLLECT_GRACE) from now on. `None` where there is
    /// nothing. Noted, where the machine ran here last.
    ///
    /// # Errors
    /// Those of store and disk.
    pub async fn freed(&self) -> Result<Option<Generation>> {
        let newest = self.log().await?.newest();
        if newest.is_some() && self.state().await?.parent == newest {
            self.note(move |state| state.uncollected |= state.parent == newest).await?;
        }
        Ok(newest)
    }

    /// Notes that everything up to `since` was collected. The machine may be awake.
    ///
    /// # Errors
    /// Those of the disk.
    pub async fn note_collected(&self, since: Generation) -> Result<()> {
        // The machine may be gone with all its files, too.
        if !self.state().await?.uncollected {
            return Ok(());
        }
        // One that was stored since has garbage of its own.
        self.note(move |state| state.uncollected &= state.parent != Some(since)).await
    }
}

/// The last epoch whose uploads are over once `since` is there.
fn newest_birth(since: Generation) -> Epoch {
    match since.kind {
        Kind::Stored => since.epoch,
        // The run itself may be storing by now.
        Kind::Begun => Epoch(since.epoch.0.saturating_sub(1)),
    }
}

pub(crate) async fn delete_where(
    store: &Arc<dyn ObjectStore>,
    prefix: &str,
    doomed: impl Fn(&str) -> bool,
) -> Result<Collected> {
    let (mut collected, mut after) = (Collected::default(), None::<String>);
    loop {
        let page = store.list(prefix, after.as_deref(), LIST_PAGE).await?;
        let (full, last) = (page.len() == LIST_PAGE, page.last().map(|last| last.key.clone()));
        let doomed: Vec<_> = page.into_iter().filter(|object| doomed(&object.key)).collect();
        collected.objects += doomed.len() as u64;
        collected.bytes += doomed.iter().map(|object| object.size).sum::<u64>();
        let each = doomed.into_iter().map(|object| async move { store.delete(&object.key).await });
        futures::stream::iter(each).buffer_unordered(DELETES).try_collect::<()>().await?;
        match last {
            Some(last) if full => after = Some(last),
            _ => return Ok(collected),
        }
    }
}
