//! What the acts of a plan came to: which credential each was about, and what a program was answered.
//!
//! Owns: [`Script`], the vector of answers that levels are compared by; the same plan run a little otherwise, so that it
//! is known which answers hang on when exactly something happens.
//! Never: judges an answer.
//! Read next: `workload.rs`, which asks.

use std::collections::BTreeMap;

use hardtack::agent::request::{Origin, Reply, Request, TaskReply};
use hardtack::wire::link::Right;

use crate::case::Case;
use crate::check::authority::{Narrowing, Presented};
use crate::fault::{Direction, RevokeWhat};
use crate::host::BOOT_MS;
use crate::model::Choices;
use crate::plan::{Act, Entry, Plan, TokenChoice, Turn};
use crate::theft::Theft;
use crate::trace::Trace;
use crate::workload::Asked;
use crate::world::World;

/// The longest that an answer takes, in milliseconds, where nothing sleeps.
const ANSWERED_WITHIN: u64 = 60_000;

/// What an act was, once it was known what it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Did {
    /// A program asked for a decision.
    Authorize {
        /// With which token.
        token: Shown,
        /// Whose user was so.
        uid: u32,
        /// What it wanted to do,
        operation: String,
        /// and with what.
        resource: String,
        /// The class of risk that it named.
        risk: Option<String>,
        /// What it was to be done with, in JSON, if that was said.
        arguments: Option<String>,
    },
    /// A program began a task.
    Begin {
        /// Whose user was so.
        uid: u32,
        /// Its class.
        class: String,
        /// What it wanted to be allowed.
        rights: Vec<Right>,
        /// For how many seconds.
        ttl_s: u64,
        /// How often.
        uses: Option<u64>,
    },
    /// A program finished the task that this act began.
    Finish {
        /// The act's place in the plan.
        begun: usize,
    },
    /// The operator revoked something of the task that this act began, or of its gateway where no task is meant.
    Revoke {
        /// What.
        what: RevokeWhat,
        /// The act's place in the plan.
        begun: Option<usize>,
    },
    /// An operator asked for the status.
    Status,
}

impl Did {
    /// The act that began the task which it is about, if it is about one.
    pub fn begun(&self) -> Option<usize> {
        match self {
            Self::Authorize { token: Shown::Begun(begun), .. } | Self::Finish { begun } => Some(*begun),
            Self::Revoke { begun, .. } => *begun,
            Self::Authorize { token: Shown::Made(_) | Shown::Carried, .. } | Self::Begin { .. } | Self::Status => None,
        }
    }
}

/// A token that a program presents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// The one that this act of the plan got.
    Begun(usize),
    /// One that a thief or a forger made.
    Made(Theft),
    /// One that somebody carried there.
    Carried,
}

/// An act, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The gateway.
    pub device: u32,
    /// What was done.
    pub did: Did,
    /// What was answered in a word: a reason, where a credential came from, a problem's code. None where nobody answered.
    pub said: Option<String>,
}

/// What the acts of a plan came to, by their places in it. An act that nobody could carry out, because nothing ran there
/// or nothing fitted, is missing.
#[derive(Debug, Clone, Default)]
pub struct Script {
    /// The acts.
    pub lines: BTreeMap<usize, Line>,
    /// Which credentials they were about, for another run to follow.
    pub(crate) choices: Choices,
}

/// How a plan is run otherwise than it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shift {
    /// Word of anything takes this much longer: the operator is that much later, and what restarts is out of touch for longer.
    Deaf(u64),
    /// What comes back does so this much earlier, and what becomes of a link shows as much earlier.
    Early(u64),
    /// All that is not done by a program happens this much later.
    Late(u64),
    /// What is away stays away this much longer.
    Long(u64),
}

/// What kind of thing an act is, in view of when it happens.
enum Kind {
    Begins,
    Ends,
    OfLink,
    OfOperator,
    OfProgram,
    Restarts,
}

impl Script {
    /// What a case comes to.
    pub fn of(case: &Case) -> Self {
        let world = World::new(case.scenario(), case.plan(), case.seed(), Trace::new(None), None);
        world.drawn_anew(case.anew()).script(ANSWERED_WITHIN)
    }

    /// What becomes of the same requests, with the same credentials, where something else happens a little sooner or later.
    #[must_use]
    pub fn shifted(&self, case: &Case, how: Shift) -> Self {
        let plan = how.of(case.plan());
        let world = World::new(case.scenario(), &plan, case.seed(), Trace::new(None), None);
        world.drawn_anew(case.anew()).following(self.choices.clone()).script(ANSWERED_WITHIN)
    }

