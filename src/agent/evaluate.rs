//! What Datalog is asked, and what its answer means.
//!
//! Owns: the facts that the agent adds, the runs, the names of failed checks.
//! Never: adds two facts of one name where the vocabulary has one; believes a label of a token.
//! Read next: `when.rs`, which says for which instants.

use std::time::Duration;

use biscuit_auth::builder::{AuthorizerBuilder, Fact, Term};
use biscuit_auth::datalog::RunLimits;
use biscuit_auth::error::{Expression, FailedCheck, Logic, MatchedPolicy, RunLimit, Token as TokenError};

use super::decide::{Judge, Judgement, Purpose, Question};
use super::outcomes::{Outcomes, Run};
use super::policy::{once_told, shown, Failing};
use super::preview::left_open;
use super::request::{Reason, TimeClass};
use super::token::{Clause, Denial, Kind, Verified};
use crate::mutant::{active, Mutant};
use crate::time::Timestamp;
use crate::wire::arguments::{Argument, Value};
use crate::wire::biscuit::{check_at, Check, TimeBound};
use crate::wire::token::Purpose as Held;

/// What a request tells beside its operation and its resource, and who makes it.
const TOLD: [&str; 7] = ["argument", "argument_null", "argument_size", "destination", "enforcer", "risk", "workload"];

