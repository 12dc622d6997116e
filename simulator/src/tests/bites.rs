//! Each kind of fault bites: it alone reveals a weakness.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use hardtack::mutant::Mutant;
use toml::Value;

use super::*;
use crate::bites::{self, Bite};
use crate::mutants::broken;

/// Kinds of which no row shows that they bite, and why.
const NOT_SHOWN: [(&str, &str); 1] = [(
    "broker.delay lists",
    "what is published is at its place at once, before the head that names it, and who lacks it reads it there; a copy that \
     comes late to who reads there still adds nothing that the head did not bring, and is refused as any old one",
)];

#[test]
fn each_fault_reveals_what_it_alone_can() {
    let known = Known::default();
    let all: Vec<Bite> = bites::all().into_iter().filter(|bite| bite.level.available().is_ok()).collect();
    let wrong = side_by_side(&all, |bite| wrong_with(bite, &known));
    let wrong: BTreeMap<&str, Vec<String>> =
        all.iter().map(|bite| bite.name.as_str()).zip(wrong).filter(|(_, wrong)| !wrong.is_empty()).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// What worlds broke before: many rows begin with the same.
#[derive(Default)]
struct Known(Mutex<BTreeMap<(String, String), Vec<String>>>);

impl Known {
    fn broken_by(&self, text: &str, level: Level, mutant: Option<Mutant>) -> Vec<String> {
        let key = (text.to_owned(), format!("{level:?} {mutant:?}"));
        if let Some(broken) = self.0.lock().unwrap().get(&key) {
            return broken.clone();
        }
        let broken = broken_by_at(level, &case(text), mutant);
        self.0.lock().unwrap().insert(key, broken.clone());
        broken
    }
}

fn case(text: &str) -> Case {
    Case::parse(text, None).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// What is not as a row says.
fn wrong_with(bite: &Bite, known: &Known) -> Vec<String> {
    let (level, with, without) = (bite.level, case(&bite.with()), bite.without());
    let mut wrong = Vec::new();
    hardtack::mutant::plant(Some(bite.weakness));
    let revealed = broken(&with, level, &bite.breaks).is_some();
    hardtack::mutant::plant(None);
    if !revealed {
        let instead = broken_by_at(level, &with, Some(bite.weakness));
        wrong.push(format!("with fault and bug {} holds: {instead:?}", bite.breaks));
    }
    let report = run_case_at(level, &with, None, None);
    let property = report.properties.iter().find(|property| property.id == bite.breaks);
    if property.map(|property| property.status) != Some(report::Status::Pass) {
        wrong.push(format!("with the fault alone {}: {property:?}", bite.breaks));
    }
    if !report.idle.is_empty() || !report.not_applied.is_empty() {
        wrong.push(format!("without an effect: {:?}, not applied: {:?}", report.idle, report.not_applied));
    }
    let said =
        |place: &str, broken: Vec<String>| broken.into_iter().map(|broken| format!("{place} {broken}")).collect();
    let alone: Vec<String> = said("with the fault alone", witnesses(&report));
    wrong.extend(alone);
    let unrevealed: Vec<String> = said("without the fault", known.broken_by(&without, level, Some(bite.weakness)));
    wrong.extend(unrevealed);
    for other in bite.with_others() {
        let elsewhere: Vec<String> =
            said("with another in its place", known.broken_by(&other, level, Some(bite.weakness)));
        wrong.extend(elsewhere);
    }
    wrong
}

#[test]
fn each_kind_of_fault_has_a_row() {
    let shown: BTreeSet<String> = bites::all().iter().flat_map(|bite| fault::kinds_of(&bite.fault)).collect();
    let not_shown: BTreeSet<String> = NOT_SHOWN.iter().map(|(kind, _)| (*kind).to_owned()).collect();
    let known: BTreeSet<String> = fault::kinds().collect();
    assert_eq!(shown.union(&not_shown).cloned().collect::<BTreeSet<_>>(), known);
    assert_eq!(shown.intersection(&not_shown).count(), 0, "what is shown needs no excuse");
}

#[test]
fn a_fault_of_one_gateway_and_one_of_a_site_each_have_a_row() {
    let who: Vec<Option<String>> =
        bites::all().iter().map(|bite| bite.fault.get("who").and_then(Value::as_str).map(str::to_owned)).collect();
    assert!(who.iter().flatten().any(|who| who.parse::<u32>().is_ok()), "one gateway");
    assert!(who.iter().flatten().any(|who| who.contains(',')), "a site");
    assert!(who.contains(&None), "all");
}
