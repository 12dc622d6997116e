//! The operator and the fleet's service: the shipped fleet core over a book in memory.
//!
//! Owns: the fleet's keys, its book, what the collector stored, which heads were signed; hostile tokens that only
//! somebody with a key of his own, or with an open token in hand, can make.
//! Never: loses what was written. The ledger is another matter than the gateways' disks.
//! Read next: `hardtack::fleet`.

use std::collections::BTreeMap;
use std::convert::Infallible;

use biscuit_auth::builder::BlockBuilder;
use ed25519_dalek::SigningKey;
use hardtack::agent::effects::Publish;
use hardtack::agent::enrol::{accept, Accepted};
use hardtack::fleet::enrol::{answer, approve, found, Founding, Replace};
use hardtack::fleet::grant::{create, withdraw, NewGrant};
use hardtack::fleet::hello::{self, Terms};
use hardtack::fleet::policy;
use hardtack::fleet::publish::Cadence;
use hardtack::fleet::revoke::{revoke, Revocation};
use hardtack::fleet::service::ServiceKeys;
use hardtack::fleet::time::{reset, Reading};
use hardtack::fleet::{Book, Effects, FleetKeys, Service, Settings, Write};
use hardtack::ids::{BlockId, DeviceId, EraId, FleetId, GrantId, Hash, Nonce, TaskId};
use hardtack::profile::Profile;
use hardtack::time::{Millis, Timestamp};
use hardtack::wire::audit::Upload;
use hardtack::wire::bundle::BrokerPins;
use hardtack::wire::enrol::{DeviceKeys, EnrolRequest};
use hardtack::wire::envelope::Signed;
use hardtack::wire::link::Right;
use hardtack::wire::policy::PolicyDocument;
use hardtack::wire::revocation::Target;
use hardtack::wire::time::{TimeFile, TimeReset};
use hardtack::wire::token::{mint_task, to_text, ClassRight, Held, TaskSpec};
use rand_chacha::ChaCha8Rng;
use rand_core::RngCore;

use crate::check::audit::Collected;
use crate::check::authority::{Narrowing, ONE_RESOURCE};
use crate::clocks::date;
use crate::fault::AckTrick;
use crate::random::{bytes, stream};
use crate::reset::RADIUS;
use crate::scenario::{GrantPlan, PolicyPlan, Scenario};
use crate::workload::program_rights;

/// Why an `expect` below holds: the scenario was checked, and the operator does nothing else than an honest one.
const HONEST: &str = "what an honest operator does with checked names is accepted";

/// The operator and the service.
pub(crate) struct Operator {
    keys: FleetKeys,
    service: Service,
    running: bool,
    book: Book,
    grants: GrantPlan,
    rng: ChaCha8Rng,
    /// Makes what thieves and forgers make, from a stream of its own.
    thief: ChaCha8Rng,
    numbers: BTreeMap<DeviceId, u32>,
    collected: Vec<Collected>,
    archive: BTreeMap<(DeviceId, EraId, u64), Hash>,
    /// Per gateway the nonce of its last `hello`, if it was not answered yet.
    pub(crate) nonces: BTreeMap<u32, Asked>,
    /// Tokens that thieves and forgers made lately.
    stolen: BTreeMap<(Theft, DeviceId), (Timestamp, String)>,
}

fn policy_of(plan: &PolicyPlan, at: Timestamp) -> PolicyDocument {
    let mut document = PolicyDocument { time_rules: plan.time_rules.clone(), ..PolicyDocument::built_in(at) };
    if !plan.risks.is_empty() {
        document.risks = plan.risks.clone();
    }
    document
}

/// A nonce that is out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) nonce: Nonce,
    pub(crate) sent: u64,
}

/// What only somebody with a key of his own, or with an open token in hand, can make.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Theft {
    /// A task token signed by somebody who is not the issuer, with the issuer's number on it.
    Forged,
    /// An honest token to read, which its holder narrowed to one resource,
    OneResource,
    /// or to writing,
    OnlyWrite,
    /// or to the next two minutes, in a check that only evaluation can tell.
    Until,
    /// An honest token to read, into which its holder wrote the right to write.
    Widened,
}

/// A token of [`Theft`] is used for this long before another is made.
const STOLEN_LIFE: Millis = Millis::from_secs(600);
/// What [`Theft::Until`] narrows to.
const UNTIL: Millis = Millis::from_secs(120);

/// What is revoked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Revoke {
    Block(BlockId),
    /// A gateway.
    Device(DeviceId),
    /// A fallback grant. Its gateway gets another.
    Grant(GrantId),
    Task(TaskId),
}

