//! A gateway whose audit has little room, away from its fleet, under a flood of requests that are each denied and each new.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};

use hardtack::shell::cast::{path, Fleet, Gateway, Stage};
use serde_json::{json, Value};

use crate::support::mosquitto::Mosquitto;
use crate::support::{cannot_run, python};

const MIB: u64 = 1024 * 1024;
const QUOTA_MIB: u64 = 16;
/// Nobody listens there.
const NOWHERE: &str = "mqtt://127.0.0.1:1";

/// `generic-x86_64` on a small disk.
fn profile(folder: &Path) -> String {
    let quota = format!("quota_mib = {QUOTA_MIB}");
    let changes = [("decisions_per_day = 86400", "decisions_per_day = 2000"), ("quota_mib = 1024", &quota)];
    changed_profile(folder, &[&changes[..], &[("era_records_max = 100000", "era_records_max = 2500")]].concat())
}

fn changed_profile(folder: &Path, changes: &[(&str, &str)]) -> String {
    let mut text = include_str!("../../firmware-profiles/generic-x86_64.toml").to_owned();
    let always = [("name = \"generic-x86_64\"", "name = \"small\""), ("offline_h = 72", "offline_h = 24")];
    for (old, new) in always.iter().chain(changes) {
        assert!(text.contains(old), "{old}");
        text = text.replacen(old, new, 1);
    }
    let file = folder.join("small.toml");
    std::fs::write(&file, text).unwrap();
    file.to_str().unwrap().to_owned()
}

fn task() -> Value {
    json!({"task": "pump", "rights": [{"resource": "modbus/*", "action": "read"}], "ttl_s": 900})
}

fn hardtack(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_hardtack")).args(args).output().unwrap()
}

/// The range of records that a line of an export says were given up.
fn given_up(line: &Value) -> Option<(u64, u64, u64)> {
    let quota = line["kind"] == "gap" && line["cause"] == "quota";
    let number = |value: &Value| value.as_u64();
    quota.then(|| Some((number(&line["gap_era"]["number"])?, number(&line["first"])?, number(&line["end"])?))).flatten()
}

