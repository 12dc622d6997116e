//! A fleet and a disk in memory, for the tests of the agent: real keys, real tokens, real envelopes.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;

use ed25519_dalek::SigningKey;
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};

use super::effects::{Batch, Entry, LinkCommand, Shed, StateFile, StoredRecord, StoredSegment};
use super::holder::{Tie, TieCommand};
use super::request::{
    Authorize, BeginTask, DecisionReply, Evidence, Peer, Process, Reply, Request, RequestId, Socket, TaskReply,
};
use super::room::{Content, SegmentPlace, Weighed};
use super::salvage::{Hole, Remains, Wanted};
use super::{Agent, Anchor, Boot, Effects, EraImage, Input, LinkEvent, Now, Outgoing, Unstartable};
use crate::ids::{BootId, DeviceId, EraId, FleetId, GrantId, Hash, Nonce};
use crate::profile::Profile;
use crate::time::{Millis, Timestamp};
use crate::wire::audit::segment::{Delivery, Loaded, Upload};
use crate::wire::audit::signer::{self, Signer};
use crate::wire::audit::{genesis, Record};
use crate::wire::bundle::{BrokerPins, Feed, Fingerprint, Issuer, TrustBundle};
use crate::wire::enrol::{DeviceKeys, EnrolAnswer, EnrolBundle};
use crate::wire::envelope::Signed;
use crate::wire::link::{
    grants_digest, Ack, Answer, Ask, EraAck, Hello, Reply as LinkReply, Request as LinkRequest, Right, Topic,
};
use crate::wire::policy::PolicyDocument;
use crate::wire::revocation::announcement::{Announcement, Snapshot, Successor};
use crate::wire::revocation::ladder::Step;
use crate::wire::revocation::manifest::Manifest;
use crate::wire::revocation::rules::Selector;
use crate::wire::revocation::set::RevocationSet;
use crate::wire::revocation::slot::Slot;
use crate::wire::revocation::Target;
use crate::wire::seal::{SealingKey, SealingPublic};
use crate::wire::time::{TimeFile, TimeReset, TimeStatement};
use crate::wire::token::{mint_grant, mint_task, Bearer, ClassRight, GrantSpec, TaskSpec};

pub(crate) const START_S: u64 = 1_790_000_000;

/// The disk: what a committed batch leaves behind.
#[derive(Clone, Default)]
pub(crate) struct Disk {
    pub(crate) files: BTreeMap<StateFile, Vec<u8>>,
    pub(crate) anchor: Option<Anchor>,
    pub(crate) eras: BTreeMap<EraId, (Vec<StoredRecord>, Vec<StoredSegment>)>,
    /// Eras that were found damaged, as their image says.
    pub(crate) damaged: BTreeSet<EraId>,
    /// What was given up.
    pub(crate) shed: Vec<Shed>,
}

fn content(records: &[StoredRecord], segments: &[StoredSegment]) -> Content {
    let records = records.iter().map(|row| (row.index, Weighed::of_bytes(&row.bytes)));
    let place = |row: &StoredSegment| SegmentPlace {
        segment: row.segment,
        first_index: row.first_index,
        count: row.count.into(),
        header_bytes: row.header.len(),
    };
    Content::of(records, segments.iter().map(place))
}

impl Disk {
    pub(crate) fn apply(&mut self, batch: Batch) {
        for write in batch.files {
            self.files.insert(write.file, write.content);
        }
        if let Some(era) = batch.begin_era {
            self.eras.entry(era).or_default();
        }
        for entry in batch.entries {
            match entry {
                Entry::Record(record) => self.eras.entry(record.era).or_default().0.push(record),
                Entry::Segment(segment) => self.eras.entry(segment.era).or_default().1.push(segment),
            }
        }
        if let Some(anchor) = batch.anchor {
            self.anchor = Some(*anchor);
        }
        for file in batch.remove {
            self.files.remove(&file);
        }
        for era in batch.drop_eras {
            self.eras.remove(&era);
        }
        for shed in batch.shed {
            if let Some((records, _)) = self.eras.get_mut(&shed.era) {
                records.retain(|record| !shed.holds_record(record.index));
            }
            self.shed.push(shed);
        }
    }

