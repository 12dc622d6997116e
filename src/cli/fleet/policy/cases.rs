//! `hardtack fleet policy test`: a table of cases against a policy, before devices have it.
//!
//! Owns: the table's form, which case is unclear and why, what is told of the outcomes and of what no case met.
//! Never: decides a case: `../../../fleet/trial.rs` lets the agent's own code do that.
//! Read next: `docs/policy.md`.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use serde_json::json;
use toml::Spanned;

use super::super::super::{output, Exit, Failure};
use super::super::millis;
use crate::agent::policy::Policy;
use crate::agent::request::{Mode, Origin, Reason};
use crate::agent::token::Clause;
use crate::cli::output::Format;
use crate::fleet::trial::{Case, Outcome, Trial};
use crate::ids::{DeviceId, FleetId, RiskClass, StepId, TaskClass};
use crate::profile::Profile;
use crate::time::{Millis, Timestamp};
use crate::wire::arguments::Arguments;
use crate::wire::link::Right;

/// The most cases of a table.
const CASES_MAX: usize = 10_000;
/// 2026-01-01T00:00:00Z: the time of a case that names none.
const TIME: Timestamp = Timestamp::from_secs(1_767_225_600);

/// A table in TOML.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    #[serde(default)]
    defaults: Draft,
    #[serde(default, rename = "case")]
    cases: Vec<Spanned<Draft>>,
}

/// A case as somebody writes it, or what holds for each that does not say.
#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Draft {
    name: Option<String>,
    rights: Option<Vec<String>>,
    class: Option<TaskClass>,
    origin: Option<Origin>,
    step: Option<StepId>,
    owner: Option<String>,
    checks: Option<Vec<String>>,
    workload: Option<Vec<String>>,
    enforcer: Option<Vec<String>>,
    device: Option<DeviceId>,
    operation: Option<String>,
    resource: Option<String>,
    destination: Option<String>,
    risk: Option<RiskClass>,
    #[serde(default, deserialize_with = "Arguments::read_other")]
    arguments: Option<Arguments>,
    time: Option<String>,
    time_known: Option<bool>,
    mode: Option<Mode>,
    offline_for: Option<String>,
    staleness: Option<String>,
    expect: Option<Expected>,
    reason: Option<Reason>,
    policy: Option<Named>,
    check: Option<Named>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Expected {
    Allow,
    Deny,
}

/// What of a case in JSON is taken as it is written there.
#[derive(Deserialize)]
struct Written {
    arguments: Option<Arguments>,
}

/// A clause by its number, from 1, or by its name.
#[derive(Clone, Deserialize)]
#[serde(untagged)]
enum Named {
    Number(usize),
    Name(String),
}

/// A case that is clear.
struct Clear {
    line: usize,
    name: String,
    case: Case,
    reason: Reason,
    by: Option<Clause>,
}

/// What came out of a table.
struct Tried {
    /// Each case, and whether it came out as expected.
    ended: Vec<(Clear, Outcome, bool)>,
    /// What decided none of them.
    unmet: Vec<String>,
}

/// Runs a table and shows what came out.
///
/// # Errors
/// An unclear case, with its line.
pub(super) fn run(
    (file, text): (&Path, &str),
    (policy, warnings): (&Policy, &[String]),
    fleet: FleetId,
    format: Format,
) -> Result<Exit, Failure> {
    let is_lines = file.extension().is_some_and(|extension| extension == "jsonl");
    let cases = if is_lines { of_lines(text, policy) } else { of_toml(text, policy) };
    let tried = cases.and_then(|cases| decide(cases, policy, fleet));
    let Tried { ended, unmet } = tried.map_err(|(line, why)| {
        let advice = "docs/policy.md has the form of a table, with an example";
        Failure::new(Exit::Usage, format!("{}:{line}: {why}", file.display()), advice)
    })?;
    let wrong = ended.iter().filter(|(_, _, ok)| !ok).count();
    let told = |by: &Option<Clause>| by.as_ref().map(|by| policy.tell(by).to_string());
    let value = json!({
        "ok": wrong == 0,
        "cases": ended.iter().map(|(clear, outcome, ok)| json!({
            "name": clear.name,
            "line": clear.line,
            "ok": ok,
            "expected": {"reason": clear.reason, "by": told(&clear.by)},
            "reason": outcome.reason,
            "by": told(&outcome.by),
            "explain": outcome.explain,
        })).collect::<Vec<_>>(),
        "unmet": unmet,
        "warnings": warnings,
    });
    output::show(format, &value, |_| page(&ended, &unmet, policy))?;
    Ok(if wrong == 0 { Exit::Done } else { Exit::Failure })
}

