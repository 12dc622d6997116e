//! A small world for tests: one fleet, one device, one valid example of everything that is sent.

use ed25519_dalek::SigningKey;
use hardtack::agent::clock::TrustedClock;
use hardtack::agent::decide::{Judge, Purpose, Question};
use hardtack::agent::policy::Policy;
use hardtack::agent::request::{Mode, Reason};
use hardtack::agent::revocation::Revocations;
use hardtack::agent::room::{Room, Shares, Taken};
use hardtack::agent::token::{admit, Cache, Denial, Verified};
use hardtack::agent::wallet::{Grant, Wallet};
use hardtack::agent::Anchor;
use hardtack::ids::{BlockId, BootId, DeviceId, EraId, FeedId, FleetId, GrantId, Hash, Nonce};
use hardtack::profile::Profile;
use hardtack::time::{Millis, Timestamp};
use hardtack::wire::audit::segment::{grow, SegmentHeader, Upload};
use hardtack::wire::audit::signer::AuditKey;
use hardtack::wire::audit::{self, Event, Evidence, Record};
use hardtack::wire::bundle::{BrokerPins, Feed, Issuer, TrustBundle};
use hardtack::wire::enrol::{DeviceKeys, EnrolAnswer, EnrolBundle, EnrolRequest};
use hardtack::wire::envelope::Signed;
use hardtack::wire::link::{Ack, Answer, Ask, EraAck, Hello, Reply, Request, Right, State, TaskAsk};
use hardtack::wire::policy::PolicyDocument;
use hardtack::wire::revocation::announcement::{additions_digest, rules_digest, Announcement, Head, Snapshot};
use hardtack::wire::revocation::manifest::Manifest;
use hardtack::wire::revocation::rules::Selector;
use hardtack::wire::revocation::set::{PartKey, RevocationSet};
use hardtack::wire::revocation::slot::Slot;
use hardtack::wire::seal::SealingKey;
use hardtack::wire::token::{self, Bearer, ClassRight, GrantSpec, TaskSpec};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

/// 2026-03-01T10:00:00Z, when everything here was issued.
pub(crate) const ISSUED: Timestamp = Timestamp::from_secs(1_772_359_200);
/// A quarter of an hour later, when tasks end.
pub(crate) const ENDS: Timestamp = Timestamp::from_secs(1_772_360_100);
/// A week later, when grants end.
pub(crate) const LAPSES: Timestamp = Timestamp::from_secs(1_772_964_000);
/// Five minutes after [`ISSUED`]: the time that it is.
pub(crate) const NOW: Timestamp = Timestamp::from_secs(1_772_359_500);

/// One fleet and one device of it.
pub(crate) struct World {
    /// The fleet.
    pub(crate) fleet: FleetId,
    /// The device.
    pub(crate) device: DeviceId,
    /// The key of every role.
    pub(crate) fleet_key: SigningKey,
    /// The device's keys.
    pub(crate) keys: DeviceKeys,
    /// Signs the device's audit.
    pub(crate) audit: SigningKey,
    /// The trust bundle.
    pub(crate) trust: TrustBundle,
    /// The device's wallet.
    pub(crate) wallet: Wallet,
    /// The device's profile.
    pub(crate) profile: Profile,
}

impl World {
    /// The fleet `acme` with the device `gw-07`.
    pub(crate) fn new() -> Self {
        let fleet_key = SigningKey::from_bytes(&[7; 32]);
        let public = fleet_key.verifying_key().into();
        let device: DeviceId = "gw-07".parse().unwrap();
        let fleet: FleetId = "acme".parse().unwrap();
        let trust = TrustBundle {
            fleet: fleet.clone(),
            version: 1,
            threshold: 1,
            roots: vec![public],
            issuers: vec![Issuer { root_key_id: 1, key: public }],
            policy: vec![public],
            feeds: vec![Feed { id: "main".parse().unwrap(), era: 1, keys: vec![public], groups: Vec::new(), since: 0 }],
            service: vec![public],
            operators: vec![public],
            emergency: vec![],
            identities: vec![],
            collector: SealingKey::from_bytes([9; 32]).public(),
            groups: [("pumps".parse().unwrap(), vec![device.clone()])].into(),
            policy_version_min: 1,
            broker: BrokerPins { urls: vec!["mqtts://broker.example:8883".into()], authorities: vec![vec![1, 2, 3]] },
            issued_at: ISSUED,
            not_after: LAPSES,
        };
        let keys = DeviceKeys::generate(&mut rng(1));
        let audit = SigningKey::from_bytes(&[8; 32]);
        Self { fleet, device, fleet_key, keys, audit, trust, wallet: Wallet::default(), profile: Profile::default() }
    }

