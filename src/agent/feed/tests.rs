use std::collections::BTreeSet;

use ed25519_dalek::SigningKey;
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};

use super::*;
use crate::ids::{FeedId, FleetId};
use crate::time::Millis;
use crate::wire::revocation::announcement::Successor;
use crate::wire::revocation::fingerprints::{FingerprintBucket, FingerprintKey, Salt, Width};
use crate::wire::revocation::serials::SerialBucket;
use crate::wire::revocation::{AHEAD_MAX, HEAD_EVERY};

const HOUR: u64 = 3600;
const ANYTIME: Between = Between { floor: Timestamp(0), latest: Timestamp(u64::MAX) };

/// A publisher and the broker that keeps what it says.
struct Publisher {
    key: SigningKey,
    feed: FeedId,
    fleet: FleetId,
    set: RevocationSet,
    last: Option<(Head, Hash)>,
    /// The set that is kept whole, of the head that it is of: not always the newest.
    snapshot: Option<(RevocationSet, Believed)>,
    /// What each head added, from the first on.
    added: Vec<RevocationSet>,
    /// Every step that was ever said, believed as a device would.
    said: Vec<Believed>,
    /// From this head on a step of several heads adds more than a message holds.
    too_much_from: u64,
}

impl Publisher {
    fn new() -> Self {
        Self {
            key: SigningKey::from_bytes(&[4; 32]),
            feed: "main".parse().unwrap(),
            fleet: "acme".parse().unwrap(),
            set: RevocationSet::default(),
            last: None,
            snapshot: None,
            added: Vec::new(),
            said: Vec::new(),
            too_much_from: u64::MAX,
        }
    }

    fn at(&self) -> Timestamp {
        Timestamp::from_secs(1_000 * HOUR + self.added.len() as u64 * 600)
    }

    fn publish(&mut self, additions: RevocationSet) {
        let at = self.at();
        self.set.apply(&additions).unwrap();
        self.set.drop_expired(at);
        self.added.push(additions);
        let seq = self.added.len() as u64;
        let union = |step: Step| {
            let added = &self.added[step.begin() as usize..step.end as usize];
            let mut sum = added.iter().fold(RevocationSet::default(), |sum, more| sum.merge(more).unwrap());
            sum.drop_expired(at);
            sum
        };
        let skips: Vec<_> = Step::ending_at(seq).map(|step| (seq < self.too_much_from).then(|| union(step))).collect();
        let successor = Successor {
            feed: &self.feed,
            era: 1,
            seq,
            previous: self.last.as_ref().map_or(Hash::ZERO, |(_, digest)| *digest),
            issued_at: at,
            next_update_ms: Millis(1),
            hard_stale_ms: Millis(2),
            dropped_before: at,
            set: &self.set,
            additions: &self.added[seq as usize - 1],
            skips: &skips,
            bundle_version: 1,
            policy_version: 1,
        };
        let (head, announcements) = successor.sign(&self.fleet, &self.key);
        self.last = Some((head, announcements[0].head.digest()));
        for announcement in announcements {
            let opened = announcement.open(&self.feed, &self.fleet, [&self.key.verifying_key()]);
            self.said.push(opened.unwrap());
        }
        // The first, and every seventh: the ladder leads on from it.
        if seq % 7 == 1 {
            self.snapshot = Some((self.set.clone(), self.newest().clone()));
        }
    }

    fn step(&self, step: Step) -> Option<&Believed> {
        self.said.iter().find(|believed| believed.step == step)
    }

    fn newest(&self) -> &Believed {
        self.step(Step { level: 0, end: self.added.len() as u64 }).unwrap()
    }

    /// What the broker answers to a wish.
    fn answer(&self, feed: &mut Feed, wanted: Wanted, floor: Timestamp) -> Result<Changed, Refused> {
        let (whole, _) = self.snapshot.as_ref().unwrap();
        let manifest = Manifest::of(whole);
        match wanted {
            Wanted::Step(step) => feed.announce(self.step(step).unwrap().clone(), Between::from(floor)),
            Wanted::Manifest => feed.snapshot(self.believed_snapshot(), floor),
            Wanted::Piece(key, piece) => {
                feed.piece(&manifest.piece(whole, key, piece as usize).unwrap().to_bytes(), floor)
            }
        }
    }

