//! Groups and feeds with real agents, a broker and `fleet serve`: a device hears only what could ever be shown to it, and
//! loses nothing when it is moved.

use std::path::Path;

use hardtack::shell::broker::BrokerFolder;
use hardtack::shell::cast::{Fleet, Gateway, Player, Stage};
use hardtack::shell::clock;
use hardtack::shell::mqtt::probe::{Probe, Verdict};
use serde_json::Value;

use crate::mqtt::{config, identity};
use crate::support::mosquitto::Mosquitto;

/// A task token of the issuer's.
fn issue(fleet: &Fleet, device: &str, task: &str) -> String {
    let selector = format!("unix:uid:{}", rustix::process::getuid().as_raw());
    let ask = ["issue", "--ttl", "10m", "--task", task, "--device", device, "--class", "pump", "--selector", &selector];
    let issued = fleet.run(&[&ask[..], &["--right", "read:modbus/*"]].concat()).unwrap();
    issued["token"].as_str().unwrap().to_owned()
}

/// Who has a revocation, once all in reach of those that are to have it do.
fn revoke(fleet: &Fleet, what: &[&str]) -> String {
    let told = fleet.run(&[&["revoke"], what, &["--wait"]].concat()).unwrap();
    let have = told["wait"]["have"].as_array().unwrap().iter().map(|device| device.as_str().unwrap());
    have.collect::<Vec<_>>().join(" ")
}

/// What a device holds: each feed with whether it is one of before, and how many rules it has.
fn held(gateway: &Gateway) -> Vec<(String, bool, usize)> {
    let shown = gateway.command(&["revocations", "show"]).unwrap();
    let feed = |feed: &Value| {
        let name = feed["feed"].as_str().unwrap().to_owned();
        (name, feed["retired"] == true, feed["rules"].as_array().unwrap().len())
    };
    shown["feeds"].as_array().unwrap().iter().map(feed).collect()
}

fn reason(gateway: &mut Gateway, token: &str) -> String {
    gateway.authorize(token, "read", "modbus/a").unwrap()["reason"].as_str().unwrap().to_owned()
}