    fn images(&self, rig: &Rig) -> Vec<EraImage> {
        let image = |(id, (records, segments)): (&EraId, &(Vec<StoredRecord>, Vec<StoredSegment>))| {
            let last = segments.last();
            let closed_index = last.map_or(0, |last| last.first_index + u64::from(last.count));
            let anchored =
                self.anchor.as_ref().filter(|anchor| anchor.era == Some(*id)).map(|anchor| anchor.next_index);
            let from = anchored.map_or(closed_index, |index| index.min(closed_index));
            EraImage {
                id: *id,
                segments: last.map_or(0, |last| last.segment + 1),
                closed_index,
                closed_head: last.map_or_else(|| genesis(&rig.fleet, &rig.device, *id), |last| last.head),
                records: records.iter().filter(|record| record.index >= from).cloned().collect(),
                damage: self.damaged.contains(id).then(|| "rot".into()),
                content: content(records, segments),
            }
        };
        self.eras.iter().map(image).collect()
    }

    fn load(&self, era: EraId, number: u64) -> Option<Loaded> {
        let (records, segments) = self.eras.get(&era)?;
        let segment = segments.iter().find(|segment| segment.segment == number)?;
        let range = segment.first_index..segment.first_index + u64::from(segment.count);
        let records: Vec<_> =
            records.iter().filter(|record| range.contains(&record.index)).map(|r| r.bytes.clone()).collect();
        let header = Signed::from_bytes(&segment.header).unwrap();
        if records.len() == segment.count as usize {
            return Upload::of_rows(header, &records).map(Loaded::Whole);
        }
        let shed = self.shed.iter().any(|shed| shed.era == era && shed.holds_segment(number));
        shed.then_some(Loaded::Shed(header))
    }

    fn gather(&self, hole: &Hole) -> Remains {
        let nothing = (Vec::new(), Vec::new());
        let (records, segments) = self.eras.get(&hole.era).unwrap_or(&nothing);
        let read = |wanted| {
            Ok::<_, Infallible>(match wanted {
                Wanted::Record(index) => records.iter().find(|r| r.index == index).cloned().map(Entry::Record),
                Wanted::Segment(number) => segments.iter().find(|s| s.segment == number).cloned().map(Entry::Segment),
            })
        };
        match hole.gather(read) {
            Ok(remains) => remains,
            Err(never) => match never {},
        }
    }

    /// Records of an era rot away; it is found damaged.
    pub(crate) fn lose_records(&mut self, number: u64, lost: impl Fn(u64) -> bool) {
        let (era, (records, _)) = self.eras.iter_mut().find(|(era, _)| era.number == number).unwrap();
        records.retain(|record| !lost(record.index));
        self.damaged.insert(*era);
    }

    /// Rows of closed segments rot away; the era is found damaged.
    pub(crate) fn lose_segments(&mut self, number: u64, lost: impl Fn(u64) -> bool) {
        let (era, (_, segments)) = self.eras.iter_mut().find(|(era, _)| era.number == number).unwrap();
        segments.retain(|segment| !lost(segment.segment));
        self.damaged.insert(*era);
    }

    /// Every record on disk, decoded.
    pub(crate) fn records(&self) -> Vec<Record> {
        let bytes = self.eras.values().flat_map(|(records, _)| records);
        bytes.map(|record| Record::from_bytes(&record.bytes).unwrap()).collect()
    }
}

/// A fleet of one device.
pub(crate) struct Rig {
    pub(crate) fleet: FleetId,
    pub(crate) device: DeviceId,
    pub(crate) root: SigningKey,
    pub(crate) issuer: SigningKey,
    pub(crate) service: SigningKey,
    pub(crate) keys: [u8; 96],
    /// What it was enrolled with.
    pub(crate) answer: EnrolAnswer,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) rng: ChaCha20Rng,
    pub(crate) disk: Disk,
    pub(crate) agent: Agent,
    pub(crate) boot: u8,
    starts: u8,
    pub(crate) now: Now,
    pub(crate) sent: Vec<LinkCommand>,
    pub(crate) replies: Vec<(RequestId, Reply)>,
    unanswered: Vec<Vec<u8>>,
    spec: GrantSpec,
    pub(crate) profile: Profile,
    pub(crate) seq: u64,
    pub(crate) previous: Hash,
    set: RevocationSet,
    pub(crate) acked: BTreeMap<EraId, EraAck>,
    /// What the collector has.
    pub(crate) collected: Vec<(EraId, Record)>,
    /// Who signs each era where the collector stands.
    pub(crate) signers: BTreeMap<EraId, Signer>,
    /// What was published of the audit, as any broker reads it.
    pub(crate) uploads: Vec<Vec<u8>>,
    pub(crate) grant: GrantId,
    /// The grants that acknowledgements name.
    pub(crate) listed: Vec<GrantId>,
    /// What the heads that the fleet signs promise at all.
    pub(crate) hard_stale: Millis,
    /// Trust bundle and policy that acknowledgements name.
    pub(crate) named: (u64, u64),
    /// The program that asks.
    pub(crate) process: Option<Process>,
    /// What the agent wants to be told the end of.
    pub(crate) watched: BTreeSet<Tie>,
    /// What only an oracle knows: true time and powered-on time, in milliseconds, and what the oscillator gains in parts
    /// per million.
    pub(crate) truth: Timestamp,
    pub(crate) powered: Millis,
    pub(crate) gain_ppm: i64,
}

