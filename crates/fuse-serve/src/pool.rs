//! The threads that serve one link.
//!
//! # Order
//! One thread leads: it waits for a message, takes it, hands the lead to the next and then handles
//! what it took. So no message changes hands between threads, and while one request blocks the
//! others go on. While every thread is busy a new one is started, up to a bound; those beyond the
//! kept ones leave when they find nothing to do.
//!
//! # Syncs
//! `FSYNC` and its kin may wait for the object store. Some threads never run them: a sync past that
//! number waits in a queue, which whoever ends a sync looks at first.
//!
//! # Freezing
//! The leader stops at the border between two messages; what was taken is answered. A leader that
//! holds part of a message reads it to its end first.
//!
//! # Failure
//! End of the stream, a frame that lies about its length, a device that is gone: the pool closes,
//! threads leave, [`Pool::wait_closed`] returns.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use parking_lot::{Condvar, Mutex};

use crate::Error;
use crate::limits::{
    SYNCS_WAITING_MAX, THREAD_IDLE, THREAD_STACK_BYTES, THREADS_KEPT, THREADS_MAX,
    THREADS_NOT_SYNCING,
};
use crate::link::{Link, Message, Received};
use crate::session::{Session, is_sync};

/// Threads around a link. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Pool {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    session: Arc<Session>,
    link: Arc<dyn Link>,
    threads: Threads,
    /// Held by the thread that receives.
    lead: Mutex<()>,
    state: Mutex<State>,
    changed: Condvar,
    /// Readable while the leader must look at `state.mode`.
    wake: EventFd,
    handles: Mutex<Vec<JoinHandle<()>>>,
}

#[derive(Debug, Default)]
struct State {
    mode: Mode,
    /// The leader stands still because of [`Mode::Frozen`].
    parked: bool,
    /// Messages taken and not yet answered.
    outstanding: usize,
    threads: usize,
    /// Threads that wait for the lead.
    idle: usize,
    syncing: usize,
    syncs_waiting: VecDeque<Vec<u8>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Mode {
    #[default]
    Running,
    Frozen,
    Closed,
}

/// What a thread does next.
enum Work {
    Handle,
    HandleSync,
    Leave,
}

impl Pool {
    pub(crate) fn start(
        session: Arc<Session>,
        link: Arc<dyn Link>,
        threads: Threads,
    ) -> Result<Self, Error> {
        let wake = EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
            .map_err(|errno| Error::Setup(errno.into()))?;
        let shared = Arc::new(Shared {
            session,
            link,
            threads: threads.within_bounds(),
            lead: Mutex::default(),
            state: Mutex::default(),
            changed: Condvar::new(),
            wake,
            handles: Mutex::default(),
        });
        for _ in 0..shared.threads.kept {
            shared.state.lock().threads += 1;
            if let Err(error) = shared.spawn(true) {
                shared.close();
                return Err(Error::Setup(error));
            }
        }
        Ok(Self { shared })
    }

    /// Stops taking messages and waits until all that were taken are answered.
    pub(crate) fn freeze(&self, patience: Duration) -> Result<(), Error> {
        let shared = &self.shared;
        let deadline = Instant::now() + patience;
        let mut state = shared.state.lock();
        if state.mode == Mode::Running {
            state.mode = Mode::Frozen;
            shared.wake();
        }
        while state.mode == Mode::Frozen && !(state.parked && state.outstanding == 0) {
            if shared.changed.wait_until(&mut state, deadline).timed_out() {
                let outstanding = state.outstanding;
                drop(state);
                self.thaw();
                return Err(Error::Busy { outstanding, waited: patience });
            }
        }
        if state.mode == Mode::Closed { Err(Error::Closed) } else { Ok(()) }
    }

    /// Takes messages again.
    pub(crate) fn thaw(&self) {
        let mut state = self.shared.state.lock();
        if state.mode == Mode::Frozen {
            state.mode = Mode::Running;
            // Fails only where nothing is to be read, which is what we want.
            _ = self.shared.wake.read();
            self.shared.changed.notify_all();
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.shared.state.lock().mode == Mode::Closed
    }

    /// True once closed; false where that did not come within `patience`.
    pub(crate) fn wait_closed(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        let mut state = self.shared.state.lock();
        while state.mode != Mode::Closed {
            if self.shared.changed.wait_until(&mut state, deadline).timed_out() {
                break;
            }
        }
        state.mode == Mode::Closed
    }

    /// Closes, and returns when every thread has left. A request under way is waited for.
    pub(crate) fn stop(&self) {
        self.shared.close();
        self.shared.link.shut_down();
        loop {
            let Some(handle) = self.shared.handles.lock().pop() else { break };
            // A worker does not panic; and if one did, it has left.
            drop(handle.join());
        }
    }
}

impl Shared {
    fn spawn(self: &Arc<Self>, kept: bool) -> io::Result<()> {
        let shared = Arc::clone(self);
        let handle = std::thread::Builder::new()
            .name("fuse-worker".into())
            .stack_size(THREAD_STACK_BYTES)
            .spawn(move || shared.work(kept))?;
        let mut handles = self.handles.lock();
        handles.retain(|handle| !handle.is_finished());
        handles.push(handle);
        Ok(())
    }

