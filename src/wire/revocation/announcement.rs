//! What a feed's heads say, and what each of them adds.
//!
//! Owns: [`Head`], which is signed; [`Announcement`], additions with the head that vouches for them; the digests that tie
//! the two; the making of the next of both, [`Successor`].
//! Never: believes additions by anything but a head that a key of the feed signed; knows which position a device has.
//! Read next: `ladder.rs` for which of them lead where; `set.rs` for what they add to; `agent/revocation.rs`.

use ed25519_dalek::{SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};

use super::ladder::{Step, LEVEL_MAX};
use super::manifest::Manifest;
use super::set::{PartKey, RevocationSet};
use super::Position;
use crate::ids::{FeedId, FleetId, Hash};
use crate::mutant::{self, Mutant};
use crate::time::{Millis, Timestamp};
use crate::wire::envelope::{Document, Signed};
use crate::wire::{decode, encode, Refused, MESSAGE_BYTES_MAX};

/// The most bytes of additions in one announcement: with its head they fit into one message.
pub const ADDITIONS_BYTES_MAX: usize = 28 * 1024;

/// A feed's signed position.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Head {
    /// The feed.
    pub feed: FeedId,
    /// Rises only when the trust bundle starts the feed anew.
    pub era: u32,
    /// Rises by one with each head.
    pub seq: u64,
    /// Digest of the head before this one.
    pub previous: Hash,
    /// When it was signed.
    pub issued_at: Timestamp,
    /// When the next head is due at the latest.
    pub next_update_ms: Millis,
    /// When a device that has heard no newer head denies what is of the highest class of risk, whatever its own bounds.
    pub hard_stale_ms: Millis,
    /// Any token that expires at or before this is refused, whatever the clock says.
    pub dropped_before: Timestamp,
    /// The root of the whole set, [`Manifest::root`].
    pub root: Hash,
    /// Digest of all rules, [`rules_digest`].
    pub rules: Hash,
    /// Digest of what this head adds, [`additions_digest`].
    pub delta: Hash,
    /// Digests of the steps that end here, from level 1 on. [`Hash::ZERO`] for one that no message can hold.
    pub skips: Vec<Hash>,
    /// The newest trust bundle there is.
    pub bundle_version: u64,
    /// The newest policy there is.
    pub policy_version: u64,
}

impl Document for Head {
    const KIND: &'static str = "revhead";
    const BYTES_MAX: usize = 2048;
}

impl Head {
    /// Where it stands.
    pub fn position(&self, digest: Hash) -> Position {
        Position { feed: self.feed.clone(), era: self.era, seq: self.seq, digest }
    }

    /// The digest of a step that ends at this head, none if it has no such step.
    pub fn step(&self, level: u8) -> Option<Hash> {
        let digest = match level.checked_sub(1) {
            None => self.delta,
            Some(above) => *self.skips.get(usize::from(above))?,
        };
        (digest != Hash::ZERO).then_some(digest)
    }
}

/// The digest of additions, by their canonical bytes.
pub fn additions_digest(bytes: &[u8]) -> Hash {
    Hash::of("hardtack/revocation-additions/v1", &[bytes])
}

/// The digest of the rules, by the bytes of their part: none has none.
pub fn rules_digest(part: &[u8]) -> Hash {
    Hash::of("hardtack/revocation-rules/v1", &[part])
}

/// What the heads of one step added, with the last of them.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Announcement {
    /// The last head.
    pub head: Signed<Head>,
    /// The level of the step: 0 for what this head alone adds.
    pub level: u8,
    /// The additions: a set, in its canonical bytes.
    pub additions: Vec<u8>,
}

/// An announcement whose head is signed by a key of the feed, and whose additions are those that it vouches for.
#[derive(Clone, PartialEq, Debug)]
pub struct Believed {
    /// The head, with its signatures.
    pub signed: Signed<Head>,
    /// The head.
    pub head: Head,
    /// Where it stands.
    pub position: Position,
    /// Which heads' additions these are.
    pub step: Step,
    /// The additions.
    pub additions: RevocationSet,
}

impl Announcement {
    /// The bytes of the message.
    pub fn to_bytes(&self) -> Vec<u8> {
        encode(self)
    }

