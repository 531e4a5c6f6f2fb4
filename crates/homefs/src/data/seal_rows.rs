//! The two transactions of a sealing: the one before the copying, and the one after.
//!
//! # Not here
//! The copying (`seal`).

use std::path::PathBuf;

use base::Digest;
use rusqlite::params;
use vfs::{Ino, Result};

use super::layers::{self, Piece, Source};
use super::spool::SpoolId;
use crate::meta::inode::{Inode, Tier};
use crate::meta::rows::{Rows as _, Spooled};
use crate::meta::sql::{self, int};
use crate::meta::tx::Tx;
use crate::ops::truncate::remove_sealed;

/// An inode whose written bytes are frozen up to `generation`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Frozen {
    pub(crate) ino: Ino,
    pub(crate) generation: u64,
    pub(crate) size: u64,
    pub(crate) mtime: i64,
    pub(crate) version: u64,
    pub(crate) tier: Tier,
}

/// An inode whose frozen bytes were copied.
#[derive(Debug)]
pub(crate) struct Copied {
    pub(crate) frozen: Frozen,
    /// The ranges with their new sources.
    pub(crate) moved: Vec<Piece>,
}

impl Copied {
    /// The newest spool file that was copied.
    pub(crate) fn spool_id(&self) -> SpoolId {
        (self.frozen.ino, self.frozen.generation)
    }
}

/// Copied inodes that wait for their transaction, and the files they went to.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) copied: Vec<Copied>,
    pub(crate) chunks: Vec<(Digest, u64)>,
    /// New files whose directories are to be synced, one for each directory.
    pub(crate) files: Vec<PathBuf>,
    /// Packs with their bytes so far.
    pub(crate) packs: Vec<(u64, u64, u64)>,
}

/// Starts a new generation for each dirty inode of the list that has a name.
pub(crate) fn freeze(tx: &mut Tx<'_>, inodes: &[Ino]) -> Result<Vec<Frozen>> {
    let mut frozen = Vec::new();
    for &ino in inodes {
        let (Some(row), Some(inode)) = (tx.spooled(ino)?, tx.find(ino)?) else { continue };
        if tx.orphan(ino)?.is_some() {
            continue;
        }
        let generation = row.generation;
        let next = tx.next_version();
        tx.put_spooled(ino, Spooled { generation: next, ..row })?;
        let Inode { size, mtime, version, tier, .. } = inode;
        frozen.push(Frozen { ino, generation, size, mtime, version, tier });
    }
    Ok(frozen)
}

/// Puts `extent` rows in place of the frozen `dirty_extent` rows, as far as they still stand.
pub(crate) fn finish(tx: &mut Tx<'_>, batch: &Batch) -> Result<()> {
    for (id, epoch, len) in &batch.packs {
        const SQL: &str = "INSERT INTO pack(id,epoch,len,place,seq) VALUES(?1,?2,?3,0,0) \
             ON CONFLICT(id) DO UPDATE SET len=max(len,?3)";
        sql::run(tx.sql()?, SQL, params![int(*id), int(*epoch), int(*len)])?;
    }
    for (digest, len) in &batch.chunks {
        const SQL: &str = "INSERT OR IGNORE INTO chunk(digest,len,stored) VALUES(?1,?2,0)";
        sql::run(tx.sql()?, SQL, params![digest.as_bytes(), int(*len)])?;
    }
    for copied in &batch.copied {
        finish_inode(tx, copied)?;
    }
    Ok(())
}

fn finish_inode(tx: &mut Tx<'_>, copied: &Copied) -> Result<()> {
    let Frozen { ino, generation, .. } = copied.frozen;
    let Some(inode) = tx.find(ino)? else { return Ok(()) };
    let before = tx.spooled(ino)?.map_or_else(Vec::new, |row| row.layers);
    for piece in &copied.moved {
        // What of it is still there: the file may have been cut off meanwhile.
        let current = layers::pieces_up_to(tx, ino, piece.off, piece.end(), generation)?;
        remove_sealed(tx.sql()?, ino, piece.off, piece.end())?;
        tx.uncover(ino, generation, piece.off, piece.end())?;
        for (start, end) in runs(&current) {
            if let Some(part) = piece.cut(start, end) {
                insert_extent(tx, ino, &part)?;
            }
        }
    }
    tx.put_blob(ino, None);
    let frozen = before.into_iter().map(|layer| layer.0).filter(|frozen| *frozen < generation);
    settle_generations(tx, copied, frozen.chain([generation]).collect(), &inode)
}

/// Lets go of the generations that are sealed, and of the inode's dirtiness if none is left.
fn settle_generations(
    tx: &mut Tx<'_>,
    copied: &Copied,
    frozen: Vec<u64>,
    inode: &Inode,
) -> Result<()> {
    let Frozen { ino, size, mtime, version, .. } = copied.frozen;
    let Some(row) = tx.spooled(ino)? else { return Ok(()) };
    let left = |generation| row.layers.iter().any(|layer| layer.0 == generation);
    let sealed = frozen.into_iter().filter(|generation| !left(*generation));
    tx.changed.spool_garbage.extend(sealed.map(|generation| (ino, generation)));
    if row.layers.is_empty() {
        return tx.drop_spooled(ino);
    }
    let row = Spooled {
        sealed_size: size.min(inode.size),
        sealed_mtime: mtime,
        sealed_version: version,
        ..row
    };
    tx.put_spooled(ino, row)
}

/// Adjoining pieces as start and end.
fn runs(pieces: &[Piece]) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for piece in pieces {
        match runs.last_mut() {
            Some((_, end)) if *end == piece.off => *end = piece.end(),
            _ => runs.push((piece.off, piece.end())),
        }
    }
    runs
}

fn insert_extent(tx: &Tx<'_>, ino: Ino, piece: &Piece) -> Result<()> {
    const SQL: &str = "INSERT INTO extent VALUES(?1,?2,?3,?4,?5,?6)";
    let (off, len) = (int(piece.off), int(piece.len));
    match piece.from {
        Source::Pack { pack, src } => {
            let none = None::<&[u8]>;
            sql::run(tx.sql()?, SQL, params![int(ino), off, len, int(pack.id), none, int(src)])?;
        }
        Source::Chunk { chunk, src } => {
            let digest = chunk.digest.as_bytes();
            sql::run(tx.sql()?, SQL, params![int(ino), off, len, None::<i64>, digest, int(src)])?;
        }
        Source::Blob | Source::Spool { .. } => {}
    }
    Ok(())
}
