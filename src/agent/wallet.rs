//! What this device carries: fallback grants and the tasks that hold credentials made from them.
//!
//! Owns: grants and tasks with their blocks, which block this agent made, budgets of uses, narrowing.
//! Never: widens anything; hands out a grant or a task credential; drops a working grant before its successor is
//! durable; refunds a use.
//! Read next: `decide.rs`, which asks it; `tasks.rs`, which fills it.

use std::collections::{BTreeMap, BTreeSet};

use biscuit_auth::builder::BlockBuilder;
use rand_core::{CryptoRng, RngCore};
use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

use super::attest::tells_apart;
use super::clock::Stand;
use super::effects::Budget;
use super::ending::Ending;
use super::holder::Tie;
use super::identity::Proved;
use super::intact;
use super::request::Origin;
use super::token::Claims;
use crate::ids::{BlockId, BootId, DeviceId, FeedId, GrantId, Hash, StepId, TaskClass, TaskId};
use crate::time::{Millis, Timestamp};
use crate::wire::audit::{Initiator, NamedStep};
use crate::wire::link::{grants_digest, Right};
use crate::wire::token::{child_block, covered, Held, Purpose, TaskBlock};
use crate::wire::Refused;

/// The most bytes of a grant's or a task's file.
pub(super) const FILE_BYTES_MAX: usize = 64 * 1024;
/// The domains of the digests that the files begin with.
const GRANT: &str = "hardtack/wallet-grant/v1";
const TASK: &str = "hardtack/wallet-task/v1";
const LOSS: &str = "hardtack/wallet-loss/v1";

/// The file of a grant.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct StoredGrant {
    /// The Biscuit with its next secret key.
    pub token: Vec<u8>,
    /// Whether an outage has activated it.
    pub activation: Option<Activation>,
}

impl StoredGrant {
    /// What a file holds.
    ///
    /// # Errors
    /// [`Refused::DigestMismatch`] for a file that is damaged; [`Refused::Malformed`], [`Refused::TooLarge`].
    pub fn from_file(bytes: &[u8]) -> Result<Self, Refused> {
        intact::from_file(GRANT, bytes, FILE_BYTES_MAX)
    }
}

/// A grant in use without the fleet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Activation {
    /// Uses that were charged to it before.
    pub used: u64,
}

/// The file of a task.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct StoredTask {
    /// The task.
    pub id: TaskId,
    /// Its class.
    pub class: TaskClass,
    /// Where its credential comes from.
    pub origin: Origin,
    /// The grant behind it.
    pub grant: GrantId,
    /// Who answers for it.
    pub owner: String,
    /// The wallet's credential: a Biscuit with its next secret key. Empty once the task has ended.
    pub token: Vec<u8>,
    /// Blocks that this agent made for it, newest credential first: labels, checks and budgets in them are ours.
    pub made: Vec<Made>,
    /// The block that the newest credential's uses are counted under, if they are bounded.
    pub budget: Option<BlockId>,
    /// Selectors of the workload that holds it.
    pub selectors: Vec<String>,
    /// The workload's user.
    pub uid: u32,
    /// What it may do.
    pub rights: Vec<Right>,
    /// How long each of its credentials was asked to live, in seconds.
    pub ttl_s: u64,
    /// Uses that the newest credential allows.
    pub uses_max: Option<u64>,
    /// Whether it was ended: its blocks are refused until they would have expired.
    pub finished: bool,
    /// What it ends with: a process, and a connection.
    pub ties: Vec<Tie>,
    /// What its holder does with it.
    pub purpose: Purpose,
    /// The selectors that its child is bound to.
    pub holder: Vec<String>,
    /// Selectors for which steps of it may be taken, as its grant said when its newest credential was made.
    pub executors: Vec<String>,
    /// Steps that were taken of it, used and ended ones that are still remembered among them.
    pub steps: Vec<StoredStep>,
    /// Credentials that were narrowed further here, and those of steps that such a one took the place of.
    pub siblings: Vec<Sibling>,
    /// Who initiated it, if that was shown when it began.
    pub proved: Option<Proved>,
}

