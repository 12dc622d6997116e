use proptest::prelude::*;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

use super::super::acts::Act;
use super::super::enrol::{found, Founding};
use super::super::rotate::{self, NewKey};
use super::super::service::tests::{at, one_device, CADENCE};
use super::super::{restore, roots, FleetKeys};
use super::*;
use crate::ids::GroupId;
use crate::wire::bundle::{EmergencyKey, Feed, Issuer, PublicKey};
use crate::wire::seal::SealingPublic;

fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

fn public(key: &SigningKey) -> PublicKey {
    key.verifying_key().into()
}

/// A fleet with so many root keys, of which so many must sign, and what was written.
fn fleet_of(roots: usize, threshold: u8) -> (FleetKeys, Book, Effects) {
    let keys = FleetKeys::generate_with((roots, threshold), &mut ChaCha20Rng::from_seed([5; 32])).unwrap();
    let founding = Founding {
        fleet: "acme".parse().unwrap(),
        feed: "main".parse().unwrap(),
        broker: Default::default(),
        keys: &keys,
        operator: "ann",
        at: at(0),
        cadence: CADENCE,
    };
    let mut fx = Effects::default();
    let book = found(&founding, &mut fx).unwrap();
    (keys, book, fx)
}

fn acts_of(fx: Effects) -> Vec<Signed<Act>> {
    let mut acts = Vec::new();
    let taken = fx.commit(|writes| {
        acts.extend(writes.into_iter().filter_map(|write| match write {
            Write::Act(_, signed) => Some(signed),
            _ => None,
        }));
        Ok::<(), ()>(())
    });
    taken.unwrap();
    acts
}

fn submit(book: &mut Book, keys: &FleetKeys, proposal: &Proposal, hands: Hands<'_>) -> Result<Rotated, FleetError> {
    submit_bundle(book, proposal, hands, CADENCE, keys.operator("ann"), at(50), &mut Effects::default())
}

/// The proposal with the signature of one more key, as it comes back from another machine.
fn signed_by(proposal: &Proposal, key: &SigningKey) -> Proposal {
    let mut copy = Proposal::from_bytes(&proposal.to_bytes()).unwrap();
    let fleet = copy.open().unwrap().before.fleet;
    copy.countersign(&fleet, key);
    copy
}

#[test]
fn two_of_three_sign_on_machines_of_their_own_and_devices_follow() {
    let (keys, mut book, _) = fleet_of(3, 2);
    let roots = keys.roots();
    let device = book.trust().clone();
    let new = key(70);
    let next = rotate::draft(&book, KeyRole::Feed, public(&new).as_bytes(), Cause::Compromised, at(9)).unwrap();
    let asked = propose(&book, &next, Cause::Compromised, &[]).unwrap();
    let hands = Hands { feed: Some(&new), policy: None };
    let none = submit(&mut book, &keys, &asked, hands);
    assert!(matches!(&none, Err(FleetError::Unsigned(told)) if told.contains("2 of the 3")), "{none:?}");
    let (first, third) = (signed_by(&asked, roots[0]), signed_by(&asked, roots[2]));
    let one = submit(&mut book, &keys, &merge([first.clone(), first.clone()]).unwrap(), hands);
    assert!(matches!(&one, Err(FleetError::Unsigned(told)) if told.contains("1 more of: 2 (")), "{one:?}");
    let merged = merge([asked.clone(), third, first]).unwrap();
    let unable = submit(&mut book, &keys, &merged, Hands::default());
    assert!(matches!(&unable, Err(FleetError::Invalid(why)) if why.contains("feed")), "{unable:?}");
    assert_eq!(book.trust().version, 1, "nothing was changed");
    let rotated = submit(&mut book, &keys, &merged, hands).unwrap();
    assert_eq!((rotated.bundle, rotated.dropped.len(), book.first().era()), (2, 1, 2));
    assert_eq!(device.successor(&book.bundles()[1]).unwrap(), *book.trust());
    assert_eq!(book.first().head().unwrap().position.order(), (2, 1), "whoever has the new key has signed a head");
    assert_eq!(standing(&book, &merged), Ok(Standing::InForce), "and again, nothing is to be done");
}

