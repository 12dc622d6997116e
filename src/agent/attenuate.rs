//! Narrowing a credential further.
//!
//! Owns: what may be added to a token, the sibling that this agent makes of a credential of its own, its record.
//! Never: widens anything; narrows for anybody but the holder what this agent made; gives a step a second use; keeps state for
//! a foreign token.
//! Read next: `wire/token.rs`, which builds the blocks.
//!
//! What this agent hands out is sealed, so nobody can append to it. A sibling is made of the same credential in the wallet, with
//! the checks of the one that was shown, and the new ones after them. A step has one use however it is narrowed: its sibling
//! takes its place. A foreign token that is not sealed gets a block, as its holder could add one himself.

use biscuit_auth::builder::BlockBuilder;

use super::attest::selectors;
use super::effects::{Budget, Effects};
use super::introspect::issued_rights;
use super::policy::shown;
use super::request::{Attenuate, AttenuatedReply, Evidence, Origin, Problem, ProblemCode, Reason, Reply};
use super::room::Class;
use super::steps::check_file;
use super::tasks::{check_rights, TTL_MAX};
use super::token::{admit, Denial, Verified};
use super::wallet::{Made, Sibling, StoredStep, StoredTask};
use super::{shorten, Agent, Now};
use crate::ids::BlockId;
use crate::mutant::{active, Mutant};
use crate::time::{Millis, Timestamp};
use crate::wire::audit::{Event, TaskEvent, TaskStep};
use crate::wire::link::Right;
use crate::wire::token::{child_block, covered, further_block, to_text, Held, Reach, StepBlock};
use crate::wire::Refused;

/// The most checks that are added, at once and one after the other.
const CHECKS_MAX: usize = 8;
/// The most bytes of one check.
const CHECK_BYTES_MAX: usize = 512;
/// The most rights of a scope: each is an alternative of one check, whose brackets are counted.
const SCOPE_MAX: usize = 8;
/// The most siblings of one task that have not ended.
const SIBLINGS_MAX: usize = 16;

impl Agent {
    /// Narrows a token.
    pub(super) fn attenuate(&mut self, evidence: &Evidence, ask: &Attenuate, now: Now, effects: &mut Effects) -> Reply {
        if let Err(detail) = check_form(ask) {
            return Reply::Problem(Problem::new(ProblemCode::InvalidRequest, detail));
        }
        let added = match scope_check(&ask.scope) {
            Ok(scope) => ask.checks.iter().cloned().chain(scope).collect::<Vec<_>>(),
            Err(detail) => return Reply::Problem(Problem::new(ProblemCode::InvalidRequest, detail)),
        };
        let ends = ask.ttl_s.map(|ttl| {
            Timestamp::from_secs((self.clock.powered() + Millis::from_secs(ttl.min(TTL_MAX.secs()))).secs_floor())
        });
        let block = match further_block(&added, ends) {
            Ok(block) => block,
            Err(detail) => return Reply::Problem(Problem::new(ProblemCode::InvalidRequest, detail)),
        };
        let verified = match self.verify(&ask.token) {
            Ok(verified) => verified,
            Err(denial) => return Reply::Problem(self.refusal(&denial)),
        };
        match self.wallet.task_of(verified.chain()).cloned() {
            Some(task) => self.attenuate_own(evidence, (ask, &added), (&task, &verified), now, effects),
            None => self.attenuate_foreign(evidence, ask, (block, ends), &verified),
        }
    }

