//! The bytes of a commit and of a base.
//!
//! ```text
//! "DMCOMMIT"  u32 format = 2  u32 header length  SHA-256 of all of the header's bytes and of these
//! header (JSON)   index   hints   pages that lie here   data section
//! ```
//! Numbers are little-endian. docs/formats.md describes it to people. Format 1 has neither index
//! nor hints; it is read and never written.
//!
//! Invariants:
//! - No byte is believed before a checksum covers it: the header by its SHA-256; index, hints and
//!   data section by sums in the header; each group of pages by a sum in the index. So damage is an error, never a wrong page.
//! - Nothing is allocated by a number that was not checked against `limits`.
//!
//! Not here: fetching and storing (`fetch`, `append`), what is in a header (`header`).

use std::ops::Range;

use bytes::{BufMut, Bytes, BytesMut};
use sha2::{Digest as _, Sha256};

use super::error::{Damaged, Error, Result};
use super::format1;
use super::header::{Data, Header, Sum};
use super::index::{Group, Index};
use super::limits::{
    DATA_BYTES_MAX, GROUP_BYTES_MAX, GROUP_PAGES_MAX, HEADER_BYTES_MAX, OLD_HEADER_BYTES_MAX,
};
use super::pages::PageSource;
use crate::layout::HomeKeys;

const MAGIC: &[u8; 8] = b"DMCOMMIT";
const FORMAT: u32 = 2;
/// What the checksum of the header covers besides the header.
const LEAD: usize = 16;
/// Bytes before the header.
pub(crate) const PRELUDE: usize = LEAD + 32;
/// The fastest level; pages of metadata gain little from more.
const ZSTD_LEVEL: i32 = 1;

/// A header, and where things lie in the object that it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Container {
    pub(crate) header: Header,
    header_end: u64,
}

impl Container {
    /// Where the index and the hints are.
    pub(crate) fn lead(&self) -> Range<u64> {
        self.header_end..self.pages_start()
    }

    /// Where the pages begin that lie in the object itself.
    pub(crate) fn pages_start(&self) -> u64 {
        self.header_end + self.header.lead_bytes()
    }

    /// Where the data section begins.
    pub(crate) fn data_start(&self) -> u64 {
        self.pages_start() + self.header.inline_bytes()
    }

    /// The index, out of the bytes of [`Container::lead`].
    pub(crate) fn index(&self, lead: &[u8], keys: &HomeKeys) -> Result<Index, Damaged> {
        let header = &self.header;
        let Some(at) = &header.index else {
            return format1::index(&header.sections, keys, header.seq, header.is_full());
        };
        let packed = lead.get(..at.len as usize).ok_or_else(too_short)?;
        Index::decode(packed, at, header.page_count)
    }

    /// The hints, out of the same bytes; empty where there are none.
    pub(crate) fn hints<'a>(&self, lead: &'a [u8]) -> Result<&'a [u8], Damaged> {
        let Some(at) = &self.header.index else { return Ok(&[]) };
        let hints = lead.get(at.len as usize..).ok_or_else(too_short)?;
        if hints.len() as u64 != u64::from(at.hints)
            || (at.hints > 0 && Sum::of(hints) != at.hints_sum)
        {
            return Err(Damaged::new("the checksum of its hints does not hold"));
        }
        Ok(hints)
    }

    /// Bytes of the whole object.
    pub(crate) fn total(&self) -> u64 {
        self.data_start() + self.header.data_bytes()
    }
}

/// The object. `body` is what lies between header and data section: index, hints, pages.
pub(crate) fn encode(header: &Header, body: &[u8], data: &[u8]) -> Result<Bytes> {
    let (lead, pages) = (header.lead_bytes(), header.inline_bytes());
    debug_assert_eq!(lead + pages, body.len() as u64, "the header counts what lies behind it");
    debug_assert_eq!(header.data, describe_data(data)?, "the header describes the data");
    let json = serde_json::to_vec(header).expect("a header is plain data with string keys");
    seal(FORMAT, &json, body, data)
}

