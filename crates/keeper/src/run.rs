//! The life of a keeper, from claim to release.
//!
//! # Order
//! Lock the directory; listen; claim the home; serve it; start the instance; meet the agent. Then wait for
//! one of: a call to stop, SIGTERM, the guest's end, the loss of the home. Then: stop the guest,
//! let executions write their ends, release the home (seal, upload, last commit), say the last words.
//!
//! # Failure
//! Before the guest runs, a home that was claimed is released again, so that another host can take it. A
//! fenced home is not released: it is not ours any more; the guest is killed at once. A home that cannot
//! be released because the store is away stays as it is on this disk, and the last words say so.
//!
//! # Crash
//! At any point: the lock goes with the process, the guest with its parent; the next keeper opens the
//! same directory and goes on from what was acknowledged.

use std::sync::Arc;
use std::time::Duration;

use agent_proto::{AgentClient, Configure};
use base::{Clock, Entropy, ErrorKind, Timestamp};
use homefs::{HomeFs, HomeSettings, Opened, Recovery, SyncMode};
use objstore::ObjectStore;
use parking_lot::Mutex;
use runtime::{Exit, Instance, Runtime};
use tokio_util::sync::CancellationToken;

use crate::executions::runner::Runner;
use crate::files::Files;
use crate::guest::Guest;
use crate::layout::MachineDir;
use crate::lock::Lock;
use crate::server::{self, Door, Shared};
use crate::{Failure, KeeperSpec, KeeperState, LastWords, Result, Status};

/// How long processes in the guest have between TERM and KILL at sleep.
const PROCESS_GRACE: Duration = Duration::from_secs(5);
/// How long the instance may take to power off after its agent said that it will.
const POWER_OFF_GRACE: Duration = Duration::from_secs(10);
/// How often the home is asked whether it is still ours.
const FENCE_POLL: Duration = Duration::from_millis(500);
/// How long calls that change files may take to end at sleep; a longer upload is refused in its middle.
const CALLS_PATIENCE: Duration = Duration::from_secs(10);
/// How long executions may take to write their ends once the guest is gone.
const DRAIN_PATIENCE: Duration = Duration::from_secs(5);

/// Most characters of a guest's own words in a message.
const GUEST_SAYS_CHARS_MAX: usize = 300;

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

/// What `GET /status` is made from.
#[derive(Debug)]
struct Standing {
    state: KeeperState,
    since: Timestamp,
    opened: String,
    home: Option<Arc<HomeFs>>,
    runner: Option<Arc<Runner>>,
}

/// Why the machine stops.
#[derive(Debug)]
enum Ending {
    Asked,
    GuestEnded(Exit),
    Fenced(String),
}

/// Runs the keeper of one machine to its end, and says how it went. The machine's directory stays
/// locked until the process has ended.
pub async fn run(dir: MachineDir, spec: KeeperSpec, parts: Parts) -> LastWords {
    let lock = match Lock::take(&dir) {
        Ok(lock) => lock,
        // Another keeper lives here: its last words are not ours to write.
        Err(error) => return words(&parts, false, 0, Some(&error)),
    };
    let last = Keeper::new(dir.clone(), spec, parts).live().await;
    if let Err(error) = last.write(&dir) {
        tracing::error!(%error, "the last words could not be written");
    }
    lock.keep_for_life();
    last
}

/// Says the last words of a keeper that cannot even begin: its store cannot be opened, say.
pub fn refuse(dir: &MachineDir, failure: &Failure, at: Timestamp) {
    // One that lives speaks for itself.
    let Ok(_lock) = Lock::take(dir) else { return };
    let error = Some((failure.kind, failure.message.clone()));
    let words = LastWords { released: false, error, home_seq: 0, at };
    if let Err(error) = words.write(dir) {
        tracing::error!(%error, "the last words could not be written");
    }
}

fn words(parts: &Parts, released: bool, home_seq: u64, error: Option<&Failure>) -> LastWords {
    let error = error.map(|error| (error.kind, error.message.clone()));
    LastWords { released, error, home_seq, at: parts.clock.now() }
}

struct Keeper {
    dir: MachineDir,
    spec: KeeperSpec,
    parts: Parts,
    standing: Arc<Mutex<Standing>>,
    stop: CancellationToken,
}

