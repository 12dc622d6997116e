//! A gateway whose audit has little room, away from its fleet, under a flood of requests that are each denied and each new.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};

use hardtack::shell::cast::{Fleet, Gateway, Stage};
use serde_json::{json, Value};

use crate::support::cannot_run;
use crate::support::mosquitto::Mosquitto;

const MIB: u64 = 1024 * 1024;
const QUOTA_MIB: u64 = 16;
/// Nobody listens there.
const NOWHERE: &str = "mqtt://127.0.0.1:1";

/// `generic-x86_64` on a small disk.
fn profile(folder: &Path) -> String {
    let mut text = include_str!("../../firmware-profiles/generic-x86_64.toml").to_owned();
    let changes = [
        ("name = \"generic-x86_64\"", "name = \"small\"".to_owned()),
        ("decisions_per_day = 86400", "decisions_per_day = 2000".to_owned()),
        ("offline_h = 72", "offline_h = 24".to_owned()),
        ("quota_mib = 1024", format!("quota_mib = {QUOTA_MIB}")),
        ("era_records_max = 100000", "era_records_max = 2500".to_owned()),
    ];
    for (old, new) in changes {
        assert!(text.contains(old), "{old}");
        text = text.replacen(old, &new, 1);
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
    let python = std::env::var("HARDTACK_PYTHON").unwrap_or_else(|_| "python3".into());
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/interop/verify_audit.py");
    match Command::new(python).args([script, "export"]).arg(&file).output() {
        Ok(verified) => assert_eq!(verified.status.code(), Some(9), "{verified:?}"),
        Err(_) => cannot_run("there is no Python here"),
    }

    let room =
        |status: &Value| used(&status["audit"]) < full / 2 && status["audit"]["fits"].as_array().unwrap().len() == 4;
    gateway.wait_status("its space back", room).unwrap();
}
