//! A fleet with its real service, a device with its real daemon, and the broker of `broker.rs` between them.
//!
//! Owns: [`Fleet`], whose book and keys sign all that the broker has; [`Site`], what is seen of the device.
//! Never: hides from the device what a test did not hide.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use hardtack::fleet::book::{Issued, Renewal, Rule};
use hardtack::fleet::enrol::{answer, approve, found, Founding, Replace};
use hardtack::fleet::grant::{self, NewGrant};
use hardtack::fleet::policy;
use hardtack::fleet::publish::Cadence;
use hardtack::fleet::revoke::{revoke, Revocation};
use hardtack::fleet::service::ServiceKeys;
use hardtack::fleet::{Book, Digests, Effects, FleetKeys, Service, Settings, Write};
use hardtack::ids::{BlockId, DeviceId, EraId, Hash};
use hardtack::shell::cast::{path, Gateway, Stage};
use hardtack::shell::clock;
use hardtack::time::{Millis, Timestamp};
use hardtack::wire::audit::segment::SegmentHeader;
use hardtack::wire::audit::{Event, Evidence};
use hardtack::wire::bundle::BrokerPins;
use hardtack::wire::enrol::EnrolRequest;
use hardtack::wire::envelope::Signed;
use hardtack::wire::link::{Right, Topic};
use hardtack::wire::policy::PolicyDocument;
use hardtack::wire::revocation::Target;
use hardtack::wire::token::ClassRight;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use serde_json::{json, Value};

use super::broker::{Broker, Message};

/// Whoever waits longer than this has found a bug.
const PATIENCE: Duration = Duration::from_secs(30);
/// One head a minute.
pub(super) const CADENCE: Cadence = Cadence::every(Millis::from_secs(60));
pub(super) const FEED: &str = "hardtack/1/acme/feed/main";

/// A fleet: its book, its keys, its service.
pub(super) struct Fleet {
    pub(super) book: Book,
    pub(super) keys: FleetKeys,
    service: Service,
    rng: ChaCha20Rng,
    /// By how much its clock is ahead.
    pub(super) ahead: Millis,
    /// Task tokens, as its ledger keeps them.
    pub(super) issued: Vec<Issued>,
    segments: BTreeMap<(DeviceId, EraId, u64), Hash>,
    /// What devices refused, as their delivered audit tells it.
    evidence: Vec<Evidence>,
    revoked: u32,
}

impl Fleet {
    /// A fleet of this name, whose keys come of this seed, before its service has found a broker.
    pub(super) fn founded(name: &str, seed: u8, port: u16, cadence: Cadence) -> Self {
        let keys = |seed| FleetKeys::generate(&mut ChaCha20Rng::from_seed([seed; 32]));
        let founding = Founding {
            fleet: name.parse().unwrap(),
            feed: "main".parse().unwrap(),
            broker: BrokerPins { urls: vec![format!("mqtt://127.0.0.1:{port}")], authorities: Vec::new() },
            keys: &keys(seed),
            operator: "ann",
            at: clock::wall().unwrap(),
            cadence,
        };
        let book = found(&founding, &mut Effects::default()).unwrap();
        let FleetKeys { issuer, feed, service, collector, .. } = keys(seed);
        let service_keys = ServiceKeys { issuer, feed, service, collectors: vec![collector] };
        let settings = Settings { cadence, ..Settings::default() };
        let service = Service::start(service_keys, settings, [seed; 32], &book).unwrap();
        Self {
            book,
            keys: keys(seed),
            service,
            rng: ChaCha20Rng::from_seed([seed + 1; 32]),
            ahead: Millis(0),
            issued: Vec::new(),
            segments: BTreeMap::new(),
            evidence: Vec::new(),
            revoked: 0,
        }
    }

    pub(super) fn at(&self) -> Timestamp {
        clock::wall().unwrap() + self.ahead
    }