    fn believed_snapshot(&self) -> BelievedSnapshot {
        let (set, Believed { signed, head, position, .. }) = self.snapshot.as_ref().unwrap();
        BelievedSnapshot {
            signed: signed.clone(),
            head: head.clone(),
            position: position.clone(),
            manifest: Manifest::of(set),
        }
    }

    /// Answers all wishes until there is none.
    fn heal(&self, feed: &mut Feed) {
        feed.announce(self.newest().clone(), ANYTIME).unwrap();
        for _ in 0..200 {
            let Some(wanted) = feed.wanted().first().copied() else {
                if !feed.gathering() {
                    return;
                }
                // Another connection: the ladder may be whole by now.
                feed.retry();
                continue;
            };
            self.answer(feed, wanted, Timestamp(0)).unwrap();
        }
        panic!("still wants {:?}", feed.wanted());
    }
}

/// Some revocations of every kind that tokens of the next hours may need.
fn additions(rng: &mut ChaCha20Rng, at: Timestamp) -> RevocationSet {
    let mut set = RevocationSet::default();
    for _ in 0..rng.next_u32() % 4 {
        let expires = at + Millis::from_secs(u64::from(rng.next_u32()) % (6 * HOUR));
        let slot = Slot::of(at - Millis::from_secs(1), expires);
        match rng.next_u32() % 4 {
            0 => set.add_rule(Selector::owner(&format!("owner-{}", rng.next_u32() % 50)), expires),
            1 => set.add_exact(BlockId([rng.next_u32() as u8; 32]), slot),
            2 => set.add_serials(slot, SerialBucket::new(1000, [rng.next_u32() % 1000]).unwrap()),
            _ => {
                let key = FingerprintKey { slot, width: Width::Bits64, salt: Salt([slot.number() as u8; 16]) };
                let bucket = FingerprintBucket::new(Width::Bits64, [u128::from(rng.next_u64())]).unwrap();
                set.add_fingerprints(key, bucket).unwrap();
            }
        }
    }
    set
}

fn published(rng: &mut ChaCha20Rng, heads: u32) -> Publisher {
    let mut publisher = Publisher::new();
    for _ in 0..heads {
        let at = publisher.at();
        publisher.publish(additions(rng, at));
    }
    publisher
}

/// Whether a device refuses all of a set that is in force.
fn holds(feed: &Feed, set: &RevocationSet) -> bool {
    let mut beyond = set.clone();
    for known in feed.sets() {
        beyond = beyond.since(known);
    }
    beyond == RevocationSet::default()
}

/// The two files of a feed.
#[derive(Default)]
struct Disk {
    number: u64,
    whole: Vec<u8>,
    since: Option<Vec<u8>>,
}

impl Disk {
    fn write(&mut self, feed: &mut Feed) {
        self.number += 1;
        match feed.written(self.number) {
            Written::Whole(bytes) => self.whole = bytes,
            Written::Since(bytes) => self.since = Some(bytes),
        }
    }

    /// The process ends after a write, and starts again.
    fn restart(&mut self, mut feed: Feed) -> Feed {
        self.write(&mut feed);
        let held = Held::read(&self.whole, self.since.as_deref()).unwrap();
        let claim = |signed: &Option<Signed<Head>>| signed.as_ref().map(|signed| signed.claim().unwrap());
        let (head, newest) = (claim(&held.head), claim(&held.newest));
        Feed::restore(held, head, newest).unwrap()
    }
}

/// Messages come in any order, twice, or not at all; connections break. Nothing that was seen is forgotten, the position
/// never falls, and when all is fetched that is wanted the set is the publisher's.
fn interleave(rng: &mut ChaCha20Rng, publisher: &Publisher) {
    let (mut feed, mut disk) = (Feed::default(), Disk::default());
    let mut position = 0;
    let heads = publisher.added.len() as u64;
    for _ in 0..rng.next_u32() % 24 {
        let before = feed.root();
        match rng.next_u32() % 8 {
            0..=3 => {
                let said = &publisher.said[rng.next_u32() as usize % publisher.said.len()];
                let _ = feed.announce(said.clone(), ANYTIME);
            }
            4 | 5 => {
                if let Some(wanted) = feed.wanted().first().copied() {
                    let _ = publisher.answer(&mut feed, wanted, Timestamp(0));
                }
            }
            6 => feed.give_up(),
            _ => {
                feed = disk.restart(feed);
                assert_eq!(feed.root(), before, "a restart forgot");
            }
        }
        // As whoever holds it does after each message.
        disk.write(&mut feed);
        let reached = feed.position().map_or(0, |position| position.seq);
        assert!(position <= reached && reached <= heads);
        position = reached;
    }
    feed.retry();
    publisher.heal(&mut feed);
    assert_eq!(feed.position().map(|position| position.seq), Some(heads));
    assert_eq!(Manifest::of(&feed.known.as_ref().unwrap().set).root(), publisher.last.as_ref().unwrap().0.root);
    assert!(holds(&feed, &publisher.set));
}

