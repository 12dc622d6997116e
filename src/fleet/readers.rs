//! Which revocation feeds a device has any business with at the broker.
//!
//! Owns: [`Reader`]: the feed that a device has by the newest trust bundle, and those by which it may still go.
//! Never: cuts a device off from the way to the newest bundle: one that was away when it was moved asks for its old feed first.
//! Read next: `../shell/broker/dynsec.rs`, which has the broker hold to it.

use std::collections::{BTreeMap, BTreeSet};

use super::book::Book;
use super::publish::is_believed;
use crate::ids::{DeviceId, FeedId};

/// A device and the feeds that it reads.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reader {
    /// The device.
    pub device: DeviceId,
    /// Its feed by each trust bundle from the one that it said last that it has, or from the first if it said nothing yet.
    pub feeds: BTreeSet<FeedId>,
    /// Feeds that it had by earlier ones, and has no more.
    pub former: BTreeSet<FeedId>,
}

/// From which trust bundle on a device may go by any: the one that it named last. One that names a later one than this ledger
/// has may go by any at all: the ledger was put back, and a bundle that it lost may have moved the device to a feed that it had
/// before. Nothing is taken from it until the ledger knows that bundle.
///
/// So does a device whose word stops the fleet, [`restore::may_follow`](super::restore::may_follow): whoever names a bundle
/// that never was keeps its feeds for as long as nothing is signed, with its name on that. Once it is revoked or retired for
/// it, its word counts for neither, and it has its feed by the newest bundle.
pub fn goes_by(book: &Book, device: &DeviceId) -> u64 {
    let newest = book.trust().version;
    let named = book.seen(device).map_or(0, |seen| seen.bundle_version);
    if named <= newest {
        named
    } else if book.device(device).is_some_and(|device| is_believed(book, device)) {
        0
    } else {
        newest
    }
}

