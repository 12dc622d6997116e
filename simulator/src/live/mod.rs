//! The live level: the plan of a scenario, played on real agents, a real broker and real links, and held against the model.
//!
//! Owns: [`play`], and [`Findings`], what it came to.
//! Never: is part of the model, or of a build without the feature `live`. Says of an act that it happened if it did not.
//! Read next: `timeline.rs`, `site.rs`, `play.rs`, `programs.rs`, `compare.rs`,
//! `judge.rs`.

pub mod broker;
mod compare;
mod judge;
mod play;
mod programs;
mod site;
mod timeline;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;

use hardtack::cli::Failure;
use hardtack::shell::cast::{failed, Stage};
use serde::Serialize;

use crate::case::Case;
use crate::check::Tally;
use crate::report::{Property, Status};
use crate::script::{is_of_program, Script, Shift};
use crate::trace::Lines;
pub use compare::{Row, Verdict};
use site::Site;
use timeline::Timeline;

/// How a plan is played.
#[derive(Debug, Clone)]
pub struct Options {
    /// The `hardtack` that is played with, built with the feature `demo`.
    pub binary: PathBuf,
    /// How many times faster than the plan says.
    pub speed: u64,
    /// How long after something changed an answer may be the one of before, in real milliseconds.
    pub settle: u64,
    /// The longest that a plan may last here, in real milliseconds.
    pub longest: u64,
    /// Leave the folder behind.
    pub keep: bool,
}

/// What it came to.
#[derive(Debug, Clone, Serialize)]
pub struct Findings {
    /// The scenario.
    pub scenario: String,
    /// The seed.
    pub seed: u64,
    /// How many times faster than the plan says.
    pub speed: u64,
    /// How long after something changed an answer may be the one of before, in real milliseconds.
    pub settle_ms: u64,
    /// What was judged, and how it stands. The rest was never tried.
    pub properties: Vec<Property>,
    /// Properties that the scenario says must have been tried, as far as this level judges them,
    pub require: Vec<String>,
    /// and those that it does not.
    pub not_judged: Vec<String>,
    /// Every request that both levels made.
    pub requests: Vec<Row>,
    /// Requests that nobody could make, in the model or here: nothing ran there, or nothing fitted.
    pub not_asked: usize,
    /// Acts that this level does not carry out, and that the model was not asked about either: names and counts.
    pub not_applied: BTreeMap<String, u64>,
    /// Whether the plan has anything that no program does.
    pub has_faults: bool,
    /// How often each fault was carried out.
    pub faults: BTreeMap<&'static str, u64>,
    /// By how much the latest act was late, in milliseconds.
    pub late_ms: u64,
    /// Where the folder is, if it was to be left.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub folder: Option<PathBuf>,
}

impl Findings {
    /// Fail where a property failed or an answer differs without an excuse; vacuous where a required property was never tried,
    /// none that is required is judged at this level, no fault of those that the plan has was carried out, or excuses outweigh what both levels answered alike; else pass.
    pub fn verdict(&self) -> Status {
        let broken = self.properties.iter().any(|property| property.status == Status::Fail);
        let happened = !self.has_faults || !self.faults.is_empty();
        let excused = self.count(Verdict::EitherOr) + self.count(Verdict::Follows);
        let judged = !self.require.is_empty() || self.not_judged.is_empty();
        let tried = judged && self.untried().next().is_none() && happened && self.count(Verdict::Same) > excused;
        match (broken || self.count(Verdict::Different) > 0, tried) {
            (true, _) => Status::Fail,
            (false, true) => Status::Pass,
            (false, false) => Status::Vacuous,
        }
    }

    /// Required properties that this level judges, and that nothing tried.
    pub fn untried(&self) -> impl Iterator<Item = &str> {
        let tried = |id: &str| self.properties.iter().any(|property| property.id == id);
        self.require.iter().map(String::as_str).filter(move |id| !tried(id))
    }

