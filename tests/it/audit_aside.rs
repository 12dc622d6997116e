//! What a collector set aside, because somebody signed two trails of one era: shown, handed on in a file, checked from that
//! alone by two programs, and read anew from the ledger's bytes.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use ed25519_dalek::SigningKey;
use hardtack::cli::audit::file::{check, Evidence, Head};
use hardtack::cli::audit::trails::lines_of;
use hardtack::fleet::book::Segment;
use hardtack::fleet::collect::{receive, Collected};
use hardtack::fleet::report::branch::Parting;
use hardtack::fleet::report::{Checked, Signers};
use hardtack::ids::{EraId, GrantId, Hash};
use hardtack::shell::cast::{path, Fleet, Gateway, Stage};
use hardtack::shell::keys::DeviceKeyFile;
use hardtack::shell::ledger::{Ledger, LedgerError};
use hardtack::time::{Millis, Timestamp};
use hardtack::wire::audit::segment::{grow, Delivery, SegmentHeader, Upload};
use hardtack::wire::audit::signer::AuditKey;
use hardtack::wire::audit::{genesis, Credential, Decision, Event, Known, Named, Record};
use hardtack::wire::envelope::Signed;
use serde_json::{json, Value};

use crate::audit_export::{flips, verdict, verify};
use crate::audit_format::{acme, chain, sign, stored, verifier};
use crate::support::{cannot_run, python};

const NOW: Timestamp = Timestamp(1_772_323_200_000);
const ERA: EraId = EraId { number: 1, salt: 77 };

/// A device's keys in two hands.
struct Hand {
    keys: DeviceKeyFile,
    audit: SigningKey,
}

impl Hand {
    /// A segment that follows another one, or begins an era, with a decision for each of these resources.
    fn segment(&self, era: EraId, before: Option<&Upload>, resources: &[&str]) -> Upload {
        let fleet = "acme".parse().unwrap();
        let before = before.map(|upload| upload.header.claim().unwrap());
        let first_index = before.as_ref().map_or(0, |before| before.next_index().unwrap());
        let record = |(index, resource): (u64, &&str)| Record {
            index,
            floor: NOW,
            powered: NOW,
            event: decision(index, resource),
        };
        let (leaves, root) = grow(&(first_index..).zip(resources).map(record).collect::<Vec<_>>());
        let device = self.keys.device.clone();
        let vouched = AuditKey { device: device.clone(), epoch: 1, key: self.audit.verifying_key().into() };
        let begins = before.is_none();
        let header = SegmentHeader {
            era,
            segment: before.as_ref().map_or(0, SegmentHeader::next_segment),
            first_index,
            count: resources.len() as u32,
            previous: before.map_or_else(|| genesis(&fleet, &device, era), |before| before.head()),
            root,
            closed_at: NOW,
            recovered: false,
            signer: begins.then(|| Signed::sign(&vouched, &fleet, &[&self.keys.keys.identity])),
            feeds: Vec::new(),
            salvage: None,
            device,
        };
        Upload { header: Signed::sign(&header, &fleet, &[&self.audit]), leaves }
    }
}

/// Whose the credential is, the first record of an era says for all that come after it.
fn decision(index: u64, resource: &str) -> Event {
    let named = Named {
        owner: "ops@acme".into(),
        grant: GrantId([1; 16]),
        task: None,
        chain: Vec::new(),
        step: None,
        initiator: None,
    };
    Event::Decision(Box::new(Decision {
        allow: true,
        reason: "allowed".into(),
        operation: "read".into(),
        resource: resource.into(),
        destination: None,
        risk: None,
        arguments: None,
        credential: if index == 0 { Credential::Named(Box::new(named)) } else { Credential::Same(0) },
        workload: vec!["unix:uid:1001".into()],
        enforcer: Vec::new(),
        known: Known { staleness_s: 5, width_ms: Some(Millis(9)), ..Known::default() },
    }))
}

/// A fleet whose collector has a trail of two eras, and beside the first of them three branches: one from its first segment
/// on, one from that one's first segment on, and one whose beginning never came.
struct Forked {
    folder: tempfile::TempDir,
    fleet: Fleet,
    key: String,
}

