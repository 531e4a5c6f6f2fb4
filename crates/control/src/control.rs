//! The door to everything: opened once, cloned cheaply.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base::MachineId;
use catalog::{Catalog, MachineChange, MachineRow, Phase};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::drafts::Drafts;
use crate::executions::{self, Executions};
use crate::files::Files;
use crate::health::{Health, Prober};
use crate::homes::HomeAt;
use crate::host::KeeperPhase;
use crate::idempotency::{Idempotency, InFlight};
use crate::limits::CLOSE_MAX;
use crate::lock::DirLock;
use crate::machines::auto_sleep::{Activity, ActivityGuard};
use crate::machines::driver::Drivers;
use crate::machines::nap::Naps;
use crate::machines::types::REASON_FENCED;
use crate::machines::watchers::Watchers;
use crate::machines::{MachineRef, Machines, alarm, idle_ticker};
use crate::settings::{Parts, Settings};
use crate::snapshots::{Leaving, Snapshots};
use crate::uppers::Uppers;
use crate::{Error, Result};

/// Rows read at once where all of them are wanted.
const SCAN_MAX: usize = 500;

/// The application layer.
#[derive(Debug, Clone)]
pub struct Control {
    inner: Arc<Inner>,
}

/// What all parts of the application layer share.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) settings: Settings,
    pub(crate) parts: Parts,
    pub(crate) activity: Arc<Activity>,
    pub(crate) drivers: Drivers,
    pub(crate) watchers: Watchers,
    pub(crate) in_flight: InFlight,
    pub(crate) prober: Prober,
    pub(crate) uppers: Uppers,
    pub(crate) leaving: Leaving,
    pub(crate) naps: Naps,
    pub(crate) drafts: Drafts,
    /// Memory in MiB that guests began with, of machines that are awake.
    memory: Mutex<HashMap<MachineId, u64>>,
    /// Machines whose guests wait for room on their host's disk.
    no_room: Mutex<HashSet<MachineId>>,
    /// Held while a waiting execution changes.
    pub(crate) waiting: tokio::sync::Mutex<()>,
    pub(crate) shutdown: CancellationToken,
    pub(crate) tasks: TaskTracker,
    catalog: Arc<Catalog>,
    lock: Mutex<Option<DirLock>>,
}

impl Control {
    /// Locks the data directory, opens the catalog, and starts a driver for every machine that does not
    /// sleep; the drivers find the keepers that still run.
    ///
    /// # Errors
    /// `Conflict` with `DATA_DIR_LOCKED` where another server has the directory; those of the catalog.
    pub async fn open(settings: Settings, parts: Parts) -> Result<Self> {
        let dir = settings.data_dir.clone();
        let (lock, catalog) = blocking(move || {
            std::fs::create_dir_all(dir.join("machines")).map_err(|error| {
                Error::internal(format!("make the data directory {}: {error}", dir.display()))
            })?;
            let lock = DirLock::take(&dir)?;
            Ok((lock, Catalog::open(&dir.join("catalog.db"))?))
        })
        .await?;
        let inner = Arc::new(Inner {
            activity: Arc::new(Activity::new(parts.clock.clone())),
            drivers: Drivers::default(),
            watchers: Watchers::default(),
            in_flight: InFlight::default(),
            prober: Prober::default(),
            uppers: Uppers::default(),
            naps: Naps::default(),
            leaving: Leaving::default(),
            memory: Mutex::default(),
            no_room: Mutex::default(),
            waiting: tokio::sync::Mutex::default(),
            shutdown: CancellationToken::new(),
            tasks: TaskTracker::new(),
            catalog: Arc::new(catalog),
            drafts: Drafts::default(),
            lock: Mutex::new(Some(lock)),
            settings,
            parts,
        });
        executions::waiting::settle_after_restart(&inner).await?;
        for row in inner.active().await? {
            Drivers::nudge(&inner, &row.id);
        }
        inner.tasks.spawn(idle_ticker::run(inner.clone()));
        inner.tasks.spawn(alarm::run(inner.clone()));
        inner.tasks.spawn(crate::health::run(inner.clone()));
        inner.tasks.spawn(crate::housekeeping::run(inner.clone()));
        inner.tasks.spawn(crate::uppers::look(inner.clone()));
        inner.tasks.spawn(crate::idempotency::run(inner.clone()));
        Ok(Self { inner })
    }

