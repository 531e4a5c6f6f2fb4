//! Storing what is sealed: packs and chunks that are only here so far.
//!
//! Content is read and compressed block by block as uploads begin (`data::blocks`), so memory is bounded
//! by the compressed bytes of as many as run at once.
//!
//! # Failure
//! An upload that is repeated may find what an earlier attempt left under the name, perhaps compressed
//! by another version. Where it holds our content, its blocks are taken as they are: nothing that is
//! stored is ever replaced.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use base::{Digest, Epoch};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use parking_lot::Mutex;
use rusqlite::{Connection, params};
use vfs::{Errno, FsError, Result};

use crate::data::blocks::{self, BLOCK_BYTES, Encoded, Encoder, Found};
use crate::data::layers::Place;
use crate::data::objects::{ObjectId, Objects, damaged, from_store, left_behind};
use crate::data::spool::failed;
use crate::garbage::graves;
use crate::limits::{CHUNK_UPLOADS, PACK_UPLOADS};
use crate::meta::sql::{self, int, uint};
use crate::meta::tx::Tx;
use crate::pressure::Pressure;
use crate::replica::log::Log;

/// A pack that is only here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LocalPack {
    pub(crate) id: u64,
    pub(crate) epoch: u64,
    pub(crate) len: u64,
    /// The table of its blocks once it is stored; `None`: stored as it is.
    table: Option<Vec<u8>>,
}

/// A chunk that is only here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LocalChunk {
    digest: Digest,
    len: u64,
    /// As of [`LocalPack`].
    table: Option<Vec<u8>>,
}

/// What was stored since the last round that came that far, so that one which follows a failure does
/// not store it again.
#[derive(Debug, Default)]
pub(crate) struct Uploaded {
    tables: Mutex<HashMap<String, Option<Vec<u8>>>>,
}

/// What is sealed and not stored.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pending {
    pub(crate) packs: Vec<LocalPack>,
    pub(crate) chunks: Vec<LocalChunk>,
    /// The pack that goes with the commit itself.
    pub(crate) rider: Option<LocalPack>,
}

impl Pending {
    /// Reads it. A lone pack of at most `ride_max` bytes goes with the commit; 0: none does. Nor does one
    /// that is an object already.
    pub(crate) fn load(
        conn: &Connection,
        ride_max: u64,
        is_stored: &dyn Fn(&LocalPack) -> bool,
    ) -> Result<Self> {
        const PACKS: &str = "SELECT id,epoch,len FROM pack WHERE place=0 AND live>0";
        let mut packs = sql::all(conn, PACKS, [], |r| {
            Ok(LocalPack { id: uint(r, 0)?, epoch: uint(r, 1)?, len: uint(r, 2)?, table: None })
        })?;
        const SQL: &str = "SELECT digest,len FROM chunk WHERE stored=0 AND refs>0";
        let chunks = sql::all(conn, SQL, [], |r| {
            let digest = Digest::from_bytes(r.get(0)?);
            Ok(LocalChunk { digest, len: uint(r, 1)?, table: None })
        })?;
        let rider = match packs.as_slice() {
            [only] if only.len <= ride_max && !is_stored(only) => packs.pop(),
            _ => None,
        };
        Ok(Self { packs, chunks, rider })
    }

    /// This, and what was stored before it for the same commit. An earlier rider was not stored.
    pub(crate) fn beside(mut self, earlier: Self) -> Self {
        let packs: HashSet<u64> = self.packs.iter().map(|pack| pack.id).collect();
        let chunks: HashSet<Digest> = self.chunks.iter().map(|chunk| chunk.digest).collect();
        self.packs.extend(earlier.packs.into_iter().filter(|pack| !packs.contains(&pack.id)));
        self.chunks.extend(earlier.chunks.into_iter().filter(|c| !chunks.contains(&c.digest)));
        self
    }

    /// Stores packs and chunks, all but the rider, for commit `seq`.
    pub(crate) async fn store(
        &mut self,
        log: &Log,
        objects: &Objects,
        seq: u64,
        uploaded: &Uploaded,
        pressure: &Pressure,
    ) -> Result<()> {
        let packs = self.packs.iter_mut().map(|pack| async move {
            let key = log.keys().pack(Epoch(pack.epoch), pack.id);
            pack.table = uploaded.store(log, key, pack.content(objects), pressure).await?;
            Ok::<_, FsError>(())
        });
        futures::stream::iter(packs).buffer_unordered(PACK_UPLOADS).try_collect::<()>().await?;
        let chunks = self.chunks.iter_mut().map(|chunk| async move {
            let path = objects.local_path(ObjectId::Chunk(chunk.digest));
            let key = log.keys().chunk(&chunk.digest, seq);
            let content = Content { path, len: chunk.len };
            chunk.table = uploaded.store(log, key, content, pressure).await?;
            Ok::<_, FsError>(())
        });
        futures::stream::iter(chunks).buffer_unordered(CHUNK_UPLOADS).try_collect::<()>().await
    }

