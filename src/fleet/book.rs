//! The ledger in memory: what the fleet knows.
//!
//! Owns: [`Book`]. A write changes the book the same way when it is made and when it is read back from the ledger, so that
//! memory and disk cannot differ.
//! Never: decides; forgets a device's chain, a head or a retired key.
//! Read next: `book/rows.rs` for what is written, `book/feed.rs` for what is known of each feed.

mod feed;
mod rows;

use std::collections::{BTreeMap, BTreeSet};

pub use feed::{FeedBook, SignedHead};
pub use rows::*;

use super::emergency::{self, Known};
use super::restore::Missed;
use super::route::Routes;
use super::{publish, Effects};
use crate::ids::{DeviceId, EraId, FeedId, FleetId, GrantId, Hash, KeyId};
use crate::mutant::{self, Mutant};
use crate::time::{Millis, Timestamp};
use crate::wire::bundle::{PublicKey, TrustBundle};
use crate::wire::envelope::Signed;
use crate::wire::link::grants_digest;
use crate::wire::policy::PolicyDocument;
use crate::wire::revocation::manifest::Manifest;
use crate::wire::revocation::serials::ISSUED_MAX;
use crate::wire::revocation::set::RevocationSet;
use crate::wire::revocation::slot::Slot;
use crate::wire::revocation::{Position, Target};
use crate::wire::Refused;

/// Why rows of a ledger make no book.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BrokenBook {
    /// Something without which there is no fleet is not there.
    #[error("the ledger holds no {0}: restore fleet.db from a copy (`hardtack fleet restore`)")]
    Missing(&'static str),
    /// Something signed does not check out.
    #[error(
        "the ledger's {what} does not check out ({refused}): restore fleet.db from a copy (`hardtack fleet restore`)"
    )]
    Unsound {
        /// What.
        what: &'static str,
        /// Why.
        refused: Refused,
    },
}

/// The ledger in memory.
#[derive(Debug, Clone)]
pub struct Book {
    bundles: Vec<Signed<TrustBundle>>,
    trusts: Vec<TrustBundle>,
    policy: (Signed<PolicyDocument>, PolicyDocument),
    devices: BTreeMap<DeviceId, Device>,
    retired_keys: BTreeSet<[u8; 32]>,
    pending: BTreeMap<DeviceId, Pending>,
    grants: BTreeMap<GrantId, Grant>,
    /// Which of them were made for a device.
    made_for: BTreeMap<DeviceId, BTreeSet<GrantId>>,
    rules: BTreeMap<Target, Rule>,
    /// Every feed that a trust bundle ever named.
    feeds: BTreeMap<FeedId, FeedBook>,
    /// A feed that no trust bundle named.
    nothing: FeedBook,
    /// Which revocation belongs where, by the newest trust bundle.
    routes: Routes,
    publisher: Option<Publisher>,
    eras: BTreeMap<(DeviceId, EraId), EraChain>,
    forks: BTreeMap<(DeviceId, EraId, u64), Fork>,
    /// By the first segment, the first after those that were salvaged.
    salvaged: BTreeMap<(DeviceId, EraId, u64), u64>,
    branches: BTreeMap<(DeviceId, EraId), Branches>,
    seen: BTreeMap<DeviceId, Seen>,
    /// Devices that named something, when they were heard last, that this ledger did not hold then.
    ahead: BTreeSet<DeviceId>,
    /// Devices of which something was written that their grants go by, since this was asked last.
    regranted: BTreeSet<DeviceId>,
    missed: Option<Missed>,
    presence: BTreeMap<DeviceId, Presence>,
    serials: BTreeMap<u32, Serials>,
    emergencies: BTreeMap<KeyId, Known>,
    acts: (u64, Hash),
}

impl Book {
    /// A book of a fleet that has nothing but its first trust bundle and policy.
    pub(super) fn begin(
        bundle: (Signed<TrustBundle>, TrustBundle),
        policy: (Signed<PolicyDocument>, PolicyDocument),
    ) -> Self {
        let routes = Routes::of(&bundle.1);
        let mut book = Self {
            bundles: vec![bundle.0],
            trusts: vec![bundle.1],
            policy,
            devices: BTreeMap::new(),
            retired_keys: BTreeSet::new(),
            pending: BTreeMap::new(),
            grants: BTreeMap::new(),
            made_for: BTreeMap::new(),
            rules: BTreeMap::new(),
            feeds: BTreeMap::new(),
            nothing: FeedBook::default(),
            routes,
            serials: BTreeMap::new(),
            publisher: None,
            eras: BTreeMap::new(),
            forks: BTreeMap::new(),
            salvaged: BTreeMap::new(),
            branches: BTreeMap::new(),
            seen: BTreeMap::new(),
            ahead: BTreeSet::new(),
            regranted: BTreeSet::new(),
            missed: None,
            presence: BTreeMap::new(),
            emergencies: BTreeMap::new(),
            acts: (0, Hash::ZERO),
        };
        book.follow();
        book
    }

