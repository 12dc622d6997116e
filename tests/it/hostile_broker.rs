//! A broker that is the enemy: what it can do to the feed of a real daemon, and that the device comes out of it as soon as
//! the broker is honest again. One test for each family of attacks, among them all that The Update Framework names.
//!
//! What the broker says is made by the fleet's real core with the feed's real key, and then repeated, held back, mixed,
//! damaged or moved. After each attack the complete position and the mode are what they must be, a token that was revoked
//! before is revoked, one that was not is allowed; in the end the collector has heard of all that was refused.

mod broker;
mod real;
mod site;

use ed25519_dalek::SigningKey;
use hardtack::fleet::publish::{self, Cadence, FeedAt};
use hardtack::fleet::revoke::{revoke, Revocation};
use hardtack::fleet::{Effects, Write};
use hardtack::ids::{BlockId, Hash};
use hardtack::time::Millis;
use hardtack::wire::bundle::TrustBundle;
use hardtack::wire::envelope::Signed;
use hardtack::wire::link::{Ack, Answer};
use hardtack::wire::policy::PolicyDocument;
use hardtack::wire::revocation::announcement::{Announcement, Head, Snapshot, Successor};
use hardtack::wire::revocation::manifest::Manifest;
use hardtack::wire::revocation::rules::Selector;
use hardtack::wire::revocation::set::{PartKey, RevocationSet};
use hardtack::wire::revocation::slot::Slot;
use hardtack::wire::revocation::Target;
use hardtack::wire::MESSAGE_BYTES_MAX;

use broker::Message;
use site::{at, topic, Fleet, Site, CADENCE};

/// What is said, and why it is refused: nothing where it is only no news.
type Case = (&'static str, Message, &'static str);

/// Each attack is refused as it must be, and leaves the device where it was.
#[track_caller]
fn refused_each(site: &mut Site, cases: impl IntoIterator<Item = Case>, seq: u64) {
    for (what, message, expected) in cases {
        let refused = site.attack([message]);
        let reasons: Vec<&str> = refused.iter().map(|refusal| refusal.reason.as_str()).collect();
        match expected {
            "" => assert!(reasons.is_empty(), "{what}: {reasons:?}"),
            expected => assert!(matches!(&reasons[..], [reason] if reason.contains(expected)), "{what}: {reasons:?}"),
        }
        site.check(seq, "online");
    }
}

fn place(rest: &str, payload: Vec<u8>) -> Message {
    (topic(rest), payload)
}

fn fleet_topic(rest: &str) -> String {
    format!("hardtack/1/acme/{rest}")
}

/// Two histories of the feed from where it stands: the book goes back, the messages stay.
fn forked(fleet: &mut Fleet, heads: u8) -> Vec<Message> {
    let (mut book, before, fx) = (fleet.book.clone(), FeedAt::of(fleet.book.first()), &mut Effects::default());
    for number in 0..heads {
        let target = Target::Block(BlockId([0x40 + number; 32]));
        let revocation = Revocation { target, until: None, reason: "a fork".into(), life: None, device: None };
        revoke(&mut book, revocation, fleet.keys.operator("eve"), fleet.at(), fx).unwrap();
        assert!(publish::advance(&mut book, &fleet.keys.feed, CADENCE, fleet.at(), fx));
    }
    let id = book.fleet().clone();
    publish::feed(&book.feed(), book.first(), Some(before))
        .into_iter()
        .map(|said| (said.topic.text(&id), said.payload))
        .collect()
}

#[test]
fn what_is_repeated_is_no_news() {
    let mut site = Site::new();
    for _ in 0..3 {
        let messages = site.fleet().next_head();
        site.deliver(messages);
    }
    site.applied(5);
    let passed = site.broker.passed();
    assert!(passed.len() > 10);
    let newest = site.broker.retained()[&topic("head")].clone();
    let old = passed.iter().filter(|(place, payload)| *place == topic("head") && *payload != newest).count();
    let acks = passed.iter().filter(|(place, _)| place.ends_with("down/ack")).count();
    let refused = site.attack(passed);
    let count = |reason: &str| refused.iter().filter(|refusal| refusal.reason.contains(reason)).count();
    assert_eq!(count("rolled back"), old, "{refused:#?}");
    assert!(count("answers no outstanding nonce") >= 1 && acks >= 1, "{refused:#?}");
    assert_eq!(count("equivocation"), 0, "{refused:#?}");
    site.check(5, "online");
    site.recovers();
}

