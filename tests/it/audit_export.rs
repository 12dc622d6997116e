//! A real fleet's audit in a file: checked here and by a second implementation, and damaged in every way that a file can be.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use hardtack::cli::audit::file::{check, Evidence};
use hardtack::shell::cast::path;
use serde_json::{json, Value};

use crate::support::site::Site;
use crate::support::{cannot_run, python};

impl Site {
    /// Whose device has delivered two eras, the first of which ended with a kill.
    pub(crate) fn with_two_eras() -> Self {
        let mut site = Self::online();
        let task = site.begin();
        let token = task["token"].as_str().unwrap();
        site.decide(token);
        site.gateway.agent.take().unwrap().kill();
        site.gateway.start(&site.url, 0).unwrap();
        site.decide(token);
        site.gateway.wait_status("all delivered", |status| status["pending"] == 0).unwrap();
        site
    }

    fn decide(&mut self, token: &str) {
        for resource in ["modbus/a", "modbus/b", "files/a"] {
            self.gateway.authorize(token, "read", resource).unwrap();
        }
        self.gateway.authorize("AAAA", "read", "modbus/a").unwrap();
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn export(&self) -> String {
        self.fleet.run(&["audit", "export"]).unwrap().as_str().unwrap().to_owned()
    }

    pub(crate) fn key(&self) -> String {
        let shown = self.fleet.run(&["device", "show", "gw-07"]).unwrap();
        shown["identity_keys"][0].as_str().unwrap().to_owned()
    }

    /// An allow of the device by the record that names its credential, and one that names it itself.
    pub(crate) fn decisions(&self, export: &str) -> (String, String) {
        let records = || export.lines().skip(1).map(|line| serde_json::from_str::<Value>(line).unwrap());
        let id = |record: Value| record["id"].as_str().unwrap().to_owned();
        let refers = records().find(|record| record["named_by"].is_u64()).unwrap();
        let names = format!("{}/{}/{}", "gw-07", refers["era"], refers["named_by"]);
        assert!(records().any(|record| record["id"] == names.as_str() && record["owner"].is_string()));
        (id(refers), names)
    }
}

pub(crate) fn verify(file: &Path, more: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hardtack"));
    command.args(["-o", "json", "audit", "verify", path(file)]).args(more);
    command.env_clear().env("HOME", "/nonexistent").stdin(Stdio::null()).output().unwrap()
}

#[track_caller]
pub(crate) fn verdict(output: &Output, exit: i32) -> Value {
    assert_eq!(output.status.code(), Some(exit), "{output:?}");
    serde_json::from_slice(if output.stdout.is_empty() { &output.stderr } else { &output.stdout }).unwrap()
}

/// The other implementation's number for each of these files; none where there is no Python.
pub(crate) fn peer(task: &str, key: Option<&str>, files: &[PathBuf]) -> Option<BTreeMap<PathBuf, i32>> {
    let python = python();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/interop/verify_audit.py");
    let mut command = Command::new(python);
    command.args([script, task]).args(key.iter().flat_map(|key| ["--key", key])).args(files);
    let Ok(output) = command.output() else {
        cannot_run("there is no Python here");
        return None;
    };
    let said = String::from_utf8_lossy(&output.stdout);
    let lines = said.lines().filter(|line| !line.starts_with(' ')).filter_map(|line| line.rsplit_once(": "));
    let codes: BTreeMap<PathBuf, i32> =
        lines.map(|(file, code)| (PathBuf::from(file), code.parse().unwrap())).collect();
    let worst = codes.values().max().copied();
    assert_eq!((codes.len(), output.status.code()), (files.len(), worst), "{said}{output:?}");
    Some(codes)
}

/// Whether the change of a file is found.
pub(crate) fn is_found(text: &[u8]) -> bool {
    check(text, &[]).map_or(true, |verdict| {
        let gone = matches!(&verdict.evidence, Evidence::Export(report) if report.has_gaps());
        !verdict.is_sound() || gone
    })
}

/// Copies of a text, each with another bit changed, but for those in values that nobody signed.
pub(crate) fn flips(text: &str, step: usize) -> Vec<Vec<u8>> {
    let unsigned: Vec<std::ops::Range<usize>> = text
        .match_indices("\"received\":\"")
        .map(|(at, name)| at + name.len()..at + name.len() + "2026-03-01T10:00:00Z".len())
        .collect();
    let bits = (0..text.len() * 8).step_by(step).filter(|bit| !unsigned.iter().any(|range| range.contains(&(bit / 8))));
    let flip = |bit: usize| {
        let mut bytes = text.as_bytes().to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        bytes
    };
    bits.map(flip).collect()
}

/// Writes each damaged copy and asks the other implementation, which finds what is wrong with each.
pub(crate) fn found_elsewhere(rig: &Site, task: &str, damaged: &[Vec<u8>]) {
    let files: Vec<PathBuf> = (0..damaged.len()).map(|number| rig.file(&format!("{task}-damaged-{number}"))).collect();
    files.iter().zip(damaged).for_each(|(file, bytes)| std::fs::write(file, bytes).unwrap());
    for (file, code) in peer(task, None, &files).into_iter().flatten() {
        let text = || String::from_utf8_lossy(&std::fs::read(&file).unwrap()).into_owned();
        assert!(code == 12 || code == 9, "{task}: not found in {}", text());
    }
}

#[test]
fn an_export_is_checked_by_two_programs_and_every_damage_is_found() {
    let rig = Site::with_two_eras();
    let export = rig.export();
    let file = rig.file("export");
    std::fs::write(&file, &export).unwrap();
    let key = rig.key();
    let sound = verdict(&verify(&file, &[]), 0);
    let device = &sound["devices"][0];
    assert_eq!((&sound["kind"], &sound["ok"], &device["id"]), (&"export".into(), &true.into(), &"gw-07".into()));
    assert_eq!(device["records"], export.lines().count() - 1);
    let told = |verdict: &Value| verdict["not_proved"].to_string().contains("the file's own");
    assert!(told(&sound));
    assert!(!told(&verdict(&verify(&file, &["--key", &key]), 0)));
    verdict(&verify(&file, &["--key", &format!("gw-07={key}")]), 0);
    verdict(&verify(&file, &["--key", &format!("gw-08={key}")]), 12);
    let stranger = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
    verdict(&verify(&file, &["--key", stranger]), 12);
    assert_eq!(verify(&file, &["--key", "ab"]).status.code(), Some(2));
    verdict(&verify(&rig.file("nowhere"), &[]), 2);
    std::fs::write(rig.file("junk"), "{}\n").unwrap();
    assert!(verdict(&verify(&rig.file("junk"), &[]), 12)["error"].as_str().unwrap().contains("no evidence"));
    for (trusted, code) in [(None, 0), (Some(key.as_str()), 0), (Some(stranger), 12)] {
        let codes = peer("export", trusted, std::slice::from_ref(&file));
        assert!(codes.is_none_or(|codes| codes[&file] == code), "{trusted:?}");
    }

    let mut damaged = moved(&export);
    let bits = flips(&export, 101);
    for bytes in damaged.iter().chain(&bits) {
        assert!(is_found(bytes), "not found in {}", String::from_utf8_lossy(bytes));
    }
    damaged.extend(bits.into_iter().step_by(20));
    found_elsewhere(&rig, "export", &damaged);
}

/// The export with a line dropped, with one twice, with two exchanged, and cut off.
fn moved(export: &str) -> Vec<Vec<u8>> {
    let lines: Vec<&str> = export.lines().collect();
    let header = |line: &str| serde_json::from_str::<Value>(line).unwrap()["header"].clone();
    let alone = lines.iter().filter(|line| header(line) == header(lines[lines.len() - 1])).count() == 1;
    let text = |lines: &[&str]| lines.iter().flat_map(|line| [line.as_bytes(), b"\n"]).flatten().copied().collect();
    let mut moved: Vec<Vec<u8>> = Vec::new();
    for at in 0..lines.len() {
        let mut dropped = lines.clone();
        dropped.remove(at);
        // Nothing follows the last segment: nothing can miss it.
        if at + 1 < lines.len() || !alone {
            moved.push(text(&dropped));
        }
        let mut twice = lines.clone();
        twice.insert(at, lines[at]);
        moved.push(text(&twice));
        for other in [at + 1, at + 5].into_iter().filter(|other| *other < lines.len()) {
            let mut swapped = lines.clone();
            swapped.swap(at, other);
            moved.push(text(&swapped));
        }
    }
    moved.push(export.as_bytes()[..export.len() - 1].to_vec());
    moved
}

#[test]
fn one_record_is_proved_to_two_programs_without_the_rest() {
    let rig = Site::with_two_eras();
    let export = rig.export();
    let (refers, names) = rig.decisions(&export);
    let (key, file) = (rig.key(), rig.file("proof"));
    for (id, records) in [(&refers, 2), (&names, 1), (&"gw-07/1/0".to_owned(), 1)] {
        rig.fleet.run(&["audit", "prove", id, "--out", path(&file)]).unwrap();
        let text = std::fs::read_to_string(&file).unwrap();
        assert_eq!(rig.fleet.run(&["audit", "prove", id]).unwrap(), serde_json::from_str::<Value>(&text).unwrap());
        let proof: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(proof["records"].as_array().unwrap().len(), records, "{id}");
        let sound = verdict(&verify(&file, &["--key", &key]), 0);
        assert_eq!((&sound["kind"], &sound["record"]["id"]), (&"proof".into(), &id.as_str().into()));
        let codes = peer("prove", Some(&key), std::slice::from_ref(&file));
        assert!(codes.is_none_or(|codes| codes[&file] == 0));
        let line =
            export.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).find(|line| line["id"] == **id);
        for (name, value) in proof["records"][0]["record"].as_object().unwrap() {
            assert_eq!(line.as_ref().unwrap()[name], *value, "{id}: {name}");
        }
    }
    rig.fleet.run(&["audit", "prove", &refers, "--out", path(&file)]).unwrap();
    let text = std::fs::read_to_string(&file).unwrap();
    let bits = flips(&text, 13);
    for bytes in &bits {
        assert!(is_found(bytes), "not found in {}", String::from_utf8_lossy(bytes));
    }
    let mut sample: Vec<Vec<u8>> = bits.into_iter().step_by(30).collect();
    let whole: Value = serde_json::from_str(&text).unwrap();
    let one = &whole["records"][0];
    let hostile = [
        ("records", json!([])),
        ("records", json!({"0": one})),
        ("records", json!([[]])),
        (
            "records",
            json!([{"record": {}, "header": one["header"], "place": -1, "count": one["count"], "leaves": [], "path": []}]),
        ),
        ("fleet", json!(["a"])),
        ("device", json!(1)),
        ("keys", json!({"0": one})),
        ("certificates", json!(1)),
        ("announced", json!([1])),
    ];
    for (name, value) in hostile {
        let mut edited = whole.clone();
        edited[name] = value;
        let bytes = format!("{edited}\n").into_bytes();
        assert!(is_found(&bytes), "not found in {edited}");
        sample.push(bytes);
    }
    sample.push(text.replacen("\"fleet\":\"acme\"", "\"fleet\":\"\\ud800\"", 1).into_bytes());
    assert!(is_found(&sample[sample.len() - 1]), "half of a surrogate pair");
    found_elsewhere(&rig, "prove", &sample);

    let mut alone: Value = serde_json::from_str(&text).unwrap();
    alone["records"].as_array_mut().unwrap().pop();
    assert!(is_found(format!("{alone}\n").as_bytes()), "who is accountable does not come with it");
    let strange = rig.fleet.run(&["audit", "prove", "gw-07/1/999"]).unwrap_err();
    assert!(strange.to_string().contains("has no record gw-07/1/999"), "{strange}");
    for id in ["gw-07/1", "gw-07/x/1", "g w/1/1"] {
        assert!(rig.fleet.run(&["audit", "prove", id]).unwrap_err().to_string().contains("invalid value"), "{id}");
    }
}
