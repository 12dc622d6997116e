//! The catalogue of faults, as scenario files name them.
//!
//! Owns: [`Fault`] with its kinds, when it happens and to whom. Each family has a file, with the words that are its own.
//! Never: makes anything happen.
//! Read next: `plan.rs`, which resolves them into single acts.

/// An enum whose members files name. What its docstring says of each, `hardtack-sim faults` says too.
macro_rules! named {
    ($(#[$of_all:meta])* pub enum $name:ident { $($(#[doc = $says:literal])+ $text:literal => $member:ident,)+ }) => {
        $(#[$of_all])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum $name {
            $($(#[doc = $says])+ $member,)+
        }

        impl $name {
            /// All of them, by their names.
            pub const ALL: &'static [(&'static str, Self)] = &[$(($text, Self::$member)),+];
            /// What each is, by its name.
            pub(crate) const SAYS: super::Says = &[$(($text, concat!($($says),+))),+];

            /// What scenario files call it, with the fault that it is part of. Its effects are counted under this name.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$member => $text,)+
                }
            }
        }
    };
}

mod broker;
mod clock;
mod disk;
mod identity;
mod load;
mod narrowed;
mod network;
mod planner;
mod process;
mod text;
mod who;

use serde::Serialize;

use crate::report::words;

pub use broker::{AckTrick, EmergencyTrick, FeedTrick, Forgotten, Hostility, Retained, Statement, WireTrick};
pub use clock::ResetWhat;
pub use disk::{Damage, Part, Refusal, Sync};
pub(crate) use identity::EMERGENCY_LIFE_MAX;
pub use identity::{EmergencyTheft, EmergencyWhat, MoveTo, RevokeWhat, RotateWhat};
pub use load::FloodWhat;
pub(crate) use load::STORM_MAX;
pub use narrowed::Overstep;
pub use network::Direction;
pub use planner::Misuse;
pub use process::{Boundary, Firmware, WallAfter};
pub(crate) use text::FaultText;
pub use text::{KEYS, KEYS_OF_ALL};
pub(crate) use who::numbers;
pub use who::Who;

/// What files call each member of something, of the fault and of its `what`, and what that is.
type Says = &'static [(&'static str, &'static str)];

