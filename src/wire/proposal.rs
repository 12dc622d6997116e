//! What the root keys are asked to sign: the next trust bundle, or a reset of one device's clock.
//!
//! Owns: [`Proposal`], which goes from hand to hand until enough root keys have signed; the proof that it carries of which
//! root keys those are; how many are missing.
//! Never: holds words. What a person is shown before he signs is computed from the bytes that he signs.
//! Read next: `bundle.rs`; `../fleet/proposal.rs`, which makes one and does what it says.
//!
//! Whoever signs may have nothing but this file, his key and the fleet's fingerprint. So it carries trust bundle 1, every later
//! one that changed the root keys, and the one in force. Each is signed by the root keys of the one before it in the file, so
//! that the fingerprint vouches for all of them.

use std::collections::BTreeSet;
use std::fmt;

use ed25519_dalek::{SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};

use super::bundle::{Fingerprint, PublicKey, TrustBundle};
use super::envelope::Signed;
use super::time::TimeReset;
use super::{decode, encode, Refused};
use crate::ids::{FleetId, KeyId};

/// The most bytes of a [`Proposal`].
pub const PROPOSAL_BYTES_MAX: usize = 1024 * 1024;
/// The most trust bundles that vouch for a proposal: so many changes of the root keys, the first and the last.
pub const VOUCHERS_MAX: usize = 128;

/// What is to be signed, with the signatures so far.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Proposed {
    /// The next trust bundle.
    Bundle {
        /// The bundle.
        next: Signed<TrustBundle>,
        /// For the record of it, where the bundle itself does not tell: the key that goes may be somebody else's as well.
        /// Nobody signs this, and nothing depends on it.
        compromised: bool,
    },
    /// A device's clock is set.
    Reset(Signed<TimeReset>),
}

/// A file that asks for signatures of root keys.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Proposal {
    /// Trust bundles in ascending order, from version 1 to the one in force.
    pub vouchers: Vec<Signed<TrustBundle>>,
    /// What is asked for.
    pub proposed: Proposed,
}

/// What a proposal is about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Subject {
    /// The next trust bundle.
    Bundle(Box<TrustBundle>),
    /// A device's clock.
    Reset(TimeReset),
}

/// A proposal that holds together.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Opened {
    /// The fleet that its bundle 1 makes it.
    pub fingerprint: Fingerprint,
    /// The trust bundle in force when it was made.
    pub before: TrustBundle,
    /// What it is about.
    pub subject: Subject,
    /// Who has signed it.
    pub signers: BTreeSet<KeyId>,
}

/// One set of root keys of which a threshold must sign.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Quorum {
    /// The trust bundle that names them.
    pub bundle: u64,
    /// How many must sign.
    pub threshold: usize,
    /// Those that have.
    pub signed: Vec<KeyId>,
    /// Those that have not, by their number in the bundle, counted from 1.
    pub open: Vec<(usize, KeyId)>,
}

impl Quorum {
    fn of(bundle: &TrustBundle, signers: &BTreeSet<KeyId>) -> Self {
        let ids = || bundle.roots.iter().map(|key| KeyId::of(key.as_bytes()));
        Self {
            bundle: bundle.version,
            threshold: usize::from(bundle.threshold),
            signed: ids().filter(|id| signers.contains(id)).collect(),
            open: (1..).zip(ids()).filter(|(_, id)| !signers.contains(id)).collect(),
        }
    }

    /// How many more must sign.
    pub fn missing(&self) -> usize {
        self.threshold.saturating_sub(self.signed.len())
    }
}

impl fmt::Display for Quorum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bundle, threshold, signed, open } = self;
        let of = signed.len() + open.len();
        write!(f, "{threshold} of the {of} root keys of trust bundle {bundle} must sign, {} have", signed.len())?;
        if self.missing() > 0 {
            let names: Vec<String> = open.iter().map(|(number, id)| format!("{number} ({id})")).collect();
            write!(f, "; {} more of: {}", self.missing(), names.join(", "))?;
        }
        Ok(())
    }
}

impl Opened {
    /// The sets of root keys that have to sign: those in force and, where they change, the new ones.
    pub fn quorums(&self) -> Vec<Quorum> {
        let before = Quorum::of(&self.before, &self.signers);
        match &self.subject {
            Subject::Bundle(next) if next.roots != self.before.roots || next.threshold != self.before.threshold => {
                vec![before, Quorum::of(next, &self.signers)]
            }
            Subject::Bundle(_) | Subject::Reset(_) => vec![before],
        }
    }

    /// Whether enough have signed.
    pub fn is_complete(&self) -> bool {
        self.quorums().iter().all(|quorum| quorum.missing() == 0)
    }

