//! The signed envelope that everything of ours is wrapped in.
//!
//! Owns: [`Signed`], the domain prefix under its signatures, strict Ed25519 checking against a threshold of distinct
//! keys.
//! Never: knows which keys have which role; the caller brings them.
//! Read next: `bundle.rs`, where keys and roles are.

use std::collections::BTreeSet;
use std::marker::PhantomData;

use ed25519_dalek::{Signer, SigningKey, VerifyingKey};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{decode, encode, verified, Refused};
use crate::ids::{ByteArray, FleetId, Hash, KeyId};

/// The most signatures that an envelope carries.
pub const SIGNATURES_MAX: usize = 16;

/// Something that is signed: it names its kind, which stands in the domain prefix.
pub trait Document: Serialize + DeserializeOwned {
    /// Kind in the domain prefix `hardtack/<kind>/v1`.
    const KIND: &'static str;
    /// The most bytes of an envelope that holds it.
    const BYTES_MAX: usize = super::MESSAGE_BYTES_MAX;
}

/// A document's exact bytes with its signatures. The type says what the bytes claim to be; only [`Signed::open`] gives
/// the document out.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(bound = "")]
pub struct Signed<T> {
    payload: Vec<u8>,
    signatures: Vec<(KeyId, SignatureBytes)>,
    #[serde(skip)]
    document: PhantomData<T>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct SignatureBytes(#[serde(with = "signature_bytes")] [u8; 64]);

mod signature_bytes {
    use super::{ByteArray, Deserialize, Serialize};
    pub(super) fn serialize<S: serde::Serializer>(bytes: &[u8; 64], serializer: S) -> Result<S::Ok, S::Error> {
        ByteArray(*bytes).serialize(serializer)
    }
    pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<[u8; 64], D::Error> {
        ByteArray::deserialize(deserializer).map(|array| array.0)
    }
}

impl<T: Document> Signed<T> {
    /// Signs `document` for `fleet` with each of `keys`.
    pub fn sign(document: &T, fleet: &FleetId, keys: &[&SigningKey]) -> Self {
        let payload = encode(document);
        let message = message::<T>(fleet, &payload);
        let sign = |key: &&SigningKey| {
            (KeyId::of(key.verifying_key().as_bytes()), SignatureBytes(key.sign(&message).to_bytes()))
        };
        Self { signatures: keys.iter().map(sign).collect(), payload, document: PhantomData }
    }

    /// Parses an envelope without trusting it.
    ///
    /// # Errors
    /// [`Refused::TooLarge`] or [`Refused::Malformed`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Refused> {
        let signed: Self = decode(bytes, T::BYTES_MAX)?;
        if signed.signatures.len() > SIGNATURES_MAX {
            return Err(Refused::Malformed("too many signatures"));
        }
        Ok(signed)
    }

    /// The envelope's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        encode(self)
    }