/// The object of this format with this header.
pub(super) fn seal(format: u32, json: &[u8], body: &[u8], data: &[u8]) -> Result<Bytes> {
    let length = u32::try_from(json.len())
        .ok()
        .filter(|length| *length <= HEADER_BYTES_MAX)
        .ok_or(Error::TooLarge { what: "a header, in bytes,", max: u64::from(HEADER_BYTES_MAX) })?;
    let mut out = BytesMut::with_capacity(PRELUDE + json.len() + body.len() + data.len());
    out.put_slice(MAGIC);
    out.put_u32_le(format);
    out.put_u32_le(length);
    let sum = header_sum(&out, json);
    out.put_slice(&sum);
    out.put_slice(json);
    out.put_slice(body);
    out.put_slice(data);
    Ok(out.freeze())
}

/// What a header says of `data`.
pub(crate) fn describe_data(data: &[u8]) -> Result<Option<Data>> {
    if data.len() as u64 > DATA_BYTES_MAX {
        return Err(Error::TooLarge {
            what: "the data of a commit, in bytes,",
            max: DATA_BYTES_MAX,
        });
    }
    let described = Data { len: data.len() as u64, sum: Sum::of(data) };
    Ok((!data.is_empty()).then_some(described))
}

/// How many bytes of the object the header needs; `prefix` is at least its first [`PRELUDE`].
pub(crate) fn header_end(prefix: &[u8]) -> Result<usize, Damaged> {
    let lead = prefix.get(..LEAD).ok_or_else(too_short)?;
    let (magic, numbers) = lead.split_at(MAGIC.len());
    if magic != MAGIC {
        return Err(Damaged::new("it does not begin as a commit does"));
    }
    let longest = match u32_le(&numbers[..4]) {
        1 => OLD_HEADER_BYTES_MAX,
        FORMAT => HEADER_BYTES_MAX,
        format => {
            return Err(Damaged::new(format!(
                "it has format {format}, and this version reads formats 1 and {FORMAT}"
            )));
        }
    };
    let length = u32_le(&numbers[4..]);
    if length > longest {
        return Err(Damaged::new(format!("a header of {length} bytes is too long")));
    }
    Ok(PRELUDE + length as usize)
}

/// The header, from the object's beginning. More than the header may follow, and need not.
pub(crate) fn decode_header(prefix: &[u8]) -> Result<Container, Damaged> {
    let end = header_end(prefix)?;
    let json = prefix.get(PRELUDE..end).ok_or_else(too_short)?;
    if header_sum(&prefix[..LEAD], json) != prefix[LEAD..PRELUDE] {
        return Err(Damaged::new("the checksum of its header does not hold"));
    }
    let header: Header = serde_json::from_slice(json)
        .map_err(|error| Damaged::new(format!("its header cannot be read: {error}")))?;
    header.check()?;
    let is_old = prefix.get(MAGIC.len()) == Some(&1);
    if if is_old { header.index.is_some() } else { !header.sections.is_empty() } {
        return Err(Damaged::new("its header is one of another format"));
    }
    Ok(Container { header, header_end: end as u64 })
}

/// Compresses `pages` (at most [`GROUP_PAGES_MAX`], in any order) onto the end of `out`; object
/// and offset of the group are the caller's.
pub(crate) fn encode_group(
    source: &dyn PageSource,
    pages: &[u32],
    out: &mut Vec<u8>,
) -> Result<Group> {
    debug_assert!((1..=GROUP_PAGES_MAX as usize).contains(&pages.len()), "checked by the caller");
    let page_size = source.page_size() as usize;
    let mut plain = vec![0; page_size * pages.len()];
    for (page, into) in pages.iter().zip(plain.chunks_exact_mut(page_size)) {
        source.read_page(*page, into)?;
    }
    let packed = zstd::bulk::compress(&plain, ZSTD_LEVEL)
        .expect("compressing from memory to memory fails only without memory");
    let len = u32::try_from(packed.len()).expect("sixteen pages are far below 4 GiB");
    let offset = out.len() as u64;
    out.extend_from_slice(&packed);
    Ok(Group { object: 0, offset, len, sum: Sum::of(&packed), pages: pages.into() })
}

