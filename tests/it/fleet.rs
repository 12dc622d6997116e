//! The operator's commands, with the built binary on a folder of their own.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

use hardtack::agent::effects::LinkCommand;
use hardtack::agent::LinkEvent;
use hardtack::ids::Nonce;
use hardtack::shell::clock;
use hardtack::shell::mqtt::Link;
use hardtack::wire::bundle::Fingerprint;
use hardtack::wire::enrol::{DeviceKeys, EnrolAnswer, EnrolRequest};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use serde_json::Value;

use crate::mqtt::{config, fleet};
use crate::support::mosquitto::Mosquitto;

/// A fleet's folder and what its commands answer.
struct Operator {
    folder: tempfile::TempDir,
    fingerprint: String,
}

impl Operator {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("fleet");
        let args = ["init", dir.to_str().unwrap(), "--name", "acme", "--no-passphrase"];
        let made = json(&hardtack(&args).output().unwrap(), 0);
        Self { fingerprint: made["fingerprint"].as_str().unwrap().to_owned(), folder }
    }

    fn dir(&self) -> PathBuf {
        self.folder.path().join("fleet")
    }

    fn output(&self, args: &[&str]) -> Output {
        hardtack(args).arg("--dir").arg(self.dir()).output().unwrap()
    }

    /// The command's answer, once it has ended as it should.
    #[track_caller]
    fn run(&self, args: &[&str]) -> Value {
        json(&self.output(args), 0)
    }

    /// The command's error, once it has failed with this number.
    #[track_caller]
    fn fail(&self, args: &[&str], exit: i32) -> String {
        json(&self.output(args), exit)["error"].as_str().unwrap().to_owned()
    }

    /// Writes the request of a device and gives its path and code.
    fn request(&self, id: &str, keys: &DeviceKeys) -> (String, String) {
        let device = id.parse().unwrap();
        let request = EnrolRequest { device, keys: keys.public(), nonce: Nonce([7; 16]), profile: "p".into() };
        let signed = request.sign(keys);
        let path = self.folder.path().join(format!("{id}.req"));
        std::fs::write(&path, signed.to_bytes()).unwrap();
        (path.to_str().unwrap().to_owned(), EnrolRequest::code(&signed).to_string())
    }

    fn bundle(&self) -> String {
        self.folder.path().join("bundle").to_str().unwrap().to_owned()
    }

    fn approve(&self, id: &str, keys: &DeviceKeys) -> Value {
        let (request, code) = self.request(id, keys);
        self.run(&["device", "approve", &request, "--code", &code, "--out", &self.bundle()])
    }

    fn grant(&self, id: &str) -> Value {
        json(&self.try_grant(id), 0)
    }

    fn try_grant(&self, id: &str) -> Output {
        let mut args = vec!["grant", "create", "--device", id, "--may-begin", "unix:uid:1001=pump"];
        args.extend(["--right", "pump:write:modbus/pump1/speed", "--right", "pump:read:modbus/*"]);
        args.extend(["--offline-max", "3d", "--uses-max", "1000", "--boots-max", "20", "--task-ttl-max", "15m"]);
        self.output(&args)
    }
}

fn hardtack(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hardtack"));
    command.args(["-o", "json", "fleet"]).args(args).env_clear().env("HOME", "/nonexistent").stdin(Stdio::null());
    command
}

