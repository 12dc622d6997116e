//! A copy of the ledger takes the ledger's place.
//!
//! Owns: what such a ledger has to be told about itself, and what it does not know that the one before it did.
//! Never: lets a copy sign before somebody has vouched for what it lost; `publish.rs` refuses that.
//! Read next: `publish.rs`.

use super::acts::{self, Deed};
use super::book::{Book, Restored, Write};
use super::{publish, Effects, FleetError, Operator};
use crate::ids::{DeviceId, FeedId, GrantId, Hash};
use crate::time::Timestamp;
use crate::wire::bundle::PublicKey;
use crate::wire::revocation::Target;

/// What the ledger before knew, and the copy does not.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Lost {
    /// Revocations in force: they are to be made again before anything is signed.
    pub rules: Vec<Target>,
    /// Devices whose approval, key or retirement is newer than the copy.
    pub devices: Vec<DeviceId>,
    /// Grants that were made or withdrawn since.
    pub grants: Vec<GrantId>,
}

/// What `before` knew that `copy` does not.
pub fn lost(before: &Book, copy: &Book, at: Timestamp) -> Lost {
    let newer = |rule: &&super::book::Rule| {
        rule.until >= at && copy.rule(&rule.target).is_none_or(|known| known.until < rule.until)
    };
    let other_device = |device: &&super::book::Device| {
        copy.device(&device.id).is_none_or(|known| known.keys != device.keys || known.status != device.status)
    };
    let other_grant = |grant: &&super::book::Grant| {
        grant.spec.expires > at && copy.grant(&grant.spec.grant).is_none_or(|known| known.withdrawn != grant.withdrawn)
    };
    Lost {
        rules: before.rules().filter(newer).map(|rule| rule.target.clone()).collect(),
        devices: before.devices().filter(other_device).map(|device| device.id.clone()).collect(),
        grants: before.grants().filter(other_grant).map(|grant| grant.spec.grant).collect(),
    }
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
    if let Some(before) = before {
        carry_over(before, copy, fx);
    }
    // The operator's key may have been replaced since the copy was made.
    let own = PublicKey::from(operator.key.verifying_key());
    if !copy.trust().operators.contains(&own) {
        let message =
            "the copy does not know this folder's operator key: it is another fleet's, or the keys are others \
                       than those that belong to it. Restore into the folder that has its keys";
        return Err(FleetError::Invalid(message.into()));
    }
    let mut leasts = Vec::new();
    for feed in copy.trust().feeds.iter().map(|feed| feed.id.clone()).collect::<Vec<_>>() {
        let known = |book: &Book| publish::highest_known(book, &feed);
        let least = before.map_or((0, 0), known).max(known(copy));
        copy.write(Write::Restored(Restored { feed: feed.clone(), at, least, settled: false }), fx);
        let least = publish::number_in_era(copy.of(&feed), least);
        leasts.push((feed, least));
    }
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

#[cfg(test)]
mod tests {
    use super::super::enrol::retire;
    use super::super::revoke::{revoke, Revocation};
    use super::super::service::tests::{at, one_device};
    use super::*;

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
        assert_eq!((since.rules, since.devices, since.grants.len()), (vec![target], vec![device], 0));
        assert!(lost(&book, &copy, at(101)).rules.is_empty(), "it has lapsed");

        let other = Operator { name: "ann", key: &keys.feed };
        assert!(mark(&mut copy, Some(&book), Hash::ZERO, other, at(10), fx).is_err());
        assert_eq!(mark(&mut copy, Some(&book), Hash::ZERO, ann, at(10), fx), Ok(vec![(copy.feed(), 1)]));
        assert!(matches!(publish::may_start(&copy), Err(FleetError::Restored { least: 1, .. })));
    }
}
