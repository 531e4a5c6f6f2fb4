//! What a commit or a base says about itself.
//!
//! A header is JSON behind a checksum (`container`). Even so nothing in it is believed before
//! [`Header::check`]: a number that is out of bounds is damage, never an allocation.
//!
//! Not here: the bytes around it (`container`).

use base::{Digest, Epoch, ServerId, Timestamp};
use serde::{Deserialize, Serialize};

use super::error::Damaged;
use super::limits::{
    DATA_BYTES_MAX, GROUP_BYTES_MAX, GROUP_PAGES_MAX, KEY_BYTES_MAX, PAGES_MAX, SECTION_BYTES,
};
use super::pages::is_page_size;

/// What sort of object it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// A writer takes the home, under a new epoch.
    Claim,
    /// Pages that changed.
    Delta,
    /// Pages that changed, and the home is given up.
    Release,
    /// All pages. Not in the log but beside it.
    Base,
}

/// Drawn by a writer when it claims; stands in all its commits, so that it knows its own.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Nonce(#[serde(with = "hex16")] pub(crate) [u8; 16]);

impl std::fmt::Debug for Nonce {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// The first half of a SHA-256: enough against damage, half the size in a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Sum(#[serde(with = "hex16")] [u8; 16]);

impl Sum {
    /// The checksum of `bytes`.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        let mut sum = [0; 16];
        sum.copy_from_slice(&Digest::of(bytes).as_bytes()[..16]);
        Self(sum)
    }
}

/// Pages that are compressed together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Group {
    /// First page and number of pages of each run, ascending.
    pub(crate) runs: Vec<(u32, u32)>,
    /// Compressed bytes. The group begins where the one before ends.
    pub(crate) len: u32,
    /// Of the compressed bytes.
    pub(crate) sum: Sum,
}

impl Group {
    /// Its pages, ascending.
    pub(crate) fn pages(&self) -> impl Iterator<Item = u32> + '_ {
        self.runs.iter().flat_map(|&(first, count)| first..first.saturating_add(count))
    }

    /// How many.
    pub(crate) fn page_count(&self) -> u32 {
        self.runs.iter().fold(0, |sum, run| sum.saturating_add(run.1))
    }
}

/// Groups that lie together, in the object itself or in one of their own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Section {
    /// The key of the page object. None: right after the header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) object: Option<String>,
    /// In order, without holes.
    pub(crate) groups: Vec<Group>,
}

impl Section {
    /// Its bytes.
    pub(crate) fn len(&self) -> u64 {
        self.groups.iter().map(|group| u64::from(group.len)).sum()
    }
}

/// The data section: small sealed file content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Data {
    /// Bytes.
    pub(crate) len: u64,
    /// Of all of it.
    pub(crate) sum: Sum,
}

/// What a commit or a base says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Header {
    /// Its number in the log; of a base, the commit whose state it is.
    pub(crate) seq: u64,
    /// Of its writer.
    pub(crate) epoch: Epoch,
    /// Of its writer.
    pub(crate) nonce: Nonce,
    /// What it is.
    pub(crate) kind: Kind,
    /// The server of the writer.
    pub(crate) holder: ServerId,
    /// When it was made, by the writer's clock. For people; decides nothing.
    pub(crate) time: Timestamp,
    /// Bytes of a page; 0 while there is no database.
    pub(crate) page_size: u32,
    /// Pages of the database after this commit.
    pub(crate) page_count: u32,
    /// The newest base that the writer knew; 0 for none.
    pub(crate) parent_base: u64,
    /// Compressed bytes of pages in the commits after `parent_base`, this one included.
    pub(crate) bytes_above_base: u64,
    /// The pages; those of all sections ascend. Only the last may lie in the object itself.
    pub(crate) sections: Vec<Section>,
    /// The data section, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) data: Option<Data>,
}

impl Header {
    /// Compressed bytes of all pages, wherever they lie.
    pub(crate) fn page_bytes(&self) -> u64 {
        self.sections.iter().map(Section::len).sum()
    }

    /// Bytes of the pages that lie in the object itself.
    pub(crate) fn inline_bytes(&self) -> u64 {
        self.sections.iter().filter(|section| section.object.is_none()).map(Section::len).sum()
    }

    /// Bytes of the data section.
    pub(crate) fn data_bytes(&self) -> u64 {
        self.data.map_or(0, |data| data.len)
    }

    /// Everything that a reader relies on. Whatever passes can be read within the bounds of
    /// `limits`.
    pub(crate) fn check(&self) -> Result<(), Damaged> {
        let sized = is_page_size(self.page_size) || (self.page_size == 0 && self.page_count == 0);
        ensure(sized, || format!("{} is no page size", self.page_size))?;
        ensure(self.page_count <= PAGES_MAX, || format!("{} pages are too many", self.page_count))?;
        ensure(self.seq > 0 && self.epoch > Epoch(0), || "it has no number or no epoch".into())?;
        let parent = match self.kind {
            Kind::Base => self.parent_base == self.seq,
            _ => self.parent_base < self.seq,
        };
        ensure(parent, || format!("its parent base cannot be {}", self.parent_base))?;
        ensure(self.data_bytes() <= DATA_BYTES_MAX, || "its data section is too long".into())?;
        self.check_sections()
    }

