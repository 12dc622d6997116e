//! A device as its shell runs it, without sockets: the real store and the real agent in the same loop.
//!
//! Owns: the loop, clocks that a test moves, enrolment in the order of `hardtack enrol import`.
//! Never: answers before the commit: the agent's effects do not allow it.

use std::collections::VecDeque;
use std::path::Path;

use hardtack::agent::effects::{LinkCommand, LogEvent};
use hardtack::agent::enrol::{accept, Known};
use hardtack::agent::request::{
    Authorize, BeginTask, DecisionReply, Evidence, Mode, Reply, Request, RequestId, Socket, StatusReply, TaskReply,
};
use hardtack::agent::{Agent, Boot, Effects, EraImage, Input, LinkEvent, Now};
use hardtack::ids::{hex, BootId, Nonce, TaskId};
use hardtack::profile::Profile;
use hardtack::shell::files::FileError;
use hardtack::shell::keys::{write_certificate, DeviceKeyFile};
use hardtack::shell::store::{Event, Recovered, Store, StoreError};
use hardtack::time::{Millis, Timestamp};
use hardtack::wire::enrol::EnrolRequest;
use hardtack::wire::link::Topic;

use super::headquarters::{device, device_keys, FleetEvent, Headquarters, START};
use crate::samples::right;

/// Why a device does not start, or goes on no longer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Trouble {
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Start(#[from] hardtack::agent::Unstartable),
    #[error("refused: {0}")]
    Refused(#[from] hardtack::wire::Refused),
    #[error("it never comes to rest: {0}")]
    Restless(String),
}

/// Which boot of the kernel, and when it began.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Power {
    pub(crate) boot: u8,
    pub(crate) on_at: Timestamp,
}

/// The profile of all these devices: anchors are due often, so that there are many.
pub(crate) fn profile() -> Profile {
    let mut profile = Profile::default();
    profile.queue.anchor_every_commits = 4;
    // Each denial has a record: that is what is told, and what gives way.
    profile.queue.alike_max = u32::MAX;
    profile
}

/// A device that runs.
pub(crate) struct Gateway {
    agent: Agent,
    store: Store,
    power: Power,
    now: Now,
    requests: u64,
    replies: Vec<Reply>,
    sent: Vec<LinkCommand>,
    follow_ups: VecDeque<Input>,
    /// The last message that was refused, and why.
    refused: String,
    /// Records that were given up for want of room.
    pub(crate) shed: u64,
    /// What the start found.
    pub(crate) events: Vec<Event>,
    pub(crate) eras: Vec<EraImage>,
}

/// Keys are made where there are none; the fleet's answer is taken, in the order of `hardtack enrol`. `tell` hears the
/// request, and that the answer is taken.
pub(crate) fn enrol(
    dir: &Path,
    fleet: &mut Headquarters,
    at: Timestamp,
    mut tell: impl FnMut(Option<FleetEvent>),
) -> Result<(), Trouble> {
    let (lock, _) = open(dir)?;
    let file = match DeviceKeyFile::read(dir) {
        Err(error) if error.is_missing() => {
            let file = DeviceKeyFile { device: device(), nonce: Nonce([3; 16]), used: None, keys: device_keys() };
            file.create(dir)?;
            file
        }
        other => other?,
    };
    drop(lock);
    let request =
        EnrolRequest { device: device(), keys: file.keys.public(), nonce: file.nonce, profile: profile().name };
    let event = FleetEvent::Approved(request.sign(&file.keys).to_bytes());
    tell(Some(event.clone()));
    fleet.happen(&event, at);
    let answer = fleet.answer(at);
    let (mut store, recovered) = open(dir)?;
    let known = recovered.anchor.as_ref();
    let known =
        known.map(|anchor| Known { anchor, files: &recovered.files, boot: BootId([1; 16]), boottime: Millis(1000) });
    let accepted = accept(&answer, &file.keys, &file.device, &fleet.fingerprint(), file.nonce, &profile(), known)?;
    write_certificate(dir, &accepted.certificate)?;
    store.commit(accepted.batch)?;
    file.renew(dir, Nonce([4; 16]))?;
    tell(None);
    Ok(())
}

