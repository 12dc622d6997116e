//! A fleet's ledger whose file or rows hold anything: it is read, or refused with what to do about it.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use hardtack::fleet::acts::{Act, Deed};
use hardtack::fleet::book::{
    Device, EraChain, Fork, Grant, Issued, Pending, Presence, Publisher, Renewal, Restored, Rule, Salvaged, Seen,
    Segment, Serials, ServedKeys, Status,
};
use hardtack::fleet::publish::{self, Cadence};
use hardtack::fleet::report::Verifier;
use hardtack::fleet::revoke::{revoke, Revocation};
use hardtack::fleet::{Book, Operator, Write};
use hardtack::ids::{BlockId, BootId, EraId, GrantId, Hash, KeyId, Nonce};
use hardtack::shell::ledger::{Ledger, LedgerError};
use hardtack::time::{Millis, Timestamp};
use hardtack::wire::audit::segment::NUMBER_MAX;
use hardtack::wire::audit::signer::Signer;
use hardtack::wire::encode;
use hardtack::wire::envelope::Signed;
use hardtack::wire::link::EraAck;
use hardtack::wire::policy::PolicyDocument;
use hardtack::wire::revocation::announcement::Head;
use hardtack::wire::revocation::slot::Slot;
use hardtack::wire::revocation::Target;
use hardtack::wire::token::{Bearer, GrantSpec};
use proptest::prelude::*;
use proptest::sample::{select, Index};
use rusqlite::types::{Value, ValueRef};
use rusqlite::{Connection, Row};

use super::{apply, cases, edits, Edit};
use crate::samples::{World, ENDS, ISSUED, NOW};

fn signer(world: &World) -> Signer {
    let (identity, key) = (world.keys.public().identity, world.audit.verifying_key().into());
    Signer { identity, epoch: 1, key }
}

/// The keys of a publisher.
fn served() -> ServedKeys {
    let id = KeyId::of(&[7; 32]);
    ServedKeys { feed: id, issuer: id, service: id }
}

/// A row of every kind, as this program writes them.
fn rows(world: &World) -> Vec<Write> {
    let device = world.device.clone();
    let (upload, header) = world.upload();
    let request = world.enrol_request().sign(&world.keys);
    let ack = EraAck { era: header.era, next_segment: 1, next_index: 3, head: header.head() };
    let hello = world.hello();
    let signer = signer(world);
    vec![
        Write::Act(0, act(world, 0)),
        Write::Bundle(1, world.sign(&world.trust)),
        Write::Device(Box::new(Device {
            id: device.clone(),
            keys: world.keys.public(),
            past: vec![],
            status: Status::Approved,
            nonce: Nonce([12; 16]),
            request: request.digest(),
            profile: world.profile.name.clone(),
            approved_at: ISSUED,
            joined: true,
        })),
        Write::Era(EraChain { device: device.clone(), signers: vec![signer], ack }),
        Write::Fork(Fork {
            device: device.clone(),
            era: EraId { number: 2, salt: 1 },
            segment: 7,
            header: upload.header.to_bytes(),
            what: "another header".into(),
            at: NOW,
        }),
        Write::Grant(Box::new(grant(world, world.grant_spec()))),
        Write::Head(world.sign(&world.head())),
        Write::Issued(Issued {
            task: "t-2".parse().unwrap(),
            bearer: Bearer::Device(device.clone()),
            grant: GrantId([0x42; 16]),
            owner: "ops@acme".into(),
            audience: Some("scada".into()),
            root_key_id: 1,
            block: BlockId([5; 32]),
            at: ISSUED,
            expires: ENDS,
            serial: Some(3),
        }),
        Write::Pending(Pending { device: device.clone(), request, at: NOW, settled: false }),
        Write::Policy(1, world.sign(&PolicyDocument::built_in(ISSUED))),
        Write::Resumed("main".parse().unwrap(), 1, 2),
        Write::Serials(Serials { slot: Slot::of(ISSUED, ENDS), issued: 4 }),
        Write::Rule(Rule {
            target: Target::All,
            until: ENDS,
            reason: "lost".into(),
            at: ISSUED,
            life: None,
            device: None,
        }),
        Write::Set("main".parse().unwrap(), world.set().to_bytes()),
        Write::Snapshot(world.sign(&world.head()), world.set().to_bytes()),
        Write::Step(world.announcement()),
        Write::Publisher(Publisher { turn: 3, holder: "process 7".into(), at: NOW, keys: served() }),
        Write::Restored(Restored {
            feed: "main".parse().unwrap(),
            at: NOW,
            least: (1, 1),
            settled: true,
            bundles_known: true,
        }),
        Write::Presence(Presence { device: device.clone(), word: Hash::ZERO, at: NOW, mode: "gone".into() }),
        Write::Salvaged(Salvaged { device: device.clone(), era: EraId { number: 1, salt: 1 }, segments: (3, 5) }),
        Write::Seen(Box::new(Seen {
            device: device.clone(),
            identity: world.keys.public().identity,
            at: NOW,
            said: NOW,
            boot: hello.boot,
            era: hello.era,
            next_index: hello.next_index,
            bundle_version: 1,
            policy_version: 1,
            feeds: hello.feeds,
            grants: hello.grants,
            floor: hello.floor,
            mode: hello.mode,
            version: hello.version,
        })),
        Write::Segment(Box::new(Segment {
            device,
            era: header.era,
            segment: 0,
            first_index: 0,
            digest: upload.header.digest(),
            header: upload.header.to_bytes(),
            leaves: upload.leaves,
            at: NOW,
            read: None,
        })),
    ]
}

