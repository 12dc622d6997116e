//! What programs were answered at one level, held against another.
//!
//! Owns: `Seen`, what a run has shown of requests and their answers; which differences a plan excuses, and which it does not.
//! Never: judges an answer by itself; checkers do.
//! Read next: `workload.rs`, which asks.
//!
//! Levels differ in time: a handshake takes more round trips where bytes go over the links, waits are drawn anew, and so a
//! gateway may be in touch a little sooner here than there. So a difference soon after a fault began or ended, or an
//! operator did something, or while a broker does to messages what it likes by chance, is counted and excused. So is one
//! after power or process went away, until the gateway has been in touch with its fleet again: what is left of a commit is
//! drawn here, and is what a real disk holds there, and its clock hangs on that and on milliseconds. And so is one about a
//! credential whose use has parted by any of that. Nothing else is.

use std::collections::{BTreeMap, BTreeSet};

use hardtack::agent::request::{Origin, Reply};
use serde::Serialize;

use crate::case::Case;
use crate::check::clock;
use crate::fault::Hostility;
use crate::plan::{Act, Entry, Plan};
use crate::report::Report;
use crate::trace::Trace;
use crate::workload::Asked;
use crate::world::World;
use crate::Level;

/// How long after a fault's edge or an operator's act an answer may be the one of before, beside what it takes until both
/// ends of a connection have noticed, and the gateway has tried again: in milliseconds.
const SETTLE: u64 = 60_000;
/// So many keep-alives, at most, until either end has noticed.
const KEEP_ALIVES: u64 = 2;

/// What one run has shown.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    /// What programs were answered.
    answered: Vec<Answered>,
    /// Credentials of which nobody knows whether a use was charged: the answer met a cut.
    unheard: BTreeSet<(u32, usize)>,
    /// When gateways were in touch with their fleet.
    contacts: BTreeSet<(u32, u64)>,
}

/// A request of a program, and what it was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Answered {
    /// When it was asked, where, and what.
    key: Key,
    /// The reason of a decision, where a credential came from, or a problem's code.
    said: &'static str,
    /// The credential that was handed out.
    gives: Option<(u32, usize)>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Request {
    Begin {
        uid: u32,
    },
    Decide {
        /// Which of the credentials handed out on the gateways, if it is one of theirs: the gateway, and its place there.
        credential: Option<(u32, usize)>,
        operation: String,
        resource: String,
        risk: String,
    },
}

/// A request that was answered otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// When it was asked, as witnesses tell it.
    pub at: String,
    /// The gateway.
    pub device: u32,
    /// What was asked.
    pub request: String,
    /// What the model answered.
    pub model: &'static str,
    /// What the other level answered.
    pub wire: &'static str,
}

/// How two levels stand to each other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Agreement {
    /// The scenario.
    pub scenario: String,
    /// The seed.
    pub seed: u64,
    /// How long after a fault's edge or an operator's act a difference is excused, in milliseconds.
    pub settle_ms: u64,
    /// Requests that were answered alike.
    pub same: u64,
    /// Answered otherwise soon after an edge.
    pub excused: u64,
    /// Answered otherwise after power or process went away, before the gateway was in touch again.
    pub cut: u64,
    /// Answered otherwise because the use of their credential had parted before.
    pub parted: u64,
    /// Requests that only one of the levels could answer: nothing ran at the other, or nothing fitted.
    pub alone: u64,
    /// All others.
    pub differences: Vec<Difference>,
}

impl Agreement {
    /// Whether every difference is excused, and there was something to compare.
    pub fn holds(&self) -> bool {
        self.differences.is_empty() && self.same > 0
    }
}

/// Runs a case at the level of the model and at another one, which follows its choices: the report of the other, and how they
/// agree. Both leave out what either cannot do.
pub fn agree(case: &Case, level: Level) -> (Report, Agreement) {
    let mut plan = case.plan().clone();
    let mut left_out = BTreeSet::new();
    plan.entries.retain(|entry| match level.cannot(&entry.act).or_else(|| Level::Model.cannot(&entry.act)) {
        Some((fault, why)) => {
            left_out.insert(format!("{fault} ({why})"));
            false
        }
        None => true,
    });
    let (scenario, seed) = (case.scenario(), case.seed());
    let model = World::new(scenario, &plan, seed, Trace::new(None), None).drawn_anew(case.anew()).run();
    let follow = |world| level.of(world).following(model.choices.clone());
    let (mut report, _, seen) = crate::sum(follow, scenario, &plan, seed, case.anew(), Trace::new(None));
    report.not_applied.extend(left_out);
    (report, compare(case, &plan, &model.seen, &seen))
}