/// The file in the place of a task's that could not be read back: its credentials are refused until none of them can be good.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct StoredLoss {
    /// The task.
    pub id: TaskId,
    /// No credential of it ends later.
    pub ends: Timestamp,
}

impl StoredLoss {
    /// What a file holds.
    ///
    /// # Errors
    /// As [`StoredGrant::from_file`].
    pub fn from_file(bytes: &[u8]) -> Result<Self, Refused> {
        intact::from_file(LOSS, bytes, FILE_BYTES_MAX)
    }

    /// Its file.
    pub fn to_file(&self) -> Vec<u8> {
        intact::to_file(LOSS, self)
    }
}

/// A step in the file of its task.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct StoredStep {
    /// The step, who exchanged for it, and the record of that.
    pub named: NamedStep,
    /// The block of its credential, under which its one use is counted.
    pub made: Made,
    /// The selector of the workload that may use it.
    pub executor: String,
    /// What it may do.
    pub rights: Vec<Right>,
    /// The block under which the uses of the task's credential are counted that it was taken of, if those are bounded.
    pub rests_on: Option<BlockId>,
    /// The SHA-256 of the key under which it was asked for, if it was under one.
    pub key: Option<Hash>,
    /// The further checks after its block, where it was narrowed further.
    pub checks: Vec<String>,
    /// The rights that were left of those, with a check behind the others; none where that was not asked for.
    pub scope: Vec<Right>,
}

/// Another credential of a task, beside its child and its steps.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Sibling {
    /// The block that says whom it is for.
    pub made: Made,
    /// The step of which it was; none for one of the task's child.
    pub step: Option<StepId>,
    /// The further checks after that block.
    pub checks: Vec<String>,
    /// The rights that were left, with a check behind the others; none where that was not asked for.
    pub scope: Vec<Right>,
}

/// A block that this agent appended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Made {
    /// The block.
    pub block: BlockId,
    /// When the credential that it stands in ends: the date in it, or that of what it rests on.
    pub ends: Timestamp,
    /// How long it lives besides, if it was made here.
    pub life: Option<Life>,
}

/// So much powered-on time, and no more. The date of a credential that is made here counts from where the system clock may
/// stand, which may be wrong. Its life hangs on no clock that anybody sets, and no correction of P gives it anything.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Life {
    /// The boot that it began in.
    pub boot: BootId,
    /// It ends there by [`Stand::spent`], and corrections of P downwards beside that: by running, and by reboots, which cost.
    pub spent: Timestamp,
    /// In another boot it ends there by P too: nobody knows how long the device was off between the two.
    pub powered: Timestamp,
    /// The sum of all corrections of P downwards at that time. What came since counts off `powered`.
    pub shift: Millis,
}

impl Life {
    /// When it ends by P, after corrections that sum up to `shift`.
    fn end(&self, stand: &Stand, shift: Millis) -> Timestamp {
        let spent = stand.spent + shift;
        let end = stand.powered + self.spent.since(spent) - spent.since(self.spent);
        match self.boot == stand.boot {
            true => end,
            false => end.min(self.powered - Millis(shift.0.saturating_sub(self.shift.0))),
        }
    }
}

impl Made {
    /// When the credential ends by P, after corrections that sum up to `shift`.
    pub fn end(&self, stand: &Stand, shift: Millis) -> Timestamp {
        self.life.map_or(self.ends, |life| life.end(stand, shift).min(self.ends))
    }

    /// Once E is past this, the credential is over in every boot but the one that it was made in.
    pub fn lapses(&self) -> Timestamp {
        self.life.map_or(self.ends, |life| life.powered.min(self.ends))
    }

    /// Whether the credential may be good yet. Proof of time alone says that it is not: a device whose clock lags must not
    /// revive what has ended.
    pub fn may_live(&self, stand: &Stand, shift: Millis) -> bool {
        let lives = |life: Life| life.boot == stand.boot && life.spent >= stand.spent + shift;
        self.lapses() >= stand.over || (self.ends >= stand.over && self.life.is_some_and(lives))
    }
}

