//! May this be done? One road for every answer.
//!
//! Owns: the pipeline from token bytes to allow or denial, in the order of the closed list of reasons.
//! Never: keeps state, charges a budget or writes a record: `mod.rs` does, from the [`Judgement`].
//! Read next: `token.rs`, `revocation.rs`, `when.rs`, `wallet.rs`, `evaluate.rs`, in the order of the pipeline.

use std::sync::Arc;

use biscuit_auth::builder::AuthorizerBuilder;

use super::attest::may_be;
use super::clock::TrustedClock;
use super::ending::Ending;
use super::outcomes::Outcomes;
use super::policy::Policy;
use super::request::{Freshness, Mode, Origin, Reason, TimeClass};
use super::revocation::{Age, Revocations};
use super::room::{Class, Room};
use super::token::{admit, Cache, Clause, Denial, Kind, Verified};
use super::wallet::{Made, StoredStep, StoredTask, Wallet};
use super::when::end_of_block;
use crate::ids::{BlockId, DeviceId, TaskId};
use crate::mutant::{active, Mutant};
use crate::profile::Profile;
use crate::time::{Millis, Timestamp};
use crate::wire::arguments::{Defect, Stated};
use crate::wire::bundle::TrustBundle;
use crate::wire::policy::RiskLevel;
use crate::wire::token::{canonical, from_text, EXCHANGE, INTROSPECT, NAME_BYTES_MAX, RESERVED};
use crate::wire::Refused;

/// Everything that a decision rests on.
pub struct Judge<'a> {
    /// This device.
    pub device: &'a DeviceId,
    /// Its limits.
    pub profile: &'a Profile,
    /// Keys and groups.
    pub trust: &'a TrustBundle,
    /// Policy.
    pub policy: &'a Policy,
    /// Revocation lists.
    pub revocations: &'a Revocations,
    /// Grants, tasks, budgets.
    pub wallet: &'a Wallet,
    /// What time it can be.
    pub clock: &'a TrustedClock,
    /// The mode.
    pub mode: Mode,
    /// How much room the audit has.
    pub room: Room,
    /// What this device knows to be newer than what it holds, if anything is: everything is stale then.
    pub behind: Option<String>,
}

/// What is asked.
#[derive(Debug, Clone)]
pub struct Question<'a> {
    /// The token's text.
    pub token: &'a str,
    /// The operation.
    pub operation: &'a str,
    /// The resource.
    pub resource: &'a str,
    /// Where the effect goes.
    pub destination: Option<&'a str>,
    /// The class of risk.
    pub risk: Option<&'a RiskLevel>,
    /// Only compared with the wallet.
    pub task: Option<&'a str>,
    /// Only compared with the wallet.
    pub step: Option<&'a str>,
    /// What the operation is done with, if it was said, or why that is refused.
    pub arguments: Result<Option<&'a Stated>, &'a Defect>,
    /// Selectors of the peer, if it is the workload itself.
    pub workload: Option<&'a [String]>,
    /// Selectors of the peer, if it is an enforcement point.
    pub enforcer: Option<&'a [String]>,
    /// What the answer is for.
    pub purpose: Purpose,
}

/// What an answer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A planner exchanges its credential for a step's: the agent's own operation, which is no use.
    Exchange,
    /// An enforcement point asks what a token is good for, and lets a request through on the answer.
    Introspect,
    /// Somebody wants to know whether it is worth asking: nothing is done.
    Preview,
    /// The operation is done.
    Use,
}

/// What came out.
#[derive(Clone)]
pub struct Judgement {
    /// Blocks to charge with when each may be forgotten, or why not.
    pub verdict: Result<Vec<(BlockId, Timestamp)>, Denial>,
    /// The token, once its signatures were checked.
    pub verified: Option<Arc<Verified>>,
    /// The wallet's task that it belongs to.
    pub task: Option<StoredTask>,
    /// The wallet's step that it belongs to.
    pub step: Option<StoredStep>,
    /// Selectors of the workload that it was judged for.
    pub workload: Vec<String>,
    /// How new the revocation list is.
    pub freshness: Freshness,
    /// Its age.
    pub staleness: Millis,
    /// How long the token is honoured yet, for what was asked.
    pub life_left: Option<Millis>,
    /// Up to which clock it had to be good.
    pub time_class: TimeClass,
    /// Which policy allowed it, by its place from 0; none where none was asked, or none did.
    pub allowed_by: Option<usize>,
}