#[test]
fn under_a_flood_allows_go_on_old_denials_give_way_and_all_is_collected_or_counted() {
    let broker = Mosquitto::open();
    let folder = tempfile::tempdir().unwrap();
    let stage = Stage::new(Path::new(env!("CARGO_BIN_EXE_hardtack")).into());
    let fleet = Fleet::init(&stage, folder.path().join("fleet"), "acme").unwrap();
    let mut gateway = Gateway::new(&stage, "gw-07", folder.path());
    gateway.settings = vec![("HARDTACK_PROFILE", profile(folder.path()))];
    fleet.enrol(&gateway, folder.path()).unwrap();
    let url = format!("mqtt://{}", broker.addr());
    let serve = fleet.serve(&url).unwrap();
    gateway.start(&url, 0).unwrap();
    let granted = |status: &Value| status["grants"].as_array().is_some_and(|grants| !grants.is_empty());
    gateway.wait_status("a grant", granted).unwrap();
    gateway.agent.take().unwrap().kill();
    drop(serve);
    gateway.start(NOWHERE, 0).unwrap();
    let begun = gateway.post("/v1/tasks", &task()).unwrap();
    let token = begun["token"].as_str().unwrap_or_else(|| panic!("no task: {begun}")).to_owned();

    // Denials, each another, and an allow after each twenty, until the oldest have given way.
    let mut asked = 0;
    let sheds = |gateway: &mut Gateway| {
        let events = gateway.agent.as_mut().unwrap().events();
        events.iter().filter(|event| *event == "audit.shed").count()
    };
    while sheds(&mut gateway) < 1 {
        for _ in 0..100 {
            asked += 1;
            let denied = gateway.authorize("nonsense", "read", &format!("modbus/unheard-of/{asked}")).unwrap();
            assert_eq!(denied["reason"], "malformed", "{denied}");
            if asked % 20 == 0 {
                let allowed = gateway.authorize(&token, "read", "modbus/pump1/pressure").unwrap();
                assert_eq!(allowed["reason"], "allowed", "{allowed}");
            }
        }
        assert!(asked < 60_000, "nothing gave way");
    }
    let audit = gateway.get("/v1/status").unwrap()["audit"].clone();
    assert_eq!(audit["fits"], json!(["critical", "allow", "denial", "notice"]), "{audit}");
    let used = |audit: &Value| audit["used_bytes"].as_u64().unwrap();
    assert!(used(&audit) < QUOTA_MIB * MIB, "{audit}");
    assert_eq!(audit["quota_bytes"], QUOTA_MIB * MIB);

    let full = used(&audit);

    // In touch again, after a restart.
    gateway.agent.take().unwrap().kill();
    let serve = fleet.serve(&url).unwrap();
    gateway.start(&url, 0).unwrap();
    // On a busy machine that takes a while: it is waited for as long as it goes on.
    let mut pending = u64::MAX;
    while pending > 0 {
        let fewer = |status: &Value| status["pending"].as_u64().is_some_and(|now| now < pending);
        let status = gateway.wait_status("a shorter queue", fewer).unwrap();
        pending = status["pending"].as_u64().unwrap();
    }
    drop(serve);
    let dir = fleet.dir.to_str().unwrap();
    let verified = hardtack(&["-o", "json", "fleet", "audit", "verify", "--dir", dir]);
    assert_eq!(verified.status.code(), Some(9), "something is gone, and counted: {verified:?}");
    let verified: Value = serde_json::from_slice(&verified.stdout).unwrap();
    let chain = &verified["devices"][0];
    assert_eq!(
        (&verified["ok"], &chain["missing"], &chain["forks"]),
        (&json!(true), &json!(0), &json!(0)),
        "{verified}"
    );
    assert!(chain["shed"].as_u64() > Some(0) && chain["lost"].as_u64() > Some(500), "{verified}");

    let export = hardtack(&["fleet", "audit", "export", "--dir", dir]);
    assert_eq!(export.status.code(), Some(0), "{}", String::from_utf8_lossy(&export.stderr));
    let lines = export.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let lines: Vec<Value> = lines.map(|line| serde_json::from_slice(line).unwrap()).collect();
    let gaps: Vec<(u64, u64, u64)> = lines.iter().filter_map(given_up).collect();
    assert!(!gaps.is_empty());
    let mut collected = BTreeMap::<&str, usize>::new();
    for id in lines.iter().filter_map(|line| line["decision_id"].as_str()) {
        *collected.entry(id).or_default() += 1;
    }
    for seen in &gateway.decisions {
        let id = seen["decision_id"].as_str().unwrap();
        let (era, index) = (seen["audit"]["era"].as_u64().unwrap(), seen["audit"]["index"].as_u64().unwrap());
        let counted = gaps.iter().any(|(of, first, end)| *of == era && (*first..*end).contains(&index));
        match collected.get(id) {
            Some(1) => {}
            None => assert!(counted && seen["decision"] == "deny", "{id} is neither collected nor counted"),
            Some(times) => panic!("{id} is collected {times} times"),
        }
    }
    let file = folder.path().join("export.jsonl");
    std::fs::write(&file, &export.stdout).unwrap();
    let verified = hardtack(&["audit", "verify", file.to_str().unwrap()]);
    assert_eq!(verified.status.code(), Some(9), "{verified:?}");
    let python = python();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/interop/verify_audit.py");
    match Command::new(python).args([script, "export"]).arg(&file).output() {
        Ok(verified) => assert_eq!(verified.status.code(), Some(9), "{verified:?}"),
        Err(_) => cannot_run("there is no Python here"),
    }

    let room =
        |status: &Value| used(&status["audit"]) < full / 2 && status["audit"]["fits"].as_array().unwrap().len() == 4;
    gateway.wait_status("its space back", room).unwrap();
}

