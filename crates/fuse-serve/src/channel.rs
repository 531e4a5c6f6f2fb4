//! Serves a guest over a byte stream, or over memory that it shares ([`guest_ring`]).
//!
//! # Order at sleep
//! The guest's agent stops relaying and waits until nothing is outstanding; then
//! [`Channel::freeze`], [`Session::save`], and the memory may be saved. After the wake a new channel
//! over [`Session::resume`] goes on, or [`Channel::thaw`] where the process lived on. Where the guest stays loaded
//! meanwhile, its port is left to that channel ([`Channel::leave_port`]).
//!
//! # Failure
//! The end of the stream or a frame that lies about its length closes the channel; requests under
//! way are finished in the file system and not answered. The session keeps what the guest held
//! until it is dropped or [`Session::end`]ed.

mod guest;
pub(crate) mod stream;

use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use guest_ring::GuestMemory;

use crate::link::Link;
use crate::pool::{Pool, Threads};
use crate::{Error, Notifier, Session};
use guest::GuestLink;

/// A session being served. Dropping it closes the stream and waits for requests under way.
#[derive(Debug)]
pub struct Channel {
    server: Server,
    link: Arc<GuestLink>,
}

impl Channel {
    /// Serves `session` over `port` until either side closes it. Where the guest's `memory` can be looked at, and it
    /// offers a ring in it, messages go over that.
    ///
    /// # Errors
    /// `Setup` where threads cannot be started.
    pub fn serve(
        session: Arc<Session>,
        port: UnixStream,
        memory: Option<GuestMemory>,
        threads: Threads,
    ) -> Result<Self, Error> {
        let link = Arc::new(GuestLink::new(port, memory).map_err(Error::Setup)?);
        Ok(Self {
            server: Server::start(session, Arc::clone(&link) as Arc<dyn Link>, threads)?,
            link,
        })
    }

    /// The way to tell the guest's kernel about changes made elsewhere.
    #[must_use]
    pub fn notifier(&self) -> Notifier {
        self.server.notifier.clone()
    }

    /// Stops at the border between two messages: everything taken is answered, every notification
    /// queued before is sent, and nothing more is read or written until [`thaw`](Self::thaw).
    ///
    /// # Errors
    /// `Busy` past `patience`, and the channel runs on; `Closed` where the guest is gone.
    pub fn freeze(&self, patience: Duration) -> Result<(), Error> {
        self.server.pool.freeze(patience)?;
        let paused = self.server.notifier.pause(patience);
        if paused.is_err() {
            self.thaw();
        }
        paused
    }

    /// Goes on after [`freeze`](Self::freeze).
    pub fn thaw(&self) {
        self.server.notifier.unpause();
        self.server.pool.thaw();
    }

    /// Leaves the port open when this is dropped: the guest does not see anybody leave, and another channel serves it
    /// later. To be called while [frozen](Self::freeze), when nobody reads from it.
    pub fn leave_port(&self) {
        self.link.leave_port();
    }

    /// True once the guest has closed the stream or broken the protocol.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.server.pool.is_closed()
    }

    /// Waits for that, at most `patience`; true where it came.
    #[must_use]
    pub fn wait_closed(&self, patience: Duration) -> bool {
        self.server.pool.wait_closed(patience)
    }
}

/// What serves one link, whatever it is.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) pool: Pool,
    pub(crate) notifier: Notifier,
    notifying: Option<JoinHandle<()>>,
    link: Arc<dyn Link>,
    session: Arc<Session>,
    /// The kernel is this host's own, and ends its mount with the link.
    own_kernel: bool,
}

impl Server {
    pub(crate) fn start(
        session: Arc<Session>,
        link: Arc<dyn Link>,
        threads: Threads,
    ) -> Result<Self, Error> {
        let (notifier, notifying) = Notifier::start(Arc::clone(&session), Arc::clone(&link))?;
        let pool = match Pool::start(Arc::clone(&session), Arc::clone(&link), threads) {
            Ok(pool) => pool,
            Err(error) => {
                notifier.close();
                return Err(error);
            }
        };
        let notifying = Some(notifying);
        Ok(Self { pool, notifier, notifying, link, session, own_kernel: false })
    }

    /// For this host's kernel. A notification may block in it until a request is answered, so at
    /// the end the notifier is waited for while the pool still answers. And it never comes back,
    /// so what it held is let go.
    pub(crate) fn for_own_kernel(mut self) -> Self {
        self.own_kernel = true;
        self
    }

    fn join_notifier(&mut self) {
        if let Some(handle) = self.notifying.take() {
            // It does not panic; and if it did, it has left.
            drop(handle.join());
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.notifier.close();
        if self.own_kernel {
            self.join_notifier();
        }
        self.link.shut_down();
        self.pool.stop();
        self.join_notifier();
        if self.own_kernel {
            self.session.end();
        }
    }
}

#[cfg(test)]
mod tests;
