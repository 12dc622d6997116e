//! What is revoked as this device knows it: its feeds.
//!
//! Owns: the one [`Feed`] that the trust bundle gives this device, those that it had before, whether a token is covered by them
//! or by what [`Emergencies`] hold, how old what is known is.
//! Never: believes what no key of the feed signed; forgets a revocation before E has passed its end; reads a clock.
//! Read next: `feed.rs`; `decide.rs`, the reader; `sync.rs`, which feeds it.
//!
//! A trust bundle may give the device another feed. What the old one revoked stays in force until its end; how new what is
//! known is goes by the new one alone, and nothing is fresh until a head of it is complete that was signed with that bundle
//! or a later one: such a head holds whatever had been revoked for this device in its old feed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::clock::{Between, TrustedClock};
use super::effects::{FileWrite, StateFile};
use super::emergency::{Emergencies, Hit};
use super::feed::{Changed, Feed, Held, Wanted, Written, SET_BYTES_MAX};
use super::token::Verified;
use crate::ids::{BlockId, DeviceId, FeedId, Hash};
use crate::mutant::{self, Mutant};
use crate::time::{Millis, Timestamp};
use crate::wire::bundle::TrustBundle;
use crate::wire::envelope::Signed;
use crate::wire::revocation::announcement::{Announcement, BelievedSet, Head, Snapshot};
use crate::wire::revocation::ladder::Step;
use crate::wire::revocation::rules::Selector;
use crate::wire::revocation::slot::Slot;
use crate::wire::revocation::{Position, Target};
use crate::wire::Refused;

/// The feeds that the device holds.
#[derive(Debug, Default)]
pub struct Revocations {
    feeds: BTreeMap<FeedId, Feed>,
    /// Positions that the anchor knows of feeds whose sets could not be read back, and E at that start.
    lost: BTreeMap<FeedId, (Position, Timestamp)>,
    /// The number of the last file of each feed.
    files: BTreeMap<FeedId, u64>,
    /// The feed that the trust bundle gives this device. Of all others that are held, what they revoked stays revoked, and
    /// nobody tells more. None before anybody said: then every feed counts.
    own: Option<Own>,
    /// What operators revoked with keys of their own.
    pub(super) emergencies: Emergencies,
}

/// The one feed of this device.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Own {
    id: FeedId,
    /// A head of another era tells nothing about how new what is known is,
    era: u32,
    /// nor one that names an older trust bundle than this.
    since: u64,
}

/// Feeds whose positions are told to the fleet: the device's own, and some that it had before.
const TOLD_MAX: usize = 8;
/// A feed that the device had before may be named by task tokens for so long: none lives longer.
const NAMED_FOR: Millis = Millis::from_secs(30 * 86_400);
/// Feeds that the device had before and whose sets are kept at most: those that it had first are let go.
const RETIRED_MAX: usize = 4;

/// What a message led to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Taken {
    /// What it changed, if anything.
    pub applied: Option<Applied>,
    /// What of it was refused, whether or not the rest changed anything.
    pub refused: Option<Refused>,
}

/// What a message changed, with what must be kept of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// The feed.
    pub feed: FeedId,
    /// What changed.
    pub changed: Changed,
    /// The complete position, none before the first.
    pub position: Option<Position>,
    /// The newest position that is known; of a feed without any, where it stood before it was lost.
    pub newest: Position,
    /// When the newest head was signed that is known.
    pub issued_at: Timestamp,
    /// The file that keeps it.
    pub file: FileWrite,
    /// What stands beside that since its set was lost: it could not be read then, and could not at the next start.
    pub rotten: Option<StateFile>,
}

/// How old what is known of revocations is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Age {
    /// The age of the newest complete head, by P.
    pub age: Millis,
    /// Whether the next head is overdue, by what this one promised.
    pub overdue: bool,
    /// How long until the head itself says that it is too old for the highest class of risk.
    pub hard_left: Millis,
}

impl Age {
    /// Without a head: as old as time.
    pub fn unknown(powered: Timestamp) -> Self {
        Self { age: powered.since(Timestamp(0)), overdue: true, hard_left: Millis(0) }
    }

    fn or_worse(self, other: Self) -> Self {
        Self {
            age: self.age.max(other.age),
            overdue: self.overdue || other.overdue,
            hard_left: self.hard_left.min(other.hard_left),
        }
    }
}