impl Keeper {
    fn new(dir: MachineDir, spec: KeeperSpec, parts: Parts) -> Self {
        let standing = Standing {
            state: KeeperState::Starting,
            since: parts.clock.now(),
            opened: String::new(),
            home: None,
            runner: None,
        };
        let stop = parts.terminate.child_token();
        Self { dir, spec, parts, standing: Arc::new(Mutex::new(standing)), stop }
    }

    async fn live(self) -> LastWords {
        let listener = match server::bind(&self.dir.socket()) {
            Ok(listener) => listener,
            Err(error) => return words(&self.parts, false, 0, Some(&error)),
        };
        let shared = Arc::new(Shared {
            door: Door::default(),
            home: std::sync::OnceLock::new(),
            files: std::sync::OnceLock::new(),
            runner: std::sync::OnceLock::new(),
            status: status_of(self.standing.clone()),
            stop: self.stop.clone(),
        });
        let end = CancellationToken::new();
        let server = tokio::spawn(server::serve(listener, shared.clone(), end.clone()));
        let last = self.live_served(&shared).await;
        end.cancel();
        // Calls that are still open get a moment; a stream that nobody reads does not hold us up.
        tokio::time::timeout(Duration::from_secs(2), server).await.ok();
        std::fs::remove_file(self.dir.socket()).ok();
        last
    }

    async fn live_served(&self, shared: &Shared) -> LastWords {
        let home = match self.open_home().await {
            Ok(home) => home,
            Err(error) => return words(&self.parts, false, 0, Some(&error)),
        };
        self.standing.lock().home = Some(home.clone());
        let outcome = self.with_home(&home, shared).await;
        self.enter(KeeperState::Stopping);
        // Nothing that is acknowledged may come after the last commit.
        shared.door.close();
        shared.door.empty(CALLS_PATIENCE).await;
        let outcome = match outcome {
            Ok(Ending::Fenced(why)) => {
                let error = Failure::new(ErrorKind::Fenced, why);
                return words(&self.parts, false, home.status().seq, Some(&error));
            }
            Ok(Ending::Asked) => None,
            Ok(Ending::GuestEnded(exit)) => Some(guest_ended(&exit)),
            Err(error) => Some(error),
        };
        match self.release(&home).await {
            Ok(seq) => words(&self.parts, true, seq, outcome.as_ref()),
            Err(error) => words(
                &self.parts,
                false,
                home.status().seq,
                Some(outcome.as_ref().unwrap_or(&error)),
            ),
        }
    }

    async fn open_home(&self) -> Result<Arc<HomeFs>> {
        let settings = HomeSettings {
            home: self.spec.home.clone(),
            dir: self.dir.home(),
            holder: self.spec.holder.clone(),
            bytes_max: self.spec.storage_bytes_max,
            sync: if self.spec.fsync_local { SyncMode::Local } else { SyncMode::Store },
            replicate_after: homefs::REPLICATE_AFTER,
            unreplicated_bytes_max: homefs::UNREPLICATED_BYTES_MAX,
            sync_patience: homefs::SYNC_PATIENCE,
            release_patience: homefs::RELEASE_PATIENCE,
            inodes_cached: homefs::INODES_CACHED,
            take_over: self.spec.take_over,
        };
        let parts = homefs::Parts {
            store: self.parts.store.clone(),
            clock: self.parts.clock.clone(),
            entropy: self.parts.entropy.clone(),
            runtime: tokio::runtime::Handle::current(),
        };
        let (home, opened) = crate::files::blocking(move || {
            HomeFs::open_writer(settings, parts)
                .map_err(|error| Failure::new(error.kind(), error.to_string()))
        })
        .await?;
        self.note_opened(&opened);
        Ok(Arc::new(home))
    }

    fn note_opened(&self, opened: &Opened) {
        tracing::info!(epoch = %opened.epoch, seq = opened.seq, recovery = ?opened.recovery, "home opened");
        let how = match opened.recovery {
            Recovery::Clean => "clean",
            Recovery::LocalContinued => "local_continued",
            Recovery::FromStore { lost_local: false } => "from_store",
            Recovery::FromStore { lost_local: true } => "from_store_local_parked",
        };
        how.clone_into(&mut self.standing.lock().opened);
    }

