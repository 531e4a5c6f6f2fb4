//! Rewriting packs and chunks that are mostly dead, and data that rides in commits that could go.
//!
//! # Order
//! Find the extents of the victims; copy their bytes to a new local pack and flush it; then, in
//! transactions, let those extents that still are as they were name the new pack. What changed
//! meanwhile keeps its victim alive until the next time. The next round stores the new pack and
//! buries the old ones, which readers may use until the grace is over.
//!
//! # Invariants
//! - Content, attributes and versions of files are the same before and after.
//! - Memory: one piece of at most a slot, and [`EXTENTS_MAX`] rows.
//! - A caller that waits for a round waits for one extent to be copied, and for those that were copied
//!   already to be renamed. The rest comes with another turn.

use std::collections::HashMap;
use std::ops::ControlFlow;

use base::Digest;
use rusqlite::{Connection, params};
use vfs::{Ino, Result};

use super::victims::{Candidate, victims};
use crate::data::layers::{ChunkRef, PackRef, Place};
use crate::data::objects::ObjectId;
use crate::data::pack::PackWriter;
use crate::engine::Engine;
use crate::limits::{PACK_BYTES_MAX, SLOT_BYTES};
use crate::meta::sql::{self, int, uint};

/// Live bytes that one turn rewrites, so that a sync never waits long for it.
const TURN_BYTES_MAX: u64 = 16 << 20;
/// Extents that one turn moves.
const EXTENTS_MAX: usize = 16_384;
/// Chunks that one turn rewrites.
const CHUNKS_MAX: i64 = 64;
/// Extents that one transaction moves.
const BATCH: usize = 512;

/// What an extent names.
#[derive(Debug, Clone, Copy)]
enum From {
    Pack(PackRef),
    Chunk(ChunkRef),
}

/// What is to be rewritten.
#[derive(Debug, Default)]
struct Chosen {
    packs: HashMap<u64, PackRef>,
    chunks: HashMap<Digest, ChunkRef>,
}

/// One extent that is to move.
#[derive(Debug, Clone, Copy)]
struct Extent {
    ino: Ino,
    off: u64,
    len: u64,
    src: u64,
    from: From,
    /// Where its bytes are now.
    to: (u64, u64),
}

/// Rewrites what is worth it, but no more than one turn; the bytes that were moved. `old`: commits
/// up to this number could go but for their data.
pub(crate) fn compact(engine: &Engine, epoch: u64, old: u64, at_rest: bool) -> Result<u64> {
    let packs = engine.front.readers.with(stored_packs)?;
    let candidates: Vec<_> =
        packs.iter().map(|(pack, len, live)| candidate(pack, *len, *live, old)).collect();
    let ids = victims(&candidates, at_rest, TURN_BYTES_MAX);
    let packs = packs.iter().filter(|(pack, ..)| ids.contains(&pack.id));
    let mut chosen =
        Chosen { packs: packs.map(|(pack, ..)| (pack.id, *pack)).collect(), ..Chosen::default() };
    if at_rest {
        chosen.chunks = engine.front.readers.with(mostly_dead_chunks)?;
    }
    if chosen.packs.is_empty() && chosen.chunks.is_empty() {
        return Ok(0);
    }
    let mut extents = engine.front.readers.with(|conn| extents_of(conn, &chosen))?;
    // What lies together in a file mostly lies together where it was; so it does after this.
    extents.sort_unstable_by_key(|extent| (extent.ino, extent.off));
    let mut copier = Copier { engine, epoch, open: None, done: Vec::new() };
    let mut copied = 0;
    for extent in &mut extents {
        extent.to = copier.copy(extent)?;
        copied += 1;
        if engine.is_waited_for() {
            break;
        }
    }
    extents.truncate(copied);
    let packs = copier.finish()?;
    engine.writer.run(move |tx| {
        for (id, len) in packs {
            const SQL: &str = "INSERT INTO pack(id,epoch,len,place,seq) VALUES(?1,?2,?3,0,0)";
            sql::run(tx.sql()?, SQL, params![int(id), int(epoch), int(len)])?;
        }
        Ok(())
    })?;
    let moved = extents.iter().map(|extent| extent.len).sum();
    for batch in extents.chunks(BATCH) {
        let batch = batch.to_vec();
        engine
            .writer
            .run(move |tx| batch.iter().try_for_each(|extent| rename(tx.sql()?, extent)))?;
    }
    Ok(moved)
}

fn candidate(pack: &PackRef, len: u64, live: u64, old: u64) -> Candidate {
    let in_old_commit = matches!(pack.place, Place::Commit(seq) if seq <= old);
    // A commit that is of use anyway takes no space for its data.
    let len = if pack.place == Place::Object || in_old_commit { len } else { live };
    Candidate { id: pack.id, len, live, in_old_commit }
}

