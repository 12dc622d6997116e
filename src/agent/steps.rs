//! Planners and executors: a planner exchanges its credential for steps, each one use for another workload.
//!
//! Owns: the exchange, for whom and for what a step may be, how many steps are remembered, the record of a step.
//! Never: hands a step to whoever plans it; lets one do what its task may not, or outlive its task; gives a token out twice.
//! Read next: `decide.rs`, which judges the exchange as it judges any other question; `attenuate.rs`.
//!
//! A planner that was taken over is no more than this: it may name, as executors, workloads that its grant names (`may_step`,
//! and `may_begin`, since those may have the task's rights anyway), but not itself; it may give them what its own task may do,
//! and no more of it than the task has uses and time.

use super::attest::{selectors, tells_apart};
use super::decide::{Judgement, Purpose};
use super::effects::Effects;
use super::request::{Authorize, Evidence, Problem, ProblemCode, Reason, Reply, StepReply, TakeStep};
use super::tasks::{check_rights, TTL_MAX};
use super::token::{admit, Denial};
use super::wallet::{Made, StoredStep, StoredTask, FILE_BYTES_MAX};
use super::{shorten, Agent, Now};
use crate::ids::{BlockId, EraId, Hash, StepId, TaskId};
use crate::mutant::{active, Mutant};
use crate::time::Millis;
use crate::wire::audit::{Event, NamedStep, TaskEvent, TaskStep};
use crate::wire::identity::FaultKind;
use crate::wire::link::Right;
use crate::wire::token::{covered, to_text, Held, StepBlock, EXCHANGE};
use crate::wire::Refused;

/// The most steps of one task that are remembered: used and ended ones are forgotten only when there is need, and only once it
/// is proven that they have ended. Of those that have not, all live tasks together have as many as the profile allows tasks, and
/// all tasks of one user, finished ones too, as many as it allows him.
pub(super) const STEPS_MAX: usize = 32;
/// The most bytes of an idempotency key.
const KEY_BYTES_MAX: usize = 128;

/// A step that may be taken, before its record is written.
struct Planned {
    /// The task as it is after that; the step is its last.
    task: StoredTask,
    token: Vec<u8>,
    chain: Vec<BlockId>,
}

impl Agent {
    /// Exchanges a planner's credential for a step's.
    pub(super) fn take_step(
        &mut self,
        evidence: &Evidence,
        task: &TaskId,
        ask: &TakeStep,
        now: Now,
        effects: &mut Effects,
    ) -> Reply {
        if let Err(detail) = check_form(ask) {
            return Reply::Problem(Problem::new(ProblemCode::InvalidRequest, detail));
        }
        let exchange = Authorize {
            token: ask.token.clone(),
            operation: EXCHANGE.into(),
            resource: task.to_string(),
            destination: Some(ask.executor.clone()),
            risk: ask.risk.clone(),
            task: Some(task.to_string()),
            step: None,
            arguments: None,
        };
        let further = |agent: &mut Self, judgement: &Judgement| agent.plan_step(ask, judgement);
        let decided = match self.decide(evidence, &exchange, Purpose::Exchange, further, now, effects) {
            Ok(decided) => decided,
            Err(class) => return Self::audit_problem(class),
        };
        let decision_id = self.decision_id(decided.audit);
        match decided.follows {
            Some(planned) => self.keep_step(planned, ask, (decided.audit.index, decision_id), now, effects),
            None => {
                let denial = Denial::new(decided.reason, decided.explain).by(decided.judgement.by());
                self.no_step(&denial, selectors(evidence), &decision_id)
            }
        }
    }

