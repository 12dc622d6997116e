//! The whole system on a real mosquitto, with real faults. After each the collector holds every decision that a caller
//! saw exactly once, verified, none missing.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Mutex;

use hardtack::ids::DeviceId;
use hardtack::shell::cast::{Fleet, Gateway, Player, Stage};
use hardtack::shell::proxy::{Proxy, Swallow};
use serde_json::{json, Value};

use crate::support::mosquitto::Mosquitto;

/// One fleet, one gateway, one mosquitto.
struct Site {
    folder: tempfile::TempDir,
    fleet: Fleet,
    gateway: Gateway,
    serve: Option<Player>,
    broker: Mosquitto,
    url: String,
}

fn stage() -> Stage {
    Stage::new(Path::new(env!("CARGO_BIN_EXE_hardtack")).into())
}

impl Site {
    /// A site on a broker without TLS.
    fn open() -> Self {
        let broker = Mosquitto::open();
        let url = format!("mqtt://{}", broker.addr());
        let folder = tempfile::tempdir().unwrap();
        let fleet = Fleet::init(&stage(), folder.path().join("fleet"), "acme").unwrap();
        Self::with(folder, fleet, broker, url)
    }

    /// A site on the production set-up: TLS with client certificates, a role per device, default deny.
    fn secured() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let fleet = Fleet::init(&stage(), folder.path().join("fleet"), "acme").unwrap();
        let devices: [DeviceId; 1] = ["gw-07".parse().unwrap()];
        let broker = Mosquitto::secured(&fleet.dir, &"acme".parse().unwrap(), &devices);
        let url = format!("mqtts://localhost:{}", broker.port);
        Self::with(folder, fleet, broker, url)
    }

    fn with(folder: tempfile::TempDir, fleet: Fleet, broker: Mosquitto, url: String) -> Self {
        let serve = fleet.serve(&url).unwrap();
        let gateway = Gateway::new(&stage(), "gw-07", folder.path());
        fleet.enrol(&gateway, folder.path()).unwrap();
        Self { folder, fleet, gateway, serve: Some(serve), broker, url }
    }

    fn start(&mut self) {
        let url = self.url.clone();
        self.gateway.start(&url, 0).unwrap();
        self.online();
    }

    fn online(&self) {
        let fits =
            |status: &Value| status["mode"] == "online" && status["grants"].as_array().is_some_and(|g| !g.is_empty());
        self.gateway.wait_status("a grant while online", fits).unwrap();
    }

    fn begin(&self) -> String {
        let task = self.gateway.post("/v1/tasks", &task()).unwrap();
        task["token"].as_str().unwrap_or_else(|| panic!("no task: {task}")).to_owned()
    }

    fn decide(&mut self, token: &str, times: usize) {
        for _ in 0..times {
            let decision = self.gateway.authorize(token, "read", "modbus/pump1/pressure").unwrap();
            assert_eq!(decision["reason"], "allowed", "{decision}");
        }
    }

    /// Every decision that a caller saw is at the collector, once.
    #[track_caller]
    fn all_recorded(&self) {
        self.gateway.wait_status("an empty queue", |status| status["pending"] == 0).unwrap();
        let verified = self.fleet.run(&["audit", "verify"]).unwrap();
        assert_eq!(verified["ok"], true, "{verified}");
        let exported = self.fleet.exported().unwrap();
        assert!(!self.gateway.decisions.is_empty());
        for decision in &self.gateway.decisions {
            let id = decision["decision_id"].as_str().unwrap();
            assert_eq!(exported.get(id), Some(&1), "{id}");
        }
    }
}

fn task() -> Value {
    json!({"task": "pump", "rights": [{"resource": "modbus/*", "action": "read"}], "ttl_s": 600})
}

#[test]
fn the_production_set_up_works_end_to_end() {
    let mut site = Site::secured();
    site.start();
    let token = site.begin();
    site.decide(&token, 5);
    site.all_recorded();
}

