//! Tasks: begun just in time by the issuer, or here from the fallback grant; renewed; finished.
//!
//! Owns: who waits for the issuer and until when, the choice of the grant, what is recorded of a task.
//! Never: asks for less proof offline than online; hands out the wallet's own credential.
//! Read next: `wallet.rs`, which narrows.

use super::attest::selectors;
use super::clock::Stand;
use super::effects::{Budget, Effects, FileWrite, StateFile};
use super::ending::Ending;
use super::holder::{is_his, not_his, Held, Tie, TieCommand, KEY_BYTES_MAX};
use super::identity::Proved;
use super::request::{
    BeginTask, Evidence, FinishedReply, Mode, Origin, Problem, ProblemCode, Reason, Reply, RequestId, TaskReply,
};
use super::room::Class;
use super::steps::check_file;
use super::token::{admit, Denial, Kind};
use super::wallet::{child_of_issued, Grant, Life, Made, Narrowed, StoredTask};
use super::{shorten, Agent, Now};
use crate::ids::{BlockId, GrantId, Nonce, TaskId};
use crate::mutant::{active, Mutant};
use crate::time::{Millis, Timestamp};
use crate::wire::audit::{Event, TaskEvent, TaskStep};
use crate::wire::identity::Fault;
use crate::wire::link::{Ask, Right, TaskAsk};
use crate::wire::seal::SealingKey;
use crate::wire::token::{to_text, Purpose, Reach, TaskBlock, RESERVED, RIGHTS_MAX};

/// The longest life that a task may ask for.
pub(super) const TTL_MAX: Millis = Millis::from_secs(366 * 24 * 3600);

/// The most blocks of one task whose credentials have not ended: who renews faster than that waits.
const MADE_MAX: usize = 32;

/// How many tasks are remembered for each that may live: what has ended is refused until its time is proven to be over.
const REMEMBERED: usize = 4;

/// A credential that was just made, and what is kept of it.
struct Fresh {
    origin: Origin,
    grant: GrantId,
    owner: String,
    narrowed: Narrowed,
    /// The block that its uses are counted under, and how many there are.
    budget: Option<(BlockId, u64)>,
    ends: Timestamp,
    life: Option<Life>,
    holder: Vec<String>,
    executors: Vec<String>,
}

impl BeginTask {
    /// What the task's child is for.
    const fn purpose(&self) -> Purpose {
        if self.planner {
            Purpose::Plan
        } else {
            Purpose::Work
        }
    }
}

/// A caller who waits for the issuer.
pub(super) struct Want {
    pub(super) id: RequestId,
    pub(super) begin: BeginTask,
    pub(super) task: TaskId,
    pub(super) renews: bool,
    pub(super) selectors: Vec<String>,
    /// Who initiates it, if a document says so.
    pub(super) proved: Option<Proved>,
    pub(super) ties: Vec<Tie>,
    pub(super) uid: u32,
    pub(super) key: SealingKey,
    pub(super) deadline: Millis,
}

impl Want {
    /// The selectors by which a grant may let it begin: what the kernel attests, and what a document proves.
    fn begun_by(&self) -> Vec<String> {
        with_proved(&self.selectors, self.proved.as_ref())
    }

    /// When every credential of it ends at the latest, if a document says so.
    fn end_max(&self) -> Timestamp {
        let proved = self.proved.as_ref().filter(|_| !active(Mutant::IdentityOutlived));
        proved.map_or(Timestamp::MAX, |proved| proved.ends)
    }
}

/// Attested selectors, and after them those that a document proves.
fn with_proved(attested: &[String], proved: Option<&Proved>) -> Vec<String> {
    attested.iter().cloned().chain(proved.into_iter().flat_map(Proved::selectors)).collect()
}

