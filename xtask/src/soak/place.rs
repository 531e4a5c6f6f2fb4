//! Where the tests put their servers, and nothing left of it, nor of their machines: also after Ctrl-C.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::{interrupt, keepers};

/// A directory for temporary files, and the tests that run in it.
pub(super) struct Place {
    held: Arc<Mutex<Held>>,
    path: PathBuf,
}

/// What has to be cleaned up.
struct Held {
    root: Option<TempDir>,
    /// The process group of the tests and of the servers that they started.
    tests: Option<Pid>,
}

impl Place {
    /// Makes it, and watches for Ctrl-C from now on.
    pub(super) fn prepare() -> anyhow::Result<Self> {
        // Short, as sockets have paths below it.
        let root =
            tempfile::Builder::new().prefix("soak-").tempdir().context("make a directory")?;
        let path = root.path().to_owned();
        let held = Arc::new(Mutex::new(Held { root: Some(root), tests: None }));
        interrupt::watch(held.clone(), Held::clean_up)?;
        Ok(Self { held, path })
    }

    /// Starts tests here.
    pub(super) fn start(&self, command: &mut Command) -> anyhow::Result<Child> {
        let mut held = lock(&self.held);
        // Ctrl-C is for us: a test that it ends leaves its machines running.
        let child = command.env("TMPDIR", &self.path).process_group(0).spawn();
        let child = child.context("start a test")?;
        held.tests = i32::try_from(child.id()).ok().map(Pid::from_raw);
        Ok(child)
    }

    /// Waits for the end of tests. Does not return once Ctrl-C has been pressed.
    pub(super) fn wait(&self, child: &mut Child) -> anyhow::Result<ExitStatus> {
        let status = child.wait().context("wait for a test")?;
        lock(&self.held).tests = None;
        Ok(status)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.held).clean_up();
    }
}

impl Held {
    fn clean_up(&mut self) {
        if let Some(group) = self.tests.take() {
            killpg(group, Signal::SIGKILL).ok();
        }
        let Some(root) = self.root.take() else { return };
        for data in data_directories(root.path()) {
            keepers::end_all(&data);
        }
        let path = root.path().to_owned();
        if let Err(error) = root.close() {
            eprintln!("remove {}: {error}", path.display());
        }
    }
}

/// Where servers may keep their data: in a directory of a test's, or below it.
fn data_directories(root: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    entries.flat_map(|entry| [entry.path(), entry.path().join("data")]).collect()
}

fn lock(held: &Mutex<Held>) -> MutexGuard<'_, Held> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}
