//! The note beside a disk that is not all here: the generation that it came from, and a mark for each chunk.
//! docs/formats.md has every byte.
//!
//! All but the marks is written once and has a sum. A mark is one byte, which a disk writes or does not.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;

use base::Digest;

use super::table::Slot;
use crate::error::{Error, Result};
use crate::frame::{self, BEGINNING, SUM};
use crate::manifest::{Chunk, MANIFEST_BYTES_MAX, Manifest};
use crate::{fetch, file};

const MAGIC: &[u8; 8] = b"DMLAZY\0\0";
/// What is written, and all that is read.
const FORMAT: u32 = 1;
/// Bytes before the manifest: boot and length behind the beginning.
const HEAD: usize = BEGINNING + 32 + 4;
/// What it is called in an error.
const NAME: &str = "upper.missing";

/// A start of this host: what is not on the disk is lost with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Boot(Digest);

impl Boot {
    /// The one that the host is in.
    pub(crate) fn this() -> Result<Self> {
        let id = std::fs::read("/proc/sys/kernel/random/boot_id");
        Ok(Self(Digest::of(&id.map_err(Error::disk("ask for the boot of this host"))?)))
    }
}

/// What is known of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    /// It is in the store alone.
    Missing = 0,
    /// It is in the file, as long as the host does not start anew.
    Here = 1,
    /// It is in the file, and on the disk.
    Kept = 2,
}

impl Mark {
    fn of(byte: u8) -> Option<Self> {
        [Self::Missing, Self::Here, Self::Kept].into_iter().find(|mark| *mark as u8 == byte)
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Note {
    file: File,
    marks_at: u64,
    manifest: Manifest,
    /// As they were when it was opened.
    marks: Vec<Mark>,
}

impl Note {
    /// Writes the note of a disk of which nothing is here. On the disk when this returns.
    pub(crate) fn write(path: &Path, manifest: &Manifest, boot: &Boot) -> Result<()> {
        Self::replace(path, manifest, boot, &vec![Mark::Missing; manifest.chunks.len()])
    }

    fn replace(path: &Path, manifest: &Manifest, boot: &Boot, marks: &[Mark]) -> Result<()> {
        let manifest = manifest.encode();
        let mut body = frame::begin(MAGIC, FORMAT, HEAD + manifest.len() + SUM);
        body.extend_from_slice(boot.0.as_bytes());
        body.extend_from_slice(&u32::try_from(manifest.len()).unwrap_or(u32::MAX).to_le_bytes());
        body.extend_from_slice(&manifest);
        let mut bytes = frame::seal(body).to_vec();
        bytes.extend(marks.iter().map(|mark| *mark as u8));
        file::replace(path, &bytes).map_err(Error::disk("note which chunks are missing"))
    }

    /// Opens the note at `path`. Marks of an earlier boot that do not count any more are taken back.
    pub(crate) fn open(path: &Path, boot: &Boot) -> Result<Self> {
        let (_, manifest, marks, of) = read(path)?;
        if of != *boot {
            let marks: Vec<Mark> = marks.into_iter().map(|mark| after(mark, &of, boot)).collect();
            Self::replace(path, &manifest, boot, &marks)?;
        }
        let (file, manifest, marks, _) = read(path)?;
        let len = file.metadata().map_err(Error::disk("look at what is missing"))?.len();
        Ok(Self { file, marks_at: len - marks.len() as u64, manifest, marks })
    }

    /// Chunks that are missing.
    pub(crate) fn missing(path: &Path, boot: &Boot) -> Result<BTreeMap<u32, Chunk>> {
        let (_, manifest, marks, of) = read(path)?;
        let chunks = manifest.chunks.into_iter().zip(marks);
        let missing = chunks.filter(|(_, mark)| after(*mark, &of, boot) == Mark::Missing);
        Ok(missing.map(|(chunk, _)| chunk).collect())
    }

    /// Removes it, where there is one.
    pub(crate) fn remove(path: &Path) {
        fetch::remove(path);
    }

    pub(super) fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Chunks that are not here for good.
    pub(super) fn marks(&self) -> impl Iterator<Item = (u32, Slot)> {
        let indexes = self.manifest.chunks.keys().copied();
        indexes.zip(&self.marks).filter_map(|(index, mark)| match mark {
            Mark::Missing => Some((index, Slot::Missing)),
            // Whether it was written to since it came is not known.
            Mark::Here => Some((index, Slot::Written)),
            Mark::Kept => None,
        })
    }

    /// Marks the chunk at this place of the manifest.
    pub(super) fn set(&self, at: usize, mark: Mark) -> Result<()> {
        self.file
            .write_all_at(&[mark as u8], self.marks_at + at as u64)
            .map_err(Error::disk("note that a chunk is here"))
    }

    /// Brings marks to the disk.
    pub(super) fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(Error::disk("note that chunks are here"))
    }
}

/// What a mark of the boot `of` is worth in `boot`.
fn after(mark: Mark, of: &Boot, boot: &Boot) -> Mark {
    if mark == Mark::Here && of != boot { Mark::Missing } else { mark }
}

fn read(path: &Path) -> Result<(File, Manifest, Vec<Mark>, Boot)> {
    let doing = "read which chunks are missing";
    let file = OpenOptions::new().read(true).write(true).open(path).map_err(Error::disk(doing))?;
    let most = 2 * MANIFEST_BYTES_MAX;
    let mut bytes = Vec::new();
    (&file).take(most).read_to_end(&mut bytes).map_err(Error::disk(doing))?;
    let (manifest, marks, boot) = decode(&bytes)?;
    Ok((file, manifest, marks, boot))
}

/// How many marks a note has.
#[cfg(test)]
pub(crate) fn marks_in(bytes: &[u8]) -> Result<usize> {
    decode(bytes).map(|(_, marks, _)| marks.len())
}

/// Pure: what a note says.
fn decode(bytes: &[u8]) -> Result<(Manifest, Vec<Mark>, Boot)> {
    let bad = |what| Error::damaged(NAME, what);
    let cut = || bad("it is cut off");
    let len = bytes.get(HEAD - 4..HEAD).and_then(<[u8]>::first_chunk::<4>).ok_or_else(cut)?;
    let end = HEAD + u32::from_le_bytes(*len) as usize + SUM;
    let (framed, marks) = bytes.split_at_checked(end).ok_or_else(cut)?;
    let (_, mut body) = frame::open(NAME, MAGIC, FORMAT, framed)?;
    let boot = body.take::<32>().ok_or_else(cut)?;
    body.u32().ok_or_else(cut)?;
    let manifest = body.bytes(body.left()).ok_or_else(cut)?;
    let manifest = Manifest::decode_any(NAME, manifest)?;
    let marks: Option<Vec<Mark>> = marks.iter().map(|mark| Mark::of(*mark)).collect();
    let marks = marks.ok_or_else(|| bad("its marks cannot be"))?;
    if marks.len() != manifest.chunks.len() {
        return Err(bad("it has another number of marks than of chunks"));
    }
    Ok((manifest, marks, Boot(Digest::from_bytes(boot))))
}
