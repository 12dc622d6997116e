//! I5 and I8 for the revocation feeds: a gateway holds no feed that it never had, its complete position in each is one that the
//! fleet signed, its set is the set of that position, and no position is signed twice.
//!
//! Owns: every head that the fleet signed, by feed; what each gateway's disk holds of its feeds.
//! Never: believes a gateway's own sum: the root is reckoned anew from the bytes on its disk.
//! Read next: `authority.rs`, which judges decisions by what was heard.

use std::collections::{BTreeMap, BTreeSet};

use hardtack::agent::feed::Held;
use hardtack::ids::{DeviceId, FeedId, Hash};
use hardtack::wire::bundle::TrustBundle;
use hardtack::wire::envelope::Signed;
use hardtack::wire::revocation::announcement::Head;
use hardtack::wire::revocation::manifest::Manifest;
use hardtack::wire::revocation::Position;

use super::{Id, Tally};

/// The feed that a gateway has by the trust bundle on its disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Own {
    pub(crate) id: FeedId,
    /// A head of another era tells nothing of how new what is known is,
    pub(crate) era: u32,
    /// nor one that names an older trust bundle than this.
    pub(crate) since: u64,
    /// The trust bundle that says so.
    pub(crate) bundle: u64,
}

impl Own {
    /// That of a gateway.
    pub(crate) fn of(trust: &TrustBundle, name: &DeviceId) -> Self {
        let feed = trust.feed_of(name);
        Self { id: feed.id.clone(), era: feed.era, since: feed.since, bundle: trust.version }
    }

    /// Whether a head of this feed, of that era and naming that trust bundle, holds all that had been revoked for the gateway when it came to it.
    pub(crate) const fn counts(&self, era: u32, bundle: u64) -> bool {
        era == self.era && bundle >= self.since
    }
}

/// Where a gateway ought to stand: the newest head of its feed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Owed {
    pub(crate) feed: FeedId,
    /// Era and number.
    pub(crate) order: (u32, u64),
}

/// A position and the root of its set, as a gateway's disk has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stand {
    order: (u32, u64),
    root: Hash,
}

/// What a gateway's disk holds.
#[derive(Debug, Default)]
struct Disk {
    own: Option<Own>,
    /// Every feed that a trust bundle on it has given the gateway.
    had: BTreeSet<FeedId>,
    held: BTreeMap<FeedId, Stand>,
}

/// Digest and root of each head of a feed.
type Heads = BTreeMap<(u32, u64), (Hash, Hash)>;

/// What the fleet signed, and what gateways hold.
#[derive(Debug)]
pub(crate) struct FeedCheck {
    /// Digest and root of each head, by feed.
    signed: BTreeMap<FeedId, Heads>,
    /// Positions that somebody signed who had stolen the feed's key, and that gateways could not refuse.
    forged: Vec<Position>,
    /// Heads that gateways were handed and had to refuse.
    refused: BTreeSet<Hash>,
    disks: Vec<Disk>,
}

impl FeedCheck {
    pub(crate) fn new(devices: u32) -> Self {
        let disks = (0..devices).map(|_| Disk::default()).collect();
        Self { signed: BTreeMap::new(), forged: Vec::new(), refused: BTreeSet::new(), disks }
    }

    /// The fleet signed a head: above all before it.
    pub(crate) fn signed(&mut self, tally: &mut Tally, at: u64, signed: &Signed<Head>, head: &Head) {
        let order = (head.era, head.seq);
        let feed = self.signed.entry(head.feed.clone()).or_default();
        let newest = feed.last_key_value().map(|(order, _)| *order);
        let again = newest.filter(|newest| order <= *newest);
        let broken =
            again.map(|newest| format!("the fleet signed head {order:?} of {} after head {newest:?}", head.feed));
        tally.tried(Id::Position, at, broken);
        feed.entry(order).or_insert((signed.digest(), head.root));
    }