impl Agent {
    /// Begins a task, or renews one. None: the issuer is asked first, the reply follows.
    pub(super) fn begin_task(
        &mut self,
        id: RequestId,
        evidence: &Evidence,
        begin: BeginTask,
        renews: Option<TaskId>,
        now: Now,
        effects: &mut Effects,
    ) -> Option<Reply> {
        self.make_room(now, effects);
        if !self.room().fits(Class::Critical) {
            return Some(Self::audit_problem(Class::Critical));
        }
        if let Err(problem) = check_begin(&begin) {
            return Some(Reply::Problem(problem));
        }
        let old = renews.as_ref().and_then(|task| self.wallet.task(task));
        let held = old.map_or_else(|| Held::of(evidence, &begin), |old| Ok(Held::again(evidence, old)));
        let Held { selectors, ties } = match held {
            Ok(held) => held,
            Err(denial) => return Some(self.refuse_task(&begin, renews, &selectors(evidence), denial, now, effects)),
        };
        if let Some(before) = self.answered_before(evidence, &begin) {
            return Some(before);
        }
        if let Err(denial) = self.check_admission(evidence.uid, renews.is_some()) {
            return Some(self.refuse_task(&begin, renews, &selectors, denial, now, effects));
        }
        let old = renews.as_ref().and_then(|task| self.wallet.task(task));
        let proved = match self.initiator_of(&begin, old) {
            Ok(proved) => proved,
            Err(fault) => return Some(self.refuse_document(&begin, renews, &selectors, fault, now, effects)),
        };
        let want = Want {
            id,
            task: renews.clone().unwrap_or_else(|| self.new_task_id()),
            renews: renews.is_some(),
            begin,
            selectors,
            proved,
            ties,
            uid: evidence.uid,
            key: SealingKey::generate(&mut self.rng),
            deadline: Millis(now.boottime.0 + self.profile.wallet.issuer_ms),
        };
        if self.uplink.is_online() && self.mode == Mode::Online {
            self.ask_issuer(want, now, effects);
            return None;
        }
        Some(self.narrow_grant(&want, now, effects))
    }

    fn check_admission(&self, uid: u32, renews: bool) -> Result<(), Denial> {
        self.check_condition()?;
        let limits = &self.profile.wallet;
        let live = || self.wallet.live(self.clock.stand());
        let own = |task: &&StoredTask| task.uid == uid;
        let full = live().count() + self.wants.len() >= limits.tasks_max;
        if !renews && (full || live().filter(own).count() >= limits.tasks_per_uid_max) {
            return Err(Denial::new(Reason::Throttled, "too many live tasks; finish one, or wait until one ends"));
        }
        let tasks = || self.wallet.tasks();
        let full = self.wallet.remembered() >= limits.tasks_max * REMEMBERED;
        if !renews && (full || tasks().filter(own).count() >= limits.tasks_per_uid_max * REMEMBERED) {
            let explain = "too many tasks that have ended before their time; wait until that is over";
            return Err(Denial::new(Reason::Throttled, explain));
        }
        Ok(())
    }

    /// Whether this device may hand anything out.
    pub(super) fn check_condition(&self) -> Result<(), Denial> {
        if self.mode == Mode::Locked {
            return Err(Denial::new(
                Reason::Locked,
                "this device is locked; `hardtack status` says why and what unlocks it",
            ));
        }
        if !self.room().fits(Class::Allow) {
            let full =
                "the audit has no room for another task's records; let the device reach its collector, or raise the \
                        quota of its profile";
            return Err(Denial::new(Reason::AuditFull, full));
        }
        Ok(())
    }

    fn new_task_id(&mut self) -> TaskId {
        use rand_core::RngCore;
        let mut bytes = [0; 8];
        self.rng.fill_bytes(&mut bytes);
        format!("t-{}", crate::ids::hex(&bytes)).parse().expect("hexadecimal is a valid task id")
    }

    fn ask_issuer(&mut self, want: Want, _: Now, effects: &mut Effects) {
        // Up to the end of the document that it rests on. What the issuer's clock makes of that is cut off when it answers.
        let left = want.end_max().since(self.clock.powered()).max(Millis::from_secs(1));
        let ttl_ms = Millis::from_secs(want.begin.ttl_s).min(left);
        let ask = TaskAsk {
            task: want.task.clone(),
            class: want.begin.task.clone(),
            selectors: want.begun_by(),
            rights: want.begin.rights.clone(),
            ttl_ms,
            uses: want.begin.uses,
        };
        let nonce = self.send_request(Ask::Task(ask), &want.key, effects);
        self.wants.insert(nonce, want);
    }

    /// The issuer's token came: it enters the wallet unchanged, the workload gets a child. One that may have ended before it could
    /// be used, because it is short and the time is known no better, gives way to the fallback grant, which is dated by this device.
    pub(super) fn issued(&mut self, want: Want, token: Vec<u8>, now: Now, effects: &mut Effects) {
        let taken = self.still_wanted(&want).and_then(|()| self.take_issued(&want, &token, now, effects));
        let reply = match taken {
            Ok(reply) => reply,
            Err(denial) => self.refuse_want(&want, denial, now, effects),
        };
        effects.outgoing.reply(want.id, reply, now.boottime);
    }