    fn work(self: Arc<Self>, kept: bool) {
        let mut message = Message::default();
        loop {
            let sync = match self.next(kept, &mut message) {
                Work::Handle => false,
                Work::HandleSync => true,
                Work::Leave => break,
            };
            if let Some(reply) = self.session.handle(message.bytes())
                && let Err(error) = self.link.send(&reply)
            {
                tracing::warn!(%error, "the kernel cannot be answered; the channel closes");
                self.close();
            }
            self.end_one(sync);
        }
        self.state.lock().threads -= 1;
    }

    fn end_one(&self, sync: bool) {
        let mut state = self.state.lock();
        state.outstanding -= 1;
        state.syncing -= usize::from(sync);
        if state.mode != Mode::Running || sync {
            self.changed.notify_all();
        }
    }

    /// Waits for something to do; `message` then holds it.
    fn next(self: &Arc<Self>, kept: bool, message: &mut Message) -> Work {
        {
            let mut state = self.state.lock();
            if state.mode == Mode::Closed {
                return Work::Leave;
            }
            if state.syncing < self.threads.syncs_max()
                && let Some(waiting) = state.syncs_waiting.pop_front()
            {
                state.syncing += 1;
                message.set(&waiting);
                return Work::HandleSync;
            }
            state.idle += 1;
        }
        let lead = self.lead.try_lock_for(THREAD_IDLE).or_else(|| {
            message.release();
            kept.then(|| self.lead.lock())
        });
        self.state.lock().idle -= 1;
        if lead.is_none() {
            return Work::Leave;
        }
        loop {
            match self.receive(message) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    tracing::warn!(%error, "the kernel cannot be heard; the channel closes");
                    break;
                }
            }
            let sync = is_sync(message.bytes());
            if let Some(work) = self.take(sync, message) {
                return work;
            }
        }
        self.close();
        Work::Leave
    }

    /// Counts what was received. `None` where it was put into the queue, and the leader goes on.
    fn take(self: &Arc<Self>, sync: bool, message: &Message) -> Option<Work> {
        let mut state = self.state.lock();
        state.outstanding += 1;
        if sync && state.syncing >= self.threads.syncs_max() {
            while state.syncs_waiting.len() >= SYNCS_WAITING_MAX && state.mode != Mode::Closed {
                self.changed.wait(&mut state);
            }
            state.syncs_waiting.push_back(message.bytes().to_vec());
            return None;
        }
        state.syncing += usize::from(sync);
        if state.idle == 0 && state.threads < self.threads.max {
            state.threads += 1;
            drop(state);
            if let Err(error) = self.spawn(false) {
                tracing::warn!(%error, "no more worker threads");
                self.state.lock().threads -= 1;
            }
        }
        Some(if sync { Work::HandleSync } else { Work::Handle })
    }

    /// Waits for a message. False where the channel is closed.
    fn receive(&self, message: &mut Message) -> io::Result<bool> {
        loop {
            if !self.may_receive() {
                return Ok(false);
            }
            if !self.link.has_buffered() && !self.wait_readable(message)? {
                continue;
            }
            match self.link.receive(message)? {
                Received::Message => return Ok(true),
                Received::Nothing => {}
                Received::End => return Ok(false),
            }
        }
    }

    /// Stands still while frozen. False where the channel is closed.
    fn may_receive(&self) -> bool {
        let mut state = self.state.lock();
        while state.mode == Mode::Frozen && !self.link.has_buffered() {
            state.parked = true;
            self.changed.notify_all();
            self.changed.wait(&mut state);
        }
        state.parked = false;
        state.mode != Mode::Closed
    }

    /// True where the link is readable, false where `state.mode` has changed.
    fn wait_readable(&self, message: &mut Message) -> io::Result<bool> {
        let mut descriptors = [
            PollFd::new(self.link.descriptor(), PollFlags::POLLIN),
            PollFd::new(self.wake.as_fd(), PollFlags::POLLIN),
        ];
        let idle = PollTimeout::try_from(THREAD_IDLE).unwrap_or(PollTimeout::NONE);
        let mut polled = poll(&mut descriptors, idle);
        if polled == Ok(0) {
            message.release();
            polled = poll(&mut descriptors, PollTimeout::NONE);
        }
        match polled {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let ready = |index: usize| {
            descriptors[index].revents().is_some_and(|revents: PollFlags| !revents.is_empty())
        };
        Ok(ready(0) && !ready(1))
    }

    fn wake(&self) {
        // Fails only where the counter is full, and then it is readable.
        _ = self.wake.write(1);
    }

    fn close(&self) {
        let mut state = self.state.lock();
        state.mode = Mode::Closed;
        state.syncs_waiting.clear();
        self.wake();
        self.changed.notify_all();
    }
}

/// How many threads serve one kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Threads {
    /// Kept also without work.
    pub kept: usize,
    /// At most, while requests block.
    pub max: usize,
}

impl Threads {
    fn within_bounds(self) -> Self {
        let kept = self.kept.max(1);
        Self { kept, max: self.max.max(kept) }
    }

    /// How many threads may sync at once: all but some, and always one.
    fn syncs_max(self) -> usize {
        self.max.saturating_sub(THREADS_NOT_SYNCING).max(1)
    }
}

impl Default for Threads {
    fn default() -> Self {
        Self { kept: THREADS_KEPT, max: THREADS_MAX }
    }
}
