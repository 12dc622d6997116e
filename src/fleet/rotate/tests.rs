use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

use super::super::book::Life;
use super::super::hello;
use super::super::issue::{issue, Minting, Order};
use super::super::keys::Issuer as IssuerKey;
use super::super::publish::{feed, is_current, may_sign, retained};
use super::super::revoke::{revoke, Revocation};
use super::super::service::tests::{ask, at, device_keys, founded, new_grant, one_device, CADENCE};
use super::super::service::{ServiceKeys, Settings};
use super::super::{grant, policy, publish, FleetKeys, FleetLog, Service, Write};
use super::*;
use crate::agent::clock::Between;
use crate::agent::effects::Publish;
use crate::agent::revocation::Revocations;
use crate::ids::{BlockId, Hash};
use crate::time::Millis;
use crate::wire::envelope::Signed;
use crate::wire::link::Topic;
use crate::wire::policy::PolicyDocument;
use crate::wire::revocation::announcement::{Announcement, Snapshot, Successor, ADDITIONS_BYTES_MAX};
use crate::wire::revocation::rules::Selector;
use crate::wire::revocation::set::RevocationSet;
use crate::wire::revocation::{Position, Target};
use crate::wire::seal::SealingKey;
use crate::wire::token::Bearer;
use crate::wire::Refused;

fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

fn replace_key(
    (keys, book): (&FleetKeys, &mut Book),
    role: KeyRole,
    key: &SigningKey,
    cause: Cause,
    secs: u64,
) -> Rotated {
    let rotation = Rotation { role, key: &NewKey::of(role, key.as_bytes()), cause, roots: &keys.roots() };
    rotate(book, rotation, CADENCE, keys.operator("ann"), at(secs), &mut Effects::default()).unwrap()
}

fn revoke_owner(keys: &FleetKeys, book: &mut Book, owner: &str, secs: u64) {
    let rule = Revocation {
        target: Target::Owner(owner.into()),
        until: Some(at(90_000)),
        reason: "r".into(),
        life: None,
        device: None,
    };
    revoke(book, rule, keys.operator("ann"), at(secs), &mut Effects::default()).unwrap();
}

fn tell(device: &mut Revocations, book: &Book) -> Result<(), Refused> {
    device.follow(book.trust(), &"gw-07".parse().unwrap());
    let payload = book.first().newest().unwrap().to_bytes();
    device.announce(&book.feed(), &payload, book.trust(), Between::from(Timestamp(0))).map(|_| ())
}

fn at_position(device: &Revocations) -> (u32, u64) {
    device.positions()[0].order()
}

fn knows(device: &Revocations, owner: &str) -> bool {
    device.names(&Target::Owner(owner.into()), Timestamp(0))
}

fn stolen(book: &Book, feed: &SigningKey, seq: u64, owner: &str) -> Announcement {
    let mut set = RevocationSet::default();
    set.add_rule(Selector::owner(owner), at(90_000));
    let successor = Successor {
        feed: &book.feed(),
        era: 1,
        seq,
        previous: Hash::ZERO,
        issued_at: at(50),
        next_update_ms: Millis(1),
        hard_stale_ms: Millis(2),
        dropped_before: Timestamp(0),
        set: &set,
        additions: &set,
        skips: &[],
        bundle_version: 1,
        policy_version: 1,
    };
    successor.sign(book.fleet(), feed).1.remove(0)
}

/// A device that has no head of the feed, for it came to it just now, or its file rotted.
#[test]
fn a_leap_on_a_feed_without_a_head_revokes_is_told_and_is_kept() {
    let (keys, book, _, _) = one_device();
    let main = book.feed();
    let now = Between { floor: Timestamp(0), latest: at(60) };
    let theft = stolen(&book, &keys.feed, 1 << 60, "junk").to_bytes();
    let mut device = Revocations::default();
    let taken = device.announce(&main, &theft, book.trust(), now).unwrap();
    assert!(matches!(taken.refused, Some(Refused::LeapsAhead { known: 0, .. })), "{:?}", taken.refused);
    let applied = taken.applied.unwrap();
    assert_eq!((&applied.position, &applied.newest), (&None, &Position::none(&main)));
    let files = device.files();
    let mut restarted = Revocations::default();
    let content = applied.file.content;
    restarted.load(&main, (&content, None), book.trust(), (None, files[0].1)).unwrap();
    assert!(knows(&restarted, "junk"));
    // The same after its set was lost: what is known is where it stood, and it is still lost after the next start.
    let stood = Position { feed: main.clone(), era: 1, seq: 7, digest: Hash([7; 32]) };
    let mut device = Revocations::default();
    device.lose(stood.clone(), at(1));
    let applied = device.announce(&main, &theft, book.trust(), now).unwrap().applied.unwrap();
    assert_eq!(applied.newest, stood);
    let mut restarted = Revocations::default();
    let loaded =
        restarted.load(&main, (&applied.file.content, None), book.trust(), (Some(&stood), device.files()[0].1));
    assert_eq!(loaded, Err(Refused::RolledBack { offered: 0, known: 7 }));
    assert!(knows(&restarted, "junk"));
}

