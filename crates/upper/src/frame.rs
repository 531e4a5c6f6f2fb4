//! How manifests begin and end: a magic word, a format number; last the SHA-256 of all before.

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use crate::error::{Error, Result};

/// Bytes of the sum at the end.
pub(crate) const SUM: usize = 32;
/// Bytes before what is particular to a kind of manifest.
pub(crate) const BEGINNING: usize = 12;

/// A manifest that begins so, for the rest to be appended; ended by [`seal`].
pub(crate) fn begin(magic: &[u8; 8], format: u32, capacity: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(capacity);
    out.extend_from_slice(magic);
    out.extend_from_slice(&format.to_le_bytes());
    out
}

/// With the sum.
pub(crate) fn seal(mut body: Vec<u8>) -> Bytes {
    let sum = Sha256::digest(&body);
    body.extend_from_slice(&sum);
    Bytes::from(body)
}

/// The format of the manifest `key`, at most `known`, and what lies between its beginning and its sum.
pub(crate) fn open<'a>(
    key: &str,
    magic: &[u8; 8],
    known: u32,
    bytes: &'a [u8],
) -> Result<(u32, Reader<'a>)> {
    let bad = |what| Error::damaged(key, what);
    let mut reader = Reader(bytes);
    if reader.take::<8>() != Some(*magic) {
        return Err(bad("it is no manifest"));
    }
    let format = reader.u32().ok_or_else(|| bad("it is cut off"))?;
    if format > known {
        return Err(Error::Unsupported { key: key.to_owned(), format, known });
    }
    if format == 0 {
        return Err(bad("it has no format"));
    }
    let (body, sum) = bytes
        .len()
        .checked_sub(SUM)
        .and_then(|at| bytes.split_at_checked(at))
        .ok_or_else(|| bad("it is cut off"))?;
    if Sha256::digest(body).as_slice() != sum {
        return Err(bad("its sum does not fit"));
    }
    Ok((format, Reader(body.get(BEGINNING..).unwrap_or_default())))
}

/// Bytes from front to back; never past the end.
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    /// How many bytes are left.
    pub(crate) fn left(&self) -> usize {
        self.0.len()
    }
}