fn compare(case: &Case, plan: &Plan, model: &Seen, wire: &Seen) -> Agreement {
    let link = &case.scenario().profile.link;
    let settle = SETTLE + KEEP_ALIVES * link.keepalive_s * 1000 + link.backoff_ms_max;
    let mut agreement = Agreement {
        scenario: case.scenario().name.clone(),
        seed: case.seed(),
        settle_ms: settle,
        same: 0,
        excused: 0,
        cut: 0,
        parted: 0,
        alone: 0,
        differences: Vec::new(),
    };
    let edges = Edges::of(plan, case, settle);
    let mut parted: BTreeSet<_> = model.unheard.union(&wire.unheard).copied().collect();
    let asked: BTreeSet<(u64, u32)> = plan.entries.iter().filter_map(of_program).collect();
    let (mut left, right) = (by_request(model, &asked), by_request(wire, &asked));
    let mut pairs: BTreeMap<_, _> =
        right.into_iter().map(|(key, said)| (key, (left.remove(key), Some(said)))).collect();
    pairs.extend(left.into_iter().map(|(key, said)| (key, (Some(said), None))));
    for ((at, device, what), said) in pairs {
        let touched = what.credential();
        let (Some(model_said), Some(wire_said)) = said else {
            agreement.alone += 1;
            let given = [said.0, said.1].into_iter().flatten().filter_map(|answered| answered.gives);
            parted.extend(touched.into_iter().chain(given));
            continue;
        };
        if model_said.said == wire_said.said {
            agreement.same += 1;
            continue;
        }
        let known = touched.is_some_and(|credential| parted.contains(&credential));
        let cut = edges.last_cut(*device, *at).is_some_and(|cut| {
            let in_touch = |seen: &Seen| seen.contacts.range((*device, cut + 1)..=(*device, *at)).next().is_some();
            !in_touch(model) || !in_touch(wire)
        });
        match (edges.is_near(*device, *at), cut, known) {
            (true, _, _) => agreement.excused += 1,
            (false, true, _) => agreement.cut += 1,
            (false, false, true) => agreement.parted += 1,
            (false, false, false) => {
                let (model, wire) = (model_said.said, wire_said.said);
                let (at, request) = (clock(*at), what.to_string());
                agreement.differences.push(Difference { at, device: *device, request, model, wire });
                continue;
            }
        }
        parted.extend(touched.into_iter().chain(model_said.gives).chain(wire_said.gives));
    }
    agreement
}

type Key = (u64, u32, Request);

/// Requests of the plan, by time, gateway and what was asked; the oracle asks for itself as well, at times that hang on
/// answers. Of several that are alike in all of that, the last answer counts.
fn by_request<'a>(seen: &'a Seen, asked: &BTreeSet<(u64, u32)>) -> BTreeMap<&'a Key, &'a Answered> {
    let planned = |answered: &&Answered| asked.contains(&(answered.key.0, answered.key.1));
    seen.answered.iter().filter(planned).map(|answered| (&answered.key, answered)).collect()
}

fn of_program(entry: &Entry) -> Option<(u64, u32)> {
    concerns(&entry.act).is_none().then_some((entry.at, entry.act.device()?))
}

/// When faults began or ended and operators did something: of one gateway, or of all.
struct Edges {
    settle: u64,
    at: BTreeSet<(Option<u32>, u64)>,
    cuts: BTreeSet<(u32, u64)>,
    /// Times in which the broker was hostile, with what it takes until all that it kept back is said again.
    hostile: Vec<(u64, u64)>,
}

impl Edges {
    fn of(plan: &Plan, case: &Case, settle: u64) -> Self {
        let mut edges = Self { settle, at: BTreeSet::new(), cuts: BTreeSet::new(), hostile: Vec::new() };
        // Everybody starts.
        edges.at.insert((None, case.scenario().start));
        let mut hostile_since = None;
        for entry in &plan.entries {
            edges.at.extend(concerns(&entry.act).map(|whom| (whom, entry.at)));
            if let Act::DiskDamage { device, .. }
            | Act::PowerCut { device, .. }
            | Act::ProcessRestart { device, .. }
            | Act::Reboot { device, .. } = entry.act
            {
                edges.cuts.insert((device, entry.at));
            }
            if let Act::BrokerHostile { how } = entry.act {
                let since = hostile_since.take();
                match how == Hostility::default() {
                    true => {
                        edges.hostile.extend(since.map(|since| (since, entry.at + case.scenario().fleet.head_every.0)))
                    }
                    false => hostile_since = since.or(Some(entry.at)),
                }
            }
        }
        edges.hostile.extend(hostile_since.map(|since| (since, u64::MAX)));
        edges
    }

