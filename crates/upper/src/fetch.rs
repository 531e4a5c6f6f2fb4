//! From names to content: a chunk, and what is looked at before a disk of chunks is begun with.
//!
//! # Failure
//! Whatever ends the making of a new file early, a caller that no longer waits for it included, takes it away. One that
//! is left by a process that was killed goes at the next wake.

use std::collections::{BTreeSet, HashMap};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use base::Digest;
use bytes::Bytes;

use crate::error::{Error, Result, blocking};
use crate::limits::{CHUNK_BYTES, CHUNK_NAMES_MAX, LIST_PAGE};
use crate::manifest::{Chunk, Manifest, piece_len};
use crate::place::Upper;

/// How far a fetch is, for whoever looks on.
#[derive(Debug, Clone, Default)]
pub struct Progress(Arc<(AtomicU64, AtomicU64)>);

impl Progress {
    /// Bytes fetched and bytes in all; `None` where nothing is being fetched.
    #[must_use]
    pub fn bytes(&self) -> Option<(u64, u64)> {
        let (done, all) = (self.0.0.load(Ordering::Relaxed), self.0.1.load(Ordering::Relaxed));
        (all > 0).then_some((done, all))
    }

    pub(crate) fn begin(&self, all: u64) {
        self.0.0.store(0, Ordering::Relaxed);
        self.0.1.store(all, Ordering::Relaxed);
    }

    pub(crate) fn add(&self, bytes: u64) {
        self.0.0.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// A disk, or a memory, that is fetched into a file beside the upper. The file goes with this, unless it was renamed.
#[derive(Debug)]
pub(crate) struct Fetched {
    path: PathBuf,
    file: Arc<File>,
}

impl Fetched {
    pub(crate) fn make(path: PathBuf, len: u64) -> Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true).mode(0o600);
        let doing = "make a file for what is fetched";
        let file = Arc::new(options.open(&path).map_err(Error::disk(doing))?);
        let made = Self { path, file };
        made.file.set_len(len).map_err(Error::disk(doing))?;
        Ok(made)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn file(&self) -> Arc<File> {
        self.file.clone()
    }
}

impl Drop for Fetched {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// Removes what is not fetched to its end, where there is something.
pub(crate) fn remove(path: &Path) {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(%error, "a part of what was fetched stays on the disk");
        }
        _ => {}
    }
}

impl Upper {
    /// Where a chunk of a manifest lies: below this machine's prefix, or of one that it was forked from.
    pub(crate) fn chunk_key(&self, manifest: &Manifest, chunk: &Chunk) -> String {
        manifest.origins.keys(&self.keys, chunk.born).chunk(&chunk.digest, chunk.born)
    }

    /// An object that is named, and has to have this length.
    pub(crate) async fn get_whole(&self, key: &str, len: u32) -> Result<Bytes> {
        // One byte more than it has: a longer object is another one.
        let stored = match self.store.get(key, Some(0..u64::from(len) + 1)).await {
            Err(objstore::Error::NotFound { .. }) => {
                return Err(Error::Missing { key: key.to_owned() });
            }
            stored => stored?,
        };
        if stored.len() != len as usize {
            return Err(Error::damaged(key, "it has another length"));
        }
        Ok(stored)
    }

    /// The content of chunk `index` of a manifest.
    pub(crate) async fn content_of(
        &self,
        manifest: &Manifest,
        index: u32,
        chunk: &Chunk,
    ) -> Result<Vec<u8>> {
        let (key, len) = (self.chunk_key(manifest, chunk), manifest.disk_bytes);
        let stored = self.get_whole(&key, chunk.stored).await?;
        let digest = chunk.digest;
        blocking(move || {
            let content = unpack(&key, &stored, piece_len(len, CHUNK_BYTES, index))?;
            has_digest(&key, &content, &digest)?;
            Ok(content)
        })
        .await
    }

    /// Looks whether all chunks of `manifest` are in the store, by their names and lengths: a guest is not to begin
    /// upon a disk that is not whole.
    pub(crate) async fn look_for_chunks(&self, manifest: &Manifest) -> Result<()> {
        let mut wanted: HashMap<String, u32> = HashMap::new();
        for chunk in manifest.chunks.values() {
            wanted.insert(self.chunk_key(manifest, chunk), chunk.stored);
        }
        let folder = |key: &String| key.rfind('/').and_then(|at| key.get(..=at)).map(str::to_owned);
        let folders: BTreeSet<String> = wanted.keys().filter_map(folder).collect();
        for folder in folders {
            let (mut after, mut names) = (None::<String>, 0);
            loop {
                let page = self.store.list(&folder, after.as_deref(), LIST_PAGE).await?;
                for object in &page {
                    match wanted.remove(&object.key) {
                        Some(len) if object.size != u64::from(len) => {
                            return Err(Error::damaged(&object.key, "it has another length"));
                        }
                        _ => {}
                    }
                }
                names += page.len();
                if names > CHUNK_NAMES_MAX {
                    return Err(Error::damaged(&folder, "there are too many names in it"));
                }
                match page.last() {
                    Some(last) if page.len() == LIST_PAGE && !wanted.is_empty() => {
                        after = Some(last.key.clone());
                    }
                    _ => break,
                }
            }
        }
        match wanted.into_keys().next() {
            Some(key) => Err(Error::Missing { key }),
            None => Ok(()),
        }
    }
}

/// The content of a chunk, or of a piece, which has this length.
pub(crate) fn unpack(key: &str, stored: &[u8], len: usize) -> Result<Vec<u8>> {
    let content = zstd::bulk::decompress(stored, len)
        .map_err(|_| Error::damaged(key, "it cannot be unpacked"))?;
    if content.len() != len {
        return Err(Error::damaged(key, "its content has another length"));
    }
    Ok(content)
}

/// Whether that is what was stored.
pub(crate) fn has_digest(key: &str, content: &[u8], digest: &Digest) -> Result<()> {
    let same = Digest::of(content) == *digest;
    same.then_some(()).ok_or_else(|| Error::damaged(key, "its content has another digest"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_very_content_is_unpacked() {
        let content = vec![7; 100_000];
        let digest = Digest::of(&content);
        let stored = zstd::bulk::compress(&content, 1).unwrap();
        let unpack = |stored: &[u8], len| {
            let content = super::unpack("k", stored, len)?;
            has_digest("k", &content, &digest)?;
            Ok::<_, Error>(content)
        };
        assert_eq!(unpack(&stored, content.len()).unwrap(), content);
        unpack(&stored, content.len() - 1).unwrap_err();
        unpack(&stored, content.len() + 1).unwrap_err();
        unpack(&stored[..stored.len() - 1], content.len()).unwrap_err();
        unpack(b"", content.len()).unwrap_err();
        unpack(b"not zstd at all", content.len()).unwrap_err();
        let other = zstd::bulk::compress(&vec![8; 100_000], 1).unwrap();
        unpack(&other, content.len()).unwrap_err();
        // A bomb is stopped at the length that is wanted.
        let bomb = zstd::bulk::compress(&vec![0; 50 << 20], 1).unwrap();
        unpack(&bomb, content.len()).unwrap_err();
    }
}