impl Operator {
    /// A fleet is founded.
    pub(crate) fn found(scenario: &Scenario, seed: u64) -> Self {
        let mut rng = stream(seed, "operator", "keys");
        let keys = FleetKeys::generate(&mut rng);
        let cadence = Cadence::every(Millis(scenario.fleet.head_every.0));
        let start = date(scenario.start);
        let mut fx = Effects::default();
        let founding = Founding {
            fleet: "sim".parse().expect(HONEST),
            feed: "main".parse().expect(HONEST),
            broker: BrokerPins::default(),
            keys: &keys,
            operator: "ada",
            cadence,
            at: start,
        };
        let mut book = found(&founding, &mut fx).expect(HONEST);
        let draft = policy_of(&scenario.policy, start);
        if draft != PolicyDocument::built_in(start) {
            policy::set(&mut book, draft, &keys.policy, keys.operator("ada"), start, &mut fx).expect(HONEST);
        }
        let settings = Settings {
            cadence,
            terms: Terms { window: 8, clock_error: Millis(500) },
            task_ttl_max: Millis(scenario.grant.task_ttl_max.0),
        };
        let service_keys = ServiceKeys {
            issuer: hardtack::fleet::keys::Issuer {
                root_key_id: keys.issuer.root_key_id,
                key: keys.issuer.key.clone(),
            },
            feed: keys.feed.clone(),
            service: keys.service.clone(),
        };
        let service = Service::start(service_keys, settings, bytes(seed, "service", "seed"), &book).expect(HONEST);
        let mut operator = Self {
            keys,
            service,
            running: true,
            book,
            grants: scenario.grant.clone(),
            rng: stream(seed, "operator", "choices"),
            thief: stream(seed, "thief", "tokens"),
            numbers: BTreeMap::new(),
            collected: Vec::new(),
            archive: BTreeMap::new(),
            nonces: BTreeMap::new(),
            stolen: BTreeMap::new(),
        };
        operator.commit(fx);
        // The first list, so that whoever enrols takes one along.
        operator.ticks(start);
        operator
    }

    /// A gateway asks to join, is let in, given a grant, and takes the answer.
    pub(crate) fn enrol(
        &mut self,
        number: u32,
        name: &DeviceId,
        keys: &DeviceKeys,
        profile: &Profile,
        at: Timestamp,
    ) -> Accepted {
        let mut nonce = Nonce([0; 16]);
        self.rng.fill_bytes(&mut nonce.0);
        let request = EnrolRequest { device: name.clone(), keys: keys.public(), nonce, profile: profile.name.clone() };
        let signed = request.sign(keys);
        let mut fx = Effects::default();
        let code = EnrolRequest::code(&signed);
        let operator = self.keys.operator("ada");
        approve(&mut self.book, &signed, code, Replace::Keep, operator, at, &mut fx).expect(HONEST);
        self.commit(fx);
        self.numbers.insert(name.clone(), number);
        self.grant(name, at);
        let sealed = answer(&self.book, name, Vec::new(), &self.keys.service, at, &mut self.rng).expect(HONEST);
        let fingerprint = self.book.trusts()[0].fingerprint();
        accept(&sealed, keys, name, &fingerprint, nonce, profile, None).expect(HONEST)
    }

    fn grant(&mut self, name: &DeviceId, at: Timestamp) {
        let plan = &self.grants;
        let (mut may_begin, mut class_rights) = (Vec::new(), Vec::new());
        for (selector, class, rights) in program_rights() {
            let class: hardtack::ids::TaskClass = class.parse().expect(HONEST);
            may_begin.push((selector, class.clone()));
            class_rights.extend(rights.into_iter().map(|right| ClassRight { class: class.clone(), right }));
        }
        let new = NewGrant {
            device: name.clone(),
            owner: "ops@sim".into(),
            life: Millis(plan.life.0),
            may_begin,
            rights: class_rights,
            offline_max: Millis(plan.offline_max.0),
            uses_max: plan.uses_max,
            boots_max: plan.boots_max,
            task_ttl_max: Millis(plan.task_ttl_max.0),
            staleness_max: Vec::new(),
            min_time_class: None,
            renewal: hardtack::fleet::book::Renewal::Automatic,
        };
        let mut fx = Effects::default();
        let operator = self.keys.operator("ada");
        create(&mut self.book, new, &self.keys.issuer, operator, at, &mut self.rng, &mut fx).expect(HONEST);
        self.commit(fx);
    }

