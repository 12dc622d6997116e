//! Emergency keys: an operator who revokes with his own, past the fleet's service, and a thief who has that of another.
//!
//! Owns: both keys, every statement that was signed with them, and what the broker is made to keep of those.
//! Never: is the fleet's service, or needs it.
//! Read next: `hardtack::fleet::emergency`, which the operator uses; `check/emergency.rs`, which judges what becomes of it.

use ed25519_dalek::SigningKey;
use hardtack::agent::effects::{Publish, StateFile};
use hardtack::agent::emergency::stored_statement;
use hardtack::agent::request::StatusReply;
use hardtack::fleet::emergency::{messages, statement, Before, Order};
use hardtack::ids::{Hash, KeyId};
use hardtack::time::{Millis, Timestamp};
use hardtack::wire::audit::Record;
use hardtack::wire::bundle::{PublicKey, TrustBundle};
use hardtack::wire::envelope::Signed;
use hardtack::wire::revocation::emergency::{Emergency, Rules, LIFE_MAX};
use hardtack::wire::revocation::rules::Selector;
use hardtack::wire::revocation::Target;
use hardtack::wire::MESSAGE_BYTES_MAX;

use crate::check::emergency::{covers, Arrival, Made};
use crate::check::Id;
use crate::clocks::date;
use crate::fault::{EmergencyTheft, EmergencyTrick, EmergencyWhat};
use crate::network::Retain;
use crate::operator::{HONEST, OWNER};
use crate::plan::TokenChoice;
use crate::random::bytes;
use crate::world::{Checks, World};

/// How many of the newest credentials a statement may pick.
const RECENT: usize = 8;
/// Whoever signs says that it was this much earlier.
const EARLIER: Millis = Millis::from_secs(300);
/// How far ahead a thief dates what a gateway may believe, and what it cannot.
const AHEAD: Millis = Millis::from_secs(20 * 86_400);
const FAR_AHEAD: Millis = Millis::from_secs(60 * 86_400);
/// How much sooner than one on everything his rule on the owner ends that is dated ahead.
const SOONER: Millis = Millis::from_secs(24 * 3600);
/// By how much a rule of a thief's lives too long.
const TOO_LONG: Millis = Millis::from_secs(30 * 3600);
/// Why anything is revoked.
const REASON: &str = "the scenario says so";

/// Who has an emergency key.
struct Holder {
    name: &'static str,
    key: SigningKey,
    /// Every statement, in the order in which they were signed.
    said: Vec<(Signed<Emergency>, Emergency, Made)>,
    /// The highest counter of those that keep to what such a key may say.
    counter: u64,
}

impl Holder {
    fn new(name: &'static str, seed: u64) -> Self {
        let key = SigningKey::from_bytes(&bytes(seed, name, "emergency key"));
        Self { name, key, said: Vec::new(), counter: 0 }
    }

    fn public(&self) -> PublicKey {
        self.key.verifying_key().into()
    }

    fn id(&self) -> KeyId {
        KeyId::of(self.public().as_bytes())
    }

    fn says(&mut self, signed: Signed<Emergency>, said: Emergency, made: Made) {
        if made == Made::Well {
            self.counter = self.counter.max(said.counter);
        }
        self.said.push((signed, said, made));
    }

    /// The newest statement of the highest counter that counts.
    fn newest(&self) -> Option<&(Signed<Emergency>, Emergency, Made)> {
        self.said.iter().find(|(_, said, made)| *made == Made::Well && said.counter == self.counter)
    }
}

/// Everybody who has an emergency key, rightly or not.
pub(crate) struct Holders {
    operator: Holder,
    thief: Holder,
}

impl Holders {
    pub(crate) fn new(seed: u64) -> Self {
        Self { operator: Holder::new("ann", seed), thief: Holder::new("bob", seed) }
    }

