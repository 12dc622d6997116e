//! Programs on the gateways: they begin tasks, ask for decisions with good and bad tokens, and finish.
//!
//! Owns: what is asked with what, and what becomes of the replies.
//! Never: knows more than a program could, the kind of token that it presents excepted.
//! Read next: `model.rs`, where credentials are kept, and `check/`.

pub(crate) mod narrowed;
pub(crate) mod planner;

use std::collections::BTreeMap;

use hardtack::agent::effects::{StateFile, ALLOW_WAIT_MAX};
use hardtack::agent::request::{
    Authorize, BeginTask, DecisionReply, Evidence, FinishedReply, Lease, Origin, Problem, ProblemCode, Reason, Reply,
    Request, RequestId, Socket, TaskReply, Verdict,
};
use hardtack::agent::room::Class;
use hardtack::agent::Input;
use hardtack::fleet::book::Life;
use hardtack::fleet::revoke::life_of;
use hardtack::ids::TaskId;
use hardtack::profile::Hint;
use hardtack::time::{Millis, Timestamp};
use hardtack::wire::biscuit::{self, Block, Check, TimeBound, Token};
use hardtack::wire::link::Right;
use hardtack::wire::token::{from_text, Held};

use crate::arguments::Drawn;
use crate::check::audit::Told;
use crate::check::authority::{Exchange, Moment, Narrow, Narrowing, Presented, ONE_RESOURCE};
use crate::check::identity::{self, Shown};
use crate::check::{room, Id};
use crate::clocks::date;
use crate::device::Probe;
use crate::event::Event;
use crate::fault::{FloodWhat, ResetWhat};
use crate::model::{Credential, Made, Role, Standing, UNCOUNTED};
use crate::operator::Carried;
use crate::plan::{TokenChoice, LAST_QUIET};
use crate::random::{happens, stream};
use crate::theft::Theft;
use crate::world::{Checks, Happening, World};
use planner::{named, PLANNER};

/// Longest token that a program keeps.
const TOKEN_BYTES_MAX: usize = 16 * 1024;
/// Each credential is presented once more so long past the most that it can be honoured, in milliseconds.
const PROBES: [u64; 3] = [1000, 30_000, 60_000];
/// A token that was carried to a gateway and revoked is presented so often, and so long after each other, in milliseconds.
const CARRIED_TRIES: u64 = 10;
const CARRIED_EVERY: u64 = 30 * 60_000;
/// The longest that an answer may take.
const ANSWER_MAX: u64 = 120_000;

/// What a program asked and will be answered.
#[derive(Debug, Clone)]
pub(crate) enum Asked {
    Begin {
        uid: u32,
        life: u64,
        uses: u64,
        shown: Option<Box<Shown>>,
        /// The connection that the task is to end with, if it is to.
        connection: Option<u64>,
    },
    Decision(Presented),
    Exchange(Box<Exchange>),
    Finish {
        credential: usize,
    },
    Status,
    LastStatus,
    /// That a credential is narrowed.
    Narrow(Box<Narrow>),
    /// The status, by an operator who would reset a clock that is ahead.
    Ahead {
        late: u64,
    },
    /// The nonce that a reset must answer.
    Challenge {
        what: ResetWhat,
        late: u64,
    },
    /// To take a reset.
    Reset {
        what: ResetWhat,
        file: Vec<u8>,
    },
}

/// A caller who waits for an answer.
#[derive(Debug, Clone)]
pub(crate) struct Waiting {
    device: u32,
    since: u64,
    asked: Asked,
    /// The act of the plan that it is for, if it is for one.
    act: Option<usize>,
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

/// The first program's user may do so much with a token that is carried to it.
pub(crate) fn carried_rights() -> [Right; 2] {
    rights(&PROGRAMS[0])
}

fn rights(program: &Program) -> [Right; 2] {
    let right = |resource: &str, action: &str| Right { resource: resource.into(), action: action.into() };
    [right(program.writes, "write"), right("modbus/*", "read")]
}

fn evidence(uid: u32) -> Evidence {
    Evidence::of(Socket::Agent, uid, uid)
}

impl World<'_> {
    pub(crate) fn ask(&mut self, device: u32, uid: u32, socket: Socket, request: Request, asked: Asked) {
        self.ask_as(device, Evidence { socket, ..evidence(uid) }, request, asked);
    }

