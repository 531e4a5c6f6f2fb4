//! One kernel's use of one file system.
//!
//! [`Session::handle`] takes one message and answers it; it may be called from many threads. The
//! session knows no file descriptors: `channel` and `dev_fuse` move the bytes.
//!
//! # Order
//! `INIT` first; before it every other request fails with `EIO`. A second `INIT` is a new mount on
//! the same channel: what the old one held is let go.
//!
//! # Trust
//! The kernel on the other side belongs to the guest. Whatever it sends can at worst do what its
//! root could do to this one file system anyway.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::RwLock;
use vfs::{Errno, FileSystem, Ino, Touched};

use crate::abi::Opcode;
use crate::limits::NODES_MAX;
use crate::negotiate::{Agreed, Answer, negotiate};
use crate::nodes::Nodes;
use crate::reply::{Failed, Outgoing, Reply, Ttl, failure};
use crate::request::{Header, InitIn, Malformed, Request};
use crate::{dispatch, notify};

/// How a session behaves.
#[derive(Debug, Clone)]
pub struct Config {
    /// How long the kernel may believe a name. Long is safe where every change made elsewhere is
    /// reported to the [`Notifier`](crate::Notifier).
    pub entry_ttl: Duration,
    /// How long it may believe attributes.
    pub attr_ttl: Duration,
    /// How long it may believe that a name does not exist.
    pub negative_ttl: Duration,
    /// Let opening and closing cost no message where the kernel can (`NO_OPEN_SUPPORT`).
    pub zero_message_open: bool,
    /// How many inodes the kernel may hold; past it lookups fail with `ENFILE`.
    pub nodes_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        let hour = Duration::from_secs(3600);
        Self {
            entry_ttl: hour,
            attr_ttl: hour,
            negative_ttl: hour,
            zero_message_open: true,
            nodes_max: NODES_MAX,
        }
    }
}

/// What must be kept of a session for a kernel that sleeps with its memory and wakes later.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Saved {
    /// Whether the kernel was told that opens need no message.
    pub no_open: bool,
    /// The same for directories.
    pub no_opendir: bool,
    /// Inodes that the kernel holds, with their lookup counts.
    pub held: Vec<(Ino, u64)>,
}

/// One more than the largest opcode.
const OPCODES: usize = 64;

/// A mounted file system as its server sees it.
#[derive(Debug)]
pub struct Session {
    pub(crate) fs: Arc<dyn FileSystem>,
    pub(crate) config: Config,
    pub(crate) nodes: Nodes,
    agreed: RwLock<Option<Agreed>>,
    /// By opcode; numbers that we do not know count as 0.
    requests: [AtomicU64; OPCODES],
}

impl Session {
    /// A session that waits for `INIT`.
    #[must_use]
    pub fn new(fs: Arc<dyn FileSystem>, config: Config) -> Self {
        let nodes = Nodes::new(config.nodes_max);
        let (agreed, requests) = (RwLock::default(), std::array::from_fn(|_| AtomicU64::new(0)));
        Self { fs, config, nodes, agreed, requests }
    }

    /// A session that goes on where `saved` stopped: the kernel is the same and sends no `INIT`.
    #[must_use]
    pub fn resume(fs: Arc<dyn FileSystem>, config: Config, saved: &Saved) -> Self {
        let session = Self::new(fs, config);
        session.nodes.restore(session.fs.as_ref(), &saved.held);
        *session.agreed.write() =
            Some(Agreed { no_open: saved.no_open, no_opendir: saved.no_opendir });
        session
    }

    /// What [`resume`](Self::resume) needs; `None` before `INIT`. Meaningful while nothing is
    /// under way: freeze the channel first.
    #[must_use]
    pub fn save(&self) -> Option<Saved> {
        let agreed = (*self.agreed.read())?;
        let Agreed { no_open, no_opendir } = agreed;
        Some(Saved { no_open, no_opendir, held: self.nodes.held() })
    }

    /// How many inodes the kernel holds.
    #[must_use]
    pub fn held_count(&self) -> usize {
        self.nodes.count()
    }