    fn take_issued(&mut self, want: &Want, token: &[u8], now: Now, effects: &mut Effects) -> Result<Reply, Denial> {
        let verified = admit(token, &self.profile.verify, &self.trust, |_| false)?;
        let claims = verified.claims.clone();
        let ours = claims.kind == Kind::Task
            && claims.device.as_deref() == Some(self.device.as_str())
            && claims.fleet == self.fleet.as_str()
            && claims.tasks == [want.task.to_string()];
        if !ours {
            return Err(Denial::new(Reason::Malformed, "the issuer answered with a token for something else"));
        }
        if claims.expires <= self.clock.powered() {
            let narrowed = self.choose_grant(want).and_then(|grant| self.narrow(want, &grant, now, effects));
            let short =
                "for all that this device knows of the time, what the issuer gave has ended by now; ask for longer";
            return narrowed.map_err(|_| Denial::new(Reason::TimeUntrusted, short));
        }
        // The grant behind it says by which selector it was begun; where it is not here, by the most special one.
        let grant = self.wallet.grant(&claims.grant);
        let begun_by = want.begun_by();
        let matched = grant.and_then(|grant| grant.may_begin(&begun_by, &want.begin.task));
        let holder = holder(&want.selectors, matched.or(want.selectors.last()));
        let ends = claims.expires.min(want.end_max());
        let executors = grant.map_or_else(Vec::new, |grant| grant.executors(&want.begin.task));
        let child = (holder.as_slice(), want.begin.purpose());
        let narrowed = child_of_issued(token, child, &self.device, &mut self.rng)
            .map_err(|refused| Denial::new(Reason::Malformed, format!("the issuer's token: {refused}")))?;
        let budget = claims.uses.first().map(|(block, max)| (verified.token.blocks[*block].id, *max));
        let fresh = Fresh {
            origin: Origin::Issued,
            grant: claims.grant,
            owner: claims.owner,
            narrowed,
            budget,
            ends,
            life: None,
            holder: owned(&holder),
            executors,
        };
        let task = self.stored(want, &fresh)?;
        // What was used while the issuer was waited for is used of the new one too.
        let left = self.wallet.task(&want.task).and_then(|old| self.uses_unplanned(old));
        if let Some(((block, max), left)) = budget.zip(left) {
            self.wallet.restore(Budget { block, used: max.saturating_sub(left), until: claims.expires });
        }
        Ok(self.keep_task(want, fresh, task, now, effects))
    }

    /// The issuer refused: that is final.
    pub(super) fn issuer_refused(&mut self, want: Want, text: &str, now: Now, effects: &mut Effects) {
        if !self.room().fits(Class::Denial) {
            return effects.outgoing.reply(want.id, Self::audit_problem(Class::Denial), now.boottime);
        }
        let detail = format!("the issuer refused: {}", shorten(text, 256));
        let renews = want.renews.then(|| want.task.clone());
        let asker = (want.selectors.as_slice(), want.proved.as_ref());
        self.record_refusal(renews, &want.begin, asker, &detail, now, effects);
        let problem = Problem { seen: want.selectors, ..Problem::new(ProblemCode::IssuerRefused, detail) };
        effects.outgoing.reply(want.id, Reply::Problem(problem), now.boottime);
    }

    /// Who waited long enough gets what the fallback grant gives.
    pub(super) fn expire_wants(&mut self, now: Now, effects: &mut Effects) {
        let connected = self.uplink.is_connected();
        let patient = active(Mutant::IssuerWaitedFor);
        let due: Vec<Nonce> = self
            .wants
            .iter()
            .filter(|(_, want)| !connected || want.deadline <= now.boottime && !patient)
            .map(|(nonce, _)| *nonce)
            .collect();
        for nonce in due {
            if let Some(want) = self.wants.remove(&nonce) {
                let reply = self.narrow_grant(&want, now, effects);
                effects.outgoing.reply(want.id, reply, now.boottime);
            }
        }
    }

