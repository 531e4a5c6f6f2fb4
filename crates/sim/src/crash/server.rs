//! The program under test, and calls to it.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reqwest::Method;
use reqwest::blocking::Client;
use serde_json::{Value, json};

use super::ledger::Call;

/// Longest wait for a machine to get where it should be.
const PATIENCE: Duration = Duration::from_secs(180);

/// A server in a directory of its own. Dropping it ends it and its keepers.
#[derive(Debug)]
pub(super) struct Server {
    child: Child,
    dir: tempfile::TempDir,
    url: String,
    key: String,
    http: Client,
}

/// Writes files without end, syncs each, and prints how far it is: 0 once it runs, then the number of
/// each file after its `fsync`. `synced` reads that from the execution's output.
const SYNCER: &str = r#"
import os, sys
cycle = sys.argv[1]
os.makedirs(f"/root/g{cycle}", exist_ok=True)
n = 0
print(n, flush=True)
while True:
    n += 1
    with open(f"/root/g{cycle}/{n}", "w") as f:
        f.write(f"cycle {cycle} file {n}\n" * (1 + (n % 40) * 30))
        f.flush()
        os.fsync(f.fileno())
    print(n, flush=True)
"#;

impl Server {
    pub(super) fn start(program: &Path) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir().context("make a directory")?;
        let log = std::fs::File::create(dir.path().join("log")).context("make the log")?;
        let mut child = Command::new(program)
            .args(["serve", "--warm-seconds", "0", "--listen", "127.0.0.1:0", "--data"])
            .arg(dir.path().join("data"))
            .arg("--no-templates")
            .env_remove("DORMOUSE_API_KEY")
            .env_remove("DORMOUSE_CONFIG")
            .env("XDG_CONFIG_HOME", dir.path().join("no-config"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .with_context(|| format!("start {}", program.display()))?;
        let stdout = child.stdout.take().context("the server's output")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).context("read the server's output")?;
        let Some(url) = line.trim().strip_prefix("dormouse listening on ") else {
            let log = std::fs::read_to_string(dir.path().join("log")).unwrap_or_default();
            bail!("the server does not start: {log}");
        };
        let key =
            std::fs::read_to_string(dir.path().join("data/api-key")).context("read the key")?;
        let http = Client::builder()
            .timeout(Duration::from_secs(60))
            // The server may close an idle connection just when a request is sent on it.
            .pool_max_idle_per_host(0)
            .no_proxy()
            .build()?;
        let (url, key) = (url.to_owned(), key.trim().to_owned());
        Ok(Self { child, dir, url, key, http })
    }

    fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<Value> {
        let mut request = self.http.request(method, format!("{}{path}", self.url));
        request = request.bearer_auth(&self.key);
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        let reply = request.send()?;
        let (status, text) = (reply.status(), reply.text()?);
        ensure!(status.is_success(), "{path}: {status} {text}");
        Ok(serde_json::from_str(&text).unwrap_or(Value::Null))
    }

    pub(super) fn create(&self, name: &str) -> anyhow::Result<String> {
        let body = json!({"name": name, "vcpu": 1, "memory_mib": 512, "storage_gib": 4, "autosleep": "never"});
        let made = self.ask(Method::POST, "/v1/machines", Some(&body))?;
        let id = made["machine_id"].as_str().context("it has no id")?.to_owned();
        self.until(&id, "running")?;
        Ok(id)
    }