    /// Machines.
    #[must_use]
    pub fn machines(&self) -> Machines {
        Machines { inner: self.inner.clone() }
    }

    /// Commands run in machines.
    #[must_use]
    pub fn executions(&self) -> Executions {
        Executions { inner: self.inner.clone() }
    }

    /// Files of homes.
    #[must_use]
    pub fn files(&self) -> Files {
        Files { inner: self.inner.clone() }
    }

    /// Snapshots, restores and forks.
    #[must_use]
    pub fn snapshots(&self) -> Snapshots {
        Snapshots { inner: self.inner.clone() }
    }

    /// Replays of mutating calls.
    #[must_use]
    pub fn idempotency(&self) -> Idempotency {
        Idempotency { inner: self.inner.clone() }
    }

    /// Whether this server can do its work.
    #[must_use]
    pub fn health(&self) -> Health {
        Health { inner: self.inner.clone() }
    }

    /// What the binary decided.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.inner.settings
    }

    /// Stops drivers and tickers, and gives the data directory back. Awake machines stay with their
    /// keepers. Calls made after it still read, but nothing converges any more.
    ///
    /// What is under way is waited for, but not for longer than [`CLOSE_MAX`]: all of it can be cut off
    /// anywhere and is gone on with by the next server. The directory stays locked then until this process ends.
    pub async fn close(&self) {
        self.inner.shutdown.cancel();
        self.inner.tasks.close();
        if tokio::time::timeout(CLOSE_MAX, self.inner.tasks.wait()).await.is_ok() {
            drop(self.inner.lock.lock().take());
        } else {
            tracing::warn!(calls = self.inner.tasks.len(), "calls were still under way at the end");
        }
    }
}

