//! Starting keepers, telling whether one lives, ending them.
//!
//! A keeper lives as long as it holds `keeper.lock`, which is until its process is gone, or waits with a guest that is
//! [warm](crate::warm).

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use base::ErrorKind;
use nix::sys::signal::Signal;

use crate::asleep::SleepRecord;
use crate::layout::MachineDir;
use crate::lock::{Lock, Watch};
use crate::{Client, Failure, LastWords, Result, warm};

/// How long a keeper may take to listen on its socket.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(20);
/// How often a wait looks again.
const POLL: Duration = Duration::from_millis(50);
/// The first pause of a wait for a keeper that starts; it listens after some 10 ms. Doubles up to [`POLL`].
const POLL_FIRST: Duration = Duration::from_millis(2);
/// How long one that is seen to end may take to be gone.
const GONE_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a killed keeper may take to be gone.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);
/// A log past this size starts anew with the next keeper.
const LOG_BYTES_MAX: u64 = 8 << 20;

/// What is started as `PROGRAM keeper`.
#[derive(Debug, Clone)]
pub struct Program {
    /// The program.
    pub path: PathBuf,
    /// Variables it gets, or does not get, whatever this process has.
    pub env: Vec<(String, Option<OsString>)>,
    /// The same for keepers that are just like one another. One word.
    pub identity: String,
}

/// The variable in which a keeper is told its [identity](Program::identity).
pub const IDENTITY_VARIABLE: &str = "DORMOUSE_KEEPER_IDENTITY";

/// Starts `PROGRAM keeper --dir DIR`, or rouses the one that has its guest loaded still ([`warm`]), and waits until it listens.
///
/// # Errors
/// What the keeper said where it ended at once.
pub async fn start(program: &Program, dir: &MachineDir) -> Result<Client> {
    LastWords::clear(dir);
    if let Some(process) = roused(program, dir).await {
        match until_listens(dir, || Ok(has_ended(&process).then(|| "it ended".to_owned()))).await {
            // Whatever it was of, a process that is begun anew does not have it.
            Err(error) if is_gone_soon(dir).await => {
                tracing::warn!(%error, "the process of a warm guest");
            }
            done => return done,
        }
    }
    let mut child = spawn(program, dir)?;
    let done = until_listens(dir, || Ok(child.try_wait()?.map(|status| status.to_string()))).await;
    // Whoever started it reaps it; if we end first, init does.
    tokio::spawn(async move { child.wait().await });
    done
}

/// The process that has the guest loaded, which is the machine's keeper now.
async fn roused(program: &Program, dir: &MachineDir) -> Option<UnixStream> {
    let (identity, warm) = (program.identity.clone(), dir.clone());
    let roused = tokio::task::spawn_blocking(move || warm::rouse(&warm, &identity)).await;
    let roused = roused.map_err(std::io::Error::other).flatten();
    let roused = roused.inspect_err(|error| tracing::warn!(%error, "rouse a warm guest"));
    roused.ok().flatten().filter(|stream| stream.set_nonblocking(true).is_ok())
}

/// Whether there is no keeper. The last that is heard of one that ends may be a moment before that.
async fn is_gone_soon(dir: &MachineDir) -> bool {
    let gone = async {
        while is_alive(dir) {
            tokio::time::sleep(POLL_FIRST).await;
        }
    };
    tokio::time::timeout(GONE_TIMEOUT, gone).await.is_ok()
}

