//! Sleep with memory, as the guest takes part in it: trim, when to wake, freeze, thaw.
//!
//! # Order
//! Freeze: processes ([`Freezer`]), so that nothing new is written; file systems synced, while the
//! home still answers; then the relay of the home ([`Home::freeze`]). The host may then stop the
//! guest and save it. Thaw, by whichever host the guest finds itself with: clock and entropy,
//! before a process can look at them; the relay; the processes.
//!
//! # Invariants
//! - Frozen as a whole or not at all: a freeze that fails has thawed everything that it froze.
//! - Only one of them at a time. The end of the session that asked for one does not end it.
//! - A guest stays frozen until it is thawed or shut down. A host that cannot know whether its
//!   freeze got through, because the session ended, says thaw in the next one.
//!
//! # Failure
//! Past the host's patience the answer is `ETIMEDOUT` and what was still under way.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base::{Clock, SystemClock};
use nix::errno::Errno;
use nix::unistd::sync;
use tokio::sync::{Mutex, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

use crate::console::say;
use crate::freezer::Freezer;
use crate::home::{Home, Place};
use crate::limits::{FREEZE_PATIENCE_MAX, TRIM_TIMEOUT, WISH_TIMEOUT};
use crate::moment::Moment;
use crate::worker::Worker;
use crate::{Error, wake_at};

/// What can be frozen.
#[derive(Debug, Clone, Copy)]
struct Parts<'a> {
    freezer: &'a Freezer,
    home: &'a Home,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Sleep {
    /// Why there is none, where there is none.
    freezer: Result<Arc<Freezer>, String>,
    home: Arc<Place>,
    frozen: Mutex<bool>,
    syncing: Hand,
    /// Looks when to wake.
    looking: Hand,
}

/// A thread for what may hang in the kernel, where it holds up nothing else: neither this runtime nor its end.
/// Held by whoever uses it, until that is done: one that hangs is enough.
#[derive(Debug)]
struct Hand {
    name: &'static str,
    worker: Arc<Mutex<Option<Worker>>>,
}

impl Sleep {
    pub(crate) fn new(freezer: Result<Arc<Freezer>, String>, home: Arc<Place>) -> Self {
        let (syncing, looking) = (Hand::new("sync"), Hand::new("wake-at"));
        Self { freezer, home, frozen: Mutex::default(), syncing, looking }
    }

    /// Makes the threads that it will need.
    pub(crate) async fn prepare(&self) -> Result<(), Error> {
        self.syncing.prepare().await?;
        self.looking.prepare().await
    }