/// Lets the agent's code decide each case.
fn decide(cases: Vec<Clear>, policy: &Policy, fleet: FleetId) -> Result<Tried, Unclear> {
    let mut trial = Trial::new(fleet, Profile::default());
    let mut met = BTreeSet::new();
    let mut ended = Vec::with_capacity(cases.len());
    for clear in cases {
        let outcome = trial.run(policy, &clear.case).map_err(|error| (clear.line, error.to_string()))?;
        let ok = outcome.reason == clear.reason && (clear.by.is_none() || outcome.by == clear.by);
        met.extend(outcome.by.clone());
        ended.push((clear, outcome, ok));
    }
    let all = (0..policy.checks.len()).map(Clause::Check).chain((0..policy.policies.len()).map(Clause::Policy));
    let unmet: Vec<String> =
        all.filter(|clause| !met.contains(clause)).map(|clause| policy.tell(&clause).to_string()).collect();
    Ok(Tried { ended, unmet })
}

fn page(ended: &[(Clear, Outcome, bool)], unmet: &[String], policy: &Policy) -> String {
    let width = ended.iter().map(|(clear, _, _)| clear.name.chars().count()).max().unwrap_or_default();
    let mut text = String::new();
    for (Clear { name, line, reason, by, .. }, outcome, ok) in ended {
        let decision = if outcome.reason == Reason::Allowed { "allow" } else { "deny" };
        let mark = if *ok { "ok   " } else { "WRONG" };
        let clause = outcome.by.as_ref().map(|by| format!("  {}", policy.tell(by))).unwrap_or_default();
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{mark}  {name:width$}  {decision:5}  {}{clause}", outcome.reason.name());
        if !ok {
            let by = by.as_ref().map(|by| format!(" by {}", policy.tell(by))).unwrap_or_default();
            let _ = writeln!(text, "       line {line}: expected {}{by}; {}", reason.name(), outcome.explain);
        }
    }
    let right = ended.iter().filter(|(_, _, ok)| *ok).count();
    let _ = writeln!(text, "{right} of {} cases as expected", ended.len());
    for clause in unmet {
        let _ = writeln!(text, "no case was decided by {clause}");
    }
    text
}

/// Why a case is unclear, and in which line it begins.
type Unclear = (usize, String);

fn of_toml(text: &str, policy: &Policy) -> Result<Vec<Clear>, Unclear> {
    let line_at = |place: usize| 1 + text.bytes().take(place).filter(|byte| *byte == b'\n').count();
    let table: Table = toml::from_str(text)
        .map_err(|error| (error.span().map_or(1, |span| line_at(span.start)), error.message().to_owned()))?;
    let of_one = ["name", "expect", "reason", "policy", "check"];
    let Draft { name, expect, reason, policy: by, check, .. } = &table.defaults;
    let said = [name.is_some(), expect.is_some(), reason.is_some(), by.is_some(), check.is_some()];
    if let Some(what) = of_one.iter().zip(said).find_map(|(what, said)| said.then_some(what)) {
        return Err((1, format!("`{what}` is each case's own, and stands in no defaults")));
    }
    let cases = table.cases.iter().map(|case| (line_at(case.span().start), case.get_ref().over(&table.defaults)));
    all(cases, policy)
}

/// JSON lines: a case in each, no defaults.
fn of_lines(text: &str, policy: &Policy) -> Result<Vec<Clear>, Unclear> {
    let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty());
    let read = |(line, text)| {
        let unclear = |error: serde_json::Error| (line, error.to_string());
        let draft = serde_json::from_str::<Draft>(text).map_err(unclear)?;
        let Written { arguments } = serde_json::from_str(text).map_err(unclear)?;
        Ok((line, Draft { arguments, ..draft }))
    };
    all(lines.map(read).collect::<Result<Vec<_>, _>>()?.into_iter(), policy)
}

