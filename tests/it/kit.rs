//! An operator revokes with her emergency kit: the fleet's folder is away, nobody serves, and the broker is set up as
//! `hardtack broker config` does it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use hardtack::fleet::emergency::Order;
use hardtack::ids::KeyId;
use hardtack::shell::cast::{path, Fleet, Gateway, Player, Stage};
use hardtack::shell::clock;
use hardtack::shell::emergency::kit::Kit;
use hardtack::shell::mqtt::probe::{Probe, Verdict};
use hardtack::time::Millis;
use hardtack::wire::revocation::Target;
use serde_json::{json, Value};

use crate::support::mosquitto::Mosquitto;

/// A fleet in which ann has a kit, a broker with a role for each, and a gateway in touch.
struct Site {
    folder: tempfile::TempDir,
    fleet: Fleet,
    kit: PathBuf,
    serve: Option<Player>,
    gateway: Gateway,
    url: String,
    broker: Mosquitto,
}

/// What the command on another machine finds there: a kit, and nothing in its environment.
fn emergency(kit: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hardtack"));
    command.args(["-o", "json", "fleet", "emergency"]).args(args).args(["--dir", path(kit)]);
    command.env_clear().stdin(Stdio::null()).output().unwrap()
}

fn done(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn failed(output: &Output, exit: i32, says: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(exit) && said.contains(says), "{:?}: {said}", output.status);
}

fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
}

impl Site {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let stage = Stage::new(env!("CARGO_BIN_EXE_hardtack").into());
        let fleet = Fleet::init(&stage, folder.path().join("fleet"), "acme").unwrap();
        let kit = folder.path().join("kit");
        let add = ["key", "add", "emergency", "--name", "ann", "--kit", path(&kit)];
        let added = fleet.run(&add).unwrap();
        assert_eq!((&added["bundle_version"], &added["kit"]), (&json!(2), &json!(kit)), "{added}");
        assert!(!fleet.dir.join("keys/emergency.ann.key").exists(), "the kit has the only copy");
        let again = fleet.run(&add).unwrap();
        assert_eq!((&again["key_id"], &again["began_before"]), (&added["key_id"], &json!(true)));
        // The broker is another machine, which keeps its own files.
        let elsewhere = folder.path().join("broker-machine");
        std::fs::create_dir(&elsewhere).unwrap();
        copy(&fleet.dir.join("broker"), &elsewhere);
        let (name, gw) = ("acme".parse().unwrap(), "gw-07".parse().unwrap());
        let key = added["key_id"].as_str().unwrap().parse().unwrap();
        let broker = Mosquitto::secured_with_keys(&elsewhere, &name, &[gw], &[key]);
        copy(&elsewhere.join("broker"), &fleet.dir);
        let url = format!("mqtts://localhost:{}", broker.port);
        let serve = Some(fleet.serve(&url).unwrap());
        let mut gateway = Gateway::new(&stage, "gw-07", folder.path());
        fleet.enrol(&gateway, folder.path()).unwrap();
        gateway.start(&url, 0).unwrap();
        let ready = |status: &Value| status["mode"] == "online" && status["grants"][0].is_object();
        gateway.wait_status("a grant while online", ready).unwrap();
        Self { folder, fleet, kit, serve, gateway, url, broker }
    }

    /// The service dies, and its folder is out of reach.
    fn lose_the_fleet(&mut self) {
        self.serve.take().unwrap().kill();
        std::fs::rename(&self.fleet.dir, self.folder.path().join("away")).unwrap();
    }

    fn find_the_fleet(&mut self) {
        std::fs::rename(self.folder.path().join("away"), &self.fleet.dir).unwrap();
        self.serve = Some(self.fleet.serve(&self.url).unwrap());
    }

    fn revoke(&self, kit: &Path, what: &[&str]) -> Value {
        let how = ["--reason", "laptop stolen", "--broker", &self.url];
        done(&emergency(kit, &[what, &how].concat()))
    }

    fn rules(&self, count: usize) {
        let all = |status: &Value| status["emergency"].as_array().is_some_and(|rules| rules.len() == count);
        self.gateway.wait_status(&format!("{count} rules"), all).unwrap();
    }

    fn key(&self) -> KeyId {
        Kit::open(&self.kit).unwrap().label().key
    }
}

fn ask<T>(asking: impl std::future::Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(asking)
}

async fn connect(kit: &Path, url: &str) -> Probe {
    let config = Kit::open(kit).unwrap().link(vec![url.parse().unwrap()]).unwrap();
    Probe::connect(&config, clock::wall().unwrap(), None).await.unwrap()
}