    fn attenuate_foreign(
        &mut self,
        evidence: &Evidence,
        ask: &Attenuate,
        (block, ends): (BlockBuilder, Option<Timestamp>),
        verified: &Verified,
    ) -> Reply {
        let issued: Vec<Right> = issued_rights(verified).collect();
        let usable = || self.check_usable(&ask.scope, &ask.token, verified, &selectors(evidence));
        if let Err(denial) = check_scope(&ask.scope, &issued).and_then(|()| usable()) {
            return Reply::Problem(self.refusal(&denial));
        }
        if verified.token.sealed {
            let detail =
                "the token is sealed, and not by this agent: nobody can narrow it any more; ask for another where it \
                          came from";
            return Reply::Problem(Problem::new(ProblemCode::Refused, detail));
        }
        let bytes = match verified.biscuit.to_vec() {
            Ok(bytes) => bytes,
            Err(error) => {
                return Reply::Problem(
                    self.refusal(&Denial::new(Reason::Malformed, format!("no valid Biscuit: {error}"))),
                )
            }
        };
        let narrowed = Held::from_bytes(&bytes).and_then(|held| held.append(block, &mut self.rng));
        let narrowed = narrowed.and_then(|held| Ok((held.to_bytes()?, held.chain())));
        let (bytes, chain) = match narrowed {
            Ok(narrowed) => narrowed,
            Err(refused) => {
                return Reply::Problem(
                    self.refusal(&Denial::new(Reason::Malformed, format!("cannot be narrowed: {refused}"))),
                )
            }
        };
        // No block of these is this agent's.
        if let Err(denial) = admit(&bytes, &self.profile.verify, &self.trust, |_| false) {
            return Reply::Problem(self.refusal(&denial));
        }
        let end = ends.map_or(verified.claims.expires, |ends| ends.min(verified.claims.expires));
        let left = self.life_left(&end, verified.claims.min_time_class);
        if ends.is_some_and(|ends| ends < self.clock.tightened()) {
            return Reply::Problem(self.refusal(&self.over_at_once()));
        }
        Reply::Attenuated(AttenuatedReply {
            token: to_text(&bytes),
            revocation_id: chain.last().copied().unwrap_or_default(),
            expires_in_s: left.secs(),
            sealed: false,
            task_id: None,
            step_id: None,
        })
    }

    /// No agent counts the life of a token that none made: its end is dated from what is proven, however far the system clock
    /// leads.
    fn over_at_once(&self) -> Denial {
        let hint = self.clock.hinted().unwrap_or_default();
        let explain = format!(
            "a token that lives so long by what is proven here has ended if the system clock is right, which shows {hint}; \
             narrow it without `ttl_s`, or for longer, or let the device reach its fleet"
        );
        Denial::new(Reason::Expired, explain)
    }

    fn attenuate_own(
        &mut self,
        evidence: &Evidence,
        (ask, added): (&Attenuate, &[String]),
        (task, verified): (&StoredTask, &Verified),
        now: Now,
        effects: &mut Effects,
    ) -> Reply {
        self.make_room(now, effects);
        if !self.room().fits(Class::Critical) {
            return Self::audit_problem(Class::Critical);
        }
        let caller = selectors(evidence);
        let step = self.wallet.step_of(verified.chain()).cloned();
        match self.sibling(ask, (task, step.as_ref()), verified, &caller) {
            Ok(made) => self.keep_sibling(made, added, caller, now, effects),
            Err(denial) => {
                if !self.room().fits(Class::Denial) {
                    return Self::audit_problem(Class::Denial);
                }
                let of = self.attenuation(task, step.as_ref(), caller.clone(), TaskStep::Refused);
                let event = TaskEvent { reason: format!("{}: narrowing a credential", denial.reason.name()), ..of };
                self.write(Event::Task(Box::new(event)), Vec::new(), now, effects);
                Reply::Problem(Problem { seen: caller, ..self.refusal(&denial) })
            }
        }
    }