    /// The book that rows of a ledger make, in whatever order they come.
    ///
    /// # Errors
    /// [`BrokenBook`].
    pub fn load(writes: Vec<Write>) -> Result<Self, BrokenBook> {
        let unsound = |what| move |refused| BrokenBook::Unsound { what, refused };
        let mut bundles = BTreeMap::new();
        let mut policies = BTreeMap::new();
        let mut rest = Vec::with_capacity(writes.len());
        for write in writes {
            match write {
                Write::Bundle(version, signed) => drop(bundles.insert(version, signed)),
                Write::Policy(version, signed) => drop(policies.insert(version, signed)),
                Write::Act(..)
                | Write::Aside(_)
                | Write::Branches(_)
                | Write::Device(_)
                | Write::Emergency(_)
                | Write::Era(_)
                | Write::Fork(_)
                | Write::Grant(_)
                | Write::Head(_)
                | Write::Issued(_)
                | Write::Missed(_)
                | Write::Pending(_)
                | Write::Presence(_)
                | Write::Publisher(_)
                | Write::Restored(_)
                | Write::Resumed(..)
                | Write::Rule(_)
                | Write::Salvaged(_)
                | Write::Seen(_)
                | Write::Segment(_)
                | Write::Serials(_)
                | Write::Set(..)
                | Write::Snapshot(..)
                | Write::Step(_) => rest.push(write),
            }
        }
        let mut bundles = bundles.into_iter();
        let (_, first) = bundles.next().ok_or(BrokenBook::Missing("trust bundle"))?;
        let genesis = TrustBundle::genesis(&first).map_err(unsound("first trust bundle"))?;
        let (_, policy) = policies.pop_last().ok_or(BrokenBook::Missing("policy"))?;
        let document = policy.claim().map_err(unsound("policy"))?;
        let mut book = Self::begin((first, genesis), (policy, document));
        for (_, signed) in bundles {
            let next = book.trust().successor(&signed).map_err(unsound("trust bundle"))?;
            book.bundles.push(signed);
            book.trusts.push(next);
            book.follow();
        }
        book.policy.0.open(book.fleet(), book.trust().policy_keys(), 1).map_err(unsound("policy"))?;
        rest.into_iter().for_each(|write| book.apply(write));
        // What a lost row had revoked must not be signed away.
        let is_signed_away = |feed: &FeedBook| {
            let root = || Manifest::of(&feed.set).root();
            feed.head().is_some_and(|newest| newest.head.root != root())
        };
        if book.feeds.values().any(is_signed_away) && !mutant::active(Mutant::PositionReused) {
            return Err(BrokenBook::Unsound { what: "revocation set", refused: Refused::DigestMismatch });
        }
        book.feeds.keys().cloned().collect::<Vec<_>>().iter().for_each(|feed| book.wait_no_longer(feed));
        Ok(book)
    }

    /// Changes the book and notes that the ledger must hold it.
    pub(super) fn write(&mut self, write: Write, fx: &mut Effects) {
        match &write {
            // Only the ledger keeps these, and they are large.
            Write::Aside(_) | Write::Issued(_) | Write::Segment(_) => {}
            Write::Act(..)
            | Write::Branches(_)
            | Write::Bundle(..)
            | Write::Device(_)
            | Write::Emergency(_)
            | Write::Era(_)
            | Write::Fork(_)
            | Write::Grant(_)
            | Write::Head(_)
            | Write::Missed(_)
            | Write::Pending(_)
            | Write::Policy(..)
            | Write::Presence(_)
            | Write::Publisher(_)
            | Write::Restored(_)
            | Write::Resumed(..)
            | Write::Rule(_)
            | Write::Salvaged(_)
            | Write::Seen(_)
            | Write::Serials(_)
            | Write::Set(..)
            | Write::Snapshot(..)
            | Write::Step(_) => self.apply(write.clone()),
        }
        fx.writes.push(write);
    }