    /// From a served home to the reason why it ends. The guest is gone when this returns.
    async fn with_home(&self, home: &Arc<HomeFs>, shared: &Shared) -> Result<Ending> {
        let started = self.parts.runtime.start(&self.spec.instance).await?;
        let instance: Arc<dyn Instance> = Arc::from(started.instance);
        let session =
            Arc::new(fuse_serve::Session::new(home.clone(), fuse_serve::Config::default()));
        let channel =
            fuse_serve::Channel::serve(session, started.fuse, fuse_serve::Threads::default())
                .map_err(|error| Failure::internal("serve the home to the guest", error))?;
        let notifier = channel.notifier();
        let files = Files::new(home.clone()).with_on_change({
            let notifier = notifier.clone();
            Arc::new(move |touched: &vfs::Touched| notifier.send(touched))
        });
        // Files can be read and written while the guest boots; its kernel knows nothing yet.
        shared.files.set(files).ok();
        shared.home.set(home.clone()).ok();
        let ending = match self.meet_agent(started.control, &instance).await {
            Ok(agent) => {
                let guest = Arc::new(Guest::new(agent, notifier));
                let runner = Runner::new(self.dir.clone(), guest.clone(), self.parts.clock.clone());
                shared.runner.set(runner.clone()).ok();
                self.standing.lock().runner = Some(runner.clone());
                self.enter(KeeperState::Running);
                let ending = self.until_end(home, &instance).await;
                shared.door.close();
                if matches!(ending, Ending::Asked) {
                    self.enter(KeeperState::Stopping);
                    stop_guest(&guest).await;
                }
                Ok((ending, Some(runner)))
            }
            Err(error) => Err(error),
        };
        let grace =
            if matches!(ending, Ok((Ending::Asked, _))) { POWER_OFF_GRACE } else { Duration::ZERO };
        instance.stop(grace).await;
        // Waits for requests under way, so that nothing changes the home after its last commit.
        crate::files::blocking(move || {
            drop(channel);
            Ok(())
        })
        .await?;
        let (ending, runner) = ending?;
        if let Some(runner) = runner {
            runner.drain(DRAIN_PATIENCE).await;
        }
        Ok(ending)
    }

    async fn meet_agent(
        &self,
        control: std::os::unix::net::UnixStream,
        instance: &Arc<dyn Instance>,
    ) -> Result<AgentClient> {
        control
            .set_nonblocking(true)
            .map_err(|error| Failure::internal("set up the control channel", error))?;
        let control = tokio::net::UnixStream::from_std(control)
            .map_err(|error| Failure::internal("set up the control channel", error))?;
        let meeting = async {
            let agent = AgentClient::connect(control, &*self.parts.entropy).await?;
            let hello = agent.hello().await?;
            tracing::info!(version = %hello.version, uptime_ms = hello.uptime_ms, "agent answers");
            agent.configure(&self.configure()).await?;
            Ok::<_, agent_proto::Error>((agent, hello))
        };
        let patience = self.spec.boot_timeout();
        let (agent, hello) = tokio::select! {
            met = tokio::time::timeout(patience, meeting) => met
                .map_err(|_| self.silent(instance, format!("the guest did not answer within {} s", patience.as_secs())))?
                .map_err(|error| self.silent(instance, format!("the guest's agent: {error}")))?,
            exit = instance.wait() => return Err(self.silent(instance, guest_ended(&exit).message)),
            () = self.stop.cancelled() => {
                return Err(Failure::new(ErrorKind::Conflict, "put to sleep before the guest was up"));
            }
        };
        if !hello.home_mounted {
            let detail = guest_said(&hello.detail.unwrap_or_default());
            return Err(Failure::new(
                ErrorKind::Unreachable,
                format!("the guest could not mount its home: {detail}"),
            ));
        }
        Ok(agent)
    }

    fn configure(&self) -> Configure {
        let mut entropy = [0; 64];
        self.parts.entropy.fill(&mut entropy);
        Configure {
            hostname: self.spec.name.clone(),
            unix_nanos: i64::try_from(self.parts.clock.now().as_nanosecond()).unwrap_or(0),
            entropy: entropy.iter().map(|byte| format!("{byte:02x}")).collect(),
            nameservers: Vec::new(),
            hosts: Vec::new(),
        }
    }

