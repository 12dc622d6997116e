//! What a task hangs on: the process that holds it, and the connection where it was begun to end with that.
//!
//! Owns: [`ProcessId`], which no other process ever has; whose task it is that somebody begins; the end of tasks whose
//! holder is gone; holding on again after a start; answers to who asks again with the same idempotency key.
//! Never: looks at a process. The shell watches, and says when one is gone.
//! Read next: `ending.rs`; `attest.rs` for what is known of a process.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::attest::{selectors, selectors_as};
use super::effects::Effects;
use super::ending::Ending;
use super::request::{
    BeginTask, Evidence, Lease, NotHolder, Peer, Problem, ProblemCode, Reason, Reply, Socket, TaskReply,
};
use super::tasks::Want;
use super::token::Denial;
use super::wallet::{Made, StoredTask};
use super::{Agent, Now};
use crate::ids::{BootId, Nonce, TaskId};
use crate::mutant::{active, Mutant};

/// The most bytes of an idempotency key.
pub const KEY_BYTES_MAX: usize = 128;

/// A process, told from every other that ever had its number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct ProcessId {
    /// The kernel's boot that it lives in.
    pub boot: BootId,
    /// Its number, as the agent's pid namespace has it.
    pub pid: u32,
    /// When it began, in clock ticks since that boot.
    pub started: u64,
}

/// Something that a task ends with.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum Tie {
    /// A connection, as the shell numbers them from its start on.
    Connection(u64),
    /// A process.
    Process(ProcessId),
}

impl Tie {
    const fn gone(self) -> &'static str {
        match self {
            Self::Connection(_) => "its connection ended",
            Self::Process(_) => "its process ended",
        }
    }
}

/// What the shell is to do about a tie. Either may come more than once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TieCommand {
    /// No task hangs on it any more.
    Leave(Tie),
    /// Say [`super::Input::Gone`] once it has ended: at once, if it has already.
    Watch(Tie),
}

/// The process among some ties.
pub fn process_of(ties: &[Tie]) -> Option<ProcessId> {
    ties.iter().find_map(|tie| match tie {
        Tie::Process(process) => Some(*process),
        Tie::Connection(_) => None,
    })
}

/// For whom a task is begun.
pub(super) struct Held {
    /// What is attested of him.
    pub(super) selectors: Vec<String>,
    /// What the task ends with.
    pub(super) ties: Vec<Tie>,
}

impl Held {
    /// Whose task it is that a caller begins. Where he names an ancestor of his as the holder, only what is attested of both
    /// counts: neither may do more through the other.
    ///
    /// # Errors
    /// When the process that asks, or the one that is named, is not there to hold it.
    pub(super) fn of(evidence: &Evidence, begin: &BeginTask) -> Result<Self, Denial> {
        let mut seen = selectors(evidence);
        let process = match (&evidence.process, begin.holder, &evidence.holder) {
            (Peer::Gone, _, _) => return Err(gone()),
            (Peer::Known(peer), None, _) => Some(peer.id),
            (Peer::Known(_), Some(_), Some(Ok(holder))) => {
                let his = selectors_as(evidence, holder);
                seen.retain(|selector| his.contains(selector));
                Some(holder.id)
            }
            (Peer::Known(_), Some(pid), named) => {
                let why = match named {
                    Some(Err(why)) => *why,
                    Some(Ok(_)) | None => NotHolder::Unknown,
                };
                let explain = format!(
                    "process {pid} {why}: name the process that asks or an ancestor of it, of the same user, as `holder`, by the number that the caller sees"
                );
                return Err(Denial::new(Reason::WrongWorkload, explain));
            }
            // Nobody can be watched: the task ends by its time, its uses, or when it is finished.
            (Peer::Unknown, _, _) => None,
        };
        let connection = match begin.lease {
            Some(Lease::Connection) => Some(evidence.connection.ok_or_else(|| {
                let explain = "this connection cannot hold a task: leave `lease` out";
                Denial::new(Reason::WrongWorkload, explain)
            })?),
            Some(Lease::Process) | None => None,
        };
        let ties = process.map(Tie::Process).into_iter().chain(connection.map(Tie::Connection)).collect();
        Ok(Self { selectors: seen, ties })
    }

    /// Whose task it is that its workload renews: it hangs on what it hung on, and of who asks counts what was attested before.
    pub(super) fn again(evidence: &Evidence, task: &StoredTask) -> Self {
        let mut seen = selectors(evidence);
        seen.retain(|selector| task.selectors.contains(selector));
        Self { selectors: seen, ties: task.ties.clone() }
    }
}

/// Whether a task is a caller's: of an operator of this gateway all are.
pub(super) fn is_his(evidence: &Evidence, task: &StoredTask) -> bool {
    evidence.socket == Socket::Admin || task.is_of(&selectors(evidence))
}

/// The answer to who asks about a task that is not his.
pub(super) fn not_his(evidence: &Evidence, task: &TaskId) -> Reply {
    let seen = selectors(evidence);
    let detail = match evidence.process {
        Peer::Gone => gone().explain,
        Peer::Known(_) | Peer::Unknown => {
            format!("no task {task} of yours, by the user and whatever else it was begun by; it may have ended")
        }
    };
    Reply::Problem(Problem { seen, ..Problem::new(ProblemCode::NotFound, detail) })
}