/// How many schedules: a million are run by hand, `HARDTACK_INTERLEAVINGS=1000000`.
fn schedules() -> u64 {
    std::env::var("HARDTACK_INTERLEAVINGS").ok().and_then(|count| count.parse().ok()).unwrap_or(700)
}

#[test]
fn whatever_comes_in_whatever_order_one_root_comes_out() {
    let mut rng = ChaCha20Rng::from_seed([1; 32]);
    let per_publisher = 100;
    for _ in 0..schedules().div_ceil(per_publisher) {
        let heads = 1 + rng.next_u32() % 90;
        let publisher = published(&mut rng, heads);
        (0..per_publisher).for_each(|_| interleave(&mut rng, &publisher));
    }
}

#[test]
fn a_gap_is_climbed_in_few_steps_and_additions_count_before_it_is_closed() {
    let mut rng = ChaCha20Rng::from_seed([2; 32]);
    let publisher = published(&mut rng, 80);
    let mut feed = Feed::default();
    for seq in 1..=3 {
        feed.announce(publisher.step(Step { level: 0, end: seq }).unwrap().clone(), ANYTIME).unwrap();
    }
    assert_eq!(feed.position().unwrap().seq, 3);
    let changed = feed.announce(publisher.newest().clone(), ANYTIME).unwrap();
    assert!(changed.newer && !changed.complete);
    assert!(holds(&feed, &publisher.newest().additions), "what the newest head adds counts at once");
    let mut fetched = BTreeSet::new();
    while let Some(wanted) = feed.wanted().first().copied() {
        assert!(matches!(wanted, Wanted::Step(_)) && fetched.insert(wanted));
        publisher.answer(&mut feed, wanted, Timestamp(0)).unwrap();
    }
    assert_eq!(feed.position().unwrap().seq, 80);
    assert!(fetched.len() <= 9, "{fetched:?}");
}

/// A late head is no news, but it revokes all the same.
#[test]
fn what_an_old_head_adds_counts_if_it_was_not_known() {
    let publisher = published(&mut ChaCha20Rng::from_seed([9; 32]), 80);
    let mut feed = Feed::default();
    feed.announce(publisher.newest().clone(), ANYTIME).unwrap();
    feed.give_up();
    let old = publisher.step(Step { level: 0, end: 79 }).unwrap();
    assert!(!holds(&feed, &old.additions), "it adds something");
    let changed = feed.announce(old.clone(), ANYTIME).unwrap();
    assert_eq!(changed, Changed { revoked: true, ..Changed::default() });
    assert!(holds(&feed, &old.additions));
    assert_eq!((feed.position(), feed.mark().unwrap().seq), (None, 80));
    let again = feed.announce(old.clone(), ANYTIME);
    assert_eq!(again, Err(Refused::RolledBack { offered: 79, known: 80 }));
}

/// Nobody is accused of what a slow link does.
#[test]
fn a_step_that_comes_after_it_was_given_up_is_no_rollback() {
    let publisher = published(&mut ChaCha20Rng::from_seed([12; 32]), 29);
    let mut feed = behind(&publisher, 24);
    assert_eq!(steps_wanted(&feed), [(1, 28), (0, 29)]);
    let late = Wanted::Step(Step { level: 1, end: 28 });
    feed.give_up();
    for new in [true, false] {
        let changed = publisher.answer(&mut feed, late, Timestamp(0)).unwrap();
        assert_eq!(changed, Changed { revoked: new, ..Changed::default() });
        assert_eq!(feed.wanted(), [Wanted::Manifest], "what is under way goes on");
    }
    let other = Wanted::Step(Step { level: 0, end: 20 });
    let refused = publisher.answer(&mut feed, other, Timestamp(0));
    assert_eq!(refused, Err(Refused::RolledBack { offered: 20, known: 29 }), "nobody asked for that");
    publisher.heal(&mut feed);
    assert_eq!(feed.position().unwrap().seq, 29);
}

