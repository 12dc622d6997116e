//! How tasks end, and who waits for it.
//!
//! Owns: [`Ending`], the record of an end; which live tasks a revocation covers; callers who wait for an end.
//! Never: lets a task live on whose credential is covered; lets a caller wait without a bound.
//! Read next: `tasks.rs`, `grants.rs`, from where tasks end.

use std::collections::BTreeMap;

use super::effects::{Effects, LogEvent};
use super::holder::{is_his, not_his};
use super::request::{Ended, EndedReply, Evidence, Origin, Problem, ProblemCode, Reason, Reply, RequestId};
use super::token::{admit, Denial};
use super::wallet::{Made, StoredTask};
use super::{shorten, Agent, Now};
use crate::ids::{BlockId, TaskId};
use crate::mutant::{active, Mutant};
use crate::time::Millis;
use crate::wire::audit::{Event, TaskEvent, TaskStep};
use crate::wire::revocation::slot::Slot;
use crate::wire::revocation::Target;

/// The most blocks that the record of a task's end names: those of its newest credentials.
const CHAIN_MAX: usize = 16;
/// The most callers who wait for the end of a task.
pub(super) const WAITS_MAX: usize = 64;
/// How long one of them waits before he is told that it lives still, and may ask again.
pub(super) const WAIT_MAX: Millis = Millis::from_secs(25);

/// Why a task ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ending {
    /// Its time is over.
    Expired,
    /// Its holder finished it.
    Finished,
    /// What held it has ended.
    Gone(&'static str),
    /// What is known of it is not enough to go on with.
    Lost(&'static str),
    /// The fleet revoked it, or what it rests on.
    Revoked,
    /// Its uses are spent.
    UsesSpent,
}

impl Ending {
    const fn step(self) -> TaskStep {
        match self {
            // What was handed out of it is refused for that itself.
            Self::Expired | Self::UsesSpent => TaskStep::Ended,
            Self::Finished | Self::Gone(_) | Self::Lost(_) | Self::Revoked => TaskStep::Finished,
        }
    }

    const fn reason(self) -> &'static str {
        match self {
            Self::Expired => "its time is over",
            Self::Finished => "",
            Self::Gone(why) | Self::Lost(why) => why,
            Self::Revoked => "revoked by the fleet",
            Self::UsesSpent => "its uses are spent",
        }
    }

    /// Why a credential of a task is refused that ended so; of one whose end nobody remembers, that it has.
    pub(super) fn refusal(task: &TaskId, how: Option<Self>) -> Denial {
        let why = how.map(Self::reason).filter(|why| !why.is_empty()).map(|why| format!(": {why}")).unwrap_or_default();
        Denial::new(Reason::Revoked, format!("task {task} has ended{why}; begin another"))
    }

    const fn told(self) -> Ended {
        match self {
            Self::Expired => Ended::Expired,
            Self::Finished => Ended::Finished,
            Self::Gone(_) => Ended::Gone,
            Self::Lost(_) => Ended::Lost,
            Self::Revoked => Ended::Revoked,
            Self::UsesSpent => Ended::UsesSpent,
        }
    }
}

/// A caller who waits for the end of a task.
pub(super) struct Waiting {
    task: TaskId,
    uid: u32,
    until: Millis,
}

impl Agent {
    /// Ends a task: from now on its credentials are refused, and nothing is left to make another of.
    pub(super) fn end_task(&mut self, task: StoredTask, ending: Ending, now: Now, effects: &mut Effects) {
        let finished = task.finished || ending.step() == TaskStep::Finished;
        let token = if active(Mutant::StepOfEndedTask) { task.token } else { Vec::new() };
        let task = StoredTask { finished, token, ..task };
        self.put_task_file(&task, effects);
        let event = TaskEvent {
            task: Some(task.id.clone()),
            class: task.class.clone(),
            step: ending.step(),
            owner: Some(shorten(&task.owner, 256)),
            grant: Some(task.grant),
            workload: task.selectors.clone(),
            reason: ending.reason().into(),
            chain: task.made.iter().map(|made| made.block).take(CHAIN_MAX).collect(),
            of_step: None,
            initiator: task.initiator(),
        };
        let id = task.id.clone();
        let ties = task.ties.clone();
        self.wallet.put_task(task);
        self.answered.forget(&id);
        self.let_go(&ties, effects);
        self.write(Event::Task(Box::new(event)), Vec::new(), now, effects);
        effects.outgoing.logs.push(LogEvent::TaskEnded { task: id.clone(), how: ending.told().name() });
        self.wallet.note_ending(id.clone(), ending);
        let heard: Vec<RequestId> =
            self.waits.iter().filter(|(_, waiting)| waiting.task == id).map(|(request, _)| *request).collect();
        for request in heard {
            self.waits.remove(&request);
            effects.outgoing.reply(request, ended(&id, Some(ending.told())), now.boottime);
        }
    }

    /// Ends a task of which nothing can be used any more: neither it, nor a step that was taken before it was renewed.
    pub(super) fn end_if_spent(&mut self, id: &TaskId, now: Now, effects: &mut Effects) {
        let spent = |task: &&StoredTask| {
            let held = task.holds_credential() && self.wallet.uses_left(task) == Some(0);
            held && self.usable_steps(task).next().is_none()
        };
        if let Some(task) = self.wallet.task(id).filter(spent).cloned() {
            self.end_task(task, Ending::UsesSpent, now, effects);
        }
    }

