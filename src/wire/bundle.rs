//! The trust bundle: which keys may do what in a fleet.
//!
//! Owns: [`TrustBundle`], the rule that version N+1 is signed by the threshold of N and of N+1, and the fleet's
//! fingerprint, which is what a person compares.
//! Never: holds a private key.
//! Read next: `enrol.rs`, which brings the first bundle to a device.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use ed25519_dalek::VerifyingKey;
use serde::{Deserialize, Serialize};

use super::envelope::{Document, Signed};
use super::identity::{check_issuers, IdentityIssuer};
use super::seal::SealingPublic;
use super::Refused;
use crate::ids::{DeviceId, FeedId, FleetId, GroupId, Hash, KeyId};
use crate::mutant::{self, Mutant};
use crate::time::Timestamp;

/// An Ed25519 public key that is a valid curve point and not of small order.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "[u8; 32]", into = "[u8; 32]")]
pub struct PublicKey(VerifyingKey);

impl PublicKey {
    /// The key to verify with.
    pub fn verifying(&self) -> &VerifyingKey {
        &self.0
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }
}

impl From<VerifyingKey> for PublicKey {
    fn from(key: VerifyingKey) -> Self {
        Self(key)
    }
}

impl TryFrom<[u8; 32]> for PublicKey {
    type Error = Refused;
    fn try_from(bytes: [u8; 32]) -> Result<Self, Refused> {
        match VerifyingKey::from_bytes(&bytes) {
            Ok(key) if !key.is_weak() => Ok(Self(key)),
            Ok(_) | Err(_) => Err(Refused::Malformed("unusable Ed25519 public key")),
        }
    }
}

impl From<PublicKey> for [u8; 32] {
    fn from(key: PublicKey) -> Self {
        *key.as_bytes()
    }
}

/// The most root keys of a fleet: when all of them are replaced at once, those before and those after sign one envelope.
pub const ROOTS_MAX: usize = super::envelope::SIGNATURES_MAX / 2;

/// A Biscuit root key of the fleet.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Issuer {
    /// The number that stands in a token's container.
    pub root_key_id: u32,
    /// The key.
    pub key: PublicKey,
}

/// A revocation feed and who may sign its heads.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Feed {
    /// Its name.
    pub id: FeedId,
    /// Heads of any other era are refused. It rises when a key goes, which may have been stolen: whatever that signed, the
    /// feed begins anew at 1, and only the root keys can make it so.
    pub era: u32,
    /// Keys that may sign its heads. The first is the one in use.
    pub keys: Vec<PublicKey>,
    /// It is that of the devices in these. None: of every device that is in no other feed's groups.
    pub groups: Vec<GroupId>,
    /// The bundle with which devices came to it last. A head that names an older one was signed before, and does not hold
    /// what had been revoked for them: whatever it adds counts, and it makes nothing fresh.
    pub since: u64,
}

/// Feeds of a fleet.
pub const FEEDS_MAX: usize = 128;
/// Groups of a fleet.
pub const GROUPS_MAX: usize = 256;
/// The most keys that a trust bundle names for emergencies.
pub const EMERGENCY_KEYS_MAX: usize = 16;
/// The most bytes of the name of who has one.
pub const OPERATOR_BYTES_MAX: usize = 64;

/// A key with which one operator may revoke for a while, whatever becomes of the fleet's service and its feed key.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EmergencyKey {
    /// Who has it: letters, digits and `. _ @ -`, at most [`OPERATOR_BYTES_MAX`].
    pub operator: String,
    /// The key. It signs `emergency` statements and nothing else.
    pub key: PublicKey,
}

impl EmergencyKey {
    /// The key's id, which its topic and its statements name.
    pub fn id(&self) -> KeyId {
        KeyId::of(self.key.as_bytes())
    }

    /// Whether a key may be somebody's of this name.
    pub fn is_name(name: &str) -> bool {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'@' | b'-');
        let begins = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
        begins && name.len() <= OPERATOR_BYTES_MAX && name.bytes().all(plain)
    }
}