    /// Lets a device in, and grants what it needs to work alone. Gives the answer to its request.
    fn enrol(&mut self, request: &[u8], staleness_max: Vec<(&str, Millis)>) -> Vec<u8> {
        let request = Signed::<EnrolRequest>::from_bytes(request).unwrap();
        let (at, fx) = (self.at(), &mut Effects::default());
        let ann = self.keys.operator("ann");
        let code = EnrolRequest::code(&request);
        let (id, _) = approve(&mut self.book, &request, code, Replace::Keep, ann, at, fx).unwrap();
        let right = Right { resource: "meter/*".into(), action: "read".into() };
        let new = NewGrant {
            device: id.clone(),
            owner: "ops@acme".into(),
            life: Millis::from_secs(86_400),
            may_begin: vec![(format!("unix:uid:{}", rustix::process::getuid().as_raw()), "pump".parse().unwrap())],
            may_step: Vec::new(),
            rights: vec![ClassRight { class: "pump".parse().unwrap(), right }],
            offline_max: Millis::from_secs(86_400),
            uses_max: 10_000,
            boots_max: 20,
            task_ttl_max: Millis::from_secs(3600),
            staleness_max: staleness_max.into_iter().map(|(risk, age)| (risk.parse().unwrap(), age)).collect(),
            min_time_class: None,
            renewal: Renewal::Never,
        };
        grant::create(&mut self.book, new, &self.keys.issuer, ann, at, &mut self.rng, fx).unwrap();
        answer(&self.book, &id, vec![0x30, 0], &self.keys.service, at, &mut self.rng).unwrap().to_bytes()
    }

    /// All that a broker is to keep, when the service finds one.
    pub(super) fn connected(&mut self) -> Vec<Message> {
        let (at, mut fx) = (self.at(), Effects::default());
        self.service.connected(&mut self.book, at, &mut fx);
        self.commit(fx)
    }

    /// What is new since the last time.
    pub(super) fn tick(&mut self) -> Vec<Message> {
        let (at, mut fx) = (self.at(), Effects::default());
        self.service.tick(&mut self.book, at, &mut fx);
        self.commit(fx)
    }

    fn hear(&mut self, topic: &str, payload: &[u8]) -> Vec<Message> {
        let (at, mut fx) = (self.at(), Effects::default());
        let segments = &self.segments;
        let archive = |device: &DeviceId, era: EraId, number: u64| {
            Digests::one(segments.get(&(device.clone(), era, number)).copied())
        };
        self.service.message(&mut self.book, topic, payload, &archive, at, &mut fx);
        self.commit(fx)
    }

    fn commit(&mut self, fx: Effects) -> Vec<Message> {
        let fleet = self.book.fleet().clone();
        let written = RefCell::new(Vec::new());
        let outgoing = fx.commit(|writes| {
            written.borrow_mut().extend(writes);
            Ok::<(), ()>(())
        });
        for write in written.into_inner() {
            match write {
                Write::Issued(issued) => self.issued.push(issued),
                Write::Segment(segment) => {
                    self.segments.insert((segment.device.clone(), segment.era, segment.segment), segment.digest);
                    let header = Signed::<SegmentHeader>::from_bytes(&segment.header).unwrap().claim().unwrap();
                    let records = header.read(&segment.leaves).unwrap();
                    self.evidence.extend(records.into_iter().filter_map(|record| match record.event {
                        Event::Refused(evidence) => Some(evidence),
                        _ => None,
                    }));
                }
                _ => {}
            }
        }
        outgoing.unwrap().publish.into_iter().map(|publish| (publish.topic.text(&fleet), publish.payload)).collect()
    }

    /// Revokes something, which makes a head. Gives what is new for the broker.
    pub(super) fn revoke(&mut self, target: Target) -> Vec<Message> {
        let issued = match &target {
            Target::Block(block) => self.issued.iter().find(|issued| issued.block == *block),
            _ => None,
        };
        let revocation =
            Revocation { target, until: None, reason: "a test".into(), life: issued.map(Issued::life), device: None };
        let (at, fx) = (self.at(), &mut Effects::default());
        revoke(&mut self.book, revocation, self.keys.operator("ann"), at, fx).unwrap();
        self.tick()
    }

    /// Revokes a token that nobody knows: another head.
    pub(super) fn next_head(&mut self) -> Vec<Message> {
        self.revoked += 1;
        let unknown = BlockId(Hash::of("test", &[&self.revoked.to_be_bytes()]).0);
        self.revoke(Target::Block(unknown))
    }

    /// Some heads, of which only what the broker keeps in the end is given.
    pub(super) fn heads(&mut self, count: u64) -> Vec<Message> {
        let mut messages: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        (0..count).for_each(|_| messages.extend(self.next_head()));
        // The head last, as the service says it.
        let head = messages.remove_entry(&topic("head"));
        messages.into_iter().chain(head).collect()
    }

    /// A revocation of a token that nobody knows waits for the next head.
    pub(super) fn waits_for_head(&mut self) {
        self.revoked += 1;
        let block = BlockId(Hash::of("test", &[&self.revoked.to_be_bytes()]).0);
        let until = self.at() + Millis::from_secs(86_400);
        let rule = Rule {
            target: Target::Block(block),
            until,
            reason: "a test".into(),
            at: self.at(),
            life: None,
            device: None,
        };
        self.book.apply(Write::Rule(rule));
    }

