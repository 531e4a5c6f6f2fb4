//! Snapshots: old states of a home that are kept, and taking a home back to one.
//!
//! A snapshot is a pin: one small object, whatever the size of the home. A restore is one commit
//! that says which state is to go on. Both are for homes that nobody writes here; of an open one,
//! [`crate::HomeFs::snapshot`] stores everything first.

use base::{Epoch, HomeId, ServerId, SnapshotId, Timestamp};

use crate::error::{Error, Result};
use crate::limits::SNAPSHOT_NAME_BYTES_MAX;
use crate::replica::error::Error as LogError;
use crate::replica::horizon::{Moment, create_proves};
use crate::replica::log::{Head, Log};
use crate::replica::pinned::{Pin, PinKind};
use crate::replica::unread::{Holder, Unread};
use crate::settings::Parts;

/// A state of a home that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// Its id.
    pub id: SnapshotId,
    /// What people call it; need not be unique.
    pub name: Option<String>,
    /// The commit.
    pub seq: u64,
    /// Under which it was made.
    pub epoch: Epoch,
    /// When it was made.
    pub time: Timestamp,
}

/// A snapshot in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listed {
    /// It is there.
    Whole(SnapshotInfo),
    /// It cannot be read, and still keeps what it may keep.
    Damaged {
        /// Its id.
        id: SnapshotId,
        /// What is wrong.
        why: String,
    },
}

impl Listed {
    /// Its id.
    #[must_use]
    pub fn id(&self) -> &SnapshotId {
        match self {
            Self::Whole(info) => &info.id,
            Self::Damaged { id, .. } => id,
        }
    }
}

/// The state of a home that is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeptState {
    /// Under which its commit was made.
    pub epoch: Epoch,
    /// Its writer gave the home up with it. Else somebody had the home, and the state is one of many of that run.
    pub released: bool,
}

/// Keeps the newest state of a home that is in the store, and says which. Called again with the same id, it answers
/// the same.
///
/// # Errors
/// `NotFound` where there is no such home; `InvalidArgument` for a name that cannot be; `TooMany`
/// where it has as many snapshots as it can have; those of the store.
pub async fn snapshot(
    parts: &Parts,
    home: &HomeId,
    id: &SnapshotId,
    name: Option<&str>,
) -> Result<(SnapshotInfo, KeptState)> {
    let log = parts.log(home);
    let found = Moment::of(&*parts.clock);
    let head = published(&log).await?;
    let kept = keep(parts, &log, (&head, &found), id, name).await?;
    // One that an earlier call made stands, of whatever state it is.
    let earlier = if kept.seq == head.seq { None } else { log.snapshot_pin(id).await? };
    let state = match earlier {
        None => KeptState::of(&head),
        Some(pin) => KeptState::of(&log.pinned_head(&pin).await?),
    };
    Ok((kept, state))
}

/// The snapshots of a home, oldest first, those that cannot be read too.
///
/// # Errors
/// `NotFound` where there is no such home; those of the store.
pub async fn snapshots(parts: &Parts, home: &HomeId) -> Result<Vec<Listed>> {
    let log = parts.log(home);
    log.boundary().await?;
    let (pins, unread) = log.pins_as_found().await?;
    let whole = pins.into_iter().filter_map(info).map(Listed::Whole);
    let damaged = unread.into_iter().filter_map(|Unread { holder, error }| match holder {
        Holder::Snapshot(id) => Some(Listed::Damaged { id, why: error.to_string() }),
        Holder::Fork(_) | Holder::Draft | Holder::Unknown => {
            tracing::warn!(%home, %error, "a pin that is no snapshot's");
            None
        }
    });
    let mut all: Vec<_> = whole.chain(damaged).collect();
    all.sort_by(|one, other| one.id().cmp(other.id()));
    Ok(all)
}

/// One snapshot.
///
/// # Errors
/// `NotFound`; `Corrupt` for one that cannot be read; those of the store.
pub async fn snapshot_info(parts: &Parts, home: &HomeId, id: &SnapshotId) -> Result<SnapshotInfo> {
    let log = parts.log(home);
    log.boundary().await?;
    let none = || LogError::NoSnapshot { id: id.clone() };
    Ok(log.snapshot_pin(id).await?.and_then(info).ok_or_else(none)?)
}

/// Lets go of a snapshot. What only it kept is collected later. None of that id is no error.
///
/// # Errors
/// Those of the store.
pub async fn delete_snapshot(parts: &Parts, home: &HomeId, id: &SnapshotId) -> Result<()> {
    let kind = PinKind::Snapshot { id: id.clone(), name: None };
    Ok(parts.log(home).unpin(&kind).await?)
}