#[test]
fn a_stolen_feed_key_ends_with_its_era_and_devices_go_on_from_one() {
    let (keys, mut book, hello_of, _) = one_device();
    let fx = &mut Effects::default();
    let (mut met_thief, mut late) = (Revocations::default(), Revocations::default());
    tell(&mut met_thief, &book).unwrap();
    for (secs, owner) in [(2, "ann"), (3, "bob"), (4, "cy")] {
        revoke_owner(&keys, &mut book, owner, secs);
        assert!(publish::advance(&mut book, &keys.feed, CADENCE, at(secs), fx));
    }
    let theft = stolen(&book, &keys.feed, 60_000, "junk").to_bytes();
    let main = book.feed();
    met_thief.announce(&main, &theft, book.trust(), Between::from(Timestamp(0))).unwrap();
    assert!(!knows(&met_thief, "ann"), "the thief keeps it back");
    // The device says honestly what it has seen, and the fleet cannot follow.
    let mut said = hello_of(7);
    said.feeds[0].seq = 60_000;
    let signed = Signed::sign(&said, book.fleet(), &[&device_keys(1).identity]);
    hello::receive(&mut book, &said.device, &signed.to_bytes(), at(60), fx).unwrap();
    assert!(matches!(may_sign(&book, &keys.feed), Err(FleetError::Behind { .. })));

    let new = key(77);
    let before = publish::FeedAt::of(book.first());
    let rotated = replace_key((&keys, &mut book), KeyRole::Feed, &new, Cause::Compromised, 61);
    assert_eq!((rotated.bundle, rotated.dropped.len(), book.first().era()), (2, 1, 2));
    let head = book.first().head().unwrap();
    assert_eq!((head.position.order(), head.head.previous), ((2, 1), Hash::ZERO));
    assert!(matches!(may_sign(&book, &keys.feed), Err(FleetError::OtherKeys { role: "feed", bundle: 2 })));
    may_sign(&book, &new).unwrap();

    for device in [&mut met_thief, &mut late] {
        tell(device, &book).unwrap();
        assert_eq!(at_position(device), (2, 1), "the first head of the era is enough");
        assert!(["ann", "bob", "cy"].iter().all(|owner| knows(device, owner)), "with all that was revoked");
        let again = device.announce(
            &main,
            &stolen(&book, &keys.feed, 60_001, "x").to_bytes(),
            book.trust(),
            Between::from(at(0)),
        );
        assert!(matches!(again, Err(Refused::UnknownKey { .. })));
        let of_old_era = stolen(&book, &new, 60_001, "x").to_bytes();
        let again = device.announce(&main, &of_old_era, book.trust(), Between::from(at(0)));
        assert!(matches!(again, Err(Refused::RolledBack { offered: 1, known: 2 })));
    }
    assert!(knows(&met_thief, "junk") && !knows(&late, "junk"), "what was revoked stays revoked");

    // The broker is brought nothing of the old era, and the ladder leads on within the new one.
    check_era(&feed(&book.feed(), book.first(), Some(before)), 2);
    check_era(&retained(&book), 2);
    for secs in 100..109 {
        revoke_owner(&keys, &mut book, &format!("late-{secs}"), secs);
        assert!(publish::advance(&mut book, &new, CADENCE, at(secs), fx));
    }
    check_era(&retained(&book), 2);
    let mut missed = Revocations::default();
    for device in [&mut met_thief, &mut missed] {
        tell(device, &book).unwrap();
        let mut asked = 0;
        while let Some((_, crate::agent::feed::Wanted::Step(step))) = device.wanted().first().cloned() {
            let payload = book.first().step(2, step).unwrap().to_bytes();
            device
                .step(&main, Some((step.level, step.place())), &payload, book.trust(), Between::from(Timestamp(0)))
                .unwrap();
            asked += 1;
        }
        assert!(asked <= 6, "{asked} steps");
        assert_eq!(at_position(device), (2, 10));
        assert!(["ann", "cy", "late-100", "late-108"].iter().all(|owner| knows(device, owner)));
    }
    assert!(is_current(&book, at(109)));
}

