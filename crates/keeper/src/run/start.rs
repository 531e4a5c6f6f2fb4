//! From an open home to a guest that answers: one that goes on from its memory, or one that boots.
//!
//! # Order of a wake from memory
//! Memory that seems to fit is loaded while the home is claimed ([`early`](super::early)). Once that is done
//! it has to fit in full ([`SleepRecord::fits`]). The record goes, then the guest runs: so memory is never
//! used twice. The home is served as the kernel knows it; the agent is met anew, the kernel forgets what
//! was changed in the home meanwhile, a fork is told who it is, the agent is told time and entropy, and lets the processes go on,
//! who see nothing of it all before that.
//!
//! # Failure
//! Whatever keeps the memory from going on: the machine boots, in the same keeper, and says why.
//! A guest that does not come up is killed; its home is as after a loss of power.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use agent_proto::{AgentClient, Configure, Hello};
use base::{Digest, ErrorKind, MachineId};
use fuse_serve::{Channel, Saved, Session};
use homefs::HomeFs;
use runtime::{Instance, Memory};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use vfs::FileSystem as _;

use super::clone::Beginning;
use super::early::Early;
use super::home::until_fenced;
use super::memory::may_have_run_elsewhere;
use super::{Found, Keeper, give_up, guest_ended, room};
use crate::asleep::{RanOn, SleepRecord};
use crate::files::Files;
use crate::guest::{Guest, said};
use crate::server::Shared;
use crate::{Failure, Result};

/// How long a guest that goes on may take to answer; it runs already.
const RESUME_PATIENCE: Duration = Duration::from_secs(20);

/// The least of its own memory that a kernel spends on an inode that it holds; Linux takes 1 KiB. One that
/// holds more than fit into the guest is a guest that makes them up.
const NODE_BYTES_MIN: u64 = 512;

/// A guest that runs, and what it takes to serve it.
#[derive(Debug)]
pub(super) struct Awake {
    pub(super) instance: Arc<dyn Instance>,
    pub(super) session: Arc<Session>,
    pub(super) channel: Arc<Channel>,
    pub(super) guest: Arc<Guest>,
    /// Another handle to the control channel: as long as it is there, the guest's port is not hung up.
    pub(super) line: OwnedFd,
    /// What it runs on.
    pub(super) ran_on: RanOn,
    /// Whether its memory is in a file.
    pub(super) keeps_memory: bool,
}

/// A guest that was started and has not answered yet.
pub(super) struct Started {
    pub(super) instance: Arc<dyn Instance>,
    pub(super) session: Arc<Session>,
    pub(super) channel: Arc<Channel>,
    pub(super) control: UnixStream,
    pub(super) line: OwnedFd,
}

impl Awake {
    /// Ends the guest. Requests of its kernel that are under way are finished, so that nothing changes the home later.
    pub(super) async fn end(self) -> Result<()> {
        self.instance.stop(Duration::ZERO).await;
        close(self.channel).await
    }
}

/// Waits for requests that are under way.
pub(super) async fn close(channel: Arc<Channel>) -> Result<()> {
    crate::files::blocking(move || {
        drop(channel);
        Ok(())
    })
    .await
}

impl Keeper {
    /// A guest that answers, and the file calls that it hears of.
    pub(super) async fn wake(
        &self,
        home: &Arc<HomeFs>,
        mut found: Found,
        shared: &Shared,
    ) -> Result<(Awake, Files)> {
        let early = found.early.take();
        let held = found.asleep.as_ref().map(SleepRecord::held).unwrap_or_default();
        let (goes_on, how, instead) = match (&found.asleep, &found.beginning) {
            (Some(record), _) => {
                let resumed = self.resume(home, record, &found, early).await;
                (resumed.map(Some), "resumed", "booted")
            }
            (None, Beginning::Clone) => {
                let cloned = self.begin_as_clone(home, early).await?;
                (cloned.map(Some), "cloned", "booted without template")
            }
            (None, Beginning::Refused(why)) => (Err(why.clone()), "", "booted without template"),
            (None, Beginning::Boot) => match &found.without {
                Some(why) => (Err(why.clone()), "", "booted"),
                None => (Ok(None), "", ""),
            },
        };
        let (awake, how) = match goes_on {
            Ok(Some(awake)) => (Ok(awake), how.to_owned()),
            Ok(None) => (self.boot(home, shared).await, "booted".to_owned()),
            // It runs elsewhere.
            Err(why) if home.status().fenced => {
                (Err(Failure::new(ErrorKind::Fenced, why)), String::new())
            }
            Err(why) => {
                tracing::warn!(%why, "the machine boots instead of going on from saved memory");
                (self.boot(home, shared).await, format!("{instead}: {why}"))
            }
        };
        // The kernel that goes on holds them by itself; for one that boots there are none.
        let letting_go = home.clone();
        crate::files::blocking(move || {
            held.into_iter().for_each(|ino| letting_go.unpin(ino));
            Ok(())
        })
        .await?;
        let awake = awake?;
        std::fs::remove_file(self.dir.cold()).ok();
        tracing::info!(how, "awake");
        self.standing.lock().woken = how;
        let files = self.files(home, &awake.channel);
        Ok((awake, files))
    }