#[test]
fn a_kit_revokes_while_the_fleets_folder_is_away_and_can_do_nothing_else() {
    let mut site = Site::start();
    let rights = json!([{"resource": "modbus/*", "action": "read"}]);
    let begun = site.gateway.post("/v1/tasks", &json!({"task": "pump", "rights": rights, "ttl_s": 600})).unwrap();
    let (task, token) = (begun["task_id"].as_str().unwrap(), begun["token"].as_str().unwrap());
    site.lose_the_fleet();
    let dry = done(&emergency(&site.kit, &["task", task, "--reason", "x", "--dry-run"]));
    assert_eq!((&dry["counter"], &dry["covers"]["grants"], &dry["kit"]), (&json!(1), &Value::Null, &json!(true)));
    failed(&emergency(&site.kit, &["task", task, "--reason", "x"]), 2, "the kit knows none");
    let nobody = ["task", task, "--reason", "x", "--broker", "mqtts://localhost:1"];
    failed(&emergency(&site.kit, &nobody), 1, "nothing was signed");
    failed(&emergency(&site.kit, &["task", task, "--reason", "x", "--as", "bob", "--dry-run"]), 2, "kit of ann");

    let client = site.gateway.client();
    let waits = format!("/v1/tasks/{task}/wait");
    let wait = std::thread::spawn(move || client.get(&waits).unwrap());
    let said = site.revoke(&site.kit, &["task", task]);
    assert_eq!(
        (&said["counter"], &said["brought"], &said["folder"]),
        (&json!(1), &json!(1), &json!(site.kit)),
        "{said}"
    );
    assert_eq!(said["learnt"], json!({"bundles": [], "elsewhere": [], "refused": []}));
    let ended: Value = serde_json::from_slice(&wait.join().unwrap().body).unwrap();
    assert_eq!(ended["ended"], "revoked", "{ended}");
    let denied = site.gateway.authorize(token, "read", "modbus/a").unwrap();
    assert_eq!((&denied["decision"], &denied["reason"]), (&json!("deny"), &json!("revoked")), "{denied}");
    let whole = ["device", "gw-07", "--expires", "72h", "--reason", "gateway opened", "--broker", &site.url];
    done(&emergency(&site.kit, &whole));
    site.gateway.wait_status("the lock", |status| status["mode"] == "locked").unwrap();
    let shown = done(&emergency(&site.kit, &["show"]));
    let reasons = |rules: &Value| -> Vec<Value> {
        rules.as_array().into_iter().flatten().map(|rule| json!([rule["covers"], rule["reason"]])).collect()
    };
    let why = [json!(["device gw-07", "gateway opened"]), json!([format!("task {task}"), "laptop stolen"])];
    assert_eq!(reasons(&shown["keys"][0]["rules"]), why, "{shown}");
    let held = site.gateway.command(&["revocations", "show"]).unwrap();
    assert_eq!(reasons(&held["emergency"][0]["rules"]), why, "{held}");
    let out = site.folder.path().join("statement");
    assert_eq!(done(&emergency(&site.kit, &["export", "--out", path(&out)]))["counter"], 2);
    let imported = site.gateway.command(&["revocations", "import", path(&out)]).unwrap();
    assert_eq!(imported["parts"].as_array().unwrap().last().unwrap()["outcome"], "known", "{imported}");

    // What a thief of the whole kit can do at the broker.
    ask(async {
        let mut thief = connect(&site.kit, &site.url).await;
        let place = |rest: &str| format!("hardtack/1/acme/{rest}");
        for rest in [
            "feed/main/head",
            "feed/main/rules",
            "feed/main/emergency/0101010101010101",
            "bundle/3",
            "dev/gw-07/down/ack",
        ] {
            let verdict = thief.publish_retained(&place(rest), b"x").await;
            assert!(matches!(verdict, Verdict::Refused(_)), "publish {rest}: {verdict:?}");
        }
        for rest in
            ["dev/+/up/audit", "dev/gw-07/up/audit", "dev/gw-07/down/ack", "#", "feed/main/head", "feed/+/emergency/+"]
        {
            let verdict = thief.subscribe(&place(rest)).await;
            assert!(matches!(verdict, Verdict::Refused(_)), "subscribe {rest}: {verdict:?}");
        }
        thief.leave().await;
    });

    // The broker has lost what it kept and nobody serves: the kit brings it once more.
    site.broker.stop();
    site.broker.forget();
    site.broker.restart();
    let again = done(&emergency(&site.kit, &["publish", "--broker", &site.url]));
    assert_eq!(again["brought"], 2, "{again}");
    // Whoever serves later has it from there.
    site.find_the_fleet();
    let serve = site.serve.as_mut().unwrap();
    if !serve.events().iter().any(|event| event == "emergency.heard") {
        serve.wait("emergency.heard", |_| true).unwrap();
    }
    let known = done(&emergency(&site.fleet.dir, &["show"]));
    assert_eq!((&known["kit"], &known["keys"][0]["operator"]), (&json!(false), &json!("ann")), "{known}");
    assert_eq!(known["keys"][0]["rules"], shown["keys"][0]["rules"], "{known}");
    let listed = site.fleet.run(&["revocations"]).unwrap();
    assert_eq!(reasons(&listed["emergency"][0]["rules"]), why, "{listed}");
}

