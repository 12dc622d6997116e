//! The revocation lists that this device holds.
//!
//! Owns: per feed the newest complete head and list, the pieces of the next one, and whether a token is covered.
//! Never: goes back to an older position; forgets a rule before E has passed its end; reads a clock.
//! Read next: `decide.rs`, the reader; `link.rs`, which feeds it.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::clock::TrustedClock;
use super::token::Verified;
use crate::ids::{DeviceId, FeedId, Hash};
use crate::time::{Millis, Timestamp};
use crate::wire::bundle::TrustBundle;
use crate::wire::envelope::Signed;
use crate::wire::revocation::{Chunk, Head, List, Position, Rule, Target};
use crate::wire::{decode, encode, Refused};

/// Pieces of lists that no head has announced yet: a piece may arrive before its head, but nobody fills our memory.
const UNANNOUNCED_MAX: usize = 32;

/// The file of a feed: its newest complete head and list.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct StoredFeed {
    /// The head.
    pub head: Signed<Head>,
    /// The list that it names.
    pub list: List,
    /// Rules of earlier lists that this one leaves out though they are in force: they hold until their signed end.
    pub kept: Vec<Rule>,
    /// The newest head's time that E had taken when this one came.
    pub taken: Timestamp,
}

/// Rules that lists have left out and that are in force, at the most. An honest publisher leaves out none.
const KEPT_MAX: usize = 4096;

/// The lists of all feeds that the device holds.
#[derive(Debug, Default)]
pub struct Revocations {
    feeds: BTreeMap<FeedId, Feed>,
    /// Positions that the anchor knows of feeds whose lists could not be read back.
    lost: BTreeMap<FeedId, Position>,
    /// Pieces without a head, by list and number.
    unannounced: BTreeMap<(Hash, u16), Vec<u8>>,
    /// Feeds that the trust bundle names no more. Their rules hold until their signed end; that no newer list of theirs
    /// comes makes nothing stale.
    retired: BTreeSet<FeedId>,
}

#[derive(Debug)]
struct Feed {
    head: Head,
    position: Position,
    list: List,
    rules: BTreeMap<Target, Timestamp>,
    /// Those among them that the list does not hold.
    kept: Vec<Rule>,
    issued_before: Option<(Timestamp, Timestamp)>,
    next: Option<Gathering>,
    /// The newest head's time that E has taken: what a head claims beyond that makes nothing fresher.
    taken: Timestamp,
}

#[derive(Debug)]
struct Gathering {
    signed: Signed<Head>,
    head: Head,
    position: Position,
}

/// A list that is complete now.
#[derive(Debug, Clone, PartialEq)]
pub struct Applied {
    /// Where the feed stands now.
    pub position: Position,
    /// When the head was signed.
    pub issued_at: Timestamp,
    /// What is to be kept on disk.
    pub stored: StoredFeed,
    /// Whether the rules differ from those before.
    pub changed: bool,
}

impl Revocations {
    /// Takes a feed from its file. The digest of the anchor vouches for it, even if its key was rotated away since; else
    /// a head that is newer than the anchor's vouches for itself.
    ///
    /// # Errors
    /// When it is older than `known`, not signed by a key of the feed, or not whole.
    pub fn load(
        &mut self,
        feed: &FeedId,
        bytes: &[u8],
        trust: &TrustBundle,
        known: Option<&Position>,
    ) -> Result<(), Refused> {
        let stored: StoredFeed = decode(bytes, 2 * crate::wire::revocation::LIST_BYTES_MAX)?;
        let vouched = known.is_some_and(|known| known.digest == stored.head.digest());
        let opened =
            if vouched { stored.head.claim() } else { stored.head.open(&trust.fleet, trust.feed_keys(feed), 1) };
        let head = opened?;
        if head.feed != *feed {
            return Err(Refused::Malformed("the file of another feed"));
        }
        if stored.list.digest() != head.list {
            return Err(Refused::DigestMismatch);
        }
        let position = head.position(stored.head.digest());
        if let Some(known) = known {
            check_order(&position, known)?;
        }
        let feed = head.feed.clone();
        self.put(head, position, stored.list, stored.kept);
        if let Some(feed) = self.feeds.get_mut(&feed) {
            feed.taken = stored.taken;
        }
        Ok(())
    }