    fn is_near(&self, device: u32, at: u64) -> bool {
        let near = |of| self.at.range((of, at.saturating_sub(self.settle))..=(of, at)).next().is_some();
        let hostile = |(began, ended): &(u64, u64)| (*began..ended.saturating_add(self.settle)).contains(&at);
        near(None) || near(Some(device)) || self.hostile.iter().any(hostile)
    }

    /// When power or process went away last, if they did.
    fn last_cut(&self, device: u32, at: u64) -> Option<u64> {
        self.cuts.range((device, 0)..=(device, at)).next_back().map(|(_, at)| *at)
    }
}

/// Whom an act concerns that is no program's: one gateway, or all (`Some(None)`).
fn concerns(act: &Act) -> Option<Option<u32>> {
    match act {
        Act::Authorize { .. }
        | Act::Begin { .. }
        | Act::Distinct { .. }
        | Act::Finish { .. }
        | Act::Flood { .. }
        | Act::Status { .. } => None,
        Act::BrokerAck { device, .. }
        | Act::BrokerFeed { device, .. }
        | Act::BrokerReplay { device, .. }
        | Act::ClockDrift { device, .. }
        | Act::ClockFreeze { device, .. }
        | Act::ClockStep { device, .. }
        | Act::DiskClone { device, .. }
        | Act::DiskCopy { device, .. }
        | Act::DiskDamage { device, .. }
        | Act::DiskSync { device, .. }
        | Act::LinkDown { device, .. }
        | Act::LinkHalfOpen { device }
        | Act::LinkUp { device, .. }
        | Act::PowerCut { device, .. }
        | Act::ProcessRestart { device, .. }
        | Act::Reboot { device, .. }
        | Act::ServiceAhead { device, .. }
        | Act::Suspend { device, .. }
        | Act::TimeReset { device, .. }
        | Act::Wire { device, .. } => Some(Some(*device)),
        Act::BrokerBackup { .. }
        | Act::BrokerDelay { .. }
        | Act::BrokerEmergency { .. }
        | Act::BrokerForget { .. }
        | Act::BrokerHostile { .. }
        | Act::BrokerRestore { .. }
        | Act::BrokerStart
        | Act::BrokerStop { .. }
        | Act::Emergency { .. }
        | Act::EmergencyThief { .. }
        | Act::GroupMove { .. }
        | Act::KeyRotate { .. }
        | Act::Revoke { .. }
        | Act::RevokeStorm { .. }
        | Act::ServiceStart
        | Act::ServiceStop => Some(None),
    }
}

impl Request {
    fn credential(&self) -> Option<(u32, usize)> {
        match self {
            Self::Begin { .. } => None,
            Self::Decide { credential, .. } => *credential,
        }
    }
}

impl std::fmt::Display for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Begin { uid } => write!(f, "user {uid} begins a task"),
            Self::Decide { credential: Some((device, number)), operation, resource, .. } => {
                write!(f, "{operation} {resource} with credential {number} of gateway {device}")
            }
            Self::Decide { credential: None, operation, resource, .. } => {
                write!(f, "{operation} {resource} with a token that no gateway handed out")
            }
        }
    }
}

