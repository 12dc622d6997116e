//! What an operator of this gateway asks about revocations, and what he is answered.
//!
//! Owns: the bodies of `/v1/revocations` and what is below it, with their JSON names.
//! Never: decides an answer.
//! Read next: `../carry.rs`.

use serde::{Deserialize, Serialize};

use crate::ids::{FeedId, KeyId};
use crate::wire::revocation::Target;

/// Body of `POST /v1/revocations/check`: one of the two.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckRevoked {
    /// A token, base64url without padding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// What a revocation may name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Target>,
}

/// Body of `POST /v1/revocations/import`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ImportRevocations {
    /// The file's bytes.
    pub file: Vec<u8>,
    /// What whoever brought it calls it, for the audit.
    pub name: String,
}

/// Body of the answer to `GET /v1/revocations`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RevocationsReply {
    /// The feeds that this device holds.
    pub feeds: Vec<FeedStatus>,
    /// Feeds that were held and could not be read back: nothing is allowed until they have come again.
    pub lost: Vec<FeedId>,
    /// What operators revoked with emergency keys.
    pub emergency: Vec<EmergencyStatus>,
    /// Emergency keys whose rules were held and could not be read back: nothing is allowed until their statements have come
    /// again, or all that they can have held has ended.
    pub emergency_lost: Vec<KeyId>,
}

/// What is held of one emergency key.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EmergencyStatus {
    /// The key.
    pub key: KeyId,
    /// Whose it is.
    pub operator: String,
    /// Whether the trust bundle names it still. If not, what it revoked holds until its end, and nothing new is taken.
    pub named: bool,
    /// The counter of its newest statement.
    pub counter: u64,
    /// The digest of that.
    pub digest: String,
    /// When that was signed, RFC 3339.
    pub issued: String,
    /// Every rule of this key that is in force, also those that the newest statement leaves out.
    pub rules: Vec<EmergencyRule>,
}

/// One rule of an emergency key.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EmergencyRule {
    /// What it covers, in words.
    pub covers: String,
    /// The key.
    pub key: KeyId,
    /// Whose it is.
    pub operator: String,
    /// Its signed end, RFC 3339.
    pub until: String,
    /// Why, as its operator says.
    pub reason: String,
    /// How long it holds here at most, in seconds: until that, and no longer than 72 h from when it was first seen.
    pub left_s: u64,
}

/// The rule of an emergency key that revokes what was asked about.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EmergencyRevoked {
    /// The key.
    pub key: KeyId,
    /// Whose it is.
    pub operator: String,
    /// Its signed end, RFC 3339.
    pub until: String,
}

/// What is held of one feed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FeedStatus {
    /// The feed.
    pub feed: FeedId,
    /// Whether the trust bundle no longer names it: what it revoked stays revoked.
    pub retired: bool,
    /// The newest head whose set is complete; none before the first.
    pub complete: Option<HeadStatus>,
    /// The newest head that is known, where its set is not complete.
    pub newest_seq: Option<u64>,
    /// How its set is being made complete, in words; none where nothing is missing.
    pub gathering: Option<String>,
    /// How old what is known is by the powered-on clock, in seconds; none where no head tells.
    pub age_s: Option<u64>,
    /// Whether the next head is overdue.
    pub overdue: bool,
    /// Rules: what they cover and until when.
    pub rules: Vec<RuleStatus>,
    /// How many whole ids of blocks.
    pub exact: u64,
    /// Buckets of serials.
    pub serials: Vec<BucketStatus>,
    /// Buckets of fingerprints.
    pub fingerprints: Vec<BucketStatus>,
    /// Bytes of the complete set.
    pub set_bytes: u64,
    /// Entries that are known beyond the complete set. They count, and are in the numbers above.
    pub beyond: u64,
}

/// A head.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HeadStatus {
    /// The feed's era.
    pub era: u32,
    /// The head's number.
    pub seq: u64,
    /// Its digest.
    pub digest: String,
    /// When it was signed, RFC 3339.
    pub issued: String,
    /// When the next one is due, RFC 3339.
    pub due: String,
}

/// One rule.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RuleStatus {
    /// What it covers, in words.
    pub covers: String,
    /// Until when, RFC 3339.
    pub until: String,
}

/// One bucket.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BucketStatus {
    /// When the tokens expire that it is about, in words.
    pub slot: String,
    /// When it is dropped, RFC 3339.
    pub ends: String,
    /// How many are revoked.
    pub revoked: u64,
}

/// Body of the answer to `POST /v1/revocations/check`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CheckedReply {
    /// Whether it is revoked.
    pub revoked: bool,
    /// The feed that says so; none where this device ended it itself, or where it is not revoked.
    pub feed: Option<FeedId>,
    /// What says so, in words.
    pub by: Option<String>,
    /// The emergency key that says so, if one does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub emergency: Option<EmergencyRevoked>,
}

/// Body of the answer to `GET /v1/revocations/export`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ExportedReply {
    /// The file, base64url without padding.
    pub file: String,
    /// The trust bundle in it.
    pub bundle_version: u64,
    /// The policy in it, if there is one.
    pub policy_version: Option<u64>,
    /// The feeds in it, and how far they are complete.
    pub feeds: Vec<ExportedFeed>,
    /// How many statements of emergency keys are in it.
    pub emergencies: u64,
}

/// A feed in a file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ExportedFeed {
    /// The feed.
    pub feed: FeedId,
    /// The head's number.
    pub seq: u64,
}

/// Body of the answer to `POST /v1/revocations/import`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ImportedReply {
    /// Whether nothing in it was refused.
    pub ok: bool,
    /// What became of each part, in the order in which they were taken.
    pub parts: Vec<ImportedPart>,
}

/// A part of a file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ImportedPart {
    /// Which.
    pub part: String,
    /// What became of it.
    pub outcome: Outcome,
    /// Why it was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What became of a part.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It counts from now on.
    Applied,
    /// It says nothing new.
    Known,
    /// It is not believed.
    Refused,
}
