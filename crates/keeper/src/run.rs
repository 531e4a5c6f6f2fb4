//! The life of a keeper, from claim to release.
//!
//! # Order
//! Lock the directory; listen; claim the home, and load a guest that slept, or a new machine's (`clone`), meanwhile
//! (`early`); bring the upper here (`upper`), and the memory (`memory`); serve the home to a guest that goes on or
//! boots (`start`); meet the agent. Then wait for one of: a call to stop, SIGTERM, the guest's end, the loss of the home. Then:
//! save or stop the guest (`sleep`), let executions write their ends, release the home (seal, upload,
//! last commit), say the last words.
//!
//! # Failure
//! Before the guest runs, a home that was claimed is released again, so that another host can take it. A
//! fenced home is not released: it is not ours any more; the guest is killed at once. Memory that no guest went on from
//! sleeps on. A home that cannot
//! be released because the store is away stays as it is on this disk, and the last words say so.
//!
//! # Crash
//! At any point: the lock goes with the process, the guest with its parent; the next keeper opens the
//! same directory and goes on from what was acknowledged.

mod clone;
mod disk;
mod early;
mod home;
mod memory;
pub(crate) mod room;
mod sleep;
mod standing;
mod start;
mod upper;

use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base::{Clock, Entropy, ErrorKind, Timestamp};
use homefs::{HomeFs, Opened};
use objstore::ObjectStore;
use parking_lot::Mutex;
use runtime::{Exit, Instance, Runtime};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::clone::Beginning;
use self::early::Early;
use self::home::until_fenced;
use self::sleep::{Asleep, Held};
use self::standing::{Standing, status_of};
use crate::asleep::SleepRecord;
use crate::executions::runner::Runner;
use crate::layout::MachineDir;
use crate::lock::Lock;
use crate::server::{self, Door, Policy, Shared, SizesInForce};
use crate::{Failure, KeeperSpec, KeeperState, LastWords, Result, Sizes, launch};

/// How often the length of the log is looked at.
const LOG_LOOK: Duration = Duration::from_secs(5);
/// How long calls that change files may take to end at sleep; a longer upload is refused in its middle.
const CALLS_PATIENCE: Duration = Duration::from_secs(10);
/// How long executions have between TERM and KILL at sleep.
const EXECUTION_GRACE: Duration = Duration::from_secs(5);
/// How long executions may take to write their ends once the guest is gone.
const DRAIN_PATIENCE: Duration = Duration::from_secs(5);

/// What a keeper works with.
#[derive(Debug, Clone)]
pub struct Parts {
    /// Where the home is kept.
    pub store: Arc<dyn ObjectStore>,
    /// What runs the guest.
    pub runtime: Arc<dyn Runtime>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
    /// Cancelled when the process is asked to end.
    pub terminate: CancellationToken,
}

/// Why the machine stops.
#[derive(Debug)]
enum Ending {
    Asked,
    GuestEnded(Exit),
    Fenced(String),
}

/// Says that a machine has its keeper, as long as it is there.
#[derive(Debug)]
pub struct Hold {
    lock: Lock,
    /// Who had this process be the keeper; it hears of its end.
    caller: Option<UnixStream>,
}

impl Hold {
    pub(crate) fn take(dir: &MachineDir) -> Result<Self> {
        Lock::take(dir).map(|lock| Self { lock, caller: None })
    }

    pub(crate) fn new(lock: Lock, caller: UnixStream) -> Self {
        Self { lock, caller: Some(caller) }
    }

    /// Whether it can be given up while the process lives on, and who waits for that hears of it.
    #[must_use]
    pub fn can_be_given_up(&self) -> bool {
        self.lock.is_heard()
    }

    /// Keeps it until the process has ended: whoever waits for that may rely on nothing being written any more, also by
    /// calls that are still under way.
    pub fn keep_for_life(self) {
        self.lock.keep_for_life();
        std::mem::forget(self.caller);
    }
}

/// What a keeper leaves.
#[derive(Debug)]
pub struct Ended {
    /// How it went.
    pub words: LastWords,
    /// To be kept until nothing of it can write any more; none where another keeper lives.
    pub hold: Option<Hold>,
}

