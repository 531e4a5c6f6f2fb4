//! Which chunks are here, in memory. Pure.

use std::collections::{BTreeSet, HashMap};

/// Where a chunk is. One that is not in the table is here, and on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Slot {
    /// In the store alone.
    Missing,
    /// Somebody is bringing it, or overwriting all of it.
    Busy,
    /// In the file, as it is stored.
    Fetched,
    /// In the file, and written to.
    Written,
}

/// What a look at a chunk found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    Here,
    /// It was missing, and is the caller's now.
    Taken,
    /// It is somebody else's.
    Busy,
}

#[derive(Debug, Default)]
pub(super) struct Table {
    slots: HashMap<u32, Slot>,
    /// Those that the background may still fetch.
    wanted: BTreeSet<u32>,
    /// Where it goes on: behind what a guest wanted last, which may want what follows.
    next: u32,
    missing: usize,
}

impl Table {
    pub(super) fn new(slots: impl Iterator<Item = (u32, Slot)>) -> Self {
        let slots: HashMap<u32, Slot> = slots.collect();
        let missing = |slot: &Slot| *slot == Slot::Missing;
        let wanted: BTreeSet<u32> =
            slots.iter().filter(|(_, slot)| missing(slot)).map(|(index, _)| *index).collect();
        Self { missing: wanted.len(), slots, wanted, next: 0 }
    }

    /// Chunks that are not here, those that are being brought among them.
    pub(super) fn missing(&self) -> usize {
        self.missing
    }

    pub(super) fn missing_indexes(&self) -> Vec<u32> {
        let missing = |slot: &Slot| matches!(slot, Slot::Missing | Slot::Busy);
        self.slots.iter().filter(|(_, slot)| missing(slot)).map(|(index, _)| *index).collect()
    }

    pub(super) fn is_here(&self, index: u32) -> bool {
        !matches!(self.slots.get(&index), Some(Slot::Missing | Slot::Busy))
    }

    /// Takes a chunk, for a guest.
    pub(super) fn take(&mut self, index: u32) -> Look {
        match self.slots.get_mut(&index) {
            Some(slot @ Slot::Missing) => {
                *slot = Slot::Busy;
                self.wanted.remove(&index);
                self.next = index + 1;
                Look::Taken
            }
            Some(Slot::Busy) => Look::Busy,
            _ => Look::Here,
        }
    }

    /// Takes the next one, for the background.
    pub(super) fn take_next(&mut self) -> Option<u32> {
        let next = self.wanted.range(self.next..).next().or_else(|| self.wanted.first());
        let index = *next?;
        self.take(index);
        Some(index)
    }

    /// What was taken has not come. `again`: the background may try.
    pub(super) fn give_back(&mut self, index: u32, again: bool) {
        self.slots.insert(index, Slot::Missing);
        if again {
            self.wanted.insert(index);
        }
    }

    /// What was taken is in the file.
    pub(super) fn settle(&mut self, index: u32, slot: Slot) {
        self.slots.insert(index, slot);
        self.missing -= 1;
    }

    /// It is written to.
    pub(super) fn written(&mut self, index: u32) {
        if let Some(slot @ Slot::Fetched) = self.slots.get_mut(&index) {
            *slot = Slot::Written;
        }
    }

    /// Those that were written to and are not kept.
    pub(super) fn written_not_kept(&self) -> Vec<u32> {
        self.those(|slot| slot == Slot::Written)
    }

    /// All that are in the file and not kept.
    pub(super) fn not_kept(&self) -> Vec<u32> {
        self.those(|slot| matches!(slot, Slot::Written | Slot::Fetched))
    }

    fn those(&self, wanted: impl Fn(Slot) -> bool) -> Vec<u32> {
        self.slots.iter().filter(|(_, slot)| wanted(**slot)).map(|(index, _)| *index).collect()
    }

    /// It is here for good.
    pub(super) fn kept(&mut self, index: u32) {
        self.slots.remove(&index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_background_goes_on_behind_what_a_guest_wanted_and_comes_round() {
        let missing = |index| (index, Slot::Missing);
        let mut table = Table::new([1, 4, 7, 9].map(missing).into_iter());
        assert_eq!((table.missing(), table.is_here(0), table.is_here(4)), (4, true, false));
        assert_eq!(table.take(7), Look::Taken);
        assert_eq!((table.take(7), table.take(0)), (Look::Busy, Look::Here));
        assert_eq!((table.take_next(), table.take_next()), (Some(9), Some(1)));
        table.give_back(9, false);
        table.give_back(1, true);
        assert_eq!(
            (table.take_next(), table.take_next(), table.take_next()),
            (Some(4), Some(1), None)
        );
        assert_eq!(table.take(9), Look::Taken, "a guest may try again");
        table.settle(7, Slot::Fetched);
        table.settle(4, Slot::Written);
        table.written(7);
        assert_eq!(table.missing(), 2);
        let mut written = table.written_not_kept();
        written.sort_unstable();
        assert_eq!(written, [4, 7]);
        table.kept(4);
        assert_eq!((table.not_kept(), table.is_here(4)), (vec![7], true));
    }
}
