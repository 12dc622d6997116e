use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};

use super::super::book::{Life, Write};
use super::super::convergence::{heads_with, standings};
use super::super::grant;
use super::super::hello::receive;
use super::super::publish::{advance, feed, is_current, FeedAt};
use super::super::revoke::{revoke, Revocation};
use super::super::service::tests::{at, device_keys, founded, new_grant, one_device, CADENCE};
use super::super::FleetKeys;
use super::*;
use crate::agent::clock::Between;
use crate::agent::revocation::Revocations;
use crate::agent::token::{admit, Verified};
use crate::ids::{BlockId, GrantId};

use crate::wire::envelope::Signed;
use crate::wire::link::{Right, Topic};
use crate::wire::revocation::slot::Slot;
use crate::wire::revocation::Target;
use crate::wire::token::{mint_task, Bearer, TaskSpec};

fn id<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().unwrap()
}

fn make(keys: &FleetKeys, book: &mut Book, wanted: &Change, secs: u64) -> Result<Changed, FleetError> {
    let signing = Signing { root: &keys.root, feed: &keys.feed, cadence: CADENCE };
    change(book, wanted, signing, keys.operator("ann"), at(secs), &mut Effects::default())
}

fn join(group: &str, devices: &[&str]) -> Change {
    Change::Join(id(group), devices.iter().map(|device| id(device)).collect())
}

fn add_feed(feed: &str, groups: &[&str]) -> Change {
    Change::AddFeed(id(feed), groups.iter().map(|group| id(group)).collect())
}

fn revoked(keys: &FleetKeys, book: &mut Book, target: Target, device: Option<&str>, secs: u64) {
    let life = match target {
        Target::Block(_) => Some(Life { issued: at(0), expires: at(80_000), serial: None }),
        _ => None,
    };
    let device = device.map(id);
    let revocation = Revocation { target, until: Some(at(90_000)), reason: "a test".into(), life, device };
    revoke(book, revocation, keys.operator("ann"), at(secs), &mut Effects::default()).unwrap();
}

/// A device fetches the whole of its feed.
fn fetch(held: &mut Revocations, book: &Book, device: &DeviceId) {
    held.follow(book.trust(), device);
    let own = &book.trust().feed_of(device).id;
    let known = book.of(own);
    let head = known.head().unwrap();
    held.whole((&head.signed, &known.set().to_bytes()), own, book.trust(), Between::from(at(0))).unwrap();
}

#[test]
fn what_makes_no_sense_is_refused_with_what_to_do_and_what_is_so_already_makes_no_bundle() {
    let (keys, mut book) = founded();
    let mut try_one = |wanted: Change| make(&keys, &mut book, &wanted, 2);
    assert_eq!(try_one(join("north", &["gw-1", "gw-2"])).unwrap().bundle, 2);
    assert_eq!(try_one(join("north", &["gw-2"])).unwrap().bundle, 2, "it is in it");
    assert_eq!(try_one(add_feed("f-north", &["north"])).unwrap().bundle, 3);
    assert_eq!(try_one(add_feed("f-north", &["north"])).unwrap().bundle, 3, "it is there");
    for (wanted, hint) in [
        (join("north", &[]), "1 to 100"),
        (Change::Leave(id("south"), vec![id("gw-1")]), "group add south"),
        (Change::Leave(id("north"), vec![id("gw-9")]), "not in group"),
        (add_feed("f-south", &["south"]), "group add south"),
        (add_feed("f-south", &[]), "--group"),
        (add_feed("f-other", &["north"]), "f-north"),
        (add_feed("main", &["north"]), "another name"),
        (Change::RemoveFeed(id("main")), "cannot be removed"),
        (Change::RemoveFeed(id("f-south")), "feed list"),
    ] {
        match try_one(wanted.clone()) {
            Err(FleetError::Argument(text) | FleetError::Invalid(text)) => {
                assert!(text.contains(hint), "{wanted:?}: {text}")
            }
            other => panic!("{wanted:?}: {other:?}"),
        }
    }
    assert_eq!(try_one(Change::Leave(id("north"), vec![id("gw-1"), id("gw-2")])).unwrap().bundle, 4);
    assert!(book.trust().groups.contains_key(&id::<GroupId>("north")), "a feed names it");
    make(&keys, &mut book, &Change::RemoveFeed(id("f-north")), 3).unwrap();
    make(&keys, &mut book, &add_feed("f-north", &["north"]), 3).unwrap();
    let again = book.trust().feed(&id("f-north")).unwrap();
    assert_eq!((again.era, again.since), (2, 0), "no position of before is signed again");
    assert_eq!(book.of(&again.id).order(), (2, 1));
}

