//! What a commit or a base says about itself.
//!
//! A header is JSON behind a checksum (`container`). Even so nothing in it is believed before
//! [`Header::check`]: a number that is out of bounds is damage, never an allocation.
//!
//! Not here: the bytes around it (`container`).

use base::{Digest, Epoch, ServerId, Timestamp};
use serde::{Deserialize, Serialize};

use super::descent::Descent;
use super::error::Damaged;
use super::format1::{self, Section};
use super::limits::{DATA_BYTES_MAX, HINTS_BYTES_MAX, INDEX_BYTES_MAX, OWN_BYTES_MAX, PAGES_MAX};
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

impl Nonce {
    /// Of commits that only take a number. Nobody draws it.
    pub(crate) const NOBODYS: Self = Self([0; 16]);
}

impl std::fmt::Debug for Nonce {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// The first half of a SHA-256: enough against damage, half the size in a header.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Sum(#[serde(with = "hex16")] pub(super) [u8; 16]);

impl Sum {
    /// The checksum of `bytes`.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        let mut sum = [0; 16];
        sum.copy_from_slice(&Digest::of(bytes).as_bytes()[..16]);
        Self(sum)
    }
}

/// Where the index of a commit lies in it, and how it is checked. Format 2.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct IndexAt {
    /// It says where every page lies, not only those that changed.
    pub(crate) full: bool,
    /// Its bytes, right behind the header.
    pub(crate) len: u32,
    /// Its bytes when unpacked.
    pub(crate) plain: u32,
    /// Of its bytes as they lie there.
    pub(crate) sum: Sum,
    /// Bytes of the hints behind it.
    #[serde(default)]
    pub(crate) hints: u32,
    /// Of the hints.
    #[serde(default)]
    pub(crate) hints_sum: Sum,
    /// Bytes of the groups that lie behind those.
    pub(crate) own: u64,
    /// Of these, the first that whoever reads anything needs.
    #[serde(default)]
    pub(crate) hot: u64,
    /// Bytes of the groups that were stored for this commit, wherever they lie.
    pub(crate) stored: u64,
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
    /// Compressed bytes of pages in the commits after the newest full state that the writer knew,
    /// this one included.
    pub(crate) bytes_above_base: u64,
    /// The pages, in format 1.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) sections: Vec<Section>,
    /// Where the index is. None: no page changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) index: Option<IndexAt>,
    /// The data section, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) data: Option<Data>,
    /// Where the state comes from, where that is not the commit before alone.
    #[serde(flatten)]
    pub(crate) descent: Descent,
}

impl Header {
    /// True of a commit that only takes a number.
    pub(crate) fn is_nobodys(&self) -> bool {
        self.kind == Kind::Claim && self.page_count == 0 && self.nonce == Nonce::NOBODYS
    }

    /// Compressed bytes of the pages that were stored for it, wherever they lie.
    pub(crate) fn page_bytes(&self) -> u64 {
        let old: u64 = self.sections.iter().map(Section::len).sum();
        self.index.map_or(old, |index| index.stored)
    }

    /// True where it says where every page of the database lies.
    pub(crate) fn is_full(&self) -> bool {
        self.kind == Kind::Base || self.index.is_some_and(|index| index.full)
    }

    /// Bytes between the header and the pages: the index and the hints.
    pub(crate) fn lead_bytes(&self) -> u64 {
        self.index.map_or(0, |index| u64::from(index.len) + u64::from(index.hints))
    }

    /// Bytes of the pages that lie in the object itself.
    pub(crate) fn inline_bytes(&self) -> u64 {
        let own = self.sections.iter().filter(|section| section.object.is_none());
        self.index.map_or_else(|| own.map(Section::len).sum(), |index| index.own)
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
        // There is always a next one.
        ensure(self.seq < u64::MAX, || "its number is too large".into())?;
        let parent = match self.kind {
            Kind::Base => self.parent_base == self.seq,
            _ => self.parent_base < self.seq,
        };
        ensure(parent, || format!("its parent base cannot be {}", self.parent_base))?;
        self.descent.check(self.seq, self.epoch)?;
        ensure(self.data_bytes() <= DATA_BYTES_MAX, || "its data section is too long".into())?;
        match &self.index {
            None => format1::check(&self.sections, self.page_count),
            Some(index) => {
                ensure(self.sections.is_empty(), || "it lists its pages twice".into())?;
                index.check(self.page_count)
            }
        }
    }
}

impl IndexAt {
    fn check(&self, page_count: u32) -> Result<(), Damaged> {
        // A page takes at most five bytes and a group of its own; an object has at least a group.
        let bound = 4_096 + 96 * u64::from(page_count);
        let bounded = self.len <= INDEX_BYTES_MAX
            && self.plain <= INDEX_BYTES_MAX
            && u64::from(self.plain) <= bound
            && self.hints <= HINTS_BYTES_MAX
            && self.own <= OWN_BYTES_MAX
            && self.hot <= self.own;
        ensure(bounded, || "its index or its pages are too long".into())
    }
}

pub(super) fn ensure(holds: bool, why: impl FnOnce() -> String) -> Result<(), Damaged> {
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

    fn with(index: IndexAt) -> Header {
        Header { page_size: 4096, page_count: 40, index: Some(index), ..header(3) }
    }

    #[test]
    fn a_header_survives_json() {
        let at = IndexAt { full: true, len: 7, plain: 9, own: 8, hot: 3, ..IndexAt::default() };
        let header = Header { parent_base: 2, ..with(at) };
        header.check().unwrap();
        let json = serde_json::to_vec(&header).unwrap();
        assert_eq!(serde_json::from_slice::<Header>(&json).unwrap(), header);
    }

    #[test]
    fn numbers_that_cannot_be_are_damage() {
        let good = with(IndexAt::default());
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
            with(IndexAt { len: u32::MAX, ..IndexAt::default() }),
            with(IndexAt { plain: u32::MAX, ..IndexAt::default() }),
            with(IndexAt { plain: 10_000, ..IndexAt::default() }),
            with(IndexAt { hints: u32::MAX, ..IndexAt::default() }),
            with(IndexAt { own: u64::MAX, ..IndexAt::default() }),
            with(IndexAt { own: 7, hot: 8, ..IndexAt::default() }),
        ] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
    }
}