impl StoredTask {
    /// What a file holds.
    ///
    /// # Errors
    /// As [`StoredGrant::from_file`].
    pub fn from_file(bytes: &[u8]) -> Result<Self, Refused> {
        intact::from_file(TASK, bytes, FILE_BYTES_MAX)
    }

    /// Its file.
    pub fn to_file(&self) -> Vec<u8> {
        intact::to_file(TASK, self)
    }

    /// Whether the wallet's credential is still here.
    pub fn holds_credential(&self) -> bool {
        !self.finished && !self.token.is_empty()
    }

    /// Whether a workload is the one that it was handed to, as its credential's own check has it.
    pub fn is_of(&self, workload: &[String]) -> bool {
        self.holder.iter().all(|selector| workload.contains(selector))
    }

    /// Every block that was made for it here.
    pub fn all_made(&self) -> impl Iterator<Item = &Made> {
        let steps = self.steps.iter().map(|step| &step.made);
        self.made.iter().chain(steps).chain(self.siblings.iter().map(|sibling| &sibling.made))
    }

    /// The step that a block is of.
    pub fn step_of(&self, block: &BlockId) -> Option<&StoredStep> {
        let sibling = self.siblings.iter().find(|sibling| sibling.made.block == *block);
        let named = sibling.and_then(|sibling| sibling.step.as_ref());
        self.steps.iter().find(|step| step.made.block == *block || Some(&step.named.id) == named)
    }

    /// Who initiated it, if that was shown when it began.
    pub fn initiator(&self) -> Option<Initiator> {
        self.proved.as_ref().map(|proved| proved.initiator.clone())
    }

    /// When its newest credential ends by P, after corrections that sum up to `shift`.
    pub fn end(&self, stand: &Stand, shift: Millis) -> Timestamp {
        self.made.first().map_or(Timestamp(0), |made| made.end(stand, shift))
    }
}

/// A grant in the wallet.
#[derive(Clone, Debug)]
pub struct Grant {
    /// The Biscuit with its next secret key.
    pub token: Vec<u8>,
    /// What it states.
    pub claims: Claims,
    /// Its blocks; the first carries the budget.
    pub chain: Vec<BlockId>,
    /// Whether an outage has activated it.
    pub activation: Option<Activation>,
}

/// Grants, tasks and budgets.
#[derive(Debug, Default)]
pub struct Wallet {
    grants: BTreeMap<GrantId, Grant>,
    /// The digest over their ids; none before the first.
    grants_digest: Option<Hash>,
    tasks: BTreeMap<TaskId, StoredTask>,
    /// How those of them ended that did since the agent's start.
    endings: BTreeMap<TaskId, Ending>,
    /// Tasks whose files could not be read back: whether they had ended is not known any more.
    lost: BTreeMap<TaskId, StoredLoss>,
    /// Those of them of which a record tells, and their files do not yet.
    told: Vec<TaskId>,
    /// Grants whose files could not be read back.
    lost_grants: BTreeSet<GrantId>,
    /// Which task a block that this agent made belongs to.
    made: BTreeMap<BlockId, TaskId>,
    budgets: BTreeMap<BlockId, Budget>,
    /// Nothing of all this is forgotten before E is past this; none where that is to be found out.
    kept_until: Option<Timestamp>,
    /// No task that holds a credential ends by P before this; none where that is to be found out.
    next_end: Option<Timestamp>,
    /// The sum of all corrections of P downwards.
    shift: Millis,
    /// Counters of tokens that were issued up to here are lost.
    lost_until: Timestamp,
}

/// A task credential and the child that the workload gets.
pub struct Narrowed {
    /// The wallet's credential.
    pub credential: Vec<u8>,
    /// The workload's.
    pub child: Vec<u8>,
    /// Blocks that were appended here.
    pub made: Vec<BlockId>,
    /// The child's whole chain.
    pub chain: Vec<BlockId>,
}