    /// Whose keys the trust bundle names: nobody knows of the theft.
    pub(crate) fn public(&self) -> impl Iterator<Item = (&'static str, PublicKey)> + '_ {
        [&self.operator, &self.thief].into_iter().map(|holder| (holder.name, holder.public()))
    }

    /// The operator's newest statement, once there is one.
    fn newest(&self) -> Option<&Emergency> {
        self.operator.newest().map(|(_, said, _)| said)
    }

    /// Whether a statement is one that was signed here, and how it was made.
    fn made(&self, digest: Hash) -> Option<(&Emergency, Made)> {
        let mut all = self.operator.said.iter().chain(&self.thief.said);
        all.find(|(signed, ..)| signed.digest() == digest).map(|(_, said, made)| (said, *made))
    }

    /// The operator's next statement.
    pub(crate) fn declare(&mut self, trust: &TrustBundle, order: &Order, at: Timestamp) -> Vec<Publish> {
        let holder = &mut self.operator;
        let before = holder.newest().map(|(_, said, _)| Before::of(said)).unwrap_or_default();
        let signed = statement(trust, &holder.key, &before, order, at).expect(HONEST);
        let said = signed.claim().expect(HONEST);
        holder.says(signed.clone(), said, Made::Well);
        messages(trust, holder.id(), &signed)
    }

    /// What a thief signs, against a gateway where it is against one. None where he has nothing yet to gainsay.
    pub(crate) fn steal(
        &mut self,
        trust: &TrustBundle,
        theft: EmergencyTheft,
        device: &str,
        at: Timestamp,
    ) -> Option<Vec<Publish>> {
        let holder = &mut self.thief;
        let (counter, life, made) = match theft {
            EmergencyTheft::Old => (holder.counter.checked_sub(1)?, LIFE_MAX, Made::Well),
            EmergencyTheft::Twin => (holder.counter, LIFE_MAX, Made::Well),
            EmergencyTheft::Long => (holder.counter + 1, Millis(LIFE_MAX.0 + TOO_LONG.0), Made::TooLong),
            EmergencyTheft::Ahead => (holder.counter + 1, Millis(LIFE_MAX.0 - SOONER.0), Made::Well),
            EmergencyTheft::AheadAll
            | EmergencyTheft::Device
            | EmergencyTheft::FarAhead
            | EmergencyTheft::LeftOut
            | EmergencyTheft::Owner => (holder.counter + 1, LIFE_MAX, Made::Well),
        };
        if counter == 0 {
            return None;
        }
        let nobody = || Selector::task(&format!("t-{theft:?}-{at}"));
        let (selector, issued_at) = match theft {
            EmergencyTheft::Ahead => (Selector::owner(OWNER), at + AHEAD),
            EmergencyTheft::AheadAll => (Selector::All, at + AHEAD),
            EmergencyTheft::FarAhead => (Selector::owner(OWNER), at + FAR_AHEAD),
            EmergencyTheft::Device => (Selector::device(device), at - EARLIER),
            EmergencyTheft::Long | EmergencyTheft::Owner => (Selector::owner(OWNER), at - EARLIER),
            EmergencyTheft::LeftOut | EmergencyTheft::Old | EmergencyTheft::Twin => (nobody(), at - EARLIER),
        };
        let rules = Rules::new(REASON, [(selector, issued_at + life)]).expect(HONEST);
        let said = Emergency { key: holder.id(), counter, issued_at, bundle_version: trust.version, rules };
        let signed = Signed::sign(&said, &trust.fleet, &[&holder.key]);
        holder.says(signed.clone(), said, made);
        Some(messages(trust, holder.id(), &signed))
    }

    /// What a broker keeps in the place of what it was given last.
    fn trick(&self, trust: &TrustBundle, trick: EmergencyTrick, pick: u64) -> Option<Vec<Publish>> {
        let (ours, theirs) = (self.operator.id(), self.thief.id());
        match trick {
            EmergencyTrick::Mixed => {
                let (his, stolen) = (self.operator.newest()?, self.thief.newest()?);
                let mut all = messages(trust, ours, &stolen.0);
                all.extend(messages(trust, theirs, &his.0));
                Some(all)
            }
            EmergencyTrick::Old => {
                let old = (self.operator.said.len() as u64).checked_sub(1)?;
                let (signed, ..) = &self.operator.said[pick.checked_rem(old)? as usize];
                Some(messages(trust, ours, signed))
            }
        }
    }
}

impl World<'_> {
    /// An operator revokes something of a gateway, and gives that to the broker. Without one he has to wait.
    pub(crate) fn declare_emergency(&mut self, device: u32, what: EmergencyWhat, life: Millis, pick: u64) {
        let newest = self.model.newest(TokenChoice::Valid, &self.moment(device), RECENT);
        let chosen = pick.checked_rem(newest.len() as u64).map(|index| self.model.get(newest[index as usize]));
        let target = match what {
            EmergencyWhat::All => Some(Target::All),
            EmergencyWhat::Device => Some(Target::Device(self.devices[device as usize].name.clone())),
            EmergencyWhat::Grant => chosen.map(|chosen| Target::Grant(chosen.grant)),
            EmergencyWhat::Owner => Some(Target::Owner(OWNER.to_owned())),
            EmergencyWhat::Task => chosen.map(|chosen| Target::Task(chosen.task.clone())),
        };
        let Some(target) = target.filter(|_| self.broker.is_up()) else { return };
        let order = Order { target, life, reason: REASON.to_owned(), clock_is_right: true };
        let publish = self.operator.declare_emergency(&order, date(self.now));
        self.give_broker(what.name(), publish);
    }