    /// The next policy, which no head names yet.
    pub(super) fn next_policy(&mut self) -> Message {
        let current = self.book.policy().1.clone();
        let dead_man = current.dead_man_ms.map_or(Millis::from_secs(86_400), |before| Millis(before.0 + 1));
        let draft = PolicyDocument { dead_man_ms: Some(dead_man), ..current };
        let (at, ann, key) = (self.at(), self.keys.operator("ann"), &self.keys.policy);
        let version = policy::set(&mut self.book, draft, key, ann, at, &mut Effects::default()).unwrap();
        (format!("hardtack/1/acme/policy/{version}"), self.book.policy().0.to_bytes())
    }

    /// The newest head's number.
    pub(super) fn seq(&self) -> u64 {
        self.book.first().head().unwrap().head.seq
    }

    pub(super) fn block(&self, task: &str) -> BlockId {
        self.issued.iter().find(|issued| issued.task.as_str() == task).expect("the issuer's own token").block
    }
}

/// A place of the feed.
pub(super) fn topic(rest: &str) -> String {
    format!("{FEED}/{rest}")
}

/// The message of a place.
#[track_caller]
pub(super) fn at(messages: &[Message], rest: &str) -> Message {
    let found = messages.iter().rev().find(|(place, _)| *place == topic(rest));
    found.cloned().unwrap_or_else(|| panic!("no {rest} in {:?}", messages.iter().map(|(t, _)| t).collect::<Vec<_>>()))
}

/// A refusal, as the device's log tells it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Refusal {
    pub(super) topic: String,
    pub(super) reason: String,
}

/// Who may hear the device, and what has come of that.
struct Shared {
    fleet: Mutex<Fleet>,
    heard: Condvar,
    /// The broker keeps to itself what the device says.
    deaf: Mutex<bool>,
}

/// One device under attack.
pub(super) struct Site {
    shared: Arc<Shared>,
    pub(super) broker: Broker,
    pub(super) device: Gateway,
    /// A token that was revoked before the attack, and one that was not.
    revoked: String,
    pub(super) live: Task,
    /// All that the device refused.
    refused: Vec<Refusal>,
    markers: u32,
    /// So much was refused that the log tells no more of it for a while.
    flooded: bool,
    _folder: tempfile::TempDir,
}

/// A task token that the issuer minted.
#[derive(Clone, Debug)]
pub(super) struct Task {
    pub(super) id: String,
    pub(super) token: String,
}

impl Site {
    pub(super) fn new() -> Self {
        Self::with(CADENCE, Vec::new())
    }

    /// A site whose device is online, and knows a revocation.
    pub(super) fn with(cadence: Cadence, staleness_max: Vec<(&str, Millis)>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let stage = Stage::new(Path::new(env!("CARGO_BIN_EXE_hardtack")).into());
        let mut device = Gateway::new(&stage, "gw-07", folder.path());
        let ear: Arc<Mutex<Option<Arc<Shared>>>> = Arc::default();
        let listening = Arc::clone(&ear);
        let broker = Broker::start(move |topic, payload| {
            listening.lock().unwrap().as_ref().map(|shared| shared.hear(topic, payload)).unwrap_or_default()
        });
        let mut fleet = Fleet::founded("acme", 200, broker.port, cadence);
        let (request, answer) = (folder.path().join("request"), folder.path().join("answer"));
        device.command(&["enrol", "request", "--id", "gw-07", "--out", path(&request)]).unwrap();
        std::fs::write(&answer, fleet.enrol(&std::fs::read(&request).unwrap(), staleness_max)).unwrap();
        let fingerprint = fleet.book.trusts()[0].fingerprint().to_string();
        device.command(&["enrol", "import", path(&answer), "--fleet", &fingerprint]).unwrap();
        fleet.connected().into_iter().for_each(|message| broker.publish(message));
        let shared = Arc::new(Shared { fleet: Mutex::new(fleet), heard: Condvar::new(), deaf: Mutex::new(false) });
        *ear.lock().unwrap() = Some(Arc::clone(&shared));

        let profile = folder.path().join("profile.toml");
        let mut text = include_str!("../../../firmware-profiles/generic-x86_64.toml").to_owned();
        for (usual, quick) in [
            ("backoff_ms_min = 500 ", "backoff_ms_min = 100 "),
            ("settle_ms = 2000 ", "settle_ms = 500 "),
            ("resend_ms = 5000 ", "resend_ms = 500 "),
            ("segment_ms = 1000 ", "segment_ms = 100 "),
        ] {
            assert!(text.contains(usual));
            text = text.replace(usual, quick);
        }
        std::fs::write(&profile, text).unwrap();
        device.settings = vec![("HARDTACK_PROFILE", path(&profile).to_owned())];
        device.start(&format!("mqtt://127.0.0.1:{}", broker.port), 0).unwrap();
        let mut site = Self {
            shared,
            broker,
            device,
            revoked: String::new(),
            live: Task { id: String::new(), token: String::new() },
            refused: Vec::new(),
            markers: 0,
            flooded: false,
            _folder: folder,
        };
        site.device.wait_mode("online").unwrap();
        let revoked = site.begin();
        site.live = site.begin();
        let block = site.fleet().block(&revoked.id);
        site.revoked = revoked.token;
        let messages = site.fleet().revoke(Target::Block(block));
        site.deliver(messages);
        site.applied(2);
        // It may have begun to greet anew, on a busy machine.
        site.waits_for("online with the revocation", |status| status["feed_seq"] == 2 && status["mode"] == "online");
        site
    }