    pub(crate) fn asked(&mut self, act: usize, device: u32, did: Did) {
        self.lines.insert(act, Line { device, did, said: None });
    }

    pub(crate) fn answered(&mut self, act: usize, reply: &Reply) {
        if let Some(line) = self.lines.get_mut(&act) {
            line.said = Some(word(reply).to_owned());
        }
    }
}

/// An answer in a word.
fn word(reply: &Reply) -> &'static str {
    match reply {
        Reply::Decision(decision) => decision.reason.name(),
        Reply::Finished(finished) if finished.finished => "finished",
        Reply::Finished(_) => "unfinished",
        Reply::Problem(problem) => problem.code.name(),
        Reply::Task(TaskReply { origin: Origin::Fallback, .. }) => "fallback",
        Reply::Task(TaskReply { origin: Origin::Issued, .. }) => "issued",
        Reply::Attenuated(_)
        | Reply::Audit(_)
        | Reply::Challenge(_)
        | Reply::Checked(_)
        | Reply::Ended(_)
        | Reply::Exported(_)
        | Reply::Imported(_)
        | Reply::Introspected(_)
        | Reply::Previewed(_)
        | Reply::Ready(_)
        | Reply::Revocations(_)
        | Reply::Status(_)
        | Reply::Step(_)
        | Reply::Tasks(_)
        | Reply::Time(_)
        | Reply::Whoami(_) => "answered",
    }
}

impl Shift {
    fn of(self, plan: &Plan) -> Plan {
        let mut plan = plan.clone();
        let mut begun: BTreeMap<_, u64> = BTreeMap::new();
        let mut more = Vec::new();
        for entry in &mut plan.entries {
            let of = (entry.of, entry.act.device());
            match (self, kind(&entry.act)) {
                // Not before it went away.
                (Self::Early(by), Kind::Ends) => {
                    let earliest = begun.get(&of).map_or(0, |at| at + 1);
                    entry.at = entry.at.saturating_sub(by).max(earliest).min(entry.at);
                }
                (Self::Early(by), Kind::OfLink) => {
                    entry.at = entry.at.saturating_sub(by);
                    begun.insert(of, entry.at);
                }
                (Self::Early(_), Kind::Begins) => drop(begun.insert(of, entry.at)),
                (Self::Late(by), Kind::Begins | Kind::Ends | Kind::OfLink | Kind::Restarts)
                | (Self::Long(by), Kind::Ends) => entry.at += by,
                (Self::Long(by), Kind::Restarts) => lengthen(&mut entry.act, by),
                (Self::Deaf(by), Kind::Restarts) => more.extend(deaf(entry, by)),
                (Self::Deaf(by) | Self::Late(by), Kind::OfOperator) => entry.at += by,
                (Self::Early(_), Kind::Restarts)
                | (Self::Long(_), Kind::Begins | Kind::OfLink)
                | (Self::Early(_) | Self::Long(_), Kind::OfOperator)
                | (Self::Deaf(_), Kind::Begins | Kind::Ends | Kind::OfLink)
                | (_, Kind::OfProgram) => {}
            }
        }
        // Behind all others, whose places stay what they are.
        plan.entries.extend(more.into_iter().flatten());
        plan
    }
}

/// Nothing goes through to something that restarts, until so long after it is there again.
fn deaf(entry: &Entry, by: u64) -> Option<[Entry; 2]> {
    let device = entry.act.device()?;
    let away = if let Act::ProcessRestart { lasts, .. } | Act::ProcessUpgrade { lasts, .. } = entry.act {
        lasts
    } else if let Act::DiskDamage { lasts, .. } | Act::PowerCut { lasts, .. } | Act::Reboot { lasts, .. } = entry.act {
        lasts + BOOT_MS
    } else {
        return None;
    };
    let direction = Direction::Both;
    let act = |at: u64, act: Act| Entry { at, of: None, act };
    let up = act(entry.at + away + by, Act::LinkUp { device, direction });
    Some([act(entry.at, Act::LinkDown { device, direction }), up])
}

fn lengthen(act: &mut Act, by: u64) {
    if let Act::DiskDamage { lasts, .. }
    | Act::PowerCut { lasts, .. }
    | Act::ProcessRestart { lasts, .. }
    | Act::ProcessUpgrade { lasts, .. }
    | Act::Reboot { lasts, .. } = act
    {
        *lasts += by;
    }
}