#[test]
fn nothing_goes_back_to_an_older_version() {
    let mut site = Site::new();
    let first = site.broker.retained();
    let mut messages = site.fleet().next_head();
    messages.extend(next_bundle_and_policy(&mut site.fleet()));
    messages.extend(site.fleet().heads(2));
    site.deliver(messages);
    let seq = site.fleet().seq();
    site.waits_for("bundle and policy", |status| {
        status["feed_seq"] == seq && status["bundle_version"] == 2 && status["policy_version"] == 2
    });
    site.waits_for("its mode", |status| status["mode"] == "online");
    let of = |rest: &str| first[&fleet_topic(rest)].clone();
    let delta = first[&topic("delta/2")].clone();
    refused_each(
        &mut site,
        [
            ("an old head", place("head", of("feed/main/head")), "rolled back"),
            ("an old delta", place("delta/2", delta), "rolled back"),
            ("an old manifest", place("snap/manifest/0", of("feed/main/snap/manifest/0")), ""),
            ("old rules", place("rules", of("feed/main/rules")), ""),
            ("an old bundle", (fleet_topic("bundle/1"), of("bundle/1")), ""),
            ("an old bundle as a new one", (fleet_topic("bundle/3"), of("bundle/1")), "rolled back"),
            ("an old policy", (fleet_topic("policy/1"), of("policy/1")), ""),
            ("an old policy as a new one", (fleet_topic("policy/3"), of("policy/1")), "wrong topic"),
        ],
        seq,
    );

    // The broker itself was restored from an older copy: that is all that it has to show.
    site.broker.show(first);
    site.broker.cut();
    let older = |line: &serde_json::Value| line["topic"] == topic("head").as_str();
    let refused = site.device.agent.as_mut().unwrap().wait("message.refused", older).unwrap();
    assert!(refused["reason"].to_string().contains("rolled back"), "{refused}");
    site.waits_for("its mode", |status| status["mode"] == "online");
    site.check(seq, "online");
    let status = site.device.get("/v1/status").unwrap();
    assert_eq!((&status["bundle_version"], &status["policy_version"]), (&2.into(), &2.into()));
    site.recovers();
}

/// The next trust bundle and policy, as root and policy keys sign them, with a head that names them.
fn next_bundle_and_policy(fleet: &mut Fleet) -> Vec<Message> {
    let next = TrustBundle { version: 2, issued_at: fleet.at(), ..fleet.book.trust().clone() };
    let signed = Signed::sign(&next, fleet.book.fleet(), &[&fleet.keys.root]);
    fleet.book.apply(Write::Bundle(2, signed));
    fleet.next_policy();
    fleet.tick()
}

#[test]
fn a_frozen_feed_is_noticed_by_its_age() {
    let cadence = Cadence { interval: Millis::from_secs(1), hard_stale: Millis::from_secs(10) };
    let mut site = Site::with(cadence, Vec::new());
    assert_eq!(site.decide(&site.live.token, "high"), "allowed");
    // The fleet revokes, the broker goes on showing what it had, and says nothing of what the device asks.
    site.deafen(true);
    let old = site.broker.retained()[&topic("head")].clone();
    let live = site.fleet().block(&site.live.id);
    let hidden = site.fleet().revoke(Target::Block(live));
    let overdue = |status: &serde_json::Value| status["freshness"] == "stale";
    site.waits_for("a feed that is overdue", overdue);
    for _ in 0..3 {
        assert_eq!(site.attack([place("head", old.clone())]), [], "the newest that it knows: no news");
    }
    let status = site.waits_for("its mode", |status| status["mode"] == "stale");
    assert!(status["reasons"].to_string().contains("silent for longer than it promised"), "{status}");
    assert_eq!(status["feed_seq"], 2);
    assert_eq!(site.decide(&site.live.token, "high"), "stale", "it may have been revoked");
    site.check(2, "stale");

    // A head is all that it takes.
    let newest = site.fleet().tick();
    site.deliver(hidden);
    site.deliver(newest);
    site.waits_for("its mode", |status| status["mode"] == "online");
    assert_eq!(site.decide(&site.live.token, "low"), "revoked");
    site.deafen(false);
    site.live = site.begin();
    site.recovers();
}

