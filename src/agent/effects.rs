//! What the agent wants done: first written, then sent.
//!
//! Owns: [`Effects`], whose replies can only be had by writing its [`Batch`] (I1 in a type) and by saying what time it is
//! by then (I3), the order of what is written, and the [`Anchor`].
//! Never: writes or sends.
//! Read next: `mod.rs`, which fills it.

use serde::{Deserialize, Serialize};

use super::emergency::EmergencyMark;
use super::holder::TieCommand;
use super::request::trail::{TrailAsk, TrailReply};
use super::request::{Mode, Problem, ProblemCode, Reply, RequestId, Verdict};
use super::salvage::Hole;
use crate::ids::{BlockId, BootId, EraId, FeedId, GrantId, Hash, KeyId, TaskId};
use crate::time::{Millis, Timestamp};
use crate::wire::link::Topic;
use crate::wire::revocation::Position;

/// What one or more inputs asked for.
#[derive(Debug, Default)]
pub struct Effects {
    pub(super) batch: Batch,
    pub(super) outgoing: Outgoing,
}

impl Effects {
    /// Writes, then gives out what may be sent. There is no other way to the replies: none leaves before its record is
    /// durable.
    ///
    /// # Errors
    /// Those of `write`. Nothing may be sent then, and the agent that filled these effects is ahead of its disk: it must
    /// be dropped and started again from what the disk holds.
    pub fn commit<E>(self, write: impl FnOnce(Batch) -> Result<(), E>) -> Result<Outgoing, E> {
        if !self.batch.is_empty() {
            write(self.batch)?;
        }
        Ok(self.outgoing)
    }

    /// Whether nothing is to be written or sent.
    pub fn is_empty(&self) -> bool {
        self.batch.is_empty() && self.outgoing.is_empty()
    }
}

/// What must be durable, in this order: files, the new era, entries with one data sync, the anchor, then what is no
/// longer needed goes: state files, eras, then what is shed.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Batch {
    /// Files to replace: temporary, sync, rename, directory sync.
    pub files: Vec<FileWrite>,
    /// A new era to create and write to from now on.
    pub begin_era: Option<EraId>,
    /// Entries for the store, in order.
    pub entries: Vec<Entry>,
    /// The anchor to write to the slot that is not the newest.
    pub anchor: Option<Box<Anchor>>,
    /// Files to remove.
    pub remove: Vec<StateFile>,
    /// Eras whose every record is acknowledged: their space is given back.
    pub drop_eras: Vec<EraId>,
    /// Segments that lose their records, and keep their headers. What of them lies in the era that is being written goes
    /// when it lies in another. They may be back after a power cut: then they are there.
    pub shed: Vec<Shed>,
}

/// Closed segments in a row that give up their records for want of room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Shed {
    /// Their era.
    pub era: EraId,
    /// The first one's number, and the first after the last.
    pub segments: (u64, u64),
    /// Their first record's index, and the first after the last.
    pub records: (u64, u64),
}

impl Shed {
    /// Whether a segment of the era is among them.
    pub fn holds_segment(&self, segment: u64) -> bool {
        (self.segments.0..self.segments.1).contains(&segment)
    }

    /// Whether a record of the era is among theirs.
    pub fn holds_record(&self, index: u64) -> bool {
        (self.records.0..self.records.1).contains(&index)
    }
}

impl Batch {
    /// A file is replaced.
    pub fn put(&mut self, write: FileWrite) {
        self.remove.retain(|gone| *gone != write.file);
        self.files.push(write);
    }

    /// A file goes.
    pub fn take_away(&mut self, file: StateFile) {
        self.files.retain(|write| write.file != file);
        self.remove.push(file);
    }

    /// Whether nothing is to be written.
    pub fn is_empty(&self) -> bool {
        let Self { files, begin_era, entries, anchor, remove, drop_eras, shed } = self;
        let nothing_new = files.is_empty() && begin_era.is_none() && entries.is_empty() && anchor.is_none();
        nothing_new && remove.is_empty() && drop_eras.is_empty() && shed.is_empty()
    }
}