    /// The root keys say to a gateway what time it is, in answer to its nonce.
    pub(crate) fn reset(&mut self, device: &DeviceId, nonce: Nonce, time: Timestamp) -> Vec<u8> {
        let mut fx = Effects::default();
        let operator = self.keys.operator("ada");
        let now = Reading { time, radius: RADIUS };
        let file = reset(&mut self.book, (device, nonce), &self.keys.root, now, operator, &mut fx).expect(HONEST);
        self.commit(fx);
        file.to_bytes()
    }

    /// A reset that no honest operator makes: for whom it is not, or not by the root keys.
    pub(crate) fn deceitful_reset(&self, device: &DeviceId, nonce: Nonce, time: Timestamp, root: bool) -> Vec<u8> {
        let reset = TimeReset { device: device.clone(), nonce, time, radius_ms: RADIUS };
        let key = if root { &self.keys.root } else { &self.keys.service };
        TimeFile::Reset(Signed::sign(&reset, self.fleet(), &[key])).to_bytes()
    }

    /// An acknowledgement that the service never made, with a nonce that is out.
    pub(crate) fn deceitful_ack(&self, trick: AckTrick, device: &DeviceId, nonce: Nonce, time: Timestamp) -> Vec<u8> {
        let terms = Terms { window: 8, clock_error: Millis(500) };
        let ack = hello::ack(&self.book, device, Some(nonce), Vec::new(), terms, time);
        let elsewhere: FleetId = "elsewhere".parse().expect(HONEST);
        let (fleet, key) = match trick {
            AckTrick::Foreign => (&elsewhere, &self.keys.service),
            AckTrick::Late | AckTrick::Twice | AckTrick::WrongKey => (self.fleet(), &self.keys.feed),
        };
        Signed::sign(&ack, fleet, &[key]).to_bytes()
    }

    /// Revokes, and publishes if the service runs.
    pub(crate) fn revoke(&mut self, what: Revoke, device: &DeviceId, at: Timestamp) -> Vec<Publish> {
        let target = match &what {
            Revoke::Block(block) => Target::Block(*block),
            Revoke::Device(device) => Target::Device(device.clone()),
            Revoke::Grant(grant) => Target::Grant(*grant),
            Revoke::Task(task) => Target::Task(task.clone()),
        };
        let mut fx = Effects::default();
        let operator = self.keys.operator("ada");
        let revocation = Revocation { target, until: None, reason: "the scenario says so".into(), life: None };
        revoke(&mut self.book, revocation, operator, at, &mut fx).expect(HONEST);
        if let Revoke::Grant(grant) = what {
            withdraw(&mut self.book, &grant, "revoked", operator, at, &mut fx).expect(HONEST);
            self.commit(fx);
            self.grant(device, at);
        } else {
            self.commit(fx);
        }
        if self.running {
            self.ticks(at)
        } else {
            Vec::new()
        }
    }

    pub(crate) fn is_running(&self) -> bool {
        self.running
    }

    pub(crate) fn start(&mut self) {
        self.running = true;
    }

    pub(crate) fn stop(&mut self) {
        self.running = false;
        self.service.disconnected();
    }

    /// The broker took the service's connection.
    pub(crate) fn connected(&mut self, at: Timestamp) -> Vec<Publish> {
        let mut fx = Effects::default();
        self.service.connected(&mut self.book, at, &mut fx);
        self.commit(fx)
    }

    /// The service's connection is gone.
    pub(crate) fn disconnected(&mut self) {
        self.service.disconnected();
    }

    /// A message for the service.
    pub(crate) fn hears(&mut self, topic: &str, payload: &[u8], at: Timestamp) -> Vec<Publish> {
        let mut fx = Effects::default();
        let stored = &self.archive;
        let archive =
            |device: &DeviceId, era: EraId, segment: u64| stored.get(&(device.clone(), era, segment)).copied();
        self.service.message(&mut self.book, topic, payload, &archive, at, &mut fx);
        self.commit(fx)
    }

    /// The service looks at the clock.
    pub(crate) fn ticks(&mut self, at: Timestamp) -> Vec<Publish> {
        let mut fx = Effects::default();
        self.service.tick(&mut self.book, at, &mut fx);
        self.commit(fx)
    }

    fn commit(&mut self, fx: Effects) -> Vec<Publish> {
        let (collected, archive, numbers) = (&mut self.collected, &mut self.archive, &self.numbers);
        let committed = fx.commit(|writes| {
            for write in writes {
                let Write::Segment(segment) = write else { continue };
                let stored = Signed::from_bytes(&segment.header);
                if let (Some(number), Ok(header)) = (numbers.get(&segment.device), stored) {
                    collected.push(Collected { device: *number, upload: Upload { header, records: segment.records } });
                    archive.insert((segment.device, segment.era, segment.segment), segment.digest);
                }
            }
            Ok::<(), Infallible>(())
        });
        match committed {
            Ok(outgoing) => outgoing.publish,
            Err(never) => match never {},
        }
    }

