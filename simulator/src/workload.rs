//! Programs on the gateways: they begin tasks, ask for decisions with good and bad tokens, and finish.
//!
//! Owns: what is asked with what, and what becomes of the replies.
//! Never: knows more than a program could, the kind of token that it presents excepted.
//! Read next: `model.rs`, where credentials are kept, and `check/`.

use hardtack::agent::request::{
    Authorize, BeginTask, DecisionReply, Evidence, FinishedReply, Problem, Reply, Request, RequestId, Socket,
    TaskReply, Verdict,
};
use hardtack::agent::Input;
use hardtack::ids::TaskId;
use hardtack::wire::link::Right;
use hardtack::wire::token::{from_text, Held};

use crate::check::audit::AuditCheck;
use crate::check::authority::{Moment, Presented};
use crate::clocks::date;
use crate::event::Event;
use crate::model::Credential;
use crate::plan::TokenChoice;
use crate::world::World;

/// Longest token that a program keeps.
const TOKEN_BYTES_MAX: usize = 16 * 1024;

/// What a program asked and will be answered.
#[derive(Debug, Clone)]
pub(crate) enum Asked {
    Begin { uid: u32, at: u64, life: u64, uses: u64 },
    Decision(Presented),
    Finish { credential: usize },
    Status,
    LastStatus,
}

/// A kind of program: its user, its task's class, what it may write. Every program may read below `modbus/`.
struct Program {
    uid: u32,
    class: &'static str,
    writes: &'static str,
}

const PROGRAMS: [Program; 2] = [
    Program { uid: 1001, class: "pump", writes: "modbus/pump1/speed" },
    Program { uid: 1002, class: "valve", writes: "modbus/valve1/position" },
];

/// What grants let programs begin: selector, class, and per class what may be written.
pub(crate) fn program_rights() -> impl Iterator<Item = (String, &'static str, [Right; 2])> {
    PROGRAMS.iter().map(|program| (format!("unix:uid:{}", program.uid), program.class, rights(program)))
}

fn rights(program: &Program) -> [Right; 2] {
    let right = |resource: &str, action: &str| Right { resource: resource.into(), action: action.into() };
    [right(program.writes, "write"), right("modbus/*", "read")]
}

fn evidence(uid: u32) -> Evidence {
    Evidence { socket: Socket::Agent, uid, gid: uid, pid: Some(uid), path: None }
}

