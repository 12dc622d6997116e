//! What a feed costs a device: taking in a large snapshot and a delta, a day of messages, and how long a revocation takes to
//! get there over a real mosquitto.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::{channel, Receiver};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use hardtack::agent::clock::Between;
use hardtack::agent::effects::{LinkCommand, Publish};
use hardtack::agent::feed::{StoredFeed, SET_BYTES_MAX};
use hardtack::agent::revocation::Revocations;
use hardtack::agent::LinkEvent;
use hardtack::fleet::book::{Life, Rule, Serials};
use hardtack::fleet::enrol::{found, Founding};
use hardtack::fleet::publish::{self, Cadence, FeedAt};
use hardtack::fleet::{Book, Effects, FleetKeys, Write};
use hardtack::ids::{BlockId, FeedId, Hash};
use hardtack::shell::mqtt::{Link, LinkConfig};
use hardtack::time::{Millis, Timestamp};
use hardtack::wire::bundle::{BrokerPins, TrustBundle};
use hardtack::wire::encode;
use hardtack::wire::link::Topic;
use hardtack::wire::revocation::announcement::{Announcement, Snapshot, Successor};
use hardtack::wire::revocation::fingerprints::{FingerprintBucket, Width};
use hardtack::wire::revocation::manifest::Manifest;
use hardtack::wire::revocation::set::RevocationSet;
use hardtack::wire::revocation::Target;
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};

use super::mosquitto::Mosquitto;
use super::{bucket_key, fingerprints, key, least_of, line, world, START};

/// The option by which this bench runs itself as a device whose memory is measured.
pub(super) const AS_DEVICE: &str = "as-device";

const ENTRIES: u32 = 1_000_000;
const NEVER: Timestamp = Timestamp(0);
/// So far from the first head that no ladder leads there.
const FAR: u64 = 200_000;

/// A head of the bench's own feed.
fn successor<'a>(
    feed: &'a FeedId,
    seq: u64,
    previous: Hash,
    set: &'a RevocationSet,
    additions: &'a RevocationSet,
) -> Successor<'a> {
    Successor {
        feed,
        era: 0,
        seq,
        previous,
        issued_at: START + Millis::from_secs(seq),
        next_update_ms: Millis::from_secs(900),
        hard_stale_ms: Millis::from_secs(90 * 86_400),
        dropped_before: Timestamp(0),
        set,
        additions,
        skips: &[],
        bundle_version: 1,
        policy_version: 1,
    }
}

/// A million entries and a thousand more, as the broker has them: messages as the real publisher cuts them.
struct Site {
    feed: FeedId,
    trust: TrustBundle,
    whole: RevocationSet,
    more: RevocationSet,
    head: Announcement,
    manifest: Vec<u8>,
    pieces: Vec<Vec<u8>>,
    delta: Vec<u8>,
}

fn site() -> Site {
    let feed: FeedId = "main".parse().expect("valid");
    let trust = world().trust;
    let (whole, _) = fingerprints(ENTRIES, Width::Bits64);
    let nothing = RevocationSet::default();
    let head = successor(&feed, FAR, Hash::ZERO, &whole, &nothing).sign(&trust.fleet, &key(4)).1.remove(0);
    let mut rng = ChaCha20Rng::from_seed([99; 32]);
    let bucket = FingerprintBucket::new(Width::Bits64, (0..1000).map(|_| u128::from(rng.next_u64()))).expect("few");
    let mut more = RevocationSet::default();
    more.add_fingerprints(bucket_key(Width::Bits64), bucket).expect("few");
    let sum = whole.merge(&more).expect("within the limits");
    let delta = successor(&feed, FAR + 1, head.head.digest(), &sum, &more).sign(&trust.fleet, &key(4)).1.remove(0);
    let manifest = Manifest::of(&whole);
    let snapshot = Snapshot { head: head.head.clone(), manifest: manifest.to_bytes() };
    let pieces = manifest.parts().iter().flat_map(|part| {
        let of = |number| manifest.piece(&whole, part.key, number).expect("its own").to_bytes();
        (0..part.pieces()).map(of).collect::<Vec<_>>()
    });
    let pieces = pieces.collect();
    Site { pieces, manifest: snapshot.to_bytes(), delta: delta.to_bytes(), head, feed, trust, whole, more }
}

