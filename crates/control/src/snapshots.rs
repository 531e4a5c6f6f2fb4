//! Snapshots of machines, taking a machine's home back to one, and machines that go on from another's.
//!
//! # Invariants
//! - The object store is the truth. The catalog only knows which machine a snapshot belongs to.
//! - Of an awake machine its keeper takes the state, after it has stored everything, and of its home alone; of a
//!   sleeping one the published state counts, without a draft, and what the machine has outside of it, once that is in
//!   the store ([`whole`]). An awake one that is to be kept whole sleeps for that ([`Nap`]).
//! - What is outside of the home goes with the very state of the home beside which it was left: the epochs tell.
//! - A restore is of the home alone.
//!
//! # Crash
//! A fork is first a pin of its parent's home, then of what is outside of it, then a row here; then the child begins,
//! with what is outside of its home and with the home. Nobody was told before all was there. With the row, the driver
//! finishes it; without, a pin keeps a state until the parent is deleted.

mod gone;
mod held;
mod leaving;
pub(crate) mod whole;

use std::collections::HashMap;
use std::sync::Arc;

use base::{ErrorKind, HomeId, MachineId, SnapshotId, Timestamp};
use catalog::{Desired, MachineRow, Observation, Phase};
use serde::{Deserialize, Serialize};

use self::leaving::Leaves;
pub(crate) use self::leaving::Leaving;
use self::whole::Kept;
use crate::control::Inner;
use crate::files::route::{self, Place};
use crate::homes::HomeSnapshot;
use crate::host::{KeeperLink, UpperHolder};
use crate::machines::auto_sleep::ActivityGuard;
use crate::machines::nap::{Asleep, Nap};
use crate::machines::{self, Machine, MachineRef};
use crate::page::{Page, PageQuery};
use crate::{Error, Result, mounted, uppers};

/// A part of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// What is in `/root`.
    Home,
    /// All else that it has on disk.
    Upper,
    /// What its processes have in memory.
    Memory,
}

impl Part {
    /// What there is with this upper: `None` without, else whether the memory is there.
    fn with(upper: Option<bool>) -> Vec<Self> {
        match upper {
            None => vec![Self::Home],
            Some(false) => vec![Self::Home, Self::Upper],
            Some(true) => vec![Self::Home, Self::Upper, Self::Memory],
        }
    }
}

/// A kept state of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Its id.
    pub snapshot_id: SnapshotId,
    /// The machine that it is of.
    pub machine_id: MachineId,
    /// What people call it; need not be unique.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// What was kept.
    pub contains: Vec<Part>,
    /// It cannot be read, and why: it can only be let go of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub damaged: Option<String>,
}

/// What a snapshot is to be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewSnapshot {
    /// What to call it.
    pub name: Option<String>,
    /// It is refused where what is outside of the home cannot be kept too. A machine that is awake sleeps for it.
    pub whole: bool,
}

/// A fork that was made.
#[derive(Debug, Clone, PartialEq)]
pub struct Forked {
    /// The new machine.
    pub machine: Machine,
    /// What it begins with.
    pub contains: Vec<Part>,
}

/// What a fork is to be. The rest is as of the machine that it is made from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForkMachine {
    /// A unique name; made up where it is not given.
    pub name: Option<String>,
    /// A snapshot of the machine; else its state now.
    pub snapshot_id: Option<SnapshotId>,
    /// It is refused where it would begin with the home alone. A machine that is awake sleeps for it.
    pub whole: bool,
}

/// Snapshots, restores and forks.
#[derive(Debug, Clone)]
pub struct Snapshots {
    pub(crate) inner: Arc<Inner>,
}

