//! A case: what a run is a function of, beside the code. A scenario, a seed, and the plan that both came to.
//!
//! Owns: its two written forms. A scenario file (TOML) says what an author wants, and the seed draws the rest; a plan
//! (JSON lines, the scenario and the seed in the first) says every single act, and nothing is drawn from it any more.
//! Never: reads or writes a file.
//! Read next: `plan.rs`, `shrink.rs`.

use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use crate::plan::{Entry, Plan};
use crate::report::{Breach, Report};
use crate::scenario::{Scenario, ScenarioError, Span};

/// The only form of plans there is so far.
const PLAN: u32 = 1;

/// Why a text is no case.
#[derive(Debug, thiserror::Error)]
pub enum CaseError {
    /// It is no scenario, or its plan's scenario is none.
    #[error(transparent)]
    Scenario(#[from] ScenarioError),
    /// A line of a plan says nothing that this program understands.
    #[error("line {number} of the plan: {problem}")]
    Line {
        /// Its number, from 1.
        number: usize,
        /// What is wrong with it.
        problem: String,
    },
}

/// A scenario, a seed, and the plan that both came to.
#[derive(Debug, Clone)]
pub struct Case {
    table: Table,
    scenario: Scenario,
    /// At most [`i64::MAX`], so that both forms have it.
    seed: u64,
    plan: Plan,
    /// The program that wrote the plan, where it says so.
    by: Option<String>,
    anew: Option<Anew>,
}

/// From when on latencies and the like are drawn with another seed, and which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Anew {
    pub(crate) from: u64,
    pub(crate) seed: u64,
}

/// The first line of a plan.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    plan: u32,
    seed: u64,
    /// The program that wrote it.
    #[serde(default)]
    by: Option<String>,
    scenario: String,
}

impl Case {
    /// A case from the text of a scenario or of a plan; which of the two it is shows. A seed takes the place of a
    /// scenario's own; a plan has no use for another.
    ///
    /// # Errors
    /// [`CaseError`], with what to change.
    pub fn parse(text: &str, seed: Option<u64>) -> Result<Self, CaseError> {
        if text.starts_with('{') {
            let case = Self::parse_plan(text)?;
            match seed.filter(|seed| *seed != case.seed) {
                None => Ok(case),
                Some(seed) => Err(ScenarioError::Value(format!(
                    "this plan is that of seed {}: run the scenario with seed {seed} instead",
                    case.seed
                ))
                .into()),
            }
        } else {
            let table: Table = text.parse().map_err(ScenarioError::from)?;
            let scenario = Scenario::parse(text)?;
            let seed = seed.unwrap_or(scenario.seed);
            if i64::try_from(seed).is_err() {
                return Err(
                    ScenarioError::Value("seeds go up to 9223372036854775807, as numbers do in TOML".into()).into()
                );
            }
            Ok(Self { plan: Plan::new(&scenario, seed), table, scenario, seed, by: None, anew: None })
        }
    }

    fn parse_plan(text: &str) -> Result<Self, CaseError> {
        let line = |number: usize, error: serde_json::Error| CaseError::Line { number, problem: error.to_string() };
        let mut lines = text.lines().zip(1..).filter(|(text, _)| !text.trim().is_empty());
        let (first, number) = lines.next().unwrap_or_default();
        let head: Head = serde_json::from_str(first).map_err(|error| line(number, error))?;
        if head.plan != PLAN {
            let problem = format!("plans of form {} are not known here, only of form {PLAN}", head.plan);
            return Err(CaseError::Line { number, problem });
        }
        let entries = lines.map(|(text, number)| serde_json::from_str(text).map_err(|error| line(number, error)));
        let mut entries: Vec<Entry> = entries.collect::<Result<_, _>>()?;
        entries.sort_by_key(|entry| entry.at);
        if i64::try_from(head.seed).is_err() {
            return Err(CaseError::Line { number, problem: "seeds go up to 9223372036854775807".into() });
        }
        let scenario = Scenario::parse(&head.scenario)?;
        let table = head.scenario.parse().map_err(ScenarioError::from)?;
        scenario.check_acts(&entries, scenario.start).map_err(ScenarioError::Value)?;
        Ok(Self { table, scenario, seed: head.seed, plan: Plan { entries }, by: head.by, anew: None })
    }

    /// The scenario as a file has it, without what its author says in comments.
    pub fn scenario_text(&self) -> String {
        self.table.to_string()
    }

    /// The scenario.
    pub fn scenario(&self) -> &Scenario {
        &self.scenario
    }

    /// The seed that keys, latencies and the like are drawn with.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The program that wrote the plan, if that is another than this one: it may come to something else here.
    pub fn written_elsewhere(&self) -> Option<&str> {
        self.by.as_deref().filter(|by| *by != crate::PROGRAM)
    }

    /// What happens.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Runs it.
    pub fn run(&self) -> Report {
        crate::run_case(self, None)
    }

    /// Whether a property is broken in it, and in the same way. The run ends as soon as it is.
    pub fn breaks(&self, breach: &Breach) -> bool {
        crate::breaks(self, breach)
    }

    /// The same with another plan.
    pub(crate) fn with_entries(&self, entries: Vec<Entry>) -> Self {
        Self { plan: Plan { entries }, ..self.clone() }
    }

    /// The same, but from a time on latencies and the like are drawn with another seed.
    pub(crate) fn drawn_anew(self, from: u64, seed: u64) -> Self {
        Self { anew: Some(Anew { from, seed }), ..self }
    }

    /// From when on what is drawn anew, if anything is.
    pub(crate) fn anew(&self) -> Option<Anew> {
        self.anew
    }

