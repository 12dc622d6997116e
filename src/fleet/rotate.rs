//! A key takes the place of another.
//!
//! Owns: the trust bundle that says so, what the new key has to sign anew, the record of it.
//! Never: touches a key file, which `cli/fleet/key.rs` does; lets go of more keys than it was told to.
//! Read next: `wire/bundle.rs`; `publish.rs` for what a new era of the feed is.
//!
//! A key that is replaced by plan stays in the bundle until the next replacement: what it signed is good, and whoever still
//! signs with it is believed. One that may have been stolen goes at once. When a key of the feed goes, the feed's era rises:
//! whatever number a thief has signed, the fleet begins at 1 and is believed.

use ed25519_dalek::SigningKey;
use serde::{Deserialize, Serialize};

use super::acts::{self, Deed};
use super::book::{Book, Grant, Write};
use super::enrol::BUNDLE_LIFE;
use super::publish::{self, Cadence};
use super::{Effects, FleetError, Operator};
use crate::ids::{GrantId, KeyId};
use crate::time::Timestamp;
use crate::wire::bundle::{Issuer, PublicKey, TrustBundle};
use crate::wire::envelope::Signed;
use crate::wire::policy::PolicyDocument;
use crate::wire::{Refused, MESSAGE_BYTES_MAX};

/// The roles whose keys can be replaced.
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

/// What takes the place of what.
#[derive(Clone, Copy)]
pub struct Rotation<'a> {
    /// The role.
    pub role: KeyRole,
    /// The new key.
    pub key: &'a SigningKey,
    /// Why.
    pub cause: Cause,
    /// Signs the trust bundle.
    pub root: &'a SigningKey,
}

/// What a rotation did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rotated {
    /// The version of the trust bundle that names the new key.
    pub bundle: u64,
    /// Keys of the role that it names no more.
    pub dropped: Vec<KeyId>,
    /// Grants that ended with them.
    pub withdrawn: Vec<GrantId>,
}

/// The number of the next root key.
pub fn next_root_key_id(book: &Book) -> u32 {
    let known = book.trusts().iter().flat_map(|trust| &trust.issuers).map(|issuer| issuer.root_key_id).max();
    known.unwrap_or(0).saturating_add(1)
}

/// Whether the newest trust bundle has a key as that which a role works with.
pub fn is_in_use(trust: &TrustBundle, role: KeyRole, key: &PublicKey) -> bool {
    let first = match role {
        KeyRole::Feed => trust.feeds.first().and_then(|feed| feed.keys.first()),
        KeyRole::Issuer => trust.issuers.first().map(|issuer| &issuer.key),
        KeyRole::Policy => trust.policy.first(),
        KeyRole::Service => trust.service.first(),
    };
    first == Some(key)
}

