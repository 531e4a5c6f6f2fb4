//! Sealed bytes: packs and chunks, from the local directory or from the store.
//!
//! A local copy is used where there is one. Else the store is asked for the blocks that hold the
//! wanted range and for nothing more; neighbouring blocks come in one request.
//!
//! # Failure
//! The store being away is `EIO` of kind `Unavailable`; an object that is missing or shorter than
//! its row says is `EIO` of kind `Corrupt`. Nothing here waits without bound: the store's own
//! retries are the bound.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use base::{Digest, Epoch, ErrorKind};
use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use vfs::{Errno, FsError, Result};

use super::block_cache::BlockCache;
use super::layers::{PackRef, Place};
use crate::layout::{HomeDir, HomeKeys};
use crate::limits::{BLOCK_CACHE_BYTES, SPOOL_FILES_OPEN_MAX};
use crate::replica::log::Log;

/// Something sealed that holds content of files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum ObjectId {
    /// A pack.
    Pack { id: u64, epoch: u64 },
    /// A chunk.
    Chunk(Digest),
}

/// Reads packs and chunks of one home.
#[derive(Debug)]
pub(crate) struct Objects {
    pub(crate) dir: HomeDir,
    pub(crate) keys: HomeKeys,
    runtime: tokio::runtime::Handle,
    block_bytes: u64,
    cache: BlockCache,
    files: Mutex<HashMap<ObjectId, Arc<File>>>,
    log: Log,
}

impl Objects {
    /// The objects of the home with these keys, with local copies in `dir`.
    pub(crate) fn new(
        dir: HomeDir,
        log: Log,
        runtime: tokio::runtime::Handle,
        block_bytes: u64,
    ) -> Self {
        Self {
            dir,
            keys: log.keys().clone(),
            runtime,
            block_bytes,
            cache: BlockCache::new(BLOCK_CACHE_BYTES),
            files: Mutex::default(),
            log,
        }
    }

    /// Fills `into` from `offset` of a pack.
    pub(crate) fn read_pack(&self, pack: PackRef, offset: u64, into: &mut [u8]) -> Result<()> {
        let id = ObjectId::Pack { id: pack.id, epoch: pack.epoch };
        if self.read_local(id, offset, into)? {
            return Ok(());
        }
        match pack.place {
            Place::Object => {
                let key = self.keys.pack(Epoch(pack.epoch), pack.id);
                self.read_remote(id, &key, offset, into)
            }
            Place::Commit(seq) => self.read_commit(id, seq, offset, into),
            Place::Local => Err(left_behind()),
        }
    }

    /// Fills `into` from `offset` of a chunk.
    pub(crate) fn read_chunk(&self, digest: Digest, offset: u64, into: &mut [u8]) -> Result<()> {
        let id = ObjectId::Chunk(digest);
        if self.read_local(id, offset, into)? {
            return Ok(());
        }
        self.read_remote(id, &self.keys.chunk(&digest), offset, into)
    }

    /// The local file of an object, whether it is there or not.
    pub(crate) fn local_path(&self, id: ObjectId) -> PathBuf {
        match id {
            ObjectId::Pack { id, epoch } => self.dir.pack(Epoch(epoch), id),
            ObjectId::Chunk(digest) => self.dir.chunk(&digest),
        }
    }

    /// False where there is no local copy.
    fn read_local(&self, id: ObjectId, offset: u64, into: &mut [u8]) -> Result<bool> {
        let Some(file) = self.local_file(id).map_err(super::spool::failed)? else {
            return Ok(false);
        };
        match file.read_exact_at(into, offset) {
            Ok(()) => Ok(true),
            // A copy that was cut off by a crash. The store has it whole, or nobody has.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(error) => Err(super::spool::failed(error)),
        }
    }

