//! What a record of the audit costs: bytes on the wire, and time to encode, hash and sign it.

use std::hint::black_box;

use hardtack::ids::{BlockId, EraId, GrantId, Hash};
use hardtack::time::Millis;
use hardtack::wire::audit::leaf::Leaves;
use hardtack::wire::audit::merkle::{self, leaf_hash};
use hardtack::wire::audit::segment::{grow, Delivery, SegmentHeader, Upload, SEGMENT_RECORDS_MAX};
use hardtack::wire::audit::{extend, Credential, Decision, Event, Known, Named, Record};
use hardtack::wire::envelope::Signed;
use hardtack::wire::revocation::Position;

use super::{key, least, line, START};

const TOKENS: u64 = 16;
/// The first record of a batch: an era that has been written for a while.
const FIRST: u64 = 20_000;
pub(super) const BATCH: u64 = SEGMENT_RECORDS_MAX as u64;

/// How a record says who is accountable.
#[derive(Clone, Copy)]
enum Naming {
    /// By an earlier record of the era.
    Before,
    /// The first record of each token names it in full, later ones refer to that.
    Here,
    /// Every record has a credential of its own, which it names in full.
    Steps,
}

/// Bytes of a record on the wire, whatever it takes to bring it: leaves, header and signature.
pub(super) fn wire() {
    let each = |naming, count| message(&records(naming, count)).len() as f64 / count as f64;
    line("audit_wire_bytes", each(Naming::Before, BATCH), "B", 20.0, "<= 20 B, batch of 64, 16 tokens named before");
    for count in [1, 16, BATCH, 256] {
        let (before, here) = (each(Naming::Before, count), each(Naming::Here, count));
        println!("  batch of {count:>3}: {before:>6.1} B, {here:>6.1} B where it names its 16 tokens itself");
    }
    let (leaves, _) = grow(&records(Naming::Before, BATCH));
    let bytes: usize = leaves.iter().map(Vec::len).sum();
    println!("  of these, leaves alone: {:.1} B, the first {} B", bytes as f64 / BATCH as f64, leaves[0].len());
    line("audit_wire_step_bytes", each(Naming::Steps, BATCH), "B", 80.0, "<= 80 B, each with a step credential");
}

/// Microseconds per record, in batches of 64.
pub(super) fn cpu() {
    for (name, naming) in [("", Naming::Before), ("each with a step credential", Naming::Steps)] {
        let records = records(naming, BATCH);
        let (leaves, _) = grow(&records);
        let mut all = || drop(black_box(message_of(&records)));
        let mut encode = || {
            let mut growing = Leaves::default();
            records.iter().for_each(|record| drop(black_box(growing.push(record))));
        };
        let mut hash = || {
            let hashes: Vec<Hash> = leaves.iter().map(|leaf| leaf_hash(leaf)).collect();
            black_box(merkle::root(&hashes));
        };
        let mut sign = || drop(black_box(header(Hash::ZERO, BATCH as u32)));
        let mut stored = || {
            black_box(records.iter().fold(Hash::ZERO, |head, record| extend(head, &record.to_bytes())));
        };
        let times = least(&mut [&mut all, &mut encode, &mut hash, &mut sign, &mut stored]);
        let each: Vec<f64> = times.iter().map(|us| us / BATCH as f64).collect();
        match name {
            "" => line("audit_cpu", each[0], "us", 1.5, "<= 1.5 us to encode, hash and sign, batch of 64"),
            name => println!("  {name}: {:.2} us", each[0]),
        }
        let (encode, hash, sign, stored) = (each[1], each[2], each[3], each[4]);
        println!(
            "  encode {encode:.2}, hash {hash:.2}, sign {sign:.2} us; besides, what the disk gets: {stored:.2} us"
        );
    }
}

/// A batch as the device makes it.
fn message_of(records: &[Record]) -> Signed<SegmentHeader> {
    let mut growing = Leaves::default();
    let hashes: Vec<Hash> = records.iter().map(|record| leaf_hash(&growing.push(record))).collect();
    header(merkle::root(&hashes), records.len() as u32)
}

fn message(records: &[Record]) -> Vec<u8> {
    let (leaves, root) = grow(records);
    Delivery::Open(Upload { header: header(root, records.len() as u32), leaves }).to_bytes()
}

fn header(root: Hash, count: u32) -> Signed<SegmentHeader> {
    let header = SegmentHeader {
        device: "gw-07".parse().expect("valid"),
        era: EraId { number: 12, salt: 0x9e37_79b9_7f4a_7c15 },
        segment: FIRST / BATCH,
        first_index: FIRST,
        count,
        previous: Hash([7; 32]),
        root,
        closed_at: START + Millis::from_secs(3601),
        recovered: false,
        signer: None,
        feeds: vec![Position { feed: "main".parse().expect("valid"), era: 0, seq: 9000, digest: Hash([8; 32]) }],
        salvage: None,
    };
    Signed::sign(&header, &"acme".parse().expect("valid"), &[&key(9)])
}

/// Records of one second without a network, 16 workloads taking turns.
fn records(naming: Naming, count: u64) -> Vec<Record> {
    (0..count).map(|at| record(at, credential(naming, at), count)).collect()
}

fn credential(naming: Naming, at: u64) -> Credential {
    match naming {
        Naming::Before => Credential::Same(FIRST - 3000 + at % TOKENS * 31),
        Naming::Here if at >= TOKENS => Credential::Same(FIRST + at % TOKENS),
        Naming::Here => named(at % TOKENS, at % TOKENS),
        Naming::Steps => named(0, at),
    }
}

/// A token of three blocks: the grant's, the task's, and one that the last of them is handed out with.
pub(super) fn named(task: u64, last: u64) -> Credential {
    let block = |kind: u8, number: u64| {
        let mut id = [kind; 32];
        id[..8].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
        BlockId(id)
    };
    Credential::Named(Box::new(Named {
        owner: "ops@acme".into(),
        grant: GrantId([0x42; 16]),
        task: Some(format!("t-{task:016x}").parse().expect("valid")),
        chain: vec![block(1, 0), block(2, task), block(3, last)],
        step: None,
        initiator: None,
    }))
}

pub(super) fn record(at: u64, credential: Credential, count: u64) -> Record {
    let token = at % TOKENS;
    let floor = START + Millis(3_600_000 + at * 1000 / count);
    // One in 16 asks for what it may not.
    let allow = token != 5;
    let decision = Decision {
        allow,
        reason: if allow { "allowed" } else { "no_right" }.into(),
        operation: if token % 4 == 0 { "write" } else { "read" }.into(),
        resource: format!("modbus/pump{}/speed", token % 8),
        destination: None,
        risk: Some(if token % 4 == 0 { "high" } else { "low" }.parse().expect("valid")),
        arguments: None,
        credential,
        workload: vec![format!("unix:uid:{}", 1001 + token % 4), format!("unix:gid:{}", 1001 + token % 4)],
        enforcer: Vec::new(),
        known: Known {
            mode: "offline".into(),
            freshness: "fresh".into(),
            staleness_s: 3600 + at / count,
            time_class: "strict".into(),
            width_ms: Some(Millis(9000 + at * 2 / count)),
            bundle_version: 3,
            policy_version: 7,
            feed_seq: Some(9000),
        },
    };
    Record { index: FIRST + at, floor, powered: floor + Millis(1200), event: Event::Decision(Box::new(decision)) }
}
