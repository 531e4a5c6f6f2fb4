//! The cgroup of everything that runs for the user, which can be frozen as a whole.
//!
//! # Invariants
//! Every process that the agent starts is made in the cgroup (see `exec::fork`), so there is no
//! moment in which it, or a child of it, is outside. The agent and the kernel's threads are never
//! in it.
//!
//! # Trust
//! Root in the guest can move a process out of the cgroup, or remove it while it is empty, after which
//! no command starts until the next boot. It hurts its own machine and nobody else's.
//!
//! # Failure
//! A kernel without cgroup v2 or its freezer: processes run in no cgroup.

use std::fs::{self, File};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use crate::Error;

/// The cgroup. Its parent is mounted at boot ([`crate::boot::root`]).
const CGROUP: &str = "/sys/fs/cgroup/machine";

/// See the module.
#[derive(Debug)]
pub(crate) struct Freezer {
    dir: File,
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
        let open =
            |path: &Path| File::open(path).map_err(Error::io(format!("open {}", path.display())));
        open(&path.join("cgroup.freeze"))?;
        Ok(Self { dir: open(path)? })
    }

    /// Where to start processes.
    pub(crate) fn cgroup(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_there_is_no_freezer_it_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let refused = Freezer::at(&dir.path().join("machine")).unwrap_err();
        assert!(refused.to_string().contains("cgroup.freeze"), "{refused}");
    }
}
