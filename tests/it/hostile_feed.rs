//! A device's feeds hear what a broker has, has had, and makes of it: any messages of a real publisher's history, of another
//! history that was signed with the same key, and of a stranger's, in any order, changed, misplaced, repeated, between
//! restarts and broken connections. The property tests and the fuzz targets share it.

use std::collections::BTreeMap;

use hardtack::agent::clock::Between;
use hardtack::agent::effects::StateFile;
use hardtack::agent::feed::{Held, StoredFeed, Wanted, SET_BYTES_MAX, STORED_BYTES_MAX};
use hardtack::agent::revocation::{Applied, Revocations, Taken};
use hardtack::fleet::book::{Life, Rule};
use hardtack::fleet::enrol::{found, Founding};
use hardtack::fleet::publish::{self, Cadence};
use hardtack::fleet::{Book, Effects, FleetKeys, Write};
use hardtack::ids::{BlockId, FeedId, Hash};
use hardtack::time::{Millis, Timestamp};
use hardtack::wire::bundle::{BrokerPins, TrustBundle};
use hardtack::wire::envelope::Signed;
use hardtack::wire::link::Topic;
use hardtack::wire::revocation::announcement::{additions_digest, Announcement, Head, Snapshot};
use hardtack::wire::revocation::manifest::Manifest;
use hardtack::wire::revocation::set::RevocationSet;
use hardtack::wire::revocation::{Position, Target};
use hardtack::wire::{Refused, MESSAGE_BYTES_MAX};
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};

/// 2026-03-01.
const EPOCH: Timestamp = Timestamp::from_secs(1_772_323_200);
const HEADS: u64 = 70;
const NEVER: Timestamp = Timestamp(0);

type Message = (Topic, Vec<u8>);

/// What was published, ever, and what the broker had of it at times.
pub(crate) struct History {
    keys: FleetKeys,
    trust: TrustBundle,
    feed: FeedId,
    newest: Position,
    root: Hash,
    /// All that was said, by whomever.
    said: Vec<Message>,
    /// What is retained after some of the heads, and at last.
    retained: Vec<BTreeMap<Topic, Vec<u8>>>,
}

impl History {
    pub(crate) fn new() -> Self {
        let keys = FleetKeys::generate(&mut ChaCha20Rng::from_seed([1; 32]));
        let mut book = founded(&keys);
        let mut rng = ChaCha20Rng::from_seed([2; 32]);
        let (mut said, mut retained) = (Vec::new(), Vec::new());
        for number in 0..HEADS {
            if number == 40 {
                // The same key signs another history from here.
                let mut fork = book.clone();
                (0..10).for_each(|_| said.extend(next(&mut fork, &keys, &mut rng)));
            }
            said.extend(next(&mut book, &keys, &mut rng));
            if number % 16 == 5 || number == HEADS - 1 {
                let kept = publish::feed(&book.feed(), book.first(), None)
                    .into_iter()
                    .map(|publish| (publish.topic, publish.payload));
                retained.push(kept.collect());
            }
        }
        let stranger = FleetKeys::generate(&mut ChaCha20Rng::from_seed([3; 32]));
        let mut other = founded(&stranger);
        (0..3).for_each(|_| said.extend(next(&mut other, &stranger, &mut rng)));
        let head = book.first().head().expect("some heads");
        let (newest, root) = (head.position.clone(), head.head.root);
        Self { trust: book.trust().clone(), feed: book.feed(), newest, root, keys, said, retained }
    }
}

fn founded(keys: &FleetKeys) -> Book {
    let founding = Founding {
        fleet: "acme".parse().expect("valid"),
        feed: "main".parse().expect("valid"),
        broker: BrokerPins::default(),
        keys,
        operator: "ann",
        at: EPOCH,
        cadence: Cadence::every(Millis::from_secs(60)),
    };
    found(&founding, &mut Effects::default()).expect("a fleet")
}

