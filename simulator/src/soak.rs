//! Many short worlds in a row, each of another seed, until so many decisions were made: what one long run could not hold
//! in memory.
//!
//! Owns: which worlds are run, on two threads, and the sum over them in the order of their seeds, so that equal arguments
//! give equal sums.
//! Never: shares anything between worlds.
//! Read next: `simulator/soak/`, the worlds.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::report::{Report, Share, Status};
use crate::scenario::Scenario;

/// The worlds, taken in turn.
const WORLDS: [&str; 2] = [include_str!("../soak/alone.toml"), include_str!("../soak/flapping.toml")];
const THREADS: usize = 2;

/// What all worlds came to.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Soak {
    /// How many worlds.
    pub worlds: u64,
    /// Decisions that callers saw.
    pub decisions: u64,
    /// How often something was allowed that must not be.
    pub unsound: u64,
    /// Good requests and how many of them were allowed, by kind.
    pub shares: Vec<Share>,
    /// How often each fault had an effect.
    pub faults: BTreeMap<&'static str, u64>,
    /// Properties that failed: world, seed, property and witness.
    pub failures: Vec<(String, u64, &'static str, String)>,
}

/// Runs worlds from `seed` on until they come to `decisions`. With `plant`, each thread begins with that.
///
/// # Panics
/// When a world that is part of the program cannot be parsed. A test parses them.
pub fn soak(decisions: u64, seed: u64, plant: fn()) -> Soak {
    let worlds = WORLDS.map(|text| Scenario::parse(text).expect("the worlds are part of the program"));
    let next = AtomicU64::new(0);
    let enough = AtomicBool::new(false);
    let done: Mutex<BTreeMap<u64, Report>> = Mutex::default();
    let work = || {
        plant();
        while !enough.load(Ordering::Relaxed) {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let world = &worlds[(number % worlds.len() as u64) as usize];
            let report = crate::run(world, seed.wrapping_add(number), None);
            let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
            done.insert(number, report);
            if sum(&done, decisions).decisions >= decisions {
                enough.store(true, Ordering::Relaxed);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(work);
        }
    });
    let done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    sum(&done, decisions)
}

/// The worlds up to the first that brings the sum to `decisions`, without a hole.
fn sum(done: &BTreeMap<u64, Report>, decisions: u64) -> Soak {
    let mut soak = Soak::default();
    for (_, report) in (0..).zip(done).take_while(|(due, (number, _))| due == *number).map(|(_, found)| found) {
        if soak.decisions >= decisions {
            break;
        }
        soak.add(report);
    }
    soak
}

impl Soak {
    fn add(&mut self, report: &Report) {
        self.worlds += 1;
        self.decisions += report.decisions;
        self.unsound += report.unsound;
        for (fault, count) in &report.effects {
            *self.faults.entry(fault).or_default() += count;
        }
        for share in &report.shares {
            match self.shares.iter_mut().find(|of| (of.class, of.synced) == (share.class, share.synced)) {
                Some(sum) => {
                    (sum.good, sum.allowed) = (sum.good + share.good, sum.allowed + share.allowed);
                    sum.denied = sum.denied.take().or_else(|| share.denied.clone());
                }
                None => self.shares.push(share.clone()),
            }
        }
        let failed = report.properties.iter().filter(|property| property.status == Status::Fail);
        self.failures.extend(failed.map(|property| {
            (report.scenario.clone(), report.seed, property.id, property.witness.clone().unwrap_or_default())
        }));
    }

    /// Whether nothing failed.
    pub fn passed(&self) -> bool {
        self.unsound == 0 && self.failures.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_take_worlds_in_the_order_of_seeds_and_stop_at_a_hole() {
        let report = |seed, decisions| {
            let mut report = crate::report::empty("x", seed);
            report.decisions = decisions;
            report
        };
        let done = BTreeMap::from([(0, report(5, 10)), (1, report(6, 10)), (3, report(8, 10))]);
        assert_eq!(sum(&done, 100).worlds, 2);
        assert_eq!(sum(&done, 10).worlds, 1);
        assert_eq!(sum(&done, 11).decisions, 20);
    }

    #[test]
    fn the_worlds_can_be_read() {
        assert!(WORLDS.iter().all(|text| Scenario::parse(text).is_ok()));
    }
}