    /// While the issuer was waited for, the task may have been finished, the device locked, the audit filled.
    fn still_wanted(&self, want: &Want) -> Result<(), Denial> {
        let ended = want.renews && self.wallet.task(&want.task).is_none_or(|task| task.finished);
        if ended {
            return Err(Ending::refusal(&want.task, self.wallet.ending(&want.task)));
        }
        self.check_condition()
    }

    /// Narrows the fallback grant that fits; where none does, says why the nearest does not.
    fn narrow_grant(&mut self, want: &Want, now: Now, effects: &mut Effects) -> Reply {
        let chosen = self.still_wanted(want).and_then(|()| self.choose_grant(want));
        match chosen.and_then(|grant| self.narrow(want, &grant, now, effects)) {
            Ok(reply) => reply,
            Err(denial) => self.refuse_want(want, denial, now, effects),
        }
    }

    fn choose_grant(&self, want: &Want) -> Result<Grant, Denial> {
        let begun_by = want.begun_by();
        let mut nearest = Denial::new(
            Reason::NoRight,
            format!(
                "no grant lets {} begin a task of class {:?} with these rights; ask the operator for a grant",
                begun_by.join(", "),
                want.begin.task
            ),
        );
        for (_, grant) in self.wallet.grants() {
            if grant.may_begin(&begun_by, &want.begin.task).is_none()
                || !grant.covers(&want.begin.task, &want.begin.rights)
            {
                continue;
            }
            match self.check_grant(grant) {
                Ok(()) => return Ok(grant.clone()),
                Err(denial) => nearest = denial,
            }
        }
        Err(nearest)
    }

    /// A grant that is revoked or spent gives no task that would be denied at once.
    fn check_grant(&self, grant: &Grant) -> Result<(), Denial> {
        let (claims, powered) = (&grant.claims, self.clock.powered());
        let verified = admit(&grant.token, &self.profile.verify, &self.trust, |_| false)?;
        self.judge().check_grant(&verified)?;
        if claims.expires <= powered {
            return Err(Denial::new(
                Reason::Expired,
                format!("the grant expired {}; it needs a successor", claims.expires),
            ));
        }
        Ok(())
    }

    fn narrow(&mut self, want: &Want, grant: &Grant, now: Now, effects: &mut Effects) -> Result<Reply, Denial> {
        let claims = grant.claims.clone();
        let bound = claims.task_ttl_max.filter(|_| !active(Mutant::TaskLifeAsAsked));
        let ttl = Millis::from_secs(want.begin.ttl_s).min(bound.unwrap_or(TTL_MAX));
        let ends = self.dated(ttl).min(claims.expires).min(want.end_max());
        let uses_max = self.uses_asked(want);
        let begun_by = want.begun_by();
        let matched = grant.may_begin(&begun_by, &want.begin.task);
        let holder = holder(&want.selectors, matched);
        let block = TaskBlock {
            task: &want.task,
            selector: matched.map_or(holder[0], String::as_str),
            class: &want.begin.task,
            device: &self.device,
            expires: ends,
            rights: &want.begin.rights,
            uses_max,
        };
        let narrowed = grant
            .narrow(&block, (&holder, want.begin.purpose()), &mut self.rng)
            .map_err(|refused| Denial::new(Reason::Malformed, format!("cannot be narrowed: {refused}")))?;
        let fresh = Fresh {
            origin: Origin::Fallback,
            grant: claims.grant,
            owner: claims.owner,
            budget: narrowed.made.first().copied().zip(uses_max),
            narrowed,
            ends,
            life: Some(self.life(ttl)),
            holder: owned(&holder),
            executors: grant.executors(&want.begin.task),
        };
        let task = self.stored(want, &fresh)?;
        self.activate(&claims.grant, now, effects);
        Ok(self.keep_task(want, fresh, task, now, effects))
    }

    /// The date of what is made now and is to be honoured for so long, in whole seconds, as the token's own check counts them.
    pub(super) fn dated(&self, ttl: Millis) -> Timestamp {
        let from = if active(Mutant::DatedByPowered) { self.clock.powered() } else { self.clock.tightened() };
        Timestamp::from_secs((from + ttl).secs_floor())
    }

    /// The life of what is made now.
    pub(super) fn life(&self, ttl: Millis) -> Life {
        let (Stand { boot, powered, spent, .. }, shift) = (self.clock.stand(), self.wallet.shift());
        let powered = Timestamp::from_secs((powered + ttl).secs_floor());
        Life { boot, spent: spent + shift + ttl, powered, shift }
    }