/// What a command prints that is not about the fleet.
fn hardtack_plain(args: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hardtack"));
    let output = command.args(args).env_clear().env("HOME", "/nonexistent").stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn json(output: &Output, exit: i32) -> Value {
    let text = if output.stdout.is_empty() { &output.stderr } else { &output.stdout };
    let text = String::from_utf8_lossy(text);
    assert_eq!(output.status.code(), Some(exit), "{text}");
    serde_json::from_str(&text).unwrap_or_else(|_| panic!("no JSON: {text}"))
}

fn keys(seed: u8) -> DeviceKeys {
    DeviceKeys::generate(&mut ChaCha20Rng::from_seed([seed; 32]))
}

#[test]
fn a_device_is_let_in_once_its_code_is_compared() {
    let operator = Operator::new();
    let (mine, bundle) = (keys(1), operator.bundle());
    let (request, code) = operator.request("gw-07", &mine);
    let other = operator.request("gw-08", &keys(2)).1;
    let refused = operator.fail(&["device", "approve", &request, "--code", &other, "--out", &bundle], 3);
    assert!(refused.contains("does not belong") && !refused.contains(&code), "{refused}");
    assert!(!Path::new(&bundle).exists());
    operator.fail(&["device", "approve", &request, "--code", "short", "--out", &bundle], 2);
    let approved = operator.approve("gw-07", &mine);
    assert_eq!(approved["approval"], "joined");
    operator.grant("gw-07");
    assert_eq!(operator.approve("gw-07", &mine)["approval"], "already", "and writes the bundle anew");

    let answer = EnrolAnswer::from_bytes(&std::fs::read(&bundle).unwrap()).unwrap();
    let fingerprint: Fingerprint = operator.fingerprint.parse().unwrap();
    let (opened, trust) = answer.open(&mine, &fingerprint, Nonce([7; 16])).unwrap();
    assert_eq!((opened.grants.len(), opened.feeds.len(), trust.version), (1, 1, 1));
    assert!(!opened.certificate.is_empty());

    let (request, code) = operator.request("gw-07", &keys(3));
    let another = ["device", "approve", &request, "--code", &code, "--out", &bundle];
    assert!(operator.fail(&another, 3).contains("--replace"));
    let replace = |device: &'static str| {
        let args = ["device", "replace", device, &request, "--code", &code, "--out", &bundle];
        args.map(str::to_owned)
    };
    let run = |args: [String; 8], exit: i32| {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        json(&operator.output(&args), exit)
    };
    assert!(run(replace("gw-09"), 1)["error"].as_str().unwrap().contains("not of gw-09"));
    let replaced = run(replace("gw-07"), 0);
    assert_eq!(replaced["approval"], "replaced");
    let shown = operator.run(&["device", "show", "gw-07"]);
    assert_eq!(shown["past_identities"], serde_json::json!([replaced["burned"]]));
    assert_eq!(run(replace("gw-07"), 0)["burned"], Value::Null, "it was replaced before");
    let (old, old_code) = operator.request("gw-07", &mine);
    assert!(operator
        .fail(&["device", "replace", "gw-07", &old, "--code", &old_code, "--out", &bundle], 3)
        .contains("retired"));
    let (request, code) = operator.request("gw-07", &keys(3));
    let another = ["device", "approve", &request, "--code", &code, "--out", &bundle];
    operator.run(&["device", "retire", "gw-07", "--reason", "scrapped"]);
    assert!(operator.fail(&another, 3).contains("retired"));
    let listed = operator.run(&["device", "list"]);
    assert_eq!((&listed["devices"][0]["status"], &listed["devices"][0]["grants"]), (&"retired".into(), &0.into()));
}

#[test]
fn a_revoked_device_gets_nothing_and_is_listed_as_revoked() {
    let operator = Operator::new();
    operator.approve("gw-07", &keys(1));
    let id = operator.grant("gw-07")["id"].clone();
    let grants = || operator.run(&["grant", "list"])["grants"].clone();
    assert_eq!((&grants()[0]["state"], &grants()[0]["revoked"]), (&"live".into(), &Value::Null));
    operator.run(&["revoke", "grant", id.as_str().unwrap()]);
    assert_eq!(grants()[0]["state"], "revoked");
    let whole = grants()[0]["revoked"].as_str().unwrap().to_owned();
    assert!(whole.starts_with(&format!("grant {} is revoked until ", id.as_str().unwrap())), "{whole}");
    let state = || {
        let device = operator.run(&["device", "list"])["devices"][0].clone();
        (device["status"].as_str().unwrap().to_owned(), device["revoked"].clone())
    };
    assert_eq!(state(), ("approved".into(), Value::Null));
    let until = operator.run(&["revoke", "device", "gw-07"])["until"].as_str().unwrap().to_owned();
    let why = format!("device gw-07 is revoked until {until}");
    assert_eq!(state(), ("revoked".into(), why.clone().into()));
    assert_eq!(grants()[0]["revoked"], why, "by what lasts longest");
    let refused = json(&operator.try_grant("gw-07"), 5);
    assert!(refused["error"].as_str().unwrap().starts_with(&why), "{refused}");
    let ask = ["--class", "pump", "--selector", "unix:uid:1001", "--right", "read:modbus/a", "--ttl", "5m"];
    let refused = operator.fail(&[&["issue", "--device", "gw-07"][..], &ask].concat(), 5);
    assert!(refused.starts_with(&why), "{refused}");
    // Its request was approved before.
    let (request, code) = operator.request("gw-07", &keys(1));
    let again = ["device", "approve", &request, "--code", &code, "--out", &operator.bundle()];
    std::fs::remove_file(operator.bundle()).unwrap();
    assert!(operator.fail(&again, 5).starts_with(&why));
    assert!(!Path::new(&operator.bundle()).exists(), "and no bundle is written");
}

