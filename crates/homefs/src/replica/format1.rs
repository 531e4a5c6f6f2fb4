//! Where pages lie according to format 1: lists in the JSON header. Read, never written.

use serde::{Deserialize, Serialize};

use super::error::Damaged;
use super::header::{Sum, ensure};
use super::index::{Group, Index, PageObject};
use super::limits::{GROUP_BYTES_MAX, GROUP_PAGES_MAX, KEY_BYTES_MAX, OLD_SECTION_BYTES_MAX};
use crate::layout::HomeKeys;

/// Pages that are compressed together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OldGroup {
    /// First page and number of pages of each run, ascending.
    pub(crate) runs: Vec<(u32, u32)>,
    /// Compressed bytes. The group begins where the one before ends.
    pub(crate) len: u32,
    /// Of the compressed bytes.
    pub(crate) sum: Sum,
}

/// Groups that lie together, in the object itself or in one of their own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Section {
    /// The key of the page object. None: right after the header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) object: Option<String>,
    /// In order, without holes.
    pub(crate) groups: Vec<OldGroup>,
}

impl OldGroup {
    fn pages(&self) -> impl Iterator<Item = u32> + '_ {
        self.runs.iter().flat_map(|&(first, count)| first..first.saturating_add(count))
    }

    fn page_count(&self) -> u32 {
        self.runs.iter().fold(0, |sum, run| sum.saturating_add(run.1))
    }
}

impl Section {
    /// Its bytes.
    pub(crate) fn len(&self) -> u64 {
        self.groups.iter().map(|group| u64::from(group.len)).sum()
    }
}

/// Everything that a reader relies on.
pub(super) fn check(sections: &[Section], page_count: u32) -> Result<(), Damaged> {
    let mut above = 0;
    for (index, section) in sections.iter().enumerate() {
        match &section.object {
            Some(key) => {
                ensure(key.len() <= KEY_BYTES_MAX, || "the key of its pages is too long".into())?;
            }
            None => ensure(index + 1 == sections.len(), || {
                "a section that is not the last lies in the object itself".into()
            })?,
        }
        for group in &section.groups {
            above = check_group(group, above, page_count)?;
        }
        let bounded = section.len() <= OLD_SECTION_BYTES_MAX + GROUP_BYTES_MAX;
        ensure(bounded, || format!("a section of {} bytes is too long", section.len()))?;
    }
    Ok(())
}

/// Checks one group, all of whose pages must be above `above`; returns its last page.
fn check_group(group: &OldGroup, mut above: u32, page_count: u32) -> Result<u32, Damaged> {
    let bounded = group.len > 0 && u64::from(group.len) <= GROUP_BYTES_MAX;
    ensure(bounded, || format!("a group of {} bytes", group.len))?;
    let count = group.page_count();
    ensure((1..=GROUP_PAGES_MAX).contains(&count), || format!("a group of {count} pages"))?;
    for &(first, count) in &group.runs {
        let end = u64::from(first) + u64::from(count);
        let fits = first > above && count > 0 && end <= u64::from(page_count) + 1;
        ensure(fits, || format!("{count} pages from {first} are out of order or of bounds"))?;
        above = first + (count - 1);
    }
    Ok(above)
}

/// The same as an index, of commit or base `born`. `full` of a base.
pub(super) fn index(
    sections: &[Section],
    keys: &HomeKeys,
    born: u64,
    full: bool,
) -> Result<Index, Damaged> {
    let (mut objects, mut groups) = (Vec::new(), Vec::new());
    // The section that lies in the object itself is the last, and comes first in an index.
    for section in sections
        .iter()
        .rev()
        .take(1)
        .chain(sections)
        .enumerate()
        .filter_map(|(n, section)| (section.object.is_none() == (n == 0)).then_some(section))
    {
        let object = match &section.object {
            None => 0,
            Some(key) => {
                let digest = keys
                    .pages_digest(key)
                    .ok_or_else(|| Damaged::new("it names pages outside of its home"))?;
                let found = PageObject { born, old: true, digest, len: section.len() };
                let known = objects.iter().position(|object| *object == found);
                ensure(known.is_none(), || "it names a page object twice".into())?;
                objects.push(found);
                u32::try_from(objects.len()).unwrap_or(u32::MAX)
            }
        };
        let mut offset = 0;
        for group in &section.groups {
            let (len, sum, pages) = (group.len, group.sum, group.pages().collect());
            groups.push(Group { object, offset, len, sum, pages });
            offset += u64::from(group.len);
        }
    }
    Ok(Index { full, objects, groups })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(runs: &[(u32, u32)]) -> OldGroup {
        OldGroup { runs: runs.to_vec(), len: 10, sum: Sum::of(b"") }
    }

    fn inline(groups: Vec<OldGroup>) -> Vec<Section> {
        vec![Section { object: None, groups }]
    }

    #[test]
    fn pages_must_be_in_order_and_within_bounds() {
        check(&inline(vec![group(&[(1, 2), (4, 1)]), group(&[(9, 1), (20, 1)])]), 20).unwrap();
        for bad in [
            vec![group(&[(0, 1)])],
            vec![group(&[(1, 0)])],
            vec![group(&[(20, 2)])],
            vec![group(&[(u32::MAX, u32::MAX)])],
            vec![group(&[(1, 17)])],
            vec![group(&[(3, 1), (3, 1)])],
            vec![group(&[(3, 1)]), group(&[(2, 1)])],
            vec![group(&[])],
            vec![OldGroup { len: 0, ..group(&[(1, 1)]) }],
            vec![OldGroup { len: u32::MAX, ..group(&[(1, 1)]) }],
        ] {
            assert!(check(&inline(bad.clone()), 20).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn only_the_last_section_may_lie_in_the_object_itself() {
        let here = |page| Section { object: None, groups: vec![group(&[(page, 1)])] };
        let own = |page| Section { object: Some("k".into()), ..here(page) };
        assert!(check(&[here(1), own(2)], 20).is_err());
        check(&[own(1), here(2)], 20).unwrap();
    }

    #[test]
    fn what_lies_in_the_object_itself_comes_first_in_the_index() {
        let keys = HomeKeys::new(base::HomeId::generate());
        let digest = base::Digest::of(b"1");
        let object = Some(keys.old_page_object(9, &digest));
        let sections = [
            Section { object: object.clone(), groups: vec![group(&[(1, 2)]), group(&[(5, 1)])] },
            Section { object: None, groups: vec![group(&[(7, 1)])] },
        ];
        let found = index(&sections, &keys, 9, true).unwrap();
        assert_eq!(found.objects, [PageObject { born: 9, old: true, digest, len: 20 }]);
        let places: Vec<_> = found.groups.iter().map(|g| (g.object, g.offset, &*g.pages)).collect();
        assert_eq!(places, [(0, 0, &[7][..]), (1, 0, &[1, 2]), (1, 10, &[5])]);
        assert!(index(&[sections[0].clone(), sections[0].clone()], &keys, 9, true).is_err());
        let elsewhere = Section { object: Some("homes/x/pages/y".into()), groups: Vec::new() };
        assert!(index(&[elsewhere], &keys, 9, false).is_err());
        assert!(index(&[], &keys, 9, false).unwrap().groups.is_empty());
    }
}