fn all(drafts: impl Iterator<Item = (usize, Draft)>, policy: &Policy) -> Result<Vec<Clear>, Unclear> {
    let mut names = BTreeSet::new();
    let mut cases = Vec::new();
    for (line, draft) in drafts {
        let clear = draft.clear(line, policy).map_err(|why| (line, why))?;
        if !names.insert(clear.name.clone()) {
            return Err((line, format!("another case is called {:?} too", clear.name)));
        }
        if cases.len() >= CASES_MAX {
            return Err((line, format!("more than {CASES_MAX} cases")));
        }
        cases.push(clear);
    }
    if cases.is_empty() {
        return Err((1, "there is no case".into()));
    }
    Ok(cases)
}

impl Draft {
    /// What it says itself, and where it says nothing, what holds for all.
    fn over(&self, defaults: &Self) -> Self {
        macro_rules! either {
            ($($field:ident)*) => { Self { $($field: self.$field.clone().or_else(|| defaults.$field.clone()),)* } };
        }
        either!(name rights class origin step owner checks workload enforcer device operation resource destination risk
            arguments time time_known mode offline_for staleness expect reason policy check)
    }

    fn clear(self, line: usize, policy: &Policy) -> Result<Clear, String> {
        let name = self.name.filter(|name| !name.is_empty()).ok_or("a case has a `name`")?;
        if name.chars().any(char::is_control) {
            return Err("a `name` has no control character".into());
        }
        let expect = self.expect.ok_or("`expect` says \"allow\" or \"deny\"")?;
        let reason = match (expect, self.reason) {
            (Expected::Allow, None | Some(Reason::Allowed)) => Reason::Allowed,
            (Expected::Allow, Some(other)) => {
                return Err(format!("an allow has no other `reason` than \"allowed\": not {:?}", other.name()))
            }
            (Expected::Deny, Some(Reason::Allowed)) => return Err("a denial is not \"allowed\"".into()),
            (Expected::Deny, Some(reason)) => reason,
            (Expected::Deny, None) => {
                return Err("a denial has a `reason`: denied for another than is meant, it would show nothing".into())
            }
        };
        let by = match (&self.policy, &self.check) {
            (Some(_), Some(_)) => return Err("one clause decides: name a `policy` or a `check`".into()),
            (Some(named), None) => Some(Clause::Policy(named.place("policy", &policy.policies)?)),
            (None, Some(named)) => Some(Clause::Check(named.place("check", &policy.checks)?)),
            (None, None) => None,
        };
        match (&by, reason) {
            (None, _) | (Some(_), Reason::DeniedByPolicy) | (Some(Clause::Policy(_)), Reason::Allowed) => {}
            (Some(_), reason) => return Err(format!("no clause of the policy decides what is {}", reason.name())),
        }
        if let Some(risk) = self.risk.as_ref().filter(|risk| policy.document.rank(risk).is_none()) {
            return Err(format!("risk {risk} is not in the policy's table"));
        }
        let rights = self.rights.unwrap_or_default().iter().map(|text| right(text)).collect::<Result<_, _>>()?;
        let workload = self.workload.unwrap_or_else(|| vec!["unix:uid:1001".into()]);
        if self.class.is_some() && workload.is_empty() {
            return Err("a task has a `workload`".into());
        }
        if self.step.is_some() && self.class.is_none() {
            return Err("a `step` is one of a task, which has a `class`".into());
        }
        let origin = self.origin.unwrap_or(Origin::Issued);
        if origin == Origin::Fallback && self.class.is_none() {
            return Err("what is narrowed from the fallback grant is of a task, which has a `class`".into());
        }
        let default_device = || "gw-01".parse().map_err(|error| format!("{error}"));
        let case = Case {
            rights,
            class: self.class,
            origin,
            step: self.step,
            owner: self.owner.unwrap_or_else(|| "owner".into()),
            checks: self.checks.unwrap_or_default(),
            workload,
            enforcer: self.enforcer,
            device: self.device.map_or_else(default_device, Ok)?,
            operation: self.operation.ok_or("a case has an `operation`")?,
            resource: self.resource.ok_or("a case has a `resource`")?,
            destination: self.destination,
            risk: self.risk,
            arguments: self.arguments,
            time: self.time.as_deref().map_or(Ok(TIME), time)?,
            time_known: self.time_known.unwrap_or(true),
            mode: self.mode.unwrap_or(Mode::Online),
            offline_for: self.offline_for.as_deref().map_or(Ok(Millis(0)), length)?,
            staleness: self.staleness.as_deref().map_or(Ok(Millis(0)), length)?,
        };
        Ok(Clear { line, name, case, reason, by })
    }
}

