//! The operator and the fleet's service: the shipped fleet core over a book in memory.
//!
//! Owns: the fleet's keys, its book, what the collector stored, which heads were signed; hostile tokens that only
//! somebody with a key of his own, or with an open token in hand, can make.
//! Never: loses what was written. The ledger is another matter than the gateways' disks.
//! Read next: `hardtack::fleet`.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;

use ed25519_dalek::SigningKey;
use hardtack::agent::effects::Publish;
use hardtack::agent::enrol::{accept, Accepted};
use hardtack::fleet::book::{Life, Rule};
use hardtack::fleet::emergency::{self, Order};
use hardtack::fleet::enrol::{answer, approve, found, Founding, Replace};
use hardtack::fleet::grant::{create, withdraw, NewGrant};
use hardtack::fleet::groups::{self, Change};
use hardtack::fleet::hello::{self, Terms};
use hardtack::fleet::identity;
use hardtack::fleet::keys::Issuer;
use hardtack::fleet::policy;
use hardtack::fleet::proposal::{propose, submit_bundle, Hands};
use hardtack::fleet::publish::{self, Cadence};
use hardtack::fleet::revoke::{revoke, Revocation};
use hardtack::fleet::rotate::Cause;
use hardtack::fleet::service::ServiceKeys;
use hardtack::fleet::time::{reset, Reading};
use hardtack::fleet::{Book, Digests, Effects, FleetError, FleetKeys, Service, Settings, Write};
use hardtack::ids::{BlockId, DeviceId, EraId, FeedId, FleetId, GrantId, GroupId, Hash, KeyId, Nonce, TaskId};
use hardtack::profile::Profile;
use hardtack::time::{Millis, Timestamp};
use hardtack::wire::audit::segment::Upload;
use hardtack::wire::bundle::{BrokerPins, Feed, TrustBundle};
use hardtack::wire::enrol::{DeviceKeys, EnrolRequest};
use hardtack::wire::envelope::Signed;
use hardtack::wire::link::Topic;
use hardtack::wire::policy::PolicyDocument;
use hardtack::wire::revocation::announcement::{Announcement, Believed, Head, Successor};
use hardtack::wire::revocation::ladder::Step;
use hardtack::wire::revocation::rules::Selector;
use hardtack::wire::revocation::set::RevocationSet;
use hardtack::wire::revocation::{Target, HEAD_EVERY};
use hardtack::wire::seal::SealingKey;
use hardtack::wire::time::{TimeFile, TimeReset};
use hardtack::wire::token::{mint_task, to_text, Bearer, ClassRight, Held, TaskSpec};
use hardtack::wire::MESSAGE_BYTES_MAX;
use rand_chacha::ChaCha8Rng;
use rand_core::RngCore;

use crate::arguments::Limit;
use crate::check::audit::Collected;
use crate::check::feed::Owed;
use crate::clocks::date;
use crate::documents::Provider;
use crate::emergency::Holders;
use crate::fault::{AckTrick, EmergencyTheft, FeedTrick, RotateWhat};
use crate::plan::Plan;
use crate::random::{below, bytes, stream};
use crate::reset::RADIUS;
use crate::scenario::{GrantPlan, PolicyPlan, Scenario};
use crate::theft::{Theft, Victim};
use crate::workload::planner::{planner_class, planner_rights, selector, EXECUTORS};
use crate::workload::{carried_rights, program_rights};

/// Why an `expect` below holds: the scenario was checked, and the operator does nothing else than an honest one.
pub(crate) const HONEST: &str = "what an honest operator does with checked names is accepted";

/// Whose grants and tasks all of them are.
pub(crate) const OWNER: &str = "ops@sim";

/// The operator and the service.
pub(crate) struct Operator {
    keys: FleetKeys,
    service: Service,
    running: bool,
    book: Book,
    grants: GrantPlan,
    /// Whether there are planners, whose tasks grants are to allow.
    plans: bool,
    /// Who says who initiates tasks.
    pub(crate) provider: Provider,
    /// How many owners were revoked. Each has a successor.
    owners: u32,
    /// Gateways whose grants were revoked, and that get others once no revocation covers those from birth.
    owed: BTreeSet<DeviceId>,
    rng: ChaCha8Rng,
    /// Makes what thieves and forgers make, from a stream of its own.
    thief: ChaCha8Rng,
    /// Who has emergency keys.
    pub(crate) emergencies: Holders,
    numbers: BTreeMap<DeviceId, u32>,
    collected: Vec<Collected>,
    /// Segments of other branches of an era.
    beside: Vec<Collected>,
    archive: BTreeMap<(DeviceId, EraId, u64), Hash>,
    /// Segments of other branches.
    aside: BTreeSet<(DeviceId, EraId, u64, Hash)>,
    /// Per gateway the nonce of its last `hello`, if it was not answered yet.
    pub(crate) nonces: BTreeMap<u32, Asked>,
    /// The ledger's rows, as a service that starts reads them.
    rows: BTreeMap<String, Write>,
    settings: Settings,
    seed: u64,
    starts: u64,
    /// Heads that were signed and nobody has asked for yet.
    signed: Vec<(Signed<Head>, Head)>,
    /// Revocations that no head held yet when it was asked last,
    unpublished: Vec<Rule>,
    /// and those that one does: target, when that was signed, and until when it holds.
    published: Vec<(Target, Timestamp, Timestamp)>,
    /// The feed key before the last rotation.
    dropped_key: Option<SigningKey>,
    /// Tokens that thieves and forgers made lately.
    stolen: BTreeMap<(Theft, DeviceId), (Timestamp, String)>,
}

