//! Pins: which states of a machine stay in the store, and for whom.
//!
//! `uppers/<machine>/pins/<holder>` names a generation, and the epoch of the home beside which it counts. A memory that
//! is kept with it is told by a copy of its manifest, `pins/<holder>-memory`: its name in the log goes as soon as there
//! is a newer one.
//!
//! # Order
//! The copy of the memory's manifest, a look whether the memory is still named; then the pin, which is never changed.
//! Let go of in the order in which it was made, backwards.
//!
//! # Invariants
//! - A generation is pinned within [`DECIDE_MAX`](crate::limits::DECIDE_MAX) of being seen as the newest. What it names can be deleted a quarter
//!   of an hour after there was a newer one at the earliest, and whoever deletes reads the pins after that time.
//! - Of a memory the name goes first, then the pins are read, then packs go. Who pins looks for the name after it has
//!   pinned. So one of the two sees the other.
//! - Who pins looks whether the machine is deleted *after* the pin was made; who deletes says so *before* the pins are
//!   read. The same with a snapshot that is pinned again for a fork of it.
//! - A pin that cannot be read is an error, never no pin.

use std::collections::{BTreeSet, HashSet};
use std::fmt;

use base::{Digest, Epoch, MachineId, SnapshotId};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, blocking};
use crate::keys::Generation;
use crate::limits::{NAMED_MAX, PIN_LOOKS, PIN_READS};
use crate::looked::Looked;
use crate::memory::Image;
use crate::place::Upper;
use crate::remote::{Remote, found};
use crate::state::Look;

/// What is written, and the largest that is read.
const FORMAT: u32 = 1;

/// Chunks, or packs, that stay.
pub(crate) type Named = HashSet<(Digest, Epoch)>;

/// For whom a state stays.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Holder {
    /// For whoever may want it back.
    Snapshot(SnapshotId),
    /// For a machine that goes on from it.
    Fork(MachineId),
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Snapshot(id) => id.fmt(f),
            Self::Fork(id) => id.fmt(f),
        }
    }
}

impl Holder {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let snapshot = text.parse().map(Self::Snapshot).ok();
        snapshot.or_else(|| text.parse().map(Self::Fork).ok())
    }
}

/// The content of a pin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pin {
    format: u32,
    pub(crate) generation: Generation,
    /// Of the state of the home that it goes with.
    pub(crate) home_epoch: Epoch,
    /// The memory is kept too.
    pub(crate) memory: bool,
}

#[cfg(test)]
impl Pin {
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self> {
        crate::remote::parse("key", bytes, FORMAT)
    }
}

/// What is kept beside a state of the home.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// The memory, or why not, for people.
    pub memory: Result<(), String>,
}

/// What came of an attempt to keep a state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hold {
    /// It is kept.
    Kept(Kept),
    /// The store has no upper of this machine, and none is on its way.
    Nothing,
    /// What the last run changed is not in the store yet.
    Storing,
    /// What is in the store is of a later run than the home.
    Moved,
}

impl Pin {
    fn kept(&self, without: Option<String>) -> Kept {
        let why = || without.unwrap_or_else(|| "it was not kept".to_owned());
        Kept { memory: if self.memory { Ok(()) } else { Err(why()) } }
    }
}

impl Upper {
    /// Keeps what the machine has in the store for `holder`, as it goes with the state of the home that was made under
    /// the epoch `home`; `with_memory` the memory too, where there is one. Once kept it stays what it is.
    ///
    /// # Errors
    /// Those of store and disk; `NotFound` of a machine that is deleted.
    pub async fn hold(&self, holder: &Holder, home: Epoch, with_memory: bool) -> Result<Hold> {
        let remote = self.remote();
        if let Some(pin) = remote.pin(holder).await? {
            return Ok(Hold::Kept(pin.kept(None)));
        }
        let looked = Looked::now();
        let (state, log) = (self.state().await?, remote.log().await?);
        let (newest, pending) = (log.newest(), log.pending());
        if newest.is_some_and(|newest| newest.epoch > home) || pending > Some(home) {
            return Ok(Hold::Moved);
        }
        // Also where the store was not told: this host knows, or sees that somebody wrote to the disk since. But where
        // another one went on, that does not count.
        let disk = self.files.disk.clone();
        let disk = blocking(move || Look::at(&disk)).await?;
        let written = state.asleep.is_some() && disk.is_some() && disk != state.asleep;
        let ahead = state.is_ahead_of_the_store() || written;
        if pending.is_some() || (ahead && state.parent == newest) {
            return Ok(Hold::Storing);
        }
        let Some(generation) = newest else { return Ok(Hold::Nothing) };
        let memory = match log.memory.last() {
            _ if !with_memory => Err("it was not asked for".to_owned()),
            Some(last) if *last == home => remote.hold_memory(holder, home, generation).await?,
            _ => Err("it is not in the store".to_owned()),
        };
        let pin = Pin { format: FORMAT, generation, home_epoch: home, memory: memory.is_ok() };
        remote.make_pin(holder, &pin).await?;
        let stays = async {
            if looked.is_stale() {
                let message = "the store took too long to keep the machine's state".to_owned();
                return Err(objstore::Error::Unavailable { message }.into());
            }
            remote.not_deleted().await?;
            Ok(found(remote.manifest(generation).await)?.is_some_and(|one| one.disk_bytes > 0))
        };
        match stays.await {
            Ok(true) => Ok(Hold::Kept(pin.kept(memory.err()))),
            Ok(false) => remote.unpin(holder).await.map(|()| Hold::Nothing),
            Err(error) => {
                remote.unpin(holder).await?;
                Err(error)
            }
        }
    }

