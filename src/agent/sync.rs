//! In touch with the fleet: what arrives, what goes out, in which order.
//!
//! Owns: the reconnect order (bundle, policy, emergency statements, head and list, `hello`, acknowledgement, then `online`,
//! then audit), and
//! what each message changes.
//! Never: believes the broker; goes back to an older position; sends audit before it is acknowledged.
//! Read next: `uplink.rs` for the states, `wire/link.rs` for the messages.

use std::collections::BTreeSet;

use rand_core::RngCore;

use super::audit::Acknowledged;
use super::clock::{Between, Role};
use super::effects::{Effects, FileWrite, LinkCommand, LogEvent, Publish, Standing, StateFile};
use super::feed::Wanted;
use super::policy::{self, Policy};
use super::revocation::{Applied, Revocations, Taken};
use super::salvage::{Hole, Remains};
use super::uplink::{Link, NONCE_LIFE};
use super::{Agent, LinkEvent, Now, Source};
use crate::ids::{EraId, FeedId, Hash, Nonce};
use crate::mutant::{self, Mutant};
use crate::time::{Millis, Timestamp};
use crate::wire::audit::segment::{Delivery, GivenUp, Loaded};
use crate::wire::audit::{Event, Gap, GapCause, TrustChange};
use crate::wire::bundle::TrustBundle;
use crate::wire::envelope::Signed;
use crate::wire::link::{
    device_filters, Ack, Answer, Ask, EraAck, Hello, Reply, Request, State, Topic, PENDING_ERAS_MAX,
};
use crate::wire::policy::PolicyDocument;
use crate::wire::revocation::announcement::Announcement;
use crate::wire::revocation::Position;
use crate::wire::seal::SealingKey;
use crate::wire::{Refused, MESSAGE_BYTES_MAX};

/// A service whose clock may be further off than this tells no time.
pub(super) const RADIUS_MAX: Millis = Millis::from_secs(3600);
/// Trust bundles that may wait for the one before them.
const BUNDLES_AHEAD_MAX: usize = 8;

/// What was asked for and did not come for this long is not there.
pub(super) const READ_PATIENCE: Millis = Millis::from_secs(10);

/// What is being read from the broker beside the standing subscriptions, and since when nothing of it came.
#[derive(Debug, Default)]
pub(super) struct Reading {
    pub(super) places: BTreeSet<Topic>,
    pub(super) since: Option<Millis>,
}

fn place_of(feed: FeedId, wanted: Wanted) -> Topic {
    match wanted {
        Wanted::Step(step) if step.level == 0 => Topic::FeedDelta(feed, step.place()),
        Wanted::Step(step) => Topic::FeedSkip(feed, step.level, step.place()),
        Wanted::Manifest => Topic::FeedManifest(feed),
        Wanted::Piece(part, chunk) => Topic::FeedPiece(feed, part, chunk),
    }
}

/// The newest that acknowledgements named.
#[derive(Debug, Default)]
pub(super) struct Named {
    pub(super) bundle_version: u64,
    pub(super) policy_version: u64,
    pub(super) feeds: Vec<Position>,
    /// The digest over the grants that the device should hold, and the service's clock when it said so.
    pub(super) grants: Option<(Hash, Timestamp)>,
    pub(super) window: u16,
}

/// A request for grants that is out.
pub(super) struct GrantsAsked {
    pub(super) nonce: Nonce,
    pub(super) key: SealingKey,
}

impl Agent {
    pub(super) fn on_link(&mut self, event: LinkEvent, now: Now, effects: &mut Effects) {
        match event {
            LinkEvent::Connected => {
                if matches!(self.uplink.link, Link::Connecting { .. }) {
                    self.uplink.settling(now.boottime);
                    self.reading = Reading::default();
                    self.revocations.retry();
                    effects.outgoing.logs.push(LogEvent::LinkUp);
                }
            }
            LinkEvent::Disconnected { reason } => self.disconnected(reason, now, effects),
            LinkEvent::Message { topic, payload } => {
                if !self.uplink.is_connected() {
                    return;
                }
                let refused = self.on_message(&topic, &payload, now, effects).err();
                let untold = |refused: &Refused| {
                    matches!(refused, Refused::Malformed(_)) && mutant::active(Mutant::MalformedUntold)
                };
                if let Some(refused) = refused.filter(|refused| !untold(refused)) {
                    self.refuse(self.source_of(&topic), &topic, &payload, &refused, now, effects);
                }
            }
        }
    }

    fn disconnected(&mut self, reason: String, now: Now, effects: &mut Effects) {
        if self.uplink.is_connected() {
            effects.outgoing.logs.push(LogEvent::LinkDown { reason: reason.clone() });
        }
        self.uplink.down(reason, now.boottime, &mut self.rng);
        self.lose_connection();
    }

