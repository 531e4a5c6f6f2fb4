//! Forks: a machine that begins with what another one has in the store.
//!
//! # Order
//! The parent keeps the state ([`Upper::hold`]); then the child gets its first manifests, that of the memory and last
//! `begun`, which says the same as the pinned ones and names the parent as an origin. A few small objects, whatever the
//! size of the machine.
//!
//! # Invariants
//! - The epoch of `begun` follows on that of the pinned state of the parent's home, as the first commit of the child's
//!   home does. So the child's first wake is the one claim that follows directly on it: what goes for a wake
//!   on another host goes for it, and a memory counts for it and for no later one.
//! - `begun` is created, so one of two gets it: who begins the fork, or who gives it up with a manifest without a disk.
//!
//! # Failure
//! Broken off in between, the same again goes on from there.

use std::sync::Arc;

use base::MachineId;
use objstore::ObjectStore;

use crate::error::{Error, Result};
use crate::keys::{Generation, Kind};
use crate::limits::ORIGINS_MAX;
use crate::manifest::Manifest;
use crate::memory::Image;
use crate::origins::Origins;
use crate::pins::{Holder, Pin};
use crate::remote::{Remote, found};

/// Makes of what a parent said about a memory what is to be said to its fork; `None` where that cannot go on from it.
pub type Retell<'a> = &'a (dyn Fn(&[u8]) -> Option<Vec<u8>> + Sync);

/// What is known of a fork.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Begun {
    /// It has a state of its own.
    Yes,
    /// Not yet.
    No,
    /// It never will.
    GivenUp,
}

/// Begins the upper of `into` with what `from` keeps for it, and the memory. Where it has begun already, nothing is
/// done. Returns why a memory that is kept was left out, for people.
///
/// # Errors
/// `NotFound` where `from` keeps nothing for it, or the fork was given up; `Conflict` where the chain of forks is too
/// long; those of the store: doing it again is safe.
pub async fn begin_fork(
    store: &Arc<dyn ObjectStore>,
    from: &MachineId,
    into: &MachineId,
    retell: Retell<'_>,
) -> Result<Option<String>> {
    let (parent, child) = (Remote::of(store, from), Remote::of(store, into));
    let given_up = || Error::Gone { what: format!("what {from} keeps for {into}") };
    match child.begun().await? {
        Begun::Yes => return Ok(None),
        Begun::GivenUp => return Err(given_up()),
        Begun::No => {}
    }
    let holder = Holder::Fork(into.clone());
    let pin = parent.pin(&holder).await?.ok_or_else(given_up)?;
    let of_parent = parent.manifest(pin.generation).await?;
    let begun = first(&of_parent, from, &pin)?;
    let mut without = None;
    if pin.memory {
        let image = parent.pinned_image(&holder, &pin).await?;
        match image.and_then(|image| memory(image, from, &begun, retell)) {
            Ok(image) => {
                let key = child.keys.memory(image.epoch);
                child.store.put(&key, image.encode()).await?;
            }
            Err(why) => without = Some(why),
        }
    }
    match child.store.create(&child.keys.manifest(begun.generation), begun.encode()).await {
        Ok(()) => Ok(without),
        // An attempt of ours whose reply was lost.
        Err(objstore::Error::Exists { .. }) => match child.begun().await? {
            Begun::Yes => Ok(without),
            Begun::No | Begun::GivenUp => Err(given_up()),
        },
        Err(error) => Err(error.into()),
    }
}

/// Ends a fork of which perhaps only the first half was done; nothing is done where it has begun.
///
/// # Errors
/// Those of the store.
pub async fn abandon_fork(
    store: &Arc<dyn ObjectStore>,
    from: &MachineId,
    into: &MachineId,
) -> Result<()> {
    let parent = Remote::of(store, from);
    let holder = Holder::Fork(into.clone());
    match parent.pin(&holder).await {
        Ok(Some(pin)) => parent.abandon(into, &pin).await.map(drop),
        // A part of one may be there.
        Ok(None) => parent.unpin(&holder).await,
        // Nobody begins with that any more. Where somebody has, it stays until that machine goes.
        Err(error) if error.is_damage() => match parent.other(into).begun().await? {
            Begun::Yes => Ok(()),
            Begun::No | Begun::GivenUp => parent.unpin(&holder).await,
        },
        Err(error) => Err(error),
    }
}

impl Remote {
    /// Whether this machine has a state of its own.
    async fn begun(&self) -> Result<Begun> {
        let manifests = self.log().await?.manifests;
        match manifests[..] {
            [] => Ok(Begun::No),
            [only] => match found(self.manifest(only).await) {
                // One that ran has a disk, or was no fork.
                Ok(Some(first)) if first.disk_bytes == 0 && !first.origins.is_empty() => {
                    Ok(Begun::GivenUp)
                }
                Err(error) if !error.is_damage() => Err(error),
                // What cannot be read may have been one.
                _ => Ok(Begun::Yes),
            },
            _ => Ok(Begun::Yes),
        }
    }

    /// Lets go of what is kept for the fork `into`, unless that has begun. True where it is over.
    pub(crate) async fn abandon(&self, into: &MachineId, pin: &Pin) -> Result<bool> {
        let child = self.other(into);
        // What is being deleted needs nothing that it does not name.
        if child.begun().await? == Begun::No && !child.is_buried().await? {
            let none = Manifest {
                origins: origins(&Origins::default(), self.machine()?, pin)?,
                ..Manifest::blank(first_generation(pin))
            };
            let key = child.keys.manifest(none.generation);
            match child.store.create(&key, none.encode()).await {
                Ok(()) | Err(objstore::Error::Exists { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if child.begun().await? == Begun::Yes {
            return Ok(false);
        }
        self.unpin(&Holder::Fork(into.clone())).await?;
        Ok(true)
    }
}

fn first_generation(pin: &Pin) -> Generation {
    Generation { epoch: pin.home_epoch.next(), kind: Kind::Begun }
}

fn origins(of_parent: &Origins, parent: MachineId, pin: &Pin) -> Result<Origins> {
    let too_long = || Error::TooManyForks { max: ORIGINS_MAX };
    of_parent.forked(parent, pin.home_epoch).ok_or_else(too_long)
}

/// What a fork begins with.
fn first(of_parent: &Manifest, parent: &MachineId, pin: &Pin) -> Result<Manifest> {
    Ok(Manifest {
        generation: first_generation(pin),
        parent: Some(of_parent.generation),
        origins: origins(&of_parent.origins, parent.clone(), pin)?,
        ..of_parent.clone()
    })
}

/// The same memory, for the claim that follows on `begun`; or why not, for people.
fn memory(
    image: Image,
    parent: &MachineId,
    begun: &Manifest,
    retell: Retell<'_>,
) -> Result<Image, String> {
    let too_long = || Error::TooManyForks { max: ORIGINS_MAX }.to_string();
    let origins = image.origins.forked(parent.clone(), image.epoch).ok_or_else(too_long)?;
    let unknown = || "what is stored of it is not understood".to_owned();
    let about = retell(&image.about).ok_or_else(unknown)?;
    let Generation { epoch, .. } = begun.generation;
    Ok(Image { epoch, upper: begun.generation, about, origins, ..image })
}
