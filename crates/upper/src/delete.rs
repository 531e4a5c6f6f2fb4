//! The end of a machine's upper.
//!
//! # Order
//! A mark says that the machine is deleted, and what it was forked from. Then the pins are read. Where no fork goes on
//! from it: names, all else, its pin in its parent, the parent itself where that is deleted and was kept for this
//! fork alone; last the mark. Where some do, all goes that they do not need; the last of them to go takes along the rest.
//!
//! # Failure
//! The first error ends it; calling again goes on: until the mark is gone, it says what is left to be done. A mark of a
//! machine that others go on from stays as long as they do.

use std::collections::HashSet;
use std::sync::Arc;

use base::{Digest, Epoch, MachineId};
use bytes::Bytes;
use objstore::ObjectStore;
use serde::{Deserialize, Serialize};

use crate::collect::{Collected, delete_where};
use crate::error::{Error, Result};
use crate::keys::{Entry, Generation};
use crate::pins::{Holder, Pin};
use crate::remote::{Remote, found};

/// What is written, and the largest that is read.
const FORMAT: u32 = 1;

/// The mark of a machine that is deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Grave {
    format: u32,
    /// What it was forked from, which keeps something for it.
    parent: Option<MachineId>,
}

/// Deletes all of a machine's upper from the store, and its memory, but for what forks of it need; idempotent.
///
/// # Errors
/// Those of the store; `Corrupt` where it is not certain what forks need. Calling again goes on.
pub async fn delete(store: &Arc<dyn ObjectStore>, machine: &MachineId) -> Result<Collected> {
    let (mut collected, mut gone) = (Collected::default(), Vec::new());
    let mut next = Some(Remote::of(store, machine));
    while let Some(one) = next.take() {
        let Some(grave) = one.bury().await? else { break };
        if !one.delete_unneeded(&mut collected).await? {
            break;
        }
        if let Some(parent) = grave.parent {
            let parent = one.other(&parent);
            parent.unpin(&Holder::Fork(one.machine()?)).await?;
            // One that lives goes on without it.
            if parent.grave().await?.is_some() {
                next = Some(parent);
            }
        }
        gone.push(one);
    }
    // The first one last: as long as it is there, all this is done again.
    for one in gone.iter().rev() {
        one.store.delete(&one.keys.grave()).await?;
    }
    Ok(collected)
}

impl Remote {
    /// The mark, where the machine is deleted.
    pub(crate) async fn grave(&self) -> Result<Option<Grave>> {
        self.small(&self.keys.grave(), FORMAT).await
    }

    pub(crate) fn machine(&self) -> Result<MachineId> {
        let damaged = |_| Error::damaged(self.keys.prefix(), "it is of no machine");
        self.keys.machine().parse().map_err(damaged)
    }

    /// Marks it; `None` where there is nothing of it.
    async fn bury(&self) -> Result<Option<Grave>> {
        if let Some(grave) = self.grave().await? {
            return Ok(Some(grave));
        }
        if self.store.list(self.keys.prefix(), None, 1).await?.is_empty() {
            return Ok(None);
        }
        let grave = Grave { format: FORMAT, parent: self.parent().await? };
        let body = Bytes::from(serde_json::to_vec(&grave).unwrap_or_default());
        self.store.put(&self.keys.grave(), body).await?;
        Ok(Some(grave))
    }

    /// What it was forked from, which all of its manifests tell.
    async fn parent(&self) -> Result<Option<MachineId>> {
        for generation in self.log().await?.manifests.into_iter().rev() {
            match found(self.manifest(generation).await) {
                Ok(Some(manifest)) => return Ok(manifest.origins.parent().cloned()),
                Ok(None) => {}
                Err(error @ Error::Store(_)) => return Err(error),
                // A damaged machine can be deleted.
                Err(error) => tracing::warn!(%error, "what a deleted machine was forked from"),
            }
        }
        Ok(None)
    }

    /// Deletes what no fork needs; true where that is everything but the mark.
    async fn delete_unneeded(&self, collected: &mut Collected) -> Result<bool> {
        let mut living = Vec::new();
        for (holder, pin) in self.pins().await? {
            if let Holder::Fork(child) = &holder
                && !self.abandon(child, &pin).await?
            {
                living.push((holder, pin));
            }
        }
        let grave = self.keys.grave();
        if living.is_empty() {
            // Names first: what is left of a deletion that was broken off is no upper any more.
            for prefix in [&self.keys.log(), self.keys.prefix()] {
                *collected += delete_where(&self.store, prefix, |key| key != grave).await?;
            }
            return Ok(true);
        }
        let Needed { generations, chunks, packs } = self.needed(&living).await?;
        let is_dead = |key: &str| match self.keys.holder(key) {
            Some((holder, _)) => !living.iter().any(|(alive, _)| *alive == holder),
            None => false,
        };
        *collected += delete_where(&self.store, &self.keys.pins(), is_dead).await?;
        let is_old = |key: &str| match self.keys.entry(key) {
            Some(Entry::Manifest(generation)) => !generations.contains(&generation),
            _ => true,
        };
        *collected += delete_where(&self.store, &self.keys.log(), is_old).await?;
        let unneeded = |key: &str| self.keys.chunk_id(key).is_none_or(|id| !chunks.contains(&id));
        *collected += delete_where(&self.store, &self.keys.chunks(), unneeded).await?;
        let unneeded = |key: &str| self.keys.pack_id(key).is_none_or(|id| !packs.contains(&id));
        *collected += delete_where(&self.store, &self.keys.packs(), unneeded).await?;
        tracing::info!(machine = self.keys.machine(), forks = living.len(), "kept for forks");
        Ok(false)
    }

    async fn needed(&self, living: &[(Holder, Pin)]) -> Result<Needed> {
        let manifests = self.pinned(living).await?;
        let mut needed = Needed::default();
        for manifest in manifests {
            needed.generations.insert(manifest.generation);
            let chunks = manifest.chunks.values();
            needed.chunks.extend(chunks.map(|chunk| (chunk.digest, chunk.born)));
        }
        for (holder, pin) in living {
            if pin.memory {
                needed.packs.extend(self.packs_for(holder).await?.unwrap_or_default());
            }
        }
        Ok(needed)
    }
}

/// What forks need of a machine.
#[derive(Debug, Default)]
struct Needed {
    generations: HashSet<Generation>,
    chunks: HashSet<(Digest, Epoch)>,
    packs: HashSet<(Digest, Epoch)>,
}
