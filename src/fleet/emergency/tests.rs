use super::super::service::tests::{at, founded};
use super::super::FleetKeys;
use super::*;

pub(super) fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

fn add_key(book: &mut Book, name: &str, key: &PublicKey, keys: &FleetKeys, at: Timestamp) -> Result<(), FleetError> {
    let next = draft_added(book, name, key, at)?;
    let (roots, by) = ([&keys.root], keys.operator("bob"));
    proposal::bring(book, &next, Cause::Planned, &roots, by, at, &mut Effects::default()).map(drop)
}

fn remove_key(book: &mut Book, name: &str, cause: Cause, keys: &FleetKeys, at: Timestamp) -> Result<(), FleetError> {
    let (next, _) = draft_removed(book, name, at)?;
    let (roots, by) = ([&keys.root], keys.operator("bob"));
    proposal::bring(book, &next, cause, &roots, by, at, &mut Effects::default()).map(drop)
}

/// A fleet in which ann has an emergency key.
pub(super) fn with_ann() -> (FleetKeys, Book) {
    let (keys, mut book) = founded();
    let public = PublicKey::from(key(40).verifying_key());
    add_key(&mut book, "ann", &public, &keys, at(1)).unwrap();
    assert_eq!((book.trust().version, book.trust().emergency.len()), (2, 1));
    (keys, book)
}

pub(super) fn order(task: &str, hours: u64) -> Order {
    let target = Target::Task(task.parse().unwrap());
    Order { target, life: Millis::from_secs(hours * 3600), reason: "stolen".into(), clock_is_right: false }
}

fn declared(book: &mut Book, task: &str, secs: u64) -> Emergency {
    let mut fx = Effects::default();
    declare(book, &key(40), &order(task, 24), at(secs), &mut fx).unwrap().claim().unwrap()
}

fn reloaded(book: &Book, writes: Vec<Write>) -> Book {
    let mut book = book.clone();
    writes.into_iter().for_each(|write| book.apply(write));
    book
}

#[test]
fn statements_are_numbered_one_by_one_and_repeat_what_is_in_force() {
    let (_, mut book) = with_ann();
    let first = declared(&mut book, "t-1", 10);
    assert_eq!((first.counter, first.rules.count(), first.bundle_version), (1, 1, 2));
    let second = declared(&mut book, "t-2", 20);
    assert_eq!((second.counter, second.rules.count()), (2, 2));
    assert_eq!(second.issued_at, at(20) - ISSUED_EARLIER);
    let later = declared(&mut book, "t-3", 25 * 3600);
    assert_eq!((later.counter, later.rules.count()), (3, 1), "what has ended is not repeated");
    assert_eq!(book.emergency(later.key).unwrap().in_force(at(11)).count(), 3);
}

#[test]
fn what_such_a_key_cannot_say_is_told_before_anything_is_signed() {
    let (keys, book) = with_ann();
    let trust = book.trust();
    let check = |key: &SigningKey, order: &Order, before: &Before, says: &str| {
        let error = statement(trust, key, before, order, at(10)).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    };
    let none = Before::default();
    check(&key(40), &order("t-1", 73), &none, "72 h at most");
    check(&key(40), &Order { life: Millis(0), ..order("t-1", 1) }, &none, "72 h at most");
    check(&key(40), &Order { reason: " ".into(), ..order("t-1", 1) }, &none, "the reason");
    let block = Target::Block(crate::ids::BlockId([1; 32]));
    check(&key(40), &Order { target: block, ..order("t-1", 1) }, &none, "no single block");
    check(&key(41), &order("t-1", 1), &none, "emergency key is none of trust bundle 2");
    check(&keys.feed, &order("t-1", 1), &none, "emergency key is none of trust bundle 2");
    check(&key(40), &order("t-1", 1), &Before { counter: u64::MAX, ..none.clone() }, "last counter");
    let longest = statement(trust, &key(40), &none, &order("t-1", 72), at(10)).unwrap().claim().unwrap();
    assert_eq!(longest.rules.iter().next().unwrap().1, longest.issued_at + LIFE_MAX);
}