impl Judgement {
    /// What decided, where it was a clause of token or policy.
    pub fn by(&self) -> Option<Clause> {
        match &self.verdict {
            Ok(_) => self.allowed_by.map(Clause::Policy),
            Err(denial) => denial.by.clone(),
        }
    }
}

impl Judge<'_> {
    /// Judges a question.
    pub fn judge(&self, question: &Question<'_>, cache: &mut Cache) -> Judgement {
        let verified = self.verify(question.token, cache);
        let mut judgement = self.found(question, verified.as_ref().ok().map(|verified| &**verified));
        match verified {
            Ok(verified) => {
                judgement.life_left = Some(self.life_left(&verified, judgement.time_class));
                let (verdict, allowed_by) =
                    match self.judge_verified(question, &verified, &judgement, &mut cache.outcomes) {
                        Ok((charges, policy)) => (Ok(charges), Some(policy)),
                        Err(denial) => (Err(denial), None),
                    };
                (judgement.verdict, judgement.allowed_by) = (verdict, allowed_by);
                judgement.verified = Some(verified);
            }
            Err(denial) => judgement.verdict = Err(first(self.check_question(question), denial)),
        }
        judgement
    }

    /// What is known of a question before it is judged.
    pub(super) fn found(&self, question: &Question<'_>, verified: Option<&Verified>) -> Judgement {
        let (freshness, Age { age: staleness, .. }) = self.freshness();
        let task = verified.and_then(|verified| self.wallet.task_of(verified.chain())).cloned();
        let step = verified.and_then(|verified| self.wallet.step_of(verified.chain())).cloned();
        // At an enforcement point the workload is the holder to whom this agent handed the credential, or for whom it made it.
        let workload = match (question.workload, &step, &task) {
            (Some(_), None, Some(task)) if active(Mutant::StrangerServed) => task.selectors.clone(),
            (Some(selectors), _, _) => selectors.to_vec(),
            (None, Some(step), _) => vec![step.executor.clone()],
            (None, None, Some(task)) => task.selectors.clone(),
            (None, None, None) => Vec::new(),
        };
        let claimed = verified.and_then(|verified| verified.claims.min_time_class);
        Judgement {
            verdict: Ok(Vec::new()),
            verified: None,
            task,
            step,
            workload,
            freshness,
            staleness,
            life_left: None,
            time_class: self.time_class(question.operation, question.resource, claimed),
            allowed_by: None,
        }
    }

    pub(super) fn verify(&self, text: &str, cache: &mut Cache) -> Result<Arc<Verified>, Denial> {
        let limits = &self.profile.verify;
        let bytes = from_text(text, limits.token_bytes_max).map_err(|refused| {
            let reason = if matches!(refused, Refused::TooLarge { .. }) { Reason::TooLarge } else { Reason::Malformed };
            Denial::new(reason, format!("the token's text is refused: {refused}"))
        })?;
        cache.get(&bytes, || admit(&bytes, limits, self.trust, |block| self.wallet.made(block)))
    }

    /// The road of a token whose signatures fit, in the order of the reasons. What to charge, and which policy allowed it.
    fn judge_verified(
        &self,
        question: &Question<'_>,
        verified: &Verified,
        so_far: &Judgement,
        outcomes: &mut Outcomes,
    ) -> Result<(Vec<(BlockId, Timestamp)>, usize), Denial> {
        self.check_question(question)?;
        self.check_place(verified)?;
        if question.purpose != Purpose::Exchange || !active(Mutant::StepOfEndedTask) {
            self.check_revocation(verified, so_far.task.as_ref())?;
        }
        self.check_time(verified, so_far.time_class)?;
        self.check_staleness(question.risk, verified)?;
        if !active(Mutant::BoxAtBeginAlone) {
            self.check_box(verified)?;
        }
        let charges = self.check_uses(verified)?;
        // These reasons do not come in the order in which they are found: the first on the list is told.
        let evaluated = match question.purpose {
            // It has no question: for which it would be allowed is found out after this.
            Purpose::Introspect => Ok(0),
            Purpose::Exchange | Purpose::Preview | Purpose::Use => {
                self.evaluate(&self.policy.authorizer, question, verified, so_far, outcomes)
            }
        };
        let evaluated = match evaluated {
            Err(denial) if denial.reason == Reason::NoRight && active(Mutant::RightUnchecked) => Ok(0),
            evaluated => evaluated,
        };
        let policy = evaluated.as_ref().ok().copied().unwrap_or_default();
        let found = [
            evaluated.map(|_| ()),
            self.check_handed_out(verified),
            self.check_labels(question, so_far),
            check_enforcer(question, so_far),
            self.check_room(),
            self.check_lock(),
            self.check_counters(&charges),
        ];
        let denials = found.into_iter().filter_map(Result::err);
        let charges = match question.purpose {
            Purpose::Exchange | Purpose::Preview => Vec::new(),
            Purpose::Introspect | Purpose::Use => charges,
        };
        denials.min_by_key(|denial| denial.reason).map_or(Ok((charges, policy)), Err)
    }

    /// Whether a token that is good for something would be allowed this by a policy: all that hangs on the question alone. Up
    /// to which clock it must be good is in what was found so far. What it takes of `runs`, there must be.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn check_use(
        &self,
        authorizer: &AuthorizerBuilder,
        question: &Question<'_>,
        verified: &Verified,
        so_far: &Judgement,
        runs: &mut usize,
    ) -> Result<(), Denial> {
        self.check_question(question)?;
        self.check_time(verified, so_far.time_class)?;
        self.check_staleness(question.risk, verified)?;
        let too_many =
            || Denial::new(Reason::TooComplex, "more rights and dates than are looked at together; narrow it to fewer");
        *runs = runs.checked_sub(self.instants(verified, so_far.time_class)?.len()).ok_or_else(too_many)?;
        self.evaluate(authorizer, question, verified, so_far, &mut Outcomes::default())?;
        self.check_labels(question, so_far)
    }

    fn check_room(&self) -> Result<(), Denial> {
        let full =
            "the audit has no room for an allow; let the device reach its collector, or raise the quota of its profile";
        self.room.fits(Class::Allow).then_some(()).ok_or_else(|| Denial::new(Reason::AuditFull, full))
    }

    fn check_lock(&self) -> Result<(), Denial> {
        let locked = "this device is locked; `hardtack status` says why and what unlocks it";
        (self.mode != Mode::Locked).then_some(()).ok_or_else(|| Denial::new(Reason::Locked, locked))
    }

    fn check_counters(&self, charges: &[(BlockId, Timestamp)]) -> Result<(), Denial> {
        let fits = charges.iter().all(|(block, _)| self.wallet.has_room(block, self.profile.wallet.budgets_max));
        let full = "this device counts as many budgets as its profile allows; finish tasks, or wait until some end";
        fits.then_some(()).ok_or_else(|| Denial::new(Reason::Throttled, full))
    }

    /// Whether a grant could give a task right now.
    ///
    /// # Errors
    /// Why not.
    pub fn check_grant(&self, verified: &Verified) -> Result<(), Denial> {
        self.check_alive(verified, None)
    }

    /// Whether a credential could give another right now: of this task, if it is of one.
    ///
    /// # Errors
    /// Why not.
    pub fn check_alive(&self, verified: &Verified, task: Option<&StoredTask>) -> Result<(), Denial> {
        let class = TimeClass::Bounded.max(verified.claims.min_time_class.unwrap_or_default());
        self.check_place(verified)?;
        self.check_revocation(verified, task)?;
        self.check_time(verified, class)?;
        self.check_handed_out(verified)?;
        self.check_box(verified)?;
        let charges = self.check_uses(verified)?;
        self.check_counters(&charges)
    }

    fn check_question(&self, question: &Question<'_>) -> Result<(), Denial> {
        let malformed = |what: String| Denial::new(Reason::Malformed, what);
        canonical(question.resource).map_err(|refused| malformed(format!("the resource is refused: {refused}")))?;
        for text in [Some(question.operation), question.destination].into_iter().flatten() {
            if text.is_empty() || text.len() > NAME_BYTES_MAX || text.chars().any(char::is_control) {
                return Err(malformed(
                    "an operation or destination has 1 to 256 bytes and no control character".into(),
                ));
            }
        }
        question.arguments.map(|_| ()).map_err(|defect| {
            let reason = match defect {
                Defect::Malformed(_) => Reason::Malformed,
                Defect::TooLarge(_) => Reason::TooLarge,
            };
            Denial::new(reason, format!("the arguments are refused: {defect}"))
        })
    }

    fn check_place(&self, verified: &Verified) -> Result<(), Denial> {
        let claims = &verified.claims;
        if claims.fleet != self.trust.fleet.as_str() {
            return Err(Denial::new(
                Reason::WrongFleet,
                format!("the token is for fleet {:?}, this device is in {}", claims.fleet, self.trust.fleet),
            ));
        }
        let here = claims.device.as_ref().is_none_or(|device| device == self.device.as_str());
        let grouped = claims.group.as_ref().is_none_or(|group| self.trust.in_group(self.device, group));
        if !here || !grouped {
            let place = claims.device.as_ref().or(claims.group.as_ref());
            return Err(Denial::new(
                Reason::WrongDevice,
                format!("the token is for {}, this device is {}", place.map_or("nobody", String::as_str), self.device),
            ));
        }
        match &claims.feed {
            Some(feed) if !self.revocations.holds(feed) => Err(Denial::new(
                Reason::FeedUnknown,
                format!("this device holds no complete list of the revocation feed {feed:?} that covers the token"),
            )),
            Some(_) | None => Ok(()),
        }
    }

    fn check_revocation(&self, verified: &Verified, task: Option<&StoredTask>) -> Result<(), Denial> {
        if let Some(covered) = self.revocations.covers(verified, self.device, self.clock.over()) {
            let explain = format!("revoked by the fleet: {covered}; ask for a new credential");
            return Err(Denial::new(Reason::Revoked, explain));
        }
        let labelled: Vec<TaskId> = verified.claims.tasks.iter().filter_map(|task| task.parse().ok()).collect();
        if let Some(lost) = labelled.iter().find(|id| self.wallet.has_lost(id)) {
            let explain =
                format!("what this device knew of task {lost} is damaged, so it counts as ended; begin another");
            return Err(Denial::new(Reason::Revoked, explain));
        }
        let known = labelled.iter().filter_map(|id| self.wallet.task(id)).chain(task);
        let outlives = (active(Mutant::StepOutlivesTask) && self.wallet.step_of(verified.chain()).is_some())
            || (active(Mutant::SiblingOutlivesTask) && task.is_some_and(|task| is_sibling(task, verified)));
        if let Some(task) = known.into_iter().find(|task| task.finished && !outlives) {
            return Err(Ending::refusal(&task.id, self.wallet.ending(&task.id)));
        }
        // Which tasks had ended was forgotten with a lost anchor, or under a clock that was wrong.
        let claims = &verified.claims;
        if claims.kind == Kind::Task && task.is_none() && claims.issued <= self.wallet.lost_until() {
            let explain = "it was issued before this device lost track of what had ended; ask for a new credential";
            return Err(Denial::new(Reason::Revoked, explain));
        }
        Ok(())
    }

    fn check_staleness(&self, risk: Option<&RiskLevel>, verified: &Verified) -> Result<(), Denial> {
        let Age { age: staleness, hard_left, .. } = self.freshness().1;
        if let Some(behind) = &self.behind {
            let explain = format!("what is known is out of date: {behind}; the device must reach its fleet");
            return Err(Denial::new(Reason::Stale, explain));
        }
        let Some(level) = risk else { return Ok(()) };
        let policy = &self.policy.document;
        if hard_left == Millis(0) && policy.risks.last() == Some(level) {
            let explain = format!(
                "the fleet has been silent for longer than it promised at all, which denies what is of {} risk; the device must reach its fleet",
                level.class
            );
            return Err(Denial::new(Reason::Stale, explain));
        }
        let own = verified.claims.staleness_max.iter();
        let own = own.filter(|(class, _)| policy.binds(class, &level.class)).map(|(_, bound)| *bound);
        match own.chain(level.staleness_max_ms).min() {
            Some(bound) if staleness > bound => Err(Denial::new(
                Reason::Stale,
                format!(
                    "what is known of revocations is {} s old, the bound for {} risk is {} s; the device must reach its fleet",
                    staleness.secs(),
                    level.class,
                    bound.secs()
                ),
            )),
            Some(_) | None => Ok(()),
        }
    }

    fn check_box(&self, verified: &Verified) -> Result<(), Denial> {
        let claims = &verified.claims;
        if let Some(bound) = claims.offline_max.filter(|bound| self.clock.offline_for() > *bound) {
            return Err(Denial::new(
                Reason::OfflineSpent,
                format!("the grant allows {} s without contact; the device must reach its fleet", bound.secs()),
            ));
        }
        if let Some(bound) = claims.boots_max.filter(|bound| self.clock.boots() > *bound) {
            return Err(Denial::new(
                Reason::BootsSpent,
                format!("the grant allows {bound} boots without contact; the device must reach its fleet"),
            ));
        }
        Ok(())
    }

    /// Every ancestor that states a budget is to be charged. Denials charge nothing.
    fn check_uses(&self, verified: &Verified) -> Result<Vec<(BlockId, Timestamp)>, Denial> {
        let mut charges = Vec::with_capacity(verified.claims.uses.len());
        // Every task ended when counters were lost: one that lives came after that, and all its uses were counted.
        let task = self.wallet.task_of(verified.chain());
        let counted = task.is_some_and(|task| task.origin == Origin::Issued && !task.finished);
        let again = active(Mutant::StepUsedAgain).then(|| self.wallet.step_of(verified.chain())).flatten();
        for (index, max) in &verified.claims.uses {
            let block = verified.token.blocks[*index].id;
            let lost = *index == 0 && !counted && verified.claims.issued <= self.wallet.lost_until();
            let spent = self.wallet.used(&block) >= *max && again.is_none_or(|step| step.made.block != block);
            if lost || spent {
                return Err(Denial::new(
                    Reason::UsesSpent,
                    format!("its {max} uses are spent; ask for a new credential"),
                ));
            }
            let own = self.wallet.made_by(&block).map(Made::lapses);
            charges.push((block, own.unwrap_or_else(|| end_of_block(verified, *index))));
        }
        if active(Mutant::AncestorNotCharged) {
            charges.drain(..charges.len().saturating_sub(1));
        }
        Ok(charges)
    }

    fn check_labels(&self, question: &Question<'_>, so_far: &Judgement) -> Result<(), Denial> {
        let task = so_far.task.as_ref().map(|task| task.id.as_str());
        if question.task.is_some() && question.task != task {
            return Err(Denial::new(Reason::CheckFailed, "the request names another task than the credential's"));
        }
        let step = so_far.step.as_ref().map(|step| step.named.id.as_str());
        if question.step.is_some() && question.step != step {
            let explain = match step {
                Some(_) => "the request names another step than the credential's",
                None => "the request names a step, and the credential is of none",
            };
            return Err(Denial::new(Reason::CheckFailed, explain));
        }
        match question.purpose {
            Purpose::Exchange if question.operation == EXCHANGE => Ok(()),
            Purpose::Introspect if question.operation == INTROSPECT => Ok(()),
            Purpose::Exchange | Purpose::Introspect | Purpose::Preview | Purpose::Use
                if question.operation.starts_with(RESERVED) =>
            {
                Err(Denial::new(Reason::NoRight, "operations that begin with `hardtack:` are the agent's own"))
            }
            Purpose::Exchange | Purpose::Introspect | Purpose::Preview | Purpose::Use => Ok(()),
        }
    }

    /// How far what is known of revocations can be trusted to be new, and its age.
    pub fn freshness(&self) -> (Freshness, Age) {
        let powered = self.clock.powered();
        let age = self.revocations.age(powered).unwrap_or_else(|| Age::unknown(powered));
        let freshness = match (self.clock.ceiling(), age.overdue) {
            (None, _) => Freshness::Unknown,
            (Some(_), true) => Freshness::Stale,
            (Some(_), false) => Freshness::Fresh,
        };
        (freshness, age)
    }
}

/// Who enforces a step proves that somebody brought it, and where he is who planned it, that is he: a step is for another workload.
fn check_enforcer(question: &Question<'_>, so_far: &Judgement) -> Result<(), Denial> {
    let planned = so_far.step.as_ref().and(so_far.task.as_ref()).zip(question.enforcer);
    match planned {
        Some((task, enforcer)) if may_be(enforcer, &task.selectors) && !active(Mutant::StepAtOwnPoint) => {
            let explain =
                "the enforcement point may be the planner of this step itself, by its user and unit or container; a \
                           step is for another workload";
            Err(Denial::new(Reason::WrongWorkload, explain))
        }
        Some(_) | None => Ok(()),
    }
}

/// Whether a token was narrowed of a task's credential here.
fn is_sibling(task: &StoredTask, verified: &Verified) -> bool {
    task.siblings.iter().any(|sibling| verified.chain().any(|block| *block == sibling.made.block))
}

/// The reason that stands first on the list.
fn first(earlier: Result<(), Denial>, denial: Denial) -> Denial {
    match earlier {
        Err(other) if other.reason <= denial.reason => other,
        Err(_) | Ok(()) => denial,
    }
}