#[test]
fn a_revocation_moves_only_the_feeds_to_which_it_belongs() {
    let (keys, mut book) = founded();
    let fx = &mut Effects::default();
    for wanted in [
        join("north", &["gw-1"]),
        join("south", &["gw-2"]),
        add_feed("f-north", &["north"]),
        add_feed("f-south", &["south"]),
    ] {
        make(&keys, &mut book, &wanted, 2).unwrap();
    }
    let mut moved = |book: &mut Book, target: Target, device: Option<&str>, secs| {
        let before = FeedAt::all(book);
        revoked(&keys, book, target, device, secs);
        advance(book, &keys.feed, CADENCE, at(secs), fx);
        assert!(is_current(book, at(secs)));
        let feeds = book.feeds().filter(|(id, now)| !feed(id, now, before.get(id).copied()).is_empty());
        feeds.map(|(id, _)| id.to_string()).collect::<Vec<_>>().join(" ")
    };
    let all = "main f-north f-south";
    for (target, device, expected) in [
        (Target::All, None, all),
        (Target::Owner("ann".into()), None, all),
        (Target::Audience("web".into()), None, all),
        (Target::RootKey(1), None, all),
        (Target::IssuedBefore(at(1)), None, all),
        (Target::Group(id("north")), None, "f-north"),
        (Target::Group(id("nobody")), None, ""),
        (Target::Device(id("gw-2")), None, "f-south"),
        (Target::Device(id("gw-3")), None, "main"),
        (Target::Task(id("t-1")), Some("gw-1"), "f-north"),
        (Target::Task(id("t-2")), None, all),
        (Target::Block(BlockId([1; 32])), Some("gw-2"), "f-south"),
        (Target::Block(BlockId([2; 32])), None, all),
        (Target::Grant(GrantId([7; 16])), None, all),
    ] {
        assert_eq!(moved(&mut book, target.clone(), device, 3), expected, "{target:?}");
    }
    let (_, wait) = (standings(&book, at(3)), heads_with(&book, book.rule(&Target::Task(id("t-1"))).unwrap()));
    assert_eq!(wait.len(), 1, "only of the devices of one feed is anything waited for");
    assert!(wait[&id::<FeedId>("f-north")].is_some());
}

#[test]
fn who_is_moved_is_fresh_only_by_a_head_that_holds_what_had_been_revoked_for_it() {
    let (keys, mut book) = founded();
    let gw: DeviceId = id("gw-1");
    for wanted in [join("north", &["gw-1"]), join("south", &["gw-2"])] {
        make(&keys, &mut book, &wanted, 2).unwrap();
    }
    for wanted in [add_feed("f-north", &["north"]), add_feed("f-south", &["south"])] {
        make(&keys, &mut book, &wanted, 2).unwrap();
    }
    let mut held = Revocations::default();
    fetch(&mut held, &book, &gw);
    // It is away while its task is revoked, and moved.
    let task = Target::Task(id("t-1"));
    revoked(&keys, &mut book, task.clone(), Some("gw-1"), 3);
    advance(&mut book, &keys.feed, CADENCE, at(3), &mut Effects::default());
    let before = book.clone();
    make(&keys, &mut book, &Change::Leave(id("north"), vec![gw.clone()]), 4).unwrap();
    make(&keys, &mut book, &join("south", &["gw-1"]), 5).unwrap();
    assert_eq!(book.of(&id("f-south")).head().unwrap().head.bundle_version, book.trust().version);

    assert!(held.follow(book.trust(), &gw), "it has another feed now");
    assert!(held.age(at(6)).is_none(), "of which it holds nothing");
    assert!(held.holds("f-north") && !held.holds("f-south"), "tokens that name the old one are good still");
    let south: FeedId = id("f-south");
    let old = before.of(&south);
    let signed = &old.head().unwrap().signed;
    held.whole((signed, &old.set().to_bytes()), &south, book.trust(), Between::from(at(0))).unwrap();
    assert_eq!(held.versions_named(), (0, 0), "a head from before the move makes nothing fresh");
    assert!(!held.names(&task, at(0)));
    fetch(&mut held, &book, &gw);
    assert_eq!(held.versions_named().0, book.trust().version);
    assert!(held.names(&task, at(0)), "and the first one since holds all");
}