    /// Parses an announcement without trusting it.
    ///
    /// # Errors
    /// [`Refused::TooLarge`] or [`Refused::Malformed`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Refused> {
        let announcement: Self = decode(bytes, MESSAGE_BYTES_MAX)?;
        if announcement.level > LEVEL_MAX || announcement.additions.len() > ADDITIONS_BYTES_MAX {
            return Err(Refused::Malformed("a step that no feed has"));
        }
        Ok(announcement)
    }

    /// What it says, if a key of the feed signed its head.
    ///
    /// # Errors
    /// Those of [`Signed::open`]; [`Refused::WrongTopic`] for the head of another feed; [`Refused::DigestMismatch`] when
    /// the additions are not what the head names.
    pub fn open<'k>(
        self,
        feed: &FeedId,
        fleet: &FleetId,
        keys: impl IntoIterator<Item = &'k VerifyingKey> + Clone,
    ) -> Result<Believed, Refused> {
        let head = if mutant::active(Mutant::DroppedKeyAccepted) {
            self.head.claim()?
        } else {
            self.head.open(fleet, keys, 1)?
        };
        if head.feed != *feed {
            return Err(Refused::WrongTopic);
        }
        if head.seq == 0 || head.skips.len() > Step::ending_at(head.seq).count() {
            return Err(Refused::Malformed("a head with steps that do not end at it"));
        }
        if head.step(self.level) != Some(additions_digest(&self.additions)) {
            return Err(Refused::DigestMismatch);
        }
        let additions = RevocationSet::from_bytes(&self.additions, ADDITIONS_BYTES_MAX)?;
        let position = head.position(self.head.digest());
        let step = Step { level: self.level, end: head.seq };
        Ok(Believed { signed: self.head, head, position, step, additions })
    }
}

/// The manifest of a snapshot, with the head that vouches for it: the newest one, or one from which the ladder leads on.
/// While a device reads its pieces the feed may go on.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Snapshot {
    /// The head of the whole set.
    pub head: Signed<Head>,
    /// The manifest, in its canonical bytes.
    pub manifest: Vec<u8>,
}

/// A snapshot whose head is signed by a key of the feed, and whose manifest has the root that it names.
#[derive(Clone, PartialEq, Debug)]
pub struct BelievedSnapshot {
    /// The head, with its signatures.
    pub signed: Signed<Head>,
    /// The head.
    pub head: Head,
    /// Where it stands.
    pub position: Position,
    /// The parts of the set.
    pub manifest: Manifest,
}

impl Snapshot {
    /// The bytes of the message.
    pub fn to_bytes(&self) -> Vec<u8> {
        encode(self)
    }

    /// Parses a snapshot without trusting it.
    ///
    /// # Errors
    /// [`Refused::TooLarge`] or [`Refused::Malformed`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Refused> {
        decode(bytes, MESSAGE_BYTES_MAX)
    }

    /// What it says, if a key of the feed signed its head.
    ///
    /// # Errors
    /// Those of [`Signed::open`]; [`Refused::WrongTopic`] for the head of another feed; [`Refused::DigestMismatch`] when
    /// the manifest does not have the root that the head names.
    pub fn open<'k>(
        self,
        feed: &FeedId,
        fleet: &FleetId,
        keys: impl IntoIterator<Item = &'k VerifyingKey> + Clone,
    ) -> Result<BelievedSnapshot, Refused> {
        let head = self.head.open(fleet, keys, 1)?;
        if head.feed != *feed {
            return Err(Refused::WrongTopic);
        }
        let manifest = Manifest::from_bytes(&self.manifest)?;
        if manifest.root() != head.root {
            return Err(Refused::DigestMismatch);
        }
        let position = head.position(self.head.digest());
        Ok(BelievedSnapshot { signed: self.head, head, position, manifest })
    }
}

/// A whole set that somebody brought, whose root is that of a head that a key of the feed signed.
#[derive(Clone, PartialEq, Debug)]
pub struct BelievedSet {
    /// The head, with its signatures.
    pub signed: Signed<Head>,
    /// The head.
    pub head: Head,
    /// Where it stands.
    pub position: Position,
    /// The set.
    pub set: RevocationSet,
}

impl BelievedSet {
    /// What a head and a set's bytes say, if a key of the feed signed the head.
    ///
    /// # Errors
    /// Those of [`Signed::open`]; [`Refused::WrongTopic`] for the head of another feed; [`Refused::DigestMismatch`] when
    /// the set is not the one that the head names.
    pub fn open<'k>(
        signed: Signed<Head>,
        set: &[u8],
        bytes_max: usize,
        feed: &FeedId,
        fleet: &FleetId,
        keys: impl IntoIterator<Item = &'k VerifyingKey> + Clone,
    ) -> Result<Self, Refused> {
        let head = signed.open(fleet, keys, 1)?;
        if head.feed != *feed {
            return Err(Refused::WrongTopic);
        }
        let set = RevocationSet::from_bytes(set, bytes_max)?;
        if Manifest::of(&set).root() != head.root {
            return Err(Refused::DigestMismatch);
        }
        let position = head.position(signed.digest());
        Ok(Self { signed, head, position, set })
    }
}