/// A file of the state folder, replaced as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileWrite {
    /// Which.
    pub file: StateFile,
    /// The whole content.
    pub content: Vec<u8>,
}

/// Which file of the state folder.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum StateFile {
    /// `audit.key`: the key that signs the audit, [`super::audit_key::AuditSigner`].
    AuditKey,
    /// `bundle`: the newest `Signed<TrustBundle>`.
    Bundle,
    /// `emergency/<key>`: what an emergency key has revoked, see [`super::emergency`].
    Emergency(KeyId),
    /// `feed/<feed>`: what is revoked and how far that is complete, [`super::feed::StoredFeed`].
    Feed(FeedId),
    /// `feed/<feed>+`: what came since that was written. [`super::feed::Held`] is both together.
    FeedSince(FeedId),
    /// `wallet/grant-<id>`: a fallback grant, [`super::wallet::StoredGrant`].
    Grant(GrantId),
    /// `policy`: the policy in force, a `Signed<PolicyDocument>` behind a digest.
    Policy,
    /// `wallet/task-<id>`: a live or lately ended task, [`super::wallet::StoredTask`].
    Task(TaskId),
}

impl StateFile {
    /// The path below the state folder.
    pub fn path(&self) -> String {
        match self {
            Self::AuditKey => "audit.key".into(),
            Self::Bundle => "bundle".into(),
            Self::Emergency(key) => format!("emergency/{key}"),
            Self::Feed(feed) => format!("feed/{feed}"),
            Self::FeedSince(feed) => format!("feed/{feed}+"),
            Self::Grant(grant) => format!("wallet/grant-{grant}"),
            Self::Policy => "policy".into(),
            Self::Task(task) => format!("wallet/task-{task}"),
        }
    }

    /// The file of a path below the state folder, if it is one of these.
    pub fn parse(path: &str) -> Option<Self> {
        match path.split_once('/') {
            None if path == "audit.key" => Some(Self::AuditKey),
            None if path == "bundle" => Some(Self::Bundle),
            None if path == "policy" => Some(Self::Policy),
            Some(("emergency", key)) => key.parse().ok().map(Self::Emergency),
            Some(("feed", name)) => match name.strip_suffix('+') {
                Some(feed) => feed.parse().ok().map(Self::FeedSince),
                None => name.parse().ok().map(Self::Feed),
            },
            Some(("wallet", entry)) => match entry.split_once('-') {
                Some(("grant", id)) => id.parse().ok().map(Self::Grant),
                Some(("task", id)) => id.parse().ok().map(Self::Task),
                Some(_) | None => None,
            },
            Some(_) | None => None,
        }
    }
}

/// An entry of the store. All entries go to the era that is being written; a segment may be of an older one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Entry {
    /// A record and what it changed.
    Record(StoredRecord),
    /// A closed segment.
    Segment(StoredSegment),
}

/// A record as the store holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredRecord {
    /// Its era.
    pub era: EraId,
    /// Its index in the era.
    pub index: u64,
    /// The exact bytes of the [`crate::wire::audit::Record`].
    pub bytes: Vec<u8>,
    /// Budgets as they stand after it: replayed over the anchor on recovery.
    pub budgets: Vec<Budget>,
}

/// A closed segment as the store holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredSegment {
    /// Its era.
    pub era: EraId,
    /// Its number in the era.
    pub segment: u64,
    /// Its first record's index.
    pub first_index: u64,
    /// How many records.
    pub count: u32,
    /// The chain's head after its last record.
    pub head: Hash,
    /// The bytes of the `Signed<SegmentHeader>`.
    pub header: Vec<u8>,
}

/// Uses charged to one block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budget {
    /// The block that holds `uses_max`.
    pub block: BlockId,
    /// Uses so far.
    pub used: u64,
    /// When the block has expired and the counter may go.
    pub until: Timestamp,
}

