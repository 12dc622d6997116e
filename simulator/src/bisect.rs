//! When was it decided: how likely a property breaks, seen from later and later moments of a run that broke it.
//!
//! Owns: the futures of a run. Up to a moment everything is as it was; from there on faults, programs, latencies and the
//! broker's whims are drawn anew. Where the share of futures in which the property breaks jumps up, there is the cause.
//! Never: changes anything before that moment.
//! Read next: `case.rs`.

use std::collections::BTreeSet;

use crate::case::Case;
use crate::plan::{Entry, Occurrence, Plan};
use crate::report::words::place_of;
use crate::report::Breach;
use crate::scenario::Span;
use crate::words;

/// What one moment comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Moment {
    /// When: milliseconds since the start of the run.
    pub at: u64,
    /// In how many futures the property broke,
    pub broken: u32,
    /// of how many.
    pub futures: u32,
}

/// What was found.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Bisected {
    /// Moments, in order of time.
    pub moments: Vec<Moment>,
    /// The moments between which the share rises most.
    pub jump: (u64, u64),
    /// What happens between these in the plan, faults only: when, counted from the start, and what.
    pub acts: Vec<String>,
}

/// Looks at `moments` moments of a run up to where the property breaks, `futures` futures each. `progress` hears after each.
pub fn bisect(case: &Case, breach: &Breach, moments: u32, futures: u32, progress: &mut dyn FnMut(Moment)) -> Bisected {
    let broken = broken_at(case, breach);
    let at = |number: u32| broken * u64::from(number) / u64::from(moments.max(1));
    let look = |at: u64| {
        let broken = (1..=futures).filter(|number| future(case, at, u64::from(*number)).breaks(breach));
        Moment { at, broken: broken.count() as u32, futures }
    };
    let moments: Vec<Moment> = (0..=moments)
        .map(|number| {
            let moment = look(at(number));
            progress(moment);
            moment
        })
        .collect();
    let rise = |pair: &&[Moment]| pair[1].broken.saturating_sub(pair[0].broken);
    // The first of the steepest, so that what follows from it is not taken for it.
    let steepest = moments.windows(2).rev().max_by_key(rise);
    let jump = steepest.map_or((0, broken), |pair| (pair[0].at, pair[1].at));
    let start = case.scenario().start;
    let between = case.plan().entries.iter().filter(|entry| (start + jump.0..start + jump.1).contains(&entry.at));
    let sentence = |entry: &Entry| format!("{} {}", Span(entry.at - start), words::of(&entry.act));
    Bisected { jump, acts: between.filter(|entry| entry.of.is_some()).map(sentence).collect(), moments }
}

/// When a run first breaks a property in this way, counted from its start; at its end, where no moment is named.
fn broken_at(case: &Case, breach: &Breach) -> u64 {
    let (start, duration) = (case.scenario().start, case.scenario().duration);
    let report = case.run();
    let witness =
        report.properties.iter().find(|property| property.id == breach.property()).and_then(|of| of.witness.clone());
    let at = witness.and_then(|witness| place_of(&witness).0);
    at.map_or(duration, |at| at.saturating_sub(start).clamp(1, duration))
}

/// One future of a run from a moment on, by its number. The number 0 is what happened.
fn future(case: &Case, at: u64, number: u64) -> Case {
    let moment = case.scenario().start + at;
    let seed = case.seed().wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let other = Plan::new(case.scenario(), seed).entries;
    let begun = |entries: &[Entry]| -> BTreeSet<(Occurrence, Option<u32>)> {
        entries.iter().filter(|entry| entry.at < moment).filter_map(unit).collect()
    };
    let (was, is_not) = (begun(&case.plan().entries), begun(&other));
    // What began before the moment ends as it would have; what begins in the other plan before it is not there at all.
    let past = case.plan().entries.iter().filter(|e| e.at < moment || unit(e).is_some_and(|of| was.contains(&of)));
    let coming = other.iter().filter(|e| e.at >= moment && unit(e).is_none_or(|of| !is_not.contains(&of)));
    let mut entries: Vec<Entry> = past.chain(coming).cloned().collect();
    entries.sort_by_key(|entry| entry.at);
    case.with_entries(entries).drawn_anew(moment, seed)
}

fn unit(entry: &Entry) -> Option<(Occurrence, Option<u32>)> {
    entry.of.map(|of| (of, entry.act.device()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_future_shares_the_past_and_nothing_is_cut_in_halves() {
        let case = Case::parse(include_str!("../scenarios/flappy-link.toml"), None).unwrap();
        let at = case.scenario().duration / 2;
        let other = future(&case, at, 1);
        let past = |case: &Case| -> Vec<Entry> {
            case.plan().entries.iter().filter(|e| e.at < case.scenario().start + at).cloned().collect()
        };
        assert_eq!(past(&case), past(&other));
        assert_ne!(case.plan(), other.plan());
        let ends = |case: &Case| {
            let downs = |e: &&Entry| matches!(e.act, crate::plan::Act::LinkDown { .. });
            let ups = |e: &&Entry| matches!(e.act, crate::plan::Act::LinkUp { .. });
            let entries = &case.plan().entries;
            (entries.iter().filter(downs).count(), entries.iter().filter(ups).count())
        };
        let (downs, ups) = ends(&other);
        assert_eq!(downs, ups);
    }

    #[test]
    fn the_run_itself_is_the_same_up_to_the_moment() {
        let case = Case::parse(crate::tests::SMALL, None).unwrap();
        let end = case.scenario().duration;
        assert_eq!(future(&case, end, 3).run().trace_hash, case.run().trace_hash);
        assert_ne!(future(&case, 0, 3).run().trace_hash, case.run().trace_hash);
    }
}
