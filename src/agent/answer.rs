//! Answers to programs on the gateway.
//!
//! Owns: the road from a request to a recorded reply.
//! Never: replies outside of effects.
//! Read next: `decide.rs`, `tasks.rs`, `report.rs`.

use std::sync::Arc;

use super::attest::selectors;
use super::decide::{Judge, Judgement, Purpose, Question};
use super::effects::{Budget, Effects};
use super::request::{
    AuditRef, Authorize, DecisionReply, Evidence, Mode, Peer, Problem, ProblemCode, Reason, Reply, Request, RequestId,
    Socket, TimeClass, Verdict,
};
use super::room::Class;
use super::token::{Cache, Denial, Verified};
use super::wallet::StoredTask;
use super::{shorten, Agent, Now};
use crate::ids::RiskClass;
use crate::mutant::{active, Mutant};
use crate::time::{Millis, Timestamp};
use crate::wire::arguments::Arguments;
use crate::wire::audit::{record_id, Credential, Decision, Event, Known, Named};

/// A decision and its record.
pub(super) struct Decided<T> {
    pub(super) judgement: Judgement,
    pub(super) reason: Reason,
    pub(super) explain: String,
    pub(super) audit: AuditRef,
    /// What was found to follow from an allow.
    pub(super) follows: Option<T>,
}

impl Agent {
    pub(super) fn on_request(
        &mut self,
        id: RequestId,
        evidence: &Evidence,
        request: Request,
        now: Now,
        effects: &mut Effects,
    ) {
        let reply = match request {
            Request::Audit(ask) => return effects.outgoing.pages.push((id, ask, self.trail_reply())),
            Request::Authorize(ask) => self.authorize(evidence, &ask, now, effects),
            Request::Attenuate(attenuate) => self.attenuate(evidence, &attenuate, now, effects),
            Request::Step(task, ask) => self.take_step(evidence, &task, &ask, now, effects),
            Request::Begin(begin) => match self.begin_task(id, evidence, begin, None, now, effects) {
                Some(reply) => reply,
                None => return,
            },
            Request::Renew(task) => match self.renew_task(id, evidence, &task, now, effects) {
                Some(reply) => reply,
                None => return,
            },
            Request::Wait(task) => match self.wait_for_end(id, evidence, &task, now, effects) {
                Some(reply) => reply,
                None => return,
            },
            Request::Challenge => self.challenge(now),
            Request::Preview(ask) => self.preview(evidence, &ask, now, effects),
            Request::CheckRevoked(check) => self.check_revoked(&check),
            Request::ExportRevocations(feed) => self.export_revocations(feed.as_ref()),
            Request::ImportRevocations(import) => self.import_revocations(&import, now, effects),
            Request::Revocations => Reply::Revocations(Box::new(self.show_revocations())),
            Request::ImportTime(file) => self.import_time(&file, now, effects),
            Request::Finish(task) => self.finish_task(evidence, &task, now, effects),
            Request::Ready => Reply::Ready(self.ready()),
            Request::Status => Reply::Status(Box::new(self.status())),
            Request::Tasks => Reply::Tasks(self.list_tasks(evidence)),
            Request::Introspect(ask) => self.introspect(evidence, ask, now, effects),
            Request::Whoami => Reply::Whoami(self.whoami(evidence)),
        };
        effects.outgoing.reply(id, reply, now.boottime);
    }

    /// What is answered where the record of the answer has no room.
    pub(super) fn audit_problem(class: Class) -> Reply {
        let what = match class {
            Class::Critical | Class::Notice => "the audit queue has no room left",
            Class::Allow => "the audit queue has no room for allows",
            Class::Denial => "this would be denied, and the audit queue has no room for denials",
        };
        let detail = format!(
            "{what}, so nothing is decided; let the device reach its collector, or raise the quota of its profile"
        );
        Reply::Problem(Problem::new(ProblemCode::AuditUnavailable, detail))
    }

    /// A refusal for a reason of the closed list.
    pub(super) fn refusal(&self, denial: &Denial) -> Problem {
        let decided_by = denial.by.as_ref().map(|clause| self.policy.tell(clause).into());
        Problem { decided_by, ..Problem::new(ProblemCode::of(denial.reason), denial.explain.clone()) }
    }

    fn authorize(&mut self, evidence: &Evidence, ask: &Authorize, now: Now, effects: &mut Effects) -> Reply {
        let decided = match self.decide(evidence, ask, Purpose::Use, |_, _| Ok(()), now, effects) {
            Ok(decided) => decided,
            Err(class) => return Self::audit_problem(class),
        };
        let Decided { judgement, reason, explain, audit, .. } = decided;
        Reply::Decision(DecisionReply {
            decision: if reason == Reason::Allowed { Verdict::Allow } else { Verdict::Deny },
            reason,
            explain,
            decided_by: judgement.by().map(|clause| self.policy.tell(&clause)),
            decision_id: self.decision_id(audit),
            mode: self.mode,
            freshness: judgement.freshness,
            staleness_s: judgement.staleness.secs(),
            time_class: judgement.time_class,
            expires_in_s: judgement.life_left.map(Millis::secs),
            audit,
        })
    }

