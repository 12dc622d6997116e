//! What would be decided if it were asked: for lists that show only what their reader may use.
//!
//! Owns: the same road as a decision's, without its end.
//! Never: charges a use, keeps a record or permits anything. A check that rests on arguments, which only a call has, does not
//! speak against showing what can be called.
//! Read next: `decide.rs`, `evaluate.rs`.

use biscuit_auth::error::{FailedCheck, Logic, MatchedPolicy, Token as TokenError};

use super::attest::selectors;
use super::decide::{Purpose, Question};
use super::request::preview::{Preview, PreviewAnswer, PreviewReply, QUESTIONS_MAX};
use super::request::{Evidence, Problem, ProblemCode, Reason, Reply, Socket};
use super::token::{Cache, Verified};
use super::Agent;
use crate::wire::biscuit::Check;

/// The facts that say what a call brings with it.
const ARGUMENTS: [&str; 3] = ["argument", "argument_null", "argument_size"];

impl Agent {
    /// How each question would be decided now.
    pub(super) fn preview(&mut self, evidence: &Evidence, ask: &Preview) -> Reply {
        if ask.questions.is_empty() || ask.questions.len() > QUESTIONS_MAX {
            let detail = format!("a preview has 1 to {QUESTIONS_MAX} questions");
            return Reply::Problem(Problem::new(ProblemCode::InvalidRequest, detail));
        }
        let peer = selectors(evidence);
        let is_workload = evidence.socket == Socket::Agent;
        let mut cache = std::mem::replace(&mut self.cache, Cache::new(0));
        let judge = self.judge();
        let mut answers = Vec::with_capacity(ask.questions.len());
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
            let reason =
                judge.judge(&question, &mut cache).verdict.map_or_else(|denial| denial.reason, |_| Reason::Allowed);
            answers.push(PreviewAnswer { allowed: reason == Reason::Allowed, reason });
        }
        self.cache = cache;
        Reply::Previewed(PreviewReply { answers })
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

    #[test]
    fn a_preview_says_what_a_decision_would_and_leaves_no_trace() {
        let mut rig = Rig::new();
        let token = rig.begin(vec![right("modbus/*", "read")], Some(1)).token;
        let before = rig.disk.records().len();
        for _ in 0..3 {
            let seen = asks(&mut rig, 1001, &token, &["modbus/pump1", "valve/1", "modbus/../valve"]);
            assert_eq!(seen, [Reason::Allowed, Reason::NoRight, Reason::Malformed]);
        }
        assert_eq!(asks(&mut rig, 1002, &token, &["modbus/pump1"]), [Reason::WrongWorkload]);
        assert_eq!(asks(&mut rig, 1001, "AAAA", &["modbus/pump1"]), [Reason::Malformed]);
        assert_eq!(rig.disk.records().len(), before);
        assert_eq!(rig.authorize(&token, "read", "modbus/pump1").reason, Reason::Allowed, "its one use is there still");
        assert_eq!(asks(&mut rig, 1001, &token, &["modbus/pump1"]), [Reason::UsesSpent]);
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