/// What covers a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Covered {
    /// A rule of an emergency key.
    Emergency(Hit),
    /// A rule.
    Rule(Selector),
    /// One of its blocks is revoked.
    Block(BlockId),
    /// Its serial is revoked.
    Serial(Slot, u32),
}

impl fmt::Display for Covered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Emergency(hit) => hit.fmt(f),
            Self::Rule(selector) => selector.fmt(f),
            Self::Block(block) => write!(f, "block {block}"),
            Self::Serial(slot, serial) => write!(f, "serial {serial} of {slot}"),
        }
    }
}

impl Revocations {
    /// Takes a feed from its files, the whole and what stands beside it: the newest must not have a lower number than the
    /// anchor knows. The digest of the anchor vouches for it, even if its key was rotated away since; else
    /// a head that is newer than the anchor's vouches for itself.
    ///
    /// # Errors
    /// When it is older than `known`, not signed by a key of the feed, or not whole.
    pub fn load(
        &mut self,
        feed: &FeedId,
        (whole, since): (&[u8], Option<&[u8]>),
        trust: &TrustBundle,
        (known, number): (Option<&Position>, u64),
    ) -> Result<(), Refused> {
        self.files.insert(feed.clone(), number);
        let held = Held::read(whole, since)?;
        if held.number < number && !mutant::active(Mutant::FeedPositionLowered) {
            return Err(Refused::RolledBack { offered: held.number, known: number });
        }
        self.files.insert(feed.clone(), held.number);
        let believe = |signed: &Signed<Head>| {
            let vouched = known.is_some_and(|known| known.digest == signed.digest());
            let head = if vouched { signed.claim() } else { signed.open(&trust.fleet, trust.feed_keys(feed), 1) }?;
            if head.feed != *feed {
                return Err(Refused::Malformed("the file of another feed"));
            }
            if !vouched {
                trust.check_era(feed, head.era)?;
            }
            Ok(head)
        };
        let head = held.head.as_ref().map(believe).transpose()?;
        // Whose key is gone since tells nothing any more; what it added stays.
        let newest = held.newest.as_ref().and_then(|signed| believe(signed).ok());
        let forgotten = mutant::active(Mutant::RevocationForgotten);
        let loaded = Feed::restore(held, head, newest)?;
        if let Some(known) = known {
            match loaded.position() {
                Some(position) => check_order(position, known)?,
                None => {
                    // Its set was lost before. What was revoked since counts on.
                    self.feeds.insert(feed.clone(), loaded);
                    return Err(Refused::RolledBack { offered: 0, known: known.seq });
                }
            }
        }
        let loaded = if forgotten { loaded.forgetful() } else { loaded };
        self.lost.remove(feed);
        self.feeds.insert(feed.clone(), loaded);
        Ok(())
    }

    /// A head arrived, with what it adds.
    ///
    /// # Errors
    /// When it is forged, older than what is known, or contradicts it.
    pub fn announce(
        &mut self,
        feed: &FeedId,
        payload: &[u8],
        trust: &TrustBundle,
        between: Between,
    ) -> Result<Taken, Refused> {
        self.step(feed, None, payload, trust, between)
    }

    /// A step of the ladder arrived from the place of `asked`; of a head's own topic where there is none.
    ///
    /// # Errors
    /// As [`Revocations::announce`]; [`Refused::WrongTopic`] for a step that belongs elsewhere. A head that was taken before
    /// its key or its era was ended, and that the broker repeats, is no error and no news.
    pub fn step(
        &mut self,
        feed: &FeedId,
        asked: Option<(u8, u64)>,
        payload: &[u8],
        trust: &TrustBundle,
        between: Between,
    ) -> Result<Taken, Refused> {
        let announcement = Announcement::from_bytes(payload)?;
        let digest = announcement.head.digest();
        let opened = announcement.open(feed, &trust.fleet, trust.feed_keys(feed));
        let opened = opened.and_then(|believed| trust.check_era(feed, believed.head.era).map(|()| believed));
        let believed = match opened {
            Ok(believed) => believed,
            Err(_) if self.has_taken(feed, digest) => return Ok(Taken::default()),
            Err(refused) => return Err(refused),
        };
        let Step { level, .. } = believed.step;
        let place = asked.map_or(level == 0, |asked| asked == (level, believed.step.place()));
        if !place && !mutant::active(Mutant::PlaceNotChecked) {
            return Err(Refused::WrongTopic);
        }
        let mark = self.feeds.get(feed).and_then(Feed::mark);
        let is_newest = mark.is_none_or(|mark| believed.position.order() > mark.order());
        // Whatever place it came from: a set that is lost does not begin anew below where it was.
        if let Some((lost, _)) = self.lost.get(feed).filter(|_| is_newest) {
            check_order(&believed.position, lost)?;
        }
        let issued_at = believed.head.issued_at;
        let changed = self.held(feed).announce(believed, between)?;
        Ok(self.taken(feed, changed, issued_at))
    }

