//! One thread of a pool: waits for a role, and plays it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::Shared;
use super::eyes::Seen;
use super::pacing::Pace;
use super::spin::Looked;
use super::state::{Mode, State};
use crate::limits::{SYNCS_WAITING_MAX, THREAD_IDLE};
use crate::link::{Message, Received};
use crate::request::Header;

/// A leader that was replaced for longer than this was at a long request. One that only had to wait
/// for a processor is back before.
const LONG: Duration = Duration::from_millis(16);

/// What a thread can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Receive, alone.
    Lead,
    /// Receive beside the leader until there is nothing.
    Help,
    /// Run the sync that was taken from the queue.
    Sync,
}

/// Where a thread that received goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Taken {
    /// It handles the message and has no other role any more.
    Apart,
    /// The message is in the queue of syncs.
    Queued,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Worker {
    shared: Arc<Shared>,
    kept: bool,
    message: Message,
}

impl Worker {
    pub(super) fn new(shared: Arc<Shared>, kept: bool) -> Self {
        Self { shared, kept, message: Message::default() }
    }

    /// Until the pool is closed, or there was nothing to do for so long that the thread may leave.
    pub(super) fn work(&mut self) {
        while let Some(role) = self.next_role() {
            let received = match role {
                Role::Lead => self.lead(),
                Role::Help => self.help(),
                Role::Sync => {
                    self.answer();
                    self.end_apart(Pace::Sync);
                    Ok(())
                }
            };
            if let Err(error) = received {
                self.shared.state.lock().receiving -= 1;
                if self.shared.close() {
                    tracing::warn!(%error, "the kernel cannot be heard; the channel closes");
                }
            }
        }
    }

    fn next_role(&mut self) -> Option<Role> {
        let shared = Arc::clone(&self.shared);
        let mut state = shared.state.lock();
        let mut rested = false;
        while state.mode != Mode::Closed {
            if self.take_waiting_sync(&mut state) {
                // This thread may be the one that was called to lead.
                let spawn = state.vacant && shared.vacate(&mut state);
                drop(state);
                if spawn {
                    shared.spawn_extra();
                }
                return Some(Role::Sync);
            }
            if state.vacant {
                state.vacant = false;
                state.receiving += 1;
                return Some(Role::Lead);
            }
            if state.help_wanted {
                state.help_wanted = false;
                return Some(Role::Help);
            }
            if rested && !self.kept {
                return None;
            }
            state.idle += 1;
            if rested {
                shared.called.wait(&mut state);
            } else {
                rested = shared.called.wait_for(&mut state, THREAD_IDLE).timed_out();
            }
            state.idle -= 1;
            if rested {
                self.message.release();
            }
        }
        None
    }

    fn take_waiting_sync(&mut self, state: &mut State) -> bool {
        if state.syncing >= self.shared.threads.syncs_max() {
            return false;
        }
        let Some(waiting) = state.syncs_waiting.pop_front() else { return false };
        state.syncing += 1;
        self.message.set(&waiting);
        true
    }

    /// Receives and handles, until something is handled apart or the role is taken away.
    fn lead(&mut self) -> io::Result<()> {
        while self.receive()? {
            let (opcode, pace) = self.shared.pacing.of(self.message.bytes());
            if pace == Pace::Brief {
                if !self.handle_as_leader(opcode) {
                    return Ok(());
                }
            } else if self.take(pace, Role::Lead) == Taken::Apart {
                self.answer();
                self.end_apart(pace);
                return Ok(());
            }
        }
        Ok(())
    }

    /// False where another thread leads by now.
    fn handle_as_leader(&self, opcode: u32) -> bool {
        let lead = &self.shared.lead;
        let begun = Instant::now();
        let turn = lead.begin();
        self.shared.rouse_watcher();
        self.answer();
        if lead.end(turn) {
            return true;
        }
        if begun.elapsed() >= LONG {
            self.shared.pacing.doubt(opcode);
        }
        self.end_apart(Pace::Brief);
        false
    }

    /// Receives and handles as long as there is something at once.
    fn help(&mut self) -> io::Result<()> {
        loop {
            {
                let mut state = self.shared.state.lock();
                if state.mode != Mode::Running {
                    return Ok(());
                }
                state.receiving += 1;
            }
            if self.shared.link.receive(&mut self.message)? != Received::Message {
                // An end is found by the leader, too.
                self.end_receiving();
                return Ok(());
            }
            let (_, pace) = self.shared.pacing.of(self.message.bytes());
            if self.take(pace, Role::Help) == Taken::Apart {
                self.answer();
                self.end_apart(pace);
            }
        }
    }