/// The messages of a snapshot, then of the delta, in the order in which a device reads them.
fn messages(site: &Site) -> Vec<(u8, Vec<u8>)> {
    let pieces = site.pieces.iter().map(|piece| (2, piece.clone()));
    let first = [(0, site.head.to_bytes()), (1, site.manifest.clone())];
    first.into_iter().chain(pieces).chain([(0, site.delta.clone())]).collect()
}

/// A device hears a message, and makes the file of what changed.
fn hear(held: &mut Revocations, feed: &FeedId, trust: &TrustBundle, (kind, payload): &(u8, Vec<u8>)) {
    let applied = match kind {
        0 => held.announce(feed, payload, trust, Between::from(NEVER)),
        1 => held.snapshot(feed, payload, trust, NEVER),
        _ => held.piece(feed, payload, NEVER),
    };
    if let Some(applied) = applied.expect("the publisher's own").applied {
        black_box(applied.file);
    }
}

/// A device takes in a million entries and a thousand more, through its feed, with all that it writes.
pub(super) fn applied() {
    let site = site();
    let all = messages(&site);
    let (delta, snapshot) = all.split_last().expect("some messages");
    let bytes = site.whole.to_bytes();
    let sum = site.whole.merge(&site.more).expect("within the limits");
    let more = site.more.to_bytes();
    let mut device = Revocations::default();
    let mut take = || {
        device = world().revocations;
        snapshot.iter().for_each(|message| hear(&mut device, &site.feed, &site.trust, message));
        assert_eq!(device.positions()[0].seq, FAR, "complete");
    };
    let mut bare = || {
        let set = RevocationSet::from_bytes(&bytes, SET_BYTES_MAX).expect("our own set");
        black_box(Manifest::of(&set).root());
    };
    let times = least_of(3, &mut [&mut take, &mut bare]);
    line("snapshot_apply_ms", times[0] / 1e3, "ms", times[1] / 1e3, "1 M entries; decode and Merkle of the same bytes");

    let file = complete(&site);
    let fresh = || {
        let mut held = Revocations::default();
        held.load(&site.feed, (&file, None), &site.trust, (None, 0)).expect("its own file");
        held
    };
    let mut waiting: Vec<Revocations> = (0..3).map(|_| fresh()).collect();
    let mut take = || {
        let mut held = waiting.pop().expect("one for each round");
        hear(&mut held, &site.feed, &site.trust, delta);
        assert_eq!(held.positions()[0].seq, FAR + 1, "complete");
    };
    let mut bare = || {
        let set = RevocationSet::from_bytes(&more, SET_BYTES_MAX).expect("our own set");
        black_box(set.count());
        black_box(Manifest::of(&sum).root());
    };
    let times = least_of(3, &mut [&mut take, &mut bare]);
    line("delta_apply_ms", times[0] / 1e3, "ms", times[1] / 1e3, "1000 entries more; decode, Merkle of the sum");
    memory(&site, &all);
}

/// The file of a device that holds the snapshot.
fn complete(site: &Site) -> Vec<u8> {
    let stored = StoredFeed::enrolled(1, site.head.head.clone(), site.whole.to_bytes(), None).expect("our own set");
    stored.to_bytes()
}

