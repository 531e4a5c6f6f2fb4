//! Mounts of homes on this host.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::server::{program, signal};

/// A data directory with a mount point beside it.
pub(crate) struct Place {
    pub(crate) root: tempfile::TempDir,
}

/// A mount process. Dropping it kills it and takes the mount away.
pub(crate) struct Mounting {
    child: Child,
    target: PathBuf,
    /// The home's id.
    pub(crate) home: String,
}

impl Place {
    /// `None`, with a word about it, where this host cannot mount.
    pub(crate) fn new() -> Option<Self> {
        if !nix::unistd::geteuid().is_root() || !Path::new("/dev/fuse").exists() {
            // `cargo xtask test` says where nothing may be skipped: there it is a failure.
            assert!(std::env::var_os("DORMOUSE_TESTS_MUST_RUN").is_none(), "cannot mount here");
            eprintln!("skipped: a mount needs root and /dev/fuse");
            return None;
        }
        let root = tempfile::tempdir().unwrap();
        for name in ["mount", "other"] {
            fs::create_dir(root.path().join(name)).unwrap();
        }
        Some(Self { root })
    }

    /// Where it is mounted.
    pub(crate) fn target(&self) -> PathBuf {
        self.root.path().join("mount")
    }

    fn command(&self, args: &[&str], target: &Path) -> Command {
        let mut command = Command::new(program());
        command
            .arg("mount")
            .args(args)
            .arg(target)
            .arg("--data")
            .arg(self.root.path().join("data"));
        command.env("XDG_CONFIG_HOME", self.root.path().join("no-config"));
        command.env_remove("DORMOUSE_CONFIG").env_remove("DORMOUSE_STORE");
        command.stdin(Stdio::null());
        command
    }

    /// Mounts and waits until it is there.
    pub(crate) fn mount(&self, args: &[&str]) -> Mounting {
        let target = self.target();
        let mut child = self.command(args, &target).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let home = line.strip_prefix("dormouse mounted ").and_then(|rest| rest.split(' ').next());
        let home = home.unwrap_or_else(|| panic!("unexpected first line {line:?}")).to_owned();
        Mounting { child, target, home }
    }

    /// A mount that is expected to be refused: exit code and what it said.
    pub(crate) fn refused(&self, args: &[&str], target: &Path) -> (Option<i32>, String) {
        let output = self.command(args, target).output().unwrap();
        assert!(output.stdout.is_empty(), "it is not there");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

impl Mounting {
    /// The number of its process.
    pub(crate) fn process(&self) -> u32 {
        self.child.id()
    }

    /// Ends it as a person does, and waits.
    pub(crate) fn end(mut self) -> Option<i32> {
        signal(self.child.id(), Signal::SIGTERM);
        self.ended()
    }

    /// Waits until it has ended by itself.
    pub(crate) fn ended(&mut self) -> Option<i32> {
        let start = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            assert!(start.elapsed() < Duration::from_secs(300), "it does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
        self.child.wait().unwrap().code()
    }

    /// Kills it without a word.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        // What a killed process leaves is what the test is about.
        self.target = PathBuf::new();
    }
}

impl Drop for Mounting {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        if !self.target.as_os_str().is_empty() {
            nix::mount::umount2(&self.target, nix::mount::MntFlags::MNT_DETACH).ok();
        }
    }
}