/// Opens the store. Between fork and exec, a process that another test starts holds this one's lock too.
fn open(dir: &Path) -> Result<(Store, Recovered), StoreError> {
    let mut opened = Store::open(dir, &profile().queue);
    for _ in 0..1000 {
        if !matches!(opened, Err(StoreError::Locked { .. })) {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
        opened = Store::open(dir, &profile().queue);
    }
    opened
}

impl Gateway {
    pub(crate) fn start(dir: &Path, power: Power, at: Timestamp, seed: u64) -> Result<Self, Trouble> {
        let identity = DeviceKeyFile::read(dir)?;
        let (store, recovered) = open(dir)?;
        let now = Now { boottime: at.since(power.on_at), wall: None };
        let mut seeds = [0; 32];
        seeds[..8].copy_from_slice(&seed.to_le_bytes());
        let eras = recovered.eras.clone();
        let boot = Boot {
            fleet: "acme".parse().unwrap(),
            device: identity.device,
            keys: identity.keys,
            profile: profile(),
            seed: seeds,
            boot: BootId([power.boot; 16]),
            anchor: recovered.anchor,
            files: recovered.files,
            eras: recovered.eras,
            used_bytes: recovered.used_bytes,
        };
        let (agent, effects) = Agent::start(boot, now)?;
        let mut gateway = Self {
            agent,
            store,
            power,
            now,
            requests: 0,
            replies: Vec::new(),
            sent: Vec::new(),
            follow_ups: VecDeque::new(),
            refused: String::new(),
            shed: 0,
            events: recovered.events,
            eras,
        };
        gateway.carry_out(effects)?;
        gateway.follow()?;
        Ok(gateway)
    }

    fn carry_out(&mut self, effects: Effects) -> Result<(), StoreError> {
        let store = &mut self.store;
        let outgoing = effects.commit(|batch| store.commit(batch))?;
        let now = self.now.boottime;
        self.replies.extend(outgoing.replies.into_iter().map(|answer| answer.at(now).1));
        self.sent.extend(outgoing.link);
        for event in outgoing.logs {
            match event {
                LogEvent::AuditShed { records, .. } => self.shed += records,
                LogEvent::MessageRefused { topic, reason } => {
                    self.refused = format!("{topic} was refused: {reason}");
                }
                _ => {}
            }
        }
        for (era, segment) in outgoing.loads {
            let upload = self.store.load(era, segment)?;
            self.follow_ups.push_back(Input::Segment { era, segment, upload });
        }
        for hole in outgoing.holes {
            let remains = self.store.gather(&hole)?;
            self.follow_ups.push_back(Input::Remains { hole, remains });
        }
        Ok(())
    }

    fn follow(&mut self) -> Result<(), StoreError> {
        while let Some(input) = self.follow_ups.pop_front() {
            self.handle([input])?;
        }
        Ok(())
    }

    /// All of these in one commit.
    fn handle(&mut self, inputs: impl IntoIterator<Item = Input>) -> Result<(), StoreError> {
        let mut effects = Effects::default();
        inputs.into_iter().for_each(|input| self.agent.handle(input, self.now, &mut effects));
        self.carry_out(effects)
    }

    pub(crate) fn input(&mut self, input: Input) -> Result<(), StoreError> {
        self.handle([input])?;
        self.follow()
    }

    pub(crate) fn mode(&self) -> Mode {
        self.agent.mode()
    }

    /// What time it really is.
    pub(crate) fn time(&self) -> Timestamp {
        self.power.on_at + self.now.boottime
    }

    /// Time passes, and the agent is called as often as it asks for.
    pub(crate) fn pass(&mut self, wait: Millis) -> Result<(), StoreError> {
        let end = Millis(self.now.boottime.0 + wait.0);
        while self.now.boottime < end {
            self.now.boottime = self.agent.poll_deadline(self.now.boottime).min(end);
            self.input(Input::Deadline)?;
        }
        Ok(())
    }

    /// All of them ask at once. What is answered is in the order of the questions.
    pub(crate) fn ask(&mut self, requests: impl IntoIterator<Item = Request>) -> Result<Vec<Reply>, StoreError> {
        let mut inputs = Vec::new();
        for request in requests {
            self.requests += 1;
            let evidence = Evidence::of(Socket::Agent, 1001, 1001);
            inputs.push(Input::Request { id: RequestId(self.requests), evidence, request });
        }
        let count = inputs.len();
        self.handle(inputs)?;
        self.follow()?;
        // Who asks the issuer, which is not there, waits until its time is over.
        for _ in 0..10 {
            if self.replies.len() < count {
                self.pass(Millis(1000))?;
            }
        }
        Ok(std::mem::take(&mut self.replies))
    }

    pub(crate) fn begin(&mut self) -> Result<TaskReply, StoreError> {
        let rights = vec![right("modbus/*", "read")];
        let begin = BeginTask {
            task: "pump".parse().unwrap(),
            rights,
            ttl_s: 20_000,
            // Each is a counter in the anchor, which so grows past a sector.
            uses: Some(10_000),
            planner: false,
            reason: None,
            holder: None,
            lease: None,
            identity: None,
            key: None,
        };
        match self.ask([Request::Begin(begin)])?.remove(0) {
            Reply::Task(task) => Ok(task),
            other => panic!("no task: {other:?}"),
        }
    }

    pub(crate) fn finish(&mut self, task: &TaskId) -> Result<(), StoreError> {
        match self.ask([Request::Finish(task.clone())])?.remove(0) {
            Reply::Finished(_) => Ok(()),
            other => panic!("not finished: {other:?}"),
        }
    }

    /// So many decisions in one commit. Whatever is not a decision is left out.
    pub(crate) fn decide(&mut self, token: &str, count: usize) -> Result<Vec<DecisionReply>, StoreError> {
        let ask = |n: usize| {
            Request::Authorize(Authorize {
                token: token.into(),
                operation: "read".into(),
                resource: format!("modbus/{n}"),
                destination: None,
                risk: Some("low".parse().unwrap()),
                task: None,
                step: None,
                arguments: None,
            })
        };
        let replies = self.ask((0..count).map(ask))?;
        let decision = |reply| match reply {
            Reply::Decision(decision) => Some(decision),
            _ => None,
        };
        Ok(replies.into_iter().filter_map(decision).collect())
    }

    pub(crate) fn status(&mut self) -> Result<StatusReply, StoreError> {
        match self.ask([Request::Status])?.remove(0) {
            Reply::Status(status) => Ok(*status),
            other => panic!("no status: {other:?}"),
        }
    }

    /// The link comes up and the fleet answers all that is said, until everything is delivered. `tell` hears what reaches
    /// the fleet.
    pub(crate) fn deliver(
        &mut self,
        fleet: &mut Headquarters,
        tell: &mut dyn FnMut(&FleetEvent, Timestamp),
    ) -> Result<(), Trouble> {
        for _ in 0..400 {
            if self.sent.iter().any(|command| matches!(command, LinkCommand::Connect { .. })) {
                break;
            }
            self.pass(Millis(1000))?;
        }
        self.sent.clear();
        self.input(Input::Link(LinkEvent::Connected))?;
        for (topic, payload) in fleet.retained.clone() {
            self.message(topic, payload)?;
        }
        self.deliver_rest(fleet, tell)
    }

    /// What has come since, as far as the fleet answers.
    pub(crate) fn deliver_rest(
        &mut self,
        fleet: &mut Headquarters,
        tell: &mut dyn FnMut(&FleetEvent, Timestamp),
    ) -> Result<(), Trouble> {
        for _ in 0..200 {
            self.pass(Millis(1000))?;
            self.serve(fleet, tell)?;
            let status = self.status()?;
            if status.mode == Mode::Online && status.pending == 0 {
                return Ok(());
            }
        }
        let status = self.status()?;
        let (mode, link, pending) = (status.mode, status.link, status.pending);
        let (reasons, refused) = (status.reasons, &self.refused);
        Err(Trouble::Restless(format!("{mode:?}, {pending} pending, {reasons:?}, {link}; {refused}")))
    }

    fn serve(
        &mut self,
        fleet: &mut Headquarters,
        tell: &mut dyn FnMut(&FleetEvent, Timestamp),
    ) -> Result<(), StoreError> {
        while !self.sent.is_empty() {
            for command in std::mem::take(&mut self.sent) {
                match command {
                    LinkCommand::Publish(publish) => {
                        let topic = publish.topic.text(&"acme".parse().unwrap());
                        self.happens(fleet, &FleetEvent::Up(topic, hex(&publish.payload)), tell)?;
                    }
                    LinkCommand::Read { places, .. } => {
                        let texts = places.iter().map(|place: &Topic| place.text(&"acme".parse().unwrap()));
                        for (topic, payload) in texts.filter_map(|text| fleet.retained.get_key_value(&text)) {
                            self.message(topic.clone(), payload.clone())?;
                        }
                    }
                    LinkCommand::Close | LinkCommand::Connect { .. } => {}
                }
            }
        }
        Ok(())
    }

    /// Something happens at headquarters, and the device hears what comes of it.
    pub(crate) fn happens(
        &mut self,
        fleet: &mut Headquarters,
        event: &FleetEvent,
        tell: &mut dyn FnMut(&FleetEvent, Timestamp),
    ) -> Result<(), StoreError> {
        let at = self.time();
        tell(event, at);
        for (topic, payload) in fleet.happen(event, at) {
            self.message(topic, payload)?;
        }
        Ok(())
    }

    fn message(&mut self, topic: String, payload: Vec<u8>) -> Result<(), StoreError> {
        self.input(Input::Link(LinkEvent::Message { topic, payload }))
    }

    pub(crate) fn disconnect(&mut self) -> Result<(), StoreError> {
        self.input(Input::Link(LinkEvent::Disconnected { reason: "cut".into() }))
    }
}

/// The power that a story begins with.
pub(crate) fn first_power() -> Power {
    Power { boot: 1, on_at: START }
}
