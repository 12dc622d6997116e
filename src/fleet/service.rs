//! `fleet serve` without its sockets: issuer, publisher and collector.
//!
//! Owns: [`Service`]: what each message is answered, what is published when, the memory of nonces; [`FleetLog`].
//! Never: lets a message leave before what it rests on is committed; answers a request twice; believes a topic.
//! Read next: `shell/serve.rs`, which feeds it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use ed25519_dalek::SigningKey;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

use super::again::{Again, Order, Thing};
use super::book::{Book, Presence, ServedKeys, Write};
use super::hello::{ack, eras_of, Terms};
use super::issue::Minting;
use super::keys::{self, Issuer};
use super::publish::{self, Cadence};
use super::rotate::{is_in_use, KeyRole};
use super::{collect, emergency, enrol, grant, hello, issue, restore, Effects, FleetError};
use crate::agent::effects::Publish;
use crate::ids::{DeviceId, EraId, FeedId, GrantId, Hash, KeyId, Nonce, TaskId};
use crate::time::{Millis, Timestamp};
use crate::wire::bundle::{PublicKey, TrustBundle};
use crate::wire::envelope::Signed;
use crate::wire::link::{Ack, Answer, EraAck, Hello, Request, State, Topic};
use crate::wire::revocation::Position;
use crate::wire::seal::SealingKey;
use crate::wire::{Refused, MESSAGE_BYTES_MAX};

/// The nonces of a device's newest requests: a broker that delivers one twice gets no second token.
const NONCES_KEPT: usize = 64;

/// What is stored of the segments of one number: of a device, an era.
pub type Archive<'a> = dyn Fn(&DeviceId, EraId, u64) -> Digests + 'a;

/// The digests of what is stored under one position.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Digests {
    /// Of the branch that arrived first.
    pub trail: Option<Hash>,
    /// Of the others.
    pub aside: Vec<Hash>,
}

impl Digests {
    /// Of one position of an era that never forked.
    pub fn one(trail: Option<Hash>) -> Self {
        Self { trail, aside: Vec::new() }
    }

    /// With what else is to be written there.
    pub(super) fn and(mut self, uncommitted: Self) -> Self {
        self.aside.extend(uncommitted.aside);
        Self { trail: self.trail.or(uncommitted.trail), aside: self.aside }
    }
}

/// What an operator chooses for the service.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// When heads are due.
    pub cadence: Cadence,
    /// Window and clock error.
    pub terms: Terms,
    /// No task token that is minted here lives longer.
    pub task_ttl_max: Millis,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            cadence: Cadence::every(Millis::from_secs(60)),
            terms: Terms { window: 8, clock_error: Millis(500) },
            task_ttl_max: Millis::from_secs(3600),
        }
    }
}

/// The keys that the service works with. The root, policy and operator keys are not among them.
pub struct ServiceKeys {
    /// Mints tokens.
    pub issuer: Issuer,
    /// Signs heads.
    pub feed: SigningKey,
    /// Signs acknowledgements and answers.
    pub service: SigningKey,
    /// Open sealed audit: the key in use, and those before it.
    pub collectors: Vec<SealingKey>,
}

impl ServiceKeys {
    /// Their ids, for the ledger.
    pub fn ids(&self) -> ServedKeys {
        let id = |key: &SigningKey| KeyId::of(key.verifying_key().as_bytes());
        ServedKeys { feed: id(&self.feed), issuer: id(&self.issuer.key), service: id(&self.service) }
    }

    /// Whether all of them are believed.
    ///
    /// # Errors
    /// [`FleetError::OtherKeys`] for one that the trust bundle names no more.
    pub fn check(&self, trust: &TrustBundle) -> Result<(), FleetError> {
        self.standings(trust).into_iter().try_for_each(|(role, _, named)| keys::check(role, trust, named))
    }