#[test]
fn a_device_hears_only_what_concerns_it_and_a_move_takes_nothing_back() {
    let folder = tempfile::tempdir().unwrap();
    let stage = Stage::new(env!("CARGO_BIN_EXE_hardtack").into());
    let fleet = Fleet::init(&stage, folder.path().join("fleet"), "acme").unwrap();
    for args in [
        &["group", "add", "north", "gw-07"][..],
        &["group", "add", "south", "gw-08"],
        &["feed", "add", "f-north", "--group", "north"],
        &["feed", "add", "f-south", "--group", "south"],
    ] {
        assert_eq!(fleet.run(args).unwrap()["changed"], true, "{args:?}");
    }
    assert_eq!(fleet.run(&["group", "add", "south", "gw-08"]).unwrap()["changed"], false, "it is in it");
    assert!(fleet.run(&["feed", "remove", "main"]).is_err());
    let (_broker, addr) = stage.broker().unwrap();
    let url = format!("mqtt://{addr}");
    let _serve = fleet.serve(&url).unwrap();
    let [mut north, mut south] = ["gw-07", "gw-08"].map(|id| {
        let mut gateway = Gateway::new(&stage, id, folder.path());
        fleet.enrol(&gateway, folder.path()).unwrap();
        gateway.start(&url, 0).unwrap();
        gateway.wait_mode("online").unwrap();
        gateway
    });
    let one = |name: &str, rules| vec![(name.to_owned(), false, rules)];
    assert_eq!((held(&north), held(&south)), (one("f-north", 0), one("f-south", 0)), "each was enrolled with its own");

    // A task of one: the other hears nothing of it.
    let (first, other) = (issue(&fleet, "gw-07", "t-1"), issue(&fleet, "gw-08", "t-8"));
    assert_eq!((reason(&mut north, &first), reason(&mut south, &other)), ("allowed".into(), "allowed".into()));
    assert_eq!(revoke(&fleet, &["task", "t-1"]), "gw-07");
    assert_eq!((held(&north), held(&south)), (one("f-north", 1), one("f-south", 0)));
    assert_eq!((reason(&mut north, &first), reason(&mut south, &other)), ("revoked".into(), "allowed".into()));
    // An owner: both do.
    assert_eq!(revoke(&fleet, &["owner", "mallory@acme"]), "gw-07 gw-08");
    assert_eq!((held(&north), held(&south)), (one("f-north", 2), one("f-south", 1)));
    let of = |device: &str| {
        let told = fleet.run(&["revocations"]).unwrap();
        let of = told["devices"].as_array().unwrap().iter().find(|standing| standing["device"] == device).cloned();
        of.unwrap()["feed"].clone()
    };
    assert_eq!((of("gw-07"), of("gw-08")), ("f-north".into(), "f-south".into()));

    // One is away while more of it is revoked, and it is moved.
    let second = issue(&fleet, "gw-07", "t-2");
    assert_eq!(reason(&mut north, &second), "allowed");
    north.agent.take().unwrap().kill();
    fleet.run(&["revoke", "task", "t-2"]).unwrap();
    fleet.run(&["group", "remove", "north", "gw-07"]).unwrap();
    let moved = fleet.run(&["group", "add", "south", "gw-07"]).unwrap();
    assert_eq!(moved["moved"][0]["to"], "f-south", "{moved}");
    north.start(&url, 0).unwrap();
    assert_eq!(reason(&mut north, &first), "revoked", "what it knew it knows from its own disk");
    let status = north.wait_status("the other feed", |status| status["mode"] == "online").unwrap();
    assert_eq!(status["mode"], "online");
    let now = held(&north);
    assert!(now.contains(&("f-south".into(), false, 3)), "with what had been revoked for it: {now:?}");
    // Of the old one it may have heard once more before it heard that it was moved.
    let keeps = now.iter().any(|(feed, retired, rules)| feed == "f-north" && *retired && (2..=3).contains(rules));
    assert!(keeps, "and what it had of the old one: {now:?}");
    assert_eq!((reason(&mut north, &first), reason(&mut north, &second)), ("revoked".into(), "revoked".into()));
    let third = issue(&fleet, "gw-07", "t-3");
    assert_eq!(reason(&mut north, &third), "allowed");
    let acts = fleet.run(&["audit", "acts"]).unwrap().to_string();
    assert!(acts.contains("joined") && acts.contains("left") && acts.contains("feed_added"), "{acts}");
}

/// At a broker as `hardtack broker config` sets it up, a device reads its own feed and no other, also when it was moved: while
/// it is connected, and while it is away.
#[test]
fn a_moved_device_reads_its_new_feed_at_the_broker_and_the_old_one_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let stage = Stage::new(env!("CARGO_BIN_EXE_hardtack").into());
    let fleet = Fleet::init(&stage, folder.path().join("fleet"), "acme").unwrap();
    let change = |args: &[&str]| assert_eq!(fleet.run(args).unwrap()["changed"], true, "{args:?}");
    change(&["group", "add", "north", "gw-07"]);
    change(&["group", "add", "south", "gw-08"]);
    change(&["feed", "add", "f-north", "--group", "north"]);
    change(&["feed", "add", "f-south", "--group", "south"]);
    let name = "acme".parse().unwrap();
    let broker = Mosquitto::secured(&fleet.dir, &name, &[]);
    let url = format!("mqtts://localhost:{}", broker.port);
    let _serve = fleet.serve(&url).unwrap();
    let mut gateway = Gateway::new(&stage, "gw-07", folder.path());
    fleet.enrol(&gateway, folder.path()).unwrap();
    gateway.start(&url, 0).unwrap();
    gateway.wait_mode("online").unwrap();
    let authority = BrokerFolder::of(&fleet.dir, &name).authority().unwrap();
    // As the device, with its rights, which feeds the broker lets it read.
    let reads = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let config = config("gw-07", std::slice::from_ref(&url), Some(identity(&authority, "gw-07")));
            let mut probe = Probe::connect(&config, clock::wall().unwrap(), None).await.unwrap();
            let mut readable = Vec::new();
            for feed in ["main", "f-north", "f-south", "+"] {
                if probe.subscribe(&format!("hardtack/1/acme/feed/{feed}/head")).await == Verdict::Accepted {
                    readable.push(feed);
                }
            }
            probe.leave().await;
            readable
        })
    };
    let away = |gateway: &mut Gateway| gateway.agent.take().unwrap().kill();
    let follows = |gateway: &Gateway, feed: &str| {
        let own = |status: &Value| {
            status["mode"] == "online" && held(gateway).iter().any(|(id, retired, _)| id == feed && !retired)
        };
        gateway.wait_status(feed, own).unwrap();
    };
    away(&mut gateway);
    assert_eq!(reads(), ["f-north"]);

    gateway.start(&url, 0).unwrap();
    gateway.wait_mode("online").unwrap();
    change(&["group", "remove", "north", "gw-07"]);
    change(&["group", "add", "south", "gw-07"]);
    follows(&gateway, "f-south");
    away(&mut gateway);
    assert_eq!(reads(), ["f-south"], "it was moved while it was connected");

    change(&["group", "remove", "south", "gw-07"]);
    change(&["group", "add", "north", "gw-07"]);
    gateway.start(&url, 0).unwrap();
    follows(&gateway, "f-north");
    away(&mut gateway);
    assert_eq!(reads(), ["f-north"], "it was moved while it was away");
}

