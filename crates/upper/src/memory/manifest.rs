//! What a stored memory consists of: pieces, and the packs in which they lie. Pure.
//!
//! # Invariants
//! Bytes are taken for a manifest only whole: the sum at the end fits, pieces are in ascending order and
//! within the memory, each lies within its pack, and all numbers are within their bounds. docs/formats.md has
//! every byte.

use std::collections::BTreeMap;

use base::{Digest, Epoch};
use bytes::Bytes;

use crate::error::{Error, Result};
use crate::frame::{self, BEGINNING, Reader, SUM};
use crate::keys::{Generation, TemplateId};
use crate::limits::{
    ABOUT_BYTES_MAX, MEMORY_BYTES_MAX, MEMORY_STATE_BYTES_MAX, ORIGINS_MAX, PACK_BYTES_MAX,
    PIECE_BYTES, PIECE_STORED_BYTES_MAX,
};
use crate::manifest::{generation, kind, piece_len};
use crate::origins::{ORIGIN, Origins};

const MAGIC: &[u8; 8] = b"DMMEMORY";
/// The format of a machine that is no fork.
const FORMAT: u32 = 1;
/// The format of one that names where it was forked from.
const FORMAT_FORKED: u32 = 2;
/// The format of one that names a template too, fork or not: the largest that is read.
const FORMAT_OVER: u32 = 3;
const HEAD: usize = BEGINNING + 56;
const PACK: usize = 44;
const PIECE: usize = 48;
/// Bytes of a template's name.
const TEMPLATE: usize = 32;
/// The bit of a piece's length that says that it lies over the template's.
const OVER: u32 = 1 << 31;
/// Most pieces of a memory.
const PIECES_MAX: u64 =
    (MEMORY_BYTES_MAX + MEMORY_STATE_BYTES_MAX).div_ceil(PIECE_BYTES as u64) + 1;
/// The longest manifest.
pub(crate) const BYTES_MAX: u64 = (HEAD + ORIGINS_MAX * ORIGIN + TEMPLATE + ABOUT_BYTES_MAX + SUM)
    as u64
    + PIECES_MAX * (PACK + PIECE) as u64;

/// An object of pieces, one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Pack {
    /// Of the object.
    pub(crate) digest: Digest,
    /// Under which epoch it was stored.
    pub(crate) born: Epoch,
    /// Bytes of the object.
    pub(crate) len: u32,
}

/// Where a piece lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Of its content.
    pub(crate) digest: Digest,
    /// Number of its pack.
    pub(crate) pack: u32,
    /// Where it begins there.
    pub(crate) at: u32,
    /// Bytes that it has there.
    pub(crate) stored: u32,
    /// What is there is its difference from the same piece of the template.
    pub(crate) over: bool,
}

/// What tells pieces apart that are to be stored: content, and for one that lies over the template's where that is.
pub(crate) type Place = (Digest, Option<u32>);

impl Piece {
    pub(crate) fn place(&self, index: u32) -> Place {
        (self.digest, self.over.then_some(index))
    }
}

/// A memory in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Image {
    /// The run that left it.
    pub(crate) epoch: Epoch,
    /// The upper that it was saved with.
    pub(crate) upper: Generation,
    /// Length of the file.
    pub(crate) file_bytes: u64,
    /// Length of the state, which is cut as if it lay behind the file, in a piece of its own.
    pub(crate) state_bytes: u64,
    pub(crate) about: Vec<u8>,
    /// The machines that stored the packs which this one did not.
    pub(crate) origins: Origins,
    /// The template that pieces of it lie over.
    pub(crate) template: Option<TemplateId>,
    pub(crate) packs: Vec<Pack>,
    /// By number; what is not there is zeros.
    pub(crate) pieces: BTreeMap<u32, Piece>,
}

/// How many pieces something of this length has.
pub(crate) fn pieces_of(bytes: u64) -> u64 {
    bytes.div_ceil(PIECE_BYTES as u64)
}