/// Runs the keeper of one machine to its end. `hold`: where this process has it already.
pub async fn run(dir: MachineDir, spec: KeeperSpec, parts: Parts, hold: Option<Hold>) -> Ended {
    let hold = match hold.map_or_else(|| Hold::take(&dir), Ok) {
        Ok(hold) => hold,
        // Another keeper lives here: its last words are not ours to write.
        Err(error) => return Ended { words: words(&parts, false, 0, Some(&error)), hold: None },
    };
    let last = Keeper::new(dir.clone(), spec, parts).live().await;
    if let Err(error) = last.write(&dir) {
        tracing::error!(%error, "the last words could not be written");
    }
    Ended { words: last, hold: Some(hold) }
}

/// Says the last words of a keeper that cannot even begin: its store cannot be opened, say. `hold`: as for [`run`].
pub fn refuse(dir: &MachineDir, hold: Option<Hold>, failure: &Failure, at: Timestamp) {
    // One that lives speaks for itself.
    let Ok(_hold) = hold.map_or_else(|| Hold::take(dir), Ok) else { return };
    let words = words_at(at, false, 0, Some(failure));
    if let Err(error) = words.write(dir) {
        tracing::error!(%error, "the last words could not be written");
    }
}

fn words(parts: &Parts, released: bool, home_seq: u64, error: Option<&Failure>) -> LastWords {
    words_at(parts.clock.now(), released, home_seq, error)
}

fn words_at(at: Timestamp, released: bool, home_seq: u64, error: Option<&Failure>) -> LastWords {
    let error = error.map(|error| (error.kind, error.message.clone()));
    let (wake_at, paused_ms) = (None, None);
    LastWords { released, error, home_gone: false, home_seq, wake_at, paused_ms, at }
}

/// What was found when the home was opened.
struct Found {
    asleep: Option<SleepRecord>,
    beginning: Beginning,
    /// The guest that went to sleep, or a new machine's, loaded as far as it can be without its home.
    early: Option<Early>,
    /// Why there is no memory to go on from, where there was some.
    without: Option<String>,
    opened: Opened,
}

struct Keeper {
    dir: MachineDir,
    spec: KeeperSpec,
    parts: Parts,
    /// The upper, where chunks of it are missing.
    disk: Option<Arc<disk::Served>>,
    standing: Arc<Mutex<Standing>>,
    /// Told when the stage changes.
    moved: watch::Sender<()>,
    stop: CancellationToken,
}

impl Keeper {
    fn new(dir: MachineDir, spec: KeeperSpec, parts: Parts) -> Self {
        let standing = Standing {
            state: KeeperState::Starting,
            since: parts.clock.now(),
            opened: String::new(),
            woken: String::new(),
            upper_behind: None,
            keeps_memory: false,
            opening: homefs::Opening::default(),
            restoring: ::upper::Progress::default(),
            coming: ::upper::Progress::default(),
            disk: None,
            wake_at: None,
            paused_ms: None,
            egress: Arc::new(Policy::new(spec.instance.egress.allowed.clone())),
            sizes: Arc::new(SizesInForce::new(Sizes {
                vcpu: spec.instance.vcpu,
                memory_mib: spec.instance.memory_mib,
                storage_bytes_max: spec.storage_bytes_max,
            })),
            home: None,
            runner: None,
            waits_for_room: None,
        };
        let stop = parts.terminate.child_token();
        let (standing, moved) = (Arc::new(Mutex::new(standing)), watch::Sender::new(()));
        Self { dir, spec, parts, disk: None, standing, moved, stop }
    }

    async fn live(mut self) -> LastWords {
        let listener = match server::bind(&self.dir.socket()) {
            Ok(listener) => listener,
            Err(error) => return words(&self.parts, false, 0, Some(&error)),
        };
        let (egress, sizes) = {
            let standing = self.standing.lock();
            (standing.egress.clone(), standing.sizes.clone())
        };
        let shared = Arc::new(Shared {
            door: Door::default(),
            home: std::sync::OnceLock::new(),
            files: std::sync::OnceLock::new(),
            runner: std::sync::OnceLock::new(),
            waits_for_room: std::sync::OnceLock::new(),
            egress,
            sizes,
            status: status_of(self.standing.clone()),
            moved: self.moved.subscribe(),
            stop: self.stop.clone(),
            forget: AtomicBool::new(false),
        });
        let end = CancellationToken::new();
        let server = tokio::spawn(server::serve(listener, shared.clone(), end.clone()));
        let mut last = self.live_served(&shared).await;
        {
            let standing = self.standing.lock();
            (last.wake_at, last.paused_ms) = (standing.wake_at, standing.paused_ms);
        }
        end.cancel();
        // Calls that are still open get a moment; a stream that nobody reads does not hold us up.
        tokio::time::timeout(Duration::from_secs(2), server).await.ok();
        std::fs::remove_file(self.dir.socket()).ok();
        last
    }

