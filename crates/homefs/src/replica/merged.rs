//! Where the pages of one state lie: the indexes of several commits as one.
//!
//! The newest commit counts first; a page is where it is met first, down to the first full state. A
//! page that a later commit cut off is zeros where the database grew again, as if the commits had
//! been applied one after the other.

use std::collections::HashMap;
use std::ops::Range;

use base::Epoch;
use bytes::Bytes;
use futures::StreamExt as _;

use super::error::{Error, Result};
use super::fetch::Stored;
use super::index::{Group, Index, PageObject};
use super::limits::{COMMITS_AHEAD, NEAR_BYTES_MAX};
use super::log::{Head, Log};

/// What groups lie in.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Place {
    /// A page object.
    Object(PageObject),
    /// A commit or a base, from this offset on.
    Own { key: String, start: u64 },
}

/// Where the pages of one state lie.
#[derive(Debug, Clone, Default)]
pub(crate) struct Merged {
    pub(crate) page_size: u32,
    pub(crate) page_count: u32,
    pub(crate) places: Vec<Place>,
    /// `object` counts [`Merged::places`], from 0.
    pub(crate) groups: Vec<Group>,
    /// A page that no group has is zeros; but with a number here, one up to that number is as it
    /// was in the commit that the search stopped at.
    pub(crate) kept_upto: Option<u32>,
    /// What was fetched of places already, from their beginning on.
    pub(super) near: Vec<Bytes>,
    pub(super) near_bytes: u64,
}

impl Merged {
    /// Bytes of a place that are at hand.
    pub(crate) fn near(&self, place: u32, range: &Range<u64>) -> Option<Bytes> {
        let near = self.near.get(place as usize)?;
        let (start, end) = (usize::try_from(range.start).ok()?, usize::try_from(range.end).ok()?);
        (start <= end && end <= near.len()).then(|| near.slice(start..end))
    }

    /// Forgets what is at hand.
    pub(crate) fn forget_near(&mut self) {
        self.near = Vec::new();
    }
}

/// Puts indexes together, newest first.
#[derive(Debug)]
pub(crate) struct Merger {
    merged: Merged,
    known: HashMap<Place, u32>,
    /// Pages that were met, one bit each.
    seen: Vec<u64>,
    /// Pages above were cut off by a commit that has been seen: older content does not count.
    limit: u32,
    is_full: bool,
}

impl Merger {
    /// For a state of this size.
    pub(crate) fn new(page_size: u32, page_count: u32) -> Self {
        Self {
            merged: Merged { page_size, page_count, ..Merged::default() },
            known: HashMap::new(),
            seen: vec![0; (page_count as usize).div_ceil(64)],
            limit: page_count,
            is_full: false,
        }
    }

    /// Adds a commit or base older than those before: its own place, of which `near` is at hand,
    /// the pages of its database, and its index.
    pub(crate) fn add(&mut self, own: &Place, near: Bytes, page_count: u32, index: &Index) {
        self.limit = self.limit.min(page_count);
        self.is_full |= index.full;
        for group in &index.groups {
            let mut pages = group.pages.clone();
            for page in &mut pages {
                if !self.take(*page) {
                    *page = 0;
                }
            }
            if pages.iter().all(|page| *page == 0) {
                continue;
            }
            let place = index.object_of(group).map_or_else(|| own.clone(), |o| Place::Object(*o));
            let places = &mut self.merged.places;
            let object = *self.known.entry(place).or_insert_with_key(|place| {
                places.push(place.clone());
                // Far below: a commit names fewer objects than it has pages.
                u32::try_from(places.len() - 1).unwrap_or(u32::MAX)
            });
            self.merged.groups.push(Group { object, pages, ..*group });
        }
        let room = self.merged.near_bytes + near.len() as u64 <= NEAR_BYTES_MAX;
        if let Some(number) = self.known.get(own).filter(|_| room) {
            self.merged.near_bytes += near.len() as u64;
            self.merged.near.resize(self.merged.places.len(), Bytes::new());
            self.merged.near[*number as usize] = near;
        }
    }

