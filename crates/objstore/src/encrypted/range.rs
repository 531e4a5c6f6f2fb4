//! Which bytes of the stored object hold which bytes of the plain one. Pure arithmetic.
//!
//! # Invariants
//! - Every frame but the last holds exactly [`PLAIN`] bytes; the last holds at least one, but for
//!   that of an empty object. So sizes determine each other, and every other size is damage.
//! - Nothing here overflows, whatever was asked for: ends are clipped to [`END_MAX`].

use std::ops::Range;

/// Plain bytes of a full frame. Small, so that a reader of one page fetches little more than it;
/// large, so that 41 bytes are nothing beside it.
pub(super) const PLAIN: u64 = 64 * 1024;
/// Bytes of a frame beside its content: id, nonce, tag.
pub(super) const OVERHEAD: u64 = 1 + 24 + 16;
/// Stored bytes of a full frame.
pub(super) const STORED: u64 = PLAIN + OVERHEAD;
/// The largest offset that is asked for. Servers read offsets as signed numbers.
const END_MAX: u64 = i64::MAX as u64;

/// What to fetch for a range of plain bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Span {
    /// The number of the first frame.
    pub(super) first: u64,
    /// The stored bytes: whole frames, and one byte more, which tells whether the object goes on.
    pub(super) stored: Range<u64>,
}

/// What to fetch for `range`, which is not empty.
pub(super) fn span(range: &Range<u64>) -> Span {
    let first = range.start / PLAIN;
    let after = range.end.div_ceil(PLAIN);
    let at = |frame: u64| frame.saturating_mul(STORED).min(END_MAX);
    Span { first, stored: at(first)..at(after).saturating_add(1).min(END_MAX) }
}

/// The size of an object whose stored size is `stored`; `None` where no object has that size.
pub(super) fn plain_len(stored: u64) -> Option<u64> {
    let (full, rest) = (stored / STORED, stored % STORED);
    match (full, rest) {
        (0, OVERHEAD) => Some(0),
        (1.., 0) => Some(full * PLAIN),
        (_, rest) if rest > OVERHEAD => Some(full * PLAIN + rest - OVERHEAD),
        _ => None,
    }
}

/// The stored size of an object of `plain` bytes.
pub(super) fn stored_len(plain: u64) -> u64 {
    plain.saturating_add(frames(plain).saturating_mul(OVERHEAD))
}

/// Frames of an object of `plain` bytes; at least one.
pub(super) fn frames(plain: u64) -> u64 {
    plain.div_ceil(PLAIN).max(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_at_the_borders_of_frames() {
        for (plain, stored) in [
            (0, 41),
            (1, 42),
            (PLAIN - 1, STORED - 1),
            (PLAIN, STORED),
            (PLAIN + 1, STORED + 42),
            (3 * PLAIN, 3 * STORED),
        ] {
            assert_eq!((stored_len(plain), plain_len(stored)), (stored, Some(plain)));
        }
        for impossible in [0, 1, 40, STORED + 1, STORED + 41, 2 * STORED + 40] {
            assert_eq!(plain_len(impossible), None, "{impossible}");
        }
    }

    proptest! {
        #[test]
        fn sizes_determine_each_other(plain in 0..1_u64 << 50) {
            prop_assert_eq!(plain_len(stored_len(plain)), Some(plain));
        }

        #[test]
        fn every_size_is_that_of_one_object_or_of_none(stored in 0..1_u64 << 50) {
            if let Some(plain) = plain_len(stored) {
                prop_assert_eq!(stored_len(plain), stored);
            }
        }

        #[test]
        fn a_span_holds_its_range_and_less_than_two_frames_more(
            start in 0..1_u64 << 45,
            len in 1..1_u64 << 30,
        ) {
            let range = start..start + len;
            let Span { first, stored } = span(&range);
            prop_assert_eq!(stored.start, first * STORED);
            prop_assert_eq!((stored.end - 1) % STORED, 0);
            let plain = first * PLAIN..(stored.end - 1) / STORED * PLAIN;
            prop_assert!(plain.start <= range.start && range.end <= plain.end);
            prop_assert!(range.start - plain.start < PLAIN && plain.end - range.end < PLAIN);
        }

        #[test]
        fn no_range_overflows(start in any::<u64>(), end in any::<u64>()) {
            prop_assume!(start < end);
            let span = span(&(start..end));
            prop_assert!(span.stored.start <= span.stored.end);
        }
    }
}