    /// A feed that something arrived for, which knows where it stood.
    fn held(&mut self, feed: &FeedId) -> &mut Feed {
        let held = self.feeds.entry(feed.clone()).or_default();
        // One that never was complete stood nowhere.
        if let Some((lost, by)) = self.lost.get(feed).filter(|(lost, _)| lost.seq > 0) {
            held.stood_at(lost.clone(), *by);
        }
        held
    }

    fn has_taken(&self, feed: &FeedId, digest: Hash) -> bool {
        let held = self.feeds.get(feed).map(|feed| feed.position().into_iter().chain(feed.mark()));
        held.into_iter().flatten().any(|held| held.digest == digest)
    }

    /// The rules of the newest head arrived.
    ///
    /// # Errors
    /// As [`Feed::rules`].
    pub fn rules(&mut self, feed: &FeedId, payload: &[u8], floor: Timestamp) -> Result<Taken, Refused> {
        let changed = self.held(feed).rules(payload, floor)?;
        Ok(self.taken(feed, changed, Timestamp(0)))
    }

    /// The manifest of a snapshot arrived.
    ///
    /// # Errors
    /// As [`Announcement::open`], [`Feed::snapshot`].
    pub fn snapshot(
        &mut self,
        feed: &FeedId,
        payload: &[u8],
        trust: &TrustBundle,
        floor: Timestamp,
    ) -> Result<Taken, Refused> {
        let Some(held) = self.feeds.get_mut(feed) else { return Ok(Taken::default()) };
        let believed = Snapshot::from_bytes(payload)?.open(feed, &trust.fleet, trust.feed_keys(feed))?;
        trust.check_era(feed, believed.head.era)?;
        let changed = held.snapshot(believed, floor)?;
        Ok(self.taken(feed, changed, Timestamp(0)))
    }

    /// A piece of a snapshot arrived.
    ///
    /// # Errors
    /// As [`Feed::piece`].
    pub fn piece(&mut self, feed: &FeedId, payload: &[u8], floor: Timestamp) -> Result<Taken, Refused> {
        let Some(held) = self.feeds.get_mut(feed) else { return Ok(Taken::default()) };
        let changed = held.piece(payload, floor)?;
        Ok(self.taken(feed, changed, Timestamp(0)))
    }

    /// A head was brought with its whole set.
    ///
    /// # Errors
    /// When it is forged, older than what is known, or contradicts it.
    pub fn whole(
        &mut self,
        (signed, set): (&Signed<Head>, &[u8]),
        feed: &FeedId,
        trust: &TrustBundle,
        between: Between,
    ) -> Result<Taken, Refused> {
        let keys = trust.feed_keys(feed);
        let believed = BelievedSet::open(signed.clone(), set, SET_BYTES_MAX, feed, &trust.fleet, keys)?;
        trust.check_era(feed, believed.head.era)?;
        if let Some((lost, _)) = self.lost.get(feed) {
            check_order(&believed.position, lost)?;
        }
        let issued_at = believed.head.issued_at;
        let changed = self.held(feed).whole(believed, between)?;
        Ok(self.taken(feed, changed, issued_at))
    }

    fn taken(&mut self, id: &FeedId, changed: Changed, issued_at: Timestamp) -> Taken {
        let refused = changed.refused.clone();
        Taken { applied: self.applied(id, changed, issued_at), refused }
    }

