//! What both sides sign and send.
//!
//! Owns: the types, their bytes and their limits: the signed [`envelope`], [`seal`]ing, the trust [`bundle`], the
//! [`token`] vocabulary, the [`policy`] document, [`revocation`] lists and sets, [`audit`] records, [`enrol`]ment and
//! what goes over the [`link`], signed [`time`] that anybody may carry, [`proposal`]s that go round among the root keys.
//! Never: decides what to do about them, does I/O, reads a clock.
//! Read next: `envelope.rs`, which everything else is wrapped in.

pub mod arguments;
pub mod audit;
pub mod biscuit;
pub mod bundle;
pub mod enrol;
pub mod envelope;
pub mod identity;
pub mod json;
pub mod link;
pub mod percent;
pub mod policy;
pub mod proposal;
pub mod revocation;
pub mod seal;
pub mod time;
pub mod token;
pub mod verified;

use serde::de::DeserializeOwned;
use serde::Serialize;

use crate::ids::{FeedId, Hash};

/// The most bytes that one MQTT message of ours has.
pub const MESSAGE_BYTES_MAX: usize = 32 * 1024;

/// Why bytes that arrived were refused. The text is for the operator who reads the audit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// More bytes than such a thing may have.
    #[error("too large: {bytes} bytes, the limit is {limit}")]
    TooLarge {
        /// Bytes that arrived.
        bytes: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// No valid encoding, or a value that no such thing may have.
    #[error("malformed: {0}")]
    Malformed(&'static str),
    /// A clause of a policy that could never come out as it was meant: which, and why.
    #[error("malformed: {0}")]
    Clause(String),
    /// Signed by a key that has no such role here.
    #[error("signed by a key without this role; {valid} of {needed} signatures needed")]
    UnknownKey {
        /// Distinct valid signatures found.
        valid: usize,
        /// How many it takes.
        needed: usize,
    },
    /// A signature by a known key does not fit the content.
    #[error("bad signature")]
    BadSignature,
    /// Made for another fleet.
    #[error("made for another fleet")]
    WrongFleet,
    /// Made for another device.
    #[error("made for another device")]
    WrongDevice,
    /// Older than what is already known.
    #[error("rolled back: {offered} offered, {known} is known")]
    RolledBack {
        /// The position offered.
        offered: u64,
        /// The position known.
        known: u64,
    },
    /// Further ahead of what is known than any publisher can have come: a stolen key, or a publisher gone mad.
    #[error("leaps ahead: {offered} offered, {known} is known, and none can be past {most} that was signed then")]
    LeapsAhead {
        /// The position offered.
        offered: u64,
        /// The position known.
        known: u64,
        /// The highest that is possible.
        most: u64,
    },
    /// The same position with other content: proof that somebody signed twice.
    #[error("equivocation: position {position} was seen with other content")]
    Equivocation {
        /// The position signed twice.
        position: u64,
    },
    /// Two contents for one counter of an emergency key: proof that its holder, or a thief, signed twice.
    #[error("equivocation: counter {counter} was signed for two contents, {held} and {offered}")]
    SignedTwice {
        /// The counter.
        counter: u64,
        /// Digest of the content that is held.
        held: Hash,
        /// Digest of the other.
        offered: Hash,
    },
    /// A rule of an emergency key that is to hold for longer than such a key may say.
    #[error("a rule that holds for {life_s} s: an emergency key revokes for 72 h at most")]
    LivesTooLong {
        /// How long, in seconds.
        life_s: u64,
    },
    /// Versions come one by one, and one is missing before this one.
    #[error("out of order: {offered} offered, {expected} is next")]
    OutOfOrder {
        /// The version offered.
        offered: u64,
        /// The version that can be taken.
        expected: u64,
    },
    /// Of an era of its feed that no trust bundle has begun.
    #[error("of era {offered} of its feed, and the trust bundle names era {known}: only the root keys begin one")]
    WrongEra {
        /// The era offered.
        offered: u32,
        /// The era in force.
        known: u32,
    },
    /// Of a feed that this device does not hold.
    #[error("of feed {offered}, and the trust bundle gives this device feed {own}")]
    OtherFeed {
        /// The feed offered.
        offered: FeedId,
        /// The device's.
        own: FeedId,
    },
    /// Its digest is not the one that was announced.
    #[error("does not match the announced digest")]
    DigestMismatch,
    /// The nonce is not outstanding: replayed, late, or never ours.
    #[error("answers no outstanding nonce")]
    UnknownNonce,
    /// The system clock shows a time before the floor.
    #[error("the system clock is behind what is proven to be past; it is not believed")]
    ClockBehind,
    /// A round trip proves that E is later than it can be.
    #[error("the fleet's answer proves the time floor to be {ahead_s} s ahead; have the root keys sign a time reset")]
    FloorAhead {
        /// By how much, in seconds.
        ahead_s: u64,
    },
    /// A signed time that cannot be true.
    #[error("signed time lies past the proven ceiling")]
    PostDated,
    /// Sealed to another key, or damaged.
    #[error("cannot be opened with this device's sealing key")]
    CannotOpen,
    /// Arrived on a topic that it does not belong to.
    #[error("wrong topic")]
    WrongTopic,
}

impl Refused {
    /// The kind of refusal, without what differs from case to case.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "too_large",
            Self::Malformed(_) | Self::Clause(_) => "malformed",
            Self::UnknownKey { .. } => "unknown_key",
            Self::BadSignature => "bad_signature",
            Self::WrongFleet => "wrong_fleet",
            Self::WrongDevice => "wrong_device",
            Self::RolledBack { .. } => "rolled_back",
            Self::LeapsAhead { .. } => "leaps_ahead",
            Self::Equivocation { .. } => "equivocation",
            Self::SignedTwice { .. } => "signed_twice",
            Self::LivesTooLong { .. } => "lives_too_long",
            Self::OutOfOrder { .. } => "out_of_order",
            Self::WrongEra { .. } => "wrong_era",
            Self::OtherFeed { .. } => "other_feed",
            Self::DigestMismatch => "digest_mismatch",
            Self::UnknownNonce => "unknown_nonce",
            Self::ClockBehind => "clock_behind",
            Self::FloorAhead { .. } => "floor_ahead",
            Self::PostDated => "post_dated",
            Self::CannotOpen => "cannot_open",
            Self::WrongTopic => "wrong_topic",
        }
    }
}

/// The postcard bytes of a value.
///
/// # Panics
/// Never: the types of this crate hold nothing that postcard cannot write, and a vector always has room.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_stdvec(value).expect("our types serialize into a vector")
}

/// The value of postcard bytes, all of them: what is left over makes them malformed.
///
/// # Errors
/// [`Refused::TooLarge`] past `limit` bytes, else [`Refused::Malformed`].
pub fn decode<T: DeserializeOwned>(bytes: &[u8], limit: usize) -> Result<T, Refused> {
    if bytes.len() > limit {
        return Err(Refused::TooLarge { bytes: bytes.len(), limit });
    }
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        Ok(_) => Err(Refused::Malformed("bytes left over")),
        Err(_) => Err(Refused::Malformed("no valid encoding")),
    }
}