impl Snapshots {
    /// Keeps the state that a machine has now: of one that sleeps all that is in the store, of an awake one the home; to
    /// be kept `whole`, an awake one sleeps meanwhile, and wakes again.
    ///
    /// # Errors
    /// `NotFound`, `InvalidArgument` for a name that cannot be, `TooMany`, `Unavailable`
    /// for a machine that stays on its way up or down, or whose upper is not stored in time; `Conflict` with
    /// `INVALID_STATE` for one that was to be kept whole and cannot be, is in use and was to be, or sleeps and is mounted on this host for writing;
    /// `Fenced` for one that another server has awake; those of the store.
    pub async fn create(&self, machine: &MachineRef, new: NewSnapshot) -> Result<Snapshot> {
        let (inner, row) = (self.inner.clone(), self.inner.resolve(machine).await?);
        let work = async move {
            let made = make_snapshot(&inner, &MachineRef::Id(row.id.clone()), new).await;
            gone::or_gone(&inner, &row, made).await
        };
        self.inner.to_the_end(work).await
    }

    /// The snapshots of a machine, oldest first, those that cannot be read too.
    ///
    /// # Errors
    /// `NotFound`, `InvalidArgument` for a cursor that is not one; those of the store.
    pub async fn list(&self, machine: &MachineRef, page: &PageQuery) -> Result<Page<Snapshot>> {
        let after: Option<SnapshotId> = page.parse_cursor()?;
        let row = self.inner.resolve(machine).await?;
        let found = self.inner.parts.homes.snapshots(&row.home).await?;
        note(&self.inner, &row.id, found.iter().map(|one| one.id.clone()).collect()).await?;
        let uppers: HashMap<_, _> =
            self.inner.parts.host.kept_uppers(&row.id).await?.into_iter().collect();
        let wanted = found.into_iter().filter(|one| after.as_ref().is_none_or(|a| one.id > *a));
        let whole = |one: HomeSnapshot| {
            let upper = uppers.get(&one.id).copied();
            shape(&row.id, one, upper)
        };
        let items: Vec<_> = wanted.map(whole).collect();
        Ok(Page::cut(items, page.length(), |one: &Snapshot| one.snapshot_id.to_string()))
    }

    /// One snapshot.
    ///
    /// # Errors
    /// `NotFound`; those of the store.
    pub async fn get(&self, id: &SnapshotId) -> Result<Snapshot> {
        let row = self.owner(id).await?;
        self.read(&row, id).await
    }

    /// Lets go of a snapshot; returns what it was, as far as that can be read: what goes need not be readable.
    ///
    /// # Errors
    /// `NotFound`; those of the store.
    pub async fn delete(&self, id: &SnapshotId) -> Result<Snapshot> {
        let row = self.owner(id).await?;
        let was = self.read_what_is_left(&row, id).await?;
        let (inner, id) = (self.inner.clone(), id.clone());
        let done = async move {
            let _leaves = Leaves::new(&inner, &id);
            // The home last: as long as it is kept, the rest can be let go of once more.
            let holder = UpperHolder::Snapshot(id.clone());
            uppers::let_go(&inner, &row.id, &holder).await?;
            inner.parts.homes.delete_snapshot(&row.home, &id).await?;
            inner.db(move |catalog| catalog.forget_snapshot(&id)).await
        };
        self.inner.to_the_end(done).await?;
        Ok(was)
    }

    /// Takes a sleeping machine's home back to a snapshot of it.
    ///
    /// # Errors
    /// `NotFound` for machine or snapshot; `Conflict` while the machine is awake or mounted on this host for writing, while it has a draft
    /// (`DRAFT_OPEN`), and where the home moved meanwhile; `Fenced` where another server has it awake; those of the store.
    pub async fn restore(&self, machine: &MachineRef, id: &SnapshotId) -> Result<Machine> {
        let (inner, machine, id) = (self.inner.clone(), machine.clone(), id.clone());
        self.inner.to_the_end(async move { restore(&inner, &machine, &id).await }).await
    }