/// Every head among messages is of this era.
#[track_caller]
fn check_era(messages: &[Publish], era: u32) {
    let mut heads = 0;
    for Publish { topic, payload } in messages {
        let head = match topic {
            Topic::FeedHead(_) | Topic::FeedDelta(..) | Topic::FeedSkip(..) => {
                Announcement::from_bytes(payload).unwrap().head
            }
            Topic::FeedManifest(_) => Snapshot::from_bytes(payload).unwrap().head,
            _ => continue,
        };
        assert_eq!(head.claim().unwrap().era, era, "{topic}");
        heads += 1;
    }
    assert!(heads >= 3, "head, step and manifest: {heads}");
}

#[test]
fn a_set_that_no_message_holds_reaches_a_new_era_as_a_snapshot() {
    let (keys, mut book) = founded();
    let fx = &mut Effects::default();
    for number in 0..6000_u32 {
        let target = Target::Block(BlockId(Hash::of("test", &[&number.to_be_bytes()]).0));
        let life = Life { issued: at(0), expires: at(86_000), serial: None };
        let rule = super::super::book::Rule {
            target,
            until: at(90_000),
            reason: "r".into(),
            at: at(1),
            life: Some(life),
            device: None,
        };
        book.write(Write::Rule(rule), fx);
    }
    while publish::advance(&mut book, &keys.feed, CADENCE, at(2), fx) {}
    assert!(book.first().set().to_bytes().len() > ADDITIONS_BYTES_MAX);
    revoke_owner(&keys, &mut book, "ann", 3);
    let new = key(77);
    replace_key((&keys, &mut book), KeyRole::Feed, &new, Cause::Compromised, 4);
    let mut device = Revocations::default();
    tell(&mut device, &book).unwrap();
    assert!(knows(&device, "ann"), "what is new counts at once");
    let main = book.feed();
    let messages = retained(&book);
    for message in &messages {
        match &message.topic {
            Topic::FeedManifest(_) => drop(device.snapshot(&main, &message.payload, book.trust(), at(0)).unwrap()),
            _ => continue,
        }
    }
    for message in &messages {
        match &message.topic {
            Topic::FeedPiece(..) => drop(device.piece(&main, &message.payload, at(0)).unwrap()),
            _ => continue,
        }
    }
    assert_eq!(at_position(&device), (2, 1));
    // The next head leads on from there, and whoever comes then finds the same way.
    revoke_owner(&keys, &mut book, "bob", 5);
    assert!(publish::advance(&mut book, &new, CADENCE, at(5), fx));
    tell(&mut device, &book).unwrap();
    assert_eq!(at_position(&device), (2, 2));
}

#[test]
fn a_planned_replacement_leaves_the_old_key_good_until_the_next() {
    let (keys, mut book) = founded();
    let fx = &mut Effects::default();
    let mut device = Revocations::default();
    tell(&mut device, &book).unwrap();
    let (second, third) = (key(78), key(79));
    let rotated = replace_key((&keys, &mut book), KeyRole::Feed, &second, Cause::Planned, 1);
    assert_eq!((rotated.dropped.len(), book.first().era()), (0, 1));
    tell(&mut device, &book).unwrap();
    assert_eq!(at_position(&device), (1, 2));
    revoke_owner(&keys, &mut book, "ann", 2);
    assert!(publish::advance(&mut book, &keys.feed, CADENCE, at(2), fx), "whoever serves still has the old one");
    tell(&mut device, &book).unwrap();
    let rotated = replace_key((&keys, &mut book), KeyRole::Feed, &third, Cause::Planned, 3);
    assert_eq!(rotated.dropped, [KeyId::of(keys.feed.verifying_key().as_bytes())]);
    tell(&mut device, &book).unwrap();
    assert!(!publish::advance(&mut book, &keys.feed, CADENCE, at(500), fx), "nobody would believe it");
    assert!(publish::advance(&mut book, &second, CADENCE, at(500), fx));
    tell(&mut device, &book).unwrap();
    assert_eq!(at_position(&device), (2, 2), "an era ends with its keys");
    let (third, stranger) = (NewKey::Signing(third), key(81));
    let again = Rotation { role: KeyRole::Feed, key: &third, cause: Cause::Planned, roots: &keys.roots() };
    assert!(rotate(&mut book, again, CADENCE, keys.operator("ann"), at(501), fx).is_err(), "the same key again");
    let fourth = NewKey::Signing(key(80));
    let by_another = Rotation { key: &fourth, roots: &[&stranger], ..again };
    let refused = rotate(&mut book, by_another, CADENCE, keys.operator("ann"), at(501), fx);
    assert!(matches!(refused, Err(FleetError::Refused { .. })), "no root key: {refused:?}");
    assert_eq!(book.trust().version, 3, "and nothing was changed");
}