    /// The document, if at least `threshold` distinct keys of `keys` signed it for `fleet`.
    ///
    /// # Errors
    /// [`Refused::BadSignature`] when a known key's signature does not fit, [`Refused::UnknownKey`] when too few known
    /// keys signed, [`Refused::Malformed`] when the signed bytes are no such document.
    pub fn open<'k>(
        &self,
        fleet: &FleetId,
        keys: impl IntoIterator<Item = &'k VerifyingKey> + Clone,
        threshold: usize,
    ) -> Result<T, Refused> {
        let message = message::<T>(fleet, &self.payload);
        let mut valid = BTreeSet::new();
        for (id, signature) in &self.signatures {
            let known = keys.clone().into_iter().find(|key| KeyId::of(key.as_bytes()) == *id);
            let Some(key) = known else { continue };
            verified::strictly(key, &message, &signature.0)?;
            valid.insert(*id);
        }
        if valid.len() < threshold.max(1) {
            return Err(Refused::UnknownKey { valid: valid.len(), needed: threshold.max(1) });
        }
        decode(&self.payload, T::BYTES_MAX)
    }

    /// The keys whose signatures it carries, unchecked.
    pub fn signed_by(&self) -> impl Iterator<Item = KeyId> + '_ {
        self.signatures.iter().map(|(id, _)| *id)
    }

    /// Adds a signature over the exact bytes. Whoever has signed already changes nothing.
    pub fn countersign(&mut self, fleet: &FleetId, key: &SigningKey) {
        let id = KeyId::of(key.verifying_key().as_bytes());
        if self.signatures.iter().all(|(signer, _)| *signer != id) {
            let signature = key.sign(&message::<T>(fleet, &self.payload));
            self.signatures.push((id, SignatureBytes(signature.to_bytes())));
        }
    }

    /// Takes over the signatures of another envelope around the same bytes.
    ///
    /// # Errors
    /// [`Refused::DigestMismatch`] when those are other bytes, [`Refused::Malformed`] past [`SIGNATURES_MAX`].
    pub fn join(&mut self, other: &Self) -> Result<(), Refused> {
        if self.payload != other.payload {
            return Err(Refused::DigestMismatch);
        }
        let new = other.signatures.iter().filter(|(id, _)| self.signatures.iter().all(|(known, _)| known != id));
        let new: Vec<_> = new.copied().collect();
        if self.signatures.len() + new.len() > SIGNATURES_MAX {
            return Err(Refused::Malformed("too many signatures"));
        }
        self.signatures.extend(new);
        Ok(())
    }

    /// The ids of the keys that signed, if every one of them is in `keys` and signed once, and every signature fits.
    ///
    /// # Errors
    /// [`Refused::UnknownKey`] for a stranger's, [`Refused::BadSignature`], [`Refused::Malformed`] for one key twice.
    pub fn signers<'k>(
        &self,
        fleet: &FleetId,
        keys: impl IntoIterator<Item = &'k VerifyingKey> + Clone,
    ) -> Result<BTreeSet<KeyId>, Refused> {
        let mut signers = BTreeSet::new();
        for (id, _) in &self.signatures {
            if !keys.clone().into_iter().any(|key| KeyId::of(key.as_bytes()) == *id) {
                return Err(Refused::UnknownKey { valid: signers.len(), needed: self.signatures.len() });
            }
            if !signers.insert(*id) {
                return Err(Refused::Malformed("one key signed it twice"));
            }
        }
        if !signers.is_empty() {
            self.open(fleet, keys, signers.len())?;
        }
        Ok(signers)
    }

    /// What the envelope claims, unverified: only for finding the key that must have signed it.
    ///
    /// # Errors
    /// [`Refused::Malformed`] when the bytes are no such document.
    pub fn claim(&self) -> Result<T, Refused> {
        decode(&self.payload, T::BYTES_MAX)
    }

    /// SHA-256 of the signed bytes, signatures left out: names the content whoever signed it.
    pub fn digest(&self) -> Hash {
        Hash::of(T::KIND, &[&self.payload])
    }
}

