//! Keys are replaced while a device is away, and keys that were stolen are survived.

use ed25519_dalek::SigningKey;

use super::*;
use crate::agent::effects::StateFile;
use crate::ids::FeedId;
use crate::wire::bundle::TrustBundle;
use crate::wire::envelope::Signed;
use crate::wire::revocation::announcement::{Announcement, Successor};
use crate::wire::revocation::set::RevocationSet;

/// Heads as whoever has a key signs them.
struct Signer {
    key: SigningKey,
    era: u32,
    bundle: u64,
}

impl Signer {
    fn head(&self, seq: u64, rules: &[Rule], at: Timestamp) -> Announcement {
        self.sum(seq, &set_of(rules), &set_of(rules), at)
    }

    fn sum(&self, seq: u64, set: &RevocationSet, additions: &RevocationSet, at: Timestamp) -> Announcement {
        let successor = Successor {
            feed: &main(),
            era: self.era,
            seq,
            previous: Hash::ZERO,
            issued_at: at,
            next_update_ms: Millis::from_secs(900),
            hard_stale_ms: Millis::from_secs(90 * 86_400),
            dropped_before: Timestamp(0),
            set,
            additions,
            skips: &[],
            bundle_version: self.bundle,
            policy_version: 1,
        };
        successor.sign(&"acme".parse().unwrap(), &self.key).1.remove(0)
    }
}

fn main() -> FeedId {
    "main".parse().unwrap()
}

/// Bundles 2, 3 and 4: another feed key in a new era, another root key, another feed key in another era.
fn bundles(rig: &Rig) -> Vec<(String, Vec<u8>)> {
    let bytes = &rig.disk.files[&StateFile::Bundle];
    let mut trust = Signed::<TrustBundle>::from_bytes(bytes).unwrap().claim().unwrap();
    let (old, new) = (&rig.root, &key(11));
    let mut next = |roots: &[&SigningKey], edit: &dyn Fn(&mut TrustBundle)| {
        trust.version += 1;
        edit(&mut trust);
        let topic = Topic::Bundle(trust.version).text(&rig.fleet);
        (topic, Signed::sign(&trust, &rig.fleet, roots).to_bytes())
    };
    let feed = |seed: u8, era: u32| {
        move |trust: &mut TrustBundle| {
            trust.feeds[0].keys = vec![key(seed).verifying_key().into()];
            trust.feeds[0].era = era;
        }
    };
    vec![
        next(&[old], &feed(41, 1)),
        next(&[old, new], &|trust| trust.roots = vec![new.verifying_key().into()]),
        next(&[new], &feed(42, 2)),
    ]
}

fn tell(rig: &mut Rig, announcement: &Announcement) {
    let topic = Topic::FeedHead(main()).text(&rig.fleet);
    rig.message(topic, announcement.to_bytes());
}

fn reached(rig: &Rig) -> (u64, u32, u64) {
    let position = rig.agent.revocations.positions().remove(0);
    (rig.agent.trust.version, position.era, position.seq)
}

fn refusals(rig: &Rig) -> Vec<String> {
    let records = rig.disk.records().into_iter();
    let told = records.filter_map(|record| match record.event {
        Event::Refused(refusal) => Some(refusal.reason),
        _ => None,
    });
    told.collect()
}

/// What was revoked before and what is revoked now, by the owners that rules name.
fn revoked(rig: &Rig, owner: &str) -> bool {
    rig.agent.revocations.names(&Target::Owner(owner.into()), rig.agent.clock.over())
}

fn of_owner(owner: &str) -> Rule {
    rule(Target::Owner(owner.into()))
}

