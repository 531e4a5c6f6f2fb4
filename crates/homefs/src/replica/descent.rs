//! Where the state of a commit comes from, besides the commit before it.
//!
//! Commits are numbered without holes, and most change the state of the one before. Two do not: the
//! first of a fork goes on from a commit of its parent, and a restore goes on from an older commit
//! of the same home. Every later commit says so too, so that a reader knows from the newest one
//! alone which numbers make up the state and where they lie.
//!
//! # Invariants
//! - What a home was forked from never changes. Its own commits are numbered above its origins'.
//! - Commits between a restore and what it restored are in the log and not in the state. Nor is a
//!   base of them.
//! - A restore at or below a commit's base need not be named any more.

use base::{Epoch, HomeId};
use serde::{Deserialize, Serialize};

use super::error::Damaged;
use super::limits::{ORIGINS_MAX, RESTORES_MAX};

/// A home that another one goes on from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Origin {
    /// The ancestor.
    pub home: HomeId,
    /// The commit of it that was forked: all up to it belong to the ancestor.
    pub seq: u64,
    /// The epoch of that commit: packs of writers up to it belong to the ancestor.
    pub epoch: Epoch,
}

/// A commit that took the home back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Restore {
    /// The commit.
    pub(crate) at: u64,
    /// The commit whose state came before it.
    pub(crate) of: u64,
}

/// Where the state of a commit comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Descent {
    /// Newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) origins: Vec<Origin>,
    /// Newest first; those above the parent base.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) restores: Vec<Restore>,
}

impl Descent {
    /// The commits that make up the state of commit `seq` above `base`, newest first.
    pub(crate) fn numbers(&self, seq: u64, base: u64) -> impl Iterator<Item = u64> + use<> {
        let (mut runs, mut top) = (Vec::with_capacity(self.restores.len() + 1), seq);
        for restore in self.restores.iter().filter(|restore| restore.at <= seq) {
            runs.push((restore.at, top));
            top = restore.of;
        }
        runs.push((1, top));
        let above = move |(first, last): (u64, u64)| (first.max(base + 1)..=last).rev();
        runs.into_iter().flat_map(above)
    }

    /// False of a commit that a restore left behind.
    pub(crate) fn includes(&self, seq: u64) -> bool {
        self.restores.iter().all(|restore| seq <= restore.of || seq >= restore.at)
    }

    /// The descent of commit `at`, which restores commit `of`. This one is that of `of`.
    pub(crate) fn restored(&self, at: u64, mut of: u64) -> Self {
        let mut restores = self.restores.clone();
        // A restore changes nothing itself: what it restored is the same.
        while let Some(same) = restores.first().filter(|restore| restore.at == of) {
            of = same.of;
            restores.remove(0);
        }
        restores.insert(0, Restore { at, of });
        Self { origins: self.origins.clone(), restores }
    }

    /// What is still to be said above `base`.
    pub(crate) fn above(&self, base: u64) -> Self {
        let restores = self.restores.iter().filter(|restore| restore.at > base).copied().collect();
        Self { origins: self.origins.clone(), restores }
    }

    /// The descent of the first commit of a fork of `home` at commit `seq`. This one is that of
    /// the commit.
    pub(crate) fn forked(&self, home: HomeId, seq: u64, epoch: Epoch) -> Self {
        let mut origins = self.origins.clone();
        origins.insert(0, Origin { home, seq, epoch });
        Self { origins, restores: self.restores.clone() }
    }

    /// Everything that a reader of commit `seq` with this epoch relies on.
    pub(crate) fn check(&self, seq: u64, epoch: Epoch) -> Result<(), Damaged> {
        if self.origins.len() > ORIGINS_MAX || self.restores.len() > RESTORES_MAX {
            return Err(Damaged::new("it names too many forks or restores"));
        }
        let (mut above, mut newer) = (seq, epoch);
        for origin in &self.origins {
            if origin.seq == 0 || origin.seq >= above || origin.epoch >= newer {
                return Err(Damaged::new(format!("it cannot come from commit {}", origin.seq)));
            }
            (above, newer) = (origin.seq, origin.epoch);
        }
        let mut upto = seq;
        for restore in &self.restores {
            if restore.of == 0 || restore.at > upto || restore.of >= restore.at {
                return Err(Damaged::new(format!("it cannot restore commit {}", restore.of)));
            }
            upto = restore.of;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(restores: &[(u64, u64)]) -> Descent {
        let restores = restores.iter().map(|&(at, of)| Restore { at, of }).collect();
        Descent { origins: Vec::new(), restores }
    }

    #[test]
    fn a_plain_log_is_every_number_above_the_base() {
        let plain = Descent::default();
        assert_eq!(plain.numbers(5, 2).collect::<Vec<_>>(), [5, 4, 3]);
        assert_eq!(plain.numbers(5, 5).count(), 0);
        assert_eq!(plain.numbers(3, 0).collect::<Vec<_>>(), [3, 2, 1]);
        assert!(plain.includes(4));
    }

    #[test]
    fn what_a_restore_left_behind_is_not_in_the_state() {
        let descent = with(&[(20, 12), (10, 4)]);
        let numbers: Vec<_> = descent.numbers(21, 2).collect();
        assert_eq!(numbers, [21, 20, 12, 11, 10, 4, 3]);
        for left in [5, 9, 13, 19] {
            assert!(!descent.includes(left), "{left}");
        }
        assert!(numbers.iter().all(|number| descent.includes(*number)));
        let below: Vec<_> = descent.numbers(21, 11).collect();
        assert_eq!(below, [21, 20, 12]);
        assert_eq!(descent.above(10), with(&[(20, 12)]));
    }

    #[test]
    fn restoring_a_restore_restores_what_it_restored() {
        let first = Descent::default().restored(10, 4);
        assert_eq!(first, with(&[(10, 4)]));
        assert_eq!(first.restored(11, 10), with(&[(11, 4)]));
        assert_eq!(first.restored(15, 12), with(&[(15, 12), (10, 4)]));
        // The state of commit 3 knows of no restore.
        assert_eq!(Descent::default().restored(15, 3), with(&[(15, 3)]));
    }

    #[test]
    fn a_descent_that_cannot_be_is_damage() {
        let epoch = Epoch(9);
        assert!(with(&[(20, 12), (10, 4)]).check(21, epoch).is_ok());
        for bad in [&[(20, 20)][..], &[(22, 3)], &[(20, 8), (10, 4)], &[(20, 0)]] {
            assert!(with(bad).check(21, epoch).is_err(), "{bad:?}");
        }
        assert!(with(&[(2, 1); 200]).check(21, epoch).is_err());
        let home = HomeId::generate();
        let fork = Descent::default().forked(home.clone(), 7, Epoch(3));
        assert!(fork.check(8, Epoch(4)).is_ok());
        assert!(fork.check(7, Epoch(4)).is_err() && fork.check(8, Epoch(3)).is_err());
        let again = fork.forked(home, 7, Epoch(4));
        assert!(again.check(9, Epoch(5)).is_err(), "numbers of ancestors go down");
    }
}