    /// Per role, whether its key is the one in use, and whether the trust bundle names it at all.
    fn standings(&self, trust: &TrustBundle) -> [(&'static str, bool, bool); 4] {
        let feed = PublicKey::from(self.feed.verifying_key());
        let service = PublicKey::from(self.service.verifying_key());
        let issuer = PublicKey::from(self.issuer.key.verifying_key());
        let opens = |collector: &SealingKey| collector.public() == trust.collector;
        [
            ("collector", self.collectors.first().is_some_and(opens), self.collectors.iter().any(opens)),
            (
                "feed",
                is_in_use(trust, KeyRole::Feed, feed.as_bytes()),
                trust.feeds.iter().all(|known| known.keys.contains(&feed)),
            ),
            ("issuer", is_in_use(trust, KeyRole::Issuer, issuer.as_bytes()), self.issuer.check(trust).is_ok()),
            ("service", is_in_use(trust, KeyRole::Service, service.as_bytes()), trust.service.contains(&service)),
        ]
    }
}

/// Something that the service's log tells. The shell writes it as one JSON line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FleetLog {
    /// `audit.stored`: a segment is verified and stored.
    AuditStored {
        /// The device.
        device: DeviceId,
        /// The era's number.
        era: u64,
        /// The segment.
        segment: u64,
        /// Its records.
        records: u64,
        /// Gap records among them.
        gaps: u64,
    },
    /// A segment of another branch of its era than the one that arrived first is kept beside that.
    AuditSetAside {
        /// The device.
        device: DeviceId,
        /// The era's number.
        era: u64,
        /// The segment.
        segment: u64,
        /// How many records.
        records: u64,
    },
    /// `chain.forked`: proof that a device's chain forked.
    ChainForked {
        /// The device.
        device: DeviceId,
        /// The era's number.
        era: u64,
        /// The segment.
        segment: u64,
        /// What does not fit.
        what: String,
    },
    /// `device.joined`: the first hello of an enrolled device.
    DeviceJoined {
        /// The device.
        device: DeviceId,
    },
    /// `device.state`: a device said, or its last will said, how it is.
    DeviceState {
        /// The device.
        device: DeviceId,
        /// Its mode.
        mode: String,
        /// Records that it has not delivered.
        pending: u64,
    },
    /// `emergency.forked`: proof that an emergency key signed two contents for one counter.
    EmergencyForked {
        /// The key.
        key: KeyId,
        /// Whose it is.
        operator: String,
        /// The counter.
        counter: u64,
    },
    /// `emergency.heard`: an operator, or whoever has his emergency key, has revoked something.
    EmergencyHeard {
        /// The key.
        key: KeyId,
        /// Whose it is.
        operator: String,
        /// The statement's counter.
        counter: u64,
        /// Rules in it.
        rules: u64,
    },
    /// `enrol.pending`: a device asks to join over the broker.
    EnrolPending {
        /// The device.
        device: DeviceId,
        /// The code to compare.
        code: String,
    },
    /// `feed.forked`: a device has seen a head that this fleet did not sign so.
    FeedForked {
        /// The device.
        device: DeviceId,
        /// The feed.
        feed: FeedId,
        /// The head's number.
        seq: u64,
    },
    /// `feed.impossible`: a device names a head that this fleet cannot have signed by now. It counts for nothing.
    FeedImpossible {
        /// The device.
        device: DeviceId,
        /// The feed.
        feed: FeedId,
        /// The head's era.
        era: u32,
        /// The head's number.
        seq: u64,
        /// The highest number that there can be, of the feed's era.
        most: u64,
    },
    /// `feed.halted`: no head can be signed.
    FeedHalted {
        /// Why, and what to do.
        reason: String,
    },
    /// `feed.signed`: a new head.
    FeedSigned {
        /// The feed.
        feed: FeedId,
        /// Its number.
        seq: u64,
        /// Rules in its list.
        rules: u64,
    },
    /// `key.replaced`: this process has not the key in use.
    KeyReplaced {
        /// Its role.
        role: &'static str,
        /// The trust bundle that names another.
        bundle: u64,
        /// Whether its own is still good. If not, nothing is signed with it any more.
        good: bool,
    },
    /// `grants.answered`: a device was sent its grants.
    GrantsAnswered {
        /// The device.
        device: DeviceId,
        /// How many.
        count: u64,
    },
    /// `grant.not_renewed`: a successor could not be minted.
    GrantNotRenewed {
        /// The device.
        device: DeviceId,
        /// Why.
        reason: String,
    },
    /// `grant.renewed`: a device gets a successor of a grant.
    GrantRenewed {
        /// The device.
        device: DeviceId,
        /// The grant.
        grant: GrantId,
        /// Its successor.
        successor: GrantId,
    },
    /// `hello.answered`.
    HelloAnswered {
        /// The device.
        device: DeviceId,
        /// The mode that it was in.
        mode: String,
        /// Its floor E.
        floor: Timestamp,
    },
    /// `message.refused`.
    MessageRefused {
        /// Where it came from, shortened.
        topic: String,
        /// Why.
        reason: String,
    },
    /// `published.again`: a device lacks what went out long ago, so that a broker must have lost it.
    PublishedAgain {
        /// The device.
        device: DeviceId,
        /// What it lacks.
        what: String,
        /// How many messages went out.
        messages: usize,
    },
    /// `task.issued`.
    TaskIssued {
        /// The device.
        device: DeviceId,
        /// The task.
        task: TaskId,
        /// The grant that covers it.
        grant: GrantId,
    },
    /// `task.refused`.
    TaskRefused {
        /// The device.
        device: DeviceId,
        /// The task.
        task: TaskId,
        /// Why.
        reason: String,
    },
}

/// What the broker holds of ours, as far as this connection knows.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Published {
    bundle: u64,
    policy: u64,
    feeds: BTreeMap<FeedId, publish::FeedAt>,
}

impl Published {
    fn things(&self) -> BTreeMap<Thing, Order> {
        let feeds = self.feeds.iter().map(|(feed, at)| (Thing::Feed(feed.clone()), at.head));
        let documents = [(Thing::Bundles, (0, self.bundle)), (Thing::Policy, (0, self.policy))];
        feeds.chain(documents).collect()
    }
}

/// When the grants that each device should hold were held against those that it was told of, so that a tick looks only at
/// those of which something was written since, or whose grants time has changed.
#[derive(Debug, Default)]
struct Regard {
    /// All of them, that time: none before the first.
    looked: Option<Timestamp>,
    /// When time changes some.
    due: BTreeMap<Timestamp, BTreeSet<DeviceId>>,
}

impl Regard {
    /// Those to look at now.
    fn take(&mut self, book: &mut Book, at: Timestamp) -> BTreeSet<DeviceId> {
        let mut changed = book.take_regranted();
        // A clock that was set back makes what had ended good again.
        if self.looked.replace(at).is_none_or(|last| at < last) {
            self.due.clear();
            return book.devices().map(|device| device.id.clone()).collect();
        }
        let later = self.due.split_off(&(at + Millis(1)));
        changed.extend(std::mem::replace(&mut self.due, later).into_values().flatten());
        changed
    }
}