    pub(super) fn fleet(&self) -> MutexGuard<'_, Fleet> {
        self.shared.fleet.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The broker keeps to itself what the device says, or no longer does.
    pub(super) fn deafen(&self, deaf: bool) {
        *self.shared.deaf.lock().unwrap() = deaf;
    }

    /// Begins a task with the issuer.
    pub(super) fn begin(&self) -> Task {
        let rights = json!([{"resource": "meter/*", "action": "read"}]);
        let task = self.device.post("/v1/tasks", &json!({"task": "pump", "rights": rights, "ttl_s": 3000})).unwrap();
        assert_eq!(task["origin"], "issued");
        let text = |field: &str| task[field].as_str().unwrap().to_owned();
        Task { id: text("task_id"), token: text("token") }
    }

    /// What the device says to a token: the reason.
    pub(super) fn decide(&self, token: &str, risk: &str) -> String {
        let body = json!({"token": token, "operation": "read", "resource": "meter/1", "risk": risk});
        let decision = self.device.post("/v1/authorize", &body).unwrap();
        decision["reason"].as_str().unwrap_or_else(|| panic!("{decision}")).to_owned()
    }

    /// What an honest broker does.
    pub(super) fn deliver(&self, messages: Vec<Message>) {
        messages.into_iter().for_each(|message| self.broker.publish(message));
    }

    /// Waits until the set of this head is complete. Where an acknowledgement named the head before it was here, the device
    /// greets anew as soon as it has it: that is over too.
    #[track_caller]
    pub(super) fn applied(&mut self, seq: u64) {
        self.device.agent.as_mut().unwrap().wait("feed.applied", |line| line["seq"] == seq).unwrap();
        self.waits_for("no greeting under way", |status| {
            !status["link"].to_string().contains("hello not acknowledged yet")
        });
    }

    #[track_caller]
    pub(super) fn waits_for(&self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        self.device.wait_status(what, fits).unwrap()
    }

    /// Says what a hostile broker says, and waits until the device has heard all of it. Gives what it refused.
    #[track_caller]
    pub(super) fn attack(&mut self, messages: impl IntoIterator<Item = Message>) -> Vec<Refusal> {
        messages.into_iter().for_each(|message| self.broker.say(message));
        self.heard()
    }

    /// Waits until the device has heard all that was said. Gives what it refused.
    #[track_caller]
    pub(super) fn heard(&mut self) -> Vec<Refusal> {
        self.markers += 1;
        let marker = format!("hardtack/1/acme/marker/{}", self.markers);
        self.broker.say((marker.clone(), Vec::new()));
        let refused = RefCell::new(Vec::new());
        let seen = |line: &Value| {
            let text = |field: &str| line[field].as_str().unwrap_or_default().to_owned();
            let refusal = Refusal { topic: text("topic"), reason: text("reason") };
            let last = refusal.topic == marker;
            refused.borrow_mut().push(refusal);
            last
        };
        self.device.agent.as_mut().unwrap().wait("message.refused", seen).unwrap();
        let mut refused = refused.into_inner();
        self.refused.extend(refused.iter().cloned());
        refused.pop();
        refused
    }

