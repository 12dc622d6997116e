//! What happens: single acts.
//!
//! Owns: [`Act`], with the form that plans and scenario files have it in.
//! Never: says when it happens, or draws what.
//! Read next: `words.rs`, which says it in plain words.

use serde::{Deserialize, Serialize};

use crate::fault::{
    AckTrick, Boundary, Damage, Direction, EmergencyTheft, EmergencyTrick, EmergencyWhat, FeedTrick, Firmware,
    FloodWhat, Forgotten, Hostility, Misuse, MoveTo, Overstep, Part, Refusal, ResetWhat, Retained, RevokeWhat,
    RotateWhat, Statement, Sync, WallAfter, WireTrick,
};

/// One thing that happens. Where it is about a gateway, `device` is its number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "act", rename_all = "snake_case")]
pub enum Act {
    /// A program asks for a decision.
    Authorize {
        /// The gateway.
        device: u32,
        /// With which token.
        token: TokenChoice,
        /// The class of risk that it names.
        risk: String,
        /// Picks among the tokens of that kind.
        #[serde(with = "draw")]
        pick: u64,
    },
    /// A program begins a task.
    Begin {
        /// The gateway.
        device: u32,
        /// Picks the program and its task.
        #[serde(with = "draw")]
        pick: u64,
    },
    /// The broker tampers with the next acknowledgement of a `hello`.
    BrokerAck {
        /// Of this gateway.
        device: u32,
        /// How.
        trick: AckTrick,
    },
    /// The broker begins or ceases to keep back a kind of statement.
    BrokerDelay {
        /// What.
        what: Statement,
        /// How late each comes; none: not at all.
        late: Option<u64>,
        /// Whether it begins.
        turn: Turn,
    },
    /// The broker begins or ceases to keep back a kind of statement from one gateway, which others are shown.
    BrokerDelayFor {
        /// From this one.
        device: u32,
        /// What.
        what: Statement,
        /// How late each comes; none: not at all.
        late: Option<u64>,
        /// Whether it begins.
        turn: Turn,
    },
    /// The broker keeps a backup of what it has retained.
    BrokerBackup {
        /// Names the backup.
        backup: u32,
    },
    /// The broker keeps another statement at an emergency key's place.
    BrokerEmergency {
        /// Which.
        trick: EmergencyTrick,
        /// Picks among old ones.
        #[serde(with = "draw")]
        pick: u64,
    },
    /// The broker gives a gateway something on a topic of the feed that it must refuse.
    BrokerFeed {
        /// The gateway.
        device: u32,
        /// What.
        trick: FeedTrick,
    },
    /// The broker loses some of what it has retained of the feed.
    BrokerForget {
        /// What.
        what: Forgotten,
    },
    /// The broker turns on everybody.
    BrokerHostile {
        /// How.
        how: Hostility,
    },
    /// The broker sends old messages again.
    BrokerReplay {
        /// To this gateway.
        device: u32,
        /// Picks which.
        #[serde(with = "draw")]
        pick: u64,
    },
    /// The broker goes back to a backup.
    BrokerRestore {
        /// Which.
        backup: u32,
    },
    /// The broker is there again.
    BrokerStart,
    /// The broker goes away.
    BrokerStop {
        /// What it has when it is there again.
        retained: Retained,
    },
    /// An oscillator changes its rate.
    ClockDrift {
        /// The gateway.
        device: u32,
        /// Picks the rate.
        #[serde(with = "draw")]
        pick: u64,
    },
    /// A wall clock stands still, or goes on.
    ClockFreeze {
        /// The gateway.
        device: u32,
        /// Whether it begins.
        turn: Turn,
    },
    /// A wall clock jumps.
    ClockStep {
        /// The gateway.
        device: u32,
        /// By so many milliseconds.
        by: i64,
    },
    /// Somebody runs a copy of a gateway's state folder elsewhere, under its name.
    DiskClone {
        /// The gateway.
        device: u32,
        /// Which copy.
        copy: u32,
    },
    /// Somebody copies a gateway's state folder.
    DiskCopy {
        /// The gateway.
        device: u32,
        /// Names the copy.
        copy: u32,
    },
    /// The supply fails, and the disk is not what it was.
    DiskDamage {
        /// The gateway.
        device: u32,
        /// How long the supply is away.
        lasts: u64,
        /// What happens to the disk.
        damage: Damage,
        /// The copy that is put back.
        copy: u32,
        /// Picks the boundary and what becomes of unsynced writes.
        #[serde(with = "draw")]
        pick: u64,
    },
    /// The file system that the state folder is on refuses writes from now on, or no longer.
    DiskRefuses {
        /// The gateway.
        device: u32,
        /// Which.
        how: Refusal,
        /// Whether it begins.
        turn: Turn,
    },
    /// Syncs of a part of the state folder fail or lie from now on, or work again.
    DiskSync {
        /// The gateway.
        device: u32,
        /// Which part.
        part: Part,
        /// What they do instead.
        how: Sync,
        /// Whether it begins.
        turn: Turn,
    },
    /// A program asks for something that nobody asked for before, with a token that must be refused.
    Distinct {
        /// The gateway.
        device: u32,
        /// Says what.
        #[serde(with = "draw")]
        pick: u64,
    },
    /// An operator revokes with his emergency key.
    Emergency {
        /// Something of this gateway.
        device: u32,
        /// What.
        what: EmergencyWhat,
        /// For how long.
        life: u64,
        /// Picks which.
        #[serde(with = "draw")]
        pick: u64,
    },
    /// Somebody signs with an emergency key that he stole.
    EmergencyThief {
        /// Against this gateway, where it is against one.
        device: u32,
        /// What.
        theft: EmergencyTheft,
    },
    /// A program finishes a task.
    Finish {
        /// The gateway.
        device: u32,
        /// Picks the task.
        #[serde(with = "draw")]
        pick: u64,
    },
    /// A program asks once more.
    Flood {
        /// The gateway.
        device: u32,
        /// For what.
        what: FloodWhat,
        /// How often it has asked before.
        number: u64,
        /// Picks its credential.
        #[serde(with = "draw")]
        pick: u64,
    },
    /// The operator moves a gateway into a group and out of all others.
    GroupMove {
        /// The gateway.
        device: u32,
        /// Where to.
        to: MoveTo,
        /// Picks the group, where that is by chance.
        #[serde(with = "draw")]
        pick: u64,
    },
    /// The root keys put a new key in the place of one.
    KeyRotate {
        /// Which.
        what: RotateWhat,
    },
    /// Nothing goes through.
    LinkDown {
        /// The gateway.
        device: u32,
        /// Which way.
        direction: Direction,
    },
    /// What is open swallows everything.
    LinkHalfOpen {
        /// The gateway.
        device: u32,
    },
    /// What goes through takes longer, or no longer.
    LinkSlow {
        /// The gateway.
        device: u32,
        /// Which way.
        direction: Direction,
        /// How much longer.
        by: u64,
        /// Whether it begins.
        turn: Turn,
    },
    /// It goes through again.
    LinkUp {
        /// The gateway.
        device: u32,
        /// Which way.
        direction: Direction,
    },
    /// Somebody tries to get more by a planner, or by a step, than is due to him.
    Misuse {
        /// The gateway.
        device: u32,
        /// What he tries.
        how: Misuse,
        /// Picks with which task or step.
        #[serde(with = "draw")]
        pick: u64,
    },
    /// A program has a credential of its own narrowed, or uses one that was.
    Narrow {
        /// The gateway.
        device: u32,
        /// What it does.
        does: Narrows,
        /// Picks the credential, and what it is narrowed to or used for.
        #[serde(with = "draw")]
        pick: u64,
    },
    /// Somebody tries to get more by narrowing a credential, or by what was narrowed, than is due to him.
    Overstep {
        /// The gateway.
        device: u32,
        /// What he tries.
        how: Overstep,
        /// Picks with which credential.
        #[serde(with = "draw")]
        pick: u64,
    },
    /// A planner does its work, or an executor what was planned for it.
    Plan {
        /// The gateway.
        device: u32,
        /// What it does.
        does: Planning,
        /// Picks the task, and what of it is planned or done.
        #[serde(with = "draw")]
        pick: u64,
    },
    /// The supply fails.
    PowerCut {
        /// The gateway.
        device: u32,
        /// How long it is away.
        lasts: u64,
        /// At which point of a commit.
        boundary: Boundary,
        /// What the wall clock shows after it.
        wall: WallAfter,
        /// Picks the boundary and what becomes of unsynced writes.
        #[serde(with = "draw")]
        pick: u64,
    },
    /// A newer version leaves the state folder in its format and this one is started, or the newer one runs again.
    ProcessDowngrade {
        /// The gateway.
        device: u32,
        /// Whether it begins.
        turn: Turn,
    },
    /// The agent is killed.
    ProcessRestart {
        /// The gateway.
        device: u32,
        /// How long until it runs again.
        lasts: u64,
        /// Picks how far a commit in progress came.
        #[serde(with = "draw")]
        pick: u64,
    },
    /// The agent's process gets no time, or it does again.
    ProcessStop {
        /// The gateway.
        device: u32,
        /// Whether it begins.
        turn: Turn,
    },
    /// The agent ends in order, and another firmware's is started.
    ProcessUpgrade {
        /// The gateway.
        device: u32,
        /// How long until it runs again.
        lasts: u64,
        /// Which.
        to: Firmware,
        /// Whether the supply fails within its first commit.
        cut: bool,
        /// Picks the boundary and what becomes of unsynced writes.
        #[serde(with = "draw")]
        pick: u64,
    },
    /// The kernel goes down in order.
    Reboot {
        /// The gateway.
        device: u32,
        /// How long it takes.
        lasts: u64,
        /// What the wall clock shows after it.
        wall: WallAfter,
    },
    /// The operator revokes.
    Revoke {
        /// Something of this gateway.
        device: u32,
        /// What.
        what: RevokeWhat,
        /// Picks which.
        #[serde(with = "draw")]
        pick: u64,
    },
    /// The operator revokes many tokens at once.
    RevokeStorm {
        /// How many.
        count: u32,
        /// How long each lives.
        life: u64,
        /// Picks their blocks.
        #[serde(with = "draw")]
        pick: u64,
    },
    /// The service that answers a gateway has a clock that is ahead, or right again.
    ServiceAhead {
        /// The gateway.
        device: u32,
        /// How far.
        by: u64,
        /// Whether it begins.
        turn: Turn,
    },
    /// The service is there again.
    ServiceStart,
    /// The service goes away.
    ServiceStop,
    /// An operator asks for the status.
    Status {
        /// The gateway.
        device: u32,
    },
    /// Nothing runs on a gateway, or it does again.
    Suspend {
        /// The gateway.
        device: u32,
        /// Whether it begins.
        turn: Turn,
    },
    /// Somebody carries a reset of the clock to a gateway.
    TimeReset {
        /// The gateway.
        device: u32,
        /// Which.
        what: ResetWhat,
        /// How long it is on its way.
        late: u64,
    },
    /// The broker does something to the bytes on a connection.
    Wire {
        /// This gateway's.
        device: u32,
        /// What.
        trick: WireTrick,
        /// Picks which bytes.
        #[serde(with = "draw")]
        pick: u64,
    },
}

