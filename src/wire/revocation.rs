//! Revocation: exact sets under signed heads.
//!
//! Owns: [`Target`], what can be revoked, and [`Position`], a place in a feed. Below it the exact sets, which hold
//! millions: [`set`], made of [`rules`], [`serials`] and [`fingerprints`] by expiry [`slot`], written by [`golomb`], sent
//! whole in pieces under a [`manifest`], or by what each head adds, in an [`announcement`], up a skip [`ladder`], or carried in
//! a file, [`carry`]. Beside the feeds stands what one operator revokes with a key of his own, [`emergency`].
//! `docs/revocation-format.md` says every byte of them.
//! Never: knows what time it is, or which position a device has. `agent/feed.rs` does.
//! Read next: `announcement.rs`; `agent/feed.rs`; for the sets `set.rs`.

pub mod announcement;
mod bytes;
pub mod carry;
pub mod emergency;
pub mod fingerprints;
pub mod golomb;
pub mod ladder;
pub mod manifest;
mod merkle;
pub mod rules;
pub mod serials;
pub mod set;
pub mod slot;

use serde::{Deserialize, Serialize};

use crate::ids::{BlockId, DeviceId, FeedId, GrantId, GroupId, Hash, TaskId};
use crate::time::{Millis, Timestamp};

/// Heads beyond a known one that there can be at any time: what is revoked at once makes a few thousand at the most.
pub const AHEAD_MAX: u64 = 65_536;
/// Beside those, one for each of this: no publisher signs faster for long.
pub const HEAD_EVERY: Millis = Millis(10);

/// The highest number that a feed can have come to by `until`, of which head `known` was signed at `since`.
pub fn highest_number(known: u64, since: Timestamp, until: Timestamp) -> u64 {
    known.saturating_add(AHEAD_MAX).saturating_add(until.since(since).0 / HEAD_EVERY.0)
}

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
    /// Of a feed of which nothing is known.
    pub fn none(feed: &FeedId) -> Self {
        Self { feed: feed.clone(), era: 0, seq: 0, digest: Hash::ZERO }
    }

    /// Era and number, which order the heads of one feed.
    pub fn order(&self) -> (u32, u64) {
        (self.era, self.seq)
    }
}
