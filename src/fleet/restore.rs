//! A copy of the ledger takes the ledger's place.
//!
//! Owns: what such a ledger has to be told about itself, and what it does not know that the one before it did; that no trust
//! bundle is made where the fleet may have one of that number already; taking in those that others keep.
//! Never: lets a copy sign before somebody has vouched for what it lost; `publish.rs` refuses that. Believes a trust bundle
//! that the one before does not vouch for.
//! Read next: `publish.rs`.

use serde::{Deserialize, Serialize};

use super::acts::{self, Deed};
use super::book::{Book, Restored, Rule, Write};
use super::{proposal, publish, Effects, FleetError, Operator};
use crate::ids::{DeviceId, FeedId, GrantId, Hash};
use crate::time::Timestamp;
use crate::wire::bundle::{PublicKey, TrustBundle};
use crate::wire::encode;
use crate::wire::envelope::Signed;
use crate::wire::policy::PolicyDocument;
use crate::wire::revocation::announcement::Head;

/// What the ledger before knew, and the copy does not.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Lost {
    /// Revocations in force: they are to be made again before anything is signed.
    pub rules: Vec<Rule>,
    /// Devices whose approval, key or retirement is newer than the copy.
    pub devices: Vec<DeviceId>,
    /// Grants that were made or withdrawn since.
    pub grants: Vec<GrantId>,
}

/// What `before` knew that `copy` does not.
pub fn lost(before: &Book, copy: &Book, at: Timestamp) -> Lost {
    let newer = |rule: &&Rule| rule.until >= at && copy.rule(&rule.target).is_none_or(|known| known.until < rule.until);
    let other_device = |device: &&super::book::Device| {
        copy.device(&device.id).is_none_or(|known| known.keys != device.keys || known.status != device.status)
    };
    let other_grant = |grant: &&super::book::Grant| {
        grant.spec.expires > at && copy.grant(&grant.spec.grant).is_none_or(|known| known.withdrawn != grant.withdrawn)
    };
    Lost {
        rules: before.rules().filter(newer).cloned().collect(),
        devices: before.devices().filter(other_device).map(|device| device.id.clone()).collect(),
        grants: before.grants().filter(other_grant).map(|grant| grant.spec.grant).collect(),
    }
}

/// What a ledger that was put back lacks until an operator says that it is done again, as the ledger itself keeps it: a second
/// copy that takes its place, or one that was made of it, tells the same.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Missed {
    /// What is known to be lost.
    pub lost: Lost,
    /// Whether that is all.
    pub complete: bool,
}

/// What `copy` lacks when it takes the place of `before`, if that could be read, with what either of them was told that it
/// lacks itself and that nobody has said is done again.
pub fn missed(before: Option<&Book>, copy: &Book, at: Timestamp) -> Missed {
    let untold = Missed::default();
    let own = |book: &Book| match publish::awaited(book).is_empty() {
        true => Missed { complete: true, ..Missed::default() },
        false => book.missed().unwrap_or(&untold).clone(),
    };
    let (mut all, earlier) = match before {
        Some(before) => (lost(before, copy, at), own(before)),
        None => (Lost::default(), Missed::default()),
    };
    let complete = earlier.complete;
    // A ledger for which somebody has vouched knows what there is, and what its copies lacked is no news.
    let copied = if complete { Missed::default() } else { own(copy) };
    for Lost { rules, devices, grants } in [earlier.lost, copied.lost] {
        all.rules.extend(rules);
        all.devices.extend(devices);
        all.grants.extend(grants.into_iter().filter(|id| !is_over(copy, id, at)));
    }
    let lacks = |rule: &Rule| rule.until >= at && copy.rule(&rule.target).is_none_or(|known| known.until < rule.until);
    all.rules.retain(lacks);
    // Of two about the same, the one that lasts longer.
    all.rules.sort_by(|a, b| (encode(&a.target), b.until).cmp(&(encode(&b.target), a.until)));
    all.rules.dedup_by(|a, b| a.target == b.target);
    all.devices.sort();
    all.devices.dedup();
    all.grants.sort();
    all.grants.dedup();
    Missed { lost: all, complete }
}