#[test]
fn a_head_that_is_held_back_is_missed_where_the_service_names_it() {
    let mut site = Site::new();
    let hidden = site.fleet().heads(2);
    site.broker.cut();
    let status = site.waits_for("what is missing", |status| status["link"].to_string().contains("waiting for head 4"));
    assert_eq!((&status["feed_seq"], &status["mode"]), (&2.into(), &"offline".into()), "{status}");
    site.check(2, "offline");
    site.deliver(hidden);
    site.converges();
}

#[test]
fn nobody_is_driven_ahead_of_the_feed() {
    let mut site = Site::new();
    let ahead = |key: &SigningKey, era: u32, fleet: &Fleet| {
        let (set, id) = (RevocationSet::default(), fleet.book.feed());
        let successor = Successor {
            feed: &id,
            era,
            seq: 1_000_000,
            previous: Hash::ZERO,
            issued_at: fleet.at(),
            next_update_ms: Millis::from_secs(600),
            hard_stale_ms: Millis::from_secs(600),
            dropped_before: fleet.at(),
            set: &set,
            additions: &set,
            skips: &[],
            // One that is still to come would make it wait for that.
            bundle_version: 1,
            policy_version: 1_000_000,
        };
        successor.sign(fleet.book.fleet(), key).1.remove(0).to_bytes()
    };
    let stranger = SigningKey::from_bytes(&[66; 32]);
    let cases = [1, 2].map(|era| {
        ("far ahead, by a stranger", place("head", ahead(&stranger, era, &site.fleet())), "without this role")
    });
    refused_each(&mut site, cases, 2);
    let wrong_role = {
        let fleet = site.fleet();
        [&fleet.keys.service, &fleet.keys.operator, &fleet.keys.policy, &fleet.keys.issuer.key, &fleet.keys.root].map(
            |key| ("far ahead, by a key of another role", place("head", ahead(key, 1, &fleet)), "without this role"),
        )
    };
    refused_each(&mut site, wrong_role, 2);

    // A head of the fleet's own, from two hours ahead: it applies, is evidence, and makes nothing fresher nor later.
    let mut fleet = site.fleet();
    fleet.ahead = Millis::from_secs(7200);
    let messages = fleet.next_head();
    fleet.ahead = Millis(0);
    let now = fleet.at();
    drop(fleet);
    let before = site.device.get("/v1/status").unwrap();
    site.deliver(messages);
    site.applied(3);
    let refused = site.heard();
    assert_eq!(refused.len(), 0, "told before it was applied");
    let status = site.device.get("/v1/status").unwrap();
    let floor = status["clock"]["floor_s"].as_u64().unwrap();
    assert!(floor <= now.secs_ceil() + 60, "{status}");
    assert!(status["staleness_s"].as_u64() >= before["staleness_s"].as_u64(), "{before} {status}");
    site.check(3, "online");
    site.expect_evidence("signed time lies past the proven ceiling");
    site.recovers();
}

#[test]
fn two_heads_of_one_position_are_proof_and_the_first_one_counts() {
    let mut site = Site::new();
    let fork = forked(&mut site.fleet(), 2);
    let honest = site.fleet().heads(1);
    site.deliver(honest);
    site.applied(3);
    let head = |seq: u64| at(&fork, &format!("delta/{seq}")).1;
    let cases = [
        ("the same position", place("head", head(3)), "equivocation: position 3"),
        ("what follows it", place("head", head(4)), "equivocation: position 3"),
        ("in its own place", place("delta/3", head(3)), "equivocation: position 3"),
    ];
    refused_each(&mut site, cases, 3);
    site.recovers();
    site.expect_evidence("equivocation");
}

