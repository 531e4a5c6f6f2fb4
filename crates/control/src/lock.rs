//! One server a data directory.
//!
//! `DATA/lock` is held with `flock(2)` for the life of the server; the kernel lets go of it when the
//! process ends, however it ends. Keepers do not inherit it: the file is closed on exec.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::Path;

use base::ErrorKind;
use nix::fcntl::{Flock, FlockArg};

use crate::{Error, Result};

/// The lock; gives it back when dropped.
#[derive(Debug)]
pub(crate) struct DirLock {
    _file: Flock<File>,
}

impl DirLock {
    /// Takes the lock of a data directory.
    ///
    /// # Errors
    /// `Conflict` with `DATA_DIR_LOCKED` where another server holds it.
    pub(crate) fn take(dir: &Path) -> Result<Self> {
        let path = dir.join("lock");
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.open(&path).map_err(|error| unusable(&path, error))?;
        let mut file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => file,
            Err((mut file, nix::errno::Errno::EWOULDBLOCK)) => return Err(taken(dir, &mut file)),
            Err((_, errno)) => return Err(unusable(&path, errno.into())),
        };
        // Only for the message of the next one; the lock itself is the kernel's.
        let note = format!("{}\n", std::process::id());
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| file.write_all(note.as_bytes()))
            .map_err(|error| unusable(&path, error))?;
        Ok(Self { _file: file })
    }
}

fn taken(dir: &Path, file: &mut File) -> Error {
    let mut pid = String::new();
    let read = file.take(20).read_to_string(&mut pid);
    let holder = match read {
        Ok(_) if pid.trim().parse::<u32>().is_ok() => format!(" (process {})", pid.trim()),
        _ => String::new(),
    };
    Error::new(
        ErrorKind::Conflict,
        format!(
            "the data directory {} is in use by another server{holder}; stop that one, or choose \
             another directory",
            dir.display()
        ),
    )
    .with_code("DATA_DIR_LOCKED")
}

fn unusable(path: &Path, error: std::io::Error) -> Error {
    Error::new(ErrorKind::Unavailable, format!("lock {}: {error}", path.display())).caused_by(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_directory_has_one_server() {
        let dir = tempfile::tempdir().unwrap();
        let first = DirLock::take(dir.path()).unwrap();
        let error = DirLock::take(dir.path()).unwrap_err();
        assert_eq!(error.code, "DATA_DIR_LOCKED");
        assert!(error.message.contains(&std::process::id().to_string()), "{error}");
        drop(first);
        assert!(DirLock::take(dir.path()).is_ok());
    }
}