    /// A token of the local API whose signatures fit.
    ///
    /// # Errors
    /// Why it is none.
    pub(super) fn verify(&mut self, text: &str) -> Result<Arc<Verified>, Denial> {
        let mut cache = std::mem::replace(&mut self.cache, Cache::new(0));
        let verified = self.judge().verify(text, &mut cache);
        self.cache = cache;
        verified
    }

    /// Judges a question and records the answer. `further` has the last word on an allow; what it makes of one comes back.
    ///
    /// # Errors
    /// The class of records that has no room, where nothing can be decided for that.
    pub(super) fn decide<T>(
        &mut self,
        evidence: &Evidence,
        ask: &Authorize,
        purpose: Purpose,
        further: impl FnOnce(&mut Self, &Judgement) -> Result<T, Denial>,
        now: Now,
        effects: &mut Effects,
    ) -> Result<Decided<T>, Class> {
        self.make_room(now, effects);
        let room = self.room();
        if !room.fits(Class::Critical) {
            return Err(Class::Critical);
        }
        let peer = selectors(evidence);
        // Whoever exchanges a credential is its holder, whichever door he comes through.
        let is_workload = evidence.socket == Socket::Agent || purpose == Purpose::Exchange;
        let level = self.policy.document.risk_of(&ask.operation, &ask.resource, ask.risk.as_ref());
        let risk = level.map(|level| level.class.clone());
        let stated = ask.arguments.as_ref().map_or(Ok(None), Arguments::state);
        let question = Question {
            token: &ask.token,
            operation: &ask.operation,
            resource: &ask.resource,
            destination: ask.destination.as_deref(),
            risk: level,
            task: ask.task.as_deref(),
            step: ask.step.as_deref(),
            arguments: stated.as_ref().map(Option::as_ref),
            workload: is_workload.then_some(peer.as_slice()),
            enforcer: (!is_workload).then_some(peer.as_slice()),
            purpose,
        };
        let judge = Judge {
            device: &self.device,
            profile: &self.profile,
            trust: &self.trust,
            policy: &self.policy,
            revocations: &self.revocations,
            wallet: &self.wallet,
            clock: &self.clock,
            mode: self.mode,
            room,
            behind: self.behind(),
        };
        let mut judgement = judge.judge(&question, &mut self.cache);
        let mut follows = None;
        if judgement.verdict.is_ok() {
            match further(self, &judgement) {
                Ok(found) => follows = Some(found),
                Err(denial) => judgement.verdict = Err(denial),
            }
        }
        if judgement.verdict.is_err() && !room.fits(Class::Denial) {
            return Err(Class::Denial);
        }
        let enforcer = if is_workload { Vec::new() } else { peer };
        let (reason, explain, budgets) = match &judgement.verdict {
            Ok(charges) => {
                let charge = |(block, until): &(_, _)| self.wallet.charge(*block, *until);
                let budgets: Vec<Budget> = charges.iter().map(charge).collect();
                (Reason::Allowed, "allowed".to_owned(), budgets)
            }
            Err(denial) if denial.reason == Reason::WrongWorkload => {
                (denial.reason, wrong_workload(denial, &judgement.workload, evidence), Vec::new())
            }
            Err(denial) => (denial.reason, shorten(&denial.explain, 512), Vec::new()),
        };
        let budgets = if active(Mutant::CounterAfterAction) { Vec::new() } else { budgets };
        *self.counters.decisions.entry(reason).or_default() += 1;
        self.write_ended_counts(now, effects);
        // A credential is referred to within one era only: which one the record is in must be known before.
        self.roll_if_due(now, effects);
        let mut decision = self.decision_of(ask, &judgement, reason, risk, enforcer);
        decision.arguments = stated.ok().flatten().map(|stated| stated.digest);
        let audit = match self.as_before(&decision, now) {
            Some(before) => before,
            None => self.record_decision(decision, budgets, now, effects),
        };
        if let Some(task) = judgement.task.as_ref().filter(|_| reason == Reason::Allowed) {
            self.end_if_spent(&task.id, now, effects);
        }
        Ok(Decided { judgement, reason, explain, audit, follows })
    }

