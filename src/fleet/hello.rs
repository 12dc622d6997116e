//! A device says hello: what it told is noted, what it should know is said.
//!
//! Owns: the check of a `hello`, what is remembered of it, the content of an acknowledgement.
//! Never: lowers what a device once named; believes a device about anything but itself.
//! Read next: `collect.rs`, which acknowledges audit.

use std::collections::BTreeMap;

use super::book::{Book, Device, Seen, Write};
use super::collect::furthest;
use super::publish::highest_possible;
use super::{Effects, FleetLog};
use crate::ids::{DeviceId, EraId, Nonce};
use crate::time::{Millis, Timestamp};
use crate::wire::audit::genesis;
use crate::wire::bundle::PublicKey;
use crate::wire::envelope::Signed;
use crate::wire::link::{Ack, EraAck, Hello, PENDING_ERAS_MAX};
use crate::wire::revocation::Position;
use crate::wire::Refused;

/// Segments that a device may have in flight, and how far this machine's clock may be off.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Terms {
    /// Segments in flight. 0: pause.
    pub window: u16,
    /// The clock's error.
    pub clock_error: Millis,
}

/// Of how many eras that share a number with one of its own a device is told.
const TWINS_MAX: usize = 8;
/// A sign of life that says nothing else is noted this often at most.
const NOTED_EVERY: Millis = Millis::from_secs(5);

/// Takes in a hello. Nothing is changed by one that is refused.
///
/// # Errors
/// Why it was refused.
pub fn receive(
    book: &mut Book,
    topic: &DeviceId,
    payload: &[u8],
    at: Timestamp,
    fx: &mut Effects,
) -> Result<Hello, Refused> {
    let hello = open(book, topic, payload)?;
    let device = known(book, topic)?.clone();
    if !device.joined {
        book.write(Write::Device(Box::new(Device { joined: true, ..device.clone() })), fx);
        fx.log(FleetLog::DeviceJoined { device: topic.clone() });
    }
    note(book, &device.keys.identity, &hello, at, fx);
    Ok(hello)
}

/// A hello that the device has signed under whose topic it came.
///
/// # Errors
/// Why it is none.
pub(super) fn open(book: &Book, topic: &DeviceId, payload: &[u8]) -> Result<Hello, Refused> {
    let device = known(book, topic)?;
    let signed = Signed::<Hello>::from_bytes(payload)?;
    let hello = signed.open(book.fleet(), [device.keys.identity.verifying()], 1)?;
    if hello.device != *topic {
        return Err(Refused::WrongDevice);
    }
    if hello.pending.len() > PENDING_ERAS_MAX {
        return Err(Refused::Malformed("more pending eras than a hello may name"));
    }
    Ok(hello)
}

/// The device, if this fleet has let it in. A retired one is still heard: its audit is evidence.
pub(super) fn known<'b>(book: &'b Book, id: &DeviceId) -> Result<&'b Device, Refused> {
    book.device(id).ok_or(Refused::Malformed("from a device that this fleet never let in"))
}

fn note(book: &mut Book, identity: &PublicKey, hello: &Hello, at: Timestamp, fx: &mut Effects) {
    let before = book.seen(&hello.device).filter(|seen| seen.identity == *identity);
    // E never falls on a device, but where the root keys reset it, and then it has written more: what claims less of both
    // was said before what is noted already.
    let place = (hello.era.number, hello.next_index);
    if before.is_some_and(|seen| hello.floor < seen.floor && place <= (seen.era.number, seen.next_index)) {
        return;
    }
    let feeds = before.map(|seen| seen.feeds.clone()).unwrap_or_default();
    let short = |text: &str| text.chars().filter(|c| !c.is_control()).take(32).collect::<String>();
    let seen = Seen {
        device: hello.device.clone(),
        identity: *identity,
        at,
        said: at,
        boot: hello.boot,
        era: hello.era,
        next_index: hello.next_index,
        bundle_version: hello.bundle_version,
        policy_version: hello.policy_version,
        feeds: merge(book, &hello.device, feeds, &hello.feeds, at, fx),
        grants: hello.grants,
        floor: hello.floor,
        mode: short(&hello.mode),
        version: short(&hello.version),
    };
    book.write(Write::Seen(Box::new(seen)), fx);
}

