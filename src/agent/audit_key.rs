//! The key that signs the audit, and the one after it.
//!
//! Owns: [`AuditSigner`] with its file, when a key has served its time, the certificates of those before it.
//! Never: keeps a private key that was replaced (flash may: what is overwritten there can lie about for long).
//! Read next: `wire/audit/signer.rs` for what the collector demands, `audit.rs`, which signs.

use ed25519_dalek::SigningKey;
use rand_core::{CryptoRng, RngCore};
use serde::{Deserialize, Serialize};

use super::effects::KeyUse;
use super::intact;
use crate::ids::{DeviceId, FleetId, KeyId};
use crate::time::{Millis, Timestamp};
use crate::wire::audit::signer::AuditKey;
use crate::wire::bundle::PublicKey;
use crate::wire::envelope::Signed;

/// How long a key serves, in powered-on time,
const LIFE: Millis = Millis::from_secs(86_400);
/// and how many segments.
const SEGMENTS_MAX: u64 = 10_000;
/// The certificates of so many keys before it are kept: what they signed may still be on its way.
const EARLIER_MAX: usize = 128;
/// The most bytes of the file.
const FILE_BYTES_MAX: usize = 64 * 1024;

/// The domain of the digest that the file begins with: any 32 bytes are a key, and a flipped bit would make another.
const DIGEST: &str = "hardtack/audit.key/v1";

/// The file `audit.key`, after its digest.
#[derive(Serialize, Deserialize)]
struct Stored {
    epoch: u64,
    seed: [u8; 32],
    since: Timestamp,
    earlier: Vec<Signed<AuditKey>>,
}

/// The audit key in use.
pub struct AuditSigner {
    key: SigningKey,
    epoch: u64,
    certificate: Signed<AuditKey>,
    /// Certificates of earlier keys, oldest first.
    earlier: Vec<Signed<AuditKey>>,
    /// The powered-on clock P when it was made.
    since: Timestamp,
    /// Segments signed with it, in whatever process.
    segments: u64,
}

/// Whose audit it is.
#[derive(Clone, Copy)]
pub struct Owner<'a> {
    /// The fleet.
    pub fleet: &'a FleetId,
    /// The device.
    pub device: &'a DeviceId,
    /// Its identity key, which vouches for the audit key.
    pub identity: &'a SigningKey,
}

impl Owner<'_> {
    fn vouch(&self, epoch: u64, key: &SigningKey) -> Signed<AuditKey> {
        let vouched = AuditKey { device: self.device.clone(), epoch, key: key.verifying_key().into() };
        Signed::sign(&vouched, self.fleet, &[self.identity])
    }
}

impl AuditSigner {
    /// The key of a file; none if that is none, or older than what the anchor knows. `since` says how many segments were
    /// signed after the anchor was written; what the anchor counts is of the key that it knows.
    pub fn from_file(bytes: &[u8], owner: Owner<'_>, anchored: KeyUse, since: u64) -> Option<Self> {
        let Stored { epoch, seed, since: made, earlier } = intact::from_file(DIGEST, bytes, FILE_BYTES_MAX).ok()?;
        if epoch < anchored.epoch.max(1) {
            return None;
        }
        let key = SigningKey::from_bytes(&seed);
        let before = if epoch == anchored.epoch { anchored.segments } else { 0 };
        let segments = before.saturating_add(since);
        Some(Self { certificate: owner.vouch(epoch, &key), key, epoch, earlier, since: made, segments })
    }

    /// A new key of a later epoch than `after`. Where what is known of the keys before was lost, the clock P numbers it.
    pub fn generate(after: u64, owner: Owner<'_>, since: Timestamp, rng: &mut (impl RngCore + CryptoRng)) -> Self {
        let epoch = after.saturating_add(1).max(since.0 / 1000);
        let key = SigningKey::generate(rng);
        Self { certificate: owner.vouch(epoch, &key), key, epoch, earlier: Vec::new(), since, segments: 0 }
    }

    /// The key after this one.
    pub fn next(&self, owner: Owner<'_>, since: Timestamp, rng: &mut (impl RngCore + CryptoRng)) -> Self {
        let mut earlier = self.earlier.clone();
        earlier.push(self.certificate.clone());
        earlier.drain(..earlier.len().saturating_sub(EARLIER_MAX));
        Self { earlier, ..Self::generate(self.epoch, owner, since, rng) }
    }

    /// The content of its file. Replacing that unlinks the key before.
    pub fn to_file(&self) -> Vec<u8> {
        let (epoch, seed, since) = (self.epoch, self.key.to_bytes(), self.since);
        intact::to_file(DIGEST, &Stored { epoch, seed, since, earlier: self.earlier.clone() })
    }