    fn put(&mut self, head: Head, position: Position, list: List, kept: Vec<Rule>) {
        let forgotten =
            crate::mutant::active(crate::mutant::Mutant::RevocationForgotten) && !self.feeds.contains_key(&head.feed);
        let mut rules = BTreeMap::new();
        let mut issued_before: Option<(Timestamp, Timestamp)> = None;
        for rule in list.rules().iter().chain(&kept).filter(|_| !forgotten) {
            match &rule.target {
                Target::IssuedBefore(at) => {
                    let (latest, until) = issued_before.unwrap_or((*at, rule.until));
                    issued_before = Some((latest.max(*at), until.max(rule.until)));
                }
                Target::All
                | Target::Audience(_)
                | Target::Block(_)
                | Target::Device(_)
                | Target::Grant(_)
                | Target::Group(_)
                | Target::Owner(_)
                | Target::RootKey(_)
                | Target::Task(_) => {
                    let until = rules.entry(rule.target.clone()).or_insert(rule.until);
                    *until = rule.until.max(*until);
                }
            }
        }
        let feed = head.feed.clone();
        self.lost.remove(&feed);
        let taken = self.feeds.get(&feed).map_or(Timestamp(0), |known| known.taken);
        self.feeds.insert(feed, Feed { head, position, list, rules, kept, issued_before, next: None, taken });
    }

    /// A head arrived. If its list is here already, it is complete at once.
    ///
    /// # Errors
    /// When it is forged, older than what is known, or contradicts it.
    pub fn head(
        &mut self,
        feed: &FeedId,
        payload: &[u8],
        trust: &TrustBundle,
        floor: Timestamp,
    ) -> Result<Option<Applied>, Refused> {
        let signed = Signed::<Head>::from_bytes(payload)?;
        let head = signed.open(&trust.fleet, trust.feed_keys(feed), 1)?;
        if head.feed != *feed {
            return Err(Refused::WrongTopic);
        }
        let position = head.position(signed.digest());
        if let Some(lost) = self.lost.get(feed) {
            check_order(&position, lost)?;
        }
        if let Some(known) = self.feeds.get(feed) {
            if known.position == position {
                return Ok(None);
            }
            check_order(&position, &known.position)?;
            if let Some(next) = known.next.as_ref().filter(|next| next.position != position) {
                check_order(&position, &next.position)?;
            }
        }
        if head.list_bytes as usize > crate::wire::revocation::LIST_BYTES_MAX {
            return Err(Refused::TooLarge {
                bytes: head.list_bytes as usize,
                limit: crate::wire::revocation::LIST_BYTES_MAX,
            });
        }
        let next = Gathering { signed, head, position };
        match self.feeds.get_mut(feed) {
            Some(known) => known.next = Some(next),
            // The first list of a feed begins from an empty one at no position.
            None => {
                let head = Head { seq: 0, era: 0, list: List::default().digest(), ..next.head.clone() };
                let position = head.position(Hash::ZERO);
                let mut begun = Feed {
                    head,
                    position,
                    list: List::default(),
                    rules: BTreeMap::new(),
                    kept: Vec::new(),
                    issued_before: None,
                    next: None,
                    taken: Timestamp(0),
                };
                begun.head.issued_at = Timestamp(0);
                begun.next = Some(next);
                self.feeds.insert(feed.clone(), begun);
            }
        }
        self.complete(feed, floor)
    }

    /// A piece of a list arrived. It counts once a head names its digest.
    ///
    /// # Errors
    /// When it is no piece, or the whole does not have the digest.
    pub fn chunk(&mut self, feed: &FeedId, payload: &[u8], floor: Timestamp) -> Result<Option<Applied>, Refused> {
        let chunk = Chunk::from_bytes(payload)?;
        let announced = |feed: &Feed| feed.next.as_ref().is_some_and(|next| next.head.list == chunk.list);
        if !self.feeds.values().any(announced) {
            if self.feeds.values().any(|feed| feed.head.list == chunk.list) {
                return Ok(None);
            }
            while self.unannounced.len() >= UNANNOUNCED_MAX {
                self.unannounced.pop_first();
            }
        }
        self.unannounced.insert((chunk.list, chunk.index), chunk.bytes);
        self.complete(feed, floor)
    }