fn kind(act: &Act) -> Kind {
    let turn = |turn: &Turn| match turn {
        Turn::Begins => Kind::Begins,
        Turn::Ends => Kind::Ends,
    };
    match act {
        Act::Authorize { .. }
        | Act::Begin { .. }
        | Act::Distinct { .. }
        | Act::Finish { .. }
        | Act::Flood { .. }
        | Act::Misuse { .. }
        | Act::Narrow { .. }
        | Act::Overstep { .. }
        | Act::Plan { .. }
        | Act::Status { .. } => Kind::OfProgram,
        Act::BrokerStart | Act::LinkUp { .. } | Act::ServiceStart => Kind::Ends,
        Act::GroupMove { .. } | Act::KeyRotate { .. } | Act::Revoke { .. } | Act::RevokeStorm { .. } => {
            Kind::OfOperator
        }
        // It shows once somebody notices.
        Act::LinkDown { .. } | Act::LinkHalfOpen { .. } => Kind::OfLink,
        Act::BrokerDelay { turn: at, .. }
        | Act::BrokerDelayFor { turn: at, .. }
        | Act::ClockFreeze { turn: at, .. }
        | Act::DiskRefuses { turn: at, .. }
        | Act::DiskSync { turn: at, .. }
        | Act::LinkSlow { turn: at, .. }
        | Act::ProcessDowngrade { turn: at, .. }
        | Act::ProcessStop { turn: at, .. }
        | Act::ServiceAhead { turn: at, .. }
        | Act::Suspend { turn: at, .. } => turn(at),
        Act::DiskDamage { .. }
        | Act::PowerCut { .. }
        | Act::ProcessRestart { .. }
        | Act::ProcessUpgrade { .. }
        | Act::Reboot { .. } => Kind::Restarts,
        Act::BrokerAck { .. }
        | Act::BrokerBackup { .. }
        | Act::BrokerEmergency { .. }
        | Act::BrokerFeed { .. }
        | Act::BrokerForget { .. }
        | Act::BrokerHostile { .. }
        | Act::BrokerReplay { .. }
        | Act::BrokerRestore { .. }
        | Act::BrokerStop { .. }
        | Act::ClockDrift { .. }
        | Act::ClockStep { .. }
        | Act::DiskClone { .. }
        | Act::DiskCopy { .. }
        | Act::Emergency { .. }
        | Act::EmergencyThief { .. }
        | Act::ServiceStop
        | Act::TimeReset { .. }
        | Act::Wire { .. } => Kind::Begins,
    }
}

fn shown(presented: &Presented, begun: impl Fn(usize) -> Option<usize>) -> Shown {
    match (presented.credential, presented.narrowing) {
        (Some(credential), _) => begun(credential).map_or(Shown::Carried, Shown::Begun),
        (None, Some(Narrowing::OneResource)) => Shown::Made(Theft::OneResource),
        (None, Some(Narrowing::OnlyWrite)) => Shown::Made(Theft::OnlyWrite),
        (None, Some(Narrowing::Until(_))) => Shown::Made(Theft::Until),
        (None, None) if presented.choice == TokenChoice::Widened => Shown::Made(Theft::Widened),
        (None, None) => Shown::Made(Theft::Forged),
    }
}

/// What an act changes for gateways, as far as it matters when that shows.
#[cfg(feature = "live")]
pub(crate) enum Change {
    /// A link does not work any more, which is noticed when nothing is heard for long enough.
    Breaks,
    /// Something is there again, for whoever tries again.
    Mends,
    /// Anything else: at once.
    Other,
}

/// What an act that is none of a program changes.
#[cfg(feature = "live")]
pub(crate) fn change(act: &Act) -> Change {
    match kind(act) {
        Kind::OfLink => Change::Breaks,
        Kind::Ends | Kind::Restarts => Change::Mends,
        Kind::Begins | Kind::OfOperator | Kind::OfProgram => Change::Other,
    }
}

/// Whether an act is the end of what another began.
pub(crate) fn ends(act: &Act) -> bool {
    match kind(act) {
        Kind::Ends => true,
        Kind::Begins | Kind::OfLink | Kind::OfOperator | Kind::OfProgram | Kind::Restarts => false,
    }
}

/// Whether it is a program, or a person at a gateway, that asks.
pub(crate) fn is_of_program(act: &Act) -> bool {
    match kind(act) {
        Kind::OfProgram => true,
        Kind::Begins | Kind::Ends | Kind::OfLink | Kind::OfOperator | Kind::Restarts => false,
    }
}

