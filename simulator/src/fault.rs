//! The catalogue of faults, as scenario files name them.
//!
//! Owns: [`Fault`] with its kinds, when it happens and to whom; the check that a file says all that a fault needs and
//! nothing that it does not use.
//! Never: makes anything happen.
//! Read next: `plan.rs`, which resolves them into single acts.

use hardtack::ids::GroupId;
use serde::Deserialize;

use crate::scenario::Span;

/// The longest that an operator's emergency rule is made to live, in milliseconds.
const EMERGENCY_LIFE_MAX: u64 = 71 * 3_600_000;

/// A fault and when it happens to whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// When.
    pub when: When,
    /// To whom.
    pub who: Who,
    /// What.
    pub kind: Kind,
}

/// When a fault happens: once, or over and over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct When {
    /// First.
    pub at: u64,
    /// Again after this long, if at all.
    pub every: Option<u64>,
    /// The last time at the latest; the first time where it happens once.
    pub until: u64,
    /// Each time up to this much later, by chance.
    pub jitter: u64,
}

/// To whom a fault happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    /// To every gateway at once.
    All,
    /// To one gateway, another by chance each time.
    One,
    /// To these.
    These(Vec<u32>),
}

/// What goes wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// The broker tampers with the next acknowledgement of a gateway's `hello`.
    BrokerAck(AckTrick),
    /// The broker keeps back one kind of signed statement for a while, or gives it out late.
    BrokerDelay {
        /// How long.
        lasts: u64,
        /// What.
        what: Statement,
        /// How late each comes; none: not at all.
        late: Option<u64>,
    },
    /// The broker keeps another statement at an emergency key's place than was given to it last.
    BrokerEmergency(EmergencyTrick),
    /// The broker gives a gateway something on a topic of the feed that it must refuse, and record.
    BrokerFeed(FeedTrick),
    /// The broker loses some of what it has retained of the feed.
    BrokerForget(Forgotten),
    /// The broker drops, doubles, delays and forges messages for a while, in so many of a hundred cases.
    BrokerHostile {
        /// How long.
        lasts: u64,
        /// How.
        how: Hostility,
    },
    /// The broker sends old messages again.
    BrokerReplay,
    /// The broker is away for a while; then it has what it had, or nothing.
    BrokerRestart {
        /// How long.
        lasts: u64,
        /// Whether it still has its retained messages.
        retained: Retained,
    },
    /// The broker goes back to what it had retained so long before.
    BrokerRestore {
        /// How old the backup is.
        age: u64,
    },
    /// The oscillator changes its rate, within the bound.
    ClockDrift,
    /// The wall clock stands still for a while.
    ClockFreeze {
        /// How long.
        lasts: u64,
    },
    /// The wall clock jumps, in milliseconds.
    ClockStep(i64),
    /// The wall clock jumps to and fro all the time for a while.
    ClockStrobe {
        /// How long.
        lasts: u64,
        /// How far, in milliseconds.
        by: i64,
    },
    /// The supply fails, and what is on the disk is no longer what was written.
    Disk {
        /// How long the supply is away.
        lasts: u64,
        /// What happens to the disk.
        damage: Damage,
        /// How old the copy is that is put back.
        age: u64,
    },
    /// Somebody copied a gateway's storage, and runs the copy elsewhere under its name until the fleet has its audit.
    DiskClone {
        /// How old the copy is.
        age: u64,
    },
    /// Syncs of one part of the state folder do not do what they should for a while.
    DiskSync {
        /// How long.
        lasts: u64,
        /// Of which part.
        part: Part,
        /// What they do.
        how: Sync,
    },
    /// An operator revokes with his emergency key, past the service, and gives the statement to the broker.
    Emergency {
        /// Something of this gateway.
        what: EmergencyWhat,
        /// For how long.
        life: u64,
    },
    /// Somebody who stole another operator's emergency key gives the broker a statement.
    EmergencyThief(EmergencyTheft),
    /// A program asks the same, or for something else each time, as fast as it can, for a while.
    Flood {
        /// How long.
        lasts: u64,
        /// For what.
        what: FloodWhat,
    },
    /// The operator moves a gateway into a group and out of all others.
    GroupMove(MoveTo),
    /// The root keys put a new key in the place of one.
    KeyRotate(RotateWhat),
    /// Connections that are open swallow everything from now on, and nobody is told.
    LinkHalfOpen,
    /// Nothing goes through in this direction for a while.
    LinkDown {
        /// How long.
        lasts: u64,
        /// Which way.
        direction: Direction,
    },
    /// The supply fails.
    PowerCut {
        /// How long it is away.
        lasts: u64,
        /// At which point of a commit.
        boundary: Boundary,
        /// What the wall clock shows after it.
        wall: WallAfter,
    },
    /// The agent's process is killed; the kernel keeps what was written.
    ProcessRestart {
        /// How long until it runs again.
        lasts: u64,
    },
    /// The kernel goes down in order and comes up again.
    Reboot {
        /// How long it takes.
        lasts: u64,
        /// What the wall clock shows after it.
        wall: WallAfter,
    },
    /// The operator revokes something of this gateway.
    Revoke(RevokeWhat),
    /// The operator revokes many tokens that nobody here holds, each by its own block, at once.
    RevokeStorm {
        /// How many.
        count: u32,
        /// How long each lives in all.
        life: u64,
    },
    /// The service that answers a gateway has a clock that is ahead, for a while.
    ServiceAhead {
        /// How long.
        lasts: u64,
        /// How far.
        by: u64,
    },
    /// The fleet's service is away for a while.
    ServiceStop {
        /// How long.
        lasts: u64,
    },
    /// Nothing runs for a while, CLOCK_BOOTTIME excepted; nobody on the gateway notices.
    Suspend {
        /// How long.
        lasts: u64,
    },
    /// Somebody carries a reset of the clock to a gateway.
    TimeReset {
        /// Which.
        what: ResetWhat,
        /// How long it takes from the gateway's nonce to the file that answers it.
        late: u64,
    },
    /// The broker does something to the bytes on a connection.
    Wire(WireTrick),
}