/// The pages of a group, one after the other.
pub(crate) fn decode_group(
    group: &Group,
    page_size: u32,
    packed: &[u8],
) -> Result<Vec<u8>, Damaged> {
    if packed.len() as u64 != u64::from(group.len) || u64::from(group.len) > GROUP_BYTES_MAX {
        return Err(Damaged::new("a group of pages is cut off"));
    }
    if Sum::of(packed) != group.sum {
        return Err(Damaged::new("the checksum of a group of pages does not hold"));
    }
    // The index was checked: a group has at most so many.
    debug_assert!(group.pages.len() <= GROUP_PAGES_MAX as usize);
    let size = page_size as usize * group.pages.len();
    match zstd::bulk::decompress(packed, size) {
        Ok(plain) if plain.len() == size => Ok(plain),
        _ => Err(Damaged::new("a group does not hold the pages that it should")),
    }
}

/// What lies before the pages in an object with this header.
pub(crate) fn before_pages<'a>(header: &Header, object: &'a [u8]) -> &'a [u8] {
    let behind = header.inline_bytes() + header.data_bytes();
    let behind = usize::try_from(behind).unwrap_or(usize::MAX);
    &object[..object.len().saturating_sub(behind)]
}

/// Checks the bytes of the data section against the header.
pub(crate) fn check_data(header: &Header, data: &[u8]) -> Result<(), Damaged> {
    match header.data {
        None if data.is_empty() => Ok(()),
        Some(said) if said.len == data.len() as u64 && said.sum == Sum::of(data) => Ok(()),
        _ => Err(Damaged::new("the checksum of its data does not hold")),
    }
}

/// Checks a whole object, all that lies in it; page objects are not looked at. Readers check what
/// they fetch instead.
#[cfg(test)]
pub(crate) fn verify(object: &[u8], keys: &HomeKeys) -> Result<(Container, Index), Damaged> {
    let container = decode_header(object)?;
    if container.total() != object.len() as u64 {
        return Err(Damaged::new("it is longer or shorter than its header says"));
    }
    let (rest, data) = object.split_at(container.data_start() as usize);
    let (rest, pages) = rest.split_at(container.pages_start() as usize);
    let lead = &rest[container.lead().start as usize..];
    let index = container.index(lead, keys)?;
    container.hints(lead)?;
    let mut at = 0;
    for group in index.groups.iter().filter(|group| group.object == 0) {
        let own = &pages[group.offset as usize..group.end() as usize];
        decode_group(group, container.header.page_size, own)?;
        assert_eq!(group.offset, at, "no byte is left out");
        at = group.end();
    }
    assert_eq!(at, pages.len() as u64);
    check_data(&container.header, data)?;
    Ok((container, index))
}

fn header_sum(lead: &[u8], json: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update(lead).chain_update(json).finalize().into()
}

fn u32_le(bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u32::from(*byte))
}

fn too_short() -> Damaged {
    Damaged::new("it is cut off")
}

#[cfg(test)]
mod tests {
    use base::HomeId;
    use proptest::prelude::*;

    use super::super::collect::Pages;
    use super::super::testing::{MemoryPages, header};
    use super::*;

    fn keys() -> HomeKeys {
        HomeKeys::new(HomeId::generate())
    }

    fn check(object: &[u8]) -> Result<(Container, Index), Damaged> {
        verify(object, &keys())
    }

    /// An object with these pages of `source`, in groups of `per_group`, and `data`.
    fn object(source: &MemoryPages, pages: &[u32], per_group: usize, data: &[u8]) -> Bytes {
        let mut own = Vec::new();
        let groups = pages
            .chunks(per_group)
            .map(|pages| encode_group(source, pages, &mut own).unwrap())
            .collect();
        let (size, count) = (source.page_size(), source.page_count());
        let index = Index { full: false, objects: Vec::new(), groups };
        let pages = Pages::new((size, count), &index, b"hints", &own, 0, 0);
        let header = Header {
            page_size: size,
            page_count: count,
            index: pages.at,
            data: describe_data(data).unwrap(),
            ..header(7)
        };
        encode(&header, &pages.body, data).unwrap()
    }

