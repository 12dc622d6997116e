//! The fleet, in memory: the real issuer, publisher and collector, and a ledger that never fails.
//!
//! Owns: what the fleet does, as events that make the same fleet wherever they are told again.
//! Never: is part of a crash: a device's power is cut, not the fleet's.

use std::collections::BTreeMap;
use std::convert::Infallible;

use ed25519_dalek::SigningKey;
use hardtack::agent::effects::Publish;
use hardtack::fleet::book::{Renewal, Segment};
use hardtack::fleet::emergency::draft_added;
use hardtack::fleet::enrol::{answer, approve, found, Founding, Replace};
use hardtack::fleet::grant::{create, NewGrant};
use hardtack::fleet::keys::Issuer;
use hardtack::fleet::policy;
use hardtack::fleet::publish::Cadence;
use hardtack::fleet::report::{DeviceReport, Verifier};
use hardtack::fleet::revoke::{revoke, Revocation};
use hardtack::fleet::service::ServiceKeys;
use hardtack::fleet::{Book, Digests, Effects, FleetKeys, Service, Settings, Write};
use hardtack::ids::{unhex, DeviceId, EraId};
use hardtack::time::{Millis, Timestamp};
use hardtack::wire::audit::{Event, Gap, GapCause, Record};
use hardtack::wire::bundle::{BrokerPins, Fingerprint};
use hardtack::wire::enrol::{DeviceKeys, EnrolAnswer, EnrolRequest};
use hardtack::wire::envelope::Signed;
use hardtack::wire::link::Topic;
use hardtack::wire::policy::PolicyDocument;
use hardtack::wire::revocation::Target;
use hardtack::wire::seal::SealingKey;
use hardtack::wire::token::ClassRight;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use serde::{Deserialize, Serialize};

use crate::samples::right;

/// When the fleet is founded.
pub(crate) const START: Timestamp = Timestamp(1_790_000_000_000);

/// Something that happens at headquarters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum FleetEvent {
    /// A request to join is approved, a grant is made.
    Approved(Vec<u8>),
    /// The fleet revokes the tasks of this name.
    Revoked(String),
    /// The root keys name another emergency key: a new trust bundle.
    Named(String),
    /// Another policy.
    Policy,
    /// A message from the device. Hexadecimal: there may be much of it.
    Up(String, String),
}

/// The fleet.
pub(crate) struct Headquarters {
    keys: FleetKeys,
    book: Book,
    service: Service,
    rng: ChaCha20Rng,
    /// What a broker keeps.
    pub(crate) retained: BTreeMap<String, Vec<u8>>,
    segments: BTreeMap<(EraId, u64), Segment>,
}

/// What the collector holds, verified again from its bytes.
pub(crate) struct Held {
    pub(crate) report: DeviceReport,
    /// By era and index, whether it is a decision and which.
    pub(crate) records: BTreeMap<(u64, u64), Option<bool>>,
    /// By the era's number: the first and the first after.
    pub(crate) gaps: Vec<(u64, u64, Option<u64>)>,
    /// Of what was given up for want of room.
    pub(crate) given_up: Vec<(u64, u64, u64)>,
}

pub(crate) fn device() -> DeviceId {
    "gw-07".parse().unwrap()
}

fn keys() -> FleetKeys {
    FleetKeys::generate(&mut ChaCha20Rng::from_seed([1; 32]))
}

fn cadence() -> Cadence {
    Cadence::every(Millis::from_secs(3600))
}

fn service(keys: &FleetKeys, book: &Book) -> Service {
    let issuer = Issuer { root_key_id: keys.issuer.root_key_id, key: keys.issuer.key.clone() };
    let keys = ServiceKeys {
        issuer,
        feed: keys.feed.clone(),
        service: keys.service.clone(),
        collectors: vec![SealingKey::from_bytes(*keys.collector.to_bytes())],
    };
    Service::start(keys, Settings { cadence: cadence(), ..Settings::default() }, [2; 32], book).unwrap()
}

/// The decision of a record, if it is one.
fn verdict(record: &Record) -> Option<bool> {
    match &record.event {
        Event::Decision(decision) => Some(decision.allow),
        _ => None,
    }
}

/// What a record counts as lost, if it is a gap's.
fn gap(record: &Record) -> Option<(u64, u64, Option<u64>)> {
    match &record.event {
        Event::Gap(Gap { era, first, end, cause, .. }) if *cause != GapCause::Quota => Some((era.number, *first, *end)),
        _ => None,
    }
}

/// What a record counts as given up, if it does.
fn given_up(record: &Record) -> Option<(u64, u64, u64)> {
    match &record.event {
        Event::Gap(Gap { era, first, end: Some(end), cause: GapCause::Quota, .. }) => Some((era.number, *first, *end)),
        _ => None,
    }
}

impl Headquarters {
    pub(crate) fn found() -> Self {
        let keys = keys();
        let mut fx = Effects::default();
        let founding = Founding {
            fleet: "acme".parse().unwrap(),
            feed: "main".parse().unwrap(),
            broker: BrokerPins::default(),
            keys: &keys,
            operator: "ada",
            at: START,
            cadence: cadence(),
        };
        let book = found(&founding, &mut fx).unwrap();
        let service = service(&keys, &book);
        let rng = ChaCha20Rng::from_seed([3; 32]);
        let mut founded = Self { keys, book, service, rng, retained: BTreeMap::new(), segments: BTreeMap::new() };
        founded.commit(fx);
        let mut fx = Effects::default();
        founded.service.connected(&mut founded.book, START, &mut fx);
        founded.commit(fx);
        founded
    }

