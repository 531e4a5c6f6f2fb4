//! Which pages a full state stores, and which it only names. Pure.
//!
//! Stored again is what changed, what lies in commits (they go some day), what is hot, and what
//! lies in places that are mostly superseded. So a full state costs what changed since the one
//! before, what is stored is at most about twice what is live, and the number of objects that a
//! state names is bounded by its size.

use std::collections::{BTreeSet, HashMap};

use super::index::{Group, Index, PageObject};
use super::limits::{OBJECT_SMALL_BYTES, SMALL_OBJECTS_MAX};
use super::merged::{Merged, Place};

/// What a full state does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Pages to store.
    pub(crate) write: BTreeSet<u32>,
    /// Groups to name; `object` counts `objects`, from 0. Pages that are stored again are 0.
    keep: Vec<Group>,
    objects: Vec<PageObject>,
}

/// How much of an object is still of use.
#[derive(Debug, Clone, Copy, Default)]
struct Use {
    live: u64,
}

impl Plan {
    /// For a state of `page_count` pages that comes after `before` (`None`: after nothing that is
    /// known) and differs from it in `changed`, all above its pages aside. `hot` is stored anew.
    pub(crate) fn of(
        before: Option<&Merged>,
        changed: Option<&BTreeSet<u32>>,
        hot: &[u32],
        page_count: u32,
    ) -> Self {
        let (Some(before), Some(changed)) = (before, changed) else {
            return Self { write: (1..=page_count).collect(), ..Self::default() };
        };
        let mut write: BTreeSet<u32> = changed.range(1..=page_count).copied().collect();
        write.extend(hot);
        let mut kept: Vec<(PageObject, Group)> = Vec::new();
        for group in &before.groups {
            let still = |page: &u32| *page <= page_count && !write.contains(page);
            let live: Vec<u32> = group.live().filter(|page| still(page)).collect();
            match before.places.get(group.object as usize) {
                Some(Place::Object(object)) if live.len() * 2 >= group.pages.len() => {
                    let pages = group.pages.iter().map(|p| if live.contains(p) { *p } else { 0 });
                    kept.push((*object, Group { pages: pages.collect(), ..*group }));
                }
                _ => write.extend(live),
            }
        }
        let doomed = doomed(&kept);
        let mut plan = Self { write, ..Self::default() };
        let mut numbers = HashMap::new();
        for (object, group) in kept {
            // A group that is only half alive is stored again once it is touched at all.
            if doomed.contains(&object) {
                plan.write.extend(group.live());
                continue;
            }
            let number = *numbers.entry(object).or_insert_with(|| {
                plan.objects.push(object);
                plan.objects.len() - 1
            });
            let object = u32::try_from(number).unwrap_or(u32::MAX);
            plan.keep.push(Group { object, ..group });
        }
        plan
    }

    /// Adds what is only named to the index of what was stored.
    pub(crate) fn add_kept(self, index: &mut Index) {
        // An object stored anew may have the content, and so the name, of one that is there.
        let mut numbers = Vec::new();
        for object in self.objects {
            index.objects.push(object);
            numbers.push(u32::try_from(index.objects.len()).unwrap_or(u32::MAX));
        }
        for group in self.keep {
            let object = numbers[group.object as usize];
            index.groups.push(Group { object, ..group });
        }
        index.groups.sort_by_key(|group| (group.object, group.offset));
    }
}

/// Objects that are not worth keeping: less than half of their bytes live, or among too many small
/// ones.
fn doomed(kept: &[(PageObject, Group)]) -> BTreeSet<PageObject> {
    let mut uses = std::collections::BTreeMap::<PageObject, Use>::new();
    for (object, group) in kept {
        let (live, all) = (group.live().count() as u64, group.pages.len() as u64);
        uses.entry(*object).or_default().live += u64::from(group.len) * live / all.max(1);
    }
    let mut doomed: BTreeSet<PageObject> =
        uses.iter().filter(|(object, used)| used.live * 2 < object.len).map(|(o, _)| *o).collect();
    let mut small: Vec<(u64, PageObject)> = uses
        .iter()
        .filter(|(object, used)| used.live < OBJECT_SMALL_BYTES && !doomed.contains(object))
        .map(|(object, used)| (used.live, *object))
        .collect();
    if small.len() > SMALL_OBJECTS_MAX {
        // Smallest first, and half of them at once: so a byte is moved a few times at most.
        small.sort_unstable();
        doomed.extend(small.iter().take(small.len() / 2 + 1).map(|(_, object)| *object));
    }
    doomed
}

#[cfg(test)]
mod tests {
    use base::Digest;

    use super::super::header::Sum;
    use super::*;

    fn object(n: u32, len: u64) -> PageObject {
        PageObject { born: u64::from(n), old: false, digest: Digest::of(&[n as u8]), len }
    }

    fn group(object: u32, offset: u64, len: u32, pages: &[u32]) -> Group {
        Group { object, offset, len, sum: Sum::of(b""), pages: pages.into() }
    }

    fn before(places: Vec<Place>, groups: Vec<Group>) -> Merged {
        Merged { page_size: 512, page_count: 1_000, places, groups, ..Merged::default() }
    }

    fn set(pages: &[u32]) -> BTreeSet<u32> {
        pages.iter().copied().collect()
    }