    /// Changes the book. Rows may come in any order: a newer head or act is never replaced by an older one.
    pub fn apply(&mut self, write: Write) {
        match write {
            Write::Act(number, signed) => {
                if number >= self.acts.0 {
                    self.acts = (number + 1, signed.digest());
                }
            }
            Write::Bundle(version, signed) => {
                if version > self.trust().version {
                    if let Ok(next) = self.trust().successor(&signed) {
                        self.bundles.push(signed);
                        self.trusts.push(next);
                        self.follow();
                    }
                }
            }
            Write::Device(device) => {
                let retired = device.past.iter().chain((device.status == Status::Retired).then_some(&device.keys));
                self.retired_keys.extend(retired.map(|keys| *keys.identity.as_bytes()));
                self.regranted.insert(device.id.clone());
                self.devices.insert(device.id.clone(), *device);
            }
            Write::Emergency(kept) => emergency::apply(&mut self.emergencies, *kept),
            Write::Era(chain) => drop(self.eras.insert((chain.device.clone(), chain.ack.era), chain)),
            Write::Fork(fork) => {
                self.forks.entry((fork.device.clone(), fork.era, fork.segment)).or_insert(fork);
            }
            Write::Grant(grant) => {
                self.regranted.insert(grant.spec.device.clone());
                self.made_for.entry(grant.spec.device.clone()).or_default().insert(grant.spec.grant);
                self.grants.insert(grant.spec.grant, *grant);
            }
            Write::Head(signed) => {
                if let Ok(head) = signed.claim() {
                    self.feeds.entry(head.feed.clone()).or_default().put_head(signed, head);
                }
            }
            Write::Aside(_) | Write::Issued(_) | Write::Segment(_) => {}
            Write::Branches(forked) => drop(self.branches.insert((forked.device.clone(), forked.era), forked)),
            Write::Missed(missed) => self.missed = Some(*missed),
            Write::Pending(pending) => drop(self.pending.insert(pending.device.clone(), pending)),
            Write::Policy(version, signed) => {
                if let Some(document) = signed.claim().ok().filter(|_| version > self.policy.1.version) {
                    self.policy = (signed, document);
                }
            }
            Write::Presence(presence) => drop(self.presence.insert(presence.device.clone(), presence)),
            Write::Publisher(publisher) => {
                if self.publisher.as_ref().is_none_or(|known| known.turn < publisher.turn) {
                    self.publisher = Some(publisher);
                }
            }
            Write::Restored(restored) => {
                let feed = self.feeds.entry(restored.feed.clone()).or_default();
                feed.restored = Some(restored);
            }
            Write::Resumed(feed, era, after) => {
                let feed = self.feeds.entry(feed).or_default();
                feed.resumed = feed.resumed.max((era, after));
            }
            Write::Rule(rule) => self.apply_rule(rule),
            Write::Salvaged(Salvaged { device, era, segments: (first, after) }) => {
                self.salvaged.insert((device, era, first), after);
            }
            Write::Seen(seen) => {
                self.regranted.insert(seen.device.clone());
                match self.is_ahead(&seen) {
                    true => self.ahead.insert(seen.device.clone()),
                    false => self.ahead.remove(&seen.device),
                };
                self.seen.insert(seen.device.clone(), *seen);
            }
            Write::Serials(serials) => drop(self.serials.insert(serials.slot.number() % SLOTS_KEPT, serials)),
            Write::Set(feed, bytes) => {
                // Bytes that make no set are never written; were they, the next head would be signed over nothing.
                if let Ok(set) = RevocationSet::from_bytes(&bytes, usize::MAX) {
                    self.feeds.entry(feed.clone()).or_default().set = set;
                    self.wait_no_longer(&feed);
                }
            }
            Write::Snapshot(signed, bytes) => {
                if let Ok(head) = signed.claim() {
                    let set = RevocationSet::from_bytes(&bytes, usize::MAX);
                    self.feeds.entry(head.feed).or_default().snapshot = set.ok().map(|set| (signed, set));
                }
            }
            Write::Step(announcement) => {
                if let Ok(head) = announcement.head.claim() {
                    self.feeds.entry(head.feed).or_default().put_step(announcement);
                }
            }
        }
    }

    /// Whether a device has named a head or a trust bundle that this ledger does not hold, whoever's word counts.
    fn is_ahead(&self, seen: &Seen) -> bool {
        let beyond = |position: &Position| position.order() > publish::own(self.of(&position.feed));
        seen.bundle_version > self.trust().version || seen.feeds.iter().any(beyond)
    }