/// What a publisher puts into its next head.
#[derive(Clone, PartialEq, Debug)]
pub struct Successor<'a> {
    /// The feed.
    pub feed: &'a FeedId,
    /// Its era.
    pub era: u32,
    /// The head's number.
    pub seq: u64,
    /// Digest of the head before.
    pub previous: Hash,
    /// When it is signed.
    pub issued_at: Timestamp,
    /// When the next one is due.
    pub next_update_ms: Millis,
    /// When silence denies what is of the highest risk.
    pub hard_stale_ms: Millis,
    /// Up to where everything has expired.
    pub dropped_before: Timestamp,
    /// The whole set, without what has expired.
    pub set: &'a RevocationSet,
    /// What this head adds.
    pub additions: &'a RevocationSet,
    /// What the steps that end here add, from level 1 on; none where it is not known or no message can hold it.
    pub skips: &'a [Option<RevocationSet>],
    /// The newest trust bundle.
    pub bundle_version: u64,
    /// The newest policy.
    pub policy_version: u64,
}

impl Successor<'_> {
    /// Signs it: the announcement of the head, and those of the steps that end there.
    pub fn sign(&self, fleet: &FleetId, key: &SigningKey) -> (Head, Vec<Announcement>) {
        let bytes = |additions: &Option<RevocationSet>| {
            additions.as_ref().map(RevocationSet::to_bytes).filter(|bytes| bytes.len() <= ADDITIONS_BYTES_MAX)
        };
        let delta = self.additions.to_bytes();
        let skips: Vec<Option<Vec<u8>>> = self.skips.iter().map(bytes).collect();
        let digest = |bytes: &Option<Vec<u8>>| bytes.as_ref().map_or(Hash::ZERO, |bytes| additions_digest(bytes));
        let head = Head {
            feed: self.feed.clone(),
            era: self.era,
            seq: self.seq,
            previous: self.previous,
            issued_at: self.issued_at,
            next_update_ms: self.next_update_ms,
            hard_stale_ms: self.hard_stale_ms,
            dropped_before: self.dropped_before,
            root: Manifest::of(self.set).root(),
            rules: rules_digest(&self.set.part(PartKey::Rules).unwrap_or_default()),
            delta: additions_digest(&delta),
            skips: skips.iter().map(digest).collect(),
            bundle_version: self.bundle_version,
            policy_version: self.policy_version,
        };
        let signed = Signed::sign(&head, fleet, &[key]);
        let announce = |(level, additions): (usize, Vec<u8>)| Announcement {
            head: signed.clone(),
            level: u8::try_from(level).expect("a position ends few steps"),
            additions,
        };
        let steps = std::iter::once(Some(delta)).chain(skips).enumerate();
        let announcements = steps.filter_map(|(level, bytes)| Some(announce((level, bytes?)))).collect();
        (head, announcements)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::revocation::rules::Selector;

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_bytes(&[seed; 32])
    }

    fn set(owners: &[&str]) -> RevocationSet {
        let mut set = RevocationSet::default();
        owners.iter().for_each(|owner| set.add_rule(Selector::owner(owner), Timestamp::from_secs(100)));
        set
    }

    fn announce(seq: u64, whole: &RevocationSet, additions: &RevocationSet) -> Vec<Announcement> {
        let successor = Successor {
            feed: &"main".parse().unwrap(),
            era: 1,
            seq,
            previous: Hash::ZERO,
            issued_at: Timestamp::from_secs(1),
            next_update_ms: Millis(1),
            hard_stale_ms: Millis(2),
            dropped_before: Timestamp(0),
            set: whole,
            additions,
            skips: &Step::ending_at(seq).map(|_| Some(whole.clone())).collect::<Vec<_>>(),
            bundle_version: 1,
            policy_version: 1,
        };
        successor.sign(&"acme".parse().unwrap(), &key(1)).1
    }

    #[test]
    fn only_what_a_head_vouches_for_is_believed() {
        let (whole, added) = (set(&["ann", "bob"]), set(&["bob"]));
        let [delta, skip]: [Announcement; 2] = announce(4, &whole, &added).try_into().unwrap();
        let (feed, fleet): (FeedId, FleetId) = ("main".parse().unwrap(), "acme".parse().unwrap());
        let open = |announcement: &Announcement, seed| {
            let parsed = Announcement::from_bytes(&announcement.to_bytes()).unwrap();
            parsed.open(&feed, &fleet, [&key(seed).verifying_key()]).map(|believed| (believed.step, believed.additions))
        };
        assert_eq!(open(&delta, 1), Ok((Step { level: 0, end: 4 }, added)));
        assert_eq!(open(&skip, 1), Ok((Step { level: 1, end: 4 }, whole)));
        assert!(matches!(open(&delta, 2), Err(Refused::UnknownKey { .. })));
        let swapped = Announcement { additions: skip.additions.clone(), ..delta.clone() };
        assert_eq!(open(&swapped, 1), Err(Refused::DigestMismatch));
        let raised = Announcement { level: 2, ..skip.clone() };
        assert_eq!(open(&raised, 1), Err(Refused::DigestMismatch), "a level that the head does not have");
        let other = delta.open(&"spare".parse().unwrap(), &fleet, [&key(1).verifying_key()]);
        assert!(matches!(other, Err(Refused::WrongTopic)));
    }
}
