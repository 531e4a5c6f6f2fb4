use proptest::prelude::*;

use super::*;

fn sum(seed: u32) -> Sum {
    Sum::of(&seed.to_le_bytes())
}

/// Some index of these groups: bytes, gap before it, pages; `cuts` say where objects begin.
fn index(groups: &[(u32, u64, Vec<u32>)], cuts: &[usize]) -> Index {
    let mut index = Index { full: true, ..Index::default() };
    let (mut object, mut offset) = (0, 0);
    for (n, (len, gap, pages)) in groups.iter().enumerate() {
        if cuts.contains(&n) {
            object += 1;
            offset = 0;
            let digest = Digest::of(&[object as u8]);
            let (born, old) = (u64::from(object) * 1_000, object == 2);
            index.objects.push(PageObject { born, old, digest, len: 1 << 40 });
        }
        offset += gap;
        let pages = pages.clone().into();
        index.groups.push(Group { object, offset, len: *len, sum: sum(n as u32), pages });
        offset += u64::from(*len);
    }
    index
}

fn at(index: &Index, packed: &[u8], plain: u32) -> IndexAt {
    IndexAt {
        full: index.full,
        len: packed.len() as u32,
        plain,
        sum: Sum::of(packed),
        own: index.own_bytes(),
        ..IndexAt::default()
    }
}

fn roundtrip(index: &Index, page_count: u32) -> Result<Index, Damaged> {
    let (packed, plain) = index.encode();
    Index::decode(&packed, &at(index, &packed, plain), page_count)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_went_in_comes_out(
        pages in proptest::collection::btree_set(1_u32..5_000, 1..400),
        sizes in proptest::collection::vec((1_usize..=16, 1_u32..70_000, 0_u64..3), 400),
        dead in proptest::collection::vec(any::<bool>(), 400),
        cuts in proptest::collection::vec(0_usize..40, 0..4),
        turned in any::<bool>(),
    ) {
        let mut pages: Vec<u32> = pages.into_iter().collect();
        if turned {
            pages.reverse();
        }
        let (mut groups, mut rest) = (Vec::new(), &pages[..]);
        for (count, len, gap) in sizes {
            let (own, next) = rest.split_at(count.min(rest.len()));
            rest = next;
            let mut own = own.to_vec();
            for (page, dead) in own.iter_mut().skip(1).zip(&dead) {
                if *dead {
                    *page = 0;
                }
            }
            if !own.is_empty() {
                groups.push((len, gap * 1_000, own));
            }
        }
        let index = index(&groups, &cuts);
        prop_assert_eq!(roundtrip(&index, 5_000).unwrap(), index);
    }

    #[test]
    fn a_flipped_bit_is_damage(at_byte in any::<prop::sample::Index>(), bit in 0..8_u8) {
        let index = index(&[(50, 0, vec![3, 4, 9]), (60, 5, vec![1])], &[1]);
        let (mut packed, plain) = index.encode();
        let at = at(&index, &packed, plain);
        let byte = at_byte.index(packed.len());
        packed[byte] ^= 1 << bit;
        prop_assert!(Index::decode(&packed, &at, 10).is_err());
    }

    /// Behind a checksum that holds: a writer that is wrong, or worse.
    #[test]
    fn random_bytes_never_panic_and_keep_the_invariants(
        plain in proptest::collection::vec(any::<u8>(), 0..300),
        good in any::<bool>(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut plain = plain;
        if good {
            let index = index(&[(50, 0, vec![3, 4, 9]), (60, 5, vec![1, 0]), (9, 0, vec![7])], &[1]);
            plain = zstd::bulk::decompress(&index.encode().0, 1 << 20).unwrap();
            for (at, byte) in changes {
                let at = at.index(plain.len());
                plain[at] = byte;
            }
        }
        if let Some(index) = Index::parse(&plain, 50, 20) {
            let mut pages: Vec<u32> = index.pages().collect();
            prop_assert!(pages.iter().all(|page| (1..=20).contains(page)));
            let count = pages.len();
            pages.sort_unstable();
            pages.dedup();
            prop_assert_eq!(pages.len(), count);
            let mut end = (0, 0);
            for group in &index.groups {
                prop_assert!((group.object, group.offset) >= end && group.live().count() > 0);
                let bound = index.object_of(group).map_or(50, |object| object.len);
                prop_assert!(group.end() <= bound);
                end = (group.object, group.end());
            }
        }
    }
}

#[test]
fn what_breaks_an_invariant_is_damage() {
    let good = index(&[(50, 0, vec![3, 4]), (60, 0, vec![1])], &[]);
    roundtrip(&good, 4).unwrap();
    assert!(roundtrip(&good, 3).is_err(), "a page above the page count");
    let with = |change: &dyn Fn(&mut Index)| {
        let mut bad = good.clone();
        change(&mut bad);
        roundtrip(&bad, 10)
    };
    assert!(with(&|index| index.groups[1].pages = [3].into()).is_err(), "a page twice");
    assert!(with(&|index| index.groups[1].pages = [0].into()).is_err(), "no page at all");
    assert!(with(&|index| index.groups[1].pages = [].into()).is_err());
    assert!(with(&|index| index.groups[1].pages = (1..=17).collect()).is_err());
    assert!(with(&|index| index.groups[1].len = 0).is_err());
    assert!(with(&|index| index.groups[1].len = u32::MAX).is_err());
    let (packed, plain) = good.encode();
    let right = at(&good, &packed, plain);
    for wrong in [
        IndexAt { own: 109, ..right },
        IndexAt { plain: plain - 1, ..right },
        IndexAt { plain: u32::MAX, ..right },
        IndexAt { full: false, ..right },
    ] {
        assert!(Index::decode(&packed, &wrong, 10).is_err(), "{wrong:?}");
    }
    Index::decode(&packed, &right, 10).unwrap();
}

#[test]
fn the_index_of_a_large_database_is_small() {
    let mut random = 1_u64;
    let groups: Vec<_> = (0..110_000_u32 / 16)
        .map(|n| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let len = 20_000 + (random >> 40) as u32 % 40_000;
            (len, 0, (n * 16 + 1..=n * 16 + 16).collect())
        })
        .collect();
    let cuts: Vec<usize> = (0..groups.len()).step_by(200).collect();
    let (packed, _) = index(&groups, &cuts).encode();
    assert!(packed.len() < 200_000, "{} bytes", packed.len());
}
