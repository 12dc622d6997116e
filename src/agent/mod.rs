//! The device's decisions. Pure: no tokio, no sled, no MQTT, no files, no clock, no global randomness.
//!
//! Owns: [`Agent`], what it takes ([`Boot`], [`Input`], [`Now`]) and what it gives ([`Effects`]).
//! Never: reads a clock, a file or the network; sends a reply before its record is durable; lowers a position; widens a
//! token; keeps state for a foreign token.
//! Read next: `request.rs` for what callers ask, `effects.rs` for what comes out, then `decide.rs`. The rest of the
//! agent by what happens: `start.rs`, `answer.rs`, `tasks.rs`, `steps.rs`, `attenuate.rs` and `holder.rs` (callers),
//! `sync.rs`, `emergency.rs` and `grants.rs` (the fleet), `salvage.rs` (what a damaged disk has left), `rescue.rs` and
//! `carry.rs` (signed time, and revocations, that somebody carries), `report.rs` (status).

mod answer;
mod attenuate;
pub mod attest;
pub mod audit;
pub mod audit_key;
mod carry;
pub mod clock;
pub mod decide;
pub mod effects;
pub mod emergency;
mod ending;
pub mod enrol;
mod evaluate;
mod evidence;
pub mod feed;
mod flood;
mod grants;
mod hint;
pub mod holder;
pub mod identity;
mod intact;
mod introspect;
pub mod mode;
mod naming;
pub mod outcomes;
pub mod policy;
mod preview;
mod recent;
mod report;
pub mod request;
mod rescue;
pub mod revocation;
#[cfg(test)]
pub(crate) mod rig;
pub mod room;
pub mod salvage;
#[cfg(test)]
mod schedules;
mod shed;
mod start;
mod steps;
mod sync;
mod tasks;
#[cfg(test)]
mod tests;
pub mod token;
pub mod uplink;
pub mod wallet;
mod when;

use std::collections::BTreeMap;

use rand_chacha::ChaCha20Rng;
use rand_core::RngCore;

pub use effects::{Anchor, Batch, Effects, Outgoing};
pub use start::Unstartable;

use crate::ids::{BootId, DeviceId, EraId, FleetId, Hash, Nonce};
use crate::profile::Profile;
use crate::time::{Millis, Timestamp};
use crate::wire::audit::segment::Loaded;
use crate::wire::audit::{Alive, Event, ModeChange, Repeated, TrustChange};
use crate::wire::bundle::TrustBundle;
use crate::wire::enrol::DeviceKeys;
use crate::wire::envelope::Signed;
use crate::wire::policy::PolicyDocument;
use crate::wire::Refused;
use audit::{Closing, Trail};
use audit_key::Owner;
use clock::{HintStanding, TrustedClock};
use decide::Judge;
use effects::{Budget, FileWrite, KeyUse, LogEvent, Standing, StateFile, StoredRecord};
use evidence::{Refusals, Source};
use flood::{Flood, Rate};
use holder::{Answered, Tie};
use mode::{mode_of, Damper, Grounds, InTouch};
use policy::Policy;
use request::{AuditRef, Counters, Evidence, Mode, Request, RequestId};
use revocation::Revocations;
use room::{Class, Content, Taken};
use salvage::{Hole, Remains};
use sync::Named;
use tasks::Want;
use token::Cache;
use uplink::{Link, Uplink};
use wallet::Wallet;

/// The clocks as the shell read them for one input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// CLOCK_BOOTTIME: powered-on time of this kernel boot, suspend counted.
    pub boottime: Millis,
    /// The system clock, a hint that only makes decisions stricter. None where it is before 1970 or not readable.
    pub wall: Option<Timestamp>,
}

/// All that an agent starts from.
pub struct Boot {
    /// The fleet.
    pub fleet: FleetId,
    /// This device.
    pub device: DeviceId,
    /// Its keys.
    pub keys: DeviceKeys,
    /// Its limits.
    pub profile: Profile,
    /// 32 bytes from the operating system, for every random choice of this start.
    pub seed: [u8; 32],
    /// The kernel's boot id.
    pub boot: BootId,
    /// The newest valid slot of the anchor, none if neither can be used.
    pub anchor: Option<Anchor>,
    /// The files of the state folder.
    pub files: Vec<(StateFile, Vec<u8>)>,
    /// Eras on disk, oldest first.
    pub eras: Vec<EraImage>,
    /// Bytes that all eras take on disk.
    pub used_bytes: u64,
}