    /// A head that a gateway was given in the place of the fleet's, by a fault that the proofs do not cover.
    pub(crate) fn forged(&mut self, position: Option<Position>) {
        self.forged.extend(position);
    }

    /// A gateway is handed a head that it must refuse: none waits for its set.
    pub(crate) fn is_refused(&mut self, digest: Hash) {
        self.refused.insert(digest);
    }

    fn truth(&self, feed: &FeedId, order: (u32, u64)) -> Option<&(Hash, Hash)> {
        self.signed.get(feed)?.get(&order)
    }

    /// Whether a head is one of the fleet's.
    pub(crate) fn is_signed(&self, position: &Position) -> bool {
        self.truth(&position.feed, position.order()).is_some_and(|(digest, _)| *digest == position.digest)
    }

    /// A trust bundle is durable that gives a gateway this feed.
    pub(crate) fn followed(&mut self, device: u32, own: Own) {
        let disk = &mut self.disks[device as usize];
        disk.had.insert(own.id.clone());
        disk.own = Some(own);
    }

    /// The feed that a gateway has by its disk.
    pub(crate) fn own(&self, device: u32) -> Option<&Own> {
        self.disks[device as usize].own.as_ref()
    }

    /// A gateway let a feed go.
    pub(crate) fn let_go(&mut self, device: u32, feed: &FeedId) {
        self.disks[device as usize].held.remove(feed);
    }

    /// A feed's files are durable: it is one that the gateway has or had, and the set is the one of its head.
    pub(crate) fn durable(
        &mut self,
        tally: &mut Tally,
        at: u64,
        (device, name): (u32, &DeviceId),
        (feed, held): (&FeedId, &Held),
    ) {
        let strange = !self.disks[device as usize].had.contains(feed);
        let how = || format!("{name} holds feed {feed}, which no trust bundle ever gave it");
        tally.tried(Id::Position, at, strange.then(how));
        // One of the fleet's own is refused only where it does not belong.
        let own =
            |signed: &Signed<Head>| signed.claim().is_ok_and(|head| self.is_signed(&head.position(signed.digest())));
        if held.newest.as_ref().is_some_and(|newest| self.refused.contains(&newest.digest()) && !own(newest)) {
            let how = format!("{name} waits for the set of a head of {feed} that it had to refuse");
            tally.broken(Id::Position, at, how);
        }
        let Some(signed) = &held.head else { return };
        let Ok(head) = signed.claim() else { return };
        let order = (head.era, head.seq);
        if self.forged.contains(&head.position(signed.digest())) {
            let stand = Stand { order, root: Hash::ZERO };
            self.disks[device as usize].held.insert(feed.clone(), stand);
            return;
        }
        let root = Manifest::of(&held.set).root();
        let broken = match self.truth(feed, order) {
            Some((digest, _)) if *digest != signed.digest() => {
                Some(format!("{name} stands at a head {order:?} of {feed} that the fleet did not sign so"))
            }
            Some((_, truth)) if *truth != root => {
                Some(format!("{name} claims head {order:?} of {feed} without its set"))
            }
            Some(_) => None,
            None => Some(format!("{name} stands at head {order:?} of {feed}, which the fleet did not sign")),
        };
        tally.tried(Id::Position, at, broken);
        self.disks[device as usize].held.insert(feed.clone(), Stand { order, root });
    }

    /// What a gateway says of its positions is true.
    pub(crate) fn said(&self, tally: &mut Tally, at: u64, name: &DeviceId, positions: &[Position]) {
        let lie = positions.iter().find(|position| !self.is_signed(position) && !self.forged.contains(position));
        let said = |lie: &Position| {
            format!("{name} says that it holds head {:?} of {}, which nobody signed", lie.order(), lie.feed)
        };
        tally.tried(Id::Position, at, lie.map(said));
    }

