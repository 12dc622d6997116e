//! The fleet's private keys, by role.
//!
//! Owns: [`FleetKeys`], [`Issuer`], [`Operator`].
//! Never: knows where they are kept. `shell/fleet_keys.rs` does.
//! Read next: `enrol.rs`, which puts their public halves into the first trust bundle.

use ed25519_dalek::SigningKey;
use rand_core::{CryptoRng, RngCore};

use super::{roots, FleetError};
use crate::ids::FleetId;
use crate::time::Millis;
use crate::wire::bundle::{self, Fingerprint, PublicKey, TrustBundle};
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
    /// Signs trust bundles: the first root key.
    pub root: SigningKey,
    /// The other root keys, where there are several.
    pub further_roots: Vec<SigningKey>,
    /// How many of the root keys must sign.
    pub threshold: u8,
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
            further_roots: Vec::new(),
            threshold: 1,
            issuer: Issuer { root_key_id: 1, key: SigningKey::generate(rng) },
            policy: SigningKey::generate(rng),
            feed: SigningKey::generate(rng),
            service: SigningKey::generate(rng),
            operator: SigningKey::generate(rng),
            collector: SealingKey::generate(rng),
        }
    }

    /// New keys, with as many root keys, of which a threshold must sign.
    ///
    /// # Errors
    /// [`FleetError::Invalid`] for numbers that make no sense.
    pub fn generate_with(
        (roots, threshold): (usize, u8),
        rng: &mut (impl RngCore + CryptoRng),
    ) -> Result<Self, FleetError> {
        roots::check_shape(roots, threshold)?;
        let keys = Self::generate(rng);
        Ok(Self { further_roots: (1..roots).map(|_| SigningKey::generate(rng)).collect(), threshold, ..keys })
    }

    /// The root keys, in the order of the first trust bundle.
    pub fn roots(&self) -> Vec<&SigningKey> {
        std::iter::once(&self.root).chain(&self.further_roots).collect()
    }

    /// What devices compare, once these keys found this fleet.
    pub fn fingerprint(&self, fleet: &FleetId) -> Fingerprint {
        let roots: Vec<PublicKey> = self.roots().iter().map(|root| root.verifying_key().into()).collect();
        Fingerprint::of(fleet, self.threshold, &roots)
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