impl Judge<'_> {
    /// Runs the policy at each instant that matters; every run must allow. Which policy did, at the latest of them.
    pub(super) fn evaluate(
        &self,
        authorizer: &AuthorizerBuilder,
        question: &Question<'_>,
        verified: &Verified,
        so_far: &Judgement,
        outcomes: &mut Outcomes,
    ) -> Result<usize, Denial> {
        let asked = |name: &str| self.policy.asks.contains(name) || verified.token.asks.contains(name);
        let facts = self.ambient(question, so_far, asked);
        let known = Run::of(verified, self.policy, &facts);
        let mut policy = 0;
        for point in self.instants(verified, so_far.time_class)? {
            let ran = outcomes.get(&known, point, || self.run_patiently(authorizer, &facts, point, verified));
            let ran = ran.or_else(|error| match question.purpose {
                Purpose::Preview => left_open(&error, verified).ok_or(error),
                Purpose::Exchange | Purpose::Introspect | Purpose::Use => Err(error),
            });
            policy = ran.map_err(|error| match (question.purpose, error) {
                // Nobody is told which clause it is, and it takes runs to find that out.
                (Purpose::Introspect, TokenError::Execution(error)) => {
                    Denial::new(Reason::DeniedByPolicy, format!("an expression cannot be evaluated: {error}"))
                }
                (_, error) => self.name(error, &facts, point, verified),
            })?;
        }
        Ok(policy)
    }

    /// The instants at which the policy is run, for what has to be good up to the clock of a class.
    ///
    /// # Errors
    /// [`Reason::TooComplex`] where there are too many.
    pub(super) fn instants(&self, verified: &Verified, class: TimeClass) -> Result<Vec<u64>, Denial> {
        // A class without an upper point was refused before.
        let upper = self.clock.upper(class).unwrap_or(Timestamp::MAX);
        self.points(verified, upper, self.policy.asks.contains("time"))
    }

    /// Whether the token's checks on what is done, and to what, let something pass, or could with what a request tells beside it.
    /// Checks that are about neither are left to the request, and so is the policy.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn check_usable(
        &self,
        question: &Question<'_>,
        verified: &Verified,
        so_far: &Judgement,
    ) -> Result<(), Denial> {
        let facts = self.ambient(question, so_far, |name| verified.token.asks.contains(name));
        let point = self.clock.powered().secs_ceil();
        match self.run_patiently(&AuthorizerBuilder::new(), &facts, point, verified) {
            Err(TokenError::FailedLogic(Logic::Unauthorized { checks, .. } | Logic::NoMatchingPolicy { checks })) => {
                let about = checks.iter().filter(|check| is_about_effect(check, verified));
                let failed = about.filter(|check| !self.could_pass(check, &facts, point, verified));
                let denials = failed.map(|check| self.name_check(check, verified));
                denials.min_by_key(|denial| denial.reason).map_or(Ok(()), Err)
            }
            Err(error) => Err(self.name(error, &facts, point, verified)),
            Ok(_) => Ok(()),
        }
    }

    /// Whether a check of the token that fails could pass once a request tells more.
    fn could_pass(&self, failed: &FailedCheck, facts: &[Fact], point: u64, verified: &Verified) -> bool {
        let told = || {
            let FailedCheck::Block(failed) = failed else { return None };
            let token = verified.biscuit.to_vec().ok()?;
            let check = check_at(&token, failed.block_id as usize, failed.check_id as usize)?;
            AuthorizerBuilder::new().policy(once_told(&check, &TOLD)?).ok()
        };
        let ran = told().map(|policy| self.run_patiently(&policy, facts, point, verified));
        match ran {
            Some(Err(TokenError::FailedLogic(Logic::Unauthorized { policy, .. }))) => {
                matches!(policy, MatchedPolicy::Allow(_))
            }
            Some(ran) => ran.is_ok(),
            None => false,
        }
    }

    /// The machine may have been busy: once more, then that has its own reason.
    fn run_patiently(
        &self,
        policy: &AuthorizerBuilder,
        facts: &[Fact],
        point: u64,
        verified: &Verified,
    ) -> Result<usize, TokenError> {
        match self.run(policy.clone(), facts, point, verified) {
            Err(TokenError::RunLimit(RunLimit::Timeout)) => self.run(policy.clone(), facts, point, verified),
            other => other,
        }
    }

    fn run(
        &self,
        policy: AuthorizerBuilder,
        facts: &[Fact],
        point: u64,
        verified: &Verified,
    ) -> Result<usize, TokenError> {
        let limits = &self.profile.verify;
        let mut builder = policy.set_limits(RunLimits {
            max_facts: limits.run_facts_max,
            max_iterations: limits.run_iterations_max,
            // The library's default of 1 ms would refuse valid tokens on a busy board. The work is bounded by the guard.
            max_time: Duration::from_millis(limits.run_ms_max),
        });
        builder = builder.fact(fact("time", Term::Date(point)))?;
        if active(Mutant::TwoTimeFacts) {
            builder = builder.fact(fact("time", Term::Date(self.clock.floor().secs_floor())))?;
        }
        for fact in facts {
            builder = builder.fact(fact.clone())?;
        }
        builder.build(&verified.biscuit)?.authorize()
    }

    /// What the agent adds, each name at most once but `workload`, `enforcer` and those of arguments. What neither policy nor token ask about
    /// can change no outcome and costs time in every run: it is left out.
    fn ambient(&self, question: &Question<'_>, so_far: &Judgement, asked: impl Fn(&str) -> bool) -> Vec<Fact> {
        let text = |name: &str, text: &str| asked(name).then(|| fact(name, Term::Str(text.to_owned())));
        let count = |name: &str, number: u64| {
            asked(name).then(|| fact(name, Term::Integer(i64::try_from(number).unwrap_or(i64::MAX))))
        };
        let task = so_far.task.as_ref();
        let once = [
            text("time_class", so_far.time_class.name()),
            text("mode", self.mode.name()),
            count("offline_for", self.clock.offline_for().secs_ceil()),
            count("staleness", so_far.staleness.secs_ceil()),
            text("freshness", so_far.freshness.name()),
            text("device", self.device.as_str()),
            text("profile", &self.profile.name),
            text("operation", question.operation),
            text("resource", question.resource),
            count("boots", u64::from(self.clock.boots())),
            question.destination.and_then(|destination| text("destination", destination)),
            question.risk.and_then(|level| text("risk", level.class.as_str())),
            task.and_then(|task| text("task", task.id.as_str())),
            task.and_then(|task| text("task_class", task.class.as_str())),
            so_far.step.as_ref().and_then(|step| text("step", step.named.id.as_str())),
        ];
        let workloads = so_far.workload.iter().map(|selector| text("workload", selector));
        let enforcers = question.enforcer.into_iter().flatten().map(|selector| text("enforcer", selector));
        let stated = question.arguments.ok().flatten().filter(|_| !active(Mutant::ArgumentsUntold));
        let arguments = stated.map_or(&[][..], |stated| &stated.facts);
        let arguments = arguments.iter().map(|argument| {
            let name = argument_name(&argument.value);
            asked(name).then(|| argument_fact(name, argument))
        });
        once.into_iter().chain(workloads).chain(enforcers).chain(arguments).flatten().collect()
    }

    /// What a failed evaluation means.
    fn name(&self, error: TokenError, facts: &[Fact], point: u64, verified: &Verified) -> Denial {
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
                Some(MatchedPolicy::Deny(place)) => {
                    let clause = Clause::Policy(*place);
                    let explain = format!("denied by {}", self.policy.tell(&clause));
                    Denial::new(Reason::DeniedByPolicy, explain).by(Some(clause))
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
            TokenError::Execution(error) => self.name_expression(&error, facts, point, verified),
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

    /// Whose expression it is that cannot be evaluated: of the token, if it fails without the policy too, else of a clause. Where
    /// the token's own checks deny, nobody needs to know.
    fn name_expression(&self, error: &Expression, facts: &[Fact], point: u64, verified: &Verified) -> Denial {
        let run = |policy| match self.run(policy, facts, point, verified) {
            Ok(_) => Ok(Vec::new()),
            Err(TokenError::FailedLogic(Logic::Unauthorized { checks, .. } | Logic::NoMatchingPolicy { checks })) => {
                Ok(checks)
            }
            Err(error) => Err(error),
        };
        match run(AuthorizerBuilder::new()) {
            Ok(checks) => {
                let first =
                    checks.iter().map(|check| self.name_check(check, verified)).min_by_key(|denial| denial.reason);
                if let Some(first) = first {
                    return first;
                }
            }
            Err(TokenError::Execution(_)) => {
                return Denial::new(Reason::CheckFailed, format!("an expression of the token failed: {error}"));
            }
            // It denies anyway.
            Err(_) => {}
        }
        let failing = self.policy.failing(|policy| match run(policy) {
            Ok(_) => Some(false),
            Err(TokenError::Execution(_)) => Some(true),
            Err(_) => None,
        });
        let (whose, clause) = match failing {
            Failing::Clause(clause) => (self.policy.tell(&clause).to_string(), Some(clause)),
            Failing::Rule => ("a rule of it".to_owned(), None),
            Failing::Unknown => ("what of it, could not be found out".to_owned(), None),
        };
        let explain = format!("denied, for the fleet's policy cannot be applied to this request ({error}): {whose}");
        Denial::new(Reason::DeniedByPolicy, explain).by(clause)
    }

    /// Whether a token is a planner's credential, which is good for nothing but to be exchanged.
    fn only_plans(&self, verified: &Verified) -> bool {
        let planned = self.wallet.task_of(verified.chain()).is_some_and(|task| task.purpose == Held::Plan);
        planned && self.wallet.step_of(verified.chain()).is_none()
    }

    /// A failed check of a block of ours is named by what it limits, another's is just that.
    fn name_check(&self, failed: &FailedCheck, verified: &Verified) -> Denial {
        let failed = match failed {
            FailedCheck::Authorizer(failed) => {
                let clause = Clause::Check(failed.check_id as usize);
                let explain = format!("denied, for it does not pass {}", self.policy.tell(&clause));
                return Denial::new(Reason::DeniedByPolicy, explain).by(Some(clause));
            }
            FailedCheck::Block(failed) => failed,
        };
        let block = verified.token.blocks.get(failed.block_id as usize);
        let check = block.and_then(|block| block.checks.get(failed.check_id as usize));
        let ours = block.is_some_and(|block| self.wallet.made(&block.id));
        let clause = Clause::Token {
            block: failed.block_id as usize,
            check: failed.check_id as usize,
            // The library has printed it before it said that it failed.
            text: shown(&failed.rule),
        };
        let which = self.policy.tell(&clause);
        let denial = match check {
            Some(Check::Other(asks)) if ours => {
                let asks = |name: &str| asks.iter().any(|asked| asked == name);
                if asks("device") {
                    Denial::new(
                        Reason::WrongDevice,
                        format!("the credential is for another device than {} ({which})", self.device),
                    )
                } else if asks("workload") {
                    Denial::new(
                        Reason::WrongWorkload,
                        format!(
                            "the credential was handed to another workload; each program begins its own task ({which})"
                        ),
                    )
                } else if self.only_plans(verified) {
                    Denial::new(
                        Reason::NoRight,
                        format!(
                            "the credential only plans: exchange it for a step of another workload with `hardtack task step` or POST \
                             /v1/tasks/{{id}}/steps ({which})"
                        ),
                    )
                } else {
                    Denial::new(
                        Reason::NoRight,
                        format!("the task has no right to this operation on this resource; begin one that asks for it ({which})"),
                    )
                }
            }
            Some(Check::Time(alternatives)) => {
                let late = alternatives.iter().flatten().any(|bound| matches!(bound, TimeBound::Until(_)));
                let reason = if late { Reason::Expired } else { Reason::NotYetValid };
                Denial::new(reason, format!("a limit of the token on time does not hold ({which})"))
            }
            Some(Check::Other(_)) | None => {
                Denial::new(Reason::CheckFailed, format!("the token's holder did not allow this ({which})"))
            }
        };
        denial.by(Some(clause))
    }
}

/// Whether a check of a token is about the operation or the resource, as far as can be told: what rules make may be.
fn is_about_effect(failed: &FailedCheck, verified: &Verified) -> bool {
    let FailedCheck::Block(failed) = failed else { return false };
    let block = verified.token.blocks.get(failed.block_id as usize);
    let Some(Check::Other(asks)) = block.and_then(|block| block.checks.get(failed.check_id as usize)) else {
        return false;
    };
    let made = verified.token.blocks.iter().flat_map(|block| &block.rule_heads);
    let mut about = made.map(String::as_str).chain(["operation", "resource"]);
    about.any(|name| asks.iter().any(|asked| asked == name))
}

/// The name of the fact that an argument is told as.
fn argument_name(value: &Value) -> &'static str {
    match value {
        Value::Bool(_) | Value::Decimal(_) | Value::Integer(_) | Value::Text(_) => "argument",
        Value::Null => "argument_null",
        Value::Size(_) => "argument_size",
    }
}

fn argument_fact(name: &str, argument: &Argument) -> Fact {
    let mut terms = vec![Term::Str(argument.name.clone())];
    match &argument.value {
        Value::Bool(bool) => terms.push(Term::Bool(*bool)),
        Value::Decimal(text) | Value::Text(text) => terms.push(Term::Str(text.clone())),
        Value::Integer(integer) => terms.push(Term::Integer(*integer)),
        Value::Null => {}
        Value::Size(size) => terms.push(Term::Integer(i64::try_from(*size).unwrap_or(i64::MAX))),
    }
    Fact::new(name.to_owned(), terms)
}

fn fact(name: &str, term: Term) -> Fact {
    Fact::new(name.to_owned(), vec![term])
}