#[test]
fn a_replaced_policy_key_signs_the_policy_anew_and_the_ledger_can_be_read() {
    let keys = FleetKeys::generate(&mut ChaCha20Rng::from_seed([9; 32]));
    let founding = super::super::enrol::Founding {
        fleet: "acme".parse().unwrap(),
        feed: "main".parse().unwrap(),
        broker: Default::default(),
        keys: &keys,
        operator: "ann",
        at: at(0),
        cadence: CADENCE,
    };
    let mut fx = Effects::default();
    let mut book = super::super::enrol::found(&founding, &mut fx).unwrap();
    for (seed, cause) in [(1, Cause::Planned), (2, Cause::Planned), (3, Cause::Compromised)] {
        let new = key(seed);
        let key = NewKey::Signing(new.clone());
        let rotation = Rotation { role: KeyRole::Policy, key: &key, cause, roots: &keys.roots() };
        rotate(&mut book, rotation, CADENCE, keys.operator("ann"), at(u64::from(seed)), &mut fx).unwrap();
        let (signed, document) = book.policy();
        signed.open(book.fleet(), [&new.verifying_key()], 1).unwrap();
        assert_eq!(document.version, u64::from(seed) + 1);
    }
    assert_eq!(book.trust().policy_version_min, 4, "what the stolen key signed is too old");
    let draft = PolicyDocument { dead_man_ms: Some(Millis(9)), ..book.policy().1.clone() };
    let refused = policy::set(&mut book, draft, &keys.policy, keys.operator("ann"), at(9), &mut fx);
    assert!(matches!(refused, Err(FleetError::OtherKeys { role: "policy", bundle: 4 })), "{refused:?}");
    let mut rows = Vec::new();
    fx.commit(|writes| {
        rows = writes;
        Ok::<(), ()>(())
    })
    .unwrap();
    assert_eq!(Book::load(rows).unwrap().policy().1.version, 4);
}

#[test]
fn tokens_of_a_replaced_issuer_are_good_until_the_next_and_its_grants_end_with_it() {
    let (keys, mut book, _, mut rng) = one_device();
    let fx = &mut Effects::default();
    let ann = keys.operator("ann");
    let granted = grant::create(&mut book, new_grant(), &keys.issuer, ann, at(2), &mut rng, fx).unwrap();
    let second = IssuerKey { root_key_id: next_root_key_id(&book), key: key(91) };
    assert_eq!(second.root_key_id, 2);
    let rotated = replace_key((&keys, &mut book), KeyRole::Issuer, &second.key, Cause::Planned, 3);
    assert!(rotated.dropped.is_empty() && rotated.withdrawn.is_empty());
    let names: Vec<u32> = book.trust().issuers.iter().map(|issuer| issuer.root_key_id).collect();
    assert_eq!(names, [2, 1]);
    grant::create(&mut book, new_grant(), &second, ann, at(4), &mut rng, fx).unwrap();
    let third = IssuerKey { root_key_id: next_root_key_id(&book), key: key(92) };
    let rotated = replace_key((&keys, &mut book), KeyRole::Issuer, &third.key, Cause::Planned, 5);
    assert_eq!((rotated.dropped.len(), rotated.withdrawn), (1, vec![granted]));
    let refused = grant::create(&mut book, new_grant(), &keys.issuer, ann, at(6), &mut rng, fx);
    assert!(matches!(refused, Err(FleetError::OtherKeys { role: "issuer", .. })), "{refused:?}");
    let minting = Minting { issuer: &keys.issuer, ttl_max: Millis(10_000), at: at(6) };
    let gw = Bearer::Device("gw-07".parse().unwrap());
    let order = Order { bearer: &gw, audience: None, ask: &ask() };
    let refused = issue(&mut book, order, minting, ann, &mut rng, fx);
    assert!(matches!(refused, Err(FleetError::OtherKeys { role: "issuer", .. })), "{refused:?}");
    let rotated = replace_key((&keys, &mut book), KeyRole::Issuer, &key(93), Cause::Compromised, 7);
    assert_eq!((rotated.dropped.len(), rotated.withdrawn.len()), (2, 1), "at once");
}