fn act(world: &World, number: u64) -> Signed<Act> {
    let deed = Deed::Founded { bundle: world.sign(&world.trust).digest() };
    world.sign(&Act { number, previous: Hash::ZERO, at: ISSUED, operator: "ann".into(), deed })
}

fn grant(world: &World, spec: GrantSpec) -> Grant {
    let token = world.grant();
    Grant { spec, root_key_id: 1, token, block: BlockId([6; 32]), withdrawn: None, renewal: Renewal::Automatic }
}

/// A folder with a ledger in it that may be damaged.
struct Copy {
    _folder: tempfile::TempDir,
    path: PathBuf,
}

impl Copy {
    fn of(content: &[u8]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fleet.db");
        std::fs::write(&path, content).unwrap();
        Self { _folder: folder, path }
    }

    /// Of a ledger with all [`rows`].
    fn whole() -> Self {
        static WHOLE: OnceLock<Vec<u8>> = OnceLock::new();
        Self::of(WHOLE.get_or_init(|| {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("fleet.db");
            Ledger::create(&path, &rows(&World::new())).unwrap();
            std::fs::read(&path).unwrap()
        }))
    }

    /// Behind the ledger's back.
    fn raw(&self) -> Connection {
        let raw = Connection::open(&self.path).unwrap();
        raw.pragma_update(None, "synchronous", "OFF").unwrap();
        raw
    }

    /// Reads all that it holds and goes on with it, as the commands do. If it cannot, the error must say what to do.
    #[track_caller]
    fn check(&self) -> Result<(), LedgerError> {
        let used = use_all(&self.path);
        if let Err(error) = &used {
            let text = error.to_string();
            let advice = ["restore fleet.db from a copy", "restore it from a copy", "use the newer hardtack"];
            assert!(advice.iter().any(|advice| text.contains(advice)), "{text}");
            // One byte of the file says that it may not be written to.
            assert!(!matches!(error, LedgerError::Sql(_)) || text.contains("readonly"), "{text}");
        }
        used
    }
}

fn use_all(path: &Path) -> Result<(), LedgerError> {
    let world = World::new();
    let mut ledger = Ledger::open(path)?;
    look(ledger.book());
    let _ = hardtack::fleet::acts::verify(ledger.book().trusts(), &ledger.acts()?);
    ledger.issued("t-2")?;
    ledger.issued_under(&Target::All, ISSUED, 9)?;
    let mut segments = Vec::new();
    ledger.segments(None, |segment| {
        segments.push(segment);
        Ok::<(), LedgerError>(())
    })?;
    let mut verifier = Verifier::new(ledger.book());
    segments.into_iter().for_each(|segment| drop(verifier.segment(segment)));
    let report = verifier.finish();
    let _ = (report.is_sound(), report.has_gaps());
    ledger.transact(|book, archive, fx| {
        let _ = archive(&world.device, world.upload().1.era, 0);
        let revocation = Revocation {
            target: Target::Task("t-1".parse().unwrap()),
            until: None,
            reason: "x".into(),
            life: None,
            device: None,
        };
        let operator = Operator { name: "ann", key: &world.fleet_key };
        let _ = revoke(book, revocation, operator, NOW, fx);
        publish::advance(book, &world.fleet_key, CADENCE, NOW, fx);
        Ok::<(), LedgerError>(())
    })?;
    look(Ledger::open(path)?.book());
    ledger.refresh().map(drop)
}

const CADENCE: Cadence = Cadence::every(Millis(1000));

fn look(book: &Book) {
    let devices: Vec<_> = book.devices().map(|device| device.id.clone()).collect();
    for device in &devices {
        let _ = (book.live_grants(device, NOW).count(), book.live_grants_digest(device, NOW));
        let _ = (book.eras(device).count(), book.seen(device), book.request_of(device));
        let _ = book.is_salvaged(device, EraId { number: 1, salt: 1 }, 4);
    }
    let _ = (book.horizon(NOW), book.pending().count(), book.rules().count());
    let _ = (publish::may_start(book), publish::due_in(book, CADENCE, NOW), publish::retained(book));
}

