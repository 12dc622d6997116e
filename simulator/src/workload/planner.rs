//! Planners on the gateways, and the programs that do what they planned: a planner's task is exchanged for steps.
//!
//! Owns: what they ask for, what is tried with a planner's credential or a step by whoever misuses it, and what becomes of an
//! exchange.
//! Never: judges an exchange; `check/authority/steps.rs` does.
//! Read next: `workload.rs`, for all other programs.

use hardtack::agent::effects::ALLOW_WAIT_MAX;
use hardtack::agent::request::{Problem, ProblemCode, Request, Socket, StepReply, TakeStep};
use hardtack::ids::EraId;
use hardtack::wire::audit::{Named, NamedStep};
use hardtack::wire::biscuit;
use hardtack::wire::link::Right;
use hardtack::wire::token::{from_text, Held, EXCHANGE};

use super::{ends_of, rights, Asked, Program, Using, World, ONE_RESOURCE, PROGRAMS, TOKEN_BYTES_MAX};
use crate::check::authority::{Exchange, Given, Presented};
use crate::device::Device;
use crate::event::Event;
use crate::fault::Misuse;
use crate::model::{Credential, Made, Role, Standing, Stepped};
use crate::plan::{Planning, TokenChoice};
use crate::world::Checks;

/// The planner: it may begin tasks of a class of their own, and its grant names for whom it may take steps.
pub(super) const PLANNER: Program = Program { uid: 1003, class: "plan", writes: PROGRAMS[0].writes };
/// The users of the programs that do what was planned.
pub(crate) const EXECUTORS: [u32; 2] = [2001, 2002];

/// What grants let planners begin: selector, class, and what a task of theirs may do.
pub(crate) fn planner_class() -> (String, &'static str) {
    (selector(PLANNER.uid), PLANNER.class)
}

/// What a planner's task may do.
pub(crate) fn planner_rights() -> [Right; 2] {
    rights(&PLANNER)
}

/// How grants name a user.
pub(crate) fn selector(uid: u32) -> String {
    format!("unix:uid:{uid}")
}

/// What a step can be for: each a part of what its task may do.
fn part(pick: u64) -> Right {
    let [writes, reads] = planner_rights();
    match pick % 3 {
        0 => writes,
        1 => Right { resource: ONE_RESOURCE.into(), ..reads },
        _ => reads,
    }
}

/// Something that a right covers: operation and resource.
pub(super) fn done_with(right: &Right) -> (&str, &str) {
    let resource = if right.resource.ends_with('*') { ONE_RESOURCE } else { right.resource.as_str() };
    (right.action.as_str(), resource)
}

