//! Virtio ports: finding them by name, and the control port as an async byte stream.
//!
//! A port has one opener at a time. It reads as ended while no host holds its other end; tokio
//! cannot un-see that, so a port is opened again after every session ([`Control::open`]).

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::Mode;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::limits::{DEVICE_TIMEOUT, HOST_POLL_INTERVAL, POLL_INTERVAL};
use crate::{Error, sys};

/// Where the kernel lists ports, each with its name.
const PORTS: &str = "/sys/class/virtio-ports";

/// The device of the port called `name`. Waits for the driver, a bounded time. Ports are never
/// known by number: the first is `vport1p1` on one machine and `vport0p1` on the next.
pub(crate) fn find(name: &str) -> Result<PathBuf, Error> {
    let deadline = Instant::now() + DEVICE_TIMEOUT;
    loop {
        let ports = fs::read_dir(PORTS).into_iter().flatten().flatten();
        let found = ports.map(|entry| entry.path()).find(|port| {
            fs::read_to_string(port.join("name")).is_ok_and(|text| text.trim_end() == name)
        });
        if let Some(device) = found.as_deref().and_then(|port| port.file_name()) {
            return Ok(PathBuf::from("/dev").join(device));
        }
        if Instant::now() > deadline {
            return Err(Error::Invalid(format!(
                "no virtio port is called {name}: was the machine started with one?"
            )));
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// Opens the port at `device`, for blocking use.
pub(crate) fn open_blocking(device: &PathBuf) -> Result<OwnedFd, Error> {
    open(device, OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(Error::sys(format!("open {}", device.display())))
}

/// True while a host holds the other end.
pub(crate) fn has_host(port: impl AsFd) -> bool {
    let mut fds = [PollFd::new(port.as_fd(), PollFlags::empty())];
    match poll(&mut fds, PollTimeout::ZERO) {
        Ok(_) => !fds[0].revents().is_some_and(|seen| seen.contains(PollFlags::POLLHUP)),
        Err(_) => true,
    }
}

/// True where one short write would not have to wait.
pub(crate) fn takes_more(port: impl AsFd) -> bool {
    let mut fds = [PollFd::new(port.as_fd(), PollFlags::POLLOUT)];
    let polled = poll(&mut fds, PollTimeout::ZERO);
    polled.is_ok() && fds[0].revents().is_some_and(|seen| seen.contains(PollFlags::POLLOUT))
}

/// A byte stream to the host. Clones are handles to the same descriptor, so that a session can be
/// followed by another one; only one of them reads and one writes at a time.
#[derive(Debug, Clone)]
pub(crate) struct Control(Arc<AsyncFd<OwnedFd>>);

impl Control {
    /// Takes a socket or port, on the tokio runtime that this is called on.
    pub(crate) fn new(fd: OwnedFd) -> Result<Self, Error> {
        let doing = "watch the control channel";
        let flags = fcntl(&fd, FcntlArg::F_GETFL).map_err(Error::sys(doing))?;
        let flags = OFlag::from_bits_retain(flags) | OFlag::O_NONBLOCK;
        fcntl(&fd, FcntlArg::F_SETFL(flags)).map_err(Error::sys(doing))?;
        let watched = sys::watch(fd).map_err(Error::io(doing))?;
        Ok(Self(Arc::new(watched)))
    }

    /// Opens the port at `device` once a host is there.
    pub(crate) async fn open(device: &PathBuf) -> Result<Self, Error> {
        loop {
            match open_blocking(device) {
                Ok(fd) if has_host(&fd) => return Self::new(fd),
                Ok(_) => {}
                // The driver of the session before has not let go of it yet.
                Err(error) if error.errno() == Errno::EBUSY => {}
                Err(error) => return Err(error),
            }
            tokio::time::sleep(HOST_POLL_INTERVAL).await;
        }
    }
}

impl AsyncRead for Control {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let mut ready = ready!(self.0.poll_read_ready(context))?;
            let read = ready.try_io(|fd| Ok(nix::unistd::read(fd, into.initialize_unfilled())?));
            match read {
                Ok(read) => {
                    into.advance(read?);
                    return Poll::Ready(Ok(()));
                }
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for Control {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.0.poll_write_ready(context))?;
            // One write moves at most 32 KiB into a port; the caller goes on with the rest.
            match ready.try_io(|fd| Ok(nix::unistd::write(fd, bytes)?)) {
                Ok(written) => return Poll::Ready(written),
                Err(_would_block) => {}
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Does nothing: the descriptor lives on for the next session.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl std::fmt::Display for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "fd {}", self.0.get_ref().as_raw_fd())
    }
}
