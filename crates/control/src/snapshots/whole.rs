//! What a sleeping machine has outside of its home, kept beside a state of that.
//!
//! # Order
//! What is on its way to the store is waited for, memory too; then the home is kept, which tells the epoch; then the
//! rest, if it is that which was left beside this very state of the home.
//!
//! # Failure
//! What was kept of the home is let go of again. What is not in the store in time is refused for now; what never will
//! be, as far as this server knows, is left out, unless the caller wants it whole.

use std::time::Duration;

use base::{ErrorKind, SnapshotId};
use catalog::{MachineRow, Phase};
use tokio::time::Instant;

use super::held;
use crate::control::Inner;
use crate::homes::HomeState;
use crate::host::{MemoryStanding, UpperHolder, UpperKept};
use crate::limits::STORED_WAIT;
use crate::machines::MachineRef;
use crate::uppers::{self, Hope};
use crate::{Error, Result};

/// How often the store is asked whether it has come.
const LOOK: Duration = Duration::from_millis(250);

/// What is said of a machine of whose last run the store has not all, and nobody here knows more.
const ELSEWHERE: &str = "cannot be kept whole: what it has outside of /root was not stored after its last run; wake it \
    and put it to sleep";

/// What is kept of a machine besides its home.
#[derive(Debug)]
pub(super) struct Kept {
    /// Or why not, for people.
    pub(super) memory: Result<(), String>,
    /// There was memory to keep.
    had_memory: bool,
}

impl Kept {
    const ALL: Self = Self { memory: Ok(()), had_memory: true };

    /// What is missing that the machine had, for people.
    pub(super) fn without(&self) -> Option<String> {
        self.memory.as_ref().err().filter(|_| self.had_memory).map(|why| without_memory(why))
    }
}

/// What is kept without memory, which the store had not; `before` is how that was before it was asked.
async fn without(inner: &Inner, row: &MachineRow, before: MemoryStanding, why: String) -> Kept {
    let now = inner.parts.host.memory_standing(&row.id).await;
    let had_memory = [&before, &now].iter().any(|one| **one != MemoryStanding::Nothing);
    // Why it is not there is known here.
    let why = match now {
        MemoryStanding::StaysHere(why) => why,
        _ if inner.settings.timing.store_memory_after.is_none() => {
            "this server stores no memory (store_memory)".to_owned()
        }
        _ => why,
    };
    Kept { memory: Err(why), had_memory }
}

/// What is said of a fork that does without the memory that there was, and why.
pub(crate) fn without_memory(why: &str) -> String {
    format!("it boots when it is first woken: the memory of the other machine was not kept: {why}")
}

/// Waits for what a sleeping machine has to be in the store. Until when anybody waits.
pub(super) async fn stored(inner: &Inner, row: &MachineRow) -> Instant {
    let until = Instant::now() + STORED_WAIT;
    uppers::hurry(inner, &row.id, until).await;
    until
}

/// Keeps what goes with this state of the home; `None` where there is nothing, or it cannot be had.
///
/// # Errors
/// `Unavailable` where it is not in the store by `until`, or the machine was woken meanwhile; `Conflict` where there is
/// nothing, or it will never be stored, and all was `wanted`; `Fenced` or `Conflict` where the home is another server's,
/// or was left by a process of this one.
pub(super) async fn keep(
    inner: &Inner,
    row: &MachineRow,
    (home, holder): (HomeState, &UpperHolder),
    wanted: bool,
    until: Instant,
) -> Result<Option<Kept>> {
    // Woken here since it was found asleep, or awake elsewhere: a state in the middle of a run goes with nothing else
    // that the machine had.
    if !home.released {
        let then = match holder {
            UpperHolder::Snapshot(_) => "keep a snapshot",
            UpperHolder::Fork(_) => "fork it",
        };
        let stays = held::refused(inner, row, then).await?;
        return Err(stays.unwrap_or_else(|| woken(row)));
    }
    let before = inner.parts.host.memory_standing(&row.id).await;
    loop {
        // Asked before: an upload that ends in between has stored it.
        let hope = uppers::hope(inner, &row.id);
        match inner.parts.host.keep_upper(&row.id, home.epoch, holder).await? {
            UpperKept::Kept { memory: Ok(()) } => return Ok(Some(Kept::ALL)),
            UpperKept::Kept { memory: Err(why) } => {
                return Ok(Some(without(inner, row, before, why).await));
            }
            UpperKept::Nothing if wanted => {
                return Err(refused(row, "has nothing outside of its home yet; wake it"));
            }
            UpperKept::Nothing => return Ok(None),
            UpperKept::Moved => return Err(woken(row)),
            UpperKept::Storing => {}
        }
        let now = inner.resolve(&MachineRef::Id(row.id.clone())).await?;
        if !matches!(now.observed.phase, Phase::Sleeping | Phase::Failed) {
            return Err(woken(row));
        }
        let is_late = Instant::now() >= until;
        match hope {
            Hope::Coming if is_late => return Err(storing(row)),
            Hope::Never(why) if wanted => {
                return Err(refused(row, &format!("cannot be kept whole: {why}")));
            }
            Hope::Unknown if is_late && wanted => return Err(refused(row, ELSEWHERE)),
            Hope::Never(_) => return Ok(None),
            Hope::Unknown if is_late => return Ok(None),
            Hope::Coming | Hope::Unknown => {}
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => (),
            () = inner.shutdown.cancelled() => return Err(storing(row)),
        }
    }
}