    async fn live_served(&mut self, shared: &Shared) -> LastWords {
        let asleep = SleepRecord::read(&self.dir);
        self.open_disk_early().await;
        let (beginning, mut early) = match &asleep {
            Some(record) => (Beginning::Boot, self.load_early(record)),
            None => self.stage_template().await,
        };
        let is_staged = beginning == Beginning::Clone;
        let (home, opened) = match self.open_home(asleep.as_ref()).await {
            Ok(opened) => opened,
            Err(error) => {
                give_up(early).await;
                // Whoever waits for the next stage does not hold up the end.
                self.enter(KeeperState::Stopping);
                let home_gone = error.kind == ErrorKind::NotFound;
                return LastWords { home_gone, ..words(&self.parts, false, 0, Some(&error)) };
            }
        };
        self.standing.lock().home = Some(home.clone());
        self.moved.send_replace(());
        let epoch = opened.epoch;
        if is_staged && let Some(early) = &mut early {
            // The copy's upper is opened where it lies, and moved next.
            early.ready().await;
        }
        let ready = self.ready_upper(&opened, beginning).await;
        let has_upper = ready.is_ok();
        let outcome = match ready {
            Ok((beginning, stored)) => {
                let early = if is_staged && beginning != Beginning::Clone {
                    self.unstage_template(early).await;
                    None
                } else {
                    early
                };
                let found = Found { asleep, beginning, early, without: None, opened };
                match self.find_memory(&home, found, stored).await {
                    Ok(found) => self.with_home(&home, found, shared).await,
                    Err(error) => Err(error),
                }
            }
            Err(error) => {
                give_up(early).await;
                Err(error)
            }
        };
        self.enter(KeeperState::Stopping);
        // Nothing that is acknowledged may come after the last commit.
        shared.door.close();
        shared.door.empty(CALLS_PATIENCE).await;
        // What the guest's kernel holds without a name is kept by it, until the home is given up.
        let (mut outcome, held) = match outcome {
            Ok((Ending::Fenced(why), _)) => {
                let error = Failure::new(ErrorKind::Fenced, why);
                self.renew_record(&home, Asleep::No).await;
                return words(&self.parts, false, home.status().seq, Some(&error));
            }
            Ok((Ending::Asked, held)) => (None, held),
            Ok((Ending::GuestEnded(exit), held)) => (Some(guest_ended(&exit)), held),
            Err(error) => (Some(error), None),
        };
        // Before the home can be claimed elsewhere: who does has to know that there is something to wait for.
        let mut disk_failed = false;
        if has_upper {
            let ended = self.end_disk().await;
            disk_failed = ended.is_err();
            if let Err(error) = self.leave_upper(epoch, ended).await {
                tracing::error!(%error, "what came of the upper is not noted, and will come again");
                outcome.get_or_insert(error);
            }
        } else if let Err(error) = self.drop_disk().await {
            // No guest ran; what lies in its place by now may be another disk, of which it knows nothing.
            tracing::warn!(%error, "let go of the upper");
        }
        let released = self.release(&home).await;
        let asleep = match held {
            // Memory knows more of the disk than is on it.
            _ if disk_failed => Asleep::No,
            Some(_) => Asleep::Saved,
            None => self.sleeps_on(&opened),
        };
        self.renew_record(&home, asleep).await;
        match released {
            Ok(seq) => words(&self.parts, true, seq, outcome.as_ref()),
            Err(error) => {
                // That it is another server's by now is what matters most, however the guest ended.
                let fenced = error.kind == ErrorKind::Fenced;
                let why = outcome.as_ref().filter(|_| !fenced).unwrap_or(&error);
                words(&self.parts, false, home.status().seq, Some(why))
            }
        }
    }

