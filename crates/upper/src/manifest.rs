//! What a generation consists of: a list of chunks, with holes. Pure.
//!
//! # Invariants
//! Bytes are taken for a manifest only whole: the sum at the end fits, chunks are in ascending order and
//! within the disk, and all numbers are within their bounds. docs/formats.md has every byte.

use std::collections::BTreeMap;

use base::{Digest, Epoch};
use bytes::Bytes;

use crate::error::{Error, Result};
use crate::frame::{self, Reader, SUM};
use crate::keys::{Generation, Kind};
use crate::limits::{CHUNK_BYTES, DISK_BYTES_MAX, ORIGINS_MAX, STORED_BYTES_MAX};
use crate::origins::{ORIGIN, Origins};

const MAGIC: &[u8; 8] = b"DMUPPER\0";
/// The format of a machine that is no fork.
const FORMAT: u32 = 1;
/// The format of one that names where it was forked from: the largest that is read.
const FORMAT_FORKED: u32 = 2;
const HEAD: usize = 96;
const ENTRY: usize = 48;
/// The longest manifest.
pub(crate) const MANIFEST_BYTES_MAX: u64 = (HEAD + 8 + ORIGINS_MAX * ORIGIN + SUM) as u64
    + (DISK_BYTES_MAX / CHUNK_BYTES as u64) * ENTRY as u64;

/// One chunk of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Chunk {
    /// Of its content.
    pub(crate) digest: Digest,
    /// Under which epoch it was stored.
    pub(crate) born: Epoch,
    /// Bytes of the object.
    pub(crate) stored: u32,
}

/// A generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) generation: Generation,
    /// The generation that it goes on from.
    pub(crate) parent: Option<Generation>,
    /// The run whose upper this is; 0 for an upper that nobody has run upon.
    pub(crate) content: Epoch,
    /// The root file system that it lies over.
    pub(crate) root: Digest,
    /// Length of the disk; 0 where there is none.
    pub(crate) disk_bytes: u64,
    /// The machines that stored what this one did not.
    pub(crate) origins: Origins,
    /// By number; what is not there is a hole.
    pub(crate) chunks: BTreeMap<u32, Chunk>,
}

impl Manifest {
    /// One of no disk.
    pub(crate) fn blank(generation: Generation) -> Self {
        Self {
            generation,
            parent: None,
            content: Epoch::default(),
            root: Digest::from_bytes([0; 32]),
            disk_bytes: 0,
            origins: Origins::default(),
            chunks: BTreeMap::new(),
        }
    }

    /// The same as what a wake begins with.
    pub(crate) fn begun(&self, epoch: Epoch) -> Self {
        let generation = Generation { epoch, kind: Kind::Begun };
        Self { generation, parent: Some(self.generation), ..self.clone() }
    }

    /// True of what the first wake of a fork begins with: it goes on from what the fork was made of.
    pub(crate) fn is_of_new_fork(&self) -> bool {
        let made = self.origins.first_epoch();
        let made = made.map(|epoch| Generation { epoch, kind: Kind::Begun });
        made.is_some() && self.parent == made
    }

    /// True where both are the same disk, wherever its chunks lie.
    pub(crate) fn same_disk(&self, other: &Self) -> bool {
        let digests = |of: &Self| -> Vec<(u32, Digest)> {
            of.chunks.iter().map(|(index, chunk)| (*index, chunk.digest)).collect()
        };
        (self.disk_bytes, self.root) == (other.disk_bytes, other.root)
            && self.chunks.len() == other.chunks.len()
            && digests(self) == digests(other)
    }