/// Positions that a segment or a state named: they may prove that the feed was forked, or that this ledger is an old copy.
/// What is news from the device, and not repeated by the broker, is a sign of life: `alive`.
pub(super) fn note_positions(
    book: &mut Book,
    device: &DeviceId,
    named: &[Position],
    alive: bool,
    at: Timestamp,
    fx: &mut Effects,
) {
    let Some(seen) = book.seen(device).cloned() else { return };
    let feeds = merge(book, device, seen.feeds.clone(), named, at, fx);
    let at = if alive { at.max(seen.at) } else { seen.at };
    if feeds != seen.feeds || at.since(seen.at) >= NOTED_EVERY {
        book.write(Write::Seen(Box::new(Seen { feeds, at, ..seen })), fx);
    }
}

/// The highest position of each of this fleet's feeds, of those known and those named now.
fn merge(
    book: &Book,
    device: &DeviceId,
    mut known: Vec<Position>,
    named: &[Position],
    at: Timestamp,
    fx: &mut Effects,
) -> Vec<Position> {
    for position in named.iter().filter(|position| book.knows_feed(&position.feed)) {
        // Of an era that the root keys have not begun, or further ahead than there can be heads, nobody of the fleet has signed
        // anything: a device that says so lies, or has been lied to, and keeps nobody from publishing.
        let of = book.of(&position.feed);
        let (era, most) = (of.era(), highest_possible(of, at));
        if position.era > era || (position.era == era && position.seq > most) {
            let (device, feed, era, seq) = (device.clone(), position.feed.clone(), position.era, position.seq);
            fx.log(FleetLog::FeedImpossible { device, feed, era, seq, most });
            continue;
        }
        if book.of(&position.feed).head_digest(position.order()).is_some_and(|digest| *digest != position.digest) {
            let (device, feed) = (device.clone(), position.feed.clone());
            fx.log(FleetLog::FeedForked { device, feed, seq: position.seq });
        }
        match known.iter_mut().find(|known| known.feed == position.feed) {
            Some(highest) if highest.order() < position.order() => *highest = position.clone(),
            Some(_) => {}
            None => known.push(position.clone()),
        }
    }
    known
}

/// The eras that the acknowledgement of a hello speaks of: those it names, the newest that the device's present key began,
/// which tells a restored disk what it is, and those of that key whose numbers it names for other eras, which tell that there
/// are two of it.
pub fn eras_of(book: &Book, device: &Device, hello: &Hello) -> Vec<EraAck> {
    let named = || hello.pending.iter().chain([&hello.era]);
    let own = || {
        let eras = book.eras(&device.id).rev();
        eras.filter(|chain| chain.signer().is_some_and(|signer| signer.identity == device.keys.identity))
    };
    let newest = own().next().map(|chain| chain.ack);
    let twins = own().map(|chain| chain.ack).filter(|ack| named().any(|era| era.number == ack.era.number));
    let others: BTreeMap<EraId, EraAck> = twins.take(TWINS_MAX).chain(newest).map(|ack| (ack.era, ack)).collect();
    let others = others.into_values().filter(|ack| !named().any(|era| *era == ack.era));
    named().map(|era| furthest(book, &device.id, *era)).chain(others).collect()
}

/// How far the collector holds an era; one that it has never seen stands at its genesis.
pub(super) fn era_ack(book: &Book, device: &DeviceId, era: EraId) -> EraAck {
    let head = || genesis(book.fleet(), device, era);
    book.era(device, era)
        .map_or_else(|| EraAck { era, next_segment: 0, next_index: 0, head: head() }, |chain| chain.ack)
}

/// The one acknowledgement: delivery, time, rollback detection, newest head.
pub fn ack(
    book: &Book,
    device: &DeviceId,
    nonce: Option<Nonce>,
    eras: Vec<EraAck>,
    terms: Terms,
    at: Timestamp,
) -> Ack {
    let own = book.of(book.routes().feed_of(device));
    Ack {
        device: device.clone(),
        nonce,
        time: at,
        radius_ms: terms.clock_error,
        eras,
        feeds: own.head().map(|head| head.position.clone()).into_iter().collect(),
        bundle_version: book.trust().version,
        policy_version: book.policy().1.version,
        grants: book.live_grants_digest(device, at),
        window: terms.window,
    }
}

#[cfg(test)]
mod tests {
    use super::super::service::tests::{at, device_keys, one_device};
    use super::*;
    use crate::fleet::book::EraChain;
    use crate::ids::Hash;
    use crate::wire::audit::signer::Signer;
    use crate::wire::enrol::DeviceKeys;

