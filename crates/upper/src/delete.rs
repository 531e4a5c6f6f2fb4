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
//!
//! Damage ends no deletion. Of what keeps something for the machine itself nothing is read; where it cannot be read
//! what a fork needs, all stays that there is, with the mark, until that fork goes. The log says so.

use std::collections::HashSet;
use std::sync::Arc;

use base::MachineId;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use objstore::ObjectStore;
use serde::{Deserialize, Serialize};

use crate::collect::{Collected, delete_where};
use crate::error::{Error, Result};
use crate::keys::{Entry, Generation};
use crate::limits::PIN_READS;
use crate::pins::{Holder, Named, Pin};
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

/// What came of a deletion.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Deleted {
    /// What was deleted.
    pub collected: Collected,
    /// A machine that lives, and that keeps nothing for this one any more: see [`crate::Upper::freed`].
    pub freed: Option<MachineId>,
}

/// Deletes all of a machine's upper from the store, and its memory, but for what forks of it need; idempotent.
///
/// # Errors
/// Those of the store. Calling again goes on.
pub async fn delete(store: &Arc<dyn ObjectStore>, machine: &MachineId) -> Result<Deleted> {
    let (mut deleted, mut gone) = (Deleted::default(), Vec::new());
    let mut next = Some(Remote::of(store, machine));
    while let Some(one) = next.take() {
        let Some(grave) = one.bury().await? else { break };
        if !one.delete_unneeded(&mut deleted.collected).await? {
            break;
        }
        if let Some(parent) = grave.parent {
            let remote = one.other(&parent);
            remote.unpin(&Holder::Fork(one.machine()?)).await?;
            // One that lives goes on without it.
            if remote.is_buried().await? {
                next = Some(remote);
            } else {
                deleted.freed = Some(parent);
            }
        }
        gone.push(one);
    }
    // The first one last: as long as it is there, all this is done again.
    for one in gone.iter().rev() {
        one.store.delete(&one.keys.grave()).await?;
    }
    Ok(deleted)
}

impl Remote {
    /// The mark, where the machine is deleted.
    pub(crate) async fn grave(&self) -> Result<Option<Grave>> {
        self.small(&self.keys.grave(), FORMAT).await
    }

    /// Whether the mark is there, whatever it says.
    pub(crate) async fn is_buried(&self) -> Result<bool> {
        match self.grave().await {
            Err(error) if error.is_damage() => Ok(true),
            grave => Ok(grave?.is_some()),
        }
    }

    pub(crate) fn machine(&self) -> Result<MachineId> {
        let damaged = |_| Error::damaged(self.keys.prefix(), "it is of no machine");
        self.keys.machine().parse().map_err(damaged)
    }

    /// Marks it; `None` where there is nothing of it.
    async fn bury(&self) -> Result<Option<Grave>> {
        match self.grave().await {
            Ok(None) => {}
            // What it said is made again, as far as its manifests are still there.
            Err(error @ Error::Damaged { .. }) => {
                tracing::warn!(%error, "the mark of a deleted machine");
            }
            there => return there,
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
        let found = async {
            let living = self.living().await?;
            let needed = self.needed(&living).await?;
            Ok((living, needed))
        };
        let (living, Needed { generations, chunks, packs }) = match found.await {
            Err(error) if Error::is_damage(&error) => {
                let machine = self.keys.machine();
                tracing::error!(machine, %error, "a machine is deleted, and all it had stored stays: what its forks \
                    need of it cannot be read");
                return Ok(false);
            }
            found => found?,
        };
        let grave = self.keys.grave();
        if living.is_empty() {
            // Names first: what is left of a deletion that was broken off is no upper any more.
            for prefix in [&self.keys.log(), self.keys.prefix()] {
                *collected += delete_where(&self.store, prefix, |key| key != grave).await?;
            }
            return Ok(true);
        }
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

    /// The forks that go on from it; what is kept for others that never will is let go of. What is pinned for the
    /// machine itself is nobody's any more.
    async fn living(&self) -> Result<Vec<(Holder, Pin)>> {
        let names = self.names(&self.keys.pins()).await?;
        let each = names.into_iter().map(|key| async move {
            let child = match self.keys.holder(&key) {
                Some((Holder::Fork(child), false)) => child,
                Some(_) => return Ok(None),
                None => return Err(Error::unknown_pin(&key)),
            };
            let holder = Holder::Fork(child.clone());
            // One that has gone since is not needed: whoever makes another one sees the mark.
            let Some(pin) = self.pin(&holder).await? else { return Ok(None) };
            let over = self.abandon(&child, &pin).await?;
            Ok((!over).then_some((holder, pin)))
        });
        let each: Vec<_> = futures::stream::iter(each).buffered(PIN_READS).try_collect().await?;
        Ok(each.into_iter().flatten().collect())
    }

    async fn needed(&self, living: &[(Holder, Pin)]) -> Result<Needed> {
        let mut needed = Needed::default();
        needed.generations.extend(living.iter().map(|(_, pin)| pin.generation));
        self.add_pinned(living, &mut needed.chunks).await?;
        for (holder, _) in living.iter().filter(|(_, pin)| pin.memory) {
            self.add(&mut needed.packs, self.packs_for(holder).await?.unwrap_or_default())?;
        }
        Ok(needed)
    }
}

/// What forks need of a machine.
#[derive(Debug, Default)]
struct Needed {
    generations: HashSet<Generation>,
    chunks: Named,
    packs: Named,
}