    /// All pages of an object, read back group by group.
    fn pages_of(object: &[u8]) -> Vec<(u32, Vec<u8>)> {
        let (container, index) = check(object).unwrap();
        let size = container.header.page_size;
        let start = container.pages_start() as usize;
        let mut pages = Vec::new();
        for group in &index.groups {
            let packed = &object[start + group.offset as usize..start + group.end() as usize];
            let plain = decode_group(group, size, packed).unwrap();
            pages.extend(group.live().zip(plain.chunks(size as usize).map(<[u8]>::to_vec)));
        }
        pages
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn what_went_in_comes_out(
            content in proptest::collection::vec(any::<u8>(), 40),
            chosen in proptest::collection::btree_set(1_u32..=40, 0..40),
            per_group in 1_usize..=16,
            data in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let mut source = MemoryPages::numbered(512, 40);
            for (page, byte) in source.pages.iter_mut().zip(content) {
                page[7..200].fill(byte);
            }
            let chosen: Vec<u32> = chosen.into_iter().collect();
            let object = object(&source, &chosen, per_group, &data);
            let container = check(&object).unwrap().0;
            prop_assert_eq!(&object[container.data_start() as usize..], &data[..]);
            let pages = pages_of(&object);
            prop_assert_eq!(pages.iter().map(|page| page.0).collect::<Vec<_>>(), chosen);
            for (page, bytes) in pages {
                prop_assert_eq!(&bytes, &source.pages[page as usize - 1]);
            }
        }

        #[test]
        fn a_flipped_bit_is_always_damage(at in any::<prop::sample::Index>(), bit in 0..8_u8) {
            let object = object(&MemoryPages::numbered(512, 20), &[1, 2, 5, 19], 3, b"data");
            let mut bytes = object.to_vec();
            let at = at.index(bytes.len());
            bytes[at] ^= 1_u8 << bit;
            prop_assert!(check(&bytes).is_err(), "bit {} of byte {}", bit, at);
        }

        #[test]
        fn random_bytes_are_damage(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut led = b"DMCOMMIT\x02\0\0\0".to_vec();
            led.extend(&bytes);
            prop_assert!(check(&bytes).is_err() && check(&led).is_err());
        }
    }

    #[test]
    fn an_object_that_was_cut_off_anywhere_is_damage() {
        let object = object(&MemoryPages::numbered(512, 20), &[1, 2, 5, 19], 3, b"data");
        for length in 0..object.len() {
            assert!(check(&object[..length]).is_err(), "{length}");
        }
        assert!(check(&[&object[..], b"x"].concat()).is_err());
    }

    /// Written by the first version. It must be readable for as long as its format is.
    #[test]
    fn a_commit_of_the_first_version_still_opens() {
        let golden = include_bytes!("container/commit-format-1.bin");
        let container = check(golden).unwrap().0;
        let header = &container.header;
        assert_eq!((header.seq, header.epoch.0, header.page_count), (7, 1, 20));
        assert_eq!(&golden[container.data_start() as usize..], b"the data section");
        let pages: Vec<u32> = pages_of(golden).iter().map(|page| page.0).collect();
        assert_eq!(pages, [1, 2, 5, 19]);
        for (number, page) in pages_of(golden) {
            assert_eq!(page, MemoryPages::numbered(512, 20).pages[number as usize - 1]);
        }
    }

    #[test]
    fn a_later_format_is_refused_and_named() {
        let mut bytes = object(&MemoryPages::numbered(512, 1), &[1], 1, b"").to_vec();
        bytes[8] = 3;
        assert!(decode_header(&bytes).unwrap_err().to_string().contains("format 3"));
    }

    #[test]
    fn a_group_that_unpacks_to_more_than_its_pages_is_damage() {
        let packed = zstd::bulk::compress(&vec![0; 1 << 20], 1).unwrap();
        let len = packed.len() as u32;
        let pages = [1].into();
        let group = Group { object: 0, offset: 0, len, sum: Sum::of(&packed), pages };
        assert!(decode_group(&group, 512, &packed).is_err());
    }

    #[test]
    fn a_header_that_holds_but_lies_is_damage() {
        let lie = Header { page_size: 512, page_count: u32::MAX, ..header(1) };
        assert!(decode_header(&encode(&lie, b"", b"").unwrap()).is_err());
    }
}
