//! Measures the frequency of the host's time stamp counter.
//!
//! The guest cannot: microvm has no HPET and no PM timer, and calibration against the PIT fails at
//! random under TCG; the guest then hangs at boot. So it is told (`tsc_early_khz`), and told to trust
//! it (`tsc=reliable`), else its clock falls back to jiffies and runs slow. Both accelerators pass the
//! host's counter through.
//!
//! The counter is read between two reads of the raw monotonic clock, several times, and the tightest
//! of these counts; two such readings [`WINDOW`] apart give the frequency to a few parts per million.

use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Between the two readings. A reading is good to some 50 ns.
const WINDOW: Duration = Duration::from_millis(40);
/// How often a reading is tried; the tightest counts.
const TRIES: usize = 32;

/// One reading: the counter at a moment in nanoseconds.
#[derive(Debug, Clone, Copy)]
struct Reading {
    ticks: u64,
    nanos: i128,
}

/// Frequency in kHz, measured once per process. Takes 40 ms the first time.
pub(crate) fn khz() -> u64 {
    static KHZ: OnceLock<u64> = OnceLock::new();
    *KHZ.get_or_init(|| {
        let first = read();
        thread::sleep(WINDOW);
        between(first, read())
    })
}

fn between(first: Reading, second: Reading) -> u64 {
    let ticks = i128::from(second.ticks.wrapping_sub(first.ticks));
    let nanos = (second.nanos - first.nanos).max(1);
    // ticks per ns * 10^6, rounded.
    u64::try_from((ticks * 1_000_000 + nanos / 2) / nanos).unwrap_or(u64::MAX)
}

fn read() -> Reading {
    let attempts = (0..TRIES).map(|_| {
        let before = nanos();
        let ticks = ticks();
        let after = nanos();
        (after - before, Reading { ticks, nanos: before.midpoint(after) })
    });
    let tightest = attempts.min_by_key(|(width, _)| *width);
    tightest.map_or(Reading { ticks: 0, nanos: 0 }, |(_, reading)| reading)
}

fn nanos() -> i128 {
    let now =
        clock_gettime(ClockId::CLOCK_MONOTONIC_RAW).expect("Linux has this clock since 2.6.28");
    i128::from(now.tv_sec()) * 1_000_000_000 + i128::from(now.tv_nsec())
}

#[allow(unsafe_code, reason = "reads a CPU register; the standard library has no safe way")]
fn ticks() -> u64 {
    // SAFETY: RDTSC exists on every x86-64 CPU and touches no memory.
    unsafe { core::arch::x86_64::_rdtsc() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frequency_is_ticks_over_time() {
        let first = Reading { ticks: u64::MAX - 10, nanos: 5 };
        let second = Reading { ticks: 107_999_989, nanos: 40_000_005 };
        assert_eq!(between(first, second), 2_700_000, "also across the counter's end");
    }

    #[test]
    fn two_measurements_agree_to_a_ten_thousandth() {
        let measure = || {
            let first = read();
            thread::sleep(WINDOW);
            between(first, read())
        };
        let (one, two) = (measure(), measure());
        assert!(one.abs_diff(two) < one / 10_000, "{one} and {two} kHz");
        assert!((500_000..10_000_000).contains(&one), "{one} kHz");
    }
}