#[test]
fn a_proposal_that_the_ledger_has_left_behind_or_never_knew_is_refused() {
    let (keys, mut book, _) = fleet_of(3, 2);
    let roots = keys.roots();
    let draft = |book: &Book, seed: u8| {
        rotate::draft(book, KeyRole::Service, public(&key(seed)).as_bytes(), Cause::Planned, at(9)).unwrap()
    };
    let propose = |book: &Book, seed| propose(book, &draft(book, seed), Cause::Planned, &roots[..2]).unwrap();
    let (one, other) = (propose(&book, 71), propose(&book, 72));
    assert!(matches!(merge([one.clone(), other.clone()]), Err(FleetError::Refused { .. })));
    submit(&mut book, &keys, &one, Hands::default()).unwrap();
    let late = submit(&mut book, &keys, &other, Hands::default());
    assert_eq!(late, Err(FleetError::MovedOn { before: 1, own: 2 }));
    let again = submit(&mut book, &keys, &one, Hands::default());
    assert!(matches!(again, Err(FleetError::Invalid(_))), "{again:?}");
    let (_, stranger, _) = fleet_of(2, 1);
    let foreign = standing(&stranger, &one);
    assert!(
        matches!(foreign, Err(FleetError::Refused { refused: Refused::WrongFleet, .. })),
        "of the same name: {foreign:?}"
    );
    let mut ahead = draft(&book, 73);
    ahead.version += 1;
    assert!(super::propose(&book, &ahead, Cause::Planned, &roots).is_err(), "not N+1");
    let mut older = draft(&book, 73);
    older.feeds[0].era = 0;
    assert!(super::propose(&book, &older, Cause::Planned, &roots).is_err(), "an era that goes back");
}

#[test]
fn root_keys_are_replaced_by_both_thresholds_and_a_lost_one_is_not_needed() {
    let (keys, mut book, _) = fleet_of(3, 2);
    let all = keys.roots();
    let genesis = book.trust().clone();
    let new = key(80);
    // The second is lost.
    let next = roots::replace(&book, 2, public(&new), at(9)).unwrap();
    let old_alone = propose(&book, &next, Cause::Planned, &[all[0], all[1]]).unwrap();
    let lacks = submit(&mut book, &keys, &old_alone, Hands::default());
    assert!(matches!(&lacks, Err(FleetError::Unsigned(told)) if told.contains("1 more of")), "{lacks:?}");
    let new_alone = propose(&book, &next, Cause::Planned, &[all[0], &new]).unwrap();
    assert!(matches!(submit(&mut book, &keys, &new_alone, Hands::default()), Err(FleetError::Unsigned(_))));
    let both = propose(&book, &next, Cause::Planned, &[all[0], all[2], &new]).unwrap();
    let rotated = submit(&mut book, &keys, &both, Hands::default()).unwrap();
    assert_eq!(rotated.dropped, [KeyId::of(public(all[1]).as_bytes())]);
    // The new one signs from now on, the lost one does not, and the chain leads on from version 1.
    let third = key(81);
    let next = roots::replace(&book, 1, public(&third), at(10)).unwrap();
    let by_lost = propose(&book, &next, Cause::Planned, &[all[1]]);
    assert!(matches!(by_lost, Err(FleetError::Refused { .. })), "no root key any more: {by_lost:?}");
    let asked = propose(&book, &next, Cause::Planned, &[&new, all[2], &third]).unwrap();
    assert_eq!(asked.vouchers.len(), 2);
    assert_eq!(asked.open().unwrap().fingerprint, genesis.fingerprint());
    submit(&mut book, &keys, &asked, Hands::default()).unwrap();
    let mut device = genesis;
    for bundle in &book.bundles()[1..] {
        device = device.successor(bundle).unwrap();
    }
    assert_eq!(device, *book.trust());
    for bad in [0, 4] {
        assert!(roots::replace(&book, bad, public(&key(82)), at(11)).is_err(), "there is no root key {bad}");
    }
    assert!(roots::replace(&book, 1, public(&new), at(11)).is_err(), "one key twice");
}