/// Puts a new key in the place of the one that a role works with, by the next trust bundle.
///
/// # Errors
/// [`FleetError::Refused`] when devices would not take that bundle; [`FleetError::Invalid`] for a key that is in use.
pub fn rotate(
    book: &mut Book,
    rotation: Rotation<'_>,
    cadence: Cadence,
    operator: Operator<'_>,
    at: Timestamp,
    fx: &mut Effects,
) -> Result<Rotated, FleetError> {
    let Rotation { role, key, cause, root } = rotation;
    let public = PublicKey::from(key.verifying_key());
    let before = book.trust();
    let mut next = before.clone();
    next.version += 1;
    next.issued_at = before.issued_at.max(at);
    next.not_after = next.issued_at + BUNDLE_LIFE;
    let policy_version = highest_policy(book, cause) + 1;
    let mut dropped_roots = Vec::new();
    let dropped = match role {
        KeyRole::Feed => {
            let feed = next.feeds.first_mut().ok_or_else(|| FleetError::Invalid("the fleet has no feed".into()))?;
            let dropped = replace(&mut feed.keys, public, cause, |key| *key)?;
            // What a key that goes has signed leads nowhere any more, neither steps nor snapshot.
            feed.era = feed.era.saturating_add(u32::from(!dropped.is_empty()));
            dropped
        }
        KeyRole::Issuer => {
            let known: Vec<u32> = next.issuers.iter().map(|issuer| issuer.root_key_id).collect();
            let issuer = Issuer { root_key_id: next_root_key_id(book), key: public };
            let dropped = replace(&mut next.issuers, issuer, cause, |issuer| issuer.key)?;
            let stays = |id: &u32| next.issuers.iter().any(|issuer| issuer.root_key_id == *id);
            dropped_roots.extend(known.into_iter().filter(|id| !stays(id)));
            dropped
        }
        KeyRole::Policy => {
            if cause == Cause::Compromised {
                next.policy_version_min = next.policy_version_min.max(policy_version);
            }
            replace(&mut next.policy, public, cause, |key| *key)?
        }
        KeyRole::Service => replace(&mut next.service, public, cause, |key| *key)?,
    };
    let bundle = next.version;
    let digest = publish_bundle(book, &next, root, fx)?;
    if role == KeyRole::Policy {
        // The one in force may be signed by a key that is gone now.
        let document = PolicyDocument { version: policy_version, issued_at: at, ..book.policy().1.clone() };
        let signed = Signed::sign(&document, book.fleet(), &[key]);
        let digest = signed.digest();
        book.write(Write::Policy(policy_version, signed), fx);
        acts::record(book, operator, Deed::Policy { version: policy_version, digest }, at, fx)?;
    }
    let ended = |grant: &&Grant| {
        let lives = grant.withdrawn.is_none() && grant.spec.expires > at;
        lives && dropped_roots.contains(&grant.root_key_id)
    };
    let ended: Vec<Grant> = book.grants().filter(ended).cloned().collect();
    let withdrawn = ended.iter().map(|grant| grant.spec.grant).collect();
    for grant in ended {
        book.write(Write::Grant(Box::new(Grant { withdrawn: Some(at), ..grant })), fx);
    }
    let deed =
        Deed::Rotated { role, cause, key: KeyId::of(public.as_bytes()), dropped: dropped.clone(), bundle, digest };
    acts::record(book, operator, deed, at, fx)?;
    if role == KeyRole::Feed {
        // Whoever publishes now may not have the new key: devices are to find a head that they believe all the same.
        publish::advance(book, key, cadence, at, fx);
    }
    Ok(Rotated { bundle, dropped, withdrawn })
}

/// The highest version of a policy that devices may have: of the fleet's own, or of what a thief has signed, as far as devices
/// have said so. What leaves no room for policies to come is a lie.
fn highest_policy(book: &Book, cause: Cause) -> u64 {
    let own = book.policy().1.version;
    let seen = book.devices().filter_map(|device| book.seen(&device.id)).map(|seen| seen.policy_version);
    match cause {
        Cause::Compromised => seen.filter(|version| *version < u64::MAX / 2).fold(own, u64::max),
        Cause::Planned => own,
    }
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
        return Err(FleetError::Invalid("the new key is in the trust bundle already: make another one".into()));
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

pub(super) fn publish_bundle(
    book: &mut Book,
    next: &TrustBundle,
    root: &SigningKey,
    fx: &mut Effects,
) -> Result<crate::ids::Hash, FleetError> {
    let signed = Signed::sign(next, book.fleet(), &[root]);
    // What devices will check is checked here first.
    let refused = FleetError::refused("the next trust bundle");
    let bytes = signed.to_bytes().len();
    if bytes > MESSAGE_BYTES_MAX {
        return Err(refused(Refused::TooLarge { bytes, limit: MESSAGE_BYTES_MAX }));
    }
    book.trust().successor(&signed).map_err(refused)?;
    let digest = signed.digest();
    book.write(Write::Bundle(next.version, signed), fx);
    Ok(digest)
}

#[cfg(test)]
mod tests;