#[test]
fn each_rule_keeps_the_reason_for_which_it_was_made() {
    let (_, mut book) = with_ann();
    let mut sign = |task, reason: &str, hours, secs| {
        let order = Order { reason: reason.into(), ..order(task, hours) };
        let signed = declare(&mut book, &key(40), &order, at(secs), &mut Effects::default()).unwrap();
        let rules = signed.claim().unwrap().rules;
        rules.declared().map(|rule| format!("{}: {}", rule.selector, rule.reason)).collect::<Vec<_>>()
    };
    assert_eq!(sign("t-1", "laptop stolen", 24, 10), ["task t-1: laptop stolen"]);
    assert_eq!(sign("t-2", "a mistake", 24, 20), ["task t-1: laptop stolen", "task t-2: a mistake"]);
    let shorter = sign("t-1", "it ends before", 1, 30);
    assert_eq!(shorter, ["task t-1: laptop stolen", "task t-2: a mistake"], "its end is that of the first");
    assert_eq!(sign("t-1", "still away", 48, 40), ["task t-1: still away", "task t-2: a mistake"]);
    let known = book.emergencies().next().unwrap();
    let told: Vec<_> = known.in_force(at(50)).map(|(rule, _, by, reason)| format!("{by} {rule}: {reason}")).collect();
    assert_eq!(told, ["4 task t-1: still away", "4 task t-2: a mistake"]);
    let long = Order { reason: "ü".repeat(REASON_BYTES_MAX / 2 + 1), ..order("t-3", 1) };
    let error = declare(&mut book, &key(40), &long, at(60), &mut Effects::default()).unwrap_err().to_string();
    assert!(error.contains("at most 200 bytes"), "{error}");
}