pub(crate) fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

/// A task of class `pump`, of ten minutes.
pub(crate) fn wanted(rights: Vec<Right>, uses: Option<u64>) -> BeginTask {
    BeginTask {
        task: "pump".parse().unwrap(),
        rights,
        ttl_s: 600,
        uses,
        planner: false,
        reason: None,
        holder: None,
        lease: None,
        identity: None,
        key: None,
    }
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    /// A rig whose grant is as `edit` makes it.
    pub(crate) fn with(edit: impl FnOnce(&mut GrantSpec)) -> Self {
        let (fleet, device): (FleetId, DeviceId) = ("acme".parse().unwrap(), "gw-07".parse().unwrap());
        let mut rng = ChaCha20Rng::from_seed([1; 32]);
        let keys = DeviceKeys::generate(&mut rng);
        let (root, issuer, policy_key, feed, service) = (key(1), key(2), key(3), key(4), key(5));
        let start = Timestamp::from_secs(START_S);
        let trust = TrustBundle {
            fleet: fleet.clone(),
            version: 1,
            threshold: 1,
            roots: vec![root.verifying_key().into()],
            issuers: vec![Issuer { root_key_id: 7, key: issuer.verifying_key().into() }],
            policy: vec![policy_key.verifying_key().into()],
            feeds: vec![Feed {
                id: "main".parse().unwrap(),
                era: 0,
                keys: vec![feed.verifying_key().into()],
                groups: Vec::new(),
                since: 0,
            }],
            service: vec![service.verifying_key().into()],
            operators: vec![],
            emergency: vec![],
            identities: vec![],
            collector: SealingKey::from_bytes([9; 32]).public(),
            groups: BTreeMap::new(),
            policy_version_min: 1,
            broker: BrokerPins::default(),
            issued_at: start,
            not_after: Timestamp::from_secs(START_S + 10 * 365 * 86_400),
        };
        let grant = GrantId([0xaa; 16]);
        let mut spec = GrantSpec {
            fleet: fleet.clone(),
            grant,
            device: device.clone(),
            owner: "ops@acme".into(),
            feed: Some("main".parse().unwrap()),
            issued: start,
            expires: Timestamp::from_secs(START_S + 7 * 86_400),
            may_begin: vec![("unix:uid:1001".into(), "pump".parse().unwrap())],
            may_step: vec![("unix:uid:2002".into(), "pump".parse().unwrap())],
            rights: vec![
                ClassRight { class: "pump".parse().unwrap(), right: right("modbus/pump1/speed", "write") },
                ClassRight { class: "pump".parse().unwrap(), right: right("modbus/*", "read") },
            ],
            offline_max: Millis::from_secs(3 * 86_400),
            uses_max: 100,
            boots_max: 20,
            task_ttl_max: Millis::from_secs(900),
            staleness_max: vec![],
            min_time_class: None,
        };
        edit(&mut spec);
        let token = mint_grant(&spec, &issuer, 7, &mut rng).unwrap();
        let set = RevocationSet::default();
        let signed_head = announce("main", 1, Hash::ZERO, start, (&set, &set)).head;
        let nonce = Nonce([3; 16]);
        let bundle = EnrolBundle {
            device: device.clone(),
            identity: keys.identity.verifying_key().into(),
            nonce,
            issued_at: start,
            bundles: vec![Signed::sign(&trust, &fleet, &[&root])],
            policy: Signed::sign(&PolicyDocument::built_in(start), &fleet, &[&policy_key]),
            feeds: vec![(signed_head.clone(), set.to_bytes())],
            grants: vec![token],
            certificate: vec![],
        };
        let answer = EnrolAnswer::seal(&bundle, &fleet, &service, &keys.sealing.public(), &mut rng).unwrap();
        let profile = Profile::default();
        let fingerprint = trust.fingerprint();
        let accepted = super::enrol::accept(&answer, &keys, &device, &fingerprint, nonce, &profile, None).unwrap();
        let mut disk = Disk::default();
        disk.apply(accepted.batch);
        let now = Now { boottime: Millis(10_000), wall: None };
        let boot = boot_of(&fleet, &device, *keys.to_bytes(), &profile, 1, &disk, Vec::new());
        let (agent, effects) = Agent::start(boot, now).unwrap();
        let mut rig = Self {
            fleet,
            device,
            root,
            issuer,
            service,
            answer,
            fingerprint,
            keys: *keys.to_bytes(),
            rng,
            disk,
            agent,
            boot: 1,
            starts: 1,
            now,
            sent: Vec::new(),
            replies: Vec::new(),
            unanswered: Vec::new(),
            spec,
            profile,
            seq: 1,
            previous: signed_head.digest(),
            set,
            acked: BTreeMap::new(),
            collected: Vec::new(),
            signers: BTreeMap::new(),
            uploads: Vec::new(),
            grant,
            listed: vec![grant],
            hard_stale: Millis::from_secs(90 * 86_400),
            named: (1, 1),
            process: None,
            watched: BTreeSet::new(),
            truth: start,
            powered: Millis(0),
            gain_ppm: 0,
        };
        rig.carry_out(effects);
        rig
    }

    fn carry_out(&mut self, effects: Effects) -> Outgoing {
        let disk = &mut self.disk;
        let mut outgoing = effects
            .commit(|batch| {
                disk.apply(batch);
                Ok::<(), ()>(())
            })
            .unwrap();
        self.sent.append(&mut outgoing.link);
        let now = self.now.boottime;
        for command in &outgoing.ties {
            match command {
                TieCommand::Leave(tie) => self.watched.remove(tie),
                TieCommand::Watch(tie) => self.watched.insert(*tie),
            };
        }
        self.replies.extend(std::mem::take(&mut outgoing.replies).into_iter().map(|answer| answer.at(now)));
        for (era, segment) in std::mem::take(&mut outgoing.loads) {
            let upload = self.disk.load(era, segment);
            self.input(Input::Segment { era, segment, upload });
        }
        for hole in std::mem::take(&mut outgoing.holes) {
            let remains = self.disk.gather(&hole);
            self.input(Input::Remains { hole, remains });
        }
        outgoing
    }

    pub(crate) fn input(&mut self, input: Input) -> Outgoing {
        let mut effects = Effects::default();
        self.agent.handle(input, self.now, &mut effects);
        self.carry_out(effects)
    }

    /// Time passes, and the agent is called as often as it asks for.
    pub(crate) fn pass(&mut self, secs: u64) {
        let end = Millis(self.now.boottime.0 + secs * 1000);
        while self.now.boottime < end {
            self.wait_until(self.agent.poll_deadline(self.now.boottime).min(end));
            self.input(Input::Deadline);
        }
    }

    /// The clocks go on until CLOCK_BOOTTIME shows `boottime`.
    fn wait_until(&mut self, boottime: Millis) {
        let shown = boottime.0 - self.now.boottime.0;
        self.now.boottime = boottime;
        let gained = i64::try_from(shown).unwrap() * self.gain_ppm / 1_000_000;
        let true_ms = shown.checked_add_signed(-gained).unwrap();
        self.truth.0 += true_ms;
        self.powered.0 += true_ms;
    }

    /// The power is away for a while.
    pub(crate) fn switch_off(&mut self, secs: u64) {
        self.truth.0 += secs * 1000;
        self.restart(Reboot::Kernel);
    }

    fn evidence(&self, uid: u32, socket: Socket) -> Evidence {
        let process = self.process.clone().map_or(Peer::Unknown, |process| Peer::Known(Box::new(process)));
        Evidence { process, ..Evidence::of(socket, uid, uid) }
    }

    pub(crate) fn ask(&mut self, uid: u32, socket: Socket, request: Request) -> Reply {
        let evidence = self.evidence(uid, socket);
        self.input(Input::Request { id: RequestId(1), evidence, request });
        // Who asks the issuer, which does not answer here, waits until its time is over.
        for _ in 0..10 {
            if self.replies.is_empty() {
                self.pass(1);
            }
        }
        self.replies.pop().expect("answered in the end").1
    }

    pub(crate) fn authorize(&mut self, token: &str, operation: &str, resource: &str) -> DecisionReply {
        self.authorize_as(1001, token, operation, resource)
    }

    pub(crate) fn authorize_as(&mut self, uid: u32, token: &str, operation: &str, resource: &str) -> DecisionReply {
        self.authorize_at(uid, token, (operation, resource), "low")
    }

    pub(crate) fn authorize_at(
        &mut self,
        uid: u32,
        token: &str,
        (operation, resource): (&str, &str),
        risk: &str,
    ) -> DecisionReply {
        let ask = Authorize {
            token: token.into(),
            operation: operation.into(),
            resource: resource.into(),
            destination: None,
            risk: Some(risk.parse().unwrap()),
            task: None,
            step: None,
            arguments: None,
        };
        match self.ask(uid, Socket::Agent, Request::Authorize(ask)) {
            Reply::Decision(decision) => decision,
            other => panic!("no decision: {other:?}"),
        }
    }

    pub(crate) fn begin(&mut self, rights: Vec<Right>, uses: Option<u64>) -> TaskReply {
        match self.ask(1001, Socket::Agent, Request::Begin(wanted(rights, uses))) {
            Reply::Task(task) => task,
            other => panic!("no task: {other:?}"),
        }
    }

    /// The process dies; in the same kernel boot, or in another that begins at zero.
    pub(crate) fn restart(&mut self, reboot: Reboot) {
        self.try_restart(reboot).unwrap();
    }

    /// The same, where the disk may hold anything.
    pub(crate) fn try_restart(&mut self, reboot: Reboot) -> Result<(), Unstartable> {
        if reboot == Reboot::Kernel {
            self.boot += 1;
            self.now.boottime = Millis(3000);
        }
        let images = self.disk.images(self);
        self.starts = self.starts.wrapping_add(1);
        let mut boot = boot_of(&self.fleet, &self.device, self.keys, &self.profile, self.boot, &self.disk, images);
        boot.seed[1] = self.starts;
        let (agent, effects) = Agent::start(boot, self.now)?;
        self.agent = agent;
        self.sent.clear();
        self.carry_out(effects);
        Ok(())
    }

    /// Publishes these rules, and no others, as the fleet would: the head with what it adds, then the whole set. Returns
    /// the messages.
    pub(crate) fn publish(&mut self, rules: Vec<Rule>, at: Timestamp) -> Vec<(String, Vec<u8>)> {
        self.seq += 1;
        let set = set_of(&rules);
        let sets = (&set, &set.since(&self.set));
        let announcement = announce_with("main", self.seq, self.previous, at, sets, |head| {
            head.hard_stale_ms = self.hard_stale;
        });
        self.previous = announcement.head.digest();
        let feed: crate::ids::FeedId = "main".parse().unwrap();
        let manifest = Manifest::of(&set);
        let snapshot = Snapshot { head: announcement.head.clone(), manifest: manifest.to_bytes() };
        let mut messages = vec![
            (Topic::FeedHead(feed.clone()), announcement.to_bytes()),
            (Topic::FeedManifest(feed.clone()), snapshot.to_bytes()),
        ];
        messages.extend(manifest.parts().iter().map(|part| {
            let piece = manifest.piece(&set, part.key, 0).unwrap();
            (Topic::FeedPiece(feed.clone(), part.key, 0), piece.to_bytes())
        }));
        self.set = set;
        messages.into_iter().map(|(topic, payload)| (topic.text(&self.fleet), payload)).collect()
    }

    /// The fleet sets another policy, which the device takes while it is in no touch otherwise.
    pub(crate) fn policy(&mut self, edit: impl FnOnce(&mut PolicyDocument)) {
        let mut policy = PolicyDocument::built_in(Timestamp::from_secs(START_S));
        policy.version = 2;
        edit(&mut policy);
        self.named.1 = 2;
        let signed = Signed::sign(&policy, &self.fleet, &[&key(3)]);
        self.disk.files.insert(StateFile::Policy, super::policy::to_file(&signed.to_bytes()));
        self.restart(Reboot::Process);
    }

    /// A file with a service key's time, and with a feed key's where one is named.
    pub(crate) fn time_file(&self, time: Timestamp, head_at: Option<Timestamp>) -> Vec<u8> {
        let statement = TimeStatement { time, radius_ms: Millis(0) };
        let set = RevocationSet::default();
        let head_of = |at| announce("main", 9, Hash::ZERO, at, (&set, &set)).head;
        TimeFile::Statement {
            bundles: vec![],
            heads: head_at.map(head_of).into_iter().collect(),
            statement: Signed::sign(&statement, &self.fleet, &[&self.service]),
        }
        .to_bytes()
    }

    pub(crate) fn reset_file(&self, nonce: Nonce, time: Timestamp, root: &SigningKey) -> Vec<u8> {
        let reset = TimeReset { device: self.device.clone(), nonce, time, radius_ms: Millis(100) };
        TimeFile::Reset(Signed::sign(&reset, &self.fleet, &[root])).to_bytes()
    }

    pub(crate) fn message(&mut self, topic: String, payload: Vec<u8>) -> Outgoing {
        self.input(Input::Link(LinkEvent::Message { topic, payload }))
    }

    /// Connects, and answers with the true time.
    pub(crate) fn sync(&mut self) {
        self.input(Input::Link(LinkEvent::Disconnected { reason: "cut".into() }));
        self.connect(Timestamp(0));
    }

    /// Connects, and answers nothing.
    pub(crate) fn connect_only(&mut self) {
        self.input(Input::Link(LinkEvent::Disconnected { reason: "cut".into() }));
        self.wait_until(self.agent.poll_deadline(self.now.boottime));
        for _ in 0..100 {
            self.input(Input::Deadline);
            if self.sent.iter().any(|command| matches!(command, LinkCommand::Connect { .. })) {
                break;
            }
            self.wait_until(self.agent.poll_deadline(self.now.boottime));
        }
        self.sent.clear();
        self.input(Input::Link(LinkEvent::Connected));
        self.pass(3);
    }

    /// The nonce of the newest `hello`.
    pub(crate) fn hello_nonce(&self) -> Nonce {
        let mut hellos = self.sent.iter().rev().filter_map(|command| match command {
            LinkCommand::Publish(publish) => match publish.topic {
                Topic::UpHello(_) => {
                    Some(Signed::<Hello>::from_bytes(&publish.payload).unwrap().claim().unwrap().nonce)
                }
                _ => None,
            },
            _ => None,
        });
        hellos.next().expect("it said hello")
    }

    /// Requests that nobody answered, and forgets them.
    pub(crate) fn requests(&mut self) -> Vec<(Nonce, SealingPublic, Ask)> {
        std::mem::take(&mut self.unanswered)
            .into_iter()
            .map(|payload| Signed::<LinkRequest>::from_bytes(&payload).unwrap().claim().unwrap())
            .map(|request| (request.nonce, request.reply_to, request.ask))
            .collect()
    }

    /// Answers a request for grants.
    pub(crate) fn answer_grants(&mut self, nonce: Nonce, reply_to: SealingPublic, tokens: Vec<Vec<u8>>) {
        let request = LinkRequest { device: self.device.clone(), nonce, reply_to, ask: Ask::Grants };
        let answer = Answer::seal(&request, &LinkReply::Grants(tokens), &mut self.rng).unwrap();
        let payload = Signed::sign(&answer, &self.fleet, &[&self.service]).to_bytes();
        self.message(Topic::DownAnswer(self.device.clone()).text(&self.fleet), payload);
    }

    /// Begins a task that the issuer mints, as `edit` makes it, for the user 1001.
    pub(crate) fn begin_issued(&mut self, begin: BeginTask, edit: impl FnOnce(&mut TaskSpec)) -> TaskReply {
        match self.answer_begin(begin, edit) {
            Reply::Task(task) => task,
            other => panic!("no task: {other:?}"),
        }
    }

    /// What a program is answered to whom the issuer gives a task.
    pub(crate) fn answer_begin(&mut self, begin: BeginTask, edit: impl FnOnce(&mut TaskSpec)) -> Reply {
        let evidence = self.evidence(1001, Socket::Agent);
        self.input(Input::Request { id: RequestId(1), evidence, request: Request::Begin(begin) });
        self.serve(Timestamp(0));
        let (nonce, reply_to, ask) = self.requests().pop().expect("it asks the issuer");
        let Ask::Task(task) = ask.clone() else { panic!("it asks for {ask:?}") };
        let at = Timestamp::from_secs(self.truth.secs_floor());
        let mut spec = TaskSpec {
            fleet: self.fleet.clone(),
            grant: self.grant,
            bearer: Bearer::Device(self.device.clone()),
            owner: "ops@acme".into(),
            audience: None,
            feed: Some("main".parse().unwrap()),
            task: task.task,
            issued: at,
            expires: at + task.ttl_ms,
            serial: None,
            rights: task.rights,
            uses_max: task.uses,
            staleness_max: Vec::new(),
            min_time_class: None,
        };
        edit(&mut spec);
        let token = mint_task(&spec, &self.issuer, 7, &mut self.rng).unwrap();
        let request = LinkRequest { device: self.device.clone(), nonce, reply_to, ask };
        let answer = Answer::seal(&request, &LinkReply::Task(token), &mut self.rng).unwrap();
        let payload = Signed::sign(&answer, &self.fleet, &[&self.service]).to_bytes();
        self.message(Topic::DownAnswer(self.device.clone()).text(&self.fleet), payload);
        self.replies.pop().expect("answered").1
    }

    /// Another grant like the first.
    pub(crate) fn successor(&mut self, id: GrantId, expires: Timestamp) -> Vec<u8> {
        let spec = GrantSpec { grant: id, expires, ..self.spec.clone() };
        mint_grant(&spec, &self.issuer, 7, &mut self.rng).unwrap()
    }

    /// Connects, and answers `hello` and audit as the collector would, until nothing is left to say.
    pub(crate) fn connect(&mut self, true_time: Timestamp) {
        for _ in 0..1000 {
            self.sent.clear();
            self.wait_until(self.agent.poll_deadline(self.now.boottime));
            self.input(Input::Deadline);
            if self.sent.iter().any(|command| matches!(command, LinkCommand::Connect { .. })) {
                break;
            }
        }
        assert!(!self.sent.is_empty(), "it wants to connect");
        self.sent.clear();
        self.input(Input::Link(LinkEvent::Connected));
        self.pass(3);
        self.serve(true_time);
    }

    /// Time 0 stands for the oracle's.
    pub(crate) fn serve(&mut self, true_time: Timestamp) {
        for _ in 0..1000 {
            let commands = std::mem::take(&mut self.sent);
            if commands.is_empty() {
                return;
            }
            for command in commands {
                if let LinkCommand::Publish(publish) = command {
                    let time = if true_time == Timestamp(0) { self.truth } else { true_time };
                    self.serve_one(publish.topic, &publish.payload, time);
                }
            }
        }
        panic!("it never falls silent");
    }

    fn serve_one(&mut self, topic: Topic, payload: &[u8], true_time: Timestamp) {
        let keys = DeviceKeys::from_bytes(&self.keys);
        let (nonce, eras) = match topic {
            Topic::UpHello(_) => {
                let hello = Signed::<Hello>::from_bytes(payload).unwrap();
                let hello = hello.open(&self.fleet, [&keys.identity.verifying_key()], 1).unwrap();
                let newest = self.acked.keys().last().filter(|era| !hello.pending.contains(era) && hello.era != **era);
                let named = hello.pending.iter().chain([&hello.era]).chain(newest);
                (Some(hello.nonce), named.filter_map(|era| self.acked.get(era).copied()).collect())
            }
            Topic::UpAudit(_) => {
                self.uploads.push(payload.to_vec());
                let delivery = Delivery::from_bytes(payload).unwrap();
                let identity = keys.identity.verifying_key().into();
                let shed = delivery.is_shed(&self.fleet, &[identity]).unwrap();
                let upload = delivery.open(&[SealingKey::from_bytes([9; 32])]).unwrap();
                let claim = upload.header.claim().unwrap();
                let before = self.signers.range(..=claim.era).next_back().map(|(_, signer)| *signer);
                let start = EraAck {
                    era: claim.era,
                    next_segment: 0,
                    next_index: 0,
                    head: genesis(&self.fleet, &self.device, claim.era),
                };
                let stands = self.acked.get(&claim.era).copied().unwrap_or(start);
                if stands.next_segment != claim.segment {
                    let ack = self.ack(None, true_time, vec![stands]);
                    self.message(Topic::DownAck(self.device.clone()).text(&self.fleet), ack);
                    return;
                }
                let opened = signer::open(&upload.header, &self.fleet, &[identity], before).unwrap();
                let header = &opened.header;
                let records = if shed { Vec::new() } else { upload.check(header).unwrap() };
                self.signers.insert(header.era, opened.after(&records).unwrap());
                let ack = self.acked.entry(header.era).or_insert(start);
                assert_eq!((header.first_index, header.previous), (ack.next_index, ack.head));
                ack.next_segment = header.next_segment();
                ack.next_index += u64::from(header.count);
                ack.head = header.head();
                self.collected.extend(records.into_iter().map(|record| (header.era, record)));
                (None, vec![*ack])
            }
            Topic::UpRequest(_) => {
                self.unanswered.push(payload.to_vec());
                return;
            }
            _ => return,
        };
        let ack = self.ack(nonce, true_time, eras);
        self.message(Topic::DownAck(self.device.clone()).text(&self.fleet), ack);
    }

    pub(crate) fn ack(&self, nonce: Option<Nonce>, time: Timestamp, eras: Vec<EraAck>) -> Vec<u8> {
        self.signed_ack(&self.service, nonce, time, eras)
    }

    pub(crate) fn ack_signed_by(&self, key: &SigningKey, nonce: Option<Nonce>, time: Timestamp) -> Vec<u8> {
        self.signed_ack(key, nonce, time, vec![])
    }

    fn signed_ack(&self, key: &SigningKey, nonce: Option<Nonce>, time: Timestamp, eras: Vec<EraAck>) -> Vec<u8> {
        let ack = Ack {
            device: self.device.clone(),
            nonce,
            time,
            radius_ms: Millis(100),
            eras,
            feeds: vec![],
            bundle_version: self.named.0,
            policy_version: self.named.1,
            grants: grants_digest(self.listed.iter().copied()),
            window: 8,
        };
        Signed::sign(&ack, &self.fleet, &[key]).to_bytes()
    }

    /// The next trust bundle, as `edit` makes it.
    pub(crate) fn bundle(&mut self, edit: impl FnOnce(&mut TrustBundle)) -> (String, Vec<u8>) {
        let bytes = &self.disk.files[&StateFile::Bundle];
        let mut trust = Signed::<TrustBundle>::from_bytes(bytes).unwrap().claim().unwrap();
        trust.version += 1;
        edit(&mut trust);
        let signed = Signed::sign(&trust, &self.fleet, &[&self.root]);
        (Topic::Bundle(trust.version).text(&self.fleet), signed.to_bytes())
    }

    /// A policy, signed by the key that the first bundle names.
    pub(crate) fn policy_message(&self, version: u64, issued_at: Timestamp) -> (String, Vec<u8>) {
        let document = PolicyDocument { version, ..PolicyDocument::built_in(issued_at) };
        let signed = Signed::sign(&document, &self.fleet, &[&key(3)]);
        (Topic::Policy(version).text(&self.fleet), signed.to_bytes())
    }

    /// Enrols again with the same answer, on what is known of before.
    pub(crate) fn enrol_again(&mut self, known: &Anchor) {
        let keys = DeviceKeys::from_bytes(&self.keys);
        let (device, fingerprint, nonce) = (&self.device, &self.fingerprint, Nonce([3; 16]));
        let files: Vec<_> = self.disk.files.iter().map(|(file, bytes)| (file.clone(), bytes.clone())).collect();
        let (boot, boottime) = (BootId([self.boot; 16]), self.now.boottime);
        let known = super::enrol::Known { anchor: known, files: &files, boot, boottime };
        let accepted =
            super::enrol::accept(&self.answer, &keys, device, fingerprint, nonce, &self.profile, Some(known));
        self.disk.apply(accepted.unwrap().batch);
    }

    pub(crate) fn random(&mut self) -> u64 {
        self.rng.next_u64()
    }
}

