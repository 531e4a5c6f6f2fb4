//! Places where the work is done: a folder of the disk, our mount, and what else can be mounted here.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::store::Store;
use crate::paths;

/// Longest wait for a mount to appear.
const START: Duration = Duration::from_secs(60);
/// Longest wait for a mount to end: it uploads what it has.
const STOP: Duration = Duration::from_secs(300);

/// A mounted file system and the process that serves it.
pub(super) struct Mount {
    process: Option<Child>,
    dir: PathBuf,
}

/// A home as `dormouse mount` is told of it.
#[derive(Debug, Clone)]
pub(super) struct Home {
    pub(super) id: String,
    pub(super) store: String,
    pub(super) local: PathBuf,
    /// Who we are: one server for all homes.
    data: PathBuf,
}

impl Home {
    /// A home that does not exist yet.
    pub(super) fn new(store: &Store, root: &Path, name: &str) -> anyhow::Result<Self> {
        let id = format!("home-{}", uuid(name));
        let (local, data) = (root.join(format!("local-{name}")), root.join("data"));
        Ok(Self { id, store: store.url(name)?, local, data })
    }

    /// Mounts it for writing; makes it where it is not there.
    pub(super) fn mount(&self, store: &Store, dir: &Path) -> anyhow::Result<Mount> {
        let mut command = self.command(store, dir);
        command.args(["--new", "--storage-gib", "64"]);
        Mount::start(command, dir)
    }

    /// Mounts its published state.
    pub(super) fn mount_published(&self, store: &Store, dir: &Path) -> anyhow::Result<Mount> {
        Mount::start(self.command(store, dir), dir)
    }

    fn command(&self, store: &Store, dir: &Path) -> Command {
        let mut command = Command::new(paths::dormouse());
        command
            .arg("mount")
            .args([&self.id, "--store", &self.store, "--local-dir"])
            .arg(&self.local)
            .arg("--data")
            .arg(&self.data)
            .arg(dir)
            .envs(store.variables().iter().cloned());
        command
    }
}

/// A name made into something of the form of a UUID, version 7.
fn uuid(name: &str) -> String {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in name.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    let (high, low) = (hash >> 16, hash & 0xffff_ffff_ffff);
    format!(
        "0199{:04x}-{:04x}-7{:03x}-8{:03x}-{low:012x}",
        high & 0xffff,
        (high >> 16) & 0xffff,
        low & 0xfff,
        high & 0xfff
    )
}

impl Mount {
    /// A server of our FUSE layer that holds nothing: what the protocol alone costs.
    pub(super) fn null(dir: &Path) -> anyhow::Result<Self> {
        let mut command = Command::new(paths::dormouse());
        command.args(["mount", "--null", "--data"]).arg(dir.with_extension("data")).arg(dir);
        Self::start(command, dir)
    }

    /// `rclone mount` with its full write cache.
    pub(super) fn rclone(store: &Store, root: &Path, dir: &Path) -> anyhow::Result<Self> {
        let remote = format!(
            ":s3,provider=Other,env_auth=true,endpoint=\"{}\":dormouse/rclone",
            store.variable("AWS_ENDPOINT_URL")?
        );
        let mut command = Command::new("rclone");
        command
            .args(["mount", &remote])
            .arg(dir)
            .args(["--vfs-cache-mode", "full", "--allow-other", "--config", "/dev/null"])
            .arg("--cache-dir")
            .arg(root.join("rclone-cache"))
            .envs(store.variables().iter().cloned())
            // It takes no other transport then.
            .env_remove("AWS_CA_BUNDLE");
        Self::start(command, dir)
    }