impl Named {
    fn place(&self, what: &str, clauses: &[crate::agent::policy::Told]) -> Result<usize, String> {
        match self {
            Self::Number(number) if (1..=clauses.len()).contains(number) => Ok(number - 1),
            Self::Number(number) => Err(format!("there is no {what} {number}: there are {}", clauses.len())),
            Self::Name(name) => {
                let mut called = (0..).zip(clauses).filter(|(_, told)| told.name.as_ref() == Some(name));
                match (called.next(), called.next()) {
                    (Some((place, _)), None) => Ok(place),
                    (Some(_), Some(_)) => Err(format!("more than one {what} is called {name:?}: name it by number")),
                    (None, _) => Err(format!("no {what} is called {name:?} in a comment right before it")),
                }
            }
        }
    }
}

fn right(text: &str) -> Result<Right, String> {
    let parts = text.split_once(':').filter(|(action, resource)| !action.is_empty() && !resource.is_empty());
    let (action, resource) = parts.ok_or_else(|| format!("a right is ACTION:RESOURCE, not {text:?}"))?;
    Ok(Right { resource: resource.into(), action: action.into() })
}

fn time(text: &str) -> Result<Timestamp, String> {
    let parsed = humantime::parse_rfc3339_weak(text).map_err(|error| format!("time {text:?}: {error}"))?;
    let since = parsed.duration_since(std::time::UNIX_EPOCH).map_err(|_| format!("time {text:?} is before 1970"))?;
    // Earlier, and nothing could have been issued before it.
    let earliest = Duration::from_secs(40 * 365 * 86_400);
    (since >= earliest).then(|| Timestamp(millis(since).0)).ok_or_else(|| format!("time {text:?} is too early"))
}

