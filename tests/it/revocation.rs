//! The format of revocation sets as `docs/revocation-format.md` says it: vectors that are current, and a second
//! implementation, in Python, that agrees with them.
//!
//! After a change of the format, `HARDTACK_WRITE_VECTORS=1` writes them anew: a change that anybody can see.

use std::path::PathBuf;
use std::process::Command;

use ed25519_dalek::SigningKey;
use hardtack::ids::{hex, unhex, BlockId, FeedId, FleetId, GrantId, Hash, KeyId};
use hardtack::time::{Millis, Timestamp};
use hardtack::wire::bundle::EmergencyKey;
use hardtack::wire::envelope::Signed;
use hardtack::wire::revocation::announcement::{Snapshot, Successor};
use hardtack::wire::revocation::emergency::{Declared, Emergency, Rules};
use hardtack::wire::revocation::fingerprints::{file, FingerprintBucket, FingerprintKey, Salt, Width};
use hardtack::wire::revocation::golomb::{divisor, Coded, Stream};
use hardtack::wire::revocation::ladder::{steps, Step};
use hardtack::wire::revocation::manifest::{Manifest, Piece, PIECE_BYTES};
use hardtack::wire::revocation::rules::Selector;
use hardtack::wire::revocation::serials::SerialBucket;
use hardtack::wire::revocation::set::{PartKey, RevocationSet, Revoked};
use hardtack::wire::revocation::slot::Slot;
use hardtack::wire::Refused;
use serde_json::{json, Value};

use crate::support::{cannot_run, check_vectors, python};

const BYTES_MAX: usize = 1 << 20;
/// 2026-03-01T10:00:00Z.
const ISSUED: Timestamp = Timestamp::from_secs(1_772_359_200);

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/revocation")
}

#[test]
fn the_vectors_are_current() {
    let all = [
        ("golomb", golomb()),
        ("slots", slots()),
        ("fingerprints", fingerprints()),
        ("sets", sets()),
        ("feed", feed()),
        ("emergency", emergency()),
    ];
    check_vectors(&folder(), &all);
}

#[test]
fn another_implementation_agrees() {
    let python = python();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/interop/revocations.py");
    let Ok(output) = Command::new(python).arg(script).arg(folder()).output() else {
        return cannot_run("there is no Python here");
    };
    let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}{complained}");
    println!("{}", said.trim());
}