/// Why anything is revoked.
const REASON: &str = "the scenario says so";
/// So many revocations are held against the newest set in the end.
const LOOKED_AT: usize = 2000;
/// By how much the head of a thief leaps ahead that a gateway has to believe.
const LEAP: u64 = 60_000;
/// How far ahead a thief dates one whose number, by its date, a publisher could have come to: far above all that is allowed for.
const FAR_AHEAD: Millis = Millis::from_secs(400 * 86_400);

/// Whether the token of a block that is revoked can still live.
fn is_due(rule: &Rule, at: Timestamp) -> bool {
    rule.life.is_none_or(|life| life.expires > at)
}

/// The name of a gateway.
pub(crate) fn device_name(number: u32) -> DeviceId {
    format!("gw-{number}").parse().expect("a letter, digits and hyphens")
}

/// The feed that a group has, if it has one of its own: of its name.
fn feed_of_group(group: &GroupId) -> FeedId {
    group.as_str().parse().expect("a group's name was held against a feed's when the scenario was read")
}

fn service_keys(keys: &FleetKeys) -> ServiceKeys {
    let issuer = Issuer { root_key_id: keys.issuer.root_key_id, key: keys.issuer.key.clone() };
    let collectors = vec![SealingKey::from_bytes(*keys.collector.to_bytes())];
    ServiceKeys { issuer, feed: keys.feed.clone(), service: keys.service.clone(), collectors }
}

/// As many root keys as must sign.
fn signing_roots(keys: &FleetKeys) -> Vec<&SigningKey> {
    keys.roots().into_iter().rev().take(usize::from(keys.threshold)).collect()
}

fn policy_of(plan: &PolicyPlan, at: Timestamp) -> PolicyDocument {
    let (time_rules, seal_audit) = (plan.time_rules.clone(), plan.seal_audit);
    let mut document = PolicyDocument { time_rules, seal_audit, ..PolicyDocument::built_in(at) };
    // What denies stands first.
    document.datalog = plan.limits.iter().map(Limit::clauses).chain([document.datalog]).collect();
    if !plan.risks.is_empty() {
        document.risks = plan.risks.clone();
    }
    document
}

/// A nonce that is out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) nonce: Nonce,
    pub(crate) sent: u64,
}

/// A token of [`Theft`] is used for this long before another is made.
const STOLEN_LIFE: Millis = Millis::from_secs(600);

/// A token that the issuer minted and that somebody carries to a gateway.
#[derive(Debug, Clone)]
pub(crate) struct Carried {
    pub(crate) text: String,
    pub(crate) task: TaskId,
    pub(crate) grant: GrantId,
    pub(crate) owner: String,
    pub(crate) group: Option<GroupId>,
    pub(crate) chain: Vec<BlockId>,
    pub(crate) life: Life,
}

/// How long a token lives that is carried.
const CARRIED_LIFE: Millis = Millis::from_secs(6 * 3600);

/// What is revoked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Revoke {
    /// Everything.
    All,
    /// A block of which nobody says whose token it is in.
    Block(BlockId),
    /// A gateway.
    Device(DeviceId),
    /// A fallback grant. Its gateway gets another.
    Grant(GrantId),
    /// Every token for a group.
    Group(GroupId),
    /// An owner of grants. Every gateway gets another grant, of another owner.
    Owner(String),
    Task(TaskId),
    /// A block of a token that is at hand, and when the issuer's block was issued and expires.
    Token(BlockId, Life),
}