fn is_over(book: &Book, id: &GrantId, at: Timestamp) -> bool {
    book.grant(id).is_some_and(|grant| grant.spec.expires <= at)
}

/// Tells a copy what it is. `before` is the ledger whose place it takes, if that could be read; `digest` the copy's. Gives
/// the number after which each feed can go on at the earliest.
///
/// # Errors
/// [`FleetError::Invalid`] when the operator's key is none of the copy's.
pub fn mark(
    copy: &mut Book,
    before: Option<&Book>,
    digest: Hash,
    operator: Operator<'_>,
    at: Timestamp,
    fx: &mut Effects,
) -> Result<Vec<(FeedId, u64)>, FleetError> {
    let missed = missed(before, copy, at);
    if let Some(before) = before {
        carry_over(before, copy, fx);
    }
    // The operator's key may have been replaced since the copy was made.
    let own = PublicKey::from(operator.key.verifying_key());
    if !copy.trust().operators.contains(&own) {
        let message =
            "the copy does not know this folder's operator key: it is another fleet's, or the keys are others \
             than those that belong to it, or the key was replaced since. Restore into the folder that has its keys, and \
             where the ledger before is lost name a broker that keeps the trust bundles (--broker URL), or a file of them \
             (--bundles PATH)";
        return Err(FleetError::Invalid(message.into()));
    }
    let bundles_known = before.is_some_and(|before| before.lacks_bundles_since().is_none());
    let mut leasts = Vec::new();
    for feed in copy.trust().feeds.iter().map(|feed| feed.id.clone()).collect::<Vec<_>>() {
        let known = |book: &Book| publish::highest_known(book, &feed);
        let least = before.map_or((0, 0), known).max(known(copy));
        copy.write(Write::Restored(Restored { feed: feed.clone(), at, least, settled: false, bundles_known }), fx);
        let least = publish::number_in_era(copy.of(&feed), least);
        leasts.push((feed, least));
    }
    copy.write(Write::Missed(Box::new(missed)), fx);
    let least = leasts.iter().map(|(_, least)| *least).max().unwrap_or(0);
    let bundle = copy.trust().version;
    acts::record(copy, operator, Deed::Restored { digest, least, bundle }, at, fx)?;
    Ok(leasts)
}

/// Trust bundles that devices may have are never signed a second time: those of the ledger before are taken over. So is its
/// policy, which may be signed by a key that only they name.
fn carry_over(before: &Book, copy: &mut Book, fx: &mut Effects) {
    for signed in before.bundles() {
        if let Ok(next) = copy.trust().successor(signed) {
            copy.write(Write::Bundle(next.version, signed.clone()), fx);
        }
    }
    let (signed, document) = before.policy();
    let known = signed.open(copy.fleet(), copy.trust().policy_keys(), 1).is_ok();
    if known && document.version > copy.policy().1.version {
        copy.write(Write::Policy(document.version, signed.clone()), fx);
    }
}

/// Whether a trust bundle may follow that of this ledger: none is signed where the fleet may have another of that number.
///
/// # Errors
/// [`FleetError::BundleBehind`], naming the device, or [`FleetError::BundlesUnknown`].
pub fn may_follow(book: &Book) -> Result<(), FleetError> {
    let own = book.trust().version;
    if let Some(beyond) = publish::ahead(book).find(|seen| seen.bundle_version > own) {
        return Err(FleetError::BundleBehind { device: beyond.device.clone(), seen: beyond.bundle_version, own });
    }
    bundles_known(book)
}

/// Whether it is known that no trust bundle was signed after this ledger's newest.
///
/// # Errors
/// [`FleetError::BundlesUnknown`].
pub fn bundles_known(book: &Book) -> Result<(), FleetError> {
    match book.lacks_bundles_since() {
        Some(at) => Err(FleetError::BundlesUnknown { at, bundle: book.trust().version }),
        None => Ok(()),
    }
}

