//! Partitions, reboots, robs and deceives a fleet of hardtack agents until it breaks.
//!
//! The same pure agent and fleet core that ship, in a world of events over a virtual clock. A run is a pure function of
//! the code, the scenario and the seed. The map, in reading order:
//!
//! - [`scenario`] and [`fault`]: what an author writes.
//! - [`plan`]: that and a seed, resolved into single acts; [`case`]: both, as they are written down.
//! - `world`: the events in order of time; `acts`, `host`, `versions`, `carry`, `workload`, `reset`, `emergency`: what
//!   happens in it.
//! - `device`, `disk`, `recovery`, `clocks`, `followed`: a gateway and what it stands on; `network`, `broker`, `operator`,
//!   [`theft`]: the rest.
//! - `model`: what ought to be; `check`: whether it is.
//! - [`event`], [`trace`], [`fleet_answers`], [`script`], [`report`]: what comes out.
//! - [`export`]: what comes in from a real fleet, and its verdict; [`import`]: its outages, as a scenario.
//! - [`Level`], how much of the world is real; `wire`, behind a feature of its name: bytes on links, stores on disk; `live`,
//!   behind another: the same plan on real processes.
//! - [`soak`], [`fuzz`]: many runs in a row; [`shrink`]: few acts of many; [`bisect`], [`diff`]: one run beside others; [`agree`]: one
//!   level beside another.
//! - `mutants`, `bites`, behind the feature `mutants`: planted bugs, where each is caught, and which fault reveals it.

mod acts;
pub mod agree;
pub mod arguments;
pub mod bisect;
#[cfg(feature = "mutants")]
pub mod bites;
mod broker;
mod carry;
pub mod case;
mod check;
mod clocks;
mod device;
pub mod diff;
mod disk;
mod documents;
mod drive;
mod emergency;
pub mod event;
mod exhaust;
pub mod export;
pub mod fault;
pub mod fleet_answers;
mod followed;
pub mod fuzz;
pub mod grid;
mod host;
pub mod import;
mod level;
#[cfg(feature = "live")]
pub mod live;
pub mod menu;
mod model;
#[cfg(feature = "mutants")]
pub mod mutants;
mod network;
mod operator;
pub mod plan;
mod random;
mod real;
mod recovery;
pub mod report;
mod reset;
pub mod scenario;
pub mod script;
pub mod shrink;
pub mod soak;
mod story;
pub mod swarm;
pub mod theft;
pub mod trace;
mod twin;
mod versions;
#[cfg(feature = "wire")]
mod wire;
mod words;
mod workload;
mod world;

#[cfg(test)]
#[path = "../../tests/it/support/complete.rs"]
mod complete;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

use agree::Seen;
use case::{Anew, Case};
use check::authority;
use check::clock::Synced;
use check::Tally;
use exhaust::{NthCut, Window};
use fault::Kind;
use hardtack::wire::policy::TimeClass;
pub use level::Level;
use plan::Plan;
use report::{Breach, Report, Share};
use scenario::Scenario;
use trace::{Coverage, Fold, Trace, Watcher};
use world::{Outcome, World};

/// This program with its version and the commit that it is made from.
pub const PROGRAM: &str = concat!("hardtack-sim ", env!("CARGO_PKG_VERSION"), " ", env!("HARDTACK_SIM_COMMIT"));

/// Runs a scenario with a seed. `lines` takes the trace as JSON lines, of the first run if there are many.
pub fn run(scenario: &Scenario, seed: u64, lines: Option<Box<dyn Write>>) -> Report {
    run_plan(scenario, &Plan::new(scenario, seed), seed, None, lines)
}

/// Runs a case. `lines` as in [`run`].
pub fn run_case(case: &Case, lines: Option<Box<dyn Write>>) -> Report {
    run_case_at(Level::Model, case, lines, None)
}

/// Runs a case at a level that this program can run. `lines` as in [`run`]; `watcher` as in [`run_watched`].
pub fn run_case_at(level: Level, case: &Case, lines: Option<Box<dyn Write>>, watcher: Option<Watcher>) -> Report {
    let trace = Trace::new(lines).watched_by(watcher);
    sum(|world| level.of(world), case.scenario(), case.plan(), case.seed(), case.anew(), trace).0
}

/// Runs a plan. The seed still makes keys, latencies and the like, each from a stream of its own.
fn run_plan(scenario: &Scenario, plan: &Plan, seed: u64, anew: Option<Anew>, lines: Option<Box<dyn Write>>) -> Report {
    sum(|world| world, scenario, plan, seed, anew, Trace::new(lines)).0
}

/// Runs a plan, and `watcher` is told of everything that happens, in the first run if there are many.
pub fn run_watched(
    scenario: &Scenario,
    plan: &Plan,
    seed: u64,
    lines: Option<Box<dyn Write>>,
    watcher: Option<Watcher>,
) -> Report {
    sum(|world| world, scenario, plan, seed, None, Trace::new(lines).watched_by(watcher)).0
}

/// Runs a case, and notes what followed upon which fault.
pub(crate) fn explore(case: &Case) -> (Report, Coverage) {
    let trace = Trace::with_coverage();
    let (report, coverage, _) = sum(|world| world, case.scenario(), case.plan(), case.seed(), case.anew(), trace);
    (report, coverage)
}