/// Another head, with revocations of any kind or none, and all that is said of it.
fn next(book: &mut Book, keys: &FleetKeys, rng: &mut ChaCha20Rng) -> Vec<Message> {
    let last = book.first().head().expect("a head").head.clone();
    let at = last.issued_at + Millis::from_secs(600);
    for _ in 0..rng.next_u32() % 4 {
        let mut id = BlockId([0; 32]);
        rng.fill_bytes(&mut id.0);
        let expires = at + Millis::from_secs(u64::from(rng.next_u32() % 40_000));
        let life = |serial| Some(Life { issued: at, expires, serial });
        let (target, life) = match rng.next_u32() % 4 {
            0 => (Target::Owner(format!("owner-{}", rng.next_u32() % 40)), None),
            1 => (Target::Block(id), None),
            2 => (Target::Block(id), life(None)),
            _ => (Target::Block(id), life(Some(rng.next_u32() % 1000))),
        };
        book.apply(Write::Rule(Rule { target, until: expires, reason: "r".into(), at, life, device: None }));
    }
    let known = publish::FeedAt::of(book.first());
    publish::advance(book, &keys.feed, Cadence::every(Millis::from_secs(60)), at, &mut Effects::default());
    publish::feed(&book.feed(), book.first(), Some(known))
        .into_iter()
        .map(|publish| (publish.topic, publish.payload))
        .collect()
}

/// A device that has nothing yet.
struct Device<'h> {
    history: &'h History,
    held: Revocations,
    whole: Vec<u8>,
    since: Option<Vec<u8>>,
    anchor: Option<Position>,
    /// All that was ever in force.
    counted: RevocationSet,
    newest: (u32, u64),
}

impl<'h> Device<'h> {
    fn new(history: &'h History) -> Self {
        let (held, counted) = (Revocations::default(), RevocationSet::default());
        Self { history, held, whole: Vec::new(), since: None, anchor: None, counted, newest: (0, 0) }
    }

    /// What came on a topic goes where the agent sends it.
    fn hear(&mut self, topic: &Topic, payload: &[u8]) {
        let (held, trust) = (&mut self.held, &self.history.trust);
        let outcome = match topic {
            Topic::FeedHead(feed) => held.announce(feed, payload, trust, Between::from(NEVER)),
            Topic::FeedDelta(feed, place) => held.step(feed, Some((0, *place)), payload, trust, Between::from(NEVER)),
            Topic::FeedSkip(feed, level, place) => {
                held.step(feed, Some((*level, *place)), payload, trust, Between::from(NEVER))
            }
            Topic::FeedRules(feed) => held.rules(feed, payload, NEVER),
            Topic::FeedManifest(feed) => held.snapshot(feed, payload, trust, NEVER),
            Topic::FeedPiece(feed, ..) => held.piece(feed, payload, NEVER),
            _ => return,
        };
        self.keep(outcome);
    }

    /// What changed is written down before anything else happens, and holds.
    fn keep(&mut self, outcome: Result<Taken, Refused>) {
        let Ok(Taken { applied: Some(applied), .. }) = outcome else { return };
        let Applied { position, newest, file, changed, .. } = applied;
        assert!(file.content.len() <= STORED_BYTES_MAX);
        match file.file {
            StateFile::FeedSince(_) => self.since = Some(file.content),
            _ => self.whole = file.content,
        }
        let held = self.on_disk();
        let counts = held.set.merge(&held.seen).expect("within the limits");
        assert_eq!(self.counted.since(&counts), RevocationSet::default(), "what was revoked is not any more");
        assert!(changed.revoked || counts.since(&self.counted) == RevocationSet::default(), "and nobody was told");
        assert!(newest.order() >= self.newest, "the mark went back");
        (self.counted, self.newest) = (counts, newest.order());
        if let Some(position) = position {
            let known = self.anchor.as_ref().map_or((0, 0), Position::order);
            assert!(position.order() >= known, "the position went back");
            assert!(position.order() > known || self.anchor.as_ref() == Some(&position), "another of the same number");
            self.anchor = Some(position);
        }
    }

    fn on_disk(&self) -> Held {
        Held::read(&self.whole, self.since.as_deref()).expect("its own files")
    }

    /// The process ends at once and starts again.
    fn restart(&mut self) {
        let mut held = Revocations::default();
        if !self.whole.is_empty() {
            let files = (self.whole.as_slice(), self.since.as_deref());
            held.load(&self.history.feed, files, &self.history.trust, (self.anchor.as_ref(), self.on_disk().number))
                .expect("its own files");
        }
        held.follow(&self.history.trust, &"gw-07".parse().unwrap());
        assert_eq!(held.positions(), self.anchor.iter().cloned().collect::<Vec<_>>());
        self.held = held;
    }