    fn complete(&mut self, id: &FeedId, floor: Timestamp) -> Result<Option<Applied>, Refused> {
        let Some(feed) = self.feeds.get_mut(id) else { return Ok(None) };
        let Some(next) = &feed.next else { return Ok(None) };
        let list = if next.head.list == feed.list.digest() {
            feed.list.clone()
        } else {
            let pieces: Vec<&Vec<u8>> = (0..Chunk::count(next.head.list_bytes))
                .map_while(|index| self.unannounced.get(&(next.head.list, index as u16)))
                .collect();
            if pieces.len() < Chunk::count(next.head.list_bytes) || pieces.is_empty() {
                return Ok(None);
            }
            let bytes: Vec<u8> = pieces.into_iter().flatten().copied().collect();
            let digest = next.head.list;
            if crate::wire::revocation::digest_of_list(&bytes) != digest {
                self.unannounced.retain(|(list, _), _| *list != digest);
                return Err(Refused::DigestMismatch);
            }
            List::from_bytes(&bytes)?
        };
        let kept = left_out(feed, &list, floor);
        if kept.len() > KEPT_MAX {
            feed.next = None;
            return Err(Refused::Malformed("a list that leaves out more rules in force than can be kept"));
        }
        let Some(next) = feed.next.take() else { return Ok(None) };
        let changed = list != feed.list;
        let applied = Applied {
            position: next.position.clone(),
            issued_at: next.head.issued_at,
            stored: StoredFeed { head: next.signed, list: list.clone(), kept: kept.clone(), taken: feed.taken },
            changed,
        };
        self.unannounced.retain(|(digest, _), _| *digest != next.head.list);
        self.put(next.head, next.position, list, kept);
        Ok(Some(applied))
    }

    /// These are the feeds that the trust bundle in force names.
    pub fn follow(&mut self, trust: &TrustBundle) {
        let named = |feed: &FeedId| trust.feeds.iter().any(|known| known.id == *feed);
        self.retired = self.feeds.keys().chain(self.lost.keys()).filter(|feed| !named(feed)).cloned().collect();
        for (_, feed) in self.feeds.iter_mut().filter(|(id, _)| !named(id)) {
            // Nobody is left who may complete it.
            feed.next = None;
        }
    }

    /// Feeds that count for how new what is known is.
    fn current(&self) -> impl Iterator<Item = (&FeedId, &Feed)> {
        self.feeds.iter().filter(|(id, _)| !self.retired.contains(*id))
    }

    /// A list that was held and cannot be read back: nothing is allowed until it, or a newer one, has come again.
    pub fn lose(&mut self, position: Position) {
        self.lost.insert(position.feed.clone(), position);
    }

    /// Feeds whose lists are lost.
    pub fn missing(&self) -> impl Iterator<Item = &FeedId> {
        self.lost.keys()
    }

    /// Positions for the anchor: complete ones, and those of lists that are lost.
    pub fn known_positions(&self) -> Vec<Position> {
        self.positions().into_iter().chain(self.lost.values().cloned()).collect()
    }

    /// Whether a head is known whose list is not complete.
    pub fn gathering(&self) -> bool {
        self.feeds.values().any(|feed| feed.next.is_some())
    }

    /// Complete positions, for `hello`, acknowledgements and the anchor.
    pub fn positions(&self) -> Vec<Position> {
        self.feeds.values().filter(|feed| feed.position.seq > 0).map(|feed| feed.position.clone()).collect()
    }

    /// The newest trust bundle and policy that any complete head names.
    pub fn versions_named(&self) -> (u64, u64) {
        let heads = self.current().map(|(_, feed)| &feed.head);
        heads.fold((0, 0), |(bundle, policy), head| (bundle.max(head.bundle_version), policy.max(head.policy_version)))
    }

    /// Whether this device holds a complete list of a feed that the trust bundle names.
    pub fn holds(&self, feed: &str) -> bool {
        self.current().any(|(id, feed_state)| id.as_str() == feed && feed_state.position.seq > 0)
    }

    /// The sequence number of a feed, or of the first one.
    pub fn seq(&self, feed: Option<&str>) -> Option<u64> {
        let mut feeds = self.current().filter(|(id, _)| feed.is_none_or(|name| id.as_str() == name));
        feeds.next().map(|(_, feed)| feed.position.seq)
    }

    /// When the complete heads were signed.
    pub fn signed_times(&self) -> Vec<Timestamp> {
        let complete = self.feeds.values().filter(|feed| feed.position.seq > 0);
        complete.map(|feed| feed.head.issued_at).collect()
    }

    /// E moved: heads whose time it has taken count as that new. A head from further ahead applies, and waits for that.
    pub fn note_taken(&mut self, clock: &TrustedClock) {
        for feed in self.feeds.values_mut() {
            if clock.has_taken(feed.head.issued_at) {
                feed.taken = feed.head.issued_at;
            } else if !clock.has_taken(feed.taken) {
                // E was turned back below it: nobody can say how old it is.
                feed.taken = Timestamp(0);
            }
        }
    }