/// With 64 rules in force there is room for what stands for some of them, and the advice for anything else can be followed.
#[test]
fn a_key_with_64_rules_in_force_can_still_say_a_wider_one() {
    let (_, book) = with_ann();
    let (now, hour) = (at(100), |hours: u64| at(100 + hours * 3600));
    let tasks = |count: u32, until| (0..count).map(move |id| (Selector::task(&format!("t-{id}")), until));
    let says = |target: Target, hours: u64, rules: Vec<(Selector, Timestamp)>| {
        let order = Order { target, ..order("t-1", hours) };
        let rules =
            latest(rules.into_iter().map(|(selector, until)| Declared { selector, until, reason: "old".into() }));
        let rules = rules.into_values().collect();
        let before = Before { counter: 7, rules, ..Before::default() };
        let signed = statement(book.trust(), &key(40), &before, &order, now);
        signed.map(|signed| signed.claim().unwrap().rules).map_err(|error| error.to_string())
    };
    let (early, late) = (Target::IssuedBefore(at(10)), Target::IssuedBefore(at(20)));
    let before = |target: &Target, until| (Selector::of(target).unwrap(), until);
    let full = || tasks(64, hour(2)).collect::<Vec<_>>();
    let with = |count, rule| tasks(count, hour(2)).chain([rule]).collect::<Vec<_>>();
    let owner = || Target::Owner("ops@acme".into());
    type Case = (&'static str, Target, u64, Vec<(Selector, Timestamp)>, Result<usize, &'static str>);
    let cases: [Case; 14] = [
        ("no room", owner(), 24, full(), Err("`hardtack fleet emergency all --as ann --expires 2h --reason WHY`")),
        ("everything, for as long", Target::All, 2, full(), Ok(1)),
        ("everything, for longer", Target::All, 72, full(), Ok(1)),
        (
            "everything, for less",
            Target::All,
            1,
            full(),
            Err("with an end that is no earlier than theirs: `hardtack fleet emergency all --as ann --expires 2h --reason WHY`"),
        ),
        ("everything, for less, where there is room", Target::All, 1, tasks(63, hour(2)).collect(), Ok(64)),
        ("one that is there, for longer", Target::Task("t-9".parse().unwrap()), 72, full(), Ok(64)),
        ("one has ended", owner(), 1, with(63, (Selector::RootKey(1), at(99))), Ok(64)),
        ("a later time", late.clone(), 3, with(63, before(&early, hour(3))), Ok(64)),
        ("a later time, for less", late.clone(), 1, with(63, before(&early, hour(3))), Err("64 rules")),
        ("an earlier time", early, 1, with(63, before(&late, hour(2))), Ok(64)),
        ("what everything covers", owner(), 1, with(0, (Selector::All, hour(2))), Ok(2)),
        ("what everything covers, with no room beside", owner(), 1, with(63, (Selector::All, hour(2))), Ok(2)),
        ("everything, with room beside", Target::All, 2, tasks(63, hour(2)).collect(), Ok(64)),
        (
            "what everything covers, with no room at all",
            owner(),
            1,
            tasks(63, hour(3)).chain([(Selector::All, hour(2))]).collect(),
            Ok(64),
        ),
    ];
    for (what, target, hours, rules, expected) in cases {
        match (says(target.clone(), hours, rules.clone()), expected) {
            (Ok(said), Ok(count)) => {
                assert_eq!(said.count(), count, "{what}");
                let asked = Selector::of(&target).unwrap();
                let told = said.iter().any(|(rule, _)| rule == asked);
                assert!(told || count == RULES_MAX, "{what}: what was asked for is said where it fits");
                // Nothing that was in force is left out: it is said, or stands behind what is.
                for (selector, until) in rules.iter().filter(|(_, until)| *until >= now) {
                    let said_so = said.iter().any(|(rule, end)| rule.implies(selector) && end >= *until);
                    assert!(said_so, "{what}: {selector}");
                }
            }
            (Err(error), Err(says)) => {
                assert!(error.contains(says) && error.contains("`hardtack fleet revoke`"), "{what}: {error}")
            }
            (got, expected) => panic!("{what}: {got:?}, {expected:?}"),
        }
    }
    // The longest that is in force ends a little later than what is signed now can: all of it fits all the same.
    let longest: Vec<_> = tasks(64, now + LIFE_MAX).collect();
    assert_eq!(says(Target::All, 72, longest.clone()).unwrap().count(), 1);
    assert!(says(Target::All, 1, longest).unwrap_err().contains("--expires 72h"));
}

/// What the fleet's folder signs goes by the same: its ledger keeps what a wrong clock leaves out.
#[test]
fn a_clock_that_does_not_fit_what_is_signed_is_told_and_takes_nothing_away() {
    let (_, mut book) = with_ann();
    let bundle = book.trust().issued_at;
    let sign = |book: &mut Book, when, clock_is_right| {
        let order = Order { clock_is_right, ..order("t-1", 24) };
        let signed = declare(book, &key(40), &order, when, &mut Effects::default());
        signed.map(|signed| signed.claim().unwrap()).map_err(|error| error.to_string())
    };
    let early = Timestamp(bundle.0 - ISSUED_EARLIER.0 - 1);
    let error = sign(&mut book, early, false).unwrap_err();
    assert!(error.contains("trust bundle 2 was signed at") && error.contains("--clock-is-right"), "{error}");
    assert_eq!(sign(&mut book.clone(), early, true).unwrap().counter, 1);
    // Nothing was revoked yet, so nothing can be left out: a key may lie in a drawer for months.
    assert!(sign(&mut book.clone(), bundle + LIFE_MAX + LIFE_MAX, false).is_ok());
    let first = declared(&mut book, "t-2", 10);
    let signed_at = first.issued_at + ISSUED_EARLIER;
    let cases = [
        (first.issued_at, None),
        (Timestamp(first.issued_at.0 - 1), Some("behind")),
        (signed_at + LIFE_MAX, None),
        (signed_at + LIFE_MAX + Millis(1), Some("more than 72 h")),
    ];
    for (when, refused) in cases {
        match (sign(&mut book.clone(), when, false), refused) {
            (Ok(said), None) => assert_eq!(said.counter, 2, "{when}"),
            (Err(error), Some(says)) => assert!(error.contains(says), "{when}: {error}"),
            (got, refused) => panic!("{when}: {got:?}, {refused:?}"),
        }
    }
    let ahead = sign(&mut book, at(90_000_000), true).unwrap();
    assert_eq!((ahead.counter, ahead.rules.count()), (2, 1));
    let right = Order { clock_is_right: true, ..order("t-3", 24) };
    let right = declare(&mut book, &key(40), &right, at(20), &mut Effects::default()).unwrap().claim().unwrap();
    assert_eq!((right.counter, right.rules.count()), (3, 2), "t-2 is said again");
    assert_eq!(declared(&mut book, "t-1", 30).rules.count(), 3);
    assert_eq!(declared(&mut book, "t-4", 40).rules.count(), 4, "what the right clock said of t-1 is said again");
}

