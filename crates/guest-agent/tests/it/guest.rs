//! A real guest whose PID 1 is the agent of this checkout.

use std::fs;
use std::io::Write;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use agent_proto::{AgentClient, Configure};
use base::{MachineId, SystemClock, SystemEntropy};
use fuse_serve::{Channel, Config, Session, Threads};
use images::{BASE_IMAGE, Image, Images};
use runtime::{Exit, Instance, Network, Qemu, QemuSettings, Runtime, Spec, Started};
use vfs::memfs::MemFs;

use crate::agent::handle;

const TARGET: &str = "x86_64-unknown-linux-gnu";
/// Longest wait for a boot: on a loaded host it takes 10 s.
const BOOT_TIMEOUT: Duration = Duration::from_secs(120);

/// The base image, or why these tests cannot run.
pub(crate) fn image() -> Option<Image> {
    let variable = |name| std::env::var_os(name);
    let dir =
        images::default_dir(variable("XDG_CACHE_HOME").as_deref(), variable("HOME").as_deref());
    let image = match Images::open(dir).get(BASE_IMAGE) {
        Ok(image) => image,
        Err(error) => return skip(&error.to_string()),
    };
    if !nix::unistd::geteuid().is_root() {
        return skip("needs root");
    }
    match Qemu::new(QemuSettings::default()).missing().first() {
        Some(missing) => skip(&format!("{} is missing", missing.what)),
        None => Some(image),
    }
}

/// `cargo xtask test` says where nothing may be skipped: there a missing part is a failure.
fn skip<T>(why: &str) -> Option<T> {
    assert!(std::env::var_os("DORMOUSE_TESTS_MUST_RUN").is_none(), "cannot run: {why}");
    eprintln!("skipped: {why}");
    None
}

/// The static agent, built like the one that images hold, and where that is built.
fn static_agent() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        // target/debug/dormouse-agent → target
        let program = Path::new(env!("CARGO_BIN_EXE_dormouse-agent"));
        let target = program.ancestors().nth(2).unwrap().join("agent");
        let built = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--package", "guest-agent", "--profile", "agent"])
            .args(["--target", TARGET])
            .arg("--target-dir")
            .arg(&target)
            .env("RUSTFLAGS", "-C target-feature=+crt-static")
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status();
        assert!(built.unwrap().success(), "build the static agent");
        target.join(TARGET).join("agent/dormouse-agent")
    })
}