/// Statements of an emergency key, what is held after each, and what is refused.
fn emergency() -> Value {
    let key = SigningKey::from_bytes(&[8; 32]);
    let fleet: FleetId = "acme".parse().unwrap();
    let named = EmergencyKey { operator: "ann".into(), key: key.verifying_key().into() };
    let hours = |hours: u64| ISSUED + Millis::from_secs(hours * 3600);
    let saying = |counter: u64, rules: Rules| Emergency {
        key: named.id(),
        counter,
        issued_at: ISSUED,
        bundle_version: 2,
        rules,
    };
    let statement = |counter: u64, rules: &[(Selector, Timestamp)]| {
        let reason =
            |at: usize| if at == 0 { "gestohlen – gw-07".into() } else { format!("reason {at} of {counter}") };
        let rules = rules.iter().enumerate().map(|(at, (selector, until))| Declared {
            selector: *selector,
            until: *until,
            reason: reason(at),
        });
        saying(counter, Rules::of(rules).unwrap())
    };
    let (device, task) = (Selector::device("gw-07"), Selector::task("t-1"));
    let long = Selector::owner(&"o".repeat(40));
    let covers = |selector: Selector| hex(&Vec::from(selector));
    let rule = |rule: &Declared| json!({"covers": covers(rule.selector), "until": rule.until, "reason": rule.reason});
    let mut held = std::collections::BTreeMap::new();
    let statements: Vec<Value> = [
        statement(1, &[(device, hours(24))]),
        statement(2, &[(device, hours(1)), (task, hours(72)), (long, hours(2))]),
        statement(
            300,
            &[(Selector::All, hours(1)), (Selector::IssuedBefore(ISSUED), hours(3)), (Selector::RootKey(7), hours(4))],
        ),
    ]
    .iter()
    .map(|said| {
        let signed = Signed::sign(said, &fleet, &[&key]);
        assert_eq!(Emergency::open(&signed, &fleet, &named).as_ref(), Ok(said));
        for (selector, until) in said.rules.iter() {
            let end = held.entry(selector).or_insert(until);
            *end = until.max(*end);
        }
        json!({
            "bytes": hex(&signed.to_bytes()),
            "digest": signed.digest(),
            "counter": said.counter,
            "issued_at": said.issued_at,
            "bundle_version": said.bundle_version,
            "rules": said.rules.declared().map(rule).collect::<Vec<_>>(),
            "held": held.iter().map(|(rule, until)| json!([covers(*rule), until])).collect::<Vec<_>>(),
        })
    })
    .collect();
    let fine = || statement(1, &[(device, hours(24))]);
    let wrong = [
        (
            "a life of more than 72 h",
            Emergency { issued_at: ISSUED - Millis(1), ..statement(1, &[(device, hours(72))]) },
        ),
        ("number 0", Emergency { counter: 0, ..fine() }),
        ("another key than signed it", Emergency { key: KeyId([1; 8]), ..fine() }),
        ("no reason", saying(1, Rules::new("", [(device, hours(24))]).unwrap())),
        ("two lines", saying(1, Rules::new("a\nb", [(device, hours(24))]).unwrap())),
        ("a line's end", saying(1, Rules::new("a\n", [(device, hours(24))]).unwrap())),
        ("a turned order", saying(1, Rules::new("a\u{202e}b", [(device, hours(24))]).unwrap())),
        ("a long reason", saying(1, Rules::new(&"r".repeat(201), [(device, hours(24))]).unwrap())),
    ];
    let mut refused: Vec<Value> = wrong
        .iter()
        .map(|(why, said)| {
            let signed = Signed::sign(said, &fleet, &[&key]);
            assert!(Emergency::open(&signed, &fleet, &named).is_err(), "{why}");
            json!({"why": why, "bytes": hex(&signed.to_bytes())})
        })
        .collect();
    let stranger = Signed::sign(&fine(), &fleet, &[&SigningKey::from_bytes(&[9; 32])]);
    let elsewhere = Signed::sign(&fine(), &"evil".parse().unwrap(), &[&key]);
    for (why, signed) in [("another key", stranger), ("another fleet", elsewhere)] {
        assert!(Emergency::open(&signed, &fleet, &named).is_err(), "{why}");
        refused.push(json!({"why": why, "bytes": hex(&signed.to_bytes())}));
    }
    json!({
        "fleet": fleet,
        "key": hex(key.verifying_key().as_bytes()),
        "key_id": named.id(),
        "statements": statements,
        "refused": refused,
    })
}

