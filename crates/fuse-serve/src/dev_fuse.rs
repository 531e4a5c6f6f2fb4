//! Serves this host's own kernel through `/dev/fuse`.
//!
//! # Order
//! Open the device, `mount(2)`, start serving: the kernel's `INIT` waits in the device until then.
//! At the end: unmount lazily, wait for the notifier, stop the threads, close the device. Closing
//! it makes the kernel fail whatever still uses the mount with `ENOTCONN`.
//!
//! # Not here
//! Mounting without root (`fusermount3`).

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::channel::Server;
use crate::limits::MESSAGE_BYTES_MAX;
use crate::link::{Link, Message, Received};
use crate::pool::Threads;
use crate::{Error, Notifier, Session};

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
    /// `OpenDevice` and `Mount` where the host or our rights do not allow it.
    pub fn new(session: Arc<Session>, target: &Path, threads: Threads) -> Result<Self, Error> {
        let device = File::options()
            .read(true)
            .write(true)
            .custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits())
            .open("/dev/fuse")
            .map_err(Error::OpenDevice)?;
        let options = format!(
            "fd={},rootmode=40755,user_id=0,group_id=0,allow_other,default_permissions",
            device.as_raw_fd()
        );
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(Some("dormouse"), target, Some("fuse.dormouse"), flags, Some(options.as_str()))
            .map_err(|errno| Error::Mount { target: target.into(), source: errno.into() })?;
        let server = Server::start(session, Arc::new(DeviceLink { device }), threads);
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
    pub fn wait_closed(&self, patience: std::time::Duration) -> bool {
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
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.mounted {
            // Fails where somebody else unmounted it: that is what we want.
            _ = umount2(&self.target, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW);
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

    fn send(&self, message: &[u8]) -> io::Result<()> {
        match (&self.device).write(message) {
            Ok(len) if len == message.len() => Ok(()),
            Ok(_) => Err(io::ErrorKind::WriteZero.into()),
            Err(error) => match error.raw_os_error().map(Errno::from_raw) {
                // ENOENT: nobody waits for the reply any more, or the kernel does not know what
                // was to be invalidated. ENODEV: unmounted; the next read says so. EAGAIN and
                // ENOTDIR: an invalidation came too late to matter.
                Some(Errno::ENOENT | Errno::ENODEV | Errno::EAGAIN | Errno::ENOTDIR) => Ok(()),
                // EINVAL: a reply that the kernel finds malformed. That request fails there; the
                // others need not.
                Some(Errno::EINVAL) => {
                    tracing::error!(len = message.len(), "the kernel refused a message");
                    Ok(())
                }
                _ => Err(error),
            },
        }
    }

    fn shut_down(&self) {}
}
