//! A server process in a directory of its own.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;

use super::{Api, eventually};

/// How to start one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Options {
    /// Store URL; by default below the data directory.
    pub(crate) store: Option<String>,
    /// Environment, such as credentials.
    pub(crate) env: Vec<(String, String)>,
    /// More flags.
    pub(crate) args: Vec<String>,
    /// New machines begin with templates; else each boots, and nothing runs beside it.
    pub(crate) templates: bool,
    /// Machines stay warm for a while once they sleep; else each wake is one from its files.
    pub(crate) warm: bool,
}

impl Options {
    /// With the store in a directory that outlives the server.
    pub(crate) fn with_store(dir: &Path) -> Self {
        Self { store: Some(format!("file://{}", dir.display())), ..Self::default() }
    }
}

/// A store that outlives its servers, which store memory at once.
pub(crate) struct Storing {
    dir: tempfile::TempDir,
    pub(crate) options: Options,
}

impl Storing {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("make a directory");
        let config = dir.path().join("config.toml");
        std::fs::write(&config, "store_memory_after_seconds = 0\n").expect("write it");
        let args = vec!["--config".to_owned(), config.display().to_string()];
        let options = Options { args, ..Options::with_store(&dir.path().join("store")) };
        Self { dir, options }
    }

    /// What the servers are told.
    pub(crate) fn config(&self) -> PathBuf {
        self.dir.path().join("config.toml")
    }

    /// Where the store is.
    pub(crate) fn store(&self) -> PathBuf {
        self.dir.path().join("store")
    }
}

/// Waits until all that a sleeping machine has outside of its home is in the store, its memory too.
pub(crate) fn until_stored(api: &Api, machine: &str) {
    eventually("its memory is stored", super::BOOT, || {
        let status = api.get(&format!("/v1/machines/{machine}")).ok().json()["status"].clone();
        status["upper"] == "stored" && status["memory"] == "stored"
    });
}

/// Has `data` know the machines of `options`' store, as after the loss of another host; what was said.
pub(crate) fn adopt(data: &Path, options: &Options, flags: &[&str]) -> String {
    let adopted = Command::new(program())
        .args(["adopt", "--data"])
        .arg(data)
        .args(["--store", options.store.as_deref().expect("it is set")])
        .args(flags)
        .envs(options.env.iter().map(|(name, value)| (name, value)))
        .output()
        .expect("run adopt");
    let said = String::from_utf8_lossy(&adopted.stderr).into_owned();
    assert!(adopted.status.success(), "{said}");
    said
}

/// A server on a data directory of its own that has the machines of `options`' store.
pub(crate) fn adopted(options: &Options) -> (tempfile::TempDir, Server) {
    let data = tempfile::tempdir().expect("make a directory");
    adopt(data.path(), options, &[]);
    let server = Server::start_in(data.path(), options.clone());
    (data, server)
}

/// A running server. Dropping it ends it, its keepers and their guests.
pub(crate) struct Server {
    child: Option<Child>,
    data: PathBuf,
    options: Options,
    url: String,
    _root: Option<tempfile::TempDir>,
}

/// The program under test.
pub(crate) fn program() -> PathBuf {
    std::env::var_os("DORMOUSE_BIN")
        .map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_dormouse")), PathBuf::from)
}

impl Server {
    /// Starts one on a fresh data directory.
    pub(crate) fn start(options: Options) -> Self {
        let root = tempfile::tempdir().expect("make a directory");
        let data = root.path().join("data");
        let mut server = Self { child: None, data, options, url: String::new(), _root: Some(root) };
        server.restart();
        server
    }

    /// Starts one on a data directory that exists or not.
    pub(crate) fn start_in(data: &Path, options: Options) -> Self {
        let mut server =
            Self { child: None, data: data.to_owned(), options, url: String::new(), _root: None };
        server.restart();
        server
    }