/// The other history comes first. The device takes it, since it is signed; then the fleet contradicts it.
#[test]
fn a_device_on_the_wrong_side_of_a_fork_says_so_and_comes_back() {
    let mut site = Site::new();
    let fork = forked(&mut site.fleet(), 1);
    site.deliver(fork);
    site.applied(3);
    let honest = site.fleet().heads(1);
    let refused = site.attack([at(&honest, "head")]);
    // An acknowledgement that comes just then names the fleet's own head, which is the same contradiction.
    let told = refused.iter().filter(|one| one.reason.contains("equivocation: position 3")).count();
    assert!(told > 0 && told == refused.len(), "{refused:?}");
    site.broker.cut();
    let status =
        site.waits_for("the contradiction", |status| status["link"].to_string().contains("another one is held"));
    assert_eq!((&status["feed_seq"], &status["mode"]), (&3.into(), &"offline".into()), "{status}");
    site.check(3, "offline");
    // The ladder leads on from the fleet's own head, which is not the one that is held: the whole set does.
    let more = site.fleet().heads(2);
    site.deliver(more);
    site.waits_for("the whole set", |status| status["feed_seq"] == 5);
    site.recovers();
    site.expect_evidence("equivocation");
}

#[test]
fn what_one_head_vouches_for_is_not_taken_with_another() {
    let mut site = Site::new();
    site.deafen(true);
    let hidden = site.fleet().heads(2);
    let other = {
        let mut owner = RevocationSet::default();
        owner.add_rule(Selector::owner("ops@acme"), site.fleet().at() + Millis::from_secs(3600));
        owner
    };
    let open = |rest: &str| Announcement::from_bytes(&at(&hidden, rest).1).unwrap();
    let (three, four, skip) = (open("delta/3"), open("delta/4"), open("skip/1/1"));
    let manifest = Snapshot::from_bytes(&at(&hidden, "snap/manifest/0").1).unwrap();
    let mixed = |announcement: Announcement| announcement.to_bytes();
    let cases = [
        (
            "the additions of another head",
            place("head", mixed(Announcement { additions: three.additions.clone(), ..four.clone() })),
            "does not match the announced digest",
        ),
        (
            "additions of nobody's",
            place("head", mixed(Announcement { additions: other.to_bytes(), ..four.clone() })),
            "does not match the announced digest",
        ),
        (
            "the additions of a skip with its head",
            place("head", mixed(Announcement { additions: skip.additions.clone(), ..four.clone() })),
            "does not match the announced digest",
        ),
        ("a skip in the place of the head", place("head", skip.to_bytes()), "wrong topic"),
        ("a skip in the place of a delta", place("delta/4", skip.to_bytes()), "wrong topic"),
        ("a delta in another's place", place("delta/3", four.to_bytes()), "wrong topic"),
        ("a delta in the place of a skip", place("skip/1/1", four.to_bytes()), "wrong topic"),
        ("a skip of another level", place("skip/2/1", skip.to_bytes()), "wrong topic"),
        (
            "a level that the head does not have",
            place("skip/2/0", mixed(Announcement { level: 2, ..skip.clone() })),
            "does not match the announced digest",
        ),
        (
            "the manifest with another head",
            place("snap/manifest/0", Snapshot { head: three.head.clone(), ..manifest.clone() }.to_bytes()),
            "does not match the announced digest",
        ),
        ("rules that no head names", place("rules", other.part(PartKey::Rules).unwrap()), ""),
        ("rules that are none", place("rules", vec![9; 100]), ""),
        ("the rules of no set", place("rules", Vec::new()), ""),
    ];
    refused_each(&mut site, cases, 2);
    // The head that comes then does not make those rules its own.
    site.deliver(hidden);
    site.applied(4);
    site.check(4, "online");
    site.recovers();
}

