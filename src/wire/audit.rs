//! The audit trail as both sides sign and read it.
//!
//! Owns: [`Record`] and its kinds, and the hash chain over the records that no signature covers yet. The modules below it:
//! [`leaf`], how records travel; [`merkle`], the tree over them; [`segment`], what is signed and sent; [`signer`], by which
//! key; [`proof`], one record of it; [`fork`], two segments of which one should not be.
//! Never: numbers, stores or sends anything. `agent/audit.rs` does on the device, `fleet/collect.rs` checks.
//! Read next: `audit/segment.rs`, then `agent/audit.rs`. `docs/audit-format.md` has every byte.

pub mod fork;
pub mod leaf;
pub mod merkle;
pub mod proof;
pub mod segment;
pub mod signer;

use serde::{Deserialize, Serialize};

use super::bundle::PublicKey;
use super::revocation::Position;
use super::{decode, encode, Refused};
use crate::ids::{
    BlockId, BootId, DeviceId, EraId, FleetId, GrantId, Hash, KeyId, RiskClass, StepId, TaskClass, TaskId,
};
use crate::time::{Millis, Timestamp};

/// The most bytes of one encoded record.
pub const RECORD_BYTES_MAX: usize = 4096;

/// One entry of a device's audit trail.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Record {
    /// Its number in the era, from 0 without a hole.
    pub index: u64,
    /// The floor E: true time was at least this.
    pub floor: Timestamp,
    /// The powered-on clock P: what time it would be had the device never been switched off.
    pub powered: Timestamp,
    /// What happened.
    pub event: Event,
}

/// What a record tells.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// An answer to `authorize`.
    Decision(Box<Decision>),
    /// Records that are gone, counted.
    Gap(Gap),
    /// A fallback grant was put to use in an outage, or taken out of it.
    Grant(GrantUse),
    /// The agent went from one mode to another.
    Mode(ModeChange),
    /// Something that arrived was refused: evidence.
    Refused(Evidence),
    /// The agent started. Always index 0.
    Start(Box<Start>),
    /// A task began, was renewed, was refused or ended.
    Task(Box<TaskEvent>),
    /// A new trust bundle, policy, revocation list or grant is in force.
    Trust(TrustChange),
    /// Denials that are just as one before them, counted.
    Repeated(Repeated),
    /// Nothing happened for long, or nothing will: silence without it is evidence.
    Alive(Alive),
    /// An era is over, and this is where: of one that had grown long, index 0 of the next. A start names one itself.
    Ended(EraEnd),
}

/// One answer to `authorize`, with all that it rests on.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Decision {
    /// Whether it was an allow.
    pub allow: bool,
    /// The reason from the closed list.
    pub reason: String,
    /// The operation asked for.
    pub operation: String,
    /// The resource asked for.
    pub resource: String,
    /// Where the effect goes, if the request said so.
    pub destination: Option<String>,
    /// The class of risk that it was judged by.
    pub risk: Option<RiskClass>,
    /// The digest of what the operation was to be done with, if that was said and could be told: never the arguments, which
    /// may hold secrets.
    pub arguments: Option<Hash>,
    /// What the token says about who is accountable.
    pub credential: Credential,
    /// Selectors of the workload: attested by the kernel, or the holder to whom this agent handed the credential.
    pub workload: Vec<String>,
    /// Selectors of the enforcement point that asked, if it was one.
    pub enforcer: Vec<String>,
    /// What was known.
    pub known: Known,
}

/// Who is accountable for a decision, by the token that was shown.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Credential {
    /// Nobody: there was no token whose signatures fit.
    Nothing,
    /// Whoever the record of this index names, an allow of the same era. Allows are never dropped.
    Same(u64),
    /// In full.
    Named(Box<Named>),
}

/// What the blocks of a token name.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Named {
    /// The accountable owner of block 0.
    pub owner: String,
    /// The grant of block 0.
    pub grant: GrantId,
    /// The wallet's task, or the label of the token.
    pub task: Option<TaskId>,
    /// The delegation chain, block by block.
    pub chain: Vec<BlockId>,
    /// The wallet's step, if it is the credential of one.
    pub step: Option<NamedStep>,
    /// Who initiated the task, if that was shown when it began.
    pub initiator: Option<Initiator>,
}

/// Who initiated a task, by the identity document that its workload brought.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Initiator {
    /// Who said so: the issuer of an OpenID provider, or a SPIFFE trust domain, as the trust bundle names it.
    pub issuer: String,
    /// Who it is: the document's subject.
    pub subject: String,
}

impl std::fmt::Display for Initiator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} by the word of {}", self.subject, self.issuer)
    }
}

/// A step of a task: for whom somebody else planned it, and where that is recorded.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NamedStep {
    /// The step.
    pub id: StepId,
    /// Selectors that the planner's credential is bound to: who initiated.
    pub planner: Vec<String>,
    /// The era of the record of the exchange.
    pub era: EraId,
    /// The index of that record: an allow of [`EXCHANGE`](crate::wire::token::EXCHANGE).
    pub index: u64,
}

