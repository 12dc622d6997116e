//! How fast a backlog leaves a device: the real daemon, a real mosquitto, the real service with its ledger; beside it
//! messages of the same length over the same broker that nobody looks into.

use std::path::Path;
use std::sync::mpsc::channel;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hardtack::agent::effects::{LinkCommand, Publish};
use hardtack::agent::request::{Reply, Request};
use hardtack::agent::LinkEvent;
use hardtack::config::{self, BrokerConfig};
use hardtack::fleet::enrol::{answer, approve, found, Founding, Replace};
use hardtack::fleet::keys::Issuer;
use hardtack::fleet::service::ServiceKeys;
use hardtack::fleet::{Effects, FleetKeys, Settings};
use hardtack::ids::Nonce;
use hardtack::shell::inbox::{Call, Inbox};
use hardtack::shell::ledger::Ledger;
use hardtack::shell::mqtt::{BrokerUrl, Link, LinkConfig};
use hardtack::shell::place::Place;
use hardtack::shell::run::{self, Machine};
use hardtack::shell::serve::{Serving, Uplink};
use hardtack::shell::store::Store;
use hardtack::wire::audit::segment::Delivery;
use hardtack::wire::bundle::BrokerPins;
use hardtack::wire::enrol::EnrolRequest;
use hardtack::wire::link::Topic;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

use super::disk::{caller, keys, profile, settle, tokens, Device};
use super::mosquitto::Mosquitto;
use super::{key, line, world, START};

/// Groups of 64 decisions that wait when the link comes up.
const GROUPS: usize = 1024;
const PATIENCE: Duration = Duration::from_secs(120);
/// As many as a device has in flight.
const WINDOW: usize = 8;

/// A fleet with one device, which is enrolled in a folder of its own.
struct Fleet {
    ledger: Ledger,
    keys: ServiceKeys,
    folder: tempfile::TempDir,
    device: Device,
}

impl Fleet {
    fn found() -> Self {
        let (world, device_keys) = (world(), keys());
        let rng = &mut ChaCha20Rng::from_seed([31; 32]);
        // Tokens of the other benches are of this issuer.
        let keys = FleetKeys { issuer: Issuer { root_key_id: 7, key: key(2) }, ..FleetKeys::generate(rng) };
        let founding = Founding {
            fleet: world.trust.fleet.clone(),
            feed: "main".parse().expect("valid"),
            broker: BrokerPins::default(),
            keys: &keys,
            operator: "bench",
            at: START,
            cadence: Settings::default().cadence,
        };
        let fx = &mut Effects::default();
        let mut book = found(&founding, fx).expect("a fleet");
        let nonce = Nonce([3; 16]);
        let request = EnrolRequest {
            device: world.device.clone(),
            keys: device_keys.public(),
            nonce,
            profile: "generic-x86_64".into(),
        };
        let signed = request.sign(&device_keys);
        let operator = keys.operator("bench");
        approve(&mut book, &signed, EnrolRequest::code(&signed), Replace::Keep, operator, START, fx).expect("new");
        let answer = answer(&book, &world.device, Vec::new(), &keys.service, START, rng).expect("it is in");
        let (folder, state) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        settle(state.path(), &answer, device_keys, nonce, &book.trust().fingerprint());
        let path = folder.path().join("fleet.db");
        std::mem::take(fx).commit(|writes| Ledger::create(&path, &writes)).expect("a ledger");
        let FleetKeys { issuer, feed, service, collector, .. } = keys;
        let keys = ServiceKeys { issuer, feed, service, collectors: vec![collector] };
        let ledger = Ledger::open(&path).expect("our own ledger");
        Self { ledger, keys, folder, device: Device::of(state) }
    }
}

/// The lengths of the messages that all closed segments of a state folder make.
fn lengths(state: &Path) -> Vec<usize> {
    let (mut store, found) = Store::open(state, &profile().queue).expect("our own folder");
    let mut lengths = Vec::new();
    for era in found.eras {
        let loaded = (0..).map_while(|segment| store.load(era.id, segment).expect("our own store"));
        lengths.extend(loaded.map(|loaded| Delivery::Open(loaded.upload()).to_bytes().len()));
    }
    lengths
}

