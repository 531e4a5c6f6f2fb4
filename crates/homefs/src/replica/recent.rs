//! What this process itself said in its newest commits: header and index.
//!
//! A base or a release goes through all commits since the last full state. Those of a writer are
//! mostly its own, so it keeps what it said of them rather than asking for it again.
//!
//! Invariant: only commits that were confirmed are here; those of a writer never change.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::limits::COMMITS_ABOVE_BASE_MAX;

/// Commits that are kept; a base is due before there are so many.
const COMMITS_MAX: usize = COMMITS_ABOVE_BASE_MAX as usize + 128;
/// The largest beginning of a commit that is kept, in bytes.
const LEAD_BYTES_MAX: usize = 64 << 10;

/// Shared by a writer and the readers made from it.
#[derive(Debug, Default, Clone)]
pub(super) struct Recent(Arc<Mutex<BTreeMap<u64, Bytes>>>);

impl Recent {
    /// Keeps the beginning of commit `seq`. After one that is full no older one is needed.
    pub(super) fn note(&self, seq: u64, lead: &[u8], is_full: bool) {
        let mut commits = self.0.lock();
        if is_full {
            commits.clear();
        }
        if lead.len() <= LEAD_BYTES_MAX {
            commits.insert(seq, Bytes::copy_from_slice(lead));
        }
        if commits.len() > COMMITS_MAX {
            commits.pop_first();
        }
    }

    /// The beginning of commit `seq`: header and index.
    pub(super) fn get(&self, seq: u64) -> Option<Bytes> {
        self.0.lock().get(&seq).cloned()
    }

    /// Forgets commits up to `seq`: a full state of it is stored.
    pub(super) fn forget_upto(&self, seq: u64) {
        self.0.lock().retain(|commit, _| *commit > seq);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_bounded_and_goes_with_a_full_state() {
        let recent = Recent::default();
        let last = COMMITS_MAX as u64 + 100;
        for seq in 1..=last {
            recent.note(seq, b"lead", false);
        }
        assert!(recent.get(101).is_some() && recent.get(100).is_none());
        recent.forget_upto(150);
        assert!(recent.get(151).is_some() && recent.get(150).is_none());
        recent.note(last + 1, &vec![0; LEAD_BYTES_MAX + 1], true);
        assert!(recent.get(last + 1).is_none() && recent.get(last).is_none());
    }
}
