//! The ledger is lost and an old copy of it is put back: no trust bundle is made twice, and those that the copy lacks come back
//! from whoever keeps them.

use std::path::{Path, PathBuf};
use std::process::Command;

use hardtack::shell::cast::{path, Fleet, Stage};
use hardtack::shell::clock;
use hardtack::shell::mqtt::probe::Probe;
use hardtack::wire::bundle::TrustBundle;
use hardtack::wire::envelope::Signed;
use serde_json::{json, Value};

use crate::mqtt::config;
use crate::support::mosquitto::Mosquitto;

/// A fleet that has changed keys since its ledger was copied; the broker has seen all of it.
struct Site {
    folder: tempfile::TempDir,
    fleet: Fleet,
    copy: PathBuf,
    export: PathBuf,
    url: String,
    _broker: Mosquitto,
}

impl Site {
    fn new(rotated: &[&[&str]]) -> Self {
        let broker = Mosquitto::open();
        let url = format!("mqtt://{}", broker.addr());
        let folder = tempfile::tempdir().unwrap();
        let stage = Stage::new(env!("CARGO_BIN_EXE_hardtack").into());
        let fleet = Fleet::init(&stage, folder.path().join("fleet"), "acme").unwrap();
        let (copy, export) = (folder.path().join("copy"), folder.path().join("export"));
        fleet.run(&["backup", "--out", path(&copy)]).unwrap();
        fleet.run(&["publish", "--broker", &url]).unwrap();
        for role in rotated {
            fleet.run(&[&["key", "rotate"], *role].concat()).unwrap();
            fleet.run(&["publish", "--broker", &url]).unwrap();
        }
        fleet.run(&["revocations", "export", "--out", path(&export)]).unwrap();
        Self { folder, fleet, copy, export, url, _broker: broker }
    }

    fn lose(&self) {
        for end in ["", "-wal", "-shm"] {
            let file = self.fleet.dir.join(format!("fleet.db{end}"));
            if file.exists() {
                std::fs::remove_file(file).unwrap();
            }
        }
    }

    fn fails(&self, args: &[&str], says: &str) -> String {
        let error = self.fleet.run(args).unwrap_err().to_string();
        assert!(error.contains(says), "{args:?}: {error}");
        error
    }

    fn restore(&self, more: &[&str]) -> Value {
        self.fleet.run(&[&["restore", path(&self.copy)], more].concat()).unwrap()
    }

    /// The newest of the trust bundles at the broker, each of which follows from the one before, and the era of its first feed.
    fn at_broker(&self) -> (u64, u32) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let config = config("gw-01", std::slice::from_ref(&self.url), None);
            let mut probe = Probe::connect(&config, clock::wall().unwrap(), None).await.unwrap();
            let mut trust: Option<TrustBundle> = None;
            loop {
                let version = trust.as_ref().map_or(1, |trust| trust.version + 1);
                let kept = probe.retained(&format!("hardtack/1/acme/bundle/{version}")).await.unwrap();
                let Some(kept) = kept.first() else { break };
                let signed = Signed::<TrustBundle>::from_bytes(&kept.payload).unwrap();
                trust = Some(match &trust {
                    None => TrustBundle::genesis(&signed).unwrap(),
                    Some(before) => before.successor(&signed).unwrap(),
                });
            }
            let trust = trust.unwrap();
            (trust.version, trust.feeds[0].era)
        })
    }

    /// After which head the first feed goes on, as a refusal says.
    fn after(&self, refusal: &str) -> String {
        let after = refusal.split("--after ").nth(1).unwrap();
        after.chars().take_while(char::is_ascii_digit).collect()
    }
}

const SINCE: [&[&str]; 4] = [&["feed", "--compromised"], &["policy"], &["policy"], &["issuer", "--compromised"]];

