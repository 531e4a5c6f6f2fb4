//! Which pieces of a dirty file go where when it is sealed. Pure.

use super::layers::{Piece, Source};
use crate::limits::{PIECES_MAX, SLOT_BYTES, SLOT_OVERLAY_BYTES_MAX};
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
/// A file of the pack tier appends what changed, so that an append loop never rewrites the file,
/// until it is in too many pieces. A slot of a chunked file becomes a new chunk when enough of it
/// changed; a small change goes to the pack and lies over the chunk.
#[must_use]
pub(crate) fn plan(tier: Tier, pieces: &[Piece]) -> Vec<Move> {
    match tier {
        Tier::Inline | Tier::Pack => pack_moves(pieces).into_iter().collect(),
        Tier::Chunked => by_slot(pieces).into_iter().filter_map(|slot| slot_move(&slot)).collect(),
    }
}

fn pack_moves(pieces: &[Piece]) -> Option<Move> {
    let unsealed: Vec<_> = pieces.iter().copied().filter(is_unsealed).collect();
    if unsealed.is_empty() {
        return None;
    }
    let all = pieces.len() > PIECES_MAX;
    Some(Move::Pack(if all { pieces.to_vec() } else { unsealed }))
}

fn slot_move(slot: &[Piece]) -> Option<Move> {
    let changed: u64 = slot.iter().filter(|piece| is_unsealed(piece)).map(|piece| piece.len).sum();
    match changed {
        0 => None,
        n if n >= SLOT_OVERLAY_BYTES_MAX || slot.len() > PIECES_MAX => {
            Some(Move::Chunk(slot.to_vec()))
        }
        _ => Some(Move::Pack(slot.iter().copied().filter(is_unsealed).collect())),
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
    use crate::data::layers::{PackRef, Place};

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
    fn a_file_in_too_many_pieces_is_written_anew() {
        let pieces: Vec<_> =
            (0..100).map(|n| packed(n * 10, 10)).chain([dirty(1_000, 10)]).collect();
        assert_eq!(plan(Tier::Pack, &pieces), [Move::Pack(pieces)]);
    }

    #[test]
    fn a_small_change_does_not_rewrite_its_slot() {
        let pieces = [packed(0, 3 << 20), dirty(3 << 20, 4_096), packed((3 << 20) + 4_096, 9_000)];
        assert_eq!(plan(Tier::Chunked, &pieces), [Move::Pack(vec![dirty(3 << 20, 4_096)])]);
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