impl Wallet {
    /// The feeds that grants name.
    pub fn feeds(&self) -> BTreeSet<FeedId> {
        let named = self.grants.values().filter_map(|grant| grant.claims.feed.as_ref());
        named.filter_map(|feed| feed.parse().ok()).collect()
    }

    /// Grants by id.
    pub fn grants(&self) -> impl Iterator<Item = (&GrantId, &Grant)> {
        self.grants.iter()
    }

    /// One grant.
    pub fn grant(&self, id: &GrantId) -> Option<&Grant> {
        self.grants.get(id)
    }

    /// Puts a grant in, in the place of one with the same id.
    pub fn put_grant(&mut self, id: GrantId, grant: Grant) {
        self.grants.insert(id, grant);
        self.grants_digest = Some(grants_digest(self.grants.keys().copied()));
    }

    /// Takes a grant out, and its secret out of memory.
    pub fn remove_grant(&mut self, id: &GrantId) {
        if let Some(mut grant) = self.grants.remove(id) {
            grant.token.zeroize();
        }
        self.grants_digest = Some(grants_digest(self.grants.keys().copied()));
    }

    /// The digest over the grants that are here, as `hello` names it.
    pub fn grants_digest(&self) -> Hash {
        self.grants_digest.unwrap_or_else(|| grants_digest([]))
    }

    /// Tasks, ended ones that are still remembered among them.
    pub fn tasks(&self) -> impl Iterator<Item = &StoredTask> {
        self.tasks.values()
    }

    /// One task.
    pub fn task(&self, id: &TaskId) -> Option<&StoredTask> {
        self.tasks.get(id)
    }

    /// How many tasks something is remembered of, if only that the rest is lost.
    pub fn remembered(&self) -> usize {
        self.tasks.len() + self.lost.len()
    }

    /// What was known of a task is lost.
    pub fn lose_task(&mut self, loss: StoredLoss) {
        self.kept_until = None;
        self.lost.insert(loss.id.clone(), loss);
    }

    /// Whether what was known of a task is lost.
    pub fn has_lost(&self, id: &TaskId) -> bool {
        self.lost.contains_key(id)
    }

    /// How a task of its ended.
    pub(super) fn note_ending(&mut self, id: TaskId, ending: Ending) {
        self.endings.insert(id, ending);
    }

    /// How a task ended; none of one that lives, or that ended before the agent's start.
    pub(super) fn ending(&self, id: &TaskId) -> Option<Ending> {
        self.endings.get(id).copied()
    }

    /// A record tells that what was known of a task is lost.
    pub fn tell_loss(&mut self, id: TaskId) {
        self.told.push(id);
    }

    /// Losses that records have told of since this was asked last.
    pub fn take_told(&mut self) -> Vec<StoredLoss> {
        std::mem::take(&mut self.told).iter().filter_map(|id| self.lost.get(id)).cloned().collect()
    }

    /// A grant's file could not be read back.
    pub fn lose_grant(&mut self, id: GrantId) {
        self.lost_grants.insert(id);
    }

    /// Grants that were lost, but for these: they are forgotten.
    pub fn take_lost_grants(&mut self, kept: &[GrantId]) -> BTreeSet<GrantId> {
        self.lost_grants.retain(|id| !kept.contains(id));
        std::mem::take(&mut self.lost_grants)
    }

    /// Live tasks.
    pub fn live(&self, stand: Stand) -> impl Iterator<Item = &StoredTask> {
        self.tasks.values().filter(move |task| task.holds_credential() && task.end(&stand, self.shift) >= stand.powered)
    }

    /// Whether the newest credential of a task that holds one may have ended.
    pub fn may_have_ended(&mut self, stand: &Stand) -> bool {
        let by = stand.powered;
        if self.next_end.is_some_and(|next_end| by <= next_end) {
            return false;
        }
        // What was known may be out of date: corrections of P upwards move the end of a life in this boot with it.
        let holds = self.tasks.values().filter(|task| task.holds_credential());
        let next_end = holds.map(|task| task.end(stand, self.shift)).min().unwrap_or(Timestamp::MAX);
        self.next_end = Some(next_end);
        by > next_end
    }

