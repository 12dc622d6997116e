//! What a token is good for, told to an enforcement point (RFC 7662).
//!
//! Owns: for which of a token's rights the whole of it would be allowed now; what is told of it.
//! Never: says of a token that is not good why; tells of more than would be allowed whatever arguments a request brings with
//! it, those that a clause cannot be evaluated for among them.
//! Read next: `decide.rs`, whose road this is but for the question; `shell/http/oauth.rs` for its form.
//!
//! Whoever is told that a token is active lets a request through on that. So the answer is a decision: on record before it is
//! given, and a use of the token.

use std::collections::BTreeSet;

use biscuit_auth::builder::AuthorizerBuilder;

use super::attest::selectors;
use super::decide::{Judge, Judgement, Purpose, Question};
use super::effects::Effects;
use super::preview::ARGUMENTS;
use super::request::{Authorize, Evidence, Introspect, IntrospectedReply, Reason, Reply, TimeClass};
use super::token::{Denial, Kind, Verified};
use super::wallet::StoredTask;
use super::{Agent, Now};
use crate::wire::arguments::ARGUMENTS_MAX;
use crate::wire::biscuit::{Check, Term};
use crate::wire::link::Right;
use crate::wire::policy::RiskLevel;
use crate::wire::token::{Purpose as Held, Reach, INTROSPECT, RESERVED, RIGHTS_MAX};

/// What stands for the resource in the record: which it will be, only the enforcement point knows.
const RESOURCE: &str = "token";
/// The most runs of Datalog for one answer: one for each right, risk and class of time, and each instant that it can be.
const RUNS_MAX: usize = 256;
/// The most facts that a request brings: its arguments, and where its effect goes.
const FACTS_TOLD_MAX: u64 = ARGUMENTS_MAX as u64 + 1;
/// Where one of these comes out, what would have come out was not found.
const UNKNOWN: [Reason; 2] = [Reason::EngineTimeout, Reason::TooComplex];

impl Agent {
    /// Tells what a token is good for.
    pub(super) fn introspect(
        &mut self,
        evidence: &Evidence,
        ask: Introspect,
        now: Now,
        effects: &mut Effects,
    ) -> Reply {
        let Introspect { token, destination } = ask;
        let ask = Authorize {
            token,
            operation: INTROSPECT.into(),
            resource: RESOURCE.into(),
            destination,
            risk: None,
            task: None,
            step: None,
            arguments: None,
        };
        let further = |agent: &mut Self, judgement: &Judgement| agent.scope(evidence, &ask, judgement);
        let decided = match self.decide(evidence, &ask, Purpose::Introspect, further, now, effects) {
            Ok(decided) => decided,
            Err(class) => return Self::audit_problem(class),
        };
        let active = decided.follows.zip(decided.judgement.verified.as_ref());
        let Some((scope, verified)) = active.filter(|_| decided.reason == Reason::Allowed) else {
            return Reply::Introspected(None);
        };
        let judgement = &decided.judgement;
        // Who is told this holds it against a clock that shows what decisions go by.
        let ends = self.latest(judgement.time_class) + judgement.life_left.unwrap_or_default();
        Reply::Introspected(Some(Box::new(IntrospectedReply {
            scope,
            exp: ends.secs_floor(),
            iat: verified.claims.issued.secs_floor(),
            sub: verified.claims.owner.clone(),
            client_id: judgement.workload.first().cloned(),
            aud: verified.claims.audience.clone(),
            jti: verified.chain().last().map(ToString::to_string).unwrap_or_default(),
            device: self.device.clone(),
            task_id: judgement.task.as_ref().map(|task| task.id.clone()),
            step_id: judgement.step.as_ref().map(|step| step.named.id.clone()),
            initiator: judgement.task.as_ref().and_then(StoredTask::initiator),
            decision_id: self.decision_id(decided.audit),
            freshness: judgement.freshness,
        })))
    }