/// What the device knew when it decided.
#[derive(Clone, PartialEq, Default, Debug, Serialize, Deserialize)]
pub struct Known {
    /// The mode.
    pub mode: String,
    /// `fresh`, `stale` or `unknown`.
    pub freshness: String,
    /// P minus the time of the newest complete revocation head, in seconds.
    pub staleness_s: u64,
    /// The time class.
    pub time_class: String,
    /// How far the ceiling L lies above the floor E, none if L is infinite.
    pub width_ms: Option<Millis>,
    /// Trust bundle in force.
    pub bundle_version: u64,
    /// Policy in force.
    pub policy_version: u64,
    /// Position of the revocation feed that the token names, none if it was not looked at.
    pub feed_seq: Option<u64>,
}

/// Records that are gone.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Gap {
    /// The era that they were in.
    pub era: EraId,
    /// The first that is missing.
    pub first: u64,
    /// The first after them, if that is known: positions leased but perhaps never used count as missing.
    pub end: Option<u64>,
    /// Why.
    pub cause: GapCause,
    /// What [`Repeated`] records that were given up had counted: so many denials are gone beside those that had a record.
    /// What a damaged disk held of such counts nobody knows, and it is 0.
    pub repeated: u64,
}

/// Why records are gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GapCause {
    /// The store that held them was damaged.
    Damaged,
    /// Both slots of the anchor were unusable: what went before is not known here.
    AnchorLost,
    /// They were given up for want of room: denials and notices only. Their segments' headers stay.
    Quota,
}

/// A step in a grant's life on the device.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct GrantUse {
    /// The grant.
    pub grant: GrantId,
    /// What happened.
    pub step: GrantStep,
    /// Uses charged to it: before the outage, in it, or ever, as the step says.
    pub used: u64,
    /// Powered-on time since the last acknowledged round trip.
    pub offline: Millis,
}

/// What happened to a grant.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GrantStep {
    /// Narrowed for the first time in this outage. `used` is what was charged before.
    Activated,
    /// The outage is over. `used` is what was charged in it.
    Reconciled,
    /// Wiped by a signed order. `used` is all that was ever charged.
    Wiped,
}

/// From one mode to another.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ModeChange {
    /// The mode that was.
    pub from: String,
    /// The mode that is.
    pub to: String,
    /// Why.
    pub reason: String,
}

/// Something that was refused.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Evidence {
    /// Where it came from: a topic or a file, shortened.
    pub source: String,
    /// Why it was refused.
    pub reason: String,
    /// SHA-256 of its bytes.
    pub digest: Hash,
    /// How many like it came since the last such record, this one counted in.
    pub count: u64,
}

/// Denials that have no record of their own, because they were the same as one that has, and came too often.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Repeated {
    /// The record that they are as, but for their times, staleness and width: a denial of the same era, before this. Its
    /// name was given as theirs.
    pub of: u64,
    /// How many, beside that record, since the last such count of it.
    pub count: u64,
    /// The floor E at the first of them.
    pub since: Timestamp,
    /// The floor E at the last.
    pub until: Timestamp,
}

/// A sign of life.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Alive {
    /// Another record follows within so much powered-on time, whatever happens. None: the program ends in order, this is
    /// the era's last record, and whatever was to be counted is.
    pub next: Option<Millis>,
}

/// An era began.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Start {
    /// The kernel's boot.
    pub boot: BootId,
    /// Kernel boots since the last acknowledged round trip.
    pub boots: u32,
    /// The era before, its next index and its chain's head: none on the first start, or when the anchor was lost.
    pub previous: Option<EraEnd>,
    /// The program's version.
    pub version: String,
    /// The longest powered-on time from one record to the next, from here on.
    pub heartbeat: Millis,
}

/// Where an era ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EraEnd {
    /// The era.
    pub era: EraId,
    /// The number that its next record would have had.
    pub next_index: u64,
    /// Its chain's head.
    pub head: Hash,
}

/// A step in a task's life.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct TaskEvent {
    /// The task, none if it was refused before it had a name.
    pub task: Option<TaskId>,
    /// Its class.
    pub class: TaskClass,
    /// What happened.
    pub step: TaskStep,
    /// The accountable owner.
    pub owner: Option<String>,
    /// The grant behind it.
    pub grant: Option<GrantId>,
    /// Selectors of the workload.
    pub workload: Vec<String>,
    /// Why: the refusal, or what the workload said.
    pub reason: String,
    /// The delegation chain of the credential that was handed out.
    pub chain: Vec<BlockId>,
    /// The step that it is about, if it is about one.
    pub of_step: Option<NamedStep>,
    /// Who initiated it, if that was shown when it began.
    pub initiator: Option<Initiator>,
}