    /// How long it takes at the least until a task that holds a credential may have ended, if there is one.
    pub fn next_end_in(&self, stand: &Stand) -> Option<Millis> {
        let next_end = self.next_end.filter(|next_end| *next_end < Timestamp::MAX)?;
        Some((next_end + Millis(1)).since(stand.powered))
    }

    /// Puts a task in, in the place of one with the same id.
    pub fn put_task(&mut self, task: StoredTask) {
        (self.kept_until, self.next_end) = (None, None);
        if crate::mutant::active(crate::mutant::Mutant::ChildResetsBudget) {
            self.budgets.clear();
        }
        self.made.retain(|_, owner| *owner != task.id);
        self.made.extend(task.all_made().map(|made| (made.block, task.id.clone())));
        if let Some(mut old) = self.tasks.insert(task.id.clone(), task) {
            old.token.zeroize();
        }
    }

    /// Forgets tasks whose every credential is proven to have expired, and says which. Entries lapse by E only: a device
    /// whose clock lags must not revive an ended task.
    pub fn forget(&mut self, stand: &Stand) -> Vec<TaskId> {
        let (floor, shift) = (stand.over, self.shift);
        if self.kept_until.is_some_and(|until| floor <= until) {
            return Vec::new();
        }
        let over = |task: &&StoredTask| !task.all_made().any(|made| made.may_live(stand, shift));
        let lost = self.lost.values().filter(|loss| loss.ends < floor).map(|loss| &loss.id);
        let gone: Vec<TaskId> = self.tasks.values().filter(over).map(|task| &task.id).chain(lost).cloned().collect();
        for id in &gone {
            self.tasks.remove(id);
            self.endings.remove(id);
            self.lost.remove(id);
        }
        self.made.retain(|_, task| self.tasks.contains_key(task));
        let mut budgets = std::mem::take(&mut self.budgets);
        let lives = |block: &BlockId| self.made_by(block).is_some_and(|made| made.may_live(stand, shift));
        budgets.retain(|block, budget| budget.until >= floor || lives(block));
        self.budgets = budgets;
        let end = |made: &Made| made.lapses().max(made.end(stand, shift));
        let ends = |task: &StoredTask| task.all_made().map(end).max().unwrap_or_default();
        let kept = self.tasks.values().map(ends).chain(self.lost.values().map(|loss| loss.ends));
        let kept = kept.chain(self.budgets.values().map(|budget| budget.until));
        self.kept_until = Some(kept.min().unwrap_or(Timestamp::MAX));
        self.next_end = None;
        gone
    }

    /// P was corrected down by `correction`: the end of every credential that was dated here moves down with it.
    pub fn shorten(&mut self, correction: Millis) {
        self.shift = Millis(self.shift.0.saturating_add(correction.0));
        self.next_end = None;
    }

    /// The sum of all corrections of P downwards, for the anchor.
    pub fn shift(&self) -> Millis {
        self.shift
    }

    /// Up to when tokens with a budget of their own count as spent: the counters of that time are lost.
    pub fn lost_until(&self) -> Timestamp {
        self.lost_until
    }

    /// Counters of tokens that were issued up to `time` are lost, of later ones not.
    pub fn lose_counters(&mut self, time: Timestamp) {
        self.lost_until = time;
    }

    /// Takes the sum of corrections from the anchor.
    pub fn restore_shift(&mut self, shift: Millis) {
        self.shift = shift;
        self.next_end = None;
    }

