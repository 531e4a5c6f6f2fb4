//! Machines: what is wanted of them, and how they get there.
//!
//! A call here writes a wish into the catalog and nudges the machine's driver; it does not wait.
//! [`Machines::settle`] waits.

mod adopt;
pub(crate) mod alarm;
pub(crate) mod auto_sleep;
pub(crate) mod driver;
mod duration;
pub(crate) mod idle_ticker;
mod in_force;
pub(crate) mod intent;
pub(crate) mod lifecycle;
pub(crate) mod nap;
pub(crate) mod record;
pub(crate) mod steps;
pub(crate) mod types;
mod validate;
pub(crate) mod watchers;

use std::sync::Arc;
use std::time::Duration;

use base::{HomeId, MachineId};
use catalog::{MachineRow, Observation};
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};

pub use duration::parse_autosleep;
pub use types::{
    Adopted, CreateMachine, Desired, EgressWish, Fsync, IfMatch, Machine, MachineRef,
    MachineStatus, Phase, UpdateMachine,
};

use crate::control::Inner;
use crate::machines::types::{NO_ROOM, REASON_NO_ROOM};
use crate::page::{Page, PageQuery};
use crate::{Result, mounted, room};
use driver::Drivers;

/// Machines.
#[derive(Debug, Clone)]
pub struct Machines {
    pub(crate) inner: Arc<Inner>,
}

impl Machines {
    /// Writes down that a machine is wanted, here and in the object store; it starts on its own.
    ///
    /// # Errors
    /// `InvalidArgument` for sizes and names out of bounds, `AlreadyExists` for a taken name,
    /// `Unavailable` where the object store did not take the record: nothing was created then.
    pub async fn create(&self, new: CreateMachine) -> Result<Machine> {
        let settings = &self.inner.settings;
        let spec = validate::new_spec(&new, &settings.defaults, &settings.limits)?;
        // The server's own choice may be mended on the server while the machine waits for it.
        if let Some(image) = &new.image {
            validate::known_image(image, &self.inner.parts.host.images().await?)?;
        }
        let id = MachineId::generate();
        let name = name_or_made_up(new.name, &id)?;
        let now = self.inner.parts.clock.now();
        let row = MachineRow {
            id,
            name,
            spec,
            home: HomeId::generate(),
            forked_from: None,
            forked_machine: None,
            desired: Desired::Running,
            observed: Observation::of(Phase::Accepted, "accepted"),
            take_over_from: None,
            recorded: false,
            alarm: catalog::Alarm::default(),
            reboot: None,
            revision: 1,
            created_at: now,
            transition_at: now,
            progress_at: now,
        };
        room::refuse(&self.inner, &row, "create it").await?;
        self.inner.to_the_end(promise(self.inner.clone(), row)).await
    }