/// What others keep of what the fleet has signed. None of it is believed before the core has looked at it.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Found {
    /// Trust bundles, oldest first.
    pub bundles: Vec<Signed<TrustBundle>>,
    /// Policies.
    pub policies: Vec<Signed<PolicyDocument>>,
    /// Newest heads of feeds.
    pub heads: Vec<Signed<Head>>,
    /// Whether it was found where every trust bundle is kept, so that there is none after the last of these.
    pub complete: bool,
}

/// What of it was taken into the ledger.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Taken {
    /// The versions of the trust bundles that were new.
    pub bundles: Vec<u64>,
    /// Whether there is none after the newest: whoever keeps nothing of the fleet, or not all, proves nothing.
    pub vouched: bool,
}

/// Takes in the trust bundles that follow from this ledger's, with the newest policy that the last of them believes.
///
/// # Errors
/// [`FleetError::Refused`] for a trust bundle that does not follow; [`FleetError::Invalid`] when there are two of one number,
/// or when the policy in force is not there. Nothing may be written then.
pub fn take(book: &mut Book, found: &Found, at: Timestamp, fx: &mut Effects) -> Result<Taken, FleetError> {
    let mut taken = Taken::default();
    for signed in &found.bundles {
        let refused = || FleetError::refused("a trust bundle that was found");
        let version = signed.claim().map_err(refused())?.version;
        if version > book.trust().version {
            let before = book.trust().clone();
            let next = before.successor(signed).map_err(refused())?;
            book.write(Write::Bundle(next.version, signed.clone()), fx);
            proposal::end_grants(book, &before, at, fx);
            taken.bundles.push(next.version);
            continue;
        }
        let own = book.trusts().iter().zip(book.bundles()).find(|(trust, _)| trust.version == version);
        if own.is_none_or(|(_, own)| own.digest() != signed.digest()) {
            let message = format!(
                "there is another trust bundle {version} than this ledger's: one of the two was signed by a ledger that \
                 was put back from an old copy. Restore a copy that holds the one which devices have"
            );
            return Err(FleetError::Invalid(message));
        }
        taken.vouched |= version == book.trust().version;
    }
    taken.vouched = (taken.vouched || !taken.bundles.is_empty()) && found.complete;
    take_policy(book, &found.policies, fx)?;
    Ok(taken)
}

fn take_policy(book: &mut Book, found: &[Signed<PolicyDocument>], fx: &mut Effects) -> Result<(), FleetError> {
    fn opened(book: &Book, signed: &Signed<PolicyDocument>) -> Option<PolicyDocument> {
        signed.open(book.fleet(), book.trust().policy_keys(), 1).ok()
    }
    let least = book.trust().policy_version_min.max(book.policy().1.version + 1);
    let believed = found.iter().filter_map(|signed| Some((opened(book, signed)?.version, signed)));
    let newest = believed.filter(|(version, _)| *version >= least).max_by_key(|(version, _)| *version);
    if let Some((version, signed)) = newest {
        book.write(Write::Policy(version, signed.clone()), fx);
    }
    match opened(book, book.policy().0) {
        Some(_) => Ok(()),
        None => Err(FleetError::Invalid(format!(
            "trust bundle {} believes the policy key of this ledger's policy no more, and a newer policy was not found: ask \
             the broker that keeps both (`hardtack fleet publish --broker URL`)",
            book.trust().version
        ))),
    }
}

/// Notes what was learnt: nothing is signed in any feed before somebody has vouched for it where a trust bundle was lost, for
/// heads were lost with it.
pub fn settle(book: &mut Book, taken: &Taken, heads: &[Signed<Head>], at: Timestamp, fx: &mut Effects) {
    let lost = !taken.bundles.is_empty();
    let rows: Vec<Restored> = book.restored_rows().cloned().collect();
    for feed in &book.trust().feeds.clone() {
        let known = rows.iter().find(|row| row.feed == feed.id);
        if known.is_none() && !lost {
            continue;
        }
        let own = heads.iter().filter_map(|signed| {
            let head = signed.open(book.fleet(), book.trust().feed_keys(&feed.id), 1).ok()?;
            (head.feed == feed.id).then_some((head.era, head.seq))
        });
        let least = publish::highest_known(book, &feed.id).max(known.map_or((0, 0), |row| row.least));
        let row = Restored {
            feed: feed.id.clone(),
            at: known.map_or(at, |row| row.at),
            least: own.fold(least, Ord::max),
            settled: known.is_some_and(|row| row.settled) && !lost,
            bundles_known: taken.vouched || known.is_some_and(|row| row.bundles_known),
        };
        book.write(Write::Restored(row), fx);
    }
    let gone = |row: &Restored| book.trust().feed(&row.feed).is_none();
    for row in rows.into_iter().filter(gone).filter(|_| taken.vouched).collect::<Vec<_>>() {
        book.write(Write::Restored(Restored { bundles_known: true, ..row }), fx);
    }
}