#[test]
fn a_device_that_missed_every_replacement_gets_through_in_any_order() {
    let newest = Signer { key: key(42), era: 2, bundle: 4 };
    let orders = [[0, 1, 2, 3], [3, 2, 1, 0], [2, 3, 0, 1], [1, 3, 2, 0], [0, 2, 3, 1], [3, 0, 1, 2]];
    for order in orders {
        let mut rig = Rig::new();
        for (topic, payload) in bundles_and_rules(&mut rig) {
            rig.message(topic, payload);
        }
        assert!(revoked(&rig, "early"));
        rig.switch_off(3 * 86_400);
        let mut messages = bundles(&rig);
        let head = newest.head(1, &[of_owner("late")], rig.truth);
        messages.push((Topic::FeedHead(main()).text(&rig.fleet), head.to_bytes()));
        rig.named = (4, 1);
        rig.connect_only();
        for message in order {
            let (topic, payload) = messages[message].clone();
            rig.message(topic, payload);
        }
        rig.serve(Timestamp(0));
        assert_eq!(reached(&rig), (4, 2, 1), "{order:?}");
        assert!(revoked(&rig, "early") && revoked(&rig, "late"), "{order:?}");
        assert_eq!(refusals(&rig), Vec::<String>::new(), "{order:?}");
        assert!(rig.agent.uplink.is_online(), "{order:?}");
        rig.restart(Reboot::Process);
        assert_eq!(reached(&rig), (4, 2, 1), "{order:?}");
        assert!(revoked(&rig, "early") && revoked(&rig, "late"), "{order:?}");
    }
}

/// A connection, and a head of the first key that the device has taken.
fn bundles_and_rules(rig: &mut Rig) -> Vec<(String, Vec<u8>)> {
    rig.connect(Timestamp(0));
    let at = rig.truth;
    rig.publish(vec![of_owner("early")], at)
}

#[test]
fn a_head_that_names_a_bundle_which_there_is_not_is_refused_once_the_fleet_has_answered() {
    let mut rig = Rig::new();
    rig.connect_only();
    let stranger = Signer { key: key(66), era: 9, bundle: 99 };
    let head = stranger.head(1, &[of_owner("ops@acme")], rig.truth);
    tell(&mut rig, &head);
    assert_eq!(refusals(&rig).len(), 0, "it may be of a bundle that is on its way");
    rig.pass(20);
    rig.serve(Timestamp(0));
    let forged = refusals(&rig).into_iter().filter(|told| told.contains("without this role"));
    assert_eq!(forged.count(), 1, "{:?}", refusals(&rig));
    assert!(!revoked(&rig, "ops@acme"));
    assert_eq!(reached(&rig), (1, 0, 1));
}

#[test]
fn a_stolen_feed_key_is_survived_whatever_number_it_signed() {
    let mut rig = Rig::new();
    let honest = bundles_and_rules(&mut rig);
    for (topic, payload) in honest.clone() {
        rig.message(topic, payload);
    }
    let thief = Signer { key: key(4), era: 0, bundle: 1 };
    // It takes back what the fleet revoked, and revokes what it likes, as far ahead as it can.
    let stolen = thief.head(1 << 60, &[of_owner("anybody")], rig.truth);
    tell(&mut rig, &stolen);
    assert!(revoked(&rig, "anybody") && revoked(&rig, "early"));
    let second = bundles(&rig).remove(0);
    let (fleet, at) = (Signer { key: key(41), era: 1, bundle: 2 }, rig.truth);
    for restart in [false, true] {
        if restart {
            rig.restart(Reboot::Process);
            rig.connect_only();
            assert!(
                revoked(&rig, "anybody") && revoked(&rig, "early"),
                "a key that is gone had signed what is on disk"
            );
        }
        rig.message(second.0.clone(), second.1.clone());
    }
    let before = refusals(&rig).len();
    rig.message(honest[0].0.clone(), honest[0].1.clone());
    assert_eq!(refusals(&rig).len(), before, "the broker repeats what was taken when it was good");
    assert!(rig.agent.revocations.age(rig.agent.clock.powered()).unwrap().overdue, "and it makes nothing fresh");
    let head = thief.head((1 << 60) + 1, &[of_owner("nobody")], rig.truth);
    tell(&mut rig, &head);
    let other = Signer { era: 1, ..thief };
    let head = other.head(1 << 60, &[of_owner("nobody")], rig.truth);
    tell(&mut rig, &head);
    assert!(!revoked(&rig, "nobody"), "a key that was dropped");
    assert!(refusals(&rig)[before..].iter().any(|told| told.contains("without this role")), "{:?}", refusals(&rig));
    let ahead = Signer { key: key(41), era: 2, bundle: 2 };
    let head = ahead.head(1, &[of_owner("nobody")], rig.truth);
    tell(&mut rig, &head);
    assert!(!revoked(&rig, "nobody") && refusals(&rig).last().unwrap().contains("only the root keys begin one"));
    // The old era, signed with the new key: whoever has that is no help to the thief.
    let over = Signer { era: 0, ..ahead };
    let head = over.head(7, &[of_owner("nobody")], rig.truth);
    tell(&mut rig, &head);
    assert!(!revoked(&rig, "nobody"));

    tell(&mut rig, &fleet.head(1, &[of_owner("late")], at));
    assert_eq!(reached(&rig), (2, 1, 1));
    assert!(["early", "anybody", "late"].iter().all(|owner| revoked(&rig, owner)), "nothing is taken back");
    rig.restart(Reboot::Kernel);
    assert_eq!(reached(&rig), (2, 1, 1));
    assert!(["early", "anybody", "late"].iter().all(|owner| revoked(&rig, owner)), "and it is all on disk");
}

