//! Where the pages of a commit or a base lie.
//!
//! Pages are compressed in groups of up to [`GROUP_PAGES_MAX`]; groups lie one after the other in
//! the commit itself or in page objects. An index is a *delta* (pages that changed; the others are
//! as before) or *full* (where every page of the database is; a page that it does not name is
//! zeros). A full index names groups of older page objects too, and of those perhaps not all pages:
//! the ones that were written anew since have the number 0 in it.
//!
//! Invariants, of whatever [`Index::decode`] accepts:
//! - No page is named twice, none is above the page count; every group names at least one.
//! - Groups are in order of object and offset, do not overlap and lie within their object.
//!
//! Not here: the bytes around it (`container`), which pages go where (`plan`).

use base::Digest;

use super::error::Damaged;
use super::header::{IndexAt, Sum};
use super::limits::{GROUP_BYTES_MAX, GROUP_PAGES_MAX, INDEX_BYTES_MAX};
use super::varint::{Reader, Writer, unzigzag, zigzag};

/// Compressing it well is worth more than time: it is read more often than it is written.
const ZSTD_LEVEL: i32 = 3;

/// An object that holds nothing but groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct PageObject {
    /// The commit or base that it was stored for.
    pub(crate) born: u64,
    /// Format 1 named it: by its digest alone.
    pub(crate) old: bool,
    /// Of its bytes.
    pub(crate) digest: Digest,
    /// Its bytes.
    pub(crate) len: u64,
}

/// Pages that are compressed together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Group {
    /// 0: the commit or base itself; else which one of [`Index::objects`], from 1.
    pub(crate) object: u32,
    /// Where it begins: in the page object, or from where the pages of the commit begin.
    pub(crate) offset: u64,
    /// Compressed bytes.
    pub(crate) len: u32,
    /// Of the compressed bytes.
    pub(crate) sum: Sum,
    /// Its pages in the order in which they lie there; 0 for one that is found elsewhere now.
    pub(crate) pages: Box<[u32]>,
}

impl Group {
    /// The offset after its last byte.
    pub(crate) fn end(&self) -> u64 {
        self.offset + u64::from(self.len)
    }

    /// The pages that are to be found here.
    pub(crate) fn live(&self) -> impl Iterator<Item = u32> + '_ {
        self.pages.iter().copied().filter(|page| *page != 0)
    }
}

/// Where pages lie.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Index {
    /// A page that it does not name is zeros, rather than what it was before.
    pub(crate) full: bool,
    /// The page objects that it names, each once.
    pub(crate) objects: Vec<PageObject>,
    /// In order of object and offset.
    pub(crate) groups: Vec<Group>,
}