#[test]
fn bytes_that_are_forged_or_damaged_count_for_nothing() {
    let mut site = Site::new();
    site.deafen(true);
    let hidden = site.fleet().heads(2);
    let stranger = SigningKey::from_bytes(&[66; 32]);
    let head = at(&hidden, "delta/3").1;
    let forged = Announcement::from_bytes(&head).unwrap();
    let claim = forged.head.claim().unwrap();
    let resigned = |fleet: &Fleet, key: &SigningKey| {
        let signed = Signed::<Head>::sign(&claim, fleet.book.fleet(), &[key]);
        Announcement { head: signed, ..forged.clone() }.to_bytes()
    };
    let (cases, damaged) = {
        let fleet = site.fleet();
        let id = fleet.book.fleet();
        let bundle = TrustBundle { version: 2, ..fleet.book.trust().clone() };
        let policy = PolicyDocument { version: 2, ..fleet.book.policy().1.clone() };
        let passed = site.broker.passed();
        let last = |end: &str| passed.iter().rev().find(|(topic, _)| topic.ends_with(end)).unwrap().clone();
        let (ack, answer) = (last("down/ack"), last("down/answer"));
        let resign_ack = Signed::<Ack>::from_bytes(&ack.1).unwrap().claim().unwrap();
        let resign_answer = Signed::<Answer>::from_bytes(&answer.1).unwrap().claim().unwrap();
        let manifest = Snapshot::from_bytes(&at(&hidden, "snap/manifest/0").1).unwrap();
        let manifest = Snapshot { head: Signed::sign(&claim, id, &[&stranger]), ..manifest };
        let cases = [
            ("a head by a stranger", place("head", resigned(&fleet, &stranger)), "without this role"),
            ("a head by the service", place("head", resigned(&fleet, &fleet.keys.service)), "without this role"),
            ("a delta by the issuer", place("delta/3", resigned(&fleet, &fleet.keys.issuer.key)), "without this role"),
            ("a manifest by a stranger", place("snap/manifest/0", manifest.to_bytes()), "without this role"),
            (
                "a bundle by the feed",
                (fleet_topic("bundle/2"), Signed::sign(&bundle, id, &[&fleet.keys.feed]).to_bytes()),
                "without this role",
            ),
            (
                "a policy by the feed",
                (fleet_topic("policy/2"), Signed::sign(&policy, id, &[&fleet.keys.feed]).to_bytes()),
                "without this role",
            ),
            (
                "an acknowledgement by the feed",
                (ack.0, Signed::sign(&resign_ack, id, &[&fleet.keys.feed]).to_bytes()),
                "without this role",
            ),
            (
                "an answer by the feed",
                (answer.0, Signed::sign(&resign_answer, id, &[&fleet.keys.feed]).to_bytes()),
                "without this role",
            ),
            ("nothing", place("head", Vec::new()), "malformed"),
            ("a head cut short", place("head", head[..head.len() - 1].to_vec()), "malformed"),
            ("a head with something behind it", place("head", [&head[..], &[0]].concat()), "malformed"),
        ];
        let step = head.len() / 18;
        let damaged: Vec<Vec<u8>> = (0..head.len())
            .step_by(step)
            .map(|place| {
                let mut bytes = head.clone();
                bytes[place] ^= 1 << (place % 8);
                bytes
            })
            .collect();
        (cases, damaged)
    };
    refused_each(&mut site, cases, 2);
    let count = damaged.len();
    let refused = site.attack(damaged.into_iter().map(|bytes| place("head", bytes)));
    assert_eq!(refused.len(), count, "{refused:#?}");
    site.check(2, "online");
    site.recovers();
}

