//! I6 of planners: a step is for somebody whom the grant names, for no more than its task may, once, and not after that.
//!
//! Owns: what an exchange must not give, and what a step must not do; the floor on exchanges.
//! Never: asks why somebody asks. What is due hangs on who asks for what, and on what was given before.
//! Read next: `workload/planner.rs`, which asks.

use hardtack::agent::request::{DecisionReply, Reason, Verdict};
use hardtack::ids::DeviceId;
use hardtack::time::{Millis, Timestamp};
use hardtack::wire::link::Right;

use super::{AuthorityCheck, Judge, Moment, Presented, FLOOR_FROM, FLOOR_PERCENT};
use crate::check::{Id, Tally};
use crate::model::{Credential, Role, Standing, SLACK};
use crate::workload::planner::{planner_rights, EXECUTORS};

/// What somebody asked for with a planner's credential.
#[derive(Debug, Clone)]
pub(crate) struct Exchange {
    /// The credential.
    pub(crate) planner: usize,
    /// What was presented, as if a decision was asked for.
    pub(crate) presented: Presented,
    /// Whose user is to use the step,
    pub(crate) executor: u32,
    /// to do what,
    pub(crate) right: Right,
    /// and for how long, in milliseconds.
    pub(crate) ttl: u64,
    /// Under one key there is one step.
    pub(crate) key: String,
}

/// A step that was given.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Given<'a> {
    /// The record of the exchange.
    pub(crate) decision_id: &'a str,
    /// For how long, in seconds.
    pub(crate) expires_in_s: u64,
    /// The date in it from which on it is refused.
    pub(crate) ends: Timestamp,
}

/// Exchanges that nothing spoke against, and how many of them gave a step.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Exchanges {
    fair: u64,
    given: u64,
}

impl Exchanges {
    /// In the end: most of what nothing spoke against was given.
    pub(super) fn finish(self, tally: &mut Tally, at: u64) {
        let Self { fair, given } = self;
        if fair >= FLOOR_FROM && given * 100 < fair * FLOOR_PERCENT {
            tally.broken(Id::Available, at, format!("of {fair} good exchanges {given} gave a step"));
        }
    }
}

impl Exchange {
    /// Why it must give nothing, whatever the time is and whatever is revoked, if so.
    fn wrong(&self, planner: &Credential) -> Option<String> {
        let Role::Plan { keys } = &planner.role else { return Some("its credential is no planner's".into()) };
        let Self { presented: Presented { uid, .. }, executor, right, key, .. } = self;
        if *uid != planner.uid {
            return Some(format!("user {uid} asked, and the credential is of user {}", planner.uid));
        }
        if *executor == planner.uid {
            return Some("it is for the planner itself".into());
        }
        if !EXECUTORS.contains(executor) {
            return Some(format!("it is for user {executor}, whom no grant names"));
        }
        if !is_within(right, &planner_rights()) {
            return Some(format!("it is to {} {}, which its task may not", right.action, right.resource));
        }
        keys.contains(key).then(|| "a step was given under the same key before".into())
    }
}

impl AuthorityCheck {
    /// An exchange was answered in time: with a step, or with a refusal of this name.
    pub(crate) fn exchanged(
        &mut self,
        tally: &mut Tally,
        moment: &Moment,
        name: &DeviceId,
        (exchange, planner): (&Exchange, &Credential),
        answer: Result<Given<'_>, &str>,
    ) {
        let (given, presented) = (answer.ok(), &exchange.presented);
        let id = format!("a step of {name}, exchange {}", given.map_or("refused", |given| given.decision_id));
        let mut judge = Judge { tally, at: moment.at, allowed: given.is_some(), id };
        let wrong = exchange.wrong(planner);
        if let Some(how) = &wrong {
            judge.tried(Id::OnlyNarrowerExchange, || how.clone());
        }
        if let Some(given) = given {
            let late = given.ends > planner.ends || given.expires_in_s * 1000 > exchange.ttl;
            let how = || format!("it ends {}, its task {}", given.ends, planner.ends);
            judge.tally.tried(Id::OnlyNarrowerExchange, moment.at, late.then(how));
        }
        let forgiven = &self.known[moment.device as usize].forgiven;
        if planner.finished.is_some_and(|finished| !forgiven.undoes(finished)) {
            judge.tried(Id::OnlyNarrowerExchange, || format!("task {} had ended", planner.task));
        }
        self.check_life(&mut judge, moment, presented.class, planner);
        self.check_box(&mut judge, moment, planner);
        self.check_revocation(&mut judge, moment, name, planner);
        self.check_staleness(&mut judge, moment, presented);
        self.check_bounded(&mut judge, moment, name, presented, planner);
        let full = answer.err() == Some(Reason::Throttled.name());
        let good = wrong.is_none() && planner.standing(moment) == Standing::Good && !full;
        if good && self.is_fair(moment, presented, planner) {
            self.exchanges.fair += 1;
            self.exchanges.given += u64::from(given.is_some());
        }
    }

