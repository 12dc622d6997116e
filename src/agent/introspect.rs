//! What a token is good for, told to an enforcement point (RFC 7662).
//!
//! Owns: for which of a token's rights the whole of it would be allowed now; what is told of it.
//! Never: says of a token that is not good why; tells of more than would be allowed.
//! Read next: `decide.rs`, whose road this is but for the question; `shell/http/oauth.rs` for its form.
//!
//! Whoever is told that a token is active lets a request through on that. So the answer is a decision: on record before it is
//! given, and a use of the token.

use super::decide::{Judgement, Purpose, Question};
use super::effects::Effects;
use super::request::{Authorize, Evidence, IntrospectedReply, Reason, Reply};
use super::token::{Denial, Kind, Verified};
use super::wallet::{StoredStep, StoredTask};
use super::{Agent, Now};
use crate::wire::biscuit::Term;
use crate::wire::link::Right;
use crate::wire::token::{Purpose as Held, Reach, INTROSPECT, RIGHTS_MAX};

/// What stands for the resource in the record: which it will be, only the enforcement point knows.
const RESOURCE: &str = "token";

impl Agent {
    /// Tells what a token is good for.
    pub(super) fn introspect(&mut self, evidence: &Evidence, token: String, now: Now, effects: &mut Effects) -> Reply {
        let ask = Authorize {
            token,
            operation: INTROSPECT.into(),
            resource: RESOURCE.into(),
            destination: None,
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
        let ends = judgement.ends.unwrap_or(verified.claims.expires);
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
    fn scope(&self, evidence: &Evidence, ask: &Authorize, judgement: &Judgement) -> Result<Vec<Right>, Denial> {
        let none = || Denial::new(Reason::NoRight, "of its rights none would be allowed now");
        let verified = judgement.verified.as_ref().ok_or_else(none)?;
        let peer = super::attest::selectors(evidence);
        let judge = self.judge();
        let level = self.policy.document.risk_of(&ask.operation, &ask.resource, None);
        let mut scope = rights(judgement.task.as_ref(), judgement.step.as_ref(), verified);
        scope.retain(|right| {
            // Of a prefix one resource below it stands for all. Where a check makes it narrower, that is not told as a right.
            let resource = match Reach::of(right) {
                Ok(Reach::Below(prefix)) => format!("{prefix}{RESOURCE}"),
                Ok(Reach::Exactly(resource)) => resource.to_owned(),
                Err(_) => return false,
            };
            let question = Question {
                token: &ask.token,
                operation: &right.action,
                resource: &resource,
                destination: None,
                risk: level,
                task: None,
                step: None,
                arguments: Ok(None),
                workload: None,
                enforcer: Some(&peer),
                purpose: Purpose::Use,
            };
            judge.evaluate(&question, verified, judgement).is_ok()
        });
        (!scope.is_empty()).then_some(scope).ok_or_else(none)
    }
}

/// The rights that a token has been given: of a step its own, of a task those; of one that no task here is of, what its issuer
/// states.
fn rights(task: Option<&StoredTask>, step: Option<&StoredStep>, verified: &Verified) -> Vec<Right> {
    match (task, step) {
        (_, Some(step)) => step.rights.clone(),
        // A planner's is good for nothing that an enforcement point guards.
        (Some(task), None) => match task.purpose {
            Held::Plan => Vec::new(),
            Held::Work => task.rights.clone(),
        },
        (None, None) if verified.claims.kind == Kind::Grant => Vec::new(),
        (None, None) => {
            let facts = verified.token.blocks.first().into_iter().flat_map(|block| &block.facts);
            let right = facts.filter_map(|fact| match (fact.name.as_str(), fact.terms.as_slice()) {
                ("right", [Term::Text(resource), Term::Text(action)]) => {
                    Some(Right { resource: resource.clone(), action: action.clone() })
                }
                ("right_prefix", [Term::Text(prefix), Term::Text(action)]) => {
                    Some(Right { resource: format!("{prefix}*"), action: action.clone() })
                }
                _ => None,
            });
            right.take(RIGHTS_MAX).collect()
        }
    }
}

#[cfg(test)]
mod tests;
