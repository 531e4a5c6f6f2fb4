//! Has the host keys of an SSH server made, beside everything else: they take seconds.
//!
//! # Invariants
//! - A maker that came with another machine's memory never finishes here: it would go on with that one's
//!   random numbers, and both would have the same keys.
//! - Keys are owed until a maker has ended well ([`crate::identity`] notes that on the disk).

use std::sync::{Arc, Mutex, PoisonError};

use nix::unistd::Pid;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::console::say;
use crate::exec::{self, Starter};
use crate::identity::{self, MAKE_HOST_KEYS, Places};
use crate::limits::{KILLED_TIMEOUT, READY_BESIDE_AFTER};
use crate::sys::Ended;

/// See the module.
#[derive(Debug)]
pub(crate) struct HostKeys {
    starter: Arc<Starter>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Where they are to be made once processes go on.
    wanted: Option<Places>,
    maker: Option<Maker>,
}

#[derive(Debug)]
struct Maker {
    pid: Pid,
    is_gone: watch::Receiver<bool>,
}

impl HostKeys {
    pub(crate) fn new(starter: Arc<Starter>) -> Self {
        Self { starter, state: Mutex::default() }
    }

    /// They are to be made.
    pub(crate) fn want(&self, places: Places) {
        self.lock().wanted = Some(places);
    }

    /// Begins to make those that are wanted. Not while processes are held: it would be held with them.
    pub(crate) async fn make(&self) {
        let Some(places) = self.lock().wanted.take() else { return };
        let Some(own) = exec::start_own(&MAKE_HOST_KEYS, &self.starter).await else { return };
        let (gone, is_gone) = watch::channel(false);
        self.lock().maker = Some(Maker { pid: own.pid, is_gone });
        self.starter.make_ready_after(READY_BESIDE_AFTER);
        drop(tokio::spawn(async move {
            match own.ended.await {
                Ok(Ended::Code(0)) => identity::made_host_keys(&places),
                Ok(ended) => say(&format!("host keys are not made: {ended:?}")),
                Err(_) => {}
            }
            gone.send_replace(true);
        }));
    }

    /// Ends a maker that is under way, also one that is held. True where there was one: what it was to make
    /// is to be made anew.
    pub(crate) async fn end_maker(&self, places: &Places) -> bool {
        let Some(mut maker) = self.lock().maker.take() else { return false };
        if self.starter.reaper().signal_group(maker.pid, libc::SIGKILL).is_err() {
            return false;
        }
        if timeout(KILLED_TIMEOUT, maker.is_gone.wait_for(|gone| *gone)).await.is_err() {
            say("what makes host keys cannot be ended");
        }
        identity::remove_half_made_keys(places);
        true
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // PID 1 has to go on in any case.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