#[test]
fn what_goes_into_no_feed_is_not_told_as_done() {
    let operator = Operator::new();
    operator.approve("gw-07", &keys(1));
    let output = operator.output(&["revoke", "group", "nope", "--wait", "--timeout", "60s"]);
    let told = json(&output, 11);
    assert_eq!((&told["known"], &told["state"]), (&false.into(), &"nowhere".into()), "{told}");
    assert_eq!(told["wait"]["complete"], false, "{told}");
    let rules = operator.run(&["revocations"])["rules"].clone();
    assert_eq!((&rules[0]["state"], &rules[0]["feeds"]), (&"nowhere".into(), &Value::Array(Vec::new())));
    let mut human = Command::new(env!("CARGO_BIN_EXE_hardtack"));
    human.args(["fleet", "revoke", "group", "nope", "--dir"]).arg(operator.dir());
    let said = human.env_clear().env("HOME", "/nonexistent").stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8(said.stdout).unwrap();
    assert!(said.contains("no device hears of it") && !said.contains("publishes it at once"), "{said}");
    // Once a device is in such a group it goes where that is.
    operator.run(&["group", "add", "nope", "gw-07"]);
    assert_eq!(operator.run(&["revocations"])["rules"][0]["state"], "signed");
    assert_eq!(operator.run(&["revoke", "root-key", "99", "--dry-run"])["known"], false);
    assert_eq!(operator.run(&["revoke", "root-key", "1", "--dry-run"])["known"], true);
}

