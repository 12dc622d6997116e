//! Few acts of many: the smallest plan that still breaks the same property.
//!
//! Owns: delta debugging over what belongs together (Zeller and Hildebrandt, "Simplifying and Isolating Failure-Inducing
//! Input", 2002), then the fleet, the length of the run, and the numbers in acts.
//! Never: takes a plan that breaks another property; cuts a fault in halves, so that what goes away comes back.
//! Read next: `case.rs`, `words.rs`.

use std::collections::BTreeMap;

use serde_json::Value;
use toml::Table;

use crate::case::Case;
use crate::plan::{Act, Entry, Occurrence, LAST_QUIET};
use crate::report::Breach;
use crate::scenario::{Span, HEALING};
use crate::story;

/// What happens in a case, in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Size {
    /// Faults, each gateway that one is about counted by itself.
    pub faults: usize,
    /// Things that programs and people ask for.
    pub requests: usize,
    /// Gateways.
    pub devices: u32,
    /// How long the world is watched, in milliseconds.
    pub duration: u64,
}

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let count = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
        let Self { faults, requests, devices, duration } = self;
        let (faults, requests) = (count(*faults, "fault"), count(*requests, "request"));
        write!(f, "{faults}, {requests}, {}, {}", count(*devices as usize, "gateway"), Span(*duration))
    }
}

/// What became of a case.
#[derive(Debug, Clone)]
pub struct Shrunk {
    /// The smallest that was found.
    pub case: Case,
    /// The property that it breaks, and in which way.
    pub breach: Breach,
    /// How big it was.
    pub from: Size,
    /// How big it is.
    pub to: Size,
    /// How many runs that took.
    pub runs: u64,
    /// Whether there was nothing left to try. Else the runs that were allowed were used up.
    pub minimal: bool,
}

impl Shrunk {
    /// The case as a scenario file, which says of itself what it is.
    pub fn to_toml(&self) -> String {
        let about = format!(
            "The smallest plan that was found to break {} as {} with seed {} does.",
            self.breach.property(),
            self.case.scenario().name,
            self.case.seed()
        );
        let entries = self.case.plan().entries.clone();
        let named = self.case.changed(|table| drop(table.insert("about".into(), about.into())), entries);
        named.as_ref().unwrap_or(&self.case).to_toml()
    }

    /// What happens in it and how it ends, in ten lines of plain words at the most.
    pub fn story(&self) -> Vec<String> {
        let acts = story::of(&self.case.plan().entries, self.case.scenario().start, story::LINES);
        let id = self.breach.property();
        let report = self.case.run();
        let end = report.properties.into_iter().filter(|property| property.id == id).filter_map(|found| found.witness);
        acts.into_iter().chain(end.map(|witness| format!("{id:>12}  {witness}"))).collect()
    }
}

/// What a case comes to.
pub fn size(case: &Case) -> Size {
    let requests = case.plan().entries.iter().filter(|entry| entry.of.is_none()).count();
    let scenario = case.scenario();
    let faults = units(&case.plan().entries, |entry| entry.of.is_some()).len();
    Size { faults, requests, devices: scenario.fleet.devices, duration: scenario.duration }
}

/// The smallest case that breaks what `case` breaks, in the same way, found in `runs_max` runs at most; none where that
/// one does not. `progress` hears after each run how many there were and how many acts are left; when it says no, what was
/// found so far is the answer.
pub fn shrink(
    case: &Case,
    breach: &Breach,
    runs_max: u64,
    progress: &mut dyn FnMut(u64, usize) -> bool,
) -> Option<Shrunk> {
    let mut search = Search { best: case.clone(), breach, runs: 0, runs_max, progress };
    if !case.breaks(breach) {
        return None;
    }
    search.cut_short();
    search.leave_out(|entry| entry.of.is_some());
    search.fewer_devices();
    search.leave_out(|entry| entry.of.is_none());
    // With little left to happen more can go.
    search.leave_out(|entry| entry.of.is_some());
    search.fewer_devices();
    search.only_what_is_said();
    search.simpler_numbers();
    search.cut_short();
    let minimal = search.may_go_on();
    let Search { best, runs, .. } = search;
    Some(Shrunk { breach: breach.clone(), from: size(case), to: size(&best), case: best, runs, minimal })
}

/// What belongs together of the entries that `of_them` takes: their places.
fn units(entries: &[Entry], of_them: impl Fn(&Entry) -> bool) -> Vec<Vec<usize>> {
    let mut together: BTreeMap<(Occurrence, Option<u32>), Vec<usize>> = BTreeMap::new();
    let mut alone = Vec::new();
    for (place, entry) in entries.iter().enumerate().filter(|(_, entry)| of_them(entry)) {
        match entry.of {
            Some(of) => together.entry((of, entry.act.device())).or_default().push(place),
            None => alone.push(vec![place]),
        }
    }
    let mut units: Vec<_> = together.into_values().chain(alone).collect();
    units.sort();
    units
}