/// The image's initramfs with our `/init` after it: the kernel unpacks one over the other.
fn initrd(image: &Image, dir: &Path) -> PathBuf {
    fs::copy(static_agent(), dir.join("init")).unwrap();
    let mut cpio = Command::new("cpio")
        .args(["-o", "-H", "newc", "--quiet"])
        .current_dir(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    cpio.stdin.take().unwrap().write_all(b"init\n").unwrap();
    let ours = cpio.wait_with_output().unwrap().stdout;
    let path = dir.join("initrd.cpio");
    fs::write(&path, [fs::read(&image.initrd).unwrap(), ours].concat()).unwrap();
    path
}

/// A running guest; its home is in memory. Dropping it ends it.
pub(crate) struct Guest {
    pub(crate) client: AgentClient,
    pub(crate) home: Arc<MemFs>,
    pub(crate) channel: Channel,
    pub(crate) session: Arc<Session>,
    pub(crate) boot_time: Duration,
    instance: Box<dyn Instance>,
    control: StdUnixStream,
    dir: PathBuf,
}

impl Guest {
    /// Boots. `dir` keeps the upper, and so the machine, from one boot to the next.
    pub(crate) async fn boot(image: &Image, dir: &Path, network: Network) -> Self {
        let begun = Instant::now();
        let guest = Self::begin(start(&spec(image, dir, network)).await, dir).await;
        guest.configure(&configure("guest", 0)).await;
        Self { boot_time: begun.elapsed(), ..guest }
    }

    /// Meets the agent of a guest that was started in `dir`; it is nobody's yet.
    pub(crate) async fn begin(started: Started, dir: &Path) -> Self {
        let home = Arc::new(MemFs::new(Arc::new(SystemClock::new()), 1 << 30));
        let session = Arc::new(Session::new(home.clone(), Config::default()));
        let threads = Threads { kept: 2, max: 8 };
        let channel =
            Channel::serve(Arc::clone(&session), started.fuse, started.memory, threads).unwrap();
        let client = connect(&started.control, dir).await;
        let boot_time = Duration::ZERO;
        let (instance, control, dir) = (started.instance, started.control, dir.to_owned());
        Self { client, home, channel, session, boot_time, instance, control, dir }
    }

    /// Says whose it is.
    pub(crate) async fn configure(&self, configure: &Configure) {
        let done = self.client.configure(configure).await;
        assert!(done.is_ok(), "{done:?}; the console:\n{}", self.console());
    }

    /// Saves one that is quiet, with the state of its devices in the file `state`.
    pub(crate) async fn suspend(self, state: &Path) {
        self.client.close().await;
        self.instance.suspend(state).await.unwrap();
    }

    /// Ends the session with the agent and begins another one.
    pub(crate) async fn reconnect(self) -> Self {
        drop(self.client);
        // The old session reads from the same socket until it has said good-bye.
        tokio::time::sleep(Duration::from_millis(100)).await;
        let client = connect(&self.control, &self.dir).await;
        Self { client, ..self }
    }

    /// Boots a guest that is not expected to get up.
    pub(crate) async fn boot_to_its_end(image: &Image, dir: &Path) -> Exit {
        let started = start(&spec(image, dir, Network::None)).await;
        tokio::time::timeout(BOOT_TIMEOUT, started.instance.wait()).await.expect("it does not end")
    }

    /// Boots a guest whose host answers the first FUSE request with nonsense.
    pub(crate) async fn boot_with_nonsense_for_a_home(
        image: &Image,
        dir: &Path,
    ) -> (Box<dyn Instance>, AgentClient) {
        let mut started = start(&spec(image, dir, Network::None)).await;
        let client = connect(&started.control, dir).await;
        std::mem::forget(started.control);
        started.fuse.write_all(&[0xff; 100]).unwrap();
        client.configure(&configure("guest", 0)).await.unwrap();
        // Its end would not tell the guest anything; it stays open as long as this process lives.
        std::mem::forget(started.fuse);
        (started.instance, client)
    }

    /// What the guest has said on its console.
    pub(crate) fn console(&self) -> String {
        console_of(&self.dir)
    }

    /// Shuts down and returns how the guest ended.
    pub(crate) async fn shut_down(self) -> Exit {
        let shut_down = self.client.shutdown(Duration::from_secs(3)).await;
        assert!(shut_down.is_ok(), "{shut_down:?}; the console:\n{}", self.console());
        self.ended().await
    }

    /// Waits for the end of one that was told to.
    pub(crate) async fn ended(self) -> Exit {
        let ended = tokio::time::timeout(Duration::from_secs(20), self.instance.wait()).await;
        ended.unwrap_or_else(|_| panic!("it does not end; the console:\n{}", self.console()))
    }
}

/// What makes a guest somebody's; `who` tells machines apart.
pub(crate) fn configure(hostname: &str, who: u8) -> Configure {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    Configure {
        hostname: hostname.to_owned(),
        unix_nanos: i64::try_from(now.as_nanos()).unwrap(),
        entropy: format!("{who:02x}").repeat(64),
        machine_id: format!("{who:02x}").repeat(16),
        ..Configure::default()
    }
}

/// A machine in `dir`.
pub(crate) fn spec(image: &Image, dir: &Path, network: Network) -> Spec {
    let upper = dir.join("upper.ext4");
    if !upper.exists() {
        images::make_upper(&upper, 1 << 30).unwrap();
    }
    let words = [("ip", "10.0.2.15/24"), ("gw", "10.0.2.2"), ("dns", "10.0.2.3")];
    let agent_args = match network {
        Network::None => Vec::new(),
        _ => words.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec(),
    };
    Spec {
        machine: MachineId::generate(),
        vcpu: 1.0,
        memory_mib: 512,
        kernel: image.kernel.clone(),
        initrd: initrd(image, dir),
        root_image: image.root.clone(),
        upper_image: upper,
        upper_server: None,
        agent_args,
        memory: runtime::Memory::Anonymous,
        network,
        egress: runtime::EgressPolicy::default(),
        purpose: runtime::Purpose::Machine,
        log_dir: dir.join("log"),
    }
}

pub(crate) async fn start(spec: &Spec) -> Started {
    Qemu::new(QemuSettings::default()).start(spec).await.unwrap()
}

/// A session on a socket that outlives it.
async fn connect(control: &StdUnixStream, dir: &Path) -> AgentClient {
    let connecting = AgentClient::connect(handle(control), &SystemEntropy);
    match tokio::time::timeout(BOOT_TIMEOUT, connecting).await {
        Ok(Ok(client)) => client,
        failed => panic!("{failed:?}; the console:\n{}", console_of(dir)),
    }
}

/// What the guest of `dir` has said on its console.
pub(crate) fn console_of(dir: &Path) -> String {
    fs::read_to_string(dir.join("log/console.log")).unwrap_or_default()
}
