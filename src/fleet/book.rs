//! The ledger in memory: what the fleet knows.
//!
//! Owns: [`Book`] and [`Write`]. A write changes the book the same way when it is made and when it is read back from the
//! ledger, so that memory and disk cannot differ.
//! Never: decides; forgets a device's chain, a head or a retired key.
//! Read next: the module whose rows interest you.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::acts::Act;
use super::emergency::{self, Kept, Known};
use super::keys::ISSUED_EARLIER;
use super::{publish, Effects};
use crate::ids::{BlockId, BootId, DeviceId, EraId, FeedId, FleetId, GrantId, Hash, KeyId, Nonce, TaskId};
use crate::mutant::{self, Mutant};
use crate::time::{Millis, Timestamp};
use crate::wire::bundle::{PublicKey, TrustBundle};
use crate::wire::enrol::{DevicePublic, EnrolRequest};
use crate::wire::envelope::Signed;
use crate::wire::link::{grants_digest, EraAck};
use crate::wire::policy::PolicyDocument;
use crate::wire::revocation::announcement::{Announcement, Head};
use crate::wire::revocation::ladder::Step;
use crate::wire::revocation::manifest::Manifest;
use crate::wire::revocation::serials::ISSUED_MAX;
use crate::wire::revocation::set::RevocationSet;
use crate::wire::revocation::slot::Slot;
use crate::wire::revocation::{Position, Target};
use crate::wire::token::{GrantSpec, TaskSpec};
use crate::wire::Refused;

/// Heads whose digests are kept, so that a fork of the feed shows. At one head a minute: 17 hours.
pub const HEADS_KEPT: u64 = 1024;

/// A row of the ledger. Variants are stored by their place: add new ones at the end.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Write {
    /// An operator's act with its number.
    Act(u64, Signed<Act>),
    /// A trust bundle with its version.
    Bundle(u64, Signed<TrustBundle>),
    /// A device.
    Device(Box<Device>),
    /// How far the collector holds an era.
    Era(EraChain),
    /// Proof that a device's chain forked.
    Fork(Fork),
    /// A fallback grant.
    Grant(Box<Grant>),
    /// A head of the feed.
    Head(Signed<Head>),
    /// A task token that was minted. Only the ledger keeps it.
    Issued(Issued),
    /// What is revoked at the newest head: a set in its canonical bytes.
    Set(Vec<u8>),
    /// The set that the broker keeps whole, with its head: the newest one, or one from which the ladder leads on.
    Snapshot(Signed<Head>, Vec<u8>),
    /// A step of the ladder, as the broker keeps it.
    Step(Announcement),
    /// A device that asks to join and waits for an operator.
    Pending(Pending),
    /// The policy with its version.
    Policy(u64, Signed<PolicyDocument>),
    /// The next head of an era is numbered past this.
    Resumed(u32, u64),
    /// A revocation.
    Rule(Rule),
    /// What a device said of itself last.
    Seen(Box<Seen>),
    /// Serials that were given out.
    Serials(Serials),
    /// A verified segment of audit. Only the ledger keeps it.
    Segment(Box<Segment>),
    /// Segments of which a device's disk had not all left.
    Salvaged(Salvaged),
    /// The newest word about whether a device is connected.
    Presence(Presence),
    /// Who publishes.
    Publisher(Publisher),
    /// The ledger is a copy that was put back.
    Restored(Restored),
    /// A statement of an emergency key.
    Emergency(Box<Kept>),
}