/// The kit is full, and an operator who needs more than one more rule can still stop everything.
#[test]
fn a_kit_with_64_rules_in_force_revokes_everything_in_their_place() {
    let mut site = Site::start();
    site.lose_the_fleet();
    let kit = Kit::open(&site.kit).unwrap();
    for task in 0..64 {
        let target = Target::Task(format!("t-{task}").parse().unwrap());
        let (life, reason) = (Millis::from_secs(30 * 3600), "laptop stolen".into());
        let order = Order { target, life, reason, clock_is_right: false };
        kit.sign(&kit.key().unwrap(), &order, clock::wall().unwrap()).unwrap();
    }
    assert_eq!(done(&emergency(&site.kit, &["publish", "--broker", &site.url]))["brought"], 64);
    site.rules(64);
    let sign = |what: &[&str]| emergency(&site.kit, &[what, &["--reason", "x", "--broker", &site.url]].concat());
    let printed = format!("hardtack fleet emergency all --dir {} --as ann --expires 30h --reason WHY", path(&site.kit));
    failed(&sign(&["owner", "ops@acme"]), 1, &format!("`{printed}`"));
    failed(&sign(&["all"]), 1, &format!("`{printed}`"));
    assert_eq!(Kit::open(&site.kit).unwrap().progress().unwrap().counter(), 64, "no number is used");
    // It runs as it is printed; no broker's address stands in this fleet's kit, so that it is named here.
    let mut command = Command::new(env!("CARGO_BIN_EXE_hardtack"));
    command.args(printed.split(' ').skip(1)).args(["-o", "json", "--broker", &site.url]);
    let said = done(&command.env_clear().stdin(Stdio::null()).output().unwrap());
    assert_eq!((&said["counter"], said["rules"].as_array().map(Vec::len)), (&json!(65), Some(1)), "{said}");
    assert_eq!(said["stands_for"].as_array().map(Vec::len), Some(64), "{said}");
    site.rules(1);
    site.gateway.wait_status("the lock", |status| status["mode"] == "locked").unwrap();
    let checked = site.gateway.command(&["revocations", "check", "--task", "t-63"]);
    assert!(checked.is_err(), "it exits 5 for what is revoked, by whichever rule: {checked:?}");
    let more = done(&sign(&["task", "t-1", "--expires", "1h"]));
    assert_eq!((&more["covered_by"], more["rules"].as_array().map(Vec::len)), (&Value::Null, Some(2)), "{more}");
}

#[test]
fn two_commands_of_one_kit_at_once_sign_two_numbers_and_the_broker_keeps_both() {
    let mut site = Site::start();
    site.lose_the_fleet();
    let run = |number: usize, file: bool| {
        let (kit, url) = (site.kit.clone(), site.url.clone());
        let out = site.folder.path().join(format!("out-{number}"));
        std::thread::spawn(move || {
            let task = format!("t-{number}");
            let to = if file { ["--out", path(&out)] } else { ["--broker", &url] };
            let said = done(&emergency(&kit, &[&["task", &task, "--reason", "x"], &to[..]].concat()));
            said["counter"].as_u64().unwrap()
        })
    };
    let threads: Vec<_> = (0..6).map(|number| run(number, number % 2 == 0)).collect();
    let mut counters: Vec<u64> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    counters.sort_unstable();
    assert_eq!(counters, [1, 2, 3, 4, 5, 6]);
    assert_eq!(done(&emergency(&site.kit, &["publish", "--broker", &site.url]))["brought"], 6);
    site.rules(6);
}