#[test]
fn what_operators_did_is_listed_and_checked() {
    let operator = Operator::new();
    operator.approve("gw-07", &keys(1));
    let id = operator.grant("gw-07")["id"].as_str().unwrap().to_owned();
    let issue = ["--class", "pump", "--selector", "unix:uid:1001", "--right", "read:modbus/a", "--ttl", "5m"];
    let token = operator.run(&[&["issue", "--device", "gw-07"][..], &issue].concat());
    assert_eq!((&token["cut"], &token["grant"]), (&false.into(), &id.clone().into()));
    let long = [&["issue", "--device", "gw-07"][..], &issue[..6], &["--ttl", "30d"]].concat();
    let output = operator.output(&long);
    let (cut, told) = (json(&output, 0), String::from_utf8_lossy(&output.stderr).into_owned());
    assert_eq!(cut["cut"], true, "{cut}");
    assert!(told.contains(&format!("ends at {}, sooner", cut["expires"].as_str().unwrap())), "{told}");
    let refused = operator.fail(
        &[
            "issue",
            "--device",
            "gw-07",
            "--class",
            "pump",
            "--selector",
            "unix:uid:0",
            "--right",
            "read:x",
            "--ttl",
            "5m",
        ],
        1,
    );
    assert!(refused.contains("no live grant lets"), "{refused}");

    let text = token["token"].as_str().unwrap();
    let dry = operator.run(&["revoke", "token", text, "--dry-run"]);
    assert_eq!((&dry["target"]["kind"], &dry["target"]["value"]), (&"block".into(), &token["block"]));
    assert_eq!(operator.run(&["revocations"])["rules"], Value::Array(Vec::new()), "a dry run revokes nothing");
    assert_eq!(dry["remains"]["blocks"], Value::Array(Vec::new()), "the issuer's block is the first");
    let narrowed = hardtack_plain(&["token", "attenuate", text, "--ttl", "1m"]);
    let dry = operator.run(&["revoke", "token", narrowed.trim(), "--dry-run"]);
    assert_eq!(dry["remains"]["blocks"], serde_json::json!([token["block"]]));
    let instead: Vec<&str> = dry["remains"]["instead"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert!(instead[0].starts_with("hardtack fleet revoke task t-"), "{instead:?}");
    assert_eq!(instead[1], "hardtack fleet revoke device gw-07");
    let cost = |name: &str| dry["cost"][name].as_u64().unwrap();
    assert!(cost("set_bytes_after") - cost("set_bytes_before") < 49 && cost("sent_to_each_device") > 0);
    assert_eq!((&dry["devices"][0]["device"], &dry["devices"][0]["reachable"]), (&"gw-07".into(), &false.into()));
    let scada = [&["issue", "--device", "gw-07", "--audience", "scada", "--task", "t-scada"][..], &issue].concat();
    let scada = operator.run(&scada)["block"].clone();
    let every = [token["block"].clone(), cut["block"].clone(), scada.clone()];
    for (what, count) in [
        (&["all"][..], 3),
        (&["device", "gw-07"], 3),
        (&["grant", &id], 3),
        (&["root-key", "1"], 3),
        (&["issued-before", "2020-01-01T00:00:00Z"], 0),
        (&["audience", "scada"], 1),
        (&["task", "t-scada"], 1),
        (&["owner", "mallory@acme"], 0),
        (&["group", "north"], 0),
        (&["device", "gw-08"], 0),
    ] {
        let covers = operator.run(&[&["revoke"][..], what, &["--dry-run"]].concat())["covers"].clone();
        assert_eq!(covers["issued_count"], count, "{what:?}: {covers}");
        let blocks = covers["issued_tokens"].as_array().unwrap();
        let expected = if count == 1 { std::slice::from_ref(&scada) } else { &every[..count] };
        assert!(blocks.len() == count && expected.iter().all(|block| blocks.contains(block)), "{what:?}: {covers}");
    }
    let dry = operator.run(&["revoke", "grant", &id, "--dry-run"]);
    let owner = operator.run(&["grant", "list"])["grants"][0]["owner"].as_str().unwrap().to_owned();
    assert_eq!(operator.run(&["revoke", "owner", &owner, "--dry-run"])["covers"]["issued_count"], 3);
    assert_eq!(dry["covers"]["devices"][0], "gw-07");
    operator.run(&["--operator", "bob", "revoke", "grant", &id, "--reason", "a test"]);
    operator.fail(&["revoke", "grant", &id, "--expires", "1h"], 1);
    operator.fail(&["revoke", "token", "junk"], 12);
    assert_eq!(operator.run(&["revocations"])["rules"][0]["state"], "waiting");

    let acts = operator.run(&["audit", "acts"]);
    let told: Vec<&str> = acts["acts"].as_array().unwrap().iter().map(|act| act["act"].as_str().unwrap()).collect();
    assert_eq!(told, ["founded", "approved", "granted", "issued", "issued", "issued", "revoked"]);
    assert_eq!((&acts["acts"][6]["operator"], &acts["acts"][6]["reason"]), (&"bob".into(), &"a test".into()));

    let ledger = rusqlite::Connection::open(operator.dir().join("fleet.db")).unwrap();
    let taken = "UPDATE book SET value = (SELECT value FROM book WHERE name LIKE 'act/%1') WHERE name LIKE 'act/%2'";
    ledger.execute(taken, []).unwrap();
    assert!(operator.fail(&["audit", "acts"], 12).contains("act 2"));
}

#[test]
fn a_new_fleet_goes_where_one_folder_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let init = |args: &[&str], variable: Option<&str>| {
        let mut command = hardtack(&[&["init", "--name", "acme", "--no-passphrase"][..], args].concat());
        command.envs(variable.map(|dir| ("HARDTACK_FLEET_DIR", dir))).output().unwrap()
    };
    assert_eq!(json(&init(&["--dir", &at("a")], None), 0)["dir"], at("a"));
    assert_eq!(json(&init(&[], Some(&at("b"))), 0)["dir"], at("b"));
    assert_eq!(json(&init(&[&at("c"), "--dir", &at("c")], None), 0)["dir"], at("c"));
    for (args, variable) in [(vec![at("d"), "--dir".into(), at("e")], None), (vec![at("d")], Some(at("e")))] {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let refused = json(&init(&args, variable.as_deref()), 2);
        assert!(refused["error"].as_str().unwrap().contains("two folders"), "{refused}");
    }
    json(&init(&[], None), 2);
    assert!(!Path::new(&at("d")).exists() && !Path::new(&at("e")).exists());
}