#[test]
fn a_missing_rung_and_a_wrong_sum_lead_to_the_snapshot() {
    let mut rng = ChaCha20Rng::from_seed([3; 32]);
    let publisher = published(&mut rng, 20);
    let mut feed = Feed::default();
    feed.announce(publisher.newest().clone(), ANYTIME).unwrap();
    assert!(matches!(feed.wanted()[0], Wanted::Step(_)));
    feed.give_up();
    assert_eq!(feed.wanted(), [Wanted::Manifest]);
    publisher.heal(&mut feed);
    assert_eq!(feed.position().unwrap().seq, 20);
    // A feed that went on from a restored ledger: the new heads know nothing of what the lost ones added.
    let mut restored = published(&mut ChaCha20Rng::from_seed([4; 32]), 20);
    restored.publish(additions(&mut rng, restored.at()));
    restored.snapshot = Some((restored.set.clone(), restored.newest().clone()));
    let last = restored.newest().clone();
    let unlinked = Believed { head: Head { previous: feed.position().unwrap().digest, ..last.head.clone() }, ..last };
    feed.announce(unlinked, ANYTIME).unwrap();
    assert_eq!(feed.wanted(), [Wanted::Manifest], "the sum is not what the root says");
    let before = publisher.set.clone();
    while let Some(wanted) = feed.wanted().first().copied() {
        restored.answer(&mut feed, wanted, Timestamp(0)).unwrap();
    }
    assert_eq!(feed.position().unwrap().seq, 21);
    assert!(holds(&feed, &before), "what it leaves out holds until its end");
}

/// A feed with a complete set of this position, which knows of the newest head.
fn behind(publisher: &Publisher, seq: u64) -> Feed {
    let mut feed = Feed::default();
    for seq in 1..=seq {
        feed.announce(publisher.step(Step { level: 0, end: seq }).unwrap().clone(), ANYTIME).unwrap();
    }
    feed.announce(publisher.newest().clone(), ANYTIME).unwrap();
    feed
}

fn steps_wanted(feed: &Feed) -> Vec<(u8, u64)> {
    let step = |wanted| match wanted {
        Wanted::Step(step) => Some((step.level, step.end)),
        Wanted::Manifest | Wanted::Piece(..) => None,
    };
    feed.wanted().into_iter().filter_map(step).collect()
}

#[test]
fn where_a_step_is_missing_and_the_snapshot_is_old_finer_steps_lead_on() {
    let publisher = published(&mut ChaCha20Rng::from_seed([12; 32]), 29);
    let mut feed = behind(&publisher, 24);
    assert_eq!(steps_wanted(&feed), [(1, 28), (0, 29)]);
    // The broker has lost the long one, and a set that is older than what is complete.
    feed.give_up();
    assert_eq!(feed.wanted(), [Wanted::Manifest]);
    let old = published(&mut ChaCha20Rng::from_seed([12; 32]), 22);
    old.answer(&mut feed, Wanted::Manifest, Timestamp(0)).unwrap();
    assert_eq!(steps_wanted(&feed), [(0, 25), (0, 26), (0, 27), (0, 28), (0, 29)]);
    for end in 25..=29 {
        publisher.answer(&mut feed, Wanted::Step(Step { level: 0, end }), Timestamp(0)).unwrap();
    }
    assert_eq!(feed.position().unwrap().seq, 29);
    // Where those do not come either, nothing is asked for until the next head or connection.
    let mut feed = behind(&publisher, 24);
    for _ in 0..4 {
        feed.give_up();
    }
    assert_eq!((feed.wanted(), feed.position().unwrap().seq), (Vec::new(), 24));
    feed.retry();
    assert_eq!(steps_wanted(&feed), [(1, 28), (0, 29)]);
}

#[test]
fn a_step_that_its_head_says_there_is_not_is_not_waited_for() {
    let mut publisher = published(&mut ChaCha20Rng::from_seed([13; 32]), 23);
    publisher.too_much_from = 24;
    let more = additions(&mut ChaCha20Rng::from_seed([14; 32]), publisher.at());
    publisher.publish(more);
    let feed = behind(&publisher, 20);
    assert_eq!(steps_wanted(&feed), [(0, 21), (0, 22), (0, 23), (0, 24)]);
}