    fn ask_as(&mut self, device: u32, evidence: Evidence, request: Request, asked: Asked) {
        // A request before it can have met a cut.
        if !self.is_running(device) {
            return;
        }
        self.note_asked(device, evidence.uid, &request, &asked);
        self.next_request += 1;
        let id = RequestId(self.next_request);
        self.asked.insert(id.0, Waiting { device, since: self.now, asked, act: self.acting });
        self.give(device, Input::Request { id, evidence, request });
    }

    fn is_running(&self, device: u32) -> bool {
        self.devices[device as usize].is_awake()
    }

    pub(crate) fn begin_task(&mut self, device: u32, pick: u64) {
        if !self.is_running(device) {
            return;
        }
        let plan = &self.scenario.workload;
        let program = &PROGRAMS[(pick % PROGRAMS.len() as u64) as usize];
        // Where credentials are narrowed, some of what they are made of ends with a connection.
        let hangs = plan.narrowing.is_some() && pick / 2 % 3 == 0;
        let connection = hangs.then_some(self.next_request);
        self.begin(device, program, (plan.task_ttl.0, plan.task_uses), connection);
    }

    /// A program begins a task that asks to live so long, for so many uses, and until a connection ends if it says so.
    fn begin(&mut self, device: u32, program: &Program, (ttl, uses): (u64, u64), connection: Option<u64>) {
        let life = ttl.min(self.scenario.grant.task_ttl_max.0);
        let shown = self.bring_document(device, program.uid);
        let identity = shown.as_ref().map(|shown| shown.brought.document.clone());
        let asked = Asked::Begin { uid: program.uid, life, uses, shown: shown.map(Box::new), connection };
        let begin = BeginTask {
            task: program.class.parse().expect("the class is a valid name"),
            rights: rights(program).to_vec(),
            ttl_s: ttl / 1000,
            uses: Some(uses),
            planner: program.uid == PLANNER.uid,
            reason: None,
            holder: None,
            lease: connection.map(|_| Lease::Connection),
            identity,
            key: None,
        };
        self.ask_as(device, Evidence { connection, ..evidence(program.uid) }, Request::Begin(begin), asked);
    }

    /// The document that a program brings when it begins a task, if it brings one.
    fn bring_document(&self, device: u32, uid: u32) -> Option<Shown> {
        let plan = self.scenario.workload.identity.as_ref()?;
        let mut rng = stream(self.seed, &format!("gw-{device}"), &format!("document-{}/{uid}", self.now));
        if !happens(&mut rng, plan.percent) {
            return None;
        }
        let brought = self.operator.provider.draw(&mut rng, date(self.now), Millis(plan.ttl.0));
        let least = self.moment(device).know.least;
        let believed = self.is_believed(device, &brought.kid);
        Some(Shown { brought, least, believed })
    }

    /// Whether the trust bundle on a gateway's disk names a key of identity documents. None where that cannot be read.
    fn is_believed(&self, device: u32, kid: &str) -> Option<bool> {
        let trust = self.bundle_held(device)?;
        Some(trust.identities.iter().flat_map(|issuer| &issuer.keys).any(|key| key.kid == kid))
    }

    pub(crate) fn finish_task(&mut self, device: u32, pick: u64) {
        if !self.is_running(device) {
            return;
        }
        let moment = self.moment(device);
        let Some(number) = self.model.pick(self.acting, TokenChoice::Valid, &moment, pick) else { return };
        self.finish_this(device, number);
    }

    /// The program that holds a credential finishes its task.
    fn finish_this(&mut self, device: u32, number: usize) {
        self.finish_asked(number);
        let credential = self.model.get(number);
        let (uid, task) = (credential.uid, credential.task.clone());
        self.ask(device, uid, Socket::Agent, Request::Finish(task), Asked::Finish { credential: number });
    }