    /// How long what was made here of a grant is honoured yet, where a policy asks for no stricter class than that does.
    pub(super) fn life_left_of(&self, made: &Made, grant: &GrantId) -> Millis {
        let stand = self.clock.stand();
        let class = self.wallet.grant(grant).and_then(|grant| grant.claims.min_time_class);
        self.life_left(&made.ends, class).min(made.end(&stand, self.wallet.shift()).since(stand.powered))
    }

    /// Whether what was made here may be good yet.
    pub(super) fn may_live(&self, made: &Made) -> bool {
        made.may_live(&self.clock.stand(), self.wallet.shift())
    }

    /// A renewed task goes on with the uses that it has left, but for those of its steps.
    fn uses_asked(&self, want: &Want) -> Option<u64> {
        self.wallet.task(&want.task).map_or(want.begin.uses, |old| self.uses_unplanned(old))
    }

    /// What is kept of a task with a fresh credential, and of what was handed out of it before.
    ///
    /// # Errors
    /// Where that is more than its file can hold.
    fn stored(&self, want: &Want, fresh: &Fresh) -> Result<StoredTask, Denial> {
        let Fresh { ends, life, .. } = *fresh;
        let mut made: Vec<Made> = fresh.narrowed.made.iter().map(|block| Made { block: *block, ends, life }).collect();
        let (mut steps, mut siblings) = (Vec::new(), Vec::new());
        if let Some(old) = self.wallet.task(&want.task) {
            made.extend(old.made.iter().filter(|made| self.may_live(made)));
            (steps, siblings) = (old.steps.clone(), old.siblings.clone());
        }
        let task = StoredTask {
            id: want.task.clone(),
            class: want.begin.task.clone(),
            origin: fresh.origin,
            grant: fresh.grant,
            owner: fresh.owner.clone(),
            token: fresh.narrowed.credential.clone(),
            made,
            budget: fresh.budget.map(|(block, _)| block),
            selectors: want.selectors.clone(),
            uid: want.uid,
            rights: want.begin.rights.clone(),
            ttl_s: want.begin.ttl_s,
            uses_max: fresh.budget.map(|(_, max)| max),
            finished: false,
            ties: want.ties.clone(),
            purpose: want.begin.purpose(),
            holder: fresh.holder.clone(),
            executors: fresh.executors.clone(),
            steps,
            siblings,
            proved: want.proved.clone(),
        };
        check_file(&task)?;
        Ok(task)
    }

    fn keep_task(&mut self, want: &Want, fresh: Fresh, task: StoredTask, now: Now, effects: &mut Effects) -> Reply {
        let Fresh { origin, grant, owner, narrowed, budget, .. } = fresh;
        let Narrowed { child, chain, .. } = narrowed;
        let newest = Made { block: chain.last().copied().unwrap_or_default(), ends: fresh.ends, life: fresh.life };
        // What was handed out before keeps its own end, but no uses of its own: those alone of steps that may be used still.
        let old = self.wallet.task(&want.task);
        let spent = old.and_then(|old| {
            let until = old.made.first().map_or(newest.ends, Made::lapses);
            let unplanned = self.uses_unplanned(old).unwrap_or_default();
            old.budget.map(|block| Budget { block, used: self.wallet.used(&block).saturating_add(unplanned), until })
        });
        spent.iter().for_each(|budget| self.wallet.restore(*budget));
        effects.outgoing.ties.extend(task.ties.iter().map(|tie| TieCommand::Watch(*tie)));
        self.put_task_file(&task, effects);
        self.wallet.put_task(task);
        // Which blocks are ours is part of what a token was admitted under.
        self.cache.clear();
        let step = match (want.renews, origin) {
            (true, _) => TaskStep::Renewed,
            (false, Origin::Fallback) => TaskStep::BegunFallback,
            (false, Origin::Issued) => TaskStep::BegunIssued,
        };
        let event = TaskEvent {
            task: Some(want.task.clone()),
            class: want.begin.task.clone(),
            step,
            owner: Some(shorten(&owner, 256)),
            grant: Some(grant),
            workload: want.selectors.clone(),
            reason: shorten(want.begin.reason.as_deref().unwrap_or_default(), 256),
            chain,
            of_step: None,
            initiator: want.proved.as_ref().map(|proved| proved.initiator.clone()),
        };
        self.write(Event::Task(Box::new(event)), spent.into_iter().collect(), now, effects);
        let reply = TaskReply {
            task_id: want.task.clone(),
            token: to_text(&child),
            expires_in_s: self.life_left_of(&newest, &grant).secs(),
            uses: budget.map(|(_, max)| max),
            origin,
            grant_id: grant,
            mode: self.mode,
        };
        self.keep_answer(want, &reply, newest);
        Reply::Task(reply)
    }

