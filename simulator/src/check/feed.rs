//! I5 and I8 for the revocation feed: a gateway's complete position is one that the fleet signed, its set is the set of that
//! position, and no position is signed twice.
//!
//! Owns: every head that the fleet signed; what each gateway's disk holds of it.
//! Never: believes a gateway's own sum: the root is reckoned anew from the bytes on its disk.
//! Read next: `authority.rs`, which judges decisions by what was heard.

use std::collections::BTreeMap;

use hardtack::agent::feed::Held;
use hardtack::ids::{DeviceId, Hash};
use hardtack::wire::envelope::Signed;
use hardtack::wire::revocation::announcement::Head;
use hardtack::wire::revocation::manifest::Manifest;
use hardtack::wire::revocation::Position;

use super::{Id, Tally};

/// A position and the root of its set, as a gateway's disk has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stand {
    order: (u32, u64),
    root: Hash,
}

/// What the fleet signed, and what gateways hold.
#[derive(Debug)]
pub(crate) struct FeedCheck {
    /// Digest and root of each head.
    signed: BTreeMap<(u32, u64), (Hash, Hash)>,
    /// Positions that somebody signed who had stolen the feed's key, and that gateways could not refuse.
    forged: Vec<Position>,
    held: Vec<Option<Stand>>,
}

impl FeedCheck {
    pub(crate) fn new(devices: u32) -> Self {
        Self { signed: BTreeMap::new(), forged: Vec::new(), held: (0..devices).map(|_| None).collect() }
    }

    /// The fleet signed a head: above all before it.
    pub(crate) fn signed(&mut self, tally: &mut Tally, at: u64, signed: &Signed<Head>, head: &Head) {
        let order = (head.era, head.seq);
        let newest = self.signed.last_key_value().map(|(order, _)| *order);
        let again = newest.filter(|newest| order <= *newest);
        let broken = again.map(|newest| format!("the fleet signed head {order:?} after head {newest:?}"));
        tally.tried(Id::Position, at, broken);
        self.signed.entry(order).or_insert((signed.digest(), head.root));
    }

    /// A head that a gateway was given in the place of the fleet's, by a fault that the proofs do not cover.
    pub(crate) fn forged(&mut self, position: Option<Position>) {
        self.forged.extend(position);
    }

    /// Whether a head is one of the fleet's.
    pub(crate) fn is_signed(&self, position: &Position) -> bool {
        self.signed.get(&position.order()).is_some_and(|(digest, _)| *digest == position.digest)
    }

    /// A feed's files are durable: the set is the one of its head.
    pub(crate) fn durable(&mut self, tally: &mut Tally, at: u64, (device, name): (u32, &DeviceId), held: &Held) {
        let Some(signed) = &held.head else { return };
        let Ok(head) = signed.claim() else { return };
        let order = (head.era, head.seq);
        if self.forged.contains(&head.position(signed.digest())) {
            self.held[device as usize] = Some(Stand { order, root: Hash::ZERO });
            return;
        }
        let root = Manifest::of(&held.set).root();
        let broken = match self.signed.get(&order) {
            Some((digest, _)) if *digest != signed.digest() => {
                Some(format!("{name} stands at a head {order:?} that the fleet did not sign so"))
            }
            Some((_, truth)) if *truth != root => Some(format!("{name} claims head {order:?} without its set")),
            Some(_) => None,
            None => Some(format!("{name} stands at head {order:?}, which the fleet did not sign")),
        };
        tally.tried(Id::Position, at, broken);
        self.held[device as usize] = Some(Stand { order, root });
    }

    /// What a gateway says of its positions is true.
    pub(crate) fn said(&self, tally: &mut Tally, at: u64, name: &DeviceId, positions: &[Position]) {
        let lie = positions.iter().find(|position| !self.is_signed(position) && !self.forged.contains(position));
        let broken = lie.map(|lie| format!("{name} says that it holds head {:?}, which nobody signed", lie.order()));
        tally.tried(Id::Position, at, broken);
    }

    /// Whether a gateway's disk holds the set of a head that was the newest so far: what it lacks, if anything.
    pub(crate) fn lacks(&self, device: u32, newest: u64) -> Option<String> {
        let held = self.held[device as usize];
        let truth = held.and_then(|held| self.signed.get(&held.order));
        match (held, truth) {
            (Some(held), Some((_, root))) if held.order.1 >= newest && held.root == *root => None,
            (Some(held), _) => Some(format!("holds the set of head {:?}, and head {newest} is due", held.order)),
            (None, _) => Some("holds no set at all".into()),
        }
    }

    /// Whether a gateway holds a head completely, and no newer one.
    pub(crate) fn stands_at(&self, device: u32, order: (u32, u64)) -> bool {
        self.held[device as usize].is_some_and(|held| held.order == order)
    }

    /// The number of the complete head on a gateway's disk.
    pub(crate) fn seq(&self, device: u32) -> u64 {
        self.held[device as usize].map_or(0, |held| held.order.1)
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
        let cadence = Cadence::every(Millis(1));
        let successor = Successor {
            feed: &"main".parse().unwrap(),
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
        edit(&mut check, &mut tally);
        let property = tally.properties().into_iter().find(|property| property.id == "I5.position").unwrap();
        assert_eq!(property.status, expected, "{property:?}");
    }

    fn store(check: &mut FeedCheck, tally: &mut Tally, seq: u64, named: &[&str], held: &[&str]) {
        let stored = StoredFeed::enrolled(1, head(seq, &set(named)).0, set(held).to_bytes(), None).unwrap();
        check.durable(tally, 2, (0, &"gw-0".parse().unwrap()), &Held::read(&stored.to_bytes(), None).unwrap());
    }

    #[test]
    fn a_position_without_its_set_and_one_that_nobody_signed_are_seen() {
        check(|check, tally| store(check, tally, 1, &["ann"], &["ann"]), Status::Pass);
        check(|check, tally| store(check, tally, 1, &["ann"], &[]), Status::Fail);
        check(|check, tally| store(check, tally, 1, &["bob"], &["bob"]), Status::Fail);
        check(|check, tally| store(check, tally, 2, &["ann"], &["ann"]), Status::Fail);
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
    fn who_lacks_what_is_told() {
        check(
            |check, tally| {
                assert!(check.lacks(0, 1).is_some());
                store(check, tally, 1, &["ann"], &["ann"]);
                assert_eq!(check.lacks(0, 1), None);
                assert!(check.lacks(0, 2).is_some());
            },
            Status::Pass,
        );
    }
}