impl Operator {
    /// A fleet is founded.
    pub(crate) fn found(scenario: &Scenario, plan: &Plan, seed: u64) -> Self {
        let mut rng = stream(seed, "operator", "keys");
        let roots = (usize::from(scenario.fleet.roots), scenario.fleet.threshold);
        let keys = FleetKeys::generate_with(roots, &mut rng).expect(HONEST);
        let cadence = Cadence::every(Millis(scenario.fleet.head_every.0));
        let start = date(scenario.start);
        let mut fx = Effects::default();
        let founding = Founding {
            fleet: "sim".parse().expect(HONEST),
            feed: "main".parse().expect(HONEST),
            broker: BrokerPins::default(),
            keys: &keys,
            operator: "ada",
            cadence,
            at: start,
        };
        let mut book = found(&founding, &mut fx).expect(HONEST);
        let draft = policy_of(&scenario.policy, start);
        if draft != PolicyDocument::built_in(start) {
            policy::set(&mut book, draft, &keys.policy, keys.operator("ada"), start, &mut fx).expect(HONEST);
        }
        let settings = Settings {
            cadence,
            terms: Terms { window: 8, clock_error: Millis(500) },
            task_ttl_max: Millis(scenario.grant.task_ttl_max.0),
        };
        let service =
            Service::start(service_keys(&keys), settings, bytes(seed, "service", "seed"), &book).expect(HONEST);
        let mut operator = Self {
            keys,
            service,
            running: true,
            book,
            grants: scenario.grant.clone(),
            plans: scenario.workload.planner.is_some(),
            provider: Provider::new(seed),
            owners: 0,
            owed: BTreeSet::new(),
            rng: stream(seed, "operator", "choices"),
            thief: stream(seed, "thief", "tokens"),
            emergencies: Holders::new(seed),
            numbers: BTreeMap::new(),
            collected: Vec::new(),
            beside: Vec::new(),
            archive: BTreeMap::new(),
            aside: BTreeSet::new(),
            nonces: BTreeMap::new(),
            rows: BTreeMap::new(),
            settings,
            seed,
            starts: 0,
            signed: Vec::new(),
            unpublished: Vec::new(),
            published: Vec::new(),
            dropped_key: None,
            stolen: BTreeMap::new(),
        };
        operator.commit(fx);
        if plan.needs_emergency_keys() {
            operator.name_emergency_keys(start);
        }
        if scenario.workload.identity.is_some() {
            let issuer = operator.provider.public();
            let next = identity::draft(&operator.book, &identity::Change::Put(issuer), start).expect(HONEST);
            operator.follow(&next.expect("nobody was believed before"));
        }
        for (group, plan) in &scenario.groups {
            let members = plan.members.iter().map(|number| device_name(*number)).collect();
            operator.regroup(&Change::Join(group.clone(), members), start);
            if plan.feed {
                operator.regroup(&Change::AddFeed(feed_of_group(group), vec![group.clone()]), start);
            }
        }
        // The first list, so that whoever enrols takes one along.
        operator.ticks(start);
        operator
    }

    /// The root keys name operators' emergency keys.
    fn name_emergency_keys(&mut self, at: Timestamp) {
        let public: Vec<_> = self.emergencies.public().collect();
        for (name, key) in public {
            let next = emergency::draft_added(&self.book, name, &key, at).expect(HONEST);
            self.sign(&next);
        }
        self.start();
    }

    /// The root keys sign a trust bundle, and the service goes on with it.
    fn follow(&mut self, next: &TrustBundle) {
        self.sign(next);
        self.start();
    }

    fn sign(&mut self, next: &TrustBundle) {
        let write = Write::Bundle(next.version, Signed::sign(next, self.book.fleet(), &signing_roots(&self.keys)));
        self.book.apply(write.clone());
        self.rows.extend(write.row().map(|row| (row, write)));
    }

    /// The operator's next emergency statement, for the broker.
    pub(crate) fn declare_emergency(&mut self, order: &Order, at: Timestamp) -> Vec<Publish> {
        self.emergencies.declare(self.book.trust(), order, at)
    }

    /// A thief's next emergency statement, for the broker.
    pub(crate) fn steal_emergency(
        &mut self,
        theft: EmergencyTheft,
        device: &str,
        at: Timestamp,
    ) -> Option<Vec<Publish>> {
        self.emergencies.steal(self.book.trust(), theft, device, at)
    }

    /// The newest trust bundle.
    pub(crate) fn trust(&self) -> &TrustBundle {
        self.book.trust()
    }

    /// A gateway asks to join, is let in, given a grant, and takes the answer.
    pub(crate) fn enrol(
        &mut self,
        number: u32,
        name: &DeviceId,
        keys: &DeviceKeys,
        profile: &Profile,
        at: Timestamp,
    ) -> Accepted {
        let mut nonce = Nonce([0; 16]);
        self.rng.fill_bytes(&mut nonce.0);
        let request = EnrolRequest { device: name.clone(), keys: keys.public(), nonce, profile: profile.name.clone() };
        let signed = request.sign(keys);
        let mut fx = Effects::default();
        let code = EnrolRequest::code(&signed);
        let operator = self.keys.operator("ada");
        approve(&mut self.book, &signed, code, Replace::Keep, operator, at, &mut fx).expect(HONEST);
        self.commit(fx);
        self.numbers.insert(name.clone(), number);
        assert!(self.grant(name, at), "nothing of it is revoked yet");
        let sealed = answer(&self.book, name, Vec::new(), &self.keys.service, at, &mut self.rng).expect(HONEST);
        let fingerprint = self.book.trusts()[0].fingerprint();
        accept(&sealed, keys, name, &fingerprint, nonce, profile, None).expect(HONEST)
    }

    /// Who owns grants that are made now.
    pub(crate) fn owner(&self) -> String {
        match self.owners {
            0 => "ops@sim".into(),
            number => format!("ops-{number}@sim"),
        }
    }

    /// Who owns a grant.
    pub(crate) fn owner_of(&self, grant: &GrantId) -> String {
        self.book.grant(grant).map_or_else(|| self.owner(), |grant| grant.spec.owner.clone())
    }

    /// The root keys sign a trust bundle with other groups. The heads that it makes due are signed at once where the service
    /// runs, and by that when it is there again where it does not. Whether anything was to be changed.
    fn regroup(&mut self, change: &Change, at: Timestamp) -> bool {
        let Some(next) = groups::draft(&self.book, change, at).expect(HONEST) else { return false };
        let proposed = propose(&self.book, &next, Cause::Planned, &signing_roots(&self.keys)).expect(HONEST);
        let hands = Hands { feed: self.running.then_some(&self.keys.feed), policy: None };
        let mut fx = Effects::default();
        let (operator, cadence) = (self.keys.operator("ada"), self.settings.cadence);
        submit_bundle(&mut self.book, &proposed, hands, cadence, operator, at, &mut fx).expect(HONEST);
        self.commit(fx);
        true
    }

