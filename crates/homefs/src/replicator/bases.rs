//! Bases that are written beside the log: when, of what, and which one is on its way.

use std::sync::Arc;
use std::time::Instant;

use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use crate::limits::BASE_REST;
use crate::meta::arrange::arrange;
use crate::replica::base::{base_pays, needs_base};
use crate::replica::log::Log;
use crate::wal::PageView;

/// The next base, and the one on its way. The newest commit of the log is that of the last round.
#[derive(Debug)]
pub(super) struct Bases {
    runtime: Handle,
    /// The state of the newest commit, where a base of it is to be written once the home is at rest.
    resting: Option<Arc<PageView>>,
    /// On its way to the store, and which commit it is of.
    running: Option<(u64, JoinHandle<bool>)>,
}

impl Bases {
    /// None yet.
    pub(super) fn new(runtime: Handle) -> Self {
        Self { runtime, resting: None, running: None }
    }

    /// The newest commit is confirmed, and has this state. True where a base of it cannot wait.
    pub(super) fn confirmed(&mut self, log: &Log, view: Option<Arc<PageView>>) -> bool {
        // Of a home that was given up there is no head.
        let head = log.writer_head();
        self.resting = view.filter(|_| head.is_some_and(base_pays));
        head.is_some_and(needs_base)
    }

    /// True while one is on its way.
    pub(super) fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// When one is to be written, if nothing changes after the `last` round.
    pub(super) fn rests_at(&self, last: Option<Instant>) -> Option<Instant> {
        let waits = self.resting.is_some() && !self.is_running();
        last.filter(|_| waits).map(|last| last + BASE_REST)
    }

    /// Writes a base of the newest commit beside the log, where enough lies above the last one.
    pub(super) fn start(&mut self, log: &Log) {
        if self.is_running() {
            return;
        }
        // Taken in any case: one that came too late for a base is not to be looked at again.
        let Some(view) = self.resting.take() else { return };
        let Some(head) = log.writer_head().filter(|head| base_pays(head)) else { return };
        let (log, head) = (log.reader(), head.clone());
        let seq = head.seq;
        let task = self.runtime.spawn(async move {
            let written = log.write_base(&head, view, arrange).await;
            if let Err(error) = &written {
                tracing::warn!(%error, seq, "a base could not be written; trying again later");
            }
            written.is_ok()
        });
        self.running = Some((seq, task));
    }

    /// Notes one that is done.
    pub(super) fn finish(&mut self, log: &mut Log) {
        if self.running.as_ref().is_some_and(|(_, task)| task.is_finished()) {
            self.wait(log);
        }
    }

    /// Waits for the one on its way, and notes it.
    pub(super) fn wait(&mut self, log: &mut Log) {
        if let Some((seq, task)) = self.running.take()
            && self.runtime.block_on(task).unwrap_or(false)
        {
            log.note_base(seq);
        }
    }
}