    fn applied(&mut self, id: &FeedId, changed: Changed, issued_at: Timestamp) -> Option<Applied> {
        let feed = self.feeds.get_mut(id).filter(|_| changed.any())?;
        let lost = self.lost.get(id).map(|(lost, _)| lost);
        // A head that is too far ahead revokes, and is no position.
        let newest = feed.mark().or(lost).cloned().unwrap_or_else(|| Position::none(id));
        let was_lost = lost.is_some();
        if lost.is_some_and(|lost| feed.position().is_some_and(|position| check_order(position, lost).is_ok())) {
            self.lost.remove(id);
        }
        let number = self.files.entry(id.clone()).or_default();
        *number += 1;
        let head = feed.head().map_or(Timestamp(0), |head| head.issued_at);
        let beside = StateFile::FeedSince(id.clone());
        let (file, rotten) = match feed.written(*number) {
            Written::Whole(content) => {
                (FileWrite { file: StateFile::Feed(id.clone()), content }, was_lost.then_some(beside))
            }
            Written::Since(content) => (FileWrite { file: beside, content }, None),
        };
        Some(Applied {
            feed: id.clone(),
            changed,
            position: feed.position().cloned(),
            newest,
            issued_at: issued_at.max(head),
            file,
            rotten,
        })
    }

    /// What is to be read from the broker now.
    pub fn wanted(&self) -> Vec<(FeedId, Wanted)> {
        let wishes = |(id, feed): (&FeedId, &Feed)| feed.wanted().into_iter().map(|want| (id.clone(), want)).collect();
        self.current().flat_map(|entry| -> Vec<_> { wishes(entry) }).collect()
    }

    /// What was wanted has not come for long.
    pub fn give_up(&mut self) {
        self.feeds.values_mut().for_each(Feed::give_up);
    }

    /// A connection is new: what was given up may be there now.
    pub fn retry(&mut self) {
        self.feeds.values_mut().for_each(Feed::retry);
    }

    /// This is the feed that the trust bundle in force gives the device, and these are the keys of all. Says whether it is
    /// another than before. A head that waits for its set and is of a key that is gone is let go: else whoever had stolen
    /// that key could keep the feed back with a number of the far future.
    pub fn follow(&mut self, trust: &TrustBundle, device: &DeviceId) -> bool {
        for (id, feed) in &mut self.feeds {
            if feed.awaited().is_some_and(|signed| signed.open(&trust.fleet, trust.feed_keys(id), 1).is_err()) {
                feed.let_go();
            }
        }
        let own = trust.feed_of(device);
        if let Some(feed) = self.feeds.get_mut(&own.id) {
            feed.follow(own.era);
        }
        let own = Own { id: own.id.clone(), era: own.era, since: own.since };
        let before = self.own.replace(own.clone());
        let moved = before.is_some_and(|before| before.id != own.id);
        if moved && mutant::active(Mutant::MovedForgets) {
            self.feeds.retain(|id, _| *id == own.id);
        }
        moved
    }

    /// Whether a head of the own feed tells nothing about how new what is known is: it is of an era that the trust bundle has
    /// ended, or was signed before this device came to the feed.
    fn is_over(&self, head: &Head) -> bool {
        let came_later = |own: &Own| head.bundle_version < own.since && !mutant::active(Mutant::SinceIgnored);
        self.own.as_ref().is_some_and(|own| own.era != head.era || came_later(own))
    }

    /// Whether a feed is one that the device had before.
    fn is_retired(&self, feed: &FeedId) -> bool {
        self.own.as_ref().is_some_and(|own| own.id != *feed)
    }

    /// The feed that counts for how new what is known is.
    fn current(&self) -> impl Iterator<Item = (&FeedId, &Feed)> {
        self.feeds.iter().filter(|(id, _)| !self.is_retired(id))
    }

    /// Whether a complete head of the own feed holds all that had been revoked for this device when it came to it.
    fn has_arrived(&self) -> bool {
        self.own.is_some() && self.current().any(|(_, feed)| feed.head().is_some_and(|head| !self.is_over(head)))
    }

