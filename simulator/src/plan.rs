//! A plan: a scenario and a seed, resolved into single acts in order of time.
//!
//! Owns: [`Plan`], [`Act`]. What is in a plan needs no seed any more; it can be printed, cut and run again.
//! Never: looks at the world. An act that needs something of it ("a live task") carries a number to pick it with.
//! Read next: `world.rs`, which carries it out.

use rand_core::RngCore;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::fault::{
    AckTrick, Boundary, Damage, Direction, EmergencyTheft, EmergencyTrick, EmergencyWhat, Fault, FeedTrick, Firmware,
    FloodWhat, Forgotten, Hostility, Kind, Misuse, MoveTo, Part, Refusal, ResetWhat, Retained, RevokeWhat, RotateWhat,
    Statement, Sync, WallAfter, WireTrick,
};
use crate::random::{below, between, stream};
use crate::scenario::Scenario;

/// What happens, in order of time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The acts, earliest first.
    pub entries: Vec<Entry>,
}

/// An act and its time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Map<String, Value>")]
pub struct Entry {
    /// Milliseconds after 2026-03-01, in true time.
    pub at: u64,
    /// Which fault of the scenario it is part of; what programs do is part of none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub of: Option<Occurrence>,
    /// What happens.
    #[serde(flatten)]
    pub act: Act,
}

/// An act as serde reads it, which takes any key beside those of fields that are flattened.
#[derive(Deserialize)]
struct Lax {
    at: u64,
    #[serde(default)]
    of: Option<Occurrence>,
    #[serde(flatten)]
    act: Act,
}

impl TryFrom<Map<String, Value>> for Entry {
    type Error = String;

    /// A key that the act does not have is refused: what it was to say would not happen.
    fn try_from(fields: Map<String, Value>) -> Result<Self, String> {
        let lax: Lax = serde_json::from_value(Value::Object(fields.clone())).map_err(|error| error.to_string())?;
        let entry = Self { at: lax.at, of: lax.of, act: lax.act };
        let own = serde_json::to_value(&entry).map_err(|error| error.to_string())?;
        match fields.keys().find(|key| own.get(key.as_str()).is_none()) {
            None => Ok(entry),
            Some(stranger) => {
                let keys: Vec<&str> = own.as_object().into_iter().flat_map(Map::keys).map(String::as_str).collect();
                Err(format!("unknown key `{stranger}`: this act has {}", keys.join(" ")))
            }
        }
    }
}

/// One time that a fault happens. With the gateway, where it is about one, this is what belongs together: what goes away
/// and comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Occurrence {
    /// The fault's place in the file, from 1.
    pub fault: u32,
    /// How often it has happened before.
    pub time: u32,
}

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

/// Tokens that must be refused, or for most that is asked, each as likely as the other.
const HOSTILE: [TokenChoice; 9] = [
    TokenChoice::Attenuated,
    TokenChoice::Expired,
    TokenChoice::Finished,
    TokenChoice::Foreign,
    TokenChoice::Forged,
    TokenChoice::Revoked,
    TokenChoice::Stolen,
    TokenChoice::Stranger,
    TokenChoice::Widened,
];
/// How long a program that asks as fast as it can takes for it.
const FLOOD_EVERY: u64 = 100;
/// How often a strobing wall clock jumps.
const STROBE: u64 = 700;

/// How long nothing happens in the end, so that the last records can arrive.
pub(crate) const LAST_QUIET: u64 = 300_000;

impl Plan {
    /// What `scenario` comes to under `seed`.
    pub fn new(scenario: &Scenario, seed: u64) -> Self {
        let mut entries = Vec::new();
        for device in 0..scenario.fleet.devices {
            workload(scenario, seed, device, &mut entries);
        }
        for (fault, number) in scenario.faults.iter().zip(0..) {
            expand(fault, number, scenario, seed, &mut entries);
        }
        entries.extend(scenario.acts.iter().cloned());
        entries.iter_mut().for_each(|entry| entry.at += scenario.start);
        // Stable: acts of one time stay in the order in which they were made.
        entries.sort_by_key(|entry| entry.at);
        Self { entries }
    }

    /// Whether it needs operators with emergency keys.
    pub(crate) fn needs_emergency_keys(&self) -> bool {
        let needs = |entry: &Entry| {
            matches!(entry.act, Act::BrokerEmergency { .. } | Act::Emergency { .. } | Act::EmergencyThief { .. })
        };
        self.entries.iter().any(needs)
    }
}