    /// What an exchange that the pipeline allows would give, or why it gives nothing all the same.
    fn plan_step(&mut self, ask: &TakeStep, judgement: &Judgement) -> Result<Planned, Denial> {
        let no_task = || Denial::new(Reason::CheckFailed, "the credential is of no task of this agent");
        let mut task = judgement.task.clone().ok_or_else(no_task)?;
        let presented = judgement.verified.clone().ok_or_else(no_task)?;
        check_executor(&task, &judgement.workload, &ask.executor)?;
        self.check_initiator(&task)?;
        let wide = ask.rights.iter().find(|right| !covered(right, &task.rights));
        if let Some(wide) = wide.filter(|_| !active(Mutant::StepWiderThanTask)) {
            let explain = format!(
                "the task has no right to {} {}; a step is for no more than its task",
                wide.action, wide.resource
            );
            return Err(Denial::new(Reason::NoRight, explain));
        }
        let key = ask.idempotency_key.as_ref().map(|key| Hash::of("hardtack/step-key/v1", &[key.as_bytes()]));
        let taken = task.steps.iter().find(|step| key.is_some() && step.key == key);
        if let Some(taken) = taken.filter(|_| !active(Mutant::StepTakenTwice)) {
            let explain = format!(
                "step {} was taken under this key, and a step's token is handed out once; where that was lost, ask under another key",
                taken.named.id
            );
            return Err(Denial::new(Reason::UsesSpent, explain));
        }
        let rests_on = task.budget.filter(|budget| presented.chain().any(|block| block == budget));
        if rests_on != task.budget {
            let explain = "the task was renewed, and its uses went over to the newer credential; exchange that one";
            return Err(Denial::new(Reason::UsesSpent, explain));
        }
        if self.uses_unplanned(&task) == Some(0) {
            let explain = "what uses the task has left are those of steps that were taken and not used yet; use them, or let them end";
            return Err(Denial::new(Reason::UsesSpent, explain));
        }
        self.make_room_for_step(&mut task)?;
        let id = self.new_step_id();
        let ttl = Millis::from_secs(ask.ttl_s);
        // What was presented may have been narrowed. The task is renewed, and forgets that it was, while the step is still in use.
        let rests: Vec<Made> = presented.chain().filter_map(|block| self.wallet.made_by(block)).copied().collect();
        let (stand, shift) = (self.clock.stand(), self.wallet.shift());
        let ends = rests.iter().map(|made| made.ends).chain([presented.claims.expires, self.dated(ttl)]).min();
        let ends = ends.unwrap_or_default();
        let left = rests.iter().map(|made| made.end(&stand, shift)).min().unwrap_or_default().since(stand.powered);
        let block = StepBlock {
            task: &task.id,
            step: &id,
            executor: &ask.executor,
            device: &self.device,
            expires: ends,
            rights: &ask.rights,
        };
        let sealed = |block: &StepBlock<'_>, rng: &mut _| -> Result<Held, Refused> {
            Held::from_bytes(&task.token)?.append(block.build()?, rng)?.seal()
        };
        let made = sealed(&block, &mut self.rng).and_then(|token| Ok((token.to_bytes()?, token.chain())));
        let (token, chain) = made.map_err(|refused| Denial::new(Reason::Malformed, format!("no step: {refused}")))?;
        self.check_made(&token, &chain)?;
        let block = chain.last().copied().unwrap_or_default();
        if !self.wallet.has_room(&block, self.profile.wallet.budgets_max) {
            let full = "this device counts as many budgets as its profile allows; wait until some end";
            return Err(Denial::new(Reason::Throttled, full));
        }
        task.steps.push(StoredStep {
            // The record is written after this, and says where it is.
            named: NamedStep {
                id,
                planner: task.holder.clone(),
                era: EraId { number: u64::MAX, salt: u64::MAX },
                index: u64::MAX,
            },
            made: Made { block, ends, life: Some(self.life(ttl.min(left))) },
            executor: ask.executor.clone(),
            rights: ask.rights.clone(),
            rests_on,
            key,
            checks: Vec::new(),
            scope: Vec::new(),
        });
        check_file(&task)?;
        Ok(Planned { task, token, chain })
    }

    /// Uses of a task's newest credential that are neither spent nor those of steps that may be used still, if they are bounded.
    pub(super) fn uses_unplanned(&self, task: &StoredTask) -> Option<u64> {
        let planned = self.usable_steps(task).filter(|step| step.rests_on.is_some() && step.rests_on == task.budget);
        let planned = u64::try_from(planned.count()).unwrap_or(u64::MAX);
        self.wallet.uses_left(task).map(|left| left.saturating_sub(planned))
    }

    /// Steps of a task that can be used still.
    pub(super) fn usable_steps<'t>(&'t self, task: &'t StoredTask) -> impl Iterator<Item = &'t StoredStep> {
        let (stand, shift) = (self.clock.stand(), self.wallet.shift());
        let lives = move |step: &&StoredStep| step.made.end(&stand, shift) >= stand.powered;
        task.steps.iter().filter(lives).filter(|step| self.wallet.used(&step.made.block) == 0)
    }

    /// An exchange rests on whoever initiated the task, as a renewal does.
    fn check_initiator(&self, task: &StoredTask) -> Result<(), Denial> {
        let proved = task.proved.as_ref().map_or(Ok(()), |before| self.prove_again(before).map(|_| ()));
        proved.map_err(|fault| {
            let reason = if fault.kind == FaultKind::Expired { Reason::Expired } else { Reason::Revoked };
            Denial::new(reason, fault.detail)
        })
    }

    /// Forgets steps that are proven to have ended, if there is need, and says where there is no room all the same.
    fn make_room_for_step(&mut self, task: &mut StoredTask) -> Result<(), Denial> {
        if task.steps.len() >= STEPS_MAX {
            task.steps.retain(|step| self.may_live(&step.made));
            // What a token may say hangs on which blocks are ours.
            self.cache.clear();
        }
        if task.steps.len() >= STEPS_MAX {
            let explain = format!("a task has at most {STEPS_MAX} steps that have not ended; wait until one ends");
            return Err(Denial::new(Reason::Throttled, explain));
        }
        let steps = |counts: &dyn Fn(&StoredTask) -> bool| {
            let all = self.wallet.tasks().filter(|other| counts(other)).flat_map(|other| &other.steps);
            all.filter(|step| self.may_live(&step.made)).count()
        };
        let limits = &self.profile.wallet;
        if steps(&|other| other.uid == task.uid) >= limits.tasks_per_uid_max {
            let explain = "this user has as many steps as the profile of this device allows one; wait until some end";
            return Err(Denial::new(Reason::Throttled, explain));
        }
        if steps(&|other| !other.finished) >= limits.tasks_max {
            let explain = "this device has as many steps as its profile allows; finish tasks, or wait until some end";
            return Err(Denial::new(Reason::Throttled, explain));
        }
        Ok(())
    }

    /// What was made here is not handed out where this device would refuse it for its form.
    pub(super) fn check_made(&self, token: &[u8], chain: &[BlockId]) -> Result<(), Denial> {
        let made_here = |block: &BlockId| self.wallet.made(block) || chain.last() == Some(block);
        admit(token, &self.profile.verify, &self.trust, made_here).map(|_| ()).map_err(|denial| {
            let explain = format!("this device would refuse what it gave ({}); ask for less", denial.explain);
            Denial::new(denial.reason, explain)
        })
    }

    fn new_step_id(&mut self) -> StepId {
        use rand_core::RngCore;
        let mut bytes = [0; 8];
        self.rng.fill_bytes(&mut bytes);
        format!("s-{}", crate::ids::hex(&bytes)).parse().expect("hexadecimal is a valid step id")
    }

    fn keep_step(
        &mut self,
        planned: Planned,
        ask: &TakeStep,
        (index, decision_id): (u64, String),
        now: Now,
        effects: &mut Effects,
    ) -> Reply {
        let Planned { mut task, token, chain } = planned;
        let era = self.trail.era();
        let Some(step) = task.steps.last_mut() else { return self.no_step(&lost(), Vec::new(), &decision_id) };
        (step.named.era, step.named.index) = (era, index);
        let step = step.clone();
        let named = step.named.clone();
        let reason = ask.reason.as_deref().map(|reason| format!(": {reason}")).unwrap_or_default();
        let event = TaskEvent {
            task: Some(task.id.clone()),
            class: task.class.clone(),
            step: TaskStep::Stepped,
            owner: Some(shorten(&task.owner, 256)),
            grant: Some(task.grant),
            workload: vec![ask.executor.clone()],
            reason: shorten(&format!("{}{reason}", in_words(&ask.rights)), 512),
            chain,
            of_step: Some(named.clone()),
            initiator: task.initiator(),
        };
        let reply = StepReply {
            task_id: task.id.clone(),
            step_id: named.id,
            token: to_text(&token),
            executor: ask.executor.clone(),
            expires_in_s: self.step_left(&task, &step).secs(),
            uses: 1,
            origin: task.origin,
            grant_id: task.grant,
            mode: self.mode,
            decision_id,
        };
        self.put_task_file(&task, effects);
        self.wallet.put_task(task);
        self.write(Event::Task(Box::new(event)), Vec::new(), now, effects);
        Reply::Step(reply)
    }

    /// A refusal, who was seen, and where it is recorded.
    fn no_step(&self, denial: &Denial, seen: Vec<String>, decision_id: &str) -> Reply {
        let detail = format!("{} (recorded as {decision_id})", denial.explain);
        Reply::Problem(Problem { detail, seen, ..self.refusal(denial) })
    }
}

