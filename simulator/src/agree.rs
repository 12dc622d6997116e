//! What programs were answered at one level, held against another.
//!
//! Owns: [`Answered`], a request and its answer; which differences a plan excuses, and which it does not.
//! Never: judges an answer by itself; checkers do.
//! Read next: `workload.rs`, which asks.
//!
//! Levels differ in time: a handshake takes more round trips where bytes go over the links, waits are drawn anew, and so a
//! gateway may be in touch a little sooner here than there. So a difference soon after a fault began or ended, or an
//! operator did something, is counted and excused; so is one about a credential whose use has parted before, for that reason.
//! Nothing else is.

use std::collections::{BTreeMap, BTreeSet};

use hardtack::agent::request::{Origin, Reply};
use serde::Serialize;

use crate::case::Case;
use crate::check::clock;
use crate::plan::{Act, Plan};
use crate::report::Report;
use crate::trace::Trace;
use crate::workload::Asked;
use crate::world::World;
use crate::Level;

/// How long after a fault's edge or an operator's act an answer may be the one of before, beside what the keep-alive makes
/// of it, in milliseconds.
const SETTLE: u64 = 60_000;
/// So many keep-alives, at most, until either end has noticed, and the gateway waited, and is in touch again.
const KEEP_ALIVES: u64 = 3;

/// A request of a program, and what it was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answered {
    device: u32,
    /// When it was asked.
    at: u64,
    what: Request,
    /// The reason of a decision, where a credential came from, or a problem's code.
    said: &'static str,
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
    /// Answered otherwise because the use of their credential had parted before.
    pub parted: u64,
    /// Requests that only one of the levels came to make, or could answer: what fits to be asked hangs on time as well.
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

/// Runs a case at the level of the model and at another one: the report of the other, and how they agree.
pub fn agree(case: &Case, level: Level) -> (Report, Agreement) {
    let model =
        World::new(case.scenario(), case.plan(), case.seed(), Trace::new(None), None).drawn_anew(case.anew()).run();
    let trace = Trace::new(None);
    let (report, _, wire) = crate::sum(level, case.scenario(), case.plan(), case.seed(), case.anew(), trace);
    (report, compare(case, &model.answered, &wire))
}

fn compare(case: &Case, model: &[Answered], wire: &[Answered]) -> Agreement {
    let settle = SETTLE + KEEP_ALIVES * case.scenario().profile.link.keepalive_s * 1000;
    let mut agreement = Agreement {
        scenario: case.scenario().name.clone(),
        seed: case.seed(),
        settle_ms: settle,
        same: 0,
        excused: 0,
        parted: 0,
        alone: 0,
        differences: Vec::new(),
    };
    let edges = Edges::of(case.plan(), case.scenario().start);
    let mut parted = BTreeSet::new();
    let mut wire = by_request(wire);
    let mut pairs: Vec<_> =
        by_request(model).into_iter().map(|(key, said)| (key.clone(), Some(said), wire.remove(&key))).collect();
    pairs.extend(wire.into_iter().map(|(key, said)| (key, None, Some(said))));
    pairs.sort();
    for ((at, device, what), model, wire) in pairs {
        let (Some(model), Some(wire)) = (model, wire) else {
            agreement.alone += 1;
            parted.extend(what.credential());
            continue;
        };
        if model == wire {
            agreement.same += 1;
            continue;
        }
        let known = what.credential().is_some_and(|credential| parted.contains(&credential));
        if edges.is_near(device, at, settle) {
            agreement.excused += 1;
            parted.extend(what.credential());
        } else if known {
            agreement.parted += 1;
        } else {
            let at = clock(at);
            agreement.differences.push(Difference { at, device, request: what.to_string(), model, wire });
        }
    }
    agreement
}

/// By time, gateway and request. Of several that are alike in all of that, the last answer counts.
fn by_request(answered: &[Answered]) -> BTreeMap<(u64, u32, Request), &'static str> {
    answered.iter().map(|answered| ((answered.at, answered.device, answered.what.clone()), answered.said)).collect()
}

/// When faults began or ended and operators did something: of one gateway, or of all.
struct Edges(BTreeSet<(Option<u32>, u64)>);

impl Edges {
    fn of(plan: &Plan, start: u64) -> Self {
        let all = plan.entries.iter().filter_map(|entry| Some((concerns(&entry.act)?, entry.at)));
        // And everybody starts.
        Self(all.chain([(None, start)]).collect())
    }

    fn is_near(&self, device: u32, at: u64, settle: u64) -> bool {
        let near = |of| self.0.range((of, at.saturating_sub(settle))..=(of, at)).next().is_some();
        near(None) || near(Some(device))
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
        | Act::TimeReset { device, .. } => Some(Some(*device)),
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
        self.answered.push(Answered { device, at, what, said });
    }
}