    /// The device vouches for its audit key.
    pub(crate) fn audit_certificate(&self) -> Signed<AuditKey> {
        let vouched = AuditKey { device: self.device.clone(), epoch: 1, key: self.audit.verifying_key().into() };
        Signed::sign(&vouched, &self.fleet, &[&self.keys.identity])
    }

    /// A document signed by the fleet.
    pub(crate) fn sign<T: hardtack::wire::envelope::Document>(&self, document: &T) -> Signed<T> {
        Signed::sign(document, &self.fleet, &[&self.fleet_key])
    }

    /// What a fallback grant of this fleet for this device says.
    pub(crate) fn grant_spec(&self) -> GrantSpec {
        let right = |class: &str, resource: &str, action: &str| ClassRight {
            class: class.parse().unwrap(),
            right: right(resource, action),
        };
        GrantSpec {
            fleet: self.fleet.clone(),
            grant: GrantId([0x42; 16]),
            device: self.device.clone(),
            owner: "ops@acme".into(),
            feed: None,
            issued: ISSUED,
            expires: LAPSES,
            may_begin: vec![("unix:uid:1001".into(), "pump".parse().unwrap())],
            may_step: Vec::new(),
            rights: vec![
                right("pump", "modbus/pump1/speed", "write"),
                right("pump", "modbus/*", "read"),
                right("valve", "modbus/valve1", "write"),
            ],
            offline_max: Millis::from_secs(259_200),
            uses_max: 1000,
            boots_max: 20,
            task_ttl_max: Millis::from_secs(900),
            staleness_max: vec![("high".parse().unwrap(), Millis::from_secs(3600))],
            min_time_class: None,
        }
    }

    /// What a task token of this fleet for this device says.
    pub(crate) fn task_spec(&self) -> TaskSpec {
        TaskSpec {
            fleet: self.fleet.clone(),
            grant: GrantId([0x42; 16]),
            bearer: Bearer::Device(self.device.clone()),
            owner: "ops@acme".into(),
            audience: None,
            feed: None,
            task: "t-2".parse().unwrap(),
            issued: ISSUED,
            expires: ENDS,
            serial: None,
            rights: vec![right("modbus/pump1/speed", "write"), right("modbus/*", "read")],
            uses_max: Some(100),
            staleness_max: Vec::new(),
            min_time_class: None,
        }
    }

    /// A fallback grant.
    pub(crate) fn grant(&self) -> Vec<u8> {
        token::mint_grant(&self.grant_spec(), &self.fleet_key, 1, &mut rng(2)).unwrap()
    }

    /// A task token.
    pub(crate) fn task(&self) -> Vec<u8> {
        token::mint_task(&self.task_spec(), &self.fleet_key, 1, &mut rng(3)).unwrap()
    }

    /// Admits a token as the device does.
    pub(crate) fn admit(&self, token: &[u8]) -> Result<Verified, Denial> {
        admit(token, &self.profile.verify, &self.trust, |block: &BlockId| self.wallet.made(block))
    }

    /// A grant as the wallet holds it.
    pub(crate) fn wallet_grant(&self, token: &[u8]) -> Grant {
        let verified = self.admit(token).unwrap_or_else(|denial| panic!("{denial:?}"));
        let chain = verified.chain().copied().collect();
        Grant { token: token.to_vec(), chain, claims: verified.claims, activation: None }
    }

    /// Decides as the device does for uid 1001, five minutes after everything was issued.
    pub(crate) fn judge(&self, token: &[u8], operation: &str, resource: &str) -> (Reason, String) {
        self.judge_at(NOW, token, operation, resource)
    }