    /// Puts a gateway into a group and takes it out of all others, or out of all; gives whether that changed anything. What
    /// there is to publish then, [`Operator::ticks`] says.
    pub(crate) fn move_device(&mut self, device: &DeviceId, to: Option<&GroupId>, at: Timestamp) -> bool {
        let joined = to.is_some_and(|group| self.regroup(&Change::Join(group.clone(), vec![device.clone()]), at));
        let others: Vec<GroupId> = self.groups_of(device).filter(|group| Some(group) != to.as_ref()).cloned().collect();
        let left = others.into_iter().map(|group| self.regroup(&Change::Leave(group, vec![device.clone()]), at));
        left.fold(joined, |changed, left| changed | left)
    }

    /// The groups of a gateway.
    pub(crate) fn groups_of<'a>(&'a self, device: &'a DeviceId) -> impl Iterator<Item = &'a GroupId> {
        let groups = self.book.trust().groups.iter();
        groups.filter(|(_, members)| members.contains(device)).map(|(group, _)| group)
    }

    /// The feed that the newest trust bundle gives a gateway.
    pub(crate) fn feed_of(&self, device: &DeviceId) -> FeedId {
        self.book.trust().feed_of(device).id.clone()
    }

    /// Whether there is a grant more: what is revoked from birth is not made.
    fn grant(&mut self, name: &DeviceId, at: Timestamp) -> bool {
        let plan = &self.grants;
        let (mut may_begin, mut class_rights) = (Vec::new(), Vec::new());
        for (selector, class, rights) in program_rights() {
            let class: hardtack::ids::TaskClass = class.parse().expect(HONEST);
            may_begin.push((selector, class.clone()));
            class_rights.extend(rights.into_iter().map(|right| ClassRight { class: class.clone(), right }));
        }
        let mut may_step = Vec::new();
        if self.plans {
            let (planner, class) = planner_class();
            let class: hardtack::ids::TaskClass = class.parse().expect(HONEST);
            may_begin.push((planner, class.clone()));
            may_step.extend(EXECUTORS.map(|uid| (selector(uid), class.clone())));
            class_rights.extend(planner_rights().map(|right| ClassRight { class: class.clone(), right }));
        }
        let new = NewGrant {
            device: name.clone(),
            owner: self.owner(),
            life: Millis(plan.life.0),
            may_begin,
            may_step,
            rights: class_rights,
            offline_max: Millis(plan.offline_max.0),
            uses_max: plan.uses_max,
            boots_max: plan.boots_max,
            task_ttl_max: Millis(plan.task_ttl_max.0),
            staleness_max: Vec::new(),
            min_time_class: None,
            renewal: hardtack::fleet::book::Renewal::Automatic,
        };
        let mut fx = Effects::default();
        let operator = self.keys.operator("ada");
        match create(&mut self.book, new, &self.keys.issuer, operator, at, &mut self.rng, &mut fx) {
            Err(FleetError::Revoked(_)) => return false,
            made => drop(made.expect(HONEST)),
        }
        self.commit(fx);
        true
    }

    fn give_owed(&mut self, at: Timestamp) {
        for device in std::mem::take(&mut self.owed) {
            let revoked = self.book.live_rule(&Target::Device(device.clone()), at).is_some();
            if revoked || !self.grant(&device, at) {
                self.owed.insert(device);
            }
        }
    }

    /// The root keys say to a gateway what time it is, in answer to its nonce.
    pub(crate) fn reset(&mut self, device: &DeviceId, nonce: Nonce, time: Timestamp) -> Vec<u8> {
        let mut fx = Effects::default();
        let operator = self.keys.operator("ada");
        let now = Reading { time, radius: RADIUS };
        let file =
            reset(&mut self.book, (device, nonce), &signing_roots(&self.keys), now, operator, &mut fx).expect(HONEST);
        self.commit(fx);
        file.to_bytes()
    }

    /// A reset that no honest operator makes: for whom it is not, or not by the root keys.
    pub(crate) fn deceitful_reset(&self, device: &DeviceId, nonce: Nonce, time: Timestamp, root: bool) -> Vec<u8> {
        let reset = TimeReset { device: device.clone(), nonce, time, radius_ms: RADIUS };
        let keys = if root { signing_roots(&self.keys) } else { vec![&self.keys.service] };
        TimeFile::Reset(Signed::sign(&reset, self.fleet(), &keys)).to_bytes()
    }

    /// A next trust bundle with root keys of a thief's, which too few have signed: nobody but those, or none of those.
    fn deceitful_bundle(&self, by_thief: bool, at: Timestamp) -> (Topic, Vec<u8>) {
        let mut next = self.book.trust().clone();
        next.version += 1;
        next.issued_at = at;
        let thief = bytes(self.seed, "thief", "root");
        let thief = SigningKey::from_bytes(&thief);
        next.roots = vec![thief.verifying_key().into()];
        next.threshold = 1;
        let keys = if by_thief { vec![&thief] } else { signing_roots(&self.keys) };
        (Topic::Bundle(next.version), Signed::sign(&next, self.fleet(), &keys).to_bytes())
    }

