//! A change as bytes of the journal: counters, then rows, each a tag and its values.
//!
//! Values are those after the change, with two exceptions that keep records small: bytes written
//! into a small file, and ranges added to or taken from the spool, say what changed. So records
//! are applied in order, each once, to the state that the one before left.

mod decode;

use bytes::Bytes;
use vfs::Ino;

pub(crate) use self::decode::decode;
use super::delta::{Delta, EntryKey};
use crate::meta::counters::Counters;
use crate::meta::inode::Inode;
use crate::meta::rows::{Entry, Spooled};

/// A change of what is in the spool, in the order in which they happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SpoolStep {
    /// The row itself; its ranges stay.
    Set(Ino, Spooled),
    Cover {
        ino: Ino,
        generation: u64,
        start: u64,
        end: u64,
    },
    /// In all generations up to this one.
    Uncover {
        ino: Ino,
        generation: u64,
        start: u64,
        end: u64,
    },
    Drop(Ino),
}

/// Bytes written into a small file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Patch {
    pub(crate) at: usize,
    pub(crate) len: usize,
}

/// One row of a record.
#[derive(Debug, PartialEq)]
pub(crate) enum Item<'a> {
    Inode(Ino, Option<Inode>),
    Entry(EntryKey, Option<Entry>),
    Blob(Ino, Option<&'a [u8]>),
    Patch(Ino, usize, &'a [u8]),
    Orphan(Ino, Option<bool>),
    Cut(Ino, u64),
    Spool(SpoolStep),
}

const INODE: u8 = 1;
const NO_INODE: u8 = 2;
const ENTRY: u8 = 3;
const NO_ENTRY: u8 = 4;
const BLOB: u8 = 5;
const NO_BLOB: u8 = 6;
const PATCH: u8 = 7;
const ORPHAN: u8 = 8;
const NO_ORPHAN: u8 = 9;
const CUT: u8 = 10;
const SPOOLED: u8 = 11;
const COVER: u8 = 12;
const UNCOVER: u8 = 13;
const NO_SPOOLED: u8 = 14;

/// Appends the record of a change to `out`. `patch` says what of a blob's new value is news.
pub(crate) fn encode(
    out: &mut Vec<u8>,
    counters: &Counters,
    rows: &Delta,
    patch: impl Fn(Ino) -> Option<Patch>,
    steps: &[SpoolStep],
) {
    for number in [
        counters.next_ino,
        counters.next_cookie,
        counters.version,
        counters.bytes_used,
        counters.inodes_used,
    ] {
        put(out, number);
    }
    for (ino, inode) in &rows.inodes {
        match inode {
            Some(inode) => put_inode(out, inode),
            None => tagged(out, NO_INODE, &[*ino]),
        }
    }
    for (key, change) in &rows.entries {
        let tag = if change.now.is_some() { ENTRY } else { NO_ENTRY };
        tagged(out, tag, &[key.parent]);
        put_bytes(out, &key.name);
        if let Some(entry) = change.now {
            put(out, entry.ino);
            put(out, entry.cookie);
        }
    }
    for (ino, blob) in &rows.blobs {
        match (blob, patch(*ino)) {
            (Some(blob), Some(Patch { at, len })) => {
                tagged(out, PATCH, &[*ino, at as u64]);
                put_bytes(out, &blob[at..at + len]);
            }
            (Some(blob), None) => {
                tagged(out, BLOB, &[*ino]);
                put_bytes(out, blob);
            }
            (None, _) => tagged(out, NO_BLOB, &[*ino]),
        }
    }
    for (ino, orphan) in &rows.orphans {
        match orphan {
            Some(detached) => tagged(out, ORPHAN, &[*ino, u64::from(*detached)]),
            None => tagged(out, NO_ORPHAN, &[*ino]),
        }
    }
    for (ino, from) in &rows.cuts {
        tagged(out, CUT, &[*ino, *from]);
    }
    for step in steps {
        match step {
            SpoolStep::Set(ino, row) => {
                let time = row.sealed_mtime.cast_unsigned();
                let values = [*ino, row.generation, row.sealed_size, time, row.sealed_version];
                tagged(out, SPOOLED, &values);
            }
            SpoolStep::Cover { ino, generation, start, end } => {
                tagged(out, COVER, &[*ino, *generation, *start, *end]);
            }
            SpoolStep::Uncover { ino, generation, start, end } => {
                tagged(out, UNCOVER, &[*ino, *generation, *start, *end]);
            }
            SpoolStep::Drop(ino) => tagged(out, NO_SPOOLED, &[*ino]),
        }
    }
}

fn put_inode(out: &mut Vec<u8>, inode: &Inode) {
    let (kind, perm) = (inode.kind.mode_bits() >> 12, inode.perm);
    tagged(out, INODE, &[inode.ino, u64::from(kind << 12 | perm), inode.tier.number()]);
    for number in [inode.nlink, inode.owner.uid, inode.owner.gid, inode.rdev] {
        put(out, u64::from(number));
    }
    for number in [inode.size, inode.alloc, inode.version, inode.parent] {
        put(out, number);
    }
    for time in [inode.atime, inode.mtime, inode.ctime, inode.btime] {
        out.extend_from_slice(&time.to_le_bytes());
    }
}

fn tagged(out: &mut Vec<u8>, tag: u8, numbers: &[u64]) {
    out.push(tag);
    numbers.iter().for_each(|number| put(out, *number));
}

fn put(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Content of a small file with `bytes` written at `at`.
pub(crate) fn patched(old: Option<&Bytes>, at: usize, bytes: &[u8]) -> Bytes {
    let old = old.map_or(&[][..], |old| &old[..]);
    let end = at + bytes.len();
    let mut new = Vec::with_capacity(end.max(old.len()));
    new.extend_from_slice(&old[..at.min(old.len())]);
    new.resize(at, 0);
    new.extend_from_slice(bytes);
    new.extend_from_slice(old.get(end..).unwrap_or_default());
    new.into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use vfs::Result;

    use super::*;

    fn items(record: &[u8]) -> Result<(Counters, Vec<String>)> {
        let (mut counters, mut items) = (Counters::default(), Vec::new());
        decode(record, &mut counters, |item| {
            items.push(format!("{item:?}"));
            Ok(())
        })?;
        Ok((counters, items))
    }

    #[test]
    fn a_record_says_what_changed() {
        let mut rows = Delta::default();
        let key = EntryKey { parent: 1, name: b"a"[..].into() };
        rows.put_entry(key.clone(), Some(Entry { ino: 300, cookie: 7 }), true);
        rows.blobs.insert(300, Some(Bytes::from_static(b"0123456789")));
        rows.inodes.insert(299, None);
        let steps = [SpoolStep::Cover { ino: 5, generation: 1 << 50, start: 0, end: 1 << 40 }];
        let counters = Counters { next_ino: 301, version: u64::MAX, ..Counters::default() };
        let mut record = Vec::new();
        encode(&mut record, &counters, &rows, |_| Some(Patch { at: 4, len: 3 }), &steps);
        let (found, items) = items(&record).unwrap();
        assert_eq!(found, counters);
        let expected = [
            Item::Inode(299, None),
            Item::Entry(key, Some(Entry { ino: 300, cookie: 7 })),
            Item::Patch(300, 4, b"456"),
            Item::Spool(steps[0].clone()),
        ];
        assert_eq!(items, expected.map(|item| format!("{item:?}")));
    }

    #[test]
    fn a_patch_fills_with_zeros_and_keeps_the_rest() {
        let old = Bytes::from_static(b"abcdef");
        assert_eq!(&patched(Some(&old), 2, b"XY")[..], b"abXYef");
        assert_eq!(&patched(Some(&old), 8, b"Z")[..], b"abcdef\0\0Z");
        assert_eq!(&patched(None, 1, b"Z")[..], b"\0Z");
    }

    proptest! {
        #[test]
        fn no_bytes_break_the_reader(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            items(&bytes).ok();
        }
    }
}