    /// The rights of a token that all of it would be allowed for now: its checks may be narrower than they are.
    ///
    /// # Errors
    /// Why it is good for none of them, or what of all that was tried could not be found out.
    fn scope(&self, evidence: &Evidence, ask: &Authorize, judgement: &Judgement) -> Result<Vec<Right>, Denial> {
        let none = || Denial::new(Reason::NoRight, "of its rights none would be allowed now");
        let verified = judgement.verified.as_ref().ok_or_else(none)?;
        let destination = ask.destination.is_none().then_some("destination");
        let untold: Vec<&str> = ARGUMENTS.into_iter().chain(destination).collect();
        check_turns(verified, &untold)?;
        let unclear = || Denial::new(Reason::TooComplex, "what the policy makes of what is told later is not clear");
        let (rights, narrowed) = self.rights(judgement, verified);
        // What a request brings takes room among the facts of a run.
        let mut profile = self.profile.clone();
        profile.verify.run_facts_max = profile.verify.run_facts_max.saturating_sub(FACTS_TOLD_MAX);
        let mut round = Round {
            judge: Judge { profile: &profile, ..self.judge() },
            authorizer: self.policy.whatever_is_told(&untold).ok_or_else(unclear)?,
            ask,
            enforcer: selectors(evidence),
            judgement,
            verified,
            probes: (self.policy.resources_by_rights && self.knows_no_resource(verified, narrowed))
                .then(|| Probes::of(verified, &rights)),
            runs: RUNS_MAX,
        };
        let mut scope = Vec::with_capacity(rights.len());
        let mut first: Option<Denial> = None;
        for right in &rights {
            match round.check(right) {
                Ok(()) => scope.push(right.clone()),
                Err(denial) if UNKNOWN.contains(&denial.reason) => return Err(denial),
                Err(denial) if first.as_ref().is_none_or(|first| denial.reason < first.reason) => first = Some(denial),
                Err(_) => {}
            }
        }
        if scope.is_empty() {
            return Err(first.unwrap_or_else(none));
        }
        Ok(scope)
    }

    /// The rights that a token has been given: of a step its own, of a task those, of both what an exchange left of them; of one
    /// that no task here is of, what its issuer states. And where the check stands that is no narrower than what is left: its
    /// block and its place in it.
    fn rights(&self, judgement: &Judgement, verified: &Verified) -> (Vec<Right>, Option<(usize, usize)>) {
        let blocks = &verified.token.blocks;
        let last = blocks.iter().rposition(|block| self.wallet.made(&block.id));
        let presented = last.and_then(|last| blocks.get(last)).map(|block| block.id);
        let (rights, checks, scope) = match (&judgement.task, &judgement.step) {
            (_, Some(step)) => (&step.rights, &step.checks, &step.scope),
            (Some(task), None) => match task.purpose {
                // A planner's is good for nothing that an enforcement point guards.
                Held::Plan => return (Vec::new(), None),
                Held::Work => match task.siblings.iter().find(|sibling| Some(sibling.made.block) == presented) {
                    Some(sibling) => (&task.rights, &sibling.checks, &sibling.scope),
                    None => return (task.rights.clone(), None),
                },
            },
            (None, None) => return (issued_rights(verified).take(RIGHTS_MAX).collect(), None),
        };
        if scope.is_empty() {
            return (rights.clone(), None);
        }
        (scope.clone(), last.map(|last| (last + 1, checks.len())))
    }

    /// Whether a credential can be used for all of a scope that its rights cover, as far as its checks on what is done and to
    /// what can tell: what is claimed to be its scope then is.
    pub(super) fn check_usable(
        &self,
        scope: &[Right],
        token: &str,
        verified: &Verified,
        caller: &[String],
    ) -> Result<(), Denial> {
        let judge = self.judge();
        for right in scope {
            let mut question = Question {
                token,
                operation: &right.action,
                resource: "",
                destination: None,
                risk: None,
                task: None,
                step: None,
                arguments: Ok(None),
                workload: Some(caller),
                enforcer: None,
                purpose: Purpose::Preview,
            };
            let found = judge.found(&question, Some(verified));
            let (rights, narrowed) = self.rights(&found, verified);
            let reach = Reach::of(right).map_err(|refused| Denial::new(Reason::Malformed, refused.to_string()))?;
            let resource = match reach {
                Reach::Exactly(resource) => resource.to_owned(),
                Reach::Below(prefix) => {
                    let probes = self.knows_no_resource(verified, narrowed).then(|| Probes::of(verified, &rights));
                    probes.and_then(|probes| probes.below(prefix)).ok_or_else(in_part)?
                }
            };
            question.resource = &resource;
            judge.check_usable(&question, verified, &found)?;
        }
        Ok(())
    }

    /// Whether nothing of a token asks about the resource but the rights themselves and the checks that are as wide as they. Then
    /// one resource stands for all that lie below a prefix, as far as the policy has it so too.
    fn knows_no_resource(&self, verified: &Verified, narrowed: Option<(usize, usize)>) -> bool {
        let blocks = || verified.token.blocks.iter().enumerate();
        let has_rules = blocks().any(|(_, block)| !block.rule_heads.is_empty());
        let asks = blocks().filter(|(_, block)| !self.wallet.made(&block.id)).any(|(number, block)| {
            block.checks.iter().enumerate().any(|(place, check)| match check {
                Check::Other(asks) => narrowed != Some((number, place)) && asks.iter().any(|asked| asked == "resource"),
                Check::Time(_) => false,
            })
        });
        !has_rules && !asks
    }
}

