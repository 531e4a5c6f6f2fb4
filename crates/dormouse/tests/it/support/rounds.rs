//! For tests that could go on for ever: how many rounds, by which chance, and what they have shown.
//!
//! With all other tests they do a few rounds. `cargo xtask soak` has them do more, and looks for what is
//! [`shown`].

use std::time::{Duration, Instant};

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

/// Rounds of a test, each announced with how long all took so far.
#[derive(Debug)]
pub(crate) struct Rounds {
    next: u64,
    pub(crate) count: u64,
    begun: Instant,
}

impl Rounds {
    /// So many, where nobody wants another number.
    pub(crate) fn usually(default: u64) -> Self {
        Self { next: 0, count: number("DORMOUSE_ROUNDS", default), begun: Instant::now() }
    }
}

impl Iterator for Rounds {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        let round = (self.next < self.count).then_some(self.next)?;
        self.next += 1;
        eprintln!(
            "round {} of {}, after {} s",
            round + 1,
            self.count,
            self.begun.elapsed().as_secs()
        );
        Some(round)
    }
}

/// Says what a test has shown, in one line.
pub(crate) fn shown(what: &str) {
    eprintln!("shown: {what}");
}

/// SplitMix64.
#[derive(Debug)]
pub(crate) struct Chance(u64);

impl Chance {
    /// Always the same, but for another seed that is asked for.
    pub(crate) fn new() -> Self {
        Self(number("DORMOUSE_SEED", 0))
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }

    /// Less than so many milliseconds.
    pub(crate) fn milliseconds(&mut self, bound: u64) -> Duration {
        Duration::from_millis(self.below(bound))
    }
}