#[test]
fn a_broker_that_loses_its_state_loses_nothing_of_ours() {
    let mut site = Site::open();
    site.start();
    let token = site.begin();
    for _ in 0..2 {
        site.decide(&token, 20);
        site.broker.kill();
        site.gateway.wait_mode("offline").unwrap();
        site.decide(&token, 20);
        site.broker.restart();
        site.gateway.wait_mode("online").unwrap();
    }
    site.all_recorded();
}

#[test]
fn a_half_open_link_is_noticed_and_replaced() {
    let mut site = Site::open();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let proxy = runtime.block_on(Proxy::start(site.broker.addr())).unwrap();
    let profile = site.folder.path().join("profile.toml");
    let shipped = include_str!("../../firmware-profiles/generic-x86_64.toml");
    let brisk = shipped.replace("keepalive_s = 30", "keepalive_s = 5").replace("hello_s = 300", "hello_s = 5");
    std::fs::write(&profile, brisk).unwrap();
    site.url = format!("mqtt://{}", proxy.addr());
    site.start();
    let token = site.begin();
    proxy.half_open(Swallow::Both);
    site.decide(&token, 5);
    // The watchdog closes a link on which nothing arrives; what cut it off is gone by then.
    proxy.cut();
    site.gateway.wait_mode("offline").unwrap();
    site.decide(&token, 5);
    proxy.heal();
    site.gateway.wait_mode("online").unwrap();
    site.all_recorded();
}

#[test]
fn a_device_whose_clock_says_1970_works_like_any_other() {
    let mut site = Site::secured();
    let now = hardtack::shell::clock::wall().unwrap().secs_floor() as i64;
    let url = site.url.clone();
    site.gateway.start(&url, -now).unwrap();
    site.online();
    let token = site.begin();
    site.decide(&token, 3);
    site.all_recorded();
}

#[test]
fn killed_twenty_times_under_load_nothing_is_lost() {
    let mut site = Site::open();
    site.start();
    let token = site.begin();
    let seen = Mutex::new(Vec::new());
    for round in 0..20 {
        let stop = AtomicBool::new(false);
        let client = site.gateway.client();
        let ask = json!({"token": token, "operation": "read", "resource": "modbus/a", "risk": "low"}).to_string();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        let Ok(answer) = client.post("/v1/authorize", ask.clone().into_bytes()) else { continue };
                        let decision: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
                        if decision["decision_id"].is_string() {
                            assert_eq!(decision["reason"], "allowed", "{decision}");
                            seen.lock().unwrap().push(decision);
                        }
                    }
                });
            }
            let goal = seen.lock().unwrap().len() + 20 + round;
            while seen.lock().unwrap().len() < goal {
                std::thread::yield_now();
            }
            site.gateway.agent.take().unwrap().kill();
            stop.store(true, Ordering::Relaxed);
        });
        let url = site.url.clone();
        site.gateway.start(&url, 0).unwrap();
    }
    site.online();
    site.gateway.decisions = seen.into_inner().unwrap();
    assert!(site.gateway.decisions.len() > 400);
    site.all_recorded();
}

#[test]
fn a_service_that_restarts_goes_on_where_it_was() {
    let mut site = Site::open();
    site.start();
    let token = site.begin();
    site.decide(&token, 10);
    site.serve.take().unwrap().kill();
    site.decide(&token, 10);
    site.serve = Some(site.fleet.serve(&site.url).unwrap());
    site.all_recorded();
    site.fleet.run(&["revoke", "grant", &grant(&site), "--reason", "a test"]).unwrap();
    let before = site.gateway.get("/v1/status").unwrap()["feed_seq"].as_u64().unwrap();
    site.gateway.wait_status("the revocation", |status| status["feed_seq"].as_u64() > Some(before)).unwrap();
    let decision = site.gateway.authorize(&token, "read", "modbus/a").unwrap();
    assert_eq!(decision["reason"], "revoked", "{decision}");
    site.all_recorded();
}

fn grant(site: &Site) -> String {
    let status = site.gateway.get("/v1/status").unwrap();
    status["grants"][0]["id"].as_str().unwrap().to_owned()
}