    /// Another subscription takes another connection: it is made soon, however often the broker failed before.
    fn resubscribe(&mut self, reason: &str, now: Now, effects: &mut Effects) {
        if self.uplink.is_connected() {
            effects.outgoing.logs.push(LogEvent::LinkDown { reason: reason.into() });
        }
        effects.outgoing.link.push(LinkCommand::Close);
        self.uplink.renewed(reason.into(), now.boottime, &mut self.rng);
        self.lose_connection();
    }

    fn lose_connection(&mut self) {
        self.reading = Reading::default();
        self.trail.ground();
        self.grants_asked = None;
        if self.grants_tries <= 1 {
            // Lost with the connection, not refused: asked for again at once.
            self.grants_asked_at = None;
        }
    }

    fn source_of(&self, topic: &str) -> Source {
        match Topic::parse(topic, &self.fleet) {
            Some(Topic::Bundle(_)) => Source::Bundle,
            Some(Topic::Policy(_)) => Source::Policy,
            Some(Topic::FeedHead(_)) => Source::FeedHead,
            Some(Topic::FeedEmergency(..)) => Source::Emergency,
            Some(
                Topic::FeedRules(_)
                | Topic::FeedDelta(..)
                | Topic::FeedSkip(..)
                | Topic::FeedManifest(_)
                | Topic::FeedPiece(..),
            ) => Source::FeedPiece,
            Some(Topic::DownAck(_)) => Source::Ack,
            Some(Topic::DownAnswer(_)) => Source::Answer,
            Some(
                Topic::UpHello(_)
                | Topic::UpAudit(_)
                | Topic::UpRequest(_)
                | Topic::State(_)
                | Topic::EnrolUp(_)
                | Topic::EnrolDown(_),
            )
            | None => Source::Unknown,
        }
    }

    fn on_message(&mut self, topic: &str, payload: &[u8], now: Now, effects: &mut Effects) -> Result<(), Refused> {
        if payload.len() > MESSAGE_BYTES_MAX {
            if mutant::active(Mutant::OversizedUntold) {
                return Ok(());
            }
            return Err(Refused::TooLarge { bytes: payload.len(), limit: MESSAGE_BYTES_MAX });
        }
        match Topic::parse(topic, &self.fleet).ok_or(Refused::WrongTopic)? {
            Topic::Bundle(version) => self.on_bundle(version, payload, now, effects),
            Topic::Policy(version) => self.on_policy(version, payload, now, effects),
            Topic::FeedHead(feed) => self.on_head(&feed, payload, now, effects),
            Topic::FeedEmergency(feed, key) => self.on_emergency(&feed, key, payload, now, effects),
            Topic::FeedDelta(feed, place) => self.on_feed(&feed, now, effects, |held, trust, between| {
                held.step(&feed, Some((0, place)), payload, trust, between)
            }),
            Topic::FeedSkip(feed, level, place) => self.on_feed(&feed, now, effects, |held, trust, between| {
                held.step(&feed, Some((level, place)), payload, trust, between)
            }),
            Topic::FeedRules(feed) => {
                self.on_feed(&feed, now, effects, |held, _, between| held.rules(&feed, payload, between.floor))
            }
            Topic::FeedManifest(feed) => self.on_feed(&feed, now, effects, |held, trust, between| {
                held.snapshot(&feed, payload, trust, between.floor)
            }),
            Topic::FeedPiece(feed, ..) => {
                self.on_feed(&feed, now, effects, |held, _, between| held.piece(&feed, payload, between.floor))
            }
            Topic::DownAck(device) if device == self.device => self.on_ack(payload, now, effects),
            Topic::DownAnswer(device) if device == self.device => self.on_answer(payload, now, effects),
            Topic::DownAck(_)
            | Topic::DownAnswer(_)
            | Topic::UpHello(_)
            | Topic::UpAudit(_)
            | Topic::UpRequest(_)
            | Topic::State(_)
            | Topic::EnrolUp(_)
            | Topic::EnrolDown(_) => Err(Refused::WrongTopic),
        }
    }

    /// A head arrived. One that names a trust bundle which is still to come may be signed by a key of that one, or be of an
    /// era that it begins: it waits, and is judged when the bundle is here or the fleet says that there is none.
    fn on_head(&mut self, feed: &FeedId, payload: &[u8], now: Now, effects: &mut Effects) -> Result<(), Refused> {
        match self.take_head(feed, payload, now, effects) {
            Ok(()) => Ok(()),
            Err(refused) if matches!(refused, Refused::UnknownKey { .. } | Refused::WrongEra { .. }) => {
                if Announcement::from_bytes(payload)?.head.claim()?.bundle_version <= self.trust.version {
                    return Err(refused);
                }
                self.heads_ahead.insert(feed.clone(), payload.to_vec());
                Ok(())
            }
            Err(refused) => Err(refused),
        }
    }