    /// What can be frozen, or why this guest cannot be.
    fn parts(&self) -> Result<Parts<'_>, String> {
        let freezer = self.freezer.as_ref().map_err(Clone::clone)?;
        Ok(Parts { freezer, home: self.home.home()? })
    }

    /// Writes back what is dirty and drops what is clean, so that there is less memory to keep.
    pub(crate) async fn trim(&self) -> Result<(), Error> {
        let doing = "drop the caches";
        let trimmed = self.syncing.run(|| {
            sync();
            fs::write("/proc/sys/vm/drop_caches", "3")
        });
        match timeout(TRIM_TIMEOUT, trimmed).await {
            Ok(trimmed) => trimmed?.map_err(Error::io(doing)),
            Err(_) => Err(Error::sys(doing)(Errno::ETIMEDOUT)),
        }
    }

    /// When the guest wants to be woken, in seconds since 1970.
    pub(crate) async fn wake_at(&self) -> Result<Option<i64>, Error> {
        let wished = self
            .looking
            .run(|| wake_at::wished_or_over(Path::new(wake_at::DIR), SystemClock::new().now()));
        match timeout(WISH_TIMEOUT, wished).await {
            Ok(wished) => Ok(wished?.map(|at| at.as_second())),
            Err(_) => Err(Error::sys("look when to wake")(Errno::ETIMEDOUT)),
        }
    }

    /// Freezes, within `patience`, unless `given_up` comes first. Nothing to do where it is frozen.
    ///
    /// # Errors
    /// `EOPNOTSUPP` where this guest has no freezer or no home, `ETIMEDOUT` past the patience.
    pub(crate) async fn freeze(
        &self,
        patience: Duration,
        given_up: impl Future<Output = ()>,
    ) -> Result<(), Error> {
        let deadline = Instant::now() + patience.min(FREEZE_PATIENCE_MAX);
        let parts = self.parts().map_err(|why| unsupported("freeze", &why))?;
        let mut frozen = self.frozen.lock().await;
        if *frozen {
            return Ok(());
        }
        let result = tokio::select! {
            biased;
            () = given_up => Err(Error::sys("freeze while shutting down")(Errno::ESHUTDOWN)),
            result = self.steps(parts, deadline) => result,
        };
        *frozen = match &result {
            Ok(()) => true,
            // What did not thaw is tried again by a thaw.
            Err(_) => parts.release().is_err(),
        };
        result
    }

    async fn steps(&self, parts: Parts<'_>, deadline: Instant) -> Result<(), Error> {
        let Parts { freezer, home } = parts;
        match timeout_at(deadline, freezer.freeze()).await {
            Ok(stopped) => stopped?,
            Err(_) => {
                return Err(late(&format!("{}; {}", freezer.waiting(), home.under_way())));
            }
        }
        match timeout_at(deadline, self.syncing.run(sync)).await {
            Ok(synced) => synced?,
            Err(_) => return Err(late(&format!("sync of the file systems; {}", home.under_way()))),
        }
        match timeout_at(deadline, home.freeze()).await {
            Ok(drained) => drained.map_err(Error::sys("drain the home")),
            Err(_) => Err(late(&home.under_way())),
        }
    }

    /// Whether processes are held.
    pub(crate) async fn is_frozen(&self) -> bool {
        *self.frozen.lock().await
    }

    /// Sets clock and entropy, and thaws where it is frozen, even if the former fails.
    pub(crate) async fn thaw(&self, moment: &Moment) -> Result<(), Error> {
        let mut frozen = self.frozen.lock().await;
        let set = moment.apply();
        if *frozen && let Ok(parts) = self.parts() {
            parts.release()?;
            *frozen = false;
        }
        set
    }

    /// Thaws for the shutdown, in which everything has to run once more; also what the user froze.
    pub(crate) async fn end(&self) {
        let mut frozen = self.frozen.lock().await;
        let was = std::mem::take(&mut *frozen);
        let Ok(parts) = self.parts() else { return };
        let released = if was { parts.release() } else { parts.freezer.thaw() };
        if let Err(error) = released {
            say(&error.to_string());
        }
    }
}

impl Parts<'_> {
    fn release(self) -> Result<(), Error> {
        self.home.thaw();
        self.freezer.thaw()
    }
}

/// What a guest, or an agent outside of one, cannot do.
pub(crate) fn unsupported(doing: &str, why: &str) -> Error {
    Error::sys(format!("{doing} ({why})"))(Errno::EOPNOTSUPP)
}

fn late(under_way: &str) -> Error {
    Error::sys(format!("freeze, still under way: {under_way}"))(Errno::ETIMEDOUT)
}

impl Hand {
    fn new(name: &'static str) -> Self {
        Self { name, worker: Arc::default() }
    }

    async fn prepare(&self) -> Result<(), Error> {
        let mut worker = self.worker.lock().await;
        if worker.is_none() {
            *worker = Some(Worker::start(self.name)?);
        }
        Ok(())
    }

    /// Has `work` done once nothing else is.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Error> {
        let mut turn = Arc::clone(&self.worker).lock_owned().await;
        let worker = turn.take().map_or_else(|| Worker::start(self.name), Ok)?;
        let (sender, done) = oneshot::channel();
        // One that a panic ends does not come back: the next has another.
        let back = worker.clone();
        worker.begin(move || {
            let result = work();
            *turn = Some(back);
            drop(turn);
            // Whoever asked may have lost patience.
            drop(sender.send(result));
        })?;
        done.await.map_err(|_| Error::sys(self.name)(Errno::EIO))
    }
}