    /// Everything that the collector stored, in order.
    pub(crate) fn collected(&self) -> &[Collected] {
        &self.collected
    }

    /// Proofs of forks that the collector keeps, in words. Honest gateways give none.
    pub(crate) fn forks(&self) -> Vec<(DeviceId, String)> {
        self.book
            .forks()
            .map(|fork| {
                let how = format!("{}/{} segment {}: {}", fork.device, fork.era, fork.segment, fork.what);
                (fork.device.clone(), how)
            })
            .collect()
    }

    /// The newest list's number.
    pub(crate) fn newest_seq(&self) -> u64 {
        self.book.head().map_or(0, |head| head.head.seq)
    }

    pub(crate) fn fleet(&self) -> &FleetId {
        self.book.fleet()
    }

    pub(crate) fn service_key(&self) -> ed25519_dalek::VerifyingKey {
        self.keys.service.verifying_key()
    }

    /// A token of that kind for a gateway, and when it was made.
    pub(crate) fn stolen(&mut self, theft: Theft, device: &DeviceId, at: Timestamp) -> (Timestamp, String) {
        let key = (theft, device.clone());
        if let Some((made, text)) = self.stolen.get(&key).filter(|(made, _)| at.since(*made) < STOLEN_LIFE) {
            return (*made, text.clone());
        }
        let text = self.steal(theft, device, at);
        self.stolen.insert(key, (at, text.clone()));
        (at, text)
    }

    fn steal(&mut self, theft: Theft, device: &DeviceId, at: Timestamp) -> String {
        let key = match theft {
            Theft::Forged => SigningKey::generate(&mut self.thief),
            Theft::OneResource | Theft::OnlyWrite | Theft::Until | Theft::Widened => self.keys.issuer.key.clone(),
        };
        let token = self.mint(device, at, &key);
        let plain = BlockBuilder::new;
        let block = match theft {
            Theft::Forged => return to_text(&token),
            Theft::OneResource => plain().check(format!("check if resource(\"{ONE_RESOURCE}\")").as_str()),
            Theft::OnlyWrite => plain().check(r#"check if operation("write")"#),
            Theft::Until => {
                let end = at + UNTIL;
                plain().check(format!("check if time($t), $t <= {end} or operation(\"none\")").as_str())
            }
            Theft::Widened => plain()
                .fact(r#"right("modbus/pump1/speed", "write")"#)
                .and_then(|block| block.fact(r#"right_prefix("modbus/", "write")"#)),
        };
        let held = Held::from_bytes(&token).and_then(|held| held.append(block.expect(HONEST), &mut self.thief));
        to_text(&held.and_then(|held| held.to_bytes()).expect(HONEST))
    }

    /// How a token of that kind is narrowed that was made then.
    pub(crate) fn narrowing(theft: Theft, made: Timestamp) -> Option<Narrowing> {
        match theft {
            Theft::Forged | Theft::Widened => None,
            Theft::OneResource => Some(Narrowing::OneResource),
            Theft::OnlyWrite => Some(Narrowing::OnlyWrite),
            Theft::Until => Some(Narrowing::Until(made + UNTIL)),
        }
    }

    /// Whether the fleet wants a gateway to hold a grant now.
    pub(crate) fn wants_grant(&self, device: &DeviceId, at: Timestamp) -> bool {
        self.book.live_grants(device, at).next().is_some()
    }

    /// The policy in force.
    pub(crate) fn policy(&self) -> &PolicyDocument {
        self.book.policy().1
    }

    fn mint(&mut self, device: &DeviceId, at: Timestamp, key: &SigningKey) -> Vec<u8> {
        let mut random = [0; 16];
        self.thief.fill_bytes(&mut random);
        let spec = TaskSpec {
            fleet: self.fleet().clone(),
            grant: GrantId(random),
            device: device.clone(),
            owner: "ops@sim".into(),
            feed: Some(self.book.feed()),
            task: format!("t-{}", hardtack::ids::hex(&random[..8])).parse().expect(HONEST),
            issued: at - Millis(1000),
            expires: at + Millis::from_secs(3600),
            serial: None,
            rights: vec![Right { resource: "modbus/*".into(), action: "read".into() }],
            uses_max: None,
            min_time_class: None,
        };
        mint_task(&spec, key, self.keys.issuer.root_key_id, &mut self.thief).expect(HONEST)
    }
}