/// A gateway away from its fleet. Where nothing that matters most has room, it locks; it allows until no allow has room,
/// then it says so, and goes on denying.
#[test]
fn a_full_class_is_told_with_the_exit_code_for_it() {
    const TINY_QUOTA_MIB: u64 = 5;
    let broker = Mosquitto::open();
    let folder = tempfile::tempdir().unwrap();
    let stage = Stage::new(Path::new(env!("CARGO_BIN_EXE_hardtack")).into());
    let fleet = Fleet::init(&stage, folder.path().join("fleet"), "acme").unwrap();
    let mut gateway = Gateway::new(&stage, "gw-07", folder.path());
    let quota = format!("quota_mib = {TINY_QUOTA_MIB}");
    let tiny = [
        ("decisions_per_day = 86400", "decisions_per_day = 100"),
        ("quota_mib = 1024", &quota),
        ("era_records_max = 100000", "era_records_max = 1000"),
        // As little as may be is left to allows.
        ("allow = 50 ", "allow = 5 "),
        ("denial = 15 ", "denial = 50 "),
    ];
    gateway.settings = vec![("HARDTACK_PROFILE", changed_profile(folder.path(), &tiny))];
    fleet.enrol(&gateway, folder.path()).unwrap();
    let url = format!("mqtt://{}", broker.addr());
    let serve = fleet.serve(&url).unwrap();
    gateway.start(&url, 0).unwrap();
    let granted = |status: &Value| status["grants"].as_array().is_some_and(|grants| !grants.is_empty());
    gateway.wait_status("a grant", granted).unwrap();
    gateway.agent.take().unwrap().kill();
    drop(serve);

    // What the command line says of it: its exit code, and the answer.
    let (state, run) = (gateway.state.clone(), folder.path().join("run-gw-07"));
    let asked = |token: &str| {
        let file = folder.path().join("token");
        std::fs::write(&file, token).unwrap();
        let on = ["-o", "json", "--state-dir", path(&state), "--run-dir", path(&run)];
        let what = ["authorize", "--token", path(&file), "--operation", "read", "--resource", "modbus/pump1/pressure"];
        let answered = hardtack(&[&on[..], &what[..]].concat());
        let told = [answered.stdout, answered.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        (answered.status.code(), told.concat())
    };

    // What somebody put beside the audit takes its room. All that is held so far is critical: nothing of that fits.
    let beside = state.join("quarantine/beside");
    std::fs::write(&beside, vec![1; (TINY_QUOTA_MIB * MIB) as usize]).unwrap();
    gateway.start(NOWHERE, 0).unwrap();
    let (code, told) = asked("nonsense");
    assert!(code == Some(9) && told.contains("audit_unavailable"), "{code:?} {told}");
    let status = gateway.get("/v1/status").unwrap();
    assert_eq!(status["mode"], "locked", "{status}");
    assert!(status["reasons"].to_string().contains("no room for the most important records"), "{status}");
    gateway.agent.take().unwrap().kill();
    std::fs::remove_file(&beside).unwrap();

    gateway.start(NOWHERE, 0).unwrap();
    let token = gateway.post("/v1/tasks", &task()).unwrap()["token"].as_str().unwrap().to_owned();
    assert_eq!(asked(&token).0, Some(0), "there is room");
    let mut allowed = 0;
    // A denial has its own weight: at the very edge another allow may fit after it.
    let is_told = (0..100).any(|_| {
        let full = loop {
            let decision = gateway.authorize(&token, "read", "modbus/pump1/pressure").unwrap();
            if decision["reason"] != "allowed" {
                break decision;
            }
            allowed += 1;
            assert!(allowed < 60_000, "it never fills");
        };
        assert_eq!((&full["decision"], &full["reason"]), (&json!("deny"), &json!("audit_full")), "{full}");
        let (code, told) = asked(&token);
        let fits = gateway.get("/v1/status").unwrap()["audit"]["fits"].clone();
        let ready = gateway.client().get("/readyz").unwrap().status;
        let full = fits == json!(["critical", "denial", "notice"]) && ready == 503;
        full && code == Some(9) && told.contains("audit_full")
    });
    assert!(is_told, "after {allowed}: {}", gateway.get("/v1/status").unwrap());
    assert_eq!(asked("nonsense").0, Some(12), "denials have room of their own");
    let held = hardtack(&["-o", "json", "--state-dir", path(&state), "--run-dir", path(&run), "audit", "verify"]);
    let held: Value = serde_json::from_slice(&held.stdout).unwrap();
    assert_eq!(held["ok"], true, "{held}");
    let count = |name: &str| held["devices"][0][name].as_u64().unwrap();
    assert!(count("decisions") + count("unsigned") >= allowed, "none of {allowed} is dropped: {held}");
}