    /// Makes a machine, asleep, that goes on from what another machine, or a snapshot of it, has.
    ///
    /// # Errors
    /// `NotFound` for machine or snapshot; `InvalidArgument`, `AlreadyExists` for the name; `TooMany`; `Unavailable` for a machine that stays on its way up or down, or whose upper is not stored in
    /// time, and where the store did not take it: nothing was made then; `Conflict` with `INVALID_STATE` for one that
    /// was to be whole and cannot be, is in use and was to be, or sleeps and is mounted on this host for writing; `Fenced` for one that another
    /// server has awake.
    pub async fn fork(&self, machine: &MachineRef, fork: ForkMachine) -> Result<Forked> {
        let (inner, row) = (self.inner.clone(), self.inner.resolve(machine).await?);
        let work = async move {
            let made = make_fork(&inner, &MachineRef::Id(row.id.clone()), fork).await;
            gone::or_gone(&inner, &row, made).await
        };
        self.inner.to_the_end(work).await
    }

    async fn read(&self, row: &MachineRow, id: &SnapshotId) -> Result<Snapshot> {
        let found = self.inner.parts.homes.snapshot_info(&row.home, id).await?;
        let upper = self.inner.parts.host.kept_upper(&row.id, id).await?;
        Ok(shape(&row.id, found, upper))
    }

    /// What is known of a snapshot, part of which may be damaged.
    async fn read_what_is_left(&self, row: &MachineRow, id: &SnapshotId) -> Result<Snapshot> {
        let (homes, host) = (&self.inner.parts.homes, &self.inner.parts.host);
        let unless_damaged = |error: Error| match error.kind() {
            ErrorKind::Corrupt | ErrorKind::Unsupported => {
                tracing::warn!(machine = %row.id, snapshot = %id, %error, "delete a damaged snapshot");
                Ok(())
            }
            _ => Err(error),
        };
        let found = match homes.snapshot_info(&row.home, id).await {
            Ok(found) => found,
            Err(error) => {
                let why = error.message.clone();
                unless_damaged(error)?;
                HomeSnapshot::damaged(id.clone(), why)
            }
        };
        let upper = match host.kept_upper(&row.id, id).await {
            Ok(upper) => upper,
            Err(error) => unless_damaged(error).map(|()| None)?,
        };
        Ok(shape(&row.id, found, upper))
    }

    /// The machine of a snapshot.
    async fn owner(&self, id: &SnapshotId) -> Result<MachineRow> {
        let wanted = id.clone();
        let machine = self.inner.db(move |catalog| catalog.machine_of_snapshot(&wanted)).await?;
        let none = || {
            Error::not_found(format!(
                "there is no snapshot {id}; the list of a machine's snapshots has those there are"
            ))
        };
        self.inner.resolve(&MachineRef::Id(machine.ok_or_else(none)?)).await
    }
}

/// Notes whose snapshots these are.
pub(crate) async fn note(inner: &Inner, machine: &MachineId, ids: Vec<SnapshotId>) -> Result<()> {
    let machine = machine.clone();
    inner.db(move |catalog| catalog.note_snapshots(&machine, &ids)).await
}

fn shape(machine: &MachineId, found: HomeSnapshot, upper: Option<bool>) -> Snapshot {
    Snapshot {
        snapshot_id: found.id,
        machine_id: machine.clone(),
        name: found.name,
        created_at: found.time,
        contains: Part::with(upper),
        damaged: found.damaged,
    }
}

/// Where what is to be kept of a machine is.
enum Found {
    /// With its keeper; its home alone can be had.
    Awake(Arc<dyn KeeperLink>, ActivityGuard),
    /// In the store, for a moment.
    Napping(Nap),
    /// In the store.
    Asleep,
}

/// Finds a machine; one of which all is wanted asleep, where that is what it is wanted `whole` for, for people.
async fn found(
    inner: &Arc<Inner>,
    machine: &MachineRef,
    whole: Option<&str>,
) -> Result<(MachineRow, Found)> {
    if let Some(then) = whole {
        return Ok(match Nap::asleep(inner, machine, then).await? {
            Asleep::Wanted(row) => (row, Found::Asleep),
            Asleep::Napping(nap, row) => (row, Found::Napping(nap)),
        });
    }
    let (row, place) = route::locate(inner, machine).await?;
    Ok(match place {
        Place::Awake(link, busy) => (row, Found::Awake(link, busy)),
        Place::Asleep => (row, Found::Asleep),
    })
}