    /// One machine.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn get(&self, machine: &MachineRef) -> Result<Machine> {
        let row = self.inner.resolve(machine).await?;
        Ok(shape_with_draft(&self.inner, &row).await)
    }

    /// Machines in the order of their creation.
    ///
    /// # Errors
    /// `InvalidArgument` for a cursor that is not one.
    pub async fn list(&self, page: &PageQuery) -> Result<Page<Machine>> {
        let after: Option<MachineId> = page.parse_cursor()?;
        let length = page.length();
        let rows =
            self.inner.db(move |catalog| catalog.machines(after.as_ref(), length + 1)).await?;
        let mut machines = Vec::with_capacity(rows.len());
        for row in &rows {
            machines.push(shape_with_draft(&self.inner, row).await);
        }
        Ok(Page::cut(machines, length, |machine: &Machine| machine.machine_id.to_string()))
    }

    /// Changes name, sizes, autosleep or what the machine may reach. Name and memory reach the guest at its next
    /// wake; all else is in force when this returns: CPU time of a machine that runs up to as many whole CPUs as it
    /// booted with, and more than that when it next wakes.
    ///
    /// # Errors
    /// `Unavailable` for what is written down and not in force yet; `NotFound`, `InvalidArgument`, `AlreadyExists` for a taken name, `Conflict` with
    /// `REVISION_MISMATCH` or `INVALID_STATE`.
    pub async fn update(
        &self,
        machine: &MachineRef,
        update: UpdateMachine,
        if_match: &IfMatch,
    ) -> Result<Machine> {
        let limits = self.inner.settings.limits.clone();
        let (if_match, with_egress) = (if_match.clone(), update.egress.is_some());
        let with_sizes = update.vcpu.is_some() || update.storage_gib.is_some();
        let row = self.inner.resolve(machine).await?;
        let asked = intent::update(&row, &update, &if_match, &limits)?;
        if asked.spec.is_some_and(|to| self.inner.naps.refuse_size(&row, &to).is_err()) {
            self.inner.naps.over(&row.id).await;
        }
        let inner = self.inner.clone();
        let decide = move |row: &MachineRow| {
            let change = intent::update(row, &update, &if_match, &limits)?;
            let resized = change.spec.as_ref().map_or(Ok(()), |to| inner.naps.refuse_size(row, to));
            resized.map(|()| change)
        };
        let updated = self.wish(machine, decide).await?;
        if with_egress {
            in_force::egress(&self.inner, &updated).await?;
        }
        if with_sizes {
            in_force::sizes(&self.inner, &updated).await?;
        }
        Ok(updated)
    }

    /// Asks for the machine and its home to be removed; works in every phase.
    ///
    /// # Errors
    /// `NotFound`, `Conflict` with `REVISION_MISMATCH`, or with `INVALID_STATE` while its home is mounted on this host
    /// for writing.
    pub async fn delete(&self, machine: &MachineRef, if_match: &IfMatch) -> Result<Machine> {
        self.refuse_mounted(machine, "delete it").await?;
        let if_match = if_match.clone();
        self.wish(machine, move |row| intent::delete(row, &if_match)).await
    }

    /// Asks for the machine to sleep.
    ///
    /// # Errors
    /// `NotFound`, `Conflict` with `REVISION_MISMATCH` or `INVALID_STATE`.
    pub async fn sleep(&self, machine: &MachineRef, if_match: &IfMatch) -> Result<Machine> {
        let if_match = if_match.clone();
        self.wish(machine, move |row| intent::sleep(row, &if_match, "sleep_requested")).await
    }

    /// Asks for the machine to be awake.
    ///
    /// # Errors
    /// `NotFound`, `Conflict` with `REVISION_MISMATCH`, or with `INVALID_STATE`: it is being deleted, or its home is
    /// mounted on this host for writing.
    pub async fn wake(&self, machine: &MachineRef, if_match: &IfMatch) -> Result<Machine> {
        let row = self.inner.resolve(machine).await?;
        mounted::refuse(&self.inner, &row, "wake it").await?;
        room::refuse(&self.inner, &row, "wake it").await?;
        let if_match = if_match.clone();
        self.wish(machine, move |row| intent::wake(row, &if_match)).await
    }

    /// Asks for the machine to be awake, booted: the memory that it sleeps with is thrown away.
    ///
    /// # Errors
    /// As [`wake`](Self::wake), and `Conflict` with `INVALID_STATE` where it is awake or on its way.
    pub async fn wake_cold(&self, machine: &MachineRef, if_match: &IfMatch) -> Result<Machine> {
        let row = self.inner.resolve(machine).await?;
        intent::check_asleep(&row, if_match)?;
        mounted::refuse(&self.inner, &row, "wake it").await?;
        room::refuse_to_boot(&self.inner, &row, "wake it").await?;
        self.inner.parts.host.forget_memory(&row.id).await?;
        let if_match = if_match.clone();
        self.wish(machine, move |row| intent::wake(row, &if_match)).await
    }

    /// Asks for the machine to be awake, booted, from whatever state it is in: its guest is stopped in order, or
    /// with `force` at once, and its memory thrown away. Files that were acknowledged stay.
    ///
    /// # Errors
    /// As [`wake`](Self::wake).
    pub async fn reboot(
        &self,
        machine: &MachineRef,
        force: bool,
        if_match: &IfMatch,
    ) -> Result<Machine> {
        self.refuse_mounted(machine, "reboot it").await?;
        let if_match = if_match.clone();
        self.wish(machine, move |row| intent::reboot(row, &if_match, force)).await
    }

    /// Has the machine woken at a time, if it sleeps then. What its guest asked for stands beside it: the
    /// sooner one counts. `None` takes both back; the guest is asked again when it is next put to sleep.
    ///
    /// # Errors
    /// `NotFound`, `Conflict` (stale revision, being deleted), `InvalidArgument` for a time that has passed.
    pub async fn wake_at(
        &self,
        machine: &MachineRef,
        at: Option<base::Timestamp>,
        if_match: &IfMatch,
    ) -> Result<Machine> {
        let (if_match, now) = (if_match.clone(), self.inner.parts.clock.now());
        self.wish(machine, move |row| alarm::set(row, &if_match, at, now)).await
    }

    async fn refuse_mounted(&self, machine: &MachineRef, then: &str) -> Result<()> {
        let row = self.inner.resolve(machine).await?;
        mounted::refuse(&self.inner, &row, then).await
    }

    async fn wish(
        &self,
        machine: &MachineRef,
        decide: impl FnOnce(&MachineRow) -> Result<catalog::MachineChange> + Send + 'static,
    ) -> Result<Machine> {
        let id = self.inner.resolve(machine).await?.id;
        let inner = self.inner.clone();
        let done = async move {
            let row = inner.edit(&id, decide).await?;
            Drivers::nudge(&inner, &id);
            Ok(shape(&row))
        };
        self.inner.to_the_end(done).await
    }

    /// Waits at most `wait` until the machine is settled ([`Machine::is_settled`]); returns it as it is
    /// then: a face answers 200 where [`Machine::is_converged`], else 202. A machine that is gone comes
    /// back as `destroyed`.
    pub async fn settle(&self, machine: Machine, wait: Duration) -> Machine {
        let id = machine.machine_id.clone();
        let settled = self.inner.wait_for(&id, wait, |row| shape(row).is_settled()).await;
        match settled {
            Ok(row) => shape_now(&self.inner, &row),
            Err(error) if error.kind() == base::ErrorKind::NotFound => gone(machine),
            // The catalog cannot be read: what the caller knows is the best there is.
            Err(_) => machine,
        }
    }

    /// The machine now and after every change, until it is settled. `last_event_id` is a revision
    /// seen before: that very state is not sent again, unless it is the last.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn watch(
        &self,
        machine: &MachineRef,
        last_event_id: Option<&str>,
    ) -> Result<BoxStream<'static, Machine>> {
        let id = self.inner.resolve(machine).await?.id;
        let told = self.inner.watchers.subscribe(&id);
        let row = self.inner.resolve(&MachineRef::Id(id)).await?;
        let first = shape(&row);
        let seen = last_event_id == Some(first.revision.as_str()) && !first.is_settled();
        let rest = if first.is_settled() { None } else { Some((told, row.revision)) };
        let later = stream::unfold(rest, |rest| async move {
            let (mut told, revision) = rest?;
            loop {
                told.changed().await.ok()?;
                // What was told before the row was read is not news.
                let news = told.borrow_and_update().clone().filter(|row| row.revision > revision);
                if let Some(row) = news {
                    let machine = shape(&row);
                    let rest = (!machine.is_settled()).then_some((told, row.revision));
                    return Some((machine, rest));
                }
            }
        });
        let first = stream::iter((!seen).then_some(first));
        Ok(first.chain(later).boxed())
    }

    /// Takes machines whose records are in the store, and that the catalog does not know, into the
    /// catalog, asleep. With `take_over` their next wake may take homes that were never released, also
    /// for machines that were adopted before without it.
    ///
    /// # Errors
    /// Those of the store. Records that cannot be read are logged and left out.
    pub async fn adopt(&self, take_over: bool) -> Result<Vec<Adopted>> {
        adopt::adopt(&self.inner, take_over).await
    }

    /// Asks every machine that is awake or on its way to sleep, and waits at most `wait` for all of them;
    /// returns those that are not asleep then.
    ///
    /// # Errors
    /// Those of the catalog.
    pub async fn sleep_all(&self, wait: Duration) -> Result<Vec<Machine>> {
        let mut asked = Vec::new();
        for row in self.inner.active().await? {
            if row.desired == Desired::Running && row.observed.phase != Phase::Failed {
                asked.push(self.sleep(&MachineRef::Id(row.id), &IfMatch::Any).await?);
            } else if row.desired == Desired::Sleeping {
                asked.push(shape(&row));
            }
        }
        let settled = asked.into_iter().map(|machine| self.settle(machine, wait));
        let machines: Vec<Machine> = futures::future::join_all(settled).await;
        Ok(machines.into_iter().filter(|machine| !machine.is_converged()).collect())
    }
}