#[test]
fn a_folder_that_is_open_to_others_or_broken_is_refused_with_advice() {
    let operator = Operator::new();
    let dir = operator.dir();
    let again = ["init", dir.to_str().unwrap(), "--name", "acme", "--no-passphrase"];
    let output = hardtack(&again).output().unwrap();
    assert!(json(&output, 1)["error"].as_str().unwrap().contains("exists already"));

    let key = dir.join("keys/operator.key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let error = operator.fail(&["revoke", "all"], 1);
    assert!(error.contains("chmod 600"), "{error}");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();

    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o755)).unwrap();
    assert!(operator.fail(&["device", "list"], 1).contains("chmod 700"));
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o700)).unwrap();

    let toml = dir.join("fleet.toml");
    let text = std::fs::read_to_string(&toml).unwrap();
    std::fs::write(&toml, format!("{text}colour = 1\n")).unwrap();
    assert!(operator.fail(&["device", "list"], 1).contains("colour"));
    std::fs::write(&toml, text.replace("acme", "other")).unwrap();
    assert!(operator.fail(&["device", "list"], 1).contains("acme"));
    std::fs::remove_file(&toml).unwrap();
    assert!(operator.fail(&["device", "list"], 1).contains("fleet init"));
}

/// What no fleet could do, whatever its ledger holds, is a mistake in the arguments, and one and the same number.
#[test]
fn arguments_that_nothing_can_have_are_usage() {
    let operator = Operator::new();
    operator.approve("gw-07", &keys(1));
    let grant = "grant create --device gw-07 --may-begin unix:uid:1=pump --right pump:read:a --boots-max 1";
    let issue = "issue --device gw-07 --class pump --selector unix:uid:1 --right read:a";
    let bad = [
        "init --name x_y! --no-passphrase",
        "init --name b --roots 0",
        "init --name b --roots 9",
        "init --name b --threshold 0",
        "init --name b --roots 2 --threshold 3",
        "key roots --roots 0 --threshold 1",
        "key roots --roots 2 --threshold 3",
        "key rotate root 0",
        "key rotate feed 1",
        "device list --operator _",
        "device retire gw-07 --reason _",
        "revoke owner _",
        "revoke audience _",
        "revoke task t-1 --reason _",
        "revoke task t-1 --expires 0s",
        "revoke task t-1 --expires soon",
        "revoke issued-before 2999-01-01T00:00:00Z",
        "revoke token /no/file",
        "revoke token @/no/file",
        "key sign /no/file --root /no/key",
        "key submit /no/file",
        "policy set /no/file",
        "device approve /no/file --code AAAA-AAAA-AAAA-AAAA --out /no/bundle",
    ];
    let limits = ["--offline-max", "--task-ttl-max", "--expires", "--uses-max"].map(|zero| {
        let value = |name: &str, value: &str| format!("{name} {}", if name == zero { "0" } else { value });
        let [offline, ttl, life] = [("--offline-max", "1d"), ("--task-ttl-max", "1h"), ("--expires", "1d")]
            .map(|(name, usual)| if name == zero { format!("{name} 0s") } else { value(name, usual) });
        format!("{grant} {offline} {ttl} {life} {}", value("--uses-max", "5"))
    });
    let idle = format!("{grant} --right idle:read:a --offline-max 1d --task-ttl-max 1h --uses-max 1");
    let bounded = format!("{grant} --offline-max 1d --task-ttl-max 1h --uses-max 1");
    let whom = ["--may-begin uid:1=pump", "--may-begin systemd:id:meter=pump", "--may-step unix:gid:1=pump"]
        .map(|whom| format!("{bounded} {whom}"));
    let issued = ["--ttl 0s", "--ttl 1m --uses 0"].map(|rest| format!("{issue} {rest}"));
    let many = format!("group add g {}", (0..101).map(|n| format!("gw-{n}")).collect::<Vec<_>>().join(" "));
    let generated = limits.iter().chain(&issued).chain(&whom).chain([&idle, &many]).map(String::as_str);
    for line in bad.into_iter().chain(generated) {
        // A blank is what no name is.
        let args: Vec<&str> = line.split(' ').map(|word| if word == "_" { " " } else { word }).collect();
        let output = operator.output(&args);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), output.stdout.is_empty()), (Some(2), true), "{line}: {said}");
        assert!(!line.contains("/no/") || said.contains("/no/file") && said.contains("name"), "{line}: {said}");
    }
}