    /// Decides at a time that is known exactly.
    pub(crate) fn judge_at(&self, at: Timestamp, token: &[u8], operation: &str, resource: &str) -> (Reason, String) {
        let boot = BootId([1; 16]);
        let anchor = Anchor {
            boot: Some(boot),
            floor: at,
            powered: at,
            powered_lease: at,
            ceiling: Some(at),
            synced: at,
            ..Anchor::default()
        };
        let policy = Policy::parse(PolicyDocument::built_in(ISSUED)).unwrap();
        let judge = Judge {
            device: &self.device,
            profile: &self.profile,
            trust: &self.trust,
            policy: &policy,
            revocations: &Revocations::default(),
            wallet: &self.wallet,
            clock: &TrustedClock::start(self.profile.time.clone(), &anchor, boot, Millis(0)),
            mode: Mode::Online,
            room: Room::new(&self.profile.queue, Taken::default(), &Shares::default()),
            behind: None,
        };
        let workload = ["unix:uid:1001".to_owned(), "unix:gid:1001".to_owned()];
        let question = Question {
            token: &token::to_text(token),
            operation,
            resource,
            destination: None,
            risk: None,
            task: None,
            step: None,
            arguments: Ok(None),
            workload: Some(&workload),
            enforcer: None,
            purpose: Purpose::Use,
        };
        match judge.judge(&question, &mut Cache::new(8)).verdict {
            Ok(_) => (Reason::Allowed, String::new()),
            Err(denial) => (denial.reason, denial.explain),
        }
    }

    /// Some revocations.
    pub(crate) fn set(&self) -> RevocationSet {
        let mut set = RevocationSet::default();
        set.add_exact(BlockId([5; 32]), Slot::of_day(LAPSES));
        for selector in
            [Selector::task("t-9"), Selector::owner("left@acme"), Selector::IssuedBefore(Timestamp::from_secs(1))]
        {
            set.add_rule(selector, LAPSES);
        }
        set
    }

    /// The head of [`World::set`], which added all of it.
    pub(crate) fn announcement(&self) -> Announcement {
        Announcement { head: self.sign(&self.head()), level: 0, additions: self.set().to_bytes() }
    }

    /// [`World::set`] as a whole.
    pub(crate) fn snapshot(&self) -> Snapshot {
        Snapshot { head: self.sign(&self.head()), manifest: Manifest::of(&self.set()).to_bytes() }
    }

    /// The head of [`World::set`].
    pub(crate) fn head(&self) -> Head {
        Head {
            feed: self.feed(),
            era: 1,
            seq: 4,
            previous: Hash([3; 32]),
            issued_at: ISSUED,
            next_update_ms: Millis::from_secs(300),
            hard_stale_ms: Millis::from_secs(86_400),
            dropped_before: Timestamp(0),
            root: Manifest::of(&self.set()).root(),
            rules: rules_digest(&self.set().part(PartKey::Rules).unwrap()),
            delta: additions_digest(&self.set().to_bytes()),
            skips: vec![],
            bundle_version: 1,
            policy_version: 1,
        }
    }

    fn feed(&self) -> FeedId {
        "main".parse().unwrap()
    }

    fn era(&self) -> EraId {
        EraId { number: 3, salt: 99 }
    }

    /// A segment of three records, and its header.
    pub(crate) fn upload(&self) -> (Upload, SegmentHeader) {
        let record = |index| Record {
            index,
            floor: ISSUED,
            powered: NOW,
            event: Event::Refused(Evidence {
                source: "hardtack/1/acme/bundle/2".into(),
                reason: "bad signature".into(),
                digest: Hash([8; 32]),
                count: 1,
            }),
        };
        let (leaves, root) = grow(&[0, 1, 2].map(record));
        let previous = audit::genesis(&self.fleet, &self.device, self.era());
        let header = SegmentHeader {
            device: self.device.clone(),
            era: self.era(),
            segment: 0,
            first_index: 0,
            count: 3,
            previous,
            root,
            closed_at: NOW,
            recovered: false,
            signer: Some(self.audit_certificate()),
            feeds: vec![self.head().position(Hash([2; 32]))],
            salvage: None,
        };
        let signed = Signed::sign(&header, &self.fleet, &[&self.audit]);
        (Upload { header: signed, leaves }, header)
    }