    /// Somebody uses the key that he stole.
    pub(crate) fn steal_emergency(&mut self, device: u32, theft: EmergencyTheft) {
        if !self.broker.is_up() {
            return;
        }
        let name = self.devices[device as usize].name.clone();
        if let Some(publish) = self.operator.steal_emergency(theft, name.as_str(), date(self.now)) {
            self.give_broker(theft.name(), publish);
        }
    }

    /// The broker keeps something else at the places of emergency keys, and says so to everybody.
    pub(crate) fn trick_with_emergencies(&mut self, trick: EmergencyTrick, pick: u64) {
        let publish = self.operator.emergencies.trick(self.operator.trust(), trick, pick);
        if let Some(publish) = publish.filter(|_| self.broker.is_up()) {
            self.give_broker(trick.name(), publish);
        }
    }

    /// The operator's key, and the counter of the statement that gateways must hold in the end: his newest, if it still
    /// revokes anything. Nobody says again what is over, nor what the broker lost before the service had heard of it.
    pub(crate) fn emergency_owed(&self) -> Option<(KeyId, u64)> {
        let said = self.operator.emergencies.newest()?;
        let in_force = said.rules.iter().any(|(_, until)| until > date(self.now));
        let lost = self.broker_lost.is_some_and(|lost| said.issued_at <= date(lost));
        let told = !lost || self.operator.has_heard(said.key, said.counter);
        (in_force && told).then_some((said.key, said.counter))
    }

    /// Gives the broker something to keep. Where it has just that already, nothing comes of it.
    fn give_broker(&mut self, fault: &'static str, publish: Vec<Publish>) {
        let news =
            publish.iter().any(|Publish { topic, payload }| !self.broker.retains(&topic.text(&self.fleet), payload));
        self.struck(fault, news);
        for Publish { topic, payload } in publish {
            let bytes = payload.len();
            let large = (bytes > MESSAGE_BYTES_MAX).then(|| format!("{topic} has {bytes} bytes"));
            self.checks.tally.tried(Id::MessageBounded, self.now, large);
            let deliveries = self.broker.publish(&topic.text(&self.fleet), payload, Retain::Yes);
            self.broker_says(deliveries);
        }
    }

