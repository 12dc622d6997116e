//! The fleet's private keys, by role.
//!
//! Owns: [`FleetKeys`], [`Issuer`], [`Operator`].
//! Never: knows where they are kept. `shell/fleet_keys.rs` does.
//! Read next: `enrol.rs`, which puts their public halves into the first trust bundle.

use ed25519_dalek::SigningKey;
use rand_core::{CryptoRng, RngCore};

use super::FleetError;
use crate::time::Millis;
use crate::wire::bundle::{self, PublicKey, TrustBundle};
use crate::wire::seal::SealingKey;

/// Tokens name a time of minting that lies this much in the past. A device knows the present only as a lower bound: the
/// service's clock may be ahead, and the acknowledgement that told the time was on its way for a while.
pub const ISSUED_EARLIER: Millis = Millis::from_secs(5);

/// A key that mints tokens, with the number that stands in their container.
pub struct Issuer {
    /// The number.
    pub root_key_id: u32,
    /// The key.
    pub key: SigningKey,
}

/// One private key per role. No role can do another's work.
pub struct FleetKeys {
    /// Signs trust bundles.
    pub root: SigningKey,
    /// Mints tokens.
    pub issuer: Issuer,
    /// Signs policies.
    pub policy: SigningKey,
    /// Signs revocation heads.
    pub feed: SigningKey,
    /// Signs acknowledgements, answers and enrolment bundles.
    pub service: SigningKey,
    /// Signs the records of operators' acts.
    pub operator: SigningKey,
    /// Audit is sealed to it where the policy asks.
    pub collector: SealingKey,
}

impl FleetKeys {
    /// New keys.
    pub fn generate(rng: &mut (impl RngCore + CryptoRng)) -> Self {
        Self {
            root: SigningKey::generate(rng),
            issuer: Issuer { root_key_id: 1, key: SigningKey::generate(rng) },
            policy: SigningKey::generate(rng),
            feed: SigningKey::generate(rng),
            service: SigningKey::generate(rng),
            operator: SigningKey::generate(rng),
            collector: SealingKey::generate(rng),
        }
    }

    /// An operator who uses these keys.
    pub fn operator<'a>(&'a self, name: &'a str) -> Operator<'a> {
        Operator { name, key: &self.operator }
    }
}

impl Issuer {
    /// Whether tokens of this key are believed.
    ///
    /// # Errors
    /// [`FleetError::OtherKeys`] when the trust bundle names it no more.
    pub(super) fn check(&self, trust: &TrustBundle) -> Result<(), FleetError> {
        let public = PublicKey::from(self.key.verifying_key());
        let named = |known: &bundle::Issuer| known.root_key_id == self.root_key_id && known.key == public;
        check("issuer", trust, trust.issuers.iter().any(named))
    }
}

/// Whether a key of a role is named.
pub(super) fn check(role: &'static str, trust: &TrustBundle, named: bool) -> Result<(), FleetError> {
    match named {
        true => Ok(()),
        false => Err(FleetError::OtherKeys { role, bundle: trust.version }),
    }
}

/// Who acts, and the key that signs the record of it.
#[derive(Clone, Copy)]
pub struct Operator<'a> {
    /// His name, as the record will tell it.
    pub name: &'a str,
    /// The key.
    pub key: &'a SigningKey,
}
