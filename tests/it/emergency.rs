//! An operator revokes with a key of his own while nobody serves the fleet: the built commands, a real broker, real agents.

use std::path::Path;
use std::process::{Command, Stdio};

use ed25519_dalek::SigningKey;
use hardtack::ids::{unhex, FleetId, KeyId};
use hardtack::shell::cast::{path, Fleet, Gateway, Player, Stage};
use hardtack::shell::clock;
use hardtack::shell::mqtt::probe::{Probe, Verdict};
use hardtack::time::{Millis, Timestamp};
use hardtack::wire::envelope::Signed;
use hardtack::wire::link::Topic;
use hardtack::wire::revocation::emergency::{Emergency, Rules};
use hardtack::wire::revocation::rules::Selector;
use serde_json::{json, Value};

use crate::mqtt::config;
use crate::support::mosquitto::Mosquitto;

/// A fleet in which ann has an emergency key, a broker, and a gateway in touch.
struct Site {
    folder: tempfile::TempDir,
    stage: Stage,
    fleet: Fleet,
    serve: Option<Player>,
    gateway: Gateway,
    url: String,
    _broker: Mosquitto,
}

impl Site {
    fn start() -> Self {
        let broker = Mosquitto::open();
        let url = format!("mqtt://{}", broker.addr());
        let folder = tempfile::tempdir().unwrap();
        let stage = Stage::new(env!("CARGO_BIN_EXE_hardtack").into());
        let fleet = Fleet::init(&stage, folder.path().join("fleet"), "acme").unwrap();
        let added = fleet.run(&["key", "add", "emergency", "--name", "ann"]).unwrap();
        assert_eq!(added["bundle_version"], 2, "{added}");
        let again = fleet.run(&["key", "add", "emergency", "--name", "ann"]).unwrap();
        assert_eq!((&again["key_id"], &again["began_before"]), (&added["key_id"], &json!(true)));
        let serve = Some(fleet.serve(&url).unwrap());
        let gateway = Self::enrolled(&stage, &fleet, &url, "gw-07", folder.path());
        Self { folder, stage, fleet, serve, gateway, url, _broker: broker }
    }

    fn enrolled(stage: &Stage, fleet: &Fleet, url: &str, id: &str, folder: &Path) -> Gateway {
        let mut gateway = Gateway::new(stage, id, folder);
        fleet.enrol(&gateway, folder).unwrap();
        gateway.start(url, 0).unwrap();
        let ready = |status: &Value| status["mode"] == "online" && status["grants"][0].is_object();
        gateway.wait_status("a grant while online", ready).unwrap();
        gateway
    }

    /// The service dies, and the feed's key is out of reach.
    fn lose_the_service(&mut self) {
        self.serve.take().unwrap().kill();
        let key = self.fleet.dir.join("keys/feed.key");
        std::fs::rename(&key, key.with_extension("away")).unwrap();
    }

    fn begin(&self) -> (String, String) {
        let rights = json!([{"resource": "modbus/*", "action": "read"}]);
        let task = self.gateway.post("/v1/tasks", &json!({"task": "pump", "rights": rights, "ttl_s": 600})).unwrap();
        (task["task_id"].as_str().unwrap().to_owned(), task["token"].as_str().unwrap().to_owned())
    }

    fn emergency(&self, what: &[&str]) -> Value {
        let how = ["--as", "ann", "--reason", "laptop stolen", "--broker", &self.url];
        self.fleet.run(&[&["emergency"], what, &how[..]].concat()).unwrap()
    }

    /// The exit code and the answer of a command on the gateway.
    fn exits(&self, id: &str, args: &[&str]) -> (Option<i32>, Value) {
        let (state, run) = (self.folder.path().join(id), self.folder.path().join(format!("run-{id}")));
        let mut command = Command::new(env!("CARGO_BIN_EXE_hardtack"));
        command.args(["--state-dir", path(&state), "--run-dir", path(&run), "-o", "json"]).args(args);
        let output = command.env_clear().stdin(Stdio::null()).output().unwrap();
        (output.status.code(), serde_json::from_slice(&output.stdout).unwrap_or(Value::Null))
    }

    /// Ann's key, as a thief reads it.
    fn stolen(&self) -> SigningKey {
        let file = std::fs::read(self.fleet.dir.join("keys/emergency.ann.key")).unwrap();
        let stored: Value = serde_json::from_slice(&file).unwrap();
        let private = unhex(stored["private"].as_str().unwrap()).unwrap();
        SigningKey::from_bytes(&private.try_into().unwrap())
    }