/// What must survive a damaged store. Two slots hold it, each with its checksum; the newest valid one counts.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Anchor {
    /// Rises with each write; the larger of the two slots is the newer.
    pub generation: u64,
    /// The era that was being written; none before the first start.
    pub era: Option<EraId>,
    /// The next record's index in it.
    pub next_index: u64,
    /// The chain's head before it.
    pub head: Hash,
    /// Records up to here may exist: what a damaged era lost lies below.
    pub leased_index: u64,
    /// Uses that may have been charged to any budget since: what a damaged era lost is charged.
    pub leased_uses: u64,
    /// The kernel's boot in which this was written; none before the first start.
    pub boot: Option<BootId>,
    /// CLOCK_BOOTTIME when it was written.
    pub boottime: Millis,
    /// The floor E then.
    pub floor: Timestamp,
    /// The powered-on clock P then.
    pub powered: Timestamp,
    /// P is leased up to here: where it starts in another boot.
    pub powered_lease: Timestamp,
    /// The ceiling L then, none if infinite. Counts in the same boot only.
    pub ceiling: Option<Timestamp>,
    /// What is left of the allowance for forward jumps by one role.
    pub jump_left: Millis,
    /// P at the last acknowledged round trip.
    pub synced: Timestamp,
    /// Kernel boots since then.
    pub boots: u32,
    /// The sum of all corrections of P downwards,
    pub shift: Millis,
    /// and of all upwards, in which no powered-on time went by, with what boots were charged, of which nobody knows how much did.
    pub raised: Millis,
    /// What boots were charged alone.
    pub charged: Millis,
    /// Counters of tokens that were issued up to here are lost with an anchor: their budgets count as spent.
    pub lost_until: Timestamp,
    /// The mode.
    pub mode: Mode,
    /// How far this device's place in its own history is to be believed.
    pub standing: Standing,
    /// Eras before the open one that are not released, oldest first, at most [`ERAS_MARKED_MAX`].
    pub earlier: Vec<EraMark>,
    /// The highest trust bundle that was ever in force, and its digest.
    pub bundle: (u64, Hash),
    /// The highest policy that was ever in force, and its digest.
    pub policy: (u64, Hash),
    /// Complete revocation positions.
    pub feeds: Vec<Position>,
    /// The number of the last file of each feed: additions are on disk before any position moves.
    pub feed_files: Vec<(FeedId, u64)>,
    /// How far each emergency key has come.
    pub emergencies: Vec<EmergencyMark>,
    /// The audit key, and what it has signed: no older one signs again.
    pub audit_key: KeyUse,
    /// Budgets.
    pub budgets: Vec<Budget>,
}

impl Anchor {
    /// What is known where neither slot can be used.
    pub fn lost() -> Self {
        Self { standing: Standing::Lost, ..Self::default() }
    }

    /// Every era of which something should be there, the open one last.
    pub fn marks(&self) -> impl Iterator<Item = EraMark> + '_ {
        let open = self.era.map(|era| EraMark { era, held_index: 0, signed_index: 0, next_index: self.next_index });
        self.earlier.iter().copied().chain(open)
    }
}

/// How much an audit key was used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyUse {
    /// Its epoch.
    pub epoch: u64,
    /// Segments that it has signed.
    pub segments: u64,
    /// How many segments the open era had then: those that it has more were signed since.
    pub closed: u64,
}

/// The most earlier eras that an anchor marks. Beyond it those without an allow are not marked, then the oldest: what is
/// lost of those shows at the collector, as records that the era after it has named and that never arrive.
pub const ERAS_MARKED_MAX: usize = 256;

/// How far an era reaches: what is not there of it any more is counted as lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EraMark {
    /// The era.
    pub era: EraId,
    /// The collector has every record below this.
    pub held_index: u64,
    /// Its segments on disk cover every record below this. Of an era that was taken for damaged that is less than all: what
    /// follows is signed only as it is sent.
    pub signed_index: u64,
    /// The next record's index.
    pub next_index: u64,
}

