//! A key takes the place of another.
//!
//! Owns: the trust bundle that says so.
//! Never: touches a key file, which `cli/fleet/key.rs` does; lets go of more keys than it was told to; brings a bundle into
//! force, which `proposal.rs` does.
//! Read next: `roots.rs` for the root keys; `proposal.rs`; `publish.rs` for what a new era of the feed is.
//!
//! A key that is replaced by plan stays in the bundle until the next replacement: what it signed is good, and whoever still
//! signs with it is believed. One that may have been stolen goes at once. When a key of the feed goes, the feed's era rises:
//! whatever number a thief has signed, the fleet begins at 1 and is believed.

use ed25519_dalek::SigningKey;
use serde::{Deserialize, Serialize};

use super::book::Book;
use super::proposal::{self, Hands};
use super::publish::Cadence;
use super::{Effects, FleetError, Operator};
use crate::ids::{GrantId, KeyId};
use crate::time::Timestamp;
use crate::wire::bundle::{Issuer, PublicKey, TrustBundle};
use crate::wire::seal::{SealingKey, SealingPublic};

/// The roles whose keys can be replaced one for one. Stored by their place: add new ones at the end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyRole {
    /// Signs revocation heads.
    Feed,
    /// Mints tokens.
    Issuer,
    /// Signs policies.
    Policy,
    /// Signs acknowledgements and answers.
    Service,
    /// Signs the records of operators' acts.
    Operator,
    /// Opens sealed audit. There is one: what is sealed from now on is sealed to the new key.
    Collector,
}

impl KeyRole {
    /// Every one of them.
    pub const ALL: [Self; 6] = [Self::Feed, Self::Issuer, Self::Policy, Self::Service, Self::Operator, Self::Collector];

    /// As the command line and key files name it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Feed => "feed",
            Self::Issuer => "issuer",
            Self::Policy => "policy",
            Self::Service => "service",
            Self::Operator => "operator",
            Self::Collector => "collector",
        }
    }

    /// The public keys that a trust bundle names for it, that in use first.
    pub fn keys(self, trust: &TrustBundle) -> Vec<[u8; 32]> {
        let bytes = |keys: &[PublicKey]| keys.iter().map(|key| *key.as_bytes()).collect();
        match self {
            Self::Feed => trust.feeds.first().map_or_else(Vec::new, |feed| bytes(&feed.keys)),
            Self::Issuer => trust.issuers.iter().map(|issuer| *issuer.key.as_bytes()).collect(),
            Self::Policy => bytes(&trust.policy),
            Self::Service => bytes(&trust.service),
            Self::Operator => bytes(&trust.operators),
            Self::Collector => vec![trust.collector.0],
        }
    }
}

/// Why a key is replaced.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Somebody else may have it.
    Compromised,
    /// It is time.
    Planned,
}

/// A key that is to take another's place.
pub enum NewKey {
    /// It signs.
    Signing(SigningKey),
    /// It opens what is sealed.
    Sealing(SealingKey),
}

impl NewKey {
    /// The key of a role from its 32 private bytes.
    pub fn of(role: KeyRole, private: &[u8; 32]) -> Self {
        match role {
            KeyRole::Collector => Self::Sealing(SealingKey::from_bytes(*private)),
            KeyRole::Feed | KeyRole::Issuer | KeyRole::Policy | KeyRole::Service | KeyRole::Operator => {
                Self::Signing(SigningKey::from_bytes(private))
            }
        }
    }

    /// Its public half.
    pub fn public(&self) -> [u8; 32] {
        match self {
            Self::Signing(key) => key.verifying_key().to_bytes(),
            Self::Sealing(key) => key.public().0,
        }
    }
}

/// What takes the place of what.
#[derive(Clone, Copy)]
pub struct Rotation<'a> {
    /// The role.
    pub role: KeyRole,
    /// The new key.
    pub key: &'a NewKey,
    /// Why.
    pub cause: Cause,
    /// Sign the trust bundle: as many as its threshold asks for.
    pub roots: &'a [&'a SigningKey],
}

/// What a rotation did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rotated {
    /// The version of the trust bundle that names the new key.
    pub bundle: u64,
    /// Keys that it names no more.
    pub dropped: Vec<KeyId>,
    /// Grants that ended with them.
    pub withdrawn: Vec<GrantId>,
}

/// The number of the next root key of tokens.
pub fn next_root_key_id(book: &Book) -> u32 {
    let known = book.trusts().iter().flat_map(|trust| &trust.issuers).map(|issuer| issuer.root_key_id).max();
    known.unwrap_or(0).saturating_add(1)
}

