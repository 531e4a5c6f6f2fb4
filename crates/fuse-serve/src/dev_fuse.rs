//! Serves this host's own kernel through `/dev/fuse`.
//!
//! # Order
//! Open the device, `mount(2)`, start serving: the kernel's `INIT` waits in the device until then.
//! At the end: what is under way is answered, for a moment; then the mount is taken away by force,
//! which makes the kernel fail whatever still uses it with `ENOTCONN`; then the threads stop and
//! the device is closed. So nothing on this host waits for a server that is gone.
//!
//! # Crash
//! The kernel closes the device with the process: the mount stays, and every use of it fails at
//! once. [`Mount::clear_stale`] takes it away.
//!
//! # Not here
//! Mounting without root (`fusermount3`).

use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::channel::Server;
use crate::limits::MESSAGE_BYTES_MAX;
use crate::link::{Link, Message, Received};
use crate::mount_point::{FS_TYPE, Standing, standing};
use crate::pool::Threads;
use crate::{Error, Notifier, Session};

/// How long requests that are under way at the end have to be answered.
const GRACE: Duration = Duration::from_secs(10);

/// How a session is mounted.
#[derive(Debug, Clone, Copy, Default)]
pub struct MountOptions {
    /// The kernel refuses every change by itself.
    pub read_only: bool,
    /// Who answers.
    pub threads: Threads,
}

/// A mount on this host. Dropping it unmounts, also under processes that still use it, and ends the
/// session.
#[derive(Debug)]
pub struct Mount {
    target: PathBuf,
    mounted: bool,
    server: Server,
}

impl Mount {
    /// Mounts `session` on the directory `target`, for every user, with permissions checked by the
    /// kernel; set-uid programs and devices have no effect there.
    ///
    /// # Errors
    /// `Mounted` where a mount of ours is there; `OpenDevice` and `Mount` where the host or our
    /// rights do not allow it.
    pub fn new(
        session: Arc<Session>,
        target: &Path,
        options: &MountOptions,
    ) -> Result<Self, Error> {
        let refused = |source| Error::Mount { target: target.into(), source };
        if standing(target).map_err(refused)? != Standing::Free {
            return Err(Error::Mounted { target: target.into() });
        }
        let device = File::options()
            .read(true)
            .write(true)
            .custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits())
            .open("/dev/fuse")
            .map_err(Error::OpenDevice)?;
        let data = format!(
            "fd={},rootmode=40755,user_id=0,group_id=0,allow_other,default_permissions",
            device.as_raw_fd()
        );
        let mut flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        flags.set(MsFlags::MS_RDONLY, options.read_only);
        mount(Some("dormouse"), target, Some(FS_TYPE), flags, Some(data.as_str()))
            .map_err(|errno| refused(errno.into()))?;
        let server = Server::start(session, Arc::new(DeviceLink { device }), options.threads);
        match server {
            Ok(server) => {
                let server = server.for_own_kernel();
                Ok(Self { target: target.into(), mounted: true, server })
            }
            Err(error) => {
                // Nobody serves it; the error that matters is the first one.
                _ = umount2(target, MntFlags::MNT_DETACH);
                Err(error)
            }
        }
    }

    /// Takes away a mount of ours whose server was killed; true where there was one.
    ///
    /// # Errors
    /// `Unmount` where the host does not allow it.
    pub fn clear_stale(target: &Path) -> Result<bool, Error> {
        let refused = |source| Error::Unmount { target: target.into(), source };
        if standing(target).map_err(refused)? != Standing::Stale {
            return Ok(false);
        }
        umount2(target, MntFlags::MNT_DETACH).map_err(|errno| refused(errno.into()))?;
        Ok(true)
    }

    /// Where it is mounted.
    #[must_use]
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// The way to tell the kernel about changes made elsewhere.
    #[must_use]
    pub fn notifier(&self) -> Notifier {
        self.server.notifier.clone()
    }

    /// True once somebody else has unmounted it.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.server.pool.is_closed()
    }

    /// Waits for that, at most `patience`; true where it came.
    #[must_use]
    pub fn wait_closed(&self, patience: Duration) -> bool {
        self.server.pool.wait_closed(patience)
    }

    /// Unmounts if nothing uses it.
    ///
    /// # Errors
    /// `Unmount` where something does; the mount then goes on.
    pub fn unmount(&mut self) -> Result<(), Error> {
        umount2(&self.target, MntFlags::UMOUNT_NOFOLLOW).map_err(|errno| Error::Unmount {
            target: self.target.clone(),
            source: errno.into(),
        })?;
        self.mounted = false;
        Ok(())
    }

    /// Makes the kernel write back what programs changed in memory (`mmap`) in the mount on
    /// `target`: before one that is in use is taken away.
    ///
    /// # Errors
    /// Those of `syncfs(2)`.
    pub fn write_back(target: &Path) -> io::Result<()> {
        let root = File::open(target)?;
        Ok(nix::unistd::syncfs(&root)?)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Where somebody else unmounted it, the directory is none of our business any more.
        if self.mounted && !self.is_closed() {
            // Where this takes too long, the force below ends what is under way. What the kernel
            // writes back is in its queue by now, but `syncfs` does not wait for us to take it.
            self.server.pool.drain(GRACE);
            drop(self.server.pool.freeze(GRACE));
            // Fails where somebody else did it just now: that is what we want.
            let force = MntFlags::MNT_FORCE | MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW;
            _ = umount2(&self.target, force);
        }
    }
}