/// What the store found of one era.
#[derive(Debug, Clone, PartialEq)]
pub struct EraImage {
    /// The era. Salt 0 where the damage is such that it cannot be read.
    pub id: EraId,
    /// Closed segments: the number that the next one gets.
    pub segments: u64,
    /// The index after the last closed segment.
    pub closed_index: u64,
    /// The chain's head there; [`Hash::ZERO`] if no segment is closed, where the chain begins at the era's genesis.
    pub closed_head: Hash,
    /// Records from the lower of `closed_index` and the anchor's index on, in order; with holes where it is damaged.
    pub records: Vec<StoredRecord>,
    /// What is or was wrong with it, told at every start until it is released: what is above is what could be salvaged.
    /// Segments of it may be missing too; loading them says so.
    pub damage: Option<String>,
    /// What its rows weigh, and which of its closed segments may be given up.
    pub content: Content,
}

impl EraImage {
    /// Whether it holds records that no segment covers.
    fn is_unsigned(&self) -> bool {
        self.records.iter().any(|record| record.index >= self.closed_index)
    }
}

/// Something that happens to an agent.
#[derive(Debug)]
pub enum Input {
    /// The time that [`Agent::poll_deadline`] named has come.
    Deadline,
    /// What all eras take on disk now.
    Disk(Taken),
    /// A process or a connection that is watched has ended.
    Gone(Tie),
    /// The program is about to end in order, and gives no input after this.
    Leaving,
    /// The link says something.
    Link(LinkEvent),
    /// A program on the gateway asks something.
    Request {
        /// Names the waiting caller.
        id: RequestId,
        /// What the kernel says about it.
        evidence: Evidence,
        /// What it asks.
        request: Request,
    },
    /// What the store has left where a segment could not be loaded.
    Remains {
        /// What was asked for.
        hole: Hole,
        /// What is left.
        remains: Remains,
    },
    /// A segment that was to be loaded; none if the store no longer has it.
    Segment {
        /// Its era.
        era: EraId,
        /// Its number.
        segment: u64,
        /// What is to be sent.
        upload: Option<Loaded>,
    },
}

/// What the link tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkEvent {
    /// The broker accepted connection and subscriptions.
    Connected,
    /// The connection is gone, or could not be made.
    Disconnected {
        /// Why.
        reason: String,
    },
    /// A message arrived.
    Message {
        /// The topic's text.
        topic: String,
        /// The payload.
        payload: Vec<u8>,
    },
}

