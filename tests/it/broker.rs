//! A broker that is set up as `hardtack broker config` does it, asked as each role.

use std::collections::BTreeSet;
use std::path::Path;

use hardtack::cli::broker::{report, BrokerCommand};
use hardtack::cli::Exit;
use hardtack::fleet::readers::Reader;
use hardtack::ids::{DeviceId, FeedId};
use hardtack::shell::broker::check::{self, Finding};
use hardtack::shell::broker::{dynsec, BrokerFolder};
use hardtack::shell::mqtt::probe::{Probe, Verdict};
use hardtack::shell::mqtt::{BrokerUrl, TlsIdentity, CONTROL_RESPONSE_TOPIC, CONTROL_TOPIC};
use hardtack::shell::{clock, entropy};

use crate::mqtt::{config, device, fleet, identity};
use crate::support::mosquitto::Mosquitto;

fn url(broker: &Mosquitto) -> BrokerUrl {
    format!("mqtts://localhost:{}", broker.port).parse().unwrap()
}

async fn ask(folder: &BrokerFolder, url: &BrokerUrl) -> Vec<Finding> {
    check::run(folder, url, clock::wall().unwrap(), &mut entropy::rng()).await.unwrap()
}

async fn connect(broker: &Mosquitto, client_id: &str, tls: TlsIdentity) -> Probe {
    let config = config(client_id, &[url(broker).to_string()], Some(tls));
    Probe::connect(&config, clock::wall().unwrap(), None).await.unwrap()
}

async fn service(broker: &Mosquitto, folder: &BrokerFolder) -> Probe {
    service_as("fleet-acme-00000001", broker, folder).await
}

async fn service_as(client_id: &str, broker: &Mosquitto, folder: &BrokerFolder) -> Probe {
    let tls = folder.service_identity(&mut entropy::rng()).unwrap();
    let config = config(client_id, &[folder.service_url(&url(broker)).to_string()], Some(tls));
    Probe::connect(&config, clock::wall().unwrap(), None).await.unwrap()
}

/// Gives the plugin commands and returns what it complains of.
async fn administer(service: &mut Probe, messages: Vec<Vec<u8>>) -> Vec<String> {
    assert_eq!(service.subscribe(CONTROL_RESPONSE_TOPIC).await, Verdict::Accepted);
    let mut complaints = Vec::new();
    for message in messages {
        assert_eq!(service.publish(CONTROL_TOPIC, &message).await, Verdict::Accepted);
        complaints.extend(dynsec::complaints(&service.next().await.unwrap().payload));
    }
    complaints
}

#[tokio::test(flavor = "multi_thread")]
async fn every_role_can_do_what_it_should_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Mosquitto::secured(dir.path(), &fleet(), &[]);
    let folder = BrokerFolder::of(dir.path(), &fleet());
    let findings = ask(&folder, &url(&broker)).await;
    let wrong: Vec<&Finding> = findings.iter().filter(|finding| !finding.ok).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(findings.len() > 60, "only {} questions were asked", findings.len());
    let roles = std::fs::read_to_string(folder.path().join("dynamic-security.json")).unwrap();
    assert!(!roles.contains("hardtack-check"), "the throw-away devices are gone");
}

