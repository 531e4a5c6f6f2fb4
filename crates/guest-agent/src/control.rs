//! Serves the control channel: sessions, one after the other; in each, streams side by side.
//!
//! # Failure
//! A session that ends takes its streams with it, and no process: see [`crate::exec`]. The next
//! handshake is awaited on the same descriptor, because the bytes of the next host may be right
//! behind those that ended the session.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use agent_proto::mux::{AgentMux, MuxStream};
use agent_proto::{FrameReader, FrameWriter, Hello, PROTOCOL_VERSION, Reply, Request, handshake};
use nix::errno::Errno;
use nix::sys::time::TimeValLike;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use tokio::io::split;
use tokio::sync::{mpsc, watch};

use crate::boot::Booted;
use crate::boot::root::OldRoot;
use crate::console::say;
use crate::exec::{self, Reader, Starter, Writer};
use crate::freezer::Freezer;
use crate::home::{Place, Ring};
use crate::host_keys::HostKeys;
use crate::identity::Places;
use crate::limits::LAST_WORD_TIMEOUT;
use crate::moment::Moment;
use crate::port::Control;
use crate::reaper::Reaper;
use crate::sleep::{Sleep, unsupported};
use crate::{Error, configure, shutdown};

/// What the requests of all sessions share.
#[derive(Debug)]
pub(crate) struct Agent {
    reaper: Arc<Reaper>,
    /// `None` outside of a guest: nothing of the machine that it runs on is changed then.
    old_root: Option<std::sync::Mutex<Option<OldRoot>>>,
    starter: Arc<Starter>,
    /// What was done ahead of [`Request::Configure`].
    prepared: std::sync::Mutex<Option<configure::Prepared>>,
    home: Arc<Place>,
    /// `None` outside of a guest.
    sleep: Option<Sleep>,
    host_keys: Arc<HostKeys>,
    stopping: watch::Sender<bool>,
    /// Told once the guest may end.
    stopped: mpsc::Sender<()>,
}

impl Agent {
    /// The agent of a booted guest. The receiver hears when it may be powered off.
    pub(crate) fn in_guest(booted: Booted, reaper: Arc<Reaper>) -> (Arc<Self>, mpsc::Receiver<()>) {
        let old_root = Some(std::sync::Mutex::new(Some(booted.old_root)));
        let ring = Ring::prepare();
        if let Err(error) = &ring {
            say(&format!("home: no ring, only a port: {error}"));
        }
        Self::new(reaper, old_root, booted.freezer, Place::empty(ring.ok()))
    }

    /// An agent for tests of the protocol, beside other processes.
    pub(crate) fn beside_others(reaper: Arc<Reaper>) -> (Arc<Self>, mpsc::Receiver<()>) {
        let nothing = "not in a guest";
        Self::new(reaper, None, Err(nothing.to_owned()), Place::without(nothing))
    }

    fn new(
        reaper: Arc<Reaper>,
        old_root: Option<std::sync::Mutex<Option<OldRoot>>>,
        freezer: Result<Freezer, String>,
        home: Place,
    ) -> (Arc<Self>, mpsc::Receiver<()>) {
        let (stopped, heard) = mpsc::channel(1);
        let (freezer, home) = (freezer.map(Arc::new), Arc::new(home));
        let sleep = old_root.is_some().then(|| Sleep::new(freezer.clone(), home.clone()));
        let starter = Arc::new(Starter::new(Arc::clone(&reaper), freezer.ok()));
        let stopping = watch::Sender::new(false);
        let prepared = std::sync::Mutex::default();
        let host_keys = Arc::new(HostKeys::new(Arc::clone(&starter)));
        let agent =
            Self { reaper, old_root, starter, prepared, home, sleep, host_keys, stopping, stopped };
        (Arc::new(agent), heard)
    }

    fn hello(&self) -> Hello {
        let unconfigured = self.home.is_empty();
        let trouble = match self.home.home() {
            Ok(home) => home.trouble(),
            Err(why) => Some(why).filter(|_| !unconfigured),
        };
        Hello {
            protocol: PROTOCOL_VERSION,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_ms: uptime_ms().unwrap_or(0),
            home_mounted: trouble.is_none(),
            unconfigured,
            detail: trouble,
        }
    }