/// Five heads of a feed, each with one more revocation; the fourth ends a step of four.
fn feed() -> Value {
    let key = SigningKey::from_bytes(&[7; 32]);
    let (fleet, id): (FleetId, FeedId) = ("acme".parse().unwrap(), "main".parse().unwrap());
    let (mut set, mut previous) = (RevocationSet::default(), Hash::ZERO);
    let mut deltas: Vec<RevocationSet> = Vec::new();
    let mut heads = Vec::new();
    for seq in 1..=5_u64 {
        let mut additions = RevocationSet::default();
        match seq {
            1 => additions.add_rule(Selector::device("gw-07"), ISSUED),
            2 => {}
            more => additions.add_serials(slot(0), SerialBucket::new(10, [more as u32]).unwrap()),
        }
        set = set.merge(&additions).unwrap();
        deltas.push(additions.clone());
        let union = deltas.iter().rev().take(4).fold(RevocationSet::default(), |sum, one| sum.merge(one).unwrap());
        let successor = Successor {
            feed: &id,
            era: 1,
            seq,
            previous,
            issued_at: Timestamp(ISSUED.0 + 1000 * seq),
            next_update_ms: Millis::from_secs(180),
            hard_stale_ms: Millis::from_secs(86_400),
            dropped_before: Timestamp(ISSUED.0 - 1),
            set: &set,
            additions: &additions,
            skips: &Step::ending_at(seq).map(|_| Some(union.clone())).collect::<Vec<_>>(),
            bundle_version: 1,
            policy_version: 2,
        };
        let (head, announcements) = successor.sign(&fleet, &key);
        previous = announcements[0].head.digest();
        let snapshot = Snapshot { head: announcements[0].head.clone(), manifest: Manifest::of(&set).to_bytes() };
        heads.push(json!({
            "seq": seq,
            "digest": previous,
            "root": head.root,
            "set": hex(&set.to_bytes()),
            "announcements": announcements.iter().map(|one| hex(&one.to_bytes())).collect::<Vec<_>>(),
            "snapshot": hex(&snapshot.to_bytes()),
        }));
    }
    let ways = [(0, 1), (0, 5), (1, 5), (3, 70), (5, 69), (5, 70), (100, 20_000), (16_384, 16_385), (7, 7)];
    let way = |(from, to): (u64, u64)| {
        let steps = steps(from, to).map(|way| way.iter().map(|step| json!([step.level, step.end])).collect::<Vec<_>>());
        json!({"from": from, "to": to, "steps": steps})
    };
    json!({
        "fleet": fleet, "feed": id, "key": hex(key.verifying_key().as_bytes()),
        "heads": heads,
        "ways": ways.map(way),
    })
}

fn why(refused: &Refused) -> String {
    refused.to_string()
}

fn golomb() -> Value {
    let case = |universe: u128, values: &[u128]| {
        let coded = Coded::encode(universe, values.iter().copied());
        let texts: Vec<String> = values.iter().map(u128::to_string).collect();
        json!({
            "universe": universe.to_string(), "divisor": divisor(universe, coded.count()).to_string(),
            "values": texts, "bytes": hex(coded.as_bytes()),
        })
    };
    let refused = |universe: u128, count: u32, bytes: &[u8]| {
        let read = Stream::<u128>::new(universe, count, bytes).and_then(|stream| stream.collect::<Result<Vec<_>, _>>());
        json!({
            "universe": universe.to_string(), "count": count, "bytes": hex(bytes), "why": why(&read.unwrap_err()),
        })
    };
    let squares: Vec<u128> = (0..60).map(|n: u128| n * n * 5 + n).collect();
    json!({
        "cases": [
            case(10, &[]),
            case(1, &[0]),
            case(10, &[0, 4, 9]),
            case(16, &[1, 4, 10]),
            case(40, &(0..40).step_by(2).collect::<Vec<_>>()),
            case(40, &(0..40).collect::<Vec<_>>()),
            case(20_000, &squares),
            case(1 << 24, &[12_345_678]),
            case(1 << 64, &[0, (1 << 64) - 1]),
            case(1 << 64, &squares),
            case(1 << 96, &[(1 << 96) - 1]),
            case(1 << 96, &(1..20).map(|n| n << 91 | n).collect::<Vec<_>>()),
        ],
        "refused": [
            refused(10, 3, &[0x99, 0, 0]),
            refused(10, 3, &[0x99, 1]),
            refused(10, 3, &[0x99, 0x80]),
            refused(10, 3, &[0x99]),
            refused(10, 3, &[]),
            refused(10, 11, &[0xff; 9]),
            refused(10, 3, &[0, 0, 0, 0, 1, 0]),
            refused((1 << 96) + 1, 1, &[0; 20]),
            refused(10, 0, &[0]),
        ],
    })
}

fn slots() -> Value {
    let case = |expires: u64| {
        let slot = Slot::of(ISSUED, Timestamp(expires));
        json!({
            "issued": ISSUED.0, "expires": expires, "number": slot.number(),
            "begins": slot.begins().0, "ends": slot.ends().0,
        })
    };
    let at = ISSUED.0;
    let day = 86_400_000;
    [at, at + 1, at + 3_599_999, at + 3_600_000, at - 1, at + day, at + day + 1, at + 400 * day, u64::MAX >> 11]
        .map(case)
        .into()
}

