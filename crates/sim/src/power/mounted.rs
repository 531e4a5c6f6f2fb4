//! A disk as a directory of this host.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use fuse_serve::{Config, Mount, MountOptions, Session};
use vfs::FileSystem;

use super::Disk;

/// A mounted disk. Unmounts when it is dropped.
#[derive(Debug)]
pub(super) struct Mounted {
    // Before `dir`: the directory can go only when nothing is mounted there.
    _mount: Mount,
    dir: tempfile::TempDir,
}

impl Mounted {
    /// Mounts `disk` in a directory of its own.
    pub(super) fn new(disk: &Arc<Disk>) -> Result<Self, fuse_serve::Error> {
        let dir = crate::world::scratch();
        let fs: Arc<dyn FileSystem> = disk.clone();
        let session = Arc::new(Session::new(fs, Config::default()));
        let mount = Mount::new(session, dir.path(), &MountOptions::default())?;
        Ok(Self { _mount: mount, dir })
    }

    /// A path on it.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

/// What this host lacks for a mount.
#[must_use]
pub fn missing() -> Option<&'static str> {
    if !nix::unistd::geteuid().is_root() {
        return Some("a mount needs root");
    }
    (!Path::new("/dev/fuse").exists()).then_some("/dev/fuse is missing (modprobe fuse)")
}
