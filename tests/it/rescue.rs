//! Signed time that somebody carries: the built operator and a real agent that has no network.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use hardtack::shell::cast::{path, Fleet, Gateway, Stage};
use serde_json::Value;

const DAY_S: i64 = 86_400;

/// A fleet with two devices, the first of which runs and reaches nobody.
struct Rig {
    folder: tempfile::TempDir,
    fleet: Fleet,
    gateway: Gateway,
}

impl Rig {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let stage = Stage::new(env!("CARGO_BIN_EXE_hardtack").into());
        let fleet = Fleet::init(&stage, folder.path().join("fleet"), "acme").unwrap();
        let mut gateway = Gateway::new(&stage, "gw-07", folder.path());
        fleet.enrol(&gateway, folder.path()).unwrap();
        fleet.enrol(&Gateway::new(&stage, "gw-08", folder.path()), folder.path()).unwrap();
        gateway.start("mqtt://127.0.0.1:1", 0).unwrap();
        Self { folder, fleet, gateway }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The operator signs on a machine whose clock is `ahead_s` ahead of the device's.
    fn sign(&self, args: &[&str], ahead_s: i64) -> PathBuf {
        let out = self.path("time");
        let all = [&["fleet", "time"], args, &["--out", path(&out), "--dir", path(&self.fleet.dir)]].concat();
        let output = command(&all).env("HARDTACK_TEST_CLOCK_OFFSET_S", ahead_s.to_string()).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        out
    }

    fn device(&self, args: &[&str]) -> Output {
        let (state, run) = (self.path("gw-07"), self.path("run-gw-07"));
        command(&[&["--state-dir", path(&state), "--run-dir", path(&run)], args].concat()).output().unwrap()
    }

    /// The answer of the device, which ended with this number.
    #[track_caller]
    fn exits(&self, args: &[&str], code: i32) -> Value {
        let output = self.device(args);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {output:?}");
        let text = if output.stdout.is_empty() { output.stderr } else { output.stdout };
        serde_json::from_slice(&text).unwrap()
    }

    #[track_caller]
    fn import(&self, file: &std::path::Path, code: i32) -> Value {
        self.exits(&["agent", "time", "import", path(file)], code)
    }

    fn floor_s(&self) -> i64 {
        self.gateway.get("/v1/status").unwrap()["clock"]["floor_s"].as_i64().unwrap()
    }

    fn nonce(&self) -> String {
        self.exits(&["agent", "time", "challenge"], 0)["nonce"].as_str().unwrap().to_owned()
    }
}

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hardtack"));
    command.args(["-o", "json"]).args(args).env_clear().env("HOME", "/nonexistent").stdin(Stdio::null());
    command
}

#[test]
fn time_on_a_stick_raises_the_floor_and_only_a_reset_takes_it_back() {
    let rig = Rig::start();
    let began = rig.floor_s();
    let told = rig.import(&rig.sign(&["export"], 10 * DAY_S), 0);
    assert!(told["floor"].as_str() > told["floor_before"].as_str() && told["waiting"].is_null(), "{told}");
    let raised = rig.floor_s() - began;
    assert!((10 * DAY_S - 60..=10 * DAY_S + 600).contains(&raised), "by {raised} s");
    rig.import(&rig.sign(&["export"], 0), 0);
    assert!(rig.floor_s() - began >= raised, "an older time takes nothing back");

    let nonce = rig.nonce();
    let reset = |device: &str, nonce: &str| rig.sign(&["reset", "--device", device, "--nonce", nonce], 0);
    let refused = rig.import(&reset("gw-08", &nonce), 3);
    assert!(refused["error"].as_str().unwrap().contains("another device"), "{refused}");
    let refused = rig.import(&reset("gw-07", &"0".repeat(32)), 3);
    assert!(refused["error"].as_str().unwrap().contains("no outstanding nonce"), "{refused}");
    assert!(rig.floor_s() - began >= raised, "what is refused moves nothing");
    let good = reset("gw-07", &nonce);
    rig.import(&good, 0);
    let back = rig.floor_s() - began;
    assert!((-60..600).contains(&back), "{back} s after the start");
    let refused = rig.import(&good, 3);
    assert!(refused["error"].as_str().unwrap().contains("no outstanding nonce"), "replayed: {refused}");

    let acts = rig.fleet.run(&["audit", "acts"]).unwrap();
    let resets = acts["acts"].as_array().unwrap().iter().filter(|act| act["act"] == "time_reset");
    assert_eq!(resets.map(|act| act["device"].as_str().unwrap()).collect::<Vec<_>>(), ["gw-08", "gw-07", "gw-07"]);
}

#[test]
fn what_is_no_signed_time_of_this_fleet_is_refused_and_a_long_jump_waits() {
    let rig = Rig::start();
    let file = rig.sign(&["export"], 0);
    let bytes = std::fs::read(&file).unwrap();
    let mut forged = bytes.clone();
    *forged.last_mut().unwrap() ^= 1;
    std::fs::write(&file, forged).unwrap();
    assert!(rig.import(&file, 3)["error"].as_str().unwrap().contains("signature"));
    std::fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
    rig.import(&file, 12);
    std::fs::write(&file, vec![0; 300 * 1024]).unwrap();
    rig.import(&file, 12);
    rig.import(&rig.path("nowhere"), 2);

    let floor = rig.floor_s();
    let told = rig.import(&rig.sign(&["export"], 90 * DAY_S), 0);
    assert!(told["waiting"].as_str().unwrap().contains("service role alone"), "{told}");
    assert!(rig.floor_s() - floor < DAY_S);
    let diagnosis = rig.exits(&["doctor"], 0);
    let waits = |finding: &Value| finding["says"].as_str().unwrap().contains("waits for a second role");
    assert!(diagnosis["findings"].as_array().unwrap().iter().any(waits), "{diagnosis}");
    assert_eq!(diagnosis["status"]["clock"]["waiting"]["role"], "service");
}
