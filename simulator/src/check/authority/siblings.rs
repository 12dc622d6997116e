//! I6 of what agents narrow: for its holder, to no more than it was made of, for no longer, and not after its task.
//!
//! Owns: what narrowing must not give, and what a narrowed credential must not do; the floor on narrowings.
//! Never: asks an agent what is left. What was promised is what was asked for, within what was shown.
//! Read next: `workload/narrowed.rs`, which asks.

use std::collections::BTreeMap;
use std::fmt;

use hardtack::agent::request::{DecisionReply, Reason, Verdict};
use hardtack::ids::{DeviceId, TaskId};
use hardtack::time::{Millis, Timestamp};
use hardtack::wire::link::Right;
use hardtack::wire::policy::TimeClass;

use super::steps::is_within;
use super::{AuthorityCheck, Judge, Moment, Presented, Quiet, FLOOR_FROM, FLOOR_PERCENT};
use crate::check::{Id, Tally};
use crate::model::{Credential, Narrowed, Role, Standing, SLACK};
use crate::plan::TokenChoice;

/// So many narrowed credentials of one task may be good at once.
pub(crate) const SIBLINGS_MAX: usize = 16;

/// What somebody asked to have narrowed, and to what.
#[derive(Debug, Clone)]
pub(crate) struct Narrow {
    /// The credential that was shown,
    pub(crate) of: usize,
    /// by whose user,
    pub(crate) uid: u32,
    /// to be good for these rights alone, if it says so,
    pub(crate) scope: Vec<Right>,
    /// for this operation alone, if it says so,
    pub(crate) only: Option<String>,
    /// and for so many milliseconds, if it says so.
    pub(crate) ttl: Option<u64>,
}

/// A credential that was narrowed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Narrower {
    /// For how long it is, in seconds.
    pub(crate) expires_in_s: u64,
    /// The date in it from which on it is refused.
    pub(crate) ends: Timestamp,
}

/// What was shown to be narrowed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shown<'a> {
    /// The credential.
    pub(crate) credential: &'a Credential,
    /// What it may do.
    pub(crate) rights: &'a [Right],
    /// How it stands, as what it was made of has it too.
    pub(crate) standing: Standing,
    /// How many that were narrowed of its task are good by themselves.
    pub(crate) siblings: usize,
}

/// Narrowings that nothing spoke against, and how many of them gave a credential.
#[derive(Debug, Clone, Default)]
pub(super) struct Narrowings {
    fair: u64,
    given: u64,
    /// How often each task's credentials were to be narrowed.
    asked: BTreeMap<TaskId, usize>,
}

impl Narrowings {
    /// In the end: most of what nothing spoke against was given.
    pub(super) fn finish(&self, tally: &mut Tally, at: u64) {
        let Self { fair, given, .. } = self;
        if *fair >= FLOOR_FROM && given * 100 < fair * FLOOR_PERCENT {
            tally.broken(Id::Available, at, format!("of {fair} good narrowings {given} gave a credential"));
        }
    }
}

impl Narrow {
    /// What is left of these rights.
    pub(crate) fn left(&self, held: &[Right]) -> Vec<Right> {
        let of = if self.scope.is_empty() { held } else { &self.scope };
        of.iter().filter(|right| self.only.as_ref().is_none_or(|only| right.action == *only)).cloned().collect()
    }

    /// Why it must give nothing, whatever the time is and whatever is revoked, if so.
    fn wrong(&self, of: &Shown<'_>) -> Option<String> {
        if self.uid != of.credential.uid {
            return Some(format!("user {} asked, and the credential is of user {}", self.uid, of.credential.uid));
        }
        let wide = self.scope.iter().find(|right| !is_within(right, of.rights))?;
        Some(format!("it is to {} {}, which the credential may not", wide.action, wide.resource))
    }
}

impl fmt::Display for Narrow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rights = self.scope.iter().map(|right| format!("{} {}", right.action, right.resource));
        let only = self.only.iter().map(|only| format!("{only} alone"));
        let ttl = self.ttl.iter().map(|ttl| format!("{ttl} ms"));
        f.write_str(&rights.chain(only).chain(ttl).collect::<Vec<_>>().join(", "))
    }
}

impl AuthorityCheck {
    /// A credential of a task is to be narrowed.
    pub(crate) fn narrowing_asked(&mut self, task: &TaskId) {
        *self.narrowings.asked.entry(task.clone()).or_default() += 1;
    }