impl World<'_> {
    fn ask(&mut self, device: u32, uid: u32, socket: Socket, request: Request, asked: Asked) {
        self.next_request += 1;
        let id = RequestId(self.next_request);
        self.asked.insert(id.0, (device, asked));
        let evidence = Evidence { socket, ..evidence(uid) };
        self.give(device, Input::Request { id, evidence, request });
    }

    fn is_running(&self, device: u32) -> bool {
        self.devices[device as usize].process.is_some()
    }

    pub(crate) fn begin_task(&mut self, device: u32, pick: u64) {
        if !self.is_running(device) {
            return;
        }
        let plan = &self.scenario.workload;
        let program = &PROGRAMS[(pick % PROGRAMS.len() as u64) as usize];
        let life = plan.task_ttl.0.min(self.scenario.grant.task_ttl_max.0);
        let asked = Asked::Begin { uid: program.uid, at: self.now, life, uses: plan.task_uses };
        let begin = BeginTask {
            task: program.class.parse().expect("the class is a valid name"),
            rights: rights(program).to_vec(),
            ttl_s: plan.task_ttl.0 / 1000,
            uses: Some(plan.task_uses),
            planner: false,
            reason: None,
        };
        self.ask(device, program.uid, Socket::Agent, Request::Begin(begin), asked);
    }

    pub(crate) fn finish_task(&mut self, device: u32, pick: u64) {
        if !self.is_running(device) {
            return;
        }
        let powered = self.devices[device as usize].powered(self.now);
        let Some(number) = self.model.pick(TokenChoice::Valid, device, self.now, powered, pick) else { return };
        let now = self.now;
        let credential = self.model.get_mut(number);
        credential.finish_asked = Some(now);
        let (uid, task) = (credential.uid, credential.task.clone());
        self.ask(device, uid, Socket::Agent, Request::Finish(task), Asked::Finish { credential: number });
    }

    pub(crate) fn ask_for_status(&mut self, device: u32) {
        if self.is_running(device) {
            self.ask(device, 0, Socket::Admin, Request::Status, Asked::Status);
        }
    }

    pub(crate) fn ask_for_last_status(&mut self) {
        for device in 0..self.devices.len() as u32 {
            self.devices[device as usize].last_status = None;
            if self.is_running(device) {
                self.ask(device, 0, Socket::Admin, Request::Status, Asked::LastStatus);
            }
        }
    }

    pub(crate) fn ask_for_decision(&mut self, device: u32, choice: TokenChoice, risk: String, pick: u64) {
        if !self.is_running(device) {
            return;
        }
        let powered = self.devices[device as usize].powered(self.now);
        let picked = self.model.pick(choice, device, self.now, powered, pick);
        let name = self.devices[device as usize].name.clone();
        let (uid, token) = match (choice, picked) {
            (TokenChoice::Forged, _) => (PROGRAMS[0].uid, self.operator.forged(&name, date(self.now))),
            (TokenChoice::Widened, _) => (PROGRAMS[0].uid, self.operator.widened(&name, date(self.now))),
            (_, Some(number)) => {
                let credential = self.model.get(number);
                (credential.uid, credential.text.clone())
            }
            (_, None) => return,
        };
        let program = PROGRAMS.iter().find(|program| program.uid == uid).unwrap_or(&PROGRAMS[0]);
        // A widened token is used for the right that its holder wrote into it.
        let write = choice == TokenChoice::Widened || pick % 3 == 0;
        let (operation, resource) = if write { ("write", program.writes) } else { ("read", "modbus/meter3/value") };
        let presented = Presented {
            choice,
            credential: picked,
            risk: risk.clone(),
            operation: operation.into(),
            resource: resource.into(),
        };
        let ask = Authorize {
            token,
            operation: operation.into(),
            resource: resource.into(),
            destination: None,
            risk: risk.parse().ok(),
            task: None,
            step: None,
        };
        self.ask(device, uid, Socket::Agent, Request::Authorize(ask), Asked::Decision(presented));
    }

    /// A reply left the agent.
    pub(crate) fn replied(&mut self, device: u32, id: RequestId, reply: Reply) {
        let Some((_, asked)) = self.asked.remove(&id.0) else { return };
        match (asked, reply) {
            (Asked::Begin { uid, at, life, uses }, Reply::Task(reply)) => {
                self.task_begun(device, (uid, at, life, uses), reply);
            }
            (Asked::Decision(presented), Reply::Decision(reply)) => self.decided(device, &presented, &reply),
            (Asked::Finish { credential }, Reply::Finished(reply)) => self.task_finished(device, credential, &reply),
            (Asked::Status, Reply::Status(status)) => {
                let checks = &mut self.checks;
                let who = (device, &self.devices[device as usize].name);
                checks.monotone.status(&mut checks.tally, self.now, who, &status);
            }
            (Asked::LastStatus, Reply::Status(status)) => {
                self.devices[device as usize].last_status = Some(*status);
            }
            (asked, Reply::Problem(problem)) => self.refused(device, &asked, &problem),
            (
                Asked::Begin { .. } | Asked::Decision(_) | Asked::Finish { .. } | Asked::Status | Asked::LastStatus,
                Reply::Challenge(_)
                | Reply::Decision(_)
                | Reply::Finished(_)
                | Reply::Ready(_)
                | Reply::Status(_)
                | Reply::Task(_)
                | Reply::Tasks(_)
                | Reply::Time(_)
                | Reply::Whoami(_),
            ) => {
                let how = "an agent answered something that was not asked".to_owned();
                self.checks.tally.broken(crate::check::Id::Live, self.now, how);
            }
        }
    }

    fn task_begun(&mut self, device: u32, (uid, asked, life, uses): (u32, u64, u64, u64), reply: TaskReply) {
        self.told_of_task(device, &reply.task_id);
        let held = from_text(&reply.token, TOKEN_BYTES_MAX).and_then(|bytes| Held::from_bytes(&bytes));
        let chain = held.map(|held| held.chain()).unwrap_or_default();
        self.tell(&Event::Replied { device, what: format!("task {} {:?}", reply.task_id, reply.origin) });
        self.model.hand_out(Credential {
            device,
            uid,
            text: reply.token,
            task: reply.task_id,
            grant: reply.grant_id,
            chain,
            origin: reply.origin,
            asked,
            begun_powered: self.devices[device as usize].powered(self.now),
            life,
            uses: reply.uses.map_or(uses, |given| given.min(uses)),
            allows: 0,
            finish_asked: None,
            finished: None,
            revoked: None,
        });
    }

    fn task_finished(&mut self, device: u32, credential: usize, reply: &FinishedReply) {
        self.told_of_task(device, &reply.task_id);
        if reply.finished {
            self.model.get_mut(credential).finished = Some(self.now);
        }
        self.tell(&Event::Replied { device, what: format!("finished {}", reply.task_id) });
    }

    fn told_of_task(&mut self, device: u32, task: &TaskId) {
        let device = &self.devices[device as usize];
        AuditCheck::told_of_task(&mut self.checks.tally, self.now, &device.name, task, device.disk.durable());
    }

    fn decided(&mut self, number: u32, presented: &Presented, reply: &DecisionReply) {
        let (now, quiet) = (self.now, self.quiet());
        let device = &self.devices[number as usize];
        let checks = &mut self.checks;
        let asked = (presented.operation.as_str(), presented.resource.as_str());
        let who = (number, &device.name);
        checks.audit.decided(&mut checks.tally, now, who, reply, asked, device.disk.durable());
        let moment = Moment { at: now, powered: device.powered(now), device: number, quiet };
        let credential = presented.credential.map(|credential| self.model.get(credential));
        checks.authority.decided(&mut checks.tally, moment, &device.name, presented, credential, reply);
        let allow = reply.decision == Verdict::Allow;
        if let Some(credential) = presented.credential.filter(|_| allow) {
            self.model.get_mut(credential).allows += 1;
        }
        let (era, index) = (reply.audit.era, reply.audit.index);
        self.tell(&Event::Decided { device: number, allow, reason: reply.reason.name(), era, index });
    }

    fn refused(&mut self, device: u32, asked: &Asked, problem: &Problem) {
        if let Asked::Finish { credential } = asked {
            self.model.get_mut(*credential).finish_asked.get_or_insert(self.now);
        }
        self.tell(&Event::Replied { device, what: problem.code.name().to_owned() });
    }
}