    /// Lets go of feeds that the device had before, where its own has arrived: those of which all that they revoked has ended,
    /// and that none of `named` is; and of more than are kept, whatever they hold, for its own feed holds that as well.
    pub fn let_go(&mut self, named: &BTreeSet<FeedId>, floor: Timestamp) -> Vec<FeedId> {
        if !self.has_arrived() {
            return Vec::new();
        }
        let dropped = self.current().filter_map(|(_, feed)| feed.head()).map(|head| head.dropped_before).max();
        let retired: Vec<FeedId> = self.feeds.keys().filter(|id| self.is_retired(id)).cloned().collect();
        let over = |id: &FeedId| {
            let Some(feed) = self.feeds.get(id) else { return false };
            let later = feed.head().is_some_and(|head| Some(head.dropped_before) > dropped);
            let named_still = named.contains(id) || feed.head().is_some_and(|head| head.issued_at + NAMED_FOR > floor);
            !later && !named_still && feed.has_ended(floor)
        };
        let mut gone: Vec<FeedId> = retired.iter().filter(|id| over(id)).cloned().collect();
        let mut kept: Vec<&FeedId> = retired.iter().filter(|id| !gone.contains(id)).collect();
        if kept.len() > RETIRED_MAX {
            let signed = |id: &&FeedId| self.feeds.get(*id).and_then(Feed::head).map(|head| head.issued_at);
            kept.sort_by_key(signed);
            let more = kept.len() - RETIRED_MAX;
            let more: Vec<FeedId> = kept.into_iter().take(more).cloned().collect();
            gone.extend(more);
        }
        for id in &gone {
            self.feeds.remove(id);
            self.files.remove(id);
        }
        gone
    }

    /// A set that was held, by `by` at the latest, and cannot be read back: nothing is allowed until it, or a newer one, has
    /// come again.
    pub fn lose(&mut self, position: Position, by: Timestamp) {
        self.lost.insert(position.feed.clone(), (position, by));
    }

    /// Feeds whose sets are lost. Of one that the device had before nobody brings it again: its own feed holds it as well,
    /// once that has arrived.
    pub fn missing(&self) -> impl Iterator<Item = &FeedId> {
        let heeded = !mutant::active(Mutant::RottenFeedUnheeded);
        self.lost.keys().filter(move |id| heeded && !(self.is_retired(id) && self.has_arrived()))
    }

    /// The number of the last file of each feed, for the anchor.
    pub fn files(&self) -> Vec<(FeedId, u64)> {
        self.files.iter().map(|(feed, number)| (feed.clone(), *number)).collect()
    }

    /// Positions for the anchor: complete ones, and those of sets that are lost.
    pub fn known_positions(&self) -> Vec<Position> {
        self.positions().into_iter().chain(self.lost.values().map(|(lost, _)| lost.clone())).collect()
    }

    /// Whether a head is known whose set is not complete.
    pub fn gathering(&self) -> bool {
        self.current().any(|(_, feed)| feed.gathering())
    }

    /// Complete positions, that of the own feed first.
    pub fn positions(&self) -> Vec<Position> {
        let retired = self.feeds.iter().filter(|(id, _)| self.is_retired(id)).map(|(_, feed)| feed);
        let feeds = self.current().map(|(_, feed)| feed).chain(retired);
        feeds.filter_map(Feed::position).cloned().collect()
    }

    /// Complete positions for the fleet, that of the own feed first.
    pub fn told(&self) -> Vec<Position> {
        self.positions().into_iter().take(TOLD_MAX).collect()
    }

    /// Whether the own feed has a complete position.
    pub fn is_complete(&self) -> bool {
        self.current().any(|(_, feed)| feed.position().is_some())
    }

    /// The complete position of a feed.
    pub fn position_of(&self, feed: &FeedId) -> Option<&Position> {
        self.feeds.get(feed).and_then(Feed::position)
    }

    /// The newest trust bundle and policy that any complete head names.
    pub fn versions_named(&self) -> (u64, u64) {
        let heads = self.current().filter_map(|(_, feed)| feed.head().filter(|head| !self.is_over(head)));
        heads.fold((0, 0), |(bundle, policy), head| (bundle.max(head.bundle_version), policy.max(head.policy_version)))
    }

    /// Whether this device holds a complete set of a feed, its own or one that it had before. A token that names that was
    /// minted for it then, and what revokes the token since stands in its own feed.
    pub fn holds(&self, feed: &str) -> bool {
        let unheeded = || mutant::active(Mutant::RottenFeedUnheeded) && self.lost.keys().any(|id| id.as_str() == feed);
        self.feeds.iter().any(|(id, held)| id.as_str() == feed && held.position().is_some()) || unheeded()
    }