/// Records per second until the device knows that the collector holds them.
pub(super) fn drained() {
    let Some(broker) = Mosquitto::start() else {
        println!("drain: mosquitto is not installed here (apt-get install mosquitto)");
        return;
    };
    let url: BrokerUrl = broker.url.parse().expect("valid");
    let Fleet { ledger, keys, folder, mut device } = Fleet::found();
    let tokens = tokens(64, false);
    (0..GROUPS).for_each(|_| device.decide_durably(&tokens));
    let Device { folder: state, store, .. } = device;
    drop(store);
    let lengths = lengths(state.path());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let uplink = Uplink { urls: vec![url.clone()], tls: None };
    let place = Place::named(folder.path());
    let serving =
        Serving::start(ledger, keys, Settings::default(), uplink, place, runtime.handle()).expect("it serves");
    let Some(ours) = of_the_daemon(&runtime, state.path(), broker.url.parse().expect("valid")) else {
        println!("drain: not all of it arrived within {PATIENCE:?}");
        return;
    };
    serving.stop().expect("in order");
    let Some(bare) = bare(&runtime, url, &lengths) else {
        println!("drain: the bare messages did not arrive within {PATIENCE:?}");
        return;
    };
    let records = (GROUPS * 64) as f64;
    line("drain", ours, "rec/s", records / bare, "the same messages, bare, over the same broker");
    let bytes: usize = lengths.iter().sum();
    println!("  {} messages of {} B on average, {WINDOW} in flight", lengths.len(), bytes / lengths.len().max(1));
}

/// From the first acknowledgement to the last.
#[expect(clippy::disallowed_methods, reason = "a bench measures wall time")]
fn of_the_daemon(runtime: &Runtime, state: &Path, url: config::BrokerUrl) -> Option<f64> {
    let inbox = Arc::new(Inbox::default());
    let broker = BrokerConfig { urls: vec![url], ..BrokerConfig::default() };
    let machine = Machine { state_dir: state.into(), profile: profile(), broker };
    let running = run::start(machine, inbox.clone(), runtime.handle().clone()).expect("it starts");
    let all = pending(runtime, &inbox);
    let deadline = Instant::now() + PATIENCE;
    let (mut began, mut rate) = (None, None);
    while rate.is_none() && Instant::now() < deadline {
        let (left, now) = (pending(runtime, &inbox), Instant::now());
        if left < all && began.is_none() {
            began = Some((left, now));
        }
        // What the start itself recorded is in a segment that is not closed yet.
        if let Some((first, since)) = began.filter(|_| left < 64) {
            rate = Some((first - left) as f64 / (now - since).as_secs_f64());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    inbox.stop();
    running.join().expect("it ends");
    rate
}

fn pending(runtime: &Runtime, inbox: &Inbox) -> u64 {
    let (answer, answered) = oneshot::channel();
    inbox.call(Call { evidence: caller(), request: Request::Status, answer }).expect("room");
    let reply = runtime.block_on(answered).expect("an answer");
    let Reply::Status(status) = reply else { panic!("{reply:?}") };
    status.pending
}

/// Seconds for messages of these lengths from one client to another, as many in flight as a device has.
#[expect(clippy::disallowed_methods, reason = "a bench measures wall time")]
fn bare(runtime: &Runtime, url: BrokerUrl, lengths: &[usize]) -> Option<f64> {
    let _inside = runtime.enter();
    let (told, heard) = channel();
    let device = world().device;
    let link = |user: &str, on_event: Box<dyn Fn(LinkEvent) + Send + Sync>| {
        let config = LinkConfig {
            fleet: "acme".parse().expect("valid"),
            user: user.into(),
            client_id: user.into(),
            urls: vec![url.clone()],
            tls: None,
            keepalive: Duration::from_secs(60),
            connect: Duration::from_secs(30),
            packet_bytes_max: LinkConfig::PACKET_BYTES_MAX,
        };
        Link::spawn(config, || START, on_event).expect("a link")
    };
    let receiver = link("receiver", Box::new(move |event| told.send(event).unwrap_or_default()));
    receiver.send(LinkCommand::Connect { filters: vec!["hardtack/1/acme/dev/+/up/audit".into()], will: None });
    let connected = |event: LinkEvent| matches!(event, LinkEvent::Connected);
    heard.recv_timeout(PATIENCE).ok().filter(|event| connected(event.clone()))?;
    let (told_up, up) = channel();
    let sender = link("sender", Box::new(move |event| told_up.send(event).unwrap_or_default()));
    sender.send(LinkCommand::Connect { filters: Vec::new(), will: None });
    up.recv_timeout(PATIENCE).ok().filter(|event| connected(event.clone()))?;
    let send = |length: &usize| {
        let topic = Topic::UpAudit(device.clone());
        sender.send(LinkCommand::Publish(Publish { topic, payload: vec![0x5a; *length] }));
    };
    let began = Instant::now();
    let mut rest = lengths.iter();
    rest.by_ref().take(WINDOW).for_each(send);
    for _ in lengths {
        heard.recv_timeout(PATIENCE).ok()?;
        rest.by_ref().take(1).for_each(send);
    }
    Some(began.elapsed().as_secs_f64())
}