#[test]
fn another_fleets_messages_are_not_this_ones() {
    let mut site = Site::new();
    let mut cases = Vec::new();
    let feed = site.fleet().keys.feed.clone();
    for (name, seed) in [("acme", 90), ("other", 91)] {
        let mut other = Fleet::founded(name, seed, site.broker.port, CADENCE);
        let mut messages = other.connected();
        messages.extend(other.next_head());
        for (place, payload) in messages {
            let rest = place.split_once(&format!("{name}/")).unwrap().1.to_owned();
            if name == "other" && rest == "feed/main/head" {
                cases.push(("on its own topic", (place.clone(), payload.clone()), "wrong topic"));
                // Even by this feed's key: what is signed names the fleet.
                let announcement = Announcement::from_bytes(&payload).unwrap();
                let claim = announcement.head.claim().unwrap();
                let head = Signed::sign(&claim, other.book.fleet(), &[&feed]);
                let moved = Announcement { head, ..announcement }.to_bytes();
                cases.push(("by the same key", (fleet_topic(&rest), moved), "bad signature"));
            }
            let expected = match rest.as_str() {
                "feed/main/rules" => "",
                _ if rest.starts_with("feed/main/snap/exact/") => "",
                _ => "without this role",
            };
            cases.push(("another fleet's", (fleet_topic(&rest), payload), expected));
        }
    }
    refused_each(&mut site, cases, 2);
    site.recovers();
}

#[test]
fn each_thing_is_taken_in_its_own_place_alone() {
    let mut site = Site::new();
    site.deafen(true);
    let messages = site.fleet().heads(2);
    let kept = site.broker.retained();
    let passed = site.broker.passed();
    let last = |end: &str| passed.iter().rev().find(|(topic, _)| topic.ends_with(end)).unwrap().1.clone();
    let payloads = [
        at(&messages, "head").1,
        at(&messages, "skip/1/1").1,
        at(&messages, "snap/manifest/0").1,
        at(&messages, "snap/exact/0").1,
        kept[&fleet_topic("bundle/1")].clone(),
        kept[&fleet_topic("policy/1")].clone(),
        last("down/ack"),
        last("down/answer"),
    ];
    let own = ["head", "skip/1/1", "snap/manifest/0", "snap/exact/0"].map(topic);
    let others = ["bundle/2", "policy/2", "dev/gw-07/down/ack", "dev/gw-07/down/answer"].map(fleet_topic);
    let places = [&own[..], &others].concat();
    let foreign = ["dev/gw-08/down/ack", "dev/gw-07/up/hello", "dev/gw-07/state", "enrol/gw-07/down"].map(fleet_topic);
    let elsewhere = ["hardtack/1/acme/feed/other/head", "hardtack/2/acme/feed/main/head", "hardtack/1/acme", "x"];
    let (mut said, mut silent) = (Vec::new(), 0);
    for (number, payload) in payloads.iter().enumerate() {
        let mut wrong = places.clone();
        wrong.remove(number);
        // Pieces and manifests that nobody waits for are not looked into, nor is an unknown nonce's answer opened.
        silent += wrong.iter().filter(|place| place.contains("/snap/exact/")).count();
        said.extend(wrong.into_iter().map(|place| (place, payload.clone())));
    }
    said.extend(foreign.into_iter().chain(elsewhere.map(str::to_owned)).map(|place| (place, payloads[0].clone())));
    let refused = u64::try_from(said.len() - silent).unwrap();
    let before = site.refusals();
    site.flood(said);
    assert_eq!(site.refusals() - before, refused);
    site.check(2, "online");
    site.deliver(messages);
    site.recovers();
}