    pub(super) fn put_task_file(&self, task: &StoredTask, effects: &mut Effects) {
        let file = StateFile::Task(task.id.clone());
        effects.batch.remove.retain(|removed| *removed != file);
        effects.batch.files.push(FileWrite { file, content: task.to_file() });
    }

    pub(super) fn renew_task(
        &mut self,
        id: RequestId,
        evidence: &Evidence,
        task: &TaskId,
        now: Now,
        effects: &mut Effects,
    ) -> Option<Reply> {
        let stand = self.clock.stand();
        let caller = selectors(evidence);
        // One that was used up is told so.
        let used_up = |task: &StoredTask| !task.finished && self.wallet.uses_left(task) == Some(0);
        let lives = |task: &&StoredTask| task.end(&stand, self.wallet.shift()) >= stand.powered;
        let live = self.wallet.task(task).filter(|task| task.holds_credential() || used_up(task)).filter(lives);
        let live = live.filter(|live| live.is_of(&caller)).cloned();
        let Some(live) = live else { return Some(not_his(evidence, task)) };
        if live.made.iter().filter(|made| self.may_live(made)).count() + 2 > MADE_MAX {
            let detail = "the task was renewed too often; wait until the credentials before have ended";
            return Some(Reply::Problem(Problem::new(ProblemCode::Throttled, detail)));
        }
        if self.wants.values().any(|want| want.task == live.id) {
            let detail = "this task is being renewed; wait for that answer";
            return Some(Reply::Problem(Problem::new(ProblemCode::Throttled, detail)));
        }
        let begin = BeginTask {
            task: live.class.clone(),
            rights: live.rights.clone(),
            ttl_s: live.ttl_s,
            uses: self.uses_unplanned(&live),
            planner: live.purpose == Purpose::Plan,
            reason: Some("renewed".into()),
            holder: None,
            lease: None,
            identity: None,
            key: None,
        };
        if begin.uses == Some(0) {
            let denial =
                Denial::new(Reason::UsesSpent, "the task's uses are spent, or those of its steps; begin another");
            return Some(self.refuse_task(&begin, Some(live.id), &caller, denial, now, effects));
        }
        self.begin_task(id, evidence, begin, Some(live.id), now, effects)
    }

    pub(super) fn finish_task(&mut self, evidence: &Evidence, id: &TaskId, now: Now, effects: &mut Effects) -> Reply {
        let Some(task) = self.wallet.task(id).filter(|task| is_his(evidence, task)).cloned() else {
            return not_his(evidence, id);
        };
        let reply = Reply::Finished(FinishedReply { task_id: id.clone(), finished: true });
        if task.finished {
            return reply;
        }
        // Whatever allows have no room for: to end one makes the device safer.
        if !self.room().fits(Class::Critical) {
            return Self::audit_problem(Class::Critical);
        }
        self.end_task(task, Ending::Finished, now, effects);
        reply
    }

    /// Refuses a begin of which no more is known than who asks.
    pub(super) fn refuse_task(
        &mut self,
        begin: &BeginTask,
        task: Option<TaskId>,
        selectors: &[String],
        denial: Denial,
        now: Now,
        effects: &mut Effects,
    ) -> Reply {
        self.refuse_begin(begin, task, (selectors, None), denial, now, effects)
    }

    /// Refuses what was wanted.
    pub(super) fn refuse_want(&mut self, want: &Want, denial: Denial, now: Now, effects: &mut Effects) -> Reply {
        let renews = want.renews.then(|| want.task.clone());
        let asker = (want.selectors.as_slice(), want.proved.as_ref());
        self.refuse_begin(&want.begin, renews, asker, denial, now, effects)
    }