/// Writes a new machine down, here and then in the store.
pub(crate) async fn promise(inner: Arc<Inner>, row: MachineRow) -> Result<Machine> {
    let (stored, max) = (row.clone(), inner.settings.limits.machines_max);
    if let Err(error) = inner.db(move |catalog| catalog.insert_machine(&stored, max)).await {
        if let Err(left) = steps::let_go_of_parent(&inner, &row).await {
            tracing::warn!(home = %row.home, %left, "a state stays kept for a fork");
        }
        return Err(error);
    }
    let row = match steps::ensure_recorded(&inner, &row).await {
        Ok(row) => row,
        Err(error) => {
            // Not in the store, so not promised: take it back and say so. What did get there is of no
            // use to anybody; where the store is down it stays. Noted down first: a machine without a
            // home must not be there after a crash in between.
            inner.edit(&row.id, |row| intent::delete(row, &IfMatch::Any)).await?;
            if let Err(left) = steps::unrecord(&inner, &row).await {
                tracing::warn!(machine = %row.id, home = %row.home, %left, "left in the store");
                if row.forked_from.is_some() {
                    // Its parent keeps a state for it: the row says so, until that is let go of.
                    Drivers::nudge(&inner, &row.id);
                    return Err(error);
                }
            }
            if let Err(left) = inner.parts.host.remove(&row.id).await {
                tracing::warn!(machine = %row.id, %left, "left on this host");
            }
            inner.db(move |catalog| catalog.remove_machine(&row.id)).await?;
            return Err(error);
        }
    };
    Drivers::nudge(&inner, &row.id);
    Ok(shape(&row))
}

