//! Which pieces of a dirty file go where when it is sealed. Pure.

use super::layers::{Piece, Source};
use crate::limits::{
    PIECE_SMALL_BYTES, PIECES_MAX, SLOT_BYTES, SLOT_CHANGE_BYTES_MAX, SLOT_LOOSE_BYTES_MAX,
};
use crate::meta::inode::Tier;

/// One thing to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Move {
    /// These pieces, each by itself, to the pack.
    Pack(Vec<Piece>),
    /// These pieces, together, to one chunk.
    Chunk(Vec<Piece>),
}

/// What to write so that nothing of `pieces` is unsealed any more.
///
/// What changed is appended to the pack, so that an append loop never rewrites its file; small
/// pieces are joined when there are too many of them, so that none of them is joined often. A slot
/// of a chunked file becomes one chunk when enough of it changed, or enough of it lies beside its
/// chunk: a small write never uploads a slot again.
#[must_use]
pub(crate) fn plan(tier: Tier, pieces: &[Piece]) -> Vec<Move> {
    match tier {
        Tier::Inline | Tier::Pack => pack_move(pieces).into_iter().collect(),
        Tier::Chunked => by_slot(pieces).into_iter().filter_map(|slot| slot_move(&slot)).collect(),
    }
}

fn pack_move(pieces: &[Piece]) -> Option<Move> {
    let unsealed = |piece: &&Piece| is_unsealed(piece);
    if !pieces.iter().any(is_unsealed) {
        return None;
    }
    let small = |piece: &&Piece| piece.len < PIECE_SMALL_BYTES;
    let join = pieces.iter().filter(small).count() > PIECES_MAX;
    let moved = pieces.iter().filter(|piece| unsealed(piece) || (join && small(piece)));
    Some(Move::Pack(moved.copied().collect()))
}

fn slot_move(slot: &[Piece]) -> Option<Move> {
    let bytes = |counts: fn(&Piece) -> bool| -> u64 {
        slot.iter().filter(|piece| counts(piece)).map(|piece| piece.len).sum()
    };
    let changed = bytes(is_unsealed);
    let loose = bytes(|piece| !matches!(piece.from, Source::Chunk { .. }));
    match changed {
        0 => None,
        n if n > SLOT_CHANGE_BYTES_MAX || loose > SLOT_LOOSE_BYTES_MAX => {
            Some(Move::Chunk(slot.to_vec()))
        }
        _ => pack_move(slot),
    }
}

/// The pieces cut at the borders of slots.
fn by_slot(pieces: &[Piece]) -> Vec<Vec<Piece>> {
    let mut slots: Vec<(u64, Vec<Piece>)> = Vec::new();
    for piece in pieces {
        let mut at = piece.off;
        while at < piece.end() {
            let slot = at / SLOT_BYTES;
            let end = piece.end().min((slot + 1) * SLOT_BYTES);
            match slots.last_mut() {
                Some((last, parts)) if *last == slot => parts.extend(piece.cut(at, end)),
                _ => slots.push((slot, piece.cut(at, end).into_iter().collect())),
            }
            at = end;
        }
    }
    slots.into_iter().map(|(_, parts)| parts).collect()
}

fn is_unsealed(piece: &Piece) -> bool {
    matches!(piece.from, Source::Spool { .. } | Source::Blob)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::layers::{ChunkRef, PackRef, Place};

    const PIECES: u64 = PIECES_MAX as u64;

    fn dirty(off: u64, len: u64) -> Piece {
        Piece { off, len, from: Source::Spool { generation: 1 } }
    }

    fn packed(off: u64, len: u64) -> Piece {
        let pack = PackRef { id: 1, epoch: 1, place: Place::Object };
        Piece { off, len, from: Source::Pack { pack, src: off } }
    }

    #[test]
    fn an_append_moves_only_what_was_appended() {
        let pieces = [packed(0, 100_000), dirty(100_000, 1_000)];
        assert_eq!(plan(Tier::Pack, &pieces), [Move::Pack(vec![dirty(100_000, 1_000)])]);
        assert_eq!(plan(Tier::Pack, &[packed(0, 100)]), []);
    }

    #[test]
    fn too_many_small_pieces_are_joined_and_large_ones_left_alone() {
        let large = packed(0, 1 << 20);
        let small = (0..PIECES).map(|n| packed((1 << 20) + n * 10, 10));
        let pieces: Vec<_> =
            [large].into_iter().chain(small).chain([dirty((1 << 20) + PIECES * 10, 10)]).collect();
        assert_eq!(plan(Tier::Pack, &pieces), [Move::Pack(pieces[1..].to_vec())]);
        assert_eq!(plan(Tier::Pack, &pieces[1..]), [Move::Pack(pieces[1..].to_vec())]);
        assert_eq!(
            plan(Tier::Pack, &pieces[2..]),
            [Move::Pack(pieces[PIECES as usize + 1..].to_vec())]
        );
    }

    #[test]
    fn a_small_change_does_not_rewrite_its_slot() {
        let chunk = |off, len| Piece {
            off,
            len,
            from: Source::Chunk {
                chunk: ChunkRef { digest: base::Digest::of(b""), born: 1 },
                src: off,
            },
        };
        let change = dirty(3 << 20, 4_096);
        let pieces = [chunk(0, 3 << 20), change, chunk((3 << 20) + 4_096, 9_000)];
        assert_eq!(plan(Tier::Chunked, &pieces), [Move::Pack(vec![change])]);
        let loose = [chunk(0, 1 << 20), packed(1 << 20, 2 << 20), change];
        assert_eq!(plan(Tier::Chunked, &loose), [Move::Chunk(loose.to_vec())]);
    }

    #[test]
    fn only_slots_that_changed_become_chunks() {
        let pieces = [packed(0, SLOT_BYTES), dirty(SLOT_BYTES, SLOT_BYTES + 10)];
        assert_eq!(
            plan(Tier::Chunked, &pieces),
            [
                Move::Chunk(vec![dirty(SLOT_BYTES, SLOT_BYTES)]),
                Move::Pack(vec![dirty(2 * SLOT_BYTES, 10)]),
            ]
        );
    }
}
