//! What the collector takes in per second, against the bare checks and inserts of the same segments.

use std::path::Path;
use std::time::Instant;

use ed25519_dalek::{Signature, Signer as _, SigningKey};
use hardtack::fleet::enrol::{approve, found, Founding, Replace};
use hardtack::fleet::publish::Cadence;
use hardtack::fleet::service::ServiceKeys;
use hardtack::fleet::{Effects, FleetKeys, FleetLog, Service, Settings};
use hardtack::ids::{BootId, DeviceId, EraId, FleetId, Nonce};
use hardtack::shell::ledger::{Ledger, LedgerError};
use hardtack::time::{Millis, Timestamp};
use hardtack::wire::audit::merkle::{leaf_hash, root};
use hardtack::wire::audit::segment::{grow, Delivery, SegmentHeader, Upload};
use hardtack::wire::audit::signer::AuditKey;
use hardtack::wire::audit::{genesis, Credential, Event, Record};
use hardtack::wire::bundle::BrokerPins;
use hardtack::wire::encode;
use hardtack::wire::enrol::{DeviceKeys, EnrolRequest};
use hardtack::wire::envelope::Signed;
use hardtack::wire::link::{grants_digest, Hello, Topic};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use rusqlite::{params, Connection, TransactionBehavior};

use super::audit::{named, record, BATCH};
use super::{line, START};

const DEVICES: u64 = 8;
/// Deliveries that one commit takes together, on both sides.
const TOGETHER: usize = 64;
/// Commits of one repetition.
const COMMITS: usize = 4;
const REPETITIONS: usize = 9;
const TOKENS: u64 = 16;

/// One segment, made ready for both sides.
struct Ready {
    topic: String,
    message: Vec<u8>,
    /// What is signed, its signature, and the leaves.
    signed: Vec<u8>,
    signature: Signature,
    leaves: Vec<Vec<u8>>,
    header: Vec<u8>,
    digest: [u8; 32],
    claim: SegmentHeader,
    records: Vec<Record>,
}

/// A device that sends one segment after the other.
struct Sender {
    id: DeviceId,
    keys: DeviceKeys,
    audit: SigningKey,
    last: Option<SegmentHeader>,
}

fn acme() -> FleetId {
    "acme".parse().expect("valid")
}

fn era() -> EraId {
    EraId { number: 12, salt: 0x1e37_79b9_7f4a_7c15 }
}

impl Sender {
    fn new(number: u64) -> Self {
        let seed = |byte| [byte; 32];
        let keys = DeviceKeys::generate(&mut ChaCha20Rng::from_seed(seed(number as u8 + 1)));
        let audit = SigningKey::from_bytes(&seed(number as u8 + 100));
        Self { id: format!("gw-{number:02}").parse().expect("valid"), keys, audit, last: None }
    }

    /// The next segment of 64 decisions. The first of an era names its tokens in full, later ones refer to that.
    fn next(&mut self) -> Ready {
        let first_index = self.last.as_ref().map_or(0, |last| last.first_index + BATCH);
        let records: Vec<Record> = (0..BATCH)
            .map(|at| {
                let token = at % TOKENS;
                let credential = match first_index + at {
                    // Whoever is refused something shows the token of the one before.
                    _ if token == 5 => Credential::Same(4),
                    index if index < TOKENS => named(token, token),
                    _ => Credential::Same(token),
                };
                Record { index: first_index + at, ..record(at, credential, BATCH) }
            })
            .collect();
        let (leaves, root) = grow(&records);
        let vouched = AuditKey { device: self.id.clone(), epoch: 1, key: self.audit.verifying_key().into() };
        let claim = SegmentHeader {
            device: self.id.clone(),
            era: era(),
            segment: self.last.as_ref().map_or(0, |last| last.segment + 1),
            first_index,
            count: BATCH as u32,
            previous: self.last.as_ref().map_or_else(|| genesis(&acme(), &self.id, era()), SegmentHeader::head),
            root,
            closed_at: START + Millis::from_secs(3601),
            recovered: false,
            signer: self.last.is_none().then(|| Signed::sign(&vouched, &acme(), &[&self.keys.identity])),
            feeds: Vec::new(),
            salvage: None,
        };
        self.last = Some(claim.clone());
        let header = Signed::sign(&claim, &acme(), &[&self.audit]);
        let signed = [b"hardtack/segment/v1\0acme\0", &encode(&claim)[..]].concat();
        Ready {
            topic: Topic::UpAudit(self.id.clone()).text(&acme()),
            signature: self.audit.sign(&signed),
            signed,
            header: header.to_bytes(),
            digest: header.digest().0,
            message: Delivery::Open(Upload { header, leaves: leaves.clone() }).to_bytes(),
            leaves,
            claim,
            records,
        }
    }
}

