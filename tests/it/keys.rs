//! The fleet's keys are replaced: with the built binary, its folder, a broker and a device that goes on.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use hardtack::shell::cast::{Fleet, Gateway, Player, Stage};
use serde_json::Value;

use crate::support::mosquitto::Mosquitto;

/// A fleet that serves, with one device.
struct Site {
    folder: tempfile::TempDir,
    fleet: Fleet,
    gateway: Gateway,
    url: String,
    _broker: Mosquitto,
}

impl Site {
    fn new() -> Self {
        let broker = Mosquitto::open();
        let url = format!("mqtt://{}", broker.addr());
        let folder = tempfile::tempdir().unwrap();
        let stage = Stage::new(Path::new(env!("CARGO_BIN_EXE_hardtack")).into());
        let fleet = Fleet::init(&stage, folder.path().join("fleet"), "acme").unwrap();
        let gateway = Gateway::new(&stage, "gw-07", folder.path());
        fleet.enrol(&gateway, folder.path()).unwrap();
        Self { folder, fleet, gateway, url, _broker: broker }
    }

    fn serve(&self) -> Player {
        self.fleet.serve(&self.url).unwrap()
    }

    fn start(&mut self) {
        self.gateway.start(&self.url, 0).unwrap();
    }

    fn rotate(&self, args: &[&str]) -> Value {
        self.fleet.run(&[&["key", "rotate"], args].concat()).unwrap()
    }

    fn key(&self, name: &str) -> PathBuf {
        self.fleet.dir.join("keys").join(name)
    }

    /// Waits until the device has this bundle and this head, and is in touch.
    #[track_caller]
    fn reaches(&self, bundle: u64, head: u64) {
        let what = format!("bundle {bundle} and head {head}");
        let there = |status: &Value| {
            let at = (status["bundle_version"].as_u64(), status["feed_seq"].as_u64());
            at == (Some(bundle), Some(head)) && status["mode"] == "online"
        };
        self.gateway.wait_status(&what, there).unwrap();
    }

    fn head(&self) -> (u64, u64) {
        let head = &self.fleet.run(&["revocations"]).unwrap()["head"];
        (head["era"].as_u64().unwrap(), head["seq"].as_u64().unwrap())
    }

    /// A revocation is signed with the keys of now, and the device has it.
    #[track_caller]
    fn goes_on(&self, task: &str) {
        let revoked = self.fleet.run(&["revoke", "task", task, "--wait", "--timeout", "20s"]).unwrap();
        assert_eq!(revoked["wait"]["complete"], true, "{revoked}");
    }
}

