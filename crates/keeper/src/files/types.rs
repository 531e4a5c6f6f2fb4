//! Plain data of file calls. All of it crosses the keeper's socket.

use serde::{Deserialize, Serialize};
use vfs::{Kind, Owner, Time};

/// What stands at a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileInfo {
    /// What it is.
    pub kind: Kind,
    /// Permission bits.
    pub perm: u32,
    /// Who owns it.
    pub owner: Owner,
    /// Bytes.
    pub size: u64,
    /// Last change of content.
    pub mtime: Time,
    /// Changes with every change of content, mode or owner. Without quotes.
    pub etag: String,
    /// Where a symbolic link points.
    pub link_target: Option<Vec<u8>>,
}

/// One entry of a listing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its name.
    pub name: Vec<u8>,
    /// What it is.
    pub info: FileInfo,
}

/// A page of a listing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ListPage {
    /// Entries, in an order that stays.
    pub entries: Vec<Entry>,
    /// Hand back for the next page; `None` on the last.
    pub next: Option<u64>,
}

/// A part of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Range {
    /// From the first offset up to and including the second, which may lie past the end.
    Bounded(u64, u64),
    /// From this offset to the end.
    From(u64),
    /// This many bytes at the end.
    Last(u64),
}

impl Range {
    /// Offset and length within a file of `size` bytes; `None` where nothing of it is there.
    #[must_use]
    pub fn within(self, size: u64) -> Option<(u64, u64)> {
        let (start, end) = match self {
            Self::Bounded(first, last) => (first, last.saturating_add(1).min(size)),
            Self::From(first) => (first, size),
            Self::Last(count) => (size.saturating_sub(count), size),
        };
        (start < end).then(|| (start, end - start))
    }
}

/// The tags of an `If-Match` or `If-None-Match`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Tags {
    /// `*`.
    Any,
    /// These, without quotes.
    OneOf(Vec<String>),
}

impl Tags {
    /// True where something with `etag` stands there and matches.
    #[must_use]
    pub fn matches(&self, etag: Option<&str>) -> bool {
        match (self, etag) {
            (_, None) => false,
            (Self::Any, Some(_)) => true,
            (Self::OneOf(tags), Some(etag)) => tags.iter().any(|tag| tag == etag),
        }
    }
}

/// What must hold for a change to happen.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Preconditions {
    /// `If-Match`.
    pub if_match: Option<Tags>,
    /// `If-None-Match`.
    pub if_none_match: Option<Tags>,
}

/// How to put a file.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PutOptions {
    /// Permission bits; otherwise those of the replaced file, or 0644.
    pub perm: Option<u32>,
    /// What must hold.
    pub preconditions: Preconditions,
}

/// A file that was put.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutDone {
    /// True where nothing stood there before.
    pub created: bool,
    /// What stands there now.
    pub info: FileInfo,
}

/// A tree that was imported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ImportDone {
    /// Entries taken.
    pub entries: u64,
    /// Bytes of content.
    pub bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_cut_to_what_is_there() {
        for (range, size, expected) in [
            (Range::Bounded(0, 0), 10, Some((0, 1))),
            (Range::Bounded(2, 4), 10, Some((2, 3))),
            (Range::Bounded(8, 99), 10, Some((8, 2))),
            (Range::Bounded(0, u64::MAX), 10, Some((0, 10))),
            (Range::Bounded(10, 20), 10, None),
            (Range::Bounded(5, 4), 10, None),
            (Range::From(9), 10, Some((9, 1))),
            (Range::From(10), 10, None),
            (Range::Last(3), 10, Some((7, 3))),
            (Range::Last(99), 10, Some((0, 10))),
            (Range::Last(0), 10, None),
            (Range::From(0), 0, None),
            (Range::Last(1), 0, None),
        ] {
            assert_eq!(range.within(size), expected, "{range:?} of {size}");
        }
    }

    #[test]
    fn tags_match_only_what_stands_there() {
        let some = Tags::OneOf(vec!["a".to_owned(), "b".to_owned()]);
        assert!(Tags::Any.matches(Some("x")) && !Tags::Any.matches(None));
        assert!(some.matches(Some("b")) && !some.matches(Some("c")) && !some.matches(None));
        assert!(!Tags::OneOf(Vec::new()).matches(Some("a")));
    }
}