/// The peak of a process of its own that reads message after message, against the bytes of the set.
fn memory(site: &Site, all: &[(u8, Vec<u8>)]) {
    let measured = || -> Result<String, String> {
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        let file = folder.path().join("messages");
        std::fs::write(&file, encode(&all)).map_err(|error| error.to_string())?;
        let bench = std::env::current_exe().map_err(|error| error.to_string())?;
        let output = Command::new(bench).arg(AS_DEVICE).arg(&file).output().map_err(|error| error.to_string())?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let told = measured();
    let numbers: Vec<f64> =
        told.iter().flat_map(|text| text.split_whitespace()).filter_map(|word| word.parse().ok()).collect();
    let [snapshot, delta] = numbers[..] else {
        println!("snapshot_peak_mb, delta_peak_mb: {told:?}");
        return;
    };
    let bytes = site.whole.to_bytes().len() as f64 / 1e6;
    line("snapshot_peak_mb", snapshot, "MB", bytes, "peak above a device without revocations; the set's bytes");
    line("delta_peak_mb", delta, "MB", bytes, "the same, for 1000 entries more");
}

/// Hears the messages of a file as a device does, and prints how much memory it took at most above what it had.
pub(super) fn as_device(file: &Path) {
    let resident = |field: &str| {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<f64>().ok());
        kib.unwrap_or_default() * 1.024 / 1000.0
    };
    // The messages themselves are in memory before, and not counted.
    let Ok(bytes) = std::fs::read(file) else { return };
    let messages: Vec<(u8, Vec<u8>)> = hardtack::wire::decode(&bytes, usize::MAX).expect("what was written for it");
    drop(bytes);
    let feed: FeedId = "main".parse().expect("valid");
    let mut world = world();
    let trust = world.trust.clone();
    let (delta, snapshot) = messages.split_last().expect("some messages");
    let before = resident("VmRSS");
    for (messages, end) in [(snapshot, ' '), (std::slice::from_ref(delta), '\n')] {
        // The peak counts from here.
        let _ = std::fs::write("/proc/self/clear_refs", "5");
        messages.iter().for_each(|message| hear(&mut world.revocations, &feed, &trust, message));
        print!("{}{end}", resident("VmHWM") - before);
    }
}

/// A day of the fleet that the targets are for, in one feed and in one of a hundred.
pub(super) fn day() {
    let (all, book) = day_of(100_000);
    line("feed_kb_per_day", all.bytes as f64 / 1e3, "KB", 45.0, "<= 45 KB a device and day");
    let live = book.first().set().count();
    println!("  {} messages, the largest {} B; {live} serials are revoked at the end", all.heads, all.largest);
    catch_up(&book);
    let (grouped, _) = day_of(1_000);
    let single = all.bytes as f64 / 1e3;
    line("grouped_kb_per_day", grouped.bytes as f64 / 1e3, "KB", single, "the same fleet in 100 groups; in one feed");
}

/// What comes to a device on its two standing subscriptions.
struct Standing {
    bytes: usize,
    heads: usize,
    largest: usize,
}

/// A day of a feed of so many devices: a head each quarter of an hour, tokens with serials.
fn day_of(devices: u32) -> (Standing, Book) {
    const TOKENS_A_DAY: u32 = 20;
    const HEADS_A_DAY: u32 = 96;
    let interval = Millis::from_secs(900);
    let keys = FleetKeys::generate(&mut ChaCha20Rng::from_seed([1; 32]));
    let cadence = Cadence::every(interval);
    let founding = Founding {
        fleet: "acme".parse().expect("valid"),
        feed: "main".parse().expect("valid"),
        broker: BrokerPins::default(),
        keys: &keys,
        operator: "bench",
        at: START,
        cadence,
    };
    let mut book = found(&founding, &mut Effects::default()).expect("a fleet");
    let mut rng = ChaCha20Rng::from_seed([2; 32]);
    let mut lives: Vec<Life> = Vec::new();
    let mut issued: BTreeMap<u32, u32> = BTreeMap::new();
    let tokens = devices * TOKENS_A_DAY / HEADS_A_DAY;
    let mut standing = Standing { bytes: 0, heads: 0, largest: 0 };
    // The first day fills the buckets, the second counts.
    for round in 0..2 * HEADS_A_DAY {
        let at = START + Millis(interval.0 * u64::from(round + 1));
        let expires = at + Millis::from_secs(86_400);
        let slot = Life { issued: at, expires, serial: None }.slot();
        let count = issued.entry(slot.number()).or_default();
        // Every two hundredth token is revoked at some time of its life: it is one of these.
        let doomed = (0..tokens).filter(|_| rng.next_u32() % 200 == 0).map(|n| *count + n);
        lives.extend(doomed.map(|serial| Life { issued: at, expires, serial: Some(serial) }));
        *count += tokens;
        book.apply(Write::Serials(Serials { slot, issued: *count }));
        lives.retain(|life| life.expires > at);
        // As many as become due: the time of each is any in its life.
        let due = (f64::from(tokens) / 200.0).round() as usize;
        for _ in 0..due.min(lives.len()) {
            let life = lives.swap_remove(rng.next_u32() as usize % lives.len());
            let mut block = BlockId([0; 32]);
            rng.fill_bytes(&mut block.0);
            let rule = Rule {
                target: Target::Block(block),
                until: life.expires,
                reason: String::new(),
                at,
                life: Some(life),
                device: None,
            };
            book.apply(Write::Rule(rule));
        }
        let known = FeedAt::of(book.first());
        publish::advance(&mut book, &keys.feed, cadence, at, &mut Effects::default());
        if round < HEADS_A_DAY {
            continue;
        }
        for Publish { topic, payload } in publish::feed(&book.feed(), book.first(), Some(known)) {
            if matches!(topic, Topic::FeedHead(_) | Topic::FeedRules(_)) {
                let text = topic.text(book.fleet());
                // Type, length, length of the topic, packet id, no properties; and the acknowledgement.
                let bytes = 3 + 2 + text.len() + 2 + 1 + payload.len() + 4;
                standing.bytes += bytes;
                standing.heads += 1;
                standing.largest = standing.largest.max(bytes);
            }
        }
    }
    (standing, book)
}

