//! Scenario after scenario, drawn by chance or from a grid, until nothing new turns up.
//!
//! Owns: what counts as new: an answer, or a word in a log, that followed upon a fault after which it had not been seen.
//! Never: shares anything between worlds; lets the order in which threads finish change what is found.
//! Read next: `swarm.rs`, `grid.rs`, `shrink.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::case::Case;
use crate::report::{Report, Status};
use crate::trace::Coverage;

const THREADS: usize = 2;

/// When to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Until {
    /// After so many worlds.
    pub worlds: u64,
    /// When so many worlds in a row have brought nothing new.
    pub plateau: Option<u64>,
}

/// A world that broke something.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Failure {
    /// Its number.
    pub world: u64,
    /// The property that it broke first.
    pub property: &'static str,
    /// How.
    pub witness: String,
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Found {
    /// How many worlds were run.
    pub worlds: u64,
    /// Simulated device time, in milliseconds.
    pub device_ms: u64,
    /// Decisions that callers saw.
    pub decisions: u64,
    /// How often each fault had an effect.
    pub faults: BTreeMap<&'static str, u64>,
    /// How often each property was tried.
    pub properties: BTreeMap<&'static str, u64>,
    /// Pairs of a fault and what followed upon it.
    pub coverage: Coverage,
    /// How many worlds in a row, up to the last, brought nothing new.
    pub stale: u64,
    /// Worlds that broke something.
    pub failures: Vec<Failure>,
}

/// Runs worlds from number `first` on, of which `draw` gives the texts. With `plant`, each thread begins with that.
/// `progress` hears after each world; when it says no, no further one begins.
///
/// # Panics
/// When what was drawn is no scenario. Tests draw many.
pub fn fuzz(
    draw: &(dyn Fn(u64) -> String + Sync),
    first: u64,
    until: Until,
    plant: fn(),
    progress: &(dyn Fn(&Found) -> bool + Sync),
) -> Found {
    let next = AtomicU64::new(0);
    let enough = AtomicBool::new(Found::default().is_enough(until));
    let done: Mutex<BTreeMap<u64, (Report, Coverage)>> = Mutex::default();
    let sum = Mutex::new(Found::default());
    let work = || {
        plant();
        while !enough.load(Ordering::Relaxed) {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= until.worlds {
                break;
            }
            let case = Case::parse(&draw(first.wrapping_add(number)), None).expect("what is drawn is a scenario");
            let outcome = crate::explore(&case);
            let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
            done.insert(number, outcome);
            let mut sum = sum.lock().unwrap_or_else(PoisonError::into_inner);
            // In the order of seeds, whoever finishes first.
            while let Some((report, coverage)) = done.remove(&sum.worlds).filter(|_| !sum.is_enough(until)) {
                let world = first.wrapping_add(sum.worlds);
                sum.add(world, &report, coverage);
            }
            if sum.is_enough(until) || !progress(&sum) {
                enough.store(true, Ordering::Relaxed);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(work);
        }
    });
    sum.into_inner().unwrap_or_else(PoisonError::into_inner)
}

impl Found {
    /// Whether it went as far as it should.
    pub fn is_enough(&self, until: Until) -> bool {
        self.worlds >= until.worlds || until.plateau.is_some_and(|worlds| self.stale >= worlds)
    }

    fn add(&mut self, world: u64, report: &Report, coverage: Coverage) {
        self.worlds += 1;
        self.device_ms += report.device_ms;
        self.decisions += report.decisions;
        for (fault, count) in &report.effects {
            *self.faults.entry(fault).or_default() += count;
        }
        for property in &report.properties {
            *self.properties.entry(property.id).or_default() += property.checked;
        }
        let known = self.coverage.len();
        self.coverage.extend(coverage);
        self.stale = if self.coverage.len() > known { 0 } else { self.stale + 1 };
        if let Some(broken) = report.broken_first().filter(|_| report.verdict() == Status::Fail) {
            let witness = broken.witness.clone().unwrap_or_default();
            self.failures.push(Failure { world, property: broken.id, witness });
        }
    }

    /// Properties that no world tried.
    pub fn untried(&self) -> BTreeSet<&'static str> {
        self.properties.iter().filter(|(_, count)| **count == 0).map(|(id, _)| *id).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::swarm;

    #[test]
    fn equal_seeds_find_the_same_on_two_threads() {
        let until = Until { worlds: 4, plateau: None };
        let first = fuzz(&swarm::draw, 1, until, || (), &|_| true);
        assert_eq!(first, fuzz(&swarm::draw, 1, until, || (), &|_| true));
        assert_eq!(first.worlds, 4);
        assert!(first.coverage.len() > 10, "{:?}", first.coverage);
        assert!(first.failures.is_empty(), "{:?}", first.failures);
    }

    #[test]
    fn a_plateau_ends_it() {
        // The same world over again brings nothing new.
        let found = fuzz(&|_| swarm::draw(1), 1, Until { worlds: 50, plateau: Some(3) }, || (), &|_| true);
        assert!((4..10).contains(&found.worlds) && found.stale >= 3, "{} worlds", found.worlds);
    }
}