/// The device: every read is one message, every write one reply.
#[derive(Debug)]
struct DeviceLink {
    device: File,
}

impl Link for DeviceLink {
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }

    fn has_buffered(&self) -> bool {
        false
    }

    fn is_queue(&self) -> bool {
        true
    }

    fn receive(&self, message: &mut Message) -> io::Result<Received> {
        match (&self.device).read(message.make_room(MESSAGE_BYTES_MAX)) {
            Ok(len) => {
                message.truncate(len);
                Ok(Received::Message)
            }
            Err(error) => match error.raw_os_error().map(Errno::from_raw) {
                // EAGAIN: another took it. ENOENT: its process was killed meanwhile.
                Some(Errno::EAGAIN | Errno::EINTR | Errno::ENOENT) => Ok(Received::Nothing),
                Some(Errno::ENODEV | Errno::ECONNABORTED) => Ok(Received::End),
                _ => Err(error),
            },
        }
    }

    fn send(&self, parts: &[&[u8]]) -> io::Result<()> {
        let whole: usize = parts.iter().map(|part| part.len()).sum();
        let written = match parts {
            [message] => (&self.device).write(message),
            parts => {
                let slices: Vec<IoSlice<'_>> =
                    parts.iter().map(|part| IoSlice::new(part)).collect();
                (&self.device).write_vectored(&slices)
            }
        };
        match written {
            Ok(len) if len == whole => Ok(()),
            Ok(_) => Err(io::ErrorKind::WriteZero.into()),
            Err(error) => match error.raw_os_error().map(Errno::from_raw) {
                // ENOENT: nobody waits for the reply any more, or the kernel does not know what
                // was to be invalidated. ENODEV: unmounted; the next read says so. EAGAIN and
                // ENOTDIR: an invalidation came too late to matter.
                Some(Errno::ENOENT | Errno::ENODEV | Errno::EAGAIN | Errno::ENOTDIR) => Ok(()),
                // EINVAL: a reply that the kernel finds malformed. That request fails there; the
                // others need not.
                Some(Errno::EINVAL) => {
                    tracing::error!(len = whole, "the kernel refused a message");
                    Ok(())
                }
                _ => Err(error),
            },
        }
    }

    fn shut_down(&self) {}
}

#[cfg(test)]
mod tests;