/// Takes into a ledger what others keep, and records it if there was a trust bundle among it.
///
/// # Errors
/// Those of [`take`].
pub fn learn(
    book: &mut Book,
    found: &Found,
    operator: Operator<'_>,
    at: Timestamp,
    fx: &mut Effects,
) -> Result<Taken, FleetError> {
    let taken = take(book, found, at, fx)?;
    settle(book, &taken, &found.heads, at, fx);
    if !taken.bundles.is_empty() {
        record(book, operator, at, fx)?;
    }
    Ok(taken)
}

/// An operator vouches that no device has a trust bundle after `last`, where nobody is left who could tell.
///
/// # Errors
/// [`FleetError::Invalid`] when it is not this ledger's newest or nothing is to be vouched for; [`FleetError::BundleBehind`].
pub fn vouch(
    book: &mut Book,
    last: u64,
    operator: Operator<'_>,
    at: Timestamp,
    fx: &mut Effects,
) -> Result<(), FleetError> {
    let own = book.trust().version;
    if bundles_known(book).is_ok() {
        return Err(FleetError::Invalid("this ledger lacks no trust bundle: --last-bundle is not needed".into()));
    }
    if last != own {
        let message = format!(
            "this ledger's newest trust bundle is {own}: pass --last-bundle {own} if no device has a later one; bring in \
             those that are missing before (--broker URL, or --bundles FOLDER)"
        );
        return Err(FleetError::Invalid(message));
    }
    if let Err(behind @ FleetError::BundleBehind { .. }) = may_follow(book) {
        return Err(behind);
    }
    settle(book, &Taken { bundles: Vec::new(), vouched: true }, &[], at, fx);
    record(book, operator, at, fx)
}

/// From here on that trust bundle is in force.
fn record(book: &mut Book, operator: Operator<'_>, at: Timestamp, fx: &mut Effects) -> Result<(), FleetError> {
    let (bundle, newest) = (book.trust().version, book.bundles().last().map(Signed::digest));
    let digest = newest.expect("a book begins with a bundle and never loses one");
    acts::record(book, operator, Deed::Trusted { bundle, digest }, at, fx)
}

#[cfg(test)]
mod tests {
    use super::super::enrol::retire;
    use ed25519_dalek::SigningKey;

    use super::super::hello::receive;
    use super::super::revoke::{revoke, Revocation};
    use super::super::rotate::{rotate, Cause, KeyRole, NewKey, Rotation};
    use super::super::service::tests::{at, device_keys, one_device, CADENCE};
    use super::super::FleetKeys;
    use super::*;
    use crate::wire::link::Hello;
    use crate::wire::revocation::Target;