    fn take_head(&mut self, feed: &FeedId, payload: &[u8], now: Now, effects: &mut Effects) -> Result<(), Refused> {
        self.on_feed(feed, now, effects, |held, trust, between| held.announce(feed, payload, trust, between))
    }

    fn refuse_head(&mut self, feed: FeedId, payload: &[u8], refused: &Refused, now: Now, effects: &mut Effects) {
        let topic = Topic::FeedHead(feed).text(&self.fleet);
        self.refuse(Source::FeedHead, &topic, payload, refused, now, effects);
    }

    /// Something of a feed arrived. What it leads to may ask the broker for more.
    pub(super) fn on_feed(
        &mut self,
        feed: &FeedId,
        now: Now,
        effects: &mut Effects,
        take: impl FnOnce(&mut Revocations, &TrustBundle, Between) -> Result<Taken, Refused>,
    ) -> Result<(), Refused> {
        let own = &self.trust.feed_of(&self.device).id;
        if own != feed {
            return Err(Refused::OtherFeed { offered: feed.clone(), own: own.clone() });
        }
        let Taken { applied, refused } = take(&mut self.revocations, &self.trust, self.clock.between())?;
        self.apply_feed(applied, now, effects);
        self.greet_if_settled(now, effects);
        refused.map_or(Ok(()), Err)
    }

    /// Reads from the broker what the feeds want, and leaves what they have. What does not come is given up.
    pub(super) fn read_feeds(&mut self, now: Now, effects: &mut Effects) {
        if !self.uplink.is_connected() {
            return;
        }
        if self.reading.since.is_some_and(|since| now.boottime.0.saturating_sub(since.0) >= READ_PATIENCE.0) {
            self.revocations.give_up();
        }
        let wanted: BTreeSet<Topic> =
            self.revocations.wanted().into_iter().map(|(feed, wanted)| place_of(feed, wanted)).collect();
        if wanted == self.reading.places {
            return;
        }
        let places = wanted.difference(&self.reading.places).cloned().collect();
        let left = self.reading.places.difference(&wanted).cloned().collect();
        effects.outgoing.link.push(LinkCommand::Read { places, left });
        self.reading = Reading { since: (!wanted.is_empty()).then_some(now.boottime), places: wanted };
    }

    pub(super) fn on_bundle(
        &mut self,
        version: u64,
        payload: &[u8],
        now: Now,
        effects: &mut Effects,
    ) -> Result<(), Refused> {
        if version < self.trust.version || mutant::active(Mutant::BundleNotFollowed) {
            return Ok(());
        }
        if version == self.trust.version {
            let signed = Signed::<TrustBundle>::from_bytes(payload)?;
            if signed.digest() == self.trust_digest {
                return Ok(());
            }
            // Only signatures prove that somebody signed two: noise must not accuse the fleet.
            signed.open(&self.fleet, self.trust.root_keys(), usize::from(self.trust.threshold))?;
            return Err(Refused::Equivocation { position: version });
        }
        if version > self.trust.version + 1 {
            // Retained versions may come in any order; a few may wait for the one before them, the next ones first.
            self.bundles_ahead.insert(version, payload.to_vec());
            if self.bundles_ahead.len() > BUNDLES_AHEAD_MAX {
                self.bundles_ahead.pop_last();
            }
            return Ok(());
        }
        self.apply_bundle(payload, now, effects)?;
        while let Some(next) = self.bundles_ahead.remove(&(self.trust.version + 1)) {
            self.apply_bundle(&next, now, effects)?;
        }
        Ok(())
    }

    fn apply_bundle(&mut self, payload: &[u8], now: Now, effects: &mut Effects) -> Result<(), Refused> {
        let signed = Signed::<TrustBundle>::from_bytes(payload)?;
        let mut next = self.trust.successor(&signed)?;
        let (mark, known) = self.marks.bundle;
        if next.version == mark && signed.digest() != known {
            return Err(Refused::Equivocation { position: mark });
        }
        self.hear(Role::Root, next.issued_at, payload, now, effects);
        let distrusted = self.trust.service.iter().any(|key| !next.service.contains(key));
        if mutant::active(Mutant::IdentityKeyKept) {
            for (issuer, before) in next.identities.iter_mut().zip(&self.trust.identities) {
                issuer.keys.extend(before.keys.iter().cloned());
            }
        }
        self.trust = next;
        self.trust_digest = signed.digest();
        self.trust_signed = signed;
        let moved = self.revocations.follow(&self.trust, &self.device);
        if self.trust.version > mark {
            self.marks.bundle = (self.trust.version, self.trust_digest);
        }
        self.cache.clear();
        effects.batch.files.push(FileWrite { file: StateFile::Bundle, content: payload.to_vec() });
        let version = self.trust.version;
        self.write(Event::Trust(TrustChange::Bundle { version, digest: self.trust_digest }), Vec::new(), now, effects);
        effects.outgoing.logs.push(LogEvent::BundleApplied { version });
        self.anchor_due = true;
        if distrusted {
            // What a key said that has no say any more is not waited for.
            self.named = Named::default();
            self.greet_again(now, effects);
        }
        self.hear_waiting_emergencies(now, effects);
        let mut heads = std::mem::take(&mut self.heads_ahead);
        if moved {
            // Of the feed that it had nothing more is taken; the new one is another subscription.
            heads.retain(|feed, _| *feed == self.trust.feed_of(&self.device).id);
            if self.uplink.is_connected() || matches!(self.uplink.link, Link::Connecting { .. }) {
                self.resubscribe("the trust bundle gives this device another feed", now, effects);
            }
        }
        for (feed, payload) in heads {
            if let Err(refused) = self.on_head(&feed, &payload, now, effects) {
                self.refuse_head(feed, &payload, &refused, now, effects);
            }
        }
        self.catch_up(now, effects);
        Ok(())
    }

