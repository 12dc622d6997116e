//! Faults of the broker, from a restart to malice.
//!
//! Owns: what it keeps back, loses, forges and gives out again, and what it does to bytes.
//! Never: makes anything happen.
//! Read next: `broker.rs` of the world, which does it.

use serde::{Deserialize, Serialize};

use super::text::FaultText;
use super::{whats, Kind, Named};

/// The faults of this family.
pub(super) const NAMES: &[Named] = &[
    ("broker.ack", &whats(&AckTrick::ALL), |text| Ok(Kind::BrokerAck(text.one_of(&AckTrick::ALL)?))),
    ("broker.delay", &whats(&Statement::ALL), |text| {
        let (lasts, what) = (text.lasts()?, text.one_of(&Statement::ALL)?);
        Ok(Kind::BrokerDelay { lasts, what, late: Some(text.late("how late each comes")?) })
    }),
    ("broker.emergency", &whats(&EmergencyTrick::ALL), |text| {
        Ok(Kind::BrokerEmergency(text.one_of(&EmergencyTrick::ALL)?))
    }),
    ("broker.feed", &whats(&FeedTrick::ALL), |text| Ok(Kind::BrokerFeed(text.one_of(&FeedTrick::ALL)?))),
    ("broker.forget", &whats(&Forgotten::ALL), |text| Ok(Kind::BrokerForget(text.one_of(&Forgotten::ALL)?))),
    ("broker.hostile", &[], |text| Ok(Kind::BrokerHostile { lasts: text.lasts()?, how: text.hostility()? })),
    ("broker.lose", &[], |text| Ok(Kind::BrokerRestart { lasts: text.lasts()?, retained: Retained::Lost })),
    ("broker.replay", &[], |_| Ok(Kind::BrokerReplay)),
    ("broker.restart", &[], |text| Ok(Kind::BrokerRestart { lasts: text.lasts()?, retained: Retained::Kept })),
    ("broker.restore", &[], |text| Ok(Kind::BrokerRestore { age: text.age("of the backup")? })),
    ("broker.withhold", &whats(&Statement::ALL), |text| {
        let (lasts, what) = (text.lasts()?, text.one_of(&Statement::ALL)?);
        Ok(Kind::BrokerDelay { lasts, what, late: None })
    }),
    ("wire.acknowledge", &[], |_| Ok(Kind::Wire(WireTrick::Acknowledge))),
    ("wire.garbage", &[], |_| Ok(Kind::Wire(WireTrick::Garbage))),
    ("wire.grant", &[], |_| Ok(Kind::Wire(WireTrick::Grant))),
    ("wire.large", &[], |_| Ok(Kind::Wire(WireTrick::Large))),
    ("wire.reuse", &[], |_| Ok(Kind::Wire(WireTrick::Reuse))),
];

/// A kind of signed statement that a broker can keep back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Statement {
    /// Acknowledgements for gateways.
    Acks,
    /// Answers for gateways: tokens and grants.
    Answers,
    /// Revocation heads.
    Heads,
    /// Revocation lists, piece by piece.
    Lists,
}

impl Statement {
    /// The names in scenario files, as `what`.
    pub const ALL: [(&'static str, Self); 4] =
        [("acks", Self::Acks), ("answers", Self::Answers), ("heads", Self::Heads), ("lists", Self::Lists)];
}

/// What a broker does to the acknowledgement of a `hello`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AckTrick {
    /// Before it comes another with its nonce, signed for another fleet by the very key that signs for this one.
    Foreign,
    /// It is kept back until its nonce is over.
    Late,
    /// It comes twice.
    Twice,
    /// Before it comes another with its nonce, signed by a key of the fleet that is no service key.
    WrongKey,
}

impl AckTrick {
    /// The names in scenario files, as `what`.
    pub const ALL: [(&'static str, Self); 4] =
        [("foreign", Self::Foreign), ("late", Self::Late), ("twice", Self::Twice), ("wrong_key", Self::WrongKey)];

    /// The name under which its effects are counted.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Foreign => "broker.ack foreign",
            Self::Late => "broker.ack late",
            Self::Twice => "broker.ack twice",
            Self::WrongKey => "broker.ack wrong_key",
        }
    }
}

/// What a broker gives out on a topic of the feed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FeedTrick {
    /// The next head, signed by the feed's key of before the last rotation.
    DroppedKey,
    /// More bytes than any message has.
    Endless,
    /// A head dated so far ahead that a publisher could have come to its number by then, signed by the feed's key, which somebody
    /// stole.
    FarAhead,
    /// A head with nearly the highest number that there is, signed by the feed's key, which somebody stole, or by a publisher
    /// gone mad.
    FastForward,
    /// The next head, signed by the feed's very key for another fleet.
    Foreign,
    /// The same with a number that a publisher could have come to. This one a gateway cannot refuse: it waits for a set that
    /// nobody has, until the root keys put another key in the place of that one.
    Leap,
    /// The newest head, where another is kept.
    Misplaced,
    /// A next trust bundle with a thief's root key, which that key alone has signed,
    NewRootsAlone,
    /// or which all the others have signed, and that key has not.
    OldRootsAlone,
    /// In place of the next head another for its position, signed by the feed's key, which somebody stole. This one a
    /// gateway cannot refuse: it must come back to the fleet's.
    Substitute,
    /// Another head for the position that the gateway holds, signed by the feed's key, which somebody stole.
    Twin,
}

