//! The format of the audit trail as `docs/audit-format.md` says it: vectors that are current, and a second implementation,
//! in Python, that agrees with them.
//!
//! After a change of the format, `HARDTACK_WRITE_VECTORS=1` writes them anew: a change that anybody can see.

use std::io::Write;
use std::path::PathBuf;
use std::process::Command;

use data_encoding::BASE64;
use ed25519_dalek::SigningKey;
use hardtack::cli::audit::file::check;
use hardtack::cli::audit::fork::ForkProof;
use hardtack::fleet::book::Segment;
use hardtack::fleet::report::lineage::{Lineage, Vouching};
use hardtack::fleet::report::{Signers, Verifier};
use hardtack::ids::{hex, BlockId, BootId, DeviceId, EraId, FleetId, GrantId, Hash, KeyId};
use hardtack::time::{Millis, Timestamp};
use hardtack::wire::audit::leaf::read;
use hardtack::wire::audit::merkle::{leaf_hash, path, root, root_from, root_from_first};
use hardtack::wire::audit::segment::{grow, link, Delivery, GivenUp, Salvage, SegmentHeader, Upload};
use hardtack::wire::audit::signer::AuditKey;
use hardtack::wire::audit::{
    extend, genesis, Alive, Credential, Decision, EraEnd, Event, Evidence, Gap, GapCause, GrantStep, GrantUse,
    Initiator, Known, ModeChange, Named, NamedStep, Record, Repeated, Start, TaskEvent, TaskStep, TrustChange,
};
use hardtack::wire::encode;
use hardtack::wire::envelope::Signed;
use hardtack::wire::revocation::Position;
use proptest::prelude::*;
use serde_json::{json, Value};

use crate::hostile;
use crate::support::{cannot_run, check_vectors, python};

/// 2026-03-01T10:00:00.250Z.
pub(crate) const NOW: u64 = 1_772_359_200_250;
const ERA: EraId = EraId { number: 12, salt: 0xfedc_ba98_7654_3210 };

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/audit")
}

pub(crate) fn acme() -> FleetId {
    "acme".parse().unwrap()
}

fn gateway() -> DeviceId {
    "gw-07".parse().unwrap()
}

/// Vouches for the audit keys.
fn identity() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

/// The audit key of an epoch.
fn key(epoch: u8) -> SigningKey {
    SigningKey::from_bytes(&[100 + epoch; 32])
}

fn certificate(epoch: u8) -> Signed<AuditKey> {
    vouched(epoch, &identity())
}

fn vouched(epoch: u8, identity: &SigningKey) -> Signed<AuditKey> {
    let key = key(epoch).verifying_key().into();
    Signed::sign(&AuditKey { device: gateway(), epoch: epoch.into(), key }, &acme(), &[identity])
}

#[test]
fn the_vectors_are_current() {
    let all = [
        ("leaves", leaves()),
        ("trees", trees()),
        ("segments", segments()),
        ("refused", refused()),
        ("forks", forks()),
    ];
    check_vectors(&folder(), &all);
}

#[test]
fn another_implementation_agrees() {
    let python = python();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/interop/verify_audit.py");
    let Ok(output) = Command::new(python).args([script, "vectors"]).arg(folder()).output() else {
        return cannot_run("there is no Python here");
    };
    let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}{complained}");
    println!("{}", said.trim());
}

#[test]
fn another_implementation_makes_the_same_digest_of_arguments() {
    let python = python();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/interop/arguments.py");
    for json in [
        r#"{"path":"/srv/a","n":-3,"on":true,"t":21.5,"none":null,"list":[1]}"#,
        r#"{"b":{"a/b":1,"~":2},"a":[[],{},"\u00e9\ud83d\ude00"]}"#,
        r#"{"big":9223372036854775807,"small":-9223372036854775808,"half":0.5,"tiny":-1e-7,"whole":1e3,"zero":-0.0}"#,
        r#"{"n":9223372036854775808}"#,
        r#"{"n":1e300}"#,
        r#"{"n":1,"n":2}"#,
        r#"{"a":1500.000,"b":0.1,"c":15E-1,"d":0e999,"e":-0}"#,
        r#"{"n":1500.00000000000001}"#,
        r#"{"n":1e-400}"#,
        r#"{"n":0.3000000000000000444}"#,
        r#"{"n":9007199254740993.0}"#,
    ] {
        let spawned = Command::new(&python)
            .arg(script)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::null())
            .spawn();
        let Ok(mut child) = spawned else { return cannot_run("there is no Python here") };
        child.stdin.take().unwrap().write_all(json.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let arguments: hardtack::wire::arguments::Arguments = serde_json::from_str(json).unwrap();
        let own = arguments.state().ok().flatten().map(|stated| stated.digest.to_string());
        let others = output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned());
        assert_eq!(own, others, "{json}");
    }
}

