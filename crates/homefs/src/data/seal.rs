//! Sealing: moving bytes from the spool into packs and chunks.
//!
//! # Order
//! 1. *Freeze*, a transaction: writes of these inodes go to a new generation from here on.
//! 2. Copy what is frozen to packs and chunk files in the local directory; flush those to disk.
//! 3. *Finish*, a transaction: `extent` rows in place of the frozen `dirty_extent` rows.
//!
//! # Invariants
//! - What is being copied does not change, so nothing is ever retried: later writes lie in a
//!   later generation, and cutting a file off removes rows, which step 3 looks at again.
//! - Content, attributes and space used are the same before and after.
//!
//! # Failure
//! At any point frozen rows and their files are still there, and the next sealing takes them
//! along. Files of packs and chunks that no row names are swept when the home is next opened.
//!
//! # Not here
//! What goes where (`seal_plan`), the two transactions (`seal_rows`), storing it (`round`).

use std::fs::File;
use std::io::Write;
use std::sync::Arc;

use base::{Clock, Digest, Entropy, ErrorKind};
use vfs::{Errno, FsError, Ino, Result};

use super::layers::{self, ChunkRef, Piece, Source};
use super::objects::{ObjectId, Objects};
use super::pack::{PackWriter, sync_directory_of};
use super::read::read_piece;
use super::seal_plan::{self, Move};
use super::seal_rows::{Batch, Copied, Frozen, finish, freeze};
use super::spool::failed;
use super::tables::Tables;
use crate::layout::temporary_of;
use crate::limits::{PACK_BYTES_MAX, SEAL_BATCH, SLOT_BYTES};
use crate::meta::readers::Readers;
use crate::meta::rows::{ReadRows as _, Rows as _};
use crate::meta::sql;
use crate::meta::tx::Shared;
use crate::meta::writer::Writer;

/// What one sealing needs.
#[derive(Debug)]
pub(crate) struct Sealer<'a> {
    pub(crate) writer: &'a Writer,
    pub(crate) readers: &'a Readers,
    pub(crate) shared: &'a Arc<Shared>,
    pub(crate) objects: &'a Objects,
    pub(crate) entropy: &'a dyn Entropy,
    pub(crate) clock: &'a dyn Clock,
    /// The epoch in the names of new packs.
    pub(crate) epoch: u64,
    /// What is sealed is here too, also where the store has it already: it may be collected there.
    pub(crate) keeps_copies: bool,
}