#[test]
fn grants_follow_once_the_device_has_said_that_it_holds_its_feed() {
    let (keys, mut book, hello, mut rng) = one_device();
    let (fx, gw) = (&mut Effects::default(), id::<DeviceId>("gw-07"));
    grant::create(&mut book, new_grant(), &keys.issuer, keys.operator("ann"), at(2), &mut rng, fx).unwrap();
    let say = |book: &mut Book, feeds: Vec<crate::wire::revocation::Position>, nonce: u8| {
        let said = crate::wire::link::Hello { feeds, ..hello(nonce) };
        let signed = Signed::sign(&said, book.fleet(), &[&device_keys(1).identity]);
        receive(book, &gw, &signed.to_bytes(), at(nonce.into()), &mut Effects::default()).unwrap();
    };
    let old = book.first().head().unwrap().position.clone();
    say(&mut book, vec![old.clone()], 3);
    make(&keys, &mut book, &join("north", &["gw-07"]), 4).unwrap();
    let changed = make(&keys, &mut book, &add_feed("f-north", &["north"]), 4).unwrap();
    assert_eq!(changed.moved, [(gw.clone(), id("main"), id("f-north"))]);
    let named = |book: &Book| {
        let feeds = book.live_grants(&gw, at(9)).map(|grant| grant.spec.feed.as_ref().unwrap().to_string());
        feeds.collect::<Vec<_>>()
    };
    let device = book.device(&gw).unwrap().clone();
    say(&mut book, vec![old.clone()], 5);
    grant::follow_feed(&mut book, &device, &keys.issuer, at(5), &mut rng, fx).unwrap();
    assert_eq!(named(&book), ["main"], "it does not hold the other yet");
    let new = book.of(&id("f-north")).head().unwrap().position.clone();
    say(&mut book, vec![new, old], 6);
    grant::follow_feed(&mut book, &device, &keys.issuer, at(6), &mut rng, fx).unwrap();
    assert_eq!(named(&book), ["f-north"]);
    grant::follow_feed(&mut book, &device, &keys.issuer, at(7), &mut rng, fx).unwrap();
    assert_eq!(named(&book).len(), 1, "once");
}

/// A token of the property below.
struct Shown {
    verified: Verified,
    device: Option<DeviceId>,
    group: Option<GroupId>,
}

const DEVICES: [&str; 6] = ["gw-0", "gw-1", "gw-2", "gw-3", "gw-4", "gw-5"];
const GROUPS: [&str; 3] = ["g-0", "g-1", "g-2"];

struct World {
    keys: FleetKeys,
    book: Book,
    rng: ChaCha20Rng,
    tokens: Vec<Shown>,
    held: Vec<(DeviceId, Revocations)>,
    secs: u64,
}

impl World {
    fn new(seed: u8) -> Self {
        let (keys, book) = founded();
        let held = DEVICES.iter().map(|device| (id(device), Revocations::default())).collect();
        let mut world = Self { keys, book, rng: ChaCha20Rng::from_seed([seed; 32]), tokens: Vec::new(), held, secs: 1 };
        (0..12).for_each(|number| world.mint(number));
        world
    }

    fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[self.rng.next_u32() as usize % from.len()]
    }

    fn mint(&mut self, number: u8) {
        let device: DeviceId = id(self.pick(&DEVICES));
        let group = (number % 4 == 3).then(|| id::<GroupId>(self.pick(&GROUPS)));
        let device = Some(device).filter(|_| group.is_none());
        let bearer = device.clone().map(Bearer::Device).or(group.clone().map(Bearer::Group)).unwrap();
        let spec = TaskSpec {
            fleet: self.book.fleet().clone(),
            grant: GrantId([number; 16]),
            bearer,
            owner: format!("owner-{}", number % 3),
            audience: None,
            feed: None,
            task: format!("t-{number}").parse().unwrap(),
            issued: at(u64::from(number)),
            expires: at(80_000),
            serial: (number % 2 == 0).then_some(number.into()),
            rights: vec![Right { resource: "a/b".into(), action: "read".into() }],
            uses_max: None,
            staleness_max: Vec::new(),
            min_time_class: None,
        };
        let issuer = &self.keys.issuer;
        let bytes = mint_task(&spec, &issuer.key, issuer.root_key_id, &mut self.rng).unwrap();
        let profile = crate::profile::Profile::default();
        let verified = admit(&bytes, &profile.verify, self.book.trust(), |_| false).unwrap();
        self.tokens.push(Shown { verified, device, group });
    }

    /// Revokes something about some token, as the ledger knows or does not know whose it is.
    fn revoke_some(&mut self) {
        let number = self.rng.next_u32() as usize % self.tokens.len();
        let (known, kind) = (self.rng.next_u32() % 2 == 0, self.rng.next_u32() % 16);
        let Shown { verified, device, group } = &self.tokens[number];
        let claims = &verified.claims;
        let block = verified.chain().next().copied().unwrap();
        let whose = device.as_ref().filter(|_| known).cloned();
        let target = match kind {
            0 => Target::Owner(claims.owner.clone()),
            1 => Target::Device(id(DEVICES[number % DEVICES.len()])),
            2 => Target::Group(group.clone().unwrap_or_else(|| id("g-0"))),
            3 => Target::IssuedBefore(at(1)),
            4..=6 => Target::Grant(claims.grant),
            7..=10 => Target::Task(id(&claims.tasks[0])),
            _ => Target::Block(block),
        };
        let life = matches!(target, Target::Block(_)).then(|| Life {
            issued: claims.issued,
            expires: claims.expires,
            serial: claims.serial.map(|(_, serial)| serial).filter(|_| kind % 2 == 0),
        });
        let revocation = Revocation { target, until: Some(at(90_000)), reason: "r".into(), life, device: whose };
        let ann = self.keys.operator("ann");
        revoke(&mut self.book, revocation, ann, at(self.secs), &mut Effects::default()).unwrap();
    }

    fn change_some(&mut self) {
        let (device, group) = (self.pick(&DEVICES), self.pick(&GROUPS));
        let feed = ["f-0", "f-1"][self.rng.next_u32() as usize % 2];
        let wanted = match self.rng.next_u32() % 6 {
            0..=2 => join(group, &[device]),
            3 => Change::Leave(id(group), vec![id(device)]),
            4 => add_feed(feed, &[group]),
            _ => Change::RemoveFeed(id(feed)),
        };
        // What makes no sense is refused.
        let _ = make(&self.keys, &mut self.book, &wanted, self.secs);
    }

    /// After publication: for each device and token that can be shown there, what all feeds together cover is what its own
    /// covers, alone and with what the device had before.
    fn check(&mut self) {
        let book = &self.book;
        for (device, held) in &mut self.held {
            if self.rng.next_u32() % 3 == 0 {
                continue;
            }
            fetch(held, book, device);
            let mut fresh = Revocations::default();
            fetch(&mut fresh, book, device);
            let newest = book.trust().version;
            assert_eq!((held.versions_named().0, fresh.versions_named().0), (newest, newest), "they count");
            let mut union = Revocations::default();
            for (feed, known) in book.feeds() {
                let head = known.head().unwrap();
                union.whole((&head.signed, &known.set().to_bytes()), feed, book.trust(), Between::from(at(0))).unwrap();
            }
            for Shown { verified, device: for_device, group } in &self.tokens {
                let here = for_device.as_ref().is_none_or(|place| place == device);
                let here = here && group.as_ref().is_none_or(|group| book.trust().in_group(device, group.as_str()));
                if !here {
                    continue;
                }
                let covers = |held: &Revocations| held.covers(verified, device, at(0)).is_some();
                let (all, own, kept) = (covers(&union), covers(&fresh), covers(held));
                assert_eq!((own, kept), (all, all), "{device} and {:?}", verified.claims);
            }
        }
    }
}

#[test]
fn what_a_device_is_shown_is_covered_by_its_own_feed_if_and_only_if_it_is_by_all_together() {
    for seed in 0..24 {
        let mut world = World::new(seed);
        for _ in 0..30 {
            world.secs += 1;
            match world.rng.next_u32() % 3 {
                0 => world.change_some(),
                _ => world.revoke_some(),
            }
            advance(&mut world.book, &world.keys.feed, CADENCE, at(world.secs), &mut Effects::default());
            world.check();
        }
        assert!(world.book.trust().version > 3, "devices were moved");
    }
}

