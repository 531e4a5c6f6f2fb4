//! A server of our own on a fresh data directory, and nothing left of it afterwards.
//!
//! # Failure
//! Whatever happens, also Ctrl-C and SIGTERM: machines are deleted, the server is stopped, keepers that
//! still live are killed (their guests end with them), and the directory is removed. Each of these is
//! tried even where the one before failed.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use super::http::Endpoint;
use crate::keepers::{self, STOP};
use crate::{interrupt, paths};

/// What the server prints when it is ready, before its URL.
const READY: &str = "dormouse listening on ";
/// Longest wait for that line.
const START: Duration = Duration::from_secs(60);
/// Lines of a log that are shown after a failure.
const LOG_LINES: usize = 20;

/// A directory, and the server that lives in it once it is started.
pub(crate) struct Server {
    held: Arc<Mutex<Held>>,
    root: PathBuf,
}

/// What has to be cleaned up.
struct Held {
    root: Option<TempDir>,
    process: Option<Child>,
    endpoint: Option<Endpoint>,
}

impl Server {
    /// Makes the directory and watches for Ctrl-C from now on.
    pub(crate) fn prepare() -> anyhow::Result<Self> {
        let program = paths::dormouse();
        ensure!(
            program.exists(),
            "{} is not there; cargo build --release -p dormouse makes it",
            program.display()
        );
        // On a real disk, which /tmp often is not, and short, as sockets will have paths below it.
        let base = std::env::var_os("TMPDIR").map_or_else(|| "/var/tmp".into(), PathBuf::from);
        let root = tempfile::Builder::new()
            .prefix("dormouse-bench-")
            .tempdir_in(&base)
            .with_context(|| format!("make a directory in {}", base.display()))?;
        let path = root.path().to_owned();
        let held = Held { root: Some(root), process: None, endpoint: None };
        let held = Arc::new(Mutex::new(held));
        interrupt::watch(held.clone(), Held::clean_up)?;
        Ok(Self { held, root: path })
    }

