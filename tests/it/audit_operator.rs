//! The audit as its operator asks about it: one record whole, what is missing, and the proof that a device was cloned.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use hardtack::shell::cast::{path, Gateway};
use serde_json::{json, Value};

use crate::audit_export::{flips, found_elsewhere, is_found, peer, verdict, verify};
use crate::audit_forms::read_elsewhere;
use crate::support::site::Site;

/// `hardtack fleet audit …`, whatever it exits with.
fn audit(rig: &Site, form: &str, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hardtack"));
    command.args(["-o", form, "fleet", "--dir", path(&rig.fleet.dir), "audit"]).args(args);
    command.env_clear().env("HOME", "/nonexistent").stdin(Stdio::null()).output().unwrap()
}

fn text(rig: &Site, args: &[&str]) -> String {
    let output = audit(rig, "human", args);
    assert!(output.status.success(), "{args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// What a person is told of a file.
fn text_of(file: &Path) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hardtack"));
    let output = command.args(["-o", "human", "audit", "verify", path(file)]).env_clear().output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn one_record_is_shown_whole_and_lists_can_be_narrowed() {
    let rig = Site::with_two_eras();
    let export = rig.export();
    let lines: Vec<Value> = export.lines().skip(1).map(|line| serde_json::from_str(line).unwrap()).collect();
    let (refers, names) = rig.decisions(&export);
    let gaps = rig.fleet.run(&["audit", "gaps"]).unwrap();
    let odd = gaps["devices"][0]["marked"].as_array().unwrap();
    let announced = Value::from("announced");
    for id in [&refers, &names, &"gw-07/1/0".to_owned()] {
        let shown = verdict(&audit(&rig, "json", &["show", id]), 0);
        let line = lines.iter().find(|line| line["id"] == **id).unwrap();
        for (name, value) in shown["record"].as_object().unwrap() {
            assert_eq!(line[name], *value, "{id}: {name}");
        }
        assert_eq!((&shown["received"], &shown["segment"]["number"]), (&line["received"], &line["segment"]));
        let place = |marked: &&Value| (&marked["era"], &marked["segment"]) == (&line["era"], &line["segment"]);
        let marked = odd.iter().find(place).map_or(&announced, |marked| &marked["mark"]);
        assert_eq!(shown["segment"]["mark"], *marked, "{id}");
        assert_eq!(shown["segment"]["signer"]["identity"], rig.key().as_str());
        assert_eq!((&shown["trail"]["ok"], &shown["forks"]), (&true.into(), &serde_json::json!([])));
    }
    let line = lines.iter().find(|line| line["id"] == refers.as_str()).unwrap();
    let words = text(&rig, &["show", &refers]);
    let task = line["task"].as_str().unwrap();
    let grant = line["grant"].as_str().unwrap();
    let block = line["chain"][0].as_str().unwrap();
    let owner = line["owner"].as_str().unwrap();
    for told in
        [task, grant, block, owner, "accountable", "audit key of epoch 1", "named in full by record", "policy 1"]
    {
        assert!(words.contains(told), "{told} is not in\n{words}");
    }
    let unknown = |id: &str| verdict(&audit(&rig, "json", &["show", id]), 1)["error"].as_str().unwrap().to_owned();
    assert!(unknown("gw-07/1/99999").contains("it has era 1 up to record"), "{}", unknown("gw-07/1/99999"));
    assert!(unknown("gw-07/77/0").contains("never heard of era 77"));
    assert!(unknown("gw-08/1/0").contains("no device gw-08"));

    let rows = |args: &[&str]| {
        let listed = rig.fleet.run(&[&["audit", "list"], args].concat()).unwrap();
        listed["records"].as_array().unwrap().clone()
    };
    let count = |fits: &dyn Fn(&Value) -> bool| lines.iter().filter(|line| fits(line)).count();
    let denied = count(&|line| line["allow"] == false);
    assert!(denied > 0 && rows(&["--decision", "deny"]).len() == denied);
    assert_eq!(rows(&["--decision", "allow"]).len(), count(&|line| line["allow"] == true));
    assert_eq!(rows(&["--reason", "no_right"]).len(), count(&|line| line["reason"] == "no_right"));
    assert_eq!(rows(&["--since", "2000-01-01"]).len(), lines.len());
    assert_eq!(rows(&["--since", "9999-01-01"]).len(), 0);
    assert!(!rows(&["--since", "1d"]).is_empty());
    assert_eq!(rows(&["--kind", "task"]).len(), count(&|line| line["kind"] == "task"));
    assert_eq!(audit(&rig, "json", &["list", "--since", "soon"]).status.code(), Some(2));
    assert_eq!(audit(&rig, "json", &["list", "--kind", "nonsense"]).status.code(), Some(2));

    // What does not check out is left out, and that is said.
    let ledger = rusqlite::Connection::open(rig.fleet.dir.join("fleet.db")).unwrap();
    let changed =
        "UPDATE records SET bytes = CAST(substr(bytes, 1, 2) || X'7A' || substr(bytes, 4) AS BLOB) WHERE idx = 1";
    assert!(ledger.execute(changed, []).unwrap() > 0);
    let listed = verdict(&audit(&rig, "json", &["list", "--limit", "1000"]), 12);
    assert!(listed["ok"] == false && listed["records"].as_array().unwrap().len() < lines.len(), "{listed}");
}

#[test]
fn a_clone_is_proved_to_two_programs_that_have_nothing_but_the_devices_key() {
    let mut rig = Site::with_two_eras();
    let complete = verdict(&audit(&rig, "json", &["gaps"]), 0);
    let device = &complete["devices"][0];
    assert_eq!((&complete["complete"], &device["silent"]), (&true.into(), &Value::Null), "{complete}");
    assert_eq!((&device["forks"], &device["missing"]), (&serde_json::json!([]), &serde_json::json!([])));
    assert!(device["marked"].as_array().unwrap().iter().all(|marked| marked["mark"] == "recovered"), "{device}");
    let tomorrow = rig.fleet.run_at(86_400, &["audit", "gaps"]).unwrap();
    assert!(tomorrow["devices"][0]["silent"]["for_s"].as_u64().unwrap() > 80_000, "silence is told, and is no gap");

    // The disk is copied while the device is off, and both start.
    rig.gateway.agent.take().unwrap().kill();
    let elsewhere = rig.file("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    let copied = Command::new("cp").args(["-a", path(&rig.gateway.state), path(&elsewhere)]).status().unwrap();
    assert!(copied.success());
    rig.gateway.start(&rig.url, 0).unwrap();
    rig.gateway.wait_status("all delivered", |status| status["pending"] == 0).unwrap();
    rig.gateway.agent.take().unwrap().kill();
    let mut clone = Gateway::new(&rig.stage, "gw-07", &elsewhere);
    clone.start(&rig.url, 0).unwrap();
    rig.serve.wait("chain.forked", |_| true).unwrap();

    let proofs = rig.file("proofs");
    let forked = verdict(&audit(&rig, "json", &["gaps", "--proof", path(&proofs)]), 12);
    let fork = &forked["devices"][0]["forks"][0];
    assert_eq!((&forked["ok"], &fork["contradiction"]), (&false.into(), &"era".into()), "{forked}");
    let file_of_proof = PathBuf::from(fork["proof"].as_str().unwrap());
    let file = file_of_proof.clone();
    let key = rig.key();
    let proven = verdict(&verify(&file, &["--key", &key]), 0);
    assert_eq!((&proven["kind"], &proven["contradiction"]), (&"fork".into(), &"era".into()));
    assert_eq!(proven["headers"][0]["era"], proven["headers"][1]["era"]);
    assert_ne!(proven["headers"][0]["salt"], proven["headers"][1]["salt"]);
    let stranger = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
    verdict(&verify(&file, &["--key", stranger]), 12);
    for (trusted, code) in [(None, 0), (Some(key.as_str()), 0), (Some(stranger), 12)] {
        let codes = peer("fork", trusted, std::slice::from_ref(&file));
        assert!(codes.is_none_or(|codes| codes[&file] == code), "{trusted:?}");
    }
    let bits = flips(&std::fs::read_to_string(&file).unwrap(), 7);
    for bytes in &bits {
        assert!(is_found(bytes), "not found in {}", String::from_utf8_lossy(bytes));
    }
    let sample: Vec<Vec<u8>> = bits.into_iter().step_by(20).collect();
    found_elsewhere(&rig, "fork", &sample);

    // All of it in the forms of others: both branches, each record once, and the fork.
    let plain = audit(&rig, "json", &["export"]);
    assert_eq!(plain.status.code(), Some(12));
    let plain = String::from_utf8(plain.stdout).unwrap();
    let records = plain.lines().count() - 1;
    // The file alone proves it: it holds both beginnings.
    let file = rig.file("both");
    std::fs::write(&file, plain).unwrap();
    let both = verdict(&verify(&file, &["--key", &key]), 12);
    let device = &both["devices"][0];
    assert_eq!((&both["ok"], &both["problems"], &device["problems"]), (&json!(false), &json!([]), &json!([])));
    assert_eq!((&device["forks"], &device["twins"][0]["contradiction"]), (&json!(1), &json!("era")), "{both}");
    let salts = |headers: &Value| BTreeSet::from([0_usize, 1].map(|at| headers[at]["salt"].to_string()));
    assert_eq!(salts(&device["twins"][0]["eras"]), salts(&proven["headers"]));
    assert!(both["proved"].to_string().contains("used a device's keys twice"), "{both}");
    let told = text_of(&file);
    assert!(told.contains("was begun twice under this device's identity"), "{told}");
    let codes = peer("export", Some(&key), std::slice::from_ref(&file));
    assert!(codes.is_none_or(|codes| codes[&file] == 12));
    // Where the ledger tells of the fork itself, it is counted once.
    let stored = verdict(&audit(&rig, "json", &["verify"]), 12);
    assert_eq!((&stored["devices"][0]["forks"], &stored["devices"][0]["twins"]), (&json!(1), &json!([])), "{stored}");
    for form in ["cloudevents", "ocsf", "otel"] {
        let exported = audit(&rig, "json", &["export", "--format", form]);
        assert_eq!(exported.status.code(), Some(12), "{form}");
        let file = rig.file(form);
        std::fs::write(&file, exported.stdout).unwrap();
        let Some(read) = read_elsewhere(form, &file) else { break };
        let ids: BTreeSet<&str> = read.iter().map(|told| told[0].as_str().unwrap()).collect();
        assert_eq!((read.len(), ids.len()), (records + 1, records + 1), "{form}");
        let forks: Vec<&Value> = read.iter().filter(|told| told[1] == "fork").collect();
        let file: Value = serde_json::from_slice(&std::fs::read(&file_of_proof).unwrap()).unwrap();
        assert_eq!(forks.iter().map(|told| &told[3]).collect::<Vec<_>>(), [&file["headers"]], "{form}");
    }

    let era = &fork["era"];
    let id = format!("gw-07/{era}/0");
    let twice = verdict(&audit(&rig, "json", &["show", &id]), 1);
    assert!(twice["error"].as_str().unwrap().contains("2 eras have a record"), "{twice}");
    let salt = proven["headers"][0]["salt"].as_str().unwrap();
    let one = verdict(&audit(&rig, "json", &["show", &id, "--salt", salt]), 0);
    assert_eq!((&one["record"]["salt"], &one["forks"][0]["segment"]), (&salt.into(), &0.into()));
}