    /// Whether a gateway's disk holds the set of a head that was the newest of its feed so far: what it lacks, if anything.
    pub(crate) fn lacks(&self, device: u32, newest: &Owed) -> Option<String> {
        let Owed { feed, order } = newest;
        let disk = &self.disks[device as usize];
        if let Some(own) = disk.own.as_ref().filter(|own| own.id != *feed) {
            return Some(format!("follows feed {}, and its feed is {feed}", own.id));
        }
        let held = disk.held.get(feed);
        let truth = held.and_then(|held| self.truth(feed, held.order));
        match (held, truth) {
            (Some(held), Some((_, root))) if held.order >= *order && held.root == *root => None,
            (Some(held), _) => Some(format!("holds the set of head {:?} of {feed}, and {order:?} is due", held.order)),
            (None, _) => Some(format!("holds no set of {feed} at all")),
        }
    }

    /// Whether a gateway holds a head of its feed completely, and no newer one.
    pub(crate) fn stands_at(&self, device: u32, newest: &Owed) -> bool {
        let disk = &self.disks[device as usize];
        let own = disk.own.as_ref().is_some_and(|own| own.id == newest.feed);
        own && disk.held.get(&newest.feed).is_some_and(|held| held.order == newest.order)
    }

    /// The number of the complete head of a feed on a gateway's disk.
    pub(crate) fn seq(&self, device: u32, feed: &FeedId) -> u64 {
        self.disks[device as usize].held.get(feed).map_or(0, |held| held.order.1)
    }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::SigningKey;
    use hardtack::agent::feed::StoredFeed;
    use hardtack::fleet::publish::Cadence;
    use hardtack::time::Millis;
    use hardtack::wire::revocation::announcement::Successor;
    use hardtack::wire::revocation::rules::Selector;
    use hardtack::wire::revocation::set::RevocationSet;

    use super::*;
    use crate::clocks::date;
    use crate::report::Status;

    fn set(owners: &[&str]) -> RevocationSet {
        let mut set = RevocationSet::default();
        owners.iter().for_each(|owner| set.add_rule(Selector::owner(owner), date(100)));
        set
    }

    fn head(seq: u64, set: &RevocationSet) -> (Signed<Head>, Head) {
        head_of("main", seq, set)
    }

    fn head_of(feed: &str, seq: u64, set: &RevocationSet) -> (Signed<Head>, Head) {
        let cadence = Cadence::every(Millis(1));
        let successor = Successor {
            feed: &feed.parse().unwrap(),
            era: 1,
            seq,
            previous: Hash::ZERO,
            issued_at: date(1),
            next_update_ms: cadence.interval,
            hard_stale_ms: cadence.interval,
            dropped_before: date(0),
            set,
            additions: &RevocationSet::default(),
            skips: &[],
            bundle_version: 1,
            policy_version: 1,
        };
        let (head, announcements) = successor.sign(&"sim".parse().unwrap(), &SigningKey::from_bytes(&[1; 32]));
        (announcements[0].head.clone(), head)
    }

    #[track_caller]
    fn check(edit: impl FnOnce(&mut FeedCheck, &mut Tally), expected: Status) {
        let (mut tally, mut check) = (Tally::default(), FeedCheck::new(1));
        let (signed, first) = head(1, &set(&["ann"]));
        check.signed(&mut tally, 1, &signed, &first);
        check.followed(0, own("main"));
        edit(&mut check, &mut tally);
        let property = tally.properties().into_iter().find(|property| property.id == "I5.position").unwrap();
        assert_eq!(property.status, expected, "{property:?}");
    }

    fn own(feed: &str) -> Own {
        Own { id: feed.parse().unwrap(), era: 1, since: 0, bundle: 1 }
    }

    fn owed(feed: &str, seq: u64) -> Owed {
        Owed { feed: feed.parse().unwrap(), order: (1, seq) }
    }

    fn store(check: &mut FeedCheck, tally: &mut Tally, seq: u64, named: &[&str], held: &[&str]) {
        store_of("main", check, tally, seq, named, held);
    }

