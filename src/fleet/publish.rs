//! The revocation feed as the fleet signs it, and what the broker keeps for devices.
//!
//! Owns: when a new head is due, its number, its list; the retained messages in the order in which devices need them.
//! Never: signs a number twice, or at or below one that a device has seen from a ledger that is lost.
//! Read next: `wire/revocation.rs`.

use ed25519_dalek::SigningKey;

use super::acts::{self, Deed};
use super::book::{Book, Status, Write};
use super::revoke::live_rules;
use super::{Effects, FleetError, FleetLog, Operator};
use crate::agent::effects::Publish;
use crate::ids::Hash;
use crate::time::{Millis, Timestamp};
use crate::wire::encode;
use crate::wire::envelope::Signed;
use crate::wire::link::Topic;
use crate::wire::revocation::{Chunk, Head, List};

/// When heads are due.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cadence {
    /// A head is signed anew after this long, even if nothing changed: it is what devices measure staleness by.
    pub interval: Millis,
}

impl Cadence {
    /// What a head promises: the next one comes within three intervals.
    fn next_update(self) -> Millis {
        Millis(self.interval.0.saturating_mul(3))
    }
}

/// Signs the next head if one is due: rules, bundle or policy changed, or the interval has passed. Says whether it did.
pub fn advance(book: &mut Book, feed: &SigningKey, cadence: Cadence, at: Timestamp, fx: &mut Effects) -> bool {
    let list = List::new(live_rules(book, at));
    if !is_due(book, &list, cadence, at) {
        return false;
    }
    let (bytes, digest) = (list.to_bytes().len(), list.digest());
    let lapsed = book.rules().map(|rule| rule.until).filter(|until| *until < at).max().unwrap_or_default();
    let last = book.head();
    let head = Head {
        feed: book.feed(),
        era: last.map_or(1, |last| last.head.era),
        seq: last.map_or(0, |last| last.head.seq).max(book.resumed()) + 1,
        previous: last.map_or(Hash::ZERO, |last| last.position.digest),
        // The clock of this machine may be set back; what devices have seen never is.
        issued_at: last.map_or(at, |last| last.head.issued_at.max(at)),
        next_update_ms: cadence.next_update(),
        dropped_before: last.map_or(lapsed, |last| last.head.dropped_before.max(lapsed)),
        list: digest,
        list_bytes: u32::try_from(bytes).expect("a rule that would make the list longer than 512 KiB is refused"),
        bundle_version: book.trust().version,
        policy_version: book.policy().1.version,
    };
    let (seq, rules) = (head.seq, list.rules().len() as u64);
    let signed = Signed::sign(&head, book.fleet(), &[feed]);
    if last.is_none_or(|last| last.head.list != digest) {
        book.write(Write::List(list), fx);
    }
    book.write(Write::Head(signed), fx);
    fx.log(FleetLog::FeedSigned { feed: book.feed(), seq, rules });
    true
}

fn is_due(book: &Book, list: &List, cadence: Cadence, at: Timestamp) -> bool {
    book.head().is_none_or(|last| {
        let head = &last.head;
        let changed = head.list != list.digest()
            || head.bundle_version != book.trust().version
            || head.policy_version != book.policy().1.version;
        changed || at.since(head.issued_at) >= cadence.interval || book.resumed() >= head.seq
    })
}

/// How long until a head is due though nothing changed.
pub fn due_in(book: &Book, cadence: Cadence, at: Timestamp) -> Millis {
    let age = book.head().map_or(cadence.interval, |last| at.since(last.head.issued_at));
    Millis(cadence.interval.0.saturating_sub(age.0))
}

/// Whether a publisher that starts may sign: no device of the fleet has seen a head that this ledger does not hold.
///
/// # Errors
/// [`FleetError::Behind`], naming the device.
pub fn may_start(book: &Book) -> Result<(), FleetError> {
    let own = book.head().map_or(0, |head| head.head.seq).max(book.resumed());
    let approved = book.devices().filter(|device| device.status == Status::Approved);
    let mut seen = approved.filter_map(|device| book.seen(&device.id)).flat_map(|seen| {
        let positions = seen.feeds.iter().filter(|position| position.feed == book.feed());
        positions.map(|position| (&seen.device, position.seq))
    });
    match seen.find(|(_, seq)| *seq > own) {
        Some((device, seen)) => Err(FleetError::Behind { device: device.clone(), seen, own }),
        None => Ok(()),
    }
}

/// An operator vouches that the feed goes on after `after`: what the lost ledger had revoked is revoked again.
///
/// # Errors
/// [`FleetError::Invalid`] when this ledger is that far already.
pub fn resume(
    book: &mut Book,
    after: u64,
    operator: Operator<'_>,
    at: Timestamp,
    fx: &mut Effects,
) -> Result<(), FleetError> {
    let own = book.head().map_or(0, |head| head.head.seq);
    if after <= own || after > u64::MAX / 2 {
        return Err(FleetError::Invalid(format!("this ledger's feed stands at {own} already: --after is not needed")));
    }
    book.write(Write::Resumed(after), fx);
    acts::record(book, operator, Deed::Resumed { after }, at, fx)
}