    /// The same fleet once more, its service started anew.
    pub(crate) fn fork(&self) -> Self {
        let (keys, book) = (keys(), self.book.clone());
        let mut fork = Self {
            service: service(&keys, &book),
            keys,
            book,
            rng: self.rng.clone(),
            retained: self.retained.clone(),
            segments: self.segments.clone(),
        };
        let mut fx = Effects::default();
        fork.service.connected(&mut fork.book, START, &mut fx);
        fork.commit(fx);
        fork
    }

    pub(crate) fn fingerprint(&self) -> Fingerprint {
        self.book.trusts()[0].fingerprint()
    }

    /// Something happens. Returns what the device is sent.
    pub(crate) fn happen(&mut self, event: &FleetEvent, at: Timestamp) -> Vec<(String, Vec<u8>)> {
        let mut fx = Effects::default();
        let operator = self.keys.operator("ada");
        match event {
            FleetEvent::Approved(request) => {
                let request = Signed::<EnrolRequest>::from_bytes(request).unwrap();
                let code = EnrolRequest::code(&request);
                let book = &mut self.book;
                approve(book, &request, code, Replace::Keep, operator, at, &mut fx).unwrap();
                create(book, new_grant(), &self.keys.issuer, operator, at, &mut self.rng, &mut fx).unwrap();
            }
            FleetEvent::Revoked(task) => {
                let target = Target::Task(task.parse().unwrap());
                let revocation =
                    Revocation { target, until: None, reason: "a test".into(), life: None, device: Some(device()) };
                revoke(&mut self.book, revocation, operator, at, &mut fx).unwrap();
            }
            FleetEvent::Named(name) => {
                let key = SigningKey::from_bytes(&[6; 32]).verifying_key().into();
                let next = draft_added(&self.book, name, &key, at).unwrap();
                let signed = Signed::sign(&next, self.book.fleet(), &self.keys.roots());
                self.book.apply(Write::Bundle(next.version, signed));
            }
            FleetEvent::Policy => {
                let mut draft = PolicyDocument::built_in(at);
                draft.dead_man_ms = Some(Millis::from_secs(60 * 86_400));
                policy::set(&mut self.book, draft, &self.keys.policy, operator, at, &mut fx).unwrap();
            }
            FleetEvent::Up(topic, payload) => {
                let segments = &self.segments;
                let archive =
                    |_: &DeviceId, era, segment| Digests::one(segments.get(&(era, segment)).map(|held| held.digest));
                let payload = unhex(payload).unwrap();
                self.service.message(&mut self.book, topic, &payload, &archive, at, &mut fx);
            }
        }
        let mut down = self.commit(fx);
        let mut fx = Effects::default();
        self.service.tick(&mut self.book, at, &mut fx);
        down.extend(self.commit(fx));
        down
    }

    fn commit(&mut self, fx: Effects) -> Vec<(String, Vec<u8>)> {
        let segments = &mut self.segments;
        let outgoing = fx.commit(|writes| {
            for write in writes {
                if let Write::Segment(segment) = write {
                    segments.insert((segment.era, segment.segment), *segment);
                }
            }
            Ok::<(), Infallible>(())
        });
        let Ok(outgoing) = outgoing;
        let fleet = self.book.fleet().clone();
        let mut down = Vec::new();
        for Publish { topic, payload } in outgoing.publish {
            let text = topic.text(&fleet);
            if !matches!(topic, Topic::DownAck(_) | Topic::DownAnswer(_) | Topic::EnrolDown(_)) {
                self.retained.insert(text.clone(), payload.clone());
            }
            down.push((text, payload));
        }
        down
    }

    /// The answer to the device's request.
    pub(crate) fn answer(&self, at: Timestamp) -> EnrolAnswer {
        let mut rng = ChaCha20Rng::from_seed([4; 32]);
        answer(&self.book, &device(), vec![0x30, 0], &self.keys.service, at, &mut rng).unwrap()
    }

    /// What is held of the device, checked from its bytes.
    pub(crate) fn held(&self) -> Held {
        let mut verifier = Verifier::new(&self.book);
        let (mut records, mut gaps, mut shed) = (BTreeMap::new(), Vec::new(), Vec::new());
        for segment in self.segments.values() {
            let Some(checked) = verifier.segment(segment.clone()) else { continue };
            for (record, _) in &checked.records {
                gaps.extend(gap(record));
                shed.extend(given_up(record));
                records.insert((checked.header.era.number, record.index), verdict(record));
            }
        }
        let report = verifier.finish().devices.remove(&device()).unwrap_or_default();
        Held { report, records, gaps, given_up: shed }
    }
}

fn new_grant() -> NewGrant {
    let class: hardtack::ids::TaskClass = "pump".parse().unwrap();
    NewGrant {
        device: device(),
        owner: "ops@acme".into(),
        life: Millis::from_secs(7 * 86_400),
        may_begin: vec![("unix:uid:1001".into(), class.clone())],
        may_step: Vec::new(),
        rights: vec![ClassRight { class, right: right("modbus/*", "read") }],
        offline_max: Millis::from_secs(3 * 86_400),
        uses_max: 1_000_000,
        boots_max: 1000,
        task_ttl_max: Millis::from_secs(6 * 3600),
        staleness_max: Vec::new(),
        min_time_class: None,
        renewal: Renewal::Automatic,
    }
}

/// A device's keys that are always the same.
pub(crate) fn device_keys() -> DeviceKeys {
    DeviceKeys::generate(&mut ChaCha20Rng::from_seed([5; 32]))
}