/// Bytes that piece `index` has of a file and a state of these lengths, and whether it is one of the file.
pub(crate) fn len_of(file_bytes: u64, state_bytes: u64, index: u32) -> (usize, Option<u32>) {
    let of_file = pieces_of(file_bytes);
    match u64::from(index).checked_sub(of_file).and_then(|at| u32::try_from(at).ok()) {
        None => (piece_len(file_bytes, PIECE_BYTES, index), None),
        Some(at) => (piece_len(state_bytes, PIECE_BYTES, at), Some(at)),
    }
}

impl Image {
    pub(crate) fn encode(&self) -> Bytes {
        let tables = self.packs.len() * PACK + self.pieces.len() * PIECE;
        let tables = tables + self.origins.len() * ORIGIN;
        let tables = tables + self.template.map_or(0, |_| TEMPLATE);
        let format = match self.template {
            Some(_) => FORMAT_OVER,
            None if self.origins.is_empty() => FORMAT,
            None => FORMAT_FORKED,
        };
        let mut out = frame::begin(MAGIC, format, HEAD + self.about.len() + tables + SUM);
        let number = |len: usize| u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes();
        out.extend_from_slice(&kind(Some(self.upper)).to_le_bytes());
        out.extend_from_slice(&self.epoch.0.to_le_bytes());
        out.extend_from_slice(&self.upper.epoch.0.to_le_bytes());
        out.extend_from_slice(&self.file_bytes.to_le_bytes());
        out.extend_from_slice(&self.state_bytes.to_le_bytes());
        out.extend_from_slice(&number(PIECE_BYTES));
        out.extend_from_slice(&number(self.about.len()));
        out.extend_from_slice(&number(self.packs.len()));
        out.extend_from_slice(&number(self.pieces.len()));
        // Zero in the format of those that have none.
        out.extend_from_slice(&number(self.origins.len()));
        self.origins.write(&mut out);
        out.extend(self.template.iter().flat_map(|template| template.0.as_bytes()));
        for pack in &self.packs {
            out.extend_from_slice(&pack.len.to_le_bytes());
            out.extend_from_slice(&pack.born.0.to_le_bytes());
            out.extend_from_slice(pack.digest.as_bytes());
        }
        for (index, piece) in &self.pieces {
            out.extend_from_slice(&index.to_le_bytes());
            out.extend_from_slice(&piece.pack.to_le_bytes());
            out.extend_from_slice(&piece.at.to_le_bytes());
            let over = if piece.over { OVER } else { 0 };
            out.extend_from_slice(&(piece.stored | over).to_le_bytes());
            out.extend_from_slice(piece.digest.as_bytes());
        }
        out.extend_from_slice(&self.about);
        frame::seal(out)
    }

    /// What pieces of a later memory of `file_bytes` can go on lying over: a template has one length.
    pub(crate) fn template_for(&self, file_bytes: u64) -> Option<TemplateId> {
        self.template.filter(|_| self.file_bytes == file_bytes)
    }

    /// Whether another one has the same content, wherever that lies.
    pub(crate) fn is_same_memory(&self, other: &Self) -> bool {
        let digests = |image: &Self| -> Vec<(u32, Digest)> {
            image.pieces.iter().map(|(index, piece)| (*index, piece.digest)).collect()
        };
        (self.epoch, self.upper, self.file_bytes, self.state_bytes)
            == (other.epoch, other.upper, other.file_bytes, other.state_bytes)
            && self.about == other.about
            && digests(self) == digests(other)
    }

    /// Reads the manifest `key`, which has to be that of the run of `epoch`.
    pub(crate) fn decode(key: &str, epoch: Epoch, bytes: &[u8]) -> Result<Self> {
        let image = Self::decode_any(key, bytes)?;
        if image.epoch == epoch {
            Ok(image)
        } else {
            Err(Error::damaged(key, "it is another run's"))
        }
    }

    /// The same of whatever run it is.
    pub(crate) fn decode_any(key: &str, bytes: &[u8]) -> Result<Self> {
        let (format, mut body) = frame::open(key, MAGIC, FORMAT_OVER, bytes)?;
        let bad = || Error::damaged(key, "its numbers cannot be");
        Self::read(format, &mut body).ok_or_else(bad)
    }