    /// Goes on from the saved memory.
    ///
    /// # Errors
    /// Why that cannot be, for people. No guest runs then.
    async fn resume(
        &self,
        home: &Arc<HomeFs>,
        record: &SleepRecord,
        found: &Found,
        early: Option<Early>,
    ) -> Result<Awake, String> {
        let here = self.parts.runtime.fingerprint(&self.spec.instance);
        let fits = || {
            let stale = record.fits(&self.dir, &self.spec.home, found.opened.version, &here)?;
            record.fits_files(&self.dir)?;
            if may_have_run_elsewhere(&found.opened) {
                return Err("another host had it since, and was lost".to_owned());
            }
            if found.opened.files_reverted > 0 {
                return Err("files of its home were lost with another host".to_owned());
            }
            Ok(stale)
        };
        let stale = match fits() {
            Ok(stale) => stale,
            Err(why) => {
                give_up(early).await;
                return Err(why);
            }
        };
        let ran_on = RanOn { here, ..record.what_it_ran_on() };
        let begun = Instant::now();
        // It may name paths of this host.
        let cannot = |error: &dyn std::fmt::Display| {
            tracing::warn!(%error, "go on from saved memory");
            "it could not be brought back".to_owned()
        };
        let loaded = match early {
            Some(early) => early.loaded(&self.spec.instance).await,
            None => {
                self.let_chunks_come();
                self.parts.runtime.load(&self.saved(&self.spec.instance)).await
            }
        };
        let loaded = match loaded {
            Ok(gone) if !gone.is_there() => {
                tokio::task::spawn_blocking(move || drop(gone)).await.ok();
                self.parts.runtime.load(&self.saved(&self.spec.instance)).await
            }
            loaded => loaded,
        };
        // From here on the memory is used up, also where it could not be loaded.
        SleepRecord::remove(&self.dir)
            .map_err(|error| format!("take its sleep record away: {error}"))?;
        let loaded = loaded.map_err(|error| cannot(&error))?;
        // Not before: a disk that was changed is not the one that the record is of.
        self.let_chunks_come();
        let started = loaded.go_on().await;
        let started = started.map_err(|error| cannot(&error))?;
        let started = self.serve_home(home, started, Some(&record.session()));
        let started = started.map_err(|error| cannot(&error))?;
        let running = begun.elapsed();
        let silent = || format!("it did not answer within {} s", RESUME_PATIENCE.as_secs());
        let instance = &started.instance;
        // One that has to wait for room is waited for, also where it is to sleep again: its processes are nowhere else.
        let met = async {
            let agent = AgentClient::reconnect(started.control, &*self.parts.entropy);
            let agent = room::within(instance, RESUME_PATIENCE, agent).await.ok_or_else(silent)?;
            let agent = agent.map_err(|error| said(&error.to_string()))?;
            let guest = Guest::new(agent, started.channel.notifier(), record.notified());
            let ask = || async {
                let go_on = async {
                    guest.forget(&stale).await?;
                    if record.was_anothers() {
                        // Entropy first, then who it is: its processes are held, and see nothing of the other machine.
                        guest.agent().configure(&self.configure()).await?;
                    }
                    guest.agent().thaw(self.now_nanos(), &self.fresh_entropy()).await
                };
                // Side by side: each answer of an emulated guest takes some milliseconds.
                tokio::try_join!(guest.agent().hello(), go_on)
            };
            let answer = room::asked(instance, RESUME_PATIENCE, ask).await.ok_or_else(silent)?;
            let (hello, ()) = answer.map_err(|error| said(&error.to_string()))?;
            trouble_with_home(hello).map_or(Ok(guest), Err)
        };
        let met = tokio::select! {
            met = met => met,
            why = until_fenced(home) => Err(why),
            exit = started.instance.wait() => Err(guest_ended(&exit).message),
        };
        match met {
            Ok(guest) => {
                let answered = begun.elapsed();
                tracing::info!(?running, ?answered, "the guest goes on from its memory");
                std::fs::remove_file(self.dir.devices()).ok();
                let guest = Arc::new(guest);
                let Started { instance, session, channel, line, .. } = started;
                let keeps_memory = true;
                Ok(Awake { instance, session, channel, guest, line, ran_on, keeps_memory })
            }
            Err(why) => {
                started.instance.stop(Duration::ZERO).await;
                close(started.channel).await.map_err(|error| error.message)?;
                Err(why)
            }
        }
    }