fn lost() -> Denial {
    Denial::new(Reason::Malformed, "the step is in no task")
}

/// Whether the state of a task still fits into its file.
pub(super) fn check_file(task: &StoredTask) -> Result<(), Denial> {
    let full = "of this task, with its rights, steps and narrowed credentials, this device remembers as much as it can; ask for \
                less, or wait until some end";
    let fits = task.to_file().len() <= FILE_BYTES_MAX;
    fits.then_some(()).ok_or_else(|| Denial::new(Reason::Throttled, full))
}

/// For whom a step may be.
fn check_executor(task: &StoredTask, planner: &[String], executor: &String) -> Result<(), Denial> {
    let itself = planner.contains(executor) || task.selectors.contains(executor);
    if itself && !active(Mutant::StepForPlanner) {
        let explain = format!("{executor} is the planner itself; a step is for another workload");
        return Err(Denial::new(Reason::WrongWorkload, explain));
    }
    if !tells_apart(executor) && !active(Mutant::StepForUnnamed) {
        let explain = format!(
            "{executor} may be the planner too, and a step is for another workload; name a user, a unit, a container or a program"
        );
        return Err(Denial::new(Reason::WrongWorkload, explain));
    }
    if !task.executors.contains(executor) && !active(Mutant::StepForUnnamed) {
        let explain = format!(
            "grant {} lets nobody take a step for {executor} in a task of class {:?}; ask the operator for one with `--may-step {executor}={}`",
            task.grant, task.class, task.class
        );
        return Err(Denial::new(Reason::NoRight, explain));
    }
    Ok(())
}