impl Kind {
    /// The name in scenario files.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::BrokerAck(trick) => trick.name(),
            Self::BrokerDelay { late: Some(_), .. } => "broker.delay",
            Self::BrokerDelay { late: None, .. } => "broker.withhold",
            Self::BrokerEmergency(trick) => trick.name(),
            Self::BrokerFeed(trick) => trick.name(),
            Self::BrokerForget(what) => what.name(),
            Self::BrokerHostile { .. } => "broker.hostile",
            Self::BrokerReplay => "broker.replay",
            Self::BrokerRestart { retained: Retained::Kept, .. } => "broker.restart",
            Self::BrokerRestart { retained: Retained::Lost, .. } => "broker.lose",
            Self::BrokerRestore { .. } => "broker.restore",
            Self::ClockDrift => "clock.drift",
            Self::ClockFreeze { .. } => "clock.freeze",
            Self::ClockStep(_) => "clock.step",
            Self::ClockStrobe { .. } => "clock.strobe",
            Self::Disk { damage, .. } => damage.name(),
            Self::DiskClone { .. } => "image.clone",
            Self::DiskSync { part, how, .. } => how.name(*part),
            Self::Emergency { what, .. } => what.name(),
            Self::EmergencyThief(theft) => theft.name(),
            Self::Flood { what, .. } => what.name(),
            Self::GroupMove(_) => "group.move",
            Self::KeyRotate(what) => what.name(),
            Self::LinkHalfOpen => "link.half_open",
            Self::LinkDown { .. } => "link.down",
            Self::PowerCut { .. } => "power.cut",
            Self::ProcessRestart { .. } => "process.restart",
            Self::Reboot { .. } => "reboot",
            Self::Revoke(_) => "revoke",
            Self::RevokeStorm { .. } => "revoke.storm",
            Self::ServiceAhead { .. } => "service.ahead",
            Self::ServiceStop { .. } => "service.stop",
            Self::Suspend { .. } => "suspend",
            Self::TimeReset { what, .. } => what.name(),
            Self::Wire(trick) => trick.name(),
        }
    }

    /// How long it lasts.
    const fn lasts(&self) -> u64 {
        match self {
            Self::BrokerDelay { lasts, .. }
            | Self::BrokerHostile { lasts, .. }
            | Self::BrokerRestart { lasts, .. }
            | Self::ClockFreeze { lasts }
            | Self::ClockStrobe { lasts, .. }
            | Self::Disk { lasts, .. }
            | Self::DiskSync { lasts, .. }
            | Self::Flood { lasts, .. }
            | Self::LinkDown { lasts, .. }
            | Self::PowerCut { lasts, .. }
            | Self::ProcessRestart { lasts }
            | Self::Reboot { lasts, .. }
            | Self::ServiceAhead { lasts, .. }
            | Self::ServiceStop { lasts }
            | Self::Suspend { lasts } => *lasts,
            Self::TimeReset { late, .. } => *late,
            Self::BrokerAck(_)
            | Self::BrokerEmergency(_)
            | Self::BrokerFeed(_)
            | Self::BrokerForget(_)
            | Self::BrokerReplay
            | Self::BrokerRestore { .. }
            | Self::ClockDrift
            | Self::ClockStep(_)
            | Self::DiskClone { .. }
            | Self::Emergency { .. }
            | Self::EmergencyThief(_)
            | Self::GroupMove(_)
            | Self::KeyRotate(_)
            | Self::LinkHalfOpen
            | Self::Revoke(_)
            | Self::RevokeStorm { .. }
            | Self::Wire(_) => 0,
        }
    }
}