impl Forked {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let stage = Stage::new(env!("CARGO_BIN_EXE_hardtack").into());
        let fleet = Fleet::init(&stage, folder.path().join("fleet"), "acme").unwrap();
        let gateway = Gateway::new(&stage, "gw-07", folder.path());
        fleet.enrol(&gateway, folder.path()).unwrap();
        let keys = DeviceKeyFile::read(&gateway.state).unwrap();
        let hand = Hand { keys, audit: SigningKey::from_bytes(&[8; 32]) };
        let first = hand.segment(ERA, None, &["a", "b"]);
        let second = hand.segment(ERA, Some(&first), &["c"]);
        let third = hand.segment(ERA, Some(&second), &["d", "e"]);
        let clones = hand.segment(ERA, Some(&first), &["clone/c", "clone/d"]);
        let clones_next = hand.segment(ERA, Some(&clones), &["clone/e"]);
        let clones_last = hand.segment(ERA, Some(&clones_next), &["clone/f"]);
        let copys = hand.segment(ERA, Some(&clones), &["copy/e", "copy/f"]);
        let never = hand.segment(ERA, Some(&second), &["never"]);
        let astray = hand.segment(ERA, Some(&never), &["astray/e"]);
        let later = hand.segment(EraId { number: 2, salt: 5 }, None, &["f"]);
        let shown = fleet.run(&["device", "show", "gw-07"]).unwrap();
        let key = shown["identity_keys"][0].as_str().unwrap().to_owned();
        let forked = Self { folder, fleet, key };
        for upload in [first, second, third] {
            assert!(matches!(forked.take(&upload), Collected::Held(_)));
        }
        for upload in [clones, clones_next, clones_last, copys, astray] {
            assert!(matches!(forked.take(&upload), Collected::Forked(_)));
        }
        assert!(matches!(forked.take(&later), Collected::Held(_)));
        forked
    }

    fn ledger(&self) -> PathBuf {
        self.fleet.dir.join("fleet.db")
    }

    fn take(&self, upload: &Upload) -> Collected {
        let mut ledger = Ledger::open(&self.ledger()).unwrap();
        let payload = Delivery::Open(upload.clone()).to_bytes();
        let taken = ledger.transact(|book, archive, fx| {
            let device = "gw-07".parse().unwrap();
            Ok::<_, LedgerError>(receive(book, &device, &payload, &[], archive, NOW, fx).unwrap())
        });
        taken.unwrap().0
    }

    fn audit(&self, form: &str, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hardtack"));
        command.args(["-o", form, "fleet", "--dir", path(&self.fleet.dir), "audit"]).args(args);
        command.env_clear().env("HOME", "/nonexistent").stdin(Stdio::null()).output().unwrap()
    }

    /// With what was set aside.
    fn export(&self) -> String {
        let exported = self.audit("json", &["export", "--aside"]);
        assert_eq!(exported.status.code(), Some(12), "{exported:?}");
        String::from_utf8(exported.stdout).unwrap()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What is wrong with what is stored.
    fn problems(&self) -> Vec<String> {
        let verified = verdict(&self.audit("json", &["verify"]), 12);
        let problems = verified["devices"][0]["problems"].as_array().unwrap();
        problems.iter().map(|problem| problem.as_str().unwrap().to_owned()).collect()
    }
}

/// Whether a file says that something in it is not what was signed.
fn is_told(text: &[u8]) -> bool {
    check(text, &[]).map_or(true, |verdict| !verdict.is_signed())
}

/// What the other implementation says of a file, with its exit code; none where there is no Python.
fn elsewhere(forked: &Forked, name: &str, text: &[u8], key: &str) -> Option<(i32, String)> {
    let file = forked.file(name);
    std::fs::write(&file, text).unwrap();
    let python = python();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/interop/verify_audit.py");
    let output = Command::new(python).args([script, "export", "--key", key]).arg(file).output();
    let Ok(output) = output else {
        cannot_run("there is no Python here");
        return None;
    };
    assert!(output.stderr.is_empty(), "{output:?}");
    Some((output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap()))
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn joined<'l>(lines: impl IntoIterator<Item = &'l str>) -> String {
    lines.into_iter().map(|line| format!("{line}\n")).collect()
}