/// What a device pins of its brokers.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct BrokerPins {
    /// Addresses, `mqtts://host:port` or `mqtt://host:port`, tried in order.
    pub urls: Vec<String>,
    /// Certificates (DER) of the authorities that sign the brokers' certificates. Their dates are judged by the trusted
    /// clock.
    pub authorities: Vec<Vec<u8>>,
}

/// Which keys may do what. Versions count from 1 without a hole.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TrustBundle {
    /// The fleet.
    pub fleet: FleetId,
    /// 1, 2, 3, …
    pub version: u64,
    /// How many root keys must sign a bundle.
    pub threshold: u8,
    /// Sign bundles and time resets, nothing else.
    pub roots: Vec<PublicKey>,
    /// Mint tokens.
    pub issuers: Vec<Issuer>,
    /// Sign policies.
    pub policy: Vec<PublicKey>,
    /// Revocation feeds.
    pub feeds: Vec<Feed>,
    /// Sign acknowledgements and answers.
    pub service: Vec<PublicKey>,
    /// Sign the records of operators' acts.
    pub operators: Vec<PublicKey>,
    /// Revoke for 72 h at most, one operator each; at most [`EMERGENCY_KEYS_MAX`].
    pub emergency: Vec<EmergencyKey>,
    /// Say who begins a task, in documents that workloads bring; at most [`ISSUERS_MAX`](super::identity::ISSUERS_MAX).
    pub identities: Vec<IdentityIssuer>,
    /// Audit is sealed to this where the policy asks.
    pub collector: SealingPublic,
    /// Groups and the devices in them.
    pub groups: BTreeMap<GroupId, Vec<DeviceId>>,
    /// The oldest policy that may be in force.
    pub policy_version_min: u64,
    /// Brokers.
    pub broker: BrokerPins,
    /// When it was made.
    pub issued_at: Timestamp,
    /// A device that knows it to be past this is stale for every class of risk.
    pub not_after: Timestamp,
}

impl Document for TrustBundle {
    const KIND: &'static str = "bundle";
}