#[test]
fn a_ledger_that_is_read_back_knows_where_everything_belongs() {
    let mut world = World::new(77);
    let mut rows = std::collections::BTreeMap::new();
    let mut keep = |writes: Vec<Write>| {
        for write in writes {
            rows.extend(write.row().map(|row| (row, write)));
        }
    };
    let mut fx = Effects::default();
    let (signed, document) = world.book.policy();
    keep(vec![Write::Bundle(1, world.book.bundles()[0].clone()), Write::Policy(document.version, signed.clone())]);
    let signing = |keys: &FleetKeys| (keys.root.clone(), keys.feed.clone());
    let (root, key) = signing(&world.keys);
    let signing = Signing { root: &root, feed: &key, cadence: CADENCE };
    for (secs, wanted) in [(2, join("g-0", &["gw-1"])), (3, add_feed("f-0", &["g-0"]))] {
        change(&mut world.book, &wanted, signing, world.keys.operator("ann"), at(secs), &mut fx).unwrap();
    }
    let target = Target::Task(id("t-77"));
    let revocation =
        Revocation { target, until: Some(at(90_000)), reason: "r".into(), life: None, device: Some(id("gw-1")) };
    revoke(&mut world.book, revocation, world.keys.operator("ann"), at(4), &mut fx).unwrap();
    advance(&mut world.book, &world.keys.feed, CADENCE, at(4), &mut fx);
    fx.commit(|writes| {
        keep(writes);
        Ok::<(), ()>(())
    })
    .unwrap();
    let read = Book::load(rows.into_values().rev().collect()).unwrap();
    let heads = |book: &Book| book.feeds().map(|(id, feed)| (id.clone(), feed.order())).collect::<Vec<_>>();
    assert_eq!(heads(&read), heads(&world.book));
    assert!(is_current(&read, at(4)), "nothing waits that is published");
    let feed: FeedId = id("f-0");
    assert_eq!(read.of(&feed).set(), world.book.of(&feed).set());
    assert_eq!((read.of(&feed).set().count(), read.first().set().count()), (1, 0));
    let slot = Slot::of_day(at(1));
    assert_eq!(read.serials(slot), world.book.serials(slot));
    assert!(crate::fleet::publish::retained(&read).iter().any(|kept| kept.topic == Topic::FeedHead(feed.clone())));
}

#[test]
fn a_bundle_whose_feeds_make_no_sense_is_refused_by_devices() {
    let (keys, mut book) = founded();
    for wanted in [join("north", &["gw-1"]), join("south", &["gw-2"]), add_feed("f-north", &["north"])] {
        make(&keys, &mut book, &wanted, 2).unwrap();
    }
    let other = |id: &str, groups: &[&str]| {
        let Change::AddFeed(id, groups) = add_feed(id, groups) else { unreachable!() };
        Feed { id, era: 1, keys: vec![keys.feed.verifying_key().into()], groups, since: 0 }
    };
    type Edit<'a> = (&'a str, &'a dyn Fn(&mut TrustBundle));
    let edits: [Edit<'_>; 9] = [
        ("two feeds of one name", &|next| next.feeds.push(other("f-north", &["south"]))),
        ("no groups", &|next| next.feeds.push(other("f-south", &[]))),
        ("the first with groups", &|next| next.feeds[0].groups.push(id("south"))),
        ("no such group", &|next| next.feeds.push(other("f-west", &["west"]))),
        ("a group with two feeds", &|next| next.feeds.push(other("f-again", &["north"]))),
        ("no key", &|next| next.feeds[1].keys.clear()),
        ("a device twice", &|next| next.groups.entry(id("south")).or_default().push(id("gw-2"))),
        ("a later bundle", &|next| next.feeds[1].since = 99),
        ("devices come and it is not said", &|next| next.groups.entry(id("north")).or_default().push(id("gw-2"))),
    ];
    for (what, edit) in edits {
        let mut next = book.trust().clone();
        next.version += 1;
        edit(&mut next);
        let refused = book.trust().successor(&Signed::sign(&next, book.fleet(), &[&keys.root]));
        assert!(matches!(refused, Err(crate::wire::Refused::Malformed(_))), "{what}: {refused:?}");
    }
    let mut next = book.trust().clone();
    next.version += 1;
    next.feeds[1].since = 0;
    let refused = book.trust().successor(&Signed::sign(&next, book.fleet(), &[&keys.root]));
    assert!(matches!(refused, Err(crate::wire::Refused::RolledBack { .. })), "{refused:?}");
}