#[test]
fn an_old_copy_takes_its_trust_bundles_from_the_broker_before_it_makes_another() {
    let site = Site::new(&SINCE);
    assert_eq!(site.at_broker(), (5, 2));
    let heads = site.fleet.run(&["revocations"]).unwrap()["heads"][0]["seq"].as_u64().unwrap();
    site.lose();
    let restored = site.restore(&[]);
    assert_eq!(restored["bundles"]["known"], false, "{restored}");
    let refused = "another one after 1 would be refused for ever";
    for made in [
        &["key", "rotate", "service"][..],
        &["key", "rotate", "feed"],
        &["group", "add", "north", "gw-07"],
        &["publish", "--feed", "main", "--after", "9"],
    ] {
        let error = site.fails(made, refused);
        assert!(
            error.contains(&format!("hardtack fleet publish --dir {} --broker URL", site.fleet.dir.display())),
            "{error}"
        );
    }
    site.fails(&["publish", "--last-bundle", "2"], "newest trust bundle is 1");
    site.fails(&["publish", "--broker", "mqtt://127.0.0.1:1"], "no broker tells");
    let empty = Mosquitto::open();
    site.fails(&["publish", "--broker", &format!("mqtt://{}", empty.addr())], "keeps no trust bundle 1");
    site.fails(&["key", "rotate", "service"], refused);

    let refusal = site.fails(&["publish", "--broker", &site.url], "signing on could fork feed main");
    let after = site.after(&refusal);
    assert_eq!(after, heads.to_string(), "of the era that the lost ledger had begun");
    let published = site.fleet.run(&["publish", "--broker", &site.url, "--after", &after]).unwrap();
    assert_eq!((&published["signed"], &published["taken"]), (&json!("here"), &json!([])), "{published}");
    let rotated = site.fleet.run(&["key", "rotate", "service"]).unwrap();
    assert_eq!(rotated["bundle_version"], 6);
    site.fleet.run(&["publish", "--broker", &site.url]).unwrap();
    assert_eq!(site.at_broker(), (6, 2));
    site.fleet.run(&["audit", "acts"]).unwrap();
    // Nothing is lost when it is closed and read again.
    assert_eq!(site.fleet.run(&["publish", "--broker", &site.url]).unwrap()["taken"], json!([]));
}

#[test]
fn a_restore_asks_the_broker_and_serve_does_for_a_ledger_that_was_put_back_by_hand() {
    let site = Site::new(&[&["operator"], &["operator"], &["feed", "--compromised"]]);
    site.lose();
    site.fails(&["restore", path(&site.copy)], "name a broker that keeps the trust bundles");
    let restored = site.restore(&["--broker", &site.url]);
    assert_eq!(
        restored["bundles"],
        json!({"newest": 4, "taken": [2, 3, 4], "known": true, "silent": null}),
        "{restored}"
    );
    assert!(restored["after"].as_u64().unwrap() > 0, "{restored}");
    site.fleet.run(&["publish", "--broker", &site.url, "--after", &restored["after"].to_string()]).unwrap();
    assert_eq!(site.fleet.run(&["key", "rotate", "feed"]).unwrap()["bundle_version"], 5);
    site.fleet.run(&["publish", "--broker", &site.url]).unwrap();
    assert_eq!(site.at_broker(), (5, 2));
    site.fleet.run(&["audit", "acts"]).unwrap();

    // Nobody told this one that it is a copy: the keys tell.
    let site = Site::new(&[&["feed", "--compromised"]]);
    site.lose();
    std::fs::copy(&site.copy, site.fleet.dir.join("fleet.db")).unwrap();
    site.fails(&["key", "rotate", "feed"], "nothing is replaced");
    let mut serve = Command::new(env!("CARGO_BIN_EXE_hardtack"));
    serve.args(["fleet", "serve", "--broker", &site.url, "--dir", path(&site.fleet.dir)]);
    let served = serve.output().unwrap();
    let said = String::from_utf8_lossy(&served.stderr).into_owned();
    assert!(served.status.code() == Some(1) && said.contains("signing on could fork feed main"), "{said}");
    assert!(said.contains("bundle.taken"), "{said}");
    let after = site.after(&said);
    site.fleet.run(&["publish", "--broker", &site.url, "--after", &after]).unwrap();
    assert_eq!(site.fleet.run(&["key", "rotate", "feed"]).unwrap()["bundle_version"], 3);

    // A kit has them too, and cannot tell that there are no others.
    let kit = site.folder.path().join("kit");
    site.fleet.run(&["key", "add", "emergency", "--name", "ann", "--kit", path(&kit)]).unwrap();
    site.lose();
    let restored = site.restore(&["--bundles", path(&kit.join("bundles"))]);
    let bundles = json!({"newest": 4, "taken": [2, 3, 4], "known": false, "silent": "no broker is named"});
    assert_eq!(restored["bundles"], bundles);
    site.fails(&["key", "rotate", "feed"], "another one after 4");
}

