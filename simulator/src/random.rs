//! Random numbers that nobody else's choices can shift.
//!
//! Owns: one stream per seed, entity and purpose.
//! Never: a stream that two entities share, or one that outlives its purpose: to delete a fault must not change what
//! befalls anybody else.
//! Read next: `plan.rs`, which draws from them.

use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};
use sha2::{Digest, Sha256};

/// The stream of `entity` for `purpose` under `seed`.
pub(crate) fn stream(seed: u64, entity: &str, purpose: &str) -> ChaCha8Rng {
    ChaCha8Rng::from_seed(bytes(seed, entity, purpose))
}

/// 32 bytes that only this seed, entity and purpose give.
pub(crate) fn bytes(seed: u64, entity: &str, purpose: &str) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update(seed.to_le_bytes());
    for part in [entity, purpose] {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    hasher.finalize().into()
}

/// A number below `bound`, 0 where nothing is.
pub(crate) fn below(rng: &mut impl RngCore, bound: u64) -> u64 {
    // The remainder's bias is below 2^-32 for the bounds used here, and a plan needs no fairness.
    rng.next_u64().checked_rem(bound).unwrap_or(0)
}

/// A number from `low` to `high`, both included.
pub(crate) fn between(rng: &mut impl RngCore, low: u64, high: u64) -> u64 {
    low + below(rng, high.saturating_sub(low).saturating_add(1))
}

/// Whether a thing that happens in `percent` of all cases happens now.
pub(crate) fn happens(rng: &mut impl RngCore, percent: u32) -> bool {
    below(rng, 100) < u64::from(percent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_depends_on_seed_entity_and_purpose_alone() {
        let first = |seed, entity, purpose| stream(seed, entity, purpose).next_u64();
        assert_eq!(first(1, "gw-0", "wall"), first(1, "gw-0", "wall"));
        assert_ne!(first(1, "gw-0", "wall"), first(2, "gw-0", "wall"));
        assert_ne!(first(1, "gw-0", "wall"), first(1, "gw-1", "wall"));
        assert_ne!(first(1, "gw-0", "wall"), first(1, "gw-0", "disk"));
        assert_ne!(first(1, "ab", "c"), first(1, "a", "bc"), "parts do not run together");
    }
}