    /// Keeps for the fork `into` what the snapshot `at` keeps; `None` where that keeps nothing. A memory that cannot be
    /// read is left out.
    ///
    /// # Errors
    /// `NotFound` where the snapshot or the machine goes meanwhile; those of the store.
    pub async fn hold_again(&self, at: &SnapshotId, into: &MachineId) -> Result<Option<Kept>> {
        let (remote, at) = (self.remote(), Holder::Snapshot(at.clone()));
        let into = Holder::Fork(into.clone());
        let Some(pin) = remote.pin(&at).await? else { return Ok(None) };
        let memory = if pin.memory {
            // One that is not there may have gone with the snapshot: that is looked for below.
            let image = remote.pinned_image(&at, &pin).await?;
            if let Ok(image) = &image {
                remote.put_image(&into, image).await?;
            }
            image.map(drop)
        } else {
            Err("the snapshot was made without".to_owned())
        };
        let pin = Pin { memory: memory.is_ok(), ..pin };
        remote.make_pin(&into, &pin).await?;
        let stays = async {
            remote.not_deleted().await?;
            remote.pin(&at).await?.ok_or_else(|| Error::Gone { what: "the snapshot".to_owned() })
        };
        if let Err(error) = stays.await {
            remote.unpin(&into).await?;
            return Err(error);
        }
        Ok(Some(pin.kept(memory.err())))
    }

    /// Lets go of what is kept for `holder`; nothing is no error.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn let_go(&self, holder: &Holder) -> Result<()> {
        self.remote().unpin(holder).await
    }

    /// What is kept for a snapshot.
    ///
    /// # Errors
    /// Those of the store; `Corrupt`.
    pub async fn kept(&self, at: &SnapshotId) -> Result<Option<Kept>> {
        let pin = self.remote().pin(&Holder::Snapshot(at.clone())).await?;
        Ok(pin.map(|pin| pin.kept(None)))
    }

    /// Of each snapshot that keeps something: whether that is the memory, too.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn snapshots(&self) -> Result<Vec<(SnapshotId, bool)>> {
        let remote = self.remote();
        // What is pinned for something unknown is no snapshot's.
        let names = remote.names(&remote.keys.pins()).await?;
        let names: Vec<_> = names.iter().filter_map(|key| remote.keys.holder(key)).collect();
        let with_memory: HashSet<_> =
            names.iter().filter(|(_, is_memory)| *is_memory).map(|(holder, _)| holder).collect();
        let snapshot = |(holder, is_memory): &(Holder, bool)| match holder {
            Holder::Snapshot(id) if !is_memory => Some((id.clone(), with_memory.contains(holder))),
            _ => None,
        };
        Ok(names.iter().filter_map(snapshot).collect())
    }
}

impl Remote {
    /// What is kept for `holder`.
    pub(crate) async fn pin(&self, holder: &Holder) -> Result<Option<Pin>> {
        self.small(&self.keys.pin(holder), FORMAT).await
    }

    async fn make_pin(&self, holder: &Holder, pin: &Pin) -> Result<()> {
        let key = self.keys.pin(holder);
        let body = Bytes::from(serde_json::to_vec(pin).unwrap_or_default());
        match self.store.create(&key, body).await {
            Err(objstore::Error::Exists { .. })
                if self.pin(holder).await?.as_ref() == Some(pin) =>
            {
                Ok(())
            }
            made => Ok(made?),
        }
    }

