//! Which packs are worth rewriting. Pure.

/// A stored pack, or the data of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) id: u64,
    /// Bytes that it takes.
    pub(crate) len: u64,
    /// Bytes that extents name.
    pub(crate) live: u64,
    /// Data of a commit that is of no other use any more.
    pub(crate) in_old_commit: bool,
}

/// The ids to rewrite now, of at most `bytes_max` live bytes together (but at least one).
///
/// What is less than half alive goes, and data in old commits, so that those can. A home at rest
/// also gives up the worst of the others until no more than a sixth of the space is wasted.
#[must_use]
pub(crate) fn victims(all: &[Candidate], at_rest: bool, bytes_max: u64) -> Vec<u64> {
    let mut all: Vec<Candidate> = all.iter().filter(|pack| pack.live > 0).copied().collect();
    // The most waste for the least work first. Old commits before all others: they hold up the log.
    let ratio = |pack: &Candidate| u128::from(pack.live) * 1_000_000 / u128::from(pack.len.max(1));
    all.sort_by_key(|pack| (!pack.in_old_commit, ratio(pack), pack.id));
    let len: u64 = all.iter().map(|pack| pack.len).sum();
    let live: u64 = all.iter().map(|pack| pack.live.min(pack.len)).sum();
    let mut waste = len - live;
    let (mut chosen, mut bytes) = (Vec::new(), 0_u64);
    for pack in all {
        let too_much = at_rest && waste > live / 6 && pack.live < pack.len;
        if !pack.in_old_commit && pack.live * 2 >= pack.len && !too_much {
            continue;
        }
        if !chosen.is_empty() && bytes + pack.live > bytes_max {
            break;
        }
        bytes += pack.live;
        waste -= pack.len - pack.live.min(pack.len);
        chosen.push(pack.id);
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pack(id: u64, len: u64, live: u64) -> Candidate {
        Candidate { id, len, live, in_old_commit: false }
    }

    #[test]
    fn what_is_mostly_dead_is_rewritten_and_the_worst_first() {
        let all = [pack(1, 100, 49), pack(2, 100, 50), pack(3, 100, 1), pack(4, 100, 0)];
        assert_eq!(victims(&all, false, 1_000), [3, 1]);
        assert_eq!(victims(&all, false, 10), [3]);
        assert_eq!(victims(&all[..1], false, 10), [1], "one too large for the bound goes alone");
        assert_eq!(victims(&[], true, 10), <[u64; 0]>::default());
    }

    #[test]
    fn a_home_at_rest_wastes_little() {
        let all: Vec<_> = (0..20).map(|id| pack(id, 100, 60 + id)).collect();
        assert!(victims(&all, false, u64::MAX).is_empty());
        let chosen = victims(&all, true, u64::MAX);
        let left = all.iter().filter(|pack| !chosen.contains(&pack.id));
        let waste: u64 = left.map(|pack| pack.len - pack.live).sum();
        let live: u64 = all.iter().map(|pack| pack.live).sum();
        assert!(waste <= live / 6 && waste + 40 > live / 6, "{waste} of {live}");
        let full: Vec<_> = (0..20).map(|id| pack(id, 100, 100)).collect();
        assert!(victims(&full, true, u64::MAX).is_empty(), "what is whole is left alone");
    }

    #[test]
    fn data_in_old_commits_goes_whatever_it_is() {
        let old = Candidate { in_old_commit: true, ..pack(2, 100, 100) };
        assert_eq!(victims(&[pack(1, 100, 10), old], false, 120), [2, 1]);
    }
}