impl Sealer<'_> {
    /// Seals these inodes; those that are not dirty, or have no name, are left out.
    pub(crate) fn seal(&self, inodes: Vec<Ino>) -> Result<()> {
        let mut pack = None;
        for part in inodes.chunks(SEAL_BATCH) {
            let part = part.to_vec();
            let frozen = self.writer.run(move |tx| freeze(tx, &part))?;
            let mut batch = Batch::default();
            for frozen in frozen {
                match self.copy(frozen, &mut pack, &mut batch) {
                    Ok(copied) => batch.copied.push(copied),
                    // It was removed meanwhile, and its spool file with it.
                    Err(error) if error.errno() == Errno::ESTALE && !self.is_there(frozen)? => {}
                    Err(error) => return Err(unsealed(frozen.ino, error)),
                }
            }
            if let Some(open) = &mut pack {
                self.close(open, &mut batch)?;
            }
            for file in &batch.files {
                sync_directory_of(file)?;
            }
            let spooled: Vec<_> = batch.copied.iter().map(Copied::spool_id).collect();
            self.writer.run(move |tx| finish(tx, &batch))?;
            self.shared.spool.sealed(&spooled);
        }
        Ok(())
    }

    fn copy(
        &self,
        frozen: Frozen,
        pack: &mut Option<PackWriter>,
        batch: &mut Batch,
    ) -> Result<Copied> {
        let Frozen { ino, generation, size, .. } = frozen;
        let (pieces, content) = self.readers.consistent(|conn| {
            let content = conn.blob(ino)?.unwrap_or_default();
            Ok((layers::pieces_up_to(conn, ino, 0, size, generation)?, content))
        })?;
        let mut moved = Vec::new();
        for step in seal_plan::plan(frozen.tier, &pieces) {
            match step {
                Move::Pack(pieces) => {
                    for piece in pieces {
                        self.to_pack(ino, piece, &content, pack, batch, &mut moved)?;
                    }
                }
                Move::Chunk(pieces) => {
                    self.to_chunk(ino, &pieces, &content, batch, &mut moved)?;
                }
            }
        }
        Ok(Copied { frozen, moved: layers::joined(moved) })
    }

    fn to_pack(
        &self,
        ino: Ino,
        piece: Piece,
        content: &[u8],
        pack: &mut Option<PackWriter>,
        batch: &mut Batch,
        moved: &mut Vec<Piece>,
    ) -> Result<()> {
        // A piece may be as large as a file; it is carried over in parts.
        let mut at = piece.off;
        while at < piece.end() {
            let Some(part) = piece.cut(at, at + SLOT_BYTES) else { break };
            at = part.end();
            let bytes = self.bytes(ino, &[part], content)?;
            if let Some(mut full) = pack.take_if(|open| open.len + part.len > PACK_BYTES_MAX) {
                self.close(&mut full, batch)?;
            }
            let open = match pack {
                Some(open) => open,
                None => pack.insert(self.new_pack()?),
            };
            let src = open.append(&bytes)?;
            moved.push(Piece { from: Source::Pack { pack: open.pack, src }, ..part });
        }
        Ok(())
    }

    fn to_chunk(
        &self,
        ino: Ino,
        pieces: &[Piece],
        content: &[u8],
        batch: &mut Batch,
        moved: &mut Vec<Piece>,
    ) -> Result<()> {
        let bytes = self.bytes(ino, pieces, content)?;
        let digest = Digest::of(&bytes);
        let known = self.readers.with(|conn| {
            const SQL: &str = "SELECT 1 FROM chunk WHERE digest=?1";
            sql::first(conn, SQL, [digest.as_bytes()], |_| Ok(()))
        })?;
        if known.is_none() || self.keeps_copies {
            self.write_chunk(digest, &bytes, batch)?;
        }
        if known.is_none() {
            batch.chunks.push((digest, bytes.len() as u64));
        }
        let (chunk, mut src) = (ChunkRef { digest, born: 0 }, 0);
        for piece in pieces {
            moved.push(Piece { from: Source::Chunk { chunk, src }, ..*piece });
            src += piece.len;
        }
        Ok(())
    }

    /// The bytes of these pieces, one after the other. At most a slot of them.
    fn bytes(&self, ino: Ino, pieces: &[Piece], content: &[u8]) -> Result<Vec<u8>> {
        let len = usize::try_from(layers::covered(pieces)).unwrap_or(usize::MAX);
        let mut bytes = vec![0; len];
        let mut rest = bytes.as_mut_slice();
        for piece in pieces {
            let (into, after) = rest.split_at_mut(piece.len as usize);
            let sealed = (self.objects, self.readers as &dyn Tables);
            read_piece(piece, ino, content, Some(&self.shared.spool), sealed, into)?;
            rest = after;
        }
        Ok(bytes)
    }

    /// Whether anything of what was frozen still counts.
    fn is_there(&self, frozen: Frozen) -> Result<bool> {
        let row = self.writer.front().read_rows(&|rows| rows.spooled(frozen.ino))?;
        let first = row.and_then(|row| row.next_generation(None));
        Ok(first.is_some_and(|first| first <= frozen.generation))
    }

    fn new_pack(&self) -> Result<PackWriter> {
        let mut random = [0; 4];
        self.entropy.fill(&mut random);
        let now = u64::try_from(self.clock.now().as_second()).unwrap_or(0);
        let id = pack_id(now, u32::from_le_bytes(random));
        let path = self.objects.local_path(ObjectId::Pack { id, epoch: self.epoch });
        PackWriter::create(path, id, self.epoch)
    }

    fn close(&self, pack: &mut PackWriter, batch: &mut Batch) -> Result<()> {
        pack.sync()?;
        batch.packs.push((pack.pack.id, pack.pack.epoch, pack.len));
        Ok(())
    }

    /// Writes a chunk's file under its own name: no row names it before this is done and the name is on
    /// disk.
    fn write_chunk(&self, digest: Digest, bytes: &[u8], batch: &mut Batch) -> Result<()> {
        let path = self.objects.local_path(ObjectId::Chunk(digest));
        if let Some(directory) = path.parent() {
            if !directory.exists() {
                std::fs::create_dir_all(directory).map_err(failed)?;
                sync_directory_of(directory)?;
            }
            // One file of each directory stands for it.
            if batch.files.iter().all(|file| file.parent() != Some(directory)) {
                batch.files.push(path.clone());
            }
        }
        // A copy that somebody relies on is never half written.
        let first = if self.keeps_copies { temporary_of(&path) } else { path.clone() };
        let write = || {
            let mut file = File::create(&first)?;
            file.write_all(bytes)?;
            file.sync_data()?;
            if first == path { Ok(()) } else { std::fs::rename(&first, &path) }
        };
        write().map_err(failed)
    }
}

/// Whoever waits for it may have asked for another file: all that is stored with this one waits too, so
/// it has to be found.
fn unsealed(ino: Ino, error: FsError) -> FsError {
    match error.errno() {
        // Freezing found the rows, so their bytes were there once.
        Errno::ESTALE => FsError::of_kind(
            ErrorKind::Corrupt,
            Errno::EIO,
            format!(
                "the host's disk has lost what was written to inode {ino}, which was never stored; \
                 delete or replace that file, the others are stored then"
            ),
        ),
        _ => error.about(format_args!("store inode {ino}")),
    }
}

/// Number of a pack made at second `now`: rows of packs made one after the other lie together, so that a
/// commit of a small change carries one page of them. Positive as SQLite has numbers, and never 0.
fn pack_id(now: u64, random: u32) -> u64 {
    ((now & u64::from(u32::MAX)) << 31 | u64::from(random >> 1)).max(1)
}

#[cfg(test)]
mod tests {
    use super::pack_id;

    #[test]
    fn packs_are_numbered_in_the_order_of_time_and_as_sqlite_has_numbers() {
        assert!(pack_id(1_800_000_000, u32::MAX) < pack_id(1_800_000_001, 0));
        assert_ne!(pack_id(7, 2), pack_id(7, 4));
        assert_eq!(pack_id(u64::MAX, u32::MAX), i64::MAX as u64);
        assert_eq!(pack_id(0, 0), 1);
    }
}
