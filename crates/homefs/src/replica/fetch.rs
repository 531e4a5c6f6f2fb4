//! Commits and bases, back from the store.
//!
//! The first request asks for the beginning of the object, which of a common commit is all of it.
//! What a later part of it is asked for comes from there where it can.
//!
//! Invariant: what is handed out was checked: a header is that of the object it was asked for, an
//! index one that keeps its promises, and groups are of the length that the index says.

use std::ops::Range;

use bytes::Bytes;

use super::container::{self, Container, PRELUDE};
use super::error::{Damaged, Error, Result};
use super::header::{Header, Kind};
use super::index::{Group, Index, PageObject};
use super::limits::{DATA_PROBE_BYTES, PIECE_BYTES, PIECE_GAP_BYTES, PROBE_BYTES};
use super::log::Log;
use super::merged::Place;

/// An object of the log whose header has been read.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    /// Its key.
    pub(crate) key: String,
    container: Container,
    /// The beginning of the object, at least the header.
    prefix: Bytes,
}

/// Groups of one object that lie near each other, to be fetched together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Indices of the groups; some between them may not be wanted.
    pub(crate) groups: Range<usize>,
    /// Their bytes, by the offsets that the groups have.
    pub(crate) range: Range<u64>,
}

impl Piece {
    /// The bytes of one of its groups, out of those of the piece.
    pub(crate) fn part<'a>(&self, bytes: &'a [u8], group: &Group) -> Option<&'a [u8]> {
        let start = usize::try_from(group.offset.checked_sub(self.range.start)?).ok()?;
        bytes.get(start..start.checked_add(group.len as usize)?)
    }
}

/// The groups of which `wanted` is true, put together to pieces of a sensible size.
pub(crate) fn pieces(groups: &[Group], wanted: impl Fn(&Group) -> bool) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = Vec::new();
    for (index, group) in groups.iter().enumerate().filter(|(_, group)| wanted(group)) {
        let (start, end) = (group.offset, group.end());
        let near = |last: &&mut Piece| {
            groups[last.groups.start].object == group.object
                && start >= last.range.end
                && start - last.range.end <= PIECE_GAP_BYTES
                && end - last.range.start <= PIECE_BYTES
        };
        match pieces.last_mut().filter(near) {
            Some(last) => (last.groups.end, last.range.end) = (index + 1, end),
            None => pieces.push(Piece { groups: index..index + 1, range: start..end }),
        }
    }
    pieces
}

impl Stored {
    /// What it says about itself.
    pub(crate) fn header(&self) -> &Header {
        &self.container.header
    }

    /// Where its own pages begin.
    pub(crate) fn pages_start(&self) -> u64 {
        self.container.pages_start()
    }

    /// What was fetched of its own pages already, from their beginning on.
    pub(crate) fn fetched_pages(&self) -> Bytes {
        let all = self.container.pages_start()..self.container.data_start();
        let clip = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(self.prefix.len());
        self.prefix.slice(clip(all.start)..clip(all.end))
    }
}

impl Log {
    /// What this process knows of its own commit `seq`: all but its pages and data.
    pub(super) fn remembered(&self, seq: u64) -> Option<Stored> {
        let prefix = self.recent.get(seq)?;
        let container = container::decode_header(&prefix).ok()?;
        Some(Stored { key: self.keys().log(seq), container, prefix })
    }

    /// Commit `seq`; `None` where there is none of that number (yet, or any more).
    pub(crate) async fn read(&self, seq: u64) -> Result<Option<Stored>> {
        self.read_from(seq, PROBE_BYTES).await
    }

    /// The same, fetching this much of it at first.
    pub(crate) async fn read_from(&self, seq: u64, probe: u64) -> Result<Option<Stored>> {
        let stored = match self.open(self.keys().log(seq), probe).await {
            Err(Error::Store(objstore::Error::NotFound { .. })) => return Ok(None),
            other => other?,
        };
        if stored.header().seq != seq || stored.header().kind == Kind::Base {
            return Err(Error::corrupt(stored.key, "it is not the commit of its number"));
        }
        Ok(Some(stored))
    }

    /// The base of commit `seq`.
    pub(crate) async fn read_base(&self, seq: u64) -> Result<Stored> {
        let stored = match self.open(self.keys().base(seq), PROBE_BYTES).await {
            Err(Error::Store(objstore::Error::NotFound { key })) => {
                return Err(Error::corrupt(key, "it is missing"));
            }
            other => other?,
        };
        if stored.header().seq != seq || stored.header().kind != Kind::Base {
            return Err(Error::corrupt(stored.key, "it is not the base of its number"));
        }
        Ok(stored)
    }

    /// The data section of commit `seq`, whole and checked; empty where it has none.
    pub(crate) async fn read_data(&self, seq: u64) -> Result<Bytes> {
        let missing = || Error::corrupt(self.keys().log(seq), "it is missing");
        let stored = self.read_from(seq, DATA_PROBE_BYTES).await?.ok_or_else(missing)?;
        let range = stored.container.data_start()..stored.container.total();
        let data = self.part(&stored, range).await?;
        container::check_data(stored.header(), &data).map_err(|damage| damage.of(&stored.key))?;
        Ok(data)
    }

    /// Where the pages of a commit or base lie.
    pub(crate) async fn index(&self, stored: &Stored) -> Result<Index> {
        Ok(self.index_and_hints(stored).await?.0)
    }