impl Fault {
    /// When its last occurrence is over at the latest.
    pub const fn over(&self) -> u64 {
        self.when.until.saturating_add(self.when.jitter).saturating_add(self.kind.lasts())
    }
}

/// A kind of signed statement that a broker can keep back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, Deserialize)]
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

/// What befalls a disk that was written honestly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Damage {
    /// The whole state folder is what it was a while ago.
    ImageRolledBack,
    /// The newest slot of the anchor is deleted.
    SlotDeleted,
    /// A bit of the newest slot flipped.
    SlotRotten,
    /// The newest slot is half written.
    SlotTorn,
    /// Both slots are what they were a while ago.
    SlotsCopiedBack,
    /// Both slots are gone.
    SlotsGone,
    /// Somebody wrote another resource into a decision that no signature covers yet, and that the anchor has seen.
    TailForged,
}

impl Damage {
    /// The name in scenario files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ImageRolledBack => "image.rollback",
            Self::SlotDeleted => "anchor.deleted",
            Self::SlotRotten => "anchor.rotten",
            Self::SlotTorn => "anchor.torn",
            Self::SlotsCopiedBack => "anchor.copied_back",
            Self::SlotsGone => "anchor.gone",
            Self::TailForged => "tail.forged",
        }
    }

    /// Whether something older is put back, for which a copy must be made in time.
    pub const fn puts_back(self) -> bool {
        matches!(self, Self::ImageRolledBack | Self::SlotsCopiedBack)
    }
}

/// Which group a gateway is moved to.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MoveTo {
    /// One of the scenario's or none, by chance.
    Any,
    /// This one.
    Group(GroupId),
    /// None.
    None,
}

/// What a broker does to the acknowledgement of a `hello`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, Deserialize)]
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

/// What a broker does to the bytes on a gateway's connection. Only the wire level has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WireTrick {
    /// It acknowledges a message by a packet id, whether or not one is in flight by it.
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

