//! The lock that says that a keeper lives.
//!
//! A lock on the open file, not a process id in it, is asked: numbers come back. Asking does not
//! take the lock, so it never stands in a keeper's way.
//!
//! # Crash
//! The kernel gives the lock up with the process, whatever ends it. A process may give it up before.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use base::ErrorKind;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::unix::pipe;

use crate::layout::MachineDir;
use crate::{Failure, Result};

/// Longest process id that is believed, and longest command line that is compared, in bytes.
const READ_BYTES_MAX: u64 = 64 << 10;

/// How often it is looked again where an end could go unheard.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Held by a living keeper.
#[derive(Debug)]
pub(crate) struct Lock {
    file: File,
    /// Closed after the lock is given up, for who waits for that ([`Watch`]).
    life: Option<File>,
}

impl Lock {
    /// Takes the lock of the machine in `dir`, and writes this process's number into its file.
    ///
    /// # Errors
    /// `Conflict` where another keeper has it; `Internal` where the disk refuses.
    pub(crate) fn take(dir: &MachineDir) -> Result<Self> {
        // First: who sees the number below finds it.
        let life = open_life(&dir.life());
        match take_file(&dir.lock()) {
            Ok(Some(file)) => Ok(Self { file, life }),
            Ok(None) => {
                Err(Failure::new(ErrorKind::Conflict, "another keeper of this machine is running"))
            }
            Err(error) => Err(Failure::internal("lock keeper.lock", error)),
        }
    }

    /// Whether who waits for it hears of it where it is given up before its process ends.
    pub(crate) fn is_heard(&self) -> bool {
        self.life.is_some()
    }

    /// Keeps the lock until the process has ended: whoever waits for that may rely on nothing being
    /// written any more, also by calls that are still under way.
    pub(crate) fn keep_for_life(self) {
        std::mem::forget((self.file, self.life));
    }

    /// True where somebody holds the lock of `dir`.
    pub(crate) fn is_held(dir: &MachineDir) -> bool {
        is_file_held(&dir.lock())
    }

    /// The process that holds the lock of `dir`, where it has written its number down.
    ///
    /// A new holder's file has the number of an earlier one for a moment, and that number may be
    /// somebody else's by now: only a process that was started for this directory counts.
    pub(crate) fn holder(dir: &MachineDir) -> Option<nix::unistd::Pid> {
        let pid = number_in(&dir.lock())?;
        let command = read(Path::new(&format!("/proc/{pid}/cmdline")))?;
        let mut words = command.split(|byte| *byte == 0);
        (words.any(|word| is_same(Path::new(OsStr::from_bytes(word)), dir.path()))
            && Self::is_held(dir))
        .then(|| nix::unistd::Pid::from_raw(pid))
    }
}

/// Waits for a holder of a lock to give it up: with its process, or before that.
#[derive(Debug)]
pub(crate) struct Watch {
    process: AsyncFd<OwnedFd>,
    life: Option<pipe::Receiver>,
}

impl Watch {
    /// Of who holds the lock of `dir`; `None` where that is nobody, or somebody who has not written its number down yet.
    /// Waiting costs nothing, however long it lives.
    pub(crate) fn of(dir: &MachineDir) -> Option<Self> {
        // First: what is given up from here on is heard of, and what was given up before is seen below.
        let life = pipe::OpenOptions::new().open_receiver(dir.life()).ok();
        let pid = Lock::holder(dir)?;
        let process = pidfd_open(Pid::from_raw(pid.as_raw())?, PidfdFlags::NONBLOCK).ok()?;
        // Its number could have become another's just before; then that one is not the holder.
        if Lock::holder(dir) != Some(pid) {
            return None;
        }
        Some(Self { process: watched(process)?, life })
    }

    /// Returns once the lock is given up, as far as that can be told: it is to be asked then.
    pub(crate) async fn over(&self) -> std::io::Result<()> {
        let life = async {
            match &self.life {
                Some(life) => life.readable().await,
                // It may be made just now.
                None => {
                    tokio::time::sleep(LOOK_AGAIN).await;
                    Ok(())
                }
            }
        };
        tokio::select! {
            ended = self.process.readable() => ended.map(drop),
            given_up = life => given_up,
        }
    }
}

/// A pipe that is held open by who has the lock. Where there can be none, its end is heard of with its process.
fn open_life(path: &Path) -> Option<File> {
    let open = || {
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(libc::O_NONBLOCK).open(path)
    };
    let is_pipe = |file: &File| file.metadata().is_ok_and(|meta| meta.file_type().is_fifo());
    mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR).ok();
    open().ok().filter(is_pipe)
}

