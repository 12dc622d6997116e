//! Revocations that somebody carries: the built operator, and real agents that no broker reaches.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use hardtack::shell::cast::{path, Fleet, Gateway, Stage};
use serde_json::{json, Value};

use crate::support::site::Site;

/// A fleet with two devices that run and reach nobody.
struct Rig {
    folder: tempfile::TempDir,
    stage: Stage,
    fleet: Fleet,
    gateways: [Gateway; 2],
}

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hardtack"));
    command.args(["-o", "json"]).args(args).env_clear().env("HOME", "/nonexistent").stdin(Stdio::null());
    command
}

impl Rig {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let stage = Stage::new(env!("CARGO_BIN_EXE_hardtack").into());
        let fleet = Fleet::init(&stage, folder.path().join("fleet"), "acme").unwrap();
        let gateways = ["gw-07", "gw-08"].map(|id| {
            let mut gateway = Gateway::new(&stage, id, folder.path());
            fleet.enrol(&gateway, folder.path()).unwrap();
            gateway.start("mqtt://127.0.0.1:1", 0).unwrap();
            gateway
        });
        Self { folder, stage, fleet, gateways }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn output(&self, device: &str, args: &[&str]) -> Output {
        let (state, run) = (self.path(device), self.path(&format!("run-{device}")));
        command(&[&["--state-dir", path(&state), "--run-dir", path(&run)], args].concat()).output().unwrap()
    }

    /// The answer of a device, which ended with this number.
    #[track_caller]
    fn exits(&self, device: &str, args: &[&str], code: i32) -> Value {
        let output = self.output(device, args);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {output:?}");
        let text = if output.stdout.is_empty() { output.stderr } else { output.stdout };
        serde_json::from_slice(&text).unwrap()
    }

    #[track_caller]
    fn import(&self, device: &str, file: &Path, code: i32) -> Value {
        self.exits(device, &["revocations", "import", path(file)], code)
    }

    /// A task token of the issuer's for the first device.
    fn issue(&self, task: &str) -> String {
        let selector = format!("unix:uid:{}", rustix::process::getuid().as_raw());
        let ask = ["--device", "gw-07", "--class", "pump", "--selector", &selector, "--right", "read:modbus/*"];
        let issued = self.fleet.run(&[&["issue", "--ttl", "10m", "--task", task], &ask[..]].concat()).unwrap();
        issued["token"].as_str().unwrap().to_owned()
    }

    #[track_caller]
    fn authorize(&self, token: &str, code: i32) -> Value {
        let ask = ["authorize", "--token", token, "--operation", "read", "--resource", "modbus/a"];
        self.exits("gw-07", &ask, code)
    }

    fn export(&self, name: &str) -> PathBuf {
        let out = self.path(name);
        self.fleet.run(&["revocations", "export", "--out", path(&out)]).unwrap();
        out
    }

    fn seq(&self, device: &str) -> u64 {
        self.exits(device, &["revocations", "show"], 0)["feeds"][0]["complete"]["seq"].as_u64().unwrap()
    }
}

fn outcomes(imported: &Value) -> Vec<&str> {
    imported["parts"].as_array().unwrap().iter().map(|part| part["outcome"].as_str().unwrap()).collect()
}

#[test]
fn a_file_revokes_on_a_device_without_a_network_and_goes_on_to_the_next() {
    let rig = Rig::start();
    let before = rig.export("old");
    let (token, other) = (rig.issue("t-0123"), rig.issue("t-4567"));
    rig.authorize(&token, 0);
    rig.exits("gw-07", &["revocations", "check", &token], 0);
    rig.fleet.run(&["revoke", "owner", "mallory@acme"]).unwrap();
    rig.fleet.run(&["revoke", "task", "t-0123"]).unwrap();
    rig.exits("gw-07", &["revocations", "check", "--task", "t-0123"], 0);
    let file = rig.export("new");

    let imported = rig.import("gw-07", &file, 0);
    assert_eq!(outcomes(&imported), ["known", "known", "applied"], "{imported}");
    assert_eq!(
        rig.authorize(&token, 5)["reason"],
        json!("revoked"),
        "it was verified before, and is not believed from memory"
    );
    rig.authorize(&other, 0);
    rig.exits("gw-07", &["revocations", "check", &token], 5);
    let again = rig.import("gw-07", &file, 0);
    assert_eq!(outcomes(&again), ["known", "known", "known"]);
    let checked = rig.exits("gw-07", &["revocations", "check", "--task", "t-0123"], 5);
    assert_eq!((&checked["feed"], &checked["revoked"]), (&json!("main"), &json!(true)), "{checked}");
    rig.exits("gw-07", &["revocations", "check", "--owner", "mallory@acme"], 5);
    rig.exits("gw-07", &["revocations", "check", "--owner", "alice@acme"], 0);
    rig.exits("gw-07", &["revocations", "check", "AAAA"], 12);
    let seq = rig.seq("gw-07");
    assert_eq!(rig.gateways[0].get("/v1/status").unwrap()["feed_seq"], json!(seq));

    // An older file is told from the one that counts, and takes nothing back.
    let old = rig.import("gw-07", &before, 12);
    assert_eq!(outcomes(&old).last(), Some(&"refused"), "{old}");
    assert!(old["parts"][2]["reason"].as_str().unwrap().contains("rolled back"), "{old}");
    assert_eq!(rig.seq("gw-07"), seq);
    rig.exits("gw-07", &["revocations", "check", "--task", "t-0123"], 5);

    // From one device to the next, without the fleet.
    let stick = rig.path("stick");
    rig.exits("gw-07", &["revocations", "export", "--out", path(&stick)], 0);
    rig.exits("gw-08", &["revocations", "check", "--task", "t-0123"], 0);
    let carried = rig.import("gw-08", &stick, 0);
    assert_eq!(outcomes(&carried).last(), Some(&"applied"), "{carried}");
    rig.exits("gw-08", &["revocations", "check", "--task", "t-0123"], 5);
    assert_eq!(rig.seq("gw-08"), seq);
}