/// The longest rule, and a clock that was set back by less than two clocks may differ.
#[test]
fn a_clock_that_is_set_back_a_little_leaves_nothing_out() {
    let (_, mut book) = with_ann();
    let mut sign = |task, hours, secs| {
        let signed = declare(&mut book, &key(40), &order(task, hours), at(secs), &mut Effects::default());
        signed.unwrap().claim().unwrap()
    };
    let first = sign("t-1", 72, 1000);
    let next = sign("t-2", 1, 800);
    let ends: Vec<Timestamp> = next.rules.iter().map(|(_, until)| until).collect();
    assert_eq!(ends.iter().max(), Some(&(next.issued_at + LIFE_MAX)), "no later than a statement may say");
    assert_eq!((ends.len(), next.issued_at < first.issued_at), (2, true));
}

#[test]
fn what_is_heard_is_kept_once_and_only_from_a_key_that_is_named() {
    let (_, mut here) = with_ann();
    let mut elsewhere = here.clone();
    let mut fx = Effects::default();
    let one = declare(&mut elsewhere, &key(40), &order("t-1", 1), at(10), &mut fx).unwrap();
    let two = declare(&mut elsewhere, &key(40), &order("t-2", 1), at(20), &mut fx).unwrap();
    let id = one.claim().unwrap().key;
    let mut check = |signed: &Signed<Emergency>, place: KeyId, expected: &str, logs: usize| {
        let mut fx = Effects::default();
        let heard = hear(&mut here, place, &signed.to_bytes(), at(30), &mut fx);
        assert_eq!(heard.map_or_else(|refused| refused.name(), |()| "heard"), expected);
        assert_eq!(fx.outgoing.logs.len(), logs);
    };
    check(&two, id, "heard", 1);
    check(&two, id, "heard", 0);
    check(&one, id, "heard", 0);
    check(&two, KeyId([1; 8]), "wrong_topic", 0);
    let rules = Rules::new("another", two.claim().unwrap().rules.iter()).unwrap();
    let said = Emergency { rules, ..two.claim().unwrap() };
    check(&Signed::sign(&said, &"acme".parse().unwrap(), &[&key(40)]), id, "signed_twice", 1);
    check(&Signed::sign(&said, &"acme".parse().unwrap(), &[&key(41)]), id, "unknown_key", 0);
    // The next one here is numbered past what was heard, and repeats it.
    let next = declared(&mut here, "t-3", 40);
    assert_eq!((next.counter, next.rules.count()), (3, 3));
}