impl Write {
    /// The row's name: a later row of the same name takes its place. None for what is kept in tables of its own.
    pub fn row(&self) -> Option<String> {
        match self {
            Self::Act(number, _) => Some(format!("act/{number:020}")),
            Self::Bundle(version, _) => Some(format!("bundle/{version:020}")),
            Self::Device(device) => Some(format!("device/{}", device.id)),
            Self::Emergency(kept) => Some(kept.row()),
            Self::Era(chain) => {
                Some(format!("era/{}/{:020}/{:016x}", chain.device, chain.ack.era.number, chain.ack.era.salt))
            }
            Self::Fork(fork) => {
                let (era, segment) = (fork.era, fork.segment);
                Some(format!("fork/{}/{:020}/{:016x}/{segment:020}", fork.device, era.number, era.salt))
            }
            Self::Grant(grant) => Some(format!("grant/{}", grant.spec.grant)),
            Self::Head(signed) => {
                // An unreadable head is never written; were it, it would take the place of one that is a ring away.
                let seq = signed.claim().map_or(0, |head| head.seq);
                Some(format!("head/{:04}", seq % HEADS_KEPT))
            }
            Self::Issued(_) | Self::Segment(_) => None,
            Self::Pending(pending) => Some(format!("pending/{}", pending.device)),
            Self::Policy(version, _) => Some(format!("policy/{version:020}")),
            Self::Presence(presence) => Some(format!("presence/{}", presence.device)),
            Self::Publisher(_) => Some("publisher".into()),
            Self::Restored(_) => Some("restored".into()),
            Self::Resumed(..) => Some("resumed".into()),
            Self::Rule(rule) => {
                Some(format!("rule/{}", crate::ids::Hash::of("rule", &[&crate::wire::encode(&rule.target)])))
            }
            Self::Salvaged(salvaged) => {
                let (era, (segment, _)) = (salvaged.era, salvaged.segments);
                Some(format!("salvaged/{}/{:020}/{:016x}/{segment:020}", salvaged.device, era.number, era.salt))
            }
            Self::Seen(seen) => Some(format!("seen/{}", seen.device)),
            Self::Serials(serials) => Some(format!("serials/{:04}", serials.slot.number() % SLOTS_KEPT)),
            Self::Set(_) => Some("set".into()),
            Self::Snapshot(..) => Some("snapshot".into()),
            Self::Step(announcement) => {
                let (_, step) = step_of(announcement);
                Some(format!("step/{}/{:02}", step.level, step.place()))
            }
        }
    }

    /// Whether there is a number left for the row after this one. They rise one by one from 1, so that the last was never
    /// written by this program.
    pub fn has_successor(&self) -> bool {
        let number = match self {
            Self::Act(number, _) | Self::Resumed(_, number) => *number,
            Self::Head(signed) => signed.claim().map_or(0, |head| head.seq),
            Self::Policy(_, signed) => signed.claim().map_or(0, |document| document.version),
            Self::Publisher(publisher) => publisher.turn,
            Self::Restored(restored) => restored.least.1,
            Self::Bundle(..)
            | Self::Device(_)
            // The last counter is one that a thief has signed, and is kept as such.
            | Self::Emergency(_)
            | Self::Era(_)
            | Self::Fork(_)
            | Self::Grant(_)
            | Self::Issued(_)
            | Self::Pending(_)
            | Self::Presence(_)
            | Self::Rule(_)
            | Self::Salvaged(_)
            | Self::Seen(_)
            | Self::Segment(_)
            | Self::Serials(_)
            | Self::Set(_)
            | Self::Snapshot(..) => 0,
            Self::Step(announcement) => step_of(announcement).1.end,
        };
        number < u64::MAX
    }
}

/// Whether a device may have credentials.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It may.
    Approved,
    /// It may not; its audit is still taken.
    Retired,
}

/// A device of the fleet.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Device {
    /// Its id.
    pub id: DeviceId,
    /// Its keys.
    pub keys: DevicePublic,
    /// Keys that it had before. They never come back; eras that they began may still be delivered.
    pub past: Vec<DevicePublic>,
    /// Whether it may have credentials.
    pub status: Status,
    /// The nonce of the approved request.
    pub nonce: Nonce,
    /// The digest of the approved request: approving it again changes nothing.
    pub request: Hash,
    /// The firmware profile that it named.
    pub profile: String,
    /// When it was approved.
    pub approved_at: Timestamp,
    /// Whether it has said hello: only then the join counts as used.
    pub joined: bool,
}