    /// How many requests compare so.
    pub fn count(&self, verdict: Verdict) -> usize {
        self.requests.iter().filter(|row| row.verdict == verdict).count()
    }
}

/// Plays a case and compares. `tell` is told what goes on, `lines` takes what happened as JSON lines.
///
/// # Errors
/// A plan that takes too long here, and real things that cannot be started or told.
pub fn play(
    case: &Case,
    options: &Options,
    tell: &dyn Fn(&str),
    lines: Option<Box<dyn Write>>,
) -> Result<Findings, Failure> {
    let timeline = Timeline::of(case, options.speed.max(1), options.settle);
    for (name, count) in &timeline.not_applied {
        tell(&format!("not applied here: {name} ({count})"));
    }
    if timeline.last() > options.longest {
        let (lasts, longest) = (timeline.last() / 1000, options.longest / 1000);
        let what = format!("this plan lasts {lasts} s at --speed {}, and {longest} s is the most", options.speed);
        return Err(failed(what, "raise --speed or --longest, or take a shorter plan"));
    }
    let binary = Stage::new(options.binary.clone()).run(&["version", "-o", "json"])?;
    let features = binary["features"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !["agent", "fleet", "demo", "test-clock"].iter().all(|needed| features.iter().any(|has| has == needed)) {
        return Err(failed("this hardtack is built without what is needed", "build it with --features demo"));
    }
    let kept = &timeline.case;
    tell(&format!("founding a fleet of {} gateways", kept.scenario().fleet.devices));
    let (mut site, script, others) = std::thread::scope(|scope| {
        let asked = scope.spawn(|| ask_the_model(&timeline, options));
        let site = Site::found(kept.scenario(), kept.seed(), options.binary.clone())?;
        let (script, others) = asked.join().map_err(|_| failed("the model", "it panicked"))?;
        Ok::<_, Failure>((site, script, others))
    })?;
    if options.keep {
        site.folder.disable_cleanup(true);
        tell(&format!("its folder, which stays: {}", site.folder.path().display()));
    }
    tell(&format!("all are online; the plan lasts {:.1} s", timeline.last() as f64 / 1000.0));
    let seen = play::play(&mut site, &timeline, &script)?;
    let (mut tally, end) = (Tally::default(), timeline.last());
    tell("played; waiting until all is delivered");
    judge::converge(&mut site, &seen, &mut tally, end)?;
    let requests = compare::compare(&script, &others, &seen.heard, &seen.edges, seen.unrevoked.clone());
    judge::judge(&site, &seen, &requests, &mut tally, end)?;
    write(lines, &seen).map_err(|error| failed("the trace cannot be written", error))?;
    let mut not_applied = timeline.not_applied;
    if !seen.unrevoked.is_empty() {
        let (name, count) = ("revoke: its task was not begun here".to_owned(), seen.unrevoked.len() as u64);
        tell(&format!("not applied here: {name} ({count})"));
        not_applied.insert(name, count);
    }
    let planned: usize = timeline.requests.values().map(Vec::len).sum();
    let tried = |property: &Property| property.status != Status::Vacuous;
    let judged = |id: &String| judge::JUDGED.iter().any(|judged| judged.name() == id);
    let (require, not_judged) = kept.scenario().require.iter().cloned().partition(judged);
    Ok(Findings {
        scenario: kept.scenario().name.clone(),
        seed: kept.seed(),
        speed: options.speed.max(1),
        settle_ms: options.settle,
        properties: tally.properties().into_iter().filter(tried).collect(),
        require,
        not_judged,
        not_asked: planned - requests.len(),
        requests,
        not_applied,
        has_faults: case.plan().entries.iter().any(|entry| !is_of_program(&entry.act)),
        faults: seen.faults,
        late_ms: seen.late,
        folder: options.keep.then(|| site.folder.path().to_owned()),
    })
}

/// What the model says to the plan, and what it says where something happens a little sooner or later.
fn ask_the_model(timeline: &Timeline, options: &Options) -> (Script, Vec<Script>) {
    let script = Script::of(&timeline.case);
    let whole = options.settle * options.speed.max(1);
    let shifts = [16, 8, 4, 2, 1]
        .map(|part| whole / part)
        .map(|by| [Shift::Deaf(by), Shift::Early(by), Shift::Late(by), Shift::Long(by)]);
    let others = shifts.into_iter().flatten().map(|how| script.shifted(&timeline.case, how)).collect();
    (script, others)
}

fn write(lines: Option<Box<dyn Write>>, seen: &play::Seen) -> std::io::Result<()> {
    let Some(mut lines) = lines.map(Lines::new) else { return Ok(()) };
    let mut events: Vec<_> = seen.events.iter().collect();
    events.sort_by_key(|(at, _)| *at);
    for (at, event) in events {
        lines.push(*at, event)?;
    }
    lines.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As many rows of each kind, of a scenario that requires this and in which that was tried.
    fn findings(require: &[&str], tried: &[(&'static str, Status)], rows: &[(Verdict, usize)]) -> Findings {
        let property =
            |(id, status): &(&'static str, Status)| Property { id, status: *status, checked: 1, witness: None };
        let row = |verdict| Row {
            act: 0,
            at: 0,
            device: 0,
            asked: "status".into(),
            model: None,
            live: None,
            or: [].into(),
            verdict,
        };
        Findings {
            scenario: "brief".into(),
            seed: 1,
            speed: 1,
            settle_ms: 5000,
            properties: tried.iter().map(property).collect(),
            require: require.iter().map(|id| (*id).to_owned()).collect(),
            not_judged: vec!["I3".into()],
            requests: rows.iter().flat_map(|(verdict, count)| vec![row(*verdict); *count]).collect(),
            not_asked: 0,
            not_applied: BTreeMap::new(),
            has_faults: true,
            faults: [("link.down", 1)].into(),
            late_ms: 0,
            folder: None,
        }
    }

    #[test]
    fn what_was_not_tried_is_no_pass() {
        let held = [("I1", Status::Pass), ("I4", Status::Pass)];
        let same = [(Verdict::Same, 3)];
        let of = |require: &[&str]| findings(require, &held, &same);
        assert_eq!(of(&["I1", "I4"]).verdict(), Status::Pass, "what is not judged here is only named");
        let untried = of(&["I1", "I10"]);
        assert_eq!((untried.verdict(), untried.untried().collect::<Vec<_>>()), (Status::Vacuous, vec!["I10"]));
        assert_eq!(of(&[]).verdict(), Status::Vacuous, "all that it requires is judged at other levels only");
        let nothing_happened = Findings { faults: BTreeMap::new(), ..of(&["I1"]) };
        assert_eq!(nothing_happened.verdict(), Status::Vacuous);
        assert_eq!(Findings { has_faults: false, ..nothing_happened }.verdict(), Status::Pass, "nothing was to happen");
    }

    #[test]
    fn excuses_do_not_outweigh_what_is_the_same() {
        let verdict = |rows: &[(Verdict, usize)]| findings(&["I1"], &[("I1", Status::Pass)], rows).verdict();
        assert_eq!(verdict(&[(Verdict::Same, 3), (Verdict::EitherOr, 1), (Verdict::Follows, 1)]), Status::Pass);
        assert_eq!(verdict(&[(Verdict::Same, 2), (Verdict::EitherOr, 1), (Verdict::Follows, 1)]), Status::Vacuous);
        assert_eq!(verdict(&[(Verdict::EitherOr, 1)]), Status::Vacuous);
        assert_eq!(verdict(&[]), Status::Vacuous, "nothing was compared");
    }

    #[test]
    fn what_is_broken_fails_whatever_else_was_not_tried() {
        let broken = findings(&["I10"], &[("I1", Status::Fail)], &[]);
        assert_eq!(broken.verdict(), Status::Fail);
        let different = findings(&["I10"], &[], &[(Verdict::Different, 1)]);
        assert_eq!(different.verdict(), Status::Fail);
    }
}