#[test]
fn where_the_broker_is_gone_too_a_carried_file_has_them_and_somebody_vouches() {
    let site = Site::new(&SINCE);
    site.lose();
    site.restore(&[]);
    let taken = site.fleet.run(&["publish", "--bundles", path(&site.export)]).unwrap();
    assert_eq!((&taken["taken"], &taken["bundle"]), (&json!([2, 3, 4, 5]), &json!(5)), "{taken}");
    site.fails(&["key", "rotate", "service"], "another one after 5");
    let vouched = site.fleet.run(&["publish", "--last-bundle", "5"]).unwrap();
    assert_eq!(vouched["published"], false);
    assert_eq!(site.fleet.run(&["key", "rotate", "service"]).unwrap()["bundle_version"], 6);
    site.fails(&["publish", "--last-bundle", "6"], "not needed");
    site.fails(&["publish", "--bundles", path(&site.copy)], "revocations export");
    let refusal = site.fails(&["publish", "--broker", &site.url], "signing on could fork feed main");
    site.fleet.run(&["publish", "--broker", &site.url, "--after", &site.after(&refusal)]).unwrap();
    assert_eq!(site.at_broker(), (6, 2));
}

/// What a restore says to revoke again is taken by a shell, and says the same as what was lost.
#[test]
fn what_was_revoked_since_is_printed_as_commands_and_a_copy_of_a_copy_claims_nothing() {
    let site = Site::new(&[]);
    for (kind, value) in [("owner", "some one"), ("audience", "it's"), ("task", "t-1")] {
        site.fleet.run(&["revoke", kind, value, "--reason", "laptop's gone", "--expires", "60d"]).unwrap();
    }
    site.fleet.run(&["revoke", "all", "--reason", "-"]).unwrap();
    let rules = |site: &Site| {
        let shown = site.fleet.run(&["revocations"]).unwrap();
        let rule = |rule: &Value| {
            let until = humantime::parse_rfc3339(rule["until"].as_str().unwrap()).unwrap();
            let until = until.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
            ([rule["kind"].clone(), rule["value"].clone(), rule["reason"].clone()], until)
        };
        shown["rules"].as_array().unwrap().iter().map(rule).collect::<Vec<_>>()
    };
    let before = rules(&site);
    let restored = site.restore(&[]);
    assert_eq!(restored["known"], true);
    let again = site.restore(&[]);
    assert_eq!(
        (&again["known"], &again["lost"]),
        (&json!(true), &restored["lost"]),
        "the ledger before knows what it lacks"
    );
    let bin = Path::new(env!("CARGO_BIN_EXE_hardtack")).parent().unwrap();
    for rule in restored["lost"]["rules"].as_array().unwrap() {
        let mut shell = Command::new("/bin/sh");
        shell.env_clear().env("PATH", bin).current_dir(site.folder.path()).args(["-c", rule["do"].as_str().unwrap()]);
        let ran = shell.output().unwrap();
        assert!(ran.status.success(), "{rule}: {ran:?}");
    }
    let after = rules(&site);
    assert_eq!(after.len(), 4);
    for ((told, until), (told_before, until_before)) in after.iter().zip(&before) {
        assert_eq!(told, told_before);
        assert!(until.abs_diff(*until_before) < 60, "{told:?}: {until} {until_before}");
    }
}