#[test]
fn a_stolen_feed_key_is_replaced_while_a_device_is_in_touch() {
    let mut site = Site::new();
    let mut serve = site.serve();
    site.start();
    site.goes_on("t-1");
    let (era, _) = site.head();
    let old = std::fs::read(site.key("feed.key")).unwrap();

    let rotated = site.rotate(&["feed", "--compromised"]);
    assert_eq!(rotated["restart"], serve.id().to_string(), "{rotated}");
    assert_eq!((rotated["bundle_version"].as_u64(), rotated["dropped"].as_array().unwrap().len()), (Some(2), 1));
    let aside = PathBuf::from(rotated["old_file"].as_str().unwrap());
    assert_eq!(std::fs::read(&aside).unwrap(), old, "what was replaced is kept");
    for file in [&aside, &site.key("feed.key")] {
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
    // The process that has the old key brings out what ends it, and signs no more.
    let told = serve.wait("key.replaced", |line| line["role"] == "feed").unwrap();
    assert!(told["good"] == false && told["action"].as_str().unwrap().contains("start `hardtack fleet serve` again"));
    site.reaches(2, 1);
    assert_eq!(site.head(), (era + 1, 1));
    // And so does everybody else who asks.
    let restarts = |told: &Value| {
        let told = told["stalled"].as_str().unwrap_or_else(|| panic!("{told}"));
        let process = format!("process {} publishes", serve.id());
        assert!(told.starts_with(&process) && told.contains("start `hardtack fleet serve` again"), "{told}");
    };
    let mut waits = std::process::Command::new(env!("CARGO_BIN_EXE_hardtack"));
    waits.args(["-o", "json", "fleet", "revoke", "task", "t-2", "--wait", "--timeout", "1s", "--dir"]);
    let waited = waits.arg(&site.fleet.dir).output().unwrap();
    assert_eq!(waited.status.code(), Some(11), "{waited:?}");
    restarts(&serde_json::from_slice::<Value>(&waited.stdout).unwrap()["wait"]);
    assert!(String::from_utf8_lossy(&waited.stderr).contains("a feed key that trust bundle 2 names no more"));
    let halted = site.fleet.run(&["revocations"]).unwrap();
    assert_eq!(halted["head"]["seq"], 1, "{halted}");
    restarts(&halted);
    drop(serve);

    let _serve = site.serve();
    assert_eq!(site.fleet.run(&["revocations"]).unwrap()["stalled"], Value::Null);
    site.goes_on("t-3");
    site.reaches(2, site.head().1);
    let shown = site.fleet.run(&["key", "show"]).unwrap();
    let feed = shown["keys"].as_array().unwrap().iter().filter(|key| key["role"] == "feed").collect::<Vec<_>>();
    assert_eq!((feed.len(), &feed[0]["key_id"], &feed[0]["since"]), (2, &rotated["key_id"], &2.into()), "{shown}");
    assert_eq!((&feed[1]["key_id"], &feed[1]["state"]), (&rotated["dropped"][0], &"gone".into()), "{shown}");
    assert_eq!((&feed[1]["until"], &feed[1]["file"]), (&2.into(), &"plain".into()), "{shown}");
    // Fails if the signed chain of acts does not hold.
    site.fleet.run(&["audit", "verify"]).unwrap();
}

#[test]
fn every_key_is_replaced_twice_while_a_device_is_away_and_it_comes_back() {
    let mut site = Site::new();
    let serve = site.serve();
    site.start();
    site.goes_on("t-1");
    drop(serve);
    site.gateway.agent = None;
    for role in ["feed", "service", "policy", "issuer"] {
        for _ in 0..2 {
            let rotated = site.rotate(&[role]);
            assert_eq!(
                (&rotated["restart"], &rotated["began_before"]),
                (&Value::Null, &Value::Bool(false)),
                "{rotated}"
            );
        }
    }
    site.rotate(&["feed", "--compromised"]);
    let _serve = site.serve();
    site.start();
    site.reaches(10, site.head().1);
    site.goes_on("t-2");
    // What was given out by a root key that is gone is given anew.
    let grants = site.fleet.run(&["grant", "list", "--all"]).unwrap();
    assert!(grants.to_string().contains("withdrawn"), "{grants}");
    let device =
        Gateway::new(&Stage::new(Path::new(env!("CARGO_BIN_EXE_hardtack")).into()), "gw-08", site.folder.path());
    site.fleet.enrol(&device, site.folder.path()).unwrap();
}

#[test]
fn a_replacement_that_was_cut_off_is_ended_by_the_same_command() {
    let site = Site::new();
    let first = std::fs::read(site.key("feed.key")).unwrap();
    let rotated = site.rotate(&["feed", "--compromised"]);
    let aside = PathBuf::from(rotated["old_file"].as_str().unwrap());
    // As if it had ended once the trust bundle was made, and then with the old file moved away.
    for moved in [false, true] {
        std::fs::rename(site.key("feed.key"), site.key("feed.key.next")).unwrap();
        if !moved {
            std::fs::rename(&aside, site.key("feed.key")).unwrap();
            let refused = site.fleet.run(&["publish", "--broker", &site.url]).unwrap_err().to_string();
            assert!(refused.contains("`hardtack fleet key rotate feed` ends the replacement"), "{refused}");
        }
        let ended = site.rotate(&["feed"]);
        assert_eq!(
            (&ended["began_before"], &ended["bundle_version"]),
            (&Value::Bool(true), &rotated["bundle_version"])
        );
        assert_eq!(ended["key_id"], rotated["key_id"]);
        assert_eq!(std::fs::read(&aside).unwrap(), first);
        site.fleet.run(&["publish", "--broker", &site.url]).unwrap();
    }
    let next = site.rotate(&["feed"]);
    assert_eq!((&next["began_before"], next["bundle_version"].as_u64()), (&Value::Bool(false), Some(3)));
}

/// What cannot be done is known before a new key is made; and a new key that waits is told of.
#[test]
fn a_replacement_that_cannot_be_signed_leaves_nothing_behind_that_is_not_told() {
    let site = Site::new();
    for what in [&["rotate", "feed"][..], &["rotate", "root"], &["roots", "--roots", "3", "--threshold", "2"]] {
        let args = [&["key"], what, &["--root", "/nonexistent"]].concat();
        let refused = site.fleet.run(&args).unwrap_err().to_string();
        assert!(refused.contains("cannot read /nonexistent") && refused.contains("name the key's file"), "{refused}");
        let names = std::fs::read_dir(site.fleet.dir.join("keys")).unwrap();
        let next = names.map(|entry| entry.unwrap().file_name()).find(|name| name.to_string_lossy().ends_with(".next"));
        assert_eq!(next, None, "{what:?}");
    }
    // A file that holds another fleet's key shows what it is once it is opened.
    let other = Site::new();
    let root = other.key("root.key");
    let args = ["key", "rotate", "feed", "--root", root.to_str().unwrap()];
    let refused = site.fleet.run(&args).unwrap_err().to_string();
    let waiting = site.key("feed.key.next");
    assert!(refused.contains("is no root key of this fleet") && waiting.exists(), "{refused}");
    assert!(refused.contains(&format!("the new key waits in {}", waiting.display())), "{refused}");
    assert_eq!(site.rotate(&["feed"])["bundle_version"].as_u64(), Some(2));
    assert!(!waiting.exists());
}