struct Search<'a> {
    best: Case,
    breach: &'a Breach,
    runs: u64,
    runs_max: u64,
    progress: &'a mut dyn FnMut(u64, usize) -> bool,
}

impl Search<'_> {
    fn may_go_on(&self) -> bool {
        self.runs < self.runs_max
    }

    /// Takes the other case in place of the best one if it still breaks the property.
    fn take(&mut self, other: Option<Case>) -> bool {
        let Some(other) = other.filter(|_| self.may_go_on()) else { return false };
        self.runs += 1;
        let taken = other.breaks(self.breach);
        if taken {
            self.best = other;
        }
        if !(self.progress)(self.runs, self.best.plan().entries.len()) {
            self.runs_max = self.runs;
        }
        taken
    }

    /// Leaves out as much as can be of what `of_them` takes.
    fn leave_out(&mut self, of_them: impl Fn(&Entry) -> bool) {
        let mut parts = 1;
        loop {
            let entries = &self.best.plan().entries;
            let units = units(entries, &of_them);
            if units.is_empty() || !self.may_go_on() {
                return;
            }
            parts = parts.min(units.len());
            let size = units.len().div_ceil(parts);
            // Late ones first: what comes after the end of the story goes at once.
            let without: Vec<Case> =
                units.chunks(size).rev().map(|part| self.best.with_entries(except(entries, part))).collect();
            let whole = without.len();
            if without.into_iter().any(|other| self.take(Some(other))) {
                parts = parts.saturating_sub(1).max(1);
            } else if size == 1 {
                return;
            } else {
                parts = (whole * 2).max(2);
            }
        }
    }

    /// Leaves out whole gateways, with all that is about them.
    fn fewer_devices(&mut self) {
        let mut number = self.best.scenario().fleet.devices;
        while number > 0 && self.best.scenario().fleet.devices > 1 {
            number -= 1;
            let other = without_device(&self.best, number);
            self.take(other);
        }
    }

    /// Ends soon after the last fault, where that is soon enough, and lets nothing happen after the end.
    fn cut_short(&mut self) {
        let scenario = self.best.scenario();
        let start = scenario.start;
        let last = |of_them: fn(&Entry) -> bool| {
            let of_them = self.best.plan().entries.iter().filter(|entry| of_them(entry));
            of_them.map(|entry| entry.at - start).max().unwrap_or(0)
        };
        let (last_fault, last_act) = (last(|entry| entry.of.is_some()), last(|_| true));
        let (heal, duration) = (scenario.heal, scenario.duration);
        let short = |time: u64| time.div_ceil(60_000) * 60_000;
        let tries = [
            (short(last_fault), short(last_fault) + HEALING),
            (short(last_fault), short(last_act.max(last_fault)) + HEALING),
            (short(last_fault), short(last_act).max(last_fault + HEALING) + LAST_QUIET),
            (heal, heal + HEALING),
        ];
        for (heal, duration) in tries.into_iter().filter(|tried| tried.1 < duration) {
            let other = ends(&self.best, heal, duration);
            if self.take(other) {
                return;
            }
        }
    }

    /// Says each act in place of the faults that it came from. Nothing else changes by that, or it is not taken.
    fn only_what_is_said(&mut self) {
        let other = self.best.changed(|table| drop(table.remove("fault")), self.best.plan().entries.clone());
        self.take(other);
    }

    /// Puts a simpler number in the place of each that still breaks the property with it.
    fn simpler_numbers(&mut self) {
        for place in 0..self.best.plan().entries.len() {
            for field in NUMBERS {
                while self.may_go_on() {
                    let entry = &self.best.plan().entries[place];
                    let Some(number) = number(entry, field) else { break };
                    let others = simpler(field, number).into_iter().map(|simple| {
                        let entries = self.best.plan().entries.iter();
                        let entries = entries.enumerate().map(|(other, also)| {
                            let like =
                                other == place || (belong(entry, also) && self::number(also, field) == Some(number));
                            if like {
                                with_number(also, field, simple)
                            } else {
                                also.clone()
                            }
                        });
                        self.best.with_entries(entries.collect())
                    });
                    if !others.collect::<Vec<_>>().into_iter().any(|other| self.take(Some(other))) {
                        break;
                    }
                }
            }
        }
    }
}

