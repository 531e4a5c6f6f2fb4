//! Awake or asleep: the one place that asks.
//!
//! # Invariants
//! - What is acknowledged goes to one place: the live home while a keeper has it, the draft while the
//!   machine sleeps. A machine in between is waited for, then refused for now; so is one that sleeps for a moment
//!   only, and is wanted awake.
//! - A home that is not whole in the store is neither read nor drafted: what is on the lost keeper's
//!   disk would be missing.

use std::sync::Arc;

use base::ErrorKind;
use catalog::{Desired, MachineRow};

use super::{FileCalls, View};
use crate::control::Inner;
use crate::drafts::Writing;
use crate::homes::HomeAt;
use crate::host::KeeperLink;
use crate::limits::TRANSITION_WAIT;
use crate::machines::auto_sleep::ActivityGuard;
use crate::machines::{MachineRef, Phase};
use crate::{Error, Result};

/// How often a machine may wake or fall asleep before whoever waits for its draft is told to come again.
pub(super) const LOCATED_TIMES: usize = 3;

/// Where a home is now.
#[derive(Debug)]
pub(crate) enum Place {
    /// With its keeper; the machine stays awake as long as the guard lives.
    Awake(Arc<dyn KeeperLink>, ActivityGuard),
    /// In the store.
    Asleep,
}

/// A tree to work on, and what must stay as it is meanwhile.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) calls: Arc<dyn FileCalls>,
    pub(crate) hold: Hold,
}

/// Keeps a machine awake, or a draft in place.
#[derive(Debug)]
pub(crate) struct Hold {
    _awake: Option<ActivityGuard>,
    _draft: Option<Writing>,
}

/// Finds a machine's home, waiting for a machine on its way up or down.
pub(crate) async fn locate(inner: &Inner, machine: &MachineRef) -> Result<(MachineRow, Place)> {
    let mut row = inner.resolve(machine).await?;
    let awake = loop {
        if in_between(&row) {
            row = inner.wait_for(&row.id, TRANSITION_WAIT, |row| !in_between(row)).await?;
        }
        let was_awake = row.observed.phase == Phase::Running;
        let (now, in_use) = inner.in_use(row).await?;
        row = now;
        // It may have fallen asleep just before.
        if was_awake == in_use.is_some() {
            break in_use;
        }
    };
    let place = match row.observed.phase {
        Phase::Running => match (inner.parts.host.connect(&row.id).await, awake) {
            (Some(link), Some(awake)) => Place::Awake(link, awake),
            _ => return Err(in_transition(&row)),
        },
        Phase::Sleeping if !in_between(&row) => Place::Asleep,
        Phase::Failed if inner.parts.host.connect(&row.id).await.is_none() => {
            if !inner.home_is_whole(&row).await? {
                return Err(not_whole(&row));
            }
            Place::Asleep
        }
        Phase::Destroying | Phase::Destroyed => {
            return Err(Error::not_found(format!("machine {} is being deleted", row.name)));
        }
        _ => return Err(in_transition(&row)),
    };
    Ok((row, place))
}

/// Whether a machine is where it was located, and not on its way elsewhere.
pub(crate) async fn is_still(inner: &Inner, row: &MachineRow, place: &Place) -> Result<bool> {
    let row = inner.resolve(&MachineRef::Id(row.id.clone())).await?;
    if in_between(&row) {
        return Ok(false);
    }
    let kept = inner.parts.host.connect(&row.id).await.is_some();
    match (place, row.observed.phase) {
        (Place::Awake(..), Phase::Running) => Ok(kept),
        (Place::Asleep, Phase::Sleeping) => Ok(!kept),
        // One that ran meanwhile may have left what is nowhere but on this host.
        (Place::Asleep, Phase::Failed) => Ok(!kept && inner.home_is_whole(&row).await?),
        _ => Ok(false),
    }
}

/// The tree that a read sees.
pub(crate) async fn for_read(
    inner: &Arc<Inner>,
    machine: &MachineRef,
    view: View,
) -> Result<Target> {
    let homes = &inner.parts.homes;
    let mut times = 0;
    loop {
        times += 1;
        let (row, place) = locate(inner, machine).await?;
        let at = inner.home_at(&row);
        if view == View::Draft {
            let Some(draft) = share(inner, &row, &place, times).await? else { continue };
            if homes.has_draft(&at).await {
                return open_draft(inner, &at, draft).await;
            }
        }
        return match (place, view) {
            (Place::Awake(link, awake), View::Current) => {
                Ok(Target { calls: link, hold: Hold { _awake: Some(awake), _draft: None } })
            }
            (Place::Asleep, _) => {
                Ok(Target { calls: homes.published(&at).await?, hold: Hold::none() })
            }
            (Place::Awake(..), View::Draft) => Err(Error::not_found(format!(
                "machine {} is awake and has no unpublished draft",
                row.name
            ))),
        };
    }
}

/// The tree that a write changes.
pub(crate) async fn for_write(inner: &Arc<Inner>, machine: &MachineRef) -> Result<Target> {
    let mut times = 0;
    loop {
        times += 1;
        let (row, place) = locate(inner, machine).await?;
        if let Place::Awake(link, awake) = place {
            return Ok(Target { calls: link, hold: Hold { _awake: Some(awake), _draft: None } });
        }
        if let Some(draft) = share(inner, &row, &place, times).await? {
            return open_draft(inner, &inner.home_at(&row), draft).await;
        }
    }
}

/// Joins those who write the draft. `None` where the home is elsewhere meanwhile, and is to be located once more.
async fn share(
    inner: &Inner,
    row: &MachineRow,
    place: &Place,
    times: usize,
) -> Result<Option<Writing>> {
    let draft = inner.drafts.write(&row.id).await;
    // Its machine may have been woken while we waited for a publish. Without a wait another look is not worth its time:
    // most writes find the draft free.
    if !draft.has_waited() || is_still(inner, row, place).await? {
        return Ok(Some(draft));
    }
    if times == LOCATED_TIMES { Err(in_transition(row)) } else { Ok(None) }
}

async fn open_draft(inner: &Inner, at: &HomeAt, draft: Writing) -> Result<Target> {
    let calls = inner.parts.homes.draft(at).await?;
    Ok(Target { calls, hold: Hold { _awake: None, _draft: Some(draft) } })
}

impl Hold {
    fn none() -> Self {
        Self { _awake: None, _draft: None }
    }
}

fn in_between(row: &MachineRow) -> bool {
    match row.observed.phase {
        Phase::Accepted | Phase::PlacementPending | Phase::Starting | Phase::Stopping => true,
        Phase::Sleeping => row.desired == Desired::Running,
        _ => false,
    }
}

pub(crate) fn in_transition(row: &MachineRow) -> Error {
    let why = row.observed.last_error.as_ref().map(|why| format!(" ({why})")).unwrap_or_default();
    Error::new(
        ErrorKind::Unavailable,
        format!(
            "machine {} is {} right now{why}; try again in a moment",
            row.name, row.observed.phase
        ),
    )
    .with_detail("current_observed_state", row.observed.phase)
    .retry_after(1_000)
}

fn not_whole(row: &MachineRow) -> Error {
    Error::new(
        ErrorKind::Conflict,
        format!(
            "machine {} failed before its home was stored; wake it, then its files can be reached",
            row.name
        ),
    )
    .with_detail("current_desired_state", row.desired)
    .with_detail("current_observed_state", row.observed.phase)
}