fn gone() -> Denial {
    let explain = "the process that opened this connection has ended, or runs as somebody else by now: connect again";
    Denial::new(Reason::WrongWorkload, explain)
}

impl Agent {
    /// Something that was watched has ended, and what hangs on it ends too.
    pub(super) fn on_gone(&mut self, tie: Tie, now: Now, effects: &mut Effects) {
        let held = |task: &&StoredTask| is_held(task) && task.ties.contains(&tie) && !active(Mutant::GoneUnheeded);
        let tasks: Vec<StoredTask> = self.wallet.tasks().filter(held).cloned().collect();
        for task in tasks {
            self.end_task(task, Ending::Gone(tie.gone()), now, effects);
        }
        let waits = |(_, want): &(&Nonce, &Want)| want.ties.contains(&tie);
        let waiting: Vec<Nonce> = self.wants.iter().filter(waits).map(|(nonce, _)| *nonce).collect();
        for nonce in waiting {
            if let Some(want) = self.wants.remove(&nonce) {
                let denial = Denial::new(Reason::WrongWorkload, format!("{} while the issuer was asked", tie.gone()));
                let reply = self.refuse_want(&want, denial, now, effects);
                effects.outgoing.reply(want.id, reply, now.boottime);
            }
        }
    }

    /// After a start, each task hangs on its process again, where that can live still; or it ends.
    pub(super) fn attach_again(&mut self, now: Now, effects: &mut Effects) {
        let held: Vec<StoredTask> = self.wallet.tasks().filter(|task| is_held(task)).cloned().collect();
        for task in held {
            let lost = task.ties.iter().find_map(|tie| match tie {
                Tie::Connection(_) => Some("the agent ended, and with it the connection that held the task"),
                Tie::Process(process) if process.boot != self.boot => Some("its process ended with an earlier boot"),
                Tie::Process(_) => None,
            });
            match lost {
                Some(why) => self.end_task(task, Ending::Gone(why), now, effects),
                None => effects.outgoing.ties.extend(task.ties.iter().map(|tie| TieCommand::Watch(*tie))),
            }
        }
    }

    /// A task has ended: what nothing else hangs on is watched no longer.
    pub(super) fn let_go(&self, ties: &[Tie], effects: &mut Effects) {
        for tie in ties {
            if !self.wallet.tasks().any(|task| is_held(task) && task.ties.contains(tie)) {
                effects.outgoing.ties.push(TieCommand::Leave(*tie));
            }
        }
    }

    /// The answer to who asked for the same before, under the same key.
    pub(super) fn answered_before(&self, evidence: &Evidence, begin: &BeginTask) -> Option<Reply> {
        let key = begin.key.as_ref()?;
        let other = || {
            let detail = "this idempotency key stands for another request: make a new key for each task";
            Some(Reply::Problem(Problem::new(ProblemCode::KeyReused, detail)))
        };
        let asked = self.wants.values().find(|want| want.uid == evidence.uid && want.begin.key.as_ref() == Some(key));
        if let Some(want) = asked {
            if want.begin != *begin {
                return other();
            }
            let detail = "this task is being begun; ask again when that is answered";
            return Some(Reply::Problem(Problem::new(ProblemCode::Throttled, detail)));
        }
        let before = self.answered.0.get(&(evidence.uid, key.clone()))?;
        // What one program was given another one of the same user does not get by its key.
        match Held::of(evidence, begin) {
            Ok(held) if held.selectors == before.selectors && before.begin == *begin => {
                let expires_in_s = self.life_left_of(&before.made, &before.reply.grant_id).secs();
                Some(Reply::Task(TaskReply { expires_in_s, mode: self.mode, ..before.reply.clone() }))
            }
            Ok(_) | Err(_) => other(),
        }
    }

    /// Keeps an answer for who asks again, as long as the task lives.
    pub(super) fn keep_answer(&mut self, want: &Want, reply: &TaskReply, made: Made) {
        if want.renews {
            return self.answered.renew(reply, made);
        }
        let Some(key) = want.begin.key.clone() else { return };
        let kept = Kept { begin: want.begin.clone(), selectors: want.selectors.clone(), reply: reply.clone(), made };
        self.answered.0.insert((want.uid, key), kept);
    }
}

/// Whether a task is live still: one that ended has no credential left.
fn is_held(task: &StoredTask) -> bool {
    !task.finished && !task.token.is_empty()
}

/// Answers by user and idempotency key: one for each live task at the most.
#[derive(Default)]
pub(super) struct Answered(BTreeMap<(u32, String), Kept>);

struct Kept {
    begin: BeginTask,
    selectors: Vec<String>,
    reply: TaskReply,
    made: Made,
}

impl Answered {
    /// The task has another credential.
    fn renew(&mut self, reply: &TaskReply, made: Made) {
        for kept in self.0.values_mut().filter(|kept| kept.reply.task_id == reply.task_id) {
            (kept.reply, kept.made) = (reply.clone(), made);
        }
    }

    /// The task has ended.
    pub(super) fn forget(&mut self, task: &TaskId) {
        self.0.retain(|_, kept| kept.reply.task_id != *task);
    }
}