    /// Every page is stored or named, none twice.
    fn check(plan: &Plan, before: &Merged, count: u32) {
        let mut pages: Vec<u32> = plan.keep.iter().flat_map(Group::live).collect();
        pages.extend(&plan.write);
        let distinct: BTreeSet<u32> = pages.iter().copied().collect();
        assert_eq!(distinct.len(), pages.len());
        let all: BTreeSet<u32> =
            before.groups.iter().flat_map(Group::live).filter(|page| *page <= count).collect();
        assert!(all.is_subset(&distinct) && distinct.iter().all(|page| *page <= count));
    }

    #[test]
    fn what_did_not_change_is_only_named() {
        let places =
            vec![Place::Object(object(1, 200)), Place::Own { key: "log/7".into(), start: 0 }];
        let groups =
            vec![group(0, 0, 100, &[1, 2]), group(0, 100, 100, &[3, 4]), group(1, 0, 10, &[5, 6])];
        let before = before(places, groups);
        let plan = Plan::of(Some(&before), Some(&set(&[2, 900])), &[], 700);
        check(&plan, &before, 700);
        assert_eq!(plan.write, set(&[2, 5, 6]));
        let mut index = Index::default();
        plan.add_kept(&mut index);
        assert_eq!(index.objects, [object(1, 200)]);
        let named: Vec<_> = index.groups.iter().map(|g| (g.object, &*g.pages)).collect();
        assert_eq!(named, [(1, &[1, 0][..]), (1, &[3, 4])]);
    }

    #[test]
    fn hot_pages_and_what_is_mostly_superseded_are_stored_again() {
        let places = vec![Place::Object(object(1, 300)), Place::Object(object(2, 300))];
        let groups = vec![
            group(0, 0, 100, &[1, 2, 3]),
            group(0, 100, 200, &[4, 5, 6]),
            group(1, 0, 100, &[7, 8, 9]),
            group(1, 100, 200, &[10, 11]),
        ];
        let before = before(places, groups);
        let plan = Plan::of(Some(&before), Some(&set(&[2, 3, 10, 11])), &[7], 20);
        check(&plan, &before, 20);
        // Group one: a third is alive. Object two: less than half.
        assert_eq!(plan.write, set(&[1, 2, 3, 7, 8, 9, 10, 11]));
        assert_eq!(plan.keep.len(), 1);
    }

    #[test]
    fn small_objects_are_put_together_when_there_are_too_many() {
        let count = SMALL_OBJECTS_MAX as u32 + 9;
        let places = (1..=count).map(|n| Place::Object(object(n, u64::from(n) * 1_000)));
        let groups = (1..=count).map(|n| group(n - 1, 0, n * 1_000, &[n])).collect();
        let before = before(places.collect(), groups);
        let plan = Plan::of(Some(&before), Some(&set(&[])), &[], count);
        check(&plan, &before, count);
        assert!(plan.objects.len() <= SMALL_OBJECTS_MAX);
        assert_eq!(plan.write, (1..=count / 2 + 1).collect(), "the smallest");
    }

    #[test]
    fn without_knowing_what_was_everything_is_stored() {
        assert_eq!(Plan::of(None, Some(&set(&[1])), &[], 9).write.len(), 9);
        assert_eq!(Plan::of(Some(&before(vec![], vec![])), None, &[], 9).write.len(), 9);
    }

    /// Over many states, each changing a little: what is stored stays within twice what is live.
    #[test]
    fn churn_is_bounded() {
        let mut random = 7_u64;
        let mut below = move |bound: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_041);
            (random >> 33) % bound
        };
        const COUNT: u32 = 40_000;
        let mut state = before(Vec::new(), Vec::new());
        let mut rewritten = 0;
        for born in 1..300_u32 {
            let fresh = born == 1;
            let changed: BTreeSet<u32> = if fresh {
                (1..=COUNT).collect()
            } else {
                (0..400).map(|_| 1 + below(u64::from(COUNT)) as u32).collect()
            };
            let plan = Plan::of(Some(&state), Some(&changed), &[], COUNT);
            check(&plan, &state, COUNT);
            rewritten += plan.write.len();
            let pages: Vec<u32> = plan.write.iter().copied().collect();
            let mut index = Index::default();
            for (n, pages) in pages.chunks(16 * 256).enumerate() {
                let groups: Vec<_> = pages.chunks(16).collect();
                index.objects.push(object(born * 100 + n as u32, groups.len() as u64 * 20_000));
                for (at, pages) in groups.iter().enumerate() {
                    index.groups.push(group(n as u32 + 1, at as u64 * 20_000, 20_000, pages));
                }
            }
            plan.add_kept(&mut index);
            let live: u64 = index.pages().count() as u64 * 20_000 / 16;
            let stored: u64 = index.objects.iter().map(|object| object.len).sum();
            assert!(stored < live * 5 / 2, "{born}: {stored} stored, {live} live");
            assert!(index.objects.len() < SMALL_OBJECTS_MAX + 100, "{}", index.objects.len());
            let places = index.objects.iter().map(|object| Place::Object(*object)).collect();
            let groups = index.groups.iter().map(|g| Group { object: g.object - 1, ..g.clone() });
            state = before(places, groups.collect());
        }
        assert!(rewritten < 300 * 400 * 12, "{rewritten}");
    }
}