/// True where both name one directory: a data directory may be given by another name next time.
fn is_same(one: &Path, other: &Path) -> bool {
    one == other
        || one.canonicalize().ok().is_some_and(|one| other.canonicalize().ok() == Some(one))
}

/// Locks a file, which is made where there is none, and writes this process's number into it; `None` where
/// somebody has it locked.
pub(crate) fn take_file(path: &Path) -> std::io::Result<Option<File>> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(0o600)
        .open(path)?;
    match fcntl(&file, FcntlArg::F_OFD_SETLK(&whole_file(libc::F_WRLCK))) {
        Ok(_) => {}
        Err(Errno::EAGAIN | Errno::EACCES) => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    file.set_len(0)?;
    (&file).write_all(format!("{}\n", std::process::id()).as_bytes())?;
    Ok(Some(file))
}

/// True where somebody holds the lock of the file at `path`.
pub(crate) fn is_file_held(path: &Path) -> bool {
    let Ok(file) = File::open(path) else { return false };
    let mut asked = whole_file(libc::F_RDLCK);
    match fcntl(&file, FcntlArg::F_OFD_GETLK(&mut asked)) {
        Ok(_) => i32::from(asked.l_type) != libc::F_UNLCK,
        // Where files cannot be asked, they cannot be locked either.
        Err(_) => false,
    }
}

/// The number that whoever locked a file last wrote into it.
pub(crate) fn number_in(path: &Path) -> Option<i32> {
    String::from_utf8(read(path)?).ok()?.trim().parse().ok()
}

fn read(path: &Path) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(READ_BYTES_MAX).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

#[allow(unsafe_code, reason = "tokio wants to be promised what a descriptor is; says why it holds")]
fn watched(process: OwnedFd) -> Option<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` gives the same open descriptor until it is dropped, and the `AsyncFd` owns it.
    unsafe { AsyncFd::register_with_interest(process, Interest::READABLE) }.ok()
}

fn whole_file(kind: i32) -> libc::flock {
    libc::flock {
        // The constants are small by definition.
        l_type: i16::try_from(kind).unwrap_or_default(),
        l_whence: 0,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> (tempfile::TempDir, MachineDir) {
        let folder = tempfile::tempdir().unwrap();
        let dir = MachineDir::new(folder.path());
        (folder, dir)
    }

    #[test]
    fn a_machine_has_one_keeper_at_a_time() {
        let (_folder, dir) = machine();
        assert!(!Lock::is_held(&dir), "without a file");
        let lock = Lock::take(&dir).unwrap();
        assert!(Lock::is_held(&dir));
        assert_eq!(Lock::take(&dir).unwrap_err().kind, ErrorKind::Conflict);
        drop(lock);
        assert!(!Lock::is_held(&dir), "the file alone is no keeper");
        assert!(Lock::take(&dir).is_ok());
    }

    #[test]
    fn asking_does_not_stand_in_a_keepers_way() {
        let (_folder, dir) = machine();
        drop(Lock::take(&dir).unwrap());
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    Lock::is_held(&dir);
                }
            });
            let taken = (0..500).all(|_| Lock::take(&dir).map(drop).is_ok());
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            assert!(taken);
        });
    }

    #[test]
    fn a_number_in_the_file_is_believed_only_of_a_keeper_of_this_machine() {
        let (_folder, dir) = machine();
        let _lock = Lock::take(&dir).unwrap();
        // This very process holds the lock, but was not started with the directory's name.
        assert_eq!(Lock::holder(&dir), None);
        let mut sleeper = std::process::Command::new("sh")
            .args(["-c", "read _line", "keeper"])
            .arg(dir.path())
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        // A process that has only just begun has no command line yet.
        let command = format!("/proc/{}/cmdline", sleeper.id());
        let begun = || std::fs::read(&command).is_ok_and(|line| line.starts_with(b"sh\0"));
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while !begun() && std::time::Instant::now() < deadline {
            std::thread::yield_now();
        }
        std::fs::write(dir.lock(), format!("{}\n", sleeper.id())).unwrap();
        let holder = Lock::holder(&dir);
        sleeper.kill().unwrap();
        sleeper.wait().unwrap();
        assert_eq!(holder.map(|pid| pid.as_raw().unsigned_abs()), Some(sleeper.id()));
    }
}