/// Whether one of two acts ends what the other begins, or says the same again: they name the same numbers.
fn belong(one: &Entry, other: &Entry) -> bool {
    let together = one.of.is_some() && one.of == other.of && one.act.device() == other.act.device();
    together && std::mem::discriminant(&one.act) == std::mem::discriminant(&other.act)
}

/// The fields of acts that hold numbers.
const NUMBERS: [&str; 7] = ["pick", "lasts", "by", "late", "life", "count", "number"];

fn except(entries: &[Entry], left_out: &[Vec<usize>]) -> Vec<Entry> {
    let mut kept: Vec<Option<&Entry>> = entries.iter().map(Some).collect();
    left_out.iter().flatten().for_each(|place| kept[*place] = None);
    kept.into_iter().flatten().cloned().collect()
}

fn ends(case: &Case, heal: u64, duration: u64) -> Option<Case> {
    // What is asked later would be on its way in the end, and look as if it were lost: that is another story.
    let end = case.scenario().start + duration - LAST_QUIET;
    let entries = case.plan().entries.iter().filter(|entry| entry.at <= end).cloned().collect();
    let change = |table: &mut Table| {
        table.insert("heal".into(), Span(heal).to_string().into());
        table.insert("duration".into(), Span(duration).to_string().into());
        // They are said by the plan, and could go on past what is now the end.
        table.remove("fault");
    };
    case.changed(change, entries)
}

fn without_device(case: &Case, gone: u32) -> Option<Case> {
    let devices = case.scenario().fleet.devices - 1;
    let without_rtc = case.scenario().fleet.without_rtc.min(devices);
    let mut entries: Vec<Entry> =
        case.plan().entries.iter().filter(|entry| entry.act.device() != Some(gone)).cloned().collect();
    let moved = |number: u32| if number > gone { number - 1 } else { number };
    for number in entries.iter_mut().filter_map(|entry| entry.act.device_mut()) {
        *number = moved(*number);
    }
    let change = |table: &mut Table| {
        let fleet = table.entry("fleet").or_insert_with(|| Table::new().into());
        if let Some(fleet) = fleet.as_table_mut() {
            fleet.insert("devices".into(), i64::from(devices).into());
            fleet.insert("without_rtc".into(), i64::from(without_rtc).into());
        }
        for (_, group) in table.get_mut("groups").and_then(toml::Value::as_table_mut).into_iter().flatten() {
            let Some(members) = group.get_mut("members") else { continue };
            let numbers =
                members.as_str().into_iter().flat_map(|list| list.split(',')).filter_map(|n| n.trim().parse().ok());
            let numbers: Vec<String> = numbers.filter(|number| *number != gone).map(|n| moved(n).to_string()).collect();
            *members = numbers.join(",").into();
        }
        table.remove("fault");
    };
    case.changed(change, entries)
}