    /// The sequence number of the own feed.
    pub fn seq(&self) -> Option<u64> {
        self.current().next().map(|(_, feed)| feed.position().map_or(0, |position| position.seq))
    }

    /// When the complete heads were signed.
    pub fn signed_times(&self) -> Vec<Timestamp> {
        self.feeds.values().filter_map(Feed::head).map(|head| head.issued_at).collect()
    }

    /// E moved: heads whose time it has taken count as that new. A head from further ahead applies, and waits for that.
    pub fn note_taken(&mut self, clock: &TrustedClock) {
        for feed in self.feeds.values_mut() {
            let Some(issued_at) = feed.head().map(|head| head.issued_at) else { continue };
            if mutant::active(Mutant::FreshByArrival) {
                feed.take(if feed.taken() < issued_at { clock.floor() } else { feed.taken() });
                continue;
            }
            if clock.has_taken(issued_at) {
                feed.take(issued_at);
            } else if !clock.has_taken(feed.taken()) {
                // E was turned back below it: nobody can say how old it is.
                feed.take(Timestamp(0));
            }
        }
    }

    /// How old what is known is, by P. None if there is no head. Only the own feed tells, whichever a token names: what
    /// concerns this device is published there alone.
    pub fn age(&self, powered: Timestamp) -> Option<Age> {
        let ages = self.current().filter_map(|(_, feed)| {
            let head = feed.head()?;
            if self.is_over(head) {
                // Whoever signed it may not be the fleet, or does not say all: it revokes, and makes nothing fresh.
                return Some(Age::unknown(powered));
            }
            let waiting = feed.waiting_since().filter(|_| mutant::active(Mutant::StalenessByWaitingHead));
            let age = powered.since(waiting.unwrap_or(feed.taken()));
            let hard_left = Millis(head.hard_stale_ms.0.saturating_sub(age.0));
            Some(Age { age, overdue: age > head.next_update_ms, hard_left })
        });
        ages.reduce(Age::or_worse)
    }

    /// Whether a head that was named stands where this device holds another: somebody signed one position twice.
    pub fn contradicts(&self, named: &Position) -> bool {
        let held = self.feeds.get(&named.feed).and_then(Feed::position);
        held.is_some_and(|held| held.order() == named.order() && held.digest != named.digest)
    }

    /// What covers a token, if anything does. A rule counts until E has passed its end.
    pub fn covers(&self, verified: &Verified, device: &DeviceId, floor: Timestamp) -> Option<Covered> {
        self.find(verified, device, floor).map(|(_, covered)| covered)
    }

    /// As [`Revocations::covers`], with the feed that says so, if one does.
    pub fn find(&self, verified: &Verified, device: &DeviceId, floor: Timestamp) -> Option<(Option<&FeedId>, Covered)> {
        let claims = &verified.claims;
        let mut selectors = vec![
            Selector::All,
            Selector::Grant(claims.grant),
            Selector::owner(&claims.owner),
            Selector::RootKey(claims.root_key_id),
            Selector::device(device.as_str()),
        ];
        selectors.extend(claims.audience.as_deref().map(Selector::audience));
        selectors.extend(claims.device.as_deref().map(Selector::device));
        selectors.extend(claims.group.as_deref().map(Selector::group));
        selectors.extend(claims.tasks.iter().map(|task| Selector::task(task)));
        selectors.retain(|selector| !is_unheard(selector));
        let slot = Slot::of(claims.issued, claims.expires);
        let by_feed = self.feeds.iter().find_map(|(id, feed)| {
            let rule = feed.covers_by_rule(selectors.iter().copied(), claims.issued, floor).map(Covered::Rule);
            let block = || verified.chain().find(|block| feed.covers_block(slot, block)).copied().map(Covered::Block);
            let serial = || {
                let (slot, serial) = claims.serial?;
                let covered = feed.covers_serial(slot, serial) && !mutant::active(Mutant::SerialUnrevoked);
                covered.then_some(Covered::Serial(slot, serial))
            };
            Some((Some(id), rule.or_else(block).or_else(serial)?))
        });
        let hit = || self.emergencies.covers(&selectors, claims.issued);
        by_feed.or_else(|| Some((None, Covered::Emergency(hit()?))))
    }

