//! Revocation: rules in a signed, sequenced list.
//!
//! Owns: [`Rule`] and what it covers, [`Head`], which is signed, and the [`List`] whose digest it names; the split of a
//! list into messages and back. Below it the exact sets, which hold millions: [`set`], made of [`rules`], [`serials`] and
//! [`fingerprints`] by expiry [`slot`], written by [`golomb`], and sent in pieces under a [`manifest`].
//! `docs/revocation-format.md` says every byte of them.
//! Never: knows what time it is, or which list a device has. `agent/revocation.rs` does.
//! Read next: `agent/revocation.rs`; for the sets `set.rs`.

mod bytes;
pub mod fingerprints;
pub mod golomb;
pub mod manifest;
mod merkle;
pub mod rules;
pub mod serials;
pub mod set;
pub mod slot;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::envelope::Document;
use super::{decode, encode, Refused};
use crate::ids::{BlockId, DeviceId, FeedId, GrantId, GroupId, Hash, TaskId};
use crate::time::{Millis, Timestamp};

/// The most bytes of a list, and so the most that a device buffers while it gathers one.
pub const LIST_BYTES_MAX: usize = 512 * 1024;
/// The most bytes of a list that one message carries.
pub const CHUNK_BYTES_MAX: usize = 24 * 1024;

/// The most bytes of a bucket: those of the most fingerprints of 96 bits.
const BUCKET_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// What a rule covers. All but `Block` test facts that block 0 must hold, or hold a label that only narrows.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// Every token there is.
    All,
    /// Tokens for this audience. A token without an audience is not covered.
    Audience(String),
    /// The block and every token that holds it.
    Block(BlockId),
    /// Tokens for this device. The device itself locks.
    Device(DeviceId),
    /// Tokens of this grant.
    Grant(GrantId),
    /// Tokens for this group.
    Group(GroupId),
    /// Tokens issued before this time.
    IssuedBefore(Timestamp),
    /// Tokens of this owner.
    Owner(String),
    /// Tokens signed by this root key.
    RootKey(u32),
    /// Tokens that hold this task as a label in any block.
    Task(TaskId),
}

/// One revocation.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Rule {
    /// What it covers.
    pub target: Target,
    /// When it lapses: not before every token that it covers has expired.
    pub until: Timestamp,
}

/// The rules of a feed at one position, sorted, without doubles.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct List {
    rules: Vec<Rule>,
}

impl List {
    /// A list of these rules: sorted, the longest-lived of each target kept.
    pub fn new(rules: impl IntoIterator<Item = Rule>) -> Self {
        let mut longest = BTreeMap::new();
        for rule in rules {
            let until = longest.entry(rule.target).or_insert(rule.until);
            *until = rule.until.max(*until);
        }
        Self { rules: longest.into_iter().map(|(target, until)| Rule { target, until }).collect() }
    }

    /// The rules, sorted.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// The canonical bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        encode(self)
    }

    /// A list from bytes, canonical ones only.
    ///
    /// # Errors
    /// [`Refused::TooLarge`], or [`Refused::Malformed`] when the rules are not sorted or hold a double.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Refused> {
        let list: Self = decode(bytes, LIST_BYTES_MAX)?;
        if list.rules.windows(2).any(|pair| pair[0].target >= pair[1].target) {
            return Err(Refused::Malformed("revocation rules out of order"));
        }
        Ok(list)
    }

    /// The digest that a head names.
    pub fn digest(&self) -> Hash {
        digest_of_list(&self.to_bytes())
    }
}

/// The digest of a list's canonical bytes.
pub fn digest_of_list(bytes: &[u8]) -> Hash {
    Hash::of("hardtack/list/v1", &[bytes])
}

