//! The revocation feed as the fleet signs it, and what the broker keeps for devices.
//!
//! Owns: whose turn it is to publish; when a new head is due, its number, its list; the retained messages in the order in
//! which devices need them.
//! Never: signs a number twice, or at or below one that a device has seen from a ledger that is lost.
//! Read next: `wire/revocation.rs`.

use ed25519_dalek::SigningKey;

use super::acts::{self, Deed};
use super::book::{Book, Publisher, Restored, Status, Write};
use super::revoke::live_rules;
use super::{Effects, FleetError, FleetLog, Operator};
use crate::agent::effects::Publish;
use crate::ids::Hash;
use crate::time::{Millis, Timestamp};
use crate::wire::encode;
use crate::wire::envelope::Signed;
use crate::wire::link::Topic;
use crate::wire::revocation::{Chunk, Head, List, Target};

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

/// A publisher starts: whoever had the turn before signs no more. Gives the number of the turn, which the publisher brings
/// to [`check_turn`] in every transaction.
pub fn take_turn(book: &mut Book, holder: String, at: Timestamp, fx: &mut Effects) -> u64 {
    let turn = book.publisher().map_or(0, |before| before.turn) + 1;
    book.write(Write::Publisher(Publisher { turn, holder, at }), fx);
    turn
}

/// Whether it is still this publisher's turn.
///
/// # Errors
/// [`FleetError::Superseded`], naming who has it.
pub fn check_turn(book: &Book, turn: u64) -> Result<(), FleetError> {
    match book.publisher().filter(|publisher| publisher.turn != turn) {
        Some(Publisher { holder, at, .. }) => Err(FleetError::Superseded { holder: holder.clone(), at: *at }),
        None => Ok(()),
    }
}

