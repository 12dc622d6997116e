//! The rows of the ledger.
//!
//! Owns: [`Write`] and what its variants hold, the name under which a row is stored.
//! Never: changes a book: `../book.rs` does, the same way when a row is made and when it is read back.
//! Read next: the module whose rows interest you.

use serde::{Deserialize, Serialize};

use super::super::acts::Act;
use super::super::emergency::Kept;
use super::super::keys::ISSUED_EARLIER;
use super::super::restore::Missed;
use super::feed::{feed_named, step_of};
use crate::ids::{BlockId, BootId, DeviceId, EraId, FeedId, GrantId, Hash, KeyId, Nonce, TaskId};
use crate::time::{Millis, Timestamp};
use crate::wire::audit::signer::Signer;
use crate::wire::audit::Record;
use crate::wire::bundle::{PublicKey, TrustBundle};
use crate::wire::enrol::{DevicePublic, EnrolRequest};
use crate::wire::envelope::Signed;
use crate::wire::link::EraAck;
use crate::wire::policy::PolicyDocument;
use crate::wire::revocation::announcement::{Announcement, Head};
use crate::wire::revocation::slot::Slot;
use crate::wire::revocation::{Position, Target};
use crate::wire::token::{Bearer, GrantSpec, TaskSpec};

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
    /// A head of a feed.
    Head(Signed<Head>),
    /// A task token that was minted. Only the ledger keeps it.
    Issued(Issued),
    /// What is revoked at a feed's newest head: a set in its canonical bytes.
    Set(FeedId, Vec<u8>),
    /// The set that the broker keeps whole, with its head: the newest one, or one from which the ladder leads on.
    Snapshot(Signed<Head>, Vec<u8>),
    /// A step of the ladder, as the broker keeps it.
    Step(Announcement),
    /// A device that asks to join and waits for an operator.
    Pending(Pending),
    /// The policy with its version.
    Policy(u64, Signed<PolicyDocument>),
    /// The next head of a feed's era is numbered past this.
    Resumed(FeedId, u32, u64),
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
    /// What a copy that was put back lacks.
    Missed(Box<Missed>),
    /// A verified segment of another branch of an era than the one that arrived first. Only the ledger keeps it.
    Aside(Box<Segment>),
    /// How far the other branches of an era are held.
    Branches(Branches),
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
                let (feed, seq) = signed.claim().map_or((String::new(), 0), |head| (head.feed.to_string(), head.seq));
                Some(format!("head/{feed}/{:04}", seq % HEADS_KEPT))
            }
            Self::Aside(_) | Self::Issued(_) | Self::Segment(_) => None,
            Self::Branches(forked) => {
                Some(format!("branches/{}/{:020}/{:016x}", forked.device, forked.era.number, forked.era.salt))
            }
            Self::Missed(_) => Some("missed".into()),
            Self::Pending(pending) => Some(format!("pending/{}", pending.device)),
            Self::Policy(version, _) => Some(format!("policy/{version:020}")),
            Self::Presence(presence) => Some(format!("presence/{}", presence.device)),
            Self::Publisher(_) => Some("publisher".into()),
            Self::Restored(restored) => Some(format!("restored/{}", restored.feed)),
            Self::Resumed(feed, ..) => Some(format!("resumed/{feed}")),
            Self::Rule(rule) => {
                Some(format!("rule/{}", crate::ids::Hash::of("rule", &[&crate::wire::encode(&rule.target)])))
            }
            Self::Salvaged(salvaged) => {
                let (era, (segment, _)) = (salvaged.era, salvaged.segments);
                Some(format!("salvaged/{}/{:020}/{:016x}/{segment:020}", salvaged.device, era.number, era.salt))
            }
            Self::Seen(seen) => Some(format!("seen/{}", seen.device)),
            Self::Serials(serials) => Some(format!("serials/{:04}", serials.slot.number() % SLOTS_KEPT)),
            Self::Set(feed, _) => Some(format!("set/{feed}")),
            Self::Snapshot(signed, _) => Some(format!("snapshot/{}", feed_named(signed))),
            Self::Step(announcement) => {
                let (_, step) = step_of(announcement);
                let feed = feed_named(&announcement.head);
                Some(format!("step/{feed}/{}/{:02}", step.level, step.place()))
            }
        }
    }

    /// Whether there is a number left for the row after this one. They rise one by one from 1, so that the last was never
    /// written by this program.
    pub fn has_successor(&self) -> bool {
        let number = match self {
            Self::Act(number, _) | Self::Resumed(_, _, number) => *number,
            Self::Head(signed) => signed.claim().map_or(0, |head| head.seq),
            Self::Policy(_, signed) => signed.claim().map_or(0, |document| document.version),
            Self::Publisher(publisher) => publisher.turn,
            Self::Restored(restored) => restored.least.1,
            Self::Aside(_)
            | Self::Branches(_)
            | Self::Bundle(..)
            | Self::Device(_)
            // The last counter is one that a thief has signed, and is kept as such.
            | Self::Emergency(_)
            | Self::Era(_)
            | Self::Fork(_)
            | Self::Grant(_)
            | Self::Issued(_)
            | Self::Missed(_)
            | Self::Pending(_)
            | Self::Presence(_)
            | Self::Rule(_)
            | Self::Salvaged(_)
            | Self::Seen(_)
            | Self::Segment(_)
            | Self::Serials(_)
            | Self::Set(..)
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
    /// For whom it is.
    pub bearer: Bearer,
    /// The grant that it names.
    pub grant: GrantId,
    /// Who answers for it.
    pub owner: String,
    /// For which audience, if for one.
    pub audience: Option<String>,
    /// The root key that signed it.
    pub root_key_id: u32,
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
pub(super) const SLOTS_KEPT: u32 = 4096;

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
    /// The one device whose tokens it can cover, where the ledger knows that of a grant, a task or a block. None: it is
    /// published in every feed that [`Routes`](crate::fleet::route::Routes) says.
    pub device: Option<DeviceId>,
}

/// How far the collector holds an era of a device.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EraChain {
    /// The device.
    pub device: DeviceId,
    /// Who signed it, the last of them who signs the segment after it: at least one, at most [`EraChain::SIGNERS_MAX`].
    pub signers: Vec<Signer>,
    /// The position.
    pub ack: EraAck,
}