    fn local_file(&self, id: ObjectId) -> io::Result<Option<Arc<File>>> {
        let mut files = self.files.lock();
        if let Some(file) = files.get(&id) {
            return Ok(Some(file.clone()));
        }
        match File::open(self.local_path(id)) {
            Ok(file) => {
                if files.len() >= SPOOL_FILES_OPEN_MAX
                    && let Some(victim) = files.keys().next().copied()
                {
                    files.remove(&victim);
                }
                let file = Arc::new(file);
                files.insert(id, file.clone());
                Ok(Some(file))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn read_remote(&self, id: ObjectId, key: &str, offset: u64, into: &mut [u8]) -> Result<()> {
        let end = offset + into.len() as u64;
        let blocks = offset / self.block_bytes..end.div_ceil(self.block_bytes);
        let mut have: Vec<Option<Bytes>> =
            blocks.clone().map(|number| self.cache.get((id, number))).collect();
        let first_missing = have.iter().position(Option::is_none);
        let last_missing = have.iter().rposition(Option::is_none);
        if let (Some(first), Some(last)) = (first_missing, last_missing) {
            // What lies between two missing blocks is fetched again: one request is worth it.
            let run = blocks.start + first as u64..blocks.start + last as u64 + 1;
            let mut body = self.fetch(key, run.clone())?;
            for number in run {
                let at = usize::try_from(self.block_bytes).unwrap_or(usize::MAX).min(body.len());
                let block = body.split_to(at);
                self.cache.put((id, number), block.clone());
                // In range: `run` is a part of `blocks`.
                have[(number - blocks.start) as usize] = Some(block);
            }
        }
        let mut whole = BytesMut::with_capacity(have.len().saturating_mul(64 << 10));
        for block in have.into_iter().flatten() {
            whole.extend_from_slice(&block);
        }
        let skip = usize::try_from(offset % self.block_bytes).unwrap_or(usize::MAX);
        match skip.checked_add(into.len()).and_then(|end| whole.get(skip..end)) {
            Some(wanted) => into.copy_from_slice(wanted),
            None => return Err(damaged(key, "it is shorter than it must be")),
        }
        Ok(())
    }

    /// These blocks in one request; the last one may be short.
    fn fetch(&self, key: &str, blocks: Range<u64>) -> Result<Bytes> {
        let range = blocks.start * self.block_bytes..blocks.end * self.block_bytes;
        self.runtime.block_on(self.log.store().get(key, Some(range))).map_err(from_store)
    }

    /// The same from the data section of a commit, which is small and comes whole.
    fn read_commit(&self, id: ObjectId, seq: u64, offset: u64, into: &mut [u8]) -> Result<()> {
        let data = match self.cache.get((id, 0)) {
            Some(data) => data,
            None => {
                let data = self.runtime.block_on(self.log.read_data(seq));
                let data = data.map_err(crate::error::to_fs)?;
                self.cache.put((id, 0), data.clone());
                data
            }
        };
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        match start.checked_add(into.len()).and_then(|end| data.get(start..end)) {
            Some(wanted) => into.copy_from_slice(wanted),
            None => {
                return Err(damaged(&self.keys.log(seq), "its data is shorter than it must be"));
            }
        }
        Ok(())
    }
}

/// An error of the store as a file system says it.
pub(crate) fn from_store(error: objstore::Error) -> FsError {
    match error {
        objstore::Error::NotFound { key } => damaged(&key, "it is missing"),
        other => FsError::of_kind(other.kind(), Errno::EIO, other.to_string()),
    }
}

fn damaged(key: &str, what: &str) -> FsError {
    FsError::of_kind(ErrorKind::Corrupt, Errno::EIO, format!("object {key} of the home: {what}"))
}

/// Content that was never uploaded and whose host is gone.
pub(crate) fn left_behind() -> FsError {
    FsError::of_kind(
        ErrorKind::Corrupt,
        Errno::EIO,
        "unsealed pack left behind: content of this home was never stored and is not on this host",
    )
}
