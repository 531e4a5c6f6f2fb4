//! kill -9 of `dormouse mount --read-write`: a cycle takes a fraction of a second, and no guest.
//!
//! # A cycle
//! The home is mounted. Threads create, write, rename, unlink and fsync files, each below a directory of its
//! own, and note what was answered. At a moment that chance decides the mount gets SIGKILL: in the midst of
//! that, or while it gives the home up after SIGTERM. Now and then its whole data directory goes too, and the
//! next mount is another server's, which takes the home over. Some mounts are killed while they open.
//!
//! # Compared
//! `files`: after a kill everything that was answered; on another host what `fsync` answered.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::files::{Files, Op};
use super::{Options, Summary};
use crate::chance::Chance;

const THREADS: usize = 2;

/// Where it all is. Dropping it ends the mount and removes everything.
struct Place {
    program: PathBuf,
    dir: tempfile::TempDir,
    /// Data directories so far; a lost one is followed by another server's.
    servers: u64,
    home: Option<String>,
    child: Option<Child>,
}

/// Runs the cycles; `progress` is told after each.
///
/// # Errors
/// The first loss, or what kept a cycle from being done.
pub fn run_mounted(options: &Options, progress: &dyn Fn(&Summary)) -> anyhow::Result<Summary> {
    let mut chance = Chance::new(options.seed);
    let mut summary = Summary::default();
    let dir = tempfile::tempdir().context("make a directory")?;
    std::fs::create_dir(dir.path().join("mount")).context("make a directory to mount on")?;
    let program = options.program.clone();
    let mut place = Place { program, dir, servers: 0, home: None, child: None };
    let mut threads: Vec<Files> = (0..THREADS).map(|_| Files::default()).collect();
    place.mount()?;
    for cycle in 0..options.cycles {
        one(&mut place, &mut chance, &mut threads, &mut summary)
            .with_context(|| format!("cycle {cycle} of seed {}", options.seed))?;
        progress(&summary);
    }
    Ok(summary)
}

fn one(
    place: &mut Place,
    chance: &mut Chance,
    threads: &mut [Files],
    summary: &mut Summary,
) -> anyhow::Result<()> {
    let work = Duration::from_millis(30 + chance.below(250));
    let in_release = chance.percent(20);
    let seeds: Vec<u64> = threads.iter().map(|_| chance.any()).collect();
    let top = place.target();
    std::thread::scope(|scope| {
        let running: Vec<_> = threads
            .iter_mut()
            .zip(seeds)
            .enumerate()
            .map(|(n, (files, seed))| {
                let dir = top.join(format!("t{n}"));
                scope.spawn(move || labour(&dir, files, seed))
            })
            .collect();
        std::thread::sleep(work);
        if in_release {
            place.signal(Signal::SIGTERM);
            std::thread::sleep(Duration::from_millis(chance.below(120)));
            summary.killed_in_release += 1;
        }
        let killed = place.kill();
        for thread in running {
            let (acknowledged, stored) =
                thread.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?;
            summary.acknowledged += acknowledged;
            summary.stored += stored;
        }
        killed
    })?;
    let lost = chance.percent(30);
    if lost {
        std::fs::remove_dir_all(place.data()).context("lose the disk")?;
        place.servers += 1;
        summary.disks_lost += 1;
    }
    if chance.percent(25) {
        place.begin()?;
        std::thread::sleep(Duration::from_millis(chance.below(80)));
        place.kill()?;
        summary.killed_twice += 1;
    }
    place.mount()?;
    for (n, files) in threads.iter_mut().enumerate() {
        summary.compared += files.verify(&top.join(format!("t{n}")), lost)?;
    }
    summary.cycles += 1;
    Ok(())
}

/// One thread's calls until the mount is gone: how many were answered, and how many of them were fsyncs.
fn labour(dir: &Path, files: &mut Files, seed: u64) -> (u64, u64) {
    let mut chance = Chance::new(seed);
    let (mut acknowledged, mut stored) = (0, 0);
    if std::fs::create_dir_all(dir).is_err() {
        return (0, 0);
    }
    loop {
        let op = files.choose(&mut chance);
        files.begin(&op);
        if perform(dir, &op).is_err() {
            return (acknowledged, stored);
        }
        stored += u64::from(matches!(op, Op::Fsync(_)));
        acknowledged += 1;
        files.done(&op);
    }
}

fn perform(dir: &Path, op: &Op) -> std::io::Result<()> {
    let at = |name: &str| dir.join(name);
    match op {
        Op::Create(name, data) => {
            use std::io::Write;
            std::fs::File::create_new(at(name))?.write_all(data)
        }
        Op::Write(name, offset, data) => {
            std::fs::File::options().write(true).open(at(name))?.write_all_at(data, *offset)
        }
        Op::Rename(from, to) => std::fs::rename(at(from), at(to)),
        Op::Unlink(name) => std::fs::remove_file(at(name)),
        Op::Fsync(name) => std::fs::File::open(at(name))?.sync_all(),
    }
}

impl Place {
    fn target(&self) -> PathBuf {
        self.dir.path().join("mount")
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join(format!("data-{}", self.servers))
    }

    /// Starts a mount, which may not be there yet.
    fn begin(&mut self) -> anyhow::Result<()> {
        let log = self.dir.path().join("log");
        let log = std::fs::File::create(log).context("make the log")?;
        let mut command = Command::new(&self.program);
        command.arg("mount");
        match &self.home {
            Some(home) => command.arg(home).args(["--read-write", "--take-over"]),
            None => command.arg("--new"),
        };
        let child = command
            .arg(self.target())
            .arg("--data")
            .arg(self.data())
            .arg("--store")
            .arg(format!("file://{}", self.dir.path().join("store").display()))
            .env_remove("DORMOUSE_CONFIG")
            .env_remove("DORMOUSE_STORE")
            .env("XDG_CONFIG_HOME", self.dir.path().join("no-config"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .with_context(|| format!("start {}", self.program.display()))?;
        self.child = Some(child);
        Ok(())
    }

    /// Mounts, and waits until it is there.
    fn mount(&mut self) -> anyhow::Result<()> {
        self.begin()?;
        let out = self.child.as_mut().and_then(|child| child.stdout.take());
        let mut line = String::new();
        BufReader::new(out.context("the mount's output")?).read_line(&mut line)?;
        let Some(rest) = line.strip_prefix("dormouse mounted ") else {
            let log = std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            bail!("it does not mount: {line}{log}");
        };
        self.home = rest.split(' ').next().map(str::to_owned);
        ensure!(self.home.is_some(), "the mount does not say which home it is");
        Ok(())
    }

    fn signal(&self, signal: Signal) {
        let pid = self.child.as_ref().and_then(|child| i32::try_from(child.id()).ok());
        if let Some(pid) = pid {
            // It may have ended by itself.
            kill(Pid::from_raw(pid), signal).ok();
        }
    }

    /// SIGKILL.
    fn kill(&mut self) -> anyhow::Result<()> {
        self.signal(Signal::SIGKILL);
        match self.child.take() {
            Some(mut child) => child.wait().map(drop).context("wait for the mount's end"),
            None => Ok(()),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.kill().ok();
        umount2(&self.target(), MntFlags::MNT_DETACH).ok();
    }
}