/// What a test lets pass, no device may refuse afterwards.
#[test]
fn a_policy_is_refused_when_it_is_tried_as_when_it_is_set() {
    let operator = Operator::new();
    let risks = "[[risks]]\nclass = \"low\"\n";
    let rule = |resource: &str, risk: &str| {
        format!("[[risk_rules]]\noperation = \"read\"\nresource = \"{resource}\"\nrisk = \"{risk}\"\n")
    };
    let open =
        "datalog = '''\n// no writing\ndeny if operation($o), $o.matches(\"^(write|calibrate$\");\nallow if true;\n'''";
    let foreign = "datalog = 'check if operation($o), $o.extern::foo(); allow if true;'";
    let cases = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/examples/policy-cases.toml");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("policy.toml");
    for (text, told) in [
        (open, "policy 1 \"no writing\": the regular expression \"^(write|calibrate$\" is none (unclosed group)"),
        (foreign, "check 1: no device has a function `extern::foo`"),
        (&format!("{risks}{risks}"), "the table of risks names class low twice"),
        (&format!("{risks}{}", rule("a", "high")), "names risk high, which is not in the table"),
        (&rule("a/../b", "low"), "on \"a/../b\" is about no resource"),
    ] {
        std::fs::write(&file, text).unwrap();
        let file = file.to_str().unwrap();
        for args in [&["policy", "test", cases, "--policy", file][..], &["policy", "set", file]] {
            let said = operator.fail(args, 2);
            assert!(said.contains(told), "{args:?}: {said}");
        }
    }
}

#[test]
fn a_dry_run_says_who_would_hear_of_it() {
    let operator = Operator::new();
    for (group, hears) in [("north", true), ("nowhere", false)] {
        operator.run(&["group", "add", "north", "gw-07"]);
        let dir = operator.dir();
        let args = ["fleet", "revoke", "group", group, "--dry-run", "--dir", dir.to_str().unwrap()];
        let said = hardtack_plain(&args);
        assert_eq!(said.contains("are sent to each device"), hears, "{said}");
        assert_eq!(said.contains("no device would hear of it"), !hears, "{said}");
    }
}

/// As the README has it: the variable for the fleet's folder, and the folder as an argument beside it, mean one.
#[test]
fn a_new_fleet_goes_into_the_one_folder_that_is_named_however_often() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("fleet");
    let init = |argument: &Path, name: &str| {
        let mut command = hardtack(&["init", argument.to_str().unwrap(), "--name", name, "--no-passphrase"]);
        command.current_dir(folder.path()).env("HARDTACK_FLEET_DIR", &dir).output().unwrap()
    };
    let refused = json(&init(&folder.path().join("other"), "acme"), 2)["do"].to_string();
    assert!(refused.contains("leave DIR out"), "{refused}");
    json(&init(Path::new("./fleet/"), "acme"), 0);
    assert!(dir.join("fleet.toml").exists());
}

/// The commands that `restore` prints, as a shell takes them, for two feeds, with and without a broker in fleet.toml.
#[test]
fn what_a_restore_says_to_do_works_as_it_is_printed() {
    let broker = Mosquitto::open();
    let url = format!("mqtt://{}", broker.addr());
    for brokers in [&["--broker", &url][..], &[]] {
        let folder = tempfile::tempdir().unwrap();
        // Where the shell has to be told what is one word.
        let operator = Operator { fingerprint: String::new(), folder };
        let dir = operator.folder.path().join("it's a fleet");
        let at = |args: &[&str]| json(&hardtack(args).arg("--dir").arg(&dir).output().unwrap(), 0);
        at(&[&["init", "--name", "acme", "--no-passphrase"], brokers].concat());
        at(&["group", "add", "north", "gw-07"]);
        at(&["feed", "add", "f-north", "--group", "north"]);
        let copy = operator.folder.path().join("copy");
        at(&["backup", "--out", copy.to_str().unwrap()]);
        at(&["revoke", "task", "t-1"]);
        at(&["publish", "--broker", &url]);
        let restored = at(&["restore", copy.to_str().unwrap()]);
        assert_eq!(restored["feeds"].as_array().unwrap().len(), 2, "{restored}");
        at(&["revoke", "task", "t-1"]);

        let path = Path::new(env!("CARGO_BIN_EXE_hardtack")).parent().unwrap();
        let mut shell = Command::new("/bin/sh");
        shell.env_clear().env("PATH", path).env("HOME", "/nonexistent").args(["-c", restored["do"].as_str().unwrap()]);
        let ran = shell.output().unwrap();
        assert_eq!(ran.status.code(), Some(0), "{ran:?}");
        let said = String::from_utf8_lossy(&ran.stdout).into_owned();
        let last = if brokers.is_empty() { "hardtack fleet serve --dir '" } else { "messages, the newest head is" };
        assert!(said.contains("nothing is signed before the others") && said.contains(last), "{said}");
        let shown = at(&["revocations"]);
        assert_eq!((&shown["halted"], shown["heads"].as_array().unwrap().len()), (&Value::Null, 2), "{shown}");
        assert_eq!(at(&["publish", "--broker", &url])["signed"], "here");
    }
}

