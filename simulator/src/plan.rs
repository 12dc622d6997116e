//! A plan: a scenario and a seed, resolved into single acts in order of time.
//!
//! Owns: [`Plan`], which scenarios and seeds come to. What is in a plan needs no seed any more; it can be printed, cut and run again.
//! Never: looks at the world. An act that needs something of it ("a live task") carries a number to pick it with.
//! Read next: `plan/act.rs`; `world.rs`, which carries it out.

mod act;

pub use act::{Act, Narrows, Planning, TokenChoice, Turn};
use rand_core::RngCore;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::fault::{Fault, Hostility, Kind, Who};
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
    let narrowing = plan.narrowing.iter().flat_map(|narrowing| narrowing.spans()).map(|every| often(every.0, 1));
    let once = [plan.begin_every, plan.finish_every, plan.status_every].map(|every| often(every.0, 1));
    let bursts = [Some(plan.authorize_every), plan.distinct_every].into_iter().flatten();
    let programs = planner.chain(narrowing).chain(once).chain(bursts.map(|every| often(every.0, plan.burst)));
    let of_each: u64 = programs.fold(0, u64::saturating_add);
    let of_programs = if plan.quiet { 0 } else { of_each.saturating_mul(u64::from(scenario.fleet.devices)) };
    let of_faults = scenario.faults.iter().map(|fault| {
        let times = fault.when.every.map_or(1, |every| (fault.when.until - fault.when.at) / every + 1);
        let acts = if matches!(fault.kind, Kind::Flood { .. }) {
            fault.lasts_at_most() / FLOOD_EVERY
        } else if matches!(fault.kind, Kind::ClockStrobe { .. }) {
            fault.lasts_at_most() / STROBE
        } else {
            2
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
    if let Some(narrowing) = &plan.narrowing {
        for (purpose, every, does) in [
            ("narrow", narrowing.every, Narrows::Asks),
            ("leave", narrowing.leave_every, Narrows::Leaves),
            ("use narrowed", narrowing.use_every, Narrows::Uses),
        ] {
            repeat(purpose, every.0, 1, &mut |rng| Act::Narrow { device, does, pick: rng.next_u64() });
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
        acts(&kind, at, (&targets, fault.who == Who::All), backup, scenario.heal, seed, of, entries);
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
    (targets, everybody): (&[u32], bool),
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
        Kind::BrokerDelay { lasts, what, late } if everybody => {
            push(at, Act::BrokerDelay { what: *what, late: *late, turn: Turn::Begins });
            push(end(*lasts), Act::BrokerDelay { what: *what, late: *late, turn: Turn::Ends });
        }
        Kind::BrokerDelay { lasts, what, late } => {
            for device in targets {
                let act = |turn| Act::BrokerDelayFor { device: *device, what: *what, late: *late, turn };
                push(at, act(Turn::Begins));
                push(end(*lasts), act(Turn::Ends));
            }
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
        Kind::Overstep(how) => {
            targets.iter().for_each(|d| push(at, Act::Overstep { device: *d, how: *how, pick: pick(*d) }));
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