proptest! {
    #[test]
    fn changed_leaves_are_refused_or_say_something_else(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4), first in 0..20_usize,
    ) {
        let mut framed = hostile::framed(&grow(&records()[first..]).0);
        for (at, byte) in edits {
            let at = at.index(framed.len());
            framed[at] = byte;
        }
        hostile::leaves(&framed);
    }
}

fn block(byte: u8) -> BlockId {
    BlockId([byte; 32])
}

fn named(task: Option<&str>, chain: &[u8]) -> Credential {
    let chain = chain.iter().copied().map(block).collect();
    let task = task.map(|task| task.parse().unwrap());
    Credential::Named(Box::new(Named {
        owner: "ops@acme".into(),
        grant: GrantId([0x42; 16]),
        task,
        chain,
        step: None,
        initiator: None,
    }))
}

fn step() -> NamedStep {
    let planner = vec!["unix:uid:1001".into(), "unix:path:/usr/bin/planner".into()];
    NamedStep { id: "s-1".parse().unwrap(), planner, era: ERA, index: 300 }
}

fn initiator() -> Initiator {
    Initiator { issuer: "https://id.example/realms/ops".into(), subject: "00u1a2b3".into() }
}

fn decision(credential: Credential) -> Decision {
    Decision {
        allow: true,
        reason: "allowed".into(),
        operation: "write".into(),
        resource: "modbus/pump1/speed".into(),
        destination: None,
        risk: Some("high".parse().unwrap()),
        arguments: None,
        credential,
        workload: vec!["unix:uid:1001".into(), "unix:gid:1001".into()],
        enforcer: Vec::new(),
        known: Known {
            mode: "offline".into(),
            freshness: "stale".into(),
            staleness_s: 3600,
            time_class: "bounded".into(),
            width_ms: Some(Millis(9000)),
            bundle_version: 3,
            policy_version: 7,
            feed_seq: Some(300),
        },
    }
}

fn position(seq: u64) -> Position {
    Position { feed: "main".parse().unwrap(), era: 1, seq, digest: Hash([0xd1; 32]) }
}

