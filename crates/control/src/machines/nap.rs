//! Naps: a machine that is wanted awake sleeps for as long as somebody keeps what it has.
//!
//! # Invariants
//! - Nothing that runs is ended for it: a sleep ends executions, so one that is in use takes no nap.
//! - What is wanted of the machine stays as it was. Naps are in memory only, so that a server which is killed leaves a
//!   machine that the next one wakes, as after any other interruption.
//! - A wish takes precedence: one that is wished asleep, rebooted or deleted meanwhile takes no further part.
//!
//! # Not here
//! Which steps a nap consists of ([`super::lifecycle`]).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use base::{ErrorKind, MachineId};
use catalog::{Desired, MachineChange, MachineRow, MachineSpec, Observation, Phase};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::MachineRef;
use super::auto_sleep::Use;
use super::driver::Drivers;
use crate::control::Inner;
use crate::files::route::{self, Place};
use crate::host::{KeeperLink, KeeperPhase, Sizes};
use crate::limits::{NAP_STORE_WAIT, NAP_WAIT, TRANSITION_WAIT};
use crate::{Error, Result};

/// How often it is looked whether a machine is idle.
const LOOK: Duration = Duration::from_millis(50);

/// Machines that take one, or wake from one.
#[derive(Debug, Default)]
pub(crate) struct Naps(Mutex<HashMap<MachineId, Is>>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Is {
    Napping,
    Waking,
}

impl Naps {
    /// Whether a machine takes one.
    pub(crate) fn has(&self, machine: &MachineId) -> bool {
        self.0.lock().get(machine) == Some(&Is::Napping)
    }

    /// Whether it wakes from one.
    pub(crate) fn wakes(&self, machine: &MachineId) -> bool {
        self.0.lock().get(machine) == Some(&Is::Waking)
    }

    /// Waits until it takes none, and wakes from none, or for too long.
    pub(crate) async fn over(&self, machine: &MachineId) {
        let begun = Instant::now();
        while self.0.lock().contains_key(machine) && begun.elapsed() < TRANSITION_WAIT {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Refuses a size with which a machine that takes one would not go on from its memory.
    pub(crate) fn refuse_size(&self, row: &MachineRow, spec: &MachineSpec) -> Result<()> {
        if same_memory(spec, &row.spec) || !self.0.lock().contains_key(&row.id) {
            return Ok(());
        }
        let what = format!(
            "machine {} is being kept whole, and wakes with the size that it has; try again in a moment, or put it to \
             sleep first",
            row.name
        );
        Err(Error::new(ErrorKind::Unavailable, what).retry_after(1_000))
    }

    /// Notes what a row says of it. Nothing but a nap leaves one that is wanted awake asleep, also one that an earlier
    /// server began; what was wished for since is not part of it.
    pub(crate) fn look(&self, row: &MachineRow) {
        let rests = matches!(row.observed.phase, Phase::Running | Phase::Failed);
        if row.desired != Desired::Running || row.reboot.is_some() || rests {
            self.forget(&row.id);
        } else if row.observed.phase == Phase::Sleeping {
            self.0.lock().entry(row.id.clone()).or_insert(Is::Waking);
        }
    }

    /// Forgets that it wakes from one.
    pub(crate) fn forget(&self, machine: &MachineId) {
        let mut naps = self.0.lock();
        if naps.get(machine) == Some(&Is::Waking) {
            naps.remove(machine);
        }
    }

    /// False where it takes one already.
    fn begin(&self, machine: &MachineId) -> bool {
        self.0.lock().insert(machine.clone(), Is::Napping) != Some(Is::Napping)
    }
}

/// A machine that takes a nap: it wakes when this is dropped.
#[derive(Debug)]
pub(crate) struct Nap {
    inner: Arc<Inner>,
    machine: MachineId,
}

/// One whose nap is over.
#[derive(Debug)]
#[must_use]
pub(crate) struct Waking {
    inner: Arc<Inner>,
    machine: MachineId,
}

/// A machine all of which can be kept.
#[derive(Debug)]
pub(crate) enum Asleep {
    /// By somebody's wish.
    Wanted(MachineRow),
    /// For a moment.
    Napping(Nap, MachineRow),
}

/// Why a machine takes no nap now.
enum Awake {
    /// It is on its way somewhere.
    OnItsWay,
    /// It is in use, and may come to be idle.
    InUse(&'static str),
    /// That will not change by itself.
    Stays(&'static str),
}

impl Nap {
    /// Finds a machine asleep, or puts it to sleep. `then` is what to do afterwards, for people. One that is in use is
    /// waited for a little, and one that is on its way.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` with `INVALID_STATE` where it is in use, or would not go on from its memory; `Unavailable`
    /// where it stays on its way, or does not fall asleep: it is as it was then, or on its way there.
    pub(crate) async fn asleep(
        inner: &Arc<Inner>,
        machine: &MachineRef,
        then: &str,
    ) -> Result<Asleep> {
        let begun = Instant::now();
        let mut seen = None;
        let mut in_use = None;
        let mut asked = false;
        loop {
            let (row, place) = route::locate(inner, machine).await?;
            if seen.replace(row.revision) != Some(row.revision) {
                // Others who keep it look at it too, and each in their turn.
                in_use = None;
            }
            let Place::Awake(link, used) = place else { return Ok(Asleep::Wanted(row)) };
            drop(used);
            if !std::mem::replace(&mut asked, true) {
                ask_the_store(inner, &row, then).await?;
            }
            match Self::lie_down(inner, &row, &*link).await? {
                Ok(nap) => {
                    let now = nap.falls_asleep(&row, then).await?;
                    return Ok(Asleep::Napping(nap, now));
                }
                Err(Awake::Stays(why)) => return Err(refused(&row, why, then)),
                Err(Awake::InUse(why)) => {
                    let since: &mut Instant = in_use.get_or_insert_with(Instant::now);
                    let waited = since.elapsed() >= inner.settings.timing.idle_wait;
                    // Whatever else changes of it meanwhile.
                    if waited || begun.elapsed() >= NAP_WAIT {
                        return Err(refused(&row, why, then));
                    }
                }
                Err(Awake::OnItsWay) => {
                    in_use = None;
                    if begun.elapsed() >= TRANSITION_WAIT {
                        return Err(route::in_transition(&row));
                    }
                }
            }
            if inner.shutdown.is_cancelled() {
                return Err(not_asleep(&row, then, "the server ends"));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Writes down that a machine falls asleep.
    async fn lie_down(
        inner: &Arc<Inner>,
        row: &MachineRow,
        link: &dyn KeeperLink,
    ) -> Result<Result<Self, Awake>> {
        // From here on nobody begins to use it before that is written down.
        let _falling_asleep = match inner.activity.lie_down(&row.id) {
            Ok(falling_asleep) => falling_asleep,
            Err(Use::Now) => return Ok(Err(Awake::InUse("is in use (a command or a file call)"))),
            Err(Use::FallsAsleep) => return Ok(Err(Awake::OnItsWay)),
        };
        let status = link.status().await?;
        if status.phase != KeeperPhase::Ready {
            return Ok(Err(Awake::OnItsWay));
        }
        if status.executions_running > 0 {
            return Ok(Err(Awake::InUse("runs commands, which a sleep would end")));
        }
        if !status.keeps_memory || status.waits_for_room {
            return Ok(Err(Awake::Stays(
                "would not go on from its memory (another number of CPUs from its next wake on, or no room for it)",
            )));
        }
        let row = inner.resolve(&MachineRef::Id(row.id.clone())).await?;
        if !status.sizes.is_some_and(|sizes| goes_on_with(sizes, &row)) {
            return Ok(Err(Awake::Stays("has another size from its next wake on, and would boot")));
        }
        if inner.parts.host.room_lacking(&row.id, Some(row.spec.memory_mib)).await > 0 {
            return Ok(Err(Awake::Stays(
                "would find too little room on the server's disk to wake",
            )));
        }
        if !inner.naps.begin(&row.id) {
            return Ok(Err(Awake::OnItsWay));
        }
        let nap = Self { inner: inner.clone(), machine: row.id.clone() };
        let spec = row.spec.clone();
        let goes = move |now: &MachineRow| {
            let awake = now.desired == Desired::Running && now.observed.phase == Phase::Running;
            // From here on another size is refused.
            let awake = awake && same_memory(&now.spec, &spec);
            let observed = awake.then(|| Observation::of(Phase::Stopping, "snapshot_requested"));
            Ok(MachineChange { observed, ..MachineChange::default() })
        };
        let now = inner.edit(&row.id, goes).await?;
        if (now.desired, now.observed.phase) != (Desired::Running, Phase::Stopping) {
            return Ok(Err(Awake::OnItsWay));
        }
        Drivers::nudge(inner, &row.id);
        Ok(Ok(nap))
    }

    /// Waits until it sleeps; its row then.
    async fn falls_asleep(&self, row: &MachineRow, then: &str) -> Result<MachineRow> {
        let not_stopping = |row: &MachineRow| row.observed.phase != Phase::Stopping;
        let longest = self.inner.settings.timing.stop_max;
        let now = tokio::select! {
            now = self.inner.wait_for(&row.id, longest, not_stopping) => now?,
            () = self.inner.shutdown.cancelled() => return Err(not_asleep(row, then, "the server ends")),
        };
        match (now.observed.phase, &now.observed.last_error) {
            (Phase::Sleeping, _) => Ok(now),
            (_, Some(why)) => Err(not_asleep(row, then, why)),
            (Phase::Stopping, None) => Err(takes_too_long(row, longest, then)),
            (_, None) => Err(not_asleep(row, then, "it was interrupted, and goes on")),
        }
    }

    /// Ends it.
    pub(crate) fn over(self) -> Waking {
        Waking { inner: self.inner.clone(), machine: self.machine.clone() }
    }
}

impl Drop for Nap {
    fn drop(&mut self) {
        self.inner.naps.0.lock().insert(self.machine.clone(), Is::Waking);
        Drivers::nudge(&self.inner, &self.machine);
    }
}

impl Waking {
    /// Waits until the machine is where it is wanted, but not for ever: how it is by then is no business of whoever had
    /// it kept.
    pub(crate) async fn awake(self) {
        let settled = |row: &MachineRow| super::shape(row).is_settled();
        tokio::select! {
            _ = self.inner.wait_for(&self.machine, NAP_WAIT, settled) => (),
            () = self.inner.shutdown.cancelled() => (),
        }
    }
}

/// A machine sleeps in vain where nothing can be kept, and wakes only once the store is there again.
async fn ask_the_store(inner: &Inner, row: &MachineRow, then: &str) -> Result<()> {
    let head = inner.parts.homes.head(&row.home);
    let why = match tokio::time::timeout(NAP_STORE_WAIT, head).await {
        Ok(Ok(_)) => return Ok(()),
        Ok(Err(error)) if error.is_retryable() => error.message,
        Ok(Err(error)) => return Err(error),
        Err(_) => format!("no answer within {} s", NAP_STORE_WAIT.as_secs()),
    };
    let what = format!(
        "the object store is away ({why}): machine {} goes on; {then} once it is back, or leave out whole",
        row.name
    );
    Err(Error::new(ErrorKind::Unavailable, what).retry_after(5_000))
}

/// Whether a guest that has these sizes goes on from its memory with those of its row.
fn goes_on_with(sizes: Sizes, row: &MachineRow) -> bool {
    sizes.memory_mib == row.spec.memory_mib && same_cpus(sizes.vcpu, row.spec.vcpu)
}

/// Whether a guest of one of them goes on from its memory with the other.
fn same_memory(one: &MachineSpec, other: &MachineSpec) -> bool {
    one.memory_mib == other.memory_mib && same_cpus(one.vcpu, other.vcpu)
}

fn same_cpus(one: f64, other: f64) -> bool {
    one.ceil().total_cmp(&other.ceil()).is_eq()
}

fn takes_too_long(row: &MachineRow, longest: Duration, then: &str) -> Error {
    let what = format!(
        "machine {} did not fall asleep within {} s, and goes on once it has; to {then}, put it to sleep first",
        row.name,
        longest.as_secs()
    );
    Error::new(ErrorKind::Unavailable, what)
}

fn not_asleep(row: &MachineRow, then: &str, why: &str) -> Error {
    let what = format!("machine {} did not fall asleep: {why}; try to {then} again", row.name);
    Error::new(ErrorKind::Unavailable, what).retry_after(1_000)
}

fn refused(row: &MachineRow, why: &str, then: &str) -> Error {
    let what = format!(
        "machine {} {why}; {then} once it is idle, or put it to sleep before, or leave out whole",
        row.name
    );
    Error::new(ErrorKind::Conflict, what)
        .with_code("INVALID_STATE")
        .with_detail("current_desired_state", row.desired)
        .with_detail("current_observed_state", row.observed.phase)
}