    /// A gateway hears a statement, at the place of some key.
    pub(crate) fn watch_emergency(&mut self, device: u32, place: KeyId, payload: &[u8]) {
        let Ok(signed) = Signed::<Emergency>::from_bytes(payload) else { return };
        let digest = signed.digest();
        // What nobody signed is a hostile broker's, which changes messages as well.
        let Some((said, made)) = self.operator.emergencies.made(digest) else { return };
        let powered = self.devices[device as usize].powered(self.now);
        let know = self.checks.clock.knowledge(device, powered);
        let when = (self.now, powered, &know);
        let arrival = self.checks.emergency.arrives(device, when, (place, payload), (said, digest, made));
        match arrival {
            Arrival::Refuse => self.checks.evidence.expect(device, payload),
            Arrival::Open => {
                let said = said.clone();
                self.may_be_revoked(device, &said);
            }
            Arrival::Known | Arrival::RefuseAgain => {}
        }
    }

    /// What a statement covers of a gateway's credentials: their tasks end with it, and do not come back.
    fn may_be_revoked(&mut self, device: u32, said: &Emergency) {
        let (now, name) = (self.now, &self.devices[device as usize].name);
        let own = self.model.iter_mut().filter(|of| of.device == device && of.revoked.is_none());
        for of in own {
            if said.rules.iter().any(|(selector, _)| covers(selector, name, of)) {
                of.revoked = Some(now);
            }
        }
    }

    /// The file of a key is on a gateway's disk.
    pub(crate) fn emergency_durable(&mut self, number: u32, key: KeyId) {
        let device = &self.devices[number as usize];
        // What a fault has damaged the gateway cannot read either.
        let file = device.disk.durable().files.get(&StateFile::Emergency(key));
        let Some(signed) = file.and_then(|bytes| stored_statement(bytes).ok()) else { return };
        let Ok(said) = signed.claim() else { return };
        let (powered, digest) = (device.powered(self.now), signed.digest());
        let know = self.checks.clock.knowledge(number, powered);
        let when = (self.now, powered, &know);
        let made = self.operator.emergencies.made(digest).map(|(_, made)| made);
        let Checks { tally, emergency, .. } = &mut self.checks;
        emergency.durable(tally, when, (number, &device.name), (&said, digest, made));
        self.note_held(number, format!("emergency {key:?}"), (said.counter, 0));
        self.may_be_revoked(number, &said);
    }

    /// The file of a key rotted on a gateway's disk.
    pub(crate) fn emergency_rots(&mut self, number: u32, key: KeyId) {
        let powered = self.devices[number as usize].powered(self.now);
        self.checks.emergency.rots(number, powered, key);
    }

    /// Whether a gateway has lost what an emergency key revoked, and nobody can bring that again: its newest statement does not
    /// say all of it, or the broker does not keep that. It is locked until all of it has ended.
    pub(crate) fn emergency_is_gone(&self, number: u32) -> bool {
        let kept = |key: KeyId, digest: Hash| {
            let Holders { operator, thief } = &self.operator.emergencies;
            let mut said = operator.said.iter().chain(&thief.said).map(|(signed, ..)| signed);
            let signed = said.find(|signed| signed.digest() == digest);
            let publish = signed.map(|signed| messages(self.operator.trust(), key, signed)).unwrap_or_default();
            publish.iter().any(|Publish { topic, payload }| self.broker.retains(&topic.text(&self.fleet), payload))
        };
        let mut lost = self.checks.emergency.lost(self.moment(number));
        lost.any(|(key, found_by)| !found_by.is_some_and(|digest| kept(key, digest)))
    }

    /// A record is durable.
    pub(crate) fn emergency_recorded(&mut self, number: u32, record: &Record) {
        let Checks { tally, emergency, .. } = &mut self.checks;
        emergency.recorded(tally, self.now, (number, &self.devices[number as usize].name), record);
    }

    /// An agent denied something.
    pub(crate) fn judge_denial(&mut self, device: u32, words: &str) {
        let moment = self.moment(device);
        let Checks { tally, emergency, .. } = &mut self.checks;
        emergency.denied(tally, &moment, &self.devices[device as usize].name, words);
    }

    /// An operator was shown what emergency keys have revoked.
    pub(crate) fn judge_shown_emergencies(&mut self, device: u32, status: &StatusReply) {
        let moment = self.moment(device);
        let Checks { tally, emergency, .. } = &mut self.checks;
        emergency.shown(tally, &moment, &self.devices[device as usize].name, status);
    }
}
