//! What befalls keys, and what operators and thieves do with them.
//!
//! Owns: what is revoked, by whom, which key is replaced, and which group a gateway comes to.
//! Never: makes anything happen.
//! Read next: `operator.rs` and `emergency.rs`.

use hardtack::ids::GroupId;
use serde::{Deserialize, Serialize};

use super::text::FaultText;
use super::{whats, Kind, Named};

/// The longest that an operator's emergency rule is made to live, in milliseconds.
const EMERGENCY_LIFE_MAX: u64 = 71 * 3_600_000;

/// The faults of this family.
pub(super) const NAMES: &[Named] = &[
    ("emergency", &whats(&EmergencyWhat::ALL), |text| {
        Ok(Kind::Emergency { what: text.one_of(&EmergencyWhat::ALL)?, life: text.emergency_life()? })
    }),
    ("emergency.thief", &whats(&EmergencyTheft::ALL), |text| {
        Ok(Kind::EmergencyThief(text.one_of(&EmergencyTheft::ALL)?))
    }),
    ("group.move", &[], |text| Ok(Kind::GroupMove(text.move_to()?))),
    ("key.rotate", &whats(&RotateWhat::ALL), |text| Ok(Kind::KeyRotate(text.one_of(&RotateWhat::ALL)?))),
    ("revoke", &whats(&RevokeWhat::ALL), |text| Ok(Kind::Revoke(text.one_of(&RevokeWhat::ALL)?))),
];

/// What an operator revokes with his emergency key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EmergencyWhat {
    /// Everything: every gateway locks.
    All,
    /// The gateway itself: it locks, and keeps what it could work with.
    Device,
    /// The gateway's fallback grant.
    Grant,
    /// All that the owner of the gateways' grants may do.
    Owner,
    /// A task.
    Task,
}

impl EmergencyWhat {
    /// The names in scenario files, as `what`.
    pub const ALL: [(&'static str, Self); 5] = [
        ("all", Self::All),
        ("device", Self::Device),
        ("grant", Self::Grant),
        ("owner", Self::Owner),
        ("task", Self::Task),
    ];

    /// The name under which its effects are counted.
    pub const fn name(self) -> &'static str {
        match self {
            Self::All => "emergency all",
            Self::Device => "emergency device",
            Self::Grant => "emergency grant",
            Self::Owner => "emergency owner",
            Self::Task => "emergency task",
        }
    }
}

/// What somebody signs with an emergency key that he stole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EmergencyTheft {
    /// A rule on the owner, dated as far ahead as a gateway without a ceiling believes.
    Ahead,
    /// A rule on everything, dated as far ahead, that ends later than those on the owner do.
    AheadAll,
    /// A rule on the gateway, which leaves out all that he said before.
    Device,
    /// A rule on the owner, dated further ahead than time is believed to jump.
    FarAhead,
    /// A rule on nothing that there is, which leaves out all that he said before.
    LeftOut,
    /// A rule on the owner that lives for longer than such a rule may.
    Long,
    /// Another content for the counter before the last.
    Old,
    /// A rule on the owner, which leaves out all that he said before.
    Owner,
    /// Another content for the last counter.
    Twin,
}

impl EmergencyTheft {
    /// The names in scenario files, as `what`.
    pub const ALL: [(&'static str, Self); 9] = [
        ("ahead", Self::Ahead),
        ("ahead_all", Self::AheadAll),
        ("device", Self::Device),
        ("far_ahead", Self::FarAhead),
        ("left_out", Self::LeftOut),
        ("long", Self::Long),
        ("old", Self::Old),
        ("owner", Self::Owner),
        ("twin", Self::Twin),
    ];

    /// The name under which its effects are counted.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ahead => "emergency.thief ahead",
            Self::AheadAll => "emergency.thief ahead_all",
            Self::Device => "emergency.thief device",
            Self::FarAhead => "emergency.thief far_ahead",
            Self::LeftOut => "emergency.thief left_out",
            Self::Long => "emergency.thief long",
            Self::Old => "emergency.thief old",
            Self::Owner => "emergency.thief owner",
            Self::Twin => "emergency.thief twin",
        }
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

/// Which key is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RotateWhat {
    /// The feed's.
    Feed,
    /// That of the provider of identity documents: the one before is believed no more.
    Identity,
    /// The root key.
    Root,
    /// The service's.
    Service,
}

impl RotateWhat {
    /// The names in scenario files, as `what`.
    pub const ALL: [(&'static str, Self); 4] =
        [("feed", Self::Feed), ("identity", Self::Identity), ("root", Self::Root), ("service", Self::Service)];

    /// The name under which its effects are counted.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Feed => "key.rotate feed",
            Self::Identity => "key.rotate identity",
            Self::Root => "key.rotate root",
            Self::Service => "key.rotate service",
        }
    }
}

/// What the operator revokes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RevokeWhat {
    /// Everything, in the whole fleet: every gateway locks, and wipes what it could work with.
    All,
    /// The block that this agent made, and so one credential.
    Block,
    /// A token that the issuer minted for the gateway, that somebody carried there, and that is in no wallet.
    Carried,
    /// The gateway itself: it locks, and wipes what it could work with.
    Device,
    /// The gateway's fallback grant. A new one is made for it.
    Grant,
    /// Every token for the gateway's group. One is carried there.
    Group,
    /// The owner of all grants. Each gateway gets another, of another owner.
    Owner,
    /// A task.
    Task,
    /// A credential that is at hand: its last block, filed by when its issuer's block expires.
    Token,
}

impl RevokeWhat {
    /// The names in scenario files, as `what`.
    pub const ALL: [(&'static str, Self); 9] = [
        ("all", Self::All),
        ("block", Self::Block),
        ("carried", Self::Carried),
        ("device", Self::Device),
        ("grant", Self::Grant),
        ("group", Self::Group),
        ("owner", Self::Owner),
        ("task", Self::Task),
        ("token", Self::Token),
    ];

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