/// Issuer, publisher and collector.
pub struct Service {
    keys: ServiceKeys,
    settings: Settings,
    rng: ChaCha20Rng,
    /// None while there is no connection.
    published: Option<Published>,
    /// What of that devices lack.
    again: Again,
    /// What the broker keeps of emergency keys.
    told_of_emergencies: emergency::Told,
    /// Why no head can be signed, as it was logged.
    halted: Option<FleetError>,
    /// The trust bundle by which the keys were judged.
    judged: u64,
    told: BTreeMap<DeviceId, Hash>,
    grants: Regard,
    nonces: BTreeMap<DeviceId, VecDeque<Nonce>>,
}

impl Service {
    /// A service that starts, not connected.
    ///
    /// # Errors
    /// [`FleetError::Behind`] when this ledger is an old copy; [`FleetError::OtherKeys`] when a key was replaced.
    pub fn start(keys: ServiceKeys, settings: Settings, seed: [u8; 32], book: &Book) -> Result<Self, FleetError> {
        restore::may_follow(book)?;
        keys.check(book.trust())?;
        publish::may_start(book)?;
        Ok(Self {
            keys,
            settings,
            rng: ChaCha20Rng::from_seed(seed),
            published: None,
            again: Again::default(),
            told_of_emergencies: emergency::Told::default(),
            halted: None,
            judged: 0,
            told: BTreeMap::new(),
            grants: Regard::default(),
            nonces: BTreeMap::new(),
        })
    }

    /// The broker accepted connection and subscriptions: everything retained goes out, in the order of trust.
    pub fn connected(&mut self, book: &mut Book, at: Timestamp, fx: &mut Effects) {
        self.sign(book, at, fx);
        fx.outgoing.publish.extend(publish::retained(book));
        self.again = Again::default();
        self.note_published(present(book), at);
        self.told_of_emergencies = emergency::Told::connected(at);
    }

    /// The connection is gone.
    pub fn disconnected(&mut self) {
        self.published = None;
        // What was on its way may be lost; what devices said last counts again.
        self.told.clear();
        self.grants = Regard::default();
    }

    /// The ledger may have changed, or a head is due: what is new goes out.
    pub fn tick(&mut self, book: &mut Book, at: Timestamp, fx: &mut Effects) {
        self.sign(book, at, fx);
        let Some(published) = &self.published else { return };
        fx.outgoing.publish.extend(self.told_of_emergencies.tell(book, at));
        let now = present(book);
        if now == *published {
            self.tell_grants(book, at, fx);
            return;
        }
        if now.bundle != published.bundle || now.policy != published.policy {
            fx.outgoing.publish.extend(publish::retained(book));
        } else {
            let news = book.feeds().flat_map(|(id, feed)| publish::feed(id, feed, published.feeds.get(id).copied()));
            fx.outgoing.publish.extend(news);
        }
        self.note_published(now, at);
        self.tell_grants(book, at, fx);
    }

    /// What is new in `now` has gone out.
    fn note_published(&mut self, now: Published, at: Timestamp) {
        let before = self.published.take().map(|before| before.things()).unwrap_or_default();
        for (thing, order) in now.things() {
            if before.get(&thing) != Some(&order) {
                self.again.published(thing, order, at);
            }
        }
        self.published = Some(now);
    }

    /// What a device lacks though it went out a while ago goes out again. A revoked device's word counts here: what it lacks
    /// may be its revocation, and a lie costs one more publication at most.
    fn publish_again(&mut self, book: &Book, hello: &Hello, at: Timestamp, fx: &mut Effects) {
        if self.published.is_none() {
            return;
        }
        let feed = book.routes().feed_of(&hello.device);
        let own = hello.feeds.iter().find(|position| position.feed == *feed).map_or((0, 0), Position::order);
        let mut said = vec![(Thing::Bundles, (0, hello.bundle_version)), (Thing::Policy, (0, hello.policy_version))];
        if hello.bundle_version >= book.trust().version {
            // Before that it may follow another feed, or know none of this one's keys.
            said.push((Thing::Feed(feed.clone()), own));
        }
        for (thing, has) in said {
            let Some(after) = self.again.lacks(&thing, has, at) else { continue };
            let messages = publish::after(book, &thing, after);
            let (device, what) = (hello.device.clone(), thing.to_string());
            fx.log(FleetLog::PublishedAgain { device, what, messages: messages.len() });
            messages.into_iter().for_each(|message| fx.publish(message));
        }
    }

    /// Signs a head if one is due, or tells once why none can be.
    fn sign(&mut self, book: &mut Book, at: Timestamp, fx: &mut Effects) {
        self.judge_keys(book.trust(), fx);
        let halted = publish::may_sign(book, &self.keys.feed).err();
        if let Some(error) = halted.as_ref().filter(|error| self.halted.as_ref() != Some(error)) {
            fx.log(FleetLog::FeedHalted { reason: error.to_string() });
        }
        self.halted = halted;
        if self.halted.is_none() {
            publish::advance_checked(book, &self.keys.feed, self.settings.cadence, at, fx);
        }
    }

    /// A key that was replaced while this runs is told of once.
    fn judge_keys(&mut self, trust: &TrustBundle, fx: &mut Effects) {
        if self.judged == trust.version {
            return;
        }
        self.judged = trust.version;
        for (role, _, good) in self.keys.standings(trust).into_iter().filter(|(_, in_use, _)| !in_use) {
            fx.log(FleetLog::KeyReplaced { role, bundle: trust.version, good });
        }
    }