    /// Says more than the log tells of, and waits until the device has heard all of it.
    #[track_caller]
    pub(super) fn flood(&mut self, messages: Vec<Message>) {
        self.flooded = true;
        messages.into_iter().for_each(|message| self.broker.say(message));
        let policy = self.fleet().next_policy();
        self.broker.publish(policy);
        self.device.agent.as_mut().unwrap().wait("policy.applied", |_| true).unwrap();
    }

    /// How much the device has refused since it started.
    pub(super) fn refusals(&self) -> u64 {
        let status = self.device.get("/v1/status").unwrap();
        status["counters"]["refused"].as_u64().unwrap_or_else(|| panic!("{status}"))
    }

    /// The daemon's resident memory in KiB.
    pub(super) fn memory(&self) -> u64 {
        let id = self.device.agent.as_ref().unwrap().id();
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// The device's complete position and mode; what was revoked is revoked, and what was not is not.
    #[track_caller]
    pub(super) fn check(&self, seq: u64, mode: &str) {
        let status = self.device.get("/v1/status").unwrap();
        assert_eq!((&status["feed_seq"], &status["mode"]), (&seq.into(), &mode.into()), "{status}");
        assert_eq!(self.decide(&self.revoked, "low"), "revoked");
        assert_eq!(self.decide(&self.live.token, "low"), "allowed");
    }

    /// The broker is honest again, with all that the service has for it. The device comes to the newest head, is online, and
    /// its audit tells the collector of every kind of thing that it refused.
    #[track_caller]
    pub(super) fn recovers(&mut self) {
        if !self.flooded {
            self.heard();
        }
        self.deafen(false);
        self.broker.show_all();
        self.broker.forget(|_| true);
        let messages = self.fleet().connected();
        self.deliver(messages);
        self.converges();
    }

    /// As [`Site::recovers`], with a broker that is honest already.
    #[track_caller]
    pub(super) fn converges(&mut self) {
        let seq = self.fleet().seq();
        self.waits_for("the newest head", |status| status["feed_seq"] == seq && status["mode"] == "online");
        self.check(seq, "online");
        let refused: BTreeSet<_> = self.refused.iter().map(|refusal| kind(&refusal.topic, &refusal.reason)).collect();
        self.collects(&format!("{refused:?}"), |evidence| {
            let told: BTreeSet<_> = evidence.iter().map(|told| kind(&told.source, &told.reason)).collect();
            refused.is_subset(&told)
        });
    }

    /// Waits until the collector has heard of a refusal for this reason.
    #[track_caller]
    pub(super) fn expect_evidence(&self, reason: &str) {
        self.collects(reason, |evidence| evidence.iter().any(|told| told.reason.contains(reason)));
    }

    /// What the collector has heard of refusals.
    pub(super) fn evidence(&self) -> Vec<Evidence> {
        self.fleet().evidence.clone()
    }

    #[track_caller]
    fn collects(&self, what: &str, enough: impl Fn(&[Evidence]) -> bool) {
        let missing = |fleet: &mut Fleet| !enough(&fleet.evidence);
        let (fleet, waited) = self.shared.heard.wait_timeout_while(self.fleet(), PATIENCE, missing).unwrap();
        assert!(!waited.timed_out(), "{what}: the audit tells only {:#?}", fleet.evidence);
    }
}

impl Shared {
    fn hear(&self, topic: &str, payload: &[u8]) -> Vec<Message> {
        if *self.deaf.lock().unwrap() {
            return Vec::new();
        }
        let messages = self.fleet.lock().unwrap_or_else(std::sync::PoisonError::into_inner).hear(topic, payload);
        self.heard.notify_all();
        messages
    }
}

/// What refusals have in common that are recorded once a minute, as one with a count: where it came from, and why not.
fn kind(source: &str, reason: &str) -> (String, String) {
    let class = match Topic::parse(source, &"acme".parse().unwrap()) {
        Some(Topic::FeedHead(_)) => "head".into(),
        Some(Topic::Bundle(_)) => "bundle".into(),
        Some(Topic::Policy(_)) => "policy".into(),
        Some(Topic::DownAck(_)) => "ack".into(),
        Some(Topic::DownAnswer(_)) => "answer".into(),
        Some(
            Topic::FeedRules(_)
            | Topic::FeedDelta(..)
            | Topic::FeedSkip(..)
            | Topic::FeedManifest(_)
            | Topic::FeedPiece(..),
        ) => "piece".into(),
        _ if source.starts_with("time signed") => "clock".into(),
        _ => "unknown".to_owned(),
    };
    let why = reason.split([':', ';']).next().unwrap_or_default();
    (class, why.to_owned())
}