impl World<'_> {
    /// A program was answered, for whoever compares levels.
    pub(crate) fn note_answer(&mut self, device: u32, at: u64, asked: &Asked, reply: &Reply) {
        let what = match asked {
            Asked::Begin { uid, .. } => Request::Begin { uid: *uid },
            Asked::Decision(presented) => Request::Decide {
                credential: presented.credential.and_then(|number| self.model.place(number)),
                operation: presented.operation.clone(),
                resource: presented.resource.clone(),
                risk: presented.risk.clone(),
            },
            Asked::Ahead { .. }
            | Asked::Challenge { .. }
            | Asked::Finish { .. }
            | Asked::LastStatus
            | Asked::Reset { .. }
            | Asked::Status => return,
        };
        let said = match reply {
            Reply::Decision(decision) => decision.reason.name(),
            Reply::Problem(problem) => problem.code.name(),
            Reply::Task(task) if task.origin == Origin::Issued => "issued",
            Reply::Task(_) => "narrowed",
            Reply::Audit(_)
            | Reply::Challenge(_)
            | Reply::Checked(_)
            | Reply::Ended(_)
            | Reply::Exported(_)
            | Reply::Finished(_)
            | Reply::Imported(_)
            | Reply::Ready(_)
            | Reply::Revocations(_)
            | Reply::Status(_)
            | Reply::Tasks(_)
            | Reply::Time(_)
            | Reply::Whoami(_) => "something else",
        };
        let handed_out = matches!(reply, Reply::Task(_));
        let gives = handed_out.then(|| (device, self.model.handed_out(device)));
        self.seen.answered.push(Answered { key: (at, device, what), said, gives });
    }

    /// Nobody hears whether a use of a credential was charged.
    pub(crate) fn note_unheard(&mut self, credential: usize) {
        self.seen.unheard.extend(self.model.place(credential));
    }

    /// A gateway was in touch with its fleet.
    pub(crate) fn note_contact(&mut self, device: u32) {
        self.seen.contacts.insert((device, self.now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: u64 = 60_000;

    const PLAN: &str = r#"
        schema = 1
        name = "two-levels"
        about = "A link that fails, then a supply that does."
        seed = 1
        duration = "6h"
        heal = "4h"
        require = []
        [fleet]
        devices = 1
        [workload]
        authorize_every = "30s"
        [[fault]]
        do = "link.down"
        at = "1h"
        for = "1m"
        [[fault]]
        do = "power.cut"
        at = "2h"
        for = "5s"
        boundary = "now"
    "#;

    /// Of a request that was made in the minutes after this time, what the model and the other level said.
    fn compared(after: u64, said: [&'static str; 2], also: impl Fn(&mut Seen, u64)) -> Agreement {
        let case = Case::parse(PLAN, None).unwrap();
        let after = case.scenario().start + after;
        let entries = case.plan().entries.iter().filter_map(of_program);
        let (at, device) = entries.filter(|(at, _)| *at >= after).min().unwrap();
        let (operation, resource, risk) = ("read".into(), "modbus/1".into(), "low".into());
        let what = Request::Decide { credential: Some((0, 3)), operation, resource, risk };
        let seen = said.map(|said| {
            let key = (at, device, what.clone());
            let mut seen = Seen { answered: vec![Answered { key, said, gives: None }], ..Seen::default() };
            also(&mut seen, at);
            seen
        });
        compare(&case, case.plan(), &seen[0], &seen[1])
    }

    #[test]
    fn a_difference_without_a_reason_is_one() {
        let nothing = |_: &mut Seen, _| {};
        let same = compared(30 * MINUTE, ["allowed", "allowed"], nothing);
        assert!(same.holds() && same.same == 1);
        let differs = compared(30 * MINUTE, ["allowed", "revoked"], nothing);
        assert!(!differs.holds());
        assert_eq!((differs.differences[0].model, differs.differences[0].wire), ("allowed", "revoked"));
    }

    #[test]
    fn each_excuse_holds_for_its_reason_and_no_longer() {
        let said = ["allowed", "revoked"];
        let nothing = |_: &mut Seen, _| {};
        assert_eq!(compared(60 * MINUTE, said, nothing).excused, 1, "the link is cut");
        assert_eq!(compared(75 * MINUTE, said, nothing).differences.len(), 1, "it has long been there again");
        assert_eq!(compared(150 * MINUTE, said, nothing).cut, 1, "not in touch since the cut");
        let in_touch = |seen: &mut Seen, at| seen.contacts.extend([(0, at - 10 * MINUTE)]);
        assert_eq!(compared(150 * MINUTE, said, in_touch).differences.len(), 1, "in touch since then");
        let unheard = |seen: &mut Seen, _| seen.unheard.extend([(0, 3)]);
        assert_eq!(compared(30 * MINUTE, said, unheard).parted, 1, "nobody knows what was charged");
    }

    #[test]
    fn what_only_one_level_answers_is_counted() {
        let calls = std::cell::Cell::new(0);
        let alone = compared(30 * MINUTE, ["allowed", "allowed"], |seen, _| {
            calls.set(calls.get() + 1);
            if calls.get() == 2 {
                seen.answered.clear();
            }
        });
        assert_eq!((alone.same, alone.alone), (0, 1));
        assert!(!alone.holds(), "nothing was compared");
    }
}