impl FeedTrick {
    /// The names in scenario files, as `what`.
    pub const ALL: [(&'static str, Self); 11] = [
        ("dropped_key", Self::DroppedKey),
        ("endless", Self::Endless),
        ("far_ahead", Self::FarAhead),
        ("fast_forward", Self::FastForward),
        ("foreign", Self::Foreign),
        ("leap", Self::Leap),
        ("misplaced", Self::Misplaced),
        ("new_roots_alone", Self::NewRootsAlone),
        ("old_roots_alone", Self::OldRootsAlone),
        ("substitute", Self::Substitute),
        ("twin", Self::Twin),
    ];

    /// The name under which its effects are counted.
    pub const fn name(self) -> &'static str {
        match self {
            Self::DroppedKey => "broker.feed dropped_key",
            Self::Endless => "broker.feed endless",
            Self::FarAhead => "broker.feed far_ahead",
            Self::FastForward => "broker.feed fast_forward",
            Self::Foreign => "broker.feed foreign",
            Self::Leap => "broker.feed leap",
            Self::Misplaced => "broker.feed misplaced",
            Self::NewRootsAlone => "broker.feed new_roots_alone",
            Self::OldRootsAlone => "broker.feed old_roots_alone",
            Self::Substitute => "broker.feed substitute",
            Self::Twin => "broker.feed twin",
        }
    }
}

/// What a broker keeps at the place of an operator's emergency key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EmergencyTrick {
    /// The newest statement of another key, and his at the place of that.
    Mixed,
    /// One that he gave it before the last.
    Old,
}

impl EmergencyTrick {
    /// The names in scenario files, as `what`.
    pub const ALL: [(&'static str, Self); 2] = [("mixed", Self::Mixed), ("old", Self::Old)];

    /// The name under which its effects are counted.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mixed => "broker.emergency mixed",
            Self::Old => "broker.emergency old",
        }
    }
}

/// What a broker loses of what it has retained of the feed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Forgotten {
    /// All of it.
    Feed,
    /// The deltas and the skips.
    Ladder,
    /// The snapshot.
    Snapshot,
    /// The deltas and the skips, and the snapshot is the first that it ever had.
    ToFirstSnapshot,
}

impl Forgotten {
    /// The names in scenario files, as `what`.
    pub const ALL: [(&'static str, Self); 4] = [
        ("feed", Self::Feed),
        ("ladder", Self::Ladder),
        ("snapshot", Self::Snapshot),
        ("to_first_snapshot", Self::ToFirstSnapshot),
    ];

    /// The name under which its effects are counted.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Feed => "broker.forget feed",
            Self::Ladder => "broker.forget ladder",
            Self::Snapshot => "broker.forget snapshot",
            Self::ToFirstSnapshot => "broker.forget to_first_snapshot",
        }
    }
}

/// How a broker treats messages, in so many of a hundred cases each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Hostility {
    /// Acknowledged and thrown away.
    pub drop: u32,
    /// Delivered twice.
    pub duplicate: u32,
    /// Delivered long after.
    pub delay: u32,
    /// Delivered with something changed.
    pub forge: u32,
}

impl Hostility {
    /// The names under which the effects of what it does are counted.
    pub(crate) fn names(&self) -> impl Iterator<Item = &'static str> {
        let all = [
            (self.drop, "broker.hostile drop"),
            (self.duplicate, "broker.hostile duplicate"),
            (self.delay, "broker.hostile delay"),
            (self.forge, "broker.hostile forge"),
        ];
        all.into_iter().filter(|(percent, _)| *percent > 0).map(|(_, name)| name)
    }
}

/// What a broker has after its restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Retained {
    /// All that it had.
    Kept,
    /// Nothing.
    Lost,
}

/// What a broker does to the bytes on a gateway's connection. Only the wire level has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WireTrick {
    /// It acknowledges the message after the last that it has heard, whether or not there is one.
    Acknowledge,
    /// It writes bytes that are no packet between two.
    Garbage,
    /// It grants a subscription that nobody asked for.
    Grant,
    /// It writes a packet that is larger than the gateway said it takes.
    Large,
    /// It gives two messages at once the same packet id.
    Reuse,
}

impl WireTrick {
    /// The name in scenario files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Acknowledge => "wire.acknowledge",
            Self::Garbage => "wire.garbage",
            Self::Grant => "wire.grant",
            Self::Large => "wire.large",
            Self::Reuse => "wire.reuse",
        }
    }
}

impl FaultText {
    fn hostility(&mut self) -> Result<Hostility, String> {
        Ok(Hostility {
            drop: percent(self.drop.take())?,
            duplicate: percent(self.duplicate.take())?,
            delay: percent(self.delay.take())?,
            forge: percent(self.forge.take())?,
        })
    }
}

fn percent(value: Option<u32>) -> Result<u32, String> {
    match value.unwrap_or(0) {
        value @ 0..=100 => Ok(value),
        value => Err(format!("{value} is no percentage")),
    }
}