    fn read(format: u32, reader: &mut Reader<'_>) -> Option<Self> {
        let of_kind = reader.u32()?;
        let epoch = Epoch(reader.u64()?);
        let upper = generation(of_kind, reader.u64()?)??;
        let (file_bytes, state_bytes) = (reader.u64()?, reader.u64()?);
        if reader.u32()? as usize != PIECE_BYTES {
            return None;
        }
        let [about, packs, pieces] =
            [reader.u32()?, reader.u32()?, reader.u32()?].map(|n| n as usize);
        let origins = reader.u32()? as usize;
        let template = if format == FORMAT_OVER { TEMPLATE } else { 0 };
        let fits = (format == FORMAT_OVER || (origins == 0) == (format == FORMAT))
            && origins <= ORIGINS_MAX
            && file_bytes <= MEMORY_BYTES_MAX
            && state_bytes <= MEMORY_STATE_BYTES_MAX
            && about <= ABOUT_BYTES_MAX
            && packs <= pieces
            && pieces as u64 <= pieces_of(file_bytes) + pieces_of(state_bytes)
            && upper.epoch <= epoch
            && packs
                .checked_mul(PACK)?
                .checked_add(pieces.checked_mul(PIECE)?)?
                .checked_add(about)?
                .checked_add(origins * ORIGIN + template)?
                == reader.left();
        if !fits {
            return None;
        }
        let origins = Origins::read(reader, origins, epoch)?;
        let template = match format {
            FORMAT_OVER => Some(TemplateId(Digest::from_bytes(reader.take::<TEMPLATE>()?))),
            _ => None,
        };
        let packs = (0..packs).map(|_| read_pack(reader, epoch)).collect::<Option<Vec<_>>>()?;
        let end = pieces_of(file_bytes) + pieces_of(state_bytes);
        let (mut found, mut next) = (BTreeMap::new(), 0);
        for _ in 0..pieces {
            let (index, piece) = read_piece(reader, &packs)?;
            // The state is no template's.
            let over_end = if template.is_some() { pieces_of(file_bytes) } else { 0 };
            let end = if piece.over { over_end } else { end };
            if u64::from(index) < next || u64::from(index) >= end {
                return None;
            }
            next = u64::from(index) + 1;
            found.insert(index, piece);
        }
        let about = reader.bytes(about)?.to_vec();
        let pieces = found;
        Some(Self {
            epoch,
            upper,
            file_bytes,
            state_bytes,
            about,
            origins,
            template,
            packs,
            pieces,
        })
    }
}

fn read_pack(reader: &mut Reader<'_>, epoch: Epoch) -> Option<Pack> {
    let (len, born) = (reader.u32()?, Epoch(reader.u64()?));
    let digest = Digest::from_bytes(reader.take::<32>()?);
    (len <= PACK_BYTES_MAX && born <= epoch).then_some(Pack { digest, born, len })
}