/// The tables, what identifies a row of each, and their columns.
const TABLES: [(&str, &str, &[&str]); 4] = [
    ("book", "name", &["name", "revision", "value"]),
    (
        "segments",
        "device, era, salt, segment",
        &["device", "era", "salt", "segment", "first_index", "count", "digest", "header", "received_ms"],
    ),
    ("records", "device, era, salt, idx", &["device", "era", "salt", "idx", "floor_ms", "kind", "bytes"]),
    ("issued", "block", &["block", "task", "device", "grant_id", "issued_ms", "expires_ms"]),
];

/// What a column may hold instead.
#[derive(Clone, Debug)]
enum Other {
    /// What it held, changed.
    Changed(Vec<Edit>),
    /// Bytes that say they are text.
    Text(Vec<u8>),
    Value(Value),
}

fn other() -> impl Strategy<Value = Other> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..200);
    let number = prop_oneof![any::<i64>(), select(vec![i64::MIN, -1, 0, i64::MAX - 1, i64::MAX])];
    prop_oneof![
        4 => edits().prop_map(Other::Changed),
        1 => bytes().prop_map(Other::Text),
        1 => bytes().prop_map(|bytes| Other::Value(Value::Blob(bytes))),
        1 => "\\PC{0,40}".prop_map(|text| Other::Value(Value::Text(text))),
        1 => number.prop_map(|number| Other::Value(Value::Integer(number))),
        1 => any::<f64>().prop_map(|number| Other::Value(Value::Real(number))),
    ]
}

/// Puts something else into one column of one row, unless the table's own rules forbid it.
fn put(raw: &Connection, (table, key, columns): (&str, &str, &[&str]), row: &Index, column: &Index, other: &Other) {
    let column = columns[column.index(columns.len())];
    let count: i64 = raw.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap();
    let place = format!("({key}) IN (SELECT {key} FROM {table} LIMIT 1 OFFSET {})", row.index(count as usize));
    let (to, value) = match other {
        Other::Changed(edits) => {
            let now = format!("SELECT {column} FROM {table} WHERE {place}");
            let changed = |row: &Row<'_>| {
                Ok(match row.get_ref(0)? {
                    ValueRef::Blob(bytes) => ("?1", Value::Blob(apply(bytes, edits))),
                    ValueRef::Text(text) => ("CAST(?1 AS TEXT)", Value::Blob(apply(text, edits))),
                    ValueRef::Integer(number) => {
                        let bytes = apply(&number.to_le_bytes(), edits);
                        let mut changed = [0; 8];
                        let len = bytes.len().min(8);
                        changed[..len].copy_from_slice(&bytes[..len]);
                        ("?1", Value::Integer(i64::from_le_bytes(changed)))
                    }
                    ValueRef::Null | ValueRef::Real(_) => ("?1", Value::Null),
                })
            };
            raw.query_row(&now, [], changed).unwrap()
        }
        Other::Text(bytes) => ("CAST(?1 AS TEXT)", Value::Blob(bytes.clone())),
        Other::Value(value) => ("?1", value.clone()),
    };
    let _ = raw.execute(&format!("UPDATE {table} SET {column} = {to} WHERE {place}"), [value]);
}

proptest! {
    #![proptest_config(cases(192))]

    #[test]
    fn changed_rows_are_taken_or_refused_with_advice(
        changes in prop::collection::vec((select(TABLES.to_vec()), any::<Index>(), any::<Index>(), other()), 1..3),
    ) {
        let copy = Copy::whole();
        let raw = copy.raw();
        for (table, row, column, other) in &changes {
            put(&raw, *table, row, column, other);
        }
        drop(raw);
        let _ = copy.check();
    }

    #[test]
    fn a_changed_file_is_taken_or_refused_with_advice(edits in edits()) {
        let whole = std::fs::read(Copy::whole().path).unwrap();
        let _ = Copy::of(&apply(&whole, &edits)).check();
    }

    #[test]
    fn random_bytes_are_no_ledger(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(Copy::of(&bytes).check().is_err());
        let mut headed = b"SQLite format 3\0".to_vec();
        headed.extend(bytes);
        prop_assert!(Copy::of(&headed).check().is_err());
    }
}

#[test]
fn a_row_of_every_kind_is_taken() {
    Copy::whole().check().unwrap();
}

#[test]
fn a_file_that_is_cut_short_is_refused_with_advice() {
    let whole = std::fs::read(Copy::whole().path).unwrap();
    for len in (0..100).chain((100..whole.len()).step_by(997)) {
        assert!(Copy::of(&whole[..len]).check().is_err(), "{len} of {} bytes", whole.len());
    }
}

