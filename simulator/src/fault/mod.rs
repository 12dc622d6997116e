//! The catalogue of faults, as scenario files name them.
//!
//! Owns: [`Fault`] with its kinds, when it happens and to whom. Each family has a file, with the words that are its own.
//! Never: makes anything happen.
//! Read next: `plan.rs`, which resolves them into single acts.

mod broker;
mod clock;
mod disk;
mod identity;
mod load;
mod network;
mod planner;
mod process;
mod text;

pub use broker::{AckTrick, EmergencyTrick, FeedTrick, Forgotten, Hostility, Retained, Statement, WireTrick};
pub use clock::ResetWhat;
pub use disk::{Damage, Part, Refusal, Sync};
pub use identity::{EmergencyTheft, EmergencyWhat, MoveTo, RevokeWhat, RotateWhat};
pub use load::FloodWhat;
pub use network::Direction;
pub use planner::Misuse;
pub use process::{Boundary, Firmware, WallAfter};
pub(crate) use text::FaultText;

/// A fault as files name it: its name, what its `what` can be if it has one, and how the rest of it is read.
type Named = (&'static str, &'static [&'static str], fn(&mut FaultText) -> Result<Kind, String>);

/// All that a file can name, family by family.
const CATALOGUE: [&[Named]; 8] = [
    network::NAMES,
    broker::NAMES,
    clock::NAMES,
    disk::NAMES,
    process::NAMES,
    identity::NAMES,
    load::NAMES,
    planner::NAMES,
];

/// Every kind that a file can name: with its `what`, its direction, or what a hostile broker does, where it has one.
#[cfg(test)]
pub(crate) fn kinds() -> impl Iterator<Item = String> {
    CATALOGUE.iter().flat_map(|family| family.iter()).flat_map(|(name, whats, _)| {
        let more: &[&str] = match *name {
            "broker.hostile" => &["drop", "duplicate", "delay", "forge"],
            "link.down" | "link.slow" => &["both", "down", "up"],
            _ => whats,
        };
        let alone = more.is_empty().then(|| (*name).to_owned());
        alone.into_iter().chain(more.iter().map(move |more| format!("{name} {more}")))
    })
}

/// What a fault in a file is called among [`kinds`]: a hostile broker is of several.
#[cfg(test)]
pub(crate) fn kinds_of(fault: &toml::Table) -> Vec<String> {
    let says = |key: &str| fault.get(key).and_then(toml::Value::as_str);
    let name = says("do").unwrap_or_default();
    let both = ["link.down", "link.slow"].contains(&name).then_some("both");
    let whims = ["drop", "duplicate", "delay", "forge"].into_iter().filter(|whim| fault.contains_key(*whim));
    let whims: Vec<String> = whims.map(|whim| format!("{name} {whim}")).collect();
    match says("what").or(says("dir")).or(both) {
        Some(what) => vec![format!("{name} {what}")],
        None if whims.is_empty() => vec![name.to_owned()],
        None => whims,
    }
}

/// What `what` can be, of these.
const fn whats<T: Copy, const N: usize>(all: &[(&'static str, T); N]) -> [&'static str; N] {
    let mut names = [""; N];
    let mut place = 0;
    while place < N {
        names[place] = all[place].0;
        place += 1;
    }
    names
}

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
    /// The file system that the state folder is on refuses writes for a while.
    DiskRefuses {
        /// How long.
        lasts: u64,
        /// Which.
        how: Refusal,
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
    /// What goes in this direction takes longer for a while. Of several at once the slowest counts.
    LinkSlow {
        /// How long.
        lasts: u64,
        /// Which way.
        direction: Direction,
        /// How much longer, on top of what it takes anyway.
        by: u64,
    },
    /// Somebody tries to get more by a planner, or by a step, than is due to him.
    Misuse(Misuse),
    /// The supply fails.
    PowerCut {
        /// How long it is away.
        lasts: u64,
        /// At which point of a commit.
        boundary: Boundary,
        /// What the wall clock shows after it.
        wall: WallAfter,
    },
    /// A newer version ran over the state folder and left it in its own format, and this one is started over that. After a
    /// while the newer one runs again.
    ProcessDowngrade {
        /// How long this version is what is started.
        lasts: u64,
    },
    /// The agent's process is killed; the kernel keeps what was written.
    ProcessRestart {
        /// How long until it runs again.
        lasts: u64,
    },
    /// The agent's process gets no time for a while; the kernel, its clocks and its sockets go on.
    ProcessStop {
        /// How long.
        lasts: u64,
    },
    /// The agent ends in order, and another firmware's is started over its state.
    ProcessUpgrade {
        /// How long until it runs again.
        lasts: u64,
        /// Which.
        to: Firmware,
        /// Whether the supply fails within the first commit of what is started.
        cut: bool,
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
            Self::DiskRefuses { how, .. } => how.name(),
            Self::DiskSync { part, how, .. } => how.name(*part),
            Self::Emergency { what, .. } => what.name(),
            Self::EmergencyThief(theft) => theft.name(),
            Self::Flood { what, .. } => what.name(),
            Self::GroupMove(_) => "group.move",
            Self::KeyRotate(what) => what.name(),
            Self::LinkHalfOpen => "link.half_open",
            Self::LinkDown { .. } => "link.down",
            Self::LinkSlow { .. } => "link.slow",
            Self::Misuse(how) => how.name(),
            Self::PowerCut { .. } => "power.cut",
            Self::ProcessDowngrade { .. } => "process.downgrade",
            Self::ProcessRestart { .. } => "process.restart",
            Self::ProcessStop { .. } => "process.stop",
            Self::ProcessUpgrade { .. } => "process.upgrade",
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
            | Self::DiskRefuses { lasts, .. }
            | Self::DiskSync { lasts, .. }
            | Self::Flood { lasts, .. }
            | Self::LinkDown { lasts, .. }
            | Self::LinkSlow { lasts, .. }
            | Self::PowerCut { lasts, .. }
            | Self::ProcessDowngrade { lasts }
            | Self::ProcessRestart { lasts }
            | Self::ProcessStop { lasts }
            | Self::ProcessUpgrade { lasts, .. }
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
            | Self::Misuse(_)
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
