//! The process that serves a disk, and the one that uses it.
//!
//! They are two, because a process must not serve the mount that its own memory is mapped from: a page fault
//! there waits for an answer, and holds what the thread that answers needs to allocate memory. Also, a
//! process that is killed leaves no mount behind that anything waits for.
//!
//! # Protocol
//! A line a command on standard input, a line an answer on standard output; `error …` where it failed. The
//! end of the input ends the process and its mounts.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;

use parking_lot::Mutex;

use super::mounted::Mounted;
use super::{Disk, Loss, Names};
use crate::chance::Chance;

/// A disk in a process of its own, mounted on this host.
#[derive(Debug)]
pub(super) struct Platter {
    child: Child,
    pipes: Mutex<(ChildStdin, BufReader<ChildStdout>)>,
    root: PathBuf,
}

impl Platter {
    /// Starts the process, with an empty disk.
    pub(super) fn start(program: &Path, names: Names, lies: bool) -> Result<Self, String> {
        let mut command = Command::new(program);
        command.arg("disk").stdin(Stdio::piped()).stdout(Stdio::piped());
        if names == Names::Strict {
            command.arg("--strict");
        }
        if lies {
            command.arg("--lies");
        }
        let mut child =
            command.spawn().map_err(|error| format!("start {}: {error}", program.display()))?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("the disk has no pipes".to_owned());
        };
        let pipes = Mutex::new((input, BufReader::new(output)));
        let mut platter = Self { child, pipes, root: PathBuf::new() };
        platter.root = platter.ask("empty")?.into();
        Ok(platter)
    }

    fn ask(&self, line: &str) -> Result<String, String> {
        let (input, output) = &mut *self.pipes.lock();
        let mut answer = String::new();
        writeln!(input, "{line}")
            .and_then(|()| input.flush())
            .and_then(|()| output.read_line(&mut answer))
            .map_err(|error| format!("the disk's process: {error}"))?;
        let answer = answer.trim_end();
        match answer.strip_prefix("error ") {
            Some(what) => Err(what.to_owned()),
            None if answer.is_empty() => Err("the disk's process is gone".to_owned()),
            None => Ok(answer.to_owned()),
        }
    }

    /// A path on the disk.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Power goes at the `nth` change or `fsync` from here.
    pub(super) fn cut_at(&self, nth: u64) -> Result<(), String> {
        self.ask(&format!("cut_at {nth}")).map(drop)
    }

    /// True once power is gone, or the disk with it.
    pub(super) fn is_cut(&self) -> bool {
        self.ask("is_cut").is_ok_and(|answer| answer == "true")
    }

    /// Changes and syncs so far.
    pub(super) fn count(&self) -> u64 {
        self.ask("count").ok().and_then(|answer| answer.parse().ok()).unwrap_or(0)
    }

    /// The loss, and the disk as it is found after it.
    pub(super) fn lose(&mut self, loss: Loss, seed: u64) -> Result<(), String> {
        let loss = if loss == Loss::Power { "power" } else { "process" };
        self.root = self.ask(&format!("{loss} {seed}"))?.into();
        Ok(())
    }

    /// Another disk, an empty one.
    pub(super) fn replace(&mut self) -> Result<(), String> {
        self.root = self.ask("empty")?.into();
        Ok(())
    }

    /// Where a copy of it is mounted, until the next.
    pub(super) fn copy(&self) -> Result<PathBuf, String> {
        self.ask("copy").map(PathBuf::from)
    }
}

impl Drop for Platter {
    fn drop(&mut self) {
        self.ask("end").ok();
        self.child.wait().ok();
    }
}

/// Serves a disk until the input ends. What a process started by [`Platter`] does.
///
/// # Errors
/// Those of the pipes.
#[allow(clippy::print_stdout, reason = "the protocol")]
pub fn serve(names: Names, lies: bool) -> std::io::Result<()> {
    let mut mounted: Option<(Arc<Disk>, Mounted)> = None;
    let mut copy: Option<Mounted> = None;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let (verb, number) = line.split_once(' ').unwrap_or((&line, "0"));
        let number = number.parse().unwrap_or(0);
        let answer = match (verb, &mounted) {
            ("end", _) => break,
            ("empty", _) => renew(&mut mounted, Disk::new(names, lies)),
            ("power" | "process", Some((disk, _))) => {
                let loss = if verb == "power" { Loss::Power } else { Loss::Process };
                match disk.after(loss, &mut Chance::new(number)) {
                    Ok(found) => renew(&mut mounted, found),
                    Err(error) => Err(error.to_string()),
                }
            }
            ("copy", Some((disk, _))) => {
                let made = disk.after(Loss::Process, &mut Chance::new(0));
                let made = made.map_err(|error| error.to_string());
                made.and_then(|disk| Mounted::new(&Arc::new(disk)).map_err(|e| e.to_string())).map(
                    |made| {
                        let path = made.path("").display().to_string();
                        copy = Some(made);
                        path
                    },
                )
            }
            ("cut_at", Some((disk, _))) => {
                disk.cut_at(number);
                Ok("ok".to_owned())
            }
            ("is_cut", Some((disk, _))) => Ok(disk.is_cut().to_string()),
            ("count", Some((disk, _))) => Ok(disk.count().to_string()),
            _ => Err(format!("what is {line:?}?")),
        };
        match answer {
            Ok(answer) => println!("{answer}"),
            Err(what) => println!("error {what}"),
        }
    }
    drop(copy);
    Ok(())
}

/// Takes the old mount away first.
fn renew(mounted: &mut Option<(Arc<Disk>, Mounted)>, disk: Disk) -> Result<String, String> {
    drop(mounted.take());
    let disk = Arc::new(disk);
    let made = Mounted::new(&disk).map_err(|error| error.to_string())?;
    let path = made.path("").display().to_string();
    *mounted = Some((disk, made));
    Ok(path)
}