/// The gateway that an act is about, if it is about one, as it is borrowed.
macro_rules! device_of {
    ($act:expr) => {
        match $act {
            Act::Authorize { device, .. }
            | Act::Begin { device, .. }
            | Act::BrokerAck { device, .. }
            | Act::BrokerDelayFor { device, .. }
            | Act::BrokerFeed { device, .. }
            | Act::BrokerReplay { device, .. }
            | Act::ClockDrift { device, .. }
            | Act::ClockFreeze { device, .. }
            | Act::ClockStep { device, .. }
            | Act::DiskClone { device, .. }
            | Act::DiskCopy { device, .. }
            | Act::DiskDamage { device, .. }
            | Act::DiskRefuses { device, .. }
            | Act::DiskSync { device, .. }
            | Act::Distinct { device, .. }
            | Act::Emergency { device, .. }
            | Act::EmergencyThief { device, .. }
            | Act::Finish { device, .. }
            | Act::Flood { device, .. }
            | Act::GroupMove { device, .. }
            | Act::LinkDown { device, .. }
            | Act::LinkHalfOpen { device, .. }
            | Act::LinkSlow { device, .. }
            | Act::LinkUp { device, .. }
            | Act::Misuse { device, .. }
            | Act::Narrow { device, .. }
            | Act::Overstep { device, .. }
            | Act::Plan { device, .. }
            | Act::PowerCut { device, .. }
            | Act::ProcessDowngrade { device, .. }
            | Act::ProcessRestart { device, .. }
            | Act::ProcessStop { device, .. }
            | Act::ProcessUpgrade { device, .. }
            | Act::Reboot { device, .. }
            | Act::Revoke { device, .. }
            | Act::ServiceAhead { device, .. }
            | Act::Status { device, .. }
            | Act::Suspend { device, .. }
            | Act::TimeReset { device, .. }
            | Act::Wire { device, .. } => Some(device),
            Act::BrokerDelay { .. }
            | Act::BrokerBackup { .. }
            | Act::BrokerEmergency { .. }
            | Act::BrokerForget { .. }
            | Act::BrokerHostile { .. }
            | Act::BrokerRestore { .. }
            | Act::BrokerStart
            | Act::BrokerStop { .. }
            | Act::KeyRotate { .. }
            | Act::RevokeStorm { .. }
            | Act::ServiceStart
            | Act::ServiceStop => None,
        }
    };
}