/// Numbers are the kit's alone. A copy signs the same ones, and everybody who sees both notices.
#[test]
fn a_kit_in_two_places_is_found_out_by_devices_by_the_service_and_by_the_kit() {
    let mut site = Site::start();
    let second = site.folder.path().join("kit-2");
    copy(&site.kit, &second);
    let file = site.folder.path().join("statement");
    let carried = done(&emergency(&site.kit, &["task", "t-1", "--reason", "x", "--out", path(&file)]));
    let brought = site.revoke(&second, &["task", "t-2"]);
    assert_eq!((&carried["counter"], &brought["counter"]), (&json!(1), &json!(1)), "the same number");
    site.serve.as_mut().unwrap().wait("emergency.heard", |line| line["counter"] == 1).unwrap();
    site.rules(1);
    // A device takes the first that it sees, refuses the other and records both digests.
    let mut import = Command::new(env!("CARGO_BIN_EXE_hardtack"));
    import.args(["-o", "json", "--state-dir", path(&site.gateway.state), "--run-dir"]);
    import.arg(site.folder.path().join("run-gw-07")).args(["revocations", "import", path(&file)]);
    let imported = import.env_clear().stdin(Stdio::null()).output().unwrap();
    let imported: Value = serde_json::from_slice(&imported.stdout).unwrap();
    let part = imported["parts"].as_array().unwrap().last().unwrap();
    let reason = part["reason"].as_str().unwrap();
    assert!(part["outcome"] == "refused" && reason.contains("was signed for two contents"), "{imported}");
    for digest in [&carried["digest"], &brought["digest"]] {
        assert!(reason.contains(digest.as_str().unwrap()), "{imported}");
    }
    // The service says so as soon as it sees both.
    let newest = Kit::open(&site.kit).unwrap().progress().unwrap().newest().unwrap().to_bytes();
    let place = format!("hardtack/1/acme/feed/main/emergency/{}", site.key());
    ask(async {
        let mut first = connect(&site.kit, &site.url).await;
        assert_eq!(first.publish(&place, &newest).await, Verdict::Accepted);
        first.leave().await;
    });
    let forked = site.serve.as_mut().unwrap().wait("emergency.forked", |line| line["counter"] == 1).unwrap();
    assert!(forked["action"].as_str().unwrap().contains("key remove emergency"), "{forked}");
    // And so does the first kit, which goes on past both and loses nothing of either.
    let next = site.revoke(&site.kit, &["task", "t-3"]);
    assert_eq!((&next["counter"], &next["learnt"]["elsewhere"][0]["twice"]), (&json!(2), &json!(true)), "{next}");
    site.rules(3);
    let last = site.revoke(&second, &["task", "t-4"]);
    assert_eq!((&last["counter"], &last["learnt"]["elsewhere"][0]["counter"]), (&json!(3), &json!(2)), "{last}");
    site.rules(4);
}

#[test]
fn a_kit_walks_up_to_the_newest_trust_bundle_and_ends_with_its_key() {
    let mut site = Site::start();
    site.fleet.run(&["key", "add", "emergency", "--name", "bob"]).unwrap();
    let named =
        site.gateway.wait_status("bob's bundle", |status| status["bundle_version"].as_u64() >= Some(3)).unwrap();
    let newest = named["bundle_version"].as_u64().unwrap();
    let said = site.revoke(&site.kit, &["task", "t-1"]);
    assert_eq!(said["learnt"]["bundles"], json!((3..=newest).collect::<Vec<u64>>()), "{said}");
    assert_eq!(done(&emergency(&site.kit, &["show"]))["bundle_version"], newest);
    site.rules(1);
    // In the fleet's folder nobody has ann's key any more, and a name that nobody has is met with those that there are.
    let there = |name: &str| emergency(&site.fleet.dir, &["task", "t-1", "--reason", "x", "--as", name, "--dry-run"]);
    failed(&there("ann"), 1, "in the kit that was made for ann");
    failed(&there("eve"), 1, "ann, bob");
    failed(&emergency(site.folder.path(), &["show"]), 1, "neither an emergency kit nor a fleet's folder");
    for wrong in ["73h", "0s"] {
        failed(&emergency(&site.kit, &["all", "--reason", "x", "--expires", wrong, "--dry-run"]), 2, "72h");
    }
    let longest = done(&emergency(&site.kit, &["all", "--reason", "x", "--expires", "72h", "--dry-run"]));
    assert_eq!(longest["shorter_s"], 300, "{longest}");
    site.fleet.run(&["key", "remove", "emergency", "--name", "ann", "--compromised"]).unwrap();
    site.gateway.wait_status("ann is gone", |status| status["bundle_version"].as_u64() > Some(newest)).unwrap();
    site.serve.take().unwrap().kill();
    let gone = emergency(&site.kit, &["task", "t-2", "--reason", "x", "--broker", &site.url]);
    failed(&gone, 1, "nothing was signed");
    assert_eq!(Kit::open(&site.kit).unwrap().progress().unwrap().counter(), 1);
    site.rules(1);
}

