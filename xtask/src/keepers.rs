//! Keepers of machines: found, and ended. They outlive whoever started them, and their guests end with them.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Longest wait for a process that was told to end.
pub(crate) const STOP: Duration = Duration::from_secs(10);

/// The machines of a server with this data directory, each a directory.
pub(crate) fn machines(data: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(data.join("machines"));
    entries.into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// The living keeper that says in its lock that it owns the machine in `dir`.
pub(crate) fn keeper(dir: &Path) -> Option<i32> {
    let pid: i32 = fs::read_to_string(dir.join("keeper.lock")).ok()?.trim().parse().ok()?;
    let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    // A number may be another process by now.
    line.split(|byte| *byte == 0).any(|word| word == b"keeper").then_some(pid)
}

/// Kills the keepers of all machines of a data directory, and waits for their ends.
pub(crate) fn end_all(data: &Path) {
    for dir in machines(data) {
        let Some(pid) = keeper(&dir) else { continue };
        if let Err(error) = kill(Pid::from_raw(pid), Signal::SIGKILL) {
            eprintln!("kill keeper {pid}: {error}");
        }
        if !wait_until(|| keeper(&dir).is_none()) {
            eprintln!("keeper {pid} does not end");
        }
    }
}

/// Waits for something that takes moments; false where it takes longer than [`STOP`].
pub(crate) fn wait_until(mut done: impl FnMut() -> bool) -> bool {
    let started = Instant::now();
    while !done() {
        if started.elapsed() > STOP {
            return false;
        }
        thread::sleep(Duration::from_millis(20));
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_living_keeper_counts() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(keeper(dir.path()), None);
        // This test is a process, but not a keeper.
        fs::write(dir.path().join("keeper.lock"), std::process::id().to_string()).unwrap();
        assert_eq!(keeper(dir.path()), None);
    }
}