/// It says nothing more.
fn has_ended(mut process: &UnixStream) -> bool {
    !matches!(process.read(&mut [0]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
}

fn spawn(program: &Program, dir: &MachineDir) -> Result<tokio::process::Child> {
    let log = log_file(dir).map_err(|error| Failure::internal("open keeper.log", error))?;
    let err = log.try_clone().map_err(|error| Failure::internal("open keeper.log", error))?;
    let mut command = tokio::process::Command::new(&program.path);
    for (name, value) in &program.env {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
        .env(IDENTITY_VARIABLE, &program.identity)
        .arg("keeper")
        .arg("--dir")
        .arg(dir.path())
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(err)
        .spawn()
        .map_err(|error| Failure::internal("start the keeper", error))
}

/// Waits until the keeper listens, or `ended`: how it did.
async fn until_listens(
    dir: &MachineDir,
    mut ended: impl FnMut() -> std::io::Result<Option<String>>,
) -> Result<Client> {
    let client = Client::new(dir);
    let listening = async {
        let mut pause = POLL_FIRST;
        loop {
            if client.status().await.is_ok() {
                return Ok(());
            }
            if let Ok(Some(status)) = ended() {
                return Err(ended_early(dir, &status));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(POLL);
        }
    };
    let done = tokio::time::timeout(LISTEN_TIMEOUT, listening).await.unwrap_or_else(|_| {
        Err(Failure::new(
            ErrorKind::Timeout,
            "the keeper does not listen; see keeper.log in the machine's directory",
        ))
    });
    done.map(|()| client)
}

/// True where a keeper of this machine lives.
#[must_use]
pub fn is_alive(dir: &MachineDir) -> bool {
    Lock::is_held(dir)
}

/// Throws away the memory that a machine sleeps with here, and has it boot when it next wakes: it goes on from no
/// memory of the store either.
///
/// # Errors
/// `Conflict` where a keeper lives; `Internal` where the disk refuses.
pub fn forget_memory(dir: &MachineDir) -> Result<()> {
    // Held, so that no keeper begins meanwhile.
    let _lock = Lock::take(dir)?;
    warm::end(dir)?;
    // There may be memory in the store, too.
    upper::file::replace(&dir.cold(), b"")
        .map_err(|error| Failure::internal("note that the machine is to boot", error))?;
    SleepRecord::remove(dir)
        .map_err(|error| Failure::internal("take the sleep record away", error))?;
    for file in [dir.devices(), dir.memory()] {
        std::fs::remove_file(file).ok();
    }
    Ok(())
}

/// Returns once no keeper of this machine lives.
pub async fn ended(dir: &MachineDir) {
    while is_alive(dir) {
        match Watch::of(dir) {
            // It cannot fail but for want of memory; then the lock is asked again, a little later.
            Some(holder) if holder.over().await.is_ok() => (),
            _ => tokio::time::sleep(POLL).await,
        }
    }
}

/// Ends a keeper, and with it its guest, without storing anything. What was acknowledged is on this
/// host's disk.
///
/// # Errors
/// `Timeout` where it does not end.
pub async fn kill(dir: &MachineDir) -> Result<()> {
    let gone = async {
        while is_alive(dir) {
            // One that has only just begun writes its number down soon: look again.
            if let Some(pid) = Lock::holder(dir) {
                nix::sys::signal::kill(pid, Signal::SIGKILL).ok();
            }
            tokio::time::sleep(POLL).await;
        }
    };
    tokio::time::timeout(KILL_TIMEOUT, gone).await.map_err(|_| {
        Failure::new(ErrorKind::Timeout, "the machine's keeper does not end; look for it with ps")
    })
}

/// Begins the log of a keeper that runs anew where it has become too long: whatever a guest can bring it to say again and
/// again fills no disk.
pub(crate) fn bound_log(dir: &MachineDir) {
    let Ok(log) = OpenOptions::new().write(true).open(dir.log()) else { return };
    if log.metadata().is_ok_and(|meta| meta.len() > LOG_BYTES_MAX) && log.set_len(0).is_ok() {
        // Everybody appends to it.
        tracing::warn!(bytes = LOG_BYTES_MAX, "this log was longer, and begins anew");
    }
}

fn log_file(dir: &MachineDir) -> std::io::Result<File> {
    let long = std::fs::metadata(dir.log()).is_ok_and(|meta| meta.len() > LOG_BYTES_MAX);
    if long {
        std::fs::remove_file(dir.log())?;
    }
    OpenOptions::new().create(true).append(true).mode(0o600).open(dir.log())
}

fn ended_early(dir: &MachineDir, status: &str) -> Failure {
    match LastWords::read(dir).and_then(|words| words.error) {
        Some((kind, message)) => Failure::new(kind, message),
        None => Failure::new(
            ErrorKind::Internal,
            format!(
                "the keeper ended at once ({status}); see keeper.log in the machine's directory"
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_log_that_has_become_too_long_begins_anew_for_whoever_writes_it() {
        let dir = tempfile::tempdir().unwrap();
        let dir = MachineDir::new(dir.path());
        let mut log = log_file(&dir).unwrap();
        log.write_all(b"short").unwrap();
        bound_log(&dir);
        assert_eq!(std::fs::read(dir.log()).unwrap(), b"short");
        log.set_len(LOG_BYTES_MAX + 1).unwrap();
        bound_log(&dir);
        log.write_all(b"again").unwrap();
        assert_eq!(std::fs::read(dir.log()).unwrap(), b"again");
    }
}