    fn refuse_begin(
        &mut self,
        begin: &BeginTask,
        task: Option<TaskId>,
        asker: (&[String], Option<&Proved>),
        denial: Denial,
        now: Now,
        effects: &mut Effects,
    ) -> Reply {
        if !self.room().fits(Class::Denial) {
            return Self::audit_problem(Class::Denial);
        }
        let detail = shorten(&denial.explain, 512);
        let seen = with_proved(asker.0, asker.1);
        // A grant that is there and no good says so itself.
        let hint = (denial.reason == Reason::NoRight).then(|| self.hint(begin, &seen));
        self.record_refusal(task, begin, asker, denial.reason.name(), now, effects);
        Reply::Problem(Problem { detail, seen, hint, ..self.refusal(&denial) })
    }

    /// Refuses a begin for the identity document that was brought. What that says of who it is, nobody has proved.
    fn refuse_document(
        &mut self,
        begin: &BeginTask,
        task: Option<TaskId>,
        selectors: &[String],
        fault: Fault,
        now: Now,
        effects: &mut Effects,
    ) -> Reply {
        if !self.room().fits(Class::Denial) {
            return Self::audit_problem(Class::Denial);
        }
        self.record_refusal(task, begin, (selectors, None), fault.kind.name(), now, effects);
        let detail = shorten(&fault.detail, 512);
        Reply::Problem(Problem { seen: selectors.to_vec(), ..Problem::new(ProblemCode::Identity(fault.kind), detail) })
    }

    fn record_refusal(
        &mut self,
        task: Option<TaskId>,
        begin: &BeginTask,
        (selectors, proved): (&[String], Option<&Proved>),
        reason: &str,
        now: Now,
        effects: &mut Effects,
    ) {
        let event = TaskEvent {
            task,
            class: begin.task.clone(),
            step: TaskStep::Refused,
            owner: None,
            grant: None,
            workload: selectors.to_vec(),
            reason: shorten(reason, 256),
            chain: Vec::new(),
            of_step: None,
            initiator: proved.map(|proved| proved.initiator.clone()),
        };
        self.write(Event::Task(Box::new(event)), Vec::new(), now, effects);
    }
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

/// Whom a credential is bound to: the user always, and the selector by which the task was begun, if the kernel attests it.
/// A document is brought once, and nobody shows it again with each request.
fn holder<'s>(attested: &'s [String], matched: Option<&'s String>) -> Vec<&'s str> {
    let matched = matched.filter(|selector| attested.contains(selector));
    let mut holder: Vec<&str> = attested.first().into_iter().chain(matched).map(String::as_str).collect();
    holder.dedup();
    holder
}

/// The form of rights that are asked for.
///
/// # Errors
/// What is wrong, in a sentence.
pub(super) fn check_rights(rights: &[Right]) -> Result<(), String> {
    if rights.is_empty() || rights.len() > RIGHTS_MAX {
        return Err(format!("ask for 1 to {RIGHTS_MAX} rights"));
    }
    for right in rights {
        Reach::of(right).map_err(|refused| format!("right on {:?}: {refused}", right.resource))?;
        if right.action.is_empty() || right.action.len() > 256 || right.action.chars().any(char::is_control) {
            return Err("an action has 1 to 256 bytes and no control character".into());
        }
        if right.action.starts_with(RESERVED) {
            return Err("actions that begin with `hardtack:` are the agent's own".into());
        }
    }
    Ok(())
}

fn check_begin(begin: &BeginTask) -> Result<(), Problem> {
    let invalid = |detail: String| Problem::new(ProblemCode::InvalidRequest, detail);
    check_rights(&begin.rights).map_err(invalid)?;
    if begin.ttl_s == 0 || begin.ttl_s > TTL_MAX.secs() {
        return Err(invalid(format!("ttl_s goes from 1 to {}", TTL_MAX.secs())));
    }
    if begin.uses == Some(0) || begin.uses.is_some_and(|uses| i64::try_from(uses).is_err()) {
        return Err(invalid("uses goes from 1 to 2^63 - 1".into()));
    }
    if begin.reason.as_ref().is_some_and(|reason| reason.len() > 1024) {
        return Err(invalid("a reason has at most 1024 bytes".into()));
    }
    let possible = |key: &String| (1..=KEY_BYTES_MAX).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_graphic());
    if begin.key.as_ref().is_some_and(|key| !possible(key)) {
        return Err(invalid(format!("an idempotency key has 1 to {KEY_BYTES_MAX} visible ASCII characters")));
    }
    Ok(())
}
