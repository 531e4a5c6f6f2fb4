//! The role of receiving, and who may take it from whom.
//!
//! One thread has it: it receives, and handles what is short itself. Its turn is one number: even
//! while it receives, odd while it handles, and never the same twice. So a turn that takes too long
//! can be ended from outside by one exchange, and exactly one of the two learns that it lost: the
//! thread at the end of its request, or whoever came too late to replace it.

use std::sync::atomic::{AtomicU64, Ordering};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Lead {
    turn: AtomicU64,
    /// How often there was nothing to receive.
    empty: AtomicU64,
}

/// A request that the leader handles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Turn(u64);

/// What can be seen of a leader from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Look {
    pub(super) turn: u64,
    pub(super) empty: u64,
}

impl Look {
    /// The turn of the request that is being handled, if one is.
    pub(super) fn handling(self) -> Option<Turn> {
        (self.turn % 2 == 1).then_some(Turn(self.turn))
    }
}

impl Lead {
    /// The leader begins to handle a request.
    pub(super) fn begin(&self) -> Turn {
        // Nobody else writes while the number is even.
        Turn(self.turn.fetch_add(1, Ordering::SeqCst) + 1)
    }

    /// Ends `turn`; true for the first who does: the leader, which is done and goes on receiving,
    /// or who takes the role from it.
    pub(super) fn end(&self, Turn(turn): Turn) -> bool {
        let (set, fetch) = (Ordering::SeqCst, Ordering::SeqCst);
        self.turn.compare_exchange(turn, turn + 1, set, fetch).is_ok()
    }

    /// The leader found nothing to receive.
    pub(super) fn found_nothing(&self) {
        self.empty.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn look(&self) -> Look {
        let turn = self.turn.load(Ordering::SeqCst);
        Look { turn, empty: self.empty.load(Ordering::Relaxed) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_leader_and_watcher_ends_a_turn() {
        let lead = Lead::default();
        assert_eq!(lead.look().handling(), None);
        let first = lead.begin();
        assert_eq!(lead.look().handling(), Some(first));
        assert!(lead.end(first));
        assert!(!lead.end(first), "too late");
        let second = lead.begin();
        assert_ne!(first, second);
        assert!(lead.end(second));
        assert!(!lead.end(second), "not the leader any more");
        let third = lead.begin();
        assert!(!lead.end(second), "nor while another leads");
        assert!(lead.end(third));
    }

    #[test]
    fn of_many_who_race_one_wins_each_turn() {
        let lead = Lead::default();
        for _ in 0..500 {
            let turn = lead.begin();
            let winners = std::thread::scope(|scope| {
                let watcher = scope.spawn(|| lead.end(turn));
                u32::from(lead.end(turn)) + u32::from(watcher.join().unwrap())
            });
            assert_eq!(winners, 1);
        }
    }
}