    /// Requests handled so far.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.requests.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// Requests handled so far by what they asked for, those that came at least once.
    #[must_use]
    pub fn requests_by_kind(&self) -> Vec<(String, u64)> {
        let named = |number: usize| match u32::try_from(number).ok().and_then(Opcode::from_number) {
            Some(opcode) => format!("{opcode:?}"),
            None => "unknown".to_owned(),
        };
        self.requests
            .iter()
            .map(|count| count.load(Ordering::Relaxed))
            .enumerate()
            .filter(|(_, count)| *count > 0)
            .map(|(number, count)| (named(number), count))
            .collect()
    }

    fn count(&self, opcode: u32) {
        let number = usize::try_from(opcode).unwrap_or(0);
        let place = self.requests.get(number).or(self.requests.first());
        if let Some(count) = place {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// True once the kernel has said `INIT`, until it says `DESTROY`.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.agreed.read().is_some()
    }

    /// Handles one message. `None` where the protocol has no reply (`FORGET`), or where `message`
    /// has no header to answer to.
    ///
    /// May block as long as the file system does. Never panics: a panic of the file system is
    /// answered with `EIO`, because a request without an answer hangs the process that made it.
    #[must_use]
    pub fn handle(&self, message: &[u8]) -> Option<Vec<u8>> {
        self.answer(message).map(Outgoing::into_bytes)
    }

    /// The same, to be sent as it is.
    pub(crate) fn answer(&self, message: &[u8]) -> Option<Outgoing> {
        let header = Header::decode(message)?;
        self.count(header.opcode);
        let outcome = match Request::decode(&header, message) {
            Ok(request) => catch_unwind(AssertUnwindSafe(|| self.perform(&header, &request)))
                .unwrap_or_else(|_| {
                    tracing::error!(opcode = header.opcode, "a file system request panicked");
                    Err(Errno::EIO.into())
                }),
            // At any time: the agent's mark counts on it, which asks whether we have read this far.
            Err(Malformed::UnknownOpcode) => Err(Errno::ENOSYS.into()),
            Err(Malformed::Short) => {
                tracing::debug!(opcode = header.opcode, "malformed request");
                Err(Errno::EINVAL.into())
            }
        };
        if has_no_reply(header.opcode) {
            return None;
        }
        match outcome {
            Ok(reply) => Some(reply.finish(header.unique)),
            Err(errno) => Some(failure(header.unique, errno)),
        }
    }

    /// Lets go of every inode that the kernel held: it is gone. Idempotent.
    pub fn end(&self) {
        *self.agreed.write() = None;
        self.nodes.clear(self.fs.as_ref());
    }

    /// Every inode that the kernel may know, the root too.
    pub(crate) fn held(&self) -> Vec<Ino> {
        std::iter::once(vfs::ROOT)
            .chain(self.nodes.held().into_iter().map(|(ino, _)| ino))
            .collect()
    }

    /// The messages that make the kernel forget what `touched` changed. What it cannot know is
    /// left out.
    pub(crate) fn invalidations(&self, touched: &Touched) -> notify::Batch {
        self.nodes.bump(&touched.inodes);
        notify::Batch::of(touched, |ino| self.nodes.holds(ino))
    }

    /// Lifetimes for positive replies.
    pub(crate) fn ttl(&self) -> Ttl {
        Ttl { entry: self.config.entry_ttl, attr: self.config.attr_ttl }
    }

    fn perform(&self, header: &Header, request: &Request<'_>) -> Result<Reply, Failed> {
        if let Request::Init(offer) = request {
            return self.init(offer);
        }
        let agreed = (*self.agreed.read()).ok_or(Errno::EIO)?;
        if matches!(request, Request::Destroy) {
            self.end();
            return Ok(Reply::new());
        }
        dispatch::perform(self, agreed, header, request)
    }

    fn init(&self, offer: &InitIn) -> Result<Reply, Failed> {
        let out = match negotiate(offer, self.config.zero_message_open)? {
            Answer::AskAgain(out) => out,
            Answer::Ready(out, agreed) => {
                self.end();
                *self.agreed.write() = Some(agreed);
                tracing::debug!(minor = offer.minor, flags = out.flags, "kernel connected");
                out
            }
        };
        Ok(Reply::new().init(&out))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.end();
    }
}

/// Requests that the kernel does not wait for.
fn has_no_reply(opcode: u32) -> bool {
    matches!(
        Opcode::from_number(opcode),
        Some(Opcode::Forget | Opcode::BatchForget | Opcode::Interrupt | Opcode::NotifyReply)
    )
}

#[cfg(test)]
mod tests;