    /// Whatever this says, at whatever place.
    fn publish(&self, topic: &str, payload: &[u8]) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let config = config("thief", std::slice::from_ref(&self.url), None);
        runtime.block_on(async {
            let mut probe = Probe::connect(&config, clock::wall().unwrap(), None).await.unwrap();
            assert_eq!(probe.publish_retained(topic, payload).await, Verdict::Accepted);
            probe.leave().await;
        });
    }
}

fn place(key: KeyId) -> String {
    let fleet: FleetId = "acme".parse().unwrap();
    Topic::FeedEmergency("main".parse().unwrap(), key).text(&fleet)
}

#[test]
fn a_live_task_ends_while_nobody_serves_and_the_service_learns_of_it_later() {
    let mut site = Site::start();
    let ((task, token), (_, other)) = (site.begin(), site.begin());
    let ask = |token: &str| {
        ["authorize", "--token", token, "--operation", "read", "--resource", "modbus/a"].map(str::to_owned)
    };
    let authorize = |site: &Site, token: &str| {
        let ask = ask(token);
        let ask: Vec<&str> = ask.iter().map(String::as_str).collect();
        site.exits("gw-07", &ask)
    };
    assert_eq!(authorize(&site, &token).0, Some(0));
    site.lose_the_service();
    let dry = site.fleet.run(&["emergency", "task", &task, "--as", "ann", "--reason", "x", "--dry-run"]).unwrap();
    assert_eq!((&dry["counter"], &dry["dry_run"]), (&json!(1), &json!(true)));
    let client = site.gateway.client();
    let waits = format!("/v1/tasks/{task}/wait");
    let wait = std::thread::spawn(move || client.get(&waits).unwrap());
    let said = site.emergency(&["task", &task]);
    assert_eq!((&said["counter"], &said["operator"]), (&json!(1), &json!("ann")), "{said}");
    let told: Value = serde_json::from_slice(&wait.join().unwrap().body).unwrap();
    assert_eq!(told["ended"], "revoked", "{told}");
    let (code, denied) = authorize(&site, &token);
    assert_eq!((code, &denied["reason"]), (Some(5), &json!("revoked")), "{denied}");
    assert!(denied["explain"].as_str().unwrap().contains("of ann"), "{denied}");
    assert_eq!(authorize(&site, &other).0, Some(0));
    let (code, checked) = site.exits("gw-07", &["revocations", "check", "--task", &task]);
    assert_eq!((code, &checked["emergency"]["operator"]), (Some(5), &json!("ann")), "{checked}");
    let status = site.gateway.get("/v1/status").unwrap();
    assert_eq!(status["emergency"].as_array().map(Vec::len), Some(1), "{status}");

    // It can be carried as well, and what came first is in it.
    let file = site.folder.path().join("emergency");
    let carried = [
        "emergency",
        "owner",
        "mallory@acme",
        "--as",
        "ann",
        "--reason",
        "x",
        "--expires",
        "72h",
        "--out",
        path(&file),
    ];
    assert_eq!(site.fleet.run(&carried).unwrap()["counter"], 2);
    let (code, imported) = site.exits("gw-07", &["revocations", "import", path(&file)]);
    assert_eq!((code, &imported["parts"].as_array().unwrap().last().unwrap()["outcome"]), (Some(0), &json!("applied")));
    assert_eq!(site.exits("gw-07", &["revocations", "check", "--owner", "mallory@acme"]).0, Some(5));

    // Whoever serves again tells the broker what it lacks, and every device that comes later.
    let key = site.fleet.dir.join("keys/feed.key");
    std::fs::rename(key.with_extension("away"), &key).unwrap();
    site.publish(&place(said["key"].as_str().unwrap().parse().unwrap()), b"");
    site.serve = Some(site.fleet.serve(&site.url).unwrap());
    let late = Site::enrolled(&site.stage, &site.fleet, &site.url, "gw-08", site.folder.path());
    late.wait_status("both rules", |status| status["emergency"].as_array().is_some_and(|rules| rules.len() == 2))
        .unwrap();
    let listed = site.fleet.run(&["revocations"]).unwrap();
    assert_eq!((&listed["emergency"][0]["operator"], &listed["emergency"][0]["counter"]), (&json!("ann"), &json!(2)));
    let acts = site.fleet.run(&["audit", "acts"]).unwrap();
    assert_eq!(acts["emergency"].as_array().map(Vec::len), Some(2), "{acts}");
    assert!(acts["acts"].as_array().unwrap().iter().any(|act| act["act"] == "emergency" && act["name"] == "ann"));
}