    /// A sibling of a credential of this agent's, or why there is none.
    fn sibling(
        &mut self,
        ask: &Attenuate,
        (task, step): (&StoredTask, Option<&StoredStep>),
        verified: &Verified,
        caller: &[String],
    ) -> Result<Narrower, Denial> {
        self.check_condition()?;
        let judge = self.judge();
        if !active(Mutant::EndedTaskNarrowed) {
            judge.check_alive(verified, Some(task))?;
        }
        let (end, life) = (judge.end_of(verified), judge.life_of(verified));
        let held = match step {
            Some(step) => caller.contains(&step.executor),
            None => task.is_of(caller),
        };
        if !held && !active(Mutant::NarrowedForAnybody) {
            let explain = "the credential was handed to another workload, which alone may have it narrowed";
            return Err(Denial::new(Reason::WrongWorkload, explain));
        }
        let presented = verified.chain().rev().find(|block| self.wallet.made(block)).copied().unwrap_or_default();
        let before = task.siblings.iter().find(|sibling| sibling.made.block == presented);
        let (before, narrower) = match (step, before) {
            (Some(step), _) => (step.checks.as_slice(), step.scope.as_slice()),
            (None, Some(sibling)) => (sibling.checks.as_slice(), sibling.scope.as_slice()),
            (None, None) => (&[][..], &[][..]),
        };
        let rights = step.map_or(&task.rights, |step| &step.rights);
        let widens = active(Mutant::SiblingWidened);
        check_scope(&ask.scope, if narrower.is_empty() || widens { rights } else { narrower })?;
        if !widens {
            self.check_usable(&ask.scope, &ask.token, verified, caller)?;
        }
        // What is left of an earlier scope is in the one that it covers: one check says it all, and stands behind the others.
        let scope = if ask.scope.is_empty() { narrower.to_vec() } else { ask.scope.clone() };
        let scope_check = scope_check(&scope).map_err(|what| Denial::new(Reason::Malformed, what))?;
        let checks: Vec<String> = before.iter().chain(&ask.checks).cloned().collect();
        let all: Vec<String> = checks.iter().cloned().chain(scope_check).collect();
        if all.len() > CHECKS_MAX {
            let explain = format!("a credential is narrowed by at most {CHECKS_MAX} checks, all together");
            return Err(Denial::new(Reason::TooComplex, explain));
        }
        let asked = ask.ttl_s.filter(|_| !active(Mutant::SiblingAsLongAsTask)).map(Millis::from_secs);
        let ends = Timestamp::from_secs(asked.map_or(end, |ttl| self.dated(ttl).min(end)).secs_floor());
        let left = life.map(|life| life.since(self.clock.powered()));
        let life = asked.into_iter().chain(left).min().map(|ttl| self.life(ttl));
        let added = if active(Mutant::SiblingAsWideAsTask) { &[][..] } else { &all };
        let further = further_block(added, Some(ends)).map_err(|what| Denial::new(Reason::Malformed, what))?;
        let base = match step {
            Some(step) => StepBlock {
                task: &task.id,
                step: &step.named.id,
                executor: &step.executor,
                device: &self.device,
                expires: ends,
                rights: &step.rights,
            }
            .build(),
            None => {
                let unbound = active(Mutant::SiblingForAnyWorkload);
                let holder: Vec<&str> = task.holder.iter().filter(|_| !unbound).map(String::as_str).collect();
                let device = (task.origin == Origin::Issued).then_some(&self.device);
                child_block(&holder, task.purpose, device)
            }
        };
        let rng = &mut self.rng;
        let made = base.and_then(|base| Held::from_bytes(&task.token)?.append(base, rng)).and_then(|own| {
            let block = own.chain().last().copied().unwrap_or_default();
            let sealed = own.append(further, rng)?.seal()?;
            Ok((block, sealed.to_bytes()?, sealed.chain()))
        });
        let (block, token, chain) =
            made.map_err(|refused: Refused| Denial::new(Reason::Malformed, format!("cannot be narrowed: {refused}")))?;
        // The block before the last is this agent's.
        self.check_made(&token, &chain[..chain.len().saturating_sub(1)])?;
        let made = Made { block, ends, life };
        let mut task = task.clone();
        task.siblings.retain(|sibling| self.may_live(&sibling.made));
        if task.siblings.len() >= SIBLINGS_MAX && !active(Mutant::SiblingsUnlimited) {
            let explain = format!("a task has at most {SIBLINGS_MAX} narrowed credentials; wait until some end");
            return Err(Denial::new(Reason::Throttled, explain));
        }
        let mut spent = None;
        let mut narrowed = None;
        match step {
            Some(step) => {
                let own = task.steps.iter_mut().find(|own| own.named.id == step.named.id);
                let own = own.ok_or_else(|| Denial::new(Reason::Malformed, "the step is in no task"))?;
                let old = std::mem::replace(&mut own.made, made);
                own.checks = checks;
                own.scope = scope;
                let budget = Budget { block: old.block, used: u64::MAX, until: old.lapses() };
                spent = Some(budget).filter(|_| !active(Mutant::NarrowedStepUsable));
                narrowed = Some(own.clone());
                let step = Some(step.named.id.clone());
                task.siblings.push(Sibling { made: old, step, checks: Vec::new(), scope: Vec::new() });
            }
            None => task.siblings.push(Sibling { made, step: None, checks, scope }),
        }
        check_file(&task)?;
        Ok(Narrower { task, step: narrowed, token, chain, made, spent })
    }

