//! Two levels' answers to one plan, side by side.
//!
//! Owns: which answers must be equal, and which may be one or another because something changed in the same moment.
//! Never: lets a difference pass for one that it is not.
//! Read next: `../script.rs`, where the model's answers come from.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::script::{Did, Script, Shown};

/// What a program heard, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Heard {
    /// The act of the plan, by its place.
    pub(crate) act: usize,
    /// What was answered in a word, none where nobody answered.
    pub(crate) said: Option<String>,
    /// When it was to be asked, was asked and was answered, in milliseconds since the start.
    pub(crate) due: u64,
    pub(crate) sent: u64,
    pub(crate) done: u64,
}

/// Something that changes what gateways answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Edge {
    /// The gateway, if it is about one alone.
    pub(crate) device: Option<u32>,
    /// When it was to happen, began and was done, in milliseconds since the start.
    pub(crate) due: u64,
    pub(crate) begun: u64,
    pub(crate) done: u64,
    /// How long it may take until all that follows from it shows.
    pub(crate) settle: u64,
    /// How much longer a gateway may hold back from saying that it is in touch, after a link that came and went.
    pub(crate) hold: u64,
}

impl Edge {
    /// Whether it cannot be said that a request came before it, or after all that followed from it, which takes so long.
    fn blurs(&self, device: u32, heard: &Heard, settle: u64) -> bool {
        let concerned = self.device.is_none_or(|own| own == device);
        let planned = heard.due >= self.due && heard.due <= self.due + settle;
        let real = heard.done >= self.begun && heard.sent <= self.done + settle;
        let swapped = (heard.due < self.due) != (heard.sent < self.begun);
        concerned && (planned || real || swapped)
    }
}

/// How two answers compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// They are the same.
    Same,
    /// Something changed in that moment, and the answer is the one of before or of after.
    EitherOr,
    /// They are not.
    Different,
    /// They are not, but the credential is of a task whose beginning was answered otherwise already.
    Follows,
}

/// One request, and what each level said to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    /// The act of the plan, by its place.
    pub act: usize,
    /// When it was to be asked, in milliseconds since the start.
    pub at: u64,
    /// The gateway.
    pub device: u32,
    /// What was asked.
    pub asked: String,
    /// What the model said. None: nobody answered.
    pub model: Option<String>,
    /// What the real thing said.
    pub live: Option<String>,
    /// What the model says as well, where something happens a little sooner or later.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub or: BTreeSet<Option<String>>,
    /// How the two compare.
    pub verdict: Verdict,
}

/// Compares what programs heard with what the model says. `others` are the model's answers to the same requests where
/// something else happens a little sooner or later, `unlike` the acts whose tasks did not fare here as they did there.
pub(crate) fn compare(
    model: &Script,
    others: &[Script],
    heard: &[Heard],
    edges: &[Edge],
    mut unlike: BTreeSet<usize>,
) -> Vec<Row> {
    let mut rows: Vec<Row> = heard.iter().filter_map(|heard| row(model, others, heard, edges)).collect();
    // A task that came from elsewhere has another credential, of which other things are true.
    unlike.extend(rows.iter().filter(|row| row.verdict != Verdict::Same).map(|row| row.act));
    for row in rows.iter_mut().filter(|row| row.verdict != Verdict::Same) {
        let of = model.lines.get(&row.act).and_then(|line| line.did.begun());
        if of.is_some_and(|begun| unlike.contains(&begun)) {
            row.verdict = Verdict::Follows;
        }
    }
    rows
}

fn row(model: &Script, others: &[Script], heard: &Heard, edges: &[Edge]) -> Option<Row> {
    let line = model.lines.get(&heard.act)?;
    let blurred = edges.iter().any(|edge| edge.blurs(line.device, heard, edge.settle));
    let held = edges.iter().any(|edge| edge.blurs(line.device, heard, edge.settle + edge.hold));
    let other = others.iter().filter_map(|other| other.lines.get(&heard.act)).map(|other| other.said.clone());
    // Who does not run answers nothing, and is asked nothing in the model.
    let silent = others.iter().any(|other| !other.lines.contains_key(&heard.act)).then_some(None);
    let or: BTreeSet<Option<String>> = other.chain(silent).filter(|other| *other != line.said).collect();
    // Whether the issuer was asked and answered in time hangs on more than when something changed: on how long a gateway took
    // to be in touch again, or to notice that it is not.
    let began = |said: &Option<String>| matches!(said.as_deref(), Some("issued" | "fallback"));
    let either = (blurred && or.contains(&heard.said)) || (held && began(&line.said) && began(&heard.said));
    let verdict = match (heard.said == line.said, either) {
        (true, _) => Verdict::Same,
        (false, true) => Verdict::EitherOr,
        (false, false) => Verdict::Different,
    };
    let (model, live) = (line.said.clone(), heard.said.clone());
    let or = if blurred { or } else { BTreeSet::new() };
    Some(Row { act: heard.act, at: heard.due, device: line.device, asked: asked(&line.did), model, live, or, verdict })
}