#[test]
fn a_key_that_goes_says_nothing_more_and_comes_back_never() {
    let (keys, mut book) = with_ann();
    declared(&mut book, "t-1", 10);
    let mut fx = Effects::default();
    let public = PublicKey::from(key(40).verifying_key());
    let add = |book: &mut Book, name: &str, public: &PublicKey| add_key(book, name, public, &keys, at(20));
    assert!(add(&mut book, "ann", &PublicKey::from(key(41).verifying_key())).is_err(), "one key for each");
    assert!(add(&mut book, "eve/..", &PublicKey::from(key(41).verifying_key())).is_err());
    assert!(add(&mut book, "eve", &PublicKey::from(keys.feed.verifying_key())).is_err(), "no key of another role");
    assert!(add(&mut book, "eve", &public).is_err(), "no key of another");
    let cause = Cause::Compromised;
    remove_key(&mut book, "ann", cause, &keys, at(30)).unwrap();
    assert!(remove_key(&mut book, "ann", cause, &keys, at(30)).is_err());
    assert!(declare(&mut book, &key(40), &order("t-2", 1), at(40), &mut fx).is_err());
    assert!(add(&mut book, "ann", &public).is_err());
    assert!(add(&mut book, "ann", &PublicKey::from(key(41).verifying_key())).is_ok());
    assert_eq!(book.emergencies().count(), 1, "what it revoked is known still");
}

#[test]
fn rows_make_the_same_book_in_any_order_and_a_restored_one_leaps_ahead() {
    let (_, book) = with_ann();
    let mut signing = book.clone();
    let mut fx = Effects::default();
    for (number, secs) in [(1, 10), (2, 20), (3, 30)] {
        declare(&mut signing, &key(40), &order(&format!("t-{number}"), 1), at(secs), &mut fx).unwrap();
    }
    let id = KeyId::of(key(40).verifying_key().as_bytes());
    let mut writes = Vec::new();
    fx.commit(|all| {
        writes = all;
        Ok::<(), ()>(())
    })
    .unwrap();
    for turn in 0..3 {
        writes.rotate_left(turn);
        let again = reloaded(&book, writes.clone());
        let (one, two) = (again.emergency(id).unwrap(), signing.emergency(id).unwrap());
        assert_eq!((one.said.counter, &one.rules, &one.newest), (3, &two.rules, &two.newest));
    }
    let restored = super::super::book::Restored {
        feed: "main".parse().unwrap(),
        at: at(40),
        least: (1, 1),
        settled: true,
        bundles_known: true,
    };
    let mut copy = reloaded(&book, vec![writes[0].clone(), Write::Restored(restored)]);
    let next = declared(&mut copy, "t-9", 50);
    assert!(next.counter > LEAP, "{}", next.counter);
    assert_eq!(declared(&mut copy, "t-10", 60).counter, next.counter + 1);
}

#[test]
fn the_broker_is_told_what_it_lacks_and_no_more() {
    let (_, mut book) = with_ann();
    let said = declared(&mut book, "t-1", 10);
    let feed = book.feed();
    let mut told = Told::connected(at(100));
    assert!(told.tell(&book, at(101)).is_empty(), "it may be about to say that it has it");
    assert_eq!(told.due_in(&book, at(101)), Some(Millis::from_secs(4)));
    let sent = told.tell(&book, at(105));
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].topic, Topic::FeedEmergency(feed.clone(), said.key));
    assert!(told.tell(&book, at(200)).is_empty() && told.due_in(&book, at(200)).is_none());
    // It forgot, or went back.
    let trust = book.trust();
    told.hears(trust, feed.clone(), said.key, b"");
    assert_eq!(told.tell(&book, at(300)).len(), 1);
    // Whoever mixes places, or signs with what is no emergency key, has not told devices.
    let other =
        Emergency { key: KeyId::of(PublicKey::from(key(9).verifying_key()).as_bytes()), counter: 99, ..said.clone() };
    let forged = Emergency { counter: 99, ..said.clone() };
    for (untold, secs) in [(other, 350), (forged, 360)] {
        let bytes = Signed::sign(&untold, &trust.fleet, &[&key(9)]).to_bytes();
        told.hears(trust, feed.clone(), said.key, &bytes);
        assert_eq!(told.tell(&book, at(secs)).len(), 1, "{untold:?}");
    }
    told.hears(trust, feed, said.key, &sent[0].payload);
    assert!(told.tell(&book, at(400)).is_empty());
    assert!(Told::connected(at(100)).tell(&book, at(25 * 3600)).is_empty(), "what has ended is not told");
}
