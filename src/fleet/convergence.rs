//! Who has what was published: where each device stands in the feed, by its own signed word.
//!
//! Owns: the position that a device applied, how far that is behind, the mode that it named last, when it was last heard of
//! and whether it can be reached; which head holds a rule.
//! Never: counts a device that has not said so itself. The broker can make one seem out of reach, never up to date.
//! Read next: `hello.rs` and `service.rs`, which note what devices say.

use std::collections::BTreeMap;

use super::book::{Book, Device, Rule, Status};
use super::publish::holds;
use crate::ids::{DeviceId, FeedId};
use crate::time::{Millis, Timestamp};
use crate::wire::link::State;
use crate::wire::revocation::Position;

/// After so long without a sign of life a device counts as out of reach, whatever the broker says: the longest pause between
/// two hellos of any firmware profile, and what the answer may take.
const SILENT: Millis = Millis::from_secs(3900);

/// Where a device stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Standing {
    /// The device.
    pub device: DeviceId,
    /// Its feed, by the newest trust bundle.
    pub feed: FeedId,
    /// The highest era and number of that feed that it said it has applied. None: it has said nothing yet.
    pub applied: Option<(u32, u64)>,
    /// Heads between that and the newest; all of the newest's era, if it has none of that.
    pub behind: u64,
    /// The mode that it named last, `gone` if it left. None: it has named none.
    pub mode: Option<String>,
    /// When that word came. The device may be in another mode since, and not be able to say so.
    pub mode_at: Option<Timestamp>,
    /// Its last sign of life. None: it was never heard of.
    pub heard: Option<Timestamp>,
    /// Since when it cannot be reached. None: it can be, as far as anybody knows.
    pub unreachable: Option<Timestamp>,
}

impl Standing {
    /// Whether the device can be reached, as far as anybody knows.
    pub fn is_reachable(&self) -> bool {
        self.heard.is_some() && self.unreachable.is_none()
    }

    /// Whether it has applied a head of its feed of this era and number or a newer one.
    pub fn has(&self, head: (u32, u64)) -> bool {
        self.applied.is_some_and(|applied| applied >= head)
    }
}

/// Where the devices that may have credentials stand.
pub fn standings(book: &Book, at: Timestamp) -> Vec<Standing> {
    let approved = book.devices().filter(|device| device.status == Status::Approved);
    approved.map(|device| standing(book, device, at)).collect()
}

/// Where one device stands.
pub fn standing(book: &Book, device: &Device, at: Timestamp) -> Standing {
    let feed = book.routes().feed_of(&device.id);
    let newest = book.of(feed).order();
    // What the keys that it had before have said, this one has not applied.
    let seen = book.seen(&device.id).filter(|seen| seen.identity == device.keys.identity);
    let position = seen.and_then(|seen| seen.feeds.iter().find(|position| position.feed == *feed));
    let applied = position.map(Position::order);
    let word = seen.and(book.presence(&device.id));
    // A hello is said before the device is online, its state when it is: of one moment, the state is the later word.
    let hello = seen.map(|seen| (seen.said, &seen.mode));
    let state = word.map(|word| (word.at, &word.mode)).filter(|(at, _)| hello.is_none_or(|(said, _)| *at >= said));
    let named = state.or(hello);
    let gone = word.filter(|word| word.mode == State::GONE).map(|word| word.at);
    let said = word.filter(|word| word.mode != State::GONE).map(|word| word.at);
    let heard = seen.map(|seen| said.map_or(seen.at, |said| said.max(seen.at)));
    let unreachable = heard.and_then(|heard| {
        let left = gone.filter(|gone| *gone >= heard);
        left.or_else(|| (at.since(heard) > SILENT).then_some(heard))
    });
    Standing {
        device: device.id.clone(),
        feed: feed.clone(),
        applied,
        behind: newest.1.saturating_sub(applied.filter(|(era, _)| *era == newest.0).map_or(0, |(_, seq)| seq)),
        mode: named.map(|(_, mode)| mode.clone()),
        mode_at: named.map(|(at, _)| at),
        heard,
        unreachable,
    }
}

/// Whether a device has the newest head of its feed.
pub fn is_up_to_date(book: &Book, standing: &Standing) -> bool {
    standing.has(book.of(&standing.feed).order())
}

/// Era and number of the newest head of each feed to which a revocation belongs, if its set holds it. None in the place of
/// one whose set does not yet.
pub fn heads_with(book: &Book, rule: &Rule) -> BTreeMap<FeedId, Option<(u32, u64)>> {
    let of = |id: &FeedId| {
        let feed = book.of(id);
        holds(feed, rule).then(|| feed.order())
    };
    book.routes().feeds(rule).into_iter().map(|feed| (feed.clone(), of(feed))).collect()
}