fn read_piece(reader: &mut Reader<'_>, packs: &[Pack]) -> Option<(u32, Piece)> {
    let (index, pack, at, stored) = (reader.u32()?, reader.u32()?, reader.u32()?, reader.u32()?);
    let digest = Digest::from_bytes(reader.take::<32>()?);
    let (stored, over) = (stored & !OVER, stored & OVER != 0);
    let within = at.checked_add(stored)? <= packs.get(pack as usize)?.len;
    let fits = within && stored <= PIECE_STORED_BYTES_MAX;
    fits.then_some((index, Piece { digest, pack, at, stored, over }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::keys::Kind;

    fn sample() -> Image {
        let pack = |text: &str, born| Pack {
            digest: Digest::of(text.as_bytes()),
            born: Epoch(born),
            len: 5_000,
        };
        let piece = |text: &str, pack, at| Piece {
            digest: Digest::of(text.as_bytes()),
            pack,
            at,
            stored: 100,
            over: false,
        };
        Image {
            epoch: Epoch(9),
            upper: Generation { epoch: Epoch(7), kind: Kind::Stored },
            file_bytes: 4 * PIECE_BYTES as u64,
            state_bytes: 10,
            about: b"about".to_vec(),
            origins: Origins::default(),
            template: None,
            packs: vec![pack("one", 9), pack("two", 3)],
            pieces: [(0, piece("a", 0, 0)), (3, piece("b", 1, 4_900)), (4, piece("c", 0, 100))]
                .into(),
        }
    }

    fn decode(bytes: &[u8]) -> Result<Image> {
        Image::decode("uppers/m/log/x", Epoch(9), bytes)
    }

    fn summed(body: Vec<u8>) -> Vec<u8> {
        frame::seal(body).to_vec()
    }

    #[test]
    fn a_manifest_comes_back_as_it_went_in() {
        let image = sample();
        let bytes = image.encode();
        assert_eq!(bytes.len(), HEAD + 5 + 2 * PACK + 3 * PIECE + SUM);
        assert_eq!(decode(&bytes).unwrap(), image);
        assert!(Image::decode("k", Epoch(8), &bytes).is_err(), "another run's");
    }

    #[test]
    fn a_fork_says_in_another_format_where_its_packs_lie() {
        let machine = "dm-01890000-0000-7000-8000-000000000001";
        let origins = Origins::default().forked(machine.parse().unwrap(), Epoch(8)).unwrap();
        let forked = Image { origins, ..sample() };
        let (plain, bytes) = (sample().encode(), forked.encode());
        assert_eq!(bytes.len(), plain.len() + ORIGIN);
        assert_eq!(decode(&bytes).unwrap(), forked);
        assert_eq!(bytes[8..12], [2, 0, 0, 0]);
        assert_eq!(bytes[64..76], [1, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(&bytes[76..115], machine.as_bytes());
        assert_eq!(bytes[116..bytes.len() - SUM], plain[68..plain.len() - SUM]);
        let with = |at: usize, bytes_there: &[u8]| {
            let mut changed = bytes[..bytes.len() - SUM].to_vec();
            changed[at..at + bytes_there.len()].copy_from_slice(bytes_there);
            decode(&summed(changed))
        };
        with(0, b"DMMEMORY").unwrap();
        // Of the machine itself, none, more than there are, no machine.
        with(68, &9_u64.to_le_bytes()).unwrap_err();
        for count in [0, 2, 65, u32::MAX] {
            with(64, &count.to_le_bytes()).unwrap_err();
        }
        with(76, b"DM").unwrap_err();
        for cut in 0..bytes.len() {
            decode(&bytes[..cut]).unwrap_err();
        }
    }

    #[test]
    fn one_over_a_template_names_it_in_another_format() {
        let template = TemplateId(Digest::of(b"template"));
        let mut over = Image { template: Some(template), ..sample() };
        over.pieces.get_mut(&3).unwrap().over = true;
        let (plain, bytes) = (sample().encode(), over.encode());
        assert_eq!(bytes.len(), plain.len() + TEMPLATE);
        assert_eq!(decode(&bytes).unwrap(), over);
        assert_eq!(bytes[8..12], [3, 0, 0, 0]);
        assert_eq!(bytes[64..68], [0; 4]);
        assert_eq!(&bytes[68..100], Digest::of(b"template").as_bytes());
        let pieces = HEAD + TEMPLATE + 2 * PACK;
        assert_eq!(bytes[pieces + 12..pieces + 16], [100, 0, 0, 0]);
        assert_eq!(bytes[pieces + PIECE + 12..pieces + PIECE + 16], [100, 0, 0, 0x80]);
        let machine = "dm-01890000-0000-7000-8000-000000000001".parse().unwrap();
        let forked = Image {
            origins: Origins::default().forked(machine, Epoch(8)).unwrap(),
            ..over.clone()
        };
        assert_eq!(decode(&forked.encode()).unwrap(), forked);
        let of_state = bytes[pieces + 2 * PIECE..].to_vec();
        assert_eq!(of_state[..4], [4, 0, 0, 0]);
        let mut state_over = bytes[..bytes.len() - SUM].to_vec();
        state_over[pieces + 2 * PIECE + 15] |= 0x80;
        decode(&summed(state_over)).unwrap_err();
        let mut none_named = plain[..plain.len() - SUM].to_vec();
        none_named[HEAD + 2 * PACK + 15] |= 0x80;
        decode(&summed(none_named)).unwrap_err();
        for cut in 0..bytes.len() {
            decode(&bytes[..cut]).unwrap_err();
        }
    }

    #[test]
    fn the_bytes_are_those_of_the_document() {
        let bytes = sample().encode();
        assert_eq!(&bytes[..8], b"DMMEMORY");
        assert_eq!(bytes[8..16], [1, 0, 0, 0, 2, 0, 0, 0]);
        assert_eq!(bytes[16..32], [9, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[32..40], (1_u64 << 20).to_le_bytes());
        assert_eq!(bytes[40..48], 10_u64.to_le_bytes());
        assert_eq!(bytes[48..68], [0, 0, 4, 0, 5, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[68..80], [0x88, 0x13, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(&bytes[80..112], Digest::of(b"one").as_bytes());
        assert_eq!(bytes[156..172], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 100, 0, 0, 0]);
        assert_eq!(&bytes[172..204], Digest::of(b"a").as_bytes());
        assert_eq!(&bytes[300..305], b"about");
    }

    #[test]
    fn every_cut_and_every_flipped_bit_is_damage() {
        let bytes = sample().encode();
        for cut in 0..bytes.len() {
            decode(&bytes[..cut]).unwrap_err();
        }
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            decode(&flipped).unwrap_err();
        }
    }

    #[test]
    fn what_would_be_out_of_bounds_is_refused_also_with_a_sum_that_fits() {
        let whole = sample().encode();
        let body = &whole[..whole.len() - SUM];
        let with = |at: usize, bytes: &[u8]| {
            let mut changed = body.to_vec();
            changed[at..at + bytes.len()].copy_from_slice(bytes);
            decode(&summed(changed))
        };
        with(0, b"DMMEMORY").unwrap();
        let later = with(8, &4_u32.to_le_bytes()).unwrap_err();
        assert_eq!(later.kind(), base::ErrorKind::Unsupported);
        // No upper, one of a later run, lengths, another way to cut, counts.
        with(12, &0_u32.to_le_bytes()).unwrap_err();
        with(24, &10_u64.to_le_bytes()).unwrap_err();
        with(64, &1_u32.to_le_bytes()).unwrap_err();
        with(8, &2_u32.to_le_bytes()).unwrap_err();
        with(8, &3_u32.to_le_bytes()).unwrap_err();
        with(32, &u64::MAX.to_le_bytes()).unwrap_err();
        with(32, &0_u64.to_le_bytes()).unwrap_err();
        with(40, &u64::MAX.to_le_bytes()).unwrap_err();
        with(48, &4096_u32.to_le_bytes()).unwrap_err();
        for at in [52, 56, 60] {
            with(at, &u32::MAX.to_le_bytes()).unwrap_err();
            with(at, &1_u32.to_le_bytes()).unwrap_err();
        }
        // A pack that is too long, and one of a later run.
        with(HEAD, &u32::MAX.to_le_bytes()).unwrap_err();
        with(HEAD + 4, &10_u64.to_le_bytes()).unwrap_err();
        // Pieces past the end, out of order, in no pack, past its end, too long.
        let pieces = HEAD + 2 * PACK;
        with(pieces + 2 * PIECE, &5_u32.to_le_bytes()).unwrap_err();
        with(pieces + 2 * PIECE, &3_u32.to_le_bytes()).unwrap_err();
        with(pieces + 4, &2_u32.to_le_bytes()).unwrap_err();
        with(pieces + 8, &4_901_u32.to_le_bytes()).unwrap_err();
        with(pieces + 8, &u32::MAX.to_le_bytes()).unwrap_err();
        with(pieces + 12, &5_001_u32.to_le_bytes()).unwrap_err();
    }

    #[test]
    fn the_state_begins_with_a_piece_of_its_own() {
        let unit = PIECE_BYTES as u64;
        assert_eq!(len_of(unit + 5, 9, 0), (PIECE_BYTES, None));
        assert_eq!(len_of(unit + 5, 9, 1), (5, None));
        assert_eq!(len_of(unit + 5, unit + 9, 2), (PIECE_BYTES, Some(0)));
        assert_eq!(len_of(unit + 5, unit + 9, 3), (9, Some(1)));
    }

    proptest! {
        #[test]
        fn nothing_that_the_store_says_makes_it_panic(mut body: Vec<u8>, known in any::<bool>()) {
            if known {
                let mut whole = sample().encode().slice(..HEAD).to_vec();
                whole.append(&mut body);
                body = whole;
            }
            decode(&body).ok();
            decode(&summed(body)).ok();
        }
    }
}