    /// An acknowledgement that the service never made, with a nonce that is out.
    pub(crate) fn deceitful_ack(&self, trick: AckTrick, device: &DeviceId, nonce: Nonce, time: Timestamp) -> Vec<u8> {
        let terms = Terms { window: 8, clock_error: Millis(500) };
        let ack = hello::ack(&self.book, device, Some(nonce), Vec::new(), terms, time);
        let elsewhere: FleetId = "elsewhere".parse().expect(HONEST);
        let (fleet, key) = match trick {
            AckTrick::Foreign => (&elsewhere, &self.keys.service),
            AckTrick::Late | AckTrick::Twice | AckTrick::WrongKey => (self.fleet(), &self.keys.feed),
        };
        Signed::sign(&ack, fleet, &[key]).to_bytes()
    }

    /// What no honest publisher gives out, and the topic on which a broker does.
    pub(crate) fn deceitful_head(&self, trick: FeedTrick, device: &DeviceId) -> Option<(Topic, Vec<u8>)> {
        let feed = self.feed_of(device);
        let known = self.book.of(&feed);
        let newest = known.head()?;
        let place = Topic::FeedHead(feed.clone());
        let elsewhere: FleetId = "elsewhere".parse().expect(HONEST);
        let (era, seq) = newest.position.order();
        let next = seq + 1;
        let (fleet, key, seq) = match trick {
            FeedTrick::DroppedKey => (self.fleet(), self.dropped_key.as_ref()?, next),
            FeedTrick::FarAhead => (self.fleet(), &self.keys.feed, seq + FAR_AHEAD.0 / 2 / HEAD_EVERY.0),
            FeedTrick::FastForward => (self.fleet(), &self.keys.feed, u64::MAX - 1),
            FeedTrick::Leap => (self.fleet(), &self.keys.feed, seq + LEAP),
            FeedTrick::NewRootsAlone => return Some(self.deceitful_bundle(true, newest.head.issued_at)),
            FeedTrick::OldRootsAlone => return Some(self.deceitful_bundle(false, newest.head.issued_at)),
            FeedTrick::Endless => return Some((place, vec![0x5a; 2 * MESSAGE_BYTES_MAX])),
            FeedTrick::Foreign => (&elsewhere, &self.keys.feed, next),
            FeedTrick::Misplaced => {
                let step = Step { level: 0, end: newest.head.seq + 1 };
                return Some((Topic::FeedDelta(feed, step.place()), known.newest()?.to_bytes()));
            }
            FeedTrick::Substitute | FeedTrick::Twin => (self.fleet(), &self.keys.feed, seq),
        };
        let issued_at = match trick {
            FeedTrick::FarAhead => newest.head.issued_at + FAR_AHEAD,
            FeedTrick::DroppedKey
            | FeedTrick::Endless
            | FeedTrick::FastForward
            | FeedTrick::Foreign
            | FeedTrick::Leap
            | FeedTrick::Misplaced
            | FeedTrick::NewRootsAlone
            | FeedTrick::OldRootsAlone
            | FeedTrick::Substitute
            | FeedTrick::Twin => newest.head.issued_at,
        };
        let mut additions = RevocationSet::default();
        additions.add_rule(Selector::owner("nobody"), newest.head.issued_at + Millis::from_secs(3600));
        let set = known.set().merge(&additions).expect(HONEST);
        let successor = Successor {
            feed: &feed,
            era,
            seq,
            previous: if seq < next { newest.head.previous } else { newest.position.digest },
            issued_at,
            next_update_ms: newest.head.next_update_ms,
            hard_stale_ms: newest.head.hard_stale_ms,
            dropped_before: newest.head.dropped_before,
            set: &set,
            additions: &additions,
            skips: &[],
            bundle_version: newest.head.bundle_version,
            policy_version: newest.head.policy_version,
        };
        let (_, announcements) = successor.sign(fleet, key);
        Some((place, announcements.first()?.to_bytes()))
    }