    pub(super) fn on_policy(
        &mut self,
        version: u64,
        payload: &[u8],
        now: Now,
        effects: &mut Effects,
    ) -> Result<(), Refused> {
        let (mark, known) = self.marks.policy;
        if version < mark {
            return Ok(());
        }
        let signed = Signed::<PolicyDocument>::from_bytes(payload)?;
        let document = signed.open(&self.fleet, self.trust.policy_keys(), 1)?;
        if document.version != version {
            return Err(Refused::WrongTopic);
        }
        if version == mark && signed.digest() != known {
            return Err(Refused::Equivocation { position: version });
        }
        if version == self.policy.document.version {
            return Ok(());
        }
        let issued_at = document.issued_at;
        let policy = Policy::parse(document)?;
        self.hear(Role::Policy, issued_at, payload, now, effects);
        self.policy = policy;
        self.policy_digest = signed.digest();
        self.policy_signed = Some(signed);
        self.policy_fault = None;
        self.marks.policy = (version, self.policy_digest);
        effects.batch.files.push(FileWrite { file: StateFile::Policy, content: policy::to_file(payload) });
        let digest = self.policy_digest;
        self.write(Event::Trust(TrustChange::Policy { version, digest }), Vec::new(), now, effects);
        effects.outgoing.logs.push(LogEvent::PolicyApplied { version });
        self.anchor_due = true;
        self.catch_up(now, effects);
        Ok(())
    }

    fn apply_feed(&mut self, applied: Option<Applied>, now: Now, effects: &mut Effects) {
        let Some(applied) = applied else { return };
        let Applied { changed, position, newest, issued_at, file, rotten, .. } = applied;
        self.hear(Role::Feed, issued_at, &file.content, now, effects);
        effects.batch.put(file);
        rotten.into_iter().for_each(|file| effects.batch.take_away(file));
        if changed.revoked {
            // What is known first, however far behind the rest: each step of it has its record.
            self.write(Event::Trust(TrustChange::Revoked { newest }), Vec::new(), now, effects);
            self.end_revoked_tasks(now, effects);
            self.obey_lockdown(now, effects);
        }
        if let Some(position) = position.filter(|_| changed.complete) {
            let event = Event::Trust(TrustChange::Feed { position: position.clone() });
            self.write(event, Vec::new(), now, effects);
            effects.outgoing.logs.push(LogEvent::FeedApplied { feed: position.feed, seq: position.seq });
        }
        if changed.complete {
            self.let_feeds_go(effects);
        }
        self.anchor_due = true;
        self.catch_up(now, effects);
    }

    /// Feeds that the device had before, and that nothing here needs any more.
    fn let_feeds_go(&mut self, effects: &mut Effects) {
        let named = self.wallet.feeds();
        for feed in self.revocations.let_go(&named, self.clock.over()) {
            // What stands beside the whole goes first: alone it is nothing.
            for file in [StateFile::FeedSince(feed.clone()), StateFile::Feed(feed)] {
                effects.batch.take_away(file);
            }
        }
    }

    /// A signed time. What it contradicts is evidence; what it is the time of counts all the same.
    pub(super) fn hear(&mut self, role: Role, time: Timestamp, bytes: &[u8], now: Now, effects: &mut Effects) {
        let before = self.clock.clone();
        if let Err(refused) = self.clock.hear(role, time) {
            let name = format!("time signed by {role:?}");
            self.refuse(Source::Clock, &name, bytes, &refused, now, effects);
        }
        // Old time that somebody repeats, and the second that each acknowledgement adds, cost no write.
        self.anchor_due |= self.clock.differs(&before);
    }

    /// Once head and list are here nothing more is waited for: say hello.
    fn greet_if_settled(&mut self, now: Now, effects: &mut Effects) {
        let complete = !self.revocations.gathering() && self.revocations.is_complete();
        if complete && matches!(self.uplink.link, Link::Settling { .. }) {
            self.say_hello(now, effects);
        }
    }