async fn make_snapshot(
    inner: &Arc<Inner>,
    machine: &MachineRef,
    new: NewSnapshot,
) -> Result<Snapshot> {
    // No machine sleeps for what is refused anyway.
    inner.parts.homes.check_snapshot_name(new.name.as_deref())?;
    let (row, place) = found(inner, machine, new.whole.then_some("keep it whole")).await?;
    let id = SnapshotId::generate();
    let mut waking = None;
    let (made, upper) = match place {
        Found::Awake(link, _busy) => (link.snapshot(&id, new.name.as_deref()).await?, None),
        Found::Napping(nap) => {
            let made = keep_asleep(inner, &row, &id, &new).await;
            // What goes wrong is tidied up while it wakes.
            waking = Some(nap.over());
            let (made, kept) = made?;
            (made, or_nothing(inner, &row, &id, kept).await?)
        }
        Found::Asleep => {
            mounted::refuse(inner, &row, "keep a snapshot").await?;
            let (made, kept) = keep_asleep(inner, &row, &id, &new).await?;
            (made, or_nothing(inner, &row, &id, kept).await?)
        }
    };
    note(inner, &row.id, vec![made.id.clone()]).await?;
    if let Some(waking) = waking {
        waking.awake().await;
    }
    Ok(shape(&row.id, made, upper))
}

/// Keeps what a sleeping machine has: its home, and with it what more there is. Where that fails, the home is kept all the
/// same: see [`or_nothing`].
async fn keep_asleep(
    inner: &Arc<Inner>,
    row: &MachineRow,
    id: &SnapshotId,
    new: &NewSnapshot,
) -> Result<(HomeSnapshot, Result<Option<Kept>>)> {
    let until = whole::stored(inner, row).await;
    let homes = &inner.parts.homes;
    let (made, home) = homes.snapshot(&row.home, id, new.name.as_deref()).await?;
    let holder = UpperHolder::Snapshot(id.clone());
    let kept = whole::keep(inner, row, (home, &holder), new.whole, until).await;
    Ok((made, kept))
}

/// Whether there is memory, where more than a home was kept; or lets go of what is kept of an attempt that failed.
async fn or_nothing(
    inner: &Arc<Inner>,
    row: &MachineRow,
    id: &SnapshotId,
    kept: Result<Option<Kept>>,
) -> Result<Option<bool>> {
    let mut error = match kept {
        Ok(kept) => return Ok(kept.map(|kept| kept.memory.is_ok())),
        Err(error) => error,
    };
    let tidied = async {
        // The home last: with it, it can be let go of once more.
        uppers::let_go(inner, &row.id, &UpperHolder::Snapshot(id.clone())).await?;
        inner.parts.homes.delete_snapshot(&row.home, id).await
    };
    if let Err(left) = tidied.await {
        tracing::warn!(machine = %row.id, snapshot = %id, %left, "a part of a snapshot is kept");
        note(inner, &row.id, vec![id.clone()]).await?;
        let part = format!("; a part of it may be kept as snapshot {id}: delete that");
        error.message.push_str(&part);
        error = error.with_detail("snapshot_id", id);
    }
    Err(error)
}

fn not_restored(row: &MachineRow, why: String, code: &'static str) -> Error {
    Error::new(ErrorKind::Conflict, why)
        .with_code(code)
        .with_detail("current_desired_state", row.desired)
        .with_detail("current_observed_state", row.observed.phase)
}

fn not_restored_awake(row: &MachineRow) -> Error {
    let why = format!("machine {} is awake; put it to sleep, then restore it", row.name);
    not_restored(row, why, "INVALID_STATE")
}