    fn apply_rule(&mut self, rule: Rule) {
        match &rule.target {
            Target::All => self.regranted.extend(self.devices.keys().cloned()),
            Target::Device(device) => drop(self.regranted.insert(device.clone())),
            Target::Grant(grant) => {
                self.regranted.extend(self.grants.get(grant).map(|grant| grant.spec.device.clone()));
            }
            Target::Audience(_)
            | Target::Block(_)
            | Target::Group(_)
            | Target::IssuedBefore(_)
            | Target::Owner(_)
            | Target::RootKey(_)
            | Target::Task(_) => {}
        }
        if let Some(before) = self.rules.get(&rule.target) {
            for id in self.routes.feeds(before) {
                if let Some(feed) = self.feeds.get_mut(id) {
                    feed.unfile(before.until);
                }
            }
        }
        for id in self.routes.feeds(&rule) {
            if let Some(feed) = self.feeds.get_mut(id) {
                feed.file(&rule.target, rule.until);
            }
        }
        self.rules.insert(rule.target.clone(), rule);
    }

    /// The newest trust bundle names these feeds and says who is in them. Where that is another than before, every
    /// revocation is filed anew: what concerns a device that was moved waits for its new feed's next head.
    fn follow(&mut self) {
        let trust = self.trust().clone();
        for named in &trust.feeds {
            self.feeds.entry(named.id.clone()).or_default().era = named.era;
        }
        self.ahead = self.seen.values().filter(|seen| self.is_ahead(seen)).map(|seen| seen.device.clone()).collect();
        let routes = Routes::of(&trust);
        if routes == self.routes {
            return;
        }
        self.routes = routes;
        if mutant::active(Mutant::MovedNotFiled) {
            return;
        }
        self.feeds.values_mut().for_each(FeedBook::unfile_all);
        for rule in self.rules.values() {
            for id in self.routes.feeds(rule) {
                if let Some(feed) = self.feeds.get_mut(id) {
                    feed.file(&rule.target, rule.until);
                }
            }
        }
        self.feeds.keys().cloned().collect::<Vec<_>>().iter().for_each(|feed| self.wait_no_longer(feed));
    }

    /// What a feed's set holds waits no longer. Rows may come in any order: this is asked again when all of them are in.
    fn wait_no_longer(&mut self, id: &FeedId) {
        let Some(feed) = self.feeds.get_mut(id) else { return };
        let mut waiting = std::mem::take(&mut feed.waiting);
        if mutant::active(Mutant::PendingDropped) {
            return;
        }
        let feed = self.of(id);
        let waits = |target: &Target| self.rules.get(target).is_some_and(|rule| !publish::is_settled(feed, rule));
        waiting.retain(waits);
        if let Some(feed) = self.feeds.get_mut(id) {
            feed.waiting = waiting;
        }
    }

    /// The fleet.
    pub fn fleet(&self) -> &FleetId {
        &self.trust().fleet
    }

    /// The newest trust bundle.
    pub fn trust(&self) -> &TrustBundle {
        self.trusts.last().expect("a book begins with a bundle and never loses one")
    }

    /// Every trust bundle, opened, from version 1 on.
    pub fn trusts(&self) -> &[TrustBundle] {
        &self.trusts
    }

    /// Every trust bundle, signed, from version 1 on.
    pub fn bundles(&self) -> &[Signed<TrustBundle>] {
        &self.bundles
    }

    /// The policy in force.
    pub fn policy(&self) -> (&Signed<PolicyDocument>, &PolicyDocument) {
        (&self.policy.0, &self.policy.1)
    }

    /// The feed of every device that is in no other feed's groups.
    pub fn feed(&self) -> FeedId {
        let first = self.trust().feeds.first();
        first.map(|feed| feed.id.clone()).expect("a bundle without a feed is refused when it is opened")
    }

    /// The feeds that the newest trust bundle names.
    pub fn feeds(&self) -> impl Iterator<Item = (&FeedId, &FeedBook)> {
        self.trust().feeds.iter().map(|feed| (&feed.id, self.of(&feed.id)))
    }

    /// What is known of a feed: nothing of one that no trust bundle ever named.
    pub fn of(&self, feed: &FeedId) -> &FeedBook {
        self.feeds.get(feed).unwrap_or(&self.nothing)
    }

    /// What is known of the first feed.
    pub fn first(&self) -> &FeedBook {
        self.of(&self.feed())
    }

    /// Whether a trust bundle ever named a feed.
    pub fn knows_feed(&self, feed: &FeedId) -> bool {
        self.feeds.contains_key(feed)
    }