    #[test]
    fn a_copy_is_told_what_it_missed_and_by_whom() {
        let (keys, mut book, _, _) = one_device();
        let (fx, ann) = (&mut Effects::default(), keys.operator("ann"));
        let mut copy = book.clone();
        assert_eq!(lost(&book, &copy, at(9)), Lost::default());
        let target = Target::Task("t-1".parse().unwrap());
        let rule =
            Revocation { target: target.clone(), until: Some(at(100)), reason: "r".into(), life: None, device: None };
        revoke(&mut book, rule, ann, at(9), fx).unwrap();
        let device: DeviceId = "gw-07".parse().unwrap();
        retire(&mut book, &device, "sold", ann, at(9), fx).unwrap();
        let since = lost(&book, &copy, at(9));
        let rules: Vec<Target> = since.rules.into_iter().map(|rule| rule.target).collect();
        assert_eq!((rules, since.devices, since.grants.len()), (vec![target], vec![device], 0));
        assert!(lost(&book, &copy, at(101)).rules.is_empty(), "it has lapsed");

        let other = Operator { name: "ann", key: &keys.feed };
        assert!(mark(&mut copy, Some(&book), Hash::ZERO, other, at(10), fx).is_err());
        assert_eq!(mark(&mut copy, Some(&book), Hash::ZERO, ann, at(10), fx), Ok(vec![(copy.feed(), 1)]));
        assert!(matches!(publish::may_start(&copy), Err(FleetError::Restored { least: 1, .. })));
    }

    /// A copy takes the place of a copy for which nobody has vouched, whichever of the two was made first.
    #[test]
    fn what_a_copy_lacked_is_told_when_another_takes_its_place() {
        let (keys, mut book, _, _) = one_device();
        let (fx, ann) = (&mut Effects::default(), keys.operator("ann"));
        let (oldest, task) = (book.clone(), |id: &str| Target::Task(id.parse().unwrap()));
        let revoked = |book: &mut Book, id: &str, until, fx: &mut Effects| {
            let (target, until) = (task(id), Some(at(until)));
            revoke(book, Revocation { target, until, reason: "r".into(), life: None, device: None }, ann, at(9), fx)
                .unwrap();
        };
        let restored = |before: Option<&Book>, copy: &Book, secs| {
            let mut copy = copy.clone();
            mark(&mut copy, before, Hash::ZERO, ann, at(secs), &mut Effects::default()).unwrap();
            copy
        };
        let told = |book: &Book| {
            let Missed { lost, complete } = book.missed().unwrap();
            let rules: Vec<String> =
                lost.rules.iter().map(|rule| format!("{:?} {}", rule.target, rule.until.0)).collect();
            (rules, lost.devices.len(), *complete)
        };
        let line = |id: &str, until| format!("{:?} {}", task(id), at(until).0);
        revoked(&mut book, "t-1", 500, fx);
        revoked(&mut book, "t-2", 600, fx);
        retire(&mut book, &"gw-07".parse().unwrap(), "sold", ann, at(9), fx).unwrap();
        let mut first = restored(Some(&book), &oldest, 20);
        let all = vec![line("t-1", 500), line("t-2", 600)];
        assert_eq!(told(&first), (all.clone(), 1, true));
        // One of it is done again, and something new is revoked; a copy is made, and put back, and the oldest one once more.
        revoked(&mut first, "t-1", 700, fx);
        let copy = first.clone();
        revoked(&mut first, "t-3", 800, fx);
        assert_eq!(told(&restored(Some(&first), &copy, 30)), (vec![line("t-2", 600), line("t-3", 800)], 1, true));
        let again = restored(Some(&first), &oldest, 30);
        assert_eq!(told(&again), (vec![line("t-1", 700), line("t-2", 600), line("t-3", 800)], 1, true));
        assert_eq!(
            told(&restored(Some(&again), &oldest, 550)).0,
            [line("t-1", 700), line("t-2", 600), line("t-3", 800)]
        );
        assert_eq!(
            told(&restored(Some(&again), &oldest, 650)).0,
            [line("t-1", 700), line("t-3", 800)],
            "one has lapsed"
        );
        // In an empty folder the copy tells what it lacked when it was made, and that there may be more.
        let blind = restored(None, &copy, 30);
        assert_eq!(told(&blind), (vec![line("t-2", 600)], 1, false));
        assert_eq!(told(&restored(Some(&blind), &oldest, 40)), (vec![line("t-1", 700), line("t-2", 600)], 1, false));
        assert_eq!(told(&restored(None, &oldest, 30)), (Vec::new(), 0, false));
        // Somebody has vouched for it: it knows what there is, and nothing of before is told again.
        let mut settled = restored(Some(&book), &oldest, 20);
        let (feed, after) = publish::awaited(&settled).remove(0);
        publish::resume(&mut settled, &feed, after, ann, at(25), fx).unwrap();
        assert_eq!(told(&restored(Some(&settled), &oldest, 30)), (Vec::new(), 0, true));
    }