/// Nothing of a token may turn against what it lets pass once these facts are told.
fn check_turns(verified: &Verified, untold: &[&str]) -> Result<(), Denial> {
    if untold.iter().any(|name| verified.token.turned_by.contains(*name)) {
        let explain =
            "a rule, a `reject if`, a `check all` or an alternative before others of the token rests on what only a \
                       request tells";
        return Err(Denial::new(Reason::CheckFailed, explain));
    }
    Ok(())
}

/// One after the other, the rights of a token.
struct Round<'a> {
    judge: Judge<'a>,
    /// The policy, as it decides whatever is told later.
    authorizer: AuthorizerBuilder,
    ask: &'a Authorize,
    enforcer: Vec<String>,
    judgement: &'a Judgement,
    verified: &'a Verified,
    /// Where one resource stands for all below a prefix: which.
    probes: Option<Probes>,
    /// How many runs may follow.
    runs: usize,
}

impl Round<'_> {
    /// Whether all that a right covers would be allowed.
    fn check(&mut self, right: &Right) -> Result<(), Denial> {
        let action = right.action.as_str();
        let policy = self.judge.policy;
        let claimed = self.verified.claims.min_time_class.unwrap_or(TimeClass::Floor);
        let unclear = |refused| Denial::new(Reason::Malformed, format!("a right of the token is none: {refused}"));
        if action.starts_with(RESERVED) {
            return Err(Denial::new(Reason::NoRight, "operations that begin with `hardtack:` are the agent's own"));
        }
        match Reach::of(right).map_err(unclear)? {
            Reach::Exactly(resource) => {
                let risk = policy.document.risk_of(action, resource, None);
                self.ask(action, resource, risk, self.judge.time_class(action, resource, Some(claimed)))
            }
            Reach::Below(prefix) => {
                let Some(resource) = self.probes.as_ref().and_then(|probes| probes.below(prefix)) else {
                    return Err(in_part());
                };
                let times: BTreeSet<TimeClass> = policy.document.time_classes_below(action, prefix);
                let times: BTreeSet<TimeClass> = times.into_iter().map(|class| class.max(claimed)).collect();
                let risks = policy.document.risks_below(action, prefix);
                for (class, risk) in times.iter().flat_map(|class| risks.iter().map(move |risk| (*class, *risk))) {
                    self.ask(action, &resource, Some(risk), class)?;
                }
                Ok(())
            }
        }
    }

    fn ask(
        &mut self,
        operation: &str,
        resource: &str,
        risk: Option<&RiskLevel>,
        time_class: TimeClass,
    ) -> Result<(), Denial> {
        let question = Question {
            token: &self.ask.token,
            operation,
            resource,
            destination: self.ask.destination.as_deref(),
            risk,
            task: None,
            step: None,
            arguments: Ok(None),
            workload: None,
            enforcer: Some(&self.enforcer),
            purpose: Purpose::Introspect,
        };
        let so_far = Judgement { time_class, ..self.judgement.clone() };
        self.judge.check_use(&self.authorizer, &question, self.verified, &so_far, &mut self.runs)
    }
}

/// What stands for every resource below a prefix.
struct Probes {
    /// What the token says, of which none may be about the one that stands for all.
    said: Vec<String>,
}

impl Probes {
    fn of(verified: &Verified, rights: &[Right]) -> Self {
        let facts = verified.token.blocks.iter().flat_map(|block| &block.facts);
        let texts = facts.flat_map(|fact| &fact.terms).filter_map(Term::text).map(str::to_owned);
        Self { said: texts.chain(rights.iter().map(|right| right.resource.clone())).collect() }
    }

    /// One that is covered by nothing that does not cover all of them.
    fn below(&self, prefix: &str) -> Option<String> {
        let names = std::iter::once(RESOURCE.to_owned()).chain(('a'..='z').map(String::from));
        let mut probes = names.map(|name| format!("{prefix}{name}"));
        let covers = |said: &String, probe: &str| said.len() > prefix.len() && probe.starts_with(said.as_str());
        probes.find(|probe| !self.said.iter().any(|said| covers(said, probe)))
    }
}

fn in_part() -> Denial {
    let explain =
        "what is below a prefix may be allowed in part: a check or a policy asks about the resource; name resources";
    Denial::new(Reason::NoRight, explain)
}

/// The rights that block 0 of a task's token states.
pub(super) fn issued_rights(verified: &Verified) -> impl Iterator<Item = Right> + '_ {
    let is_task = verified.claims.kind == Kind::Task;
    let facts = verified.token.blocks.first().filter(|_| is_task).into_iter().flat_map(|block| &block.facts);
    facts.filter_map(|fact| match (fact.name.as_str(), fact.terms.as_slice()) {
        ("right", [Term::Text(resource), Term::Text(action)]) => {
            Some(Right { resource: resource.clone(), action: action.clone() })
        }
        ("right_prefix", [Term::Text(prefix), Term::Text(action)]) => {
            Some(Right { resource: format!("{prefix}*"), action: action.clone() })
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests;
