//! A bounded table of rows by inode.
//!
//! Rows that the database lacks stay; of the others, those that nobody asked for lately go first
//! (second chance: a row that was used since the hand last passed is passed over once).

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};

use hashbrown::HashMap;
use vfs::Ino;

use crate::limits::ROWS_KEPT_MIN;

#[derive(Debug)]
struct Slot<T> {
    /// `None`: there is no such row.
    value: Option<T>,
    /// The change that made it so; 0 where it was read from the database.
    changed: u64,
    weight: u32,
    used: AtomicBool,
}

/// The table. Weights are in whatever unit `weight_max` is.
#[derive(Debug)]
pub(crate) struct Table<T> {
    slots: HashMap<Ino, Slot<T>>,
    /// Every key once, in the order in which the hand passes.
    ring: VecDeque<Ino>,
    weight: u64,
    weight_max: u64,
    weigh: fn(&T) -> usize,
}

/// Rows that the hand looks at before it gives up for this time.
const STEPS: usize = 32;

impl<T> Table<T> {
    /// An empty one.
    pub(crate) fn new(weight_max: u64, weigh: fn(&T) -> usize) -> Self {
        Self { slots: HashMap::new(), ring: VecDeque::new(), weight: 0, weight_max, weigh }
    }

    /// The row, or that there is none; `None` where that is not known here.
    pub(crate) fn get(&self, ino: Ino) -> Option<&Option<T>> {
        let slot = self.slots.get(&ino)?;
        if !slot.used.load(Ordering::Relaxed) {
            slot.used.store(true, Ordering::Relaxed);
        }
        Some(&slot.value)
    }

    /// Sets a row.
    pub(crate) fn put(&mut self, ino: Ino, value: Option<T>, changed: u64) {
        let weight = value.as_ref().map_or(0, self.weigh).saturating_add(1);
        let weight = u32::try_from(weight).unwrap_or(u32::MAX);
        let slot = Slot { value, changed, weight, used: AtomicBool::new(true) };
        self.weight += u64::from(weight);
        match self.slots.insert(ino, slot) {
            Some(old) => self.weight -= u64::from(old.weight),
            None => self.ring.push_back(ino),
        }
    }

    /// Sets a row that was read from the database, unless one is here.
    pub(crate) fn admit(&mut self, ino: Ino, value: Option<T>) {
        if !self.slots.contains_key(&ino) {
            self.put(ino, value, 0);
        }
    }

    /// Lets rows go until the bound holds. `gone` gets what went, and the answer is the newest
    /// change among it.
    pub(crate) fn evict(&mut self, folded: u64, gone: &mut Vec<T>) -> u64 {
        let mut newest = 0;
        let mut steps = 0;
        while self.weight > self.weight_max && self.ring.len() > ROWS_KEPT_MIN && steps < STEPS {
            steps += 1;
            let Some(ino) = self.ring.pop_front() else { break };
            let Some(slot) = self.slots.get(&ino) else { continue };
            if slot.changed > folded || slot.used.swap(false, Ordering::Relaxed) {
                self.ring.push_back(ino);
                continue;
            }
            if let Some(slot) = self.slots.remove(&ino) {
                newest = newest.max(slot.changed);
                self.weight -= u64::from(slot.weight);
                gone.extend(slot.value);
            }
        }
        newest
    }

    /// Forgets everything. Only where the database has all of it.
    pub(crate) fn clear(&mut self) {
        self.slots.clear();
        self.ring.clear();
        self.weight = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_folded_stays_and_what_is_used_stays_longer() {
        let mut table = Table::new(20, |_: &u8| 0);
        for ino in 1..=24 {
            table.put(ino, Some(0), if ino == 1 { 10 } else { 5 });
        }
        let mut gone = Vec::new();
        // Everything was just put, so the hand passes over all of it once.
        assert_eq!(table.evict(9, &mut gone), 5);
        assert_eq!((gone.len(), table.get(1).is_some()), (4, true));
        assert!(table.get(24).is_some() && table.get(2).is_none());
    }
}