/// Every kind of event, and decisions that differ from the one before in each of their parts.
fn events() -> Vec<Event> {
    let base = || decision(Credential::Same(3));
    let allow = |decision: Decision| Event::Decision(Box::new(decision));
    let time = |at| Timestamp(NOW + at);
    let task = |step, task: Option<&str>, reason: &str| {
        Event::Task(Box::new(TaskEvent {
            task: task.map(|task| task.parse().unwrap()),
            class: "pump".parse().unwrap(),
            step,
            owner: task.map(|_| "ops@acme".into()),
            grant: task.map(|_| GrantId([0x42; 16])),
            workload: vec!["unix:uid:1001".into()],
            reason: reason.into(),
            chain: task.map_or_else(Vec::new, |_| vec![block(1), block(2)]),
            of_step: (step == TaskStep::Stepped).then(self::step),
            initiator: (step == TaskStep::BegunIssued).then(initiator),
        }))
    };
    let trust = [
        TrustChange::Bundle { version: 3, digest: Hash([0xb0; 32]) },
        TrustChange::Feed { position: position(300) },
        TrustChange::Revoked { newest: position(301) },
        TrustChange::Grant { grant: GrantId([0x42; 16]), expires: Some(time(86_400_000)) },
        TrustChange::Grant { grant: GrantId([0x43; 16]), expires: None },
        TrustChange::Policy { version: 7, digest: Hash([0xb1; 32]) },
        TrustChange::Reset { floor: (time(5), time(0)), powered: (time(7), time(1)) },
        TrustChange::Told { before: time(0), after: time(60_000) },
        TrustChange::Time { before: time(9), after: time(8) },
        TrustChange::AuditKey { epoch: 2, key: key(2).verifying_key().into() },
        TrustChange::Emergency { key: KeyId([0xe1; 8]), counter: 300, digest: Hash([0xb2; 32]) },
    ];
    let previous = EraEnd { era: EraId { number: 11, salt: u64::MAX }, next_index: 300, head: Hash([0xaa; 32]) };
    let start = |previous| {
        let (boot, version, heartbeat) = (BootId([0xbb; 16]), "0.1.0".into(), Millis(21_600_000));
        Event::Start(Box::new(Start { boot, boots: 300, previous, version, heartbeat }))
    };
    let gap = |end, cause| {
        let repeated = if cause == GapCause::Quota { 300 } else { 0 };
        Event::Gap(Gap { era: EraId { number: 11, salt: 0 }, first: 7, end, cause, repeated })
    };
    let mode = ModeChange { from: "online".into(), to: "offline".into(), reason: "the link is down".into() };
    let evidence = Evidence {
        source: "feed/main/head".into(),
        reason: "bad signature – zweimal".into(),
        digest: Hash([0xee; 32]),
        count: 300,
    };
    let grant = |step| Event::Grant(GrantUse { grant: GrantId([0x42; 16]), step, used: 5, offline: Millis(90_000) });
    let mut events = vec![
        start(Some(previous)),
        start(None),
        gap(Some(9), GapCause::Damaged),
        allow(decision(named(Some("t-1"), &[1, 2, 3]))),
        gap(None, GapCause::AnchorLost),
        allow(base()),
        allow(base()),
        allow(Decision { allow: false, reason: "no_right".into(), operation: "read".into(), ..base() }),
        allow(Decision { destination: Some("vendor.example".into()), risk: None, ..base() }),
        allow(Decision {
            workload: Vec::new(),
            enforcer: vec!["unix:uid:33".into()],
            arguments: Some(Hash([0xca; 32])),
            ..base()
        }),
        allow(Decision { allow: false, reason: "bad_signature".into(), ..decision(Credential::Nothing) }),
        allow(decision(named(None, &[]))),
        allow(decision(named(Some("t-1"), &[1, 2, 4]))),
        allow(Decision { known: Known { staleness_s: 1, width_ms: None, feed_seq: None, ..base().known }, ..base() }),
        allow(Decision { known: Known { bundle_version: u64::MAX, ..base().known }, ..base() }),
        Event::Mode(mode),
        Event::Refused(evidence),
        task(TaskStep::BegunFallback, Some("t-1"), ""),
        task(TaskStep::BegunIssued, Some("t-2"), ""),
        task(TaskStep::Ended, Some("t-1"), "its time is over"),
        task(TaskStep::Finished, Some("t-1"), "done"),
        task(TaskStep::Refused, None, "no grant"),
        task(TaskStep::Renewed, Some("t-1"), ""),
    ];
    let stepped = match named(Some("t-1"), &[1, 2, 5]) {
        Credential::Named(named) => Credential::Named(Box::new(Named { step: Some(step()), ..*named })),
        other @ (Credential::Nothing | Credential::Same(_)) => other,
    };
    let initiated = match named(Some("t-2"), &[1, 2, 6]) {
        Credential::Named(named) => Credential::Named(Box::new(Named { initiator: Some(initiator()), ..*named })),
        other @ (Credential::Nothing | Credential::Same(_)) => other,
    };
    events.extend([GrantStep::Activated, GrantStep::Reconciled, GrantStep::Wiped].map(grant));
    events.extend(trust.map(Event::Trust));
    // Of a denial that is there, and of one that the chain below has lost.
    let repeated = |of| Event::Repeated(Repeated { of, count: 300, since: time(0), until: time(9000) });
    events.extend([7, 25].map(repeated));
    events.extend([Some(Millis(21_600_000)), None].map(|next| Event::Alive(Alive { next })));
    events.push(gap(Some(9), GapCause::Quota));
    events.push(Event::Ended(previous));
    events.push(task(TaskStep::Stepped, Some("t-1"), "write modbus/pump1/speed"));
    events.push(task(TaskStep::Attenuated, Some("t-1"), r#"check if operation("read")"#));
    events.push(allow(decision(stepped)));
    events.push(allow(decision(initiated)));
    events
}

/// Records whose times go forth and back.
fn records() -> Vec<Record> {
    let times = [(0, 0), (1, 1200), (900, 2099), (64, 64), (100_000_000, 5), (100_000_001, 100_000_001)];
    (0..)
        .zip(events())
        .map(|(index, event)| {
            let (floor, powered) = times[index as usize % times.len()];
            Record { index, floor: Timestamp(NOW + floor), powered: Timestamp(NOW + powered), event }
        })
        .collect()
}

fn hexes(bytes: &[Vec<u8>]) -> Vec<String> {
    bytes.iter().map(|bytes| hex(bytes)).collect()
}

fn leaves() -> Value {
    let records = records();
    let (leaves, root) = grow(&records);
    assert_eq!(read(&leaves, 0..).unwrap(), records);
    let mut head = genesis(&acme(), &gateway(), ERA);
    let rows: Vec<Value> = records
        .iter()
        .zip(&leaves)
        .map(|(record, leaf)| {
            let stored = record.to_bytes();
            head = extend(head, &stored);
            json!({"record": record, "leaf": hex(leaf), "stored": hex(&stored), "head": head})
        })
        .collect();
    json!({
        "fleet": acme(),
        "device": gateway(),
        "era": {"number": ERA.number, "salt": format!("{:016x}", ERA.salt)},
        "genesis": genesis(&acme(), &gateway(), ERA),
        "records": rows,
        "root": root,
    })
}

fn trees() -> Value {
    let leaf = |number: usize| number.to_le_bytes()[..number % 9].to_vec();
    let trees = [1, 2, 3, 64].map(|count| {
        let leaves: Vec<Vec<u8>> = (0..count).map(leaf).collect();
        let hashes: Vec<Hash> = leaves.iter().map(|leaf| leaf_hash(leaf)).collect();
        let root = root(&hashes);
        let places = [0, 1, 2, 31, 32, 62, 63].into_iter().filter(|place| *place < count);
        let paths: Vec<Value> = places
            .map(|place| {
                let path = path(&hashes, place);
                assert_eq!(root_from(hashes[place], place, count, &path), Some(root));
                assert_eq!(root_from_first(&hashes[..=place], count, &path), Some(root));
                json!({"place": place, "path": path})
            })
            .collect();
        json!({"leaves": hexes(&leaves), "root": root, "paths": paths})
    });
    json!({"empty": root(&[]), "trees": trees})
}

fn header(segment: u64, records: &[Record], previous: Hash) -> SegmentHeader {
    SegmentHeader {
        device: gateway(),
        era: ERA,
        segment,
        first_index: records[0].index,
        count: records.len() as u32,
        previous,
        root: grow(records).1,
        closed_at: Timestamp(NOW + 1000),
        recovered: false,
        signer: None,
        feeds: Vec::new(),
        salvage: None,
    }
}

/// Signs with the audit key of an epoch.
pub(crate) fn sign(header: &SegmentHeader, epoch: u8) -> Signed<SegmentHeader> {
    Signed::sign(header, &acme(), &[&key(epoch)])
}

/// A chain of segments, each with the epoch of the key that signs it: three whole ones, one of which a later start has
/// closed with a newer key, what is left of one, one of which nothing is left, two of keys that were announced, and one whose
/// records were given up.
pub(crate) fn chain() -> Vec<(SegmentHeader, Vec<Vec<u8>>, u8)> {
    let records = records();
    let begin = genesis(&acme(), &gateway(), ERA);
    let first = SegmentHeader { signer: Some(certificate(1)), ..header(0, &records[..20], begin) };
    let second = SegmentHeader { feeds: vec![position(300)], ..header(1, &records[20..21], first.head()) };
    let late = header(2, &records[21..24], second.head());
    let third = SegmentHeader { recovered: true, signer: Some(certificate(2)), ..late };
    // Of records 24 to 29, in what were segments 3 and 4, 25, 26 and 29 are lost.
    let left = [records[24].clone(), records[27].clone(), records[28].clone()];
    let salvage = Salvage { next_segment: 5, lost: vec![(25, 27), (29, 30)], head: Hash([0x5a; 32]), resumes: None };
    let signer = Some(certificate(2));
    let salvaged =
        SegmentHeader { count: 6, salvage: Some(salvage), recovered: true, signer, ..header(3, &left, third.head()) };
    let resumes = Some(certificate(1));
    let nothing = Salvage { next_segment: 6, lost: vec![(30, 33)], head: Hash([0x5b; 32]), resumes };
    let gone = SegmentHeader {
        first_index: 30,
        count: 3,
        root: root(&[]),
        salvage: Some(nothing),
        recovered: true,
        signer: Some(certificate(2)),
        ..header(5, &left, salvaged.head())
    };
    let announcing = header(6, &records[33..36], gone.head());
    let announced = header(7, &records[36..], announcing.head());
    let denials = [0, 1].map(|more| Record { index: (records.len() + more) as u64, ..records[7].clone() });
    let given_up = header(8, &denials, announced.head());
    let of = |records: &[Record]| grow(records).0;
    vec![
        (first, of(&records[..20]), 1),
        (second, of(&records[20..21]), 1),
        (third, of(&records[21..24]), 2),
        (salvaged, of(&left), 2),
        (gone, Vec::new(), 2),
        (announcing, of(&records[33..36]), 1),
        (announced, of(&records[36..]), 2),
        (given_up, Vec::new(), 2),
    ]
}

/// The word of a device that it gave up the records of a segment.
fn given_up(header: &Signed<SegmentHeader>, device: &str, by: &SigningKey) -> Signed<GivenUp> {
    Signed::sign(&GivenUp { device: device.parse().unwrap(), header: header.digest() }, &acme(), &[by])
}

pub(crate) fn stored(header: &Signed<SegmentHeader>, leaves: &[Vec<u8>]) -> Segment {
    let claim = header.claim().unwrap();
    Segment {
        device: claim.device,
        era: claim.era,
        segment: claim.segment,
        first_index: claim.first_index,
        digest: header.digest(),
        header: header.to_bytes(),
        leaves: leaves.to_vec(),
        at: Timestamp(NOW),
        read: None,
    }
}

pub(crate) fn verifier() -> Verifier {
    let keys = [(gateway(), vec![identity().verifying_key().into()])].into();
    Verifier::by(Signers { fleet: acme(), keys })
}

fn segments() -> Value {
    let mut verifier = verifier();
    let chain = chain();
    let segments: Vec<Value> = chain
        .iter()
        .enumerate()
        .map(|(at, (header, leaves, epoch))| {
            let signed = sign(header, *epoch);
            // Whoever closed one later goes on with nothing; the sixth announces the key of epoch 2.
            let next = [1, 1, 1, 1, 1, 2, 2, 2][at];
            let checked = verifier.segment(stored(&signed, leaves)).expect("our own");
            let message = match header.is_shed(leaves) {
                true => Delivery::Shed { header: signed.clone(), word: given_up(&signed, "gw-07", &identity()) },
                false => Delivery::Open(Upload { header: signed.clone(), leaves: leaves.clone() }),
            };
            assert_eq!(message.is_shed(&acme(), &[identity().verifying_key().into()]), Ok(header.is_shed(leaves)));
            if header.salvage.is_none() {
                assert_eq!(header.head(), link(header.previous, header.root));
            }
            json!({
                "header": hex(&signed.to_bytes()),
                "fields": told(header),
                "signer": [next, hex(key(next).verifying_key().as_bytes())],
                "leaves": hexes(leaves),
                "message": hex(&message.to_bytes()),
                "indexes": checked.records.iter().map(|(record, _)| record.index).collect::<Vec<_>>(),
                "head": header.head(),
                "next": [header.next_segment(), header.next_index().unwrap()],
            })
        })
        .collect();
    assert!(verifier.finish().is_sound());
    let public = identity().verifying_key();
    json!({
        "fleet": acme(),
        "device": gateway(),
        "identity": hex(public.as_bytes()),
        "key_id": KeyId::of(public.as_bytes()),
        "genesis": genesis(&acme(), &gateway(), ERA),
        "segments": segments,
    })
}

/// What a header says, certificates as their bytes.
fn told(header: &SegmentHeader) -> Value {
    let bytes = |certificate: &Option<Signed<AuditKey>>| certificate.as_ref().map(|one| hex(&one.to_bytes()));
    let mut fields = json!(header);
    fields["signer"] = bytes(&header.signer).into();
    if let Some(salvage) = &header.salvage {
        fields["salvage"]["resumes"] = bytes(&salvage.resumes).into();
    }
    fields
}

/// What a reader refuses, each for one reason: leaves that are none, and segments in the place of the second one.
fn refused() -> Value {
    let (leaves, _) = grow(&[5, 6].map(|index| Record { index, ..records()[5].clone() }));
    let cases: Vec<(&str, Vec<Vec<u8>>)> = vec![
        ("an empty leaf", vec![Vec::new()]),
        ("an unknown tag", vec![vec![3, 0, 0]]),
        ("the first decision leaves something out", vec![leaves[1].clone()]),
        ("bytes after the end", vec![[&leaves[0][..], &[0]].concat()]),
        ("cut off", vec![leaves[0][..leaves[0].len() - 1].to_vec()]),
        ("a number that was not defined", vec![leaves[0].clone(), vec![2, 32, 0, 9]]),
        ("a number in a longer form", vec![leaves[0].clone(), vec![2, 0, 0x80, 0]]),
        ("a number past 64 bits", vec![leaves[0].clone(), [&[2, 0][..], &[0xff; 9], &[2]].concat()]),
        ("a definition of no kind", vec![leaves[0].clone(), vec![2, 1, 0, 1, 9]]),
        ("a credential of no kind", vec![leaves[0].clone(), vec![2, 1, 0, 1, 4, 3]]),
        ("a text that is no UTF-8", vec![leaves[0].clone(), vec![2, 1, 0, 1, 0, 1, 0xff]]),
        ("a class of risk that is no name", {
            // Text 9 is new, question 1 names it.
            vec![leaves[0].clone(), vec![2, 1 | 1 << 3, 0, 2, 0, 1, b'!', 2, 0, 0, 0, 10, 1]]
        }),
        ("a decision as an event", vec![[&[0, 0, 0][..], &encode(&records()[5].event)].concat()]),
        ("an event of no kind", vec![vec![0, 0, 0, 100]]),
        ("more selectors than a record holds", {
            let mut leaf = vec![2, 1, 0, 2, 0, 0xe8, 7];
            leaf.extend([b'x'; 1000]);
            leaf.extend([3, 5, 9, 9, 9, 9, 9, 0]);
            vec![leaves[0].clone(), leaf]
        }),
        ("more blocks than a record holds", {
            let mut leaf = vec![2, 1, 0, 1, 4, 2, 0];
            leaf.extend([0x42; 16]);
            leaf.extend([0, 0x81, 1]);
            leaf.extend([0; 129]);
            vec![leaves[0].clone(), leaf]
        }),
        ("a leaf of more than 4352 bytes", vec![[&[0, 0, 0, 3][..], &[0; 4352]].concat()]),
    ];
    let leaves: Vec<Value> = cases
        .iter()
        .map(|(why, leaves)| {
            assert!(read(leaves, 5..).is_err(), "{why}");
            json!({"why": why, "leaves": hexes(leaves)})
        })
        .collect();
    json!({"leaves": leaves, "segments": refused_segments(), "given_up": refused_words()})
}

/// Words on segments that were given up, of which the collector believes none.
fn refused_words() -> Vec<Value> {
    let chain = chain();
    let header = sign(&chain.last().expect("it is given up").0, 2);
    let other = sign(&chain[1].0, 1);
    let cases = [
        ("a word on another segment", given_up(&other, "gw-07", &identity())),
        ("the word of another device", given_up(&header, "gw-08", &identity())),
        ("the word of an audit key", given_up(&header, "gw-07", &key(2))),
        (
            "a word that nobody signed",
            Signed::sign(&given_up(&header, "gw-07", &key(2)).claim().unwrap(), &acme(), &[]),
        ),
    ];
    let refuse = |(why, word): (&str, Signed<GivenUp>)| {
        let message = Delivery::Shed { header: header.clone(), word };
        assert!(message.is_shed(&acme(), &[identity().verifying_key().into()]).is_err(), "{why}");
        json!({"why": why, "header": hex(&header.to_bytes()), "message": hex(&message.to_bytes())})
    };
    cases.into_iter().map(refuse).collect()
}

/// Proofs of forks, those that hold and those that do not.
fn forks() -> Value {
    let [first, second, _, _, _, announcing, announced, _] = &chain()[..] else {
        panic!("the chain has eight segments")
    };
    let (first, second, announced) = (&first.0, &second.0, &announced.0);
    let edited = |header: &SegmentHeader, epoch: u8, edit: &dyn Fn(&mut SegmentHeader)| {
        let mut header = header.clone();
        edit(&mut header);
        sign(&header, epoch)
    };
    let signers = Signers { fleet: acme(), keys: [(gateway(), vec![identity().verifying_key().into()])].into() };
    let certified =
        |epochs: &[u8]| Vouching { certificates: epochs.iter().copied().map(certificate).collect(), announced: vec![] };
    let mut lineage = Lineage::default();
    lineage.note(&stored(&sign(first, 1), &chain()[0].1)).unwrap();
    lineage.note(&stored(&sign(&announcing.0, 1), &announcing.1)).unwrap();
    let by_announcement = lineage.of(sign(announced, 2).signed_by());
    assert_eq!((by_announcement.certificates.len(), by_announcement.announced.len()), (1, 1));
    let plain = |header: &SegmentHeader, epoch| edited(header, epoch, &|_| {});
    let other_root = |h: &mut SegmentHeader| h.root = Hash::ZERO;
    let pairs = [
        ("two segments of one number", certified(&[1]), plain(second, 1), edited(second, 1, &other_root)),
        ("a key that was announced", by_announcement, plain(announced, 2), edited(announced, 2, &other_root)),
        (
            "a segment that follows another",
            certified(&[1]),
            plain(first, 1),
            edited(second, 1, &|h| h.previous = Hash::ZERO),
        ),
        (
            "a segment that begins at another record",
            certified(&[1]),
            plain(first, 1),
            edited(second, 1, &|h| h.first_index += 1),
        ),
        ("two eras of one number", certified(&[1]), plain(first, 1), edited(first, 1, &|h| h.era.salt = 1)),
        (
            "a later era with an older key",
            certified(&[1, 2]),
            edited(first, 2, &|h| h.signer = Some(certificate(2))),
            edited(first, 1, &|h| h.era = EraId { number: 13, salt: 1 }),
        ),
    ];
    let names =
        ["kind", "format", "fleet", "device", "keys", "contradiction", "certificates", "announced", "headers", "more"];
    // In the order in which hardtack writes it: else that alone would be refused.
    let text = |proof: &Value| {
        let fields = names.iter().filter_map(|name| proof.get(*name).map(|value| format!("\"{name}\":{value}")));
        format!("{{{}}}\n", fields.collect::<Vec<_>>().join(","))
    };
    let verdict = |text: &str| check(text.as_bytes(), &[]).map(|verdict| verdict.is_sound()).unwrap_or(false);
    let mut rows: Vec<Value> = Vec::new();
    for (why, vouching, one, other) in &pairs {
        let (proof, _) = ForkProof::of(&signers, vouching, [one, other]).unwrap().expect(why);
        let file = format!("{}\n", serde_json::to_string(&proof).unwrap());
        assert!(verdict(&file), "{why}");
        rows.push(json!({"why": why, "holds": true, "file": file}));
    }
    let good = rows[0]["file"].as_str().unwrap().to_owned();
    let with = |edit: &dyn Fn(&mut Value)| {
        let mut proof: Value = serde_json::from_str(&good).unwrap();
        edit(&mut proof);
        text(&proof)
    };
    assert_eq!(with(&|_| {}), good);
    let headers = |one: Signed<SegmentHeader>, other: Signed<SegmentHeader>| {
        let headers = json!([one, other].map(|header| BASE64.encode(&header.to_bytes())));
        with(&|proof| proof["headers"] = headers.clone())
    };
    let salvage = Salvage { next_segment: 2, lost: vec![(20, 21)], head: Hash::ZERO, resumes: None };
    let bad = [
        ("it is said to prove something else", with(&|proof| proof["contradiction"] = "chain".into())),
        ("nobody vouches for the key", with(&|proof| proof["certificates"] = json!([]))),
        ("another fleet", with(&|proof| proof["fleet"] = "evil".into())),
        ("another device", with(&|proof| proof["device"] = "gw-08".into())),
        (
            "a stranger's identity key",
            with(&|proof| {
                proof["keys"] = json!([hex(SigningKey::from_bytes(&[8; 32]).verifying_key().as_bytes())]);
            }),
        ),
        ("one header", with(&|proof| drop(proof["headers"].as_array_mut().unwrap().pop()))),
        ("a field more", with(&|proof| proof["more"] = 1.into())),
        ("another form", with(&|proof| proof["format"] = "hardtack/audit-fork/v2".into())),
        ("one segment twice", headers(plain(second, 1), plain(second, 1))),
        ("a segment and the one that follows it", headers(plain(first, 1), plain(second, 1))),
        ("what a damaged disk left of the same segment", {
            headers(plain(second, 1), edited(second, 1, &|h| h.salvage = Some(salvage.clone())))
        }),
        ("a key that nothing vouches for", headers(plain(second, 1), edited(second, 2, &other_root))),
        ("segments of two numbers", headers(plain(first, 1), edited(second, 1, &|h| h.segment = 5))),
        ("something after it", format!("{good}{good}")),
    ];
    for (why, file) in bad {
        assert!(!verdict(&file), "{why}");
        rows.push(json!({"why": why, "holds": false, "file": file}));
    }
    rows.into()
}

/// Why it is refused, a header, and leaves.
type Case<'c> = (&'c str, Signed<SegmentHeader>, &'c [Vec<u8>]);

fn refused_segments() -> Vec<Value> {
    let chain = chain();
    let (good, leaves, _) = &chain[1];
    let (salvaged, left, _) = &chain[3];
    let edited = |epoch: u8, edit: &dyn Fn(&mut SegmentHeader)| {
        let mut header = good.clone();
        edit(&mut header);
        sign(&header, epoch)
    };
    let with = |edit: &dyn Fn(&mut SegmentHeader)| edited(1, edit);
    let mut changed = leaves.clone();
    changed[0][2] ^= 1;
    let doubled = [leaves.clone(), leaves.clone()].concat();
    let in_place = |salvage: Salvage| {
        let numbers = (good.segment, good.first_index, good.previous);
        let (segment, first_index, previous) = numbers;
        sign(&SegmentHeader { segment, first_index, previous, salvage: Some(salvage), ..salvaged.clone() }, 1)
    };
    let salvage = |next_segment, lost: &[(u64, u64)]| Salvage {
        next_segment,
        lost: lost.to_vec(),
        head: Hash::ZERO,
        resumes: None,
    };
    let mut forged = sign(good, 1).to_bytes();
    let end = forged.len() - 1;
    forged[end] ^= 1;
    let stranger = SigningKey::from_bytes(&[8; 32]);
    let old = Event::Trust(TrustChange::AuditKey { epoch: 1, key: key(3).verifying_key().into() });
    let (no_newer, no_newer_root) = grow(&[Record { event: old, ..records()[20].clone() }]);
    let cases: Vec<Case<'_>> = vec![
        ("another number", with(&|h| h.segment = 2), leaves),
        ("another first record", with(&|h| h.first_index += 1), leaves),
        ("another chain before it", with(&|h| h.previous = Hash::ZERO), leaves),
        ("another root", with(&|h| h.root = Hash::ZERO), leaves),
        ("more records than leaves", with(&|h| h.count += 1), leaves),
        ("no records", with(&|h| h.count = 0), leaves),
        ("another era", with(&|h| h.era.salt ^= 1), leaves),
        ("another device", with(&|h| h.device = "gw-08".parse().unwrap()), leaves),
        ("a leaf that was changed", sign(good, 1), &changed),
        ("a leaf too many", sign(good, 1), &doubled),
        ("another fleet's signature", Signed::sign(good, &"evil".parse().unwrap(), &[&key(1)]), leaves),
        ("another key's signature", Signed::sign(good, &acme(), &[&stranger]), leaves),
        ("a key that nobody announced", sign(good, 2), leaves),
        ("a key that is vouched for and was not announced", edited(2, &|h| h.signer = Some(certificate(2))), leaves),
        ("a key for which a stranger vouches", with(&|h| h.signer = Some(vouched(1, &stranger))), leaves),
        ("an audit key is announced that is no newer", with(&|h| h.root = no_newer_root), &no_newer),
        ("a signature that does not fit", Signed::from_bytes(&forged).unwrap(), leaves),
        ("no signature", Signed::sign(good, &acme(), &[]), leaves),
        ("lost records out of order", in_place(salvage(5, &[(24, 25), (21, 23)])), left),
        ("lost records past the end", in_place(salvage(5, &[(21, 23), (25, 27)])), left),
        ("an empty range of lost records", in_place(salvage(5, &[(21, 24), (25, 25)])), left),
        ("salvage that leads nowhere", in_place(salvage(1, &[(21, 23), (25, 26)])), left),
        ("more left than leaves", in_place(salvage(5, &[(21, 23)])), left),
        ("a next number past 63 bits", in_place(salvage(1 << 63, &[(21, 23), (25, 26)])), left),
    ];
    let refuse = |(why, header, leaves): Case<'_>| {
        let mut verifier = verifier();
        assert!(verifier.segment(stored(&sign(&chain[0].0, 1), &chain[0].1)).is_some());
        assert!(verifier.segment(stored(&header, leaves)).is_none(), "{why}");
        json!({"why": why, "header": hex(&header.to_bytes()), "leaves": hexes(leaves)})
    };
    cases.into_iter().map(refuse).collect()
}