    /// A hello.
    pub(crate) fn hello(&self) -> Hello {
        Hello {
            device: self.device.clone(),
            nonce: Nonce([1; 16]),
            boot: BootId([2; 16]),
            era: self.era(),
            pending: vec![EraId { number: 2, salt: 1 }],
            next_index: 17,
            bundle_version: 1,
            policy_version: 1,
            feeds: vec![self.head().position(Hash([2; 32]))],
            grants: Hash([6; 32]),
            floor: ISSUED,
            powered: NOW,
            mode: "offline".into(),
            version: "0.1.0".into(),
        }
    }

    /// The acknowledgement of [`World::hello`].
    pub(crate) fn ack(&self) -> Ack {
        Ack {
            device: self.device.clone(),
            nonce: Some(Nonce([1; 16])),
            time: NOW,
            radius_ms: Millis(500),
            eras: vec![EraAck { era: self.era(), next_segment: 1, next_index: 3, head: Hash([4; 32]) }],
            feeds: vec![self.head().position(Hash([2; 32]))],
            bundle_version: 1,
            policy_version: 1,
            grants: Hash([6; 32]),
            window: 8,
        }
    }

    /// A request for a task, and the key that its answer is sealed to.
    pub(crate) fn request(&self) -> (Request, SealingKey) {
        let key = SealingKey::from_bytes([11; 32]);
        let ask = TaskAsk {
            task: "t-2".parse().unwrap(),
            class: "pump".parse().unwrap(),
            selectors: vec!["unix:uid:1001".into()],
            rights: vec![right("modbus/*", "read")],
            ttl_ms: Millis::from_secs(900),
            uses: Some(10),
        };
        let device = self.device.clone();
        (Request { device, nonce: Nonce([5; 16]), reply_to: key.public(), ask: Ask::Task(ask) }, key)
    }

    /// The answer to [`World::request`].
    pub(crate) fn answer(&self) -> Answer {
        Answer::seal(&self.request().0, &Reply::Task(self.task()), &mut rng(4)).unwrap()
    }

    /// The device's retained word.
    pub(crate) fn state(&self) -> State {
        let feeds = vec![self.head().position(Hash([2; 32]))];
        State { device: self.device.clone(), mode: "online".into(), floor: NOW, feeds, pending: 3 }
    }

    /// A request to join.
    pub(crate) fn enrol_request(&self) -> EnrolRequest {
        EnrolRequest {
            device: self.device.clone(),
            keys: self.keys.public(),
            nonce: Nonce([12; 16]),
            profile: self.profile.name.clone(),
        }
    }

    /// What the fleet makes of [`World::enrol_request`].
    pub(crate) fn enrol_bundle(&self) -> EnrolBundle {
        EnrolBundle {
            device: self.device.clone(),
            identity: self.keys.public().identity,
            nonce: Nonce([12; 16]),
            issued_at: ISSUED,
            bundles: vec![self.sign(&self.trust)],
            policy: self.sign(&PolicyDocument::built_in(ISSUED)),
            feeds: vec![(self.sign(&self.head()), self.set().to_bytes())],
            grants: vec![self.grant()],
            certificate: vec![0x30, 0x82],
        }
    }

    /// The sealed answer with [`World::enrol_bundle`].
    pub(crate) fn enrol_answer(&self) -> EnrolAnswer {
        let recipient = self.keys.public().sealing;
        EnrolAnswer::seal(&self.enrol_bundle(), &self.fleet, &self.fleet_key, &recipient, &mut rng(5)).unwrap()
    }
}

/// A right.
pub(crate) fn right(resource: &str, action: &str) -> Right {
    Right { resource: resource.into(), action: action.into() }
}

/// Randomness that repeats.
pub(crate) fn rng(seed: u8) -> ChaCha20Rng {
    ChaCha20Rng::from_seed([seed; 32])
}