    /// Where revocations belong, and devices.
    pub fn routes(&self) -> &Routes {
        &self.routes
    }

    /// All devices.
    pub fn devices(&self) -> impl Iterator<Item = &Device> {
        self.devices.values()
    }

    /// A device.
    pub fn device(&self, id: &DeviceId) -> Option<&Device> {
        self.devices.get(id)
    }

    /// Whether an identity key was retired or replaced.
    pub fn is_retired_key(&self, key: &PublicKey) -> bool {
        self.retired_keys.contains(key.as_bytes())
    }

    /// Devices that wait for an operator.
    pub fn pending(&self) -> impl Iterator<Item = &Pending> {
        self.pending.values().filter(|pending| !pending.settled)
    }

    /// The request of a device, whether or not somebody has dealt with it.
    pub fn request_of(&self, id: &DeviceId) -> Option<&Pending> {
        self.pending.get(id)
    }

    /// All grants that were ever made.
    pub fn grants(&self) -> impl Iterator<Item = &Grant> {
        self.grants.values()
    }

    /// A grant.
    pub fn grant(&self, id: &GrantId) -> Option<&Grant> {
        self.grants.get(id)
    }

    /// The grants that a device should hold now.
    pub fn live_grants<'a>(&'a self, device: &'a DeviceId, now: Timestamp) -> impl Iterator<Item = &'a Grant> {
        let approved = self.device(device).is_some_and(|device| device.status == Status::Approved);
        let own = self.made_for.get(device).filter(|_| approved).into_iter().flatten();
        own.filter_map(|id| self.grants.get(id)).filter(move |grant| self.is_live(grant, now))
    }

    /// Whether a device should hold a grant. One that a device wipes when it hears of the revocation is not sent again.
    fn is_live(&self, grant: &Grant, now: Timestamp) -> bool {
        grant.withdrawn.is_none() && grant.spec.expires > now && !self.is_ordered_gone(grant, now)
    }

    fn is_ordered_gone(&self, grant: &Grant, at: Timestamp) -> bool {
        !self.rules.is_empty() && orders(grant).iter().any(|target| self.live_rule(target, at).is_some())
    }

    /// When the grants that a device should hold next become others by time alone.
    pub(super) fn regrant_due(&self, device: &DeviceId, now: Timestamp) -> Option<Timestamp> {
        let own = self.made_for.get(device).into_iter().flatten().filter_map(|id| self.grants.get(id));
        let changes = own.filter(|grant| grant.withdrawn.is_none()).flat_map(|grant| {
            let orders = (!self.rules.is_empty()).then(|| orders(grant)).into_iter().flatten();
            let lapse = orders.filter_map(|target| Some(self.live_rule(&target, now)?.until + Millis(1)));
            lapse.chain([grant.spec.expires])
        });
        changes.filter(|change| *change > now).min()
    }

    /// Devices of which something was written since this was asked last that the grants go by which they should hold, or which
    /// they say they hold.
    pub(super) fn take_regranted(&mut self) -> BTreeSet<DeviceId> {
        std::mem::take(&mut self.regranted)
    }

    /// The digest over the grants that a device should hold now.
    pub fn live_grants_digest(&self, device: &DeviceId, now: Timestamp) -> Hash {
        grants_digest(self.live_grants(device, now).map(|grant| grant.spec.grant))
    }

    /// All revocations, lapsed ones too.
    pub fn rules(&self) -> impl Iterator<Item = &Rule> {
        self.rules.values()
    }

    /// Revocations that belong to a feed and that its set may not hold yet.
    pub fn waiting(&self, feed: &FeedId) -> impl Iterator<Item = &Rule> {
        self.of(feed).waiting.iter().filter_map(|target| self.rules.get(target))
    }

    /// The revocation of a target, lapsed or not.
    pub fn rule(&self, target: &Target) -> Option<&Rule> {
        self.rules.get(target)
    }

    /// The revocation of a target, if it has not lapsed.
    pub fn live_rule(&self, target: &Target, now: Timestamp) -> Option<&Rule> {
        self.rules.get(target).filter(|rule| rule.until >= now)
    }

    /// How many serials were given out in a slot.
    pub fn serials(&self, slot: Slot) -> u32 {
        let known = self.serials.get(&(slot.number() % SLOTS_KEPT)).filter(|known| known.slot == slot);
        known.map_or(0, |known| known.issued)
    }