/// The run, or the sum of all that there are: one for each boundary that the power is to be cut at. Each world is made into
/// the one that is meant by `equip`.
fn sum<'a>(
    equip: impl Fn(World<'a>) -> World<'a>,
    scenario: &'a Scenario,
    plan: &'a Plan,
    seed: u64,
    anew: Option<Anew>,
    trace: Trace,
) -> (Report, Coverage, Seen) {
    let one =
        |trace: Trace, cut: Option<NthCut>| equip(World::new(scenario, plan, seed, trace, cut)).drawn_anew(anew).run();
    let mut sum = Sum::default();
    let mut first = one(trace, None);
    let coverage = std::mem::take(&mut first.coverage);
    let seen = std::mem::take(&mut first.seen);
    let boundaries = first.boundaries.clone();
    let answers = first.answers.clone();
    sum.add(first);
    if let Some(window) = Window::of(plan) {
        for cut in boundaries.cuts(window.device) {
            sum.add(one(Trace::new(None), Some(cut)));
        }
    }
    let report = Report {
        scenario: scenario.name.clone(),
        seed,
        idle: idle(scenario, &sum.effects),
        not_applied: sum.not_applied.into_iter().map(|(fault, why)| format!("{fault} ({why})")).collect(),
        properties: sum.tally.properties(),
        require: scenario.require.clone(),
        device_ms: sum.runs * scenario.duration * u64::from(scenario.fleet.devices),
        events: sum.events,
        runs: sum.runs,
        decisions: sum.decisions,
        unsound: sum.tally.unsound_count(),
        shares: sum.shares.into_iter().map(|((class, synced), share)| share_of(class, synced, share)).collect(),
        effects: sum.effects,
        answers,
        trace_hash: sum.hashes.finish(),
    };
    (report, coverage, seen)
}

/// Whether a case breaks a property in this way. Its run ends as soon as it does.
pub(crate) fn breaks(case: &Case, breach: &Breach) -> bool {
    comes_to(case, |tally| tally.is_broken(breach))
}

/// Whether what is judged in a case comes to this at any time, in any of the runs that there are.
pub(crate) fn comes_to(case: &Case, this: impl Fn(&Tally) -> bool) -> bool {
    let run = |cut| {
        let world = World::new(case.scenario(), case.plan(), case.seed(), Trace::new(None), cut);
        world.drawn_anew(case.anew()).run_until(&this)
    };
    let first = run(None);
    let cuts = || Window::of(case.plan()).into_iter().flat_map(|window| first.boundaries.cuts(window.device));
    this(&first.tally) || cuts().any(|cut| this(&run(Some(cut)).tally))
}

fn share_of(class: TimeClass, synced: Synced, share: authority::Share) -> Share {
    let authority::Share { good, allowed, denied } = share;
    Share { class: class.name(), synced: synced.name(), good, allowed, denied }
}

/// Faults that the scenario declares and that never had an effect.
fn idle(scenario: &Scenario, effects: &BTreeMap<&'static str, u64>) -> Vec<String> {
    let mut declared: Vec<String> = Vec::new();
    for fault in &scenario.faults {
        match &fault.kind {
            Kind::BrokerHostile { how, .. } => declared.extend(how.names().map(str::to_owned)),
            Kind::ClockStrobe { .. } => declared.push("clock.step".into()),
            other @ (Kind::BrokerAck(_)
            | Kind::BrokerDelay { .. }
            | Kind::BrokerEmergency(_)
            | Kind::BrokerFeed(_)
            | Kind::BrokerForget(_)
            | Kind::BrokerReplay
            | Kind::BrokerRestart { .. }
            | Kind::BrokerRestore { .. }
            | Kind::ClockDrift
            | Kind::ClockFreeze { .. }
            | Kind::ClockStep(_)
            | Kind::Disk { .. }
            | Kind::DiskClone { .. }
            | Kind::DiskRefuses { .. }
            | Kind::DiskSync { .. }
            | Kind::Emergency { .. }
            | Kind::EmergencyThief(_)
            | Kind::Flood { .. }
            | Kind::GroupMove(_)
            | Kind::KeyRotate(_)
            | Kind::LinkDown { .. }
            | Kind::LinkHalfOpen
            | Kind::LinkSlow { .. }
            | Kind::Misuse(_)
            | Kind::Overstep(_)
            | Kind::PowerCut { .. }
            | Kind::ProcessDowngrade { .. }
            | Kind::ProcessRestart { .. }
            | Kind::ProcessStop { .. }
            | Kind::ProcessUpgrade { .. }
            | Kind::Reboot { .. }
            | Kind::Revoke(_)
            | Kind::RevokeStorm { .. }
            | Kind::ServiceAhead { .. }
            | Kind::ServiceStop { .. }
            | Kind::Suspend { .. }
            | Kind::TimeReset { .. }
            | Kind::Wire(_)) => declared.push(other.name().into()),
        }
    }
    declared.sort();
    declared.dedup();
    declared.retain(|name| !effects.contains_key(name.as_str()));
    declared
}

/// What all runs of a scenario came to.
#[derive(Default)]
struct Sum {
    tally: Tally,
    runs: u64,
    events: u64,
    decisions: u64,
    effects: BTreeMap<&'static str, u64>,
    shares: BTreeMap<(TimeClass, Synced), authority::Share>,
    not_applied: BTreeSet<(&'static str, &'static str)>,
    hashes: Fold,
}

impl Sum {
    fn add(&mut self, outcome: Outcome) {
        self.tally.add(outcome.tally);
        self.runs += 1;
        self.events += outcome.events;
        self.decisions += outcome.decisions;
        for (fault, count) in outcome.effects {
            *self.effects.entry(fault).or_default() += count;
        }
        self.not_applied.extend(outcome.not_applied);
        for (of, share) in &outcome.shares {
            self.shares.entry(*of).or_default().add(share);
        }
        self.hashes.bytes(&outcome.hash);
    }
}