    /// The earliest date of what this agent made of a chain.
    pub fn date_of<'a>(&self, chain: impl Iterator<Item = &'a BlockId>) -> Option<Timestamp> {
        chain.filter_map(|block| self.made_by(block)).map(|made| made.ends).min()
    }

    /// When the first life of what this agent made of a chain ends by P.
    pub fn life_of<'a>(&self, chain: impl Iterator<Item = &'a BlockId>, stand: &Stand) -> Option<Timestamp> {
        let lives = chain.filter_map(|block| self.made_by(block)?.life);
        lives.map(|life| life.end(stand, self.shift)).min()
    }

    /// What is kept of a block that this agent made.
    pub fn made_by(&self, block: &BlockId) -> Option<&Made> {
        let task = self.tasks.get(self.made.get(block)?)?;
        task.all_made().find(|made| made.block == *block)
    }

    /// Whether this agent made a block.
    pub fn made(&self, block: &BlockId) -> bool {
        self.made.contains_key(block)
    }

    /// The task of the last block of a chain that this agent made.
    pub fn task_of<'a>(&self, chain: impl DoubleEndedIterator<Item = &'a BlockId>) -> Option<&StoredTask> {
        chain.rev().find_map(|block| self.made.get(block)).and_then(|id| self.tasks.get(id))
    }

    /// The step of the last block of a chain that this agent made, if it is of one.
    pub fn step_of<'a>(&self, chain: impl DoubleEndedIterator<Item = &'a BlockId>) -> Option<&StoredStep> {
        let block = chain.rev().find(|block| self.made.contains_key(block))?;
        self.tasks.get(self.made.get(block)?)?.step_of(block)
    }

    /// Uses charged to a block so far.
    pub fn used(&self, block: &BlockId) -> u64 {
        self.budgets.get(block).map_or(0, |budget| budget.used)
    }

    /// Uses charged to a grant; all of them where its counter is lost.
    pub fn spent(&self, grant: &Grant) -> u64 {
        if grant.claims.issued <= self.lost_until {
            return u64::MAX;
        }
        grant.chain.first().map_or(0, |block| self.used(block))
    }

    /// Uses that a task's newest credential has left, if they are bounded.
    pub fn uses_left(&self, task: &StoredTask) -> Option<u64> {
        let used = task.budget.map_or(0, |block| self.used(&block));
        task.uses_max.map(|max| max.saturating_sub(used))
    }

    /// Whether one more counter fits.
    pub fn has_room(&self, block: &BlockId, budgets_max: usize) -> bool {
        self.budgets.contains_key(block) || self.budgets.len() < budgets_max
    }

    /// Charges one use and says where the budget stands.
    pub fn charge(&mut self, block: BlockId, until: Timestamp) -> Budget {
        self.kept_until = None;
        let budget = self.budgets.entry(block).or_insert(Budget { block, used: 0, until });
        if !crate::mutant::active(crate::mutant::Mutant::BudgetNotCharged) {
            budget.used = budget.used.saturating_add(1);
        }
        *budget
    }

    /// Budgets, for the anchor.
    pub fn budgets(&self) -> Vec<Budget> {
        self.budgets.values().copied().collect()
    }

    /// Takes a budget from the anchor or a replayed record: the higher count stands.
    pub fn restore(&mut self, budget: Budget) {
        self.kept_until = None;
        let known = self.budgets.entry(budget.block).or_insert(budget);
        known.used = known.used.max(budget.used);
    }

    /// Charges every budget what may have been used in records that are lost.
    pub fn overcharge(&mut self, uses: u64) {
        // What was charged for the first time in what is lost has no counter yet.
        let grants = self.grants.values().filter(|grant| !grant.claims.uses.is_empty());
        let grants = grants.filter_map(|grant| Some((*grant.chain.first()?, grant.claims.expires)));
        let tasks = self.tasks.values().filter_map(|task| Some((task.budget?, task.made.first()?.lapses())));
        let steps = self.tasks.values().flat_map(|task| &task.steps).map(|step| (step.made.block, step.made.lapses()));
        let begun = grants.chain(tasks).chain(steps).map(|(block, until)| Budget { block, used: 0, until });
        // What another credential took the place of was spent when that was made, perhaps in what is lost.
        let renewed =
            self.tasks.values().filter(|task| task.budget.is_some()).flat_map(|task| task.made.iter().skip(1));
        let narrowed = self.tasks.values().flat_map(|task| &task.siblings).filter(|sibling| sibling.step.is_some());
        let replaced = renewed.chain(narrowed.map(|sibling| &sibling.made));
        let replaced = replaced.map(|made| Budget { block: made.block, used: u64::MAX, until: made.lapses() });
        let counters: Vec<Budget> = begun.chain(replaced).collect();
        counters.into_iter().for_each(|budget| self.restore(budget));
        for budget in self.budgets.values_mut() {
            budget.used = budget.used.saturating_add(uses);
        }
    }

    /// Spends the budget of every grant: nobody knows what was used.
    pub fn spend_all(&mut self) {
        let spent: Vec<Budget> = self
            .grants
            .values()
            .filter_map(|grant| {
                let block = *grant.chain.first()?;
                Some(Budget { block, used: u64::MAX, until: grant.claims.expires })
            })
            .collect();
        spent.into_iter().for_each(|budget| self.restore(budget));
        self.overcharge(u64::MAX);
    }
}