/// How far a device's place in its own history is to be believed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Standing {
    /// It is known.
    #[default]
    Known,
    /// The collector holds more than was ever written here. Locked, until it is enrolled again.
    Contradicted {
        /// The era's number.
        era: u64,
        /// The collector holds every segment below this.
        segment: u64,
    },
    /// Both slots of the anchor were lost. Locked, until an acknowledged round trip says where the collector stands.
    Lost,
    /// Enrolled again after one of these. What was charged is unknown still, and the next acknowledged round trip may
    /// name later eras than any here.
    Renewed,
}

/// What may leave once the batch is durable.
#[derive(Debug, Default)]
pub struct Outgoing {
    /// Replies to callers.
    pub replies: Vec<Answer>,
    /// Commands to the link.
    pub link: Vec<LinkCommand>,
    /// Segments to load for sending. Each comes back as an input.
    pub loads: Vec<(EraId, u64)>,
    /// Segments that could not be loaded: what is left of them is to be gathered. Each comes back as an input.
    pub holes: Vec<Hole>,
    /// Pages of the trail that somebody waits for: what is known of its eras. The store fills in the rest.
    pub pages: Vec<(RequestId, TrailAsk, TrailReply)>,
    /// What tasks hang on, that is to be watched from now on, or no longer.
    pub ties: Vec<TieCommand>,
    /// Log events.
    pub logs: Vec<LogEvent>,
}

/// An allow that waited for its record for longer is not given: it was judged by a time that is past. A device that was
/// suspended, or a disk that hung, between the two would stretch the life of a token by as much.
pub const ALLOW_WAIT_MAX: Millis = Millis(2000);

/// A reply, which can only be had by saying what time it is.
#[derive(Debug, Clone)]
pub struct Answer {
    id: RequestId,
    reply: Reply,
    /// CLOCK_BOOTTIME at which it was made.
    made: Millis,
}

impl Answer {
    /// The reply to a request, as it may be given at `now` by CLOCK_BOOTTIME. The record of an allow that came too late
    /// stands, and so does the use that it took: who asks again is judged again.
    pub fn at(self, now: Millis) -> (RequestId, Reply) {
        let waited = now.0.saturating_sub(self.made.0);
        let allows = matches!(&self.reply, Reply::Decision(decision) if decision.decision == Verdict::Allow);
        let late = waited > ALLOW_WAIT_MAX.0 && !crate::mutant::active(crate::mutant::Mutant::LateAllowGiven);
        let reply = if allows && late {
            let detail = format!(
                "it took {waited} ms until the decision was recorded, and what was true then may be no more: ask again"
            );
            Reply::Problem(Problem::new(ProblemCode::AuditUnavailable, detail))
        } else {
            self.reply
        };
        (self.id, reply)
    }
}

impl Outgoing {
    pub(super) fn reply(&mut self, id: RequestId, reply: Reply, made: Millis) {
        self.replies.push(Answer { id, reply, made });
    }

    /// Whether nothing is to be sent.
    pub fn is_empty(&self) -> bool {
        let loads = self.loads.is_empty() && self.holes.is_empty() && self.ties.is_empty();
        self.replies.is_empty() && self.link.is_empty() && loads && self.pages.is_empty() && self.logs.is_empty()
    }
}

/// What the link is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkCommand {
    /// Close whatever is open and say no more about it.
    Close,
    /// Open a fresh connection with this last will and subscribe to these filters, in this order.
    Connect {
        /// MQTT filters.
        filters: Vec<String>,
        /// Retained last will; the fleet's service has none.
        will: Option<Publish>,
    },
    /// Publish, QoS 1.
    Publish(Publish),
    /// Beside the filters of the connection, read what the broker keeps at these places, and leave those.
    Read {
        /// Subscribed to from now on.
        places: Vec<Topic>,
        /// No longer subscribed to.
        left: Vec<Topic>,
    },
}

/// A message to the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publish {
    /// Where.
    pub topic: Topic,
    /// What.
    pub payload: Vec<u8>,
}