    /// Whether a block is revoked that stands in a token which expires in this slot.
    pub fn covers_block(&self, slot: Slot, block: &BlockId) -> bool {
        self.feeds.values().any(|feed| feed.covers_block(slot, block))
    }

    /// What revokes this very target, with the feed where one does. A block's token is not at hand: it is looked for in every slot.
    pub fn find_target(&self, target: &Target, floor: Timestamp) -> Option<(Option<&FeedId>, Covered)> {
        let by_feed = self.feeds.iter().find_map(|(id, feed)| {
            let covered = match (target, Selector::of(target)) {
                (Target::Block(block), _) => feed.covers_block_anywhere(block).then_some(Covered::Block(*block)),
                (_, Some(selector)) => feed.covers_by_rule([selector], Timestamp(u64::MAX), floor).map(Covered::Rule),
                (_, None) => None,
            };
            Some((Some(id), covered?))
        });
        let hit = || self.emergencies.names(Selector::of(target)?);
        by_feed.or_else(|| Some((None, Covered::Emergency(hit()?))))
    }

    /// Every feed that is held, and whether it is one that the device had before.
    pub fn feeds(&self) -> impl Iterator<Item = (&FeedId, &Feed, bool)> {
        self.feeds.iter().map(|(id, feed)| (id, feed, self.is_retired(id)))
    }

    /// Whether a live rule names this very target, of a feed or of an emergency key.
    pub fn names(&self, target: &Target, floor: Timestamp) -> bool {
        let by_emergency = Selector::of(target).and_then(|selector| self.emergencies.names(selector));
        by_emergency.is_some() || self.is_ordered(target, floor)
    }

    /// Whether a live rule of a feed names this very target: then its grants are wiped, which no emergency key can order.
    pub fn is_ordered(&self, target: &Target, floor: Timestamp) -> bool {
        let Some(selector) = Selector::of(target).filter(|selector| !is_unheard(selector)) else { return false };
        // No token is as late as this, so that no rule on issuing times is meant.
        let covered = |feed: &Feed| feed.covers_by_rule([selector], Timestamp(u64::MAX), floor).is_some();
        let wipes = mutant::active(Mutant::EmergencyWipes) && self.emergencies.names(selector).is_some();
        wipes || self.feeds.values().any(covered)
    }

    /// Whether a feed revokes this device itself.
    pub fn device_revoked(&self, device: &DeviceId, floor: Timestamp) -> bool {
        self.is_ordered(&Target::Device(device.clone()), floor)
    }

    /// The latest end of tokens that are refused whatever the clock says.
    pub fn dropped_before(&self) -> Timestamp {
        if mutant::active(Mutant::DroppedForgotten) {
            return Timestamp(0);
        }
        self.feeds.values().filter_map(Feed::head).map(|head| head.dropped_before).max().unwrap_or_default()
    }
}

/// Whether a planted bug makes nothing of a rule on this.
fn is_unheard(selector: &Selector) -> bool {
    match selector {
        Selector::All => mutant::active(Mutant::AllUnrevoked),
        Selector::Device(_) => mutant::active(Mutant::DeviceUnrevoked),
        Selector::Grant(_) => mutant::active(Mutant::GrantUnrevoked),
        Selector::Group(_) => mutant::active(Mutant::GroupUnrevoked),
        Selector::Owner(_) => mutant::active(Mutant::OwnerUnrevoked),
        Selector::Task(_) => mutant::active(Mutant::TaskUnrevoked),
        Selector::Audience(_) | Selector::IssuedBefore(_) | Selector::RootKey(_) => false,
    }
}

fn check_order(offered: &Position, known: &Position) -> Result<(), Refused> {
    if mutant::active(Mutant::FeedPositionLowered) {
        return Ok(());
    }
    match offered.order().cmp(&known.order()) {
        std::cmp::Ordering::Less => Err(Refused::RolledBack { offered: offered.seq, known: known.seq }),
        std::cmp::Ordering::Equal if offered.digest != known.digest => {
            Err(Refused::Equivocation { position: offered.seq })
        }
        std::cmp::Ordering::Equal | std::cmp::Ordering::Greater => Ok(()),
    }
}