/// What a device reads that was away for longer than any token lives.
fn catch_up(book: &Book) {
    let snapshot = publish::feed(&book.feed(), book.first(), None);
    let of = |publish: &&Publish| matches!(publish.topic, Topic::FeedManifest(_) | Topic::FeedPiece(..));
    let bytes: usize = snapshot.iter().filter(of).map(|publish| publish.payload.len()).sum();
    let wire = book.first().set().to_bytes().len() as f64 / 1e3;
    line("catch_up_kb", bytes as f64 / 1e3, "KB", wire, "one snapshot; the set's bytes");
}

/// Revoked to in force, for each of many devices that are connected to a real broker; the reference is a message of the
/// same length that nobody looks into.
#[expect(clippy::disallowed_methods, reason = "a bench measures wall time")]
pub(super) fn latency() {
    const DEVICES: usize = 200;
    const ROUNDS: usize = 20;
    let Some(broker) = Mosquitto::start() else {
        println!("revoke_p50_ms, revoke_p99_ms: mosquitto is not installed here (apt-get install mosquitto)");
        return;
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let _inside = runtime.enter();
    let keys = FleetKeys::generate(&mut ChaCha20Rng::from_seed([1; 32]));
    let cadence = Cadence::every(Millis::from_secs(900));
    let founding = Founding {
        fleet: "acme".parse().expect("valid"),
        feed: "main".parse().expect("valid"),
        broker: BrokerPins::default(),
        keys: &keys,
        operator: "bench",
        at: START,
        cadence,
    };
    let mut book = found(&founding, &mut Effects::default()).expect("a fleet");
    let (trust, feed) = (book.trust().clone(), book.feed());
    let (told, applied) = channel();
    let link = |id: String, on_event: Box<dyn Fn(LinkEvent) + Send + Sync>| {
        let config = LinkConfig {
            fleet: "acme".parse().expect("valid"),
            user: id.clone(),
            client_id: id,
            urls: vec![broker.url.parse().expect("valid")],
            tls: None,
            keepalive: Duration::from_secs(60),
            connect: Duration::from_secs(30),
            packet_bytes_max: LinkConfig::PACKET_BYTES_MAX,
        };
        Link::spawn(config, || START, on_event).expect("a link")
    };
    let devices: Vec<Link> = (0..DEVICES)
        .map(|number| {
            let (told, trust, feed) = (told.clone(), trust.clone(), feed.clone());
            let held = Mutex::new(Revocations::default());
            let on_event = move |event| {
                let LinkEvent::Message { topic, payload } = event else {
                    let up = matches!(event, LinkEvent::Connected);
                    told.send((Kind::Up(up), Instant::now())).unwrap_or_default();
                    return;
                };
                let kind = if topic.ends_with("/head") {
                    let mut held = held.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    let applied = held.announce(&feed, &payload, &trust, Between::from(NEVER));
                    match applied.ok().and_then(|taken| taken.applied).filter(|applied| applied.changed.complete) {
                        Some(applied) => Kind::Applied(applied.newest.seq),
                        None => return,
                    }
                } else {
                    Kind::Bare
                };
                told.send((kind, Instant::now())).unwrap_or_default();
            };
            link(format!("gw-{number}"), Box::new(on_event))
        })
        .collect();
    let service = link("fleet-bench".into(), Box::new(|_| {}));
    service.send(LinkCommand::Connect { filters: Vec::new(), will: None });
    publish::retained(&book).into_iter().for_each(|publish| service.send(LinkCommand::Publish(publish)));
    let filters = ["feed/main/head", "bundle/+"].map(|rest| format!("hardtack/1/acme/{rest}"));
    for device in &devices {
        device.send(LinkCommand::Connect { filters: filters.to_vec(), will: None });
    }
    let all = |wanted: Kind| times(&applied, wanted, DEVICES);
    if all(Kind::Applied(1)).is_none() {
        println!("revoke_p50_ms, revoke_p99_ms: not all of {DEVICES} devices came up");
        return;
    }
    let (mut revoked, mut bare) = (Vec::new(), Vec::new());
    let since = |began: Instant, ends: Vec<Instant>| ends.into_iter().map(move |end| (end - began).as_secs_f64() * 1e3);
    for round in 0..ROUNDS {
        let at = START + Millis::from_secs(round as u64 + 1);
        let target = Target::Block(BlockId(Hash::of("bench", &[&round.to_le_bytes()]).0));
        let rule =
            Rule { target, until: at + Millis::from_secs(86_400), reason: String::new(), at, life: None, device: None };
        let began = Instant::now();
        let known = FeedAt::of(book.first());
        book.apply(Write::Rule(rule));
        publish::advance(&mut book, &keys.feed, cadence, at, &mut Effects::default());
        let messages = publish::feed(&book.feed(), book.first(), Some(known));
        let length = messages.iter().map(|publish| publish.payload.len()).max().unwrap_or_default();
        messages.into_iter().for_each(|publish| service.send(LinkCommand::Publish(publish)));
        let Some(ends) = all(Kind::Applied(book.first().head().expect("a head").head.seq)) else { break };
        revoked.extend(since(began, ends));
        let began = Instant::now();
        service.send(LinkCommand::Publish(Publish { topic: Topic::Bundle(round as u64), payload: vec![0; length] }));
        let Some(ends) = all(Kind::Bare) else { break };
        bare.extend(since(began, ends));
    }
    if bare.len() < DEVICES * ROUNDS {
        println!("revoke_p50_ms, revoke_p99_ms: a message did not arrive within {PATIENCE:?}");
        return;
    }
    revoked.sort_by(f64::total_cmp);
    bare.sort_by(f64::total_cmp);
    let at = |times: &[f64], share: f64| times[((times.len() - 1) as f64 * share) as usize];
    line("revoke_p50_ms", at(&revoked, 0.5), "ms", at(&bare, 0.5), "of 200 devices; a bare message on the same broker");
    line("revoke_p99_ms", at(&revoked, 0.99), "ms", at(&bare, 0.99), "<= 5000 ms");
}

const PATIENCE: Duration = Duration::from_secs(30);

/// What a device tells of itself.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Up(bool),
    Applied(u64),
    Bare,
}

/// When each of so many told this; none if one does not.
fn times(told: &Receiver<(Kind, Instant)>, wanted: Kind, count: usize) -> Option<Vec<Instant>> {
    let mut times = Vec::with_capacity(count);
    while times.len() < count {
        match told.recv_timeout(PATIENCE).ok()? {
            (kind, at) if kind == wanted => times.push(at),
            (Kind::Up(_) | Kind::Applied(_) | Kind::Bare, _) => {}
        }
    }
    Some(times)
}
