//! The whole system on a real mosquitto, with real faults. After each the collector holds every decision that a caller
//! saw exactly once, verified, none missing.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Mutex;

use hardtack::ids::DeviceId;
use hardtack::shell::cast::{Fleet, Gateway, Player, Stage};
use hardtack::shell::clock;
use hardtack::shell::proxy::{Proxy, Swallow};
use hardtack::shell::x509::Validity;
use hardtack::time::Millis;
use rustix::process::{kill_process, Pid, Signal};
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

    /// Every decision that a caller saw is at the collector, once, as the caller saw it; the chain has neither gap nor fork.
    #[track_caller]
    fn all_recorded(&self) {
        self.gateway.wait_status("an empty queue", |status| status["pending"] == 0).unwrap();
        let verified = self.fleet.run(&["audit", "verify"]).unwrap();
        let chain = &verified["devices"][0];
        assert_eq!(
            (&verified["ok"], &chain["gaps"], &chain["forks"]),
            (&true.into(), &0.into(), &0.into()),
            "{verified}"
        );
        let exported = self.exported();
        assert!(!self.gateway.decisions.is_empty());
        for seen in &self.gateway.decisions {
            let id = seen["decision_id"].as_str().unwrap();
            let [recorded] = exported.get(id).map_or(&[][..], Vec::as_slice) else { panic!("not once: {id}") };
            assert_eq!(recorded["reason"], seen["reason"], "{id}");
        }
    }

    /// The decisions that the collector exports, by their ids.
    fn exported(&self) -> BTreeMap<String, Vec<Value>> {
        let export = self.fleet.run(&["audit", "export"]).unwrap();
        let mut decisions = BTreeMap::<_, Vec<Value>>::new();
        for line in export.as_str().unwrap().lines() {
            let record: Value = serde_json::from_str(line).unwrap();
            if let Some(id) = record["decision_id"].as_str() {
                decisions.entry(id.to_owned()).or_default().push(record);
            }
        }
        decisions
    }

    fn agent_says(&mut self, event: &str) {
        self.gateway.agent.as_mut().unwrap().wait(event, |_| true).unwrap();
    }

    /// The agent ends without a warning and starts again, alone, with another wall clock.
    fn restart(&mut self, clock_s: i64) {
        self.gateway.agent.take().unwrap().kill();
        let url = self.url.clone();
        self.gateway.start(&url, clock_s).unwrap();
    }

    /// The broker's certificate is another one from now on.
    fn certify(&mut self, validity: Validity) {
        let fleet = "acme".parse().unwrap();
        self.broker.certify(&self.fleet.dir, &fleet, validity);
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
    let brisk =
        shipped.replace("keepalive_s = 30", "keepalive_s = 5").replace("connect_ms = 10000", "connect_ms = 2000");
    std::fs::write(&profile, brisk).unwrap();
    site.gateway.settings.push(("HARDTACK_PROFILE", profile.to_str().unwrap().to_owned()));
    site.url = format!("mqtt://{}", proxy.addr());
    site.start();
    let token = site.begin();
    proxy.half_open(Swallow::Both);
    site.decide(&token, 5);
    // Nothing closes the link but the agent's own watchdog.
    let noticed = |line: &Value| line["reason"].as_str().is_some_and(|reason| reason.contains("half-open"));
    site.gateway.agent.as_mut().unwrap().wait("link.down", noticed).unwrap();
    site.decide(&token, 5);
    proxy.heal();
    site.gateway.wait_mode("online").unwrap();
    site.all_recorded();
}

#[test]
fn a_device_whose_clock_says_1970_works_like_any_other() {
    let mut site = Site::secured();
    let in_1970 = -(clock::wall().unwrap().secs_floor() as i64);
    let url = site.url.clone();
    site.gateway.start(&url, in_1970).unwrap();
    site.online();
    let token = site.begin();
    site.decide(&token, 3);
    // Nor does it stop working when it starts alone.
    site.broker.kill();
    site.restart(in_1970);
    site.decide(&token, 3);
    let begun_alone = site.begin();
    site.decide(&begun_alone, 3);
    site.broker.restart();
    site.gateway.wait_mode("online").unwrap();
    site.decide(&token, 3);
    site.all_recorded();
}

