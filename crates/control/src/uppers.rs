//! Uppers of machines that fell asleep go to the object store, and their memory: some at once, in the background.
//!
//! # Order
//! A machine is reported asleep; its upper is stored; once it has slept for a while its memory is ([`memory`]); a
//! while later what the store no longer needs goes ([`garbage`]). A wake ends what is under way first ([`hold`]): a keeper writes to what would be read. At start all
//! sleeping machines are looked at for what an earlier server did not come to.
//!
//! # Failure
//! Tried again with growing pauses until the machine wakes or is deleted, and said in its status. Where another host
//! has gone on with the machine, or something else wrote to its disk, no later attempt can do: the machine is not
//! `storing` any more, and its status says why it is not `stored`.
//!
//! # Not here
//! What is stored how (`upper`).

mod garbage;
mod hurry;
mod memory;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base::{ErrorKind, MachineId};
use catalog::{Desired, MachineRow, Phase};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::garbage::collect_later;
pub(crate) use self::garbage::{delete, let_go};
use self::hurry::Hurry;
use crate::control::Inner;
use crate::host::{KeeperStatus, MemoryStanding, UpperStanding, UpperStored};
use crate::{Error, Result};

/// Uppers that are stored at once. Each takes some tens of MiB of memory, and one processor in bursts.
const AT_ONCE: usize = 2;
/// Rows read at once.
const SCAN: usize = 500;
/// Longest pause between two attempts.
const PAUSE_MAX: Duration = Duration::from_secs(300);
/// How long an attempt that is told to stop may take to note what it has stored; else the next stores it again.
const STOP_PATIENCE: Duration = Duration::from_secs(5);
/// The pause between two attempts for which somebody waits.
const HURRIED_PAUSE: Duration = Duration::from_secs(1);
/// How often somebody who waits looks.
const HURRY_LOOK: Duration = Duration::from_millis(50);

/// Whether all that a sleeping machine has outside of its home is in the object store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UpperStatus {
    /// All of it: it would come back on any host.
    Stored,
    /// It is on its way, or waits for its turn or for the store. Were the host lost now, it would be as it
    /// was stored before.
    Storing,
    /// Of a machine that is awake: a part is still in the store, and comes when the guest wants it, or by itself.
    Restoring,
}

/// How far what a sleeping machine has outside of its home is in the store.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Standing {
    /// Its upper.
    pub(crate) upper: Option<UpperStatus>,
    /// Its memory; `None` where it has none, too.
    pub(crate) memory: Option<UpperStatus>,
    /// What keeps them from getting on.
    pub(crate) trouble: Option<String>,
}

/// What is known of uppers.
#[derive(Debug)]
pub(crate) struct Uppers {
    known: Mutex<HashMap<MachineId, Known>>,
    /// Machines that sleep with memory that is stored.
    remembered: Mutex<HashSet<MachineId>>,
    /// Machines that are awake and whose upper is not all here; what keeps it from coming.
    coming: Mutex<HashMap<MachineId, Option<String>>>,
    /// What is going to be collected, and since which state.
    collecting: Mutex<HashSet<(MachineId, String)>>,
    turns: Arc<Semaphore>,
    /// The same for memory, which can be done without: uppers do not wait for it.
    memory_turns: Arc<Semaphore>,
    /// Every machine that slept when the server started has been looked at.
    looked: AtomicBool,
}

/// Of a machine that is not here nothing is to be stored.
#[derive(Debug)]
enum Known {
    /// Awake, or about to be.
    Held,
    /// Asleep, and something is being done.
    Busy(Job),
    /// Asleep, and nothing is being done: nobody here saw it fall asleep, or it cannot be stored, and why.
    Unknown(Option<String>),
}

#[derive(Debug)]
struct Job {
    stop: CancellationToken,
    ended: watch::Receiver<bool>,
    trouble: Option<String>,
    /// The upper is stored; what is being done is for the memory.
    upper_stored: bool,
    /// There is memory, and it is to be stored.
    memory: bool,
    /// Somebody waits for it: it is stored at once.
    hurry: Hurry,
}

impl Default for Uppers {
    fn default() -> Self {
        Self {
            known: Mutex::default(),
            remembered: Mutex::default(),
            coming: Mutex::default(),
            collecting: Mutex::default(),
            turns: Arc::new(Semaphore::new(AT_ONCE)),
            memory_turns: Arc::new(Semaphore::new(1)),
            looked: AtomicBool::new(false),
        }
    }
}