    /// The number of a root key, counted from 1, and the trust bundle that names it: in force, or the next one.
    pub fn root_number(&self, key: &PublicKey) -> Option<(u64, usize)> {
        let next = match &self.subject {
            Subject::Bundle(next) => Some(next.as_ref()),
            Subject::Reset(_) => None,
        };
        let place = |bundle: &TrustBundle| {
            let at = bundle.roots.iter().position(|known| known == key)?;
            Some((bundle.version, at + 1))
        };
        place(&self.before).or_else(|| next.and_then(place))
    }
}

impl Proposal {
    /// The file's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        encode(self)
    }

    /// Parses a file without trusting it.
    ///
    /// # Errors
    /// [`Refused::TooLarge`] or [`Refused::Malformed`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Refused> {
        let proposal: Self = decode(bytes, PROPOSAL_BYTES_MAX)?;
        if proposal.vouchers.len() > VOUCHERS_MAX {
            return Err(Refused::Malformed("more trust bundles than vouch for a proposal"));
        }
        Ok(proposal)
    }

    /// What it asks for, if its own trust bundles vouch for each other, what is proposed can follow the last of them, and
    /// every signature on it is one of a root key's. Whose fleet it is, the fingerprint tells, and the caller must know it.
    ///
    /// # Errors
    /// What does not fit.
    pub fn open(&self) -> Result<Opened, Refused> {
        let (first, later) = self.vouchers.split_first().ok_or(Refused::Malformed("no trust bundle vouches for it"))?;
        let mut before = TrustBundle::genesis(first)?;
        let fingerprint = before.fingerprint();
        for signed in later {
            // As whoever sends a bundle must: what is larger reaches no device.
            let signed = Signed::<TrustBundle>::from_bytes(&signed.to_bytes())?;
            let next = before.vouch(&signed)?;
            if next.version <= before.version {
                return Err(Refused::OutOfOrder { offered: next.version, expected: before.version + 1 });
            }
            before = next;
        }
        let (subject, signers) = match &self.proposed {
            Proposed::Bundle { next: signed, compromised: _ } => {
                let signed = Signed::<TrustBundle>::from_bytes(&signed.to_bytes())?;
                let next = signed.claim()?;
                before.precedes(&next)?;
                let keys: Vec<&VerifyingKey> = before.root_keys().chain(next.root_keys()).collect();
                let signers = signed.signers(&before.fleet, keys)?;
                (Subject::Bundle(Box::new(next)), signers)
            }
            Proposed::Reset(signed) => {
                let signed = Signed::<TimeReset>::from_bytes(&signed.to_bytes())?;
                let signers = signed.signers(&before.fleet, before.root_keys())?;
                (Subject::Reset(signed.claim()?), signers)
            }
        };
        Ok(Opened { fingerprint, before, subject, signers })
    }

    /// Adds the signature of a root key.
    pub fn countersign(&mut self, fleet: &FleetId, key: &SigningKey) {
        match &mut self.proposed {
            Proposed::Bundle { next, .. } => next.countersign(fleet, key),
            Proposed::Reset(reset) => reset.countersign(fleet, key),
        }
    }

    /// Takes over the signatures of a copy that somebody else signed.
    ///
    /// # Errors
    /// [`Refused::DigestMismatch`] when it asks for something else.
    pub fn join(&mut self, other: &Self) -> Result<(), Refused> {
        match (&mut self.proposed, &other.proposed) {
            (Proposed::Bundle { next, .. }, Proposed::Bundle { next: other, .. }) => next.join(other),
            (Proposed::Reset(reset), Proposed::Reset(other)) => reset.join(other),
            (Proposed::Bundle { .. }, Proposed::Reset(_)) | (Proposed::Reset(_), Proposed::Bundle { .. }) => {
                Err(Refused::DigestMismatch)
            }
        }
    }
}

/// The trust bundles that vouch for a fleet's newest: of all that it has had, opened and in order, version 1, those that
/// changed root keys or threshold, and the newest.
pub fn vouchers(signed: &[Signed<TrustBundle>], opened: &[TrustBundle]) -> Vec<Signed<TrustBundle>> {
    let newest = opened.len().saturating_sub(1);
    let mut before: Option<&TrustBundle> = None;
    let mut vouchers = Vec::new();
    for (at, (signed, bundle)) in signed.iter().zip(opened).enumerate() {
        let same = |before: &TrustBundle| before.roots == bundle.roots && before.threshold == bundle.threshold;
        if at == newest || !before.is_some_and(same) {
            vouchers.push(signed.clone());
        }
        before = Some(bundle);
    }
    vouchers
}
