//! The trees of a SQLite database, as far as laying out its pages needs them: which page is inside
//! a tree, which is a leaf of it, and with which key a leaf begins. Pure but for reading pages.
//!
//! Only the pages inside trees are read, about one in three hundred; all leaves of a tree are
//! equally deep, so the last pages inside it tell where they are.
//!
//! # Failure
//! What cannot be made sense of is left out: nothing here decides whether a page is stored, only
//! beside which others. So damage costs requests and nothing else.

use crate::replica::error::Result;
use crate::replica::pages::PageSource;

/// Overflow pages of one row: of 16 KiB in the smallest pages 33.
const OVERFLOW_PAGES_MAX: usize = 64;
/// Pages between the root and a leaf. SQLite's own bound is 20.
const DEPTH_MAX: usize = 20;

/// One tree.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tree {
    /// The root and all pages that lead on to others, from the top down.
    pub(crate) inside: Vec<u32>,
    /// The pages that hold rows, in order, each with the key that the page before ends with. The
    /// root of a small tree is one.
    pub(crate) leaves: Vec<(u64, u32)>,
}

/// A page of a tree.
struct Page<'a> {
    bytes: &'a [u8],
    /// Where it begins: behind the database's header on page 1.
    start: usize,
}

/// Reads the tree with this root. Keys are the row number, or the first column where that is a number.
pub(crate) fn read_tree(source: &dyn PageSource, root: u32) -> Result<Tree> {
    let mut tree = Tree::default();
    let mut level = vec![(0, root)];
    let mut buffer = vec![0; source.page_size() as usize];
    for _ in 0..DEPTH_MAX {
        let Some(&(_, first)) = level.first() else { break };
        if !read(source, first, &mut buffer)? || !Page::new(&buffer, first).is_inside() {
            tree.leaves = level;
            break;
        }
        let mut next = Vec::new();
        for (key, number) in level {
            if !read(source, number, &mut buffer)? {
                continue;
            }
            tree.inside.push(number);
            Page::new(&buffer, number).children(key, &mut next);
        }
        // A tree has no more pages than the database; one that goes in circles does.
        if next.len() + tree.inside.len() > source.page_count() as usize {
            break;
        }
        level = next;
    }
    Ok(tree)
}

/// The overflow pages that rows of a leaf of a table begin, each with the row's number.
pub(crate) fn overflow_of(
    source: &dyn PageSource,
    leaf: u32,
    buffer: &mut [u8],
) -> Result<Vec<(u64, u32)>> {
    let mut found = Vec::new();
    if !read(source, leaf, buffer)? {
        return Ok(found);
    }
    let rows = Page::new(buffer, leaf).overflowing_rows();
    for (row, first, count) in rows {
        let mut page = first;
        for _ in 0..count {
            if !read(source, page, buffer)? {
                break;
            }
            found.push((row, page));
            page = u32_be(buffer, 0).unwrap_or(0);
        }
    }
    Ok(found)
}

/// False of a page that does not exist.
fn read(source: &dyn PageSource, page: u32, buffer: &mut [u8]) -> Result<bool> {
    let exists = (1..=source.page_count()).contains(&page);
    if exists {
        source.read_page(page, buffer)?;
    }
    Ok(exists)
}

impl<'a> Page<'a> {
    fn new(bytes: &'a [u8], number: u32) -> Self {
        Self { bytes, start: if number == 1 { 100 } else { 0 } }
    }

    fn kind(&self) -> u8 {
        self.bytes.get(self.start).copied().unwrap_or(0)
    }

    fn is_inside(&self) -> bool {
        matches!(self.kind(), 2 | 5)
    }