#[test]
fn branches_that_were_set_aside_are_exported_and_checked_from_the_file_alone() {
    let forked = Forked::new();
    let plain = forked.audit("json", &["export"]);
    let without = String::from_utf8(plain.stdout).unwrap();
    assert!(plain.status.code() == Some(12) && String::from_utf8_lossy(&plain.stderr).contains("--aside adds that"));
    let text = forked.export();
    let told = lines(&text);
    let trail: Vec<&str> = text.lines().filter(|line| !line.contains("\"branch\":")).collect();
    assert_eq!(joined(trail), without, "the trail is as it is without the branches");
    let begun: Vec<&Value> = told.iter().filter(|line| line["kind"] == "branch").collect();
    let id = |at: usize| begun[at]["branch"].as_str().unwrap();
    // Of two branches with one beginning, the one whose next segment has the lower digest goes on from it.
    let parts: Vec<_> =
        begun.iter().map(|line| (&line["from"], &line["after"], &line["segment"], &line["first"])).collect();
    assert_eq!(parts[0], (&json!("trail"), &json!(0), &json!(1), &json!(2)));
    assert!(parts.contains(&(&json!(id(0)), &json!(1), &json!(2), &json!(4))), "{parts:?}");
    assert!(parts.contains(&(&Value::Null, &Value::Null, &json!(3), &json!(4))), "{parts:?}");
    let segments: u64 = begun.iter().map(|line| line["segments"].as_u64().unwrap()).sum();
    assert_eq!((begun.len(), segments), (3, 5));

    let file = forked.file("export");
    std::fs::write(&file, &text).unwrap();
    let found = verdict(&verify(&file, &["--key", &forked.key]), 12);
    let device = &found["devices"][0];
    assert_eq!((&found["ok"], &found["problems"], &device["problems"]), (&json!(false), &json!([]), &json!([])));
    assert_eq!((&device["records"], &device["aside"], &device["forks"]), (&json!(6), &json!(7), &json!(3)));
    let branches = device["branches"].as_array().unwrap();
    assert!(branches.iter().all(|branch| branch["contradiction"] == "segment"), "{device}");
    let proved = found["proved"].to_string();
    assert!(proved.contains("used a device's keys twice"), "{proved}");
    assert!(found["not_proved"].to_string().contains("which branch is the device's own"));
    assert!(found["not_proved"].to_string().contains("whose beginning never came"));
    let human = Command::new(env!("CARGO_BIN_EXE_hardtack"))
        .args(["-o", "human", "audit", "verify", path(&file)])
        .env_clear()
        .output()
        .unwrap();
    let human = String::from_utf8(human.stdout).unwrap();
    for words in ["MORE than one trail", "parts from the trail after segment 0", "PROVED, two different segments"] {
        assert!(human.contains(words), "{words} is not in\n{human}");
    }
    let stranger = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
    let strange = verdict(&verify(&file, &["--key", stranger]), 12);
    assert_eq!(strange["proved"], json!([]));
    if let Some((code, said)) = elsewhere(&forked, "sound", text.as_bytes(), &forked.key) {
        assert!(code == 12 && !said.contains("WRONG"), "{said}");
        assert!(said.contains("used a device's keys twice"), "{said}");
        assert_eq!(said.matches("a branch of era 1").count(), 3, "{said}");
    }
    let (code, said) = elsewhere(&forked, "strange", text.as_bytes(), stranger).unwrap_or((12, "WRONG".into()));
    assert!(code == 12 && said.contains("WRONG"), "{said}");
}

