//! What is under way between kernel and host, and the gate that lets nothing more get under way.
//!
//! # Order
//! [`Gate::close`]: the thread that reads `/dev/fuse` keeps the one message it may have read.
//! [`Gate::drained`]: all that was sent is answered to the kernel. Then the mark goes to the host
//! ([`agent_proto::MARK_OPCODE`]); with its answer, [`Gate::mark_answered`], the host has taken
//! everything before it, that which has no answer too. [`Gate::open`] forwards what was kept.
//!
//! # Invariants
//! - A request is under way from before its first byte is written to the host until its reply was
//!   written to `/dev/fuse`, whatever the kernel says to that: it refuses replies to what was
//!   interrupted.
//! - Requests are known by their `unique`, so a host that answers twice, or what nobody asked,
//!   changes nothing. The kernel has no two under way with the same one.
//! - The memory for them is bounded by what the kernel keeps for each in any case.
//!
//! # Failure
//! Once the relay has ended the gate is open, and whoever waits for it hears `ENODEV`.

use std::collections::HashMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use agent_proto::{MARK_OPCODE, MARK_UNIQUE_MIN};
use nix::errno::Errno;
use tokio::sync::Notify;

/// `struct fuse_in_header`; a request begins with length, opcode and unique.
const REQUEST_HEADER_BYTES: usize = 40;
/// Requests without a reply: `FORGET`, `INTERRUPT`, `NOTIFY_REPLY`, `BATCH_FORGET`.
const WITHOUT_REPLY: [u32; 4] = [2, 36, 41, 42];

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Gate {
    state: Mutex<State>,
    opened: Condvar,
    /// Told of what whoever closed it may wait for.
    progress: Notify,
}

#[derive(Debug, Default)]
struct State {
    closed: bool,
    /// A message is being written to the host.
    passing: bool,
    /// Opcodes of requests that are not answered, by `unique`.
    unanswered: HashMap<u64, u32>,
    /// Number of the newest mark.
    mark: u64,
    mark_is_back: bool,
    ended: bool,
}

/// A message on its way through the gate; dropped once it is written to the host.
#[derive(Debug)]
pub(super) struct Passing<'a>(&'a Gate);

impl Drop for Passing<'_> {
    fn drop(&mut self) {
        self.0.change(|state| state.passing = false);
    }
}

impl Gate {
    /// Counts `message` and lets it through to the host; waits while the gate is closed. One at a time.
    pub(super) fn pass(&self, message: &[u8]) -> Passing<'_> {
        let mut state = self.lock();
        while state.closed {
            state = self.opened.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if let Some((opcode, unique)) = awaits_reply(message) {
            state.unanswered.insert(unique, opcode);
        }
        state.passing = true;
        Passing(self)
    }

    /// The kernel was given the reply to `unique`.
    pub(super) fn answered(&self, unique: u64) {
        self.change(|state| _ = state.unanswered.remove(&unique));
    }

    /// True where nobody waits for the reply to `unique` any more.
    pub(super) fn is_answered(&self, unique: u64) -> bool {
        !self.lock().unanswered.contains_key(&unique)
    }

    /// Takes a reply that is one to a mark, and so not for the kernel.
    pub(super) fn takes(&self, unique: u64) -> bool {
        if unique < MARK_UNIQUE_MIN {
            return false;
        }
        // One to an older mark, for which nobody had the patience, says nothing of this one.
        self.change(|state| state.mark_is_back |= unique == MARK_UNIQUE_MIN + state.mark);
        true
    }

    /// The relay has ended: nothing goes through any more.
    pub(super) fn end(&self) {
        self.change(|state| state.ended = true);
        self.open();
    }

    /// Lets nothing through from now on.
    pub(super) fn close(&self) {
        self.lock().closed = true;
    }

    /// Lets everything through.
    pub(super) fn open(&self) {
        self.lock().closed = false;
        self.opened.notify_all();
    }

    /// Returns once nothing that was sent waits for an answer. The gate is closed.
    pub(super) async fn drained(&self) -> Result<(), Errno> {
        self.wait_for(|state| !state.passing && state.unanswered.is_empty()).await
    }

    /// The next mark: a message that the host will answer and does nothing about.
    pub(super) fn mark(&self) -> [u8; REQUEST_HEADER_BYTES] {
        let mut state = self.lock();
        state.mark += 1;
        state.mark_is_back = false;
        let mut message = [0; REQUEST_HEADER_BYTES];
        message[..4].copy_from_slice(&(REQUEST_HEADER_BYTES as u32).to_ne_bytes());
        message[4..8].copy_from_slice(&MARK_OPCODE.to_ne_bytes());
        message[8..16].copy_from_slice(&(MARK_UNIQUE_MIN + state.mark).to_ne_bytes());
        message
    }

    /// Returns once the newest mark is answered.
    pub(super) async fn mark_answered(&self) -> Result<(), Errno> {
        self.wait_for(|state| state.mark_is_back).await
    }

    /// What a closed gate waits for, in words.
    pub(super) fn under_way(&self) -> String {
        let state = self.lock();
        let requests = state.unanswered.len();
        match state.unanswered.values().min() {
            Some(opcode) => format!(
                "file requests that the host has not answered ({requests}, one of FUSE opcode {opcode})"
            ),
            None if state.passing => "a message that the host does not take".to_owned(),
            None if state.closed => "messages that the host may not have taken".to_owned(),
            None => "no file request".to_owned(),
        }
    }

    async fn wait_for(&self, reached: impl Fn(&State) -> bool) -> Result<(), Errno> {
        loop {
            // Only one waits, so a word that came before this is kept for it.
            let told = self.progress.notified();
            {
                let state = self.lock();
                if state.ended {
                    return Err(Errno::ENODEV);
                }
                if reached(&state) {
                    return Ok(());
                }
            }
            told.await;
        }
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        change(&mut state);
        // While it is open nobody waits, and this is on the way of every request.
        if state.closed {
            self.progress.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Opcode and unique of a request that the host has to answer.
pub(super) fn awaits_reply(message: &[u8]) -> Option<(u32, u64)> {
    let [_, _, _, _, a, b, c, d, unique @ ..] = message.first_chunk::<16>()?;
    let opcode = u32::from_ne_bytes([*a, *b, *c, *d]);
    (!WITHOUT_REPLY.contains(&opcode)).then_some((opcode, u64::from_ne_bytes(*unique)))
}

#[cfg(test)]
mod tests;