/// A broker answers a place that is asked for once, in whatever order it likes.
#[test]
fn each_place_of_a_large_snapshot_is_asked_for_once() {
    let mut rng = ChaCha20Rng::from_seed([4; 32]);
    let mut publisher = Publisher::new();
    let slots = (0..5).map(|day| Slot::of_day(publisher.at() + Millis::from_secs((2 + day) * 24 * HOUR)));
    for slot in slots.collect::<Vec<_>>().into_iter().flat_map(|slot| [slot; 3]) {
        let key = FingerprintKey { slot, width: Width::Bits64, salt: Salt([7; 16]) };
        let numbers = (0..900).map(|_| u128::from(rng.next_u64()));
        let mut more = RevocationSet::default();
        more.add_fingerprints(key, FingerprintBucket::new(Width::Bits64, numbers).unwrap()).unwrap();
        publisher.publish(more);
    }
    let mut feed = Feed::default();
    feed.announce(publisher.newest().clone(), ANYTIME).unwrap();
    feed.give_up();
    let mut asked: Vec<Wanted> = Vec::new();
    while feed.gathering() {
        let wanted = feed.wanted();
        let places: Vec<Wanted> = wanted.iter().filter(|place| !asked.contains(place)).copied().collect();
        assert!(!places.is_empty(), "it waits for {wanted:?}, which it was given before");
        for place in places.into_iter().rev() {
            publisher.answer(&mut feed, place, Timestamp(0)).unwrap();
        }
        asked = wanted;
    }
    assert!(holds(&feed, &publisher.set));
}

#[test]
fn the_past_another_history_and_other_sets_are_refused() {
    let mut rng = ChaCha20Rng::from_seed([5; 32]);
    let (publisher, other) = (published(&mut rng, 10), published(&mut rng, 11));
    let mut feed = Feed::default();
    publisher.heal(&mut feed);
    let at = |publisher: &Publisher, end| publisher.step(Step { level: 0, end }).unwrap().clone();
    let mut check = |believed: Believed| feed.announce(believed, ANYTIME).unwrap_err();
    assert!(matches!(check(at(&publisher, 4)), Refused::RolledBack { offered: 4, known: 10 }));
    assert!(matches!(check(at(&other, 10)), Refused::Equivocation { position: 10 }));
    assert!(matches!(check(at(&other, 11)), Refused::Equivocation { position: 10 }), "it follows another head");
    let mut behind = Feed::default();
    behind.announce(publisher.newest().clone(), ANYTIME).unwrap();
    behind.give_up();
    behind.snapshot(publisher.believed_snapshot(), Timestamp(0)).unwrap();
    let foreign = Manifest::of(&other.set);
    let piece = foreign.piece(&other.set, foreign.parts()[0].key, 0).unwrap();
    assert_eq!(behind.piece(&piece.to_bytes(), Timestamp(0)), Err(Refused::DigestMismatch));
}

/// A thief of the key, or a publisher gone mad, signs any number.
#[test]
fn a_head_further_ahead_than_a_publisher_can_have_come_takes_no_place_and_what_it_revokes_counts() {
    let publisher = published(&mut ChaCha20Rng::from_seed([9; 32]), 20);
    let mut feed = Feed::default();
    publisher.heal(&mut feed);
    let head = |seq: u64, later: Millis| {
        let mut believed = publisher.newest().clone();
        believed.head.seq = seq;
        believed.head.issued_at = believed.head.issued_at + later;
        (believed.position.seq, believed.step.end) = (seq, seq);
        believed.additions = RevocationSet::default();
        believed.additions.add_rule(Selector::owner("ann"), Timestamp::from_secs(2_000 * HOUR));
        believed
    };
    let most = 20 + AHEAD_MAX;
    let leaps = |offered, most| Refused::LeapsAhead { offered, known: 20, most };
    let first = feed.announce(head(u64::MAX - 1, Millis(0)), ANYTIME);
    let refused = Some(leaps(u64::MAX - 1, most));
    assert_eq!(first, Ok(Changed { revoked: true, refused, ..Changed::default() }));
    assert!(holds(&feed, &head(1, Millis(0)).additions));
    assert_eq!(feed.announce(head(most + 1, Millis(0)), ANYTIME), Err(leaps(most + 1, most)));
    let later = Millis(3 * HEAD_EVERY.0);
    assert_eq!(feed.announce(head(most + 4, later), ANYTIME), Err(leaps(most + 4, most + 3)));
    assert_eq!((feed.position().unwrap().seq, feed.gathering()), (20, false), "it waits for none of them");
    let latest = publisher.newest().head.issued_at + Millis(2 * HEAD_EVERY.0);
    let by_then = Between { floor: Timestamp(0), latest };
    let post_dated = feed.announce(head(most + 3, Millis(u64::MAX)), by_then);
    assert_eq!(post_dated, Err(leaps(most + 3, most + 2)), "a date gives no numbers that nobody can have come to");
    assert!(feed.announce(head(most + 3, later), ANYTIME).unwrap().newer, "so many can have been signed");
}

