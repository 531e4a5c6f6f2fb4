//! Back-pressure: writers wait while too much of what they wrote is on this host only.
//!
//! # Order
//! Before a write, [`Pressure::admit`]: below the soft bound it costs one load; above it the caller
//! pauses, the longer the nearer the hard bound is; at the hard bound it waits until something was
//! stored. After it, [`Pressure::wrote`]. The replicator takes off what it stores, and corrects the
//! count by the database, which knows what was overwritten or removed meanwhile.
//!
//! # Invariants
//! - The count is never too low by more than the writes that are under way, one for each caller.
//! - Nobody waits here with a lock, and neither folding nor replication comes through here.
//! - Callers may hold the threads that calls on the store need, so only [`WAITERS_MAX`] wait. More
//!   can only come over HTTP; they are told to try again.
//!
//! # Not here
//! Content without a name: it is stored once it has one, and counts from then on.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use base::{ErrorKind, MIB};
use parking_lot::{Condvar, Mutex};
use vfs::{Errno, FsError, Result};

/// Writers that wait at once; well below the threads of a runtime that may block.
const WAITERS_MAX: usize = 256;
/// What a writer gets just above the soft bound, in bytes a second;
const RATE_FIRST: u64 = 256 * MIB;
/// and just below the hard one.
const RATE_LAST: u64 = MIB;
/// The longest pause of one write below the hard bound.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// How hard writers are pressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BackPressure {
    /// Writes are not held up.
    #[default]
    None,
    /// Above the soft bound: writes are slowed down.
    Slowed,
    /// At the hard bound: writes wait for the store.
    Waiting,
}

/// The bounds, and where the home stands.
#[derive(Debug)]
pub(crate) struct Pressure {
    soft: u64,
    hard: u64,
    /// As in `state`, to look at without a lock.
    lacking: AtomicU64,
    state: Mutex<State>,
    eased: Condvar,
    on_high: OnceLock<Signal>,
}

struct Signal(Box<dyn Fn() + Send + Sync>);

#[derive(Debug, Default)]
struct State {
    /// Bytes that the store lacks.
    lacking: u64,
    /// Bytes that were ever written.
    written: u64,
    waiting: usize,
    closed: bool,
}

/// What was written up to some moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mark(u64);

impl Pressure {
    /// With at most `hard` bytes that the store lacks; half of it is the soft bound.
    pub(crate) fn new(hard: u64) -> Self {
        let (state, eased) = (Mutex::default(), Condvar::new());
        let (soft, lacking) = (hard / 2, AtomicU64::new(0));
        Self { soft, hard: hard.max(1), lacking, state, eased, on_high: OnceLock::new() }
    }

    /// What to call when the count comes to the soft bound, and when somebody waits. Must not block.
    pub(crate) fn set_on_high(&self, signal: impl Fn() + Send + Sync + 'static) {
        self.on_high.set(Signal(Box::new(signal))).ok();
    }

    /// Returns when `bytes` more may be written, or when the home is closed.
    ///
    /// # Errors
    /// `Unavailable` where too many wait already.
    pub(crate) fn admit(&self, bytes: u64) -> Result<()> {
        if self.lacking.load(Ordering::Relaxed) < self.soft {
            return Ok(());
        }
        let mut state = self.state.lock();
        let pause = pause(self.soft, self.hard, state.lacking, bytes);
        let until = Instant::now() + pause;
        if state.waiting >= WAITERS_MAX {
            let why = "the object store is behind and too many writers wait; try again";
            return Err(FsError::of_kind(ErrorKind::Unavailable, Errno::EAGAIN, why));
        }
        state.waiting += 1;
        let mut asked = false;
        while !state.closed && state.lacking >= self.soft {
            if state.lacking < self.hard {
                if self.eased.wait_until(&mut state, until).timed_out() {
                    break;
                }
                continue;
            }
            if !std::mem::replace(&mut asked, true) {
                metrics::counter!("homefs_write_waits_total").increment(1);
                self.signal();
            }
            self.eased.wait(&mut state);
        }
        state.waiting -= 1;
        Ok(())
    }

    /// So many bytes were written.
    pub(crate) fn wrote(&self, bytes: u64) {
        let mut state = self.state.lock();
        let before = state.lacking;
        state.written += bytes;
        self.set(&mut state, before.saturating_add(bytes));
        if before < self.soft && state.lacking >= self.soft {
            drop(state);
            self.signal();
        }
    }

    /// So many bytes were stored.
    pub(crate) fn stored(&self, bytes: u64) {
        let mut state = self.state.lock();
        let lacking = state.lacking.saturating_sub(bytes);
        self.set(&mut state, lacking);
        self.eased.notify_all();
    }

    /// To be taken before the database is asked.
    pub(crate) fn mark(&self) -> Mark {
        Mark(self.state.lock().written)
    }

    /// The database, asked after `mark`, says that the store lacks so many bytes.
    pub(crate) fn measured(&self, mark: Mark, bytes: u64) {
        let mut state = self.state.lock();
        let since = state.written - mark.0;
        self.set(&mut state, bytes.saturating_add(since));
        self.eased.notify_all();
    }

