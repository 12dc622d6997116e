//! Randomness from the operating system.
//!
//! Owns: the seeds that every random choice starts from.
//! Never: chooses anything with them; the core takes a seed or a generator as an argument.
//! Read next: `agent/mod.rs`, whose `Boot` holds a seed.

use rand_chacha::ChaCha20Rng;
#[expect(clippy::disallowed_types, reason = "the one place that asks the operating system")]
use rand_core::OsRng;
use rand_core::{RngCore, SeedableRng};

/// 32 fresh bytes.
///
/// # Panics
/// When the kernel refuses randomness: no key may be made then, and nothing else would help.
pub fn seed() -> [u8; 32] {
    let mut seed = [0; 32];
    OsRng.fill_bytes(&mut seed);
    seed
}

/// A generator that starts from a fresh [`seed`].
pub fn rng() -> ChaCha20Rng {
    ChaCha20Rng::from_seed(seed())
}

#[cfg(test)]
mod tests {
    #[test]
    fn two_seeds_differ() {
        assert_ne!(super::seed(), super::seed());
    }
}
