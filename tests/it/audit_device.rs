//! A real device's own audit tools: what it holds is read through the agent and without it, checked by two programs, and
//! read from what is left of a damaged store.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use hardtack::shell::cast::{path, Fleet, Gateway, Stage};
use serde_json::{json, Value};

use crate::audit_export::peer;

/// A device that never reaches its fleet, with more records than one segment has.
struct Rig {
    folder: tempfile::TempDir,
    gateway: Gateway,
    key: String,
}

const NOWHERE: &str = "mqtt://127.0.0.1:1";

impl Rig {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let stage = Stage::new(env!("CARGO_BIN_EXE_hardtack").into());
        let fleet = Fleet::init(&stage, folder.path().join("fleet"), "acme").unwrap();
        let mut gateway = Gateway::new(&stage, "gw-07", folder.path());
        fleet.enrol(&gateway, folder.path()).unwrap();
        let shown = fleet.run(&["device", "show", "gw-07"]).unwrap();
        let key = shown["identity_keys"][0].as_str().unwrap().to_owned();
        gateway.start(NOWHERE, 0).unwrap();
        let mut rig = Self { folder, gateway, key };
        // Denials that differ: equal ones would be counted in one record.
        for number in 0..150 {
            rig.gateway.authorize("AAAA", "read", &format!("modbus/{number}")).unwrap();
        }
        rig
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn audit(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    fn command(&self, args: &[&str]) -> Command {
        let (state, run) = (&self.gateway.state, self.folder.path().join("run-gw-07"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_hardtack"));
        command.args(["-o", "json", "--state-dir", path(state), "--run-dir", path(&run), "audit"]).args(args);
        command.env_clear().env("HOME", "/nonexistent").stdin(Stdio::null());
        command
    }

    fn stop(&mut self) {
        self.gateway.agent.take().unwrap().kill();
    }
}

#[track_caller]
fn lines(output: &Output, exit: i32) -> Vec<Value> {
    assert_eq!(output.status.code(), Some(exit), "{output:?}");
    String::from_utf8_lossy(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Every file of a folder with its content.
fn tree(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            files.extend(tree(&entry));
        } else {
            files.insert(entry.clone(), std::fs::read(&entry).unwrap());
        }
    }
    files
}

/// The file of the largest era.
fn db(state: &Path) -> PathBuf {
    let eras = std::fs::read_dir(state.join("eras")).unwrap().map(|entry| entry.unwrap().path().join("db"));
    eras.filter(|db| db.exists()).max_by_key(|db| db.metadata().unwrap().len()).unwrap()
}

#[test]
fn a_device_shows_and_exports_what_it_holds_whether_its_agent_runs_or_not() {
    let mut rig = Rig::start();
    for runs in [true, false] {
        if !runs {
            rig.stop();
        }
        let newest = lines(&rig.audit(&["tail", "-n", "100"]), 0);
        assert_eq!(newest.len(), 100, "the agent runs: {runs}");
        let index = |line: &Value| line["index"].as_u64().unwrap();
        assert!(newest.windows(2).all(|pair| index(&pair[0]) + 1 == index(&pair[1])), "{newest:?}");
        assert!(newest.iter().any(|line| line["decision_id"].is_string() && line["state"] == "pending"));
        let started = lines(&rig.audit(&["tail", "--kind", "start"]), 0);
        assert_eq!((started.len(), &started[0]["index"]), (1, &json!(0)));

        let file = rig.file("export");
        let wrote = lines(&rig.audit(&["export", "--out", path(&file)]), 0);
        let text = std::fs::read_to_string(&file).unwrap();
        assert_eq!(
            text.lines().count() as u64 - 1,
            wrote[0]["signed"].as_u64().unwrap() + wrote[0]["unsigned"].as_u64().unwrap()
        );
        assert!(wrote[0]["signed"].as_u64().unwrap() >= 128, "{wrote:?}");
        let verdict = lines(&rig.audit(&["verify", path(&file), "--key", &rig.key]), 0);
        assert_eq!(verdict[0]["devices"][0]["records"], wrote[0]["signed"]);
        assert_eq!(verdict[0]["devices"][0]["unsigned"], wrote[0]["unsigned"]);
        assert!(verdict[0]["not_proved"].to_string().contains("no signature covers yet"), "{verdict:?}");
        let here = lines(&rig.audit(&["verify"]), 0);
        assert_eq!((&here[0]["ok"], &here[0]["eras"][0]["acknowledged"]), (&json!(true), &json!(0)));
        let codes = peer("export", Some(&rig.key), std::slice::from_ref(&file));
        assert!(codes.is_none_or(|codes| codes[&file] == 0), "the other program");

        let changed = text.replacen("\"segment\":1", "\"segment\":2", 1);
        std::fs::write(&file, changed).unwrap();
        lines(&rig.audit(&["verify", path(&file)]), 12);
        let salvage = rig.audit(&["salvage"]);
        assert_eq!(salvage.status.code(), Some(if runs { 75 } else { 0 }), "{salvage:?}");
    }
    assert_eq!(rig.audit(&["tail", "--follow"]).status.code(), Some(7), "nothing is written any more");
    assert_eq!(rig.audit(&["tail", "--kind", "nonsense"]).status.code(), Some(2));
}

/// What a program prints, line by line as it comes. It ends with its owner.
struct Following {
    child: std::process::Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Following {
    fn next(&mut self) -> Option<Value> {
        self.lines.next().map(|line| serde_json::from_str(&line.unwrap()).unwrap())
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn whoever_follows_the_trail_sees_each_record_once_as_it_is_written() {
    let mut rig = Rig::start();
    let mut child = rig.command(&["tail", "--follow", "-n", "3", "--kind", "decision"]);
    let mut child = child.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut following = Following { child, lines };
    // What was there already: the newest three.
    let mut seen: Vec<String> = Vec::new();
    let id = |line: &Value| line["decision_id"].as_str().unwrap().to_owned();
    seen.extend((0..3).map(|_| id(&following.next().unwrap())));
    assert_eq!(seen, rig.gateway.decisions[147..].iter().map(id).collect::<Vec<_>>());
    // More than a segment has, so that some of them are signed before they are seen, and one by one.
    for number in 0..100 {
        rig.gateway.authorize("AAAA", "read", &format!("modbus/later/{number}")).unwrap();
    }
    seen.extend((0..100).map(|_| id(&following.next().unwrap())));
    for number in 0..3 {
        rig.gateway.authorize("AAAA", "read", &format!("modbus/last/{number}")).unwrap();
        let line = following.next().unwrap();
        assert_eq!(line["resource"], format!("modbus/last/{number}"), "{line}");
        seen.push(id(&line));
    }
    let answered: Vec<String> = rig.gateway.decisions[147..].iter().map(id).collect();
    assert_eq!(seen, answered, "each once, in order");
    rig.stop();
    assert_eq!(following.next(), None, "nothing is written any more");
    assert_eq!(following.child.wait().unwrap().code(), Some(7));
}

#[test]
fn what_is_left_of_a_damaged_store_is_told_and_saved_and_the_store_stays_as_it_is() {
    let mut rig = Rig::start();
    rig.stop();
    let (state, file) = (rig.gateway.state.clone(), rig.file("rest"));
    let (db, whole) = (db(&state), std::fs::read(db(&state)).unwrap());
    // Rows lie in frames, some in several copies: each with its checksum behind magic and length.
    let frames = whole.windows(16).enumerate().filter(|(_, bytes)| bytes[..4] == *b"\xff\xfeht");
    let frames: Vec<(usize, &[u8])> = frames.map(|(at, bytes)| (at, &bytes[8..])).collect();
    // In the order in which they came, but for the first segment's header, which has the certificate: nothing is signed without.
    let certified = data_encoding::HEXLOWER_PERMISSIVE.decode(rig.key.as_bytes()).unwrap();
    let ends = frames.iter().skip(1).map(|(at, _)| *at).chain([whole.len()]);
    let is_header = |at: usize, end: usize| whole[at..end].windows(certified.len()).any(|bytes| bytes == certified);
    let (headers, others): (Vec<_>, Vec<_>) = frames.iter().zip(ends).partition(|((at, _), end)| is_header(*at, *end));
    assert!(!headers.is_empty());
    let mut rows: Vec<&[u8]> = Vec::new();
    for ((_, sum), _) in others {
        if !rows.contains(sum) {
            rows.push(sum);
        }
    }
    for count in [1, 5, 40] {
        let mut damaged = whole.clone();
        let hit: BTreeSet<&[u8]> = rows.iter().copied().skip(10).take(count).collect();
        for (at, _) in frames.iter().filter(|(_, sum)| hit.contains(sum)) {
            damaged[at + 24] ^= 1;
        }
        std::fs::write(&db, &damaged).unwrap();
        let before = tree(&state);
        let told = lines(&rig.audit(&["salvage", "--dry-run", "--out", path(&file)]), 9);
        assert!(!file.exists() && told[0]["lost"] == true, "{told:?}");
        let wrote = lines(&rig.audit(&["salvage", "--out", path(&file)]), 9);
        assert!(wrote[0]["signed"].as_u64().unwrap() > 0, "{wrote:?}");
        assert_eq!(tree(&state), before, "it only looks");
        let verdict = lines(&rig.audit(&["verify", path(&file), "--key", &rig.key]), 9);
        let device = &verdict[0]["devices"][0];
        assert!(device["missing"].as_u64().unwrap() > 0 && verdict[0]["ok"] == true, "{verdict:?}");
        let codes = peer("export", Some(&rig.key), std::slice::from_ref(&file));
        assert!(codes.is_none_or(|codes| codes[&file] == 9), "the other program");
        std::fs::remove_file(&file).unwrap();
    }
    // Nothing is left that says whose it was.
    std::fs::write(&db, &whole).unwrap();
    std::fs::remove_file(state.join("device.key")).unwrap();
    std::fs::write(state.join("bundle"), "junk").unwrap();
    std::fs::remove_file(state.join("anchor.0")).unwrap();
    assert_eq!(rig.audit(&["salvage", "--out", path(&file)]).status.code(), Some(2));
    let named = ["salvage", "--out", path(&file), "--fleet", "acme", "--device", "gw-07"];
    lines(&rig.audit(&named), 0);
    lines(&rig.audit(&["verify", path(&file), "--key", &rig.key]), 0);
    assert_eq!(rig.audit(&["export"]).status.code(), Some(6));

    // Whatever lies in a folder, it is told and not stumbled over.
    let odd = rig.file("odd");
    for (name, content) in [
        ("eras/00000000000000000001/db", &whole[..whole.len() / 2]),
        ("eras/00000000000000000002/db", &b"\xff\xfeht\xff\xff\xff\xff"[..]),
        ("eras/99999999999999999999/db", &whole[..]),
        ("eras/nonsense/db", &b"x"[..]),
        ("quarantine/00000000000000000001.7/db", &whole[..]),
        ("anchor.0", &b"htanchr1"[..]),
        ("lock", &b"1"[..]),
    ] {
        let at = odd.join(name);
        std::fs::create_dir_all(at.parent().unwrap()).unwrap();
        std::fs::write(at, content).unwrap();
    }
    std::os::unix::fs::symlink(&odd, odd.join("eras/00000000000000000009")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_hardtack"));
    command.args(["-o", "json", "--state-dir", path(&odd), "audit"]).args(named);
    let output = command.output().unwrap();
    lines(&output, 0);
    lines(&rig.audit(&["verify", path(&file), "--key", &rig.key]), 0);
    assert_eq!(rig.audit(&["salvage", "--state-dir", path(&rig.file("nowhere"))]).status.code(), Some(1));
}