async fn restore(inner: &Arc<Inner>, machine: &MachineRef, id: &SnapshotId) -> Result<Machine> {
    let row = inner.resolve(machine).await?;
    // Nobody begins a draft meanwhile.
    let _alone = inner.drafts.alone(&row).await?;
    let row = inner.resolve(&MachineRef::Id(row.id)).await?;
    // One that is on its way up waits for this lock.
    if row.desired == Desired::Running {
        return Err(not_restored_awake(&row));
    }
    let (row, place) = route::locate(inner, &MachineRef::Id(row.id)).await?;
    if matches!(place, Place::Awake(..)) || row.desired == Desired::Running {
        return Err(not_restored_awake(&row));
    }
    mounted::refuse(inner, &row, "restore it").await?;
    let at = inner.home_at(&row);
    if inner.parts.homes.has_draft(&at).await {
        let why = format!(
            "machine {} has unpublished writes; publish or discard them, then restore it",
            row.name
        );
        return Err(not_restored(&row, why, "DRAFT_OPEN"));
    }
    match inner.parts.homes.restore(&at, id).await {
        Ok(()) => Ok(machines::shape(&row)),
        Err(error) if error.kind() == ErrorKind::Fenced => {
            let why = || {
                format!(
                    "machine {} was woken meanwhile; put it to sleep, then restore it",
                    row.name
                )
            };
            let stays = held::refused(inner, &row, "restore it").await?;
            Err(stays.unwrap_or_else(|| not_restored(&row, why(), "INVALID_STATE")))
        }
        Err(error) => Err(error),
    }
}

async fn make_fork(inner: &Arc<Inner>, from: &MachineRef, fork: ForkMachine) -> Result<Forked> {
    let id = MachineId::generate();
    let name = machines::name_or_made_up(fork.name, &id)?;
    let taken = name.clone();
    if inner.db(move |catalog| catalog.machine_by_name(&taken)).await?.is_some() {
        return Err(Error::new(
            ErrorKind::AlreadyExists,
            format!("there is a machine {name} already; choose another name"),
        ));
    }
    // Of a snapshot it does not matter where the machine is.
    let sleeps = fork.whole && fork.snapshot_id.is_none();
    if sleeps {
        let max = inner.settings.limits.machines_max;
        inner.db(move |catalog| catalog.refuse_beyond(max)).await?;
    }
    let (parent, place) = found(inner, from, sleeps.then_some("fork it whole")).await?;
    let now = inner.parts.clock.now();
    let mut row = MachineRow {
        id,
        name,
        spec: parent.spec.clone(),
        home: HomeId::generate(),
        forked_from: Some(parent.home.clone()),
        forked_machine: None,
        desired: Desired::Sleeping,
        observed: Observation::of(Phase::Sleeping, "forked"),
        take_over_from: None,
        recorded: false,
        alarm: catalog::Alarm::default(),
        reboot: None,
        revision: 1,
        created_at: now,
        transition_at: now,
        progress_at: now,
    };
    let mut waking = None;
    let kept = match (&fork.snapshot_id, place) {
        (None, Found::Napping(nap)) => {
            let kept = whole::hold(inner, &parent, &row, fork.whole).await;
            waking = Some(nap.over());
            whole::or_nothing(inner, &parent, &row, kept).await?
        }
        (None, Found::Awake(link, _busy)) => {
            link.hold_fork(&row.home).await?;
            None
        }
        (None, Found::Asleep) => {
            mounted::refuse(inner, &parent, "fork it").await?;
            let kept = whole::hold(inner, &parent, &row, fork.whole).await;
            whole::or_nothing(inner, &parent, &row, kept).await?
        }
        (Some(at), _) => whole::hold_again(inner, &parent, at, &row, fork.whole).await?,
    };
    if let Some(kept) = &kept {
        row.forked_machine = Some(parent.id.clone());
        row.observed.last_error = kept.without();
    }
    let machine = machines::promise(inner.clone(), row).await?;
    if let Some(waking) = waking {
        waking.awake().await;
    }
    // Memory that turned out to be damaged when the fork began was left out; that is all that is said of a new fork.
    let has_memory = machine.status.last_error.is_none();
    let contains = Part::with(kept.map(|kept| kept.memory.is_ok() && has_memory));
    if contains.contains(&Part::Memory) {
        uppers::remembers(inner, &machine.machine_id);
    }
    Ok(Forked { machine, contains })
}

#[cfg(test)]
mod tests;