    /// Records a denial that was judged already, by itself or counted beside one that is as it. There must be room for it.
    pub(super) fn record_denied(
        &mut self,
        evidence: &Evidence,
        ask: &Authorize,
        (judgement, reason): (&Judgement, Reason),
        now: Now,
        effects: &mut Effects,
    ) {
        *self.counters.decisions.entry(reason).or_default() += 1;
        self.write_ended_counts(now, effects);
        self.roll_if_due(now, effects);
        let enforcer = if evidence.socket == Socket::Agent { Vec::new() } else { selectors(evidence) };
        let decision = self.decision_of(ask, judgement, reason, None, enforcer);
        if self.as_before(&decision, now).is_none() {
            self.record_decision(decision, Vec::new(), now, effects);
        }
    }

    /// The latest that it can be for a class; as late as dates go where nothing bounds it.
    pub(super) fn latest(&self, class: TimeClass) -> Timestamp {
        self.clock.upper(class).unwrap_or(Timestamp::MAX)
    }

    pub(super) fn decision_id(&self, audit: AuditRef) -> String {
        record_id(&self.device, self.trail.era(), audit.index)
    }

    /// The record that stands for a denial which is as one before it, and counted there. An allow has its own, always.
    fn as_before(&mut self, decision: &Decision, now: Now) -> Option<AuditRef> {
        // What is counted is written before an era ends, so that one which is to end counts no more.
        let may = !decision.allow || active(Mutant::AllowCounted);
        if !may || self.ending || self.is_roll_due() {
            return None;
        }
        let before = self.flood.count(decision, self.rate(), now.boottime, self.clock.floor())?;
        self.counters.repeated += 1;
        Some(before)
    }

    /// Writes a decision, whose credential is named in full until here.
    fn record_decision(
        &mut self,
        mut decision: Decision,
        budgets: Vec<Budget>,
        now: Now,
        effects: &mut Effects,
    ) -> AuditRef {
        let alike = (!decision.allow || active(Mutant::AllowCounted)).then(|| decision.clone());
        decision.credential = match decision.credential {
            Credential::Named(named) => self.trail.name(*named),
            other @ (Credential::Nothing | Credential::Same(_)) => other,
        };
        let audit = self.write(Event::Decision(Box::new(decision)), budgets, now, effects);
        let gone = alike.and_then(|decision| self.flood.recorded(&decision, audit, now.boottime));
        self.write_counts(gone, now, effects);
        audit
    }

    fn decision_of(
        &self,
        ask: &Authorize,
        judgement: &Judgement,
        reason: Reason,
        risk: Option<RiskClass>,
        enforcer: Vec<String>,
    ) -> Decision {
        let credential = match &judgement.verified {
            Some(verified) => {
                let label = || verified.claims.tasks.last().and_then(|task| task.parse().ok());
                Credential::Named(Box::new(Named {
                    owner: shorten(&verified.claims.owner, 256),
                    grant: verified.claims.grant,
                    task: judgement.task.as_ref().map(|task| task.id.clone()).or_else(label),
                    chain: verified.chain().copied().collect(),
                    step: judgement.step.as_ref().map(|step| step.named.clone()),
                    initiator: judgement.task.as_ref().and_then(StoredTask::initiator),
                }))
            }
            None => Credential::Nothing,
        };
        Decision {
            allow: reason == Reason::Allowed,
            reason: reason.name().into(),
            operation: shorten(&ask.operation, 256),
            resource: shorten(&ask.resource, 256),
            destination: ask.destination.as_ref().map(|destination| shorten(destination, 256)),
            risk,
            arguments: None,
            credential,
            workload: judgement.workload.clone(),
            enforcer,
            known: self.known(self.mode, judgement),
        }
    }

    fn known(&self, mode: Mode, judgement: &Judgement) -> Known {
        Known {
            mode: mode.name().into(),
            freshness: judgement.freshness.name().into(),
            staleness_s: judgement.staleness.secs(),
            time_class: judgement.time_class.name().into(),
            width_ms: self.clock.ceiling().map(|ceiling| ceiling.since(self.clock.floor())),
            bundle_version: self.trust.version,
            policy_version: self.policy.document.version,
            feed_seq: self.revocations.seq(),
        }
    }
}

/// Why a credential is not the workload's, with who that is: on its own socket the kernel attests it, at an enforcement
/// point it is who was handed the credential.
fn wrong_workload(denial: &Denial, workload: &[String], evidence: &Evidence) -> String {
    let whose = match (evidence.socket, &evidence.process) {
        (Socket::Agent, Peer::Gone) => {
            "the process that opened this connection has ended, or runs as somebody else by now; connect again. Seen"
        }
        (Socket::Agent, Peer::Known(_) | Peer::Unknown) => "seen",
        (Socket::Admin | Socket::Pep, _) => "handed to",
    };
    shorten(&format!("{}; {whose}: {}", denial.explain, workload.join(", ")), 1024)
}