impl Grant {
    /// Its file.
    pub fn stored(&self) -> Vec<u8> {
        intact::to_file(GRANT, &StoredGrant { token: self.token.clone(), activation: self.activation })
    }

    /// The most special of the selectors that may begin a class of task, if one may.
    pub fn may_begin<'s>(&self, selectors: &'s [String], class: &TaskClass) -> Option<&'s String> {
        let named = |selector: &&String| {
            self.claims.may_begin.iter().any(|(may, named)| named == class.as_str() && may == *selector)
        };
        selectors.iter().rev().find(named)
    }

    /// For whom planners of a class of task may take steps: whom the grant names for that, and who may begin such a task anyway.
    pub fn executors(&self, class: &TaskClass) -> Vec<String> {
        let named = self.claims.may_step.iter().chain(&self.claims.may_begin);
        let named = named.filter(|(selector, named)| named == class.as_str() && tells_apart(selector));
        named.map(|(selector, _)| selector.clone()).collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Whether its rights of a class cover every right asked for.
    pub fn covers(&self, class: &TaskClass, rights: &[Right]) -> bool {
        let held = || self.claims.class_rights.iter().filter(|held| held.class == *class).map(|held| &held.right);
        rights.iter().all(|right| covered(right, held()))
    }

    /// Narrows the grant to a task credential, and that to the workload's sealed child.
    ///
    /// # Errors
    /// When the parts cannot stand in a token.
    pub fn narrow(
        &self,
        block: &TaskBlock<'_>,
        (holder, purpose): (&[&str], Purpose),
        rng: &mut (impl RngCore + CryptoRng),
    ) -> Result<Narrowed, Refused> {
        let credential = Held::from_bytes(&self.token)?.append(block.build()?, rng)?;
        child(&credential, child_block(holder, purpose, None)?, self.chain.len(), rng)
    }
}

/// Makes the workload's sealed child of an issuer's task token, which itself stays in the wallet unchanged.
///
/// # Errors
/// When the token cannot be narrowed.
pub fn child_of_issued(
    token: &[u8],
    (holder, purpose): (&[&str], Purpose),
    device: &DeviceId,
    rng: &mut (impl RngCore + CryptoRng),
) -> Result<Narrowed, Refused> {
    let credential = Held::from_bytes(token)?;
    let issued = credential.chain().len();
    child(&credential, child_block(holder, purpose, Some(device))?, issued, rng)
}

fn child(
    credential: &Held,
    block: BlockBuilder,
    not_ours: usize,
    rng: &mut (impl RngCore + CryptoRng),
) -> Result<Narrowed, Refused> {
    let child = credential.append(block, rng)?.seal()?;
    let chain = child.chain();
    Ok(Narrowed {
        credential: credential.to_bytes()?,
        child: child.to_bytes()?,
        made: chain[not_ours.min(chain.len())..].to_vec(),
        chain,
    })
}