#[test]
fn endless_data_is_bounded() {
    let mut site = Site::new();
    let over = vec![7; MESSAGE_BYTES_MAX + 1];
    let cases = [
        ("a head", place("head", over.clone()), "too large"),
        ("rules", place("rules", over.clone()), "too large"),
        ("a piece", place("snap/exact/0", over.clone()), "too large"),
        ("a bundle", (fleet_topic("bundle/2"), over.clone()), "too large"),
        ("nobody's", (fleet_topic("x"), over), "too large"),
    ];
    refused_each(&mut site, cases, 2);
    let memory = site.memory();
    let whole = vec![7; MESSAGE_BYTES_MAX];
    let endless = (0..400_u32).flat_map(|number| {
        [
            place("rules", [&number.to_be_bytes(), &whole[4..]].concat()),
            place(&format!("snap/exact/{number}"), whole.clone()),
            (fleet_topic(&format!("bundle/{}", number + 100)), whole.clone()),
            (fleet_topic(&format!("endless/{number}")), whole.clone()),
        ]
    });
    site.flood(endless.collect());
    let grown = site.memory().saturating_sub(memory);
    assert!(grown < 16 * 1024, "{grown} KiB more for what nobody signed");
    assert!(site.refusals() >= 400);
    site.waits_for("its mode", |status| status["mode"] == "online");
    site.check(2, "online");

    // What no packet may be ends the connection, and nothing else.
    site.broker.say(place("head", vec![7; 256 * 1024]));
    site.device.agent.as_mut().unwrap().wait("link.down", |_| true).unwrap();
    site.waits_for("its mode", |status| status["mode"] == "online");
    site.recovers();
    let told = site.evidence();
    assert!(told.len() <= 40, "{} records", told.len());
}

#[test]
fn messages_in_any_order_lead_to_one_set() {
    let mut site = Site::new();
    let messages: Vec<Message> = (0..6).flat_map(|_| site.fleet().next_head()).collect();
    let count = messages.len();
    // Every third, round and round: each message twice, none beside its neighbour.
    let order = (0..count * 2).map(|n| messages[n * 7 % count].clone());
    let before = site.device.get("/v1/status").unwrap()["feed_seq"].clone();
    assert_eq!(before, 2);
    let refused = site.attack(order);
    assert!(refused.iter().all(|refusal| refusal.reason.contains("rolled back")), "{refused:?}");
    let status = site.device.get("/v1/status").unwrap();
    assert!((2..=8).contains(&status["feed_seq"].as_u64().unwrap()), "{status}");
    site.recovers();
}

#[test]
fn a_gap_does_not_keep_back_what_came_after_it() {
    let mut site = Site::new();
    let messages = site.fleet().heads(2);
    site.deliver(messages);
    site.applied(4);
    site.waits_for("its mode", |status| status["mode"] == "online");
    let later = site.begin();
    let lost = site.fleet().next_head();
    let block = site.fleet().block(&later.id);
    let seen = site.fleet().revoke(Target::Block(block));
    site.broker.keep(at(&seen, "delta/6"));
    site.broker.asked();
    let refused = site.attack([at(&seen, "head")]);
    assert_eq!(refused, []);
    assert_eq!(site.decide(&later.token, "low"), "revoked", "what is known counts at once");
    site.check(4, "offline");
    site.waits_for("that it asks for what is missing", |_| site.broker.asked().contains(&topic("delta/5")));
    // It comes after all: the device is subscribed to its place.
    site.broker.publish(at(&lost, "delta/5"));
    site.applied(6);

    // And one that never comes: a step over it does.
    let lost = site.fleet().heads(2);
    lost.iter().filter(|(place, _)| !place.contains("/delta/")).for_each(|message| site.broker.keep(message.clone()));
    site.attack([at(&lost, "head")]);
    site.applied(8);
    site.waits_for("its mode", |status| status["mode"] == "online");
    site.check(8, "online");
    assert_eq!(site.decide(&later.token, "low"), "revoked");
    site.recovers();
}

#[test]
fn a_broker_that_lost_what_it_kept_leaves_the_device_with_an_honest_position() {
    let mut site = Site::new();
    let kept = site.fleet().heads(3);
    kept.iter().for_each(|message| site.broker.keep(message.clone()));
    let steps = |place: &str| place.contains("/delta/") || place.contains("/skip/");
    site.broker.forget(steps);
    site.attack([at(&kept, "head")]);
    site.check(2, "offline");
    // Nothing of the ladder is there: the snapshot is.
    site.applied(5);
    site.waits_for("its mode", |status| status["mode"] == "online");
    site.check(5, "online");

    let more = site.fleet().heads(3);
    site.broker.forget(|place| place.starts_with(site::FEED));
    site.attack([at(&more, "head")]);
    site.waits_for("that it asks for the snapshot", |_| site.broker.asked().contains(&topic("snap/manifest/0")));
    site.check(5, "offline");
    let status = site.device.get("/v1/status").unwrap();
    assert!(status["reasons"].to_string().contains("list of a newer head"), "{status}");
    site.recovers();
}