    /// What was missing may have come: ask whether this is the newest now.
    fn catch_up(&mut self, now: Now, effects: &mut Effects) {
        if matches!(self.uplink.link, Link::Lagging { .. }) && self.missing().is_none() {
            self.say_hello(now, effects);
        }
    }

    /// Asks the fleet anew where this device stands, if it is in touch.
    pub(super) fn greet_again(&mut self, now: Now, effects: &mut Effects) {
        if matches!(self.uplink.link, Link::Online { out: None, .. }) {
            self.say_hello(now, effects);
        }
    }

    fn say_hello(&mut self, now: Now, effects: &mut Effects) {
        let nonce = self.new_nonce();
        let hello = Hello {
            device: self.device.clone(),
            nonce,
            boot: self.boot,
            era: self.trail.era(),
            pending: self.trail.pending_eras().take(PENDING_ERAS_MAX).collect(),
            next_index: self.trail.next_index(),
            bundle_version: self.trust.version,
            policy_version: self.policy.document.version,
            feeds: self.revocations.told(),
            grants: self.grants_held(),
            floor: self.clock.floor(),
            powered: self.clock.powered(),
            mode: self.mode.name().into(),
            version: env!("CARGO_PKG_VERSION").into(),
        };
        let payload = Signed::sign(&hello, &self.fleet, &[&self.keys.identity]).to_bytes();
        self.publish(Topic::UpHello(self.device.clone()), payload, effects);
        self.uplink.greeting(nonce, now.boottime);
    }

    pub(super) fn new_nonce(&mut self) -> Nonce {
        let mut nonce = Nonce::default();
        self.rng.fill_bytes(&mut nonce.0);
        nonce
    }

    fn publish(&mut self, topic: Topic, payload: Vec<u8>, effects: &mut Effects) {
        self.uplink.spent(payload.len());
        effects.outgoing.link.push(LinkCommand::Publish(Publish { topic, payload }));
    }

    fn on_ack(&mut self, payload: &[u8], now: Now, effects: &mut Effects) -> Result<(), Refused> {
        let signed = Signed::<Ack>::from_bytes(payload)?;
        let ack = if crate::mutant::active(crate::mutant::Mutant::AckByAnyKey) {
            signed.claim()?
        } else {
            signed.open(&self.fleet, self.trust.service_keys(), 1)?
        };
        if ack.device != self.device {
            return Err(Refused::WrongDevice);
        }
        let round_trip = match ack.nonce {
            Some(nonce) => {
                let sent = self.uplink.answered(nonce, now.boottime);
                let counts = sent.is_some() || !mutant::active(Mutant::NonceUnchecked);
                if counts {
                    self.take_time(&ack, sent.ok_or(Refused::UnknownNonce)?, now, effects)?;
                }
                counts
            }
            None => {
                self.hear(Role::Service, ack.time - ack.radius_ms, payload, now, effects);
                false
            }
        };
        if round_trip {
            self.restore_position(&ack, now, effects);
        }
        if round_trip {
            self.reconcile(now, effects);
        }
        for era in &ack.eras {
            self.on_era_ack(era, round_trip, payload, now, effects);
        }
        self.named.bundle_version = self.named.bundle_version.max(ack.bundle_version);
        self.named.policy_version = self.named.policy_version.max(ack.policy_version);
        if round_trip {
            self.hear_waiting_emergencies(now, effects);
        }
        if round_trip && ack.bundle_version <= self.trust.version {
            // There is no trust bundle that would vouch for them.
            self.give_up_emergencies(now, effects);
            for (feed, payload) in std::mem::take(&mut self.heads_ahead) {
                if let Err(refused) = self.take_head(&feed, &payload, now, effects) {
                    self.refuse_head(feed, &payload, &refused, now, effects);
                }
            }
        }
        for position in ack.feeds {
            if self.revocations.contradicts(&position) {
                self.refuse(
                    Source::Ack,
                    "the head that is named",
                    payload,
                    &Refused::Equivocation { position: position.seq },
                    now,
                    effects,
                );
            }
            match self.named.feeds.iter_mut().find(|known| known.feed == position.feed) {
                Some(known) if known.order() < position.order() => *known = position,
                Some(_) => {}
                None => self.named.feeds.push(position),
            }
        }
        self.named.feeds.truncate(64);
        self.named.grants = Some((ack.grants, ack.time));
        self.named.window = ack.window;
        match self.missing() {
            Some(missing) => self.uplink.lagging(missing, now.boottime),
            None if round_trip => self.uplink.online(now.boottime),
            None => {}
        }
        self.sync_grants(now, effects);
        if self.uplink.is_online() && round_trip {
            self.publish_state(effects);
        }
        Ok(())
    }