/// Whether the newest trust bundle has a key as that which a role works with.
pub fn is_in_use(trust: &TrustBundle, role: KeyRole, key: &[u8; 32]) -> bool {
    role.keys(trust).first() == Some(key)
}

/// Puts a new key in the place of the one that a role works with, by the next trust bundle, with all the root keys that it
/// takes at hand.
///
/// # Errors
/// [`FleetError::Refused`] when devices would not take that bundle; [`FleetError::Unsigned`] when the root keys are too few;
/// [`FleetError::Invalid`] for a key that is in use.
pub fn rotate(
    book: &mut Book,
    rotation: Rotation<'_>,
    cadence: Cadence,
    operator: Operator<'_>,
    at: Timestamp,
    fx: &mut Effects,
) -> Result<Rotated, FleetError> {
    let Rotation { role, key, cause, roots } = rotation;
    let next = draft(book, role, &key.public(), cause, at)?;
    let proposed = proposal::propose(book, &next, cause, roots)?;
    let mut hands = Hands::default();
    match (role, key) {
        (KeyRole::Feed, NewKey::Signing(key)) => hands.feed = Some(key),
        (KeyRole::Policy, NewKey::Signing(key)) => hands.policy = Some(key),
        (_, NewKey::Signing(_) | NewKey::Sealing(_)) => {}
    }
    proposal::submit_bundle(book, &proposed, hands, cadence, operator, at, fx)
}

/// The trust bundle that puts a new key in the place of the one that a role works with.
///
/// # Errors
/// As [`rotate`].
pub fn draft(
    book: &Book,
    role: KeyRole,
    key: &[u8; 32],
    cause: Cause,
    at: Timestamp,
) -> Result<TrustBundle, FleetError> {
    let signing = || PublicKey::try_from(*key).map_err(FleetError::refused("the new key"));
    proposal::draft(book, at, |next| {
        match role {
            KeyRole::Feed => {
                // One key signs the heads of all feeds.
                for feed in &mut next.feeds {
                    let dropped = replace(&mut feed.keys, signing()?, cause, |key| *key)?;
                    // What a key that goes has signed leads nowhere any more, neither steps nor snapshot.
                    feed.era = feed.era.saturating_add(u32::from(!dropped.is_empty()));
                }
            }
            KeyRole::Issuer => {
                let issuer = Issuer { root_key_id: next_root_key_id(book), key: signing()? };
                replace(&mut next.issuers, issuer, cause, |issuer| issuer.key)?;
            }
            KeyRole::Policy => {
                if cause == Cause::Compromised {
                    next.policy_version_min = next.policy_version_min.max(highest_policy(book) + 1);
                }
                replace(&mut next.policy, signing()?, cause, |key| *key)?;
            }
            KeyRole::Service => drop(replace(&mut next.service, signing()?, cause, |key| *key)?),
            KeyRole::Operator => drop(replace(&mut next.operators, signing()?, cause, |key| *key)?),
            KeyRole::Collector if next.collector.0 == *key => return Err(in_use_already()),
            KeyRole::Collector => next.collector = SealingPublic(*key),
        }
        Ok(())
    })
}

/// The highest version of a policy that devices may have: of the fleet's own, or of what a thief has signed, as far as devices
/// have said so. What leaves no room for policies to come is a lie.
pub(super) fn highest_policy(book: &Book) -> u64 {
    let own = book.policy().1.version;
    let seen = book.devices().filter_map(|device| book.seen(&device.id)).map(|seen| seen.policy_version);
    seen.filter(|version| *version < u64::MAX / 2).fold(own, u64::max)
}

fn in_use_already() -> FleetError {
    FleetError::Invalid("the new key is in the trust bundle already: make another one".into())
}

/// Puts the new key first. Of the others only that which was in use stays, and only if nobody else has it. Gives those that
/// go.
fn replace<K: Clone>(
    keys: &mut Vec<K>,
    new: K,
    cause: Cause,
    public: impl Fn(&K) -> PublicKey,
) -> Result<Vec<KeyId>, FleetError> {
    if keys.iter().any(|key| public(key) == public(&new)) {
        return Err(in_use_already());
    }
    let before = std::mem::take(keys);
    let kept = match cause {
        Cause::Compromised => 0,
        Cause::Planned => 1,
    };
    keys.push(new);
    keys.extend(before.iter().take(kept).cloned());
    Ok(before.iter().skip(kept).map(|key| KeyId::of(public(key).as_bytes())).collect())
}

#[cfg(test)]
mod tests;
