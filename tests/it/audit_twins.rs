//! Eras that one device cannot have begun both, in an export that has nothing else to tell that by: a clone begins an era under
//! the number that its original gave, or goes on with an audit key that was replaced. And files that are no exports at all.

use std::path::PathBuf;

use ed25519_dalek::SigningKey;
use hardtack::cli::audit::file::{check, Evidence, Head};
use hardtack::cli::audit::trails::lines_of;
use hardtack::fleet::report::{Signers, Verifier};
use hardtack::ids::{DeviceId, EraId};
use hardtack::time::Timestamp;
use hardtack::wire::audit::segment::{grow, SegmentHeader};
use hardtack::wire::audit::signer::AuditKey;
use hardtack::wire::audit::{genesis, Alive, Event, Record, TrustChange};
use hardtack::wire::envelope::Signed;
use serde_json::{json, Value};

use crate::audit_format::{acme, stored, NOW};

/// An era, and who signs it.
#[derive(Clone, Copy)]
struct Era {
    number: u64,
    salt: u64,
    /// The identity key's seed.
    identity: u8,
    /// The audit key's epoch and seed.
    key: (u64, u8),
    /// A later start closed it.
    recovered: bool,
    /// It has a second segment, which this audit key signs.
    then: Option<(u64, u8)>,
}

const FIRST: Era = Era { number: 1, salt: 7, identity: 7, key: (2, 102), recovered: false, then: None };
const OLD: (u64, u8) = (1, 101);
const NEW: (u64, u8) = (3, 103);

fn gateway() -> DeviceId {
    "gw-07".parse().unwrap()
}

fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

fn signers() -> Signers {
    let identities = [7, 8].map(|seed| key(seed).verifying_key().into());
    Signers { fleet: acme(), keys: [(gateway(), identities.to_vec())].into() }
}

impl Era {
    /// Its segments: their headers and leaves.
    fn segments(self) -> Vec<(Signed<SegmentHeader>, Vec<Vec<u8>>)> {
        let era = EraId { number: self.number, salt: self.salt };
        let alive = Event::Alive(Alive { next: None });
        let announces =
            |(epoch, seed)| Event::Trust(TrustChange::AuditKey { epoch, key: key(seed).verifying_key().into() });
        let events = [self.then.map_or(alive.clone(), announces), alive];
        let keys = [Some(self.key), self.then];
        let mut previous = genesis(&acme(), &gateway(), era);
        let mut segments = Vec::new();
        for ((segment, event), (epoch, seed)) in (0..).zip(events).zip(keys.into_iter().flatten()) {
            let record = Record { index: segment, floor: Timestamp(NOW), powered: Timestamp(NOW), event };
            let (leaves, root) = grow(&[record]);
            let vouched = AuditKey { device: gateway(), epoch, key: key(seed).verifying_key().into() };
            let header = SegmentHeader {
                device: gateway(),
                era,
                segment,
                first_index: segment,
                count: 1,
                previous,
                root,
                closed_at: Timestamp(NOW),
                recovered: self.recovered,
                signer: (segment == 0).then(|| Signed::sign(&vouched, &acme(), &[&key(self.identity)])),
                feeds: Vec::new(),
                salvage: None,
            };
            previous = header.head();
            segments.push((Signed::sign(&header, &acme(), &[&key(seed)]), leaves));
        }
        segments
    }
}

fn export(eras: &[Era]) -> Vec<String> {
    let mut verifier = Verifier::by(signers());
    let mut lines = vec![serde_json::to_string(&Head::of(&signers(), None)).unwrap()];
    for (header, leaves) in eras.iter().copied().flat_map(Era::segments) {
        let segment = stored(&header, &leaves);
        let checked = verifier.segment(segment.clone()).expect("its device signed it");
        lines.extend(lines_of(&segment, "2026-03-01T10:00:05Z", &checked).map(|line| Value::Object(line).to_string()));
    }
    lines
}

/// The code that a program which checks the file exits with, whether all of it was signed, and how its eras contradict others.
fn judged(lines: &[String]) -> (i32, bool, Vec<&'static str>) {
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    // What is no evidence is refused with the same code.
    let Ok(verdict) = check(text.as_bytes(), &[]) else { return (12, false, Vec::new()) };
    let Evidence::Export(report) = &verdict.evidence else { panic!("it is an export") };
    let twins = report.devices.values().flat_map(|device| &device.holes.twins);
    let twins: Vec<&str> = twins.map(|twin| twin.proves.name()).collect();
    let forks: u64 = report.devices.values().map(|device| device.forks).sum();
    assert_eq!(forks, twins.len() as u64);
    let code = if verdict.is_sound() { 9 * i32::from(report.has_gaps()) } else { 12 };
    (code, verdict.is_signed(), twins)
}

