//! Changes to valid input, small ones that get past the first check as well as rough ones.

use rand::rngs::StdRng;
use rand::{Rng as _, RngExt as _};

/// Numbers at which decoders err.
const EDGES: &[u64] = &[
    0,
    1,
    2,
    7,
    8,
    16,
    39,
    40,
    41,
    64,
    127,
    128,
    255,
    256,
    511,
    512,
    4095,
    4096,
    0x7fff,
    0x8000,
    0xffff,
    0x1_0000,
    0x1_0001,
    0x10_0000,
    0x10_0001,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_fffe,
    0xffff_ffff,
    0x1_0000_0000,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    0xffff_ffff_ffff_ffff,
];

/// Numbers as text, for formats that have them so.
const TEXTS: &[&str] = &[
    "0",
    "-1",
    "1e999",
    "-0.0",
    "4294967296",
    "9223372036854775807",
    "-9223372036854775808",
    "18446744073709551616",
    "null",
    "\"\\u0000\"",
    "[[[[",
    "{}",
];

/// Changes `input` in one to eight places. `others` are inputs to take pieces of, `words` pieces that the
/// format knows.
pub fn mutate(
    input: &mut Vec<u8>,
    others: &[Vec<u8>],
    words: &[&[u8]],
    bytes_max: usize,
    rng: &mut StdRng,
) {
    for _ in 0..1 << rng.random_range(0..4_u32) {
        once(input, others, words, rng);
    }
    input.truncate(bytes_max);
}

fn once(input: &mut Vec<u8>, others: &[Vec<u8>], words: &[&[u8]], rng: &mut StdRng) {
    match rng.random_range(0..16_u32) {
        0 | 1 => flip(input, rng),
        2 => set(input, rng),
        3..=5 => edge(input, rng),
        6 => add(input, rng),
        7 => {
            let piece = range(input.len(), rng);
            drop(input.drain(piece));
        }
        8 => {
            let piece = input[range(input.len(), rng)].to_vec();
            let times = if rng.random_bool(0.1) { rng.random_range(2..200) } else { 1 };
            insert(input, &piece.repeat(times), rng);
        }
        9 => {
            let mut noise = vec![0; rng.random_range(1..64)];
            rng.fill_bytes(&mut noise);
            insert(input, &noise, rng);
        }
        10 => {
            let word: &[u8] = match words.len() {
                0 => TEXTS[rng.random_range(0..TEXTS.len())].as_bytes(),
                len => words[rng.random_range(0..len)],
            };
            if rng.random_bool(0.5) { insert(input, word, rng) } else { replace(input, word, rng) }
        }
        11 => digits(input, rng),
        12 | 13 => splice(input, others, rng),
        14 => {
            let end = at(input.len(), rng);
            input.truncate(end);
        }
        _ => {
            let byte = [0, 0xff, b' ', b'0'][rng.random_range(0..4)];
            let piece = range(input.len(), rng);
            input[piece].fill(byte);
        }
    }
}

fn at(len: usize, rng: &mut StdRng) -> usize {
    rng.random_range(0..=len)
}

/// Some bytes of so many; mostly few, sometimes all that follow.
fn range(len: usize, rng: &mut StdRng) -> std::ops::Range<usize> {
    let start = at(len, rng);
    let most = (len - start).min(if rng.random_bool(0.9) { 64 } else { usize::MAX });
    start..start + at(most, rng)
}

fn flip(input: &mut [u8], rng: &mut StdRng) {
    if !input.is_empty() {
        let place = rng.random_range(0..input.len());
        input[place] ^= 1 << rng.random_range(0..8_u32);
    }
}

fn set(input: &mut [u8], rng: &mut StdRng) {
    if !input.is_empty() {
        let place = rng.random_range(0..input.len());
        input[place] = rng.random();
    }
}

/// Puts a number of interest over one to eight bytes, the end of which comes first or last.
fn edge(input: &mut [u8], rng: &mut StdRng) {
    let width = 1 << rng.random_range(0..4_usize);
    let Some(last) = input.len().checked_sub(width) else { return };
    let mut number = EDGES[rng.random_range(0..EDGES.len())];
    if rng.random_bool(0.2) {
        // What a length may be compared with.
        number = (input.len() as u64).wrapping_add_signed(rng.random_range(-48..48));
    }
    // Fields lie at even places more often than not.
    let mut place = rng.random_range(0..=last);
    if rng.random_bool(0.7) {
        place -= place % width;
    }
    let bytes = number.to_le_bytes();
    let target = &mut input[place..place + width];
    target.copy_from_slice(&bytes[..width]);
    if rng.random_bool(0.2) {
        target.reverse();
    }
}

fn add(input: &mut [u8], rng: &mut StdRng) {
    let width = 1 << rng.random_range(0..4_usize);
    let Some(last) = input.len().checked_sub(width) else { return };
    let place = rng.random_range(0..=last);
    let mut bytes = [0; 8];
    bytes[..width].copy_from_slice(&input[place..place + width]);
    let number = u64::from_le_bytes(bytes).wrapping_add_signed(rng.random_range(-16..=16));
    input[place..place + width].copy_from_slice(&number.to_le_bytes()[..width]);
}

fn insert(input: &mut Vec<u8>, piece: &[u8], rng: &mut StdRng) {
    let place = at(input.len(), rng);
    drop(input.splice(place..place, piece.iter().copied()));
}

fn replace(input: &mut [u8], piece: &[u8], rng: &mut StdRng) {
    let place = at(input.len(), rng);
    let room = &mut input[place..];
    let len = room.len().min(piece.len());
    room[..len].copy_from_slice(&piece[..len]);
}

/// Puts another number in the place of one that is written in digits.
fn digits(input: &mut Vec<u8>, rng: &mut StdRng) {
    let from = at(input.len(), rng);
    let Some(start) = input[from..].iter().position(u8::is_ascii_digit) else { return };
    let start = from + start;
    let len = input[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let text = TEXTS[rng.random_range(0..TEXTS.len())].bytes();
    drop(input.splice(start..start + len, text));
}

/// Goes on as another input does.
fn splice(input: &mut Vec<u8>, others: &[Vec<u8>], rng: &mut StdRng) {
    if others.is_empty() {
        return;
    }
    let other = &others[rng.random_range(0..others.len())];
    let (from, to) = (at(other.len(), rng), at(input.len(), rng));
    match rng.random_range(0..3_u32) {
        0 => {
            input.truncate(to);
            input.extend_from_slice(&other[from..]);
        }
        // One after the other, whole: what is a stream of messages stays one.
        1 => input.extend_from_slice(other),
        _ => {
            let piece = other[range(other.len(), rng)].to_vec();
            insert(input, &piece, rng);
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    #[test]
    fn anything_can_be_changed_and_stays_within_its_bound() {
        let mut rng = StdRng::seed_from_u64(7);
        let others = [Vec::new(), b"{\"a\": 12}".to_vec()];
        for len in (0..200).cycle().take(20_000) {
            let mut input = vec![b'1'; len];
            mutate(&mut input, &others, &[b"word"], 150, &mut rng);
            assert!(input.len() <= 150);
        }
    }

    #[test]
    fn the_same_seed_makes_the_same_changes() {
        let changed = |seed| {
            let mut rng = StdRng::seed_from_u64(seed);
            let mut input = b"the same seed".to_vec();
            for _ in 0..50 {
                mutate(&mut input, &[], &[], 100, &mut rng);
            }
            input
        };
        assert_eq!(changed(1), changed(1));
        assert_ne!(changed(1), changed(2));
    }
}