    /// The same with a scenario in which something else stands, and with another plan, if that can be.
    pub(crate) fn changed(&self, change: impl FnOnce(&mut Table), entries: Vec<Entry>) -> Option<Self> {
        let mut table = self.table.clone();
        change(&mut table);
        let scenario = Scenario::parse(&table.to_string()).ok()?;
        scenario.check_acts(&entries, scenario.start).ok()?;
        Some(Self { table, scenario, seed: self.seed, plan: Plan { entries }, by: self.by.clone(), anew: self.anew })
    }

    /// As a plan: the scenario and the seed, then one act per line.
    ///
    /// # Panics
    /// Never: every act has a form in JSON. A test writes each.
    pub fn to_lines(&self) -> String {
        let head =
            Head { plan: PLAN, seed: self.seed, by: Some(crate::PROGRAM.into()), scenario: self.table.to_string() };
        let head = serde_json::to_string(&head).expect("a plan's head has a form in JSON");
        let acts =
            self.plan.entries.iter().map(|entry| serde_json::to_string(entry).expect("an act has a form in JSON"));
        std::iter::once(head).chain(acts).fold(String::new(), |lines, line| lines + &line + "\n")
    }

    /// As a scenario that says each act, and from which nothing else is drawn than from the plan.
    ///
    /// # Panics
    /// Never: every act has a form in TOML. A test writes each.
    pub fn to_toml(&self) -> String {
        let mut table = self.table.clone();
        table.remove("fault");
        table.insert("seed".into(), Value::Integer(self.seed as i64));
        let workload = table.entry("workload").or_insert_with(|| Value::Table(Table::new()));
        if let Value::Table(workload) = workload {
            workload.insert("quiet".into(), Value::Boolean(true));
        }
        let acts = self.plan.entries.iter().map(|entry| act_in_toml(entry, self.scenario.start));
        table.insert("act".into(), Value::Array(acts.collect()));
        table.to_string()
    }
}

/// An act as a scenario file has it: its time counted from the scenario's start, and written as times are there.
fn act_in_toml(entry: &Entry, start: u64) -> Value {
    // Through JSON, whose nulls TOML does not have.
    let mut all = serde_json::to_value(entry).expect("an act has a form in JSON");
    if let Some(fields) = all.as_object_mut() {
        fields.retain(|_, value| !value.is_null());
        fields.insert("at".into(), Span(entry.at.saturating_sub(start)).to_string().into());
    }
    Value::try_from(all).expect("an act has a form in TOML")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every fault that a shipped scenario has comes to acts in it.
    fn shipped() -> impl Iterator<Item = (String, String)> {
        let folder = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/scenarios")).unwrap();
        folder.map(|file| {
            let path = file.unwrap().path();
            (path.display().to_string(), std::fs::read_to_string(path).unwrap())
        })
    }

    #[test]
    fn every_act_comes_back_from_both_written_forms() {
        for (name, text) in shipped() {
            let mut case = Case::parse(&text, None).unwrap();
            // All acts that are part of faults, and a few of what programs do.
            let mut programs = 0;
            case.plan.entries.retain(|entry| {
                programs += usize::from(entry.of.is_none());
                entry.of.is_some_and(|of| of.time < 5) || programs < 50
            });
            let again = Case::parse(&case.to_lines(), None).unwrap();
            assert_eq!((again.plan(), again.seed()), (case.plan(), case.seed()), "{name} as lines");
            let again = Case::parse(&case.to_toml(), None).unwrap();
            assert_eq!((again.plan(), again.seed()), (case.plan(), case.seed()), "{name} as TOML");
        }
    }

    #[test]
    fn a_written_plan_runs_as_what_it_was_written_from() {
        let case = Case::parse(crate::tests::SMALL, Some(9)).unwrap();
        let lines = case.to_lines();
        let elsewhere = lines.replacen(crate::PROGRAM, "hardtack-sim 0.0.0 of long ago", 1);
        let elsewhere = Case::parse(&elsewhere, None).unwrap();
        assert_eq!(elsewhere.written_elsewhere(), Some("hardtack-sim 0.0.0 of long ago"));
        let lines = Case::parse(&lines, None).unwrap();
        assert_eq!(lines.written_elsewhere(), None);
        assert_eq!(case.run().trace_hash, lines.run().trace_hash);
    }

    #[test]
    fn what_no_world_could_carry_out_is_refused_with_a_reason() {
        let case = Case::parse(include_str!("../scenarios/flappy-link.toml"), None).unwrap();
        let lines = case.to_lines();
        let head = lines.lines().next().unwrap();
        check_refused("{}", "line 1");
        check_refused(&head.replace("\"plan\":1", "\"plan\":2"), "form 2");
        check_refused(&format!("{head}\n{{\"at\":1,\"act\":\"moon_fall\"}}"), "line 2");
        check_refused(&format!("{head}\n{{\"at\":1,\"act\":\"status\",\"device\":4000}}"), "act 1");
        check_refused(&format!("{head}\n{{\"at\":1,\"act\":\"status\",\"device\":0,\"x\":1}}"), "unknown key `x`");
        let up = lines.lines().filter(|line| !line.contains("link_up")).map(|line| format!("{line}\n"));
        check_refused(&up.collect::<String>(), "nothing ends it by `heal`");
        check_refused(&format!("{head}\n{{\"at\":99999999999,\"act\":\"status\",\"device\":0}}"), "act 1");
    }

    #[track_caller]
    fn check_refused(text: &str, names: &str) {
        let error = Case::parse(text, None).unwrap_err().to_string();
        assert!(error.contains(names), "{error}");
    }
}