    /// Boots the guest.
    async fn boot(&self, home: &Arc<HomeFs>, shared: &Shared) -> Result<Awake> {
        SleepRecord::remove(&self.dir)
            .map_err(|error| Failure::internal("take the sleep record away", error))?;
        std::fs::remove_file(self.dir.devices()).ok();
        let keeps_memory = self.spec.keep_memory && self.has_room_for_memory();
        let memory = if keeps_memory {
            Memory::File(self.dir.memory())
        } else {
            std::fs::remove_file(self.dir.memory()).ok();
            Memory::Anonymous
        };
        // Before it starts: programs are replaced while they run.
        let here = self.parts.runtime.fingerprint(&self.spec.instance);
        let anywhere = self.portable_fingerprint();
        let started = self.launch(home, memory).await?;
        let ran_on = RanOn { here, anywhere: anywhere.await.unwrap_or_default() };
        // Files can be read and written while the guest boots; its kernel knows nothing yet.
        shared.files.set(self.files(home, &started.channel)).ok();
        shared.home.set(home.clone()).ok();
        let Started { instance, session, channel, control, line } = started;
        match self.meet_agent(home, control, &instance).await {
            Ok(agent) => {
                let guest = Arc::new(Guest::new(agent, channel.notifier(), 0));
                Ok(Awake { instance, session, channel, guest, line, ran_on, keeps_memory })
            }
            Err(error) => {
                instance.stop(Duration::ZERO).await;
                close(channel).await?;
                Err(error)
            }
        }
    }

    /// What the guest runs on as all hosts tell it, found out beside its start, which waits for the same.
    pub(super) fn portable_fingerprint(&self) -> JoinHandle<BTreeMap<String, String>> {
        let (runtime, spec) = (self.parts.runtime.clone(), self.spec.instance.clone());
        tokio::task::spawn_blocking(move || runtime.portable_fingerprint(&spec))
    }

    /// See [`crate::has_room_for_memory`].
    pub(super) fn has_room_for_memory(&self) -> bool {
        crate::has_room_for_memory(self.dir.path(), self.spec.instance.memory_mib)
    }

    async fn launch(&self, home: &Arc<HomeFs>, memory: Memory) -> Result<Started> {
        let spec = runtime::Spec { memory, ..self.spec.instance.clone() };
        self.let_chunks_come();
        let started = self.parts.runtime.start(&spec).await?;
        self.serve_home(home, started, None)
    }

    pub(super) fn serve_home(
        &self,
        home: &Arc<HomeFs>,
        started: runtime::Started,
        saved: Option<&Saved>,
    ) -> Result<Started> {
        let instance: Arc<dyn Instance> = Arc::from(started.instance);
        self.standing.lock().waits_for_room = Some(instance.waits_for_room());
        instance.count_beside(room::size_of(home));
        let nodes_max = nodes_max(self.spec.instance.memory_mib);
        let config = fuse_serve::Config { nodes_max, ..fuse_serve::Config::default() };
        let session = Arc::new(match saved {
            Some(saved) => Session::resume(home.clone(), config, saved),
            None => Session::new(home.clone(), config),
        });
        let threads = fuse_serve::Threads::default();
        let channel = Channel::serve(session.clone(), started.fuse, started.memory, threads)
            .map_err(|error| Failure::internal("serve the home to the guest", error))?;
        let line = started.control.try_clone().map(OwnedFd::from);
        let control = started
            .control
            .set_nonblocking(true)
            .and_then(|()| UnixStream::from_std(started.control));
        let (line, control) = line
            .and_then(|line| Ok((line, control?)))
            .map_err(|error| Failure::internal("set up the control channel", error))?;
        Ok(Started { instance, session, channel: Arc::new(channel), control, line })
    }