    /// Starts the process again after it was ended.
    pub(crate) fn restart(&mut self) {
        assert!(self.child.is_none(), "it is running");
        let mut child = self.command().spawn().expect("start the server");
        let stdout = child.stdout.take().expect("it is piped");
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).expect("read its first line");
        let url = line.trim().strip_prefix("dormouse listening on ");
        self.url = url
            .unwrap_or_else(|| panic!("unexpected first line {line:?}\n{}", self.log()))
            .to_owned();
        self.child = Some(child);
    }

    fn command(&self) -> Command {
        std::fs::create_dir_all(&self.data).expect("make the data directory");
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log_path())
            .expect("open the log");
        let mut command = Command::new(program());
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--data"])
            .arg(&self.data)
            .args(&self.options.args)
            .env_remove("DORMOUSE_API_KEY")
            .env("DORMOUSE_CONFIG", "/nonexistent/config.toml")
            .envs(self.options.env.clone())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log);
        if !self.options.templates {
            command.arg("--no-templates");
        }
        if !self.options.warm {
            command.args(["--warm-seconds", "0"]);
        }
        if let Some(store) = &self.options.store {
            command.args(["--store", store]);
        }
        if self.options.env.iter().all(|(name, _)| name != "DORMOUSE_CONFIG") {
            command.env_remove("DORMOUSE_CONFIG");
            command.env("XDG_CONFIG_HOME", self.data.join("no-config"));
        }
        command
    }

    /// Runs the server where it is expected to refuse, and returns its exit code and what it said.
    pub(crate) fn refused(data: &Path, options: Options) -> (Option<i32>, String) {
        let server =
            Self { child: None, data: data.to_owned(), options, url: String::new(), _root: None };
        let mut command = server.command();
        let output = command.stderr(Stdio::piped()).output().expect("run the server");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    fn log_path(&self) -> PathBuf {
        self.data.with_extension("log")
    }

    /// Everything it logged.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// Its data directory.
    pub(crate) fn data(&self) -> &Path {
        &self.data
    }

    /// Its URL.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Its key.
    pub(crate) fn key(&self) -> String {
        std::fs::read_to_string(self.data.join("api-key")).expect("it has a key").trim().to_owned()
    }

    /// Calls to it.
    pub(crate) fn api(&self) -> Api {
        Api::new(&self.url, &self.key())
    }

    /// The command line, pointed at it.
    pub(crate) fn cli(&self, args: &[&str]) -> Command {
        let mut command = Command::new(program());
        command.args(args).arg0_url(&self.url, &self.key());
        command
    }

    /// Ends it as a service manager would, and returns its exit code.
    pub(crate) fn terminate(&mut self) -> Option<i32> {
        signal(self.child.as_ref().expect("it is running").id(), Signal::SIGTERM);
        self.ended()
    }

    /// Waits until it has ended by itself, and returns its exit code.
    pub(crate) fn ended(&mut self) -> Option<i32> {
        let mut child = self.child.take().expect("it is running");
        let start = std::time::Instant::now();
        while child.try_wait().expect("wait for it").is_none() {
            assert!(start.elapsed() < Duration::from_secs(60), "it does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
        child.wait().expect("wait for it").code()
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().expect("it is running").id()
    }

    /// Ends it without a word.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().expect("it is running");
        child.kill().expect("kill it");
        child.wait().expect("wait for it");
    }

    /// The keeper of a machine, where one lives.
    pub(crate) fn keeper(&self, machine: &str) -> Option<u32> {
        let lock = self.data.join("machines").join(machine).join("keeper.lock");
        let pid: u32 = std::fs::read_to_string(lock).ok()?.trim().parse().ok()?;
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        String::from_utf8_lossy(&line).contains("keeper").then_some(pid)
    }

    /// Kills a machine's keeper without a word.
    pub(crate) fn kill_keeper(&self, machine: &str) {
        let pid = self.keeper(machine).expect("the machine has a keeper");
        signal(pid, Signal::SIGKILL);
        eventually("the keeper ends", Duration::from_secs(10), || self.keeper(machine).is_none());
    }
}

/// Ends a process that the test started.
pub(crate) fn signal(pid: u32, signal: Signal) {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).expect("a process id"));
    nix::sys::signal::kill(pid, signal).ok();
}

trait PointAt {
    fn arg0_url(&mut self, url: &str, key: &str) -> &mut Self;
}

impl PointAt for Command {
    fn arg0_url(&mut self, url: &str, key: &str) -> &mut Self {
        self.env("DORMOUSE_URL", url).env("DORMOUSE_API_KEY", key).stdin(Stdio::null())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().ok();
            child.wait().ok();
        }
        let machines = self.data.join("machines");
        for entry in std::fs::read_dir(machines).into_iter().flatten().flatten() {
            if let Some(pid) = entry.file_name().to_str().and_then(|name| self.keeper(name)) {
                signal(pid, Signal::SIGKILL);
                // Its guest and its namespace go with it; wait so that the directory can go too.
                eventually("a keeper ends", Duration::from_secs(10), || {
                    !Path::new(&format!("/proc/{pid}")).exists()
                });
            }
        }
        if std::thread::panicking() {
            eprintln!("---- server log ----\n{}", tail(&self.log()));
            for entry in
                std::fs::read_dir(self.data.join("machines")).into_iter().flatten().flatten()
            {
                for name in ["keeper.log", "instance/console.log"] {
                    let text = std::fs::read_to_string(entry.path().join(name)).unwrap_or_default();
                    eprintln!("---- {name} of {:?} ----\n{}", entry.file_name(), tail(&text));
                }
            }
        }
    }
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}