/// The test clock's file is read at each look at the clock: a wall clock that jumps under an agent that runs.
#[test]
fn a_wall_clock_that_jumps_while_the_agent_runs_may_only_tighten() {
    const YEAR_MS: i64 = 365 * 86_400_000;
    let mut site = Site::open();
    let clock = site.folder.path().join("clock");
    let jump = |by: i64| std::fs::write(&clock, by.to_string()).unwrap();
    jump(0);
    site.gateway.settings.push(("HARDTACK_TEST_CLOCK_FILE", clock.to_str().unwrap().to_owned()));
    // In a boot that is pretended no process has begun, so that none ends its tasks with it.
    site.gateway.settings.push(("HARDTACK_TEST_BOOT_ID", "000000ff-0000-4000-8000-000000000000".into()));
    site.start();
    let token = site.begin();
    // Another boot, which has no proof of the time: only there a hint counts.
    site.broker.kill();
    site.gateway.agent.take().unwrap().kill();
    let url = site.url.clone();
    site.gateway.start_rebooted(&url, 0, 1).unwrap();
    for (by, reason) in [(0, "allowed"), (YEAR_MS, "expired"), (-YEAR_MS, "allowed")] {
        jump(by);
        let decision = site.gateway.authorize(&token, "read", "modbus/a").unwrap();
        assert_eq!(decision["reason"], reason, "{by}: {decision}");
    }
}

/// How a broker goes down.
#[derive(Clone, Copy, Debug)]
enum Outage {
    /// In order, and it comes back without sessions and retained messages.
    Forgetting,
    /// By SIGKILL.
    Killed,
    /// In order, and it comes back with all that it had.
    Restarted,
}

#[test]
fn a_secured_broker_that_restarts_loses_nothing_of_ours() {
    let mut site = Site::secured();
    site.start();
    let token = site.begin();
    for outage in [Outage::Restarted, Outage::Forgetting, Outage::Killed] {
        site.decide(&token, 10);
        match outage {
            Outage::Forgetting => {
                site.broker.stop();
                site.broker.forget();
            }
            Outage::Killed => site.broker.kill(),
            Outage::Restarted => site.broker.stop(),
        }
        // Not the mode, which a link that comes and goes does not move.
        site.agent_says("link.down");
        site.decide(&token, 10);
        site.broker.restart();
        site.agent_says("link.up");
        site.decide(&token, 10);
        site.all_recorded();
    }
}

/// Wall clocks call the broker's certificate ended; the trusted clock knows that it is not.
#[test]
fn a_certificate_that_lapsed_in_the_dark_is_judged_by_the_trusted_clock() {
    let mut site = Site::secured();
    site.start();
    let token = site.begin();
    site.decide(&token, 3);
    let now = clock::wall().unwrap();
    let (hour, minutes) = (Millis::from_secs(3600), Millis::from_secs(240));
    site.certify(Validity { from: now - hour, until: now + minutes });
    // Within the life of the task, past that of the certificate.
    site.restart(300);
    site.online();
    site.decide(&token, 3);
    site.all_recorded();
}

/// And one that has ended by all that the device knows is refused, with what to do about it.
#[test]
fn a_certificate_that_has_really_ended_is_refused_until_there_is_another() {
    let mut site = Site::secured();
    site.start();
    let token = site.begin();
    let now = clock::wall().unwrap();
    let hour = Millis::from_secs(3600);
    site.certify(Validity { from: now - hour - hour, until: now - hour });
    site.gateway.wait_mode("offline").unwrap();
    let says_why = |status: &Value| {
        let reasons = status["reasons"].to_string();
        reasons.contains("certificate ended at") && reasons.contains("broker config")
    };
    site.gateway.wait_status("the reason why it is offline", says_why).unwrap();
    site.decide(&token, 5);
    site.certify(Validity::days(now, 825));
    site.gateway.wait_mode("online").unwrap();
    site.all_recorded();
}

/// As many and as large grants as `grant create` takes are one answer, and one wallet.
#[test]
fn the_largest_set_of_grants_reaches_the_device() {
    let mut site = Site::secured();
    site.start();
    let mut held = 1;
    for rights in [36, 24, 12, 4, 1] {
        while site.grant(rights).is_ok() {
            held += 1;
        }
    }
    assert!(held > 10, "{held} grants");
    let all_here = |status: &Value| status["grants"].as_array().is_some_and(|grants| grants.len() == held);
    site.gateway.wait_status("every grant", all_here).unwrap();
    let token = site.begin();
    site.decide(&token, 1);
    site.all_recorded();
}