/// What a broker gives out on a topic of the feed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FeedTrick {
    /// The next head, signed by the feed's key of before the last rotation.
    DroppedKey,
    /// More bytes than any message has.
    Endless,
    /// The next head, signed by the feed's very key for another fleet.
    Foreign,
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
    pub const ALL: [(&'static str, Self); 8] = [
        ("dropped_key", Self::DroppedKey),
        ("endless", Self::Endless),
        ("foreign", Self::Foreign),
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
            Self::Foreign => "broker.feed foreign",
            Self::Misplaced => "broker.feed misplaced",
            Self::NewRootsAlone => "broker.feed new_roots_alone",
            Self::OldRootsAlone => "broker.feed old_roots_alone",
            Self::Substitute => "broker.feed substitute",
            Self::Twin => "broker.feed twin",
        }
    }
}

/// What an operator revokes with his emergency key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, Deserialize)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, Deserialize)]
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

/// What a broker keeps at the place of an operator's emergency key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, Deserialize)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, Deserialize)]
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

/// Which key is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RotateWhat {
    /// The feed's.
    Feed,
    /// The root key.
    Root,
    /// The service's.
    Service,
}

impl RotateWhat {
    /// The names in scenario files, as `what`.
    pub const ALL: [(&'static str, Self); 3] = [("feed", Self::Feed), ("root", Self::Root), ("service", Self::Service)];

    /// The name under which its effects are counted.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Feed => "key.rotate feed",
            Self::Root => "key.rotate root",
            Self::Service => "key.rotate service",
        }
    }
}

/// Which reset of the clock is carried to a gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResetWhat {
    /// One that the root keys signed for another gateway.
    Foreign,
    /// One that answers its nonce, signed by a key of the fleet that is no root key.
    Forged,
    /// What an honest operator signs, where the gateway is ahead of true time.
    Needed,
    /// The last one that it took.
    Replayed,
    /// One that the root keys signed for a nonce that the gateway has replaced since.
    Stale,
}

impl ResetWhat {
    /// The names in scenario files, as `what`.
    pub const ALL: [(&'static str, Self); 5] = [
        ("foreign", Self::Foreign),
        ("forged", Self::Forged),
        ("needed", Self::Needed),
        ("replayed", Self::Replayed),
        ("stale", Self::Stale),
    ];

    /// The name under which its effects are counted.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Foreign => "time.reset foreign",
            Self::Forged => "time.reset forged",
            Self::Needed => "time.reset needed",
            Self::Replayed => "time.reset replayed",
            Self::Stale => "time.reset stale",
        }
    }
}

/// A part of the state folder that is synced by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// The slots of the anchor.
    Anchor,
    /// The era that is written.
    Era,
    /// Trust bundle, policy, revocation lists, grants, tasks.
    Files,
}

impl Part {
    /// The names in scenario files, as `what`.
    pub const ALL: [(&'static str, Self); 3] = [("anchor", Self::Anchor), ("era", Self::Era), ("files", Self::Files)];
}

/// What a sync does that does not do what it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sync {
    /// It fails, and says so.
    Fails,
    /// It says that all is well, and what was written stays in the drive's memory until power fails.
    Lies,
}

impl Sync {
    /// The name under which its effects are counted.
    pub const fn name(self, part: Part) -> &'static str {
        match (self, part) {
            (Self::Fails, Part::Anchor) => "disk.sync anchor",
            (Self::Fails, Part::Era) => "disk.sync era",
            (Self::Fails, Part::Files) => "disk.sync files",
            (Self::Lies, Part::Anchor) => "disk.lies anchor",
            (Self::Lies, Part::Era) => "disk.lies era",
            (Self::Lies, Part::Files) => "disk.lies files",
        }
    }
}

/// What a program asks for over and over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FloodWhat {
    /// What it has a right to, the same each time.
    Allowed,
    /// What it has no right to, the same each time.
    Same,
    /// What it has no right to, something else each time.
    Varied,
}