/// The service as `fleet serve` runs it, without its sockets.
struct Real {
    ledger: Ledger,
    service: Service,
}

impl Real {
    fn new(folder: &Path, senders: &[Sender]) -> Self {
        let keys = FleetKeys::generate(&mut ChaCha20Rng::from_seed([1; 32]));
        let founding = Founding {
            fleet: acme(),
            feed: "main".parse().expect("valid"),
            broker: BrokerPins::default(),
            keys: &keys,
            operator: "ann",
            at: START,
            cadence: Cadence::every(Millis::from_secs(900)),
        };
        let fx = &mut Effects::default();
        let mut book = found(&founding, fx).expect("a fleet");
        for sender in senders {
            let request = EnrolRequest {
                device: sender.id.clone(),
                keys: sender.keys.public(),
                nonce: Nonce([1; 16]),
                profile: "generic-x86_64".into(),
            };
            let (signed, operator) = (request.sign(&sender.keys), keys.operator("ann"));
            approve(&mut book, &signed, EnrolRequest::code(&signed), Replace::Keep, operator, START, fx).expect("new");
        }
        let path = folder.join("fleet.db");
        let created = std::mem::take(fx).commit(|writes| Ledger::create(&path, &writes));
        created.expect("a ledger");
        let ledger = Ledger::open(&path).expect("our own ledger");
        let FleetKeys { issuer, feed, service, collector, .. } = keys;
        let keys = ServiceKeys { issuer, feed, service, collectors: vec![collector] };
        let service = Service::start(keys, Settings::default(), [4; 32], ledger.book()).expect("our own keys");
        let mut real = Self { ledger, service };
        for sender in senders {
            let hello = Hello {
                device: sender.id.clone(),
                nonce: Nonce([1; 16]),
                boot: BootId([0; 16]),
                era: era(),
                pending: Vec::new(),
                next_index: 0,
                bundle_version: 1,
                policy_version: 1,
                feeds: Vec::new(),
                grants: grants_digest([]),
                floor: START,
                powered: START,
                mode: "offline".into(),
                version: "0".into(),
            };
            let hello = Signed::sign(&hello, &acme(), &[&sender.keys.identity]).to_bytes();
            let topic = Topic::UpHello(sender.id.clone()).text(&acme());
            let heard = real.take(&[(&topic, &hello)], START);
            assert!(matches!(heard[..], [.., FleetLog::HelloAnswered { .. }]), "{heard:?}");
        }
        real
    }

    /// One commit for these messages, as `fleet serve` makes it. Returns what it tells of them.
    fn take(&mut self, messages: &[(&str, &[u8])], at: Timestamp) -> Vec<FleetLog> {
        let Self { ledger, service } = self;
        let taken = ledger.transact::<_, LedgerError>(|book, archive, fx| {
            for (topic, payload) in messages {
                service.message(book, topic, payload, archive, at, fx);
            }
            Ok(())
        });
        taken.expect("the ledger takes it").1.logs
    }
}

/// The tables that segments go to, and nothing else.
struct Bare {
    connection: Connection,
}

impl Bare {
    fn new(folder: &Path) -> Self {
        let connection = Connection::open(folder.join("bare.db")).expect("a database");
        connection.pragma_update(None, "journal_mode", "WAL").expect("WAL");
        connection.pragma_update(None, "synchronous", "FULL").expect("FULL");
        let tables = "
            CREATE TABLE segments (
                device TEXT NOT NULL, era INTEGER NOT NULL, salt INTEGER NOT NULL, segment INTEGER NOT NULL,
                first_index INTEGER NOT NULL, count INTEGER NOT NULL, digest BLOB NOT NULL, header BLOB NOT NULL,
                received_ms INTEGER NOT NULL, PRIMARY KEY (device, era, salt, segment)
            ) WITHOUT ROWID;
            CREATE TABLE records (
                device TEXT NOT NULL, era INTEGER NOT NULL, salt INTEGER NOT NULL, idx INTEGER NOT NULL,
                floor_ms INTEGER NOT NULL, kind TEXT NOT NULL, allow INTEGER, reason TEXT, operation TEXT, resource TEXT,
                owner TEXT, task TEXT, bytes BLOB NOT NULL, PRIMARY KEY (device, era, salt, idx)
            ) WITHOUT ROWID;";
        connection.execute_batch(tables).expect("tables");
        Self { connection }
    }