    /// Nobody waits from now on.
    pub(crate) fn close(&self) {
        self.state.lock().closed = true;
        self.eased.notify_all();
    }

    /// True where the store should get everything soon.
    pub(crate) fn is_high(&self) -> bool {
        self.lacking.load(Ordering::Relaxed) >= self.soft
    }

    /// True where it is worth to ask the database: the count may be too high.
    pub(crate) fn is_noticeable(&self) -> bool {
        self.lacking.load(Ordering::Relaxed) >= self.soft / 2
    }

    /// What writers feel.
    pub(crate) fn felt(&self) -> BackPressure {
        match self.lacking.load(Ordering::Relaxed) {
            lacking if lacking >= self.hard => BackPressure::Waiting,
            lacking if lacking >= self.soft => BackPressure::Slowed,
            _ => BackPressure::None,
        }
    }

    fn set(&self, state: &mut State, lacking: u64) {
        state.lacking = lacking;
        self.lacking.store(lacking, Ordering::Relaxed);
    }

    fn signal(&self) {
        if let Some(Signal(signal)) = self.on_high.get() {
            signal();
        }
    }
}

impl std::fmt::Debug for Signal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Signal")
    }
}

/// How long a write of `bytes` pauses where the store lacks `lacking`. Pure.
fn pause(soft: u64, hard: u64, lacking: u64, bytes: u64) -> Duration {
    if lacking < soft {
        return Duration::ZERO;
    }
    // From 0 at the soft bound to 1 at the hard one. Falling by powers, since the last of the way
    // is what there is to be saved.
    let way = (lacking - soft) as f64 / (hard - soft).max(1) as f64;
    let fall = (RATE_LAST as f64 / RATE_FIRST as f64).powf(way.min(1.0));
    Duration::from_secs_f64(bytes as f64 / (RATE_FIRST as f64 * fall)).min(PAUSE_MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;

    use super::*;

    const KIB: u64 = 1 << 10;

    #[test]
    fn the_pause_grows_from_nothing_to_the_slowest_rate() {
        let at = |lacking| pause(4 * MIB, 8 * MIB, lacking, 128 * KIB);
        assert_eq!(at(4 * MIB - 1), Duration::ZERO);
        assert!(at(4 * MIB) < Duration::from_millis(1));
        assert!(at(5 * MIB) < at(6 * MIB) && at(6 * MIB) < at(7 * MIB));
        let last = at(8 * MIB);
        assert!(last > Duration::from_millis(120) && last < Duration::from_millis(130), "{last:?}");
        assert_eq!(pause(1, 2, 2, u64::MAX), PAUSE_MAX);
        assert_eq!(pause(0, 1, 0, 0), Duration::ZERO);
    }

    #[test]
    fn a_writer_at_the_hard_bound_waits_for_the_store_and_says_so() {
        let pressure = Arc::new(Pressure::new(1_000));
        let signals = Arc::new(AtomicUsize::new(0));
        let counted = signals.clone();
        pressure.set_on_high(move || {
            counted.fetch_add(1, Ordering::SeqCst);
        });
        pressure.wrote(499);
        assert_eq!((pressure.felt(), signals.load(Ordering::SeqCst)), (BackPressure::None, 0));
        pressure.wrote(501);
        assert_eq!((pressure.felt(), signals.load(Ordering::SeqCst)), (BackPressure::Waiting, 1));
        let waiter = std::thread::spawn({
            let pressure = pressure.clone();
            move || pressure.admit(10)
        });
        while signals.load(Ordering::SeqCst) < 2 {
            std::thread::yield_now();
        }
        assert!(!waiter.is_finished());
        pressure.stored(600);
        waiter.join().unwrap().unwrap();
        assert_eq!(pressure.felt(), BackPressure::None);
    }

    #[test]
    fn what_is_written_while_the_database_is_asked_still_counts() {
        let pressure = Pressure::new(1_000);
        pressure.wrote(900);
        let mark = pressure.mark();
        pressure.wrote(30);
        pressure.measured(mark, 100);
        assert_eq!(pressure.state.lock().lacking, 130);
    }

    #[test]
    fn closing_ends_all_waits_and_a_crowd_is_sent_away() {
        let pressure = Arc::new(Pressure::new(100));
        pressure.wrote(100);
        let waiters: Vec<_> = (0..WAITERS_MAX)
            .map(|_| {
                let pressure = pressure.clone();
                std::thread::spawn(move || pressure.admit(1))
            })
            .collect();
        while pressure.state.lock().waiting < WAITERS_MAX {
            std::thread::yield_now();
        }
        assert_eq!(pressure.admit(1).unwrap_err().kind(), ErrorKind::Unavailable);
        pressure.close();
        for waiter in waiters {
            waiter.join().unwrap().unwrap();
        }
        pressure.admit(1).unwrap();
    }
}
