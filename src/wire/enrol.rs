//! Enrolment: a device asks, an operator compares a code and approves, one sealed bundle answers.
//!
//! Owns: [`EnrolRequest`] with its code, [`EnrolBundle`].
//! Never: decides who may join. `fleet/enrol.rs` does.
//! Read next: `fleet/enrol.rs`.

use ed25519_dalek::SigningKey;
use rand_core::{CryptoRng, RngCore};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::bundle::{grouped, ungrouped, Fingerprint, PublicKey, TrustBundle};
use super::envelope::{Document, Signed};
use super::policy::PolicyDocument;
use super::revocation::announcement::Head;
use super::seal::{Sealed, SealingKey, SealingPublic};
use super::{decode, encode, Refused};
use crate::ids::{DeviceId, FleetId, Hash, Nonce};
use crate::time::Timestamp;

/// The most bytes of an enrolment bundle: it may hold a whole revocation list and every trust bundle.
pub const BUNDLE_BYTES_MAX: usize = 2 * 1024 * 1024;

/// The fleet that requests are signed for: a device that asks has none yet.
fn no_fleet() -> FleetId {
    "none".parse().expect("the name is valid")
}

/// The private keys of a device but that of its audit, which changes. They are made on it and never leave it.
pub struct DeviceKeys {
    /// Names the device: signs requests, `hello` and the other keys' certificate.
    pub identity: SigningKey,
    /// The key of its TLS client certificate.
    pub tls: SigningKey,
    /// What is meant for the device is sealed to this.
    pub sealing: SealingKey,
}

impl DeviceKeys {
    /// New keys.
    pub fn generate(rng: &mut (impl RngCore + CryptoRng)) -> Self {
        Self { identity: SigningKey::generate(rng), tls: SigningKey::generate(rng), sealing: SealingKey::generate(rng) }
    }

    /// Their public halves.
    pub fn public(&self) -> DevicePublic {
        DevicePublic {
            identity: self.identity.verifying_key().into(),
            tls: self.tls.verifying_key().into(),
            sealing: self.sealing.public(),
        }
    }

    /// The private bytes, for the key file: identity, tls, sealing.
    pub fn to_bytes(&self) -> Zeroizing<[u8; 96]> {
        let mut bytes = Zeroizing::new([0; 96]);
        bytes[..32].copy_from_slice(self.identity.as_bytes());
        bytes[32..64].copy_from_slice(self.tls.as_bytes());
        bytes[64..].copy_from_slice(self.sealing.to_bytes().as_ref());
        bytes
    }

    /// From the bytes of [`DeviceKeys::to_bytes`].
    pub fn from_bytes(bytes: &[u8; 96]) -> Self {
        let part = |i: usize| {
            let mut part = Zeroizing::new([0; 32]);
            part.copy_from_slice(&bytes[i * 32..(i + 1) * 32]);
            part
        };
        Self {
            identity: SigningKey::from_bytes(&part(0)),
            tls: SigningKey::from_bytes(&part(1)),
            sealing: SealingKey::from_bytes(*part(2)),
        }
    }
}

/// The public keys of a device, certified by its identity key's signature over the request that holds them.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DevicePublic {
    /// Names the device.
    pub identity: PublicKey,
    /// In its client certificate.
    pub tls: PublicKey,
    /// Sealed to.
    pub sealing: SealingPublic,
}

/// A device asks to join.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EnrolRequest {
    /// The name that it asks for.
    pub device: DeviceId,
    /// Its keys.
    pub keys: DevicePublic,
    /// The answer must carry it.
    pub nonce: Nonce,
    /// The firmware profile that it runs.
    pub profile: String,
}

impl Document for EnrolRequest {
    const KIND: &'static str = "enrol-request";
    const BYTES_MAX: usize = 4096;
}

impl EnrolRequest {
    /// Signs the request with the identity key that it names.
    pub fn sign(&self, keys: &DeviceKeys) -> Signed<Self> {
        Signed::sign(self, &no_fleet(), &[&keys.identity])
    }

    /// A request from bytes, if the identity key that it names signed it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn open(signed: &Signed<Self>) -> Result<Self, Refused> {
        let claim = signed.claim()?;
        signed.open(&no_fleet(), [claim.keys.identity.verifying()], 1)
    }

    /// The code that the device shows and the operator compares: 80 bits over the whole request.
    pub fn code(signed: &Signed<Self>) -> Code {
        let mut short = [0; 10];
        short.copy_from_slice(&signed.digest().0[..10]);
        Code(short)
    }
}

/// The code of an enrolment request: 80 bits, in base 32 in groups of four.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Code([u8; 10]);

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&grouped(&self.0))
    }
}