    /// File calls whose changes the guest's kernel hears of.
    fn files(&self, home: &Arc<HomeFs>, channel: &Channel) -> Files {
        let notifier = channel.notifier();
        Files::new(home.clone())
            .with_on_change(Arc::new(move |touched: &vfs::Touched| notifier.send(touched)))
    }

    async fn meet_agent(
        &self,
        home: &HomeFs,
        control: UnixStream,
        instance: &Arc<dyn Instance>,
    ) -> Result<AgentClient> {
        let meeting = async {
            let agent = AgentClient::connect(control, &*self.parts.entropy).await?;
            let hello = agent.hello().await?;
            tracing::info!(
                version = said(&hello.version),
                uptime_ms = hello.uptime_ms,
                "agent answers"
            );
            agent.configure(&self.configure()).await?;
            Ok::<_, agent_proto::Error>((agent, hello))
        };
        let patience = self.spec.boot_timeout();
        let (agent, hello) = tokio::select! {
            met = tokio::time::timeout(patience, meeting) => met
                .map_err(|_| if room::waits_for_room(instance) { room::no_room_to_boot() } else { self.silent(instance, format!("the guest did not answer within {} s", patience.as_secs())) })?
                .map_err(|error| self.silent(instance, format!("the guest's agent: {}", said(&error.to_string()))))?,
            exit = instance.wait() => return Err(self.silent(instance, guest_ended(&exit).message)),
            why = until_fenced(home) => return Err(Failure::new(ErrorKind::Fenced, why)),
            () = self.stop.cancelled() => {
                return Err(Failure::new(ErrorKind::Unavailable, "put to sleep before the guest was up"));
            }
        };
        match trouble_with_home(hello) {
            None => Ok(agent),
            Some(why) => Err(Failure::new(ErrorKind::Unreachable, why)),
        }
    }

    pub(super) fn configure(&self) -> Configure {
        Configure {
            hostname: self.spec.name.clone(),
            unix_nanos: self.now_nanos(),
            entropy: self.fresh_entropy(),
            nameservers: Vec::new(),
            hosts: Vec::new(),
            machine_id: machine_id(&self.spec.machine),
        }
    }

    pub(super) fn now_nanos(&self) -> i64 {
        i64::try_from(self.parts.clock.now().as_nanosecond()).unwrap_or(0)
    }

    /// For the guest's kernel, in hex.
    pub(super) fn fresh_entropy(&self) -> String {
        let mut entropy = [0; 64];
        self.parts.entropy.fill(&mut entropy);
        entropy.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn silent(&self, instance: &Arc<dyn Instance>, why: String) -> Failure {
        let console = instance.console_tail();
        let mut message = format!("{why}; see instance/console.log in the machine's directory");
        if let Some(line) =
            console.lines().rev().find(|line| line.contains("dormouse-agent: FATAL"))
        {
            message = format!("{why}: {}", said(line));
        }
        tracing::warn!(%console, "the guest did not come up");
        Failure::new(ErrorKind::Unreachable, message)
    }
}

/// How many inodes a guest's kernel may hold. We keep some 40 bytes for each.
fn nodes_max(memory_mib: u64) -> usize {
    let fit = memory_mib.saturating_mul(1 << 20) / NODE_BYTES_MIN;
    usize::try_from(fit).unwrap_or(usize::MAX).min(fuse_serve::limits::NODES_MAX)
}

/// The id by which programs tell the machine from others, in the form of a random UUID, without dashes. It is
/// the same for as long as there is the machine, wherever it runs.
fn machine_id(machine: &MachineId) -> String {
    let digest = Digest::of(format!("machine-id {machine}").as_bytes());
    let mut id: String = digest.to_string().chars().take(32).collect();
    id.replace_range(12..13, "4");
    id.replace_range(16..17, "8");
    id
}

fn trouble_with_home(hello: Hello) -> Option<String> {
    if hello.home_mounted {
        return None;
    }
    let detail = said(&hello.detail.unwrap_or_default());
    Some(format!("the guest could not mount its home: {detail}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_has_one_id_that_no_other_has() {
        let (one, two) = (MachineId::generate(), MachineId::generate());
        let id = machine_id(&one);
        assert_eq!((id.len(), &id), (32, &machine_id(&one)));
        assert_ne!(id, machine_id(&two));
        assert!(id.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)));
        assert_eq!((&id[12..13], &id[16..17]), ("4", "8"), "a random UUID by its form");
    }
}