/// A name that can be, or one that is made up.
pub(crate) fn name_or_made_up(name: Option<String>, id: &MachineId) -> Result<String> {
    match name {
        Some(name) => {
            validate::name(&name)?;
            Ok(name)
        }
        None => Ok(made_up_name(id)),
    }
}

/// A name for a machine whose creator gave none: unique as its id is, and short enough to type.
fn made_up_name(id: &MachineId) -> String {
    let digits: String = id.as_str().chars().filter(char::is_ascii_hexdigit).collect();
    let tail = digits.len().saturating_sub(12);
    format!("m-{}", &digits[tail..])
}

/// A row as faces see it.
pub(crate) fn shape(row: &MachineRow) -> Machine {
    let revision = row.revision.to_string();
    Machine {
        machine_id: row.id.clone(),
        name: row.name.clone(),
        image: row.spec.image.clone(),
        home_id: row.home.clone(),
        vcpu: row.spec.vcpu,
        memory_mib: row.spec.memory_mib,
        storage_gib: row.spec.storage_gib,
        autosleep_seconds: row.spec.autosleep_seconds,
        fsync: row.spec.fsync,
        egress: row.spec.egress.clone(),
        desired_state: row.desired,
        phase: row.observed.phase,
        revision: revision.clone(),
        created_at: row.created_at,
        status: MachineStatus {
            phase: row.observed.phase,
            reason: row.observed.reason.clone(),
            retryable: row.observed.retryable,
            revision,
            last_transition_at: row.transition_at,
            last_progress_at: row.progress_at,
            last_error: row.observed.last_error.clone(),
            memory_configured_mib: row.spec.memory_mib,
            memory_assigned_mib: None,
            upper: None,
            memory: None,
            draft: false,
            wake_at: row.alarm.next(),
        },
    }
}

/// The same, with what only this server knows at the moment.
fn shape_now(inner: &Inner, row: &MachineRow) -> Machine {
    let mut machine = shape(row);
    let standing = inner.uppers.status(row);
    machine.status.upper = standing.upper;
    machine.status.memory = standing.memory;
    let awake = row.observed.phase == Phase::Running;
    machine.status.memory_assigned_mib = if awake { inner.memory_of(&row.id) } else { None };
    machine.status.last_error = machine.status.last_error.or(standing.trouble);
    if inner.waits_for_room(&row.id) {
        REASON_NO_ROOM.clone_into(&mut machine.status.reason);
        machine.status.retryable = true;
        machine.status.last_error = Some(NO_ROOM.to_owned());
    }
    machine
}

/// With what a look at this host's files tells.
async fn shape_with_draft(inner: &Inner, row: &MachineRow) -> Machine {
    let mut machine = shape_now(inner, row);
    machine.status.draft = inner.parts.homes.has_draft(&inner.home_at(row)).await;
    machine
}

fn gone(mut machine: Machine) -> Machine {
    machine.desired_state = Desired::Destroyed;
    machine.phase = Phase::Destroyed;
    machine.status.phase = Phase::Destroyed;
    "destroyed".clone_into(&mut machine.status.reason);
    machine
}

#[cfg(test)]
mod egress_tests;
#[cfg(test)]
mod lifecycle_tests;
#[cfg(test)]
mod nap_tests;
#[cfg(test)]
mod opening_tests;
#[cfg(test)]
mod reboot_tests;
#[cfg(test)]
mod room_tests;
#[cfg(test)]
mod sizes_tests;
#[cfg(test)]
mod take_over_tests;

#[cfg(test)]
pub(crate) fn test_row(name: &str) -> MachineRow {
    let at = base::Timestamp::UNIX_EPOCH;
    MachineRow {
        id: MachineId::generate(),
        name: name.to_owned(),
        spec: catalog::MachineSpec {
            vcpu: 1.0,
            memory_mib: 512,
            storage_gib: 10,
            autosleep_seconds: 300,
            image: "base".to_owned(),
            fsync: catalog::Fsync::Store,
            egress: base::Egress::Open,
        },
        home: HomeId::generate(),
        forked_from: None,
        forked_machine: None,
        desired: Desired::Running,
        observed: Observation::of(Phase::Accepted, "accepted"),
        take_over_from: None,
        recorded: true,
        alarm: catalog::Alarm::default(),
        reboot: None,
        revision: 1,
        created_at: at,
        transition_at: at,
        progress_at: at,
    }
}