#[test]
fn whatever_is_changed_in_a_branch_shows() {
    let forked = Forked::new();
    let text = forked.export();
    let whole: Vec<&str> = text.lines().collect();
    assert!(!is_told(text.as_bytes()));
    let of_branch = |line: &str| line.contains("\"branch\":");
    let begins = |line: &str| line.contains("\"kind\":\"branch\"");
    let mut changed: Vec<(String, String)> = Vec::new();
    let mut change = |what: &str, text: String| changed.push((what.to_owned(), text));
    change("another parent", text.replacen("\"after\":0", "\"after\":1", 1));
    change("from another branch", text.replacen("\"from\":\"trail\"", "\"from\":null", 1));
    change("one more segment", text.replacen("\"segments\":1", "\"segments\":2", 1));
    let branches: Vec<usize> = (0..whole.len()).filter(|at| begins(whole[*at])).collect();
    for at in (0..whole.len()).filter(|at| of_branch(whole[*at])) {
        let mut dropped = whole.clone();
        dropped.remove(at);
        change("a line dropped", joined(dropped));
        let mut twice = whole.clone();
        twice.insert(at, whole[at]);
        change("a line twice", joined(twice));
        // Where nothing of a branch is open, a file may end: the branches that follow are not missed.
        if !begins(whole[at]) {
            change("cut off", joined(whole[..at].iter().copied()));
            change("of the trail", joined(whole[..at].iter().copied()) + &unmarked(whole[at]));
        }
    }
    let later = whole.iter().position(|line| line.contains("\"era\":2")).unwrap();
    let (first, after) = (branches[0], branches[1]);
    let block = &whole[first..after];
    let without: Vec<&str> = whole[..first].iter().chain(&whole[after..]).copied().collect();
    change("in the next era", joined(without.iter().copied()) + &joined(block.iter().copied()));
    change("before what it parts from", {
        let mut moved = without.clone();
        moved.splice(later - block.len()..later - block.len(), block.iter().copied());
        joined(moved)
    });
    change("a branch twice", joined(whole[..after].iter().chain(block).chain(&whole[after..]).copied()));
    change(
        "without the trail",
        joined(whole.iter().copied().filter(|line| of_branch(line) || line.contains("\"export\""))),
    );
    let trail: Vec<&str> = whole[1..first].to_vec();
    change("the trail after it", joined(whole[..1].iter().chain(block).chain(&trail).copied()));
    for (what, text) in &changed {
        assert!(is_told(text.as_bytes()), "{what}:\n{text}");
    }
    let bits = flips(&text, 61);
    for bytes in &bits {
        assert!(is_told(bytes), "not found in {}", String::from_utf8_lossy(bytes));
    }
    assert!(is_told(&text.as_bytes()[..text.len() - 1]), "cut off in a line");
    let bits = bits.iter().step_by(bits.len() / 12).map(Vec::as_slice);
    let sample = changed.iter().map(|(_, text)| text.as_bytes()).chain(bits);
    for (number, bytes) in sample.enumerate() {
        let Some((code, said)) = elsewhere(&forked, &format!("changed-{number}"), bytes, &forked.key) else { return };
        assert!(code == 12 && said.contains("WRONG"), "{number}: {said}\n{}", String::from_utf8_lossy(bytes));
    }
}

/// A line of a branch that says it is of the trail.
fn unmarked(line: &str) -> String {
    let mut value: Value = serde_json::from_str(line).unwrap();
    value.as_object_mut().unwrap().remove("branch");
    format!("{value}\n")
}