/// Whoever named the folder is in another one: what he is told to run next has to name it too.
#[test]
fn what_is_to_be_run_next_names_the_folder_that_was_named() {
    let fleet = Operator::new();
    let place = format!(" --dir {}", fleet.dir().display());
    for (args, exit, next) in [
        (&["key", "add", "emergency", "--name", "ann"][..], 0, &["publish", "backup"][..]),
        (&["key", "remove", "emergency", "--name", "ann"], 0, &["publish", "backup"]),
        (&["key", "rotate", "policy"], 0, &["publish", "backup"]),
        (&["key", "roots", "--roots", "2", "--threshold", "2"], 0, &["backup"]),
        (&["revoke", "all", "--wait", "--timeout", "0s"], 11, &["serve"]),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hardtack"));
        command.arg("fleet").args(args).arg("--dir").arg(fleet.dir());
        let output = command.env_clear().stdin(Stdio::null()).output().unwrap();
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert_eq!(output.status.code(), Some(exit), "{args:?}: {said}");
        for next in next {
            assert!(said.contains(&format!("hardtack fleet {next}{place}")), "{args:?}: {said}");
        }
        let commands = said.match_indices("hardtack fleet ").filter(|(at, _)| !said[..*at].ends_with(['`', '/']));
        for (at, _) in commands {
            let line = said[at..].lines().next().unwrap_or_default();
            assert!(line.contains(&place), "{args:?}: {line}");
        }
    }
}

