//! Time that cannot be turned back, on the real agent: its wall clock shifted by libfaketime both ways, the process stopped
//! and continued, killed and started again, a real mosquitto in the middle.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hardtack::shell::cast::{Fleet, Gateway, Player, Stage};
use rustix::process::{kill_process, Pid, Signal};
use serde_json::{json, Value};

use crate::support::mosquitto::Mosquitto;

const DAY_S: i64 = 86_400;

/// A gateway in the dark: it was in touch once, and its broker is gone.
struct Dark {
    gateway: Gateway,
    fleet: Fleet,
    broker: Mosquitto,
    url: String,
    _serve: Player,
    _folder: tempfile::TempDir,
}

impl Dark {
    fn new() -> Self {
        let stage = Stage::new(Path::new(env!("CARGO_BIN_EXE_hardtack")).into());
        let folder = tempfile::tempdir().unwrap();
        let mut broker = Mosquitto::open();
        let url = format!("mqtt://{}", broker.addr());
        let fleet = Fleet::init(&stage, folder.path().join("fleet"), "acme").unwrap();
        let serve = fleet.serve(&url).unwrap();
        let mut gateway = Gateway::new(&stage, "gw-07", folder.path());
        fleet.enrol(&gateway, folder.path()).unwrap();
        // In a boot that is pretended no process has begun, so that none ends its tasks with it.
        gateway.settings.push(("HARDTACK_TEST_BOOT_ID", "000000ff-0000-4000-8000-000000000000".into()));
        gateway.start(&url, 0).unwrap();
        let granted = |status: &Value| status["grants"].as_array().is_some_and(|grants| !grants.is_empty());
        gateway.wait_status("a grant while online", |status| status["mode"] == "online" && granted(status)).unwrap();
        broker.kill();
        gateway.wait_mode("offline").unwrap();
        Self { gateway, fleet, broker, url, _serve: serve, _folder: folder }
    }

    fn begin(&self, ttl_s: u64) -> String {
        let rights = json!([{"resource": "modbus/*", "action": "read"}]);
        let task = self.gateway.post("/v1/tasks", &json!({"task": "pump", "rights": rights, "ttl_s": ttl_s})).unwrap();
        task["token"].as_str().unwrap_or_else(|| panic!("no task: {task}")).to_owned()
    }

    #[track_caller]
    fn check(&mut self, token: &str, reason: &str) {
        let decision = self.gateway.authorize(token, "read", "modbus/pump1/pressure").unwrap();
        assert_eq!(decision["reason"], reason, "{decision}");
    }

    /// Killed without a warning, and started under a wall clock that is off by so much.
    fn start_shifted(&mut self, shift_s: i64) {
        self.gateway.agent.take().unwrap().kill();
        let sign = if shift_s < 0 { "" } else { "+" };
        let env = [
            ("LD_PRELOAD", faketime().display().to_string()),
            ("FAKETIME", format!("{sign}{shift_s}s")),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
        ];
        self.gateway.start_with(&self.url, &env).unwrap();
    }

    fn signal(&self, signal: Signal) {
        let id = self.gateway.agent.as_ref().unwrap().id();
        kill_process(Pid::from_raw(id.try_into().unwrap()).unwrap(), signal).unwrap();
    }
}

/// Debian puts the library into a folder of the machine's architecture.
fn faketime() -> PathBuf {
    let architectures = std::fs::read_dir("/usr/lib").unwrap().filter_map(Result::ok).map(|entry| entry.path());
    let found = architectures.map(|folder| folder.join("faketime/libfaketime.so.1")).find(|path| path.exists());
    found.expect("libfaketime is not installed: tests/run installs it, or `apt-get install faketime`")
}

#[test]
fn no_wall_clock_lengthens_a_token() {
    let mut dark = Dark::new();
    let (long, brief) = (dark.begin(600), dark.begin(1));
    dark.check(&long, "allowed");
    // What is awaited here is time itself.
    std::thread::sleep(Duration::from_millis(2100));
    dark.check(&brief, "expired");

    dark.start_shifted(-400 * DAY_S);
    dark.check(&long, "allowed");
    dark.check(&brief, "expired");
    let status = dark.gateway.get("/v1/status").unwrap();
    assert_eq!(status["boots"], 0, "a restart of the service costs no boot: {status}");

    dark.start_shifted(400 * DAY_S);
    dark.check(&brief, "expired");
    let ceiling = dark.gateway.get("/v1/status").unwrap()["ceiling"].clone();
    assert!(ceiling.is_string(), "the round trip of this boot still bounds the time");
    dark.check(&long, "allowed");

    dark.gateway.agent.take().unwrap().kill();
    dark.gateway.start_rebooted(&dark.url.clone(), 400 * DAY_S, 9).unwrap();
    dark.check(&long, "expired");

    dark.gateway.agent.take().unwrap().kill();
    dark.gateway.start_rebooted(&dark.url.clone(), -400 * DAY_S, 10).unwrap();
    dark.check(&long, "allowed");
    dark.check(&brief, "expired");

    dark.broker.restart();
    dark.gateway.wait_mode("online").unwrap();
    dark.gateway.wait_status("an empty queue", |status| status["pending"] == 0).unwrap();
    assert_eq!(dark.fleet.run(&["audit", "verify"]).unwrap()["ok"], true);
    let exported = dark.fleet.exported().unwrap();
    for decision in &dark.gateway.decisions {
        assert_eq!(exported.get(decision["decision_id"].as_str().unwrap()), Some(&1), "{decision}");
    }
}