    fn check_sections(&self) -> Result<(), Damaged> {
        let mut above = 0;
        for (index, section) in self.sections.iter().enumerate() {
            match &section.object {
                Some(key) => {
                    ensure(key.len() <= KEY_BYTES_MAX, || {
                        "the key of its pages is too long".into()
                    })?;
                }
                None => ensure(index + 1 == self.sections.len(), || {
                    "a section that is not the last lies in the object itself".into()
                })?,
            }
            for group in &section.groups {
                above = self.check_group(group, above)?;
            }
            let bounded = section.len() <= SECTION_BYTES + GROUP_BYTES_MAX;
            ensure(bounded, || format!("a section of {} bytes is too long", section.len()))?;
        }
        Ok(())
    }

    /// Checks one group, all of whose pages must be above `above`; returns its last page.
    fn check_group(&self, group: &Group, mut above: u32) -> Result<u32, Damaged> {
        let bounded = group.len > 0 && u64::from(group.len) <= GROUP_BYTES_MAX;
        ensure(bounded, || format!("a group of {} bytes", group.len))?;
        let count = group.page_count();
        ensure((1..=GROUP_PAGES_MAX).contains(&count), || format!("a group of {count} pages"))?;
        for &(first, count) in &group.runs {
            let end = u64::from(first) + u64::from(count);
            let fits = first > above && count > 0 && end <= u64::from(self.page_count) + 1;
            ensure(fits, || format!("{count} pages from {first} are out of order or of bounds"))?;
            above = first + (count - 1);
        }
        Ok(above)
    }
}

fn ensure(holds: bool, why: impl FnOnce() -> String) -> Result<(), Damaged> {
    if holds { Ok(()) } else { Err(Damaged::new(why())) }
}

/// Sixteen bytes as 32 lower-case hex digits.
mod hex16 {
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8; 16], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&hex::encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<[u8; 16], D::Error> {
        let text = String::deserialize(from)?;
        let mut bytes = [0; 16];
        hex::decode_to_slice(&text, &mut bytes)
            .map_err(|_| de::Error::custom("expected 32 hex digits"))?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::header;
    use super::*;

    fn group(runs: &[(u32, u32)]) -> Group {
        Group { runs: runs.to_vec(), len: 10, sum: Sum::of(b"") }
    }

    fn with(sections: Vec<Section>) -> Header {
        Header { page_size: 4096, page_count: 40, sections, ..header(3) }
    }

    #[test]
    fn a_header_survives_json() {
        let header = with(vec![Section { object: None, groups: vec![group(&[(1, 2), (9, 14)])] }]);
        header.check().unwrap();
        let json = serde_json::to_vec(&header).unwrap();
        assert_eq!(serde_json::from_slice::<Header>(&json).unwrap(), header);
        assert_eq!(header.sections[0].groups[0].pages().take(4).collect::<Vec<_>>(), [1, 2, 9, 10]);
    }

    #[test]
    fn pages_out_of_order_or_of_bounds_are_damage() {
        for runs in [
            &[][..],
            &[(0, 1)],
            &[(1, 0)],
            &[(1, 17)],
            &[(40, 2)],
            &[(5, 1), (5, 1)],
            &[(5, 1), (4, 1)],
            &[(u32::MAX, u32::MAX)],
        ] {
            let header = with(vec![Section { object: None, groups: vec![group(runs)] }]);
            assert!(header.check().is_err(), "{runs:?}");
        }
        let twice =
            vec![Section { object: None, groups: vec![group(&[(2, 1)]), group(&[(2, 1)])] }];
        assert!(with(twice).check().is_err());
    }

    #[test]
    fn only_the_last_section_may_lie_in_the_object_itself() {
        let inline = Section { object: None, groups: vec![group(&[(1, 1)])] };
        let own = Section { object: Some("k".into()), groups: vec![group(&[(2, 1)])] };
        assert!(with(vec![inline.clone(), own.clone()]).check().is_err());
        let own = Section { groups: vec![group(&[(1, 1)])], ..own };
        let inline = Section { groups: vec![group(&[(2, 1)])], ..inline };
        with(vec![own, inline]).check().unwrap();
    }

    #[test]
    fn numbers_that_cannot_be_are_damage() {
        let good = with(Vec::new());
        good.check().unwrap();
        let sum = Sum::of(b"");
        for bad in [
            Header { seq: 0, ..good.clone() },
            Header { epoch: Epoch(0), ..good.clone() },
            Header { page_size: 0, ..good.clone() },
            Header { page_size: 1000, ..good.clone() },
            Header { page_count: u32::MAX, ..good.clone() },
            Header { parent_base: 3, ..good.clone() },
            Header { kind: Kind::Base, ..good.clone() },
            Header { data: Some(Data { len: u64::MAX, sum }), ..good.clone() },
        ] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
    }
}