/// A service that runs has the keys that it began with.
#[test]
fn a_running_service_says_that_its_keys_were_replaced_and_signs_nothing_with_them() {
    let (keys, mut book, hello_of, _) = one_device();
    let with = |feed: &SigningKey, service: &SigningKey, book: &Book| {
        let issuer = IssuerKey { root_key_id: 1, key: keys.issuer.key.clone() };
        let collectors = vec![SealingKey::from_bytes(*keys.collector.to_bytes())];
        let keys = ServiceKeys { issuer, feed: feed.clone(), service: service.clone(), collectors };
        Service::start(keys, Settings::default(), [4; 32], book)
    };
    let mut running = with(&keys.feed, &keys.service, &book).unwrap();
    let done = |fx: Effects| fx.commit(|_| Ok::<(), ()>(())).unwrap();
    let mut fx = Effects::default();
    running.connected(&mut book, at(2), &mut fx);
    done(fx);
    let told = |logs: &[FleetLog]| {
        let replaced = logs.iter().filter_map(|log| match log {
            FleetLog::KeyReplaced { role, good, .. } => Some((*role, *good)),
            _ => None,
        });
        replaced.collect::<Vec<_>>()
    };
    let (feed, service) = (key(101), key(102));
    replace_key((&keys, &mut book), KeyRole::Service, &key(100), Cause::Planned, 3);
    let mut fx = Effects::default();
    running.tick(&mut book, at(3), &mut fx);
    assert_eq!(told(&done(fx).logs), [("service", true)]);
    replace_key((&keys, &mut book), KeyRole::Service, &service, Cause::Compromised, 4);
    replace_key((&keys, &mut book), KeyRole::Feed, &feed, Cause::Compromised, 5);
    let mut fx = Effects::default();
    running.tick(&mut book, at(5), &mut fx);
    let outgoing = done(fx);
    assert_eq!(told(&outgoing.logs), [("feed", false), ("service", false)]);
    let halted = outgoing.logs.iter().any(|log| matches!(log, FleetLog::FeedHalted { .. }));
    let topics: Vec<String> = outgoing.publish.iter().map(|publish| publish.topic.to_string()).collect();
    assert!(halted && topics.contains(&"bundle/4".to_owned()), "what ends the stolen key goes out: {topics:?}");
    assert!(topics.contains(&"feed/main/head".to_owned()), "with the first head of the new era");
    revoke_owner(&keys, &mut book, "ann", 6);
    let mut fx = Effects::default();
    running.tick(&mut book, at(6), &mut fx);
    let signed = Signed::sign(&hello_of(1), book.fleet(), &[&device_keys(1).identity]).to_bytes();
    running.message(
        &mut book,
        "hardtack/1/acme/dev/gw-07/up/hello",
        &signed,
        &|_, _, _| Default::default(),
        at(6),
        &mut fx,
    );
    let outgoing = done(fx);
    assert!(outgoing.publish.is_empty() && outgoing.logs.is_empty(), "said once, and nothing signed: {outgoing:?}");
    assert!(running.due_in(&book, at(500)) > Millis(0), "and nothing keeps it busy");
    assert_eq!(book.first().head().unwrap().position.order(), (2, 1));
    assert!(matches!(with(&keys.feed, &service, &book), Err(FleetError::OtherKeys { role: "feed", .. })));
    let mut restarted = with(&feed, &service, &book).unwrap();
    let mut fx = Effects::default();
    restarted.connected(&mut book, at(7), &mut fx);
    assert!(told(&done(fx).logs).is_empty());
    assert_eq!(book.first().head().unwrap().position.order(), (2, 2));
}