impl Uppers {
    /// How far upper and memory of a machine are.
    pub(crate) fn status(&self, row: &MachineRow) -> Standing {
        if row.observed.phase == Phase::Running
            && let Some(trouble) = self.coming.lock().get(&row.id)
        {
            let upper = Some(UpperStatus::Restoring);
            let trouble = trouble.as_ref().map(|why| not_coming(why));
            return Standing { upper, trouble, ..Standing::default() };
        }
        if row.observed.phase != Phase::Sleeping {
            return Standing::default();
        }
        let stored = Some(UpperStatus::Stored);
        match self.known.lock().get(&row.id) {
            Some(Known::Busy(job)) => Standing {
                upper: if job.upper_stored { stored } else { Some(UpperStatus::Storing) },
                memory: job.memory.then_some(UpperStatus::Storing),
                trouble: job.trouble.clone(),
            },
            Some(Known::Unknown(trouble)) => {
                Standing { trouble: trouble.clone(), ..Standing::default() }
            }
            Some(Known::Held) => Standing::default(),
            None if self.looked.load(Ordering::Relaxed) => {
                let memory = stored.filter(|_| self.remembered.lock().contains(&row.id));
                Standing { upper: stored, memory, trouble: None }
            }
            None => Standing::default(),
        }
    }

    /// Notes whether chunks of an upper are still to come, as its keeper says.
    pub(crate) fn note_coming(&self, machine: &MachineId, status: Option<&KeeperStatus>) {
        let mut coming = self.coming.lock();
        // One that cannot be had is said for as long as the machine runs.
        match status
            .filter(|status| status.upper_coming.is_some() || status.upper_trouble.is_some())
        {
            Some(status) => coming.insert(machine.clone(), status.upper_trouble.clone()),
            None => coming.remove(machine),
        };
    }

    /// Whether there is something that changes by itself.
    pub(crate) fn is_coming(&self, machine: &MachineId) -> bool {
        self.coming.lock().contains_key(machine)
    }

    fn edit(&self, machine: &MachineId, edit: impl FnOnce(&mut Job)) {
        if let Some(Known::Busy(job)) = self.known.lock().get_mut(machine) {
            edit(job);
        }
    }

    fn trouble(&self, machine: &MachineId, trouble: Option<String>) {
        self.edit(machine, |job| job.trouble = trouble);
    }
}

/// A machine has fallen asleep: stores its upper, and then its memory.
pub(crate) fn asleep(inner: &Arc<Inner>, machine: &MachineId) {
    begin(inner, machine, false);
}

/// Ends what is under way for a machine, and begins nothing more until it sleeps again.
pub(crate) async fn hold(inner: &Inner, machine: &MachineId) {
    let before = inner.uppers.known.lock().insert(machine.clone(), Known::Held);
    inner.uppers.remembered.lock().remove(machine);
    if let Some(Known::Busy(mut job)) = before {
        job.stop.cancel();
        // It ends when its sender is gone, too.
        job.ended.wait_for(|ended| *ended).await.ok();
        // It may have found out by then that it is stored.
        inner.uppers.remembered.lock().remove(machine);
    }
}

/// Has what a sleeping machine has stored at once, and waits for it, but not past `until`.
pub(crate) async fn hurry(inner: &Inner, machine: &MachineId, until: Instant) {
    loop {
        match inner.uppers.known.lock().get(machine) {
            Some(Known::Busy(job)) => job.hurry.until(until),
            _ => return,
        }
        if Instant::now() >= until {
            return;
        }
        tokio::time::sleep(HURRY_LOOK).await;
    }
}

/// A machine was made that has memory in the store.
pub(crate) fn remembers(inner: &Inner, machine: &MachineId) {
    inner.uppers.remembered.lock().insert(machine.clone());
}

/// Whether what a sleeping machine has may yet be stored by this server.
#[derive(Debug)]
pub(crate) enum Hope {
    /// It is on its way.
    Coming,
    /// Nobody here saw it fall asleep.
    Unknown,
    /// No later attempt can do; why, and what to do, for people.
    Never(String),
}