/// What such a head brings with its whole set counts as well.
#[test]
fn a_carried_set_that_is_too_far_ahead_revokes_and_takes_no_place() {
    let publisher = published(&mut ChaCha20Rng::from_seed([9; 32]), 20);
    let mut feed = Feed::default();
    publisher.heal(&mut feed);
    let mut set = RevocationSet::default();
    set.add_rule(Selector::owner("ann"), Timestamp::from_secs(2_000 * HOUR));
    let Believed { signed, mut head, mut position, .. } = publisher.newest().clone();
    (head.seq, position.seq) = (1 << 60, 1 << 60);
    let carried = BelievedSet { signed, head, position, set: set.clone() };
    let refused = Refused::LeapsAhead { offered: 1 << 60, known: 20, most: 20 + AHEAD_MAX };
    let expected = Changed { revoked: true, refused: Some(refused.clone()), ..Changed::default() };
    assert_eq!(feed.whole(carried.clone(), ANYTIME), Ok(expected));
    assert!(holds(&feed, &set));
    assert_eq!((feed.position().unwrap().seq, feed.gathering()), (20, false));
    assert_eq!(feed.whole(carried, ANYTIME), Err(refused), "nothing in it is new any more");
}

/// Numbers are counted from where it stood, not from the beginning.
#[test]
fn a_feed_whose_set_is_lost_is_no_easier_to_leap_ahead_of() {
    let publisher = published(&mut ChaCha20Rng::from_seed([9; 32]), 20);
    let Believed { head, position, .. } = publisher.newest().clone();
    let mut feed = Feed::default();
    feed.stood_at(position, head.issued_at);
    let mut ahead = publisher.newest().clone();
    let seq = 21 + AHEAD_MAX;
    (ahead.head.seq, ahead.position.seq, ahead.step.end) = (seq, seq, seq);
    ahead.additions = RevocationSet::default();
    let refused = Refused::LeapsAhead { offered: seq, known: 20, most: 20 + AHEAD_MAX };
    assert_eq!(feed.announce(ahead.clone(), ANYTIME), Err(refused));
    ahead.head.era += 1;
    ahead.position.era += 1;
    assert!(feed.announce(ahead, ANYTIME).unwrap().newer, "in another era it stood nowhere");
}

/// Whoever has the key can sign what is no set. It is not taken for a whole one, and the feed goes on.
#[test]
fn a_signed_part_that_is_no_part_stays_missing_and_holds_nothing_back() {
    let mut publisher = published(&mut ChaCha20Rng::from_seed([6; 32]), 3);
    let mut feed = Feed::default();
    feed.announce(publisher.newest().clone(), ANYTIME).unwrap();
    feed.give_up();
    let garbage = [9; 5];
    let leaf = Hash::of("hardtack/revocation-piece/v1", &[&garbage]);
    let entry = [&[0, 5][..], &leaf.0].concat();
    let manifest = Manifest::from_bytes(&[&[1], &entry[..]].concat()).unwrap();
    let mut believed = publisher.believed_snapshot();
    let Believed { signed, head, position, .. } = publisher.newest().clone();
    believed = BelievedSnapshot { signed, head: Head { root: manifest.root(), ..head }, position, ..believed };
    feed.snapshot(BelievedSnapshot { manifest, ..believed }, Timestamp(0)).unwrap();
    let wanted = feed.wanted();
    assert_eq!(wanted, [Wanted::Piece(PartKey::Rules, 0)]);
    let piece = [&[1], &entry[..], &[1, 0, 0], &garbage[..]].concat();
    for _ in 0..2 {
        assert!(matches!(feed.piece(&piece, Timestamp(0)), Err(Refused::Malformed(_))));
        assert_eq!((feed.wanted(), feed.position()), (wanted.clone(), None));
    }
    feed.give_up();
    publisher.publish(RevocationSet::default());
    publisher.heal(&mut feed);
    assert_eq!(feed.position().unwrap().seq, 4);
}