/// Packs that are in the store, with their bytes and how many of them live.
fn stored_packs(conn: &Connection) -> Result<Vec<(PackRef, u64, u64)>> {
    const SQL: &str = "SELECT id,epoch,place,seq,len,live FROM pack WHERE place<>0";
    sql::all(conn, SQL, [], |r| {
        let place = Place::from_columns(r.get(2)?, uint(r, 3)?);
        Ok((PackRef { id: uint(r, 0)?, epoch: uint(r, 1)?, place }, uint(r, 4)?, uint(r, 5)?))
    })
}

/// Chunks less than half of which is named. A part that is named twice counts twice, so that is not
/// noticed of every one.
fn mostly_dead_chunks(conn: &Connection) -> Result<HashMap<Digest, ChunkRef>> {
    const SQL: &str = "SELECT c.digest,c.born FROM chunk c JOIN \
         (SELECT digest,sum(len) AS live FROM extent WHERE digest IS NOT NULL GROUP BY digest) e \
         ON e.digest=c.digest WHERE c.stored<>0 AND e.live*2<c.len LIMIT ?1";
    let found = sql::all(conn, SQL, [CHUNKS_MAX], |r| {
        let chunk = ChunkRef { digest: Digest::from_bytes(r.get(0)?), born: uint(r, 1)? };
        Ok((chunk.digest, chunk))
    })?;
    Ok(found.into_iter().collect())
}

fn extents_of(conn: &Connection, chosen: &Chosen) -> Result<Vec<Extent>> {
    const SQL: &str = "SELECT ino,off,len,src,pack,digest FROM extent";
    let mut found = Vec::new();
    sql::each(conn, SQL, [], |r| {
        let from = match r.get::<_, Option<[u8; 32]>>(5)? {
            Some(digest) => {
                chosen.chunks.get(&Digest::from_bytes(digest)).copied().map(From::Chunk)
            }
            None => chosen.packs.get(&uint(r, 4)?).copied().map(From::Pack),
        };
        if let Some(from) = from {
            let (ino, off, len, src) = (uint(r, 0)?, uint(r, 1)?, uint(r, 2)?, uint(r, 3)?);
            found.push(Extent { ino, off, len, src, from, to: (0, 0) });
        }
        let full = found.len() >= EXTENTS_MAX;
        Ok(if full { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    Ok(found)
}

/// Lets an extent that is still as it was name its new place.
fn rename(conn: &Connection, extent: &Extent) -> Result<()> {
    const SQL: &str = "UPDATE extent SET pack=?1,digest=NULL,src=?2 \
         WHERE ino=?3 AND off=?4 AND len=?5 AND src=?6 AND pack IS ?7 AND digest IS ?8";
    let Extent { ino, off, len, src, from, to } = extent;
    let (pack, digest) = match from {
        From::Pack(pack) => (Some(int(pack.id)), None),
        From::Chunk(chunk) => (None, Some(chunk.digest)),
    };
    let digest = digest.as_ref().map(Digest::as_bytes);
    let (ino, off, len) = (int(*ino), int(*off), int(*len));
    let key = params![int(to.0), int(to.1), ino, off, len, int(*src), pack, digest];
    sql::run(conn, SQL, key)?;
    Ok(())
}

struct Copier<'a> {
    engine: &'a Engine,
    epoch: u64,
    open: Option<PackWriter>,
    done: Vec<(u64, u64)>,
}

impl Copier<'_> {
    /// Copies the bytes of an extent; the pack that has them now, and where.
    fn copy(&mut self, extent: &Extent) -> Result<(u64, u64)> {
        if self.open.as_ref().is_some_and(|open| open.len + extent.len > PACK_BYTES_MAX) {
            self.close()?;
        }
        if self.open.is_none() {
            self.open = Some(self.create()?);
        }
        let (mut at, mut first) = (0, None);
        while at < extent.len
            && let Some(open) = &mut self.open
        {
            let part = (extent.len - at).min(SLOT_BYTES);
            let mut bytes = vec![0; usize::try_from(part).unwrap_or(usize::MAX)];
            let (objects, rows) = (&self.engine.objects, &self.engine.front.readers);
            let src = extent.src + at;
            match extent.from {
                From::Pack(pack) => objects.read_pack(rows, pack, src, &mut bytes)?,
                From::Chunk(chunk) => objects.read_chunk(rows, chunk, src, &mut bytes)?,
            }
            let src = open.append(&bytes)?;
            first.get_or_insert((open.pack.id, src));
            at += part;
        }
        Ok(first.unwrap_or_default())
    }

    fn create(&self) -> Result<PackWriter> {
        let mut random = [0; 8];
        self.engine.entropy.fill(&mut random);
        let id = (u64::from_le_bytes(random) >> 1).max(1);
        let path = self.engine.objects.local_path(ObjectId::Pack { id, epoch: self.epoch });
        PackWriter::create(path, id, self.epoch)
    }

    fn close(&mut self) -> Result<()> {
        if let Some(mut open) = self.open.take() {
            open.sync()?;
            self.done.push((open.pack.id, open.len));
        }
        Ok(())
    }

    /// Packs that are on disk, with their lengths.
    fn finish(mut self) -> Result<Vec<(u64, u64)>> {
        self.close()?;
        Ok(self.done)
    }
}