    fn store_of(feed: &str, check: &mut FeedCheck, tally: &mut Tally, seq: u64, named: &[&str], held: &[&str]) {
        let stored = StoredFeed::enrolled(1, head_of(feed, seq, &set(named)).0, set(held).to_bytes(), None).unwrap();
        let held = Held::read(&stored.to_bytes(), None).unwrap();
        check.durable(tally, 2, (0, &"gw-0".parse().unwrap()), (&feed.parse().unwrap(), &held));
    }

    #[test]
    fn a_position_without_its_set_and_one_that_nobody_signed_are_seen() {
        check(|check, tally| store(check, tally, 1, &["ann"], &["ann"]), Status::Pass);
        check(|check, tally| store(check, tally, 1, &["ann"], &[]), Status::Fail);
        check(|check, tally| store(check, tally, 1, &["bob"], &["bob"]), Status::Fail);
        check(|check, tally| store(check, tally, 2, &["ann"], &["ann"]), Status::Fail);
    }

    #[test]
    fn who_waits_for_a_head_that_had_to_be_refused_is_seen_unless_it_is_the_fleets_and_came_again() {
        let wait = |check: &mut FeedCheck, tally: &mut Tally| {
            let newest = head(2, &set(&["bob"])).0;
            check.is_refused(newest.digest());
            let named = set(&["ann"]);
            let stored = StoredFeed::enrolled(1, head(1, &named).0, named.to_bytes(), None).unwrap();
            let mut held = Held::read(&stored.to_bytes(), None).unwrap();
            held.newest = Some(newest);
            check.durable(tally, 2, (0, &"gw-0".parse().unwrap()), (&"main".parse().unwrap(), &held));
        };
        check(|check, tally| wait(check, tally), Status::Fail);
        check(
            |check, tally| {
                let (signed, second) = head(2, &set(&["bob"]));
                check.signed(tally, 2, &signed, &second);
                wait(check, tally);
            },
            Status::Pass,
        );
    }

    #[test]
    fn a_position_that_is_signed_twice_is_seen() {
        let sign = |check: &mut FeedCheck, tally: &mut Tally, seq| {
            let (signed, head) = head(seq, &set(&[]));
            check.signed(tally, 3, &signed, &head);
        };
        check(|check, tally| sign(check, tally, 2), Status::Pass);
        check(|check, tally| sign(check, tally, 1), Status::Fail);
    }

    #[test]
    fn feeds_have_positions_of_their_own_and_who_never_had_one_holds_nothing_of_it() {
        let sign_other = |check: &mut FeedCheck, tally: &mut Tally| {
            let (signed, head) = head_of("north", 1, &set(&["bob"]));
            check.signed(tally, 3, &signed, &head);
        };
        check(sign_other, Status::Pass);
        check(
            |check, tally| {
                sign_other(check, tally);
                store_of("north", check, tally, 1, &["bob"], &["bob"]);
            },
            Status::Fail,
        );
        check(
            |check, tally| {
                sign_other(check, tally);
                check.followed(0, own("north"));
                store_of("north", check, tally, 1, &["bob"], &["bob"]);
                store(check, tally, 1, &["ann"], &["ann"]);
                assert_eq!(check.lacks(0, &owed("north", 1)), None);
                assert!(check.stands_at(0, &owed("north", 1)) && !check.stands_at(0, &owed("main", 1)));
                check.let_go(0, &"main".parse().unwrap());
                assert_eq!(check.seq(0, &"main".parse().unwrap()), 0);
            },
            Status::Pass,
        );
    }

    #[test]
    fn who_lacks_what_is_told() {
        check(
            |check, tally| {
                assert!(check.lacks(0, &owed("main", 1)).is_some());
                store(check, tally, 1, &["ann"], &["ann"]);
                assert_eq!(check.lacks(0, &owed("main", 1)), None);
                assert!(check.lacks(0, &owed("main", 2)).is_some());
                assert!(check.lacks(0, &owed("north", 1)).is_some());
            },
            Status::Pass,
        );
    }
}