impl FloodWhat {
    /// The names in scenario files, as `what`.
    pub const ALL: [(&'static str, Self); 3] =
        [("allowed", Self::Allowed), ("same", Self::Same), ("varied", Self::Varied)];

    /// The name under which its effects are counted.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Allowed => "flood allowed",
            Self::Same => "flood same",
            Self::Varied => "flood varied",
        }
    }
}

/// How a broker treats messages, in so many of a hundred cases each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, Deserialize)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Retained {
    /// All that it had.
    Kept,
    /// Nothing.
    Lost,
}

/// Which way nothing goes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Neither way.
    Both,
    /// From the broker to the gateway.
    Down,
    /// From the gateway to the broker.
    Up,
}

/// At which point of a commit the supply fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Boundary {
    /// Within the next commit, at a boundary drawn by chance.
    Any,
    /// In as many runs as there are boundaries within this window, at each of them once per way in which unsynced
    /// writes can end.
    Each {
        /// How long the window is.
        window: u64,
    },
    /// Whenever it happens.
    Now,
}

/// What the wall clock shows after a start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WallAfter {
    /// 1970.
    Epoch,
    /// What the battery-backed clock kept; 1970 where there is none.
    Kept,
    /// Off by so many milliseconds more.
    Stepped(i64),
}

/// What the operator revokes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, Deserialize)]
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
    /// Whether it is about the whole fleet, whichever gateways are named.
    pub(crate) const fn is_of_all(self) -> bool {
        match self {
            Self::All | Self::Owner => true,
            Self::Block | Self::Carried | Self::Device | Self::Grant | Self::Group | Self::Task | Self::Token => false,
        }
    }
}

/// A fault as the file has it: every key that any fault uses.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct FaultText {
    #[serde(rename = "do")]
    name: String,
    at: Option<Span>,
    every: Option<Span>,
    until: Option<Span>,
    jitter: Option<Span>,
    who: Option<String>,
    #[serde(rename = "for")]
    lasts: Option<Span>,
    dir: Option<String>,
    boundary: Option<String>,
    window: Option<Span>,
    wall: Option<String>,
    by: Option<String>,
    age: Option<Span>,
    late: Option<Span>,
    to: Option<String>,
    what: Option<String>,
    drop: Option<u32>,
    duplicate: Option<u32>,
    delay: Option<u32>,
    forge: Option<u32>,
    count: Option<u32>,
    life: Option<Span>,
}

impl FaultText {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The fault, if the file says all that it needs and nothing more.
    pub(crate) fn check(mut self, devices: u32) -> Result<Fault, String> {
        let when = self.when()?;
        let who = self.who(devices)?;
        let kind = self.kind()?;
        self.name.clear();
        if self == Self::default() {
            Ok(Fault { when, who, kind })
        } else {
            Err(format!("has a key that it does not use: {}", self.left_over()))
        }
    }

    fn when(&mut self) -> Result<When, String> {
        let at = self.at.take().ok_or("needs `at`, the time since the start")?.0;
        let every = self.every.take().map(|span| span.0);
        let until = self.until.take().map(|span| span.0);
        match (every, until) {
            (None, None) => Ok(When { at, every, until: at, jitter: self.jitter.take().map_or(0, |span| span.0) }),
            (Some(gap), Some(until)) if gap >= 1000 && until >= at => {
                Ok(When { at, every, until, jitter: self.jitter.take().map_or(0, |span| span.0) })
            }
            (Some(_), Some(_)) => Err("`every` must be 1s or more, `until` not before `at`".into()),
            (Some(_), None) | (None, Some(_)) => Err("`every` and `until` go together".into()),
        }
    }

