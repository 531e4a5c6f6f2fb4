//! The two transactions of a sealing: the one before the copying, and the one after.
//!
//! # Not here
//! The copying (`seal`).

use base::Digest;
use rusqlite::params;
use vfs::{Ino, Result};

use super::layers::{self, Piece, Source};
use super::spool::SpoolId;
use crate::meta::inode::{Inode, Tier};
use crate::meta::sql::{self, int, uint};
use crate::meta::tx::Tx;
use crate::ops::truncate::{remove_sealed, remove_spooled};

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
    /// Packs with their bytes so far.
    pub(crate) packs: Vec<(u64, u64, u64)>,
}

/// Starts a new generation for each dirty inode of the list that has a name.
pub(crate) fn freeze(tx: &mut Tx<'_>, inodes: &[Ino]) -> Result<Vec<Frozen>> {
    const FIND: &str = "SELECT gen FROM dirty_inode WHERE ino=?1 \
         AND NOT EXISTS (SELECT 1 FROM orphan o WHERE o.ino=?1)";
    let mut frozen = Vec::new();
    for &ino in inodes {
        let found = sql::first(tx.conn, FIND, [int(ino)], |r| uint(r, 0))?;
        let (Some(generation), Some(inode)) = (found, Inode::find(tx.conn, ino)?) else {
            continue;
        };
        let next = tx.next_version();
        const NEXT: &str = "UPDATE dirty_inode SET gen=?2 WHERE ino=?1";
        sql::run(tx.conn, NEXT, params![int(ino), int(next)])?;
        let Inode { size, mtime, version, tier, .. } = inode;
        frozen.push(Frozen { ino, generation, size, mtime, version, tier });
    }
    Ok(frozen)
}

/// Puts `extent` rows in place of the frozen `dirty_extent` rows, as far as they still stand.
pub(crate) fn finish(tx: &mut Tx<'_>, batch: &Batch) -> Result<()> {
    for (id, epoch, len) in &batch.packs {
        const SQL: &str = "INSERT INTO pack VALUES(?1,?2,?3,0,0) \
             ON CONFLICT(id) DO UPDATE SET len=max(len,?3)";
        sql::run(tx.conn, SQL, params![int(*id), int(*epoch), int(*len)])?;
    }
    for (digest, len) in &batch.chunks {
        const SQL: &str = "INSERT OR IGNORE INTO chunk VALUES(?1,?2,0)";
        sql::run(tx.conn, SQL, params![digest.as_bytes(), int(*len)])?;
    }
    for copied in &batch.copied {
        finish_inode(tx, copied)?;
    }
    Ok(())
}

fn finish_inode(tx: &mut Tx<'_>, copied: &Copied) -> Result<()> {
    let Frozen { ino, generation, .. } = copied.frozen;
    let Some(inode) = Inode::find(tx.conn, ino)? else { return Ok(()) };
    for piece in &copied.moved {
        // What of it is still there: the file may have been cut off meanwhile.
        let current = layers::pieces_up_to(tx.conn, ino, piece.off, piece.end(), generation)?;
        remove_sealed(tx, ino, piece.off, piece.end())?;
        let mut after = -1;
        while let Some(found) = layers::next_generation(tx.conn, ino, after)?
            && found <= generation
        {
            remove_spooled(tx, ino, found, piece.off, piece.end())?;
            after = int(found);
        }
        for (start, end) in runs(&current) {
            if let Some(part) = piece.cut(start, end) {
                insert_extent(tx, ino, &part)?;
            }
        }
    }
    sql::run(tx.conn, "DELETE FROM blob WHERE ino=?1", [int(ino)])?;
    settle_generations(tx, copied, &inode)
}

/// Lets go of the generations that are sealed, and of the inode's dirtiness if none is left.
fn settle_generations(tx: &mut Tx<'_>, copied: &Copied, inode: &Inode) -> Result<()> {
    let Frozen { ino, generation, size, mtime, version, .. } = copied.frozen;
    let left = layers::next_generation(tx.conn, ino, -1)?;
    if left.is_none_or(|left| left > generation) {
        tx.spool_garbage.push((ino, generation));
    }
    if left.is_none() {
        const LIVE: &str = "SELECT gen FROM dirty_inode WHERE ino=?1";
        if let Some(live) = sql::first(tx.conn, LIVE, [int(ino)], |r| uint(r, 0))? {
            tx.spool_garbage.push((ino, live));
        }
        sql::run(tx.conn, "DELETE FROM dirty_inode WHERE ino=?1", [int(ino)])?;
        return Ok(());
    }
    const SEALED: &str = "UPDATE dirty_inode SET sealed_size=?2, sealed_mtime=?3, \
         sealed_version=?4 WHERE ino=?1";
    let size = size.min(inode.size);
    sql::run(tx.conn, SEALED, params![int(ino), int(size), mtime, int(version)])?;
    Ok(())
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
            sql::run(tx.conn, SQL, params![int(ino), off, len, int(pack.id), none, int(src)])?;
        }
        Source::Chunk { digest, src } => {
            let digest = digest.as_bytes();
            sql::run(tx.conn, SQL, params![int(ino), off, len, None::<i64>, digest, int(src)])?;
        }
        Source::Blob | Source::Spool { .. } => {}
    }
    Ok(())
}