#[test]
fn what_is_known_survives_a_restart_and_what_was_refused_is_on_record() {
    let mut rig = Rig::start();
    let before = rig.export("old");
    rig.fleet.run(&["revoke", "task", "t-0123"]).unwrap();
    let file = rig.export("new");
    rig.import("gw-07", &file, 0);
    rig.import("gw-07", &before, 12);
    let refused = rig.gateways[0].get("/v1/status").unwrap()["counters"]["refused"].clone();
    assert_eq!(refused, json!(1));
    rig.gateways[0].agent.take().unwrap().kill();
    rig.gateways[0].start("mqtt://127.0.0.1:1", 0).unwrap();
    rig.exits("gw-07", &["revocations", "check", "--task", "t-0123"], 5);
}

#[test]
fn a_file_of_another_fleet_or_a_damaged_one_is_refused() {
    let rig = Rig::start();
    rig.fleet.run(&["revoke", "task", "t-0123"]).unwrap();
    let file = rig.export("new");
    let bytes = std::fs::read(&file).unwrap();
    let broken = rig.path("broken");
    for at in [0, 7, 8, 20, bytes.len() / 2, bytes.len() - 1] {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1;
        std::fs::write(&broken, &flipped).unwrap();
        rig.import("gw-07", &broken, 12);
    }
    std::fs::write(&broken, &bytes[..bytes.len() / 2]).unwrap();
    rig.import("gw-07", &broken, 12);
    rig.import("gw-07", &rig.path("nowhere"), 2);

    for name in ["umbrella", "acme"] {
        let other = Fleet::init(&rig.stage, rig.path(&format!("other-{name}")), name).unwrap();
        let theirs = rig.path("theirs");
        other.run(&["revoke", "all"]).unwrap();
        other.run(&["revocations", "export", "--out", path(&theirs)]).unwrap();
        let output = rig.output("gw-07", &["revocations", "import", path(&theirs)]);
        assert!([3, 12].contains(&output.status.code().unwrap()), "{output:?}");
    }
    rig.exits("gw-07", &["revocations", "check", "--task", "t-0123"], 0);
    assert_eq!(rig.gateways[0].get("/v1/status").unwrap()["mode"], json!("offline"));
}

/// A file of another feed is refused, and the words about it name both, and the command that writes the right one.
#[test]
fn a_file_of_another_feed_says_which_one_is_needed() {
    let rig = Rig::start();
    for args in [&["group", "add", "south", "gw-09"][..], &["feed", "add", "f-south", "--group", "south"]] {
        rig.fleet.run(args).unwrap();
    }
    let theirs = rig.path("theirs");
    rig.fleet.run(&["revocations", "export", "--feed", "f-south", "--out", path(&theirs)]).unwrap();
    let imported = rig.import("gw-07", &theirs, 12);
    let refused = imported["parts"].as_array().unwrap().last().unwrap()["reason"].as_str().unwrap();
    let advice = "`hardtack fleet revocations export --feed main --out FILE`";
    assert!(refused.starts_with("of feed f-south,") && refused.contains(advice), "{refused}");
    let ours = rig.export("ours");
    rig.import("gw-07", &ours, 0);
}

#[test]
fn whoever_waits_for_a_task_hears_as_soon_as_its_revocation_is_here() {
    let site = Site::online();
    let tasks = [(); 2].map(|()| site.begin()["task_id"].as_str().unwrap().to_owned());
    let Site { folder, fleet, gateway, .. } = &site;
    let waits = tasks.clone().map(|task| {
        let client = gateway.client();
        std::thread::spawn(move || client.get(&format!("/v1/tasks/{task}/wait")).unwrap())
    });
    fleet.run(&["revoke", "task", &tasks[0], "--wait"]).unwrap();
    gateway.post(&format!("/v1/tasks/{}/finish", tasks[1]), &json!({})).unwrap();
    let told = waits.map(|wait| serde_json::from_slice::<Value>(&wait.join().unwrap().body).unwrap());
    assert_eq!(told.map(|told| told["ended"].clone()), ["revoked", "finished"]);
    let (state, run) = (folder.path().join("gw-07"), folder.path().join("run-gw-07"));
    for (task, how, code) in [(&tasks[0], "revoked", 5), (&tasks[1], "finished", 0)] {
        let waited = command(&["--state-dir", path(&state), "--run-dir", path(&run), "task", "wait", task]);
        let waited = { waited }.output().unwrap();
        assert_eq!(waited.status.code(), Some(code), "{waited:?}");
        assert!(String::from_utf8_lossy(&waited.stdout).contains(how), "{waited:?}");
    }
    let strange = gateway.get("/v1/tasks/t-strange/wait").unwrap();
    assert_eq!(strange["code"], "not_found", "{strange}");
}