/// Signs the next head if one is due: rules, bundle or policy changed, or the interval has passed. Says whether it did. A
/// ledger that is behind what devices have seen signs nothing.
pub fn advance(book: &mut Book, feed: &SigningKey, cadence: Cadence, at: Timestamp, fx: &mut Effects) -> bool {
    let list = List::new(live_rules(book, at));
    if !is_due(book, &list, cadence, at) || may_start(book).is_err() {
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

/// Whether the newest head says all that the ledger does.
pub fn is_current(book: &Book, at: Timestamp) -> bool {
    let unchanged = Cadence { interval: Millis(u64::MAX) };
    !is_due(book, &List::new(live_rules(book, at)), unchanged, at)
}

/// How long until a head is due though nothing changed.
pub fn due_in(book: &Book, cadence: Cadence, at: Timestamp) -> Millis {
    if may_start(book).is_err() {
        return cadence.interval;
    }
    let age = book.head().map_or(cadence.interval, |last| at.since(last.head.issued_at));
    Millis(cadence.interval.0.saturating_sub(age.0))
}

/// The highest number of this feed that this ledger has signed, or that somebody has vouched for.
fn own(book: &Book) -> u64 {
    book.head().map_or(0, |head| head.head.seq).max(book.resumed())
}

/// The highest number of this feed that the ledger knows to have been signed, by itself or by one that was lost.
pub fn highest_known(book: &Book) -> u64 {
    let seen = book.devices().filter_map(|device| book.seen(&device.id)).flat_map(|seen| &seen.feeds);
    let feed = book.feed();
    let restored = book.restored().map_or(0, |restored| restored.least);
    seen.filter(|position| position.feed == feed).map(|position| position.seq).fold(own(book).max(restored), u64::max)
}

/// Whether a publisher may sign: this ledger is no copy whose loss nobody has made up for, and no device of the fleet has
/// seen a head that it does not hold. What a revoked device says does not count: it could keep its own revocation back.
///
/// # Errors
/// [`FleetError::Restored`], or [`FleetError::Behind`], naming the device.
pub fn may_start(book: &Book) -> Result<(), FleetError> {
    if let Some(Restored { at, .. }) = book.restored() {
        return Err(FleetError::Restored { at: *at, least: highest_known(book) });
    }
    let own = own(book);
    let counts = |device: &&super::book::Device| {
        device.status == Status::Approved && book.rule(&Target::Device(device.id.clone())).is_none()
    };
    let approved = book.devices().filter(counts);
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
/// [`FleetError::Invalid`] when this ledger is that far already, or when more is known to have been signed.
pub fn resume(
    book: &mut Book,
    after: u64,
    operator: Operator<'_>,
    at: Timestamp,
    fx: &mut Effects,
) -> Result<(), FleetError> {
    let head = book.head().map_or(0, |head| head.head.seq);
    let restored = book.restored().copied();
    if restored.is_none() && after <= head {
        return Err(FleetError::Invalid(format!("this ledger's feed stands at {head} already: --after is not needed")));
    }
    let least = restored.map_or(0, |restored| restored.least.max(own(book)));
    if after < least {
        return Err(FleetError::Invalid(format!("head {least} was signed already: pass --after {least} or more")));
    }
    if after > u64::MAX / 2 {
        let message = format!("after {after} no numbers would be left: pass the highest that a device or a log names");
        return Err(FleetError::Invalid(message));
    }
    if let Some(restored) = restored {
        book.write(Write::Restored(Restored { settled: true, ..restored }), fx);
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
    fn a_copy_that_was_put_back_signs_nothing_until_somebody_vouches() {
        let (keys, mut book) = founded();
        let fx = &mut Effects::default();
        let ann = keys.operator("ann");
        book.write(Write::Restored(Restored { at: at(5), least: 30, settled: false }), fx);
        assert!(matches!(may_start(&book), Err(FleetError::Restored { least: 30, .. })));
        assert!(!advance(&mut book, &keys.feed, CADENCE, at(500), fx));
        assert_eq!(due_in(&book, CADENCE, at(500)), CADENCE.interval, "nothing to wake up for");
        assert!(resume(&mut book, 29, ann, at(501), fx).is_err());
        resume(&mut book, 30, ann, at(501), fx).unwrap();
        assert!(advance(&mut book, &keys.feed, CADENCE, at(502), fx));
        assert_eq!(book.head().unwrap().head.seq, 31);
        book.write(Write::Restored(Restored { at: at(503), least: 31, settled: false }), fx);
        resume(&mut book, 31, ann, at(504), fx).unwrap();
        assert!(advance(&mut book, &keys.feed, CADENCE, at(504), fx), "nothing was lost, and it is said");
        assert_eq!(book.head().unwrap().head.seq, 32);
    }

    #[test]
    fn a_running_publisher_stops_at_what_a_device_has_seen_but_not_for_a_revoked_one() {
        let (keys, mut book, hello, _) = super::super::service::tests::one_device();
        let fx = &mut Effects::default();
        let mut seen = hello(7);
        seen.feeds[0].seq = 40;
        let signed = Signed::sign(&seen, book.fleet(), &[&super::super::service::tests::device_keys(1).identity]);
        super::super::hello::receive(&mut book, &seen.device, &signed.to_bytes(), at(50), fx).unwrap();
        assert!(!advance(&mut book, &keys.feed, CADENCE, at(500), fx));
        assert_eq!(highest_known(&book), 40);
        let rule = Revocation { target: Target::Device(seen.device), until: None, reason: "it lies".into() };
        revoke(&mut book, rule, keys.operator("ann"), at(501), fx).unwrap();
        assert!(advance(&mut book, &keys.feed, CADENCE, at(501), fx), "a stolen device cannot keep this back");
        assert_eq!((book.head().unwrap().head.seq, is_current(&book, at(501))), (2, true));
    }

    #[test]
    fn whoever_took_the_turn_later_has_it() {
        let (_, mut book) = founded();
        let fx = &mut Effects::default();
        let first = take_turn(&mut book, "one".into(), at(1), fx);
        assert_eq!(check_turn(&book, first), Ok(()));
        let second = take_turn(&mut book, "two".into(), at(2), fx);
        assert_eq!(check_turn(&book, second), Ok(()));
        assert_eq!(check_turn(&book, first), Err(FleetError::Superseded { holder: "two".into(), at: at(2) }));
    }

    #[test]
    fn what_is_retained_comes_in_the_order_of_trust() {
        let (_, book) = founded();
        let topics: Vec<String> = retained(&book).iter().map(|publish| publish.topic.to_string()).collect();
        assert_eq!(topics, ["bundle/1", "policy/1", "feed/main/snap/0/0", "feed/main/head"]);
    }
}