#[test]
fn a_process_that_was_stopped_has_not_stopped_the_time() {
    let mut dark = Dark::new();
    let (long, brief) = (dark.begin(600), dark.begin(2));
    dark.check(&brief, "allowed");
    dark.signal(Signal::STOP);
    std::thread::sleep(Duration::from_millis(3100));
    dark.signal(Signal::CONT);
    dark.check(&brief, "expired");
    dark.check(&long, "allowed");
}

#[test]
fn a_clock_of_1970_decides_as_any_other() {
    let mut dark = Dark::new();
    let long = dark.begin(600);
    let since_1970 = i64::try_from(hardtack::shell::clock::wall().unwrap().secs_floor()).unwrap();
    dark.gateway.agent.take().unwrap().kill();
    dark.gateway.start_rebooted(&dark.url.clone(), -since_1970, 3).unwrap();
    dark.check(&long, "allowed");
    let begun = dark.begin(600);
    dark.check(&begun, "allowed");
}

/// The slot with the higher generation.
fn newest_slot(state: &Path) -> PathBuf {
    let generation = |path: &PathBuf| {
        let bytes = std::fs::read(path).unwrap_or_default();
        bytes.get(8..16).map_or(0, |bytes| u64::from_le_bytes(bytes.try_into().unwrap()))
    };
    let slots = [state.join("anchor.0"), state.join("anchor.1")];
    slots.into_iter().max_by_key(generation).unwrap()
}

#[test]
fn a_torn_slot_of_the_anchor_costs_nothing_and_two_lock() {
    let mut dark = Dark::new();
    let (long, brief) = (dark.begin(600), dark.begin(1));
    dark.check(&long, "allowed");
    std::thread::sleep(Duration::from_millis(2100));
    dark.gateway.agent.take().unwrap().kill();
    let newest = newest_slot(&dark.gateway.state);
    let mut torn = std::fs::read(&newest).unwrap();
    torn[40..200].fill(0);
    std::fs::write(&newest, torn).unwrap();
    dark.gateway.start_rebooted(&dark.url.clone(), 0, 4).unwrap();
    dark.check(&long, "allowed");
    dark.check(&brief, "expired");

    dark.gateway.agent.take().unwrap().kill();
    for slot in ["anchor.0", "anchor.1"] {
        std::fs::write(dark.gateway.state.join(slot), b"rot").unwrap();
    }
    dark.gateway.start_rebooted(&dark.url.clone(), 0, 5).unwrap();
    let decision = dark.gateway.authorize(&long, "read", "modbus/pump1/pressure").unwrap();
    assert_eq!(decision["decision"], "deny", "{decision}");
    assert_eq!(dark.gateway.get("/v1/status").unwrap()["mode"], "locked");
    dark.broker.restart();
    dark.gateway.wait_mode("online").unwrap();
}

#[test]
fn a_device_that_is_revoked_locks_and_wipes_what_it_could_act_with() {
    let mut dark = Dark::new();
    let long = dark.begin(600);
    dark.check(&long, "allowed");
    dark.fleet.run(&["revoke", "device", "gw-07", "--reason", "stolen"]).unwrap();
    dark.broker.restart();
    dark.gateway.wait_mode("locked").unwrap();
    dark.check(&long, "revoked");
    let left: Vec<_> = std::fs::read_dir(dark.gateway.state.join("wallet"))
        .unwrap()
        .filter_map(Result::ok)
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("grant-"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    let refused = dark.gateway.post("/v1/tasks", &json!({"task": "pump", "rights": [], "ttl_s": 60})).unwrap();
    assert!(refused["token"].is_null(), "{refused}");
    dark.gateway.wait_status("an empty queue", |status| status["pending"] == 0).unwrap();
    // The same key does not come back, under this name or another.
    for id in ["gw-07", "gw-99"] {
        let request = dark.gateway.state.with_extension("req");
        let asked = dark.gateway.command(&["enrol", "request", "--id", id, "--out", request.to_str().unwrap()]);
        let Ok(asked) = asked else { continue };
        let code = asked["code"].as_str().unwrap().to_owned();
        let out = request.with_extension("bundle");
        let approve = ["device", "approve", request.to_str().unwrap(), "--code", &code, "--out", out.to_str().unwrap()];
        assert!(dark.fleet.run(&approve).is_err(), "{id} is let in again");
    }
}