impl Act {
    /// The gateway that it is about, if it is about one.
    pub const fn device(&self) -> Option<u32> {
        match device_of!(self) {
            Some(device) => Some(*device),
            None => None,
        }
    }

    /// The same for another gateway.
    pub(crate) const fn device_mut(&mut self) -> Option<&mut u32> {
        device_of!(self)
    }
}

/// Whether something that lasts begins or ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Turn {
    /// It begins.
    Begins,
    /// It ends.
    Ends,
}

impl Act {
    /// What it begins or ends, by a name, if it is one half of something that lasts.
    pub(crate) fn half(&self) -> Option<(String, Turn)> {
        let (what, turn) = match self {
            Self::BrokerDelay { what, turn, .. } => (format!("broker.delay {what:?}"), *turn),
            Self::BrokerDelayFor { device, what, turn, .. } => (format!("broker.delay {what:?} {device}"), *turn),
            Self::BrokerStart => ("broker.stop".into(), Turn::Ends),
            Self::BrokerStop { .. } => ("broker.stop".into(), Turn::Begins),
            Self::ClockFreeze { device, turn } => (format!("clock.freeze {device}"), *turn),
            Self::DiskRefuses { device, how, turn } => (format!("disk refuses {how:?} {device}"), *turn),
            Self::DiskSync { device, part, how, turn } => (format!("disk sync {part:?} {how:?} {device}"), *turn),
            Self::LinkDown { device, direction } => (format!("link.down {direction:?} {device}"), Turn::Begins),
            Self::LinkUp { device, direction } => (format!("link.down {direction:?} {device}"), Turn::Ends),
            Self::LinkSlow { device, direction, turn, .. } => (format!("link.slow {direction:?} {device}"), *turn),
            Self::ProcessDowngrade { device, turn } => (format!("process.downgrade {device}"), *turn),
            Self::ProcessStop { device, turn } => (format!("process.stop {device}"), *turn),
            Self::ServiceAhead { device, turn, .. } => (format!("service.ahead {device}"), *turn),
            Self::ServiceStart => ("service.stop".into(), Turn::Ends),
            Self::ServiceStop => ("service.stop".into(), Turn::Begins),
            Self::Suspend { device, turn } => (format!("suspend {device}"), *turn),
            Self::Authorize { .. }
            | Self::Begin { .. }
            | Self::BrokerAck { .. }
            | Self::BrokerBackup { .. }
            | Self::BrokerEmergency { .. }
            | Self::BrokerFeed { .. }
            | Self::BrokerForget { .. }
            | Self::BrokerHostile { .. }
            | Self::BrokerReplay { .. }
            | Self::BrokerRestore { .. }
            | Self::ClockDrift { .. }
            | Self::ClockStep { .. }
            | Self::DiskClone { .. }
            | Self::DiskCopy { .. }
            | Self::DiskDamage { .. }
            | Self::Distinct { .. }
            | Self::Emergency { .. }
            | Self::EmergencyThief { .. }
            | Self::Finish { .. }
            | Self::Flood { .. }
            | Self::GroupMove { .. }
            | Self::KeyRotate { .. }
            | Self::LinkHalfOpen { .. }
            | Self::Misuse { .. }
            | Self::Narrow { .. }
            | Self::Overstep { .. }
            | Self::Plan { .. }
            | Self::PowerCut { .. }
            | Self::ProcessRestart { .. }
            | Self::ProcessUpgrade { .. }
            | Self::Reboot { .. }
            | Self::Revoke { .. }
            | Self::RevokeStorm { .. }
            | Self::Status { .. }
            | Self::TimeReset { .. }
            | Self::Wire { .. } => return None,
        };
        Some((what, turn))
    }
}

