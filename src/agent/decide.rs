//! May this be done? One road for every answer.
//!
//! Owns: the pipeline from token bytes to allow or denial, in the order of the closed list of reasons; what the agent
//! adds to Datalog; which run's failed check means what.
//! Never: keeps state, charges a budget or writes a record: `mod.rs` does, from the [`Judgement`].
//! Read next: `token.rs`, `revocation.rs`, `wallet.rs`, in the order of the pipeline.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use biscuit_auth::builder::{Fact, Term};
use biscuit_auth::datalog::RunLimits;
use biscuit_auth::error::{FailedCheck, Logic, MatchedPolicy, RunLimit, Token as TokenError};

use super::clock::TrustedClock;
use super::policy::Policy;
use super::request::{Freshness, Mode, Reason, TimeClass};
use super::revocation::Revocations;
use super::token::{admit, Cache, Denial, Kind, Verified};
use super::wallet::{StoredTask, Wallet};
use crate::ids::{BlockId, DeviceId};
use crate::profile::Profile;
use crate::time::{Millis, Timestamp};
use crate::wire::biscuit::{Check, TimeBound};
use crate::wire::bundle::TrustBundle;
use crate::wire::policy::RiskLevel;
use crate::wire::token::{canonical, from_text, NAME_BYTES_MAX, RESERVED};
use crate::wire::Refused;

/// Clocks of issuers and devices differ by this much without harm.
const ISSUED_SLACK: Millis = Millis::from_secs(2);
/// More dates than this between E and P, and evaluating around each would cost too much.
const RUNS_MAX: usize = 16;

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

/// How much room the audit has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Room {
    /// Allows fit.
    Allows,
    /// Only denials and events fit.
    Denials,
    /// Nothing fits.
    None,
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
    /// Selectors of the peer, if it is the workload itself.
    pub workload: Option<&'a [String]>,
    /// Selectors of the peer, if it is an enforcement point.
    pub enforcer: Option<&'a [String]>,
}

/// What came out.
pub struct Judgement {
    /// Blocks to charge with when each may be forgotten, or why not.
    pub verdict: Result<Vec<(BlockId, Timestamp)>, Denial>,
    /// The token, once its signatures were checked.
    pub verified: Option<Arc<Verified>>,
    /// The wallet's task that it belongs to.
    pub task: Option<StoredTask>,
    /// Selectors of the workload that it was judged for.
    pub workload: Vec<String>,
    /// How new the revocation list is.
    pub freshness: Freshness,
    /// Its age.
    pub staleness: Millis,
    /// When the token ends.
    pub ends: Option<Timestamp>,
    /// Up to which clock it had to be good.
    pub time_class: TimeClass,
}