/// A device that asks to join over the broker.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Pending {
    /// The id that it asks for.
    pub device: DeviceId,
    /// Its request.
    pub request: Signed<EnrolRequest>,
    /// When it came.
    pub at: Timestamp,
    /// Whether an operator has dealt with it.
    pub settled: bool,
}

/// A fallback grant.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Grant {
    /// What it says.
    pub spec: GrantSpec,
    /// The root key that signed it.
    pub root_key_id: u32,
    /// The Biscuit with its next secret key.
    pub token: Vec<u8>,
    /// Its only block.
    pub block: BlockId,
    /// When it was withdrawn, if it was.
    pub withdrawn: Option<Timestamp>,
    /// Whether its device gets successors.
    pub renewal: Renewal,
}

/// Whether a device gets successors of a grant.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Renewal {
    /// Whenever it asks with half of the grant's life or uses gone.
    Automatic,
    /// No: the grant ends when it ends.
    Never,
}

/// A task token that was minted.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Issued {
    /// The task.
    pub task: TaskId,
    /// The device.
    pub device: DeviceId,
    /// The grant that covers it.
    pub grant: GrantId,
    /// Its only block.
    pub block: BlockId,
    /// When it was minted.
    pub at: Timestamp,
    /// When it ends.
    pub expires: Timestamp,
    /// Its number among those of its slot, if it has one.
    pub serial: Option<u32>,
}

impl Issued {
    /// What its token says of its life.
    pub fn life(&self) -> Life {
        Life { issued: self.at - ISSUED_EARLIER, expires: self.expires, serial: self.serial }
    }
}

/// How many serials the issuer has given out in a slot, from 0 without a hole.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Serials {
    /// The slot.
    pub slot: Slot,
    /// How many.
    pub issued: u32,
}

/// No task token lives longer.
pub const TASK_LIFE_MAX: Millis = Millis::from_secs(30 * 86_400);

/// Slots whose serials are remembered: a token that was minted is over long before its slot's row is another's.
const SLOTS_KEPT: u32 = 4096;

/// What block 0 of a token says of its life: a revocation of one of its blocks is filed by that.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Life {
    /// When it was issued.
    pub issued: Timestamp,
    /// When it expires.
    pub expires: Timestamp,
    /// Its serial, if its first block is meant and has one.
    pub serial: Option<u32>,
}

impl Life {
    /// The slot in which it expires.
    pub fn slot(&self) -> Slot {
        TaskSpec::slot(self.issued, self.expires)
    }
}

/// A revocation with what operators want to know about it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Rule {
    /// What it covers.
    pub target: Target,
    /// When it lapses.
    pub until: Timestamp,
    /// Why.
    pub reason: String,
    /// Since when.
    pub at: Timestamp,
    /// For a block of a token that was at hand, or that was minted here.
    pub life: Option<Life>,
}

/// How far the collector holds an era of a device.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EraChain {
    /// The device.
    pub device: DeviceId,
    /// The audit key that began the era, and alone may go on with it.
    pub key: PublicKey,
    /// The position.
    pub ack: EraAck,
}

/// Two signed headers for one position, or two eras of one number: proof of a clone or of a restored disk.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Fork {
    /// The device.
    pub device: DeviceId,
    /// The era.
    pub era: EraId,
    /// The segment.
    pub segment: u64,
    /// The signed header that does not fit what is stored.
    pub header: Vec<u8>,
    /// What does not fit.
    pub what: String,
    /// When it came.
    pub at: Timestamp,
}