    fn rotated(book: &mut Book, keys: &FleetKeys, seed: u8) -> Result<u64, FleetError> {
        let key = NewKey::Signing(SigningKey::from_bytes(&[seed; 32]));
        let rotation = Rotation { role: KeyRole::Policy, key: &key, cause: Cause::Planned, roots: &[&keys.root] };
        rotate(book, rotation, CADENCE, keys.operator("ann"), at(2), &mut Effects::default()).map(|done| done.bundle)
    }

    #[test]
    fn no_bundle_is_made_of_a_number_that_devices_may_have() {
        let (keys, mut book, hello, _) = one_device();
        let (fx, ann) = (&mut Effects::default(), keys.operator("ann"));
        let old = book.clone();
        rotated(&mut book, &keys, 21).unwrap();
        rotated(&mut book, &keys, 22).unwrap();
        let whole = || Found {
            bundles: book.bundles().to_vec(),
            policies: vec![book.policy().0.clone()],
            heads: book.first().head().map(|head| head.signed.clone()).into_iter().collect(),
            complete: true,
        };
        // A device that has bundle 3 says so.
        let mut copy = old.clone();
        let seen = Hello { bundle_version: 3, ..hello(7) };
        let signed = Signed::sign(&seen, old.fleet(), &[&device_keys(1).identity]);
        receive(&mut copy, &seen.device, &signed.to_bytes(), at(5), fx).unwrap();
        assert!(matches!(rotated(&mut copy, &keys, 23), Err(FleetError::BundleBehind { seen: 3, own: 1, .. })));
        learn(&mut copy, &whole(), ann, at(6), fx).unwrap();
        assert_eq!(rotated(&mut copy, &keys, 23), Ok(4), "what it has is here now");
        // Nobody says anything, and the ledger before is lost.
        let mut copy = old.clone();
        mark(&mut copy, None, Hash::ZERO, ann, at(5), fx).unwrap();
        assert_eq!(rotated(&mut copy, &keys, 23), Err(FleetError::BundlesUnknown { at: at(5), bundle: 1 }));
        let mut again = old.clone();
        mark(&mut again, Some(&copy), Hash::ZERO, ann, at(6), fx).unwrap();
        assert!(bundles_known(&again).is_err(), "a copy of a copy knows no more than that");

        let refused = |found: &Found, copy: &Book| learn(&mut copy.clone(), found, ann, at(7), &mut Effects::default());
        let forked = {
            let mut other = old.clone();
            rotated(&mut other, &keys, 24).unwrap();
            other
        };
        let other = Found { bundles: forked.bundles().to_vec(), ..whole() };
        assert!(matches!(refused(&other, &book), Err(FleetError::Invalid(_))), "two of one number");
        let hole = Found { bundles: vec![book.bundles()[2].clone()], ..whole() };
        assert!(matches!(refused(&hole, &copy), Err(FleetError::Refused { .. })));
        let no_policy = Found { policies: Vec::new(), ..whole() };
        assert!(matches!(refused(&no_policy, &copy), Err(FleetError::Invalid(_))), "its policy's key is gone");
        for found in [Found { complete: true, ..Found::default() }, Found { complete: false, ..whole() }] {
            let mut copy = copy.clone();
            learn(&mut copy, &found, ann, at(7), fx).unwrap();
            assert!(bundles_known(&copy).is_err(), "who keeps nothing, or not all, proves nothing");
        }
        let taken = learn(&mut copy, &whole(), ann, at(7), fx).unwrap();
        assert_eq!(taken, Taken { bundles: vec![2, 3], vouched: true });
        assert_eq!(copy.policy().1, book.policy().1);
        assert!(
            matches!(publish::may_start(&copy), Err(FleetError::Restored { .. })),
            "its heads are to be vouched for"
        );
        assert_eq!(rotated(&mut copy, &keys, 23), Ok(4));
    }
}