#[test]
fn one_root_key_grows_into_two_of_three_and_back() {
    let (keys, mut book, _) = fleet_of(1, 1);
    let (second, third) = (key(80), key(81));
    let fresh = [public(&second), public(&third)];
    for (of, threshold) in [(0, 1), (3, 0), (3, 4), (9, 2)] {
        assert!(roots::reshape(&book, (of, threshold), &fresh, at(9)).is_err(), "{threshold} of {of}");
    }
    assert!(roots::reshape(&book, (3, 2), &fresh[..1], at(9)).is_err(), "one new key is missing");
    assert!(roots::reshape(&book, (1, 1), &[], at(9)).is_err(), "nothing changes");
    let next = roots::reshape(&book, (3, 2), &fresh, at(9)).unwrap();
    let asked = propose(&book, &next, Cause::Planned, &[&keys.root]).unwrap();
    assert!(matches!(submit(&mut book, &keys, &asked, Hands::default()), Err(FleetError::Unsigned(_))));
    submit(&mut book, &keys, &signed_by(&asked, &third), Hands::default()).unwrap();
    assert_eq!((book.trust().threshold, book.trust().roots.len()), (2, 3));
    let back = roots::reshape(&book, (1, 1), &[], at(10)).unwrap();
    let asked = propose(&book, &back, Cause::Planned, &[&keys.root]).unwrap();
    let lacks = submit(&mut book, &keys, &asked, Hands::default());
    assert!(matches!(lacks, Err(FleetError::Unsigned(_))), "the threshold before counts");
    submit(&mut book, &keys, &signed_by(&asked, &second), Hands::default()).unwrap();
    assert_eq!(book.trust().roots, [public(&keys.root)]);
}

