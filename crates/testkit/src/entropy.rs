//! Chance that repeats itself.

use base::Entropy;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Entropy from a seed: the same bytes in the same order of calls.
#[derive(Debug)]
pub struct SeededEntropy {
    rng: Mutex<StdRng>,
}

impl SeededEntropy {
    /// The entropy of `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { rng: Mutex::new(StdRng::seed_from_u64(seed)) }
    }
}

impl Entropy for SeededEntropy {
    fn fill(&self, into: &mut [u8]) {
        self.rng.lock().fill_bytes(into);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_bytes_again_and_another_seed_others() {
        let (one, same, other) =
            (SeededEntropy::new(1), SeededEntropy::new(1), SeededEntropy::new(2));
        let first = one.nonce();
        assert_eq!(first, same.nonce());
        assert_ne!(first, other.nonce());
        assert_ne!(first, one.nonce());
    }
}