    /// Revokes, and publishes if the service runs.
    pub(crate) fn revoke(&mut self, what: Revoke, device: &DeviceId, at: Timestamp) -> Vec<Publish> {
        let target = match &what {
            Revoke::All => Target::All,
            Revoke::Block(block) => Target::Block(*block),
            Revoke::Device(device) => Target::Device(device.clone()),
            Revoke::Grant(grant) => Target::Grant(*grant),
            Revoke::Group(group) => Target::Group(group.clone()),
            Revoke::Owner(owner) => Target::Owner(owner.clone()),
            Revoke::Task(task) => Target::Task(task.clone()),
            Revoke::Token(block, _) => Target::Block(*block),
        };
        // Of a token that is at hand, and of a task, the ledger knows whose it is.
        let (life, whose) = match &what {
            Revoke::Token(_, life) => (Some(*life), Some(device.clone())),
            Revoke::Task(_) => (None, Some(device.clone())),
            Revoke::All
            | Revoke::Block(_)
            | Revoke::Device(_)
            | Revoke::Grant(_)
            | Revoke::Group(_)
            | Revoke::Owner(_) => (None, None),
        };
        let mut fx = Effects::default();
        let operator = self.keys.operator("ada");
        let revocation = Revocation { target, until: None, reason: REASON.into(), life, device: whose };
        let rule = revoke(&mut self.book, revocation, operator, at, &mut fx).expect(HONEST);
        self.unpublished.push(rule);
        let replaced: Vec<(GrantId, DeviceId)> = match &what {
            Revoke::Grant(grant) => vec![(*grant, device.clone())],
            Revoke::Owner(owner) => {
                self.owners += 1;
                let own = self.book.grants().filter(|grant| grant.spec.owner == *owner && grant.withdrawn.is_none());
                own.map(|grant| (grant.spec.grant, grant.spec.device.clone())).collect()
            }
            Revoke::All
            | Revoke::Block(_)
            | Revoke::Device(_)
            | Revoke::Group(_)
            | Revoke::Task(_)
            | Revoke::Token(..) => Vec::new(),
        };
        for (grant, _) in &replaced {
            withdraw(&mut self.book, grant, "revoked", operator, at, &mut fx).expect(HONEST);
        }
        self.commit(fx);
        self.owed.extend(replaced.into_iter().map(|(_, device)| device));
        self.give_owed(at);
        if self.running {
            self.ticks(at)
        } else {
            Vec::new()
        }
    }

    /// Revokes so many tokens that nobody here holds, each by its own block, and publishes once if the service runs.
    pub(crate) fn storm(&mut self, count: u32, life: Millis, pick: u64, at: Timestamp) -> Vec<Publish> {
        let mut rng = stream(pick, "storm", "blocks");
        let mut fx = Effects::default();
        for _ in 0..count {
            let mut block = BlockId([0; 32]);
            rng.fill_bytes(&mut block.0);
            let issued = at - Millis(below(&mut rng, life.0));
            let target = Target::Block(block);
            let life = Some(Life { issued, expires: issued + life, serial: None });
            let revocation = Revocation { target, until: None, reason: REASON.into(), life, device: None };
            revoke(&mut self.book, revocation, self.keys.operator("ada"), at, &mut fx).expect(HONEST);
        }
        self.commit(fx);
        if self.running {
            self.ticks(at)
        } else {
            Vec::new()
        }
    }

    /// The root keys sign a trust bundle with a new key in the place of one.
    pub(crate) fn rotate(&mut self, what: RotateWhat, at: Timestamp) {
        let fresh = SigningKey::generate(&mut self.rng);
        let public = || vec![fresh.verifying_key().into()];
        let mut next = self.book.trust().clone();
        next.version += 1;
        next.issued_at = at;
        match what {
            RotateWhat::Feed => next.feeds.iter_mut().for_each(|feed| feed.keys = public()),
            RotateWhat::Identity => {
                self.provider.rotate(fresh.clone());
                next.identities = vec![self.provider.public()];
            }
            // The first, which is not asked to sign: it is lost.
            RotateWhat::Root => {
                next.roots.remove(0);
                next.roots.extend(public());
            }
            RotateWhat::Service => next.service = public(),
        }
        let mut signers = signing_roots(&self.keys);
        if what == RotateWhat::Root {
            signers.push(&fresh);
        }
        let write = Write::Bundle(next.version, Signed::sign(&next, self.book.fleet(), &signers));
        self.book.apply(write.clone());
        self.rows.extend(write.row().map(|row| (row, write)));
        match what {
            RotateWhat::Identity => {}
            RotateWhat::Feed => self.dropped_key = Some(std::mem::replace(&mut self.keys.feed, fresh)),
            RotateWhat::Root => {
                self.keys.further_roots.push(fresh);
                self.keys.root = self.keys.further_roots.remove(0);
            }
            RotateWhat::Service => self.keys.service = fresh,
        }
        // Who runs with the keys of before stops, and starts with those of now.
        if self.running {
            self.start();
        }
    }

    pub(crate) fn is_running(&self) -> bool {
        self.running
    }

    /// The service starts: from what the ledger holds, in whatever order that gives its rows. One that must not publish
    /// does not start.
    pub(crate) fn start(&mut self) {
        self.starts += 1;
        self.book = Book::load(self.rows.values().rev().cloned().collect()).expect(HONEST);
        let seed = bytes(self.seed, "service", &format!("start-{}", self.starts));
        let service = Service::start(service_keys(&self.keys), self.settings, seed, &self.book);
        self.running = service.is_ok();
        if let Ok(service) = service {
            self.service = service;
        }
    }

    pub(crate) fn stop(&mut self) {
        self.running = false;
        self.service.disconnected();
    }

    /// The broker took the service's connection.
    pub(crate) fn connected(&mut self, at: Timestamp) -> Vec<Publish> {
        let mut fx = Effects::default();
        self.service.connected(&mut self.book, at, &mut fx);
        self.commit(fx)
    }

    /// The service's connection is gone.
    pub(crate) fn disconnected(&mut self) {
        self.service.disconnected();
    }