    async fn configure(&self, configure: &agent_proto::Configure) -> Result<(), Error> {
        let checked = configure::check(configure)?;
        let Some(places) = self.places() else { return Ok(()) };
        let prepared = lock(&self.prepared).take();
        // One of another machine would go on with that one's random numbers.
        let was_making = self.host_keys.end_maker(&places).await;
        let (makes_keys, applied) = checked.apply(&places, prepared.as_ref());
        // Also where that failed: the host decides, and may look.
        self.home.mount()?;
        if makes_keys || was_making {
            self.host_keys.want(places);
            self.make_host_keys().await;
        }
        applied
    }

    /// A program that is begun while processes are held is held with them, and nobody hears whether it began: a
    /// thaw comes back to it.
    async fn make_host_keys(&self) {
        let frozen = match &self.sleep {
            Some(sleep) => sleep.is_frozen().await,
            None => false,
        };
        if !frozen {
            let host_keys = Arc::clone(&self.host_keys);
            drop(tokio::spawn(async move { host_keys.make().await }));
        }
    }

    /// Where the parts of the machine's root are; nowhere outside of a guest.
    fn places(&self) -> Option<Places> {
        lock(self.old_root.as_ref()?).as_ref().map(OldRoot::places)
    }

    async fn prepare(&self) -> Result<(), Error> {
        if !self.home.is_empty() {
            return Err(Error::Invalid("it is told already whose guest this is".to_owned()));
        }
        let Some(places) = self.places() else { return Ok(()) };
        *lock(&self.prepared) = Some(configure::prepare(&places)?);
        self.home.prepare()?;
        if let Some(sleep) = &self.sleep {
            sleep.prepare().await?;
        }
        self.starter.be_ready().await;
        Ok(())
    }

    async fn barrier(&self, seq: u64) -> Result<(), Error> {
        match self.home.home() {
            Ok(home) => home.barrier(seq).await.map_err(Error::sys("wait for the caches")),
            Err(why) => Err(Error::sys(format!("no home to wait for ({why})"))(Errno::ENODEV)),
        }
    }

    async fn trim(&self) -> Result<(), Error> {
        self.sleep("trim the memory")?.trim().await
    }

    async fn wake_at(&self) -> Result<Option<i64>, Error> {
        self.sleep("say when to wake")?.wake_at().await
    }

    async fn freeze(&self, patience: Duration) -> Result<(), Error> {
        // A guest that wakes, or is cloned, has it for its first command.
        self.starter.be_ready().await;
        let mut stopping = self.stopping.subscribe();
        // It fails only where the sender is gone, and that is in us.
        let given_up = async { drop(stopping.wait_for(|stopping| *stopping).await) };
        self.sleep("freeze")?.freeze(patience, given_up).await
    }

    async fn thaw(&self, unix_nanos: i64, entropy: &str) -> Result<(), Error> {
        let moment = Moment::check(unix_nanos, entropy)?;
        let thawed = self.sleep("thaw")?.thaw(&moment).await;
        self.make_host_keys().await;
        thawed
    }

    fn sleep(&self, doing: &str) -> Result<&Sleep, Error> {
        self.sleep.as_ref().ok_or_else(|| unsupported(doing, "not in a guest"))
    }

    async fn shut_down(&self, grace: Duration) -> Result<(), Error> {
        if self.stopping.send_replace(true) {
            return Err(Error::sys("shut down")(Errno::EALREADY));
        }
        say("shutting down");
        self.starter.end();
        if let Some(sleep) = &self.sleep {
            sleep.end().await;
        }
        shutdown::end_processes(&self.reaper, grace, self.old_root.is_some()).await;
        let old_root = self.old_root.as_ref().and_then(|old_root| lock(old_root).take());
        if let Some(old_root) = old_root {
            shutdown::unmount(old_root, self.home.home().is_ok()).await;
        }
        Ok(())
    }
}

