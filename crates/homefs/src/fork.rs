//! Forks: a new home that goes on from a state of another one.
//!
//! # Order
//! The parent is told first, by a pin; then the child gets its first commit, which has no pages and
//! says where to read on. Two writes, whatever the size. [`fork`] does both; a caller that notes down
//! in between what it is about to make calls [`hold_fork`] and [`begin_fork`].
//!
//! # Failure
//! Broken off between the two, the child is nothing yet and the parent keeps a state for it. The same
//! fork again goes on from there, with the state that the pin names, within an hour: then the
//! collector of the parent may give it up for good, as [`abandon_fork`] does at once.
//! A child can never be without its pin.
//!
//! # Invariants
//! - A child never deletes or writes anything below its parent's prefix but its own pin.
//! - A parent that is deleted keeps what its forks need; the last of them to go removes it
//!   ([`crate::delete_home`]).

use base::{HomeId, ServerId, SnapshotId};

use crate::create::delete_home;
use crate::error::Result;
use crate::replica::error::Error as LogError;
use crate::replica::horizon::Moment;
use crate::replica::log::{Head, Log};
use crate::replica::pinned::{Pin, PinKind};
use crate::settings::Parts;
use crate::snapshots::{KeptState, pin_found, pin_of, published};

/// Makes `into` a home that goes on from the newest state of `from`, or from a snapshot of it.
///
/// # Errors
/// `NotFound` for home or snapshot, or where the fork was given up (more than an hour after its first
/// half); `AlreadyExists` where `into` is another home; `TooMany` where `from` has as many forks as
/// it can have; those of the store: doing it again is safe.
pub async fn fork(
    parts: &Parts,
    from: &HomeId,
    at: Option<&SnapshotId>,
    into: &HomeId,
    holder: &ServerId,
) -> Result<Head> {
    hold_fork(parts, from, at, into).await?;
    begin_fork(parts, from, into, holder).await
}

/// The first half of [`fork`]: `from` keeps the state for `into`. Returns which state that is: the first
/// commit of `into` follows on its epoch.
///
/// # Errors
/// As [`fork`].
pub async fn hold_fork(
    parts: &Parts,
    from: &HomeId,
    at: Option<&SnapshotId>,
    into: &HomeId,
) -> Result<KeptState> {
    let log = parts.log(from);
    let pin = match at {
        None => {
            let found = Moment::of(&*parts.clock);
            let head = published(&log).await?;
            let pin = hold(parts, &log, (&head, &found), into).await?;
            if pin.seq == head.seq {
                return Ok(KeptState::of(&head));
            }
            // One that an earlier call made stands.
            pin
        }
        Some(id) => {
            let kept = pin_of(&log, id).await?;
            let pin = log.pin(kept.for_fork(into.clone(), parts.clock.now())).await?;
            // Now both keep it, or the snapshot went before: then nobody may have, meanwhile.
            if log.snapshot_pin(id).await?.is_none() {
                log.unpin(&pin.kind).await?;
                return Err(LogError::NoSnapshot { id: id.clone() }.into());
            }
            pin
        }
    };
    Ok(KeptState::of(&log.pinned_head(&pin).await?))
}

/// The second half of [`fork`]: `into` becomes a home. Where it is that already, nothing is done.
///
/// # Errors
/// `NotFound` where `from` keeps nothing for it, or the fork was given up; else as [`fork`].
pub async fn begin_fork(
    parts: &Parts,
    from: &HomeId,
    into: &HomeId,
    holder: &ServerId,
) -> Result<Head> {
    let log = parts.log(from);
    let given_up = || LogError::GivenUp { home: into.clone() };
    let pin = log.fork_pin(into).await?.ok_or_else(given_up)?;
    // The parent may be deleted by now; what it keeps for the pin can be read all the same. Its
    // origins are known from the commit itself.
    let state = log.pinned_head(&pin).await?;
    let child = parts.log(into);
    let begun = child.begin_fork(from, &state, holder.clone(), parts.entropy.nonce()).await;
    if let Err(LogError::GivenUp { .. }) = begun {
        // It was pinned again since, for nothing.
        log.unpin(&pin.kind).await?;
    }
    Ok(begun?)
}

/// Ends a fork of which perhaps only the first half was done. A child that has begun is to be deleted
/// with [`crate::delete_home`], which ends with this.
///
/// # Errors
/// `Conflict` where the child has begun; those of the store.
pub async fn abandon_fork(parts: &Parts, from: &HomeId, into: &HomeId) -> Result<()> {
    let (parent, child) = (parts.log(from), parts.log(into));
    match parent.fork_pin(into).await {
        Ok(Some(pin)) => Ok(parent.abandon_fork(&child, &pin).await?),
        Ok(None) => Ok(()),
        Err(error) if error.is_damage() => {
            tracing::warn!(%error, "give up a fork");
            parent.abandon_unread_fork(&child).await?;
            // It may be deleted, and all of it there because of this one.
            if parent.is_deleted().await? { delete_home(parts, from).await } else { Ok(()) }
        }
        Err(error) => Err(error.into()),
    }
}

/// Pins `head` for a fork, as [`pin_found`] does.
pub(crate) async fn hold(
    parts: &Parts,
    log: &Log,
    (head, found): (&Head, &Moment),
    into: &HomeId,
) -> Result<Pin> {
    let kind = PinKind::Fork { child: into.clone() };
    let base = log.base_of(head).await?;
    pin_found(parts, log, Pin::of(head, base, kind, parts.clock.now()), found).await
}