    /// A message for the service.
    pub(crate) fn hears(&mut self, topic: &str, payload: &[u8], at: Timestamp) -> Vec<Publish> {
        let mut fx = Effects::default();
        let (stored, aside) = (&self.archive, &self.aside);
        let archive = |device: &DeviceId, era: EraId, segment: u64| {
            let range = (device.clone(), era, segment, Hash([0; 32]))..=(device.clone(), era, segment, Hash([255; 32]));
            let aside = aside.range(range).map(|(.., digest)| *digest).collect();
            Digests { trail: stored.get(&(device.clone(), era, segment)).copied(), aside }
        };
        self.service.message(&mut self.book, topic, payload, &archive, at, &mut fx);
        self.commit(fx)
    }

    /// The service looks at the clock.
    pub(crate) fn ticks(&mut self, at: Timestamp) -> Vec<Publish> {
        self.give_owed(at);
        let mut fx = Effects::default();
        self.service.tick(&mut self.book, at, &mut fx);
        self.commit(fx)
    }

    fn commit(&mut self, fx: Effects) -> Vec<Publish> {
        let (collected, archive, numbers) = (&mut self.collected, &mut self.archive, &self.numbers);
        let (aside, beside) = (&mut self.aside, &mut self.beside);
        let (rows, heads) = (&mut self.rows, &mut self.signed);
        let known = heads.len();
        let committed = fx.commit(|writes| {
            for write in writes {
                if let Write::Head(signed) = &write {
                    heads.extend(signed.claim().ok().map(|head| (signed.clone(), head)));
                }
                let is_aside = matches!(write, Write::Aside(_));
                let (Write::Segment(segment) | Write::Aside(segment)) = write else {
                    rows.extend(write.row().map(|row| (row, write)));
                    continue;
                };
                let stored = Signed::from_bytes(&segment.header);
                let (Some(number), Ok(header)) = (numbers.get(&segment.device), stored) else { continue };
                let kept = Collected { device: *number, upload: Upload { header, leaves: segment.leaves } };
                if is_aside {
                    beside.push(kept);
                    aside.insert((segment.device, segment.era, segment.segment, segment.digest));
                } else {
                    collected.push(kept);
                    archive.insert((segment.device, segment.era, segment.segment), segment.digest);
                }
            }
            Ok::<(), Infallible>(())
        });
        if let Some(issued_at) = self.signed.get(known..).and_then(|heads| heads.last()).map(|(_, head)| head.issued_at)
        {
            let (book, published) = (&self.book, &mut self.published);
            self.unpublished.retain(|rule| {
                let there = publish::is_published(book, rule);
                published.extend(there.then(|| (rule.target.clone(), issued_at, rule.until)));
                !there
            });
        }
        match committed {
            Ok(outgoing) => outgoing.publish,
            Err(never) => match never {},
        }
    }

    /// Heads that were signed since this was asked last.
    pub(crate) fn take_signed(&mut self) -> Vec<(Signed<Head>, Head)> {
        std::mem::take(&mut self.signed)
    }

    /// Revocations that a head holds since this was asked last: target, when it was signed, and until when that holds.
    pub(crate) fn take_published(&mut self) -> Vec<(Target, Timestamp, Timestamp)> {
        std::mem::take(&mut self.published)
    }

    /// A revocation that the ledger holds and the newest head's set does not, if there is one among some of them.
    pub(crate) fn unpublished(&self, at: Timestamp) -> Option<String> {
        let live: Vec<&Rule> = self.book.rules().filter(|rule| rule.until >= at && is_due(rule, at)).collect();
        let mut some = live.iter().step_by(live.len() / LOOKED_AT + 1);
        let waits = |rule: &Rule| {
            let feeds = self.belongs_to(rule).into_iter();
            let found = feeds.map(|feed| &feed.id).find(|feed| !publish::holds(self.book.of(feed), rule))?;
            Some(format!("{:?} in feed {found}", rule.target))
        };
        some.find_map(|rule| waits(rule))
    }

    /// The feeds to which a revocation belongs, told from the newest trust bundle alone: of every gateway to which a token can
    /// be shown that it covers.
    fn belongs_to(&self, rule: &Rule) -> Vec<&Feed> {
        let trust = self.book.trust();
        let members = match (&rule.target, &rule.device) {
            (Target::Device(device), _) | (Target::Block(_) | Target::Grant(_) | Target::Task(_), Some(device)) => {
                std::slice::from_ref(device)
            }
            (Target::Group(group), _) => trust.groups.get(group).map_or(&[][..], Vec::as_slice),
            (
                Target::All
                | Target::Audience(_)
                | Target::Block(_)
                | Target::Grant(_)
                | Target::IssuedBefore(_)
                | Target::Owner(_)
                | Target::RootKey(_)
                | Target::Task(_),
                _,
            ) => return trust.feeds.iter().collect(),
        };
        members.iter().map(|device| trust.feed_of(device)).collect()
    }

    /// The newest trust bundle's version.
    pub(crate) fn bundle_version(&self) -> u64 {
        self.book.trust().version
    }

    /// A trust bundle, as it was signed.
    pub(crate) fn bundle(&self, version: u64) -> Option<&Signed<TrustBundle>> {
        self.place_of(version).and_then(|place| self.book.bundles().get(place))
    }

    /// A trust bundle.
    pub(crate) fn trust_of(&self, version: u64) -> Option<&TrustBundle> {
        self.place_of(version).and_then(|place| self.book.trusts().get(place))
    }