    /// Where its cells are; `header` bytes stand before the list of them.
    fn cells(&self, header: usize) -> impl Iterator<Item = usize> + '_ {
        let count = u16_be(self.bytes, self.start + 3).unwrap_or(0);
        let list = self.start + header;
        (0..usize::from(count))
            .filter_map(move |n| u16_be(self.bytes, list + 2 * n).map(usize::from))
    }

    /// The pages below it, in order, each with the key that the one before ends with.
    fn children(&self, mut key: u64, into: &mut Vec<(u64, u32)>) {
        for cell in self.cells(12) {
            let Some(child) = u32_be(self.bytes, cell) else { return };
            into.push((key, child));
            let rest = self.bytes.get(cell + 4..).unwrap_or(&[]);
            let own = if self.kind() == 5 { varint(rest).map(|v| v.0) } else { first_column(rest) };
            key = own.unwrap_or(key);
        }
        if let Some(last) = u32_be(self.bytes, self.start + 8) {
            into.push((key, last));
        }
    }

    /// Of rows that do not fit: number, first overflow page, number of those.
    fn overflowing_rows(&self) -> Vec<(u64, u32, usize)> {
        if self.kind() != 13 {
            return Vec::new();
        }
        self.cells(8).filter_map(|cell| self.overflowing_row(cell)).collect()
    }

    fn overflowing_row(&self, cell: usize) -> Option<(u64, u32, usize)> {
        let usable = self.bytes.len();
        let rest = self.bytes.get(cell..)?;
        let (payload, skip) = varint(rest)?;
        let (row, more) = varint(rest.get(skip..)?)?;
        let payload = usize::try_from(payload).ok()?;
        let (most, least) = (usable - 35, (usable - 12) * 32 / 255 - 23);
        if payload <= most {
            return None;
        }
        let wanted = least + (payload - least) % (usable - 4);
        let local = if wanted <= most { wanted } else { least };
        let first = u32_be(rest, skip + more + local)?;
        let count = (payload - local).div_ceil(usable - 4);
        (count <= OVERFLOW_PAGES_MAX).then_some((row, first, count))
    }
}

/// The first column of a row in an index, where it is a number that is not negative.
fn first_column(cell: &[u8]) -> Option<u64> {
    let (_, skip) = varint(cell)?;
    let record = cell.get(skip..)?;
    let (header, at) = varint(record)?;
    let (kind, _) = varint(record.get(at..)?)?;
    let body = record.get(usize::try_from(header).ok()?..)?;
    let bytes = match kind {
        8 => return Some(0),
        9 => return Some(1),
        1..=4 => usize::try_from(kind).ok()?,
        5 => 6,
        6 => 8,
        _ => return None,
    };
    let number = body.get(..bytes)?.iter().fold(0_u64, |n, byte| n << 8 | u64::from(*byte));
    let negative = body.first()? & 0x80 != 0;
    (!negative).then_some(number)
}

/// SQLite's numbers of variable length: the most significant bits first, nine bytes at most.
fn varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut number = 0_u64;
    for (at, byte) in bytes.iter().take(9).enumerate() {
        if at == 8 {
            return Some((number << 8 | u64::from(*byte), 9));
        }
        number = number << 7 | u64::from(byte & 0x7F);
        if byte & 0x80 == 0 {
            return Some((number, at + 1));
        }
    }
    None
}

fn u16_be(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..)?.first_chunk::<2>()?;
    Some(u16::from_be_bytes(*bytes))
}

