//! Starts a server with a machine named `hello` and stays in the foreground.
//!
//! The server runs in a process group of its own, so that Ctrl-C reaches only us and we stop it
//! gently: awake machines go on running with their keepers, and the next start adopts them.

use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;

use crate::cargo::{cargo, run as run_command};
use crate::{paths, setup};

/// The machine that is made.
const MACHINE: &str = "hello";
/// What the server prints when it is ready, before its URL.
const READY: &str = "dormouse listening on ";
/// Longest wait for that line.
const START: Duration = Duration::from_secs(60);
/// The CLI's exit code for "no such thing".
const NOT_FOUND: i32 = 3;

/// Sets up, builds, serves. `arguments` go to `dormouse serve`.
pub(crate) fn run(arguments: &[String]) -> anyhow::Result<()> {
    let started = Instant::now();
    setup::run(&setup::Options::default())?;
    // Cargo shows its own progress and the time it took.
    run_command(cargo().args(["build", "--release", "--package", "dormouse"]))?;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the async runtime")?
        .block_on(serve(arguments, started))
}

async fn serve(arguments: &[String], started: Instant) -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt()).context("watch for Ctrl-C")?;
    let mut terminate = signal(SignalKind::terminate()).context("watch for SIGTERM")?;
    let mut server = Command::new(paths::dormouse())
        .arg("serve")
        .args(arguments)
        .stdout(Stdio::piped())
        .process_group(0)
        .spawn()
        .context("start dormouse serve")?;
    let welcomed = async {
        let url = ready(&mut server).await?;
        eprintln!("ready after {:.1} s", started.elapsed().as_secs_f64());
        welcome(&url, arguments).await
    };
    let interrupted = tokio::select! {
        welcomed = welcomed => {
            if let Err(error) = welcomed {
                // The server may well be good; a person can look at it.
                eprintln!("error: {error:#}");
            }
            false
        }
        _ = interrupt.recv() => true,
        _ = terminate.recv() => true,
    };
    if !interrupted {
        tokio::select! {
            status = server.wait() => return ended(status.context("wait for the server")?),
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    }
    stop(&server);
    ended(server.wait().await.context("wait for the server")?)
}

/// Waits for the line that says where the server listens.
async fn ready(server: &mut Child) -> anyhow::Result<String> {
    let stdout = server.stdout.take().context("the server's output")?;
    let mut lines = BufReader::new(stdout).lines();
    let url = async {
        while let Some(line) = lines.next_line().await.context("read the server's output")? {
            if let Some(url) = line.strip_prefix(READY) {
                return Ok(url.to_owned());
            }
        }
        bail!("the server ended before it was ready")
    };
    let url = timeout(START, url).await.context("the server says nothing")??;
    // It says nothing more there, but a closed pipe would be an error to it.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    Ok(url)
}

/// Makes the machine where there is none, and says what can be done with it.
async fn welcome(url: &str, arguments: &[String]) -> anyhow::Result<()> {
    let data = paths::data_of(arguments);
    let cli = |words: &[&str]| {
        let mut command = Command::new(paths::dormouse());
        command.args(words).args(["--url", url]).stdin(Stdio::null()).kill_on_drop(true);
        if let Some(data) = &data {
            command.args(["--data", data]);
        }
        command
    };
    let shown = cli(&["show", MACHINE])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .await
        .context("look for the machine")?;
    if shown.code() == Some(NOT_FOUND) {
        let begun = Instant::now();
        eprintln!("create the machine {MACHINE}");
        let created = cli(&["create", MACHINE]).stdout(Stdio::null()).status().await;
        if !created.context("create the machine")?.success() {
            bail!("dormouse create {MACHINE} failed; dormouse doctor says what is missing");
        }
        eprintln!("created after {:.1} s", begun.elapsed().as_secs_f64());
    }
    // The commands to try find a server on its defaults by themselves.
    let flags = data.as_ref().map(|data| format!(" --data {data}")).unwrap_or_default();
    let key = data.map_or_else(default_data, Into::into).join("api-key");
    let dormouse = paths::short(&paths::dormouse());
    let (dormouse, key) = (dormouse.display(), key.display());
    eprintln!(
        "
  URL  {url}
  key  $DORMOUSE_API_KEY where it is set, else in {key}

  {dormouse} exec {MACHINE}{flags} -- uname -a
  {dormouse} cp README.md {MACHINE}:/root/README.md{flags}
  curl -H \"Authorization: Bearer $(cat {key})\" {url}/v1/machines

Ctrl-C stops the server; awake machines go on and the next start finds them.
"
    );
    Ok(())
}

/// The data directory of a server on its defaults.
fn default_data() -> std::path::PathBuf {
    let variable = |name| std::env::var_os(name).map(std::path::PathBuf::from);
    variable("DORMOUSE_DATA").unwrap_or_else(|| {
        variable("XDG_DATA_HOME")
            .filter(|path| path.is_absolute())
            .or_else(|| variable("HOME").map(|home| home.join(".local/share")))
            .unwrap_or_else(|| "/root/.local/share".into())
            .join("dormouse")
    })
}

fn stop(server: &Child) {
    let id = server.id().and_then(|id| i32::try_from(id).ok());
    // It has no id where it has already ended.
    if let Some(id) = id
        && let Err(error) = kill(Pid::from_raw(id), Signal::SIGTERM)
    {
        eprintln!("stop the server: {error}");
    }
}

fn ended(status: ExitStatus) -> anyhow::Result<()> {
    if status.success() { Ok(()) } else { bail!("dormouse serve: {status}") }
}