    /// Copies the manifest of the memory; an inner `Err` says why it cannot be kept.
    async fn hold_memory(
        &self,
        holder: &Holder,
        epoch: Epoch,
        upper: Generation,
    ) -> Result<Result<(), String>> {
        let key = self.keys.memory(epoch);
        let image = match found(self.image(key.clone(), epoch).await) {
            Ok(Some(image)) if image.upper == upper => image,
            Ok(Some(_)) => {
                return Ok(Err("it belongs to another state of the machine's disk".to_owned()));
            }
            Ok(None) => return Ok(Err("it is not in the store".to_owned())),
            Err(error @ Error::Store(_)) => return Err(error),
            Err(error) => return Ok(Err(error.to_string())),
        };
        self.put_image(holder, &image).await?;
        // What it names goes after its name, and after a look at the pins.
        match self.store.head(&key).await {
            Ok(_) => Ok(Ok(())),
            Err(objstore::Error::NotFound { .. }) => {
                self.store.delete(&self.keys.pinned_memory(holder)).await?;
                Ok(Err("the machine went on from it".to_owned()))
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn put_image(&self, holder: &Holder, image: &Image) -> Result<()> {
        Ok(self.store.put(&self.keys.pinned_memory(holder), image.encode()).await?)
    }

    /// The memory that is kept for `holder`, or why it cannot be used, for people.
    pub(crate) async fn pinned_image(
        &self,
        holder: &Holder,
        pin: &Pin,
    ) -> Result<Result<Image, String>> {
        match found(self.image(self.keys.pinned_memory(holder), pin.home_epoch).await) {
            Ok(Some(image)) => Ok(Ok(image)),
            Ok(None) => Ok(Err("what was kept of it is not in the store".to_owned())),
            Err(error) if error.is_damage() => Ok(Err(error.to_string())),
            Err(error) => Err(error),
        }
    }

    /// Lets go of what is kept for `holder`.
    pub(crate) async fn unpin(&self, holder: &Holder) -> Result<()> {
        self.store.delete(&self.keys.pin(holder)).await?;
        Ok(self.store.delete(&self.keys.pinned_memory(holder)).await?)
    }

    /// Who holds something, and whether the name is that of a memory.
    pub(crate) async fn pin_names(&self) -> Result<Vec<(Holder, bool)>> {
        let names = self.names(&self.keys.pins()).await?;
        let parsed =
            names.iter().map(|key| self.keys.holder(key).ok_or_else(|| Error::unknown_pin(key)));
        parsed.collect()
    }

    /// All pins.
    pub(crate) async fn pins(&self) -> Result<Vec<(Holder, Pin)>> {
        for _ in 0..PIN_LOOKS {
            let names = self.pin_names().await?;
            let holders = names.into_iter().filter(|(_, is_memory)| !is_memory);
            let pins = holders.map(|(holder, _)| async move {
                let pin = self.pin(&holder).await?;
                Ok::<_, Error>(pin.map(|pin| (holder, pin)))
            });
            let pins: Vec<_> =
                futures::stream::iter(pins).buffered(PIN_READS).try_collect().await?;
            // Where one went since the names were read, what it kept may be kept for somebody else by now.
            if pins.iter().all(Option::is_some) {
                return Ok(pins.into_iter().flatten().collect());
            }
        }
        Err(too_quick())
    }

    /// Adds to `named` the chunks of the generations that are pinned: of one manifest after the other, which can be
    /// large, and many.
    pub(crate) async fn add_pinned(&self, pins: &[(Holder, Pin)], named: &mut Named) -> Result<()> {
        let generations: BTreeSet<Generation> =
            pins.iter().map(|(_, pin)| pin.generation).collect();
        for generation in generations {
            let missing = || Error::Missing { key: self.keys.manifest(generation) };
            let manifest = found(self.manifest(generation).await)?.ok_or_else(missing)?;
            self.add(named, manifest.chunks.values().map(|chunk| (chunk.digest, chunk.born)))?;
        }
        Ok(())
    }

    /// Adds to what stays.
    pub(crate) fn add(
        &self,
        named: &mut Named,
        more: impl IntoIterator<Item = (Digest, Epoch)>,
    ) -> Result<()> {
        named.extend(more);
        if named.len() > NAMED_MAX {
            return Err(Error::damaged(self.keys.prefix(), "too much is named in it"));
        }
        Ok(())
    }

    /// Adds to `named` what pinned memories name; also one whose pin is not made yet. One after the other.
    pub(crate) async fn add_pinned_packs(&self, named: &mut Named) -> Result<()> {
        for _ in 0..PIN_LOOKS {
            let names = self.pin_names().await?;
            let mut is_all = true;
            for (holder, _) in names.into_iter().filter(|(_, is_memory)| *is_memory) {
                match self.packs_for(&holder).await? {
                    Some(packs) => self.add(named, packs)?,
                    None => is_all = false,
                }
            }
            if is_all {
                return Ok(());
            }
        }
        Err(too_quick())
    }

    /// What the memory names that is kept for `holder`.
    pub(crate) async fn packs_for(&self, holder: &Holder) -> Result<Option<Vec<(Digest, Epoch)>>> {
        let key = self.keys.pinned_memory(holder);
        let bytes = match self.store.get(&key, Some(0..crate::memory::BYTES_MAX + 1)).await {
            Err(objstore::Error::NotFound { .. }) => return Ok(None),
            bytes => bytes?,
        };
        let image = blocking(move || Image::decode_any(&key, &bytes)).await?;
        Ok(Some(image.packs.iter().map(|pack| (pack.digest, pack.born)).collect()))
    }

    /// # Errors
    /// `NotFound` of a machine that is deleted.
    pub(crate) async fn not_deleted(&self) -> Result<()> {
        match self.grave().await? {
            None => Ok(()),
            Some(_) => Err(Error::Gone { what: "the machine".to_owned() }),
        }
    }
}

fn too_quick() -> Error {
    let message = "what is kept of the machine changes too quickly".to_owned();
    objstore::Error::Unavailable { message }.into()
}