#[test]
fn a_thief_with_the_key_can_deny_and_no_more() {
    let mut site = Site::start();
    let said = site.emergency(&["task", "t-1"]);
    let id: KeyId = said["key"].as_str().unwrap().parse().unwrap();
    site.gateway.wait_status("one rule", |status| status["emergency"][0].is_object()).unwrap();
    let (key, now, fleet) = (site.stolen(), clock::wall().unwrap(), "acme".parse().unwrap());
    let statement = |counter: u64, issued_at: Timestamp, hours: u64| {
        let rules =
            Rules::new("theft", [(Selector::task("t-2"), issued_at + Millis::from_secs(hours * 3600))]).unwrap();
        let said = Emergency { key: id, counter, issued_at, bundle_version: 2, rules };
        Signed::sign(&said, &fleet, &[&key]).to_bytes()
    };
    let first = statement(1, now, 1);
    let cases = [
        ("two contents for one counter", place(id), first.clone()),
        ("a life of 73 h", place(id), statement(7, now, 73)),
        ("of the future", place(id), statement(8, now + Millis::from_secs(30 * 86_400), 1)),
        ("another key's place", place(KeyId([7; 8])), statement(9, now, 1)),
        ("another feed's", place(id).replace("/main/", "/spare/"), statement(9, now, 1)),
        ("taken from the broker", place(id), Vec::new()),
    ];
    for (what, topic, payload) in cases {
        site.publish(&topic, &payload);
        if !topic.contains("/spare/") {
            // No device of this fleet listens there.
            site.gateway.agent.as_mut().unwrap().wait("message.refused", |_| true).unwrap();
        }
        assert_eq!(site.exits("gw-07", &["revocations", "check", "--task", "t-2"]).0, Some(0), "{what}");
        assert_eq!(site.exits("gw-07", &["revocations", "check", "--task", "t-1"]).0, Some(5), "{what}");
    }
    // He can deny, and what he leaves out holds all the same.
    site.publish(&place(id), &statement(9, now, 1));
    let both = |status: &Value| status["emergency"].as_array().is_some_and(|rules| rules.len() == 2);
    site.gateway.wait_status("both rules", both).unwrap();
    site.serve.as_mut().unwrap().wait("emergency.heard", |line| line["counter"] == 9).unwrap();
    // The replay of what came before changes nothing.
    site.publish(&place(id), &first);
    // Ann's next one is numbered past the thief's, as the fleet has heard it; then her key goes.
    assert_eq!(site.emergency(&["task", "t-3"])["counter"], 10);
    site.gateway
        .wait_status("three rules", |status| status["emergency"].as_array().is_some_and(|r| r.len() == 3))
        .unwrap();
    let removed = site.fleet.run(&["key", "remove", "emergency", "--name", "ann", "--compromised"]).unwrap();
    assert_eq!(removed["bundle_version"], 3, "{removed}");
    site.gateway.wait_status("trust bundle 3", |status| status["bundle_version"] == 3).unwrap();
    site.publish(&place(id), &statement(11, now, 2));
    let agent = site.gateway.agent.as_mut().unwrap();
    agent
        .wait("message.refused", |line| line["reason"].as_str().is_some_and(|why| why.contains("without this role")))
        .unwrap();
    let (_, held) = site.exits("gw-07", &["revocations", "show"]);
    assert_eq!(
        (&held["emergency"][0]["named"], &held["emergency"][0]["counter"]),
        (&json!(false), &json!(10)),
        "{held}"
    );
    assert_eq!(held["emergency"][0]["rules"].as_array().map(Vec::len), Some(3));
    let refused = Command::new(env!("CARGO_BIN_EXE_hardtack"))
        .args(["fleet", "emergency", "task", "t-4", "--as", "ann", "--reason", "x", "--broker", &site.url])
        .args(["--dir", path(&site.fleet.dir)])
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
}

#[test]
fn two_commands_at_once_never_sign_one_counter_twice() {
    let folder = tempfile::tempdir().unwrap();
    let stage = Stage::new(env!("CARGO_BIN_EXE_hardtack").into());
    let fleet = Fleet::init(&stage, folder.path().join("fleet"), "acme").unwrap();
    fleet.run(&["key", "add", "emergency", "--name", "ann"]).unwrap();
    let threads: Vec<_> = (0..6)
        .map(|number| {
            let (fleet, out) = (fleet.clone(), folder.path().join(format!("out-{number}")));
            std::thread::spawn(move || {
                let task = format!("t-{number}");
                let order = ["emergency", "task", &task, "--as", "ann", "--reason", "x", "--out", path(&out)];
                fleet.run(&order).unwrap()["counter"].as_u64().unwrap()
            })
        })
        .collect();
    let mut counters: Vec<u64> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    counters.sort_unstable();
    assert_eq!(counters, [1, 2, 3, 4, 5, 6]);
}