    fn keep_sibling(
        &mut self,
        made: Narrower,
        added: &[String],
        caller: Vec<String>,
        now: Now,
        effects: &mut Effects,
    ) -> Reply {
        let Narrower { task, step, token, chain, made, spent } = made;
        let of = self.attenuation(&task, step.as_ref(), caller, TaskStep::Attenuated);
        let reply = AttenuatedReply {
            token: to_text(&token),
            revocation_id: chain.last().copied().unwrap_or_default(),
            expires_in_s: self.life_left_of(&made, &task.grant).secs(),
            sealed: true,
            task_id: Some(task.id.clone()),
            step_id: step.map(|step| step.named.id),
        };
        let event = TaskEvent { reason: shorten(&added.join("; "), 512), chain, ..of };
        spent.iter().for_each(|budget| self.wallet.restore(*budget));
        self.put_task_file(&task, effects);
        self.wallet.put_task(task);
        // Which blocks are ours is part of what a token was admitted under.
        self.cache.clear();
        self.write(Event::Task(Box::new(event)), spent.into_iter().collect(), now, effects);
        Reply::Attenuated(reply)
    }

    fn attenuation(
        &self,
        task: &StoredTask,
        step: Option<&StoredStep>,
        workload: Vec<String>,
        what: TaskStep,
    ) -> TaskEvent {
        TaskEvent {
            task: Some(task.id.clone()),
            class: task.class.clone(),
            step: what,
            owner: Some(shorten(&task.owner, 256)),
            grant: Some(task.grant),
            workload,
            reason: String::new(),
            chain: Vec::new(),
            of_step: step.map(|step| step.named.clone()),
            initiator: task.initiator(),
        }
    }
}

/// A sibling before its record is written.
struct Narrower {
    task: StoredTask,
    /// The step that it is of, as it is from then on.
    step: Option<StoredStep>,
    token: Vec<u8>,
    chain: Vec<BlockId>,
    made: Made,
    /// The use of the step that it takes the place of.
    spent: Option<Budget>,
}

/// An exchange only narrows.
fn check_scope(scope: &[Right], held: &[Right]) -> Result<(), Denial> {
    let Some(right) = scope.iter().find(|right| !covered(right, held)) else { return Ok(()) };
    let explain = format!(
        "the credential has no right to {} {}: an exchange only narrows",
        shown(&right.action),
        shown(&right.resource)
    );
    Err(Denial::new(Reason::NoRight, explain))
}

/// A check that leaves these rights and no other.
fn scope_check(scope: &[Right]) -> Result<Option<String>, String> {
    if scope.is_empty() {
        return Ok(None);
    }
    if scope.len() > SCOPE_MAX {
        return Err(format!("a scope has at most {SCOPE_MAX} rights: name prefixes, or exchange several times"));
    }
    check_rights(scope)?;
    let one = |right: &Right| {
        let quoted = [&right.action, &right.resource].iter().any(|text| text.contains(['"', '\\']));
        let reach = Reach::of(right).ok().filter(|_| !quoted);
        let reach = reach.ok_or_else(|| format!("no right of a scope: {} {}", right.action, right.resource))?;
        let action = &right.action;
        Ok::<_, String>(match reach {
            Reach::Exactly(resource) => format!("operation(\"{action}\"), resource(\"{resource}\")"),
            Reach::Below(prefix) => {
                format!("operation(\"{action}\"), resource($r), $r.starts_with(\"{prefix}\")")
            }
        })
    };
    let alternatives = scope.iter().map(one).collect::<Result<Vec<_>, _>>()?;
    Ok(Some(format!("check if {}", alternatives.join(" or "))))
}

fn check_form(ask: &Attenuate) -> Result<(), String> {
    if ask.ttl_s.is_none() && ask.checks.is_empty() && ask.scope.is_empty() {
        return Err("nothing to narrow: say to what, by a scope, further checks or a shorter life".into());
    }
    if ask.ttl_s.is_some_and(|ttl| ttl == 0 || ttl > TTL_MAX.secs()) {
        return Err(format!("ttl_s goes from 1 to {}", TTL_MAX.secs()));
    }
    if ask.checks.len() > CHECKS_MAX || ask.checks.iter().any(|check| check.len() > CHECK_BYTES_MAX) {
        return Err(format!("at most {CHECKS_MAX} checks of at most {CHECK_BYTES_MAX} bytes"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
