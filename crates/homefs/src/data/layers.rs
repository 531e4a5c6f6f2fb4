//! Which bytes of a file come from where: a list of pieces, made from the layers of its rows.
//!
//! # Invariants
//! - Pieces are in order, do not overlap, are not empty. What lies between them is a hole.
//! - Later generations lie over earlier ones, and all of them over sealed content.

use base::Digest;
use rusqlite::{Connection, Row, params};
use vfs::{Ino, Result};

use crate::meta::rows::Rows;
use crate::meta::sql::{self, int, uint};

/// Where a pack is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// Only in the local directory.
    Local,
    /// An object of its own.
    Object,
    /// The data section of this commit.
    Commit(u64),
}

impl Place {
    /// From the columns `place` and `seq`.
    pub(crate) fn from_columns(place: i64, seq: u64) -> Self {
        match place {
            0 => Self::Local,
            1 => Self::Object,
            _ => Self::Commit(seq),
        }
    }

    /// The columns `place` and `seq`.
    pub(crate) fn columns(self) -> (i64, u64) {
        match self {
            Self::Local => (0, 0),
            Self::Object => (1, 0),
            Self::Commit(seq) => (2, seq),
        }
    }
}

/// One pack, as an extent names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PackRef {
    pub(crate) id: u64,
    pub(crate) epoch: u64,
    pub(crate) place: Place,
}

/// One chunk, as an extent names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ChunkRef {
    pub(crate) digest: Digest,
    /// The commit that stored it first; part of its name. 0: see `meta::schema`.
    pub(crate) born: u64,
}

/// Where the bytes of a piece are. `src` is the offset there of the piece's first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// The row of `blob`, at the piece's own offset.
    Blob,
    /// The spool file of this generation, at the piece's own offset.
    Spool { generation: u64 },
    /// A pack.
    Pack { pack: PackRef, src: u64 },
    /// A chunk.
    Chunk { chunk: ChunkRef, src: u64 },
}

/// A run of bytes with one source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Offset in the file.
    pub(crate) off: u64,
    /// Bytes, at least one.
    pub(crate) len: u64,
    /// Where they are.
    pub(crate) from: Source,
}

impl Piece {
    /// The offset after its last byte.
    pub(crate) fn end(&self) -> u64 {
        self.off + self.len
    }

    fn is_followed_by(&self, next: &Self) -> bool {
        let sources_meet = match (self.from, next.from) {
            (Source::Pack { pack, src }, Source::Pack { pack: other, src: next }) => {
                pack == other && src + self.len == next
            }
            (Source::Chunk { chunk, src }, Source::Chunk { chunk: other, src: next }) => {
                chunk == other && src + self.len == next
            }
            (ours, theirs) => ours == theirs,
        };
        self.end() == next.off && sources_meet
    }

    /// The part of it from `start` to `end`; `None` where they do not meet.
    pub(crate) fn cut(&self, start: u64, end: u64) -> Option<Self> {
        let (off, end) = (self.off.max(start), self.end().min(end));
        let skipped = off.saturating_sub(self.off);
        let from = match self.from {
            Source::Pack { pack, src } => Source::Pack { pack, src: src + skipped },
            Source::Chunk { chunk, src } => Source::Chunk { chunk, src: src + skipped },
            same => same,
        };
        (off < end).then(|| Self { off, len: end - off, from })
    }
}

/// Bytes that pieces cover.
pub(crate) fn covered(pieces: &[Piece]) -> u64 {
    pieces.iter().map(|piece| piece.len).sum()
}

/// The same pieces, with those made one that follow each other in the file and in their source.
pub(crate) fn joined(mut pieces: Vec<Piece>) -> Vec<Piece> {
    pieces.sort_unstable_by_key(|piece| piece.off);
    let mut joined: Vec<Piece> = Vec::with_capacity(pieces.len());
    for piece in pieces {
        match joined.last_mut() {
            Some(last) if last.is_followed_by(&piece) => last.len += piece.len,
            _ => joined.push(piece),
        }
    }
    joined
}

/// Puts `over` on top of `pieces`.
pub(crate) fn overlay(pieces: &mut Vec<Piece>, over: Piece) {
    let first = pieces.partition_point(|piece| piece.end() <= over.off);
    let last = pieces.partition_point(|piece| piece.off < over.end());
    let mut between = Vec::with_capacity(3);
    if first < last {
        between.extend(pieces[first].cut(0, over.off));
    }
    between.push(over);
    if first < last {
        between.extend(pieces[last - 1].cut(over.end(), u64::MAX));
    }
    pieces.splice(first..last, between);
}

/// All pieces of `ino` between `start` and `end`.
pub(crate) fn pieces(rows: &dyn Rows, ino: Ino, start: u64, end: u64) -> Result<Vec<Piece>> {
    pieces_up_to(rows, ino, start, end, u64::MAX)
}

/// The same, without generations after `generation`.
pub(crate) fn pieces_up_to(
    rows: &dyn Rows,
    ino: Ino,
    start: u64,
    end: u64,
    generation: u64,
) -> Result<Vec<Piece>> {
    let pieces = sealed(rows, ino, start, end)?;
    with_spooled(rows, ino, start, end, generation, pieces)
}