    fn take_time(&mut self, ack: &Ack, sent: Millis, now: Now, effects: &mut Effects) -> Result<(), Refused> {
        if ack.radius_ms > RADIUS_MAX {
            return Err(Refused::Malformed("a time that is hardly known"));
        }
        let before = self.clock.powered();
        let known = self.clock.ahead().is_some();
        let correction = self.clock.round_trip(ack.time, ack.radius_ms, sent, now.boottime)?;
        self.wallet.shorten(correction);
        self.note_moment();
        if let Some(ahead) = self.clock.ahead().filter(|_| !known) {
            let refused = Refused::FloorAhead { ahead_s: ahead.secs_ceil() };
            self.refuse(Source::Clock, "the time floor", &[], &refused, now, effects);
        }
        if let Some(reset) = self.reset_at.take() {
            // What a reset could not tell is how long it was on its way: what is from before it is not from after this.
            let since = Millis(now.boottime.0.saturating_sub(reset.0)).slowed(self.clock.drift_ppm());
            let before = self.clock.powered() - since;
            self.wallet.lose_counters(before.min(self.wallet.lost_until()));
        }
        // Tiny corrections come with each round trip and tell nobody anything.
        if correction >= Millis::from_secs(10) {
            let after = self.clock.powered();
            self.write(Event::Trust(TrustChange::Time { before, after }), Vec::new(), now, effects);
        }
        self.clock.renew_lease();
        self.anchor_due = true;
        Ok(())
    }

    /// The collector knows how far this device had come: no number is used twice. Where a later era cannot begin within
    /// this commit, it begins with one of the next, and nothing is unlocked before.
    fn restore_position(&mut self, ack: &Ack, now: Now, effects: &mut Effects) {
        match self.standing {
            Standing::Contradicted { .. } | Standing::Known => return,
            Standing::Lost | Standing::Renewed => {}
        }
        let own = self.trail.era();
        let others = ack.eras.iter().map(|era| era.era).filter(|era| *era != own);
        match others.map(|era| era.number).max().filter(|newest| *newest >= own.number) {
            Some(newest) => {
                self.behind = Some(newest);
                self.roll_if_due(now, effects);
            }
            None => self.know_again(),
        }
        self.anchor_due = true;
    }

    fn on_era_ack(&mut self, ack: &EraAck, round_trip: bool, payload: &[u8], now: Now, effects: &mut Effects) {
        match self.trail.acknowledge(ack, &mut effects.batch) {
            Ok(Acknowledged::Released(segment)) => {
                self.counters.segments_released += 1;
                effects.outgoing.logs.push(LogEvent::AuditReleased { era: ack.era.number, segment });
            }
            Ok(Acknowledged::Behind) if round_trip => {
                self.trail.rewind(ack);
                let segment = ack.next_segment;
                effects.outgoing.logs.push(LogEvent::AuditRewound { era: ack.era.number, segment });
                self.anchor_due = true;
            }
            // It may be an old one, brought again.
            Ok(Acknowledged::Behind) => self.uplink.ask_soon(now.boottime),
            Ok(Acknowledged::Nothing) => {}
            // What is here goes on being sent, and is set aside there where it is of another branch.
            Ok(Acknowledged::Elsewhere) => self.contradicted(*ack, payload, now, effects),
            Err(ahead) => self.contradicted(ahead, payload, now, effects),
        }
    }

    fn contradicted(&mut self, ahead: EraAck, payload: &[u8], now: Now, effects: &mut Effects) {
        match self.standing {
            Standing::Known => {
                let refused = Refused::RolledBack { offered: self.trail.era().number, known: ahead.era.number };
                self.refuse(Source::Ack, "acknowledgement", payload, &refused, now, effects);
                self.standing = Standing::Contradicted { era: ahead.era.number, segment: ahead.next_segment };
                self.anchor_due = true;
            }
            // Nothing new, or only what a round trip is waited for to say.
            Standing::Contradicted { .. } | Standing::Lost | Standing::Renewed => {}
        }
    }

    /// What an acknowledgement or head named and this device does not have.
    fn missing(&self) -> Option<String> {
        let (bundle, policy) = self.revocations.versions_named();
        let (bundle, policy) = (bundle.max(self.named.bundle_version), policy.max(self.named.policy_version));
        let policy = policy.max(self.trust.policy_version_min);
        if bundle > self.trust.version {
            return Some(format!("trust bundle {bundle}"));
        }
        if self.revocations.gathering() {
            return Some("the list of a newer head".into());
        }
        if let Some(forked) = self.named.feeds.iter().find(|named| self.revocations.contradicts(named)) {
            return Some(format!(
                "the head {} of feed {} that the fleet signed: another one is held",
                forked.seq, forked.feed
            ));
        }
        if policy > self.policy.document.version {
            return Some(format!("policy {policy}"));
        }
        let held = self.revocations.positions();
        let id = &self.trust.feed_of(&self.device).id;
        let behind = self.named.feeds.iter().find(|named| {
            let own = held.iter().find(|own| own.feed == named.feed);
            named.feed == *id && own.is_none_or(|own| own.order() < named.order())
        });
        behind.map(|named| format!("head {} of feed {}", named.seq, named.feed))
    }