    fn until(&self, machine: &str, wanted: &str) -> anyhow::Result<()> {
        let begun = Instant::now();
        loop {
            let seen = self.ask(Method::GET, &format!("/v1/machines/{machine}"), None)?;
            let phase = seen["status"]["phase"].as_str().unwrap_or_default();
            if phase == wanted {
                return Ok(());
            }
            ensure!(phase != "failed" || wanted == "failed", "the machine failed: {seen}");
            ensure!(begun.elapsed() < PATIENCE, "not {wanted}: {seen}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(super) fn until_failed(&self, machine: &str) -> anyhow::Result<()> {
        self.until(machine, "failed")
    }

    pub(super) fn begin_wake(&self, machine: &str) -> anyhow::Result<()> {
        let url = format!("{}/v1/machines/{machine}/wake", self.url);
        let request = self.http.post(url).bearer_auth(&self.key).header("prefer", "respond-async");
        let status = request.send()?.status();
        ensure!(status.is_success(), "wake: {status}");
        Ok(())
    }

    /// Until it runs, however often its keeper was killed on the way: the server tries again by itself
    /// a few times, and then wants to be asked.
    pub(super) fn wake(&self, machine: &str) -> anyhow::Result<()> {
        let begun = Instant::now();
        loop {
            self.begin_wake(machine)?;
            match self.until(machine, "running") {
                // The last failure shows until the server takes the wish up.
                Err(_) if begun.elapsed() < PATIENCE => {
                    std::thread::sleep(Duration::from_millis(50));
                }
                done => return done,
            }
        }
    }

    fn home_dir(&self, machine: &str) -> PathBuf {
        self.dir.path().join("data/machines").join(machine)
    }

    /// The keeper's process.
    fn keeper(&self, machine: &str) -> Option<Pid> {
        let lock = std::fs::read_to_string(self.home_dir(machine).join("keeper.lock")).ok()?;
        let pid: i32 = lock.trim().parse().ok()?;
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        String::from_utf8_lossy(&line).contains(machine).then(|| Pid::from_raw(pid))
    }

    /// SIGKILL.
    pub(super) fn kill_keeper(&self, machine: &str) -> anyhow::Result<()> {
        let pid = self.keeper(machine).context("the machine has no keeper")?;
        kill(pid, Signal::SIGKILL).context("kill the keeper")?;
        let begun = Instant::now();
        while self.keeper(machine) == Some(pid) {
            ensure!(begun.elapsed() < PATIENCE, "the keeper does not die");
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// The local directory of the home goes; upper and the rest stay.
    pub(super) fn lose_disk(&self, machine: &str) -> anyhow::Result<()> {
        let dir = self.home_dir(machine).join("home");
        std::fs::remove_dir_all(&dir).with_context(|| format!("remove {}", dir.display()))
    }

    /// True where it was acknowledged, false where it was refused; an error where nobody knows.
    pub(super) fn call(&self, machine: &str, call: &Call) -> anyhow::Result<bool> {
        let url = format!("{}/v1/machines/{machine}/fs/{}", self.url, call.path());
        let request = match call {
            Call::Put(..) => self.http.put(url).body(call.outcome().unwrap_or_default()),
            Call::Delete(_) => self.http.delete(url),
        };
        let status = request.bearer_auth(&self.key).send()?.status();
        ensure!(!status.is_server_error(), "{status}");
        Ok(status.is_success())
    }

    pub(super) fn read(&self, machine: &str, path: &str) -> anyhow::Result<Option<Vec<u8>>> {
        let url = format!("{}/v1/machines/{machine}/fs/{path}", self.url);
        let reply = self.http.get(url).bearer_auth(&self.key).send()?;
        if reply.status().as_u16() == 404 {
            return Ok(None);
        }
        let status = reply.status();
        ensure!(status.is_success(), "GET {path}: {status} {}", reply.text()?);
        Ok(Some(reply.bytes()?.to_vec()))
    }

    fn execute(&self, machine: &str, command: &[&str]) -> anyhow::Result<String> {
        let path = format!("/v1/machines/{machine}/executions");
        let started = self.ask(Method::POST, &path, Some(&json!({ "command": command })))?;
        Ok(started["execution_id"].as_str().context("it has no id")?.to_owned())
    }

    /// Starts the guest's program, and waits until it runs: a host under load takes seconds to start an
    /// interpreter in a guest, longer than a cycle works. Its execution.
    pub(super) fn start_syncing(&self, machine: &str, cycle: u64) -> anyhow::Result<String> {
        let syncer = self.execute(machine, &["python3", "-c", SYNCER, &cycle.to_string()])?;
        let begun = Instant::now();
        while self.synced(machine, &syncer)?.is_none() {
            ensure!(begun.elapsed() < PATIENCE, "the guest's program does not start");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(syncer)
    }

    /// How many files it has synced, or that it does not run yet.
    pub(super) fn synced(&self, machine: &str, syncer: &str) -> anyhow::Result<Option<u64>> {
        let path = format!("/v1/machines/{machine}/executions/{syncer}/output");
        let output = self.ask(Method::GET, &path, None)?;
        let text = output["stdout"].as_str().unwrap_or_default();
        // A line without its end is not whole.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        Ok(whole.lines().next_back().and_then(|line| line.parse().ok()))
    }

    /// Runs a command that must succeed.
    pub(super) fn run(&self, machine: &str, command: &[&str]) -> anyhow::Result<()> {
        let id = self.execute(machine, command)?;
        let path = format!("/v1/machines/{machine}/executions/{id}");
        let begun = Instant::now();
        loop {
            let seen = self.ask(Method::GET, &path, None)?;
            match seen["status"].as_str().unwrap_or_default() {
                "succeeded" => return Ok(()),
                "failed" | "cancelled" | "expired" => bail!("{command:?}: {seen}"),
                _ => ensure!(begun.elapsed() < PATIENCE, "{command:?} does not end"),
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        let machines = std::fs::read_dir(self.dir.path().join("data/machines"));
        for entry in machines.into_iter().flatten().flatten() {
            if let Some(pid) = entry.file_name().to_str().and_then(|name| self.keeper(name)) {
                kill(pid, Signal::SIGKILL).ok();
            }
        }
        // Its guest goes with it, a moment later; the directory is in use until then.
        std::thread::sleep(Duration::from_millis(500));
    }
}