    /// Whether devices believe what this process would answer.
    fn is_believed(&self, trust: &TrustBundle) -> bool {
        trust.service_keys().any(|key| *key == self.keys.service.verifying_key())
    }

    /// How long until [`Service::tick`] has something to do though nothing changed.
    pub fn due_in(&self, book: &Book, at: Timestamp) -> Millis {
        let told = self.published.as_ref().and_then(|_| self.told_of_emergencies.due_in(book, at));
        let due = match self.halted {
            // Only a change of the ledger helps.
            Some(_) => self.settings.cadence.interval(),
            None => publish::due_in(book, self.settings.cadence, at),
        };
        told.map_or(due, |told| told.min(due))
    }

    /// A message arrived. What is refused is logged and changes nothing.
    pub fn message(
        &mut self,
        book: &mut Book,
        topic: &str,
        payload: &[u8],
        archive: &Archive<'_>,
        at: Timestamp,
        fx: &mut Effects,
    ) {
        if let Err(refused) = self.take(book, topic, payload, archive, at, fx) {
            let topic = topic.chars().filter(|c| !c.is_control()).take(120).collect();
            fx.log(FleetLog::MessageRefused { topic, reason: refused.to_string() });
        }
    }

    fn take(
        &mut self,
        book: &mut Book,
        topic: &str,
        payload: &[u8],
        archive: &Archive<'_>,
        at: Timestamp,
        fx: &mut Effects,
    ) -> Result<(), Refused> {
        if payload.len() > MESSAGE_BYTES_MAX {
            return Err(Refused::TooLarge { bytes: payload.len(), limit: MESSAGE_BYTES_MAX });
        }
        match Topic::parse(topic, book.fleet()).ok_or(Refused::WrongTopic)? {
            // Whoever has the new key answers when the device asks again; but the bundle that names it may be what it lacks.
            Topic::UpHello(id) if !self.is_believed(book.trust()) => {
                let hello = hello::open(book, &id, payload)?;
                self.publish_again(book, &hello, at, fx);
                Ok(())
            }
            Topic::UpAudit(_) | Topic::UpRequest(_) if !self.is_believed(book.trust()) => Ok(()),
            Topic::UpHello(id) => self.on_hello(book, &id, payload, at, fx),
            Topic::UpAudit(id) => {
                let collected = collect::receive(book, &id, payload, &self.keys.collectors, archive, at, fx)?;
                self.acknowledge(book, &id, None, vec![collected.ack()], at, fx);
                Ok(())
            }
            Topic::UpRequest(id) => self.on_request(book, &id, payload, at, fx),
            Topic::State(_) if payload.is_empty() => Ok(()),
            Topic::State(id) => on_state(book, &id, payload, at, fx),
            Topic::EnrolUp(id) => enrol::wait(book, &id, payload, at, fx),
            Topic::FeedEmergency(feed, key) => {
                if !book.knows_feed(&feed) || book.trust().emergency_key(key).is_none() {
                    return Err(Refused::WrongTopic);
                }
                self.told_of_emergencies.hears(book.trust(), feed, key, payload);
                // What was taken from the broker is told again.
                if payload.is_empty() {
                    return Ok(());
                }
                emergency::hear(book, key, payload, at, fx)
            }
            Topic::Bundle(_)
            | Topic::Policy(_)
            | Topic::FeedHead(_)
            | Topic::FeedRules(_)
            | Topic::FeedDelta(..)
            | Topic::FeedSkip(..)
            | Topic::FeedManifest(_)
            | Topic::FeedPiece(..)
            | Topic::DownAck(_)
            | Topic::DownAnswer(_)
            | Topic::EnrolDown(_) => Err(Refused::WrongTopic),
        }
    }

    fn on_hello(
        &mut self,
        book: &mut Book,
        id: &DeviceId,
        payload: &[u8],
        at: Timestamp,
        fx: &mut Effects,
    ) -> Result<(), Refused> {
        let hello = hello::receive(book, id, payload, at, fx)?;
        let device = hello::known(book, id)?.clone();
        if let Err(error) = grant::follow_feed(book, &device, &self.keys.issuer, at, &mut self.rng, fx) {
            // The old one is still good: it is what the device goes on with.
            fx.log(FleetLog::GrantNotRenewed { device: id.clone(), reason: error.to_string() });
        }
        let eras = eras_of(book, &device, &hello);
        // First, for without the newest trust bundle it may not believe what comes then.
        self.publish_again(book, &hello, at, fx);
        self.acknowledge(book, id, Some(hello.nonce), eras, at, fx);
        fx.log(FleetLog::HelloAnswered { device: id.clone(), mode: hello.mode, floor: hello.floor });
        Ok(())
    }