    fn sign(hello: &Hello, keys: &DeviceKeys, fleet: &str) -> Vec<u8> {
        Signed::sign(hello, &fleet.parse().unwrap(), &[&keys.identity]).to_bytes()
    }

    #[test]
    fn forged_foreign_and_misplaced_hellos_leave_no_trace() {
        let (_, mut book, hello, _) = one_device();
        let mine = device_keys(1);
        let gw: DeviceId = "gw-07".parse().unwrap();
        let mut check = |topic: &str, payload: Vec<u8>| {
            let mut fx = Effects::default();
            let refused = receive(&mut book, &topic.parse().unwrap(), &payload, at(5), &mut fx).unwrap_err();
            assert!(!fx.has_writes());
            refused
        };
        assert!(matches!(check("gw-08", sign(&hello(1), &mine, "acme")), Refused::Malformed(_)));
        assert!(matches!(check("gw-07", sign(&hello(1), &device_keys(2), "acme")), Refused::UnknownKey { .. }));
        assert_eq!(check("gw-07", sign(&hello(1), &mine, "other")), Refused::BadSignature);
        let other = Hello { device: "gw-08".parse().unwrap(), ..hello(1) };
        assert_eq!(check("gw-07", sign(&other, &mine, "acme")), Refused::WrongDevice);
        let many = Hello { pending: vec![EraId { number: 1, salt: 1 }; 17], ..hello(1) };
        assert!(matches!(check("gw-07", sign(&many, &mine, "acme")), Refused::Malformed(_)));
        assert!(matches!(check("gw-07", vec![7; 5000]), Refused::TooLarge { .. }));
        assert!(book.seen(&gw).is_none() && !book.device(&gw).unwrap().joined);
    }

    #[test]
    fn a_replayed_hello_lowers_nothing() {
        let (_, mut book, hello, _) = one_device();
        let mine = device_keys(1);
        let gw: DeviceId = "gw-07".parse().unwrap();
        let fx = &mut Effects::default();
        let old = Hello { floor: at(10), mode: "offline".into(), ..hello(1) };
        let new = Hello { floor: at(20), mode: "online".into(), ..hello(2) };
        receive(&mut book, &gw, &sign(&new, &mine, "acme"), at(21), fx).unwrap();
        let replayed = receive(&mut book, &gw, &sign(&old, &mine, "acme"), at(22), fx).unwrap();
        assert_eq!(book.seen(&gw).unwrap().mode, "online");
        let ack =
            ack(&book, &gw, Some(replayed.nonce), Vec::new(), Terms { window: 8, clock_error: Millis(1) }, at(22));
        assert_eq!(ack.nonce, Some(old.nonce), "the device has no such nonce any more and will refuse it");
        assert!(book.device(&gw).unwrap().joined);
    }

    #[test]
    fn an_acknowledgement_names_unknown_eras_at_their_genesis() {
        let (_, book, hello, _) = one_device();
        let device = book.device(&"gw-07".parse().unwrap()).unwrap();
        let eras = eras_of(&book, device, &hello(1));
        assert_eq!(eras.len(), 1);
        assert_eq!((eras[0].next_segment, eras[0].next_index), (0, 0));
        assert_eq!(eras[0].head, genesis(book.fleet(), &device.id, eras[0].era));
    }

    #[test]
    fn an_acknowledgement_names_the_eras_that_share_a_number_with_one_of_the_device() {
        let (_, mut book, hello, _) = one_device();
        let device = book.device(&"gw-07".parse().unwrap()).unwrap().clone();
        let own = hello(1).era;
        let signer = |identity: PublicKey| Signer { key: identity, epoch: 1, identity };
        let chain = |era: EraId, signer: Signer| {
            let ack = EraAck { era, next_segment: 3, next_index: 9, head: Hash([1; 32]) };
            EraChain { device: device.id.clone(), ack, signers: vec![signer] }
        };
        let (twin, later) = (EraId { salt: own.salt + 1, ..own }, EraId { number: own.number + 2, salt: 5 });
        let stranger = EraId { salt: own.salt + 2, ..own };
        let fx = &mut Effects::default();
        book.write(Write::Era(chain(twin, signer(device.keys.identity))), fx);
        book.write(Write::Era(chain(stranger, signer(device_keys(2).public().identity))), fx);
        book.write(Write::Era(chain(later, signer(device.keys.identity))), fx);
        let named: Vec<EraId> = eras_of(&book, &device, &hello(1)).into_iter().map(|ack| ack.era).collect();
        assert_eq!(named, [own, twin, later], "and nothing that another key began");
    }
}
