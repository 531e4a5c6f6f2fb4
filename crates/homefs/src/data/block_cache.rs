//! Blocks of stored objects in memory, unpacked; the least recently used go first.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

use bytes::Bytes;
use parking_lot::Mutex;

use super::tables::Stored;

/// One block: of which object, and the how manieth.
pub(crate) type BlockId = (Stored, u64);

/// A bounded cache. What is kept never changes, so nothing is ever invalidated.
#[derive(Debug)]
pub(crate) struct BlockCache<K = BlockId> {
    bytes_max: u64,
    state: Mutex<State<K>>,
}

#[derive(Debug)]
struct State<K> {
    blocks: HashMap<K, (Bytes, u64)>,
    by_use: BTreeMap<u64, K>,
    bytes: u64,
    uses: u64,
}

impl<K: Copy + Eq + Hash> BlockCache<K> {
    /// An empty cache of at most `bytes_max` bytes.
    pub(crate) fn new(bytes_max: u64) -> Self {
        let (blocks, by_use) = (HashMap::new(), BTreeMap::new());
        Self { bytes_max, state: Mutex::new(State { blocks, by_use, bytes: 0, uses: 0 }) }
    }

    /// The block, if it is here.
    pub(crate) fn get(&self, id: K) -> Option<Bytes> {
        let mut state = self.state.lock();
        let state = &mut *state;
        let (bytes, used) = state.blocks.get_mut(&id)?;
        state.uses += 1;
        state.by_use.remove(used);
        *used = state.uses;
        state.by_use.insert(state.uses, id);
        Some(bytes.clone())
    }

    /// Keeps a block.
    pub(crate) fn put(&self, id: K, bytes: Bytes) {
        let mut state = self.state.lock();
        state.uses += 1;
        let used = state.uses;
        state.bytes += bytes.len() as u64;
        if let Some((old, was_used)) = state.blocks.insert(id, (bytes, used)) {
            state.bytes -= old.len() as u64;
            state.by_use.remove(&was_used);
        }
        state.by_use.insert(used, id);
        while state.bytes > self.bytes_max
            && let Some((_, oldest)) = state.by_use.pop_first()
        {
            if let Some((gone, _)) = state.blocks.remove(&oldest) {
                state.bytes -= gone.len() as u64;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_block_goes_first() {
        let cache = BlockCache::new(30);
        let id = |n| (Stored::Pack { id: n, epoch: 1 }, 0);
        for n in 0..3 {
            cache.put(id(n), Bytes::from_static(&[0; 10]));
        }
        assert!(cache.get(id(0)).is_some());
        cache.put(id(3), Bytes::from_static(&[0; 10]));
        assert!(cache.get(id(1)).is_none());
        assert!(cache.get(id(0)).is_some() && cache.get(id(2)).is_some());
    }
}