/// Files with eras that contradict each other, and such as look like it.
fn forked() -> Vec<(&'static str, Vec<String>, Vec<&'static str>)> {
    let next = Era { number: 2, ..FIRST };
    let twin = Era { salt: 8, ..next };
    let cases: Vec<(&str, Vec<Era>, Vec<&str>)> = vec![
        ("one era after the other", vec![FIRST, next, Era { number: 3, key: NEW, ..FIRST }], vec![]),
        ("two eras of one number", vec![FIRST, next, twin], vec!["era"]),
        ("two eras of one number, in another order", vec![FIRST, twin, next], vec!["era"]),
        ("three eras of one number", vec![FIRST, next, twin, Era { salt: 9, ..next }], vec!["era", "era"]),
        ("two eras of one number, one with an older key", vec![FIRST, next, Era { key: OLD, ..twin }], vec!["era"]),
        (
            "two eras of one number, closed by a later start",
            vec![FIRST, Era { recovered: true, ..next }, twin],
            vec!["era"],
        ),
        ("a gateway that was replaced", vec![FIRST, Era { identity: 8, key: OLD, salt: 8, ..FIRST }], vec![]),
        ("an older key", vec![FIRST, Era { key: OLD, ..next }], vec!["key"]),
        ("an older key, in another order", vec![Era { key: OLD, ..next }, FIRST], vec!["key"]),
        (
            "older than the key of two eras before",
            vec![FIRST, Era { key: OLD, ..next }, Era { number: 3, key: OLD, ..FIRST }],
            vec!["key", "key"],
        ),
        ("older than a key that signed later in an era", vec![Era { then: Some(NEW), ..FIRST }, next], vec!["key"]),
        ("another key of the same epoch", vec![FIRST, Era { key: (2, 109), ..next }], vec!["key"]),
        ("an older key under another identity", vec![FIRST, Era { identity: 8, key: OLD, ..next }], vec![]),
        (
            "an older key after what a later start closed",
            vec![Era { recovered: true, ..FIRST }, Era { key: OLD, ..next }],
            vec![],
        ),
        ("what a later start closed with an older key", vec![FIRST, Era { key: OLD, recovered: true, ..next }], vec![]),
    ];
    cases.into_iter().map(|(why, eras, twins)| (why, export(&eras), twins)).collect()
}

/// Files that say what no device and no collector writes.
fn hostile() -> Vec<(&'static str, Vec<String>)> {
    let whole = export(&[FIRST]);
    let edited = |at: usize, edit: &dyn Fn(&mut Value)| {
        let mut lines = whole.clone();
        let mut line: Value = serde_json::from_str(&lines[at]).unwrap();
        edit(&mut line);
        lines[at] = line.to_string();
        lines
    };
    let head = serde_json::to_string(&Head::of_device(acme(), gateway(), &[key(7).verifying_key().into()])).unwrap();
    let of_device = |line: String| vec![head.clone(), line];
    let hole = |era: &str, segment: &str, index: &str| {
        of_device(format!(
            r#"{{"kind":"hole","device":"gw-07","era":{era},"salt":"0000000000000007","segment":{segment},"index":{index},"head":"{}","signer":null}}"#,
            "00".repeat(32)
        ))
    };
    // 2 to the power of 70.
    let large = "1180591620717411303424";
    vec![
        ("a hole in an era past 64 bits", hole(large, "0", "1")),
        ("a hole in an era before all", hole("-1", "0", "1")),
        ("a hole that leads past 64 bits", hole("1", "0", large)),
        ("a hole before a segment past 64 bits", hole("1", large, "1")),
        ("a hole in an era that is true", hole("true", "0", "1")),
        (
            "an unsigned record of an era past 64 bits",
            of_device(format!(
                r#"{{"kind":"unsigned","device":"gw-07","era":{large},"salt":"0000000000000007","index":0,"record":"AAAA","says":{{}}}}"#
            )),
        ),
        ("an era past 64 bits", {
            let mut lines = whole.clone();
            lines[1] = lines[1].replacen("\"era\":1", &format!("\"era\":{large}"), 1);
            lines
        }),
        ("a branch of less than no segments", {
            let mut lines = whole.clone();
            let place = r#""device":"gw-07","era":1,"salt":"0000000000000007""#;
            let branch = "00".repeat(32);
            lines.push(format!(
                r#"{{"kind":"branch",{place},"branch":"{branch}","from":null,"after":null,"segment":0,"first":0,"segments":-1}}"#
            ));
            lines
        }),
        ("a fleet that is a list", edited(0, &|head| head["fleet"] = json!(["a"]))),
        ("a fleet that is a number", edited(0, &|head| head["fleet"] = 1.into())),
        ("devices that are texts", edited(0, &|head| head["devices"] = json!(["gw-07"]))),
        ("devices that are no list", edited(0, &|head| head["devices"] = json!({"id": "gw-07"}))),
        ("a device that is a list", edited(0, &|head| head["devices"][0]["id"] = json!(["gw-07"]))),
        (
            "keys that are one text",
            edited(0, &|head| head["devices"][0]["keys"] = head["devices"][0]["keys"][0].clone()),
        ),
        ("a record of a device that is a list", edited(1, &|line| line["device"] = json!(["gw-07"]))),
        ("a header that is a number", edited(1, &|line| line["header"] = 1.into())),
        ("a leaf that is a number", edited(1, &|line| line["leaf"] = 1.into())),
        ("no line", Vec::new()),
    ]
}

fn twins() -> Value {
    let mut lines: Vec<String> = Vec::new();
    let mut rows = Vec::new();
    let hostile = hostile().into_iter().map(|(why, file)| (why, file, false, Vec::new()));
    let files = forked().into_iter().map(|(why, file, twins)| (why, file, true, twins)).chain(hostile);
    for (why, file, signed, twins) in files {
        let code = if signed && twins.is_empty() { 0 } else { 12 };
        assert_eq!(judged(&file), (code, signed, twins.clone()), "{why}");
        // Most lines are in more than one file.
        let place = |line: &String| {
            lines.iter().position(|known| known == line).unwrap_or_else(|| {
                lines.push(line.clone());
                lines.len() - 1
            })
        };
        let file: Vec<usize> = file.iter().map(place).collect();
        rows.push(json!({"why": why, "code": code, "signed": signed, "twins": twins, "file": file}));
    }
    json!({"lines": lines, "cases": rows})
}

#[test]
fn the_vectors_of_twins_are_current() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/audit/twins.json");
    let text = format!("{}\n", serde_json::to_string_pretty(&twins()).unwrap());
    if std::env::var_os("HARDTACK_WRITE_VECTORS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(kept == text, "{} is not what this code writes; has the format changed?", path.display());
}