    fn wanted(&self) -> Option<Topic> {
        let (feed, wanted) = self.held.wanted().first().cloned()?;
        Some(match wanted {
            Wanted::Step(step) if step.level == 0 => Topic::FeedDelta(feed, step.place()),
            Wanted::Step(step) => Topic::FeedSkip(feed, step.level, step.place()),
            Wanted::Manifest => Topic::FeedManifest(feed),
            Wanted::Piece(part, chunk) => Topic::FeedPiece(feed, part, chunk),
        })
    }

    /// An honest broker and service at last: the newest complete set is the publisher's.
    fn converges(&mut self) {
        let kept = self.history.retained.last().expect("something is retained");
        let head = Topic::FeedHead(self.history.feed.clone());
        self.hear(&head, &kept[&head]);
        for _ in 0..400 {
            let reached = self.anchor.as_ref().map_or((0, 0), Position::order);
            if reached >= self.history.newest.order() {
                break;
            }
            match self.wanted() {
                Some(topic) => match kept.get(&topic) {
                    Some(payload) => {
                        let before = self.held.wanted();
                        self.hear(&topic, payload);
                        if self.held.wanted() == before {
                            self.held.give_up();
                        }
                    }
                    None => self.held.give_up(),
                },
                None => {
                    self.held.retry();
                    self.hear(&head, &kept[&head]);
                }
            }
        }
        assert_eq!(self.anchor.as_ref(), Some(&self.history.newest), "{:?}", self.held.wanted());
        assert_eq!(Manifest::of(&self.on_disk().set).root(), self.history.root);
    }
}

/// Any sequence: six bytes say what happens. Whatever it is, nothing that was revoked is not any more, no position goes back,
/// and little is remembered of what nobody signed; in the end an honest broker leads to the publisher's set.
pub(crate) fn sequence(history: &History, script: &[u8]) {
    let mut device = Device::new(history);
    let pick = |low: u8, high: u8, count: usize| usize::from(u16::from_le_bytes([low, high])) % count;
    for step in script.chunks_exact(6) {
        let [what, low, high, how, place, bits] = *step else { continue };
        let (topic, payload) = &history.said[pick(low, high, history.said.len())];
        match what % 16 {
            0..=4 => device.hear(topic, payload),
            5 | 6 => device.hear(topic, &changed(payload, how, place, bits)),
            7 => {
                let (other, _) = &history.said[pick(place, bits, history.said.len())];
                device.hear(other, payload);
            }
            8..=11 => {
                // What was asked for, as the broker has it now, or had it once.
                let kept = match what % 16 {
                    11 => &history.retained[usize::from(how) % history.retained.len()],
                    _ => history.retained.last().expect("something is retained"),
                };
                if let Some((topic, payload)) = device.wanted().and_then(|topic| kept.get_key_value(&topic)) {
                    device.hear(topic, payload);
                }
            }
            12 => device.held.give_up(),
            13 => device.held.retry(),
            14 => device.restart(),
            _ => device.hear(topic, &script[..script.len().min(MESSAGE_BYTES_MAX + 1)]),
        }
    }
    // Eight pieces ahead, one set that is read, rules that no head has named: the text of it is several times as long.
    let remembered = format!("{:?}", device.held).len();
    assert!(remembered < 4 * 1024 * 1024, "{remembered} characters are remembered");
    device.converges();
}

fn changed(payload: &[u8], how: u8, place: u8, bits: u8) -> Vec<u8> {
    let mut bytes = payload.to_vec();
    let length = bytes.len().max(1);
    let at = (usize::from(place) * length / 256).min(bytes.len());
    match how % 4 {
        0 => bytes.truncate(at),
        1 => bytes.extend_from_slice(&payload[at..]),
        2 => drop(bytes.drain(at..(at + usize::from(bits)).min(payload.len()))),
        _ => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= bits | 1;
            }
        }
    }
    bytes
}

