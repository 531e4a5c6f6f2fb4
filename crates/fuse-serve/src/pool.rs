//! The threads that serve one link.
//!
//! # Order
//! One thread leads: it waits for a message, takes it, handles it and answers, and goes on, so that
//! no message changes hands and nobody is woken for it ([`lead`]). It gives the lead away before it
//! handles what may take long ([`pacing`]). Where a request takes long that was not expected to,
//! a watcher gives the lead to another thread after one or two milliseconds ([`watch`]): no request
//! waits for another one for longer. Where no thread is free a new one is started, up to a bound;
//! those beyond the kept ones leave when they find nothing to do.
//!
//! The leader of a queue (the device) looks for the next message for some microseconds before it
//! sleeps, as long as that pays ([`spin`]). One that does not keep up gets help: other threads
//! receive too, until they find nothing.
//!
//! # Syncs
//! `FSYNC` and its kin may wait for the object store. Some threads never run them: a sync past that
//! number waits in a queue, which whoever is free looks at first.
//!
//! # Freezing
//! Threads stop at the border between two messages; what was taken is answered. A leader that
//! holds part of a message reads it to its end first.
//!
//! # Failure
//! End of the stream, a frame that lies about its length, a device that is gone: the pool closes,
//! threads leave, [`Pool::wait_closed`] returns.

mod eyes;
mod lead;
mod pacing;
mod spin;
mod state;
mod watch;
mod worker;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use parking_lot::{Condvar, Mutex};

use crate::Error;
use crate::limits::{THREAD_STACK_BYTES, THREADS_KEPT, THREADS_MAX, THREADS_NOT_SYNCING};
use crate::link::Link;
use crate::session::Session;
use eyes::Eyes;
use lead::Lead;
use pacing::Pacing;
use spin::Spin;
use state::{Mode, State};
use watch::{Advice, TICK, Watch};
use worker::Worker;

/// How often, and with which pauses, a link must be found quiet to be taken for drained.
const QUIET_LOOKS: u32 = 4;
const QUIET_LOOK: Duration = Duration::from_millis(5);

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
    lead: Lead,
    pacing: Pacing,
    /// Of whoever leads: one who takes the lead over goes on with what the last one learned.
    spin: Mutex<Spin>,
    state: Mutex<State>,
    /// Something that `freeze`, `wait_closed` or a leader that stands still waits for.
    changed: Condvar,
    /// A role is free: threads without one wait for it.
    called: Condvar,
    /// Requests come again: the watcher waits for it.
    begun: Condvar,
    /// The mode is not `Running`, so that a leader must look at it.
    stopping: AtomicBool,
    /// The watcher must be woken with the next request.
    unwatched: AtomicBool,
    /// Readable while `stopping`, for a leader that sleeps.
    wake: EventFd,
    eyes: Eyes,
    handles: Mutex<Vec<JoinHandle<()>>>,
}

impl Pool {
    pub(crate) fn start(
        session: Arc<Session>,
        link: Arc<dyn Link>,
        threads: Threads,
    ) -> Result<Self, Error> {
        let wake = EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
            .map_err(|errno| Error::Setup(errno.into()))?;
        let eyes = Eyes::new(link.as_ref(), &wake).map_err(Error::Setup)?;
        let shared = Arc::new(Shared {
            session,
            link,
            threads: threads.within_bounds(),
            lead: Lead::default(),
            pacing: Pacing::default(),
            spin: Mutex::default(),
            state: Mutex::default(),
            changed: Condvar::new(),
            called: Condvar::new(),
            begun: Condvar::new(),
            stopping: AtomicBool::new(false),
            unwatched: AtomicBool::new(false),
            wake,
            eyes,
            handles: Mutex::default(),
        });
        let started = shared.spawn_watcher().and_then(|()| {
            (0..shared.threads.kept).try_for_each(|_| {
                shared.state.lock().threads += 1;
                shared.spawn(true)
            })
        });
        if let Err(error) = started {
            shared.close();
            return Err(Error::Setup(error));
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
            shared.stop_leaders();
        }
        while state.mode == Mode::Frozen && !shared.stands_still(&state) {
            if shared.changed.wait_until(&mut state, deadline).timed_out() {
                let outstanding = shared.under_way(&state);
                drop(state);
                self.thaw();
                return Err(Error::Busy { outstanding, waited: patience });
            }
        }
        if state.mode == Mode::Closed { Err(Error::Closed) } else { Ok(()) }
    }

    /// Waits until nothing is under way and nothing comes for a moment; false past `patience`.
    pub(crate) fn drain(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        let mut quiet = 0;
        while quiet < QUIET_LOOKS {
            if Instant::now() > deadline {
                return false;
            }
            quiet = if self.is_quiet() { quiet + 1 } else { 0 };
            std::thread::sleep(QUIET_LOOK);
        }
        true
    }