    /// The bytes that go with the commit; none without a rider.
    pub(crate) async fn rider_body(&mut self, objects: &Objects) -> Result<Bytes> {
        let Some(rider) = &mut self.rider else { return Ok(Bytes::new()) };
        let Encoded { body, table } = rider.content(objects).encoded().await?;
        rider.table = Some(table);
        Ok(body)
    }

    /// Notes that all this is stored, the rider with commit `seq`, and buries what died before it.
    pub(crate) fn mark_stored(&self, tx: &mut Tx<'_>, seq: u64) -> Result<()> {
        for pack in &self.packs {
            set_place(tx, pack, Place::Object, seq)?;
        }
        for LocalChunk { digest, table, .. } in &self.chunks {
            const SQL: &str = "UPDATE chunk SET stored=1, born=?2, blocks=?3 WHERE digest=?1";
            sql::run(tx.sql()?, SQL, params![digest.as_bytes(), int(seq), table])?;
            // It may have died before under the same name, for a commit that was not made.
            graves::reopen(tx.sql()?, digest, seq)?;
        }
        if let Some(rider) = &self.rider {
            set_place(tx, rider, Place::Commit(seq), seq)?;
        }
        graves::bury(tx.sql()?, seq)
    }
}

impl LocalPack {
    fn content(&self, objects: &Objects) -> Content {
        let id = ObjectId::Pack { id: self.id, epoch: self.epoch };
        // A crash may have left more in the file than any row names.
        Content { path: objects.local_path(id), len: self.len }
    }
}

/// Riders of commits that were never made are only here after all.
pub(crate) fn unmark_riders(tx: &mut Tx<'_>, newest: u64) -> Result<()> {
    const SQL: &str = "UPDATE pack SET place=0, seq=0, blocks=NULL WHERE place=2 AND seq>?1";
    sql::run(tx.sql()?, SQL, [int(newest)])?;
    Ok(())
}

fn set_place(tx: &mut Tx<'_>, pack: &LocalPack, place: Place, born: u64) -> Result<()> {
    let (place, seq) = place.columns();
    const SQL: &str = "UPDATE pack SET place=?2, seq=?3, born=?4, blocks=?5 WHERE id=?1";
    sql::run(tx.sql()?, SQL, params![int(pack.id), place, int(seq), int(born), pack.table])?;
    Ok(())
}

impl Uploaded {
    /// True where it was stored under `key`.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.tables.lock().contains_key(key)
    }

    /// As [`store`], where that was not done yet. Names say what is there, so the key is enough.
    async fn store(
        &self,
        log: &Log,
        key: String,
        content: Content,
        pressure: &Pressure,
    ) -> Result<Option<Vec<u8>>> {
        if let Some(table) = self.tables.lock().get(&key) {
            return Ok(table.clone());
        }
        let len = content.len;
        let table = store(log, &key, content).await?;
        self.tables.lock().insert(key, table.clone());
        pressure.stored(len);
        Ok(table)
    }
}

/// Stores content under `key`; with what table, `None` where it lies there as it is.
async fn store(log: &Log, key: &str, content: Content) -> Result<Option<Vec<u8>>> {
    let Encoded { body, table } = content.encoded().await?;
    match log.store().create(key, body).await {
        Ok(()) => return Ok(Some(table)),
        Err(objstore::Error::Exists { .. }) => {}
        Err(error) => return Err(from_store(error)),
    }
    let stored = log.store().get(key, None).await.map_err(from_store)?;
    match content.recognised_in(stored).await? {
        Some(Found::Blocks(table)) => Ok(Some(table)),
        Some(Found::Raw) => Ok(None),
        None => Err(damaged(key, "something else is there under its name")),
    }
}

/// What is in a local file, as far as a row says.
#[derive(Debug, Clone)]
struct Content {
    path: PathBuf,
    len: u64,
}

impl Content {
    /// As it is to be stored.
    async fn encoded(&self) -> Result<Encoded> {
        let content = self.clone();
        blocking(move || {
            let len = usize::try_from(content.len).unwrap_or(usize::MAX);
            let mut encoder = Encoder::new(len).map_err(failed)?;
            let mut blocks = content.blocks()?;
            while let Some(block) = blocks()? {
                encoder.add(&block).map_err(failed)?;
            }
            Ok(encoder.end())
        })
        .await
    }

    /// Whether `stored` is this, and how.
    async fn recognised_in(&self, stored: Bytes) -> Result<Option<Found>> {
        let content = self.clone();
        blocking(move || blocks::recognise(&stored, content.blocks()?)).await
    }

    /// Reads it block by block.
    fn blocks(&self) -> Result<impl FnMut() -> Result<Option<Vec<u8>>>> {
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(left_behind()),
            Err(error) => return Err(failed(error)),
        };
        let (len, mut at) = (self.len, 0);
        Ok(move || {
            let mut block = vec![0; BLOCK_BYTES.min(len - at) as usize];
            if block.is_empty() {
                return Ok(None);
            }
            match file.read_exact_at(&mut block, at) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Err(left_behind()),
                Err(error) => return Err(failed(error)),
            }
            at += block.len() as u64;
            Ok(Some(block))
        })
    }
}

/// Runs what reads and compresses where it holds up no other upload.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|_| Err(FsError::with(Errno::EIO, "the process is shutting down")))
}