impl World<'_> {
    /// A planner, or an executor, on an ordinary day.
    pub(crate) fn plan(&mut self, device: u32, does: Planning, pick: u64) {
        let Some(planner) = self.scenario.workload.planner.as_ref().filter(|_| self.is_running(device)) else { return };
        match does {
            Planning::Begins => self.begin(device, &PLANNER, (planner.task_ttl.0, planner.task_uses), None),
            Planning::Executes => {
                let Some(number) = self.step_of(device, pick, Standing::Good) else { return };
                self.execute(device, number, TokenChoice::Valid, pick);
            }
            Planning::Finishes => {
                let Some(number) = self.planner_of(device, pick, Standing::Good) else { return };
                self.finish_this(device, number);
            }
            Planning::Steps => {
                let Some(number) = self.planner_of(device, pick, Standing::Good) else { return };
                let exchange = self.exchange(number, pick);
                self.take_step(device, exchange);
            }
        }
    }

    /// Somebody tries what is not due to him.
    pub(crate) fn misuse(&mut self, device: u32, how: Misuse, pick: u64) {
        if !self.is_running(device) {
            return;
        }
        let standing = match how {
            Misuse::Ended | Misuse::Late => Standing::Finished,
            Misuse::Again => Standing::Spent,
            Misuse::Acts
            | Misuse::Beyond
            | Misuse::Itself
            | Misuse::Planner
            | Misuse::Repeated
            | Misuse::Stolen
            | Misuse::Stranger
            | Misuse::Unnamed
            | Misuse::Wider => Standing::Good,
        };
        let of_planner = how.is_of_planners();
        let number = match of_planner {
            true => self.planner_of(device, pick, standing),
            false => self.step_of(device, pick, standing),
        };
        let Some(number) = number else { return };
        let asked =
            if of_planner { self.hijack(device, number, how, pick) } else { self.misuse_step(device, number, how) };
        if asked.is_some() {
            self.took_effect(how.name());
        }
    }

    /// What a planner that was taken over tries, or somebody else with its credential. None where that cannot be tried yet.
    fn hijack(&mut self, device: u32, planner: usize, how: Misuse, pick: u64) -> Option<()> {
        let mut exchange = self.exchange(planner, pick);
        match how {
            Misuse::Acts => {
                let (operation, resource) = done_with(&exchange.right);
                let uid = self.model.get(planner).uid;
                self.show(device, planner, (uid, operation, resource), TokenChoice::Foreign, exchange.presented.risk);
                return Some(());
            }
            Misuse::Itself => exchange.executor = PLANNER.uid,
            Misuse::Repeated => {
                let Role::Plan { keys } = &self.model.get(planner).role else { return None };
                exchange.key = keys.last()?.clone();
            }
            Misuse::Stolen => exchange.presented.uid = PROGRAMS[1].uid,
            Misuse::Unnamed => exchange.executor = PROGRAMS[1].uid,
            Misuse::Wider => exchange.right = rights(&PROGRAMS[1])[0].clone(),
            Misuse::Ended => {}
            Misuse::Again | Misuse::Beyond | Misuse::Late | Misuse::Planner | Misuse::Stranger => return None,
        }
        self.take_step(device, exchange);
        Some(())
    }

    /// What is tried with a step. None where that cannot be tried with this one.
    fn misuse_step(&mut self, device: u32, step: usize, how: Misuse) -> Option<()> {
        let credential = self.model.get(step);
        let Role::Step(Stepped { right, .. }) = &credential.role else { return None };
        let right = right.clone();
        let (own, risk) = (credential.uid, self.scenario.workload.risks[0].clone());
        let (uid, choice) = match how {
            Misuse::Again => (own, TokenChoice::Spend),
            Misuse::Beyond => (own, TokenChoice::Foreign),
            Misuse::Late => (own, TokenChoice::Finished),
            Misuse::Planner => (PLANNER.uid, TokenChoice::Stranger),
            Misuse::Stranger => (EXECUTORS.into_iter().find(|uid| *uid != own)?, TokenChoice::Stranger),
            Misuse::Acts
            | Misuse::Ended
            | Misuse::Itself
            | Misuse::Repeated
            | Misuse::Stolen
            | Misuse::Unnamed
            | Misuse::Wider => return None,
        };
        let [writes, reads] = planner_rights();
        let other = if right.action == writes.action { reads } else { writes };
        let (operation, resource) = done_with(if how == Misuse::Beyond { &other } else { &right });
        if how == Misuse::Planner {
            // At the door of enforcement points, too: there nobody attests the workload.
            let token = self.model.get(step).text.clone();
            let using =
                Using { socket: Socket::Pep, choice, credential: Some(step), narrowing: None, risk: risk.clone() };
            self.decide(device, (uid, token), (operation, resource), using);
        }
        self.show(device, step, (uid, operation, resource), choice, risk);
        Some(())
    }

    /// A planner's task on a gateway that stands so.
    fn planner_of(&mut self, device: u32, pick: u64, standing: Standing) -> Option<usize> {
        let is_one = |credential: &Credential| matches!(credential.role, Role::Plan { .. });
        self.model.pick_one(self.acting, &self.moment(device), pick, standing, is_one)
    }

    /// A step on a gateway that stands so.
    fn step_of(&mut self, device: u32, pick: u64, standing: Standing) -> Option<usize> {
        let is_one = |credential: &Credential| matches!(credential.role, Role::Step(_));
        self.model.pick_one(self.acting, &self.moment(device), pick, standing, is_one)
    }

    /// What a planner asks for on an ordinary day.
    fn exchange(&self, planner: usize, pick: u64) -> Exchange {
        let risks = &self.scenario.workload.risks;
        let task = self.model.get(planner).task.to_string();
        let presented = Presented {
            choice: TokenChoice::Valid,
            credential: Some(planner),
            narrowing: None,
            uid: PLANNER.uid,
            risk: risks[(pick / 7 % risks.len() as u64) as usize].clone(),
            class: self.operator.policy().time_class_of(EXCHANGE, &task),
            operation: EXCHANGE.into(),
            resource: task,
            forbidden: None,
        };
        let ttl = self.scenario.workload.planner.as_ref().map_or(0, |plan| plan.step_ttl.0);
        let executor = EXECUTORS[(pick / 3 % EXECUTORS.len() as u64) as usize];
        Exchange { planner, presented, executor, right: part(pick), ttl, key: format!("{pick:016x}") }
    }

    fn take_step(&mut self, device: u32, exchange: Exchange) {
        let credential = self.model.get(exchange.planner);
        let (uid, task) = (exchange.presented.uid, credential.task.clone());
        let ask = TakeStep {
            token: credential.text.clone(),
            executor: selector(exchange.executor),
            rights: vec![exchange.right.clone()],
            ttl_s: exchange.ttl / 1000,
            uses: None,
            risk: exchange.presented.risk.parse().ok(),
            idempotency_key: Some(exchange.key.clone()),
            reason: None,
        };
        self.ask(device, uid, Socket::Agent, Request::Step(task, ask), Asked::Exchange(Box::new(exchange)));
    }

    /// The executor of a step uses it for what it is for.
    pub(super) fn execute(&mut self, device: u32, step: usize, choice: TokenChoice, pick: u64) {
        let credential = self.model.get(step);
        let Role::Step(Stepped { right, .. }) = &credential.role else { return };
        let (uid, right) = (credential.uid, right.clone());
        let risks = &self.scenario.workload.risks;
        let risk = risks[(pick / 7 % risks.len() as u64) as usize].clone();
        let (operation, resource) = done_with(&right);
        self.show(device, step, (uid, operation, resource), choice, risk);
    }

    /// A planner's credential, or a step, past its end.
    pub(super) fn probe_planned(&mut self, device: u32, number: usize) {
        match self.model.get(number).role {
            Role::Plan { .. } => {
                let exchange = self.exchange(number, self.now);
                self.take_step(device, exchange);
            }
            Role::Step(_) => self.execute(device, number, TokenChoice::Expired, 0),
            Role::Narrowed(_) | Role::Work => {}
        }
    }

    /// Right after a start: steps that were used, or whose task has ended, must not have come back to life.
    pub(super) fn probe_steps(&mut self, device: u32) {
        let moment = self.moment(device);
        let is_step = |credential: &Credential| matches!(credential.role, Role::Step(_));
        for (standing, choice) in [(Standing::Spent, TokenChoice::Spend), (Standing::Finished, TokenChoice::Finished)] {
            for number in self.model.newest_ones(&moment, 2, standing, is_step) {
                self.execute(device, number, choice, 0);
            }
        }
    }

    /// An exchange gave a step.
    pub(super) fn stepped(
        &mut self,
        device: u32,
        exchange: &Exchange,
        (since, begun): (u64, Option<usize>),
        reply: StepReply,
    ) {
        let (moment, planner) = (self.moment(device), self.model.get(exchange.planner).clone());
        let bytes = from_text(&reply.token, TOKEN_BYTES_MAX).unwrap_or_default();
        let chain = Held::from_bytes(&bytes).map(|held| held.chain()).unwrap_or_default();
        let limits = &self.devices[device as usize].profile().verify;
        let ends = biscuit::decode(&bytes, limits).ok().as_ref().map(ends_of).unwrap_or_default();
        let Device { name, disk, .. } = &self.devices[device as usize];
        let Checks { tally, audit, authority, .. } = &mut self.checks;
        let who = (device, name);
        let named = named(&planner);
        let place =
            audit.exchanged(tally, moment.at, who, &reply.decision_id, (&planner.task, Some(named)), disk.durable());
        audit.told_of_step(tally, moment.at, who, &reply.step_id, disk.durable());
        // What was slept over says nothing of what was known when it was decided.
        if moment.at <= since + ALLOW_WAIT_MAX.0 {
            let given = Given { decision_id: &reply.decision_id, expires_in_s: reply.expires_in_s, ends };
            authority.exchanged(tally, &moment, name, (exchange, &planner), Ok(given));
        }
        let (number, index) = place.unwrap_or_default();
        let era = disk.durable().eras.keys().rev().find(|era| era.number == number);
        let era = era.copied().unwrap_or(EraId { number, salt: 0 });
        let step = NamedStep { id: reply.step_id, planner: vec![selector(PLANNER.uid)], era, index };
        self.tell(&Event::Replied { device, what: format!("step {} of {}", step.id, reply.task_id) });
        if let Role::Plan { keys } = &mut self.model.get_mut(exchange.planner).role {
            keys.push(exchange.key.clone());
        }
        let role = Role::Step(Stepped { of: exchange.planner, right: exchange.right.clone(), named: step });
        let number = self.model.hand_out(Credential {
            begun,
            uid: exchange.executor,
            text: reply.token,
            chain,
            ends,
            made: Some(Made::at(&moment, exchange.ttl, planner.made.map_or(planner.ends, |made| made.promised))),
            begun_powered: moment.powered,
            life: exchange.ttl,
            uses: 1,
            allows: 0,
            unheard: 0,
            role,
            ..planner
        });
        self.probe_past_its_end(device, number);
    }

    /// An exchange gave nothing.
    pub(super) fn not_stepped(&mut self, device: u32, exchange: &Exchange, since: u64, problem: &Problem) {
        let (moment, planner) = (self.moment(device), self.model.get(exchange.planner).clone());
        let Device { name, disk, .. } = &self.devices[device as usize];
        let Checks { tally, audit, authority, .. } = &mut self.checks;
        if let ProblemCode::Denied(_) | ProblemCode::Throttled = problem.code {
            let recorded = problem.detail.rsplit_once("(recorded as ").and_then(|(_, id)| id.strip_suffix(')'));
            let id = recorded.unwrap_or("no record");
            audit.exchanged(tally, moment.at, (device, name), id, (&planner.task, None), disk.durable());
        }
        // Nor does a lack of room say anything of who may what.
        if moment.at <= since + ALLOW_WAIT_MAX.0 && problem.code != ProblemCode::AuditUnavailable {
            authority.exchanged(tally, &moment, name, (exchange, &planner), Err(problem.code.name()));
        }
    }
}

/// What records say of a credential.
pub(super) fn named(credential: &Credential) -> Named {
    let step = match &credential.role {
        Role::Step(step) => Some(step.named.clone()),
        Role::Narrowed(_) | Role::Plan { .. } | Role::Work => None,
    };
    Named {
        owner: credential.owner.clone(),
        grant: credential.grant,
        task: Some(credential.task.clone()),
        chain: credential.chain.clone(),
        step,
        initiator: credential.initiator.clone(),
    }
}
