//! How the leader waits for a link to become readable.
//!
//! One epoll for the pool: the kernel walks through all who listen to a link at each message, and
//! only the leader waits.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::EventFd;

use crate::link::Link;

const LINK: u64 = 0;
const WAKE: u64 = 1;

/// What came of waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    /// The link is readable, or was a moment ago.
    Link,
    /// Somebody wants to be looked at.
    Wake,
    /// Nothing for as long as was asked.
    Nothing,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Eyes {
    epoll: Epoll,
}

impl Eyes {
    pub(super) fn new(link: &dyn Link, wake: &EventFd) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(link.descriptor(), EpollEvent::new(EpollFlags::EPOLLIN, LINK))?;
        epoll.add(wake.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, WAKE))?;
        Ok(Self { epoll })
    }

    /// Waits at most `patience`; `None`: as long as it takes.
    pub(super) fn wait(&self, patience: Option<Duration>) -> io::Result<Seen> {
        let patience = patience
            .map_or(Ok(EpollTimeout::NONE), EpollTimeout::try_from)
            .unwrap_or(EpollTimeout::NONE);
        let mut events = [EpollEvent::empty(); 2];
        let seen = match self.epoll.wait(&mut events, patience) {
            Ok(count) => &events[..count],
            // A look at the state does no harm.
            Err(Errno::EINTR) => return Ok(Seen::Wake),
            Err(errno) => return Err(errno.into()),
        };
        Ok(match seen {
            [] => Seen::Nothing,
            seen if seen.iter().any(|event| event.data() == WAKE) => Seen::Wake,
            _ => Seen::Link,
        })
    }
}