    /// A decision on a planner's own credential, or on a step of `task`, reached its caller.
    pub(crate) fn planned(
        &self,
        tally: &mut Tally,
        moment: &Moment,
        name: &DeviceId,
        presented: &Presented,
        (credential, task): (&Credential, Option<&Credential>),
        reply: &DecisionReply,
    ) {
        let allowed = reply.decision == Verdict::Allow;
        let mut judge = Judge { tally, at: moment.at, allowed, id: format!("{name} allowed {}", reply.decision_id) };
        let (step, task) = match (&credential.role, task) {
            (Role::Plan { .. }, _) => {
                let how = || "a planner's credential, which is for exchanges alone".into();
                return judge.tried(Id::OnlyNarrowerExchange, how);
            }
            (Role::Step(step), Some(task)) => (step, task),
            (Role::Narrowed(_) | Role::Step(_) | Role::Work, _) => return,
        };
        let known = &self.known[moment.device as usize];
        if credential.allows > 0 && !known.unboxed.covers(credential.issued) {
            judge.tried(Id::OnlyNarrowerStep, || format!("{} had been used", step.named.id));
        }
        if presented.uid != credential.uid {
            let (uid, own) = (presented.uid, credential.uid);
            judge.tried(Id::OnlyNarrowerStep, || format!("user {uid}, and {} is for user {own}", step.named.id));
        }
        let (operation, resource) = (presented.operation.as_str(), presented.resource.as_str());
        let asked = Right { action: operation.to_owned(), resource: resource.to_owned() };
        if !is_within(&asked, std::slice::from_ref(&step.right)) {
            let Right { action, resource: own } = &step.right;
            let how = || format!("{operation} on {resource}, and {} is to {action} {own}", step.named.id);
            judge.tried(Id::OnlyNarrowerStep, how);
        }
        let ended = task.finished.is_some_and(|finished| !known.forgiven.undoes(finished));
        let over = task.ends + Millis(SLACK) < moment.know.proven;
        if ended || over {
            judge.tried(Id::OnlyNarrowerStep, || format!("task {} of {} had ended", task.task, step.named.id));
        }
        if task.allows >= task.uses && !known.unboxed.covers(task.issued) {
            let how = || format!("the {} uses of its task {} were spent", task.uses, task.task);
            judge.tried(Id::MonotoneBudget, how);
        }
    }
}

/// Whether some of these rights cover one.
pub(super) fn is_within(part: &Right, whole: &[Right]) -> bool {
    let covers = |right: &Right| match right.resource.strip_suffix('*') {
        Some(below) => part.resource.starts_with(below),
        None => part.resource == right.resource,
    };
    whole.iter().any(|right| right.action == part.action && covers(right))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_are_within_others_below_their_prefix() {
        let right = |action: &str, resource: &str| Right { action: action.into(), resource: resource.into() };
        let whole = [right("write", "modbus/pump1/speed"), right("read", "modbus/*")];
        for (action, resource, within) in [
            ("write", "modbus/pump1/speed", true),
            ("write", "modbus/pump1/speed/max", false),
            ("read", "modbus/meter3/value", true),
            ("read", "modbus/*", true),
            ("read", "modbusses/meter3", false),
            ("write", "modbus/*", false),
            ("erase", "modbus/pump1/speed", false),
        ] {
            assert_eq!(is_within(&right(action, resource), &whole), within, "{action} {resource}");
        }
    }
}
