//! Who takes part: gateways and the fleet's service, on the same core as ever, over memory in place of disks.
//!
//! Owns: [`Gateway`] and [`Fleet`].
//! Never: sends or waits; whoever owns a party does.
//! Read next: `hub.rs`.

use std::collections::BTreeMap;
use std::convert::Infallible;

use hardtack::agent::effects::{Entry, LinkCommand, Publish, StoredSegment};
use hardtack::agent::enrol::{accept, Accepted};
use hardtack::agent::request::Reply;
use hardtack::agent::{Agent, Batch, Boot, Effects, Input, Now};
use hardtack::fleet::book::Renewal;
use hardtack::fleet::enrol::{answer, approve, found, Founding, Replace};
use hardtack::fleet::grant::{create, NewGrant};
use hardtack::fleet::hello::Terms;
use hardtack::fleet::keys::Issuer;
use hardtack::fleet::publish::Cadence;
use hardtack::fleet::service::ServiceKeys;
use hardtack::fleet::{Book, Digests, Effects as FleetEffects, FleetKeys, Service, Settings, Write};
use hardtack::ids::{BootId, DeviceId, EraId, FleetId, Hash, Nonce};
use hardtack::profile::{shipped, Kind, Overlay, Profile};
use hardtack::time::{Millis, Timestamp};
use hardtack::wire::audit::segment::{Loaded, Upload};
use hardtack::wire::bundle::BrokerPins;
use hardtack::wire::enrol::{DeviceKeys, EnrolRequest};
use hardtack::wire::envelope::Signed;
use hardtack::wire::seal::SealingKey;
use hardtack::wire::token::ClassRight;
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

use crate::programs::{rights, CLASS, SELECTOR};

/// Why an `expect` holds.
pub(crate) const HONEST: &str = "what an honest party does with checked names is accepted";
/// When these worlds begin: 2026-03-01T00:00:00Z.
pub(crate) const START: Timestamp = Timestamp::from_secs(1_772_323_200);
const DAY: u64 = 86_400;
const HEADS_EVERY: Millis = Millis::from_secs(3600);

/// A gateway: its agent, and what that wrote of its audit.
pub(crate) struct Gateway {
    agent: Agent,
    records: BTreeMap<(EraId, u64), Vec<u8>>,
    segments: BTreeMap<(EraId, u64), StoredSegment>,
}

/// What an agent says.
#[derive(Default)]
pub(crate) struct Said {
    pub(crate) link: Vec<LinkCommand>,
    pub(crate) replies: Vec<Reply>,
}

impl Gateway {
    /// Takes in what happened, and everything that follows from it at once.
    pub(crate) fn take(&mut self, inputs: Vec<Input>, now: Now) -> Said {
        let mut said = Said::default();
        let mut effects = Effects::default();
        inputs.into_iter().for_each(|input| self.agent.handle(input, now, &mut effects));
        self.settle(effects, now, &mut said);
        said
    }

    /// When the agent wants to be called, in powered-on time.
    pub(crate) fn deadline(&self, now: Millis) -> Millis {
        self.agent.poll_deadline(now)
    }

    /// Writes, then gives out what may be said, until no segment is to be loaded any more.
    fn settle(&mut self, mut effects: Effects, now: Now, said: &mut Said) {
        loop {
            let committed = effects.commit(|batch| {
                self.write(batch);
                Ok::<(), Infallible>(())
            });
            let outgoing = match committed {
                Ok(outgoing) => outgoing,
                Err(never) => match never {},
            };
            said.link.extend(outgoing.link);
            said.replies.extend(outgoing.replies.into_iter().map(|answer| answer.at(now.boottime).1));
            if outgoing.loads.is_empty() {
                return;
            }
            effects = Effects::default();
            for (era, segment) in outgoing.loads {
                let upload = self.load(era, segment);
                self.agent.handle(Input::Segment { era, segment, upload }, now, &mut effects);
            }
        }
    }