    /// `s3fs` with its usual settings.
    pub(super) fn s3fs(store: &Store, root: &Path, dir: &Path) -> anyhow::Result<Self> {
        let passwd = root.join("s3fs-passwd");
        let (id, secret) =
            (store.variable("AWS_ACCESS_KEY_ID")?, store.variable("AWS_SECRET_ACCESS_KEY")?);
        fs::write(&passwd, format!("{id}:{secret}\n")).context("write the password of s3fs")?;
        fs::set_permissions(&passwd, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        let mut command = Command::new("s3fs");
        command
            .arg("dormouse")
            .arg(dir)
            .args(["-f", "-o", "use_path_request_style", "-o"])
            .arg(format!("url={}", store.variable("AWS_ENDPOINT_URL")?))
            .arg("-o")
            .arg(format!("passwd_file={}", passwd.display()))
            .arg("-o")
            .arg(format!("use_cache={}", root.join("s3fs-cache").display()));
        Self::start(command, dir)
    }

    fn start(mut command: Command, dir: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
        let log = dir.with_extension("log");
        let program = command.get_program().to_string_lossy().into_owned();
        let mut process = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(&log).context("make a log")?)
            .spawn()
            .with_context(|| {
                format!("start {program}; Debian's package of the same name has it")
            })?;
        drain(process.stdout.take());
        let mut mount = Self { process: Some(process), dir: dir.to_owned() };
        let started = Instant::now();
        while !is_mounted(dir)? {
            let process = mount.process.as_mut().context("it was just started")?;
            if let Some(status) = process.try_wait()? {
                let said = fs::read_to_string(&log).unwrap_or_default();
                bail!("{program}: {status}: {}", said.lines().last().unwrap_or("nothing said"));
            }
            ensure!(started.elapsed() < START, "{program} does not mount {}", dir.display());
            thread::sleep(Duration::from_millis(2));
        }
        Ok(mount)
    }

    /// Where it is.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Ends it in order: whatever it still has to upload is uploaded.
    pub(super) fn stop(mut self) -> anyhow::Result<()> {
        self.signal(Signal::SIGTERM)?;
        let mut process = self.process.take().context("it runs")?;
        let started = Instant::now();
        while process.try_wait()?.is_none() {
            if started.elapsed() > STOP {
                self.process = Some(process);
                bail!("it does not end within {STOP:?}");
            }
            thread::sleep(Duration::from_millis(5));
        }
        unmount(&self.dir);
        Ok(())
    }

    /// Ends it at once, as a crash would.
    pub(super) fn kill(mut self) -> anyhow::Result<()> {
        self.signal(Signal::SIGKILL)?;
        if let Some(mut process) = self.process.take() {
            process.wait()?;
        }
        unmount(&self.dir);
        Ok(())
    }

    /// Resident memory of its process, in bytes.
    pub(super) fn memory(&self) -> anyhow::Result<u64> {
        let pid = self.process.as_ref().context("it runs")?.id();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).context("look at it")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next()).context("its VmRSS")?;
        Ok(kib.parse::<u64>()? * 1024)
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = self.process.as_ref().context("it runs")?.id();
        Ok(kill(Pid::from_raw(i32::try_from(pid)?), signal)?)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            // After a failure; what it has is of no interest any more.
            drop(process.kill());
            drop(process.wait());
            unmount(&self.dir);
        }
    }
}

fn unmount(dir: &Path) {
    // Mostly it is gone already.
    umount2(dir, MntFlags::MNT_DETACH).ok();
}

/// Whether something is mounted at exactly `dir`.
fn is_mounted(dir: &Path) -> anyhow::Result<bool> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("look at the mounts")?;
    let dir = dir.to_string_lossy();
    Ok(mounts.lines().any(|line| line.split(' ').nth(1) == Some(&*dir)))
}

/// Reads what nobody needs, so that it does not block.
fn drain(stdout: Option<std::process::ChildStdout>) {
    thread::spawn(move || {
        let lines = BufReader::new(stdout?).lines();
        lines.map_while(Result::ok).for_each(drop);
        Some(())
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_make_ids_of_their_own() {
        let (one, two) = (uuid("one"), uuid("two"));
        assert_ne!(one, two);
        assert_eq!(one.split('-').map(str::len).collect::<Vec<_>>(), [8, 4, 4, 4, 12]);
        assert!(one.chars().nth(14) == Some('7') && one.chars().nth(19) == Some('8'));
    }

    #[test]
    fn the_root_is_mounted_and_a_folder_is_not() {
        assert!(is_mounted(Path::new("/proc")).unwrap());
        assert!(!is_mounted(tempfile::tempdir().unwrap().path()).unwrap());
    }
}