/// A feed's signed position.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Head {
    /// The feed.
    pub feed: FeedId,
    /// Rises only when the fleet starts its feed anew under new trust.
    pub era: u32,
    /// Rises by one with each head.
    pub seq: u64,
    /// Digest of the head before this one.
    pub previous: Hash,
    /// When it was signed.
    pub issued_at: Timestamp,
    /// When the next head is due at the latest.
    pub next_update_ms: Millis,
    /// Any token that expires at or before this is refused, whatever the clock says.
    pub dropped_before: Timestamp,
    /// Digest of the whole list.
    pub list: Hash,
    /// Bytes of the whole list.
    pub list_bytes: u32,
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
}

/// A place in a feed, as devices and acknowledgements name it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Position {
    /// The feed.
    pub feed: FeedId,
    /// The feed's era.
    pub era: u32,
    /// The head's number.
    pub seq: u64,
    /// The head's digest.
    pub digest: Hash,
}

impl Position {
    /// Era and number, which order the heads of one feed.
    pub fn order(&self) -> (u32, u64) {
        (self.era, self.seq)
    }
}

/// A piece of a list in a message of its own. It is believed only with the digest that a signed head names.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Chunk {
    /// Digest of the whole list.
    pub list: Hash,
    /// This piece's number, from 0.
    pub index: u16,
    /// The bytes.
    pub bytes: Vec<u8>,
}

impl Chunk {
    /// The pieces of a list.
    pub fn split(list: &List) -> Vec<Self> {
        let (bytes, digest) = (list.to_bytes(), list.digest());
        let piece = |(index, part): (usize, &[u8])| Self {
            list: digest,
            index: u16::try_from(index).expect("a list has at most 22 pieces"),
            bytes: part.to_vec(),
        };
        bytes.chunks(CHUNK_BYTES_MAX).enumerate().map(piece).collect()
    }

    /// How many pieces a list of this many bytes has.
    pub fn count(list_bytes: u32) -> usize {
        (list_bytes as usize).div_ceil(CHUNK_BYTES_MAX)
    }

    /// Parses a piece without trusting it.
    ///
    /// # Errors
    /// [`Refused::TooLarge`] or [`Refused::Malformed`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Refused> {
        let chunk: Self = decode(bytes, super::MESSAGE_BYTES_MAX)?;
        let last = Chunk::count(LIST_BYTES_MAX as u32);
        if chunk.bytes.len() > CHUNK_BYTES_MAX || chunk.bytes.is_empty() || usize::from(chunk.index) >= last {
            return Err(Refused::Malformed("a piece of a list that no list has"));
        }
        Ok(chunk)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(target: Target, until: u64) -> Rule {
        Rule { target, until: Timestamp(until) }
    }

    #[test]
    fn a_list_is_canonical_whatever_order_it_came_in() {
        let (a, b) = (rule(Target::RootKey(1), 5), rule(Target::RootKey(2), 5));
        let list = List::new([b.clone(), a.clone(), rule(Target::RootKey(1), 3)]);
        assert_eq!(list.rules(), [a.clone(), b.clone()]);
        assert_eq!(List::from_bytes(&list.to_bytes()), Ok(list));
        let unsorted = encode(&List { rules: vec![b.clone(), a.clone()] });
        assert!(matches!(List::from_bytes(&unsorted), Err(Refused::Malformed(_))));
        let doubled = encode(&List { rules: vec![a.clone(), a] });
        assert!(matches!(List::from_bytes(&doubled), Err(Refused::Malformed(_))));
    }

    #[test]
    fn pieces_make_the_list_again() {
        let list = List::new(
            (0..3000)
                .map(|n| rule(Target::Block(BlockId([n as u8; 32])), n))
                .chain((0..3000).map(|n| rule(Target::Task(format!("t-{n:030}").parse().unwrap()), n))),
        );
        let chunks = Chunk::split(&list);
        assert_eq!(chunks.len(), Chunk::count(list.to_bytes().len() as u32));
        assert!(chunks.len() > 1);
        let whole: Vec<u8> = chunks.iter().flat_map(|chunk| chunk.bytes.clone()).collect();
        assert_eq!(List::from_bytes(&whole), Ok(list));
    }
}