impl Judge<'_> {
    /// Judges a question.
    pub fn judge(&self, question: &Question<'_>, cache: &mut Cache) -> Judgement {
        let verified = self.verify(question.token, cache);
        let feed = verified.as_ref().ok().and_then(|verified| verified.claims.feed.as_deref());
        let (freshness, staleness) = self.freshness(feed);
        let task = verified.as_ref().ok().and_then(|verified| self.wallet.task_of(verified.chain())).cloned();
        // At an enforcement point the workload is the holder to whom this agent handed the credential.
        let workload = match (question.workload, &task) {
            (Some(selectors), _) => selectors.to_vec(),
            (None, Some(task)) => task.selectors.clone(),
            (None, None) => Vec::new(),
        };
        let claimed = verified.as_ref().ok().and_then(|verified| verified.claims.min_time_class);
        let mut judgement = Judgement {
            verdict: Ok(Vec::new()),
            verified: None,
            task,
            workload,
            freshness,
            staleness,
            ends: None,
            time_class: self.time_class(question.operation, question.resource, claimed),
        };
        match verified {
            Ok(verified) => {
                judgement.ends = Some(self.end_of(&verified));
                judgement.verdict = self.judge_verified(question, &verified, &judgement);
                judgement.verified = Some(verified);
            }
            Err(denial) => judgement.verdict = Err(first(self.check_question(question), denial)),
        }
        judgement
    }

    /// The stricter of what the policy says of the request and what the token asks for.
    fn time_class(&self, operation: &str, resource: &str, claimed: Option<TimeClass>) -> TimeClass {
        self.policy.document.time_class_of(operation, resource).max(claimed.unwrap_or(TimeClass::Floor))
    }

    fn verify(&self, text: &str, cache: &mut Cache) -> Result<Arc<Verified>, Denial> {
        let limits = &self.profile.verify;
        let bytes = from_text(text, limits.token_bytes_max).map_err(|refused| {
            let reason = if matches!(refused, Refused::TooLarge { .. }) { Reason::TooLarge } else { Reason::Malformed };
            Denial::new(reason, format!("the token's text is refused: {refused}"))
        })?;
        cache.get(&bytes, || admit(&bytes, limits, self.trust, |block| self.wallet.made(block)))
    }

    /// The road of a token whose signatures fit, in the order of the reasons.
    fn judge_verified(
        &self,
        question: &Question<'_>,
        verified: &Verified,
        so_far: &Judgement,
    ) -> Result<Vec<(BlockId, Timestamp)>, Denial> {
        self.check_question(question)?;
        self.check_place(verified)?;
        self.check_revocation(verified, so_far.task.as_ref())?;
        self.check_time(verified, so_far.time_class)?;
        self.check_staleness(question.risk, verified, so_far.staleness)?;
        self.check_box(verified)?;
        let charges = self.check_uses(verified)?;
        // These reasons do not come in the order in which they are found: the first on the list is told.
        let found = [
            self.evaluate(question, verified, so_far),
            self.check_labels(question, so_far.task.as_ref()),
            self.check_room(),
            self.check_lock(),
            self.check_counters(&charges),
        ];
        let denials = found.into_iter().filter_map(Result::err);
        denials.min_by_key(|denial| denial.reason).map_or(Ok(charges), Err)
    }

    fn check_room(&self) -> Result<(), Denial> {
        match self.room {
            Room::Allows => Ok(()),
            Room::Denials | Room::None => Err(Denial::new(
                Reason::AuditFull,
                "the audit has no room for an allow; let the device reach its collector",
            )),
        }
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
        let class = TimeClass::Bounded.max(verified.claims.min_time_class.unwrap_or_default());
        self.check_place(verified)?;
        self.check_revocation(verified, None)?;
        self.check_time(verified, class)?;
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
        Ok(())
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
        if let Some(target) = self.revocations.covers(verified, self.device, self.clock.floor()) {
            return Err(Denial::new(
                Reason::Revoked,
                format!("revoked by the fleet: {target:?}; ask for a new credential"),
            ));
        }
        let labelled = verified.claims.tasks.iter().filter_map(|task| task.parse().ok());
        let known = labelled.filter_map(|id| self.wallet.task(&id)).chain(task);
        match known.into_iter().find(|task| task.finished) {
            Some(task) => Err(Denial::new(Reason::Revoked, format!("task {} has ended; begin another", task.id))),
            None => Ok(()),
        }
    }

    fn check_time(&self, verified: &Verified, class: TimeClass) -> Result<(), Denial> {
        match self.clock.upper(class) {
            Some(upper) => {
                self.check_time_up_to(verified, upper).map_err(|denial| self.by_whose_clock(verified, denial))
            }
            None => {
                // What is proven to be past is told first: no better clock would help.
                self.check_time_up_to(verified, self.clock.floor())?;
                Err(Denial::new(
                    Reason::TimeUntrusted,
                    "this needs proof that the token has not ended, and no signed time has answered a question of this boot yet; the device must reach its fleet",
                ))
            }
        }
    }

    /// Where only the system clock says that a token has ended, the denial says so.
    fn by_whose_clock(&self, verified: &Verified, denial: Denial) -> Denial {
        let powered = Timestamp::from_secs(self.clock.powered().secs_ceil());
        let hinted = self.clock.hinted().filter(|hint| *hint > powered);
        match hinted.filter(|_| denial.reason == Reason::Expired && self.check_time_up_to(verified, powered).is_ok()) {
            Some(hint) => {
                let explain = format!(
                    "it has ended if the system clock is right, which shows {hint}; set it right, or let the device reach its fleet"
                );
                Denial::new(Reason::Expired, explain)
            }
            None => denial,
        }
    }

    fn check_time_up_to(&self, verified: &Verified, upper: Timestamp) -> Result<(), Denial> {
        let points = self.points(verified, upper, false)?;
        let bounds = verified.token.blocks.iter().flat_map(|block| &block.checks).map(|check| match check {
            Check::Time(alternatives) => check_bounds(alternatives, &points),
            Check::Other(_) => Ok(()),
        });
        let found = [self.check_issued(verified), self.check_expiry(verified, upper)].into_iter().chain(bounds);
        found.filter_map(Result::err).min_by_key(|denial| denial.reason).map_or(Ok(()), Err)
    }

    fn check_issued(&self, verified: &Verified) -> Result<(), Denial> {
        let (issued, powered) = (verified.claims.issued, self.clock.powered());
        if issued <= powered + ISSUED_SLACK {
            return Ok(());
        }
        let explain = format!(
            "issued {issued}, and this device cannot tell that it is later than {powered}; it needs signed time"
        );
        Err(Denial::new(Reason::NotYetValid, explain))
    }

    fn check_expiry(&self, verified: &Verified, upper: Timestamp) -> Result<(), Denial> {
        let expires = verified.claims.expires;
        if expires < upper || expires <= self.revocations.dropped_before() {
            return Err(Denial::new(Reason::Expired, format!("expired {expires}; ask for a new credential")));
        }
        match self.wallet.end_of(verified.chain()) {
            Some(ends) if ends < upper => {
                Err(Denial::new(Reason::Expired, format!("the task's credential ended {ends}; begin another")))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// The instants at which an outcome can differ between E and the class's upper point: both ends, and around each
    /// date between them. Where no date lies between them one instant stands for all.
    fn points(&self, verified: &Verified, upper: Timestamp, policy_asks: bool) -> Result<Vec<u64>, Denial> {
        let (low, high) = (self.clock.floor().secs_floor(), upper.secs_floor());
        let policys = if policy_asks { self.policy.dates.as_slice() } else { &[] };
        let between = verified.token.dates.iter().chain(policys).filter(|date| (low..=high).contains(*date));
        let mut points: BTreeSet<u64> =
            between.flat_map(|date| [date.saturating_sub(1), *date, date.saturating_add(1)]).collect();
        points.retain(|point| (low..=high).contains(point));
        if !points.is_empty() || policy_asks {
            points.insert(low);
        }
        points.insert(high);
        if points.len() > RUNS_MAX {
            return Err(Denial::new(
                Reason::TooComplex,
                "too many dates of token and policy lie between the earliest and the latest time that it can be",
            ));
        }
        Ok(points.into_iter().collect())
    }

    fn check_staleness(&self, risk: Option<&RiskLevel>, verified: &Verified, staleness: Millis) -> Result<(), Denial> {
        if let Some(behind) = &self.behind {
            let explain = format!("what is known is out of date: {behind}; the device must reach its fleet");
            return Err(Denial::new(Reason::Stale, explain));
        }
        let Some(level) = risk else { return Ok(()) };
        // A bound for a class binds every higher one too.
        let rank = |class| self.policy.document.rank(class).unwrap_or(usize::MAX);
        let own = verified.claims.staleness_max.iter();
        let own =
            own.filter(|(class, _)| *class == level.class || rank(class) < rank(&level.class)).map(|(_, bound)| *bound);
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
        for (index, max) in &verified.claims.uses {
            let block = verified.token.blocks[*index].id;
            if self.wallet.used(&block) >= *max {
                return Err(Denial::new(
                    Reason::UsesSpent,
                    format!("its {max} uses are spent; ask for a new credential"),
                ));
            }
            charges.push((block, end_of_block(verified, *index)));
        }
        if crate::mutant::active(crate::mutant::Mutant::AncestorNotCharged) {
            charges.drain(..charges.len().saturating_sub(1));
        }
        Ok(charges)
    }

    fn check_labels(&self, question: &Question<'_>, task: Option<&StoredTask>) -> Result<(), Denial> {
        let known = task.map(|task| task.id.as_str());
        if question.task.is_some() && question.task != known {
            return Err(Denial::new(Reason::CheckFailed, "the request names another task than the credential's"));
        }
        if question.step.is_some() {
            return Err(Denial::new(Reason::CheckFailed, "the request names a step, and the credential is of none"));
        }
        if question.operation.starts_with(RESERVED) {
            return Err(Denial::new(Reason::NoRight, "operations that begin with `hardtack:` are the agent's own"));
        }
        Ok(())
    }

    fn evaluate(&self, question: &Question<'_>, verified: &Verified, so_far: &Judgement) -> Result<(), Denial> {
        let facts = self.ambient(question, so_far);
        // A class without an upper point was refused before.
        let upper = self.clock.upper(so_far.time_class).unwrap_or(Timestamp::MAX);
        for point in self.points(verified, upper, self.policy.asks_time)? {
            match self.run(&facts, point, verified) {
                // The machine may have been busy: once more, then it has its own reason.
                Err(TokenError::RunLimit(RunLimit::Timeout)) => {
                    self.run(&facts, point, verified).map_err(|error| self.name(error, verified))?;
                }
                Err(error) => return Err(self.name(error, verified)),
                Ok(_) => {}
            }
        }
        Ok(())
    }

    fn run(&self, facts: &[Fact], point: u64, verified: &Verified) -> Result<usize, TokenError> {
        let limits = &self.profile.verify;
        let mut builder = self.policy.authorizer.clone().set_limits(RunLimits {
            max_facts: limits.run_facts_max,
            max_iterations: limits.run_iterations_max,
            // The library's default of 1 ms would refuse valid tokens on a busy board. The work is bounded by the guard.
            max_time: Duration::from_millis(limits.run_ms_max),
        });
        builder = builder.fact(fact("time", Term::Date(point)))?;
        if crate::mutant::active(crate::mutant::Mutant::TwoTimeFacts) {
            builder = builder.fact(fact("time", Term::Date(self.clock.floor().secs_floor())))?;
        }
        for fact in facts {
            builder = builder.fact(fact.clone())?;
        }
        builder.build(&verified.biscuit)?.authorize()
    }

    /// What the agent adds, each name at most once but `workload` and `enforcer`.
    fn ambient(&self, question: &Question<'_>, so_far: &Judgement) -> Vec<Fact> {
        let text = |text: &str| Term::Str(text.to_owned());
        let count = |number: u64| Term::Integer(i64::try_from(number).unwrap_or(i64::MAX));
        let mut facts = vec![
            fact("time_class", text(so_far.time_class.name())),
            fact("mode", text(self.mode.name())),
            fact("offline_for", count(self.clock.offline_for().secs_ceil())),
            fact("staleness", count(so_far.staleness.secs_ceil())),
            fact("freshness", text(so_far.freshness.name())),
            fact("device", text(self.device.as_str())),
            fact("profile", text(&self.profile.name)),
            fact("operation", text(question.operation)),
            fact("resource", text(question.resource)),
            fact("boots", count(u64::from(self.clock.boots()))),
        ];
        facts.extend(question.destination.map(|destination| fact("destination", text(destination))));
        facts.extend(question.risk.map(|level| fact("risk", text(level.class.as_str()))));
        facts.extend(so_far.workload.iter().map(|selector| fact("workload", text(selector))));
        facts.extend(question.enforcer.into_iter().flatten().map(|selector| fact("enforcer", text(selector))));
        if let Some(task) = &so_far.task {
            facts.push(fact("task", text(task.id.as_str())));
            // An issued token carries its own rights; only a grant's rights hang on the class.
            if task.origin == super::request::Origin::Fallback {
                facts.push(fact("task_class", text(task.class.as_str())));
            }
        }
        facts
    }

    /// What a failed evaluation means.
    fn name(&self, error: TokenError, verified: &Verified) -> Denial {
        if let TokenError::FailedLogic(logic) = &error {
            let (checks, policy) = match logic {
                Logic::Unauthorized { policy, checks } => (checks.as_slice(), Some(policy)),
                Logic::NoMatchingPolicy { checks } => (checks.as_slice(), None),
                Logic::InvalidBlockRule(..) | Logic::AuthorizerNotEmpty => {
                    return Denial::new(Reason::Malformed, format!("the token is refused: {error}"));
                }
            };
            let first = checks.iter().map(|check| self.name_check(check, verified)).min_by_key(|denial| denial.reason);
            return first.unwrap_or_else(|| match policy {
                Some(MatchedPolicy::Deny(number)) => {
                    Denial::new(Reason::DeniedByPolicy, format!("policy {number} of the fleet denies this"))
                }
                Some(MatchedPolicy::Allow(_)) | None if verified.claims.kind == Kind::Grant => Denial::new(
                    Reason::NoRight,
                    "no right covers this; a grant is of no use without a live task of this agent made from it",
                ),
                Some(MatchedPolicy::Allow(_)) | None => Denial::new(
                    Reason::NoRight,
                    "no right of the token covers this operation on this resource; begin a task that asks for it",
                ),
            });
        }
        match error {
            TokenError::RunLimit(RunLimit::Timeout) => {
                Denial::new(Reason::EngineTimeout, "evaluation did not end in time, twice; try again")
            }
            TokenError::RunLimit(limit) => Denial::new(Reason::TooComplex, format!("evaluation stopped: {limit}")),
            TokenError::Execution(error) => {
                Denial::new(Reason::CheckFailed, format!("an expression of the token failed: {error}"))
            }
            TokenError::InternalError
            | TokenError::Format(_)
            | TokenError::AppendOnSealed
            | TokenError::AlreadySealed
            | TokenError::FailedLogic(_)
            | TokenError::Language(_)
            | TokenError::ConversionError(_)
            | TokenError::Base64(_) => Denial::new(Reason::Malformed, format!("the token is refused: {error}")),
        }
    }

    /// A failed check of a block of ours is named by what it limits, another's is just that.
    fn name_check(&self, failed: &FailedCheck, verified: &Verified) -> Denial {
        let failed = match failed {
            FailedCheck::Authorizer(_) => {
                return Denial::new(Reason::DeniedByPolicy, "a check of the fleet's policy failed");
            }
            FailedCheck::Block(failed) => failed,
        };
        let block = verified.token.blocks.get(failed.block_id as usize);
        let check = block.and_then(|block| block.checks.get(failed.check_id as usize));
        let ours = block.is_some_and(|block| self.wallet.made(&block.id));
        match check {
            Some(Check::Other(asks)) if ours => {
                let asks = |name: &str| asks.iter().any(|asked| asked == name);
                if asks("device") {
                    Denial::new(
                        Reason::WrongDevice,
                        format!("the credential is for another device than {}", self.device),
                    )
                } else if asks("workload") {
                    Denial::new(
                        Reason::WrongWorkload,
                        "the credential was handed to another workload; each program begins its own task",
                    )
                } else {
                    Denial::new(
                        Reason::NoRight,
                        "the task has no right to this operation on this resource; begin one that asks for it",
                    )
                }
            }
            Some(Check::Time(alternatives)) => {
                let late = alternatives.iter().flatten().any(|bound| matches!(bound, TimeBound::Until(_)));
                let reason = if late { Reason::Expired } else { Reason::NotYetValid };
                Denial::new(reason, "a check of the token on time failed")
            }
            Some(Check::Other(_)) | None => {
                let (block, check) = (failed.block_id, failed.check_id);
                Denial::new(
                    Reason::CheckFailed,
                    format!("check {check} of block {block} failed: its holder did not allow this"),
                )
            }
        }
    }

    /// How far the revocation list can be trusted to be new, and its age by P. Without a list it is as old as time.
    pub fn freshness(&self, feed: Option<&str>) -> (Freshness, Millis) {
        let (age, overdue) = self
            .revocations
            .staleness(feed, self.clock.powered())
            .unwrap_or((self.clock.powered().since(Timestamp(0)), true));
        let freshness = match (self.clock.ceiling(), overdue) {
            (None, _) => Freshness::Unknown,
            (Some(_), true) => Freshness::Stale,
            (Some(_), false) => Freshness::Fresh,
        };
        (freshness, age)
    }

    fn end_of(&self, verified: &Verified) -> Timestamp {
        let blocks = (0..verified.token.blocks.len()).map(|index| end_of_block(verified, index));
        blocks.chain(self.wallet.end_of(verified.chain())).fold(verified.claims.expires, Timestamp::min)
    }
}

/// When a block's own checks on time let it end, at the latest with the token.
fn end_of_block(verified: &Verified, index: usize) -> Timestamp {
    let checks = verified.token.blocks.get(index).into_iter().flat_map(|block| &block.checks);
    let ends = checks.filter_map(|check| match check {
        Check::Time(alternatives) => latest(alternatives),
        Check::Other(_) => None,
    });
    ends.fold(verified.claims.expires, Timestamp::min)
}

/// The latest time at which one of the alternatives can hold; none if one has no end.
fn latest(alternatives: &[Vec<TimeBound>]) -> Option<Timestamp> {
    let end = |bounds: &Vec<TimeBound>| {
        let ends = bounds.iter().filter_map(|bound| match bound {
            TimeBound::Until(secs) | TimeBound::At(secs) => Some(Timestamp::from_secs(*secs)),
            TimeBound::From(_) => None,
        });
        ends.min()
    };
    let ends: Option<Vec<Timestamp>> = alternatives.iter().map(end).collect();
    ends?.into_iter().max()
}

/// The reason that stands first on the list.
fn first(earlier: Result<(), Denial>, denial: Denial) -> Denial {
    match earlier {
        Err(other) if other.reason <= denial.reason => other,
        Err(_) | Ok(()) => denial,
    }
}

/// A check on time must pass at every instant that it can be.
fn check_bounds(alternatives: &[Vec<TimeBound>], points: &[u64]) -> Result<(), Denial> {
    let passes = |at: u64| alternatives.iter().any(|bounds| bounds.iter().all(|bound| bound.holds(at)));
    let Some(failed) = points.iter().rev().copied().find(|at| !passes(*at)) else { return Ok(()) };
    let late = alternatives.iter().flatten().any(|bound| match bound {
        TimeBound::At(date) | TimeBound::Until(date) => failed > *date,
        TimeBound::From(_) => false,
    });
    Err(if late {
        Denial::new(Reason::Expired, "a limit of the token on time has passed; ask for a new credential")
    } else {
        Denial::new(Reason::NotYetValid, "a limit of the token on time has not come yet as far as this device can tell")
    })
}

fn fact(name: &str, term: Term) -> Fact {
    Fact::new(name.to_owned(), vec![term])
}
