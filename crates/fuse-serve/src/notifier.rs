//! Sends invalidations, on a thread of its own.
//!
//! A kernel may block in an invalidation until a request that it waits for is answered, so neither
//! a worker nor a caller may send one itself. Changes that wait are merged.
//!
//! # Who calls
//! Whoever changed the file system from outside this kernel calls [`Notifier::send`] with what it
//! touched, after the change is visible. [`Notifier::flush`] then gives the count to put into a
//! cache barrier.
//!
//! # Failure
//! A kernel that takes no notification for [`PATIENCE`] while the queue is full is taken for dead
//! and its link is shut down: its caches could not be trusted any more.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use vfs::Touched;

use crate::Error;
use crate::limits::{NOTIFICATIONS_MAX, THREAD_STACK_BYTES};
use crate::link::Link;
use crate::notify::Batch;
use crate::session::Session;

/// How long a sender waits for a full queue.
const PATIENCE: Duration = Duration::from_secs(30);

/// Tells one kernel what was changed behind its back. Clones share a queue.
#[derive(Debug, Clone)]
pub struct Notifier {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    session: Arc<Session>,
    link: Arc<dyn Link>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: Batch,
    sending: bool,
    paused: bool,
    closed: bool,
    sent: u64,
}

impl Notifier {
    /// A notifier and its thread, which leaves after [`close`](Self::close).
    pub(crate) fn start(
        session: Arc<Session>,
        link: Arc<dyn Link>,
    ) -> Result<(Self, JoinHandle<()>), Error> {
        let (state, changed) = (Mutex::default(), Condvar::new());
        let shared = Arc::new(Shared { session, link, state, changed });
        let sender = Arc::clone(&shared);
        let handle = std::thread::Builder::new()
            .name("fuse-notifier".into())
            .stack_size(THREAD_STACK_BYTES)
            .spawn(move || sender.run())
            .map_err(Error::Setup)?;
        Ok((Self { shared }, handle))
    }

    /// Queues the invalidations for a change that is visible by now. Does nothing once closed.
    pub fn send(&self, touched: &Touched) {
        let batch = self.shared.session.invalidations(touched);
        if batch.is_empty() {
            return;
        }
        let mut state = self.shared.state.lock();
        let deadline = Instant::now() + PATIENCE;
        while state.waiting.len() >= NOTIFICATIONS_MAX && !state.closed {
            if self.shared.changed.wait_until(&mut state, deadline).timed_out() {
                tracing::error!("the kernel takes no invalidations; its channel is shut down");
                state.closed = true;
                self.shared.link.shut_down();
                self.shared.changed.notify_all();
            }
        }
        if !state.closed {
            state.waiting.merge(batch);
            self.shared.changed.notify_all();
        }
    }

    /// Queues that the kernel shall read again the attributes and content of everything that it
    /// holds: the whole tree became another. Names live as long as they were given.
    pub fn forget_all(&self) {
        let inodes = self.shared.session.held();
        for some in inodes.chunks(NOTIFICATIONS_MAX / 4) {
            self.send(&Touched { entries: Vec::new(), inodes: some.to_vec() });
        }
    }

    /// True while something is queued that was not written yet.
    #[must_use]
    pub fn has_waiting(&self) -> bool {
        let state = self.shared.state.lock();
        state.sending || !state.waiting.is_empty()
    }

    /// How many notifications were written so far.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.shared.state.lock().sent
    }

    /// Waits until everything queued before is written, and returns the count.
    ///
    /// # Errors
    /// `Busy` past `patience`, `Closed` where the kernel is gone.
    pub fn flush(&self, patience: Duration) -> Result<u64, Error> {
        let deadline = Instant::now() + patience;
        let mut state = self.shared.state.lock();
        while !state.closed && (state.sending || !state.waiting.is_empty()) {
            if self.shared.changed.wait_until(&mut state, deadline).timed_out() {
                return Err(Error::Busy { outstanding: state.waiting.len(), waited: patience });
            }
        }
        if state.closed { Err(Error::Closed) } else { Ok(state.sent) }
    }

    /// Sends nothing until [`unpause`](Self::unpause); what is being sent is finished first.
    pub(crate) fn pause(&self, patience: Duration) -> Result<(), Error> {
        self.flush(patience)?;
        let deadline = Instant::now() + patience;
        let mut state = self.shared.state.lock();
        state.paused = true;
        while state.sending && !state.closed {
            if self.shared.changed.wait_until(&mut state, deadline).timed_out() {
                state.paused = false;
                return Err(Error::Busy { outstanding: 1, waited: patience });
            }
        }
        Ok(())
    }

    pub(crate) fn unpause(&self) {
        self.shared.state.lock().paused = false;
        self.shared.changed.notify_all();
    }

    /// Ends the thread; what waits is dropped.
    pub(crate) fn close(&self) {
        let mut state = self.shared.state.lock();
        state.closed = true;
        state.waiting = Batch::default();
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn run(&self) {
        while let Some(batch) = self.next() {
            let mut sent = 0;
            let outcome = batch.messages().try_for_each(|message| {
                self.link.send(&[&message])?;
                sent += 1;
                Ok::<_, std::io::Error>(())
            });
            let mut state = self.state.lock();
            state.sending = false;
            state.sent += sent;
            if let Err(error) = outcome {
                tracing::debug!(%error, "invalidations end");
                state.closed = true;
            }
            self.changed.notify_all();
        }
    }

    fn next(&self) -> Option<Batch> {
        let mut state = self.state.lock();
        while !state.closed && (state.paused || state.waiting.is_empty()) {
            self.changed.wait(&mut state);
        }
        if state.closed {
            return None;
        }
        state.sending = true;
        self.changed.notify_all();
        Some(std::mem::take(&mut state.waiting))
    }
}