impl EraChain {
    /// The most signers that are remembered. One of before is refused where it would prove a fork.
    pub const SIGNERS_MAX: usize = 64;

    /// Who signs the segment after it.
    pub fn signer(&self) -> Option<Signer> {
        self.signers.last().copied()
    }
}

/// The branches of an era beside the one that arrived first. Which of them is the device's own nobody can tell: all are kept.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Branches {
    /// The device.
    pub device: DeviceId,
    /// The era.
    pub era: EraId,
    /// Each of them, at most [`Branches::MAX`].
    pub branches: Vec<Branch>,
}

impl Branches {
    /// The most branches of one era that are kept.
    pub const MAX: usize = 8;

    /// Whether a branch that has begun at this segment, or before it, lacks what was to be before it.
    pub fn is_astray(&self, segment: u64) -> bool {
        self.branches.iter().any(|branch| branch.missing.is_some() && branch.from <= segment)
    }

    /// The segment after which the chain's head is this one is held. Returns whether that is news.
    pub fn joins(&mut self, head: Hash) -> bool {
        let joined = self.branches.iter_mut().filter(|branch| branch.missing == Some(head));
        joined.map(|branch| branch.missing = None).count() > 0
    }
}

/// One of them.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Branch {
    /// Its first segment.
    pub from: u64,
    /// The first record in that.
    pub first_index: u64,
    /// The head before it, where the segment that leads to it never came: its device is asked for the whole era once more.
    pub missing: Option<Hash>,
    /// How many records it has.
    pub records: u64,
    /// Who signs the segment after it.
    pub signer: Signer,
    /// The position.
    pub ack: EraAck,
    /// When it began to arrive.
    pub at: Timestamp,
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
    /// When the hello arrived that said all this.
    pub said: Timestamp,
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
    /// The keys that it began with.
    pub keys: ServedKeys,
}

/// The keys of a process that publishes, by their ids. It goes on with these until it ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ServedKeys {
    /// Signs heads.
    pub feed: KeyId,
    /// Mints tokens.
    pub issuer: KeyId,
    /// Signs acknowledgements and answers.
    pub service: KeyId,
}

/// The ledger is a copy that was put back: what it would sign of a feed may have been signed already.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Restored {
    /// The feed.
    pub feed: FeedId,
    /// When.
    pub at: Timestamp,
    /// The highest era and number that are known to have been signed.
    pub least: (u32, u64),
    /// Whether an operator has said after which number the feed goes on.
    pub settled: bool,
    /// Whether it is known that no trust bundle was signed after this ledger's newest.
    pub bundles_known: bool,
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
    /// The exact bytes of its leaves.
    pub leaves: Vec<Vec<u8>>,
    /// When it arrived.
    pub at: Timestamp,
    /// What they say, where somebody has read them a moment ago: whoever stores it need not do so again.
    #[serde(skip)]
    pub read: Option<Vec<Record>>,
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