    fn answer(&self) {
        let shared = &self.shared;
        if let Some(reply) = shared.session.answer(self.message.bytes())
            && let Err(error) = reply.send(shared.link.as_ref())
            && shared.close()
        {
            // Said once: as many threads may find it out as there are.
            tracing::warn!(%error, "the kernel cannot be answered; the channel closes");
        }
    }

    /// Counts what was received, and gives the lead away where this thread will handle it.
    fn take(&self, pace: Pace, role: Role) -> Taken {
        let shared = &self.shared;
        let mut state = shared.state.lock();
        state.outstanding += 1;
        if pace == Pace::Sync && state.syncing >= shared.threads.syncs_max() {
            while state.syncs_waiting.len() >= SYNCS_WAITING_MAX && state.mode != Mode::Closed {
                shared.changed.wait(&mut state);
            }
            // A request without a header is not taken for a sync.
            state.syncs_waiting.extend(Header::alone(self.message.bytes()));
            state.receiving -= usize::from(role == Role::Help);
            return Taken::Queued;
        }
        state.receiving -= 1;
        state.syncing += usize::from(pace == Pace::Sync);
        let spawn = role == Role::Lead && shared.vacate(&mut state);
        drop(state);
        if spawn {
            shared.spawn_extra();
        }
        Taken::Apart
    }

    fn end_apart(&self, pace: Pace) {
        let mut state = self.shared.state.lock();
        let sync = pace == Pace::Sync;
        state.outstanding -= 1;
        state.syncing -= usize::from(sync);
        if state.mode != Mode::Running || sync {
            self.shared.changed.notify_all();
        }
    }

    /// Waits for a message, as the leader. False where the channel is closed, and nobody leads.
    fn receive(&mut self) -> io::Result<bool> {
        let shared = Arc::clone(&self.shared);
        let link = shared.link.as_ref();
        let mut patience = Some(THREAD_IDLE);
        let mut readable = false;
        let mut looked = false;
        loop {
            if shared.stopping.load(Ordering::SeqCst) && !self.stand_still() {
                return Ok(false);
            }
            if readable || link.is_queue() || link.has_buffered() {
                match link.receive(&mut self.message)? {
                    Received::Message => return Ok(true),
                    Received::Nothing => {}
                    Received::End => {
                        shared.close();
                        continue;
                    }
                }
            }
            shared.lead.found_nothing();
            if !looked && link.is_queue() && shared.spin.lock().is_worth_it() && self.look()? {
                return Ok(true);
            }
            looked = true;
            readable = false;
            if !link.may_sleep()? {
                continue;
            }
            match shared.eyes.wait(patience)? {
                Seen::Link => readable = true,
                Seen::Wake => {}
                Seen::Nothing => {
                    self.message.release();
                    patience = None;
                }
            }
        }
    }

    /// Looks for a message for a moment without sleeping; whoever else wants the processor gets it.
    fn look(&mut self) -> io::Result<bool> {
        let shared = &self.shared;
        let (begun, look) = (Instant::now(), shared.link.look());
        let (mut found, mut took) = (false, Duration::ZERO);
        while !found && took < look && !shared.stopping.load(Ordering::Relaxed) {
            std::thread::yield_now();
            found = shared.link.receive(&mut self.message)? == Received::Message;
            took = begun.elapsed();
        }
        shared.spin.lock().looked(if found { Looked::Found } else { Looked::InVain }, took, look);
        Ok(found)
    }

    /// Stands still while frozen. False where the channel is closed; then nobody leads.
    fn stand_still(&self) -> bool {
        let shared = &self.shared;
        let mut state = shared.state.lock();
        while state.mode == Mode::Frozen && !shared.link.has_buffered() {
            state.receiving -= 1;
            shared.changed.notify_all();
            shared.changed.wait(&mut state);
            state.receiving += 1;
        }
        if state.mode == Mode::Closed {
            state.receiving -= 1;
            shared.changed.notify_all();
        }
        state.mode != Mode::Closed
    }

    fn end_receiving(&self) {
        let mut state = self.shared.state.lock();
        state.receiving -= 1;
        if state.mode != Mode::Running {
            self.shared.changed.notify_all();
        }
    }
}
