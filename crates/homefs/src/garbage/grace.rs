//! How long ago commits were confirmed, by both clocks of this host. Pure.
//!
//! After a restart everything up to the claim counts as confirmed at the claim.

use std::collections::VecDeque;

use crate::replica::horizon::{Moment, may_go};

/// Moments kept: one a minute is enough for a horizon many times over.
const MARKS_MAX: usize = 64;

/// Commits, and when they were known to be in the store.
#[derive(Debug)]
pub(crate) struct Grace {
    /// Ascending; a commit is as old as the first mark at or above it.
    marks: VecDeque<(u64, Moment)>,
    /// What the last mark that was dropped stood for.
    passed: u64,
}

impl Grace {
    /// Everything up to `claim` is in the store at `now`.
    pub(crate) fn new(claim: u64, now: Moment) -> Self {
        Self { marks: VecDeque::from([(claim, now)]), passed: 0 }
    }

    /// Commit `seq` was confirmed.
    pub(crate) fn confirmed(&mut self, seq: u64, now: Moment) {
        self.settle(&now);
        if let [.., (_, before), _] = self.marks.make_contiguous()
            && !before.is_apart(&now)
        {
            // The commit of the last mark then counts as made now: its grace is only longer.
            self.marks.pop_back();
        }
        self.marks.push_back((seq, now));
        if self.marks.len() > MARKS_MAX {
            self.marks.pop_front();
        }
    }

    /// The newest commit whose grace is over.
    pub(crate) fn over(&mut self, now: &Moment) -> u64 {
        self.settle(now);
        self.passed
    }

    fn settle(&mut self, now: &Moment) {
        while let Some((seq, at)) = self.marks.front().copied()
            && may_go(&at, now)
        {
            self.passed = seq;
            self.marks.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replica::testing::HandClock;

    #[test]
    fn a_commit_is_over_a_horizon_after_it_was_confirmed() {
        let clock = HandClock::default();
        let now = || Moment::of(&clock);
        let mut grace = Grace::new(7, now());
        assert_eq!(grace.over(&now()), 0);
        clock.advance(600);
        grace.confirmed(8, now());
        clock.advance(299);
        assert_eq!(grace.over(&now()), 0);
        clock.advance(1);
        assert_eq!(grace.over(&now()), 7);
        clock.advance(600);
        assert_eq!(grace.over(&now()), 8);
    }

    #[test]
    fn many_commits_need_little_memory_and_never_end_early() {
        let clock = HandClock::default();
        let now = || Moment::of(&clock);
        let mut grace = Grace::new(1, now());
        for seq in 2..20_000 {
            clock.advance(1);
            grace.confirmed(seq, now());
            assert!(grace.marks.len() <= MARKS_MAX);
            // Commit n was made in second n - 1.
            assert!(grace.over(&now()) <= seq.saturating_sub(900), "{seq}");
        }
        assert!(grace.over(&now()) >= 19_000);
    }
}