impl Inner {
    /// Runs `work` on the catalog, away from the threads that serve.
    pub(crate) async fn db<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Catalog) -> catalog::Result<T> + Send + 'static,
    ) -> Result<T> {
        let catalog = self.catalog.clone();
        blocking(move || Ok(work(&catalog)?)).await
    }

    /// Notes how much memory a guest has; none of a machine that is not awake.
    pub(crate) fn note_memory(&self, machine: &MachineId, mib: Option<u64>) {
        let mut memory = self.memory.lock();
        match mib {
            Some(mib) => memory.insert(machine.clone(), mib),
            None => memory.remove(machine),
        };
    }

    /// How much memory a guest has in MiB, as far as that is known.
    pub(crate) fn memory_of(&self, machine: &MachineId) -> Option<u64> {
        self.memory.lock().get(machine).copied()
    }

    /// Notes whether a guest waits for room on its host's disk.
    pub(crate) fn note_room(&self, machine: &MachineId, waits: bool) {
        let mut no_room = self.no_room.lock();
        if waits {
            no_room.insert(machine.clone());
        } else {
            no_room.remove(machine);
        }
    }

    /// Whether it does, as far as that is known.
    pub(crate) fn waits_for_room(&self, machine: &MachineId) -> bool {
        self.no_room.lock().contains(machine)
    }

    /// A machine that runs, and what keeps it from falling asleep while it is used; the row as it is now.
    pub(crate) async fn in_use(
        &self,
        row: MachineRow,
    ) -> Result<(MachineRow, Option<ActivityGuard>)> {
        if row.observed.phase != Phase::Running {
            return Ok((row, None));
        }
        let in_use = self.activity.begin(&row.id).await;
        let row = self.resolve(&MachineRef::Id(row.id)).await?;
        let runs = row.observed.phase == Phase::Running;
        Ok((row, runs.then_some(in_use)))
    }

    /// Changes a machine's row and tells its watchers.
    pub(crate) async fn edit(
        &self,
        machine: &MachineId,
        decide: impl FnOnce(&MachineRow) -> Result<MachineChange> + Send + 'static,
    ) -> Result<MachineRow> {
        let (machine, now) = (machine.clone(), self.parts.clock.now());
        let row = self.db(move |catalog| catalog.edit_machine(&machine, now, decide)).await??;
        self.watchers.tell(&row);
        Ok(row)
    }

    /// Runs `work` to its end, also when the caller goes away: what was written down must also be
    /// acted on.
    pub(crate) async fn to_the_end<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        joined(self.tasks.spawn(work).await)
    }

    /// The machine that a caller named.
    pub(crate) async fn resolve(&self, machine: &MachineRef) -> Result<MachineRow> {
        let recent = match machine {
            MachineRef::Id(id) => self.catalog.recent_machine(id),
            MachineRef::Name(name) => self.catalog.recent_machine_by_name(name),
        };
        if let Some(row) = recent {
            return Ok(row);
        }
        let wanted = machine.clone();
        let found = self
            .db(move |catalog| match &wanted {
                MachineRef::Id(id) => catalog.machine(id),
                MachineRef::Name(name) => catalog.machine_by_name(name),
            })
            .await?;
        found.ok_or_else(|| Error::not_found(format!("there is no machine {machine}")))
    }

    /// All machines that do not sleep, or have something to do.
    pub(crate) async fn active(&self) -> Result<Vec<MachineRow>> {
        let mut rows: Vec<MachineRow> = Vec::new();
        loop {
            let after = rows.last().map(|row| row.id.clone());
            let found =
                self.db(move |catalog| catalog.active_machines(after.as_ref(), SCAN_MAX)).await?;
            let last = found.len() < SCAN_MAX;
            rows.extend(found);
            if last {
                return Ok(rows);
            }
        }
    }

    /// Waits at most `wait` until `enough` holds of the machine; returns its row as it is then.
    pub(crate) async fn wait_for(
        &self,
        machine: &MachineId,
        wait: Duration,
        enough: impl Fn(&MachineRow) -> bool,
    ) -> Result<MachineRow> {
        let deadline = tokio::time::Instant::now() + wait;
        let mut told = self.watchers.subscribe(machine);
        let mut row = self.resolve(&MachineRef::Id(machine.clone())).await?;
        while !enough(&row) {
            match tokio::time::timeout_at(deadline, told.changed()).await {
                Ok(Ok(())) => {
                    // What was told before the row was read may be older than it.
                    if let Some(newer) = told.borrow_and_update().as_deref()
                        && newer.revision >= row.revision
                    {
                        row.clone_from(newer);
                    }
                }
                // Time is up, or the sender is gone, which only an unwatched machine's is.
                Ok(Err(_)) | Err(_) => break,
            }
        }
        Ok(row)
    }

    /// True where a machine without a keeper has its home whole in the store: its last keeper said so,
    /// or nobody holds it.
    pub(crate) async fn home_is_whole(&self, row: &MachineRow) -> Result<bool> {
        let words = self.parts.host.last_words(&row.id).await;
        let stopped = words.is_some_and(|words| words.phase == KeeperPhase::Stopped);
        // Fenced: the home is another server's, and what that one published is all there is.
        if stopped || self.was_fenced(row).await {
            return Ok(true);
        }
        Ok(self.parts.homes.head(&row.home).await?.is_none_or(|head| head.released))
    }

    /// True where a machine's last keeper ended because another server took its home.
    pub(crate) async fn was_fenced(&self, row: &MachineRow) -> bool {
        self.ended_because(row, REASON_FENCED).await
    }

    /// True where that is the reason that a machine's last keeper gave for its end.
    pub(crate) async fn ended_because(&self, row: &MachineRow, reason: &str) -> bool {
        let failure = self.parts.host.last_words(&row.id).await.and_then(|words| words.failure);
        failure.is_some_and(|failure| failure.code == reason)
    }

    /// Where a machine's home is.
    pub(crate) fn home_at(&self, row: &MachineRow) -> HomeAt {
        HomeAt {
            home: row.home.clone(),
            dir: self.machine_dir(&row.id),
            bytes_max: row.spec.storage_gib.saturating_mul(base::GIB),
        }
    }

    fn machine_dir(&self, machine: &MachineId) -> PathBuf {
        self.settings.data_dir.join("machines").join(machine.as_str())
    }
}

/// Runs blocking work on a thread that may block.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    joined(tokio::task::spawn_blocking(work).await)
}

fn joined<T>(done: Result<Result<T>, tokio::task::JoinError>) -> Result<T> {
    done.unwrap_or_else(|error| Err(Error::internal("an inner task failed").caused_by(error)))
}
