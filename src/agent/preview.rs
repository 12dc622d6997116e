//! What would be decided if it were asked: for lists that show only what their reader may use.
//!
//! Owns: the same road as a decision's, without its end; the record of who asks about what is not his.
//! Never: charges a use or permits anything. A check that rests on arguments, which only a call has, does not
//! speak against showing what can be called.
//! Read next: `decide.rs`, `evaluate.rs`.

use biscuit_auth::error::{FailedCheck, Logic, MatchedPolicy, Token as TokenError};

use super::attest::selectors;
use super::decide::{Judgement, Purpose, Question};
use super::effects::Effects;
use super::request::preview::{Preview, PreviewAnswer, PreviewReply, QUESTIONS_MAX};
use super::request::{Authorize, Evidence, Problem, ProblemCode, Reason, Reply, Socket};
use super::room::Class;
use super::token::{Cache, Verified};
use super::{Agent, Now};
use crate::wire::biscuit::Check;
use crate::wire::token::PREVIEW;

/// The facts that say what a call brings with it.
pub(super) const ARGUMENTS: [&str; 3] = ["argument", "argument_null", "argument_size"];

/// What stands for the resources in the record of a preview.
const RESOURCE: &str = "token";

impl Agent {
    /// How each question would be decided now. Who holds a credential of this agent may ask without a trace; whoever else does
    /// is on record, and of what was handed to another workload hears nothing but that.
    pub(super) fn preview(&mut self, evidence: &Evidence, ask: &Preview, now: Now, effects: &mut Effects) -> Reply {
        if ask.questions.is_empty() || ask.questions.len() > QUESTIONS_MAX {
            let detail = format!("a preview has 1 to {QUESTIONS_MAX} questions");
            return Reply::Problem(Problem::new(ProblemCode::InvalidRequest, detail));
        }
        let peer = selectors(evidence);
        let is_workload = evidence.socket == Socket::Agent;
        let mut cache = std::mem::replace(&mut self.cache, Cache::new(0));
        let judge = self.judge();
        let mut answers = Vec::with_capacity(ask.questions.len());
        let mut judged: Option<Judgement> = None;
        for asked in &ask.questions {
            let question = Question {
                token: &ask.token,
                operation: &asked.operation,
                resource: &asked.resource,
                destination: None,
                risk: self.policy.document.risk_of(&asked.operation, &asked.resource, None),
                task: None,
                step: None,
                arguments: Ok(None),
                workload: is_workload.then_some(peer.as_slice()),
                enforcer: (!is_workload).then_some(peer.as_slice()),
                purpose: Purpose::Preview,
            };
            let judgement = judge.judge(&question, &mut cache);
            let reason = judgement.verdict.as_ref().map_or_else(|denial| denial.reason, |_| Reason::Allowed);
            answers.push(PreviewAnswer { allowed: reason == Reason::Allowed, reason });
            judged.get_or_insert(judgement);
        }
        self.cache = cache;
        let Some(judgement) = judged else { return Reply::Previewed(PreviewReply { answers }) };
        let holds = is_workload.then(|| holds(&peer, &judgement)).flatten();
        if holds == Some(false) {
            answers.fill(PreviewAnswer { allowed: false, reason: Reason::WrongWorkload });
        }
        if holds != Some(true) {
            self.make_room(now, effects);
            if !self.room().fits(Class::Denial) {
                return Self::audit_problem(Class::Denial);
            }
            // It permits nothing, so that no allow is in its record.
            let denied = answers.iter().map(|answer| answer.reason).filter(|reason| *reason != Reason::Allowed).min();
            let recorded = Authorize {
                token: ask.token.clone(),
                operation: PREVIEW.into(),
                resource: RESOURCE.into(),
                destination: None,
                risk: None,
                task: None,
                step: None,
                arguments: None,
            };
            let reason = denied.unwrap_or(Reason::NoRight);
            self.record_denied(evidence, &recorded, (&judgement, reason), now, effects);
        }
        Reply::Previewed(PreviewReply { answers })
    }
}