    fn on_request(
        &mut self,
        book: &mut Book,
        id: &DeviceId,
        payload: &[u8],
        at: Timestamp,
        fx: &mut Effects,
    ) -> Result<(), Refused> {
        let device = hello::known(book, id)?.clone();
        let signed = Signed::<Request>::from_bytes(payload)?;
        let request = signed.open(book.fleet(), [device.keys.identity.verifying()], 1)?;
        if request.device != *id {
            return Err(Refused::WrongDevice);
        }
        let nonces = self.nonces.entry(id.clone()).or_default();
        if nonces.contains(&request.nonce) {
            return Err(Refused::Malformed("this request was answered before"));
        }
        if nonces.len() >= NONCES_KEPT {
            nonces.pop_front();
        }
        nonces.push_back(request.nonce);
        let minting = Minting { issuer: &self.keys.issuer, ttl_max: self.settings.task_ttl_max, at };
        let reply = issue::answer(book, &device, &request, minting, &mut self.rng, fx);
        let answer = Answer::seal(&request, &reply, &mut self.rng)?;
        let payload = Signed::sign(&answer, book.fleet(), &[&self.keys.service]).to_bytes();
        fx.publish(Publish { topic: Topic::DownAnswer(id.clone()), payload });
        Ok(())
    }

    fn acknowledge(
        &mut self,
        book: &Book,
        id: &DeviceId,
        nonce: Option<Nonce>,
        eras: Vec<EraAck>,
        at: Timestamp,
        fx: &mut Effects,
    ) {
        let ack: Ack = ack(book, id, nonce, eras, self.settings.terms, at);
        self.told.insert(id.clone(), ack.grants);
        let payload = Signed::sign(&ack, book.fleet(), &[&self.keys.service]).to_bytes();
        fx.publish(Publish { topic: Topic::DownAck(id.clone()), payload });
    }

    /// Devices whose grants are others than they were told, or than they said they hold, hear of it at once.
    fn tell_grants(&mut self, book: &mut Book, at: Timestamp, fx: &mut Effects) {
        if !self.is_believed(book.trust()) {
            return;
        }
        let looked_at = self.grants.take(book, at);
        for device in looked_at.iter().filter_map(|id| book.device(id)) {
            if let Some(due) = book.regrant_due(&device.id, at) {
                self.grants.due.entry(due).or_default().insert(device.id.clone());
            }
            let should = book.live_grants_digest(&device.id, at);
            let told = self.told.get(&device.id).copied().or(book.seen(&device.id).map(|seen| seen.grants));
            if device.joined && told != Some(should) {
                self.acknowledge(book, &device.id, None, Vec::new(), at, fx);
            }
        }
    }
}

fn present(book: &Book) -> Published {
    Published { bundle: book.trust().version, policy: book.policy().1.version, feeds: publish::FeedAt::all(book) }
}