fn u32_be(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..)?.first_chunk::<4>()?;
    Some(u32::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;
    use rusqlite::{Connection, params};

    use super::*;
    use crate::replica::testing::MemoryPages;

    fn pages_of(conn: &mut Connection) -> MemoryPages {
        let bytes = conn.serialize("main").unwrap().to_vec();
        MemoryPages { page_size: 4096, pages: bytes.chunks(4096).map(<[u8]>::to_vec).collect() }
    }

    fn root(conn: &Connection, name: &str) -> u32 {
        conn.query_row("SELECT rootpage FROM sqlite_schema WHERE name=?1", [name], |r| r.get(0))
            .unwrap()
    }

    #[test]
    fn every_page_of_a_database_is_found_once() {
        let mut conn = Connection::open_in_memory().unwrap();
        conn.execute_batch(
            "PRAGMA page_size=4096; BEGIN; CREATE TABLE blob(ino INTEGER PRIMARY KEY, data BLOB);
             CREATE TABLE d(parent INT, name BLOB, PRIMARY KEY(parent, name)) WITHOUT ROWID;",
        )
        .unwrap();
        for n in 0..6_000_u32 {
            let size = [10, 3_000, 4_060, 4_100, 16_000][n as usize % 5];
            conn.execute("INSERT INTO blob VALUES(?1, zeroblob(?2))", params![n * 2, size])
                .unwrap();
            conn.execute("INSERT INTO d VALUES(?1, zeroblob(?2))", params![n / 9, n % 9 + 30])
                .unwrap();
        }
        conn.execute_batch("COMMIT").unwrap();
        let source = pages_of(&mut conn);
        let mut seen = vec![1];
        let mut buffer = vec![0; 4096];
        for name in ["blob", "d"] {
            let tree = read_tree(&source, root(&conn, name)).unwrap();
            assert!(
                !tree.inside.is_empty() && tree.leaves.is_sorted_by_key(|leaf| leaf.0),
                "{name}"
            );
            assert!(tree.leaves.last().unwrap().0 > 600, "keys are read");
            seen.extend(&tree.inside);
            for (after, leaf) in &tree.leaves {
                seen.push(*leaf);
                let overflow = overflow_of(&source, *leaf, &mut buffer).unwrap();
                assert!(name == "blob" || overflow.is_empty());
                assert!(overflow.iter().all(|(row, _)| row >= after));
                seen.extend(overflow.iter().map(|(_, page)| page));
            }
        }
        let count = seen.len();
        assert_eq!(seen.into_iter().collect::<BTreeSet<_>>().len(), count, "none twice");
        assert_eq!(count, source.pages.len());
    }

    #[test]
    fn a_row_that_goes_on_for_ever_is_left_out() {
        let mut conn = Connection::open_in_memory().unwrap();
        conn.execute_batch(
            "PRAGMA page_size=4096; CREATE TABLE blob(ino INTEGER PRIMARY KEY, data BLOB);",
        )
        .unwrap();
        conn.execute("INSERT INTO blob VALUES(1, zeroblob(2000000))", []).unwrap();
        let mut source = pages_of(&mut conn);
        let leaf = root(&conn, "blob");
        let mut buffer = vec![0; 4096];
        assert!(
            overflow_of(&source, leaf, &mut buffer).unwrap().is_empty(),
            "nothing of ours is so long"
        );
        conn.execute("UPDATE blob SET data=zeroblob(16384)", []).unwrap();
        source.pages = pages_of(&mut conn).pages;
        let first = overflow_of(&source, leaf, &mut buffer).unwrap()[0].1;
        // The chain bites its own tail.
        source.pages[first as usize - 1][..4].copy_from_slice(&first.to_be_bytes());
        assert!(overflow_of(&source, leaf, &mut buffer).unwrap().len() <= OVERFLOW_PAGES_MAX);
    }

    proptest! {
        #[test]
        fn pages_of_random_bytes_do_no_harm(
            seeds in proptest::collection::vec(any::<u64>(), 8),
            kinds in proptest::collection::vec(0_u8..14, 8),
        ) {
            let pages = seeds.iter().zip(&kinds).map(|(seed, kind)| {
                let mut state = seed | 1;
                let mut page: Vec<u8> = (0..512).map(|_| {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    (state >> 24) as u8
                }).collect();
                page[0] = *kind;
                (page[8], page[9], page[10]) = (0, 0, 0);
                page[11] %= 10;
                page
            });
            let source = MemoryPages { page_size: 512, pages: pages.collect() };
            let mut buffer = vec![0; 512];
            for page in 0..10 {
                read_tree(&source, page).unwrap();
                overflow_of(&source, page, &mut buffer).unwrap();
            }
        }
    }
}