fn slot(hour: u32) -> Slot {
    Slot::from_number(2 * (492_322 + hour)).unwrap()
}

fn key(width: Width) -> FingerprintKey {
    FingerprintKey { slot: slot(1), width, salt: Salt([0x5a; 16]) }
}

fn block(number: u32) -> BlockId {
    BlockId::of_signature(&number.to_be_bytes())
}

fn fingerprints() -> Value {
    let case = |width: Width, number: u32| {
        let (key, block) = (key(width), block(number));
        let fingerprint = key.fingerprint(&block).to_string();
        json!({"width": width.bits(), "salt": hex(&key.salt.0), "block": block.to_string(), "fingerprint": fingerprint})
    };
    [Width::Bits64, Width::Bits96].into_iter().flat_map(|width| (0..4).map(move |n| case(width, n))).collect()
}

/// Some of everything.
fn mixed() -> RevocationSet {
    let mut set = RevocationSet::default();
    let until = Timestamp(2_000_000_000_000);
    let rules = [
        Selector::All,
        Selector::audience("pumps"),
        Selector::device("gw-07"),
        Selector::device("a-gateway-with-a-name-of-more-than-32-bytes"),
        Selector::Grant(GrantId([0x42; 16])),
        Selector::group("north"),
        Selector::IssuedBefore(ISSUED),
        Selector::owner("Jürgen <ops@acme>"),
        Selector::owner(""),
        Selector::RootKey(7),
        Selector::task("t-1"),
    ];
    rules.into_iter().for_each(|rule| set.add_rule(rule, until));
    set.add_exact(block(1), slot(3));
    set.add_exact(block(2), Slot::of_day(until));
    set.add_serials(slot(0), SerialBucket::new(1000, (0..1000).step_by(37)).unwrap());
    set.add_serials(slot(1), SerialBucket::new(50, (0..50).filter(|n| n % 7 != 0)).unwrap());
    set.add_serials(slot(2), SerialBucket::new(12, []).unwrap());
    set.add_serials(slot(3), SerialBucket::new(12, 0..12).unwrap());
    for width in [Width::Bits64, Width::Bits96] {
        let filed = file(&key(width), (10..30).map(block), (30..60).map(block)).unwrap();
        set.add_fingerprints(key(width), filed.bucket.unwrap()).unwrap();
    }
    set
}

fn worked() -> RevocationSet {
    let mut set = RevocationSet::default();
    set.add_rule(Selector::device("gw-07"), Timestamp(2_000_000_000_000));
    set.add_serials(slot(0), SerialBucket::new(10, [0, 4, 9]).unwrap());
    set
}

fn entry(entry: Revoked) -> Value {
    let key = |key: FingerprintKey| json!([key.slot.number(), key.width.bits(), hex(&key.salt.0)]);
    match entry {
        Revoked::Rule(selector, until) => {
            let mut alone = RevocationSet::default();
            alone.add_rule(selector, until);
            // The whole rule without the set's and the part's first bytes.
            json!({ "rule": hex(&alone.part(PartKey::Rules).unwrap()), "until": until.0 })
        }
        Revoked::Exact(block, slot) => json!({ "exact": block.to_string(), "slot": slot.number() }),
        Revoked::Serial(slot, serial) => json!({ "serial": serial, "slot": slot.number() }),
        Revoked::Fingerprint(of, number) => json!({ "fingerprint": number.to_string(), "bucket": key(of) }),
    }
}

