//! Each planted bug is caught where the table says, by the property that it names, and that world passes without it.
//! Those that a row of `bites.rs` reveals are judged there.

use std::collections::{BTreeMap, BTreeSet};

use hardtack::mutant::{plant, Mutant};

use super::*;
use crate::bites;
use crate::mutants::{Row, TABLE};

#[test]
fn each_planted_bug_is_caught_where_the_table_says() {
    let named: BTreeSet<String> = TABLE.iter().map(|row| format!("{:?}", row.mutant)).collect();
    assert_eq!(named.len(), Mutant::ALL.len(), "each once");
    // Bugs that a small world reveals are planted there, by the test of `bites.rs`; in their scenarios by the command `mutants`.
    let small: BTreeSet<String> = bites::all().iter().map(|bite| format!("{:?}", bite.weakness)).collect();
    let rows: Vec<Row> = TABLE.into_iter().filter(|row| !small.contains(&format!("{:?}", row.mutant))).collect();
    let caught = side_by_side(&rows, |row| row.caught(None).is_some());
    let missed = rows.iter().zip(caught).filter(|(_, caught)| !caught).map(|(row, _)| row);
    let missed: BTreeMap<String, Vec<String>> = missed
        .map(|row @ Row { mutant, world, property }| {
            let instead = broken_by(&row.case(None), Some(*mutant));
            (format!("{mutant:?} in {world} under {property}"), instead)
        })
        .collect();
    assert!(missed.is_empty(), "not caught, and what failed in its place: {missed:#?}");
}

#[test]
fn without_a_bug_the_same_worlds_pass() {
    // Those of `bites.rs` its own test runs.
    let shipped = TABLE.iter().filter(|row| menu::find(row.world).is_some());
    let worlds: BTreeMap<&str, &Row> = shipped.map(|row| (row.world, row)).collect();
    let rows: Vec<&Row> = worlds.into_values().collect();
    let broken = side_by_side(&rows, |row| broken_by(&row.case(None), None));
    let broken: Vec<_> = rows.iter().zip(broken).filter(|(_, broken)| !broken.is_empty()).collect();
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn the_table_names_worlds_that_there_are() {
    let missing: Vec<&str> = TABLE
        .iter()
        .filter(|row| menu::find(row.world).is_none() && bites::world(row.world).is_none())
        .map(|row| row.world)
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// Long stories become short, and stay true.
#[test]
fn each_story_that_is_made_small_breaks_the_same() {
    let case = Case::parse(menu::find("flappy-link").unwrap(), None).unwrap();
    plant(Some(Mutant::BudgetNotCharged));
    let breach = case.run().breach("I5.budget").expect("the bug is there");
    let small = shrink::shrink(&case, &breach, 1000, &mut |_, _| true);
    let written = small.as_ref().map(|small| Case::parse(&small.case.to_toml(), None).unwrap());
    let broken = written.as_ref().is_some_and(|case| case.breaks(&breach));
    let found = bisect::bisect(&case, &breach, 1, 2, &mut |_| ());
    let story = small.as_ref().map(shrink::Shrunk::story).unwrap_or_default();
    plant(None);
    let small = small.expect("the bug is there");
    assert!(broken, "as it is written it breaks the same");
    assert!(small.minimal, "{} runs", small.runs);
    assert_eq!((small.to.faults, small.to.devices), (0, 1), "no fault has a part in it");
    assert!(small.from.requests > 1000 && small.to.requests <= 12, "{:?} to {:?}", small.from, small.to);
    assert!((2..=10).contains(&story.len()), "{story:#?}");
    assert!(story.last().unwrap().contains("I5.budget"), "{story:#?}");
    assert!(!small.case.breaks(&breach), "without the bug nothing is broken");
    let last = found.moments.last().unwrap();
    assert_eq!(last.broken, last.futures, "in the end it has happened in every future");
}