#[test]
fn rules_count_at_once_with_the_head_that_names_them_before_or_after() {
    let mut publisher = Publisher::new();
    let mut set = RevocationSet::default();
    set.add_rule(Selector::owner("mallory"), Timestamp::from_secs(2_000 * HOUR));
    publisher.publish(set.clone());
    (0..9).for_each(|_| publisher.publish(RevocationSet::default()));
    let rules = publisher.set.part(PartKey::Rules).unwrap();
    let covers = |feed: &Feed| feed.covers_by_rule([Selector::owner("mallory")], Timestamp(0), Timestamp(0)).is_some();
    for early in [true, false] {
        let mut feed = Feed::default();
        if early {
            assert!(!feed.rules(&rules, Timestamp(0)).unwrap().any(), "nobody vouches for them yet");
            assert!(!covers(&feed));
        }
        let changed = feed.announce(publisher.newest().clone(), ANYTIME).unwrap();
        assert_eq!((changed.revoked, covers(&feed)), (early, early));
        if !early {
            assert!(feed.rules(&rules, Timestamp(0)).unwrap().revoked);
        }
        assert!(covers(&feed) && feed.position().is_none());
    }
}

fn one_slot(rng: &mut ChaCha20Rng, publisher: &Publisher, day: u64, count: usize) -> RevocationSet {
    let slot = Slot::of_day(publisher.at() + Millis::from_secs((2 + day) * 24 * HOUR));
    let key = FingerprintKey { slot, width: Width::Bits64, salt: Salt([7; 16]) };
    let numbers: Vec<_> = (0..count).map(|_| u128::from(rng.next_u64())).collect();
    let mut set = RevocationSet::default();
    set.add_fingerprints(key, FingerprintBucket::new(Width::Bits64, numbers).unwrap()).unwrap();
    set
}

/// A hundred small heads on a large set: what is written is a small multiple of what is new.
#[test]
fn a_large_set_is_not_written_with_every_head() {
    let mut rng = ChaCha20Rng::from_seed([11; 32]);
    let mut publisher = Publisher::new();
    let (mut feed, mut disk) = (Feed::default(), Disk::default());
    for _ in 0..6 {
        publisher.publish(one_slot(&mut rng, &publisher, 0, 2_500));
        feed.announce(publisher.newest().clone(), ANYTIME).unwrap();
        disk.write(&mut feed);
    }
    disk.whole = feed.stored(1).to_bytes();
    feed = disk.restart(feed);
    let whole = disk.whole.len();
    let (mut written, mut wholes) = (0, 0);
    for _ in 0..100 {
        publisher.publish(one_slot(&mut rng, &publisher, 0, 20));
        feed.announce(publisher.newest().clone(), ANYTIME).unwrap();
        match feed.written(1) {
            Written::Whole(bytes) => {
                written += bytes.len();
                wholes += 1;
                disk.whole = bytes;
            }
            Written::Since(bytes) => {
                written += bytes.len();
                disk.since = Some(bytes);
            }
        }
    }
    assert!(wholes > 0 && written < 8 * whole, "{written} bytes, {wholes} times the whole of {whole}");
    let root = feed.root();
    assert_eq!(disk.restart(feed).root(), root);
}