fn sets() -> Value {
    let (empty, worked, mixed) = (RevocationSet::default(), worked(), mixed());
    let described = |name: &str, set: &RevocationSet| {
        let manifest = Manifest::of(set);
        json!({
            "name": name, "bytes": hex(&set.to_bytes()), "manifest": hex(&manifest.to_bytes()),
            "root": manifest.root().to_string(), "entries": set.enumerate().map(entry).collect::<Vec<_>>(),
        })
    };
    // Names that are held as digests, so that the hash can be checked.
    let names = ["a-gateway-with-a-name-of-more-than-32-bytes", ""].map(|text| {
        let mut set = RevocationSet::default();
        set.add_rule(Selector::device(text), Timestamp(1));
        json!({ "device": text, "rule": hex(&set.part(PartKey::Rules).unwrap()) })
    });
    let delta = |old: &RevocationSet, new: &RevocationSet| {
        let sum = old.merge(new).unwrap();
        let delta = sum.since(old);
        assert_eq!(old.merge(&delta), Ok(sum.clone()));
        json!({ "old": hex(&old.to_bytes()), "delta": hex(&delta.to_bytes()), "new": hex(&sum.to_bytes()) })
    };
    let mut grown = worked.clone();
    grown.add_serials(slot(0), SerialBucket::new(14, [3, 4, 13]).unwrap());
    grown.add_rule(Selector::device("gw-07"), Timestamp(2_000_000_000_001));
    let dropped = |at: Timestamp| {
        let mut rest = mixed.clone();
        rest.drop_expired(at);
        json!({ "set": hex(&mixed.to_bytes()), "at": at.0, "rest": hex(&rest.to_bytes()) })
    };
    let no_fingerprints = format!("01030000000040{}0100", "5a".repeat(16));
    let refused: Vec<Value> = [
        "",                         // no version
        "02",                       // another version
        "0109",                     // a part of no known kind
        "010000",                   // a part without rules
        "010002000500020005",       // two parts of rules
        "01000400050005",           // two rules for the same
        "0100020905",               // a rule of no known kind
        "010082000005",             // a length in a longer form
        "0102ffffffff",             // a slot past the last date
        "01030000000041",           // 65 bits
        "01010100",                 // an id cut short
        "010200000000020a0b",       // eleven of ten revoked
        "010200000000020000",       // nothing issued
        "010200000000058180804000", // more issued than a bucket has
        "010200000000050a03800100", // a run of zeros
        "010200000000040a039901",   // padding
        "010200000000030a0900",     // the one of ten that is not revoked is cut short
        &no_fingerprints,
    ]
    .into_iter()
    .map(|text| {
        let refused = RevocationSet::from_bytes(&unhex(text).unwrap(), BYTES_MAX).unwrap_err();
        json!({ "bytes": text, "why": why(&refused) })
    })
    .collect();
    json!({
        "sets": [described("empty", &empty), described("worked example", &worked), described("mixed", &mixed)],
        "names": names,
        "deltas": [delta(&empty, &worked), delta(&worked, &grown), delta(&worked, &mixed), delta(&mixed, &worked)],
        "dropped": [
            dropped(slot(0).ends()), dropped(Timestamp(slot(2).ends().0 - 1)), dropped(Timestamp(2_000_000_000_001)),
        ],
        "refused": refused,
        "large": large(),
    })
}

/// A set of several pieces, said by how it was made.
fn large() -> Value {
    let (count, step) = (9000_u32, 2_049_638_230_412_172_u128);
    let mut set = worked();
    let bucket = FingerprintBucket::new(Width::Bits64, (0..count).map(|n| u128::from(n) * step)).unwrap();
    set.add_fingerprints(key(Width::Bits64), bucket).unwrap();
    let manifest = Manifest::of(&set);
    let places = manifest.parts().iter().flat_map(|part| (0..part.pieces()).map(|piece| (part.key, piece)));
    let pieces = places.map(|(key, number)| {
        let message = manifest.piece(&set, key, number).unwrap().to_bytes();
        let piece = Piece::from_bytes(&message).unwrap();
        let length = piece.verify(&manifest.root()).unwrap().2.len();
        assert!(length <= PIECE_BYTES);
        json!({ "head": hex(&message[..message.len() - length]), "bytes": length })
    });
    json!({
        "besides": hex(&worked().to_bytes()), "slot": key(Width::Bits64).slot.number(), "width": 64,
        "salt": hex(&key(Width::Bits64).salt.0), "count": count, "step": step.to_string(),
        "manifest": hex(&manifest.to_bytes()), "root": manifest.root().to_string(), "pieces": pieces.collect::<Vec<_>>(),
    })
}