    /// Ends every live task that a revocation covers: by its own name, or by anything that its credential rests on.
    pub(super) fn end_revoked_tasks(&mut self, now: Now, effects: &mut Effects) {
        let live = self.wallet.tasks().filter(|task| !task.finished);
        let revoked: Vec<StoredTask> = live.filter(|task| self.is_revoked(task)).cloned().collect();
        for task in revoked {
            self.end_task(task, Ending::Revoked, now, effects);
        }
    }

    fn is_revoked(&self, task: &StoredTask) -> bool {
        let floor = self.clock.over();
        if self.revocations.names(&Target::Task(task.id.clone()), floor) {
            return true;
        }
        // What has ended has no credential left, and a rule that is not its own takes nothing from it.
        let made_here = |block: &BlockId| self.wallet.made(block);
        let Ok(verified) = admit(&task.token, &self.profile.verify, &self.trust, made_here) else { return false };
        let slot = Slot::of(verified.claims.issued, verified.claims.expires);
        let handed_out = || newest(task).any(|made| self.revocations.covers_block(slot, &made.block));
        self.revocations.covers(&verified, &self.device, floor).is_some() || handed_out()
    }

    /// The answer to a caller who waits for a task's end; none where he has to.
    pub(super) fn wait_for_end(
        &mut self,
        id: RequestId,
        evidence: &Evidence,
        task: &TaskId,
        now: Now,
        effects: &mut Effects,
    ) -> Option<Reply> {
        let Some(known) = self.wallet.task(task).filter(|known| is_his(evidence, known)) else {
            return Some(not_his(evidence, task));
        };
        if known.finished || known.token.is_empty() {
            // After a start nobody remembers how; what is sure is that it has.
            let how = self.wallet.ending(task).map(Ending::told);
            let by_rule = self.revocations.names(&Target::Task(task.clone()), self.clock.over());
            let guess = match (known.finished, by_rule) {
                (true, true) => Ended::Revoked,
                (true, false) => Ended::Finished,
                (false, _) if self.wallet.uses_left(known) == Some(0) => Ended::UsesSpent,
                (false, _) => Ended::Expired,
            };
            return Some(ended(task, Some(how.unwrap_or(guess))));
        }
        if self.waits.len() >= WAITS_MAX && !self.make_way(evidence.uid, now, effects) {
            let detail = "too many callers wait for the end of a task; ask again later";
            return Some(Reply::Problem(Problem::new(ProblemCode::Throttled, detail)));
        }
        let until = Millis(now.boottime.0.saturating_add(WAIT_MAX.0));
        self.waits.insert(id, Waiting { task: task.clone(), uid: evidence.uid, until });
        None
    }

    /// Of the user who waits in the most places the one that has waited longest is told that its task lives still, for another
    /// user who has fewer places. Whether there was one.
    fn make_way(&mut self, uid: u32, now: Now, effects: &mut Effects) -> bool {
        let mut places = BTreeMap::<u32, usize>::new();
        self.waits.values().for_each(|waiting| *places.entry(waiting.uid).or_default() += 1);
        let own = places.get(&uid).copied().unwrap_or_default();
        let most = places.into_iter().max_by_key(|(_, count)| *count).filter(|(_, count)| *count > own + 1);
        let longest = most.and_then(|(most, _)| {
            let of = self.waits.iter().filter(|(_, waiting)| waiting.uid == most);
            of.min_by_key(|(request, waiting)| (waiting.until, **request)).map(|(request, _)| *request)
        });
        let Some((request, waiting)) = longest.and_then(|request| Some((request, self.waits.remove(&request)?))) else {
            return false;
        };
        effects.outgoing.reply(request, ended(&waiting.task, None), now.boottime);
        true
    }

    /// Whoever has waited for long is told that the task lives still.
    pub(super) fn answer_waits(&mut self, now: Now, effects: &mut Effects) {
        let due = |(_, waiting): &(&RequestId, &Waiting)| waiting.until <= now.boottime;
        let heard: Vec<RequestId> = self.waits.iter().filter(due).map(|(request, _)| *request).collect();
        for request in heard {
            if let Some(waiting) = self.waits.remove(&request) {
                effects.outgoing.reply(request, ended(&waiting.task, None), now.boottime);
            }
        }
    }

    /// When the first of those who wait is to be answered.
    pub(super) fn next_wait(&self) -> Option<Millis> {
        self.waits.values().map(|waiting| waiting.until).min()
    }
}

/// Blocks of a task's newest credential that were made here; those of what it was renewed from come after them.
fn newest(task: &StoredTask) -> impl Iterator<Item = &Made> {
    let count = match task.origin {
        // The credential's own and the child's.
        Origin::Fallback => 2,
        Origin::Issued => 1,
    };
    task.made.iter().take(count)
}

fn ended(task: &TaskId, how: Option<Ended>) -> Reply {
    Reply::Ended(EndedReply { task_id: task.clone(), ended: how })
}
