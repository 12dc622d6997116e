//! Sealing to one recipient: HPKE (RFC 9180) in base mode, X25519 with HKDF-SHA256 and ChaCha20-Poly1305.
//!
//! Owns: [`Sealed`], [`SealingKey`].
//! Never: says who sent it. What is sealed is signed besides.
//! Read next: `enrol.rs`, whose answer is sealed.

use hpke::aead::ChaCha20Poly1305;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable, Kem, OpModeR, OpModeS, Serializable};
use rand_core::{CryptoRng, RngCore};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::Refused;

type X25519Private = <X25519HkdfSha256 as Kem>::PrivateKey;
type X25519Public = <X25519HkdfSha256 as Kem>::PublicKey;

/// The public half of a [`SealingKey`], 32 bytes of X25519.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SealingPublic(pub [u8; 32]);

/// Ciphertext that only one key opens.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Sealed {
    encapsulated: [u8; 32],
    ciphertext: Vec<u8>,
}

/// A private X25519 key, wiped when dropped.
pub struct SealingKey {
    bytes: Zeroizing<[u8; 32]>,
}

impl SealingKey {
    /// From 32 random bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self { bytes: Zeroizing::new(bytes) }
    }

    /// A new key.
    pub fn generate(rng: &mut (impl RngCore + CryptoRng)) -> Self {
        let mut bytes = [0; 32];
        rng.fill_bytes(&mut bytes);
        Self::from_bytes(bytes)
    }

    /// The private bytes, for the key file.
    pub fn to_bytes(&self) -> Zeroizing<[u8; 32]> {
        self.bytes.clone()
    }

    /// The public half.
    pub fn public(&self) -> SealingPublic {
        let public = X25519HkdfSha256::sk_to_pk(&self.private());
        SealingPublic(public.to_bytes().into())
    }

    fn private(&self) -> X25519Private {
        X25519Private::from_bytes(self.bytes.as_ref()).expect("any 32 bytes are an X25519 private key")
    }
}

impl Sealed {
    /// Seals `plaintext` to `recipient`. `purpose` and `context` must be the same when it is opened.
    ///
    /// # Errors
    /// [`Refused::Malformed`] when the recipient's key is no usable X25519 key.
    pub fn seal(
        plaintext: &[u8],
        recipient: &SealingPublic,
        purpose: &str,
        context: &[u8],
        rng: &mut (impl RngCore + CryptoRng),
    ) -> Result<Self, Refused> {
        let bad_key = |_| Refused::Malformed("unusable sealing key");
        let public = X25519Public::from_bytes(&recipient.0).map_err(bad_key)?;
        let (encapsulated, ciphertext) = hpke::single_shot_seal::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256, _>(
            &OpModeS::Base,
            &public,
            purpose.as_bytes(),
            plaintext,
            context,
            rng,
        )
        .map_err(bad_key)?;
        Ok(Self { encapsulated: encapsulated.to_bytes().into(), ciphertext })
    }

    /// Opens what was sealed to `key` for the same purpose and context.
    ///
    /// # Errors
    /// [`Refused::CannotOpen`].
    pub fn open(&self, key: &SealingKey, purpose: &str, context: &[u8]) -> Result<Zeroizing<Vec<u8>>, Refused> {
        let cannot = |_| Refused::CannotOpen;
        let encapsulated = <X25519HkdfSha256 as Kem>::EncappedKey::from_bytes(&self.encapsulated).map_err(cannot)?;
        hpke::single_shot_open::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
            &OpModeR::Base,
            &key.private(),
            &encapsulated,
            purpose.as_bytes(),
            &self.ciphertext,
            context,
        )
        .map(Zeroizing::new)
        .map_err(cannot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng;

    #[test]
    fn opens_only_with_its_key_purpose_and_context() {
        let mut rng = ChaCha20Rng::from_seed([3; 32]);
        let (mine, other) = (SealingKey::generate(&mut rng), SealingKey::generate(&mut rng));
        let sealed = Sealed::seal(b"grant", &mine.public(), "grants", b"nonce", &mut rng).unwrap();
        assert_eq!(sealed.open(&mine, "grants", b"nonce").unwrap().as_slice(), b"grant");
        assert_eq!(sealed.open(&other, "grants", b"nonce"), Err(Refused::CannotOpen));
        assert_eq!(sealed.open(&mine, "enrol", b"nonce"), Err(Refused::CannotOpen));
        assert_eq!(sealed.open(&mine, "grants", b"other"), Err(Refused::CannotOpen));
    }
}