/// A fault as files name it: its name, the keys that it needs, those that it takes as well with a `?` after them, what its
/// `what` can be if it has one, and how it is read.
type Named = (&'static str, &'static [&'static str], Says, fn(&mut FaultText) -> Result<Kind, String>);

/// All that a file can name, family by family.
const CATALOGUE: [(&str, &[Named]); 9] = [
    ("links", network::NAMES),
    ("broker", broker::NAMES),
    ("clocks", clock::NAMES),
    ("disks", disk::NAMES),
    ("power and processes", process::NAMES),
    ("keys, revocations, groups", identity::NAMES),
    ("load", load::NAMES),
    ("planners and steps", planner::NAMES),
    ("narrowed credentials", narrowed::NAMES),
];

/// Faults that befall the whole fleet, whoever is named.
const OF_THE_FLEET: [&str; 9] = [
    "broker.emergency",
    "broker.forget",
    "broker.hostile",
    "broker.lose",
    "broker.restart",
    "broker.restore",
    "key.rotate",
    "revoke.storm",
    "service.stop",
];

/// Whether a fault of this name, or of this name and its `what`, befalls the whole fleet.
pub(crate) fn is_of_the_fleet(name: &str) -> bool {
    OF_THE_FLEET.contains(&name.split(' ').next().unwrap_or_default())
}

/// A fault that files can name, for whoever writes one.
#[derive(Debug, Clone, Serialize)]
pub struct Entry {
    /// The family that it is of.
    pub family: &'static str,
    /// Its name, as `do`.
    pub name: &'static str,
    /// What it does.
    pub says: &'static str,
    /// Whether `who` says which gateways it befalls; it befalls the whole fleet otherwise.
    pub takes_who: bool,
    /// The keys that it needs, and with a `?` after them those that it takes as well; beside those of all faults.
    pub keys: &'static [&'static str],
    /// What its `what` can be, if it has one, and what that is.
    pub whats: Vec<(&'static str, &'static str)>,
}

/// All faults that a file can name, family by family.
pub fn entries() -> impl Iterator<Item = Entry> {
    let of_family = |(family, all): (&'static str, &'static [Named])| {
        all.iter().map(move |(name, keys, members, _)| {
            let own = members.iter().find(|(text, _)| text == name).map(|(_, says)| says.trim());
            let says = match (words::exact(name), own) {
                ("", Some(own)) => own,
                ("", None) => words::fault(name),
                (exact, _) => exact,
            };
            Entry {
                family,
                name,
                says,
                takes_who: !is_of_the_fleet(name),
                keys,
                whats: whats(name, members).map(|(what, says)| (what, says.trim())).collect(),
            }
        })
    };
    CATALOGUE.into_iter().flat_map(of_family)
}

/// The values of the `what` of the fault that is called `name`, and what is said of each.
fn whats<'a, T: Copy>(
    name: &'a str,
    all: &'static [(&'static str, T)],
) -> impl Iterator<Item = (&'static str, T)> + 'a {
    let what =
        move |text: &'static str| text.strip_prefix(name).and_then(|rest| rest.strip_prefix(' ')).unwrap_or(text);
    // What another fault does, and what is a fault by itself, may be in the same list.
    all.iter().map(move |(text, value)| (what(text), *value)).filter(|(what, _)| !what.contains([' ', '.']))
}

/// Every kind that a file can name: with its `what`, its direction, or what a hostile broker does, where it has one.
#[cfg(test)]
pub(crate) fn kinds() -> impl Iterator<Item = String> {
    entries().flat_map(|Entry { name, whats, .. }| {
        let more = match name {
            "broker.hostile" => vec!["drop", "duplicate", "delay", "forge"],
            "link.down" | "link.slow" => vec!["both", "down", "up"],
            _ => whats.into_iter().map(|(what, _)| what).collect(),
        };
        let alone = more.is_empty().then(|| name.to_owned());
        alone.into_iter().chain(more.into_iter().map(move |more| format!("{name} {more}")))
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

/// A fault and when it happens to whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// When.
    pub when: When,
    /// To whom.
    pub who: Who,
    /// What, for as long as it lasts at the least.
    pub kind: Kind,
    /// How much longer it lasts at the most, by chance each time.
    pub longer: u64,
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

/// What goes wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// The broker tampers with the next acknowledgement of a gateway's `hello`.
    BrokerAck(AckTrick),
    /// The broker keeps back one kind of signed statement for a while, or gives it out late: from all, or from some alone.
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
    /// Somebody tries to get more by narrowing a credential, or by what was narrowed, than is due to him.
    Overstep(Overstep),
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
            Self::Overstep(how) => how.name(),
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
    const fn lasts_mut(&mut self) -> Option<&mut u64> {
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
            | Self::Suspend { lasts } => Some(lasts),
            Self::TimeReset { late, .. } => Some(late),
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
            | Self::Overstep(_)
            | Self::Revoke(_)
            | Self::RevokeStorm { .. }
            | Self::Wire(_) => None,
        }
    }
}

impl Fault {
    /// What happens each time, for so much longer than at the least.
    pub(crate) fn lasting(&self, longer: u64) -> Kind {
        let mut kind = self.kind.clone();
        if let Some(lasts) = kind.lasts_mut() {
            *lasts = lasts.saturating_add(longer);
        }
        kind
    }

    /// How long an occurrence lasts at the most.
    pub(crate) fn lasts_at_most(&self) -> u64 {
        self.lasting(self.longer).lasts_mut().map_or(0, |lasts| *lasts)
    }

    /// When its last occurrence is over at the latest.
    pub fn over(&self) -> u64 {
        self.when.until.saturating_add(self.when.jitter).saturating_add(self.lasts_at_most())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Scenario;

    #[test]
    fn each_fault_takes_the_keys_that_are_said_of_it_and_no_others() {
        for Entry { name, keys, whats, takes_who, .. } in entries() {
            let whats = whats.into_iter().map(|(what, _)| Some(what));
            let whats: Vec<Option<&str>> = if keys.contains(&"what") { whats.collect() } else { vec![None] };
            assert!(!whats.is_empty(), "{name}");
            for what in whats {
                let takes = |keys: &[&str]| takes(name, what, keys);
                let bare = |key: &&'static str| key.trim_end_matches('?');
                let all: Vec<&str> = keys.iter().map(bare).collect();
                let needed: Vec<&str> = keys.iter().filter(|key| !key.ends_with('?')).copied().collect();
                // A hostile broker does one of four things, or more.
                let fewest = if name == "broker.hostile" { [&needed[..], &["drop"]].concat() } else { needed.clone() };
                assert_eq!(takes(&all), Ok(()), "{name} {what:?}");
                assert_eq!(takes(&fewest), Ok(()), "{name} {what:?}");
                for key in needed {
                    let without: Vec<&str> = all.iter().copied().filter(|other| *other != key).collect();
                    assert!(takes(&without).is_err(), "{name} {what:?} does without {key}");
                }
                assert_eq!(takes(&[&all[..], &["who"]].concat()).is_ok(), takes_who, "{name} {what:?} and `who`");
                for (key, _) in KEYS.into_iter().filter(|(key, _)| !all.contains(key)) {
                    assert!(takes(&[&all[..], &[key]].concat()).is_err(), "{name} {what:?} takes {key}");
                }
            }
        }
    }

    /// Whether a scenario can have this fault with these keys.
    fn takes(name: &str, what: Option<&str>, keys: &[&str]) -> Result<(), String> {
        let value = |key: &str| match key {
            "what" => format!("{:?}", what.unwrap_or("all")),
            "by" => "\"+2s\"".into(),
            "dir" => "\"up\"".into(),
            // One of the three faults that have it has no part of a commit to try in turn.
            "boundary" if keys.contains(&"window") => "\"each\"".into(),
            "boundary" => "\"any\"".into(),
            "wall" => "\"1970\"".into(),
            "to" if name == "group.move" => "\"any\"".into(),
            "to" => "\"next\"".into(),
            "who" => "\"0\"".into(),
            "count" | "drop" | "duplicate" | "delay" | "forge" => "5".into(),
            _ => "\"2m\"".into(),
        };
        let keys: String = keys.iter().map(|key| format!("{key} = {}\n", value(key))).collect();
        let head = "schema = 1\nname = \"x\"\nabout = \"x\"\nseed = 1\nduration = \"8h\"\nheal = \"6h\"\nrequire = []";
        let world =
            "[workload.narrowing]\n[workload.planner]\n[workload.identity]\n[fleet.upgrade.queue]\nquota_mib = 9";
        let text = format!("{head}\n{world}\n[[fault]]\ndo = {name:?}\nat = \"1h\"\n{keys}");
        Scenario::parse(&text).map(|_| ()).map_err(|error| error.to_string())
    }

    #[test]
    fn of_each_fault_and_of_what_it_can_be_something_is_said() {
        for entry in entries() {
            assert!(!entry.says.is_empty(), "{}", entry.name);
            assert!(entry.whats.iter().all(|(_, says)| says.ends_with('.')), "{:?}", entry.whats);
        }
    }
}