    /// The first bundle has version 1.
    fn place_of(&self, version: u64) -> Option<usize> {
        version.checked_sub(1)?.try_into().ok()
    }

    /// What a message on a feed's topic says, if it is a head that the feed's key signed.
    pub(crate) fn open_announcement(&self, feed: &FeedId, payload: &[u8]) -> Option<Believed> {
        let trust = self.book.trust();
        Announcement::from_bytes(payload).ok()?.open(feed, &trust.fleet, trust.feed_keys(feed)).ok()
    }

    /// Whether the service has heard this statement of an emergency key, or a newer one.
    pub(crate) fn has_heard(&self, key: KeyId, counter: u64) -> bool {
        self.book.emergency(key).is_some_and(|known| known.said.counter >= counter)
    }

    /// Everything that the collector stored, in order.
    pub(crate) fn collected(&self) -> &[Collected] {
        &self.collected
    }

    /// What was revoked, as somebody would carry it.
    #[cfg(test)]
    pub(crate) fn carried(&self) -> Vec<u8> {
        hardtack::fleet::carry::export(&self.book, &self.trust().feeds[0].id).expect("a head was signed")
    }

    /// What it set aside: other branches of eras that it has.
    pub(crate) fn beside(&self) -> &[Collected] {
        &self.beside
    }

    /// Whether the collector holds something of an era.
    pub(crate) fn holds(&self, device: &DeviceId, era: EraId) -> bool {
        self.book.era(device, era).is_some()
    }

    /// Proofs of forks that the collector keeps, in words. Honest gateways give none.
    pub(crate) fn forks(&self) -> Vec<(DeviceId, String)> {
        self.book
            .forks()
            .map(|fork| {
                let how = format!("{}/{} segment {}: {}", fork.device, fork.era, fork.segment, fork.what);
                (fork.device.clone(), how)
            })
            .collect()
    }

    /// The newest head of a gateway's feed.
    pub(crate) fn newest(&self, device: &DeviceId) -> Owed {
        let feed = self.feed_of(device);
        let order = self.book.of(&feed).head().map_or((0, 0), |head| head.position.order());
        Owed { feed, order }
    }

    pub(crate) fn fleet(&self) -> &FleetId {
        self.book.fleet()
    }

    /// A token of that kind for a gateway, and when it was made.
    pub(crate) fn stolen(&mut self, theft: Theft, device: &DeviceId, at: Timestamp) -> (Timestamp, String) {
        let key = (theft, device.clone());
        if let Some((made, text)) = self.stolen.get(&key).filter(|(made, _)| at.since(*made) < STOLEN_LIFE) {
            return (*made, text.clone());
        }
        let text = self.steal(theft, device, at);
        self.stolen.insert(key, (at, text.clone()));
        (at, text)
    }

    fn steal(&mut self, theft: Theft, device: &DeviceId, at: Timestamp) -> String {
        let (fleet, feed) = (self.fleet().clone(), self.feed_of(device));
        let Issuer { root_key_id, key } = &self.keys.issuer;
        let (root_key_id, key) = (*root_key_id, key.clone());
        let victim = Victim { fleet, device: device.clone(), owner: OWNER.into(), feed, root_key_id, key };
        victim.steal(theft, at, &mut self.thief)
    }

    /// A token to be carried to a gateway, for that alone or for a group. It may name the gateway's feed; one that does not is
    /// refused by what it is revoked by alone, whichever feeds the gateway holds.
    pub(crate) fn carry(
        &mut self,
        device: &DeviceId,
        group: Option<GroupId>,
        names_feed: bool,
        at: Timestamp,
    ) -> Carried {
        let mut random = [0; 16];
        self.thief.fill_bytes(&mut random);
        let issued = Timestamp::from_secs((at - Millis(1000)).secs_floor());
        let task: TaskId = format!("t-{}", hardtack::ids::hex(&random[..8])).parse().expect(HONEST);
        let spec = TaskSpec {
            fleet: self.fleet().clone(),
            grant: GrantId(random),
            bearer: group.clone().map_or_else(|| Bearer::Device(device.clone()), Bearer::Group),
            owner: self.owner(),
            audience: None,
            // The devices of a group may have several.
            feed: (names_feed && group.is_none()).then(|| self.feed_of(device)),
            task: task.clone(),
            issued,
            expires: issued + CARRIED_LIFE,
            serial: None,
            rights: carried_rights().to_vec(),
            uses_max: None,
            staleness_max: Vec::new(),
            min_time_class: None,
        };
        let Issuer { root_key_id, key } = &self.keys.issuer;
        let token = mint_task(&spec, key, *root_key_id, &mut self.thief).expect(HONEST);
        let chain = Held::from_bytes(&token).expect(HONEST).chain();
        let TaskSpec { grant, owner, issued, expires, .. } = spec;
        let life = Life { issued, expires, serial: None };
        Carried { text: to_text(&token), task, grant, owner, group, chain, life }
    }

    /// Whether the fleet wants a gateway to hold a grant now.
    pub(crate) fn wants_grant(&self, device: &DeviceId, at: Timestamp) -> bool {
        self.book.live_grants(device, at).next().is_some()
    }

    /// The policy in force.
    pub(crate) fn policy(&self) -> &PolicyDocument {
        self.book.policy().1
    }
}
