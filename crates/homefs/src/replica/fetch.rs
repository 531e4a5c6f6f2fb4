//! Commits and bases, back from the store.
//!
//! The first request asks for the beginning of the object, which of a common commit is all of it.
//! What a later part of it is asked for comes from there where it can.
//!
//! Invariant: what is handed out was checked: a header is that of the object it was asked for, and
//! groups are of the length that the header says.

use std::ops::Range;

use bytes::Bytes;

use super::container::{self, Container, PRELUDE};
use super::error::{Damaged, Error, Result};
use super::header::{Header, Kind, Section};
use super::limits::{PIECE_BYTES, PROBE_BYTES};
use super::log::Log;

/// An object of the log whose header has been read.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    /// Its key.
    pub(crate) key: String,
    container: Container,
    /// The beginning of the object, at least the header.
    prefix: Bytes,
}

/// Adjacent groups of one section, to be fetched together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Index of the section.
    pub(crate) section: usize,
    /// Indices of the groups in it.
    pub(crate) groups: Range<usize>,
    /// Bytes of the section.
    range: Range<u64>,
}

impl Stored {
    /// What it says about itself.
    pub(crate) fn header(&self) -> &Header {
        &self.container.header
    }

    /// The groups of which `wanted` is true, put together to pieces of a sensible size.
    pub(crate) fn pieces(&self, wanted: impl Fn(&super::header::Group) -> bool) -> Vec<Piece> {
        let sections = self.header().sections.iter().enumerate();
        sections.flat_map(|(index, section)| pieces_of(index, section, &wanted)).collect()
    }
}

fn pieces_of(
    section: usize,
    groups: &Section,
    wanted: &impl Fn(&super::header::Group) -> bool,
) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = Vec::new();
    let mut at = 0;
    for (index, group) in groups.groups.iter().enumerate() {
        let end = at + u64::from(group.len);
        if wanted(group) {
            match pieces.last_mut() {
                Some(last) if last.groups.end == index && end - last.range.start <= PIECE_BYTES => {
                    last.groups.end = index + 1;
                    last.range.end = end;
                }
                _ => pieces.push(Piece { section, groups: index..index + 1, range: at..end }),
            }
        }
        at = end;
    }
    pieces
}

impl Log {
    /// Commit `seq`; `None` where there is none of that number (yet, or any more).
    pub(crate) async fn read(&self, seq: u64) -> Result<Option<Stored>> {
        let stored = match self.open(self.keys().log(seq)).await {
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
        let stored = match self.open(self.keys().base(seq)).await {
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
        let stored = self.read(seq).await?.ok_or_else(missing)?;
        let range = stored.container.data_start()..stored.container.total();
        let data = self.part(&stored, range).await?;
        container::check_data(stored.header(), &data).map_err(|damage| damage.of(&stored.key))?;
        Ok(data)
    }

    /// The groups of a piece, compressed, one after the other.
    pub(crate) async fn piece(&self, stored: &Stored, piece: &Piece) -> Result<Bytes> {
        let Piece { range, section, .. } = piece;
        let Some(key) = &stored.header().sections[*section].object else {
            let start = stored.container.pages_start();
            return self.part(stored, start + range.start..start + range.end).await;
        };
        // A header may name only page objects of its own home.
        if self.keys().pages_digest(key).is_none() {
            return Err(Error::corrupt(&stored.key, "it names pages outside of its home"));
        }
        match self.store().get(key, Some(range.clone())).await {
            Ok(bytes) => sized(bytes, range).map_err(|damage| damage.of(key)),
            Err(objstore::Error::NotFound { key }) => Err(Error::corrupt(key, "it is missing")),
            Err(error) => Err(error.into()),
        }
    }

    /// The beginning of an object, at least its header.
    async fn open(&self, key: String) -> Result<Stored> {
        let mut prefix = self.store().get(&key, Some(0..PROBE_BYTES)).await?;
        let of = |damage: Damaged| damage.of(&key);
        let end = container::header_end(prefix.get(..PRELUDE).unwrap_or(&prefix)).map_err(of)?;
        if end as u64 > PROBE_BYTES {
            let rest = self.store().get(&key, Some(PROBE_BYTES..end as u64)).await?;
            prefix = [prefix, rest].concat().into();
        }
        let container = container::decode_header(&prefix).map_err(of)?;
        Ok(Stored { key, container, prefix })
    }

    /// Some bytes of the object itself.
    async fn part(&self, stored: &Stored, range: Range<u64>) -> Result<Bytes> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        if range.end <= stored.prefix.len() as u64 {
            return Ok(stored.prefix.slice(range.start as usize..range.end as usize));
        }
        let bytes = self.store().get(&stored.key, Some(range.clone())).await?;
        sized(bytes, &range).map_err(|damage| damage.of(&stored.key))
    }
}

fn sized(bytes: Bytes, range: &Range<u64>) -> Result<Bytes, Damaged> {
    let whole = bytes.len() as u64 == range.end - range.start;
    if whole { Ok(bytes) } else { Err(Damaged::new("it is cut off")) }
}

#[cfg(test)]
mod tests {
    use super::super::header::{Group, Sum};
    use super::*;

    #[test]
    fn adjacent_groups_are_fetched_together_up_to_a_size() {
        let lens = [400_000, 400_000, 400_000, 10, 10, 10];
        let group = |(at, len): (usize, &u32)| Group {
            runs: vec![(at as u32 + 1, 1)],
            len: *len,
            sum: Sum::of(b""),
        };
        let section =
            Section { object: None, groups: lens.iter().enumerate().map(group).collect() };
        let pieces = pieces_of(0, &section, &|group| group.runs[0].0 != 5);
        let found: Vec<_> = pieces.iter().map(|p| (p.groups.clone(), p.range.clone())).collect();
        assert_eq!(
            found,
            [(0..2, 0..800_000), (2..4, 800_000..1_200_010), (5..6, 1_200_020..1_200_030)]
        );
    }
}