/// What a device said of itself last, in its own signed words.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Seen {
    /// The device.
    pub device: DeviceId,
    /// The identity key that signed.
    pub identity: PublicKey,
    /// When its last sign of life arrived here: this, or audit since.
    pub at: Timestamp,
    /// Its kernel boot.
    pub boot: BootId,
    /// Its era.
    pub era: EraId,
    /// Its next record.
    pub next_index: u64,
    /// Its trust bundle.
    pub bundle_version: u64,
    /// Its policy.
    pub policy_version: u64,
    /// The highest feed positions that it ever named, in hellos or audit.
    pub feeds: Vec<Position>,
    /// Digest of its grants.
    pub grants: Hash,
    /// Its floor E.
    pub floor: Timestamp,
    /// Its mode.
    pub mode: String,
    /// Its program's version.
    pub version: String,
}

/// The newest word about whether a device is connected: its own, or the last will that it left with the broker. Both are
/// signed by the device; that the will is told only when the device is gone, the broker has to be believed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Presence {
    /// The device.
    pub device: DeviceId,
    /// The digest of the signed word. The broker keeps it and repeats it: that is no news.
    pub word: Hash,
    /// When it came first.
    pub at: Timestamp,
    /// The mode that it names; `gone` in the last will.
    pub mode: String,
}

/// Who publishes. A publisher that starts takes the next turn, and whoever had one before it signs no more.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Publisher {
    /// The number of the turn.
    pub turn: u64,
    /// Who, for people.
    pub holder: String,
    /// Since when.
    pub at: Timestamp,
}

/// The ledger is a copy that was put back: what it would sign may have been signed already.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Restored {
    /// When.
    pub at: Timestamp,
    /// The highest era and number that are known to have been signed.
    pub least: (u32, u64),
    /// Whether an operator has said after which number the feed goes on.
    pub settled: bool,
}

/// A verified segment of audit.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Segment {
    /// The device.
    pub device: DeviceId,
    /// The era.
    pub era: EraId,
    /// Its number.
    pub segment: u64,
    /// Its first record.
    pub first_index: u64,
    /// The digest of the signed header.
    pub digest: Hash,
    /// The bytes of the signed header.
    pub header: Vec<u8>,
    /// The exact bytes of the records.
    pub records: Vec<Vec<u8>>,
    /// When it arrived.
    pub at: Timestamp,
}

/// Segments that arrived as what a damaged disk had left of them: the same may have been on its way whole.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Salvaged {
    /// The device.
    pub device: DeviceId,
    /// The era.
    pub era: EraId,
    /// The first, and the first after them.
    pub segments: (u64, u64),
}

/// Which step of which era an announcement of this fleet is.
fn step_of(announcement: &Announcement) -> (u32, Step) {
    let (era, end) = announcement.head.claim().map_or((0, 0), |head| (head.era, head.seq));
    (era, Step { level: announcement.level, end })
}

