//! Sets of byte ranges that are cheap to copy: which bytes of a spool file count.
//!
//! # Invariants
//! - Ranges are in order, not empty, and neither overlap nor touch.
//! - A copy shares its blocks with the original; a change copies the one block it falls into, so a
//!   file written at 100,000 places costs no more per write than one written at a hundred.

use std::sync::Arc;

/// Ranges of one block. A block with twice as many is split.
const BLOCK: usize = 128;

type Block = Arc<Vec<(u64, u64)>>;

/// A set of ranges, each `start..end`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Ranges {
    /// None of them empty.
    blocks: Arc<Vec<Block>>,
}

impl Ranges {
    /// From ranges that are in order and do not touch, as a table has them.
    pub(crate) fn from_sorted(ranges: &[(u64, u64)]) -> Self {
        let blocks = ranges.chunks(BLOCK).map(|part| Arc::new(part.to_vec())).collect();
        Self { blocks: Arc::new(blocks) }
    }

    /// True where no byte is in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// How many ranges there are.
    pub(crate) fn len(&self) -> usize {
        self.blocks.iter().map(|block| block.len()).sum()
    }

    /// All of them, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.blocks.iter().flat_map(|block| block.iter().copied())
    }

    /// The parts of them between `start` and `end`.
    pub(crate) fn within(&self, start: u64, end: u64) -> impl Iterator<Item = (u64, u64)> + '_ {
        let first = self.blocks.partition_point(|block| last_end(block) <= start);
        self.blocks[first..]
            .iter()
            .take_while(move |block| block.first().is_some_and(|range| range.0 < end))
            .flat_map(|block| block.iter())
            .map(move |&(from, to)| (from.max(start), to.min(end)))
            .filter(|(from, to)| from < to)
    }

    /// Adds `start..end`.
    pub(crate) fn cover(&mut self, start: u64, end: u64) {
        self.edit(start, end, true);
    }

    /// Takes `start..end` away.
    pub(crate) fn uncover(&mut self, start: u64, end: u64) {
        self.edit(start, end, false);
    }

    fn edit(&mut self, start: u64, end: u64, cover: bool) {
        if start >= end {
            return;
        }
        let blocks = Arc::make_mut(&mut self.blocks);
        // Blocks that hold a range that meets or touches this one.
        let first = blocks.partition_point(|block| last_end(block) < start);
        let last = blocks.partition_point(|block| block.first().is_some_and(|r| r.0 <= end));
        if let Some(block) = blocks.get_mut(first)
            && last == first + 1
            && block.len() < 2 * BLOCK - 1
        {
            let ranges = Arc::make_mut(block);
            edit_sorted(ranges, start, end, cover);
            if ranges.is_empty() {
                blocks.remove(first);
            }
            return;
        }
        let last = last.max(first);
        let mut ranges: Vec<_> =
            blocks[first..last].iter().flat_map(|block| block.iter().copied()).collect();
        edit_sorted(&mut ranges, start, end, cover);
        let parts: Vec<Block> = ranges.chunks(BLOCK).map(|part| Arc::new(part.to_vec())).collect();
        blocks.splice(first..last, parts);
    }
}

fn last_end(block: &Block) -> u64 {
    block.last().map_or(0, |range| range.1)
}

fn edit_sorted(ranges: &mut Vec<(u64, u64)>, start: u64, end: u64, cover: bool) {
    let first = ranges.partition_point(|range| range.1 < start);
    let last = ranges.partition_point(|range| range.0 <= end).max(first);
    let before = ranges[first..last].first().map_or(start, |range| range.0.min(start));
    let after = ranges[first..last].last().map_or(end, |range| range.1.max(end));
    let kept = if cover { [(before, after), (0, 0)] } else { [(before, start), (end, after)] };
    ranges.splice(first..last, kept.into_iter().filter(|(from, to)| from < to));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_touches_becomes_one() {
        let mut ranges = Ranges::default();
        ranges.cover(10, 20);
        ranges.cover(30, 40);
        ranges.cover(20, 25);
        assert_eq!(ranges.iter().collect::<Vec<_>>(), [(10, 25), (30, 40)]);
        ranges.cover(25, 30);
        assert_eq!(ranges.iter().collect::<Vec<_>>(), [(10, 40)]);
        ranges.uncover(15, 20);
        ranges.uncover(39, 100);
        assert_eq!(ranges.iter().collect::<Vec<_>>(), [(10, 15), (20, 39)]);
        assert_eq!(ranges.within(12, 22).collect::<Vec<_>>(), [(12, 15), (20, 22)]);
        ranges.uncover(0, 100);
        assert!(ranges.is_empty());
    }

    #[test]
    fn a_copy_keeps_what_it_was() {
        let mut ranges = Ranges::default();
        for n in 0..10_000 {
            ranges.cover(n * 10, n * 10 + 5);
        }
        let copy = ranges.clone();
        ranges.cover(0, 50_000);
        assert_eq!((copy.len(), ranges.len()), (10_000, 5_000));
    }

    proptest! {
        #[test]
        fn it_is_what_a_set_of_bytes_is(
            edits in proptest::collection::vec((0..2_000_u64, 1..40_u64, any::<bool>()), 1..600)
        ) {
            let mut bytes = vec![false; 2_100];
            let mut ranges = Ranges::default();
            for (start, len, cover) in edits {
                ranges.edit(start, start + len, cover);
                bytes[start as usize..(start + len) as usize].fill(cover);
            }
            let mut found = vec![false; 2_100];
            let mut last = None;
            for (start, end) in ranges.iter() {
                prop_assert!(start < end && last.is_none_or(|last| last < start));
                last = Some(end);
                found[start as usize..end as usize].fill(true);
            }
            prop_assert_eq!(found, bytes);
            prop_assert!(ranges.blocks.iter().all(|block| !block.is_empty()));
        }
    }
}