/// A fleet with a feed for each of two groups, a broker as `hardtack broker config` sets it up, and a gateway of the first group
/// in touch.
struct Secured {
    folder: tempfile::TempDir,
    fleet: Fleet,
    serve: Option<Player>,
    gateway: Gateway,
    url: String,
    broker: Mosquitto,
}

impl Secured {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let stage = Stage::new(env!("CARGO_BIN_EXE_hardtack").into());
        let fleet = Fleet::init(&stage, folder.path().join("fleet"), "acme").unwrap();
        let broker = Mosquitto::secured(&fleet.dir, &"acme".parse().unwrap(), &[]);
        let url = format!("mqtts://localhost:{}", broker.port);
        let gateway = Gateway::new(&stage, "gw-07", folder.path());
        let mut site = Self { folder, fleet, serve: None, gateway, url, broker };
        site.change(&["group", "add", "north", "gw-07"]);
        site.change(&["group", "add", "south", "gw-08"]);
        site.change(&["feed", "add", "f-north", "--group", "north"]);
        site.change(&["feed", "add", "f-south", "--group", "south"]);
        site.serve = Some(site.fleet.serve(&site.url).unwrap());
        site.fleet.enrol(&site.gateway, site.folder.path()).unwrap();
        site.gateway.start(&site.url, 0).unwrap();
        site.gateway.wait_mode("online").unwrap();
        site
    }

    fn change(&self, args: &[&str]) {
        assert_eq!(self.fleet.run(args).unwrap()["changed"], true, "{args:?}");
    }

    fn move_to(&self, old: &str, new: &str) {
        self.change(&["group", "remove", old, "gw-07"]);
        self.change(&["group", "add", new, "gw-07"]);
    }

    /// The broker's roles, once all of the gateway's are written down: it may do what they say a moment before.
    fn written(&self, roles: &Path) -> Vec<u8> {
        let is_whole = || {
            let told: Value = serde_json::from_slice(&std::fs::read(roles).unwrap()).unwrap_or_default();
            let list = |of: &Value| of.as_array().cloned().unwrap_or_default();
            let own = list(&told["clients"]).into_iter().find(|client| client["username"] == "gw-07");
            let reads = list(&told["roles"])
                .iter()
                .any(|role| list(&role["acls"]).iter().any(|acl| acl["topic"] == "hardtack/1/acme/feed/f-north/#"));
            own.is_some_and(|client| list(&client["roles"]).len() == 2) && reads
        };
        self.gateway.wait_status("its roles written down", |_| is_whole()).unwrap();
        std::fs::read(roles).unwrap()
    }

    /// The gateway holds a feed with so many rules as its own.
    fn follows(&self, feed: &str, rules: usize) {
        let own = (feed.to_owned(), false, rules);
        self.gateway.wait_status(feed, |_| held(&self.gateway).contains(&own)).unwrap();
    }
}