/// Keeps what a sleeping machine has for a fork, its home included. Where that fails, part of it may be kept: see
/// [`or_nothing`].
pub(super) async fn hold(
    inner: &Inner,
    parent: &MachineRow,
    fork: &MachineRow,
    wanted: bool,
) -> Result<Option<Kept>> {
    let until = stored(inner, parent).await;
    let homes = &inner.parts.homes;
    let home = homes.hold_fork(&parent.home, None, &fork.home).await?;
    let holder = UpperHolder::Fork(fork.id.clone());
    keep(inner, parent, (home, &holder), wanted, until).await
}

/// Lets go of what an attempt to [`hold`] that failed has kept.
pub(super) async fn or_nothing(
    inner: &Inner,
    parent: &MachineRow,
    fork: &MachineRow,
    held: Result<Option<Kept>>,
) -> Result<Option<Kept>> {
    if held.is_err()
        && let Err(left) = let_go(inner, parent, fork).await
    {
        tracing::warn!(machine = %parent.id, %left, "a state stays kept for a fork that nobody made");
    }
    held
}

/// Lets go of what is kept for a fork that nobody has begun. An attempt that failed may have kept it all the same.
async fn let_go(inner: &Inner, parent: &MachineRow, fork: &MachineRow) -> Result<()> {
    let holder = UpperHolder::Fork(fork.id.clone());
    inner.parts.host.let_go_of_upper(&parent.id, &holder).await?;
    inner.parts.homes.abandon_fork(&parent.home, &fork.home).await
}

/// Keeps what a snapshot has for a fork.
pub(super) async fn hold_again(
    inner: &Inner,
    parent: &MachineRow,
    at: &SnapshotId,
    fork: &MachineRow,
    wanted: bool,
) -> Result<Option<Kept>> {
    let (homes, host) = (&inner.parts.homes, &inner.parts.host);
    // Looked at before the home is kept: a snapshot that goes meanwhile is not taken for one of the home alone.
    let with_memory = match host.kept_upper(&parent.id, at).await? {
        None if inner.leaving.has(at) => return Err(let_go_of(at)),
        kept => kept,
    };
    homes.hold_fork(&parent.home, Some(at), &fork.home).await?;
    if with_memory.is_none() && !wanted {
        return Ok(None);
    }
    let held = match with_memory {
        None => {
            Err(refused(parent, "has a snapshot of its home alone there; make one while it sleeps"))
        }
        Some(_) => match host.keep_upper_again(&parent.id, at, &fork.id).await {
            Ok(None) => Err(let_go_of(at)),
            Ok(Some(memory)) => Ok(memory),
            Err(error) => Err(error),
        },
    };
    match held {
        // Of one that is without, the caller has seen that.
        Ok(memory) => Ok(Some(Kept { memory, had_memory: with_memory == Some(true) })),
        Err(error) => {
            let_go(inner, parent, fork).await?;
            Err(error)
        }
    }
}

fn let_go_of(at: &SnapshotId) -> Error {
    Error::not_found(format!("snapshot {at} was let go of meanwhile"))
}

fn refused(row: &MachineRow, why: &str) -> Error {
    Error::new(ErrorKind::Conflict, format!("machine {} {why}, then try again", row.name))
        .with_code("INVALID_STATE")
        .with_detail("current_desired_state", row.desired)
        .with_detail("current_observed_state", row.observed.phase)
}

fn storing(row: &MachineRow) -> Error {
    not_now(format!("what machine {} has outside of /root is still being stored", row.name))
}

fn woken(row: &MachineRow) -> Error {
    not_now(format!("machine {} was woken meanwhile", row.name))
}

fn not_now(why: String) -> Error {
    Error::new(ErrorKind::Unavailable, format!("{why}; try again in a moment")).retry_after(1_000)
}