/// As far as this server knows.
pub(crate) fn hope(inner: &Inner, machine: &MachineId) -> Hope {
    match inner.uppers.known.lock().get(machine) {
        Some(Known::Busy(_) | Known::Held) => Hope::Coming,
        Some(Known::Unknown(Some(why))) => Hope::Never(why.clone()),
        Some(Known::Unknown(None)) | None => Hope::Unknown,
    }
}

/// The machine is gone.
pub(crate) fn forget(inner: &Inner, machine: &MachineId) {
    inner.uppers.known.lock().remove(machine);
    inner.uppers.remembered.lock().remove(machine);
    inner.uppers.coming.lock().remove(machine);
}

fn begin(inner: &Arc<Inner>, machine: &MachineId, only_if_unknown: bool) {
    if inner.shutdown.is_cancelled() {
        return;
    }
    let (ending, ended) = watch::channel(false);
    let (stop, hurry) = (inner.shutdown.child_token(), Hurry::default());
    {
        let mut known = inner.uppers.known.lock();
        let there = known.get(machine);
        if matches!(there, Some(Known::Busy(_))) || (only_if_unknown && there.is_some()) {
            return;
        }
        // Whether it is will be found out by the job.
        inner.uppers.remembered.lock().remove(machine);
        let stop = stop.clone();
        let hurry = hurry.clone();
        let job = Job { stop, ended, trouble: None, upper_stored: false, memory: false, hurry };
        known.insert(machine.clone(), Known::Busy(job));
    }
    let (inner, machine) = (inner.clone(), machine.clone());
    inner.clone().tasks.spawn(async move {
        let left = tokio::select! {
            left = store_all(&inner, &machine, &stop, &hurry) => left,
            () = shut_down_for(&inner, STOP_PATIENCE) => Left::Nothing,
        };
        let mut known = inner.uppers.known.lock();
        if matches!(known.get(&machine), Some(Known::Busy(_))) {
            match left {
                Left::Nothing => drop(known.remove(&machine)),
                Left::Unknown(why) => drop(known.insert(machine.clone(), Known::Unknown(why))),
            }
        }
        drop(known);
        ending.send_replace(true);
    });
}

async fn shut_down_for(inner: &Inner, long: Duration) {
    inner.shutdown.cancelled().await;
    tokio::time::sleep(long).await;
}

/// What is known of a machine afterwards.
enum Left {
    Nothing,
    /// Whether all of it is stored is not known, or it is known that it is not, and why.
    Unknown(Option<String>),
}

async fn store_all(
    inner: &Arc<Inner>,
    machine: &MachineId,
    stop: &CancellationToken,
    hurry: &Hurry,
) -> Left {
    let left = store(inner, machine, stop, hurry).await;
    if matches!(left, Left::Nothing) && !stop.is_cancelled() {
        inner.uppers.edit(machine, |job| (job.upper_stored, job.trouble) = (true, None));
        memory::store(inner, machine, stop, hurry).await;
    }
    left
}

async fn store(
    inner: &Arc<Inner>,
    machine: &MachineId,
    stop: &CancellationToken,
    hurry: &Hurry,
) -> Left {
    let mut tries = 0;
    loop {
        match inner.parts.host.upper_standing(machine).await {
            UpperStanding::Behind => {}
            UpperStanding::Stored { uncollected } => {
                if let Some(since) = uncollected {
                    collect_later(inner, machine, since);
                }
                return Left::Nothing;
            }
            UpperStanding::Unknown => return Left::Unknown(None),
        }
        match store_once(inner, machine, stop).await {
            Ok(None) => return Left::Nothing,
            Ok(Some(generation)) => {
                collect_later(inner, machine, generation);
                return Left::Nothing;
            }
            // Another host has gone on with it, or something else wrote to it: no later attempt can do.
            Err(error) if matches!(error.kind, ErrorKind::Fenced | ErrorKind::Conflict) => {
                tracing::warn!(%machine, %error, "an upper is not stored");
                return Left::Unknown(Some(not_stored(&error)));
            }
            Err(error) => {
                tracing::warn!(%machine, %error, tries, "store an upper");
                let message = format!(
                    "packages and system files (all outside of /root) are on this host only so far, and are \
                     stored as soon as that can be done: {}",
                    error.message
                );
                inner.uppers.trouble(machine, Some(message));
            }
        }
        tries += 1;
        if !pause(inner, tries, stop, hurry).await {
            return Left::Nothing;
        }
    }
}