/// One device's agent.
pub struct Agent {
    fleet: FleetId,
    device: DeviceId,
    keys: DeviceKeys,
    profile: Profile,
    rng: ChaCha20Rng,
    boot: BootId,
    clock: TrustedClock,
    trust: TrustBundle,
    trust_digest: Hash,
    /// As it was signed, for whoever it is carried to.
    trust_signed: Signed<TrustBundle>,
    /// Newer trust bundles that wait for the one before them.
    bundles_ahead: BTreeMap<u64, Vec<u8>>,
    /// Heads that name a trust bundle which is still to come, the newest of each feed.
    heads_ahead: BTreeMap<crate::ids::FeedId, Vec<u8>>,
    /// Statements of emergency keys that wait for a trust bundle or for the time, the newest of each key.
    emergencies_ahead: BTreeMap<crate::ids::KeyId, Vec<u8>>,
    policy: Policy,
    policy_digest: Hash,
    /// As it was signed; none for the built-in one.
    policy_signed: Option<Signed<PolicyDocument>>,
    revocations: Revocations,
    wallet: Wallet,
    cache: Cache,
    trail: Trail,
    uplink: Uplink,
    /// The newest that the fleet named in an acknowledgement.
    named: Named,
    mode: Mode,
    mode_reasons: Vec<String>,
    /// How far this device's place in its own history is to be believed.
    standing: Standing,
    /// The collector holds this era of ours: the next one is numbered past it, as soon as one may begin.
    behind: Option<u64>,
    /// The highest versions that were ever in force.
    marks: Marks,
    /// Why the policy on disk could not be used; the built-in one stands in for it.
    policy_fault: Option<Refused>,
    /// Callers who wait for the issuer.
    wants: BTreeMap<Nonce, Want>,
    /// Callers who wait for the end of a task.
    waits: BTreeMap<RequestId, ending::Waiting>,
    /// What was answered to those who may ask again.
    answered: Answered,
    grants_asked: Option<sync::GrantsAsked>,
    grants_asked_at: Option<Millis>,
    /// How often they were asked for in a row without becoming what they should be.
    grants_tries: u32,
    generation: u64,
    anchor_due: bool,
    commits: u32,
    taken: Taken,
    /// When the last record was written.
    recorded: Millis,
    /// Denials that are counted in place of a record each.
    flood: Flood,
    /// The era is about to end: no more denials are counted in it.
    ending: bool,
    refusals: Refusals,
    /// Keeps a link that comes and goes from moving the mode.
    damper: Damper,
    /// The nonce that a reset of the clock must answer, and when it was made.
    reset_nonce: Option<(Nonce, Millis)>,
    /// When the clock was turned back in this start, if no round trip came since.
    reset_at: Option<Millis>,
    /// Successors of grants are not asked for again before this.
    renew_again: Millis,
    /// The system clock is known to be behind.
    hint_behind: bool,
    /// What is being read from the broker.
    reading: sync::Reading,
    counters: Counters,
}

/// The highest versions that were ever in force, with their digests. What is here may be older: then the device locks
/// until they are here again, or newer ones.
#[derive(Debug, Clone, Copy)]
struct Marks {
    bundle: (u64, Hash),
    policy: (u64, Hash),
}

impl Agent {
    /// Takes one input. What it leads to is added to `effects`.
    pub fn handle(&mut self, input: Input, now: Now, effects: &mut Effects) {
        self.clock.advance(now.boottime);
        self.clock.hint(now.wall);
        self.plant_wall_clock(now);
        self.note_moment();
        let entries = effects.batch.entries.len();
        match input {
            Input::Deadline => {}
            Input::Disk(taken) => self.taken = taken,
            Input::Gone(tie) => self.on_gone(tie, now, effects),
            // Nothing is begun any more, and this stays the last word.
            Input::Leaving => return self.leave(now, effects),
            Input::Link(event) => self.on_link(event, now, effects),
            Input::Request { id, evidence, request } => self.on_request(id, &evidence, request, now, effects),
            Input::Remains { hole, remains } => self.on_remains(&hole, remains, now, effects),
            Input::Segment { era, segment, upload } => self.on_segment(era, segment, upload, now, effects),
        }
        self.on_time(now, effects);
        self.settle(now, effects);
        if effects.batch.entries.len() > entries {
            self.commits += 1;
        }
        self.anchor_if_due(now, effects);
    }

    /// When the agent next wants to be called, by CLOCK_BOOTTIME.
    pub fn poll_deadline(&self, now: Millis) -> Millis {
        let in_a = |wait: Millis| Millis(now.0.saturating_add(wait.0));
        let due = [
            self.uplink.deadline(),
            in_a(self.clock.lease_due_in()),
            // Freshness, expiry and locks move with time alone.
            in_a(Millis::from_secs(30)),
            self.heartbeat_due(),
        ];
        let segment = self.trail.open_since().map(|since| Millis(since.0 + self.profile.queue.segment_ms));
        let patient = crate::mutant::active(crate::mutant::Mutant::IssuerWaitedFor);
        let wants = self.wants.values().filter(|_| !patient).map(|want| want.deadline);
        let reading = self.reading.since.map(|since| Millis(since.0.saturating_add(sync::READ_PATIENCE.0)));
        let resend = self.uplink.limits().resend_ms;
        let flight = self.trail.oldest_flight().filter(|_| self.uplink.is_online());
        let flight = flight.map(|sent| Millis(sent.0 + resend));
        let damped = self.damper.left(now).map(in_a);
        let ends = self.wallet.next_end_in(&self.clock.stand()).map(in_a);
        let others = [segment, self.flood.deadline(self.rate()), self.next_wait(), damped, reading, flight, ends];
        let deadlines = due.into_iter().chain(others.into_iter().flatten()).chain(wants);
        deadlines.min().unwrap_or(now).max(Millis(now.0 + 1))
    }

