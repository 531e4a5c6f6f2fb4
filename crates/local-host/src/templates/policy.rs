//! Which templates are made, kept and given up. Pure.

use std::collections::HashMap;

/// Most templates of a host.
pub(super) const TEMPLATES_MAX: usize = 4;
/// Most bytes on the disk that all of them take, with their spare copies.
pub(super) const BYTES_MAX: u64 = 4 << 30;
/// Ready-made copies of each.
pub(super) const SPARES: usize = 2;
/// A template whose clones did not come up so often is thrown away.
const CLONES_FAILED_MAX: u32 = 2;
/// A kind of which a template could not be made so often gets none until the server starts again.
const MAKES_FAILED_MAX: u32 = 3;
/// Most kinds that something is remembered of.
const KINDS_MAX: usize = 1_000;

/// A template that lies there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shelved {
    pub(super) name: String,
    /// With its spare copies.
    pub(super) bytes: u64,
    /// Seconds since 1970 when it was last used.
    pub(super) used: i64,
}

/// What has to go, so that the rest is within its bounds: those that were used the longest time ago. Not `keep`.
pub(super) fn superfluous(mut shelved: Vec<Shelved>, keep: &str) -> Vec<String> {
    shelved.sort_by(|one, other| one.used.cmp(&other.used).then(one.name.cmp(&other.name)));
    let (mut count, mut bytes) = (shelved.len(), shelved.iter().map(|one| one.bytes).sum::<u64>());
    let mut gone = Vec::new();
    for one in shelved.into_iter().filter(|one| one.name != keep) {
        if count <= TEMPLATES_MAX && bytes <= BYTES_MAX {
            break;
        }
        count -= 1;
        bytes -= one.bytes;
        gone.push(one.name);
    }
    gone
}

/// What is known of kinds of machines, until the server ends.
#[derive(Debug, Default)]
pub(super) struct Known(HashMap<String, Kind>);

#[derive(Debug, Default)]
struct Kind {
    wanted: bool,
    makes_failed: u32,
    clones_failed: u32,
}

impl Known {
    fn kind(&mut self, name: &str) -> &mut Kind {
        if self.0.len() >= KINDS_MAX && !self.0.contains_key(name) {
            self.0.clear();
        }
        self.0.entry(name.to_owned()).or_default()
    }

    /// True where a template of this kind is to be made now. Until [`made`](Self::made) it is asked once.
    pub(super) fn wants(&mut self, name: &str) -> bool {
        let waiting = self.0.values().filter(|kind| kind.wanted).count();
        let kind = self.kind(name);
        if kind.wanted || kind.makes_failed >= MAKES_FAILED_MAX || waiting >= TEMPLATES_MAX {
            return false;
        }
        kind.wanted = true;
        true
    }

    /// How an attempt to make one ended.
    pub(super) fn made(&mut self, name: &str, well: bool) {
        let kind = self.kind(name);
        kind.wanted = false;
        kind.makes_failed = if well { 0 } else { kind.makes_failed + 1 };
    }

    /// How a clone came up. True where the template is to be thrown away for it.
    pub(super) fn cloned(&mut self, name: &str, well: bool) -> bool {
        let kind = self.kind(name);
        kind.clones_failed = if well { 0 } else { kind.clones_failed + 1 };
        let bad = kind.clones_failed >= CLONES_FAILED_MAX;
        if bad {
            kind.clones_failed = 0;
            // The next one may be as bad.
            kind.makes_failed += 1;
        }
        bad
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shelved(name: &str, mib: u64, used: i64) -> Shelved {
        Shelved { name: name.to_owned(), bytes: mib << 20, used }
    }

    #[test]
    fn what_was_used_longest_ago_goes_first() {
        let some: Vec<_> = (0..6).map(|n| shelved(&n.to_string(), 10, 100 - n)).collect();
        assert_eq!(superfluous(some.clone(), "0"), ["5", "4"]);
        assert_eq!(superfluous(some, "5"), ["4", "3"], "the newest is not even looked at");
        let large = vec![shelved("a", 3000, 1), shelved("b", 1000, 2), shelved("c", 500, 3)];
        assert_eq!(superfluous(large.clone(), "c"), ["a"]);
        assert_eq!(superfluous(large, "a"), ["b"]);
        assert!(superfluous(vec![shelved("a", 9000, 1)], "a").is_empty());
        assert!(superfluous(Vec::new(), "a").is_empty());
    }

    #[test]
    fn a_kind_is_made_once_at_a_time_and_not_tried_for_ever() {
        let mut known = Known::default();
        for _ in 0..MAKES_FAILED_MAX {
            assert!(known.wants("a"));
            assert!(!known.wants("a"), "it is being made");
            known.made("a", false);
        }
        assert!(!known.wants("a"), "it cannot be made");
        for n in 0..TEMPLATES_MAX {
            assert!(known.wants(&format!("other {n}")));
        }
        assert!(!known.wants("one more"), "enough are waiting");
        known.made("other 0", true);
        assert!(known.wants("one more"));
    }

    #[test]
    fn a_template_that_fails_twice_in_a_row_is_thrown_away() {
        let mut known = Known::default();
        assert!(!known.cloned("a", false));
        assert!(!known.cloned("a", true));
        assert!(!known.cloned("a", false));
        assert!(known.cloned("a", false));
        assert!(known.wants("a"), "and made again");
        known.made("a", true);
        for _ in 0..2 {
            known.cloned("a", false);
        }
        assert!(known.wants("a"));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut known = Known::default();
        for n in 0..3 * KINDS_MAX {
            known.cloned(&n.to_string(), false);
        }
        assert!(known.0.len() <= KINDS_MAX);
    }
}