    /// Notes that a page was met; false where it was before, or does not count.
    fn take(&mut self, page: u32) -> bool {
        let Some(bit) = (page as usize).checked_sub(1).filter(|_| page <= self.limit) else {
            return false;
        };
        let (word, mask) = (&mut self.seen[bit / 64], 1 << (bit % 64));
        let is_new = *word & mask == 0;
        *word |= mask;
        is_new
    }

    /// The result, its groups in order of place and offset.
    pub(crate) fn finish(mut self) -> Merged {
        self.merged.groups.sort_unstable_by_key(|group| (group.object, group.offset));
        self.merged.kept_upto = (!self.is_full).then_some(self.limit);
        self.merged
    }
}

/// A search for the layers of a state.
struct Search<'a> {
    log: &'a Log,
    target: &'a Head,
    merger: Merger,
    /// Of the layer before.
    epoch: Epoch,
    layers: usize,
}

impl Search<'_> {
    /// Adds the next older layer; true where nothing older counts.
    fn add(&mut self, stored: &Stored, index: &Index) -> Result<bool> {
        let (header, key) = (stored.header(), &stored.key);
        if header.epoch > self.epoch {
            return Err(Error::corrupt(key, "its epoch is above that of a later commit"));
        }
        let sized = header.page_count > 0 && self.target.page_count > 0;
        if header.page_size != self.target.page_size && sized {
            return Err(Error::corrupt(key, "its page size is not that of later commits"));
        }
        self.epoch = header.epoch;
        self.layers += 1;
        let own = Place::Own { key: key.clone(), start: stored.pages_start() };
        self.merger.add(&own, stored.fetched_pages(), header.page_count, index);
        Ok(index.full)
    }

    async fn read(&self, seq: u64) -> Result<(Stored, Index)> {
        let missing = || Error::corrupt(self.log.keys().log(seq), "it is missing");
        self.find(seq).await?.ok_or_else(missing)
    }

    async fn find(&self, seq: u64) -> Result<Option<(Stored, Index)>> {
        let stored = match self.log.remembered(seq) {
            Some(stored) => Some(stored),
            None => self.log.read(seq).await?,
        };
        let Some(stored) = stored else { return Ok(None) };
        let index = self.log.index(&stored).await?;
        Ok(Some((stored, index)))
    }

    /// Adds what is older than the target itself.
    async fn descend(&mut self, stop: Option<u64>) -> Result<()> {
        let target = self.target;
        if let Some(stop) = stop {
            return self.take(target.descent.numbers(target.seq, stop).skip(1)).await.map(drop);
        }
        // Mostly a claim on a released state: then there is no need to look for bases. Where it is
        // gone there is a base above it, which the target may be too old to know.
        if let Some(next) = target.descent.numbers(target.seq, target.base_seq).nth(1)
            && let Some((stored, index)) = self.find(next).await?
            && self.add(&stored, &index)?
        {
            return Ok(());
        }
        let base = self.log.base_of(target).await?;
        let rest = target.descent.numbers(target.seq, base).skip(self.layers);
        if !self.take(rest).await? && base > 0 {
            let stored = self.log.read_base(base).await?;
            let index = self.log.index(&stored).await?;
            self.add(&stored, &index)?;
        }
        Ok(())
    }

    /// Adds commits, newest first, up to a full one; true where there was one.
    async fn take(&mut self, numbers: impl Iterator<Item = u64>) -> Result<bool> {
        let (log, target) = (self.log, self.target);
        let reader = Self { log, target, merger: Merger::new(0, 0), epoch: self.epoch, layers: 0 };
        let reads = numbers.map(|seq| reader.read(seq));
        let mut reads = futures::stream::iter(reads).buffered(COMMITS_AHEAD);
        while let Some((stored, index)) = reads.next().await.transpose()? {
            if self.add(&stored, &index)? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl Log {
    /// Where the pages of `target` lie; `first` is its own commit and where its pages are. With
    /// `stop`, only what came after that commit, which must be part of the state.
    pub(crate) async fn merged(
        &self,
        target: &Head,
        (first, index): (&Stored, &Index),
        stop: Option<u64>,
    ) -> Result<Merged> {
        let merger = Merger::new(target.page_size, target.page_count);
        let mut search = Search { log: self, target, merger, epoch: target.epoch, layers: 0 };
        if !search.add(first, index)? {
            search.descend(stop).await?;
        }
        let mut merged = search.merger.finish();
        if stop.is_none() {
            // Before the first commit there was nothing.
            merged.kept_upto = None;
        }
        Ok(merged)
    }

    /// Where the pages of commit `seq` lie; `None` where there is none of that number.
    pub(crate) async fn merged_at(&self, seq: u64) -> Result<Option<Merged>> {
        let stored = match self.remembered(seq) {
            Some(stored) => Some(stored),
            None => self.read(seq).await?,
        };
        let Some(stored) = stored else { return Ok(None) };
        let target = Head::from(stored.header());
        let index = self.index(&stored).await?;
        Ok(Some(self.merged(&target, (&stored, &index), None).await?))
    }
}

#[cfg(test)]
mod tests {
    use base::Digest;

    use super::super::header::Sum;
    use super::*;

    fn group(object: u32, offset: u64, pages: &[u32]) -> Group {
        Group { object, offset, len: 10, sum: Sum::of(b""), pages: pages.into() }
    }

    fn own(name: &str) -> Place {
        Place::Own { key: name.into(), start: 0 }
    }

    #[test]
    fn the_newest_place_of_a_page_counts() {
        let object = PageObject { born: 3, old: false, digest: Digest::of(b""), len: 100 };
        let base = Index {
            full: true,
            objects: vec![object],
            groups: vec![group(0, 0, &[1]), group(1, 0, &[2, 3]), group(1, 10, &[4, 5])],
        };
        let delta = Index { groups: vec![group(0, 0, &[4, 5, 2])], ..Index::default() };
        let mut merger = Merger::new(512, 6);
        merger.add(&own("delta"), Bytes::from_static(b"0123456789"), 6, &delta);
        merger.add(&own("base"), Bytes::new(), 5, &base);
        let merged = merger.finish();
        assert_eq!(merged.places, [own("delta"), own("base"), Place::Object(object)]);
        let groups: Vec<_> = merged.groups.iter().map(|g| (g.object, &*g.pages)).collect();
        assert_eq!(groups, [(0, &[4, 5, 2][..]), (1, &[1]), (2, &[0, 3])]);
        assert_eq!(merged.kept_upto, None);
        assert_eq!(merged.near(0, &(2..4)).unwrap(), "23");
        assert!(merged.near(0, &(2..11)).is_none() && merged.near(1, &(0..1)).is_none());
    }

    #[test]
    fn what_was_cut_off_does_not_come_back() {
        let delta = |pages: &[u32]| Index { groups: vec![group(0, 0, pages)], ..Index::default() };
        let mut merger = Merger::new(512, 9);
        merger.add(&own("3"), Bytes::new(), 9, &delta(&[1]));
        merger.add(&own("2"), Bytes::new(), 4, &delta(&[2]));
        merger.add(&own("1"), Bytes::new(), 9, &delta(&[1, 2, 3, 4, 5, 9]));
        let merged = merger.finish();
        assert_eq!(merged.kept_upto, Some(4));
        let pages: Vec<u32> = merged.groups.iter().flat_map(|g| g.pages.to_vec()).collect();
        assert_eq!(pages, [1, 2, 0, 0, 3, 4, 0, 0]);
    }
}