    /// A narrowing was answered in time: with a credential, or with a refusal of this name.
    pub(crate) fn narrowed(
        &mut self,
        tally: &mut Tally,
        moment: &Moment,
        name: &DeviceId,
        (narrow, of): (&Narrow, &Shown<'_>),
        answer: Result<Narrower, &str>,
    ) {
        let (given, credential) = (answer.ok(), of.credential);
        let id = format!("{name} narrowed a credential of task {}", credential.task);
        let mut judge = Judge { tally, at: moment.at, allowed: given.is_some(), id };
        let wrong = narrow.wrong(of);
        if let Some(how) = &wrong {
            judge.tried(Id::OnlyNarrowerSibling, || how.clone());
        }
        if let Some(given) = given {
            let late = given.ends > credential.ends || narrow.ttl.is_some_and(|ttl| given.expires_in_s * 1000 > ttl);
            let how = || format!("it ends {}, in {} s, to be {narrow}", given.ends, given.expires_in_s);
            judge.tally.tried(Id::OnlyNarrowerSibling, moment.at, late.then(how));
        }
        if of.siblings >= SIBLINGS_MAX && !matches!(credential.role, Role::Step(_)) {
            judge
                .tried(Id::OnlyNarrowerSibling, || format!("{} that are good were narrowed of it before", of.siblings));
        }
        let known = &self.known[moment.device as usize];
        if known.must_lock {
            judge.tried(Id::Detected, || "it had lost both slots of its anchor".into());
        }
        if credential.finished.is_some_and(|finished| !known.forgiven.undoes(finished)) {
            judge.tried(Id::OnlyNarrowerSibling, || "its task had ended".into());
        }
        self.check_life(&mut judge, moment, TimeClass::Bounded, credential);
        self.check_box(&mut judge, moment, credential);
        self.check_revocation(&mut judge, moment, name, credential);
        let presented = narrow.presented();
        let said = answer.err().unwrap_or_default();
        let asked = self.narrowings.asked.get(&credential.task).copied().unwrap_or_default();
        let excused = (said == Reason::Throttled.name() && asked > SIBLINGS_MAX)
            || said == Reason::AuditFull.name()
            || (said == Reason::Locked.name() && known.may_lock.at(moment.at));
        let good = wrong.is_none() && of.standing == Standing::Good && !excused;
        if !good || !self.is_fair(moment, &presented, credential) {
            return;
        }
        self.narrowings.fair += 1;
        self.narrowings.given += u64::from(given.is_some());
        if moment.quiet == Quiet::Yes {
            let how = || format!("{name} did not narrow a good credential to {narrow}: {said}");
            tally.tried(Id::Available, moment.at, given.is_none().then(how));
        }
    }

    /// A decision on a narrowed credential of `task` reached its caller.
    pub(crate) fn sibling(
        &self,
        tally: &mut Tally,
        moment: &Moment,
        name: &DeviceId,
        presented: &Presented,
        (credential, task): (&Credential, Option<&Credential>),
        reply: &DecisionReply,
    ) {
        let (Role::Narrowed(Narrowed { rights, .. }), Some(task)) = (&credential.role, task) else { return };
        let allowed = reply.decision == Verdict::Allow;
        let mut judge = Judge { tally, at: moment.at, allowed, id: format!("{name} allowed {}", reply.decision_id) };
        let known = &self.known[moment.device as usize];
        if presented.uid != credential.uid {
            let (uid, own) = (presented.uid, credential.uid);
            judge.tried(Id::OnlyNarrowerSibling, || format!("user {uid}, and it was narrowed for user {own}"));
        }
        let (action, resource) = (presented.operation.clone(), presented.resource.clone());
        if !is_within(&Right { action, resource }, rights) {
            let (operation, resource) = (&presented.operation, &presented.resource);
            judge.tried(Id::OnlyNarrowerSibling, || format!("{operation} on {resource}, narrowed to {rights:?}"));
        }
        let ended = task.finished.is_some_and(|finished| !known.forgiven.undoes(finished));
        let over = task.ends + Millis(SLACK) < moment.know.proven;
        if ended || over {
            judge.tried(Id::OnlyNarrowerSibling, || format!("its task {} had ended", task.task));
        }
        if task.allows >= task.uses && !known.unboxed.covers(task.issued) {
            judge.tried(Id::MonotoneBudget, || format!("the {} uses of its task {} were spent", task.uses, task.task));
        }
    }
}

impl Narrow {
    /// As if something was asked for that has no risk.
    fn presented(&self) -> Presented {
        Presented {
            choice: TokenChoice::Valid,
            credential: Some(self.of),
            narrowing: None,
            uid: self.uid,
            risk: String::new(),
            class: TimeClass::Bounded,
            operation: String::new(),
            resource: String::new(),
            forbidden: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_the_scope_or_what_was_held_and_of_that_one_operation() {
        let right = |action: &str, resource: &str| Right { action: action.into(), resource: resource.into() };
        let held = [right("write", "modbus/pump1/speed"), right("read", "modbus/*")];
        let narrow = Narrow { of: 0, uid: 1001, scope: Vec::new(), only: None, ttl: Some(5000) };
        assert_eq!(narrow.left(&held), held);
        let read = Narrow { only: Some("read".into()), ..narrow.clone() };
        assert_eq!(read.left(&held), [right("read", "modbus/*")]);
        let one = Narrow { scope: vec![right("read", "modbus/meter3/value")], ..narrow };
        assert_eq!(one.left(&held), one.scope);
    }
}