/// A part of a snapshot that counts is on disk; yet not once for each part that comes after it.
#[test]
fn a_snapshot_of_many_parts_is_written_a_few_times_over() {
    let mut rng = ChaCha20Rng::from_seed([12; 32]);
    let mut publisher = Publisher::new();
    for day in 0..60 {
        publisher.publish(one_slot(&mut rng, &publisher, day, 1_000));
    }
    publisher.snapshot = Some((publisher.set.clone(), publisher.newest().clone()));
    let (mut feed, mut written, mut before) = (Feed::default(), 0, 0);
    feed.announce(publisher.newest().clone(), ANYTIME).unwrap();
    feed.give_up();
    while let Some(wanted) = feed.wanted().first().copied() {
        let changed = publisher.answer(&mut feed, wanted, Timestamp(0)).unwrap();
        if changed.any() {
            before += usize::from(!changed.complete);
            written += match feed.written(1) {
                Written::Whole(bytes) | Written::Since(bytes) => bytes.len(),
            };
        }
    }
    assert_eq!(feed.position().unwrap().seq, 60);
    assert!(before > 0, "nothing counted before the last part was here");
    let whole = feed.stored(1).to_bytes().len();
    assert!(written < 5 * whole, "{written} bytes for a set of {whole}");
}

#[test]
fn a_damaged_file_is_refused_and_one_beside_another_whole_is_left_alone() {
    let mut rng = ChaCha20Rng::from_seed([13; 32]);
    let mut publisher = Publisher::new();
    publisher.publish(one_slot(&mut rng, &publisher, 0, 500));
    let (mut feed, mut disk) = (Feed::default(), Disk::default());
    feed.announce(publisher.newest().clone(), ANYTIME).unwrap();
    disk.write(&mut feed);
    publisher.publish(one_slot(&mut rng, &publisher, 0, 5));
    feed.announce(publisher.newest().clone(), ANYTIME).unwrap();
    disk.write(&mut feed);
    let since = disk.since.clone().expect("a small head is written beside the whole");
    let read = |whole: &[u8], since: &[u8]| Held::read(whole, Some(since)).map(|held| held.set);
    assert_eq!(read(&disk.whole, &since), Ok(publisher.set.clone()));
    for file in [&disk.whole, &since] {
        for place in (0..file.len()).step_by(7) {
            let mut damaged = file.clone();
            damaged[place] ^= 1 << (place % 8);
            let read = if file == &since { read(&disk.whole, &damaged) } else { read(&damaged, &since) };
            assert!(read.is_err(), "byte {place} of {}", file.len());
        }
        assert!(read(&file[..file.len() - 1], &file[..file.len() - 1]).is_err());
    }
    let later = feed.stored(1).to_bytes();
    assert_eq!(read(&later, &since), Ok(publisher.set.clone()), "the later whole has all of it");
}

/// Whoever signs for the feed may leave out what was revoked: it holds, and where there is no room for more of it the set that
/// leaves it out is not taken.
#[test]
fn a_set_that_leaves_out_more_than_can_be_kept_is_refused() {
    let many = |name: &str, publisher: &Publisher| {
        let mut set = RevocationSet::default();
        let until = publisher.at() + Millis::from_secs(1_000 * HOUR);
        (0..500).for_each(|n| set.add_rule(Selector::owner(&format!("{name}-{n}")), until));
        set
    };
    let mut publisher = Publisher::new();
    publisher.publish(many("ann", &publisher));
    let mut feed = Feed::default();
    feed.announce(publisher.newest().clone(), ANYTIME).unwrap();
    let first = publisher.set.clone();
    let whole = |publisher: &Publisher, set: &RevocationSet| {
        let Believed { signed, head, position, .. } = publisher.newest().clone();
        BelievedSet { signed, head, position, set: set.clone() }
    };
    let mut thief = Publisher::new();
    (0..2).for_each(|_| thief.publish(RevocationSet::default()));
    thief.set = many("bob", &thief);
    thief.publish(RevocationSet::default());
    assert!(feed.whole(whole(&thief, &thief.set), ANYTIME).unwrap().complete);
    assert!(holds(&feed, &first) && holds(&feed, &thief.set));
    let second = std::mem::take(&mut thief.set);
    thief.publish(RevocationSet::default());
    let refused = feed.whole(whole(&thief, &thief.set), ANYTIME);
    assert!(matches!(refused, Err(Refused::Malformed(_))), "{refused:?}");
    assert!(holds(&feed, &first) && holds(&feed, &second));
    assert_eq!(feed.position().unwrap().seq, 3);
    // As a head with its ladder, it is told to be refused as well.
    let changed = feed.announce(thief.newest().clone(), ANYTIME).unwrap();
    assert!(!changed.complete && !changed.moved);
    assert!(holds(&feed, &first) && holds(&feed, &second));
}