fn in_words(rights: &[Right]) -> String {
    let words: Vec<String> = rights.iter().map(|right| format!("{} {}", right.action, right.resource)).collect();
    words.join(", ")
}

fn check_form(ask: &TakeStep) -> Result<(), String> {
    check_rights(&ask.rights)?;
    if ask.ttl_s == 0 || ask.ttl_s > TTL_MAX.secs() {
        return Err(format!("ttl_s goes from 1 to {}", TTL_MAX.secs()));
    }
    if ask.uses.is_some_and(|uses| uses != 1) {
        return Err("a step has one use: leave `uses` out, or say 1".into());
    }
    if ask.executor.is_empty() || ask.executor.len() > 256 || ask.executor.chars().any(char::is_control) {
        return Err("an executor is one selector of 1 to 256 bytes, for example unix:uid:2002".into());
    }
    let bad = |key: &String| key.is_empty() || key.len() > KEY_BYTES_MAX || key.chars().any(char::is_control);
    if ask.idempotency_key.as_ref().is_some_and(bad) {
        return Err(format!("an idempotency key has 1 to {KEY_BYTES_MAX} bytes and no control character"));
    }
    if ask.reason.as_ref().is_some_and(|reason| reason.len() > 1024) {
        return Err("a reason has at most 1024 bytes".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests;