#[test]
fn what_a_thief_filled_leaves_room_for_the_new_era() {
    let mut rig = Rig::new();
    rig.connect(Timestamp(0));
    let thief = Signer { key: key(4), era: 0, bundle: 1 };
    let junk = |from: usize| (from..from + 500).map(|n| of_owner(&format!("owner-{n}"))).collect::<Vec<_>>();
    // As much as fits: one set as the complete one, and one beyond it whose rest never comes.
    let at = rig.truth;
    for (topic, payload) in rig.publish(junk(0), at) {
        rig.message(topic, payload);
    }
    let set = set_of(&junk(0));
    let head = thief.sum(1 << 60, &RevocationSet::default(), &set_of(&junk(1000)), rig.truth);
    tell(&mut rig, &head);
    let head = thief.sum((1 << 60) + 2, &set, &set_of(&junk(1100)), rig.truth);
    tell(&mut rig, &head);
    let (topic, payload) = bundles(&rig).remove(0);
    rig.message(topic, payload);
    assert!(!rig.agent.revocations.gathering(), "what the thief promised is not waited for");
    let fleet = Signer { key: key(41), era: 1, bundle: 2 };
    let late: Vec<Rule> = (0..500).map(|n| of_owner(&format!("late-{n}"))).collect();
    let head = fleet.head(1, &late, rig.truth);
    tell(&mut rig, &head);
    assert_eq!(reached(&rig), (2, 1, 1), "{:?}", refusals(&rig));
    assert!(revoked(&rig, "late-499") && revoked(&rig, "owner-1001"));
    rig.restart(Reboot::Process);
    assert_eq!(reached(&rig), (2, 1, 1));
    assert!(revoked(&rig, "late-499") && revoked(&rig, "owner-1001"));
}

/// The head whose set is complete was signed by a key that the bundle names no more, and the newest, incomplete, as well.
#[test]
fn a_feed_on_disk_outlives_the_keys_that_signed_it() {
    let mut rig = Rig::new();
    for (topic, payload) in bundles_and_rules(&mut rig) {
        rig.message(topic, payload);
    }
    let at = rig.truth;
    let gap = Signer { key: key(4), era: 0, bundle: 1 };
    let both = set_of(&[of_owner("early"), of_owner("beyond"), of_owner("missing")]);
    let incomplete = gap.sum(9, &both, &set_of(&[of_owner("beyond")]), at);
    tell(&mut rig, &incomplete);
    assert!(rig.agent.revocations.gathering() && revoked(&rig, "beyond"));
    let (topic, payload) = bundles(&rig).remove(0);
    rig.message(topic, payload);
    for reboot in [Reboot::Process, Reboot::Kernel] {
        rig.restart(reboot);
        assert_eq!(reached(&rig), (2, 0, 2), "it is not lost");
        assert_eq!(rig.agent.revocations.missing().count(), 0);
        assert!(revoked(&rig, "early") && revoked(&rig, "beyond"));
    }
    let fleet = Signer { key: key(41), era: 1, bundle: 2 };
    rig.connect_only();
    let head = fleet.head(1, &[of_owner("late")], rig.truth);
    tell(&mut rig, &head);
    assert_eq!(reached(&rig), (2, 1, 1));
    assert!(["early", "beyond", "late"].iter().all(|owner| revoked(&rig, owner)));
}
