//! Whether a sync has failed.
//!
//! The kernel tells of what it could not write once, and may drop it then: the next sync finds nothing to do and
//! succeeds. So one that failed is never taken back.

use std::io;

use parking_lot::Mutex;

use crate::error::{Error, Result};

/// See the module. Of one opened disk.
#[derive(Debug, Default)]
pub(super) struct Latch {
    /// Why.
    failed: Mutex<Option<String>>,
    /// The next sync fails.
    #[cfg(test)]
    pub(super) breaks: std::sync::atomic::AtomicBool,
}

impl Latch {
    /// Runs a sync, unless one failed.
    pub(super) fn sync(&self, work: impl FnOnce() -> Result<()>) -> Result<()> {
        // One at a time: one that ends while another's failure is not yet known here would be believed.
        let mut failed = self.failed.lock();
        if let Some(why) = &*failed {
            let source = io::Error::other(format!("it failed before: {why}"));
            return Err(Error::Disk { doing: "sync the upper", source });
        }
        #[cfg(test)]
        let broken = self.breaks.swap(false, std::sync::atomic::Ordering::SeqCst);
        #[cfg(not(test))]
        let broken = false;
        let done = if broken {
            Err(Error::disk("sync the upper")(io::Error::from_raw_os_error(5)))
        } else {
            work()
        };
        if let Err(error) = &done {
            *failed = Some(error.to_string());
        }
        done
    }

    /// Why a sync failed, for people.
    pub(super) fn failed(&self) -> Option<String> {
        // While one is under way none has failed.
        self.failed.try_lock().and_then(|failed| failed.clone())
    }
}