/// The first page holds what SQLite believes about all others.
#[test]
fn a_file_with_a_flipped_bit_in_its_header_is_taken_or_refused_with_advice() {
    let whole = std::fs::read(Copy::whole().path).unwrap();
    for byte in 0..108 {
        let mut changed = whole.clone();
        changed[byte] ^= 1 << (byte % 8);
        let _ = Copy::of(&changed).check();
    }
}

/// Numbers of rows rise by one, and there is one that has no successor.
#[test]
fn the_largest_numbers_are_taken_or_refused_with_advice() {
    let world = World::new();
    let device = world.device.clone();
    let far = Timestamp(u64::MAX);
    let era = EraId { number: u64::MAX, salt: u64::MAX };
    let ack = EraAck { era, next_segment: u64::MAX, next_index: u64::MAX, head: Hash::ZERO };
    let endless = Millis(u64::MAX);
    let spec = GrantSpec {
        issued: far,
        expires: far,
        offline_max: endless,
        uses_max: u64::MAX,
        task_ttl_max: endless,
        ..world.grant_spec()
    };
    let (_, mut header) = world.upload();
    let signer = Signer { epoch: u64::MAX, ..signer(&world) };
    // The last ones that a device can come to: any further ones are refused before they are stored.
    let (last, segment, first_index) = (EraId { number: NUMBER_MAX, ..era }, NUMBER_MAX - 1, NUMBER_MAX - 3);
    (header.era, header.segment, header.first_index) = (last, segment, first_index);
    let header = Signed::sign(&header, &world.fleet, &[&world.audit]);
    let head = |seq| world.sign(&Head { era: u32::MAX, seq, issued_at: far, next_update_ms: endless, ..world.head() });
    let policy = PolicyDocument { version: u64::MAX, ..PolicyDocument::built_in(far) };
    let hello = world.hello();
    let largest = [
        Write::Act(u64::MAX, act(&world, u64::MAX)),
        Write::Bundle(u64::MAX, world.sign(&world.trust)),
        Write::Era(EraChain { device: device.clone(), signers: vec![signer], ack }),
        Write::Fork(Fork {
            device: device.clone(),
            era,
            segment: u64::MAX,
            header: vec![],
            what: String::new(),
            at: far,
        }),
        Write::Grant(Box::new(grant(&world, spec))),
        Write::Head(head(u64::MAX)),
        Write::Head(head(u64::MAX - 1)),
        Write::Policy(u64::MAX, world.sign(&policy)),
        Write::Resumed("main".parse().unwrap(), 1, u64::MAX),
        Write::Serials(Serials { slot: Slot::of(far, far), issued: u32::MAX }),
        Write::Rule(Rule {
            target: Target::IssuedBefore(far),
            until: far,
            reason: String::new(),
            at: far,
            life: None,
            device: None,
        }),
        Write::Publisher(Publisher { turn: u64::MAX, holder: String::new(), at: far, keys: served() }),
        Write::Restored(Restored {
            feed: "main".parse().unwrap(),
            at: far,
            least: (1, u64::MAX),
            settled: false,
            bundles_known: true,
        }),
        Write::Salvaged(Salvaged { device: device.clone(), era, segments: (u64::MAX, u64::MAX) }),
        Write::Seen(Box::new(Seen {
            device: device.clone(),
            identity: world.keys.public().identity,
            at: far,
            said: far,
            boot: BootId([0xff; 16]),
            era,
            next_index: u64::MAX,
            bundle_version: u64::MAX,
            policy_version: u64::MAX,
            feeds: hello.feeds,
            grants: hello.grants,
            floor: far,
            mode: hello.mode,
            version: hello.version,
        })),
        Write::Segment(Box::new(Segment {
            device,
            era: last,
            segment,
            first_index,
            digest: header.digest(),
            header: header.to_bytes(),
            leaves: world.upload().0.leaves,
            at: far,
            read: None,
        })),
    ];
    for row in largest {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fleet.db");
        // Of two rows with one name the later stays, as in the ledger.
        let mut all: Vec<Write> = rows(&world).into_iter().filter(|other| other.row() != row.row()).collect();
        all.push(row);
        Ledger::create(&path, &all).unwrap();
        let _ = Copy { _folder: folder, path }.check();
    }
    let copy = Copy::whole();
    copy.raw().execute("UPDATE book SET revision = ?1 WHERE name = 'set/main'", [i64::MAX]).unwrap();
    assert!(matches!(copy.check(), Err(LedgerError::Damaged(_))));
}

/// What stands in another row's place is not believed there, or harms nothing.
#[test]
fn rows_in_each_others_places_are_taken_or_refused_with_advice() {
    let world = World::new();
    for row in rows(&world) {
        let copy = Copy::whole();
        copy.raw().execute("UPDATE book SET value = ?1", [encode(&row)]).unwrap();
        let _ = copy.check();
    }
}