/// A head as it was signed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SignedHead {
    /// The envelope.
    pub signed: Signed<Head>,
    /// The content.
    pub head: Head,
    /// Its position.
    pub position: Position,
}

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
    rules: BTreeMap<Target, Rule>,
    /// Targets of revocations that may not be in the set yet, so that nobody looks through all the others for them.
    waiting: BTreeSet<Target>,
    /// How many revocations lapse at each time.
    ends: BTreeMap<Timestamp, usize>,
    head: Option<SignedHead>,
    heads: BTreeMap<(u32, u64), Hash>,
    set: RevocationSet,
    snapshot: Option<(Signed<Head>, RevocationSet)>,
    steps: BTreeMap<(u8, u64), Announcement>,
    resumed: (u32, u64),
    restored: Option<Restored>,
    publisher: Option<Publisher>,
    eras: BTreeMap<(DeviceId, EraId), EraChain>,
    forks: BTreeMap<(DeviceId, EraId, u64), Fork>,
    /// By the first segment, the first after those that were salvaged.
    salvaged: BTreeMap<(DeviceId, EraId, u64), u64>,
    seen: BTreeMap<DeviceId, Seen>,
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
        Self {
            bundles: vec![bundle.0],
            trusts: vec![bundle.1],
            policy,
            devices: BTreeMap::new(),
            retired_keys: BTreeSet::new(),
            pending: BTreeMap::new(),
            grants: BTreeMap::new(),
            rules: BTreeMap::new(),
            waiting: BTreeSet::new(),
            ends: BTreeMap::new(),
            head: None,
            heads: BTreeMap::new(),
            set: RevocationSet::default(),
            snapshot: None,
            steps: BTreeMap::new(),
            resumed: (0, 0),
            restored: None,
            serials: BTreeMap::new(),
            publisher: None,
            eras: BTreeMap::new(),
            forks: BTreeMap::new(),
            salvaged: BTreeMap::new(),
            seen: BTreeMap::new(),
            presence: BTreeMap::new(),
            emergencies: BTreeMap::new(),
            acts: (0, Hash::ZERO),
        }
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
                | Write::Device(_)
                | Write::Emergency(_)
                | Write::Era(_)
                | Write::Fork(_)
                | Write::Grant(_)
                | Write::Head(_)
                | Write::Issued(_)
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
                | Write::Set(_)
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
        }
        book.policy.0.open(book.fleet(), book.trust().policy_keys(), 1).map_err(unsound("policy"))?;
        rest.into_iter().for_each(|write| book.apply(write));
        // What a lost row had revoked must not be signed away.
        let root = Manifest::of(&book.set).root();
        let signed_away = book.head.as_ref().is_some_and(|newest| newest.head.root != root);
        if signed_away && !mutant::active(Mutant::PositionReused) {
            return Err(BrokenBook::Unsound { what: "revocation set", refused: Refused::DigestMismatch });
        }
        book.wait_no_longer();
        Ok(book)
    }

    /// Changes the book and notes that the ledger must hold it.
    pub(super) fn write(&mut self, write: Write, fx: &mut Effects) {
        self.apply(write.clone());
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
                    }
                }
            }
            Write::Device(device) => {
                let retired = device.past.iter().chain((device.status == Status::Retired).then_some(&device.keys));
                self.retired_keys.extend(retired.map(|keys| *keys.identity.as_bytes()));
                self.devices.insert(device.id.clone(), *device);
            }
            Write::Emergency(kept) => emergency::apply(&mut self.emergencies, *kept),
            Write::Era(chain) => drop(self.eras.insert((chain.device.clone(), chain.ack.era), chain)),
            Write::Fork(fork) => {
                self.forks.entry((fork.device.clone(), fork.era, fork.segment)).or_insert(fork);
            }
            Write::Grant(grant) => drop(self.grants.insert(grant.spec.grant, *grant)),
            Write::Head(signed) => self.apply_head(signed),
            Write::Issued(_) | Write::Segment(_) => {}
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
            Write::Restored(restored) => self.restored = Some(restored),
            Write::Resumed(era, after) => self.resumed = self.resumed.max((era, after)),
            Write::Rule(rule) => self.apply_rule(rule),
            Write::Salvaged(Salvaged { device, era, segments: (first, after) }) => {
                self.salvaged.insert((device, era, first), after);
            }
            Write::Seen(seen) => drop(self.seen.insert(seen.device.clone(), *seen)),
            Write::Serials(serials) => drop(self.serials.insert(serials.slot.number() % SLOTS_KEPT, serials)),
            Write::Set(bytes) => {
                // Bytes that make no set are never written; were they, the next head would be signed over nothing.
                if let Ok(set) = RevocationSet::from_bytes(&bytes, usize::MAX) {
                    self.set = set;
                    self.wait_no_longer();
                }
            }
            Write::Snapshot(signed, bytes) => {
                let set = RevocationSet::from_bytes(&bytes, usize::MAX);
                self.snapshot = set.ok().map(|set| (signed, set));
            }
            Write::Step(announcement) => {
                let (era, step) = step_of(&announcement);
                let place = (step.level, step.place());
                let order = |(era, step): (u32, Step)| (era, step.end);
                if self.steps.get(&place).is_none_or(|known| order(step_of(known)) <= (era, step.end)) {
                    self.steps.insert(place, announcement);
                }
            }
        }
    }

    fn apply_rule(&mut self, rule: Rule) {
        self.waiting.insert(rule.target.clone());
        *self.ends.entry(rule.until).or_default() += 1;
        if let Some(before) = self.rules.insert(rule.target.clone(), rule) {
            if let Some(count) = self.ends.get_mut(&before.until) {
                *count -= 1;
                if *count == 0 {
                    self.ends.remove(&before.until);
                }
            }
        }
    }

    /// What the set holds waits no longer. Rows may come in any order: this is asked again when all of them are in.
    fn wait_no_longer(&mut self) {
        let mut waiting = std::mem::take(&mut self.waiting);
        if mutant::active(Mutant::PendingDropped) {
            return;
        }
        let waits = |target: &Target| self.rules.get(target).is_some_and(|rule| !publish::is_settled(self, rule));
        waiting.retain(waits);
        self.waiting = waiting;
    }

    fn apply_head(&mut self, signed: Signed<Head>) {
        let Ok(head) = signed.claim() else { return };
        let position = head.position(signed.digest());
        self.heads.insert(position.order(), position.digest);
        while self.heads.len() as u64 > HEADS_KEPT {
            self.heads.pop_first();
        }
        let newer = self.head.as_ref().is_none_or(|newest| newest.position.order() < position.order());
        if newer || mutant::active(Mutant::PositionReused) {
            self.head = Some(SignedHead { signed, head, position });
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

    /// The one feed of this fleet.
    pub fn feed(&self) -> FeedId {
        let first = self.trust().feeds.first();
        first.map(|feed| feed.id.clone()).expect("a bundle without a feed is refused when it is opened")
    }

    /// Its era: that of every head that is still to be signed.
    pub fn era_of_feed(&self) -> u32 {
        self.trust().feeds.first().map_or(0, |feed| feed.era)
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
        let own = move |grant: &&Grant| grant.spec.device == *device;
        self.grants.values().filter(move |_| approved).filter(own).filter(move |grant| self.is_live(grant, now))
    }

    /// Whether a device should hold a grant. One that a device wipes when it hears of the revocation is not sent again.
    fn is_live(&self, grant: &Grant, now: Timestamp) -> bool {
        grant.withdrawn.is_none() && grant.spec.expires > now && !self.is_ordered_gone(grant, now)
    }

    fn is_ordered_gone(&self, grant: &Grant, at: Timestamp) -> bool {
        [Target::All, Target::Device(grant.spec.device.clone()), Target::Grant(grant.spec.grant)]
            .iter()
            .any(|target| self.live_rule(target, at).is_some())
    }

    /// The grants that a device should hold now or when a revocation has lapsed: it needs room for all of them.
    pub fn outstanding_grants<'a>(&'a self, device: &'a DeviceId, now: Timestamp) -> impl Iterator<Item = &'a Grant> {
        let own = self.grants.values().filter(move |grant| grant.spec.device == *device);
        let unended = own.filter(move |grant| grant.withdrawn.is_none() && grant.spec.expires > now);
        unended.filter(|grant| !self.is_ordered_gone(grant, grant.spec.expires))
    }

    /// The digest over the grants that a device should hold now.
    pub fn live_grants_digest(&self, device: &DeviceId, now: Timestamp) -> Hash {
        grants_digest(self.live_grants(device, now).map(|grant| grant.spec.grant))
    }

    /// The digest over the grants of each device that should hold any now.
    pub fn live_grants_digests(&self, now: Timestamp) -> BTreeMap<&DeviceId, Hash> {
        let mut ids: BTreeMap<&DeviceId, Vec<GrantId>> = BTreeMap::new();
        for grant in self.grants.values().filter(|grant| self.is_live(grant, now)) {
            ids.entry(&grant.spec.device).or_default().push(grant.spec.grant);
        }
        let approved = self.devices.values().filter(|device| device.status == Status::Approved);
        approved.filter_map(|device| Some((&device.id, grants_digest(ids.remove(&device.id)?)))).collect()
    }

    /// All revocations, lapsed ones too.
    pub fn rules(&self) -> impl Iterator<Item = &Rule> {
        self.rules.values()
    }

    /// When the last revocation lapsed before a time.
    pub fn lapsed_before(&self, at: Timestamp) -> Option<Timestamp> {
        self.ends.range(..at).next_back().map(|(until, _)| *until)
    }

    /// Revocations that the set may not hold yet.
    pub fn waiting(&self) -> impl Iterator<Item = &Rule> {
        self.waiting.iter().filter_map(|target| self.rules.get(target))
    }

    /// The revocation of a target, lapsed or not.
    pub fn rule(&self, target: &Target) -> Option<&Rule> {
        self.rules.get(target)
    }

    /// The revocation of a target, if it has not lapsed.
    pub fn live_rule(&self, target: &Target, now: Timestamp) -> Option<&Rule> {
        self.rules.get(target).filter(|rule| rule.until >= now)
    }

    /// The newest head.
    pub fn head(&self) -> Option<&SignedHead> {
        self.head.as_ref()
    }

    /// The digest of a head that this fleet signed, while it is remembered.
    pub fn head_digest(&self, order: (u32, u64)) -> Option<&Hash> {
        self.heads.get(&order)
    }

    /// What is revoked at the newest head.
    pub fn set(&self) -> &RevocationSet {
        &self.set
    }

    /// How many serials were given out in a slot.
    pub fn serials(&self, slot: Slot) -> u32 {
        let known = self.serials.get(&(slot.number() % SLOTS_KEPT)).filter(|known| known.slot == slot);
        known.map_or(0, |known| known.issued)
    }

    /// The serial of the next token that expires in a slot. None where a set could hold no more, or others may have it.
    pub(super) fn next_serial(&self, slot: Slot) -> Option<u32> {
        // A ledger that was put back may have given out more than it knows, in any slot that it had tokens in then.
        let unknown = self.restored.is_some_and(|restored| slot.begins() <= restored.at + TASK_LIFE_MAX);
        Some(self.serials(slot)).filter(|issued| !unknown && *issued < ISSUED_MAX)
    }

    /// The set that the broker is to keep whole, with its head.
    pub fn snapshot(&self) -> Option<&(Signed<Head>, RevocationSet)> {
        self.snapshot.as_ref()
    }

    /// The steps of an era's ladder that the broker is to keep.
    pub fn steps(&self, era: u32) -> impl Iterator<Item = (Step, &Announcement)> {
        let steps = self.steps.values().map(|announcement| (step_of(announcement), announcement));
        steps.filter(move |((of, _), _)| *of == era).map(|((_, step), announcement)| (step, announcement))
    }

    /// A step of an era, if it is kept.
    pub fn step(&self, era: u32, step: Step) -> Option<&Announcement> {
        self.steps.get(&(step.level, step.place())).filter(|announcement| step_of(announcement) == (era, step))
    }

    /// An operator vouched that the feed goes on after this number of this era.
    pub fn resumed(&self) -> (u32, u64) {
        self.resumed
    }

    /// The ledger is a copy that was put back, and nobody has said yet after which number the feed goes on.
    pub fn restored(&self) -> Option<&Restored> {
        self.restored.as_ref().filter(|restored| !restored.settled)
    }

    /// When this ledger was last put back from a copy.
    pub fn restored_at(&self) -> Option<Timestamp> {
        self.restored.as_ref().map(|restored| restored.at)
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

    /// What a device said last.
    pub fn seen(&self, device: &DeviceId) -> Option<&Seen> {
        self.seen.get(device)
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
