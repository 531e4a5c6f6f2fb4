//! The cgroup of everything that runs for the user, and how all of it is held still.
//!
//! # Invariants
//! - Every process that the agent starts is made in the cgroup (see `exec::fork`), so there is no
//!   moment in which it, or a child of it, is outside. The agent and the kernel's threads are
//!   never in it.
//! - Frozen means that no process in it runs a single instruction, whatever it is told; only KILL
//!   still ends one. A process that waits for a file of the home stops once its request is
//!   answered: the relay must go on meanwhile.
//! - The files are opened at boot: what is mounted over `/sys/fs/cgroup` later does not matter.
//!
//! # Trust
//! Root in the guest can move a process out of the cgroup (a container engine does, without meaning
//! harm), thaw it, or remove it while it is empty, after which no command starts until the next
//! boot. Whoever is outside goes on until the machine is stopped, may see the old time for a moment
//! after it goes on, and finds its requests to the home kept by the relay's gate. It hurts its own
//! machine and nobody else's.
//!
//! # Failure
//! A kernel without cgroup v2 or its freezer: processes run in no cgroup, and freezing fails.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;

use nix::errno::Errno;

use crate::Error;
use crate::limits::{FREEZE_POLL_INTERVAL, UNSTOPPED_NAMED_MAX};

/// The cgroup. Its parent is mounted at boot ([`crate::boot::root`]).
const CGROUP: &str = "/sys/fs/cgroup/machine";

/// See the module.
#[derive(Debug)]
pub(crate) struct Freezer {
    dir: File,
    /// `cgroup.freeze`: 1 to freeze, 0 to thaw.
    freeze: File,
    /// `cgroup.events`: whether it has come to that.
    events: File,
    /// `cgroup.procs`: who is in it.
    processes: File,
}

impl Freezer {
    /// Makes the cgroup.
    ///
    /// # Errors
    /// Where the kernel has no cgroup v2, or one without a freezer.
    pub(crate) fn make() -> Result<Self, Error> {
        Self::at(Path::new(CGROUP))
    }

    fn at(path: &Path) -> Result<Self, Error> {
        match fs::create_dir(path) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(Error::io(format!("make {}", path.display()))(error));
            }
            _ => {}
        }
        let open = |name: &str, options: &OpenOptions| {
            let path = path.join(name);
            options.open(&path).map_err(Error::io(format!("open {}", path.display())))
        };
        let (read, write) =
            (OpenOptions::new().read(true).clone(), OpenOptions::new().write(true).clone());
        Ok(Self {
            dir: open("", &read)?,
            freeze: open("cgroup.freeze", &write)?,
            events: open("cgroup.events", &read)?,
            processes: open("cgroup.procs", &read)?,
        })
    }

    /// Where to start processes.
    pub(crate) fn cgroup(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// Freezes, and returns once nothing runs any more. The caller bounds the time, and thaws where
    /// it gives up.
    pub(crate) async fn freeze(&self) -> Result<(), Error> {
        self.set(b"1")?;
        while !self.is_frozen()? {
            tokio::time::sleep(FREEZE_POLL_INTERVAL).await;
        }
        Ok(())
    }

    /// Lets everything run again.
    pub(crate) fn thaw(&self) -> Result<(), Error> {
        self.set(b"0")
    }

    fn set(&self, value: &[u8]) -> Result<(), Error> {
        (&self.freeze).write_all(value).map_err(Error::io("freeze or thaw the processes"))
    }

    fn is_frozen(&self) -> Result<bool, Error> {
        let events = read(&self.events).map_err(Error::io("read cgroup.events"))?;
        value(&events, "frozen").ok_or_else(|| Error::Sys {
            doing: "find the freezer of cgroup v2".to_owned(),
            errno: Errno::EOPNOTSUPP,
        })
    }

    /// The processes that wait in the kernel for something, in words: after [`freeze`](Self::freeze)
    /// they are what has not stopped.
    pub(crate) fn waiting(&self) -> String {
        let processes = read(&self.processes).unwrap_or_default();
        let stat = |pid: &str| fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let waiting: Vec<_> =
            processes.lines().map(stat).filter_map(|stat| in_kernel(&stat)).collect();
        let named =
            waiting.iter().take(UNSTOPPED_NAMED_MAX).cloned().collect::<Vec<_>>().join(", ");
        match waiting.len() {
            0 => "no process that waits in the kernel".to_owned(),
            many if many > UNSTOPPED_NAMED_MAX => {
                format!("{many} processes that wait in the kernel ({named}, …)")
            }
            _ => format!("processes that wait in the kernel ({named})"),
        }
    }
}

/// The whole file, from its beginning: the kernel writes it anew for each reader.
fn read(file: &File) -> std::io::Result<String> {
    let mut text = Vec::new();
    let mut piece = [0; 4096];
    loop {
        match file.read_at(&mut piece, text.len() as u64)? {
            0 => return Ok(String::from_utf8_lossy(&text).into_owned()),
            read => text.extend_from_slice(&piece[..read]),
        }
    }
}

/// The 0 or 1 behind `key` in lines of key and value.
fn value(text: &str, key: &str) -> Option<bool> {
    text.lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(' '))
        .map(|value| value == "1")
}

/// Number and name from `/proc/PID/stat`, of a process that waits uninterruptibly.
fn in_kernel(stat: &str) -> Option<String> {
    let (process, rest) = stat.rsplit_once(") ")?;
    rest.starts_with('D').then(|| process.replacen(" (", " ", 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_by_name() {
        assert_eq!(value("populated 1\nfrozen 0\n", "frozen"), Some(false));
        assert_eq!(value("populated 0\nfrozen 1\n", "frozen"), Some(true));
        assert_eq!(value("populated 1\n", "frozen"), None, "a kernel before 5.2");
        assert_eq!(value("frozen_more 1\n", "frozen"), None);
    }

    #[test]
    fn processes_that_wait_in_the_kernel_are_named() {
        assert_eq!(in_kernel("12 (a ) b) D 1 12 12").as_deref(), Some("12 a ) b"));
        assert_eq!(in_kernel("12 (sh) S 1 12 12"), None);
        assert_eq!(in_kernel(""), None, "it has ended meanwhile");
    }

    #[test]
    fn where_there_is_no_freezer_it_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let refused = Freezer::at(&dir.path().join("machine")).unwrap_err();
        assert!(refused.to_string().contains("cgroup.freeze"), "{refused}");
    }
}