impl TrustBundle {
    /// The digest that a person compares: over the fleet's name and the root keys and threshold of this bundle.
    /// Enrolment compares that of version 1.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.fleet, self.threshold, &self.roots)
    }

    /// Whether `device` is in `group`.
    pub fn in_group(&self, device: &DeviceId, group: &str) -> bool {
        self.groups.iter().any(|(id, members)| id.as_str() == group && members.contains(device))
    }

    /// The one feed that a device holds: the first whose groups it is in, else the first of all, which is for everybody.
    ///
    /// # Panics
    /// Never for a bundle that was opened: one without a feed is refused.
    pub fn feed_of(&self, device: &DeviceId) -> &Feed {
        let has = |group: &GroupId| self.groups.get(group).is_some_and(|members| members.contains(device));
        let own = self.feeds.iter().find(|feed| feed.groups.iter().any(has)).or(self.feeds.first());
        own.expect("a bundle without a feed is refused when it is opened")
    }

    /// A feed.
    pub fn feed(&self, id: &FeedId) -> Option<&Feed> {
        self.feeds.iter().find(|known| known.id == *id)
    }

    /// The feed of every device that is in another than the first one: as [`TrustBundle::feed_of`], for all at once.
    pub fn placed(&self) -> BTreeMap<&DeviceId, &FeedId> {
        let mut placed = BTreeMap::new();
        for feed in &self.feeds {
            let members = feed.groups.iter().filter_map(|group| self.groups.get(group)).flatten();
            for device in members {
                placed.entry(device).or_insert(&feed.id);
            }
        }
        placed
    }

    /// The feeds to which devices come with this bundle that were in another by the one before, or whose devices come to a group
    /// that none of them was in.
    pub fn joined_since(&self, before: &Self) -> BTreeSet<&FeedId> {
        let (Some(first), Some(was_first)) = (self.feeds.first(), before.feeds.first()) else { return BTreeSet::new() };
        let (old, new) = (before.placed(), self.placed());
        let came = |device: &&DeviceId| {
            let was = old.get(*device).copied().unwrap_or(&was_first.id);
            let is = new.get(*device).copied().unwrap_or(&first.id);
            (was != is).then_some(is)
        };
        let mut joined: BTreeSet<&FeedId> = old.keys().chain(new.keys()).filter_map(came).collect();
        if first.id != was_first.id {
            joined.insert(&first.id);
        }
        // What was revoked for a group stands in the feeds of those who were in it, and in no other.
        let nobody = Vec::new();
        for (group, members) in &self.groups {
            let were = before.groups.get(group).unwrap_or(&nobody).iter();
            let held: BTreeSet<&FeedId> =
                were.map(|device| old.get(device).copied().unwrap_or(&was_first.id)).collect();
            let now = members.iter().map(|device| new.get(device).copied().unwrap_or(&first.id));
            joined.extend(now.filter(|feed| !held.contains(feed)));
        }
        joined
    }

    /// Root keys to verify with.
    pub fn root_keys(&self) -> impl Iterator<Item = &VerifyingKey> + Clone {
        self.roots.iter().map(PublicKey::verifying)
    }

    /// Service keys to verify with.
    pub fn service_keys(&self) -> impl Iterator<Item = &VerifyingKey> + Clone {
        self.service.iter().map(PublicKey::verifying)
    }

    /// Policy keys to verify with.
    pub fn policy_keys(&self) -> impl Iterator<Item = &VerifyingKey> + Clone {
        self.policy.iter().map(PublicKey::verifying)
    }

    /// The keys that may sign heads of `feed`, none if it is not this fleet's.
    pub fn feed_keys(&self, feed: &FeedId) -> impl Iterator<Item = &VerifyingKey> + Clone {
        self.feed(feed).into_iter().flat_map(|feed| feed.keys.iter().map(PublicKey::verifying))
    }

    /// The emergency key of this id, none if it is not this fleet's.
    pub fn emergency_key(&self, id: KeyId) -> Option<&EmergencyKey> {
        self.emergency.iter().find(|key| key.id() == id)
    }

    /// Whether heads of this era count.
    ///
    /// # Errors
    /// [`Refused::RolledBack`] for an era that is over, [`Refused::WrongEra`] for one that the root keys have not begun,
    /// [`Refused::WrongTopic`] for a feed that is not this fleet's.
    pub fn check_era(&self, feed: &FeedId, era: u32) -> Result<(), Refused> {
        let known = self.feed(feed).ok_or(Refused::WrongTopic)?.era;
        match era.cmp(&known) {
            Ordering::Less => Err(Refused::RolledBack { offered: era.into(), known: known.into() }),
            Ordering::Greater => Err(Refused::WrongEra { offered: era, known }),
            Ordering::Equal => Ok(()),
        }
    }

    /// The bundle of version 1, which only its own roots sign and only a fingerprint vouches for.
    ///
    /// # Errors
    /// When it is not version 1, is not of the fleet that it names, or is not signed by its own threshold.
    pub fn genesis(signed: &Signed<Self>) -> Result<Self, Refused> {
        let claim = signed.claim()?;
        let bundle = signed.open(&claim.fleet, claim.root_keys(), usize::from(claim.threshold))?;
        bundle.check_shape()?;
        if bundle.version != 1 {
            return Err(Refused::OutOfOrder { offered: bundle.version, expected: 1 });
        }
        Ok(bundle)
    }

    /// The successor of this bundle: version exactly N+1, signed by the threshold of N and of N+1.
    ///
    /// # Errors
    /// [`Refused::RolledBack`] for a version at or below this one, [`Refused::OutOfOrder`] past the next, else what the
    /// signatures say.
    pub fn successor(&self, signed: &Signed<Self>) -> Result<Self, Refused> {
        let claim = signed.claim()?;
        if claim.fleet != self.fleet {
            return Err(Refused::WrongFleet);
        }
        if claim.version <= self.version {
            return Err(Refused::RolledBack { offered: claim.version, known: self.version });
        }
        let next = self.vouch(signed)?;
        self.precedes(&next)?;
        Ok(next)
    }

    /// A later bundle that the threshold of these root keys signed, and that of its own: what is between the two, nobody has
    /// to know who only asks which root keys are believed.
    ///
    /// # Errors
    /// What the signatures say.
    pub fn vouch(&self, signed: &Signed<Self>) -> Result<Self, Refused> {
        let by_old = signed.open(&self.fleet, self.root_keys(), usize::from(self.threshold));
        let next =
            if mutant::active(Mutant::SuccessorByNewAlone) { by_old.or_else(|_| signed.claim()) } else { by_old }?;
        let by_new = signed.open(&self.fleet, next.root_keys(), usize::from(next.threshold));
        if !mutant::active(Mutant::SuccessorByOldAlone) {
            by_new?;
        }
        Ok(next)
    }

    /// Whether `next` can follow this bundle, whoever signed it.
    ///
    /// # Errors
    /// [`Refused::WrongFleet`], [`Refused::OutOfOrder`] for another version than N+1, [`Refused::Malformed`], or
    /// [`Refused::RolledBack`] for an era that goes back.
    pub fn precedes(&self, next: &Self) -> Result<(), Refused> {
        if next.fleet != self.fleet {
            return Err(Refused::WrongFleet);
        }
        if next.version != self.version + 1 {
            return Err(Refused::OutOfOrder { offered: next.version, expected: self.version + 1 });
        }
        next.check_shape()?;
        for feed in &next.feeds {
            let before = self.feed(&feed.id).map_or((0, 0), |known| (known.era, known.since));
            if feed.era < before.0 {
                return Err(Refused::RolledBack { offered: feed.era.into(), known: before.0.into() });
            }
            if feed.since < before.1 {
                return Err(Refused::RolledBack { offered: feed.since, known: before.1 });
            }
        }
        let joined = next.joined_since(self);
        if next.feeds.iter().any(|feed| joined.contains(&feed.id) && feed.since != next.version) {
            return Err(Refused::Malformed("devices come to a feed, and it does not say so"));
        }
        Ok(())
    }

    fn check_shape(&self) -> Result<(), Refused> {
        let threshold = usize::from(self.threshold);
        if threshold == 0 || threshold > self.roots.len() {
            return Err(Refused::Malformed("a threshold that its root keys cannot reach"));
        }
        if self.roots.len() > ROOTS_MAX {
            return Err(Refused::Malformed("more root keys than an envelope has room for"));
        }
        let distinct: BTreeSet<&[u8; 32]> = self.roots.iter().map(PublicKey::as_bytes).collect();
        if distinct.len() < self.roots.len() {
            return Err(Refused::Malformed("a root key twice"));
        }
        let mut ids: Vec<u32> = self.issuers.iter().map(|issuer| issuer.root_key_id).collect();
        ids.sort_unstable();
        if ids.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(Refused::Malformed("two issuers with one root key id"));
        }
        if self.service.is_empty() || self.policy.is_empty() || self.feeds.is_empty() {
            return Err(Refused::Malformed("a role without a key"));
        }
        self.check_feeds()?;
        check_issuers(&self.identities)?;
        self.check_emergency()
    }

    fn check_feeds(&self) -> Result<(), Refused> {
        if self.feeds.len() > FEEDS_MAX || self.groups.len() > GROUPS_MAX {
            return Err(Refused::Malformed("more feeds or groups than a fleet may have"));
        }
        let (mut names, mut taken) = (BTreeSet::new(), BTreeSet::new());
        for (place, feed) in self.feeds.iter().enumerate() {
            if !names.insert(&feed.id) {
                return Err(Refused::Malformed("two feeds of one name"));
            }
            if feed.keys.is_empty() {
                return Err(Refused::Malformed("a feed without a key"));
            }
            if feed.since > self.version {
                return Err(Refused::Malformed("a feed of a bundle that is still to come"));
            }
            if (place == 0) != feed.groups.is_empty() {
                return Err(Refused::Malformed(
                    "a feed without groups that is not the first, or a first one with some",
                ));
            }
            if feed.groups.iter().any(|group| !self.groups.contains_key(group)) {
                return Err(Refused::Malformed("a feed of a group that does not exist"));
            }
            if !feed.groups.iter().all(|group| taken.insert(group)) {
                return Err(Refused::Malformed("a group with two feeds"));
            }
        }
        for members in self.groups.values() {
            let mut once = BTreeSet::new();
            if !members.iter().all(|device| once.insert(device)) {
                return Err(Refused::Malformed("a device twice in one group"));
            }
        }
        Ok(())
    }

    /// Each emergency key is one operator's, and has no other role: whoever steals it can do nothing else with it.
    fn check_emergency(&self) -> Result<(), Refused> {
        if self.emergency.len() > EMERGENCY_KEYS_MAX {
            return Err(Refused::Malformed("more than 16 emergency keys"));
        }
        let others = self.roots.iter().chain(self.issuers.iter().map(|issuer| &issuer.key)).chain(&self.policy);
        let others = others.chain(self.feeds.iter().flat_map(|feed| &feed.keys)).chain(&self.service);
        let mut ids: Vec<KeyId> = others.chain(&self.operators).map(|key| KeyId::of(key.as_bytes())).collect();
        let mut names = Vec::new();
        for key in &self.emergency {
            if !EmergencyKey::is_name(&key.operator) {
                return Err(Refused::Malformed("an emergency key of nobody who can be named"));
            }
            if ids.contains(&key.id()) || names.contains(&&key.operator) {
                return Err(Refused::Malformed("an emergency key that is named twice, or has another role"));
            }
            ids.push(key.id());
            names.push(&key.operator);
        }
        Ok(())
    }
}