fn length(text: &str) -> Result<Millis, String> {
    humantime::parse_duration(text).map(millis).map_err(|error| format!("{text:?}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::policy::PolicyDocument;

    fn policy() -> Policy {
        let datalog = "// no force\ndeny if argument(\"force\", true);\n// twice\ndeny if risk(\"x\");\n// twice\n\
            deny if risk(\"y\");\n// only here\ncheck if device(\"gw-01\");\nallow if true;";
        Policy::parse(PolicyDocument { datalog: datalog.into(), ..PolicyDocument::built_in(Timestamp(0)) }).unwrap()
    }

    const WHOLE: &str = "operation = \"write\"\nresource = \"a/b\"\n";

    #[track_caller]
    fn check_unclear(text: &str, line: usize, word: &str) {
        match of_toml(text, &policy()) {
            Ok(_) => panic!("{text} is clear"),
            Err((at, why)) => assert!(at == line && why.contains(word), "line {at}: {why}, not line {line}: {word}"),
        }
    }

    #[test]
    fn an_unclear_case_is_refused_with_its_line() {
        let case = |rest: &str| format!("[defaults]\n{WHOLE}\n[[case]]\nname = \"a\"\n{rest}");
        assert!(of_toml(&case("expect = \"allow\""), &policy()).is_ok());
        for (rest, word) in [
            ("", "`expect` says"),
            ("expect = \"deny\"", "a denial has a `reason`"),
            ("expect = \"deny\"\nreason = \"allowed\"", "a denial is not"),
            ("expect = \"allow\"\nreason = \"no_right\"", "no other `reason`"),
            ("expect = \"deny\"\nreason = \"denied_by_policy\"\npolicy = 9", "there is no policy 9: there are 4"),
            ("expect = \"deny\"\nreason = \"denied_by_policy\"\npolicy = 0", "there is no policy 0"),
            ("expect = \"deny\"\nreason = \"denied_by_policy\"\npolicy = \"other\"", "no policy is called"),
            ("expect = \"deny\"\nreason = \"denied_by_policy\"\npolicy = \"twice\"", "more than one policy"),
            ("expect = \"deny\"\nreason = \"no_right\"\npolicy = 1", "no clause of the policy decides"),
            ("expect = \"allow\"\ncheck = 1", "no clause of the policy decides"),
            ("expect = \"allow\"\npolicy = 1\ncheck = 1", "one clause decides"),
            ("expect = \"allow\"\nrisk = \"absurd\"", "not in the policy's table"),
            ("expect = \"allow\"\nrights = [\"read\"]", "ACTION:RESOURCE"),
            ("expect = \"allow\"\nstep = \"s-1\"", "has a `class`"),
            ("expect = \"allow\"\norigin = \"fallback\"", "has a `class`"),
            ("expect = \"allow\"\ntime = \"soon\"", "time \"soon\""),
            ("expect = \"allow\"\ntime = \"1971-01-01T00:00:00Z\"", "too early"),
            ("expect = \"allow\"\nstaleness = \"long\"", "\"long\""),
        ] {
            check_unclear(&case(rest), 5, word);
        }
        check_unclear(&case("expect = \"maybe\""), 7, "maybe");
        check_unclear(&case("expect = \"allow\"\ncolour = 1"), 8, "colour");
        check_unclear(&case("expect = \"deny\"\nreason = \"because\""), 8, "because");
        let twice = "[[case]]\nname = \"a\"\nexpect = \"allow\"\n";
        check_unclear(&format!("[defaults]\n{WHOLE}{twice}{twice}"), 7, "another case is called \"a\"");
        check_unclear("", 1, "there is no case");
        check_unclear("[defaults]\nexpect = \"allow\"", 1, "each case's own");
        check_unclear("[[case]]\nname = \"a\"\nexpect = \"allow\"\n", 1, "`operation`");
        let lines =
            of_lines("{\"name\":\"a\",\"expect\":\"allow\",\"operation\":\"o\",\"resource\":\"r\"}\n\n{}", &policy());
        assert_eq!(lines.err().map(|(line, _)| line), Some(3));
    }

    #[test]
    fn the_example_in_the_docs_comes_out_as_it_says() {
        let text = include_str!("../../../../docs/examples/policy-cases.toml");
        let whole = include_str!("../../../../docs/examples/policy.toml");
        let tried = |text: &str, policy: &str| {
            let draft = toml::from_str(policy).unwrap();
            let policy = Policy::parse(super::super::document(draft, Timestamp(0)).unwrap()).unwrap();
            let cases = of_toml(text, &policy).unwrap();
            decide(cases, &policy, "acme".parse().unwrap()).unwrap()
        };
        let wrong = |tried: &Tried| -> Vec<String> {
            let wrong = tried.ended.iter().filter(|(_, _, ok)| !ok);
            wrong.map(|(clear, outcome, _)| format!("{}: {}", clear.name, outcome.explain)).collect()
        };
        let all = tried(text, whole);
        assert_eq!((wrong(&all), &all.unmet), (Vec::new(), &Vec::new()));
        // A table notices that a policy does not deny any more what it did, and that nothing tries a clause.
        let kept = whole.replace("$rpm > 1500", "$rpm > 15000");
        assert_eq!(wrong(&tried(text, &kept)).len(), 1);
        let fewer = text.split("[[case]]\nname = \"an upload").next().unwrap();
        assert_eq!(tried(fewer, whole).unmet.len(), 2);
    }

    #[test]
    fn clauses_are_named_by_number_or_name() {
        let place = |named: &str| {
            let text =
                format!("[[case]]\nname = \"a\"\n{WHOLE}expect = \"deny\"\nreason = \"denied_by_policy\"\n{named}");
            of_toml(&text, &policy()).map(|cases| cases[0].by.clone()).map_err(|(_, why)| why)
        };
        assert_eq!(place("policy = \"no force\""), Ok(Some(Clause::Policy(0))));
        assert_eq!(place("policy = 3"), Ok(Some(Clause::Policy(2))));
        assert_eq!(place("check = \"only here\""), Ok(Some(Clause::Check(0))));
        assert_eq!(place(""), Ok(None));
    }
}