#[test]
fn what_was_set_aside_is_read_anew_from_the_ledgers_bytes() {
    let forked = Forked::new();
    let verified = verdict(&forked.audit("json", &["verify"]), 12);
    let device = &verified["devices"][0];
    assert_eq!((&device["aside"], &device["problems"]), (&json!(7), &json!([])), "{verified}");
    assert_eq!(device["branches"].as_array().unwrap().len(), 3);
    let gaps = verdict(&forked.audit("json", &["gaps"]), 12);
    assert_eq!(gaps["devices"][0]["aside"][0]["received"], NOW.to_string().as_str());

    let shown = verdict(&forked.audit("json", &["show", "--aside"]), 0);
    let resources: Vec<&str> =
        shown["records"].as_array().unwrap().iter().map(|row| row["resource"].as_str().unwrap()).collect();
    assert_eq!(resources.len(), 7);
    assert!(resources.contains(&"clone/f") && resources.contains(&"astray/e") && !resources.contains(&"c"));
    let one = verdict(&forked.audit("json", &["show", "--aside", "gw-07/1/2"]), 0);
    assert_eq!((&one["records"][0]["resource"], one["records"].as_array().unwrap().len()), (&json!("clone/c"), 1));
    assert_eq!(one["records"][0]["owner"], "ops@acme", "named before it parts");
    assert_eq!(forked.audit("json", &["show", "--aside", "gw-07/1/99"]).status.code(), Some(1));
    let few = verdict(&forked.audit("json", &["show", "--aside", "--limit", "2"]), 0);
    assert_eq!((few["records"].as_array().unwrap().len(), &few["left_out"]), (2, &json!(5)));
    let human = String::from_utf8(forked.audit("human", &["show", "--aside"]).stdout).unwrap();
    assert!(human.contains("resource=clone/d") && human.contains("parts from the trail after segment 0"), "{human}");
    let other = forked.audit("json", &["export", "--aside", "--format", "ocsf"]);
    assert_eq!(other.status.code(), Some(2));
    assert_eq!(forked.audit("json", &["show"]).status.code(), Some(2));

    let raw = |sql: &str| {
        let raw = rusqlite::Connection::open(forked.ledger()).unwrap();
        raw.execute_batch(sql).unwrap();
    };
    let tampered = |sql: &str, expected: &str| {
        raw(&format!("CREATE TABLE kept AS SELECT * FROM aside; {sql}"));
        let problems = forked.problems();
        assert!(problems.iter().any(|problem| problem.contains(expected)), "{sql}: {problems:?}");
        raw("DELETE FROM aside; INSERT INTO aside SELECT * FROM kept; DROP TABLE kept;");
    };
    // A byte of what was signed: of a record, of a header. A row that is gone, or stands elsewhere.
    tampered(
        "UPDATE aside SET leaves = CAST(substr(leaves, 1, 20) || X'7A' || substr(leaves, 22) AS BLOB) WHERE segment = 1",
        "branch",
    );
    tampered(
        "UPDATE aside SET header = CAST(substr(header, 1, 60) || X'7A' || substr(header, 62) AS BLOB) WHERE segment = 1",
        "another name than its own",
    );
    tampered("UPDATE aside SET leaves = X'00' WHERE segment = 1", "7 records were set aside, and 5 of them are here");
    tampered("UPDATE aside SET leaves = X'FFFF' WHERE segment = 1", "what is stored as its records is not that");
    tampered("DELETE FROM aside WHERE segment = 1", "7 records were set aside, and 5 of them are here");
    tampered("DELETE FROM aside WHERE segment = 3", "is not whole here");
    tampered("UPDATE aside SET segment = 9 WHERE segment = 3", "another name than its own");
    tampered("UPDATE aside SET era = 7", "nothing of its trail is here");
    assert_eq!(forked.problems(), Vec::<String>::new());
}