/// What dies.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reboot {
    Kernel,
    Process,
}

/// Something revoked, and until when.
pub(crate) struct Rule {
    pub(crate) target: Target,
    pub(crate) until: Timestamp,
}

pub(crate) fn set_of(rules: &[Rule]) -> RevocationSet {
    let mut set = RevocationSet::default();
    for Rule { target, until } in rules {
        match (target, Selector::of(target)) {
            (Target::Block(block), _) => set.add_exact(*block, Slot::of_day(*until)),
            (_, selector) => set.add_rule(selector.unwrap(), *until),
        }
    }
    set
}

/// A head with what it adds: of a set, and what that has over the one before.
pub(crate) fn announce(
    feed: &str,
    seq: u64,
    previous: Hash,
    issued_at: Timestamp,
    sets: (&RevocationSet, &RevocationSet),
) -> Announcement {
    announce_with(feed, seq, previous, issued_at, sets, |_| {})
}

/// A head that promises or names something else.
pub(crate) fn announce_with(
    feed: &str,
    seq: u64,
    previous: Hash,
    issued_at: Timestamp,
    (set, additions): (&RevocationSet, &RevocationSet),
    edit: impl FnOnce(&mut Successor<'_>),
) -> Announcement {
    let mut successor = Successor {
        feed: &feed.parse().unwrap(),
        era: 0,
        seq,
        previous,
        issued_at,
        next_update_ms: Millis::from_secs(900),
        hard_stale_ms: Millis::from_secs(90 * 86_400),
        dropped_before: Timestamp(0),
        set,
        additions,
        skips: &Step::ending_at(seq).map(|_| None).collect::<Vec<_>>(),
        bundle_version: 1,
        policy_version: 1,
    };
    edit(&mut successor);
    successor.sign(&"acme".parse().unwrap(), &key(4)).1.remove(0)
}

fn boot_of(
    fleet: &FleetId,
    device: &DeviceId,
    keys: [u8; 96],
    profile: &Profile,
    boot: u8,
    disk: &Disk,
    eras: Vec<EraImage>,
) -> Boot {
    Boot {
        fleet: fleet.clone(),
        device: device.clone(),
        keys: DeviceKeys::from_bytes(&keys),
        profile: profile.clone(),
        seed: [boot ^ eras.len() as u8; 32],
        boot: BootId([boot; 16]),
        anchor: disk.anchor.clone(),
        files: disk.files.iter().map(|(file, bytes)| (file.clone(), bytes.clone())).collect(),
        eras,
        used_bytes: 0,
    }
}

pub(crate) fn right(resource: &str, action: &str) -> Right {
    Right { resource: resource.into(), action: action.into() }
}