#[test]
fn acts_are_judged_by_the_operators_key_of_their_time() {
    let (mut keys, mut book, mut fx) = fleet_of(1, 1);
    let (old, second, third) = (keys.operator.clone(), key(90), key(91));
    let copy = book.clone();
    let rule = |owner: &str| super::super::revoke::Revocation {
        target: crate::wire::revocation::Target::Owner(owner.into()),
        until: Some(at(900)),
        reason: "r".into(),
        life: None,
        device: None,
    };
    let turn = |book: &mut Book, key: &SigningKey, cause, by: &SigningKey, fx: &mut Effects| {
        let by = Operator { name: "ann", key: by };
        let new = NewKey::Signing(key.clone());
        let rotation = rotate::Rotation { role: KeyRole::Operator, key: &new, cause, roots: &[&keys.root] };
        rotate::rotate(book, rotation, CADENCE, by, at(9), fx)
    };
    turn(&mut book, &second, Cause::Planned, &old, &mut fx).unwrap();
    let still = Operator { name: "ann", key: &old };
    super::super::revoke::revoke(&mut book, rule("planned"), still, at(10), &mut fx).unwrap();
    // Who answers for it must be one whom the new bundle names.
    let gone = turn(&mut book.clone(), &third, Cause::Compromised, &second, &mut Effects::default());
    assert!(matches!(gone, Err(FleetError::OtherKeys { role: "operator", .. })), "{gone:?}");
    turn(&mut book, &third, Cause::Compromised, &third, &mut fx).unwrap();
    let refused = super::super::revoke::revoke(&mut book, rule("late"), still, at(11), &mut Effects::default());
    assert!(matches!(refused, Err(FleetError::OtherKeys { role: "operator", bundle: 3 })), "{refused:?}");
    keys.operator = third;
    super::super::revoke::revoke(&mut book, rule("new"), keys.operator("ann"), at(12), &mut fx).unwrap();
    // A copy of before is put back: it learns the bundles, and with them the operator's key of now.
    let (mut restored, mut late) = (copy, Effects::default());
    restore::mark(&mut restored, Some(&book), Hash::ZERO, keys.operator("ann"), at(13), &mut late).unwrap();

    let acts = acts_of(fx);
    let opened = acts::verify(book.trusts(), &acts).unwrap();
    let roles = opened.iter().filter(|act| matches!(act.deed, Deed::Rotated { role: KeyRole::Operator, .. }));
    assert_eq!((opened.len(), roles.count()), (5, 2));
    let mut of_copy = vec![acts[0].clone()];
    of_copy.extend(acts_of(late));
    acts::verify(restored.trusts(), &of_copy).unwrap();
    // The stolen key, put to an act after it went.
    let mut forged = acts.clone();
    let act = Act { operator: "bob".into(), ..opened[4].clone() };
    for stolen in [&old, &second] {
        forged[4] = Signed::sign(&act, book.fleet(), &[stolen]);
        assert!(matches!(acts::verify(book.trusts(), &forged), Err((4, Refused::UnknownKey { .. }))));
    }
    // Nor does an act that claims an earlier bundle bring the old key back.
    let act = Act { deed: Deed::Trusted { bundle: 2, digest: Hash::ZERO }, ..opened[4].clone() };
    forged[4] = Signed::sign(&act, book.fleet(), &[&second]);
    assert!(matches!(acts::verify(book.trusts(), &forged), Err((4, Refused::RolledBack { offered: 2, known: 3 }))));
}

#[test]
fn a_new_collector_key_is_named_and_on_record() {
    let (keys, mut book, mut fx) = fleet_of(1, 1);
    let new = NewKey::of(KeyRole::Collector, &[9; 32]);
    let rotation =
        rotate::Rotation { role: KeyRole::Collector, key: &new, cause: Cause::Compromised, roots: &keys.roots() };
    let done = rotate::rotate(&mut book, rotation, CADENCE, keys.operator("ann"), at(9), &mut fx).unwrap();
    assert_eq!(done.dropped, [KeyId::of(&keys.collector.public().0)]);
    assert_eq!(book.trust().collector.0, new.public());
    let again = rotate::rotate(&mut book, rotation, CADENCE, keys.operator("ann"), at(9), &mut Effects::default());
    assert!(matches!(again, Err(FleetError::Invalid(_))), "{again:?}");
    let opened = acts::verify(book.trusts(), &acts_of(fx)).unwrap();
    let told =
        |act: &Act| matches!(act.deed, Deed::Rotated { role: KeyRole::Collector, cause: Cause::Compromised, .. });
    assert!(told(&opened[1]), "{:?}", opened[1]);
}