fn number(entry: &Entry, field: &str) -> Option<i128> {
    let all = serde_json::to_value(&entry.act).ok()?;
    match all.get(field)? {
        Value::Number(number) => number.as_i128(),
        Value::String(text) => text.parse().ok(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

/// The entry with another number in a field. What is no number there stays as it is.
fn with_number(entry: &Entry, field: &str, number: i128) -> Entry {
    let with = || -> Option<Act> {
        let mut all = serde_json::to_value(&entry.act).ok()?;
        *all.get_mut(field)? = i64::try_from(number).ok()?.into();
        serde_json::from_value(all).ok()
    };
    Entry { act: with().unwrap_or_else(|| entry.act.clone()), ..entry.clone() }
}

/// Simpler numbers than this one, the simplest first.
fn simpler(field: &str, number: i128) -> Vec<i128> {
    if field == "pick" {
        return (0..number.min(4)).collect();
    }
    let round = [86_400_000, 3_600_000, 60_000, 1000, 10];
    let rounded = round.into_iter().map(|unit| number / unit * unit);
    let mut all: Vec<i128> = rounded.chain([number / 2]).filter(|other| *other != number && *other != 0).collect();
    all.sort_by_key(|other| other.abs());
    all.dedup();
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_belongs_together_goes_together() {
        let case = Case::parse(include_str!("../scenarios/flappy-link.toml"), None).unwrap();
        for unit in units(&case.plan().entries, |entry| entry.of.is_some()) {
            let acts: Vec<&Act> = unit.iter().map(|place| &case.plan().entries[*place].act).collect();
            let downs = acts.iter().filter(|act| matches!(act, Act::LinkDown { .. })).count();
            let ups = acts.iter().filter(|act| matches!(act, Act::LinkUp { .. })).count();
            assert_eq!(downs, ups, "{acts:?}");
        }
    }

    #[test]
    fn a_gateway_that_is_left_out_takes_its_acts_along_and_the_others_close_ranks() {
        let case = Case::parse(include_str!("../scenarios/groups.toml"), None).unwrap();
        let devices = case.scenario().fleet.devices;
        let other = without_device(&case, 0).unwrap();
        assert_eq!(other.scenario().fleet.devices, devices - 1);
        let about = |case: &Case, device| case.plan().entries.iter().filter(|e| e.act.device() == Some(device)).count();
        assert_eq!(about(&other, 0), about(&case, 1));
        assert_eq!(about(&other, devices - 2), about(&case, devices - 1));
        let members = |case: &Case| case.scenario().groups.values().map(|group| group.members.len()).sum::<usize>();
        assert!(members(&other) <= members(&case));
    }

    #[test]
    fn what_ends_sooner_ends_as_quietly() {
        let case = Case::parse(include_str!("../scenarios/flappy-link.toml"), None).unwrap();
        let scenario = case.scenario();
        let other = ends(&case, scenario.heal, scenario.heal + HEALING).unwrap();
        let last = |case: &Case| case.plan().entries.iter().map(|entry| entry.at).max().unwrap();
        let end = |case: &Case| case.scenario().start + case.scenario().duration;
        assert!(last(&other) < last(&case) && last(&other) + LAST_QUIET <= end(&other));
        assert!(last(&other) + 2 * LAST_QUIET > end(&other), "and not sooner");
    }

    #[test]
    fn what_ends_something_names_the_numbers_of_what_began_it() {
        let case = Case::parse(include_str!("../scenarios/slow-link.toml"), None).unwrap();
        let entries = &case.plan().entries;
        let slow: Vec<&Entry> = entries.iter().filter(|entry| matches!(entry.act, Act::LinkSlow { .. })).collect();
        for entry in &slow {
            let with = |other: &&&Entry| belong(entry, other) && number(entry, "by") == number(other, "by");
            assert_eq!(slow.iter().filter(with).count(), 2, "itself and the other end: {entry:?}");
        }
        assert!(!belong(&entries[0], &entries[0]), "what programs ask stands alone");
    }

    #[test]
    fn simpler_numbers_are_simpler() {
        assert_eq!(simpler("pick", 900), [0, 1, 2, 3]);
        assert_eq!(simpler("pick", 1), [0]);
        assert_eq!(simpler("lasts", 3_723_004), [1_861_502, 3_600_000, 3_720_000, 3_723_000]);
        assert_eq!(simpler("by", -7_300_000), [-3_650_000, -7_200_000, -7_260_000]);
        assert!(simpler("count", 1).is_empty());
    }

    #[test]
    fn nothing_comes_of_a_case_that_breaks_nothing() {
        use crate::report::{Property, Status};
        let case = Case::parse(crate::tests::SMALL, None).unwrap();
        let witness = Some("at 0d00:00:01.000: nobody knows how".to_owned());
        let breach = Breach::of(&Property { id: "I2", status: Status::Fail, checked: 1, witness }).unwrap();
        assert!(shrink(&case, &breach, 10, &mut |_, _| true).is_none());
    }

    /// Whatever is left out of a plan, or whoever writes one by hand: a world carries it out.
    #[test]
    fn no_part_of_a_plan_makes_a_world_panic() {
        use crate::random::{happens, stream};
        let world = "schema = 1\nname = \"x\"\nabout = \"x\"\nseed = 1\nduration = \"50m\"\nheal = \"25m\"\nrequire = []\n\
            [fleet]\ndevices = 3\n[groups.a]\nmembers = \"0\"\nfeed = true\n[groups.b]\nmembers = \"1\"\n[workload]\nquiet = true\n";
        let world = Case::parse(world, None).unwrap();
        let end = world.scenario().start + 45 * 60_000;
        for (name, text) in crate::menu::MENU {
            let case = Case::parse(text, None).unwrap();
            let mut rng = stream(1, name, "parts");
            // Halves of what belongs together too, anywhere, about gateways that are there.
            let part = |entry: &&Entry| happens(&mut rng, if entry.of.is_some() { 30 } else { 1 });
            let mut entries: Vec<Entry> = case.plan().entries.iter().filter(part).take(60).cloned().collect();
            let apart = (end - world.scenario().start) / (entries.len() as u64 + 1);
            for (entry, number) in entries.iter_mut().zip(1..) {
                entry.at = world.scenario().start + number * apart;
                entry.act.device_mut().into_iter().for_each(|device| *device %= 3);
            }
            entries.retain(|entry| !matches!(&entry.act, Act::GroupMove { to: crate::fault::MoveTo::Group(_), .. }));
            world.with_entries(entries).run();
        }
    }
}