    fn who(&mut self, devices: u32) -> Result<Who, String> {
        match self.who.take().as_deref() {
            None | Some("all") => Ok(Who::All),
            Some("one") => Ok(Who::One),
            Some(list) => {
                let number = |text: &str| text.trim().parse::<u32>().ok().filter(|number| *number < devices);
                let numbers = list.split(',').map(|text| {
                    number(text)
                        .ok_or_else(|| format!("`who` is \"all\", \"one\" or numbers below {devices}, not {text:?}"))
                });
                numbers.collect::<Result<_, _>>().map(Who::These)
            }
        }
    }

    fn kind(&mut self) -> Result<Kind, String> {
        Ok(match self.name.as_str() {
            "anchor.copied_back" => self.disk(Damage::SlotsCopiedBack)?,
            "anchor.deleted" => self.disk(Damage::SlotDeleted)?,
            "anchor.gone" => self.disk(Damage::SlotsGone)?,
            "anchor.rotten" => self.disk(Damage::SlotRotten)?,
            "anchor.torn" => self.disk(Damage::SlotTorn)?,
            "broker.ack" => Kind::BrokerAck(self.one_of(&AckTrick::ALL)?),
            "broker.delay" => Kind::BrokerDelay {
                lasts: self.lasts()?,
                what: self.statement()?,
                late: Some(self.late.take().ok_or("needs `late`, how late each comes")?.0),
            },
            "broker.emergency" => Kind::BrokerEmergency(self.one_of(&EmergencyTrick::ALL)?),
            "broker.feed" => Kind::BrokerFeed(self.one_of(&FeedTrick::ALL)?),
            "broker.forget" => Kind::BrokerForget(self.one_of(&Forgotten::ALL)?),
            "broker.hostile" => Kind::BrokerHostile {
                lasts: self.lasts()?,
                how: Hostility {
                    drop: percent(self.drop.take())?,
                    duplicate: percent(self.duplicate.take())?,
                    delay: percent(self.delay.take())?,
                    forge: percent(self.forge.take())?,
                },
            },
            "broker.lose" => Kind::BrokerRestart { lasts: self.lasts()?, retained: Retained::Lost },
            "broker.replay" => Kind::BrokerReplay,
            "broker.restart" => Kind::BrokerRestart { lasts: self.lasts()?, retained: Retained::Kept },
            "broker.restore" => Kind::BrokerRestore { age: self.age.take().ok_or("needs `age`, of the backup")?.0 },
            "broker.withhold" => Kind::BrokerDelay { lasts: self.lasts()?, what: self.statement()?, late: None },
            "clock.drift" => Kind::ClockDrift,
            "clock.freeze" => Kind::ClockFreeze { lasts: self.lasts()? },
            "clock.step" => Kind::ClockStep(self.by()?),
            "clock.strobe" => Kind::ClockStrobe { lasts: self.lasts()?, by: self.by()? },
            "disk.lies" => self.sync(Sync::Lies)?,
            "disk.sync" => self.sync(Sync::Fails)?,
            "emergency" => Kind::Emergency {
                what: self.one_of(&EmergencyWhat::ALL)?,
                life: self
                    .life
                    .take()
                    .filter(|life| (1000..=EMERGENCY_LIFE_MAX).contains(&life.0))
                    .ok_or("needs `life`, of the rule, 1s to 71h")?
                    .0,
            },
            "emergency.thief" => Kind::EmergencyThief(self.one_of(&EmergencyTheft::ALL)?),
            "flood" => Kind::Flood { lasts: self.lasts()?, what: self.one_of(&FloodWhat::ALL)? },
            "group.move" => Kind::GroupMove(self.move_to()?),
            "image.clone" => Kind::DiskClone { age: self.age.take().ok_or("needs `age`, of the copy that runs")?.0 },
            "image.rollback" => self.disk(Damage::ImageRolledBack)?,
            "key.rotate" => Kind::KeyRotate(self.one_of(&RotateWhat::ALL)?),
            "link.down" => Kind::LinkDown { lasts: self.lasts()?, direction: self.direction()? },
            "link.half_open" => Kind::LinkHalfOpen,
            "power.cut" => {
                Kind::PowerCut { lasts: self.lasts()?, boundary: self.boundary()?, wall: self.wall_after()? }
            }
            "process.restart" => Kind::ProcessRestart { lasts: self.lasts()? },
            "reboot" => Kind::Reboot { lasts: self.lasts()?, wall: self.wall_after()? },
            "revoke" => Kind::Revoke(self.revoke_what()?),
            "revoke.storm" => Kind::RevokeStorm {
                count: self.count.take().filter(|count| *count > 0).ok_or("needs `count`, of tokens, 1 or more")?,
                life: self
                    .life
                    .take()
                    .filter(|life| life.0 >= 1000)
                    .ok_or("needs `life`, of each token, 1s or more")?
                    .0,
            },
            "service.ahead" => {
                let by = u64::try_from(self.by()?).map_err(|_| "is ahead: `by` needs a plus, like \"+3h\"")?;
                Kind::ServiceAhead { lasts: self.lasts()?, by }
            }
            "service.stop" => Kind::ServiceStop { lasts: self.lasts()? },
            "suspend" => Kind::Suspend { lasts: self.lasts()? },
            "tail.forged" => self.disk(Damage::TailForged)?,
            "time.reset" => Kind::TimeReset {
                what: self.one_of(&ResetWhat::ALL)?,
                late: self.late.take().ok_or("needs `late`, how long the file is on its way")?.0,
            },
            "wire.acknowledge" => Kind::Wire(WireTrick::Acknowledge),
            "wire.garbage" => Kind::Wire(WireTrick::Garbage),
            "wire.grant" => Kind::Wire(WireTrick::Grant),
            "wire.large" => Kind::Wire(WireTrick::Large),
            "wire.reuse" => Kind::Wire(WireTrick::Reuse),
            _ => return Err(format!("no such fault: {:?}", self.name)),
        })
    }

