//! Partitions, reboots, robs and deceives a fleet of hardtack agents until it breaks.
//!
//! The same pure agent and fleet core that ship, in a world of events over a virtual clock. A run is a pure function of
//! the code, the scenario and the seed. The map, in reading order:
//!
//! - [`scenario`] and [`fault`]: what an author writes.
//! - [`plan`]: that and a seed, resolved into single acts.
//! - `world`: the events in order of time; `acts`, `host`, `carry`, `workload`: what happens in it.
//! - `device`, `disk`, `recovery`, `clocks`: a gateway and what it stands on; `network`, `broker`, `operator`: the rest.
//! - `model`: what ought to be; `check`: whether it is.
//! - [`event`], [`trace`], [`report`]: what comes out.

mod acts;
mod broker;
mod carry;
mod check;
mod clocks;
mod device;
mod disk;
pub mod event;
mod exhaust;
pub mod fault;
mod host;
mod model;
mod network;
mod operator;
pub mod plan;
mod random;
mod recovery;
pub mod report;
pub mod scenario;
pub mod trace;
mod workload;
mod world;

#[cfg(test)]
mod tests;

use std::io::Write;

use check::Tally;
use exhaust::{NthCut, Window};
use plan::Plan;
use report::Report;
use scenario::Scenario;
use trace::{Fold, Trace};
use world::{Outcome, World};

/// Runs a scenario with a seed. `lines` takes the trace as JSON lines, of the first run if there are many.
pub fn run(scenario: &Scenario, seed: u64, lines: Option<Box<dyn Write>>) -> Report {
    let plan = Plan::new(scenario, seed);
    run_plan(scenario, &plan, seed, lines)
}

/// Runs a plan. The seed still makes keys, latencies and the like, each from a stream of its own.
pub fn run_plan(scenario: &Scenario, plan: &Plan, seed: u64, lines: Option<Box<dyn Write>>) -> Report {
    let one = |trace: Trace, cut: Option<NthCut>| World::new(scenario, plan, seed, trace, cut).run();
    let mut sum = Sum::default();
    let first = one(Trace::new(lines), None);
    let boundaries = first.boundaries.clone();
    sum.add(first);
    if let Some(window) = Window::of(plan) {
        for cut in boundaries.cuts(window.device) {
            sum.add(one(Trace::new(None), Some(cut)));
        }
    }
    Report {
        scenario: scenario.name.clone(),
        seed,
        properties: sum.tally.properties(),
        require: scenario.require.clone(),
        device_ms: sum.runs * scenario.duration * u64::from(scenario.fleet.devices),
        events: sum.events,
        runs: sum.runs,
        trace_hash: sum.hashes.finish(),
    }
}

/// What all runs of a scenario came to.
#[derive(Default)]
struct Sum {
    tally: Tally,
    runs: u64,
    events: u64,
    hashes: Fold,
}

impl Sum {
    fn add(&mut self, outcome: Outcome) {
        self.tally.add(outcome.tally);
        self.runs += 1;
        self.events += outcome.events;
        self.hashes.bytes(&outcome.hash);
    }
}
