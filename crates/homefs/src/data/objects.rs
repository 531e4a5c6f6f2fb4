//! Sealed bytes: packs and chunks, from the local directory or from the store.
//!
//! A local copy is used where there is one; it is not compressed. Else the store is asked for the
//! blocks that hold the wanted range and for nothing more; neighbouring blocks come in one request.
//! How an object is cut into blocks is asked of its row (`tables`); what an earlier version stored
//! has none and is read in blocks of our own choice.
//!
//! # Failure
//! The store being away is `EIO` of kind `Unavailable`; an object that is missing, shorter than
//! its row says, or damaged is `EIO` of kind `Corrupt` and names it. `ESTALE`: the row is gone, the
//! caller looks up anew where the bytes are. Nothing here waits without bound: the store's own
//! retries are the bound.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use base::{Digest, Epoch, ErrorKind};
use bytes::Bytes;
use parking_lot::Mutex;
use vfs::{Errno, FsError, Result};

use super::block_cache::BlockCache;
use super::blocks::Blocks;
use super::layers::{ChunkRef, PackRef, Place};
use super::shape::{Shape, unpack};
use super::tables::{Stored, Tables};
use crate::layout::{HomeDir, HomeKeys};
use crate::limits::{BLOCK_CACHE_BYTES, BLOCK_TABLES_MAX, SPOOL_FILES_OPEN_MAX};
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
    tables: Mutex<HashMap<Stored, Option<Arc<Blocks>>>>,
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
            tables: Mutex::default(),
            files: Mutex::default(),
            log,
        }
    }

    /// Fills `into` from `offset` of a pack.
    pub(crate) fn read_pack(
        &self,
        tables: &dyn Tables,
        pack: PackRef,
        offset: u64,
        into: &mut [u8],
    ) -> Result<()> {
        let id = ObjectId::Pack { id: pack.id, epoch: pack.epoch };
        if self.read_local(id, offset, into)? {
            return Ok(());
        }
        match pack.place {
            Place::Object => {
                let key = self.keys.pack(Epoch(pack.epoch), pack.id);
                let object = Stored::Pack { id: pack.id, epoch: pack.epoch };
                self.read_remote(tables, object, &key, offset, into)
            }
            Place::Commit(seq) => self.read_commit(tables, pack, seq, offset, into),
            Place::Local => Err(left_behind()),
        }
    }

    /// Fills `into` from `offset` of a chunk.
    pub(crate) fn read_chunk(
        &self,
        tables: &dyn Tables,
        chunk: ChunkRef,
        offset: u64,
        into: &mut [u8],
    ) -> Result<()> {
        let id = ObjectId::Chunk(chunk.digest);
        if self.read_local(id, offset, into)? {
            return Ok(());
        }
        let ChunkRef { digest, born } = chunk;
        let object = Stored::Chunk { digest, born };
        self.read_remote(tables, object, &self.keys.chunk(&digest, born), offset, into)
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

    /// Lets go of all local files; who reads one opens it again.
    pub(crate) fn close_files(&self) {
        self.files.lock().clear();
    }

    fn read_remote(
        &self,
        tables: &dyn Tables,
        object: Stored,
        key: &str,
        offset: u64,
        into: &mut [u8],
    ) -> Result<()> {
        let shape = self.shape(tables, object)?;
        let unit = shape.unit(self.block_bytes);
        let end = offset + into.len() as u64;
        let blocks = offset / unit..end.div_ceil(unit);
        let mut have: Vec<Option<Bytes>> =
            blocks.clone().map(|number| self.cache.get((object, number))).collect();
        let first_missing = have.iter().position(Option::is_none);
        let last_missing = have.iter().rposition(Option::is_none);
        if let (Some(first), Some(last)) = (first_missing, last_missing) {
            // What lies between two missing blocks is fetched again: one request is worth it.
            let missing = blocks.start + first as u64..blocks.start + last as u64 + 1;
            for (number, block) in self.fetch(key, &shape, missing)? {
                self.cache.put((object, number), block.clone());
                let at = number.checked_sub(blocks.start).and_then(|at| usize::try_from(at).ok());
                if let Some(slot) = at.and_then(|at| have.get_mut(at)) {
                    *slot = Some(block);
                }
            }
        }
        let mut skip = usize::try_from(offset % unit).unwrap_or(usize::MAX);
        let mut rest = into;
        for block in have.iter().flatten() {
            let part = block.get(skip..).unwrap_or_default();
            let (now, later) = rest.split_at_mut(part.len().min(rest.len()));
            now.copy_from_slice(&part[..now.len()]);
            (rest, skip) = (later, 0);
        }
        if rest.is_empty() { Ok(()) } else { Err(damaged(key, "it is shorter than it must be")) }
    }

    /// How an object is stored. Tables are kept once they were looked up.
    fn shape(&self, tables: &dyn Tables, object: Stored) -> Result<Shape> {
        let known = self.tables.lock().get(&object).cloned();
        let table = match known {
            Some(table) => table,
            None => {
                let table = tables.table(object)?;
                let mut known = self.tables.lock();
                if known.len() >= BLOCK_TABLES_MAX {
                    known.clear();
                }
                known.insert(object, table.clone());
                table
            }
        };
        Ok(table.map_or(Shape::AsIs, Shape::Blocks))
    }

    /// At least these blocks, by number, in one request.
    fn fetch(&self, key: &str, shape: &Shape, wanted: Range<u64>) -> Result<Vec<(u64, Bytes)>> {
        let get = |range| {
            self.runtime.block_on(self.log.store().get(key, Some(range))).map_err(from_store)
        };
        let unit = shape.unit(self.block_bytes);
        match shape {
            Shape::AsIs => {
                let mut body = get(wanted.start * unit..wanted.end * unit)?;
                let cut = |number| {
                    let at = usize::try_from(unit).unwrap_or(usize::MAX).min(body.len());
                    (number, body.split_to(at))
                };
                Ok(wanted.map(cut).collect())
            }
            Shape::Blocks(blocks) => {
                // Who reads ahead reads as much ahead as where nothing is compressed.
                let group = (self.block_bytes / unit).max(1);
                let end = (wanted.end.div_ceil(group) * group).min(blocks.count());
                let wanted = wanted.start / group * group..end;
                if wanted.is_empty() {
                    return Ok(Vec::new());
                }
                let range = blocks.stored(&wanted);
                unpack(blocks, wanted, &get(range)?).map_err(|what| damaged(key, what))
            }
        }
    }

    /// The same from the data section of a commit, which is small and comes whole.
    fn read_commit(
        &self,
        tables: &dyn Tables,
        pack: PackRef,
        seq: u64,
        offset: u64,
        into: &mut [u8],
    ) -> Result<()> {
        let object = Stored::Rider { id: pack.id, seq };
        let key = || self.keys.log(seq);
        let data = match self.cache.get((object, 0)) {
            Some(data) => data,
            None => {
                let shape = self.shape(tables, object)?;
                let data = self.runtime.block_on(self.log.read_data(seq));
                let data = data.map_err(crate::error::to_fs)?;
                let data = match shape {
                    Shape::AsIs => data,
                    Shape::Blocks(blocks) => {
                        let unpacked = unpack(&blocks, 0..blocks.count(), &data)
                            .map_err(|what| damaged(&key(), what))?;
                        unpacked
                            .iter()
                            .map(|(_, block)| &block[..])
                            .collect::<Vec<_>>()
                            .concat()
                            .into()
                    }
                };
                self.cache.put((object, 0), data.clone());
                data
            }
        };
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        match start.checked_add(into.len()).and_then(|end| data.get(start..end)) {
            Some(wanted) => into.copy_from_slice(wanted),
            None => return Err(damaged(&key(), "its data is shorter than it must be")),
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

pub(crate) fn damaged(key: &str, what: &str) -> FsError {
    corrupt(format!("object {key} of the home: {what}"))
}

/// Something that was stored and is not what it must be.
pub(crate) fn corrupt(what: impl Into<String>) -> FsError {
    FsError::of_kind(ErrorKind::Corrupt, Errno::EIO, what.into())
}

/// Content that was never uploaded and whose host is gone.
pub(crate) fn left_behind() -> FsError {
    FsError::of_kind(
        ErrorKind::Corrupt,
        Errno::EIO,
        "unsealed pack left behind: content of this home was never stored and is not on this host",
    )
}
