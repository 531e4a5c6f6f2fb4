//! Chance that a seed repeats.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// A source of choices. The same seed gives the same choices in the same order.
#[derive(Debug)]
pub struct Chance {
    rng: StdRng,
}

impl Chance {
    /// The choices of `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { rng: StdRng::seed_from_u64(seed) }
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.rng.random_range(0..end.max(1))
    }

    /// An index of a list of `len`.
    pub fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.below(len as u64)).unwrap_or(0)
    }

    /// One of a few.
    pub fn of<'a, T>(&mut self, list: &'a [T]) -> Option<&'a T> {
        if list.is_empty() { None } else { list.get(self.index(list.len())) }
    }

    /// True `times` in a hundred.
    pub fn percent(&mut self, times: u64) -> bool {
        self.below(100) < times
    }

    /// Any number.
    pub fn any(&mut self) -> u64 {
        self.rng.random()
    }
}

/// A number that depends on all of `parts` and on nothing else.
#[must_use]
pub fn mix(parts: &[&[u8]]) -> u64 {
    let mut state = 0xCBF2_9CE4_8422_2325_u64;
    for part in parts {
        for byte in part.iter().chain(&(part.len() as u64).to_le_bytes()) {
            state = (state ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3);
        }
    }
    // The last bytes must count for the high bits too.
    state ^= state >> 30;
    state = state.wrapping_mul(0xBF58_476D_1CE4_E5B9);
    state ^= state >> 27;
    state = state.wrapping_mul(0x94D0_49BB_1331_11EB);
    state ^ (state >> 31)
}

/// `len` bytes that differ by `seed` and do not compress.
#[must_use]
pub fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = mix(&[&seed.to_le_bytes()]) | 1;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(len);
    out
}

/// A UUID in text that only `parts` decide.
#[must_use]
pub fn uuid(parts: &[&[u8]]) -> String {
    let high = mix(parts);
    let low = mix(&[b"low", &high.to_le_bytes()]);
    let bits = (u128::from(high) << 64) | u128::from(low);
    // Version 7, variant 1: what ids are made of.
    let bits = (bits & !(0xF << 76) & !(0x3 << 62)) | (0x7 << 76) | (0x2 << 62);
    uuid::Uuid::from_u128(bits).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_itself() {
        let draw = |seed| {
            let mut chance = Chance::new(seed);
            (0..20).map(|_| chance.below(1_000)).collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        assert_eq!(noise(100, 3), noise(100, 3));
        assert_ne!(noise(100, 3), noise(100, 4));
        assert_ne!(mix(&[b"a", b"bc"]), mix(&[b"ab", b"c"]));
    }
}
