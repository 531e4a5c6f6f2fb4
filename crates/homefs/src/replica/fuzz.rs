//! What `crate::fuzz` needs of this folder: valid bytes, and reading of others.

use std::hash::Hash;

use base::{Digest, Epoch};
use sha2::{Digest as _, Sha256};

use super::collect::Pages;
use super::container::{self, PRELUDE};
use super::descent::Descent;
use super::header::{Header, IndexAt, Kind, Sum};
use super::index::{Group, Index, PageObject};
use super::testing::{MemoryPages, header};
use crate::layout::HomeKeys;

const LEAD: usize = 16;
/// How many pages a database has here.
const PAGES: u32 = 40;

/// Headers as they stand in objects, without what goes before.
pub(crate) fn headers() -> Vec<Vec<u8>> {
    let at = IndexAt { full: true, len: 7, plain: 9, own: 8, hot: 3, ..IndexAt::default() };
    let with_index =
        Header { page_size: 4096, page_count: PAGES, index: Some(at), parent_base: 2, ..header(7) };
    let release = Header { kind: Kind::Release, ..with_index.clone() };
    let base = Header { kind: Kind::Base, parent_base: 7, ..with_index.clone() };
    let all = [header(7), with_index, release, base];
    all.iter().map(|header| serde_json::to_vec(header).unwrap()).collect()
}

/// What became of a header with a sum that fits.
pub(crate) fn read_header(json: &[u8]) -> impl Hash + use<> {
    let object = container::seal(2, json, b"", b"").map_err(|error| error.to_string());
    let read = object.and_then(|object| {
        container::decode_header(&object).map_err(|damaged| without_numbers(&damaged.to_string()))
    });
    read.map(|of| {
        // Whatever passes has lengths that add up.
        assert!(of.total() >= of.data_start() && of.data_start() >= of.pages_start());
        (of.header.kind as u8, of.header.index.is_some(), of.header.descent == Descent::default())
    })
}

/// Indexes, unpacked.
pub(crate) fn indexes() -> Vec<Vec<u8>> {
    let group = |object, offset, pages: &[u32]| Group {
        object,
        offset,
        len: 100,
        sum: Sum::of(b"sum"),
        pages: pages.into(),
    };
    let object = |born| PageObject { born, old: false, digest: Digest::of(b"o"), len: 1 << 20 };
    let own = Index { groups: vec![group(0, 0, &[1, 2, 9])], ..Index::default() };
    let far = Index {
        full: true,
        objects: vec![object(3), object(5)],
        groups: vec![group(0, 0, &[3, 1]), group(1, 0, &[4, 0, 7]), group(2, 70, &[30])],
    };
    [own, far].iter().map(|index| unpacked(&index.encode().0)).collect()
}

fn unpacked(packed: &[u8]) -> Vec<u8> {
    zstd::bulk::decompress(packed, 1 << 20).unwrap()
}

/// What became of an index with a sum that fits.
pub(crate) fn read_index(plain: &[u8]) -> impl Hash + use<> {
    let packed = zstd::bulk::compress(plain, 1).unwrap();
    let at = |full| IndexAt {
        full,
        len: packed.len() as u32,
        plain: plain.len() as u32,
        sum: Sum::of(&packed),
        own: 1 << 20,
        ..IndexAt::default()
    };
    let read = [false, true].map(|full| Index::decode(&packed, &at(full), PAGES));
    let [delta, full] = read.map(|index| {
        let index = index.map_err(|damaged| damaged.to_string())?;
        assert_eq!(unpacked(&index.encode().0), plain, "it has one spelling");
        Ok::<_, String>((index.groups.len(), index.objects.len()))
    });
    (delta, full)
}

/// Objects with pages, hints and data.
pub(crate) fn objects() -> Vec<Vec<u8>> {
    let source = MemoryPages::numbered(512, PAGES);
    let one = |chosen: &[u32], data: &[u8]| {
        let mut own = Vec::new();
        let groups = chosen
            .chunks(3)
            .map(|pages| container::encode_group(&source, pages, &mut own).unwrap())
            .collect();
        let index = Index { groups, ..Index::default() };
        let pages = Pages::new((512, PAGES), &index, b"hints", &own, 0, 0);
        let header = Header {
            page_size: 512,
            page_count: PAGES,
            index: pages.at,
            data: container::describe_data(data).unwrap(),
            epoch: Epoch(3),
            ..header(7)
        };
        container::encode(&header, &pages.body, data).unwrap().to_vec()
    };
    vec![
        one(&[1, 2, 5, 19], b"data"),
        one(&[7], b""),
        include_bytes!("container/commit-format-1.bin").to_vec(),
    ]
}

/// What became of an object whose header has a sum that fits.
pub(crate) fn read_object(input: &[u8], keys: &HomeKeys) -> impl Hash + use<> {
    let mut object = input.to_vec();
    if let Ok(end) = container::header_end(input)
        && end <= object.len()
    {
        let mut sum = Sha256::new();
        sum.update(&object[..LEAD]);
        sum.update(&object[PRELUDE..end]);
        object[LEAD..PRELUDE].copy_from_slice(&sum.finalize());
    }
    let read = container::verify(&object, keys);
    read.map(|(_, index)| index.groups.len())
        .map_err(|damaged| without_numbers(&damaged.to_string()))
}

fn without_numbers(text: &str) -> String {
    text.chars().filter(|c| !c.is_numeric()).take(60).collect()
}