    /// This device.
    pub fn device(&self) -> &DeviceId {
        &self.device
    }

    /// The mode.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// What is due by the clock, whatever the input was.
    fn on_time(&mut self, now: Now, effects: &mut Effects) {
        self.roll_if_due(now, effects);
        self.make_room(now, effects);
        if self.trail.open_since().is_some_and(|since| now.boottime.0 >= since.0 + self.profile.queue.segment_ms) {
            self.close_segment(effects);
        }
        self.write_ended_counts(now, effects);
        if now.boottime >= self.heartbeat_due() {
            self.write(Event::Alive(Alive { next: Some(self.heartbeat()) }), Vec::new(), now, effects);
        }
        self.expire_wants(now, effects);
        self.answer_waits(now, effects);
        self.note_hint(now, effects);
        self.end_what_has_ended(now, effects);
        self.drive_link(now, effects);
        self.sync_grants(now, effects);
        if self.clock.lease_due() {
            self.clock.renew_lease();
            self.anchor_due = true;
        }
    }

    /// Brings the mode up to what is known, and sends what may be sent.
    fn settle(&mut self, now: Now, effects: &mut Effects) {
        self.revocations.note_taken(&self.clock);
        self.note_moment();
        let mut grounds = self.grounds();
        grounds.in_touch = self.damper.damp(grounds.in_touch, now.boottime);
        let (mode, reasons) = mode_of(&grounds);
        if mode != self.mode {
            let (from, reason) = (self.mode, reasons.join("; "));
            self.mode = mode;
            let change = ModeChange { from: from.name().into(), to: mode.name().into(), reason: shorten(&reason, 240) };
            self.write(Event::Mode(change), Vec::new(), now, effects);
            effects.outgoing.logs.push(LogEvent::ModeChanged { from, to: mode, reason });
            self.anchor_due = true;
            self.publish_state(effects);
        }
        self.mode_reasons = reasons;
        self.renew_audit_key(now, effects);
        self.read_feeds(now, effects);
        self.pump(now, effects);
    }

    fn grounds(&self) -> Grounds {
        let mut locks = self.standing_locks();
        if self.revocations.device_revoked(&self.device, self.clock.over()) {
            locks.push("this device is revoked".into());
        }
        if self.fleet_revoked() {
            locks.push("the whole fleet is revoked".into());
        }
        locks.extend(self.revocations.emergencies.locks(&self.device));
        if !self.room().fits(Class::Critical) {
            locks.push(
                "the audit has no room for the most important records: let the device reach its collector, or raise the \
                 quota of its profile"
                    .into(),
            );
        }
        locks.extend(self.revocations.missing().map(|feed| format!("the revocation list of feed {feed} is lost")));
        let offline_for = self.clock.offline_for();
        if self.policy.document.dead_man_ms.is_some_and(|window| offline_for > window) {
            locks.push(format!("no contact for {} s, past the policy's window", offline_for.secs()));
        }
        let in_touch = match &self.uplink.link {
            Link::Online { .. } if self.revocations.gathering() => {
                InTouch::CatchingUp("in touch, waiting for the list of a newer head".into())
            }
            Link::Online { .. } => InTouch::Yes,
            Link::Connecting { .. } | Link::Down { .. } | Link::Settling { .. } | Link::Greeting { .. } => {
                InTouch::No(self.uplink.describe())
            }
            Link::Lagging { .. } => InTouch::CatchingUp(self.uplink.describe()),
        };
        Grounds { locks, stale: self.stale_grounds(), in_touch }
    }

