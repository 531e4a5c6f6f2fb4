//! A disk of its own that is small enough to be filled.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::mount::{MntFlags, umount2};
use nix::sys::statvfs::statvfs;

/// An ext4 file system in a sparse file, mounted. Dropping it takes it away, also where it is still in use. Needs root.
#[derive(Debug)]
pub struct SmallDisk {
    mounted: PathBuf,
    _dir: tempfile::TempDir,
}

impl SmallDisk {
    /// One of this length.
    ///
    /// # Errors
    /// Where none can be made or mounted here.
    pub fn new(bytes: u64) -> io::Result<Self> {
        let dir = tempfile::tempdir()?;
        let (image, mounted) = (dir.path().join("image"), dir.path().join("disk"));
        File::create(&image)?.set_len(bytes)?;
        std::fs::create_dir(&mounted)?;
        run(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(&image))?;
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&mounted))?;
        Ok(Self { mounted, _dir: dir })
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.mounted
    }

    /// Bytes that are free.
    ///
    /// # Errors
    /// Those of the system.
    pub fn free(&self) -> io::Result<u64> {
        let disk = statvfs(&self.mounted)?;
        Ok(disk.blocks_available().saturating_mul(disk.fragment_size()))
    }

    /// Fills it until about so many bytes are free.
    ///
    /// # Errors
    /// Those of the system.
    pub fn fill(&self, leave: u64) -> io::Result<()> {
        let file = OpenOptions::new().append(true).create(true).open(self.ballast())?;
        let (len, more) = (file.metadata()?.len(), self.free()?.saturating_sub(leave));
        let offset = |bytes: u64| i64::try_from(bytes).map_err(io::Error::other);
        if more > 0 {
            let filled =
                fallocate(file.as_fd(), FallocateFlags::empty(), offset(len)?, offset(more)?);
            // It takes some for itself, too.
            filled.or_else(|error| if error == Errno::ENOSPC { Ok(()) } else { Err(error) })?;
        }
        Ok(())
    }

    /// Takes away what [`Self::fill`] put there.
    ///
    /// # Errors
    /// Those of the system.
    pub fn make_room(&self) -> io::Result<()> {
        std::fs::remove_file(self.ballast())
    }

    fn ballast(&self) -> PathBuf {
        self.mounted.join("ballast")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        umount2(&self.mounted, MntFlags::MNT_DETACH).ok();
    }
}

fn run(command: &mut Command) -> io::Result<()> {
    let done = command.output()?;
    if done.status.success() {
        return Ok(());
    }
    Err(io::Error::other(format!("{command:?}: {}", String::from_utf8_lossy(&done.stderr))))
}