#[test]
fn a_ledger_comes_back_from_a_copy_and_signs_only_when_somebody_vouches() {
    let operator = Operator::new();
    operator.approve("gw-07", &keys(1));
    let copy = operator.folder.path().join("copy");
    let out = copy.to_str().unwrap();
    let made = operator.run(&["backup", "--out", out]);
    assert_eq!((&made["feed_seq"], &made["devices"], &made["checked"]), (&1.into(), &1.into(), &true.into()));
    assert_eq!(std::fs::metadata(&copy).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(operator.fail(&["backup", "--out", out], 1).contains("not overwritten"));
    let digest = made["sha256"].as_str().unwrap();
    let summed = Command::new("sha256sum").arg(&copy).output().unwrap();
    assert!(String::from_utf8_lossy(&summed.stdout).starts_with(digest), "{digest}");

    operator.run(&["revoke", "task", "t-1"]);
    operator.approve("gw-08", &keys(2));
    operator.run(&["device", "retire", "gw-07"]);
    let broker = Mosquitto::open();
    let url = format!("mqtt://{}", broker.addr());
    let publish = ["publish", "--broker", &url];
    assert_eq!(operator.run(&publish)["feed_seq"], 2);

    assert!(operator.fail(&["restore", out, "--digest", &"0".repeat(64)], 12).contains("SHA-256"));
    let junk = operator.folder.path().join("junk");
    let mut bytes = std::fs::read(&copy).unwrap();
    bytes[4096..].fill(0x5a);
    std::fs::write(&junk, bytes).unwrap();
    operator.fail(&["restore", junk.to_str().unwrap()], 12);
    assert_eq!(operator.run(&["revocations"])["rules"].as_array().unwrap().len(), 1, "nothing was changed");
    {
        let held = rusqlite::Connection::open(operator.dir().join("fleet.db")).unwrap();
        held.query_row("SELECT count(*) FROM book", [], |row| row.get::<_, i64>(0)).unwrap();
        assert!(operator.fail(&["restore", out], 75).contains("in use"));
    }

    let restored = operator.run(&["restore", out, "--digest", digest]);
    assert_eq!((&restored["after"], &restored["known"]), (&2.into(), &true.into()), "{restored}");
    assert_eq!(restored["lost"]["rules"][0]["value"], "t-1");
    assert_eq!(restored["lost"]["devices"], serde_json::json!(["gw-07", "gw-08"]));
    assert!(Path::new(restored["kept"].as_str().unwrap()).exists());
    assert!(operator.fail(&publish, 1).contains("--after 2"));
    assert!(operator.fail(&[&publish[..], &["--after", "1"]].concat(), 1).contains("--after 2 or more"));
    operator.run(&["revoke", "task", "t-1"]);
    assert_eq!(
        operator.run(&[&publish[..], &["--after", "2"]].concat())["feed_seq"],
        4,
        "head 2 is lost, and its digest"
    );
    let acts = operator.run(&["audit", "acts"]);
    let told: Vec<&str> = acts["acts"].as_array().unwrap().iter().map(|act| act["act"].as_str().unwrap()).collect();
    assert_eq!(told, ["founded", "approved", "restored", "revoked", "resumed"]);

    let literally = restored["do"].as_str().unwrap();
    assert!(literally.contains(&format!("--dir {} --feed main --after 2", operator.dir().display())), "{literally}");

    std::fs::write(operator.dir().join("fleet.db"), "not a ledger at all").unwrap();
    assert!(operator.fail(&["device", "list"], 1).contains("hardtack fleet restore"));
    let restored = operator.run(&["restore", restored["kept"].as_str().unwrap()]);
    assert_eq!((&restored["known"], &restored["lost"]), (&false.into(), &Value::Null));
    assert_eq!(operator.run(&["device", "list"])["devices"].as_array().unwrap().len(), 2);
}

#[test]
fn commands_of_later_versions_say_so() {
    let operator = Operator::new();
    assert!(operator.fail(&["report"], 2).contains("is not in this version"));
    operator.fail(&["serve"], 2);
}

#[test]
fn encrypted_keys_need_their_passphrase() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("fleet");
    let with = |passphrase: &str, args: &[&str]| {
        let mut command = hardtack(args);
        // The shell's own stdin is the descriptor that is named.
        command.env("HARDTACK_PASSPHRASE_FD", "0").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(format!("{passphrase}\n").as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    };
    let path = dir.to_str().unwrap();
    let short = json(&with("short", &["init", path, "--name", "acme"]), 1);
    assert!(short["error"].as_str().unwrap().contains("less than 8"));
    assert_eq!(json(&with("correct horse", &["init", path, "--name", "acme"]), 0)["encrypted"], true);
    let revoke = ["--dir", path, "revoke", "task", "t-1"];
    let wrong = json(&with("wrong horse", &revoke), 1);
    assert!(wrong["error"].as_str().unwrap().contains("passphrase"));
    assert_eq!(json(&with("correct horse", &revoke), 0)["target"]["value"], "t-1");
}

#[tokio::test(flavor = "multi_thread")]
async fn publishing_once_leaves_everything_at_the_broker_in_the_order_of_trust() {
    let operator = Operator::new();
    operator.run(&["revoke", "task", "t-1"]);
    let broker = Mosquitto::open();
    let url = format!("mqtt://{}", broker.addr());
    let published = operator.run(&["publish", "--broker", &url]);
    assert_eq!((&published["messages"], &published["feed_seq"]), (&8.into(), &2.into()));
    assert_eq!(operator.run(&["revocations"])["rules"][0]["state"], "signed");

    let (sender, events) = channel();
    let now = clock::wall().unwrap();
    let tell = move |event| sender.send(event).unwrap_or_default();
    let link = Link::spawn(config("gw-07", &[url], None), move || now, tell).unwrap();
    let filters = ["bundle/+", "policy/+", "feed/main/#"];
    let filters = filters.map(|rest| format!("hardtack/1/{}/{rest}", fleet())).to_vec();
    link.send(LinkCommand::Connect { filters, will: None });
    let mut topics = Vec::new();
    while topics.len() < 8 {
        match events.recv_timeout(Duration::from_secs(15)).expect("a retained message") {
            LinkEvent::Connected => {}
            LinkEvent::Message { topic, .. } => topics.push(topic),
            LinkEvent::Disconnected { reason } => panic!("{reason}"),
        }
    }
    topics.sort();
    let expected = [
        "bundle/1",
        "feed/main/delta/1",
        "feed/main/delta/2",
        "feed/main/head",
        "feed/main/rules",
        "feed/main/snap/manifest/0",
        "feed/main/snap/rules/0",
        "policy/1",
    ];
    assert_eq!(topics, expected.map(|rest| format!("hardtack/1/acme/{rest}")));
    link.finish().await;
}