/// Waits before the next attempt, not for long where somebody waits for that; false where it is told to stop.
async fn pause(inner: &Inner, tries: u32, stop: &CancellationToken, hurry: &Hurry) -> bool {
    let pause = inner.settings.timing.backoff_min.saturating_mul(1 << tries.min(16));
    let pause = pause.min(PAUSE_MAX);
    let least = pause.min(HURRIED_PAUSE);
    let over = async {
        tokio::time::sleep(least).await;
        tokio::select! {
            () = hurry.wanted() => (),
            () = tokio::time::sleep(pause - least) => (),
        }
    };
    tokio::select! {
        () = stop.cancelled() => false,
        () = over => true,
    }
}

/// Why what a machine has in the store does not come, for people.
fn not_coming(why: &str) -> String {
    format!(
        "packages and system files (all outside of /root) that the machine has not read yet do not come: {why}"
    )
}

/// Why what the last run left is not stored, where no later attempt can do, for people.
fn not_stored(error: &Error) -> String {
    let what =
        "packages and system files (all outside of /root) of the last run are on this host only";
    let until = match error.kind {
        ErrorKind::Fenced => "look for the machine there",
        _ => "they are stored after the next sleep: wake the machine, and put it to sleep",
    };
    format!("{what}: {}; {until}", error.message)
}

/// One attempt, when it is its turn. The generation that was made.
async fn store_once(
    inner: &Inner,
    machine: &MachineId,
    stop: &CancellationToken,
) -> Result<Option<String>> {
    let Some(_turn) = turn(&inner.uppers.turns, stop).await? else { return Ok(None) };
    let stored = inner.parts.host.store_upper(machine, stop).await?;
    settled(machine, "an upper", stored, stop)
}

/// Waits for a turn; `None` where it is told to stop.
async fn turn<'a>(
    turns: &'a Semaphore,
    stop: &CancellationToken,
) -> Result<Option<SemaphorePermit<'a>>> {
    tokio::select! {
        () = stop.cancelled() => Ok(None),
        turn = turns.acquire() => {
            turn.map(Some).map_err(|_| Error::internal("the server is closing"))
        }
    }
}

/// What came of an attempt to store `what`.
fn settled(
    machine: &MachineId,
    what: &str,
    stored: UpperStored,
    stop: &CancellationToken,
) -> Result<Option<String>> {
    match stored {
        // The keeper of before has not quite ended yet.
        UpperStored::Stopped if !stop.is_cancelled() => {
            Err(Error::new(ErrorKind::Unavailable, "its keeper has only just ended"))
        }
        UpperStored::Nothing | UpperStored::Stopped => Ok(None),
        UpperStored::Stored { generation, chunks, bytes } => {
            tracing::info!(%machine, generation, chunks, bytes, "stored {what}");
            Ok(Some(generation))
        }
    }
}

/// Looks at all machines that slept when the server started.
pub(crate) async fn look(inner: Arc<Inner>) {
    let looked = tokio::select! {
        looked = look_at_all(&inner) => looked,
        () = inner.shutdown.cancelled() => return,
    };
    match looked {
        Ok(()) => inner.uppers.looked.store(true, Ordering::Relaxed),
        Err(error) => tracing::warn!(%error, "look for uppers to store"),
    }
}

async fn look_at_all(inner: &Arc<Inner>) -> Result<()> {
    let mut after = None::<MachineId>;
    loop {
        let from = after.take();
        let rows = inner.db(move |catalog| catalog.machines(from.as_ref(), SCAN)).await?;
        for row in &rows {
            let asleep = row.desired == Desired::Sleeping && row.observed.phase == Phase::Sleeping;
            if !asleep {
                continue;
            }
            let upper = inner.parts.host.upper_standing(&row.id).await;
            let memory = memory::standing(inner, &row.id).await;
            if upper != (UpperStanding::Stored { uncollected: None })
                || memory == MemoryStanding::Behind
            {
                begin(inner, &row.id, true);
            }
        }
        match rows.last() {
            Some(last) if rows.len() == SCAN => after = Some(last.id.clone()),
            _ => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