/// Nobody serves: whoever publishes the trust bundle that moves a device has the broker let it read its new feed first.
#[test]
fn a_device_that_is_moved_while_nobody_serves_comes_up_once_its_bundle_is_published() {
    let mut site = Secured::start();
    site.serve.take().unwrap().kill();
    let publish = |site: &Secured| {
        let published = site.fleet.run(&["publish", "--broker", &site.url]).unwrap();
        assert_eq!(published["complaints"], serde_json::json!([]), "{published}");
    };
    site.move_to("north", "south");
    site.fleet.run(&["revoke", "owner", "mallory@acme"]).unwrap();
    publish(&site);
    site.follows("f-south", 1);

    site.gateway.agent.take().unwrap().kill();
    site.move_to("south", "north");
    site.fleet.run(&["revoke", "owner", "eve@acme"]).unwrap();
    publish(&site);
    let url = site.url.clone();
    site.gateway.start(&url, 0).unwrap();
    site.follows("f-north", 2);
}

/// The broker has gone back to before a move, and nobody serves who would tell it.
#[test]
fn a_device_that_is_shut_out_of_its_feed_stays_in_touch_and_hears_of_trust_bundles() {
    let mut site = Secured::start();
    let roles = BrokerFolder::of(&site.fleet.dir, &"acme".parse().unwrap()).path().join("dynamic-security.json");
    let before = site.written(&roles);
    site.move_to("north", "south");
    site.follows("f-south", 0);
    site.gateway.wait_mode("online").unwrap();
    site.gateway.agent.take().unwrap().kill();
    let newest = site.fleet.run(&["group", "add", "east", "gw-09"]).unwrap()["bundle_version"].as_u64().unwrap();
    site.fleet.run(&["revoke", "owner", "mallory@acme"]).unwrap();
    // The broker has acknowledged it all when this returns.
    site.fleet.run(&["publish", "--broker", &site.url]).unwrap();
    site.serve.take().unwrap().kill();
    site.broker.stop();
    std::fs::write(&roles, before).unwrap();
    site.broker.restart();

    let url = site.url.clone();
    site.gateway.start(&url, 0).unwrap();
    let told = site.gateway.agent.as_mut().unwrap().wait("feed.shut_out", |line| line["feed"] == "f-south").unwrap();
    assert!(told["reason"] == "not authorized" && told["action"].as_str().unwrap().contains("fleet publish"), "{told}");
    site.gateway.wait_status("the newest bundle", |status| status["bundle_version"] == newest).unwrap();
    let own = ("f-south".to_owned(), false, 0);
    assert!(held(&site.gateway).contains(&own), "{:?}", held(&site.gateway));
    // Whoever serves again tells the broker, and the device asks again.
    site.serve = Some(site.fleet.serve(&url).unwrap());
    site.follows("f-south", 1);
    site.gateway.wait_mode("online").unwrap();
}