    fn write(&mut self, batch: Batch) {
        for entry in batch.entries {
            match entry {
                Entry::Record(record) => drop(self.records.insert((record.era, record.index), record.bytes)),
                Entry::Segment(segment) => drop(self.segments.insert((segment.era, segment.segment), segment)),
            }
        }
        for era in batch.drop_eras {
            self.records.retain(|(of, _), _| *of != era);
            self.segments.retain(|(of, _), _| *of != era);
        }
    }

    fn load(&self, era: EraId, segment: u64) -> Option<Loaded> {
        let stored = self.segments.get(&(era, segment))?;
        let range = (era, stored.first_index)..(era, stored.first_index + u64::from(stored.count));
        let rows: Vec<Vec<u8>> = self.records.range(range).map(|(_, bytes)| bytes.clone()).collect();
        Upload::of_rows(Signed::from_bytes(&stored.header).ok()?, &rows).map(Loaded::Whole)
    }
}

/// The fleet: its keys, its ledger in memory, its service.
pub(crate) struct Fleet {
    pub(crate) name: FleetId,
    keys: FleetKeys,
    service: Service,
    book: Book,
    archive: BTreeMap<(DeviceId, EraId, u64), Hash>,
    profile: Profile,
    rng: ChaCha8Rng,
}

impl Fleet {
    pub(crate) fn found() -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let keys = FleetKeys::generate_with((1, 1), &mut rng).expect(HONEST);
        let cadence = Cadence::every(HEADS_EVERY);
        let name: FleetId = "sim".parse().expect(HONEST);
        let founding = Founding {
            fleet: name.clone(),
            feed: "main".parse().expect(HONEST),
            broker: BrokerPins::default(),
            keys: &keys,
            operator: "ada",
            cadence,
            at: START,
        };
        let mut fx = FleetEffects::default();
        let book = found(&founding, &mut fx).expect(HONEST);
        let terms = Terms { window: 8, clock_error: Millis(500) };
        let settings = Settings { cadence, terms, task_ttl_max: Millis::from_secs(DAY / 2) };
        let issuer = Issuer { root_key_id: keys.issuer.root_key_id, key: keys.issuer.key.clone() };
        let collectors = vec![SealingKey::from_bytes(*keys.collector.to_bytes())];
        let service_keys = ServiceKeys { issuer, feed: keys.feed.clone(), service: keys.service.clone(), collectors };
        let service = Service::start(service_keys, settings, [7; 32], &book).expect(HONEST);
        let mut fleet = Self { name, keys, service, book, archive: BTreeMap::new(), profile: profile(), rng };
        fleet.commit(fx);
        fleet.ticks(START);
        fleet
    }

    /// A gateway joins, is given a grant, and starts.
    pub(crate) fn join(&mut self, number: u32) -> (Gateway, Said) {
        let mut rng = ChaCha8Rng::seed_from_u64(1000 + u64::from(number));
        let device: DeviceId = format!("gw-{number}").parse().expect(HONEST);
        let keys = DeviceKeys::generate(&mut rng);
        let accepted = self.enrol(&device, &keys);
        let mut seed = [0; 32];
        rng.fill_bytes(&mut seed);
        let boot = Boot {
            fleet: self.name.clone(),
            device,
            keys,
            profile: self.profile.clone(),
            seed,
            boot: BootId([number.to_le_bytes()[0]; 16]),
            anchor: accepted.batch.anchor.as_deref().cloned(),
            files: accepted.batch.files.into_iter().map(|write| (write.file, write.content)).collect(),
            eras: Vec::new(),
            used_bytes: 0,
        };
        let now = Now { boottime: Millis(0), wall: Some(START) };
        let (agent, effects) = Agent::start(boot, now).expect("what was accepted just now can be started on");
        let mut gateway = Gateway { agent, records: BTreeMap::new(), segments: BTreeMap::new() };
        let mut said = Said::default();
        gateway.settle(effects, now, &mut said);
        (gateway, said)
    }

    fn enrol(&mut self, device: &DeviceId, keys: &DeviceKeys) -> Accepted {
        let mut nonce = Nonce([0; 16]);
        self.rng.fill_bytes(&mut nonce.0);
        let request =
            EnrolRequest { device: device.clone(), keys: keys.public(), nonce, profile: self.profile.name.clone() };
        let signed = request.sign(keys);
        let (code, operator) = (EnrolRequest::code(&signed), self.keys.operator("ada"));
        let mut fx = FleetEffects::default();
        approve(&mut self.book, &signed, code, Replace::Keep, operator, START, &mut fx).expect(HONEST);
        let class: hardtack::ids::TaskClass = CLASS.parse().expect(HONEST);
        let new = NewGrant {
            device: device.clone(),
            owner: "ops@sim".into(),
            life: Millis::from_secs(30 * DAY),
            may_begin: vec![(SELECTOR.into(), class.clone())],
            may_step: Vec::new(),
            rights: rights().map(|right| ClassRight { class: class.clone(), right }).to_vec(),
            offline_max: Millis::from_secs(14 * DAY),
            uses_max: 1_000_000,
            boots_max: 1000,
            task_ttl_max: Millis::from_secs(DAY / 2),
            staleness_max: Vec::new(),
            min_time_class: None,
            renewal: Renewal::Automatic,
        };
        create(&mut self.book, new, &self.keys.issuer, operator, START, &mut self.rng, &mut fx).expect(HONEST);
        self.commit(fx);
        let sealed = answer(&self.book, device, Vec::new(), &self.keys.service, START, &mut self.rng).expect(HONEST);
        let fingerprint = self.book.trusts()[0].fingerprint();
        accept(&sealed, keys, device, &fingerprint, nonce, &self.profile, None).expect(HONEST)
    }

    /// The broker took the service's connection.
    pub(crate) fn connected(&mut self, at: Timestamp) -> Vec<Publish> {
        let mut fx = FleetEffects::default();
        self.service.connected(&mut self.book, at, &mut fx);
        self.commit(fx)
    }

    /// A message for the service.
    pub(crate) fn hears(&mut self, topic: &str, payload: &[u8], at: Timestamp) -> Vec<Publish> {
        let mut fx = FleetEffects::default();
        let stored = &self.archive;
        let archive = |device: &DeviceId, era: EraId, segment: u64| Digests {
            trail: stored.get(&(device.clone(), era, segment)).copied(),
            aside: Vec::new(),
        };
        self.service.message(&mut self.book, topic, payload, &archive, at, &mut fx);
        self.commit(fx)
    }

    /// The service looks at the clock.
    pub(crate) fn ticks(&mut self, at: Timestamp) -> Vec<Publish> {
        let mut fx = FleetEffects::default();
        self.service.tick(&mut self.book, at, &mut fx);
        self.commit(fx)
    }

    fn commit(&mut self, fx: FleetEffects) -> Vec<Publish> {
        let committed = fx.commit(|writes| {
            for write in writes {
                if let Write::Segment(segment) = write {
                    self.archive.insert((segment.device, segment.era, segment.segment), segment.digest);
                }
            }
            Ok::<(), Infallible>(())
        });
        match committed {
            Ok(outgoing) => outgoing.publish,
            Err(never) => match never {},
        }
    }
}

/// What the bench world's gateways can bear: the usual class over a metered link.
fn profile() -> Profile {
    let overlay = shipped("link-lte-metered", Kind::Overlay).expect("it is shipped");
    let overlay = Overlay::parse(overlay.name, overlay.text).expect("it was checked when it was shipped");
    let mut profile = Profile::default().with(&overlay);
    // A busy host must not change what is decided.
    profile.verify.run_ms_max = 60_000;
    profile
}