impl std::str::FromStr for Code {
    type Err = Refused;
    fn from_str(text: &str) -> Result<Self, Refused> {
        let bytes = ungrouped(text).and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or(Refused::Malformed("an enrolment code is 16 letters and digits in groups of four"))
    }
}

/// All that a device needs to work, alone from the first minute.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EnrolBundle {
    /// The device.
    pub device: DeviceId,
    /// The identity key that was approved.
    pub identity: PublicKey,
    /// The nonce of its request.
    pub nonce: Nonce,
    /// When a service key signed this: it is this time or later.
    pub issued_at: Timestamp,
    /// Every trust bundle from version 1 on.
    pub bundles: Vec<Signed<TrustBundle>>,
    /// The policy in force.
    pub policy: Signed<PolicyDocument>,
    /// The revocation feeds that concern the device: the newest head and its set's bytes.
    pub feeds: Vec<(Signed<Head>, Vec<u8>)>,
    /// Fallback grants, Biscuits with their next secret key.
    pub grants: Vec<Vec<u8>>,
    /// The TLS client certificate (DER) over the device's TLS key.
    pub certificate: Vec<u8>,
}

/// The file: the fleet's name in the clear, the rest signed by a service key and sealed to the device.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EnrolAnswer {
    /// The fleet.
    pub fleet: FleetId,
    /// [`Signed`] [`EnrolBundle`], sealed.
    pub sealed: Sealed,
}

impl Document for EnrolBundle {
    const KIND: &'static str = "enrol-bundle";
    const BYTES_MAX: usize = BUNDLE_BYTES_MAX;
}

const PURPOSE: &str = "hardtack/enrol/v1";

impl EnrolAnswer {
    /// Signs and seals `bundle` for the device of `request`.
    ///
    /// # Errors
    /// [`Refused::Malformed`] when the device's sealing key is unusable.
    pub fn seal(
        bundle: &EnrolBundle,
        fleet: &FleetId,
        service: &SigningKey,
        recipient: &SealingPublic,
        rng: &mut (impl RngCore + CryptoRng),
    ) -> Result<Self, Refused> {
        let signed = Signed::sign(bundle, fleet, &[service]);
        let sealed = Sealed::seal(&signed.to_bytes(), recipient, PURPOSE, fleet.as_str().as_bytes(), rng)?;
        Ok(Self { fleet: fleet.clone(), sealed })
    }

    /// The file's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        encode(self)
    }

    /// Parses a file without trusting it.
    ///
    /// # Errors
    /// [`Refused::TooLarge`] or [`Refused::Malformed`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Refused> {
        decode(bytes, BUNDLE_BYTES_MAX + 1024)
    }

    /// Opens the answer: it must be sealed to this device, lead from the fleet of `fingerprint` to a newest trust bundle
    /// whose service key signed it, and answer `nonce`. The newest bundle is returned beside it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn open(
        &self,
        keys: &DeviceKeys,
        fingerprint: &Fingerprint,
        nonce: Nonce,
    ) -> Result<(EnrolBundle, TrustBundle), Refused> {
        let bytes = self.sealed.open(&keys.sealing, PURPOSE, self.fleet.as_str().as_bytes())?;
        let signed = Signed::<EnrolBundle>::from_bytes(&bytes)?;
        let claim = signed.claim()?;
        let trust = walk(&claim.bundles, fingerprint)?;
        if trust.fleet != self.fleet {
            return Err(Refused::WrongFleet);
        }
        let bundle = signed.open(&self.fleet, trust.service_keys(), 1)?;
        if bundle.identity != keys.identity.verifying_key().into() {
            return Err(Refused::WrongDevice);
        }
        if bundle.nonce != nonce {
            return Err(Refused::UnknownNonce);
        }
        Ok((bundle, trust))
    }
}

/// Walks from version 1, which `fingerprint` vouches for, to the newest bundle.
fn walk(bundles: &[Signed<TrustBundle>], fingerprint: &Fingerprint) -> Result<TrustBundle, Refused> {
    let (first, rest) = bundles.split_first().ok_or(Refused::Malformed("no trust bundle inside"))?;
    let genesis = TrustBundle::genesis(first)?;
    if genesis.fingerprint() != *fingerprint {
        return Err(Refused::WrongFleet);
    }
    rest.iter().try_fold(genesis, |bundle, next| bundle.successor(next))
}

/// The digest that says which content a device holds of something that it keeps in a file.
pub fn file_digest(bytes: &[u8]) -> Hash {
    Hash::of("hardtack/file/v1", &[bytes])
}
