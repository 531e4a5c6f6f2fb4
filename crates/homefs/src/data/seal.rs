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

use base::{Digest, Entropy};
use vfs::{Ino, Result};

use super::layers::{self, Piece, Source};
use super::objects::{ObjectId, Objects};
use super::pack::PackWriter;
use super::read::{blob, read_piece};
use super::seal_plan::{self, Move};
use super::seal_rows::{Batch, Copied, Frozen, finish, freeze};
use super::spool::failed;
use crate::limits::{PACK_BYTES_MAX, SEAL_BATCH, SLOT_BYTES};
use crate::meta::readers::Readers;
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
    /// The epoch in the names of new packs.
    pub(crate) epoch: u64,
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
                let copied = self.copy(frozen, &mut pack, &mut batch)?;
                batch.copied.push(copied);
            }
            if let Some(open) = &pack {
                self.close(open, &mut batch)?;
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
            Ok((layers::pieces_up_to(conn, ino, 0, size, generation)?, blob(conn, ino)?))
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
            if let Some(full) = pack.take_if(|open| open.len + part.len > PACK_BYTES_MAX) {
                self.close(&full, batch)?;
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
        if known.is_none() {
            self.write_chunk(digest, &bytes)?;
            batch.chunks.push((digest, bytes.len() as u64));
        }
        let mut src = 0;
        for piece in pieces {
            moved.push(Piece { from: Source::Chunk { digest, src }, ..*piece });
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
            read_piece(piece, ino, content, Some(&self.shared.spool), self.objects, into)?;
            rest = after;
        }
        Ok(bytes)
    }

    fn new_pack(&self) -> Result<PackWriter> {
        let mut random = [0; 8];
        self.entropy.fill(&mut random);
        // Positive as SQLite has numbers, and never 0.
        let id = (u64::from_le_bytes(random) >> 1).max(1);
        let path = self.objects.local_path(ObjectId::Pack { id, epoch: self.epoch });
        PackWriter::create(path, id, self.epoch)
    }

    fn close(&self, pack: &PackWriter, batch: &mut Batch) -> Result<()> {
        pack.sync()?;
        batch.packs.push((pack.pack.id, pack.pack.epoch, pack.len));
        Ok(())
    }

    /// Writes a chunk's file under its own name: no row names it before this is done.
    fn write_chunk(&self, digest: Digest, bytes: &[u8]) -> Result<()> {
        let path = self.objects.local_path(ObjectId::Chunk(digest));
        let write = || {
            if let Some(directory) = path.parent() {
                std::fs::create_dir_all(directory)?;
            }
            let mut file = File::create(&path)?;
            file.write_all(bytes)?;
            file.sync_data()
        };
        write().map_err(failed)
    }
}