/// The authority's key is elsewhere: nothing is named, and nothing given away, that nobody could use then.
#[test]
fn a_key_stays_where_it_is_until_its_kit_can_be_completed() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let (fleet, authority) = (at("fleet"), at("ca.key"));
    let run = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hardtack"));
        command.args(["-o", "json", "fleet"]).args(args).env_clear().stdin(Stdio::null()).output().unwrap()
    };
    let add = |name: &str, kit: &Path| {
        run(&["key", "add", "emergency", "--name", name, "--kit", path(kit), "--dir", path(&fleet)])
    };
    done(&run(&["init", path(&fleet), "--name", "acme", "--no-passphrase"]));
    done(&run(&["key", "add", "emergency", "--name", "bob", "--dir", path(&fleet)]));
    std::fs::rename(fleet.join("broker/ca.key"), &authority).unwrap();
    for (name, kit) in [("ann", at("kit-ann")), ("bob", at("kit-bob"))] {
        failed(&add(name, &kit), 1, "broker/ca.key");
        failed(&emergency(&kit, &["all", "--reason", "x", "--dry-run"]), 1, "not complete");
    }
    let known = done(&emergency(&fleet, &["show"]));
    assert_eq!((&known["bundle_version"], known["keys"].as_array().map(Vec::len)), (&json!(2), Some(1)), "{known}");
    let file = fleet.join("keys/emergency.bob.key");
    let sign = ["all", "--reason", "x", "--as", "bob", "--dry-run"];
    assert!(file.exists() && done(&emergency(&fleet, &sign))["counter"] == 1, "bob can revoke still");
    std::fs::rename(&authority, fleet.join("broker/ca.key")).unwrap();
    assert_eq!(done(&add("bob", &at("kit-bob")))["bundle_version"], 2);
    assert_eq!(done(&add("ann", &at("kit-ann")))["bundle_version"], 3);
    assert!(!file.exists());
    for name in ["kit-ann", "kit-bob"] {
        assert_eq!(done(&emergency(&at(name), &["all", "--reason", "x", "--dry-run"]))["counter"], 1, "{name}");
    }
}

/// The root keys are elsewhere and all keys have passphrases: the kit is begun, and completed by the same command.
#[test]
fn a_kit_waits_for_the_root_keys_and_has_a_passphrase() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::write(at("right"), "correct horse battery\n").unwrap();
    std::fs::write(at("wrong"), "wrong horse battery\n").unwrap();
    let run = |passphrase: &str, args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hardtack"));
        command.args(["-o", "json", "fleet"]).args(args).env_clear().env("HARDTACK_PASSPHRASE_FD", "0");
        command.stdin(std::fs::File::open(at(passphrase)).unwrap()).output().unwrap()
    };
    let (fleet, kit, usb, proposal) = (at("fleet"), at("kit"), at("root.key"), at("proposal"));
    done(&run("right", &["init", path(&fleet), "--name", "acme"]));
    std::fs::rename(fleet.join("keys/root.key"), &usb).unwrap();
    let add = [
        "key",
        "add",
        "emergency",
        "--name",
        "ann",
        "--kit",
        path(&kit),
        "--dir",
        path(&fleet),
        "--proposal",
        path(&proposal),
    ];
    let asked = run("right", &add);
    assert_eq!(asked.status.code(), Some(11), "{asked:?}");
    assert!(String::from_utf8_lossy(&asked.stderr).contains("completes the kit"), "{asked:?}");
    let order = ["emergency", "all", "--reason", "x", "--dry-run", "--dir", path(&kit)];
    failed(&run("right", &order), 1, "not complete");
    // On the machine of whoever keeps the root key, at a terminal or with one passphrase.
    done(&run("right", &["key", "sign", path(&proposal), "--root", path(&usb), "--yes"]));
    done(&run("right", &["key", "submit", path(&proposal), "--dir", path(&fleet)]));
    assert_eq!(done(&run("right", &add))["bundle_version"], 2);
    assert!(!fleet.join("keys/emergency.ann.key").exists());
    assert_eq!(done(&run("right", &order))["counter"], 1);
    failed(&run("wrong", &order), 1, "the passphrase does not open");
    let other = at("kit-2");
    let second = ["key", "add", "emergency", "--name", "ann", "--kit", path(&other), "--dir", path(&fleet)];
    failed(&run("right", &second), 1, "is in the kit that was made for ann");
}