    /// The directory.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    fn data(&self) -> PathBuf {
        self.root.join("data")
    }

    /// Starts it on its own disk and waits until it is ready.
    pub(crate) fn start(&self) -> anyhow::Result<Endpoint> {
        self.start_on(None, &[])
    }

    /// Starts it on the store at a URL, with what must be in its environment for that. It makes no templates:
    /// nothing runs beside what is measured.
    pub(crate) fn start_on(
        &self,
        store: Option<&str>,
        variables: &[(String, String)],
    ) -> anyhow::Result<Endpoint> {
        self.start_as(&["--no-templates"], store, variables)
    }

    /// Stops it and starts it so that it makes templates; machines go on meanwhile.
    pub(crate) fn restart_with_templates(&self) -> anyhow::Result<Endpoint> {
        self.restart(&[])
    }

    /// The same so that nothing of a machine stays loaded once it sleeps: a keeper is told when it is started.
    pub(crate) fn restart_without_warmth(&self) -> anyhow::Result<Endpoint> {
        self.restart(&["--warm-seconds", "0"])
    }

    /// The same so that the memory of machines goes to the store as soon as they sleep.
    pub(crate) fn restart_storing_memory(&self) -> anyhow::Result<Endpoint> {
        let config = self.root.join("storing.toml");
        fs::write(&config, "store_memory_after_seconds = 0\n").context("write a configuration")?;
        self.restart(&["--config", config.to_str().context("the directory has a strange name")?])
    }

    fn restart(&self, flags: &[&str]) -> anyhow::Result<Endpoint> {
        if let Some(mut process) = lock(&self.held).process.take() {
            stop(&mut process)?;
        }
        self.start_as(flags, None, &[])
    }

    /// For how many milliseconds a machine's guest was paused when it was put to sleep, as its keeper said at its end.
    pub(crate) fn paused_ms(&self, machine: &str) -> anyhow::Result<f64> {
        let path = self.data().join("machines").join(machine).join("status.json");
        let words = fs::read(&path).context("read the last words of a keeper")?;
        let words: Value = serde_json::from_slice(&words).context("the last words of a keeper")?;
        words["paused_ms"].as_f64().with_context(|| format!("its guest was not saved: {words}"))
    }

    /// Bytes that the memory of a sleeping machine has in the store by itself, and that its template has, which all
    /// machines that began with that share.
    pub(crate) fn stored_memory_bytes(&self, machine: &str) -> anyhow::Result<(u64, u64)> {
        let store = self.data().join("store");
        let of_machine = store.join("uppers").join(machine);
        let manifests = |path: &Path| path.to_string_lossy().ends_with("-memory");
        let own = bytes_below(&of_machine.join("memory"), &|_| true)?
            + bytes_below(&of_machine.join("log"), &manifests)?;
        ensure!(own > 0, "there is no memory in the store");
        let is_user = |template: &Path| template.join("users").join(machine).exists();
        let templates = fs::read_dir(store.join("templates")).into_iter().flatten().flatten();
        let templates = templates.map(|entry| entry.path()).filter(|path| is_user(path));
        let of_templates =
            templates.map(|path| bytes_below(&path, &|_| true)).sum::<anyhow::Result<u64>>()?;
        Ok((own, of_templates))
    }

    /// Whether all is there that the next machine may begin with: a template and its two copies.
    pub(crate) fn has_templates(&self) -> bool {
        let entries = fs::read_dir(self.data().join("templates")).into_iter().flatten().flatten();
        entries.filter(|entry| entry.path().join("template.json").exists()).count() >= 3
    }

    fn start_as(
        &self,
        flags: &[&str],
        store: Option<&str>,
        variables: &[(String, String)],
    ) -> anyhow::Result<Endpoint> {
        let data = self.data();
        fs::create_dir_all(&data).context("make the data directory")?;
        let log = File::create(self.root.join("serve.log")).context("make the log")?;
        let mut process = Command::new(paths::dormouse())
            .args(["serve", "--listen", "127.0.0.1:0", "--data"])
            .arg(&data)
            .args(flags)
            .args(store.iter().flat_map(|url| ["--store", url]))
            .envs(variables.iter().cloned())
            // What the user has set up for themselves must not change what is measured.
            .env_remove("DORMOUSE_API_KEY")
            .env_remove("DORMOUSE_STORE")
            .env("XDG_CONFIG_HOME", self.root.join("no-config"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            // Ctrl-C is for us; we stop it when the machines are gone.
            .process_group(0)
            .spawn()
            .context("start dormouse serve")?;
        let stdout = process.stdout.take();
        lock(&self.held).process = Some(process);
        let url = ready(stdout.context("the server's output")?)?;
        let key = fs::read_to_string(data.join("api-key")).context("read the key")?;
        let endpoint = Endpoint::new(&url, key.trim())?;
        lock(&self.held).endpoint = Some(endpoint.clone());
        Ok(endpoint)
    }

    /// A command of the program's own command line, pointed at it.
    pub(crate) fn command_line(&self) -> Command {
        let mut command = Command::new(paths::dormouse());
        command.env_remove("DORMOUSE_URL").env_remove("DORMOUSE_API_KEY");
        command.env("DORMOUSE_DATA", self.data());
        command
    }

    /// Its own process.
    pub(crate) fn process(&self) -> anyhow::Result<i32> {
        let process = lock(&self.held).process.as_ref().map(Child::id);
        Ok(i32::try_from(process.context("the server was not started")?)?)
    }

    /// The process that owns an awake machine.
    pub(crate) fn keeper(&self, machine: &str) -> Option<i32> {
        keepers::keeper(&self.data().join("machines").join(machine))
    }

    /// Does not return once Ctrl-C has been pressed: what fails then is no news, and the program ends as
    /// soon as all is cleaned up.
    pub(crate) fn wait_if_interrupted(&self) {
        drop(lock(&self.held));
    }

    /// Shows the ends of the logs, as they are gone afterwards.
    pub(crate) fn show_logs(&self) {
        let machines = keepers::machines(&self.data());
        let logs = machines
            .iter()
            .flat_map(|dir| [dir.join("keeper.log"), dir.join("instance/console.log")]);
        for path in std::iter::once(self.root.join("serve.log")).chain(logs) {
            let Ok(bytes) = fs::read(&path) else { continue };
            let text = String::from_utf8_lossy(&bytes);
            let lines: Vec<_> = text.lines().collect();
            let short = path.strip_prefix(&self.root).unwrap_or(&path);
            eprintln!("---- end of {}", short.display());
            for line in &lines[lines.len().saturating_sub(LOG_LINES)..] {
                eprintln!("{line}");
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        lock(&self.held).clean_up();
    }
}

impl Held {
    fn clean_up(&mut self) {
        if let Some(endpoint) = self.endpoint.take()
            && let Err(error) = delete_machines(&endpoint)
        {
            eprintln!("delete the machines: {error:#}");
        }
        if let Some(mut process) = self.process.take()
            && let Err(error) = stop(&mut process)
        {
            eprintln!("stop the server: {error:#}");
        }
        let Some(root) = self.root.take() else { return };
        keepers::end_all(&root.path().join("data"));
        let path = root.path().to_owned();
        if let Err(error) = root.close() {
            eprintln!("remove {}: {error}", path.display());
        }
    }
}

fn lock(held: &Mutex<Held>) -> MutexGuard<'_, Held> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for the line that says where the server listens.
fn ready(stdout: impl std::io::Read + Send + 'static) -> anyhow::Result<String> {
    let (said, hears) = channel();
    thread::spawn(move || {
        // To the end: a closed pipe would be an error to the server.
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if let Some(url) = line.strip_prefix(READY) {
                said.send(url.to_owned()).ok();
            }
        }
    });
    match hears.recv_timeout(START) {
        Ok(url) => Ok(url),
        Err(_) => bail!("the server does not become ready"),
    }
}

fn delete_machines(endpoint: &Endpoint) -> anyhow::Result<()> {
    let listed = endpoint.json("GET", "/v1/machines", &Value::Null)?;
    for machine in listed["items"].as_array().into_iter().flatten() {
        let id = machine["machine_id"].as_str().context("a machine has an id")?;
        endpoint.json("DELETE", &format!("/v1/machines/{id}"), &Value::Null)?;
    }
    Ok(())
}

fn stop(process: &mut Child) -> anyhow::Result<()> {
    let pid = Pid::from_raw(i32::try_from(process.id())?);
    kill(pid, Signal::SIGTERM)?;
    let gentle = keepers::wait_until(|| process.try_wait().is_ok_and(|status| status.is_some()));
    if !gentle {
        process.kill()?;
    }
    process.wait()?;
    ensure!(gentle, "it did not end within {STOP:?} and was killed");
    Ok(())
}

/// Bytes of the files below `dir` that count.
fn bytes_below(dir: &Path, counts: &dyn Fn(&Path) -> bool) -> anyhow::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))? {
        let path = entry.context("list what is stored")?.path();
        let meta = fs::metadata(&path).context("look at what is stored")?;
        if meta.is_dir() {
            bytes += bytes_below(&path, counts)?;
        } else if counts(&path) {
            bytes += meta.len();
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_url_is_taken_from_the_servers_line() {
        let output = "something\ndormouse listening on http://127.0.0.1:1\nmore\n";
        assert_eq!(ready(output.as_bytes()).unwrap(), "http://127.0.0.1:1");
        assert!(ready("nothing\n".as_bytes()).is_err(), "a server that ended");
    }
}
