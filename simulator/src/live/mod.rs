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
use crate::script::{Script, Shift};
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
    /// Every request that both levels made.
    pub requests: Vec<Row>,
    /// Requests that nobody could make, in the model or here: nothing ran there, or nothing fitted.
    pub not_asked: usize,
    /// Acts that this level does not carry out, and that the model was not asked about either: names and counts.
    pub not_applied: BTreeMap<String, u64>,
    /// How often each fault was carried out.
    pub faults: BTreeMap<&'static str, u64>,
    /// By how much the latest act was late, in milliseconds.
    pub late_ms: u64,
    /// Where the folder is, if it was to be left.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub folder: Option<PathBuf>,
}

impl Findings {
    /// Fail where a property failed or an answer differs without an excuse; vacuous where nothing was compared.
    pub fn verdict(&self) -> Status {
        let broken = self.properties.iter().any(|property| property.status == Status::Fail);
        match (broken || self.count(Verdict::Different) > 0, self.requests.is_empty()) {
            (true, _) => Status::Fail,
            (false, true) => Status::Vacuous,
            (false, false) => Status::Pass,
        }
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
    judge::judge(&site, &seen, &mut tally, end)?;
    write(lines, &seen).map_err(|error| failed("the trace cannot be written", error))?;
    let requests = compare::compare(&script, &others, &seen.heard, &seen.edges, seen.unrevoked.clone());
    let mut not_applied = timeline.not_applied;
    if !seen.unrevoked.is_empty() {
        let (name, count) = ("revoke: its task was not begun here".to_owned(), seen.unrevoked.len() as u64);
        tell(&format!("not applied here: {name} ({count})"));
        not_applied.insert(name, count);
    }
    let planned: usize = timeline.requests.values().map(Vec::len).sum();
    let tried = |property: &Property| property.status != Status::Vacuous;
    Ok(Findings {
        scenario: kept.scenario().name.clone(),
        seed: kept.seed(),
        speed: options.speed.max(1),
        settle_ms: options.settle,
        properties: tally.properties().into_iter().filter(tried).collect(),
        not_asked: planned - requests.len(),
        requests,
        not_applied,
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
    let Some(mut lines) = lines else { return Ok(()) };
    let mut events: Vec<_> = seen.events.iter().collect();
    events.sort_by_key(|(at, _)| *at);
    for (at, event) in events {
        writeln!(lines, "{}", serde_json::json!({ "at": at, "event": event }))?;
    }
    lines.flush()
}