    fn silent(&self, instance: &Arc<dyn Instance>, why: String) -> Failure {
        let console = instance.console_tail();
        let mut message = format!("{why}; see instance/console.log in the machine's directory");
        if let Some(line) =
            console.lines().rev().find(|line| line.contains("dormouse-agent: FATAL"))
        {
            message = format!("{why}: {}", guest_said(line));
        }
        tracing::warn!(%console, "the guest did not come up");
        Failure::new(ErrorKind::Unreachable, message)
    }

    async fn until_end(&self, home: &Arc<HomeFs>, instance: &Arc<dyn Instance>) -> Ending {
        let fenced = async {
            loop {
                let status = home.status();
                if status.fenced {
                    return;
                }
                tokio::time::sleep(FENCE_POLL).await;
            }
        };
        tokio::select! {
            () = self.stop.cancelled() => Ending::Asked,
            exit = instance.wait() => Ending::GuestEnded(exit),
            () = fenced => Ending::Fenced(
                "another server took this machine's home; this copy was stopped. Look for the machine there".to_owned(),
            ),
        }
    }

    async fn release(&self, home: &Arc<HomeFs>) -> Result<u64> {
        let home = home.clone();
        crate::files::blocking(move || {
            home.release()
                .map(|released| released.seq)
                .map_err(|error| Failure::new(error.kind(), format!("store the home: {error}")))
        })
        .await
        .inspect_err(
            |error| tracing::error!(%error, "the home was not released; it is whole on this disk"),
        )
    }

    fn enter(&self, state: KeeperState) {
        let mut standing = self.standing.lock();
        if standing.state != state {
            tracing::info!(?state, "keeper");
            standing.state = state;
            standing.since = self.parts.clock.now();
        }
    }
}

async fn stop_guest(guest: &Guest) {
    if let Err(error) = guest.agent().shutdown(PROCESS_GRACE).await {
        tracing::warn!(%error, "the guest did not shut down by itself");
    }
}

/// What a guest says, fit for a message: one short line, whatever it was.
fn guest_said(text: &str) -> String {
    text.trim().chars().filter(|c| !c.is_control()).take(GUEST_SAYS_CHARS_MAX).collect()
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

fn back_pressure(home: Option<&homefs::HomeStatus>) -> &'static str {
    match home.map(|home| home.back_pressure).unwrap_or_default() {
        homefs::BackPressure::None => "none",
        homefs::BackPressure::Slowed => "slowed",
        homefs::BackPressure::Waiting => "waiting",
    }
}

fn status_of(standing: Arc<Mutex<Standing>>) -> Box<dyn Fn() -> Status + Send + Sync> {
    Box::new(move || {
        let standing = standing.lock();
        let home = standing.home.as_ref().map(|home| home.status());
        Status {
            state: standing.state,
            pid: std::process::id(),
            since: standing.since,
            epoch: home.as_ref().map(|home| home.epoch).unwrap_or_default(),
            opened: standing.opened.clone(),
            home_seq: home.as_ref().map_or(0, |home| home.seq),
            unreplicated_bytes: home.as_ref().map_or(0, |home| home.unreplicated_bytes),
            unreplicated_ops: home.as_ref().map_or(0, |home| home.unreplicated_ops),
            back_pressure: back_pressure(home.as_ref()).to_owned(),
            rounds: home.as_ref().map_or(0, |home| home.rounds),
            rounds_failed: home.as_ref().map_or(0, |home| home.rounds_failed),
            journal_bytes: home.as_ref().map_or(0, |home| home.journal_bytes),
            replication_error: home.and_then(|home| home.replication_error),
            executions_live: standing.runner.as_ref().map_or(0, |runner| runner.live_count()),
            last_activity: standing.runner.as_ref().and_then(|runner| runner.last_ended()),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_guest_says_becomes_one_short_line() {
        assert_eq!(guest_said("  no /dev/fuse\u{1b}[2J\r\n"), "no /dev/fuse[2J");
        assert_eq!(guest_said(&"x".repeat(9_000)).len(), GUEST_SAYS_CHARS_MAX);
    }
}