/// About how many acts a scenario comes to.
pub(crate) fn count(scenario: &Scenario) -> u64 {
    let plan = &scenario.workload;
    let often = |every: u64, burst: u32| (scenario.duration / every.max(1)).saturating_mul(u64::from(burst));
    let planner = plan.planner.iter().flat_map(|planner| planner.spans()).map(|every| often(every.0, 1));
    let once = [plan.begin_every, plan.finish_every, plan.status_every].map(|every| often(every.0, 1));
    let bursts = [Some(plan.authorize_every), plan.distinct_every].into_iter().flatten();
    let programs = planner.chain(once).chain(bursts.map(|every| often(every.0, plan.burst)));
    let of_each: u64 = programs.fold(0, u64::saturating_add);
    let of_programs = if plan.quiet { 0 } else { of_each.saturating_mul(u64::from(scenario.fleet.devices)) };
    let of_faults = scenario.faults.iter().map(|fault| {
        let times = fault.when.every.map_or(1, |every| (fault.when.until - fault.when.at) / every + 1);
        let acts = match fault.kind {
            Kind::Flood { .. } => fault.lasts_at_most() / FLOOD_EVERY,
            Kind::ClockStrobe { .. } => fault.lasts_at_most() / STROBE,
            _ => 2,
        };
        times.saturating_mul(acts).saturating_mul(u64::from(fault.who.count(scenario.fleet.devices)))
    });
    of_faults.fold(of_programs, u64::saturating_add).saturating_add(scenario.acts.len() as u64)
}

/// What the programs on one gateway do. They go on after `heal`: availability is judged by them.
fn workload(scenario: &Scenario, seed: u64, device: u32, entries: &mut Vec<Entry>) {
    let plan = &scenario.workload;
    if plan.quiet {
        return;
    }
    let name = format!("gw-{device}");
    let end = scenario.duration - LAST_QUIET;
    let end = plan.until.map_or(end, |until| until.0.min(end));
    let mut repeat = |purpose: &str, every: u64, burst: u32, make: &mut dyn FnMut(&mut dyn RngCore) -> Act| {
        let mut rng = stream(seed, &name, purpose);
        let mut at = plan.from.0 + below(&mut rng, every);
        while at < end {
            for _ in 0..burst {
                entries.push(Entry { at, of: None, act: make(&mut rng) });
            }
            at += between(&mut rng, every / 2, every + every / 2).max(1);
        }
    };
    repeat("begin", plan.begin_every.0, 1, &mut |rng| Act::Begin { device, pick: rng.next_u64() });
    repeat("finish", plan.finish_every.0, 1, &mut |rng| Act::Finish { device, pick: rng.next_u64() });
    if let Some(every) = plan.distinct_every {
        repeat("distinct", every.0, plan.burst, &mut |rng| Act::Distinct { device, pick: rng.next_u64() });
    }
    if let Some(planner) = &plan.planner {
        for (purpose, every, does) in [
            ("plan", planner.begin_every, Planning::Begins),
            ("execute", planner.execute_every, Planning::Executes),
            ("finish plan", planner.finish_every, Planning::Finishes),
            ("step", planner.step_every, Planning::Steps),
        ] {
            repeat(purpose, every.0, 1, &mut |rng| Act::Plan { device, does, pick: rng.next_u64() });
        }
    }
    repeat("status", plan.status_every.0, 1, &mut |_| Act::Status { device });
    repeat("authorize", plan.authorize_every.0, plan.burst, &mut |mut rng| {
        let share = below(&mut rng, 100);
        let token = if share < u64::from(plan.hostile_percent) {
            HOSTILE[below(&mut rng, HOSTILE.len() as u64) as usize]
        } else if share < u64::from(plan.hostile_percent + plan.spend_percent) {
            TokenChoice::Spend
        } else {
            TokenChoice::Valid
        };
        let risk = plan.risks[below(&mut rng, plan.risks.len() as u64) as usize].clone();
        Act::Authorize { device, token, risk, pick: rng.next_u64() }
    });
}