/// What a person compares to know a fleet: 160 bits, in base 32 in groups of four.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fingerprint([u8; 20]);

impl Fingerprint {
    /// Of a fleet that is founded with these root keys.
    pub fn of(fleet: &FleetId, threshold: u8, roots: &[PublicKey]) -> Self {
        let mut parts: Vec<&[u8]> = vec![fleet.as_str().as_bytes(), std::slice::from_ref(&threshold)];
        let mut roots: Vec<&[u8; 32]> = roots.iter().map(PublicKey::as_bytes).collect();
        roots.sort();
        parts.extend(roots.iter().map(|key| key.as_slice()));
        let mut short = [0; 20];
        short.copy_from_slice(&Hash::of("hardtack/fleet/v1", &parts).0[..20]);
        Self(short)
    }
}

impl std::fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&grouped(&self.0))
    }
}

impl std::str::FromStr for Fingerprint {
    type Err = Refused;
    fn from_str(text: &str) -> Result<Self, Refused> {
        let bytes = ungrouped(text).and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or(Refused::Malformed("a fleet fingerprint is 32 letters and digits in groups of four"))
    }
}

/// Base 32 in groups of four, as people read it aloud.
pub(crate) fn grouped(bytes: &[u8]) -> String {
    let text = data_encoding::BASE32_NOPAD.encode(bytes);
    let groups: Vec<&str> = (0..text.len()).step_by(4).map(|i| &text[i..text.len().min(i + 4)]).collect();
    groups.join("-")
}

/// What [`grouped`] wrote, whatever a person made of its case, hyphens and spaces.
pub(crate) fn ungrouped(text: &str) -> Option<Vec<u8>> {
    let bare: String = text.chars().filter(|c| !matches!(c, '-' | ' ')).collect();
    data_encoding::BASE32_NOPAD.decode(bare.to_ascii_uppercase().as_bytes()).ok()
}