#[test]
fn a_token_for_a_group_or_an_audience_is_minted_admitted_and_revoked_by_that_name() {
    let folder = tempfile::tempdir().unwrap();
    let stage = Stage::new(env!("CARGO_BIN_EXE_hardtack").into());
    let fleet = Fleet::init(&stage, folder.path().join("fleet"), "acme").unwrap();
    fleet.run(&["group", "add", "north", "gw-07"]).unwrap();
    fleet.run(&["feed", "add", "f-north", "--group", "north"]).unwrap();
    let (_broker, addr) = stage.broker().unwrap();
    let url = format!("mqtt://{addr}");
    let _serve = fleet.serve(&url).unwrap();
    let [mut north, mut other] = ["gw-07", "gw-08"].map(|id| {
        let mut gateway = Gateway::new(&stage, id, folder.path());
        fleet.enrol(&gateway, folder.path()).unwrap();
        gateway.start(&url, 0).unwrap();
        gateway.wait_mode("online").unwrap();
        gateway
    });
    let selector = format!("unix:uid:{}", rustix::process::getuid().as_raw());
    let issue = |bearer: &[&str]| {
        let ask = ["issue", "--ttl", "10m", "--class", "pump", "--selector", &selector, "--right", "read:modbus/*"];
        fleet.run(&[&ask[..], bearer].concat())
    };
    let token = |bearer: &[&str]| issue(bearer).unwrap()["token"].as_str().unwrap().to_owned();

    let made = issue(&["--group", "north"]).unwrap();
    assert_eq!((&made["group"], &made["grant"]), (&"north".into(), &serde_json::Value::Null), "no grant that is known");
    let dry = fleet.run(&["revoke", "group", "north", "--dry-run"]).unwrap();
    assert_eq!(dry["covers"]["issued_tokens"], serde_json::json!([made["block"]]));
    let (grouped, own) = (token(&["--group", "north"]), token(&["--device", "gw-07"]));
    assert_eq!((reason(&mut north, &grouped), reason(&mut other, &grouped)), ("allowed".into(), "wrong_device".into()));
    assert_eq!(reason(&mut north, &own), "allowed");
    let (heard, unheard) = (token(&["--device", "gw-08", "--audience", "scada"]), token(&["--device", "gw-08"]));
    let both = token(&["--group", "north", "--audience", "scada"]);
    assert_eq!((reason(&mut other, &heard), reason(&mut other, &unheard)), ("allowed".into(), "allowed".into()));
    assert_eq!(reason(&mut north, &both), "allowed");

    assert_eq!(revoke(&fleet, &["group", "north"]), "gw-07", "nobody else is shown such a token");
    assert_eq!((reason(&mut north, &grouped), reason(&mut north, &own)), ("revoked".into(), "allowed".into()));
    let refused = issue(&["--group", "north"]).unwrap_err().to_string();
    assert!(refused.contains("is revoked until"), "{refused}");
    // What is for one device of it goes on, by the operator's hand and when the device asks.
    assert_eq!(reason(&mut north, &token(&["--device", "gw-07"])), "allowed");
    let rights = serde_json::json!([{"resource": "modbus/*", "action": "read"}]);
    let begun = north.post("/v1/tasks", &serde_json::json!({"task": "pump", "rights": rights, "ttl_s": 60})).unwrap();
    assert_eq!(begun["origin"], "issued", "{begun}");

    assert_eq!(revoke(&fleet, &["audience", "scada"]), "gw-07 gw-08");
    assert_eq!((reason(&mut other, &heard), reason(&mut other, &unheard)), ("revoked".into(), "allowed".into()));
    assert!(issue(&["--device", "gw-08", "--audience", "scada"]).unwrap_err().to_string().contains("is revoked until"));
    assert_eq!(reason(&mut other, &token(&["--device", "gw-08", "--audience", "historian"])), "allowed");

    // A task of a group is revoked in every feed; a device that may not do it keeps the group from having it.
    fleet.run(&["group", "add", "south", "gw-08"]).unwrap();
    let south = token(&["--group", "south", "--task", "t-south"]);
    other.wait_status("the new bundle", |status| status["bundle_version"] == 4 && status["mode"] == "online").unwrap();
    assert_eq!(reason(&mut other, &south), "allowed");
    assert_eq!(revoke(&fleet, &["task", "t-south"]), "gw-07 gw-08");
    assert_eq!(reason(&mut other, &south), "revoked");
    fleet.run(&["group", "add", "south", "gw-09"]).unwrap();
    let refused = issue(&["--group", "south"]).unwrap_err().to_string();
    assert!(refused.contains("device gw-09 has no live grant") && refused.contains("take gw-09 out"), "{refused}");
    let acts = fleet.run(&["audit", "acts"]).unwrap();
    let issued = acts["acts"].as_array().unwrap().iter().find(|act| act["group"] == "north" && act["act"] == "issued");
    assert_eq!(issued.map(|act| (&act["audience"], act["grant"].is_string())), Some((&Value::Null, true)), "{acts}");
}