    fn disk(&mut self, damage: Damage) -> Result<Kind, String> {
        let age = match (damage.puts_back(), self.age.take()) {
            (true, Some(age)) => age.0,
            (true, None) => return Err("needs `age`, of the copy that is put back".into()),
            (false, Some(_)) => return Err("puts nothing back and has no `age`".into()),
            (false, None) => 0,
        };
        Ok(Kind::Disk { lasts: self.lasts()?, damage, age })
    }

    fn sync(&mut self, how: Sync) -> Result<Kind, String> {
        Ok(Kind::DiskSync { lasts: self.lasts()?, part: self.one_of(&Part::ALL)?, how })
    }

    fn by(&mut self) -> Result<i64, String> {
        signed(&self.by.take().ok_or("needs `by`, like \"-7h\" or \"+2d\"")?)
    }

    fn statement(&mut self) -> Result<Statement, String> {
        match self.what.take().as_deref() {
            Some("acks") => Ok(Statement::Acks),
            Some("answers") => Ok(Statement::Answers),
            Some("heads") => Ok(Statement::Heads),
            Some("lists") => Ok(Statement::Lists),
            Some(_) | None => Err("needs `what`: \"acks\", \"answers\", \"heads\" or \"lists\"".into()),
        }
    }

    /// What `what` names, of these.
    fn one_of<T: Copy>(&mut self, names: &[(&str, T)]) -> Result<T, String> {
        let what = self.what.take();
        let named = names.iter().find(|(name, _)| what.as_deref() == Some(*name)).map(|(_, value)| *value);
        named.ok_or_else(|| {
            let names: Vec<&str> = names.iter().map(|(name, _)| *name).collect();
            format!("needs `what`, one of: {}", names.join(" "))
        })
    }

    fn lasts(&mut self) -> Result<u64, String> {
        self.lasts.take().map(|span| span.0).ok_or_else(|| "needs `for`, how long it lasts".into())
    }