/// What programs do with what they have narrowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Narrows {
    /// A program has a credential narrowed.
    Asks,
    /// A program lets go of the connection that its task hangs on.
    Leaves,
    /// A program uses a narrowed credential.
    Uses,
}

/// What planners and executors do on an ordinary day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Planning {
    /// A planner begins a task.
    Begins,
    /// An executor uses a step that was taken for it.
    Executes,
    /// A planner finishes a task.
    Finishes,
    /// A planner takes a step of a task for an executor.
    Steps,
}

/// Which token a program presents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenChoice {
    /// One whose holder narrowed it further.
    Attenuated,
    /// One whose end has passed.
    Expired,
    /// One whose task has ended.
    Finished,
    /// A good one, used for what it has no right to.
    Foreign,
    /// One that somebody else signed.
    Forged,
    /// One that the operator has revoked.
    Revoked,
    /// One that is used until its budget is gone.
    Spend,
    /// One of another gateway.
    Stolen,
    /// A good one, in the hands of another program.
    Stranger,
    /// One that is good.
    Valid,
    /// One whose holder wrote more rights into it.
    Widened,
}

/// A number drawn by chance: as text where TOML has no number for it.
mod draw {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(draw: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        match i64::try_from(*draw) {
            Ok(number) => serializer.serialize_i64(number),
            Err(_) => serializer.serialize_str(&draw.to_string()),
        }
    }

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Draw {
        Number(u64),
        Text(String),
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        match Draw::deserialize(deserializer)? {
            Draw::Number(number) => Ok(number),
            Draw::Text(text) => {
                text.parse().map_err(|_| serde::de::Error::custom(format!("{text:?} is no whole number")))
            }
        }
    }
}