/// Exports with branches, of the chain that the vectors of segments are; and the same with one thing wrong in each.
fn branches() -> Value {
    let chain = chain();
    let (second, leaves) = (&chain[1].0, &chain[1].1);
    let (third, last) = (&chain[2].0, &chain[7].0);
    let beside = |edit: &dyn Fn(&mut SegmentHeader)| {
        let mut header = second.clone();
        edit(&mut header);
        sign(&header, 1)
    };
    let at = |place: (u64, u64), previous: Hash| {
        beside(&move |header| {
            (header.segment, header.first_index) = place;
            header.previous = previous;
        })
    };
    let early = beside(&|header| header.closed_at = Timestamp(0));
    let mended = at((3, 24), third.head());
    let mended_next = at((4, 25), mended.claim().unwrap().head());
    let astray = at((last.next_segment(), last.next_index().unwrap()), Hash([9; 32]));
    let mut lines: Vec<Value> = Vec::new();
    let identity = SigningKey::from_bytes(&[7; 32]).verifying_key().into();
    let signers = Signers { fleet: acme(), keys: [("gw-07".parse().unwrap(), vec![identity])].into() };
    let head = serde_json::to_string(&Head::of(&signers, None)).unwrap();
    let mut verifier = verifier();
    let tell = |lines: &mut Vec<Value>, segment: &Segment, checked: &Checked, branch: Option<Hash>| {
        for mut line in lines_of(segment, "2026-03-01T10:00:05Z", checked) {
            line.extend(branch.map(|id| ("branch".to_owned(), json!(id))));
            lines.push(Value::Object(line));
        }
    };
    for (header, leaves, epoch) in &chain {
        let segment = stored(&sign(header, *epoch), leaves);
        let checked = verifier.segment(segment.clone()).unwrap();
        tell(&mut lines, &segment, &checked, None);
    }
    let trail = lines.len();
    let mut starts = Vec::new();
    for segments in [vec![&early], vec![&mended, &mended_next], vec![&astray]] {
        let mut parted = verifier.part(segments[0]).unwrap();
        let (from, after) = match parted.parting {
            Parting::Trail(after) => (Some("trail".to_owned()), after),
            Parting::Branch(other, after) => (Some(other.to_string()), Some(after)),
            Parting::Unknown => (None, None),
        };
        starts.push(lines.len());
        lines.push(json!({
            "kind": "branch", "device": "gw-07", "era": parted.era.number, "salt": format!("{:016x}", parted.era.salt),
            "branch": parted.id, "from": from, "after": after, "segment": parted.first, "first": parted.first_index,
            "segments": segments.len(),
        }));
        for header in segments {
            let segment = stored(header, leaves);
            let checked = parted.segment(segment.clone()).unwrap();
            tell(&mut lines, &segment, &checked, Some(parted.id));
        }
        verifier.join(parted);
    }
    let file = |lines: &[Value]| {
        let lines = lines.iter().map(|line| format!("{line}\n"));
        format!("{head}\n{}", lines.collect::<String>())
    };
    let one = |edit: &dyn Fn(&mut Vec<Value>)| {
        let mut edited = lines.clone();
        edit(&mut edited);
        file(&edited)
    };
    let (begins, whole) = (starts[1], file(&lines));
    let cases = [
        ("branches from the trail, beside what a damaged disk left, and after what never came", one(&|_| {})),
        (
            "a branch beside what a damaged disk left contradicts nothing",
            one(&|lines| {
                lines.drain(starts[2]..);
                lines.drain(starts[0]..starts[1]);
            }),
        ),
        ("another parent", one(&|lines| lines[begins]["after"] = 1.into())),
        ("no parent", one(&|lines| (lines[begins]["from"], lines[begins]["after"]) = (Value::Null, Value::Null))),
        ("another number", one(&|lines| lines[begins]["segment"] = 4.into())),
        ("another name", one(&|lines| lines[begins]["branch"] = json!(Hash([1; 32])))),
        ("fewer segments than it says", one(&|lines| lines[begins]["segments"] = 3.into())),
        ("without its first segment", one(&|lines| drop(lines.remove(begins + 1)))),
        ("nothing of it", one(&|lines| drop(lines.drain(begins + 1..starts[2])))),
        (
            "the trail goes on after it",
            one(&|lines| {
                let last = lines.remove(trail - 1);
                lines.push(last);
            }),
        ),
        ("of no branch that began", one(&|lines| drop(lines.remove(begins)))),
        (
            "twice",
            one(&|lines| {
                let again = lines[begins..starts[2]].to_vec();
                lines.extend(again);
            }),
        ),
        (
            "one record of it is said to be of the trail",
            one(&|lines| {
                lines[begins + 1].as_object_mut().unwrap().remove("branch");
            }),
        ),
        ("another leaf", one(&|lines| lines[begins + 1]["leaf"] = lines[0]["leaf"].clone())),
    ];
    let rows = cases.into_iter().map(|(why, text)| {
        let verdict = check(text.as_bytes(), &[]).unwrap();
        let gone = matches!(&verdict.evidence, Evidence::Export(report) if report.has_gaps());
        let code = if verdict.is_sound() { 9 * i32::from(gone) } else { 12 };
        // Most lines are those of the first file.
        let told =
            text.lines().map(|line| whole.lines().position(|kept| kept == line).map_or(json!(line), |at| json!(at)));
        let told: Vec<Value> = told.collect();
        json!({"why": why, "code": code, "signed": verdict.is_signed(), "file": told})
    });
    let rows: Vec<Value> = rows.collect();
    let told = rows.iter().map(|row| (row["code"].as_i64().unwrap(), row["signed"].as_bool().unwrap()));
    let told: Vec<(i64, bool)> = told.collect();
    assert_eq!(told[..2], [(12, true), (9, true)], "a fork, and none");
    assert!(told[2..].iter().all(|told| *told == (12, false)), "{told:?}");
    json!({"lines": whole.lines().collect::<Vec<_>>(), "cases": rows})
}

#[test]
fn the_vectors_of_branches_are_current() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/audit/branches.json");
    let text = format!("{}\n", serde_json::to_string_pretty(&branches()).unwrap());
    if std::env::var_os("HARDTACK_WRITE_VECTORS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(kept == text, "{} is not what this code writes; has the format changed?", path.display());
}