/// The questions find the mistakes that they are for: each change of the set-up turns one of them.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_set_up_wrongly_is_found_out() {
    struct Case {
        mistake: &'static str,
        change: fn(&Path),
        act: &'static str,
    }
    fn edit(folder: &Path, file: &str, from: &str, to: &str) {
        let text = std::fs::read_to_string(folder.join(file)).unwrap();
        assert!(text.contains(from), "{file} holds no {from}");
        std::fs::write(folder.join(file), text.replace(from, to)).unwrap();
    }
    fn append(folder: &Path, file: &str, more: &str) {
        let text = std::fs::read_to_string(folder.join(file)).unwrap();
        std::fs::write(folder.join(file), text + more).unwrap();
    }
    let cases = [
        Case {
            mistake: "default allow to publish",
            change: |dir| {
                let (from, to) = ("\"publishClientSend\":false", "\"publishClientSend\":true");
                edit(dir, "dynamic-security.json", from, to);
            },
            act: "publish hardtack/1/acme/bundle/hardtack-check",
        },
        Case {
            mistake: "default allow to subscribe",
            change: |dir| edit(dir, "dynamic-security.json", "\"subscribe\":false", "\"subscribe\":true"),
            act: "subscribe $share/thief/hardtack/1/acme/dev/+/up/audit",
        },
        Case {
            mistake: "client ids as claimed",
            change: |dir| {
                edit(dir, "mosquitto.conf", "use_username_as_clientid true", "use_username_as_clientid false")
            },
            act: "take another device's place by its client id",
        },
        Case {
            mistake: "one client id for all services",
            change: |dir| append(dir, "mosquitto.conf", "use_username_as_clientid true\n"),
            act: "stay connected while another service connects",
        },
        Case {
            mistake: "devices come in where the service does",
            change: |dir| append(dir, "service-ca.pem", &std::fs::read_to_string(dir.join("ca.pem")).unwrap()),
            act: "connect where the service does, by another device's client id",
        },
        Case {
            mistake: "every device may read every feed",
            change: |dir| edit(dir, "dynamic-security.json", "acme/policy/+", "acme/feed/#"),
            act: "subscribe hardtack/1/acme/feed/#",
        },
        Case {
            mistake: "every device may read the others' answers",
            change: |dir| edit(dir, "dynamic-security.json", "acme/policy/+", "acme/dev/+/down/+"),
            act: "subscribe hardtack/1/acme/dev/+/down/+",
        },
    ];
    for case in cases {
        let dir = tempfile::tempdir().unwrap();
        let mut broker = Mosquitto::secured(dir.path(), &fleet(), &[]);
        let folder = BrokerFolder::of(dir.path(), &fleet());
        broker.kill();
        (case.change)(folder.path());
        broker.restart();
        let findings = ask(&folder, &url(&broker)).await;
        let found = findings.iter().find(|finding| finding.act == case.act);
        assert!(found.is_some_and(|finding| !finding.ok), "{}: {found:?}", case.mistake);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_come_and_go_while_the_broker_runs() {
    let dir = tempfile::tempdir().unwrap();
    let mut broker = Mosquitto::secured(dir.path(), &fleet(), &[device("gw-07")]);
    let folder = BrokerFolder::of(dir.path(), &fleet());
    let authority = folder.authority().unwrap();
    let later = identity(&authority, "gw-08");
    let hello = "hardtack/1/acme/dev/gw-08/up/hello";

    let mut gateway = connect(&broker, "gw-08", later.clone()).await;
    assert!(matches!(gateway.publish(hello, b"x").await, Verdict::Refused(_)));

    let mut service = service(&broker, &folder).await;
    let devices = [device("gw-07"), device("gw-08")];
    let feed = |id: &str| id.parse::<FeedId>().unwrap();
    let admit = |feeds: &[&str], former: &[&str]| {
        let all = |feeds: &[&str]| feeds.iter().map(|id| feed(id)).collect::<BTreeSet<_>>();
        let reader = |device: &DeviceId| Reader { device: device.clone(), feeds: all(feeds), former: all(former) };
        let readers: Vec<_> = devices.iter().map(reader).collect();
        [dynsec::admit(&fleet(), &readers), dynsec::withdraw(&fleet(), &readers)].concat()
    };
    for _ in 0..2 {
        assert_eq!(administer(&mut service, admit(&["main"], &[])).await, Vec::<String>::new());
    }
    // Its role had to learn of the feed before there was such a client: that disturbs nobody.
    assert_eq!(gateway.publish(hello, b"x").await, Verdict::Accepted, "admitted without a new connection");

    // It is moved while it is connected: at first it reads both feeds, then the new one alone.
    let filters = |feeds: &[&str]| -> Vec<String> {
        let of =
            |feed: &&str| ["+", "emergency/+", "delta/0"].map(|rest| format!("hardtack/1/acme/feed/{feed}/{rest}"));
        feeds.iter().flat_map(of).collect()
    };
    let steps: [(&[&str], &[&str]); 3] =
        [(&["main"], &["f-north"]), (&["main", "f-north"], &[]), (&["f-north"], &["main"])];
    for (feeds, former) in steps {
        for _ in 0..2 {
            assert_eq!(administer(&mut service, admit(feeds, former)).await, Vec::<String>::new());
        }
        let mut gateway = connect(&broker, "gw-08", later.clone()).await;
        for _ in 0..2 {
            for filter in filters(feeds) {
                assert_eq!(gateway.subscribe(&filter).await, Verdict::Accepted, "{feeds:?}: {filter}");
            }
            for filter in filters(former) {
                assert!(matches!(gateway.subscribe(&filter).await, Verdict::Refused(_)), "{feeds:?}: {filter}");
            }
            // What is so already leaves it connected.
            assert_eq!(administer(&mut service, admit(feeds, former)).await, Vec::<String>::new());
        }
    }

    // Admitting again disturbs nobody; what was admitted survives the broker.
    broker.kill();
    broker.restart();
    let mut gateway = connect(&broker, "gw-08", later.clone()).await;
    assert_eq!(gateway.publish(hello, b"x").await, Verdict::Accepted);

    let mut service = self::service(&broker, &folder).await;
    for _ in 0..2 {
        assert_eq!(administer(&mut service, dynsec::dismiss(&devices[1..])).await, Vec::<String>::new());
    }
    assert!(matches!(gateway.publish(hello, b"x").await, Verdict::Refused(_)), "it was disconnected");
    let mut gateway = connect(&broker, "gw-08", later).await;
    assert!(matches!(gateway.publish(hello, b"x").await, Verdict::Refused(_)));
}

/// `fleet serve` and `fleet publish` at once: each has its own client id, and both stay.
#[tokio::test(flavor = "multi_thread")]
async fn two_services_live_side_by_side() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Mosquitto::secured(dir.path(), &fleet(), &[]);
    let folder = BrokerFolder::of(dir.path(), &fleet());
    let mut first = service_as("fleet-acme-00000001", &broker, &folder).await;
    let mut second = service_as("fleet-acme-00000002", &broker, &folder).await;
    assert_eq!(first.subscribe("hardtack/1/acme/bundle/+").await, Verdict::Accepted);
    assert_eq!(second.publish("hardtack/1/acme/bundle/1", b"trust").await, Verdict::Accepted);
    assert_eq!(first.next().await.unwrap().payload, b"trust");
    assert_eq!(first.publish("hardtack/1/acme/bundle/2", b"more").await, Verdict::Accepted);
}