    /// From now on a task may be finished, and with a planner's its steps.
    fn finish_asked(&mut self, number: usize) {
        let now = self.now;
        let ends = self.model.ends_with(number);
        for number in ends {
            self.model.get_mut(number).finish_asked.get_or_insert(now);
        }
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

    /// What the oracle knows of a gateway now.
    pub(crate) fn moment(&self, device: u32) -> Moment {
        let of = &self.devices[device as usize];
        let powered = of.powered(self.now);
        let read = of.clocks.read(self.now);
        let wall = match of.profile().time.hint {
            Hint::Ignore => None,
            Hint::Tighten => read.and_then(|(_, now)| now.wall),
        };
        let (boot, know) = (read.map(|(boot, _)| boot), self.checks.clock.knowledge(device, powered));
        Moment { at: self.now, powered, device, boot, quiet: self.quiet(), know, wall, revoked: false, spent: false }
    }

    pub(crate) fn ask_for_decision(&mut self, device: u32, choice: TokenChoice, risk: String, pick: u64) {
        if !self.is_running(device) {
            return;
        }
        let theft = match choice {
            TokenChoice::Attenuated => match pick % 3 {
                0 => Theft::OneResource,
                1 => Theft::OnlyWrite,
                _ => Theft::Until,
            },
            TokenChoice::Forged => Theft::Forged,
            TokenChoice::Widened => Theft::Widened,
            TokenChoice::Expired
            | TokenChoice::Finished
            | TokenChoice::Foreign
            | TokenChoice::Revoked
            | TokenChoice::Spend
            | TokenChoice::Stolen
            | TokenChoice::Stranger
            | TokenChoice::Valid => {
                let picked = self.model.pick(self.acting, choice, &self.moment(device), pick);
                picked.into_iter().for_each(|number| self.present(device, number, choice, risk.clone(), pick));
                return;
            }
        };
        let name = self.devices[device as usize].name.clone();
        let (made, token) = self.operator.stolen(theft, &name, date(self.now));
        let narrowing = theft.narrowing(made);
        let write = choice == TokenChoice::Widened || pick % 5 == 0;
        let resource = if pick % 2 == 0 { ONE_RESOURCE } else { "modbus/meter4/value" };
        let what = if write { ("write", PROGRAMS[0].writes) } else { ("read", resource) };
        self.decide(
            device,
            (PROGRAMS[0].uid, token),
            what,
            Using { socket: Socket::Agent, choice, credential: None, narrowing, risk },
        );
    }

    /// With a token that somebody forged, for something of its own.
    pub(crate) fn ask_for_something_new(&mut self, device: u32, pick: u64) {
        if !self.is_running(device) {
            return;
        }
        let name = self.devices[device as usize].name.clone();
        let (made, token) = self.operator.stolen(Theft::Forged, &name, date(self.now));
        let narrowing = Theft::Forged.narrowing(made);
        let (choice, risk) = (TokenChoice::Forged, self.scenario.workload.risks[0].clone());
        let what = format!("modbus/unheard-of/{pick:016x}");
        self.decide(
            device,
            (PROGRAMS[0].uid, token),
            ("read", &what),
            Using { socket: Socket::Agent, choice, credential: None, narrowing, risk },
        );
    }

    /// A credential is presented, by its program or by another, for what it has a right to or for something else.
    fn present(&mut self, device: u32, number: usize, choice: TokenChoice, risk: String, pick: u64) {
        let credential = self.model.get(number);
        let own = PROGRAMS.iter().position(|program| program.uid == credential.uid).unwrap_or(0);
        let other = &PROGRAMS[(own + 1) % PROGRAMS.len()];
        let uid = if choice == TokenChoice::Stranger { other.uid } else { credential.uid };
        let what = match (choice, pick % 3) {
            (TokenChoice::Foreign, 0) => ("erase", ONE_RESOURCE),
            (TokenChoice::Foreign, _) => ("write", other.writes),
            (_, 0) => ("write", PROGRAMS[own].writes),
            (_, _) => ("read", ONE_RESOURCE),
        };
        self.show(device, number, (uid, what.0, what.1), choice, risk);
    }

    /// A credential is presented by somebody for something.
    fn show(
        &mut self,
        device: u32,
        number: usize,
        (uid, operation, resource): (u32, &str, &str),
        choice: TokenChoice,
        risk: String,
    ) {
        let token = self.model.get(number).text.clone();
        let using = Using { socket: Socket::Agent, choice, credential: Some(number), narrowing: None, risk };
        self.decide(device, (uid, token), (operation, resource), using);
    }

    /// A hijacked program asks as fast as it can.
    pub(crate) fn flood(&mut self, device: u32, what: FloodWhat, number: u64, pick: u64) {
        if !self.is_running(device) {
            return;
        }
        let risk = self.scenario.workload.risks[0].clone();
        let choice = match what {
            FloodWhat::Allowed => TokenChoice::Valid,
            FloodWhat::Same | FloodWhat::Varied => TokenChoice::Foreign,
        };
        let Some(credential) = self.model.pick(self.acting, choice, &self.moment(device), pick) else { return };
        self.took_effect(what.name());
        let (uid, token) = (self.model.get(credential).uid, self.model.get(credential).text.clone());
        let varied = format!("files/{number}");
        let asked = match what {
            FloodWhat::Allowed => ("read", ONE_RESOURCE),
            FloodWhat::Same => ("erase", ONE_RESOURCE),
            FloodWhat::Varied => ("erase", varied.as_str()),
        };
        let using = Using { socket: Socket::Agent, choice, credential: Some(credential), narrowing: None, risk };
        self.decide(device, (uid, token), asked, using);
    }

    fn decide(&mut self, device: u32, (uid, token): (u32, String), (operation, resource): (&str, &str), using: Using) {
        let Using { socket, choice, credential, narrowing, risk } = using;
        let drawn = self.draw_arguments(device, operation);
        let ask = Authorize {
            token,
            operation: operation.into(),
            resource: resource.into(),
            destination: None,
            risk: risk.parse().ok(),
            task: None,
            step: None,
            arguments: drawn.arguments(),
        };
        let presented = Presented {
            choice,
            credential,
            narrowing,
            uid,
            risk,
            class: self.operator.policy().time_class_of(operation, resource),
            operation: operation.into(),
            resource: resource.into(),
            forbidden: drawn.denied(),
        };
        self.ask(device, uid, socket, Request::Authorize(ask), Asked::Decision(presented));
    }

    /// What a program says of what it does, where the policy has limits.
    fn draw_arguments(&self, device: u32, operation: &str) -> Drawn {
        let limits = &self.scenario.policy.limits;
        if limits.is_empty() {
            return Drawn::default();
        }
        let purpose = format!("arguments-{}/{operation}", self.now);
        Drawn::of(limits, operation, stream(self.seed, &format!("gw-{device}"), &purpose))
    }

    /// Right after a start: something good, and what must not have come back to life.
    pub(crate) fn probe_start(&mut self, device: u32) {
        let moment = self.moment(device);
        let risk = self.scenario.workload.risks[0].clone();
        for (choice, count) in
            [(TokenChoice::Valid, 1), (TokenChoice::Expired, 2), (TokenChoice::Finished, 1), (TokenChoice::Revoked, 1)]
        {
            for number in self.model.newest(choice, &moment, count) {
                // An odd pick reads.
                self.present(device, number, choice, risk.clone(), 1);
            }
        }
        self.probe_steps(device);
        self.probe_narrowed(device);
        let waiting = std::mem::take(&mut self.devices[device as usize].probes);
        waiting.into_iter().for_each(|probe| self.schedule(self.now + 1, Happening::Probe { device, probe }));
    }

    /// Right after a wall clock moved: what has expired must not come back to life.
    pub(crate) fn probe_expired(&mut self, device: u32) {
        if self.is_running(device) {
            let moment = self.moment(device);
            let risk = self.scenario.workload.risks[0].clone();
            for number in self.model.newest(TokenChoice::Expired, &moment, 2) {
                self.present(device, number, TokenChoice::Expired, risk.clone(), 1);
            }
        }
    }

    /// A credential past its end, as soon as an agent runs and so much powered-on time has passed.
    pub(crate) fn probe(&mut self, device: u32, probe: Probe) {
        if self.now >= self.scenario.start + self.scenario.duration - LAST_QUIET {
            return;
        }
        if !self.is_running(device) {
            self.devices[device as usize].probes.push(probe);
            return;
        }
        let powered = self.devices[device as usize].powered(self.now);
        if powered < probe.powered {
            self.schedule(self.now + (probe.powered - powered), Happening::Probe { device, probe });
            return;
        }
        match self.model.get(probe.credential).role {
            Role::Narrowed(_) => return self.use_narrowed(device, probe.credential, TokenChoice::Expired, self.now),
            Role::Plan { .. } | Role::Step(_) => return self.probe_planned(device, probe.credential),
            Role::Work => {}
        }
        let risk = self.scenario.workload.risks[0].clone();
        let (token, uid) = (self.model.get(probe.credential).text.clone(), self.model.get(probe.credential).uid);
        let own = PROGRAMS.iter().find(|program| program.uid == uid).unwrap_or(&PROGRAMS[0]);
        let (socket, choice) = (Socket::Agent, TokenChoice::Expired);
        let using = |risk| Using { socket, choice, credential: Some(probe.credential), narrowing: None, risk };
        self.decide(device, (uid, token.clone()), ("read", ONE_RESOURCE), using(risk.clone()));
        self.decide(device, (uid, token), ("write", own.writes), using(risk));
    }

    /// The process is gone, and all connections to it: whoever waited hears nothing, and what was charged for it nobody knows.
    pub(crate) fn nobody_answers(&mut self, device: u32) {
        self.connections_end(device, |_| true);
        let (gone, rest) =
            std::mem::take(&mut self.asked).into_iter().partition(|(_, waiting)| waiting.device == device);
        self.asked = rest;
        let gone: BTreeMap<u64, Waiting> = gone;
        for waiting in gone.into_values() {
            match waiting.asked {
                Asked::Decision(Presented { credential: Some(number), .. }) => self.unheard(number),
                Asked::Narrow(narrow) => self.narrowing_unheard(&narrow),
                Asked::Ahead { .. }
                | Asked::Begin { .. }
                | Asked::Challenge { .. }
                | Asked::Decision(_)
                | Asked::Exchange(_)
                | Asked::Finish { .. }
                | Asked::LastStatus
                | Asked::Reset { .. }
                | Asked::Status => {}
            }
        }
    }

    /// Nobody hears whether a use of it was allowed and charged: to its task too, where it is not that.
    fn unheard(&mut self, number: usize) {
        for number in self.model.task_of(number).into_iter().chain([number]) {
            self.model.get_mut(number).unheard += 1;
        }
        self.checks.authority.unheard(self.model.get(number));
    }

    /// In the end: nobody waits for longer than an answer can take.
    pub(crate) fn judge_waiting(&mut self) {
        let (tally, end) = (&mut self.checks.tally, self.now);
        for waiting in self.asked.values().filter(|waiting| waiting.since + ANSWER_MAX < end) {
            let how = format!("{} never answered {:?}", self.devices[waiting.device as usize].name, waiting.asked);
            tally.broken(Id::Live, waiting.since, how);
        }
    }

    /// A reply left the agent.
    pub(crate) fn replied(&mut self, device: u32, id: RequestId, reply: Reply) {
        let Some(Waiting { asked, since, act, .. }) = self.asked.remove(&id.0) else { return };
        if let Some(act) = act {
            self.script.answered(act, &reply);
        }
        self.note_answer(device, since, (&asked, act), &reply);
        if self.reset_answered(device, &asked, &reply).is_some() {
            return;
        }
        match (asked, reply) {
            (Asked::Begin { uid, life, uses, shown, connection }, Reply::Task(reply)) => {
                self.task_begun(device, (uid, life, uses, act), (shown.as_deref(), connection), reply)
            }
            (Asked::Decision(presented), Reply::Decision(reply)) => self.decided(device, &presented, &reply),
            (Asked::Exchange(exchange), Reply::Step(reply)) => self.stepped(device, &exchange, (since, act), reply),
            (Asked::Finish { credential }, Reply::Finished(reply)) => self.task_finished(device, credential, &reply),
            (Asked::Narrow(narrow), Reply::Attenuated(reply)) => self.narrowed(device, &narrow, (since, act), reply),
            (Asked::Status, Reply::Status(status)) => {
                let checks = &mut self.checks;
                let who = (device, &self.devices[device as usize].name);
                checks.monotone.status(&mut checks.tally, self.now, who, &status);
                self.judge_shown_emergencies(device, &status);
            }
            (Asked::LastStatus, Reply::Status(status)) => {
                self.devices[device as usize].last_status = Some(*status);
            }
            (asked, Reply::Problem(problem)) => self.refused(device, &asked, since, &problem),
            (
                Asked::Ahead { .. }
                | Asked::Begin { .. }
                | Asked::Challenge { .. }
                | Asked::Decision(_)
                | Asked::Exchange(_)
                | Asked::Finish { .. }
                | Asked::LastStatus
                | Asked::Narrow(_)
                | Asked::Reset { .. }
                | Asked::Status,
                Reply::Attenuated(_)
                | Reply::Audit(_)
                | Reply::Challenge(_)
                | Reply::Checked(_)
                | Reply::Decision(_)
                | Reply::Ended(_)
                | Reply::Exported(_)
                | Reply::Finished(_)
                | Reply::Imported(_)
                | Reply::Introspected(_)
                | Reply::Previewed(_)
                | Reply::Ready(_)
                | Reply::Revocations(_)
                | Reply::Status(_)
                | Reply::Step(_)
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

    fn task_begun(
        &mut self,
        device: u32,
        (uid, life, uses, begun): (u32, u64, u64, Option<usize>),
        (shown, connection): (Option<&Shown>, Option<u64>),
        reply: TaskReply,
    ) {
        self.told_of_task(device, &reply.task_id, Told::Begun);
        let bytes = from_text(&reply.token, TOKEN_BYTES_MAX).unwrap_or_default();
        let chain = Held::from_bytes(&bytes).map(|held| held.chain()).unwrap_or_default();
        let limits = &self.devices[device as usize].profile().verify;
        let token = biscuit::decode(&bytes, limits).ok();
        let ends = token.as_ref().map(ends_of).unwrap_or_default();
        let said = token.as_ref().and_then(|token| life_of(token, &token.blocks.first()?.id));
        let Life { issued, expires, serial } =
            said.unwrap_or(Life { issued: Timestamp(0), expires: Timestamp::MAX, serial: None });
        self.tell(&Event::Replied { device, what: format!("task {} {:?}", reply.task_id, reply.origin) });
        self.check_box_of_task(device, life, token.as_ref(), &reply);
        let powered = self.devices[device as usize].powered(self.now);
        let know = self.checks.clock.knowledge(device, powered);
        // No task outlives the document that it was begun with.
        let (mut life, mut ends, mut latest) = (life, ends, expires);
        if let Some(shown) = shown {
            let (moment, name) = (self.moment(device), &self.devices[device as usize].name);
            identity::begun(&mut self.checks.tally, &moment, name, shown, reply.expires_in_s);
            life = life.min(shown.brought.ends.since(shown.least).0);
            (ends, latest) = (ends.min(shown.brought.ends), latest.min(shown.brought.ends));
        }
        let owner = self.operator.owner_of(&reply.grant_id);
        let over = self.devices[device as usize].ordered_locked || owner != self.operator.owner();
        let revoked = (over || self.model.is_revoked(&reply.grant_id)).then_some(self.now);
        let role = if uid == PLANNER.uid { Role::Plan { keys: Vec::new() } } else { Role::Work };
        let number = self.model.hand_out(Credential {
            device,
            begun,
            uid,
            text: reply.token,
            task: reply.task_id,
            grant: reply.grant_id,
            owner,
            group: None,
            chain,
            origin: reply.origin,
            issued,
            expires,
            serial,
            ends,
            made: (reply.origin == Origin::Fallback).then(|| Made::at(&self.moment(device), life, latest)),
            begun_powered: powered,
            begun_down: know.down,
            life,
            uses: reply.uses.map_or(uses, |given| given.min(uses)),
            allows: 0,
            unheard: 0,
            finish_asked: None,
            finished: None,
            connection,
            revoked,
            initiator: shown.map(|shown| shown.brought.initiator.clone()),
            role,
        });
        // Begun while an emergency key may revoke it, it may end for that at any start.
        let (moment, name) = (self.moment(device), &self.devices[device as usize].name);
        if self.checks.emergency.may_revoke(&moment, name, self.model.get(number)) {
            self.model.get_mut(number).revoked.get_or_insert(self.now);
        }
        self.probe_past_its_end(device, number);
    }

    /// A credential that was just handed out is presented when its end has passed.
    fn probe_past_its_end(&mut self, device: u32, number: usize) {
        let credential = self.model.get(number);
        let (powered, limit) = (credential.begun_powered, credential.limit());
        // Of steps, and of what was narrowed, there are many.
        let probes = match credential.role {
            Role::Narrowed(_) | Role::Step(_) => &PROBES[..1],
            Role::Plan { .. } | Role::Work => &PROBES[..],
        };
        for past in probes {
            let probe = Probe { credential: number, powered: powered + limit + past };
            let wait = probe.powered.saturating_sub(self.devices[device as usize].powered(self.now));
            self.schedule(self.now + wait, Happening::Probe { device, probe });
        }
    }

    /// Somebody carries a token to a program that is in no wallet: what is revoked of it, nothing but a feed says.
    pub(crate) fn hand_over(&mut self, device: u32, carried: &Carried) {
        let powered = self.devices[device as usize].powered(self.now);
        let know = self.checks.clock.knowledge(device, powered);
        let credential = self.model.hand_out(Credential {
            device,
            begun: None,
            uid: PROGRAMS[0].uid,
            text: carried.text.clone(),
            task: carried.task.clone(),
            grant: carried.grant,
            owner: carried.owner.clone(),
            group: carried.group.clone(),
            chain: carried.chain.clone(),
            origin: Origin::Issued,
            issued: carried.life.issued,
            expires: carried.life.expires,
            serial: None,
            ends: carried.life.expires,
            made: None,
            begun_powered: powered,
            begun_down: know.down,
            life: UNCOUNTED,
            uses: u64::MAX,
            allows: 0,
            unheard: 0,
            finish_asked: None,
            finished: None,
            connection: None,
            revoked: Some(self.now),
            initiator: None,
            role: Role::Work,
        });
        let end = self.scenario.start + self.scenario.duration - LAST_QUIET;
        let now = self.now;
        let tries = (1..=CARRIED_TRIES).map(|number| now + number * CARRIED_EVERY);
        for at in tries.filter(|at| *at < end) {
            self.schedule(at, Happening::Carried { device, credential });
        }
    }

    /// A token that was carried there and revoked is presented, for each class of risk.
    pub(crate) fn try_carried(&mut self, device: u32, credential: usize) {
        if self.is_running(device) {
            for risk in self.scenario.workload.risks.clone() {
                // An odd pick reads.
                self.present(device, credential, TokenChoice::Revoked, risk, 1);
            }
        }
    }

    /// A task that was narrowed from a grant ends within the grant's longest life of a task, and not after the grant.
    fn check_box_of_task(&mut self, device: u32, life: u64, token: Option<&Token>, reply: &TaskReply) {
        if reply.origin != Origin::Fallback {
            return;
        }
        let name = &self.devices[device as usize].name;
        let grant_ends = token.and_then(|token| token.blocks.first()).map(|block| ends_of_blocks([block].into_iter()));
        let too_long = reply.expires_in_s > life / 1000;
        let past_grant = grant_ends.is_none_or(|grant| token.is_none_or(|token| ends_of(token) > grant));
        let broken = (too_long || past_grant).then(|| {
            format!("{name} narrowed task {} to {} s, past what its grant says", reply.task_id, reply.expires_in_s)
        });
        self.checks.tally.tried(Id::BoxLife, self.now, broken);
    }

    fn task_finished(&mut self, device: u32, credential: usize, reply: &FinishedReply) {
        self.told_of_task(device, &reply.task_id, Told::Finished);
        self.ledger.over(self.now, device, credential);
        if reply.finished {
            let now = self.now;
            let ends = self.model.ends_with(credential);
            ends.into_iter().for_each(|number| self.model.get_mut(number).finished = Some(now));
        }
        self.tell(&Event::Replied { device, what: format!("finished {}", reply.task_id) });
    }

    fn told_of_task(&mut self, device: u32, task: &TaskId, told: Told) {
        let (name, durable) = (&self.devices[device as usize].name, self.devices[device as usize].disk.durable());
        let Checks { tally, audit, .. } = &mut self.checks;
        audit.told_of_task(tally, self.now, (device, name), (task, told), durable);
    }

    fn decided(&mut self, number: u32, presented: &Presented, reply: &DecisionReply) {
        let mut moment = self.moment(number);
        let credential = presented.credential.map(|credential| self.model.get(credential));
        let task = presented.credential.and_then(|credential| self.model.task_of(credential));
        let of = task.map(|task| self.model.get(task));
        let rests = presented.credential.filter(|_| of.is_some());
        moment.spent = rests.is_some_and(|number| self.model.standing(number, &moment) != Standing::Good);
        let device = &self.devices[number as usize];
        if let Some(credential) = credential {
            moment.revoked = self.checks.emergency.may_revoke(&moment, &device.name, credential);
        }
        let revoked = credential.is_some_and(|credential| credential.revoked.is_some_and(|since| since < moment.at));
        let checks = &mut self.checks;
        // A denial may be of a token that is no more what was handed out.
        let named = credential.filter(|_| reply.decision == Verdict::Allow).map(named);
        let asked = (presented.operation.as_str(), presented.resource.as_str(), named);
        let who = (number, &device.name);
        checks.audit.decided(&mut checks.tally, moment.at, who, reply, asked, device.disk.durable());
        let full = reply.reason == Reason::AuditFull
            && room::refused(
                &mut checks.tally,
                moment.at,
                &device.name,
                Class::Allow,
                device.disk.durable(),
                &device.profile().queue,
            );
        // Where allows have no room, a good request may be denied.
        if !full {
            checks.authority.decided(&mut checks.tally, &moment, &device.name, presented, credential, reply);
        }
        if let Some(credential) = credential {
            let planned = (credential, of);
            checks.authority.planned(&mut checks.tally, &moment, &device.name, presented, planned, reply);
            checks.authority.sibling(&mut checks.tally, &moment, &device.name, presented, planned, reply);
            checks.emergency.decided(&mut checks.tally, &moment, &device.name, credential, reply);
        }
        let allow = reply.decision == Verdict::Allow;
        if allow {
            let device = &self.devices[number as usize];
            // What an emergency key revoked is over by itself, whether or not anybody can read it.
            let counts = |file: &&StateFile| match file {
                StateFile::Emergency(key) => self.checks.emergency.is_lost(&moment, *key),
                StateFile::AuditKey
                | StateFile::Bundle
                | StateFile::Feed(_)
                | StateFile::FeedSince(_)
                | StateFile::Grant(_)
                | StateFile::Policy
                | StateFile::Task(_) => true,
            };
            let rotten = device.still_rotten().find(counts);
            let how = rotten.map(|file| format!("{} allows, and {file:?} of before its start is rotten", device.name));
            self.checks.tally.tried(Id::FailClosed, moment.at, how);
        } else {
            self.judge_denial(number, &reply.explain);
        }
        // A use of a step is one of its task, and so is one of what was narrowed.
        for charged in presented.credential.into_iter().chain(task).filter(|_| allow) {
            self.model.get_mut(charged).allows += 1;
        }
        let (era, index) = (reply.audit.era, reply.audit.index);
        self.ledger.decided(allow, revoked);
        self.tell(&Event::Decided { device: number, allow, reason: reply.reason.name(), revoked, era, index });
    }

    /// Whether a gateway that says so has no room for another denial.
    fn has_no_room(&mut self, device: u32, detail: &str) -> bool {
        let of = &self.devices[device as usize];
        let limits = &of.profile().queue;
        let said = detail.contains("no room for denials");
        said && room::refused(&mut self.checks.tally, self.now, &of.name, Class::Denial, of.disk.durable(), limits)
    }

    fn refused(&mut self, device: u32, asked: &Asked, since: u64, problem: &Problem) {
        // By the gateway's own clock it was longer than that, give or take its drift.
        let late = problem.code == ProblemCode::AuditUnavailable && self.now + 10 > since + ALLOW_WAIT_MAX.0;
        let full = !late && problem.code == ProblemCode::AuditUnavailable && self.has_no_room(device, &problem.detail);
        // What the issuer says it says for itself: it may have heard what the gateway has not.
        if problem.code != ProblemCode::IssuerRefused {
            self.judge_denial(device, &problem.detail);
        }
        match asked {
            Asked::Begin { shown, .. } if matches!(problem.code, ProblemCode::Identity(_)) => {
                let still = shown.as_ref().and_then(|shown| self.is_believed(device, &shown.brought.kid));
                let (moment, name) = (self.moment(device), &self.devices[device as usize].name);
                let tally = &mut self.checks.tally;
                identity::refused(tally, &moment, name, (shown.as_deref(), still), problem.code.name());
            }
            Asked::Exchange(exchange) => self.not_stepped(device, exchange, since, problem),
            Asked::Finish { credential } => self.finish_asked(*credential),
            Asked::Narrow(narrow) => self.not_narrowed(device, narrow, since, problem),
            // Allowed, charged and recorded, and then slept over: it says nothing of who may what now.
            Asked::Decision(Presented { credential, .. }) if late => {
                credential.iter().for_each(|number| self.unheard(*number));
            }
            // Nor does a lack of room.
            Asked::Decision(_) if full => {}
            Asked::Decision(presented) => {
                let mut moment = self.moment(device);
                let name = &self.devices[device as usize].name;
                let Checks { tally, authority, emergency, .. } = &mut self.checks;
                if let Some(credential) = presented.credential.map(|number| self.model.get(number)) {
                    moment.revoked = emergency.may_revoke(&moment, name, credential);
                    authority.refused(tally, &moment, name, presented, (credential, problem.code.name()));
                }
            }
            Asked::Ahead { .. }
            | Asked::Begin { .. }
            | Asked::Challenge { .. }
            | Asked::LastStatus
            | Asked::Reset { .. }
            | Asked::Status => {}
        }
        self.tell(&Event::Replied { device, what: problem.code.name().to_owned() });
    }
}

/// What a decision is asked with.
struct Using {
    socket: Socket,
    choice: TokenChoice,
    credential: Option<usize>,
    narrowing: Option<Narrowing>,
    risk: String,
}

/// The date from which on a token is refused.
fn ends_of(token: &Token) -> Timestamp {
    ends_of_blocks(token.blocks.iter())
}

fn ends_of_blocks<'a>(blocks: impl Iterator<Item = &'a Block>) -> Timestamp {
    let checks = blocks.flat_map(|block| &block.checks);
    let bounds = checks.filter_map(|check| match check {
        Check::Time(alternatives) => alternatives.first().filter(|_| alternatives.len() == 1),
        Check::Other(_) => None,
    });
    let until = bounds.flatten().filter_map(|bound| match bound {
        TimeBound::At(secs) | TimeBound::Until(secs) => Some(Timestamp::from_secs(*secs)),
        TimeBound::From(_) => None,
    });
    until.min().unwrap_or(Timestamp::MAX)
}