fn on_state(book: &mut Book, id: &DeviceId, payload: &[u8], at: Timestamp, fx: &mut Effects) -> Result<(), Refused> {
    let device = hello::known(book, id)?;
    let signed = Signed::<State>::from_bytes(payload)?;
    let state = signed.open(book.fleet(), [device.keys.identity.verifying()], 1)?;
    if state.device != *id {
        return Err(Refused::WrongDevice);
    }
    let mode: String = state.mode.chars().filter(|c| !c.is_control()).take(32).collect();
    // The broker repeats what it keeps: only another word than the last says anything about now.
    if book.presence(id).is_none_or(|known| known.word != signed.digest()) {
        let presence = Presence { device: id.clone(), word: signed.digest(), at, mode: mode.clone() };
        book.write(Write::Presence(presence), fx);
    }
    hello::note_positions(book, id, &state.feeds, false, at, fx);
    fx.log(FleetLog::DeviceState { device: id.clone(), mode, pending: state.pending });
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::enrol::{approve, found, Founding, Replace};
    use super::super::grant::NewGrant;
    use super::super::rotate::{rotate, Cause, NewKey, Rotation};
    use super::super::FleetKeys;
    use super::*;
    use crate::ids::{BootId, FleetId};
    use crate::wire::audit::segment::{grow, Delivery, Salvage, SegmentHeader, Upload};
    use crate::wire::audit::signer::AuditKey;
    use crate::wire::audit::{genesis, Event, Evidence, Record};
    use crate::wire::bundle::BrokerPins;
    use crate::wire::enrol::{DeviceKeys, EnrolRequest};
    use crate::wire::link::{grants_digest, Ask, Reply, Right, TaskAsk};
    use crate::wire::token::ClassRight;

    pub(in crate::fleet) const CADENCE: Cadence = Cadence::every(Millis::from_secs(60));
    /// 2026-03-01.
    const EPOCH: u64 = 1_772_323_200;

    /// Seconds after the fleet of these tests was founded.
    pub(in crate::fleet) fn at(secs: u64) -> Timestamp {
        Timestamp::from_secs(EPOCH + secs)
    }

    pub(in crate::fleet) fn rng(seed: u8) -> ChaCha20Rng {
        ChaCha20Rng::from_seed([seed; 32])
    }

    fn acme() -> FleetId {
        "acme".parse().unwrap()
    }

    fn gw() -> DeviceId {
        "gw-07".parse().unwrap()
    }

    pub(in crate::fleet) fn device_keys(seed: u8) -> DeviceKeys {
        DeviceKeys::generate(&mut rng(seed))
    }

    pub(in crate::fleet) fn founded() -> (FleetKeys, Book) {
        let keys = FleetKeys::generate(&mut rng(200));
        let founding = Founding {
            fleet: acme(),
            feed: "main".parse().unwrap(),
            broker: BrokerPins::default(),
            keys: &keys,
            operator: "ann",
            at: at(0),
            cadence: CADENCE,
        };
        let book = found(&founding, &mut Effects::default()).unwrap();
        (keys, book)
    }

    pub(in crate::fleet) fn request(device: &str, keys: &DeviceKeys, nonce: u8) -> Signed<EnrolRequest> {
        let device = device.parse().unwrap();
        EnrolRequest { device, keys: keys.public(), nonce: Nonce([nonce; 16]), profile: "p".into() }.sign(keys)
    }

    type HelloOf = Box<dyn Fn(u8) -> Hello>;

    /// A fleet with gw-07 in it, whose keys are `device_keys(1)`, and its hello with a nonce.
    pub(in crate::fleet) fn one_device() -> (FleetKeys, Book, HelloOf, ChaCha20Rng) {
        let (keys, mut book) = founded();
        let asked = request("gw-07", &device_keys(1), 1);
        let code = EnrolRequest::code(&asked);
        approve(&mut book, &asked, code, Replace::Keep, keys.operator("ann"), at(1), &mut Effects::default()).unwrap();
        let head = book.first().head().unwrap().position.clone();
        let hello = move |nonce: u8| Hello {
            device: gw(),
            nonce: Nonce([nonce; 16]),
            boot: BootId([0; 16]),
            era: EraId { number: 1, salt: 5 },
            pending: Vec::new(),
            next_index: 3,
            bundle_version: 1,
            policy_version: 1,
            feeds: vec![Position { ..head.clone() }],
            grants: grants_digest([]),
            floor: at(1),
            powered: at(1),
            mode: "offline".into(),
            version: "0".into(),
        };
        (keys, book, Box::new(hello), rng(3))
    }

    pub(in crate::fleet) fn new_grant() -> NewGrant {
        let right = |resource: &str, action: &str| ClassRight {
            class: "pump".parse().unwrap(),
            right: Right { resource: resource.into(), action: action.into() },
        };
        NewGrant {
            device: gw(),
            owner: "ops@acme".into(),
            life: Millis::from_secs(86_400),
            may_begin: vec![("unix:uid:1001".into(), "pump".parse().unwrap())],
            may_step: Vec::new(),
            rights: vec![right("modbus/pump1/speed", "write"), right("modbus/*", "read")],
            offline_max: Millis::from_secs(259_200),
            uses_max: 1000,
            boots_max: 20,
            task_ttl_max: Millis::from_secs(900),
            staleness_max: vec![("high".parse().unwrap(), Millis::from_secs(3600))],
            min_time_class: None,
            renewal: crate::fleet::book::Renewal::Automatic,
        }
    }

    pub(in crate::fleet) fn ask() -> TaskAsk {
        TaskAsk {
            task: "t-1".parse().unwrap(),
            class: "pump".parse().unwrap(),
            selectors: vec!["unix:uid:1001".into(), "unix:gid:1001".into()],
            rights: vec![Right { resource: "modbus/pump1/speed".into(), action: "write".into() }],
            ttl_ms: Millis::from_secs(300),
            uses: Some(5),
        }
    }

    /// The audit key that a device with these keys has all along.
    pub(crate) fn audit_key(keys: &DeviceKeys) -> SigningKey {
        SigningKey::from_bytes(&Hash::of("audit", &[keys.identity.verifying_key().as_bytes()]).0)
    }

    /// Signs a segment, with the certificate of the key that does.
    pub(in crate::fleet) fn sign(mut header: SegmentHeader, keys: &DeviceKeys) -> Signed<SegmentHeader> {
        let key = audit_key(keys);
        let vouched = AuditKey { device: gw(), epoch: 1, key: key.verifying_key().into() };
        header.signer = Some(Signed::sign(&vouched, &acme(), &[&keys.identity]));
        Signed::sign(&header, &acme(), &[&key])
    }

    /// A segment of gw-07 with `count` records marked `mark`, after `before` or at its era's genesis.
    pub(in crate::fleet) fn segment(
        keys: &DeviceKeys,
        era: EraId,
        before: Option<&Upload>,
        count: u32,
        mark: &str,
    ) -> Upload {
        let before = before.map(|upload| upload.header.claim().unwrap());
        let first_index = before.as_ref().map_or(0, |header| header.first_index + u64::from(header.count));
        let previous = before.as_ref().map_or_else(|| genesis(&acme(), &gw(), era), |header| header.head());
        let records: Vec<Record> = (first_index..first_index + u64::from(count))
            .map(|index| {
                let evidence = Evidence { source: mark.into(), reason: "r".into(), digest: Hash::ZERO, count: 1 };
                Record { index, floor: at(1), powered: at(1), event: Event::Refused(evidence) }
            })
            .collect();
        let (leaves, root) = grow(&records);
        let header = SegmentHeader {
            device: gw(),
            era,
            segment: before.map_or(0, |header| header.segment + 1),
            first_index,
            count,
            previous,
            root,
            closed_at: at(2),
            recovered: false,
            signer: None,
            feeds: Vec::new(),
            salvage: None,
        };
        Upload { header: sign(header, keys), leaves }
    }

    /// What a damaged disk has left of a segment without its records at these places in it.
    pub(crate) fn salvaged(keys: &DeviceKeys, whole: &Upload, lost: std::ops::Range<u32>) -> Upload {
        let mut header = whole.header.claim().unwrap();
        let (head, records) = (header.head(), whole.check(&header).unwrap());
        let left: Vec<Record> =
            (0..header.count).filter(|at| !lost.contains(at)).map(|at| records[at as usize].clone()).collect();
        let (leaves, root) = grow(&left);
        let at = |place: u32| header.first_index + u64::from(place);
        let lost = vec![(at(lost.start), at(lost.end))];
        let next_segment = header.segment + 1;
        header.root = root;
        header.salvage = Some(Salvage { next_segment, lost, head, resumes: None });
        Upload { header: sign(header, keys), leaves }
    }

    /// A segment of one record, which begins an era.
    pub(crate) fn told(keys: &DeviceKeys, era: EraId, event: Event) -> Upload {
        told_all(keys, era, vec![event])
    }

    /// A segment that begins an era, and tells these.
    pub(crate) fn told_all(keys: &DeviceKeys, era: EraId, events: Vec<Event>) -> Upload {
        let mut header = segment(keys, era, None, events.len() as u32, "x").header.claim().unwrap();
        let record = |(event, index)| Record { index, floor: at(1), powered: at(1), event };
        let (leaves, root) = grow(&events.into_iter().zip(0..).map(record).collect::<Vec<_>>());
        header.root = root;
        Upload { header: sign(header, keys), leaves }
    }

    fn service(keys: FleetKeys, book: &Book) -> Service {
        let FleetKeys { issuer, feed, service, collector, .. } = keys;
        let collectors = vec![collector];
        Service::start(ServiceKeys { issuer, feed, service, collectors }, Settings::default(), [4; 32], book).unwrap()
    }

    fn send(
        service: &mut Service,
        book: &mut Book,
        topic: &Topic,
        payload: &[u8],
        secs: u64,
    ) -> super::super::Outgoing {
        let mut fx = Effects::default();
        let archive = |_: &DeviceId, _, _| Digests::default();
        service.message(book, &topic.text(&acme()), payload, &archive, at(secs), &mut fx);
        fx.commit(|_| Ok::<(), ()>(())).unwrap()
    }

    fn signed_request(ask: Ask, nonce: u8, reply_to: &SealingKey) -> Vec<u8> {
        let request = Request { device: gw(), nonce: Nonce([nonce; 16]), reply_to: reply_to.public(), ask };
        Signed::sign(&request, &acme(), &[&device_keys(1).identity]).to_bytes()
    }

    #[test]
    fn hello_is_acknowledged_with_its_nonce_and_audit_with_its_position() {
        let (keys, mut book, hello, _) = one_device();
        let mut service = service(keys, &book);
        let payload = Signed::sign(&hello(9), &acme(), &[&device_keys(1).identity]).to_bytes();
        let out = send(&mut service, &mut book, &Topic::UpHello(gw()), &payload, 5);
        let ack = Signed::<Ack>::from_bytes(&out.publish[0].payload).unwrap();
        let ack = ack.open(&acme(), book.trust().service_keys(), 1).unwrap();
        assert_eq!((ack.nonce, ack.time), (Some(Nonce([9; 16])), at(5)));
        assert_eq!(ack.feeds, [book.first().head().unwrap().position.clone()]);
        let upload = segment(&device_keys(1), EraId { number: 1, salt: 5 }, None, 2, "a");
        let out = send(&mut service, &mut book, &Topic::UpAudit(gw()), &Delivery::Open(upload).to_bytes(), 6);
        let ack = Signed::<Ack>::from_bytes(&out.publish[0].payload).unwrap().claim().unwrap();
        assert_eq!((ack.nonce, ack.eras[0].next_index), (None, 2));
    }

    #[test]
    fn a_task_is_minted_once_per_request_and_only_the_asker_can_read_it() {
        let (keys, mut book, _, mut rng) = one_device();
        let fx = &mut Effects::default();
        grant::create(&mut book, new_grant(), &keys.issuer, keys.operator("ann"), at(2), &mut rng, fx).unwrap();
        let mut service = service(keys, &book);
        let reply_to = SealingKey::generate(&mut rng);
        let payload = signed_request(Ask::Task(ask()), 1, &reply_to);
        let out = send(&mut service, &mut book, &Topic::UpRequest(gw()), &payload, 5);
        let answer = Signed::<Answer>::from_bytes(&out.publish[0].payload).unwrap();
        let answer = answer.open(&acme(), book.trust().service_keys(), 1).unwrap();
        assert!(matches!(answer.open(&reply_to), Ok(Reply::Task(_))));
        assert!(answer.open(&SealingKey::generate(&mut rng)).is_err());
        let again = send(&mut service, &mut book, &Topic::UpRequest(gw()), &payload, 6);
        assert!(again.publish.is_empty(), "a replayed request is not answered");
        let grants = signed_request(Ask::Grants, 2, &reply_to);
        let out = send(&mut service, &mut book, &Topic::UpRequest(gw()), &grants, 7);
        let answer = Signed::<Answer>::from_bytes(&out.publish[0].payload).unwrap().claim().unwrap();
        assert!(matches!(answer.open(&reply_to), Ok(Reply::Grants(tokens)) if tokens.len() == 1));
        let mut greedy = ask();
        greedy.rights[0].resource = "modbus/*".into();
        let refused = signed_request(Ask::Task(greedy), 3, &reply_to);
        let out = send(&mut service, &mut book, &Topic::UpRequest(gw()), &refused, 8);
        let answer = Signed::<Answer>::from_bytes(&out.publish[0].payload).unwrap().claim().unwrap();
        assert!(matches!(answer.open(&reply_to), Ok(Reply::Refused(_))));
    }

    #[test]
    fn changes_go_out_once_and_only_while_connected() {
        let (keys, mut book, hello, mut rng) = one_device();
        let again = FleetKeys::generate(&mut super::tests::rng(200));
        let mut service = service(keys, &book);
        let tick = |service: &mut Service, book: &mut Book, secs| {
            let mut fx = Effects::default();
            service.tick(book, at(secs), &mut fx);
            let out = fx.commit(|_| Ok::<(), ()>(())).unwrap();
            out.publish.iter().map(|publish| publish.topic.to_string()).collect::<Vec<_>>()
        };
        let payload = Signed::sign(&hello(9), &acme(), &[&device_keys(1).identity]).to_bytes();
        send(&mut service, &mut book, &Topic::UpHello(gw()), &payload, 5);
        assert!(tick(&mut service, &mut book, 6).is_empty());
        let mut fx = Effects::default();
        service.connected(&mut book, at(7), &mut fx);
        assert_eq!(fx.commit(|_| Ok::<(), ()>(())).unwrap().publish.len(), 6);
        assert!(tick(&mut service, &mut book, 8).is_empty());
        assert_eq!(tick(&mut service, &mut book, 61), ["feed/main/delta/2", "feed/main/head"]);
        let fx = &mut Effects::default();
        grant::create(&mut book, new_grant(), &again.issuer, again.operator("ann"), at(62), &mut rng, fx).unwrap();
        assert_eq!(tick(&mut service, &mut book, 63), ["dev/gw-07/down/ack"]);
        assert!(tick(&mut service, &mut book, 64).is_empty());
        service.disconnected();
        assert!(tick(&mut service, &mut book, 200).is_empty());
    }

    /// The topics on which a service answers what gw-07 says at this many seconds.
    fn answers(service: &mut Service, book: &mut Book, hello: &Hello, secs: u64) -> Vec<String> {
        let payload = Signed::sign(hello, &acme(), &[&device_keys(1).identity]).to_bytes();
        let out = send(service, book, &Topic::UpHello(gw()), &payload, secs);
        out.publish.iter().map(|publish| publish.topic.to_string()).collect()
    }

    #[test]
    fn what_a_device_lacks_goes_out_again_before_it_is_answered() {
        let (keys, mut book, hello, _) = one_device();
        let mut service = service(keys, &book);
        let ack = "dev/gw-07/down/ack";
        let bare = Hello { bundle_version: 0, policy_version: 0, feeds: Vec::new(), ..hello(1) };
        let bundle = Hello { bundle_version: 1, ..bare.clone() };
        assert_eq!(answers(&mut service, &mut book, &bare, 600), [ack], "with the next connection all of it goes out");
        service.connected(&mut book, at(1000), &mut Effects::default());
        assert_eq!(answers(&mut service, &mut book, &bare, 1060), [ack], "it may be on its way");
        assert_eq!(answers(&mut service, &mut book, &bare, 1120), ["bundle/1", "policy/1", ack]);
        assert_eq!(answers(&mut service, &mut book, &bare, 1180), [ack]);
        let out = answers(&mut service, &mut book, &bundle, 1180);
        assert_eq!(out.last().map(String::as_str), Some(ack));
        assert!(out.contains(&"feed/main/head".into()) && out.contains(&"feed/main/rules".into()), "{out:?}");
        assert!(!out.contains(&"policy/1".into()), "{out:?}");
        assert_eq!(answers(&mut service, &mut book, &bundle, 1240), [ack]);
        service.disconnected();
        assert_eq!(answers(&mut service, &mut book, &bare, 5000), [ack]);
    }

    #[test]
    fn a_service_whose_key_was_replaced_answers_nobody_and_brings_the_bundle_that_says_so_again() {
        let (keys, mut book, hello, _) = one_device();
        let again = FleetKeys::generate(&mut rng(200));
        let mut service = service(keys, &book);
        let (fx, at_two) = (&mut Effects::default(), at(2));
        service.connected(&mut book, at_two, fx);
        let key = NewKey::Signing(SigningKey::from_bytes(&[21; 32]));
        let rotation = Rotation { role: KeyRole::Service, key: &key, cause: Cause::Compromised, roots: &[&again.root] };
        rotate(&mut book, rotation, CADENCE, again.operator("ann"), at_two, fx).unwrap();
        service.tick(&mut book, at(3), fx);
        assert_eq!(answers(&mut service, &mut book, &hello(1), 100), Vec::<String>::new());
        assert_eq!(answers(&mut service, &mut book, &hello(1), 200), ["bundle/2"]);
        assert!(book.seen(&gw()).is_none(), "whoever has the new key takes it in");
        let mut forged = hello(1);
        forged.device = "gw-08".parse().unwrap();
        assert_eq!(answers(&mut service, &mut book, &forged, 5000), Vec::<String>::new());
    }

    #[test]
    fn junk_on_any_topic_is_refused_and_changes_nothing() {
        let (keys, mut book, _, _) = one_device();
        let mut service = service(keys, &book);
        for topic in [
            Topic::UpHello(gw()),
            Topic::UpAudit(gw()),
            Topic::UpRequest(gw()),
            Topic::State(gw()),
            Topic::EnrolUp(gw()),
            Topic::DownAck(gw()),
            Topic::Bundle(1),
        ] {
            for payload in [&b""[..], b"x", &[0xff; 300], &[0; 40_000]] {
                let mut fx = Effects::default();
                let archive = |_: &DeviceId, _, _| Digests::default();
                service.message(&mut book, &topic.text(&acme()), payload, &archive, at(5), &mut fx);
                assert!(!fx.has_writes(), "{topic} {} bytes", payload.len());
            }
        }
    }
}