/// Takes a home back to a snapshot, in one conditional write. What came after the snapshot is left
/// behind, and kept only where another snapshot or a fork keeps it.
///
/// # Errors
/// `NotFound` for home or snapshot; `Fenced` where somebody has the home; `Conflict` where the home
/// moved meanwhile: nothing was done then; those of the store: doing it again is safe.
pub async fn restore(
    parts: &Parts,
    home: &HomeId,
    id: &SnapshotId,
    holder: &ServerId,
) -> Result<Head> {
    let log = parts.log(home);
    let head = published(&log).await?;
    let pin = pin_of(&log, id).await?;
    let state = log.pinned_head(&pin).await?;
    let nonce = parts.entropy.nonce();
    Ok(log.restore_to(&head, &state, holder.clone(), nonce).await?)
}

impl KeptState {
    pub(crate) fn of(head: &Head) -> Self {
        Self { epoch: head.epoch, released: head.released }
    }
}

/// Pins `head` for a snapshot, as [`pin_found`] does.
pub(crate) async fn keep(
    parts: &Parts,
    log: &Log,
    (head, found): (&Head, &Moment),
    id: &SnapshotId,
    name: Option<&str>,
) -> Result<SnapshotInfo> {
    check_snapshot_name(name)?;
    let kind = PinKind::Snapshot { id: id.clone(), name: name.map(str::to_owned) };
    let base = log.base_of(head).await?;
    let pin = Pin::of(head, base, kind, parts.clock.now());
    let pin = pin_found(parts, log, pin, found).await?;
    info(pin).ok_or(Error::SnapshotName { max: SNAPSHOT_NAME_BYTES_MAX })
}

/// Pins a state that was the newest at `found` or later. Half a horizon after that, a state that
/// nobody pinned may be gone before a collector sees the pin.
///
/// # Errors
/// `Slow` then, without a pin; as [`Log::pin`].
pub(crate) async fn pin_found(parts: &Parts, log: &Log, pin: Pin, found: &Moment) -> Result<Pin> {
    let made = log.pin(pin.clone()).await?;
    if made == pin && !create_proves(found, &Moment::of(&*parts.clock)) {
        // One that an earlier call made in time stands.
        log.unpin(&made.kind).await?;
        return Err(Error::Slow);
    }
    Ok(made)
}

/// The newest commit of a home that has a tree.
pub(crate) async fn published(log: &Log) -> Result<Head> {
    let no_home = || Error::NoSuchHome { home: log.keys().home().clone() };
    log.head(None).await?.filter(|head| head.page_count > 0).ok_or_else(no_home)
}

/// The pin of a snapshot that must be there.
pub(crate) async fn pin_of(log: &Log, id: &SnapshotId) -> Result<Pin> {
    let none = || LogError::NoSnapshot { id: id.clone() };
    Ok(log.snapshot_pin(id).await?.ok_or_else(none)?)
}

fn info(pin: Pin) -> Option<SnapshotInfo> {
    match pin.kind {
        PinKind::Snapshot { id, name } => {
            Some(SnapshotInfo { id, name, seq: pin.seq, epoch: pin.epoch, time: pin.time })
        }
        PinKind::Fork { .. } | PinKind::Draft { .. } => None,
    }
}

/// Refuses a name that no snapshot can have.
///
/// # Errors
/// `InvalidArgument`.
pub fn check_snapshot_name(name: Option<&str>) -> Result<()> {
    if name.is_none_or(is_name) {
        Ok(())
    } else {
        Err(Error::SnapshotName { max: SNAPSHOT_NAME_BYTES_MAX })
    }
}

/// What people can say and type.
fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= SNAPSHOT_NAME_BYTES_MAX
        && name.trim() == name
        && !name.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use base::{SystemClock, SystemEntropy};

    use super::*;

    #[tokio::test]
    async fn a_state_that_was_found_long_ago_is_not_pinned() {
        let parts = Parts {
            store: Arc::new(objstore::MemoryStore::new()),
            clock: Arc::new(SystemClock::new()),
            entropy: Arc::new(SystemEntropy),
            runtime: tokio::runtime::Handle::current(),
        };
        let home = HomeId::generate();
        crate::create_home(&parts, &home, &ServerId::generate()).await.unwrap();
        let log = parts.log(&home);
        let head = published(&log).await.unwrap();
        let (id, now) = (SnapshotId::generate(), Moment::of(&*parts.clock));
        let late = now.before(Duration::from_secs(8 * 60));
        let kept = keep(&parts, &log, (&head, &late), &id, None).await;
        assert!(matches!(kept, Err(Error::Slow)));
        assert!(log.pins().await.unwrap().is_empty());
        let kept = keep(&parts, &log, (&head, &now), &id, None).await.unwrap();
        // The same again, late: what was pinned in time stays.
        assert_eq!(keep(&parts, &log, (&head, &late), &id, None).await.unwrap(), kept);
        assert_eq!(log.pins().await.unwrap().len(), 1);
    }

    #[test]
    fn a_name_is_something_that_can_be_said() {
        for good in ["a", "before the upgrade", "größer", &"x".repeat(SNAPSHOT_NAME_BYTES_MAX)] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", " a", "a\n", "\u{7f}", &"x".repeat(SNAPSHOT_NAME_BYTES_MAX + 1)] {
            assert!(!is_name(bad), "{bad:?}");
        }
    }
}