    fn direction(&mut self) -> Result<Direction, String> {
        match self.dir.take().as_deref() {
            None | Some("both") => Ok(Direction::Both),
            Some("up") => Ok(Direction::Up),
            Some("down") => Ok(Direction::Down),
            Some(other) => Err(format!("`dir` is \"both\", \"up\" or \"down\", not {other:?}")),
        }
    }

    fn boundary(&mut self) -> Result<Boundary, String> {
        match self.boundary.take().as_deref() {
            None | Some("now") => Ok(Boundary::Now),
            Some("any") => Ok(Boundary::Any),
            Some("each") => match self.window.take() {
                Some(window) => Ok(Boundary::Each { window: window.0 }),
                None => Err("needs `window`, the time in which each boundary is tried".into()),
            },
            Some(other) => Err(format!("`boundary` is \"now\", \"any\" or \"each\", not {other:?}")),
        }
    }

    fn wall_after(&mut self) -> Result<WallAfter, String> {
        match self.wall.take().as_deref() {
            None | Some("kept") => Ok(WallAfter::Kept),
            Some("1970") => Ok(WallAfter::Epoch),
            Some(step) => signed(step).map(WallAfter::Stepped),
        }
    }

    fn move_to(&mut self) -> Result<MoveTo, String> {
        match self.to.take().as_deref() {
            Some("any") => Ok(MoveTo::Any),
            Some("none") => Ok(MoveTo::None),
            Some(group) => group.parse().map(MoveTo::Group).map_err(|_| format!("no group is called {group:?}")),
            None => Err("needs `to`: the name of a group, \"none\" or \"any\"".into()),
        }
    }

    fn revoke_what(&mut self) -> Result<RevokeWhat, String> {
        match self.what.take().as_deref() {
            Some("all") => Ok(RevokeWhat::All),
            Some("block") => Ok(RevokeWhat::Block),
            Some("carried") => Ok(RevokeWhat::Carried),
            Some("device") => Ok(RevokeWhat::Device),
            Some("grant") => Ok(RevokeWhat::Grant),
            Some("group") => Ok(RevokeWhat::Group),
            Some("owner") => Ok(RevokeWhat::Owner),
            Some("task") => Ok(RevokeWhat::Task),
            Some("token") => Ok(RevokeWhat::Token),
            Some(_) | None => Err("needs `what`, one of: all block carried device grant group owner task token".into()),
        }
    }

    fn left_over(&self) -> String {
        let keys = [
            ("jitter", self.jitter.is_some()),
            ("for", self.lasts.is_some()),
            ("dir", self.dir.is_some()),
            ("boundary", self.boundary.is_some()),
            ("window", self.window.is_some()),
            ("wall", self.wall.is_some()),
            ("by", self.by.is_some()),
            ("age", self.age.is_some()),
            ("late", self.late.is_some()),
            ("to", self.to.is_some()),
            ("what", self.what.is_some()),
            ("drop", self.drop.is_some()),
            ("duplicate", self.duplicate.is_some()),
            ("delay", self.delay.is_some()),
            ("forge", self.forge.is_some()),
            ("count", self.count.is_some()),
            ("life", self.life.is_some()),
        ];
        let names: Vec<&str> = keys.into_iter().filter(|(_, present)| *present).map(|(name, _)| name).collect();
        names.join(" ")
    }
}

fn percent(value: Option<u32>) -> Result<u32, String> {
    match value.unwrap_or(0) {
        value @ 0..=100 => Ok(value),
        value => Err(format!("{value} is no percentage")),
    }
}

fn signed(text: &str) -> Result<i64, String> {
    let (sign, length) = match text.split_at_checked(1) {
        Some(("-", length)) => (-1, length),
        Some(("+", length)) => (1, length),
        Some(_) | None => return Err(format!("{text:?} needs a sign, like \"-7h\" or \"+2d\"")),
    };
    let span = Span::try_from(length.to_owned())?;
    i64::try_from(span.0).map(|ms| sign * ms).map_err(|_| format!("{text:?} is too long"))
}
