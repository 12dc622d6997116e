//! The link against a real broker.

use std::collections::BTreeMap;
use std::sync::mpsc::{channel, Receiver};
use std::time::Duration;

use ed25519_dalek::SigningKey;
use hardtack::agent::effects::{LinkCommand, Publish};
use hardtack::agent::LinkEvent;
use hardtack::ids::{DeviceId, FeedId, FleetId};
use hardtack::shell::broker::BrokerFolder;
use hardtack::shell::mqtt::{Link, LinkConfig, TlsIdentity};
use hardtack::shell::proxy::{Direction, PacketKind, Proxy, Swallow};
use hardtack::shell::x509::{Authority, Validity};
use hardtack::shell::{clock, embedded, entropy};
use hardtack::time::{Millis, Timestamp};
use hardtack::wire::link::{device_filters, service_filters, Topic};
use hardtack::wire::revocation::set::PartKey;
use hardtack::wire::revocation::slot::Slot;

use rand_core::RngCore;
use rumqttc::v5::mqttbytes::v5::Packet;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::{AsyncClient, Event, MqttOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::mosquitto::Mosquitto;

const PATIENCE: Duration = Duration::from_secs(15);

pub(crate) fn fleet() -> FleetId {
    "acme".parse().unwrap()
}

pub(crate) fn device(id: &str) -> DeviceId {
    id.parse().unwrap()
}

pub(crate) fn config(client_id: &str, urls: &[String], tls: Option<TlsIdentity>) -> LinkConfig {
    LinkConfig {
        fleet: fleet(),
        client_id: client_id.into(),
        user: if client_id.starts_with("fleet-") { "fleet".into() } else { client_id.into() },
        urls: urls.iter().map(|url| url.parse().unwrap()).collect(),
        tls,
        keepalive: Duration::from_secs(5),
        connect: Duration::from_secs(5),
        packet_bytes_max: LinkConfig::PACKET_BYTES_MAX,
    }
}

/// A device's TLS identity, as enrolment makes it.
pub(crate) fn identity(authority: &Authority, id: &str) -> TlsIdentity {
    let key = SigningKey::generate(&mut entropy::rng());
    let certificate = authority.issue_device(&device(id), &key.verifying_key()).unwrap();
    TlsIdentity { authorities: vec![authority.der().to_vec()], certificate, key }
}

/// A link and what it says.
struct Party {
    link: Link,
    events: Receiver<LinkEvent>,
}

impl Party {
    fn new(config: LinkConfig) -> Self {
        Self::at(config, clock::wall().unwrap())
    }

    fn at(config: LinkConfig, floor: Timestamp) -> Self {
        let (sender, events) = channel();
        let link = Link::spawn(config, move || floor, move |event| sender.send(event).unwrap_or_default()).unwrap();
        Self { link, events }
    }

    fn device(url: &str, id: &str) -> Self {
        Self::new(config(id, &[url.to_owned()], None))
    }

    fn connect(&self, id: &str) {
        let will = Some(publish(Topic::State(device(id)), b"gone"));
        let filters = device_filters(&fleet(), &device(id), &"main".parse().unwrap());
        self.link.send(LinkCommand::Connect { filters, will });
    }

    fn send(&self, topic: Topic, payload: &[u8]) {
        self.link.send(LinkCommand::Publish(publish(topic, payload)));
    }

    fn next(&self) -> LinkEvent {
        self.events.recv_timeout(PATIENCE).expect("the link says nothing")
    }

    fn expect_connected(&self) {
        assert_eq!(self.next(), LinkEvent::Connected);
    }

    fn expect_lost(&self) -> String {
        let event = self.next();
        let LinkEvent::Disconnected { reason } = event else {
            panic!("expected the end of the connection, not {event:?}");
        };
        reason
    }

    fn expect_message(&self, topic: Topic, payload: &[u8]) {
        let expected = LinkEvent::Message { topic: topic.text(&fleet()), payload: payload.to_vec() };
        assert_eq!(self.next(), expected);
    }
}

fn publish(topic: Topic, payload: &[u8]) -> Publish {
    Publish { topic, payload: payload.to_vec() }
}

/// The fleet's service on an open broker, subscribed.
fn service(url: &str) -> Party {
    let party = Party::new(config("fleet-acme-00000001", &[url.to_owned()], None));
    party.link.send(LinkCommand::Connect { filters: service_filters(&fleet()), will: None });
    party.expect_connected();
    party
}

fn plain(broker: &Mosquitto) -> String {
    format!("mqtt://127.0.0.1:{}", broker.port)
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_go_both_ways_and_retained_ones_come_first() {
    let broker = Mosquitto::open();
    let service = service(&plain(&broker));
    service.send(Topic::Bundle(1), b"trust");
    service.send(Topic::FeedHead("main".parse().unwrap()), b"head");
    // A marker that comes back says that the broker has what was sent before it.
    service.send(Topic::State(device("marker")), b"here");
    service.expect_message(Topic::State(device("marker")), b"here");

    let gateway = Party::device(&plain(&broker), "gw-07");
    gateway.connect("gw-07");
    gateway.send(Topic::UpHello(device("gw-07")), b"hello");
    gateway.expect_connected();
    gateway.expect_message(Topic::Bundle(1), b"trust");
    gateway.expect_message(Topic::FeedHead("main".parse().unwrap()), b"head");
    service.expect_message(Topic::UpHello(device("gw-07")), b"hello");
    service.send(Topic::DownAck(device("gw-07")), b"ack");
    gateway.expect_message(Topic::DownAck(device("gw-07")), b"ack");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_keeps_its_order_and_loses_nothing() {
    let broker = Mosquitto::open();
    let service = service(&plain(&broker));
    let gateway = Party::device(&plain(&broker), "gw-07");
    gateway.connect("gw-07");
    for i in 0..500_u32 {
        gateway.send(Topic::UpAudit(device("gw-07")), &i.to_be_bytes());
    }
    for i in 0..500_u32 {
        service.expect_message(Topic::UpAudit(device("gw-07")), &i.to_be_bytes());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_in_order_sends_no_will_and_an_end_without_a_word_does() {
    let broker = Mosquitto::open();
    let service = service(&plain(&broker));
    let gateway = Party::device(&plain(&broker), "gw-07");
    gateway.connect("gw-07");
    gateway.expect_connected();
    gateway.send(Topic::State(device("gw-07")), b"online");
    gateway.link.finish().await;
    service.expect_message(Topic::State(device("gw-07")), b"online");
    service.send(Topic::State(device("marker")), b"here");
    service.expect_message(Topic::State(device("marker")), b"here");

    let proxy = Proxy::start(broker.addr()).await.unwrap();
    let gateway = Party::device(&format!("mqtt://{}", proxy.addr()), "gw-08");
    gateway.connect("gw-08");
    gateway.expect_connected();
    proxy.cut();
    gateway.expect_lost();
    service.expect_message(Topic::State(device("gw-08")), b"gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_no_broker_takes_is_refused_here_and_the_link_stays() {
    let broker = Mosquitto::open();
    let service = service(&plain(&broker));
    let gateway = Party::device(&plain(&broker), "gw-07");
    gateway.connect("gw-07");
    gateway.expect_connected();
    gateway.send(Topic::UpAudit(device("gw-07")), &vec![0; 65 * 1024]);
    gateway.send(Topic::UpAudit(device("gw-07")), b"next");
    service.expect_message(Topic::UpAudit(device("gw-07")), b"next");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_broker_is_noticed_and_found_again() {
    let mut broker = Mosquitto::open();
    let gateway = Party::device(&plain(&broker), "gw-07");
    gateway.connect("gw-07");
    gateway.expect_connected();
    broker.kill();
    gateway.expect_lost();
    gateway.connect("gw-07");
    assert!(gateway.expect_lost().contains("refused"), "nobody listens there");
    broker.restart();
    gateway.connect("gw-07");
    gateway.expect_connected();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_address_gets_its_turn() {
    let (mut first, second) = (Mosquitto::open(), Mosquitto::open());
    first.kill();
    let gateway = Party::new(config("gw-07", &[plain(&first), plain(&second)], None));
    gateway.connect("gw-07");
    assert!(gateway.expect_lost().starts_with(&plain(&first)));
    gateway.connect("gw-07");
    gateway.expect_connected();
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_the_queue_holds_ends_the_connection() {
    let broker = Mosquitto::open();
    let proxy = Proxy::start(broker.addr()).await.unwrap();
    let gateway = Party::device(&format!("mqtt://{}", proxy.addr()), "gw-07");
    proxy.half_open(Swallow::Both);
    gateway.connect("gw-07");
    for _ in 0..2000 {
        gateway.send(Topic::UpAudit(device("gw-07")), b"x");
    }
    assert!(gateway.expect_lost().contains("queue"));
    proxy.heal();
    gateway.connect("gw-07");
    gateway.expect_connected();
}

/// What a scripted broker does once it has said its line.
#[derive(Clone, Copy, PartialEq)]
enum Then {
    Close,
    Listen,
}

/// A broker that says to one client after the other what it is told to say.
async fn scripted(lines: Vec<(Vec<u8>, Then)>) -> String {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("mqtt://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        for (line, then) in lines {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut heard = [0; 4096];
            let _ = socket.read(&mut heard).await;
            let _ = socket.write_all(&line).await;
            if then == Then::Close {
                let _ = socket.shutdown().await;
            }
            while socket.read(&mut heard).await.is_ok_and(|count| count > 0) {}
        }
    });
    url
}

const CONNACK: &[u8] = &[0x20, 3, 0, 0, 0];
const SUBACK: &[u8] = &[0x90, 9, 0, 1, 0, 1, 1, 1, 1, 1, 1];

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_broker_is_left_with_a_reason() {
    let up = [CONNACK, SUBACK].concat();
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (vec![], "closed the connection"),
        (vec![0xff; 64], "no valid MQTT"),
        ([CONNACK, &[0x30, 0xff, 0xff, 0xff, 0x7f]].concat(), "no valid MQTT"),
        (vec![0x20, 3, 0, 0x87, 0], "NotAuthorized"),
        (vec![0x20, 6, 0, 0, 3, 0x13, 0, 0], "keep-alive of 0 s"),
        (vec![0x20, 6, 0, 0, 3, 0x13, 0xff, 0xff], "keep-alive of 65535 s"),
        (vec![0x20, 6, 0, 0, 3, 0x21, 0, 0], "takes no message"),
        (vec![0x20, 5, 0, 0, 2, 0x25, 0], "no retained messages"),
        (vec![0x20, 5, 0, 0, 2, 0x24, 0], "no QoS 1"),
        ([CONNACK, &[0x90, 4, 0, 1, 0, 1]].concat(), "another number"),
        ([CONNACK, &[0x90, 9, 0, 1, 0, 0x87, 1, 1, 1, 1, 1]].concat(), "acme/bundle/+: not authorized"),
        ([CONNACK, &[0x90, 9, 0, 1, 0, 1, 1, 0x87, 0x87, 0x87, 1]].concat(), "dev/gw-07/down/ack: not authorized"),
        ([CONNACK, &[0x90, 9, 0, 1, 0, 1, 1, 1, 1, 1, 0]].concat(), "without acknowledgements"),
        ([CONNACK, &[0x30, 7, 0, 1, b't', 3, 0x23, 0, 1]].concat(), "topic aliases"),
        ([CONNACK, &[0xe0, 2, 0x8e, 0]].concat(), "took over"),
        ([&up, SUBACK].concat(), "nobody asked for"),
        ([&up[..], &[0x40, 2, 0, 5]].concat(), "unsolicited"),
        ([&up[..], &[0x62, 2, 0, 5]].concat(), "unsolicited"),
    ];
    let then = |line: &[u8]| if line.is_empty() { Then::Close } else { Then::Listen };
    let url = scripted(cases.iter().map(|(line, _)| (line.clone(), then(line))).collect()).await;
    let gateway = Party::device(&url, "gw-07");
    for (line, expected) in &cases {
        gateway.connect("gw-07");
        let reason = loop {
            match gateway.next() {
                LinkEvent::Connected => {}
                LinkEvent::Disconnected { reason } => break reason,
                LinkEvent::Message { .. } => panic!("{line:?} is no message"),
            }
        };
        assert!(reason.to_lowercase().contains(&expected.to_lowercase()), "{line:02x?}: {reason}");
    }
}

/// A device that may not read its feed is in touch all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_feed_that_is_refused_costs_nothing_else() {
    let message = [0x30, 4, 0, 1, b't', 0];
    let line = [CONNACK, &[0x90, 9, 0, 1, 0, 1, 1, 0x87, 0x87, 1, 1], &message].concat();
    let url = scripted(vec![(line, Then::Listen)]).await;
    let gateway = Party::device(&url, "gw-07");
    gateway.connect("gw-07");
    gateway.expect_connected();
    assert!(matches!(gateway.next(), LinkEvent::Message { topic, .. } if topic == "t"));
}

#[tokio::test(flavor = "multi_thread")]
async fn random_bytes_end_the_connection_and_nothing_else() {
    let mut rng = entropy::rng();
    let mut lines = Vec::new();
    for round in 0..300 {
        let mut line = [CONNACK, SUBACK].concat();
        let start = line.len();
        line.resize(start + 48, 0);
        rng.fill_bytes(&mut line[start..]);
        // Half of them begin as a packet that a client may get.
        if round % 2 == 0 {
            line[start] = [0x30, 0x32, 0x34, 0x40, 0x50, 0x62, 0x70, 0x90, 0xb0, 0xd0, 0xe0][round / 2 % 11];
            line[start + 1] &= 0x1f;
        }
        lines.push(line);
    }
    let url = scripted(lines.iter().map(|line| (line.clone(), Then::Close)).collect()).await;
    let gateway = Party::device(&url, "gw-07");
    for line in lines {
        gateway.connect("gw-07");
        let mut connected = 0;
        let reason = loop {
            match gateway.next() {
                LinkEvent::Connected => connected += 1,
                LinkEvent::Disconnected { reason } => break reason,
                LinkEvent::Message { .. } => {}
            }
        };
        assert!(connected <= 1 && !reason.contains("stopped without a reason"), "{reason}: {line:02x?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_the_login() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Mosquitto::secured(dir.path(), &fleet(), &[device("gw-07")]);
    let folder = BrokerFolder::of(dir.path(), &fleet());
    let authority = folder.authority().unwrap();
    let url = [format!("mqtts://localhost:{}", broker.port)];

    let service_tls = folder.service_identity(&mut entropy::rng()).unwrap();
    let door = [folder.service_url(&url[0].parse().unwrap()).to_string()];
    let service = Party::new(config("fleet-acme-00000001", &door, Some(service_tls.clone())));
    service.link.send(LinkCommand::Connect { filters: service_filters(&fleet()), will: None });
    service.expect_connected();

    let gateway = Party::new(config("gw-07", &url, Some(identity(&authority, "gw-07"))));
    gateway.connect("gw-07");
    gateway.expect_connected();
    gateway.send(Topic::UpHello(device("gw-07")), b"hello");
    service.expect_message(Topic::UpHello(device("gw-07")), b"hello");

    let misled = Party::new(config("fleet-acme-00000002", &url, Some(service_tls)));
    misled.link.send(LinkCommand::Connect { filters: service_filters(&fleet()), will: None });
    let reason = misled.expect_lost();
    assert!(reason.contains("has a port of its own"), "{reason}");

    let stranger = Party::new(config("gw-99", &url, Some(identity(&authority, "gw-99"))));
    stranger.connect("gw-99");
    let reason = stranger.expect_lost();
    assert!(reason.contains("refused the subscription") && reason.contains("not authorized"), "{reason}");
}

/// A broker that knows no certificates has nothing but the name to go by.
#[tokio::test(flavor = "multi_thread")]
async fn each_side_says_its_user_name() {
    let broker = Mosquitto::by_user("user fleet\ntopic readwrite #\npattern write hardtack/1/acme/dev/%u/up/+\n");
    let service = service(&plain(&broker));
    let gateway = Party::device(&plain(&broker), "gw-07");
    gateway.link.send(LinkCommand::Connect { filters: Vec::new(), will: None });
    gateway.expect_connected();
    gateway.send(Topic::UpHello(device("gw-08")), b"not its own");
    gateway.send(Topic::UpHello(device("gw-07")), b"hello");
    service.expect_message(Topic::UpHello(device("gw-07")), b"hello");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_of_another_authority_or_name_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Mosquitto::secured(dir.path(), &fleet(), &[device("gw-07")]);
    let authority = BrokerFolder::of(dir.path(), &fleet()).authority().unwrap();
    let other = Authority::make(&fleet()).unwrap();

    let url = [format!("mqtts://localhost:{}", broker.port)];
    let wrong = Party::new(config("gw-07", &url, Some(identity(&other, "gw-07"))));
    wrong.connect("gw-07");
    let reason = wrong.expect_lost();
    assert!(reason.contains("not signed by an authority"), "{reason}");

    let mut cheat = identity(&other, "gw-07");
    cheat.authorities = vec![authority.der().to_vec()];
    let cheat = Party::new(config("gw-07", &url, Some(cheat)));
    cheat.connect("gw-07");
    let reason = cheat.expect_lost();
    assert!(reason.contains("refused this side's certificate"), "{reason}");

    let by_address = [format!("mqtts://127.0.0.2:{}", broker.port)];
    let misled = Party::new(config("gw-07", &by_address, Some(identity(&authority, "gw-07"))));
    misled.connect("gw-07");
    let reason = misled.expect_lost();
    assert!(reason.contains("not for this host"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_trusted_floor_judges_the_brokers_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let now = clock::wall().unwrap();
    // What the wall clock calls expired yesterday.
    let day = Millis::from_secs(86_400);
    let validity = Validity { from: now - Millis::from_secs(10 * 86_400), until: now - day };
    let broker = Mosquitto::secured_with(dir.path(), &fleet(), &[device("gw-07")], validity);
    let authority = BrokerFolder::of(dir.path(), &fleet()).authority().unwrap();
    let url = [format!("mqtts://localhost:{}", broker.port)];
    let tls = identity(&authority, "gw-07");

    for (floor, accepted) in [
        (now, false),
        (validity.until + Millis::from_secs(1), false),
        (validity.until - Millis::from_secs(1), true),
        (validity.from - day, true),
        (Timestamp(0), true),
    ] {
        let gateway = Party::at(config("gw-07", &url, Some(tls.clone())), floor);
        gateway.connect("gw-07");
        if accepted {
            gateway.expect_connected();
        } else {
            let reason = gateway.expect_lost();
            assert!(reason.contains("ended at") && reason.contains("broker config"), "{reason}");
        }
        gateway.link.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_half_open_link_is_noticed() {
    let broker = Mosquitto::open();
    let proxy = Proxy::start(broker.addr()).await.unwrap();
    let gateway = Party::device(&format!("mqtt://{}", proxy.addr()), "gw-07");
    gateway.connect("gw-07");
    gateway.expect_connected();
    proxy.half_open(Swallow::Both);
    // Frozen with something to send, where the client itself would wait for ever.
    for _ in 0..100 {
        gateway.send(Topic::UpAudit(device("gw-07")), &[0; 32 * 1024]);
    }
    let reason = gateway.expect_lost();
    assert!(reason.contains("half-open"), "{reason}");

    // And one that answers nothing from the start.
    gateway.connect("gw-07");
    let reason = gateway.expect_lost();
    assert!(reason.contains("did not accept"), "{reason}");

    proxy.heal();
    gateway.connect("gw-07");
    gateway.expect_connected();
}

/// As under TCP: what is stalled arrives later, whole and in order, and who gave up meanwhile was never there.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_proxy_stalls_arrives_later() {
    let broker = Mosquitto::open();
    let service = service(&plain(&broker));
    let proxy = Proxy::start(broker.addr()).await.unwrap();
    let gateway = Party::device(&format!("mqtt://{}", proxy.addr()), "gw-07");
    gateway.connect("gw-07");
    gateway.expect_connected();
    proxy.stall(Swallow::Up);
    let before = proxy.log().len();
    (0..50_u32).for_each(|i| gateway.send(Topic::UpAudit(device("gw-07")), &i.to_be_bytes()));
    service.send(Topic::DownAck(device("gw-07")), b"ack");
    gateway.expect_message(Topic::DownAck(device("gw-07")), b"ack");
    let went_up = |from: usize| proxy.log().split_off(from).iter().any(|passed| passed.direction == Direction::Up);
    assert!(!went_up(before), "one way only");
    // Somebody else's socket, closed before it is heard of.
    drop(tokio::net::TcpStream::connect(proxy.addr()).await.unwrap());
    proxy.heal();
    for i in 0..50_u32 {
        service.expect_message(Topic::UpAudit(device("gw-07")), &i.to_be_bytes());
    }
    assert!(proxy.log().iter().all(|passed| passed.connection == 1), "the link was never lost");
}

/// What goes one way is later, and what goes the other overtakes it.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_proxy_slows_down_one_way_is_later_that_way() {
    let broker = Mosquitto::open();
    let service = service(&plain(&broker));
    let proxy = Proxy::start(broker.addr()).await.unwrap();
    let gateway = Party::device(&format!("mqtt://{}", proxy.addr()), "gw-07");
    gateway.connect("gw-07");
    gateway.expect_connected();
    let (up, down) = (Topic::UpAudit(device("gw-07")), Topic::DownAck(device("gw-07")));
    // Sent after what is slowed down, the other comes first, unless the machine itself stands still for a second.
    let overtakes = |slow| {
        let (before, sent) = (proxy.log().len(), clock::now().boottime);
        match slow {
            Direction::Down => {
                service.send(down.clone(), b"ack");
                gateway.send(up.clone(), b"audit");
            }
            Direction::Up => {
                gateway.send(up.clone(), b"audit");
                service.send(down.clone(), b"ack");
            }
        }
        gateway.expect_message(down.clone(), b"ack");
        service.expect_message(up.clone(), b"audit");
        let mut said = proxy.log().split_off(before);
        said.retain(|passed| passed.kind == PacketKind::Publish);
        let late = said.iter().find(|passed| passed.direction == slow).unwrap();
        assert!(late.at.0 >= sent.0 + 1000, "{sent:?} {said:?}");
        said[0].direction != slow
    };
    for (slow, delay) in [(Direction::Down, (0, 1000)), (Direction::Up, (1000, 0))] {
        proxy.delay(Duration::from_millis(delay.0), Duration::from_millis(delay.1));
        assert!((0..4).any(|_| overtakes(slow)), "{slow:?}: it is later both ways");
    }
}

/// Only what is open is lost, and nobody is told.
#[tokio::test(flavor = "multi_thread")]
async fn a_stranded_link_is_noticed_and_a_new_one_works() {
    let broker = Mosquitto::open();
    let proxy = Proxy::start(broker.addr()).await.unwrap();
    let [first, second] = ["gw-07", "gw-08"].map(|id| (id, Party::device(&format!("mqtt://{}", proxy.addr()), id)));
    first.1.connect(first.0);
    first.1.expect_connected();
    proxy.strand();
    second.1.connect(second.0);
    second.1.expect_connected();
    let reason = first.1.expect_lost();
    assert!(reason.contains("half-open"), "{reason}");
    first.1.connect(first.0);
    first.1.expect_connected();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proxy_tells_the_order_of_a_reconnect() {
    let broker = Mosquitto::open();
    let service = service(&plain(&broker));
    service.send(Topic::FeedHead("main".parse().unwrap()), b"head");
    service.send(Topic::State(device("marker")), b"here");
    service.expect_message(Topic::State(device("marker")), b"here");

    let proxy = Proxy::start(broker.addr()).await.unwrap();
    let gateway = Party::device(&format!("mqtt://{}", proxy.addr()), "gw-07");
    gateway.connect("gw-07");
    gateway.expect_connected();
    gateway.expect_message(Topic::FeedHead("main".parse().unwrap()), b"head");
    proxy.cut();
    gateway.expect_lost();
    gateway.connect("gw-07");
    gateway.expect_lost();
    let before = proxy.log().len();

    proxy.heal();
    gateway.connect("gw-07");
    gateway.expect_connected();
    gateway.expect_message(Topic::FeedHead("main".parse().unwrap()), b"head");
    gateway.send(Topic::UpAudit(device("gw-07")), b"audit");
    service.expect_message(Topic::State(device("gw-07")), b"gone");
    service.expect_message(Topic::UpAudit(device("gw-07")), b"audit");

    let log = proxy.log().split_off(before);
    assert!(log.iter().skip(1).all(|packet| packet.client == "gw-07"), "{log:?}");
    let place = |direction: Direction, kind: PacketKind, end: &str| {
        let fits = |topics: &[String]| end.is_empty() || topics.iter().any(|topic| topic.ends_with(end));
        let found = log.iter().position(|p| p.direction == direction && p.kind == kind && fits(&p.topics));
        found.unwrap_or_else(|| panic!("no {kind:?} {end} among {log:?}"))
    };
    let order = [
        place(Direction::Up, PacketKind::Connect, ""),
        place(Direction::Down, PacketKind::Connack, ""),
        place(Direction::Up, PacketKind::Subscribe, "feed/main/+"),
        place(Direction::Down, PacketKind::Publish, "feed/main/head"),
        place(Direction::Up, PacketKind::Publish, "up/audit"),
    ];
    assert!(order.is_sorted(), "{order:?}: {log:?}");
}

/// The embedded broker does for the demo what a real one does.
#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_broker_serves_the_link() {
    let port = embedded::free_port().unwrap();
    std::thread::spawn(move || embedded::run(port));
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        tokio::task::yield_now().await;
    }
    let url = format!("mqtt://127.0.0.1:{port}");
    let service = service(&url);
    for version in 1..=3 {
        service.send(Topic::Bundle(version), &version.to_be_bytes());
    }
    service.send(Topic::Policy(1), b"policy");
    service.send(Topic::FeedHead("main".parse().unwrap()), b"old head");
    service.send(Topic::FeedHead("main".parse().unwrap()), b"head");
    for place in 0..4 {
        service.send(Topic::FeedDelta("main".parse().unwrap(), place), &[7; 32 * 1024]);
    }
    service.send(Topic::State(device("marker")), b"here");
    service.expect_message(Topic::State(device("marker")), b"here");

    let proxy = Proxy::start(([127, 0, 0, 1], port).into()).await.unwrap();
    let gateway = Party::device(&format!("mqtt://{}", proxy.addr()), "gw-07");
    for round in 0..3 {
        gateway.connect("gw-07");
        gateway.expect_connected();
        let places = (0..4).map(|place| Topic::FeedDelta("main".parse().unwrap(), place)).collect();
        gateway.link.send(LinkCommand::Read { places, left: Vec::new() });
        let mut retained: Vec<String> = (0..9)
            .map(|_| {
                let event = gateway.next();
                let LinkEvent::Message { topic, payload } = event else { panic!("round {round}: {event:?}") };
                if topic.ends_with("head") {
                    assert_eq!(payload, b"head", "only the newest is kept");
                }
                topic.rsplit_once("acme/").unwrap().1.to_owned()
            })
            .collect();
        retained.sort();
        let expected = ["bundle/1", "bundle/2", "bundle/3", "feed/main/delta/0", "feed/main/delta/1"];
        assert_eq!(retained[..5], expected, "round {round}");

        for i in 0..200_u32 {
            gateway.send(Topic::UpAudit(device("gw-07")), &i.to_be_bytes());
        }
        for i in 0..200_u32 {
            service.expect_message(Topic::UpAudit(device("gw-07")), &i.to_be_bytes());
        }
        service.send(Topic::DownAck(device("gw-07")), b"ack");
        gateway.expect_message(Topic::DownAck(device("gw-07")), b"ack");

        proxy.cut();
        gateway.expect_lost();
        service.expect_message(Topic::State(device("gw-07")), b"gone");
        proxy.heal();
    }

    // An end in order is none that the will is for.
    gateway.connect("gw-07");
    gateway.expect_connected();
    gateway.link.finish().await;
    service.send(Topic::State(device("marker")), b"here");
    service.expect_message(Topic::State(device("marker")), b"here");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ends_by_itself_ends_at_the_broker_too() {
    let broker = Mosquitto::open();
    let service = service(&plain(&broker));
    let feed: FeedId = "main".parse().unwrap();
    let ends = clock::wall().unwrap() + Millis::from_secs(3600);
    let bucket = PartKey::Serials(Slot::of(clock::wall().unwrap(), ends));
    let places = [Topic::FeedPiece(feed.clone(), bucket, 0), Topic::FeedPiece(feed, PartKey::Rules, 0)];
    places.iter().for_each(|place| service.send(place.clone(), b"piece"));
    service.send(Topic::State(device("marker")), b"here");
    service.expect_message(Topic::State(device("marker")), b"here");

    let (client, mut events) = AsyncClient::new(MqttOptions::new("reader", "127.0.0.1", broker.port), 16);
    client.subscribe("hardtack/1/acme/feed/#", QoS::AtLeastOnce).await.unwrap();
    let mut expiries = BTreeMap::new();
    while expiries.len() < places.len() {
        let event = tokio::time::timeout(PATIENCE, events.poll()).await.unwrap().unwrap();
        if let Event::Incoming(Packet::Publish(publish)) = event {
            let expiry = publish.properties.and_then(|properties| properties.message_expiry_interval);
            expiries.insert(publish.topic, expiry.map(|secs| secs / 86_400));
        }
    }
    let expected = [Some(90), None];
    assert_eq!(places.map(|place| expiries[place.text(&fleet()).as_bytes()]), expected);
}
