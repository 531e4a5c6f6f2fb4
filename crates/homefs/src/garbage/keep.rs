//! What must stay although the newest state does not need it. Pure.

use base::Epoch;

use crate::replica::descent::Origin;
use crate::replica::pinned::Pin;

/// The pins of a home, and where its own numbers begin.
#[derive(Debug, Clone, Default)]
pub(crate) struct Kept {
    pins: Vec<Pinned>,
    /// Births up to this are those of an ancestor's objects; `None` of a home that is no fork.
    origin: Option<u64>,
}

#[derive(Debug, Clone, Copy)]
struct Pinned {
    base: u64,
    seq: u64,
    epoch: Epoch,
}

impl Kept {
    /// All `pins` of a home with these `origins`.
    pub(crate) fn new(pins: &[Pin], origins: &[Origin]) -> Self {
        let pins = pins.iter().map(|pin| Pinned { base: pin.base, seq: pin.seq, epoch: pin.epoch });
        Self { pins: pins.collect(), origin: origins.first().map(|origin| origin.seq) }
    }

    /// True of what this home stored itself. What it has from an ancestor is not its to delete.
    pub(crate) fn is_own(&self, born: u64) -> bool {
        self.origin.is_none_or(|origin| born > origin)
    }

    /// True where a pinned state has an object: born with it or before, dead after it.
    pub(crate) fn object(&self, born: u64, died: u64) -> bool {
        self.pins.iter().any(|pin| born <= pin.seq && pin.seq < died)
    }

    /// True where a pinned state is read from commit `seq`.
    pub(crate) fn commit(&self, seq: u64) -> bool {
        self.pins.iter().any(|pin| seq == pin.seq || (pin.base < seq && seq < pin.seq))
    }

    /// True where a pinned state may be read from the base of commit `seq`.
    pub(crate) fn base(&self, seq: u64) -> bool {
        self.pins.iter().any(|pin| (pin.base..=pin.seq).contains(&seq))
    }

    /// True where a state from commit `from` on and before commit `to` is pinned.
    pub(crate) fn within(&self, from: u64, to: u64) -> bool {
        self.pins.iter().any(|pin| (from..to).contains(&pin.seq))
    }

    /// The commits that are pinned.
    pub(crate) fn seqs(&self) -> impl Iterator<Item = u64> {
        self.pins.iter().map(|pin| pin.seq)
    }

    /// The largest number that a pin names.
    pub(crate) fn newest_seq(&self) -> Option<u64> {
        self.pins.iter().map(|pin| pin.seq).max()
    }

    /// The largest epoch that a pin names.
    pub(crate) fn newest_epoch(&self) -> Option<Epoch> {
        self.pins.iter().map(|pin| pin.epoch).max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(pins: &[(u64, u64)], origin: Option<u64>) -> Kept {
        let pins = pins.iter().map(|&(base, seq)| Pinned { base, seq, epoch: Epoch(seq / 10) });
        Kept { pins: pins.collect(), origin }
    }

    #[test]
    fn an_object_stays_while_a_pin_lies_in_its_life() {
        let kept = kept(&[(4, 10)], None);
        for (born, died, stays) in
            [(1, 10, false), (1, 11, true), (10, 11, true), (11, 20, false), (0, 11, true)]
        {
            assert_eq!(kept.object(born, died), stays, "{born} {died}");
        }
    }

    #[test]
    fn a_pinned_state_keeps_what_it_is_read_from() {
        let kept = kept(&[(4, 10), (10, 10), (0, 2)], None);
        let commits: Vec<_> = (0..=12).filter(|n| kept.commit(*n)).collect();
        assert_eq!(commits, [1, 2, 5, 6, 7, 8, 9, 10]);
        let bases: Vec<_> = (0..=12).filter(|n| kept.base(*n)).collect();
        assert_eq!(bases, [0, 1, 2, 4, 5, 6, 7, 8, 9, 10]);
        assert_eq!((kept.newest_seq(), kept.newest_epoch()), (Some(10), Some(Epoch(1))));
    }

    #[test]
    fn a_fork_owns_what_came_after_it() {
        let fork = kept(&[], Some(20));
        assert!(!fork.is_own(0) && !fork.is_own(20) && fork.is_own(21));
        assert!(kept(&[], None).is_own(0), "what format 1 stored has no birth");
    }
}