/// The times of a fault, and for each the acts that it comes to.
fn expand(fault: &Fault, number: u32, scenario: &Scenario, seed: u64, entries: &mut Vec<Entry>) {
    let mut times = stream(seed, &format!("fault-{number}"), "times");
    let mut choice = stream(seed, &format!("fault-{number}"), "who");
    let mut length = stream(seed, &format!("fault-{number}"), "length");
    let mut due = fault.when.at;
    for occurrence in 0u32.. {
        let at = due + below(&mut times, fault.when.jitter + 1);
        let targets = fault.who.chosen(scenario.fleet.devices, &mut choice);
        let kind = fault.lasting(below(&mut length, fault.longer.saturating_add(1)));
        let backup = number * 1000 + occurrence % 1000;
        let of = Occurrence { fault: number + 1, time: occurrence };
        acts(&kind, at, &targets, backup, scenario.heal, seed, of, entries);
        match fault.when.every {
            Some(every) if due + every <= fault.when.until => due += every,
            Some(_) | None => break,
        }
    }
}

#[expect(clippy::too_many_arguments, reason = "one call, and a struct would only name them a second time")]
fn acts(
    kind: &Kind,
    at: u64,
    targets: &[u32],
    backup: u32,
    heal: u64,
    seed: u64,
    of: Occurrence,
    entries: &mut Vec<Entry>,
) {
    let number = of.fault - 1;
    let mut push = |at: u64, act: Act| entries.push(Entry { at, of: Some(of), act });
    // Whatever is down is up again when faults stop.
    let end = |lasts: u64| (at + lasts).min(heal);
    let pick = |device: u32| stream(seed, &format!("fault-{number}/gw-{device}"), &at.to_string()).next_u64();
    match kind {
        Kind::BrokerAck(trick) => {
            targets.iter().for_each(|d| push(at, Act::BrokerAck { device: *d, trick: *trick }));
        }
        Kind::BrokerDelay { lasts, what, late } => {
            push(at, Act::BrokerDelay { what: *what, late: *late, turn: Turn::Begins });
            push(end(*lasts), Act::BrokerDelay { what: *what, late: *late, turn: Turn::Ends });
        }
        Kind::BrokerEmergency(trick) => push(at, Act::BrokerEmergency { trick: *trick, pick: pick(0) }),
        Kind::BrokerFeed(trick) => {
            targets.iter().for_each(|d| push(at, Act::BrokerFeed { device: *d, trick: *trick }));
        }
        Kind::BrokerForget(what) => push(at, Act::BrokerForget { what: *what }),
        Kind::BrokerHostile { lasts, how } => {
            push(at, Act::BrokerHostile { how: *how });
            push(end(*lasts), Act::BrokerHostile { how: Hostility::default() });
        }
        Kind::BrokerReplay => targets.iter().for_each(|d| push(at, Act::BrokerReplay { device: *d, pick: pick(*d) })),
        Kind::BrokerRestart { lasts, retained } => {
            push(at, Act::BrokerStop { retained: *retained });
            push(end(*lasts), Act::BrokerStart);
        }
        Kind::BrokerRestore { age } => {
            push(at.saturating_sub(*age), Act::BrokerBackup { backup });
            push(at, Act::BrokerRestore { backup });
        }
        Kind::ClockDrift => targets.iter().for_each(|d| push(at, Act::ClockDrift { device: *d, pick: pick(*d) })),
        Kind::ClockFreeze { lasts } => {
            for device in targets {
                push(at, Act::ClockFreeze { device: *device, turn: Turn::Begins });
                push(end(*lasts), Act::ClockFreeze { device: *device, turn: Turn::Ends });
            }
        }
        Kind::ClockStrobe { lasts, by } => {
            for device in targets {
                // An even number of jumps: in the end it shows what it did before.
                for jump in 0..*lasts / STROBE / 2 {
                    push(at + 2 * jump * STROBE, Act::ClockStep { device: *device, by: *by });
                    push(at + (2 * jump + 1) * STROBE, Act::ClockStep { device: *device, by: -*by });
                }
            }
        }
        Kind::Disk { lasts, damage, age } => {
            for device in targets {
                let (copy, damage, lasts) = (backup, *damage, *lasts);
                if damage.puts_back() {
                    push(at.saturating_sub(*age), Act::DiskCopy { device: *device, copy });
                }
                push(at, Act::DiskDamage { device: *device, lasts, damage, copy, pick: pick(*device) });
            }
        }
        Kind::DiskClone { age } => {
            for device in targets {
                push(at.saturating_sub(*age), Act::DiskCopy { device: *device, copy: backup });
                push(at, Act::DiskClone { device: *device, copy: backup });
            }
        }
        Kind::DiskRefuses { lasts, how } => {
            for device in targets {
                let act = |turn| Act::DiskRefuses { device: *device, how: *how, turn };
                push(at, act(Turn::Begins));
                push(end(*lasts), act(Turn::Ends));
            }
        }
        Kind::DiskSync { lasts, part, how } => {
            for device in targets {
                let act = |turn| Act::DiskSync { device: *device, part: *part, how: *how, turn };
                push(at, act(Turn::Begins));
                push(end(*lasts), act(Turn::Ends));
            }
        }
        Kind::ClockStep(by) => targets.iter().for_each(|d| push(at, Act::ClockStep { device: *d, by: *by })),
        Kind::Emergency { what, life } => {
            for device in targets {
                push(at, Act::Emergency { device: *device, what: *what, life: *life, pick: pick(*device) });
            }
        }
        Kind::EmergencyThief(theft) => {
            targets.iter().for_each(|d| push(at, Act::EmergencyThief { device: *d, theft: *theft }));
        }
        Kind::Flood { lasts, what } => {
            for device in targets {
                let (device, what, pick) = (*device, *what, pick(*device));
                for number in 0..lasts / FLOOD_EVERY {
                    push(at + number * FLOOD_EVERY, Act::Flood { device, what, number, pick });
                }
            }
        }
        Kind::GroupMove(to) => {
            targets.iter().for_each(|d| push(at, Act::GroupMove { device: *d, to: to.clone(), pick: pick(*d) }));
        }
        Kind::KeyRotate(what) => push(at, Act::KeyRotate { what: *what }),
        Kind::LinkHalfOpen => targets.iter().for_each(|d| push(at, Act::LinkHalfOpen { device: *d })),
        Kind::LinkDown { lasts, direction } => {
            for device in targets {
                push(at, Act::LinkDown { device: *device, direction: *direction });
                push(end(*lasts), Act::LinkUp { device: *device, direction: *direction });
            }
        }
        Kind::LinkSlow { lasts, direction, by } => {
            for device in targets {
                let act = |turn| Act::LinkSlow { device: *device, direction: *direction, by: *by, turn };
                push(at, act(Turn::Begins));
                push(end(*lasts), act(Turn::Ends));
            }
        }
        Kind::Misuse(how) => {
            targets.iter().for_each(|d| push(at, Act::Misuse { device: *d, how: *how, pick: pick(*d) }));
        }
        Kind::PowerCut { lasts, boundary, wall } => {
            for device in targets {
                let (lasts, boundary, wall) = (*lasts, *boundary, *wall);
                push(at, Act::PowerCut { device: *device, lasts, boundary, wall, pick: pick(*device) });
            }
        }
        Kind::ProcessDowngrade { lasts } => {
            for device in targets {
                push(at, Act::ProcessDowngrade { device: *device, turn: Turn::Begins });
                push(end(*lasts), Act::ProcessDowngrade { device: *device, turn: Turn::Ends });
            }
        }
        Kind::ProcessStop { lasts } => {
            for device in targets {
                push(at, Act::ProcessStop { device: *device, turn: Turn::Begins });
                push(end(*lasts), Act::ProcessStop { device: *device, turn: Turn::Ends });
            }
        }
        Kind::ProcessUpgrade { lasts, to, cut } => {
            for device in targets {
                let (lasts, to, cut) = (*lasts, *to, *cut);
                push(at, Act::ProcessUpgrade { device: *device, lasts, to, cut, pick: pick(*device) });
            }
        }
        Kind::ProcessRestart { lasts } => {
            for device in targets {
                push(at, Act::ProcessRestart { device: *device, lasts: *lasts, pick: pick(*device) });
            }
        }
        Kind::Reboot { lasts, wall } => {
            targets.iter().for_each(|d| push(at, Act::Reboot { device: *d, lasts: *lasts, wall: *wall }));
        }
        Kind::Revoke(what) => {
            let targets = if what.is_of_all() { targets.get(..1).unwrap_or_default() } else { targets };
            targets.iter().for_each(|d| push(at, Act::Revoke { device: *d, what: *what, pick: pick(*d) }));
        }
        Kind::RevokeStorm { count, life } => {
            push(at, Act::RevokeStorm { count: *count, life: *life, pick: pick(0) });
        }
        Kind::ServiceAhead { lasts, by } => {
            for device in targets {
                push(at, Act::ServiceAhead { device: *device, by: *by, turn: Turn::Begins });
                push(end(*lasts), Act::ServiceAhead { device: *device, by: *by, turn: Turn::Ends });
            }
        }
        Kind::ServiceStop { lasts } => {
            push(at, Act::ServiceStop);
            push(end(*lasts), Act::ServiceStart);
        }
        Kind::Suspend { lasts } => {
            for device in targets {
                push(at, Act::Suspend { device: *device, turn: Turn::Begins });
                push(end(*lasts), Act::Suspend { device: *device, turn: Turn::Ends });
            }
        }
        Kind::TimeReset { what, late } => {
            targets.iter().for_each(|d| push(at, Act::TimeReset { device: *d, what: *what, late: *late }));
        }
        Kind::Wire(trick) => {
            targets.iter().for_each(|d| push(at, Act::Wire { device: *d, trick: *trick, pick: pick(*d) }));
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn scenario(faults: &str) -> Scenario {
        let text = format!(
            "schema = 1\nname = \"x\"\nabout = \"x\"\nseed = 1\nduration = \"8h\"\nheal = \"6h\"\nrequire = []\n{faults}"
        );
        Scenario::parse(&text).unwrap()
    }

    const FLAP: &str =
        "[[fault]]\ndo = \"link.down\"\nat = \"1h\"\nfor = \"1m\"\nevery = \"1h\"\nuntil = \"5h\"\njitter = \"5m\"\n";
    const CUT: &str = "[[fault]]\ndo = \"power.cut\"\nat = \"90m\"\nfor = \"1m\"\nwho = \"one\"\nboundary = \"any\"\n";

    #[test]
    fn equal_seeds_equal_plans_and_sorted() {
        let scenario = scenario(&format!("{FLAP}{CUT}"));
        let plan = Plan::new(&scenario, 7);
        assert_eq!(plan, Plan::new(&scenario, 7));
        assert_ne!(plan, Plan::new(&scenario, 8));
        assert!(plan.entries.windows(2).all(|pair| pair[0].at <= pair[1].at));
    }

    #[test]
    fn a_fault_more_shifts_nobody_elses_draws() {
        let without = Plan::new(&scenario(FLAP), 7).entries;
        let with = Plan::new(&scenario(&format!("{FLAP}{CUT}")), 7).entries;
        assert_eq!(with.len(), without.len() + 1);
        let rest: Vec<_> = with.into_iter().filter(|entry| !matches!(entry.act, Act::PowerCut { .. })).collect();
        assert_eq!(rest, without);
    }

    #[test]
    fn how_long_it_lasts_is_drawn_each_time_within_what_is_said() {
        let faults = FLAP.replace("for = \"1m\"", "for = \"1m..20m\"\nwho = \"0\"");
        let plan = Plan::new(&scenario(&faults), 7);
        let at = |is: fn(&Act) -> bool| plan.entries.iter().filter(move |entry| is(&entry.act)).map(|entry| entry.at);
        let lasted: Vec<u64> = at(|act| matches!(act, Act::LinkUp { .. }))
            .zip(at(|act| matches!(act, Act::LinkDown { .. })))
            .map(|(up, down)| up - down)
            .collect();
        assert!(lasted.iter().all(|ms| (60_000..=1_200_000).contains(ms)), "{lasted:?}");
        assert!(lasted.windows(2).any(|two| two[0] != two[1]) && lasted.len() == 5, "{lasted:?}");
    }

    #[test]
    fn a_plan_has_about_as_many_acts_as_were_counted() {
        for (_, text) in crate::menu::MENU {
            let scenario = Scenario::parse(text).unwrap();
            let (made, counted) = (Plan::new(&scenario, 1).entries.len() as u64, count(&scenario));
            assert!(counted * 2 >= made, "{}: {counted} of {made}", scenario.name);
        }
    }

    #[test]
    fn repetition_ends_where_it_says() {
        let plan = Plan::new(&scenario(FLAP), 7);
        let downs = plan.entries.iter().filter(|entry| matches!(entry.act, Act::LinkDown { .. })).count();
        assert_eq!(downs, 5 * 2, "five times, two gateways");
    }
}
