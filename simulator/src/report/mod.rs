//! What a run found.
//!
//! Owns: [`Report`] with its properties and verdict, and its JSON line; below, the forms in which a run is shown.
//! Never: prints.
//! Read next: `check/mod.rs`, where properties are judged; `shown.rs` and `html.rs` for what people look at.

pub mod html;
pub mod junit;
pub mod lanes;
mod marks;
pub mod perfetto;
mod record;
pub mod shown;
#[cfg(test)]
mod tests;
pub(crate) mod words;

use std::collections::BTreeMap;

use serde::Serialize;

pub use crate::check::Breach;
use crate::fleet_answers::Answers;

/// Every property that is judged.
pub const PROPERTIES: [&str; 40] = [
    "I1",
    "I2",
    "I3",
    "I3.floor",
    "I3.strict",
    "I4",
    "I4.bounded",
    "I4.dropped",
    "I4.emergency",
    "I4.ended",
    "I4.stale",
    "I5",
    "I5.budget",
    "I5.evidence",
    "I5.position",
    "I6",
    "I6.child",
    "I6.exchange",
    "I6.sibling",
    "I6.step",
    "I7",
    "I8.sealed",
    "I9",
    "I9.disk",
    "I9.reserve",
    "I10",
    "I11",
    "available",
    "box.boots",
    "box.life",
    "box.offline",
    "box.uses",
    "caught_up",
    "clock",
    "detected",
    "emergency.ends",
    "herd",
    "identity",
    "live",
    "policy",
];

/// How a property stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It held each time that it was tried.
    Pass,
    /// It was never tried. That is no pass.
    Vacuous,
    /// It did not hold.
    Fail,
}

impl Status {
    /// The name in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fail => "fail",
            Self::Pass => "pass",
            Self::Vacuous => "vacuous",
        }
    }
}

/// One property after a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Property {
    /// Its id, one of [`PROPERTIES`].
    pub id: &'static str,
    /// How it stands.
    pub status: Status,
    /// How often it was tried.
    pub checked: u64,
    /// What broke it first, and when.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub witness: Option<String>,
}

/// How many good requests of one kind there were, and how many were allowed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Share {
    /// The time class that they were judged under.
    pub class: &'static str,
    /// Whether there had been a round trip in the same boot.
    pub synced: &'static str,
    /// How many there were.
    pub good: u64,
    /// How many were allowed.
    pub allowed: u64,
    /// The first that was not, and why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub denied: Option<String>,
}

/// What a run found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The scenario.
    pub scenario: String,
    /// The seed that it was run with.
    pub seed: u64,
    /// Every property, in the order of [`PROPERTIES`].
    pub properties: Vec<Property>,
    /// Properties that the scenario says must have been tried.
    pub require: Vec<String>,
    /// Simulated device time, in milliseconds, over all runs that the scenario comes to.
    pub device_ms: u64,
    /// Events in the trace.
    pub events: u64,
    /// How many runs: one, or as many as there are boundaries to cut the power at.
    pub runs: u64,
    /// Decisions that callers saw.
    pub decisions: u64,
    /// How often something was allowed that must not be.
    pub unsound: u64,
    /// Good requests and how many of them were allowed, by kind.
    pub shares: Vec<Share>,
    /// How often each fault had an effect.
    pub effects: BTreeMap<&'static str, u64>,
    /// What the run came to for whoever operates such a fleet; of the first run if there are many.
    pub answers: Answers,
    /// Faults that the scenario declares and that had none: what was not injected was not survived.
    pub idle: Vec<String>,
    /// Faults that this level cannot do, and that were left out.
    pub not_applied: Vec<String>,
    /// The hash over everything that happened.
    pub trace_hash: [u8; 32],
}

impl Report {
    /// Fail if any property failed, vacuous if a required one was never tried or a declared fault never had an effect,
    /// else pass.
    pub fn verdict(&self) -> Status {
        let failed = self.properties.iter().any(|property| property.status == Status::Fail);
        let tried = |id: &String| self.properties.iter().any(|p| p.id == id && p.status == Status::Pass);
        match (failed, self.require.iter().all(tried) && self.idle.is_empty()) {
            (true, _) => Status::Fail,
            (false, true) => Status::Pass,
            (false, false) => Status::Vacuous,
        }
    }

    /// How a property was broken, if it was.
    pub fn breach(&self, id: &str) -> Option<Breach> {
        self.properties.iter().find(|property| property.id == id).and_then(Breach::of)
    }

    /// The property that was broken first, if any was.
    pub fn broken_first(&self) -> Option<&Property> {
        // A witness begins with the time, in figures of fixed width but for the days.
        let when = |property: &&Property| property.witness.as_ref().map(|witness| (witness.find('d'), witness.clone()));
        self.properties.iter().filter(|property| property.status == Status::Fail).min_by_key(when)
    }

    /// Simulated device-hours.
    pub fn device_hours(&self) -> f64 {
        self.device_ms as f64 / 3_600_000.0
    }

    /// The report as one JSON object, `device_hours_per_s` for a run that took so many seconds.
    pub fn to_json(&self, seconds: f64) -> serde_json::Value {
        serde_json::json!({
            "scenario": self.scenario,
            "program": crate::PROGRAM,
            "seed": self.seed,
            "verdict": self.verdict().name(),
            "properties": self.properties,
            "device_hours": self.device_hours(),
            "device_hours_per_s": self.device_hours() / seconds.max(1e-9),
            "events": self.events,
            "decisions": self.decisions,
            "unsound": self.unsound,
            "shares": self.shares,
            "faults": self.effects,
            "faults_without_effect": self.idle,
            "faults_not_applied_at_this_level": self.not_applied,
            "answers": self.answers,
            "runs": self.runs,
            "trace_hash": hardtack::ids::hex(&self.trace_hash),
        })
    }
}

/// The report of a run in which nothing happened.
#[cfg(test)]
pub(crate) fn empty(scenario: &str, seed: u64) -> Report {
    Report {
        scenario: scenario.to_owned(),
        seed,
        properties: Vec::new(),
        require: Vec::new(),
        device_ms: 0,
        events: 0,
        runs: 1,
        decisions: 0,
        unsound: 0,
        shares: Vec::new(),
        effects: BTreeMap::new(),
        answers: Answers::default(),
        idle: Vec::new(),
        not_applied: Vec::new(),
        trace_hash: [0; 32],
    }
}