#[cfg(test)]
mod tests {
    use super::super::book::{Presence, Write};
    use super::super::hello::{note_positions, receive};
    use super::super::publish::advance;
    use super::super::revoke::{revoke, Revocation};
    use super::super::service::tests::{at, device_keys, one_device, CADENCE};
    use super::super::Effects;
    use super::*;
    use crate::ids::Hash;
    use crate::wire::envelope::Signed;
    use crate::wire::link::Hello;
    use crate::wire::revocation::Target;

    #[test]
    fn a_device_stands_where_it_said_and_is_away_since_it_left() {
        let (keys, mut book, hello, _) = one_device();
        let fx = &mut Effects::default();
        let only = |book: &Book, secs| standings(book, at(secs)).remove(0);
        let silent = only(&book, 2);
        assert_eq!((silent.applied, silent.behind, silent.is_reachable()), (None, 1, false), "never heard of");

        let say = |book: &mut Book, nonce, secs, fx: &mut Effects| {
            let signed = Signed::sign(&hello(nonce), book.fleet(), &[&device_keys(1).identity]);
            receive(book, &hello(nonce).device, &signed.to_bytes(), at(secs), fx).unwrap();
        };
        say(&mut book, 1, 3, fx);
        let heard = only(&book, 4);
        assert_eq!((heard.applied, heard.behind, heard.is_reachable()), (Some((1, 1)), 0, true));
        let target = Target::Task("t-1".parse().unwrap());
        let rule = Revocation { target, until: Some(at(5000)), reason: "r".into(), life: None, device: None };
        let rule = revoke(&mut book, rule, keys.operator("ann"), at(5), fx).unwrap();
        assert_eq!(heads_with(&book, &rule)[&book.feed()], None, "not signed yet");
        assert!(advance(&mut book, &keys.feed, CADENCE, at(5), fx));
        assert_eq!(heads_with(&book, &rule)[&book.feed()], Some((1, 2)));
        assert_eq!((only(&book, 6).behind, only(&book, 6).has((1, 2))), (1, false));

        let gone = |at| Presence { device: "gw-07".parse().unwrap(), word: Hash::ZERO, at, mode: State::GONE.into() };
        book.write(Write::Presence(gone(at(8))), fx);
        assert_eq!(only(&book, 9).unreachable, Some(at(8)));
        say(&mut book, 2, 10, fx);
        assert!(only(&book, 11).is_reachable(), "it came back");
        assert_eq!(only(&book, 11).mode_at, Some(at(10)), "what it says now counts, not that it was gone");
        assert_eq!(only(&book, 10 + 3901).unreachable, Some(at(10)), "silent for too long");
    }

    #[test]
    fn a_device_is_in_the_mode_that_it_named_last() {
        let (_, mut book, hello, _) = one_device();
        let fx = &mut Effects::default();
        let mode = |book: &Book| {
            let standing = standings(book, at(100)).remove(0);
            standing.mode.zip(standing.mode_at)
        };
        assert_eq!(mode(&book), None, "it has said nothing");
        let say = |book: &mut Book, nonce, mode: &str, secs, fx: &mut Effects| {
            let hello = Hello { mode: mode.into(), ..hello(nonce) };
            let signed = Signed::sign(&hello, book.fleet(), &[&device_keys(1).identity]);
            receive(book, &hello.device, &signed.to_bytes(), at(secs), fx).unwrap();
        };
        let state = |book: &mut Book, mode: &str, secs, fx: &mut Effects| {
            let (device, mode) = ("gw-07".parse().unwrap(), mode.to_owned());
            book.write(Write::Presence(Presence { device, word: Hash::ZERO, at: at(secs), mode }), fx);
        };
        let named = |mode: &str, secs| Some((mode.to_owned(), at(secs)));
        say(&mut book, 1, "offline", 3, fx);
        assert_eq!(mode(&book), named("offline", 3));
        state(&mut book, "online", 3, fx);
        assert_eq!(mode(&book), named("online", 3), "the hello came before it was online");
        note_positions(&mut book, &"gw-07".parse().unwrap(), &[], true, at(20), fx);
        assert_eq!(mode(&book), named("online", 3), "audit is a sign of life and names no mode");
        state(&mut book, "gone", 30, fx);
        assert_eq!(mode(&book), named("gone", 30));
        say(&mut book, 2, "stale", 40, fx);
        assert_eq!(mode(&book), named("stale", 40), "back again");
    }
}