    /// What locks because it contradicts what was here before.
    fn standing_locks(&self) -> Vec<String> {
        let mut locks = Vec::new();
        match self.standing {
            Standing::Known | Standing::Renewed => {}
            Standing::Contradicted { era, segment } => locks.push(format!(
                "the collector holds era {era} up to segment {segment}, more than this device ever wrote: its storage \
                 was restored, or it was cloned; enrol it again"
            )),
            Standing::Lost => locks.push(
                "both slots of the anchor are lost: positions and budgets are unknown until the fleet acknowledges"
                    .into(),
            ),
        }
        let (bundle, policy) = (self.marks.bundle.0, self.marks.policy.0);
        if self.trust.version < bundle {
            locks.push(format!(
                "trust bundle {bundle} was in force, {} is here: let the device reach its broker, or import an \
                 enrolment bundle",
                self.trust.version
            ));
        }
        match &self.policy_fault {
            Some(_) if crate::mutant::active(crate::mutant::Mutant::RottenPolicyUnheeded) => {}
            Some(refused) => locks.push(format!(
                "the policy in the state folder cannot be used ({refused}): let the device reach its broker, or \
                 import an enrolment bundle"
            )),
            None if self.policy.document.version < policy => {
                locks.push(format!("policy {policy} was in force, {} is here", self.policy.document.version));
            }
            None => {}
        }
        locks
    }

    fn stale_grounds(&self) -> Vec<String> {
        let mut stale = Vec::new();
        let known = self.revocations.age(self.clock.powered());
        let age = known.map(|known| known.age);
        for level in &self.policy.document.risks {
            let within = match (level.staleness_max_ms, age) {
                (None, _) => true,
                (Some(bound), Some(age)) => age <= bound,
                (Some(_), None) => false,
            };
            if !within {
                stale.push(format!("revocations are too old for {} risk", level.class));
            }
        }
        if let Some(level) =
            self.policy.document.risks.last().filter(|_| known.is_some_and(|known| known.hard_left == Millis(0)))
        {
            stale.push(format!(
                "the fleet has been silent for longer than it promised: nothing of {} risk",
                level.class
            ));
        }
        stale.extend(self.behind());
        stale
    }

    /// What is known to be newer than what is held. Then nothing that is held can be relied on, for no class of risk.
    fn behind(&self) -> Option<String> {
        let (bundle, policy) = self.revocations.versions_named();
        let bundle = bundle.max(self.named.bundle_version);
        let policy = policy.max(self.named.policy_version).max(self.trust.policy_version_min);
        let mut behind = Vec::new();
        if bundle > self.trust.version {
            behind.push(format!("trust bundle {bundle} exists, {} is here", self.trust.version));
        }
        if policy > self.policy.document.version {
            behind.push(format!("policy {policy} exists, {} is here", self.policy.document.version));
        }
        if self.clock.floor() > self.trust.not_after {
            behind.push(format!("trust bundle {} ended {}", self.trust.version, self.trust.not_after));
        }
        (!behind.is_empty()).then(|| behind.join("; "))
    }

