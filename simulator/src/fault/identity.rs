//! What befalls keys, and what operators and thieves do with them.
//!
//! Owns: what is revoked, by whom, which key is replaced, and which group a gateway comes to.
//! Never: makes anything happen.
//! Read next: `operator.rs` and `emergency.rs`.

use hardtack::ids::GroupId;
use serde::{Deserialize, Serialize};

use super::text::FaultText;
use super::{Kind, Named};

/// The longest that an operator's emergency rule is made to live, in milliseconds.
const EMERGENCY_LIFE_MAX: u64 = 71 * 3_600_000;

/// The faults of this family.
pub(super) const NAMES: &[Named] = &[
    ("emergency", &["what", "life"], EmergencyWhat::SAYS, |text| {
        Ok(Kind::Emergency { what: text.one_of(EmergencyWhat::ALL)?, life: text.emergency_life()? })
    }),
    ("emergency.thief", &["what"], EmergencyTheft::SAYS, |text| {
        Ok(Kind::EmergencyThief(text.one_of(EmergencyTheft::ALL)?))
    }),
    ("group.move", &["to"], &[], |text| Ok(Kind::GroupMove(text.move_to()?))),
    ("key.rotate", &["what"], RotateWhat::SAYS, |text| Ok(Kind::KeyRotate(text.one_of(RotateWhat::ALL)?))),
    ("revoke", &["what"], RevokeWhat::SAYS, |text| Ok(Kind::Revoke(text.one_of(RevokeWhat::ALL)?))),
];

named! {
    /// What an operator revokes with his emergency key.
    pub enum EmergencyWhat {
        /// Everything: every gateway locks.
        "emergency all" => All,
        /// The gateway itself: it locks, and keeps what it could work with.
        "emergency device" => Device,
        /// The gateway's fallback grant.
        "emergency grant" => Grant,
        /// All that the owner of the gateways' grants may do.
        "emergency owner" => Owner,
        /// A task.
        "emergency task" => Task,
    }
}

named! {
    /// What somebody signs with an emergency key that he stole.
    pub enum EmergencyTheft {
        /// A rule on the owner, dated as far ahead as a gateway without a ceiling believes.
        "emergency.thief ahead" => Ahead,
        /// A rule on everything, dated as far ahead, that ends later than those on the owner do.
        "emergency.thief ahead_all" => AheadAll,
        /// A rule on the gateway, which leaves out all that he said before.
        "emergency.thief device" => Device,
        /// A rule on the owner, dated further ahead than time is believed to jump.
        "emergency.thief far_ahead" => FarAhead,
        /// A rule on nothing that there is, which leaves out all that he said before.
        "emergency.thief left_out" => LeftOut,
        /// A rule on the owner that lives for longer than such a rule may.
        "emergency.thief long" => Long,
        /// Another content for the counter before the last.
        "emergency.thief old" => Old,
        /// A rule on the owner, which leaves out all that he said before.
        "emergency.thief owner" => Owner,
        /// Another content for the last counter.
        "emergency.thief twin" => Twin,
    }
}

/// Which group a gateway is moved to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MoveTo {
    /// One of the scenario's or none, by chance.
    Any,
    /// This one.
    Group(GroupId),
    /// None.
    None,
}

named! {
    /// Which key is replaced.
    pub enum RotateWhat {
        /// The feed's.
        "key.rotate feed" => Feed,
        /// That of the provider of identity documents: the one before is believed no more.
        "key.rotate identity" => Identity,
        /// The root key.
        "key.rotate root" => Root,
        /// The service's.
        "key.rotate service" => Service,
    }
}

named! {
    /// What the operator revokes.
    pub enum RevokeWhat {
        /// Everything, in the whole fleet: every gateway locks, and wipes what it could work with.
        "revoke all" => All,
        /// The block that this agent made, and so one credential.
        "revoke block" => Block,
        /// A token that the issuer minted for the gateway, that somebody carried there, and that is in no wallet.
        "revoke carried" => Carried,
        /// The gateway itself: it locks, and wipes what it could work with.
        "revoke device" => Device,
        /// The gateway's fallback grant. A new one is made for it.
        "revoke grant" => Grant,
        /// Every token for the gateway's group. One is carried there.
        "revoke group" => Group,
        /// The owner of all grants. Each gateway gets another, of another owner.
        "revoke owner" => Owner,
        /// A task.
        "revoke task" => Task,
        /// A credential that is at hand: its last block, filed by when its issuer's block expires.
        "revoke token" => Token,
    }
}

impl RevokeWhat {
    /// Whether it is about the whole fleet, whichever gateways are named.
    pub(crate) const fn is_of_all(self) -> bool {
        match self {
            Self::All | Self::Owner => true,
            Self::Block | Self::Carried | Self::Device | Self::Grant | Self::Group | Self::Task | Self::Token => false,
        }
    }
}

impl FaultText {
    fn emergency_life(&mut self) -> Result<u64, String> {
        let life = self.life.take().filter(|life| (1000..=EMERGENCY_LIFE_MAX).contains(&life.0));
        life.map(|life| life.0).ok_or_else(|| "needs `life`, of the rule, 1s to 71h".into())
    }

    fn move_to(&mut self) -> Result<MoveTo, String> {
        match self.to.take().as_deref() {
            Some("any") => Ok(MoveTo::Any),
            Some("none") => Ok(MoveTo::None),
            Some(group) => group.parse().map(MoveTo::Group).map_err(|_| format!("no group is called {group:?}")),
            None => Err("needs `to`: the name of a group, \"none\" or \"any\"".into()),
        }
    }
}
