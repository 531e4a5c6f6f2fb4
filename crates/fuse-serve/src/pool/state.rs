//! What the threads of a pool agree on, under one lock.
//!
//! A leader that handles one short request after the other changes none of it and does not take the
//! lock.

use std::collections::VecDeque;

use crate::request::HeaderBytes;

/// See the module.
#[derive(Debug)]
pub(super) struct State {
    pub(super) mode: Mode,
    /// Nobody leads: whoever is free takes the lead.
    pub(super) vacant: bool,
    /// The leader asks for one thread that receives too.
    pub(super) help_wanted: bool,
    /// Threads that may be taking a message just now; a leader counts while it handles one, too.
    pub(super) receiving: usize,
    /// Messages taken and not yet answered, but the one that a leader handles.
    pub(super) outstanding: usize,
    pub(super) threads: usize,
    /// Threads that wait for a role.
    pub(super) idle: usize,
    pub(super) syncing: usize,
    pub(super) syncs_waiting: VecDeque<HeaderBytes>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            mode: Mode::Running,
            vacant: true,
            help_wanted: false,
            receiving: 0,
            outstanding: 0,
            threads: 0,
            idle: 0,
            syncing: 0,
            syncs_waiting: VecDeque::new(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Running,
    Frozen,
    Closed,
}