/// Its own certificate gets a device in as itself or not at all, whatever client id it claims and wherever it knocks.
#[tokio::test(flavor = "multi_thread")]
async fn no_device_takes_another_ones_place() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Mosquitto::secured(dir.path(), &fleet(), &[device("gw-07"), device("gw-08")]);
    let folder = BrokerFolder::of(dir.path(), &fleet());
    let authority = folder.authority().unwrap();
    let mut victim = connect(&broker, "gw-07", identity(&authority, "gw-07")).await;
    let mut service = service(&broker, &folder).await;
    for claimed in ["gw-07", "fleet-acme-00000001"] {
        let mut thief = connect(&broker, claimed, identity(&authority, "gw-08")).await;
        assert_eq!(thief.publish("hardtack/1/acme/dev/gw-08/up/hello", b"x").await, Verdict::Accepted);
        let door = folder.service_url(&url(&broker)).to_string();
        let refused = config(claimed, &[door], Some(identity(&authority, "gw-08")));
        Probe::connect(&refused, clock::wall().unwrap(), None).await.unwrap_err();
    }
    assert_eq!(victim.publish("hardtack/1/acme/dev/gw-07/up/hello", b"x").await, Verdict::Accepted);
    assert_eq!(service.publish("hardtack/1/acme/bundle/1", b"x").await, Verdict::Accepted);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_publishes_what_is_for_all() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Mosquitto::secured(dir.path(), &fleet(), &[device("gw-07")]);
    let folder = BrokerFolder::of(dir.path(), &fleet());
    let mut gateway = connect(&broker, "gw-07", identity(&folder.authority().unwrap(), "gw-07")).await;
    let mut service = service(&broker, &folder).await;
    for rest in ["bundle/1", "policy/1", "feed/main/head", "feed/main/snap/rules/0", "dev/gw-07/down/answer"] {
        let topic = format!("hardtack/1/acme/{rest}");
        assert_eq!(gateway.subscribe(&topic).await, Verdict::Accepted);
        assert_eq!(service.publish(&topic, rest.as_bytes()).await, Verdict::Accepted);
        assert_eq!(gateway.next().await.unwrap().topic, topic);
    }
    for denied in ["hardtack/1/acme/dev/gw-07/up/audit", "hardtack/1/other/bundle/1"] {
        assert!(matches!(service.publish(denied, b"x").await, Verdict::Refused(_)), "{denied}");
    }
}

#[test]
fn the_commands_say_how_it_went() {
    let dir = tempfile::tempdir().unwrap();
    let config = |dir: &Path| BrokerCommand::Config {
        dir: dir.to_owned(),
        host: vec!["broker.example".into()],
        port: 18883,
        service_port: None,
        days: 30,
        plugin: None,
    };
    let failure = report(&config(dir.path())).unwrap_err();
    assert!(failure.to_string().contains("fleet init"), "{failure}");
    std::fs::write(dir.path().join("fleet.toml"), "name = \"acme\"\n").unwrap();
    let failure = report(&config(dir.path())).unwrap_err();
    assert!(failure.to_string().contains("fleet init"), "{failure}");
    BrokerFolder::of(dir.path(), &fleet()).make_authority().unwrap();
    std::fs::create_dir(dir.path().join("devices")).unwrap();
    std::fs::write(dir.path().join("devices/gw-07.json"), "").unwrap();
    let told = report(&config(dir.path())).unwrap();
    assert_eq!((told.exit, told.json["devices"].as_u64()), (Exit::Done, Some(1)));

    let broker = Mosquitto::secured(dir.path(), &fleet(), &[]);
    let check = BrokerCommand::Check { dir: dir.path().to_owned(), url: url(&broker) };
    let told = report(&check).unwrap();
    assert_eq!((told.exit, told.json["ok"].as_bool()), (Exit::Done, Some(true)), "{}", told.text);
    drop(broker);
    assert_eq!(report(&check).unwrap_err().exit, Exit::Failure);
}
