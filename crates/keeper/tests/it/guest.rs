//! A machine whose guest is a function: it has the guest's ends of the ports, and says there what it likes.

use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use agent_proto::mux::{AgentMux, MuxStream};
use agent_proto::{FrameReader, FrameWriter, Hello, PROTOCOL_VERSION, Reply, Request, handshake};
use async_trait::async_trait;
use base::{Digest, ExecutionId, HomeId, MachineId, ServerId, SystemClock, SystemEntropy};
use futures::future::BoxFuture;
use homefs::{HomeFs, HomeSettings};
use keeper::executions::{NewExecution, Record};
use keeper::layout::MachineDir;
use keeper::{Client, KeeperSpec, KeeperState, LastWords, Parts, UpperSpec};
use objstore::ObjectStore;
use runtime::{
    EgressPolicy, Exit, Instance, Loaded, Memory, Missing, Network, Runtime, Spec, Started,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use vfs::{FileSystem as _, Kind, Owner, ROOT};

/// How long guests have to boot here.
pub(crate) const BOOT_TIMEOUT: Duration = Duration::from_secs(120);
/// How long anything may take that is no pause of the keeper's.
const SOON: Duration = Duration::from_secs(60);

/// What a guest does with its ends of control and FUSE port.
pub(crate) type Play = fn(tokio::net::UnixStream, UnixStream) -> BoxFuture<'static, ()>;

/// Runs guests as tasks of this process.
#[derive(Debug)]
struct Plays(Play, watch::Sender<bool>);

#[derive(Debug)]
struct Playing {
    ended: watch::Sender<bool>,
    task: tokio::task::AbortHandle,
    /// Ends of the ports, so that what blocks in them wakes up.
    ports: [UnixStream; 2],
    waits_for_room: watch::Sender<bool>,
}

#[async_trait]
impl Runtime for Plays {
    async fn start(&self, _: &Spec) -> Result<Started, runtime::Error> {
        let pair = || UnixStream::pair().map_err(|error| runtime::Error::Start(error.to_string()));
        let ((control, agent), (fuse, kernel)) = (pair()?, pair()?);
        let ports = [agent.try_clone().unwrap(), kernel.try_clone().unwrap()];
        agent.set_nonblocking(true).unwrap();
        let agent = tokio::net::UnixStream::from_std(agent).unwrap();
        let task = tokio::spawn((self.0)(agent, kernel)).abort_handle();
        let (ended, waits_for_room) = (watch::Sender::new(false), self.1.clone());
        let instance = Box::new(Playing { ended, task, ports, waits_for_room });
        Ok(Started { instance, control, fuse, memory: None })
    }

    async fn load(&self, _: &Spec) -> Result<Box<dyn Loaded>, runtime::Error> {
        Err(runtime::Error::Resume("nothing is saved here".to_owned()))
    }

    fn missing(&self) -> Vec<Missing> {
        Vec::new()
    }

    fn fingerprint(&self, _: &Spec) -> BTreeMap<String, String> {
        BTreeMap::new()
    }
}

#[async_trait]
impl Instance for Playing {
    fn pid(&self) -> u32 {
        std::process::id()
    }

    async fn wait(&self) -> Exit {
        self.ended.subscribe().wait_for(|ended| *ended).await.ok();
        Exit::Crashed("killed".to_owned())
    }

    async fn stop(&self, grace: Duration) -> Exit {
        if let Ok(exit) = tokio::time::timeout(grace, self.wait()).await {
            return exit;
        }
        self.task.abort();
        for port in &self.ports {
            port.shutdown(std::net::Shutdown::Both).ok();
        }
        self.ended.send_replace(true);
        self.wait().await
    }

    async fn suspend(&self, _: &Path) -> Result<(), runtime::Error> {
        Err(runtime::Error::NotSuspended("it has no memory of its own".to_owned()))
    }

    async fn set_egress(&self, _: &base::Egress) -> Result<(), runtime::Error> {
        Ok(())
    }

    async fn set_vcpu(&self, _: f64) -> Result<(), runtime::Error> {
        Ok(())
    }

    fn waits_for_room(&self) -> watch::Receiver<bool> {
        self.waits_for_room.subscribe()
    }

    fn console_tail(&self) -> String {
        String::new()
    }
}

/// A machine in a directory of its own.
pub(crate) struct Machine {
    pub(crate) client: Client,
    keeper: tokio::task::JoinHandle<LastWords>,
    pub(crate) waits_for_room: watch::Sender<bool>,
    home: HomeId,
    of_homes: homefs::Parts,
    folder: tempfile::TempDir,
}

impl Machine {
    /// One whose keeper has begun.
    pub(crate) async fn begin(play: Play) -> Self {
        Self::begin_on(play, |store| store, 0).await
    }

    /// The same of one that has files already, of so many bytes, which are not here: its keeper has its own look of the
    /// store.
    pub(crate) async fn begin_on(
        play: Play,
        look: impl FnOnce(Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore>,
        bytes: usize,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = Digest::of(b"a root file system");
        let images_dir = folder.path().join("images");
        std::fs::create_dir_all(images_dir.join("blobs")).unwrap();
        std::fs::write(images_dir.join(format!("blobs/{root}.erofs")), "").unwrap();
        let dir = MachineDir::new(folder.path().join("machine"));
        std::fs::create_dir_all(dir.instance_logs()).unwrap();
        let store_url = format!("file://{}", folder.path().join("store").display());
        let waits_for_room = watch::Sender::new(false);
        let mut parts = Parts {
            store: Arc::new(objstore::Backend::open(&store_url, &|_| None).unwrap()),
            runtime: Arc::new(Plays(play, waits_for_room.clone())),
            clock: Arc::new(SystemClock::new()),
            entropy: Arc::new(SystemEntropy),
            terminate: CancellationToken::new(),
        };
        let (home, holder) = (HomeId::generate(), ServerId::generate());
        let of_homes = homefs::Parts {
            store: parts.store.clone(),
            clock: parts.clock.clone(),
            entropy: parts.entropy.clone(),
            runtime: tokio::runtime::Handle::current(),
        };
        homefs::create_home(&of_homes, &home, &holder).await.unwrap();
        if bytes > 0 {
            let elsewhere = folder.path().join("filled");
            let settings = HomeSettings::new(home.clone(), elsewhere, holder.clone());
            let parts = of_homes.clone();
            tokio::task::spawn_blocking(move || fill(settings, parts, bytes)).await.unwrap();
        }
        parts.store = look(parts.store);
        let machine = MachineId::generate();
        let spec = KeeperSpec {
            instance: instance(machine.clone(), folder.path()),
            machine,
            name: "played".to_owned(),
            home: home.clone(),
            holder,
            store_url,
            storage_bytes_max: 1 << 30,
            fsync_local: false,
            take_over_from: None,
            keep_memory: false,
            warm_seconds: 0,
            boot_timeout_seconds: BOOT_TIMEOUT.as_secs(),
            hypervisor: None,
            upper: UpperSpec { bytes: images::UPPER_BYTES_MIN, root, images_dir },
        };
        let client = Client::new(&dir);
        let keeper = tokio::spawn(async { keeper::run(dir, spec, parts, None).await.words });
        Self { client, keeper, waits_for_room, home, of_homes, folder }
    }

    /// Waits until its files are served, which is before its guest answers.
    pub(crate) async fn until_files(&self) {
        let root = vfs::path::TreePath::parse(b"").unwrap();
        let served = async {
            while self.client.stat(&root).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(SOON, served).await.expect("its files are not served");
    }

    /// One that runs.
    pub(crate) async fn running(play: Play) -> Self {
        let machine = Self::begin(play).await;
        let running = async {
            loop {
                match machine.client.status().await {
                    Ok(status) if status.state == KeeperState::Running => return,
                    _ => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        };
        tokio::time::timeout(SOON, running).await.expect("it does not come up");
        machine
    }

    /// Takes its home, as another server that believes this one lost.
    pub(crate) async fn take_home(&self) -> homefs::HomeFs {
        let dir = self.folder.path().join("elsewhere");
        let settings = homefs::HomeSettings {
            take_over: homefs::TakeOver::Whoever,
            ..homefs::HomeSettings::new(self.home.clone(), dir, ServerId::generate())
        };
        let parts = self.of_homes.clone();
        let taken = move || homefs::HomeFs::open_writer(settings, parts).unwrap().0;
        tokio::task::spawn_blocking(taken).await.unwrap()
    }

    /// Starts a command.
    pub(crate) async fn start(&self) -> ExecutionId {
        let id = ExecutionId::generate();
        let what = NewExecution { command: vec!["true".to_owned()], ..NewExecution::default() };
        self.client.execute(&id, &what).await.unwrap();
        id
    }

    /// Starts a command that reads what is sent to it.
    pub(crate) async fn start_with_input(&self) -> ExecutionId {
        let (id, command) = (ExecutionId::generate(), vec!["cat".to_owned()]);
        let what = NewExecution { command, stdin_open: true, ..NewExecution::default() };
        self.client.execute(&id, &what).await.unwrap();
        id
    }

    /// Starts a command and waits for its end.
    pub(crate) async fn run(&self) -> Record {
        let id = self.start().await;
        self.client.wait(&id, SOON).await.unwrap()
    }

    /// Puts it to sleep.
    pub(crate) async fn sleep(self) -> LastWords {
        self.client.stop(false).await.unwrap();
        self.end().await
    }

    /// Waits for its end.
    pub(crate) async fn end(self) -> LastWords {
        let words = tokio::time::timeout(2 * SOON, self.keeper).await;
        let words = words.expect("it does not end").expect("a keeper does not panic");
        drop(self.folder);
        words
    }
}

/// A home whose database has so many bytes that do not compress.
fn fill(settings: HomeSettings, parts: homefs::Parts, bytes: usize) {
    const FILE: usize = 16 << 10;
    let home = HomeFs::open_writer(settings, parts).unwrap().0;
    let owner = Owner { uid: 0, gid: 0 };
    for n in 0..bytes / FILE {
        let name = format!("f{n}");
        let file = home.mknod(ROOT, name.as_bytes(), Kind::File, 0o644, owner, 0).unwrap().ino;
        let mut content = vec![0; FILE];
        base::Entropy::fill(&SystemEntropy, &mut content);
        home.write(file, 0, &content).unwrap();
    }
    home.release().unwrap();
}

fn instance(machine: MachineId, folder: &Path) -> Spec {
    let nothing = folder.join("nothing");
    Spec {
        machine,
        vcpu: 1.0,
        memory_mib: 512,
        kernel: nothing.clone(),
        initrd: nothing.clone(),
        root_image: nothing.clone(),
        upper_image: nothing,
        upper_server: None,
        agent_args: Vec::new(),
        memory: Memory::Anonymous,
        network: Network::None,
        egress: EgressPolicy::default(),
        purpose: runtime::Purpose::Machine,
        log_dir: folder.join("log"),
    }
}

/// What an agent says of itself.
pub(crate) fn hello() -> Hello {
    Hello {
        protocol: PROTOCOL_VERSION,
        version: "0".to_owned(),
        uptime_ms: 1,
        home_mounted: true,
        unconfigured: true,
        detail: None,
    }
}

/// An honest agent until it is configured: then a keeper takes its machine for up. Its session.
pub(crate) async fn come_up(control: &mut AgentMux) {
    for reply in [Reply::Hello(hello()), Reply::Done] {
        let (_, mut writer) = request(control).await;
        writer.message(&reply).await.unwrap();
        writer.close().await.unwrap();
    }
}

/// Meets the host.
pub(crate) async fn meet(mut control: tokio::net::UnixStream) -> AgentMux {
    handshake::agent(&mut control).await.unwrap();
    AgentMux::start(control)
}

/// Where a guest answers a request.
pub(crate) type Writer = FrameWriter<tokio::io::WriteHalf<MuxStream>>;

/// The next request, and where to answer it.
pub(crate) async fn request(mux: &mut AgentMux) -> (Request, Writer) {
    let (reader, writer) = tokio::io::split(mux.accept().await.unwrap());
    let request = FrameReader::new(reader).message("request").await.unwrap();
    (request, FrameWriter::new(writer))
}