    /// The same, and what else a full state tells its readers.
    pub(crate) async fn index_and_hints(&self, stored: &Stored) -> Result<(Index, Bytes)> {
        let lead = self.part(stored, stored.container.lead()).await?;
        let of = |damage: Damaged| damage.of(&stored.key);
        let index = stored.container.index(&lead, self.keys()).map_err(of)?;
        let hints = stored.container.hints(&lead).map_err(of)?;
        let hints = lead.slice_ref(hints);
        Ok((index, hints))
    }

    /// Bytes of a place, by the offsets that groups have there.
    pub(crate) async fn part_of(&self, place: &Place, range: &Range<u64>) -> Result<Bytes> {
        let missing = || Error::corrupt(self.place_key(place), "it is missing");
        self.part_if_there(place, range).await?.ok_or_else(missing)
    }

    /// The same; `None` where there is no such object.
    pub(crate) async fn part_if_there(
        &self,
        place: &Place,
        range: &Range<u64>,
    ) -> Result<Option<Bytes>> {
        let (key, range) = match place {
            Place::Object(object) => (self.object_key(object), range.clone()),
            Place::Own { key, start } => (key.clone(), start + range.start..start + range.end),
        };
        match self.store().get(&key, Some(range.clone())).await {
            Ok(bytes) => sized(bytes, &range).map(Some).map_err(|damage| damage.of(&key)),
            Err(objstore::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The key of a place.
    pub(crate) fn place_key(&self, place: &Place) -> String {
        match place {
            Place::Object(object) => self.object_key(object),
            Place::Own { key, .. } => key.clone(),
        }
    }

    /// The key of a page object.
    pub(crate) fn object_key(&self, object: &PageObject) -> String {
        if object.old {
            self.keys().old_page_object(object.born, &object.digest)
        } else {
            self.keys().page_object(object.born, &object.digest)
        }
    }

    async fn part_of_object(&self, key: &str, range: &Range<u64>) -> Result<Bytes> {
        match self.store().get(key, Some(range.clone())).await {
            Ok(bytes) => sized(bytes, range).map_err(|damage| damage.of(key)),
            Err(objstore::Error::NotFound { key }) => Err(Error::corrupt(key, "it is missing")),
            Err(error) => Err(error.into()),
        }
    }

    /// The beginning of an object, at least its header.
    async fn open(&self, key: String, probe: u64) -> Result<Stored> {
        let mut prefix = self.store().get(&key, Some(0..probe)).await?;
        let of = |damage: Damaged| damage.of(&key);
        let end = container::header_end(prefix.get(..PRELUDE).unwrap_or(&prefix)).map_err(of)?;
        if end as u64 > probe {
            let rest = self.store().get(&key, Some(probe..end as u64)).await?;
            prefix = [prefix, rest].concat().into();
        }
        let container = container::decode_header(&prefix).map_err(of)?;
        if key.starts_with(&self.keys().prefix()) {
            self.keys().learn_origins(&container.header.descent.origins);
        }
        Ok(Stored { key, container, prefix })
    }

    /// Some bytes of the object itself; what was fetched already is not fetched again.
    async fn part(&self, stored: &Stored, range: Range<u64>) -> Result<Bytes> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let have = (stored.prefix.len() as u64).clamp(range.start, range.end);
        let clip = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(stored.prefix.len());
        let first = stored.prefix.slice(clip(range.start)..clip(have));
        if have == range.end {
            return Ok(first);
        }
        let rest = self.part_of_object(&stored.key, &(have..range.end)).await?;
        Ok(if first.is_empty() { rest } else { [first, rest].concat().into() })
    }
}

fn sized(bytes: Bytes, range: &Range<u64>) -> Result<Bytes, Damaged> {
    let whole = bytes.len() as u64 == range.end - range.start;
    if whole { Ok(bytes) } else { Err(Damaged::new("it is cut off")) }
}

#[cfg(test)]
mod tests {
    use super::super::header::Sum;
    use super::*;

    #[test]
    fn groups_near_each_other_are_fetched_together_up_to_a_size() {
        let mut groups = Vec::new();
        let mut add = |object, offset, len| {
            let page = groups.len() as u32 + 1;
            groups.push(Group { object, offset, len, sum: Sum::of(b""), pages: [page].into() });
        };
        for (n, len) in [400_000, 400_000, 400_000, 10, 10, 10].into_iter().enumerate() {
            add(0, n as u64 * 400_000, len);
        }
        add(1, 0, 50);
        add(1, 5_000, 50);
        add(1, 900_000, 50);
        let found = pieces(&groups, |group| group.pages[0] != 5);
        let found: Vec<_> = found.into_iter().map(|p| (p.groups, p.range)).collect();
        let expected = [
            (0..2, 0..800_000),
            (2..4, 800_000..1_200_010),
            (5..6, 2_000_000..2_000_010),
            (6..8, 0..5_050),
            (8..9, 900_000..900_050),
        ];
        assert_eq!(found, expected);
        let piece = Piece { groups: 6..8, range: 0..5_050 };
        assert_eq!(piece.part(&[7; 5_050], &groups[7]).unwrap().len(), 50);
        assert!(piece.part(&[7; 5_049], &groups[7]).is_none());
    }
}
