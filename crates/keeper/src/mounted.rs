//! The lock that says that a mount on this host writes a home.
//!
//! A mount needs no server, and no server is told of it: this is how each sees the other. Whoever mounts holds
//! the lock from before it claims the home until after it has given it up.
//!
//! # Crash
//! The kernel gives the lock up with the process, whatever ends it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use base::HomeId;

use crate::lock::{is_file_held, number_in, take_file};

/// Held while a home is mounted for writing.
#[derive(Debug)]
pub struct MountLock {
    _file: File,
}

impl MountLock {
    /// Takes the lock of `home` below the data directory, and writes this process's number into its file; `None`
    /// where another mount has it.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn take(data: &Path, home: &HomeId) -> std::io::Result<Option<Self>> {
        let path = path(data, home);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        Ok(take_file(&path)?.map(|file| Self { _file: file }))
    }
}

/// A mount that writes a home.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MountHolder {
    /// Its process, where it has written its number down.
    pub process: Option<u32>,
}

/// Who has `home` mounted for writing. Asking does not take the lock, so it never stands in a mount's way.
#[must_use]
pub fn holder(data: &Path, home: &HomeId) -> Option<MountHolder> {
    let path = path(data, home);
    // The number is for people alone: for a moment it may be that of the mount before.
    is_file_held(&path)
        .then(|| MountHolder { process: number_in(&path).and_then(|pid| u32::try_from(pid).ok()) })
}

fn path(data: &Path, home: &HomeId) -> PathBuf {
    data.join("mounts").join(format!("{home}.lock"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_has_one_mount_that_writes_and_everybody_sees_which() {
        let data = tempfile::tempdir().unwrap();
        let (home, other) = (HomeId::generate(), HomeId::generate());
        assert_eq!(holder(data.path(), &home), None, "without a file");
        let lock = MountLock::take(data.path(), &home).unwrap().unwrap();
        let this = MountHolder { process: Some(std::process::id()) };
        assert_eq!(holder(data.path(), &home), Some(this));
        assert!(MountLock::take(data.path(), &home).unwrap().is_none());
        assert_eq!(holder(data.path(), &home), Some(this), "whoever was refused changed nothing");
        assert_eq!(holder(data.path(), &other), None);
        drop(lock);
        assert_eq!(holder(data.path(), &home), None, "the file alone is no mount");
        assert!(MountLock::take(data.path(), &home).unwrap().is_some());
    }
}
