//! Randomness, as something passed in.

use std::fmt::Debug;

/// Where a component gets random bytes from. The simulator seeds it.
pub trait Entropy: Debug + Send + Sync + 'static {
    /// Fills `into` with random bytes.
    fn fill(&self, into: &mut [u8]);

    /// Sixteen random bytes, enough to never meet again.
    fn nonce(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        self.fill(&mut bytes);
        bytes
    }
}

/// The operating system's entropy.
#[derive(Debug, Default)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn fill(&self, into: &mut [u8]) {
        getrandom::fill(into).expect("the operating system gives entropy once it has booted");
    }
}