/// The snapshot is what a device rests on that was away for long: each part of it is tampered with while it is read.
#[test]
fn a_snapshot_is_believed_piece_by_piece() {
    let mut site = Site::new();
    let (mut messages, evil) = {
        let mut fleet = site.fleet();
        // Many entries, so that a part has several pieces.
        (0..1200).for_each(|_| fleet.waits_for_head());
        let messages = fleet.tick();
        let endless = endless_manifest(&fleet);
        (messages, endless)
    };
    messages.retain(|(place, _)| !place.contains("/delta/") && !place.contains("/skip/"));
    let (pieces, mut others): (Vec<Message>, Vec<Message>) =
        messages.into_iter().partition(|(place, _)| place.contains("/snap/exact/"));
    assert!(pieces.len() > 1);
    let manifest = at(&others, "snap/manifest/0");
    others.retain(|(place, _)| *place != manifest.0);
    let head = at(&others, "head");
    site.broker.forget(|place| place.starts_with(site::FEED));
    site.broker.asked();
    site.attack([head]);
    site.waits_for("that it asks for the snapshot", |_| site.broker.asked().contains(&manifest.0));
    site.check(2, "offline");
    refuses(&mut site, "a manifest that claims 100 GB", place("snap/manifest/0", evil), "too large");
    let stale = Snapshot { manifest: vec![1], ..Snapshot::from_bytes(&manifest.1).unwrap() };
    refuses(&mut site, "an empty one", place("snap/manifest/0", stale.to_bytes()), "announced digest");
    site.broker.publish(manifest);
    let mut other = RevocationSet::default();
    other.add_exact(BlockId([9; 32]), Slot::of_day(site.fleet().at()));
    let piece = Manifest::of(&other).piece(&other, PartKey::Exact, 0).unwrap().to_bytes();
    let mut damaged = pieces[0].1.clone();
    *damaged.last_mut().unwrap() ^= 1;
    refuses(&mut site, "a piece of another set", place("snap/exact/0", piece), "announced digest");
    refuses(&mut site, "a damaged piece", place("snap/exact/0", damaged), "announced digest");
    // Pieces in each other's places say themselves which they are.
    let swapped = [(pieces[0].0.clone(), pieces[1].1.clone()), (pieces[1].0.clone(), pieces[0].1.clone())];
    assert_eq!(site.attack(swapped), []);
    site.deliver(pieces);
    site.deliver(others);
    let seq = site.fleet().seq();
    site.applied(seq);
    site.recovers();
}

/// A device that waits for a snapshot refuses this, and goes on waiting.
#[track_caller]
fn refuses(site: &mut Site, what: &str, message: Message, expected: &str) {
    let refused = site.attack([message]);
    assert!(matches!(&refused[..], [one] if one.reason.contains(expected)), "{what}: {refused:?}");
    site.check(2, "offline");
}

/// A snapshot of an earlier head, by the feed's own key, whose manifest claims 100 GB.
fn endless_manifest(fleet: &Fleet) -> Vec<u8> {
    let mut manifest = vec![1];
    for slot in 0..400_u32 {
        manifest.push(2);
        manifest.extend_from_slice(&(2 * (490_000 + slot)).to_be_bytes());
        // The longest length that a part may have.
        manifest.extend_from_slice(&[0xff, 0xff, 0xff, 0x7f]);
        manifest.extend_from_slice(&[7; 32]);
    }
    let read = Manifest::from_bytes(&manifest).unwrap();
    let newest = fleet.book.first().head().unwrap();
    let head = Head { root: read.root(), seq: 3, ..newest.head.clone() };
    let head = Signed::sign(&head, fleet.book.fleet(), &[&fleet.keys.feed]);
    Snapshot { head, manifest }.to_bytes()
}
