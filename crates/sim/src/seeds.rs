//! Many seeds on a few threads.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

/// What came of them.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Seeds that were run.
    pub seeds: u64,
    /// What they returned, added up.
    pub total: u64,
    /// What those that failed said, by seed.
    pub failed: Vec<String>,
}

/// Failures after which no further seed is begun.
const FAILURES_MAX: usize = 5;

/// Runs `one` for each seed, on `threads` threads.
pub fn seeds(
    range: Range<u64>,
    threads: usize,
    one: impl Fn(u64) -> Result<u64, String> + Sync,
) -> Outcome {
    let next = AtomicU64::new(range.start);
    let done = Mutex::new((Outcome::default(), Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= range.end || done.lock().1.len() >= FAILURES_MAX {
                        return;
                    }
                    let outcome =
                        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| one(seed)));
                    let outcome = outcome.unwrap_or_else(|_| {
                        Err(format!("seed {seed}: a panic; see standard error"))
                    });
                    let (sum, failed) = &mut *done.lock();
                    sum.seeds += 1;
                    match outcome {
                        Ok(count) => sum.total += count,
                        Err(what) => failed.push((seed, what)),
                    }
                }
            });
        }
    });
    let (mut outcome, mut failed) = done.into_inner();
    failed.sort();
    outcome.failed = failed.into_iter().map(|(_, what)| what).collect();
    outcome
}