    pub(crate) fn encode(&self) -> Bytes {
        let is_fork = !self.origins.is_empty();
        let origins = if is_fork { 8 + self.origins.len() * ORIGIN } else { 0 };
        let bytes = HEAD + origins + self.chunks.len() * ENTRY + SUM;
        let format = if is_fork { FORMAT_FORKED } else { FORMAT };
        let mut out = frame::begin(MAGIC, format, bytes);
        out.extend_from_slice(&kind(Some(self.generation)).to_le_bytes());
        out.extend_from_slice(&self.generation.epoch.0.to_le_bytes());
        out.extend_from_slice(&self.parent.map_or(0, |parent| parent.epoch.0).to_le_bytes());
        out.extend_from_slice(&kind(self.parent).to_le_bytes());
        out.extend_from_slice(&(CHUNK_BYTES as u32).to_le_bytes());
        out.extend_from_slice(&self.content.0.to_le_bytes());
        out.extend_from_slice(&self.disk_bytes.to_le_bytes());
        out.extend_from_slice(&(self.chunks.len() as u64).to_le_bytes());
        out.extend_from_slice(self.root.as_bytes());
        if is_fork {
            out.extend_from_slice(&(self.origins.len() as u64).to_le_bytes());
            self.origins.write(&mut out);
        }
        for (index, chunk) in &self.chunks {
            out.extend_from_slice(&index.to_le_bytes());
            out.extend_from_slice(&chunk.stored.to_le_bytes());
            out.extend_from_slice(&chunk.born.0.to_le_bytes());
            out.extend_from_slice(chunk.digest.as_bytes());
        }
        frame::seal(out)
    }

    /// Reads the manifest `key`, which has to be that of `generation`.
    pub(crate) fn decode(key: &str, generation: Generation, bytes: &[u8]) -> Result<Self> {
        let manifest = Self::decode_any(key, bytes)?;
        if manifest.generation == generation {
            Ok(manifest)
        } else {
            Err(Error::damaged(key, "it is another generation's"))
        }
    }

    /// Reads a manifest of whichever generation, called `name`.
    pub(crate) fn decode_any(name: &str, bytes: &[u8]) -> Result<Self> {
        let (format, mut body) = frame::open(name, MAGIC, FORMAT_FORKED, bytes)?;
        Self::read(format, &mut body).ok_or_else(|| Error::damaged(name, "its numbers cannot be"))
    }

    fn read(format: u32, reader: &mut Reader<'_>) -> Option<Self> {
        let of_kind = reader.u32()?;
        let generation = self::generation(of_kind, reader.u64()?)??;
        let epoch = reader.u64()?;
        let parent = self::generation(reader.u32()?, epoch)?;
        if reader.u32()? as usize != CHUNK_BYTES {
            return None;
        }
        let (content, disk_bytes, count) = (Epoch(reader.u64()?), reader.u64()?, reader.u64()?);
        let root = Digest::from_bytes(reader.take::<32>()?);
        let origins = match format {
            FORMAT => Origins::default(),
            _ => read_origins(reader, generation.epoch)?,
        };
        let places = disk_bytes.div_ceil(CHUNK_BYTES as u64);
        if disk_bytes > DISK_BYTES_MAX
            || count > places
            || usize::try_from(count).ok()?.checked_mul(ENTRY)? != reader.left()
        {
            return None;
        }
        let mut chunks = BTreeMap::new();
        let mut next = 0;
        for _ in 0..count {
            let (index, stored) = (reader.u32()?, reader.u32()?);
            let born = Epoch(reader.u64()?);
            let digest = Digest::from_bytes(reader.take::<32>()?);
            let fits = u64::from(index) >= next && u64::from(index) < places;
            if !fits || stored > STORED_BYTES_MAX || born > generation.epoch {
                return None;
            }
            next = u64::from(index) + 1;
            chunks.insert(index, Chunk { digest, born, stored });
        }
        Some(Self { generation, parent, content, root, disk_bytes, origins, chunks })
    }
}

/// At least one: without, there is another format.
fn read_origins(reader: &mut Reader<'_>, epoch: Epoch) -> Option<Origins> {
    let count = usize::try_from(reader.u64()?).ok()?;
    if count == 0 { None } else { Origins::read(reader, count, epoch) }
}

/// Bytes that piece `index` has of something that is cut every `unit` bytes.
pub(crate) fn piece_len(len: u64, unit: usize, index: u32) -> usize {
    let begin = u64::from(index) * unit as u64;
    usize::try_from(len.saturating_sub(begin)).map_or(unit, |len| len.min(unit))
}

/// How a manifest writes the kind of a generation, or that there is none.
pub(crate) fn kind(generation: Option<Generation>) -> u32 {
    match generation.map(|generation| generation.kind) {
        None => 0,
        Some(Kind::Begun) => 1,
        Some(Kind::Stored) => 2,
    }
}