#[test]
fn a_reset_gathers_the_threshold_for_one_device_and_one_nonce() {
    let (_, mut book, _, _) = one_device();
    let (second, third) = (key(80), key(81));
    let keys = FleetKeys::generate(&mut super::super::service::tests::rng(200));
    let next = roots::reshape(&book, (3, 2), &[public(&second), public(&third)], at(9)).unwrap();
    let asked = propose(&book, &next, Cause::Planned, &[&keys.root, &second]).unwrap();
    submit(&mut book, &keys, &asked, Hands::default()).unwrap();
    let (gw, nonce): (DeviceId, _) = ("gw-07".parse().unwrap(), Nonce([7; 16]));
    let now = Reading { time: at(100), radius: crate::time::Millis(500) };
    assert!(propose_reset(&book, (&"gw-99".parse().unwrap(), nonce), now, &[]).is_err());
    let asked = propose_reset(&book, (&gw, nonce), now, &[&third]).unwrap();
    let acts = book.next_act().0;
    let by = keys.operator("ann");
    let lacks = submit_reset(&mut book, &asked, by, at(200), &mut Effects::default());
    assert!(matches!(lacks, Err(FleetError::Unsigned(_))), "{lacks:?}");
    let told = words(&asked.open().unwrap()).join("\n");
    assert!(told.contains("device gw-07") && told.contains(&at(100).to_string()) && told.contains(&nonce.to_string()));
    let whole = merge([signed_by(&asked, &keys.root), asked.clone()]).unwrap();
    let strange = submit(&mut book, &keys, &whole, Hands::default());
    assert!(matches!(strange, Err(FleetError::Invalid(_))), "{strange:?}");
    assert_eq!(book.next_act().0, acts, "what was not signed is not told");
    // A bundle that leaves the root keys as they are is no reason to ask again; one that changes them is.
    let next = rotate::draft(&book, KeyRole::Service, public(&key(60)).as_bytes(), Cause::Planned, at(9)).unwrap();
    let other = propose(&book, &next, Cause::Planned, &[&keys.root, &third]).unwrap();
    submit(&mut book, &keys, &other, Hands::default()).unwrap();
    let TimeFile::Reset(signed) = submit_reset(&mut book, &whole, by, at(200), &mut Effects::default()).unwrap() else {
        panic!("no reset")
    };
    let opened = signed.open(book.fleet(), book.trust().root_keys(), 2).unwrap();
    assert_eq!((opened.device, opened.nonce, opened.time), (gw, nonce, at(100)));
    assert!(book.next_act().0 > acts);
    let next = roots::replace(&book, 3, public(&key(83)), at(9)).unwrap();
    let other = propose(&book, &next, Cause::Planned, &[&keys.root, &second]).unwrap();
    submit(&mut book, &keys, &other, Hands::default()).unwrap();
    let late = submit_reset(&mut book, &whole, by, at(201), &mut Effects::default());
    assert!(matches!(late, Err(FleetError::MovedOn { .. })), "{late:?}");
}

