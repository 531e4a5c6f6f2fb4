//! Writing packs: files that sealed content of many inodes is appended to.
//!
//! A pack is written once by one round of sealing and never again. Its bytes are on disk before
//! a row names them.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use vfs::Result;

use super::layers::{PackRef, Place};
use super::spool::failed;

/// A pack that is being written.
#[derive(Debug)]
pub(crate) struct PackWriter {
    pub(crate) pack: PackRef,
    pub(crate) len: u64,
    file: File,
    path: PathBuf,
    /// Its name survives power loss.
    named: bool,
}

impl PackWriter {
    /// A new pack in the file `path`. `id` is drawn so that nobody else uses it in this epoch.
    pub(crate) fn create(path: PathBuf, id: u64, epoch: u64) -> Result<Self> {
        let file = File::create_new(&path).map_err(failed)?;
        let pack = PackRef { id, epoch, place: Place::Local };
        Ok(Self { pack, len: 0, file, path, named: false })
    }

    /// Appends; the offset at which `bytes` begin.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> Result<u64> {
        self.file.write_all(bytes).map_err(failed)?;
        let at = self.len;
        self.len += bytes.len() as u64;
        Ok(at)
    }

    /// Flushes it to disk, its name included.
    pub(crate) fn sync(&mut self) -> Result<()> {
        self.file.sync_data().map_err(failed)?;
        if !self.named {
            sync_directory_of(&self.path)?;
            self.named = true;
        }
        Ok(())
    }
}

/// Makes the name of a file survive power loss. What was synced of the file itself may else be there
/// without a name.
pub(crate) fn sync_directory_of(path: &Path) -> Result<()> {
    let Some(directory) = path.parent() else { return Ok(()) };
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed)
}