/// `hardtack/<kind>/v1 \0 <fleet> \0 <payload>`. A fleet name holds no zero byte, so the parts cannot run together.
fn message<T: Document>(fleet: &FleetId, payload: &[u8]) -> Vec<u8> {
    let mut message = format!("hardtack/{}/v1\0{fleet}\0", T::KIND).into_bytes();
    message.extend_from_slice(payload);
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
    struct Note(u32);
    impl Document for Note {
        const KIND: &'static str = "note";
        const BYTES_MAX: usize = 512;
    }
    #[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
    struct Other(u32);
    impl Document for Other {
        const KIND: &'static str = "other";
    }

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_bytes(&[seed; 32])
    }

    #[test]
    fn opens_only_for_its_fleet_kind_keys_and_threshold() {
        let fleet: FleetId = "acme".parse().unwrap();
        let (a, b, c) = (key(1), key(2), key(3));
        let (va, vb, vc) = (a.verifying_key(), b.verifying_key(), c.verifying_key());
        let signed = Signed::sign(&Note(7), &fleet, &[&a, &b]);
        let check = |fleet: &str, keys: &[&VerifyingKey], threshold| {
            signed.open(&fleet.parse().unwrap(), keys.iter().copied(), threshold)
        };
        assert_eq!(check("acme", &[&va], 1), Ok(Note(7)));
        assert_eq!(check("acme", &[&va, &vb], 2), Ok(Note(7)));
        assert_eq!(check("acme", &[&va, &vc], 2), Err(Refused::UnknownKey { valid: 1, needed: 2 }));
        assert_eq!(check("acme", &[&vc], 1), Err(Refused::UnknownKey { valid: 0, needed: 1 }));
        assert_eq!(check("acme", &[&va], 0), Ok(Note(7)), "a threshold of none still asks for one");
        assert_eq!(check("ac", &[&va], 1), Err(Refused::BadSignature));
        let other: Signed<Other> = Signed::from_bytes(&signed.to_bytes()).unwrap();
        assert_eq!(other.open(&fleet, [&va], 1), Err(Refused::BadSignature), "another kind");
    }

    #[test]
    fn one_key_twice_counts_once() {
        let fleet: FleetId = "acme".parse().unwrap();
        let a = key(1);
        let signed = Signed::sign(&Note(7), &fleet, &[&a, &a]);
        assert_eq!(signed.open(&fleet, [&a.verifying_key()], 2), Err(Refused::UnknownKey { valid: 1, needed: 2 }));
    }

    #[test]
    fn signatures_are_gathered_one_by_one_and_only_around_the_same_bytes() {
        let fleet: FleetId = "acme".parse().unwrap();
        let (a, b, c) = (key(1), key(2), key(3));
        let keys = [a.verifying_key(), b.verifying_key()];
        let mut first = Signed::sign(&Note(7), &fleet, &[]);
        assert_eq!(first.signers(&fleet, &keys).unwrap().len(), 0);
        let mut second = first.clone();
        first.countersign(&fleet, &a);
        first.countersign(&fleet, &a);
        second.countersign(&fleet, &b);
        first.join(&second).unwrap();
        first.join(&second).unwrap();
        assert_eq!(first.signers(&fleet, &keys).unwrap().len(), 2);
        assert_eq!(first.open(&fleet, &keys, 2), Ok(Note(7)));
        assert_eq!(first.join(&Signed::sign(&Note(8), &fleet, &[&b])), Err(Refused::DigestMismatch));
        let mut strange = first.clone();
        strange.countersign(&fleet, &c);
        assert!(matches!(strange.signers(&fleet, &keys), Err(Refused::UnknownKey { .. })));
        let elsewhere: FleetId = "other".parse().unwrap();
        assert_eq!(first.signers(&elsewhere, &keys), Err(Refused::BadSignature));
        let twice = Signed::sign(&Note(7), &fleet, &[&a, &a]);
        assert!(matches!(twice.signers(&fleet, &keys), Err(Refused::Malformed(_))));
        let many: Vec<_> = (10..10 + SIGNATURES_MAX as u8).map(key).collect();
        let mut full = Signed::sign(&Note(7), &fleet, &many.iter().collect::<Vec<_>>());
        assert!(matches!(full.join(&first), Err(Refused::Malformed(_))));
    }

    #[test]
    fn every_flipped_bit_is_refused() {
        let fleet: FleetId = "acme".parse().unwrap();
        let a = key(1);
        let bytes = Signed::sign(&Note(7), &fleet, &[&a]).to_bytes();
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let opened = Signed::<Note>::from_bytes(&damaged).and_then(|s| s.open(&fleet, [&a.verifying_key()], 1));
            assert!(opened.is_err(), "bit {bit}");
        }
        assert!(Signed::<Note>::from_bytes(&[0; 513]).is_err());
        assert!(Signed::<Note>::from_bytes(&bytes[..bytes.len() - 1]).is_err());
    }
}