/// `fleet publish` and `broker check` beside `fleet serve`: none throws another out.
#[test]
fn a_second_service_does_not_disturb_the_first() {
    let mut site = Site::secured();
    site.start();
    for _ in 0..3 {
        site.fleet.run(&["publish", "--broker", &site.url]).unwrap();
    }
    let dir = site.fleet.dir.to_str().unwrap();
    let checked = stage().run(&["-o", "json", "broker", "check", "--dir", dir, "--url", &site.url]).unwrap();
    assert_eq!(checked["ok"], true, "{checked}");
    let token = site.begin();
    site.decide(&token, 3);
    site.all_recorded();
    let told = site.serve.as_mut().unwrap().events();
    assert_eq!(told.iter().filter(|event| *event == "link.down").count(), 0, "{told:?}");
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

#[test]
fn a_revocation_is_waited_for_until_every_device_in_reach_has_it() {
    let mut site = Site::open();
    site.start();
    let (code, told, _) = site.wait_for("t-1", "20s");
    assert_eq!((code, &told["wait"]["complete"]), (Some(0), &true.into()), "{told}");
    assert_eq!(told["wait"]["have"], json!(["gw-07"]));
    site.until("the list shows it online", |device| device["mode"] == "online");
    let applied = site.gateway.get("/v1/status").unwrap()["feed_seq"].as_u64();
    assert!(applied >= told["wait"]["head"].as_u64(), "the device says so too: {applied:?}");
    let shown = site.fleet.run(&["revocations"]).unwrap();
    assert_eq!(shown["convergence"], json!({"devices": 1, "at_newest": 1, "unreachable": 0}), "{shown}");

    site.gateway.agent.take().unwrap().kill();
    site.until("its last will", |device| device["reachable"] == false);
    let (code, told, _) = site.wait_for("t-2", "20s");
    assert_eq!(code, Some(11), "{told}");
    let unreachable = &told["wait"]["unreachable"][0];
    assert_eq!((&unreachable["device"], unreachable["silent_s"].is_number()), (&"gw-07".into(), true), "{told}");
    let shown = site.fleet.run(&["revocations"]).unwrap();
    assert!(shown["devices"][0]["behind"].as_u64() >= Some(1), "{shown}");
    assert!(shown["devices"][0]["unreachable_since"].is_string(), "{shown}");

    let url = site.url.clone();
    site.gateway.start(&url, 0).unwrap();
    site.online();
    let (code, told, _) = site.wait_for("t-3", "20s");
    assert_eq!(code, Some(0), "it came back: {told}");
    site.until("it is online again", |device| device["mode"] == "online");

    // Stopped in order, its connection ends in order as well, and the broker forgets the last will.
    let mut agent = site.gateway.agent.take().unwrap();
    let process = Pid::from_raw(agent.id().try_into().unwrap()).unwrap();
    kill_process(process, Signal::TERM).unwrap();
    agent.wait("agent.stopped", |_| true).unwrap();
    let listed = site.until("it says that it goes", |device| device["mode"] == "gone");
    assert_eq!((&listed["reachable"], listed["mode_age_s"].is_number()), (&false.into(), true), "{listed}");
    let (code, told, _) = site.wait_for("t-3b", "20s");
    let unreachable = &told["wait"]["unreachable"][0];
    assert_eq!((code, &unreachable["mode"]), (Some(11), &"gone".into()), "at once, for nobody in reach: {told}");
    site.gateway.start(&url, 0).unwrap();
    site.online();

    site.serve.take().unwrap().kill();
    let (code, told, stderr) = site.wait_for("t-4", "1s");
    assert_eq!((code, &told["wait"]["head"], &told["wait"]["publisher"]), (Some(11), &Value::Null, &false.into()));
    assert!(stderr.starts_with("no `fleet serve` runs on this ledger"), "{stderr}");
}

impl Site {
    /// Waits until the fleet lists the device so.
    fn until(&self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        let began = clock::now().boottime;
        loop {
            let listed = self.fleet.run(&["device", "list"]).unwrap();
            if fits(&listed["devices"][0]) {
                return listed["devices"][0].clone();
            }
            assert!(clock::now().boottime.0 < began.0 + 20_000, "{what} has not come: {listed}");
        }
    }

    /// Revokes a task and waits for it: the exit code, what is printed, what is told.
    fn wait_for(&self, task: &str, timeout: &str) -> (Option<i32>, Value, String) {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_hardtack"));
        command.args(["-o", "json", "fleet", "revoke", "task", task, "--wait", "--timeout", timeout, "--dir"]);
        let output = command.arg(&self.fleet.dir).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        let told = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("no JSON: {stderr}"));
        (output.status.code(), told, stderr)
    }

    /// Grants so many more rights, each with a long name.
    fn grant(&self, rights: usize) -> Result<Value, hardtack::cli::Failure> {
        let rights: Vec<String> =
            (0..rights).map(|n| format!("pump:read:some/rather/long/path/of/a/plant/number/{n:02}")).collect();
        let mut args = vec!["grant", "create", "--device", "gw-07", "--may-begin", "unix:uid:1=pump"];
        args.extend(rights.iter().flat_map(|right| ["--right", right]));
        args.extend(["--offline-max", "3d", "--uses-max", "1000", "--boots-max", "20", "--task-ttl-max", "15m"]);
        self.fleet.run(&args)
    }
}

fn grant(site: &Site) -> String {
    let status = site.gateway.get("/v1/status").unwrap();
    status["grants"][0]["id"].as_str().unwrap().to_owned()
}