/// `None` for what cannot be, `Some(None)` for none.
pub(crate) fn generation(kind: u32, epoch: u64) -> Option<Option<Generation>> {
    let kind = match kind {
        0 if epoch == 0 => return Some(None),
        1 => Kind::Begun,
        2 => Kind::Stored,
        _ => return None,
    };
    Some(Some(Generation { epoch: Epoch(epoch), kind }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample() -> Manifest {
        let chunk = |text: &str, born| Chunk {
            digest: Digest::of(text.as_bytes()),
            born: Epoch(born),
            stored: 1_000,
        };
        Manifest {
            generation: Generation { epoch: Epoch(9), kind: Kind::Stored },
            parent: Some(Generation { epoch: Epoch(7), kind: Kind::Begun }),
            content: Epoch(9),
            root: Digest::of(b"root"),
            disk_bytes: 5 * CHUNK_BYTES as u64 + 17,
            origins: Origins::default(),
            chunks: [(0, chunk("a", 3)), (4, chunk("b", 9)), (5, chunk("c", 9))].into(),
        }
    }

    /// Of a fork of a fork.
    fn forked() -> Manifest {
        let machine = |n: u8| format!("dm-01890000-0000-7000-8000-0000000000{n:02x}").parse();
        let origins = Origins::default().forked(machine(1).unwrap(), Epoch(3));
        let origins = origins.unwrap().forked(machine(2).unwrap(), Epoch(6));
        Manifest { origins: origins.unwrap(), ..sample() }
    }

    fn decode(manifest: &Manifest, bytes: &[u8]) -> Result<Manifest> {
        Manifest::decode("uppers/m/log/x", manifest.generation, bytes)
    }

    /// Bytes with a sum that fits.
    fn summed(body: Vec<u8>) -> Vec<u8> {
        frame::seal(body).to_vec()
    }

    #[test]
    fn a_manifest_comes_back_as_it_went_in() {
        let manifest = sample();
        let bytes = manifest.encode();
        assert_eq!(bytes.len(), HEAD + 3 * ENTRY + SUM);
        assert_eq!(decode(&manifest, &bytes).unwrap(), manifest);
        let blank = Manifest::blank(manifest.generation);
        assert_eq!(decode(&blank, &blank.encode()).unwrap(), blank);
        let forked = forked();
        let bytes = forked.encode();
        assert_eq!(bytes.len(), HEAD + 8 + 2 * ORIGIN + 3 * ENTRY + SUM);
        assert_eq!(decode(&forked, &bytes).unwrap(), forked);
    }

    #[test]
    fn a_fork_says_in_another_format_where_it_comes_from() {
        let (plain, bytes) = (sample().encode(), forked().encode());
        assert_eq!(bytes[8..12], [2, 0, 0, 0]);
        assert_eq!(bytes[12..96], plain[12..96]);
        assert_eq!(bytes[96..112], [2, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(&bytes[112..152], b"dm-01890000-0000-7000-8000-000000000002\0");
        assert_eq!(bytes[152..160], 3_u64.to_le_bytes());
        let chunks = 96 + 8 + 2 * ORIGIN;
        assert_eq!(bytes[chunks..bytes.len() - SUM], plain[96..plain.len() - SUM]);
    }

    #[test]
    fn origins_that_cannot_be_are_refused_also_with_a_sum_that_fits() {
        let whole = forked().encode();
        let body = &whole[..whole.len() - SUM];
        let with = |at: usize, bytes: &[u8]| {
            let mut changed = body.to_vec();
            changed[at..at + bytes.len()].copy_from_slice(bytes);
            decode(&sample(), &summed(changed))
        };
        with(0, b"DMUPPER").unwrap();
        // None, too many, other ones.
        for count in [0, 1, 3, 65, u64::MAX] {
            with(HEAD, &count.to_le_bytes()).unwrap_err();
        }
        // Not before the machine itself, not in their order, no id, more than an id.
        with(HEAD + 8, &9_u64.to_le_bytes()).unwrap_err();
        with(HEAD + 8, &3_u64.to_le_bytes()).unwrap_err();
        with(HEAD + 16, b"DM").unwrap_err();
        with(HEAD + 16, &[0xff]).unwrap_err();
        with(HEAD + 55, b"0").unwrap_err();
        for cut in 0..whole.len() {
            decode(&sample(), &whole[..cut]).unwrap_err();
        }
    }

    #[test]
    fn the_bytes_are_those_of_the_document() {
        let bytes = sample().encode();
        assert_eq!(&bytes[..8], b"DMUPPER\0");
        assert_eq!(bytes[8..16], [1, 0, 0, 0, 2, 0, 0, 0]);
        assert_eq!(bytes[16..32], [9, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[32..40], [1, 0, 0, 0, 0, 0, 64, 0]);
        assert_eq!(bytes[40..48], 9_u64.to_le_bytes());
        assert_eq!(bytes[48..56], (5 * CHUNK_BYTES as u64 + 17).to_le_bytes());
        assert_eq!(bytes[56..64], 3_u64.to_le_bytes());
        assert_eq!(&bytes[64..96], Digest::of(b"root").as_bytes());
        assert_eq!(bytes[96..104], [0, 0, 0, 0, 0xe8, 3, 0, 0]);
        assert_eq!(bytes[104..112], 3_u64.to_le_bytes());
        assert_eq!(&bytes[112..144], Digest::of(b"a").as_bytes());
    }

    #[test]
    fn every_cut_and_every_flipped_bit_is_damage() {
        let manifest = sample();
        let bytes = manifest.encode();
        for cut in 0..bytes.len() {
            decode(&manifest, &bytes[..cut]).unwrap_err();
        }
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            decode(&manifest, &flipped).unwrap_err();
        }
    }

    #[test]
    fn what_would_be_out_of_bounds_is_refused_also_with_a_sum_that_fits() {
        let manifest = sample();
        let body = manifest.encode().slice(..HEAD + 3 * ENTRY).to_vec();
        let with = |at: usize, bytes: &[u8]| {
            let mut changed = body.clone();
            changed[at..at + bytes.len()].copy_from_slice(bytes);
            decode(&manifest, &summed(changed))
        };
        with(0, b"DMUPPER").unwrap();
        // A later format, a disk that is too large, more chunks than there are, other chunks.
        let later = with(8, &3_u32.to_le_bytes()).unwrap_err();
        assert_eq!(later.kind(), base::ErrorKind::Unsupported);
        with(48, &u64::MAX.to_le_bytes()).unwrap_err();
        with(48, &0_u64.to_le_bytes()).unwrap_err();
        with(56, &4_u64.to_le_bytes()).unwrap_err();
        with(56, &u64::MAX.to_le_bytes()).unwrap_err();
        with(36, &1_u32.to_le_bytes()).unwrap_err();
        // Chunks past the end, out of order, too long, of a later epoch.
        with(HEAD + 2 * ENTRY, &6_u32.to_le_bytes()).unwrap_err();
        with(HEAD + 2 * ENTRY, &4_u32.to_le_bytes()).unwrap_err();
        with(HEAD + 4, &u32::MAX.to_le_bytes()).unwrap_err();
        with(HEAD + 8, &10_u64.to_le_bytes()).unwrap_err();
        // Another generation under this name.
        with(16, &8_u64.to_le_bytes()).unwrap_err();
    }

    #[test]
    fn the_last_chunk_ends_with_the_disk() {
        let bytes = sample().disk_bytes;
        assert_eq!(
            [0, 4, 5, 6].map(|index| piece_len(bytes, CHUNK_BYTES, index)),
            [CHUNK_BYTES, CHUNK_BYTES, 17, 0]
        );
    }

    proptest! {
        #[test]
        fn nothing_that_the_store_says_makes_it_panic(
            mut body: Vec<u8>,
            known in any::<bool>(),
            forked in any::<bool>(),
        ) {
            if known {
                let of = if forked { self::forked() } else { sample() };
                let mut whole = of.encode().slice(..HEAD).to_vec();
                whole.append(&mut body);
                body = whole;
            }
            decode(&sample(), &body).ok();
            decode(&sample(), &summed(body)).ok();
        }
    }
}