    /// Whether it has served its time at `powered`, by the clock P.
    pub fn is_due(&self, powered: Timestamp) -> bool {
        let age = powered.since(self.since).max(self.since.since(powered));
        age >= LIFE || self.segments >= SEGMENTS_MAX
    }

    /// The key, for one more segment.
    pub fn sign_with(&mut self) -> &SigningKey {
        self.segments += 1;
        &self.key
    }

    /// How many segments it has signed.
    pub fn segments(&self) -> u64 {
        self.segments
    }

    /// Its epoch.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Its public half.
    pub fn public(&self) -> PublicKey {
        self.key.verifying_key().into()
    }

    /// Its certificate.
    pub fn certificate(&self) -> &Signed<AuditKey> {
        &self.certificate
    }

    /// The certificate of this key or of an earlier one.
    pub fn certificate_of(&self, wanted: KeyId) -> Option<&Signed<AuditKey>> {
        if KeyId::of(self.key.verifying_key().as_bytes()) == wanted {
            return Some(&self.certificate);
        }
        let is_wanted = |certificate: &&Signed<AuditKey>| {
            certificate.claim().is_ok_and(|vouched| KeyId::of(vouched.key.as_bytes()) == wanted)
        };
        self.earlier.iter().rev().find(is_wanted)
    }
}

#[cfg(test)]
mod tests {
    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng;

    use super::*;

    fn known(epoch: u64) -> KeyUse {
        KeyUse { epoch, ..KeyUse::default() }
    }

    #[test]
    fn a_key_comes_back_from_its_file_and_the_one_before_it_does_not() {
        let (fleet, device, identity) =
            ("acme".parse().unwrap(), "gw-07".parse().unwrap(), SigningKey::from_bytes(&[1; 32]));
        let owner = Owner { fleet: &fleet, device: &device, identity: &identity };
        let mut rng = ChaCha20Rng::from_seed([2; 32]);
        let first = AuditSigner::generate(0, owner, Timestamp(5), &mut rng);
        let second = first.next(owner, Timestamp(9), &mut rng);
        let file = second.to_file();
        let again = AuditSigner::from_file(&file, owner, known(2), 0).unwrap();
        assert_eq!((again.epoch, again.public(), &again.certificate), (2, second.public(), second.certificate()));
        let old = KeyId::of(first.public().as_bytes());
        assert_eq!(again.certificate_of(old), Some(first.certificate()), "what it signed can still be told");
        assert!(!file.windows(32).any(|window| window == first.key.as_bytes()), "nothing can be signed with it");
        assert!(AuditSigner::from_file(&file, owner, known(3), 0).is_none(), "older than what the anchor knows");
        for at in 0..file.len() {
            assert!(AuditSigner::from_file(&file[..at], owner, known(1), 0).is_none());
            let mut flipped = file.clone();
            flipped[at] ^= 1;
            assert!(AuditSigner::from_file(&flipped, owner, known(1), 0).is_none());
        }
    }

    #[test]
    fn a_key_serves_a_day_or_ten_thousand_segments() {
        let (fleet, device, identity) =
            ("acme".parse().unwrap(), "gw-07".parse().unwrap(), SigningKey::from_bytes(&[1; 32]));
        let owner = Owner { fleet: &fleet, device: &device, identity: &identity };
        let made = Timestamp::from_secs(1_000_000);
        let mut signer = AuditSigner::generate(0, owner, made, &mut ChaCha20Rng::from_seed([2; 32]));
        assert!(!signer.is_due(made + Millis(LIFE.0 - 1)) && signer.is_due(made + LIFE));
        assert!(signer.is_due(Timestamp(5)), "a clock that was reset does not keep it for ever");
        for _ in 0..SEGMENTS_MAX - 10 {
            signer.sign_with();
        }
        let anchored = KeyUse { epoch: signer.epoch(), segments: signer.segments(), closed: 0 };
        let restarted = |anchored, since| AuditSigner::from_file(&signer.to_file(), owner, anchored, since).unwrap();
        assert!(!restarted(anchored, 9).is_due(made) && restarted(anchored, 10).is_due(made), "a restart counts on");
        let another = KeyUse { epoch: anchored.epoch - 1, ..anchored };
        assert!(!restarted(another, 10).is_due(made), "what the key before signed is not counted to this one");
        for _ in 0..10 {
            signer.sign_with();
        }
        assert!(signer.is_due(made));
    }
}