    pub(super) fn send_request(&mut self, ask: Ask, key: &SealingKey, effects: &mut Effects) -> Nonce {
        let nonce = self.new_nonce();
        let request = Request { device: self.device.clone(), nonce, reply_to: key.public(), ask };
        let payload = Signed::sign(&request, &self.fleet, &[&self.keys.identity]).to_bytes();
        self.publish(Topic::UpRequest(self.device.clone()), payload, effects);
        nonce
    }

    fn on_answer(&mut self, payload: &[u8], now: Now, effects: &mut Effects) -> Result<(), Refused> {
        let signed = Signed::<Answer>::from_bytes(payload)?;
        let answer = signed.open(&self.fleet, self.trust.service_keys(), 1)?;
        if answer.device != self.device {
            return Err(Refused::WrongDevice);
        }
        if let Some(want) = self.wants.get(&answer.nonce) {
            // Whoever waits goes on waiting if this is no answer: in the end there is the fallback grant.
            let reply = answer.open(&want.key)?;
            if matches!(reply, Reply::Grants(_)) {
                return Err(Refused::Malformed("grants in the place of a task token"));
            }
            let Some(want) = self.wants.remove(&answer.nonce) else { return Ok(()) };
            match reply {
                Reply::Task(token) => self.issued(want, token, now, effects),
                Reply::Refused(text) => self.issuer_refused(want, &text, now, effects),
                Reply::Grants(_) => {}
            }
            return Ok(());
        }
        let asked = self.grants_asked.take_if(|asked| asked.nonce == answer.nonce);
        if asked.is_none() && mutant::active(Mutant::LateAnswerUntold) {
            return Ok(());
        }
        let asked = asked.ok_or(Refused::UnknownNonce)?;
        match answer.open(&asked.key)? {
            Reply::Grants(tokens) => self.take_grants(tokens, payload, now, effects),
            Reply::Refused(_) => Ok(()),
            Reply::Task(_) => Err(Refused::Malformed("a task token in the place of grants")),
        }
    }

    /// What the link's state asks for at this time.
    pub(super) fn drive_link(&mut self, now: Now, effects: &mut Effects) {
        let due = self.uplink.deadline() <= now.boottime;
        match &self.uplink.link {
            Link::Down { .. } if due => {
                let filters = device_filters(&self.fleet, &self.device, &self.trust.feed_of(&self.device).id);
                let will = Publish { topic: Topic::State(self.device.clone()), payload: self.state(State::GONE) };
                effects.outgoing.link.push(LinkCommand::Connect { filters, will: Some(will) });
                self.uplink.connecting(now.boottime);
            }
            Link::Connecting { .. } if due => self.reconnect("no connection in time", now, effects),
            Link::Settling { .. } | Link::Greeting { .. } if due => self.say_hello(now, effects),
            // What is read has a patience of its own, which a new connection would begin anew.
            Link::Lagging { missing, .. } if due && self.reading.since.is_some() => {
                let missing = missing.clone();
                self.uplink.lagging(missing, now.boottime);
            }
            Link::Lagging { .. } if due => self.reconnect("what the fleet named did not arrive", now, effects),
            Link::Online { out: None, .. } if due => self.say_hello(now, effects),
            Link::Online { out: Some(_), .. } if due && mutant::active(Mutant::EndUnread) => {
                self.say_hello(now, effects)
            }
            Link::Online { out: Some(_), .. } if due => self.reconnect("hello was not acknowledged", now, effects),
            Link::Connecting { .. }
            | Link::Down { .. }
            | Link::Settling { .. }
            | Link::Greeting { .. }
            | Link::Lagging { .. }
            | Link::Online { .. } => {}
        }
        if let Link::Online { out: Some((_, sent)), .. } = &self.uplink.link {
            debug_assert!(now.boottime.0 <= sent.0 + NONCE_LIFE.0 * 2, "a hello is given up before its nonce ends");
        }
    }

    fn reconnect(&mut self, reason: &str, now: Now, effects: &mut Effects) {
        effects.outgoing.link.push(LinkCommand::Close);
        self.disconnected(reason.into(), now, effects);
    }