    /// All that a judgement rests on.
    fn judge(&self) -> Judge<'_> {
        Judge {
            device: &self.device,
            profile: &self.profile,
            trust: &self.trust,
            policy: &self.policy,
            revocations: &self.revocations,
            wallet: &self.wallet,
            clock: &self.clock,
            mode: self.mode,
            room: self.room(),
            behind: self.behind(),
        }
    }

    /// A system clock that is proven wrong is told once, until it is right again.
    fn note_hint(&mut self, now: Now, effects: &mut Effects) {
        let behind = self.clock.hint_standing() == HintStanding::Behind;
        if behind && !self.hint_behind {
            self.refuse(Source::Clock, "the system clock", &[], &Refused::ClockBehind, now, effects);
        }
        self.hint_behind = behind;
    }

    /// The longest time from one record to the next.
    fn heartbeat(&self) -> Millis {
        Millis::from_secs(self.profile.queue.heartbeat_s)
    }

    /// When a record is due, if none comes before.
    fn heartbeat_due(&self) -> Millis {
        Millis(self.recorded.0.saturating_add(self.heartbeat().0))
    }

    /// The end in order: what was counted is written, the era says that this is its end, its last segment is closed, and
    /// whoever is connected hears it.
    fn leave(&mut self, now: Now, effects: &mut Effects) {
        let counts = self.flood.all();
        self.write_counts(counts, now, effects);
        self.append(Event::Alive(Alive { next: None }), Vec::new(), now, effects);
        self.close_segment(effects);
        self.say_gone(effects);
    }

    fn rate(&self) -> Rate {
        let queue = &self.profile.queue;
        Rate { alike_max: queue.alike_max, window: Millis(queue.alike_window_ms) }
    }

    /// Denials that were counted in windows which are over.
    fn write_ended_counts(&mut self, now: Now, effects: &mut Effects) {
        let counts = self.flood.ended(self.rate(), now.boottime);
        self.write_counts(counts, now, effects);
    }

    /// Of denials that were counted: into the era that holds the record which they were as.
    fn write_counts(&mut self, counts: impl IntoIterator<Item = Repeated>, now: Now, effects: &mut Effects) {
        for repeated in counts {
            self.append(Event::Repeated(repeated), Vec::new(), now, effects);
        }
    }

    /// Writes a record.
    fn write(&mut self, event: Event, budgets: Vec<Budget>, now: Now, effects: &mut Effects) -> AuditRef {
        // So that it goes before all that waits.
        let urgent = Class::of(&event) == Class::Critical && self.trail.keeps_waiting();
        self.roll_if(urgent || self.is_roll_due(), now, effects);
        self.append(event, budgets, now, effects)
    }

    /// Writes a record into the open era, however long that is by now.
    fn append(&mut self, event: Event, budgets: Vec<Budget>, now: Now, effects: &mut Effects) -> AuditRef {
        // So that a segment can be given up as a whole. Only then: each has a header.
        let class = Class::of(&event);
        if self.trail.differs(class) && self.room().is_half_full(Class::Denial) {
            self.close_segment(effects);
        }
        let feeds = self.revocations.told();
        let closing = Closing { floor: self.clock.floor(), feeds: &feeds };
        let times = (self.clock.floor(), self.clock.powered());
        self.counters.records += 1;
        self.recorded = now.boottime;
        // What the store makes of a record, roughly; the true figure comes with Input::Disk.
        self.taken.used_bytes += 512;
        self.trail.record(event, budgets, times, now.boottime, &closing, &mut effects.batch)
    }

    fn close_segment(&mut self, effects: &mut Effects) {
        let feeds = self.revocations.told();
        self.trail.close(&Closing { floor: self.clock.floor(), feeds: &feeds }, &mut effects.batch);
    }

    /// The next audit key, where this one has served its time: it is announced under the old one, whose last segment ends
    /// with that. Replacing the file forgets the old one.
    fn renew_audit_key(&mut self, now: Now, effects: &mut Effects) {
        let powered = self.clock.powered();
        if !self.trail.signer().is_due(powered) {
            return;
        }
        let owner = Owner { fleet: &self.fleet, device: &self.device, identity: &self.keys.identity };
        let next = self.trail.signer().next(owner, powered, &mut self.rng);
        if !crate::mutant::active(crate::mutant::Mutant::AuditKeyUnannounced) {
            let announced = TrustChange::AuditKey { epoch: next.epoch(), key: next.public() };
            self.write(Event::Trust(announced), Vec::new(), now, effects);
        }
        self.close_segment(effects);
        effects.batch.files.push(FileWrite { file: StateFile::AuditKey, content: next.to_file() });
        self.trail.sign_with(next);
        self.anchor_due = true;
    }

    fn is_roll_due(&self) -> bool {
        let long = self.trail.next_index() >= self.profile.queue.era_records_max;
        long || self.behind.is_some() || (self.uplink.is_online() && self.trail.is_backlog())
    }

    /// A new era where this one is long enough, so that its space can be given back; or numbered lower than what the
    /// collector has; or so far behind that what happens now would be heard of last. Only between commits: a commit writes to one era.
    fn roll_if_due(&mut self, now: Now, effects: &mut Effects) {
        self.roll_if(self.is_roll_due(), now, effects);
    }

    fn roll_if(&mut self, due: bool, now: Now, effects: &mut Effects) {
        if due && effects.batch.entries.is_empty() && effects.batch.begin_era.is_none() {
            // They are of this era, and named by its records.
            let counts = self.flood.all();
            // With counts to be written it is this commit's turn to write those: from here on nothing is counted, so that the
            // next one begins the era, however soon it comes.
            if counts.is_empty() || crate::mutant::active(crate::mutant::Mutant::CountLostAtRoll) {
                self.next_era(now, effects);
            } else {
                self.write_counts(counts, now, effects);
            }
        }
    }

    /// Begins another era. The last segment of the one before is signed in it, as a start does that, and its first record
    /// names where that one ended: were all of it lost, this would show.
    fn next_era(&mut self, now: Now, effects: &mut Effects) {
        debug_assert!(self.flood.is_empty(), "what was counted is of the era that ends");
        self.ending = false;
        self.close_segment(effects);
        let mut newest = self.trail.era().number;
        if let Some(behind) = self.behind.take() {
            newest = newest.max(behind);
            self.know_again();
        }
        let era = EraId { number: newest.saturating_add(1), salt: self.rng.next_u64() };
        let ended = self.trail.end();
        self.trail.roll(era, &mut effects.batch);
        self.anchor_due = true;
        if !crate::mutant::active(crate::mutant::Mutant::EndUnnamed) {
            self.append(Event::Ended(ended), Vec::new(), now, effects);
        }
    }

    /// The place in the device's history is known again; what was counted before that stays lost.
    fn know_again(&mut self) {
        self.standing = Standing::Known;
        self.wallet.lose_counters(self.clock.powered());
    }

    fn anchor_if_due(&mut self, now: Now, effects: &mut Effects) {
        let count = self.commits >= self.profile.queue.anchor_every_commits.max(1);
        // An era goes only after the anchor has forgotten it: one that it still marks would count as lost.
        self.anchor_due |= !effects.batch.drop_eras.is_empty();
        if self.anchor_due || count || effects.batch.anchor.is_some() {
            self.anchor_due = false;
            self.commits = 0;
            effects.batch.anchor = Some(Box::new(self.anchor(now)));
        }
    }

    fn anchor(&mut self, now: Now) -> Anchor {
        let lease = u64::from(self.profile.queue.anchor_every_commits.max(1));
        self.generation += 1;
        Anchor {
            generation: self.generation,
            era: Some(self.trail.era()),
            next_index: self.trail.next_index(),
            head: self.trail.head(),
            leased_index: self.trail.next_index() + lease * 256,
            leased_uses: lease * 256,
            boot: Some(self.boot),
            boottime: now.boottime,
            floor: self.clock.floor(),
            powered: self.clock.powered(),
            powered_lease: self.clock.lease(),
            ceiling: self.clock.ceiling(),
            jump_left: self.clock.jump_left(),
            synced: self.clock.synced(),
            boots: self.clock.boots(),
            shift: self.wallet.shift(),
            raised: self.clock.raised(),
            charged: self.clock.charged(),
            lost_until: self.wallet.lost_until(),
            mode: self.mode,
            standing: self.standing,
            earlier: self.trail.marks(),
            bundle: self.marks.bundle,
            policy: self.marks.policy,
            feeds: self.revocations.known_positions(),
            feed_files: self.revocations.files(),
            emergencies: self.revocations.emergencies.marks(),
            audit_key: KeyUse {
                epoch: self.trail.signer().epoch(),
                segments: self.trail.signer().segments(),
                closed: self.trail.closed_segments(),
            },
            budgets: self.wallet.budgets(),
        }
    }

    #[cfg(feature = "mutants")]
    fn plant_wall_clock(&mut self, now: Now) {
        if let Some(wall) = now.wall.filter(|_| crate::mutant::active(crate::mutant::Mutant::WallClockUsed)) {
            self.clock.believe(wall);
        }
    }

    #[cfg(not(feature = "mutants"))]
    fn plant_wall_clock(&mut self, _: Now) {}
}

/// A text of at most `bytes`, cut at a character.
fn shorten(text: &str, bytes: usize) -> String {
    let end = (0..=bytes.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    text[..end].to_owned()
}
