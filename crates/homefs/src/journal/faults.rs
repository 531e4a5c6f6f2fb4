//! A host's disk that fails when a test says so.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};

/// What fails from now on.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    /// Half of a record is written, and then there is no space left.
    pub(crate) full: AtomicBool,
    /// What is synced is not.
    pub(crate) sync_fails: AtomicBool,
}

impl Faults {
    /// Writes as far as there is space.
    pub(super) fn write(&self, file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
        if !self.full.load(Ordering::SeqCst) {
            return file.write_all_at(bytes, at);
        }
        file.write_all_at(&bytes[..bytes.len() / 2], at)?;
        Err(io::ErrorKind::StorageFull.into())
    }

    /// Fails where it shall.
    pub(super) fn sync(&self) -> io::Result<()> {
        match self.sync_fails.load(Ordering::SeqCst) {
            true => Err(io::Error::other("the test's disk does not sync")),
            false => Ok(()),
        }
    }
}