impl World<'_> {
    /// A program asks something for an act of the plan.
    pub(crate) fn note_asked(&mut self, device: u32, uid: u32, request: &Request, asked: &Asked) {
        let Some(act) = self.acting.filter(|act| is_of_program(&self.plan.entries[*act].act)) else { return };
        let begun = |credential: usize| self.model.get(credential).begun;
        let did = match (request, asked) {
            (Request::Authorize(ask), Asked::Decision(presented)) => Did::Authorize {
                token: shown(presented, begun),
                uid,
                operation: ask.operation.clone(),
                resource: ask.resource.clone(),
                risk: ask.risk.as_ref().map(ToString::to_string),
                arguments: ask.arguments.as_ref().and_then(|said| serde_json::to_string(said).ok()),
            },
            (Request::Begin(begin), _) => Did::Begin {
                uid,
                class: begin.task.to_string(),
                rights: begin.rights.clone(),
                ttl_s: begin.ttl_s,
                uses: begin.uses,
            },
            (_, Asked::Finish { credential }) => match begun(*credential) {
                Some(begun) => Did::Finish { begun },
                None => return,
            },
            (_, Asked::Status) => Did::Status,
            (_, _) => return,
        };
        self.script.asked(act, device, did);
    }

    /// The operator revokes something for an act of the plan.
    pub(crate) fn note_revoked(&mut self, device: u32, what: RevokeWhat, begun: Option<usize>) {
        if let Some(act) = self.acting {
            self.script.asked(act, device, Did::Revoke { what, begun });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case() -> Case {
        Case::parse(include_str!("../scenarios/live-dark.toml"), None).unwrap()
    }

    #[track_caller]
    fn at(plan: &Plan, start: &Case, fits: impl Fn(&Act) -> bool) -> i64 {
        let find = |plan: &Plan| plan.entries.iter().find(|entry| fits(&entry.act)).unwrap().at as i64;
        find(plan) - find(start.plan())
    }

    #[test]
    fn what_is_shifted_and_what_is_not() {
        let case = case();
        let down = |act: &Act| matches!(act, Act::LinkDown { .. });
        let up = |act: &Act| matches!(act, Act::LinkUp { .. });
        let revoke = |act: &Act| matches!(act, Act::Revoke { .. });
        let begin = |act: &Act| matches!(act, Act::Begin { .. });
        for (how, expected) in [
            (Shift::Early(2000), [-2000, -2000, 0, 0]),
            (Shift::Late(2000), [2000, 2000, 2000, 0]),
            (Shift::Long(2000), [0, 2000, 0, 0]),
        ] {
            let plan = how.of(case.plan());
            let moved =
                [at(&plan, &case, down), at(&plan, &case, up), at(&plan, &case, revoke), at(&plan, &case, begin)];
            assert_eq!(moved, expected, "{how:?}");
        }
        let deaf = Shift::Deaf(2000).of(case.plan());
        let (same, more) = deaf.entries.split_at(case.plan().entries.len());
        let (operator, rest): (Vec<_>, Vec<_>) =
            same.iter().zip(&case.plan().entries).partition(|(a, _)| revoke(&a.act));
        assert!(operator.iter().all(|(late, entry)| late.at == entry.at + 2000) && operator.len() == 1);
        assert!(rest.iter().all(|(same, entry)| same == entry));
        let restart = same.iter().find(|entry| matches!(entry.act, Act::ProcessRestart { .. })).unwrap().at;
        assert_eq!(more.iter().map(|entry| entry.at - restart).collect::<Vec<_>>(), [0, 3000]);
        let soonest = Shift::Early(60_000).of(case.plan());
        let when = |fits: &dyn Fn(&Act) -> bool| soonest.entries.iter().find(|entry| fits(&entry.act)).unwrap().at;
        assert!(when(&up) > when(&down), "nothing comes back before it went away");
    }

    /// Both ends of what can be: revoked in the dark, and not a moment before the link is back.
    #[test]
    fn the_same_requests_with_the_same_credentials_are_asked_otherwise() {
        let case = case();
        let script = Script::of(&case);
        let said = |script: &Script| script.lines.values().map(|line| line.said.clone()).collect::<Vec<_>>();
        let last_revoked =
            script.lines.iter().rev().find(|(_, line)| line.said.as_deref() == Some("revoked")).unwrap().0;
        let asked: Vec<&Did> = script.lines.values().map(|line| &line.did).collect();
        let late = script.shifted(&case, Shift::Late(30_000));
        assert_eq!(late.lines.values().map(|line| &line.did).collect::<Vec<_>>(), asked);
        assert_ne!(said(&late), said(&script));
        assert!(late.lines[last_revoked].said.is_some());
        // What comes a little later than nothing at all is the same.
        assert_eq!(script.shifted(&case, Shift::Late(0)).lines, script.lines);
    }
}