    /// The serial of the next token that expires in a slot. None where a set could hold no more, or others may have it.
    pub(super) fn next_serial(&self, slot: Slot) -> Option<u32> {
        // A ledger that was put back may have given out more than it knows, in any slot that it had tokens in then.
        let restored = self.feeds.values().filter_map(|feed| feed.restored.as_ref());
        let unknown = restored.map(|restored| restored.at).any(|at| slot.begins() <= at + TASK_LIFE_MAX);
        Some(self.serials(slot)).filter(|issued| !unknown && *issued < ISSUED_MAX)
    }

    /// When this ledger was last put back from a copy.
    pub fn restored_at(&self) -> Option<Timestamp> {
        self.feeds().filter_map(|(_, feed)| feed.restored_at()).max()
    }

    /// Every feed's row of the copy that was put back, those of feeds that no bundle names any more as well.
    pub(super) fn restored_rows(&self) -> impl Iterator<Item = &Restored> {
        self.feeds.values().filter_map(|feed| feed.restored.as_ref())
    }

    /// What this ledger was told that it lacks, when it was put back from a copy.
    pub fn missed(&self) -> Option<&Missed> {
        self.missed.as_ref()
    }

    /// When the ledger was put back from a copy, if nobody has told since whether trust bundles came after its newest.
    pub fn lacks_bundles_since(&self) -> Option<Timestamp> {
        self.restored_rows().filter(|restored| !restored.bundles_known).map(|restored| restored.at).max()
    }

    /// What is known of an emergency key.
    pub fn emergency(&self, key: KeyId) -> Option<&Known> {
        self.emergencies.get(&key)
    }

    /// What is known of every emergency key that has said something.
    pub fn emergencies(&self) -> impl Iterator<Item = &Known> {
        self.emergencies.values()
    }

    /// Who publishes.
    pub fn publisher(&self) -> Option<&Publisher> {
        self.publisher.as_ref()
    }

    /// How far the collector holds an era.
    pub fn era(&self, device: &DeviceId, era: EraId) -> Option<&EraChain> {
        self.eras.get(&(device.clone(), era))
    }

    /// The eras of a device, oldest first.
    pub fn eras<'a>(&'a self, device: &'a DeviceId) -> impl DoubleEndedIterator<Item = &'a EraChain> {
        let first = EraId { number: 0, salt: 0 };
        let last = EraId { number: u64::MAX, salt: u64::MAX };
        self.eras.range((device.clone(), first)..=(device.clone(), last)).map(|(_, chain)| chain)
    }

    /// Whether a segment is held as what a damaged disk had left of it.
    pub fn is_salvaged(&self, device: &DeviceId, era: EraId, segment: u64) -> bool {
        let upto = (device.clone(), era, 0)..=(device.clone(), era, segment);
        self.salvaged.range(upto).next_back().is_some_and(|(_, after)| segment < *after)
    }

    /// Proofs of forks.
    pub fn forks(&self) -> impl Iterator<Item = &Fork> {
        self.forks.values()
    }

    /// The other branches of an era.
    pub fn branches(&self, device: &DeviceId, era: EraId) -> Option<&Branches> {
        self.branches.get(&(device.clone(), era))
    }

    /// Every era that has other branches.
    pub fn branched(&self) -> impl Iterator<Item = &Branches> {
        self.branches.values()
    }

    /// What a device said last.
    pub fn seen(&self, device: &DeviceId) -> Option<&Seen> {
        self.seen.get(device)
    }

    /// What devices said last that named something which this ledger did not hold then. All others are behind it, or stand
    /// where it does.
    pub(super) fn ahead(&self) -> impl Iterator<Item = &Seen> {
        self.ahead.iter().filter_map(|device| self.seen.get(device))
    }

    /// The newest word about whether a device is connected.
    pub fn presence(&self, device: &DeviceId) -> Option<&Presence> {
        self.presence.get(device)
    }

    /// The number of the next act and the digest of the one before.
    pub fn next_act(&self) -> (u64, Hash) {
        self.acts
    }

    /// The latest end of any token that this fleet may have minted: task tokens end with the grant that covers them.
    pub fn horizon(&self, now: Timestamp) -> Timestamp {
        self.grants.values().map(|grant| grant.spec.expires).fold(now, Timestamp::max)
    }
}

/// What orders a device to wipe a grant.
fn orders(grant: &Grant) -> [Target; 3] {
    [Target::All, Target::Device(grant.spec.device.clone()), Target::Grant(grant.spec.grant)]
}