    /// Sends audit, oldest first, as far as window and byte budget allow.
    pub(super) fn pump(&mut self, now: Now, effects: &mut Effects) {
        if !self.uplink.is_online() {
            return;
        }
        let resend = Millis(now.boottime.0.saturating_sub(self.uplink.limits().resend_ms));
        self.trail.expire_flights(resend);
        if !self.trail.waiting() || !self.uplink.has_bytes(now.boottime) {
            return;
        }
        let window = usize::from(self.uplink.limits().window.min(self.named.window));
        effects.outgoing.loads.extend(self.trail.take(window, now.boottime));
    }

    pub(super) fn on_segment(
        &mut self,
        era: EraId,
        segment: u64,
        upload: Option<Loaded>,
        now: Now,
        effects: &mut Effects,
    ) {
        if upload.is_none() && crate::mutant::active(crate::mutant::Mutant::ReleaseOnPuback) {
            return self.trail.release_unacknowledged(era, segment, &mut effects.batch);
        }
        if !self.uplink.is_online() {
            return;
        }
        // What nobody could tell to be of this device's key is as good as damaged.
        let Some(loaded) = upload.filter(|loaded| self.trail.vouches(loaded)) else {
            effects.outgoing.holes.extend(self.trail.hole(era, segment));
            return;
        };
        match self.trail.goes_on(&loaded) {
            Ok(()) => self.send_segment(era, segment, loaded, now, effects),
            Err(elsewhere) => {
                // What the collector said was of another branch of the era, and nothing counts as delivered by that.
                let from = self.trail.stands_at(era);
                effects.outgoing.logs.push(LogEvent::AuditRewound { era: era.number, segment: from });
                self.anchor_due = true;
                self.contradicted(elsewhere, &[], now, effects);
            }
        }
    }

    /// What is left of a segment is sent in its place; what is lost of it is counted in gap records before.
    pub(super) fn on_remains(&mut self, hole: &Hole, remains: Remains, now: Now, effects: &mut Effects) {
        if !self.uplink.is_online() {
            return;
        }
        let Some((upload, untold)) = self.trail.salvage(hole, remains, self.clock.floor()) else { return };
        // What is signed now is in no era: only the anchor can count it.
        self.anchor_due = true;
        for (first, end) in untold.into_iter().filter(|_| !mutant::active(Mutant::HoleUntold)) {
            let detail = format!("records {first} to {} are lost: counted in a gap record", end - 1);
            effects.outgoing.logs.push(LogEvent::StoreRecovered { era: hole.era.number, detail });
            let gap = Gap { era: hole.era, first, end: Some(end), cause: GapCause::Damaged, repeated: 0 };
            self.write(Event::Gap(gap), Vec::new(), now, effects);
        }
        self.send_segment(hole.era, hole.from.segment, Loaded::Whole(upload), now, effects);
    }

    fn send_segment(&mut self, era: EraId, segment: u64, loaded: Loaded, now: Now, effects: &mut Effects) {
        let sealed = self.policy.document.seal_audit && !crate::mutant::active(crate::mutant::Mutant::AuditNotSealed);
        let delivery = match loaded {
            Loaded::Whole(upload) if sealed => Delivery::seal(upload, &self.trust.collector, &mut self.rng),
            Loaded::Whole(upload) => Ok(Delivery::Open(upload)),
            Loaded::Shed(header) => {
                let said = GivenUp { device: self.device.clone(), header: header.digest() };
                let word = Signed::sign(&said, &self.fleet, &[&self.keys.identity]);
                Ok(Delivery::Shed { header, word })
            }
        };
        let delivery = match delivery {
            Ok(delivery) => delivery,
            // Kept here until a trust bundle names a key that can be sealed to.
            Err(refused) => {
                self.refuse(Source::Bundle, "the collector's key", &[], &refused, now, effects);
                return;
            }
        };
        self.publish(Topic::UpAudit(self.device.clone()), delivery.to_bytes(), effects);
        if mutant::active(Mutant::SentIsDelivered) {
            self.trail.release_unacknowledged(era, segment, &mut effects.batch);
        }
        effects.outgoing.logs.push(LogEvent::AuditSent { era: era.number, segment });
    }

    pub(super) fn publish_state(&mut self, effects: &mut Effects) {
        if self.uplink.is_online() {
            let payload = self.state(self.mode.name());
            self.publish(Topic::State(self.device.clone()), payload, effects);
        }
    }

    /// The last word before an end in order, whose DISCONNECT makes the broker forget the last will.
    pub(super) fn say_gone(&mut self, effects: &mut Effects) {
        if self.uplink.is_connected() {
            let payload = self.state(State::GONE);
            self.publish(Topic::State(self.device.clone()), payload, effects);
        }
    }

    fn state(&self, mode: &str) -> Vec<u8> {
        let state = State {
            device: self.device.clone(),
            mode: mode.into(),
            floor: self.clock.floor(),
            feeds: self.revocations.told(),
            pending: self.trail.pending(),
        };
        Signed::sign(&state, &self.fleet, &[&self.keys.identity]).to_bytes()
    }
}
