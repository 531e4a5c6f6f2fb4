//! Storing what is sealed: packs and chunks that are only here so far.
//!
//! Bodies are read one at a time as uploads begin, so memory is bounded by how many run at once.
//! An upload that is repeated stores the same bytes under the same name.

use base::{Digest, Epoch};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use rusqlite::{Connection, params};
use vfs::Result;

use crate::data::layers::Place;
use crate::data::objects::{ObjectId, Objects, from_store, left_behind};
use crate::limits::{CHUNK_UPLOADS, COMMIT_DATA_BYTES_MAX, PACK_UPLOADS};
use crate::meta::sql::{self, int, uint};
use crate::meta::tx::Tx;
use crate::replica::log::Log;

/// A pack that is only here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LocalPack {
    pub(crate) id: u64,
    pub(crate) epoch: u64,
    pub(crate) len: u64,
}

/// What is sealed and not stored.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pending {
    pub(crate) packs: Vec<LocalPack>,
    pub(crate) chunks: Vec<Digest>,
    /// The pack that goes with the commit itself.
    pub(crate) rider: Option<LocalPack>,
}

impl Pending {
    /// Reads it. `may_ride`: a small lone pack goes with the commit.
    pub(crate) fn load(conn: &Connection, may_ride: bool) -> Result<Self> {
        const PACKS: &str = "SELECT id,epoch,len FROM pack WHERE place=0";
        let mut packs = sql::all(conn, PACKS, [], |r| {
            Ok(LocalPack { id: uint(r, 0)?, epoch: uint(r, 1)?, len: uint(r, 2)? })
        })?;
        let chunks = sql::all(conn, "SELECT digest FROM chunk WHERE stored=0", [], |r| {
            Ok(Digest::from_bytes(r.get(0)?))
        })?;
        let rider = match packs.as_slice() {
            [only] if may_ride && only.len <= COMMIT_DATA_BYTES_MAX => packs.pop(),
            _ => None,
        };
        Ok(Self { packs, chunks, rider })
    }

    /// Stores packs and chunks, all but the rider.
    pub(crate) async fn store(&self, log: &Log, objects: &Objects) -> Result<()> {
        let packs = self.packs.iter().map(|pack| async move {
            let body = pack.body(objects).await?;
            let key = log.keys().pack(Epoch(pack.epoch), pack.id);
            log.store().create(&key, body).await.map_err(from_store)
        });
        futures::stream::iter(packs).buffer_unordered(PACK_UPLOADS).try_collect::<()>().await?;
        let chunks = self.chunks.iter().map(|digest| async move {
            let body = local_body(objects, ObjectId::Chunk(*digest)).await?;
            log.store().put(&log.keys().chunk(digest), body).await.map_err(from_store)
        });
        futures::stream::iter(chunks).buffer_unordered(CHUNK_UPLOADS).try_collect::<()>().await
    }

    /// Notes that all this is stored, the rider with commit `seq`.
    pub(crate) fn mark_stored(&self, tx: &mut Tx<'_>, seq: u64) -> Result<()> {
        for pack in &self.packs {
            set_place(tx, pack.id, Place::Object)?;
        }
        for digest in &self.chunks {
            const SQL: &str = "UPDATE chunk SET stored=1 WHERE digest=?1";
            sql::run(tx.conn, SQL, [digest.as_bytes()])?;
        }
        if let Some(rider) = &self.rider {
            set_place(tx, rider.id, Place::Commit(seq))?;
        }
        Ok(())
    }
}

impl LocalPack {
    /// Its bytes.
    pub(crate) async fn body(&self, objects: &Objects) -> Result<Bytes> {
        let id = ObjectId::Pack { id: self.id, epoch: self.epoch };
        let mut body = local_body(objects, id).await?;
        // A crash may have left more in the file than any row names.
        let len = usize::try_from(self.len).unwrap_or(usize::MAX);
        if body.len() < len {
            return Err(left_behind());
        }
        body.truncate(len);
        Ok(body)
    }
}

/// Riders of commits that were never made are only here after all.
pub(crate) fn unmark_riders(tx: &mut Tx<'_>, newest: u64) -> Result<()> {
    const SQL: &str = "UPDATE pack SET place=0, seq=0 WHERE place=2 AND seq>?1";
    sql::run(tx.conn, SQL, [int(newest)])?;
    Ok(())
}

fn set_place(tx: &mut Tx<'_>, id: u64, place: Place) -> Result<()> {
    let (place, seq) = place.columns();
    const SQL: &str = "UPDATE pack SET place=?2, seq=?3 WHERE id=?1";
    sql::run(tx.conn, SQL, params![int(id), place, int(seq)])?;
    Ok(())
}

async fn local_body(objects: &Objects, id: ObjectId) -> Result<Bytes> {
    match tokio::fs::read(objects.local_path(id)).await {
        Ok(bytes) => Ok(bytes.into()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(left_behind()),
        Err(error) => Err(crate::data::spool::failed(error)),
    }
}