/// PID 1 has to go on in any case.
fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Serves the port of a guest, for ever.
pub(crate) async fn serve_port(agent: Arc<Agent>, device: PathBuf) -> Error {
    loop {
        match Control::open(&device).await {
            Ok(control) => serve_stream(&agent, control).await,
            Err(error) => return error,
        }
    }
}

/// Serves sessions on one descriptor until its other end is closed.
pub(crate) async fn serve_stream(agent: &Arc<Agent>, mut control: Control) {
    loop {
        match handshake::agent(&mut control).await {
            Ok(()) => {}
            Err(agent_proto::Error::NoHandshake { .. }) => continue,
            Err(_) => return,
        }
        let mut mux = AgentMux::start(control.clone());
        // Its end is not said on the console: hosts come and go with each sleep, and a guest that wakes has
        // better to do than to write to a serial port.
        while let Ok(stream) = mux.accept().await {
            drop(tokio::spawn(serve_request(Arc::clone(agent), stream)));
        }
    }
}

async fn serve_request(agent: Arc<Agent>, stream: MuxStream) {
    let (reader, writer) = split(stream);
    let (mut reader, mut writer) = (FrameReader::new(reader), FrameWriter::new(writer));
    let request = match reader.message::<Request>("request").await {
        Ok(request) => request,
        // Dropping the stream resets it; other streams go on.
        Err(error) => return say(&format!("a request that is none: {error}")),
    };
    let result = match request {
        Request::Exec(exec) if !*agent.stopping.borrow() => {
            return exec::serve(exec, reader, writer, Arc::clone(&agent.starter)).await;
        }
        Request::Exec(_) => {
            Err(Error::sys("start a process while shutting down")(Errno::ESHUTDOWN))
        }
        Request::Hello => return answer(&mut writer, &Reply::Hello(agent.hello())).await,
        Request::Configure(configure) => agent.configure(&configure).await,
        Request::Prepare => agent.prepare().await,
        Request::Barrier { seq } => agent.barrier(seq).await,
        Request::Kill { pid, signal } => kill(&agent, pid, signal),
        Request::Trim => agent.trim().await,
        Request::WakeAt => match agent.wake_at().await {
            Ok(unix_seconds) => {
                return answer(&mut writer, &Reply::WakeAt { unix_seconds }).await;
            }
            Err(error) => Err(error),
        },
        Request::Freeze { patience_ms } => agent.freeze(Duration::from_millis(patience_ms)).await,
        Request::Thaw { unix_nanos, entropy } => agent.thaw(unix_nanos, &entropy).await,
        Request::Shutdown { grace_ms } => {
            let result = agent.shut_down(Duration::from_millis(grace_ms)).await;
            let done = result.is_ok();
            answer(&mut writer, &reply(result)).await;
            if done {
                last_word_heard(reader).await;
                // Nobody waits for it only where the guest is ending already.
                let _ = agent.stopped.try_send(());
            }
            return;
        }
    };
    answer(&mut writer, &reply(result)).await;
}

fn kill(agent: &Agent, pid: u32, signal: i32) -> Result<(), Error> {
    let killed = agent.reaper.signal_group(Pid::from_raw(pid.cast_signed()), signal);
    killed.map_err(Error::sys(format!("signal process {pid}")))
}

fn reply(result: Result<(), Error>) -> Reply {
    result.map_or_else(|error| error.reply(), |()| Reply::Done)
}

async fn answer(writer: &mut Writer, reply: &Reply) {
    // A host that does not wait for the answer does not need it.
    if writer.message(reply).await.is_ok() {
        drop(writer.close().await);
    }
}

/// The host closes its stream once it has read the reply.
async fn last_word_heard(mut reader: Reader) {
    let closed = async { while let Ok(Some(_)) = reader.next().await {} };
    drop(tokio::time::timeout(LAST_WORD_TIMEOUT, closed).await);
}

/// By a call that stays in this process: reading `/proc/uptime` was a tenth of what a guest did when it woke.
fn uptime_ms() -> Option<u64> {
    let since_boot = clock_gettime(ClockId::CLOCK_BOOTTIME).ok()?;
    u64::try_from(since_boot.num_milliseconds()).ok()
}