/// Something that the log tells. The shell writes it as one JSON line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogEvent {
    /// `audit.released`: the collector holds every segment below this one.
    AuditReleased {
        /// The era's number.
        era: u64,
        /// The last segment that is acknowledged.
        segment: u64,
    },
    /// `audit.rewound`: the collector has lost what it had acknowledged; it is sent again from this segment on.
    AuditRewound {
        /// The era's number.
        era: u64,
        /// The segment.
        segment: u64,
    },
    /// `audit.shed`: denials were given up for want of room, and counted in gap records.
    AuditShed {
        /// The era's number.
        era: u64,
        /// How many records.
        records: u64,
    },
    /// `audit.sent`.
    AuditSent {
        /// The era's number.
        era: u64,
        /// The segment.
        segment: u64,
    },
    /// `bundle.applied`.
    BundleApplied {
        /// Its version.
        version: u64,
    },
    /// `emergency.applied`: what an operator revoked with a key of his own is in force.
    EmergencyApplied {
        /// The key.
        key: KeyId,
        /// Whose it is.
        operator: String,
        /// The statement's counter.
        counter: u64,
        /// Rules in it.
        rules: u64,
    },
    /// `feed.applied`: a complete list is in force.
    FeedApplied {
        /// The feed.
        feed: FeedId,
        /// Its position.
        seq: u64,
    },
    /// `grants.applied`.
    GrantsApplied {
        /// How many are in the wallet.
        count: u64,
    },
    /// `link.down`.
    LinkDown {
        /// Why.
        reason: String,
    },
    /// `link.up`: the broker accepted connection and subscriptions.
    LinkUp,
    /// `message.refused`.
    MessageRefused {
        /// Where it came from.
        topic: String,
        /// Why it was refused.
        reason: String,
    },
    /// `mode.changed`.
    ModeChanged {
        /// The mode that was.
        from: Mode,
        /// The mode that is.
        to: Mode,
        /// Why.
        reason: String,
    },
    /// `policy.applied`.
    PolicyApplied {
        /// Its version.
        version: u64,
    },
    /// `time.imported`: somebody brought signed time.
    TimeImported {
        /// The floor E after it.
        floor: Timestamp,
    },
    /// `task.ended`.
    TaskEnded {
        /// The task.
        task: TaskId,
        /// How: `expired`, `finished`, `gone`, `lost` or `revoked`.
        how: &'static str,
    },
    /// `store.recovered`: what the start found of older eras.
    StoreRecovered {
        /// The era's number.
        era: u64,
        /// What was found.
        detail: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::request::DecisionReply;
    use crate::agent::rig::{right, Rig};

    #[test]
    fn an_allow_that_its_record_kept_waiting_is_not_given() {
        let mut rig = Rig::new();
        let task = rig.begin(vec![right("modbus/*", "read")], None);
        let allow = rig.authorize(&task.token, "read", "modbus/pump1/speed");
        let deny = rig.authorize("nonsense", "read", "modbus/pump1/speed");
        assert_eq!((allow.decision, deny.decision), (Verdict::Allow, Verdict::Deny));
        let made = Millis(70_000);
        let given = |reply: &DecisionReply, waited: u64| {
            let answer = Answer { id: RequestId(3), reply: Reply::Decision(reply.clone()), made };
            let (id, reply) = answer.at(Millis(made.0 + waited));
            assert_eq!(id, RequestId(3));
            match reply {
                Reply::Decision(_) => true,
                Reply::Problem(problem) => problem.code != ProblemCode::AuditUnavailable,
                other => panic!("{other:?}"),
            }
        };
        for (reply, waited, due) in [
            (&allow, 0, true),
            (&allow, 2000, true),
            (&allow, 2001, false),
            (&allow, 400_000, false),
            (&deny, 400_000, true),
        ] {
            assert_eq!(given(reply, waited), due, "{:?} after {waited} ms", reply.decision);
        }
    }
}