    /// One commit for these segments: the signature and the root of each, and its rows.
    fn take(&mut self, segments: &[&Ready], keys: &[SigningKey], at: Timestamp) {
        let begun = self.connection.transaction_with_behavior(TransactionBehavior::Immediate).expect("free");
        for (segment, key) in segments.iter().zip(keys) {
            key.verifying_key().verify_strict(&segment.signed, &segment.signature).expect("our own signature");
            let hashes: Vec<_> = segment.leaves.iter().map(|leaf| leaf_hash(leaf)).collect();
            assert_eq!(root(&hashes), segment.claim.root);
            let SegmentHeader { device, era, segment: number, first_index, count, .. } = &segment.claim;
            let (device, era, salt) = (device.as_str(), era.number as i64, era.salt as i64);
            let mut insert =
                begun.prepare_cached("INSERT INTO segments VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)").expect("fits");
            let (number, first) = (*number as i64, *first_index as i64);
            let row = params![device, era, salt, number, first, count, segment.digest, segment.header, at.0 as i64];
            insert.execute(row).expect("a row");
            let mut insert = begun
                .prepare_cached("INSERT INTO records VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)")
                .expect("fits");
            for (record, leaf) in segment.records.iter().zip(&segment.leaves) {
                let Event::Decision(decision) = &record.event else { continue };
                let (index, floor) = (record.index as i64, record.floor.0 as i64);
                let (reason, operation, resource) = (&decision.reason, &decision.operation, &decision.resource);
                // Whom a decision is attributed to is as long a text in each.
                let task = "t-0000000000000000";
                let row = params![
                    device,
                    era,
                    salt,
                    index,
                    floor,
                    "decision",
                    decision.allow,
                    reason,
                    operation,
                    resource,
                    "ops@acme",
                    task,
                    leaf
                ];
                insert.execute(row).expect("a row");
            }
        }
        begun.commit().expect("durable");
    }
}

/// Records per second, durable.
#[expect(clippy::disallowed_methods, reason = "a bench measures wall time")]
pub(super) fn stored() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut senders: Vec<Sender> = (0..DEVICES).map(Sender::new).collect();
    let (mut real, mut bare) = (Real::new(folder.path(), &senders), Bare::new(folder.path()));
    let keys: Vec<SigningKey> = senders.iter().map(|sender| sender.audit.clone()).cycle().take(TOGETHER).collect();
    let each = (TOGETHER * COMMITS) as f64 * BATCH as f64;
    let (mut ours, mut ideal) = (Vec::new(), Vec::new());
    for repetition in 0..REPETITIONS {
        let at = START + Millis::from_secs(4000 + 60 * repetition as u64);
        let order = (0..DEVICES as usize).cycle().take(TOGETHER * COMMITS);
        let ready: Vec<Ready> = order.map(|device| senders[device].next()).collect();
        let mut in_real = || {
            let mut stored = 0;
            let began = Instant::now();
            for commit in ready.chunks(TOGETHER) {
                let messages: Vec<(&str, &[u8])> =
                    commit.iter().map(|ready| (ready.topic.as_str(), &ready.message[..])).collect();
                let logs = real.take(&messages, at);
                stored += logs.iter().filter(|log| matches!(log, FleetLog::AuditStored { .. })).count();
            }
            ours.push(each / began.elapsed().as_secs_f64());
            assert_eq!(stored, ready.len(), "all of them are stored");
        };
        let mut in_bare = || {
            let began = Instant::now();
            for commit in ready.chunks(TOGETHER) {
                bare.take(&commit.iter().collect::<Vec<_>>(), &keys, at);
            }
            ideal.push(each / began.elapsed().as_secs_f64());
        };
        // Whatever one leaves in caches and logs, the other has to bear in turn.
        if repetition % 2 == 0 {
            in_real();
            in_bare();
        } else {
            in_bare();
            in_real();
        }
    }
    let [ours, ideal] = [ours, ideal].map(median);
    line("collector", ours, "rec/s", ideal, ">= 0.6 of the bare checks and inserts of the same segments");
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}
