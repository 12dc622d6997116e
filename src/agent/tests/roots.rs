//! Root keys change while a device is away, and whoever has too few of them is refused.

use ed25519_dalek::SigningKey;

use super::*;
use crate::agent::effects::StateFile;
use crate::wire::bundle::{Issuer, PublicKey, TrustBundle};
use crate::wire::envelope::Signed;

/// Makes one trust bundle after the other, from that which the device has.
struct Roots {
    trust: TrustBundle,
}

impl Roots {
    fn of(rig: &Rig) -> Self {
        let bytes = &rig.disk.files[&StateFile::Bundle];
        Self { trust: Signed::<TrustBundle>::from_bytes(bytes).unwrap().claim().unwrap() }
    }

    /// A next bundle that is not the fleet's next one.
    fn try_next(&self, roots: &[&SigningKey], edit: impl FnOnce(&mut TrustBundle)) -> (String, Vec<u8>) {
        let mut next = Self { trust: self.trust.clone() };
        next.next(roots, edit)
    }

    fn next(&mut self, roots: &[&SigningKey], edit: impl FnOnce(&mut TrustBundle)) -> (String, Vec<u8>) {
        self.trust.version += 1;
        edit(&mut self.trust);
        let signed = Signed::sign(&self.trust, &self.trust.fleet, roots);
        (Topic::Bundle(self.trust.version).text(&self.trust.fleet), signed.to_bytes())
    }
}

fn public(key: &SigningKey) -> PublicKey {
    key.verifying_key().into()
}

fn refused(rig: &Rig) -> usize {
    let records = rig.disk.records().into_iter();
    records.filter(|record| matches!(&record.event, Event::Refused(_))).count()
}

#[test]
fn a_device_that_was_away_walks_through_every_change_of_the_root_keys() {
    let names: Vec<SigningKey> = (0..5).map(|n| key(110 + n)).collect();
    let [a, b, c, d, e] = names.iter().collect::<Vec<_>>().try_into().unwrap();
    // Signed by 2 of 3 each, one root key replaced after the other; in every order of arrival.
    for order in [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]] {
        let mut rig = Rig::new();
        rig.connect(Timestamp(0));
        let mut roots = Roots::of(&rig);
        let old = rig.root.clone();
        let bundles = [
            roots.next(&[&old, a, b], |next| {
                next.roots = vec![public(a), public(b), public(c)];
                next.threshold = 2;
            }),
            // The second is lost.
            roots.next(&[a, c, d], |next| next.roots[1] = public(d)),
            roots.next(&[a, d, e], |next| next.roots[0] = public(e)),
            roots.next(&[c, e], |_| {}),
        ];
        rig.switch_off(3 * 86_400);
        rig.named = (5, 1);
        rig.connect_only();
        for at in order {
            let (topic, payload) = bundles[at].clone();
            rig.message(topic, payload);
        }
        rig.serve(Timestamp(0));
        assert_eq!((rig.agent.trust.version, refused(&rig)), (5, 0), "{order:?}");
        assert_eq!(rig.agent.trust.roots, [public(e), public(d), public(c)]);
        rig.restart(Reboot::Kernel);
        assert_eq!(rig.agent.trust.version, 5);
    }
}

/// A device of a fleet where two of these three must sign.
fn two_of_three([a, b, c]: [&SigningKey; 3]) -> (Rig, Roots) {
    let mut rig = Rig::new();
    rig.connect(Timestamp(0));
    let mut roots = Roots::of(&rig);
    let (topic, payload) = roots.next(&[&rig.root.clone(), a, b], |next| {
        next.roots = vec![public(a), public(b), public(c)];
        next.threshold = 2;
    });
    rig.message(topic, payload);
    assert_eq!(rig.agent.trust.version, 2);
    (rig, roots)
}

#[test]
fn a_trust_bundle_that_too_few_root_keys_signed_is_refused_and_recorded() {
    let (a, b, c, d) = (&key(110), &key(111), &key(112), &key(113));
    let first = Rig::new().root;
    let same = |_: &mut TrustBundle| {};
    let thief = |next: &mut TrustBundle| {
        next.roots = vec![public(d)];
        next.threshold = 1;
    };
    type Edit<'a> = &'a dyn Fn(&mut TrustBundle);
    let bad: [(&str, &[&SigningKey], Edit<'_>); 6] = [
        ("one of the old", &[a], &same),
        ("one of the old, twice", &[a, a], &same),
        ("one that is a root key no more", &[&first, a], &same),
        ("the new alone", &[d], &thief),
        ("the new and too few of the old", &[a, d], &thief),
        ("the old alone", &[a, b], &thief),
    ];
    for (what, signers, edit) in bad {
        let (mut rig, roots) = two_of_three([a, b, c]);
        let (topic, payload) = roots.try_next(signers, edit);
        rig.message(topic, payload);
        assert_eq!((rig.agent.trust.version, refused(&rig)), (2, 1), "{what}");
    }
    let (mut rig, mut roots) = two_of_three([a, b, c]);
    let (topic, payload) = roots.next(&[b, c, d], thief);
    rig.message(topic, payload);
    assert_eq!((rig.agent.trust.version, &rig.agent.trust.roots), (3, &vec![public(d)]));
}

#[test]
fn tokens_of_an_issuer_that_is_replaced_by_plan_are_good_beside_those_of_the_next() {
    let mut rig = Rig::new();
    rig.connect(Timestamp(0));
    let (old, new) = (rig.issuer.clone(), key(120));
    let before = to_text(&mint_task(&spec("gw-07"), &old, 7, &mut rig.rng).unwrap());
    let (topic, payload) = rig.bundle(|next| {
        next.issuers.insert(0, Issuer { root_key_id: 8, key: public(&new) });
    });
    rig.message(topic, payload);
    let after = to_text(&mint_task(&spec("gw-07"), &new, 8, &mut rig.rng).unwrap());
    for token in [&before, &after, &before] {
        check(&mut rig, token, "open", "door/1", Reason::Allowed);
    }
    let crossed = to_text(&mint_task(&spec("gw-07"), &new, 7, &mut rig.rng).unwrap());
    check(&mut rig, &crossed, "open", "door/1", Reason::BadSignature);
    let (topic, payload) = rig.bundle(|next| next.issuers.truncate(1));
    rig.message(topic, payload);
    check(&mut rig, &before, "open", "door/1", Reason::UnknownRoot);
    check(&mut rig, &after, "open", "door/1", Reason::Allowed);
}