/// Whether a workload holds the credential of this agent that it shows; none if it shows none, which is whoever's has it.
fn holds(peer: &[String], judgement: &Judgement) -> Option<bool> {
    match (&judgement.step, &judgement.task) {
        (Some(step), _) => Some(peer.contains(&step.executor)),
        (None, Some(task)) => Some(task.is_of(peer)),
        (None, None) => None,
    }
}

/// The policy that would allow, if an evaluation failed for nothing but what a question without arguments cannot say.
pub(super) fn left_open(error: &TokenError, verified: &Verified) -> Option<usize> {
    let TokenError::FailedLogic(Logic::Unauthorized { policy: MatchedPolicy::Allow(place), checks }) = error else {
        return None;
    };
    let rests_on_arguments = |check: &FailedCheck| match check {
        FailedCheck::Authorizer(check) => ARGUMENTS.iter().any(|name| check.rule.contains(&format!("{name}("))),
        FailedCheck::Block(failed) => {
            let block = verified.token.blocks.get(failed.block_id as usize);
            match block.and_then(|block| block.checks.get(failed.check_id as usize)) {
                Some(Check::Other(asks)) => asks.iter().any(|asked| ARGUMENTS.contains(&asked.as_str())),
                Some(Check::Time(_)) | None => false,
            }
        }
    };
    checks.iter().all(rests_on_arguments).then_some(*place)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::request::preview::PreviewQuestion;
    use crate::agent::request::{Attenuate, Request};
    use crate::agent::rig::{right, Rig};
    use crate::wire::audit::{Event, Record};

    fn asks(rig: &mut Rig, uid: u32, token: &str, resources: &[&str]) -> Vec<Reason> {
        let question = |resource: &&str| PreviewQuestion { operation: "read".into(), resource: (*resource).into() };
        let ask = Preview { token: token.into(), questions: resources.iter().map(question).collect() };
        match rig.ask(uid, Socket::Agent, Request::Preview(ask)) {
            Reply::Previewed(reply) => reply.answers.iter().map(|answer| answer.reason).collect(),
            other => panic!("no preview: {other:?}"),
        }
    }

    fn narrowed(rig: &mut Rig, token: &str, check: &str) -> String {
        let attenuate = Attenuate { token: token.into(), ttl_s: None, checks: vec![check.into()], scope: Vec::new() };
        match rig.ask(1001, Socket::Agent, Request::Attenuate(attenuate)) {
            Reply::Attenuated(reply) => reply.token,
            other => panic!("not narrowed: {other:?}"),
        }
    }

    /// The decisions that were recorded after a place: operation, reason, whether it allows.
    fn recorded(rig: &Rig, from: usize) -> Vec<(String, String, bool)> {
        let decision = |record: Record| match record.event {
            Event::Decision(decision) => Some((decision.operation, decision.reason, decision.allow)),
            _ => None,
        };
        rig.disk.records().into_iter().skip(from).filter_map(decision).collect()
    }

    #[test]
    fn a_preview_says_what_a_decision_would_and_leaves_no_trace() {
        let mut rig = Rig::new();
        let token = rig.begin(vec![right("modbus/*", "read")], Some(1)).token;
        let before = rig.disk.records().len();
        for _ in 0..3 {
            let seen = asks(&mut rig, 1001, &token, &["modbus/pump1", "valve/1", "modbus/../valve"]);
            assert_eq!(seen, [Reason::Allowed, Reason::NoRight, Reason::Malformed]);
        }
        assert_eq!(rig.disk.records().len(), before);
        assert_eq!(rig.authorize(&token, "read", "modbus/pump1").reason, Reason::Allowed, "its one use is there still");
        assert_eq!(asks(&mut rig, 1001, &token, &["modbus/pump1"]), [Reason::UsesSpent]);
    }

    #[test]
    fn who_asks_about_the_credential_of_another_is_on_record_and_hears_nothing_of_it() {
        let mut rig = Rig::new();
        let begun = rig.begin(vec![right("modbus/*", "read")], None);
        let before = rig.disk.records().len();
        let all = ["modbus/pump1", "valve/1", "modbus/../valve"];
        assert_eq!(asks(&mut rig, 1002, &begun.token, &all), [Reason::WrongWorkload; 3]);
        rig.ask(1001, Socket::Agent, Request::Finish(begun.task_id));
        assert_eq!(asks(&mut rig, 1001, &begun.token, &all[..1]), [Reason::Revoked], "its holder hears what is wrong");
        assert_eq!(asks(&mut rig, 1002, &begun.token, &all[..1]), [Reason::WrongWorkload], "nobody else does");
        assert_eq!(asks(&mut rig, 1002, "AAAA", &all[..1]), [Reason::Malformed]);
        let found = recorded(&rig, before);
        let denied = |reason: &str| (PREVIEW.to_owned(), reason.to_owned(), false);
        assert_eq!(found, [denied("wrong_workload"), denied("wrong_workload"), denied("malformed")]);
        // Above the rate of denials that are the same they are counted.
        let before = rig.disk.records().len();
        for _ in 0..50 {
            asks(&mut rig, 1002, "AAAA", &all[..1]);
        }
        assert!(recorded(&rig, before).len() < 50, "{}", recorded(&rig, before).len());
    }

    #[test]
    fn what_an_enforcement_point_previews_is_on_record_as_no_permission() {
        let mut rig = Rig::new();
        let token = rig.begin(vec![right("modbus/*", "read")], Some(1)).token;
        let before = rig.disk.records().len();
        let question = |resource: &str| PreviewQuestion { operation: "read".into(), resource: resource.into() };
        let ask = Preview { token: token.clone(), questions: vec![question("modbus/a"), question("modbus/b")] };
        let Reply::Previewed(reply) = rig.ask(33, Socket::Pep, Request::Preview(ask)) else { panic!("no preview") };
        assert!(reply.answers.iter().all(|answer| answer.allowed), "{reply:?}");
        assert_eq!(recorded(&rig, before), [(PREVIEW.to_owned(), "no_right".to_owned(), false)]);
        assert_eq!(rig.authorize(&token, "read", "modbus/a").reason, Reason::Allowed, "it was no use");
    }

    #[test]
    fn only_checks_on_arguments_are_left_open() {
        let mut rig = Rig::new();
        let token = rig.begin(vec![right("modbus/*", "read")], None).token;
        for (check, expected) in [
            (r#"check if argument("path", $p), $p.starts_with("/srv/")"#, Reason::Allowed),
            (r#"check if resource("modbus/b")"#, Reason::CheckFailed),
            (r#"check if resource("modbus/a")"#, Reason::Allowed),
        ] {
            let narrow = narrowed(&mut rig, &token, check);
            assert_eq!(asks(&mut rig, 1001, &narrow, &["modbus/a"]), [expected], "{check}");
        }
        let narrow = narrowed(&mut rig, &token, r#"check if argument("path", "/srv/a")"#);
        assert_eq!(
            asks(&mut rig, 1001, &narrow, &["valve/1"]),
            [Reason::CheckFailed],
            "hidden where the right is missing as well"
        );
        assert_eq!(rig.authorize(&narrow, "read", "modbus/a").reason, Reason::CheckFailed);
    }

    #[test]
    fn a_preview_has_a_bounded_number_of_questions() {
        let mut rig = Rig::new();
        for count in [0, QUESTIONS_MAX + 1] {
            let question = PreviewQuestion { operation: "read".into(), resource: "modbus/a".into() };
            let ask = Preview { token: String::new(), questions: vec![question; count] };
            let reply = rig.ask(1001, Socket::Agent, Request::Preview(ask));
            assert!(matches!(reply, Reply::Problem(Problem { code: ProblemCode::InvalidRequest, .. })), "{reply:?}");
        }
    }
}