    /// How old the newest complete head of a feed is by P, and whether its successor is overdue: of the oldest of all
    /// feeds that the trust bundle names where none is named. None if there is no head.
    pub fn staleness(&self, feed: Option<&str>, powered: Timestamp) -> Option<(Millis, bool)> {
        let feeds = self.current().filter(|(id, _)| feed.is_none_or(|name| id.as_str() == name));
        let ages = feeds.filter(|(_, feed)| feed.position.seq > 0).map(|(_, feed)| {
            let waiting =
                feed.next.as_ref().filter(|_| crate::mutant::active(crate::mutant::Mutant::StalenessByWaitingHead));
            let age = powered.since(waiting.map_or(feed.taken, |next| next.head.issued_at));
            (age, age > feed.head.next_update_ms)
        });
        ages.max()
    }

    /// Whether a head that was named stands where this device holds another: somebody signed one position twice.
    pub fn contradicts(&self, named: &Position) -> bool {
        self.feeds
            .get(&named.feed)
            .is_some_and(|feed| feed.position.order() == named.order() && feed.position.digest != named.digest)
    }

    /// What covers a token, if anything does. A rule counts until E has passed its end.
    pub fn covers(&self, verified: &Verified, device: &DeviceId, floor: Timestamp) -> Option<Target> {
        let claims = &verified.claims;
        let mut targets = vec![
            Target::All,
            Target::Grant(claims.grant),
            Target::Owner(claims.owner.clone()),
            Target::RootKey(claims.root_key_id),
            Target::Device(device.clone()),
        ];
        targets.extend(verified.chain().map(|block| Target::Block(*block)));
        targets.extend(claims.audience.clone().map(Target::Audience));
        targets.extend(claims.device.as_ref().and_then(|id| id.parse().ok()).map(Target::Device));
        targets.extend(claims.group.as_ref().and_then(|id| id.parse().ok()).map(Target::Group));
        targets.extend(claims.tasks.iter().filter_map(|task| task.parse().ok()).map(Target::Task));
        self.feeds.values().find_map(|feed| {
            let live = |target: &&Target| feed.rules.get(*target).is_some_and(|until| floor <= *until);
            let early = feed.issued_before.filter(|(before, until)| claims.issued < *before && floor <= *until);
            targets.iter().find(live).cloned().or(early.map(|(before, _)| Target::IssuedBefore(before)))
        })
    }

    /// Whether a live rule names this very target.
    pub fn names(&self, target: &Target, floor: Timestamp) -> bool {
        self.feeds.values().any(|feed| feed.rules.get(target).is_some_and(|until| floor <= *until))
    }

    /// Whether this device itself is revoked.
    pub fn device_revoked(&self, device: &DeviceId, floor: Timestamp) -> bool {
        self.names(&Target::Device(device.clone()), floor)
    }

    /// The latest end of tokens that are refused whatever the clock says.
    pub fn dropped_before(&self) -> Timestamp {
        self.feeds.values().map(|feed| feed.head.dropped_before).max().unwrap_or_default()
    }

    /// Bytes of a feed's file.
    pub fn encode(stored: &StoredFeed) -> Vec<u8> {
        encode(stored)
    }
}

/// Rules that hold and that a new list does not hold, or ends earlier: a revocation is not taken back.
fn left_out(feed: &Feed, list: &List, floor: Timestamp) -> Vec<Rule> {
    let held: BTreeMap<&Target, Timestamp> = list.rules().iter().map(|rule| (&rule.target, rule.until)).collect();
    let earlier = feed.list.rules().iter().chain(&feed.kept);
    let in_force = earlier.filter(|rule| rule.until >= floor);
    in_force.filter(|rule| held.get(&rule.target).is_none_or(|until| *until < rule.until)).cloned().collect()
}

impl StoredFeed {
    /// Rules of the file before that this one leaves out are kept: a revocation is not taken back.
    pub fn keep(&mut self, before: &Self) {
        let held: BTreeMap<&Target, Timestamp> =
            self.list.rules().iter().map(|rule| (&rule.target, rule.until)).collect();
        let earlier = before.list.rules().iter().chain(&before.kept);
        let missing = earlier.filter(|rule| held.get(&rule.target).is_none_or(|until| *until < rule.until));
        self.kept = missing.take(KEPT_MAX).cloned().collect();
    }
}

fn check_order(offered: &Position, known: &Position) -> Result<(), Refused> {
    if crate::mutant::active(crate::mutant::Mutant::FeedPositionLowered) {
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