    fn is_quiet(&self) -> bool {
        if self.is_closed() {
            return true;
        }
        let mut descriptors = [PollFd::new(self.shared.link.descriptor(), PollFlags::POLLIN)];
        let waiting = poll(&mut descriptors, PollTimeout::ZERO).is_ok_and(|ready| ready > 0);
        self.shared.under_way(&self.shared.state.lock()) == 0 && !waiting
    }

    /// Takes messages again.
    pub(crate) fn thaw(&self) {
        let shared = &self.shared;
        let mut state = shared.state.lock();
        if state.mode == Mode::Frozen {
            state.mode = Mode::Running;
            shared.stopping.store(false, Ordering::SeqCst);
            // Fails only where nothing is to be read, which is what we want.
            _ = shared.wake.read();
            shared.changed.notify_all();
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
        let mut worker = Worker::new(Arc::clone(self), kept);
        self.start("fuse-worker", move |shared| {
            worker.work();
            shared.state.lock().threads -= 1;
        })
    }

    fn spawn_watcher(self: &Arc<Self>) -> io::Result<()> {
        self.start("fuse-watcher", |shared| shared.watch())
    }

    fn start(
        self: &Arc<Self>,
        name: &str,
        run: impl FnOnce(&Arc<Self>) + Send + 'static,
    ) -> io::Result<()> {
        let shared = Arc::clone(self);
        let handle = std::thread::Builder::new()
            .name(name.into())
            .stack_size(THREAD_STACK_BYTES)
            .spawn(move || run(&shared))?;
        let mut handles = self.handles.lock();
        handles.retain(|handle| !handle.is_finished());
        handles.push(handle);
        Ok(())
    }

    /// One more thread, for a role that nobody was free to take.
    fn spawn_extra(self: &Arc<Self>) {
        if let Err(error) = self.spawn(false) {
            tracing::warn!(%error, "no more worker threads");
            self.state.lock().threads -= 1;
        }
    }

    /// Looks after the leader until the pool is closed.
    fn watch(self: &Arc<Self>) {
        let mut watch = Watch::default();
        let mut state = self.state.lock();
        while state.mode != Mode::Closed {
            let mut spawn = false;
            match watch.tick(self.lead.look()) {
                Advice::Replace(turn) => spawn = self.lead.end(turn) && self.depose(&mut state),
                Advice::Help if self.link.takes_help() && state.idle > 0 => {
                    state.help_wanted = true;
                    self.called.notify_one();
                }
                Advice::Rest => {
                    self.unwatched.store(true, Ordering::SeqCst);
                    // Whoever begins from here on sees the flag.
                    if watch.is_up_to_date(self.lead.look()) {
                        self.begun.wait(&mut state);
                    }
                    self.unwatched.store(false, Ordering::SeqCst);
                }
                Advice::Help | Advice::Wait => {}
            }
            if spawn {
                parking_lot::MutexGuard::unlocked(&mut state, || self.spawn_extra());
            }
            self.begun.wait_for(&mut state, TICK);
        }
    }

    /// A request begins: it shall be watched.
    fn rouse_watcher(&self) {
        if self.unwatched.load(Ordering::SeqCst) {
            let _state = self.state.lock();
            self.begun.notify_one();
        }
    }

    /// The leader was replaced during a request; true where a thread must be started to lead.
    fn depose(&self, state: &mut State) -> bool {
        state.receiving -= 1;
        state.outstanding += 1;
        self.vacate(state)
    }

    /// Nobody leads; true where a thread must be started to do it, which counts already.
    fn vacate(&self, state: &mut State) -> bool {
        state.vacant = true;
        if state.idle > 0 {
            self.called.notify_one();
            return false;
        }
        let spawn = state.mode != Mode::Closed && state.threads < self.threads.max;
        state.threads += usize::from(spawn);
        spawn
    }

    /// True where all that came is answered. While nobody receives, nobody holds the link's lock.
    fn stands_still(&self, state: &State) -> bool {
        state.receiving == 0 && state.outstanding == 0 && !self.link.has_buffered()
    }

    /// Messages taken and not yet answered.
    fn under_way(&self, state: &State) -> usize {
        state.outstanding + usize::from(self.lead.look().handling().is_some())
    }

    /// The mode has changed to one in which leaders stop.
    fn stop_leaders(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        // Fails only where the counter is full, and then it is readable.
        _ = self.wake.write(1);
    }

    /// True where it was open.
    fn close(&self) -> bool {
        let mut state = self.state.lock();
        let was_open = std::mem::replace(&mut state.mode, Mode::Closed) != Mode::Closed;
        state.syncs_waiting.clear();
        self.stop_leaders();
        self.changed.notify_all();
        self.called.notify_all();
        self.begun.notify_all();
        was_open
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

#[cfg(test)]
mod tests;
