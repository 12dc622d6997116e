//! Faults of the broker, from a restart to malice.
//!
//! Owns: what it keeps back, loses, forges and gives out again, and what it does to bytes.
//! Never: makes anything happen.
//! Read next: `broker.rs` of the world, which does it.

use serde::{Deserialize, Serialize};

use super::text::FaultText;
use super::{Kind, Named};

/// The faults of this family.
pub(super) const NAMES: &[Named] = &[
    ("broker.ack", &["what"], AckTrick::SAYS, |text| Ok(Kind::BrokerAck(text.one_of(AckTrick::ALL)?))),
    ("broker.delay", &["for", "what", "late"], Statement::SAYS, |text| {
        let (lasts, what) = (text.lasts()?, text.one_of(Statement::ALL)?);
        Ok(Kind::BrokerDelay { lasts, what, late: Some(text.late("how late each comes")?) })
    }),
    ("broker.emergency", &["what"], EmergencyTrick::SAYS, |text| {
        Ok(Kind::BrokerEmergency(text.one_of(EmergencyTrick::ALL)?))
    }),
    ("broker.feed", &["what"], FeedTrick::SAYS, |text| Ok(Kind::BrokerFeed(text.one_of(FeedTrick::ALL)?))),
    ("broker.forget", &["what"], Forgotten::SAYS, |text| Ok(Kind::BrokerForget(text.one_of(Forgotten::ALL)?))),
    ("broker.hostile", &["for", "drop?", "duplicate?", "delay?", "forge?"], &[], |text| {
        Ok(Kind::BrokerHostile { lasts: text.lasts()?, how: text.hostility()? })
    }),
    ("broker.lose", &["for"], &[], |text| Ok(Kind::BrokerRestart { lasts: text.lasts()?, retained: Retained::Lost })),
    ("broker.replay", &[], &[], |_| Ok(Kind::BrokerReplay)),
    ("broker.restart", &["for"], &[], |text| {
        Ok(Kind::BrokerRestart { lasts: text.lasts()?, retained: Retained::Kept })
    }),
    ("broker.restore", &["age"], &[], |text| Ok(Kind::BrokerRestore { age: text.age("of the backup")? })),
    ("broker.withhold", &["for", "what"], Statement::SAYS, |text| {
        let (lasts, what) = (text.lasts()?, text.one_of(Statement::ALL)?);
        Ok(Kind::BrokerDelay { lasts, what, late: None })
    }),
    ("wire.acknowledge", &[], WireTrick::SAYS, |_| Ok(Kind::Wire(WireTrick::Acknowledge))),
    ("wire.garbage", &[], WireTrick::SAYS, |_| Ok(Kind::Wire(WireTrick::Garbage))),
    ("wire.grant", &[], WireTrick::SAYS, |_| Ok(Kind::Wire(WireTrick::Grant))),
    ("wire.large", &[], WireTrick::SAYS, |_| Ok(Kind::Wire(WireTrick::Large))),
    ("wire.reuse", &[], WireTrick::SAYS, |_| Ok(Kind::Wire(WireTrick::Reuse))),
];

named! {
    /// A kind of signed statement that a broker can keep back.
    pub enum Statement {
        /// Acknowledgements for gateways.
        "acks" => Acks,
        /// Answers for gateways: tokens and grants.
        "answers" => Answers,
        /// Revocation heads.
        "heads" => Heads,
        /// Revocation lists, piece by piece.
        "lists" => Lists,
    }
}

named! {
    /// What a broker does to the acknowledgement of a `hello`.
    pub enum AckTrick {
        /// Before it comes another with its nonce, signed for another fleet by the very key that signs for this one.
        "broker.ack foreign" => Foreign,
        /// It is kept back until its nonce is over.
        "broker.ack late" => Late,
        /// It comes twice.
        "broker.ack twice" => Twice,
        /// Before it comes another with its nonce, signed by a key of the fleet that is no service key.
        "broker.ack wrong_key" => WrongKey,
    }
}

named! {
    /// What a broker gives out on a topic of the feed.
    pub enum FeedTrick {
        /// The next head, signed by the feed's key of before the last rotation.
        "broker.feed dropped_key" => DroppedKey,
        /// More bytes than any message has.
        "broker.feed endless" => Endless,
        /// A head dated so far ahead that a publisher could have come to its number by then, signed by the feed's key, which somebody
        /// stole.
        "broker.feed far_ahead" => FarAhead,
        /// A head with nearly the highest number that there is, signed by the feed's key, which somebody stole, or by a publisher
        /// gone mad.
        "broker.feed fast_forward" => FastForward,
        /// The next head, signed by the feed's very key for another fleet.
        "broker.feed foreign" => Foreign,
        /// A head with a number that a publisher could have come to, signed by the feed's key, which somebody stole. This one a gateway cannot refuse: it waits for a set that
        /// nobody has, until the root keys put another key in the place of that one.
        "broker.feed leap" => Leap,
        /// The newest head, where another is kept.
        "broker.feed misplaced" => Misplaced,
        /// A next trust bundle with a thief's root key, which that key alone has signed.
        "broker.feed new_roots_alone" => NewRootsAlone,
        /// A next trust bundle with a thief's root key, which all the others have signed, and that key has not.
        "broker.feed old_roots_alone" => OldRootsAlone,
        /// In place of the next head another for its position, signed by the feed's key, which somebody stole. This one a
        /// gateway cannot refuse: it must come back to the fleet's.
        "broker.feed substitute" => Substitute,
        /// Another head for the position that the gateway holds, signed by the feed's key, which somebody stole.
        "broker.feed twin" => Twin,
    }
}

named! {
    /// What a broker keeps at the place of an operator's emergency key.
    pub enum EmergencyTrick {
        /// The newest statement of another key, and his at the place of that.
        "broker.emergency mixed" => Mixed,
        /// One that he gave it before the last.
        "broker.emergency old" => Old,
    }
}

named! {
    /// What a broker loses of what it has retained of the feed.
    pub enum Forgotten {
        /// All of it.
        "broker.forget feed" => Feed,
        /// The deltas and the skips.
        "broker.forget ladder" => Ladder,
        /// The snapshot.
        "broker.forget snapshot" => Snapshot,
        /// The deltas and the skips, and the snapshot is the first that it ever had.
        "broker.forget to_first_snapshot" => ToFirstSnapshot,
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

named! {
    /// What a broker does to the bytes on a gateway's connection. Only the wire level has them.
    pub enum WireTrick {
        /// It acknowledges the message after the last that it has heard, whether or not there is one.
        "wire.acknowledge" => Acknowledge,
        /// It writes bytes that are no packet between two.
        "wire.garbage" => Garbage,
        /// It grants a subscription that nobody asked for.
        "wire.grant" => Grant,
        /// It writes a packet that is larger than the gateway said it takes.
        "wire.large" => Large,
        /// It gives two messages at once the same packet id.
        "wire.reuse" => Reuse,
    }
}

impl FaultText {
    fn hostility(&mut self) -> Result<Hostility, String> {
        let how = Hostility {
            drop: percent(self.drop.take())?,
            duplicate: percent(self.duplicate.take())?,
            delay: percent(self.delay.take())?,
            forge: percent(self.forge.take())?,
        };
        match how == Hostility::default() {
            true => Err("needs `drop`, `duplicate`, `delay` or `forge`: of a hundred messages so many".into()),
            false => Ok(how),
        }
    }
}

fn percent(value: Option<u32>) -> Result<u32, String> {
    match value.unwrap_or(0) {
        value @ 0..=100 => Ok(value),
        value => Err(format!("{value} is no percentage")),
    }
}