fn asked(did: &Did) -> String {
    match did {
        Did::Authorize { token: Shown::Begun(begun), operation, resource, .. } => {
            format!("{operation} {resource} with the token of act {begun}")
        }
        Did::Authorize { token: Shown::Made(theft), operation, resource, .. } => {
            format!("{operation} {resource} with a token that is {theft:?}").to_lowercase()
        }
        Did::Authorize { token: Shown::Carried, operation, resource, .. } => format!("{operation} {resource}"),
        Did::Begin { class, ttl_s, .. } => format!("begin {class} for {ttl_s} s"),
        Did::Finish { begun } => format!("finish the task of act {begun}"),
        Did::Revoke { what, .. } => format!("revoke {what:?}").to_lowercase(),
        Did::Status => "status".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::script::Line;

    fn script(said: Option<&str>) -> Script {
        let did = Did::Finish { begun: 0 };
        Script { lines: [(7, Line { device: 1, did, said: said.map(str::to_owned) })].into(), ..Script::default() }
    }

    fn heard(said: Option<&str>, at: u64) -> Heard {
        Heard { act: 7, said: said.map(str::to_owned), due: at, sent: at + 3, done: at + 9 }
    }

    fn edge(device: Option<u32>, at: u64) -> Edge {
        Edge { device, due: at, begun: at + 2, done: at + 50, settle: 1000, hold: 0 }
    }

    #[track_caller]
    fn check(live: Option<&str>, at: u64, edges: &[Edge], expected: Verdict) {
        let others = [script(Some("allowed")), script(Some("revoked"))];
        let rows = compare(&script(Some("revoked")), &others, &[heard(live, at)], edges, BTreeSet::new());
        assert_eq!(rows.iter().map(|row| row.verdict).collect::<Vec<_>>(), [expected], "{rows:?}");
    }

    #[test]
    fn only_what_the_model_says_as_well_and_only_near_a_change_may_be_otherwise() {
        let near = [edge(Some(1), 4000)];
        check(Some("revoked"), 9000, &near, Verdict::Same);
        check(Some("allowed"), 4500, &near, Verdict::EitherOr);
        check(Some("allowed"), 5040, &near, Verdict::EitherOr);
        check(Some("allowed"), 6000, &near, Verdict::Different);
        check(Some("allowed"), 3900, &near, Verdict::Different);
        check(Some("no_right"), 4500, &near, Verdict::Different);
        check(None, 4500, &near, Verdict::Different);
        check(Some("allowed"), 4500, &[edge(Some(0), 4000)], Verdict::Different);
        check(Some("allowed"), 4500, &[edge(None, 4000)], Verdict::EitherOr);
    }

    #[test]
    fn what_follows_from_another_difference_is_no_other_one() {
        let begin = Did::Begin { uid: 0, class: "pump".into(), rights: Vec::new(), ttl_s: 1, uses: None };
        let mut model = script(Some("finished"));
        model.lines.insert(0, Line { device: 1, did: begin, said: Some("issued".into()) });
        let begun = |said: &str| Heard { act: 0, ..heard(Some(said), 1000) };
        let verdicts = |said: &str| {
            let rows = compare(&model, &[], &[begun(said), heard(Some("not_found"), 2000)], &[], BTreeSet::new());
            rows.iter().map(|row| row.verdict).collect::<Vec<_>>()
        };
        assert_eq!(verdicts("refused"), [Verdict::Different, Verdict::Follows]);
        assert_eq!(verdicts("issued"), [Verdict::Same, Verdict::Different]);
        let skipped = compare(&model, &[], &[heard(Some("not_found"), 2000)], &[], [0].into());
        assert_eq!(skipped[0].verdict, Verdict::Follows);
        assert_eq!(verdicts("fallback"), [Verdict::Different, Verdict::Follows]);
    }

    #[test]
    fn whether_the_issuer_was_reached_is_not_said_near_a_change() {
        let did = Did::Begin { uid: 0, class: "pump".into(), rights: Vec::new(), ttl_s: 1, uses: None };
        let model =
            Script { lines: [(7, Line { device: 1, did, said: Some("issued".into()) })].into(), ..Script::default() };
        let verdict = |said: &str, at: u64| {
            compare(&model, &[], &[heard(Some(said), at)], &[edge(Some(1), 4000)], BTreeSet::new())[0].verdict
        };
        assert_eq!(verdict("fallback", 4500), Verdict::EitherOr);
        assert_eq!(verdict("fallback", 9000), Verdict::Different);
        assert_eq!(verdict("locked", 4500), Verdict::Different);
        let flapped = [Edge { hold: 10_000, ..edge(Some(1), 4000) }];
        let row = |said: &str| compare(&model, &[], &[heard(Some(said), 9000)], &flapped, BTreeSet::new())[0].verdict;
        assert_eq!((row("fallback"), row("refused")), (Verdict::EitherOr, Verdict::Different));
    }

    #[test]
    fn what_came_before_a_change_that_it_should_come_after_may_be_either() {
        let late = Edge { device: None, due: 1000, begun: 9000, done: 9100, settle: 1000, hold: 0 };
        check(Some("allowed"), 3000, &[late], Verdict::EitherOr);
    }
}