impl Index {
    /// Every page that it names.
    #[cfg(test)]
    pub(crate) fn pages(&self) -> impl Iterator<Item = u32> + '_ {
        self.groups.iter().flat_map(Group::live)
    }

    /// The page object that a group lies in; `None` of the commit itself.
    pub(crate) fn object_of(&self, group: &Group) -> Option<&PageObject> {
        self.objects.get((group.object as usize).checked_sub(1)?)
    }

    /// Bytes of the groups in the commit itself.
    #[cfg(test)]
    pub(crate) fn own_bytes(&self) -> u64 {
        self.groups.iter().filter(|group| group.object == 0).map(Group::end).max().unwrap_or(0)
    }

    /// Its bytes, compressed, and how many they are uncompressed.
    pub(crate) fn encode(&self) -> (Vec<u8>, u32) {
        let mut out = Writer::default();
        out.byte(u8::from(self.full));
        out.number(self.objects.len() as u64);
        for object in &self.objects {
            out.number(object.born << 1 | u64::from(object.old));
            out.bytes(object.digest.as_bytes());
            out.number(object.len);
        }
        // Column by column: like beside like compresses.
        let mut counts = vec![0; self.objects.len() + 1];
        for group in &self.groups {
            debug_assert!((group.object as usize) < counts.len(), "groups lie in objects it names");
            if let Some(count) = counts.get_mut(group.object as usize) {
                *count += 1;
            }
        }
        counts.into_iter().for_each(|count| out.number(count));
        let mut end = (0, 0);
        for group in &self.groups {
            let after = if end.0 == group.object { end.1 } else { 0 };
            debug_assert!(group.offset >= after, "groups are in order");
            out.number(group.offset - after);
            end = (group.object, group.end());
        }
        self.groups.iter().for_each(|group| out.number(u64::from(group.len)));
        self.groups.iter().for_each(|group| out.number(group.pages.len() as u64));
        let mut before = 0;
        for page in self.groups.iter().flat_map(|group| group.pages.iter().copied()) {
            match page {
                0 => out.number(0),
                page => {
                    out.number(zigzag(i64::from(page) - before) + 1);
                    before = i64::from(page);
                }
            }
        }
        self.groups.iter().for_each(|group| out.bytes(&group.sum.0));
        let plain = out.into_bytes();
        let packed = zstd::bulk::compress(&plain, ZSTD_LEVEL)
            .expect("compressing from memory to memory fails only without memory");
        (packed, u32::try_from(plain.len()).unwrap_or(u32::MAX))
    }

    /// Reads what [`Index::encode`] wrote for a database of `page_count` pages. `at` was checked.
    pub(crate) fn decode(packed: &[u8], at: &IndexAt, page_count: u32) -> Result<Self, Damaged> {
        if packed.len() as u64 != u64::from(at.len) || Sum::of(packed) != at.sum {
            return Err(Damaged::new("the checksum of its index does not hold"));
        }
        if at.plain > INDEX_BYTES_MAX {
            return Err(Damaged::new("its index is too long"));
        }
        let plain = zstd::bulk::decompress(packed, at.plain as usize)
            .ok()
            .filter(|plain| plain.len() == at.plain as usize)
            .ok_or_else(|| Damaged::new("its index does not unpack to what it should"))?;
        let index = Self::parse(&plain, at.own, page_count)
            .ok_or_else(|| Damaged::new("its index says what cannot be"))?;
        let stated = index.full == at.full;
        if stated { Ok(index) } else { Err(Damaged::new("its index is of another kind")) }
    }

    /// `None` of anything that breaks an invariant. Nothing is allocated by a number that is not
    /// bounded by the bytes that are there.
    fn parse(plain: &[u8], own: u64, page_count: u32) -> Option<Self> {
        let mut from = Reader::new(plain);
        let full = match from.byte()? {
            0 => false,
            1 => true,
            _ => return None,
        };
        let objects = (0..from.count(34)?)
            .map(|_| {
                let born = from.number()?;
                let (born, old) = (born >> 1, born & 1 == 1);
                let digest = Digest::from_bytes(from.bytes()?);
                Some(PageObject { born, old, digest, len: from.number()? })
            })
            .collect::<Option<Vec<_>>>()?;
        let mut groups: Vec<Group> = Vec::new();
        for object in 0..=objects.len() {
            for _ in 0..from.count(0)? {
                // A group takes at least this many bytes of what is still to come.
                if groups.len() > from.left() / 20 {
                    return None;
                }
                let object = u32::try_from(object).ok()?;
                let (sum, pages) = (Sum([0; 16]), Box::default());
                groups.push(Group { object, offset: 0, len: 0, sum, pages });
            }
        }
        for group in &mut groups {
            group.offset = from.number()?;
        }
        let mut end = (0, 0);
        for group in &mut groups {
            group.len = u32::try_from(from.number()?).ok().filter(|len| *len > 0)?;
            let after = if end.0 == group.object { end.1 } else { 0_u64 };
            group.offset = group.offset.checked_add(after)?;
            let bound = match (group.object as usize).checked_sub(1) {
                Some(object) => objects.get(object)?.len,
                None => own,
            };
            let last = group.offset.checked_add(u64::from(group.len))?;
            if last > bound || u64::from(group.len) > GROUP_BYTES_MAX {
                return None;
            }
            end = (group.object, last);
        }
        for group in &mut groups {
            let count = u32::try_from(from.number()?).ok()?;
            if !(1..=GROUP_PAGES_MAX).contains(&count) {
                return None;
            }
            group.pages = vec![0; count as usize].into();
        }
        let mut seen = vec![0_u64; (page_count as usize).div_ceil(64)];
        let mut before = 0;
        for group in &mut groups {
            for slot in &mut group.pages {
                let Some(step) = from.number()?.checked_sub(1) else { continue };
                let page = u32::try_from(before + unzigzag(step)?).ok()?;
                let bit = (page as usize).checked_sub(1).filter(|_| page <= page_count)?;
                let (word, mask) = (seen.get_mut(bit / 64)?, 1 << (bit % 64));
                if *word & mask != 0 {
                    return None;
                }
                *word |= mask;
                *slot = page;
                before = i64::from(page);
            }
            group.live().next()?;
        }
        for group in &mut groups {
            group.sum = Sum(from.bytes()?);
        }
        (from.left() == 0).then_some(Self { full, objects, groups })
    }
}

#[cfg(test)]
mod tests;