/// Whatever a bundle changes, whoever signs it is told.
#[test]
fn every_change_has_its_words() {
    let (keys, book, _) = fleet_of(3, 2);
    let told = |next: &TrustBundle| {
        let asked = propose(&book, next, Cause::Planned, &[]).unwrap();
        words(&asked.open().unwrap())
    };
    let plain = told(&draft(&book, at(9), |_| Ok(())).unwrap());
    assert_eq!(plain.len(), 2, "{plain:?}");
    let new = public(&key(70));
    let group = |text: &str| text.parse::<GroupId>().unwrap();
    type Edit<'a> = &'a dyn Fn(&mut TrustBundle);
    let edits: [(&str, Edit<'_>); 20] = [
        ("root keys: 1 of 3", &|next| next.threshold = 1),
        ("- root key", &|next| next.roots.truncate(2)),
        ("root key: the same in another order", &|next| next.roots.swap(0, 1)),
        ("+ issuer key", &|next| next.issuers.push(Issuer { root_key_id: 9, key: new })),
        ("number 9", &|next| next.issuers[0].root_key_id = 9),
        ("policy key in use", &|next| next.policy.insert(0, new)),
        ("+ service key", &|next| next.service.push(new)),
        ("- operator key", &|next| next.operators.clear()),
        ("+ emergency key of ann", &|next| next.emergency.push(EmergencyKey { operator: "ann".into(), key: new })),
        ("+ collector key", &|next| next.collector = SealingPublic([3; 32])),
        ("+ key of feed main", &|next| next.feeds[0].keys.push(new)),
        ("begins era 7", &|next| next.feeds[0].era = 7),
        ("+ feed other, of groups pumps", &|next| {
            next.groups.insert(group("pumps"), Vec::new());
            let groups = vec![group("pumps")];
            next.feeds.push(Feed { id: "other".parse().unwrap(), era: 1, keys: vec![new], groups, since: 0 });
        }),
        ("come to feed main", &|next| next.feeds[0].since = next.version),
        ("+ group pumps", &|next| drop(next.groups.insert(group("pumps"), Vec::new()))),
        ("+ group pumps: device gw-07", &|next| {
            drop(next.groups.insert(group("pumps"), vec!["gw-07".parse().unwrap()]));
        }),
        ("policies before version 5", &|next| next.policy_version_min = 5),
        (r#"+ broker "mqtt://\u{1b}[2J""#, &|next| next.broker.urls.push("mqtt://\u{1b}[2J".into())),
        ("+ broker authority", &|next| next.broker.authorities.push(vec![1, 2, 3])),
        ("1970", &|next| next.not_after = Timestamp(1)),
    ];
    for (word, edit) in edits {
        let next = draft(&book, at(9), |next| {
            edit(next);
            Ok(())
        });
        let lines = told(&next.unwrap());
        assert!(lines.iter().any(|line| line.contains(word)), "{word}: {lines:?}");
        assert!(lines != plain && lines.iter().all(|line| !line.contains(char::is_control)), "{lines:?}");
    }
    let many = draft(&book, at(9), |next| {
        let devices = (0..500).map(|n| format!("gw-{n}").parse().unwrap()).collect();
        next.groups.insert(group("pumps"), devices);
        Ok(())
    });
    let lines = told(&many.unwrap());
    let told = |n: u32| lines.iter().any(|line| line.ends_with(&format!("pumps: device gw-{n}")));
    assert!((0..500).all(told), "nobody signs what he was not shown: {lines:?}");
    assert_eq!(keys.roots().len(), 3);
}

/// A proposal that two of three have signed, after a change of the root keys.
fn sample() -> Proposal {
    let (keys, mut book, _) = fleet_of(3, 2);
    let (all, new) = (keys.roots(), key(80));
    let next = roots::replace(&book, 2, public(&new), at(9)).unwrap();
    let asked = propose(&book, &next, Cause::Planned, &[all[0], all[2], &new]).unwrap();
    submit(&mut book, &keys, &asked, Hands::default()).unwrap();
    let next = rotate::draft(&book, KeyRole::Issuer, public(&key(70)).as_bytes(), Cause::Planned, at(10)).unwrap();
    propose(&book, &next, Cause::Planned, &[all[0], &new]).unwrap()
}

#[test]
fn a_cut_or_changed_proposal_is_refused_or_says_the_same() {
    let sample = sample();
    let (bytes, opened) = (sample.to_bytes(), sample.open().unwrap());
    assert_eq!(Proposal::from_bytes(&bytes), Ok(sample));
    for place in 0..bytes.len() {
        assert!(Proposal::from_bytes(&bytes[..place]).is_err(), "cut at {place}");
        let mut changed = bytes.clone();
        changed[place] ^= 1 << (place % 8);
        // What nobody signs is whether the old key was said to be stolen, and who else has signed a bundle of before.
        if let Ok(other) = Proposal::from_bytes(&changed).and_then(|changed| changed.open()) {
            assert_eq!((other.subject, other.before), (opened.subject.clone(), opened.before.clone()), "byte {place}");
            assert_eq!((other.fingerprint, other.signers), (opened.fingerprint, opened.signers.clone()));
        }
    }
    assert!(Proposal::from_bytes(&vec![0; PROPOSAL_BYTES_MAX + 1]).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn vouchers_hold_together_in_their_order_only(order in proptest::collection::vec(0_usize..2, 0..5)) {
        let sample = sample();
        let vouchers = order.iter().map(|at| sample.vouchers[*at].clone()).collect();
        let opened = Proposal { vouchers, ..sample }.open();
        prop_assert_eq!(opened.is_ok(), order == [0, 1], "{:?}", order);
    }
}