/// All that the broker keeps, in the order in which a device needs it: bundles, policy, pieces of the list, head.
pub fn retained(book: &Book) -> Vec<Publish> {
    let bundles = book.trusts().iter().zip(book.bundles());
    let mut messages: Vec<Publish> =
        bundles.map(|(trust, signed)| message(Topic::Bundle(trust.version), signed.to_bytes())).collect();
    let (policy, document) = book.policy();
    messages.push(message(Topic::Policy(document.version), policy.to_bytes()));
    messages.extend(list(book));
    messages.extend(head(book));
    messages
}

/// The pieces of the list that the newest head names.
pub fn list(book: &Book) -> Vec<Publish> {
    let feed = book.feed();
    let pieces = Chunk::split(book.list()).into_iter();
    pieces.map(|piece| message(Topic::FeedSnapshot(feed.clone(), piece.index), encode(&piece))).collect()
}

/// The newest head.
pub fn head(book: &Book) -> Option<Publish> {
    book.head().map(|head| message(Topic::FeedHead(book.feed()), head.signed.to_bytes()))
}

fn message(topic: Topic, payload: Vec<u8>) -> Publish {
    Publish { topic, payload }
}

#[cfg(test)]
mod tests {
    use super::super::revoke::{revoke, Revocation};
    use super::super::service::tests::{at, founded, CADENCE};
    use super::*;
    use crate::agent::revocation::Revocations;
    use crate::wire::revocation::Target;

    fn tell(device: &mut Revocations, book: &Book) {
        let feed = book.feed();
        for publish in list(book) {
            device.chunk(&feed, &publish.payload, Timestamp(0)).unwrap();
        }
        let payload = head(book).unwrap().payload;
        device.head(&feed, &payload, book.trust(), Timestamp(0)).unwrap();
    }

    #[test]
    fn heads_come_with_changes_and_with_time_and_devices_take_them() {
        let (keys, mut book) = founded();
        let mut device = Revocations::default();
        let fx = &mut Effects::default();
        tell(&mut device, &book);
        assert_eq!(device.positions()[0].seq, 1);
        assert!(!advance(&mut book, &keys.feed, CADENCE, at(1), fx), "nothing changed");
        let rule = Revocation { target: Target::Task("t".parse().unwrap()), until: Some(at(100)), reason: "r".into() };
        revoke(&mut book, rule, keys.operator("ann"), at(2), fx).unwrap();
        assert!(advance(&mut book, &keys.feed, CADENCE, at(2), fx));
        tell(&mut device, &book);
        assert_eq!((device.positions()[0].seq, book.list().rules().len()), (2, 1));
        assert!(advance(&mut book, &keys.feed, CADENCE, at(62), fx), "the interval has passed");
        tell(&mut device, &book);
        assert!(advance(&mut book, &keys.feed, CADENCE, at(101), fx), "the rule has lapsed");
        tell(&mut device, &book);
        assert_eq!((device.positions()[0].seq, book.list().rules().len()), (4, 0));
        assert_eq!(device.dropped_before(), at(100), "what the rule covered stays refused");
        assert!(advance(&mut book, &keys.feed, CADENCE, at(1000), fx));
        let newest = book.head().unwrap().head.issued_at;
        assert!(!advance(&mut book, &keys.feed, CADENCE, at(500), fx), "the clock went back");
        assert_eq!(book.head().unwrap().head.issued_at, newest);
    }

    #[test]
    fn a_restored_ledger_does_not_fork_the_feed() {
        let (keys, mut book, hello, _) = super::super::service::tests::one_device();
        let fx = &mut Effects::default();
        let mut seen = hello(7);
        seen.feeds[0].seq = 40;
        let signed = Signed::sign(&seen, book.fleet(), &[&super::super::service::tests::device_keys(1).identity]);
        super::super::hello::receive(&mut book, &seen.device, &signed.to_bytes(), at(50), fx).unwrap();
        assert!(matches!(may_start(&book), Err(FleetError::Behind { seen: 40, .. })));
        assert!(resume(&mut book, 1, keys.operator("ann"), at(51), fx).is_err());
        resume(&mut book, 40, keys.operator("ann"), at(51), fx).unwrap();
        may_start(&book).unwrap();
        assert!(advance(&mut book, &keys.feed, CADENCE, at(51), fx));
        assert_eq!(book.head().unwrap().head.seq, 41);
    }

    #[test]
    fn what_is_retained_comes_in_the_order_of_trust() {
        let (_, book) = founded();
        let topics: Vec<String> = retained(&book).iter().map(|publish| publish.topic.to_string()).collect();
        assert_eq!(topics, ["bundle/1", "policy/1", "feed/main/snap/0/0", "feed/main/head"]);
    }
}