/// What happened to a task.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskStep {
    /// It began with a credential narrowed from the fallback grant.
    BegunFallback,
    /// It began with a credential that the issuer minted.
    BegunIssued,
    /// Its time is over.
    Ended,
    /// The workload finished it.
    Finished,
    /// It was refused.
    Refused,
    /// Its credential was replaced by a younger one.
    Renewed,
    /// A step was taken of it: a credential for another workload, which `workload` names.
    Stepped,
    /// A credential of it, or of a step of it, was narrowed further.
    Attenuated,
}

/// Something that the device trusts changed.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrustChange {
    /// A trust bundle.
    Bundle {
        /// Its version.
        version: u64,
        /// Its digest.
        digest: Hash,
    },
    /// A complete set of revocations.
    Feed {
        /// Its position.
        position: Position,
    },
    /// Revocations that hold from here on, of a head whose set may not be complete yet.
    Revoked {
        /// The newest head that is known.
        newest: Position,
    },
    /// A grant was taken into the wallet, or withdrawn.
    Grant {
        /// The grant.
        grant: GrantId,
        /// When it expires; none if it was withdrawn.
        expires: Option<Timestamp>,
    },
    /// A policy.
    Policy {
        /// Its version.
        version: u64,
        /// Its digest.
        digest: Hash,
    },
    /// The root keys set the clock. E may have gone back.
    Reset {
        /// E before and after.
        floor: (Timestamp, Timestamp),
        /// P before and after.
        powered: (Timestamp, Timestamp),
    },
    /// Somebody brought signed time.
    Told {
        /// E before.
        before: Timestamp,
        /// E after.
        after: Timestamp,
    },
    /// The powered-on clock was corrected down to the proven ceiling.
    Time {
        /// P before.
        before: Timestamp,
        /// P after.
        after: Timestamp,
    },
    /// The audit key that signs from the next segment on.
    AuditKey {
        /// Its epoch.
        epoch: u64,
        /// The key.
        key: PublicKey,
    },
    /// What an operator revoked with a key of his own holds from here on.
    Emergency {
        /// The key.
        key: KeyId,
        /// The counter of the statement.
        counter: u64,
        /// Its digest.
        digest: Hash,
    },
}

impl Record {
    /// The record's bytes, which the chain is over.
    pub fn to_bytes(&self) -> Vec<u8> {
        encode(self)
    }

    /// A record from its bytes.
    ///
    /// # Errors
    /// [`Refused::TooLarge`] or [`Refused::Malformed`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Refused> {
        decode(bytes, RECORD_BYTES_MAX)
    }

    /// Its decision, if it is one.
    pub fn decision(&self) -> Option<&Decision> {
        match &self.event {
            Event::Decision(decision) => Some(decision),
            Event::Gap(_)
            | Event::Grant(_)
            | Event::Mode(_)
            | Event::Refused(_)
            | Event::Start(_)
            | Event::Task(_)
            | Event::Trust(_)
            | Event::Repeated(_)
            | Event::Alive(_)
            | Event::Ended(_) => None,
        }
    }

    /// The audit key that it announces.
    pub fn announces(&self) -> Option<PublicKey> {
        match &self.event {
            Event::Trust(TrustChange::AuditKey { key, .. }) => Some(*key),
            Event::Trust(_)
            | Event::Decision(_)
            | Event::Gap(_)
            | Event::Grant(_)
            | Event::Mode(_)
            | Event::Refused(_)
            | Event::Start(_)
            | Event::Task(_)
            | Event::Repeated(_)
            | Event::Alive(_)
            | Event::Ended(_) => None,
        }
    }

    /// Whom it names in full.
    pub fn names(&self) -> Option<&Named> {
        match &self.decision()?.credential {
            Credential::Named(named) => Some(named),
            Credential::Nothing | Credential::Same(_) => None,
        }
    }

    /// The index of the record that names its credential in full, if that is another.
    pub fn named_by(&self) -> Option<u64> {
        match self.decision()?.credential {
            Credential::Same(index) => Some(index),
            Credential::Nothing | Credential::Named(_) => None,
        }
    }
}

/// Where an era's chain of segments begins.
pub fn genesis(fleet: &FleetId, device: &DeviceId, era: EraId) -> Hash {
    let (number, salt) = (era.number.to_le_bytes(), era.salt.to_le_bytes());
    Hash::of("hardtack/era/v1", &[fleet.as_str().as_bytes(), device.as_str().as_bytes(), &number, &salt])
}

/// The head of the chain over records that no segment covers yet, after one more of them.
pub fn extend(head: Hash, record: &[u8]) -> Hash {
    Hash::of("hardtack/chain/v1", &[&head.0, record])
}

/// The text that names a record everywhere: device/era/index.
pub fn record_id(device: &DeviceId, era: EraId, index: u64) -> String {
    format!("{device}/{era}/{index}")
}