/// What these devices read. Whether anybody knows them makes no difference.
pub fn readers(book: &Book, devices: impl IntoIterator<Item = DeviceId>) -> Vec<Reader> {
    let mut devices = devices.into_iter().peekable();
    // Where every device has its feed by every bundle is much to find out, and mostly nobody is asked about.
    if devices.peek().is_none() {
        return Vec::new();
    }
    let placed: Vec<_> =
        book.trusts().iter().map(|trust| (trust.version, trust.feeds.first(), trust.placed())).collect();
    let reader = |device: DeviceId| {
        let since = goes_by(book, &device);
        let mut sorted: BTreeMap<bool, BTreeSet<FeedId>> = BTreeMap::new();
        for (version, first, placed) in &placed {
            let feed = placed.get(&device).copied().or(first.map(|first| &first.id));
            sorted.entry(*version >= since).or_default().extend(feed.cloned());
        }
        let feeds = sorted.remove(&true).unwrap_or_default();
        let mut former = sorted.remove(&false).unwrap_or_default();
        former.retain(|feed| !feeds.contains(feed));
        Reader { device, feeds, former }
    };
    devices.map(reader).collect()
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::SigningKey;

    use super::super::book::{Seen, Write};
    use super::super::enrol::{approve, retire, Replace};
    use super::super::groups::{change, Change, Signing};
    use super::super::restore::may_follow;
    use super::super::revoke::{revoke, Revocation};
    use super::super::service::tests::{at, device_keys, founded, request, CADENCE};
    use super::super::{Effects, FleetError};
    use super::*;
    use crate::ids::{BootId, EraId, Hash};
    use crate::wire::enrol::EnrolRequest;
    use crate::wire::revocation::Target;

    fn says(book: &mut Book, device: &DeviceId, bundle_version: u64) {
        let seen = Seen {
            device: device.clone(),
            identity: SigningKey::from_bytes(&[9; 32]).verifying_key().into(),
            at: at(9),
            said: at(9),
            boot: BootId([0; 16]),
            era: EraId { number: 1, salt: 1 },
            next_index: 1,
            bundle_version,
            policy_version: 1,
            feeds: Vec::new(),
            grants: Hash::ZERO,
            floor: at(9),
            mode: "online".into(),
            version: "1".into(),
        };
        book.write(Write::Seen(Box::new(seen)), &mut Effects::default());
    }

    #[test]
    fn a_device_reads_its_feed_and_those_by_which_it_may_still_go() {
        let (keys, mut book) = founded();
        let device = |id: &str| id.parse::<DeviceId>().unwrap();
        let (group, feed) = (|id: &str| id.parse().unwrap(), |id: &str| id.parse::<FeedId>().unwrap());
        let changes = [
            Change::Join(group("north"), vec![device("gw-1")]),
            Change::AddFeed(feed("f-north"), vec![group("north")]),
            Change::Join(group("south"), vec![device("gw-2")]),
            Change::AddFeed(feed("f-south"), vec![group("south")]),
            Change::Leave(group("north"), vec![device("gw-1")]),
            Change::Join(group("south"), vec![device("gw-1")]),
        ];
        for wanted in changes {
            let signing = Signing { root: &keys.root, feed: &keys.feed, cadence: CADENCE };
            change(&mut book, &wanted, signing, keys.operator("ann"), at(2), &mut Effects::default()).unwrap();
        }
        let asked = request("gw-1", &device_keys(1), 1);
        let code = EnrolRequest::code(&asked);
        approve(&mut book, &asked, code, Replace::Keep, keys.operator("ann"), at(3), &mut Effects::default()).unwrap();
        let all = |feeds: &[&str]| feeds.iter().map(|id| feed(id)).collect::<BTreeSet<_>>();
        let one = |book: &Book, id: &str| readers(book, [device(id)]).remove(0);
        let cases: [(Option<u64>, &[&str], &[&str]); 6] = [
            (None, &["main", "f-north", "f-south"], &[]),
            (Some(3), &["main", "f-north", "f-south"], &[]),
            // By the fifth it is in none, and has the first feed for a while.
            (Some(6), &["main", "f-south"], &["f-north"]),
            (Some(7), &["f-south"], &["main", "f-north"]),
            // The ledger was put back: in the eighth or ninth it may have gone north again.
            (Some(9), &["main", "f-north", "f-south"], &[]),
            (Some(2), &["main", "f-north", "f-south"], &[]),
        ];
        for (named, feeds, former) in cases {
            named.iter().for_each(|named| says(&mut book, &device("gw-1"), *named));
            let reader = one(&book, "gw-1");
            assert_eq!((reader.feeds, reader.former), (all(feeds), all(former)), "{named:?}");
        }
        // One that keeps its feeds by naming what never was stops the fleet, and is found by that.
        says(&mut book, &device("gw-1"), u64::MAX);
        assert_eq!(one(&book, "gw-1").feeds, all(&["main", "f-north", "f-south"]));
        assert!(matches!(may_follow(&book), Err(FleetError::BundleBehind { seen: u64::MAX, .. })));
        let target = Target::Device(device("gw-1"));
        let rule = Revocation { target, until: None, reason: "it lies".into(), life: None, device: None };
        let mut revoked = book.clone();
        revoke(&mut revoked, rule, keys.operator("ann"), at(4), &mut Effects::default()).unwrap();
        let mut retired = book.clone();
        let fx = &mut Effects::default();
        retire(&mut retired, &device("gw-1"), "it lies", keys.operator("ann"), at(4), fx).unwrap();
        for book in [revoked, retired] {
            let reader = one(&book, "gw-1");
            assert_eq!((reader.feeds, reader.former), (all(&["f-south"]), all(&["main", "f-north"])));
            assert!(may_follow(&book).is_ok());
        }
        assert_eq!(one(&book, "gw-2").feeds, all(&["main", "f-south"]), "it said nothing yet");
        assert_eq!(one(&book, "gw-9").feeds, all(&["main"]), "nobody knows it");
    }
}