    /// From a home to the reason why it ends. The guest does not run any more when this returns. With it,
    /// where the guest sleeps with its memory, what its kernel holds.
    async fn with_home(
        &self,
        home: &Arc<HomeFs>,
        found: Found,
        shared: &Shared,
    ) -> Result<(Ending, Option<Held>)> {
        let (awake, files) = match self.wake(home, found, shared).await {
            Err(error) if error.kind == ErrorKind::Fenced => {
                return Ok((Ending::Fenced(error.message), None));
            }
            woken => woken?,
        };
        let runner = Runner::new(self.dir.clone(), awake.guest.clone(), self.parts.clock.clone());
        shared.files.set(files).ok();
        shared.home.set(home.clone()).ok();
        shared.runner.set(runner.clone()).ok();
        shared.waits_for_room.set(awake.instance.waits_for_room()).ok();
        shared.egress.holds(&awake.instance);
        shared.sizes.are_of(&awake.instance, home);
        {
            let mut standing = self.standing.lock();
            standing.runner = Some(runner.clone());
            standing.keeps_memory = self.spec.keep_memory && awake.keeps_memory;
        }
        self.enter(KeeperState::Running);
        self.fetch_rest();
        let mut ending = self.until_end(home, &awake.instance).await;
        awake.instance.expect_stop();
        shared.door.close();
        let mut quiet = false;
        if matches!(ending, Ending::Asked) {
            self.enter(KeeperState::Stopping);
            tokio::select! {
                is = until_quiet(shared, &runner, &awake.instance) => quiet = is,
                why = until_fenced(home) => ending = Ending::Fenced(why),
            }
        }
        let held = if matches!(ending, Ending::Asked) {
            let keeps = quiet && !shared.forget.load(Ordering::SeqCst);
            match self.put_to_sleep(home, awake, keeps).await {
                Err(error) if error.kind == ErrorKind::Fenced => {
                    ending = Ending::Fenced(error.message);
                    None
                }
                held => held?,
            }
        } else {
            awake.end().await?;
            None
        };
        runner.drain(DRAIN_PATIENCE).await;
        Ok((ending, held))
    }

    async fn until_end(&self, home: &Arc<HomeFs>, instance: &Arc<dyn Instance>) -> Ending {
        let bound_log = async {
            loop {
                tokio::time::sleep(LOG_LOOK).await;
                launch::bound_log(&self.dir);
            }
        };
        let tell_of_room = async {
            let mut waits = instance.waits_for_room();
            while waits.changed().await.is_ok() {
                self.moved.send_replace(());
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = self.stop.cancelled() => Ending::Asked,
            exit = instance.wait() => Ending::GuestEnded(exit),
            why = until_fenced(home) => Ending::Fenced(why),
            () = bound_log => Ending::Asked,
            () = tell_of_room => Ending::Asked,
        }
    }

    fn enter(&self, state: KeeperState) {
        let mut standing = self.standing.lock();
        if standing.state != state {
            tracing::info!(?state, "keeper");
            standing.state = state;
            standing.since = self.parts.clock.now();
        }
        drop(standing);
        self.moved.send_replace(());
    }
}

/// Whether calls that change the home, and commands, have come to their end: one that does not could do so later, unheard
/// of by the guest. Tried again where the guest found no room meanwhile.
async fn until_quiet(shared: &Shared, runner: &Runner, instance: &Arc<dyn Instance>) -> bool {
    let mut waits = instance.waits_for_room();
    let mut tries = 0;
    loop {
        // A guest that waits can neither come to rest nor write back what it has.
        room::there_is_room(instance).await;
        waits.borrow_and_update();
        let quiet = shared.door.empty(CALLS_PATIENCE).await;
        let quiet = runner.end_all(EXECUTION_GRACE).await && quiet;
        tries += 1;
        if quiet || tries >= sleep::TRIES || !room::lacked(&waits) {
            return quiet;
        }
    }
}

async fn give_up(early: Option<Early>) {
    if let Some(early) = early {
        early.give_up().await;
    }
}

fn guest_ended(exit: &Exit) -> Failure {
    match exit {
        Exit::PoweredOff => Failure::new(
            ErrorKind::Conflict,
            "the guest powered itself off; wake the machine to start it again",
        ),
        Exit::Suspended => Failure::internal("wait for the guest", "it was suspended unasked"),
        Exit::Crashed(why) => Failure::new(
            ErrorKind::Unreachable,
            format!("the guest ended: {why}; wake the machine to start it again"),
        ),
    }
}