/// All pieces of a file that is not of the inline tier, which rarely has a blob: in a published
/// state each leaf that is looked at may be a request, so extents are looked at first.
pub(crate) fn pieces_in_objects(
    rows: &dyn Rows,
    ino: Ino,
    start: u64,
    end: u64,
) -> Result<Vec<Piece>> {
    let mut pieces = rows.sealed(ino, start, end)?;
    if pieces.is_empty() {
        pieces = sealed(rows, ino, start, end)?;
    }
    with_spooled(rows, ino, start, end, u64::MAX, pieces)
}

fn with_spooled(
    rows: &dyn Rows,
    ino: Ino,
    start: u64,
    end: u64,
    generation: u64,
    mut pieces: Vec<Piece>,
) -> Result<Vec<Piece>> {
    let Some(spooled) = rows.spooled(ino)? else { return Ok(pieces) };
    for (generation, ranges) in spooled.layers.iter().filter(|layer| layer.0 <= generation) {
        let from = Source::Spool { generation: *generation };
        for (off, end) in ranges.within(start, end) {
            overlay(&mut pieces, Piece { off, len: end - off, from });
        }
    }
    Ok(pieces)
}

/// Sealed content only.
pub(crate) fn sealed(rows: &dyn Rows, ino: Ino, start: u64, end: u64) -> Result<Vec<Piece>> {
    match rows.blob(ino)? {
        Some(blob) => {
            let whole = Piece { off: 0, len: blob.len() as u64, from: Source::Blob };
            Ok(whole.cut(start, end).into_iter().collect())
        }
        None => rows.sealed(ino, start, end),
    }
}

/// The rows of `extent` between `start` and `end`.
pub(crate) fn extents(conn: &Connection, ino: Ino, start: u64, end: u64) -> Result<Vec<Piece>> {
    const EXTENTS: &str = "SELECT e.off,e.len,e.pack,e.digest,e.src,p.epoch,p.place,p.seq,c.born \
         FROM extent e LEFT JOIN pack p ON p.id=e.pack LEFT JOIN chunk c ON c.digest=e.digest \
         WHERE e.ino=?1 AND e.off<?3 AND e.off>=COALESCE(\
         (SELECT max(off) FROM extent WHERE ino=?1 AND off<=?2),?2) ORDER BY e.off";
    let rows = sql::all(conn, EXTENTS, params![int(ino), int(start), int(end)], extent)?;
    Ok(rows.into_iter().filter_map(|piece| piece.cut(start, end)).collect())
}

fn extent(row: &Row<'_>) -> rusqlite::Result<Piece> {
    let src = uint(row, 4)?;
    let from = match row.get::<_, Option<[u8; 32]>>(3)? {
        Some(digest) => {
            // Without its row the name is not known; that of format 1 will not be found.
            let born = row.get::<_, Option<i64>>(8)?.and_then(|born| born.try_into().ok());
            let chunk = ChunkRef { digest: Digest::from_bytes(digest), born: born.unwrap_or(0) };
            Source::Chunk { chunk, src }
        }
        None => {
            let place = Place::from_columns(row.get(6)?, uint(row, 7)?);
            let pack = PackRef { id: uint(row, 2)?, epoch: uint(row, 5)?, place };
            Source::Pack { pack, src }
        }
    };
    Ok(Piece { off: uint(row, 0)?, len: uint(row, 1)?, from })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(off: u64, len: u64, generation: u64) -> Piece {
        Piece { off, len, from: Source::Spool { generation } }
    }

    #[test]
    fn a_later_layer_hides_what_it_covers_and_nothing_else() {
        let mut pieces = vec![piece(0, 10, 1), piece(20, 10, 1)];
        overlay(&mut pieces, piece(5, 20, 2));
        assert_eq!(pieces, [piece(0, 5, 1), piece(5, 20, 2), piece(25, 5, 1)]);
        overlay(&mut pieces, piece(40, 1, 3));
        assert_eq!(pieces.len(), 4);
        overlay(&mut pieces, piece(7, 2, 3));
        assert_eq!(
            pieces[..5],
            [piece(0, 5, 1), piece(5, 2, 2), piece(7, 2, 3), piece(9, 16, 2), piece(25, 5, 1)]
        );
        overlay(&mut pieces, piece(0, 100, 4));
        assert_eq!(pieces, [piece(0, 100, 4)]);
    }

    #[test]
    fn a_cut_moves_the_source_offset_along() {
        let chunk = ChunkRef { digest: Digest::of(b""), born: 1 };
        let whole = Piece { off: 100, len: 50, from: Source::Chunk { chunk, src: 7 } };
        let part = whole.cut(110, 120).unwrap();
        assert_eq!((part.off, part.len), (110, 10));
        assert_eq!(part.from, Source::Chunk { chunk, src: 17 });
        assert_eq!(whole.cut(150, 200), None);
    }
}