/// What a publisher may say whose key is in wrong hands: the head fits whatever it is said to vouch for. The first byte says
/// what the others are.
pub(crate) fn signed(history: &History, data: &[u8]) {
    let Some((kind, bytes)) = data.split_first() else { return };
    let mut device = Device::new(history);
    let first = history.retained.last().expect("something is retained");
    let head = Topic::FeedHead(history.feed.clone());
    let newest = Announcement::from_bytes(&first[&head]).expect("our own").head.claim().expect("our own");
    let sign = |head: &Head| Signed::sign(head, &history.trust.fleet, &[&history.keys.feed]);
    match kind % 4 {
        0 => {
            let claim = Head { delta: additions_digest(bytes), skips: Vec::new(), seq: 1 + u64::from(*kind), ..newest };
            let said = Announcement { head: sign(&claim), level: 0, additions: bytes.to_vec() };
            device.hear(&head, &said.to_bytes());
            device.hear(&Topic::FeedRules(history.feed.clone()), bytes);
        }
        1 => {
            // A device that waits for a snapshot gets this one, and what it wants of it.
            let Ok(manifest) = Manifest::from_bytes(bytes) else { return };
            device.hear(&head, &first[&head]);
            device.held.give_up();
            let claim = Head { root: manifest.root(), seq: 1 + u64::from(*kind % 64), ..newest };
            let said = Snapshot { head: sign(&claim), manifest: bytes.to_vec() };
            device.hear(&Topic::FeedManifest(history.feed.clone()), &said.to_bytes());
            assert!(device.held.wanted().len() <= 64);
        }
        2 => {
            // A set whose root is right comes whole, piece by piece.
            let Ok(set) = RevocationSet::from_bytes(bytes, MESSAGE_BYTES_MAX) else { return };
            device.hear(&head, &first[&head]);
            device.held.give_up();
            let manifest = Manifest::of(&set);
            let claim = Head { root: manifest.root(), seq: 1 + u64::from(*kind % 64), ..newest };
            let said = Snapshot { head: sign(&claim), manifest: manifest.to_bytes() };
            device.hear(&Topic::FeedManifest(history.feed.clone()), &said.to_bytes());
            for part in manifest.parts() {
                for number in 0..part.pieces() {
                    let piece = manifest.piece(&set, part.key, number).expect("its own").to_bytes();
                    let place = u32::try_from(number).expect("few");
                    device.hear(&Topic::FeedPiece(history.feed.clone(), part.key, place), &piece);
                }
            }
            let counts = device.counted.merge(&set).expect("within the limits");
            assert_eq!(counts, device.counted, "a whole set that is signed counts");
            device.restart();
        }
        _ => {
            // A file whose heads are believed, and whose sets are whatever the disk holds.
            let (set, seen) = bytes.split_at(bytes.len() / 2);
            let root = RevocationSet::from_bytes(set, SET_BYTES_MAX).map(|set| Manifest::of(&set).root());
            let claim = Head { root: root.unwrap_or(Hash::ZERO), ..newest };
            let later = Head { seq: claim.seq + u64::from(*kind), ..claim.clone() };
            let stored = StoredFeed {
                number: 1,
                past: Vec::new(),
                head: Some(sign(&claim)),
                set: set.to_vec(),
                seen: seen.to_vec(),
                newest: Some(sign(&later)),
                taken: EPOCH,
            };
            let mut held = Revocations::default();
            let loaded = held.load(&history.feed, (&stored.to_bytes(), None), &history.trust, (None, 0));
            assert_eq!(held.positions().len(), usize::from(loaded.is_ok()));
        }
    }
}

/// What [`signed`] can make something of.
pub(crate) fn contents(history: &History) -> Vec<Vec<u8>> {
    let kept = history.retained.last().expect("something is retained");
    let mut contents = Vec::new();
    for (topic, payload) in kept {
        let bytes = match topic {
            Topic::FeedDelta(..) | Topic::FeedSkip(..) => Announcement::from_bytes(payload).map(|said| said.additions),
            Topic::FeedManifest(_) => Snapshot::from_bytes(payload).map(|said| said.manifest),
            _ => continue,
        };
        contents.extend(bytes.ok());
    }
    let kinds = contents.iter().flat_map(|bytes| (0..4).map(|kind| [&[kind], bytes.as_slice()].concat()));
    kinds.collect()
}
